//! [`kl`] of the logits of two layers, a student and a teacher. Only the student gets gradients.
pub use super::linear_cross_entropy::Layer;
use super::{Real, kl, linear};
use crate::linear_kl::Options;

/// The divergence of the rows.
pub fn forward<F: Real>(student: Layer<F>, teacher: Layer<F>, options: Options) -> Vec<F> {
    kl::forward(&student.logits(), &teacher.logits(), student.shape[2], options)
}

/// dx `[rows, inputs]`, dW `[classes, inputs]` and db `[classes]` of the student; `dy` is the gradient of the loss,
/// empty for ones.
pub fn backward<F: Real>(student: Layer<F>, teacher: Layer<F>, dy: &[F], options: Options) -> (Vec<F>, Vec<F>, Vec<F>) {
    let [rows, inputs, classes] = student.shape;
    let [dx, _] = kl::backward(&student.logits(), &teacher.logits(), classes, dy, options);
    linear::backward(student.x, student.w, &dx, inputs, classes, rows)
}
