//! The pairs of a batch in blocks: queries with keys, and lines with whatever else they are compared with. A line is a
//! row or a column of a block's score matrix. It may have a loss of its own or not.

use core::ops::Range;

use super::{
    Batch, CLEAR, FORWARD, Given, LEVEL, LINE_LOSS, MERGE, OP, Options, POSITIVES, Positive, TAG, WEIGH, is_near,
};
use crate::ops::pairs::{Chunk, Extent, Form, Pairs};
use crate::ops::{dot, linear, only_f32, shaped};
use crate::plan::{Arg, Plan, Scalar};
use crate::tensor::Element;
use crate::{Result, Tensor};

/// Scratch: results of tiles for their rows and for their columns.
const PARTS: usize = 0;
const COL_PARTS: usize = 1;
/// Scratch: c of the positives; the words of a chunk's rows and of its columns; squared lengths.
pub(super) const POSITIVE: usize = 6;
const ROW_LINES: usize = 7;
pub(super) const COL_LINES: usize = 8;
const SQUARES_OF_Q: usize = 11;
const SQUARES_OF_K: usize = 12;
const SQUARES_OF_SHARED: usize = 13;
pub(super) const SQUARES_OF_EACH: usize = 14;

/// Words (u32) per line: what identifies the line and the factors of its gradients; `AT_..` in the shader.
pub(super) const WORDS: usize = 12;

pub(super) type Flags = [(&'static str, u32); 11];

/// The side whose losses some lines have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Queries,
    Keys,
}

/// The lines on one side of a block.
#[derive(Clone, Copy)]
pub(super) struct Lines<'a> {
    pub(super) vectors: Tensor<'a>,
    pub(super) index: Option<Tensor<'a, u32>>,
    pub(super) groups: Option<Tensor<'a, u32>>,
    pub(super) ids: Option<Tensor<'a, u32>>,
    pub(super) log_q: Option<Tensor<'a>>,
    pub(super) side: Option<Side>,
    /// Scratch slots: the squared lengths of the lines, and their words.
    pub(super) squares: usize,
    pub(super) words: usize,
}

/// What the rows and columns of a block are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Queries and keys.
    Main,
    /// Queries and the further negatives that all queries share.
    Shared,
    /// Queries and queries.
    Queries,
    /// Keys and keys.
    Keys,
}

pub(super) struct Block<'a> {
    pub(super) kind: Kind,
    pub(super) pairs: Pairs<'a>,
    pub(super) rows: Lines<'a>,
    pub(super) cols: Lines<'a>,
    pub(super) flags: Flags,
}

impl Block<'_> {
    /// The side of the rows and, if the block has both directions, the side of the columns.
    pub(super) fn sides(&self) -> [Option<Side>; 2] {
        [self.rows.side, self.cols.side]
    }
}

pub(super) fn has_tags(flags: &Flags) -> bool {
    let is = |name, value: u32| flags.contains(&(name, value));
    ["HAS_GROUP", "HAS_ID", "NEAR", "HAS_LOG_Q", "NORMALIZE"].into_iter().any(|name| is(name, 1)) || is("POSITIVE", 1)
}

/// The purpose for which the words of a chunk's lines are prepared.
#[derive(Clone, Copy)]
pub(super) enum Purpose<'a> {
    /// Only to identify the lines.
    Tags,
    /// To compute gradients, from `state` and the gradient of the loss.
    Gradients(Tensor<'a>, Option<Tensor<'a>>),
    /// To compute entropies, from `state`.
    Entropy(Tensor<'a>),
}

/// A pass over pairs: its purpose, and the target for the results of each line.
#[derive(Clone, Copy)]
pub(super) struct Pass<'a> {
    pub(super) purpose: Purpose<'a>,
    /// c of the positives, if the pass needs it beforehand.
    pub(super) positive: Option<Tensor<'a>>,
    pub(super) target: Tensor<'a>,
}

/// Scalars that differ between the dispatches of a call.
#[derive(Clone, Copy, Default)]
pub(super) struct Extra {
    pub(super) parts: usize,
    pub(super) fresh: bool,
}

/// State that all dispatches of a call share.
pub(super) struct Call<'a> {
    pub(super) batch: Batch<'a>,
    pub(super) options: Options,
    /// In processing order; the batch's own pairs come last.
    pub(super) blocks: Vec<Block<'a>>,
    /// Flags of the kernels that need only the state of a line.
    pub(super) flags: Vec<(&'static str, u32)>,
}

impl<'a> Call<'a> {
    pub(super) fn new(batch: Batch<'a>, state: Tensor<'a>, options: Options) -> Result<Self> {
        let Options { temperature, max_scale, reduction, .. } = options;
        options.check(Given::of(&batch))?;
        let own = matches!(batch.positive, Positive::Own);
        let pairs = Pairs::new(OP, batch.q, batch.k, batch.log_scale, Form { temperature, max_scale, reduction, own })?;
        batch.check(options)?;
        shaped(OP, "state", state, batch.state_shape(options))?;
        only_f32(OP, "state", state)?;
        Self::of(batch, pairs, options)
    }

    pub(super) fn of(batch: Batch<'a>, pairs: Pairs<'a>, options: Options) -> Result<Self> {
        let (groups, ids) = (batch.groups(), batch.ids);
        let queries = Lines {
            vectors: batch.q,
            index: batch.index(),
            groups: groups.map(|(q, _)| q),
            ids: ids.map(|(q, _)| q),
            log_q: None,
            side: Some(Side::Queries),
            squares: SQUARES_OF_Q,
            words: ROW_LINES,
        };
        let keys = Lines {
            vectors: batch.k,
            index: None,
            groups: groups.map(|(_, k)| k),
            ids: ids.map(|(_, k)| k),
            log_q: batch.log_q,
            side: options.symmetric.then_some(Side::Keys),
            squares: SQUARES_OF_K,
            words: COL_LINES,
        };
        let compared = |lines: Lines<'a>| Lines { side: None, words: COL_LINES, ..lines };
        let mut blocks = Vec::new();
        let mut block = |kind, rows: Lines<'a>, cols: Lines<'a>, pairs: Pairs<'a>| {
            let flags = flags(&batch, options, kind, &cols);
            blocks.push(Block { kind, pairs, rows, cols, flags });
        };
        if let Some(shared) = batch.shared {
            let cols = Lines {
                vectors: shared.k,
                index: None,
                groups: None,
                ids: shared.ids,
                log_q: shared.log_q,
                side: None,
                squares: SQUARES_OF_SHARED,
                words: COL_LINES,
            };
            block(Kind::Shared, queries, cols, pairs.of(batch.q, shared.k)?);
        }
        if options.query_negatives {
            block(Kind::Queries, queries, compared(queries), pairs.of(batch.q, batch.q)?);
        }
        if options.key_negatives {
            block(Kind::Keys, Lines { words: ROW_LINES, ..keys }, compared(keys), pairs.of(batch.k, batch.k)?);
        }
        let extent = if options.in_batch { Extent::All } else { Extent::Diagonal };
        block(Kind::Main, queries, keys, pairs.within(extent));
        let flags = only(&flags(&batch, options, Kind::Main, &keys), &["SYMMETRIC", "HAS_LOG_Q", "FULL"]);
        // With a single positive, the sum over the positives is the same inside and outside of the logarithm.
        let inside_log = options.inside_log && !matches!(batch.positive, Positive::Own);
        let flags = [&flags[..], &[("FORM", Options { inside_log, ..options }.form())]].concat();
        Ok(Call { batch, options, blocks, flags })
    }

    /// The batch's own pairs.
    pub(super) fn main(&self) -> &Block<'a> {
        &self.blocks[self.blocks.len() - 1]
    }

    /// The same call with the gradient of the loss.
    pub(super) fn weighted(mut self, dy: Option<Tensor<'a>>) -> Result<Self> {
        self.blocks = self
            .blocks
            .into_iter()
            .map(|block| Ok(Block { pairs: block.pairs.weighted(dy)?, ..block }))
            .collect::<Result<_>>()?;
        Ok(self)
    }

    pub(super) fn scalars(&self, pairs: &Pairs, first: [usize; 2], has_sums: bool, form: Extra) -> Vec<Scalar> {
        let Options { margin, near_margin, hardness, tau_plus, label_smoothing, .. } = self.options;
        let common = pairs.scalars(first, has_sums);
        let own: [Scalar; 10] = [
            form.parts.into(),
            form.fresh.into(),
            self.batch.counts(self.options).into(),
            self.batch.weight.is_some().into(),
            margin.into(),
            near_margin.into(),
            hardness.into(),
            tau_plus.into(),
            label_smoothing.into(),
            self.batch.q.rows.into(),
        ];
        [&common[..], &own].concat()
    }

    pub(super) fn of_lines(&self, form: Extra) -> Vec<Scalar> {
        self.scalars(&self.main().pairs, [0, 0], false, form)
    }

    pub(super) fn of_chunk(&self, block: &Block, chunk: &Chunk, has_sums: bool) -> Vec<Scalar> {
        self.scalars(&block.pairs, [chunk.rows.start, chunk.cols.start], has_sums, Extra::default())
    }

    /// The lines of one side, in a tensor that holds both sides.
    pub(super) fn side<'b>(&self, state: Tensor<'b>, side: Side) -> Tensor<'b> {
        let (n, m) = (self.batch.q.rows, self.batch.k.rows);
        if side == Side::Queries { state.row_range(0..n) } else { state.row_range(n..n + m) }
    }

    pub(super) fn sides(&self) -> impl Iterator<Item = Side> {
        self.main().sides().into_iter().flatten()
    }

    /// Records the squared lengths of all rows, if `normalize`.
    pub(super) fn squares(&self, plan: &mut Plan) -> Result<()> {
        if !self.options.normalize {
            return Ok(());
        }
        let shared = self.batch.shared.map(|shared| (shared.k, SQUARES_OF_SHARED));
        for (vectors, slot) in [(self.batch.q, SQUARES_OF_Q), (self.batch.k, SQUARES_OF_K)].into_iter().chain(shared) {
            self.squares_of(plan, vectors, slot)?;
        }
        Ok(())
    }

    pub(super) fn squares_of(&self, plan: &mut Plan, vectors: Tensor, slot: usize) -> Result<()> {
        let scratch = plan.scratch(slot, vectors.rows)?;
        let squares: Tensor = Tensor::vector(&scratch, vectors.rows)?;
        for rows in linear::chunks(vectors.rows, plan.rows_per_binding(vectors) as usize) {
            let part = vectors.row_range(rows.clone());
            dot::scores(plan, part, part, squares.row_range(rows))?;
        }
        Ok(())
    }

    /// Records the words of some lines: those that identify the lines and those for `purpose`. `None` if no words are
    /// needed.
    pub(super) fn words(
        &self,
        plan: &mut Plan,
        flags: &Flags,
        lines: &Lines<'a>,
        range: &Range<usize>,
        positive: Option<Tensor>,
        purpose: Purpose,
    ) -> Result<Option<wgpu::Buffer>> {
        let purpose = if lines.side.is_some() { purpose } else { Purpose::Tags };
        let is_prepared = !matches!(purpose, Purpose::Tags);
        if range.is_empty() || !(has_tags(flags) || is_prepared) {
            return Ok(None);
        }
        let scratch = plan.scratch(lines.words, range.len() * WORDS)?;
        let words = Tensor::<u32>::matrix(&scratch, range.len(), WORDS)?;
        let whole_range = self.of_lines(Extra { fresh: true, ..Extra::default() });
        if has_tags(flags) {
            let near = positive.filter(|_| lines.side.is_some());
            let squares = plan.scratch(lines.squares, if self.options.normalize { lines.vectors.rows } else { 0 })?;
            let squares: Option<Tensor> =
                self.options.normalize.then(|| Tensor::vector(&squares, lines.vectors.rows)).transpose()?;
            let args = [
                rows(lines.index, range),
                rows(lines.groups, range),
                rows(lines.ids, range),
                rows(lines.log_q, range),
                rows(near, range),
                rows(squares, range),
                Arg::by_row(words),
            ];
            let names = ["POSITIVE", "HAS_GROUP", "HAS_ID", "NEAR", "HAS_LOG_Q", "NORMALIZE"];
            plan.each_row(&TAG, [range.len(), 1], &args, &whole_range, &only(flags, &names))?;
        }
        let log_q = rows(self.batch.log_q, range);
        let log_scale = self.main().pairs.log_scale;
        match (purpose, lines.side) {
            (Purpose::Gradients(state, dy), Some(side)) => {
                let by_row = self.options.reduction.by_row();
                let dy = dy.map(|dy| if by_row { Arg::by_row(dy.row_range(range.clone())) } else { Arg::whole(dy) });
                let inverse = state.row_range(state.rows - 1..state.rows).col_range(0..1);
                let counts = self.batch.counts(self.options);
                let args = [
                    log_scale,
                    Arg::by_row(self.side(state, side).row_range(range.clone())),
                    log_q,
                    rows(self.batch.weight, range),
                    if counts { Arg::whole(inverse) } else { Arg::NONE },
                    dy.unwrap_or(Arg::NONE),
                    Arg::by_row(words),
                ];
                let scalars = self.of_lines(Extra { fresh: true, ..Extra::default() });
                plan.each_row(&WEIGH, [range.len(), 1], &args, &scalars, &self.flags)?;
            }
            (Purpose::Entropy(state), Some(side)) => {
                let args = [
                    log_scale,
                    Arg::by_row(self.side(state, side).row_range(range.clone())),
                    log_q,
                    Arg::by_row(words),
                ];
                plan.each_row(&LEVEL, [range.len(), 1], &args, &whole_range, &self.flags)?;
            }
            _ => {}
        }
        Ok(Some(scratch))
    }

    /// The words of a chunk's rows and columns.
    pub(super) fn chunk_words(
        &self,
        plan: &mut Plan,
        block: &Block<'a>,
        chunk: &Chunk,
        positive: Option<Tensor>,
        purpose: Purpose,
    ) -> Result<[Option<wgpu::Buffer>; 2]> {
        Ok([
            self.words(plan, &block.flags, &block.rows, &chunk.rows, positive, purpose)?,
            self.words(plan, &block.flags, &block.cols, &chunk.cols, positive, purpose)?,
        ])
    }

    /// c of the positives, [N, 1].
    pub(super) fn positives(&self, plan: &mut Plan, positive: Tensor) -> Result<()> {
        let block = self.main();
        for chunk in block.pairs.chunks(plan, 1.0)? {
            let by_index = self.batch.index().is_some();
            let needed = by_index || self.options.normalize;
            let words = match needed {
                true => self.chunk_words(plan, block, &chunk, None, Purpose::Tags)?,
                false => [None, None],
            };
            let [q, k, row_line, col_line] = lines_of(&chunk, &words)?;
            let args = [q, k, row_line, col_line, Arg::whole(positive)];
            let [across, down, _] = chunk.grid;
            let grid = [if by_index { across } else { 1 }, down, 1];
            let flags = only(&block.flags, &["POSITIVE", "NORMALIZE", "EXCLUDE_SELF"]);
            plan.tiles(&POSITIVES, &args, chunk.products(), &self.of_chunk(block, &chunk, false), &flags, grid)?;
        }
        Ok(())
    }

    /// Records and returns c of the positives if the passes need it beforehand.
    pub(super) fn near(&self, plan: &mut Plan) -> Result<Option<wgpu::Buffer>> {
        if !is_near(self.options) {
            return Ok(None);
        }
        let n = self.batch.q.rows;
        let scratch = plan.scratch(POSITIVE, n)?;
        let positive: Tensor = Tensor::vector(&scratch, n)?;
        if self.batch.index().is_some() {
            // Some queries have no positive.
            let none = self.of_lines(Extra { fresh: true, ..Extra::default() });
            plan.each_row(&CLEAR, [n, 1], &[Arg::by_row(positive)], &none, &[])?;
        }
        self.positives(plan, positive)?;
        Ok(Some(scratch))
    }

    /// How many numbers a pass over the pairs yields for each line.
    pub(super) fn width(&self, purpose: Purpose) -> usize {
        if self.batch.is_full(self.options) && matches!(purpose, Purpose::Tags) { 8 } else { 2 }
    }

    /// Records one chunk of a pass over the pairs: sums or log-sum-exps of its rows and columns, merged into `target`.
    /// `kept`: where c of each pair is stored.
    pub(super) fn pass_chunk(
        &self,
        plan: &mut Plan,
        block: &Block<'a>,
        chunk: &Chunk,
        pass: Pass,
        kept: Option<Arg>,
    ) -> Result<()> {
        let Pass { purpose, positive, target } = pass;
        let ([rows, cols], grid, width) = (chunk.shape(), chunk.grid, self.width(purpose));
        let words = self.chunk_words(plan, block, chunk, positive, purpose)?;
        let [row_side, col_side] = block.sides();
        let row_parts = plan.scratch(PARTS_OF_ROWS[usize::from(kept.is_some())], width * grid[0] * rows)?;
        let row_parts: Tensor = Tensor::matrix(&row_parts, grid[0] * rows, width)?;
        let col_parts = plan.scratch(COL_PARTS, if col_side.is_some() { width * grid[1] * cols } else { 0 })?;
        let col_parts = col_side.map(|_| Tensor::matrix(&col_parts, grid[1] * cols, width)).transpose()?;
        let [q, k, row_line, col_line] = lines_of(chunk, &words)?;
        let args = [
            q,
            k,
            block.pairs.log_scale,
            row_line,
            col_line,
            Arg::whole(row_parts),
            col_parts.map_or(Arg::NONE, Arg::whole),
            kept.unwrap_or(Arg::NONE),
        ];
        let is_entropy = matches!(purpose, Purpose::Entropy(_));
        let more = [("ENTROPY", is_entropy.into()), ("KEEP", kept.is_some().into())];
        let flags = [&block.flags[..], &more].concat();
        plan.tiles(&FORWARD, &args, chunk.products(), &self.of_chunk(block, chunk, false), &flags, grid)?;
        let seen = |side| self.comes_before(block, side);
        let merges = [
            (Some(row_parts), row_side, &chunk.rows, grid[0], chunk.is_first[0]),
            (col_parts, col_side, &chunk.cols, grid[1], chunk.is_first[1]),
        ];
        for (parts, side, range, count, is_first) in merges {
            let Some((source, side)) = parts.zip(side) else { continue };
            let target = self.side(target, side).row_range(range.clone());
            let form = Extra { parts: count, fresh: is_first && !seen(side) };
            let args = [Arg::whole(source), Arg::whole(target)];
            let flags = [("FULL", u32::from(self.batch.is_full(self.options))), more[0]];
            plan.lanes(&MERGE, &args, [target.rows, 1], &self.of_lines(form), &flags, 1)?;
        }
        Ok(())
    }

    /// Whether an earlier block already has lines of this side.
    fn comes_before(&self, block: &Block, side: Side) -> bool {
        let before = self.blocks.iter().take_while(|other| other.kind != block.kind);
        (side == Side::Queries && self.batch.each.is_some())
            || before.flat_map(Block::sides).any(|found| found == Some(side))
    }

    /// Records a pass over some blocks.
    pub(super) fn pass(&self, plan: &mut Plan, blocks: &[Block<'a>], pass: Pass) -> Result<()> {
        let [tile_rows, tile_cols] = plan.gpu().tuning().tile();
        let bytes = 4.0 * self.width(pass.purpose) as f64 / tile_rows.min(tile_cols) as f64;
        for block in blocks {
            for chunk in block.pairs.chunks(plan, bytes)? {
                self.pass_chunk(plan, block, &chunk, pass, None)?;
            }
        }
        Ok(())
    }

    /// Writes what each line adds to the loss to `value`: one column, and a second with the weights of the rows that
    /// count.
    pub(super) fn losses(&self, plan: &mut Plan, state: Tensor, value: Tensor) -> Result<()> {
        for side in self.sides() {
            let args = [
                self.main().pairs.log_scale,
                Arg::by_row(self.side(state, side)),
                self.batch.log_q.map_or(Arg::NONE, Arg::by_row),
                self.batch.weight.map_or(Arg::NONE, Arg::by_row),
                Arg::by_row(value),
            ];
            let form = Extra { fresh: side == Side::Queries, ..Extra::default() };
            plan.each_row(&LINE_LOSS, [self.batch.q.rows, 1], &args, &self.of_lines(form), &self.flags)?;
        }
        Ok(())
    }
}

/// Scratch for the row results of tiles: slot 2 while slot 0 holds g of [`Pairs::walk`].
const PARTS_OF_ROWS: [usize; 2] = [PARTS, 2];

/// The flags with these names. A kernel is built once per set of flags, so it gets only the flags that it depends on.
pub(super) fn only(flags: &[(&'static str, u32)], names: &[&str]) -> Vec<(&'static str, u32)> {
    flags.iter().copied().filter(|(name, _)| names.contains(name)).collect()
}

pub(super) fn flags(batch: &Batch, options: Options, kind: Kind, cols: &Lines) -> Flags {
    let main = kind == Kind::Main;
    let positive = match batch.positive {
        _ if !main => 3,
        Positive::Own => 0,
        Positive::Index(_) => 1,
        Positive::Groups(..) => 2,
    };
    let own = matches!(kind, Kind::Queries | Kind::Keys) || (main && options.exclude_self);
    let flag = |name, set: bool| (name, u32::from(set));
    [
        flag("SYMMETRIC", main && options.symmetric),
        ("POSITIVE", positive),
        flag("EXCLUDE_SELF", own),
        flag("HAS_GROUP", batch.groups().is_some() && cols.groups.is_some()),
        flag("HAS_ID", batch.ids.is_some() && cols.ids.is_some()),
        flag("NEAR", is_near(options)),
        flag("IN_BATCH", !main || options.in_batch),
        flag("NORMALIZE", options.normalize),
        flag("HAS_LOG_Q", cols.log_q.is_some()),
        flag("HARD", options.hardness != 0.0),
        flag("FULL", batch.is_full(options)),
    ]
}

/// Some rows of a tensor.
pub(super) fn rows<'a, T: Element>(tensor: Option<Tensor<'a, T>>, range: &Range<usize>) -> Arg<'a> {
    tensor.map_or(Arg::NONE, |tensor| Arg::by_row(tensor.row_range(range.clone())))
}

/// The vectors and words of a chunk as the arguments of tile kernels: q, k, row_line, col_line.
pub(super) fn lines_of<'a>(chunk: &Chunk<'a>, [rows, cols]: &'a [Option<wgpu::Buffer>; 2]) -> Result<[Arg<'a>; 4]> {
    let [row_line, col_line] = [words_of(rows, chunk.rows.len())?, words_of(cols, chunk.cols.len())?];
    Ok([Arg::whole(chunk.q), Arg::whole(chunk.k), row_line, col_line])
}

pub(super) fn words_of(buffer: &Option<wgpu::Buffer>, rows: usize) -> Result<Arg<'_>> {
    buffer.as_ref().map_or(Ok(Arg::NONE), |buffer| Ok(Arg::whole(Tensor::<u32>::matrix(buffer, rows, WORDS)?)))
}
