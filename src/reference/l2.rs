//! loss = factor (x − t)².
use super::{Elements, Real, real, times};
use crate::l2::Options;

/// The loss of `x` and targets `t`, rows of `cols` elements.
pub fn forward<F: Real>(x: &[F], t: &[F], cols: usize, options: Options) -> Vec<F> {
    let losses = x.iter().zip(t).map(|(&x, &t)| real::<F>(options.factor) * (x - t) * (x - t));
    Elements { len: x.len(), cols, reduction: options.reduction }.reduce(losses.collect())
}

/// dx and dt; `dy` is the gradient of the loss, empty for ones.
pub fn backward<F: Real>(x: &[F], t: &[F], cols: usize, dy: &[F], options: Options) -> [Vec<F>; 2] {
    let elements = Elements { len: x.len(), cols, reduction: options.reduction };
    let slope = |x: F, t: F| real::<F>(2.0) * (real::<F>(options.factor) * (x - t));
    let pairs = x.iter().zip(t).enumerate();
    let dx: Vec<F> = pairs.map(|(index, (&x, &t))| times(elements.factor(dy, index), slope(x, t))).collect();
    let dt = dx.iter().map(|&dx| -dx).collect();
    [dx, dt]
}
