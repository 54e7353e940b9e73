//! Draws negatives for a sampled loss, each with the logarithm of its probability.
//!
//! The draws of a row are independent, with replacement, from a [`Proposal`]. With [`Lists`], the ids of the row's list
//! are excluded: its known positives.
//!
//! `log_q` is the log probability of a draw among the remaining ids, ln q(k) − ln(1 − Σ q(l)) over the ids l of the
//! list. Σ e^(s − `log_q`)/K over the K draws is then an unbiased estimate of Σ e^s over all remaining ids. Subtracting
//! `log_q` from the scores is the correction of a sampled softmax (logQ), as
//! [`info_nce::Negatives::log_q`](crate::info_nce::Negatives::log_q) takes it. In-batch negatives are not drawn;
//! [`log_q`] computes their correction, with [`Popularity`] of power 1.
//!
//! Every draw is computed in integers, by Philox4x32-10 with (row, index in the row, step, stream) as the counter and
//! the seed as the key: the same on every device. If a list excludes all ids, or 256 attempts all hit the list, the id
//! is u32::MAX and `log_q` is +∞. This id is no row of a table, and this `log_q` masks the score in a loss.
//!
//! Sources: Bengio and Senécal 2008, doi:10.1109/TNN.2007.912312; popularity to the power of 0.75: Mikolov et al. 2013, arXiv:1310.4546; mixed with
//! uniform draws: Yang et al. 2020, doi:10.1145/3366424.3386195; alias method: Walker 1977, doi:10.1145/355744.355749.

mod popularity;

pub use popularity::Popularity;

use super::{Lists, disjoint, lists, named, shaped};
use crate::kernel::{Family, Kernel, ScalarType::*, Shader, ids, input, new_ids, output, wgsl};
use crate::plan::{Arg, Plan, Scalar};
use crate::{Error, Gpu, Recorder, Result, Tensor};

const OP: &str = "sample";
static SHADER: Shader = Shader {
    op: OP,
    source: wgsl!("sample", "random", "lists", "math", "lse", "row"),
    bindings: &[
        lists::BINDINGS[0],
        lists::BINDINGS[1],
        lists::BINDINGS[2],
        ids("table"),
        ids("given"),
        input("left_in"),
        output("left"),
        new_ids("ids"),
        output("log_q"),
    ],
    scalars: &[
        lists::SCALARS[0],
        lists::SCALARS[1],
        lists::SCALARS[2],
        ("n", U32),
        ("uniform_words", U32),
        ("log_whole", U32),
        ("log_part", U32),
        ("seed_low", U32),
        ("seed_high", U32),
        ("step", U32),
        ("stream", U32),
        ("first", U32),
        ("uniform", F32),
        ("per_log", F32),
        ("log_count", F32),
    ],
    family: Family::Rows,
};
const fn kernel(entry: &'static str, uses: &'static [&'static str]) -> Kernel {
    Kernel { shader: &SHADER, entry, uses, in_place: None }
}
static LEAVE: Kernel = kernel("leave", &["starts", "items", "list", "table", "left"]);
static DRAW: Kernel = kernel("draw", &["starts", "items", "list", "table", "left_in", "ids", "log_q"]);
static LOG_PROBABILITY: Kernel = kernel("log_probability", &["table", "given", "log_q"]);
pub(super) const KERNELS: &[&Kernel] = &[&LEAVE, &DRAW, &LOG_PROBABILITY];

/// Scratch: ln(1 − Σ q(l)) of each row's list.
const LEFT: usize = 4;
/// Draws per dispatch, at most: threads (lanes) are counted in 32 bits.
const AT_ONCE: usize = 1 << 24;

/// The distribution that ids are drawn from. `T` holds the table: a tensor on the device or, for the
/// [reference](crate::reference::sample), a slice.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Proposal<T> {
    /// q(k) = 1/n.
    Uniform {
        /// Ids are 0 to n − 1.
        n: u32,
    },
    /// q(k) = ln(1 + 1/(k + 1))/ln(n + 1): Zipf's law for ids sorted by descending frequency. Each probability is exact
    /// to 2⁻³¹.
    LogUniform {
        /// Ids are 0 to n − 1; n is at most 2³¹.
        n: u32,
    },
    /// q(k) = u/n + (1 − u) p(k).
    Table {
        /// p, [n, 3]: [`Popularity::words`].
        table: T,
        /// u, the share of the draws that are uniform, from 0 to 1.
        uniform: f32,
    },
}

impl<T> Proposal<T> {
    /// The same proposal with its table mapped by `place`.
    pub fn map<U>(self, place: impl FnOnce(T) -> U) -> Proposal<U> {
        match self {
            Proposal::Uniform { n } => Proposal::Uniform { n },
            Proposal::LogUniform { n } => Proposal::LogUniform { n },
            Proposal::Table { table, uniform } => Proposal::Table { table: place(table), uniform },
        }
    }
}

impl Proposal<usize> {
    /// Number of ids. `T` is the number of rows of the table.
    pub(crate) fn ids(self) -> u32 {
        match self {
            Proposal::Uniform { n } | Proposal::LogUniform { n } => n,
            Proposal::Table { table, .. } => table as u32, // tensors keep rows below 2^32
        }
    }

    fn check(self) -> Result<()> {
        let option = |option, expected, found: String| Err(Error::Option { op: OP, option, expected, found });
        match self {
            Proposal::LogUniform { n } if n > 1 << 31 => option("n", "at most 2^31", n.to_string()),
            Proposal::Table { uniform, .. } if !(0.0..=1.0).contains(&uniform) => {
                option("uniform", "from 0 to 1", uniform.to_string())
            }
            _ if self.ids() == 0 => option("n", "at least 1", "0".into()),
            _ => Ok(()),
        }
    }
}

/// 2³² · log₂(n + 1).
pub(crate) fn log_of_ids(n: u32) -> u64 {
    ((f64::from(n) + 1.0).log2() * 2f64.powi(32)) as u64
}

/// 2³² · `uniform`, one less for 1.
pub(crate) fn words_of(uniform: f32) -> u32 {
    (f64::from(uniform) * 2f64.powi(32)) as u32
}

/// Options of [`draw`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// The seed: determines all draws.
    pub seed: u64,
    /// The training step. Each step has its own draws.
    pub step: u32,
    /// The stream, for draws with different purposes in one step.
    pub stream: u16,
    /// Whether `log_q` is ln(K q), the logarithm of how often the id is expected among the K draws of its row, instead
    /// of ln q. Importance sampling subtracts this one if the positive is not corrected. Default: off.
    pub expected: bool,
}

impl Options {
    fn scalars(&self, proposal: Proposal<usize>, count: usize, first: usize) -> [Scalar; 12] {
        let n = proposal.ids();
        let (log, uniform) = match proposal {
            Proposal::Table { uniform, .. } => (0, uniform),
            _ => (log_of_ids(n), 0.0),
        };
        let per_log = 1.0 / (f64::from(n) + 1.0).ln();
        let count = if self.expected { count.max(1) } else { 1 };
        [
            n.into(),
            words_of(uniform).into(),
            ((log >> 32) as u32).into(),
            (log as u32).into(),
            (self.seed as u32).into(),
            ((self.seed >> 32) as u32).into(),
            self.step.into(),
            u32::from(self.stream).into(),
            first.into(),
            uniform.into(),
            (per_log as f32).into(),
            ((count as f64).ln() as f32).into(),
        ]
    }
}

/// The proposal with the number of table rows, the table as an argument, and the shader's `PROPOSAL`.
fn placed<'a>(proposal: Proposal<Tensor<'a, u32>>) -> Result<(Proposal<usize>, Arg<'a>, u32)> {
    let (table, which) = match proposal {
        Proposal::Uniform { .. } => (Arg::NONE, 0),
        Proposal::LogUniform { .. } => (Arg::NONE, 1),
        Proposal::Table { table, .. } => {
            shaped(OP, "table", table, [table.rows, 3])?;
            (Arg::whole(table), 2)
        }
    };
    let counted = proposal.map(|table| table.rows);
    counted.check()?;
    Ok((counted, table, which))
}

/// Draws `ids` [N, K] that are not in the lists of `reject`, with their `log_q` [N, K].
///
/// # Errors
/// [`Error::Shape`], [`Error::Option`], [`Error::SameBuffer`].
pub fn draw(
    recorder: &mut Recorder,
    proposal: Proposal<Tensor<u32>>,
    reject: Option<Lists>,
    ids: Tensor<u32>,
    log_q: Tensor,
    options: Options,
) -> Result<()> {
    let (counted, table, which) = placed(proposal)?;
    let [rows, cols] = ids.shape();
    shaped(OP, "log_q", log_q, [rows, cols])?;
    reject.map_or(Ok(()), |lists| lists.check(OP, rows))?;
    let of_lists = reject.map(|lists| lists.named());
    let table_read = match proposal {
        Proposal::Table { table, .. } => Some(table),
        _ => None,
    };
    let inputs: Vec<_> = of_lists.into_iter().flatten().chain([named("table", table_read)]).collect();
    disjoint(OP, &[named("ids", ids), named("log_q", log_q)], &inputs)?;
    let rejects = reject.filter(|lists| lists.items.rows > 0);
    recorder.plan(|plan| {
        for (first, part) in parts(plan, rows, cols, [ids.untyped(), log_q.untyped()])? {
            let reject =
                rejects.map(|lists| Lists { list: lists.list.map(|list| list.row_range(part.clone())), ..lists });
            let (of_lists, list_scalars) = lists::arguments(reject);
            let scalars = [&list_scalars[..], &options.scalars(counted, cols, first)].concat();
            let left = plan.scratch(LEFT, part.len())?;
            let left: Tensor = Tensor::vector(&left, part.len())?;
            let flags = [("PROPOSAL", which), ("REJECTS", rejects.is_some().into())];
            let [starts, items, list] = of_lists;
            let has_left = rejects.is_some() && which > 0;
            if has_left {
                let args = [starts, items, list, table, Arg::by_row(left)];
                plan.each_row(&LEAVE, [part.len(), cols], &args, &scalars, &flags[..1])?;
            }
            let left = if has_left { Arg::whole(left) } else { Arg::NONE };
            let (ids, log_q) = (ids.row_range(part.clone()), log_q.row_range(part.clone()));
            let args = [starts, items, list, table, left, Arg::whole(ids), Arg::whole(log_q)];
            plan.lanes(&DRAW, &args, [part.len(), cols], &scalars, &flags, 1)?;
        }
        Ok(())
    })
}

/// `log_q` [N, K] of `given` ids [N, K]; +∞ for an id out of range.
///
/// The correction for keys that were not drawn for their query, such as the other keys of a batch: their distribution
/// is their popularity in the data.
///
/// # Errors
/// As [`draw`].
pub fn log_q(
    recorder: &mut Recorder,
    proposal: Proposal<Tensor<u32>>,
    given: Tensor<u32>,
    log_q: Tensor,
) -> Result<()> {
    let (counted, table, which) = placed(proposal)?;
    let [rows, cols] = given.shape();
    shaped(OP, "log_q", log_q, [rows, cols])?;
    recorder.plan(|plan| {
        for (first, part) in parts(plan, rows, cols, [given, log_q.untyped()])? {
            let (_, list_scalars) = lists::arguments(None);
            let scalars = [&list_scalars[..], &Options::default().scalars(counted, cols, first)].concat();
            let (given, log_q) = (given.row_range(part.clone()), log_q.row_range(part.clone()));
            let args = [table, Arg::whole(given), Arg::whole(log_q)];
            plan.lanes(&LOG_PROBABILITY, &args, [part.len(), cols], &scalars, &[("PROPOSAL", which)], 1)?;
        }
        Ok(())
    })
}

/// The row ranges of the dispatches, each with the index of its first row.
fn parts(
    plan: &Plan,
    rows: usize,
    cols: usize,
    tensors: [Tensor<u32>; 2],
) -> Result<Vec<(usize, core::ops::Range<usize>)>> {
    let fits = tensors.into_iter().map(|tensor| plan.rows_per_binding(tensor) as usize).min().unwrap_or(rows);
    let at_once = fits.min((AT_ONCE / cols.max(1)).max(1));
    if at_once == 0 && rows > 0 {
        let limit = plan.gpu().limits().max_storage_buffer_binding_size;
        return Err(Error::Limit { what: format!("{OP}: one row"), needed: 4 * cols as u64, unit: "bytes", limit });
    }
    Ok((0..rows).step_by(at_once.max(1)).map(|first| (first, first..rows.min(first + at_once))).collect())
}

/// Draws for `rows` rows without lists. Returns ids and `log_q`, [rows, count] each.
///
/// ```
/// # fn main() -> wgloss::Result<()> {
/// # let Ok(gpu) = wgloss::Gpu::new() else { return Ok(()) };
/// use wgloss::sample::{Options, Popularity, Proposal, compute};
/// let words = Popularity::new(&[900.0, 90.0, 0.0, 10.0], 0.75)?.words().to_vec();
/// let popular = Proposal::Table { table: words.as_slice(), uniform: 0.0 };
/// let (ids, log_q) = compute(&gpu, popular, 2, 500, Options { seed: 7, ..Default::default() })?;
/// assert!(ids.iter().all(|&id| id != 2)); // what never occurs is never drawn
/// let of_first = ids.iter().zip(&log_q).find(|(id, _)| **id == 0).unwrap();
/// let sum = 900f32.powf(0.75) + 90f32.powf(0.75) + 10f32.powf(0.75);
/// assert!((of_first.1 - (900f32.powf(0.75) / sum).ln()).abs() < 1e-6);
/// # Ok(()) }
/// ```
///
/// # Errors
/// As [`draw`], and any error of the device.
#[cfg(not(target_arch = "wasm32"))]
pub fn compute(
    gpu: &Gpu,
    proposal: Proposal<&[u32]>,
    rows: usize,
    count: usize,
    options: Options,
) -> Result<(Vec<u32>, Vec<f32>)> {
    let words = match proposal {
        Proposal::Table { table, .. } => table,
        _ => &[],
    };
    let table = gpu.upload(words)?;
    let view = Tensor::matrix(&table, words.len() / 3, 3)?;
    let all = rows.saturating_mul(count);
    let (ids, log_q) = (gpu.zeros::<u32>(all)?, gpu.zeros::<f32>(all)?);
    let (ids, log_q) = (Tensor::<u32>::matrix(&ids, rows, count)?, Tensor::matrix(&log_q, rows, count)?);
    gpu.run(|recorder| draw(recorder, proposal.map(|_| view), None, ids, log_q, options))?;
    Ok((gpu.read(ids)?, gpu.read(log_q)?))
}
