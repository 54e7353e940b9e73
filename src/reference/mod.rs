//! The textbook formulas on slices, on the CPU, without the kernels' tricks. The kernels are verified against them, and
//! users can check their own code with them.
//!
//! Every function is written once for both f64 and f32. In f64 it gives the truth. In f32 it gives the yardstick: what
//! the plain formula loses in the kernels' own precision. Matrices are row-major slices. A shape that does not fit
//! panics, as slices do.

pub mod adam;
pub mod bce;
pub mod cast;
pub mod clip;
pub mod cross_entropy;
pub mod dot;
pub mod folding;
pub mod gather;
pub mod gaussian_kl;
pub mod info_nce;
pub mod kl;
pub mod l2;
pub mod linear;
pub mod linear_cross_entropy;
pub mod linear_kl;
pub mod normalize;
pub mod sample;
pub mod sgd;
pub mod siglip;
pub mod sigmoid;
pub mod softmax;
pub mod tanh;
pub mod top_k;
pub mod wals;

use crate::Reduction;

/// f64 or f32.
pub trait Real: num_traits::Float + core::iter::Sum + From<f32> + Into<f64> + core::fmt::Debug {}
impl Real for f64 {}
impl Real for f32 {}

fn real<F: Real>(value: f32) -> F {
    <F as From<f32>>::from(value)
}

/// A number of elements, rows or the like. Exact in f64, unlike a conversion through f32.
fn count<F: Real>(number: usize) -> F {
    <F as num_traits::NumCast>::from(number).unwrap_or_else(F::nan)
}

/// a · b, but 0 if one factor is 0, even where the other one has overflowed or is infinite.
fn times<F: Real>(a: F, b: F) -> F {
    let zero = (a == F::zero() && !b.is_nan()) || (b == F::zero() && !a.is_nan());
    if zero { F::zero() } else { a * b }
}

/// value / divisor, but 0 if the divisor is 0.
fn over<F: Real>(value: F, divisor: F) -> F {
    if divisor == F::zero() { F::zero() } else { value / divisor }
}

fn dot<F: Real>(a: &[F], b: &[F]) -> F {
    a.iter().zip(b).map(|(&a, &b)| a * b).sum()
}

/// The sum, computed as the sum of the sums of both halves. Its rounding errors grow only with the logarithm of the
/// length.
fn sum<F: Real>(x: &[F]) -> F {
    match x.len() {
        0..64 => x.iter().copied().sum(),
        len => sum(&x[..len / 2]) + sum(&x[len / 2..]),
    }
}

/// The largest element; −∞ if there is none; NaN if one is NaN.
fn largest<F: Real>(x: &[F]) -> F {
    x.iter().fold(F::neg_infinity(), |largest, &v| if v > largest || v.is_nan() { v } else { largest })
}

/// ln Σ e^x of a row as two summands: the largest element, and the rest ln(1 + Σ e^(x − max) of the others). In a
/// single sum the rest would be lost beside a large element; by itself it keeps its digits even where it is small. (−∞,
/// 0) if all are −∞.
fn log_sum_exp<F: Real>(x: &[F]) -> (F, F) {
    let (max, others) = max_and_others(x);
    (max, others.ln_1p())
}

/// The largest element of a row and Σ e^(x − max) of the others. (−∞, 0) if all are −∞.
fn max_and_others<F: Real>(x: &[F]) -> (F, F) {
    let max = largest(x);
    if max == F::neg_infinity() {
        return (max, F::zero());
    }
    let own = x.iter().position(|&v| v == max);
    let others = x.iter().enumerate().filter(|&(j, _)| Some(j) != own).map(|(_, &v)| (v - max).exp());
    (max, if max.is_finite() { others.sum() } else { F::nan() })
}

/// ln p of a row's softmax. −∞ for a mask (an element −∞), and for every element of a row of masks; never −∞ for a
/// finite element.
fn log_softmax<F: Real>(x: &[F]) -> Vec<F> {
    let (max, rest) = log_sum_exp(x);
    let log = |&v: &F| match v - max - rest {
        _ if max == F::neg_infinity() => max,
        log if log == F::neg_infinity() && v.is_finite() => F::min_value(),
        log => log,
    };
    x.iter().map(log).collect()
}

/// −ln p of one element of a row under the row's softmax. Where the element is larger than all others, it is ln(1 + Σ
/// e^(x_j − x_own) over the others), elsewhere ln Σ e^x − x_own, so that neither p → 1 nor large x lose digits.
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

/// p of a row's softmax. 0 for a mask, and for every element of a row of masks.
fn probabilities<F: Real>(x: &[F]) -> Vec<F> {
    let (max, rest) = log_sum_exp(x);
    let p = |v: F| if v == F::neg_infinity() { F::zero() } else { (v - max - rest).exp() };
    x.iter().map(|&v| p(v)).collect()
}

/// p − [j = own] for each element j of a row. The one for `own` is computed as −Σ p of the others.
fn p_minus_own<F: Real>(x: &[F], own: usize) -> Vec<F> {
    let mut p = probabilities(x);
    if x[own] != F::neg_infinity() {
        p[own] = F::zero();
        p[own] = -p.iter().copied().sum::<F>();
    }
    p
}

/// What the sum of the rows' losses is divided by. `total` is the number or the weight of the rows that count.
fn divisor<F: Real>(total: F, rows: usize, reduction: Reduction) -> F {
    match reduction {
        Reduction::Mean => total,
        Reduction::BatchMean => count(rows),
        Reduction::None | Reduction::Rows | Reduction::Sum => F::one(),
    }
}

/// The rows' losses, reduced to one number or as they are.
fn reduce<F: Real>(losses: Vec<F>, divisor: F, reduction: Reduction) -> Vec<F> {
    if reduction.by_row() { losses } else { vec![over(losses.into_iter().sum(), divisor)] }
}

/// The factor of a row's gradient, for `dy` of the loss's shape (empty: ones).
fn factor<F: Real>(dy: &[F], row: usize, divisor: F, reduction: Reduction) -> F {
    let dy = match dy {
        [] => F::one(),
        dy => dy[if reduction.by_row() { row } else { 0 }],
    };
    over(dy, divisor)
}

/// The shape and the reduction of a loss of elements.
#[derive(Clone, Copy)]
struct Elements {
    len: usize,
    cols: usize,
    reduction: Reduction,
}

impl Elements {
    fn divisor<F: Real>(self) -> F {
        divisor(count(self.len), self.len / self.cols.max(1), self.reduction)
    }

    /// The losses as they are, summed for each row, or reduced to one number.
    fn reduce<F: Real>(self, losses: Vec<F>) -> Vec<F> {
        if self.reduction == Reduction::None {
            return losses;
        }
        let rows = losses.chunks(self.cols.max(1)).map(|row| row.iter().copied().sum::<F>());
        reduce(rows.collect(), self.divisor(), self.reduction)
    }

    /// The factor of the gradient of the element at `index`, for `dy` of the loss's shape (empty: ones).
    fn factor<F: Real>(self, dy: &[F], index: usize) -> F {
        let at = if self.reduction == Reduction::None { index } else { index / self.cols };
        factor(dy, at, self.divisor(), self.reduction)
    }
}
