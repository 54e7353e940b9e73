//! Output layers, losses and [`top_k`] on [`ndarray`]'s views, with the feature `ndarray`: views in, arrays out.
//!
//! Each function uploads, runs and reads back, as `compute` of the op's module does. That module documents the options
//! and the special values. Views may have any strides; a view that is not in row-major order is copied.
//!
//! Arrays in column-major order (nalgebra's and faer's) are the transposes of row-major arrays.
//!
//! ```
//! # let Ok(gpu) = wgloss::Gpu::new() else { return Ok(()) };
//! use ndarray::{Array2, array};
//! use wgloss::{arrays, info_nce};
//!
//! let queries: Array2<f32> = array![[1.0, 0.0], [0.0, 1.0]];
//! let found = arrays::info_nce(&gpu, queries.view(), queries.t(), info_nce::Options { temperature: 1.0, ..Default::default() })?;
//! assert!((found.loss[0] - (1.0 + (-1.0f32).exp()).ln()).abs() < 1e-6); // ln(e¹ + e⁰) − 1
//! assert_eq!(found.d_queries.dim(), (2, 2));
//! # Ok::<(), wgloss::Error>(())
//! ```

use std::borrow::Cow;

use ndarray::{Array1, Array2, ArrayView1, ArrayView2};

use crate::{Error, Gpu, Result, ops};

/// The result of a loss of pairs: the loss and its gradients, for an upstream gradient of 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Pairs {
    /// One number for each query with `Reduction::None` and `Reduction::Rows`, else one number.
    pub loss: Array1<f32>,
    /// Gradient of the queries, `[N, D]`.
    pub d_queries: Array2<f32>,
    /// Gradient of the keys, `[M, D]`.
    pub d_keys: Array2<f32>,
    /// Gradient of ln(1/temperature).
    pub d_log_scale: f32,
}

/// The result of the loss of a layer: the loss and its gradients, for an upstream gradient of 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// One number for each row with `Reduction::None` and `Reduction::Rows`, else one number.
    pub loss: Array1<f32>,
    /// Gradient of x, `[rows, inputs]`.
    pub dx: Array2<f32>,
    /// Gradient of w, `[classes, inputs]`.
    pub dw: Array2<f32>,
    /// Gradient of b, one number for each class.
    pub db: Array1<f32>,
}

/// y = x wᵀ + b for `x` `[rows, inputs]` and `w` `[outputs, inputs]`: `[rows, outputs]`.
///
/// # Errors
/// As [`linear::compute`](crate::linear::compute).
pub fn linear(gpu: &Gpu, x: ArrayView2<f32>, w: ArrayView2<f32>, b: Option<ArrayView1<f32>>) -> Result<Array2<f32>> {
    same("linear", "columns of w", w.ncols(), x.ncols())?;
    let b = b.as_ref().map(vector);
    let y = ops::linear::compute(gpu, &matrix(&x), &matrix(&w), b.as_deref(), x.ncols())?;
    array("linear", [x.nrows(), w.nrows()], y)
}

/// The sigmoid of each element or its logarithm, in the shape of `x`.
///
/// # Errors
/// As [`sigmoid::compute`](crate::sigmoid::compute).
pub fn sigmoid(gpu: &Gpu, x: ArrayView2<f32>, options: ops::sigmoid::Options) -> Result<Array2<f32>> {
    array("sigmoid", shape(&x), ops::sigmoid::compute(gpu, &matrix(&x), options)?)
}

/// tanh of each element, in the shape of `x`.
///
/// # Errors
/// As [`tanh::compute`](crate::tanh::compute).
pub fn tanh(gpu: &Gpu, x: ArrayView2<f32>) -> Result<Array2<f32>> {
    array("tanh", shape(&x), ops::tanh::compute(gpu, &matrix(&x))?)
}

/// Each row divided by its length, in the shape of `x`.
///
/// # Errors
/// As [`normalize::compute`](crate::normalize::compute).
pub fn normalize(gpu: &Gpu, x: ArrayView2<f32>, options: ops::normalize::Options) -> Result<Array2<f32>> {
    array("normalize", shape(&x), ops::normalize::compute(gpu, &matrix(&x), x.ncols(), options)?)
}

/// The softmax of each row or its logarithm, in the shape of `x`.
///
/// # Errors
/// As [`softmax::compute`](crate::softmax::compute).
pub fn softmax(gpu: &Gpu, x: ArrayView2<f32>, options: ops::softmax::Options) -> Result<Array2<f32>> {
    array("softmax", shape(&x), ops::softmax::compute(gpu, &matrix(&x), x.ncols(), options)?)
}

/// Cross entropy of logits `x` `[rows, classes]` and one class id for each row.
///
/// Returns the loss (for each row, or one number, as the reduction says) and the gradient of x.
///
/// # Errors
/// As [`cross_entropy::compute`](crate::cross_entropy::compute).
pub fn cross_entropy(
    gpu: &Gpu,
    x: ArrayView2<f32>,
    ids: ArrayView1<u32>,
    options: ops::cross_entropy::Options,
) -> Result<(Array1<f32>, Array2<f32>)> {
    same("cross_entropy", "ids", ids.len(), x.nrows())?;
    let (loss, dx) = ops::cross_entropy::compute(gpu, &matrix(&x), x.ncols(), &vector(&ids), options)?;
    Ok((loss.into(), array("cross_entropy", shape(&x), dx)?))
}

/// Cross entropy of the logits x wᵀ + b, which are never stored, and one class id for each row. `x` is
/// `[rows, inputs]`, `w` `[classes, inputs]`.
///
/// # Errors
/// As [`linear_cross_entropy::compute`](crate::linear_cross_entropy::compute).
pub fn linear_cross_entropy(
    gpu: &Gpu,
    x: ArrayView2<f32>,
    w: ArrayView2<f32>,
    b: Option<ArrayView1<f32>>,
    ids: ArrayView1<u32>,
    options: ops::linear_cross_entropy::Options,
) -> Result<Layer> {
    const OP: &str = "linear_cross_entropy";
    same(OP, "columns of w", w.ncols(), x.ncols())?;
    let b = b.as_ref().map(vector);
    let (inputs, ids) = (x.ncols(), vector(&ids));
    let found = ops::linear_cross_entropy::compute(gpu, &matrix(&x), &matrix(&w), b.as_deref(), inputs, &ids, options)?;
    let (dx, dw) = (array(OP, shape(&x), found.dx)?, array(OP, shape(&w), found.dw)?);
    Ok(Layer { loss: found.loss.into(), dx, dw, db: found.db.into() })
}

/// Binary cross entropy of logits `x` and targets `t`, both `[rows, cols]`.
///
/// Returns the loss (for each element, for each row, or one number, as the reduction says) and the gradient of x.
///
/// # Errors
/// As [`bce::compute`](crate::bce::compute).
pub fn bce(
    gpu: &Gpu,
    x: ArrayView2<f32>,
    t: ArrayView2<f32>,
    options: ops::bce::Options,
) -> Result<(Array1<f32>, Array2<f32>)> {
    alike("bce", "t", &x, &t)?;
    let (loss, dx) = ops::bce::compute(gpu, &matrix(&x), &matrix(&t), x.ncols(), options)?;
    Ok((loss.into(), array("bce", shape(&x), dx)?))
}

/// Squared error of predictions `x` and targets `t`, both `[rows, cols]`.
///
/// Returns the loss (for each element, for each row, or one number, as the reduction says) and the gradient of x.
///
/// # Errors
/// As [`l2::compute`](crate::l2::compute).
pub fn l2(
    gpu: &Gpu,
    x: ArrayView2<f32>,
    t: ArrayView2<f32>,
    options: ops::l2::Options,
) -> Result<(Array1<f32>, Array2<f32>)> {
    alike("l2", "t", &x, &t)?;
    let (loss, dx) = ops::l2::compute(gpu, &matrix(&x), &matrix(&t), x.ncols(), options)?;
    Ok((loss.into(), array("l2", shape(&x), dx)?))
}

/// The divergence between `x` and `t`, both `[rows, cols]`.
///
/// Returns the loss (for each element, for each row, or one number, as the reduction says) and the gradients of x and
/// t.
///
/// # Errors
/// As [`kl::compute`](crate::kl::compute).
pub fn kl(
    gpu: &Gpu,
    x: ArrayView2<f32>,
    t: ArrayView2<f32>,
    options: ops::kl::Options,
) -> Result<(Array1<f32>, [Array2<f32>; 2])> {
    alike("kl", "t", &x, &t)?;
    let (loss, [dx, dt]) = ops::kl::compute(gpu, &matrix(&x), &matrix(&t), x.ncols(), options)?;
    Ok((loss.into(), [array("kl", shape(&x), dx)?, array("kl", shape(&x), dt)?]))
}

/// The divergence between the logits x wᵀ of a student and of a teacher. Neither of the two is stored.
///
/// `student` and `teacher` are pairs of `x` `[rows, inputs]` and `w` `[classes, inputs]`. Returns the loss (for each
/// row, or one number, as the reduction says) and the gradients of the student's x and w.
///
/// # Errors
/// As [`linear_kl::compute`](crate::linear_kl::compute).
pub fn linear_kl(
    gpu: &Gpu,
    student: [ArrayView2<f32>; 2],
    teacher: [ArrayView2<f32>; 2],
    options: ops::linear_kl::Options,
) -> Result<(Array1<f32>, [Array2<f32>; 2])> {
    const OP: &str = "linear_kl";
    same(OP, "columns of w", student[1].ncols(), student[0].ncols())?;
    same(OP, "columns of the teacher's w", teacher[1].ncols(), teacher[0].ncols())?;
    let [[x, w], [teacher_x, teacher_w]] = [&student, &teacher].map(|sides| sides.each_ref().map(matrix));
    let inputs = [student[0].ncols(), teacher[0].ncols()];
    let found = ops::linear_kl::compute(gpu, [&x, &w], [&teacher_x, &teacher_w], inputs, options)?;
    Ok((found.loss.into(), [array(OP, shape(&student[0]), found.dx)?, array(OP, shape(&student[1]), found.dw)?]))
}

/// The divergence of normal distributions from the standard one. Means and log-variances are `[rows, cols]`.
///
/// Returns the loss (for each element, for each row, or one number, as the reduction says) and the gradients of both
/// inputs.
///
/// # Errors
/// As [`gaussian_kl::compute`](crate::gaussian_kl::compute).
pub fn gaussian_kl(
    gpu: &Gpu,
    mean: ArrayView2<f32>,
    log_variance: ArrayView2<f32>,
    options: ops::gaussian_kl::Options,
) -> Result<(Array1<f32>, [Array2<f32>; 2])> {
    alike("gaussian_kl", "log_variance", &mean, &log_variance)?;
    let [loss, d_mean, d_log_variance] =
        ops::gaussian_kl::compute(gpu, &matrix(&mean), &matrix(&log_variance), mean.ncols(), options)?;
    let of = |gradient| array("gaussian_kl", shape(&mean), gradient);
    Ok((loss.into(), [of(d_mean)?, of(d_log_variance)?]))
}

/// The contrastive loss of queries `[N, D]` and keys `[M, D]`.
///
/// # Errors
/// As [`info_nce::compute`](crate::info_nce::compute).
pub fn info_nce(
    gpu: &Gpu,
    queries: ArrayView2<f32>,
    keys: ArrayView2<f32>,
    options: ops::info_nce::Options,
) -> Result<Pairs> {
    same("info_nce", "columns of keys", keys.ncols(), queries.ncols())?;
    let found = ops::info_nce::compute(gpu, &matrix(&queries), &matrix(&keys), queries.ncols(), options)?;
    Ok(Pairs {
        loss: found.loss.into(),
        d_queries: array("info_nce", shape(&queries), found.d_queries)?,
        d_keys: array("info_nce", shape(&keys), found.d_keys)?,
        d_log_scale: found.d_log_scale,
    })
}

/// The sigmoid loss of all pairs of queries `[N, D]` and keys `[M, D]`, and the gradient of the bias.
///
/// # Errors
/// As [`siglip::compute`](crate::siglip::compute).
pub fn siglip(
    gpu: &Gpu,
    queries: ArrayView2<f32>,
    keys: ArrayView2<f32>,
    options: ops::siglip::Options,
) -> Result<(Pairs, f32)> {
    same("siglip", "columns of keys", keys.ncols(), queries.ncols())?;
    let found = ops::siglip::compute(gpu, &matrix(&queries), &matrix(&keys), queries.ncols(), options)?;
    let pairs = Pairs {
        loss: found.loss.into(),
        d_queries: array("siglip", shape(&queries), found.d_queries)?,
        d_keys: array("siglip", shape(&keys), found.d_keys)?,
        d_log_scale: found.d_log_scale,
    };
    Ok((pairs, found.d_bias))
}

/// The `count` keys with the largest inner products with each query, best first: their ids and the products,
/// `[N, count]` each.
///
/// # Errors
/// As [`top_k::compute`](crate::top_k::compute).
pub fn top_k(
    gpu: &Gpu,
    queries: ArrayView2<f32>,
    keys: ArrayView2<f32>,
    count: usize,
) -> Result<(Array2<u32>, Array2<f32>)> {
    same("top_k", "columns of keys", keys.ncols(), queries.ncols())?;
    let (ids, scores) = ops::top_k::compute(gpu, &matrix(&queries), &matrix(&keys), queries.ncols(), count)?;
    let shape = [queries.nrows(), count];
    Ok((array("top_k", shape, ids)?, array("top_k", shape, scores)?))
}

fn matrix<'a>(view: &'a ArrayView2<f32>) -> Cow<'a, [f32]> {
    view.as_slice().map_or_else(|| view.iter().copied().collect(), Cow::Borrowed)
}

fn vector<'a, T: Copy>(view: &'a ArrayView1<T>) -> Cow<'a, [T]> {
    view.as_slice().map_or_else(|| view.iter().copied().collect(), Cow::Borrowed)
}

fn shape(view: &ArrayView2<f32>) -> [usize; 2] {
    [view.nrows(), view.ncols()]
}

fn array<T>(op: &'static str, shape: [usize; 2], data: Vec<T>) -> Result<Array2<T>> {
    let found = format!("{} elements", data.len());
    let wrong = |_| Error::Shape { op, what: "the result", expected: format!("{} x {}", shape[0], shape[1]), found };
    Array2::from_shape_vec(shape, data).map_err(wrong)
}

fn same(op: &'static str, what: &'static str, found: usize, expected: usize) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::Shape { op, what, expected: expected.to_string(), found: found.to_string() })
}

fn alike(op: &'static str, what: &'static str, x: &ArrayView2<f32>, t: &ArrayView2<f32>) -> Result<()> {
    let ([rows, cols], [t_rows, t_cols]) = (shape(x), shape(t));
    if [rows, cols] == [t_rows, t_cols] {
        return Ok(());
    }
    Err(Error::Shape { op, what, expected: format!("{rows} x {cols}"), found: format!("{t_rows} x {t_cols}") })
}
