// The scale of the scores s_ij = scale <q_i, k_j>: min(e^log_scale, max_scale) or 1/temperature. The op's file has the
// binding log_scale.

// NaN for NaN: a min may drop the NaN. The same holds for the bound in `score_scale`.
fn learned_scale() -> f32 {
    let exponent = load_log_scale(0u, 0u);
    return select(precise_exp(min(exponent, 88.0)), exponent, is_nan(exponent));
}

fn score_scale() -> f32 {
    let learned = learned_scale();
    let bounded = select(min(learned, params.max_scale), learned, is_nan(learned));
    return select(params.scale, bounded, params.learnable == 1u);
}

// Whether the scale is clamped and so does not depend on log_scale.
fn clamped() -> bool {
    return params.learnable == 1u && learned_scale() > params.max_scale;
}
