//! Embedding tables trained on interactions: one row per user and per item. The inner product of two rows scores the
//! pair.
//!
//! With `hidden` above 0, each table is followed by a tower, linear → tanh → linear, whose output is the embedding.
//!
//! A step gathers the rows of a batch, draws negatives, computes the loss and its gradients, and updates the rows that
//! took part. All of this runs on the device, in one submit. Rows that did not take part keep their values and their
//! optimizer state, as with PyTorch's SparseAdam.
//!
//! ```
//! # fn main() -> wgloss::Result<()> {
//! # let Ok(gpu) = wgloss::Gpu::new() else { return Ok(()) };
//! use wgloss::train::tables::{Config, Event, Interactions, fit};
//! // Users 0 to 3 take items 0 to 3, the others items 4 to 7.
//! let (users, items) = (0..8u32).flat_map(|user| (0..4).map(move |item| (user, user / 4 * 4 + item))).unzip();
//! let data = Interactions::new(users, items, 8, 8)?;
//! let config = Config { dim: 4, batch: 8, epochs: 30, ..Config::default() };
//! let model = fit(&gpu, &data, None, &config, &mut |_: Event| std::ops::ControlFlow::Continue(()))?.model;
//! let score = |user: usize, item: usize| -> f32 { (0..4).map(|d| model.users[4 * user + d] * model.items[4 * item + d]).sum() };
//! assert!(score(0, 0) > score(0, 7) && score(7, 7) > score(7, 0));
//! # Ok(()) }
//! ```

mod device;
mod interactions;

use core::ops::ControlFlow;
use std::time::Instant;

pub use device::recommend;
pub use interactions::Interactions;

pub use super::End;
use super::{Batches, Optimizer, PATIENCE, STEPS_PER_READ, Schedule, check_widths, patient};
use crate::{Error, Gpu, Progress, Result, adam, info_nce, metrics};

/// Most negatives per user, or shared by all users.
const MOST_DRAWN: usize = 1 << 24;

/// The negatives with which the score of a pair is compared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Negatives {
    /// No negatives. Only [`Loss::Logistic`] can train without them, and its embeddings fold: see [`metrics::folding`].
    None,
    /// Items drawn for each user, outside of the items it has taken: by popularity raised to a power, or uniformly.
    Drawn {
        /// Negatives per user.
        count: usize,
        /// Power of popularity; 0: uniform.
        power: f64,
        /// Share of the draws that are uniform, from 0 to 1.
        uniform: f32,
    },
    /// The other items of the batch.
    InBatch,
    /// The other items of the batch, and uniformly drawn items that all users share (mixed negative sampling).
    Mixed {
        /// Number of drawn items.
        count: usize,
    },
    /// The items with the largest scores, outside of the items that the user has taken. Sampled softmax does not
    /// correct their scores, because they are included with certainty: ln 1 = 0.
    Hard {
        /// Negatives per user.
        count: usize,
    },
}

impl Negatives {
    /// Numbers of negatives besides the batch's own items: per user, and shared by all users.
    pub(super) fn counts(&self) -> [usize; 2] {
        match *self {
            Negatives::None | Negatives::InBatch => [0, 0],
            Negatives::Drawn { count, .. } | Negatives::Hard { count } => [count, 0],
            Negatives::Mixed { count } => [0, count],
        }
    }

    pub(super) fn in_batch(&self) -> bool {
        matches!(self, Negatives::InBatch | Negatives::Mixed { .. })
    }
}

/// The loss of the scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// −ln σ(s) of the pair plus −ln σ(−s) of each negative, summed over the batch (skip-gram with negative sampling).
    Logistic,
    /// Sampled softmax, mean over the batch. Scores are corrected by the probability with which an item is drawn.
    Softmax,
}

/// How to train.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Width of a table's rows and of the embeddings.
    pub dim: usize,
    /// Width between the two maps of a tower, linear → tanh → linear, that computes the embedding from a table's row.
    /// 0: the row is the embedding.
    pub hidden: usize,
    /// Pairs per step.
    pub batch: usize,
    /// Passes over the pairs.
    pub epochs: usize,
    /// The loss.
    pub loss: Loss,
    /// The negatives.
    pub negatives: Negatives,
    /// Temperature: divides the scores of [`Loss::Softmax`].
    pub temperature: f32,
    /// Whether [`Loss::Softmax`] compares by cosine. Embeddings then have unit length.
    pub normalize: bool,
    /// The optimizer.
    pub optimizer: Optimizer,
    /// Learning rate, before the factor of the schedule.
    pub rate: f64,
    /// Schedule of the learning rate over all steps.
    pub schedule: Schedule,
    /// Rows start uniform in ± `start`/√dim.
    pub start: f32,
    /// Seed of the initial rows, the batches and the draws.
    pub seed: u64,
}

impl Default for Config {
    /// Width 64, 1,024 pairs per step, 20 epochs of sampled softmax with Adam at 0.01 and 128 uniform negatives per
    /// user.
    fn default() -> Self {
        Config {
            dim: 64,
            hidden: 0,
            batch: 1024,
            epochs: 20,
            loss: Loss::Softmax,
            negatives: Negatives::Drawn { count: 128, power: 0.0, uniform: 0.0 },
            temperature: 1.0,
            normalize: false,
            optimizer: Optimizer::Adam(adam::Options::default()),
            rate: 0.01,
            schedule: Schedule::default(),
            start: 1.0,
            seed: 1,
        }
    }
}

impl Config {
    /// Checks the configuration against these interactions. [`fit`] calls it first.
    ///
    /// # Errors
    /// [`Error::Option`] names the option, its range and its value.
    pub fn check(&self, data: &Interactions) -> Result<()> {
        let option = |option, expected, found: String| Err(Error::Option { op: "train", option, expected, found });
        check_widths(self.dim, self.hidden)?;
        if self.batch == 0 || self.batch > data.len() {
            let found = format!("{} with {} interactions to train on", self.batch, data.len());
            return option("batch", "at least 1 and at most the number of interactions", found);
        }
        let [each, all] = self.negatives.counts();
        let drawn =
            matches!(self.negatives, Negatives::Drawn { .. } | Negatives::Hard { .. } | Negatives::Mixed { .. });
        if drawn && !(1..=MOST_DRAWN).contains(&each.max(all)) {
            return option("negatives", "from 1 to 2^24", each.max(all).to_string());
        }
        let rows = (self.batch as u64).saturating_mul(each as u64 + 1).saturating_add(all as u64);
        if u32::try_from(rows.saturating_mul(self.dim as u64)).is_err() {
            let found = format!("{rows} rows of {} numbers", self.dim);
            return option("negatives", "fewer for so large a batch: below 2^32 numbers a step", found);
        }
        match (self.loss, self.negatives) {
            (Loss::Softmax, Negatives::None) => {
                return option("negatives", "some for the softmax loss, which is 0 without", "none".into());
            }
            (Loss::Logistic, negatives) if negatives.in_batch() => {
                return option(
                    "negatives",
                    "of each user, uniform, popular or hard, or none for the logistic loss",
                    "those of the batch".into(),
                );
            }
            (_, Negatives::Drawn { power, .. }) if !power.is_finite() => {
                return option("power", "a number", power.to_string());
            }
            (_, Negatives::Drawn { uniform, .. }) if !(0.0..=1.0).contains(&uniform) => {
                return option("uniform", "from 0 to 1", uniform.to_string());
            }
            (Loss::Logistic, _) if self.normalize || self.temperature != 1.0 => {
                let found = format!("{} and {}", self.temperature, if self.normalize { "cosines" } else { "none" });
                return option("temperature", "1, and no cosines, for the logistic loss", found);
            }
            _ => {}
        }
        if !(self.start.is_finite() && self.start >= 0.0) {
            return option("start", "a number of at least 0", self.start.to_string());
        }
        self.softmax().check(info_nce::Given::default())?;
        self.optimizer.check(self.rate)
    }

    fn softmax(&self) -> info_nce::Options {
        let (temperature, normalize) = (self.temperature, self.normalize);
        info_nce::Options { temperature, normalize, in_batch: self.negatives.in_batch(), ..Default::default() }
    }

    fn batches(&self, data: &Interactions) -> Batches {
        Batches::shuffled(data.len() as u32, self.batch, self.seed)
    }
}

/// The embeddings: the tables' rows, or the towers' output for them. They have unit length if the training compared by
/// cosine.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// Embeddings of the users \[users, dim\], row-major.
    pub users: Vec<f32>,
    /// Embeddings of the items \[items, dim\], row-major.
    pub items: Vec<f32>,
    /// Width of an embedding.
    pub dim: usize,
}

impl Model {
    fn is_finite(&self) -> bool {
        self.users.iter().chain(&self.items).all(|value| value.is_finite())
    }
}

/// Quality of recommendations for the users of the held-out interactions. For each user all items are ranked except
/// those it was trained with.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Quality {
    /// K: number of items per user that count.
    pub at: usize,
    /// [Recall](metrics::recall) of the held-out items among the first K.
    pub recall: f64,
    /// [NDCG](metrics::ndcg) of the first K.
    pub ndcg: f64,
    /// Number of users that were ranked.
    pub users: usize,
}

impl Quality {
    /// The quality at each K of `at`.
    ///
    /// `best` is called with the users who have held-out interactions and a number of items. It returns that many item
    /// ids per user, best first, from [`recommend`] or another source.
    ///
    /// # Errors
    /// The error of `best`.
    pub fn measure<E>(
        held_out: &Interactions,
        at: &[usize],
        best: impl FnOnce(&[u32], usize) -> core::result::Result<Vec<u32>, E>,
    ) -> core::result::Result<Vec<Quality>, E> {
        let truth = held_out.lists();
        let users: Vec<u32> = (0..truth.len() as u32).filter(|&user| !truth[user as usize].is_empty()).collect();
        let most = at.iter().copied().max().unwrap_or(0);
        let ids = best(&users, most)?;
        let truth: Vec<&[u32]> = users.iter().map(|&user| truth[user as usize].as_slice()).collect();
        let first = |k: usize| -> Vec<u32> {
            ids.chunks(most.max(1)).flat_map(|ids| &ids[..k.min(ids.len())]).copied().collect()
        };
        let of = |&at: &usize| {
            let ids = first(at);
            let (recall, ndcg) = (metrics::recall(&ids, at, &truth), metrics::ndcg(&ids, at, &truth));
            Quality { at, recall, ndcg, users: users.len() }
        };
        Ok(at.iter().map(of).collect())
    }
}

/// What [`fit`] reports while it runs.
#[derive(Debug)]
pub enum Event<'a> {
    /// The untrained tables have been evaluated.
    Start {
        /// Quality on the held-out interactions.
        before: Quality,
        /// Steps per epoch.
        steps: usize,
    },
    /// Progress of a step, or of the evaluation after an epoch, that takes long; sent about once a second.
    Within {
        /// Progress of the op that is running.
        progress: Progress,
    },
    /// Some steps are done.
    Steps {
        /// The epoch of these steps, from 1.
        epoch: usize,
        /// Losses of the steps since the last such event, each per pair.
        losses: Vec<f32>,
    },
    /// An epoch is done.
    Epoch {
        /// Its number, from 1.
        epoch: usize,
        /// The mean loss of its steps.
        loss: f64,
        /// Quality on the held-out interactions.
        held_out: Quality,
        /// The embeddings, if they are the best so far.
        best: Option<&'a Model>,
    },
}

/// The result of a training.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Quality before training.
    pub before: Quality,
    /// Quality of the embeddings that are kept.
    pub best: Quality,
    /// The epoch with the best NDCG on the held-out interactions; 0 if none was better than the start. Without held-out
    /// interactions: the last epoch.
    pub best_epoch: usize,
    /// The embeddings of that epoch.
    pub model: Model,
    /// Why the training ended.
    pub end: End,
}

/// Trains on `data`. The `held_out` interactions, of the same users and items, are used for evaluation only.
///
/// `watch` receives every [`Event`] and can end the training. The same seed on the same device gives the same bits.
///
/// # Errors
/// [`Error::Option`] for a configuration that does not fit the data; [`Error::Data`] if `held_out` has another number
/// of users or items; any error of the device.
pub fn fit(
    gpu: &Gpu,
    data: &Interactions,
    held_out: Option<&Interactions>,
    config: &Config,
    watch: &mut dyn FnMut(Event) -> ControlFlow<()>,
) -> Result<Outcome> {
    config.check(data)?;
    if let Some(held_out) = held_out {
        let counts = |of: &Interactions| format!("{} users and {} items", of.user_count, of.item_count);
        if counts(held_out) != counts(data) {
            let (what, expected) = ("held-out interactions".into(), format!("of {}", counts(data)));
            return Err(Error::Data { what, expected, found: counts(held_out) });
        }
    }
    let batches = config.batches(data);
    let steps = batches.steps();
    let mut engine = device::Device::new(gpu, data, config, steps.saturating_mul(config.epochs))?;
    let before = match quality(&engine, held_out, watch) {
        Err(Error::Cancelled { .. }) => {
            let (before, model) = (Quality::default(), engine.model()?);
            return Ok(Outcome { before, best: before, best_epoch: 0, model, end: End::Stopped });
        }
        before => before?,
    };
    let mut outcome = Outcome { before, best: before, best_epoch: 0, model: engine.model()?, end: End::Finished };
    if watch(Event::Start { before, steps }).is_break() {
        return Ok(Outcome { end: End::Stopped, ..outcome });
    }
    for epoch in 1..=config.epochs {
        let order = batches.epoch(epoch as u32);
        let (mut sum, mut done, mut read) = (0.0, 0, Instant::now());
        for pairs in batches.steps_of(&order) {
            match engine.step(pairs, &mut patient(|progress| watch(Event::Within { progress }))) {
                Err(Error::Cancelled { .. }) => return Ok(Outcome { end: End::Stopped, ..outcome }),
                step => step?,
            }
            done += 1;
            if done % STEPS_PER_READ == 0 || done == steps || read.elapsed().as_secs_f64() >= PATIENCE {
                read = Instant::now();
                let losses = engine.losses()?;
                sum += losses.iter().copied().map(f64::from).sum::<f64>();
                if watch(Event::Steps { epoch, losses }).is_break() {
                    return Ok(Outcome { end: End::Stopped, ..outcome });
                }
            }
        }
        let loss = sum / steps as f64;
        let model = engine.model()?;
        if !(loss.is_finite() && model.is_finite()) {
            let how =
                format!("in epoch {epoch} the mean loss was {loss:.3} and not every number of the tables is finite");
            return Ok(Outcome { end: End::Diverged(how), ..outcome });
        }
        let now = match quality(&engine, held_out, watch) {
            Err(Error::Cancelled { .. }) => return Ok(Outcome { end: End::Stopped, ..outcome }),
            now => now?,
        };
        let is_best = held_out.is_none() || now.ndcg > outcome.best.ndcg;
        if is_best {
            outcome = Outcome { best: now, best_epoch: epoch, model, ..outcome };
        }
        let best = is_best.then_some(&outcome.model);
        if watch(Event::Epoch { epoch, loss, held_out: now, best }).is_break() {
            return Ok(Outcome { end: End::Stopped, ..outcome });
        }
    }
    Ok(outcome)
}

/// Quality on the items that users did not train with. Zeros without held-out interactions.
fn quality(
    engine: &device::Device,
    held_out: Option<&Interactions>,
    watch: &mut dyn FnMut(Event) -> ControlFlow<()>,
) -> Result<Quality> {
    let Some(held_out) = held_out else { return Ok(Quality::default()) };
    let mut tell = patient(|progress| watch(Event::Within { progress }));
    let measured = Quality::measure(held_out, &[10], |users, k| engine.top(users, k, &mut tell))?;
    Ok(measured.into_iter().next().unwrap_or_default())
}
