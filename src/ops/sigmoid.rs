//! The sigmoid y = 1 / (1 + e^−x), or its logarithm −ln(1 + e^−x).
//!
//! Both are accurate to full relative precision in their tails. The sigmoid of +inf is 1 and that of −inf 0; the
//! logarithms are 0 and −inf. NaN gives NaN.
//! Source: Rumelhart, Hinton and Williams 1986, doi:10.1038/323533a0.

use super::{each, rows_of, shaped};
use crate::kernel::{Family, Kernel, Shader, input, output, wgsl};
use crate::{Gpu, Recorder, Result, Tensor};

const OP: &str = "sigmoid";
static SHADER: Shader = Shader {
    op: OP,
    source: wgsl!("sigmoid", "activation", "math", "lse", "row"),
    bindings: &[input("x"), output("y"), input("y_in"), input("dy"), output("dx")],
    scalars: &[],
    family: Family::Rows,
};
static FORWARD: Kernel = Kernel { shader: &SHADER, entry: "forward", uses: &["x", "y"], in_place: Some(("x", "y")) };
static BACKWARD: Kernel =
    Kernel { shader: &SHADER, entry: "backward", uses: &["y_in", "dy", "dx"], in_place: Some(("dy", "dx")) };
pub(super) const KERNELS: &[&Kernel] = &[&FORWARD, &BACKWARD];

/// Options of the op.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// Whether to compute the logarithm (log_sigmoid). Default: off.
    pub log: bool,
}

impl Options {
    fn flags(&self) -> [(&'static str, u32); 1] {
        [("LOG_FORM", self.log.into())]
    }
}

/// `y` = the sigmoid of `x` or its logarithm. The shapes are equal. `y` may be `x` itself.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape), [`Error::SameBuffer`](crate::Error::SameBuffer).
pub fn forward(recorder: &mut Recorder, x: Tensor, y: Tensor, options: Options) -> Result<()> {
    shaped(OP, "y", y, x.shape())?;
    recorder.plan(|plan| each(plan, &FORWARD, [Some(x), Some(y)], &[], &options.flags()))
}

/// The gradient `dx` from the forward's output: `dy` `y` (1 − `y`), or with the logarithm `dy` (1 − e^`y`).
///
/// The shapes are equal. `dx` may be `dy` itself.
///
/// # Errors
/// As [`forward`].
pub fn backward(recorder: &mut Recorder, y: Tensor, dy: Tensor, dx: Tensor, options: Options) -> Result<()> {
    shaped(OP, "dy", dy, y.shape())?;
    shaped(OP, "dx", dx, y.shape())?;
    recorder.plan(|plan| each(plan, &BACKWARD, [Some(y), Some(dy), Some(dx)], &[], &options.flags()))
}

/// The sigmoid of a slice, or its logarithm.
///
/// ```
/// # let Ok(gpu) = wgloss::Gpu::new() else { return };
/// let y = wgloss::sigmoid::compute(&gpu, &[0.0, 1e4, -1e4], Default::default()).unwrap();
/// assert_eq!(y, [0.5, 1.0, 0.0]);
/// ```
///
/// # Errors
/// Any error of the device.
#[cfg(not(target_arch = "wasm32"))]
pub fn compute(gpu: &Gpu, x: &[f32], options: Options) -> Result<Vec<f32>> {
    let rows = rows_of(OP, "x", x, 1)?;
    let input = gpu.upload(x)?;
    let x = Tensor::vector(&input, rows)?;
    gpu.run(|recorder| forward(recorder, x, x, options))?;
    gpu.read(x)
}
