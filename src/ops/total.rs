//! Reduces the values of a loss to one number or to one per row. Not an op of its own: the last step of the losses.

use super::Accum;
use crate::kernel::{Family, Kernel, ScalarType::*, Shader, input, output, wgsl};
use crate::plan::{Arg, Plan};
use crate::{Result, Tensor};

static SHADER: Shader = Shader {
    op: "total",
    source: wgsl!("lib/total", "math", "lse", "row"),
    bindings: &[input("value"), output("loss")],
    scalars: &[("factor", F32), ("fresh", U32)],
    family: Family::Rows,
};
static TOTAL: Kernel = Kernel { shader: &SHADER, entry: "total", uses: &["value", "loss"], in_place: None };
static ROW_TOTALS: Kernel = Kernel { shader: &SHADER, entry: "row_totals", uses: &["value", "loss"], in_place: None };
pub(super) const KERNELS: &[&Kernel] = &[&TOTAL, &ROW_TOTALS];

/// Scratch: the values to reduce.
const VALUES: usize = 5;

/// The scratch buffer for `rows * cols` values.
pub(super) fn values(plan: &Plan, rows: usize, cols: usize) -> Result<wgpu::Buffer> {
    plan.scratch(VALUES, rows * cols)
}

/// `loss` [1, 1] = `factor` · Σ `value`.
pub(super) fn total(plan: &mut Plan, value: Tensor, loss: Tensor, factor: f32) -> Result<()> {
    accumulated(plan, value, loss, factor, Accum::Write)
}

/// `sum` [1, 1] = `factor` · Σ `value`, added to the old `sum` with [`Accum::Add`].
pub(super) fn accumulated(plan: &mut Plan, value: Tensor, sum: Tensor, factor: f32, accum: Accum) -> Result<()> {
    // Each dispatch takes as many rows as one binding holds and the kernel can count in 32 bits.
    let at_once = plan.rows_per_binding(value).min(u64::from(u32::MAX) / (value.cols as u64).max(1)) as usize;
    let parts = (0..value.rows.max(1)).step_by(at_once.max(1));
    for first in parts {
        let part = value.row_range(first..first.saturating_add(at_once));
        let args = [Arg::whole(part), Arg::whole(sum)];
        let fresh = first == 0 && accum == Accum::Write;
        plan.single(&TOTAL, &args, part.shape(), &[factor.into(), fresh.into()], &[])?;
    }
    Ok(())
}

/// `loss` [rows, 1] = `factor` · the row sums of `value`.
pub(super) fn row_totals(plan: &mut Plan, value: Tensor, loss: Tensor, factor: f32) -> Result<()> {
    let args = [Arg::by_row(value), Arg::by_row(loss)];
    plan.each_row(&ROW_TOTALS, value.shape(), &args, &[factor.into(), true.into()], &[])
}
