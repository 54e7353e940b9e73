//! Softmax of rows: y_ij = exp(x_ij / T) / Σ_k exp(x_ik / T), or its logarithm.
//!
//! −inf is a mask, also in a row of only masks: its probability and gradient are 0. With the logarithm, y is −inf and
//! the gradient `dy`/T, as for every element of probability 0. A row that holds NaN or +inf is NaN in all its elements.
//! Other rows are not affected.
//! Source: Bridle 1990, doi:10.1007/978-3-642-76153-9_28; temperature: Hinton, Vinyals and Dean 2015, arXiv:1503.02531.

use super::{required, rows_of, scale_of, shaped, tempered};
use crate::kernel::{Family, Kernel, ScalarType::*, Shader, input, output, wgsl};
use crate::plan::{Arg, Plan, Scalar};
use crate::{Gpu, Recorder, Result, Tensor};

const OP: &str = "softmax";
static SHADER: Shader = Shader {
    op: OP,
    source: wgsl!("softmax", "math", "lse", "row"),
    bindings: &[input("x"), output("y"), input("y_in"), input("dy"), output("dx"), output("part")],
    scalars: &[("temperature", F32), ("scale_high", F32), ("scale_low", F32), ("scale_least", F32)],
    family: Family::Rows,
};
static FORWARD: Kernel =
    Kernel { shader: &SHADER, entry: "forward", uses: &["x", "y", "part"], in_place: Some(("x", "y")) };
static BACKWARD: Kernel =
    Kernel { shader: &SHADER, entry: "backward", uses: &["y_in", "dy", "dx", "part"], in_place: Some(("dy", "dx")) };
pub(super) const KERNELS: &[&Kernel] = &[&FORWARD, &BACKWARD];

/// Options of [`forward`] and [`backward`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// T, between 1e-30 and 1e30. Default: 1.
    pub temperature: f32,
    /// Whether to compute the logarithm (log_softmax). Default: off.
    pub log: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { temperature: 1.0, log: false }
    }
}

impl Options {
    fn check(&self) -> Result<()> {
        let holds = (1e-30..=1e30).contains(&self.temperature);
        required(OP, "temperature", self.temperature, holds, "between 1e-30 and 1e30")
    }

    fn scalars(&self) -> [Scalar; 4] {
        let [high, low, least] = scale_of(self.temperature);
        [self.temperature.into(), high, low, least]
    }

    fn flags(&self, plan: &Plan) -> [(&'static str, u32); 2] {
        [("LOG_FORM", self.log.into()), tempered(plan, self.temperature)]
    }
}

/// `y` = the softmax of the rows of `x`, or its logarithm. The shapes are equal. `y` may be `x` itself.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape), [`Error::Option`](crate::Error::Option),
/// [`Error::SameBuffer`](crate::Error::SameBuffer).
pub fn forward(recorder: &mut Recorder, x: Tensor, y: Tensor, options: Options) -> Result<()> {
    options.check()?;
    shaped(OP, "y", y, x.shape())?;
    let args = [Arg::by_row(x), Arg::by_row(y)];
    recorder.plan(|plan| plan.rows(&FORWARD, x.shape(), &args, &options.scalars(), &options.flags(plan)))
}

/// The gradient `dx` from the forward's output `y` and `dy`. The shapes are equal. `dx` may be `dy` itself.
///
/// # Errors
/// As [`forward`].
pub fn backward(recorder: &mut Recorder, y: Tensor, dy: Tensor, dx: Tensor, options: Options) -> Result<()> {
    options.check()?;
    shaped(OP, "dy", dy, y.shape())?;
    shaped(OP, "dx", dx, y.shape())?;
    let args = [Arg::by_row(y), Arg::by_row(dy), Arg::by_row(dx)];
    recorder.plan(|plan| plan.rows(&BACKWARD, y.shape(), &args, &options.scalars(), &options.flags(plan)))
}

/// The softmax of the rows of a slice, or its logarithm. Rows have `cols` elements.
///
/// ```
/// # let Ok(gpu) = wgloss::Gpu::new() else { return };
/// use wgloss::softmax;
/// let y = softmax::compute(&gpu, &[1e4, 1e4, f32::NEG_INFINITY], 3, softmax::Options::default()).unwrap();
/// assert_eq!(y, [0.5, 0.5, 0.0]);
/// ```
///
/// # Errors
/// As [`forward`], and any error of the device.
#[cfg(not(target_arch = "wasm32"))]
pub fn compute(gpu: &Gpu, x: &[f32], cols: usize, options: Options) -> Result<Vec<f32>> {
    let rows = rows_of(OP, "x", x, cols)?;
    let (input, output) = (gpu.upload(x)?, gpu.zeros::<f32>(x.len())?);
    let y = Tensor::matrix(&output, rows, cols)?;
    gpu.run(|recorder| forward(recorder, Tensor::matrix(&input, rows, cols)?, y, options))?;
    gpu.read(y)
}
