use super::Values;
use crate::{Error, Random, Result, Storage, wals};

/// What an interaction of value v counts, and what all that was not observed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Preset {
    /// w₀ as given; an interaction adds (1 − s)² to what all pairs have, w₀ s², whatever its value: w = 1 + w₀, r = 1/(1 + w₀). The
    /// objective of Google's iALS but for a constant (Rendle, Krichene, Zhang and Koren 2022, arXiv:2110.14037).
    Ials {
        /// w₀, above 0.
        unobserved: f32,
    },
    /// w₀ = 1, w = 1 + α v, r = 1 where v is above 0, else 0 (Hu, Koren and Volinsky 2008).
    Hu {
        /// α.
        alpha: f32,
    },
    /// w₀ = 1, w = α |v|, r = 1 where v is above 0, else 0, so that a v below 0 is a dislike: what the library `implicit` computes.
    Implicit {
        /// α.
        alpha: f32,
    },
    /// w₀ as given, w = w₀ + R C with the user's R and the item's C of [`Values`](super::Values), r = v: what TensorFlow's `WALSModel` computed.
    Tf {
        /// w₀, of at least 0.
        unobserved: f32,
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
            Preset::Tf { unobserved } => wals::Options { unobserved, weight: 1.0 + unobserved, ..default },
            Preset::Explicit => wals::Options { unobserved: 0.0, ..default },
        }
    }

    /// w of an observation of value v whose user and item have weights of the product `of_both`, where it depends on them.
    pub fn weight(&self, value: f32, of_both: Option<f32>) -> Option<f32> {
        match *self {
            Preset::Tf { unobserved } => of_both.map(|of_both| unobserved + of_both),
            Preset::Hu { alpha } => Some(1.0 + alpha * value),
            Preset::Implicit { alpha } => Some(alpha * value.abs()),
            Preset::Ials { .. } | Preset::Explicit => None,
        }
    }

    /// r of an observation of value v, where it depends on it.
    pub fn goal(&self, value: f32) -> Option<f32> {
        match self {
            Preset::Explicit | Preset::Tf { .. } => Some(value),
            Preset::Hu { .. } | Preset::Implicit { .. } => Some(f32::from(u8::from(value > 0.0))),
            Preset::Ials { .. } => None,
        }
    }

    /// Whether a v below 0 means something.
    pub fn takes_negative(&self) -> bool {
        matches!(self, Preset::Explicit | Preset::Tf { .. } | Preset::Implicit { .. })
    }
}

/// How the rows of one side are solved with the other held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Solver {
    /// Exactly, by Cholesky: n D² + D³/6 multiply-adds and a matrix of D × D for a row of n observations.
    Direct,
    /// From what the row was, by conjugate gradients in the basis where the other side's Gramian is diagonal: 2 (steps + 1) n D, and 2 D² to turn it there
    /// and back. The basis is found on the host, in D³ · 2 ns: 2 s for D = 1,024. Wider rows do without it, by 2 (steps + 1) n D and (steps + 1) D².
    Conjugate {
        /// How many, 1,000 at most; two, from what the sweep before left, lower the objective as fast as exact solutions do.
        steps: usize,
    },
}

/// How to fit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Config {
    /// Width of a factor, 16,384 at most.
    pub dim: usize,
    /// Times that users and items are solved, at least once.
    pub sweeps: usize,
    /// The objective.
    pub preset: Preset,
    /// λ.
    pub regularization: f32,
    /// How rows are solved; none: as [`Config::chosen`] says.
    pub solver: Option<Solver>,
    /// How factors are stored: with 16 bits a number memory and what is read of it halve. By steps of conjugate gradients the objective is then that of rows
    /// before they are rounded.
    pub storage: Storage,
    /// ν: a row of n observations has λ (n + w₀ · rows of the other side)^ν.
    pub exponent: f32,
    /// The fit ends once a sweep lowers the objective by less than this share of it; 0: after all sweeps.
    pub tolerance: f64,
    /// Items start uniform in ± this/√dim; of `hu` and `implicit` between 0 and it, as the library `implicit` has it: on counts of plays the fit ends lower by a seventh, on ratings
    /// within 4 % of where it ended.
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
            solver: None,
            storage: Storage::F32,
            exponent: 1.0,
            tolerance: 0.0,
            start: 0.1,
            seed: 1,
        }
    }
}

/// The widest factors: their Gramian takes a gigabyte.
const WIDEST: usize = 16_384;
/// A batch of rows is planned with all its steps. More than D of them bring nothing but what rounding has spoiled.
const MOST_STEPS: usize = 1000;
/// The widest factors for which a basis is found: the host takes some seconds for it, each half of a sweep, and eight times as long for twice as many.
pub(super) const WIDEST_TURNED: usize = 1024;
/// Where nothing is known of what was not observed, rows of fewer numbers than this are solved exactly.
const DIRECT_BELOW: usize = 128;
/// And of less than this where observations are so heavy that steps take too many.
const HEAVY_BELOW: usize = 256;

impl Config {
    /// The solver. Unless one is set and with a weight for all pairs, which is what the basis is for, it is as many steps of conjugate gradients as lower the
    /// objective as fast as exact solutions do, sweep for sweep: two where an observation weighs up to 30 times what all pairs do, four up to 1,000, eight up to
    /// 30,000, measured on ratings and on counts of plays with D = 64, on llvmpipe in a third to a sixth of the time of exact ones. Heavier rows are solved exactly, from
    /// D = 256 on by 16 steps. Without that weight rows are solved exactly, and from D = 128 on by eight steps. Rows wider than 1,024, which have no basis, by eight.
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

    /// What an observation weighs in units of what all pairs do, Σ w²/Σ w over w₀, of which the heavy ones decide most.
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

    /// Factors \[items, dim\] as [`fit`](super::fit) starts from: beside those of an earlier fit they are a start of [`fit_from`](super::fit_from) for items that it
    /// did not know.
    pub fn drawn(&self, items: usize) -> Vec<f32> {
        let mut random = Random::new(self.seed, 0);
        let scale = self.start / (self.dim as f32).sqrt();
        let is_positive = matches!(self.preset, Preset::Hu { .. } | Preset::Implicit { .. });
        let of = |share: f32| if is_positive { share } else { 2.0 * share - 1.0 };
        (0..items.saturating_mul(self.dim)).map(|_| scale * of(random.uniform())).collect()
    }

    /// Refuses what cannot be fitted; [`fit`](super::fit) asks first.
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
