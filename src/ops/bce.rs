//! loss_ij = w_ij (−c_j t_ij ln σ(x_ij) − (1 − t_ij) ln(1 − σ(x_ij))), x logits, t targets between 0 and 1, σ the sigmoid.
//!
//! w are weights of the elements and c of the positive side of a column, 1 if absent. −ln σ(x) = ln(1 + e^−|x|) + max(−x, 0) and
//! −ln(1 − σ(x)) = −ln σ(−x), so that neither cancels; dx = w ((1 − t) σ(x) − c t σ(−x)) dy. Targets outside 0 to 1 are computed as
//! they are. A side whose factor is 0 adds nothing, even where its logarithm is infinite: x = +inf with t = 1 has loss 0, with t = 0
//! +inf. NaN gives NaN.
//! Source: Cox 1958, doi:10.1111/j.2517-6161.1958.tb00292.x; weights and reductions as
//! torch.nn.functional.binary_cross_entropy_with_logits.

use super::{Accum, Reduction};
use crate::Tensor;

/// What the loss is of.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// Logits [rows, cols].
    pub x: Tensor<'a>,
    /// Targets [rows, cols].
    pub t: Tensor<'a>,
    /// w, [rows, cols].
    pub weight: Option<Tensor<'a>>,
    /// c, [1, cols].
    pub pos_weight: Option<Tensor<'a>>,
}

/// Options of the op.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// Default mean over all elements, whatever their weights.
    pub reduction: Reduction,
    /// Whether gradients are added to what their outputs hold. Default no.
    pub accum: Accum,
}
