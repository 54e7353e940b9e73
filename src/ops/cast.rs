//! y = x in another storage (f32, f16 or bf16), rounded to nearest, ties to even.
//!
//! NaN stays NaN. Values beyond the largest number of y's storage become infinite.
//! Source: IEEE 754-2019, section 4.3.1.

use super::{each, shaped};
use crate::kernel::{self, Family, Kernel, Shader, input, new_ids, output, wgsl};
use crate::plan::{Arg, Plan};
use crate::{Recorder, Result, Tensor};

const OP: &str = "cast";
static SHADER: Shader = Shader {
    op: OP,
    source: wgsl!("cast", "math", "lse", "row"),
    bindings: &[input("x"), output("y"), kernel::ids("ids"), new_ids("new_ids")],
    scalars: &[],
    family: Family::Rows,
};
static FORWARD: Kernel = Kernel { shader: &SHADER, entry: "forward", uses: &["x", "y"], in_place: None };
static COPY_IDS: Kernel = Kernel { shader: &SHADER, entry: "copy_ids", uses: &["ids", "new_ids"], in_place: None };
pub(super) const KERNELS: &[&Kernel] = &[&FORWARD, &COPY_IDS];

/// Copies `x` to `y`, converting the storage. The shapes are equal. For the gradient, call it with `dy` and `dx`.
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
    recorder.plan(|plan| copy(plan, x, y))
}

/// Copies `ids` `[N, 1]` to `new` `[N, 1]`.
///
/// # Errors
/// As [`forward`].
pub fn ids(recorder: &mut Recorder, ids: Tensor<u32>, new: Tensor<u32>) -> Result<()> {
    shaped(OP, "new", new, [ids.rows, 1])?;
    shaped(OP, "ids", ids, [ids.rows, 1])?;
    recorder.plan(|plan| copy_ids(plan, ids, new))
}

pub(super) fn copy(plan: &mut Plan, x: Tensor, y: Tensor) -> Result<()> {
    each(plan, &FORWARD, [Some(x), Some(y)], &[], &[])
}

pub(super) fn copy_ids(plan: &mut Plan, ids: Tensor<u32>, new: Tensor<u32>) -> Result<()> {
    plan.each_row(&COPY_IDS, ids.shape(), &[Arg::by_row(ids), Arg::by_row(new)], &[], &[])
}
