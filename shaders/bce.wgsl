// loss[i, j] = w (c t ln(1 + e^-x) + (1 - t) ln(1 + e^x)), x, t and w of element i, j, c of column j;
// dx = w ((1 - t) s(x) - c t s(-x)) dy, s the sigmoid.   ln(1 + e^x) = max(x, 0) + ln(1 + e^-|x|).
// Source: Cox 1958, doi:10.1111/j.2517-6161.1958.tb00292.x; weights as torch.nn.functional.binary_cross_entropy_with_logits.
// Cost an element: reads x and t (and w) once, writes dx if asked for and, without reduction, the loss.

override HAS_WEIGHT: u32 = 0u;
override HAS_POS_WEIGHT: u32 = 0u;

fn loss4(x: vec4<f32>, positive: vec4<f32>, negative: vec4<f32>) -> vec4<f32> {
    let tail = log1p_of_share4(precise_exp4(-abs(x)));
    return times4(positive, max(-x, vec4(0.0)) + tail) + times4(negative, max(x, vec4(0.0)) + tail);
}

fn slope4(x: vec4<f32>, positive: vec4<f32>, negative: vec4<f32>) -> vec4<f32> {
    let e = precise_exp4(-abs(x));
    let large = 1.0 / (1.0 + e);
    let small = e * large;
    return negative * select(small, large, x >= vec4(0.0)) - positive * select(large, small, x >= vec4(0.0));
}

fn nan_for(x: vec4<f32>, value: vec4<f32>) -> vec4<f32> {
    return select(value, x, nans(x));
}

@compute @workgroup_size(WG)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let span = span_of(group, groups, lane);
    var sum = 0.0;
    for (var j = span.first; j < span.end; j += step_size()) {
        let x = load_x16(span.i, j, span.end, 0.0);
        let t = load_t16(span.i, j, span.end, 0.0);
        let one = vec4(1.0);
        let negative = mat4x4(one, one, one, one) - t;
        var positive = t;
        if HAS_POS_WEIGHT == 1u {
            let c = load_pos_weight16(0u, j, span.end, 0.0);
            positive = mat4x4(c[0] * t[0], c[1] * t[1], c[2] * t[2], c[3] * t[3]);
        }
        var w = mat4x4(one, one, one, one);
        if HAS_WEIGHT == 1u {
            w = load_w16(span.i, j, span.end, 0.0);
        }
        if LOSS != 0u {
            let losses = mat4x4(
                nan_for(x[0], times4(w[0], loss4(x[0], positive[0], negative[0]))),
                nan_for(x[1], times4(w[1], loss4(x[1], positive[1], negative[1]))),
                nan_for(x[2], times4(w[2], loss4(x[2], positive[2], negative[2]))),
                nan_for(x[3], times4(w[3], loss4(x[3], positive[3], negative[3]))),
            );
            sum += keep_losses(span.i, j, span.end, losses);
        }
        if GRADIENTS != 0u {
            let weight = weight16(span.i, j, span.end);
            var dx = mat4x4(
                nan_for(x[0], times4(weight[0], times4(w[0], slope4(x[0], positive[0], negative[0])))),
                nan_for(x[1], times4(weight[1], times4(w[1], slope4(x[1], positive[1], negative[1])))),
                nan_for(x[2], times4(weight[2], times4(w[2], slope4(x[2], positive[2], negative[2])))),
                nan_for(x[3], times4(weight[3], times4(w[3], slope4(x[3], positive[3], negative[3])))),
            );
            if ADD == 1u {
                dx += load_dx16(span.i, j, span.end, 0.0);
            }
            store_dx16(span.i, j, span.end, dx);
        }
    }
    keep_sum(span, lane, sum);
}
