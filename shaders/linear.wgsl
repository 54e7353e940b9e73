// y[i, o] = sum_k x[i, k] w[o, k] + b[o];   dx = dy w;   dw = dy^T x;   db[o] = sum_i dy[i, o].
// Source: Rumelhart, Hinton and Williams, Nature 323 (1986), doi:10.1038/323533a0.
// Cost of an N x O result over K: 2NOK FLOP; reads NK * ceil(O / tile) + OK * ceil(N / tile), writes NO (times the splits, twice).

struct Params {
    a_offset: u32, a_stride: u32,
    b_offset: u32, b_stride: u32,
    bias_offset: u32, bias_stride: u32,
    c_offset: u32, c_stride: u32,
    part_offset: u32, part_stride: u32,
    rows: u32,        // of c
    cols: u32,        // of c
    depth: u32,       // the summed dimension
    per_split: u32,   // how much of it a slice of the grid takes; slice z writes rows z*rows.. of c
    splits: u32,      // slices that `merge` adds up
    a_by_k: u32,      // a is stored [rows, depth], else [depth, rows]
    b_by_k: u32,      // b is stored [cols, depth], else [depth, cols]
    has_bias: u32,
    accumulate: u32,  // add to c, else overwrite it
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> c: array<f32>;
@group(0) @binding(5) var<storage, read> part: array<f32>; // [splits * rows, cols]

fn tile_a(i: u32, k: u32) -> f32 {
    if i >= params.rows || k >= params.depth {
        return 0.0;
    }
    return a[params.a_offset + select(k * params.a_stride + i, i * params.a_stride + k, params.a_by_k == 1u)];
}

fn tile_b(j: u32, k: u32) -> f32 {
    if j >= params.cols || k >= params.depth {
        return 0.0;
    }
    return b[params.b_offset + select(k * params.b_stride + j, j * params.b_stride + k, params.b_by_k == 1u)];
}

fn bias_of(j: u32) -> f32 {
    if params.has_bias == 0u || j >= params.cols {
        return 0.0;
    }
    return bias[params.bias_offset + j * params.bias_stride];
}

fn finish(i: u32, j: u32, slice: u32, value: f32) {
    if j >= params.cols {
        return;
    }
    let at = params.c_offset + (slice * params.rows + i) * params.c_stride + j;
    if params.accumulate == 1u {
        c[at] += value;
    } else {
        c[at] = value;
    }
}

fn finish_row(i: u32, j: u32, k: u32, slice: u32, low: vec4<f32>, high: vec4<f32>) {
    if i >= params.rows {
        return;
    }
    finish(i, j, slice, low.x);
    finish(i, j + 1u, slice, low.y);
    finish(i, j + 2u, slice, low.z);
    finish(i, j + 3u, slice, low.w);
    finish(i, k, slice, high.x);
    finish(i, k + 1u, slice, high.y);
    finish(i, k + 2u, slice, high.z);
    finish(i, k + 3u, slice, high.w);
}

// c = a b^T (+ bias) (+ c), each operand as it lies or transposed: y, dx and dw alike.
@compute @workgroup_size(TX, TY)
fn product(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row0 = group.y * 8u * TY;
    let col0 = group.x * 8u * TX;
    let first = group.z * params.per_split;
    let end = min(params.depth, first + params.per_split);
    let t = tile_product(row0, col0, first, end, lane, params.a_by_k == 1u, params.b_by_k == 1u);
    let j = col0 + tile_col(lane, 0u);
    let k = col0 + tile_col(lane, 4u);
    let low = vec4(bias_of(j), bias_of(j + 1u), bias_of(j + 2u), bias_of(j + 3u));
    let high = vec4(bias_of(k), bias_of(k + 1u), bias_of(k + 2u), bias_of(k + 3u));
    finish_row(row0 + tile_row(lane, 0u), j, k, group.z, t.r0 + low, t.s0 + high);
    finish_row(row0 + tile_row(lane, 1u), j, k, group.z, t.r1 + low, t.s1 + high);
    finish_row(row0 + tile_row(lane, 2u), j, k, group.z, t.r2 + low, t.s2 + high);
    finish_row(row0 + tile_row(lane, 3u), j, k, group.z, t.r3 + low, t.s3 + high);
    finish_row(row0 + tile_row(lane, 4u), j, k, group.z, t.r4 + low, t.s4 + high);
    finish_row(row0 + tile_row(lane, 5u), j, k, group.z, t.r5 + low, t.s5 + high);
    finish_row(row0 + tile_row(lane, 6u), j, k, group.z, t.r6 + low, t.s6 + high);
    finish_row(row0 + tile_row(lane, 7u), j, k, group.z, t.r7 + low, t.s7 + high);
}

// Slice z of the column sums of a [depth, rows]: c[z*rows + i, 0] = sum over the slice's k of a[k, i].
@compute @workgroup_size(WG)
fn column_sum(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = item_of(group, groups, lane);
    if i >= params.rows {
        return;
    }
    let first = group.z * params.per_split;
    let end = min(params.depth, first + params.per_split);
    var sum = 0.0;
    for (var k = first; k < end; k++) {
        sum += a[params.a_offset + k * params.a_stride + i];
    }
    finish(i, 0u, group.z, sum);
}

// c[i, j] = the sum of the slices, in order (+ bias) (+ c).
@compute @workgroup_size(WG)
fn merge(
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
    var sum = 0.0;
    for (var slice = 0u; slice < params.splits; slice++) {
        sum += part[params.part_offset + (slice * params.rows + i) * params.part_stride + j];
    }
    finish(i, j, 0u, sum + bias_of(j));
}
