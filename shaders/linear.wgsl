// y[i, o] = sum_k x[i, k] w[o, k] + b[o];   dx = dy w;   dw = dy^T x;   db[o] = sum_i dy[i, o].
// Source: Rumelhart, Hinton and Williams, Nature 323 (1986), doi:10.1038/323533a0.
// c is rows x cols, `depth` long is the summed dimension, of which slice z of the grid takes `per_split` and writes rows z*rows.. of c; `splits`
// such slices `merge` adds up. a lies as [rows, depth] (`a_by_k`) or [depth, rows], b as [cols, depth] (`b_by_k`) or [depth, cols].
// Cost of an N x O result over K: 2NOK FLOP; reads NK * ceil(O / tile) + OK * ceil(N / tile), writes NO (times the splits, twice).

fn tile_a(i: u32, k: u32) -> f32 {
    if i >= params.rows || k >= params.depth {
        return 0.0;
    }
    let by_k = params.a_by_k == 1u;
    return load_a(select(k, i, by_k), select(i, k, by_k));
}

fn tile_b(j: u32, k: u32) -> f32 {
    if j >= params.cols || k >= params.depth {
        return 0.0;
    }
    let by_k = params.b_by_k == 1u;
    return load_b(select(k, j, by_k), select(j, k, by_k));
}

fn bias_of(j: u32) -> f32 {
    if params.has_bias == 0u || j >= params.cols {
        return 0.0;
    }
    return load_bias(j, 0u);
}

fn finish(i: u32, j: u32, slice: u32, value: f32) {
    if j >= params.cols {
        return;
    }
    let row = slice * params.rows + i;
    if params.accumulate == 1u {
        store_c(row, j, load_c(row, j) + value);
    } else {
        store_c(row, j, value);
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
        sum += load_a(k, i);
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
        sum += load_part(slice * params.rows + i, j);
    }
    finish(i, j, 0u, sum + bias_of(j));
}
