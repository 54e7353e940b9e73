//! How high pairs score that do not belong together.
use super::{Real, dot};

/// Σ max(0, s_ij − r_ij) and Σ r_ij s_ij, where s_ij = ⟨q_i, k_j⟩, and r_ij is 1 if the blocks of i and j are equal,
/// else 0.
pub fn forward<F: Real>(q: &[F], k: &[F], dim: usize, q_block: &[u32], k_block: &[u32]) -> [F; 2] {
    let (mut above, mut within) = (F::zero(), F::zero());
    for (q, block) in q.chunks(dim.max(1)).zip(q_block) {
        for (k, other) in k.chunks(dim.max(1)).zip(k_block) {
            let score = dot(q, k);
            let over = score - if block == other { F::one() } else { F::zero() };
            above = above + if over < F::zero() { F::zero() } else { over };
            within = within + if block == other { score } else { F::zero() };
        }
    }
    [above, within]
}
