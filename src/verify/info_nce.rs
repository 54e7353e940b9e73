use super::{Check, Fill, before, cast, rounded};
use crate::info_nce::{self, Options};
use crate::reference::info_nce::Batch;
use crate::{Accum, Reduction, Result, Storage, reference, softmax};

pub(super) fn cases(check: &mut Check) -> Result<()> {
    let shapes = [
        // queries, keys, dim
        (1, 1, 1),
        (2, 2, 3),
        (7, 7, 1),
        (64, 64, 16),
        (65, 65, 33),
        (130, 130, 100),
        (3, 257, 7),
        (257, 257, 5),
    ];
    for (queries, keys, dim) in shapes {
        for fill in [Fill::Equal, Fill::Small, Fill::Outlier, Fill::Wide] {
            for symmetric in [false, true] {
                for reduction in [Reduction::Mean, Reduction::Sum, Reduction::None] {
                    if queries == keys || !symmetric {
                        let options = Options { symmetric, reduction, ..Default::default() };
                        case(check, [queries, keys, dim], fill, None, Storage::F32, options)?;
                    }
                }
            }
        }
        let learnable = Options { symmetric: queries == keys, ..Default::default() };
        for storage in [Storage::F32, Storage::F16, Storage::Bf16] {
            for (log_scale, accum) in [(2.0, Accum::Write), (2.0, Accum::Add), (5.0, Accum::Write), (5.0, Accum::Add)] {
                let options = Options { accum, ..learnable };
                case(check, [queries, keys, dim], Fill::Small, Some(log_scale), storage, options)?;
            }
        }
    }
    Ok(())
}

/// `storage` is that of the matrices; the scale, its gradient and the log-sum-exps are f32.
fn case(
    check: &mut Check,
    [queries, keys, dim]: [usize; 3],
    fill: Fill,
    log_scale: Option<f32>,
    storage: Storage,
    options: Options,
) -> Result<()> {
    check.case(format_args!("{queries} x {keys} x {dim} {fill:?} {storage:?} log_scale {log_scale:?} {options:?}"));
    // Wide scores without overflow: the product of two wide rows.
    let shrink = if fill == Fill::Wide { 1.0 / 80f32.sqrt() } else { 1.0 };
    let matrix = |rows, seed| -> Vec<f32> {
        rounded(storage, &fill.matrix(rows, dim, seed).iter().map(|v| v * shrink).collect::<Vec<_>>())
    };
    let (q, k) = (matrix(queries, 17), matrix(keys, 18));
    let scale = reference::info_nce::scale(log_scale.map(f64::from), options);
    let largest = q.iter().chain(&k).fold(0.0f32, |largest, value| largest.max(value.abs()));
    check.magnifies_flushed(scale * f64::from(largest) * keys as f64);
    let loss_rows = if options.reduction == Reduction::None { queries } else { 1 };
    let dy = rounded(storage, &Fill::Small.matrix(loss_rows, 1, 19));

    let held_q = check.input_as(storage, queries, dim, &q)?;
    let held_k = check.input_as(storage, keys, dim, &k)?;
    let held_dy = check.input_as(storage, loss_rows, 1, &dy)?;
    let held_scale = check.input(1, 1, &[log_scale.unwrap_or(0.0)])?;
    let batch = info_nce::Batch::new(held_q.view()?, held_k.view()?);
    let batch = if log_scale.is_some() { batch.scaled(held_scale.view()?) } else { batch };
    let [state_rows, state_cols] = batch.state_shape(options);
    let (loss, state) = (check.output_as(storage, loss_rows, 1)?, check.output(state_rows, state_cols)?);
    let accum = options.accum;
    let (old_q, old_k) = (before(accum, storage, queries * dim, 20), before(accum, storage, keys * dim, 21));
    let old_scale = before(accum, Storage::F32, 1, 22);
    let dq = check.holding(storage, queries, dim, &old_q)?;
    let dk = check.holding(storage, keys, dim, &old_k)?;
    let d_scale = check.holding(Storage::F32, 1, 1, &old_scale)?;
    check.run(|recorder| {
        info_nce::forward(recorder, batch, loss.view()?, state.view()?, options)?;
        let (dq, dk, d_log_scale) = (Some(dq.view()?), Some(dk.view()?), Some(d_scale.view()?));
        let gradients = info_nce::Gradients { dq, dk, d_log_scale, d_bias: None };
        info_nce::backward(recorder, batch, state.view()?, Some(held_dy.view()?), gradients, options)
    })?;
    let (wide_q, wide_k, wide_dy): (Vec<f64>, Vec<f64>, Vec<f64>) = (cast(&q), cast(&k), cast(&dy));
    let truth = Batch { log_scale: log_scale.map(f64::from), ..Batch::new(&wide_q, &wide_k, dim) };
    let plain = Batch { log_scale, ..Batch::new(&q, &k, dim) };
    let want = reference::info_nce::forward(truth, options);
    let yardstick = reference::info_nce::forward(plain, options);
    let terms = loss_terms(truth, options);
    check.compare_sum("loss", &loss, &want, &yardstick, &terms)?;
    let want = reference::info_nce::backward(truth, &wide_dy, options);
    let yardstick = reference::info_nce::backward(plain, &dy, options);
    let terms = backward_terms(&wide_q, &wide_k, dim, scale, &wide_dy, options);
    check.compare_added("dq", &dq, &old_q, &want.dq, &yardstick.dq, &terms.0)?;
    check.compare_added("dk", &dk, &old_k, &want.dk, &yardstick.dk, &terms.1)?;
    let (want, yardstick) = ([want.d_log_scale], [yardstick.d_log_scale]);
    check.compare_added("d_log_scale", &d_scale, &old_scale, &want, &yardstick, &[terms.2])
}

/// A row's loss carries the absolute error of the scores, as far as it depends on them: -ln p changes by 1 - p <= min(1, loss).
fn loss_terms(batch: Batch<f64>, options: Options) -> Vec<f64> {
    let by_row = Options { reduction: Reduction::None, ..options };
    let losses = reference::info_nce::forward(batch, by_row);
    let largest =
        |x: &[f64]| x.chunks(batch.dim).map(|x| x.iter().map(|x| x * x).sum::<f64>().sqrt()).fold(0.0, f64::max);
    let score = reference::info_nce::scale(batch.log_scale, options) * largest(batch.q) * largest(batch.k);
    let terms: Vec<f64> = losses.iter().map(|loss| loss + score * loss.min(1.0)).collect();
    match options.reduction {
        Reduction::None | Reduction::Rows => terms,
        Reduction::Sum => vec![terms.iter().sum()],
        Reduction::Mean | Reduction::BatchMean => vec![terms.iter().sum::<f64>() / terms.len() as f64],
    }
}

/// The sums of the terms' magnitudes in dq, dk and dlog_scale. A term is g_ij times an element; g_ij = w (p - [i = j]) carries
/// the relative error of p = e^(s - lse), which is the absolute error of s, a sum of magnitude scale Σ |q_id k_jd| itself.
fn backward_terms(
    q: &[f64],
    k: &[f64],
    dim: usize,
    scale: f64,
    dy: &[f64],
    options: Options,
) -> (Vec<f64>, Vec<f64>, f64) {
    let (n, m) = (q.len() / dim, k.len() / dim);
    let (mut dq, mut dk, mut d_log_scale) = (vec![0.0; q.len()], vec![0.0; k.len()], 0.0);
    let one = softmax::Options::default();
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let size = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a * b).abs()).sum::<f64>();
    let row = |x: &[f64], i: usize| x[i * dim..][..dim].to_vec();
    let scores: Vec<f64> = (0..n * m).map(|at| scale * product(&row(q, at / m), &row(k, at % m))).collect();
    let by_row = reference::softmax::forward(&scores, m, one);
    let turned: Vec<f64> = (0..n * m).map(|at| scores[at % n * m + at / n]).collect();
    let by_column = reference::softmax::forward(&turned, n, one);
    let mean = if options.reduction == Reduction::Mean { n as f64 } else { 1.0 };
    let weight = |i: usize| dy[if options.reduction == Reduction::None { i } else { 0 }].abs() / mean;
    for i in 0..n {
        for j in 0..m {
            let own = f64::from(u8::from(i == j));
            let mut g = weight(i) * (by_row[i * m + j] + own);
            if options.symmetric {
                g = 0.5 * (g + weight(j) * (by_column[j * n + i] + own));
            }
            let pair = scale * size(&row(q, i), &row(k, j));
            let g = g * (1.0 + pair);
            d_log_scale += g * pair;
            for d in 0..dim {
                dq[i * dim + d] += scale * g * k[j * dim + d].abs();
                dk[j * dim + d] += scale * g * q[i * dim + d].abs();
            }
        }
    }
    (dq, dk, d_log_scale)
}
