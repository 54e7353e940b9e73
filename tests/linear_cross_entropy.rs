use wgloss::linear_cross_entropy::{self, Batch, Gradients, Layer, Options, Target, Weights};
use wgloss::reference::linear_cross_entropy as textbook;
use wgloss::verify::{Fill, Held};
use wgloss::{Accum, Error, Gpu, Reduction, Result, Storage, Tuning, cross_entropy, linear, reference};

use crate::harness::*;

/// x, W, b and class ids on the device.
pub struct Data {
    x: Held,
    w: Held,
    b: Held,
    ids: Held<u32>,
    shape: [usize; 3],
}

impl Data {
    pub fn new(gpu: &Gpu, [rows, inputs, classes]: [usize; 3]) -> Data {
        let ids: Vec<u32> = (0..rows as u32).map(|row| row * 7 % classes as u32).collect();
        Data {
            x: input(gpu, rows, inputs, &Fill::Small.matrix(rows, inputs, 1)),
            w: input(gpu, classes, inputs, &Fill::Small.matrix(classes, inputs, 2)),
            b: input(gpu, classes, 1, &Fill::Small.matrix(classes, 1, 3)),
            ids: input(gpu, rows, 1, &ids),
            shape: [rows, inputs, classes],
        }
    }

    pub fn layer(&self) -> Result<Layer<'_>> {
        Ok(Layer { b: Some(self.b.view()?), ..Layer::new(self.x.view()?, self.w.view()?) })
    }

    pub fn batch(&self) -> Result<Batch<'_>> {
        Ok(Batch::new(self.layer()?, Target::Ids(self.ids.view()?)))
    }

    /// Loss, dx, dW, db; without a gradient of the loss by the forward, else by the backward.
    pub fn run(&self, gpu: &Gpu, dy: Option<&Held>, options: Options) -> [Vec<f64>; 4] {
        let rows = self.shape[0];
        let by_row = matches!(options.reduction, Reduction::None | Reduction::Rows);
        let (loss, lse) = (output(gpu, if by_row { rows } else { 1 }, 1), output(gpu, rows, 2));
        let found = gradients(gpu, self.shape);
        let record = gpu.run(|recorder| {
            let batch = self.batch()?;
            let given = all(&found)?;
            let fused = if dy.is_none() { given } else { Gradients::default() };
            let (loss, lse) = (loss.view()?, lse.view()?);
            linear_cross_entropy::forward(recorder, batch, loss, Some(lse), None, fused, options)?;
            let Some(dy) = dy else { return Ok(()) };
            linear_cross_entropy::backward(recorder, batch, lse, Some(dy.view()?), given, options)
        });
        record.unwrap();
        [&loss, &found[0], &found[1], &found[2]].map(|held| read(gpu, held))
    }

    /// The same by the two ops that it is made of, with all logits in memory.
    fn apart(&self, gpu: &Gpu, options: Options) -> [Vec<f64>; 4] {
        let [rows, _, classes] = self.shape;
        let (logits, loss, lse) = (output(gpu, rows, classes), output(gpu, 1, 1), output(gpu, rows, 2));
        let [dx, dw, db] = &gradients(gpu, self.shape);
        let record = gpu.run(|recorder| {
            let (x, w, logits) = (self.x.view()?, self.w.view()?, logits.view()?);
            linear::forward(recorder, x, w, Some(self.b.view()?), logits)?;
            let (target, lse, dlogits) = (self.batch()?.target, lse.view()?, Some(logits));
            cross_entropy::forward(recorder, logits, target, Weights::default(), loss.view()?, lse, dlogits, options)?;
            let [dx, dw, db] = [dx, dw, db].map(|held| held.view().map(Some));
            linear::backward(recorder, x, w, logits, dx?, dw?, db?, Accum::Write)
        });
        record.unwrap();
        [&loss, dx, dw, db].map(|held| read(gpu, held))
    }
}

/// Where dx, dW and db of rows, inputs and classes go.
pub fn gradients(gpu: &Gpu, [rows, inputs, classes]: [usize; 3]) -> [Held; 3] {
    [(rows, inputs), (classes, inputs), (classes, 1)].map(|(rows, cols)| output(gpu, rows, cols))
}

pub fn all([dx, dw, db]: &[Held; 3]) -> Result<Gradients<'_>> {
    Ok(Gradients { dx: Some(dx.view()?), dw: Some(dw.view()?), db: Some(db.view()?), ..Default::default() })
}

/// A device whose workspace holds the logits of so many rows.
pub fn with_rows(gpu: &Gpu, rows: usize, classes: usize) -> Gpu {
    gpu.with_tuning(Tuning { workspace: (4 * rows * classes.next_multiple_of(4)) as u64, ..*gpu.tuning() })
}

#[test]
fn verified() {
    verifies("linear_cross_entropy");
}

/// With all rows at once it is what the two ops are.
#[test]
fn two_ops_in_one() {
    let Some(gpu) = gpu() else { return };
    for shape in [[37, 20, 64], [5, 8, 2000], [130, 33, 257]] {
        let data = Data::new(gpu, shape);
        let (found, want) = (data.run(gpu, None, Options::default()), data.apart(gpu, Options::default()));
        for (index, what) in ["loss", "dx", "dw", "db"].into_iter().enumerate() {
            assert_close(&found[index], &want[index], 1e-5);
            assert!(want[index].iter().any(|&v| v != 0.0), "{what} of {shape:?} is nothing");
        }
    }
}

/// However many rows are taken at a time, down to one.
#[test]
fn in_parts() {
    let Some(gpu) = gpu() else { return };
    let shape = [150, 12, 41];
    let data = Data::new(gpu, shape);
    let dy = input(gpu, 150, 1, &Fill::Small.matrix(150, 1, 4));
    let none = Options { reduction: Reduction::None, ..Default::default() };
    let [whole, of_rows] = [data.run(gpu, None, Options::default()), data.run(gpu, Some(&dy), none)];
    for rows in [1, 7, 64, 149] {
        let gpu = with_rows(gpu, rows, shape[2]);
        let found = [data.run(&gpu, None, Options::default()), data.run(&gpu, Some(&dy), none)];
        for (found, want) in found.iter().flatten().zip(whole.iter().chain(&of_rows)) {
            assert_within(&format!("with {rows} rows"), found, want, 1e-6 * largest(want));
        }
    }
}

#[test]
fn same_bits() {
    let Some(gpu) = gpu() else { return };
    let data = Data::new(gpu, [300, 9, 33]);
    let gpu = with_rows(gpu, 64, 33);
    assert_repeats(|| data.run(&gpu, None, Options::default()).into());
}

#[test]
fn reference_gradient() {
    let shape = [3, 4, 5];
    let matrix = |rows, cols, seed| wide(&Fill::Small.matrix(rows, cols, seed));
    let (x, w, b) = (matrix(3, 4, 1), matrix(5, 4, 2), matrix(5, 1, 3));
    let target = reference::cross_entropy::Target::Ids(&[4, 0, 2]);
    let options = Options { label_smoothing: 0.1, z_loss: 0.01, ..Default::default() };
    let loss = |x: &[f64], w: &[f64], b: &[f64]| {
        let layer = textbook::Layer { x, w, b: Some(b), shape };
        textbook::forward(layer, target, Default::default(), options)[0]
    };
    let layer = textbook::Layer { x: &x, w: &w, b: Some(&b), shape };
    let (dx, dw, db) = textbook::backward(layer, target, Default::default(), &[], options);
    assert_gradient(&x, &dx, |x| loss(x, &w, &b));
    assert_gradient(&w, &dw, |w| loss(&x, w, &b));
    assert_gradient(&b, &db, |b| loss(&x, &w, b));
}

/// A batch in parts: dW and db are added up, each part has its own dx; weights of 1/count make the sum the mean.
#[test]
fn parts_of_a_batch() {
    let Some(gpu) = gpu() else { return };
    let data = Data::new(gpu, [60, 5, 11]);
    let want = data.run(gpu, None, Options::default());
    let weights = input(gpu, 60, 1, &[1.0f32 / 60.0; 60]);
    let (loss, dx) = (output(gpu, 3, 1), output(gpu, 60, 5));
    let (dw, db) = (input(gpu, 11, 5, &[0.0f32; 55]), input(gpu, 11, 1, &[0.0f32; 11]));
    let options = Options { reduction: Reduction::Sum, accum: Accum::Add, ..Default::default() };
    let record = gpu.run(|recorder| {
        (0..3).try_for_each(|part| {
            let rows = 20 * part..20 * (part + 1);
            let (layer, ids) = (data.layer()?, data.ids.view()?.row_range(rows.clone()));
            let layer = Layer { x: layer.x.row_range(rows.clone()), ..layer };
            let weights = Weights { row: Some(weights.view()?.row_range(rows.clone())), class: None };
            let batch = Batch { weights, ..Batch::new(layer, Target::Ids(ids)) };
            let (dx, loss) = (Some(dx.view()?.row_range(rows)), loss.view()?.row_range(part..part + 1));
            let gradients = Gradients { dx, dw: Some(dw.view()?), db: Some(db.view()?), ..Default::default() };
            linear_cross_entropy::forward(recorder, batch, loss, None, None, gradients, options)
        })
    });
    record.unwrap();
    assert_close(&[read(gpu, &loss).iter().sum()], &want[0], 1e-6);
    for (found, want) in [&dx, &dw, &db].iter().zip(&want[1..]) {
        assert_within("gradient", &read(gpu, found), want, 1e-6 * largest(want));
    }
}

/// Of an ignored row nothing counts but a NaN in x, which 0 times it does not end.
#[test]
fn special_values() {
    let Some(gpu) = gpu() else { return };
    let (rows, inputs, classes) = (4, 3, 5);
    let (mut x, w) = (Fill::Small.matrix(rows, inputs, 1), Fill::Small.matrix(classes, inputs, 2));
    let ids = [1, Options::default().ignore, 4, 0];
    let of = |x: &[f32], ids: &[u32]| {
        linear_cross_entropy::compute(gpu, x, &w, None, inputs, ids, Options::default()).unwrap()
    };
    let clean = of(&x, &ids);
    assert_eq!(clean.dx[inputs..2 * inputs], [0.0; 3]);
    let without = of(&[&x[..inputs], &x[2 * inputs..]].concat(), &[1, 4, 0]);
    assert_close(&wide(&clean.dw), &wide(&without.dw), 1e-6);
    assert_close(&wide(&clean.loss), &wide(&without.loss), 1e-6);
    x[inputs] = f32::NAN;
    let found = of(&x, &ids);
    assert_eq!((&found.loss, &found.dx, &found.db), (&clean.loss, &clean.dx, &clean.db));
    for (at, dw) in found.dw.iter().enumerate() {
        assert_eq!(dw.is_nan(), at % inputs == 0, "dw[{}, {}] = {dw}", at / inputs, at % inputs);
    }
    // All ignored: a mean over nothing.
    let none = of(&Fill::Small.matrix(rows, inputs, 1), &[Options::default().ignore; 4]);
    assert_eq!((none.loss[0], none.dw), (0.0, vec![0.0; classes * inputs]));
}

#[test]
fn empty() {
    let Some(gpu) = gpu() else { return };
    // No rows: the gradients of the parameters are sums over nothing.
    let found =
        linear_cross_entropy::compute(gpu, &[], &[1.0; 6], Some(&[1.0; 2]), 3, &[], Options::default()).unwrap();
    assert_eq!((found.loss, found.dx, found.dw, found.db), (vec![0.0], vec![], vec![0.0; 6], vec![0.0; 2]));
    // No inputs: the bias alone.
    let data = Data { x: input(gpu, 3, 0, &[]), w: input(gpu, 4, 0, &[]), ..Data::new(gpu, [3, 1, 4]) };
    let data = Data { shape: [3, 0, 4], ..data };
    let [loss, dx, dw, db] = data.run(gpu, None, Options::default());
    let b = Fill::Small.matrix(4, 1, 3);
    let want = cross_entropy::compute(gpu, &[&b[..], &b, &b].concat(), 4, &[0, 3, 2], Options::default()).unwrap();
    assert_eq!((loss, dx, dw), (wide(&want.0), vec![], vec![]));
    let sums: Vec<f64> =
        (0..4).map(|class| want.1.iter().skip(class).step_by(4).map(|&g| f64::from(g)).sum()).collect();
    assert_close(&db, &sums, 1e-5);
}

/// Without gradients, without some, and what their forward says of the rows.
#[test]
fn outputs_that_are_not_asked_for() {
    let Some(gpu) = gpu() else { return };
    let shape = [70, 12, 41];
    let data = Data::new(gpu, shape);
    let whole = data.run(gpu, None, Options::default());
    let small = with_rows(gpu, 64, shape[2]);
    for asked in 0..8 {
        let (loss, lse, found) = (output(gpu, 1, 1), output(gpu, 70, 2), gradients(gpu, data.shape));
        let record = small.run(|recorder| {
            let [dx, dw, db] = [0, 1, 2].map(|at| found[at].view().ok().filter(|_| asked & (1 << at) != 0));
            let gradients = Gradients { dx, dw, db, ..Default::default() };
            let (batch, loss, lse) = (data.batch()?, loss.view()?, Some(lse.view()?));
            linear_cross_entropy::forward(recorder, batch, loss, lse, None, gradients, Options::default())
        });
        record.unwrap();
        assert_close(&read(gpu, &loss), &whole[0], 1e-6);
        for at in 0..3 {
            match asked & (1 << at) {
                0 => assert!(untouched(gpu, &found[at]), "gradient {at} of {asked:b}"),
                _ => assert_close(&read(gpu, &found[at]), &whole[1 + at], 1e-4),
            }
        }
    }
}

#[test]
fn refusals() {
    const OP: &str = "linear_cross_entropy";
    let Some(gpu) = gpu() else { return };
    let data = Data::new(gpu, [2, 3, 4]);
    let (loss, lse, [dx, dw, db]) = (output(gpu, 1, 1), output(gpu, 2, 2), gradients(gpu, data.shape));
    let forward = |layer: Layer, loss: &Held, lse: &Held, gradients: [&Held; 3], options: Options| {
        refused(gpu, &[], |recorder| {
            let [dx, dw, db] = gradients.map(|held| held.view().ok());
            let gradients = Gradients { dx, dw, db, ..Default::default() };
            let batch = Batch { layer, ..data.batch()? };
            linear_cross_entropy::forward(recorder, batch, loss.view()?, Some(lse.view()?), None, gradients, options)
        })
    };
    let (layer, right, plain) = (data.layer().unwrap(), [&dx, &dw, &db], Options::default());
    let narrow = Layer { w: lse.view().unwrap(), ..layer };
    assert_eq!(
        forward(narrow, &loss, &lse, right, plain),
        shape(OP, "w", "classes x 3, with a class at least", "2 x 2")
    );
    let none = Layer { w: data.w.view().unwrap().row_range(0..0), b: None, ..layer };
    assert_eq!(forward(none, &loss, &lse, right, plain), shape(OP, "w", "classes x 3, with a class at least", "0 x 3"));
    let turned = Layer { transposed: true, ..layer };
    assert_eq!(
        forward(turned, &loss, &lse, right, plain),
        shape(OP, "w", "3 x classes, with a class at least", "4 x 3")
    );
    let biased = Layer { b: Some(data.x.view().unwrap()), ..layer };
    assert_eq!(forward(biased, &loss, &lse, right, plain), shape(OP, "b", "4 x 1", "2 x 3"));
    assert_eq!(forward(layer, &lse, &lse, right, plain), shape(OP, "loss", "1 x 1", "2 x 2"));
    assert_eq!(forward(layer, &loss, &dx, right, plain), shape(OP, "lse", "2 x 2", "2 x 3"));
    assert_eq!(forward(layer, &loss, &lse, [&lse, &dw, &db], plain), shape(OP, "dx", "2 x 3", "2 x 2"));
    assert_eq!(forward(layer, &loss, &lse, [&dx, &lse, &db], plain), shape(OP, "dw", "4 x 3", "2 x 2"));
    assert_eq!(forward(layer, &loss, &lse, [&dx, &dw, &lse], plain), shape(OP, "db", "4 x 1", "2 x 2"));
    let smoothed = Options { label_smoothing: 2.0, ..plain };
    let error = forward(layer, &loss, &lse, right, smoothed);
    assert_eq!(error, option(OP, "label_smoothing", "between 0 and 1", "2"));
    assert_eq!(forward(layer, &loss, &lse, [&data.x, &dw, &db], plain), overlap(OP, "dx", "x"));
    assert_eq!(forward(layer, &loss, &lse, [&dx, &data.w, &db], plain), overlap(OP, "dw", "w"));
    assert_eq!(forward(layer, &loss, &lse, [&dx, &dw, &data.b], plain), overlap(OP, "db", "b"));
    let soft = refused(gpu, &[&loss, &lse], |recorder| {
        let (batch, none) = (Batch::new(layer, Target::Soft(data.w.view()?)), Gradients::default());
        linear_cross_entropy::forward(recorder, batch, loss.view()?, Some(lse.view()?), None, none, plain)
    });
    assert_eq!(soft, shape(OP, "soft", "2 x 4", "4 x 3"));
    let backward = refused(gpu, &[&dx, &dw, &db], |recorder| {
        let (lse, dy, given) =
            (lse.view()?, Some(lse.view()?), Gradients { dx: Some(dx.view()?), ..Default::default() });
        linear_cross_entropy::backward(recorder, data.batch()?, lse, dy, given, plain)
    });
    assert_eq!(backward, shape(OP, "dy", "1 x 1", "2 x 2"));
    assert!([&dx, &dw, &db, &loss, &lse].into_iter().all(|held| untouched(gpu, held)));
    let compute = |x: &[f32], ids: &[u32]| linear_cross_entropy::compute(gpu, x, &[0.0; 4], None, 2, ids, plain);
    assert_eq!(compute(&[0.0; 5], &[0]).unwrap_err(), shape(OP, "x", "whole rows of 2", "5 elements"));
    assert_eq!(compute(&[0.0; 2], &[0, 1]).unwrap_err(), shape(OP, "id", "1 x 1", "2 x 1"));
    let error = compute(&[0.0; 2], &[2]).unwrap_err();
    assert_eq!(error, option(OP, "id", "below the number of classes", "2 with 2 classes"));
}

/// A gradient of 16 bits that comes from many rows is rounded once.
#[test]
fn sums_of_16_bits_are_rounded_once() {
    let Some(gpu) = gpu() else { return };
    let shape = [2000, 5, 9];
    let (data, small) = (Data::new(gpu, shape), with_rows(gpu, 64, 9));
    let exact = data.run(&small, None, Options { reduction: Reduction::Sum, ..Default::default() });
    let check = wgloss::verify::Check::new(gpu);
    let [dw, db] = [5, 1].map(|cols| check.output_as(Storage::Bf16, 9, cols).unwrap());
    let (loss, lse) = (output(gpu, 1, 1), output(gpu, 2000, 2));
    let record = small.run(|recorder| {
        let options = Options { reduction: Reduction::Sum, ..Default::default() };
        let gradients = Gradients { dw: Some(dw.view()?), db: Some(db.view()?), ..Default::default() };
        let (batch, loss, lse) = (data.batch()?, loss.view()?, Some(lse.view()?));
        linear_cross_entropy::forward(recorder, batch, loss, lse, None, gradients, options)
    });
    record.unwrap();
    assert_close(&read(gpu, &dw), &exact[2], 2f64.powi(-8));
    assert_close(&read(gpu, &db), &exact[3], 2f64.powi(-8));
}

/// In column-major order, which is copied.
#[cfg(feature = "ndarray")]
#[test]
fn arrays() {
    let Some(gpu) = gpu() else { return };
    let (x, w, b) = (Fill::Small.matrix(3, 2, 1), Fill::Small.matrix(4, 2, 2), Fill::Small.matrix(4, 1, 3));
    let want = linear_cross_entropy::compute(gpu, &x, &w, Some(&b), 2, &[3, 0, 1], Options::default()).unwrap();
    let columns: Vec<f32> = (0..6).map(|at| x[at % 3 * 2 + at / 3]).collect();
    let turned = ndarray::ArrayView2::from_shape((2, 3), &columns).unwrap();
    let (w, b) = (ndarray::ArrayView2::from_shape((4, 2), &w).unwrap(), ndarray::ArrayView1::from(&b));
    let ids = ndarray::arr1(&[3, 0, 1]);
    let of = |x| wgloss::arrays::linear_cross_entropy(gpu, x, w, Some(b), ids.view(), Options::default());
    let found = of(turned.t()).unwrap();
    let shaped = |rows, data| ndarray::Array2::from_shape_vec((rows, 2), data).unwrap();
    assert_eq!((found.loss, found.db), (want.loss.into(), want.db.into()));
    assert_eq!((found.dx, found.dw), (shaped(3, want.dx), shaped(4, want.dw)));
    assert_eq!(of(turned).unwrap_err(), shape("linear_cross_entropy", "columns of w", "3", "2"));
}

/// Long work can be ended between its submits, by its own name.
#[test]
fn cancelled() {
    use std::ops::ControlFlow;
    let Some(gpu) = gpu() else { return };
    let data = Data::new(gpu, [300, 9, 33]);
    let gpu = with_rows(gpu, 64, 33);
    let gpu = gpu.with_tuning(Tuning { work: 1, ..*gpu.tuning() });
    let (loss, lse, found) = (output(&gpu, 1, 1), output(&gpu, 300, 2), gradients(&gpu, data.shape));
    let mut seen = Vec::new();
    let mut watch = |progress: wgloss::Progress| {
        seen.push(progress);
        if seen.len() < 3 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    let ended = gpu.run_watched(
        |recorder| {
            let (batch, loss, lse) = (data.batch()?, loss.view()?, Some(lse.view()?));
            linear_cross_entropy::forward(recorder, batch, loss, lse, None, all(&found)?, Options::default())
        },
        &mut watch,
    );
    assert_eq!(ended, Err(Error::Cancelled { op: "linear_cross_entropy" }));
    assert!(seen.windows(2).all(|pair| pair[0].share < pair[1].share && pair[1].op == "linear_cross_entropy"));
}
