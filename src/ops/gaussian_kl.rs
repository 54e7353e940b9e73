//! loss_ij = ½ (e^a − 1 − a + (m − m')² e^−v'), a = v − v': the divergence KL(N(m, e^v) ‖ N(m', e^v')) of each element, a normal
//! distribution of mean m and log-variance v from its prior, m' = v' = 0 if that is absent.
//!
//! dm = (m − m') e^−v' = −dm', dv = ½ (e^a − 1), dv' = ½ (1 − e^a − (m − m')² e^−v'). e^a − 1 − a and e^a − 1 are formed without
//! cancellation, so that the loss near the prior keeps its digits. What exceeds f32 gives +inf, NaN gives NaN.
//! Source: Kullback and Leibler 1951, doi:10.1214/aoms/1177729694; as the term of a variational autoencoder: Kingma and Welling 2013,
//! arXiv:1312.6114, appendix B.

use super::{Accum, Reduction};
use crate::Tensor;

/// What the loss is of, all of one shape.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// m.
    pub mean: Tensor<'a>,
    /// v.
    pub log_variance: Tensor<'a>,
    /// m' and v'; absent: the standard normal distribution.
    pub prior: Option<(Tensor<'a>, Tensor<'a>)>,
}

/// Where gradients go, each of the shape of its input; absent: not computed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Gradients<'a> {
    /// Of m.
    pub mean: Option<Tensor<'a>>,
    /// Of v.
    pub log_variance: Option<Tensor<'a>>,
    /// Of m'.
    pub prior_mean: Option<Tensor<'a>>,
    /// Of v'.
    pub prior_log_variance: Option<Tensor<'a>>,
}

/// Options of the op.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Default the sum over the elements divided by the number of rows, as a variational autoencoder's term.
    pub reduction: Reduction,
    /// Whether gradients are added to what their outputs hold. Default no.
    pub accum: Accum,
}

impl Default for Options {
    fn default() -> Self {
        Options { reduction: Reduction::BatchMean, accum: Accum::Write }
    }
}
