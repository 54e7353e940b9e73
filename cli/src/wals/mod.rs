//! `wgloss wals --interactions FILE`: factors of users and items, each side solved with the other held fixed.

mod course;
pub mod fitted;
mod warm;

use std::collections::HashSet;
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;
use wgloss::Storage;
use wgloss::train::tables::{End, Model};
use wgloss::train::wals::{Config, Preset, Solver, Values};

use self::course::{Course, Found, Measuring, STOPPED};
use self::fitted::Fitted;
use crate::failure::Failure;
use crate::interactions::{self, Rules};
use crate::plot;
use crate::quality::{clause, compare, record};
use crate::run::{self, EMBEDDINGS, HELD_OUT, IDS, METRICS, OBJECTIVE, Run};
use crate::stop;
use crate::tables::keep;

const OPTION: &str = "--interactions";
/// If the last sweep lowered the objective by a larger share than this, the fit is reported as unfinished.
const FALLING: f64 = 0.02;

#[derive(clap::Args)]
pub struct Arguments {
    /// The file of interactions. Text: MovieLens' u.data, ratings.csv or ratings.dat, or lines of user,item[,weight[,timestamp]] separated by tabs, ::, semicolons,
    /// commas or spaces. A sparse matrix, users by items: MatrixMarket (.mtx) or SciPy's save_npz (.npz). Text and MatrixMarket may be packed by gzip. Weights
    /// below 0 are allowed with the presets implicit (dislikes), tf and explicit.
    #[arg(long, value_name = "FILE")]
    interactions: PathBuf,
    #[command(flatten)]
    rules: Rules,
    /// The objective. How much an interaction of weight v counts: 1, beside a weight for all pairs (ials); 1 + alpha v (hu); alpha v, as in the library implicit
    /// (implicit). Or v is the value to predict: beside a weight for unobserved pairs, whose value is 0 (tf), or from observed pairs alone (explicit).
    #[arg(long, value_enum, default_value_t = Form::Ials)]
    preset: Form,
    /// With ials and tf: the weight of unobserved pairs [default: 0.1].
    #[arg(long, allow_negative_numbers = true)]
    unobserved: Option<f32>,
    /// With hu and implicit: the factor of the weights [default: 1].
    #[arg(long, allow_negative_numbers = true)]
    alpha: Option<f32>,
    /// Width of a factor.
    #[arg(long, default_value_t = Config::default().dim)]
    dim: usize,
    /// How many times users and items are solved.
    #[arg(long, default_value_t = Config::default().sweeps)]
    sweeps: usize,
    /// Stop once a sweep lowers the objective by less than this share.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    tolerance: f64,
    /// λ, the weight of the factors' squares in the objective [default: 0.003 for ials, 0.01 for hu and implicit, 0.1 for tf, 0.05 for explicit].
    #[arg(long, allow_negative_numbers = true)]
    regularization: Option<f32>,
    /// ν: λ of a row of n observations is --regularization times (n + w0 · rows of the other side)^ν, w0 being 1 for hu and implicit [default: 1 for ials and explicit, 0 for others].
    #[arg(long, allow_negative_numbers = true)]
    exponent: Option<f32>,
    /// Steps of conjugate gradients for each row; 0 solves rows exactly [default: 2, 4 or 8 if an observation weighs up to 30, 1,000 or 30,000 times as much as all
    /// pairs do; beyond, exactly up to a dim of 255, else 16. explicit, and tf with --unobserved 0: exactly up to a dim of 127, else 8. A dim above 1,024: 8].
    #[arg(long)]
    steps: Option<usize>,
    /// How factors are stored on the device; 16 bits halve their memory and its traffic.
    #[arg(long, value_enum, default_value_t = Width::F32)]
    storage: Width,
    /// Measure on new users instead of the last item of each user: this share of the users is left out of the fit, solved from the first four fifths of their
    /// interactions with the items fixed, and asked for the rest. The factors that are written contain them as solved in this way.
    #[arg(long, value_name = "SHARE", conflicts_with = "held_out_users", allow_negative_numbers = true)]
    new_users: Option<f64>,
    /// Lengths of recommendation lists to measure recall and NDCG at, such as 20,50,100; 1000 at most. Recall at K divides the hits by K or the number of
    /// a user's held-out items, whichever is less.
    #[arg(long, value_name = "K", value_delimiter = ',', default_value = "10", value_parser = clap::value_parser!(u16).range(1..=1000))]
    at: Vec<u16>,
    /// Measure after every so many sweeps and after the last, and keep the factors of the best measurement, which are written at once: the largest recall at
    /// the first K of --at, then the largest NDCG; with explicit the smallest RMSE. Something must be held out.
    #[arg(long, value_name = "SWEEPS", value_parser = clap::value_parser!(u32).range(1..))]
    measure_every: Option<u32>,
    /// Stop after so many measurements in a row that were not better.
    #[arg(long, value_name = "MEASUREMENTS", requires = "measure_every", value_parser = clap::value_parser!(u32).range(1..))]
    patience: Option<u32>,
    /// Start from the factors of an earlier run of the same --dim; users and items that it does not know start as usual. Interactions that it learned from and
    /// that are held out now make the measurement too good.
    #[arg(long, value_name = "RUN", conflicts_with = "new_users")]
    from: Option<PathBuf>,
    /// Seed of the starting factors and of the users that --new-users leaves out.
    #[arg(long, default_value_t = Config::default().seed)]
    seed: u64,
    /// The adapter, by its number in `wgloss adapters` or a part of its name.
    #[arg(long)]
    adapter: Option<String>,
    /// Folder for factors, ids and metrics [default: runs/wals, numbered if taken].
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Replace the run that --out already holds.
    #[arg(long, requires = "out")]
    overwrite: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    Ials,
    Hu,
    Implicit,
    Tf,
    Explicit,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Width {
    F32,
    F16,
    Bf16,
}

fn told(solver: Solver) -> String {
    match solver {
        Solver::Direct => "rows solved exactly".into(),
        Solver::Conjugate { steps } => format!("rows solved by {steps} steps of conjugate gradients"),
    }
}

impl Arguments {
    fn configure(&self) -> Result<Config, Failure> {
        let foreign = match self.preset {
            Form::Ials | Form::Tf => self.alpha.map(|_| ("--alpha", "hu or implicit")),
            Form::Hu | Form::Implicit => self.unobserved.map(|_| ("--unobserved", "ials or tf")),
            Form::Explicit => {
                let unobserved = self.unobserved.map(|_| ("--unobserved", "ials or tf"));
                unobserved.or(self.alpha.map(|_| ("--alpha", "hu or implicit")))
            }
        };
        if let Some((option, presets)) = foreign {
            return Err(Failure::input(format!("{option}: expected with --preset {presets}, found with another")));
        }
        let alpha = self.alpha.unwrap_or(1.0);
        let unobserved = self.unobserved.unwrap_or(0.1);
        let (preset, regularization, exponent) = match self.preset {
            Form::Ials => (Preset::Ials { unobserved }, 0.003, 1.0),
            Form::Tf => (Preset::Tf { unobserved }, 0.1, 0.0),
            Form::Hu => (Preset::Hu { alpha }, 0.01, 0.0),
            Form::Implicit => (Preset::Implicit { alpha }, 0.01, 0.0),
            Form::Explicit => (Preset::Explicit, 0.05, 1.0),
        };
        let config = Config {
            dim: self.dim,
            sweeps: self.sweeps,
            preset,
            regularization: self.regularization.unwrap_or(regularization),
            exponent: self.exponent.unwrap_or(exponent),
            tolerance: self.tolerance,
            solver: self.steps.map(fitted::solver),
            storage: match self.storage {
                Width::F32 => Storage::F32,
                Width::F16 => Storage::F16,
                Width::Bf16 => Storage::Bf16,
            },
            seed: self.seed,
            ..Config::default()
        };
        config.check()?;
        Ok(config)
    }
}

/// Each number once, in the given order.
fn distinct(at: &[u16]) -> Vec<usize> {
    let mut asked = HashSet::new();
    at.iter().copied().map(usize::from).filter(|&at| asked.insert(at)).collect()
}

pub fn wals(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let config = arguments.configure()?;
    let path = &arguments.interactions;
    let rules = Rules { negative: config.preset.takes_negative(), ..arguments.rules.clone() };
    let loaded = interactions::load(OPTION, path, &rules)?;
    fitted::check_weights(config.preset, &loaded, OPTION, path)?;
    let kind = if fitted::predicts_weights(config.preset) { interactions::is_any } else { interactions::is_liked };
    let split = match arguments.new_users {
        Some(share) => loaded.leave_users_out(share, config.seed, kind)?,
        None => loaded.leave_last_out(rules.held_out_users, kind)?,
    };
    let train = &split.train;
    loaded.describe(path, &split);
    if arguments.measure_every.is_some() && split.asked_for.is_empty() {
        let expected = "expected something that is held out to measure with";
        return Err(Failure::input(format!("--measure-every: {expected}, found nothing")));
    }
    let from = match &arguments.from {
        Some(folder) => {
            warm::check_folders(folder, arguments.out.as_deref())?;
            Some(warm::start(folder, &loaded, &config)?)
        }
        None => None,
    };
    let values = Values::of(&split.values);
    let solver = config.chosen(values);
    let config = Config { solver: Some(solver), ..config };
    let gpu = crate::open(arguments.adapter.as_deref()).map_err(crate::no_adapter)?;
    say!("adapter: {}; {}", crate::describe(gpu.info()), told(solver));
    let mut run = Run::open(arguments.out.as_deref(), "runs/wals", arguments.overwrite)?;
    let mut about = json!({
        "version": env!("CARGO_PKG_VERSION"), "data": path.display().to_string(), "adapter": crate::describe(gpu.info()),
        "interactions": train.len(), "held_out": split.asked_for.len(), "users": loaded.users.len(), "items": loaded.items.len(),
        "sweeps": config.sweeps, "solver": told(solver), "storage": format!("{:?}", config.storage), "tolerance": config.tolerance,
        "seed": config.seed, "at": arguments.at, "measure_every": arguments.measure_every, "patience": arguments.patience, "new_users": arguments.new_users, "from": arguments.from.as_ref().map(|folder| folder.display().to_string()),
    });
    Fitted { config, rules }.tell(&mut about);
    run.log(&json!({"event": "start", "run": about}))?;
    let measuring = Measuring { gpu: &gpu, split: &split, config: &config, at: distinct(&arguments.at) };
    let kept = |run: &mut Run, model: &Model| keep(run, &loaded, &split, model, &about);
    let of_rows = |error| Failure::of_rows(error, &loaded.users, &loaded.items);
    let Some(course) = measuring.course(arguments, values, from, &mut run, kept, of_rows)? else {
        say!("stopped before the first sweep was done: nothing to keep");
        return Ok(stop::code());
    };
    let Course {
        best: Found { quality, distance, sweep: kept, is_partial, .. },
        objectives,
        halves,
        measured,
        seconds,
        end,
        why,
    } = course;
    let known = split.new.as_ref().map_or(train, |new| &new.known);
    let (stopped, count) = (end == End::Stopped, objectives.len());
    run.log(&json!({
        "event": "end", "end": run::word(&end), "by": why, "sweeps": count, "kept": kept, "held_out": record(&quality),
        "rmse": distance.map(|[rmse, _]| rmse), "seconds": seconds,
    }))?;
    if stopped {
        let rest = if is_partial { " and what was solved since" } else { "" };
        say!("stopped: the factors are those of {kept} whole sweeps{rest}");
    }
    compare(&[("the factors", &quality)], &split, known);
    if let Some([rmse, by_mean]) = distance {
        say!("RMSE of the held-out weights {rmse:.4}; by the mean of all {by_mean:.4}");
    }
    let is_measured = arguments.measure_every.is_some();
    let worth = quality.first().map(|quality| clause("; ", quality)).unwrap_or_default();
    if let (Some(first), Some(last)) = (objectives.first(), halves.last()) {
        let (plural, worth) = (if count == 1 { "" } else { "s" }, if is_measured { "" } else { &worth });
        let why = if [STOPPED, "--sweeps"].contains(&why) { String::new() } else { format!(", ended by {why}") };
        say!(
            "{count} sweep{plural} in {seconds:.1} s{why}: objective {first:.6e} after the first, {last:.6e} at the end{worth}"
        );
    }
    if let (true, Some(objective)) = (is_measured, objectives.get(kept - 1)) {
        let best = match (distance, quality.first()) {
            (Some(_), _) => ", of the smallest RMSE".into(),
            (None, Some(quality)) => format!(", of the largest recall@{}", quality.at),
            (None, None) => String::new(),
        };
        say!(
            "kept:    the factors after sweep {kept}{best}, objective {objective:.6e}{worth}; they were chosen by this measurement, so it flatters them a little"
        );
    }
    if let [.., before, last] = objectives[..]
        && !stopped
        && kept == count
        && before - last > FALLING * before.abs()
    {
        let share = 100.0 * (before - last) / before.abs();
        say!(
            "the objective still falls, by {share:.1} % in the last sweep: more --sweeps lower it further, or more --steps in each"
        );
    }
    let title = format!("{}: alternating least squares, {} wide", path.display(), config.dim);
    let recall = || arguments.at.first().map_or(String::new(), |at| format!("recall@{at}"));
    let name = if distance.is_some() { "RMSE".into() } else { recall() };
    run.picture(OBJECTIVE, plot::objective(&title, &halves, (&name, &measured), kept))?;
    for name in [EMBEDDINGS, IDS, HELD_OUT, METRICS, OBJECTIVE].into_iter().filter(|&name| run.path(name).exists()) {
        say!("wrote {}", run.path(name).display());
    }
    Ok(if stopped { stop::code() } else { ExitCode::SUCCESS })
}
