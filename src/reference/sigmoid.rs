//! y = 1 / (1 + e^−x), or its logarithm.
use super::Real;
use crate::sigmoid::Options;

/// σ(x), computed from e^−|x|, which cannot overflow.
pub(super) fn sigmoid<F: Real>(x: F) -> F {
    let e = (-x.abs()).exp();
    if x < F::zero() { e / (F::one() + e) } else { F::one() / (F::one() + e) }
}

/// ln(1 + e^x) = −ln σ(−x).
pub(super) fn softplus<F: Real>(x: F) -> F {
    x.max(F::zero()) + (-x.abs()).exp().ln_1p()
}

/// The sigmoid of each element.
pub fn forward<F: Real>(x: &[F], options: Options) -> Vec<F> {
    x.iter().map(|&x| if options.log { -softplus(-x) } else { sigmoid(x) }).collect()
}

/// dx from the forward's output: dy y (1 − y), or dy (1 − e^y) for the logarithm.
pub fn backward<F: Real>(y: &[F], dy: &[F], options: Options) -> Vec<F> {
    let slope = |y: F| if options.log { -y.exp_m1() } else { y * (F::one() - y) };
    y.iter().zip(dy).map(|(&y, &dy)| dy * slope(y)).collect()
}
