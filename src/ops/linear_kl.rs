//! [`kl`] of the logits of two linear layers, a student's and a teacher's, without ever storing all logits:
//! distillation with only some rows of logits in memory at a time.
//!
//! The rows are processed in parts, each of as many rows as the workspace
//! ([`Tuning::workspace`](crate::Tuning::workspace)) holds three matrices for. The kernels of [`linear`](crate::linear)
//! form the logits of both layers. Those of [`kl`] form the divergence and the gradient of the student's logits. From
//! that follow the part's dx and its contribution to dW and db. The teacher gets no gradient. Both layers have the same
//! number of rows and classes; their numbers of inputs may differ. Memory and work are those of
//! [`linear_cross_entropy`](crate::linear_cross_entropy), plus the product that forms the teacher's logits.
//!
//! To weight rows, use [`Reduction::Rows`](crate::Reduction::Rows) and the `dy` of [`backward`], one number per row:
//! for example 0 for padding and 1/count for the other rows, where count is their number. Options, divergences and
//! special values are those of [`kl`] with [`Form::Logits`](kl::Form::Logits), with one exception: a row whose loss is
//! NaN makes all of dW and db NaN, even if its `dy` is 0. Rows used as padding must therefore be finite.
//!
//! Micro-batches: with [`Options::accum`](kl::Options::accum) = `Add`, dW and db are summed over the calls. dx is
//! overwritten, since each micro-batch has its own ([`Gradients::accum_dx`]).
//!
//! Source: as for [`linear`](crate::linear) and [`kl`]; rows in parts: Hsu et al. 2024, arXiv:2410.10989.

pub use super::kl::Options;
pub use super::layer::{Gradients, Layer};
use super::layer::{Names, losses, named_as, walk};
use super::{Accum, disjoint, kl, named, rows_of, shaped, total};
use crate::{Error, Gpu, Recorder, Result, Tensor};

const OP: &str = "linear_kl";
const STUDENT: Names = ["x", "w", "b"];
const TEACHER: Names = ["teacher's x", "teacher's w", "teacher's b"];

/// One call: the loss, gradients or both.
struct Call<'a> {
    student: Layer<'a>,
    teacher: Layer<'a>,
    loss: Option<Tensor<'a>>,
    dy: Option<Tensor<'a>>,
    gradients: Gradients<'a>,
    options: Options,
}

impl Call<'_> {
    fn record(self, recorder: &mut Recorder) -> Result<()> {
        let Call { student, teacher, loss, dy, gradients, options } = self;
        options.of_rows_of_logits(OP, ["Logits", "Rows, Sum, Mean or BatchMean"])?;
        options.check(OP)?;
        student.check(OP, STUDENT)?;
        shaped(OP, TEACHER[0], teacher.x, [student.x.rows, teacher.x.cols])?;
        teacher.check(OP, TEACHER)?;
        let [[_, classes], [_, of_teacher]] = [student.shape(), teacher.shape()];
        if of_teacher != classes {
            let (expected, found) = (format!("of the student's {classes} classes"), format!("{of_teacher}"));
            return Err(Error::Shape { op: OP, what: TEACHER[1], expected, found });
        }
        gradients.check(OP, &student)?;
        for (what, tensor) in [("loss", loss), ("dy", dy)] {
            tensor.map_or(Ok(()), |tensor| shaped(OP, what, tensor, options.reduction.of_rows(student.x.rows)))?;
        }
        let inputs = [&student.named(STUDENT)[..], &teacher.named(TEACHER), &[named("dy", dy)]].concat();
        disjoint(OP, &[&[named("loss", loss)], &gradients.named()[..]].concat(), &inputs)?;
        if loss.is_none() && gradients.is_empty() {
            return Ok(());
        }
        let (rows, by_row) = (student.x.rows, options.reduction.by_row());
        let factor = options.reduction.factor(student.shape());
        let planned = recorder.plan(|plan| {
            plan.name(OP);
            let scratch = total::values(plan, if by_row || loss.is_none() { 0 } else { rows }, 1)?;
            let value = if by_row { loss } else { loss.map(|_| Tensor::vector(&scratch, rows)).transpose()? };
            let written = Options { accum: Accum::Write, ..options };
            walk(plan, OP, student, gradients, options.accum, |plan, range, [dx, x, t]| {
                student.logits(plan, range.clone(), x)?;
                teacher.logits(plan, range.clone(), t)?;
                let dx = (!gradients.is_empty()).then_some(dx);
                let dy = dy.map(|dy| if by_row { dy.row_range(range.clone()) } else { dy });
                let call =
                    kl::Call { x, t, dy, loss: None, gradients: kl::Gradients { dx, dt: None }, options: written };
                let Some(value) = value else { return call.rows_of(plan, factor) };
                losses(plan, x.shape(), value.row_range(range), |plan, value| {
                    kl::Call { loss: Some(value), ..call }.rows_of(plan, factor)
                })
            })?;
            match loss.filter(|_| !by_row) {
                Some(loss) => total::total(plan, Tensor::vector(&scratch, rows)?, loss, factor as f32),
                None => Ok(()),
            }
        });
        named_as(OP, planned)
    }
}

/// The loss, and optionally gradients of the student.
///
/// `loss` is `[rows, 1]` for [`Reduction::Rows`](crate::Reduction::Rows), else `[1, 1]`.
/// [`Reduction::None`](crate::Reduction::None) is refused. The given `gradients` are the same as from [`backward`]
/// without `dy`, computed from the same logits.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape), [`Error::Option`](crate::Error::Option),
/// [`Error::SameBuffer`](crate::Error::SameBuffer); [`Error::Limit`](crate::Error::Limit) if the device cannot bind one
/// row of logits, of W or of x.
pub fn forward(
    recorder: &mut Recorder,
    student: Layer,
    teacher: Layer,
    loss: Tensor,
    gradients: Gradients,
    options: Options,
) -> Result<()> {
    Call { student, teacher, loss: Some(loss), dy: None, gradients, options }.record(recorder)
}

/// The given `gradients` of the student from the forward's inputs.
///
/// `dy` is the gradient of the loss and has the loss's shape. Absent: ones. If `dy` is known in advance, as row weights
/// are, pass `loss` here and skip [`forward`]. `loss` is not multiplied by `dy`.
///
/// # Errors
/// As [`forward`].
pub fn backward(
    recorder: &mut Recorder,
    student: Layer,
    teacher: Layer,
    dy: Option<Tensor>,
    loss: Option<Tensor>,
    gradients: Gradients,
    options: Options,
) -> Result<()> {
    Call { student, teacher, loss, dy, gradients, options }.record(recorder)
}

/// The result of [`compute`].
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// One number, or one per row for [`Reduction::Rows`](crate::Reduction::Rows).
    pub loss: Vec<f32>,
    /// Gradient of the student's x.
    pub dx: Vec<f32>,
    /// Gradient of the student's W.
    pub dw: Vec<f32>,
}

/// The loss of a student and a teacher without biases and the student's gradients, on slices.
///
/// `student` and `teacher` hold x and W each. `inputs` holds the length of the student's and of the teacher's rows.
///
/// ```
/// # let Ok(gpu) = wgloss::Gpu::new() else { return };
/// use wgloss::linear_kl;
/// // p = (1/2, 1/2), q = (1/4, 3/4)
/// let (student, teacher) = ([&[1.0][..], &[0.0, 3f32.ln()]], [&[1.0, 1.0][..], &[2.0, 0.0, 0.0, 2.0]]);
/// let found = linear_kl::compute(&gpu, student, teacher, [1, 2], Default::default()).unwrap();
/// assert!((found.loss[0] - (2.0 / 3f32.sqrt()).ln()).abs() < 1e-6);
/// assert!((found.dw[0] + 0.25).abs() < 1e-6 && (found.dw[1] - 0.25).abs() < 1e-6); // q - p
/// ```
///
/// # Errors
/// As [`forward`], and any error of the device.
#[cfg(not(target_arch = "wasm32"))]
pub fn compute(
    gpu: &Gpu,
    student: [&[f32]; 2],
    teacher: [&[f32]; 2],
    inputs: [usize; 2],
    options: Options,
) -> Result<Output> {
    let (rows, classes) = (rows_of(OP, "x", student[0], inputs[0])?, rows_of(OP, "w", student[1], inputs[0])?);
    let of_x = rows_of(OP, TEACHER[0], teacher[0], inputs[1])?;
    let of_w = rows_of(OP, TEACHER[1], teacher[1], inputs[1])?;
    let [loss_rows, _] = options.reduction.of_rows(rows);
    let [x, w] = [gpu.upload(student[0])?, gpu.upload(student[1])?];
    let [teacher_x, teacher_w] = [gpu.upload(teacher[0])?, gpu.upload(teacher[1])?];
    let [loss, dx] = [gpu.zeros::<f32>(loss_rows)?, gpu.zeros::<f32>(rows * inputs[0])?];
    let dw = gpu.zeros::<f32>(classes * inputs[0])?;
    let student = Layer::new(Tensor::matrix(&x, rows, inputs[0])?, Tensor::matrix(&w, classes, inputs[0])?);
    let teacher =
        Layer::new(Tensor::matrix(&teacher_x, of_x, inputs[1])?, Tensor::matrix(&teacher_w, of_w, inputs[1])?);
    let (loss, dx) = (Tensor::vector(&loss, loss_rows)?, Tensor::matrix(&dx, rows, inputs[0])?);
    let dw = Tensor::matrix(&dw, classes, inputs[0])?;
    let gradients = Gradients { dx: Some(dx), dw: Some(dw), ..Default::default() };
    let options = Options { accum: Accum::Write, ..options };
    gpu.run(|recorder| forward(recorder, student, teacher, loss, gradients, options))?;
    Ok(Output { loss: gpu.read(loss)?, dx: gpu.read(dx)?, dw: gpu.read(dw)? })
}
