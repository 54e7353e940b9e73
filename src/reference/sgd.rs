//! One step of stochastic gradient descent.
use super::{Real, real};
use crate::sgd::Options;

/// Changes `p`, and `v` if there is momentum, in place.
pub fn step<F: Real>(g: &[F], p: &mut [F], v: &mut [F], options: Options) {
    let [rate, momentum, dampening, decay] =
        [options.rate, options.momentum, options.dampening, options.weight_decay].map(real::<F>);
    for (index, (&g, p)) in g.iter().zip(p).enumerate() {
        let gradient = g + decay * *p;
        let mut direction = gradient;
        if options.momentum != 0.0 {
            let v = &mut v[index];
            *v = if options.first { gradient } else { momentum * *v + (F::one() - dampening) * gradient };
            direction = if options.nesterov { gradient + momentum * *v } else { *v };
        }
        *p = *p - rate * direction;
    }
}
