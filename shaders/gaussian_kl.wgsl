// loss = (e^a - 1 - a + (m - m')^2 e^-v')/2, a = v - v', for each element: KL(N(m, e^v) || N(m', e^v')); m' = v' = 0 without a prior.
// dm = (m - m') e^-v' = -dm';   dv = (e^a - 1)/2;   dv' = (1 - e^a - (m - m')^2 e^-v')/2; each times dy.
// Source: Kullback and Leibler 1951, doi:10.1214/aoms/1177729694; Kingma and Welling 2013, arXiv:1312.6114, appendix B.
// Cost an element: reads m and v (m' and v') once, writes each gradient that is asked for and, without reduction, the loss. The
// prior's gradients are a pass of their own.

override HAS_PRIOR: u32 = 0u;

// Four neighbours: v - v', (m - m')/s' and 1/s' with s' = e^(v'/2), whose square may leave the range where the results do not.
struct Four {
    a: vec4<f32>,
    distance: vec4<f32>,
    inverse: vec4<f32>,
}

fn four_of(mean: vec4<f32>, log_variance: vec4<f32>, prior_mean: vec4<f32>, prior: vec4<f32>) -> Four {
    if HAS_PRIOR == 0u {
        return Four(log_variance, mean, vec4(1.0));
    }
    let inverse = exp_of_any4(-0.5 * prior);
    return Four(log_variance - prior, times4(mean - prior_mean, inverse), inverse);
}

fn loss4(f: Four) -> vec4<f32> {
    return 0.5 * (exp_minus_one_minus4(f.a) + f.distance * f.distance);
}

fn d_mean4(f: Four, weight: vec4<f32>) -> vec4<f32> {
    return times4(weight, times4(f.distance, f.inverse));
}

fn d_log_variance4(f: Four, weight: vec4<f32>) -> vec4<f32> {
    return times4(weight, 0.5 * precise_expm1_4(f.a));
}

fn d_prior4(f: Four, weight: vec4<f32>) -> vec4<f32> {
    return times4(weight, -0.5 * (precise_expm1_4(f.a) + f.distance * f.distance));
}

// Sixteen elements' worth of what the formulas need.
struct Sixteen {
    a: Four, b: Four, c: Four, d: Four,
}

fn sixteen_at(i: u32, j: u32, end: u32) -> Sixteen {
    let m = load_mean16(i, j, end, 0.0);
    let v = load_log_variance16(i, j, end, 0.0);
    var pm = mat4x4<f32>();
    var pv = mat4x4<f32>();
    if HAS_PRIOR == 1u {
        pm = load_prior_mean16(i, j, end, 0.0);
        pv = load_prior_log_variance16(i, j, end, 0.0);
    }
    return Sixteen(
        four_of(m[0], v[0], pm[0], pv[0]),
        four_of(m[1], v[1], pm[1], pv[1]),
        four_of(m[2], v[2], pm[2], pv[2]),
        four_of(m[3], v[3], pm[3], pv[3]),
    );
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
        let s = sixteen_at(span.i, j, span.end);
        if LOSS != 0u {
            sum += keep_losses(span.i, j, span.end, mat4x4(loss4(s.a), loss4(s.b), loss4(s.c), loss4(s.d)));
        }
        if GRADIENTS != 0u {
            let w = weight16(span.i, j, span.end);
            if (GRADIENTS & 1u) != 0u {
                var g = mat4x4(d_mean4(s.a, w[0]), d_mean4(s.b, w[1]), d_mean4(s.c, w[2]), d_mean4(s.d, w[3]));
                if ADD == 1u {
                    g += load_d_mean16(span.i, j, span.end, 0.0);
                }
                store_d_mean16(span.i, j, span.end, g);
            }
            if (GRADIENTS & 2u) != 0u {
                var g = mat4x4(
                    d_log_variance4(s.a, w[0]), d_log_variance4(s.b, w[1]), d_log_variance4(s.c, w[2]), d_log_variance4(s.d, w[3]),
                );
                if ADD == 1u {
                    g += load_d_log_variance16(span.i, j, span.end, 0.0);
                }
                store_d_log_variance16(span.i, j, span.end, g);
            }
        }
    }
    keep_sum(span, lane, sum);
}

@compute @workgroup_size(WG)
fn backward_prior(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let span = span_of(group, groups, lane);
    for (var j = span.first; j < span.end; j += step_size()) {
        let s = sixteen_at(span.i, j, span.end);
        let w = weight16(span.i, j, span.end);
        if (GRADIENTS & 1u) != 0u {
            var g = -1.0 * mat4x4(d_mean4(s.a, w[0]), d_mean4(s.b, w[1]), d_mean4(s.c, w[2]), d_mean4(s.d, w[3]));
            if ADD == 1u {
                g += load_d_prior_mean16(span.i, j, span.end, 0.0);
            }
            store_d_prior_mean16(span.i, j, span.end, g);
        }
        if (GRADIENTS & 2u) != 0u {
            var g = mat4x4(d_prior4(s.a, w[0]), d_prior4(s.b, w[1]), d_prior4(s.c, w[2]), d_prior4(s.d, w[3]));
            if ADD == 1u {
                g += load_d_prior_log_variance16(span.i, j, span.end, 0.0);
            }
            store_d_prior_log_variance16(span.i, j, span.end, g);
        }
    }
}
