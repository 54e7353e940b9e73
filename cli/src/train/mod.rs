//! `wgloss train`: two towers on pairs. interactions.rs has `--interactions`.

mod interactions;
mod update;
mod watch;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;
use wgloss::train::{Batches, Config, Pairs, fit};
use wgloss::{Error, Gpu, info_nce};

use self::update::{Kind, Update};
use self::watch::{Watch, finish};
use crate::adapters::HOW_TO_GET_ONE;
use crate::data;
use crate::failure::Failure;
use crate::run::Run;
use crate::stop::Stop;

#[derive(clap::Args)]
pub struct Arguments {
    /// Queries: a .npy file of float16, float32 or float64, which is rounded to float32, shape [n, d]. Without --queries and --keys the bundled digits are used.
    #[arg(long, requires = "keys", value_name = "FILE")]
    queries: Option<PathBuf>,
    /// Keys: a .npy file of as many rows; row i belongs to row i of the queries.
    #[arg(long, requires = "queries", value_name = "FILE")]
    keys: Option<PathBuf>,
    /// An integer for each pair, a .npy file of shape [n]. Pairs with the same id, such as several questions with one answer, are not negatives of each other.
    #[arg(long, requires = "keys", value_name = "FILE")]
    ids: Option<PathBuf>,
    /// An integer for each pair, a .npy file of shape [n]. Pairs with the same label, such as pictures of one class, are positives of each other (supervised contrastive learning).
    #[arg(long, requires = "keys", conflicts_with = "ids", value_name = "FILE")]
    labels: Option<PathBuf>,
    /// A weight of at least 0 for the loss of each pair, a .npy file of shape [n].
    #[arg(long, requires = "keys", value_name = "FILE")]
    weights: Option<PathBuf>,
    /// Pairs in a step [default: 256 for the digits, 1024 or all there are for files].
    #[arg(long)]
    pub batch: Option<usize>,
    /// Passes over the training pairs [default: 200 for the digits, 10 for files of pairs, 20 for interactions].
    #[arg(long)]
    pub epochs: Option<usize>,
    /// Stop after so many epochs in a row that were not better on the held-out pairs [default: no].
    #[arg(long, value_name = "EPOCHS", value_parser = clap::value_parser!(u32).range(1..))]
    patience: Option<u32>,
    /// Temperature. For pairs the initial one, since it is learned [default: 0.07]; for interactions a constant [default: 1].
    #[arg(long, allow_negative_numbers = true)]
    pub temperature: Option<f32>,
    /// Number of keys of past steps that are further negatives of every query (cross-batch memory) [default: 0].
    #[arg(long, value_name = "KEYS")]
    queue: Option<usize>,
    /// Lengths to which embeddings may be cut, such as 256,64 (Matryoshka): the loss is the sum over the whole embeddings and their first 256 and 64 numbers [default: none].
    #[arg(long, value_name = "LENGTHS", value_delimiter = ',')]
    matryoshka: Vec<usize>,
    /// Width of the embeddings [default: 32 for the digits, the narrower side's width for files of pairs, 64 for interactions].
    #[arg(long)]
    pub dim: Option<usize>,
    /// Width between the two maps of a tower. 0: pairs have one linear map, which starts at the identity if the widths agree; interactions have no
    /// tower, the tables' rows are the embeddings [default: 128 for the digits, 0 for files].
    #[arg(long)]
    pub hidden: Option<usize>,
    /// Share of the pairs that is held out to measure with; of more than 10,000 the first 10,000 are ranked [default: 0.2].
    #[arg(long, allow_negative_numbers = true)]
    held_out: Option<f32>,
    /// Seed of the split, the initial weights and the batches [default: 1].
    #[arg(long)]
    pub seed: Option<u64>,
    /// The adapter, by its number in `wgloss adapters` or a part of its name.
    #[arg(long)]
    pub adapter: Option<String>,
    /// Folder for the weights, the metrics and the plot [default: runs/digits, runs/pairs or runs/interactions, numbered if taken].
    #[arg(long, value_name = "FOLDER")]
    pub out: Option<PathBuf>,
    /// Replace the run that --out already holds.
    #[arg(long, requires = "out")]
    pub overwrite: bool,
    #[command(flatten)]
    forms: Loss,
    #[command(flatten)]
    pub update: Update,
    #[command(flatten)]
    pub interactions: interactions::Options,
}

/// The forms of the loss; see the options of wgloss::info_nce.
#[derive(clap::Args)]
#[command(next_help_heading = "Loss")]
struct Loss {
    /// Loss from queries to keys only, instead of the mean of both directions.
    #[arg(long)]
    one_direction: bool,
    /// Other queries of the batch are negatives of a query, too.
    #[arg(long)]
    query_negatives: bool,
    /// Other keys of the batch are negatives of a key, too.
    #[arg(long)]
    key_negatives: bool,
    /// With --labels: the logarithm of the mean over the positives, instead of the mean of their logarithms.
    #[arg(long, requires = "labels")]
    inside_log: bool,
    /// Leave the positive out of the denominator (decoupled contrastive learning).
    #[arg(long)]
    decoupled: bool,
    /// Margin, subtracted from the positive's similarity.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    margin: f32,
    /// Weight negatives by e^(hardness * similarity).
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    hardness: f32,
    /// Correct for this probability that a negative is in truth a positive (debiased contrastive learning).
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    tau_plus: f32,
    /// Label smoothing: this share of the target is spread over all keys.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    label_smoothing: f32,
    /// Leave out keys whose similarity exceeds the positive's by more than this, as false negatives [default: none].
    #[arg(long, allow_negative_numbers = true)]
    near_margin: Option<f32>,
    /// Upper bound of 1/temperature.
    #[arg(long, default_value_t = 100.0, allow_negative_numbers = true)]
    max_scale: f32,
}

impl Loss {
    fn options(&self) -> info_nce::Options {
        info_nce::Options {
            symmetric: !self.one_direction,
            query_negatives: self.query_negatives,
            key_negatives: self.key_negatives,
            inside_log: self.inside_log,
            decoupled: self.decoupled,
            margin: self.margin,
            hardness: self.hardness,
            tau_plus: self.tau_plus,
            label_smoothing: self.label_smoothing,
            near_margin: self.near_margin.unwrap_or(f32::INFINITY),
            max_scale: self.max_scale,
            ..Default::default()
        }
    }
}

impl Arguments {
    /// The first given option that does not apply to interactions.
    pub fn only_for_pairs(&self) -> Option<&'static str> {
        let forms = self.forms.options() != info_nce::Options { symmetric: true, ..Default::default() };
        [
            ("--ids", self.ids.is_some()),
            ("--labels", self.labels.is_some()),
            ("--weights", self.weights.is_some()),
            ("--queue", self.queue.is_some()),
            ("--matryoshka", !self.matryoshka.is_empty()),
            ("--held-out", self.held_out.is_some()),
            ("--patience", self.patience.is_some()),
            ("--clip", self.update.clip.is_some()),
            ("a form of the contrastive loss", forms),
        ]
        .into_iter()
        .find_map(|(option, given)| given.then_some(option))
    }
}

pub fn train(arguments: &Arguments) -> Result<ExitCode, Failure> {
    if let Some(path) = &arguments.interactions.interactions {
        return interactions::train(arguments, path);
    }
    if let Some(option) = arguments.interactions.given() {
        return Err(Failure::input(format!("{option}: expected with --interactions, found without")));
    }
    let (pairs, source) = match (&arguments.queries, &arguments.keys) {
        (Some(queries), Some(keys)) => {
            let pairs = data::files(queries, keys)?;
            let of = |path| move |error| data::of_file(path, error);
            let pairs = match (&arguments.ids, &arguments.labels) {
                (Some(path), _) => pairs.with_ids(data::ids(path)?).map_err(of(path))?,
                (_, Some(path)) => pairs.with_labels(data::ids(path)?).map_err(of(path))?,
                _ => pairs,
            };
            let pairs = match &arguments.weights {
                Some(path) => pairs.with_weights(data::weights(path)?).map_err(of(path))?,
                None => pairs,
            };
            (pairs, format!("{} and {}", queries.display(), keys.display()))
        }
        _ => (data::digits()?, "bundled digits, upper half -> lower half".to_owned()),
    };
    let bundled = arguments.queries.is_none();
    let mut config = Config::for_embeddings(&pairs);
    if bundled {
        config = Config { hidden: 128, dim: 32, batch: 256, epochs: 200, rate: 0.05, ..config };
    }
    config.hidden = arguments.hidden.unwrap_or(config.hidden);
    config.dim = arguments.dim.unwrap_or(config.dim);
    let kind = kind(arguments, &config, &pairs);
    arguments.update.check(kind)?;
    let config = configure(arguments, kind, config, &pairs);
    config.check(&pairs)?;
    let gpu = open(arguments.adapter.as_deref())?;
    let default = if bundled { "runs/digits" } else { "runs/pairs" };
    let mut run = Run::open(arguments.out.as_deref(), default, arguments.overwrite)?;

    let split = config.split(&pairs);
    say!("data:    {source}: {} pairs, {} held out", pairs.len(), split.held_out.len());
    match config.hidden {
        0 => say!("towers:  {} and {} -> {}", pairs.query_cols(), pairs.key_cols(), config.dim),
        hidden => {
            say!("towers:  {} and {} -> {hidden} -> {}", pairs.query_cols(), pairs.key_cols(), config.dim);
        }
    }
    match pairs.known(&split) {
        0 => {}
        known => say!(
            "note:    {known} held-out pairs have a key or an id that is trained on: for them new queries are ranked, not new keys"
        ),
    }
    let batches = Batches::shuffled(split.train.len() as u32, config.batch, config.seed);
    let steps = batches.steps().saturating_mul(config.epochs);
    if config.schedule.warm_up > steps {
        say!("note:    --warm-up {} is longer than the training, {steps} steps", config.schedule.warm_up);
    }
    let (mut watch, mut stop) = (Watch::new(&config, &pairs, arguments.patience), Stop::on_ctrl_c()?);

    let file = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
    let adapter = gpu.as_ref().map_or("CPU reference".to_owned(), |gpu| crate::describe(gpu.info()));
    let about = json!({
        "version": env!("CARGO_PKG_VERSION"), "data": source, "adapter": adapter,
        "pairs": pairs.len(), "held_out": split.held_out.len(), "ids": file(&arguments.ids), "labels": file(&arguments.labels), "weights": file(&arguments.weights),
        "hidden": config.hidden, "dim": config.dim, "batch": config.batch, "epochs": config.epochs,
        "lr": config.rate, "update": update::record(config.optimizer, config.schedule), "clip": config.clip.map(crate::shortest), "temperature": crate::shortest(config.temperature),
        "seed": config.seed, "queue": config.queue, "matryoshka": config.matryoshka, "loss": record_of_loss(&config.loss),
    });
    let outcome = fit(gpu.as_ref(), &pairs, &config, &mut |event| {
        let kept = watch.see(&event, &mut run, &about);
        if watch.is_out_of_patience() && kept.is_ok() { ControlFlow::Break(()) } else { stop.after(kept) }
    });
    watch.bar.finish_and_clear();
    stop.failure()?;
    finish(&outcome?, watch, &mut run, &source, &about)
}

/// The optimizer. SGD if both maps start at the identity, for the digits, and with --momentum; otherwise Adam. For maps that start at random the best rate of
/// SGD depends on the widths, that of Adam does not.
fn kind(arguments: &Arguments, config: &Config, pairs: &Pairs) -> Kind {
    let starts_at_identity = config.hidden == 0 && [pairs.query_cols(), pairs.key_cols()] == [config.dim; 2];
    let is_sgd = starts_at_identity || arguments.queries.is_none() || arguments.update.has_momentum();
    arguments.update.kind(if is_sgd { Kind::Sgd } else { Kind::Adam })
}

fn configure(arguments: &Arguments, kind: Kind, defaults: Config, pairs: &Pairs) -> Config {
    // The size of Adam's steps is that of the rate, whatever the gradients. SGD's steps grow with the number of losses
    // that are summed.
    let losses = 1 + arguments.matryoshka.len();
    let rate = if kind == Kind::Sgd { defaults.rate / losses as f64 } else { 0.001 };
    let mut config = Config {
        epochs: arguments.epochs.unwrap_or(defaults.epochs),
        optimizer: arguments.update.optimizer(kind, 0.9),
        rate: arguments.update.lr.unwrap_or(rate),
        schedule: arguments.update.schedule(),
        clip: arguments.update.clip,
        temperature: arguments.temperature.unwrap_or(defaults.temperature.max(1.0 / arguments.forms.max_scale)),
        loss: arguments.forms.options(),
        queue: arguments.queue.unwrap_or(defaults.queue),
        matryoshka: arguments.matryoshka.clone(),
        held_out: arguments.held_out.unwrap_or(defaults.held_out),
        seed: arguments.seed.unwrap_or(defaults.seed),
        ..defaults
    };
    let most = config.split(pairs).train.len().max(1);
    config.batch = arguments.batch.unwrap_or(defaults.batch.min(most));
    config
}

/// Opens the adapter. None if the machine has no adapter and none was asked for.
pub fn open(wish: Option<&str>) -> Result<Option<Gpu>, Failure> {
    match crate::open(wish) {
        Ok(gpu) => {
            say!("adapter: {}", crate::describe(gpu.info()));
            Ok(Some(gpu))
        }
        Err(Error::NoAdapter { message }) if wish.is_none() => {
            say!("adapter: none ({message}), so the CPU reference computes, slowly; {HOW_TO_GET_ONE}");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// The options of the loss that differ from the defaults, as JSON.
fn record_of_loss(loss: &info_nce::Options) -> serde_json::Value {
    let plain = info_nce::Options { symmetric: true, ..Default::default() };
    let numbers = [
        ("margin", loss.margin, plain.margin),
        ("hardness", loss.hardness, plain.hardness),
        ("tau_plus", loss.tau_plus, plain.tau_plus),
        ("label_smoothing", loss.label_smoothing, plain.label_smoothing),
        ("near_margin", loss.near_margin, plain.near_margin),
        ("max_scale", loss.max_scale, plain.max_scale),
    ];
    let flags = [
        ("one_direction", !loss.symmetric),
        ("query_negatives", loss.query_negatives),
        ("key_negatives", loss.key_negatives),
        ("inside_log", loss.inside_log),
        ("decoupled", loss.decoupled),
    ];
    let numbers = numbers.into_iter().filter(|(_, value, plain)| value != plain);
    let numbers = numbers.map(|(name, value, _)| (name.to_owned(), crate::shortest(value)));
    let flags = flags.into_iter().filter(|(_, set)| *set).map(|(name, set)| (name.to_owned(), set.into()));
    numbers.chain(flags).collect::<serde_json::Map<_, _>>().into()
}
