use wgloss::info_nce::{self, Options};
use wgloss::reference::info_nce::Gradients;
use wgloss::verify::{self, Check, Fill, Held};
use wgloss::{Accum, Gpu, Reduction, Storage, Tensor, Tuning, normalize, reference};

use crate::golden::{self, Case, Found, Kind};
use crate::harness::*;

const UNIT: Options = Options {
    temperature: 1.0,
    max_scale: 100.0,
    normalize: false,
    symmetric: false,
    in_batch: true,
    query_negatives: false,
    key_negatives: false,
    reduction: Reduction::None,
    accum: Accum::Write,
    exclude_self: false,
    inside_log: false,
    decoupled: false,
    tau_plus: 0.0,
    hardness: 0.0,
    label_smoothing: 0.0,
    margin: 0.0,
    near_margin: f32::INFINITY,
};
const BOTH: Options = Options { symmetric: true, ..UNIT };

pub struct Batch<'a> {
    pub q: &'a [f32],
    pub k: &'a [f32],
    pub dim: usize,
    pub log_scale: Option<f32>,
    /// Empty: absent.
    pub dy: &'a [f32],
}

impl Batch<'_> {
    fn sizes(&self) -> [usize; 2] {
        [rows_in(self.q, self.dim), rows_in(self.k, self.dim)]
    }
}

/// Without a gradient of the loss and without a learnable scale.
pub fn plain<'a>(q: &'a [f32], k: &'a [f32], dim: usize) -> Batch<'a> {
    Batch { q, k, dim, log_scale: None, dy: &[] }
}

/// The loss, dq, dk and d_log_scale.
pub fn on_device(gpu: &Gpu, batch: &Batch, options: Options) -> [Vec<f64>; 4] {
    let ([n, m], dim) = (batch.sizes(), batch.dim);
    let (q, k) = (input(gpu, n, dim, batch.q), input(gpu, m, dim, batch.k));
    let loss_rows = if options.reduction == Reduction::None { n } else { 1 };
    let log_scale = batch.log_scale.map(|value| input(gpu, 1, 1, &[value]));
    let dy = (!batch.dy.is_empty()).then(|| input(gpu, loss_rows, 1, batch.dy));
    let lines = n + if options.symmetric { m } else { 0 };
    let (loss, state) = (output(gpu, loss_rows, 1), output(gpu, lines, 4));
    let (dq, dk, d_log_scale) = (output(gpu, n, dim), output(gpu, m, dim), output(gpu, 1, 1));
    let record = gpu.run(|recorder| {
        let log_scale = log_scale.as_ref().map(Held::view).transpose()?;
        let batch = info_nce::Batch { log_scale, ..info_nce::Batch::new(q.view()?, k.view()?) };
        let dy = dy.as_ref().map(Held::view).transpose()?;
        info_nce::forward(recorder, batch, loss.view()?, state.view()?, Default::default(), options)?;
        info_nce::backward(recorder, batch, state.view()?, dy, all_of(&dq, &dk, &d_log_scale)?, options)
    });
    record.unwrap();
    [&loss, &dq, &dk, &d_log_scale].map(|held| read(gpu, held))
}

/// All gradients.
pub fn all_of<'a>(dq: &'a Held, dk: &'a Held, d_log_scale: &'a Held) -> wgloss::Result<info_nce::Gradients<'a>> {
    let (dq, dk, d_log_scale) = (Some(dq.view()?), Some(dk.view()?), Some(d_log_scale.view()?));
    Ok(info_nce::Gradients { dq, dk, d_log_scale, ..Default::default() })
}

pub fn by_reference(batch: &Batch, options: Options) -> [Vec<f64>; 4] {
    let (q, k, log_scale) = (wide(batch.q), wide(batch.k), batch.log_scale.map(f64::from));
    let wide_batch = reference::info_nce::Batch { log_scale, ..reference::info_nce::Batch::new(&q, &k, batch.dim) };
    let loss = reference::info_nce::forward(wide_batch, options);
    let found = reference::info_nce::backward(wide_batch, &wide(batch.dy), options);
    [loss, found.dq, found.dk, vec![found.d_log_scale]]
}

#[test]
fn verified() {
    verifies("info_nce");
    // A tile at a time: what is known of a line and what is added up goes from chunk to chunk. The kernels are those of the first run.
    let Some(gpu) = gpu() else { return };
    let tuning = Tuning::SOFTWARE;
    let [rows, cols] = [16 * tuning.tile_y, 4 * tuning.tile_x].map(u64::from);
    verifies_on(&gpu.with_tuning(Tuning { workspace: 4 * rows * cols, ..tuning }), "info_nce", verify::run);
}

/// The bank's loss of rows that may have to be normalised first: the loss, the gradients of the rows as given, d_log_scale.
type Normalised<'a> = &'a dyn Fn(&[f32], &[f32], usize, bool, Options) -> [Vec<f64>; 4];

fn outputs(case: &Case, compute: Normalised) -> Found {
    let (q, keys, tau) = (case.input("q"), case.input("k"), case.input("tau").data[0]);
    let mut k = keys.data.clone();
    match case.text("negatives") {
        "in_batch" => {}
        "in_batch+shared" => k.extend(case.input("neg").data),
        _ => return Err("negatives of this kind"),
    }
    let reduction = if case.text("reduction") == "mean" { Reduction::Mean } else { Reduction::Sum };
    let options = Options { temperature: tau, symmetric: case.flag("symmetric"), reduction, ..Default::default() };
    let [loss, dq, dk, d_log_scale] = compute(&q.data, &k, q.shape[1], case.flag("normalize"), options);
    let (of_keys, of_negatives) = dk.split_at(keys.data.len());
    let d_tau = d_log_scale.iter().map(|d| -d / f64::from(tau)).collect(); // scale = 1/tau
    Ok(vec![
        ("loss", Kind::Value, loss),
        ("q", Kind::Grad, dq),
        ("k", Kind::Grad, of_keys.to_vec()),
        ("neg", Kind::Grad, of_negatives.to_vec()),
        ("tau", Kind::Grad, d_tau),
    ])
}

#[test]
fn golden() {
    let Some(gpu) = gpu() else { return };
    golden::grade("infonce", |case| {
        outputs(case, &|q, k, dim, normalized, options| {
            if !normalized {
                return on_device(gpu, &plain(q, k, dim), options);
            }
            let eps = normalize::Options::default();
            let (n, m) = (q.len() / dim, k.len() / dim);
            let (q, k) = (input(gpu, n, dim, q), input(gpu, m, dim, k));
            let (q_unit, k_unit) = (output(gpu, n, dim), output(gpu, m, dim));
            let (dq_unit, dk_unit) = (output(gpu, n, dim), output(gpu, m, dim));
            let lines = n + if options.symmetric { m } else { 0 };
            let (loss, state) = (output(gpu, 1, 1), output(gpu, lines, 4));
            let (dq, dk, d_log_scale) = (output(gpu, n, dim), output(gpu, m, dim), output(gpu, 1, 1));
            let record = gpu.run(|r| {
                normalize::forward(r, q.view()?, q_unit.view()?, eps)?;
                normalize::forward(r, k.view()?, k_unit.view()?, eps)?;
                let batch = info_nce::Batch::new(q_unit.view()?, k_unit.view()?);
                info_nce::forward(r, batch, loss.view()?, state.view()?, Default::default(), options)?;
                let gradients = all_of(&dq_unit, &dk_unit, &d_log_scale)?;
                info_nce::backward(r, batch, state.view()?, None, gradients, options)?;
                normalize::backward(r, q.view()?, dq_unit.view()?, dq.view()?, eps)?;
                normalize::backward(r, k.view()?, dk_unit.view()?, dk.view()?, eps)
            });
            record.unwrap();
            [&loss, &dq, &dk, &d_log_scale].map(|held| read(gpu, held))
        })
    });
}

#[test]
fn golden_reference() {
    // eps is f32 here, f64 in the bank: 2⁻²⁸ of it apart.
    golden::grade_reference("infonce", 1e-3, |case| {
        outputs(case, &|q, k, dim, normalized, options| {
            if !normalized {
                return by_reference(&plain(q, k, dim), options);
            }
            let (q, k, eps) = (wide(q), wide(k), normalize::Options::default());
            let unit = |x: &[f64]| reference::normalize::forward(x, dim, eps);
            let (q_unit, k_unit) = (unit(&q), unit(&k));
            let batch = reference::info_nce::Batch::new(&q_unit, &k_unit, dim);
            let loss = reference::info_nce::forward(batch, options);
            let found = reference::info_nce::backward(batch, &[], options);
            let back = |x: &[f64], dy: &[f64]| reference::normalize::backward(x, dy, dim, eps);
            [loss, back(&q, &found.dq), back(&k, &found.dk), vec![found.d_log_scale]]
        })
    });
}

#[test]
fn reference_gradient() {
    let rows = |rows, seed| wide(&Fill::Small.matrix(rows, 3, seed));
    for (keys, symmetric) in [(4, false), (4, true), (6, false)] {
        for reduction in [Reduction::None, Reduction::Mean, Reduction::Sum] {
            let options = Options { temperature: 0.5, symmetric, reduction, ..UNIT };
            let (q, k) = (rows(4, 1), rows(keys, 2));
            let dy = wide(&Fill::Small.matrix(if reduction == Reduction::None { 4 } else { 1 }, 1, 3));
            let batch =
                reference::info_nce::Batch { log_scale: Some(0.7), ..reference::info_nce::Batch::new(&q, &k, 3) };
            let forward = |q: &[f64], k: &[f64], log_scale| {
                let batch = reference::info_nce::Batch { q, k, log_scale: Some(log_scale), ..batch };
                dot(&reference::info_nce::forward(batch, options), &dy)
            };
            let Gradients { dq, dk, d_log_scale, .. } = reference::info_nce::backward(batch, &dy, options);
            assert_gradient(&q, &dq, |q| forward(q, &k, 0.7));
            assert_gradient(&k, &dk, |k| forward(&q, k, 0.7));
            assert_gradient(&[0.7], &[d_log_scale], |scale| forward(&q, &k, scale[0]));
            let clamped = Options { max_scale: 2.0, ..options };
            assert_eq!(reference::info_nce::backward(batch, &dy, clamped).d_log_scale, 0.0);
        }
    }
}

/// A number beside the diagonal that no f32 can hold, made by one pair only.
#[test]
fn overflowing_scores() {
    let Some(gpu) = gpu() else { return };
    let huge = 3e38f32;
    // Pair (0, 2) scores ±9e76 in the first dimension, all other pairs are products of the second.
    let batch = |sign: f32| {
        let (q, k) = ([huge, 0.5, 0.0, 1.0, 0.0, -1.0], [0.0, 0.25, 0.0, 1.0, sign * huge, 2.0]);
        [q, k]
    };
    let [q, k] = batch(1.0);
    let [loss, dq, _, _] = on_device(gpu, &plain(&q, &k, 2), UNIT);
    assert_eq!([0, 1, 2].map(|i| loss[i].is_nan()), [true, false, false]);
    assert!(dq[..2].iter().all(|dq| dq.is_nan()));
    let [loss, ..] = on_device(gpu, &plain(&q, &k, 2), BOTH);
    assert_eq!([0, 1, 2].map(|i| loss[i].is_nan()), [true, false, true]);
    let [q, k] = batch(-1.0);
    let [loss, _, dk, _] = on_device(gpu, &plain(&q, &k, 2), UNIT);
    let of = |scores: &[f64], own: f64| scores.iter().map(|s| s.exp()).sum::<f64>().ln() - own;
    let want = [of(&[0.125, 0.5], 0.125), of(&[0.25, 1.0, 2.0], 1.0), of(&[-0.25, -1.0, -2.0], -2.0)];
    assert_close(&loss, &want, 1e-6);
    assert!(dk[4].abs() < 1e38, "a masked pair has no gradient: {}", dk[4]);
    // Its own pair masked: the loss is infinite, as cross_entropy's.
    let [loss, ..] = on_device(gpu, &plain(&[huge, 1.0], &[-huge, 0.5], 1), UNIT);
    assert_eq!(loss[0], f64::INFINITY);
}

/// Also where one look at sixteen scores tells whether anything poisons them.
#[test]
fn nan() {
    let Some(gpu) = gpu() else { return };
    let unrolled = gpu.with_tuning(Tuning { tile_x: 4, tile_y: 1, ..Tuning::GPU });
    for gpu in [gpu, &unrolled] {
        let (mut q, mut k) = (Fill::Small.matrix(5, 3, 1), Fill::Small.matrix(5, 3, 2));
        let want = on_device(gpu, &plain(&q, &k, 3), UNIT);
        q[7] = f32::NAN; // query 2
        let found = on_device(gpu, &plain(&q, &k, 3), UNIT);
        assert_nan_row(2, [(&found[0], 1), (&found[1], 3)], [&want[0], &want[1]]);
        assert_nan(&found[2]); // every key has a score with query 2
        assert_nan(&on_device(gpu, &plain(&q, &k, 3), BOTH)[0]);
        (q[7], k[7]) = (0.0, f32::NAN);
        assert_nan(&on_device(gpu, &plain(&q, &k, 3), UNIT)[0]);
        k[7] = 0.0;
        for options in [UNIT, BOTH] {
            let batch = Batch { log_scale: Some(f32::NAN), ..plain(&q, &k, 3) };
            let [loss, dq, dk, d_log_scale] = on_device(gpu, &batch, options);
            [loss, dq, dk, d_log_scale].iter().for_each(|found| assert_nan(found));
        }
    }
}

#[test]
fn learnable_scale() {
    let Some(gpu) = gpu() else { return };
    let (q, k) = (Fill::Small.matrix(5, 3, 3), Fill::Small.matrix(5, 3, 4));
    for options in [UNIT, BOTH] {
        let of = |log_scale| on_device(gpu, &Batch { log_scale, ..plain(&q, &k, 3) }, options);
        let scaled = |scale: f32| on_device(gpu, &plain(&q, &k, 3), Options { temperature: 1.0 / scale, ..options });
        assert_eq!(of(Some(0.0)), scaled(1.0));
        // Past the bound: its scores, and no gradient of the scale.
        let bounded = Options { max_scale: 8.0, ..options };
        for log_scale in [2.1, 80.0, 1e30, f32::INFINITY] {
            let batch = Batch { log_scale: Some(log_scale), ..plain(&q, &k, 3) };
            let [loss, dq, dk, d_log_scale] = on_device(gpu, &batch, bounded);
            let [want, d_want_q, d_want_k, _] = scaled(8.0);
            assert_eq!([loss, dq, dk], [want, d_want_q, d_want_k]);
            assert_eq!(d_log_scale, [0.0]);
        }
        // e^-inf = 0: all scores equal.
        let [loss, ..] = of(Some(f32::NEG_INFINITY));
        assert_close(&loss, &[5f64.ln(); 5], 1e-6);
    }
}

/// 1 − p = 10⁻¹²: neither the loss nor the gradient may be formed from a rounded p.
#[test]
fn nearly_certain() {
    let Some(gpu) = gpu() else { return };
    let gap = 27.625f32; // e^-gap = 1.006e-12; exact beside 10⁴ in f32
    let rest = (-f64::from(gap)).exp();
    for offset in [0.0, 1e4, -1e4] {
        let [loss, _, dk, _] = on_device(gpu, &plain(&[1.0, 1.0], &[gap, offset, 0.0, offset], 2), UNIT);
        assert_close(&loss, &[rest.ln_1p()], 1e-6);
        let g = rest / (1.0 + rest);
        assert_close(&dk, &[-g, -g, g, g], 1e-6); // g_0j q_0
    }
    // Both directions: scores `gap` on the diagonal, 0 beside it.
    let (q, k) = ([1.0, 0.0, 0.0, 1.0], [gap, 0.0, 0.0, gap]);
    let [loss, _, dk, _] = on_device(gpu, &plain(&q, &k, 2), BOTH);
    assert_close(&loss, &[rest.ln_1p(); 2], 1e-6);
    let g = rest / (1.0 + rest);
    assert_close(&dk, &[-g, g, g, -g], 1e-6);
}

/// Similarity 1 with the own key, −1 with all others: loss ln(1 + (N − 1) e^(−2/T)).
#[test]
fn perfectly_separated() {
    let Some(gpu) = gpu() else { return };
    let (n, dim) = (70, 71);
    let rows = |own: f32, last: f32| -> Vec<f32> {
        let value = |i: usize, d: usize| if d == n { last } else { own * f32::from(u8::from(i == d)) };
        (0..n * dim).map(|at| value(at / dim, at % dim)).collect()
    };
    let (q, k) = (rows(2.0, 1.0), rows(1.0, -1.0));
    for symmetric in [false, true] {
        let options = |temperature| Options { temperature, symmetric, reduction: Reduction::Mean, ..UNIT };
        for temperature in [0.5, 0.125, 0.0625] {
            let [loss, ..] = on_device(gpu, &plain(&q, &k, dim), options(temperature));
            assert_close(&loss, &[(69.0 * (-2.0 / f64::from(temperature)).exp()).ln_1p()], 1e-6);
        }
        // e^-200 is no f32: the loss and its gradients are 0, not a rounded trifle.
        let [loss, dq, dk, _] = on_device(gpu, &plain(&q, &k, dim), options(0.01));
        assert_eq!(loss, [0.0]);
        assert!(dq.iter().chain(&dk).all(|&gradient| gradient == 0.0));
    }
}

#[test]
fn empty() {
    let Some(gpu) = gpu() else { return };
    let k = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    for reduction in [Reduction::None, Reduction::Mean, Reduction::Sum] {
        let options = Options { reduction, ..UNIT };
        let loss = vec![0.0; usize::from(reduction != Reduction::None)];
        for symmetric in [false, true] {
            let found = on_device(gpu, &plain(&[], &[], 2), Options { symmetric, ..options });
            assert_eq!(found, [loss.clone(), vec![], vec![], vec![0.0]]);
        }
        // Negatives without queries: their gradient is a sum over nothing.
        let found = on_device(gpu, &plain(&[], &k, 2), options);
        assert_eq!(found, [loss, vec![], vec![0.0; 6], vec![0.0]]);
    }
    // No dimensions: all scores are 0.
    let [loss, ..] = on_device(gpu, &plain(&[], &[], 0), BOTH);
    assert_close(&loss, &[2f64.ln(); 2], 1e-6);
}

#[test]
fn ranks() {
    let Some(gpu) = gpu() else { return };
    for [n, m, dim] in [[1, 1, 1], [5, 9, 2], [70, 70, 3], [65, 200, 4]] {
        // Small whole numbers: exact scores, many ties.
        let whole = |rows, seed| -> Vec<f32> {
            Fill::Small.matrix(rows, dim, seed).iter().map(|x| (x * 3.0).round()).collect()
        };
        let (mut q, k) = (whole(n, 5), whole(m, 6));
        if n > 2 {
            q[2 * dim] = f32::NAN;
        }
        let want = |ids| reference::info_nce::rank(&wide(&q), &wide(&k), dim, ids);
        let rank = on_device_rank(gpu, &q, &k, dim, None);
        assert_eq!(rank, want(None));
        let ids: Vec<u32> = (0..m as u32).map(|at| at % 3).collect();
        let ids = Some((&ids[..n], &ids[..]));
        assert_eq!(on_device_rank(gpu, &q, &k, dim, ids), want(ids));
        assert!(n <= 2 || want(ids) != rank, "the ids leave nothing out");
        assert!(n <= 2 || rank[2] == m as u32 - 1, "a query without a score ranks last");
    }
    assert_eq!(on_device_rank(gpu, &[], &[1.0, 2.0], 2, None), [0u32; 0]);
    // Equal keys: the smaller number comes first.
    assert_eq!(on_device_rank(gpu, &[1.0; 4], &[1.0; 6], 1, None), [0, 1, 2, 3]);
    // A key without a score comes before all that have one.
    assert_eq!(on_device_rank(gpu, &[1.0; 2], &[1.0, 2.0, f32::NAN], 1, None), [2, 1]);
}

pub fn on_device_rank(gpu: &Gpu, q: &[f32], k: &[f32], dim: usize, ids: Option<(&[u32], &[u32])>) -> Vec<u32> {
    let (n, m) = (q.len() / dim, k.len() / dim);
    let (q, k) = (input(gpu, n, dim, q), input(gpu, m, dim, k));
    // Poison with a gap between the elements, as the other outputs have.
    let (rank, poison) = (input(gpu, n, 3, &vec![u32::MAX; 3 * n]), [u32::MAX; 2]);
    let ids = ids.map(|(of_q, of_k)| (input(gpu, n, 1, of_q), input(gpu, m, 1, of_k)));
    gpu.run(|r| {
        let ids = match &ids {
            Some((of_q, of_k)) => Some((of_q.view()?, of_k.view()?)),
            None => None,
        };
        info_nce::rank(r, q.view()?, k.view()?, ids, rank.view()?.col_range(1..2))
    })
    .unwrap();
    let found = gpu.read(rank.view().unwrap()).unwrap();
    assert!(found.chunks(3).all(|row| [row[0], row[2]] == poison));
    found.chunks(3).map(|row| row[1]).collect()
}

#[test]
fn slices() {
    let Some(gpu) = gpu() else { return };
    let (q, k) = (Fill::Small.matrix(4, 3, 7), Fill::Small.matrix(6, 3, 8));
    let options = Options { reduction: Reduction::Mean, ..UNIT };
    let found = info_nce::compute(gpu, &q, &k, 3, options).unwrap();
    let want = on_device(gpu, &plain(&q, &k, 3), options);
    let found = [wide(&found.loss), wide(&found.d_queries), wide(&found.d_keys), wide(&[found.d_log_scale])];
    assert_eq!(found, want);
    let error = info_nce::compute(gpu, &q, &k, 5, options).unwrap_err();
    assert_eq!(error, shape("info_nce", "q", "whole rows of 5", "12 elements"));
    let error = info_nce::compute(gpu, &q[..10], &k[..12], 5, options).unwrap_err();
    assert_eq!(error, shape("info_nce", "k", "whole rows of 5", "12 elements"));
    let error = info_nce::compute(gpu, &[], &[], 0, options).unwrap_err();
    assert_eq!(error, shape("info_nce", "q", "of at least one column", "0 columns"));
}

#[test]
fn refusals() {
    let Some(gpu) = gpu() else { return };
    let (q, k, few) = (input(gpu, 4, 3, &[0.0; 12]), input(gpu, 5, 3, &[0.0; 15]), input(gpu, 3, 3, &[0.0; 9]));
    let (turned, scalar) = (input(gpu, 5, 2, &[0.0; 10]), input(gpu, 1, 1, &[0.0]));
    let (loss, state, long) = (output(gpu, 1, 1), output(gpu, 4, 4), output(gpu, 9, 4));
    let (dq, dk, d_log_scale) = (output(gpu, 4, 3), output(gpu, 5, 3), output(gpu, 1, 1));
    let outputs = [&loss, &state, &long, &dq, &dk, &d_log_scale];
    let mean = Options { reduction: Reduction::Mean, ..UNIT };

    let forward = |k: &Held, log_scale: &Held, loss: &Held, state: &Held, options| {
        refused(gpu, &outputs, |r| {
            let batch = info_nce::Batch::new(q.view()?, k.view()?).scaled(log_scale.view()?);
            info_nce::forward(r, batch, loss.view()?, state.view()?, Default::default(), options)
        })
    };
    assert_eq!(forward(&turned, &scalar, &loss, &state, mean), shape("info_nce", "k", "5 x 3", "5 x 2"));
    assert_eq!(forward(&few, &scalar, &loss, &state, mean), shape("info_nce", "k", "at least 4 rows", "3 rows"));
    let symmetric = Options { symmetric: true, ..mean };
    assert_eq!(forward(&k, &scalar, &loss, &long, symmetric), shape("info_nce", "k", "4 rows", "5 rows"));
    assert_eq!(forward(&k, &few, &loss, &state, mean), shape("info_nce", "log_scale", "1 x 1", "3 x 3"));
    assert_eq!(forward(&k, &scalar, &state, &state, mean), shape("info_nce", "loss", "1 x 1", "4 x 4"));
    assert_eq!(forward(&k, &scalar, &loss, &state, UNIT), shape("info_nce", "loss", "4 x 1", "1 x 1"));
    assert_eq!(forward(&k, &scalar, &loss, &long, mean), shape("info_nce", "state", "4 x 4", "9 x 4"));
    assert_eq!(forward(&q, &scalar, &loss, &state, symmetric), shape("info_nce", "state", "8 x 4", "4 x 4"));
    let bad = [(0.0, "0"), (-1.0, "-1"), (f32::NAN, "NaN"), (f32::INFINITY, "inf")];
    for (value, found) in bad {
        let options = Options { temperature: value, ..mean };
        assert_eq!(
            forward(&k, &scalar, &loss, &state, options),
            option("info_nce", "temperature", "from 1.2e-38 to 8.5e37", found)
        );
        let options = Options { max_scale: value, ..mean };
        assert_eq!(
            forward(&k, &scalar, &loss, &state, options),
            option("info_nce", "max_scale", "a normal number above 0", found)
        );
    }

    let backward = |state: &Held, dy: &Held, dq: &Held, dk: &Held, d_log_scale: &Held, options| {
        refused(gpu, &outputs, |r| {
            let batch = info_nce::Batch::new(q.view()?, k.view()?);
            info_nce::backward(r, batch, state.view()?, Some(dy.view()?), all_of(dq, dk, d_log_scale)?, options)
        })
    };
    assert_eq!(backward(&long, &scalar, &dq, &dk, &d_log_scale, mean), shape("info_nce", "state", "4 x 4", "9 x 4"));
    assert_eq!(backward(&state, &few, &dq, &dk, &d_log_scale, mean), shape("info_nce", "dy", "1 x 1", "3 x 3"));
    assert_eq!(backward(&state, &scalar, &dk, &dk, &d_log_scale, mean), shape("info_nce", "dq", "4 x 3", "5 x 3"));
    assert_eq!(backward(&state, &scalar, &dq, &dq, &d_log_scale, mean), shape("info_nce", "dk", "5 x 3", "4 x 3"));
    assert_eq!(backward(&state, &scalar, &dq, &dk, &state, mean), shape("info_nce", "d_log_scale", "1 x 1", "4 x 4"));
    let want = option("info_nce", "temperature", "from 1.2e-38 to 8.5e37", "0");
    assert_eq!(backward(&state, &scalar, &dq, &dk, &d_log_scale, Options { temperature: 0.0, ..mean }), want);

    let rank = input(gpu, 5, 1, &[0u32; 5]);
    let error = refused(gpu, &[], |r| info_nce::rank(r, q.view()?, k.view()?, None, rank.view()?));
    assert_eq!(error, shape("info_nce", "rank", "4 x 1", "5 x 1"));
    let (of_q, of_k) = (input(gpu, 4, 1, &[0u32; 4]), input(gpu, 4, 1, &[0u32; 4]));
    let own = input(gpu, 4, 1, &[0u32; 4]);
    let error =
        refused(gpu, &[], |r| info_nce::rank(r, q.view()?, k.view()?, Some((of_q.view()?, of_k.view()?)), own.view()?));
    assert_eq!(error, shape("info_nce", "ids", "5 x 1", "4 x 1"));
    let error = refused(gpu, &[], |r| info_nce::rank(r, k.view()?, q.view()?, None, rank.view()?));
    assert_eq!(error, shape("info_nce", "k", "at least 5 rows", "4 rows"));
}

/// Without a positive no key is too near, whatever an earlier call has left; a positive that is the query itself, which is left out, is none.
#[test]
fn near_without_a_positive() {
    let Some(gpu) = gpu() else { return };
    let options = Options { near_margin: 0.1, ..UNIT };
    let lse = |q: &[f32], k: &[f32], shared: &[f32], index: &[u32], options: Options| {
        let rows = |x: &[f32]| input(gpu, x.len() / 2, 2, x);
        let (q, k, shared) = (rows(q), rows(k), rows(shared));
        let index = input(gpu, index.len(), 1, index);
        let batch = info_nce::Batch {
            positive: info_nce::Positive::Index(index.view().unwrap()),
            shared: Some(shared.view().unwrap().into()),
            ..info_nce::Batch::new(q.view().unwrap(), k.view().unwrap())
        };
        let [lines, columns] = batch.state_shape(options);
        let (loss, state, lse) = (output(gpu, 2, 1), output(gpu, lines, columns), output(gpu, 2, 1));
        let (loss, state, lse): (Tensor, Tensor, Tensor) =
            (loss.view().unwrap(), state.view().unwrap(), lse.view().unwrap());
        gpu.run(|r| {
            info_nce::forward(r, batch, loss, state, info_nce::Gradients::default(), options)?;
            info_nce::values(r, batch, state, info_nce::Values { lse: Some(lse), ..Default::default() }, options)
        })
        .unwrap();
        wide(&gpu.read(lse).unwrap())
    };
    let unit = [1.0, 0.0, 0.0, 1.0];
    lse(&unit, &[-9.0, 0.0, 0.0, -9.0], &unit, &[0, 1], options);
    let found = lse(&unit, &[], &[2.0, 0.0, 0.0, 3.0], &[u32::MAX; 2], options);
    let sum = |x: f64| (x.exp() + 1.0).ln();
    assert_close(&found, &[sum(2.0), sum(3.0)], 1e-6);
    let rows = [1.0, 0.0, 3.0, 0.0];
    let itself = Options { near_margin: 0.5, exclude_self: true, ..UNIT };
    assert_close(&lse(&rows, &rows, &[], &[0, 1], itself), &[3.0, 3.0], 1e-6);
}

/// A bounded scale is at its bound, not past it, where its gradient would be 0.
#[test]
fn a_learned_scale_is_bounded() {
    let Some(gpu) = gpu() else { return };
    for max_scale in [1e-3, 0.5, 1.0, 1.5, 10.0, 20.0, 100.0, 12_345.0, 1e30, f32::MAX] {
        let log = max_scale.ln();
        let bounded = |log_scale: f32| {
            let log_scale = input(gpu, 1, 1, &[log_scale]);
            gpu.run(|r| info_nce::bound(r, log_scale.view()?, max_scale)).unwrap();
            gpu.read(log_scale.view().unwrap()).unwrap()[0]
        };
        assert_eq!(bounded(log - 0.5), log - 0.5);
        assert!(bounded(f32::NAN).is_nan());
        let most = bounded(log + 3.0);
        assert!(most < log && most > log - 1e-6 * log.abs().max(1.0), "{most} of {log}");
        if !(0.01..1e5).contains(&max_scale) {
            continue;
        }
        let (q, k) = ([1.0, 0.0, 0.0, 1.0], [0.8, 0.6, 0.6, 0.8]);
        let options = Options { max_scale, reduction: Reduction::Mean, ..UNIT };
        let gradient = |log_scale| {
            let batch = Batch { q: &q, k: &k, dim: 2, log_scale: Some(log_scale), dy: &[1.0] };
            on_device(gpu, &batch, options)[3][0]
        };
        assert!(gradient(most) != 0.0 || max_scale > 1000.0, "{max_scale}");
        assert_eq!(gradient(log + 0.1), 0.0);
    }
    let log_scale = input(gpu, 1, 1, &[0.0f32]);
    let error = refused(gpu, &[], |r| info_nce::bound(r, log_scale.view()?, 0.0)).to_string();
    assert!(error.contains("max_scale"), "{error}");
}

/// Pushes of which one passes the end of the ring and one is longer than it: the ring holds what a list of the last keys holds.
#[test]
fn queue() {
    let Some(gpu) = gpu() else { return };
    let (rows, dim) = (5, 3);
    let (ring, ring_q) = (output(gpu, rows, dim), output(gpu, rows, 1));
    let ring_ids = input(gpu, rows, 1, &[0u32; 5]);
    let ring = || -> wgloss::Result<info_nce::Negatives> {
        Ok(info_nce::Negatives { k: ring.view()?, log_q: Some(ring_q.view()?), ids: Some(ring_ids.view()?) })
    };
    let mut queue = info_nce::Queue::new(rows);
    assert!(queue.view(ring().unwrap()).unwrap().is_none());
    let mut want: Vec<u32> = Vec::new();
    for count in [3, 1, 3, 0, 7, 2] {
        let start = 1 + want.len() as u32;
        let new: Vec<u32> = (start..start + count).collect();
        let keys: Vec<f32> = new.iter().flat_map(|&id| [0.0, 0.25, 0.5].map(|part| id as f32 + part)).collect();
        let log_q: Vec<f32> = new.iter().map(|&id| -(id as f32)).collect();
        let n = count as usize;
        let (k, log_q, ids) = (input(gpu, n, dim, &keys), input(gpu, n, 1, &log_q), input(gpu, n, 1, &new));
        gpu.run(|recorder| {
            let keys = info_nce::Negatives { k: k.view()?, log_q: Some(log_q.view()?), ids: Some(ids.view()?) };
            queue.push(recorder, keys, ring()?)
        })
        .unwrap();
        want.extend(new);
        let info_nce::Negatives { k, log_q, ids } = queue.view(ring().unwrap()).unwrap().unwrap();
        let (k, log_q) = (gpu.read(k).unwrap(), gpu.read(log_q.unwrap()).unwrap());
        let mut held = gpu.read(ids.unwrap()).unwrap();
        for (at, &id) in held.iter().enumerate() {
            let id = id as f32;
            assert_eq!((&k[at * dim..(at + 1) * dim], log_q[at]), (&[id, id + 0.25, id + 0.5][..], -id));
        }
        held.sort_unstable();
        assert_eq!(held, want[want.len().saturating_sub(rows)..]);
        assert_eq!(queue.len(), held.len());
    }

    let (keys, before) = (output(gpu, 2, dim), queue);
    assert_eq!(queue.view(keys.view().unwrap()).unwrap_err(), shape("info_nce", "ring", "5 x 3", "2 x 3"));
    let error = refused(gpu, &[], |r| queue.push(r, keys.view()?, keys.view()?));
    assert_eq!(error, shape("info_nce", "ring", "5 x 3", "2 x 3"));
    let error = refused(gpu, &[], |r| queue.push(r, keys.view()?, ring()?));
    assert_eq!(error, shape("info_nce", "log_q of keys", "given", "none"));
    let error = refused(gpu, &[], |r| queue.push(r, ring()?.k.row_range(1..3), ring()?.k));
    assert_eq!(error, overlap("info_nce", "ring", "keys"));
    assert_eq!(queue, before);
}

/// Of vectors that may be cut: gradients of several lengths, added up, those of the sum of their losses; a length beyond the whole is the whole.
#[test]
fn prefixes() {
    let Some(gpu) = gpu() else { return };
    let (n, more, each_rows, dim, lengths) = (5, 3, 10, 7, [9, 3, 5]);
    let [q, k, shared, each] =
        [(n, 1), (n, 2), (more, 3), (each_rows, 4)].map(|(rows, seed)| Fill::Small.matrix(rows, dim, seed));
    let held = |rows: usize, data: &[f32]| input(gpu, rows, dim, data);
    let (on_q, on_k, on_shared, on_each) = (held(n, &q), held(n, &k), held(more, &shared), held(each_rows, &each));
    let scale = input(gpu, 1, 1, &[1.5]);
    let [dq, dk, d_shared, d_each] = [n, n, more, each_rows].map(|rows| output(gpu, rows, dim));
    let (d_log_scale, losses, state) = (output(gpu, 1, 1), output(gpu, 1, 3), output(gpu, 2 * n, 4));
    let options = |accum| Options { normalize: true, reduction: Reduction::Mean, accum, symmetric: true, ..UNIT };
    let record = gpu.run(|recorder| {
        let shared = Some(on_shared.view()?.into());
        let each = Some(on_each.view()?.into());
        let batch = info_nce::Batch { shared, each, ..info_nce::Batch::new(on_q.view()?, on_k.view()?) };
        let batch = batch.scaled(scale.view()?);
        let gradients = info_nce::Gradients {
            d_shared: Some(d_shared.view()?),
            d_each: Some(d_each.view()?),
            ..all_of(&dq, &dk, &d_log_scale)?
        };
        for (at, length) in lengths.into_iter().enumerate() {
            let (batch, gradients) = (batch.prefix(length), gradients.prefix(length));
            let options = options(if at == 0 { Accum::Write } else { Accum::Add });
            let loss = losses.view()?.col_range(at..at + 1);
            info_nce::forward(recorder, batch, loss, state.view()?, gradients, options)?;
        }
        Ok(())
    });
    record.unwrap();
    let mut want =
        [vec![0.0; n * dim], vec![0.0; n * dim], vec![0.0; more * dim], vec![0.0; each_rows * dim], vec![0.0]];
    let mut want_losses = Vec::new();
    for length in lengths.map(|length| length.min(dim)) {
        let cut = |rows: &[f32]| -> Vec<f64> { rows.chunks(dim).flat_map(|row| wide(&row[..length])).collect() };
        let (q, k, shared, each) = (cut(&q), cut(&k), cut(&shared), cut(&each));
        let [shared, each] = [&shared, &each].map(|k| reference::info_nce::Negatives { k, ..Default::default() });
        let batch = reference::info_nce::Batch::new(&q, &k, length);
        let batch = reference::info_nce::Batch { shared, each, log_scale: Some(1.5), ..batch };
        want_losses.extend(reference::info_nce::forward(batch, options(Accum::Write)));
        let found = reference::info_nce::backward(batch, &[], options(Accum::Write));
        let of_vectors = [found.dq, found.dk, found.d_shared, found.d_each].map(|part| (part, length));
        let parts = of_vectors.into_iter().chain([(vec![found.d_log_scale], 1)]);
        for (want, (part, length)) in want.iter_mut().zip(parts) {
            let cols = if want.len() == 1 { 1 } else { dim };
            for (want, part) in want.chunks_mut(cols).zip(part.chunks(length)) {
                want.iter_mut().zip(part).for_each(|(want, part)| *want += part);
            }
        }
    }
    assert_close(&read(gpu, &losses), &want_losses, 1e-6);
    for (found, want) in [&dq, &dk, &d_shared, &d_each, &d_log_scale].into_iter().zip(&want) {
        let largest = want.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
        for (found, want) in read(gpu, found).iter().zip(want) {
            assert!((found - want).abs() <= 1e-6 * largest, "{found} for {want}, largest {largest}");
        }
    }
}

/// Also where no single dispatch has both: dk reads q after dq is written.
#[test]
fn overlaps() {
    let Some(gpu) = gpu() else { return };
    let square = || output(gpu, 2, 4);
    let (q, k, state, other, free) = (square(), square(), square(), square(), square());
    let scalar = output(gpu, 1, 1);
    let mean = Options { reduction: Reduction::Mean, ..UNIT };
    fn corner<'a>(held: &'a Held) -> wgloss::Result<Tensor<'a>> {
        Ok(held.view()?.row_range(0..1).col_range(0..1))
    }
    let forward = |loss: &Held, state: &Held| {
        refused(gpu, &[loss, state], |r| {
            let batch = info_nce::Batch::new(q.view()?, k.view()?).scaled(corner(&other)?);
            info_nce::forward(r, batch, corner(loss)?, state.view()?, Default::default(), mean)
        })
    };
    assert_eq!(forward(&state, &state), overlap("info_nce", "loss", "state"));
    assert_eq!(forward(&q, &state), overlap("info_nce", "loss", "q"));
    assert_eq!(forward(&other, &state), overlap("info_nce", "loss", "log_scale"));
    assert_eq!(forward(&scalar, &k), overlap("info_nce", "state", "k"));
    let backward = |dq: &Held, dk: &Held, d_log_scale: &Held| {
        refused(gpu, &[dq, dk, d_log_scale], |r| {
            let (batch, dy) = (info_nce::Batch::new(q.view()?, k.view()?), Some(corner(&other)?));
            let (dq, dk, d_log_scale) = (Some(dq.view()?), Some(dk.view()?), Some(corner(d_log_scale)?));
            let gradients = info_nce::Gradients { dq, dk, d_log_scale, ..Default::default() };
            info_nce::backward(r, batch, state.view()?, dy, gradients, mean)
        })
    };
    assert_eq!(backward(&q, &free, &scalar), overlap("info_nce", "dq", "q"));
    assert_eq!(backward(&k, &free, &scalar), overlap("info_nce", "dq", "k"));
    assert_eq!(backward(&free, &free, &scalar), overlap("info_nce", "dq", "dk"));
    assert_eq!(backward(&free, &state, &scalar), overlap("info_nce", "dk", "state"));
    assert_eq!(backward(&free, &other, &scalar), overlap("info_nce", "dk", "dy"));
    let last = square();
    assert_eq!(backward(&free, &last, &free), overlap("info_nce", "dq", "d_log_scale"));
    assert_eq!(backward(&free, &last, &q), overlap("info_nce", "d_log_scale", "q"));
}

/// More lanes across and down a tile than are joined at once; what is a loop elsewhere stands as often. Rows end between four elements, or none does.
#[test]
fn wide_tiles() {
    let Some(gpu) = gpu() else { return };
    let gpu = gpu.with_tuning(Tuning { tile_x: 16, tile_y: 16, tile_depth: 8, ..Tuning::GPU });
    for (n, dim) in [(70, 6), (72, 12)] {
        let (q, k) = (Fill::Wide.matrix(n, dim, 61), Fill::Wide.matrix(n, dim, 62));
        let batch = Batch { log_scale: Some(1.5), dy: &[1.0], ..plain(&q, &k, dim) };
        let options = Options { reduction: Reduction::Sum, normalize: true, ..BOTH };
        for (found, expected) in on_device(&gpu, &batch, options).iter().zip(&by_reference(&batch, options)) {
            let largest = expected.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
            let close = found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() <= 2e-6 * largest);
            assert!(close, "{n} × {dim}: {found:?}, expected {expected:?}");
        }
    }
}

#[test]
fn same_bits() {
    let Some(gpu) = gpu() else { return };
    let (q, k) = (Fill::Small.matrix(600, 9, 9), Fill::Small.matrix(600, 9, 10));
    assert_repeats(|| on_device(gpu, &plain(&q, &k, 9), Options { reduction: Reduction::Mean, ..BOTH }).into());
}

/// A lone pair, the own score −∞: as cross_entropy's masked target.
#[test]
fn masked_without_negatives() {
    let Some(gpu) = gpu() else { return };
    let [loss, ..] = on_device(gpu, &plain(&[3e38], &[-3e38], 1), UNIT);
    assert_eq!(loss, [f64::INFINITY]);
}

/// Each of many chunks adds to gradients of 16 bits, which are as near to those of 32 as one rounding.
#[test]
fn gradients_of_16_bits_are_rounded_once() {
    let Some(gpu) = gpu() else { return };
    let gpu = gpu.with_tuning(Tuning { workspace: 16 << 10, ..*gpu.tuning() });
    let (n, dim) = (230, 24);
    let (q, k) = (Fill::Small.matrix(n, dim, 21), Fill::Small.matrix(n, dim, 22));
    let (q, k) = (input(&gpu, n, dim, &q), input(&gpu, n, dim, &k));
    let options = Options { symmetric: true, ..Options::default() };
    let of = |storage: Storage| {
        let check = Check::new(&gpu);
        let [dq, dk] = [(); 2].map(|()| check.output_as(storage, n, dim).unwrap());
        let (loss, state) = (output(&gpu, 1, 1), output(&gpu, 2 * n, 4));
        let record = gpu.run(|recorder| {
            let gradients = info_nce::Gradients { dq: Some(dq.view()?), dk: Some(dk.view()?), ..Default::default() };
            let batch = info_nce::Batch::new(q.view()?, k.view()?);
            info_nce::forward(recorder, batch, loss.view()?, state.view()?, gradients, options)
        });
        record.unwrap();
        [read(&gpu, &dq), read(&gpu, &dk)]
    };
    let [exact, rounded] = [of(Storage::F32), of(Storage::Bf16)];
    for (exact, rounded) in exact.iter().zip(&rounded) {
        assert_close(rounded, exact, 2f64.powi(-8));
    }
}

/// A batch without keys, or without further negatives that are there in name, is what it is without: whatever state and gradients held before.
#[test]
fn lines_that_are_compared_with_nothing() {
    let Some(gpu) = gpu() else { return };
    let (n, dim) = (5, 3);
    let (q, k) = (Fill::Small.matrix(n, dim, 51), Fill::Small.matrix(n, dim, 52));
    let (q, k, none) = (input(gpu, n, dim, &q), input(gpu, n, dim, &k), input::<f32>(gpu, 0, dim, &[]));
    let (index, each) = (input(gpu, n, 1, &[0u32; 5]), input(gpu, n, dim, &Fill::Small.matrix(n, dim, 53)));
    let found = |keys: &Held, shared: Option<&Held>, each: Option<&Held>, options: Options| {
        let loss_rows = if options.reduction == Reduction::None { n } else { 1 };
        let (m, lines) = (keys.view().unwrap().rows(), if options.symmetric { 2 * n } else { n });
        let (loss, dq, dk, d_each) =
            (output(gpu, loss_rows, 1), output(gpu, n, dim), output(gpu, m, dim), output(gpu, n, dim));
        let (d_scale, state) = (output(gpu, 1, 1), output(gpu, lines + 1, 8));
        let record = gpu.run(|recorder| {
            let positive = if m == n { info_nce::Positive::Own } else { info_nce::Positive::Index(index.view()?) };
            let batch = info_nce::Batch {
                positive,
                shared: shared.map(Held::view).transpose()?.map(Into::into),
                each: each.map(Held::view).transpose()?.map(Into::into),
                ..info_nce::Batch::new(q.view()?, keys.view()?)
            };
            let [rows, cols] = batch.state_shape(options);
            let state = state.view()?.row_range(0..rows).col_range(0..cols);
            let d_each = each.map(|_| d_each.view()).transpose()?;
            let gradients = info_nce::Gradients { d_each, ..all_of(&dq, &dk, &d_scale)? };
            info_nce::forward(recorder, batch, loss.view()?, state, Default::default(), options)?;
            info_nce::backward(recorder, batch, state, None, gradients, options)
        });
        record.unwrap();
        let d_each = if each.is_some() { read(gpu, &d_each) } else { Vec::new() };
        [read(gpu, &loss), read(gpu, &dq), read(gpu, &dk), d_each, read(gpu, &d_scale)]
    };
    let unit = Options { normalize: true, ..BOTH };
    for options in [UNIT, BOTH, unit] {
        assert_eq!(found(&k, Some(&none), None, options), found(&k, None, None, options), "{options:?}");
        assert_eq!(found(&k, Some(&none), Some(&each), options), found(&k, None, Some(&each), options), "{options:?}");
    }
    for options in [UNIT, Options { normalize: true, ..UNIT }] {
        for each in [None, Some(&each)] {
            let [loss, dq, dk, d_each, d_scale] = found(&none, None, each, options);
            assert!([loss, dq, dk, d_each, d_scale].concat().iter().all(|value| *value == 0.0));
        }
    }
}

/// A positive of −∞ is one: its loss is infinite, be it named by its number or by its group.
#[test]
fn masked_positives_of_groups() {
    let Some(gpu) = gpu() else { return };
    let (q, k) = (input(gpu, 1, 1, &[3e38f32]), input(gpu, 2, 1, &[-3e38f32, 1e-38]));
    let (number, groups, far) = (input(gpu, 1, 1, &[0u32]), input(gpu, 2, 1, &[0u32, 1]), input(gpu, 2, 1, &[0u32, 0]));
    for decoupled in [false, true] {
        let options = Options { decoupled, ..UNIT };
        for by in 0..3 {
            let (loss, state) = (output(gpu, 1, 1), output(gpu, 1, 8));
            let record = gpu.run(|recorder| {
                let positive = match by {
                    0 => info_nce::Positive::Index(number.view()?),
                    1 => info_nce::Positive::Groups(number.view()?, groups.view()?),
                    _ => info_nce::Positive::Groups(number.view()?, far.view()?),
                };
                let batch = info_nce::Batch { positive, ..info_nce::Batch::new(q.view()?, k.view()?) };
                info_nce::forward(recorder, batch, loss.view()?, state.view()?, Default::default(), options)
            });
            record.unwrap();
            // Of two positives that are all there is, decoupled, nothing is compared.
            let want = if decoupled && by == 2 { 0.0 } else { f64::INFINITY };
            assert_eq!(read(gpu, &loss), [want], "{by} {options:?}");
        }
    }
}

/// Chunks of other rows than a tile has columns still find the positives that lie in two tiles.
#[test]
fn positives_of_chunks_that_begin_anywhere() {
    let Some(gpu) = gpu() else { return };
    let (n, dim) = (700, 9);
    let (q, k) = (Fill::Small.matrix(n, dim, 61), Fill::Small.matrix(n, dim, 62));
    let each = Fill::Small.matrix(n, dim, 63);
    let (wide_q, wide_k, wide_each) = (wide(&q), wide(&k), wide(&each));
    let batch = reference::info_nce::Batch {
        each: reference::info_nce::Negatives { k: &wide_each, ..Default::default() },
        ..reference::info_nce::Batch::new(&wide_q, &wide_k, dim)
    };
    let options = Options { in_batch: false, ..UNIT };
    let want = reference::info_nce::forward(batch, options);
    let gpu = gpu.with_tuning(Tuning { tile_x: 12, tile_y: 1, unrolled: false, ..Tuning::GPU });
    let (q, k, each) = (input(&gpu, n, dim, &q), input(&gpu, n, dim, &k), input(&gpu, n, dim, &each));
    let (loss, state) = (output(&gpu, n, 1), output(&gpu, n, 4));
    let record = gpu.run(|recorder| {
        let each = Some(each.view()?.into());
        let batch = info_nce::Batch { each, ..info_nce::Batch::new(q.view()?, k.view()?) };
        info_nce::forward(recorder, batch, loss.view()?, state.view()?, Default::default(), options)
    });
    record.unwrap();
    assert_close(&read(&gpu, &loss), &want, 1e-6);
}

/// Rows of 4,096 numbers, with gradients.
#[test]
fn wide_rows() {
    let Some(gpu) = gpu() else { return };
    let (n, dim) = (5, 4096);
    let (q, k) = (Fill::Small.matrix(n, dim, 71), Fill::Small.matrix(n, dim, 72));
    let options = Options { temperature: 20.0, reduction: Reduction::Mean, ..BOTH };
    let batch = Batch { dy: &[1.0], ..plain(&q, &k, dim) };
    let (found, want) = (on_device(gpu, &batch, options), by_reference(&batch, options));
    for (found, want) in found.iter().zip(&want) {
        let largest = want.iter().fold(0.0, |most: f64, value| most.max(value.abs()));
        let off = found.iter().zip(want).map(|(found, want)| (found - want).abs()).fold(0.0, f64::max);
        assert!(off <= 1e-5 * largest, "{off} of {largest}");
    }
}

/// All similarities −1 at a temperature of 0.01: every key is as likely as the other, to the last digit of ln N.
#[test]
fn all_scores_equal_and_low() {
    let Some(gpu) = gpu() else { return };
    let (n, dim) = (64, 4);
    let q: Vec<f32> = (0..n * dim).map(|at| if at % dim == 0 { 1.0 } else { 0.0 }).collect();
    let k: Vec<f32> = q.iter().map(|q| -q).collect();
    let options = Options { temperature: 0.01, reduction: Reduction::Mean, ..BOTH };
    let [loss, dq, dk, _] = on_device(gpu, &plain(&q, &k, dim), options);
    assert!((loss[0] - (n as f64).ln()).abs() < 1e-6, "{loss:?}");
    assert!(dq.iter().chain(&dk).all(|slope| slope.abs() < 1e-5), "{dq:?} {dk:?}"); // 100/64 of each key, taken off as often
}
