//! Stochastic gradient descent with momentum, dampening, Nesterov momentum and weight decay, in the order of
//! torch.optim.SGD.
//!
//! g' = g + λp;  v = μv + (1 − dampening) g' (at the first step v = g');  p ← p − rate · (nesterov ? g' + μv : v).
//!
//! A NaN or an infinity in one gradient affects only its own parameter. Each tensor may have its own storage;
//! [`guide`](crate::guide) explains training with parameters that are read in 16 bits.
//!
//! Source: Sutskever, Martens, Dahl and Hinton, ICML 2013.

use super::{each, required, shaped};
use crate::kernel::{Family, Kernel, ScalarType::*, Shader, input, output, wgsl};
use crate::{Error, Gpu, Recorder, Result, Tensor};

const OP: &str = "sgd";
static SHADER: Shader = Shader {
    op: OP,
    source: wgsl!("sgd", "math", "lse", "row"),
    bindings: &[input("g"), output("p"), output("v")],
    scalars: &[
        ("rate", F32),
        ("momentum", F32),
        ("dampening", F32),
        ("weight_decay", F32),
        ("has_momentum", U32),
        ("nesterov", U32),
        ("first", U32),
    ],
    family: Family::Rows,
};
static STEP: Kernel = Kernel { shader: &SHADER, entry: "step", uses: &["g", "p", "v"], in_place: None };
pub(super) const KERNELS: &[&Kernel] = &[&STEP];

/// Options of [`step`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// Learning rate, at least 0. Default: 0.001, as in torch.optim.SGD.
    pub rate: f32,
    /// Momentum μ, at least 0. Default: 0.
    pub momentum: f32,
    /// Dampening of the momentum, a finite number. Default: 0.
    pub dampening: f32,
    /// Weight decay λ, at least 0. Default: 0.
    pub weight_decay: f32,
    /// Whether to use Nesterov momentum. Requires momentum and no dampening. Default: off.
    pub nesterov: bool,
    /// Whether this is the first step: v is then set to g' and not read. Default: off. Without dampening, a v of zeros
    /// gives the same first step with this option off.
    pub first: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { rate: 1e-3, momentum: 0.0, dampening: 0.0, weight_decay: 0.0, nesterov: false, first: false }
    }
}

impl Options {
    pub(crate) fn check(&self) -> Result<()> {
        let size = |value: f32| value.is_finite() && value >= 0.0;
        required(OP, "rate", self.rate, size(self.rate), "from 0 to the largest f32")?;
        required(OP, "momentum", self.momentum, size(self.momentum), "from 0 to the largest f32")?;
        required(OP, "dampening", self.dampening, self.dampening.is_finite(), "a number")?;
        required(OP, "weight_decay", self.weight_decay, size(self.weight_decay), "from 0 to the largest f32")?;
        if self.nesterov && (self.momentum == 0.0 || self.dampening != 0.0) {
            let found = format!("momentum {}, dampening {}", self.momentum, self.dampening);
            return Err(Error::Option {
                op: OP,
                option: "nesterov",
                expected: "with momentum and no dampening",
                found,
            });
        }
        Ok(())
    }
}

/// Moves `p` one step against its gradient `g`. `v` is the momentum buffer, required with momentum. All shapes are
/// equal.
///
/// # Errors
/// [`Error::Shape`], [`Error::Option`], [`Error::SameBuffer`].
pub fn step(recorder: &mut Recorder, g: Tensor, p: Tensor, v: Option<Tensor>, options: Options) -> Result<()> {
    options.check()?;
    shaped(OP, "g", g, p.shape())?;
    let has_momentum = options.momentum != 0.0;
    let v = match v {
        Some(v) => {
            shaped(OP, "v", v, p.shape())?;
            has_momentum.then_some(v)
        }
        None if has_momentum => {
            let expected = format!("{} x {} with momentum {}", p.rows, p.cols, options.momentum);
            return Err(Error::Shape { op: OP, what: "v", expected, found: "none".into() });
        }
        None => None,
    };
    let Options { rate, momentum, dampening, weight_decay, nesterov, first } = options;
    let scalars = [
        rate.into(),
        momentum.into(),
        dampening.into(),
        weight_decay.into(),
        has_momentum.into(),
        nesterov.into(),
        first.into(),
    ];
    recorder.plan(|plan| each(plan, &STEP, [Some(g), Some(p), v], &scalars, &[]))
}

/// One step on slices. `p` and, with momentum, `v` are changed in place.
///
/// ```
/// # let Ok(gpu) = wgloss::Gpu::new() else { return };
/// use wgloss::sgd;
/// let mut p = [1.0, 2.0];
/// sgd::compute(&gpu, &[10.0, 0.0], &mut p, None, sgd::Options { rate: 0.1, ..Default::default() }).unwrap();
/// assert_eq!(p, [0.0, 2.0]);
/// ```
///
/// # Errors
/// As [`step`], and any error of the device.
#[cfg(not(target_arch = "wasm32"))]
pub fn compute(gpu: &Gpu, g: &[f32], p: &mut [f32], v: Option<&mut [f32]>, options: Options) -> Result<()> {
    let (gradient, parameters) = (gpu.upload(g)?, gpu.upload(p)?);
    let velocity = v.as_ref().map(|v| gpu.upload(v)).transpose()?;
    let new = Tensor::vector(&parameters, p.len())?;
    let new_velocity =
        velocity.as_ref().zip(v.as_ref()).map(|(buffer, v)| Tensor::vector(buffer, v.len())).transpose()?;
    gpu.run(|recorder| step(recorder, Tensor::vector(&gradient, g.len())?, new, new_velocity, options))?;
    p.copy_from_slice(&gpu.read(new)?);
    if let Some((v, tensor)) = v.zip(new_velocity) {
        v.copy_from_slice(&gpu.read(tensor)?);
    }
    Ok(())
}
