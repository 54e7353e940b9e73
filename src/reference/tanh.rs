//! y = tanh x.
use super::Real;

/// tanh of each element.
pub fn forward<F: Real>(x: &[F]) -> Vec<F> {
    x.iter().map(|v| v.tanh()).collect()
}

/// dx = dy (1 − y²).
pub fn backward<F: Real>(y: &[F], dy: &[F]) -> Vec<F> {
    y.iter().zip(dy).map(|(&y, &dy)| dy * (F::one() - y * y)).collect()
}
