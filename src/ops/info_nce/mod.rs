//! The contrastive loss over all pairs of a batch. The N × M scores are never stored.
//!
//! s_ij = scale · ⟨q_i, k_j⟩;  loss_i = ln Σ_j exp(s_ij) − s_ii, or the mean of that over rows and over columns
//! ([`Options::symmetric`]).
//!
//! By default key i is query i's positive and all other keys are its negatives. [`Batch`] and [`Options`] change that:
//! a positive by index, several positives by group, further negatives, pairs that are left out, corrected scores, other
//! forms of the loss.
//!
//! - NT-Xent over N pairs: a symmetric batch with [`Options::query_negatives`] and [`Options::key_negatives`]; or one
//!   batch of 2N rows as both queries and keys, with [`Positive::Index`] (i + N) mod 2N and [`Options::exclude_self`].
//! - A queue of past keys: [`Batch::shared`], with [`Gradients::d_shared`] absent.
//!
//! A query without a positive has loss 0 and gradient 0 and does not count in the mean. A score that is NaN or +inf
//! (overflow) gives NaN for its row and column. A score of −inf is left out; if it is the score of the only positive,
//! the loss is infinite.
//!
//! Work, with U = 2·N·M·D FLOP:
//!
//! - [`forward`][]: U.
//! - [`backward`][]: 3U.
//! - [`forward`] with gradients: 3U if the products fit the workspace (those of all pairs if symmetric, else of at
//!   least 128 whole rows, or of all rows if there are fewer); otherwise 4U. Always 4U for
//!   [`Reduction::Mean`](crate::Reduction::Mean) with weights or with index/group positives, and without
//!   [`Options::in_batch`]. The share of further negatives is always 4U; the batch's own pairs stay at 3U.
//! - U less for each side without gradient.
//! - U more per call for [`Options::near_margin`] with [`Positive::Index`].
//!
//! M counts further negatives. Without [`Options::in_batch`], M does not count other queries' keys.
//!
//! Memory beyond inputs and outputs: at most 2½ · W bytes, whatever N · M, and a few numbers per query and key, where W
//! is [`Tuning::workspace`](crate::Tuning::workspace). W is for a chunk of scores, W for partial sums of products, W/4
//! for the words of a chunk's keys (id, group, log_q, …), and W/4 for sums over tiles of 64 × 64 or larger. A 16-bit
//! gradient that is summed from several parts takes 4 more bytes per number.
//!
//! Sources: van den Oord, Li and Vinyals 2018, arXiv:1807.03748, eq. 4; symmetric with a learnable scale: Radford et
//! al. 2021, arXiv:2103.00020. The sources of the options are in shaders/info_nce.wgsl.

mod batch;
mod blocks;
mod bound;
mod each;
mod options;
mod queue;
mod rank;
mod values;

pub use batch::{Batch, Gradients, Negatives, Positive};
pub use bound::{bound, most_log_scale};
pub use options::Options;
pub use queue::Queue;
pub use rank::rank;
pub use values::{Values, values};

use core::ops::Range;

use blocks::{Call, Extra, Kind, Pass, Purpose, lines_of};
pub(crate) use options::Given;
use options::is_near;

use super::linear::{chunks, in_f32, rounded, sum_of};
use super::pairs::{Goal, WIDE_DK, WIDE_DQ};
use super::{Accum, disjoint, dot, named, rows_of, shaped, total};
use crate::kernel::{Family, Kernel, ScalarType::*, Shader, counters, ids, input, new_ids, output, wgsl};
use crate::plan::{Arg, Plan};
use crate::{Gpu, Recorder, Result, Tensor};

const OP: &str = "info_nce";
static SHADER: Shader = Shader {
    op: OP,
    source: wgsl!(
        "info_nce",
        "../info_nce/pair",
        "../info_nce/line",
        "../info_nce/head",
        "../info_nce/each",
        "../info_nce/rank",
        "../info_nce/bound",
        "pairs",
        "scale",
        "tile",
        "math",
        "lse",
        "row"
    ),
    bindings: &[
        input("q"),
        input("k"),
        input("log_scale"),
        ids("row_line"),
        ids("col_line"),
        output("row_part"),
        output("col_part"),
        input("part"),
        output("state"),
        input("state_in"),
        ids("index"),
        ids("group"),
        ids("id"),
        input("log_q"),
        output("positive"),
        input("positive_in"),
        input("squares"),
        new_ids("line"),
        input("weight"),
        output("loss"),
        input("sums"),
        input("inverse"),
        input("dy"),
        output("g"),
        input("score_in"),
        output("coef"),
        counters("rank"),
        output("bounded"),
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
        ("counts", U32),
        ("has_weight", U32),
        ("margin", F32),
        ("near_margin", F32),
        ("hardness", F32),
        ("tau_plus", F32),
        ("smoothing", F32),
        ("queries", U32),
    ],
    family: Family::Tile,
};
const fn kernel(entry: &'static str, uses: &'static [&'static str]) -> Kernel {
    Kernel { shader: &SHADER, entry, uses, in_place: None }
}
static FORWARD: Kernel =
    kernel("forward", &["q", "k", "log_scale", "row_line", "col_line", "row_part", "col_part", "g"]);
static BACKWARD: Kernel =
    kernel("backward", &["q", "k", "log_scale", "row_line", "col_line", "g", "row_part", "col_part"]);
static POSITIVES: Kernel = kernel("positives", &["q", "k", "row_line", "col_line", "positive"]);
static MERGE: Kernel = kernel("merge", &["part", "state"]);
static TAG: Kernel = kernel("tag", &["index", "group", "id", "log_q", "positive_in", "squares", "line"]);
static LINE_LOSS: Kernel = kernel("line_loss", &["log_scale", "state_in", "log_q", "weight", "loss"]);
static FINISH: Kernel = kernel("finish", &["sums", "loss", "state"]);
static WEIGH: Kernel = kernel("weigh", &["log_scale", "state_in", "log_q", "weight", "inverse", "dy", "line"]);
static PROJECT: Kernel = kernel("project", &["sums", "squares", "coef"]);
static LEVEL: Kernel = kernel("level", &["log_scale", "state_in", "log_q", "line"]);
static LINE_VALUES: Kernel = kernel("line_values", &["log_scale", "state_in", "log_q", "row_part"]);
static EACH_FORWARD: Kernel = kernel("each_forward", &["log_scale", "row_line", "col_line", "score_in", "state"]);
static EACH_BACKWARD: Kernel =
    kernel("each_backward", &["log_scale", "row_line", "col_line", "score_in", "g", "coef", "row_part"]);
static CLEAR: Kernel = kernel("clear", &["rank"]);
static COUNT_RANKS: Kernel = kernel("count_ranks", &["q", "k", "row_line", "col_line", "positive_in", "rank"]);
static BOUND: Kernel =
    Kernel { in_place: Some(("log_scale", "bounded")), ..kernel("bound", &["log_scale", "bounded"]) };
pub(super) const KERNELS: &[&Kernel] = &[
    &FORWARD,
    &BACKWARD,
    &POSITIVES,
    &MERGE,
    &TAG,
    &LINE_LOSS,
    &FINISH,
    &WEIGH,
    &PROJECT,
    &LEVEL,
    &LINE_VALUES,
    &EACH_FORWARD,
    &EACH_BACKWARD,
    &CLEAR,
    &COUNT_RANKS,
    &BOUND,
];

/// Scratch: the sum of losses and the sum of weights; the factors of [`Call::project`].
const TWO_SUMS: usize = 3;
const COEF: usize = 19;
/// Scratch: f32 sum of a 16-bit gradient of the shared negatives.
const WIDE_SHARED: usize = 22;

impl<'a> Call<'a> {
    /// Records the loss from the state of all lines. A line is a row or a column of the score matrix.
    fn finish(&self, plan: &mut Plan, state: Tensor, loss: Tensor) -> Result<()> {
        let (n, direct) = (self.batch.q.rows, self.options.reduction.by_row());
        let values = total::values(plan, n, 2)?;
        let value = if direct { loss } else { Tensor::matrix(&values, n, 2)? };
        self.losses(plan, state, value)?;
        if !self.batch.counts(self.options) {
            let factor = self.main().pairs.factor();
            return if direct { Ok(()) } else { total::total(plan, value.col_range(0..1), loss, factor) };
        }
        let sums = plan.scratch(TWO_SUMS, 2)?;
        let sums = Tensor::vector(&sums, 2)?;
        for column in 0..2 {
            total::total(plan, value.col_range(column..column + 1), sums.row_range(column..column + 1), 1.0)?;
        }
        let inverse = state.row_range(state.rows - 1..state.rows);
        let args = [Arg::whole(sums), Arg::whole(loss), Arg::whole(inverse)];
        plan.single(&FINISH, &args, [1, 1], &self.of_lines(Extra { fresh: true, ..Extra::default() }), &[])
    }

    /// Writes c of the positives to the state, if the state has a column for it.
    fn put_positives(&self, plan: &mut Plan, state: Tensor) -> Result<()> {
        if self.batch.is_full(self.options) {
            return Ok(());
        }
        for side in self.sides() {
            self.positives(plan, self.side(state, side).col_range(2..3))?;
        }
        Ok(())
    }

    /// Subtracts from `gradient` its component along the `vectors` themselves, which may have any length, if
    /// `normalize`. The second column of `sums` holds ⟨vector, gradient⟩.
    fn project(
        &self,
        plan: &mut Plan,
        sums: Tensor,
        [vectors, gradient]: [Tensor; 2],
        squares: usize,
        range: &Range<usize>,
    ) -> Result<()> {
        if !self.options.normalize {
            return Ok(());
        }
        let scratch = plan.scratch(squares, range.end)?;
        let squares: Tensor = Tensor::vector(&scratch, range.end)?.row_range(range.clone());
        let at_once = plan.rows_per_binding(vectors).min(plan.rows_per_binding(gradient)) as usize;
        for rows in chunks(range.len(), at_once) {
            let coef = plan.scratch(COEF, rows.len())?;
            let coef: Tensor = Tensor::vector(&coef, rows.len())?;
            let args =
                [sums.col_range(1..2).row_range(rows.clone()), squares.row_range(rows.clone()), coef].map(Arg::by_row);
            plan.each_row(&PROJECT, [rows.len(), 1], &args, &self.of_lines(Extra::default()), &[])?;
            let sums = dot::Sums { per: 1, terms: 1, fresh: false };
            dot::weigh(plan, coef, vectors.row_range(rows.clone()), gradient.row_range(rows.clone()), sums)?;
        }
        Ok(())
    }

    /// Whether c of all pairs (symmetric) or of whole rows fits the workspace, so that the forward keeps it for the
    /// backward.
    fn keeps(&self, plan: &Plan, gradients: &Gradients) -> Result<bool> {
        let has_g = gradients.dq.is_some() || gradients.dk.is_some();
        Ok(has_g && !self.batch.counts(self.options) && self.main().pairs.fits(plan, 4.0, self.options.symmetric)?)
    }

    /// Records all gradients, for the gradient `dy` of the loss. If `keeps`, the forward pass over the batch's own
    /// pairs has not been recorded yet and is recorded here, chunk by chunk.
    fn gradients(
        &self,
        plan: &mut Plan,
        pass: Pass,
        dy: Option<Tensor>,
        gradients: Gradients,
        keeps: bool,
    ) -> Result<()> {
        let state = pass.target;
        let purpose = Purpose::Gradients(state, dy);
        let along = self.options.normalize;
        let whole = [(WIDE_DQ, gradients.dq), (WIDE_DK, gradients.dk), (WIDE_SHARED, gradients.d_shared)];
        // A gradient is a sum over several blocks, or its component along the vector is subtracted.
        let several = along || self.blocks.len() > 1 || self.batch.each.is_some();
        let mut wide = [const { None }; 3];
        for (wide, (slot, gradient)) in wide.iter_mut().zip(whole) {
            *wide = in_f32(plan, slot, gradient, several)?;
        }
        let mut sums = [None; 3];
        let mut accum = [self.options.accum; 3];
        for (at, (_, gradient)) in whole.into_iter().enumerate() {
            let Some(gradient) = gradient else { continue };
            let (sum, add) = sum_of(&wide[at], gradient, self.options.accum == Accum::Add)?;
            (sums[at], accum[at]) = (Some(sum), if add { Accum::Add } else { Accum::Write });
        }
        let [dq, dk, d_shared] = sums;
        let gradients = Gradients { dq, dk, d_shared, ..gradients };
        for block in self.blocks.iter().rev() {
            let (dq, dk, accum) = match block.kind {
                Kind::Main => (dq, dk, [accum[0], accum[1]]),
                Kind::Shared => (dq, d_shared, [Accum::Add, accum[2]]),
                Kind::Queries => (dq, dq, [Accum::Add, Accum::Add]),
                Kind::Keys => (dk, dk, [Accum::Add, Accum::Add]),
            };
            let kept = keeps && block.kind == Kind::Main;
            let accum_sums = if block.kind == Kind::Main { self.options.accum } else { Accum::Add };
            let goal = Goal { loss: None, gradients: gradients.of(dq, dk), accum, accum_sums, along };
            if goal.gradients.is_empty() {
                continue;
            }
            let found = block.pairs.by_whole_rows(kept).walk(plan, goal, |plan, chunk, sinks| {
                if kept {
                    self.pass_chunk(plan, block, chunk, pass, Some(sinks.g))?;
                }
                let words = self.chunk_words(plan, block, chunk, pass.positive, purpose)?;
                let [q, k, row_line, col_line] = lines_of(chunk, &words)?;
                let args = [q, k, block.pairs.log_scale, row_line, col_line, sinks.g, sinks.row_part, sinks.col_part];
                let flags = [&block.flags[..], &[("KEEP", kept.into())]].concat();
                let scalars = self.of_chunk(block, chunk, goal.gradients.has_sums() || along);
                plan.tiles(&BACKWARD, &args, chunk.products(), &scalars, &flags, chunk.grid)
            })?;
            let Some(found) = found else { continue };
            for (sums, lines, gradient) in [(found.rows, block.rows, dq), (found.cols, block.cols, dk)] {
                if let Some(gradient) = gradient {
                    let rows = lines.vectors.rows;
                    self.project(
                        plan,
                        Tensor::matrix(&sums, rows, 2)?,
                        [lines.vectors, gradient],
                        lines.squares,
                        &(0..rows),
                    )?;
                }
            }
        }
        self.each_backward(plan, pass.positive, purpose, gradients)?;
        for (wide, (_, gradient)) in wide.iter().zip(whole) {
            rounded(plan, wide, gradient, self.options.accum == Accum::Add)?;
        }
        Ok(())
    }
}

/// Records the loss, the `state` for [`backward`] and [`values`], and the gradients that are asked for.
///
/// `loss`: [N, 1] for [`Reduction::None`](crate::Reduction::None) and [`Reduction::Rows`](crate::Reduction::Rows), else
/// [1, 1].
///
/// `state`, of [`Batch::state_shape`]: one line per row and, if symmetric, one per column. The first two numbers of a
/// line are the log-sum-exp of its negatives as (max, rest), ln Σ e^s = max + ln(1 + rest).
///
/// `gradients`: those that are given are computed for a loss whose own gradient is 1. If the products of all pairs
/// (symmetric) or of some whole rows fit the workspace, they are reused for the gradients; otherwise they are computed
/// again.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape), [`Error::Option`](crate::Error::Option),
/// [`Error::SameBuffer`](crate::Error::SameBuffer); [`Error::Limit`](crate::Error::Limit) if the device cannot bind the
/// rows of one tile or, with [`Positive::Own`], one row of `state` per query: with bindings of 128 MiB the limit is
/// eight million queries.
pub fn forward(
    recorder: &mut Recorder,
    batch: Batch,
    loss: Tensor,
    state: Tensor,
    gradients: Gradients,
    options: Options,
) -> Result<()> {
    let call = Call::new(batch, state, options)?;
    shaped(OP, "loss", loss, call.main().pairs.loss_shape())?;
    gradients.check(&batch)?;
    let outputs = [&[named("loss", loss), named("state", state)], &gradients.named()[..]].concat();
    disjoint(OP, &outputs, &batch.named())?;
    recorder.plan(|plan| {
        call.squares(plan)?;
        let near = call.near(plan)?;
        let positive = near.as_ref().map(|near| Tensor::vector(near, batch.q.rows)).transpose()?;
        let pass = Pass { purpose: Purpose::Tags, positive, target: state };
        let keeps = call.keeps(plan, &gradients)?;
        let blocks = if keeps { &call.blocks[..call.blocks.len() - 1] } else { &call.blocks };
        call.each_forward(plan, pass)?;
        call.pass(plan, blocks, pass)?;
        call.put_positives(plan, state)?;
        if keeps {
            call.gradients(plan, pass, None, gradients, true)?;
        }
        call.finish(plan, state, loss)?;
        if !keeps && !gradients.is_empty() {
            call.gradients(plan, pass, None, gradients, false)?;
        }
        Ok(())
    })
}

/// Records the gradients that are given, from the batch and the `state` of [`forward`].
///
/// A side without a gradient is frozen, and its product is skipped. `dy` is the gradient of the loss, of the loss's
/// shape; absent: ones. A 16-bit gradient that is summed over several chunks, receives a part from further negatives,
/// or goes through [`Options::normalize`] is summed in f32 and rounded once.
///
/// # Errors
/// As [`forward`].
pub fn backward(
    recorder: &mut Recorder,
    batch: Batch,
    state: Tensor,
    dy: Option<Tensor>,
    gradients: Gradients,
    options: Options,
) -> Result<()> {
    let call = Call::new(batch, state, options)?;
    gradients.check(&batch)?;
    if let Some(dy) = dy {
        shaped(OP, "dy", dy, call.main().pairs.loss_shape())?;
    }
    let call = call.weighted(dy)?;
    let inputs = [&batch.named()[..], &[named("state", state), named("dy", dy)]].concat();
    disjoint(OP, &gradients.named(), &inputs)?;
    if gradients.is_empty() {
        return Ok(());
    }
    recorder.plan(|plan| {
        call.squares(plan)?;
        let near = call.near(plan)?;
        let positive = near.as_ref().map(|near| Tensor::vector(near, batch.q.rows)).transpose()?;
        call.gradients(plan, Pass { purpose: Purpose::Tags, positive, target: state }, dy, gradients, false)
    })
}

/// What [`compute`] returns.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// One number, or one per query for [`Reduction::None`](crate::Reduction::None) and [`Reduction::Rows`](crate::Reduction::Rows).
    pub loss: Vec<f32>,
    /// Gradient of the queries.
    pub d_queries: Vec<f32>,
    /// Gradient of the keys.
    pub d_keys: Vec<f32>,
    /// Gradient of ln(1/temperature).
    pub d_log_scale: f32,
}

/// The loss and all gradients for slices of queries and keys in rows of `dim` elements.
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
    let (q, k) = (gpu.upload(queries)?, gpu.upload(keys)?);
    let (dq, dk) = (gpu.zeros::<f32>(n * dim)?, gpu.zeros::<f32>(m * dim)?);
    let (loss, scale) = (gpu.zeros::<f32>(loss_rows)?, gpu.zeros::<f32>(1)?);
    let (q, k) = (Tensor::matrix(&q, n, dim)?, Tensor::matrix(&k, m, dim)?);
    let (dq, dk) = (Tensor::matrix(&dq, n, dim)?, Tensor::matrix(&dk, m, dim)?);
    let (batch, loss, d_log_scale) = (Batch::new(q, k), Tensor::vector(&loss, loss_rows)?, Tensor::scalar(&scale, 0)?);
    let [rows, cols] = batch.state_shape(options);
    let state = gpu.zeros::<f32>(rows * cols)?;
    let state = Tensor::matrix(&state, rows, cols)?;
    let gradients = Gradients { dq: Some(dq), dk: Some(dk), d_log_scale: Some(d_log_scale), ..Gradients::default() };
    gpu.run(|recorder| forward(recorder, batch, loss, state, gradients, options))?;
    Ok(Output {
        loss: gpu.read(loss)?,
        d_queries: gpu.read(dq)?,
        d_keys: gpu.read(dk)?,
        d_log_scale: gpu.read(d_log_scale)?[0],
    })
}
