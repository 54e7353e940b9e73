//! What a run of `wals` was fitted with. The run's record keeps it, so that new users can be solved later.

use std::path::Path;

use clap::ValueEnum;
use serde_json::{Value, json};
use wgloss::train::wals::{Config, Preset, Solver};

use crate::failure::Failure;
use crate::interactions::{Duplicates, Loaded, Rules};
use crate::shortest;

/// The objective of a fit, and which lines of the file counted.
#[derive(Debug, PartialEq)]
pub struct Fitted {
    pub config: Config,
    pub rules: Rules,
}

impl Fitted {
    /// Adds it to a run's record.
    pub fn tell(&self, about: &mut Value) {
        let Fitted { config, rules } = self;
        about["dim"] = config.dim.into();
        about["preset"] = match config.preset {
            Preset::Ials { unobserved } | Preset::Tf { unobserved } => {
                json!({"name": name(config.preset), "unobserved": shortest(unobserved)})
            }
            Preset::Hu { alpha } | Preset::Implicit { alpha } => {
                json!({"name": name(config.preset), "alpha": shortest(alpha)})
            }
            Preset::Explicit => json!({"name": name(config.preset)}),
        };
        about["regularization"] = shortest(config.regularization);
        about["exponent"] = shortest(config.exponent);
        about["steps"] = match config.solver {
            Some(Solver::Direct) => 0.into(),
            Some(Solver::Conjugate { steps }) => steps.into(),
            None => Value::Null,
        };
        rules.tell(about);
    }

    /// Reads it from a run's record. Records of earlier versions have neither steps nor rules.
    pub fn restored(about: &Value) -> Option<Fitted> {
        let number = |of: &Value, name: &str| of.get(name)?.as_f64().map(|number| number as f32);
        let whole = |name: &str| usize::try_from(about.get(name)?.as_u64()?).ok();
        let of = about.get("preset")?;
        let preset = match of.get("name")?.as_str()? {
            "ials" => Preset::Ials { unobserved: number(of, "unobserved")? },
            "hu" => Preset::Hu { alpha: number(of, "alpha")? },
            "implicit" => Preset::Implicit { alpha: number(of, "alpha")? },
            "tf" => Preset::Tf { unobserved: number(of, "unobserved")? },
            "explicit" => Preset::Explicit,
            _ => return None,
        };
        let config = Config {
            dim: whole("dim")?,
            preset,
            regularization: number(about, "regularization")?,
            exponent: number(about, "exponent")?,
            solver: whole("steps").map(solver),
            ..Config::default()
        };
        let duplicates = about.get("duplicates").and_then(Value::as_str);
        let duplicates = duplicates.and_then(|name| Duplicates::from_str(name, false).ok());
        let rules = Rules {
            min_rating: number(about, "min_rating"),
            duplicates,
            negative: preset.takes_negative(),
            ..Rules::ALL
        };
        Some(Fitted { config, rules })
    }
}

/// The solver for `steps` steps. 0 stands for exact rows.
pub fn solver(steps: usize) -> Solver {
    if steps == 0 { Solver::Direct } else { Solver::Conjugate { steps } }
}

fn name(preset: Preset) -> &'static str {
    match preset {
        Preset::Ials { .. } => "ials",
        Preset::Hu { .. } => "hu",
        Preset::Implicit { .. } => "implicit",
        Preset::Tf { .. } => "tf",
        Preset::Explicit => "explicit",
    }
}

/// Whether the preset predicts the weights.
pub fn predicts_weights(preset: Preset) -> bool {
    matches!(preset, Preset::Tf { .. } | Preset::Explicit)
}

/// Refuses a file without weights if the preset predicts weights.
pub fn check_weights(preset: Preset, loaded: &Loaded, option: &str, path: &Path) -> Result<(), Failure> {
    if loaded.weighted || !predicts_weights(preset) {
        return Ok(());
    }
    let (path, name) = (path.display(), name(preset));
    let read = loaded.fields.as_ref().map(|fields| format!(": {}", fields.describe())).unwrap_or_default();
    Err(Failure::input(format!(
        "{option} {path}: expected weights, which the preset {name} predicts, found none{read}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_restored() {
        let config = Config { dim: 7, regularization: 0.1, exponent: 0.3, ..Config::default() };
        for (preset, steps, min_rating, duplicates) in [
            (Preset::Ials { unobserved: 0.1 }, 0, None, Duplicates::Last),
            (Preset::Hu { alpha: 0.7 }, 3, Some(2.5), Duplicates::Sum),
            (Preset::Implicit { alpha: 40.0 }, 2, Some(-0.1), Duplicates::Max),
            (Preset::Tf { unobserved: 0.0 }, 9, None, Duplicates::Sum),
            (Preset::Explicit, 0, Some(0.0), Duplicates::Last),
        ] {
            let config = Config { preset, solver: Some(solver(steps)), ..config };
            let rules =
                Rules { min_rating, duplicates: Some(duplicates), negative: preset.takes_negative(), ..Rules::ALL };
            let (fitted, mut about) = (Fitted { config, rules }, json!({}));
            fitted.tell(&mut about);
            let about: Value = serde_json::from_str(&about.to_string()).unwrap();
            assert_eq!(about["steps"], steps);
            assert_eq!(Fitted::restored(&about), Some(fitted));
        }
        let earlier = json!({"dim": 8, "preset": {"name": "explicit"}, "regularization": 1, "exponent": 0});
        let earlier = Fitted::restored(&earlier).unwrap();
        assert_eq!((earlier.config.solver, earlier.rules), (None, Rules { negative: true, ..Rules::ALL }));
        assert_eq!(Fitted::restored(&json!({"dim": 8})), None);
    }
}
