//! Gradient clipping by the norm of all gradients.
use super::{Real, real, sum};
use crate::clip::Options;

/// Clips the gradients in place. Returns the norm that they had before.
pub fn forward<F: Real>(gradients: &mut [&mut [F]], options: Options) -> F {
    let largest =
        gradients.iter().flat_map(|gradient| gradient.iter()).fold(F::zero(), |largest, g| largest.max(g.abs()));
    // Squares are computed in units of the power of two below the largest element, so that they stay in range.
    let unit = if largest > F::zero() && largest.is_finite() { largest.log2().floor().exp2() } else { F::one() };
    let squares: Vec<F> =
        gradients.iter().flat_map(|gradient| gradient.iter()).map(|&g| (g / unit) * (g / unit)).collect();
    let norm = sum(&squares).sqrt() * unit;
    let factor = real::<F>(options.max_norm) / (norm + real(1e-6));
    let factor = if factor > F::one() { F::one() } else { factor };
    gradients.iter_mut().flat_map(|gradient| gradient.iter_mut()).for_each(|g| *g = *g * factor);
    norm
}
