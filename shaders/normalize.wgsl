// n_i = max(|x_i|, eps);   y_i = x_i / n_i;   dx_i = (dy_i - y_i <y_i, dy_i>) / n_i, without the second term where |x_i| < eps.
// Source: Schroff, Kalenichenko and Philbin, CVPR 2015, arXiv:1503.03832, section 3; eps as torch.nn.functional.normalize.
// Cost an element: forward reads x once where a row fits the lanes that take it, else twice, and writes y; backward reads x and dy
// as often and writes dx.

// Sums over a row of x scaled by a power of two near its largest element, so that squares can neither overflow nor vanish.
struct Sums {
    scale: f32,
    squares: f32,
    along: f32, // <x, dy>
}

fn peak16(x: mat4x4<f32>) -> f32 {
    return max4(max(max(abs(x[0]), abs(x[1])), max(abs(x[2]), abs(x[3]))));
}

fn scale_of(peak: f32) -> f32 {
    return bitcast<f32>((254u - clamp(bitcast<u32>(peak) >> 23u, 1u, 253u)) << 23u);
}

fn product16(a: mat4x4<f32>, b: mat4x4<f32>) -> f32 {
    return sum16(mat4x4(a[0] * b[0], a[1] * b[1], a[2] * b[2], a[3] * b[3]));
}

fn rescaled(sums: Sums, scale: f32) -> Sums {
    let change = scale / sums.scale;
    return Sums(scale, sums.squares * change * change, sums.along * change);
}

fn with16(sums: Sums, x: mat4x4<f32>, dy: mat4x4<f32>) -> Sums {
    let next = rescaled(sums, min(sums.scale, scale_of(peak16(x))));
    let v = x * next.scale;
    return Sums(next.scale, next.squares + product16(v, v), next.along + product16(v, dy));
}

const NOTHING = Sums(0x1p+126f, 0.0, 0.0);

// Of all lanes of the row.
fn merged(lane: u32, sums: Sums) -> Sums {
    let scale = -reduce_max(lane, -sums.scale);
    let mine = rescaled(sums, scale);
    let all = reduce_sum2(lane, vec2(mine.squares, mine.along));
    return Sums(scale, all.x, all.y);
}

// |x_i| as (length, unit), |x_i| = length / unit: where the scale is below 1 it stays in the length, since |x_i| itself may exceed f32.
fn norm_of(sums: Sums) -> vec2<f32> {
    return vec2(sqrt(sums.squares) / max(sums.scale, 1.0), min(sums.scale, 1.0));
}

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
    // <y, dy> = <x scaled, dy> / |x scaled|; 0 where eps takes the place of the length.
    let along = select(sums.along / sqrt(sums.squares), 0.0, norm.x < params.eps * norm.y);
    for (var j = span.first; j < span.end; j += step_size()) {
        if !holds() {
            x = load_x16(span.i, j, span.end, 0.0);
            dy = load_dy16(span.i, j, span.end, 0.0);
        }
        store_dx16(span.i, j, span.end, over(dy - over(x, norm) * along, norm));
    }
}
