use super::blocks::{Call, Extra, Pass, Purpose};
use super::{Batch, LINE_VALUES, OP, Options};
use crate::ops::{disjoint, linear, named, shaped};
use crate::plan::Arg;
use crate::{Recorder, Result, Tensor};

/// Scratch: loss, log-sum-exp and hit of each line; then the entropies. A line is a row or a column of the score
/// matrix.
const OF_LINES: usize = 16;

/// Outputs of [`values`]: one value per query and then, if symmetric, one per key: [N, 1] or [2 N, 1]. Absent: not
/// computed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Values<'a> {
    /// The loss of the line in its own direction, neither weighted nor halved.
    pub loss: Option<Tensor<'a>>,
    /// The log-sum-exp of all scores of the line, positives included. Negatives count as [`Options::hardness`] says. −∞
    /// for a line that is compared with nothing.
    pub lse: Option<Tensor<'a>>,
    /// 1 if the line has a positive and no negative scores above the best positive, else 0; the mean is the accuracy.
    /// The scores are those that the loss compares, including [`Options::margin`] and [`Options::hardness`].
    pub correct: Option<Tensor<'a>>,
    /// The entropy −Σ p ln p over all scores of the line, with p = e^(s − lse). Work: U more, U as in the
    /// [module](crate::info_nce)'s description.
    pub entropy: Option<Tensor<'a>>,
}

/// Loss, log-sum-exp, hit and entropy of each line (row or column of the score matrix), from the `state` that
/// [`forward`](super::forward) left.
///
/// # Errors
/// As [`forward`](super::forward).
pub fn values(recorder: &mut Recorder, batch: Batch, state: Tensor, values: Values, options: Options) -> Result<()> {
    let call = Call::new(batch, state, options)?;
    let lines = batch.lines(options);
    let Values { loss, lse, correct, entropy } = values;
    let outputs = [named("loss", loss), named("lse", lse), named("correct", correct), named("entropy", entropy)];
    for (what, output) in outputs {
        output.map_or(Ok(()), |output| shaped(OP, what, output, [lines, 1]))?;
    }
    disjoint(OP, &outputs, &[&batch.named()[..], &[named("state", state)]].concat())?;
    recorder.plan(|plan| {
        let scratch = plan.scratch(OF_LINES, 3 * lines)?;
        let of_lines: Tensor = Tensor::matrix(&scratch, lines, 3)?;
        for side in call.sides() {
            let args = [
                call.main().pairs.log_scale,
                Arg::by_row(call.side(state, side)),
                batch.log_q.map_or(Arg::NONE, Arg::by_row),
                Arg::by_row(call.side(of_lines, side)),
            ];
            let scalars = call.of_lines(Extra::default());
            plan.each_row(&LINE_VALUES, [batch.q.rows, 1], &args, &scalars, &call.flags)?;
        }
        for (column, output) in [loss, lse, correct].into_iter().enumerate() {
            if let Some(output) = output {
                linear::add_slices(plan, of_lines.col_range(column..column + 1), 1, output, false)?;
            }
        }
        let Some(entropy) = entropy else { return Ok(()) };
        call.squares(plan)?;
        let near = call.near(plan)?;
        let positive = near.as_ref().map(|near| Tensor::vector(near, batch.q.rows)).transpose()?;
        let target: Tensor = Tensor::matrix(&scratch, lines, 2)?;
        let pass = Pass { purpose: Purpose::Entropy(state), positive, target };
        call.each_forward(plan, pass)?;
        call.pass(plan, &call.blocks, pass)?;
        linear::add_slices(plan, target.col_range(0..1), 1, entropy, false)
    })
}
