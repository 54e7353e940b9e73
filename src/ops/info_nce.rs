//! The contrastive loss over all pairs of a batch, without ever storing the pairs.
//!
//! s_ij = scale · ⟨q_i, k_j⟩;  loss_i = ln Σ_j exp(s_ij) − s_ii, or the mean of that over rows and over columns ([`Options::symmetric`]).
//! Query i belongs to key i; further keys are negatives for all queries. Memory beyond inputs and outputs is at most twice
//! [`Tuning::workspace`](crate::Tuning::workspace) and two numbers a query, whatever M. Work, with U = 2·N·M·D: forward U, backward 3U.
//!
//! A score that is NaN or +inf (overflow) gives NaN for its row and column, one of −inf counts as masked.
//! Source: van den Oord, Li and Vinyals 2018, arXiv:1807.03748, eq. 4; symmetric with a learnable scale: Radford et al. 2021, arXiv:2103.00020.

use core::ops::Range;

use super::linear::{self, Operand, chunks};
use super::{Reduction, disjoint, named, required, rows_of, shaped, total};
use crate::kernel::{Family, Kernel, ScalarType::*, Shader, counters, input, output, wgsl};
use crate::recorder::{Arg, Plan, Scalar};
use crate::{Error, Gpu, Recorder, Result, Tensor};

const OP: &str = "info_nce";
static SHADER: Shader = Shader {
    op: OP,
    source: wgsl!("info_nce", "tile", "math", "lse", "row"),
    bindings: &[
        input("q"),
        input("k"),
        input("log_scale"),
        output("row_part"),
        output("col_part"),
        output("positive"),
        input("part"),
        output("lse"),
        input("row_lse"),
        input("col_lse"),
        input("positive_in"),
        output("loss"),
        input("dy"),
        output("g"),
        input("dq_in"),
        output("projection"),
        counters("rank"),
    ],
    scalars: &[
        ("dim", U32),
        ("first_row", U32),
        ("first_col", U32),
        ("parts", U32),
        ("fresh", U32),
        ("learnable", U32),
        ("scale", F32),
        ("max_scale", F32),
        ("symmetric", U32),
        ("dy_by_row", U32),
        ("factor", F32),
    ],
    family: Family::Tile,
};
static FORWARD: Kernel = Kernel {
    shader: &SHADER,
    entry: "forward",
    uses: &["q", "k", "log_scale", "row_part", "col_part", "positive"],
    in_place: None,
};
static MERGE: Kernel = Kernel { shader: &SHADER, entry: "merge", uses: &["part", "lse"], in_place: None };
static ROW_LOSS: Kernel =
    Kernel { shader: &SHADER, entry: "row_loss", uses: &["row_lse", "col_lse", "positive_in", "loss"], in_place: None };
static BACKWARD: Kernel = Kernel {
    shader: &SHADER,
    entry: "backward",
    uses: &["q", "k", "log_scale", "row_lse", "col_lse", "dy", "g"],
    in_place: None,
};
static SCALE_GRADIENT: Kernel = Kernel {
    shader: &SHADER,
    entry: "scale_gradient",
    uses: &["q", "dq_in", "log_scale", "projection"],
    in_place: None,
};
static POSITIVES: Kernel =
    Kernel { shader: &SHADER, entry: "positives", uses: &["q", "k", "log_scale", "positive", "rank"], in_place: None };
static COUNT_RANKS: Kernel = Kernel {
    shader: &SHADER,
    entry: "count_ranks",
    uses: &["q", "k", "log_scale", "positive_in", "rank"],
    in_place: None,
};
pub(super) const KERNELS: &[&Kernel] =
    &[&FORWARD, &MERGE, &ROW_LOSS, &BACKWARD, &SCALE_GRADIENT, &POSITIVES, &COUNT_RANKS];

/// Scratch: partial log-sum-exps of rows, or a chunk of g; partial log-sum-exps of columns (slot 1 holds the products' partial
/// sums too, never at the same time); s_ii; the rows' losses.
const PARTS: usize = 0;
const COL_PARTS: usize = 1;
const POSITIVE: usize = 2;
const ROW_VALUES: usize = 3;

/// Rows of g in a chunk where the workspace holds fewer than all of N × M: enough for the products with it to be efficient.
const CHUNK_ROWS: usize = 512;

/// Options of [`forward`] and [`backward`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// 1/scale, above 0, where no `log_scale` tensor is given. Default 0.07 (CLIP's initial value).
    pub temperature: f32,
    /// Upper bound of a scale given as `log_scale`; past it the scale is this and its gradient 0. Default 100 (CLIP's).
    pub max_scale: f32,
    /// The mean of both directions; needs as many keys as queries. Default no.
    pub symmetric: bool,
    /// Default mean over the queries.
    pub reduction: Reduction,
}

impl Default for Options {
    fn default() -> Self {
        Options { temperature: 0.07, max_scale: 100.0, symmetric: false, reduction: Reduction::Mean }
    }
}

impl Options {
    /// Shape of the loss, and of its gradient `dy`, for N queries.
    fn loss_shape(&self, queries: usize) -> [usize; 2] {
        if self.reduction.by_row() { [queries, 1] } else { [1, 1] }
    }

    /// Rows of the `lse` tensor for N queries and M keys: N, and M more if symmetric.
    pub fn lse_rows(&self, queries: usize, keys: usize) -> usize {
        queries + if self.symmetric { keys } else { 0 }
    }
}

/// What all dispatches of a call share.
struct Batch<'a> {
    q: Tensor<'a>,
    k: Tensor<'a>,
    log_scale: Arg<'a>,
    learnable: bool,
    options: Options,
    dy_by_row: bool,
}

/// The part of a batch that one dispatch takes.
#[derive(Clone, Copy, Default)]
struct Part {
    rows: usize,
    cols: usize,
    first_row: usize,
    first_col: usize,
    parts: usize,
    fresh: bool,
}

impl Part {
    /// These rows of q and of k.
    fn of(rows: &Range<usize>, cols: &Range<usize>) -> Part {
        let (first_row, first_col) = (rows.start, cols.start);
        Part { rows: rows.len(), cols: cols.len(), first_row, first_col, ..Default::default() }
    }

    fn shape(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }
}

impl<'a> Batch<'a> {
    fn new(q: Tensor<'a>, k: Tensor<'a>, log_scale: Option<Tensor<'a>>, options: Options) -> Result<Self> {
        let (n, m) = (q.rows, k.rows);
        let usable = |scale: f32| scale.is_normal() && scale > 0.0;
        let temperature = options.temperature;
        required(OP, "temperature", temperature, usable(temperature) && usable(1.0 / temperature), "a number above 0")?;
        required(OP, "max_scale", options.max_scale, usable(options.max_scale), "a number above 0")?;
        shaped(OP, "k", k, [m, q.cols])?;
        if m < n || (options.symmetric && m != n) {
            let expected = format!("{}{n} rows", if options.symmetric { "" } else { "at least " });
            return Err(Error::Shape { op: OP, what: "k", expected, found: format!("{m} rows") });
        }
        if let Some(log_scale) = log_scale {
            shaped(OP, "log_scale", log_scale, [1, 1])?;
        }
        let learnable = log_scale.is_some();
        Ok(Batch { q, k, log_scale: log_scale.map_or(Arg::NONE, Arg::whole), learnable, options, dy_by_row: false })
    }

    /// By which the sum of the rows' losses is multiplied.
    fn factor(&self) -> f32 {
        match self.options.reduction {
            Reduction::Mean | Reduction::BatchMean => (1.0 / self.q.rows.max(1) as f64) as f32,
            Reduction::None | Reduction::Rows | Reduction::Sum => 1.0,
        }
    }

    fn scalars(&self, part: Part) -> [Scalar; 11] {
        [
            self.q.cols.into(),
            part.first_row.into(),
            part.first_col.into(),
            part.parts.into(),
            part.fresh.into(),
            self.learnable.into(),
            ((1.0 / f64::from(self.options.temperature)) as f32).into(),
            self.options.max_scale.into(),
            self.options.symmetric.into(),
            self.dy_by_row.into(),
            self.factor().into(),
        ]
    }

    /// Rows and columns to take at once so that the intermediate results, `bytes` for a pair, stay within the workspace.
    fn chunk(&self, plan: &Plan, bytes: f64) -> Result<(usize, usize)> {
        let tuning = plan.gpu().tuning();
        let (tile_rows, tile_cols) = (8 * tuning.tile_y as usize, 8 * tuning.tile_x as usize);
        let most = plan.gpu().limits().max_compute_workgroups_per_dimension as usize;
        let pairs = (tuning.workspace as f64 / bytes) as usize;
        let whole_tiles = |count: usize, tile: usize| (count / tile).clamp(1, most) * tile;
        let rows_wanted = self.q.rows.clamp(1, CHUNK_ROWS).next_multiple_of(tile_rows);
        let fit_k = plan.rows_per_binding(self.k) as usize;
        let cols =
            whole_tiles((pairs / rows_wanted).min(fit_k).min(self.k.rows.next_multiple_of(tile_cols)), tile_cols);
        let fit_q = plan.rows_per_binding(self.q) as usize;
        let rows = whole_tiles((pairs / cols).min(fit_q).min(self.q.rows.next_multiple_of(tile_rows)), tile_rows);
        if pairs < rows * cols {
            let (needed, limit) = (((rows * cols) as f64 * bytes).ceil() as u64, tuning.workspace);
            return Err(Error::Limit { what: "info_nce: the workspace of one tile".into(), needed, limit });
        }
        if (fit_k < cols && fit_k < self.k.rows) || (fit_q < rows && fit_q < self.q.rows) {
            let limit = plan.gpu().limits().max_storage_buffer_binding_size;
            let needed = 4 * (tile_rows.max(tile_cols) * self.q.stride.max(self.k.stride)) as u64;
            return Err(Error::Limit { what: "info_nce: the rows of one tile".into(), needed, limit });
        }
        Ok((rows, cols))
    }
}

fn tile_grid(plan: &Plan, rows: usize, cols: usize) -> [usize; 3] {
    let tuning = plan.gpu().tuning();
    [cols.div_ceil(8 * tuning.tile_x as usize), rows.div_ceil(8 * tuning.tile_y as usize), 1]
}

/// `loss` of queries `q` [N, D] and keys `k` [M, D], M ≥ N: [N, 1] for [`Reduction::None`], else [1, 1].
///
/// `log_scale` [1, 1] makes the scale min(e^log_scale, [`Options::max_scale`]); without it the scale is 1/[`Options::temperature`].
/// `lse` [[`Options::lse_rows`], 2] receives the log-sum-exp of the rows, then of the columns, as (max, rest),
/// ln Σ e^s = max + ln(1 + rest), which [`backward`] needs.
///
/// # Errors
/// [`Error::Shape`], [`Error::Option`], [`Error::SameBuffer`]; [`Error::Limit`] if the device cannot bind the rows of one tile.
pub fn forward(
    recorder: &mut Recorder,
    q: Tensor,
    k: Tensor,
    log_scale: Option<Tensor>,
    loss: Tensor,
    lse: Tensor,
    options: Options,
) -> Result<()> {
    let batch = Batch::new(q, k, log_scale, options)?;
    let (n, m) = (q.rows, k.rows);
    shaped(OP, "loss", loss, options.loss_shape(n))?;
    shaped(OP, "lse", lse, [options.lse_rows(n, m), 2])?;
    let inputs = [named("q", q), named("k", k), named("log_scale", log_scale)];
    disjoint(OP, &[named("loss", loss), named("lse", lse)], &inputs)?;
    let (row_lse, col_lse) = (lse.row_range(0..n), lse.row_range(n..lse.rows));
    recorder.plan(|plan| {
        let gpu = plan.gpu();
        let positive = gpu.scratch(POSITIVE, n)?;
        let positive: Tensor = Tensor::vector(&positive, n)?;
        let tile = 8 * gpu.tuning().tile_x.min(gpu.tuning().tile_y) as usize;
        let (rows_at_once, cols_at_once) = batch.chunk(plan, 8.0 / tile as f64)?;
        for rows in chunks(n, rows_at_once) {
            for cols in chunks(m, cols_at_once) {
                let grid = tile_grid(plan, rows.len(), cols.len());
                let row_parts = gpu.scratch(PARTS, 2 * grid[0] * rows.len())?;
                let row_parts = Tensor::matrix(&row_parts, grid[0] * rows.len(), 2)?;
                let col_parts = gpu.scratch(COL_PARTS, 2 * grid[1] * cols.len())?;
                let col_parts = Tensor::matrix(&col_parts, grid[1] * cols.len(), 2)?;
                let args = [
                    Arg::whole(q.row_range(rows.clone())),
                    Arg::whole(k.row_range(cols.clone())),
                    batch.log_scale,
                    Arg::whole(row_parts),
                    Arg::whole(col_parts),
                    Arg::whole(positive),
                ];
                let part = Part::of(&rows, &cols);
                plan.tiles(&FORWARD, &args, part.shape(), &batch.scalars(part), grid)?;
                let mut merge = |source: Tensor, target: Tensor, parts: usize, fresh: bool| {
                    let part = Part { rows: target.rows, parts, fresh, ..Default::default() };
                    let args = [Arg::whole(source), Arg::whole(target)];
                    plan.lanes(&MERGE, &args, [part.rows, 1], &batch.scalars(part), 1)
                };
                merge(row_parts, row_lse.row_range(rows.clone()), grid[0], cols.start == 0)?;
                if options.symmetric {
                    merge(col_parts, col_lse.row_range(cols.clone()), grid[1], rows.start == 0)?;
                }
            }
        }
        let single = !options.reduction.by_row();
        let scratch = gpu.scratch(ROW_VALUES, n)?;
        let row_loss = if single { Tensor::vector(&scratch, n)? } else { loss };
        let by_column = if options.symmetric { Arg::by_row(col_lse) } else { Arg::NONE };
        let args = [Arg::by_row(row_lse), by_column, Arg::by_row(positive), Arg::by_row(row_loss)];
        plan.each_row(&ROW_LOSS, [n, 1], &args, &batch.scalars(Part::default()), &[])?;
        if single {
            total::total(plan, row_loss, loss, batch.factor())?;
        }
        Ok(())
    })
}

/// `dq` [N, D], `dk` [M, D] and, if asked for, `d_log_scale` [1, 1] from the forward's inputs and its `lse`;
/// `dy` is the gradient of the loss, of the loss's shape, ones if absent.
///
/// # Errors
/// As [`forward`].
#[allow(clippy::too_many_arguments, reason = "inputs, outputs, options: the order of every op")]
pub fn backward(
    recorder: &mut Recorder,
    q: Tensor,
    k: Tensor,
    log_scale: Option<Tensor>,
    lse: Tensor,
    dy: Option<Tensor>,
    dq: Tensor,
    dk: Tensor,
    d_log_scale: Option<Tensor>,
    options: Options,
) -> Result<()> {
    let mut batch = Batch::new(q, k, log_scale, options)?;
    let (n, m) = (q.rows, k.rows);
    shaped(OP, "lse", lse, [options.lse_rows(n, m), 2])?;
    shaped(OP, "dq", dq, q.shape())?;
    shaped(OP, "dk", dk, k.shape())?;
    if let Some(d_log_scale) = d_log_scale {
        shaped(OP, "d_log_scale", d_log_scale, [1, 1])?;
    }
    if let Some(dy) = dy {
        shaped(OP, "dy", dy, options.loss_shape(n))?;
    }
    let outputs = [named("dq", dq), named("dk", dk), named("d_log_scale", d_log_scale)];
    let inputs = [named("q", q), named("k", k), named("log_scale", log_scale), named("lse", lse), named("dy", dy)];
    disjoint(OP, &outputs, &inputs)?;
    batch.dy_by_row = dy.is_some() && options.reduction.by_row();
    let (row_lse, col_lse) = (lse.row_range(0..n), lse.row_range(n..lse.rows));
    recorder.plan(|plan| {
        let gpu = plan.gpu();
        let (rows_at_once, cols_at_once) = batch.chunk(plan, 4.0)?;
        // Without queries dk is a sum over nothing, and still written.
        for rows in chunks(n, rows_at_once).chain((n == 0).then_some(0..0)) {
            for cols in chunks(m, cols_at_once) {
                let (q_part, k_part) = (q.row_range(rows.clone()), k.row_range(cols.clone()));
                let g = gpu.scratch(PARTS, rows.len() * cols.len())?;
                let g = Tensor::matrix(&g, rows.len(), cols.len())?;
                let by_column = if options.symmetric { Arg::whole(col_lse.row_range(cols.clone())) } else { Arg::NONE };
                let args = [
                    Arg::whole(q_part),
                    Arg::whole(k_part),
                    batch.log_scale,
                    Arg::whole(row_lse.row_range(rows.clone())),
                    by_column,
                    dy.map_or(Arg::NONE, Arg::whole),
                    Arg::whole(g),
                ];
                let part = Part::of(&rows, &cols);
                let grid = tile_grid(plan, rows.len(), cols.len());
                plan.tiles(&BACKWARD, &args, part.shape(), &batch.scalars(part), grid)?;
                let (dq_part, dk_part) = (dq.row_range(rows.clone()), dk.row_range(cols.clone()));
                let (again_row, again_col) = (cols.start > 0, rows.start > 0);
                linear::product(plan, Operand::by_k(g), Operand::by_row(k_part), None, dq_part, again_row)?;
                linear::product(plan, Operand::by_row(g), Operand::by_row(q_part), None, dk_part, again_col)?;
            }
        }
        if let Some(d_log_scale) = d_log_scale {
            let scratch = gpu.scratch(ROW_VALUES, n)?;
            let dots: Tensor = Tensor::vector(&scratch, n)?;
            let args = [Arg::by_row(q), Arg::by_row(dq), batch.log_scale, Arg::by_row(dots)];
            plan.rows(&SCALE_GRADIENT, q.shape(), &args, &batch.scalars(Part::default()), &[])?;
            total::total(plan, dots, d_log_scale, 1.0)?;
        }
        Ok(())
    })
}

/// `rank` [N, 1]: how many keys come before a query's own, 0 for a hit; recall@K is the share of ranks below K.
/// A key comes before if it scores higher, or as high and has the smaller number. A query whose own score is NaN ranks last.
///
/// # Errors
/// As [`forward`].
pub fn rank(recorder: &mut Recorder, q: Tensor, k: Tensor, rank: Tensor<u32>) -> Result<()> {
    let batch = Batch::new(q, k, None, Options { temperature: 1.0, ..Default::default() })?;
    let (n, m) = (q.rows, k.rows);
    shaped(OP, "rank", rank, [n, 1])?;
    disjoint(OP, &[named("rank", rank)], &[named("q", q), named("k", k)])?;
    recorder.plan(|plan| {
        let positive = plan.gpu().scratch(POSITIVE, n)?;
        let positive: Tensor = Tensor::vector(&positive, n)?;
        let (rows_at_once, cols_at_once) = batch.chunk(plan, 1.0)?;
        for rows in chunks(n, rows_at_once) {
            for (kernel, own) in [(&POSITIVES, true), (&COUNT_RANKS, false)] {
                for cols in chunks(m, cols_at_once) {
                    let args = [
                        Arg::whole(q.row_range(rows.clone())),
                        Arg::whole(k.row_range(cols.clone())),
                        batch.log_scale,
                        Arg::whole(positive),
                        Arg::whole(rank),
                    ];
                    let part = Part::of(&rows, &cols);
                    let [across, down, _] = tile_grid(plan, rows.len(), cols.len());
                    let grid = [if own { 1 } else { across }, down, 1];
                    plan.tiles(kernel, &args, part.shape(), &batch.scalars(part), grid)?;
                }
            }
        }
        Ok(())
    })
}

/// What [`compute`] returns.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// One number, or one per query for [`Reduction::None`].
    pub loss: Vec<f32>,
    /// Gradient of the queries.
    pub d_queries: Vec<f32>,
    /// Gradient of the keys.
    pub d_keys: Vec<f32>,
    /// Gradient of ln(1/temperature).
    pub d_log_scale: f32,
}

/// The loss of slices of queries and keys, rows of `dim` elements, and all gradients.
///
/// ```
/// # let Ok(gpu) = wgloss::Gpu::new() else { return };
/// use wgloss::info_nce;
/// let (queries, keys) = ([1.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 1.0]);
/// let options = info_nce::Options { temperature: 1.0, ..Default::default() };
/// let found = info_nce::compute(&gpu, &queries, &keys, 2, options).unwrap();
/// assert!((found.loss[0] - (1.0 + (-1f32).exp()).ln()).abs() < 1e-6);
/// ```
///
/// # Errors
/// As [`forward`], and any error of the device.
#[cfg(not(target_arch = "wasm32"))]
pub fn compute(gpu: &Gpu, queries: &[f32], keys: &[f32], dim: usize, options: Options) -> Result<Output> {
    let (n, m) = (rows_of(OP, "q", queries, dim)?, rows_of(OP, "k", keys, dim)?);
    let [loss_rows, _] = options.loss_shape(n);
    let lse_rows = options.lse_rows(n, m);
    let (q, k) = (gpu.upload(queries)?, gpu.upload(keys)?);
    let (dq, dk) = (gpu.zeros::<f32>(n * dim)?, gpu.zeros::<f32>(m * dim)?);
    let (loss, lse, scale) = (gpu.zeros::<f32>(loss_rows)?, gpu.zeros::<f32>(2 * lse_rows)?, gpu.zeros::<f32>(1)?);
    let (q, k) = (Tensor::matrix(&q, n, dim)?, Tensor::matrix(&k, m, dim)?);
    let (dq, dk) = (Tensor::matrix(&dq, n, dim)?, Tensor::matrix(&dk, m, dim)?);
    let (loss, lse) = (Tensor::vector(&loss, loss_rows)?, Tensor::matrix(&lse, lse_rows, 2)?);
    let d_log_scale = Tensor::scalar(&scale, 0)?;
    gpu.run(|recorder| {
        forward(recorder, q, k, None, loss, lse, options)?;
        backward(recorder, q, k, None, lse, None, dq, dk, Some(d_log_scale), options)
    })?;
    Ok(Output {
        loss: gpu.read(loss)?,
        d_queries: gpu.read(dq)?,
        d_keys: gpu.read(dk)?,
        d_log_scale: gpu.read(d_log_scale)?[0],
    })
}
