use super::{Check, Fill, before, cast, rounded};
use crate::info_nce::{self, Options};
use crate::reference::info_nce::{Batch, Positive};
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
    option_cases(check)
}

/// Every option, alone and beside others. Each set of flags is a pipeline: cases that share one stand next to each other.
fn option_cases(check: &mut Check) -> Result<()> {
    let plain = Options { temperature: 0.5, ..Default::default() };
    let full = Extras { positive: Kind::Groups, ..Extras::default() };
    let one = Extras { positive: Kind::Index, ..Extras::default() };
    let (rows, wide) = ([37, 37, 9], [37, 53, 9]);
    let mut each = |sizes, extras, options| option_case(check, sizes, extras, options);
    let corrected = Extras { weight: true, log_q: true, ids: true, ..Extras::default() };
    for reduction in [Reduction::Mean, Reduction::Sum, Reduction::BatchMean, Reduction::None] {
        each(wide, corrected, Options { margin: 0.2, reduction, ..plain })?;
    }
    each(
        rows,
        Extras { weight: true, ..Extras::default() },
        Options { hardness: 0.7, near_margin: 0.1, symmetric: true, ..plain },
    )?;
    each(rows, Extras::default(), Options { near_margin: 0.0, symmetric: true, reduction: Reduction::None, ..plain })?;
    each(rows, Extras::default(), Options { decoupled: true, symmetric: true, ..plain })?;
    each([1, 1, 9], Extras::default(), Options { decoupled: true, symmetric: true, ..plain })?;
    for tau_plus in [0.01, 0.3] {
        each(rows, Extras::default(), Options { tau_plus, symmetric: true, ..plain })?;
    }
    each(rows, Extras::default(), Options { label_smoothing: 0.1, symmetric: true, margin: 0.1, ..plain })?;
    each(rows, one, Options { exclude_self: true, ..plain })?; // NT-Xent
    each(wide, one, Options { near_margin: 0.3, label_smoothing: 0.2, hardness: 0.5, ..plain })?;
    each(rows, Extras { weight: true, ..full }, Options { exclude_self: true, symmetric: true, ..plain })?; // SupCon, "out"
    each(rows, full, Options { exclude_self: true, symmetric: true, reduction: Reduction::None, ..plain })?;
    each(wide, Extras { log_q: true, ids: true, ..full }, Options { inside_log: true, ..plain })?;
    each(wide, full, Options { inside_log: true, decoupled: true, margin: 0.2, ..plain })?;
    each(wide, full, Options { decoupled: true, ..plain })?;
    each(wide, full, Options { label_smoothing: 0.3, ..plain })
}

/// Which keys are positives, without the numbers.
#[derive(Debug, Clone, Copy, Default)]
enum Kind {
    #[default]
    Own,
    Index,
    Groups,
}

/// What a batch has beside queries and keys.
#[derive(Debug, Clone, Copy, Default)]
struct Extras {
    positive: Kind,
    weight: bool,
    log_q: bool,
    ids: bool,
}

fn option_case(check: &mut Check, [n, m, dim]: [usize; 3], extras: Extras, options: Options) -> Result<()> {
    check.case(format_args!("{n} x {m} x {dim} {extras:?} {options:?}"));
    let matrix = |rows, cols, seed| Fill::Small.matrix(rows, cols, seed);
    let words = |len: usize, from: &dyn Fn(usize) -> usize| -> Vec<u32> { (0..len).map(|i| from(i) as u32).collect() };
    let (q, mut k) = (matrix(n, dim, 30), matrix(m, dim, 31));
    if n > 4 {
        k.copy_within(..dim, 2 * dim); // key 2 is key 0 again
    }
    let loss_rows = options.reduction.of_rows(n)[0];
    let dy = matrix(loss_rows, 1, 32);
    let weight: Vec<f32> = matrix(if extras.weight { n } else { 0 }, 1, 33).iter().map(|w| w.abs()).collect();
    let log_q = matrix(if extras.log_q { m } else { 0 }, 1, 34);
    // The last query has no positive: no key has that number, no key is of that group.
    let index = words(n, &|i| if i + 1 == n { u32::MAX as usize } else { (i + n / 2) % n });
    let (q_groups, k_groups) = (words(n, &|i| if i + 1 == n { 99 } else { i % 11 }), words(m, &|j| (j * 5) % 11));
    let (q_ids, k_ids) = (words(n, &|i| i % 7), words(m, &|j| (j * 3) % 7));

    let column = |data: &[f32]| check.input(data.len(), 1, data);
    let column_of_words = |data: &[u32]| check.input(data.len(), 1, data);
    let (held_q, held_k) = (check.input(n, dim, &q)?, check.input(m, dim, &k)?);
    let (held_weight, held_log_q, held_dy) = (column(&weight)?, column(&log_q)?, column(&dy)?);
    let held_index = column_of_words(&index)?;
    let (held_q_groups, held_k_groups) = (column_of_words(&q_groups)?, column_of_words(&k_groups)?);
    let (held_q_ids, held_k_ids) = (column_of_words(&q_ids)?, column_of_words(&k_ids)?);
    let batch = info_nce::Batch {
        weight: extras.weight.then(|| held_weight.view()).transpose()?,
        log_q: extras.log_q.then(|| held_log_q.view()).transpose()?,
        ids: if extras.ids { Some((held_q_ids.view()?, held_k_ids.view()?)) } else { None },
        positive: match extras.positive {
            Kind::Own => info_nce::Positive::Own,
            Kind::Index => info_nce::Positive::Index(held_index.view()?),
            Kind::Groups => info_nce::Positive::Groups(held_q_groups.view()?, held_k_groups.view()?),
        },
        ..info_nce::Batch::new(held_q.view()?, held_k.view()?)
    };
    let [state_rows, state_cols] = batch.state_shape(options);
    let (loss, state) = (check.output(loss_rows, 1)?, check.output(state_rows, state_cols)?);
    let (dq, dk, d_scale) = (check.output(n, dim)?, check.output(m, dim)?, check.output(1, 1)?);
    check.run(|recorder| {
        info_nce::forward(recorder, batch, loss.view()?, state.view()?, options)?;
        let (dq, dk, d_log_scale) = (Some(dq.view()?), Some(dk.view()?), Some(d_scale.view()?));
        let gradients = info_nce::Gradients { dq, dk, d_log_scale, d_bias: None };
        info_nce::backward(recorder, batch, state.view()?, Some(held_dy.view()?), gradients, options)
    })?;

    let (wide_q, wide_k, wide_dy): (Vec<f64>, Vec<f64>, Vec<f64>) = (cast(&q), cast(&k), cast(&dy));
    let (wide_weight, wide_log_q): (Vec<f64>, Vec<f64>) = (cast(&weight), cast(&log_q));
    let positive = match extras.positive {
        Kind::Own => Positive::Own,
        Kind::Index => Positive::Index(&index),
        Kind::Groups => Positive::Groups(&q_groups, &k_groups),
    };
    let ids = extras.ids.then_some((&q_ids[..], &k_ids[..]));
    let truth = Batch { weight: &wide_weight, log_q: &wide_log_q, positive, ids, ..Batch::new(&wide_q, &wide_k, dim) };
    let plain = Batch { weight: &weight, log_q: &log_q, positive, ids, ..Batch::new(&q, &k, dim) };
    let (want, yardstick) =
        (reference::info_nce::forward(truth, options), reference::info_nce::forward(plain, options));
    // The losses are differences of scores and log-sum-exps of at most this size, each weighted with 1 at most, the mean's divisor included.
    let size = (dim as f64 / f64::from(options.temperature)) + (m as f64).ln();
    let size = if options.reduction == Reduction::Sum { size * n as f64 } else { size };
    check.compare_sum("loss", &loss, &want, &yardstick, &vec![size; loss_rows])?;
    let (want, yardstick) =
        (reference::info_nce::backward(truth, &wide_dy, options), reference::info_nce::backward(plain, &dy, options));
    // A gradient's terms, probabilities and shares times elements of at most 1, and their relative errors, those of the scores.
    let by_row = if matches!(options.reduction, Reduction::None | Reduction::Sum) { 1.0 } else { 1.0 / n as f64 };
    let slope = 4.0 * by_row * size / f64::from(options.temperature);
    check.compare_sum("dq", &dq, &want.dq, &yardstick.dq, &vec![slope; n * dim])?;
    check.compare_sum("dk", &dk, &want.dk, &yardstick.dk, &vec![slope * n as f64 / 4.0; m * dim])?;
    let (want, yardstick) = ([want.d_log_scale], [yardstick.d_log_scale]);
    check.compare_sum("d_log_scale", &d_scale, &want, &yardstick, &[slope * n as f64])
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
