use core::marker::PhantomData;
use core::ops::Range;

use crate::{Error, Result};

/// An element type that kernels read and write.
pub trait Element: bytemuck::Pod + sealed::Sealed {}
impl Element for f32 {}
impl Element for u32 {}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for u32 {}
}

/// Bytes of one element; every [`Element`] has four.
pub(crate) const ELEMENT: u64 = 4;

/// A view of a row-major matrix in a buffer that belongs to the caller: nothing is copied or owned.
///
/// Element (i, j) lies at `offset + i * stride + j`, counted in elements.
///
/// ```
/// # fn main() -> wgloss::Result<()> {
/// # let Ok(gpu) = wgloss::Gpu::new() else { return Ok(()) };
/// use wgloss::Tensor;
/// let buffer = gpu.upload(&[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0])?;
/// let all: Tensor = Tensor::matrix(&buffer, 2, 3)?;
/// let right: Tensor = Tensor::strided(&buffer, 2, 2, 1, 3)?; // the last two columns
/// assert_eq!(gpu.read(right)?, [2.0, 3.0, 5.0, 6.0]);
/// assert_eq!(gpu.read(all.row_range(1..2))?, [4.0, 5.0, 6.0]);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Tensor<'a, T = f32> {
    pub(crate) buffer: &'a wgpu::Buffer,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) offset: usize,
    pub(crate) stride: usize,
    element: PhantomData<T>,
}

impl<T> Clone for Tensor<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Tensor<'_, T> {}

impl<'a, T: Element> Tensor<'a, T> {
    /// `rows` × `cols` elements from the start of `buffer`, row after row.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`] if the buffer is smaller, [`Error::Usage`] if it lacks `STORAGE`.
    pub fn matrix(buffer: &'a wgpu::Buffer, rows: usize, cols: usize) -> Result<Self> {
        Self::strided(buffer, rows, cols, 0, cols)
    }

    /// `len` rows of one element.
    ///
    /// # Errors
    /// As [`Tensor::matrix`].
    pub fn vector(buffer: &'a wgpu::Buffer, len: usize) -> Result<Self> {
        Self::strided(buffer, len, 1, 0, 1)
    }

    /// One element, `offset` elements into the buffer.
    ///
    /// # Errors
    /// As [`Tensor::matrix`].
    pub fn scalar(buffer: &'a wgpu::Buffer, offset: usize) -> Result<Self> {
        Self::strided(buffer, 1, 1, offset, 1)
    }

    /// The general view: `offset` elements before the first, `stride` elements from one row to the next.
    ///
    /// # Errors
    /// As [`Tensor::matrix`]; [`Error::Shape`] if `stride < cols`, so that rows would overlap, or if a size exceeds 2³² − 1.
    pub fn strided(buffer: &'a wgpu::Buffer, rows: usize, cols: usize, offset: usize, stride: usize) -> Result<Self> {
        if stride < cols && rows > 1 {
            return Err(Error::Shape {
                op: "tensor",
                what: "stride",
                expected: format!("at least the {cols} columns"),
                found: stride.to_string(),
            });
        }
        for (what, value) in [("rows", rows), ("cols", cols), ("stride", stride)] {
            if u32::try_from(value).is_err() {
                return Err(Error::Shape {
                    op: "tensor",
                    what,
                    expected: "below 2^32".into(),
                    found: value.to_string(),
                });
            }
        }
        if !buffer.usage().contains(wgpu::BufferUsages::STORAGE) {
            return Err(Error::Usage { usage: "STORAGE", label: String::new() });
        }
        let view = Tensor { buffer, rows, cols, offset, stride, element: PhantomData };
        let end = view.end().and_then(|end| end.checked_mul(ELEMENT)).unwrap_or(u64::MAX);
        if end > buffer.size() {
            return Err(Error::OutOfBounds { rows, cols, stride, offset, needed: end, size: buffer.size() });
        }
        Ok(view)
    }

    /// The element after the last, counted from the buffer's start; `None` on overflow.
    fn end(&self) -> Option<u64> {
        let rows_before_last = (self.rows as u64).saturating_sub(1);
        let span = if self.rows == 0 || self.cols == 0 {
            0
        } else {
            rows_before_last.checked_mul(self.stride as u64)?.checked_add(self.cols as u64)?
        };
        (self.offset as u64).checked_add(span)
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// `[rows, cols]`.
    pub fn shape(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    /// The rows of `range`, as a view. A range past the end is cut to what is there.
    pub fn row_range(self, range: Range<usize>) -> Self {
        let start = range.start.min(self.rows);
        let end = range.end.clamp(start, self.rows);
        Tensor { rows: end - start, offset: self.offset + start * self.stride, ..self }
    }

    /// The columns of `range`, as a view. A range past the end is cut to what is there.
    pub fn col_range(self, range: Range<usize>) -> Self {
        let start = range.start.min(self.cols);
        let end = range.end.clamp(start, self.cols);
        Tensor { cols: end - start, offset: self.offset + start, ..self }
    }

    /// Every element as its own row, where the rows lie without gaps.
    pub(crate) fn flat(self) -> Option<Self> {
        let len = self.rows * self.cols;
        (self.stride == self.cols || self.rows <= 1)
            .then_some(Tensor { rows: len, cols: 1, stride: 1, ..self })
            .filter(|flat| u32::try_from(flat.rows).is_ok())
    }

    pub(crate) fn untyped(self) -> Tensor<'a, u32> {
        let Tensor { buffer, rows, cols, offset, stride, .. } = self;
        Tensor { buffer, rows, cols, offset, stride, element: PhantomData }
    }

    /// Whether two views share an element. Views with one stride that keep to different columns do not; other views of one
    /// buffer whose spans meet count as overlapping.
    pub(crate) fn overlaps<U: Element>(self, other: Tensor<U>) -> bool {
        if self.buffer != other.buffer || self.rows * self.cols == 0 || other.rows * other.cols == 0 {
            return false;
        }
        let span = |offset: usize, rows: usize, stride: usize, cols: usize| offset..offset + (rows - 1) * stride + cols;
        let (a, b) = (
            span(self.offset, self.rows, self.stride, self.cols),
            span(other.offset, other.rows, other.stride, other.cols),
        );
        if a.end <= b.start || b.end <= a.start {
            return false;
        }
        if self.stride != other.stride || self.stride == 0 {
            return true;
        }
        // How far the columns of the other lie to the right of this one's, around the end of a row.
        let apart = (other.offset + self.stride - self.offset % self.stride) % self.stride;
        apart < self.cols || apart + other.cols > self.stride
    }
}
