//! loss_i = −ln p_i(t_i), p_i the softmax of row i of the logits `x`, t the class ids.
//!
//! Special values: a row with id [`Options::ignore`] has loss 0, gradient 0 (even if it holds NaN) and does not count in the mean;
//! any other id outside `0..cols` gives loss NaN and a gradient of NaN in that row. −inf logits are masks: gradient 0, and loss +inf if
//! the target itself is masked. A row that holds NaN or +inf has loss NaN. If every row is ignored the mean is 0.
//! Source: Bridle 1990, doi:10.1007/978-3-642-76153-9_28; reductions as torch.nn.functional.cross_entropy.

use super::{Reduction, disjoint, named, rows_of, shaped};
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

/// Options of [`forward`] and [`backward`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Default mean.
    pub reduction: Reduction,
    /// The class id of rows that do not count. Default −100 as u32, the bits of PyTorch's default.
    pub ignore: u32,
}

impl Default for Options {
    fn default() -> Self {
        Options { reduction: Reduction::Mean, ignore: -100i32 as u32 }
    }
}

impl Options {
    fn scalars(&self, cols: usize, dy_by_row: bool) -> [Scalar; 4] {
        [cols.into(), self.ignore.into(), (self.reduction == Reduction::Mean).into(), dy_by_row.into()]
    }

    /// Shape of the loss, and of its gradient `dy`.
    fn loss_shape(&self, rows: usize) -> [usize; 2] {
        if self.reduction == Reduction::None { [rows, 1] } else { [1, 1] }
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
/// [`Error::Shape`], [`Error::SameBuffer`].
pub fn forward(
    recorder: &mut Recorder,
    x: Tensor,
    id: Tensor<u32>,
    loss: Tensor,
    lse: Tensor,
    options: Options,
) -> Result<()> {
    check(x, id, lse)?;
    shaped(OP, "loss", loss, options.loss_shape(x.rows))?;
    disjoint(OP, &[named("loss", loss), named("lse", lse)], &[named("x", x), named("id", id)])?;
    recorder.plan(|plan| {
        let gpu = plan.gpu();
        let scratch = gpu.scratch(ROW_LOSS, x.rows)?;
        let single = options.reduction != Reduction::None;
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
        let dy_by_row = dy.is_some() && options.reduction == Reduction::None;
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
