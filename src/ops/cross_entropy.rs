//! Cross-entropy of logits: loss_i = r_i (Σ_c w_c q_ic (−ln p_ic) + z ln²Σ_c exp(x_ic)), where p_i is the softmax of
//! row i of the logits `x`.
//!
//! q is the target, e the label smoothing and C the number of classes. With class ids t, q_ic = (1 − e) [c = t_i] +
//! e/C. With soft targets s, q_ic = (1 − e) s_ic + e/C. w are weights of the classes, r weights of the rows, z is the
//! weight of the z-loss. Without any of these options, loss_i = −ln p_i(t_i). With a softcap, cap · tanh(x/cap) takes
//! the place of x everywhere. Negative weights and soft targets enter the formulas unchanged.
//!
//! The mean divides by Σ r_i w_(t_i) over the rows that are not ignored; with soft targets, by Σ r_i. The z part of the
//! mean is always divided by Σ r_i over the rows that are not ignored.
//!
//! Special values:
//! - A row with id [`Options::ignore`] has loss 0 and gradient 0, even if it holds NaN, and does not count in the mean.
//! - Any other id outside `0..cols` gives loss NaN and a gradient of NaN in that row.
//! - −inf logits are masks, also with a softcap. Their gradient is 0. The loss is +inf if a class with w q > 0 is
//!   masked. Label smoothing gives every class q > 0. A class with w q = 0 adds nothing.
//! - A row that holds NaN or, without a softcap, +inf has loss NaN.
//! - If every row is ignored or the weights sum to 0, the mean and its gradient are 0.
//!
//! Source: Bridle 1990, doi:10.1007/978-3-642-76153-9_28; label smoothing: Szegedy et al. 2015, arXiv:1512.00567,
//! section 7; z-loss: Chowdhery et al. 2022, arXiv:2204.02311, section 5; softcap: Bello et al. 2016, arXiv:1611.09940;
//! reductions as in torch.nn.functional.cross_entropy.

use core::ops::Range;

use super::{Accum, Reduction, disjoint, named, not_added, only_f32, required, rows_of, shaped, total};
use crate::kernel::{Family, Kernel, ScalarType::*, Shader, ids, input, new_ids, output, wgsl};
use crate::plan::{Arg, Plan, Scalar};
use crate::{Error, Gpu, Recorder, Result, Tensor};

const OP: &str = "cross_entropy";
static SHADER: Shader = Shader {
    op: OP,
    source: wgsl!("cross_entropy", "math", "lse", "row"),
    bindings: &[
        input("x"),
        ids("id"),
        input("soft"),
        input("class_weight"),
        input("row_weight"),
        input("dy"),
        output("sums"),
        input("sums_in"),
        new_ids("row_out"),
        ids("row"),
        output("loss"),
        output("lse"),
        input("lse_in"),
        output("dx"),
        output("part"),
        new_ids("predicted"),
    ],
    scalars: &[
        ("has_row_weight", U32),
        ("ignore", U32),
        ("smoothing", F32),
        ("z_loss", F32),
        ("softcap", F32),
        ("mean", U32),
        ("factor", F32),
        ("dy_by_row", U32),
        ("fresh", U32),
    ],
    family: Family::Rows,
};
static FORWARD: Kernel = Kernel {
    shader: &SHADER,
    entry: "forward",
    uses: &["x", "soft", "class_weight", "row", "loss", "lse", "dx", "part"],
    in_place: Some(("x", "dx")),
};
static BACKWARD: Kernel = Kernel {
    shader: &SHADER,
    entry: "backward",
    uses: &["x", "soft", "class_weight", "row", "lse_in", "dx", "part"],
    in_place: Some(("x", "dx")),
};
static DIVISORS: Kernel = Kernel {
    shader: &SHADER,
    entry: "divisors",
    uses: &["id", "class_weight", "row_weight", "dy", "sums", "row_out"],
    in_place: None,
};
static WEIGH: Kernel = Kernel {
    shader: &SHADER,
    entry: "weigh",
    uses: &["id", "class_weight", "row_weight", "dy", "sums_in", "row_out"],
    in_place: None,
};
static Z_PART: Kernel = Kernel { shader: &SHADER, entry: "z_part", uses: &["row", "lse_in", "loss"], in_place: None };
static PREDICT: Kernel =
    Kernel { shader: &SHADER, entry: "predict", uses: &["x", "predicted", "part"], in_place: None };
pub(super) const KERNELS: &[&Kernel] = &[&FORWARD, &BACKWARD, &DIVISORS, &WEIGH, &Z_PART, &PREDICT];

/// Scratch: `ROW` holds the output of `weigh` for each row, `SUMS` the three sums that `weigh` needs.
/// `linear_cross_entropy` has its logits in slot 0.
const ROW: usize = 2;
const SUMS: usize = 1;
/// With at most `FEW_A_LANE` rows per thread (lane), or at most `FEW` rows in all, the workgroup that forms the sums
/// also weighs the rows: another dispatch would take longer.
const FEW_A_LANE: usize = 4;
const FEW: usize = 256;

/// The targets of the rows.
#[derive(Debug, Clone, Copy)]
pub enum Target<'a> {
    /// Class ids `[rows, 1]`.
    Ids(Tensor<'a, u32>),
    /// Soft targets `[rows, classes]`: a share for every class. Rows need not sum to 1.
    Soft(Tensor<'a>),
}

/// Weights of classes and rows. Absent: 1 each.
#[derive(Debug, Clone, Copy, Default)]
pub struct Weights<'a> {
    /// w, `[1, classes]`. A gapless `[classes, 1]` is accepted too.
    pub class: Option<Tensor<'a>>,
    /// r, `[rows, 1]`.
    pub row: Option<Tensor<'a>>,
}

/// Options of [`forward`] and [`backward`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// Default: mean.
    pub reduction: Reduction,
    /// The class id of rows that do not count. Default: −100 as u32, the bits of PyTorch's default.
    pub ignore: u32,
    /// e, between 0 and 1: the share of every target that is spread evenly over all classes. Default: 0.
    pub label_smoothing: f32,
    /// z, the weight of the squared log-sum-exp. Default: 0.
    pub z_loss: f32,
    /// Bound of the logits: x becomes cap · tanh(x/cap). A normal number above 0, or 0 for no softcap. Default: 0.
    pub softcap: f32,
    /// Whether gradients overwrite their outputs or are added to them. `Add` is refused if `dx` is `x` itself.
    /// [`compute`] always overwrites. Default: overwrite.
    pub accum: Accum,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            reduction: Reduction::Mean,
            ignore: -100i32 as u32,
            label_smoothing: 0.0,
            z_loss: 0.0,
            softcap: 0.0,
            accum: Accum::Write,
        }
    }
}

impl Options {
    fn check(&self, op: &'static str) -> Result<()> {
        let [smoothing, z, cap] = [self.label_smoothing, self.z_loss, self.softcap];
        required(op, "label_smoothing", smoothing, (0.0..=1.0).contains(&smoothing), "between 0 and 1")?;
        required(op, "z_loss", z, z >= 0.0 && z.is_finite(), "a finite number, 0 or above")?;
        required(op, "softcap", cap, cap == 0.0 || (cap > 0.0 && cap.is_normal()), "0 or a normal number above 0")
    }
}

/// What all dispatches of a call have in common.
#[derive(Clone, Copy)]
pub(super) struct Batch<'a> {
    rows: usize,
    classes: usize,
    target: Target<'a>,
    weights: Weights<'a>,
    options: Options,
    dy_by_row: bool,
    has_dx: bool,
}

impl<'a> Batch<'a> {
    pub(super) fn new(
        op: &'static str,
        [rows, classes]: [usize; 2],
        target: Target<'a>,
        weights: Weights<'a>,
        options: Options,
    ) -> Result<Self> {
        options.check(op)?;
        match target {
            Target::Ids(id) => shaped(op, "id", id, [rows, 1])?,
            Target::Soft(soft) => shaped(op, "soft", soft, [rows, classes])?,
        }
        // A gapless column has the memory layout of a row.
        let lain = |class: Tensor<'a>| match class.shape() == [classes, 1] && class.is_gapless() {
            true => class.reshaped(1, classes, 0),
            false => class,
        };
        let weights = Weights { class: weights.class.map(lain), ..weights };
        if let Some(class) = weights.class {
            shaped(op, "weights.class", class, [1, classes])?;
        }
        if let Some(row) = weights.row {
            shaped(op, "weights.row", row, [rows, 1])?;
        }
        Ok(Batch { rows, classes, target, weights, options, dy_by_row: false, has_dx: false })
    }

    /// Sets whether gradients of the logits are computed, for a loss whose gradient is `dy`.
    pub(super) fn with_dx(self, has_dx: bool, dy: Option<Tensor>) -> Self {
        Batch { has_dx, dy_by_row: dy.is_some() && self.options.reduction.by_row(), ..self }
    }

    /// [`Batch::new`] for logits `x` of any number of rows and at least one class.
    fn of(x: Tensor, target: Target<'a>, weights: Weights<'a>, options: Options) -> Result<Self> {
        if x.cols == 0 {
            let (expected, found) = ("of at least one class".into(), "0 columns".into());
            return Err(Error::Shape { op: OP, what: "x", expected, found });
        }
        Batch::new(OP, x.shape(), target, weights, options)
    }

    fn id(&self) -> Option<Tensor<'a, u32>> {
        if let Target::Ids(id) = self.target { Some(id) } else { None }
    }

    fn soft(&self) -> Option<Tensor<'a>> {
        if let Target::Soft(soft) = self.target { Some(soft) } else { None }
    }

    pub(super) fn named(&self) -> [(&'static str, Option<Tensor<'a, u32>>); 4] {
        let Weights { class, row } = self.weights;
        [named("id", self.id()), named("soft", self.soft()), named("weights.class", class), named("weights.row", row)]
    }

    fn scalars(&self, fresh: bool) -> [Scalar; 9] {
        let Options { reduction, ignore, label_smoothing, z_loss, softcap, .. } = self.options;
        // The divisor of the mean is a sum of weights that the device forms.
        let factor = if reduction == Reduction::Mean { 1.0 } else { reduction.factor([self.rows, 1]) as f32 };
        [
            self.weights.row.is_some().into(),
            ignore.into(),
            label_smoothing.into(),
            z_loss.into(),
            softcap.into(),
            (reduction == Reduction::Mean).into(),
            factor.into(),
            self.dy_by_row.into(),
            fresh.into(),
        ]
    }

    fn flags(&self) -> [(&'static str, u32); 6] {
        [
            ("SOFT_TARGET", self.soft().is_some().into()),
            ("SMOOTHS", (self.options.label_smoothing != 0.0).into()),
            ("CAPS", (self.options.softcap != 0.0).into()),
            ("HAS_CLASS_WEIGHT", self.weights.class.is_some().into()),
            ("HAS_DX", self.has_dx.into()),
            ("ADD", (self.options.accum == Accum::Add).into()),
        ]
    }

    /// Whether the weights of the rows depend on sums that the device forms: the divisor of a mean, or the sum of the
    /// class weights for label smoothing.
    fn needs_sums(&self) -> bool {
        let Options { reduction, label_smoothing, .. } = self.options;
        reduction == Reduction::Mean || (self.weights.class.is_some() && label_smoothing != 0.0)
    }

    /// Plans the weighing of the rows. Returns the scratch buffer with four numbers per row.
    pub(super) fn weigh(&self, plan: &mut Plan, dy: Option<Tensor>) -> Result<wgpu::Buffer> {
        let sums = plan.scratch(SUMS, 3)?;
        let sums: Tensor = Tensor::vector(&sums, 3)?;
        let scratch = plan.scratch(ROW, 4 * self.rows)?;
        let row = Tensor::<u32>::matrix(&scratch, self.rows, 4)?;
        let class = self.weights.class.map_or(Arg::NONE, Arg::whole);
        let at_once = self.id().map_or(usize::MAX, |id| plan.rows_per_binding(id) as usize);
        let at_once = self.weights.row.map_or(at_once, |row| at_once.min(plan.rows_per_binding(row) as usize)).max(1);
        let fit_dy = dy.map_or(u64::MAX, |dy| plan.rows_per_binding(dy)) as usize;
        let few = (FEW_A_LANE * plan.gpu().tuning().widest as usize).max(FEW);
        let weighs = self.rows <= at_once.min(few).min(fit_dy);
        let summed = if self.needs_sums() { self.rows.max(1) } else { 0 };
        for first in (0..summed).step_by(at_once) {
            let range = first..self.rows.min(first.saturating_add(at_once));
            let shape = [range.len(), self.classes];
            let id = self.id().map_or(Arg::NONE, |id| Arg::whole(id.row_range(range.clone())));
            let weight = self.weights.row.map_or(Arg::NONE, |row| Arg::whole(row.row_range(range)));
            let (dy, row) = match weighs {
                true => (dy.map_or(Arg::NONE, Arg::whole), Arg::whole(row)),
                false => (Arg::NONE, Arg::NONE),
            };
            let args = [id, class, weight, dy, Arg::whole(sums), row];
            let flags = [&self.flags()[..], &[("WEIGHS", weighs.into())]].concat();
            plan.single(&DIVISORS, &args, shape, &self.scalars(first == 0), &flags)?;
            if weighs {
                return Ok(scratch);
            }
        }
        let dy = dy.map_or(Arg::NONE, if self.dy_by_row { Arg::by_row } else { Arg::whole });
        let id = self.id().map_or(Arg::NONE, Arg::by_row);
        let weight = self.weights.row.map_or(Arg::NONE, Arg::by_row);
        let args = [id, class, weight, dy, Arg::whole(sums), Arg::by_row(row)];
        let flags = [&self.flags()[..], &[("HAS_SUMS", self.needs_sums().into())]].concat();
        plan.each_row(&WEIGH, [self.rows, self.classes], &args, &self.scalars(true), &flags)?;
        Ok(scratch)
    }

    /// The first arguments of the passes over the logits `x` of `rows`.
    fn inputs<'b>(&self, rows: Range<usize>, x: Tensor<'b>, row: Tensor<'b, u32>) -> [Arg<'b>; 4]
    where
        'a: 'b,
    {
        [
            Arg::by_row(x),
            self.soft().map_or(Arg::NONE, |soft| Arg::by_row(soft.row_range(rows.clone()))),
            self.weights.class.map_or(Arg::NONE, Arg::whole),
            Arg::by_row(row.row_range(rows)),
        ]
    }

    /// Plans the losses of `rows`, whose logits are `x`: one value per segment of a row, weighted as `row` says.
    pub(super) fn losses(
        &self,
        plan: &mut Plan,
        rows: Range<usize>,
        x: Tensor,
        row: Tensor<u32>,
        [value, lse]: [Tensor; 2],
        dx: Option<Tensor>,
    ) -> Result<()> {
        let outputs = [Arg::by_row(value), Arg::by_row(lse), dx.map_or(Arg::NONE, Arg::by_row)];
        let args = [&self.inputs(rows, x, row)[..], &outputs].concat();
        plan.rows(&FORWARD, x.shape(), &args, &self.scalars(true), &self.flags())
    }

    /// Plans the gradients of the logits `x` of `rows`, whose log-sum-exps are `lse`.
    pub(super) fn gradients(
        &self,
        plan: &mut Plan,
        rows: Range<usize>,
        x: Tensor,
        row: Tensor<u32>,
        lse: Tensor,
        dx: Tensor,
    ) -> Result<()> {
        let args = [&self.inputs(rows, x, row)[..], &[Arg::by_row(lse), Arg::by_row(dx)]].concat();
        plan.rows(&BACKWARD, x.shape(), &args, &self.scalars(true), &self.flags())
    }
}

/// The loss of logits `x` `[rows, classes]`.
///
/// `loss` is `[rows, 1]` for [`Reduction::None`] and [`Reduction::Rows`], else `[1, 1]`. `lse` `[rows, 2]`, stored as
/// f32, receives the log-sum-exp of each row, which [`backward`] needs, as a pair (max, rest): ln Σ e^x = max + ln(1 +
/// rest). For a row of masks the pair is (the lowest f32, −1). `dx`, if given, receives the same gradient as from
/// [`backward`] without `dy`, in the same pass. `dx` may be `x` itself.
///
/// # Errors
/// [`Error::Shape`], [`Error::Option`], [`Error::SameBuffer`].
#[allow(clippy::too_many_arguments, reason = "inputs, outputs, options: the order of every op")]
pub fn forward(
    recorder: &mut Recorder,
    x: Tensor,
    target: Target,
    weights: Weights,
    loss: Tensor,
    lse: Tensor,
    dx: Option<Tensor>,
    options: Options,
) -> Result<()> {
    let batch = Batch::of(x, target, weights, options)?.with_dx(dx.is_some(), None);
    shaped(OP, "lse", lse, [x.rows, 2])?;
    only_f32(OP, "lse", lse)?;
    shaped(OP, "loss", loss, options.reduction.of_rows(x.rows))?;
    let [id, soft, class, row] = batch.named();
    let mut inputs = vec![id, soft, class, row];
    if let Some(dx) = dx {
        shaped(OP, "dx", dx, x.shape())?;
    }
    let in_place = dx.is_some_and(|dx| dx.same(x));
    not_added(OP, options.accum, in_place)?;
    inputs.extend((!in_place).then(|| named("x", x)));
    disjoint(OP, &[named("loss", loss), named("lse", lse), named("dx", dx)], &inputs)?;
    recorder.plan(|plan| {
        let row = batch.weigh(plan, None)?;
        let row = Tensor::<u32>::matrix(&row, x.rows, 4)?;
        let segments = plan.cut(x.rows, x.cols).segments;
        let direct = options.reduction.by_row() && segments == 1;
        let values = total::values(plan, x.rows, segments)?;
        let value = if direct { loss } else { Tensor::matrix(&values, x.rows, segments)? };
        batch.losses(plan, 0..x.rows, x, row, [value, lse], dx)?;
        match (direct, options.reduction.by_row()) {
            (true, _) => Ok(()),
            (_, true) => total::row_totals(plan, value, loss, 1.0),
            (_, false) => total::total(plan, value, loss, 1.0),
        }
    })
}

/// The gradient `dx` `[rows, classes]` from the forward's inputs and its `lse`.
///
/// `dy` is the gradient of the loss and has the loss's shape. Absent: ones. `dx` may be `x` itself.
///
/// # Errors
/// As [`forward`].
#[allow(clippy::too_many_arguments, reason = "inputs, outputs, options: the order of every op")]
pub fn backward(
    recorder: &mut Recorder,
    x: Tensor,
    target: Target,
    weights: Weights,
    lse: Tensor,
    dy: Option<Tensor>,
    dx: Tensor,
    options: Options,
) -> Result<()> {
    let batch = Batch::of(x, target, weights, options)?.with_dx(true, dy);
    shaped(OP, "lse", lse, [x.rows, 2])?;
    only_f32(OP, "lse", lse)?;
    shaped(OP, "dx", dx, x.shape())?;
    if let Some(dy) = dy {
        shaped(OP, "dy", dy, options.reduction.of_rows(x.rows))?;
    }
    let [id, soft, class, row] = batch.named();
    let mut inputs = vec![id, soft, class, row, named("lse", lse), named("dy", dy)];
    not_added(OP, options.accum, dx.same(x))?;
    inputs.extend((!dx.same(x)).then(|| named("x", x)));
    disjoint(OP, &[named("dx", dx)], &inputs)?;
    recorder.plan(|plan| {
        let row = batch.weigh(plan, dy)?;
        let row = Tensor::<u32>::matrix(&row, x.rows, 4)?;
        batch.gradients(plan, 0..x.rows, x, row, lse, dx)
    })
}

/// The part of the loss that [`Options::z_loss`] adds, from the forward's `lse`.
///
/// `z` is reduced like the loss and has its shape. `classes` is the number of columns of the logits.
///
/// # Errors
/// As [`forward`].
pub fn z_loss(
    recorder: &mut Recorder,
    lse: Tensor,
    classes: usize,
    target: Target,
    weights: Weights,
    z: Tensor,
    options: Options,
) -> Result<()> {
    let rows = lse.rows;
    if classes == 0 || classes > u32::MAX as usize {
        let expected = "from 1 to 4294967295";
        return Err(Error::Option { op: OP, option: "classes", expected, found: classes.to_string() });
    }
    let batch = Batch::new(OP, [rows, classes], target, weights, options)?;
    shaped(OP, "lse", lse, [rows, 2])?;
    only_f32(OP, "lse", lse)?;
    shaped(OP, "z", z, options.reduction.of_rows(rows))?;
    let [id, soft, class, row] = batch.named();
    disjoint(OP, &[named("z", z)], &[id, soft, class, row, named("lse", lse)])?;
    recorder.plan(|plan| {
        let row = batch.weigh(plan, None)?;
        let row = Tensor::<u32>::matrix(&row, rows, 4)?;
        let values = total::values(plan, rows, 1)?;
        let value = if options.reduction.by_row() { z } else { Tensor::vector(&values, rows)? };
        let args = [Arg::by_row(row), Arg::by_row(lse), Arg::by_row(value)];
        plan.each_row(&Z_PART, [rows, classes], &args, &batch.scalars(true), &batch.flags())?;
        if options.reduction.by_row() { Ok(()) } else { total::total(plan, value, z, 1.0) }
    })
}

/// The predicted class ids `[rows, 1]`: the class of the largest logit in each row of `x`.
///
/// Of equal logits the first class wins. A row that holds NaN or only masks gives u32::MAX.
///
/// # Errors
/// [`Error::Shape`], [`Error::SameBuffer`].
pub fn predict(recorder: &mut Recorder, x: Tensor, predicted: Tensor<u32>) -> Result<()> {
    shaped(OP, "predicted", predicted, [x.rows, 1])?;
    recorder.plan(|plan| predictions(plan, x, predicted))
}

pub(super) fn predictions(plan: &mut Plan, x: Tensor, predicted: Tensor<u32>) -> Result<()> {
    let (target, weights, options) = (Target::Soft(x), Weights::default(), Options::default());
    let scalars = Batch::new(OP, x.shape(), target, weights, options)?.scalars(true);
    let args = [Arg::by_row(x), Arg::by_row(predicted)];
    plan.rows(&PREDICT, x.shape(), &args, &scalars, &[])
}

/// Refuses ids in host memory that are neither a class nor [`Options::ignore`].
#[cfg(not(target_arch = "wasm32"))]
pub(super) fn check_ids(op: &'static str, ids: &[u32], classes: usize, options: Options) -> Result<()> {
    match ids.iter().find(|&&id| id != options.ignore && id as usize >= classes) {
        None => Ok(()),
        Some(bad) => {
            let found = format!("{bad} with {classes} classes");
            Err(Error::Option { op, option: "id", expected: "below the number of classes", found })
        }
    }
}

/// The loss of a slice of logits, in rows of `classes` elements, and its gradient.
///
/// ```
/// # let Ok(gpu) = wgloss::Gpu::new() else { return };
/// use wgloss::cross_entropy;
/// let (loss, dx) = cross_entropy::compute(&gpu, &[0.0, 0.0, 5.0, 5.0], 2, &[0, 1], Default::default()).unwrap();
/// assert!((loss[0] - 2f32.ln()).abs() < 1e-7);
/// assert_eq!(dx, [-0.25, 0.25, 0.25, -0.25]);
/// ```
///
/// # Errors
/// As [`forward`]; [`Error::Option`] for an id that is neither below `classes` nor [`Options::ignore`]; any error of
/// the device.
#[cfg(not(target_arch = "wasm32"))]
pub fn compute(gpu: &Gpu, x: &[f32], classes: usize, ids: &[u32], options: Options) -> Result<(Vec<f32>, Vec<f32>)> {
    let rows = rows_of(OP, "x", x, classes)?;
    check_ids(OP, ids, classes, options)?;
    let [loss_rows, _] = options.reduction.of_rows(rows);
    let (logits, id) = (gpu.upload(x)?, gpu.upload(ids)?);
    let (loss, lse) = (gpu.zeros::<f32>(loss_rows)?, gpu.zeros::<f32>(2 * rows)?);
    let (x, id) = (Tensor::matrix(&logits, rows, classes)?, Tensor::vector(&id, ids.len())?);
    let (loss, lse) = (Tensor::vector(&loss, loss_rows)?, Tensor::matrix(&lse, rows, 2)?);
    let options = Options { accum: Accum::Write, ..options };
    gpu.run(|recorder| forward(recorder, x, Target::Ids(id), Weights::default(), loss, lse, Some(x), options))?;
    Ok((gpu.read(loss)?, gpu.read(x)?))
}
