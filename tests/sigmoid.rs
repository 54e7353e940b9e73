use wgloss::sigmoid::{self, Options};
use wgloss::verify::Fill;
use wgloss::{Gpu, reference};

use crate::golden::{self, Case, Found, Kind, rows_of};
use crate::harness::*;

pub fn by_reference(x: &[f32], dy: &[f32], _cols: usize, options: Options) -> [Vec<f64>; 2] {
    let y = reference::sigmoid::forward(&wide(x), options);
    let dx = reference::sigmoid::backward(&y, &wide(dy), options);
    [y, dx]
}

fn outputs(case: &Case, log: bool, compute: impl Fn(&[f32], &[f32], usize, Options) -> [Vec<f64>; 2]) -> Found {
    let (x, dy) = (case.input("x"), case.input("gy"));
    let (_, cols, _) = rows_of(&x.shape, -1, &x.data);
    let [y, dx] = compute(&x.data, &dy.data, cols, Options { log });
    Ok(vec![("y", Kind::Value, y), ("x", Kind::Grad, dx)])
}

#[test]
fn golden_reference() {
    for (op, log) in [("sigmoid", false), ("log_sigmoid", true)] {
        golden::grade_reference(op, 1e-6, |case| outputs(case, log, by_reference));
    }
}

#[test]
fn reference_gradient() {
    let (x, dy) = (wide(&Fill::Sorted.matrix(3, 5, 1)), wide(&Fill::Small.matrix(3, 5, 2)));
    for log in [false, true] {
        let forward = |x: &[f64]| reference::sigmoid::forward(x, Options { log });
        let dx = reference::sigmoid::backward(&forward(&x), &dy, Options { log });
        assert_gradient(&x, &dx, |x| dot(&forward(x), &dy));
    }
}

#[test]
fn reference_special_values() {
    let x = [f32::INFINITY, f32::NEG_INFINITY, 0.0, f32::MAX, -f32::MAX];
    for (log, want, slope) in [
        (false, [1.0, 0.0, 0.5, 1.0, 0.0], [0.0, 0.0, 0.25, 0.0, 0.0]),
        (true, [0.0, f64::NEG_INFINITY, 0.5f64.ln(), 0.0, -f64::from(f32::MAX)], [0.0, 1.0, 0.5, 0.0, 1.0]),
    ] {
        let [y, dx] = by_reference(&x, &[1.0; 5], 5, Options { log });
        assert_close(&y, &want, 1e-15);
        assert_close(&dx, &slope, 1e-15);
        assert_nan(&by_reference(&[f32::NAN], &[1.0], 1, Options { log }).concat());
    }
}

/// y and dx, the latter over dy.
pub fn on_device(gpu: &Gpu, x: &[f32], dy: &[f32], cols: usize, options: Options) -> [Vec<f64>; 2] {
    let rows = rows_in(x, cols);
    let (x, dy, y) = (input(gpu, rows, cols, x), input(gpu, rows, cols, dy), output(gpu, rows, cols));
    let record = gpu.run(|recorder| {
        sigmoid::forward(recorder, x.view()?, y.view()?, options)?;
        sigmoid::backward(recorder, y.view()?, dy.view()?, dy.view()?, options)
    });
    record.unwrap();
    [read(gpu, &y), read(gpu, &dy)]
}

#[test]
fn verified() {
    verifies("sigmoid");
}

#[test]
fn golden() {
    let Some(gpu) = gpu() else { return };
    for (op, log) in [("sigmoid", false), ("log_sigmoid", true)] {
        golden::grade(op, |case| outputs(case, log, |x, dy, cols, options| on_device(gpu, x, dy, cols, options)));
    }
}

#[test]
fn special_values() {
    let Some(gpu) = gpu() else { return };
    let x = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MAX, -f32::MAX, 0.0, -80.0];
    for log in [false, true] {
        let [y, dx] = on_device(gpu, &x, &[1.0; 7], 7, Options { log });
        let [want, want_dx] = by_reference(&x, &[1.0; 7], 7, Options { log });
        assert_close(&y, &want, 3e-7);
        assert_close(&dx, &want_dx, 3e-7);
    }
}

/// Into both tails, where 1 - y or e^y - 1 by subtraction would have no digits left.
#[test]
fn relative_accuracy_in_the_tails() {
    let Some(gpu) = gpu() else { return };
    let x: Vec<f32> = (-870..870).map(|tenth| tenth as f32 * 0.1).collect();
    for log in [false, true] {
        let [y, _] = on_device(gpu, &x, &x, x.len(), Options { log });
        assert_close(&y, &reference::sigmoid::forward(&wide(&x), Options { log }), 4e-7);
    }
    let y = [-1e-30f32, -1e-10, -1e-3, -0.7, -1.0, -20.0];
    let (held, ones) = (input(gpu, 1, 6, &y), input(gpu, 1, 6, &[1.0f32; 6]));
    let options = Options { log: true };
    gpu.run(|r| sigmoid::backward(r, held.view()?, ones.view()?, ones.view()?, options)).unwrap();
    assert_close(&read(gpu, &ones), &wide(&y).iter().map(|y| -y.exp_m1()).collect::<Vec<_>>(), 4e-7);
}

#[test]
fn refusals() {
    let Some(gpu) = gpu() else { return };
    let (x, turned, default) = (input(gpu, 2, 3, &[0.0; 6]), output(gpu, 3, 2), Options::default());
    let error = refused(gpu, &[&turned], |r| sigmoid::forward(r, x.view()?, turned.view()?, default));
    assert_eq!(error, shape("sigmoid", "y", "2 x 3", "3 x 2"));
    let error = refused(gpu, &[&turned], |r| sigmoid::backward(r, x.view()?, turned.view()?, x.view()?, default));
    assert_eq!(error, shape("sigmoid", "dy", "2 x 3", "3 x 2"));
    let error = refused(gpu, &[&turned], |r| sigmoid::backward(r, x.view()?, x.view()?, turned.view()?, default));
    assert_eq!(error, shape("sigmoid", "dx", "2 x 3", "3 x 2"));
}

#[test]
fn overlaps() {
    let Some(gpu) = gpu() else { return };
    let (all, other, options) = (output(gpu, 3, 3), input(gpu, 2, 3, &[0.0; 6]), Options::default());
    let (first, last, free) = (view(&all).row_range(0..2), view(&all).row_range(1..3), view(&other));
    let backward = |y, dy, dx| refused(gpu, &[&all], |r| sigmoid::backward(r, y, dy, dx, options));
    let error = refused(gpu, &[&all], |r| sigmoid::forward(r, first, last, options));
    assert_eq!(error, overlap("sigmoid", "y", "x"));
    assert_eq!(backward(free, first, last), overlap("sigmoid", "dx", "dy"));
    assert_eq!(backward(first, free, first), overlap("sigmoid", "dx", "y"));
}

#[test]
fn empty() {
    let Some(gpu) = gpu() else { return };
    for cols in [0, 3] {
        assert_eq!(on_device(gpu, &[], &[], cols, Options::default()), [const { Vec::<f64>::new() }; 2]);
    }
}

#[test]
fn same_bits() {
    let Some(gpu) = gpu() else { return };
    let (x, dy) = (Fill::Small.matrix(7, 333, 3), Fill::Small.matrix(7, 333, 4));
    assert_repeats(|| on_device(gpu, &x, &dy, 333, Options::default()).into());
}
