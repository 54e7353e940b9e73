use wgloss::reference;
use wgloss::sigmoid::Options;
use wgloss::verify::Fill;

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
