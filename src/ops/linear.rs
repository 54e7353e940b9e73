//! A linear layer: y = x Wᵀ + b.
//!
//! NaN and infinities propagate through the sums that contain them. Long sums are split and merged in a fixed order.
//! Source: Rumelhart, Hinton and Williams 1986, doi:10.1038/323533a0.

use core::ops::Range;

use super::{Accum, disjoint, named, rows_of, shaped};
use crate::kernel::{Family, Kernel, ScalarType::*, Shader, input, output, wgsl};
use crate::plan::{Arg, Plan, Scalar};
use crate::{Error, Gpu, Recorder, Result, Storage, Tensor};

const OP: &str = "linear";
static SHADER: Shader = Shader {
    op: OP,
    source: wgsl!("linear", "tile", "math", "lse", "row"),
    bindings: &[input("a"), input("b"), input("bias"), output("c"), input("part")],
    scalars: &[("depth", U32), ("per_split", U32), ("splits", U32), ("has_bias", U32), ("accumulate", U32)],
    family: Family::Tile,
};
static PRODUCT: Kernel = Kernel { shader: &SHADER, entry: "product", uses: &["a", "b", "bias", "c"], in_place: None };
static COLUMN_SUM: Kernel = Kernel { shader: &SHADER, entry: "column_sum", uses: &["a", "c"], in_place: None };
static MERGE: Kernel = Kernel { shader: &SHADER, entry: "merge", uses: &["part", "bias", "c"], in_place: None };
pub(super) const KERNELS: &[&Kernel] = &[&PRODUCT, &COLUMN_SUM, &MERGE];

/// Scratch: partial sums.
const PART: usize = 1;
/// Scratch: the f32 form of a sum that is stored in 16 bits.
const WIDE: usize = 24;

/// A sum is split only into slices of at least about this many terms.
const SHORTEST_SLICE: usize = 256;
/// A sum of at least twice this many terms is split, to limit its rounding error.
const LONGEST_SLICE: usize = 8192;

/// The size in bytes up to which a CPU's caches hold an operand stored `[k, columns]`.
///
/// For a larger operand, each tile reads a cache line of a few columns from every row, each on another memory page.
/// Therefore tiles of the same columns follow each other, and slices are short enough (`CACHED_SLICE`) that their pages
/// stay in the TLB.
const CACHED: usize = 8 << 20;
const CACHED_SLICE: usize = 2048;

/// `y` [rows, out] = `x` [rows, in] · `w`ᵀ + `b`, with `w` [out, in] and `b` [out, 1].
///
/// # Errors
/// [`Error::Shape`], [`Error::SameBuffer`].
pub fn forward(recorder: &mut Recorder, x: Tensor, w: Tensor, b: Option<Tensor>, y: Tensor) -> Result<()> {
    shaped(OP, "w", w, [w.rows, x.cols])?;
    shaped(OP, "y", y, [x.rows, w.rows])?;
    if let Some(b) = b {
        shaped(OP, "b", b, [w.rows, 1])?;
    }
    disjoint(OP, &[named("y", y)], &[named("x", x), named("w", w), named("b", b)])?;
    recorder.plan(|plan| product(plan, Operand::by_k(x), Operand::by_k(w), b, y, false))
}

/// The given gradients: `dx` `[rows, in]` = `dy` · `w`, `dw` `[out, in]` = `dy`ᵀ · `x`, `db` `[out, 1]` = the column
/// sums of `dy`.
///
/// `accum` applies to all of them. To overwrite some and add to others, make two calls: no product is computed twice.
///
/// # Errors
/// [`Error::Shape`], [`Error::SameBuffer`].
#[allow(clippy::too_many_arguments, reason = "inputs, outputs, options: the order of every op")]
pub fn backward(
    recorder: &mut Recorder,
    x: Tensor,
    w: Tensor,
    dy: Tensor,
    dx: Option<Tensor>,
    dw: Option<Tensor>,
    db: Option<Tensor>,
    accum: Accum,
) -> Result<()> {
    shaped(OP, "w", w, [w.rows, x.cols])?;
    shaped(OP, "dy", dy, [x.rows, w.rows])?;
    for (what, gradient, shape) in [("dx", dx, x.shape()), ("dw", dw, w.shape()), ("db", db, [w.rows, 1])] {
        if let Some(gradient) = gradient {
            shaped(OP, what, gradient, shape)?;
        }
    }
    let outputs = [named("dx", dx), named("dw", dw), named("db", db)];
    disjoint(OP, &outputs, &[named("x", x), named("w", w), named("dy", dy)])?;
    let add = accum == Accum::Add;
    recorder.plan(|plan| {
        if let Some(dx) = dx {
            product(plan, Operand::by_k(dy), Operand::by_row(w), None, dx, add)?;
        }
        if let Some(dw) = dw {
            product(plan, Operand::by_row(dy), Operand::by_row(x), None, dw, add)?;
        }
        if let Some(db) = db {
            column_sum(plan, dy, db, add)?;
        }
        Ok(())
    })
}

/// A factor of a matrix product that sums over k.
#[derive(Clone, Copy)]
pub(super) struct Operand<'a> {
    tensor: Tensor<'a>,
    by_k: bool,
}

impl<'a> Operand<'a> {
    /// An operand stored `[rows, k]`.
    pub(super) fn by_k(tensor: Tensor<'a>) -> Self {
        Operand { tensor, by_k: true }
    }

    /// An operand stored `[k, rows]`.
    pub(super) fn by_row(tensor: Tensor<'a>) -> Self {
        Operand { tensor, by_k: false }
    }

    fn depth(self) -> usize {
        if self.by_k { self.tensor.cols } else { self.tensor.rows }
    }

    fn part(self, rows: Range<usize>, k: Range<usize>) -> Tensor<'a> {
        match self.by_k {
            true => self.tensor.row_range(rows).col_range(k),
            false => self.tensor.row_range(k).col_range(rows),
        }
    }
}

/// How to split a sum of `depth` terms: the number of slices and the terms per slice. `groups` workgroups compute one
/// slice of the result, which has `elements` elements. Sums of at least twice `longest` terms are always split if the
/// workspace allows.
fn slices(plan: &Plan, [depth, longest]: [usize; 2], groups: usize, elements: usize) -> (usize, usize) {
    let tuning = plan.gpu().tuning();
    let most = (tuning.workspace as usize / 4 / elements.max(1)).min(u16::MAX as usize);
    let enough = (tuning.groups as usize / groups.max(1)).max(depth / longest);
    let wanted = enough.min(depth / SHORTEST_SLICE).min(most).max(1);
    let most = plan.gpu().limits().max_compute_workgroups_per_dimension as usize;
    let per_slice = depth.div_ceil(wanted.min(most)).next_multiple_of(tuning.tile_depth as usize);
    (depth.div_ceil(per_slice.max(1)).max(1), per_slice)
}

/// `c` = `a` · `b`ᵀ (+ `bias` per column) (+ `c` if `accumulate`), in chunks if a binding or a grid is too small for
/// the whole.
pub(super) fn product<'a>(
    plan: &mut Plan<'a>,
    a: Operand,
    b: Operand,
    bias: Option<Tensor>,
    c: Tensor,
    accumulate: bool,
) -> Result<()> {
    let tuning = *plan.gpu().tuning();
    let [tile_rows, tile_cols] = tuning.tile();
    let most = plan.gpu().limits().max_compute_workgroups_per_dimension as usize;
    let fit = |tensor: Tensor, counts: bool| match counts {
        true => plan.rows_per_binding(tensor) as usize,
        false => usize::MAX,
    };
    let fit_bias = bias.map_or(usize::MAX, |bias| fit(bias, true));
    let cols_at_once = fit(b.tensor, b.by_k).min(fit_bias).min(most.saturating_mul(tile_cols));
    let depth_at_once = fit(a.tensor, !a.by_k).min(fit(b.tensor, !b.by_k));
    let work_of_row = (c.cols.min(cols_at_once) as u64).saturating_mul(a.depth().min(depth_at_once) as u64).max(1);
    let rows_in_time = (tuning.work / work_of_row) as usize / tile_rows * tile_rows;
    // A result that is summed in f32 first takes twice the room.
    let room = if depth_at_once < a.depth() && c.storage != Storage::F32 { 2 } else { 1 };
    // At least one row of a 16-bit result is taken. If it does not fit as f32, its dispatch returns the error.
    let rows_at_once = (fit(c, true) / room)
        .max(fit(c, true).min(1))
        .min(fit(a.tensor, a.by_k))
        .min(most.saturating_mul(tile_rows))
        .min(rows_in_time.max(tile_rows));
    if rows_at_once.min(cols_at_once).min(depth_at_once) == 0 {
        let sizes = [a.tensor, b.tensor, c].map(|tensor| tensor.cols as u64 * tensor.storage.bytes());
        let (needed, limit) = (sizes.into_iter().max().unwrap_or(0), plan.binding_limit());
        return Err(Error::Limit { what: "linear: one row".into(), needed, unit: "bytes", limit });
    }
    for rows in chunks(c.rows, rows_at_once) {
        for cols in chunks(c.cols, cols_at_once) {
            let whole = c.row_range(rows.clone()).col_range(cols.clone());
            // A sum over no terms still writes zeros and biases.
            let depths: Vec<_> = chunks(a.depth(), depth_at_once).chain((a.depth() == 0).then_some(0..0)).collect();
            let wide = in_f32(plan, WIDE, Some(whole), depths.len() > 1)?;
            for (index, k) in depths.into_iter().enumerate() {
                let (target, add) = sum_of(&wide, whole, accumulate)?;
                let (a_part, b_part) = (a.part(rows.clone(), k.clone()), b.part(cols.clone(), k.clone()));
                let bias = bias.filter(|_| index == 0).map(|bias| bias.row_range(cols.clone()));
                let grid = [target.cols.div_ceil(tile_cols), target.rows.div_ceil(tile_rows)];
                let down = tuning.by_subgroup && a.by_k && !b.by_k && 4 * k.len() * target.cols > CACHED;
                let longest = if down { CACHED_SLICE } else { LONGEST_SLICE };
                let (splits, per_split) =
                    slices(plan, [k.len(), longest], grid[0] * grid[1], target.rows * target.cols);
                let shape = Sum { depth: k.len(), splits, per_split };
                let form = |bias: bool, accumulate: bool| shape.scalars([bias, accumulate]);
                let flags = [("A_BY_K", a.by_k.into()), ("B_BY_K", b.by_k.into()), ("DOWN", down.into())];
                let grid = if down { [grid[1], grid[0], splits] } else { [grid[0], grid[1], splits] };
                let accumulate = add || index > 0;
                let bias_arg = bias.map_or(Arg::NONE, Arg::whole);
                let [a_arg, b_arg] = [a_part, b_part].map(Arg::whole);
                if splits == 1 {
                    let args = [a_arg, b_arg, bias_arg, Arg::whole(target)];
                    plan.tiles(
                        &PRODUCT,
                        &args,
                        [target.rows, target.cols, k.len()],
                        &form(bias.is_some(), accumulate),
                        &flags,
                        grid,
                    )?;
                } else {
                    let scratch = plan.scratch(PART, splits * target.rows * target.cols)?;
                    let part = Tensor::matrix(&scratch, splits * target.rows, target.cols)?;
                    let args = [a_arg, b_arg, Arg::NONE, Arg::whole(part)];
                    plan.tiles(
                        &PRODUCT,
                        &args,
                        [target.rows, target.cols, k.len()],
                        &form(false, false),
                        &flags,
                        grid,
                    )?;
                    merge(plan, part, bias_arg, target, &form(bias.is_some(), accumulate))?;
                }
            }
            rounded(plan, &wide, Some(whole), accumulate)?;
        }
    }
    Ok(())
}

/// An f32 scratch buffer for a 16-bit `sum` of `several` parts, so that it is rounded only once. None if not needed.
pub(super) fn in_f32(plan: &Plan, slot: usize, sum: Option<Tensor>, several: bool) -> Result<Option<wgpu::Buffer>> {
    let rounds = sum.filter(|sum| several && sum.storage != Storage::F32);
    rounds.map(|sum| plan.scratch(slot, sum.rows * sum.cols)).transpose()
}

/// Rounds the sum in the f32 buffer `wide`, if there is one, and writes it to `sum` or adds it.
pub(super) fn rounded(plan: &mut Plan, wide: &Option<wgpu::Buffer>, sum: Option<Tensor>, add: bool) -> Result<()> {
    let Some((wide, sum)) = wide.as_ref().zip(sum) else { return Ok(()) };
    let wide: Tensor = Tensor::matrix(wide, sum.rows, sum.cols)?;
    let at_once = plan.rows_per_binding(wide).min(plan.rows_per_binding(sum));
    for rows in chunks(sum.rows, at_once as usize) {
        add_slices(plan, wide.row_range(rows.clone()), 1, sum.row_range(rows), add)?;
    }
    Ok(())
}

/// The tensor in which a sum is formed, and whether to add to its contents: the f32 buffer `wide` if there is one, else
/// `sum`.
pub(super) fn sum_of<'b>(wide: &'b Option<wgpu::Buffer>, sum: Tensor<'b>, add: bool) -> Result<(Tensor<'b>, bool)> {
    match wide {
        Some(buffer) => Ok((Tensor::matrix(buffer, sum.rows, sum.cols)?, false)),
        None => Ok((sum, add)),
    }
}

/// `db` = the column sums of `dy` (+ `db` if `add`).
pub(super) fn column_sum<'a>(plan: &mut Plan<'a>, dy: Tensor, db: Tensor, add: bool) -> Result<()> {
    let at_once = plan.rows_per_binding(dy) as usize;
    if at_once == 0 {
        let (needed, limit) = (dy.cols as u64 * dy.storage.bytes(), plan.binding_limit());
        return Err(Error::Limit { what: "linear: one row".into(), needed, unit: "bytes", limit });
    }
    let fit_db = plan.rows_per_binding(db) as usize;
    if fit_db < db.rows {
        return chunks(db.rows, fit_db)
            .try_for_each(|part| column_sum(plan, dy.col_range(part.clone()), db.row_range(part), add));
    }
    let depths: Vec<_> = chunks(dy.rows, at_once).chain((dy.rows == 0).then_some(0..0)).collect();
    let wide = in_f32(plan, WIDE, Some(db), depths.len() > 1)?;
    let (whole, added) = (db, add);
    let (db, add) = sum_of(&wide, whole, added)?;
    for (index, k) in depths.into_iter().enumerate() {
        let groups = db.rows.div_ceil(plan.gpu().tuning().workgroup as usize);
        let (splits, per_split) = slices(plan, [k.len(), LONGEST_SLICE], groups, db.rows);
        let shape = Sum { depth: k.len(), splits, per_split };
        let source = Arg::whole(dy.row_range(k));
        let [first, last] = [false, add || index > 0].map(|accumulate| shape.scalars([false, accumulate]));
        if splits == 1 {
            plan.lanes(&COLUMN_SUM, &[source, Arg::whole(db)], [db.rows, 1], &last, &[], 1)?;
        } else {
            let scratch = plan.scratch(PART, splits * db.rows)?;
            let part = Tensor::vector(&scratch, splits * db.rows)?;
            plan.lanes(&COLUMN_SUM, &[source, Arg::whole(part)], [db.rows, 1], &first, &[], splits)?;
            merge(plan, part, Arg::NONE, db, &last)?;
        }
    }
    rounded(plan, &wide, Some(whole), added)
}

fn merge<'a>(plan: &mut Plan<'a>, part: Tensor, bias: Arg, c: Tensor, scalars: &[Scalar]) -> Result<()> {
    plan.lanes(&MERGE, &[Arg::whole(part), bias, Arg::whole(c)], c.shape(), scalars, &[], 1)
}

/// `c` = the sum of the `count` slices of `part`, each of c's shape, in order (+ `c` if `accumulate`).
pub(super) fn add_slices<'a>(
    plan: &mut Plan<'a>,
    part: Tensor,
    count: usize,
    c: Tensor,
    accumulate: bool,
) -> Result<()> {
    let scalars = Sum { depth: 0, splits: count, per_split: 0 }.scalars([false, accumulate]);
    merge(plan, part, Arg::NONE, c, &scalars)
}

struct Sum {
    depth: usize,
    splits: usize,
    per_split: usize,
}

impl Sum {
    /// The shader's scalars. `flags` are has_bias and accumulate.
    fn scalars(&self, flags: [bool; 2]) -> [Scalar; 5] {
        let [has_bias, accumulate] = flags.map(Scalar::from);
        let [depth, per_split, splits] = [self.depth, self.per_split, self.splits].map(Scalar::from);
        [depth, per_split, splits, has_bias, accumulate]
    }
}

/// 0..len in pieces of at most `size`.
pub(super) fn chunks(len: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len).step_by(size.max(1)).map(move |first| first..len.min(first.saturating_add(size)))
}

/// `x` · `w`ᵀ + `b` on slices. `x` has rows of `inputs` elements, `w` one such row per output.
///
/// ```
/// # let Ok(gpu) = wgloss::Gpu::new() else { return };
/// let y = wgloss::linear::compute(&gpu, &[1.0, 2.0], &[3.0, 4.0, 5.0, 6.0], Some(&[0.5, 0.0]), 2).unwrap();
/// assert_eq!(y, [11.5, 17.0]);
/// ```
///
/// # Errors
/// As [`forward`], and any error of the device.
#[cfg(not(target_arch = "wasm32"))]
pub fn compute(gpu: &Gpu, x: &[f32], w: &[f32], b: Option<&[f32]>, inputs: usize) -> Result<Vec<f32>> {
    let (rows, outputs) = (rows_of(OP, "x", x, inputs)?, rows_of(OP, "w", w, inputs)?);
    let (input, weights, output) = (gpu.upload(x)?, gpu.upload(w)?, gpu.zeros::<f32>(rows * outputs)?);
    let bias = b.map(|b| gpu.upload(b)).transpose()?;
    let bias = bias.as_ref().zip(b).map(|(buffer, b)| Tensor::vector(buffer, b.len())).transpose()?;
    let y = Tensor::matrix(&output, rows, outputs)?;
    gpu.run(|recorder| {
        forward(recorder, Tensor::matrix(&input, rows, inputs)?, Tensor::matrix(&weights, outputs, inputs)?, bias, y)
    })?;
    gpu.read(y)
}
