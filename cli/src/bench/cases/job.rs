//! A benchmark case on the device: its inputs, what it records, and the accuracy of its outputs.

use wgloss::reference::{self, Real};
use wgloss::{Gpu, Recorder, Result, Storage, Tensor, wgpu};

use super::numbers::{normal, period};
use crate::bench::clock::Work;

/// Inputs on the device, and the work to record.
pub struct Job {
    pub work: Box<dyn Work>,
    outputs: Vec<Output>,
    /// The expected outputs of the first call, a [`period`] of rows of each: in f64, and as the same formula gives them
    /// in f32.
    truth: Box<dyn Fn() -> (Found<f64>, Found<f32>)>,
    /// For outputs that are sums: the sums of the magnitudes of their terms, of the same length as the truth.
    sizes: Box<dyn Fn() -> Found<f64>>,
}

pub(super) type Found<F> = Vec<Vec<F>>;

pub(super) struct Output {
    pub(super) buffer: wgpu::Buffer,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) storage: Storage,
}

/// The error of the output that comes nearest to its tolerance or exceeds it most, and that tolerance. Both are
/// relative to the largest number of the row. A larger error than the tolerance is wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Accuracy {
    pub error: f64,
    pub tolerance: f64,
}

impl Job {
    pub(super) fn new(
        outputs: Vec<Output>,
        truth: impl Fn() -> (Found<f64>, Found<f32>) + 'static,
        work: Box<dyn Work>,
    ) -> Job {
        Job { work, outputs, truth: Box::new(truth), sizes: Box::new(Vec::new) }
    }

    /// Marks the outputs as sums, whose terms may cancel.
    pub(super) fn of_sums(self, sizes: impl Fn() -> Found<f64> + 'static) -> Job {
        Job { sizes: Box::new(sizes), ..self }
    }

    /// Compares the first rows and the last rows with the truth, as `wgloss verify` does.
    ///
    /// The tolerance is twice the error of the formula in f32, plus eight half units in the last place. Where the
    /// numbers of a row are sums, these units are those of the largest sum of magnitudes, to allow for another order of
    /// summation.
    pub fn accuracy(&self, gpu: &Gpu) -> Result<Accuracy> {
        let ((truth, naive), sizes) = ((self.truth)(), (self.sizes)());
        let mut worst = Accuracy { error: 0.0, tolerance: f64::INFINITY };
        for (at, (output, truth)) in self.outputs.iter().zip(&truth).enumerate() {
            let Output { buffer, rows, cols, storage } = output;
            let of_rows = |values: &[f64]| -> Vec<f64> {
                values.chunks(*cols).map(|row| largest(row.iter().copied()).max(f32::MIN_POSITIVE.into())).collect()
            };
            let scales = of_rows(truth);
            let sums = sizes.get(at).map_or_else(|| scales.clone(), |sizes| of_rows(sizes));
            let relative = |at: usize, got: f64| {
                let error = (got - truth[at]).abs() / scales[at / cols];
                if error.is_finite() { error } else { f64::MAX } // a NaN counts as the largest error
            };
            let lost = largest(naive[at].iter().enumerate().map(|(at, &got)| relative(at, got.into())));
            let whole: Tensor = Tensor::stored(*storage, buffer, *rows, *cols, 0, *cols)?;
            let kept = truth.len() / cols;
            for first in [0, rows.saturating_sub(kept)] {
                for (row, found) in
                    gpu.read(whole.row_range(first..(first + kept).min(*rows)))?.chunks(*cols).enumerate()
                {
                    let row = (first + row) % kept;
                    let error =
                        largest(found.iter().enumerate().map(|(col, &got)| relative(row * cols + col, got.into())));
                    let order = 4.0 * f64::from(f32::EPSILON) * (sums[row] / scales[row]).max(1.0);
                    let tolerance = 2.0 * lost + order + storage.rounding();
                    if error / tolerance > worst.error / worst.tolerance || worst.tolerance.is_infinite() {
                        worst = Accuracy { error, tolerance };
                    }
                }
            }
        }
        Ok(worst)
    }
}

pub(super) fn largest(values: impl Iterator<Item = f64>) -> f64 {
    values.map(f64::abs).fold(0.0, f64::max)
}

/// A matrix whose rows repeat.
pub(super) struct Input {
    pub(super) buffer: wgpu::Buffer,
    pub(super) rows: usize,
    pub(super) cols: usize,
    storage: Storage,
    /// The first [`period`] of rows, rounded to the storage format.
    pub(super) data: Vec<f32>,
}

impl Input {
    pub(super) fn new(gpu: &Gpu, [rows, cols]: [usize; 2], storage: Storage, data: Vec<f32>) -> Result<Input> {
        let buffer = gpu.zeros_as(storage, rows * cols)?;
        let period = data.len() / cols;
        let bytes = storage.bytes() * data.len() as u64;
        if bytes.is_multiple_of(4) {
            let seed = gpu.upload_as(storage, &data)?;
            let whole = storage.bytes() * (rows * cols) as u64;
            let mut encoder = gpu.device().create_command_encoder(&Default::default());
            for start in (0..whole).step_by(bytes as usize) {
                let end = (start + bytes).min(whole).next_multiple_of(4);
                encoder.copy_buffer_to_buffer(&seed, 0, &buffer, start, (end - start).min(bytes));
            }
            gpu.queue().submit([encoder.finish()]);
        } else {
            let whole: Tensor = Tensor::stored(storage, &buffer, rows, cols, 0, cols)?;
            for first in (0..rows).step_by(period) {
                let count = period.min(rows - first);
                gpu.write(whole.row_range(first..first + count), &data[..count * cols])?;
            }
        }
        Ok(Input { rows, cols, storage, data: reference::cast::forward(&data, storage), buffer })
    }

    pub(super) fn normal(gpu: &Gpu, [rows, cols]: [usize; 2], storage: Storage, stream: u32) -> Result<Input> {
        Input::new(gpu, [rows, cols], storage, normal(period([rows, cols]) * cols, stream))
    }

    pub(super) fn view(&self) -> Result<Tensor<'_>> {
        Tensor::stored(self.storage, &self.buffer, self.rows, self.cols, 0, self.cols)
    }

    pub(super) fn of<F: Real>(&self) -> Vec<F> {
        self.data.iter().map(|&value| <F as From<f32>>::from(value)).collect()
    }

    pub(super) fn again(&self) -> Input {
        Input { data: self.data.clone(), buffer: self.buffer.clone(), ..*self }
    }

    /// The magnitudes of its numbers, on the host. The buffer is unchanged.
    pub(super) fn sizes(&self) -> Input {
        Input { data: self.data.iter().map(|value| value.abs()).collect(), ..self.again() }
    }
}

impl Output {
    pub(super) fn new(gpu: &Gpu, [rows, cols]: [usize; 2], storage: Storage) -> Result<Output> {
        Ok(Output { buffer: gpu.zeros_as(storage, rows * cols)?, rows, cols, storage })
    }

    pub(super) fn view(&self) -> Result<Tensor<'_>> {
        Tensor::stored(self.storage, &self.buffer, self.rows, self.cols, 0, self.cols)
    }

    pub(super) fn again(&self) -> Output {
        Output { buffer: self.buffer.clone(), ..*self }
    }
}

/// An op of the library.
pub(super) struct Op<R> {
    gpu: Gpu,
    record: R,
}

impl<R: Fn(&mut Recorder) -> Result<()>> Work for Op<R> {
    fn submit(&self) -> Result<()> {
        self.gpu.run(|recorder| (self.record)(recorder))
    }

    fn record(&self, encoder: &mut wgpu::CommandEncoder, calls: u32) -> Result<()> {
        let mut recorder = self.gpu.record(encoder);
        (0..calls).try_for_each(|_| (self.record)(&mut recorder))
    }
}

pub(super) fn work(gpu: &Gpu, record: impl Fn(&mut Recorder) -> Result<()> + 'static) -> Box<dyn Work> {
    Box::new(Op { gpu: gpu.clone(), record })
}
