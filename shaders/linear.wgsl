// y[i, o] = sum_k x[i, k] w[o, k] + b[o];   dx = dy w;   dw = dy^T x;   db[o] = sum_i dy[i, o].
// Source: Rumelhart, Hinton and Williams, Nature 323 (1986), doi:10.1038/323533a0.
// The result c is [rows, cols]; `depth` is the length of the summed dimension. Slice z of the grid sums `per_split` of
// it and writes rows z*rows.. of c; `merge` adds up `splits` such slices. a lies as [rows, depth] (A_BY_K) or [depth,
// rows], b as [cols, depth] (B_BY_K) or [depth, cols].
// Cost of an N x O result over K: 2NOK FLOP; reads NK * ceil(O / tile) + OK * ceil(N / tile), writes NO. With splits
// each slice's NO is written and then read.

override A_BY_K: u32 = 1u;
override B_BY_K: u32 = 1u;
override DOWN: u32 = 0u; // whether a tile is followed by the tile below it instead of the tile beside it

fn tile_a(i: u32, k: u32) -> mat4x4<f32> {
    if A_BY_K == 1u {
        return transpose(load_a4x4(i, k, params.rows, params.depth));
    }
    return load_a4x4(k, i, params.depth, params.rows);
}

fn tile_b(j: u32, k: u32) -> mat4x4<f32> {
    if B_BY_K == 1u {
        return transpose(load_b4x4(j, k, params.cols, params.depth));
    }
    return load_b4x4(k, j, params.depth, params.cols);
}

fn bias_of(j: u32) -> f32 {
    if params.has_bias == 0u || j >= params.cols {
        return 0.0;
    }
    return load_bias(j, 0u);
}

fn finish(i: u32, j: u32, slice: u32, value: f32) {
    let row = slice * params.rows + i;
    if params.accumulate == 1u {
        store_c(row, j, load_c(row, j) + value);
    } else {
        store_c(row, j, value);
    }
}

fn finish4(i: u32, j: u32, slice: u32, values: vec4<f32>) {
    let row = slice * params.rows + i;
    var sum = values;
    if params.accumulate == 1u {
        sum += load_c4(row, j, params.cols, 0.0);
    }
    store_c4(row, j, params.cols, sum);
}

// c = a b^T (+ bias) (+ c), each operand as stored or transposed. Used for y, dx and dw.
@compute @workgroup_size(TX, TY)
fn product(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let at = select(group.xy, group.yx, DOWN == 1u);
    let row0 = at.y * 16u * TY;
    let col0 = at.x * 4u * TX;
    let first = group.z * params.per_split;
    let end = min(params.depth, first + params.per_split);
    let t = tile_product(row0, col0, first, end, lane);
    let j = col0 + tile_col(lane);
    let bias = vec4(bias_of(j), bias_of(j + 1u), bias_of(j + 2u), bias_of(j + 3u));
    for (var h = 0u; h < 4u; h++) {
        let i = row0 + tile_row(lane, 4u * h);
        let four = tile_rows4(t, h);
        for (var r = 0u; r < tile_rows_inside(i); r++) {
            finish4(i + r, j, group.z, quad_of(four, r) + bias);
        }
    }
}

// Slice z of the column sums of a [depth, rows]: c[z*rows + i, 0] = the sum of a[k, i] over the slice's k.
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
    // Sums of sums: the rounding error of a long sum grows with its length.
    for (var k0 = first; k0 < end; k0 += 64u) {
        var part = 0.0;
        for (var k = k0; k < min(end, k0 + 64u); k++) {
            part += load_a(k, i);
        }
        sum += part;
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
