use core::ops::Range;

use crate::ops::linear::chunks;
use crate::{Error, Gpu, Result, Tensor};

/// Observations per piece, at most. Pieces are longer if the longest row would otherwise have more pieces than the
/// workspace holds.
const PIECE: usize = 2048;
/// Numbers of a piece: its first observation; how many; whether it is the first of its row; the row; the row's place in
/// the sorted order.
const WORDS: usize = 5;
/// All lanes (threads) of a dispatch run as many rounds as its longest piece has observations. If the dispatch already
/// fills the device, a row whose longest piece is shorter than seven eighths of that starts a new dispatch, unless the
/// longest piece has at most this many observations.
const SHORT: usize = 16;

/// The observations of each row, cut into pieces and sorted by length. Made once per matrix; holds its own buffers.
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

/// A row in the sorted order.
#[derive(Debug)]
struct Row {
    number: u32,
    /// Number of observations of the row's longest piece.
    depth: u32,
    pieces: Range<usize>,
    observations: Range<usize>,
}

/// Costs by which rows are grouped into batches.
#[derive(Debug, Clone, Copy)]
pub(super) struct Price {
    /// Numbers of workspace per row and per piece.
    pub(super) row: usize,
    pub(super) piece: usize,
    /// Multiply-adds per observation, or an equivalent amount of work.
    pub(super) observation: u64,
}

/// The rows of one dispatch, as places in the sorted order.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    pub(super) rows: Range<usize>,
    pub(super) pieces: Range<usize>,
    /// The range from the batch's first observation to its last.
    pub(super) observations: Range<usize>,
    /// Number of observations of the longest piece.
    pub(super) depth: usize,
}

impl Rows {
    /// Row u has the observations `starts[u]..starts[u + 1]`, for factors of `dim` numbers. The observations of all
    /// rows must fit one binding.
    ///
    /// # Errors
    /// [`Error::Data`] unless `starts` begins with 0 and never decreases; any error of the device.
    pub fn new(gpu: &Gpu, starts: &[u32], dim: usize) -> Result<Rows> {
        Rows::laid_out(gpu, starts, dim, false)
    }

    /// Like [`Rows::new`], but with the observations of the rows stored in the order of [`Rows::order`]; within a row
    /// the order stays. A dispatch then binds only the observations of its rows, so the total may exceed a binding.
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

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.sorted.is_empty()
    }

    /// Number of pieces: the rows of [`objective`](super::objective)'s output.
    pub fn pieces(&self) -> usize {
        self.of_piece.len()
    }

    /// The row that a piece belongs to.
    pub fn row_of(&self, piece: usize) -> usize {
        self.of_piece[piece] as usize
    }

    /// The pieces of a batch, and the range of pieces of each of its rows.
    pub(super) fn views(&self, batch: &Batch) -> Result<[Tensor<'_, u32>; 2]> {
        let pieces = Tensor::matrix(&self.pieces, self.of_piece.len(), WORDS)?.row_range(batch.pieces.clone());
        let own = Tensor::vector(&self.own, self.len() + 1)?.row_range(batch.rows.start..batch.rows.end + 1);
        Ok([pieces, own])
    }

    /// The original indices of a batch's rows.
    pub(super) fn ids(&self, batch: &Batch) -> Result<Tensor<'_, u32>> {
        Ok(Tensor::vector(&self.order, self.len())?.row_range(batch.rows.clone()))
    }

    /// Groups rows of similar length into batches that fit the workspace and the work limit of a dispatch.
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

/// Numbers to spare at both ends of a binding, because it starts at a multiple of the device's alignment.
const MARGIN: u64 = 128;

fn grid(gpu: &Gpu) -> usize {
    gpu.limits().max_compute_workgroups_per_dimension as usize
}

/// How many pieces of `size` numbers the workspace and a grid hold, at least 1.
fn most(gpu: &Gpu, size: usize) -> usize {
    (gpu.tuning().workspace as usize / 4 / size.max(1)).clamp(1, grid(gpu))
}
