// y[i, j] = e^(x[i, j]/T) / sum_k e^(x[i, k]/T);   dx[i, j] = y[i, j] (dy[i, j] - sum_k y[i, k] dy[i, k]) / T.
// With `log_form`: y = ln of that;   dx[i, j] = (dy[i, j] - e^y[i, j] sum_k dy[i, k]) / T.
// Source: Bridle 1990, doi:10.1007/978-3-642-76153-9_28; temperature: Hinton, Vinyals and Dean 2015, arXiv:1503.02531.
// Cost: forward reads 2MN, writes MN; backward reads 4MN (2MN from memory where a row stays in cache), writes MN.

struct Params {
    x_offset: u32, x_stride: u32,
    y_offset: u32, y_stride: u32,
    y_in_offset: u32, y_in_stride: u32,
    dy_offset: u32, dy_stride: u32,
    dx_offset: u32, dx_stride: u32,
    rows: u32,
    cols: u32,
    temperature: f32,
    log_form: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<storage, read> y_in: array<f32>;
@group(0) @binding(4) var<storage, read> dy: array<f32>;
@group(0) @binding(5) var<storage, read_write> dx: array<f32>;

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
    var acc = LSE_EMPTY;
    for (var j = lane % LANES; j < cols; j += LANES) {
        acc = lse_push(acc, x[x_row + j], params.temperature);
    }
    acc = row_reduce(lane, acc, LSE, params.temperature);
    for (var j = lane % LANES; j < cols; j += LANES) {
        let v = x[x_row + j];
        if params.log_form == 1u {
            y[y_row + j] = -lse_minus_log_p(acc, v, params.temperature);
        } else {
            y[y_row + j] = lse_p(acc, v, params.temperature);
        }
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
    let y_row = params.y_in_offset + i * params.y_in_stride;
    let dy_row = params.dy_offset + i * params.dy_stride;
    let dx_row = params.dx_offset + i * params.dx_stride;
    let log_form = params.log_form == 1u;
    var sum = 0.0;
    for (var j = lane % LANES; j < cols; j += LANES) {
        sum += dy[dy_row + j] * select(y_in[y_row + j], 1.0, log_form);
    }
    sum = row_sum(lane, sum);
    for (var j = lane % LANES; j < cols; j += LANES) {
        let v = y_in[y_row + j];
        let g = dy[dy_row + j];
        if log_form {
            dx[dx_row + j] = (g - select(precise_exp(v), v, is_nan(v)) * sum) / params.temperature;
        } else {
            dx[dx_row + j] = v * (g - sum) / params.temperature;
        }
    }
}
