//! `wgloss wals --interactions FILE`: factors of users and items, each solved with the other held.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use serde_json::json;
use wgloss::train::tables::{End, Quality, recommend};
use wgloss::train::wals::{Config, Event, Preset, Solver, Values, fit};

use crate::failure::Failure;
use crate::interactions::{self, Rules};
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
    /// it (implicit); v is what to predict, and nothing is known of other pairs (explicit).
    #[arg(long, value_enum, default_value_t = Form::Ials)]
    preset: Form,
    /// The weight of pairs that were not observed, of ials [default: 0.1].
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
    /// Of the factors' squares [default: 0.003 for ials, 0.01 for hu and implicit, 0.05 for explicit].
    #[arg(long)]
    regularization: Option<f32>,
    /// The power of a row's observations by which its regularization grows [default: 1 for ials and explicit, 0 for hu and implicit].
    #[arg(long)]
    exponent: Option<f32>,
    /// Steps of conjugate gradients a row; 0: rows are solved exactly.
    #[arg(long, default_value_t = 2)]
    steps: usize,
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
    Explicit,
}

impl Arguments {
    fn configure(&self) -> Result<Config, Failure> {
        let foreign = match self.preset {
            Form::Ials => self.alpha.map(|_| ("--alpha", "hu or implicit")),
            _ => self.unobserved.map(|_| ("--unobserved", "ials")),
        };
        let foreign = foreign
            .or((self.preset == Form::Explicit && self.alpha.is_some()).then_some(("--alpha", "hu or implicit")));
        if let Some((option, presets)) = foreign {
            return Err(Failure::input(format!("{option}: expected with --preset {presets}, found with another")));
        }
        let alpha = self.alpha.unwrap_or(1.0);
        let (preset, regularization, exponent) = match self.preset {
            Form::Ials => (Preset::Ials { unobserved: self.unobserved.unwrap_or(0.1) }, 0.003, 1.0),
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
            solver: if self.steps == 0 { Solver::Direct } else { Solver::Conjugate { steps: self.steps } },
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
    let split = loaded.leave_last_out()?;
    let (train, held_out) = (&split.train, &split.held_out);
    loaded.describe(path, held_out);
    let gpu = crate::open(arguments.adapter.as_deref()).map_err(crate::no_adapter)?;
    println!("adapter: {}", crate::describe(gpu.info()));
    let mut run = Run::open(arguments.out.as_deref(), "runs/wals", arguments.overwrite)?;
    let about = json!({
        "version": env!("CARGO_PKG_VERSION"), "data": path.display().to_string(), "adapter": crate::describe(gpu.info()),
        "interactions": train.len(), "held_out": held_out.len(), "users": loaded.users.len(), "items": loaded.items.len(),
        "dim": config.dim, "sweeps": config.sweeps, "preset": format!("{:?}", config.preset),
        "regularization": crate::shortest(config.regularization), "exponent": crate::shortest(config.exponent),
        "tolerance": config.tolerance, "seed": config.seed,
    });
    run.log(&json!({"event": "start", "run": about}))?;
    let mut stop = Stop::on_ctrl_c()?;
    let bar = progress::bar(2 * config.sweeps as u64, "{pos}/{len} halves of sweeps, {eta} left, {msg}");
    let start = Instant::now();
    let mut halves = Vec::new();
    let outcome = fit(&gpu, train, Values::of(&split.values), &config, &mut |event| {
        let logged = match event {
            Event::Within { progress } => {
                bar.set_message(format!("{} {:.0} %", progress.op, 100.0 * progress.share));
                Ok(())
            }
            Event::Solved { sweep, side, objective } => {
                bar.inc(1);
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
    let outcome = outcome?;
    let seconds = start.elapsed().as_secs_f64();
    let quality = Quality::measure(held_out, |users| recommend(&gpu, &outcome.model, train, users, TOP))?;
    run.log(&json!({"event": "end", "held_out": record(&quality), "seconds": seconds}))?;
    keep(&mut run, &loaded, &outcome.model, &about)?;
    if outcome.end == End::Stopped {
        println!(
            "stopped: the factors are those of {} whole sweeps and what was solved since",
            outcome.objectives.len()
        );
    }
    compare(&[("the factors", quality)], train, held_out);
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
