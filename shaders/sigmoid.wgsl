// y = 1/(1 + e^-x);   dx = dy y (1 - y).   With LOG_FORM: y = -ln(1 + e^-x);   dx = dy (1 - e^y).
// Source: Rumelhart, Hinton and Williams, Nature 323 (1986), doi:10.1038/323533a0.
// Cost per element: forward reads x, writes y; backward reads y and dy, writes dx.

override LOG_FORM: u32 = 0u;

fn output4(x: vec4<f32>) -> vec4<f32> {
    let e = precise_exp4(-abs(x));
    var y = select(vec4(1.0), e, x < vec4(0.0)) / (1.0 + e);
    if LOG_FORM == 1u {
        y = min(x, vec4(0.0)) - log1p_of_share4(e);
    }
    return select(y, x, nans(x));
}

fn gradient4(y: vec4<f32>, dy: vec4<f32>) -> vec4<f32> {
    if LOG_FORM == 1u {
        return select(-dy * precise_expm1_4(y), y, nans(y));
    }
    return dy * (y * (1.0 - y));
}
