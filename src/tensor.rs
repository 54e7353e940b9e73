use core::marker::PhantomData;
use core::ops::Range;

use crate::{Error, Result};

/// Bytes of a word, the unit of bindings and copies.
pub(crate) const WORD: u64 = 4;

/// The type of a tensor's elements in kernels: `f32` for numbers, however they are stored, or `u32` for ids.
pub trait Element: bytemuck::Pod + sealed::Sealed {}
impl Element for f32 {}
impl Element for u32 {}

mod sealed {
    /// What [`Element`](super::Element) needs inside the crate.
    pub trait Sealed: Sized {
        /// The elements that `bytes` hold.
        fn decode(storage: super::Storage, bytes: &[u8]) -> Vec<Self>;
    }
    impl Sealed for f32 {
        fn decode(storage: super::Storage, bytes: &[u8]) -> Vec<f32> {
            storage.decode(bytes)
        }
    }
    impl Sealed for u32 {
        fn decode(_: super::Storage, bytes: &[u8]) -> Vec<u32> {
            bytemuck::pod_collect_to_vec(bytes)
        }
    }
}

/// How the numbers of a tensor are stored. Kernels compute and sum in f32 whatever the storage. Where they write, they
/// round to nearest, ties to even. No storage needs a device feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Storage {
    /// IEEE 754 binary32.
    #[default]
    F32,
    /// IEEE 754 binary16: 11 significant bits, up to 65,504; larger numbers become infinite.
    F16,
    /// The upper half of an f32: 8 significant bits, the range of f32.
    Bf16,
}

impl Storage {
    /// Bytes of one element.
    pub fn bytes(self) -> u64 {
        match self {
            Storage::F32 => 4,
            Storage::F16 | Storage::Bf16 => 2,
        }
    }

    /// The largest relative error of storing an f32 that is a normal number in this storage: half a unit in the last
    /// place.
    pub fn rounding(self) -> f64 {
        match self {
            Storage::F32 => 0.0,
            Storage::F16 => 2f64.powi(-11),
            Storage::Bf16 => 2f64.powi(-8),
        }
    }

    /// The bytes of `data` in this storage.
    pub fn encode(self, data: &[f32]) -> Vec<u8> {
        match self {
            Storage::F32 => bytemuck::cast_slice(data).to_vec(),
            Storage::F16 => data.iter().flat_map(|&value| half::f16::from_f32(value).to_ne_bytes()).collect(),
            Storage::Bf16 => data.iter().flat_map(|&value| half::bf16::from_f32(value).to_ne_bytes()).collect(),
        }
    }

    /// The numbers that `bytes` hold. Bytes after the last whole element are ignored.
    pub fn decode(self, bytes: &[u8]) -> Vec<f32> {
        let halves = || bytes.chunks_exact(2).map(|pair| u16::from_ne_bytes([pair[0], pair[1]]));
        match self {
            Storage::F32 => bytemuck::pod_collect_to_vec(&bytes[..bytes.len() / 4 * 4]),
            Storage::F16 => halves().map(|bits| half::f16::from_bits(bits).to_f32()).collect(),
            Storage::Bf16 => halves().map(|bits| half::bf16::from_bits(bits).to_f32()).collect(),
        }
    }
}

/// A view of a row-major matrix in a buffer that belongs to the caller. Nothing is copied or owned.
///
/// Element (i, j) lies at `offset + i * stride + j`, counted in elements. The columns of a row are contiguous. With
/// more than one row, `stride` must be at least `cols`.
///
/// The buffer needs the usage `STORAGE`. [`Gpu::read`](crate::Gpu::read) also needs `COPY_SRC`,
/// [`Gpu::write`](crate::Gpu::write) `COPY_DST`. A buffer of 16-bit numbers must hold whole 4-byte words: it must reach
/// to the view's end rounded up to 4 bytes.
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
    pub(crate) storage: Storage,
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

    /// A column: `len` rows of one element.
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

    /// The general view: `offset` elements before the first one, `stride` elements from one row to the next.
    ///
    /// # Errors
    /// As [`Tensor::matrix`]; [`Error::Shape`] if `stride < cols` with more than one row, because rows would overlap,
    /// or if `rows`, `cols` or `stride` exceeds 2³² − 1.
    pub fn strided(buffer: &'a wgpu::Buffer, rows: usize, cols: usize, offset: usize, stride: usize) -> Result<Self> {
        Self::view(Storage::F32, buffer, rows, cols, offset, stride)
    }

    pub(crate) fn view(
        storage: Storage,
        buffer: &'a wgpu::Buffer,
        rows: usize,
        cols: usize,
        offset: usize,
        stride: usize,
    ) -> Result<Self> {
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
            return Err(Error::Usage { usage: "STORAGE" });
        }
        let view = Tensor { buffer, rows, cols, offset, stride, storage, element: PhantomData };
        // Rounded up to whole words, because kernels read no less.
        let end = view.end().and_then(|end| end.checked_mul(storage.bytes())?.checked_next_multiple_of(WORD));
        let end = end.unwrap_or(u64::MAX);
        if end > buffer.size() {
            return Err(Error::OutOfBounds { rows, cols, stride, offset, needed: end, size: buffer.size() });
        }
        Ok(view)
    }

    /// How the elements are stored.
    pub fn storage(&self) -> Storage {
        self.storage
    }

    /// The end of the last element, counted in elements from the buffer's start; `None` on overflow.
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

    /// Whether the elements are contiguous and can be counted in 32 bits.
    pub(crate) fn is_gapless(&self) -> bool {
        (self.stride == self.cols || self.rows <= 1) && u32::try_from(self.rows * self.cols).is_ok()
    }

    /// `rows` × `cols` elements of a gapless tensor, starting at its element number `first`.
    pub(crate) fn reshaped(self, rows: usize, cols: usize, first: usize) -> Self {
        Tensor { rows, cols, offset: self.offset + first, stride: cols, ..self }
    }

    pub(crate) fn untyped(self) -> Tensor<'a, u32> {
        let Tensor { buffer, rows, cols, offset, stride, storage, .. } = self;
        Tensor { buffer, rows, cols, offset, stride, storage, element: PhantomData }
    }

    /// The same elements as numbers.
    pub(crate) fn numbers(self) -> Tensor<'a> {
        let Tensor { buffer, rows, cols, offset, stride, storage, .. } = self;
        Tensor { buffer, rows, cols, offset, stride, storage, element: PhantomData }
    }

    /// Bytes from the buffer's start to the first element.
    pub(crate) fn start_bytes(&self) -> u64 {
        self.offset as u64 * self.storage.bytes()
    }

    /// Bytes from the start of the first element to the end of the last.
    pub(crate) fn span_bytes(&self) -> u64 {
        match self.rows * self.cols {
            0 => 0,
            _ => ((self.rows as u64 - 1) * self.stride as u64 + self.cols as u64) * self.storage.bytes(),
        }
    }

    /// Whether both views have the same elements in the same order.
    pub(crate) fn same<U>(self, other: Tensor<U>) -> bool {
        self.buffer == other.buffer
            && (self.rows, self.cols, self.offset, self.storage)
                == (other.rows, other.cols, other.offset, other.storage)
            && (self.stride == other.stride || self.rows <= 1)
    }

    /// Whether two views share an element. Views with the same stride and disjoint columns do not. Other views of one
    /// buffer count as overlapping if their spans meet.
    pub(crate) fn overlaps<U: Element>(self, other: Tensor<U>) -> bool {
        if self.buffer != other.buffer || self.rows * self.cols == 0 || other.rows * other.cols == 0 {
            return false;
        }
        let bytes = |at: usize, storage: Storage| at as u64 * storage.bytes();
        let (a, b) = (self.start_bytes(), other.start_bytes());
        if a + self.span_bytes() <= b || b + other.span_bytes() <= a {
            return false;
        }
        let (stride, other_stride) = (bytes(self.stride, self.storage), bytes(other.stride, other.storage));
        if stride != other_stride || stride == 0 {
            return true;
        }
        // How many bytes the other's columns lie to the right of this one's, counted around the end of a row.
        let apart = (b + stride - a % stride) % stride;
        apart < bytes(self.cols, self.storage) || apart + bytes(other.cols, other.storage) > stride
    }
}

impl<'a> Tensor<'a> {
    /// The general view of numbers stored as `storage`: `offset` elements before the first one, `stride` elements from
    /// one row to the next.
    ///
    /// Where rows start at multiples of four elements, kernels read and write four elements at a time, else one by one.
    ///
    /// ```
    /// # fn main() -> wgloss::Result<()> {
    /// # let Ok(gpu) = wgloss::Gpu::new() else { return Ok(()) };
    /// use wgloss::{Storage, Tensor};
    /// let buffer = gpu.upload_as(Storage::Bf16, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])?;
    /// let right = Tensor::stored(Storage::Bf16, &buffer, 2, 2, 1, 3)?;
    /// assert_eq!(gpu.read(right)?, [2.0, 3.0, 5.0, 6.0]);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`Tensor::strided`].
    pub fn stored(
        storage: Storage,
        buffer: &'a wgpu::Buffer,
        rows: usize,
        cols: usize,
        offset: usize,
        stride: usize,
    ) -> Result<Self> {
        Self::view(storage, buffer, rows, cols, offset, stride)
    }
}
