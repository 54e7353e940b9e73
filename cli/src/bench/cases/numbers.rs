//! Input data, and sums over rows that repeat.

use std::f32::consts::TAU;

use wgloss::reference::Real;
use wgloss::{Random, Result};

/// The number of rows after which inputs repeat, and the same for inputs of more than [`WIDE`] columns.
const PERIOD: usize = 61;
const PERIOD_OF_WIDE: usize = 7;
const WIDE: usize = 1 << 14;

pub(super) fn period([rows, cols]: [usize; 2]) -> usize {
    rows.min(if cols > WIDE { PERIOD_OF_WIDE } else { PERIOD })
}

/// How often each row of a period occurs among `rows` rows.
pub(super) fn counts<F: Real>(rows: usize, period: usize) -> Vec<F> {
    (0..period).map(|at| <F as From<f32>>::from((rows / period + usize::from(at < rows % period)) as f32)).collect()
}

/// The mean over all rows, given the values of each row of a period, `cols` per row.
pub(super) fn mean<F: Real>(values: &[F], rows: usize, cols: usize) -> F {
    let rows_of = values.chunks(cols).zip(counts::<F>(rows, values.len() / cols));
    let sum: F = rows_of.map(|(row, count)| row.iter().copied().sum::<F>() * count).sum();
    sum / number(rows * cols)
}

pub(super) fn number<F: Real>(value: usize) -> F {
    num_traits::NumCast::from(value).unwrap_or_else(F::nan)
}

/// The gradient of a mean over `count`, from the gradient of a sum.
pub(super) fn over<F: Real>(values: Vec<F>, count: usize) -> Vec<F> {
    values.into_iter().map(|value| value / number(count)).collect()
}

pub(super) fn take<T, const N: usize>(results: [Result<T>; N]) -> Result<[T; N]> {
    let all = results.into_iter().collect::<Result<Vec<T>>>()?;
    Ok(all.try_into().unwrap_or_else(|_| unreachable!("as many as there were")))
}

/// Logits: normal with deviation 2 (Box and Muller 1958).
pub(super) fn normal(len: usize, stream: u32) -> Vec<f32> {
    let mut random = Random::new(1, stream);
    let mut pair = || {
        let radius = 2.0 * (-2.0 * (1.0 - random.uniform()).ln()).sqrt();
        let (sin, cos) = (TAU * random.uniform()).sin_cos();
        [radius * cos, radius * sin]
    };
    let mut numbers: Vec<f32> = (0..len.div_ceil(2)).flat_map(|_| pair()).collect();
    numbers.truncate(len);
    numbers
}

/// Rows of `cols` elements, each of unit length.
pub(super) fn unit(mut x: Vec<f32>, cols: usize) -> Vec<f32> {
    for row in x.chunks_mut(cols) {
        let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt();
        row.iter_mut().for_each(|v| *v /= norm);
    }
    x
}

/// Targets, between 0 and 1.
pub(super) fn uniform(len: usize, stream: u32) -> Vec<f32> {
    let mut random = Random::new(1, stream);
    (0..len).map(|_| random.uniform()).collect()
}

pub(super) fn classes(rows: usize, count: usize) -> Vec<u32> {
    let mut random = Random::new(1, u32::MAX);
    (0..rows).map(|_| random.below(count as u32)).collect()
}
