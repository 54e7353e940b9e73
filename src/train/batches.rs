use crate::Random;

/// The rows of each step: all rows (gradient descent), one row (single-example SGD), or some rows, in order or
/// reshuffled each epoch (mini-batch SGD). The same on every machine.
///
/// ```
/// use wgloss::train::Batches;
/// let batches = Batches::shuffled(10, 4, 7);
/// let order = batches.epoch(1);
/// let steps: Vec<&[u32]> = batches.steps_of(&order).collect();
/// assert_eq!(steps.iter().map(|rows| rows.len()).collect::<Vec<_>>(), [4, 4]); // two are dropped; the next epoch is shuffled anew
/// assert_ne!(order, batches.epoch(2));
/// assert_eq!(Batches::full(3).epoch(1), [0, 1, 2]);
/// assert_eq!(Batches::single(3, 7).steps(), 3);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batches {
    /// Number of rows.
    pub rows: u32,
    /// Rows per step.
    pub size: usize,
    /// Seed of the order of each epoch. `None` keeps the order of the rows.
    pub seed: Option<u64>,
    /// Whether an epoch ends with a smaller step for the rows that do not fill a whole step.
    pub keeps_rest: bool,
}

/// The stream of epoch 1. Each epoch takes one stream of the seed.
const FIRST_EPOCH: u32 = 2;

impl Batches {
    /// One step of all rows per epoch.
    pub fn full(rows: u32) -> Batches {
        Batches { rows, size: rows as usize, seed: None, keeps_rest: false }
    }

    /// One row per step, in random order.
    pub fn single(rows: u32, seed: u64) -> Batches {
        Batches::shuffled(rows, 1, seed)
    }

    /// `size` rows per step, in order; the last step of an epoch takes the remaining rows.
    pub fn in_order(rows: u32, size: usize) -> Batches {
        Batches { rows, size, seed: None, keeps_rest: true }
    }

    /// `size` rows per step, in random order; the remaining rows of an epoch are dropped.
    pub fn shuffled(rows: u32, size: usize, seed: u64) -> Batches {
        Batches { rows, size, seed: Some(seed), keeps_rest: false }
    }

    /// Steps per epoch.
    pub fn steps(&self) -> usize {
        let (rows, size) = (self.rows as usize, self.size.max(1));
        if self.keeps_rest { rows.div_ceil(size) } else { rows / size }
    }

    /// All rows in the order of epoch `epoch`, counted from 1.
    pub fn epoch(&self, epoch: u32) -> Vec<u32> {
        match self.seed {
            Some(seed) => Random::new(seed, FIRST_EPOCH.wrapping_add(epoch).wrapping_sub(1)).permutation(self.rows),
            None => (0..self.rows).collect(),
        }
    }

    /// The rows of each step of an epoch, where `order` is that epoch's [`Batches::epoch`].
    pub fn steps_of<'a>(&self, order: &'a [u32]) -> impl Iterator<Item = &'a [u32]> + use<'a> {
        order.chunks(self.size.max(1)).take(self.steps())
    }
}
