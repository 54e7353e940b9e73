//! The ops. Each function checks shapes, fills in parameters and plans dispatches. The mathematics is in `shaders/` and
//! `reference/`.

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

/// How the values of a loss are reduced. A mean over nothing is 0.
///
/// An element-wise loss has one value per element of its input `[rows, cols]`. A row-wise loss has one value per row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reduction {
    /// No reduction: one value per element, or per row for a row-wise loss.
    None,
    /// The sum of each row, `[rows, 1]`. For a row-wise loss the same as [`Reduction::None`].
    Rows,
    /// The sum of all values.
    Sum,
    /// The mean over the elements, or over the rows that count: the sum divided by their number or by their total
    /// weight.
    #[default]
    Mean,
    /// The sum of all values divided by the number of rows.
    BatchMean,
}

impl Reduction {
    /// Whether a row-wise loss keeps one value per row.
    pub(crate) fn by_row(self) -> bool {
        matches!(self, Reduction::None | Reduction::Rows)
    }

    /// The shape of a row-wise loss and of its gradient `dy`.
    pub(crate) fn of_rows(self, rows: usize) -> [usize; 2] {
        if self.by_row() { [rows, 1] } else { [1, 1] }
    }

    /// The shape of an element-wise loss and of its gradient `dy`.
    pub(crate) fn of_elements(self, shape: [usize; 2]) -> [usize; 2] {
        if self == Reduction::None { shape } else { self.of_rows(shape[0]) }
    }

    /// The factor that multiplies the sum of the `rows` × `cols` values.
    pub(crate) fn factor(self, [rows, cols]: [usize; 2]) -> f64 {
        match self {
            Reduction::None | Reduction::Rows | Reduction::Sum => 1.0,
            Reduction::Mean => 1.0 / (rows as f64 * cols as f64).max(1.0),
            Reduction::BatchMean => 1.0 / (rows as f64).max(1.0),
        }
    }
}

/// Whether a gradient overwrites its output or is added to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Accum {
    /// The gradient overwrites the output.
    #[default]
    Write,
    /// The gradient is added to the output.
    Add,
}

/// All kernels, for the tests that compare them with their shaders.
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

/// Refuses outputs that overlap another argument. For ops of several dispatches, since each dispatch compares only its
/// own arguments.
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

/// Refuses [`Accum::Add`] if the gradient is written in place of its input.
fn not_added(op: &'static str, accum: Accum, in_place: bool) -> Result<()> {
    let expected = "Accum::Write where a gradient takes its input's place";
    match in_place && accum == Accum::Add {
        true => Err(Error::Option { op, option: "accum", expected, found: "Accum::Add".into() }),
        false => Ok(()),
    }
}

/// Refuses a 16-bit tensor for values that need the precision of f32.
fn only_f32(op: &'static str, what: &'static str, tensor: Tensor) -> Result<()> {
    let expected = "stored as f32".into();
    match tensor.storage {
        Storage::F32 => Ok(()),
        found => Err(Error::Shape { op, what, expected, found: format!("{found:?}") }),
    }
}

/// Plans a kernel that treats each element of tensors of one shape independently.
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
    plan.check_overlaps(kernel, &of(&tensors))?; // whole tensors: an output block may overlap another input block
    for block in Plan::blocks(&tensors) {
        let shape = block.iter().flatten().next().map_or([0, 0], Tensor::shape);
        plan.elements(kernel, shape, &of(&block), scalars, flags)?;
    }
    Ok(())
}

/// The fields of `Scale` in shaders/lib/lse.wgsl: 2/T as the sum of two f32, and half of −88 T, where e^(x/T) is taken
/// as 0.
fn scale_of(temperature: f32) -> [Scalar; 3] {
    let double = 2.0 / f64::from(temperature);
    let high = double as f32;
    [high.into(), ((double - f64::from(high)) as f32).into(), (-44.0 * temperature).into()]
}

/// The constant `TEMPERED` of shaders/lib/lse.wgsl. 1 at any temperature where compiling a second kernel costs more
/// than it saves.
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

/// Refuses an option for which `holds` is false.
fn required(op: &'static str, option: &'static str, value: f32, holds: bool, expected: &'static str) -> Result<()> {
    match holds {
        true => Ok(()),
        false => Err(Error::Option { op, option, expected, found: value.to_string() }),
    }
}

/// The number of rows of `cols` elements in a slice. Refuses `cols` = 0 and slices that end within a row.
pub(crate) fn rows_of(op: &'static str, what: &'static str, data: &[f32], cols: usize) -> Result<usize> {
    if cols == 0 {
        return Err(Error::Shape { op, what, expected: "of at least one column".into(), found: "0 columns".into() });
    }
    if data.len().is_multiple_of(cols) {
        return Ok(data.len() / cols);
    }
    Err(Error::Shape { op, what, expected: format!("whole rows of {cols}"), found: format!("{} elements", data.len()) })
}
