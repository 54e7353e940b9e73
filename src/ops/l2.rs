//! loss_ij = f (x_ij − t_ij)², `t` the target; dx = 2f (x − t) dy, dt = −dx.
//!
//! f is 1 as in torch.nn.functional.mse_loss; 0.5 gives optax.l2_loss. A NaN gives NaN, as do equal infinities; what exceeds f32
//! gives +inf. Source: Legendre 1805; Hastie, Tibshirani and Friedman 2009, doi:10.1007/978-0-387-84858-7, section 2.4.

use super::{Accum, Reduction, required};
use crate::{Result, Tensor};

const OP: &str = "l2";

/// Options of the op.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// Default mean over all elements.
    pub reduction: Reduction,
    /// f, above 0. Default 1.
    pub factor: f32,
    /// Whether gradients are added to what their outputs hold. Default no.
    pub accum: Accum,
}

impl Default for Options {
    fn default() -> Self {
        Options { reduction: Reduction::Mean, factor: 1.0, accum: Accum::Write }
    }
}

impl Options {
    #[expect(dead_code, reason = "for the kernels")]
    fn check(&self) -> Result<()> {
        let holds = self.factor > 0.0 && self.factor.is_normal();
        required(OP, "factor", self.factor, holds, "a number above 0")
    }
}

/// Where gradients go, each of the shape of its input; absent: not computed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Gradients<'a> {
    /// Of x.
    pub dx: Option<Tensor<'a>>,
    /// Of the target.
    pub dt: Option<Tensor<'a>>,
}
