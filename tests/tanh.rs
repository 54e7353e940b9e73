use wgloss::verify::Fill;
use wgloss::{Gpu, reference, tanh};

use crate::golden::{self, Case, Found, Kind, rows_of};
use crate::harness::*;

/// y and dx.
pub fn on_device(gpu: &Gpu, x: &[f32], dy: &[f32], cols: usize) -> [Vec<f64>; 2] {
    let rows = rows_in(x, cols);
    let (x, dy) = (input(gpu, rows, cols, x), input(gpu, rows, cols, dy));
    let (y, dx) = (output(gpu, rows, cols), output(gpu, rows, cols));
    let record = gpu.run(|recorder| {
        tanh::forward(recorder, x.view()?, y.view()?)?;
        tanh::backward(recorder, y.view()?, dy.view()?, dx.view()?)
    });
    record.unwrap();
    [read(gpu, &y), read(gpu, &dx)]
}

pub fn by_reference(x: &[f32], dy: &[f32], _cols: usize) -> [Vec<f64>; 2] {
    let y = reference::tanh::forward(&wide(x));
    let dx = reference::tanh::backward(&y, &wide(dy));
    [y, dx]
}

#[test]
fn verified() {
    verifies("tanh");
}

fn outputs(case: &Case, compute: impl Fn(&[f32], &[f32], usize) -> [Vec<f64>; 2]) -> Found {
    let (x, dy) = (case.input("x"), case.input("gy"));
    let (_, cols, _) = rows_of(&x.shape, -1, &x.data);
    let [y, dx] = compute(&x.data, &dy.data, cols);
    Ok(vec![("y", Kind::Value, y), ("x", Kind::Grad, dx)])
}

#[test]
fn golden() {
    let Some(gpu) = gpu() else { return };
    golden::grade("tanh", |case| outputs(case, |x, dy, cols| on_device(gpu, x, dy, cols)));
}

#[test]
fn golden_reference() {
    golden::grade_reference("tanh", 1e-6, |case| outputs(case, by_reference));
}

#[test]
fn reference_gradient() {
    let (x, dy) = (wide(&Fill::Sorted.matrix(3, 5, 1)), wide(&Fill::Small.matrix(3, 5, 2)));
    let dx = reference::tanh::backward(&reference::tanh::forward(&x), &dy);
    assert_gradient(&x, &dx, |x| dot(&reference::tanh::forward(x), &dy));
}

#[test]
fn special_values() {
    let Some(gpu) = gpu() else { return };
    let x = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MAX, -f32::MAX, 0.0, 1e-30, -1e-30];
    let [y, dx] = on_device(gpu, &x, &[2.0; 8], 2);
    assert_close(&y, &[1.0, -1.0, f64::NAN, 1.0, -1.0, 0.0, 1e-30, -1e-30], 1e-7);
    assert_close(&dx, &[0.0, 0.0, f64::NAN, 0.0, 0.0, 2.0, 2.0, 2.0], 1e-7);
}

#[test]
fn relative_accuracy_at_every_size() {
    let Some(gpu) = gpu() else { return };
    let x: Vec<f32> =
        (-300..20).flat_map(|power| [1.0, -1.37].map(|m| m * (f32::from(power as i16) / 8.0).exp2())).collect();
    let [y, _] = on_device(gpu, &x, &x, 4);
    assert_close(&y, &reference::tanh::forward(&wide(&x)), 2.5e-7);
}

/// 1 − y² where y² is all but 1: the rounding of a square would show.
#[test]
fn gradient_near_saturation() {
    let Some(gpu) = gpu() else { return };
    let y: Vec<f32> = (1..200).map(|k| 1.0 - (k * k) as f32 * 2f32.powi(-24)).collect();
    let (held, ones) = (input(gpu, 1, y.len(), &y), input(gpu, 1, y.len(), &vec![1.0; y.len()]));
    let dx = output(gpu, 1, y.len());
    gpu.run(|recorder| tanh::backward(recorder, held.view()?, ones.view()?, dx.view()?)).unwrap();
    let want: Vec<f64> = wide(&y).iter().map(|y| (1.0 - y) * (1.0 + y)).collect();
    assert_close(&read(gpu, &dx), &want, 2e-7);
}

#[test]
fn empty() {
    let Some(gpu) = gpu() else { return };
    for cols in [0, 3] {
        assert_eq!(on_device(gpu, &[], &[], cols), [const { Vec::<f64>::new() }; 2]);
    }
}

#[test]
fn refusals() {
    let Some(gpu) = gpu() else { return };
    let (x, turned) = (input(gpu, 2, 3, &[0.0; 6]), input(gpu, 3, 2, &[0.0; 6]));
    let (y, wrong) = (output(gpu, 2, 3), output(gpu, 3, 2));
    let error = refused(gpu, &[&wrong], |r| tanh::forward(r, x.view()?, wrong.view()?));
    assert_eq!(error, shape("tanh", "y", "2 x 3", "3 x 2"));
    let error = refused(gpu, &[&y], |r| tanh::backward(r, x.view()?, turned.view()?, y.view()?));
    assert_eq!(error, shape("tanh", "dy", "2 x 3", "3 x 2"));
    let error = refused(gpu, &[&wrong], |r| tanh::backward(r, x.view()?, x.view()?, wrong.view()?));
    assert_eq!(error, shape("tanh", "dx", "2 x 3", "3 x 2"));
    let longer = output(gpu, 3, 3);
    let (first, last) = (longer.view().unwrap().row_range(0..2), longer.view().unwrap().row_range(1..3));
    assert_eq!(refused(gpu, &[&longer], |r| tanh::forward(r, first, last)), overlap("tanh", "y", "x"));
    let error = refused(gpu, &[&longer], |r| tanh::backward(r, x.view()?, first, last));
    assert_eq!(error, overlap("tanh", "dx", "dy"));
}

#[test]
fn in_place() {
    let Some(gpu) = gpu() else { return };
    let (data, slope) = (Fill::Small.matrix(5, 7, 1), Fill::Small.matrix(5, 7, 2));
    let [want, want_dx] = on_device(gpu, &data, &slope, 7);
    let (x, dy) = (input(gpu, 5, 7, &data), input(gpu, 5, 7, &slope));
    let record = gpu.run(|r| {
        tanh::forward(r, x.view()?, x.view()?)?;
        tanh::backward(r, x.view()?, dy.view()?, dy.view()?)
    });
    record.unwrap();
    assert_eq!((read(gpu, &x), read(gpu, &dy)), (want, want_dx));
}

#[test]
fn same_bits() {
    let Some(gpu) = gpu() else { return };
    let (x, dy) = (Fill::Small.matrix(7, 333, 3), Fill::Small.matrix(7, 333, 4));
    assert_repeats(|| on_device(gpu, &x, &dy, 333).into());
}
