//! Weighted alternating least squares. Each row of one factor is solved with the other factor held fixed, exactly or
//! approximately by a few steps.
//!
//! The objective is Σ w (r − ⟨x_u, y_i⟩)² over the observed pairs, plus w₀ Σ ⟨x_u, y_i⟩² over all other pairs,
//! plus Σ λ_u |x_u|² + Σ λ_i |y_i|².
//!
//! Given y, x_u solves A x_u = b with A = w₀ YᵀY + Σ (w − w₀) y_i y_iᵀ + λ_u I and b = Σ w r y_i. An item id that is
//! not a row of y contributes nothing. A row without observations becomes zeros.
//!
//! - [`solve`] forms A and factors it by Cholesky. A pivot that is not above 2⁻²¹ of its diagonal element gives a row
//!   of NaN; a larger λ prevents that. A NaN among weights or goals also gives a row of NaN.
//! - [`refine`] never forms A. It takes steps of conjugate gradients from the current x, in the basis where YᵀY is
//!   diagonal ([`eigen`]) or, if that basis takes too long to find for this D, with YᵀY as it is ([`Base`]). It is
//!   preconditioned by the diagonal that A has in that basis. A step costs 2 n D multiply-adds for n observations. If A is singular, x does not
//!   change along A's null space. A NaN makes its row NaN.
//!
//! Sums over a row's observations are split into pieces and added up in a fixed order: the same bits in each run.
//!
//! Sources: Hu, Koren and Volinsky 2008, doi:10.1109/ICDM.2008.22; with a weight for all unobserved pairs: Bayer, He,
//! Kanagal and Rendle 2017, arXiv:1611.04666; by conjugate gradients: Takács, Pilászy and Tikk 2011,
//! doi:10.1145/2043932.2043987.
//!
//! ```
//! # fn main() -> wgloss::Result<()> {
//! # let Ok(gpu) = wgloss::Gpu::new() else { return Ok(()) };
//! use wgloss::{Tensor, wals};
//! // Two users, the first with items 0 and 1, the second with item 1; items of two numbers.
//! let rows = wals::Rows::new(&gpu, &[0, 2, 3], 2)?;
//! let (items, y) = (gpu.upload(&[0u32, 1, 1])?, gpu.upload(&[1.0f32, 0.0, 0.0, 2.0])?);
//! let (gramian, ridge, x) = (gpu.zeros::<f32>(4)?, gpu.upload(&[0.5f32; 2])?, gpu.zeros::<f32>(4)?);
//! let (y, gramian) = (Tensor::matrix(&y, 2, 2)?, Tensor::matrix(&gramian, 2, 2)?);
//! let (ridge, x) = (Tensor::vector(&ridge, 2)?, Tensor::matrix(&x, 2, 2)?);
//! let observed = wals::Observed { rows: &rows, items: Tensor::vector(&items, 3)?, weights: None, goals: None };
//! gpu.run(|recorder| {
//!     wals::gramian(recorder, y, gramian)?;
//!     wals::solve(recorder, y, observed, gramian, ridge, x, wals::Options::default())
//! })?;
//! for (x, want) in gpu.read(x)?.iter().zip([1.0 / 1.5, 2.0 / 4.5, 0.0, 2.0 / 4.5]) {
//!     assert!((x - want).abs() < 1e-6);
//! }
//! # Ok(()) }
//! ```

mod conjugate;
mod direct;
mod eigen;
mod rows;

pub use conjugate::{Base, refine};
pub use direct::solve;
pub use eigen::eigen;
pub use rows::Rows;

use core::ops::Range;

use rows::{Batch, Price};

use super::gather::{parts, take};
use super::linear::{self, Operand};
use super::{disjoint, named, required, shaped};
use crate::kernel::{Family, Kernel, ScalarType::*, Shader, ids, input, output, wgsl};
use crate::plan::{Arg, Scalar};
use crate::{Recorder, Result, Tensor};

const OP: &str = "wals";
static SHADER: Shader = Shader {
    op: OP,
    source: wgsl!("wals", "../wals/factor", "../wals/conjugate", "cholesky", "tile", "math", "lse", "row"),
    bindings: &[
        input("y"),
        ids("items"),
        input("weights"),
        input("goals"),
        ids("pieces"),
        ids("own"),
        output("sums"),
        input("gramian"),
        input("ridge"),
        output("x"),
        input("solved"),
        output("along"),
        input("products"),
        input("base"),
        input("shared_part"),
        output("state"),
        output("loss"),
    ],
    scalars: &[
        ("width", U32),
        ("first_row", U32),
        ("part_rows", U32),
        ("first_piece", U32),
        ("first_place", U32),
        ("first_observation", U32),
        ("depth", U32),
        ("weight", F32),
        ("goal", F32),
        ("unobserved", F32),
    ],
    family: Family::Tile,
};
const fn kernel(entry: &'static str, uses: &'static [&'static str]) -> Kernel {
    Kernel { shader: &SHADER, entry, uses, in_place: None }
}
static HESSIAN: Kernel = kernel("hessian", &["y", "items", "weights", "pieces", "sums"]);
static RIGHT: Kernel = kernel("right", &["y", "items", "weights", "goals", "pieces", "ridge", "sums"]);
static FACTOR: Kernel = kernel("factor", &["y", "items", "weights", "own", "sums", "gramian", "x"]);
static APPLY: Kernel = kernel("apply", &["y", "items", "weights", "goals", "pieces", "solved", "along", "loss"]);
static BEGIN: Kernel = kernel("begin", &["pieces", "own", "products", "base", "shared_part", "ridge", "state", "loss"]);
static ADVANCE: Kernel = kernel("advance", BEGIN.uses);
static OBJECTIVE: Kernel =
    kernel("objective", &["y", "items", "weights", "goals", "pieces", "solved", "ridge", "loss"]);
pub(super) const KERNELS: &[&Kernel] = &[&HESSIAN, &RIGHT, &FACTOR, &APPLY, &BEGIN, &ADVANCE, &OBJECTIVE];

/// Scratch: rows of x, sorted by number of observations.
const SOLVED: usize = 2;

/// The observations, row by row.
#[derive(Debug, Clone, Copy)]
pub struct Observed<'a> {
    /// Which observations belong to which row.
    pub rows: &'a Rows,
    /// The row of y that each observation is about, [n, 1].
    pub items: Tensor<'a, u32>,
    /// w [n, 1]. Absent: [`Options::weight`] for all.
    pub weights: Option<Tensor<'a>>,
    /// r [n, 1]. Absent: [`Options::goal`] for all.
    pub goals: Option<Tensor<'a>>,
}

/// Numbers that all rows share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// w₀, at least 0.
    pub unobserved: f32,
    /// w of the observations if [`Observed::weights`] is absent; at least 0.
    pub weight: f32,
    /// r of the observations if [`Observed::goals`] is absent.
    pub goal: f32,
}

impl Default for Options {
    /// w₀ = w = r = 1.
    fn default() -> Self {
        Options { unobserved: 1.0, weight: 1.0, goal: 1.0 }
    }
}

/// Computes `gramian` [D, D] = yᵀ y for `y` [M, D].
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape), [`Error::SameBuffer`](crate::Error::SameBuffer).
pub fn gramian(recorder: &mut Recorder, y: Tensor, gramian: Tensor) -> Result<()> {
    shaped(OP, "gramian", gramian, [y.cols, y.cols])?;
    disjoint(OP, &[named("gramian", gramian)], &[named("y", y)])?;
    recorder.plan(|plan| linear::product(plan, Operand::by_row(y), Operand::by_row(y), None, gramian, false))
}

/// The parts of the objective, `loss` [[`Rows::pieces`], 1].
///
/// Their sum is Σ w (r − s)² − w₀ s² over the observed pairs, with s = ⟨x_u, y_i⟩, plus Σ λ |x|². Adding w₀ ⟨XᵀX, YᵀY⟩
/// and the other side's Σ λ |y|² gives the objective. Add them up in f64.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape), [`Error::Option`](crate::Error::Option), [`Error::SameBuffer`](crate::Error::SameBuffer).
pub fn objective(
    recorder: &mut Recorder,
    x: Tensor,
    y: Tensor,
    observed: Observed,
    ridge: Tensor,
    loss: Tensor,
    options: Options,
) -> Result<()> {
    check(observed, x, y, ridge, options)?;
    shaped(OP, "loss", loss, [observed.rows.pieces(), 1])?;
    let inputs = inputs(y, observed, ridge).into_iter().chain([named("x", x)]).collect::<Vec<_>>();
    disjoint(OP, &[named("loss", loss)], &inputs)?;
    recorder.plan(|plan| {
        let (dim, rows) = (y.cols, observed.rows);
        let price = Price { row: dim, piece: 0, observation: 16 * dim as u64 };
        for batch in rows.batches(plan.gpu(), price) {
            let [pieces, _] = rows.views(&batch)?;
            let scratch = plan.scratch(SOLVED, batch.rows.len() * dim)?;
            let solved = Tensor::matrix(&scratch, batch.rows.len(), dim)?;
            take(plan, x, rows.ids(&batch)?, solved)?;
            let told = Told::of(dim, options, &batch);
            for (index, part) in parts(plan, OP, y)?.into_iter().enumerate() {
                let [items, weights, goals] = observed.args(&batch);
                let [y, solved, ridge] = [y.row_range(part.clone()), solved, ridge].map(Arg::whole);
                let loss = Arg::by_row(loss.row_range(batch.pieces.clone()));
                let args = [y, items, weights, goals, Arg::by_row(pieces), solved, ridge, loss];
                let shape = [batch.pieces.len(), dim, batch.depth];
                let flags = observed.flags(index > 0);
                plan.deep_rows(&OBJECTIVE, shape, &args, &told.clone().part(&part).scalars(), &flags)?;
            }
        }
        Ok(())
    })
}

impl<'a> Observed<'a> {
    /// Items, weights and goals of a batch.
    fn args(&self, batch: &Batch) -> [Arg<'a>; 3] {
        let own = batch.observations.clone();
        let numbers =
            |tensor: Option<Tensor<'a>>| tensor.map_or(Arg::NONE, |all| Arg::whole(all.row_range(own.clone())));
        [Arg::whole(self.items.row_range(own.clone())), numbers(self.weights), numbers(self.goals)]
    }

    /// `add`: whether results are added to those of earlier parts of y.
    fn flags(&self, add: bool) -> [(&'static str, u32); 3] {
        [
            ("HAS_WEIGHTS", self.weights.is_some().into()),
            ("HAS_GOALS", self.goals.is_some().into()),
            ("ADD", add.into()),
        ]
    }
}

/// Scalars of the shader besides shapes.
#[derive(Debug, Clone)]
struct Told {
    width: usize,
    part: Range<usize>,
    first_piece: usize,
    first_place: usize,
    first_observation: usize,
    depth: usize,
    options: Options,
}

impl Told {
    fn of(width: usize, options: Options, batch: &Batch) -> Told {
        let (first_piece, first_place) = (batch.pieces.start, batch.rows.start);
        let first_observation = batch.observations.start;
        // At least one round, so that rows without observations get sums of 0.
        Told { width, part: 0..0, first_piece, first_place, first_observation, depth: batch.depth.max(1), options }
    }

    /// The same for this part of y.
    fn part(self, part: &Range<usize>) -> Told {
        Told { part: part.clone(), ..self }
    }

    fn scalars(&self) -> [Scalar; 10] {
        let [width, first, rows] = [self.width, self.part.start, self.part.len()].map(Scalar::from);
        let [first_piece, first_place, depth] = [self.first_piece, self.first_place, self.depth].map(Scalar::from);
        let first_observation = self.first_observation.into();
        let Options { unobserved, weight, goal } = self.options;
        let [weight, goal, unobserved] = [weight, goal, unobserved].map(Scalar::from);
        [width, first, rows, first_piece, first_place, first_observation, depth, weight, goal, unobserved]
    }
}

fn inputs<'a>(
    y: Tensor<'a>,
    observed: Observed<'a>,
    ridge: Tensor<'a>,
) -> Vec<(&'static str, Option<Tensor<'a, u32>>)> {
    let Observed { items, weights, goals, .. } = observed;
    vec![named("y", y), named("items", items), named("weights", weights), named("goals", goals), named("ridge", ridge)]
}

fn check(observed: Observed, x: Tensor, y: Tensor, ridge: Tensor, options: Options) -> Result<()> {
    let n = observed.rows.observations;
    shaped(OP, "x", x, [observed.rows.len(), y.cols])?;
    shaped(OP, "ridge", ridge, [x.rows, 1])?;
    shaped(OP, "items", observed.items, [n, 1])?;
    observed.weights.map_or(Ok(()), |weights| shaped(OP, "weights", weights, [n, 1]))?;
    observed.goals.map_or(Ok(()), |goals| shaped(OP, "goals", goals, [n, 1]))?;
    for (name, value) in [("unobserved", options.unobserved), ("weight", options.weight)] {
        required(OP, name, value, value >= 0.0 && value.is_finite(), "a number of at least 0")?;
    }
    required(OP, "goal", options.goal, options.goal.is_finite(), "a number")
}
