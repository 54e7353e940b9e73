//! Factors of a matrix of interactions by weighted alternating least squares: users are solved with the items held
//! fixed, then items with the users held fixed, exactly or by a few steps.
//!
//! Each observed pair has a weight and a goal. All unobserved pairs have one weight and the goal 0: see
//! [`wals`](crate::wals). The objective never rises by more than its rounding error, which includes that of 16-bit
//! factors.
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

/// A side of the matrix of interactions.
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
    /// Progress of a half of a sweep that takes long; sent about once a second.
    Within {
        /// How far the half of a sweep has come.
        progress: Progress,
    },
    /// One side has been solved.
    Solved {
        /// The number of the sweep, from 1.
        sweep: usize,
        /// The side that was solved.
        side: Side,
        /// The objective, summed in f64.
        objective: f64,
    },
}

/// The result of a fit.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The factors.
    pub model: Model,
    /// The objective after each sweep.
    pub objectives: Vec<f64>,
    /// Why the fit ended.
    pub end: End,
}

/// Values of the interactions, and weights of users and items.
#[derive(Debug, Clone, Copy, Default)]
pub struct Values<'a> {
    /// v of each interaction. Absent: 1.
    pub pairs: Option<&'a [f32]>,
    /// R of each user, for [`Preset::Tf`]. Absent: 1.
    pub users: Option<&'a [f32]>,
    /// C of each item, for [`Preset::Tf`]. Absent: 1.
    pub items: Option<&'a [f32]>,
}

impl<'a> Values<'a> {
    /// Values of the interactions alone.
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

/// Checks data, values, configuration and start.
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
/// `watch` receives every [`Event`] and can end the fit. The same seed on the same device gives the same bits. A pair
/// that occurs twice counts twice as observed, and the unobserved pairs count one too few; merge such pairs first.
///
/// # Errors
/// [`Error::Option`] for a configuration out of range; [`Error::Data`] for values that the preset does not allow, that
/// have the wrong number, or whose weights exceed f32; [`Error::Undetermined`] for a row that its data and λ do not
/// determine; any error of the device.
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

/// Solves the users of `data` with `items` [items, dim] held fixed and returns their factors [users, dim].
///
/// For users that a fit did not know, or who have taken more items since. For new items, pass the factors of the users
/// as `items`, and the interactions with users and items swapped. [`Solver::Conjugate`] takes at least 16 steps,
/// because the factors start at 0.
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

/// With this many steps the factors of new users agree with an exact solution to four digits, on the data of the tests.
const STEPS_FROM_NOTHING: usize = 16;

/// Like [`fit`], but starts from existing factors. With the factors of an earlier fit and new interactions a few sweeps
/// suffice. If `start.users` is empty, the users' factors start at 0.
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
