//! The textbook formulas on slices, on the CPU, with no kernel trick: what the kernels are verified against, and what users
//! can check their own code with.
//!
//! Every function is written once for f64, the truth, and f32, the yardstick: what the plain formula loses in the kernels' own
//! precision. Matrices are row-major slices; a shape that does not fit panics, as slices do.

pub mod cross_entropy;
pub mod info_nce;
pub mod linear;
pub mod normalize;
pub mod sgd;
pub mod softmax;
pub mod tanh;

use crate::Reduction;

/// f64 or f32.
pub trait Real: num_traits::Float + core::iter::Sum + From<f32> + Into<f64> + core::fmt::Debug {}
impl Real for f64 {}
impl Real for f32 {}

fn real<F: Real>(value: f32) -> F {
    <F as From<f32>>::from(value)
}

fn dot<F: Real>(a: &[F], b: &[F]) -> F {
    a.iter().zip(b).map(|(&a, &b)| a * b).sum()
}

/// The largest element; −∞ if there is none; NaN if one is NaN.
fn largest<F: Real>(x: &[F]) -> F {
    x.iter().fold(F::neg_infinity(), |largest, &v| if v > largest || v.is_nan() { v } else { largest })
}

/// ln Σ e^x of a row as two summands, the largest element and the rest, which one sum would lose beside a large element.
/// (−∞, 0) if all are −∞.
fn log_sum_exp<F: Real>(x: &[F]) -> (F, F) {
    let max = largest(x);
    if max == F::neg_infinity() {
        return (max, F::zero());
    }
    (max, x.iter().map(|&v| (v - max).exp()).sum::<F>().ln())
}

/// −ln p of one element of a row under the row's softmax: ln(1 + Σ over the others of e^(x_j − x_own)) where that sum is
/// small, ln Σ e^x − x_own elsewhere, so that neither p → 1 nor large x lose digits.
fn minus_log_p<F: Real>(x: &[F], own: usize) -> F {
    let others = || x.iter().enumerate().filter(|&(j, _)| j != own).map(|(_, &v)| v - x[own]);
    if x[own] == F::neg_infinity() {
        F::infinity()
    } else if others().all(|gap| gap < F::zero()) {
        others().map(F::exp).sum::<F>().ln_1p()
    } else {
        let (max, rest) = log_sum_exp(x);
        max - x[own] + rest
    }
}

/// p − (1 for `own`) for each element of a row; for `own` that is −Σ p of the others.
fn p_minus_own<F: Real>(x: &[F], own: usize) -> Vec<F> {
    let (max, rest) = log_sum_exp(x);
    let p = |v: F| if v == F::neg_infinity() { F::zero() } else { (v - max - rest).exp() };
    let mut p: Vec<F> = x.iter().map(|&v| p(v)).collect();
    if own < x.len() && x[own] != F::neg_infinity() {
        p[own] = F::zero();
        p[own] = -p.iter().copied().sum::<F>();
    }
    p
}

/// The rows' losses as one number, or as they are; `count` is how many of them a mean divides by.
fn reduce<F: Real>(losses: Vec<F>, count: usize, reduction: Reduction) -> Vec<F> {
    match reduction {
        Reduction::None => losses,
        Reduction::Sum => vec![losses.into_iter().sum()],
        Reduction::Mean => vec![losses.into_iter().sum::<F>() / real(count.max(1) as f32)],
    }
}

/// The factor by which a row's gradient counts, for `dy` of the loss's shape (empty: ones).
fn factor<F: Real>(dy: &[F], row: usize, count: usize, reduction: Reduction) -> F {
    let dy = match (dy, reduction) {
        ([], _) => F::one(),
        (dy, Reduction::None) => dy[row],
        (dy, _) => dy[0],
    };
    if reduction == Reduction::Mean { dy / real(count.max(1) as f32) } else { dy }
}
