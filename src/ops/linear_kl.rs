//! [`kl`] of the logits of two layers, a student's and a teacher's, neither of which is stored: distillation in the memory of a few rows of logits.
//!
//! Some rows at a time, as many as the workspace holds three matrices for ([`Tuning::workspace`](crate::Tuning::workspace)): the kernels of
//! [`linear`](crate::linear) form the logits of both, those of [`kl`] their divergence and the gradient of the student's, and from that come these rows' dx and what they
//! add to dW and db. The teacher learns nothing. Both have the same rows and classes, each inputs of its own. Memory and work are those of
//! [`linear_cross_entropy`](crate::linear_cross_entropy), and the product of the teacher.
//!
//! Rows count as [`backward`]'s `dy` says, with [`Reduction::Rows`](crate::Reduction::Rows) a number for each: 0 for padding, 1 over their number for others. Options,
//! forms of the divergence and special values are those of [`kl`], with [`Form::Logits`](kl::Form::Logits), but that a row whose loss is NaN makes all of dW and db NaN, whatever
//! its `dy`, so that padding must be finite. Parts of a batch: [`Options::accum`](kl::Options::accum) adds dW and db up, dx stays each part's own ([`Gradients::accum_dx`]).
//!
//! Source: as of [`linear`](crate::linear) and [`kl`]; some rows at a time: Hsu et al. 2024, arXiv:2410.10989.

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

/// `loss`: [rows, 1] for [`Reduction::Rows`](crate::Reduction::Rows), else [1, 1]; [`Reduction::None`](crate::Reduction::None) is refused. With `gradients`, those of the student that are given, for a loss whose own gradient
/// is 1, from the same logits.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape), [`Error::Option`](crate::Error::Option), [`Error::SameBuffer`](crate::Error::SameBuffer);
/// [`Error::Limit`](crate::Error::Limit) if the device cannot bind one row of logits, of W or of x.
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

/// Those of `gradients` that are given, from the forward's inputs; `dy` is the gradient of the loss, of the loss's shape, ones if absent. Where it is known
/// before, as weights of rows are, `loss` may be had from the same logits: that of [`forward`], which `dy` does not multiply.
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

/// What [`compute`] returns.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// One number, or one per row for [`Reduction::Rows`](crate::Reduction::Rows).
    pub loss: Vec<f32>,
    /// Gradient of the student's x.
    pub dx: Vec<f32>,
    /// Gradient of the student's W.
    pub dw: Vec<f32>,
}

/// The divergence of slices x and W of a student and of a teacher, without biases, and the student's gradients; rows of x and W have `inputs` elements, those of the
/// student and those of the teacher.
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
