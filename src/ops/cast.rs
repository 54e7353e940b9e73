//! y = x in another storage: f32, f16 or bf16, rounded to nearest, ties to even.
//!
//! NaN stays NaN; what exceeds the largest number of y's storage becomes infinite.
//! Source: IEEE 754-2019, section 4.3.1.

use super::{each, shaped};
use crate::kernel::{Family, Kernel, Shader, input, output, wgsl};
use crate::{Recorder, Result, Tensor};

const OP: &str = "cast";
static SHADER: Shader = Shader {
    op: OP,
    source: wgsl!("cast", "math", "lse", "row"),
    bindings: &[input("x"), output("y")],
    scalars: &[],
    family: Family::Rows,
};
static FORWARD: Kernel = Kernel { shader: &SHADER, entry: "forward", uses: &["x", "y"], in_place: None };
pub(super) const KERNELS: &[&Kernel] = &[&FORWARD];

/// `y` = `x`, shapes equal. Its gradient is the same with `dy` and `dx`.
///
/// ```
/// # fn main() -> wgloss::Result<()> {
/// # let Ok(gpu) = wgloss::Gpu::new() else { return Ok(()) };
/// use wgloss::{Storage, Tensor, cast};
/// let (wide, narrow) = (gpu.upload(&[1.0f32, 1.001, -3.0])?, gpu.zeros_as(Storage::Bf16, 3)?);
/// let (x, y) = (Tensor::matrix(&wide, 1, 3)?, Tensor::stored(Storage::Bf16, &narrow, 1, 3, 0, 3)?);
/// gpu.run(|recorder| cast::forward(recorder, x, y))?;
/// assert_eq!(gpu.read(y)?, [1.0, 1.0, -3.0]);
/// # Ok(()) }
/// ```
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape), [`Error::SameBuffer`](crate::Error::SameBuffer).
pub fn forward(recorder: &mut Recorder, x: Tensor, y: Tensor) -> Result<()> {
    shaped(OP, "y", y, x.shape())?;
    recorder.plan(|plan| each(plan, &FORWARD, [Some(x), Some(y)], &[], &[]))
}
