// loss_i = -ln p[i, t_i], p = softmax of row i of x, t = class ids;   dx[i, j] = w_i (p[i, j] - [j = t_i]).
// mean: sum of loss_i / number of rows that are not ignored, w_i = dy / that number.
// Source: Bridle 1990, doi:10.1007/978-3-642-76153-9_28; reductions and ignored rows as torch.nn.functional.cross_entropy.
// Cost: forward reads MN, writes 3M; backward reads MN, writes MN.

struct Params {
    x_offset: u32, x_stride: u32,
    id_offset: u32, id_stride: u32,
    loss_offset: u32, loss_stride: u32,
    lse_offset: u32, lse_stride: u32,
    lse_in_offset: u32, lse_in_stride: u32,
    dy_offset: u32, dy_stride: u32,
    dx_offset: u32, dx_stride: u32,
    count_offset: u32, count_stride: u32,
    count_in_offset: u32, count_in_stride: u32,
    loss_in_offset: u32, loss_in_stride: u32,
    rows: u32,
    cols: u32,
    ignore: u32,    // the class id of rows that do not count
    mean: u32,
    dy_by_row: u32, // dy holds one factor per row, else one for all
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> id: array<u32>;
@group(0) @binding(3) var<storage, read_write> loss: array<f32>;
@group(0) @binding(4) var<storage, read_write> lse: array<f32>;     // [rows, 2]: (max, rest), see lib/lse.wgsl
@group(0) @binding(5) var<storage, read> lse_in: array<f32>;
@group(0) @binding(6) var<storage, read> dy: array<f32>;
@group(0) @binding(7) var<storage, read_write> dx: array<f32>;
@group(0) @binding(8) var<storage, read_write> count: array<u32>;   // rows that are not ignored
@group(0) @binding(9) var<storage, read> count_in: array<u32>;
@group(0) @binding(10) var<storage, read> loss_in: array<f32>;      // per row

@compute @workgroup_size(WG)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = row_of(group, groups, lane);
    let cols = select(0u, params.cols, i < params.rows);
    let x_row = params.x_offset + i * params.x_stride;
    var acc = LSE_EMPTY;
    for (var j = lane % LANES; j < cols; j += LANES) {
        acc = lse_push(acc, x[x_row + j], 1.0);
    }
    acc = row_reduce(lane, acc, LSE, 1.0);
    if i >= params.rows || lane % LANES != 0u {
        return;
    }
    let lse_at = params.lse_offset + i * params.lse_stride;
    lse[lse_at] = acc.x;
    lse[lse_at + 1u] = acc.y;
    let target_id = id[params.id_offset + i * params.id_stride];
    var value = not_a_number();
    if target_id == params.ignore {
        value = 0.0;
    } else if target_id < params.cols {
        value = lse_minus_log_p(acc, x[x_row + target_id], 1.0);
    }
    loss[params.loss_offset + i * params.loss_stride] = value;
}

// Rows that are not ignored; one workgroup.
@compute @workgroup_size(WG)
fn count_rows(@builtin(local_invocation_index) lane: u32) {
    // Counts in two parts, so that the sums of each over the lanes are exact in f32.
    var low = 0u;
    for (var i = lane; i < params.rows; i += WG) {
        low += u32(id[params.id_offset + i * params.id_stride] != params.ignore);
    }
    let total = row_reduce(lane, vec2(f32(low & 0xfffu), f32(low >> 12u)), SUM, 1.0);
    if lane == 0u {
        count[params.count_offset] = u32(total.x) + (u32(total.y) << 12u);
    }
}

// The sum or mean of the rows' losses; one workgroup. 0 if every row is ignored.
@compute @workgroup_size(WG)
fn reduce(@builtin(local_invocation_index) lane: u32) {
    var sum = 0.0;
    // Sums of sums: rounding errors of a long sum grow with its length.
    for (var first = lane; first < params.rows; first += 64u * WG) {
        var part = 0.0;
        for (var i = first; i < min(params.rows, first + 64u * WG); i += WG) {
            part += loss_in[params.loss_in_offset + i * params.loss_in_stride];
        }
        sum += part;
    }
    sum = row_sum(lane, sum);
    if lane == 0u {
        let divisor = select(1.0, max(1.0, f32(count_in[params.count_in_offset])), params.mean == 1u);
        loss[params.loss_offset] = sum / divisor;
    }
}

@compute @workgroup_size(WG)
fn backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = row_of(group, groups, lane);
    if i >= params.rows {
        return;
    }
    let x_row = params.x_offset + i * params.x_stride;
    let dx_row = params.dx_offset + i * params.dx_stride;
    let lse_at = params.lse_in_offset + i * params.lse_in_stride;
    let acc = vec2(lse_in[lse_at], lse_in[lse_at + 1u]);
    let target_id = id[params.id_offset + i * params.id_stride];
    var weight = dy[params.dy_offset + select(0u, i * params.dy_stride, params.dy_by_row == 1u)];
    if params.mean == 1u {
        weight /= max(1.0, f32(count_in[params.count_in_offset]));
    }
    if target_id >= params.cols {
        weight = not_a_number();
    }
    for (var j = lane % LANES; j < params.cols; j += LANES) {
        let v = x[x_row + j];
        var g = 0.0;
        if target_id != params.ignore {
            g = weight * select(lse_p(acc, v, 1.0), lse_p_minus_1(acc, v, 1.0), j == target_id && !is_masked(v));
        }
        dx[dx_row + j] = g;
    }
}
