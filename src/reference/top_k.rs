//! The keys with the largest inner products.
use super::{Real, dot};

/// For each query the ids and scores of the `count` best keys that are not in its list. Vectors have `dim` elements.
/// `u32::MAX` and −∞ where there are no more keys.
pub fn forward<F: Real>(q: &[F], k: &[F], dim: usize, lists: &[&[u32]], count: usize) -> (Vec<u32>, Vec<F>) {
    let (mut ids, mut scores) = (Vec::new(), Vec::new());
    for (q, list) in q.chunks(dim).zip(lists) {
        let scored = k.chunks(dim).enumerate().map(|(id, k)| (id as u32, dot(q, k)));
        let mut all: Vec<(u32, F)> = scored.filter(|(id, score)| !score.is_nan() && !list.contains(id)).collect();
        all.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap_or(core::cmp::Ordering::Equal).then(a.0.cmp(&b.0)));
        all.resize(count, (u32::MAX, F::neg_infinity()));
        ids.extend(all.iter().map(|(id, _)| id));
        scores.extend(all.iter().map(|(_, score)| score));
    }
    (ids, scores)
}
