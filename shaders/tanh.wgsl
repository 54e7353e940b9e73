// y = tanh x;   dx = dy (1 - y^2), formed as dy (1 - y)(1 + y).
// Source: LeCun, Bottou, Orr and Mueller, Efficient BackProp (1998), section 4.4, doi:10.1007/3-540-49430-8_2.
// Cost: forward reads MN, writes MN; backward reads 2MN, writes MN.

struct Params {
    x_offset: u32, x_stride: u32,
    y_offset: u32, y_stride: u32,
    y_in_offset: u32, y_in_stride: u32,
    dy_offset: u32, dy_stride: u32,
    dx_offset: u32, dx_stride: u32,
    rows: u32,
    cols: u32,
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
    let item = item_of(group, groups, lane);
    let i = item / params.cols;
    let j = item % params.cols;
    if i >= params.rows {
        return;
    }
    y[params.y_offset + i * params.y_stride + j] = precise_tanh(x[params.x_offset + i * params.x_stride + j]);
}

@compute @workgroup_size(WG)
fn backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let item = item_of(group, groups, lane);
    let i = item / params.cols;
    let j = item % params.cols;
    if i >= params.rows {
        return;
    }
    let v = y_in[params.y_in_offset + i * params.y_in_stride + j];
    dx[params.dx_offset + i * params.dx_stride + j] =
        dy[params.dy_offset + i * params.dy_stride + j] * ((1.0 - v) * (1.0 + v));
}
