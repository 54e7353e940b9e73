// g' = g + l p; if DECOUPLED g' = g, and first p = p - rate l p.
// m = m + (1 - b1)(g' - m);   v = v + (1 - b2)(g'^2 - v);   h = v, or with AMSGRAD the largest v so far;
// p = p - rate/(1 - b1^t) m/(sqrt(h)/sqrt(1 - b2^t) + eps), at step t = 1, 2, ..
// l is `weight_decay`, b1 `keep_m`, 1 - b1 `toward_m`, b2 `keep_v`, 1 - b2 `toward_v`, rate/(1 - b1^t) `rate_of_step`,
// sqrt(1 - b2^t) `root`. They are computed in f64.
// Source: Kingma and Ba 2015, arXiv:1412.6980; decoupled: Loshchilov and Hutter 2019, arXiv:1711.05101; AMSGRAD: Reddi,
// Kale and Kumar 2018, arXiv:1904.09237; in the form of torch.optim.Adam.
// Cost: reads 4MN, writes 3MN; with AMSGRAD reads 5MN, writes 4MN.

override DECOUPLED: u32 = 0u;
override AMSGRAD: u32 = 0u;

// a + share (b - a), computed from the nearer end, so that less cancels. rest = 1 - share.
fn lerp4(a: vec4<f32>, b: vec4<f32>, share: f32, rest: f32) -> vec4<f32> {
    if share < 0.5 {
        return a + share * (b - a);
    }
    return b - rest * (b - a);
}

// The next v. An infinite v stays infinite, and an infinite square makes v infinite.
fn toward4(v: vec4<f32>, squares: vec4<f32>) -> vec4<f32> {
    let infinite = (v == vec4(infinity())) | (squares == vec4(infinity()));
    return select(lerp4(v, squares, params.toward_v, params.keep_v), vec4(infinity()), infinite);
}

@compute @workgroup_size(WG)
fn step(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let span = span_of(group, groups, lane);
    for (var j = span.first; j < span.end; j += 4u * LANES) {
        var p = load_p4(span.i, j, span.end, 0.0);
        var g = load_g4(span.i, j, span.end, 0.0);
        if params.weight_decay != 0.0 {
            let decayed = params.weight_decay * p; // skipped for 0, because 0 times an infinite p is NaN
            if DECOUPLED == 1u {
                p -= params.rate * decayed;
            } else {
                g += decayed;
            }
        }
        let m = load_m4(span.i, j, span.end, 0.0);
        let new_m = lerp4(m, g, params.toward_m, params.keep_m);
        let v = toward4(load_v4(span.i, j, span.end, 0.0), g * g);
        store_m4(span.i, j, span.end, new_m);
        store_v4(span.i, j, span.end, v);
        var h = v;
        if AMSGRAD == 1u {
            let most = load_most4(span.i, j, span.end, 0.0);
            h = select(max(most, v), v + most, nans(most) | nans(v));
            store_most4(span.i, j, span.end, h);
        }
        let slope = new_m / (sqrt(h) / params.root + params.eps);
        store_p4(span.i, j, span.end, p - params.rate_of_step * slope);
    }
}
