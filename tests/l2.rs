use wgloss::l2::{self, Gradients, Options};
use wgloss::verify::{Fill, Held};
use wgloss::{Accum, Gpu, Reduction, reference};

use crate::golden::{self, Case, Found, Kind, rows_of};
use crate::harness::*;

/// The loss, dx and dt; `dy` is empty for ones.
pub fn by_reference(x: &[f32], t: &[f32], cols: usize, dy: &[f32], options: Options) -> [Vec<f64>; 3] {
    let (x, t) = (wide(x), wide(t));
    let loss = reference::l2::forward(&x, &t, cols, options);
    let [dx, dt] = reference::l2::backward(&x, &t, cols, &wide(dy), options);
    [loss, dx, dt]
}

fn outputs(case: &Case, compute: impl Fn(&[f32], &[f32], usize, &[f32], Options) -> [Vec<f64>; 3]) -> Found {
    let (x, t) = (case.input("x"), case.input("t"));
    let (_, cols, _) = rows_of(&x.shape, -1, &x.data);
    let options = Options { reduction: case.reduction(), ..Default::default() };
    let [loss, dx, dt] = compute(&x.data, &t.data, cols, &case.gy(), options);
    Ok(vec![("loss", Kind::Value, loss), ("x", Kind::Grad, dx), ("t", Kind::Grad, dt)])
}

#[test]
fn golden_reference() {
    golden::grade_reference("mse", 1e-6, |case| outputs(case, by_reference));
}

#[test]
fn reference_gradient() {
    let [x, t] = [1, 2].map(|seed| wide(&Fill::Small.matrix(3, 4, seed)));
    for (reduction, count) in losses_of(3, 4) {
        for factor in [1.0, 0.5] {
            let options = Options { reduction, factor, ..Default::default() };
            let dy = wide(&Fill::Small.matrix(count, 1, 3));
            let [dx, dt] = reference::l2::backward(&x, &t, 4, &dy, options);
            assert_gradient(&x, &dx, |x| dot(&reference::l2::forward(x, &t, 4, options), &dy));
            assert_gradient(&t, &dt, |t| dot(&reference::l2::forward(&x, t, 4, options), &dy));
        }
    }
}

/// How the one number comes from the elements.
#[test]
fn reference_reductions() {
    let (x, t) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [0.0; 6]);
    let of = |reduction| by_reference(&x, &t, 3, &[], Options { reduction, factor: 0.5, ..Default::default() });
    let [loss, dx, _] = of(Reduction::None);
    assert_eq!((loss, dx), (vec![0.5, 2.0, 4.5, 8.0, 12.5, 18.0], wide(&x)));
    for (reduction, loss, divisor) in [
        (Reduction::Rows, vec![7.0, 38.5], 1.0),
        (Reduction::Sum, vec![45.5], 1.0),
        (Reduction::Mean, vec![45.5 / 6.0], 6.0),
        (Reduction::BatchMean, vec![45.5 / 2.0], 2.0),
    ] {
        let [found, dx, _] = of(reduction);
        assert_eq!(found, loss);
        assert_close(&dx, &x.map(|x| f64::from(x) / divisor), 1e-15);
        let empty = by_reference(&[], &[], 3, &[], Options { reduction, ..Default::default() });
        assert_eq!(empty, [if reduction == Reduction::Rows { vec![] } else { vec![0.0] }, vec![], vec![]]);
    }
}

/// The loss, dx and dt; without dy all in one pass.
pub fn on_device(gpu: &Gpu, x: &[f32], t: &[f32], cols: usize, dy: &[f32], options: Options) -> [Vec<f64>; 3] {
    let rows = rows_in(x, cols);
    let [loss_rows, loss_cols] = element_losses(options.reduction, [rows, cols]);
    let (x, t) = (input(gpu, rows, cols, x), input(gpu, rows, cols, t));
    let dy = (!dy.is_empty()).then(|| input(gpu, loss_rows, loss_cols, dy));
    let (loss, dx, dt) = (output(gpu, loss_rows, loss_cols), output(gpu, rows, cols), output(gpu, rows, cols));
    let record = gpu.run(|recorder| {
        let (x, t, dy) = (x.view()?, t.view()?, dy.as_ref().map(Held::view).transpose()?);
        let all = Gradients { dx: Some(dx.view()?), dt: Some(dt.view()?) };
        let now = if dy.is_none() { all } else { Gradients::default() };
        l2::forward(recorder, x, t, loss.view()?, now, options)?;
        if dy.is_some() { l2::backward(recorder, x, t, dy, all, options) } else { Ok(()) }
    });
    record.unwrap();
    [read(gpu, &loss), read(gpu, &dx), read(gpu, &dt)]
}

#[test]
fn verified() {
    verifies("l2");
}

#[test]
fn golden() {
    let Some(gpu) = gpu() else { return };
    golden::grade("mse", |case| outputs(case, |x, t, cols, dy, options| on_device(gpu, x, t, cols, dy, options)));
}

#[test]
fn special_values() {
    let Some(gpu) = gpu() else { return };
    let (nan, inf, most) = (f32::NAN, f32::INFINITY, f32::MAX);
    let [x, t] = [[nan, inf, inf, 1e30, most, 2.0], [0.0, inf, 1.0, 0.0, -most, 2.0]];
    for (factor, slope) in [(1.0, 2e30f32.into()), (3e38, f64::INFINITY)] {
        let options = Options { reduction: Reduction::None, factor, ..Default::default() };
        let [loss, dx, dt] = on_device(gpu, &x, &t, 6, &[], options);
        let (nan, inf) = (f64::NAN, f64::INFINITY);
        assert_close(&loss, &[nan, nan, inf, inf, inf, 0.0], 0.0);
        assert_close(&dx, &[nan, nan, inf, slope, inf, 0.0], 1e-7);
        assert_close(&dt, &dx.iter().map(|dx| -dx).collect::<Vec<_>>(), 0.0);
    }
}

#[test]
fn in_place() {
    let Some(gpu) = gpu() else { return };
    let (x, t) = (Fill::Small.matrix(5, 700, 1), Fill::Small.matrix(5, 700, 2));
    let [_, want, _] = on_device(gpu, &x, &t, 700, &[], Options::default());
    for accum in [Accum::Write, Accum::Add] {
        let (_, dx) = l2::compute(gpu, &x, &t, 700, Options { accum, ..Default::default() }).unwrap();
        assert_eq!(wide(&dx), want, "{accum:?} to nothing");
    }
}

#[test]
fn refusals() {
    let Some(gpu) = gpu() else { return };
    let (x, turned, loss) = (input(gpu, 2, 3, &[0.0; 6]), output(gpu, 3, 2), output(gpu, 1, 1));
    let none = Gradients::default();
    let forward = |t: &Held, loss: &Held, options| {
        refused(gpu, &[&turned], |r| l2::forward(r, x.view()?, t.view()?, loss.view()?, none, options))
    };
    let default = Options::default();
    assert_eq!(forward(&turned, &loss, default), shape("l2", "t", "2 x 3", "3 x 2"));
    assert_eq!(forward(&x, &turned, default), shape("l2", "loss", "1 x 1", "3 x 2"));
    let rows = Options { reduction: Reduction::Rows, ..default };
    assert_eq!(forward(&x, &loss, rows), shape("l2", "loss", "2 x 1", "1 x 1"));
    for factor in [0.0, -1.0, f32::NAN, f32::INFINITY, 1e-40] {
        let want = option("l2", "factor", "a normal number above 0", &factor.to_string());
        assert_eq!(forward(&x, &loss, Options { factor, ..default }), want);
    }
    let error = refused(gpu, &[&turned], |r| {
        l2::backward(r, x.view()?, x.view()?, None, Gradients { dt: Some(turned.view()?), ..none }, default)
    });
    assert_eq!(error, shape("l2", "dt", "2 x 3", "3 x 2"));
    let other = input(gpu, 2, 3, &[0.0; 6]);
    let error = refused(gpu, &[], |r| {
        l2::backward(r, other.view()?, x.view()?, None, Gradients { dt: Some(x.view()?), ..none }, default)
    });
    assert_eq!(error, overlap("l2", "dt", "t"));
    // Over x itself a gradient is written, not added, and only dx.
    let (same, add) = (view(&turned), Options { accum: Accum::Add, ..default });
    let in_place = |gradients, options| {
        refused(gpu, &[&turned], |r| {
            l2::backward(r, same, input(gpu, 3, 2, &[0.0; 6]).view()?, None, gradients, options)
        })
    };
    let want = option("l2", "accum", "Accum::Write where a gradient takes its input's place", "Accum::Add");
    assert_eq!(in_place(Gradients { dx: Some(same), ..none }, add), want);
    assert_eq!(in_place(Gradients { dt: Some(same), ..none }, default), overlap("l2", "dt", "x"));
    assert_eq!(in_place(Gradients { dx: Some(same), dt: Some(same) }, default), overlap("l2", "dx", "dt"));
}

#[test]
fn empty() {
    let Some(gpu) = gpu() else { return };
    let [loss, dx, dt] = on_device(gpu, &[], &[], 0, &[], Options::default());
    assert_eq!((loss.as_slice(), dx.len() + dt.len()), (&[0.0][..], 0));
}

#[test]
fn same_bits() {
    let Some(gpu) = gpu() else { return };
    let (x, t) = (Fill::Wide.matrix(70, 3000, 1), Fill::Small.matrix(70, 3000, 2));
    assert_repeats(|| on_device(gpu, &x, &t, 3000, &[], Options::default()).into());
}
