//! The contrastive loss over all pairs of a batch, without ever storing the pairs.
//!
//! s_ij = scale · ⟨q_i, k_j⟩;  loss_i = ln Σ_j exp(s_ij) − s_ii, or the mean of that over rows and over columns ([`Options::symmetric`]).
//! Query i belongs to key i; further keys are negatives for all queries. Memory beyond inputs and outputs is at most twice
//! [`Tuning::workspace`](crate::Tuning::workspace) and two numbers a query, whatever M. Work, with U = 2·N·M·D: forward U, backward 3U.
//!
//! A score that is NaN or +inf (overflow) gives NaN for its row and column, one of −inf counts as masked.
//! Source: van den Oord, Li and Vinyals 2018, arXiv:1807.03748, eq. 4; symmetric with a learnable scale: Radford et al. 2021, arXiv:2103.00020.

use super::pairs::{Chunk, Form, Gradients, Pairs};
use super::{Accum, Reduction, disjoint, named, rows_of, shaped};
use crate::kernel::{Family, Kernel, ScalarType::*, Shader, counters, input, output, wgsl};
use crate::recorder::{Arg, Scalar};
use crate::{Error, Gpu, Recorder, Result, Tensor};

const OP: &str = "info_nce";
static SHADER: Shader = Shader {
    op: OP,
    source: wgsl!("info_nce", "pairs", "tile", "math", "lse", "row"),
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
        counters("rank"),
    ],
    scalars: &[
        ("dim", U32),
        ("first_row", U32),
        ("first_col", U32),
        ("learnable", U32),
        ("scale", F32),
        ("max_scale", F32),
        ("dy_by_row", U32),
        ("factor", F32),
        ("has_sums", U32),
        ("parts", U32),
        ("fresh", U32),
        ("symmetric", U32),
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
    uses: &["q", "k", "log_scale", "row_lse", "col_lse", "dy", "g", "row_part"],
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
pub(super) const KERNELS: &[&Kernel] = &[&FORWARD, &MERGE, &ROW_LOSS, &BACKWARD, &POSITIVES, &COUNT_RANKS];

/// Scratch of the forward: partial log-sum-exps of rows, of columns; s_ii; the rows' losses.
const PARTS: usize = 0;
const COL_PARTS: usize = 1;
const POSITIVE: usize = 2;
const ROW_VALUES: usize = 3;

/// Options of [`forward`] and [`backward`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// 1/scale, above 0, where no `log_scale` tensor is given. Default 0.07 (CLIP's initial value).
    pub temperature: f32,
    /// Upper bound of a scale given as `log_scale`; past it the scale is this and its gradient 0. Default 100 (CLIP's).
    pub max_scale: f32,
    /// The mean of both directions; needs as many keys as queries. Default no.
    pub symmetric: bool,
    /// Default mean over the queries that have a positive.
    pub reduction: Reduction,
    /// Whether gradients are added to what their outputs hold. Default no.
    pub accum: Accum,
    /// Query i is never compared with key i: for queries and keys that are the same rows. Default no.
    pub exclude_self: bool,
    /// The sum over several positives stands inside the logarithm, ln Σ_p e^s / |P|, instead of outside. Default no.
    pub inside_log: bool,
    /// The positives are left out of the sum that they are compared with (decoupled contrastive learning). Default no.
    pub decoupled: bool,
    /// The probability τ⁺ that a negative is a positive, which the loss corrects for (debiased contrastive learning). Default 0.
    pub tau_plus: f32,
    /// α: a negative counts e^(s + α ⟨q, k⟩) with the second term taken as constant, so that hard ones count more. Default 0.
    pub hardness: f32,
    /// ε: the target is 1 − ε for the positives, and ε spread over all keys that take part. Default 0.
    pub label_smoothing: f32,
    /// Subtracted from the positives' ⟨q, k⟩ before scaling. Default 0.
    pub margin: f32,
    /// A key whose ⟨q, k⟩ exceeds that of the positive by more is no negative: it is taken for a false one. Default +∞.
    pub near_margin: f32,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            temperature: 0.07,
            max_scale: 100.0,
            symmetric: false,
            reduction: Reduction::Mean,
            accum: Accum::Write,
            exclude_self: false,
            inside_log: false,
            decoupled: false,
            tau_plus: 0.0,
            hardness: 0.0,
            label_smoothing: 0.0,
            margin: 0.0,
            near_margin: f32::INFINITY,
        }
    }
}

impl Options {
    /// Rows of the `lse` tensor for N queries and M keys: N, and M more if symmetric.
    pub fn lse_rows(&self, queries: usize, keys: usize) -> usize {
        queries + if self.symmetric { keys } else { 0 }
    }
}

/// What all dispatches of a call share.
struct Batch<'a> {
    pairs: Pairs<'a>,
    symmetric: bool,
}

impl<'a> Batch<'a> {
    fn new(q: Tensor<'a>, k: Tensor<'a>, log_scale: Option<Tensor<'a>>, options: Options) -> Result<Self> {
        let Options { temperature, max_scale, symmetric, reduction, .. } = options;
        if symmetric && k.cols == q.cols && k.rows != q.rows {
            let (expected, found) = (format!("{} rows", q.rows), format!("{} rows", k.rows));
            return Err(Error::Shape { op: OP, what: "k", expected, found });
        }
        let pairs = Pairs::new(OP, q, k, log_scale, Form { temperature, max_scale, reduction })?;
        Ok(Batch { pairs, symmetric })
    }

    fn scalars(&self, first: [usize; 2], has_sums: bool, merge: Merge) -> Vec<Scalar> {
        let common = self.pairs.scalars(first, has_sums);
        [&common[..], &[merge.parts.into(), merge.fresh.into(), self.symmetric.into()]].concat()
    }

    /// Of a chunk's tiles.
    fn of(&self, chunk: &Chunk) -> Vec<Scalar> {
        self.scalars([chunk.rows.start, chunk.cols.start], false, Merge::default())
    }
}

/// How many partial log-sum-exps there are, and whether they are the first.
#[derive(Default)]
struct Merge {
    parts: usize,
    fresh: bool,
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
    shaped(OP, "loss", loss, batch.pairs.loss_shape())?;
    shaped(OP, "lse", lse, [options.lse_rows(n, m), 2])?;
    let inputs = [named("q", q), named("k", k), named("log_scale", log_scale)];
    disjoint(OP, &[named("loss", loss), named("lse", lse)], &inputs)?;
    let (row_lse, col_lse) = (lse.row_range(0..n), lse.row_range(n..lse.rows));
    recorder.plan(|plan| {
        let gpu = plan.gpu();
        let positive = gpu.scratch(POSITIVE, n)?;
        let positive: Tensor = Tensor::vector(&positive, n)?;
        let tile = 8 * gpu.tuning().tile_x.min(gpu.tuning().tile_y) as usize;
        for chunk in batch.pairs.chunks(plan, 8.0 / tile as f64)? {
            let ([rows, cols], grid) = (chunk.shape(), chunk.grid);
            let row_parts = gpu.scratch(PARTS, 2 * grid[0] * rows)?;
            let row_parts = Tensor::matrix(&row_parts, grid[0] * rows, 2)?;
            let col_parts = gpu.scratch(COL_PARTS, 2 * grid[1] * cols)?;
            let col_parts = Tensor::matrix(&col_parts, grid[1] * cols, 2)?;
            let args = [
                Arg::whole(chunk.q),
                Arg::whole(chunk.k),
                batch.pairs.log_scale,
                Arg::whole(row_parts),
                Arg::whole(col_parts),
                Arg::whole(positive),
            ];
            plan.tiles(&FORWARD, &args, chunk.shape(), &batch.of(&chunk), grid)?;
            let mut merge = |source: Tensor, target: Tensor, parts: usize, fresh: bool| {
                let scalars = batch.scalars([0, 0], false, Merge { parts, fresh });
                plan.lanes(&MERGE, &[Arg::whole(source), Arg::whole(target)], [target.rows, 1], &scalars, 1)
            };
            merge(row_parts, row_lse.row_range(chunk.rows.clone()), grid[0], chunk.cols.start == 0)?;
            if options.symmetric {
                merge(col_parts, col_lse.row_range(chunk.cols.clone()), grid[1], chunk.rows.start == 0)?;
            }
        }
        let single = !options.reduction.by_row();
        let scratch = gpu.scratch(ROW_VALUES, n)?;
        let row_loss = if single { Tensor::vector(&scratch, n)? } else { loss };
        let by_column = if options.symmetric { Arg::by_row(col_lse) } else { Arg::NONE };
        let args = [Arg::by_row(row_lse), by_column, Arg::by_row(positive), Arg::by_row(row_loss)];
        plan.each_row(&ROW_LOSS, [n, 1], &args, &batch.scalars([0, 0], false, Merge::default()), &[])?;
        if single { batch.pairs.reduce(plan, row_loss, loss) } else { Ok(()) }
    })
}

/// `dq` [N, D], `dk` [M, D] and, if asked for, `d_log_scale` [1, 1] from the forward's inputs and its `lse`;
/// `dy` is the gradient of the loss, of the loss's shape, ones if absent.
/// Where the pairs exceed the workspace dq and dk are sums of several chunks, each rounded as they are stored.
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
    batch.pairs = batch.pairs.weighted(dy)?;
    let (n, m) = (q.rows, k.rows);
    let gradients = Gradients { dq: Some(dq), dk: Some(dk), d_log_scale, d_bias: None };
    shaped(OP, "lse", lse, [options.lse_rows(n, m), 2])?;
    batch.pairs.check(&gradients)?;
    let outputs = [named("dq", dq), named("dk", dk), named("d_log_scale", d_log_scale)];
    let inputs = [named("q", q), named("k", k), named("log_scale", log_scale), named("lse", lse), named("dy", dy)];
    disjoint(OP, &outputs, &inputs)?;
    let (row_lse, col_lse) = (lse.row_range(0..n), lse.row_range(n..lse.rows));
    recorder.plan(|plan| {
        batch.pairs.walk(plan, None, gradients, options.accum, |plan, chunk, sinks| {
            let by_column = match options.symmetric {
                true => Arg::whole(col_lse.row_range(chunk.cols.clone())),
                false => Arg::NONE,
            };
            let args = [
                Arg::whole(chunk.q),
                Arg::whole(chunk.k),
                batch.pairs.log_scale,
                Arg::whole(row_lse.row_range(chunk.rows.clone())),
                by_column,
                batch.pairs.dy,
                sinks.g,
                sinks.row_part,
            ];
            let first = [chunk.rows.start, chunk.cols.start];
            let scalars = batch.scalars(first, gradients.has_sums(), Merge::default());
            plan.tiles(&BACKWARD, &args, chunk.shape(), &scalars, chunk.grid)
        })
    })
}

/// `rank` [N, 1]: how many keys come before a query's own, 0 for a hit; recall@K is the share of ranks below K.
/// A key comes before if it scores higher, or as high and has the smaller number. A query whose own score is NaN ranks last.
///
/// # Errors
/// As [`forward`].
pub fn rank(recorder: &mut Recorder, q: Tensor, k: Tensor, rank: Tensor<u32>) -> Result<()> {
    let batch = Batch::new(q, k, None, Options { temperature: 1.0, ..Default::default() })?;
    let n = q.rows;
    shaped(OP, "rank", rank, [n, 1])?;
    disjoint(OP, &[named("rank", rank)], &[named("q", q), named("k", k)])?;
    recorder.plan(|plan| {
        let positive = plan.gpu().scratch(POSITIVE, n)?;
        let positive: Tensor = Tensor::vector(&positive, n)?;
        let chunks = batch.pairs.chunks(plan, 1.0)?;
        for (kernel, own) in [(&POSITIVES, true), (&COUNT_RANKS, false)] {
            for chunk in &chunks {
                let args = [
                    Arg::whole(chunk.q),
                    Arg::whole(chunk.k),
                    batch.pairs.log_scale,
                    Arg::whole(positive),
                    Arg::whole(rank),
                ];
                let [across, down, _] = chunk.grid;
                let grid = [if own { 1 } else { across }, down, 1];
                plan.tiles(kernel, &args, chunk.shape(), &batch.of(chunk), grid)?;
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
    let [loss_rows, _] = options.reduction.of_rows(n);
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
