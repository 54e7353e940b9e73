use super::Values;
use crate::{Error, Random, Result, Storage, wals};

/// Weights and goals: what an observed interaction of value v counts, and what an unobserved pair counts.
///
/// w, r, w₀ and s are those of [`wals`](crate::wals): weight and goal of an observed pair, weight of all other pairs,
/// and score ⟨x_u, y_i⟩.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Preset {
    /// w₀ as given, w = 1 + w₀, r = 1/(1 + w₀), whatever v is. Every pair then counts w₀ s², and an interaction adds (1
    /// − s)². This is the objective of Google's iALS up to a constant (Rendle, Krichene, Zhang and Koren 2022,
    /// arXiv:2110.14037).
    Ials {
        /// w₀, above 0.
        unobserved: f32,
    },
    /// w₀ = 1, w = 1 + α v, r = 1 if v is above 0, else 0 (Hu, Koren and Volinsky 2008).
    Hu {
        /// α, at least 0.
        alpha: f32,
    },
    /// w₀ = 1, w = α |v|, r = 1 if v is above 0, else 0. A negative v is thus a dislike. Same as the library
    /// `implicit`.
    Implicit {
        /// α, at least 0.
        alpha: f32,
    },
    /// w₀ as given, w = w₀ + R C with the user's R and the item's C from [`Values`](super::Values), r = v. Same as
    /// TensorFlow's `WALSModel`.
    Tf {
        /// w₀, at least 0.
        unobserved: f32,
    },
    /// w₀ = 0, w = 1, r = v, for ratings (Zhou, Wilkinson, Schreiber and Pan 2008).
    Explicit,
}

impl Preset {
    /// w₀; also w and r, if they are the same for all observations.
    pub fn options(&self) -> wals::Options {
        let default = wals::Options::default();
        match *self {
            Preset::Ials { unobserved } => {
                wals::Options { unobserved, weight: 1.0 + unobserved, goal: 1.0 / (1.0 + unobserved) }
            }
            Preset::Hu { .. } | Preset::Implicit { .. } => default,
            Preset::Tf { unobserved } => wals::Options { unobserved, weight: 1.0 + unobserved, ..default },
            Preset::Explicit => wals::Options { unobserved: 0.0, ..default },
        }
    }

    /// w of an observation of value v, if w differs between observations. `of_both` is R C, the product of the weights
    /// of its user and its item.
    pub fn weight(&self, value: f32, of_both: Option<f32>) -> Option<f32> {
        match *self {
            Preset::Tf { unobserved } => of_both.map(|of_both| unobserved + of_both),
            Preset::Hu { alpha } => Some(1.0 + alpha * value),
            Preset::Implicit { alpha } => Some(alpha * value.abs()),
            Preset::Ials { .. } | Preset::Explicit => None,
        }
    }

    /// r of an observation of value v, if r depends on v.
    pub fn goal(&self, value: f32) -> Option<f32> {
        match self {
            Preset::Explicit | Preset::Tf { .. } => Some(value),
            Preset::Hu { .. } | Preset::Implicit { .. } => Some(f32::from(u8::from(value > 0.0))),
            Preset::Ials { .. } => None,
        }
    }

    /// Whether a negative v is allowed.
    pub fn takes_negative(&self) -> bool {
        matches!(self, Preset::Explicit | Preset::Tf { .. } | Preset::Implicit { .. })
    }
}

/// How the rows of one side are solved with the other side held fixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Solver {
    /// Exactly, by Cholesky. A row of n observations takes n D² + D³/6 multiply-adds and a D × D matrix.
    Direct,
    /// Approximately, by conjugate gradients from the row's previous value.
    ///
    /// Up to D = 1,024 they run in the basis where the other side's Gramian is diagonal. A row of n observations takes
    /// 2 (steps + 1) n D multiply-adds, and 2 D² to change to the basis and back. The host finds the basis in D³ · 2
    /// ns: 2 s for D = 1,024. Wider rows do not change the basis; a row takes 2 (steps + 1) n D + (steps + 1) D²
    /// multiply-adds.
    Conjugate {
        /// Number of steps, from 1 to 1,000. Two steps from the result of the previous sweep lower the objective as
        /// fast as exact solutions do, unless observations are heavy: see [`Config::chosen`].
        steps: usize,
    },
}

/// How to fit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Config {
    /// Width of a factor, from 1 to 16,384.
    pub dim: usize,
    /// Number of sweeps, at least 1. A sweep solves the users and then the items.
    pub sweeps: usize,
    /// The weights and goals of the objective.
    pub preset: Preset,
    /// λ, the strength of the L2 regularization, before it is scaled with `exponent`; at least 0.
    pub regularization: f32,
    /// How rows are solved. Default: `None`, the solver of [`Config::chosen`].
    pub solver: Option<Solver>,
    /// How factors are stored. 16 bits per number halve the memory and the bytes read. With [`Solver::Conjugate`] the
    /// reported objective is then that of the rows before they are rounded.
    pub storage: Storage,
    /// ν: the λ of a row of n observations is λ (n + w₀ · rows of the other side)^ν.
    pub exponent: f32,
    /// The fit ends once a sweep lowers the objective by less than this share of the objective. 0: the fit runs all
    /// sweeps.
    pub tolerance: f64,
    /// Item factors start uniform in ± `start`/√dim. With [`Preset::Hu`] and [`Preset::Implicit`] they start between 0
    /// and `start`/√dim, as in the library `implicit`: compared with the symmetric start, the objective at the end is
    /// lower by a seventh on counts of plays, and within 4 % on ratings.
    pub start: f32,
    /// Seed of the start.
    pub seed: u64,
}

impl Default for Config {
    /// Width 64, 16 sweeps of Google's iALS with w₀ = 0.1, λ = 0.003 and ν = 1.
    fn default() -> Self {
        let preset = Preset::Ials { unobserved: 0.1 };
        Config {
            dim: 64,
            sweeps: 16,
            preset,
            regularization: 0.003,
            solver: None,
            storage: Storage::F32,
            exponent: 1.0,
            tolerance: 0.0,
            start: 0.1,
            seed: 1,
        }
    }
}

/// The widest factors: their Gramian takes 1 GB.
const WIDEST: usize = 16_384;
/// Most steps: a batch of rows is recorded with all its steps. More than D steps only correct rounding errors.
const MOST_STEPS: usize = 1000;
/// The widest factors for which a basis is found. The host takes some seconds for it in each half of a sweep, and eight
/// times as long for twice the width.
pub(super) const WIDEST_TURNED: usize = 1024;
/// With w₀ = 0, rows narrower than this are solved exactly.
const DIRECT_BELOW: usize = 128;
/// With observations too heavy for a few steps, rows narrower than this are solved exactly.
const HEAVY_BELOW: usize = 256;

impl Config {
    /// The solver: `solver` if set, otherwise by the table.
    ///
    /// The weight is Σ w²/Σ w over the observations, divided by w₀. For [`Preset::Tf`] it is estimated from the users'
    /// and items' weights: 1 + (Σ R²/Σ R)(Σ C²/Σ C)/w₀.
    ///
    /// | w₀ | D | weight | solver |
    /// |---|---|---|---|
    /// | 0 | below 128 | | [`Solver::Direct`] |
    /// | 0 | 128 or more | | 8 steps |
    /// | above 0 | above 1,024 | | 8 steps |
    /// | above 0 | up to 1,024 | up to 30 | 2 steps |
    /// | above 0 | up to 1,024 | up to 1,000 | 4 steps |
    /// | above 0 | up to 1,024 | up to 30,000 | 8 steps |
    /// | above 0 | below 256 | above 30,000 | [`Solver::Direct`] |
    /// | above 0 | 256 to 1,024 | above 30,000 | 16 steps |
    ///
    /// "Steps" are those of [`Solver::Conjugate`]. For weights up to 30,000, that many steps lower the objective as
    /// fast as exact solutions do, sweep for sweep: measured on ratings and on counts of plays with D = 64. On llvmpipe
    /// they took a third to a sixth of the time of exact solutions.
    pub fn chosen(&self, values: Values) -> Solver {
        if let Some(solver) = self.solver {
            return solver;
        }
        if self.preset.options().unobserved == 0.0 {
            return if self.dim < DIRECT_BELOW { Solver::Direct } else { Solver::Conjugate { steps: 8 } };
        }
        match self.weight_beside_all(values) {
            _ if self.dim > WIDEST_TURNED => Solver::Conjugate { steps: 8 },
            ..=30.0 => Solver::Conjugate { steps: 2 },
            ..=1e3 => Solver::Conjugate { steps: 4 },
            ..=3e4 => Solver::Conjugate { steps: 8 },
            _ if self.dim < HEAVY_BELOW => Solver::Direct,
            _ => Solver::Conjugate { steps: 16 },
        }
    }

    /// The weight of an observation relative to w₀: the mean weight Σ w²/Σ w, which heavy observations dominate,
    /// divided by w₀.
    fn weight_beside_all(&self, values: Values) -> f64 {
        let options = self.preset.options();
        let mean = |weights: &mut dyn Iterator<Item = f32>| {
            let [sum, squares] = weights.fold([0.0, 0.0], |[sum, squares], weight| {
                let weight = f64::from(weight);
                [sum + weight, squares + weight * weight]
            });
            if sum > 0.0 { squares / sum } else { 0.0 }
        };
        let of_side = |side: Option<&[f32]>| side.map_or(1.0, |weights| mean(&mut weights.iter().copied()));
        let weight = match (self.preset, values.pairs) {
            (Preset::Tf { unobserved }, _) => f64::from(unobserved) + of_side(values.users) * of_side(values.items),
            (preset, Some(pairs)) => {
                mean(&mut pairs.iter().map(|&value| preset.weight(value, None).unwrap_or(options.weight)))
            }
            (_, None) => options.weight.into(),
        };
        weight / f64::from(options.unobserved)
    }

    /// The item factors \[items, dim\] that [`fit`](super::fit) starts from. For items that an earlier fit did not
    /// know: append their rows to the factors of that fit and start [`fit_from`](super::fit_from) with them.
    pub fn drawn(&self, items: usize) -> Vec<f32> {
        let mut random = Random::new(self.seed, 0);
        let scale = self.start / (self.dim as f32).sqrt();
        let is_positive = matches!(self.preset, Preset::Hu { .. } | Preset::Implicit { .. });
        let of = |share: f32| if is_positive { share } else { 2.0 * share - 1.0 };
        (0..items.saturating_mul(self.dim)).map(|_| scale * of(random.uniform())).collect()
    }

    /// Checks the configuration. [`fit`](super::fit) calls it first.
    ///
    /// # Errors
    /// [`Error::Option`] names the option, its range and its value.
    pub fn check(&self) -> Result<()> {
        let refuse = |option, expected, found: String| Err(Error::Option { op: "wals", option, expected, found });
        let steps = if let Some(Solver::Conjugate { steps }) = self.solver { steps } else { 1 };
        let at_least_0 = |value: f32| value.is_finite() && value >= 0.0;
        for (option, expected, value, most) in [
            ("dim", "from 1 to 16384", self.dim, WIDEST),
            ("sweeps", "at least 1", self.sweeps, usize::MAX),
            ("steps", "from 1 to 1000", steps, MOST_STEPS),
        ] {
            if value == 0 || value > most {
                return refuse(option, expected, value.to_string());
            }
        }
        match self.preset {
            Preset::Ials { unobserved } if !(unobserved > 0.0 && unobserved.is_finite()) => {
                return refuse("unobserved", "a number above 0", unobserved.to_string());
            }
            Preset::Tf { unobserved } if !at_least_0(unobserved) => {
                return refuse("unobserved", "a number of at least 0", unobserved.to_string());
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
