use super::{Check, Fill, before, cast, rounded};
use crate::reference::siglip as reference;
use crate::siglip::{self, Gradients, Learned, Options};
use crate::{Accum, Reduction, Result, Storage};

pub(super) async fn cases(check: &mut Check) -> Result<()> {
    let shapes = [
        // queries, keys, dim
        (1, 1, 1),
        (2, 2, 3),
        (7, 7, 1),
        (64, 64, 16),
        (65, 65, 33),
        (130, 131, 100),
        (3, 257, 7),
        (257, 257, 5),
    ];
    let learned = reference::Learned { log_scale: Some(1.5), bias: Some(-3.0) };
    for (queries, keys, dim) in shapes {
        let size = [queries, keys, dim];
        for fill in [Fill::Equal, Fill::Small, Fill::Outlier, Fill::Wide] {
            for reduction in [Reduction::Mean, Reduction::Sum, Reduction::None] {
                let options = Options { reduction, ..Default::default() };
                case(check, size, fill, reference::Learned::default(), Storage::F32, options).await?;
            }
            case(check, size, fill, learned, Storage::F32, Options::default()).await?;
        }
        for &storage in check.storages() {
            case(check, size, Fill::Small, learned, storage, Options::default()).await?;
            let options = Options { reduction: Reduction::Rows, accum: Accum::Add, ..Default::default() };
            case(check, size, Fill::Small, reference::Learned::default(), storage, options).await?;
        }
        let clamped = reference::Learned { log_scale: Some(5.0), bias: None };
        let options = Options { reduction: Reduction::BatchMean, accum: Accum::Add, ..Default::default() };
        case(check, size, Fill::Small, clamped, Storage::F32, options).await?;
    }
    Ok(())
}

pub(super) async fn drawn(check: &mut Check) -> Result<()> {
    let draw = &mut check.draw;
    let [a, b, dim] = draw.pairs(300_000);
    let [n, m] = [a.min(b), a.max(b)];
    check.gpu = draw.in_chunks(&check.gpu, n * m);
    let fills = [Fill::Equal, Fill::Small, Fill::Outlier, Fill::Wide];
    let (fill, storage) = (draw.fill_of_pairs(dim, n * m, &fills), draw.storage());
    let log_scale = draw.one_of(&[None, Some(1.5), Some(-1.0)]);
    let learned = reference::Learned { log_scale, bias: draw.one_of(&[None, Some(-3.0)]) };
    let options = Options { reduction: draw.reduction(), accum: draw.accum(), ..Default::default() };
    case(check, [n, m, dim], fill, learned, storage, options).await
}

/// `storage` is that of the matrices; the parameters and their gradients are f32.
async fn case(
    check: &mut Check,
    [queries, keys, dim]: [usize; 3],
    fill: Fill,
    learned: reference::Learned<f32>,
    storage: Storage,
    options: Options,
) -> Result<()> {
    check.case(format_args!("{queries} x {keys} x {dim} {fill:?} {storage:?} {learned:?} {options:?}"));
    // Wide scores without overflow: each one is the product of two wide rows.
    let shrink = if fill == Fill::Wide { 1.0 / 80f32.sqrt() } else { 1.0 };
    let matrix = |rows, seed| -> Vec<f32> {
        rounded(storage, &fill.matrix(rows, dim, seed).iter().map(|v| v * shrink).collect::<Vec<_>>())
    };
    let (q, k) = (matrix(queries, 17), matrix(keys, 18));
    let wide_learned =
        reference::Learned { log_scale: learned.log_scale.map(f64::from), bias: learned.bias.map(f64::from) };
    let scale = wide_learned.scale(options);
    let largest = q.iter().chain(&k).fold(0.0f32, |largest, value| largest.max(value.abs()));
    check.magnifies_flushed(scale * f64::from(largest * largest.max(1.0)) * (dim * queries * keys) as f64);
    let loss_rows = if options.reduction.by_row() { queries } else { 1 };
    let dy = rounded(storage, &Fill::Small.matrix(loss_rows, 1, 19));

    let held_q = check.input_as(storage, queries, dim, &q)?;
    let held_k = check.input_as(storage, keys, dim, &k)?;
    let held_dy = check.input_as(storage, loss_rows, 1, &dy)?;
    let held_scale = check.input(1, 1, &[learned.log_scale.unwrap_or(0.0)])?;
    let held_bias = check.input(1, 1, &[learned.bias.unwrap_or(0.0)])?;
    let loss = check.output_as(storage, loss_rows, 1)?;
    let accum = options.accum;
    let (old_q, old_k) = (before(accum, storage, queries * dim, 20), before(accum, storage, keys * dim, 21));
    let (old_scale, old_bias) = (before(accum, Storage::F32, 1, 22), before(accum, Storage::F32, 1, 23));
    let dq = check.holding(storage, queries, dim, &old_q)?;
    let dk = check.holding(storage, keys, dim, &old_k)?;
    let d_log_scale = check.holding(Storage::F32, 1, 1, &old_scale)?;
    let d_bias = check.holding(Storage::F32, 1, 1, &old_bias)?;
    check.run(|recorder| {
        let (q, k) = (held_q.view()?, held_k.view()?);
        let learned = Learned {
            log_scale: learned.log_scale.is_some().then(|| held_scale.view()).transpose()?,
            bias: learned.bias.is_some().then(|| held_bias.view()).transpose()?,
        };
        siglip::forward(recorder, q, k, learned, loss.view()?, Gradients::default(), options)?;
        let gradients = Gradients {
            dq: Some(dq.view()?),
            dk: Some(dk.view()?),
            d_log_scale: Some(d_log_scale.view()?),
            d_bias: Some(d_bias.view()?),
        };
        siglip::backward(recorder, q, k, learned, Some(held_dy.view()?), gradients, options)
    })?;
    let (wide_q, wide_k, wide_dy): (Vec<f64>, Vec<f64>, Vec<f64>) = (cast(&q), cast(&k), cast(&dy));
    let want = reference::forward(&wide_q, &wide_k, dim, wide_learned, options);
    let yardstick = reference::forward(&q, &k, dim, learned, options);
    let batch = Batch { q: &wide_q, k: &wide_k, dim, learned: wide_learned, dy: &wide_dy };
    let terms = batch.terms(options);
    check.compare_sum("loss", &loss, &want, &yardstick, &terms.loss).await?;
    let want = reference::backward(&wide_q, &wide_k, dim, wide_learned, &wide_dy, options);
    let yardstick = reference::backward(&q, &k, dim, learned, &dy, options);
    check.compare_added("dq", &dq, &old_q, &want.dq, &yardstick.dq, &terms.dq).await?;
    check.compare_added("dk", &dk, &old_k, &want.dk, &yardstick.dk, &terms.dk).await?;
    let scale = ([want.d_log_scale], [yardstick.d_log_scale], [terms.d_log_scale]);
    check.compare_added("d_log_scale", &d_log_scale, &old_scale, &scale.0, &scale.1, &scale.2).await?;
    let bias = ([want.d_bias], [yardstick.d_bias], [terms.d_bias]);
    check.compare_added("d_bias", &d_bias, &old_bias, &bias.0, &bias.1, &bias.2).await
}

struct Batch<'a> {
    q: &'a [f64],
    k: &'a [f64],
    dim: usize,
    learned: reference::Learned<f64>,
    dy: &'a [f64],
}

/// Sums of the terms' magnitudes.
struct Terms {
    loss: Vec<f64>,
    dq: Vec<f64>,
    dk: Vec<f64>,
    d_log_scale: f64,
    d_bias: f64,
}

impl Batch<'_> {
    /// A pair's loss ln(1 + e^x) changes with its score by the slope 1/(1 + e^−x). The score carries an error of the
    /// magnitude of its own terms, scale Σ |q_id k_jd| + |bias|. The slope carries a relative error of as much.
    fn terms(&self, options: Options) -> Terms {
        let Batch { q, k, dim, learned, dy } = *self;
        let (n, m) = (q.len() / dim, k.len() / dim);
        let (scale, bias) = (learned.scale(options), learned.bias.unwrap_or(options.bias.into()));
        let by_row = Options { reduction: Reduction::None, ..options };
        let mut rows = reference::forward(q, k, dim, learned, by_row);
        let (mut dq, mut dk, mut d_log_scale, mut d_bias) = (vec![0.0; q.len()], vec![0.0; k.len()], 0.0, 0.0);
        let mean = if matches!(options.reduction, Reduction::Mean | Reduction::BatchMean) { n as f64 } else { 1.0 };
        for i in 0..n {
            let weight = dy[if options.reduction.by_row() { i } else { 0 }].abs() / mean;
            for j in 0..m {
                let (a, b) = (&q[i * dim..][..dim], &k[j * dim..][..dim]);
                let product: f64 = a.iter().zip(b).map(|(a, b)| a * b).sum();
                let size = scale * a.iter().zip(b).map(|(a, b)| (a * b).abs()).sum::<f64>();
                let z = scale * product + bias;
                let slope = 1.0 / (1.0 + if i == j { z } else { -z }.exp());
                rows[i] += slope * (size + bias.abs());
                let g = weight * slope * (1.0 + size + bias.abs());
                d_log_scale += g * size;
                d_bias += g;
                for d in 0..dim {
                    dq[i * dim + d] += scale * g * b[d].abs();
                    dk[j * dim + d] += scale * g * a[d].abs();
                }
            }
        }
        let loss = if options.reduction.by_row() { rows } else { vec![rows.iter().sum::<f64>() / mean] };
        Terms { loss, dq, dk, d_log_scale, d_bias }
    }
}
