//! The contrastive loss over all pairs of a batch. With c_ij = ⟨q_i, k_j⟩, P the positives of row i, N its negatives
//! and a the hardness:
//!
//! s_ij = scale (c_ij − margin [j ∈ P]) − log_q_j,   r = ln Σ_N e^(s + a c) − ln Σ_P e^s
//!
//! | loss | row's value |
//! |---|---|
//! | outside the log | ln Σ_(P+N) e^s − mean_P s = ln(1 + e^r) + mean_P (ln Σ_P e^s − s) |
//! | inside the log | −ln (Σ_P e^s / \|P\| / Σ_(P+N) e^s) = ln(1 + e^r) + ln \|P\| |
//! | decoupled | r instead of ln(1 + e^r): the sum over P + N becomes a sum over N |
//! | debiased, one positive p | r with Ng = max((Σ_N e^s − \|N\| τ⁺ e^(s_p)) / (1 − τ⁺), \|N\| e^−scale) instead of the sum over N |
//! | smoothed | (1 − ε) of the above + ε (ln Σ_(P+N) e^s − mean_(P+N) s) |
//!
//! The forms with r are computed. They lose no digits to a nearly certain positive or to large scores.
//!
//! A row without positives has loss and gradient 0 and does not count in the mean. A row without negatives in the
//! decoupled form, for which the formula gives −∞, also has loss and gradient 0, but it counts in the mean.
//!
//! Sources: outside and inside, Khosla et al. 2020, arXiv:2004.11362, eq. 2 and 3; decoupled, Yeh et al. 2021,
//! arXiv:2110.06848; debiased, Chuang et al. 2020, arXiv:2007.00224, eq. 7 and 8; the hardness is
//! sentence-transformers'.
use super::normalize;
use super::sigmoid::{sigmoid, softplus};
use super::{
    Real, count, divisor, dot, factor, largest, log_softmax, log_sum_exp, over, probabilities, real, reduce, times,
};
use crate::info_nce::Options;

/// Which keys are a query's positives.
#[derive(Debug, Clone, Copy, Default)]
pub enum Positive<'a> {
    /// Key i is the positive of query i.
    #[default]
    Own,
    /// Key `index[i]` is the positive of query i; `u32::MAX`: none.
    Index(&'a [u32]),
    /// All keys of the query's group are its positives. Group ids of the queries and of the keys.
    Groups(&'a [u32], &'a [u32]),
}

/// Further negatives: keys that are no query's positives. An empty slice is absent.
#[derive(Debug, Clone, Copy)]
pub struct Negatives<'a, F> {
    /// The keys, L rows.
    pub k: &'a [F],
    /// The logarithm of the probability with which each key was drawn, L.
    pub log_q: &'a [F],
    /// Ids, L: a key with the query's id is left out.
    pub ids: &'a [u32],
}

impl<F> Default for Negatives<'_, F> {
    fn default() -> Self {
        Negatives { k: &[], log_q: &[], ids: &[] }
    }
}

/// The vectors that are compared, and how. An empty slice is absent.
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
    /// The weight of each query, N.
    pub weight: &'a [F],
    /// The logarithm of the probability with which each key was drawn, M. It is subtracted from the key's scores.
    pub log_q: &'a [F],
    /// Which keys are positives.
    pub positive: Positive<'a>,
    /// Ids of the queries and of the keys: a key with the query's id that is not its positive is left out.
    pub ids: Option<(&'a [u32], &'a [u32])>,
    /// Further negatives of every query.
    pub shared: Negatives<'a, F>,
    /// Further negatives of each query alone: the same number for each query, one query's after the other's.
    pub each: Negatives<'a, F>,
}

/// One vector of the batch.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Vector {
    Query(usize),
    Key(usize),
    Shared(usize),
    Each(usize),
}

impl<'a, F: Real> Batch<'a, F> {
    /// Key i is the positive of query i; nothing else is given.
    pub fn new(q: &'a [F], k: &'a [F], dim: usize) -> Self {
        let (shared, each) = (Negatives::default(), Negatives::default());
        Batch { q, k, dim, log_scale: None, weight: &[], log_q: &[], positive: Positive::Own, ids: None, shared, each }
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

    /// What is subtracted from the scores of which the vector is the key.
    fn log_q(&self, key: Vector) -> F {
        let (all, at) = match key {
            Vector::Query(_) => return F::zero(),
            Vector::Key(at) => (self.log_q, at),
            Vector::Shared(at) => (self.shared.log_q, at),
            Vector::Each(at) => (self.each.log_q, at),
        };
        all.get(at).copied().unwrap_or(F::zero())
    }

    fn id(&self, vector: Vector) -> Option<u32> {
        match vector {
            Vector::Query(at) => self.ids.map(|(queries, _)| queries[at]),
            Vector::Key(at) => self.ids.map(|(_, keys)| keys[at]),
            Vector::Shared(at) => self.shared.ids.get(at).copied(),
            Vector::Each(at) => self.each.ids.get(at).copied(),
        }
    }

    fn group(&self, vector: Vector) -> Option<u32> {
        match (self.positive, vector) {
            (Positive::Groups(queries, _), Vector::Query(at)) => Some(queries[at]),
            (Positive::Groups(_, keys), Vector::Key(at)) => Some(keys[at]),
            _ => None,
        }
    }

    fn vector(&self, vector: Vector) -> &'a [F] {
        match vector {
            Vector::Query(at) => row(self.q, self.dim, at),
            Vector::Key(at) => row(self.k, self.dim, at),
            Vector::Shared(at) => row(self.shared.k, self.dim, at),
            Vector::Each(at) => row(self.each.k, self.dim, at),
        }
    }

    pub(crate) fn is_positive(&self, [i, j]: [usize; 2], options: Options) -> bool {
        let belong = match self.positive {
            Positive::Own => i == j,
            Positive::Index(index) => index[i] as usize == j,
            Positive::Groups(queries, keys) => queries[i] == keys[j],
        };
        belong && !(options.exclude_self && i == j)
    }

    /// Whether vector `a`, whose line is looked at, is not compared with `b`, if `b` is no positive of `a`. A line is a
    /// row or a column of the score matrix: a query, or a key.
    fn is_left_out(&self, [a, b]: [Vector; 2], options: Options) -> bool {
        let same = |of: &dyn Fn(Vector) -> Option<u32>| of(a).zip(of(b)).is_some_and(|(a, b)| a == b);
        let (own, others) = match (a, b) {
            (Vector::Query(i), Vector::Key(j)) => {
                (options.exclude_self && i == j, !options.in_batch && j < self.queries())
            }
            (Vector::Key(j), Vector::Query(i)) => (options.exclude_self && i == j, false),
            _ => (a == b, false),
        };
        let related = matches!((a, b), (Vector::Query(_), Vector::Query(_)) | (Vector::Key(_), Vector::Key(_)));
        own || others || same(&|vector| self.id(vector)) || (related && same(&|vector| self.group(vector)))
    }

    /// The divisor of the loss. For the mean: the sum of the weights of the queries with a positive.
    fn divisor(&self, options: Options) -> F {
        let counts = |&i: &usize| (0..self.keys()).any(|j| self.is_positive([i, j], options));
        let total = (0..self.queries()).filter(counts).map(|i| self.weight(i)).sum();
        divisor(total, self.queries(), options.reduction)
    }

    /// The scores of `line` with `others`.
    fn row(&self, line: Vector, others: impl Iterator<Item = Vector>, options: Options) -> Row<F> {
        let pairs: Vec<_> = others.map(|other| [line, other]).collect();
        let c: Vec<F> = pairs.iter().map(|&[a, b]| dot(self.vector(a), self.vector(b))).collect();
        let is_positive = |pair: [Vector; 2]| match pair {
            [Vector::Query(i), Vector::Key(j)] | [Vector::Key(j), Vector::Query(i)] => {
                self.is_positive([i, j], options)
            }
            _ => false,
        };
        let (positives, others): (Vec<_>, Vec<_>) = (0..pairs.len()).partition(|&at| is_positive(pairs[at]));
        // Used only for rows with one positive.
        let bound = positives.first().map_or(F::infinity(), |&p| c[p] + real(options.near_margin));
        let near = |at: usize| c[at] > bound;
        let negatives = others.into_iter().filter(|&at| !self.is_left_out(pairs[at], options) && !near(at)).collect();
        let scale = scale(self.log_scale, options);
        let mut scaled: Vec<F> = c.iter().map(|&c| scale * c).collect();
        positives.iter().for_each(|&p| scaled[p] = scale * (c[p] - real(options.margin)));
        let key = |[a, b]: [Vector; 2]| if let (Vector::Key(_), Vector::Query(_)) = (a, b) { a } else { b };
        let s = scaled.iter().zip(&pairs).map(|(&scaled, &pair)| scaled - self.log_q(key(pair))).collect();
        Row { pairs, c, scaled, s, positives, negatives, scale, options }
    }

    fn query(&self, i: usize, options: Options) -> Row<F> {
        let [shared, each] = [self.shared.k.len(), self.each.k.len()].map(|len| len / self.dim);
        let per = each / self.queries();
        let queries = if options.query_negatives { self.queries() } else { 0 };
        let others = (0..self.keys()).map(Vector::Key).chain((0..shared).map(Vector::Shared));
        let others = others.chain((i * per..(i + 1) * per).map(Vector::Each)).chain((0..queries).map(Vector::Query));
        self.row(Vector::Query(i), others, options)
    }

    fn key(&self, j: usize, options: Options) -> Row<F> {
        let keys = if options.key_negatives { self.keys() } else { 0 };
        let others = (0..self.queries()).map(Vector::Query).chain((0..keys).map(Vector::Key));
        self.row(Vector::Key(j), others, options)
    }

    fn line(&self, index: usize, options: Options) -> Row<F> {
        let n = self.queries();
        if index < n { self.query(index, options) } else { self.key(index - n, options) }
    }
}

/// The vectors of a batch, divided by their lengths.
struct Unit<F> {
    q: Vec<F>,
    k: Vec<F>,
    shared: Vec<F>,
    each: Vec<F>,
}

impl<F: Real> Unit<F> {
    fn of(batch: &Batch<F>) -> Self {
        let unit = |x: &[F]| normalize::forward(x, batch.dim, normalize_options());
        Unit { q: unit(batch.q), k: unit(batch.k), shared: unit(batch.shared.k), each: unit(batch.each.k) }
    }

    fn batch<'a>(&'a self, batch: Batch<'a, F>) -> Batch<'a, F> {
        let shared = Negatives { k: &self.shared, ..batch.shared };
        Batch { q: &self.q, k: &self.k, shared, each: Negatives { k: &self.each, ..batch.each }, ..batch }
    }
}

fn normalize_options() -> crate::normalize::Options {
    Default::default()
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

/// The scores of a line: of one query with all keys, or of one key with all queries.
struct Row<F> {
    pairs: Vec<[Vector; 2]>,
    c: Vec<F>,
    /// s + log_q: the part of the score that is proportional to the scale.
    scaled: Vec<F>,
    s: Vec<F>,
    positives: Vec<usize>,
    negatives: Vec<usize>,
    scale: F,
    options: Options,
}

/// r, and its derivatives with respect to ln Σ_N e^(s + a c) and to −ln Σ_P e^s.
struct Gap<F> {
    r: F,
    by_negatives: F,
    by_positives: F,
}

impl<F: Real> Row<F> {
    fn of_positives(&self) -> Vec<F> {
        self.positives.iter().map(|&p| self.s[p]).collect()
    }

    /// s + a c of the negatives.
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

    /// Whether the row has no loss: it has no positive or, in the decoupled form, no negative.
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

    /// dL/ds; 0 where s = −∞ (masked).
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
    if options.normalize {
        return forward(Unit::of(&batch).batch(batch), Options { normalize: false, ..options });
    }
    let loss = |i| match options.symmetric {
        false => batch.query(i, options).loss(),
        true => real::<F>(0.5) * (batch.query(i, options).loss() + batch.key(i, options).loss()),
    };
    let losses = (0..batch.queries()).map(|i| times(batch.weight(i), loss(i)));
    reduce(losses.collect(), batch.divisor(options), options.reduction)
}

/// Measures of one query, or of one key in its own direction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Value<F> {
    /// The loss, neither weighted nor halved.
    pub loss: F,
    /// The log-sum-exp of the scores with all that it is compared with. Negatives count as the hardness says.
    pub lse: F,
    /// Whether no negative scores above the best positive.
    pub correct: bool,
    /// −Σ p ln p over all that it is compared with.
    pub entropy: F,
}

/// The values of each query and then, if symmetric, of each key.
pub fn values<F: Real>(batch: Batch<F>, options: Options) -> Vec<Value<F>> {
    if options.normalize {
        return values(Unit::of(&batch).batch(batch), Options { normalize: false, ..options });
    }
    let lines = batch.queries() + if options.symmetric { batch.keys() } else { 0 };
    let value = |index| {
        let row = batch.line(index, options);
        let (positives, negatives) = (row.of_positives(), row.of_negatives());
        let all = [&positives[..], &negatives].concat();
        let (max, rest) = log_sum_exp(&all);
        let correct = !positives.is_empty() && largest(&positives) >= largest(&negatives);
        let terms = log_softmax(&all).into_iter().zip(probabilities(&all));
        let entropy = terms.map(|(log_p, p)| if p == F::zero() { p } else { -p * log_p }).sum();
        Value { loss: row.loss(), lse: max + rest, correct, entropy }
    };
    (0..lines).map(value).collect()
}

/// What [`backward`] gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Gradients<F> {
    /// Of the queries.
    pub dq: Vec<F>,
    /// Of the keys.
    pub dk: Vec<F>,
    /// Of the further negatives of all queries.
    pub d_shared: Vec<F>,
    /// Of the further negatives of each query alone.
    pub d_each: Vec<F>,
    /// Of ln(1/temperature).
    pub d_log_scale: F,
}

impl<F: Real> Gradients<F> {
    fn of(&mut self, vector: Vector, dim: usize) -> &mut [F] {
        let (all, at) = match vector {
            Vector::Query(at) => (&mut self.dq, at),
            Vector::Key(at) => (&mut self.dk, at),
            Vector::Shared(at) => (&mut self.d_shared, at),
            Vector::Each(at) => (&mut self.d_each, at),
        };
        &mut all[at * dim..][..dim]
    }

    /// Adds the gradients of a row whose loss has the factor `weight`.
    fn add(&mut self, batch: &Batch<F>, row: &Row<F>, weight: F) {
        for ((&[a, b], ds), &scaled) in row.pairs.iter().zip(row.gradient()).zip(&row.scaled) {
            let ds = times(weight, ds);
            self.d_log_scale = self.d_log_scale + times(ds, scaled);
            for (vector, other) in [(a, b), (b, a)] {
                let gradient = self.of(vector, batch.dim).iter_mut();
                gradient.zip(batch.vector(other)).for_each(|(sum, &other)| *sum = *sum + row.scale * ds * other);
            }
        }
    }
}

/// All gradients; `dy` is the gradient of the loss, empty for ones.
pub fn backward<F: Real>(batch: Batch<F>, dy: &[F], options: Options) -> Gradients<F> {
    if options.normalize {
        let found = backward(Unit::of(&batch).batch(batch), dy, Options { normalize: false, ..options });
        let back = |x: &[F], dy: &[F]| normalize::backward(x, dy, batch.dim, normalize_options());
        return Gradients {
            dq: back(batch.q, &found.dq),
            dk: back(batch.k, &found.dk),
            d_shared: back(batch.shared.k, &found.d_shared),
            d_each: back(batch.each.k, &found.d_each),
            ..found
        };
    }
    let zeros = |x: &[F]| vec![F::zero(); x.len()];
    let (d_shared, d_each) = (zeros(batch.shared.k), zeros(batch.each.k));
    let mut sums = Gradients { dq: zeros(batch.q), dk: zeros(batch.k), d_shared, d_each, d_log_scale: F::zero() };
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
pub fn rank<F: Real>(q: &[F], k: &[F], dim: usize, ids: Option<(&[u32], &[u32])>) -> Vec<u32> {
    let known = |i: usize, j: usize| ids.is_some_and(|(of_q, of_k)| of_q[i] == of_k[j]);
    let ranks = q.chunks(dim).enumerate().map(|(i, q)| {
        let s: Vec<F> = k.chunks(dim).map(|k| dot(q, k)).collect();
        let before = |(j, score): (usize, &F)| j != i && !known(i, j) && !(*score < s[i] || (*score == s[i] && j > i));
        s.iter().enumerate().filter(|&pair| before(pair)).count() as u32
    });
    ranks.collect()
}
