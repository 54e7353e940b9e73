//! Divergences of the rows of two sides, the model's `x` with probabilities q and the target's `t` with probabilities p.
//!
//! Kullback and Leibler's Σ p (ln p − ln q), reversed Σ q (ln q − ln p), Jensen and Shannon's b KL(p ‖ m) + (1 − b) KL(q ‖ m) with
//! m = b p + (1 − b) q, and the total variation ½ Σ |p − q|. [`Form`] says what x and t are: logits (p = softmax(t/T)),
//! probabilities or logarithms; all but the first divergence take logits only, and only the first one has losses of elements.
//!
//! Special values: 0 ln 0 = 0, so an element with p = 0 adds nothing, in the gradient neither, even where ln q = −inf; p > 0 where
//! q = 0 gives +inf. −inf among logits is a mask: probability 0. A row of nothing but masks has no probabilities, and adds nothing
//! where they are the factor. A row of logits that holds NaN or +inf gives NaN. The total variation's gradient is 0 where p = q.
//! Source: Kullback and Leibler 1951, doi:10.1214/aoms/1177729694; Lin 1991, doi:10.1109/18.61115; temperature: Hinton, Vinyals and
//! Dean 2015, arXiv:1503.02531; in distillation: Agarwal et al. 2023, arXiv:2306.13649, section 2; reductions as
//! torch.nn.functional.kl_div.

use super::{Accum, Reduction, required};
use crate::{Error, Result, Tensor};

const OP: &str = "kl";

/// What the two sides are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Form {
    /// Both logits: p = softmax(t/T), q = softmax(x/T).
    #[default]
    Logits,
    /// t probabilities, which need not sum to 1, x logits: p = t, q = softmax(x/T).
    Probabilities,
    /// x = ln q, t = p, as torch.nn.functional.kl_div takes them.
    LogQ,
    /// x = ln q, t = ln p, as torch.nn.functional.kl_div with `log_target`.
    LogQLogP,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Divergence {
    /// Σ p (ln p − ln q).
    #[default]
    Kl,
    /// Σ q (ln q − ln p).
    ReverseKl,
    /// b KL(p ‖ m) + (1 − b) KL(q ‖ m), m = b p + (1 − b) q.
    JensenShannon {
        /// b, between 0 and 1, neither of them; 0.5 is the symmetric one.
        beta: f32,
    },
    /// ½ Σ |p − q|.
    TotalVariation,
}

/// Options of the op.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// Default logits.
    pub form: Form,
    /// Default Kullback and Leibler's.
    pub divergence: Divergence,
    /// T of the sides that are logits, between 1e-30 and 1e30, with `scale_t2` between 1e-15 and 1e15. Default 1.
    pub temperature: f32,
    /// Times T², which keeps the gradient's size as T grows (distillation). Default no.
    pub scale_t2: bool,
    /// Default the sum divided by the number of rows, the mean of the rows' divergences.
    pub reduction: Reduction,
    /// Whether gradients are added to what their outputs hold. Default no.
    pub accum: Accum,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            form: Form::Logits,
            divergence: Divergence::Kl,
            temperature: 1.0,
            scale_t2: false,
            reduction: Reduction::BatchMean,
            accum: Accum::Write,
        }
    }
}

impl Options {
    #[expect(dead_code, reason = "for the kernels")]
    fn check(&self) -> Result<()> {
        let temperature = self.temperature;
        let holds = (1e-30..=1e30).contains(&temperature);
        required(OP, "temperature", temperature, holds, "between 1e-30 and 1e30")?;
        let holds = !self.scale_t2 || (1e-15..=1e15).contains(&temperature);
        required(OP, "temperature", temperature, holds, "between 1e-15 and 1e15 with scale_t2")?;
        if let Divergence::JensenShannon { beta } = self.divergence {
            required(OP, "beta", beta, beta > 0.0 && beta < 1.0, "above 0 and below 1")?;
        }
        if self.divergence == Divergence::Kl {
            return Ok(());
        }
        if self.form != Form::Logits {
            let (expected, found) = ("Logits for this divergence", format!("{:?}", self.form));
            return Err(Error::Option { op: OP, option: "form", expected, found });
        }
        if self.reduction == Reduction::None {
            let (expected, found) = ("one of rows for this divergence", "None".to_owned());
            return Err(Error::Option { op: OP, option: "reduction", expected, found });
        }
        Ok(())
    }
}

/// Where gradients go, each of the shape of its input; absent: not computed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Gradients<'a> {
    /// Of x.
    pub dx: Option<Tensor<'a>>,
    /// Of t.
    pub dt: Option<Tensor<'a>>,
}
