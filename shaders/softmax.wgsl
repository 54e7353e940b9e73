// y[i, j] = e^(x[i, j]/T) / sum_k e^(x[i, k]/T);   dx[i, j] = y[i, j] (dy[i, j] - sum_k y[i, k] dy[i, k]) / T.
// With LOG_FORM: y = ln of that;   dx[i, j] = (dy[i, j] - e^y[i, j] sum_k dy[i, k]) / T.
// Source: Bridle 1990, doi:10.1007/978-3-642-76153-9_28; temperature: Hinton, Vinyals and Dean 2015, arXiv:1503.02531.
// Cost per element: forward reads x once where a row fits the lanes that process it, else twice, and writes y. Backward
// reads y and dy as often and writes dx.

override LOG_FORM: u32 = 0u;

fn scale() -> Scale {
    return Scale(params.scale_high, params.scale_low, params.scale_least);
}

fn output4(acc: vec2<f32>, rest: f32, x: vec4<f32>) -> vec4<f32> {
    if LOG_FORM == 1u {
        return -(lse_gap4(acc, x, scale()) + rest);
    }
    return lse_p4(acc, x, scale());
}

fn output16(acc: vec2<f32>, x: mat4x4<f32>) -> mat4x4<f32> {
    let rest = select(precise_log1p(acc.y), 0.0, acc.y < 0.0);
    return mat4x4(output4(acc, rest, x[0]), output4(acc, rest, x[1]), output4(acc, rest, x[2]), output4(acc, rest, x[3]));
}

@compute @workgroup_size(WG)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let span = span_of(group, groups, lane);
    if holds() {
        let x = load_x16(span.i, span.first, span.end, masked());
        let row = reduce_held(lane, x, scale());
        if LOG_FORM == 1u {
            store_y16(span.i, span.first, span.end, output16(row.acc, x));
        } else {
            store_y16(span.i, span.first, span.end, row.e * lse_inverse(row.acc));
        }
        return;
    }
    var acc = LSE_EMPTY;
    if STAGE == FROM_PARTS {
        for (var s = lane % LANES; s < params.segments; s += LANES) {
            acc = lse_merge(acc, vec2(load_part(span.i, 2u * s), load_part(span.i, 2u * s + 1u)), scale());
        }
    } else {
        for (var j = span.first; j < span.end; j += step_size()) {
            acc = lse_merge(acc, lse_of16(load_x16(span.i, j, span.end, masked()), scale()), scale());
        }
    }
    acc = reduce_lse(lane, acc, scale());
    if STAGE == ONLY_PART {
        if span.lead {
            store_part(span.i, 2u * span.segment, acc.x);
            store_part(span.i, 2u * span.segment + 1u, acc.y);
        }
        return;
    }
    for (var j = span.first; j < span.end; j += step_size()) {
        store_y16(span.i, j, span.end, output16(acc, load_x16(span.i, j, span.end, masked())));
    }
}

// A sum of dy of both signs may overflow although its final value does not. So the sum of SMALL * dy, which cannot
// overflow, is kept beside it.
const SMALL: f32 = 0x1p-64;

// SMALL * dy, opaque: otherwise Mesa's compiler turns the sum of these into SMALL times a sum, and the quotient in
// `gradient4` into a difference of two quotients. Both may overflow.
fn smaller4(dy: vec4<f32>) -> vec4<f32> {
    return opaque4(SMALL * dy);
}

// dx of four elements. Where p is 0 the product with it is 0, even if the other factor overflows.
fn gradient4(y: vec4<f32>, dy: vec4<f32>, sums: vec2<f32>) -> vec4<f32> {
    let sum = sums.x;
    if LOG_FORM == 1u {
        let p = probability4(y);
        let dx = select(dy - of_share4(p, vec4(sum), sum), (smaller4(dy) - p * sums.y) / SMALL, overflows(sums));
        return dx / params.temperature;
    }
    return of_share4(y, dy - sum, sum) / params.temperature;
}

fn overflows(sums: vec2<f32>) -> bool {
    return not_finite(vec4(sums.x)).x && !not_finite(vec4(sums.y)).x;
}

fn of_share4(p: vec4<f32>, value: vec4<f32>, sum: f32) -> vec4<f32> {
    return select(p * value, vec4(0.0), (p == vec4(0.0)) & vec4(!is_nan(sum)));
}

// e^y, NaN for NaN.
fn probability4(y: vec4<f32>) -> vec4<f32> {
    return select(precise_exp4(y), y, not_finite(y) & (bitcast<vec4<u32>>(y) != vec4(0xff800000u)));
}

@compute @workgroup_size(WG)
fn backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let span = span_of(group, groups, lane);
    var sums = vec2(0.0);
    var y = mat4x4<f32>();
    var dy = mat4x4<f32>();
    if STAGE == FROM_PARTS {
        for (var s = lane % LANES; s < params.segments; s += LANES) {
            sums += vec2(load_part(span.i, 2u * s), load_part(span.i, 2u * s + 1u));
        }
    } else {
        for (var j = span.first; j < span.end; j += step_size()) {
            y = load_y_in16(span.i, j, span.end, 0.0);
            dy = load_dy16(span.i, j, span.end, 0.0);
            if LOG_FORM == 1u {
                sums += vec2(sum16(dy), sum16(mat4x4(smaller4(dy[0]), smaller4(dy[1]), smaller4(dy[2]), smaller4(dy[3]))));
            } else {
                sums.x += sum16(mat4x4(y[0] * dy[0], y[1] * dy[1], y[2] * dy[2], y[3] * dy[3]));
            }
        }
    }
    sums = reduce_sum2(lane, sums);
    if STAGE == ONLY_PART {
        if span.lead {
            store_part(span.i, 2u * span.segment, sums.x);
            store_part(span.i, 2u * span.segment + 1u, sums.y);
        }
        return;
    }
    for (var j = span.first; j < span.end; j += step_size()) {
        if !holds() {
            y = load_y_in16(span.i, j, span.end, 0.0);
            dy = load_dy16(span.i, j, span.end, 0.0);
        }
        let dx = mat4x4(
            gradient4(y[0], dy[0], sums), gradient4(y[1], dy[1], sums), gradient4(y[2], dy[2], sums), gradient4(y[3], dy[3], sums),
        );
        store_dx16(span.i, j, span.end, dx);
    }
}
