//! The course of a fit: sweeps, what is measured between them, and the best factors.

use std::time::Instant;

use serde_json::json;
use wgloss::Gpu;
use wgloss::train::tables::{End, Model, Quality, recommend};
use wgloss::train::wals::{Config, Event, Outcome, Preset, Values, fit, fit_from, fold_in};

use super::Arguments;
use crate::failure::Failure;
use crate::interactions::{New, Split};
use crate::progress;
use crate::quality::record;
use crate::run::Run;
use crate::stop::Stop;

/// The data and settings with which a fit is measured.
pub struct Measuring<'a> {
    pub gpu: &'a Gpu,
    pub split: &'a Split,
    pub config: &'a Config,
    pub at: Vec<usize>,
}

impl Measuring<'_> {
    /// Solves the users that the fit has not seen, if any, and measures the recommendations of held-out items.
    fn of(&self, model: &mut Model) -> Result<Vec<Quality>, wgloss::Error> {
        let mut known = &self.split.train;
        if let Some(New { users, known: own, values }) = &self.split.new {
            let folded = fold_in(self.gpu, &model.items, own, Values::of(values), self.config)?;
            let rows = folded.chunks(model.dim).zip(model.users.chunks_mut(model.dim));
            rows.zip(users).filter(|(_, is_new)| **is_new).for_each(|((folded, row), _)| row.copy_from_slice(folded));
            known = own;
        }
        let Some(held_out) = self.split.measured() else { return Ok(Vec::new()) };
        Quality::measure(held_out, &self.at, |users, k| recommend(self.gpu, model, known, users, k))
    }

    /// Runs the fit and measures it after some sweeps or at its end.
    ///
    /// `kept` writes factors as the fit goes on: the first ones measured, and each that measures better. Returns
    /// nothing if the fit is stopped in its first sweep.
    pub fn course(
        &self,
        arguments: &Arguments,
        values: Values,
        mut start: Option<Model>,
        run: &mut Run,
        kept: impl Fn(&mut Run, &Model) -> Result<(), Failure>,
        of_rows: impl Fn(wgloss::Error) -> Failure,
    ) -> Result<Option<Course>, Failure> {
        let Measuring { gpu, split, config, .. } = *self;
        let every = arguments.measure_every.map_or(config.sweeps, |every| every as usize);
        let mut stop = Stop::on_ctrl_c()?;
        let length = (config.sweeps as u64).saturating_mul(2);
        let bar = progress::bar(length, "{pos}/{len} halves of sweeps, {eta} left, {msg}");
        let (mut halves, mut measured, mut share, mut seconds) = (Vec::new(), Vec::new(), 0.0f64, 0.0);
        let (mut objectives, mut best) = (Vec::<f64>::new(), None::<Found>);
        let (end, why) = loop {
            let (done, clock) = (objectives.len(), Instant::now());
            let mut watch = |event| {
                let logged = match event {
                    Event::Within { progress } => {
                        share = progress.share.max(share); // the solving of rows comes first and takes longest
                        bar.set_message(format!("{:.0} % of this half", 100.0 * share));
                        Ok(())
                    }
                    Event::Solved { sweep, side, objective } => {
                        bar.inc(1);
                        share = 0.0;
                        halves.push(objective);
                        bar.set_message(format!("objective {objective:.6e}"));
                        let (side, sweep) = (format!("{side:?}").to_lowercase(), done + sweep);
                        run.log(&json!({"event": "solved", "sweep": sweep, "side": side, "objective": objective}))
                    }
                };
                stop.after(logged)
            };
            let part = Config { sweeps: every.min(config.sweeps - done), ..*config };
            let outcome = match &start {
                Some(start) => fit_from(gpu, start, &split.train, values, &part, &mut watch),
                None => fit(gpu, &split.train, values, &part, &mut watch),
            };
            seconds += clock.elapsed().as_secs_f64();
            if stop.has_failed() {
                break (End::Stopped, STOPPED);
            }
            let Outcome { mut model, objectives: of_part, end } = outcome.map_err(&of_rows)?;
            objectives.extend(&of_part);
            let sweep = objectives.len();
            if of_part.is_empty() || (end == End::Stopped && best.is_some()) {
                break (end, STOPPED); // not measured: the sweeps since the last measurement are incomplete
            }
            let by_less = |pair: &[f64]| config.tolerance > 0.0 && pair[0] - pair[1] < config.tolerance * pair[0];
            let ends_early = objectives[done.saturating_sub(1)..].windows(2).any(by_less);
            let why = match end {
                End::Stopped => Some(STOPPED),
                _ if sweep == config.sweeps => Some("--sweeps"),
                _ => (of_part.len() < part.sweeps || ends_early).then_some("--tolerance"),
            };
            // Cloned before measuring, which solves the users that the fit has not seen and writes their rows.
            start = why.is_none().then(|| model.clone());
            if best.is_none() {
                kept(run, &model)?; // nothing is lost if measuring fails
            }
            bar.set_message("measuring");
            let quality = self.of(&mut model).map_err(&of_rows)?;
            // With other presets the factors are pulled towards the values of all other pairs, so they do not predict
            // weights.
            let distance = if config.preset == Preset::Explicit { split.distance(&model) } else { None };
            let rmse = distance.map(|[rmse, _]| rmse);
            if arguments.measure_every.is_some() {
                run.log(&json!({"event": "measured", "sweep": sweep, "held_out": record(&quality), "rmse": rmse}))?;
                measured.extend(rmse.or(quality.first().map(|quality| quality.recall)).map(|value| (sweep, value)));
            }
            let found = Found { model, quality, distance, sweep, is_partial: end == End::Stopped };
            if best.as_ref().is_none_or(|best| found.is_better(best)) {
                if best.is_some() || split.new.is_some() {
                    kept(run, &found.model)?;
                }
                best = Some(found);
            }
            let in_vain = best.as_ref().map_or(0, |best| (sweep - best.sweep).div_ceil(every));
            let is_patient = arguments.patience.is_none_or(|patience| in_vain < patience as usize);
            if let Some(why) = why.or((!is_patient).then_some("--patience")) {
                break (end, why);
            }
        };
        bar.finish_and_clear();
        stop.failure()?;
        Ok(best.map(|best| Course { best, objectives, halves, measured, seconds, end, why }))
    }
}

/// The result of a fit.
pub struct Course {
    pub best: Found,
    /// The objective after each sweep, and after each half of one.
    pub objectives: Vec<f64>,
    pub halves: Vec<f64>,
    /// The sweeps after which the fit was measured, each with the recall at the first length; with explicit, the RMSE.
    pub measured: Vec<(usize, f64)>,
    /// Seconds that the fit took, without measuring.
    pub seconds: f64,
    pub end: End,
    /// The option that ended the fit, or [`STOPPED`].
    pub why: &'static str,
}

/// Factors, and their quality.
pub struct Found {
    pub model: Model,
    pub quality: Vec<Quality>,
    /// The RMSE of the held-out weights: of the predictions, and of the mean as the prediction.
    pub distance: Option<[f64; 2]>,
    /// The number of whole sweeps.
    pub sweep: usize,
    /// Whether the factors also include a part of the next sweep.
    pub is_partial: bool,
}

impl Found {
    fn is_better(&self, other: &Found) -> bool {
        if let (Some([own, _]), Some([others, _])) = (self.distance, other.distance) {
            return own < others;
        }
        let of = |found: &Found| found.quality.first().map_or((0.0, 0.0), |quality| (quality.recall, quality.ndcg));
        of(self) > of(other)
    }
}

/// The end of a fit that was stopped, where other ends are named by an option.
pub const STOPPED: &str = "stopped";
