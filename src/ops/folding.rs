//! Folding: how high unrelated pairs score. Computes Σ max(0, s_ij − r_ij) and Σ r_ij s_ij over all scores s_ij = ⟨q_i,
//! k_j⟩.
//!
//! q `[N, D]` are queries (users, for example) and k `[M, D]` keys (items). r_ij is 1 if query i and key j are of one
//! block, else 0. The first sum divided by N·M is the folding score. It shrinks with the scores themselves, so compare
//! it with the second sum divided by the number of pairs within blocks: [`Folding`] holds both.
//!
//! No N × M matrix is stored. Work: 2·N·M·D. A NaN score makes the first sum NaN, and also the second if its pair is
//! within a block.
//!
//! Source: Xin, Mayoraz, Pham, Lakshmanan and Anderson, Folding: why good models sometimes make spurious
//! recommendations, RecSys 2017.

use super::pairs::{Form, Goal, Gradients, Pairs};
use super::{Accum, Reduction, disjoint, named, rows_of, shaped};
use crate::kernel::{Family, Kernel, ScalarType::*, Shader, ids, input, output, wgsl};
use crate::metrics::Folding;
use crate::plan::Arg;
use crate::{Gpu, Recorder, Result, Tensor};

const OP: &str = "folding";
static SHADER: Shader = Shader {
    op: OP,
    source: wgsl!("folding", "pairs", "tile", "math", "lse", "row"),
    bindings: &[input("q"), input("k"), ids("q_block"), ids("k_block"), output("row_part")],
    scalars: &[("dim", U32)],
    family: Family::Tile,
};
static FORWARD: Kernel =
    Kernel { shader: &SHADER, entry: "forward", uses: &["q", "k", "q_block", "k_block", "row_part"], in_place: None };
pub(super) const KERNELS: &[&Kernel] = &[&FORWARD];

/// The two `sums` `[2, 1]` of queries `q` `[N, D]` and keys `k` `[M, D]`.
///
/// `q_block` `[N, 1]` and `k_block` `[M, 1]` hold the block of each query and key.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape), [`Error::SameBuffer`](crate::Error::SameBuffer);
/// [`Error::Limit`](crate::Error::Limit) if the device cannot bind the rows of one tile.
pub fn forward(
    recorder: &mut Recorder,
    q: Tensor,
    k: Tensor,
    q_block: Tensor<u32>,
    k_block: Tensor<u32>,
    sums: Tensor,
) -> Result<()> {
    let form = Form { temperature: 1.0, max_scale: 1.0, reduction: Reduction::Sum, own: false };
    // Without keys there are no pairs: treated as if there were no queries.
    let some = if k.rows == 0 { q.row_range(0..0) } else { q };
    let pairs = Pairs::new(OP, some, k, None, form)?;
    shaped(OP, "q_block", q_block, [q.rows, 1])?;
    shaped(OP, "k_block", k_block, [k.rows, 1])?;
    shaped(OP, "sums", sums, [2, 1])?;
    let inputs = [named("q", q), named("k", k), named("q_block", q_block), named("k_block", k_block)];
    disjoint(OP, &[named("sums", sums)], &inputs)?;
    // The two sums use the columns that the pair losses have for d_log_scale and d_bias.
    let gradients = Gradients {
        d_log_scale: Some(sums.row_range(0..1)),
        d_bias: Some(sums.row_range(1..2)),
        ..Gradients::default()
    };
    let goal = Goal { loss: None, gradients, accum: [Accum::Write; 2], accum_sums: Accum::Write, along: false };
    recorder.plan(|plan| {
        pairs.walk(plan, goal, |plan, chunk, sinks| {
            let args = [
                Arg::whole(chunk.q),
                Arg::whole(chunk.k),
                Arg::whole(q_block.row_range(chunk.rows.clone())),
                Arg::whole(k_block.row_range(chunk.cols.clone())),
                sinks.row_part,
            ];
            plan.tiles(&FORWARD, &args, chunk.products(), &[q.cols.into()], &[], chunk.grid)
        })?;
        Ok(())
    })
}

/// The folding of slices of queries and keys, in rows of `dim` elements. `q_block` and `k_block` hold the block of each
/// row.
///
/// ```
/// # let Ok(gpu) = wgloss::Gpu::new() else { return };
/// // One user of block 0, two items of blocks 0 and 1.
/// let folding = wgloss::folding::compute(&gpu, &[1.0, 0.0], &[2.0, 5.0, 0.5, 7.0], 2, &[0], &[0, 1]).unwrap();
/// assert_eq!((folding.score, folding.within), ((1.0 + 0.5) / 2.0, 2.0));
/// ```
///
/// # Errors
/// As [`forward`], and any error of the device.
#[cfg(not(target_arch = "wasm32"))]
pub fn compute(
    gpu: &Gpu,
    queries: &[f32],
    keys: &[f32],
    dim: usize,
    q_block: &[u32],
    k_block: &[u32],
) -> Result<Folding> {
    let (n, m) = (rows_of(OP, "q", queries, dim)?, rows_of(OP, "k", keys, dim)?);
    let (q, k, sums) = (gpu.upload(queries)?, gpu.upload(keys)?, gpu.zeros::<f32>(2)?);
    let (of_q, of_k) = (gpu.upload(q_block)?, gpu.upload(k_block)?);
    let (q, k, sums) = (Tensor::matrix(&q, n, dim)?, Tensor::matrix(&k, m, dim)?, Tensor::vector(&sums, 2)?);
    let (of_q, of_k) = (Tensor::vector(&of_q, q_block.len())?, Tensor::vector(&of_k, k_block.len())?);
    gpu.run(|recorder| forward(recorder, q, k, of_q, of_k, sums))?;
    let found = gpu.read(sums)?;
    Ok(Folding::of([found[0].into(), found[1].into()], q_block, k_block))
}
