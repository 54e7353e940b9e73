use wgloss::softmax::{self, Options};
use wgloss::verify::Fill;
use wgloss::{Gpu, Tuning, reference};

use crate::golden::{self, Case, Found, Kind, back, rows_of};
use crate::harness::*;

const OPTIONS: [Options; 3] = [
    Options { temperature: 1.0, log: false },
    Options { temperature: 1.0, log: true },
    Options { temperature: 0.3, log: true },
];

/// y and dx.
pub fn on_device(gpu: &Gpu, x: &[f32], dy: &[f32], cols: usize, options: Options) -> [Vec<f64>; 2] {
    let rows = rows_in(x, cols);
    let (x, dy) = (input(gpu, rows, cols, x), input(gpu, rows, cols, dy));
    let (y, dx) = (output(gpu, rows, cols), output(gpu, rows, cols));
    let record = gpu.run(|recorder| {
        softmax::forward(recorder, x.view()?, y.view()?, options)?;
        softmax::backward(recorder, y.view()?, dy.view()?, dx.view()?, options)
    });
    record.unwrap();
    [read(gpu, &y), read(gpu, &dx)]
}

pub fn by_reference(x: &[f32], dy: &[f32], cols: usize, options: Options) -> [Vec<f64>; 2] {
    let y = reference::softmax::forward(&wide(x), cols, options);
    let dx = reference::softmax::backward(&y, &wide(dy), cols, options);
    [y, dx]
}

/// As kernels are built for a GPU, with nothing of a temperature of 1, where differences overflow too.
#[test]
fn as_on_a_gpu() {
    let Some(gpu) = gpu() else { return };
    let gpu = gpu.with_tuning(Tuning { workgroup: 32, widest: 32, ..Tuning::GPU });
    let x = [&Fill::Small.matrix(2, 100, 43)[..], &[-3e38, 3e38].repeat(50)].concat();
    let y = softmax::compute(&gpu, &x, 100, Options::default()).unwrap();
    assert_close(&wide(&y), &reference::softmax::forward(&wide(&x), 100, Options::default()), 2e-6);
}

#[test]
fn verified() {
    verifies("softmax");
}

fn outputs(case: &Case, log: bool, compute: impl Fn(&[f32], &[f32], usize, Options) -> [Vec<f64>; 2]) -> Found {
    let options = Options { temperature: case.f64("temperature").unwrap() as f32, log };
    let dim = case.int("dim").unwrap();
    let (x, dy) = (case.input("x"), case.input("gy"));
    let ((_, cols, rows), (_, _, dy)) = (rows_of(&x.shape, dim, &x.data), rows_of(&x.shape, dim, &dy.data));
    let [y, dx] = compute(&rows, &dy, cols, options).map(|found| back(&x.shape, dim, &found));
    Ok(vec![("y", Kind::Value, y), ("x", Kind::Grad, dx)])
}

#[test]
fn golden() {
    let Some(gpu) = gpu() else { return };
    for (op, log) in [("softmax", false), ("log_softmax", true)] {
        golden::grade(op, |case| outputs(case, log, |x, dy, cols, options| on_device(gpu, x, dy, cols, options)));
    }
}

#[test]
fn golden_reference() {
    for (op, log) in [("softmax", false), ("log_softmax", true)] {
        golden::grade_reference(op, 1e-6, |case| outputs(case, log, by_reference));
    }
}

#[test]
fn reference_gradient() {
    let (x, dy) = (wide(&Fill::Small.matrix(3, 5, 1)), wide(&Fill::Small.matrix(3, 5, 2)));
    for options in OPTIONS {
        let forward = |x: &[f64]| reference::softmax::forward(x, 5, options);
        let dx = reference::softmax::backward(&forward(&x), &dy, 5, options);
        assert_gradient(&x, &dx, |x| dot(&forward(x), &dy));
    }
}

/// Rows of one lane, of some, of a whole workgroup.
const WIDTHS: [usize; 3] = [4, 40, 700];

#[test]
fn special_values() {
    let Some(gpu) = gpu() else { return };
    for cols in WIDTHS {
        for options in OPTIONS {
            // Rows: harmless, masked but for two, masked, NaN, +inf, harmless.
            let (mut x, dy) = (Fill::Small.matrix(6, cols, 3), Fill::Small.matrix(6, cols, 4));
            x[cols..3 * cols].fill(f32::NEG_INFINITY);
            (x[cols + 1], x[2 * cols - 1]) = (3.0, 3.0);
            x[3 * cols + 2] = f32::NAN;
            x[4 * cols + 1] = f32::INFINITY;
            let [y, dx] = on_device(gpu, &x, &dy, cols, options);
            let row = |of: &[f64], row: usize| of[row * cols..][..cols].to_vec();
            let (of_mask, of_half) = if options.log { (f64::NEG_INFINITY, 0.5f64.ln()) } else { (0.0, 0.5) };
            for j in 0..cols {
                let open = j == 1 || j == cols - 1;
                if open {
                    assert_close(&[row(&y, 1)[j]], &[of_half], 1e-6);
                } else {
                    assert_eq!(row(&y, 1)[j], of_mask);
                    let gradient =
                        if options.log { f64::from(dy[cols + j]) / f64::from(options.temperature) } else { 0.0 };
                    assert_close(&[row(&dx, 1)[j]], &[gradient], 1e-6);
                }
            }
            assert!(row(&y, 2).iter().all(|&y| y == of_mask));
            if !options.log {
                assert!(row(&dx, 2).iter().all(|&dx| dx == 0.0));
            }
            for bad in [3, 4] {
                assert_nan(&row(&y, bad));
                assert_nan(&row(&dx, bad));
            }
            // The rows beside a bad one are what they are without it.
            for good in [0, 5] {
                let at = good * cols..(good + 1) * cols;
                let alone = on_device(gpu, &x[at.clone()], &dy[at], cols, options);
                assert_close(&row(&y, good), &alone[0], 1e-6);
                assert_close(&row(&dx, good), &alone[1], 1e-5);
            }
        }
    }
}

#[test]
fn finite_extremes() {
    let Some(gpu) = gpu() else { return };
    let most = f32::MAX;
    for (temperature, x) in [(1e30, [most, -most, 0.0]), (1e30, [1e30, 0.0, -1e30]), (1e-30, [0.0, 1e-30, -1e-30])] {
        for log in [false, true] {
            let options = Options { temperature, log };
            let [y, _] = on_device(gpu, &x, &[1.0, 2.0, 3.0], 3, options);
            let [want, _] = by_reference(&x, &[1.0, 2.0, 3.0], 3, options);
            let want: Vec<f64> = want.into_iter().map(|y| if y < 1e-38 && !log { 0.0 } else { y }).collect();
            assert_close(&y, &want, 2e-6);
        }
    }
    // Gaps past the largest f32, where 1/T in two parts is inf - inf (on SwiftShader; llvmpipe 25.0.7 adds the parts up first).
    for temperature in [3e-30, 7e-30, 1e-29] {
        let [y, _] = on_device(gpu, &[0.0, 1e20, -1e20], &[0.0; 3], 3, Options { temperature, log: true });
        assert_eq!(y, [f64::NEG_INFINITY, 0.0, f64::NEG_INFINITY]);
    }
    let [y, _] = on_device(gpu, &[most; 5], &[0.0; 5], 5, Options { temperature: 0.01, log: false });
    assert_close(&y, &[0.2; 5], 1e-7);
    // Gradients of either sign, whose sums and differences leave the range, beside a probability of 0.
    let x = [0.0, 0.0, f32::NEG_INFINITY].repeat(8);
    let dy: Vec<f32> = (0..24).map(|at| if ((at / 3) >> (at % 3)) & 1 == 0 { most } else { -most }).collect();
    for log in [false, true] {
        let [_, dx] = on_device(gpu, &x, &dy, 3, Options { log, ..Default::default() });
        let (of_mask, want) = (dx.iter().skip(2).step_by(3), dy.iter().skip(2).step_by(3));
        assert!(dx.iter().all(|dx| !dx.is_nan()), "{dx:?}");
        assert!(of_mask.zip(want).all(|(&dx, &dy)| dx == if log { dy.into() } else { 0.0 }), "{dx:?}");
    }
    // Sums that leave the range on both sides and come back.
    let log = Options { log: true, ..Default::default() };
    for cols in [8, 300, 5000, 70_000] {
        let dy: Vec<f32> = (0..cols).map(|at| if at < cols / 2 { most } else { -0.75 * most }).collect();
        let x = Fill::Small.matrix(1, cols, 5);
        let [_, dx] = on_device(gpu, &x, &dy, cols, log);
        let [_, want] = by_reference(&x, &dy, cols, log);
        for (at, (&dx, &want)) in dx.iter().zip(&want).enumerate() {
            let is_near = (dx - want).abs() <= 1e-5 * f64::from(most);
            assert!(is_near || (want.abs() > most.into() && dx == f64::INFINITY.copysign(want)), "{at}: {dx}, {want}");
        }
    }
}

#[test]
fn empty() {
    let Some(gpu) = gpu() else { return };
    for options in OPTIONS {
        for cols in [0, 3] {
            assert_eq!(on_device(gpu, &[], &[], cols, options), [const { Vec::<f64>::new() }; 2]);
        }
    }
}

#[test]
fn refusals() {
    let Some(gpu) = gpu() else { return };
    let (x, turned) = (input(gpu, 2, 3, &[0.0; 6]), input(gpu, 3, 2, &[0.0; 6]));
    let (y, wrong) = (output(gpu, 2, 3), output(gpu, 3, 2));
    let default = Options::default();
    let forward = |y: &_, options| refused(gpu, &[y], |r| softmax::forward(r, x.view()?, y.view()?, options));
    assert_eq!(forward(&wrong, default), shape("softmax", "y", "2 x 3", "3 x 2"));
    for (temperature, found) in [(0.0, "0"), (-1.0, "-1"), (f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        let want = option("softmax", "temperature", "between 1e-30 and 1e30", found);
        let options = Options { temperature, ..default };
        assert_eq!(forward(&y, options), want);
        assert_eq!(refused(gpu, &[&y], |r| softmax::backward(r, x.view()?, x.view()?, y.view()?, options)), want);
    }
    for temperature in [0.9e-30, 1.1e30] {
        assert!(matches!(forward(&y, Options { temperature, ..default }), wgloss::Error::Option { .. }));
    }
    let error = refused(gpu, &[&y], |r| softmax::backward(r, x.view()?, turned.view()?, y.view()?, default));
    assert_eq!(error, shape("softmax", "dy", "2 x 3", "3 x 2"));
    let error = refused(gpu, &[&wrong], |r| softmax::backward(r, x.view()?, x.view()?, wrong.view()?, default));
    assert_eq!(error, shape("softmax", "dx", "2 x 3", "3 x 2"));
    let longer = output(gpu, 3, 3);
    let (first, last) = (longer.view().unwrap().row_range(0..2), longer.view().unwrap().row_range(1..3));
    assert_eq!(refused(gpu, &[&longer], |r| softmax::forward(r, first, last, default)), overlap("softmax", "y", "x"));
    let error = softmax::compute(gpu, &[0.0; 5], 2, default).unwrap_err();
    assert_eq!(error, shape("softmax", "x", "whole rows of 2", "5 elements"));
}

#[test]
fn in_place() {
    let Some(gpu) = gpu() else { return };
    for cols in [3, 700] {
        let (data, slope) = (Fill::Small.matrix(5, cols, 1), Fill::Small.matrix(5, cols, 2));
        let options = Options::default();
        let [want, want_dx] = on_device(gpu, &data, &slope, cols, options);
        let (y, dy) = (input(gpu, 5, cols, &data), input(gpu, 5, cols, &slope));
        let record = gpu.run(|r| {
            softmax::forward(r, y.view()?, y.view()?, options)?;
            softmax::backward(r, y.view()?, dy.view()?, dy.view()?, options)
        });
        record.unwrap();
        assert_eq!((read(gpu, &y), read(gpu, &dy)), (want, want_dx));
    }
}

#[test]
fn same_bits() {
    let Some(gpu) = gpu() else { return };
    let (x, dy) = (Fill::Wide.matrix(7, 700, 5), Fill::Small.matrix(7, 700, 6));
    assert_repeats(|| on_device(gpu, &x, &dy, 700, Options::default()).into());
}
