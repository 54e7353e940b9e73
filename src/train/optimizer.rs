use crate::{Error, Recorder, Result, Tensor, adam, sgd};

/// The optimizer of the parameters. The training sets `rate`, `step` and `first` in the options. Weight decay applies to
/// weights and embeddings, not to biases and the learned temperature.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Optimizer {
    /// SGD, see [`sgd`].
    Sgd(sgd::Options),
    /// Adam or AdamW, see [`adam`].
    Adam(adam::Options),
}

impl Optimizer {
    /// SGD with momentum.
    pub fn momentum(momentum: f32) -> Optimizer {
        Optimizer::Sgd(sgd::Options { momentum, ..Default::default() })
    }

    /// How many state tensors of the parameter's shape the optimizer keeps per parameter.
    pub(super) fn states(&self) -> usize {
        match self {
            Optimizer::Sgd(options) => usize::from(options.momentum != 0.0),
            Optimizer::Adam(_) => 2,
        }
    }

    pub(super) fn check(&self, rate: f64) -> Result<()> {
        match self.at(rate, 1) {
            Optimizer::Sgd(options) => options.check(),
            Optimizer::Adam(options) => options.check(),
        }
    }

    /// The same optimizer with the rate and the number of the step, from 1.
    pub(super) fn at(&self, rate: f64, step: u32) -> Optimizer {
        match *self {
            Optimizer::Sgd(options) => Optimizer::Sgd(sgd::Options { rate: rate as f32, first: step == 1, ..options }),
            Optimizer::Adam(options) => Optimizer::Adam(adam::Options { rate, step, ..options }),
        }
    }

    /// The same optimizer for parameters that do not decay.
    pub(super) fn without_decay(&self) -> Optimizer {
        match *self {
            Optimizer::Sgd(options) => Optimizer::Sgd(sgd::Options { weight_decay: 0.0, ..options }),
            Optimizer::Adam(options) => Optimizer::Adam(adam::Options { weight_decay: 0.0, ..options }),
        }
    }

    /// Updates `p` with the gradient `g`. Takes as many `states` as [`Optimizer::states`] says.
    pub(super) fn step(&self, recorder: &mut Recorder, g: Tensor, p: Tensor, states: &[Tensor]) -> Result<()> {
        match (*self, states) {
            (Optimizer::Sgd(options), _) => sgd::step(recorder, g, p, states.first().copied(), options),
            (Optimizer::Adam(options), &[m, v]) => {
                adam::step(recorder, g, p, adam::State { m, v, most: None }, options)
            }
            (Optimizer::Adam(_), _) => {
                let (expected, found) = ("m and v".into(), format!("{} tensors", states.len()));
                Err(Error::Shape { op: "adam", what: "state", expected, found })
            }
        }
    }
}
