//! Normalizes rows to unit length: y_i = x_i / max(‖x_i‖, eps).
//!
//! A row of zeros gives zeros. NaN makes its row NaN. An infinity gives NaN in its place and 0 elsewhere in its row,
//! and makes the row's gradient NaN. Other rows are not affected. Lengths are computed without overflow or underflow.
//! Source: Schroff, Kalenichenko and Philbin 2015, arXiv:1503.03832, section 3.

use super::{required, rows_of, shaped};
use crate::kernel::{Family, Kernel, ScalarType::*, Shader, input, output, wgsl};
use crate::plan::Arg;
use crate::{Gpu, Recorder, Result, Tensor};

const OP: &str = "normalize";
static SHADER: Shader = Shader {
    op: OP,
    source: wgsl!("normalize", "length", "math", "lse", "row"),
    bindings: &[input("x"), output("y"), input("dy"), output("dx")],
    scalars: &[("eps", F32)],
    family: Family::Rows,
};
static FORWARD: Kernel = Kernel { shader: &SHADER, entry: "forward", uses: &["x", "y"], in_place: Some(("x", "y")) };
static BACKWARD: Kernel =
    Kernel { shader: &SHADER, entry: "backward", uses: &["x", "dy", "dx"], in_place: Some(("dy", "dx")) };
pub(super) const KERNELS: &[&Kernel] = &[&FORWARD, &BACKWARD];

/// Options of [`forward`] and [`backward`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// Lower bound of the length by which a row is divided, a normal number above 0. Default: 1e-12, as in
    /// torch.nn.functional.normalize.
    pub eps: f32,
}

impl Default for Options {
    fn default() -> Self {
        Options { eps: 1e-12 }
    }
}

impl Options {
    fn check(&self) -> Result<()> {
        required(OP, "eps", self.eps, self.eps.is_normal() && self.eps > 0.0, "a normal number above 0")
    }
}

/// `y` = the rows of `x` divided by max(length, eps). The shapes are equal. `y` may be `x` itself.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape), [`Error::Option`](crate::Error::Option),
/// [`Error::SameBuffer`](crate::Error::SameBuffer).
pub fn forward(recorder: &mut Recorder, x: Tensor, y: Tensor, options: Options) -> Result<()> {
    options.check()?;
    shaped(OP, "y", y, x.shape())?;
    let args = [Arg::by_row(x), Arg::by_row(y)];
    recorder.plan(|plan| plan.rows(&FORWARD, x.shape(), &args, &[options.eps.into()], &[]))
}

/// The gradient `dx` = (`dy` − y⟨y, `dy`⟩) / n from the forward's input, with n = max(length, eps).
///
/// If the length is below eps, `dx` = `dy` / eps. The shapes are equal. `dx` may be `dy` itself.
///
/// # Errors
/// As [`forward`].
pub fn backward(recorder: &mut Recorder, x: Tensor, dy: Tensor, dx: Tensor, options: Options) -> Result<()> {
    options.check()?;
    shaped(OP, "dy", dy, x.shape())?;
    shaped(OP, "dx", dx, x.shape())?;
    let args = [Arg::by_row(x), Arg::by_row(dy), Arg::by_row(dx)];
    recorder.plan(|plan| plan.rows(&BACKWARD, x.shape(), &args, &[options.eps.into()], &[]))
}

/// The rows of a slice, `cols` elements each, divided by their lengths.
///
/// ```
/// # let Ok(gpu) = wgloss::Gpu::new() else { return };
/// use wgloss::normalize;
/// let y = normalize::compute(&gpu, &[3.0, 4.0, 0.0, 0.0], 2, normalize::Options::default()).unwrap();
/// assert_eq!(y, [0.6, 0.8, 0.0, 0.0]);
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
