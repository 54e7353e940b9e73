use wgloss::verify::{Fill, Held};
use wgloss::{Accum, Gpu, Tuning, linear, reference};

use crate::golden::{self, Case, Found, Kind, rows_of};
use crate::harness::*;

pub struct Data<'a> {
    pub x: &'a [f32],
    pub w: &'a [f32],
    pub b: Option<&'a [f32]>,
    pub dy: &'a [f32],
    /// rows, inputs, outputs
    pub shape: [usize; 3],
}

/// y, dx, dw and db.
pub fn on_device(gpu: &Gpu, data: &Data) -> [Vec<f64>; 4] {
    let [rows, inputs, outputs] = data.shape;
    let (x, w) = (input(gpu, rows, inputs, data.x), input(gpu, outputs, inputs, data.w));
    let (b, dy) = (data.b.map(|b| input(gpu, outputs, 1, b)), input(gpu, rows, outputs, data.dy));
    let (y, dx) = (output(gpu, rows, outputs), output(gpu, rows, inputs));
    let (dw, db) = (output(gpu, outputs, inputs), output(gpu, outputs, 1));
    let record = gpu.run(|recorder| {
        let b = b.as_ref().map(Held::view).transpose()?;
        linear::forward(recorder, x.view()?, w.view()?, b, y.view()?)?;
        let (dx, dw, db) = (Some(dx.view()?), Some(dw.view()?), Some(db.view()?));
        linear::backward(recorder, x.view()?, w.view()?, dy.view()?, dx, dw, db, Accum::Write)
    });
    record.unwrap();
    [&y, &dx, &dw, &db].map(|held| read(gpu, held))
}

pub fn by_reference(data: &Data) -> [Vec<f64>; 4] {
    let [rows, inputs, outputs] = data.shape;
    let (x, w, dy) = (wide(data.x), wide(data.w), wide(data.dy));
    let y = reference::linear::forward(&x, &w, data.b.map(wide).as_deref(), inputs, outputs, rows);
    let (dx, dw, db) = reference::linear::backward(&x, &w, &dy, inputs, outputs, rows);
    [y, dx, dw, db]
}

#[test]
fn verified() {
    verifies("linear");
}

fn outputs(case: &Case, compute: impl Fn(&Data) -> [Vec<f64>; 4]) -> Found {
    let (x, w, dy) = (case.input("x"), case.input("w"), case.input("gy"));
    let b = case.has("b").then(|| case.input("b").data);
    let [outputs, inputs] = w.shape[..] else { panic!("w of shape {:?}", w.shape) };
    let (rows, _, _) = rows_of(&dy.shape, -1, &dy.data);
    let data = Data { x: &x.data, w: &w.data, b: b.as_deref(), dy: &dy.data, shape: [rows, inputs, outputs] };
    let [y, dx, dw, db] = compute(&data);
    Ok(vec![("y", Kind::Value, y), ("x", Kind::Grad, dx), ("w", Kind::Grad, dw), ("b", Kind::Grad, db)])
}

#[test]
fn golden() {
    let Some(gpu) = gpu() else { return };
    golden::grade("linear", |case| outputs(case, |data| on_device(gpu, data)));
}

#[test]
fn golden_reference() {
    golden::grade_reference("linear", 1e-6, |case| outputs(case, by_reference));
}

#[test]
fn reference_gradient() {
    let (rows, inputs, outputs) = (3, 4, 2);
    let matrix = |rows, cols, seed| wide(&Fill::Small.matrix(rows, cols, seed));
    let (x, w, b, dy) = (matrix(3, 4, 1), matrix(2, 4, 2), matrix(2, 1, 3), matrix(3, 2, 4));
    let forward =
        |x: &[f64], w: &[f64], b: &[f64]| dot(&reference::linear::forward(x, w, Some(b), inputs, outputs, rows), &dy);
    let (dx, dw, db) = reference::linear::backward(&x, &w, &dy, inputs, outputs, rows);
    assert_gradient(&x, &dx, |x| forward(x, &w, &b));
    assert_gradient(&w, &dw, |w| forward(&x, w, &b));
    assert_gradient(&b, &db, |b| forward(&x, &w, b));
}

#[test]
fn special_values() {
    let Some(gpu) = gpu() else { return };
    let shape = [9, 21, 5];
    let [rows, inputs, outputs] = shape;
    let (mut x, dy) = (Fill::Small.matrix(rows, inputs, 1), Fill::Small.matrix(rows, outputs, 2));
    let (w, b) = (vec![1.0; outputs * inputs], vec![0.5; outputs]);
    x[2 * inputs + 20] = f32::NAN;
    x[3 * inputs] = f32::INFINITY;
    x[4 * inputs + 16] = f32::NEG_INFINITY;
    (x[5 * inputs + 1], x[5 * inputs + 7]) = (f32::INFINITY, f32::NEG_INFINITY);
    let [y, _, dw, db] = on_device(gpu, &Data { x: &x, w: &w, b: Some(&b), dy: &dy, shape });
    let want = |row: usize| match row {
        2 | 5 => f64::NAN,
        3 => f64::INFINITY,
        4 => f64::NEG_INFINITY,
        _ => 0.5 + wide(&x[row * inputs..][..inputs]).iter().sum::<f64>(),
    };
    let want: Vec<f64> = (0..rows).flat_map(|row| vec![want(row); outputs]).collect();
    assert_close(&y, &want, 1e-5);
    for (at, dw) in dw.iter().enumerate() {
        let special = [0, 1, 7, 16, 20].contains(&(at % inputs));
        assert_eq!(dw.is_finite(), !special, "dw[{}, {}] = {dw}", at / inputs, at % inputs);
    }
    assert!(db.iter().all(|db| db.is_finite()), "dy and with it db hold nothing special");
}

#[test]
fn empty() {
    let Some(gpu) = gpu() else { return };
    let (x, w, b, dy) = ([1.0; 6], [2.0; 6], [3.0, 4.0], [5.0; 6]);
    // No rows: the gradients of the parameters are sums over nothing.
    let found = on_device(gpu, &Data { x: &[], w: &w, b: Some(&b), dy: &[], shape: [0, 3, 2] });
    assert_eq!(found, [vec![], vec![], vec![0.0; 6], vec![0.0; 2]]);
    // No inputs: the bias alone.
    let found = on_device(gpu, &Data { x: &[], w: &[], b: Some(&b), dy: &dy, shape: [3, 0, 2] });
    assert_eq!(found, [vec![3.0, 4.0, 3.0, 4.0, 3.0, 4.0], vec![], vec![], vec![15.0; 2]]);
    let found = on_device(gpu, &Data { x: &[], w: &[], b: None, dy: &dy, shape: [3, 0, 2] });
    assert_eq!(found[0], [0.0; 6]);
    // No outputs: the gradient of the inputs is a sum over nothing.
    let found = on_device(gpu, &Data { x: &x, w: &[], b: Some(&[]), dy: &[], shape: [2, 3, 0] });
    assert_eq!(found, [vec![], vec![0.0; 6], vec![], vec![]]);
}

#[test]
fn gradients_that_are_not_asked_for() {
    let Some(gpu) = gpu() else { return };
    let (x, w, dy) = (input(gpu, 2, 3, &[1.0; 6]), input(gpu, 1, 3, &[2.0; 3]), input(gpu, 2, 1, &[3.0; 2]));
    let dw = output(gpu, 1, 3);
    let record =
        gpu.run(|r| linear::backward(r, x.view()?, w.view()?, dy.view()?, None, Some(dw.view()?), None, Accum::Write));
    record.unwrap();
    assert_eq!(read(gpu, &dw), [6.0; 3]);
}

#[test]
fn refusals() {
    let Some(gpu) = gpu() else { return };
    let (x, w, b) = (input(gpu, 2, 3, &[0.0; 6]), input(gpu, 4, 3, &[0.0; 12]), input(gpu, 4, 1, &[0.0; 4]));
    let (dy, y) = (input(gpu, 2, 4, &[0.0; 8]), output(gpu, 2, 4));
    let (dx, dw, db) = (output(gpu, 2, 3), output(gpu, 4, 3), output(gpu, 4, 1));
    let forward = |w: &Held, b: &Held, y: &Held| {
        refused(gpu, &[y], |r| linear::forward(r, x.view()?, w.view()?, Some(b.view()?), y.view()?))
    };
    assert_eq!(forward(&dy, &b, &y), shape("linear", "w", "2 x 3", "2 x 4"));
    assert_eq!(forward(&w, &b, &dx), shape("linear", "y", "2 x 4", "2 x 3"));
    assert_eq!(forward(&w, &x, &y), shape("linear", "b", "4 x 1", "2 x 3"));
    let backward = |w: &Held, dy: &Held, [dx, dw, db]: [&Held; 3]| {
        refused(gpu, &[], |r| {
            let (dx, dw, db) = (Some(dx.view()?), Some(dw.view()?), Some(db.view()?));
            linear::backward(r, x.view()?, w.view()?, dy.view()?, dx, dw, db, Accum::Write)
        })
    };
    let right = [&dx, &dw, &db];
    assert_eq!(backward(&dy, &dy, right), shape("linear", "w", "2 x 3", "2 x 4"));
    assert_eq!(backward(&w, &x, right), shape("linear", "dy", "2 x 4", "2 x 3"));
    assert_eq!(backward(&w, &dy, [&y, &dw, &db]), shape("linear", "dx", "2 x 3", "2 x 4"));
    assert_eq!(backward(&w, &dy, [&dx, &y, &db]), shape("linear", "dw", "4 x 3", "2 x 4"));
    assert_eq!(backward(&w, &dy, [&dx, &dw, &y]), shape("linear", "db", "4 x 1", "2 x 4"));
    assert!(right.into_iter().all(|held| untouched(gpu, held)));
    let error = linear::compute(gpu, &[0.0; 5], &[0.0; 4], None, 2).unwrap_err();
    assert_eq!(error, shape("linear", "x", "whole rows of 2", "5 elements"));
    let error = linear::compute(gpu, &[0.0; 4], &[0.0; 5], None, 2).unwrap_err();
    assert_eq!(error, shape("linear", "w", "whole rows of 2", "5 elements"));
}

/// Also where no single dispatch has both: dw reads x after dx is written.
#[test]
fn overlaps() {
    let Some(gpu) = gpu() else { return };
    let square = || output(gpu, 3, 3);
    let (x, w, dy, other) = (square(), square(), square(), square());
    let column = output(gpu, 3, 1);
    let forward = |y: &Held| refused(gpu, &[y], |r| linear::forward(r, x.view()?, w.view()?, None, y.view()?));
    assert_eq!(forward(&x), overlap("linear", "y", "x"));
    assert_eq!(forward(&w), overlap("linear", "y", "w"));
    let error =
        refused(gpu, &[&x], |r| linear::forward(r, w.view()?, w.view()?, Some(x.view()?.col_range(0..1)), x.view()?));
    assert_eq!(error, overlap("linear", "y", "b"));
    let backward = |dx: &Held, dw: &Held, db: &Held| {
        refused(gpu, &[dx, dw, db], |r| {
            let (dx, dw, db) = (dx.view()?, dw.view()?, db.view()?.col_range(0..1));
            linear::backward(r, x.view()?, w.view()?, dy.view()?, Some(dx), Some(dw), Some(db), Accum::Write)
        })
    };
    assert_eq!(backward(&x, &other, &column), overlap("linear", "dx", "x"));
    assert_eq!(backward(&w, &other, &column), overlap("linear", "dx", "w"));
    assert_eq!(backward(&dy, &other, &column), overlap("linear", "dx", "dy"));
    assert_eq!(backward(&other, &other, &column), overlap("linear", "dx", "dw"));
    assert_eq!(backward(&other, &x, &column), overlap("linear", "dw", "x"));
    let free = square();
    assert_eq!(backward(&free, &other, &other), overlap("linear", "dw", "db"));
    assert_eq!(backward(&free, &other, &w), overlap("linear", "db", "w"));
}

/// Sums long enough to be split over workgroups.
#[test]
fn same_bits() {
    let Some(gpu) = gpu() else { return };
    let shape = [3000, 7, 3];
    let (x, w) = (Fill::Wide.matrix(3000, 7, 1), Fill::Small.matrix(3, 7, 2));
    let dy = Fill::Wide.matrix(3000, 3, 3);
    assert_repeats(|| on_device(gpu, &Data { x: &x, w: &w, b: None, dy: &dy, shape }).into());
}

/// Whether the steps of a slab stand one after the other, and whether a slice is one block a lane, which is then loaded ahead, changes no bit.
#[test]
fn unrolled_or_not() {
    let Some(gpu) = gpu() else { return };
    let small = Tuning { tile_x: 4, tile_y: 2, ..Tuning::GPU };
    let ahead = Tuning { tile_x: 16, tile_y: 4, tile_depth: 8, ..Tuning::GPU };
    let on_each = |rows: usize, depth: usize, outputs: usize| {
        let (x, w) = (Fill::Small.matrix(rows, depth, 31), Fill::Small.matrix(outputs, depth, 32));
        let [rolled, unrolled, loaded_ahead] = [Tuning { unrolled: false, ..small }, small, ahead]
            .map(|tuning| linear::compute(&gpu.with_tuning(tuning), &x, &w, None, depth).unwrap());
        assert_eq!(rolled, unrolled);
        assert_eq!(rolled, loaded_ahead);
        (x, w, unrolled)
    };
    on_each(37, 48, 20); // no row ends between four elements
    let (rows, depth, outputs) = (37, 45, 21); // no multiple of a tile or a slab
    let (x, w, y) = on_each(rows, depth, outputs);
    assert_close(&wide(&y), &reference::linear::forward(&wide(&x), &wide(&w), None, depth, outputs, rows), 1e-4);
}
