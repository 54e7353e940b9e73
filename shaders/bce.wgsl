// loss[i, j] = w (c t ln(1 + e^-x) + (1 - t) ln(1 + e^x)); x, t and w are of element i, j, c (`pos_weight`) is of
// column j.
// dx = w ((1 - t) s(x) - c t s(-x)) dy, where s is the sigmoid.   ln(1 + e^x) = max(x, 0) + ln(1 + e^-|x|).
// Source: Cox 1958, doi:10.1111/j.2517-6161.1958.tb00292.x; weights as
// torch.nn.functional.binary_cross_entropy_with_logits.
// Cost per element: reads x and t (and w) once; writes dx if asked for and, without reduction, the loss.

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

@compute @workgroup_size(WG)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let span = span_of(group, groups, lane);
    var sum = 0.0;
    for (var j = span.first; j < span.end; j += 4u * LANES) {
        let x = load_x4(span.i, j, span.end, 0.0);
        let t = load_t4(span.i, j, span.end, 0.0);
        let negative = 1.0 - t;
        var positive = t;
        if HAS_POS_WEIGHT == 1u {
            positive *= load_pos_weight4(0u, j, span.end, 0.0);
        }
        var w = vec4(1.0);
        if HAS_WEIGHT == 1u {
            w = load_w4(span.i, j, span.end, 0.0);
        }
        if LOSS != 0u {
            let loss = select(times4(w, loss4(x, positive, negative)), x, nans(x));
            sum += keep_loss(span.i, j, span.end, loss);
        }
        if GRADIENTS != 0u {
            let slope = times4(w, slope4(x, positive, negative));
            var dx = select(times4(weight4(span.i, j, span.end), slope), x, nans(x));
            if ADD == 1u {
                dx += load_dx4(span.i, j, span.end, 0.0);
            }
            store_dx4(span.i, j, span.end, dx);
        }
    }
    keep_sum(span, lane, sum);
}
