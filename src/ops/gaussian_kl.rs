//! KL divergence of normal distributions: loss_ij = ½ (e^a − 1 − a + (m − m')² e^−v'), a = v − v'.
//!
//! Each element is KL(N(m, e^v) ‖ N(m', e^v')): the divergence of a normal distribution with mean m and log-variance v
//! from its prior with mean m' and log-variance v'. Without a prior, m' = v' = 0.
//!
//! dm = (m − m') e^−v' = −dm', dv = ½ (e^a − 1), dv' = ½ (1 − e^a − (m − m')² e^−v'). e^a − 1 − a and e^a − 1 are
//! computed without cancellation, so that the loss stays accurate near the prior. Values beyond f32 become +inf. NaN
//! gives NaN.
//!
//! Source: Kullback and Leibler 1951, doi:10.1214/aoms/1177729694; as the term of a variational autoencoder: Kingma and
//! Welling 2013, arXiv:1312.6114, appendix B.

use super::elementwise::Pass;
use super::{Accum, Reduction, disjoint, named, rows_of, shaped};
use crate::kernel::{Family, Kernel, ScalarType::*, Shader, input, output, wgsl};
use crate::{Error, Gpu, Recorder, Result, Tensor};

const OP: &str = "gaussian_kl";
static SHADER: Shader = Shader {
    op: OP,
    source: wgsl!("gaussian_kl", "loss", "math", "lse", "row"),
    bindings: &[
        input("mean"),
        input("log_variance"),
        input("prior_mean"),
        input("prior_log_variance"),
        input("dy"),
        output("loss"),
        output("d_mean"),
        output("d_log_variance"),
        output("d_prior_mean"),
        output("d_prior_log_variance"),
    ],
    scalars: &[("factor", F32)],
    family: Family::Rows,
};
static FORWARD: Kernel = Kernel {
    shader: &SHADER,
    entry: "forward",
    uses: &["mean", "log_variance", "prior_mean", "prior_log_variance", "dy", "loss", "d_mean", "d_log_variance"],
    in_place: None,
};
static BACKWARD_PRIOR: Kernel = Kernel {
    shader: &SHADER,
    entry: "backward_prior",
    uses: &["mean", "log_variance", "prior_mean", "prior_log_variance", "dy", "d_prior_mean", "d_prior_log_variance"],
    in_place: None,
};
pub(super) const KERNELS: &[&Kernel] = &[&FORWARD, &BACKWARD_PRIOR];

/// The inputs of the loss, all of one shape.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// Mean m.
    pub mean: Tensor<'a>,
    /// Log-variance v.
    pub log_variance: Tensor<'a>,
    /// Mean m' and log-variance v' of the prior. Absent: the standard normal distribution.
    pub prior: Option<(Tensor<'a>, Tensor<'a>)>,
}

/// Outputs for gradients, each of the shape of its input. Absent gradients are not computed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Gradients<'a> {
    /// Gradient of m.
    pub mean: Option<Tensor<'a>>,
    /// Gradient of v.
    pub log_variance: Option<Tensor<'a>>,
    /// Gradient of m'.
    pub prior_mean: Option<Tensor<'a>>,
    /// Gradient of v'.
    pub prior_log_variance: Option<Tensor<'a>>,
}

/// Options of the op.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Default: the sum over the elements divided by the number of rows, as in a variational autoencoder.
    pub reduction: Reduction,
    /// Whether gradients overwrite their outputs or are added to them. Default: overwrite.
    pub accum: Accum,
}

impl Default for Options {
    fn default() -> Self {
        Options { reduction: Reduction::BatchMean, accum: Accum::Write }
    }
}

/// The loss of `inputs`.
///
/// `loss` has the inputs' shape for [`Reduction::None`], `[rows, 1]` for [`Reduction::Rows`], else `[1, 1]`. The given
/// `gradients` are the same as from [`backward`] without `dy`.
///
/// # Errors
/// [`Error::Shape`], also for a prior's gradient without a prior; [`Error::SameBuffer`].
pub fn forward(
    recorder: &mut Recorder,
    inputs: Inputs,
    loss: Tensor,
    gradients: Gradients,
    options: Options,
) -> Result<()> {
    pass(recorder, inputs, Some(loss), None, gradients, options)
}

/// The given `gradients` from the forward's inputs.
///
/// `dy` is the gradient of the loss and has the loss's shape. Absent: ones.
///
/// # Errors
/// As [`forward`].
pub fn backward(
    recorder: &mut Recorder,
    inputs: Inputs,
    dy: Option<Tensor>,
    gradients: Gradients,
    options: Options,
) -> Result<()> {
    pass(recorder, inputs, None, dy, gradients, options)
}

fn pass(
    recorder: &mut Recorder,
    inputs: Inputs,
    loss: Option<Tensor>,
    dy: Option<Tensor>,
    gradients: Gradients,
    options: Options,
) -> Result<()> {
    let Inputs { mean, log_variance, prior } = inputs;
    let Options { reduction, accum } = options;
    shaped(OP, "log_variance", log_variance, mean.shape())?;
    let (prior_mean, prior_log_variance) = prior.unzip();
    for (what, tensor) in [("prior mean", prior_mean), ("prior log_variance", prior_log_variance)] {
        tensor.map_or(Ok(()), |tensor| shaped(OP, what, tensor, mean.shape()))?;
    }
    let Gradients { mean: d_mean, log_variance: d_log_variance, prior_mean: d_prior_mean, .. } = gradients;
    let d_prior_log_variance = gradients.prior_log_variance;
    let of_prior = [("d_prior_mean", d_prior_mean), ("d_prior_log_variance", d_prior_log_variance)];
    if let Some((what, _)) = of_prior.iter().find(|(_, gradient)| gradient.is_some() && prior.is_none()) {
        return Err(Error::Shape { op: OP, what, expected: "none without a prior".into(), found: "one".into() });
    }
    let tensors = [Some(mean), Some(log_variance), prior_mean, prior_log_variance];
    let first = Pass {
        op: OP,
        kernel: &FORWARD,
        inputs: tensors,
        column: None,
        dy,
        loss,
        gradients: [("d_mean", d_mean), ("d_log_variance", d_log_variance)],
        reduction,
        accum,
    };
    let second = Pass { kernel: &BACKWARD_PRIOR, loss: None, gradients: of_prior, ..first };
    first.check()?;
    second.check()?;
    let written = [("d_mean", d_mean), ("d_log_variance", d_log_variance), of_prior[0], of_prior[1], ("loss", loss)];
    let read = [
        ("mean", Some(mean)),
        ("log_variance", Some(log_variance)),
        ("prior mean", prior_mean),
        ("prior log_variance", prior_log_variance),
        ("dy", dy),
    ];
    let [written, read] = [written, read].map(|tensors| tensors.map(|(name, tensor)| named(name, tensor)));
    disjoint(OP, &written, &read)?;
    let flags = [("HAS_PRIOR", prior.is_some().into())];
    recorder.plan(|plan| {
        if loss.is_some() || first.gradients.iter().any(|(_, gradient)| gradient.is_some()) {
            first.plan(plan, &[], &flags)?;
        }
        if of_prior.iter().any(|(_, gradient)| gradient.is_some()) {
            second.plan(plan, &[], &flags)?;
        }
        Ok(())
    })
}

/// The loss of slices of means and log-variances against the standard normal distribution, and its gradients. Slices
/// are in rows of `cols` elements.
///
/// ```
/// # let Ok(gpu) = wgloss::Gpu::new() else { return };
/// use wgloss::gaussian_kl;
/// let [loss, d_mean, d_log_variance] = gaussian_kl::compute(&gpu, &[1.0, 0.0], &[0.0, 0.0], 2, Default::default()).unwrap();
/// assert_eq!([loss, d_mean, d_log_variance], [vec![0.5], vec![1.0, 0.0], vec![0.0, 0.0]]);
/// ```
///
/// # Errors
/// As [`forward`], and any error of the device.
#[cfg(not(target_arch = "wasm32"))]
pub fn compute(gpu: &Gpu, mean: &[f32], log_variance: &[f32], cols: usize, options: Options) -> Result<[Vec<f32>; 3]> {
    let (rows, other_rows) = (rows_of(OP, "mean", mean, cols)?, rows_of(OP, "log_variance", log_variance, cols)?);
    let [loss_rows, loss_cols] = options.reduction.of_elements([rows, cols]);
    let [m, v] = [gpu.upload(mean)?, gpu.upload(log_variance)?];
    let [dm, dv] = [gpu.zeros::<f32>(mean.len())?, gpu.zeros::<f32>(mean.len())?];
    let loss = gpu.zeros::<f32>(loss_rows * loss_cols)?;
    let (mean, log_variance) = (Tensor::matrix(&m, rows, cols)?, Tensor::matrix(&v, other_rows, cols)?);
    let (dm, dv) = (Tensor::matrix(&dm, rows, cols)?, Tensor::matrix(&dv, rows, cols)?);
    let loss = Tensor::matrix(&loss, loss_rows, loss_cols)?;
    let gradients = Gradients { mean: Some(dm), log_variance: Some(dv), ..Default::default() };
    gpu.run(|recorder| forward(recorder, Inputs { mean, log_variance, prior: None }, loss, gradients, options))?;
    Ok([gpu.read(loss)?, gpu.read(dm)?, gpu.read(dv)?])
}
