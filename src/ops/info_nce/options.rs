use super::{Batch, OP};
use crate::ops::pairs::check_max_scale;
use crate::ops::{Accum, Reduction, required};
use crate::{Error, Result};

/// Options of [`forward`](super::forward), [`backward`](super::backward) and [`values`](super::values).
///
/// c_ij is the similarity before scaling: ⟨q_i, k_j⟩, or the cosine if `normalize`. s_ij = scale · c_ij is the score.
/// "Own positives" are those of [`Positive::Own`](super::Positive::Own): key i is the positive of query i.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// 1/scale, above 0; used if [`Batch::log_scale`] is absent. Default: 0.07 (CLIP's initial value).
    pub temperature: f32,
    /// Upper bound of the scale e^log_scale, if [`Batch::log_scale`] is given. Above the bound the scale is `max_scale`
    /// and the gradient of `log_scale` is 0. In f32, e^(ln 100) exceeds 100. Record [`bound`](super::bound()) after
    /// each optimizer step to keep `log_scale` just inside the limit. Default: 100 (CLIP's).
    pub max_scale: f32,
    /// Whether c is the cosine of the rows instead of their inner product. Rows may have any length up to 1.8e19, whose
    /// square f32 still holds. Gradients are those of the rows as given. A row shorter than 1e-12 is divided by 1e-12,
    /// as [`normalize`](crate::normalize) does. Default: off.
    pub normalize: bool,
    /// The mean of both directions, queries to keys and keys to queries. Requires as many keys as queries, and own
    /// positives or positives by group. Default: off.
    pub symmetric: bool,
    /// Whether the keys of other queries are negatives. If off, other queries' keys cost nothing; keys with an index of
    /// N or more, [`Batch::shared`] and [`Batch::each`] remain negatives. Off requires one direction and own positives.
    /// Default: on.
    pub in_batch: bool,
    /// Whether the other queries are negatives of a query, except those with its group or id. Default: off.
    pub query_negatives: bool,
    /// Whether the other keys are negatives of a key in the direction from keys to queries, except those with its group
    /// or id. Requires `symmetric`, and no [`Batch::log_q`]. Default: off.
    pub key_negatives: bool,
    /// How the losses of the queries are reduced. Default: the mean over the queries that have a positive, divided by the
    /// sum of their weights (their number without [`Batch::weight`]). If `symmetric`, the sum over both directions is
    /// divided by twice that.
    pub reduction: Reduction,
    /// Whether gradients overwrite their outputs or are added to them. Applies to all gradients of the call; zero a
    /// buffer first if it should be overwritten. Default: overwrite.
    pub accum: Accum,
    /// Whether query i is never compared with key i, for queries and keys that are the same rows. Requires positives by
    /// index or by group. Default: off.
    pub exclude_self: bool,
    /// Whether the sum over several positives is inside the logarithm, ln(Σ_p e^s / |P|), instead of outside. Default:
    /// off.
    pub inside_log: bool,
    /// Whether the positives are left out of the sum in the denominator (decoupled contrastive learning). Default: off.
    pub decoupled: bool,
    /// τ⁺, the probability that a negative is in fact a positive, for which the loss corrects (debiased contrastive
    /// learning). The corrected sum over the negatives has the floor e^(−scale) per negative. Where the floor applies,
    /// it is treated as constant in the gradient of the scale. Cannot be combined with groups, `inside_log` or
    /// `decoupled`. Default: 0.
    pub tau_plus: f32,
    /// α: a negative counts e^(s + α c), so that hard negatives count more. The gradient treats the term α c as
    /// constant. Default: 0.
    pub hardness: f32,
    /// ε of label smoothing. The positives share a target probability of 1 − ε; ε is spread evenly over all keys that
    /// take part, positives included. Cannot be combined with `inside_log`, `decoupled` or `tau_plus`. Default: 0.
    pub label_smoothing: f32,
    /// Subtracted from c of the positives before scaling. Default: 0.
    pub margin: f32,
    /// A key is not a negative if its c exceeds c of the positive by more than this: it is taken for a false negative.
    /// Cannot be combined with groups. Default: +∞, which is off.
    pub near_margin: f32,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            temperature: 0.07,
            max_scale: 100.0,
            normalize: false,
            symmetric: false,
            in_batch: true,
            query_negatives: false,
            key_negatives: false,
            reduction: Reduction::Mean,
            accum: Accum::Write,
            exclude_self: false,
            inside_log: false,
            decoupled: false,
            tau_plus: 0.0,
            hardness: 0.0,
            label_smoothing: 0.0,
            margin: 0.0,
            near_margin: f32::INFINITY,
        }
    }
}

pub(super) fn is_near(options: Options) -> bool {
    options.near_margin != f32::INFINITY
}

/// Which inputs a batch has, as far as options exclude them.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Given {
    pub(crate) index: bool,
    pub(crate) groups: bool,
    pub(crate) log_q: bool,
}

impl Given {
    pub(super) fn of(batch: &Batch) -> Self {
        Given { index: batch.index().is_some(), groups: batch.groups().is_some(), log_q: batch.log_q.is_some() }
    }
}

impl Options {
    pub(crate) fn check(&self, given: Given) -> Result<()> {
        let Given { index, groups, log_q } = given;
        let own = !index && !groups;
        let need = |option, value: f32, holds, expected| required(OP, option, value, holds, expected);
        let share = |value: f32| (0.0..1.0).contains(&value);
        check_max_scale(OP, self.max_scale)?;
        need("tau_plus", self.tau_plus, share(self.tau_plus), "from 0 to below 1")?;
        need("label_smoothing", self.label_smoothing, (0.0..=1.0).contains(&self.label_smoothing), "from 0 to 1")?;
        need("hardness", self.hardness, self.hardness.is_finite(), "a finite number")?;
        need("margin", self.margin, self.margin.is_finite(), "a finite number")?;
        need("near_margin", self.near_margin, self.near_margin > f32::NEG_INFINITY, "a number above -inf")?;
        let refused = |option: &'static str, expected: &'static str, found: &str, holds: bool| match holds {
            true => Err(Error::Option { op: OP, option, expected, found: found.into() }),
            false => Ok(()),
        };
        let (smooths, debiased) = (self.label_smoothing != 0.0, self.tau_plus != 0.0);
        refused(
            "label_smoothing",
            "0 with inside_log, decoupled or tau_plus",
            "more with one of them",
            smooths && (self.inside_log || self.decoupled || debiased),
        )?;
        refused(
            "tau_plus",
            "0 with inside_log, decoupled or groups",
            "more with one of them",
            debiased && (self.inside_log || self.decoupled || groups),
        )?;
        refused("near_margin", "infinite with groups", "a finite one", is_near(*self) && groups)?;
        let own_number = "positives of the query's own number";
        refused("exclude_self", "no, but with positives by index or by group", own_number, self.exclude_self && own)?;
        let one_way = "no, but with positives of the query's own number or by group";
        refused("symmetric", one_way, "positives by index", self.symmetric && index)?;
        refused("in_batch", "yes, with positives by index or by group", "no", !self.in_batch && !own)?;
        refused("in_batch", "yes, if symmetric", "no", !self.in_batch && self.symmetric)?;
        refused("key_negatives", "symmetric beside it", "one direction", self.key_negatives && !self.symmetric)?;
        refused("key_negatives", "no, with log_q", "yes", self.key_negatives && log_q)
    }

    /// The bits of the shader's `FORM`.
    pub(super) fn form(&self) -> u32 {
        let bits = [self.inside_log, self.decoupled, self.tau_plus != 0.0, self.label_smoothing != 0.0];
        bits.into_iter().enumerate().map(|(bit, set)| u32::from(set) << bit).sum()
    }
}
