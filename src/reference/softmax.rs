//! y_ij = exp(x_ij / T) / Σ_k exp(x_ik / T), or its logarithm.
use super::{Real, dot, log_sum_exp, real};
use crate::softmax::Options;

/// Softmax of the rows of `x`, `cols` elements each.
pub fn forward<F: Real>(x: &[F], cols: usize, options: Options) -> Vec<F> {
    let temperature = real::<F>(options.temperature);
    let rows = x.chunks(cols.max(1));
    rows.flat_map(|x| {
        let scaled: Vec<F> = x.iter().map(|&v| v / temperature).collect();
        let (max, rest) = log_sum_exp(&scaled);
        scaled.into_iter().map(move |v| {
            let log = if max == F::neg_infinity() { max } else { v - max - rest };
            if options.log { log } else { log.exp() }
        })
    })
    .collect()
}

/// dx from the forward's output.
pub fn backward<F: Real>(y: &[F], dy: &[F], cols: usize, options: Options) -> Vec<F> {
    let temperature = real::<F>(options.temperature);
    let rows = y.chunks(cols.max(1)).zip(dy.chunks(cols.max(1)));
    rows.flat_map(|(y, dy)| {
        let sum = if options.log { dy.iter().copied().sum() } else { dot(y, dy) };
        y.iter().zip(dy).map(move |(&y, &dy)| match options.log {
            true => (dy - y.exp() * sum) / temperature,
            false => y * (dy - sum) / temperature,
        })
    })
    .collect()
}
