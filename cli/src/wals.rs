//! `wgloss wals --interactions FILE`: factors of users and items, each solved with the other held.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use serde_json::json;
use wgloss::Storage;
use wgloss::train::tables::{End, Quality, recommend};
use wgloss::train::wals::{Config, Event, Preset, Solver, Values, fit, fold_in};

use crate::failure::Failure;
use crate::interactions::{self, New, Rules};
use crate::recommend::{EMBEDDINGS, IDS, TOP, compare, keep, record, sentence};
use crate::run::{METRICS, Run};
use crate::stop::Stop;
use crate::{plot, progress};

/// The objective after each half of a sweep.
const PICTURE: &str = "objective.svg";

#[derive(clap::Args)]
pub struct Arguments {
    /// Who took what: MovieLens' u.data, ratings.csv or ratings.dat, lines of user,item[,weight[,timestamp]] with any separator,
    /// or a sparse matrix of users by items: MatrixMarket (.mtx), SciPy's save_npz of a csr_matrix (.npz).
    #[arg(long, value_name = "FILE")]
    interactions: PathBuf,
    #[command(flatten)]
    rules: Rules,
    /// What interactions of weight v count: all alike, beside a weight for all pairs (ials); 1 + alpha v (hu); alpha v, as the library implicit has
    /// it (implicit); v is what to predict, beside a weight for all pairs that were not observed, which are 0 (tf), or nothing is known of those (explicit).
    #[arg(long, value_enum, default_value_t = Form::Ials)]
    preset: Form,
    /// The weight of pairs that were not observed, of ials and tf [default: 0.1].
    #[arg(long)]
    unobserved: Option<f32>,
    /// By what hu and implicit multiply weights [default: 1].
    #[arg(long)]
    alpha: Option<f32>,
    /// Width of a factor.
    #[arg(long, default_value_t = Config::default().dim)]
    dim: usize,
    /// Times that users and items are solved.
    #[arg(long, default_value_t = Config::default().sweeps)]
    sweeps: usize,
    /// Ends once a sweep lowers the objective by less than this share.
    #[arg(long, default_value_t = 0.0)]
    tolerance: f64,
    /// Of the factors' squares [default: 0.003 for ials, 0.01 for hu and implicit, 0.1 for tf, 0.05 for explicit].
    #[arg(long)]
    regularization: Option<f32>,
    /// The power of a row's observations by which its regularization grows [default: 1 for ials and explicit, 0 for others].
    #[arg(long)]
    exponent: Option<f32>,
    /// Steps of conjugate gradients for each row; 0: rows are solved exactly [default: 2, 8 for rows wider than 1,024; without a weight for all pairs rows
    /// narrower than 128 are solved exactly, others by 8].
    #[arg(long)]
    steps: Option<usize>,
    /// How factors are stored on the device: 16 bits halve memory and what is read of it.
    #[arg(long, value_enum, default_value_t = Width::F32)]
    storage: Width,
    /// Measure with new users instead of the last item of each user: this share of the users is left out of the fit, then solved from the first four fifths
    /// of what they took, and asked for the rest.
    #[arg(long, value_name = "SHARE")]
    new_users: Option<f64>,
    /// Decides where the factors start.
    #[arg(long, default_value_t = Config::default().seed)]
    seed: u64,
    /// The adapter, by its number in `wgloss adapters` or a part of its name.
    #[arg(long)]
    adapter: Option<String>,
    /// Folder for factors, ids and metrics [default: runs/wals].
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Replace an earlier run in that folder.
    #[arg(long)]
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

/// A run's objective, for those who come back to its factors.
fn stored(preset: Preset) -> serde_json::Value {
    let shortest = crate::shortest;
    match preset {
        Preset::Ials { unobserved } => json!({"name": "ials", "unobserved": shortest(unobserved)}),
        Preset::Hu { alpha } => json!({"name": "hu", "alpha": shortest(alpha)}),
        Preset::Implicit { alpha } => json!({"name": "implicit", "alpha": shortest(alpha)}),
        Preset::Tf { unobserved } => json!({"name": "tf", "unobserved": shortest(unobserved)}),
        Preset::Explicit => json!({"name": "explicit"}),
    }
}

/// The configuration that a run's record tells, as far as new users need it.
pub fn restored(about: &serde_json::Value) -> Option<Config> {
    let number = |of: &serde_json::Value, name: &str| of.get(name)?.as_f64().map(|number| number as f32);
    let of = about.get("preset")?;
    let preset = match of.get("name")?.as_str()? {
        "ials" => Preset::Ials { unobserved: number(of, "unobserved")? },
        "hu" => Preset::Hu { alpha: number(of, "alpha")? },
        "implicit" => Preset::Implicit { alpha: number(of, "alpha")? },
        "tf" => Preset::Tf { unobserved: number(of, "unobserved")? },
        "explicit" => Preset::Explicit,
        _ => return None,
    };
    let dim = usize::try_from(about.get("dim")?.as_u64()?).ok()?;
    let (regularization, exponent) = (number(about, "regularization")?, number(about, "exponent")?);
    Some(Config { dim, preset, regularization, exponent, ..Config::default() })
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
            solver: self.steps.map(|steps| if steps == 0 { Solver::Direct } else { Solver::Conjugate { steps } }),
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

pub fn wals(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let config = arguments.configure()?;
    let path = &arguments.interactions;
    let loaded = interactions::load(path, arguments.rules)?;
    let split = match arguments.new_users {
        Some(share) => loaded.leave_users_out(share, config.seed)?,
        None => loaded.leave_last_out(arguments.rules.held_out_users)?,
    };
    let (train, held_out) = (&split.train, &split.held_out);
    loaded.describe(path, &split);
    let gpu = crate::open(arguments.adapter.as_deref()).map_err(crate::no_adapter)?;
    println!("adapter: {}; {}", crate::describe(gpu.info()), told(config.chosen()));
    let mut run = Run::open(arguments.out.as_deref(), "runs/wals", arguments.overwrite)?;
    let about = json!({
        "version": env!("CARGO_PKG_VERSION"), "data": path.display().to_string(), "adapter": crate::describe(gpu.info()),
        "interactions": train.len(), "held_out": held_out.len(), "users": loaded.users.len(), "items": loaded.items.len(),
        "dim": config.dim, "sweeps": config.sweeps, "preset": stored(config.preset), "solver": told(config.chosen()), "storage": format!("{:?}", config.storage),
        "regularization": crate::shortest(config.regularization), "exponent": crate::shortest(config.exponent),
        "tolerance": config.tolerance, "seed": config.seed,
    });
    run.log(&json!({"event": "start", "run": about}))?;
    let mut stop = Stop::on_ctrl_c()?;
    let bar = progress::bar(2 * config.sweeps as u64, "{pos}/{len} halves of sweeps, {eta} left, {msg}");
    let start = Instant::now();
    let (mut halves, mut share) = (Vec::new(), 0.0f64);
    let outcome = fit(&gpu, train, Values::of(&split.values), &config, &mut |event| {
        let logged = match event {
            Event::Within { progress } => {
                share = progress.share.max(share); // what solves the rows comes first and takes longest
                bar.set_message(format!("{:.0} % of this half", 100.0 * share));
                Ok(())
            }
            Event::Solved { sweep, side, objective } => {
                bar.inc(1);
                share = 0.0;
                halves.push(objective);
                bar.set_message(format!("objective {objective:.6e}"));
                let side = format!("{side:?}").to_lowercase();
                run.log(&json!({"event": "solved", "sweep": sweep, "side": side, "objective": objective}))
            }
        };
        stop.after(logged)
    });
    bar.finish_and_clear();
    stop.failure()?;
    let mut outcome = outcome?;
    let seconds = start.elapsed().as_secs_f64();
    let mut known = train;
    if let Some(New { users, known: own, values }) = &split.new {
        let folded = fold_in(&gpu, &outcome.model.items, own, Values::of(values), &config)?;
        let rows = folded.chunks(config.dim).zip(outcome.model.users.chunks_mut(config.dim));
        rows.zip(users).for_each(|((folded, row), &is_new)| {
            if is_new {
                row.copy_from_slice(folded)
            }
        });
        known = own;
    }
    let quality = Quality::measure(held_out, |users| recommend(&gpu, &outcome.model, known, users, TOP))?;
    run.log(&json!({"event": "end", "held_out": record(&quality), "seconds": seconds}))?;
    keep(&mut run, &loaded, &outcome.model, &about)?;
    if outcome.end == End::Stopped {
        println!(
            "stopped: the factors are those of {} whole sweeps and what was solved since",
            outcome.objectives.len()
        );
    }
    compare(&[("the factors", quality)], train, known, held_out, split.asked());
    if let (Some(first), Some(last)) = (outcome.objectives.first(), outcome.objectives.last()) {
        let count = outcome.objectives.len();
        println!(
            "{count} sweeps in {seconds:.1} s: objective {first:.6e} after the first, {last:.6e} after the last; {}",
            sentence(&quality)
        );
    }
    let title = format!("{}: alternating least squares, {} wide", path.display(), config.dim);
    let picture = plot::objective(&title, &halves)
        .map_err(|error| Failure { message: format!("{PICTURE}: {error}"), code: 1 })?;
    run.write(PICTURE, picture.as_bytes())?;
    for name in [EMBEDDINGS, IDS, METRICS, PICTURE] {
        println!("wrote {}", run.path(name).display());
    }
    Ok(ExitCode::from(if outcome.end == End::Stopped { 130 } else { 0 }))
}
