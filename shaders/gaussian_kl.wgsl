// loss = (e^a - 1 - a + (m - m')^2 e^-v')/2 for each element, with a = v - v':
// KL(N(m, e^v) || N(m', e^v')). m' = v' = 0 without a prior.
// dm = (m - m') e^-v' = -dm';   dv = (e^a - 1)/2;   dv' = (1 - e^a - (m - m')^2 e^-v')/2; each times dy.
// Source: Kullback and Leibler 1951, doi:10.1214/aoms/1177729694; Kingma and Welling 2013, arXiv:1312.6114, appendix B.
// Cost per element: reads m and v (m' and v') once; writes each gradient that is asked for and, without reduction, the
// loss. The prior's gradients take a pass of their own.

override HAS_PRIOR: u32 = 0u;

// Four neighbours: a = v - v', distance = (m - m')/s' and inverse = 1/s', with s' = e^(v'/2). The squares of these may
// exceed the range of f32 where the results do not.
struct Four {
    a: vec4<f32>,
    distance: vec4<f32>,
    inverse: vec4<f32>,
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

fn four_at(i: u32, j: u32, end: u32) -> Four {
    let mean = load_mean4(i, j, end, 0.0);
    let log_variance = load_log_variance4(i, j, end, 0.0);
    if HAS_PRIOR == 0u {
        return Four(log_variance, mean, vec4(1.0));
    }
    let prior_log_variance = load_prior_log_variance4(i, j, end, 0.0);
    let inverse = exp_of_any4(-0.5 * prior_log_variance);
    let half_gap = 0.5 * mean - opaque4(0.5 * load_prior_mean4(i, j, end, 0.0)); // finite for any finite numbers
    let half_distance = opaque4(times4(half_gap, inverse)); // llvmpipe's compiler would double the gap first
    return Four(log_variance - prior_log_variance, 2.0 * half_distance, inverse);
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
        let f = four_at(span.i, j, span.end);
        if LOSS != 0u {
            sum += keep_loss(span.i, j, span.end, loss4(f));
        }
        if (GRADIENTS & 1u) != 0u {
            var g = d_mean4(f, weight4(span.i, j, span.end));
            if ADD == 1u {
                g += load_d_mean4(span.i, j, span.end, 0.0);
            }
            store_d_mean4(span.i, j, span.end, g);
        }
        if (GRADIENTS & 2u) != 0u {
            var g = d_log_variance4(f, weight4(span.i, j, span.end));
            if ADD == 1u {
                g += load_d_log_variance4(span.i, j, span.end, 0.0);
            }
            store_d_log_variance4(span.i, j, span.end, g);
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
    for (var j = span.first; j < span.end; j += 4u * LANES) {
        let f = four_at(span.i, j, span.end);
        let w = weight4(span.i, j, span.end);
        if (GRADIENTS & 1u) != 0u {
            var g = -d_mean4(f, w);
            if ADD == 1u {
                g += load_d_prior_mean4(span.i, j, span.end, 0.0);
            }
            store_d_prior_mean4(span.i, j, span.end, g);
        }
        if (GRADIENTS & 2u) != 0u {
            var g = d_prior4(f, w);
            if ADD == 1u {
                g += load_d_prior_log_variance4(span.i, j, span.end, 0.0);
            }
            store_d_prior_log_variance4(span.i, j, span.end, g);
        }
    }
}
