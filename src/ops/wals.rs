//! Weighted alternating least squares: each row of one factor solved with the other held, exactly.
//!
//! The objective is Σ w (r − ⟨x_u, y_i⟩)² over what was observed, w₀ Σ ⟨x_u, y_i⟩² over all that was not, and Σ λ_u |x_u|² + Σ λ_i |y_i|². Given y,
//! x_u solves A x_u = b, A = w₀ YᵀY + Σ (w − w₀) y_i y_iᵀ + λ_u I, b = Σ w r y_i, which is factored by Cholesky. A row without observations gives
//! zeros, if A has full rank. A pivot that is not positive beyond 2⁻²¹ of its diagonal gives a row of NaN, as does a NaN among weights or goals: raise λ. An
//! id that is no row of y adds to nothing.
//! Sums over a row's observations are cut into pieces and added up in order: the same bits at each run.
//! Sources: Hu, Koren and Volinsky 2008, doi:10.1109/ICDM.2008.22; with a weight for all that was not observed: Bayer, He, Kanagal and Rendle 2017,
//! arXiv:1611.04666.
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

use core::ops::Range;

use super::gather::parts;
use super::linear::{self, Operand, chunks};
use super::{disjoint, named, required, shaped};
use crate::kernel::{Family, Kernel, ScalarType::*, Shader, ids, input, output, wgsl};
use crate::recorder::{Arg, Scalar};
use crate::{Error, Gpu, Recorder, Result, Tensor};

const OP: &str = "wals";
static SHADER: Shader = Shader {
    op: OP,
    source: wgsl!("wals", "cholesky", "tile", "math", "lse", "row"),
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
        output("loss"),
    ],
    scalars: &[
        ("width", U32),
        ("first_row", U32),
        ("part_rows", U32),
        ("first_piece", U32),
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
static RIGHT: Kernel = kernel("right", &["y", "items", "weights", "goals", "pieces", "sums"]);
static FACTOR: Kernel = kernel("factor", &["pieces", "own", "sums", "gramian", "ridge", "x"]);
static OBJECTIVE: Kernel =
    kernel("objective", &["y", "items", "weights", "goals", "pieces", "solved", "ridge", "loss"]);
pub(super) const KERNELS: &[&Kernel] = &[&HESSIAN, &RIGHT, &FACTOR, &OBJECTIVE];

/// Scratch: the matrices of pieces.
const SUMS: usize = 0;
/// Observations of a piece, unless a row has more such pieces than the workspace holds.
const PIECE: usize = 2048;
/// Numbers of a piece: its first observation, how many, its row, whether it is the row's first.
const WORDS: usize = 4;

/// Which observations each row has, cut into pieces and sorted by length; made once for a matrix, with its buffers.
#[derive(Debug)]
pub struct Rows {
    /// Rows by descending number of observations: that of the row's longest piece, and its pieces.
    sorted: Vec<(u32, Range<usize>)>,
    /// The row of each piece.
    of_piece: Vec<u32>,
    pieces: wgpu::Buffer,
    own: wgpu::Buffer,
    observations: usize,
}

impl Rows {
    /// Row u has the observations `starts[u]..starts[u + 1]`, of factors of `dim` numbers.
    ///
    /// # Errors
    /// [`Error::Data`] unless `starts` begins with 0 and never falls; any error of the device.
    pub fn new(gpu: &Gpu, starts: &[u32], dim: usize) -> Result<Rows> {
        let refuse =
            |expected: &str, found| Err(Error::Data { what: "starts".into(), expected: expected.into(), found });
        if starts.first() != Some(&0) {
            return refuse("0 as the first", format!("{:?}", starts.first()));
        }
        if let Some(row) = starts.windows(2).position(|pair| pair[1] < pair[0]) {
            return refuse("ascending", format!("{} after {}, of row {row}", starts[row + 1], starts[row]));
        }
        let length = |row: u32| (starts[row as usize + 1] - starts[row as usize]) as usize;
        let mut order: Vec<u32> = (0..starts.len() as u32 - 1).collect();
        order.sort_by_key(|&row| core::cmp::Reverse(length(row)));
        let longest = order.first().map_or(0, |&row| length(row));
        let size = PIECE.max(longest.div_ceil(most_pieces(gpu, dim)));
        let (mut sorted, mut of_piece, mut pieces, mut own) = (Vec::new(), Vec::new(), Vec::new(), vec![0u32]);
        for row in order {
            let (first, count) = (of_piece.len(), length(row));
            // A row without observations has an empty piece.
            for part in chunks(count, size).chain((count == 0).then_some(0..0)) {
                pieces.extend([
                    starts[row as usize] + part.start as u32,
                    part.len() as u32,
                    row,
                    (part.start == 0).into(),
                ]);
                of_piece.push(row);
            }
            own.push(of_piece.len() as u32);
            sorted.push((count.min(size) as u32, first..of_piece.len()));
        }
        let observations = starts[starts.len() - 1] as usize;
        Ok(Rows { sorted, of_piece, pieces: gpu.upload(&pieces)?, own: gpu.upload(&own)?, observations })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.sorted.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.sorted.is_empty()
    }

    /// Number of pieces, the rows of [`objective`]'s output.
    pub fn pieces(&self) -> usize {
        self.of_piece.len()
    }

    /// The row that a piece belongs to.
    pub fn row_of(&self, piece: usize) -> usize {
        self.of_piece[piece] as usize
    }

    fn pieces_view(&self) -> Result<Tensor<'_, u32>> {
        Tensor::matrix(&self.pieces, self.of_piece.len(), WORDS)
    }

    /// Rows whose matrices the workspace holds and whose work a dispatch may have.
    fn batches(&self, gpu: &Gpu, dim: usize) -> Vec<Range<usize>> {
        let (most, work) = (most_pieces(gpu, dim), gpu.tuning().work);
        let mut batches: Vec<Range<usize>> = Vec::new();
        let mut first = 0;
        for row in 0..self.len() {
            let pieces = self.sorted[row].1.end - self.sorted[first].1.start;
            let multiply_adds = pieces as u64 * u64::from(self.sorted[first].0) * (dim * dim) as u64;
            if row > first && (pieces > most || multiply_adds > work) {
                batches.push(first..row);
                first = row;
            }
        }
        batches.extend((first < self.len()).then_some(first..self.len()));
        batches
    }
}

fn padded(dim: usize) -> usize {
    dim.next_multiple_of(4)
}

/// Numbers of a piece's matrix and what stands below it.
fn matrix_size(dim: usize) -> usize {
    padded(dim) * (padded(dim) + 4)
}

/// Pieces whose matrices the workspace holds, and a grid.
fn most_pieces(gpu: &Gpu, dim: usize) -> usize {
    let fits = gpu.tuning().workspace as usize / 4 / matrix_size(dim).max(1);
    fits.clamp(1, gpu.limits().max_compute_workgroups_per_dimension as usize)
}

/// What was observed, row by row.
#[derive(Debug, Clone, Copy)]
pub struct Observed<'a> {
    /// Which observations are each row's.
    pub rows: &'a Rows,
    /// [n, 1]: the row of y that an observation is of.
    pub items: Tensor<'a, u32>,
    /// w [n, 1]; without it all have [`Options::weight`].
    pub weights: Option<Tensor<'a>>,
    /// r [n, 1]; without it all have [`Options::goal`].
    pub goals: Option<Tensor<'a>>,
}

/// What all rows have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// w₀, of at least 0.
    pub unobserved: f32,
    /// w of observations without weights of their own, of at least 0.
    pub weight: f32,
    /// r of observations without goals of their own.
    pub goal: f32,
}

impl Default for Options {
    /// w₀ = w = r = 1.
    fn default() -> Self {
        Options { unobserved: 1.0, weight: 1.0, goal: 1.0 }
    }
}

/// `gramian` [D, D] = yᵀ y for `y` [M, D].
///
/// # Errors
/// [`Error::Shape`], [`Error::SameBuffer`].
pub fn gramian(recorder: &mut Recorder, y: Tensor, gramian: Tensor) -> Result<()> {
    shaped(OP, "gramian", gramian, [y.cols, y.cols])?;
    disjoint(OP, &[named("gramian", gramian)], &[named("y", y)])?;
    recorder.plan(|plan| linear::product(plan, Operand::by_row(y), Operand::by_row(y), None, gramian, false))
}

/// `x` [rows, D] that minimises the objective for `y` [M, D] with its [`gramian`] [D, D] and `ridge` [rows, 1] = λ.
///
/// # Errors
/// [`Error::Shape`], [`Error::Option`], [`Error::SameBuffer`]; [`Error::Limit`] if a matrix of D × D, or x, exceeds a binding.
pub fn solve(
    recorder: &mut Recorder,
    y: Tensor,
    observed: Observed,
    gramian: Tensor,
    ridge: Tensor,
    x: Tensor,
    options: Options,
) -> Result<()> {
    let dim = y.cols;
    check(observed, x, y, ridge, options)?;
    shaped(OP, "gramian", gramian, [dim, dim])?;
    let inputs = inputs(y, observed, ridge).into_iter().chain([named("gramian", gramian)]).collect::<Vec<_>>();
    disjoint(OP, &[named("x", x)], &inputs)?;
    if dim == 0 || x.rows == 0 {
        return Ok(());
    }
    recorder.plan(|plan| {
        let gpu = plan.gpu();
        let cols = padded(dim);
        let [tile_rows, tile_cols] = gpu.tuning().tile();
        let rows = observed.rows;
        let own: Tensor<u32> = Tensor::vector(&rows.own, rows.len() + 1)?;
        for batch in rows.batches(gpu, dim) {
            let first = rows.sorted[batch.start].1.start;
            let pieces = first..rows.sorted[batch.end - 1].1.end;
            let (count, depth) = (pieces.len(), rows.sorted[batch.start].0 as usize);
            let scratch = plan.scratch(SUMS, count * matrix_size(dim))?;
            let sums: Tensor = Tensor::matrix(&scratch, count * (cols + 4), cols)?;
            let pieces = Arg::whole(rows.pieces_view()?.row_range(pieces));
            for (index, part) in parts(plan, OP, y)?.into_iter().enumerate() {
                let told = Told { part: part.clone(), first_piece: first, depth, ..Told::of(dim, options) };
                let [items, weights, goals] = observed.args();
                let [y, sums] = [y.row_range(part), sums].map(Arg::whole);
                let args = [y, items, weights, goals, pieces, sums];
                let flags = observed.flags(index > 0);
                plan.lanes(&RIGHT, &args, [count, cols], &told.scalars(), &flags, 1)?;
                let grid = [cols.div_ceil(tile_cols), cols.div_ceil(tile_rows), count];
                let args = [y, items, weights, pieces, sums];
                plan.tiles(&HESSIAN, &args, [cols, cols, depth * count], &told.scalars(), &flags, grid)?;
            }
            let told = Told { first_piece: first, ..Told::of(dim, options) };
            let own = Arg::whole(own.row_range(batch.start..batch.end + 1));
            let args = [pieces, own, Arg::whole(sums), Arg::whole(gramian), Arg::whole(ridge), Arg::whole(x)];
            plan.groups(&FACTOR, &args, [batch.len(), cols], cols / 4 + 1, &told.scalars())?;
        }
        Ok(())
    })
}

/// The objective's parts, `loss` [[`Rows::pieces`], 1]: their sum is Σ w (r − s)² − w₀ s² over what was observed, and Σ λ |x|². With
/// w₀ ⟨XᵀX, YᵀY⟩ and the other side's Σ λ |y|² it is the objective. Add them up in f64.
///
/// # Errors
/// [`Error::Shape`], [`Error::Option`], [`Error::SameBuffer`]; [`Error::Limit`] if x exceeds a binding.
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
        let pieces = Arg::by_row(observed.rows.pieces_view()?);
        let longest = observed.rows.sorted.first().map_or(0, |row| row.0 as usize);
        for (index, part) in parts(plan, OP, y)?.into_iter().enumerate() {
            let told = Told { part: part.clone(), ..Told::of(y.cols, options) };
            let [items, weights, goals] = observed.args();
            let [y, x, ridge] = [y.row_range(part), x, ridge].map(Arg::whole);
            let args = [y, items, weights, goals, pieces, x, ridge, Arg::by_row(loss)];
            let flags = observed.flags(index > 0);
            plan.rows(&OBJECTIVE, [observed.rows.pieces(), longest.max(1)], &args, &told.scalars(), &flags)?;
        }
        Ok(())
    })
}

impl<'a> Observed<'a> {
    fn args(&self) -> [Arg<'a>; 3] {
        let numbers = |tensor: Option<Tensor<'a>>| tensor.map_or(Arg::NONE, Arg::whole);
        [Arg::whole(self.items), numbers(self.weights), numbers(self.goals)]
    }

    /// `add`: to what earlier parts of y gave.
    fn flags(&self, add: bool) -> [(&'static str, u32); 3] {
        [
            ("HAS_WEIGHTS", self.weights.is_some().into()),
            ("HAS_GOALS", self.goals.is_some().into()),
            ("ADD", add.into()),
        ]
    }
}

/// What the shader is told beside shapes.
#[derive(Debug, Clone)]
struct Told {
    width: usize,
    part: Range<usize>,
    first_piece: usize,
    depth: usize,
    options: Options,
}

impl Told {
    fn of(width: usize, options: Options) -> Told {
        Told { width, part: 0..0, first_piece: 0, depth: 0, options }
    }

    fn scalars(&self) -> [Scalar; 8] {
        let [width, first, rows] = [self.width, self.part.start, self.part.len()].map(Scalar::from);
        let [first_piece, depth] = [self.first_piece, self.depth].map(Scalar::from);
        let Options { unobserved, weight, goal } = self.options;
        let [weight, goal, unobserved] = [weight, goal, unobserved].map(Scalar::from);
        [width, first, rows, first_piece, depth, weight, goal, unobserved]
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
