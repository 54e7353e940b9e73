use super::rows::Price;
use super::{ADVANCE, APPLY, BEGIN, Observed, Options, Told, check, inputs};
use crate::ops::gather::{parts, put, take};
use crate::ops::linear::{Operand, product};
use crate::ops::{disjoint, named, shaped};
use crate::plan::Arg;
use crate::{Recorder, Result, Tensor};

/// Scratch: the sums of pieces; the vectors of rows; YᵀY times one of the vectors. `linear` uses slot 1.
const SUMS: usize = 0;
const STATE: usize = 2;
const SHARED: usize = 3;
/// Vectors per row: `SOLUTION` and the ones after it in the shader.
const VECTORS: usize = 4;
const SOLUTION: usize = 0;
const DIRECTION: usize = 2;

/// The part of A that all rows share, YᵀY, of which each row adds w₀ times.
#[derive(Debug, Clone, Copy)]
pub enum Base<'a> {
    /// YᵀY in its eigenbasis, where it is diagonal. Takes the fewest steps, without extra multiply-adds per step.
    Eigen {
        /// V [D, D], one eigenvector per row, from [`eigen`](super::eigen) of the [`gramian`](super::gramian).
        vectors: Tensor<'a>,
        /// The eigenvalues [1, D].
        values: Tensor<'a>,
    },
    /// YᵀY itself [D, D], the [`gramian`](super::gramian). A step costs D² more multiply-adds per row.
    Gramian(Tensor<'a>),
}

/// Refines `x` [rows, D] toward the result of [`solve`](super::solve), by `steps` of conjugate gradients per row from
/// the current `x`.
///
/// With 0 steps `x` keeps its values. Rows without observations always become 0. With [`Base::Eigen`], `y` is given in
/// the eigenbasis: y Vᵀ [M, D], which is [`linear::forward`](crate::linear::forward) of y with w = V. `ridge` [rows, 1]
/// is λ.
///
/// `loss` [[`Rows::pieces`](super::Rows::pieces), 1] receives the parts of the objective at the new `x`. The sum of
/// these parts and the other side's Σ λ |y|² is the whole objective; add them up in f64. They cost nothing extra,
/// because each step knows by how much it lowers the objective.
///
/// ```
/// # fn main() -> wgloss::Result<()> {
/// # let Ok(gpu) = wgloss::Gpu::new() else { return Ok(()) };
/// use wgloss::{Tensor, linear, wals};
/// // Two users, the first with items 0 and 1, the second with item 1; items of two numbers, YᵀY = [[1, 0], [0, 4]].
/// let rows = wals::Rows::new(&gpu, &[0, 2, 3], 2)?;
/// let (items, y) = (gpu.upload(&[0u32, 1, 1])?, gpu.upload(&[1.0f32, 0.0, 0.0, 2.0])?);
/// let [vectors, values] = wals::eigen(&[1.0, 0.0, 0.0, 4.0], 2).map(|numbers| gpu.upload(&numbers));
/// let (vectors, values) = (vectors?, values?);
/// let (vectors, values) = (Tensor::matrix(&vectors, 2, 2)?, Tensor::matrix(&values, 1, 2)?);
/// let (turned, x) = (gpu.zeros::<f32>(4)?, gpu.zeros::<f32>(4)?);
/// let (ridge, loss) = (gpu.upload(&[0.5f32; 2])?, gpu.zeros::<f32>(rows.pieces())?);
/// let (turned, x) = (Tensor::matrix(&turned, 2, 2)?, Tensor::matrix(&x, 2, 2)?);
/// let observed = wals::Observed { rows: &rows, items: Tensor::vector(&items, 3)?, weights: None, goals: None };
/// gpu.run(|recorder| {
///     linear::forward(recorder, Tensor::matrix(&y, 2, 2)?, vectors, None, turned)?;
///     let (ridge, loss) = (Tensor::vector(&ridge, 2)?, Tensor::vector(&loss, 2)?);
///     let base = wals::Base::Eigen { vectors, values };
///     wals::refine(recorder, turned, observed, base, ridge, x, loss, 2, wals::Options::default())
/// })?;
/// for (x, want) in gpu.read(x)?.iter().zip([1.0 / 1.5, 2.0 / 4.5, 0.0, 2.0 / 4.5]) {
///     assert!((x - want).abs() < 1e-6);
/// }
/// # Ok(()) }
/// ```
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape), [`Error::Option`](crate::Error::Option), [`Error::SameBuffer`](crate::Error::SameBuffer).
#[allow(clippy::too_many_arguments, reason = "inputs, outputs, options: the order of every op")]
pub fn refine(
    recorder: &mut Recorder,
    y: Tensor,
    observed: Observed,
    base: Base,
    ridge: Tensor,
    x: Tensor,
    loss: Tensor,
    steps: usize,
    options: Options,
) -> Result<()> {
    let dim = y.cols;
    check(observed, x, y, ridge, options)?;
    let own = match base {
        Base::Eigen { vectors, values } => {
            shaped(super::OP, "vectors", vectors, [dim, dim])?;
            shaped(super::OP, "values", values, [1, dim])?;
            vec![named("vectors", vectors), named("values", values)]
        }
        Base::Gramian(gramian) => {
            shaped(super::OP, "gramian", gramian, [dim, dim])?;
            vec![named("gramian", gramian)]
        }
    };
    let inputs: Vec<_> = inputs(y, observed, ridge).into_iter().chain(own).collect();
    shaped(super::OP, "loss", loss, [observed.rows.pieces(), 1])?;
    disjoint(super::OP, &[named("x", x), named("loss", loss)], &inputs)?;
    if dim == 0 || x.rows == 0 {
        return Ok(());
    }
    recorder.plan(|plan| {
        let gpu = plan.gpu();
        let cols = dim.next_multiple_of(4);
        let rows = observed.rows;
        let price = Price { row: (VECTORS + 1) * cols, piece: 2 * cols, observation: 16 * dim as u64 };
        for batch in rows.batches(gpu, price) {
            let [pieces, own] = rows.views(&batch)?;
            let (count, height) = (batch.pieces.len(), batch.rows.len());
            let held = [plan.scratch(SUMS, 2 * count * cols)?, plan.scratch(STATE, VECTORS * height * cols)?];
            let sums: Tensor = Tensor::strided(&held[0], 2 * count, dim, 0, cols)?;
            let state: Tensor = Tensor::strided(&held[1], VECTORS * height, dim, 0, cols)?;
            let vector = |which: usize| Tensor::strided(&held[1], height, dim, which * cols, VECTORS * cols);
            let (solution, direction): (Tensor, Tensor) = (vector(SOLUTION)?, vector(DIRECTION)?);
            let scratch = plan.scratch(SHARED, height * cols)?;
            let shared: Tensor = Tensor::strided(&scratch, height, dim, 0, cols)?;
            match base {
                Base::Eigen { vectors, .. } => {
                    take(plan, x, rows.ids(&batch)?, shared)?;
                    product(plan, Operand::by_k(shared), Operand::by_k(vectors), None, solution, false)?;
                }
                Base::Gramian(_) => take(plan, x, rows.ids(&batch)?, solution)?,
            }
            let told = Told::of(dim, options, &batch);
            let loss = Arg::whole(loss.row_range(batch.pieces.clone()));
            for step in 0..=steps {
                let start = [("START", u32::from(step == 0))];
                let from = if step == 0 { solution } else { direction };
                for (index, part) in parts(plan, super::OP, y)?.into_iter().enumerate() {
                    let [items, weights, goals] = observed.args(&batch);
                    let [y, from] = [y.row_range(part.clone()), from].map(Arg::whole);
                    let args = [y, items, weights, goals, Arg::whole(pieces), from, Arg::whole(sums), loss];
                    let flags = [&observed.flags(index > 0)[..], &start].concat();
                    let shape = [count, dim, batch.depth];
                    plan.deep_rows(&APPLY, shape, &args, &told.clone().part(&part).scalars(), &flags)?;
                }
                let [pieces, own] = [pieces, own].map(Arg::whole);
                let (numbers, shared) = match base {
                    Base::Eigen { values, .. } => (values, Arg::NONE),
                    Base::Gramian(gramian) => {
                        product(plan, Operand::by_k(from), Operand::by_k(gramian), None, shared, false)?;
                        (gramian, Arg::whole(shared))
                    }
                };
                let [sums, numbers, ridge, state] = [sums, numbers, ridge, state].map(Arg::whole);
                let args = [pieces, own, sums, numbers, shared, ridge, state, loss];
                let kernel = if step == 0 { &BEGIN } else { &ADVANCE };
                let dense = matches!(base, Base::Gramian(_)).into();
                plan.rows(kernel, [height, dim], &args, &told.scalars(), &[("DENSE", dense)])?;
            }
            let found = match base {
                Base::Eigen { vectors, .. } => {
                    product(plan, Operand::by_k(solution), Operand::by_row(vectors), None, shared, false)?;
                    shared
                }
                Base::Gramian(_) => solution,
            };
            put(plan, found, rows.ids(&batch)?, x)?;
        }
        Ok(())
    })
}
