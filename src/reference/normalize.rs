//! y_i = x_i / max(‖x_i‖, eps).
use super::{Real, dot, real};
use crate::normalize::Options;

/// The rows of `x`, `cols` elements each, divided by max(length, eps).
pub fn forward<F: Real>(x: &[F], cols: usize, options: Options) -> Vec<F> {
    let rows = x.chunks(cols.max(1));
    rows.flat_map(|x| {
        let n = dot(x, x).sqrt().max(real(options.eps));
        let n = if x.iter().any(|v| v.is_nan()) { F::nan() } else { n };
        x.iter().map(move |&v| v / n)
    })
    .collect()
}

/// dx = (dy − y⟨y, dy⟩) / n, or dy / eps where the length is below eps.
pub fn backward<F: Real>(x: &[F], dy: &[F], cols: usize, options: Options) -> Vec<F> {
    let rows = x.chunks(cols.max(1)).zip(dy.chunks(cols.max(1)));
    rows.flat_map(|(x, dy)| {
        let (norm, eps) = (dot(x, x).sqrt(), real(options.eps));
        let n = if norm < eps { eps } else { norm };
        let along = if norm < eps { F::zero() } else { dot(x, dy) / n };
        x.iter().zip(dy).map(move |(&x, &dy)| (dy - x / n * along) / n)
    })
    .collect()
}
