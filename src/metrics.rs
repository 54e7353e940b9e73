//! Metrics of recommendations and embeddings, in f64.
//!
//! Recommended ids are rows of K, best first, as [`top_k`](crate::top_k) returns them; u32::MAX means no id. Means are
//! over the rows with a non-empty truth. A mean over no rows is 0.

use crate::reference;
#[cfg(not(target_arch = "wasm32"))]
use crate::{Gpu, Reduction, Result, Tensor, info_nce, ops::rows_of};

/// The mean of `of`(ids, truth) over rows of `k` ids with a non-empty truth; 0 for `k` = 0.
fn mean(ids: &[u32], k: usize, truth: &[&[u32]], of: impl Fn(&[u32], &[u32]) -> f64) -> f64 {
    if k == 0 {
        return 0.0;
    }
    let (sum, count) = ids
        .chunks(k)
        .zip(truth.iter().copied())
        .filter(|(_, truth)| !truth.is_empty())
        .fold((0.0, 0.0), |(sum, count), (ids, truth)| (sum + of(ids, truth), count + 1.0));
    if count == 0.0 { 0.0 } else { sum / count }
}

/// Recall@K: the mean of hits/min(K, |truth|). `truth` holds the relevant ids of each row, `ids` holds K ids per row.
///
/// ```
/// // Two users: one of two relevant items found, and the only one.
/// let recall = wgloss::metrics::recall(&[5, 1, 7, 2], 2, &[&[1, 9], &[7]]);
/// assert_eq!(recall, (0.5 + 1.0) / 2.0);
/// ```
pub fn recall(ids: &[u32], k: usize, truth: &[&[u32]]) -> f64 {
    mean(ids, k, truth, |ids, truth| {
        ids.iter().filter(|id| truth.contains(id)).count() as f64 / truth.len().min(k) as f64
    })
}

/// NDCG@K with relevance 0 or 1: Σ over hits of 1/log₂(place + 1), with places from 1, divided by the largest possible
/// value of this sum.
///
/// Source: Järvelin and Kekäläinen 2002, doi:10.1145/582415.582418.
///
/// ```
/// let ndcg = wgloss::metrics::ndcg(&[5, 1], 2, &[&[1]]);
/// assert!((ndcg - 1.0 / 3f64.log2()).abs() < 1e-12);
/// ```
pub fn ndcg(ids: &[u32], k: usize, truth: &[&[u32]]) -> f64 {
    let gain = |place: usize| 1.0 / (place as f64 + 2.0).log2();
    mean(ids, k, truth, |ids, truth| {
        let found: f64 = (0..ids.len()).filter(|&place| truth.contains(&ids[place])).map(gain).sum();
        found / (0..truth.len().min(k)).map(gain).sum::<f64>()
    })
}

/// Spurious@K: the share of recommended items that are of another block than their user, and the share of users with at
/// least one such item. `user_blocks` and `item_blocks` hold the block of each user and item.
///
/// ```
/// let [share, any] = wgloss::metrics::spurious(&[0, 1, 1, u32::MAX], 2, &[0, 1], &[0, 1]);
/// assert_eq!([share, any], [1.0 / 3.0, 0.5]);
/// ```
pub fn spurious(ids: &[u32], k: usize, user_blocks: &[u32], item_blocks: &[u32]) -> [f64; 2] {
    let (mut all, mut wrong, mut any) = (0.0, 0.0, 0.0);
    for (ids, block) in ids.chunks(k.max(1)).zip(user_blocks) {
        let of: Vec<&u32> = ids.iter().filter_map(|&id| item_blocks.get(id as usize)).collect();
        let foreign = of.iter().filter(|of| **of != block).count() as f64;
        all += of.len() as f64;
        wrong += foreign;
        any += f64::from(u8::from(foreign > 0.0));
    }
    [wrong / f64::max(all, 1.0), any / (user_blocks.len() as f64).max(1.0)]
}

/// How high unrelated users and items score: see [`folding`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Folding {
    /// 1/(MN) Σ max(0, s_ij − r_ij), where r is 1 within a block, else 0.
    pub score: f64,
    /// The mean of s_ij within blocks. `score` shrinks with the scores themselves, so compare the two.
    pub within: f64,
}

impl Folding {
    /// From Σ max(0, s_ij − r_ij) and Σ r_ij s_ij.
    pub(crate) fn of([above, within]: [f64; 2], user_blocks: &[u32], item_blocks: &[u32]) -> Folding {
        let mut sizes = std::collections::HashMap::<u32, f64>::new();
        item_blocks.iter().for_each(|&block| *sizes.entry(block).or_default() += 1.0);
        let pairs_within: f64 = user_blocks.iter().filter_map(|block| sizes.get(block)).sum();
        let pairs = user_blocks.len() as f64 * item_blocks.len() as f64;
        Folding { score: above / pairs.max(1.0), within: within / pairs_within.max(1.0) }
    }
}

/// The folding of scores ⟨u_i, v_j⟩ of users and items, rows of `dim` numbers; pairs within a block are related.
///
/// Work: N·M·D on the host, in f64. On a device: [`folding`](crate::folding::compute).
///
/// Source: Xin, Mayoraz, Pham, Lakshmanan and Anderson, Folding: why good models sometimes make spurious recommendations, RecSys 2017.
///
/// ```
/// let folding = wgloss::metrics::folding(&[1.0, 0.0], &[2.0, 5.0, 0.5, 7.0], 2, &[0], &[0, 1]);
/// assert_eq!((folding.score, folding.within), ((1.0 + 0.5) / 2.0, 2.0));
/// ```
pub fn folding(users: &[f32], items: &[f32], dim: usize, user_blocks: &[u32], item_blocks: &[u32]) -> Folding {
    let wide = |x: &[f32]| -> Vec<f64> { x.iter().map(|&x| x.into()).collect() };
    let sums = reference::folding::forward(&wide(users), &wide(items), dim, user_blocks, item_blocks);
    Folding::of(sums, user_blocks, item_blocks)
}

/// Alignment: the mean of |x_i − y_i|² over pairs of rows of unit length.
///
/// Source: Wang and Isola 2020, arXiv:2005.10242, section 4.1.
///
/// ```
/// assert_eq!(wgloss::metrics::alignment(&[1.0, 0.0, 0.0, 1.0], &[1.0, 0.0, 1.0, 0.0], 2), 1.0);
/// ```
pub fn alignment(x: &[f32], y: &[f32], dim: usize) -> f64 {
    let squares = x.iter().zip(y).map(|(&x, &y)| (f64::from(x) - f64::from(y)).powi(2));
    squares.sum::<f64>() / (x.len() as f64 / dim.max(1) as f64).max(1.0)
}

/// Uniformity: ln of the mean of e^(−2 |x_i − x_j|²) over i ≠ j, for rows of unit length. The lower, the more evenly
/// the rows are spread; 0 for fewer than two rows. Work: N²·D on the host, in f64.
///
/// Source: Wang and Isola 2020, arXiv:2005.10242, section 4.1.
///
/// ```
/// let opposite = wgloss::metrics::uniformity(&[1.0, 0.0, -1.0, 0.0], 2);
/// assert_eq!(opposite, -8.0);
/// ```
pub fn uniformity(x: &[f32], dim: usize) -> f64 {
    let rows: Vec<&[f32]> = x.chunks(dim.max(1)).collect();
    let mut sum = 0.0;
    for (i, a) in rows.iter().enumerate() {
        for b in &rows[..i] {
            let square: f64 = a.iter().zip(*b).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum();
            sum += (-2.0 * square).exp();
        }
    }
    let pairs = rows.len() * rows.len().saturating_sub(1) / 2;
    if pairs == 0 { 0.0 } else { (sum / pairs as f64).ln() }
}

/// [`uniformity`], with its N² products on a device in f32.
///
/// ```
/// # let Ok(gpu) = wgloss::Gpu::new() else { return };
/// let uniformity = wgloss::metrics::uniformity_on(&gpu, &[1.0, 0.0, -1.0, 0.0], 2).unwrap();
/// assert!((uniformity + 8.0).abs() < 1e-5);
/// ```
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) if `x` does not have whole rows; any error of the device.
#[cfg(not(target_arch = "wasm32"))]
pub fn uniformity_on(gpu: &Gpu, x: &[f32], dim: usize) -> Result<f64> {
    let n = rows_of("uniformity", "x", x, dim)?;
    if n < 2 {
        return Ok(0.0);
    }
    // -2 |a - b|^2 = 4 <a, b> - 2 |a|^2 - 2 |b|^2: scores at temperature 1/4, minus a number per key and a number per
    // query.
    let options =
        info_nce::Options { temperature: 0.25, exclude_self: true, reduction: Reduction::None, ..Default::default() };
    let squares: Vec<f64> = x.chunks(dim).map(|row| row.iter().map(|&x| 2.0 * f64::from(x).powi(2)).sum()).collect();
    let of_keys: Vec<f32> = squares.iter().map(|&square| square as f32).collect();
    let (x, of_keys, none) = (gpu.upload(x)?, gpu.upload(&of_keys)?, gpu.upload(&vec![u32::MAX; n])?);
    let (x, lse, loss) = (Tensor::matrix(&x, n, dim)?, gpu.zeros::<f32>(n)?, gpu.zeros::<f32>(n)?);
    let batch = info_nce::Batch {
        positive: info_nce::Positive::Index(Tensor::vector(&none, n)?),
        log_q: Some(Tensor::vector(&of_keys, n)?),
        ..info_nce::Batch::new(x, x)
    };
    let [lines, columns] = batch.state_shape(options);
    let state = gpu.zeros::<f32>(lines * columns)?;
    let (state, lse, loss) =
        (Tensor::matrix(&state, lines, columns)?, Tensor::vector(&lse, n)?, Tensor::vector(&loss, n)?);
    gpu.run(|recorder| {
        info_nce::forward(recorder, batch, loss, state, info_nce::Gradients::default(), options)?;
        info_nce::values(recorder, batch, state, info_nce::Values { lse: Some(lse), ..Default::default() }, options)
    })?;
    let logs: Vec<f64> = gpu.read(lse)?.iter().zip(&squares).map(|(&lse, square)| f64::from(lse) - square).collect();
    let most = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logs.iter().map(|log| (log - most).exp()).sum();
    Ok(most + sum.ln() - (n as f64 * (n - 1) as f64).ln())
}
