//! Options of the update step.

use serde_json::{Value, json};
use wgloss::train::{Decay, Optimizer, Schedule};
use wgloss::{adam, sgd};

use crate::failure::Failure;

/// How parameters step.
#[derive(clap::Args)]
#[command(next_help_heading = "Update")]
pub struct Update {
    /// The optimizer [default: sgd for the digits, for pairs whose maps both start at the identity, and for pairs with --momentum; else adam].
    #[arg(long, value_enum, ignore_case = true)]
    optimizer: Option<Kind>,
    /// Learning rate [default: 0.01 for interactions. For pairs 0.001 with adam; with sgd 0.05 for the digits and 0.1 for files, divided by 1 + the number of --matryoshka's lengths].
    #[arg(long, allow_negative_numbers = true)]
    pub lr: Option<f64>,
    /// Momentum of sgd [default: 0.9 for pairs].
    #[arg(long, allow_negative_numbers = true)]
    momentum: Option<f32>,
    /// Weight decay, added to the gradient; with adamw applied to the parameters themselves [default: 0, with adamw 0.01].
    #[arg(long, allow_negative_numbers = true)]
    weight_decay: Option<f64>,
    /// The learning rate after the warm-up.
    #[arg(long, value_enum, default_value_t = Course::Constant)]
    schedule: Course,
    /// Steps in which the learning rate rises linearly.
    #[arg(long, value_name = "STEPS", default_value_t = 0)]
    warm_up: usize,
    /// Clip gradients to this norm, taken over all of them together [default: none].
    #[arg(long, value_name = "NORM", allow_negative_numbers = true)]
    pub clip: Option<f32>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    Sgd,
    Adam,
    Adamw,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Course {
    Constant,
    Cosine,
    Linear,
}

impl Update {
    /// Refuses options that do not apply to the optimizer.
    pub fn check(&self, default: Kind) -> Result<(), Failure> {
        if self.momentum.is_some() && self.kind(default) != Kind::Sgd {
            return Err(Failure::input("--momentum: expected with --optimizer sgd, found with another"));
        }
        Ok(())
    }

    pub fn has_momentum(&self) -> bool {
        self.momentum.is_some()
    }

    pub fn kind(&self, default: Kind) -> Kind {
        self.optimizer.unwrap_or(default)
    }

    pub fn optimizer(&self, default: Kind, momentum: f32) -> Optimizer {
        let decay = |default: f64| self.weight_decay.unwrap_or(default);
        let kind = self.kind(default);
        match kind {
            Kind::Sgd => Optimizer::Sgd(sgd::Options {
                momentum: self.momentum.unwrap_or(momentum),
                weight_decay: decay(0.0) as f32,
                ..Default::default()
            }),
            Kind::Adam | Kind::Adamw => {
                let decoupled = kind == Kind::Adamw;
                let weight_decay = decay(if decoupled { 0.01 } else { 0.0 });
                Optimizer::Adam(adam::Options { decoupled, weight_decay, ..Default::default() })
            }
        }
    }

    pub fn schedule(&self) -> Schedule {
        let decay = match self.schedule {
            Course::Constant => Decay::Constant,
            Course::Cosine => Decay::Cosine,
            Course::Linear => Decay::Linear,
        };
        Schedule { warm_up: self.warm_up, decay, least: 0.0 }
    }
}

/// The optimizer and schedule, for a run's record.
pub fn record(optimizer: Optimizer, schedule: Schedule) -> Value {
    let (name, weight_decay, momentum) = match optimizer {
        Optimizer::Sgd(options) => ("sgd", f64::from(options.weight_decay), Some(crate::shortest(options.momentum))),
        Optimizer::Adam(options) if options.decoupled => ("adamw", options.weight_decay, None),
        Optimizer::Adam(options) => ("adam", options.weight_decay, None),
    };
    let decay = match schedule.decay {
        Decay::Constant => "constant",
        Decay::Cosine => "cosine",
        Decay::Linear => "linear",
    };
    let mut record = json!({
        "optimizer": name, "weight_decay": weight_decay, "schedule": decay, "warm_up": schedule.warm_up,
    });
    if let Some(momentum) = momentum {
        record["momentum"] = momentum;
    }
    record
}
