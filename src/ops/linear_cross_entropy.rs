//! [`cross_entropy`] of the logits x Wᵀ + b of a linear layer, without ever storing all logits.
//!
//! For the last layer of a classifier or a language model: only some rows of logits are in memory at a time.
//!
//! The rows are processed in parts, each of as many rows as the workspace
//! ([`Tuning::workspace`](crate::Tuning::workspace)) holds logits of. The kernels of [`linear`](crate::linear) form the
//! logits of a part. Those of [`cross_entropy`] overwrite them with their gradient. From that follow the part's dx and
//! its contribution to dW and db.
//!
//! Memory beyond inputs and outputs: at most twice the workspace, a few numbers per row, and four bytes per number of a
//! 16-bit gradient that is summed over several parts. Buffers are rounded up to powers of two, so a workspace that is a
//! power of two is used in full.
//!
//! Work, with U = 2 · rows · inputs · classes: [`forward`] U, [`forward`] with gradients 3U, [`backward`] 3U. Each of
//! dx and dW that is left out saves U. For each part, W is read twice, and dW is read and written once. With more than
//! 100,000 classes, on a device with much compute for its bandwidth, a larger workspace is faster.
//!
//! Options, targets, weights and special values are those of [`cross_entropy`], with these exceptions for sums over
//! rows or classes:
//! - A NaN or an infinity in x reaches its column of dW `[classes, inputs]`, even if its row is ignored. Loss, dx and
//!   the contribution to db of an ignored row are 0 all the same. Rows used as padding must therefore be finite.
//! - A NaN or an infinity in W reaches dx of all rows.
//! - A row whose loss is NaN, for example because its id is no class, makes all of dW and db NaN.
//!
//! Micro-batches: with [`Options::accum`] = `Add`, dW and db are summed over the calls. dx is overwritten, since each
//! micro-batch has its own ([`Gradients::accum_dx`]). For the mean over the whole batch without class weights, use
//! [`Reduction::Sum`](crate::Reduction::Sum) and the weight 1/count for each row ([`Weights::row`]), where count is the
//! number of rows of the whole batch that are not ignored. [`forward`] then computes all gradients together with the
//! loss.
//!
//! Source: as for [`linear`](crate::linear) and [`cross_entropy`]; rows in parts, with the gradient in the forward
//! pass: Hsu et al. 2024, arXiv:2410.10989.

pub use super::cross_entropy::{Options, Target, Weights};
pub use super::layer::{Gradients, Layer};
use super::layer::{Names, losses, named_as, walk};
use super::{Accum, cross_entropy, disjoint, named, only_f32, rows_of, shaped, total};
use crate::{Gpu, Recorder, Result, Tensor};

const OP: &str = "linear_cross_entropy";
const NAMES: Names = ["x", "w", "b"];

/// Scratch: log-sum-exps, if the caller gives no tensor for them.
const LSE: usize = 8;

/// The layer, its input, and the targets.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// The layer and its input.
    pub layer: Layer<'a>,
    /// Class ids `[rows, 1]` or soft targets `[rows, classes]`.
    pub target: Target<'a>,
    /// Weights of classes and rows.
    pub weights: Weights<'a>,
}

impl<'a> Batch<'a> {
    /// A batch without weights.
    pub fn new(layer: Layer<'a>, target: Target<'a>) -> Self {
        Batch { layer, target, weights: Weights::default() }
    }

    /// The same batch in terms of logits. The gradient of the logits always overwrites the logits, whatever `accum`
    /// says about the layer's gradients.
    fn rows(&self, options: Options) -> Result<cross_entropy::Batch<'a>> {
        self.layer.check(OP, NAMES)?;
        let options = Options { accum: Accum::Write, ..options };
        cross_entropy::Batch::new(OP, self.layer.shape(), self.target, self.weights, options)
    }
}

fn check_lse(lse: Tensor, rows: usize) -> Result<()> {
    shaped(OP, "lse", lse, [rows, 2])?;
    only_f32(OP, "lse", lse)
}

/// The loss of a batch, and optionally its gradients.
///
/// `loss` is `[rows, 1]` for [`Reduction::None`](crate::Reduction::None) and
/// [`Reduction::Rows`](crate::Reduction::Rows), else `[1, 1]`. `lse` `[rows, 2]`, stored as f32, receives what
/// [`backward`] and [`cross_entropy::z_loss`] need; give it if they are to follow. `predicted` `[rows, 1]` receives the
/// class ids that [`predict`] finds. The given `gradients` are the same as from [`backward`] without `dy`, computed
/// from the same logits.
///
/// ```
/// # fn main() -> wgloss::Result<()> {
/// # let Ok(gpu) = wgloss::Gpu::new() else { return Ok(()) };
/// use wgloss::{Tensor, linear_cross_entropy as lce};
/// # let (tokens, dim, vocabulary) = (32, 16, 1000);
/// # let (hidden, head) = (gpu.zeros::<f32>(tokens * dim)?, gpu.zeros::<f32>(vocabulary * dim)?);
/// # let (d_hidden, d_head) = (gpu.zeros::<f32>(tokens * dim)?, gpu.zeros::<f32>(vocabulary * dim)?);
/// # let (next, loss) = (gpu.zeros::<u32>(tokens)?, gpu.zeros::<f32>(1)?);
/// let layer = lce::Layer::new(Tensor::matrix(&hidden, tokens, dim)?, Tensor::matrix(&head, vocabulary, dim)?);
/// let batch = lce::Batch::new(layer, lce::Target::Ids(Tensor::vector(&next, tokens)?));
/// let (dx, dw) = (Some(Tensor::matrix(&d_hidden, tokens, dim)?), Some(Tensor::matrix(&d_head, vocabulary, dim)?));
/// let (loss, gradients) = (Tensor::scalar(&loss, 0)?, lce::Gradients { dx, dw, ..Default::default() });
/// gpu.run(|recorder| lce::forward(recorder, batch, loss, None, None, gradients, lce::Options::default()))?;
/// assert!((gpu.read(loss)?[0] - 1000f32.ln()).abs() < 1e-5); // of logits that are all 0
/// # Ok(()) }
/// ```
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape), [`Error::Option`](crate::Error::Option),
/// [`Error::SameBuffer`](crate::Error::SameBuffer); [`Error::Limit`](crate::Error::Limit) if the device cannot bind one
/// row of logits, of W or of x.
pub fn forward(
    recorder: &mut Recorder,
    batch: Batch,
    loss: Tensor,
    lse: Option<Tensor>,
    predicted: Option<Tensor<u32>>,
    gradients: Gradients,
    options: Options,
) -> Result<()> {
    let (layer, wants) = (batch.layer, !gradients.is_empty());
    let of_rows = batch.rows(options)?.with_dx(wants, None);
    let rows = layer.x.rows;
    lse.map_or(Ok(()), |lse| check_lse(lse, rows))?;
    shaped(OP, "loss", loss, options.reduction.of_rows(rows))?;
    predicted.map_or(Ok(()), |predicted| shaped(OP, "predicted", predicted, [rows, 1]))?;
    gradients.check(OP, &layer)?;
    let values = [named("loss", loss), named("lse", lse), named("predicted", predicted)];
    disjoint(OP, &[values, gradients.named()].concat(), &[&layer.named(NAMES)[..], &of_rows.named()].concat())?;
    let planned = recorder.plan(|plan| {
        plan.name(OP);
        let row = of_rows.weigh(plan, None)?;
        let row = Tensor::<u32>::matrix(&row, rows, 4)?;
        let own_lse = plan.scratch(LSE, if lse.is_none() { 2 * rows } else { 0 })?;
        let lse = lse.map_or_else(|| Tensor::matrix(&own_lse, rows, 2), Ok)?;
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
            losses(plan, logits.shape(), value, |plan, value| {
                of_rows.losses(plan, range, logits, row, [value, lse], dx)
            })
        })?;
        if direct { Ok(()) } else { total::total(plan, value, loss, 1.0) }
    });
    named_as(OP, planned)
}

/// The given `gradients` from the forward's inputs and its `lse`.
///
/// `dy` is the gradient of the loss and has the loss's shape. Absent: ones.
///
/// # Errors
/// As [`forward`].
pub fn backward(
    recorder: &mut Recorder,
    batch: Batch,
    lse: Tensor,
    dy: Option<Tensor>,
    gradients: Gradients,
    options: Options,
) -> Result<()> {
    let layer = batch.layer;
    let of_rows = batch.rows(options)?.with_dx(true, dy);
    let rows = layer.x.rows;
    check_lse(lse, rows)?;
    dy.map_or(Ok(()), |dy| shaped(OP, "dy", dy, options.reduction.of_rows(rows)))?;
    gradients.check(OP, &layer)?;
    let inputs = [&layer.named(NAMES)[..], &of_rows.named(), &[named("lse", lse), named("dy", dy)]].concat();
    disjoint(OP, &gradients.named(), &inputs)?;
    if gradients.is_empty() {
        return Ok(());
    }
    let planned = recorder.plan(|plan| {
        plan.name(OP);
        let row = of_rows.weigh(plan, dy)?;
        let row = Tensor::<u32>::matrix(&row, rows, 4)?;
        walk(plan, OP, layer, gradients, options.accum, |plan, range, [logits]| {
            layer.logits(plan, range.clone(), logits)?;
            of_rows.gradients(plan, range.clone(), logits, row, lse.row_range(range), logits)
        })
    });
    named_as(OP, planned)
}

/// The predicted class ids `[rows, 1]`: the class of each row's largest logit, as [`cross_entropy::predict`] finds it.
///
/// No softcap is applied to the logits: it does not change their order.
///
/// # Errors
/// As [`forward`].
pub fn predict(recorder: &mut Recorder, layer: Layer, predicted: Tensor<u32>) -> Result<()> {
    layer.check(OP, NAMES)?;
    shaped(OP, "predicted", predicted, [layer.x.rows, 1])?;
    disjoint(OP, &[named("predicted", predicted)], &layer.named(NAMES))?;
    let planned = recorder.plan(|plan| {
        plan.name(OP);
        walk(plan, OP, layer, Gradients::default(), Accum::Write, |plan, range, [logits]| {
            layer.logits(plan, range.clone(), logits)?;
            cross_entropy::predictions(plan, logits, predicted.row_range(range))
        })
    });
    named_as(OP, planned)
}

/// The result of [`compute`].
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// One number, or one per row for [`Reduction::None`](crate::Reduction::None) and
    /// [`Reduction::Rows`](crate::Reduction::Rows).
    pub loss: Vec<f32>,
    /// Gradient of x.
    pub dx: Vec<f32>,
    /// Gradient of W.
    pub dw: Vec<f32>,
    /// Gradient of b, also if there is no b.
    pub db: Vec<f32>,
}

/// The loss and all gradients, on slices. `x` has rows of `inputs` elements, `w` one such row per class.
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
/// As [`forward`]; [`Error::Option`](crate::Error::Option) for an id that is neither below the number of classes nor
/// [`Options::ignore`]; any error of the device.
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
    if classes > 0 {
        cross_entropy::check_ids(OP, ids, classes, options)?;
    }
    let [loss_rows, _] = options.reduction.of_rows(rows);
    let [x, w] = [gpu.upload(x)?, gpu.upload(w)?];
    let bias = b.map(|b| gpu.upload(b)).transpose()?;
    let id = gpu.upload(ids)?;
    let loss = gpu.zeros::<f32>(loss_rows)?;
    let [dx, dw, db] =
        [gpu.zeros::<f32>(rows * inputs)?, gpu.zeros::<f32>(classes * inputs)?, gpu.zeros::<f32>(classes)?];
    let b = bias.as_ref().zip(b).map(|(buffer, b)| Tensor::vector(buffer, b.len())).transpose()?;
    let layer = Layer { b, ..Layer::new(Tensor::matrix(&x, rows, inputs)?, Tensor::matrix(&w, classes, inputs)?) };
    let (batch, loss) =
        (Batch::new(layer, Target::Ids(Tensor::vector(&id, ids.len())?)), Tensor::vector(&loss, loss_rows)?);
    let (dx, dw) = (Tensor::matrix(&dx, rows, inputs)?, Tensor::matrix(&dw, classes, inputs)?);
    let db = Tensor::vector(&db, classes)?;
    let gradients = Gradients { dx: Some(dx), dw: Some(dw), db: Some(db), ..Default::default() };
    let options = Options { accum: Accum::Write, ..options };
    gpu.run(|recorder| forward(recorder, batch, loss, None, None, gradients, options))?;
    Ok(Output { loss: gpu.read(loss)?, dx: gpu.read(dx)?, dw: gpu.read(dw)?, db: gpu.read(db)? })
}
