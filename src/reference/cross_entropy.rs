//! loss_i = −ln p_i(t_i).
use super::{Real, factor, minus_log_p, p_minus_own, reduce};
use crate::cross_entropy::Options;

fn counted(ids: &[u32], options: Options) -> usize {
    ids.iter().filter(|&&id| id != options.ignore).count()
}

/// The loss of the rows of logits `x`, `classes` elements each: one number, or one per row without reduction.
pub fn forward<F: Real>(x: &[F], classes: usize, ids: &[u32], options: Options) -> Vec<F> {
    let losses = x.chunks(classes).zip(ids).map(|(x, &id)| match id {
        _ if id == options.ignore => F::zero(),
        _ if id as usize >= classes => F::nan(),
        _ => minus_log_p(x, id as usize),
    });
    reduce(losses.collect(), counted(ids, options), options.reduction)
}

/// dx; `dy` is the gradient of the loss, empty for ones.
pub fn backward<F: Real>(x: &[F], classes: usize, ids: &[u32], dy: &[F], options: Options) -> Vec<F> {
    let count = counted(ids, options);
    let rows = x.chunks(classes).zip(ids).enumerate();
    rows.flat_map(|(row, (x, &id))| {
        let weight = match id {
            _ if id == options.ignore => None,
            _ if id as usize >= classes => Some(F::nan()),
            _ => Some(factor(dy, row, count, options.reduction)),
        };
        p_minus_own(x, id as usize).into_iter().map(move |g| weight.map_or(F::zero(), |weight| weight * g))
    })
    .collect()
}
