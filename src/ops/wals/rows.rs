use core::ops::Range;

use crate::ops::linear::chunks;
use crate::{Error, Gpu, Result, Tensor};

/// Observations of a piece, unless a row has more such pieces than the workspace holds.
const PIECE: usize = 2048;
/// Numbers of a piece: its first observation, how many, whether it is its row's first, the row, the row's place among the sorted.
const WORDS: usize = 5;
/// Lanes go through as many rounds as the longest piece of a dispatch. Where there are enough to fill the device, pieces shorter than seven eighths of it make
/// another; not where the longest is no longer than this.
const SHORT: usize = 16;

/// Which observations each row has, cut into pieces and sorted by length; made once for a matrix, with its buffers.
#[derive(Debug)]
pub struct Rows {
    /// Rows by descending number of observations: that of the row's longest piece, and its pieces.
    sorted: Vec<(u32, Range<usize>)>,
    /// The row of each piece.
    of_piece: Vec<u32>,
    pieces: wgpu::Buffer,
    own: wgpu::Buffer,
    order: wgpu::Buffer,
    pub(super) observations: usize,
}

/// What a batch of rows takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Price {
    /// Numbers of the workspace, of a row and of a piece.
    pub(super) row: usize,
    pub(super) piece: usize,
    /// Multiply-adds, or as much, of an observation.
    pub(super) observation: u64,
}

/// Rows that one dispatch takes: places among the sorted.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    pub(super) rows: Range<usize>,
    pub(super) pieces: Range<usize>,
    /// Observations of the longest piece.
    pub(super) depth: usize,
}

impl Rows {
    /// Row u has the observations `starts[u]..starts[u + 1]`, of factors of `dim` numbers.
    ///
    /// # Errors
    /// [`Error::Data`] unless `starts` begins with 0 and never falls; any error of the device.
    pub fn new(gpu: &Gpu, starts: &[u32], dim: usize) -> Result<Rows> {
        let refuse =
            |expected: &str, found| Err(Error::Data { what: "starts".into(), expected: expected.into(), found });
        if starts.first() != Some(&0) {
            return refuse("0 as the first", format!("{:?}", starts.first()));
        }
        if let Some(row) = starts.windows(2).position(|pair| pair[1] < pair[0]) {
            return refuse("ascending", format!("{} after {}, of row {row}", starts[row + 1], starts[row]));
        }
        let length = |row: u32| (starts[row as usize + 1] - starts[row as usize]) as usize;
        let mut order: Vec<u32> = (0..starts.len() as u32 - 1).collect();
        order.sort_by_key(|&row| core::cmp::Reverse(length(row)));
        let longest = order.first().map_or(0, |&row| length(row));
        let size = PIECE.max(longest.div_ceil(most(gpu, super::direct::matrix_size(dim))));
        let (mut sorted, mut of_piece, mut pieces, mut own) = (Vec::new(), Vec::new(), Vec::new(), vec![0u32]);
        for (place, &row) in order.iter().enumerate() {
            let (first, count) = (of_piece.len(), length(row));
            // A row without observations has an empty piece.
            for part in chunks(count, size).chain((count == 0).then_some(0..0)) {
                pieces.extend([
                    starts[row as usize] + part.start as u32,
                    part.len() as u32,
                    (part.start == 0).into(),
                    row,
                    place as u32,
                ]);
                of_piece.push(row);
            }
            own.push(of_piece.len() as u32);
            sorted.push((count.min(size) as u32, first..of_piece.len()));
        }
        let observations = starts[starts.len() - 1] as usize;
        let [pieces, own, order] = [&pieces, &own, &order].map(|ids| gpu.upload(ids));
        Ok(Rows { sorted, of_piece, pieces: pieces?, own: own?, order: order?, observations })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.sorted.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.sorted.is_empty()
    }

    /// Number of pieces, the rows of [`objective`](super::objective)'s output.
    pub fn pieces(&self) -> usize {
        self.of_piece.len()
    }

    /// The row that a piece belongs to.
    pub fn row_of(&self, piece: usize) -> usize {
        self.of_piece[piece] as usize
    }

    /// A batch's pieces, and where each of its rows has its own.
    pub(super) fn views(&self, batch: &Batch) -> Result<[Tensor<'_, u32>; 2]> {
        let pieces = Tensor::matrix(&self.pieces, self.of_piece.len(), WORDS)?.row_range(batch.pieces.clone());
        let own = Tensor::vector(&self.own, self.len() + 1)?.row_range(batch.rows.start..batch.rows.end + 1);
        Ok([pieces, own])
    }

    /// The rows of a batch, as they were before they were sorted.
    pub(super) fn ids(&self, batch: &Batch) -> Result<Tensor<'_, u32>> {
        Ok(Tensor::vector(&self.order, self.len())?.row_range(batch.rows.clone()))
    }

    /// Rows of similar length whose numbers the workspace holds and whose work a dispatch may have.
    pub(super) fn batches(&self, gpu: &Gpu, price: Price) -> Vec<Batch> {
        let (work, room) = (gpu.tuning().work, gpu.tuning().workspace as usize / 4);
        let mut batches: Vec<Batch> = Vec::new();
        let mut first = 0;
        let batch = |rows: Range<usize>| {
            let pieces = self.sorted[rows.start].1.start..self.sorted[rows.end - 1].1.end;
            Batch { depth: self.sorted[rows.start].0 as usize, rows, pieces }
        };
        for row in 0..self.len() {
            let grown = batch(first..row + 1);
            let numbers = grown.rows.len() * price.row + grown.pieces.len() * price.piece;
            let observations = grown.pieces.len() as u64 * grown.depth as u64;
            let is_large = numbers > room || observations.saturating_mul(price.observation) > work;
            let length = self.sorted[row].0 as usize;
            let fills = grown.pieces.len() > gpu.tuning().groups as usize;
            let is_uneven = fills && grown.depth > SHORT && 8 * length < 7 * grown.depth;
            if row > first && (is_large || is_uneven || grown.pieces.len() > grid(gpu)) {
                batches.push(batch(first..row));
                first = row;
            }
        }
        batches.extend((first < self.len()).then(|| batch(first..self.len())));
        batches
    }
}

fn grid(gpu: &Gpu) -> usize {
    gpu.limits().max_compute_workgroups_per_dimension as usize
}

/// How many times `size` numbers the workspace and a grid hold.
fn most(gpu: &Gpu, size: usize) -> usize {
    (gpu.tuning().workspace as usize / 4 / size.max(1)).clamp(1, grid(gpu))
}
