use super::rows::Price;
use super::{ADVANCE, APPLY, BEGIN, Observed, Options, Told, check, inputs};
use crate::ops::gather::{parts, put, take};
use crate::ops::linear::{Operand, product};
use crate::ops::{disjoint, named, shaped};
use crate::recorder::Arg;
use crate::{Recorder, Result, Tensor};

/// Scratch: what pieces add up to, and the rows' vectors. `linear` has slot 1.
const SUMS: usize = 0;
const STATE: usize = 2;
/// Vectors of a row: `SOLUTION` and those after it in the shader.
const VECTORS: usize = 4;
const SOLUTION: usize = 0;
const DIRECTION: usize = 2;

/// Where Yᵀ Y is diagonal: `vectors` V [D, D], an eigenvector a row, and `values` [1, D], from [`eigen`](super::eigen) of the
/// [`gramian`](super::gramian).
#[derive(Debug, Clone, Copy)]
pub struct Basis<'a> {
    /// V.
    pub vectors: Tensor<'a>,
    /// The eigenvalues.
    pub values: Tensor<'a>,
}

/// `x` [rows, D] brought nearer to what [`solve`](super::solve) gives, by `steps` of conjugate gradients for each row from what it holds. `turned` is y in the
/// basis, y Vᵀ [M, D]: [`linear::forward`](crate::linear::forward) of y with w = V.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape), [`Error::Option`](crate::Error::Option), [`Error::SameBuffer`](crate::Error::SameBuffer).
#[allow(clippy::too_many_arguments, reason = "inputs, outputs, options: the order of every op")]
pub fn refine(
    recorder: &mut Recorder,
    turned: Tensor,
    observed: Observed,
    basis: Basis,
    ridge: Tensor,
    x: Tensor,
    loss: Tensor,
    steps: usize,
    options: Options,
) -> Result<()> {
    let dim = turned.cols;
    check(observed, x, turned, ridge, options)?;
    shaped(super::OP, "vectors", basis.vectors, [dim, dim])?;
    shaped(super::OP, "values", basis.values, [1, dim])?;
    let inputs = inputs(turned, observed, ridge).into_iter();
    let inputs: Vec<_> = inputs.chain([named("vectors", basis.vectors), named("values", basis.values)]).collect();
    shaped(super::OP, "loss", loss, [observed.rows.pieces(), 1])?;
    disjoint(super::OP, &[named("x", x), named("loss", loss)], &inputs)?;
    if dim == 0 || x.rows == 0 {
        return Ok(());
    }
    recorder.plan(|plan| {
        let gpu = plan.gpu();
        let cols = dim.next_multiple_of(4);
        let rows = observed.rows;
        let price = Price { row: VECTORS * cols, piece: 2 * cols, observation: 16 * dim as u64 };
        for batch in rows.batches(gpu, price) {
            let [pieces, own] = rows.views(&batch)?;
            let (count, height) = (batch.pieces.len(), batch.rows.len());
            let held = [plan.scratch(SUMS, 2 * count * cols)?, plan.scratch(STATE, VECTORS * height * cols)?];
            let sums: Tensor = Tensor::strided(&held[0], 2 * count, dim, 0, cols)?;
            let state: Tensor = Tensor::strided(&held[1], VECTORS * height, dim, 0, cols)?;
            let vector = |which: usize| Tensor::strided(&held[1], height, dim, which * cols, VECTORS * cols);
            let (solution, direction): (Tensor, Tensor) = (vector(SOLUTION)?, vector(DIRECTION)?);
            take(plan, x, rows.ids(&batch)?, direction)?;
            product(plan, Operand::by_k(direction), Operand::by_k(basis.vectors), None, solution, false)?;
            let told = Told::of(dim, options, &batch);
            let loss = Arg::whole(loss.row_range(batch.pieces.clone()));
            for step in 0..=steps {
                let start = [("START", u32::from(step == 0))];
                let from = if step == 0 { solution } else { direction };
                for (index, part) in parts(plan, super::OP, turned)?.into_iter().enumerate() {
                    let [items, weights, goals] = observed.args();
                    let [y, from] = [turned.row_range(part.clone()), from].map(Arg::whole);
                    let args = [y, items, weights, goals, Arg::whole(pieces), from, Arg::whole(sums), loss];
                    let flags = [&observed.flags(index > 0)[..], &start].concat();
                    let shape = [count, dim, batch.depth];
                    plan.deep_rows(&APPLY, shape, &args, &told.clone().part(&part).scalars(), &flags)?;
                }
                let [pieces, own] = [pieces, own].map(Arg::whole);
                let numbers = [sums, basis.values, ridge, state].map(Arg::whole);
                let args = [&[pieces, own], &numbers[..], &[loss]].concat();
                let kernel = if step == 0 { &BEGIN } else { &ADVANCE };
                plan.rows(kernel, [height, dim], &args, &told.scalars(), &[])?;
            }
            product(plan, Operand::by_k(solution), Operand::by_row(basis.vectors), None, direction, false)?;
            put(plan, direction, rows.ids(&batch)?, x)?;
        }
        Ok(())
    })
}
