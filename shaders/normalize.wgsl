// n_i = max(|x_i|, eps);   y_i = x_i / n_i;   dx_i = (dy_i - y_i <y_i, dy_i>) / n_i, without the second term where |x_i| < eps.
// Source: Schroff, Kalenichenko and Philbin, CVPR 2015, arXiv:1503.03832, section 3; eps as torch.nn.functional.normalize.
// Cost: forward reads 3MN (1MN from memory where a row stays in cache), writes MN; backward reads 6MN (2MN), writes MN.

struct Params {
    x_offset: u32, x_stride: u32,
    y_offset: u32, y_stride: u32,
    dy_offset: u32, dy_stride: u32,
    dx_offset: u32, dx_stride: u32,
    rows: u32,
    cols: u32,
    eps: f32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<storage, read> dy: array<f32>;
@group(0) @binding(4) var<storage, read_write> dx: array<f32>;

// |x_i| as (length, unit), |x_i| = length / unit. Squares of a row scaled by a power of two near its largest element can
// neither overflow nor vanish; where that scale is below 1 it stays in the length, since |x_i| itself may exceed f32.
fn row_norm(lane: u32, x_row: u32, cols: u32) -> vec2<f32> {
    var peak = 0.0;
    for (var j = lane % LANES; j < cols; j += LANES) {
        peak = max(peak, abs(x[x_row + j]));
    }
    let exponent = bitcast<u32>(row_max(lane, peak)) >> 23u;
    let scale = bitcast<f32>((254u - clamp(exponent, 1u, 253u)) << 23u);
    var sum = 0.0;
    for (var j = lane % LANES; j < cols; j += LANES) {
        let v = x[x_row + j] * scale;
        sum += v * v;
    }
    return vec2(sqrt(row_sum(lane, sum)) / max(scale, 1.0), min(scale, 1.0));
}

// v / max(|x_i|, eps)
fn over_norm(v: f32, norm: vec2<f32>) -> f32 {
    return v / select(max(norm.x, params.eps * norm.y), norm.x, is_nan(norm.x)) * norm.y;
}

@compute @workgroup_size(WG)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = row_of(group, groups, lane);
    let cols = select(0u, params.cols, i < params.rows);
    let x_row = params.x_offset + i * params.x_stride;
    let y_row = params.y_offset + i * params.y_stride;
    let norm = row_norm(lane, x_row, cols);
    for (var j = lane % LANES; j < cols; j += LANES) {
        y[y_row + j] = over_norm(x[x_row + j], norm);
    }
}

@compute @workgroup_size(WG)
fn backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = row_of(group, groups, lane);
    let cols = select(0u, params.cols, i < params.rows);
    let x_row = params.x_offset + i * params.x_stride;
    let dy_row = params.dy_offset + i * params.dy_stride;
    let dx_row = params.dx_offset + i * params.dx_stride;
    let norm = row_norm(lane, x_row, cols);
    var sum = 0.0;
    for (var j = lane % LANES; j < cols; j += LANES) {
        sum += over_norm(x[x_row + j], norm) * dy[dy_row + j];
    }
    let along = select(row_sum(lane, sum), 0.0, norm.x < params.eps * norm.y);
    for (var j = lane % LANES; j < cols; j += LANES) {
        dx[dx_row + j] = over_norm(dy[dy_row + j] - over_norm(x[x_row + j], norm) * along, norm);
    }
}
