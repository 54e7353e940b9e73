//! Copies between slices and the device.

use crate::ops::cast;
use crate::tensor::{Element, WORD};
use crate::{Error, Gpu, Result, Storage, Tensor};

/// The most bytes that one copy to or from the device moves. This bounds the staging memory.
const STAGING: u64 = 32 << 20;

impl Gpu {
    /// A new buffer that holds `data`, usable as storage, copy source and copy destination.
    ///
    /// # Errors
    /// [`Error::Limit`] if `data` exceeds the device's largest buffer, [`Error::OutOfMemory`].
    pub fn upload<T: Element>(&self, data: &[T]) -> Result<wgpu::Buffer> {
        self.upload_bytes(bytemuck::cast_slice(data))
    }

    /// A new buffer that holds `data` as `storage`.
    ///
    /// # Errors
    /// As [`Gpu::upload`].
    pub fn upload_as(&self, storage: Storage, data: &[f32]) -> Result<wgpu::Buffer> {
        let mut bytes = storage.encode(data);
        bytes.resize(bytes.len().next_multiple_of(wgpu::COPY_BUFFER_ALIGNMENT as usize), 0);
        self.upload_bytes(&bytes)
    }

    fn upload_bytes(&self, bytes: &[u8]) -> Result<wgpu::Buffer> {
        let buffer = self.buffer("wgloss.data", bytes.len() as u64)?;
        self.guard(|| {
            for (index, part) in bytes.chunks(STAGING as usize).enumerate() {
                self.queue().write_buffer(&buffer, index as u64 * STAGING, part);
            }
        })?;
        Ok(buffer)
    }

    /// A new buffer of `len` zeros, four bytes each.
    ///
    /// # Errors
    /// As [`Gpu::upload`].
    pub fn zeros<T: Element>(&self, len: usize) -> Result<wgpu::Buffer> {
        self.buffer("wgloss.data", (len as u64).saturating_mul(WORD))
    }

    /// A new buffer of `len` zeros as `storage`.
    ///
    /// # Errors
    /// As [`Gpu::upload`].
    pub fn zeros_as(&self, storage: Storage, len: usize) -> Result<wgpu::Buffer> {
        self.buffer("wgloss.data", (len as u64).saturating_mul(storage.bytes()))
    }

    /// Overwrites the view's elements. Takes effect before whatever is submitted next.
    ///
    /// # Errors
    /// [`Error::Shape`] if `data` does not have rows × cols elements, [`Error::Usage`] if the buffer lacks `COPY_DST`.
    pub fn write<T: Element>(&self, tensor: Tensor<T>, data: &[T]) -> Result<()> {
        if data.len() != tensor.rows * tensor.cols {
            return Err(Error::Shape {
                op: "write",
                what: "data",
                expected: format!("{} elements", tensor.rows * tensor.cols),
                found: data.len().to_string(),
            });
        }
        if !tensor.buffer.usage().contains(wgpu::BufferUsages::COPY_DST) {
            return Err(Error::Usage { usage: "COPY_DST" });
        }
        if data.is_empty() {
            return Ok(());
        }
        let rows_at_once = if tensor.stride == tensor.cols { tensor.rows } else { 1 };
        let words = |elements: usize| (elements as u64 * tensor.storage.bytes()).is_multiple_of(WORD);
        if !(words(tensor.offset) && words(tensor.stride) && words(rows_at_once * tensor.cols)) {
            // Copies move whole words. Where half words are to be written, a kernel writes them and leaves the other
            // halves as they are.
            let numbers = self.upload(data)?;
            let numbers = Tensor::matrix(&numbers, tensor.rows, tensor.cols)?;
            return self.run(|recorder| cast::forward(recorder, numbers, tensor.numbers()));
        }
        self.guard(|| {
            for (index, part) in data.chunks((rows_at_once * tensor.cols).max(1)).enumerate() {
                let start = (tensor.offset + index * rows_at_once * tensor.stride) as u64 * tensor.storage.bytes();
                match tensor.storage {
                    Storage::F32 => self.queue().write_buffer(tensor.buffer, start, bytemuck::cast_slice(part)),
                    storage => {
                        self.queue().write_buffer(tensor.buffer, start, &storage.encode(bytemuck::cast_slice(part)))
                    }
                }
            }
        })
    }

    /// The view's elements, row after row, once all submitted work is done; blocks.
    ///
    /// # Errors
    /// As [`Gpu::read_async`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn read<T: Element>(&self, tensor: Tensor<T>) -> Result<Vec<T>> {
        pollster::block_on(self.read_async(tensor))
    }

    /// The view's elements, row after row, once all submitted work is done. Outside a browser the first poll of the
    /// future blocks, since wgpu has no event loop there.
    ///
    /// # Errors
    /// [`Error::Usage`] if the buffer lacks `COPY_SRC`; any error or loss of the device so far. A result is returned
    /// only if the work before it is known to have been done.
    pub async fn read_async<T: Element>(&self, tensor: Tensor<'_, T>) -> Result<Vec<T>> {
        self.check()?;
        if !tensor.buffer.usage().contains(wgpu::BufferUsages::COPY_SRC) {
            return Err(Error::Usage { usage: "COPY_SRC" });
        }
        let mut data = Vec::with_capacity(tensor.rows * tensor.cols);
        if tensor.cols == 0 {
            return Ok(data);
        }
        let largest = STAGING.min(self.limits().max_buffer_size) / tensor.storage.bytes();
        let rows_at_once = (largest as usize / tensor.stride.max(1)).max(1);
        for first in (0..tensor.rows).step_by(rows_at_once) {
            let rows = tensor.row_range(first..first + rows_at_once);
            if rows.rows > 1 {
                let part = self.read_span(rows).await?;
                part.chunks(rows.stride).for_each(|row| data.extend_from_slice(&row[..rows.cols]));
            } else {
                for start in (0..rows.cols).step_by(largest as usize) {
                    data.extend(self.read_span(rows.col_range(start..start + largest as usize)).await?);
                }
            }
        }
        Ok(data)
    }

    /// The elements from the view's first to its last, including the gaps between rows.
    async fn read_span<T: Element>(&self, tensor: Tensor<'_, T>) -> Result<Vec<T>> {
        // Copies are in whole words.
        let first = tensor.start_bytes();
        let start = first - first % WORD;
        let size = (first + tensor.span_bytes() - start).next_multiple_of(WORD);
        let (done, outcome) = futures_channel::oneshot::channel();
        let staging = self.guard(|| {
            let staging = self.device().create_buffer(&wgpu::BufferDescriptor {
                label: Some("wgloss.read"),
                size,
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            });
            let mut encoder = self.device().create_command_encoder(&Default::default());
            encoder.copy_buffer_to_buffer(tensor.buffer, start, &staging, 0, size);
            self.queue().submit([encoder.finish()]);
            staging.map_async(wgpu::MapMode::Read, .., move |result| {
                let _ = done.send(result); // the receiver is gone only if this future was dropped
            });
            staging
        })?;
        self.wait_for_all()?;
        match outcome.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                self.check()?;
                return Err(Error::Device { message: format!("reading back failed: {error}") });
            }
            Err(_) => return Err(Error::DeviceLost { message: "a read was never answered".into() }),
        }
        self.settled().await?;
        let mapped = staging
            .get_mapped_range(..)
            .map_err(|error| Error::Device { message: format!("reading back failed: {error}") })?;
        let bytes = &mapped[(first - start) as usize..][..tensor.span_bytes() as usize];
        Ok(T::decode(tensor.storage, bytes))
    }
}
