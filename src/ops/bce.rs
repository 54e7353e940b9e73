//! Binary cross-entropy of logits: loss_ij = w_ij (−c_j t_ij ln σ(x_ij) − (1 − t_ij) ln(1 − σ(x_ij))), with logits x,
//! targets t between 0 and 1 and the sigmoid σ.
//!
//! w are weights of the elements. c are weights of the positive side, one per column. Absent weights are 1. Neither
//! logarithm suffers from cancellation: −ln σ(x) = ln(1 + e^−|x|) + max(−x, 0) and −ln(1 − σ(x)) = −ln σ(−x). The
//! gradient is dx = w ((1 − t) σ(x) − c t σ(−x)) dy.
//!
//! Targets outside 0 to 1 and negative weights enter the formulas unchanged. A side whose factor is 0 adds nothing,
//! even where its logarithm is infinite: x = +inf has loss 0 with t = 1 and loss +inf with t = 0. NaN gives NaN.
//!
//! Source: Cox 1958, doi:10.1111/j.2517-6161.1958.tb00292.x; weights and reductions as in
//! torch.nn.functional.binary_cross_entropy_with_logits.

use super::elementwise::Pass;
use super::{Accum, Reduction, disjoint, named, not_added, rows_of, shaped};
use crate::kernel::{Family, Kernel, ScalarType::*, Shader, input, output, wgsl};
use crate::{Gpu, Recorder, Result, Tensor};

const OP: &str = "bce";
static SHADER: Shader = Shader {
    op: OP,
    source: wgsl!("bce", "loss", "math", "lse", "row"),
    bindings: &[input("x"), input("t"), input("w"), input("pos_weight"), input("dy"), output("loss"), output("dx")],
    scalars: &[("factor", F32)],
    family: Family::Rows,
};
static FORWARD: Kernel = Kernel {
    shader: &SHADER,
    entry: "forward",
    uses: &["x", "t", "w", "pos_weight", "dy", "loss", "dx"],
    in_place: Some(("x", "dx")),
};
pub(super) const KERNELS: &[&Kernel] = &[&FORWARD];

/// The inputs of the loss.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// Logits x, `[rows, cols]`.
    pub x: Tensor<'a>,
    /// Targets t, `[rows, cols]`.
    pub t: Tensor<'a>,
    /// Weights w of the elements, `[rows, cols]`. Absent: 1.
    pub weight: Option<Tensor<'a>>,
    /// Weights c of the positive side, `[1, cols]`. Absent: 1.
    pub pos_weight: Option<Tensor<'a>>,
}

/// Options of the op.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// Default: the mean over all elements, whatever their weights.
    pub reduction: Reduction,
    /// Whether gradients overwrite their outputs or are added to them. `Add` is refused if `dx` is `x` itself.
    /// [`compute`] always overwrites. Default: overwrite.
    pub accum: Accum,
}

/// The loss of `inputs`.
///
/// `loss` has x's shape for [`Reduction::None`], `[rows, 1]` for [`Reduction::Rows`], else `[1, 1]`. `dx`, if given,
/// receives the same gradient as from [`backward`] without `dy`, in the same pass. `dx` may be x itself.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape), [`Error::Option`](crate::Error::Option),
/// [`Error::SameBuffer`](crate::Error::SameBuffer).
pub fn forward(
    recorder: &mut Recorder,
    inputs: Inputs,
    loss: Tensor,
    dx: Option<Tensor>,
    options: Options,
) -> Result<()> {
    pass(recorder, inputs, Some(loss), None, dx, options)
}

/// The gradient `dx` from the forward's inputs.
///
/// `dy` is the gradient of the loss and has the loss's shape. Absent: ones. `dx` may be x itself.
///
/// # Errors
/// As [`forward`].
pub fn backward(
    recorder: &mut Recorder,
    inputs: Inputs,
    dy: Option<Tensor>,
    dx: Tensor,
    options: Options,
) -> Result<()> {
    pass(recorder, inputs, None, dy, Some(dx), options)
}

fn pass(
    recorder: &mut Recorder,
    inputs: Inputs,
    loss: Option<Tensor>,
    dy: Option<Tensor>,
    dx: Option<Tensor>,
    options: Options,
) -> Result<()> {
    let Inputs { x, t, weight, pos_weight } = inputs;
    let Options { reduction, accum } = options;
    shaped(OP, "t", t, x.shape())?;
    weight.map_or(Ok(()), |weight| shaped(OP, "weight", weight, x.shape()))?;
    pos_weight.map_or(Ok(()), |pos_weight| shaped(OP, "pos_weight", pos_weight, [1, x.cols]))?;
    let pass = Pass {
        op: OP,
        kernel: &FORWARD,
        inputs: [Some(x), Some(t), weight],
        column: Some(pos_weight),
        dy,
        loss,
        gradients: [("dx", dx)],
        reduction,
        accum,
    };
    pass.check()?;
    let in_place = dx.is_some_and(|dx| dx.same(x));
    not_added(OP, accum, in_place)?;
    let other_x = (!in_place).then_some(x);
    let read =
        [named("x", other_x), named("t", t), named("weight", weight), named("pos_weight", pos_weight), named("dy", dy)];
    disjoint(OP, &[named("loss", loss), named("dx", dx)], &read)?;
    let flags = [("HAS_WEIGHT", weight.is_some().into()), ("HAS_POS_WEIGHT", pos_weight.is_some().into())];
    recorder.plan(|plan| pass.plan(plan, &[], &flags))
}

/// The loss and dx of slices of logits and targets, in rows of `cols` elements, without weights.
///
/// ```
/// # let Ok(gpu) = wgloss::Gpu::new() else { return };
/// let (loss, dx) = wgloss::bce::compute(&gpu, &[0.0, 0.0], &[0.0, 1.0], 2, Default::default()).unwrap();
/// assert!((loss[0] - 2f32.ln()).abs() < 1e-7);
/// assert_eq!(dx, [0.25, -0.25]);
/// ```
///
/// # Errors
/// As [`forward`], and any error of the device.
#[cfg(not(target_arch = "wasm32"))]
pub fn compute(gpu: &Gpu, x: &[f32], t: &[f32], cols: usize, options: Options) -> Result<(Vec<f32>, Vec<f32>)> {
    let (rows, target_rows) = (rows_of(OP, "x", x, cols)?, rows_of(OP, "t", t, cols)?);
    let [loss_rows, loss_cols] = options.reduction.of_elements([rows, cols]);
    let (x, t, loss) = (gpu.upload(x)?, gpu.upload(t)?, gpu.zeros::<f32>(loss_rows * loss_cols)?);
    let (x, t) = (Tensor::matrix(&x, rows, cols)?, Tensor::matrix(&t, target_rows, cols)?);
    let loss = Tensor::matrix(&loss, loss_rows, loss_cols)?;
    let inputs = Inputs { x, t, weight: None, pos_weight: None };
    let options = Options { accum: Accum::Write, ..options };
    gpu.run(|recorder| forward(recorder, inputs, loss, Some(x), options))?;
    Ok((gpu.read(loss)?, gpu.read(x)?))
}
