//! The K keys with the largest inner product for each query, from a catalogue of any size: for recommendations and hard
//! negatives.
//!
//! The result is exact. Scores are formed in chunks in a workspace, never all at once. The best key comes first; of
//! equal scores, the smaller id. A key whose score is NaN is never returned. If fewer than K keys are left, the
//! remaining ids are u32::MAX and their scores −∞.
//!
//! For hard negatives, exclude the known positives and take few: false negatives are the risk (Xiong et al. 2021,
//! arXiv:2007.00808).

use super::linear::{self, Operand, chunks};
use super::{Lists, disjoint, lists, named, rows_of, shaped};
use crate::kernel::{Family, Kernel, ScalarType::*, Shader, ids, input, new_ids, output, wgsl};
use crate::plan::{Arg, Plan, Scalar};
use crate::{Error, Gpu, Recorder, Result, Tensor};

const OP: &str = "top_k";
static SHADER: Shader = Shader {
    op: OP,
    source: wgsl!("top_k", "lists", "math", "lse", "row"),
    bindings: &[
        lists::BINDINGS[0],
        lists::BINDINGS[1],
        lists::BINDINGS[2],
        input("product"),
        ids("ids_in"),
        input("scores_in"),
        new_ids("ids"),
        output("scores"),
    ],
    scalars: &[
        lists::SCALARS[0],
        lists::SCALARS[1],
        lists::SCALARS[2],
        ("k", U32),
        ("lists_all", U32),
        ("slices", U32),
        ("first", U32),
        ("width", U32),
        ("fresh", U32),
        ("by_rows", U32),
    ],
    family: Family::Rows,
};
const fn kernel(entry: &'static str, uses: &'static [&'static str]) -> Kernel {
    Kernel { shader: &SHADER, entry, uses, in_place: None }
}
static INSERT: Kernel = kernel("insert", &["starts", "items", "list", "product", "ids", "scores"]);
static MERGE: Kernel = kernel("merge", &["ids_in", "scores_in", "ids", "scores"]);
pub(super) const KERNELS: &[&Kernel] = &[&INSERT, &MERGE];

/// Scratch: the scores of a chunk; the lists of best keys, two buffers of each kind, since a merge reads one and writes
/// the other. `linear` has slot 1.
const PRODUCT: usize = 0;
const IDS: [usize; 2] = [10, 11];
const SCORES: [usize; 2] = [12, 13];
/// The largest number of slices into which the columns of a query are divided.
const MOST_SLICES: usize = 64;
/// The least number of columns of a chunk, if there are as many and the workspace holds those of one query.
const FEW_COLUMNS: usize = 1024;

/// The scalars of the shader besides those of the lists. Those not set are 0.
#[derive(Debug, Clone, Copy, Default)]
struct Told {
    k: usize,
    lists_all: usize,
    slices: usize,
    first: usize,
    width: usize,
    fresh: bool,
    by_rows: bool,
}

impl Told {
    fn scalars(self, of_lists: [Scalar; 3]) -> Vec<Scalar> {
        let own = [self.k, self.lists_all, self.slices, self.first, self.width].map(Scalar::from);
        [&of_lists[..], &own, &[self.fresh.into(), self.by_rows.into()]].concat()
    }
}

/// The `ids` `[N, K]` and `scores` `[N, K]` of the keys with the largest ⟨q_i, k_j⟩ for queries `q` `[N, D]` and keys
/// `k` `[M, D]`.
///
/// Keys in row i's list of `exclude` are left out for query i.
///
/// # Errors
/// [`Error::Shape`], [`Error::SameBuffer`]; [`Error::Option`] if K is 0; [`Error::Limit`] if the lists of one query
/// exceed a binding.
pub fn forward(
    recorder: &mut Recorder,
    q: Tensor,
    k: Tensor,
    exclude: Option<Lists>,
    ids: Tensor<u32>,
    scores: Tensor,
) -> Result<()> {
    let n = q.rows;
    shaped(OP, "k", k, [k.rows, q.cols])?;
    shaped(OP, "ids", ids, [n, ids.cols])?;
    shaped(OP, "scores", scores, [n, ids.cols])?;
    exclude.map_or(Ok(()), |lists| lists.check(OP, n))?;
    if ids.cols == 0 {
        return Err(Error::Option { op: OP, option: "K", expected: "at least 1", found: "0".into() });
    }
    let of_lists = exclude.map(|lists| lists.named()).into_iter().flatten();
    let inputs: Vec<_> = [named("q", q), named("k", k)].into_iter().chain(of_lists).collect();
    disjoint(OP, &[named("ids", ids), named("scores", scores)], &inputs)?;
    let exclude = exclude.filter(|lists| lists.items.rows > 0);
    recorder.plan(|plan| {
        let (at_once, slices) = sizes(plan, n, ids.cols)?;
        for rows in chunks(n, at_once) {
            let exclude =
                exclude.map(|lists| Lists { list: lists.list.map(|list| list.row_range(rows.clone())), ..lists });
            let outputs = (ids.row_range(rows.clone()), scores.row_range(rows.clone()));
            some(plan, q.row_range(rows), k, exclude, outputs, slices)?;
        }
        Ok(())
    })
}

/// The number of queries at a time, and slices per query: enough threads (lanes) to fill the device, lists that fit the
/// workspace and a binding, and scores of [`FEW_COLUMNS`] that fit half of the workspace.
fn sizes(plan: &Plan, n: usize, k: usize) -> Result<(usize, usize)> {
    let tuning = plan.gpu().tuning();
    let limits = plan.gpu().limits();
    let binding = limits.max_storage_buffer_binding_size.min(1 << 31) as usize / 4;
    let lists = (tuning.workspace as usize / 16 / k).clamp(1, (binding / k).max(1));
    let lanes = (tuning.groups * tuning.workgroup) as usize;
    let most = (tuning.workspace as usize / 8 / FEW_COLUMNS).max(1);
    let wanted = lanes.div_ceil(n.clamp(1, most)).next_power_of_two().clamp(1, MOST_SLICES);
    let slices = wanted.min(1 << lists.ilog2());
    if k > binding {
        let limit = limits.max_storage_buffer_binding_size;
        return Err(Error::Limit {
            what: format!("{OP}: the keys of one query"),
            needed: 4 * k as u64,
            unit: "bytes",
            limit,
        });
    }
    Ok(((lists / slices).min(most), slices))
}

/// Plans the search for queries whose lists fit the workspace.
fn some<'a>(
    plan: &mut Plan<'a>,
    q: Tensor,
    k: Tensor,
    exclude: Option<Lists>,
    (ids, scores): (Tensor<u32>, Tensor),
    slices: usize,
) -> Result<()> {
    let gpu = plan.gpu();
    let (n, count) = (q.rows, ids.cols);
    let (of_lists, list_scalars) = lists::arguments(exclude);
    let size = n * slices * count;
    let buffers = |slots: [usize; 2]| -> Result<[wgpu::Buffer; 2]> {
        Ok([plan.scratch(slots[0], size)?, plan.scratch(slots[1], if slices > 1 { size / 2 } else { 0 })?])
    };
    let (id_buffers, score_buffers) = (buffers(IDS)?, buffers(SCORES)?);
    let view = |side: usize, len: usize| -> Result<(Tensor<u32>, Tensor)> {
        Ok((Tensor::vector(&id_buffers[side], len)?, Tensor::vector(&score_buffers[side], len)?))
    };
    let (own_ids, own_scores) = view(0, size)?;
    let columns = (gpu.tuning().workspace as usize / 8 / n.max(1)).max(1).min(k.rows);
    let columns =
        columns.min((gpu.limits().max_storage_buffer_binding_size.min(1 << 31) as usize / 4 / n.max(1)).max(1));
    // Without keys there is still one chunk, which initializes empty lists.
    for (index, cols) in chunks(k.rows, columns).chain((k.rows == 0).then_some(0..0)).enumerate() {
        let scratch = plan.scratch(PRODUCT, n * cols.len())?;
        let product: Tensor = Tensor::matrix(&scratch, n, cols.len())?;
        if !cols.is_empty() {
            linear::product(plan, Operand::by_k(q), Operand::by_k(k.row_range(cols.clone())), None, product, false)?;
        }
        let told = Told {
            k: count,
            lists_all: n * slices,
            first: cols.start,
            width: cols.len(),
            fresh: index == 0,
            ..Told::default()
        };
        let [starts, items, list] = of_lists;
        let args = [starts, items, list, Arg::whole(product), Arg::whole(own_ids), Arg::whole(own_scores)];
        plan.lanes(&INSERT, &args, [n, slices], &told.scalars(list_scalars), &[], 1)?;
    }
    let (mut held, mut side) = (slices, 0);
    loop {
        let (left, is_last) = (held.div_ceil(2), held <= 2);
        let told = Told { k: count, lists_all: n * held, slices: held, by_rows: is_last, ..Told::default() };
        let (from_ids, from_scores) = view(side, n * held * count)?;
        let (to_ids, to_scores) = if is_last { (ids, scores) } else { view(1 - side, n * left * count)? };
        let args = [Arg::whole(from_ids), Arg::whole(from_scores), Arg::whole(to_ids), Arg::whole(to_scores)];
        plan.lanes(&MERGE, &args, [n, left], &told.scalars([0u32.into(); 3]), &[], 1)?;
        if is_last {
            return Ok(());
        }
        (held, side) = (left, 1 - side);
    }
}

/// The ids and scores of the `count` best keys of each query, on slices. Rows have `dim` elements.
///
/// ```
/// # let Ok(gpu) = wgloss::Gpu::new() else { return };
/// use wgloss::top_k;
/// let keys = [1.0, 0.0, 0.0, 1.0, 1.0, 1.0, -1.0, 0.0];
/// let (ids, scores) = top_k::compute(&gpu, &[1.0, 0.5], &keys, 2, 3).unwrap();
/// assert_eq!((ids, scores), (vec![2, 0, 1], vec![1.5, 1.0, 0.5]));
/// ```
///
/// # Errors
/// As [`forward`], and any error of the device.
#[cfg(not(target_arch = "wasm32"))]
pub fn compute(gpu: &Gpu, queries: &[f32], keys: &[f32], dim: usize, count: usize) -> Result<(Vec<u32>, Vec<f32>)> {
    let [n, m] = [rows_of(OP, "queries", queries, dim)?, rows_of(OP, "keys", keys, dim)?];
    let (q, k) = (gpu.upload(queries)?, gpu.upload(keys)?);
    let (ids, scores) = (gpu.zeros::<u32>(n.saturating_mul(count))?, gpu.zeros::<f32>(n.saturating_mul(count))?);
    let (ids, scores) = (Tensor::<u32>::matrix(&ids, n, count)?, Tensor::matrix(&scores, n, count)?);
    let (q, k) = (Tensor::matrix(&q, n, dim)?, Tensor::matrix(&k, m, dim)?);
    gpu.run(|recorder| forward(recorder, q, k, None, ids, scores))?;
    Ok((gpu.read(ids)?, gpu.read(scores)?))
}
