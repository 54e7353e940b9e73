//! Runs every op on a device and compares it with the f64 reference: `wgloss verify` prints the results, the tests run
//! the same cases.
//!
//! A result passes if its error stays within the sum of two bounds. The first is twice the yardstick: what the
//! reference's own formula loses when computed in f32, relative to the row's largest element. The second is eight half
//! units in the last place of the row's largest element or, where an element is a sum with cancellation, of the sum of
//! its terms' magnitudes.
//!
//! Outputs start as poison and lie between guards. Every element inside must be written, none outside. The gaps between
//! the rows of inputs hold poison.

mod adam;
mod bce;
mod cast;
mod clip;
mod cross_entropy;
mod dot;
mod draw;
mod fill;
mod folding;
mod gather;
mod gaussian_kl;
mod info_nce;
mod kl;
mod l2;
mod layer;
mod linear;
mod linear_cross_entropy;
mod linear_kl;
mod normalize;
mod sample;
mod sgd;
mod siglip;
mod sigmoid;
mod softmax;
mod tanh;
mod top_k;
mod wals;

pub use fill::{FILLS, Fill};

use core::pin::Pin;

use self::draw::Draw;
use crate::reference::Real;
use crate::tensor::Element;
use crate::{Accum, Gpu, Recorder, Reduction, Result, Storage, Tensor};

/// An op's cases: the listed ones, and a function that draws one.
#[derive(Debug, Clone, Copy)]
pub struct Suite {
    /// The op's name.
    pub op: &'static str,
    listed: Cases,
    drawn: Cases,
}

type Cases = for<'a> fn(&'a mut Check) -> UnderWay<'a>;

/// The future of a function that waits for each result.
type UnderWay<'a> = Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

macro_rules! suites {
    ($($op:ident)*) => { [$(Suite {
        op: stringify!($op),
        listed: |check| Box::pin($op::cases(check)),
        drawn: |check| Box::pin($op::drawn(check)),
    }),*] };
}

/// Every op with its cases, in the order of the README's table.
pub const SUITES: &[Suite] = &suites![
    linear sigmoid tanh normalize softmax cross_entropy linear_cross_entropy bce l2 kl linear_kl gaussian_kl info_nce siglip cast dot
    top_k folding gather sample sgd adam clip wals
];

/// The result of an op's cases.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// Outputs that were compared.
    pub compared: usize,
    /// Largest error, in units in the last place of the row's largest element or of the sum of the element's terms'
    /// magnitudes.
    pub worst_ulp: f64,
    /// The same error as a fraction.
    pub worst_relative: f64,
    /// One sentence for each output that failed: case, index, got, want, tolerance.
    pub failures: Vec<String>,
}

/// Runs one op's cases; blocks.
///
/// # Errors
/// An error of the device. A wrong result is not an error but a line in [`Report::failures`].
#[cfg(not(target_arch = "wasm32"))]
pub fn run(gpu: &Gpu, suite: Suite) -> Result<Report> {
    pollster::block_on(run_async(gpu, suite))
}

/// Runs one op's cases.
///
/// # Errors
/// As [`run`].
pub async fn run_async(gpu: &Gpu, suite: Suite) -> Result<Report> {
    let mut check = Check::new(gpu);
    (suite.listed)(&mut check).await?;
    Ok(check.report)
}

/// As [`run`], without the cases that only vary options or storage of one kernel. For a further device or tuning, once
/// the kernels are known to pass on another.
///
/// # Errors
/// As [`run`].
#[cfg(not(target_arch = "wasm32"))]
pub fn run_briefly(gpu: &Gpu, suite: Suite) -> Result<Report> {
    pollster::block_on(run_briefly_async(gpu, suite))
}

/// As [`run_async`] without the cases that only vary options or storage of one kernel.
///
/// # Errors
/// As [`run`].
pub async fn run_briefly_async(gpu: &Gpu, suite: Suite) -> Result<Report> {
    let mut check = Check { is_brief: true, ..Check::new(gpu) };
    (suite.listed)(&mut check).await?;
    Ok(check.report)
}

/// Runs one random case of an op. Shape, layout, kind of numbers, storage, options and the size of the workspace are
/// drawn. The same seed draws the same case on every machine.
///
/// # Errors
/// As [`run`].
#[cfg(not(target_arch = "wasm32"))]
pub fn run_drawn(gpu: &Gpu, suite: Suite, seed: u64) -> Result<Report> {
    pollster::block_on(run_drawn_async(gpu, suite, seed))
}

/// As [`run_drawn`], without blocking.
///
/// # Errors
/// As [`run`].
pub async fn run_drawn_async(gpu: &Gpu, suite: Suite, seed: u64) -> Result<Report> {
    let mut check = Check { draw: Draw::new(seed), ..Check::new(gpu) };
    check.layout = check.draw.below(LAYOUTS.len());
    (suite.drawn)(&mut check).await?;
    Ok(check.report)
}

/// Where a matrix lies in its buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Elements before the first row.
    pub offset: usize,
    /// The least number of elements between two rows.
    pub gap: usize,
    /// Rows start at multiples of this many elements, counted from the first row.
    pub multiple: usize,
}

impl Layout {
    fn stride(&self, cols: usize) -> usize {
        (cols + self.gap).next_multiple_of(self.multiple)
    }
}

/// Layouts that cases rotate through: packed, two shifted off every alignment with gaps between rows, and one aligned
/// to four elements.
pub const LAYOUTS: [Layout; 4] = [
    Layout { offset: 0, gap: 0, multiple: 1 },
    Layout { offset: 3, gap: 5, multiple: 1 },
    Layout { offset: 68, gap: 0, multiple: 4 },
    Layout { offset: 65, gap: 1, multiple: 1 },
];

/// The storages that round.
const STORAGES: [Storage; 2] = [Storage::F16, Storage::Bf16];

const REDUCTIONS: [Reduction; 5] =
    [Reduction::None, Reduction::Rows, Reduction::Sum, Reduction::Mean, Reduction::BatchMean];

/// All bits set: NaN as a number of any storage, no valid id as u32.
const POISON: u8 = u8::MAX;
/// Elements after the last row, which an output must not touch.
const GUARD: usize = 67;

/// Half units in the last place that are allowed beyond the yardstick's own error, because the order of a sum may
/// differ.
const ULPS: f64 = 8.0;
const EPSILON: f64 = f32::EPSILON as f64 / 2.0;
/// A device may flush smaller numbers to 0.
const TINY: f64 = f32::MIN_POSITIVE as f64;

/// A matrix on the device, inside a larger buffer.
#[derive(Debug)]
pub struct Held<T = f32> {
    buffer: wgpu::Buffer,
    rows: usize,
    cols: usize,
    layout: Layout,
    storage: Storage,
    element: core::marker::PhantomData<T>,
}

impl<T: Element> Held<T> {
    /// The view.
    ///
    /// # Errors
    /// None in practice: the buffer was made for it.
    pub fn view(&self) -> Result<Tensor<'_, T>> {
        let stride = self.layout.stride(self.cols);
        Tensor::view(self.storage, &self.buffer, self.rows, self.cols, self.layout.offset, stride)
    }
}

/// Compares results, case by case.
#[derive(Debug)]
pub struct Check {
    /// The device under test.
    pub gpu: Gpu,
    /// The results so far.
    pub report: Report,
    /// Whether cases that only vary options or storage are left out.
    pub is_brief: bool,
    case: String,
    layout: usize,
    /// By how much the case's op magnifies the numbers that a device flushes to 0.
    gain: f64,
    /// The source of drawn cases.
    draw: Draw,
}

impl Check {
    /// Nothing compared yet.
    pub fn new(gpu: &Gpu) -> Self {
        Check {
            gpu: gpu.clone(),
            report: Report::default(),
            is_brief: false,
            case: String::new(),
            layout: 0,
            gain: 1.0,
            draw: Draw::new(0),
        }
    }

    /// The storages that round, each with kernels of its own; none in a brief run.
    fn storages(&self) -> &'static [Storage] {
        if self.is_brief { &[] } else { &STORAGES }
    }

    /// Names the case that the next comparisons belong to and moves on to the next layout.
    pub fn case(&mut self, name: impl core::fmt::Display) {
        self.case = name.to_string();
        self.layout = (self.layout + 1) % LAYOUTS.len();
        self.gain = 1.0;
    }

    /// Allows for flushed subnormal numbers: a device may read and produce 0 for them. In this case's op that changes
    /// results by up to `gain` times such a number.
    pub fn magnifies_flushed(&mut self, gain: f64) {
        self.gain = gain.max(1.0);
    }

    /// A matrix between guards of poison. `data` holds its elements as `storage`; if `data` is empty, the elements are
    /// poison too.
    fn held<T: Element>(&self, storage: Storage, rows: usize, cols: usize, data: &[u8]) -> Result<Held<T>> {
        let layout = LAYOUTS[self.layout];
        let (stride, size) = (layout.stride(cols), storage.bytes() as usize);
        let mut bytes = vec![POISON; ((layout.offset + rows * stride + GUARD) * size).next_multiple_of(4)];
        for (row, values) in data.chunks((cols * size).max(1)).enumerate() {
            bytes[(layout.offset + row * stride) * size..][..cols * size].copy_from_slice(values);
        }
        let buffer = self.gpu.upload(bytemuck::pod_collect_to_vec::<u8, u32>(&bytes).as_slice())?;
        Ok(Held { buffer, rows, cols, layout, storage, element: core::marker::PhantomData })
    }

    /// A matrix that holds `data`.
    ///
    /// # Errors
    /// An error of the device.
    pub fn input<T: Element>(&self, rows: usize, cols: usize, data: &[T]) -> Result<Held<T>> {
        self.held(Storage::F32, rows, cols, bytemuck::cast_slice(data))
    }

    /// A matrix that holds `data` as `storage`.
    ///
    /// # Errors
    /// An error of the device.
    pub fn input_as(&self, storage: Storage, rows: usize, cols: usize, data: &[f32]) -> Result<Held> {
        self.held(storage, rows, cols, &storage.encode(data))
    }

    /// A matrix of poison.
    ///
    /// # Errors
    /// An error of the device.
    pub fn output<T: Element>(&self, rows: usize, cols: usize) -> Result<Held<T>> {
        self.held(Storage::F32, rows, cols, &[])
    }

    /// A matrix of poison, stored as `storage`.
    ///
    /// # Errors
    /// An error of the device.
    pub fn output_as(&self, storage: Storage, rows: usize, cols: usize) -> Result<Held> {
        self.held(storage, rows, cols, &[])
    }

    /// A matrix that holds `old`, to which a gradient is added, stored as `storage`; poison if `old` is empty.
    ///
    /// # Errors
    /// An error of the device.
    fn holding(&self, storage: Storage, rows: usize, cols: usize, old: &[f32]) -> Result<Held> {
        self.held(storage, rows, cols, &storage.encode(old))
    }

    /// Records ops and submits them.
    ///
    /// # Errors
    /// Those of the ops.
    pub fn run(&self, record: impl FnOnce(&mut Recorder) -> Result<()>) -> Result<()> {
        self.gpu.run(record)
    }

    /// The matrix's elements, or `None` if something around the matrix was written.
    async fn body<T: Element>(&mut self, what: &str, held: &Held<T>) -> Result<Option<Vec<T>>> {
        let words = Tensor::<u32>::vector(&held.buffer, (held.buffer.size() / 4) as usize)?;
        let words = self.gpu.read_async(words).await?;
        let bytes: &[u8] = bytemuck::cast_slice(&words);
        let (stride, size) = (held.layout.stride(held.cols), held.storage.bytes() as usize);
        let mut body = Vec::with_capacity(held.rows * held.cols * size);
        for (index, element) in bytes.chunks(size).enumerate() {
            let inside = index.checked_sub(held.layout.offset).filter(|at| at / stride.max(1) < held.rows);
            if inside.is_some_and(|at| at % stride.max(1) < held.cols) {
                body.extend_from_slice(element);
            } else if element.iter().any(|&byte| byte != POISON) {
                self.fail(format!("{what}: element {index} of the buffer, outside the view, was overwritten"));
                return Ok(None);
            }
        }
        Ok(Some(T::decode(held.storage, &body)))
    }

    fn fail(&mut self, message: String) {
        self.report.failures.push(format!("{}: {message}", self.case));
    }

    /// Compares ids, which must be equal.
    ///
    /// # Errors
    /// An error of the device.
    pub async fn compare_ids(&mut self, what: &str, held: &Held<u32>, want: &[u32]) -> Result<()> {
        self.report.compared += 1;
        let Some(got) = self.body(what, held).await? else { return Ok(()) };
        let cols = held.cols.max(1);
        match got.iter().zip(want).position(|(got, want)| got != want) {
            _ if got.len() != want.len() => self.fail(format!("{what}: {} ids, {} wanted", got.len(), want.len())),
            Some(at) => {
                self.fail(format!("{what}[{}, {}]: got {}, want {}", at / cols, at % cols, got[at], want[at]));
            }
            None => {}
        }
        Ok(())
    }

    /// Compares an output with `want`, the reference in f64. `yardstick` is the same reference in f32.
    ///
    /// # Errors
    /// An error of the device.
    pub async fn compare(&mut self, what: &str, held: &Held, want: &[f64], yardstick: &[f32]) -> Result<()> {
        self.compare_sum(what, held, want, yardstick, &[]).await
    }

    /// [`Check::compare_added`] for gradients whose elements are no sums themselves.
    async fn compare_gradient(
        &mut self,
        what: &str,
        held: &Held,
        old: &[f32],
        want: &[f64],
        yardstick: &[f32],
    ) -> Result<()> {
        let terms: Vec<f64> = want.iter().map(|want| want.abs()).filter(|_| !old.is_empty()).collect();
        self.compare_added(what, held, old, want, yardstick, &terms).await
    }

    /// [`Check::compare`] for elements that are sums: `terms` holds, for each, the sum of its terms' magnitudes.
    ///
    /// # Errors
    /// An error of the device.
    pub async fn compare_sum(
        &mut self,
        what: &str,
        held: &Held,
        want: &[f64],
        yardstick: &[f32],
        terms: &[f64],
    ) -> Result<()> {
        let Some(got) = self.body(what, held).await? else { return Ok(()) };
        self.compare_numbers(what, (held.cols, held.storage), &got, want, yardstick, terms);
        Ok(())
    }

    /// Compares the elements `got` of an output with `cols` columns, stored as `storage`.
    fn compare_numbers(
        &mut self,
        what: &str,
        (cols, storage): (usize, Storage),
        got: &[f32],
        want: &[f64],
        yardstick: &[f32],
        terms: &[f64],
    ) {
        self.report.compared += 1;
        if got.len() != want.len() || yardstick.len() != want.len() {
            self.fail(format!("{what}: {} elements, {} wanted, {} measured", got.len(), want.len(), yardstick.len()));
            return;
        }
        let cols = cols.max(1);
        let flushed = self.gain * TINY;
        // The rounding of the storage: `unit` relative to the number, and `smallest`, half its smallest number. `most`
        // is its largest number.
        let unit = storage.rounding();
        let (smallest, most) = match storage {
            Storage::F32 => (0.0, f64::from(f32::MAX)),
            Storage::F16 => (2f64.powi(-25), 65504.0),
            Storage::Bf16 => (2f64.powi(-134), f64::from(f32::MAX)),
        };
        let scales: Vec<f64> = want.chunks(cols).map(|row| largest(row.iter().copied())).collect();
        let size = |at: usize| scales[at / cols].max(terms.get(at).copied().unwrap_or(0.0));
        let naive = largest(want.iter().zip(yardstick).enumerate().map(|(at, (want, &naive))| {
            let error = want - f64::from(naive);
            if error.abs() <= flushed { 0.0 } else { error / size(at).max(TINY) }
        }));
        for (at, (&got, &want)) in got.iter().zip(want).enumerate() {
            let special = (want.is_nan() && got.is_nan())
                || (want.abs() > most && got.is_infinite() && got.is_sign_positive() == (want > 0.0));
            let size = size(at);
            let tolerance = (2.0 * naive + ULPS * EPSILON) * size + flushed + unit * want.abs() + smallest;
            let error = (f64::from(got) - want).abs();
            let within = error <= tolerance;
            if !within && !special {
                let place = format!("{what}[{}, {}]", at / cols, at % cols);
                self.fail(format!("{place}: got {got:e}, want {want:e}, tolerance {tolerance:e}"));
                return;
            }
            if within && error > flushed && storage == Storage::F32 {
                self.report.worst_relative = self.report.worst_relative.max(error / size);
                self.report.worst_ulp = self.report.worst_ulp.max(error / ulp(size));
            }
        }
    }

    /// As [`Check::compare_sum`], for a gradient that was added to `old`, or written if `old` is empty.
    async fn compare_added(
        &mut self,
        what: &str,
        held: &Held,
        old: &[f32],
        want: &[f64],
        yardstick: &[f32],
        terms: &[f64],
    ) -> Result<()> {
        let magnitudes: Vec<f64> = old.iter().map(|&old| f64::from(old).abs()).collect();
        let (want, terms) = (added(want, &cast(old)), added(terms, &magnitudes));
        self.compare_sum(what, held, &want, &added(yardstick, old), &terms).await
    }
}

/// The largest finite magnitude.
fn largest(values: impl Iterator<Item = f64>) -> f64 {
    values.map(f64::abs).filter(|value| value.is_finite()).fold(0.0, f64::max)
}

/// The distance between neighbouring f32 at `value`.
fn ulp(value: f64) -> f64 {
    let exponent = value.abs().max(TINY).log2().floor();
    (exponent - 23.0).exp2()
}

/// `data` rounded to the numbers that `storage` can hold.
fn rounded(storage: Storage, data: &[f32]) -> Vec<f32> {
    crate::reference::cast::forward(data, storage)
}

/// a + b; a where there is no b.
fn added<F: Real>(a: &[F], b: &[F]) -> Vec<F> {
    a.iter().enumerate().map(|(at, &a)| b.get(at).map_or(a, |&b| a + b)).collect()
}

/// Numbers to which a gradient is added, as `storage` holds them; none if the gradient is written.
fn before(accum: Accum, storage: Storage, len: usize, seed: u64) -> Vec<f32> {
    match accum {
        Accum::Write => Vec::new(),
        Accum::Add => rounded(storage, &Fill::Small.matrix(len, 1, seed)),
    }
}

/// The same numbers in another precision.
fn cast<F: Real>(data: &[f32]) -> Vec<F> {
    data.iter().map(|&value| <F as From<f32>>::from(value)).collect()
}
