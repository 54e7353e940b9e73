//! The contrastive loss over all pairs of a batch. With c_ij = ⟨q_i, k_j⟩, P the positives of row i and N its negatives:
//!
//! s_ij = scale (c_ij − margin [j ∈ P]) − log_q_j,   r = ln Σ_N e^(s + a c) − ln Σ_P e^s with a the hardness, and
//!
//! | loss | row's value |
//! |---|---|
//! | outside the log | ln Σ_(P+N) e^s − mean_P s = ln(1 + e^r) + mean_P (ln Σ_P e^s − s) |
//! | inside the log | −ln (Σ_P e^s / \|P\| / Σ_(P+N) e^s) = ln(1 + e^r) + ln \|P\| |
//! | decoupled | r for ln(1 + e^r): the sum over P + N becomes one over N |
//! | debiased, one positive p | r of Ng = max((Σ_N e^s − \|N\| τ⁺ e^(s_p)) / (1 − τ⁺), \|N\| e^−scale) for the sum over N |
//! | smoothed | (1 − ε) of the above + ε (ln Σ_(P+N) e^s − mean_(P+N) s) |
//!
//! The forms with r are the ones computed: neither a nearly certain positive nor large scores cost them digits.
//!
//! A row without positives has loss and gradient 0 and does not count in the mean. Nor has one without negatives if decoupled, where
//! the formula would say −∞; it counts.
//!
//! Sources: outside and inside, Khosla et al. 2020, arXiv:2004.11362, eq. 2 and 3; decoupled, Yeh et al. 2021, arXiv:2110.06848;
//! debiased, Chuang et al. 2020, arXiv:2007.00224, eq. 7 and 8; the hardness is sentence-transformers'.
use super::sigmoid::{sigmoid, softplus};
use super::{
    Real, count, divisor, dot, factor, largest, log_softmax, log_sum_exp, over, probabilities, real, reduce, times,
};
use crate::info_nce::Options;

/// Which keys are a query's positives.
#[derive(Debug, Clone, Copy, Default)]
pub enum Positive<'a> {
    /// Key i of query i.
    #[default]
    Own,
    /// Key `index[i]` of query i; `u32::MAX`: none.
    Index(&'a [u32]),
    /// All keys of the query's group: the groups of the queries, those of the keys.
    Groups(&'a [u32], &'a [u32]),
}

/// What is compared with what. An empty slice is absent.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a, F> {
    /// Queries, N rows.
    pub q: &'a [F],
    /// Keys, M rows.
    pub k: &'a [F],
    /// Elements of a row.
    pub dim: usize,
    /// ln(1/temperature), instead of the option.
    pub log_scale: Option<F>,
    /// How much each query counts, N.
    pub weight: &'a [F],
    /// The logarithm of each key's probability of being drawn, M; subtracted from its scores.
    pub log_q: &'a [F],
    /// Which pairs belong together.
    pub positive: Positive<'a>,
    /// Of the queries and of the keys: a key with the query's id that is no positive of it is left out.
    pub ids: Option<(&'a [u32], &'a [u32])>,
}

impl<'a, F: Real> Batch<'a, F> {
    /// Query i belongs to key i; nothing else is given.
    pub fn new(q: &'a [F], k: &'a [F], dim: usize) -> Self {
        Batch { q, k, dim, log_scale: None, weight: &[], log_q: &[], positive: Positive::Own, ids: None }
    }

    fn queries(&self) -> usize {
        self.q.len() / self.dim
    }

    fn keys(&self) -> usize {
        self.k.len() / self.dim
    }

    fn weight(&self, query: usize) -> F {
        if self.weight.is_empty() { F::one() } else { self.weight[query] }
    }

    fn log_q(&self, key: usize) -> F {
        if self.log_q.is_empty() { F::zero() } else { self.log_q[key] }
    }

    pub(crate) fn is_positive(&self, [i, j]: [usize; 2], options: Options) -> bool {
        let belong = match self.positive {
            Positive::Own => i == j,
            Positive::Index(index) => index[i] as usize == j,
            Positive::Groups(queries, keys) => queries[i] == keys[j],
        };
        belong && !(options.exclude_self && i == j)
    }

    /// Whether a pair that is not positive is no negative either.
    fn is_left_out(&self, [i, j]: [usize; 2], options: Options) -> bool {
        let same = self.ids.is_some_and(|(queries, keys)| queries[i] == keys[j]);
        same || (options.exclude_self && i == j)
    }

    /// What the queries with a positive add to the divisor of the mean.
    fn divisor(&self, options: Options) -> F {
        let counts = |&i: &usize| (0..self.keys()).any(|j| self.is_positive([i, j], options));
        let total = (0..self.queries()).filter(counts).map(|i| self.weight(i)).sum();
        divisor(total, self.queries(), options.reduction)
    }

    /// `pairs` are those of one query with all keys, or of one key with all queries.
    fn row(&self, pairs: impl Iterator<Item = [usize; 2]>, options: Options) -> Row<F> {
        let pairs: Vec<_> = pairs.collect();
        let product = |&[i, j]: &[usize; 2]| dot(row(self.q, self.dim, i), row(self.k, self.dim, j));
        let c: Vec<F> = pairs.iter().map(product).collect();
        let (positives, others): (Vec<_>, Vec<_>) =
            (0..pairs.len()).partition(|&at| self.is_positive(pairs[at], options));
        // Of rows with one positive.
        let bound = positives.first().map_or(F::infinity(), |&p| c[p] + real(options.near_margin));
        let near = |at: usize| c[at] > bound;
        let negatives = others.into_iter().filter(|&at| !self.is_left_out(pairs[at], options) && !near(at)).collect();
        let scale = scale(self.log_scale, options);
        let mut scaled: Vec<F> = c.iter().map(|&c| scale * c).collect();
        positives.iter().for_each(|&p| scaled[p] = scale * (c[p] - real(options.margin)));
        let s = scaled.iter().zip(&pairs).map(|(&scaled, &[_, j])| scaled - self.log_q(j)).collect();
        Row { pairs, c, scaled, s, positives, negatives, scale, options }
    }

    fn query(&self, i: usize, options: Options) -> Row<F> {
        self.row((0..self.keys()).map(|j| [i, j]), options)
    }

    fn key(&self, j: usize, options: Options) -> Row<F> {
        self.row((0..self.queries()).map(|i| [i, j]), options)
    }
}

/// The factor of the scores: 1/temperature, or min(e^log_scale, max_scale).
pub fn scale<F: Real>(log_scale: Option<F>, options: Options) -> F {
    match log_scale {
        Some(_) if clamped(log_scale, options) => real(options.max_scale),
        Some(log_scale) => log_scale.exp(),
        None => real::<F>(1.0) / real(options.temperature),
    }
}

fn clamped<F: Real>(log_scale: Option<F>, options: Options) -> bool {
    log_scale.is_some_and(|log_scale| log_scale.exp() > real(options.max_scale))
}

pub(super) fn row<F>(x: &[F], dim: usize, index: usize) -> &[F] {
    &x[index * dim..][..dim]
}

fn mean<F: Real>(x: impl ExactSizeIterator<Item = F>) -> F {
    let number = count(x.len());
    over(x.sum(), number)
}

/// One query's scores of all keys, or one key's of all queries.
struct Row<F> {
    pairs: Vec<[usize; 2]>,
    c: Vec<F>,
    /// s + log_q: what is proportional to the scale.
    scaled: Vec<F>,
    s: Vec<F>,
    positives: Vec<usize>,
    negatives: Vec<usize>,
    scale: F,
    options: Options,
}

/// r, and its derivatives by ln Σ_N e^(s + a c) and by −ln Σ_P e^s.
struct Gap<F> {
    r: F,
    by_negatives: F,
    by_positives: F,
}

impl<F: Real> Row<F> {
    fn of_positives(&self) -> Vec<F> {
        self.positives.iter().map(|&p| self.s[p]).collect()
    }

    /// s + a c.
    fn of_negatives(&self) -> Vec<F> {
        self.negatives.iter().map(|&n| self.s[n] + times(real(self.options.hardness), self.c[n])).collect()
    }

    fn gap(&self) -> Gap<F> {
        let ((max_n, rest_n), (max_p, rest_p)) = (log_sum_exp(&self.of_negatives()), log_sum_exp(&self.of_positives()));
        let masked = max_p == F::neg_infinity();
        let r = if masked { F::infinity() } else { max_n - max_p + (rest_n - rest_p) };
        let tau = real::<F>(self.options.tau_plus);
        if tau == F::zero() {
            return Gap { r, by_negatives: F::one(), by_positives: F::one() };
        }
        // ln Ng − s_p, from (e^r − |N| τ⁺) / (1 − τ⁺) = e^r (1 − share) / (1 − τ⁺).
        let number = count::<F>(self.negatives.len());
        let share = times(number * tau, (-r).exp());
        let corrected = if share >= F::one() { F::neg_infinity() } else { r + (-share).ln_1p() - (-tau).ln_1p() };
        let floor = number.ln() - self.scale - (max_p + rest_p);
        if corrected < floor {
            return Gap { r: floor, by_negatives: F::zero(), by_positives: F::one() };
        }
        let slope = F::one() / (F::one() - share);
        Gap { r: corrected, by_negatives: slope, by_positives: slope }
    }

    /// No positive to compare, or nothing to compare it with where it is not compared with itself.
    fn is_void(&self) -> bool {
        self.positives.is_empty() || (self.options.decoupled && largest(&self.of_negatives()) == F::neg_infinity())
    }

    fn loss(&self) -> F {
        if self.is_void() {
            return F::zero();
        }
        let r = self.gap().r;
        let apart = if self.options.decoupled { r } else { softplus(r) };
        let among = match self.options.inside_log {
            true => count::<F>(self.positives.len()).ln(),
            false => mean(log_softmax(&self.of_positives()).into_iter().map(|log_p| -log_p)),
        };
        let (loss, smoothing) = (apart + among, real::<F>(self.options.label_smoothing));
        if smoothing == F::zero() { loss } else { (F::one() - smoothing) * loss + smoothing * self.evenness() }
    }

    /// ln Σ_(P+N) e^s − mean_(P+N) s.
    fn evenness(&self) -> F {
        let (max, rest) = log_sum_exp(&[self.of_positives(), self.of_negatives()].concat());
        rest + mean(self.compared().map(|at| max - self.s[at]).collect::<Vec<F>>().into_iter())
    }

    fn compared(&self) -> impl Iterator<Item = usize> {
        self.positives.iter().chain(&self.negatives).copied()
    }

    /// dL/ds; 0 for what is masked, s = −∞.
    fn gradient(&self) -> Vec<F> {
        let mut ds = vec![F::zero(); self.s.len()];
        if self.is_void() {
            return ds;
        }
        let Gap { r, by_negatives, by_positives } = self.gap();
        let apart = if self.options.decoupled { F::one() } else { sigmoid(r) };
        let even = F::one() / count(self.positives.len());
        for (&at, p) in self.positives.iter().zip(probabilities(&self.of_positives())) {
            let among = if self.options.inside_log { F::zero() } else { p - even };
            ds[at] = among - apart * by_positives * p;
        }
        for (&at, p) in self.negatives.iter().zip(probabilities(&self.of_negatives())) {
            ds[at] = apart * by_negatives * p;
        }
        let smoothing = real::<F>(self.options.label_smoothing);
        if smoothing != F::zero() {
            let p = probabilities(&[self.of_positives(), self.of_negatives()].concat());
            let even = F::one() / count(p.len());
            for (at, p) in self.compared().zip(p) {
                ds[at] = (F::one() - smoothing) * ds[at] + smoothing * (p - even);
            }
        }
        ds.iter().zip(&self.s).map(|(&ds, &s)| if s == F::neg_infinity() { F::zero() } else { ds }).collect()
    }
}

/// The loss: one number, or one per query without reduction.
pub fn forward<F: Real>(batch: Batch<F>, options: Options) -> Vec<F> {
    let loss = |i| match options.symmetric {
        false => batch.query(i, options).loss(),
        true => real::<F>(0.5) * (batch.query(i, options).loss() + batch.key(i, options).loss()),
    };
    let losses = (0..batch.queries()).map(|i| times(batch.weight(i), loss(i)));
    reduce(losses.collect(), batch.divisor(options), options.reduction)
}

/// What [`backward`] gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Gradients<F> {
    /// Of the queries.
    pub dq: Vec<F>,
    /// Of the keys.
    pub dk: Vec<F>,
    /// Of ln(1/temperature).
    pub d_log_scale: F,
}

impl<F: Real> Gradients<F> {
    /// What a row gives that counts `weight`.
    fn add(&mut self, batch: &Batch<F>, row: &Row<F>, weight: F) {
        for ((&[i, j], ds), &scaled) in row.pairs.iter().zip(row.gradient()).zip(&row.scaled) {
            let ds = times(weight, ds);
            self.d_log_scale = self.d_log_scale + times(ds, scaled);
            for d in 0..batch.dim {
                let (q, k) = (i * batch.dim + d, j * batch.dim + d);
                self.dq[q] = self.dq[q] + row.scale * ds * batch.k[k];
                self.dk[k] = self.dk[k] + row.scale * ds * batch.q[q];
            }
        }
    }
}

/// All gradients; `dy` is the gradient of the loss, empty for ones.
pub fn backward<F: Real>(batch: Batch<F>, dy: &[F], options: Options) -> Gradients<F> {
    let zeros = |x: &[F]| vec![F::zero(); x.len()];
    let mut sums = Gradients { dq: zeros(batch.q), dk: zeros(batch.k), d_log_scale: F::zero() };
    let divisor = batch.divisor(options);
    for i in 0..batch.queries() {
        let weight = batch.weight(i) * factor(dy, i, divisor, options.reduction);
        if options.symmetric {
            let half = real::<F>(0.5) * weight;
            sums.add(&batch, &batch.query(i, options), half);
            sums.add(&batch, &batch.key(i, options), half);
        } else {
            sums.add(&batch, &batch.query(i, options), weight);
        }
    }
    if clamped(batch.log_scale, options) {
        sums.d_log_scale = F::zero();
    }
    sums
}

/// How many keys come before each query's own: those that score higher, or as high with a smaller number.
pub fn rank<F: Real>(q: &[F], k: &[F], dim: usize) -> Vec<u32> {
    let ranks = q.chunks(dim).enumerate().map(|(i, q)| {
        let s: Vec<F> = k.chunks(dim).map(|k| dot(q, k)).collect();
        let before = |(j, score): (usize, &F)| j != i && !(*score < s[i] || (*score == s[i] && j > i));
        s.iter().enumerate().filter(|&pair| before(pair)).count() as u32
    });
    ranks.collect()
}
