//! loss_i = r_i (Σ_c w_c q_ic (−ln p_ic) + z ln²Σ_c exp(x_ic)), p_i the softmax of row i of the logits `x`.
//!
//! q is the target: with class ids t, q_ic = (1 − e) [c = t_i] + e/C, with soft targets s, q_ic = (1 − e) s_ic + e/C; e is the label
//! smoothing, C the number of classes, w the weights of the classes, r of the rows, z the weight of the z-loss. Without any of them
//! loss_i = −ln p_i(t_i). With a softcap, cap · tanh(x/cap) stands for x everywhere. The mean divides by Σ r_i w_(t_i) over the rows
//! that are not ignored, for soft targets by Σ r_i; the mean of the z part always by Σ r_i over the rows that are not ignored.
//!
//! Special values: a row with id [`Options::ignore`] has loss 0, gradient 0 (even if it holds NaN) and does not count in the mean;
//! any other id outside `0..cols` gives loss NaN and a gradient of NaN in that row. −inf logits are masks, with a softcap too: gradient
//! 0, and loss +inf if a class with w q > 0 is masked, as every class is under label smoothing; a class with w q = 0 adds nothing. A row
//! that holds NaN or (without a softcap) +inf has loss NaN. If every row is ignored, or the weights sum to 0, the mean is 0, and so
//! is its gradient.
//!
//! Source: Bridle 1990, doi:10.1007/978-3-642-76153-9_28; label smoothing: Szegedy et al. 2015, arXiv:1512.00567, section 7; z-loss:
//! Chowdhery et al. 2022, arXiv:2204.02311, section 5; softcap: Bello et al. 2016, arXiv:1611.09940; reductions as
//! torch.nn.functional.cross_entropy.

use super::{Accum, Reduction, disjoint, named, required, rows_of, shaped};
use crate::kernel::{Access::*, Family, Kernel, ScalarType::*, Shader, wgsl};
use crate::recorder::{Arg, Plan, Scalar};
use crate::{Error, Gpu, Recorder, Result, Tensor};

const OP: &str = "cross_entropy";
static SHADER: Shader = Shader {
    op: OP,
    source: wgsl!("cross_entropy", "math", "lse", "reduce"),
    bindings: &["x", "id", "loss", "lse", "lse_in", "dy", "dx", "count", "count_in", "loss_in"],
    scalars: &[("rows", U32), ("cols", U32), ("ignore", U32), ("mean", U32), ("dy_by_row", U32)],
    family: Family::Rows,
};
static FORWARD: Kernel =
    Kernel { shader: &SHADER, entry: "forward", uses: &[("x", Read), ("id", Read), ("loss", Write), ("lse", Write)] };
static COUNT_ROWS: Kernel = Kernel { shader: &SHADER, entry: "count_rows", uses: &[("id", Read), ("count", Write)] };
static REDUCE: Kernel =
    Kernel { shader: &SHADER, entry: "reduce", uses: &[("count_in", Read), ("loss_in", Read), ("loss", Write)] };
static BACKWARD: Kernel = Kernel {
    shader: &SHADER,
    entry: "backward",
    uses: &[("x", Read), ("id", Read), ("lse_in", Read), ("dy", Read), ("count_in", Read), ("dx", Write)],
};
pub(super) const KERNELS: &[&Kernel] = &[&FORWARD, &COUNT_ROWS, &REDUCE, &BACKWARD];

/// Scratch: the rows' losses, and how many rows count.
const ROW_LOSS: usize = 0;
const COUNT: usize = 1;

/// What the rows should be.
#[derive(Debug, Clone, Copy)]
pub enum Target<'a> {
    /// Class ids [rows, 1].
    Ids(Tensor<'a, u32>),
    /// A share of every class [rows, classes]; rows need not sum to 1.
    Soft(Tensor<'a>),
}

/// How much classes and rows count; absent: 1 each.
#[derive(Debug, Clone, Copy, Default)]
pub struct Weights<'a> {
    /// w, [1, classes].
    pub class: Option<Tensor<'a>>,
    /// r, [rows, 1].
    pub row: Option<Tensor<'a>>,
}

/// Options of [`forward`] and [`backward`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// Default mean.
    pub reduction: Reduction,
    /// The class id of rows that do not count. Default −100 as u32, the bits of PyTorch's default.
    pub ignore: u32,
    /// e, between 0 and 1: that share of every target goes to all classes alike. Default 0.
    pub label_smoothing: f32,
    /// z, the weight of the squared log-sum-exp. Default 0.
    pub z_loss: f32,
    /// Logits become cap · tanh(x/cap), so that none exceeds it. Default 0: they stay as they are.
    pub softcap: f32,
    /// Whether gradients are added to what their outputs hold. Default no.
    pub accum: Accum,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            reduction: Reduction::Mean,
            ignore: -100i32 as u32,
            label_smoothing: 0.0,
            z_loss: 0.0,
            softcap: 0.0,
            accum: Accum::Write,
        }
    }
}

impl Options {
    fn check(&self) -> Result<()> {
        let [smoothing, z, cap] = [self.label_smoothing, self.z_loss, self.softcap];
        required(OP, "label_smoothing", smoothing, (0.0..=1.0).contains(&smoothing), "between 0 and 1")?;
        required(OP, "z_loss", z, z >= 0.0 && z.is_finite(), "a finite number, 0 or above")?;
        required(OP, "softcap", cap, cap == 0.0 || (cap > 0.0 && cap.is_normal()), "0 or a number above 0")
    }

    fn scalars(&self, cols: usize, dy_by_row: bool) -> [Scalar; 4] {
        [cols.into(), self.ignore.into(), (self.reduction == Reduction::Mean).into(), dy_by_row.into()]
    }

    /// Shape of the loss, and of its gradient `dy`.
    fn loss_shape(&self, rows: usize) -> [usize; 2] {
        if self.reduction.by_row() { [rows, 1] } else { [1, 1] }
    }
}

fn check(x: Tensor, id: Tensor<u32>, lse: Tensor) -> Result<()> {
    if x.cols == 0 {
        return Err(Error::Shape {
            op: OP,
            what: "x",
            expected: "at least one class".into(),
            found: "0 columns".into(),
        });
    }
    shaped(OP, "id", id, [x.rows, 1])?;
    shaped(OP, "lse", lse, [x.rows, 2])
}

fn count_rows<'a>(plan: &mut Plan<'a>, id: Tensor<u32>, count: Tensor<u32>, options: Options) -> Result<()> {
    let [cols, ignore, mean, dy_by_row] = options.scalars(0, false);
    plan.single(&COUNT_ROWS, &[Arg::whole(id), Arg::whole(count)], &[id.rows.into(), cols, ignore, mean, dy_by_row])
}

/// `loss` from logits `x` [rows, classes] and class ids `id` [rows, 1]: [rows, 1] for [`Reduction::None`], else [1, 1].
/// `lse` [rows, 2] receives the rows' log-sum-exp as (max, rest), ln Σ e^x = max + ln(1 + rest), which [`backward`] needs.
///
/// # Errors
/// [`Error::Shape`], [`Error::Option`], [`Error::SameBuffer`].
pub fn forward(
    recorder: &mut Recorder,
    x: Tensor,
    id: Tensor<u32>,
    loss: Tensor,
    lse: Tensor,
    options: Options,
) -> Result<()> {
    options.check()?;
    check(x, id, lse)?;
    shaped(OP, "loss", loss, options.loss_shape(x.rows))?;
    disjoint(OP, &[named("loss", loss), named("lse", lse)], &[named("x", x), named("id", id)])?;
    recorder.plan(|plan| {
        let gpu = plan.gpu();
        let scratch = gpu.scratch(ROW_LOSS, x.rows)?;
        let single = !options.reduction.by_row();
        let row_loss = if single { Tensor::vector(&scratch, x.rows)? } else { loss };
        let scalars = options.scalars(x.cols, false);
        let args = [Arg::by_row(x), Arg::by_row(id), Arg::by_row(row_loss), Arg::by_row(lse)];
        plan.rows(&FORWARD, x.rows, x.cols, &args, &scalars)?;
        if single {
            let counter = gpu.scratch(COUNT, 1)?;
            let count = Tensor::<u32>::scalar(&counter, 0)?;
            count_rows(plan, id, count, options)?;
            let [cols, ignore, mean, dy_by_row] = scalars;
            let args = [Arg::whole(count), Arg::whole(row_loss), Arg::whole(loss)];
            plan.single(&REDUCE, &args, &[x.rows.into(), cols, ignore, mean, dy_by_row])?;
        }
        Ok(())
    })
}

/// `dx` [rows, classes] from the forward's inputs and its `lse`; `dy` is the gradient of the loss, of the loss's shape, ones if absent.
///
/// # Errors
/// As [`forward`].
pub fn backward(
    recorder: &mut Recorder,
    x: Tensor,
    id: Tensor<u32>,
    lse: Tensor,
    dy: Option<Tensor>,
    dx: Tensor,
    options: Options,
) -> Result<()> {
    options.check()?;
    check(x, id, lse)?;
    shaped(OP, "dx", dx, x.shape())?;
    if let Some(dy) = dy {
        shaped(OP, "dy", dy, options.loss_shape(x.rows))?;
    }
    recorder.plan(|plan| {
        let counter = plan.gpu().scratch(COUNT, 1)?;
        let count = Tensor::<u32>::scalar(&counter, 0)?;
        if options.reduction == Reduction::Mean {
            count_rows(plan, id, count, options)?;
        }
        let dy_by_row = dy.is_some() && options.reduction.by_row();
        let dy = dy.map_or(Arg::NONE, if dy_by_row { Arg::by_row } else { Arg::whole });
        let args = [Arg::by_row(x), Arg::by_row(id), Arg::by_row(lse), dy, Arg::whole(count), Arg::by_row(dx)];
        plan.rows(&BACKWARD, x.rows, x.cols, &args, &options.scalars(x.cols, dy_by_row))
    })
}

/// The loss of the rows of a slice of logits, `classes` elements each, and its gradient.
///
/// ```
/// # let Ok(gpu) = wgloss::Gpu::new() else { return };
/// use wgloss::cross_entropy;
/// let (loss, dx) = cross_entropy::compute(&gpu, &[0.0, 0.0, 5.0, 5.0], 2, &[0, 1], Default::default()).unwrap();
/// assert!((loss[0] - 2f32.ln()).abs() < 1e-7);
/// assert_eq!(dx, [-0.25, 0.25, 0.25, -0.25]);
/// ```
///
/// # Errors
/// As [`forward`]; [`Error::Option`] for an id that is neither below `classes` nor [`Options::ignore`]; any error of the device.
#[cfg(not(target_arch = "wasm32"))]
pub fn compute(gpu: &Gpu, x: &[f32], classes: usize, ids: &[u32], options: Options) -> Result<(Vec<f32>, Vec<f32>)> {
    let rows = rows_of(OP, "x", x, classes)?;
    if let Some(&bad) = ids.iter().find(|&&id| id != options.ignore && id as usize >= classes) {
        let found = format!("{bad} with {classes} classes");
        return Err(Error::Option { op: OP, option: "id", expected: "below the number of classes", found });
    }
    let [loss_rows, _] = options.loss_shape(rows);
    let (logits, id) = (gpu.upload(x)?, gpu.upload(ids)?);
    let (loss, lse, gradient) = (gpu.zeros::<f32>(loss_rows)?, gpu.zeros::<f32>(2 * rows)?, gpu.zeros::<f32>(x.len())?);
    let (x, id) = (Tensor::matrix(&logits, rows, classes)?, Tensor::vector(&id, ids.len())?);
    let (loss, lse) = (Tensor::vector(&loss, loss_rows)?, Tensor::matrix(&lse, rows, 2)?);
    let dx = Tensor::matrix(&gradient, rows, classes)?;
    gpu.run(|recorder| {
        forward(recorder, x, id, loss, lse, options)?;
        backward(recorder, x, id, lse, None, dx, options)
    })?;
    Ok((gpu.read(loss)?, gpu.read(dx)?))
}
