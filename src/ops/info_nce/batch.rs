use super::{OP, Options};
use crate::ops::{Reduction, named, pairs, shaped};
use crate::tensor::Element;
use crate::{Error, Result, Tensor};

/// Which keys are a query's positives.
#[derive(Debug, Clone, Copy, Default)]
pub enum Positive<'a> {
    /// Key i is the positive of query i. Requires at least as many keys as queries.
    #[default]
    Own,
    /// The index of one key per query, [N, 1]. An index that no key has means that the query has no positive.
    Index(Tensor<'a, u32>),
    /// All keys of the query's group. Group ids of the queries [N, 1] and of the keys [M, 1].
    Groups(Tensor<'a, u32>, Tensor<'a, u32>),
}

/// Keys that are negatives only: no query's positives.
#[derive(Debug, Clone, Copy)]
pub struct Negatives<'a> {
    /// The keys [L, D].
    pub k: Tensor<'a>,
    /// Subtracted from the scores of these keys, [L, 1], as [`Batch::log_q`].
    pub log_q: Option<Tensor<'a>>,
    /// Ids of these keys [L, 1]. A key with the query's id, from [`Batch::ids`], is left out. Requires [`Batch::ids`].
    pub ids: Option<Tensor<'a, u32>>,
}

impl<'a> From<Tensor<'a>> for Negatives<'a> {
    fn from(k: Tensor<'a>) -> Self {
        Negatives { k, log_q: None, ids: None }
    }
}

/// The inputs of the loss: which rows are compared with which.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// Queries [N, D].
    pub q: Tensor<'a>,
    /// Keys [M, D].
    pub k: Tensor<'a>,
    /// The learned scale [1, 1]: scale = min(e^log_scale, [`Options::max_scale`]). If absent, scale =
    /// 1/[`Options::temperature`].
    pub log_scale: Option<Tensor<'a>>,
    /// Weights of the queries' losses [N, 1].
    pub weight: Option<Tensor<'a>>,
    /// Subtracted from the scores of each key, [M, 1]: the logarithm of the probability with which the key was drawn
    /// (logQ correction).
    pub log_q: Option<Tensor<'a>>,
    /// Which keys are positives.
    pub positive: Positive<'a>,
    /// Ids of the queries [N, 1] and of the keys [M, 1]. A key with the query's id that is not a positive of the query
    /// is left out (false negatives).
    pub ids: Option<(Tensor<'a, u32>, Tensor<'a, u32>)>,
    /// Further negatives that all queries share: drawn keys, or a [`Queue`](super::Queue) of past keys.
    pub shared: Option<Negatives<'a>>,
    /// Further negatives of each query alone, [N K, D] for K per query: rows i·K to (i + 1)·K − 1 belong to query i.
    pub each: Option<Negatives<'a>>,
}

impl<'a> Batch<'a> {
    /// A batch of queries and keys with no other input.
    pub fn new(q: Tensor<'a>, k: Tensor<'a>) -> Self {
        let positive = Positive::Own;
        Batch { q, k, log_scale: None, weight: None, log_q: None, positive, ids: None, shared: None, each: None }
    }

    /// The same batch with a learned scale [1, 1].
    pub fn scaled(self, log_scale: Tensor<'a>) -> Self {
        Batch { log_scale: Some(log_scale), ..self }
    }

    /// The batch cut to the first `length` numbers of every vector, to train embeddings that may be cut there. Vectors
    /// of at most `length` numbers stay whole.
    ///
    /// Add up the gradients of several lengths with [`Options::accum`]. Set [`Options::normalize`], because a part of a
    /// row of unit length is shorter than 1.
    ///
    /// Source: Kusupati et al. 2022, Matryoshka representation learning, arXiv:2205.13147, section 3.
    ///
    /// ```
    /// # fn main() -> wgloss::Result<()> {
    /// # let Ok(gpu) = wgloss::Gpu::new() else { return Ok(()) };
    /// use wgloss::{Accum, Tensor, info_nce};
    /// let (n, dim) = (2, 4);
    /// let (queries, keys) = (gpu.upload(&[0.1f32, 0.9, 0.3, 0.8, 0.2, 0.4, 0.5, 0.6])?, gpu.upload(&[0.2f32, 0.8, 0.1, 0.7, 0.1, 0.5, 0.9, 0.3])?);
    /// let (dq, loss, state) = (gpu.zeros::<f32>(n * dim)?, gpu.zeros::<f32>(2)?, gpu.zeros::<f32>(n * 4)?);
    /// let batch = info_nce::Batch::new(Tensor::matrix(&queries, n, dim)?, Tensor::matrix(&keys, n, dim)?);
    /// let gradients = info_nce::Gradients { dq: Some(Tensor::matrix(&dq, n, dim)?), ..Default::default() };
    /// let state = Tensor::matrix(&state, n, 4)?;
    /// gpu.run(|recorder| {
    ///     for (at, length) in [4, 2].into_iter().enumerate() {
    ///         let accum = if at == 0 { Accum::Write } else { Accum::Add };
    ///         let options = info_nce::Options { normalize: true, accum, ..Default::default() };
    ///         let loss = Tensor::scalar(&loss, at)?;
    ///         info_nce::forward(recorder, batch.prefix(length), loss, state, gradients.prefix(length), options)?;
    ///     }
    ///     Ok(())
    /// })?;
    /// # Ok(()) }
    /// ```
    pub fn prefix(self, length: usize) -> Self {
        let cut = |negatives: Option<Negatives<'a>>| {
            negatives.map(|negatives| Negatives { k: negatives.k.col_range(0..length), ..negatives })
        };
        let (q, k) = (self.q.col_range(0..length), self.k.col_range(0..length));
        Batch { q, k, shared: cut(self.shared), each: cut(self.each), ..self }
    }

    /// The shape of the `state` that [`forward`](super::forward) leaves for [`backward`](super::backward).
    ///
    /// Rows: N, plus M if symmetric, plus 1 for [`Reduction::Mean`] with weights or with index/group positives.
    /// Columns: 4; 8 with index/group positives, `label_smoothing` or `tau_plus`.
    pub fn state_shape(&self, options: Options) -> [usize; 2] {
        [self.lines(options) + usize::from(self.counts(options)), if self.is_full(options) { 8 } else { 4 }]
    }

    /// The number of lines with a loss: queries and, if symmetric, keys.
    pub(super) fn lines(&self, options: Options) -> usize {
        self.q.rows + if options.symmetric { self.k.rows } else { 0 }
    }

    /// Whether the divisor of the mean is known only on the device.
    pub(super) fn counts(&self, options: Options) -> bool {
        options.reduction == Reduction::Mean && (self.weight.is_some() || !matches!(self.positive, Positive::Own))
    }

    /// Whether the state of a line holds more than the log-sum-exp of its negatives and the score of one positive.
    pub(super) fn is_full(&self, options: Options) -> bool {
        !matches!(self.positive, Positive::Own) || options.label_smoothing != 0.0 || options.tau_plus != 0.0
    }

    pub(super) fn index(&self) -> Option<Tensor<'a, u32>> {
        if let Positive::Index(index) = self.positive { Some(index) } else { None }
    }

    pub(super) fn groups(&self) -> Option<(Tensor<'a, u32>, Tensor<'a, u32>)> {
        if let Positive::Groups(q, k) = self.positive { Some((q, k)) } else { None }
    }

    /// The number of negatives in [`Batch::each`] per query.
    pub(super) fn per_query(&self) -> usize {
        self.each.map_or(0, |each| each.k.rows / self.q.rows.max(1))
    }

    pub(super) fn named(&self) -> Vec<(&'static str, Option<Tensor<'a, u32>>)> {
        let (groups, ids) = (self.groups(), self.ids);
        let mut all = vec![
            named("q", self.q),
            named("k", self.k),
            named("log_scale", self.log_scale),
            named("weight", self.weight),
            named("log_q", self.log_q),
            named("index", self.index()),
            named("groups of q", groups.map(|(q, _)| q)),
            named("groups of k", groups.map(|(_, k)| k)),
            named("ids of q", ids.map(|(q, _)| q)),
            named("ids of k", ids.map(|(_, k)| k)),
        ];
        for (names, negatives) in [
            (["shared", "log_q of shared", "ids of shared"], self.shared),
            (["each", "log_q of each", "ids of each"], self.each),
        ] {
            let [k, log_q, ids] = names;
            all.push(named(k, negatives.map(|negatives| negatives.k)));
            all.push(named(log_q, negatives.and_then(|negatives| negatives.log_q)));
            all.push(named(ids, negatives.and_then(|negatives| negatives.ids)));
        }
        all
    }

    /// Checks that the shapes of the tensors fit each other.
    pub(super) fn check(&self, options: Options) -> Result<()> {
        let (n, m) = (self.q.rows, self.k.rows);
        if options.symmetric && self.k.cols == self.q.cols && m != n {
            let (expected, found) = (format!("{n} rows"), format!("{m} rows"));
            return Err(Error::Shape { op: OP, what: "k", expected, found });
        }
        column("weight", self.weight, n)?;
        column("log_q", self.log_q, m)?;
        column("index", self.index(), n)?;
        for (what, pair) in [("groups", self.groups()), ("ids", self.ids)] {
            column(what, pair.map(|(of_q, _)| of_q), n)?;
            column(what, pair.map(|(_, of_k)| of_k), m)?;
        }
        let rows = self.shared.map_or(0, |shared| shared.k.rows);
        for (names, negatives, rows) in [
            (["shared", "log_q of shared", "ids of shared"], self.shared, rows),
            (["each", "log_q of each", "ids of each"], self.each, self.per_query().max(1) * n),
        ] {
            let Some(Negatives { k, log_q, ids }) = negatives else { continue };
            shaped(OP, names[0], k, [rows, self.q.cols])?;
            column(names[1], log_q, rows)?;
            column(names[2], ids, rows)?;
            if ids.is_some() && self.ids.is_none() {
                let (expected, found) = ("ids of the queries beside them".into(), "none".into());
                return Err(Error::Shape { op: OP, what: names[2], expected, found });
            }
        }
        Ok(())
    }
}

pub(super) fn column<T: Element>(what: &'static str, tensor: Option<Tensor<T>>, rows: usize) -> Result<()> {
    tensor.map_or(Ok(()), |tensor| shaped(OP, what, tensor, [rows, 1]))
}

/// Outputs for the gradients, each with the shape of its input. Absent: not computed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Gradients<'a> {
    /// Gradient of the queries.
    pub dq: Option<Tensor<'a>>,
    /// Gradient of the keys.
    pub dk: Option<Tensor<'a>>,
    /// Gradient of [`Batch::shared`].
    pub d_shared: Option<Tensor<'a>>,
    /// Gradient of [`Batch::each`].
    pub d_each: Option<Tensor<'a>>,
    /// Gradient of [`Batch::log_scale`], which is ln(1/temperature); [1, 1].
    pub d_log_scale: Option<Tensor<'a>>,
}

impl<'a> Gradients<'a> {
    /// The gradients cut to the first `length` numbers of every vector, to go with [`Batch::prefix`].
    pub fn prefix(self, length: usize) -> Self {
        let cut = |gradient: Option<Tensor<'a>>| gradient.map(|gradient| gradient.col_range(0..length));
        let Gradients { dq, dk, d_shared, d_each, d_log_scale } = self;
        Gradients { dq: cut(dq), dk: cut(dk), d_shared: cut(d_shared), d_each: cut(d_each), d_log_scale }
    }

    pub(super) fn named(&self) -> [(&'static str, Option<Tensor<'a, u32>>); 5] {
        [
            named("dq", self.dq),
            named("dk", self.dk),
            named("d_shared", self.d_shared),
            named("d_each", self.d_each),
            named("d_log_scale", self.d_log_scale),
        ]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.named().iter().all(|(_, gradient)| gradient.is_none())
    }

    /// Checks that each gradient has the shape of its input.
    pub(super) fn check(&self, batch: &Batch) -> Result<()> {
        let inputs = [Some(batch.q), Some(batch.k), batch.shared.map(|s| s.k), batch.each.map(|e| e.k)];
        let shapes = inputs.map(|input| input.map_or([0, 0], |input| input.shape()));
        for ((what, gradient), shape) in self.named().into_iter().zip(shapes.into_iter().chain([[1, 1]])) {
            gradient.map_or(Ok(()), |gradient| shaped(OP, what, gradient, shape))?;
        }
        Ok(())
    }

    /// The gradients of a block with outputs `dq` of its rows and `dk` of its columns.
    pub(super) fn of(&self, dq: Option<Tensor<'a>>, dk: Option<Tensor<'a>>) -> pairs::Gradients<'a> {
        pairs::Gradients { dq, dk, d_log_scale: self.d_log_scale, d_bias: None }
    }
}
