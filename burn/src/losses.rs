use std::sync::{Arc, OnceLock};

use burn::backend::Dispatch;
use burn::tensor::{DType, Int, Shape, Tensor};
use wgloss::{Accum, Reduction};

use crate::ops::{Call, FIXED, Ids, LEARNED, Loss, Record};
use crate::{Error, Result};

/// The tensors that [`info_nce`] compares, and how.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Queries `[N, D]`.
    pub queries: Tensor<2>,
    /// Keys `[M, D]`. Key i is query i's positive unless `index` or `groups` say otherwise.
    pub keys: Tensor<2>,
    /// A learned scale `[1]`: the scale is min(e^log_scale, [`max_scale`](wgloss::info_nce::Options::max_scale)),
    /// whatever the temperature. Without it the scale is 1/temperature.
    ///
    /// Above the bound the gradient is 0, so a step that goes too far, for example by momentum, is never taken back.
    /// After each step, clamp the parameter by `clamp_max(most_log_scale(100.0))`
    /// ([`most_log_scale`](wgloss::info_nce::most_log_scale)).
    pub log_scale: Option<Tensor<1>>,
    /// Further negatives of every query `[L, D]`: sampled keys, or past keys. For past keys,
    /// `detach().set_require_grad(false)` saves the work of their gradient. (`detach` alone leaves a gradient to a
    /// tensor that asked for one.)
    pub shared: Option<Tensor<2>>,
    /// Weights of the queries' losses `[N]`. No gradient.
    pub weight: Option<Tensor<1>>,
    /// Subtracted from the scores of each key `[M]`: the logarithm of the probability with which the key was drawn. No
    /// gradient.
    pub log_q: Option<Tensor<1>>,
    /// The index of each query's positive key `[N]`. An index that no key has means that the query has no positive.
    pub index: Option<Tensor<1, Int>>,
    /// Group ids of the queries `[N]` and of the keys `[M]`: the keys of a query's group are its positives.
    pub groups: Option<(Tensor<1, Int>, Tensor<1, Int>)>,
    /// Ids of the queries `[N]` and of the keys `[M]`: a key with the query's id that is not its positive is left out
    /// (a false negative).
    pub ids: Option<(Tensor<1, Int>, Tensor<1, Int>)>,
}

impl Batch {
    /// Queries and keys, without anything else.
    pub fn new(queries: Tensor<2>, keys: Tensor<2>) -> Self {
        let (log_scale, shared, weight, log_q, index, groups, ids) = (None, None, None, None, None, None, None);
        Batch { queries, keys, log_scale, shared, weight, log_q, index, groups, ids }
    }

    /// Sets a learned scale, the logarithm of 1/temperature.
    pub fn scaled(self, log_scale: Tensor<1>) -> Self {
        Batch { log_scale: Some(log_scale), ..self }
    }
}

/// Learned parameters `[1]` that replace the constants of [`wgloss::siglip::Options`].
#[derive(Debug, Clone, Default)]
pub struct Learned {
    /// ln(1/temperature).
    pub log_scale: Option<Tensor<1>>,
    /// The bias.
    pub bias: Option<Tensor<1>>,
}

/// The target of [`cross_entropy`].
#[derive(Debug, Clone)]
pub enum Target {
    /// Class ids `[rows]`.
    Ids(Tensor<1, Int>),
    /// A share of every class `[rows, classes]`. No gradient.
    Soft(Tensor<2>),
}

impl From<Tensor<1, Int>> for Target {
    fn from(ids: Tensor<1, Int>) -> Self {
        Target::Ids(ids)
    }
}

impl From<Tensor<2>> for Target {
    fn from(shares: Tensor<2>) -> Self {
        Target::Soft(shares)
    }
}

/// A linear layer and its input.
#[derive(Debug, Clone)]
pub struct Layer {
    /// The input x, `[rows, inputs]`.
    pub x: Tensor<2>,
    /// The weights W, `[inputs, classes]`, or `[classes, inputs]` if `tied`.
    pub w: Tensor<2>,
    /// The bias b, `[classes]`.
    pub b: Option<Tensor<1>>,
    /// Whether W has a row for each class, instead of a column.
    pub tied: bool,
}

impl Layer {
    /// Without a bias, W `[inputs, classes]`: `weight.val()` of burn's `Linear`.
    pub fn new(x: Tensor<2>, w: Tensor<2>) -> Self {
        Layer { x, w, b: None, tied: false }
    }

    /// Without a bias, W `[classes, inputs]`: `weight.val()` of burn's `Embedding`.
    pub fn tied(x: Tensor<2>, w: Tensor<2>) -> Self {
        Layer { tied: true, ..Layer::new(x, w) }
    }

    /// Sets a bias `[classes]`, if there is one: `linear.bias.as_ref().map(Param::val)`.
    pub fn biased(self, b: impl Into<Option<Tensor<1>>>) -> Self {
        Layer { b: b.into(), ..self }
    }
}

/// Weights of the classes and of the rows of [`cross_entropy`]. Absent: 1 each. No gradients.
#[derive(Debug, Clone, Default)]
pub struct Weights {
    /// Weights of the classes, `[classes]`.
    pub class: Option<Tensor<1>>,
    /// Weights of the rows, `[rows]`.
    pub row: Option<Tensor<1>>,
}

/// The contrastive loss, `[1]`: ln Σ_j e^s_ij − s_ii with s = scale · queries keysᵀ. The scores s are never stored.
///
/// Gradients reach queries, keys, `log_scale` and `shared`, as far as they ask for one. A frozen side costs nothing.
///
/// [`wgloss::info_nce`] has the formulas, the sources and what each option does.
///
/// # Errors
/// [`Error`] for shapes or options that do not fit, or for an unknown device. A loss for each query has no gradient
/// here and is refused.
pub fn info_nce(batch: Batch, options: wgloss::info_nce::Options) -> Result<Tensor<1>> {
    use wgloss::info_nce::{Gradients, Negatives, Positive, forward};
    const OP: &str = "info_nce";
    summed(OP, options.reduction, options.accum)?;
    let lines = 1 + batch.queries.dims()[0] + batch.keys.dims()[0];
    let (has_index, has_groups, has_ids) = (batch.index.is_some(), batch.groups.is_some(), batch.ids.is_some());
    if has_index && has_groups {
        let (option, expected, found) = ("index", "without groups", "both".into());
        return Err(wgloss::Error::Option { op: OP, option, expected, found }.into());
    }
    let mut inputs = Inputs::new(OP, [("queries", batch.queries), ("keys", batch.keys)], [1].into());
    inputs.column(2, "log_scale", batch.log_scale);
    inputs.float(3, "shared", batch.shared);
    inputs.column(4, "weight", batch.weight);
    inputs.column(5, "log_q", batch.log_q);
    inputs.ids.extend(batch.index.map(|index| ("index", index)));
    for (names, pair) in
        [(["groups of queries", "groups of keys"], batch.groups), (["ids of queries", "ids of keys"], batch.ids)]
    {
        inputs.ids.extend(pair.into_iter().flat_map(|(q, k)| names.into_iter().zip([q, k])));
    }
    inputs.spare = 8 * lines;
    inputs.run(Arc::new(move |recorder, views| {
        let first = usize::from(has_index) + 2 * usize::from(has_groups);
        let batch = wgloss::info_nce::Batch {
            log_scale: views.input(2)?,
            shared: views.input(3)?.map(Negatives::from),
            weight: views.input(4)?,
            log_q: views.input(5)?,
            positive: match (has_index, has_groups) {
                (true, _) => Positive::Index(views.ids(0)?),
                (_, true) => Positive::Groups(views.ids(0)?, views.ids(1)?),
                _ => Positive::Own,
            },
            ids: has_ids.then(|| Ok::<_, wgloss::Error>((views.ids(first)?, views.ids(first + 1)?))).transpose()?,
            ..wgloss::info_nce::Batch::new(views.given(0)?, views.given(1)?)
        };
        let gradients = Gradients {
            dq: views.gradient(0)?,
            dk: views.gradient(1)?,
            d_log_scale: views.gradient(2)?,
            d_shared: views.gradient(3)?,
            ..Default::default()
        };
        forward(recorder, batch, views.value()?, views.spare(batch.state_shape(options))?, gradients, options)
    }))
}

/// The sigmoid loss of all pairs, `[1]`: −Σ_j ln σ(z_ij (scale · ⟨q_i, k_j⟩ + bias)), where z_ij is 1 if i = j, else
/// −1. The pairs are never stored.
///
/// Gradients reach queries, keys and the learned parameters, as far as they ask for one.
///
/// [`wgloss::siglip`] has the formulas, the source and what each option does.
///
/// # Errors
/// As [`info_nce`].
pub fn siglip(
    queries: Tensor<2>,
    keys: Tensor<2>,
    learned: Learned,
    options: wgloss::siglip::Options,
) -> Result<Tensor<1>> {
    use wgloss::siglip::{Gradients, Learned, forward};
    summed("siglip", options.reduction, options.accum)?;
    let mut inputs = Inputs::new("siglip", [("queries", queries), ("keys", keys)], [1].into());
    inputs.column(2, "log_scale", learned.log_scale);
    inputs.column(3, "bias", learned.bias);
    inputs.run(Arc::new(move |recorder, views| {
        let learned = Learned { log_scale: views.input(2)?, bias: views.input(3)? };
        let gradients = Gradients {
            dq: views.gradient(0)?,
            dk: views.gradient(1)?,
            d_log_scale: views.gradient(2)?,
            d_bias: views.gradient(3)?,
        };
        forward(recorder, views.given(0)?, views.given(1)?, learned, views.value()?, gradients, options)
    }))
}

/// Cross entropy −ln softmax(x)[t] of logits `[rows, classes]`.
///
/// The loss is `[rows]` for [`Reduction::None`] and [`Reduction::Rows`], else `[1]`. The gradient of the logits is
/// computed in the same pass.
///
/// [`wgloss::cross_entropy`] has the formulas, the sources and what each option does.
///
/// # Errors
/// [`Error`] for shapes or options that do not fit, or for an unknown device.
pub fn cross_entropy(
    logits: Tensor<2>,
    target: impl Into<Target>,
    weights: Weights,
    options: wgloss::cross_entropy::Options,
) -> Result<Tensor<1>> {
    use wgloss::cross_entropy::{Target as View, Weights as Views, forward};
    const OP: &str = "cross_entropy";
    written(OP, options.accum)?;
    let [rows, _] = logits.dims();
    let mut inputs = Inputs::of(OP, ("logits", logits), shape_of(options.reduction, rows));
    inputs.float(4, "weights.class", weights.class.map(|class| class.unsqueeze_dim(0)));
    inputs.column(5, "weights.row", weights.row);
    match target.into() {
        Target::Ids(ids) => inputs.ids.push(("target", ids)),
        Target::Soft(shares) => inputs.float(1, "target", Some(fixed(shares))),
    }
    inputs.spare = 2 * rows;
    inputs.run(Arc::new(move |recorder, views| {
        let target = match views.input(1)? {
            Some(shares) => View::Soft(shares),
            None => View::Ids(views.ids(0)?),
        };
        let weights = Views { class: views.input(4)?, row: views.input(5)? };
        let (x, lse) = (views.given(0)?, views.spare([rows, 2])?);
        forward(recorder, x, target, weights, views.value()?, lse, views.gradient(0)?, options)
    }))
}

/// [`cross_entropy`] of the logits x Wᵀ + b, which are never stored: `[1]`.
///
/// For the last layer of a language model, or of a classifier with many classes. Gradients reach x, W and b, as far as
/// they ask for one, and are computed in the same pass.
///
/// [`wgloss::linear_cross_entropy`] has the memory, the sources and what each option does.
///
/// # Errors
/// As [`cross_entropy`]. A loss for each row has no gradient here and is refused.
pub fn linear_cross_entropy(
    layer: Layer,
    target: impl Into<Target>,
    weights: Weights,
    options: wgloss::linear_cross_entropy::Options,
) -> Result<Tensor<1>> {
    use wgloss::linear_cross_entropy::{Batch, Gradients, Layer, Target as View, Weights as Views, forward};
    const OP: &str = "linear_cross_entropy";
    summed(OP, options.reduction, options.accum)?;
    let self::Layer { x, w, b, tied } = layer;
    let mut inputs = Inputs::new(OP, [("x", x), ("w", w)], [1].into());
    inputs.column(2, "b", b);
    inputs.float(4, "weights.class", weights.class.map(|class| class.unsqueeze_dim(0)));
    inputs.column(5, "weights.row", weights.row);
    match target.into() {
        Target::Ids(ids) => inputs.ids.push(("target", ids)),
        Target::Soft(shares) => inputs.float(3, "target", Some(fixed(shares))),
    }
    inputs.run(Arc::new(move |recorder, views| {
        let target = match views.input(3)? {
            Some(shares) => View::Soft(shares),
            None => View::Ids(views.ids(0)?),
        };
        let layer = Layer { b: views.input(2)?, transposed: !tied, ..Layer::new(views.given(0)?, views.given(1)?) };
        let weights = Views { class: views.input(4)?, row: views.input(5)? };
        let (dx, dw, db) = (views.gradient(0)?, views.gradient(1)?, views.gradient(2)?);
        let (batch, gradients) = (Batch { layer, target, weights }, Gradients { dx, dw, db, ..Default::default() });
        forward(recorder, batch, views.value()?, None, None, gradients, options)
    }))
}

/// The divergence between the rows of the model's `x` and of the target's `t`, both `[rows, cols]`.
///
/// The loss is `[rows]` for [`Reduction::Rows`], else `[1]`. Gradients reach both sides, as far as they ask for one,
/// and are computed in the same pass.
///
/// [`wgloss::kl`] has the formulas, the sources and what each option does.
///
/// # Errors
/// As [`cross_entropy`]. [`Reduction::None`], a loss for each element, is refused.
pub fn kl(x: Tensor<2>, t: Tensor<2>, options: wgloss::kl::Options) -> Result<Tensor<1>> {
    use wgloss::kl::{Gradients, forward};
    written("kl", options.accum)?;
    if options.reduction == Reduction::None {
        return Err(refused("kl", "reduction", "Rows, Sum, Mean or BatchMean", options.reduction));
    }
    let shape = shape_of(options.reduction, x.dims()[0]);
    Inputs::new("kl", [("x", x), ("t", t)], shape).run(Arc::new(move |recorder, views| {
        let gradients = Gradients { dx: views.gradient(0)?, dt: views.gradient(1)? };
        forward(recorder, views.given(0)?, views.given(1)?, views.value()?, gradients, options)
    }))
}

/// [`kl`] of the logits of two layers, which are never stored: `[1]`.
///
/// For distillation where the logits of either model do not fit into memory. Gradients reach the student's x, W and b,
/// as far as they ask for one, and are computed in the same pass. The teacher gets no gradients.
///
/// [`wgloss::linear_kl`] has the memory, the sources and what each option does.
///
/// # Errors
/// As [`linear_cross_entropy`].
pub fn linear_kl(student: Layer, teacher: Layer, options: wgloss::linear_kl::Options) -> Result<Tensor<1>> {
    use wgloss::linear_kl::{Gradients, Layer, forward};
    const OP: &str = "linear_kl";
    summed(OP, options.reduction, options.accum)?;
    let transposed = [!student.tied, !teacher.tied];
    let mut inputs = Inputs::new(OP, [("x", student.x), ("w", student.w)], [1].into());
    inputs.column(2, "b", student.b);
    inputs.float(3, "teacher's x", Some(fixed(teacher.x)));
    inputs.float(4, "teacher's w", Some(fixed(teacher.w)));
    inputs.column(5, "teacher's b", teacher.b);
    inputs.run(Arc::new(move |recorder, views| {
        let (student, teacher) =
            (Layer::new(views.given(0)?, views.given(1)?), Layer::new(views.given(3)?, views.given(4)?));
        let student = Layer { b: views.input(2)?, transposed: transposed[0], ..student };
        let teacher = Layer { b: views.input(5)?, transposed: transposed[1], ..teacher };
        let (dx, dw, db) = (views.gradient(0)?, views.gradient(1)?, views.gradient(2)?);
        let gradients = Gradients { dx, dw, db, ..Default::default() };
        forward(recorder, student, teacher, views.value()?, gradients, options)
    }))
}

/// The tensor without a gradient. `detach` alone leaves a gradient to a tensor that asked for one.
fn fixed(tensor: Tensor<2>) -> Tensor<2> {
    tensor.detach().set_require_grad(false)
}

fn refused(op: &'static str, option: &'static str, expected: &'static str, found: impl core::fmt::Debug) -> Error {
    wgloss::Error::Option { op, option, expected, found: format!("{found:?}") }.into()
}

/// Refuses to add to gradients, because burn adds them up itself.
fn written(op: &'static str, accum: Accum) -> Result<()> {
    if accum == Accum::Write { Ok(()) } else { Err(refused(op, "accum", "Write", accum)) }
}

/// Refuses a loss for each query or row. In a loss of pairs the gradient of a key comes from all queries, and the
/// gradient of a layer's weights comes from all rows, so it cannot be weighted by query or row afterwards.
fn summed(op: &'static str, reduction: Reduction, accum: Accum) -> Result<()> {
    if matches!(reduction, Reduction::None | Reduction::Rows) {
        return Err(refused(op, "reduction", "Sum, Mean or BatchMean", reduction));
    }
    written(op, accum)
}

/// The error with the names that the arguments have in this crate.
fn as_named_here(op: &'static str, error: wgloss::Error) -> wgloss::Error {
    let here = |what| match what {
        "q" => "queries",
        "k" => "keys",
        "x" if op == "cross_entropy" => "logits",
        "id" | "soft" => "target",
        what => what,
    };
    match error {
        wgloss::Error::Shape { op, what, expected, found } => {
            wgloss::Error::Shape { op, what: here(what), expected, found }
        }
        error => error,
    }
}

fn shape_of(reduction: Reduction, rows: usize) -> Shape {
    if matches!(reduction, Reduction::None | Reduction::Rows) { [rows].into() } else { [1].into() }
}

/// The arguments of a loss, with their names.
struct Inputs {
    op: &'static str,
    floats: [Option<(&'static str, Tensor<2>)>; LEARNED + FIXED],
    first: Tensor<2>,
    ids: Vec<(&'static str, Tensor<1, Int>)>,
    shape: Shape,
    spare: usize,
}

impl Inputs {
    fn of(op: &'static str, (name, first): (&'static str, Tensor<2>), shape: Shape) -> Self {
        let mut inputs =
            Inputs { op, floats: Default::default(), first: first.clone(), ids: Vec::new(), shape, spare: 0 };
        inputs.float(0, name, Some(first));
        inputs
    }

    fn new(op: &'static str, [first, second]: [(&'static str, Tensor<2>); 2], shape: Shape) -> Self {
        let mut inputs = Self::of(op, first, shape);
        inputs.float(1, second.0, Some(second.1));
        inputs
    }

    fn float(&mut self, place: usize, name: &'static str, tensor: Option<Tensor<2>>) {
        self.floats[place] = tensor.map(|tensor| (name, tensor));
    }

    fn column(&mut self, place: usize, name: &'static str, tensor: Option<Tensor<1>>) {
        self.float(place, name, tensor.map(|tensor| tensor.unsqueeze_dim(1)));
    }

    fn run(self, record: Arc<Record>) -> Result<Tensor<1>> {
        let Inputs { op, floats, first, ids, shape, spare } = self;
        let device = first.device();
        let gpu = crate::gpu(&device)?;
        let others = floats.iter().flatten().map(|(name, tensor)| (*name, tensor.device(), tensor.dtype()));
        let ids_of = ids.iter().map(|(name, tensor)| (*name, tensor.device(), tensor.dtype()));
        for (what, found, dtype) in others.chain(ids_of) {
            if found != device {
                let (expected, found) = (format!("{device:?}"), format!("{found:?}"));
                return Err(Error::Devices { op, what, expected, found });
            }
            let (expected, fits) = match dtype.is_float() {
                true => ("f32, f16 or bf16", matches!(dtype, DType::F32 | DType::Flex32 | DType::F16 | DType::BF16)),
                false => ("i32 or u32", matches!(dtype, DType::I32 | DType::U32)),
            };
            // burn would cast a gradient to this type and leave zeros.
            let (expected, fits) = match fits && !device.supports_dtype(dtype) {
                true => ("a type that burn has on this device, f32 for one", false),
                false => (expected, fits),
            };
            if !fits {
                return Err(Error::Type { op, what, expected, found: format!("{dtype:?}") });
            }
        }
        let given = core::array::from_fn(|place| floats[place].is_some());
        let placeholder = fixed(first);
        let [a, b, c, d, e, f] =
            floats.map(|float| float.map_or_else(|| placeholder.clone(), |(_, tensor)| tensor).into_dispatch());
        let ids: Vec<_> = ids.into_iter().map(|(_, tensor)| tensor).collect();
        let ids = match ids.first() {
            None => Ids::None,
            Some(first) => {
                let place = |place: usize| ids.get(place).unwrap_or(first).clone().into_dispatch();
                Ids::Some { a: place(0), b: place(1), c: place(2), d: place(3) }
            }
        };
        let outcome = Arc::new(OnceLock::new());
        let call = Call { gpu, record, given, wanted: [false; LEARNED], shape, spare, outcome: outcome.clone() };
        let (value, ..) = Dispatch::wgloss(a, b, c, d, e, f, ids, call);
        let value = Tensor::<1>::from_dispatch(value);
        // burn defers what it can. Whether the loss was accepted is known only once it is recorded.
        device.flush().map_err(Error::burn)?;
        match outcome.get() {
            Some(Ok(())) => Ok(value),
            Some(Err(error)) => Err(as_named_here(op, error.clone()).into()),
            None => Err(Error::Burn { message: format!("{op} was not run") }),
        }
    }
}
