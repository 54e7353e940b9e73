//! The contrastive loss over all pairs of a batch.
use super::{Real, count, divisor, dot, factor, minus_log_p, p_minus_own, real, reduce};
use crate::info_nce::Options;

/// The factor of the scores: 1/temperature, or min(e^log_scale, max_scale).
pub fn scale<F: Real>(log_scale: Option<F>, options: Options) -> F {
    match log_scale {
        Some(log_scale) if log_scale.exp() > real(options.max_scale) => real(options.max_scale),
        Some(log_scale) => log_scale.exp(),
        None => real::<F>(1.0) / real(options.temperature),
    }
}

pub(super) fn row<F>(x: &[F], dim: usize, index: usize) -> &[F] {
    &x[index * dim..][..dim]
}

/// scale · ⟨q, k_j⟩ for every row j of `k`.
fn scores<F: Real>(q: &[F], k: &[F], dim: usize, scale: F) -> Vec<F> {
    (0..k.len() / dim).map(|j| scale * dot(q, row(k, dim, j))).collect()
}

/// The loss of queries `q` and keys `k`, rows of `dim` elements: one number, or one per query without reduction.
pub fn forward<F: Real>(q: &[F], k: &[F], dim: usize, log_scale: Option<F>, options: Options) -> Vec<F> {
    let (scale, n) = (scale(log_scale, options), q.len() / dim);
    let loss = |a, b, i| minus_log_p(&scores(row(a, dim, i), b, dim, scale), i);
    let losses = (0..n).map(|i| match options.symmetric {
        false => loss(q, k, i),
        true => real::<F>(0.5) * (loss(q, k, i) + loss(k, q, i)),
    });
    reduce(losses.collect(), divisor(count(n), n, options.reduction), options.reduction)
}

/// dq, dk and dlog_scale; `dy` is the gradient of the loss, empty for ones.
pub fn backward<F: Real>(
    q: &[F],
    k: &[F],
    dim: usize,
    log_scale: Option<F>,
    dy: &[F],
    options: Options,
) -> (Vec<F>, Vec<F>, F) {
    let scale = scale(log_scale, options);
    let mut sums = Sums { dq: vec![F::zero(); q.len()], dk: vec![F::zero(); k.len()], d_log_scale: F::zero() };
    let half = if options.symmetric { real(0.5) } else { F::one() };
    let n = q.len() / dim;
    let divisor = divisor(count(n), n, options.reduction);
    for i in 0..n {
        let weight = half * factor(dy, i, divisor, options.reduction);
        let s = scores(row(q, dim, i), k, dim, scale);
        for (j, g) in p_minus_own(&s, i).into_iter().enumerate() {
            sums.add(q, k, dim, [i, j], weight * g, scale);
        }
        if options.symmetric {
            let s = scores(row(k, dim, i), q, dim, scale);
            for (j, g) in p_minus_own(&s, i).into_iter().enumerate() {
                sums.add(q, k, dim, [j, i], weight * g, scale);
            }
        }
    }
    let clamped = log_scale.is_some_and(|log_scale| log_scale.exp() > real(options.max_scale));
    (sums.dq, sums.dk, if clamped { F::zero() } else { sums.d_log_scale })
}

struct Sums<F> {
    dq: Vec<F>,
    dk: Vec<F>,
    d_log_scale: F,
}

impl<F: Real> Sums<F> {
    /// What pair (i, j) gives, `g` = dloss/ds_ij.
    fn add(&mut self, q: &[F], k: &[F], dim: usize, [i, j]: [usize; 2], g: F, scale: F) {
        self.d_log_scale = self.d_log_scale + g * scale * dot(row(q, dim, i), row(k, dim, j));
        for d in 0..dim {
            self.dq[i * dim + d] = self.dq[i * dim + d] + scale * g * k[j * dim + d];
            self.dk[j * dim + d] = self.dk[j * dim + d] + scale * g * q[i * dim + d];
        }
    }
}

/// How many keys come before each query's own: those that score higher, or as high with a smaller number.
pub fn rank<F: Real>(q: &[F], k: &[F], dim: usize) -> Vec<u32> {
    let ranks = (0..q.len() / dim).map(|i| {
        let s = scores(row(q, dim, i), k, dim, F::one());
        let before = |(j, score): (usize, &F)| j != i && !(*score < s[i] || (*score == s[i] && j > i));
        s.iter().enumerate().filter(|&pair| before(pair)).count() as u32
    });
    ranks.collect()
}
