use crate::Random;

/// Which rows each step takes: all (gradient descent), one (single-example SGD), or some, in order or shuffled anew each epoch (mini-batch SGD).
/// The same on every machine.
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
    /// Rows that there are.
    pub rows: u32,
    /// Rows of a step.
    pub size: usize,
    /// Decides the order of each epoch; `None` keeps that of the rows.
    pub seed: Option<u64>,
    /// Whether an epoch ends with a smaller step of what whole ones leave.
    pub keeps_rest: bool,
}

/// The first of the streams of a seed that epochs take, one each.
const FIRST_EPOCH: u32 = 2;

impl Batches {
    /// One step of all rows.
    pub fn full(rows: u32) -> Batches {
        Batches { rows, size: rows as usize, seed: None, keeps_rest: false }
    }

    /// One row a step, in random order.
    pub fn single(rows: u32, seed: u64) -> Batches {
        Batches::shuffled(rows, 1, seed)
    }

    /// `size` rows a step, in order; the last step takes what is left.
    pub fn in_order(rows: u32, size: usize) -> Batches {
        Batches { rows, size, seed: None, keeps_rest: true }
    }

    /// `size` rows a step, in random order.
    pub fn shuffled(rows: u32, size: usize, seed: u64) -> Batches {
        Batches { rows, size, seed: Some(seed), keeps_rest: false }
    }

    /// Steps of an epoch.
    pub fn steps(&self) -> usize {
        let (rows, size) = (self.rows as usize, self.size.max(1));
        if self.keeps_rest { rows.div_ceil(size) } else { rows / size }
    }

    /// All rows in the order of epoch 1, 2, …
    pub fn epoch(&self, epoch: u32) -> Vec<u32> {
        match self.seed {
            Some(seed) => Random::new(seed, FIRST_EPOCH.wrapping_add(epoch).wrapping_sub(1)).permutation(self.rows),
            None => (0..self.rows).collect(),
        }
    }

    /// The rows of each step of an epoch in this order.
    pub fn steps_of<'a>(&self, order: &'a [u32]) -> impl Iterator<Item = &'a [u32]> + use<'a> {
        order.chunks(self.size.max(1)).take(self.steps())
    }
}
