//! What a training on pairs shows, logs and leaves.

use std::process::ExitCode;
use std::time::Instant;

use comfy_table::Table;
use indicatif::ProgressBar;
use serde_json::json;
use wgloss::train::{Config, End, Event, Metrics, Outcome, Pairs};

use crate::failure::Failure;
use crate::plot::Curves;
use crate::run::{self, METRICS, PLOT, Run, WEIGHTS};
use crate::{progress, stop, table};

/// If the last loss is above this share of the first, the program says that the loss has not fallen.
const FALLEN: f64 = 0.99;

/// Shows the progress of training and logs it.
pub struct Watch {
    pub bar: ProgressBar,
    batch: usize,
    epochs: usize,
    matryoshka: Vec<usize>,
    curves: Curves,
    /// The metrics for each length of `matryoshka`, before training, then after each epoch.
    of_prefixes: Vec<Vec<Metrics>>,
    start: Instant,
    /// How fast steps are, in the epoch and in all epochs so far.
    pace: [Pace; 2],
    /// When the steps of the next report began. Measuring between epochs does not count as training time.
    began: Instant,
    /// Whether kernels are compiled.
    is_warm: bool,
    epoch: usize,
    /// The epoch with the largest mean reciprocal rank so far, 0 for the start.
    best: usize,
    patience: Option<u32>,
    /// The mean losses of the first and the last epoch.
    of_epochs: Option<[f64; 2]>,
    /// Whether keys of past steps add to the loss.
    has_queue: bool,
}

/// Pairs that were trained on, and in how many seconds.
#[derive(Clone, Copy, Default)]
struct Pace {
    pairs: usize,
    seconds: f64,
}

impl Pace {
    fn add(&mut self, pairs: usize, seconds: f64) {
        *self = Pace { pairs: self.pairs + pairs, seconds: self.seconds + seconds };
    }

    /// Pairs per second; none where nothing was timed.
    fn speed(self) -> Option<f64> {
        (self.pairs > 0).then(|| self.pairs as f64 / self.seconds.max(1e-9))
    }

    /// At the end of a sentence.
    fn clause(self) -> String {
        self.speed().map_or_else(String::new, |speed| format!(", {speed:.0} pairs/s"))
    }
}

impl Watch {
    pub fn new(config: &Config, pairs: &Pairs, patience: Option<u32>) -> Self {
        Watch {
            bar: ProgressBar::hidden(),
            batch: config.batch,
            epochs: config.epochs,
            matryoshka: config.matryoshka.clone(),
            of_prefixes: Vec::new(),
            curves: Curves { chance: config.by_chance(pairs), ..Default::default() },
            start: Instant::now(),
            pace: Default::default(),
            began: Instant::now(),
            is_warm: false,
            epoch: 0,
            best: 0,
            patience,
            of_epochs: None,
            has_queue: config.queue > 0,
        }
    }

    /// Whether --patience ends the training: that many epochs in a row were not better than the best.
    pub fn is_out_of_patience(&self) -> bool {
        self.patience.is_some_and(|patience| self.epoch - self.best >= patience as usize)
    }

    /// The first loss and the mean loss of the last epoch. The first loss is that of the first step. With a queue it is the mean of the first epoch, because
    /// the first steps lack the queue's keys.
    fn first_and_last_loss(&self) -> Option<[f64; 2]> {
        let [of_first, of_last] = self.of_epochs?;
        let first = if self.has_queue { of_first } else { f64::from(*self.curves.losses.first()?) };
        Some([first, of_last])
    }

    /// The metrics for each length to which embeddings may be cut, as JSON.
    fn record(&self, matryoshka: &[Metrics]) -> serde_json::Value {
        let of_length = |(length, metrics): (&usize, &Metrics)| (length.to_string(), record(metrics));
        self.matryoshka.iter().zip(matryoshka).map(of_length).collect::<serde_json::Map<_, _>>().into()
    }

    pub fn see(&mut self, event: &Event, run: &mut Run, about: &serde_json::Value) -> Result<(), Failure> {
        match *event {
            Event::Start { before, matryoshka, steps } => {
                say!("start:   {}", sentence(&before));
                self.curves.metrics.push(before);
                self.of_prefixes.push(matryoshka.to_vec());
                self.curves.steps_per_epoch = steps;
                self.bar = progress::bar(
                    (steps as u64).saturating_mul(self.epochs as u64),
                    "{pos}/{len} steps, {eta} left, {msg}",
                );
                self.start = Instant::now();
                self.began = self.start;
                run.log(&json!({
                    "event": "start", "run": about, "before": record(&before), "matryoshka": self.record(matryoshka),
                }))
            }
            Event::Within { progress } => {
                self.bar.set_message(format!("{} {:.0} %", progress.op, 100.0 * progress.share));
                Ok(())
            }
            Event::Steps { losses, temperature, .. } => {
                self.curves.losses.extend_from_slice(losses);
                let loss = losses.last().copied().unwrap_or(f32::NAN);
                self.bar.inc(losses.len() as u64);
                let recall = self.curves.metrics.last().map_or(0.0, |metrics| metrics.recall_at_1);
                let seconds = self.began.elapsed().as_secs_f64();
                self.began = Instant::now();
                if self.is_warm {
                    self.pace.iter_mut().for_each(|pace| pace.add(losses.len() * self.batch, seconds));
                } else {
                    self.is_warm = true; // kernels were compiled
                    self.bar.reset_eta();
                }
                let speed = self.pace[1].clause();
                self.bar
                    .set_message(format!("loss {loss:.4}, temperature {temperature:.4}, recall@1 {recall:.3}{speed}"));
                Ok(())
            }
            Event::Epoch { epoch, loss, temperature, held_out, matryoshka, model } => {
                self.curves.metrics.push(held_out);
                self.of_prefixes.push(matryoshka.to_vec());
                self.epoch = epoch;
                self.of_epochs = Some([self.of_epochs.map_or(loss, |[first, _]| first), loss]);
                let [of_epoch, _] = self.pace;
                if progress::tells(&self.bar, epoch, self.epochs) {
                    let (shown, speed) = (sentence(&held_out), of_epoch.clause());
                    say!("epoch {epoch}: loss {loss:.4}, temperature {temperature:.4}, {shown}{speed}");
                }
                let losses = &self.curves.losses[self.curves.losses.len() - self.curves.steps_per_epoch..];
                run.log(&json!({
                    "event": "epoch", "epoch": epoch, "loss": loss, "temperature": temperature, "held_out": record(&held_out),
                    "matryoshka": self.record(matryoshka), "pairs_per_second": of_epoch.speed(), "losses": losses,
                }))?;
                (self.pace[0], self.began) = (Pace::default(), Instant::now());
                let of_best = self.curves.metrics[self.best].mean_reciprocal_rank;
                if held_out.mean_reciprocal_rank > of_best {
                    self.best = epoch;
                    run.weights(model, &kept(about, epoch))?;
                }
                Ok(())
            }
        }
    }
}

fn kept(about: &serde_json::Value, epoch: usize) -> serde_json::Value {
    let mut about = about.clone();
    about["epoch"] = epoch.into();
    about
}

pub fn finish(
    outcome: &Outcome,
    mut watch: Watch,
    run: &mut Run,
    source: &str,
    about: &serde_json::Value,
) -> Result<ExitCode, Failure> {
    let gave_up = outcome.end == End::Stopped && watch.is_out_of_patience();
    let interrupted = outcome.end == End::Stopped && !gave_up;
    let epoch = outcome.best_epoch;
    if interrupted && watch.epoch == 0 {
        say!("stopped before the first epoch was done: nothing to keep");
        return Ok(stop::code());
    }
    if let (End::Diverged(how), 0) = (&outcome.end, epoch) {
        say!("diverged: {how}; a lower --lr helps. No epoch did better than the start: nothing to keep");
        return Ok(ExitCode::from(1));
    }
    run.weights(&outcome.model, &kept(about, epoch))?;
    watch.curves.best_epoch = epoch;
    let after = watch.curves.metrics[epoch];
    let of_prefixes = watch.record(&watch.of_prefixes[epoch]);
    let end = if gave_up { "patience" } else { run::word(&outcome.end) };
    run.log(&json!({"event": "end", "end": end, "epoch": epoch, "after": record(&after), "matryoshka": of_prefixes}))?;
    let title = format!("wgloss train: {source}");
    run.picture(PLOT, watch.curves.svg(&title))?;

    let whose = match epoch {
        0 => "those of the start, since no epoch did better on the held-out pairs".to_owned(),
        epoch => format!("those of epoch {epoch}"),
    };
    match &outcome.end {
        End::Finished if epoch == 0 => say!("the weights are {whose}"),
        End::Finished => {}
        End::Stopped if gave_up => say!("ended by --patience after epoch {}: the weights are {whose}", watch.epoch),
        End::Stopped => say!("stopped after epoch {}: the weights are {whose}", watch.epoch),
        End::Diverged(how) => say!("diverged: {how}; a lower --lr helps. The weights are {whose}"),
    }
    if let Some([first, last]) = watch.first_and_last_loss() {
        if first == 0.0 && last == 0.0 {
            say!("note:    the loss was 0 from the first step on, so that nothing was learned");
        } else if watch.epoch > 1 && last > FALLEN * first {
            say!(
                "note:    the loss has not fallen, {first:.4} at first and {last:.4} in the last epoch: another --lr or --optimizer may help"
            );
        }
    }
    say!("{}", comparison(&watch, epoch));
    let seconds = watch.start.elapsed().as_secs_f64();
    say!("{} steps of {} pairs in {seconds:.1} s", watch.curves.losses.len(), watch.batch);
    for name in [WEIGHTS, METRICS, PLOT] {
        say!("wrote {}", run.path(name).display());
    }
    Ok(match &outcome.end {
        End::Diverged(_) => ExitCode::from(1),
        End::Stopped if interrupted => stop::code(),
        _ => ExitCode::SUCCESS,
    })
}

fn comparison(watch: &Watch, epoch: usize) -> Table {
    let Watch { curves, matryoshka, of_prefixes, .. } = watch;
    let first = format!("{} held-out pairs", curves.chance.pairs);
    let mut table = table::with_header([first.as_str(), "recall@1", "recall@10", "mean reciprocal rank"], 1..4);
    let mut row = |name: String, metrics: &Metrics| {
        let numbers = [metrics.recall_at_1, metrics.recall_at_10, metrics.mean_reciprocal_rank];
        table.add_row([name].into_iter().chain(numbers.map(|number| format!("{number:.4}"))));
    };
    for (name, epoch) in [("before training".to_owned(), 0), (format!("after training (epoch {epoch})"), epoch)] {
        row(name, &curves.metrics[epoch]);
        for (length, metrics) in matryoshka.iter().zip(&of_prefixes[epoch]) {
            row(format!("  of the first {length}"), metrics);
        }
    }
    row("by chance".to_owned(), &curves.chance);
    table
}

fn sentence(metrics: &Metrics) -> String {
    let Metrics { recall_at_1, recall_at_10, mean_reciprocal_rank, .. } = metrics;
    format!("recall@1 {recall_at_1:.4}, recall@10 {recall_at_10:.4}, mean reciprocal rank {mean_reciprocal_rank:.4}")
}

fn record(metrics: &Metrics) -> serde_json::Value {
    json!({
        "recall_at_1": metrics.recall_at_1, "recall_at_10": metrics.recall_at_10,
        "mean_reciprocal_rank": metrics.mean_reciprocal_rank, "pairs": metrics.pairs,
    })
}
