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
    /// By descending number of observations.
    sorted: Vec<Row>,
    /// The row of each piece.
    of_piece: Vec<u32>,
    pieces: wgpu::Buffer,
    own: wgpu::Buffer,
    order: wgpu::Buffer,
    pub(super) observations: usize,
}

/// A row among the sorted.
#[derive(Debug)]
struct Row {
    number: u32,
    /// Observations of its longest piece.
    depth: u32,
    pieces: Range<usize>,
    observations: Range<usize>,
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
    /// From its first observation to its last.
    pub(super) observations: Range<usize>,
    /// Observations of the longest piece.
    pub(super) depth: usize,
}

impl Rows {
    /// Row u has the observations `starts[u]..starts[u + 1]`, of factors of `dim` numbers. All of them have to fit one binding.
    ///
    /// # Errors
    /// [`Error::Data`] unless `starts` begins with 0 and never falls; any error of the device.
    pub fn new(gpu: &Gpu, starts: &[u32], dim: usize) -> Result<Rows> {
        Rows::laid_out(gpu, starts, dim, false)
    }

    /// The same, but the observations lie in the order of [`Rows::order`], each row's as they were, so that a dispatch binds those of its rows alone: there may be
    /// more than a binding holds.
    ///
    /// # Errors
    /// As [`Rows::new`].
    pub fn by_length(gpu: &Gpu, starts: &[u32], dim: usize) -> Result<Rows> {
        Rows::laid_out(gpu, starts, dim, true)
    }

    fn laid_out(gpu: &Gpu, starts: &[u32], dim: usize, by_length: bool) -> Result<Rows> {
        let refuse =
            |expected: &str, found| Err(Error::Data { what: "starts".into(), expected: expected.into(), found });
        if starts.first() != Some(&0) {
            return refuse("0 as the first", starts.first().map_or("none".into(), u32::to_string));
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
        let mut next = 0;
        for (place, &row) in order.iter().enumerate() {
            let (first, count) = (of_piece.len(), length(row));
            let start = if by_length { next } else { starts[row as usize] };
            next = start + count as u32;
            // A row without observations has an empty piece.
            for part in chunks(count, size).chain((count == 0).then_some(0..0)) {
                pieces.extend([
                    start + part.start as u32,
                    part.len() as u32,
                    (part.start == 0).into(),
                    row,
                    place as u32,
                ]);
                of_piece.push(row);
            }
            own.push(of_piece.len() as u32);
            let (depth, observations) = (count.min(size) as u32, start as usize..start as usize + count);
            sorted.push(Row { number: row, depth, pieces: first..of_piece.len(), observations });
        }
        let observations = starts[starts.len() - 1] as usize;
        let [pieces, own, order] = [&pieces, &own, &order].map(|ids| gpu.upload(ids));
        Ok(Rows { sorted, of_piece, pieces: pieces?, own: own?, order: order?, observations })
    }

    /// The rows by descending number of observations.
    pub fn order(&self) -> impl Iterator<Item = usize> + '_ {
        self.sorted.iter().map(|row| row.number as usize)
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
        let bound = (gpu.limits().max_storage_buffer_binding_size / 4).saturating_sub(MARGIN) as usize;
        let mut batches: Vec<Batch> = Vec::new();
        let mut first = 0;
        let batch = |rows: Range<usize>| {
            let own = &self.sorted[rows.clone()];
            let observed = || own.iter().map(|row| &row.observations).filter(|observations| !observations.is_empty());
            let from = observed().map(|observations| observations.start).min().unwrap_or(0);
            let to = observed().map(|observations| observations.end).max().unwrap_or(0);
            let pieces = own[0].pieces.start..own[own.len() - 1].pieces.end;
            Batch { depth: own[0].depth as usize, rows, pieces, observations: from..to }
        };
        for (at, row) in self.sorted.iter().enumerate() {
            let start = &self.sorted[first];
            let (pieces, depth) = (row.pieces.end - start.pieces.start, start.depth as usize);
            let numbers = (at + 1 - first) * price.row + pieces * price.piece;
            let in_time = (pieces as u64 * depth as u64).saturating_mul(price.observation) <= work;
            let is_bound = row.observations.end.saturating_sub(start.observations.start) <= bound;
            let fills = pieces > gpu.tuning().groups as usize;
            let is_uneven = fills && depth > SHORT && 8 * row.depth < 7 * start.depth;
            if at > first && (numbers > room || !in_time || !is_bound || is_uneven || pieces > grid(gpu)) {
                batches.push(batch(first..at));
                first = at;
            }
        }
        batches.extend((first < self.len()).then(|| batch(first..self.len())));
        batches
    }
}

/// Numbers before and after what is bound, since a binding begins at a multiple of the device's alignment.
const MARGIN: u64 = 128;

fn grid(gpu: &Gpu) -> usize {
    gpu.limits().max_compute_workgroups_per_dimension as usize
}

/// How many times `size` numbers the workspace and a grid hold.
fn most(gpu: &Gpu, size: usize) -> usize {
    (gpu.tuning().workspace as usize / 4 / size.max(1)).clamp(1, grid(gpu))
}
