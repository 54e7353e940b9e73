//! Factors of a matrix of interactions by weighted alternating least squares: users solved with items held, items with users held, exactly or by a few steps
//! towards it.
//!
//! What was observed has a weight and a goal each, all that was not has one weight and the goal 0: see [`wals`](crate::wals). The objective never rises by more
//! than its rounding, that of 16-bit factors included.
//!
//! ```
//! # fn main() -> wgloss::Result<()> {
//! # let Ok(gpu) = wgloss::Gpu::new() else { return Ok(()) };
//! use wgloss::train::tables::{Interactions, recommend};
//! use wgloss::train::wals::{Config, Values, fit};
//! // Users 0 to 3 take items 0 to 3, the others items 4 to 7; user 0 has not taken item 3 yet.
//! let pairs = (0..8u32).flat_map(|user| (0..4).map(move |item| (user, user / 4 * 4 + item)));
//! let (users, items) = pairs.filter(|&pair| pair != (0, 3)).unzip();
//! let data = Interactions::new(users, items, 8, 8)?;
//! let outcome = fit(&gpu, &data, Values::default(), &Config { dim: 4, ..Config::default() }, &mut |_| std::ops::ControlFlow::Continue(()))?;
//! assert_eq!(recommend(&gpu, &outcome.model, &data, &[0], 1)?, [3]);
//! # Ok(()) }
//! ```

use core::ops::ControlFlow;

mod config;
mod half;

pub use config::{Config, Preset, Solver};

use half::{Half, solve};

use super::tables::{Interactions, Model};
use super::{End, patient};
use crate::{Error, Gpu, Progress, Result};

/// Users or items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Users.
    Users,
    /// Items.
    Items,
}

impl Side {
    fn one(self) -> &'static str {
        if self == Side::Users { "user" } else { "item" }
    }
}

/// What [`fit`] reports while it runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Event {
    /// A half of a sweep takes long; told about once a second.
    Within {
        /// How far it has come.
        progress: Progress,
    },
    /// One side has been solved.
    Solved {
        /// The sweep, from 1.
        sweep: usize,
        /// Which.
        side: Side,
        /// The objective, summed in f64.
        objective: f64,
    },
}

/// What came of a fit.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The factors.
    pub model: Model,
    /// The objective after each sweep.
    pub objectives: Vec<f64>,
    /// Why it ended.
    pub end: End,
}

/// What interactions are worth.
#[derive(Debug, Clone, Copy, Default)]
pub struct Values<'a> {
    /// v of each; 1 without.
    pub pairs: Option<&'a [f32]>,
    /// R of each user, for [`Preset::Tf`]; 1 without.
    pub users: Option<&'a [f32]>,
    /// C of each item, for [`Preset::Tf`]; 1 without.
    pub items: Option<&'a [f32]>,
}

impl<'a> Values<'a> {
    /// Of the interactions alone.
    pub fn of(pairs: &'a [f32]) -> Self {
        Values { pairs: Some(pairs), ..Values::default() }
    }

    fn check(&self, data: &Interactions, preset: Preset) -> Result<()> {
        let all = [
            ("values", self.pairs, data.len(), "interaction", preset.takes_negative()),
            ("the weights of users", self.users, data.user_count, "user", false),
            ("the weights of items", self.items, data.item_count, "item", false),
        ];
        for (what, values, count, one, any_sign) in all {
            let refuse = |expected, found| Err(Error::Data { what: what.into(), expected, found });
            let Some(values) = values else { continue };
            if values.len() != count {
                return refuse(format!("one for each {one}, {count}"), values.len().to_string());
            }
            if let Some(at) = values.iter().position(|value| !(value.is_finite() && (any_sign || *value >= 0.0))) {
                let expected = if any_sign { "finite numbers" } else { "numbers of at least 0" };
                return refuse(expected.into(), format!("{} for {one} {at}", values[at]));
            }
        }
        Ok(())
    }
}

/// Refuses what cannot be fitted.
fn check(data: &Interactions, values: Values, config: &Config, start: &Model) -> Result<()> {
    config.check()?;
    values.check(data, config.preset)?;
    if start.dim != config.dim {
        let found = start.dim.to_string();
        return Err(Error::Option { op: "wals", option: "dim", expected: "that of the factors at the start", found });
    }
    let user_count = if start.users.is_empty() { 0 } else { data.user_count };
    for (side, factors, rows) in [("items", &start.items, data.item_count), ("users", &start.users, user_count)] {
        let numbers = rows.saturating_mul(config.dim);
        if factors.len() != numbers || factors.iter().any(|value| !value.is_finite()) {
            return Err(Error::Data {
                what: format!("the factors of the {side}"),
                expected: format!("{numbers} numbers, {rows} x {}, all finite", config.dim),
                found: format!("{} of them", factors.len()),
            });
        }
    }
    Ok(())
}

/// Fits factors to `data`.
///
/// `watch` sees every [`Event`] and can end the fit. The same seed on the same device gives the same bits. A pair that occurs twice counts twice, and all that was
/// not observed once too seldom: join such pairs first.
///
/// # Errors
/// [`Error::Option`] for a configuration out of range; [`Error::Data`] for values that the preset does not take, that are not as many as there should be or whose
/// weights no f32 holds; [`Error::Undetermined`] for a row that its data and λ do not determine; any error of the device.
pub fn fit(
    gpu: &Gpu,
    data: &Interactions,
    values: Values,
    config: &Config,
    watch: &mut dyn FnMut(Event) -> ControlFlow<()>,
) -> Result<Outcome> {
    config.check()?;
    let numbers = data.item_count.saturating_mul(config.dim);
    let (needed, limit) = ((numbers as u64).saturating_mul(config.storage.bytes()), gpu.limits().max_buffer_size);
    if needed > limit {
        return Err(Error::Limit { what: "the factors of the items".into(), needed, unit: "bytes", limit });
    }
    let start = Model { users: Vec::new(), items: config.drawn(data.item_count), dim: config.dim };
    fit_from(gpu, &start, data, values, config, watch)
}

/// The users that `data` is of, solved with `items` [items, dim] held: factors [users, dim] of users that a fit did not know, or who have
/// taken more since. For new items hand in users' factors and the interactions the other way round. Steps of [`Solver::Conjugate`] are at least 16, since
/// they begin at 0.
///
/// # Errors
/// As [`fit`]; [`Error::Data`] for factors of another size.
pub fn fold_in(gpu: &Gpu, items: &[f32], data: &Interactions, values: Values, config: &Config) -> Result<Vec<f32>> {
    let start = Model { users: Vec::new(), items: items.to_vec(), dim: config.dim };
    check(data, values, config, &start)?;
    let solver = match config.chosen(values) {
        Solver::Conjugate { steps } => Solver::Conjugate { steps: steps.max(STEPS_FROM_NOTHING) },
        Solver::Direct => Solver::Direct,
    };
    let mut users = Half::new(gpu, Side::Users, data, values, config)?;
    let nothing = Interactions::new(Vec::new(), Vec::new(), data.user_count, data.item_count)?;
    let mut items = Half::new(gpu, Side::Items, &nothing, Values::default(), config)?;
    items.begin(gpu, &start.items)?;
    solve(gpu, &mut users, &mut items, config, solver, &mut |_| ControlFlow::Continue(()))?;
    users.read(gpu)
}

/// With these the factors of new users are those of a direct solution to four digits, on the data of the tests.
const STEPS_FROM_NOTHING: usize = 16;

/// As [`fit`], from factors that are there: those of an earlier fit, with new interactions, need few sweeps more. Without users' they begin at 0.
///
/// # Errors
/// As [`fit`]; [`Error::Data`] for factors of another size.
pub fn fit_from(
    gpu: &Gpu,
    start: &Model,
    data: &Interactions,
    values: Values,
    config: &Config,
    watch: &mut dyn FnMut(Event) -> ControlFlow<()>,
) -> Result<Outcome> {
    check(data, values, config, start)?;
    let solver = config.chosen(values);
    let mut users = Half::new(gpu, Side::Users, data, values, config)?;
    let mut items = Half::new(gpu, Side::Items, data, values, config)?;
    if !start.users.is_empty() {
        users.begin(gpu, &start.users)?;
    }
    items.begin(gpu, &start.items)?;
    let mut objectives = Vec::new();
    let mut end = End::Finished;
    'sweeps: for sweep in 1..=config.sweeps {
        let mut last = f64::NAN;
        for side in [Side::Users, Side::Items] {
            let (own, held) = match side {
                Side::Users => (&mut users, &mut items),
                Side::Items => (&mut items, &mut users),
            };
            match solve(gpu, own, held, config, solver, &mut patient(|progress| watch(Event::Within { progress }))) {
                Err(Error::Cancelled { .. }) => {
                    end = End::Stopped;
                    break 'sweeps;
                }
                objective => last = objective?,
            }
            if watch(Event::Solved { sweep, side, objective: last }).is_break() {
                end = End::Stopped;
                if side == Side::Items {
                    objectives.push(last);
                }
                break 'sweeps;
            }
        }
        let before = objectives.last().copied();
        objectives.push(last);
        let ends_early = |before: f64| config.tolerance > 0.0 && before - last < config.tolerance * before;
        if before.is_some_and(ends_early) {
            break;
        }
    }
    let model = Model { users: users.read(gpu)?, items: items.read(gpu)?, dim: config.dim };
    Ok(Outcome { model, objectives, end })
}
