//! Cross entropy: loss_i = r_i (Σ_c w_c q_ic (−ln p_ic) + z ln²Σ_c e^(x_ic)), where p = softmax(x), q are the target's
//! shares, and w and r the weights of classes and rows.
use super::{
    Real, count, divisor, factor, largest, log_softmax, log_sum_exp, max_and_others, minus_log_p, p_minus_own,
    probabilities, real, reduce, times,
};
use crate::cross_entropy::Options;

/// The target of each row.
#[derive(Debug, Clone, Copy)]
pub enum Target<'a, F> {
    /// Class ids.
    Ids(&'a [u32]),
    /// A share of every class, for each row.
    Soft(&'a [F]),
}

/// Weights of the classes and of the rows. Empty: 1 each.
#[derive(Debug, Clone, Copy)]
pub struct Weights<'a, F> {
    /// Weights w of the classes.
    pub class: &'a [F],
    /// Weights r of the rows.
    pub row: &'a [F],
}

impl<F> Default for Weights<'_, F> {
    fn default() -> Self {
        Weights { class: &[], row: &[] }
    }
}

impl<F: Real> Weights<'_, F> {
    /// The weight of a class; 1 for a class that does not exist.
    fn class(&self, class: usize) -> F {
        self.class.get(class).copied().unwrap_or_else(F::one)
    }

    fn row(&self, row: usize) -> F {
        if self.row.is_empty() { F::one() } else { self.row[row] }
    }
}

/// w q of a row: `hot` for the class `own`, plus `soft` for all classes (empty: zeros).
struct Shares<F> {
    own: usize,
    hot: F,
    soft: Vec<F>,
}

/// The arguments of all functions of this module, except `dy`.
struct Batch<'a, F> {
    x: &'a [F],
    classes: usize,
    target: Target<'a, F>,
    weights: Weights<'a, F>,
    options: Options,
}

impl<F: Real> Batch<'_, F> {
    fn rows(&self) -> usize {
        self.x.len() / self.classes
    }

    /// The row's logits, after the softcap; −∞ stays −∞.
    fn logits(&self, row: usize) -> Vec<F> {
        let (x, cap) = (&self.x[row * self.classes..][..self.classes], real::<F>(self.options.softcap));
        let keep = |v: F| cap == F::zero() || v == F::neg_infinity();
        x.iter().map(|&v| if keep(v) { v } else { cap * (v / cap).tanh() }).collect()
    }

    fn ignored(&self, row: usize) -> bool {
        matches!(self.target, Target::Ids(ids) if ids[row] == self.options.ignore)
    }

    fn shares(&self, row: usize) -> Shares<F> {
        let smoothing = real::<F>(self.options.label_smoothing);
        let (sharp, even) = (F::one() - smoothing, smoothing / count(self.classes));
        let weighted = |q: &dyn Fn(usize) -> F| (0..self.classes).map(|c| self.weights.class(c) * q(c)).collect();
        match self.target {
            Target::Ids(ids) => {
                let own = ids[row] as usize;
                let soft = if smoothing == F::zero() { vec![] } else { weighted(&|_| even) };
                let exists = own < self.classes;
                let hot = if exists { sharp * self.weights.class(own) } else { F::nan() };
                Shares { own: if exists { own } else { 0 }, hot, soft }
            }
            Target::Soft(shares) => {
                let shares = &shares[row * self.classes..][..self.classes];
                Shares { own: 0, hot: F::zero(), soft: weighted(&|c| sharp * shares[c] + even) }
            }
        }
    }

    /// What the rows that are not ignored add to the divisor of the mean.
    fn total(&self) -> F {
        let of = |row: usize| match self.target {
            Target::Ids(ids) => self.weights.row(row) * self.weights.class(ids[row] as usize),
            Target::Soft(_) => self.weights.row(row),
        };
        (0..self.rows()).filter(|&row| !self.ignored(row)).map(of).sum()
    }

    fn divisor(&self) -> F {
        divisor(self.total(), self.rows(), self.options.reduction)
    }

    /// The divisor of the z part.
    fn z_divisor(&self) -> F {
        let counted = (0..self.rows()).filter(|&row| !self.ignored(row));
        divisor(counted.map(|row| self.weights.row(row)).sum(), self.rows(), self.options.reduction)
    }

    fn row_loss(&self, row: usize) -> F {
        let (x, shares) = (self.logits(row), self.shares(row));
        let hot = times(shares.hot, minus_log_p(&x, shares.own));
        let soft = shares.soft.iter().zip(log_softmax(&x)).map(|(&share, log)| times(share, -log));
        times(self.weights.row(row), hot + soft.sum())
    }

    /// z r ln²Σ e^x of a row.
    fn row_z(&self, row: usize) -> F {
        let (max, rest) = log_sum_exp(&self.logits(row));
        let z = real::<F>(self.options.z_loss) * self.weights.row(row);
        times(z, (max + rest) * (max + rest))
    }

    /// `of` for each row, but 0 for an ignored row.
    fn by_row(&self, of: impl Fn(usize) -> F) -> Vec<F> {
        (0..self.rows()).map(|row| if self.ignored(row) { F::zero() } else { of(row) }).collect()
    }

    fn z_loss(&self) -> Vec<F> {
        reduce(self.by_row(|row| self.row_z(row)), self.z_divisor(), self.options.reduction)
    }

    /// The gradient of a row. `g` and `z` are the factors of its cross entropy and of its z part.
    fn row_gradient(&self, row: usize, g: F, z: F) -> Vec<F> {
        let (x, shares) = (self.logits(row), self.shares(row));
        let (max, rest) = log_sum_exp(&x);
        let of_z = times(z * real(2.0) * real(self.options.z_loss), max + rest);
        let (p, hot) = (probabilities(&x), p_minus_own(&x, shares.own));
        let sum = shares.soft.iter().copied().sum::<F>();
        let gradient = |c: usize| {
            let masked = shares.soft.is_empty() || x[c] == F::neg_infinity();
            let soft = if masked { F::zero() } else { sum * p[c] - shares.soft[c] };
            let of_loss = if shares.hot == F::zero() { soft } else { shares.hot * hot[c] + soft };
            self.weights.row(row) * (g * of_loss + times(of_z, p[c])) * self.slope(row, c)
        };
        (0..self.classes).map(gradient).collect()
    }

    /// The slope of the softcap.
    fn slope(&self, row: usize, class: usize) -> F {
        let cap = real::<F>(self.options.softcap);
        if cap == F::zero() {
            return F::one();
        }
        let y = (self.x[row * self.classes + class] / cap).tanh();
        F::one() - y * y
    }
}

/// The loss of logits `x`, rows of `classes` elements: one number, or one for each row without reduction.
pub fn forward<F: Real>(x: &[F], classes: usize, target: Target<F>, weights: Weights<F>, options: Options) -> Vec<F> {
    let batch = Batch { x, classes, target, weights, options };
    let losses = reduce(batch.by_row(|row| batch.row_loss(row)), batch.divisor(), options.reduction);
    if options.z_loss == 0.0 {
        return losses;
    }
    losses.into_iter().zip(batch.z_loss()).map(|(loss, z)| loss + z).collect()
}

/// The part of the loss that is z ln²Σ e^x, reduced as the loss is.
pub fn z_loss<F: Real>(x: &[F], classes: usize, target: Target<F>, weights: Weights<F>, options: Options) -> Vec<F> {
    Batch { x, classes, target, weights, options }.z_loss()
}

/// dx; `dy` is the gradient of the loss, empty for ones.
pub fn backward<F: Real>(
    x: &[F],
    classes: usize,
    target: Target<F>,
    weights: Weights<F>,
    dy: &[F],
    options: Options,
) -> Vec<F> {
    let batch = Batch { x, classes, target, weights, options };
    let (divisor, z_divisor) = (batch.divisor(), batch.z_divisor());
    let gradient = |row: usize| {
        if batch.ignored(row) {
            return vec![F::zero(); classes];
        }
        let part = |divisor| factor(dy, row, divisor, options.reduction);
        batch.row_gradient(row, part(divisor), part(z_divisor))
    };
    (0..batch.rows()).flat_map(gradient).collect()
}

/// (max, rest) of each row after the softcap, where ln Σ e^x = max + ln(1 + rest). A row of masks gives (the lowest
/// f32, −1).
pub fn lse<F: Real>(x: &[F], classes: usize, options: Options) -> Vec<F> {
    let batch = Batch { x, classes, target: Target::Soft(&[]), weights: Weights::default(), options };
    let of_row = |row: usize| match max_and_others(&batch.logits(row)) {
        (max, _) if max == F::neg_infinity() => [real(f32::MIN), -F::one()],
        (max, others) => [max, others],
    };
    (0..batch.rows()).flat_map(of_row).collect()
}

/// The class with the largest logit of each row, the first one if several are equal. `u32::MAX` for a row that holds
/// NaN or only masks.
pub fn predict<F: Real>(x: &[F], classes: usize) -> Vec<u32> {
    let class = |x: &[F]| match largest(x) {
        max if max == F::neg_infinity() => None,
        max => x.iter().position(|&v| v == max),
    };
    x.chunks(classes).map(|x| class(x).map_or(u32::MAX, |class| class as u32)).collect()
}
