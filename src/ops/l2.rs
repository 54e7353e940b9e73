//! Squared error: loss_ij = f (x_ij − t_ij)², with targets t; dx = 2f (x − t) dy, dt = −dx.
//!
//! f = 1 gives torch.nn.functional.mse_loss, f = 0.5 optax.l2_loss. NaN gives NaN, and so do equal infinities. Values
//! beyond f32 become +inf.
//!
//! Source: Legendre 1805; Hastie, Tibshirani and Friedman 2009, doi:10.1007/978-0-387-84858-7, section 2.4.

use super::elementwise::Pass;
use super::{Accum, Reduction, disjoint, named, not_added, required, rows_of, shaped};
use crate::kernel::{Family, Kernel, ScalarType::*, Shader, input, output, wgsl};
use crate::{Gpu, Recorder, Result, Tensor};

const OP: &str = "l2";
static SHADER: Shader = Shader {
    op: OP,
    source: wgsl!("l2", "loss", "math", "lse", "row"),
    bindings: &[input("x"), input("t"), input("dy"), output("loss"), output("dx"), output("dt")],
    scalars: &[("factor", F32), ("scale", F32)],
    family: Family::Rows,
};
static FORWARD: Kernel = Kernel {
    shader: &SHADER,
    entry: "forward",
    uses: &["x", "t", "dy", "loss", "dx", "dt"],
    in_place: Some(("x", "dx")),
};
pub(super) const KERNELS: &[&Kernel] = &[&FORWARD];

/// Options of the op.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// Default: the mean over all elements.
    pub reduction: Reduction,
    /// f, a normal number above 0. Default: 1.
    pub factor: f32,
    /// Whether gradients overwrite their outputs or are added to them. `Add` is refused if `dx` is `x` itself.
    /// [`compute`] always overwrites. Default: overwrite.
    pub accum: Accum,
}

impl Default for Options {
    fn default() -> Self {
        Options { reduction: Reduction::Mean, factor: 1.0, accum: Accum::Write }
    }
}

impl Options {
    fn check(&self) -> Result<()> {
        let holds = self.factor > 0.0 && self.factor.is_normal();
        required(OP, "factor", self.factor, holds, "a normal number above 0")
    }
}

/// Outputs for gradients, each of the shape of its input. Absent gradients are not computed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Gradients<'a> {
    /// Gradient of x.
    pub dx: Option<Tensor<'a>>,
    /// Gradient of the targets t.
    pub dt: Option<Tensor<'a>>,
}

/// The loss of `x` and targets `t`, which have the same shape.
///
/// `loss` has that shape for [`Reduction::None`], `[rows, 1]` for [`Reduction::Rows`], else `[1, 1]`. The given
/// `gradients` are the same as from [`backward`] without `dy`, computed in the same pass. `dx` may be `x` itself.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape), [`Error::Option`](crate::Error::Option),
/// [`Error::SameBuffer`](crate::Error::SameBuffer).
pub fn forward(
    recorder: &mut Recorder,
    x: Tensor,
    t: Tensor,
    loss: Tensor,
    gradients: Gradients,
    options: Options,
) -> Result<()> {
    pass(recorder, x, t, Some(loss), None, gradients, options)
}

/// The given `gradients` from the forward's inputs.
///
/// `dy` is the gradient of the loss and has the loss's shape. Absent: ones. `dx` may be `x` itself.
///
/// # Errors
/// As [`forward`].
pub fn backward(
    recorder: &mut Recorder,
    x: Tensor,
    t: Tensor,
    dy: Option<Tensor>,
    gradients: Gradients,
    options: Options,
) -> Result<()> {
    pass(recorder, x, t, None, dy, gradients, options)
}

fn pass(
    recorder: &mut Recorder,
    x: Tensor,
    t: Tensor,
    loss: Option<Tensor>,
    dy: Option<Tensor>,
    gradients: Gradients,
    options: Options,
) -> Result<()> {
    options.check()?;
    shaped(OP, "t", t, x.shape())?;
    let Gradients { dx, dt } = gradients;
    let Options { reduction, factor, accum } = options;
    let (inputs, gradients) = ([Some(x), Some(t)], [("dx", dx), ("dt", dt)]);
    let pass = Pass { op: OP, kernel: &FORWARD, inputs, column: None, dy, loss, gradients, reduction, accum };
    pass.check()?;
    let in_place = dx.is_some_and(|dx| dx.same(x));
    not_added(OP, accum, in_place)?;
    let x = (!in_place).then_some(x);
    disjoint(
        OP,
        &[named("loss", loss), named("dx", dx), named("dt", dt)],
        &[named("x", x), named("t", t), named("dy", dy)],
    )?;
    recorder.plan(|plan| pass.plan(plan, &[factor.into()], &[]))
}

/// The loss and dx of slices, in rows of `cols` elements.
///
/// ```
/// # let Ok(gpu) = wgloss::Gpu::new() else { return };
/// let (loss, dx) = wgloss::l2::compute(&gpu, &[1.0, 2.0], &[0.0, 4.0], 2, Default::default()).unwrap();
/// assert_eq!((loss, dx), (vec![2.5], vec![1.0, -2.0]));
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
    let options = Options { accum: Accum::Write, ..options };
    gpu.run(|recorder| forward(recorder, x, t, loss, Gradients { dx: Some(x), dt: None }, options))?;
    Ok((gpu.read(loss)?, gpu.read(x)?))
}
