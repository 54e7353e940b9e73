//! Divergences of the rows of two sides, the model's x with probabilities q and the target's t with probabilities p.
use super::{Elements, Real, log_softmax, real};
use crate::Reduction;
use crate::kl::{Divergence, Form, Options};

/// The probabilities of one side of a row, and their logarithms.
struct Side<F> {
    p: Vec<F>,
    log: Vec<F>,
}

impl<F: Real> Side<F> {
    fn logarithms(log: Vec<F>) -> Self {
        Side { p: log.iter().map(|log| log.exp()).collect(), log }
    }

    fn probabilities(p: &[F]) -> Self {
        Side { p: p.to_vec(), log: p.iter().map(|p| p.ln()).collect() }
    }

    /// The side softmax(x/T). A scaled logit that leaves the range of F is set to the end of that range.
    fn logits(x: &[F], temperature: F) -> Self {
        let scaled = x.iter().map(|&v| match v / temperature {
            scaled if scaled.is_infinite() && v.is_finite() => F::max_value() * v.signum(),
            scaled => scaled,
        });
        Side::logarithms(log_softmax(&scaled.collect::<Vec<F>>()))
    }
}

/// ln(e^a + e^b).
fn log_add_exp<F: Real>(a: F, b: F) -> F {
    let max = if a > b { a } else { b };
    if max == F::neg_infinity() { max } else { max + (-(a - b).abs()).exp().ln_1p() }
}

/// p (ln p − other), 0 for p = 0.
fn term<F: Real>(p: F, log: F, other: F) -> F {
    if p == F::zero() { p } else { p * (log - other) }
}

/// The two sides of a row.
struct Row<F> {
    q: Side<F>,
    p: Side<F>,
}

impl<F: Real> Row<F> {
    fn new(x: &[F], t: &[F], options: Options) -> Self {
        let logits = |x| Side::logits(x, real(options.temperature));
        match options.form {
            Form::Logits => Row { q: logits(x), p: logits(t) },
            Form::Probabilities => Row { q: logits(x), p: Side::probabilities(t) },
            Form::LogQ => Row { q: Side::logarithms(x.to_vec()), p: Side::probabilities(t) },
            Form::LogQLogP => Row { q: Side::logarithms(x.to_vec()), p: Side::logarithms(t.to_vec()) },
        }
    }

    fn cols(&self) -> core::ops::Range<usize> {
        0..self.p.p.len()
    }

    /// p (ln p − ln q).
    fn forth(&self, c: usize) -> F {
        term(self.p.p[c], self.p.log[c], self.q.log[c])
    }

    /// q (ln q − ln p).
    fn reverse(&self, c: usize) -> F {
        term(self.q.p[c], self.q.log[c], self.p.log[c])
    }

    /// b p (ln p − ln m) and (1 − b) q (ln q − ln m), where m = b p + (1 − b) q.
    fn mixed(&self, c: usize, beta: f32) -> [F; 2] {
        let beta = real::<F>(beta);
        let rest = F::one() - beta;
        let mixture = log_add_exp(beta.ln() + self.p.log[c], rest.ln() + self.q.log[c]);
        [beta * term(self.p.p[c], self.p.log[c], mixture), rest * term(self.q.p[c], self.q.log[c], mixture)]
    }

    /// The sign of p − q.
    fn side(&self, c: usize) -> F {
        match self.p.p[c] - self.q.p[c] {
            gap if gap == F::zero() => gap,
            gap => gap / gap.abs(),
        }
    }

    fn losses(&self, divergence: Divergence) -> Vec<F> {
        let loss = |c: usize| match divergence {
            Divergence::Kl => self.forth(c),
            Divergence::ReverseKl => self.reverse(c),
            Divergence::JensenShannon { beta } => self.mixed(c, beta).into_iter().sum(),
            Divergence::TotalVariation => real::<F>(0.5) * (self.p.p[c] - self.q.p[c]).abs(),
        };
        self.cols().map(loss).collect()
    }

    /// dloss/d ln q and dloss/d ln p, up to multiples of q and of p, which have no effect through a softmax. `u` are
    /// the weights of the elements. If they differ (not `even`), p times the weights is no multiple of p, so that term
    /// is kept.
    fn partials(&self, u: &[F], even: bool, divergence: Divergence) -> [Vec<F>; 2] {
        let own = if even { F::zero() } else { F::one() };
        let partial = |c: usize| match divergence {
            Divergence::Kl => [-self.p.p[c], self.forth(c) + own * self.p.p[c]],
            Divergence::ReverseKl => [self.reverse(c), -self.q.p[c]],
            Divergence::JensenShannon { beta } => {
                let [p, q] = self.mixed(c, beta);
                [q, p]
            }
            Divergence::TotalVariation => {
                let half = real::<F>(0.5) * self.side(c);
                [-half * self.q.p[c], half * self.p.p[c]]
            }
        };
        [0, 1].map(|of| self.cols().map(|c| u[c] * partial(c)[of]).collect())
    }

    /// dx and dt of the row.
    fn gradients(&self, u: &[F], even: bool, options: Options) -> [Vec<F>; 2] {
        let [x, t] = self.partials(u, even, options.divergence);
        let chain = |g: &[F], side: &Side<F>| through_softmax(g, &side.p, real(options.temperature));
        match options.form {
            Form::Logits => [chain(&x, &self.q), chain(&t, &self.p)],
            Form::Probabilities => [chain(&x, &self.q), self.of_probabilities(u)],
            Form::LogQ => [x, self.of_probabilities(u)],
            Form::LogQLogP => [x, self.cols().map(|c| u[c] * (self.forth(c) + self.p.p[c])).collect()],
        }
    }

    /// ln p + 1 − ln q, 0 for p = 0.
    fn of_probabilities(&self, u: &[F]) -> Vec<F> {
        let slope = |c: usize| match self.p.p[c] {
            p if p == F::zero() => p,
            _ => self.p.log[c] - self.q.log[c] + F::one(),
        };
        self.cols().map(|c| u[c] * slope(c)).collect()
    }
}

/// The gradient of the logits, given `g`, the gradient of the logarithms of their probabilities.
fn through_softmax<F: Real>(g: &[F], p: &[F], temperature: F) -> Vec<F> {
    let sum = g.iter().copied().sum::<F>();
    g.iter().zip(p).map(|(&g, &p)| (g - p * sum) / temperature).collect()
}

/// The factor of the loss: 1, or T² for distillation.
fn scale<F: Real>(options: Options) -> F {
    let temperature = real::<F>(options.temperature);
    if options.scale_t2 { temperature * temperature } else { F::one() }
}

/// The divergence of rows of `cols` elements.
pub fn forward<F: Real>(x: &[F], t: &[F], cols: usize, options: Options) -> Vec<F> {
    let rows = x.chunks(cols.max(1)).zip(t.chunks(cols.max(1)));
    let losses = rows.flat_map(|(x, t)| Row::new(x, t, options).losses(options.divergence));
    let losses = losses.map(|loss| scale::<F>(options) * loss).collect();
    Elements { len: x.len(), cols, reduction: options.reduction }.reduce(losses)
}

/// dx and dt; `dy` is the gradient of the loss, empty for ones.
pub fn backward<F: Real>(x: &[F], t: &[F], cols: usize, dy: &[F], options: Options) -> [Vec<F>; 2] {
    let elements = Elements { len: x.len(), cols, reduction: options.reduction };
    let even = options.reduction != Reduction::None;
    let (mut dx, mut dt) = (Vec::with_capacity(x.len()), Vec::with_capacity(t.len()));
    for (row, (x, t)) in x.chunks(cols.max(1)).zip(t.chunks(cols.max(1))).enumerate() {
        let u: Vec<F> = (0..x.len()).map(|c| scale::<F>(options) * elements.factor(dy, row * cols + c)).collect();
        let [of_x, of_t] = Row::new(x, t, options).gradients(&u, even, options);
        dx.extend(of_x);
        dt.extend(of_t);
    }
    [dx, dt]
}
