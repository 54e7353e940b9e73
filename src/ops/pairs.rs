//! The common part of losses over all pairs of queries and keys: checks, the chunks in which pairs are processed, and
//! the way from the gradient of the scores to all other gradients. Not an op of its own.

use core::ops::Range;

use super::linear::{self, Operand, chunks, in_f32, rounded, sum_of};
use super::{Accum, Reduction, required, shaped, total};
use crate::plan::{Arg, Plan, Scalar};
use crate::{Error, Result, Storage, Tensor};

/// Scratch: a chunk of g, the gradient of the scores (slot 1 holds partial sums of products); row sums per tile and of
/// whole rows; the same for columns.
const G: usize = 0;
const ROW_PARTS: usize = 2;
const ROW_SUMS: usize = 3;
const COL_PARTS: usize = 9;
const COL_SUMS: usize = 10;
/// Scratch: 16-bit gradients while they are summed in f32.
pub(super) const WIDE_DQ: usize = 20;
pub(super) const WIDE_DK: usize = 21;

/// Rows of g per chunk if the workspace holds less than all N × M pairs: enough for efficient products with g.
const CHUNK_ROWS: usize = 512;

/// A chunk has at most workspace / `BYTES_OF_LINE` columns, so that the 48 bytes that describe a column (`WORDS` of
/// info_nce) take at most a quarter of the workspace.
const BYTES_OF_LINE: usize = 4 * 48;

/// With fewer rows of g per chunk, the products with g are inefficient.
const FEW_ROWS: usize = 128;

/// Outputs for gradients, each of the shape of its input. Absent gradients are not computed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Gradients<'a> {
    /// Gradient of the queries.
    pub dq: Option<Tensor<'a>>,
    /// Gradient of the keys.
    pub dk: Option<Tensor<'a>>,
    /// Gradient of ln(1/temperature).
    pub d_log_scale: Option<Tensor<'a>>,
    /// Gradient of the bias.
    pub d_bias: Option<Tensor<'a>>,
}

impl Gradients<'_> {
    pub(super) fn is_empty(&self) -> bool {
        !self.has_g() && !self.has_sums()
    }

    /// Whether a gradient needs g, the gradient of every score.
    pub(super) fn has_g(&self) -> bool {
        self.dq.is_some() || self.dk.is_some()
    }

    /// Whether a gradient is a sum over all scores.
    pub(super) fn has_sums(&self) -> bool {
        self.d_log_scale.is_some() || self.d_bias.is_some()
    }
}

fn usable(scale: f32) -> bool {
    scale.is_normal() && scale > 0.0
}

/// Refuses an upper bound of the scale that is not a normal number above 0.
pub(super) fn check_max_scale(op: &'static str, max_scale: f32) -> Result<()> {
    required(op, "max_scale", max_scale, usable(max_scale), "a normal number above 0")
}

/// What all dispatches of a call have in common.
pub(super) struct Pairs<'a> {
    op: &'static str,
    pub(super) q: Tensor<'a>,
    pub(super) k: Tensor<'a>,
    pub(super) log_scale: Arg<'a>,
    temperature: f32,
    max_scale: f32,
    learnable: bool,
    reduction: Reduction,
    pub(super) dy: Arg<'a>,
    dy_by_row: bool,
    /// Which pairs are processed.
    extent: Extent,
    /// Whether a chunk should hold whole rows.
    whole_rows: bool,
}

/// Which pairs are processed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// All pairs.
    All,
    /// Of the first N columns only the pairs (i, i), in chunks along the diagonal. Of the other columns all pairs.
    Diagonal,
}

/// How scores are formed and losses reduced.
pub(super) struct Form {
    pub(super) temperature: f32,
    pub(super) max_scale: f32,
    pub(super) reduction: Reduction,
    /// Whether key i belongs to query i. There must then be at least as many keys as queries.
    pub(super) own: bool,
}

/// The pairs of one dispatch.
pub(super) struct Chunk<'a> {
    pub(super) rows: Range<usize>,
    pub(super) cols: Range<usize>,
    pub(super) q: Tensor<'a>,
    pub(super) k: Tensor<'a>,
    pub(super) grid: [usize; 3],
    /// Whether this is the first chunk that contains its rows, and the first that contains its columns.
    pub(super) is_first: [bool; 2],
}

impl Chunk<'_> {
    pub(super) fn shape(&self) -> [usize; 2] {
        [self.rows.len(), self.cols.len()]
    }

    /// Rows, columns and summed terms of the products.
    pub(super) fn products(&self) -> [usize; 3] {
        [self.rows.len(), self.cols.len(), self.q.cols]
    }
}

/// The outputs of a chunk's tiles: g, and the tiles' sums over rows and over columns.
pub(super) struct Sinks<'a> {
    pub(super) g: Arg<'a>,
    pub(super) row_part: Arg<'a>,
    pub(super) col_part: Arg<'a>,
}

/// What [`Pairs::walk`] computes, and where it goes.
#[derive(Clone, Copy)]
pub(super) struct Goal<'a> {
    pub(super) loss: Option<Tensor<'a>>,
    pub(super) gradients: Gradients<'a>,
    /// For the gradients of the rows, and of the columns.
    pub(super) accum: [Accum; 2],
    /// For the gradients of the scale and the bias.
    pub(super) accum_sums: Accum,
    /// Whether [`Along`] is wanted: it is formed in the second columns of the row sums and the column sums.
    pub(super) along: bool,
}

/// Buffers whose second columns hold ⟨row, gradient of the row⟩ of all rows, and the same of all columns.
pub(super) struct Along {
    pub(super) rows: wgpu::Buffer,
    pub(super) cols: wgpu::Buffer,
}

/// The first scalars of the op's shader.
pub(super) type Scalars = [Scalar; 9];

impl<'a> Pairs<'a> {
    pub(super) fn new(
        op: &'static str,
        q: Tensor<'a>,
        k: Tensor<'a>,
        log_scale: Option<Tensor<'a>>,
        form: Form,
    ) -> Result<Self> {
        let Form { temperature, max_scale, reduction, own } = form;
        required(
            op,
            "temperature",
            temperature,
            usable(temperature) && usable(1.0 / temperature),
            "from 1.2e-38 to 8.5e37",
        )?;
        check_max_scale(op, max_scale)?;
        shaped(op, "k", k, [k.rows, q.cols])?;
        if own && k.rows < q.rows {
            let (expected, found) = (format!("at least {} rows", q.rows), format!("{} rows", k.rows));
            return Err(Error::Shape { op, what: "k", expected, found });
        }
        if let Some(log_scale) = log_scale {
            shaped(op, "log_scale", log_scale, [1, 1])?;
        }
        let learnable = log_scale.is_some();
        let log_scale = log_scale.map_or(Arg::NONE, Arg::whole);
        let (dy, dy_by_row) = (Arg::NONE, false);
        let (extent, whole_rows) = (Extent::All, false);
        Ok(Pairs {
            op,
            q,
            k,
            log_scale,
            temperature,
            max_scale,
            learnable,
            reduction,
            dy,
            dy_by_row,
            extent,
            whole_rows,
        })
    }

    /// The same call for other rows and columns, all of them paired with each other.
    pub(super) fn of(&self, q: Tensor<'a>, k: Tensor<'a>) -> Result<Self> {
        shaped(self.op, "k", k, [k.rows, q.cols])?;
        Ok(Pairs { q, k, extent: Extent::All, whole_rows: false, ..*self })
    }

    /// Sets which pairs are processed.
    pub(super) fn within(self, extent: Extent) -> Self {
        Pairs { extent, ..self }
    }

    /// The same call with, or without, whole rows in a chunk.
    pub(super) fn by_whole_rows(&self, whole_rows: bool) -> Self {
        Pairs { whole_rows, ..*self }
    }

    /// Sets the gradient of the loss.
    pub(super) fn weighted(self, dy: Option<Tensor<'a>>) -> Result<Self> {
        let Some(dy) = dy else { return Ok(self) };
        shaped(self.op, "dy", dy, self.loss_shape())?;
        Ok(Pairs { dy: Arg::whole(dy), dy_by_row: self.reduction.by_row(), ..self })
    }

    /// Refuses gradients whose shapes differ from those of their inputs.
    pub(super) fn check(&self, gradients: &Gradients) -> Result<()> {
        let Gradients { dq, dk, d_log_scale, d_bias } = *gradients;
        let (q, k) = (self.q.shape(), self.k.shape());
        for (what, gradient, shape) in
            [("dq", dq, q), ("dk", dk, k), ("d_log_scale", d_log_scale, [1, 1]), ("d_bias", d_bias, [1, 1])]
        {
            if let Some(gradient) = gradient {
                shaped(self.op, what, gradient, shape)?;
            }
        }
        Ok(())
    }

    pub(super) fn loss_shape(&self) -> [usize; 2] {
        self.reduction.of_rows(self.q.rows)
    }

    /// The factor that multiplies the sum of the rows' losses.
    pub(super) fn factor(&self) -> f32 {
        self.reduction.factor([self.q.rows, 1]) as f32
    }

    pub(super) fn scalars(&self, first: [usize; 2], has_sums: bool) -> Scalars {
        [
            self.q.cols.into(),
            first[0].into(),
            first[1].into(),
            self.learnable.into(),
            ((1.0 / f64::from(self.temperature)) as f32).into(),
            self.max_scale.into(),
            self.dy_by_row.into(),
            self.factor().into(),
            has_sums.into(),
        ]
    }

    /// Plans the reduction of the rows' losses to `loss`.
    pub(super) fn reduce(&self, plan: &mut Plan, row_losses: Tensor, loss: Tensor) -> Result<()> {
        match self.reduction.by_row() {
            true => total::row_totals(plan, row_losses, loss, 1.0),
            false => total::total(plan, row_losses, loss, self.factor()),
        }
    }

    /// Rows and columns of a chunk, such that intermediate results of `bytes` bytes per pair stay within the workspace.
    fn at_once(&self, plan: &Plan, bytes: f64) -> Result<(usize, usize)> {
        let tuning = plan.gpu().tuning();
        let [tile_rows, tile_cols] = tuning.tile();
        let most = plan.gpu().limits().max_compute_workgroups_per_dimension as usize;
        let pairs = (tuning.workspace as f64 / bytes) as usize;
        let whole_tiles = |count: usize, tile: usize| (count / tile).clamp(1, most) * tile;
        let rows_wanted = if self.whole_rows { 1 } else { CHUNK_ROWS };
        let rows_wanted = self.q.rows.clamp(1, rows_wanted).next_multiple_of(tile_rows);
        let fit_k = plan.rows_per_binding(self.k) as usize;
        let in_time = (tuning.work / self.q.cols.max(1) as u64) as usize;
        let at_once = pairs.min(in_time.max(tile_rows * tile_cols));
        let with_words = tuning.workspace as usize / BYTES_OF_LINE;
        let cols_wanted = (at_once / rows_wanted).min(with_words).min(self.k.rows.next_multiple_of(tile_cols));
        let cols = whole_tiles(cols_wanted.min(fit_k), tile_cols);
        let fit_q = plan.rows_per_binding(self.q) as usize;
        let rows = whole_tiles((at_once / cols).min(fit_q).min(self.q.rows.next_multiple_of(tile_rows)), tile_rows);
        if pairs < rows * cols {
            let (needed, limit) = (((rows * cols) as f64 * bytes).ceil() as u64, tuning.workspace);
            return Err(Error::Limit {
                what: format!("{}: the workspace of one tile", self.op),
                needed,
                unit: "bytes",
                limit,
            });
        }
        if (fit_k < cols && fit_k < self.k.rows) || (fit_q < rows && fit_q < self.q.rows) {
            let limit = plan.gpu().limits().max_storage_buffer_binding_size;
            let needed = 4 * (tile_rows.max(tile_cols) * self.q.stride.max(self.k.stride)) as u64;
            return Err(Error::Limit {
                what: format!("{}: the rows of one tile", self.op),
                needed,
                unit: "bytes",
                limit,
            });
        }
        Ok((rows, cols))
    }

    /// The chunks of all pairs, row range by row range. Without queries the chunks have no rows, without keys no
    /// columns.
    pub(super) fn chunks(&self, plan: &Plan, bytes: f64) -> Result<Vec<Chunk<'a>>> {
        let (rows_at_once, cols_at_once) = self.at_once(plan, bytes)?;
        let tuning = plan.gpu().tuning();
        let [tile_rows, tile_cols] = tuning.tile();
        let chunk = |rows: Range<usize>, cols: Range<usize>, is_first| Chunk {
            q: self.q.row_range(rows.clone()),
            k: self.k.row_range(cols.clone()),
            grid: [cols.len().div_ceil(tile_cols), rows.len().div_ceil(tile_rows), 1],
            rows,
            cols,
            is_first,
        };
        let diagonal = self.extent == Extent::Diagonal;
        let rows_at_once = if diagonal { rows_at_once.min(cols_at_once).min(CHUNK_ROWS) } else { rows_at_once };
        let rows = chunks(self.q.rows, rows_at_once).chain((self.q.rows == 0).then_some(0..0));
        let of_rows = |rows: Range<usize>| {
            let square = (diagonal && !rows.is_empty()).then(|| chunk(rows.clone(), rows.clone(), [true, true]));
            let first = if diagonal { self.q.rows } else { 0 };
            // Without keys, the sums of the rows must be initialized all the same.
            let none = (!diagonal && self.k.rows == 0).then_some(0..0);
            let rest = chunks(self.k.rows - first, cols_at_once).chain(none).map(move |cols| {
                let is_first = [!diagonal && cols.start == 0, rows.start == 0];
                chunk(rows.clone(), first + cols.start..first + cols.end, is_first)
            });
            square.into_iter().chain(rest).collect::<Vec<_>>()
        };
        Ok(rows.flat_map(of_rows).collect())
    }

    /// Whether whole rows, or with `all` all pairs, fit the workspace at once, so that one pass can use what another
    /// has kept of them.
    pub(super) fn fits(&self, plan: &Plan, bytes: f64, all: bool) -> Result<bool> {
        let chunks = self.by_whole_rows(true).chunks(plan, bytes)?;
        // With few rows at a time, the products would take longer than forming the scores again.
        let is_whole = |chunk: &Chunk| chunk.cols.len() == self.k.rows && chunk.rows.len() >= self.q.rows.min(FEW_ROWS);
        let whole = chunks.first().is_none_or(is_whole);
        Ok(self.extent == Extent::All && whole && (!all || chunks.len() == 1))
    }

    /// Plans all chunks: `tiles` records a chunk's dispatch, then its sums are accumulated and g is multiplied with
    /// both sides.
    ///
    /// `row_part` has these columns: two for what the tiles' rows add to d_log_scale and d_bias, or to [`Along`], if
    /// there are gradients; then two, the first of which holds the rows' losses, if there is a `loss`.
    pub(super) fn walk<'g>(
        &self,
        plan: &mut Plan<'g>,
        goal: Goal,
        tiles: impl Fn(&mut Plan<'g>, &Chunk, Sinks) -> Result<()>,
    ) -> Result<Option<Along>> {
        let gpu = plan.gpu();
        let Goal { loss, gradients, accum, accum_sums, along } = goal;
        let Gradients { dq, dk, d_log_scale, d_bias } = gradients;
        let [add_rows, add_cols] = accum.map(|accum| accum == Accum::Add);
        let loss_column = if gradients.is_empty() { 0 } else { 2 };
        let width = if loss.is_some() { loss_column + 2 } else { 2 };
        let scratch = plan.scratch(ROW_SUMS, self.q.rows * width)?;
        let sums: Tensor = Tensor::matrix(&scratch, self.q.rows, width)?;
        let col_scratch = plan.scratch(COL_SUMS, if along { 2 * self.k.rows } else { 0 })?;
        let bytes_of_sums = 4.0 * width as f64 / gpu.tuning().tile()[1] as f64;
        let pieces = self.chunks(plan, if gradients.has_g() { 4.0 } else { bytes_of_sums })?;
        // In 16 bits, a sum over several chunks would be rounded with each chunk: it is formed in f32.
        let several = pieces.len() > 1;
        let (wide_dq, wide_dk) = (in_f32(plan, WIDE_DQ, dq, several)?, in_f32(plan, WIDE_DK, dk, several)?);
        for chunk in pieces {
            let [rows, cols] = chunk.shape();
            let stride = cols.next_multiple_of(4); // so that rows are written and read four at a time
            let g = plan.scratch(G, if gradients.has_g() { rows * stride } else { 0 })?;
            let g = gradients.has_g().then(|| Tensor::view(Storage::F32, &g, rows, cols, 0, stride)).transpose()?;
            let sums_wanted = gradients.has_sums() || loss.is_some() || along;
            let parts = plan.scratch(ROW_PARTS, if sums_wanted { chunk.grid[0] * rows * width } else { 0 })?;
            let parts = sums_wanted.then(|| Tensor::matrix(&parts, chunk.grid[0] * rows, width)).transpose()?;
            let col_parts = plan.scratch(COL_PARTS, if along { chunk.grid[1] * cols * 2 } else { 0 })?;
            let col_parts = along.then(|| Tensor::matrix(&col_parts, chunk.grid[1] * cols, 2)).transpose()?;
            let [g_arg, row_part, col_part] = [g, parts, col_parts].map(|sink| sink.map_or(Arg::NONE, Arg::whole));
            tiles(plan, &chunk, Sinks { g: g_arg, row_part, col_part })?;
            let [first_rows, first_cols] = chunk.is_first;
            if let Some(parts) = parts {
                linear::add_slices(plan, parts, chunk.grid[0], sums.row_range(chunk.rows.clone()), !first_rows)?;
            }
            if let Some(parts) = col_parts {
                let sums = Tensor::matrix(&col_scratch, self.k.rows, 2)?.row_range(chunk.cols.clone());
                linear::add_slices(plan, parts, chunk.grid[1], sums, !first_cols)?;
            }
            if let Some((g, dq)) = g.zip(dq) {
                let (dq, add) = sum_of(&wide_dq, dq, add_rows)?;
                let dq = dq.row_range(chunk.rows);
                linear::product(plan, Operand::by_k(g), Operand::by_row(chunk.k), None, dq, add || !first_rows)?;
            }
            if let Some((g, dk)) = g.zip(dk) {
                let (dk, add) = sum_of(&wide_dk, dk, add_cols)?;
                let dk = dk.row_range(chunk.cols);
                linear::product(plan, Operand::by_row(g), Operand::by_row(chunk.q), None, dk, add || !first_cols)?;
            }
        }
        rounded(plan, &wide_dq, dq, add_rows)?;
        rounded(plan, &wide_dk, dk, add_cols)?;
        let column = |index: usize| sums.col_range(index..index + 1);
        for (index, sum) in [d_log_scale, d_bias].into_iter().enumerate() {
            if let Some(sum) = sum {
                total::accumulated(plan, column(index), sum, 1.0, accum_sums)?;
            }
        }
        loss.map_or(Ok(()), |loss| self.reduce(plan, column(loss_column), loss))?;
        Ok(along.then_some(Along { rows: scratch, cols: col_scratch }))
    }
}
