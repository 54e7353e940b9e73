use super::blocks::{Call, Extra, POSITIVE};
use super::{Batch, CLEAR, COUNT_RANKS, OP, Options};
use crate::ops::pairs::{Form, Pairs};
use crate::ops::{Reduction, disjoint, named, shaped};
use crate::recorder::Arg;
use crate::{Recorder, Result, Tensor};

/// `rank` [N, 1]: how many keys come before a query's own, 0 for a hit; recall@K is the share of ranks below K.
/// A key comes before if it scores higher, or as high and has the smaller number. A query whose own score is NaN ranks last.
///
/// # Errors
/// As [`forward`](super::forward).
pub fn rank(recorder: &mut Recorder, q: Tensor, k: Tensor, rank: Tensor<u32>) -> Result<()> {
    let options = Options { temperature: 1.0, ..Options::default() };
    let form = Form { temperature: 1.0, max_scale: 1.0, reduction: Reduction::Sum, own: true };
    let (batch, pairs) = (Batch::new(q, k), Pairs::new(OP, q, k, None, form)?);
    let call = Call::of(batch, pairs, options)?;
    let n = q.rows;
    shaped(OP, "rank", rank, [n, 1])?;
    disjoint(OP, &[named("rank", rank)], &[named("q", q), named("k", k)])?;
    recorder.plan(|plan| {
        let positive = plan.scratch(POSITIVE, n)?;
        let positive: Tensor = Tensor::vector(&positive, n)?;
        call.positives(plan, positive)?;
        plan.each_row(&CLEAR, [n, 1], &[Arg::by_row(rank)], &call.of_lines(Extra::default()), &[])?;
        for chunk in call.main().pairs.chunks(plan, 1.0)? {
            let args = [Arg::whole(chunk.q), Arg::whole(chunk.k), Arg::whole(positive), Arg::whole(rank)];
            let scalars = call.of_chunk(call.main(), &chunk, false);
            plan.tiles(&COUNT_RANKS, &args, chunk.products(), &scalars, &[], chunk.grid)?;
        }
        Ok(())
    })
}
