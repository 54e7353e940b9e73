/// The learning rate over the steps of a training: a linear warm-up, then a `decay`. The first step is step 0.
///
/// Sources: cosine: Loshchilov and Hutter 2017, arXiv:1608.03983, eq. 5, without restarts, as torch.optim's CosineAnnealingLR; warm-up: Goyal et al. 2017,
/// arXiv:1706.02677, section 2.2.
///
/// ```
/// use wgloss::train::{Decay, Schedule};
/// let schedule = Schedule { warm_up: 4, decay: Decay::Cosine, least: 0.1 };
/// assert_eq!(schedule.factor(0, 104), 0.25);
/// assert_eq!(schedule.factor(4, 104), 1.0);
/// assert!((schedule.factor(54, 104) - 0.55).abs() < 1e-12); // halfway
/// assert_eq!(schedule.factor(104, 104), 0.1);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Schedule {
    /// W, the number of warm-up steps: the factor of step t < W is (t + 1)/W.
    pub warm_up: usize,
    /// The decay after the warm-up. Default: constant.
    pub decay: Decay,
    /// The factor at the end, from 0 to 1. Default: 0.
    pub least: f64,
}

/// How a [`Schedule`] goes from 1 at step W to its least factor at the step after the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Decay {
    /// The factor stays at 1.
    #[default]
    Constant,
    /// least + (1 − least)(1 + cos πs)/2, where s is the share of the steps after the warm-up that are done.
    Cosine,
    /// 1 − (1 − least) s, with the same s.
    Linear,
}

impl Schedule {
    /// The factor of the learning rate at step `step` of `steps`.
    pub fn factor(&self, step: usize, steps: usize) -> f64 {
        if step < self.warm_up {
            return (step + 1) as f64 / self.warm_up as f64;
        }
        let after = steps.saturating_sub(self.warm_up).max(1);
        let share = ((step - self.warm_up) as f64 / after as f64).min(1.0);
        match self.decay {
            Decay::Constant => 1.0,
            Decay::Cosine => self.least + (1.0 - self.least) * 0.5 * (1.0 + (core::f64::consts::PI * share).cos()),
            Decay::Linear => 1.0 - (1.0 - self.least) * share,
        }
    }
}
