//! y = tanh x.
//!
//! ±inf gives ±1, NaN gives NaN. Source: LeCun, Bottou, Orr and Müller, *Efficient BackProp* (1998), section 4.4.

use super::{each, rows_of, shaped};
use crate::kernel::{Family, Kernel, Shader, input, output, wgsl};
use crate::{Gpu, Recorder, Result, Tensor};

const OP: &str = "tanh";
static SHADER: Shader = Shader {
    op: OP,
    source: wgsl!("tanh", "activation", "math", "lse", "row"),
    bindings: &[input("x"), output("y"), input("y_in"), input("dy"), output("dx")],
    scalars: &[],
    family: Family::Rows,
};
static FORWARD: Kernel = Kernel { shader: &SHADER, entry: "forward", uses: &["x", "y"], in_place: Some(("x", "y")) };
static BACKWARD: Kernel =
    Kernel { shader: &SHADER, entry: "backward", uses: &["y_in", "dy", "dx"], in_place: Some(("dy", "dx")) };
pub(super) const KERNELS: &[&Kernel] = &[&FORWARD, &BACKWARD];

/// `y` = tanh `x`. The shapes are equal. `y` may be `x` itself.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape), [`Error::SameBuffer`](crate::Error::SameBuffer).
pub fn forward(recorder: &mut Recorder, x: Tensor, y: Tensor) -> Result<()> {
    shaped(OP, "y", y, x.shape())?;
    recorder.plan(|plan| each(plan, &FORWARD, [Some(x), Some(y)], &[], &[]))
}

/// `dx` = `dy` (1 − `y`²), from the forward's output. The shapes are equal. `dx` may be `dy` itself.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape), [`Error::SameBuffer`](crate::Error::SameBuffer).
pub fn backward(recorder: &mut Recorder, y: Tensor, dy: Tensor, dx: Tensor) -> Result<()> {
    shaped(OP, "dy", dy, y.shape())?;
    shaped(OP, "dx", dx, y.shape())?;
    recorder.plan(|plan| each(plan, &BACKWARD, [Some(y), Some(dy), Some(dx)], &[], &[]))
}

/// tanh of a slice.
///
/// ```
/// # let Ok(gpu) = wgloss::Gpu::new() else { return };
/// let y = wgloss::tanh::compute(&gpu, &[0.0, 1.0, f32::INFINITY]).unwrap();
/// assert_eq!((y[0], y[2]), (0.0, 1.0));
/// assert!((y[1] - 0.761_594_2).abs() < 1e-7);
/// ```
///
/// # Errors
/// Any error of the device.
#[cfg(not(target_arch = "wasm32"))]
pub fn compute(gpu: &Gpu, x: &[f32]) -> Result<Vec<f32>> {
    let rows = rows_of(OP, "x", x, 1)?;
    let (input, output) = (gpu.upload(x)?, gpu.zeros::<f32>(rows)?);
    let y = Tensor::vector(&output, rows)?;
    gpu.run(|recorder| forward(recorder, Tensor::vector(&input, rows)?, y))?;
    gpu.read(y)
}
