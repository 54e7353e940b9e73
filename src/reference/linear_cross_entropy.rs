//! [`cross_entropy`] of the logits x Wᵀ + b.
use super::cross_entropy::{Target, Weights};
use super::{Real, cross_entropy, linear};
use crate::linear_cross_entropy::Options;

/// A linear layer and its input.
#[derive(Debug, Clone, Copy)]
pub struct Layer<'a, F> {
    /// The input x, `[rows, inputs]`.
    pub x: &'a [F],
    /// The weights W, `[classes, inputs]`.
    pub w: &'a [F],
    /// The bias, `[classes]`.
    pub b: Option<&'a [F]>,
    /// `[rows, inputs, classes]`.
    pub shape: [usize; 3],
}

impl<F: Real> Layer<'_, F> {
    /// The logits, `[rows, classes]`.
    pub fn logits(&self) -> Vec<F> {
        let [rows, inputs, classes] = self.shape;
        linear::forward(self.x, self.w, self.b, inputs, classes, rows)
    }
}

/// The loss: one number, or one for each row without reduction.
pub fn forward<F: Real>(layer: Layer<F>, target: Target<F>, weights: Weights<F>, options: Options) -> Vec<F> {
    cross_entropy::forward(&layer.logits(), layer.shape[2], target, weights, options)
}

/// dx [rows, inputs], dW [classes, inputs], db of `classes` elements; `dy` is the gradient of the loss, empty for ones.
pub fn backward<F: Real>(
    layer: Layer<F>,
    target: Target<F>,
    weights: Weights<F>,
    dy: &[F],
    options: Options,
) -> (Vec<F>, Vec<F>, Vec<F>) {
    let [rows, inputs, classes] = layer.shape;
    let g = cross_entropy::backward(&layer.logits(), classes, target, weights, dy, options);
    linear::backward(layer.x, layer.w, &g, inputs, classes, rows)
}
