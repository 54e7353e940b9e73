//! The common part of losses of a layer's logits. The logits exist only for some rows at a time and are never stored as
//! a whole. Not an op of its own.

use core::ops::Range;

use super::linear::{self, Operand, chunks, in_f32, rounded, sum_of};
use super::pairs::{WIDE_DK, WIDE_DQ};
use super::{Accum, named, shaped, total};
use crate::plan::Plan;
use crate::{Error, Result, Storage, Tensor};

/// Scratch: `MATRICES` holds logits and their gradients, `OF_SEGMENTS` the losses of the segments of rows. Other parts
/// of these losses use slots 1, 2, 4, 5, 8, 20, 21 and 24.
const MATRICES: [usize; 3] = [0, 6, 7];
const OF_SEGMENTS: usize = 3;

/// The names of a layer's x, W and b in errors.
pub(super) type Names = [&'static str; 3];

/// A linear layer and its input.
#[derive(Debug, Clone, Copy)]
pub struct Layer<'a> {
    /// Input x, `[rows, inputs]`.
    pub x: Tensor<'a>,
    /// Weight W, `[classes, inputs]`.
    pub w: Tensor<'a>,
    /// Bias b, `[classes, 1]`. Absent: none.
    pub b: Option<Tensor<'a>>,
    /// Whether W and its gradient are stored as `[inputs, classes]`, as in burn and Flax.
    pub transposed: bool,
}

impl<'a> Layer<'a> {
    /// A layer without a bias, with W stored as `[classes, inputs]`.
    pub fn new(x: Tensor<'a>, w: Tensor<'a>) -> Self {
        Layer { x, w, b: None, transposed: false }
    }

    /// Refuses tensors whose shapes do not fit each other. `names` are those of x, W and b.
    pub(super) fn check(&self, op: &'static str, names: Names) -> Result<()> {
        let ([_, what, of_b], [_, inputs], [rows, cols]) = (names, self.x.shape(), self.w.shape());
        let (fits, expected) = match self.transposed {
            false => (cols == inputs && rows > 0, format!("classes x {inputs}, with a class at least")),
            true => (rows == inputs && cols > 0, format!("{inputs} x classes, with a class at least")),
        };
        if !fits {
            return Err(Error::Shape { op, what, expected, found: format!("{rows} x {cols}") });
        }
        self.b.map_or(Ok(()), |b| shaped(op, of_b, b, [self.classes(), 1]))
    }

    fn classes(&self) -> usize {
        if self.transposed { self.w.cols } else { self.w.rows }
    }

    /// W as a factor of a product that sums over the inputs, or over the classes.
    fn weight(&self, over_inputs: bool) -> Operand<'a> {
        if self.transposed == over_inputs { Operand::by_row(self.w) } else { Operand::by_k(self.w) }
    }

    pub(super) fn named(&self, [x, w, b]: Names) -> [(&'static str, Option<Tensor<'a, u32>>); 3] {
        [named(x, self.x), named(w, self.w), named(b, self.b)]
    }

    /// The shape of the logits.
    pub(super) fn shape(&self) -> [usize; 2] {
        [self.x.rows, self.classes()]
    }

    /// Plans the logits of some rows.
    pub(super) fn logits<'g>(&self, plan: &mut Plan<'g>, rows: Range<usize>, logits: Tensor) -> Result<()> {
        linear::product(plan, Operand::by_k(self.x.row_range(rows)), self.weight(true), self.b, logits, false)
    }
}

/// Outputs for gradients, each of the shape of its input. Absent gradients are not computed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Gradients<'a> {
    /// Gradient of x.
    pub dx: Option<Tensor<'a>>,
    /// Gradient of W.
    pub dw: Option<Tensor<'a>>,
    /// Gradient of b. May be given for a layer without b.
    pub db: Option<Tensor<'a>>,
    /// Whether dx overwrites its output or is added to it. For dW and db, the options' `accum` decides. Default:
    /// overwrite, since micro-batches accumulate dW and db, but each has its own dx.
    pub accum_dx: Accum,
}

impl<'a> Gradients<'a> {
    pub(super) fn is_empty(&self) -> bool {
        self.dx.is_none() && self.dw.is_none() && self.db.is_none()
    }

    pub(super) fn check(&self, op: &'static str, layer: &Layer) -> Result<()> {
        let of =
            [("dx", self.dx, layer.x.shape()), ("dw", self.dw, layer.w.shape()), ("db", self.db, [layer.classes(), 1])];
        of.into_iter().try_for_each(|(what, gradient, shape)| gradient.map_or(Ok(()), |it| shaped(op, what, it, shape)))
    }

    pub(super) fn named(&self) -> [(&'static str, Option<Tensor<'a, u32>>); 3] {
        [named("dx", self.dx), named("dw", self.dw), named("db", self.db)]
    }
}

/// Rows per part, for `bytes` of logits per row, such that a part fits the workspace. The parts have equal sizes, in
/// whole tiles if the workspace holds a tile's rows.
fn rows_at_once(plan: &Plan, rows: usize, bytes: usize) -> usize {
    let tuning = plan.gpu().tuning();
    let tile = tuning.tile()[0];
    let fit = (tuning.workspace as usize / bytes).max(1);
    let (fit, whole) = if fit < tile { (fit, 1) } else { (fit / tile * tile, tile) };
    rows.div_ceil(rows.div_ceil(fit).max(1)).next_multiple_of(whole)
}

/// Plans a pass over the rows, part by part.
///
/// For each part, `of_rows` gets N matrices of the size of the part's logits. If gradients are wanted, it leaves the
/// gradient of the logits in the first matrix. From that follow the part's dx and its contribution to dW and db.
pub(super) fn walk<'g, const N: usize>(
    plan: &mut Plan<'g>,
    op: &'static str,
    layer: Layer,
    gradients: Gradients,
    accum: Accum,
    mut of_rows: impl FnMut(&mut Plan<'g>, Range<usize>, [Tensor; N]) -> Result<()>,
) -> Result<()> {
    let [rows, classes] = layer.shape();
    let (needed, limit) = (4 * classes as u64, plan.binding_limit());
    if needed > limit {
        return Err(Error::Limit { what: format!("{op}: one row of logits"), needed, unit: "bytes", limit });
    }
    let stride = classes.next_multiple_of(4); // so that rows are written and read four at a time
    let at_once = rows_at_once(plan, rows, (4 * stride).saturating_mul(N));
    let parts: Vec<_> = chunks(rows, at_once).chain((rows == 0).then_some(0..0)).collect();
    let [add, add_dx] = [accum, gradients.accum_dx].map(|accum| accum == Accum::Add);
    // In 16 bits, a sum over several parts would be rounded with each part: it is formed in f32.
    let several = parts.len() > 1;
    let (wide_dw, wide_db) =
        (in_f32(plan, WIDE_DQ, gradients.dw, several)?, in_f32(plan, WIDE_DK, gradients.db, several)?);
    for (index, range) in parts.into_iter().enumerate() {
        let scratch = MATRICES[..N].iter().map(|&slot| plan.scratch(slot, range.len() * stride));
        let scratch = scratch.collect::<Result<Vec<_>>>()?;
        let view = |buffer| Tensor::view(Storage::F32, buffer, range.len(), classes, 0, stride);
        let matrices = scratch.iter().map(view).collect::<Result<Vec<_>>>()?;
        let Ok(matrices) = <[Tensor; N]>::try_from(matrices) else { unreachable!("as many as there are slots") };
        let g = matrices[0];
        of_rows(plan, range.clone(), matrices)?;
        if let Some(dw) = gradients.dw {
            let (dw, add) = sum_of(&wide_dw, dw, add)?;
            let (g, x) = (Operand::by_row(g), Operand::by_row(layer.x.row_range(range.clone())));
            let [left, right] = if layer.transposed { [x, g] } else { [g, x] };
            linear::product(plan, left, right, None, dw, add || index > 0)?;
        }
        if let Some(db) = gradients.db {
            let (db, add) = sum_of(&wide_db, db, add)?;
            linear::column_sum(plan, g, db, add || index > 0)?;
        }
        if let Some(dx) = gradients.dx {
            linear::product(plan, Operand::by_k(g), layer.weight(false), None, dx.row_range(range), add_dx)?;
        }
    }
    rounded(plan, &wide_dw, gradients.dw, add)?;
    rounded(plan, &wide_db, gradients.db, add)
}

/// Puts the op's name into a limit error of the `linear` kernels that the op uses.
pub(super) fn named_as<T>(op: &'static str, result: Result<T>) -> Result<T> {
    result.map_err(|error| match error {
        Error::Limit { what, needed, unit, limit } if !what.starts_with(op) => {
            Error::Limit { what: format!("{op}: {what}"), needed, unit, limit }
        }
        error => error,
    })
}

/// Plans the losses of rows of `shape`. `of_rows` writes one value per segment of a row; each row's segments are then
/// summed into `loss`.
pub(super) fn losses<'g>(
    plan: &mut Plan<'g>,
    [rows, cols]: [usize; 2],
    loss: Tensor,
    of_rows: impl FnOnce(&mut Plan<'g>, Tensor) -> Result<()>,
) -> Result<()> {
    let segments = plan.cut(rows, cols).segments;
    if segments == 1 {
        return of_rows(plan, loss);
    }
    let scratch = plan.scratch(OF_SEGMENTS, rows * segments)?;
    let of_segments = Tensor::matrix(&scratch, rows, segments)?;
    of_rows(plan, of_segments)?;
    total::row_totals(plan, of_segments, loss, 1.0)
}
