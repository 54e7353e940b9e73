//! The sigmoid loss over all pairs of a batch.
use super::info_nce::row;
use super::sigmoid::{sigmoid, softplus};
use super::{Real, count, divisor, dot, factor, real, reduce};
use crate::siglip::Options;

/// Learned parameters that replace the constants of [`Options`].
#[derive(Debug, Clone, Copy)]
pub struct Learned<F> {
    /// ln(1/temperature).
    pub log_scale: Option<F>,
    /// The bias.
    pub bias: Option<F>,
}

impl<F> Default for Learned<F> {
    fn default() -> Self {
        Learned { log_scale: None, bias: None }
    }
}

impl<F: Real> Learned<F> {
    fn clamped(&self, options: Options) -> bool {
        self.log_scale.is_some_and(|log_scale| log_scale.exp() > real(options.max_scale))
    }

    /// The factor of the scores: 1/temperature, or min(e^log_scale, max_scale).
    pub fn scale(&self, options: Options) -> F {
        match self.log_scale {
            Some(_) if self.clamped(options) => real(options.max_scale),
            Some(log_scale) => log_scale.exp(),
            None => F::one() / real(options.temperature),
        }
    }

    fn bias(&self, options: Options) -> F {
        self.bias.unwrap_or(real(options.bias))
    }
}

/// 1 for a query and its own key, −1 for any other.
fn sign<F: Real>(i: usize, j: usize) -> F {
    if i == j { F::one() } else { -F::one() }
}

/// The loss of queries `q` and keys `k`, rows of `dim` elements: one number, or one per query without reduction.
pub fn forward<F: Real>(q: &[F], k: &[F], dim: usize, learned: Learned<F>, options: Options) -> Vec<F> {
    let (scale, bias, n) = (learned.scale(options), learned.bias(options), q.len() / dim);
    let pair = |i, j| softplus(-sign::<F>(i, j) * (scale * dot(row(q, dim, i), row(k, dim, j)) + bias));
    let losses = (0..n).map(|i| (0..k.len() / dim).map(|j| pair(i, j)).sum());
    reduce(losses.collect(), divisor(count(n), n, options.reduction), options.reduction)
}

/// What [`backward`] gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Gradients<F> {
    /// Of the queries.
    pub dq: Vec<F>,
    /// Of the keys.
    pub dk: Vec<F>,
    /// Of ln(1/temperature).
    pub d_log_scale: F,
    /// Of the bias.
    pub d_bias: F,
}

impl<F: Real> Gradients<F> {
    /// Adds the gradients of pair (i, j), where `g` = dloss/dscore.
    fn add(&mut self, q: &[F], k: &[F], [i, j]: [usize; 2], g: F, scale: F, product: F) {
        let dim = q.len();
        self.d_bias = self.d_bias + g;
        self.d_log_scale = self.d_log_scale + g * scale * product;
        for d in 0..dim {
            self.dq[i * dim + d] = self.dq[i * dim + d] + scale * g * k[d];
            self.dk[j * dim + d] = self.dk[j * dim + d] + scale * g * q[d];
        }
    }
}

/// All gradients; `dy` is the gradient of the loss, empty for ones.
pub fn backward<F: Real>(
    q: &[F],
    k: &[F],
    dim: usize,
    learned: Learned<F>,
    dy: &[F],
    options: Options,
) -> Gradients<F> {
    let (scale, bias, n) = (learned.scale(options), learned.bias(options), q.len() / dim);
    let (zero, divisor) = (F::zero(), divisor(count(n), n, options.reduction));
    let mut sums = Gradients { dq: vec![zero; q.len()], dk: vec![zero; k.len()], d_log_scale: zero, d_bias: zero };
    for i in 0..n {
        let weight = factor(dy, i, divisor, options.reduction);
        for j in 0..k.len() / dim {
            let (q, k, sign) = (row(q, dim, i), row(k, dim, j), sign::<F>(i, j));
            let product = dot(q, k);
            let g = -weight * sign * sigmoid(-sign * (scale * product + bias));
            sums.add(q, k, [i, j], g, scale, product);
        }
    }
    if learned.clamped(options) {
        sums.d_log_scale = zero;
    }
    sums
}
