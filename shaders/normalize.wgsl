// n_i = max(|x_i|, eps);   y_i = x_i / n_i;   dx_i = (dy_i - y_i <y_i, dy_i>) / n_i, without the second term where |x_i| < eps.
// Source: Schroff, Kalenichenko and Philbin, CVPR 2015, arXiv:1503.03832, section 3; eps as torch.nn.functional.normalize.
// Cost an element: forward reads x once where a row fits the lanes that take it, else three times, and writes y; backward reads x and dy
// once, else x four and dy two times, and writes dx.

fn peak16(x: mat4x4<f32>) -> f32 {
    return max4(max(max(abs(x[0]), abs(x[1])), max(abs(x[2]), abs(x[3]))));
}

fn squares16(x: mat4x4<f32>, scale: f32) -> f32 {
    let v = x * scale;
    return sum16(mat4x4(v[0] * v[0], v[1] * v[1], v[2] * v[2], v[3] * v[3]));
}

// The largest element's power of two, so that squares of the scaled row can neither overflow nor vanish.
fn scale_of(peak: f32) -> f32 {
    return bitcast<f32>((254u - clamp(bitcast<u32>(peak) >> 23u, 1u, 253u)) << 23u);
}

// |x_i| as (length, unit), |x_i| = length / unit: where the scale is below 1 it stays in the length, since |x_i| itself may exceed f32.
fn norm_of(squares: f32, scale: f32) -> vec2<f32> {
    return vec2(sqrt(squares) / max(scale, 1.0), min(scale, 1.0));
}

// What v / max(|x_i|, eps) divides by, after a multiplication with norm.y.
fn divisor(norm: vec2<f32>) -> f32 {
    return select(max(norm.x, params.eps * norm.y), norm.x, is_nan(norm.x));
}

@compute @workgroup_size(WG)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let span = span_of(group, groups, lane);
    var peak = 0.0;
    var x = mat4x4<f32>();
    for (var j = span.first; j < span.end; j += step_size()) {
        x = load_x16(span.i, j, span.end, 0.0);
        peak = max(peak, peak16(x));
    }
    let scale = scale_of(reduce_max(lane, peak));
    var sum = 0.0;
    for (var j = span.first; j < span.end; j += step_size()) {
        if !holds() {
            x = load_x16(span.i, j, span.end, 0.0);
        }
        sum += squares16(x, scale);
    }
    let norm = norm_of(reduce_sum(lane, sum), scale);
    for (var j = span.first; j < span.end; j += step_size()) {
        if !holds() {
            x = load_x16(span.i, j, span.end, 0.0);
        }
        store_y16(span.i, j, span.end, over(x, norm));
    }
}

// v / max(|x_i|, eps)
fn over(v: mat4x4<f32>, norm: vec2<f32>) -> mat4x4<f32> {
    let by = divisor(norm);
    return mat4x4(v[0] / by * norm.y, v[1] / by * norm.y, v[2] / by * norm.y, v[3] / by * norm.y);
}

@compute @workgroup_size(WG)
fn backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let span = span_of(group, groups, lane);
    var peak = 0.0;
    var x = mat4x4<f32>();
    var dy = mat4x4<f32>();
    for (var j = span.first; j < span.end; j += step_size()) {
        x = load_x16(span.i, j, span.end, 0.0);
        peak = max(peak, peak16(x));
    }
    let scale = scale_of(reduce_max(lane, peak));
    var squares = 0.0;
    for (var j = span.first; j < span.end; j += step_size()) {
        if !holds() {
            x = load_x16(span.i, j, span.end, 0.0);
        }
        squares += squares16(x, scale);
    }
    let norm = norm_of(reduce_sum(lane, squares), scale);
    var sum = 0.0;
    for (var j = span.first; j < span.end; j += step_size()) {
        if !holds() {
            x = load_x16(span.i, j, span.end, 0.0);
        }
        dy = load_dy16(span.i, j, span.end, 0.0);
        let y = over(x, norm);
        sum += sum16(mat4x4(y[0] * dy[0], y[1] * dy[1], y[2] * dy[2], y[3] * dy[3]));
    }
    let along = select(reduce_sum(lane, sum), 0.0, norm.x < params.eps * norm.y);
    for (var j = span.first; j < span.end; j += step_size()) {
        if !holds() {
            x = load_x16(span.i, j, span.end, 0.0);
            dy = load_dy16(span.i, j, span.end, 0.0);
        }
        store_dx16(span.i, j, span.end, over(dy - over(x, norm) * along, norm));
    }
}
