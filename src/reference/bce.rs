//! Binary cross-entropy from logits.
use super::sigmoid::{sigmoid, softplus};
use super::{Elements, Real, times};
use crate::bce::Options;

/// Rows of logits and targets.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a, F> {
    /// Logits.
    pub x: &'a [F],
    /// Targets.
    pub t: &'a [F],
    /// A weight for each element; empty: ones.
    pub weight: &'a [F],
    /// A weight of the positive side for each column; empty: ones.
    pub pos_weight: &'a [F],
}

impl<F: Real> Inputs<'_, F> {
    /// For each element `of`, called with x, the weight of its positive side (c t) and the weight of its negative side
    /// (1 − t), times the element's own weight.
    fn weighted(&self, cols: usize, of: impl Fn(F, F, F) -> F) -> impl Iterator<Item = F> {
        let pairs = self.x.iter().zip(self.t).enumerate();
        pairs.map(move |(index, (&x, &t))| {
            let weight = if self.weight.is_empty() { F::one() } else { self.weight[index] };
            let positive = if self.pos_weight.is_empty() { t } else { self.pos_weight[index % cols] * t };
            times(weight, of(x, positive, F::one() - t))
        })
    }
}

/// The loss of rows of `cols` elements.
pub fn forward<F: Real>(inputs: Inputs<F>, cols: usize, options: Options) -> Vec<F> {
    let loss = |x: F, positive, negative| times(positive, softplus(-x)) + times(negative, softplus(x));
    let losses = inputs.weighted(cols, loss).collect();
    Elements { len: inputs.x.len(), cols, reduction: options.reduction }.reduce(losses)
}

/// dx; `dy` is the gradient of the loss, empty for ones.
pub fn backward<F: Real>(inputs: Inputs<F>, cols: usize, dy: &[F], options: Options) -> Vec<F> {
    let elements = Elements { len: inputs.x.len(), cols, reduction: options.reduction };
    let slope = |x: F, positive, negative| times(negative, sigmoid(x)) - times(positive, sigmoid(-x));
    let slopes = inputs.weighted(cols, slope).enumerate();
    slopes.map(|(index, slope)| times(elements.factor(dy, index), slope)).collect()
}
