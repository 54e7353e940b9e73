use super::{BOUND, OP, SHADER};
use crate::kernel::ScalarType;
use crate::ops::pairs::check_max_scale;
use crate::ops::{only_f32, shaped};
use crate::plan::{Arg, Scalar};
use crate::{Recorder, Result, Tensor};

/// Lowers a learned `log_scale` [1, 1] to the value at which the scale is `max_scale`, if it is above that value.
///
/// Record it after each optimizer step. Above [`Options::max_scale`](super::Options::max_scale) the gradient of
/// `log_scale` is 0, so a step that overshoots the limit, through momentum for instance, would never be reversed.
///
/// Source: Radford et al. 2021, arXiv:2103.00020, section 2.5.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape); [`Error::Option`](crate::Error::Option) if `max_scale` is not a normal number
/// above 0.
pub fn bound(recorder: &mut Recorder, log_scale: Tensor, max_scale: f32) -> Result<()> {
    check_max_scale(OP, max_scale)?;
    shaped(OP, "log_scale", log_scale, [1, 1])?;
    only_f32(OP, "log_scale", log_scale)?;
    let scalar = |&(name, kind): &(&str, ScalarType)| -> Scalar {
        match kind {
            ScalarType::U32 => 0u32.into(),
            ScalarType::F32 => if name == "scale" { most_log_scale(max_scale) } else { 0.0 }.into(),
        }
    };
    let scalars: Vec<Scalar> = SHADER.scalars.iter().map(scalar).collect();
    let args = [Arg::whole(log_scale), Arg::whole(log_scale)];
    recorder.plan(|plan| plan.single(&BOUND, &args, [1, 1], &scalars, &[]))
}

/// The largest `log_scale` that [`bound`] leaves: its exponential does not exceed `max_scale` on any device. For a
/// parameter that is kept outside of wgloss.
pub fn most_log_scale(max_scale: f32) -> f32 {
    let log = f64::from(max_scale).ln();
    (log - ROUNDING * log.abs().max(1.0)) as f32
}

/// Rounding of the logarithm and of the exponential, relative to the scale: a few units in the last place.
const ROUNDING: f64 = 4e-7;
