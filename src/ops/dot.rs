//! Scores of each query with its own keys, s_ij = ⟨q_i, k_(iK+j)⟩: the input of a loss over sampled keys.
//!
//! Each query has K keys. With [`bce`](crate::bce) and targets 1 for a query's positive and 0 for its other keys, the
//! loss is skip-gram with negative sampling. With [`cross_entropy`](crate::cross_entropy) and the positive's column as
//! the class id, it is sampled softmax; [`info_nce`](crate::info_nce) has more options for that. Source: Mikolov et al.
//! 2013, arXiv:1310.4546.
//!
//! ```
//! # fn main() -> wgloss::Result<()> {
//! # let Ok(gpu) = wgloss::Gpu::new() else { return Ok(()) };
//! use wgloss::{Accum, Reduction, Tensor, bce, dot};
//! let (n, count, dim) = (2, 3, 2); // two queries, each with a positive and two negatives
//! let (queries, keys) = (gpu.upload(&[1.0f32, 0.0, 0.0, 1.0])?, gpu.upload(&[2.0f32, 0.0, -1.0, 3.0, 0.0, 0.0, 5.0, 1.0, 0.0, -1.0, 1.0, 1.0])?);
//! let (scores, targets) = (gpu.zeros::<f32>(n * count)?, gpu.upload(&[1.0f32, 0.0, 0.0, 1.0, 0.0, 0.0])?);
//! let [d_scores, d_queries, d_keys] = [n * count, n * dim, n * count * dim].map(|len| gpu.zeros::<f32>(len));
//! let (d_scores, d_queries, d_keys, loss) = (d_scores?, d_queries?, d_keys?, gpu.zeros::<f32>(1)?);
//! let (q, k) = (Tensor::matrix(&queries, n, dim)?, Tensor::matrix(&keys, n * count, dim)?);
//! let (s, ds) = (Tensor::matrix(&scores, n, count)?, Tensor::matrix(&d_scores, n, count)?);
//! let (dq, dk) = (Tensor::matrix(&d_queries, n, dim)?, Tensor::matrix(&d_keys, n * count, dim)?);
//! gpu.run(|recorder| {
//!     dot::forward(recorder, q, k, s)?;
//!     let inputs = bce::Inputs { x: s, t: Tensor::matrix(&targets, n, count)?, weight: None, pos_weight: None };
//!     let options = bce::Options { reduction: Reduction::Sum, ..Default::default() };
//!     bce::forward(recorder, inputs, Tensor::scalar(&loss, 0)?, Some(ds), options)?;
//!     dot::backward(recorder, q, k, ds, Some(dq), Some(dk), Accum::Write)
//! })?;
//! assert_eq!(gpu.read(s)?, [2.0, -1.0, 0.0, 1.0, -1.0, 1.0]);
//! let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
//! let want = (sigmoid(2.0) - 1.0) * 2.0 - sigmoid(-1.0); // of the first query's first coordinate
//! assert!((gpu.read(dq)?[0] - want).abs() < 1e-6);
//! # Ok(()) }
//! ```

use core::ops::Range;

use super::linear::chunks;
use super::{Accum, disjoint, named, rows_of, shaped};
use crate::kernel::{Family, Kernel, ScalarType::*, Shader, input, output, wgsl};
use crate::plan::{Arg, Plan};
use crate::{Error, Gpu, Recorder, Result, Tensor};

const OP: &str = "dot";
static SHADER: Shader = Shader {
    op: OP,
    source: wgsl!("dot", "math", "lse", "row"),
    bindings: &[input("q"), input("k"), output("s"), input("ds"), input("v"), output("gradient")],
    scalars: &[("per", U32), ("terms", U32), ("fresh", U32)],
    family: Family::Rows,
};
static FORWARD: Kernel = Kernel { shader: &SHADER, entry: "forward", uses: &["q", "k", "s"], in_place: None };
static WEIGH: Kernel = Kernel { shader: &SHADER, entry: "weigh", uses: &["ds", "v", "gradient"], in_place: None };
pub(super) const KERNELS: &[&Kernel] = &[&FORWARD, &WEIGH];

/// The scores `s` `[N, K]` of `q` `[N, D]` and `k` `[N K, D]`. Query i has rows i K to (i + 1) K − 1 of `k`.
///
/// # Errors
/// [`Error::Shape`], [`Error::SameBuffer`]; [`Error::Limit`] if one query's keys exceed a binding.
pub fn forward(recorder: &mut Recorder, q: Tensor, k: Tensor, s: Tensor) -> Result<()> {
    let [n, per] = s.shape();
    check(q, k, n, per)?;
    disjoint(OP, &[named("s", s)], &[named("q", q), named("k", k)])?;
    recorder.plan(|plan| {
        for rows in at_once(plan, n, &[(q, 1), (s, 1), (k, per)])? {
            let keys = k.row_range(rows.start * per..rows.end * per);
            scores(plan, q.row_range(rows.clone()), keys, s.row_range(rows))?;
        }
        Ok(())
    })
}

/// The gradients `dq` and `dk` from the forward's inputs and `ds` `[N, K]`. Absent gradients are not computed.
///
/// # Errors
/// As [`forward`].
pub fn backward(
    recorder: &mut Recorder,
    q: Tensor,
    k: Tensor,
    ds: Tensor,
    dq: Option<Tensor>,
    dk: Option<Tensor>,
    accum: Accum,
) -> Result<()> {
    let [n, per] = ds.shape();
    check(q, k, n, per)?;
    dq.map_or(Ok(()), |dq| shaped(OP, "dq", dq, q.shape()))?;
    dk.map_or(Ok(()), |dk| shaped(OP, "dk", dk, k.shape()))?;
    disjoint(OP, &[named("dq", dq), named("dk", dk)], &[named("q", q), named("k", k), named("ds", ds)])?;
    let fresh = accum == Accum::Write;
    recorder.plan(|plan| {
        if let (0, Some(dq), true) = (per, dq, fresh) {
            for rows in chunks(n, plan.rows_per_binding(dq) as usize) {
                weigh(plan, ds.row_range(rows.clone()), k, dq.row_range(rows), Sums { per: 1, terms: 0, fresh })?;
            }
        }
        let given = [(q, 1), (ds, 1), (k, per), (dq.unwrap_or(q), 1), (dk.unwrap_or(k), per)];
        for rows in at_once(plan, n, &given)? {
            let own = rows.start * per..rows.end * per;
            let (q, k, ds) = (q.row_range(rows.clone()), k.row_range(own.clone()), ds.row_range(rows.clone()));
            if let Some(dq) = dq {
                weigh(plan, ds, k, dq.row_range(rows), Sums { per: 1, terms: per, fresh })?;
            }
            if let Some(dk) = dk {
                weigh(plan, ds, q, dk.row_range(own), Sums { per, terms: 1, fresh })?;
            }
        }
        Ok(())
    })
}

fn check(q: Tensor, k: Tensor, n: usize, per: usize) -> Result<()> {
    shaped(OP, "q", q, [n, q.cols])?;
    shaped(OP, "k", k, [n * per, q.cols])
}

/// Ranges of queries such that one binding per tensor holds the rows of a range. Each tensor comes with its number of
/// rows per query.
fn at_once(plan: &Plan, n: usize, tensors: &[(Tensor, usize)]) -> Result<impl Iterator<Item = Range<usize>> + use<>> {
    let fits = |&(tensor, per): &(Tensor, usize)| plan.rows_per_binding(tensor) as usize / per.max(1);
    let at_once = tensors.iter().map(fits).min().unwrap_or(n);
    if let Some((tensor, per)) = tensors.iter().find(|tensor| n > 0 && fits(tensor) == 0) {
        let limit = plan.gpu().limits().max_storage_buffer_binding_size;
        let needed = (per * tensor.cols) as u64 * tensor.storage.bytes();
        return Err(Error::Limit { what: format!("{OP}: one query's keys"), needed, unit: "bytes", limit });
    }
    Ok(chunks(if tensors.iter().any(|(_, per)| *per == 0) { 0 } else { n }, at_once))
}

/// The scores `s` `[n, K]` of `q` `[n, D]` and `k` `[n K, D]`. Each tensor must fit one binding.
pub(super) fn scores(plan: &mut Plan, q: Tensor, k: Tensor, s: Tensor) -> Result<()> {
    let args = [Arg::whole(q), Arg::whole(k), Arg::whole(s)];
    plan.rows(&FORWARD, k.shape(), &args, &[s.cols.into(), 0usize.into(), true.into()], &[])
}

/// How [`weigh`] maps rows: the rows of `gradient` per query, the terms of each sum, and whether the output is
/// overwritten.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sums {
    pub(super) per: usize,
    pub(super) terms: usize,
    pub(super) fresh: bool,
}

/// `gradient`\[r\] = Σ_t `ds`\[r / per, r % per + t\] `v`\[r / per · terms + t\] over t < `terms`, added to the old
/// value unless `fresh`.
pub(super) fn weigh(plan: &mut Plan, ds: Tensor, v: Tensor, gradient: Tensor, sums: Sums) -> Result<()> {
    let args = [Arg::whole(ds), Arg::whole(v), Arg::whole(gradient)];
    let scalars = [sums.per.into(), sums.terms.into(), sums.fresh.into()];
    plan.rows(&WEIGH, gradient.shape(), &args, &scalars, &[])
}

/// Scores on slices. `keys` holds K rows per query, K = rows of `keys` / rows of `queries`. Rows have `dim` elements.
///
/// # Errors
/// As [`forward`], and any error of the device.
#[cfg(not(target_arch = "wasm32"))]
pub fn compute(gpu: &Gpu, queries: &[f32], keys: &[f32], dim: usize) -> Result<Vec<f32>> {
    let [n, all] = [rows_of(OP, "queries", queries, dim)?, rows_of(OP, "keys", keys, dim)?];
    let per = all / n.max(1);
    let (held_q, held_k, s) = (gpu.upload(queries)?, gpu.upload(keys)?, gpu.zeros::<f32>(n * per)?);
    let s = Tensor::matrix(&s, n, per)?;
    gpu.run(|recorder| forward(recorder, Tensor::matrix(&held_q, n, dim)?, Tensor::matrix(&held_k, all, dim)?, s))?;
    gpu.read(s)
}
