//! The contrastive loss over all pairs of a batch, without ever storing the pairs.
//!
//! s_ij = scale · ⟨q_i, k_j⟩;  loss_i = ln Σ_j exp(s_ij) − s_ii, or the mean of that over rows and over columns ([`Options::symmetric`]).
//! Key i is query i's positive, all others are its negatives, unless [`Batch`] and [`Options`] say otherwise: a positive by index, several by
//! group, pairs that are left out, corrected scores, other forms of the loss. NT-Xent over N pairs is one batch of 2N rows that are queries
//! and keys, with [`Positive::Index`] (i + N) mod 2N and [`Options::exclude_self`]; a queue of past keys is more rows of `k` and
//! [`Gradients::dk`] absent.
//!
//! A query without a positive has loss 0 and gradient 0 and does not count in the mean. A score that is NaN or +inf (overflow) gives NaN for
//! its row and column, one of −inf is left out, as the only positive it makes the loss infinite. Memory beyond inputs and outputs is at most twice
//! [`Tuning::workspace`](crate::Tuning::workspace) and few numbers a query and key, whatever N · M. Work, with U = 2·N·M·D: forward U,
//! backward 3U, U less for each side without gradient.
//!
//! Source: van den Oord, Li and Vinyals 2018, arXiv:1807.03748, eq. 4; symmetric with a learnable scale: Radford et al. 2021, arXiv:2103.00020;
//! the sources of the options stand at shaders/info_nce.wgsl.

pub use super::pairs::Gradients;
use super::pairs::{Chunk, Form, Pairs};
use super::{Accum, Reduction, disjoint, named, required, rows_of, shaped, total};
use crate::kernel::{Family, Kernel, ScalarType::*, Shader, counters, ids, input, new_ids, output, wgsl};
use crate::recorder::{Arg, Plan, Scalar};
use crate::tensor::Element;
use crate::{Error, Gpu, Recorder, Result, Tensor};

const OP: &str = "info_nce";
static SHADER: Shader = Shader {
    op: OP,
    source: wgsl!("info_nce", "pairs", "tile", "math", "lse", "row"),
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
        new_ids("line"),
        input("weight"),
        output("loss"),
        input("sums"),
        input("inverse"),
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
        ("counts", U32),
        ("has_weight", U32),
        ("margin", F32),
        ("near_margin", F32),
        ("hardness", F32),
        ("tau_plus", F32),
        ("smoothing", F32),
    ],
    family: Family::Tile,
};
const fn kernel(entry: &'static str, uses: &'static [&'static str]) -> Kernel {
    Kernel { shader: &SHADER, entry, uses, in_place: None }
}
static FORWARD: Kernel = kernel("forward", &["q", "k", "log_scale", "row_line", "col_line", "row_part", "col_part"]);
static MERGE: Kernel = kernel("merge", &["part", "state"]);
static TAG: Kernel = kernel("tag", &["index", "group", "id", "log_q", "positive_in", "line"]);
static LINE_LOSS: Kernel = kernel("line_loss", &["log_scale", "state_in", "log_q", "weight", "loss"]);
static FINISH: Kernel = kernel("finish", &["sums", "loss", "state"]);
static WEIGH: Kernel = kernel("weigh", &["log_scale", "state_in", "log_q", "weight", "inverse", "dy", "line"]);
static BACKWARD: Kernel = kernel("backward", &["q", "k", "log_scale", "row_line", "col_line", "g", "row_part"]);
static POSITIVES: Kernel = kernel("positives", &["q", "k", "row_line", "positive"]);
static CLEAR: Kernel = kernel("clear", &["rank"]);
static COUNT_RANKS: Kernel = kernel("count_ranks", &["q", "k", "positive_in", "rank"]);
pub(super) const KERNELS: &[&Kernel] =
    &[&FORWARD, &MERGE, &TAG, &LINE_LOSS, &FINISH, &WEIGH, &BACKWARD, &POSITIVES, &CLEAR, &COUNT_RANKS];

/// Scratch: partial log-sum-exps of rows, of columns (both of the forward; the backward's walk has other uses for these slots); two sums.
const PARTS: usize = 0;
const COL_PARTS: usize = 1;
const SUMS: usize = 3;
/// Scratch: ⟨q, k⟩ of the positives; what identifies the rows and the columns of a chunk, and what their gradients have in common.
const POSITIVE: usize = 6;
const ROW_LINES: usize = 7;
const COL_LINES: usize = 8;

/// Words of a line, `AT_..` in the shader.
const WORDS: usize = 12;

/// Which keys are a query's positives.
#[derive(Debug, Clone, Copy, Default)]
pub enum Positive<'a> {
    /// Key i of query i; there are as many keys as queries at least.
    #[default]
    Own,
    /// [N, 1]: one key, by its number; a number that no key has: none.
    Index(Tensor<'a, u32>),
    /// The keys of the query's group: groups of the queries [N, 1], of the keys [M, 1].
    Groups(Tensor<'a, u32>, Tensor<'a, u32>),
}

/// What is compared with what.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// Queries [N, D].
    pub q: Tensor<'a>,
    /// Keys [M, D].
    pub k: Tensor<'a>,
    /// [1, 1]: makes the scale min(e^log_scale, [`Options::max_scale`]); without it the scale is 1/[`Options::temperature`].
    pub log_scale: Option<Tensor<'a>>,
    /// Weights of the queries' losses [N, 1].
    pub weight: Option<Tensor<'a>>,
    /// Subtracted from the scores of each key [M, 1]: the logarithm of the probability with which it was drawn (logQ correction).
    pub log_q: Option<Tensor<'a>>,
    /// Which keys are positives.
    pub positive: Positive<'a>,
    /// Of the queries [N, 1], of the keys [M, 1]: a key with the query's id that is no positive of it is left out (false negatives).
    pub ids: Option<(Tensor<'a, u32>, Tensor<'a, u32>)>,
}

impl<'a> Batch<'a> {
    /// Queries and keys, and nothing else.
    pub fn new(q: Tensor<'a>, k: Tensor<'a>) -> Self {
        Batch { q, k, log_scale: None, weight: None, log_q: None, positive: Positive::Own, ids: None }
    }

    /// With a learned scale [1, 1].
    pub fn scaled(self, log_scale: Tensor<'a>) -> Self {
        Batch { log_scale: Some(log_scale), ..self }
    }

    /// The shape of the tensor that [`forward`] leaves for [`backward`]: a line a query and, if symmetric, a line a key, and one more where the
    /// queries that count have to be counted.
    pub fn state_shape(&self, options: Options) -> [usize; 2] {
        let lines = self.q.rows + if options.symmetric { self.k.rows } else { 0 };
        [lines + usize::from(self.counts(options)), if self.is_full(options) { 8 } else { 4 }]
    }

    /// Whether the mean divides by something that only the device knows.
    fn counts(&self, options: Options) -> bool {
        options.reduction == Reduction::Mean && (self.weight.is_some() || !matches!(self.positive, Positive::Own))
    }

    /// Whether a line needs more than the log-sum-exp of its negatives and one positive score.
    fn is_full(&self, options: Options) -> bool {
        !matches!(self.positive, Positive::Own) || options.label_smoothing != 0.0 || options.tau_plus != 0.0
    }

    fn has_tags(&self, options: Options) -> bool {
        let plain = matches!(self.positive, Positive::Own) && self.ids.is_none() && self.log_q.is_none();
        !plain || is_near(options)
    }

    fn index(&self) -> Option<Tensor<'a, u32>> {
        if let Positive::Index(index) = self.positive { Some(index) } else { None }
    }

    fn groups(&self) -> Option<(Tensor<'a, u32>, Tensor<'a, u32>)> {
        if let Positive::Groups(q, k) = self.positive { Some((q, k)) } else { None }
    }

    fn named(&self) -> [(&'static str, Option<Tensor<'a, u32>>); 10] {
        let (groups, ids) = (self.groups(), self.ids);
        [
            named("q", self.q),
            named("k", self.k),
            named("log_scale", self.log_scale),
            named("weight", self.weight),
            named("log_q", self.log_q),
            named("index", self.index()),
            named("groups of q", groups.map(|(q, _)| q)),
            named("groups of k", groups.map(|(_, k)| k)),
            named("ids of q", ids.map(|(q, _)| q)),
            named("ids of k", ids.map(|(_, k)| k)),
        ]
    }
}

fn is_near(options: Options) -> bool {
    options.near_margin != f32::INFINITY
}

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
    fn check(&self, batch: &Batch) -> Result<()> {
        let need = |option, value: f32, holds, expected| required(OP, option, value, holds, expected);
        let share = |value: f32| (0.0..1.0).contains(&value);
        need("tau_plus", self.tau_plus, share(self.tau_plus), "from 0 to below 1")?;
        need("label_smoothing", self.label_smoothing, (0.0..=1.0).contains(&self.label_smoothing), "from 0 to 1")?;
        need("hardness", self.hardness, self.hardness.is_finite(), "a finite number")?;
        need("margin", self.margin, self.margin.is_finite(), "a finite number")?;
        need("near_margin", self.near_margin, !self.near_margin.is_nan(), "a number")?;
        let only_one = |option: &'static str, expected: &'static str, found: bool| match found {
            true => Err(Error::Option { op: OP, option, expected, found: "both".into() }),
            false => Ok(()),
        };
        let (smooths, debiased) = (self.label_smoothing != 0.0, self.tau_plus != 0.0);
        let groups = matches!(batch.positive, Positive::Groups(..));
        only_one(
            "label_smoothing",
            "without inside_log, decoupled and tau_plus",
            smooths && (self.inside_log || self.decoupled || debiased),
        )?;
        only_one(
            "tau_plus",
            "without inside_log, decoupled and groups",
            debiased && (self.inside_log || self.decoupled || groups),
        )?;
        only_one("near_margin", "one positive a query, no groups", is_near(*self) && groups)?;
        let own = matches!(batch.positive, Positive::Own);
        only_one("exclude_self", "positives by index or by group", self.exclude_self && own)?;
        only_one(
            "symmetric",
            "positives of the query's own number or by group",
            self.symmetric && batch.index().is_some(),
        )
    }

    fn flags(&self, batch: &Batch) -> [(&'static str, u32); 9] {
        let positive = match batch.positive {
            Positive::Own => 0,
            Positive::Index(_) => 1,
            Positive::Groups(..) => 2,
        };
        let bits = [self.inside_log, self.decoupled, self.tau_plus != 0.0, self.label_smoothing != 0.0];
        let form = bits.into_iter().enumerate().map(|(bit, set)| u32::from(set) << bit).sum();
        [
            ("SYMMETRIC", self.symmetric.into()),
            ("POSITIVE", positive),
            ("EXCLUDE_SELF", self.exclude_self.into()),
            ("HAS_ID", batch.ids.is_some().into()),
            ("NEAR", is_near(*self).into()),
            ("HAS_LOG_Q", batch.log_q.is_some().into()),
            ("HARD", (self.hardness != 0.0).into()),
            ("FULL", batch.is_full(*self).into()),
            ("FORM", form),
        ]
    }
}

/// What all dispatches of a call share.
struct Call<'a> {
    pairs: Pairs<'a>,
    batch: Batch<'a>,
    options: Options,
    flags: [(&'static str, u32); 9],
}

/// Rows or columns.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    Rows,
    Columns,
}

/// What differs between the kernels that a lane takes a line of.
#[derive(Default)]
struct Lines {
    parts: usize,
    fresh: bool,
}

impl<'a> Call<'a> {
    fn new(batch: Batch<'a>, state: Tensor<'a>, options: Options) -> Result<Self> {
        let Batch { q, k, .. } = batch;
        let Options { temperature, max_scale, symmetric, reduction, .. } = options;
        options.check(&batch)?;
        if symmetric && k.cols == q.cols && k.rows != q.rows {
            let (expected, found) = (format!("{} rows", q.rows), format!("{} rows", k.rows));
            return Err(Error::Shape { op: OP, what: "k", expected, found });
        }
        let own = matches!(batch.positive, Positive::Own);
        let pairs = Pairs::new(OP, q, k, batch.log_scale, Form { temperature, max_scale, reduction, own })?;
        let (n, m) = (q.rows, k.rows);
        for (what, tensor, rows) in [("weight", batch.weight, n), ("log_q", batch.log_q, m)] {
            tensor.map_or(Ok(()), |tensor| shaped(OP, what, tensor, [rows, 1]))?;
        }
        batch.index().map_or(Ok(()), |index| shaped(OP, "index", index, [n, 1]))?;
        for (what, pair) in [("groups", batch.groups()), ("ids", batch.ids)] {
            if let Some((of_q, of_k)) = pair {
                shaped(OP, what, of_q, [n, 1])?;
                shaped(OP, what, of_k, [m, 1])?;
            }
        }
        shaped(OP, "state", state, batch.state_shape(options))?;
        Ok(Call { pairs, batch, options, flags: options.flags(&batch) })
    }

    fn scalars(&self, first: [usize; 2], has_sums: bool, lines: Lines) -> Vec<Scalar> {
        let Options { margin, near_margin, hardness, tau_plus, label_smoothing, .. } = self.options;
        let common = self.pairs.scalars(first, has_sums);
        let own: [Scalar; 9] = [
            lines.parts.into(),
            lines.fresh.into(),
            self.batch.counts(self.options).into(),
            self.batch.weight.is_some().into(),
            margin.into(),
            near_margin.into(),
            hardness.into(),
            tau_plus.into(),
            label_smoothing.into(),
        ];
        [&common[..], &own].concat()
    }

    fn of_lines(&self, fresh: bool) -> Vec<Scalar> {
        self.scalars([0, 0], false, Lines { parts: 0, fresh })
    }

    /// The lines of rows or of columns in a tensor of both.
    fn side<'b>(&self, state: Tensor<'b>, side: Side) -> Tensor<'b> {
        let (n, m) = (self.batch.q.rows, self.batch.k.rows);
        if side == Side::Rows { state.row_range(0..n) } else { state.row_range(n..n + m) }
    }

    fn sides(&self) -> &'static [Side] {
        if self.options.symmetric { &[Side::Rows, Side::Columns] } else { &[Side::Rows] }
    }

    fn rows<T: Element>(tensor: Option<Tensor<'a, T>>, range: &core::ops::Range<usize>) -> Arg<'a> {
        tensor.map_or(Arg::NONE, |tensor| Arg::by_row(tensor.row_range(range.clone())))
    }

    /// ⟨q, k⟩ of the positives.
    fn positives(&self, plan: &mut Plan<'a>, positive: Tensor) -> Result<()> {
        for chunk in self.pairs.chunks(plan, 1.0)? {
            let scratch = plan.gpu().scratch(ROW_LINES, chunk.rows.len() * WORDS)?;
            let lines = Tensor::<u32>::matrix(&scratch, chunk.rows.len(), WORDS)?;
            let by_index = self.batch.index().is_some();
            if by_index {
                self.tag(plan, Side::Rows, &chunk.rows, None, lines)?;
            }
            let line = if by_index { Arg::whole(lines) } else { Arg::NONE };
            let args = [Arg::whole(chunk.q), Arg::whole(chunk.k), line, Arg::whole(positive)];
            let [across, down, _] = chunk.grid;
            let grid = [if by_index { across } else { 1 }, down, 1];
            plan.tiles(&POSITIVES, &args, chunk.shape(), &self.of(&chunk, false), &self.flags, grid)?;
        }
        Ok(())
    }

    fn of(&self, chunk: &Chunk, has_sums: bool) -> Vec<Scalar> {
        self.scalars([chunk.rows.start, chunk.cols.start], has_sums, Lines::default())
    }

    /// What identifies the lines of a range.
    fn tag(
        &self,
        plan: &mut Plan,
        side: Side,
        range: &core::ops::Range<usize>,
        positive: Option<Tensor>,
        lines: Tensor<u32>,
    ) -> Result<()> {
        let batch = &self.batch;
        let of = |pair: Option<(Tensor<'a, u32>, Tensor<'a, u32>)>| {
            pair.map(|(rows, columns)| if side == Side::Rows { rows } else { columns })
        };
        let index = batch.index().filter(|_| side == Side::Rows);
        let log_q = batch.log_q.filter(|_| side == Side::Columns);
        let near = positive.map_or(Arg::NONE, |positive| Arg::by_row(positive.row_range(range.clone())));
        let args = [
            Self::rows(index, range),
            Self::rows(of(batch.groups()), range),
            Self::rows(of(batch.ids), range),
            Self::rows(log_q, range),
            near,
            Arg::by_row(lines),
        ];
        plan.each_row(&TAG, [range.len(), 1], &args, &self.of_lines(true), &self.flags)
    }

    /// The words of a chunk's rows and columns: what identifies them and, with a `state`, what their gradients have in common.
    fn lines(
        &self,
        plan: &mut Plan,
        chunk: &Chunk,
        positive: Option<Tensor>,
        state: Option<(Tensor, Option<Tensor>)>,
    ) -> Result<[Option<wgpu::Buffer>; 2]> {
        let mut buffers = [None, None];
        for (at, (side, range, slot)) in
            [(Side::Rows, &chunk.rows, ROW_LINES), (Side::Columns, &chunk.cols, COL_LINES)].into_iter().enumerate()
        {
            let weighs = state.is_some() && self.sides().contains(&side);
            if !(self.batch.has_tags(self.options) || weighs) {
                continue;
            }
            let scratch = plan.gpu().scratch(slot, range.len() * WORDS)?;
            let lines = Tensor::<u32>::matrix(&scratch, range.len(), WORDS)?;
            if self.batch.has_tags(self.options) {
                let positive = positive.filter(|_| self.sides().contains(&side));
                self.tag(plan, side, range, positive, lines)?;
            }
            if let Some((state, dy)) = state.filter(|_| weighs) {
                let by_row = self.options.reduction.by_row();
                let dy = dy.map(|dy| if by_row { Arg::by_row(dy.row_range(range.clone())) } else { Arg::whole(dy) });
                let inverse = state.row_range(state.rows - 1..state.rows).col_range(0..1);
                let counts = self.batch.counts(self.options);
                let args = [
                    self.pairs.log_scale,
                    Arg::by_row(self.side(state, side).row_range(range.clone())),
                    Self::rows(self.batch.log_q, range),
                    Self::rows(self.batch.weight, range),
                    if counts { Arg::whole(inverse) } else { Arg::NONE },
                    dy.unwrap_or(Arg::NONE),
                    Arg::by_row(lines),
                ];
                plan.each_row(&WEIGH, [range.len(), 1], &args, &self.of_lines(true), &self.flags)?;
            }
            buffers[at] = Some(scratch);
        }
        Ok(buffers)
    }

    /// Where the positives' ⟨q, k⟩ are needed before the rest, they are found and held here.
    fn near(&self, plan: &mut Plan<'a>) -> Result<Option<wgpu::Buffer>> {
        if !is_near(self.options) {
            return Ok(None);
        }
        let scratch = plan.gpu().scratch(POSITIVE, self.batch.q.rows)?;
        self.positives(plan, Tensor::vector(&scratch, self.batch.q.rows)?)?;
        Ok(Some(scratch))
    }
}

fn lines_of(buffer: &Option<wgpu::Buffer>, rows: usize) -> Result<Arg<'_>> {
    buffer.as_ref().map_or(Ok(Arg::NONE), |buffer| Ok(Arg::whole(Tensor::<u32>::matrix(buffer, rows, WORDS)?)))
}

/// `loss`: [N, 1] for [`Reduction::None`] and [`Reduction::Rows`], else [1, 1]. `state`, of [`Batch::state_shape`], receives what
/// [`backward`] needs: of each row, and each column if symmetric, the log-sum-exp of the negatives as (max, rest),
/// ln Σ e^s = max + ln(1 + rest), in its first two columns.
///
/// # Errors
/// [`Error::Shape`], [`Error::Option`], [`Error::SameBuffer`]; [`Error::Limit`] if the device cannot bind the rows of one tile.
pub fn forward(recorder: &mut Recorder, batch: Batch, loss: Tensor, state: Tensor, options: Options) -> Result<()> {
    let call = Call::new(batch, state, options)?;
    shaped(OP, "loss", loss, call.pairs.loss_shape())?;
    disjoint(OP, &[named("loss", loss), named("state", state)], &batch.named())?;
    let (n, full) = (batch.q.rows, batch.is_full(options));
    recorder.plan(|plan| {
        let gpu = plan.gpu();
        let near = call.near(plan)?;
        let near = near.as_ref().map(|near| Tensor::vector(near, n)).transpose()?;
        let width = if full { 8 } else { 2 };
        let [tile_rows, tile_cols] = gpu.tuning().tile();
        for chunk in call.pairs.chunks(plan, 4.0 * width as f64 / tile_rows.min(tile_cols) as f64)? {
            let ([rows, cols], grid) = (chunk.shape(), chunk.grid);
            let [row_lines, col_lines] = call.lines(plan, &chunk, near, None)?;
            let row_parts = gpu.scratch(PARTS, width * grid[0] * rows)?;
            let row_parts = Tensor::matrix(&row_parts, grid[0] * rows, width)?;
            let col_parts = gpu.scratch(COL_PARTS, if options.symmetric { width * grid[1] * cols } else { 0 })?;
            let col_parts = options.symmetric.then(|| Tensor::matrix(&col_parts, grid[1] * cols, width)).transpose()?;
            let args = [
                Arg::whole(chunk.q),
                Arg::whole(chunk.k),
                call.pairs.log_scale,
                lines_of(&row_lines, rows)?,
                lines_of(&col_lines, cols)?,
                Arg::whole(row_parts),
                col_parts.map_or(Arg::NONE, Arg::whole),
            ];
            plan.tiles(&FORWARD, &args, chunk.shape(), &call.of(&chunk, false), &call.flags, grid)?;
            let mut merge = |source: Tensor, target: Tensor, parts: usize, fresh: bool| {
                let scalars = call.scalars([0, 0], false, Lines { parts, fresh });
                let args = [Arg::whole(source), Arg::whole(target)];
                plan.lanes(&MERGE, &args, [target.rows, 1], &scalars, &call.flags, 1)
            };
            let rows_state = call.side(state, Side::Rows).row_range(chunk.rows.clone());
            merge(row_parts, rows_state, grid[0], chunk.cols.start == 0)?;
            if let Some(col_parts) = col_parts {
                let cols_state = call.side(state, Side::Columns).row_range(chunk.cols.clone());
                merge(col_parts, cols_state, grid[1], chunk.rows.start == 0)?;
            }
        }
        if !full {
            for &side in call.sides() {
                call.positives(plan, call.side(state, side).col_range(2..3))?;
            }
        }
        let (counts, direct) = (batch.counts(options), options.reduction.by_row());
        let values = total::values(plan, n, 2)?;
        let value = if direct { loss } else { Tensor::matrix(&values, n, 2)? };
        for &side in call.sides() {
            let args = [
                call.pairs.log_scale,
                Arg::by_row(call.side(state, side)),
                batch.log_q.map_or(Arg::NONE, Arg::by_row),
                batch.weight.map_or(Arg::NONE, Arg::by_row),
                Arg::by_row(value),
            ];
            plan.each_row(&LINE_LOSS, [n, 1], &args, &call.of_lines(side == Side::Rows), &call.flags)?;
        }
        if !counts {
            let losses = value.col_range(0..1);
            return if direct { Ok(()) } else { total::total(plan, losses, loss, call.pairs.factor()) };
        }
        let sums = gpu.scratch(SUMS, 2)?;
        let sums = Tensor::vector(&sums, 2)?;
        for column in 0..2 {
            total::total(plan, value.col_range(column..column + 1), sums.row_range(column..column + 1), 1.0)?;
        }
        let inverse = state.row_range(state.rows - 1..state.rows);
        let args = [Arg::whole(sums), Arg::whole(loss), Arg::whole(inverse)];
        plan.single(&FINISH, &args, [1, 1], &call.of_lines(true), &call.flags)
    })
}

/// Those of `gradients` that are given: dq [N, D], dk [M, D], d_log_scale [1, 1], from the forward's batch and its `state`. A side without one
/// is frozen, and its product is skipped. `dy` is the gradient of the loss, of the loss's shape, ones if absent.
/// Where the pairs exceed the workspace dq and dk are sums of several chunks, each rounded as they are stored.
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
    call.pairs.check(&gradients)?;
    if let Some(dy) = dy {
        shaped(OP, "dy", dy, call.pairs.loss_shape())?;
    }
    let call = Call { pairs: call.pairs.weighted(dy)?, ..call };
    let Gradients { dq, dk, d_log_scale, d_bias } = gradients;
    if let Some(bias) = d_bias {
        let (expected, found) = ("absent: a softmax has no bias".into(), format!("{} x {}", bias.rows, bias.cols));
        return Err(Error::Shape { op: OP, what: "d_bias", expected, found });
    }
    let outputs = [named("dq", dq), named("dk", dk), named("d_log_scale", d_log_scale)];
    let inputs = [&batch.named()[..], &[named("state", state), named("dy", dy)]].concat();
    disjoint(OP, &outputs, &inputs)?;
    if gradients.is_empty() {
        return Ok(());
    }
    recorder.plan(|plan| {
        let near = call.near(plan)?;
        let near = near.as_ref().map(|near| Tensor::vector(near, batch.q.rows)).transpose()?;
        call.pairs.walk(plan, None, gradients, options.accum, |plan, chunk, sinks| {
            let [row_lines, col_lines] = call.lines(plan, chunk, near, Some((state, dy)))?;
            let args = [
                Arg::whole(chunk.q),
                Arg::whole(chunk.k),
                call.pairs.log_scale,
                lines_of(&row_lines, chunk.rows.len())?,
                lines_of(&col_lines, chunk.cols.len())?,
                sinks.g,
                sinks.row_part,
            ];
            plan.tiles(&BACKWARD, &args, chunk.shape(), &call.of(chunk, gradients.has_sums()), &call.flags, chunk.grid)
        })
    })
}

/// `rank` [N, 1]: how many keys come before a query's own, 0 for a hit; recall@K is the share of ranks below K.
/// A key comes before if it scores higher, or as high and has the smaller number. A query whose own score is NaN ranks last.
///
/// # Errors
/// As [`forward`].
pub fn rank(recorder: &mut Recorder, q: Tensor, k: Tensor, rank: Tensor<u32>) -> Result<()> {
    let options = Options { temperature: 1.0, ..Options::default() };
    let form = Form { temperature: 1.0, max_scale: 1.0, reduction: Reduction::Sum, own: true };
    let (batch, pairs) = (Batch::new(q, k), Pairs::new(OP, q, k, None, form)?);
    let call = Call { pairs, batch, options, flags: options.flags(&batch) };
    let n = q.rows;
    shaped(OP, "rank", rank, [n, 1])?;
    disjoint(OP, &[named("rank", rank)], &[named("q", q), named("k", k)])?;
    recorder.plan(|plan| {
        let positive = plan.gpu().scratch(POSITIVE, n)?;
        let positive: Tensor = Tensor::vector(&positive, n)?;
        call.positives(plan, positive)?;
        plan.each_row(&CLEAR, [n, 1], &[Arg::by_row(rank)], &call.of_lines(true), &[])?;
        for chunk in call.pairs.chunks(plan, 1.0)? {
            let args = [Arg::whole(chunk.q), Arg::whole(chunk.k), Arg::whole(positive), Arg::whole(rank)];
            plan.tiles(&COUNT_RANKS, &args, chunk.shape(), &call.of(&chunk, false), &call.flags, chunk.grid)?;
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
    let (q, k) = (gpu.upload(queries)?, gpu.upload(keys)?);
    let (dq, dk) = (gpu.zeros::<f32>(n * dim)?, gpu.zeros::<f32>(m * dim)?);
    let (loss, scale) = (gpu.zeros::<f32>(loss_rows)?, gpu.zeros::<f32>(1)?);
    let (q, k) = (Tensor::matrix(&q, n, dim)?, Tensor::matrix(&k, m, dim)?);
    let (dq, dk) = (Tensor::matrix(&dq, n, dim)?, Tensor::matrix(&dk, m, dim)?);
    let (batch, loss, d_log_scale) = (Batch::new(q, k), Tensor::vector(&loss, loss_rows)?, Tensor::scalar(&scale, 0)?);
    let [rows, cols] = batch.state_shape(options);
    let state = gpu.zeros::<f32>(rows * cols)?;
    let state = Tensor::matrix(&state, rows, cols)?;
    let gradients = Gradients { dq: Some(dq), dk: Some(dk), d_log_scale: Some(d_log_scale), d_bias: None };
    gpu.run(|recorder| {
        forward(recorder, batch, loss, state, options)?;
        backward(recorder, batch, state, None, gradients, options)
    })?;
    Ok(Output {
        loss: gpu.read(loss)?,
        d_queries: gpu.read(dq)?,
        d_keys: gpu.read(dk)?,
        d_log_scale: gpu.read(d_log_scale)?[0],
    })
}
