//! One step of Adam.
use super::Real;
use crate::adam::Options;

/// Updates `p`, `m`, `v` and, unless it is empty, `most` in place.
pub fn step<F: Real>(g: &[F], p: &mut [F], [m, v, most]: [&mut [F]; 3], options: Options) {
    let number = |value: f64| <F as num_traits::NumCast>::from(value).unwrap_or_else(F::nan);
    let [of_m, of_v] = options.corrections().map(number);
    let [rate, beta1, beta2, eps, decay] =
        [options.rate, options.beta1, options.beta2, options.eps, options.weight_decay].map(number);
    for (index, &g) in g.iter().enumerate() {
        let mut gradient = g;
        if options.weight_decay != 0.0 && options.decoupled {
            p[index] = p[index] * (F::one() - rate * decay);
        } else if options.weight_decay != 0.0 {
            gradient = g + decay * p[index];
        }
        m[index] = beta1 * m[index] + number(1.0 - options.beta1) * gradient;
        v[index] = beta2 * v[index] + number(1.0 - options.beta2) * gradient * gradient;
        let mut largest = v[index];
        if let Some(most) = most.get_mut(index) {
            *most = if *most > largest || most.is_nan() { *most } else { largest };
            largest = *most;
        }
        p[index] = p[index] - rate / of_m * m[index] / (largest.sqrt() / of_v.sqrt() + eps);
    }
}
