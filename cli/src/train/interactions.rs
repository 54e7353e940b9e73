//! `wgloss train --interactions FILE`: embeddings of users and items, from which items are recommended.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use serde_json::json;
use wgloss::train::tables::{Config, End, Event, Interactions, Loss, Negatives, Quality, fit};

use super::Arguments;
use super::update::{self, Kind};
use crate::failure::Failure;
use crate::interactions::{self, Rules};
use crate::progress;
use crate::quality::{clause, compare, record, sentence};
use crate::run::{self, EMBEDDINGS, HELD_OUT, IDS, METRICS, Run};
use crate::stop::{self, Stop};
use crate::tables::keep;

/// Interactions instead of pairs.
#[derive(clap::Args)]
#[command(next_help_heading = "Interactions")]
pub struct Options {
    /// The file of interactions. Text: MovieLens' u.data, ratings.csv or ratings.dat, or lines of user,item[,weight[,timestamp]] separated by tabs, ::, semicolons,
    /// commas or spaces. A sparse matrix, users by items: MatrixMarket (.mtx) or SciPy's save_npz (.npz). Text and MatrixMarket may be packed by gzip.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["queries", "keys"])]
    pub interactions: Option<PathBuf>,
    #[command(flatten)]
    rules: Rules,
    /// What an interaction is compared with: the other items of the batch (in-batch); these and items drawn for all users (mixed); items drawn for each user,
    /// uniformly (uniform) or by popularity^0.75 (popular); the best-scoring items that the user has not taken (hard); nothing (none, logistic loss only).
    /// [default: mixed; uniform for the logistic loss]
    #[arg(long, value_enum)]
    negatives: Option<Form>,
    /// How many negatives are drawn [default: the batch size for mixed, else 16 for each user].
    #[arg(long, value_name = "COUNT")]
    negative_count: Option<usize>,
    /// Sampled softmax with logQ correction, or the logistic loss of skip-gram with negative sampling.
    /// [default: softmax]
    #[arg(long, value_enum)]
    loss: Option<Kinds>,
    /// Score by cosine instead of the inner product; temperatures of 0.1 or less suit it.
    #[arg(long)]
    cosine: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    Mixed,
    InBatch,
    Uniform,
    Popular,
    Hard,
    None,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kinds {
    Softmax,
    Logistic,
}

impl Options {
    /// The first given option that does not apply to pairs.
    pub fn given(&self) -> Option<&'static str> {
        [
            ("--negatives", self.negatives.is_some()),
            ("--negative-count", self.negative_count.is_some()),
            ("--loss", self.loss.is_some()),
            ("--cosine", self.cosine),
            ("--min-rating", self.rules.min_rating.is_some()),
            ("--min-interactions", self.rules.min_interactions != 1),
            ("--duplicates", self.rules.duplicates.is_some()),
            ("--columns", self.rules.columns.is_some()),
        ]
        .into_iter()
        .find_map(|(option, given)| given.then_some(option))
    }

    fn loss(&self) -> Kinds {
        self.loss.unwrap_or(Kinds::Softmax)
    }

    fn negatives(&self) -> Form {
        self.negatives.unwrap_or(if self.loss() == Kinds::Softmax { Form::Mixed } else { Form::Uniform })
    }

    fn check(&self) -> Result<(), Failure> {
        if self.negative_count.is_some() && matches!(self.negatives(), Form::InBatch | Form::None) {
            return Err(Failure::input(
                "--negative-count: expected with negatives that are drawn, found with none such",
            ));
        }
        Ok(())
    }

    fn configure(&self, arguments: &Arguments, train: &Interactions) -> Config {
        let defaults = Config::default();
        let batch = arguments.batch.unwrap_or(defaults.batch.min(train.len()));
        let each = self.negative_count.unwrap_or(16);
        let negatives = match self.negatives() {
            Form::Mixed => Negatives::Mixed { count: self.negative_count.unwrap_or(batch) },
            Form::InBatch => Negatives::InBatch,
            Form::Uniform => Negatives::Drawn { count: each, power: 0.0, uniform: 0.0 },
            Form::Popular => Negatives::Drawn { count: each, power: 0.75, uniform: 0.0 },
            Form::Hard => Negatives::Hard { count: each },
            Form::None => Negatives::None,
        };
        let loss = if self.loss() == Kinds::Softmax { Loss::Softmax } else { Loss::Logistic };
        Config {
            dim: arguments.dim.unwrap_or(defaults.dim),
            hidden: arguments.hidden.unwrap_or(defaults.hidden),
            batch,
            epochs: arguments.epochs.unwrap_or(defaults.epochs),
            loss,
            negatives,
            temperature: arguments.temperature.unwrap_or(defaults.temperature),
            normalize: self.cosine,
            optimizer: arguments.update.optimizer(Kind::Adam, 0.0),
            rate: arguments.update.lr.unwrap_or(defaults.rate),
            schedule: arguments.update.schedule(),
            seed: arguments.seed.unwrap_or(defaults.seed),
            ..defaults
        }
    }
}

pub fn train(arguments: &Arguments, path: &std::path::Path) -> Result<ExitCode, Failure> {
    let options = &arguments.interactions;
    if let Some(option) = arguments.only_for_pairs() {
        return Err(Failure::input(format!("{option}: expected with pairs only, found with --interactions")));
    }
    options.check()?;
    arguments.update.check(Kind::Adam)?;
    let loaded = interactions::load("--interactions", path, &options.rules)?;
    let split = loaded.leave_last_out(options.rules.held_out_users, interactions::is_liked)?;
    let train = &split.train;
    loaded.describe(path, &split);
    let config = options.configure(arguments, train);
    config.check(train)?;
    let gpu = crate::open(arguments.adapter.as_deref()).map_err(crate::no_adapter)?;
    say!("adapter: {}", crate::describe(gpu.info()));
    let mut run = Run::open(arguments.out.as_deref(), "runs/interactions", arguments.overwrite)?;
    let mut about = json!({
        "version": env!("CARGO_PKG_VERSION"), "data": path.display().to_string(), "adapter": crate::describe(gpu.info()),
        "interactions": train.len(), "held_out": split.held_out.len(), "users": loaded.users.len(), "items": loaded.items.len(),
        "dim": config.dim, "hidden": config.hidden, "batch": config.batch, "epochs": config.epochs, "lr": config.rate,
        "update": update::record(config.optimizer, config.schedule), "temperature": crate::shortest(config.temperature),
        "cosine": config.normalize, "loss": format!("{:?}", config.loss), "negatives": format!("{:?}", config.negatives),
        "seed": config.seed,
    });
    options.rules.tell(&mut about);
    let mut stop = Stop::on_ctrl_c()?;
    let mut bar = indicatif::ProgressBar::hidden();
    let (start, mut trains, mut steps, mut last) = (Instant::now(), false, 0, Quality::default());
    let outcome = fit(&gpu, train, split.measured(), &config, &mut |event| {
        let logged = match event {
            Event::Start { before, steps: of_epoch } => {
                bar.finish_and_clear();
                trains = true;
                if let Some(sentence) = sentence(&before) {
                    say!("start:   {sentence}");
                }
                last = before;
                bar = progress::bar(
                    (of_epoch as u64).saturating_mul(config.epochs as u64),
                    "{pos}/{len} steps, {eta} left, {msg}",
                );
                run.log(&json!({"event": "start", "run": about, "before": record(&[before])}))
            }
            Event::Within { progress } => {
                if trains {
                    bar.set_message(format!("{} {:.0} %", progress.op, 100.0 * progress.share));
                } else {
                    if bar.length().is_none_or(|length| length == 0) {
                        bar = progress::bar(100, "% of what is measured before training");
                    }
                    bar.set_position((100.0 * progress.share) as u64);
                }
                Ok(())
            }
            Event::Steps { losses, .. } => {
                bar.inc(losses.len() as u64);
                if steps == 0 {
                    bar.reset_eta(); // the first steps include the compilation of kernels
                }
                steps += losses.len();
                let loss = losses.last().copied().unwrap_or(f32::NAN);
                bar.set_message(format!("loss {loss:.4}{}", clause(", ", &last)));
                Ok(())
            }
            Event::Epoch { epoch, loss, held_out, best } => {
                last = held_out;
                if progress::tells(&bar, epoch, config.epochs) {
                    say!("epoch {epoch}: loss {loss:.4}{}", clause(", ", &held_out));
                }
                let line = json!({"event": "epoch", "epoch": epoch, "loss": loss, "held_out": record(&[held_out])});
                run.log(&line)
                    .and_then(|()| best.map_or(Ok(()), |model| keep(&mut run, &loaded, &split, model, &about)))
            }
        };
        stop.after(logged)
    });
    bar.finish_and_clear();
    stop.failure()?;
    let outcome = outcome?;
    if outcome.end != End::Finished && outcome.best_epoch == 0 {
        return Ok(match &outcome.end {
            End::Diverged(how) => {
                say!("diverged: {how}; a lower --lr helps. No epoch did better than the start: nothing to keep");
                ExitCode::from(1)
            }
            _ => {
                say!("stopped before an epoch did better than the start: nothing to keep");
                stop::code()
            }
        });
    }
    keep(&mut run, &loaded, &split, &outcome.model, &about)?;
    let end = run::word(&outcome.end);
    run.log(&json!({"event": "end", "end": end, "epoch": outcome.best_epoch, "held_out": record(&[outcome.best])}))?;
    match &outcome.end {
        End::Finished => {}
        End::Stopped => say!("stopped: the embeddings are those of epoch {}", outcome.best_epoch),
        End::Diverged(how) => {
            say!("diverged: {how}; a lower --lr helps. The embeddings are those of epoch {}", outcome.best_epoch);
        }
    }
    let after = format!("after training (epoch {})", outcome.best_epoch);
    compare(&[("before training", &[outcome.before]), (&after, &[outcome.best])], &split, train);
    let seconds = start.elapsed().as_secs_f64();
    say!("{steps} steps of {} interactions in {seconds:.1} s", config.batch);
    for name in [EMBEDDINGS, IDS, HELD_OUT, METRICS].into_iter().filter(|&name| run.path(name).exists()) {
        say!("wrote {}", run.path(name).display());
    }
    Ok(match &outcome.end {
        End::Diverged(_) => ExitCode::from(1),
        End::Stopped => stop::code(),
        End::Finished => ExitCode::SUCCESS,
    })
}
