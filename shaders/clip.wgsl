// norm = sqrt(sum of g^2 over all gradients);  g = g min(1, max_norm/(norm + 1e-6)).
// Source: Pascanu, Mikolov and Bengio 2013, arXiv:1211.5063, algorithm 1, in the form of
// torch.nn.utils.clip_grad_norm_.
// Cost: reads g twice and writes it once.

// square_i = (scale, sum of (scale g_ij)^2), one pair per row i.
@compute @workgroup_size(WG)
fn squares(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let span = span_of(group, groups, lane);
    var sums = NOTHING;
    // Sums of sums: the rounding error of a long sum grows with its length.
    for (var first = span.first; first < span.end; first += 16u * step_size()) {
        var some = NOTHING;
        for (var j = first; j < min(span.end, first + 16u * step_size()); j += step_size()) {
            some = with16(some, load_g16(span.i, j, span.end, 0.0), mat4x4<f32>());
        }
        sums = joined(sums, some);
    }
    sums = merged(lane, sums);
    if span.lead {
        store_square(span.i, 0u, sums.scale);
        store_square(span.i, 1u, sums.squares);
    }
}

fn joined(a: Sums, b: Sums) -> Sums {
    let scale = min(a.scale, b.scale);
    return Sums(scale, rescaled(a, scale).squares + rescaled(b, scale).squares, 0.0);
}

@compute @workgroup_size(WG)
fn finish(@builtin(local_invocation_index) lane: u32) {
    var sums = NOTHING;
    for (var first = lane; first < params.rows; first += 64u * WG) {
        var some = NOTHING;
        for (var i = first; i < min(params.rows, first + 64u * WG); i += WG) {
            some = joined(some, Sums(load_square_in(i, 0u), load_square_in(i, 1u), 0.0));
        }
        sums = joined(sums, some);
    }
    let length = norm_of(merged(lane, sums));
    if lane == 0u {
        store_norm(0u, 0u, length.x / length.y);
        let factor = params.max_norm * length.y / (length.x + 1e-6 * length.y);
        store_factor(0u, 0u, select(min(factor, 1.0), length.x, is_nan(length.x)));
    }
}

@compute @workgroup_size(WG)
fn scale(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let span = span_of(group, groups, lane);
    let factor = load_factor_in(0u, 0u);
    for (var j = span.first; j < span.end; j += 4u * LANES) {
        store_new_g4(span.i, j, span.end, factor * load_new_g4(span.i, j, span.end, 0.0));
    }
}
