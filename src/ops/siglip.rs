//! loss_i = −Σ_j ln σ(z_ij (scale · ⟨q_i, k_j⟩ + bias)), z = 1 for i = j, else −1; σ the sigmoid.
//!
//! Every pair of queries q [N, D] and keys k [M, D], M ≥ N, is a decision of its own, unlike in [`info_nce`](crate::info_nce):
//! query i belongs to key i, all others are negatives. The mean is over the N queries. The scale is 1/temperature, or learned:
//! min(e^log_scale, [`Options::max_scale`]). A score that is NaN gives NaN; one of +inf or −inf the limit.
//! Source: Zhai et al. 2023, arXiv:2303.15343, section 3.2 and its initial values.

use super::{Accum, Reduction, required};
use crate::{Result, Tensor};

const OP: &str = "siglip";

/// Options of the op.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// 1/scale, above 0, where no `log_scale` tensor is given. Default 0.1.
    pub temperature: f32,
    /// Where no `bias` tensor is given. Default −10.
    pub bias: f32,
    /// Upper bound of a scale given as `log_scale`; past it the scale is this and its gradient 0. Default 100.
    pub max_scale: f32,
    /// Default mean over the queries.
    pub reduction: Reduction,
    /// Whether gradients are added to what their outputs hold. Default no.
    pub accum: Accum,
}

impl Default for Options {
    fn default() -> Self {
        Options { temperature: 0.1, bias: -10.0, max_scale: 100.0, reduction: Reduction::Mean, accum: Accum::Write }
    }
}

impl Options {
    #[expect(dead_code, reason = "for the kernels")]
    fn check(&self) -> Result<()> {
        let usable = |scale: f32| scale.is_normal() && scale > 0.0;
        let temperature = self.temperature;
        required(OP, "temperature", temperature, usable(temperature) && usable(1.0 / temperature), "a number above 0")?;
        required(OP, "max_scale", self.max_scale, usable(self.max_scale), "a number above 0")?;
        required(OP, "bias", self.bias, self.bias.is_finite(), "a finite number")
    }
}

/// Parameters [1, 1] that stand for the constants of [`Options`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Learned<'a> {
    /// ln(1/temperature).
    pub log_scale: Option<Tensor<'a>>,
    /// The bias.
    pub bias: Option<Tensor<'a>>,
}

/// Where gradients go, each of the shape of its input; absent: not computed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Gradients<'a> {
    /// Of the queries.
    pub dq: Option<Tensor<'a>>,
    /// Of the keys.
    pub dk: Option<Tensor<'a>>,
    /// Of ln(1/temperature).
    pub d_log_scale: Option<Tensor<'a>>,
    /// Of the bias.
    pub d_bias: Option<Tensor<'a>>,
}
