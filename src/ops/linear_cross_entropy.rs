//! [`cross_entropy`] of the logits x Wᵀ + b, which are never stored: the last layer of a classifier or a language model with its
//! loss, in the memory of a few rows of logits.
//!
//! Some rows at a time, as many as the workspace holds logits of ([`Tuning::workspace`](crate::Tuning::workspace)): the kernels of [`linear`] form their logits,
//! those of [`cross_entropy`] put the gradient in their place, and from it come these rows' dx and what they add to dW and db. Memory beyond inputs and
//! outputs is at most twice the workspace and a few numbers a row; gradients of 16 bits that come from several parts take four
//! bytes a number more while they are summed. Work, with U = 2 · rows · inputs · classes: [`forward`] U, with gradients 3U, [`backward`] 3U; U less for each of dx and dW that
//! is left out. Each part of the rows reads W twice and dW once and writes it: with more classes than 100,000, on a device with much compute for its
//! bandwidth, a larger workspace is faster.
//!
//! Options, targets, weights and special values are those of [`cross_entropy`]; a NaN in a row of x reaches that row's logits, so its loss, dx and all of dW.
//! A NaN or infinity in W reaches the dx of all rows, also of ignored ones.
//!
//! Source: as of [`linear`] and [`cross_entropy`]; a part of the rows at a time with the gradient in the forward pass: Hsu et al. 2024, arXiv:2410.10989,
//! section 3.3.

use super::cross_entropy::Batch;
pub use super::cross_entropy::{Options, Target, Weights};
pub use super::layer::{Gradients, Layer};
use super::layer::{Names, losses, walk};
use super::{Accum, cross_entropy, disjoint, named, only_f32, rows_of, shaped, total};
use crate::{Gpu, Recorder, Result, Tensor};

const OP: &str = "linear_cross_entropy";
const NAMES: Names = ["x", "w", "b"];

/// `loss`: [rows, 1] for [`Reduction::None`](crate::Reduction::None) and [`Reduction::Rows`](crate::Reduction::Rows), else [1, 1]. `lse` [rows, 2], stored as f32, receives what [`backward`]
/// needs, and [`cross_entropy::z_loss`]. `predicted` [rows, 1], if given, receives the class of the largest logit, as [`cross_entropy::predict`] finds
/// it. With `gradients`, those of them that are given, for a loss whose own gradient is 1, from the same logits.
///
/// ```
/// # fn main() -> wgloss::Result<()> {
/// # let Ok(gpu) = wgloss::Gpu::new() else { return Ok(()) };
/// use wgloss::{Tensor, linear_cross_entropy as lce};
/// # let (tokens, dim, vocabulary) = (32, 16, 1000);
/// # let (hidden, head) = (gpu.zeros::<f32>(tokens * dim)?, gpu.zeros::<f32>(vocabulary * dim)?);
/// # let (d_hidden, d_head) = (gpu.zeros::<f32>(tokens * dim)?, gpu.zeros::<f32>(vocabulary * dim)?);
/// # let (next, loss, lse) = (gpu.zeros::<u32>(tokens)?, gpu.zeros::<f32>(1)?, gpu.zeros::<f32>(2 * tokens)?);
/// let layer = lce::Layer::new(Tensor::matrix(&hidden, tokens, dim)?, Tensor::matrix(&head, vocabulary, dim)?);
/// let (dx, dw) = (Some(Tensor::matrix(&d_hidden, tokens, dim)?), Some(Tensor::matrix(&d_head, vocabulary, dim)?));
/// let (target, loss, lse) = (lce::Target::Ids(Tensor::vector(&next, tokens)?), Tensor::scalar(&loss, 0)?, Tensor::matrix(&lse, tokens, 2)?);
/// let gradients = lce::Gradients { dx, dw, db: None };
/// gpu.run(|recorder| lce::forward(recorder, layer, target, lce::Weights::default(), loss, lse, None, gradients, lce::Options::default()))?;
/// assert!((gpu.read(loss)?[0] - 1000f32.ln()).abs() < 1e-5); // of logits that are all 0
/// # Ok(()) }
/// ```
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape), [`Error::Option`](crate::Error::Option), [`Error::SameBuffer`](crate::Error::SameBuffer);
/// [`Error::Limit`](crate::Error::Limit) if the device cannot bind one row of logits, of W or of x.
#[allow(clippy::too_many_arguments, reason = "inputs, outputs, options: the order of every op")]
pub fn forward(
    recorder: &mut Recorder,
    layer: Layer,
    target: Target,
    weights: Weights,
    loss: Tensor,
    lse: Tensor,
    predicted: Option<Tensor<u32>>,
    gradients: Gradients,
    options: Options,
) -> Result<()> {
    layer.check(OP, NAMES)?;
    let (rows, wants) = (layer.x.rows, !gradients.is_empty());
    let batch = Batch::new(OP, layer.shape(), target, weights, written(options))?.with_dx(wants, None);
    shaped(OP, "lse", lse, [rows, 2])?;
    only_f32(OP, "lse", lse)?;
    shaped(OP, "loss", loss, options.reduction.of_rows(rows))?;
    if let Some(predicted) = predicted {
        shaped(OP, "predicted", predicted, [rows, 1])?;
    }
    gradients.check(OP, &layer)?;
    let values = [named("loss", loss), named("lse", lse), named("predicted", predicted)];
    disjoint(OP, &[values, gradients.named()].concat(), &[&layer.named(NAMES)[..], &batch.named()].concat())?;
    recorder.plan(|plan| {
        plan.name(OP);
        let row = batch.weigh(plan, None)?;
        let row = Tensor::<u32>::matrix(&row, rows, 4)?;
        let direct = options.reduction.by_row();
        let scratch = total::values(plan, if direct { 0 } else { rows }, 1)?;
        let value = if direct { loss } else { Tensor::vector(&scratch, rows)? };
        walk(plan, OP, layer, gradients, options.accum, |plan, range, [logits]| {
            layer.logits(plan, range.clone(), logits)?;
            if let Some(predicted) = predicted {
                cross_entropy::predictions(plan, logits, predicted.row_range(range.clone()))?;
            }
            let (value, lse) = (value.row_range(range.clone()), lse.row_range(range.clone()));
            let dx = wants.then_some(logits);
            losses(plan, logits.shape(), value, |plan, value| batch.losses(plan, range, logits, row, [value, lse], dx))
        })?;
        if direct { Ok(()) } else { total::total(plan, value, loss, 1.0) }
    })
}

/// Those of `gradients` that are given, from the forward's inputs and its `lse`; `dy` is the gradient of the loss, of the loss's shape, ones if absent.
///
/// # Errors
/// As [`forward`].
#[allow(clippy::too_many_arguments, reason = "inputs, outputs, options: the order of every op")]
pub fn backward(
    recorder: &mut Recorder,
    layer: Layer,
    target: Target,
    weights: Weights,
    lse: Tensor,
    dy: Option<Tensor>,
    gradients: Gradients,
    options: Options,
) -> Result<()> {
    layer.check(OP, NAMES)?;
    let rows = layer.x.rows;
    let batch = Batch::new(OP, layer.shape(), target, weights, written(options))?.with_dx(true, dy);
    shaped(OP, "lse", lse, [rows, 2])?;
    only_f32(OP, "lse", lse)?;
    if let Some(dy) = dy {
        shaped(OP, "dy", dy, options.reduction.of_rows(rows))?;
    }
    gradients.check(OP, &layer)?;
    let inputs = [&layer.named(NAMES)[..], &batch.named(), &[named("lse", lse), named("dy", dy)]].concat();
    disjoint(OP, &gradients.named(), &inputs)?;
    if gradients.is_empty() {
        return Ok(());
    }
    recorder.plan(|plan| {
        plan.name(OP);
        let row = batch.weigh(plan, dy)?;
        let row = Tensor::<u32>::matrix(&row, rows, 4)?;
        walk(plan, OP, layer, gradients, options.accum, |plan, range, [logits]| {
            layer.logits(plan, range.clone(), logits)?;
            batch.gradients(plan, range.clone(), logits, row, lse.row_range(range), logits)
        })
    })
}

/// The gradient of logits is written in their place, whatever the layer's are added to.
fn written(options: Options) -> Options {
    Options { accum: Accum::Write, ..options }
}

/// What [`compute`] returns.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// One number, or one per row for [`Reduction::None`](crate::Reduction::None) and [`Reduction::Rows`](crate::Reduction::Rows).
    pub loss: Vec<f32>,
    /// Gradient of x.
    pub dx: Vec<f32>,
    /// Gradient of W.
    pub dw: Vec<f32>,
    /// Gradient of b, whether there is one or not.
    pub db: Vec<f32>,
}

/// The loss of slices of rows of `inputs` elements, and all gradients; `w` has such a row for each class.
///
/// ```
/// # let Ok(gpu) = wgloss::Gpu::new() else { return };
/// use wgloss::linear_cross_entropy;
/// let (x, w) = ([1.0, 0.0, 0.0, 1.0], [5.0, 0.0, 5.0, 0.0]); // logits 5, 5 and 0, 0
/// let found = linear_cross_entropy::compute(&gpu, &x, &w, None, 2, &[0, 1], Default::default()).unwrap();
/// assert!((found.loss[0] - 2f32.ln()).abs() < 1e-7);
/// assert_eq!(found.dw, [-0.25, 0.25, 0.25, -0.25]);
/// ```
///
/// # Errors
/// As [`forward`]; [`Error::Option`](crate::Error::Option) for an id that is neither below the number of classes nor [`Options::ignore`]; any error of the device.
#[cfg(not(target_arch = "wasm32"))]
pub fn compute(
    gpu: &Gpu,
    x: &[f32],
    w: &[f32],
    b: Option<&[f32]>,
    inputs: usize,
    ids: &[u32],
    options: Options,
) -> Result<Output> {
    let (rows, classes) = (rows_of(OP, "x", x, inputs)?, rows_of(OP, "w", w, inputs)?);
    cross_entropy::check_ids(OP, ids, classes, options)?;
    let [loss_rows, _] = options.reduction.of_rows(rows);
    let [x, w] = [gpu.upload(x)?, gpu.upload(w)?];
    let bias = b.map(|b| gpu.upload(b)).transpose()?;
    let id = gpu.upload(ids)?;
    let [loss, lse] = [gpu.zeros::<f32>(loss_rows)?, gpu.zeros::<f32>(2 * rows)?];
    let [dx, dw, db] =
        [gpu.zeros::<f32>(rows * inputs)?, gpu.zeros::<f32>(classes * inputs)?, gpu.zeros::<f32>(classes)?];
    let b = bias.as_ref().zip(b).map(|(buffer, b)| Tensor::vector(buffer, b.len())).transpose()?;
    let layer = Layer { b, ..Layer::new(Tensor::matrix(&x, rows, inputs)?, Tensor::matrix(&w, classes, inputs)?) };
    let (target, loss) = (Target::Ids(Tensor::vector(&id, ids.len())?), Tensor::vector(&loss, loss_rows)?);
    let (lse, dx) = (Tensor::matrix(&lse, rows, 2)?, Tensor::matrix(&dx, rows, inputs)?);
    let (dw, db) = (Tensor::matrix(&dw, classes, inputs)?, Tensor::vector(&db, classes)?);
    let gradients = Gradients { dx: Some(dx), dw: Some(dw), db: Some(db) };
    let options = written(options);
    gpu.run(|recorder| forward(recorder, layer, target, Weights::default(), loss, lse, None, gradients, options))?;
    Ok(Output { loss: gpu.read(loss)?, dx: gpu.read(dx)?, dw: gpu.read(dw)?, db: gpu.read(db)? })
}
