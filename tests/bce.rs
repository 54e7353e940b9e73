use wgloss::bce::{self, Options};
use wgloss::reference::bce::Inputs;
use wgloss::verify::{Fill, Held};
use wgloss::{Accum, Gpu, Reduction, reference};

use crate::golden::{self, Case, Found, Kind, rows_of};
use crate::harness::*;

/// The loss and dx; `dy` is empty for ones.
pub fn by_reference(inputs: Inputs<f32>, cols: usize, dy: &[f32], options: Options) -> [Vec<f64>; 2] {
    let [x, t, weight, pos_weight] = [inputs.x, inputs.t, inputs.weight, inputs.pos_weight].map(wide);
    let inputs = Inputs { x: &x, t: &t, weight: &weight, pos_weight: &pos_weight };
    let loss = reference::bce::forward(inputs, cols, options);
    let dx = reference::bce::backward(inputs, cols, &wide(dy), options);
    [loss, dx]
}

fn outputs(case: &Case, compute: impl Fn(Inputs<f32>, usize, &[f32], Options) -> [Vec<f64>; 2]) -> Found {
    let (x, t) = (case.input("x"), case.input("t"));
    let (_, cols, _) = rows_of(&x.shape, -1, &x.data);
    // The bank's weights repeat over leading dimensions, a single one over all.
    let repeated = |name, len| match case.has(name) {
        true => case.input(name).data.into_iter().cycle().take(len).collect(),
        false => Vec::new(),
    };
    let (weight, pos_weight) = (repeated("weight", x.data.len()), repeated("pos_weight", cols));
    let inputs = Inputs { x: &x.data, t: &t.data, weight: &weight, pos_weight: &pos_weight };
    let options = Options { reduction: case.reduction(), ..Default::default() };
    let [loss, dx] = compute(inputs, cols, &case.gy(), options);
    Ok(vec![("loss", Kind::Value, loss), ("x", Kind::Grad, dx)])
}

#[test]
fn golden_reference() {
    golden::grade_reference("bce_with_logits", 1e-6, |case| outputs(case, by_reference));
}

#[test]
fn reference_gradient() {
    let (x, t) = (wide(&Fill::Sorted.matrix(3, 4, 1)), wide(&Fill::Small.matrix(3, 4, 2)));
    let (weight, pos_weight) = (wide(&Fill::Small.matrix(3, 4, 3)), [0.0, 0.5, 2.0, 7.0]);
    for (weight, pos_weight) in [
        (&weight[..0], &pos_weight[..0]),
        (&weight, &pos_weight[..0]),
        (&weight[..0], &pos_weight),
        (&weight, &pos_weight),
    ] {
        for (reduction, count) in losses_of(3, 4) {
            let options = Options { reduction, ..Default::default() };
            let dy = wide(&Fill::Small.matrix(count, 1, 4));
            let inputs = Inputs { x: &x, t: &t, weight, pos_weight };
            let dx = reference::bce::backward(inputs, 4, &dy, options);
            assert_gradient(&x, &dx, |x| dot(&reference::bce::forward(Inputs { x, ..inputs }, 4, options), &dy));
        }
    }
}

#[test]
fn reference_special_values() {
    let inf = f32::INFINITY;
    let (x, t) = ([inf, inf, -inf, -inf, 1e4, f32::MAX], [1.0, 0.0, 1.0, 0.0, 1.0, 0.0]);
    let inputs = Inputs { x: &x, t: &t, weight: &[], pos_weight: &[] };
    let options = Options { reduction: Reduction::None, ..Default::default() };
    let [loss, dx] = by_reference(inputs, 6, &[], options);
    assert_eq!(loss, [0.0, f64::INFINITY, f64::INFINITY, 0.0, 0.0, f32::MAX.into()]);
    assert_eq!(dx, [0.0, 1.0, -1.0, 0.0, 0.0, 1.0]);
    let [loss, dx] = by_reference(Inputs { weight: &[0.0; 6], ..inputs }, 6, &[], options);
    assert_eq!([loss, dx], [vec![0.0; 6], vec![0.0; 6]]);
    assert_nan(&by_reference(Inputs { x: &[f32::NAN], t: &[1.0], ..inputs }, 1, &[], options).concat());
}

/// In f32, where products leave the range.
#[test]
fn reference_of_finite_inputs_is_no_nan() {
    let values = [0.0, 1e-40, 1.0, 90.0, -90.0, f32::MAX, -f32::MAX];
    for [x, weight] in values.map(|x| values.map(|weight| [x, weight])).concat() {
        for [t, pos_weight] in [0.0, 1e-30, 0.5, 1.0].map(|t| values.map(|weight| [t, weight])).concat() {
            let inputs = Inputs { x: &[x], t: &[t], weight: &[weight.abs()], pos_weight: &[pos_weight.abs()] };
            let loss = reference::bce::forward(inputs, 1, Options::default());
            let gradients = [[0.0], [1.0]].map(|dy| reference::bce::backward(inputs, 1, &dy, Options::default()));
            let found = [loss, gradients.concat()].concat();
            assert!(found.iter().all(|value| !value.is_nan()), "{inputs:?}: {found:?}");
        }
    }
}

/// The loss and dx; without dy in one pass, in place of x.
pub fn on_device(gpu: &Gpu, inputs: Inputs<f32>, cols: usize, dy: &[f32], options: Options) -> [Vec<f64>; 2] {
    let rows = rows_in(inputs.x, cols);
    let [loss_rows, loss_cols] = element_losses(options.reduction, [rows, cols]);
    let some = |data: &[f32], rows| (!data.is_empty()).then(|| input(gpu, rows, cols, data));
    let (x, t) = (input(gpu, rows, cols, inputs.x), input(gpu, rows, cols, inputs.t));
    let (weight, pos_weight) = (some(inputs.weight, rows), some(inputs.pos_weight, 1));
    let dy = (!dy.is_empty()).then(|| input(gpu, loss_rows, loss_cols, dy));
    let (loss, dx) = (output(gpu, loss_rows, loss_cols), output(gpu, rows, cols));
    let record = gpu.run(|recorder| {
        let (x, t) = (x.view()?, t.view()?);
        let inputs = bce::Inputs { x, t, weight: weight.as_ref().map(view), pos_weight: pos_weight.as_ref().map(view) };
        let now = dy.is_none().then_some(x);
        match dy.as_ref().map(view) {
            None => bce::forward(recorder, inputs, loss.view()?, now, options),
            dy => {
                bce::forward(recorder, inputs, loss.view()?, None, options)?;
                bce::backward(recorder, inputs, dy, dx.view()?, options)
            }
        }
    });
    record.unwrap();
    [read(gpu, &loss), read(gpu, if dy.is_none() { &x } else { &dx })]
}

#[test]
fn verified() {
    verifies("bce");
}

#[test]
fn golden() {
    let Some(gpu) = gpu() else { return };
    golden::grade("bce_with_logits", |case| {
        outputs(case, |inputs, cols, dy, options| on_device(gpu, inputs, cols, dy, options))
    });
}

#[test]
fn special_values() {
    let Some(gpu) = gpu() else { return };
    let inf = f32::INFINITY;
    let (x, t) = ([inf, inf, -inf, -inf, 1e4, f32::MAX, f32::NAN], [1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0]);
    let options = Options { reduction: Reduction::None, ..Default::default() };
    for weight in [&[][..], &[0.0; 7], &[0.5; 7]] {
        let inputs = Inputs { x: &x[..6], t: &t[..6], weight: &weight[..weight.len().min(6)], pos_weight: &[] };
        let (got, want) = (on_device(gpu, inputs, 6, &[], options), by_reference(inputs, 6, &[], options));
        assert_close(&got[0], &want[0], 3e-7);
        assert_close(&got[1], &want[1], 3e-7);
    }
    assert_nan(
        &on_device(gpu, Inputs { x: &x[6..], t: &t[6..], weight: &[], pos_weight: &[] }, 1, &[], options).concat(),
    );
}

#[test]
fn refusals() {
    let Some(gpu) = gpu() else { return };
    let (x, turned, loss) = (input(gpu, 2, 3, &[0.0; 6]), output(gpu, 3, 2), output(gpu, 1, 1));
    let forward = |t: &Held, weight: Option<&Held>, pos_weight: Option<&Held>, loss: &Held| {
        refused(gpu, &[&turned], |r| {
            let inputs =
                bce::Inputs { x: x.view()?, t: t.view()?, weight: weight.map(view), pos_weight: pos_weight.map(view) };
            bce::forward(r, inputs, loss.view()?, None, Options::default())
        })
    };
    assert_eq!(forward(&turned, None, None, &loss), shape("bce", "t", "2 x 3", "3 x 2"));
    assert_eq!(forward(&x, Some(&turned), None, &loss), shape("bce", "weight", "2 x 3", "3 x 2"));
    assert_eq!(forward(&x, None, Some(&turned), &loss), shape("bce", "pos_weight", "1 x 3", "3 x 2"));
    assert_eq!(forward(&x, None, None, &turned), shape("bce", "loss", "1 x 1", "3 x 2"));
    let backward = |dy: &Held, dx: &Held, accum| {
        refused(gpu, &[&turned], |r| {
            let inputs = bce::Inputs { x: x.view()?, t: x.view()?, weight: None, pos_weight: None };
            bce::backward(r, inputs, Some(dy.view()?), dx.view()?, Options { accum, ..Default::default() })
        })
    };
    assert_eq!(backward(&turned, &x, Accum::Write), shape("bce", "dy", "1 x 1", "3 x 2"));
    assert_eq!(backward(&loss, &turned, Accum::Write), shape("bce", "dx", "2 x 3", "3 x 2"));
    let want = option("bce", "accum", "Accum::Write where a gradient takes its input's place", "Accum::Add");
    assert_eq!(backward(&loss, &x, Accum::Add), want);
}

#[test]
fn overlaps() {
    let Some(gpu) = gpu() else { return };
    let (all, other) = (output(gpu, 3, 3), input(gpu, 2, 3, &[0.0; 6]));
    let (first, last, free) = (view(&all).row_range(0..2), view(&all).row_range(1..3), view(&other));
    let free = bce::Inputs { x: free, t: free, weight: None, pos_weight: None };
    let options = Options { reduction: Reduction::None, ..Default::default() };
    let refuse = |inputs, loss, dx| refused(gpu, &[&all], |r| bce::forward(r, inputs, loss, Some(dx), options));
    let found = output(gpu, 2, 3);
    let over = |inputs| refuse(inputs, view(&found), last);
    assert_eq!(over(bce::Inputs { x: first, ..free }), overlap("bce", "dx", "x"));
    assert_eq!(over(bce::Inputs { t: first, ..free }), overlap("bce", "dx", "t"));
    assert_eq!(over(bce::Inputs { weight: Some(first), ..free }), overlap("bce", "dx", "weight"));
    assert_eq!(
        over(bce::Inputs { pos_weight: Some(last.row_range(0..1)), ..free }),
        overlap("bce", "dx", "pos_weight")
    );
    assert_eq!(refuse(free, first, last), overlap("bce", "loss", "dx"));
    assert_eq!(refuse(bce::Inputs { x: first, ..free }, last, view(&found)), overlap("bce", "loss", "x"));
}

#[test]
fn compute() {
    let Some(gpu) = gpu() else { return };
    let (x, t) = (Fill::Small.matrix(2, 3, 1), [0.0, 0.25, 1.0, 0.5, 1.0, 0.0]);
    let inputs = Inputs { x: &x, t: &t, weight: &[], pos_weight: &[] };
    for accum in [Accum::Write, Accum::Add] {
        let options = Options { accum, ..Default::default() };
        let (loss, dx) = bce::compute(gpu, &x, &t, 3, options).unwrap();
        let want = on_device(gpu, inputs, 3, &[], Options::default());
        assert_eq!([wide(&loss), wide(&dx)], want, "{accum:?} to nothing");
    }
}

#[test]
fn empty() {
    let Some(gpu) = gpu() else { return };
    let inputs = Inputs { x: &[], t: &[], weight: &[], pos_weight: &[] };
    for cols in [0, 3] {
        assert_eq!(on_device(gpu, inputs, cols, &[], Options::default()), [vec![0.0], vec![]]);
    }
}

#[test]
fn same_bits() {
    let Some(gpu) = gpu() else { return };
    let (x, t) = (Fill::Wide.matrix(70, 3000, 1), Fill::Small.matrix(70, 3000, 2));
    let inputs = Inputs { x: &x, t: &t, weight: &[], pos_weight: &[] };
    assert_repeats(|| on_device(gpu, inputs, 3000, &[], Options::default()).into());
}
