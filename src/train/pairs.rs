use std::collections::HashSet;

use crate::{Error, Random, Result};

/// Streams of the seed: the split, then the initial weights. The streams after them are for the batches, one per epoch.
const SPLIT: u32 = 0;
pub(super) const WEIGHTS: u32 = 1;

/// Queries and keys. Row i of the queries belongs to row i of the keys.
#[derive(Debug, Clone, PartialEq)]
pub struct Pairs {
    queries: Vec<f32>,
    keys: Vec<f32>,
    query_cols: usize,
    key_cols: usize,
    /// `None`: each pair is on its own.
    same: Option<Same>,
    weights: Option<Vec<f32>>,
}

/// An id or a label for each pair, and whether pairs with the same number are positives of each other or are left out.
#[derive(Debug, Clone, PartialEq)]
struct Same {
    numbers: Vec<u32>,
    are_positives: bool,
}

/// The indices of the pairs for training and of the held-out pairs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// Pairs to train on.
    pub train: Vec<u32>,
    /// Pairs to evaluate on.
    pub held_out: Vec<u32>,
}

/// Checks that the data has whole rows and finite numbers.
pub(super) fn check_rows(what: &str, data: &[f32], cols: usize) -> Result<()> {
    let refused = |expected: String, found: String| Err(Error::Data { what: what.into(), expected, found });
    if cols == 0 || !data.len().is_multiple_of(cols) {
        return refused(format!("whole rows of {cols} numbers"), format!("{} numbers", data.len()));
    }
    match data.iter().position(|value| !value.is_finite()) {
        Some(at) => {
            refused("finite numbers".into(), format!("{} in row {}, column {}", data[at], at / cols, at % cols))
        }
        None => Ok(()),
    }
}

impl Pairs {
    /// Row-major queries and keys of the given widths.
    ///
    /// # Errors
    /// [`Error::Data`] if a slice does not have whole rows, the numbers of rows differ, a value is NaN or infinite, or
    /// a row is all zeros. The embedding of a zero row would have no direction, and its gradient is as large as
    /// [`normalize`](crate::normalize) makes it.
    pub fn new(queries: Vec<f32>, query_cols: usize, keys: Vec<f32>, key_cols: usize) -> Result<Pairs> {
        for (what, data, cols) in [("queries", &queries, query_cols), ("keys", &keys, key_cols)] {
            check_rows(what, data, cols)?;
            if let Some(row) = data.chunks(cols).position(|row| row.iter().all(|&value| value == 0.0)) {
                let (expected, found) = ("rows of some direction".into(), format!("nothing but zeros in row {row}"));
                return Err(Error::Data { what: what.into(), expected, found });
            }
        }
        let rows = [queries.len() / query_cols, keys.len() / key_cols];
        if rows[0] != rows[1] || u32::try_from(rows[0]).is_err() {
            let (what, found) = ("keys".into(), format!("{} rows", rows[1]));
            return Err(Error::Data { what, expected: format!("as many rows as the queries, {}", rows[0]), found });
        }
        Ok(Pairs { queries, keys, query_cols, key_cols, same: None, weights: None })
    }

    /// Adds an id for each pair. Pairs with the same id, such as several questions with one answer, are not negatives
    /// of each other. Replaces labels.
    ///
    /// # Errors
    /// [`Error::Data`] if there are not as many ids as pairs.
    pub fn with_ids(self, ids: Vec<u32>) -> Result<Pairs> {
        self.one_each("ids", ids.len())?;
        Ok(Pairs { same: Some(Same { numbers: ids, are_positives: false }), ..self })
    }

    /// Adds a label for each pair. Pairs with the same label are positives of each other (supervised contrastive
    /// learning). In a queue of past keys they are left out of the negatives. Replaces ids.
    ///
    /// # Errors
    /// [`Error::Data`] if there are not as many labels as pairs.
    pub fn with_labels(self, labels: Vec<u32>) -> Result<Pairs> {
        self.one_each("labels", labels.len())?;
        Ok(Pairs { same: Some(Same { numbers: labels, are_positives: true }), ..self })
    }

    /// Adds a weight for each pair, with which its loss counts in the mean of a batch.
    ///
    /// # Errors
    /// [`Error::Data`] if there are not as many weights as pairs, or if one is negative, NaN or infinite.
    pub fn with_weights(self, weights: Vec<f32>) -> Result<Pairs> {
        self.one_each("weights", weights.len())?;
        if let Some(at) = weights.iter().position(|&weight| !(weight >= 0.0 && weight.is_finite())) {
            let (expected, found) = ("finite numbers from 0".into(), format!("{} in row {at}", weights[at]));
            return Err(Error::Data { what: "weights".into(), expected, found });
        }
        Ok(Pairs { weights: Some(weights), ..self })
    }

    fn one_each(&self, what: &str, count: usize) -> Result<()> {
        if count != self.len() {
            let (expected, found) = (format!("one for each pair, {}", self.len()), count.to_string());
            return Err(Error::Data { what: what.into(), expected, found });
        }
        Ok(())
    }

    /// How many held-out pairs of a split are partly known from training: their key stands in a training pair too, or
    /// their id does. Labels are shared by design and do not count.
    pub fn known(&self, split: &Split) -> usize {
        let bits = |pair: u32| -> &[u32] {
            bytemuck::cast_slice(&self.keys[pair as usize * self.key_cols..][..self.key_cols])
        };
        let id =
            |pair: u32| self.same.as_ref().filter(|same| !same.are_positives).map(|same| same.numbers[pair as usize]);
        let keys: HashSet<&[u32]> = split.train.iter().map(|&pair| bits(pair)).collect();
        let ids: HashSet<u32> = split.train.iter().filter_map(|&pair| id(pair)).collect();
        let is_known = |pair: u32| keys.contains(bits(pair)) || id(pair).is_some_and(|id| ids.contains(&id));
        split.held_out.iter().filter(|&&pair| is_known(pair)).count()
    }

    /// Whether pairs have ids or labels, which several pairs may share.
    pub(super) fn has_ids(&self) -> bool {
        self.same.is_some()
    }

    /// Whether pairs with the same number are positives of each other.
    pub(super) fn has_labels(&self) -> bool {
        self.same.as_ref().is_some_and(|same| same.are_positives)
    }

    /// The id or label of each of `pairs`; the pair's index if there are none.
    pub(super) fn ids_of(&self, pairs: &[u32]) -> Vec<u32> {
        pairs.iter().map(|&pair| self.same.as_ref().map_or(pair, |same| same.numbers[pair as usize])).collect()
    }

    pub(super) fn has_weights(&self) -> bool {
        self.weights.is_some()
    }

    /// The weights of `pairs`, if there are weights.
    pub(super) fn weights_of(&self, pairs: &[u32]) -> Option<Vec<f32>> {
        self.weights.as_ref().map(|weights| pairs.iter().map(|&pair| weights[pair as usize]).collect())
    }

    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.queries.len() / self.query_cols
    }

    /// Whether there are no pairs.
    pub fn is_empty(&self) -> bool {
        self.queries.is_empty()
    }

    /// Width of a query.
    pub fn query_cols(&self) -> usize {
        self.query_cols
    }

    /// Width of a key.
    pub fn key_cols(&self) -> usize {
        self.key_cols
    }

    /// Queries and keys.
    pub(super) fn data(&self) -> [&[f32]; 2] {
        [&self.queries, &self.keys]
    }

    /// The rows `ids` of one side. Side 0: queries; side 1: keys.
    pub(super) fn gather(&self, side: usize, ids: &[u32]) -> Vec<f32> {
        let (data, cols) = (self.data()[side], [self.query_cols, self.key_cols][side]);
        ids.iter().flat_map(|&id| &data[id as usize * cols..][..cols]).copied().collect()
    }

    pub(super) fn split(&self, held_out: f32, seed: u64) -> Split {
        let mut order = Random::new(seed, SPLIT).permutation(self.len() as u32);
        let count = (f64::from(held_out) * self.len() as f64 + 0.5).floor() as usize;
        let train = order.split_off(count.min(order.len()));
        Split { train, held_out: order }
    }
}
