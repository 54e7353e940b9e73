//! Sigmoid loss over all pairs: loss_i = −Σ_j ln σ(z_ij (scale · ⟨q_i, k_j⟩ + bias)), with z = 1 for i = j, else −1,
//! and the sigmoid σ.
//!
//! Queries q are `[N, D]`, keys k `[M, D]`, M ≥ N. Unlike in [`info_nce`](crate::info_nce), every pair is a separate
//! binary decision. Key i is the positive of query i, all other keys are its negatives. The mean is over the N queries.
//! The scale is 1/temperature, or learned: min(e^log_scale, [`Options::max_scale`]). A NaN score gives NaN; a score of
//! +inf or −inf gives the limit.
//!
//! Memory beyond inputs and outputs, whatever M: at most 2⅛ · W bytes and four numbers per query, where W is
//! [`Tuning::workspace`](crate::Tuning::workspace). W is for a chunk of the scores' gradient, W for partial sums of
//! products, and W/8 for sums over tiles of at least 32 columns. A 16-bit dq or dk that is summed over several chunks
//! takes 4 more bytes per number.
//!
//! Work, with U = 2·N·M·D: forward U, backward 3U, forward with gradients 3U.
//!
//! Source: Zhai et al. 2023, arXiv:2303.15343, section 3.2 and its initial values.

pub use super::pairs::Gradients;
use super::pairs::{Chunk, Form, Goal, Pairs};
use super::{Accum, Reduction, disjoint, named, required, rows_of, shaped};
use crate::kernel::{Family, Kernel, ScalarType::*, Shader, input, output, wgsl};
use crate::plan::{Arg, Plan, Scalar};
use crate::{Gpu, Recorder, Result, Tensor};

const OP: &str = "siglip";
static SHADER: Shader = Shader {
    op: OP,
    source: wgsl!("siglip", "pairs", "scale", "tile", "math", "lse", "row"),
    bindings: &[
        input("q"),
        input("k"),
        input("log_scale"),
        input("bias"),
        input("dy"),
        output("g"),
        output("row_part"),
    ],
    scalars: &[
        ("dim", U32),
        ("first_row", U32),
        ("first_col", U32),
        ("learnable", U32),
        ("scale", F32),
        ("max_scale", F32),
        ("dy_by_row", U32),
        ("factor", F32),
        ("has_sums", U32),
        ("has_bias", U32),
        ("constant_bias", F32),
        ("has_g", U32),
        ("has_loss", U32),
    ],
    family: Family::Tile,
};
static FORWARD: Kernel =
    Kernel { shader: &SHADER, entry: "forward", uses: &["q", "k", "log_scale", "bias", "row_part"], in_place: None };
static BACKWARD: Kernel = Kernel {
    shader: &SHADER,
    entry: "backward",
    uses: &["q", "k", "log_scale", "bias", "dy", "g", "row_part"],
    in_place: None,
};
pub(super) const KERNELS: &[&Kernel] = &[&FORWARD, &BACKWARD];

/// Options of the op.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// 1/scale, above 0. Used without a `log_scale` tensor. Default: 0.1.
    pub temperature: f32,
    /// The bias. Used without a `bias` tensor. Default: −10.
    pub bias: f32,
    /// Upper bound of a scale given as `log_scale`. If e^log_scale exceeds it, the scale is this bound and its gradient
    /// is 0. Default: no bound, since trained models reach 110 and more.
    pub max_scale: f32,
    /// Default: the mean over the queries.
    pub reduction: Reduction,
    /// Whether gradients overwrite their outputs or are added to them. Default: overwrite.
    pub accum: Accum,
}

impl Default for Options {
    fn default() -> Self {
        Options { temperature: 0.1, bias: -10.0, max_scale: f32::MAX, reduction: Reduction::Mean, accum: Accum::Write }
    }
}

impl Options {
    fn form(&self) -> Form {
        Form { temperature: self.temperature, max_scale: self.max_scale, reduction: self.reduction, own: true }
    }
}

/// Learned parameters, `[1, 1]` each. They replace the constants of [`Options`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Learned<'a> {
    /// ln(1/temperature).
    pub log_scale: Option<Tensor<'a>>,
    /// The bias.
    pub bias: Option<Tensor<'a>>,
}

/// What all dispatches of a call have in common.
struct Batch<'a> {
    pairs: Pairs<'a>,
    learned: Learned<'a>,
    gradients: Gradients<'a>,
    options: Options,
}

impl<'a> Batch<'a> {
    fn new(
        q: Tensor<'a>,
        k: Tensor<'a>,
        learned: Learned<'a>,
        gradients: Gradients<'a>,
        options: Options,
    ) -> Result<Self> {
        let pairs = Pairs::new(OP, q, k, learned.log_scale, options.form())?;
        required(OP, "bias", options.bias, options.bias.is_finite(), "a finite number")?;
        if let Some(bias) = learned.bias {
            shaped(OP, "bias", bias, [1, 1])?;
        }
        pairs.check(&gradients)?;
        Ok(Batch { pairs, learned, gradients, options })
    }

    /// Refuses outputs that overlap another argument.
    fn disjoint(&self, loss: Option<Tensor>, dy: Option<Tensor>) -> Result<()> {
        let Gradients { dq, dk, d_log_scale, d_bias } = self.gradients;
        let outputs = [
            named("loss", loss),
            named("dq", dq),
            named("dk", dk),
            named("d_log_scale", d_log_scale),
            named("d_bias", d_bias),
        ];
        let inputs = [
            named("q", self.pairs.q),
            named("k", self.pairs.k),
            named("log_scale", self.learned.log_scale),
            named("bias", self.learned.bias),
            named("dy", dy),
        ];
        disjoint(OP, &outputs, &inputs)
    }

    fn scalars(&self, chunk: &Chunk, has_loss: bool) -> Vec<Scalar> {
        let common = self.pairs.scalars([chunk.rows.start, chunk.cols.start], self.gradients.has_sums());
        let own = [
            self.learned.bias.is_some().into(),
            self.options.bias.into(),
            self.gradients.has_g().into(),
            has_loss.into(),
        ];
        [&common[..], &own].concat()
    }

    fn record(&self, plan: &mut Plan, loss: Option<Tensor>) -> Result<()> {
        let accum = self.options.accum;
        let goal = Goal { loss, gradients: self.gradients, accum: [accum; 2], accum_sums: accum, along: false };
        self.pairs.walk(plan, goal, |plan, chunk, sinks| {
            let inputs = [
                Arg::whole(chunk.q),
                Arg::whole(chunk.k),
                self.pairs.log_scale,
                self.learned.bias.map_or(Arg::NONE, Arg::whole),
            ];
            let scalars = self.scalars(chunk, loss.is_some());
            let (kernel, others) = match self.gradients.is_empty() {
                true => (&FORWARD, &[sinks.row_part][..]),
                false => (&BACKWARD, &[self.pairs.dy, sinks.g, sinks.row_part][..]),
            };
            plan.tiles(kernel, &[&inputs, others].concat(), chunk.products(), &scalars, &[], chunk.grid)
        })?;
        Ok(())
    }
}

/// The loss of queries `q` `[N, D]` and keys `k` `[M, D]`, M ≥ N.
///
/// `loss` is `[N, 1]` for [`Reduction::None`] and [`Reduction::Rows`], else `[1, 1]`. The given `gradients` are the
/// same as from [`backward`] without `dy`, computed in the same pass.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape), [`Error::Option`](crate::Error::Option),
/// [`Error::SameBuffer`](crate::Error::SameBuffer); [`Error::Limit`](crate::Error::Limit) if the device cannot bind the
/// rows of one tile.
pub fn forward(
    recorder: &mut Recorder,
    q: Tensor,
    k: Tensor,
    learned: Learned,
    loss: Tensor,
    gradients: Gradients,
    options: Options,
) -> Result<()> {
    let batch = Batch::new(q, k, learned, gradients, options)?;
    shaped(OP, "loss", loss, batch.pairs.loss_shape())?;
    batch.disjoint(Some(loss), None)?;
    recorder.plan(|plan| batch.record(plan, Some(loss)))
}

/// The given `gradients` from the forward's inputs.
///
/// `dy` is the gradient of the loss and has the loss's shape. Absent: ones. If the pairs exceed the workspace, dq and
/// dk are sums over several chunks. 16-bit ones are then summed in f32, which takes four bytes per number beyond the
/// workspace.
///
/// # Errors
/// As [`forward`].
pub fn backward(
    recorder: &mut Recorder,
    q: Tensor,
    k: Tensor,
    learned: Learned,
    dy: Option<Tensor>,
    gradients: Gradients,
    options: Options,
) -> Result<()> {
    let mut batch = Batch::new(q, k, learned, gradients, options)?;
    batch.pairs = batch.pairs.weighted(dy)?;
    batch.disjoint(None, dy)?;
    if gradients.is_empty() {
        return Ok(());
    }
    recorder.plan(|plan| batch.record(plan, None))
}

/// The result of [`compute`].
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// One number, or one per query for [`Reduction::None`] and [`Reduction::Rows`].
    pub loss: Vec<f32>,
    /// Gradient of the queries.
    pub d_queries: Vec<f32>,
    /// Gradient of the keys.
    pub d_keys: Vec<f32>,
    /// Gradient of ln(1/temperature).
    pub d_log_scale: f32,
    /// Gradient of the bias.
    pub d_bias: f32,
}

/// The loss and all gradients of slices of queries and keys, in rows of `dim` elements.
///
/// ```
/// # let Ok(gpu) = wgloss::Gpu::new() else { return };
/// use wgloss::siglip;
/// let (queries, keys) = ([1.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 1.0]);
/// let options = siglip::Options { temperature: 0.5, bias: -1.0, ..Default::default() };
/// let found = siglip::compute(&gpu, &queries, &keys, 2, options).unwrap();
/// // Both pairs of a query score 1 on their side: 2 - 1 with its own key, 0 - 1 with the other.
/// assert!((found.loss[0] - 2.0 * (-1f32).exp().ln_1p()).abs() < 1e-6);
/// assert!(found.d_bias.abs() < 1e-6);
/// ```
///
/// # Errors
/// As [`forward`], and any error of the device.
#[cfg(not(target_arch = "wasm32"))]
pub fn compute(gpu: &Gpu, queries: &[f32], keys: &[f32], dim: usize, options: Options) -> Result<Output> {
    let (n, m) = (rows_of(OP, "q", queries, dim)?, rows_of(OP, "k", keys, dim)?);
    let [loss_rows, _] = options.reduction.of_rows(n);
    let (q, k) = (gpu.upload(queries)?, gpu.upload(keys)?);
    let (dq, dk) = (gpu.zeros::<f32>(n * dim)?, gpu.zeros::<f32>(m * dim)?);
    let (loss, sums) = (gpu.zeros::<f32>(loss_rows)?, gpu.zeros::<f32>(2)?);
    let (q, k) = (Tensor::matrix(&q, n, dim)?, Tensor::matrix(&k, m, dim)?);
    let (dq, dk) = (Tensor::matrix(&dq, n, dim)?, Tensor::matrix(&dk, m, dim)?);
    let (loss, sums) = (Tensor::vector(&loss, loss_rows)?, Tensor::matrix(&sums, 1, 2)?);
    let (d_log_scale, d_bias) = (sums.col_range(0..1), sums.col_range(1..2));
    let gradients = Gradients { dq: Some(dq), dk: Some(dk), d_log_scale: Some(d_log_scale), d_bias: Some(d_bias) };
    gpu.run(|recorder| forward(recorder, q, k, Learned::default(), loss, gradients, options))?;
    let sums = gpu.read(sums)?;
    Ok(Output {
        loss: gpu.read(loss)?,
        d_queries: gpu.read(dq)?,
        d_keys: gpu.read(dk)?,
        d_log_scale: sums[0],
        d_bias: sums[1],
    })
}
