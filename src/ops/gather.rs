//! Gathers rows of a table by their ids (the forward pass of an embedding), scatters rows into a table, and sums
//! gradients per row of a table.
//!
//! An id that is not a row of the table gathers a row of zeros, is not scattered and adds to no sum. u32::MAX is not a
//! row of any table. Gradients of equal ids are summed in a fixed order: the result has the same bits on every run,
//! whatever the workgroup's size. A table too large for one binding is processed in parts.
//!
//! To update only the rows that a batch uses: sum their gradients with [`backward_rows`], copy their values and the
//! optimizer's state out of the tables with [`forward`], step them with `sgd::step` or `adam::step`, and write them
//! back with [`scatter`].
//!
//! Sources: Bengio, Ducharme, Vincent and Janvin 2003, section 3; the radix sort: Knuth, The Art of Computer
//! Programming 3, 5.2.5.

use core::ops::Range;

use super::{Accum, disjoint, named, shaped};
use crate::kernel::{Family, Kernel, ScalarType::*, Shader, ids, input, new_ids, output, wgsl};
use crate::plan::{Arg, Plan, Scalar};
use crate::{Error, Gpu, Recorder, Result, Tensor};

const OP: &str = "gather";
static SHADER: Shader = Shader {
    op: OP,
    source: wgsl!("gather", "math", "lse", "row"),
    bindings: &[
        input("rows_in"),
        output("rows_out"),
        ids("ids"),
        ids("order"),
        new_ids("new_ids"),
        new_ids("new_order"),
        new_ids("counts"),
        ids("counts_in"),
        new_ids("above"),
        ids("above_in"),
        output("parts"),
        input("parts_in"),
    ],
    scalars: &[
        ("all_rows", U32),
        ("first_row", U32),
        ("part_rows", U32),
        ("places", U32),
        ("width", U32),
        ("shift", U32),
    ],
    family: Family::Rows,
};
const fn kernel(entry: &'static str, uses: &'static [&'static str]) -> Kernel {
    Kernel { shader: &SHADER, entry, uses, in_place: None }
}
static FORWARD: Kernel = kernel("forward", &["rows_in", "ids", "rows_out"]);
static SCATTER: Kernel = kernel("scatter", &["rows_in", "ids", "rows_out"]);
static CLEAR: Kernel = kernel("clear", &["rows_out"]);
static COUNT: Kernel = kernel("count", &["ids", "counts"]);
static CLIMB: Kernel = kernel("climb", &["counts_in", "above"]);
static DESCEND: Kernel = kernel("descend", &["above_in", "counts"]);
static PLACE: Kernel = kernel("place", &["ids", "order", "counts_in", "new_ids", "new_order"]);
static BEGIN: Kernel = kernel("begin", &["ids", "order", "new_ids", "new_order"]);
static SUMS: Kernel = kernel("sums", &["rows_in", "ids", "order", "rows_out", "new_ids", "parts"]);
static MERGE: Kernel = kernel("merge", &["ids", "parts_in", "rows_out"]);
pub(super) const KERNELS: &[&Kernel] =
    &[&FORWARD, &SCATTER, &CLEAR, &COUNT, &CLIMB, &DESCEND, &PLACE, &BEGIN, &SUMS, &MERGE];

/// Ids per thread (lane): `BLOCK` of the shader.
const BLOCK: usize = 64;
const DIGIT_BITS: u32 = 4;
/// Counts that one thread (lane) sums.
const FAN: usize = 256;

/// Scratch: sorted ids and their original positions, two buffers of each, since a pass reads one and writes the other;
/// the counts with their sums at up to four higher levels; partial sums of runs.
const SORTED: [usize; 2] = [0, 1];
const ORDERS: [usize; 2] = [2, 3];
const COUNTS: [usize; 5] = [4, 5, 6, 7, 8];
const RUNS: usize = 9;
/// Scratch: for each id, the position at which its run of equal ids begins.
const HEADS: usize = 10;

/// The scalars of the shader. Those not set are 0.
#[derive(Debug, Clone, Copy, Default)]
struct Told {
    all_rows: usize,
    part: [usize; 2],
    places: usize,
    width: usize,
    shift: u32,
}

impl Told {
    fn scalars(self) -> [Scalar; 6] {
        let [first, rows] = self.part;
        [self.all_rows.into(), first.into(), rows.into(), self.places.into(), self.width.into(), self.shift.into()]
    }

    fn of(self, part: &Range<usize>) -> [Scalar; 6] {
        Told { part: [part.start, part.len()], ..self }.scalars()
    }
}

/// Gathers rows: `y` `[N, D]` = the rows `ids` `[N, 1]` of `table` `[R, D]`.
///
/// # Errors
/// [`Error::Shape`], [`Error::SameBuffer`].
pub fn forward(recorder: &mut Recorder, table: Tensor, ids: Tensor<u32>, y: Tensor) -> Result<()> {
    shaped(OP, "ids", ids, [y.rows, 1])?;
    shaped(OP, "y", y, [y.rows, table.cols])?;
    disjoint(OP, &[named("y", y)], &[named("table", table), named("ids", ids)])?;
    recorder.plan(|plan| take(plan, table, ids, y))
}

/// [`forward`] as part of another op.
pub(super) fn take(plan: &mut Plan, table: Tensor, ids: Tensor<u32>, y: Tensor) -> Result<()> {
    let told = Told { all_rows: table.rows, ..Told::default() };
    for part in parts(plan, OP, table)? {
        let args = [Arg::whole(table.row_range(part.clone())), Arg::by_row(ids), Arg::by_row(y)];
        plan.rows(&FORWARD, y.shape(), &args, &told.of(&part), &[])?;
    }
    Ok(())
}

/// Scatters rows: the rows `ids` `[N, 1]` of `table` `[R, D]` = `y` `[N, D]`.
///
/// Ids that are rows of the table should be distinct. For duplicate ids the row written is undefined: it may mix
/// elements of several rows of `y`.
///
/// # Errors
/// [`Error::Shape`], [`Error::SameBuffer`].
pub fn scatter(recorder: &mut Recorder, y: Tensor, ids: Tensor<u32>, table: Tensor) -> Result<()> {
    shaped(OP, "ids", ids, [y.rows, 1])?;
    shaped(OP, "y", y, [y.rows, table.cols])?;
    disjoint(OP, &[named("table", table)], &[named("y", y), named("ids", ids)])?;
    recorder.plan(|plan| put(plan, y, ids, table))
}

/// [`scatter`] as part of another op.
pub(super) fn put(plan: &mut Plan, y: Tensor, ids: Tensor<u32>, table: Tensor) -> Result<()> {
    for part in parts(plan, OP, table)? {
        let args = [Arg::by_row(y), Arg::by_row(ids), Arg::whole(table.row_range(part.clone()))];
        plan.rows(&SCATTER, y.shape(), &args, &Told::default().of(&part), &[])?;
    }
    Ok(())
}

/// Sums gradients per row of a table: `d_table`\[r\] = Σ `dy`\[i\] over all i with `ids`\[i\] = r.
///
/// `dy` is `[N, D]`, `ids` `[N, 1]` and `d_table` `[R, D]`. With [`Accum::Add`] the sums are added to `d_table`.
///
/// # Errors
/// [`Error::Shape`], [`Error::SameBuffer`].
pub fn backward(recorder: &mut Recorder, dy: Tensor, ids: Tensor<u32>, d_table: Tensor, accum: Accum) -> Result<()> {
    shaped(OP, "ids", ids, [dy.rows, 1])?;
    shaped(OP, "dy", dy, [dy.rows, d_table.cols])?;
    disjoint(OP, &[named("d_table", d_table)], &[named("dy", dy), named("ids", ids)])?;
    recorder.plan(|plan| add_up(plan, dy, ids, d_table, accum))
}

/// [`backward`] as part of another op.
fn add_up(plan: &mut Plan, dy: Tensor, ids: Tensor<u32>, d_table: Tensor, accum: Accum) -> Result<()> {
    if accum == Accum::Write {
        plan.rows(&CLEAR, d_table.shape(), &[Arg::by_row(d_table)], &Told::default().scalars(), &[])?;
    }
    for rows in parts(plan, OP, dy)? {
        let (dy, ids) = (dy.row_range(rows.clone()), ids.row_range(rows));
        sort(plan, ids, d_table.rows, |plan, sorted, order| {
            for part in parts(plan, OP, d_table)? {
                let rows = d_table.row_range(part.clone());
                let told = Told { all_rows: d_table.rows, part: [part.start, part.len()], ..Told::default() };
                sum(plan, dy, [sorted, order], rows, None, told)?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// The sums of [`backward`] without a gradient of the table's size, for large tables.
///
/// `table_rows` is the number of rows of the table. `rows` `[N, 1]` receives each id of `ids` that is a row of the
/// table: once each, in ascending order, with u32::MAX in between. The same row of `d_rows` `[N, D]` receives the sum
/// of that id's gradients; beside u32::MAX it is zeros.
///
/// # Errors
/// [`Error::Shape`], [`Error::SameBuffer`].
pub fn backward_rows(
    recorder: &mut Recorder,
    dy: Tensor,
    ids: Tensor<u32>,
    table_rows: usize,
    rows: Tensor<u32>,
    d_rows: Tensor,
) -> Result<()> {
    let n = dy.rows;
    shaped(OP, "ids", ids, [n, 1])?;
    shaped(OP, "rows", rows, [n, 1])?;
    shaped(OP, "d_rows", d_rows, dy.shape())?;
    disjoint(OP, &[named("rows", rows), named("d_rows", d_rows)], &[named("dy", dy), named("ids", ids)])?;
    recorder.plan(|plan| {
        let table_rows = table_rows.min(u32::MAX as usize);
        let told = Told { all_rows: table_rows, ..Told::default() };
        let is_whole = [dy, d_rows].iter().all(|rows| plan.rows_per_binding(*rows) >= n as u64);
        if is_whole {
            return sort(plan, ids, table_rows, |plan, sorted, order| {
                sum(plan, dy, [sorted, order], d_rows, Some(rows), told)
            });
        }
        let heads = plan.scratch(HEADS, n)?;
        let heads: Tensor<u32> = Tensor::vector(&heads, n)?;
        sort(plan, ids, table_rows, |plan, sorted, order| {
            plan.each_row(&BEGIN, [n, 1], &[sorted, order, rows, heads].map(Arg::whole), &told.scalars(), &[])
        })?;
        // If the positions where runs begin are taken as ids, the sums are those of a table.
        add_up(plan, dy, heads, d_rows, Accum::Write)
    })
}

/// The parts of a table that fit one binding each.
pub(super) fn parts(plan: &Plan, op: &'static str, table: Tensor) -> Result<Vec<Range<usize>>> {
    let at_once = plan.rows_per_binding(table) as usize;
    if at_once == 0 {
        let limit = plan.gpu().limits().max_storage_buffer_binding_size;
        return Err(Error::Limit {
            what: format!("{op}: one row of the table"),
            needed: table.span_bytes(),
            unit: "bytes",
            limit,
        });
    }
    // A table without rows has one empty part, so that `forward` still writes zeros.
    Ok((0..table.rows.max(1)).step_by(at_once).map(|first| first..table.rows.min(first + at_once)).collect())
}

/// Sorts the ids and passes `then` the sorted ids and their original positions. Ids of at least `all_rows` become
/// `all_rows`.
fn sort<'a>(
    plan: &mut Plan<'a>,
    ids: Tensor<u32>,
    all_rows: usize,
    then: impl FnOnce(&mut Plan<'a>, Tensor<u32>, Tensor<u32>) -> Result<()>,
) -> Result<()> {
    let n = ids.rows;
    if n == 0 {
        return Ok(());
    }
    let blocks = n.div_ceil(BLOCK);
    let mut sizes = vec![blocks << DIGIT_BITS];
    while sizes[sizes.len() - 1] > FAN {
        sizes.push(sizes[sizes.len() - 1].div_ceil(FAN));
    }
    let buffers = |slots: &[usize], sizes: &[usize]| -> Result<Vec<wgpu::Buffer>> {
        slots.iter().zip(sizes).map(|(&slot, &size)| plan.scratch(slot, size)).collect()
    };
    let (sorted, orders) = (buffers(&SORTED, &[n, n])?, buffers(&ORDERS, &[n, n])?);
    let counts = buffers(&COUNTS, &sizes)?;
    let view = |buffer, size| Tensor::<u32>::vector(buffer, size);
    let passes = (usize::BITS - all_rows.leading_zeros()).div_ceil(DIGIT_BITS).max(1);
    for pass in 0..passes {
        let (into, out_of) = (pass as usize % 2, (pass as usize + 1) % 2);
        let from = if pass == 0 { ids } else { view(&sorted[out_of], n)? };
        let order = if pass == 0 { Arg::NONE } else { Arg::whole(view(&orders[out_of], n)?) };
        let told = Told { all_rows, places: n, shift: DIGIT_BITS * pass, ..Told::default() };
        let first = view(&counts[0], sizes[0])?;
        plan.each_row(&COUNT, [blocks, 1], &[Arg::whole(from), Arg::whole(first)], &told.scalars(), &[])?;
        prefix(plan, &counts, &sizes)?;
        let (keys, places) = (view(&sorted[into], n)?, view(&orders[into], n)?);
        let args = [Arg::whole(from), order, Arg::whole(first), Arg::whole(keys), Arg::whole(places)];
        plan.each_row(&PLACE, [blocks, 1], &args, &told.scalars(), &[])?;
    }
    let last = (passes as usize - 1) % 2;
    then(plan, view(&sorted[last], n)?, view(&orders[last], n)?)
}

/// Exclusive prefix sum: each of the first level's counts becomes the sum of those before it.
fn prefix(plan: &mut Plan, counts: &[wgpu::Buffer], sizes: &[usize]) -> Result<()> {
    let level = |at: usize| Tensor::<u32>::vector(&counts[at], sizes[at]);
    let told = |at: usize| Told { places: sizes[at], ..Told::default() }.scalars();
    let top = sizes.len() - 1;
    for at in 0..top {
        let args = [Arg::whole(level(at)?), Arg::whole(level(at + 1)?)];
        plan.each_row(&CLIMB, [sizes[at + 1], FAN], &args, &told(at), &[])?;
    }
    plan.each_row(&DESCEND, [1, FAN], &[Arg::NONE, Arg::whole(level(top)?)], &told(top), &[])?;
    for at in (0..top).rev() {
        let args = [Arg::whole(level(at + 1)?), Arg::whole(level(at)?)];
        plan.each_row(&DESCEND, [sizes[at + 1], FAN], &args, &told(at), &[])?;
    }
    Ok(())
}

/// Sums `dy` over runs of equal ids. Without `rows`, each sum is added to the row of `out` that the id names. With
/// `rows`, `rows` receives the ids, and each sum is written to the position where its run begins.
fn sum(
    plan: &mut Plan,
    dy: Tensor,
    [sorted, order]: [Tensor<u32>; 2],
    out: Tensor,
    rows: Option<Tensor<u32>>,
    told: Told,
) -> Result<()> {
    let [n, width] = dy.shape();
    let (blocks, quads) = (n.div_ceil(BLOCK), width.div_ceil(4));
    if blocks == 0 || quads == 0 {
        return Ok(());
    }
    let scratch = plan.scratch(RUNS, 2 * blocks * width)?;
    let parts: Tensor = Tensor::matrix(&scratch, 2 * blocks, width)?;
    let scalars = Told { places: n, width, ..told }.scalars();
    let flags = [("COMPACT", rows.is_some().into()), ("ADD", rows.is_none().into())];
    let rows = rows.map_or(Arg::NONE, Arg::whole);
    let args = [Arg::whole(dy), Arg::whole(sorted), Arg::whole(order), Arg::whole(out), rows, Arg::whole(parts)];
    plan.lanes(&SUMS, &args, [blocks, quads], &scalars, &flags, 1)?;
    let args = [Arg::whole(sorted), Arg::whole(parts), Arg::whole(out)];
    plan.lanes(&MERGE, &args, [blocks, quads], &scalars, &flags, 1)
}

/// The rows `ids` of `table`, a slice in rows of `cols` elements.
///
/// ```
/// # let Ok(gpu) = wgloss::Gpu::new() else { return };
/// use wgloss::gather;
/// let table = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
/// assert_eq!(gather::compute(&gpu, &table, 2, &[2, 0, 9]).unwrap(), [5.0, 6.0, 1.0, 2.0, 0.0, 0.0]);
/// ```
///
/// # Errors
/// As [`forward`], and any error of the device.
#[cfg(not(target_arch = "wasm32"))]
pub fn compute(gpu: &Gpu, table: &[f32], cols: usize, ids: &[u32]) -> Result<Vec<f32>> {
    let rows = super::rows_of(OP, "table", table, cols)?;
    let (held, held_ids, y) = (gpu.upload(table)?, gpu.upload(ids)?, gpu.zeros::<f32>(ids.len().saturating_mul(cols))?);
    let (table, y) = (Tensor::matrix(&held, rows, cols)?, Tensor::matrix(&y, ids.len(), cols)?);
    gpu.run(|recorder| forward(recorder, table, Tensor::vector(&held_ids, ids.len())?, y))?;
    gpu.read(y)
}
