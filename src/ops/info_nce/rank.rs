use super::batch::column;
use super::blocks::{Call, Extra, POSITIVE, Purpose, lines_of, only};
use super::{Batch, CLEAR, COUNT_RANKS, OP, Options};
use crate::ops::pairs::{Form, Pairs};
use crate::ops::{Reduction, disjoint, named, shaped};
use crate::plan::Arg;
use crate::{Recorder, Result, Tensor};

/// `rank` [N, 1]: the number of keys that come before a query's own key.
///
/// Key i is query i's own. Rank 0 is a hit; recall@K is the share of ranks below K. A key comes before the own key if
/// its score is higher or NaN, or if the scores are equal and its index is smaller. A query whose own score is NaN
/// ranks last. With `ids` of the queries [N, 1] and of the keys [M, 1], other keys with the query's id are left out
/// (filtered ranking).
///
/// # Errors
/// As [`forward`](super::forward).
pub fn rank(
    recorder: &mut Recorder,
    q: Tensor,
    k: Tensor,
    ids: Option<(Tensor<u32>, Tensor<u32>)>,
    rank: Tensor<u32>,
) -> Result<()> {
    let options = Options { temperature: 1.0, ..Options::default() };
    let form = Form { temperature: 1.0, max_scale: 1.0, reduction: Reduction::Sum, own: true };
    let (batch, pairs) = (Batch { ids, ..Batch::new(q, k) }, Pairs::new(OP, q, k, None, form)?);
    let call = Call::of(batch, pairs, options)?;
    let n = q.rows;
    shaped(OP, "rank", rank, [n, 1])?;
    let [of_q, of_k] = [ids.map(|(of_q, _)| of_q), ids.map(|(_, of_k)| of_k)];
    column("ids", of_q, n)?;
    column("ids", of_k, k.rows)?;
    let inputs = [named("q", q), named("k", k), named("ids of q", of_q), named("ids of k", of_k)];
    disjoint(OP, &[named("rank", rank)], &inputs)?;
    recorder.plan(|plan| {
        let positive = plan.scratch(POSITIVE, n)?;
        let positive: Tensor = Tensor::vector(&positive, n)?;
        call.positives(plan, positive)?;
        plan.each_row(&CLEAR, [n, 1], &[Arg::by_row(rank)], &call.of_lines(Extra::default()), &[])?;
        let block = call.main();
        for chunk in block.pairs.chunks(plan, 1.0)? {
            let words = call.chunk_words(plan, block, &chunk, None, Purpose::Tags)?;
            let [q, k, row_line, col_line] = lines_of(&chunk, &words)?;
            let args = [q, k, row_line, col_line, Arg::whole(positive), Arg::whole(rank)];
            let scalars = call.of_chunk(block, &chunk, false);
            plan.tiles(&COUNT_RANKS, &args, chunk.products(), &scalars, &only(&block.flags, &["HAS_ID"]), chunk.grid)?;
        }
        Ok(())
    })
}
