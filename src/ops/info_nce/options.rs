use super::{Batch, OP};
use crate::ops::pairs::check_max_scale;
use crate::ops::{Accum, Reduction, required};
use crate::{Error, Result};

/// Options of the op.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// 1/scale, above 0, where no `log_scale` tensor is given. Default 0.07 (CLIP's initial value).
    pub temperature: f32,
    /// Upper bound of a scale given as `log_scale`; past it the scale is this and its gradient 0. ln 100 rounded to f32 is past 100: [`bound`](super::bound()), after
    /// each step of an optimizer, sets the tensor to what is not. Default 100 (CLIP's).
    pub max_scale: f32,
    /// Rows may have any length whose square f32 holds, up to 1.8e19: c is their cosine, gradients are those of the rows as given; rows shorter
    /// than 1e-12 are divided by that, as [`normalize`](crate::normalize) does. Default no: c is their product.
    pub normalize: bool,
    /// The mean of both directions; needs as many keys as queries, and positives of the query's own number or by group. Default no.
    pub symmetric: bool,
    /// Whether the keys of other queries are negatives. If not, keys from number N on and [`Batch::shared`] and [`Batch::each`] still are, and
    /// other queries' keys cost nothing; for one direction and positives of the query's own number. Default yes.
    pub in_batch: bool,
    /// Whether other queries are negatives of a query, but for those of its group or id. Default no.
    pub query_negatives: bool,
    /// Whether other keys are negatives of a key, but for those of its group or id, in the direction from keys to queries. Default no.
    pub key_negatives: bool,
    /// Default mean over the queries that have a positive; where symmetric, the sum of both directions over twice their number.
    pub reduction: Reduction,
    /// Whether gradients are added to what their outputs hold, all of them: those that are not to be added up want to be zeros before. Default no.
    pub accum: Accum,
    /// Query i is never compared with key i: for queries and keys that are the same rows, with positives by index or by group. Default no.
    pub exclude_self: bool,
    /// The sum over several positives stands inside the logarithm, ln Σ_p e^s / |P|, instead of outside. Default no.
    pub inside_log: bool,
    /// The positives are left out of the sum that they are compared with (decoupled contrastive learning). Default no.
    pub decoupled: bool,
    /// The probability τ⁺ that a negative is a positive, which the loss corrects for (debiased contrastive learning); where the
    /// sum over negatives is at its floor, e^(−scale) each, the floor is taken as constant in the gradient of the scale. Without groups, `inside_log` and `decoupled`. Default 0.
    pub tau_plus: f32,
    /// α: a negative counts e^(s + α c) with the second term taken as constant, so that hard ones count more. Default 0.
    pub hardness: f32,
    /// ε: the target is 1 − ε for the positives, and ε spread over all keys that take part. Without `inside_log`, `decoupled` and `tau_plus`. Default 0.
    pub label_smoothing: f32,
    /// Subtracted from the positives' c before scaling. Default 0.
    pub margin: f32,
    /// A key whose c exceeds that of the positive by more is no negative: it is taken for a false one. Without groups. Default +∞.
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

/// What options may not go with.
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

    /// What the shader's `FORM` says.
    pub(super) fn form(&self) -> u32 {
        let bits = [self.inside_log, self.decoupled, self.tau_plus != 0.0, self.label_smoothing != 0.0];
        bits.into_iter().enumerate().map(|(bit, set)| u32::from(set) << bit).sum()
    }
}
