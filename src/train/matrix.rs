use crate::{Gpu, Result, Storage, Tensor};

/// A matrix with a buffer of its own.
pub(super) struct Matrix {
    pub(super) buffer: wgpu::Buffer,
    pub(super) rows: usize,
    pub(super) cols: usize,
    storage: Storage,
}

impl Matrix {
    pub(super) fn new(gpu: &Gpu, rows: usize, cols: usize) -> Result<Matrix> {
        Matrix::stored(gpu, Storage::F32, rows, cols)
    }

    pub(super) fn stored(gpu: &Gpu, storage: Storage, rows: usize, cols: usize) -> Result<Matrix> {
        Ok(Matrix { buffer: gpu.zeros_as(storage, rows * cols)?, rows, cols, storage })
    }

    pub(super) fn of(gpu: &Gpu, data: &[f32], cols: usize) -> Result<Matrix> {
        Ok(Matrix { buffer: gpu.upload(data)?, rows: data.len() / cols, cols, storage: Storage::F32 })
    }

    pub(super) fn view(&self) -> Result<Tensor<'_>> {
        Tensor::view(self.storage, &self.buffer, self.rows, self.cols, 0, self.cols)
    }

    pub(super) fn first(&self, rows: usize) -> Result<Tensor<'_>> {
        Ok(self.view()?.row_range(0..rows))
    }
}

/// A column of ids with a buffer of its own.
pub(super) struct Ids {
    buffer: wgpu::Buffer,
    rows: usize,
}

impl Ids {
    pub(super) fn new(gpu: &Gpu, rows: usize) -> Result<Ids> {
        Ok(Ids { buffer: gpu.zeros::<u32>(rows)?, rows })
    }

    pub(super) fn of(gpu: &Gpu, data: &[u32]) -> Result<Ids> {
        Ok(Ids { buffer: gpu.upload(data)?, rows: data.len() })
    }

    pub(super) fn view(&self) -> Result<Tensor<'_, u32>> {
        Tensor::vector(&self.buffer, self.rows)
    }

    pub(super) fn first(&self, rows: usize) -> Result<Tensor<'_, u32>> {
        Ok(self.view()?.row_range(0..rows))
    }

    /// `rows` × `cols` of the ids, starting at index `first`.
    pub(super) fn matrix(&self, rows: usize, cols: usize, first: usize, stride: usize) -> Result<Tensor<'_, u32>> {
        Tensor::strided(&self.buffer, rows, cols, first, stride)
    }
}
