//! Factors of a matrix of interactions by weighted alternating least squares: users solved with items held, items with users held, each exactly.
//!
//! What was observed has a weight and a goal each, all that was not has one weight and the goal 0: see [`wals`]. The objective never rises.
//!
//! ```
//! # fn main() -> wgloss::Result<()> {
//! # let Ok(gpu) = wgloss::Gpu::new() else { return Ok(()) };
//! use wgloss::train::tables::{Interactions, recommend};
//! use wgloss::train::wals::{Config, fit};
//! // Users 0 to 3 take items 0 to 3, the others items 4 to 7; user 0 has not taken item 3 yet.
//! let pairs = (0..8u32).flat_map(|user| (0..4).map(move |item| (user, user / 4 * 4 + item)));
//! let (users, items) = pairs.filter(|&pair| pair != (0, 3)).unzip();
//! let data = Interactions::new(users, items, 8, 8)?;
//! let outcome = fit(&gpu, &data, None, &Config { dim: 4, ..Config::default() }, &mut |_| std::ops::ControlFlow::Continue(()))?;
//! assert_eq!(recommend(&gpu, &outcome.model, &data, &[0], 1)?, [3]);
//! # Ok(()) }
//! ```

use core::ops::ControlFlow;

use super::matrix::{Ids, Matrix};
use super::tables::{Interactions, Model};
use super::{End, patient};
use crate::{Error, Gpu, Progress, Random, Result, Watch, dot, linear, wals};

/// What an interaction of value v counts, and what all that was not observed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Preset {
    /// w₀ as given; an interaction adds (1 − s)² to what all pairs have, w₀ s², whatever its value: w = 1 + w₀, r = 1/(1 + w₀). The
    /// objective of Google's iALS but for a constant (Rendle, Krichene, Zhang and Koren 2022, arXiv:2110.14037).
    Ials {
        /// w₀, above 0.
        unobserved: f32,
    },
    /// w₀ = 1, w = 1 + α v, r = 1 (Hu, Koren and Volinsky 2008).
    Hu {
        /// α.
        alpha: f32,
    },
    /// w₀ = 1, w = α v, r = 1 for v > 0: what the library `implicit` computes.
    Implicit {
        /// α.
        alpha: f32,
    },
    /// w₀ = 0, w = 1, r = v: ratings (Zhou, Wilkinson, Schreiber and Pan 2008).
    Explicit,
}

impl Preset {
    /// w₀, and w and r where all observations have the same.
    pub fn options(&self) -> wals::Options {
        let default = wals::Options::default();
        match *self {
            Preset::Ials { unobserved } => {
                wals::Options { unobserved, weight: 1.0 + unobserved, goal: 1.0 / (1.0 + unobserved) }
            }
            Preset::Hu { .. } | Preset::Implicit { .. } => default,
            Preset::Explicit => wals::Options { unobserved: 0.0, ..default },
        }
    }

    /// w of an observation of value v, where it depends on it.
    pub fn weight(&self, value: f32) -> Option<f32> {
        match *self {
            Preset::Hu { alpha } => Some(1.0 + alpha * value),
            Preset::Implicit { alpha } => Some(alpha * value),
            Preset::Ials { .. } | Preset::Explicit => None,
        }
    }

    /// r of an observation of value v, where it depends on it.
    pub fn goal(&self, value: f32) -> Option<f32> {
        (*self == Preset::Explicit).then_some(value)
    }
}

/// How the rows of one side are solved with the other held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Solver {
    /// Exactly, by Cholesky: a matrix of D × D for each row.
    Direct,
    /// From what the row was, by conjugate gradients in the basis where the other side's Gramian is diagonal.
    Conjugate {
        /// How many.
        steps: usize,
    },
}

/// How to fit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Config {
    /// Width of a factor.
    pub dim: usize,
    /// Times that users and items are solved.
    pub sweeps: usize,
    /// The objective.
    pub preset: Preset,
    /// λ.
    pub regularization: f32,
    /// How rows are solved.
    pub solver: Solver,
    /// ν: a row of n observations has λ (n + w₀ · rows of the other side)^ν.
    pub exponent: f32,
    /// The fit ends once a sweep lowers the objective by less than this share of it; 0: after all sweeps.
    pub tolerance: f64,
    /// Items start uniform in ± this/√dim.
    pub start: f32,
    /// Decides the start.
    pub seed: u64,
}

impl Default for Config {
    /// 64 wide, 16 sweeps of Google's iALS with w₀ 0.1, λ 0.003 and ν 1.
    fn default() -> Self {
        let preset = Preset::Ials { unobserved: 0.1 };
        Config {
            dim: 64,
            sweeps: 16,
            preset,
            regularization: 0.003,
            solver: Solver::Conjugate { steps: 3 },
            exponent: 1.0,
            tolerance: 0.0,
            start: 0.1,
            seed: 1,
        }
    }
}

impl Config {
    /// Refuses what cannot be fitted; [`fit`] asks first.
    ///
    /// # Errors
    /// [`Error::Option`] names the option, its range and its value.
    pub fn check(&self) -> Result<()> {
        let refuse = |option, expected, found: String| Err(Error::Option { op: "wals", option, expected, found });
        let at_least_0 = |value: f32| value.is_finite() && value >= 0.0;
        if self.dim == 0 {
            return refuse("dim", "at least 1", "0".into());
        }
        match self.preset {
            Preset::Ials { unobserved } if !(unobserved > 0.0 && unobserved.is_finite()) => {
                return refuse("unobserved", "a number above 0", unobserved.to_string());
            }
            Preset::Hu { alpha } | Preset::Implicit { alpha } if !at_least_0(alpha) => {
                return refuse("alpha", "a number of at least 0", alpha.to_string());
            }
            _ => {}
        }
        for (option, value) in
            [("regularization", self.regularization), ("exponent", self.exponent), ("start", self.start)]
        {
            if !at_least_0(value) {
                return refuse(option, "a number of at least 0", value.to_string());
            }
        }
        match self.tolerance.is_finite() && self.tolerance >= 0.0 {
            true => Ok(()),
            false => refuse("tolerance", "a number of at least 0", self.tolerance.to_string()),
        }
    }
}

/// Users or items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Users.
    Users,
    /// Items.
    Items,
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

/// One side of the matrix on the device.
struct Half {
    rows: wals::Rows,
    items: Ids,
    weights: Option<Matrix>,
    goals: Option<Matrix>,
    ridge: Matrix,
    ridge_host: Vec<f32>,
    factor: Matrix,
    /// In the basis of its Gramian, for [`Solver::Conjugate`].
    turned: Option<Turned>,
    gramian: Matrix,
    gramian_host: Vec<f32>,
    squares: Matrix,
    loss: Matrix,
}

impl Half {
    /// Interaction e is of row `own[e]` of `count` with row `other[e]` of `other_count`.
    fn new(
        gpu: &Gpu,
        own: &[u32],
        other: &[u32],
        [count, other_count]: [usize; 2],
        values: &[f32],
        config: &Config,
    ) -> Result<Half> {
        let mut starts = vec![0u32; count + 1];
        own.iter().for_each(|&row| starts[row as usize + 1] += 1);
        (0..count).for_each(|row| starts[row + 1] += starts[row]);
        let mut next = starts.clone();
        let mut order = vec![0usize; own.len()];
        for (e, &row) in own.iter().enumerate() {
            order[next[row as usize] as usize] = e;
            next[row as usize] += 1;
        }
        let items: Vec<u32> = order.iter().map(|&e| other[e]).collect();
        let value = |e: usize| values.get(e).copied().unwrap_or(1.0);
        let numbers = |of: &dyn Fn(f32) -> Option<f32>| -> Result<Option<Matrix>> {
            let numbers: Option<Vec<f32>> = order.iter().map(|&e| of(value(e))).collect();
            numbers.filter(|numbers| !numbers.is_empty()).map(|numbers| Matrix::of(gpu, &numbers, 1)).transpose()
        };
        let all = config.preset.options().unobserved * other_count as f32;
        let ridge = |pair: &[u32]| config.regularization * ((pair[1] - pair[0]) as f32 + all).powf(config.exponent);
        let ridge_host: Vec<f32> = starts.windows(2).map(ridge).collect();
        let rows = wals::Rows::new(gpu, &starts, config.dim)?;
        Ok(Half {
            loss: Matrix::new(gpu, rows.pieces(), 1)?,
            rows,
            items: Ids::of(gpu, &items)?,
            weights: numbers(&|value| config.preset.weight(value))?,
            goals: numbers(&|value| config.preset.goal(value))?,
            ridge: Matrix::of(gpu, &ridge_host, 1)?,
            ridge_host,
            factor: Matrix::new(gpu, count, config.dim)?,
            turned: None,
            gramian_host: Vec::new(),
            gramian: Matrix::new(gpu, config.dim, config.dim)?,
            squares: Matrix::new(gpu, count, 1)?,
        })
    }

    /// Items with their factors, that nothing is solved for.
    fn held(gpu: &Gpu, factors: &[f32], data: &Interactions, config: &Config) -> Result<Half> {
        let half = Half::new(gpu, &[], &[], [data.item_count, data.user_count], &[], config)?;
        gpu.write(half.factor.view()?, factors)?;
        Ok(half)
    }

    /// Computes the Gramian.
    fn measure(&mut self, gpu: &Gpu) -> Result<()> {
        gpu.run(|recorder| wals::gramian(recorder, self.factor.view()?, self.gramian.view()?))?;
        self.gramian_host = gpu.read(self.gramian.view()?)?;
        Ok(())
    }

    /// Finds the basis of the Gramian.
    fn turn(&mut self, gpu: &Gpu, dim: usize) -> Result<()> {
        let [vectors, values] = wals::eigen(&self.gramian_host, dim);
        let turned = match self.turned.take() {
            Some(turned) => turned,
            None => Turned {
                factor: Matrix::new(gpu, self.factor.rows, dim)?,
                vectors: Matrix::new(gpu, dim, dim)?,
                values: Matrix::new(gpu, 1, dim)?,
            },
        };
        gpu.write(turned.vectors.view()?, &vectors)?;
        gpu.write(turned.values.view()?, &values)?;
        self.turned = Some(turned);
        Ok(())
    }

    fn observed(&self) -> Result<wals::Observed<'_>> {
        Ok(wals::Observed {
            rows: &self.rows,
            items: self.items.view()?,
            weights: self.weights.as_ref().map(Matrix::view).transpose()?,
            goals: self.goals.as_ref().map(Matrix::view).transpose()?,
        })
    }
}

/// Factors in a basis, and the basis.
struct Turned {
    factor: Matrix,
    vectors: Matrix,
    values: Matrix,
}

impl Turned {
    fn basis(&self) -> Result<wals::Basis<'_>> {
        Ok(wals::Basis { vectors: self.vectors.view()?, values: self.values.view()? })
    }
}

/// The users' half for factors of the items [items, dim], and the values, none for ones, once all of it is checked.
fn users_of<'v>(
    gpu: &Gpu,
    items: &[f32],
    data: &Interactions,
    values: Option<&'v [f32]>,
    config: &Config,
) -> Result<(Half, &'v [f32])> {
    config.check()?;
    let refuse = |what: &str, expected, found| Err(Error::Data { what: what.into(), expected, found });
    let numbers = data.item_count * config.dim;
    if items.len() != numbers || items.iter().any(|value| !value.is_finite()) {
        let expected = format!("{numbers} numbers, {} x {}, all finite", data.item_count, config.dim);
        return refuse("the factors of the items", expected, format!("{} of them", items.len()));
    }
    let values = values.unwrap_or_default();
    if !values.is_empty() && values.len() != data.len() {
        return refuse("values", format!("as many as interactions, {}", data.len()), values.len().to_string());
    }
    if let Some(at) = values.iter().position(|value| !(value.is_finite() && *value >= 0.0)) {
        return refuse("values", "numbers of at least 0".into(), format!("{} in interaction {at}", values[at]));
    }
    let counts = [data.user_count, data.item_count];
    Ok((Half::new(gpu, &data.users, &data.items, counts, values, config)?, values))
}

/// Fits factors to `data`, of which interaction e has the value `values[e]`, or 1 without.
///
/// `watch` sees every [`Event`] and can end the fit. The same seed on the same device gives the same bits.
///
/// # Errors
/// [`Error::Option`] for a configuration out of range; [`Error::Data`] for values that are no number of at least 0 or not as many as interactions, and
/// for a row that its data and λ do not determine; any error of the device.
pub fn fit(
    gpu: &Gpu,
    data: &Interactions,
    values: Option<&[f32]>,
    config: &Config,
    watch: &mut dyn FnMut(Event) -> ControlFlow<()>,
) -> Result<Outcome> {
    let mut random = Random::new(config.seed, 0);
    let scale = config.start / (config.dim as f32).sqrt();
    let start: Vec<f32> = (0..data.item_count * config.dim).map(|_| scale * (2.0 * random.uniform() - 1.0)).collect();
    fit_from(gpu, &start, data, values, config, watch)
}

/// The users that `data` is of, solved with `items` [items, dim] held: factors [users, dim] of users that a fit did not know, or who have
/// taken more since. For new items hand in users' factors and the interactions the other way round.
///
/// # Errors
/// As [`fit`]; [`Error::Data`] for factors of another size.
pub fn fold_in(
    gpu: &Gpu,
    items: &[f32],
    data: &Interactions,
    values: Option<&[f32]>,
    config: &Config,
) -> Result<Vec<f32>> {
    let (mut users, _) = users_of(gpu, items, data, values, config)?;
    let mut items = Half::held(gpu, items, data, config)?;
    items.measure(gpu)?;
    half(gpu, Side::Users, &mut users, &mut items, config, &mut |_| ControlFlow::Continue(()))?;
    gpu.read(users.factor.view()?)
}

/// As [`fit`], from factors of the items [items, dim] that are there: those of an earlier fit, with new interactions, need few sweeps more.
///
/// # Errors
/// As [`fit`]; [`Error::Data`] for factors of another size.
pub fn fit_from(
    gpu: &Gpu,
    start: &[f32],
    data: &Interactions,
    values: Option<&[f32]>,
    config: &Config,
    watch: &mut dyn FnMut(Event) -> ControlFlow<()>,
) -> Result<Outcome> {
    let (mut users, values) = users_of(gpu, start, data, values, config)?;
    let mut items = Half::new(gpu, &data.items, &data.users, [data.item_count, data.user_count], values, config)?;
    gpu.write(items.factor.view()?, start)?;
    let mut objectives = Vec::new();
    let mut end = End::Finished;
    items.measure(gpu)?;
    'sweeps: for sweep in 1..=config.sweeps {
        let mut last = f64::NAN;
        for side in [Side::Users, Side::Items] {
            let (own, held) = match side {
                Side::Users => (&mut users, &mut items),
                Side::Items => (&mut items, &mut users),
            };
            match half(gpu, side, own, held, config, &mut patient(|progress| watch(Event::Within { progress }))) {
                Err(Error::Cancelled { .. }) => {
                    end = End::Stopped;
                    break 'sweeps;
                }
                objective => last = objective?,
            }
            if watch(Event::Solved { sweep, side, objective: last }).is_break() {
                end = End::Stopped;
                break 'sweeps;
            }
        }
        let before = objectives.last().copied();
        objectives.push(last);
        if before.is_some_and(|before| before - last < config.tolerance * before) {
            break;
        }
    }
    let model =
        Model { users: gpu.read(users.factor.view()?)?, items: gpu.read(items.factor.view()?)?, dim: config.dim };
    Ok(Outcome { model, objectives, end })
}

/// Solves `own` with `held`; the objective then.
fn half(gpu: &Gpu, side: Side, own: &mut Half, held: &mut Half, config: &Config, watch: Watch) -> Result<f64> {
    let options = config.preset.options();
    if let Solver::Conjugate { .. } = config.solver {
        held.turn(gpu, config.dim)?;
    }
    gpu.run_watched(
        |recorder| {
            let (x, y, ridge, observed) = (own.factor.view()?, held.factor.view()?, own.ridge.view()?, own.observed()?);
            let loss = own.loss.view()?;
            match (config.solver, &held.turned) {
                (Solver::Conjugate { steps }, Some(turned)) => {
                    let basis = turned.basis()?;
                    linear::forward(recorder, y, basis.vectors, None, turned.factor.view()?)?;
                    wals::refine(recorder, turned.factor.view()?, observed, basis, ridge, x, loss, steps, options)?;
                }
                _ => {
                    wals::solve(recorder, y, observed, held.gramian.view()?, ridge, x, options)?;
                    wals::objective(recorder, x, y, observed, ridge, loss, options)?;
                }
            }
            wals::gramian(recorder, x, own.gramian.view()?)?;
            dot::forward(recorder, y, y, held.squares.view()?)
        },
        watch,
    )?;
    let parts = gpu.read(own.loss.view()?)?;
    if let Some(piece) = parts.iter().position(|part| !part.is_finite()) {
        let name = if side == Side::Users { "user" } else { "item" };
        return Err(Error::Data {
            what: format!("the observations of {name} {}", own.rows.row_of(piece)),
            expected: "such that they and the regularization determine its factor".into(),
            found: "a system that is singular or not finite; a larger regularization helps".into(),
        });
    }
    own.gramian_host = gpu.read(own.gramian.view()?)?;
    let wide = |values: &[f32]| values.iter().map(|&value| f64::from(value)).collect::<Vec<_>>();
    let [x, y] = [&own.gramian_host, &held.gramian_host].map(|numbers| wide(numbers));
    // `refine` has all pairs in its rows' parts.
    let pairs: f64 = match config.solver {
        Solver::Direct => x.iter().zip(&y).map(|(x, y)| x * y).sum(),
        Solver::Conjugate { .. } => 0.0,
    };
    let squares = wide(&gpu.read(held.squares.view()?)?);
    let of_held: f64 = squares.iter().zip(&held.ridge_host).map(|(square, &ridge)| square * f64::from(ridge)).sum();
    Ok(wide(&parts).iter().sum::<f64>() + f64::from(options.unobserved) * pairs + of_held)
}
