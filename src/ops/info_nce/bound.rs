use super::{BOUND, OP, SHADER};
use crate::kernel::ScalarType;
use crate::ops::pairs::check_max_scale;
use crate::ops::{only_f32, shaped};
use crate::plan::{Arg, Scalar};
use crate::{Recorder, Result, Tensor};

/// Lowers a learned `log_scale` [1, 1] to where the scale is `max_scale`, if it is above. Past [`Options::max_scale`](super::Options::max_scale) the
/// gradient is 0, so that a step that goes too far, by momentum say, would never be taken back: to be recorded after each step.
///
/// Source: Radford et al. 2021, arXiv:2103.00020, section 2.5.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape), [`Error::Option`](crate::Error::Option) for a bound that is not above 0.
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

/// A logarithm of which no device's exponential exceeds `max_scale`: what [`bound`] lowers to, for who keeps the parameter elsewhere.
pub fn most_log_scale(max_scale: f32) -> f32 {
    let log = f64::from(max_scale).ln();
    (log - ROUNDING * log.abs().max(1.0)) as f32
}

/// Of a logarithm and of the exponential, relative to the scale: some units in the last place.
const ROUNDING: f64 = 4e-7;
