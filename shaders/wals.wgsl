// L = sum over observed (u, i) of w (r - <x_u, y_i>)^2 + w0 sum over all others of <x_u, y_i>^2
//     + sum lambda_u |x_u|^2 + ..
// For each row u:
// x_u = A^-1 b,  A = w0 Y^T Y + sum over u's of (w - w0) y y^T + lambda_u I,  b = sum over u's of w r y.
// Source: Hu, Koren and Volinsky 2008, doi:10.1109/ICDM.2008.22.
// The observations of a row of x are cut into pieces. `pieces[p]` of piece p is: its first observation; its number of
// observations; whether it is the first piece of its row; the row of x; the row's position in the sorted order. Row r
// of a dispatch has the pieces from own[r] to own[r + 1] - 1.
// This file and wals/factor.wgsl form A and factor it, A = L L^T. The matrix of a piece is `cols` = ceil(D / 4) 4 lines
// (rows of `sums`) of `cols` numbers: the upper half of A, of which line j becomes column j of L. Four more lines
// follow: b, lambda_u, and two that are unused.
// Cost: n D^2 multiply-adds for n observations, and D^3 / 6 per row; reads n D numbers twice, writes and reads 4 D^2
// bytes per piece.

override HAS_WEIGHTS: u32 = 0u;
override HAS_GOALS: u32 = 0u;
override ADD: u32 = 0u; // to the sums of earlier parts of y
override FACTORED: u32 = 0u; // the operands of the tile are columns of L instead of observations

// The current piece: its first observation and its number of observations.
var<private> piece: vec2<u32>;

// The first observation of piece p, as an index into the bound part, and the number of its observations.
fn observations_of(p: u32) -> vec2<u32> {
    return vec2(load_pieces(p, 0u) - params.first_observation, load_pieces(p, 1u));
}

// The row of y of observation e, as an index into the bound part of y; `part_rows` or more if it lies outside.
fn row_of(e: u32) -> u32 {
    return load_items(e, 0u) - params.first_row;
}

// How many columns of row r exist: 0 if the row is outside the bound part.
fn columns_of(r: u32) -> u32 {
    return select(0u, params.width, r < params.part_rows);
}

fn weight_of(e: u32) -> f32 {
    if HAS_WEIGHTS == 1u {
        return load_weights(e, 0u);
    }
    return params.weight;
}

fn goal_of(e: u32) -> f32 {
    if HAS_GOALS == 1u {
        return load_goals(e, 0u);
    }
    return params.goal;
}

// Four numbers, from column i on, of the row of y of the piece's observation k; `weighted`: times w - w0. Zeros past
// the last observation.
fn observed4(i: u32, k: u32, weighted: bool) -> vec4<f32> {
    let exists = k < piece.y;
    let e = select(0u, piece.x + k, exists);
    let r = row_of(e);
    let value = load_y4(min(r, params.part_rows - 1u), i, select(0u, columns_of(r), exists), 0.0);
    if weighted {
        return select(vec4(0.0), value * (weight_of(e) - params.unobserved), exists);
    }
    return value;
}

// Four rows of the operand from i on, at observations k to k + 3.
fn observed(i: u32, k: u32, weighted: bool) -> mat4x4<f32> {
    return mat4x4(
        observed4(i, k, weighted), observed4(i, k + 1u, weighted), observed4(i, k + 2u, weighted), observed4(i, k + 3u, weighted),
    );
}

fn tile_a(i: u32, k: u32) -> mat4x4<f32> {
    if FACTORED == 1u {
        return factored(i, k);
    }
    return observed(i, k, true);
}

fn tile_b(j: u32, k: u32) -> mat4x4<f32> {
    if FACTORED == 1u {
        return factored(j, k);
    }
    return observed(j, k, false);
}

fn first_line(p: u32) -> u32 {
    return p * (params.cols + 4u);
}

fn put(line: u32, j: u32, values: vec4<f32>) {
    var sum = values;
    if ADD == 1u {
        sum += load_sums4(line, j, params.cols, 0.0);
    }
    store_sums4(line, j, params.cols, sum);
}

// The piece's part of A, without the terms that all rows share, in the tiles that meet the upper half of A.
@compute @workgroup_size(TX, TY)
fn hessian(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row0 = group.y * 16u * TY;
    let col0 = group.x * 4u * TX;
    if row0 >= col0 + 4u * TX {
        return;
    }
    piece = observations_of(group.z);
    let t = tile_product(row0, col0, 0u, params.depth, lane);
    let j = col0 + tile_col(lane);
    for (var h = 0u; h < 4u; h++) {
        let i = row0 + tile_row(lane, 4u * h);
        let four = tile_rows4(t, h);
        for (var r = 0u; r < min(4u, max(params.cols, i) - i); r++) {
            put(first_line(group.z) + i + r, j, quad_of(four, r));
        }
    }
}

// The piece's part of b, four numbers per lane, and the lambda of its row.
@compute @workgroup_size(WG)
fn right(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let item = item_of(group, groups, lane);
    let p = item / (params.cols / 4u);
    if p >= params.rows {
        return;
    }
    let j = 4u * (item % (params.cols / 4u));
    let own = observations_of(p);
    var sum = vec4(0.0);
    for (var e = own.x; e < own.x + own.y; e++) {
        let r = row_of(e);
        let value = load_y4(min(r, params.part_rows - 1u), j, columns_of(r), 0.0);
        sum += (weight_of(e) * goal_of(e)) * value;
    }
    put(first_line(p) + params.cols, j, sum);
    if j == 0u && ADD == 0u {
        put(first_line(p) + params.cols + 1u, j, vec4(load_ridge(load_pieces(p, 3u), 0u), 0.0, 0.0, 0.0));
    }
}
