//! Divergences between the rows of a model's `x`, with probabilities q, and of a target's `t`, with probabilities p.
//!
//! The divergences are Kullback-Leibler, Σ p (ln p − ln q); reverse Kullback-Leibler, Σ q (ln q − ln p);
//! Jensen-Shannon, b KL(p ‖ m) + (1 − b) KL(q ‖ m) with m = b p + (1 − b) q; and total variation, ½ Σ |p − q|. [`Form`]
//! says whether x and t are logits (p = softmax(t/T)), probabilities or logarithms of probabilities. All divergences
//! but [`Divergence::Kl`] require logits and a reduction other than [`Reduction::None`].
//!
//! Special values:
//! - 0 ln 0 = 0: an element with p = 0 adds nothing to the loss or the gradient, even where ln q = −inf.
//! - An element with p > 0 and q = 0 gives loss +inf. Its dx is −p, for logits −p/T.
//! - −inf among logits is a mask: probability 0. In a row of only masks all probabilities are 0, and terms multiplied
//!   by them are 0.
//! - A row of logits that holds NaN or +inf gives NaN.
//! - A negative probability t has no logarithm: loss and dt are NaN.
//! - The gradient of the total variation is 0 where p = q.
//!
//! Source: Kullback and Leibler 1951, doi:10.1214/aoms/1177729694; Lin 1991, doi:10.1109/18.61115; temperature: Hinton,
//! Vinyals and Dean 2015, arXiv:1503.02531; in distillation: Agarwal et al. 2023, arXiv:2306.13649, section 2;
//! reductions as in torch.nn.functional.kl_div.

use super::{Accum, Reduction, disjoint, named, required, rows_of, scale_of, shaped, tempered, total};
use crate::kernel::{Family, Kernel, ScalarType::*, Shader, input, output, wgsl};
use crate::plan::{Arg, Plan, Scalar};
use crate::{Error, Gpu, Recorder, Result, Tensor};

const OP: &str = "kl";
static SHADER: Shader = Shader {
    op: OP,
    source: wgsl!("kl", "math", "lse", "row"),
    bindings: &[input("x"), input("t"), input("dy"), output("loss"), output("dx"), output("dt"), output("part")],
    scalars: &[
        ("beta", F32),
        ("rest_beta", F32),
        ("scale_high", F32),
        ("scale_low", F32),
        ("scale_least", F32),
        ("most_half_gap", F32),
        ("scale", F32),
        ("factor_x", F32),
        ("factor_t", F32),
        ("dy_by_row", U32),
    ],
    family: Family::Rows,
};
static FORWARD: Kernel =
    Kernel { shader: &SHADER, entry: "forward", uses: &["x", "t", "dy", "loss", "dx", "dt", "part"], in_place: None };
pub(super) const KERNELS: &[&Kernel] = &[&FORWARD];

/// `STAGE`s of rows that are cut into segments, see shaders/lib/row.wgsl: with and without a pass for sums.
const WITH_SUMS: &[u32] = &[1, 3, 4];
const WITHOUT_SUMS: &[u32] = &[1, 2];

/// Upper bound of −ln p for elements that are not masked: `MOST` of the shader.
const MOST: f64 = 3.4e38;

/// What x and t hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Form {
    /// Both are logits: p = softmax(t/T), q = softmax(x/T).
    #[default]
    Logits,
    /// t are probabilities, which need not sum to 1, and x logits: p = t, q = softmax(x/T).
    Probabilities,
    /// x = ln q, t = p, as in torch.nn.functional.kl_div.
    LogQ,
    /// x = ln q, t = ln p, as in torch.nn.functional.kl_div with `log_target`.
    LogQLogP,
}

/// The divergence to compute.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Divergence {
    /// Kullback-Leibler: Σ p (ln p − ln q).
    #[default]
    Kl,
    /// Reverse Kullback-Leibler: Σ q (ln q − ln p).
    ReverseKl,
    /// Jensen-Shannon: b KL(p ‖ m) + (1 − b) KL(q ‖ m), m = b p + (1 − b) q.
    JensenShannon {
        /// b, above 0 and below 1. 0.5 gives the symmetric divergence.
        beta: f32,
    },
    /// Total variation: ½ Σ |p − q|.
    TotalVariation,
}

/// Options of the op.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// Default: logits.
    pub form: Form,
    /// Default: Kullback-Leibler.
    pub divergence: Divergence,
    /// T, which divides logits: between 1e-30 and 1e30, with `scale_t2` between 1e-15 and 1e15. Default: 1.
    ///
    /// Probabilities and logarithms are not divided by T: with [`Form::LogQ`] and [`Form::LogQLogP`] the caller applies
    /// T beforehand.
    pub temperature: f32,
    /// Multiplies loss and gradients by T², whatever the form. This keeps the gradient's size as T grows
    /// (distillation). Default: off.
    pub scale_t2: bool,
    /// Default: the sum divided by the number of rows, which is the mean of the rows' divergences.
    pub reduction: Reduction,
    /// Whether gradients overwrite their outputs or are added to them. Default: overwrite.
    pub accum: Accum,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            form: Form::Logits,
            divergence: Divergence::Kl,
            temperature: 1.0,
            scale_t2: false,
            reduction: Reduction::BatchMean,
            accum: Accum::Write,
        }
    }
}

impl Options {
    pub(super) fn check(&self, op: &'static str) -> Result<()> {
        let temperature = self.temperature;
        let holds = (1e-30..=1e30).contains(&temperature);
        required(op, "temperature", temperature, holds, "between 1e-30 and 1e30")?;
        let holds = !self.scale_t2 || (1e-15..=1e15).contains(&temperature);
        required(op, "temperature", temperature, holds, "between 1e-15 and 1e15 with scale_t2")?;
        if let Divergence::JensenShannon { beta } = self.divergence {
            required(op, "beta", beta, beta > 0.0 && beta < 1.0, "above 0 and below 1")?;
        }
        match self.divergence {
            Divergence::Kl => Ok(()),
            _ => self.of_rows_of_logits(op, ["Logits for this divergence", "one of rows for this divergence"]),
        }
    }

    /// Refuses forms other than logits, and [`Reduction::None`]. `form` and `reduction` are the expectations in the
    /// errors.
    pub(super) fn of_rows_of_logits(&self, op: &'static str, [form, reduction]: [&'static str; 2]) -> Result<()> {
        if self.form != Form::Logits {
            return Err(Error::Option { op, option: "form", expected: form, found: format!("{:?}", self.form) });
        }
        match self.reduction {
            Reduction::None => {
                Err(Error::Option { op, option: "reduction", expected: reduction, found: "None".to_owned() })
            }
            _ => Ok(()),
        }
    }

    /// Whether x holds logarithms, so that elements are independent of each other.
    pub(crate) fn by_element(&self) -> bool {
        matches!(self.form, Form::LogQ | Form::LogQLogP)
    }
}

/// Outputs for gradients, each of the shape of its input. Absent gradients are not computed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Gradients<'a> {
    /// Gradient of x.
    pub dx: Option<Tensor<'a>>,
    /// Gradient of t.
    pub dt: Option<Tensor<'a>>,
}

/// One call: the loss, gradients or both.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) x: Tensor<'a>,
    pub(super) t: Tensor<'a>,
    pub(super) dy: Option<Tensor<'a>>,
    pub(super) loss: Option<Tensor<'a>>,
    pub(super) gradients: Gradients<'a>,
    pub(super) options: Options,
}

impl<'a> Call<'a> {
    fn check(&self) -> Result<()> {
        self.options.check(OP)?;
        let Call { x, t, dy, loss, gradients: Gradients { dx, dt }, .. } = *self;
        let whole = self.options.reduction.of_elements(x.shape());
        for (what, tensor, shape) in [
            ("t", Some(t), x.shape()),
            ("dy", dy, whole),
            ("loss", loss, whole),
            ("dx", dx, x.shape()),
            ("dt", dt, x.shape()),
        ] {
            tensor.map_or(Ok(()), |tensor| shaped(OP, what, tensor, shape))?;
        }
        let inputs = [named("x", x), named("t", t), named("dy", dy)];
        disjoint(OP, &[named("loss", loss), named("dx", dx), named("dt", dt)], &inputs)
    }

    /// Plans the losses of rows of logits, one per segment of a row, and gradients times `factor`. For ops whose loss
    /// is reduced over more rows than these.
    pub(super) fn rows_of(self, plan: &mut Plan, factor: f64) -> Result<()> {
        self.turned().dispatch(plan, factor)
    }

    /// Reverse Kullback-Leibler is Kullback-Leibler with the two sides exchanged.
    fn turned(self) -> Self {
        if self.options.divergence != Divergence::ReverseKl {
            return self;
        }
        let Gradients { dx, dt } = self.gradients;
        let options = Options { divergence: Divergence::Kl, ..self.options };
        Call { x: self.t, t: self.x, gradients: Gradients { dx: dt, dt: dx }, options, ..self }
    }

    fn record(self, recorder: &mut Recorder) -> Result<()> {
        self.check()?;
        recorder.plan(|plan| self.turned().plan(plan))
    }

    fn plan(self, plan: &mut Plan) -> Result<()> {
        let pieces = self.pieces();
        let segments = |piece: &Call| plan.cut(piece.x.rows, piece.x.cols).segments;
        let counts: Vec<[usize; 2]> = pieces.iter().map(|piece| [piece.x.rows, segments(piece)]).collect();
        let count = counts.iter().map(|[rows, segments]| rows * segments).sum();
        let values = total::values(plan, count, 1)?;
        let by_row = self.options.reduction == Reduction::Rows;
        let direct = self.options.reduction == Reduction::None || (by_row && counts.iter().all(|&[_, n]| n == 1));
        let mut at = 0;
        for (piece, [rows, segments]) in pieces.iter().zip(counts) {
            let value = Tensor::strided(&values, rows, segments, at, segments)?;
            let loss = piece.loss.map(|loss| if direct { loss } else { value });
            at += rows * segments;
            Call { loss, ..*piece }.dispatch(plan, self.factor())?;
            if let Some(loss) = self.loss.filter(|_| by_row && !direct) {
                total::row_totals(plan, value, loss, 1.0)?;
            }
        }
        match self.loss.filter(|_| !by_row && !direct) {
            Some(loss) => total::total(plan, Tensor::vector(&values, count)?, loss, self.factor() as f32),
            None => Ok(()),
        }
    }

    /// The call itself, or, if elements are independent and rows do not matter, the same call for blocks of the
    /// elements.
    fn pieces(&self) -> Vec<Self> {
        if !self.options.by_element() || self.options.reduction == Reduction::Rows {
            return vec![*self];
        }
        let of_elements = |tensor: Option<Tensor<'a>>| tensor.filter(|_| self.options.reduction == Reduction::None);
        let Gradients { dx, dt } = self.gradients;
        let blocks = Plan::blocks(&[Some(self.x), Some(self.t), of_elements(self.dy), of_elements(self.loss), dx, dt]);
        let piece = |[x, t, dy, loss, dx, dt]: [Option<Tensor<'a>>; 6]| {
            let (dy, loss, gradients) = (dy.or(self.dy), loss.or(self.loss), Gradients { dx, dt });
            Call { x: x.unwrap_or(self.x), t: t.unwrap_or(self.t), dy, loss, gradients, ..*self }
        };
        blocks.into_iter().filter_map(|block| block.try_into().ok()).map(piece).collect()
    }

    fn dispatch(self, plan: &mut Plan, factor: f64) -> Result<()> {
        let Call { x, t, dy, loss, gradients: Gradients { dx, dt }, options } = self;
        let output = |tensor: Option<Tensor<'a>>| tensor.map_or(Arg::NONE, Arg::by_row);
        let dy = match options.reduction {
            Reduction::None | Reduction::Rows => output(dy),
            Reduction::Sum | Reduction::Mean | Reduction::BatchMean => dy.map_or(Arg::NONE, Arg::whole),
        };
        let args = [Arg::by_row(x), Arg::by_row(t), dy, output(loss), output(dx), output(dt)];
        let scalars = self.scalars(factor);
        if options.by_element() {
            let args = [&args[..], &[Arg::NONE]].concat();
            return plan.elements(&FORWARD, x.shape(), &args, &scalars, &self.flags(plan));
        }
        let stages = if self.needs_sums() { WITH_SUMS } else { WITHOUT_SUMS };
        plan.staged(&FORWARD, x.shape(), stages, &args, &scalars, &self.flags(plan))
    }

    /// The factor that multiplies the sum of the rows' divergences.
    fn factor(&self) -> f64 {
        self.options.reduction.factor(self.x.shape())
    }

    /// Whether the gradients need an extra pass over the row for its sums. Kl of logits does not, unless each element
    /// has its own `dy`.
    fn needs_sums(&self) -> bool {
        let Gradients { dx, dt } = self.gradients;
        let own_weights = self.dy.is_some() && self.options.reduction == Reduction::None;
        match (self.options.form, self.options.divergence) {
            (Form::Logits, Divergence::Kl) => own_weights && (dx.is_some() || dt.is_some()),
            (Form::Logits, _) => dx.is_some() || dt.is_some(),
            (Form::Probabilities, _) => dx.is_some(),
            (Form::LogQ | Form::LogQLogP, _) => false,
        }
    }

    /// The shader's `override` constants.
    fn flags(&self, plan: &Plan) -> [(&'static str, u32); 11] {
        let divergence = match self.options.divergence {
            Divergence::Kl | Divergence::ReverseKl => 0,
            Divergence::JensenShannon { .. } => 1,
            Divergence::TotalVariation => 2,
        };
        let each = self.options.reduction == Reduction::None;
        [
            ("FORM", self.options.form as u32),
            ("DIVERGENCE", divergence),
            ("ROW_LOSS", (self.loss.is_some() && !each).into()),
            ("EACH_LOSS", (self.loss.is_some() && each).into()),
            ("EACH_DY", (self.dy.is_some() && each).into()),
            ("HAS_DX", self.gradients.dx.is_some().into()),
            ("HAS_DT", self.gradients.dt.is_some().into()),
            ("HAS_SUMS", self.needs_sums().into()),
            ("ADD", (self.options.accum == Accum::Add).into()),
            ("UNROLLED", plan.gpu().tuning().unrolled.into()),
            tempered(plan, self.options.temperature),
        ]
    }

    /// The shader's scalars. `factor` multiplies the gradients.
    fn scalars(&self, factor: f64) -> [Scalar; 10] {
        let Options { form, divergence, temperature, .. } = self.options;
        let beta = if let Divergence::JensenShannon { beta } = divergence { beta } else { 0.0 };
        let wide = f64::from(temperature);
        let scale = if self.options.scale_t2 { wide * wide } else { 1.0 };
        let slope = |logits: bool| (factor * scale / if logits { wide } else { 1.0 }) as f32;
        let [high, low, least] = scale_of(temperature);
        [
            beta.into(),
            ((1.0 - f64::from(beta)) as f32).into(),
            high,
            low,
            least,
            ((0.5 * MOST * wide).min(MOST) as f32).into(),
            (scale as f32).into(),
            slope(!self.options.by_element()).into(),
            slope(form == Form::Logits).into(),
            (self.dy.is_some() && self.options.reduction == Reduction::Rows).into(),
        ]
    }
}

/// The loss of `x` and `t`, both `[rows, cols]`.
///
/// `loss` is `[rows, cols]` for [`Reduction::None`], `[rows, 1]` for [`Reduction::Rows`], else `[1, 1]`. The given
/// gradients are the same as from [`backward`] without `dy`, computed in the same pass.
///
/// # Errors
/// [`Error::Shape`], [`Error::Option`], [`Error::SameBuffer`].
pub fn forward(
    recorder: &mut Recorder,
    x: Tensor,
    t: Tensor,
    loss: Tensor,
    gradients: Gradients,
    options: Options,
) -> Result<()> {
    Call { x, t, dy: None, loss: Some(loss), gradients, options }.record(recorder)
}

/// The given gradients from the forward's inputs.
///
/// `dy` is the gradient of the loss and has the loss's shape. Absent: ones.
///
/// # Errors
/// As [`forward`].
pub fn backward(
    recorder: &mut Recorder,
    x: Tensor,
    t: Tensor,
    dy: Option<Tensor>,
    gradients: Gradients,
    options: Options,
) -> Result<()> {
    Call { x, t, dy, loss: None, gradients, options }.record(recorder)
}

/// The loss of two slices, in rows of `cols` elements, and its gradients dx and dt.
///
/// ```
/// # let Ok(gpu) = wgloss::Gpu::new() else { return };
/// use wgloss::kl;
/// // p = (1/2, 1/2), q = (1/4, 3/4)
/// let (x, t) = ([0.0, 3f32.ln()], [0.0, 0.0]);
/// let (loss, [dx, _]) = kl::compute(&gpu, &x, &t, 2, kl::Options::default()).unwrap();
/// assert!((loss[0] - (2.0 / 3f32.sqrt()).ln()).abs() < 1e-6);
/// assert!((dx[0] + 0.25).abs() < 1e-6 && (dx[1] - 0.25).abs() < 1e-6); // q - p
/// ```
///
/// # Errors
/// As [`forward`], and any error of the device.
#[cfg(not(target_arch = "wasm32"))]
pub fn compute(gpu: &Gpu, x: &[f32], t: &[f32], cols: usize, options: Options) -> Result<(Vec<f32>, [Vec<f32>; 2])> {
    let (rows, t_rows) = (rows_of(OP, "x", x, cols)?, rows_of(OP, "t", t, cols)?);
    let [loss_rows, loss_cols] = options.reduction.of_elements([rows, cols]);
    let inputs = [gpu.upload(x)?, gpu.upload(t)?];
    let outputs = [gpu.zeros::<f32>(x.len())?, gpu.zeros::<f32>(x.len())?];
    let loss = gpu.zeros::<f32>(loss_rows * loss_cols)?;
    let (x, t) = (Tensor::matrix(&inputs[0], rows, cols)?, Tensor::matrix(&inputs[1], t_rows, cols)?);
    let loss = Tensor::matrix(&loss, loss_rows, loss_cols)?;
    let (dx, dt) = (Tensor::matrix(&outputs[0], rows, cols)?, Tensor::matrix(&outputs[1], rows, cols)?);
    gpu.run(|recorder| forward(recorder, x, t, loss, Gradients { dx: Some(dx), dt: Some(dt) }, options))?;
    Ok((gpu.read(loss)?, [gpu.read(dx)?, gpu.read(dt)?]))
}
