use wgloss::normalize::{self, Options};
use wgloss::verify::Fill;
use wgloss::{Gpu, reference};

use crate::golden::{self, Case, Found, Kind, back, rows_of};
use crate::harness::*;

/// y and dx.
pub fn on_device(gpu: &Gpu, x: &[f32], dy: &[f32], cols: usize, options: Options) -> [Vec<f64>; 2] {
    let rows = rows_in(x, cols);
    let (x, dy) = (input(gpu, rows, cols, x), input(gpu, rows, cols, dy));
    let (y, dx) = (output(gpu, rows, cols), output(gpu, rows, cols));
    let record = gpu.run(|recorder| {
        normalize::forward(recorder, x.view()?, y.view()?, options)?;
        normalize::backward(recorder, x.view()?, dy.view()?, dx.view()?, options)
    });
    record.unwrap();
    [read(gpu, &y), read(gpu, &dx)]
}

pub fn by_reference(x: &[f32], dy: &[f32], cols: usize, options: Options) -> [Vec<f64>; 2] {
    let y = reference::normalize::forward(&wide(x), cols, options);
    let dx = reference::normalize::backward(&wide(x), &wide(dy), cols, options);
    [y, dx]
}

#[test]
fn verified() {
    verifies("normalize");
}

fn outputs(case: &Case, compute: impl Fn(&[f32], &[f32], usize, Options) -> [Vec<f64>; 2]) -> Found {
    let options = Options { eps: case.f64("eps").unwrap() as f32 };
    let dim = case.int("dim").unwrap();
    let (x, dy) = (case.input("x"), case.input("gy"));
    let ((_, cols, rows), (_, _, dy)) = (rows_of(&x.shape, dim, &x.data), rows_of(&x.shape, dim, &dy.data));
    let [y, dx] = compute(&rows, &dy, cols, options).map(|found| back(&x.shape, dim, &found));
    Ok(vec![("y", Kind::Value, y), ("x", Kind::Grad, dx)])
}

#[test]
fn golden() {
    let Some(gpu) = gpu() else { return };
    golden::grade("l2_normalize", |case| outputs(case, |x, dy, cols, options| on_device(gpu, x, dy, cols, options)));
}

/// The option is f32, the bank's eps f64: 2⁻²⁸ of it apart.
#[test]
fn golden_reference() {
    golden::grade_reference("l2_normalize", 1e-3, |case| outputs(case, by_reference));
}

#[test]
fn reference_gradient() {
    let (x, dy) = (wide(&Fill::Small.matrix(3, 5, 1)), wide(&Fill::Small.matrix(3, 5, 2)));
    for eps in [1e-12, 100.0] {
        let dx = reference::normalize::backward(&x, &dy, 5, Options { eps });
        assert_gradient(&x, &dx, |x| dot(&reference::normalize::forward(x, 5, Options { eps }), &dy));
    }
}

#[test]
fn special_values() {
    let Some(gpu) = gpu() else { return };
    let eps = 1e-12f32;
    // Rows of one lane, of some, of a whole workgroup.
    for cols in [4, 40, 700] {
        // Rows: harmless, zeros, NaN, an infinity, harmless.
        let (mut x, dy) = (Fill::Small.matrix(5, cols, 3), Fill::Small.matrix(5, cols, 4));
        x[cols..2 * cols].fill(0.0);
        x[2 * cols + 1] = f32::NAN;
        x[3 * cols + 2] = f32::NEG_INFINITY;
        let [y, dx] = on_device(gpu, &x, &dy, cols, Options { eps });
        let at = |row: usize| row * cols..(row + 1) * cols;
        assert!(y[at(1)].iter().all(|&y| y == 0.0));
        let by_eps: Vec<f64> = dy[at(1)].iter().map(|&dy| f64::from(dy) / f64::from(eps)).collect();
        assert_close(&dx[at(1)], &by_eps, 1e-6);
        assert_nan(&y[at(2)]);
        assert_nan(&dx[at(2)]);
        for (j, &y) in y[at(3)].iter().enumerate() {
            assert!(if j == 2 { y.is_nan() } else { y == 0.0 }, "an infinity in column 2, [{j}]: {y}");
        }
        assert_nan(&dx[at(3)]);
        for good in [0, 4] {
            let alone = on_device(gpu, &x[at(good)], &dy[at(good)], cols, Options { eps });
            assert_eq!([&y[at(good)], &dx[at(good)]], [&alone[0], &alone[1]]);
        }
    }
}

/// Neither a square nor a length may leave the range of f32 while the quotient is inside it.
#[test]
fn lengths_beyond_the_range() {
    let Some(gpu) = gpu() else { return };
    let tiny = Options { eps: f32::MIN_POSITIVE };
    for peak in [f32::MAX, 3e38, 1e20, 1e-20, 1e-30, 1e-36] {
        for cols in [2, 5, 40] {
            let x: Vec<f32> = (0..cols).map(|j| if j % 3 == 2 { -0.5 * peak } else { peak }).collect();
            let [y, _] = on_device(gpu, &x, &x, cols, tiny);
            assert_close(&y, &reference::normalize::forward(&wide(&x), cols, tiny), 5e-7);
        }
    }
    let huge = Options { eps: 1e38 };
    let [y, _] = on_device(gpu, &[3e37, 4e37, 1e-30, 0.0, 2e38, 2e38], &[0.0; 6], 2, huge);
    let half = 0.5f64.sqrt();
    assert_close(&y, &[0.3, 0.4, 0.0, 0.0, half, half], 5e-7);
}

#[test]
fn scaling_by_a_power_of_two_changes_nothing() {
    let Some(gpu) = gpu() else { return };
    let x = Fill::Small.matrix(5, 33, 5);
    let [want, _] = on_device(gpu, &x, &x, 33, Options::default());
    for power in [-20, 60, 100] {
        let scaled: Vec<f32> = x.iter().map(|x| x * 2f32.powi(power)).collect();
        let [y, _] = on_device(gpu, &scaled, &x, 33, Options::default());
        assert_eq!(y, want);
    }
}

#[test]
fn empty() {
    let Some(gpu) = gpu() else { return };
    for cols in [0, 3] {
        assert_eq!(on_device(gpu, &[], &[], cols, Options::default()), [const { Vec::<f64>::new() }; 2]);
    }
}

#[test]
fn refusals() {
    let Some(gpu) = gpu() else { return };
    let (x, turned) = (input(gpu, 2, 3, &[0.0; 6]), input(gpu, 3, 2, &[0.0; 6]));
    let (y, wrong) = (output(gpu, 2, 3), output(gpu, 3, 2));
    let default = Options::default();
    let error = refused(gpu, &[&wrong], |r| normalize::forward(r, x.view()?, wrong.view()?, default));
    assert_eq!(error, shape("normalize", "y", "2 x 3", "3 x 2"));
    let error = refused(gpu, &[&y], |r| normalize::backward(r, x.view()?, turned.view()?, y.view()?, default));
    assert_eq!(error, shape("normalize", "dy", "2 x 3", "3 x 2"));
    let error = refused(gpu, &[&wrong], |r| normalize::backward(r, x.view()?, x.view()?, wrong.view()?, default));
    assert_eq!(error, shape("normalize", "dx", "2 x 3", "3 x 2"));
    for (eps, found) in [(0.0, "0"), (-1.0, "-1"), (f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        let want = option("normalize", "eps", "a normal number above 0", found);
        assert_eq!(refused(gpu, &[&y], |r| normalize::forward(r, x.view()?, y.view()?, Options { eps })), want);
        let backward =
            |r: &mut wgloss::Recorder| normalize::backward(r, x.view()?, x.view()?, y.view()?, Options { eps });
        assert_eq!(refused(gpu, &[&y], backward), want);
    }
    let longer = output(gpu, 3, 3);
    let (first, last) = (longer.view().unwrap().row_range(0..2), longer.view().unwrap().row_range(1..3));
    let error = refused(gpu, &[&longer], |r| normalize::forward(r, first, last, default));
    assert_eq!(error, overlap("normalize", "y", "x"));
    let error = refused(gpu, &[&longer], |r| normalize::backward(r, x.view()?, first, last, default));
    assert_eq!(error, overlap("normalize", "dx", "dy"));
    let error = normalize::compute(gpu, &[0.0; 5], 2, default).unwrap_err();
    assert_eq!(error, shape("normalize", "x", "whole rows of 2", "5 elements"));
}

#[test]
fn in_place() {
    let Some(gpu) = gpu() else { return };
    for cols in [3, 700] {
        let (data, slope) = (Fill::Small.matrix(5, cols, 1), Fill::Small.matrix(5, cols, 2));
        let options = Options::default();
        let [want, want_dx] = on_device(gpu, &data, &slope, cols, options);
        let (x, y, dy) = (input(gpu, 5, cols, &data), input(gpu, 5, cols, &data), input(gpu, 5, cols, &slope));
        let record = gpu.run(|r| {
            normalize::forward(r, y.view()?, y.view()?, options)?;
            normalize::backward(r, x.view()?, dy.view()?, dy.view()?, options)
        });
        record.unwrap();
        assert_eq!((read(gpu, &y), read(gpu, &dy)), (want, want_dx));
    }
}

#[test]
fn same_bits() {
    let Some(gpu) = gpu() else { return };
    let (x, dy) = (Fill::Wide.matrix(7, 700, 6), Fill::Small.matrix(7, 700, 7));
    assert_repeats(|| on_device(gpu, &x, &dy, 700, Options::default()).into());
}
