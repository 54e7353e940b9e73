// n_i = max(|x_i|, eps);   y_i = x_i / n_i;
// dx_i = (dy_i - y_i <y_i, dy_i>) / n_i, without the second term where |x_i| < eps.
// Source: Schroff, Kalenichenko and Philbin, CVPR 2015, arXiv:1503.03832, section 3; eps as
// torch.nn.functional.normalize.
// Cost per element: forward reads x once where a row fits the lanes that process it, else twice, and writes y. Backward
// reads x and dy as often and writes dx.

// v / max(|x_i|, eps)
fn over(v: mat4x4<f32>, norm: vec2<f32>) -> mat4x4<f32> {
    let by = select(max(norm.x, params.eps * norm.y), norm.x, is_nan(norm.x));
    return mat4x4(v[0] / by * norm.y, v[1] / by * norm.y, v[2] / by * norm.y, v[3] / by * norm.y);
}

@compute @workgroup_size(WG)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let span = span_of(group, groups, lane);
    var sums = NOTHING;
    var x = mat4x4<f32>();
    for (var j = span.first; j < span.end; j += step_size()) {
        x = load_x16(span.i, j, span.end, 0.0);
        sums = with16(sums, x, mat4x4<f32>());
    }
    let norm = norm_of(merged(lane, sums));
    for (var j = span.first; j < span.end; j += step_size()) {
        if !holds() {
            x = load_x16(span.i, j, span.end, 0.0);
        }
        store_y16(span.i, j, span.end, over(x, norm));
    }
}

@compute @workgroup_size(WG)
fn backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let span = span_of(group, groups, lane);
    var sums = NOTHING;
    var x = mat4x4<f32>();
    var dy = mat4x4<f32>();
    for (var j = span.first; j < span.end; j += step_size()) {
        x = load_x16(span.i, j, span.end, 0.0);
        dy = load_dy16(span.i, j, span.end, 0.0);
        sums = with16(sums, x, dy);
    }
    sums = merged(lane, sums);
    let norm = norm_of(sums);
    // <y, dy> = <x scaled, dy> / |x scaled|; 0 where eps replaces the length.
    let along = select(sums.along / sqrt(sums.squares), 0.0, norm.x < params.eps * norm.y);
    for (var j = span.first; j < span.end; j += step_size()) {
        if !holds() {
            x = load_x16(span.i, j, span.end, 0.0);
            dy = load_dy16(span.i, j, span.end, 0.0);
        }
        store_dx16(span.i, j, span.end, over(dy - over(x, norm) * along, norm));
    }
}
