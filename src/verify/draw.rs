use super::{Fill, REDUCTIONS, STORAGES};
use crate::{Accum, Gpu, Random, Reduction, Storage, Tuning};

/// The source of drawn cases.
#[derive(Debug, Clone)]
pub(super) struct Draw(Random);

impl Draw {
    pub(super) fn new(seed: u64) -> Self {
        Draw(Random::new(seed, 0))
    }

    pub(super) fn below(&mut self, n: usize) -> usize {
        self.0.below(n as u32) as usize
    }

    pub(super) fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    pub(super) fn yes(&mut self) -> bool {
        self.below(2) == 0
    }

    /// Once in `n` times.
    pub(super) fn rarely(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// From 1 to `most`. Small sizes are as likely as large ones. Often a power of two, or one less or one more.
    pub(super) fn size(&mut self, most: usize) -> usize {
        let power = 1 << self.below(most.ilog2() as usize + 1);
        let size = match self.below(5) {
            0 => power,
            1 => power - 1,
            2 => power + 1,
            _ => power + self.below(power),
        };
        size.clamp(1, most)
    }

    /// Rows and columns of a matrix of at most `most` elements.
    pub(super) fn shape(&mut self, most: usize) -> [usize; 2] {
        let long = self.size(most);
        let [a, b] = [long, self.size((most / long).max(1))];
        if self.yes() { [a, b] } else { [b, a] }
    }

    /// Queries, keys and columns for at most `most` multiply-adds.
    pub(super) fn pairs(&mut self, most: usize) -> [usize; 3] {
        let dim = self.size(most.min(600));
        let [n, m] = self.shape(most / dim);
        [n, m, dim]
    }

    /// A fill for rows whose products are summed over `pairs` pairs of `dim` terms. Not `Equal` if these are many,
    /// because the roundings of many equal terms all go one way.
    pub(super) fn fill_of_pairs(&mut self, dim: usize, pairs: usize, fills: &[Fill]) -> Fill {
        match self.one_of(fills) {
            Fill::Equal if dim > 64 || pairs > 1_000 => Fill::Small,
            fill => fill,
        }
    }

    pub(super) fn fill(&mut self, without: &[Fill]) -> Fill {
        let fills: Vec<Fill> = super::FILLS.into_iter().filter(|fill| !without.contains(fill)).collect();
        self.one_of(&fills)
    }

    /// f32 half of the time.
    pub(super) fn storage(&mut self) -> Storage {
        self.one_of(&[Storage::F32, Storage::F32, STORAGES[0], STORAGES[1]])
    }

    pub(super) fn accum(&mut self) -> Accum {
        self.one_of(&[Accum::Write, Accum::Add])
    }

    pub(super) fn reduction(&mut self) -> Reduction {
        self.one_of(&REDUCTIONS)
    }

    /// The device with its own workspace, or with one for an eighth or a hundredth of this many scores, but at least
    /// for a tile.
    pub(super) fn in_chunks(&mut self, gpu: &Gpu, scores: usize) -> Gpu {
        let tuning = *gpu.tuning();
        let [rows, cols] = tuning.tile();
        let tile = 4 * (rows * cols) as u64;
        let part = |parts: u64| (4 * scores as u64 / parts).max(tile);
        let workspace = self.one_of(&[tuning.workspace, part(8), part(100)]);
        gpu.with_tuning(Tuning { workspace, ..tuning })
    }
}
