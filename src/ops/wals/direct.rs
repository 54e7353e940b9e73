use super::rows::Price;
use super::{FACTOR, HESSIAN, Observed, Options, RIGHT, SOLVED, Told, check, inputs};
use crate::ops::gather::{parts, put};
use crate::ops::{disjoint, named, shaped};
use crate::plan::Arg;
use crate::{Recorder, Result, Tensor};

/// Scratch: the matrices of pieces.
const SUMS: usize = 0;

fn padded(dim: usize) -> usize {
    dim.next_multiple_of(4)
}

/// Size of a piece's matrix together with the four lines below it.
pub(super) fn matrix_size(dim: usize) -> usize {
    padded(dim) * (padded(dim) + 4)
}

/// Computes the `x` [rows, D] that minimizes the objective for `y` [M, D] with its [`gramian`](super::gramian) [D, D]
/// and `ridge` [rows, 1] = λ.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape), [`Error::Option`](crate::Error::Option), [`Error::SameBuffer`](crate::Error::SameBuffer);
/// [`Error::Limit`](crate::Error::Limit) if a D × D matrix exceeds a binding.
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
    shaped(super::OP, "gramian", gramian, [dim, dim])?;
    let inputs = inputs(y, observed, ridge).into_iter().chain([named("gramian", gramian)]).collect::<Vec<_>>();
    disjoint(super::OP, &[named("x", x)], &inputs)?;
    if dim == 0 || x.rows == 0 {
        return Ok(());
    }
    recorder.plan(|plan| {
        let gpu = plan.gpu();
        let cols = padded(dim);
        let [tile_rows, tile_cols] = gpu.tuning().tile();
        let rows = observed.rows;
        let price = Price { row: dim, piece: matrix_size(dim), observation: (dim * dim) as u64 };
        for batch in rows.batches(gpu, price) {
            let [pieces, own] = rows.views(&batch)?.map(Arg::whole);
            let count = batch.pieces.len();
            let scratch = plan.scratch(SUMS, count * matrix_size(dim))?;
            let sums: Tensor = Tensor::matrix(&scratch, count * (cols + 4), cols)?;
            let told = Told::of(dim, options, &batch);
            for (index, part) in parts(plan, super::OP, y)?.into_iter().enumerate() {
                let told = told.clone().part(&part);
                let [items, weights, goals] = observed.args(&batch);
                let [y, sums] = [y.row_range(part), sums].map(Arg::whole);
                let args = [y, items, weights, goals, pieces, Arg::whole(ridge), sums];
                let flags = observed.flags(index > 0);
                plan.lanes(&RIGHT, &args, [count, cols], &told.scalars(), &flags, 1)?;
                let grid = [cols.div_ceil(tile_cols), cols.div_ceil(tile_rows), count];
                let args = [y, items, weights, pieces, sums];
                plan.tiles(&HESSIAN, &args, [cols, cols, batch.depth * count], &told.scalars(), &flags, grid)?;
            }
            let scratch = plan.scratch(SOLVED, batch.rows.len() * dim)?;
            let solved: Tensor = Tensor::matrix(&scratch, batch.rows.len(), dim)?;
            // This kernel's tiles are of L and those of the other kernels are of observations, in the same functions;
            // `FACTORED` selects.
            let none = [Arg::NONE; 3];
            let args = [&none[..], &[own, Arg::whole(sums), Arg::whole(gramian), Arg::whole(solved)]].concat();
            plan.systems(&FACTOR, &args, [batch.rows.len(), cols], &told.scalars(), &[("FACTORED", 1)])?;
            put(plan, solved, rows.ids(&batch)?, x)?;
        }
        Ok(())
    })
}
