//! Queries with negatives of their own: inner products row by row instead of tiles.

use core::ops::Range;

use super::blocks::{
    COL_LINES, Call, Extra, Flags, Kind, Lines, Pass, Purpose, SQUARES_OF_EACH, Side, WORDS, flags, words_of,
};
use super::{EACH_BACKWARD, EACH_FORWARD, Gradients, Negatives, OP};
use crate::ops::dot::{self, Sums};
use crate::ops::linear::{self, in_f32, rounded, sum_of};
use crate::ops::{Accum, total};
use crate::plan::{Arg, Plan};
use crate::{Error, Result, Storage, Tensor};

/// Scratch: products; g; each vector's factor in its own gradient (`normalize`); per query the sum for d_log_scale and
/// ⟨query, gradient⟩.
const DOT: usize = 15;
const G: usize = 16;
const ALONG: usize = 17;
const SUMS: usize = 18;
/// Scratch: f32 sum of a 16-bit gradient.
const WIDE_EACH: usize = 23;
/// Workspace numbers budgeted per vector: its words then take a quarter of the workspace, which leaves room for its
/// product and its gradient.
const NUMBERS: usize = 4 * WORDS;

/// Some queries, and their own negatives.
struct Part<'a> {
    rows: Range<usize>,
    own: Range<usize>,
    q: Tensor<'a>,
    k: Tensor<'a>,
    per: usize,
}

impl<'a> Call<'a> {
    /// The queries in parts. `numbers`: how many numbers of the workspace each negative of a part takes.
    fn parts(&self, plan: &Plan, numbers: usize) -> Result<Vec<Part<'a>>> {
        let (Some(each), q) = (self.batch.each, self.batch.q) else { return Ok(Vec::new()) };
        let per = self.batch.per_query();
        let at_once = (plan.gpu().tuning().workspace as usize / 4 / numbers)
            .max(per) // one query's at least
            .min((plan.rows_per_binding(each.k) as usize / 2).max(1)) // gradients may take twice the bytes
            .checked_div(per)
            .unwrap_or(usize::MAX)
            .min(plan.rows_per_binding(q) as usize);
        if at_once == 0 && q.rows > 0 {
            let needed = (per * each.k.cols) as u64 * 4;
            let limit = plan.gpu().limits().max_storage_buffer_binding_size;
            return Err(Error::Limit {
                what: format!("{OP}: one query's own negatives"),
                needed,
                unit: "bytes",
                limit,
            });
        }
        let part = |rows: Range<usize>| {
            let own = rows.start * per..rows.end * per;
            Part { q: q.row_range(rows.clone()), k: each.k.row_range(own.clone()), rows, own, per }
        };
        Ok(linear::chunks(q.rows, at_once).map(part).collect())
    }

    fn own_lines(&self, each: Negatives<'a>) -> (Lines<'a>, Flags) {
        let lines = Lines {
            vectors: each.k,
            index: None,
            groups: None,
            ids: each.ids,
            log_q: each.log_q,
            side: None,
            squares: SQUARES_OF_EACH,
            words: COL_LINES,
        };
        (lines, flags(&self.batch, self.options, Kind::Shared, &lines))
    }

    /// Calls `record` for each part with the words of its queries, the words of their own negatives, and their
    /// products.
    fn each_part(
        &self,
        plan: &mut Plan,
        positive: Option<Tensor>,
        purpose: Purpose,
        numbers: usize,
        mut record: impl FnMut(&mut Plan, &Part<'a>, [Arg; 3], &Flags) -> Result<()>,
    ) -> Result<()> {
        let Some(each) = self.batch.each.filter(|each| each.k.rows > 0) else { return Ok(()) };
        let (lines, flags) = self.own_lines(each);
        if self.options.normalize {
            self.squares_of(plan, each.k, SQUARES_OF_EACH)?;
        }
        for part in self.parts(plan, numbers)? {
            let queries = self.main().rows;
            let row_words = self.words(plan, &flags, &queries, &part.rows, positive, purpose)?;
            let own_words = self.words(plan, &flags, &lines, &part.own, None, Purpose::Tags)?;
            let dot = plan.scratch(DOT, part.own.len())?;
            let dot: Tensor = Tensor::matrix(&dot, part.rows.len(), part.per)?;
            dot::scores(plan, part.q, part.k, dot)?;
            let words = [words_of(&row_words, part.rows.len())?, words_of(&own_words, part.own.len())?];
            record(plan, &part, [words[0], words[1], Arg::whole(dot)], &flags)?;
        }
        Ok(())
    }

    /// Begins the queries' lines in `target` with the queries' own negatives.
    pub(super) fn each_forward(&self, plan: &mut Plan, pass: Pass) -> Result<()> {
        let Pass { purpose, positive, target } = pass;
        let is_entropy = matches!(purpose, Purpose::Entropy(_));
        self.each_part(plan, positive, purpose, NUMBERS, |plan, part, [row_words, own_words, dot], flags| {
            let target = self.side(target, Side::Queries).row_range(part.rows.clone());
            let args = [self.main().pairs.log_scale, row_words, own_words, dot, Arg::whole(target)];
            let flags = [&flags[..], &[("ENTROPY", is_entropy.into())]].concat();
            let scalars = self.of_lines(Extra::default());
            plan.each_row(&EACH_FORWARD, [part.rows.len(), part.per], &args, &scalars, &flags)
        })
    }

    /// Adds the parts of the gradients that come from the queries' own negatives.
    pub(super) fn each_backward(
        &self,
        plan: &mut Plan,
        positive: Option<Tensor>,
        purpose: Purpose,
        gradients: Gradients,
    ) -> Result<()> {
        let along = self.options.normalize;
        let rounds = along && gradients.d_each.is_some_and(|d_each| d_each.storage != Storage::F32);
        let numbers = if rounds { NUMBERS.max(self.batch.q.cols) } else { NUMBERS };
        self.each_part(plan, positive, purpose, numbers, |plan, part, [row_words, own_words, dot], flags| {
            let (n, per) = (part.rows.len(), part.per);
            let (g, own_along) = (plan.scratch(G, n * per)?, plan.scratch(ALONG, if along { n * per } else { 0 })?);
            let sums = plan.scratch(SUMS, 2 * n)?;
            let (g, sums): (Tensor, Tensor) = (Tensor::matrix(&g, n, per)?, Tensor::matrix(&sums, n, 2)?);
            let own_along: Option<Tensor> = along.then(|| Tensor::matrix(&own_along, n, per)).transpose()?;
            let along_arg = own_along.map_or(Arg::NONE, Arg::whole);
            let args =
                [self.main().pairs.log_scale, row_words, own_words, dot, Arg::whole(g), along_arg, Arg::whole(sums)];
            let scalars = self.of_lines(Extra::default());
            plan.each_row(&EACH_BACKWARD, [n, per], &args, &scalars, flags)?;
            if let Some(sum) = gradients.d_log_scale {
                total::accumulated(plan, sums.col_range(0..1), sum, 1.0, Accum::Add)?;
            }
            if let Some(dq) = gradients.dq {
                let dq = dq.row_range(part.rows.clone());
                dot::weigh(plan, g, part.k, dq, Sums { per: 1, terms: per, fresh: false })?;
                self.project(plan, sums, [part.q, dq], self.main().rows.squares, &part.rows)?;
            }
            if let Some(d_each) = gradients.d_each {
                let d_each = d_each.row_range(part.own.clone());
                let add = self.options.accum == Accum::Add;
                let wide = in_f32(plan, WIDE_EACH, Some(d_each), along)?;
                let (sum, to_it) = sum_of(&wide, d_each, add)?;
                dot::weigh(plan, g, part.q, sum, Sums { per, terms: 1, fresh: !to_it })?;
                if let Some(own_along) = own_along {
                    let coef = own_along.reshaped(n * per, 1, 0);
                    dot::weigh(plan, coef, part.k, sum, Sums { per: 1, terms: 1, fresh: false })?;
                }
                rounded(plan, &wide, Some(d_each), add)?;
            }
            Ok(())
        })
    }
}
