//! Adam, and AdamW with [`Options::decoupled`]: steps by running means of the gradient and of its square. The order of
//! operations is that of torch.optim.
//!
//! g' = g + λp (decoupled: g' = g and first p ← p − rate · λ p);  m ← m + (1 − β₁)(g' − m);  v ← v + (1 − β₂)(g'² − v);
//! p ← p − rate/(1 − β₁ᵗ) · m / (√v/√(1 − β₂ᵗ) + ε) at step t = 1, 2, …
//!
//! With [`State::most`], the largest v so far takes the place of v in the last formula (AMSGrad). A NaN or an infinity
//! in one gradient affects only its own parameter. Each tensor may have its own storage; [`guide`](crate::guide)
//! explains training with parameters that are read in 16 bits.
//!
//! Sources: Kingma and Ba 2015, arXiv:1412.6980; decoupled: Loshchilov and Hutter 2019, arXiv:1711.05101; AMSGrad:
//! Reddi, Kale and Kumar 2018, arXiv:1904.09237.

use super::{each, shaped};
use crate::kernel::{Family, Kernel, ScalarType::*, Shader, input, output, wgsl};
use crate::{Error, Gpu, Recorder, Result, Tensor};

const OP: &str = "adam";
static SHADER: Shader = Shader {
    op: OP,
    source: wgsl!("adam", "math", "lse", "row"),
    bindings: &[input("g"), output("p"), output("m"), output("v"), output("most")],
    scalars: &[
        ("rate", F32),
        ("toward_m", F32),
        ("toward_v", F32),
        ("keep_m", F32),
        ("keep_v", F32),
        ("rate_of_step", F32),
        ("root", F32),
        ("eps", F32),
        ("weight_decay", F32),
    ],
    family: Family::Rows,
};
static STEP: Kernel = Kernel { shader: &SHADER, entry: "step", uses: &["g", "p", "m", "v", "most"], in_place: None };
pub(super) const KERNELS: &[&Kernel] = &[&STEP];

/// Options of [`step`]. They are f64 as in PyTorch: in f32, 1 − β₂ would have a relative error of 5·10⁻⁵.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// Learning rate, at least 0. Default: 0.001.
    pub rate: f64,
    /// β₁, in [0, 1). Default: 0.9.
    pub beta1: f64,
    /// β₂, in [0, 1). Default: 0.999.
    pub beta2: f64,
    /// ε, at least 0. With ε = 0, a parameter whose gradients were all 0 becomes NaN. Default: 1e-8.
    pub eps: f64,
    /// Weight decay λ, at least 0. Default: 0 (torch.optim.AdamW: 0.01).
    pub weight_decay: f64,
    /// Whether the weight decay acts on the parameters directly instead of through the gradient (AdamW). Default: off.
    pub decoupled: bool,
    /// The number t of this step, counted from 1. Default: 1.
    pub step: u32,
}

impl Default for Options {
    fn default() -> Self {
        Options { rate: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, decoupled: false, step: 1 }
    }
}

impl Options {
    /// 1 − β₁ᵗ and 1 − β₂ᵗ.
    pub(crate) fn corrections(&self) -> [f64; 2] {
        [self.beta1, self.beta2].map(|beta| 1.0 - beta.powf(f64::from(self.step)))
    }

    pub(crate) fn check(&self) -> Result<()> {
        let size = |value: f64| (value as f32).is_finite() && value >= 0.0;
        let share = |value: f64| (0.0..1.0).contains(&value) && (1.0 - value) as f32 > 0.0;
        let (least, below) = ("from 0 to the largest f32", "from 0 to below 1");
        for (option, value, holds, expected) in [
            ("rate", self.rate, size(self.rate), least),
            ("beta1", self.beta1, share(self.beta1), below),
            ("beta2", self.beta2, share(self.beta2), below),
            ("eps", self.eps, size(self.eps), least),
            ("weight_decay", self.weight_decay, size(self.weight_decay), least),
            ("step", self.step.into(), self.step > 0, "1 or more"),
        ] {
            if !holds {
                return Err(Error::Option { op: OP, option, expected, found: value.to_string() });
            }
        }
        Ok(())
    }
}

/// The state kept from step to step. Each tensor has the shape of the parameters and holds zeros before the first step.
#[derive(Debug, Clone, Copy)]
pub struct State<'a> {
    /// The running mean of the gradient.
    pub m: Tensor<'a>,
    /// The running mean of the squared gradient.
    pub v: Tensor<'a>,
    /// The largest v so far. If given, the step divides by its root instead of that of v (AMSGrad).
    pub most: Option<Tensor<'a>>,
}

/// Moves `p` one step against its gradient `g`. All shapes are equal.
///
/// # Errors
/// [`Error::Shape`], [`Error::Option`], [`Error::SameBuffer`].
pub fn step(recorder: &mut Recorder, g: Tensor, p: Tensor, state: State, options: Options) -> Result<()> {
    options.check()?;
    let State { m, v, most } = state;
    for (what, tensor) in [("g", Some(g)), ("m", Some(m)), ("v", Some(v)), ("most", most)] {
        tensor.map_or(Ok(()), |tensor| shaped(OP, what, tensor, p.shape()))?;
    }
    let [of_m, of_v] = options.corrections();
    let scalars = [
        options.rate,
        1.0 - options.beta1,
        1.0 - options.beta2,
        options.beta1,
        options.beta2,
        options.rate / of_m,
        of_v.sqrt(),
        options.eps,
        options.weight_decay,
    ];
    let scalars = scalars.map(|value| (value as f32).into());
    let flags = [("DECOUPLED", options.decoupled.into()), ("AMSGRAD", most.is_some().into())];
    recorder.plan(|plan| each(plan, &STEP, [Some(g), Some(p), Some(m), Some(v), most], &scalars, &flags))
}

/// One step on slices. `p`, `m` and `v` (`state`) are changed in place.
///
/// ```
/// # let Ok(gpu) = wgloss::Gpu::new() else { return };
/// use wgloss::adam;
/// let (mut p, mut m, mut v) = ([1.0, 2.0], [0.0; 2], [0.0; 2]);
/// adam::compute(&gpu, &[10.0, -0.5], &mut p, [&mut m, &mut v], adam::Options { rate: 0.1, ..Default::default() }).unwrap();
/// assert!((p[0] - 0.9).abs() < 1e-6 && (p[1] - 2.1).abs() < 1e-6); // the first step is as long as the rate
/// ```
///
/// # Errors
/// As [`step`], and any error of the device.
#[cfg(not(target_arch = "wasm32"))]
pub fn compute(gpu: &Gpu, g: &[f32], p: &mut [f32], state: [&mut [f32]; 2], options: Options) -> Result<()> {
    let [m, v] = state;
    let gradient = gpu.upload(g)?;
    let held = [&*p, &*m, &*v].map(|data| gpu.upload(data));
    let [new_p, new_m, new_v] = held;
    let [new_p, new_m, new_v] = [new_p?, new_m?, new_v?];
    let tensors =
        [Tensor::vector(&new_p, p.len())?, Tensor::vector(&new_m, m.len())?, Tensor::vector(&new_v, v.len())?];
    let kept = State { m: tensors[1], v: tensors[2], most: None };
    gpu.run(|recorder| step(recorder, Tensor::vector(&gradient, g.len())?, tensors[0], kept, options))?;
    for (data, tensor) in [p, m, v].into_iter().zip(tensors) {
        data.copy_from_slice(&gpu.read(tensor)?);
    }
    Ok(())
}
