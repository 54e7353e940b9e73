//! The divergence of normal distributions from their priors.
use super::{Elements, Real, count, real, times};
use crate::gaussian_kl::Options;

/// Means and log-variances.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a, F> {
    /// Means m.
    pub mean: &'a [F],
    /// Log-variances v.
    pub log_variance: &'a [F],
    /// Means m' and log-variances v' of the prior. Absent: zeros.
    pub prior: Option<(&'a [F], &'a [F])>,
}

/// e^a − 1 − a. For |a| < 1 by its series a²/2 (1 + a/3 (1 + a/4 (1 + …))); the next term would be below 10⁻¹⁷ of the
/// result.
fn exp_minus_one_minus<F: Real>(a: F) -> F {
    if a.abs() < F::one() {
        let series = (3..=18).rev().fold(F::one(), |sum, k| F::one() + a / count(k) * sum);
        return a * a * real(0.5) * series;
    }
    if a == F::infinity() { a } else { a.exp_m1() - a }
}

/// v − v', m − m' and 1/σ' = e^(−v'/2) of an element. The square of 1/σ' may leave the range of F where the results do
/// not.
struct Element<F> {
    a: F,
    gap: F,
    inverse: F,
}

impl<F: Real> Element<F> {
    /// (m − m')/σ'.
    fn distance(&self) -> F {
        times(self.gap, self.inverse)
    }

    fn loss(&self) -> F {
        real::<F>(0.5) * (exp_minus_one_minus(self.a) + self.distance() * self.distance())
    }

    /// The gradients of m, v, m', v'.
    fn gradient(&self) -> [F; 4] {
        let (half, mean) = (real::<F>(0.5), times(self.distance(), self.inverse));
        let growth = self.a.exp_m1();
        [mean, half * growth, -mean, -half * (growth + self.distance() * self.distance())]
    }
}

impl<F: Real> Inputs<'_, F> {
    fn elements(&self) -> impl Iterator<Item = Element<F>> {
        self.mean.iter().zip(self.log_variance).enumerate().map(|(index, (&mean, &log_variance))| {
            let (prior_mean, prior) = self.prior.map_or((F::zero(), F::zero()), |(m, v)| (m[index], v[index]));
            Element { a: log_variance - prior, gap: mean - prior_mean, inverse: (-prior * real(0.5)).exp() }
        })
    }
}

/// The loss of rows of `cols` elements.
pub fn forward<F: Real>(inputs: Inputs<F>, cols: usize, options: Options) -> Vec<F> {
    let losses = inputs.elements().map(|element| element.loss()).collect();
    Elements { len: inputs.mean.len(), cols, reduction: options.reduction }.reduce(losses)
}

/// The gradients of mean, log-variance, the prior's mean and its log-variance; `dy` is the gradient of the loss, empty
/// for ones.
pub fn backward<F: Real>(inputs: Inputs<F>, cols: usize, dy: &[F], options: Options) -> [Vec<F>; 4] {
    let elements = Elements { len: inputs.mean.len(), cols, reduction: options.reduction };
    let gradients = |of: usize| {
        let gradients = inputs.elements().map(|element| element.gradient()[of]).enumerate();
        gradients.map(|(index, gradient)| times(elements.factor(dy, index), gradient)).collect()
    };
    [0, 1, 2, 3].map(gradients)
}
