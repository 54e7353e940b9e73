//! Training of two small towers on pairs with [`info_nce`]. `wgloss train` runs this.
//!
//! A tower is linear → tanh → linear → unit length. With `hidden` = 0 it is one linear map → unit length. This map
//! starts at the identity if the widths agree: training then starts from the given embeddings. The loss is symmetric
//! InfoNCE with a learnable temperature, unless the configuration's `loss` says otherwise.
//!
//! Gathering rows, forward, loss, backward and update run on the device. A step is one submit and reads nothing back,
//! while the host prepares the next step. [`tables`] trains embeddings of ids instead.
//!
//! ```
//! use wgloss::train::{Config, Event, Pairs, fit};
//!
//! let rows: Vec<f32> = (0..64 * 4).map(|i| (i * 37 % 97) as f32 / 97.0 - 0.5).collect();
//! let pairs = Pairs::new(rows.clone(), 4, rows, 4)?;
//! let config = Config { batch: 16, epochs: 2, ..Config::for_embeddings(&pairs) };
//! let outcome = fit(None, &pairs, &config, &mut |event| {
//!     if let Event::Epoch { epoch, loss, held_out, .. } = event {
//!         println!("epoch {epoch}: loss {loss:.3}, recall@1 {:.3}", held_out.recall_at_1);
//!     }
//!     std::ops::ControlFlow::Continue(())
//! })?;
//! assert_eq!(outcome.before.recall_at_1, 1.0); // equal queries and keys, maps at the identity
//! # Ok::<(), wgloss::Error>(())
//! ```

mod batches;
mod device;
mod host;
mod matrix;
mod model;
mod optimizer;
mod pairs;
mod schedule;
pub mod tables;
mod tower;
pub mod wals;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::time::Instant;

pub use batches::Batches;
pub use model::{Layer, Model, Tower};
pub use optimizer::Optimizer;
pub use pairs::{Pairs, Split};
pub use schedule::{Decay, Schedule};

use crate::{Accum, Error, Gpu, Progress, Reduction, Result, Watch, clip, info_nce};

/// With SGD, the learning rate of log_scale is this fraction of the weights' rate. Adam's steps have the same size for
/// all parameters.
const SCALE_RATE: f64 = 0.01;
/// Most held-out pairs that are ranked. The ranking is quadratic in their number; with more it would take longer than
/// the training.
const MOST_RANKED: usize = 10_000;
/// Seconds after which losses are read even before [`STEPS_PER_READ`] steps, and between two calls of the callback
/// during long work: to show progress and to allow stopping.
const PATIENCE: f64 = 1.0;
/// Steps whose losses stay on the device before they are read. Reading a loss waits for its step.
const STEPS_PER_READ: usize = 16;
/// Training counts as diverged if an epoch's mean loss exceeds the first step's loss by this share of the larger of two
/// numbers: the first step's loss, and the loss by chance, ln(batch) for each summed loss. Batches differ by less. With
/// fewer than [`SMALL_BATCH`] pairs per batch they differ by more, and the limit is twice the larger number. A queue
/// adds to the limit: see [`Config::most_loss`].
const RUN_AWAY: f64 = 0.1;
const SMALL_BATCH: usize = 64;
/// Training also counts as diverged if the temperature exceeds its start by this factor: all scores are then nearly
/// equal.
const MOST_WARMING: f32 = 1e3;

/// The widest embedding or layer that training accepts. A larger width is a mistake and exceeds the memory of any
/// machine.
const MOST_WIDE: usize = 1 << 16;

fn check_widths(dim: usize, hidden: usize) -> Result<()> {
    let widths = [("dim", "from 1 to 65536", 1, dim), ("hidden", "from 0 to 65536", 0, hidden)];
    match widths.into_iter().find(|(.., least, width)| !(*least..=MOST_WIDE).contains(width)) {
        Some((option, expected, _, width)) => {
            Err(Error::Option { op: "train", option, expected, found: width.to_string() })
        }
        None => Ok(()),
    }
}

/// How to train.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Width between the two linear maps of a tower; 0 for a single map.
    pub hidden: usize,
    /// Width of the embeddings.
    pub dim: usize,
    /// Pairs per step.
    pub batch: usize,
    /// Passes over the training pairs. Pairs that do not fill a whole batch are dropped at the end of each pass.
    pub epochs: usize,
    /// The optimizer. Default: SGD with momentum 0.9.
    pub optimizer: Optimizer,
    /// Learning rate of the weights. With SGD, the learning rate of ln(1/temperature) is a hundredth of it.
    pub rate: f64,
    /// Schedule of the learning rate over all steps. Default: constant.
    pub schedule: Schedule,
    /// Largest norm of all gradients together; a larger gradient is scaled down to it. Default: off.
    pub clip: Option<f32>,
    /// Temperature at the start.
    pub temperature: f32,
    /// Options of the loss. The training sets temperature, reduction, accumulation and normalization itself. Default:
    /// symmetric.
    pub loss: info_nce::Options,
    /// Number of keys of the latest steps that are further negatives of every query, without gradient (a cross-batch
    /// memory). A pair's own key of an earlier step is left out. Default: 0.
    pub queue: usize,
    /// Lengths to which embeddings may be cut, each from 1 to below `dim`. Training minimizes the sum of the loss of
    /// the whole embeddings and the losses of their prefixes of these lengths, each normalized to unit length
    /// (Matryoshka representation learning, Kusupati et al. 2022, arXiv:2205.13147). Default: none.
    pub matryoshka: Vec<usize>,
    /// Share of the pairs that are held out for evaluation.
    pub held_out: f32,
    /// Seed of the split, the initial weights and the batches.
    pub seed: u64,
}

impl Config {
    /// A configuration for frozen embeddings: one map per tower, as wide as the narrower side, starting at the identity
    /// if the widths agree.
    pub fn for_embeddings(pairs: &Pairs) -> Config {
        let dim = pairs.query_cols().min(pairs.key_cols());
        let mut config = Config {
            hidden: 0,
            dim,
            batch: 1024,
            epochs: 10,
            optimizer: Optimizer::momentum(0.9),
            rate: 0.1,
            schedule: Schedule::default(),
            clip: None,
            temperature: 0.07,
            loss: info_nce::Options { symmetric: true, ..Default::default() },
            queue: 0,
            matryoshka: Vec::new(),
            held_out: 0.2,
            seed: 1,
        };
        config.batch = config.batch.min(config.split(pairs).train.len()).max(1);
        config
    }

    /// The split into training pairs and held-out pairs.
    pub fn split(&self, pairs: &Pairs) -> Split {
        pairs.split(self.held_out, self.seed)
    }

    /// The expected metrics of random embeddings on the held-out pairs.
    pub fn by_chance(&self, pairs: &Pairs) -> Metrics {
        let ids = pairs.ids_of(ranked(&self.split(pairs)));
        let mut same = HashMap::new();
        ids.iter().for_each(|id| *same.entry(id).or_insert(0) += 1);
        Metrics::by_chance(ids.iter().map(|id| ids.len() - same[id]))
    }

    /// Checks the configuration against these pairs. [`fit`] calls it first.
    ///
    /// # Errors
    /// [`Error::Option`] names the option, its range and its value.
    pub fn check(&self, pairs: &Pairs) -> Result<()> {
        let split = self.split(pairs);
        let option = |option, expected, found: String| Err(Error::Option { op: "train", option, expected, found });
        if !(self.held_out > 0.0 && self.held_out < 1.0) {
            return option("held_out", "above 0 and below 1", self.held_out.to_string());
        }
        if split.held_out.is_empty() || split.train.is_empty() {
            let found = format!("{} and {} pairs", split.train.len(), split.held_out.len());
            return option("held_out", "a share that leaves pairs to train on and to measure with", found);
        }
        if self.batch == 0 || self.batch > split.train.len() {
            let found = format!("{} with {} pairs to train on", self.batch, split.train.len());
            return option("batch", "at least 1 and at most the number of training pairs", found);
        }
        check_widths(self.dim, self.hidden)?;
        let mut lengths = self.matryoshka.clone();
        lengths.sort_unstable();
        lengths.dedup();
        if lengths.len() < self.matryoshka.len() || lengths.iter().any(|length| !(1..self.dim).contains(length)) {
            let found = format!("{:?} of {}", self.matryoshka, self.dim);
            return option("matryoshka", "lengths from 1 to below dim, each once", found);
        }
        if let Some(&least) = lengths.first().filter(|_| self.hidden == 0) {
            // Maps that start at the identity keep rows of zeros, and those have no direction: see `Pairs::new`.
            let starts_at_zero = |(data, cols): (&[f32], usize)| {
                cols == self.dim && data.chunks(cols).any(|row| row[..least].iter().all(|&value| value == 0.0))
            };
            if [(pairs.data()[0], pairs.query_cols()), (pairs.data()[1], pairs.key_cols())]
                .into_iter()
                .any(starts_at_zero)
            {
                let expected = "lengths within which no row is zero, or hidden above 0";
                return option("matryoshka", expected, format!("{least}, of which some row has nothing but zeros"));
            }
        }
        if u32::try_from(self.queue).is_err() {
            return option("queue", "below 2^32", self.queue.to_string());
        }
        self.loss().check(info_nce::Given { groups: pairs.has_labels(), ..Default::default() })?;
        let least = 1.0 / self.loss.max_scale;
        if !(self.temperature.is_finite() && self.temperature >= least) {
            let found = format!("{} with max_scale {}", self.temperature, self.loss.max_scale);
            return option("temperature", "at least 1/max_scale", found);
        }
        if let Some(max_norm) = self.clip {
            clip::Options { max_norm }.check()?;
        }
        self.optimizer.check(self.rate)
    }

    fn loss(&self) -> info_nce::Options {
        info_nce::Options { reduction: Reduction::Mean, accum: Accum::Write, normalize: false, ..self.loss }
    }

    /// Options of the loss of prefixes.
    fn loss_of_prefix(&self) -> info_nce::Options {
        info_nce::Options { accum: Accum::Add, normalize: true, ..self.loss() }
    }

    /// The largest mean loss of an epoch that does not count as diverged. `first`: the loss of the first step, before
    /// the queue holds any keys.
    fn most_loss(&self, first: f64) -> f64 {
        let chance = self.loss_count() as f64 * (self.batch as f64).ln();
        let of_queue = self.loss_count() as f64 * (self.queue as f64 / self.batch as f64).ln_1p();
        let most = first.max(chance);
        of_queue + if self.batch < SMALL_BATCH { 2.0 * most } else { first + RUN_AWAY * most }
    }

    /// Number of losses that are summed.
    fn loss_count(&self) -> usize {
        1 + self.matryoshka.len()
    }

    /// The optimizers of the weights and of the scale for step `at`, from 0.
    fn optimizers(&self, at: usize, steps: usize) -> [Optimizer; 2] {
        let rate = self.rate * self.schedule.factor(at, steps);
        let of_scale = if matches!(self.optimizer, Optimizer::Sgd(_)) { rate * SCALE_RATE } else { rate };
        [rate, of_scale].map(|rate| self.optimizer.at(rate, at as u32 + 1))
    }
}

/// The held-out pairs that are ranked.
fn ranked(split: &Split) -> &[u32] {
    &split.held_out[..split.held_out.len().min(MOST_RANKED)]
}

/// The rank of a query's own key among the keys of all ranked pairs, except those of pairs with its id or label.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Metrics {
    /// Share of queries whose own key ranks first.
    pub recall_at_1: f64,
    /// Share of queries whose own key is among the first ten.
    pub recall_at_10: f64,
    /// Mean of 1/(rank + 1), where the first rank is 0.
    pub mean_reciprocal_rank: f64,
    /// Number of pairs that were ranked.
    pub pairs: usize,
}

impl Metrics {
    fn of(ranks: &[u32]) -> Metrics {
        let share = |most: u32| ranks.iter().filter(|&&rank| rank < most).count() as f64 / ranks.len() as f64;
        let reciprocal = ranks.iter().map(|&rank| 1.0 / (f64::from(rank) + 1.0)).sum::<f64>();
        Metrics {
            recall_at_1: share(1),
            recall_at_10: share(10),
            mean_reciprocal_rank: reciprocal / ranks.len() as f64,
            pairs: ranks.len(),
        }
    }

    /// The mean over all ranks that the own key may have among its `others`, for each pair.
    fn by_chance(others: impl Iterator<Item = usize>) -> Metrics {
        let places: Vec<usize> = others.map(|others| others + 1).collect();
        let mean =
            |of: &dyn Fn(usize) -> f64| places.iter().map(|&count| of(count)).sum::<f64>() / places.len().max(1) as f64;
        // 1 + 1/2 + … + 1/count.
        let mut sums = vec![0.0];
        for count in 1..=places.iter().copied().max().unwrap_or(0) {
            sums.push(sums[count - 1] + 1.0 / count as f64);
        }
        Metrics {
            recall_at_1: mean(&|count| 1.0 / count as f64),
            recall_at_10: mean(&|count| count.min(10) as f64 / count as f64),
            mean_reciprocal_rank: mean(&|count| sums[count] / count as f64),
            pairs: places.len(),
        }
    }
}

/// What [`fit`] reports while it runs.
#[derive(Debug)]
pub enum Event<'a> {
    /// The untrained towers have been evaluated.
    Start {
        /// Metrics on the held-out pairs.
        before: Metrics,
        /// The same for each length of [`Config::matryoshka`].
        matryoshka: &'a [Metrics],
        /// Steps per epoch.
        steps: usize,
    },
    /// Progress of a step, or of the ranking after an epoch, that takes long; sent about once a second.
    Within {
        /// Progress of the op that is running.
        progress: Progress,
    },
    /// Some steps are done.
    Steps {
        /// The epoch of these steps, from 1.
        epoch: usize,
        /// Number of steps of this epoch that are done.
        done: usize,
        /// Losses of the steps since the last such event.
        losses: &'a [f32],
        /// The temperature after these steps.
        temperature: f32,
    },
    /// An epoch is done.
    Epoch {
        /// Its number, from 1.
        epoch: usize,
        /// The mean loss of its steps.
        loss: f64,
        /// The temperature after the epoch.
        temperature: f32,
        /// Metrics on the held-out pairs.
        held_out: Metrics,
        /// The same for each length of [`Config::matryoshka`].
        matryoshka: &'a [Metrics],
        /// The weights after the epoch.
        model: &'a Model,
    },
}

/// Why a training ended.
#[derive(Debug, Clone, PartialEq)]
pub enum End {
    /// All epochs are done.
    Finished,
    /// The callback asked for it.
    Stopped,
    /// Training diverged; the text says how it showed.
    Diverged(String),
}

/// The result of a training.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Metrics on the held-out pairs before training.
    pub before: Metrics,
    /// Metrics on the held-out pairs with the weights of the best epoch.
    pub best: Metrics,
    /// The same for each length of [`Config::matryoshka`].
    pub matryoshka: Vec<Metrics>,
    /// The epoch with the best mean reciprocal rank on the held-out pairs, from 1; 0 if none was better than the start.
    pub best_epoch: usize,
    /// The weights of the best epoch.
    pub model: Model,
    /// Why the training ended.
    pub end: End,
}

/// Runs training steps on the device or on the host.
trait Engine {
    /// Records one update of the weights and the scale on the pairs `ids`; may return before it is done.
    fn step(&mut self, ids: &[u32], optimizers: [Optimizer; 2], watch: Watch) -> Result<()>;
    /// The losses of the steps since the last call, and log_scale after these steps.
    fn losses(&mut self) -> Result<(Vec<f32>, f32)>;
    /// The rank of each of the pairs `ids` among these pairs, by whole embeddings and by each length of
    /// [`Config::matryoshka`].
    fn ranks(&mut self, ids: &[u32], watch: Watch) -> Result<Vec<Vec<u32>>>;
    /// The current weights.
    fn model(&self) -> Result<Model>;
}

/// Calls `tell` at most about once a second.
fn patient(mut tell: impl FnMut(Progress) -> ControlFlow<()>) -> impl FnMut(Progress) -> ControlFlow<()> {
    let mut told = Instant::now();
    move |progress| {
        if told.elapsed().as_secs_f64() < PATIENCE {
            return ControlFlow::Continue(());
        }
        told = Instant::now();
        tell(progress)
    }
}

/// Trains on `pairs`: on `gpu`, or by the f64 reference on the CPU if `gpu` is `None`.
///
/// `watch` receives every [`Event`] and can end the training. The same seed on the same device gives the same bits.
///
/// # Errors
/// [`Error::Option`] for a configuration that does not fit the pairs; any error of the device.
pub fn fit(
    gpu: Option<&Gpu>,
    pairs: &Pairs,
    config: &Config,
    watch: &mut dyn FnMut(Event) -> ControlFlow<()>,
) -> Result<Outcome> {
    config.check(pairs)?;
    let split = config.split(pairs);
    let start = Model::new(pairs, config);
    let mut engine: Box<dyn Engine + '_> = match gpu {
        Some(gpu) => Box::new(device::Device::new(gpu, pairs, config, &start)?),
        None => Box::new(host::Host::new(pairs, config, &start)),
    };
    run(&mut *engine, start, &split, config, watch)
}

fn run(
    engine: &mut dyn Engine,
    start: Model,
    split: &Split,
    config: &Config,
    watch: &mut dyn FnMut(Event) -> ControlFlow<()>,
) -> Result<Outcome> {
    let ranked = ranked(split);
    let mut outcome = Outcome {
        before: Metrics::default(),
        best: Metrics::default(),
        matryoshka: vec![Metrics::default(); config.matryoshka.len()],
        best_epoch: 0,
        model: start,
        end: End::Finished,
    };
    match measure(engine, ranked, watch) {
        Err(Error::Cancelled { .. }) => return Ok(Outcome { end: End::Stopped, ..outcome }),
        measured => (outcome.best, outcome.matryoshka) = measured?,
    }
    outcome.before = outcome.best;
    let batches = Batches::shuffled(split.train.len() as u32, config.batch, config.seed);
    let steps = batches.steps();
    let mut first_loss = None;
    if watch(Event::Start { before: outcome.before, matryoshka: &outcome.matryoshka, steps }).is_break() {
        outcome.end = End::Stopped;
        return Ok(outcome);
    }
    for epoch in 1..=config.epochs {
        let ids: Vec<u32> = batches.epoch(epoch as u32).iter().map(|&at| split.train[at as usize]).collect();
        let mut losses = Vec::with_capacity(steps);
        let (mut temperature, mut read) = (0.0, Instant::now());
        for (step, batch) in batches.steps_of(&ids).enumerate() {
            let optimizers = config.optimizers(
                (epoch - 1).saturating_mul(steps).saturating_add(step),
                steps.saturating_mul(config.epochs),
            );
            match engine.step(batch, optimizers, &mut patient(|progress| watch(Event::Within { progress }))) {
                Err(Error::Cancelled { .. }) => return Ok(Outcome { end: End::Stopped, ..outcome }),
                done => done?,
            }
            if (step + 1) % STEPS_PER_READ == 0 || step + 1 == steps || read.elapsed().as_secs_f64() >= PATIENCE {
                read = Instant::now();
                let (new, log_scale) = engine.losses()?;
                losses.extend_from_slice(&new);
                temperature = (-log_scale).exp();
                if watch(Event::Steps { epoch, done: step + 1, losses: &new, temperature }).is_break() {
                    outcome.end = End::Stopped;
                    return Ok(outcome);
                }
            }
        }
        let loss = losses.iter().copied().map(f64::from).sum::<f64>() / steps as f64;
        let (held_out, matryoshka) = match measure(engine, ranked, watch) {
            Err(Error::Cancelled { .. }) => return Ok(Outcome { end: End::Stopped, ..outcome }),
            measured => measured?,
        };
        let model = engine.model()?;
        let stop = watch(Event::Epoch { epoch, loss, temperature, held_out, matryoshka: &matryoshka, model: &model });
        let first_loss = *first_loss.get_or_insert(f64::from(losses[0]));
        let ran_away = if !model.is_finite() {
            Some("a weight was no finite number any more".to_owned())
        } else if !(loss.is_finite() && loss <= config.most_loss(first_loss)) {
            Some(format!("the mean loss was {loss:.3}, at the first step {first_loss:.3}"))
        } else if temperature > MOST_WARMING * config.temperature {
            Some(format!("the temperature went to {temperature:.1e}, from {}", config.temperature))
        } else {
            None
        };
        if ran_away.is_none() && held_out.mean_reciprocal_rank > outcome.best.mean_reciprocal_rank {
            outcome = Outcome { best: held_out, matryoshka, best_epoch: epoch, model, ..outcome };
        }
        if let Some(how) = ran_away {
            outcome.end = End::Diverged(format!("in epoch {epoch} {how}"));
            return Ok(outcome);
        }
        if stop.is_break() {
            outcome.end = End::Stopped;
            return Ok(outcome);
        }
    }
    Ok(outcome)
}

/// Metrics of whole embeddings, and of each length of [`Config::matryoshka`].
fn measure(
    engine: &mut dyn Engine,
    ranked: &[u32],
    watch: &mut dyn FnMut(Event) -> ControlFlow<()>,
) -> Result<(Metrics, Vec<Metrics>)> {
    let ranks = engine.ranks(ranked, &mut patient(|progress| watch(Event::Within { progress })))?;
    let mut metrics = ranks.iter().map(|ranks| Metrics::of(ranks));
    Ok((metrics.next().unwrap_or_default(), metrics.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An engine that is stopped during the first ranking.
    struct Stopped;

    impl Engine for Stopped {
        fn step(&mut self, _: &[u32], _: [Optimizer; 2], _: Watch) -> Result<()> {
            unreachable!("a step after the end")
        }

        fn losses(&mut self) -> Result<(Vec<f32>, f32)> {
            unreachable!("a step after the end")
        }

        fn ranks(&mut self, _: &[u32], _: Watch) -> Result<Vec<Vec<u32>>> {
            Err(Error::Cancelled { op: "info_nce" })
        }

        fn model(&self) -> Result<Model> {
            unreachable!("nothing was trained")
        }
    }

    #[test]
    fn the_first_ranking_can_be_stopped() {
        let pairs = Pairs::new(vec![0.5; 40], 4, vec![0.5; 40], 4).unwrap();
        let config = Config::for_embeddings(&pairs);
        let (start, split) = (Model::new(&pairs, &config), config.split(&pairs));
        let outcome = run(&mut Stopped, start.clone(), &split, &config, &mut |_| unreachable!("no event")).unwrap();
        assert_eq!((outcome.end, outcome.best_epoch, outcome.model), (End::Stopped, 0, start));
    }
}
