//! Scores of each query with its own keys.
use super::{Real, dot};

/// The scores `[N, K]` of queries `[N, dim]` and keys `[N·K, dim]`.
pub fn forward<F: Real>(q: &[F], k: &[F], dim: usize) -> Vec<F> {
    let per = k.len() / q.len().max(1);
    k.chunks(dim).enumerate().map(|(row, k)| dot(&q[row / per.max(1) * dim..][..dim], k)).collect()
}

/// The gradients of queries and keys, for the gradient `ds` `[N, K]` of the scores.
pub fn backward<F: Real>(q: &[F], k: &[F], ds: &[F], dim: usize) -> [Vec<F>; 2] {
    let per = k.len() / q.len().max(1);
    let (mut dq, mut dk) = (vec![F::zero(); q.len()], Vec::with_capacity(k.len()));
    for (row, (k, &ds)) in k.chunks(dim).zip(ds).enumerate() {
        let at = row / per.max(1) * dim;
        dk.extend(q[at..at + dim].iter().map(|&q| ds * q));
        dq[at..at + dim].iter_mut().zip(k).for_each(|(sum, &k)| *sum = *sum + ds * k);
    }
    [dq, dk]
}
