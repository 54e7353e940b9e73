//! Gradient clipping: scales all gradients of a step by one factor if their common norm exceeds a bound.
//!
//! norm = √(Σ g²) over all gradients; g ← g · min(1, max_norm/(norm + 10⁻⁶)), as torch.nn.utils.clip_grad_norm_.
//! Nothing is read back to the host. The squares neither overflow nor underflow. An infinity makes finite gradients 0
//! and infinite ones NaN. A NaN makes all gradients NaN.
//!
//! Source: Pascanu, Mikolov and Bengio 2013, arXiv:1211.5063, algorithm 1.

use super::{disjoint, named, required, shaped};
use crate::kernel::{Family, Kernel, ScalarType::*, Shader, input, output, wgsl};
use crate::plan::{Arg, Plan};
use crate::{Gpu, Recorder, Result, Tensor};

const OP: &str = "clip";
static SHADER: Shader = Shader {
    op: OP,
    source: wgsl!("clip", "length", "math", "lse", "row"),
    bindings: &[
        input("g"),
        output("square"),
        input("square_in"),
        output("norm"),
        output("factor"),
        input("factor_in"),
        output("new_g"),
    ],
    scalars: &[("max_norm", F32)],
    family: Family::Rows,
};
const fn kernel(entry: &'static str, uses: &'static [&'static str]) -> Kernel {
    Kernel { shader: &SHADER, entry, uses, in_place: None }
}
static SQUARES: Kernel = kernel("squares", &["g", "square"]);
static FINISH: Kernel = kernel("finish", &["square_in", "norm", "factor"]);
static SCALE: Kernel = kernel("scale", &["factor_in", "new_g"]);
pub(super) const KERNELS: &[&Kernel] = &[&SQUARES, &FINISH, &SCALE];

/// Scratch: the sum of squares of each row, and the factor.
const SQUARES_OF_ROWS: usize = 5;
const FACTOR: usize = 6;

/// Options of [`forward`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// The largest norm that is left unchanged, at least 0. With `f32::MAX` the norm is only measured. Default: 1.
    pub max_norm: f32,
}

impl Default for Options {
    fn default() -> Self {
        Options { max_norm: 1.0 }
    }
}

impl Options {
    pub(crate) fn check(&self) -> Result<()> {
        let holds = self.max_norm.is_finite() && self.max_norm >= 0.0;
        required(OP, "max_norm", self.max_norm, holds, "from 0 to the largest f32")
    }
}

/// Scales `gradients` in place and writes the norm they had before to `norm` `[1, 1]`.
///
/// The gradients may have any shapes and storages.
///
/// ```
/// # fn main() -> wgloss::Result<()> {
/// # let Ok(gpu) = wgloss::Gpu::new() else { return Ok(()) };
/// use wgloss::{Tensor, clip};
/// let (weight, bias, norm) = (gpu.upload(&[3.0f32, 0.0])?, gpu.upload(&[4.0f32])?, gpu.zeros::<f32>(1)?);
/// let (weight, bias, norm) = (Tensor::matrix(&weight, 1, 2)?, Tensor::matrix(&bias, 1, 1)?, Tensor::scalar(&norm, 0)?);
/// gpu.run(|recorder| clip::forward(recorder, &[weight, bias], norm, clip::Options { max_norm: 0.5 }))?;
/// assert_eq!(gpu.read(norm)?, [5.0]);
/// assert!((gpu.read(weight)?[0] - 0.3).abs() < 1e-6 && (gpu.read(bias)?[0] - 0.4).abs() < 1e-6);
/// # Ok(()) }
/// ```
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape), [`Error::Option`](crate::Error::Option),
/// [`Error::SameBuffer`](crate::Error::SameBuffer) if two of the tensors overlap.
pub fn forward(recorder: &mut Recorder, gradients: &[Tensor], norm: Tensor, options: Options) -> Result<()> {
    options.check()?;
    shaped(OP, "norm", norm, [1, 1])?;
    let mut outputs = vec![named("norm", norm)];
    outputs.extend(gradients.iter().map(|&gradient| named("gradient", gradient)));
    disjoint(OP, &outputs, &[])?;
    recorder.plan(|plan| {
        let scalars = [options.max_norm.into()];
        // Gapless tensors are reshaped to blocks of rows of one length.
        let blocks: Vec<Tensor> =
            gradients.iter().flat_map(|&gradient| Plan::blocks(&[Some(gradient)])).flatten().flatten().collect();
        let rows: usize = blocks.iter().map(Tensor::rows).sum();
        let squares = plan.scratch(SQUARES_OF_ROWS, 2 * rows)?;
        let squares: Tensor = Tensor::matrix(&squares, rows, 2)?;
        let factor = plan.scratch(FACTOR, 1)?;
        let factor: Tensor = Tensor::matrix(&factor, 1, 1)?;
        let mut first = 0;
        for &block in &blocks {
            let part = squares.row_range(first..first + block.rows);
            plan.rows(&SQUARES, block.shape(), &[Arg::by_row(block), Arg::by_row(part)], &scalars, &[])?;
            first += block.rows;
        }
        let args = [Arg::whole(squares), Arg::whole(norm), Arg::whole(factor)];
        plan.single(&FINISH, &args, [rows, 2], &scalars, &[])?;
        for &block in &blocks {
            let args = [Arg::whole(factor), Arg::by_row(block)];
            plan.elements(&SCALE, block.shape(), &args, &scalars, &[])?;
        }
        Ok(())
    })
}

/// Clips one gradient, a slice, in place. Returns the norm it had before.
///
/// # Errors
/// As [`forward`], and any error of the device.
#[cfg(not(target_arch = "wasm32"))]
pub fn compute(gpu: &Gpu, gradient: &mut [f32], options: Options) -> Result<f32> {
    let (held, norm) = (gpu.upload(gradient)?, gpu.zeros::<f32>(1)?);
    let (held, norm) = (Tensor::vector(&held, gradient.len())?, Tensor::scalar(&norm, 0)?);
    gpu.run(|recorder| forward(recorder, &[held], norm, options))?;
    gradient.copy_from_slice(&gpu.read(held)?);
    Ok(gpu.read(norm)?[0])
}
