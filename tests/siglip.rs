use wgloss::reference::siglip::Learned;
use wgloss::siglip::{self, Gradients, Options};
use wgloss::verify::{Fill, Held};
use wgloss::{Accum, Error, Gpu, Reduction, Storage, Tensor, normalize, reference};

use crate::golden::{self, Case, Found, Kind};
use crate::harness::*;

pub struct Batch<'a> {
    pub q: &'a [f32],
    pub k: &'a [f32],
    pub dim: usize,
    pub learned: Learned<f32>,
    /// Empty: absent.
    pub dy: &'a [f32],
}

const CONSTANT: Learned<f32> = Learned { log_scale: None, bias: None };

/// Scores as they are.
const UNIT: Options =
    Options { temperature: 1.0, bias: 0.0, max_scale: 100.0, reduction: Reduction::None, accum: Accum::Write };

/// Without a gradient of the loss and without learned parameters.
pub fn plain<'a>(q: &'a [f32], k: &'a [f32], dim: usize) -> Batch<'a> {
    Batch { q, k, dim, learned: CONSTANT, dy: &[] }
}

fn scalar(held: &Option<Held>) -> wgloss::Result<Option<Tensor<'_>>> {
    held.as_ref().map(Held::view).transpose()
}

/// The loss, dq, dk, d_log_scale and d_bias; without dy in one pass with the loss, else in one of their own.
pub fn on_device(gpu: &Gpu, batch: &Batch, options: Options) -> [Vec<f64>; 5] {
    let ([n, m], dim) = ([batch.q, batch.k].map(|x| rows_in(x, batch.dim)), batch.dim);
    let (q, k) = (input(gpu, n, dim, batch.q), input(gpu, m, dim, batch.k));
    let loss_rows = if matches!(options.reduction, Reduction::None | Reduction::Rows) { n } else { 1 };
    let [log_scale, bias] =
        [batch.learned.log_scale, batch.learned.bias].map(|value| value.map(|value| input(gpu, 1, 1, &[value])));
    let dy = (!batch.dy.is_empty()).then(|| input(gpu, loss_rows, 1, batch.dy));
    let (loss, dq, dk) = (output(gpu, loss_rows, 1), output(gpu, n, dim), output(gpu, m, dim));
    let (d_log_scale, d_bias) = (output(gpu, 1, 1), output(gpu, 1, 1));
    let record = gpu.run(|recorder| {
        let (q, k, loss) = (q.view()?, k.view()?, loss.view()?);
        let learned = siglip::Learned { log_scale: scalar(&log_scale)?, bias: scalar(&bias)? };
        let gradients = Gradients {
            dq: Some(dq.view()?),
            dk: Some(dk.view()?),
            d_log_scale: Some(d_log_scale.view()?),
            d_bias: Some(d_bias.view()?),
        };
        match scalar(&dy)? {
            None => siglip::forward(recorder, q, k, learned, loss, gradients, options),
            dy => {
                siglip::forward(recorder, q, k, learned, loss, Gradients::default(), options)?;
                siglip::backward(recorder, q, k, learned, dy, gradients, options)
            }
        }
    });
    record.unwrap();
    [&loss, &dq, &dk, &d_log_scale, &d_bias].map(|held| read(gpu, held))
}

/// The loss, dq, dk, d_log_scale and d_bias.
pub fn by_reference(batch: &Batch, options: Options) -> [Vec<f64>; 5] {
    of_rows(&wide(batch.q), &wide(batch.k), batch, options)
}

fn of_rows(q: &[f64], k: &[f64], batch: &Batch, options: Options) -> [Vec<f64>; 5] {
    let learned =
        Learned { log_scale: batch.learned.log_scale.map(f64::from), bias: batch.learned.bias.map(f64::from) };
    let loss = reference::siglip::forward(q, k, batch.dim, learned, options);
    let found = reference::siglip::backward(q, k, batch.dim, learned, &wide(batch.dy), options);
    [loss, found.dq, found.dk, vec![found.d_log_scale], vec![found.d_bias]]
}

/// The bank's loss of rows that may have to be normalised first; gradients are of the rows as given.
fn outputs(case: &Case, compute: impl Fn(&Batch, bool, Options) -> [Vec<f64>; 5]) -> Found {
    let (q, k) = (case.input("img"), case.input("txt"));
    let learned = Learned { log_scale: Some(case.input("t_prime").data[0]), bias: Some(case.input("bias").data[0]) };
    let batch = Batch { q: &q.data, k: &k.data, dim: q.shape[1], learned, dy: &[] };
    let options = Options { max_scale: f32::MAX, ..Default::default() };
    let [loss, dq, dk, d_log_scale, d_bias] = compute(&batch, case.flag("normalize"), options);
    Ok(vec![
        ("loss", Kind::Value, loss),
        ("img", Kind::Grad, dq),
        ("txt", Kind::Grad, dk),
        ("t_prime", Kind::Grad, d_log_scale),
        ("bias", Kind::Grad, d_bias),
    ])
}

#[test]
fn verified() {
    verifies("siglip");
}

#[test]
fn golden() {
    let Some(gpu) = gpu() else { return };
    let eps = normalize::Options::default();
    golden::grade("siglip", |case| {
        outputs(case, |batch, normalized, options| {
            if !normalized {
                return on_device(gpu, batch, options);
            }
            let (dim, [q, k]) = (batch.dim, [batch.q, batch.k]);
            let unit = [q, k].map(|x| normalize::compute(gpu, x, dim, eps).unwrap());
            let of_unit = Batch { q: &unit[0], k: &unit[1], dy: &[], ..*batch };
            let [loss, dq, dk, d_log_scale, d_bias] = on_device(gpu, &of_unit, options);
            let back = |x: &[f32], dy: &[f64]| {
                let dy: Vec<f32> = dy.iter().map(|&dy| dy as f32).collect();
                let rows = x.len() / dim;
                let (x, dy, dx) = (input(gpu, rows, dim, x), input(gpu, rows, dim, &dy), output(gpu, rows, dim));
                gpu.run(|r| normalize::backward(r, x.view()?, dy.view()?, dx.view()?, eps)).unwrap();
                read(gpu, &dx)
            };
            [loss, back(q, &dq), back(k, &dk), d_log_scale, d_bias]
        })
    });
}

#[test]
fn golden_reference() {
    golden::grade_reference("siglip", 1e-6, |case| {
        outputs(case, |batch, normalized, options| {
            if !normalized {
                return by_reference(batch, options);
            }
            let (q, k, dim, eps) = (wide(batch.q), wide(batch.k), batch.dim, normalize::Options::default());
            let unit = |x: &[f64]| reference::normalize::forward(x, dim, eps);
            let [loss, dq, dk, d_log_scale, d_bias] = of_rows(&unit(&q), &unit(&k), batch, options);
            let back = |x: &[f64], dy: &[f64]| reference::normalize::backward(x, dy, dim, eps);
            [loss, back(&q, &dq), back(&k, &dk), d_log_scale, d_bias]
        })
    });
}

#[test]
fn reference_gradient() {
    let [q, k] = [(4, 1), (6, 2)].map(|(rows, seed)| wide(&Fill::Small.matrix(rows, 3, seed)));
    let constant = Options { temperature: 0.5, bias: -0.7, ..Default::default() };
    for (reduction, count) in losses_of(4, 1) {
        let dy = wide(&Fill::Small.matrix(count, 1, 3));
        for learned in [Learned::default(), Learned { log_scale: Some(0.3), bias: Some(0.4) }] {
            let options = Options { reduction, ..constant };
            let loss = |q: &[f64], k: &[f64], learned| dot(&reference::siglip::forward(q, k, 3, learned, options), &dy);
            let found = reference::siglip::backward(&q, &k, 3, learned, &dy, options);
            assert_gradient(&q, &found.dq, |q| loss(q, &k, learned));
            assert_gradient(&k, &found.dk, |k| loss(&q, k, learned));
            let (log_scale, bias) = (learned.log_scale.unwrap_or(2f64.ln()), learned.bias.unwrap_or((-0.7f32).into()));
            assert_gradient(&[log_scale, bias], &[found.d_log_scale, found.d_bias], |at| {
                loss(&q, &k, Learned { log_scale: Some(at[0]), bias: Some(at[1]) })
            });
        }
    }
}

#[test]
fn reference_clamps_the_scale() {
    let [q, k] = [1, 2].map(|seed| Fill::Small.matrix(4, 3, seed));
    let options = Options { reduction: Reduction::Sum, max_scale: 10.0, ..Default::default() };
    let of = |log_scale| {
        let learned = Learned { log_scale, bias: None };
        by_reference(&Batch { q: &q, k: &k, dim: 3, learned, dy: &[] }, Options { temperature: 0.1, ..options })
    };
    let ([loss, dq, dk, d_log_scale, d_bias], want) = (of(Some(5.0)), of(None));
    for (found, want) in [loss, dq, dk].iter().zip(&want) {
        assert_close(found, want, 1e-6);
    }
    assert_close(&d_bias, &want[4], 1e-6);
    assert_eq!(d_log_scale, [0.0]);
}

/// ln 2, softplus and its slope where no f32 sigmoid would do: −ln σ(±z) and the slopes at any magnitude, with all digits.
#[test]
fn every_magnitude() {
    let Some(gpu) = gpu() else { return };
    for z in [0.0f32, 1e-30, -1e-30, 0.3, -0.9, 5.0, -17.0, 40.0, -80.0, 87.0, -1e4, 1e4, 1e30, -1e30, 3e38, -3e38] {
        // Query 0 and its own key score z, with the other key z as well.
        let [loss, _, dk, d_log_scale, d_bias] = on_device(gpu, &plain(&[1.0], &[z, z], 1), UNIT);
        let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
        let sigmoid = |x: f64| if x < 0.0 { x.exp() / (1.0 + x.exp()) } else { 1.0 / (1.0 + (-x).exp()) };
        let z = f64::from(z);
        assert_close(&loss, &[softplus(z) + softplus(-z)], 1e-6);
        let flushed = |x: f64| if x < f64::from(f32::MIN_POSITIVE) { 0.0 } else { x };
        let (own, other) = (-flushed(sigmoid(-z)), flushed(sigmoid(z)));
        assert_close(&dk, &[own, other], 1e-6);
        let size = z.abs().max(1.0) * (own.abs() + other.abs());
        assert!((d_bias[0] - (own + other)).abs() <= 1e-6 * size, "d_bias at {z}: {}", d_bias[0]);
        assert!((d_log_scale[0] - z * (own + other)).abs() <= 1e-6 * size, "d_log_scale at {z}: {}", d_log_scale[0]);
    }
}

/// A score that overflows has its limit as loss, and no other pair notices.
#[test]
fn overflowing_scores() {
    let Some(gpu) = gpu() else { return };
    let huge = 3e38f32;
    for sign in [1.0f32, -1.0] {
        // Query 0 scores ±9e76 with key 1, all other pairs 0.
        let (q, k) = ([huge, 0.0], [0.0, sign * huge]);
        let [loss, dq, dk, _, d_bias] = on_device(gpu, &plain(&q, &k, 1), UNIT);
        let ln2 = 2f64.ln();
        assert_close(&loss, &[if sign > 0.0 { f64::INFINITY } else { ln2 }, 2.0 * ln2], 1e-6);
        assert!(dq.iter().chain(&dk).chain(&d_bias).all(|d| !d.is_nan()), "{dq:?} {dk:?} {d_bias:?}");
        assert_eq!(dq[0], if sign > 0.0 { f64::from(huge) } else { 0.0 });
        // Its own key: the loss is infinite where the score is -inf.
        let [loss, _, _, d_log_scale, _] = on_device(gpu, &plain(&[huge], &[sign * huge], 1), UNIT);
        assert_eq!(loss[0], if sign > 0.0 { 0.0 } else { f64::INFINITY });
        assert!(!d_log_scale[0].is_nan());
    }
}

#[test]
fn nan() {
    let Some(gpu) = gpu() else { return };
    let (mut q, mut k) = (Fill::Small.matrix(5, 3, 1), Fill::Small.matrix(6, 3, 2));
    let want = on_device(gpu, &plain(&q, &k, 3), UNIT);
    q[7] = f32::NAN; // query 2
    let found = on_device(gpu, &plain(&q, &k, 3), UNIT);
    assert_nan_row(2, [(&found[0], 1), (&found[1], 3)], [&want[0], &want[1]]);
    found[2..].iter().for_each(|found| assert_nan(found)); // every key has a score with query 2
    (q[7], k[7]) = (0.0, f32::NAN);
    assert_nan(&on_device(gpu, &plain(&q, &k, 3), UNIT)[0]);
    k[7] = 0.0;
    for learned in [Learned { log_scale: Some(f32::NAN), ..CONSTANT }, Learned { bias: Some(f32::NAN), ..CONSTANT }] {
        on_device(gpu, &Batch { learned, ..plain(&q, &k, 3) }, UNIT).iter().for_each(|found| assert_nan(found));
    }
}

#[test]
fn learned_parameters() {
    let Some(gpu) = gpu() else { return };
    let (q, k) = (Fill::Small.matrix(5, 3, 3), Fill::Small.matrix(7, 3, 4));
    let of = |learned, options| on_device(gpu, &Batch { learned, ..plain(&q, &k, 3) }, options);
    let constant = |scale: f32, bias: f32| of(CONSTANT, Options { temperature: 1.0 / scale, bias, ..UNIT });
    assert_eq!(of(Learned { log_scale: Some(0.0), bias: Some(-2.5) }, UNIT), constant(1.0, -2.5));
    assert_eq!(of(Learned { bias: Some(-2.5), ..CONSTANT }, UNIT), constant(1.0, -2.5));
    // Past the bound: its scores, and no gradient of the scale.
    let bounded = Options { max_scale: 8.0, bias: 1.0, ..UNIT };
    for log_scale in [2.1, 80.0, 1e30, f32::INFINITY] {
        let [loss, dq, dk, d_log_scale, d_bias] = of(Learned { log_scale: Some(log_scale), ..CONSTANT }, bounded);
        let [want_loss, want_dq, want_dk, _, want_d_bias] = constant(8.0, 1.0);
        assert_eq!([loss, dq, dk, d_bias], [want_loss, want_dq, want_dk, want_d_bias]);
        assert_eq!(d_log_scale, [0.0]);
    }
}

/// In one pass with the loss, in one of their own, alone: the same bits.
#[test]
fn gradients_that_are_not_asked_for() {
    let Some(gpu) = gpu() else { return };
    let (n, m, dim) = (70, 75, 5);
    let (q, k) = (Fill::Small.matrix(n, dim, 1), Fill::Small.matrix(m, dim, 2));
    let options = Options { reduction: Reduction::Mean, bias: -1.0, ..UNIT };
    let all = on_device(gpu, &plain(&q, &k, dim), options);
    let alone = on_device(gpu, &Batch { dy: &[1.0], ..plain(&q, &k, dim) }, options);
    assert_eq!(all, alone);
    let (q, k) = (input(gpu, n, dim, &q), input(gpu, m, dim, &k));
    for wanted in 0..16 {
        let outputs = [[n, dim], [m, dim], [1, 1], [1, 1]].map(|[rows, cols]| output(gpu, rows, cols));
        let loss = output(gpu, 1, 1);
        let record = gpu.run(|r| {
            let view = |at: usize| (wanted >> at & 1 == 1).then(|| outputs[at].view()).transpose();
            let gradients = Gradients { dq: view(0)?, dk: view(1)?, d_log_scale: view(2)?, d_bias: view(3)? };
            siglip::backward(r, q.view()?, k.view()?, Default::default(), None, gradients, options)?;
            let found = outputs.iter().enumerate().map(|(at, _)| at).filter(|at| wanted >> at & 1 == 1);
            assert_eq!(found.count(), (wanted as u32).count_ones() as usize);
            siglip::forward(r, q.view()?, k.view()?, Default::default(), loss.view()?, gradients, options)
        });
        record.unwrap();
        assert_eq!(read(gpu, &loss), all[0]);
        for (at, output) in outputs.iter().enumerate() {
            match wanted >> at & 1 == 1 {
                true => assert_eq!(read(gpu, output), all[at + 1], "output {at} of {wanted:b}"),
                false => assert!(untouched(gpu, output), "output {at} of {wanted:b}"),
            }
        }
    }
}

#[test]
fn empty() {
    let Some(gpu) = gpu() else { return };
    let k = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    for (reduction, count) in losses_of(0, 1) {
        let options = Options { reduction, ..UNIT };
        let loss = vec![0.0; count];
        let found = on_device(gpu, &plain(&[], &[], 2), options);
        assert_eq!(found, [loss.clone(), vec![], vec![], vec![0.0], vec![0.0]]);
        // Negatives without queries: their gradient is a sum over nothing.
        let found = on_device(gpu, &plain(&[], &k, 2), options);
        assert_eq!(found, [loss, vec![], vec![0.0; 6], vec![0.0], vec![0.0]]);
    }
    // No dimensions: all scores are the bias.
    let [loss, _, _, d_log_scale, d_bias] = on_device(gpu, &plain(&[], &[], 0), UNIT);
    assert_close(&loss, &[2.0 * 2f64.ln(); 2], 1e-6);
    assert_eq!([d_log_scale, d_bias], [[0.0], [0.0]]);
}

#[test]
fn slices() {
    let Some(gpu) = gpu() else { return };
    let (q, k) = (Fill::Small.matrix(4, 3, 7), Fill::Small.matrix(6, 3, 8));
    let options = Options { reduction: Reduction::Mean, ..UNIT };
    let found = siglip::compute(gpu, &q, &k, 3, options).unwrap();
    let want = on_device(gpu, &plain(&q, &k, 3), options);
    let sums = [found.d_log_scale, found.d_bias].map(|sum| wide(&[sum]));
    assert_eq!([wide(&found.loss), wide(&found.d_queries), wide(&found.d_keys)], want[..3]);
    assert_eq!(sums, want[3..]);
    let error = siglip::compute(gpu, &q, &k, 5, options).unwrap_err();
    assert_eq!(error, shape("siglip", "q", "whole rows of 5", "12 elements"));
    let error = siglip::compute(gpu, &q[..10], &k[..12], 5, options).unwrap_err();
    assert_eq!(error, shape("siglip", "k", "whole rows of 5", "12 elements"));
}

#[test]
fn refusals() {
    let Some(gpu) = gpu() else { return };
    let (q, k, few) = (input(gpu, 4, 3, &[0.0; 12]), input(gpu, 5, 3, &[0.0; 15]), input(gpu, 3, 3, &[0.0; 9]));
    let (turned, scalar) = (input(gpu, 5, 2, &[0.0; 10]), input(gpu, 1, 1, &[0.0]));
    let (loss, dq, dk, d) = (output(gpu, 1, 1), output(gpu, 4, 3), output(gpu, 5, 3), output(gpu, 1, 1));
    let outputs = [&loss, &dq, &dk, &d];
    let mean = Options { reduction: Reduction::Mean, ..UNIT };
    let forward = |k: &Held, [log_scale, bias]: [&Held; 2], loss: &Held, options| {
        refused(gpu, &outputs, |r| {
            let learned = siglip::Learned { log_scale: Some(log_scale.view()?), bias: Some(bias.view()?) };
            siglip::forward(r, q.view()?, k.view()?, learned, loss.view()?, Gradients::default(), options)
        })
    };
    let right = [&scalar; 2];
    assert_eq!(forward(&turned, right, &loss, mean), shape("siglip", "k", "5 x 3", "5 x 2"));
    assert_eq!(forward(&few, right, &loss, mean), shape("siglip", "k", "at least 4 rows", "3 rows"));
    assert_eq!(forward(&k, [&few, &scalar], &loss, mean), shape("siglip", "log_scale", "1 x 1", "3 x 3"));
    assert_eq!(forward(&k, [&scalar, &few], &loss, mean), shape("siglip", "bias", "1 x 1", "3 x 3"));
    assert_eq!(forward(&k, right, &dq, mean), shape("siglip", "loss", "1 x 1", "4 x 3"));
    assert_eq!(forward(&k, right, &loss, UNIT), shape("siglip", "loss", "4 x 1", "1 x 1"));
    for (value, found) in [(0.0, "0"), (-1.0, "-1"), (f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        let refused = |options| forward(&k, right, &loss, options);
        let between = option("siglip", "temperature", "from 1.2e-38 to 8.5e37", found);
        assert_eq!(refused(Options { temperature: value, ..mean }), between);
        let normal = option("siglip", "max_scale", "a normal number above 0", found);
        assert_eq!(refused(Options { max_scale: value, ..mean }), normal);
        if !value.is_finite() {
            let error = refused(Options { bias: value, ..mean });
            assert_eq!(error, option("siglip", "bias", "a finite number", found));
        }
    }
    let backward = |dy: &Held, [dq, dk, d_log_scale, d_bias]: [&Held; 4]| {
        refused(gpu, &outputs, |r| {
            let gradients = Gradients {
                dq: Some(dq.view()?),
                dk: Some(dk.view()?),
                d_log_scale: Some(d_log_scale.view()?),
                d_bias: Some(d_bias.view()?),
            };
            siglip::backward(r, q.view()?, k.view()?, Default::default(), Some(dy.view()?), gradients, mean)
        })
    };
    assert_eq!(backward(&few, [&dq, &dk, &d, &loss]), shape("siglip", "dy", "1 x 1", "3 x 3"));
    assert_eq!(backward(&scalar, [&dk, &dk, &d, &loss]), shape("siglip", "dq", "4 x 3", "5 x 3"));
    assert_eq!(backward(&scalar, [&dq, &dq, &d, &loss]), shape("siglip", "dk", "5 x 3", "4 x 3"));
    assert_eq!(backward(&scalar, [&dq, &dk, &dq, &loss]), shape("siglip", "d_log_scale", "1 x 1", "4 x 3"));
    assert_eq!(backward(&scalar, [&dq, &dk, &d, &dk]), shape("siglip", "d_bias", "1 x 1", "5 x 3"));
}

/// Also where no single dispatch has both: dk reads q after dq is written.
#[test]
fn overlaps() {
    let Some(gpu) = gpu() else { return };
    let square = || output(gpu, 2, 2);
    let (q, k, loss, other, free) = (square(), square(), square(), square(), square());
    fn corner<'a>(held: &'a Held) -> wgloss::Result<Tensor<'a>> {
        Ok(held.view()?.row_range(0..1).col_range(0..1))
    }
    let mean = Options { reduction: Reduction::Mean, ..UNIT };
    let forward = |dq: &Held, dk: &Held, d_bias: &Held| {
        refused(gpu, &[dq, dk, d_bias], |r| {
            let learned = siglip::Learned { log_scale: Some(corner(&other)?), bias: None };
            let (dq, dk, d_bias) = (Some(dq.view()?), Some(dk.view()?), Some(corner(d_bias)?));
            let gradients = Gradients { dq, dk, d_bias, ..Default::default() };
            siglip::forward(r, q.view()?, k.view()?, learned, corner(&loss)?, gradients, mean)
        })
    };
    let last = square();
    assert_eq!(forward(&q, &free, &last), overlap("siglip", "dq", "q"));
    assert_eq!(forward(&free, &q, &last), overlap("siglip", "dk", "q"));
    assert_eq!(forward(&free, &free, &last), overlap("siglip", "dq", "dk"));
    assert_eq!(forward(&loss, &free, &last), overlap("siglip", "loss", "dq"));
    assert_eq!(forward(&free, &other, &last), overlap("siglip", "dk", "log_scale"));
    assert_eq!(forward(&free, &last, &k), overlap("siglip", "d_bias", "k"));
}

/// Storage of two bytes with several chunks, each of which is rounded.
#[test]
fn chunks_of_half_precision() {
    let Some(gpu) = gpu() else { return };
    let (n, m, dim) = (150, 200, 6);
    let tight = gpu.with_tuning(wgloss::Tuning { workspace: 64 << 10, ..*gpu.tuning() });
    let (q, k) = (Fill::Small.matrix(n, dim, 1), Fill::Small.matrix(m, dim, 2));
    let options = Options { bias: -1.0, reduction: Reduction::Sum, ..UNIT };
    let want = by_reference(&plain(&q, &k, dim), options);
    let (q, k) = (input(gpu, n, dim, &q), input(gpu, m, dim, &k));
    let check = wgloss::verify::Check::new(gpu);
    let (dq, dk) = (check.output_as(Storage::F16, n, dim).unwrap(), check.output_as(Storage::F16, m, dim).unwrap());
    let record = tight.run(|r| {
        let gradients = Gradients { dq: Some(dq.view()?), dk: Some(dk.view()?), ..Default::default() };
        siglip::backward(r, q.view()?, k.view()?, Default::default(), None, gradients, options)
    });
    record.unwrap();
    for (found, want) in [(read(gpu, &dq), &want[1]), (read(gpu, &dk), &want[2])] {
        let largest = want.iter().fold(0.0f64, |largest, want| largest.max(want.abs()));
        assert!(found.iter().zip(want).all(|(found, want)| (found - want).abs() <= 4e-3 * largest));
    }
}

#[test]
fn a_workspace_too_small_for_a_tile() {
    let Some(gpu) = gpu() else { return };
    let tight = gpu.with_tuning(wgloss::Tuning { workspace: 1024, ..*gpu.tuning() });
    let (q, dq) = (input(gpu, 2, 3, &[0.5f32; 6]), output(gpu, 2, 3));
    let error = refused(&tight, &[&dq], |r| {
        let gradients = Gradients { dq: Some(dq.view()?), ..Default::default() };
        siglip::backward(r, q.view()?, q.view()?, Default::default(), None, gradients, UNIT)
    });
    let what = "siglip: the workspace of one tile".to_owned();
    let [rows, cols] = tight.tuning().tile();
    assert_eq!(error, Error::Limit { what, needed: 4 * (rows * cols) as u64, unit: "bytes", limit: 1024 });
}

#[test]
fn same_bits() {
    let Some(gpu) = gpu() else { return };
    let (q, k) = (Fill::Small.matrix(600, 9, 9), Fill::Small.matrix(650, 9, 10));
    assert_repeats(|| on_device(gpu, &plain(&q, &k, 9), Options { reduction: Reduction::Mean, ..UNIT }).into());
}
