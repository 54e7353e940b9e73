use crate::{Error, Recorder, Result, Tensor, adam, sgd};

/// How parameters step; `rate`, `step` and `first` in the options are the training's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Optimizer {
    /// [`sgd`].
    Sgd(sgd::Options),
    /// [`adam`], and AdamW.
    Adam(adam::Options),
}

impl Optimizer {
    /// SGD with momentum.
    pub fn momentum(momentum: f32) -> Optimizer {
        Optimizer::Sgd(sgd::Options { momentum, ..Default::default() })
    }

    /// Tensors of a parameter's shape that a parameter keeps from step to step.
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

    /// With the options of step 1, 2, …
    pub(super) fn at(&self, rate: f64, step: u32) -> Optimizer {
        match *self {
            Optimizer::Sgd(options) => Optimizer::Sgd(sgd::Options { rate: rate as f32, first: step == 1, ..options }),
            Optimizer::Adam(options) => Optimizer::Adam(adam::Options { rate, step, ..options }),
        }
    }

    /// Steps `p` against `g`; as many `states` as [`Optimizer::states`] says.
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
