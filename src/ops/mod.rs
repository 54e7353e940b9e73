//! The ops: each function checks shapes, fills parameters and plans dispatches. The maths is in `shaders/` and `reference/`.

pub mod adam;
pub mod bce;
pub mod cast;
pub mod clip;
pub mod cross_entropy;
pub mod dot;
mod elementwise;
pub mod folding;
pub mod gather;
pub mod gaussian_kl;
pub mod info_nce;
pub mod kl;
pub mod l2;
mod layer;
pub mod linear;
pub mod linear_cross_entropy;
pub mod linear_kl;
mod lists;
pub mod normalize;
mod pairs;
pub mod sample;
pub mod sgd;
pub mod siglip;
pub mod sigmoid;
pub mod softmax;
pub mod tanh;
pub mod top_k;
mod total;
pub mod wals;

pub use lists::Lists;

use crate::kernel::Kernel;
use crate::plan::{Arg, Plan, Scalar};
use crate::tensor::Element;
use crate::{Error, Result, Storage, Tensor};

/// How losses become one number. A mean over nothing is 0.
///
/// A loss of elements has one for each element of its input [rows, cols], a loss of rows one for each row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reduction {
    /// None: a loss per element, or per row if the loss is one of rows.
    None,
    /// The sum of each row, [rows, 1]; for a loss of rows the same as [`Reduction::None`].
    Rows,
    /// The sum of all.
    Sum,
    /// The mean over the elements, or over the rows that count: the sum divided by their number or their weight.
    #[default]
    Mean,
    /// The sum divided by the number of rows.
    BatchMean,
}

impl Reduction {
    /// Whether a loss of rows stays one number per row.
    pub(crate) fn by_row(self) -> bool {
        matches!(self, Reduction::None | Reduction::Rows)
    }

    /// The shape of a loss of rows, and of its gradient `dy`.
    pub(crate) fn of_rows(self, rows: usize) -> [usize; 2] {
        if self.by_row() { [rows, 1] } else { [1, 1] }
    }

    /// The shape of a loss of elements, and of its gradient `dy`.
    pub(crate) fn of_elements(self, shape: [usize; 2]) -> [usize; 2] {
        if self == Reduction::None { shape } else { self.of_rows(shape[0]) }
    }

    /// By which the sum over rows of `cols` losses each is multiplied.
    pub(crate) fn factor(self, [rows, cols]: [usize; 2]) -> f64 {
        match self {
            Reduction::None | Reduction::Rows | Reduction::Sum => 1.0,
            Reduction::Mean => 1.0 / (rows as f64 * cols as f64).max(1.0),
            Reduction::BatchMean => 1.0 / (rows as f64).max(1.0),
        }
    }
}

/// What becomes of what an output for a gradient holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Accum {
    /// It is overwritten.
    #[default]
    Write,
    /// The gradient is added to it.
    Add,
}

/// Every kernel, for the tests that compare them with their shaders.
pub fn kernels() -> Vec<&'static Kernel> {
    [
        adam::KERNELS,
        bce::KERNELS,
        cast::KERNELS,
        clip::KERNELS,
        cross_entropy::KERNELS,
        dot::KERNELS,
        folding::KERNELS,
        gather::KERNELS,
        gaussian_kl::KERNELS,
        info_nce::KERNELS,
        kl::KERNELS,
        l2::KERNELS,
        linear::KERNELS,
        normalize::KERNELS,
        sample::KERNELS,
        sgd::KERNELS,
        siglip::KERNELS,
        sigmoid::KERNELS,
        softmax::KERNELS,
        tanh::KERNELS,
        top_k::KERNELS,
        total::KERNELS,
        wals::KERNELS,
    ]
    .concat()
}

/// Refuses a tensor whose shape is not `expected`.
fn shaped<T: Element>(op: &'static str, what: &'static str, tensor: Tensor<T>, expected: [usize; 2]) -> Result<()> {
    if tensor.shape() == expected {
        return Ok(());
    }
    let [rows, cols] = tensor.shape();
    let [expected_rows, expected_cols] = expected;
    Err(Error::Shape {
        op,
        what,
        expected: format!("{expected_rows} x {expected_cols}"),
        found: format!("{rows} x {cols}"),
    })
}

/// Refuses outputs that overlap another argument, for ops of several dispatches: each of those compares only its own.
fn disjoint(
    op: &'static str,
    outputs: &[(&'static str, Option<Tensor<u32>>)],
    inputs: &[(&'static str, Option<Tensor<u32>>)],
) -> Result<()> {
    for (index, &(output, written)) in outputs.iter().enumerate() {
        for &(other, tensor) in outputs[index + 1..].iter().chain(inputs) {
            if written.zip(tensor).is_some_and(|(written, tensor)| written.overlaps(tensor)) {
                return Err(Error::SameBuffer { op, output, other });
            }
        }
    }
    Ok(())
}

/// Refuses to add a gradient to the input whose place it takes.
fn not_added(op: &'static str, accum: Accum, in_place: bool) -> Result<()> {
    let expected = "Accum::Write where a gradient takes its input's place";
    match in_place && accum == Accum::Add {
        true => Err(Error::Option { op, option: "accum", expected, found: "Accum::Add".into() }),
        false => Ok(()),
    }
}

/// Refuses a tensor in 16 bits where what it holds would be lost.
fn only_f32(op: &'static str, what: &'static str, tensor: Tensor) -> Result<()> {
    let expected = "stored as f32".into();
    match tensor.storage {
        Storage::F32 => Ok(()),
        found => Err(Error::Shape { op, what, expected, found: format!("{found:?}") }),
    }
}

/// A kernel that treats each element of tensors of one shape by itself.
fn each<'a, const N: usize>(
    plan: &mut Plan,
    kernel: &'static Kernel,
    tensors: [Option<Tensor<'a>>; N],
    scalars: &[Scalar],
    flags: &[(&'static str, u32)],
) -> Result<()> {
    let of = |tensors: &[Option<Tensor<'a>>]| -> Vec<Arg<'a>> {
        tensors.iter().map(|tensor| tensor.map_or(Arg::NONE, Arg::by_row)).collect()
    };
    plan.check_overlaps(kernel, &of(&tensors))?; // of the whole: one block's output may lie in another block's input
    for block in Plan::blocks(&tensors) {
        let shape = block.iter().flatten().next().map_or([0, 0], Tensor::shape);
        plan.elements(kernel, shape, &of(&block), scalars, flags)?;
    }
    Ok(())
}

/// 2/T as a sum of two numbers and where e^(x/T) ends, in halves: `Scale` of shaders/lib/lse.wgsl.
fn scale_of(temperature: f32) -> [Scalar; 3] {
    let double = 2.0 / f64::from(temperature);
    let high = double as f32;
    [high.into(), ((double - f64::from(high)) as f32).into(), (-44.0 * temperature).into()]
}

/// `TEMPERED` of shaders/lib/lse.wgsl; 1 at any temperature where another kernel costs more to compile than it saves.
fn tempered(plan: &Plan, temperature: f32) -> (&'static str, u32) {
    ("TEMPERED", (temperature != 1.0 || !plan.gpu().tuning().unrolled).into())
}

/// An argument for [`disjoint`].
fn named<'a, T: Element>(
    name: &'static str,
    tensor: impl Into<Option<Tensor<'a, T>>>,
) -> (&'static str, Option<Tensor<'a, u32>>) {
    (name, tensor.into().map(Tensor::untyped))
}

/// Refuses an option that is not what it should be.
fn required(op: &'static str, option: &'static str, value: f32, holds: bool, expected: &'static str) -> Result<()> {
    match holds {
        true => Ok(()),
        false => Err(Error::Option { op, option, expected, found: value.to_string() }),
    }
}

/// Refuses slices that do not have the same number of rows of `cols` elements; returns that number.
pub(crate) fn rows_of(op: &'static str, what: &'static str, data: &[f32], cols: usize) -> Result<usize> {
    if cols == 0 {
        return Err(Error::Shape { op, what, expected: "of at least one column".into(), found: "0 columns".into() });
    }
    if data.len().is_multiple_of(cols) {
        return Ok(data.len() / cols);
    }
    Err(Error::Shape { op, what, expected: format!("whole rows of {cols}"), found: format!("{} elements", data.len()) })
}
