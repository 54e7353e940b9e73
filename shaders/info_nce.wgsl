// s_ij = scale <q_i, k_j>, scale = min(e^log_scale, max_scale) or 1/temperature;  loss_i = ln sum_j e^s_ij - s_ii;
// symmetric: loss_i = (ln sum_j e^s_ij - s_ii + ln sum_j e^s_ji - s_ii) / 2.
// g_ij = dloss/ds_ij * scale = scale (w_i (p_ij - [i = j]) + w_j (c_ij - [i = j])), p over rows, c over columns (symmetric only);
// dq = g k;  dk = g^T q;  dlog_scale = sum_ij g_ij/scale s_ij, 0 where the scale is clamped.
// Source: van den Oord, Li and Vinyals 2018, arXiv:1807.03748, eq. 4; symmetric, learnable scale: Radford et al. 2021, arXiv:2103.00020.
// Log-sum-exps are pairs (max, rest), see lib/lse.wgsl: row_part [column tiles * rows, 2], col_part [row tiles * cols, 2]; backward's row_part
// has the sums that dlog_scale needs. positive [N] holds s_ii.
// Cost, U = 2NMD FLOP: forward U, backward 3U. s is formed tile by tile in registers and never stored; g in chunks of bounded size.

// The log-sum-exp of a lane's eight scores in one row (or column); those at `end` and past it are outside the matrix.
fn lse8(at: u32, far: u32, end: u32, near_scores: vec4<f32>, far_scores: vec4<f32>) -> vec2<f32> {
    let four = vec4(0u, 1u, 2u, 3u);
    let none = vec4(masked());
    return lse_of8(select(none, near_scores, at + four < vec4(end)), select(none, far_scores, far + four < vec4(end)), UNIT);
}

fn lse_lines(t: Tile, at: u32, far: u32, end: u32) -> Lines {
    return Lines(
        lse8(at, far, end, t.r0, t.s0), lse8(at, far, end, t.r1, t.s1),
        lse8(at, far, end, t.r2, t.s2), lse8(at, far, end, t.r3, t.s3),
        lse8(at, far, end, t.r4, t.s4), lse8(at, far, end, t.r5, t.s5),
        lse8(at, far, end, t.r6, t.s6), lse8(at, far, end, t.r7, t.s7),
    );
}

fn lse_line(line: u32, across: u32) -> vec2<f32> {
    var acc = tile_line(line, 0u, across);
    for (var x = 1u; x < across; x++) {
        acc = lse_merge(acc, tile_line(line, x, across), UNIT);
    }
    return acc;
}

fn keep4(i: u32, j: u32, scores: vec4<f32>) {
    let row = params.first_row + i;
    let col = params.first_col + j;
    if i < params.rows && row >= col && row < col + 4u && row < params.first_col + params.cols {
        store_positive(row, 0u, scores[row - col]);
    }
}

fn keep8(row0: u32, col0: u32, lane: u32, r: u32, near_scores: vec4<f32>, far_scores: vec4<f32>) {
    keep4(row0 + tile_row(lane, r), col0 + tile_col(lane, 0u), near_scores);
    keep4(row0 + tile_row(lane, r), col0 + tile_col(lane, 4u), far_scores);
}

// Writes s_ii for the pairs that lie in the tile.
fn keep_positives(t: Tile, row0: u32, col0: u32, lane: u32) {
    keep8(row0, col0, lane, 0u, t.r0, t.s0);
    keep8(row0, col0, lane, 1u, t.r1, t.s1);
    keep8(row0, col0, lane, 2u, t.r2, t.s2);
    keep8(row0, col0, lane, 3u, t.r3, t.s3);
    keep8(row0, col0, lane, 4u, t.r4, t.s4);
    keep8(row0, col0, lane, 5u, t.r5, t.s5);
    keep8(row0, col0, lane, 6u, t.r6, t.s6);
    keep8(row0, col0, lane, 7u, t.r7, t.s7);
}

// One tile of s: the log-sum-exp of its rows and, if symmetric, of its columns, and the scores of its own pairs.
@compute @workgroup_size(TX, TY)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row0 = group.y * 8u * TY;
    let col0 = group.x * 8u * TX;
    let t = product(row0, col0, lane);
    keep_positives(t, row0, col0, lane);
    tile_share_rows(lane, lse_lines(t, col0 + tile_col(lane, 0u), col0 + tile_col(lane, 4u), params.cols));
    for (var line = lane; line < 8u * TY; line += TX * TY) {
        if row0 + line < params.rows {
            let acc = lse_line(line, TX);
            store_row_part(group.x * params.rows + row0 + line, 0u, acc.x);
            store_row_part(group.x * params.rows + row0 + line, 1u, acc.y);
        }
    }
    if params.symmetric == 0u {
        return;
    }
    let columns = tile_transpose(t);
    tile_share_cols(lane, lse_lines(columns, row0 + tile_row(lane, 0u), row0 + tile_row(lane, 4u), params.rows));
    for (var line = lane; line < 8u * TX; line += TX * TY) {
        if col0 + line < params.cols {
            let acc = lse_line(line, TY);
            store_col_part(group.y * params.cols + col0 + line, 0u, acc.x);
            store_col_part(group.y * params.cols + col0 + line, 1u, acc.y);
        }
    }
}

// lse[i] = the merge of part[p * rows + i] over p, in order, after what is there unless `fresh`.
@compute @workgroup_size(WG)
fn merge(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = item_of(group, groups, lane);
    if i >= params.rows {
        return;
    }
    var acc = LSE_EMPTY;
    if params.fresh == 0u {
        acc = vec2(load_lse(i, 0u), load_lse(i, 1u));
    }
    for (var p = 0u; p < params.parts; p++) {
        let row = p * params.rows + i;
        acc = lse_merge(acc, vec2(load_part(row, 0u), load_part(row, 1u)), UNIT);
    }
    store_lse(i, 0u, acc.x);
    store_lse(i, 1u, acc.y);
}

fn row_lse_of(i: u32) -> vec2<f32> {
    return vec2(load_row_lse(i, 0u), load_row_lse(i, 1u));
}

fn col_lse_of(j: u32) -> vec2<f32> {
    return vec2(load_col_lse(j, 0u), load_col_lse(j, 1u));
}

// The loss of each row.
@compute @workgroup_size(WG)
fn row_loss(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = item_of(group, groups, lane);
    if i >= params.rows {
        return;
    }
    let own = load_positive_in(i, 0u);
    var value = lse_minus_log_p(row_lse_of(i), own, UNIT);
    if params.symmetric == 1u {
        value = 0.5 * (value + lse_minus_log_p(col_lse_of(i), own, UNIT));
    }
    store_loss(i, 0u, value);
}

// What the gradients of one row (or column) of s have in common.
struct Line {
    lse: vec2<f32>,
    weight: f32,
}

// dloss/ds of one pair as far as it comes from one direction.
fn pair_gradient(line: Line, score: f32, own: bool) -> f32 {
    return line.weight * select(lse_p(line.lse, score, UNIT), lse_p_minus_1(line.lse, score, UNIT), own);
}

// dloss/ds of one pair, of which g is `scale` times.
fn put_gradient(i: u32, j: u32, scale: f32, score: f32, row: Line, column: Line) -> f32 {
    if j >= params.cols {
        return 0.0;
    }
    let own = params.first_row + i == params.first_col + j;
    var value = pair_gradient(row, score, own);
    if params.symmetric == 1u {
        value = 0.5 * (value + pair_gradient(column, score, own));
    }
    store_g(i, j, scale * value);
    return value;
}

// A lane's eight columns.
struct Columns {
    c0: Line, c1: Line, c2: Line, c3: Line,
    c4: Line, c5: Line, c6: Line, c7: Line,
}

fn column_line(j: u32) -> Line {
    if params.symmetric == 0u || j >= params.cols {
        return Line();
    }
    return Line(col_lse_of(j), weight(params.first_col + j));
}

// Writes g of a lane's eight pairs in one row; what they add to dlog_scale.
fn put_gradients(i: u32, j: u32, k: u32, scale: f32, near_scores: vec4<f32>, far_scores: vec4<f32>, columns: Columns) -> vec2<f32> {
    if i >= params.rows {
        return vec2(0.0);
    }
    let row = Line(row_lse_of(i), weight(params.first_row + i));
    let near_gradients = vec4(
        put_gradient(i, j, scale, near_scores.x, row, columns.c0),
        put_gradient(i, j + 1u, scale, near_scores.y, row, columns.c1),
        put_gradient(i, j + 2u, scale, near_scores.z, row, columns.c2),
        put_gradient(i, j + 3u, scale, near_scores.w, row, columns.c3),
    );
    let far_gradients = vec4(
        put_gradient(i, k, scale, far_scores.x, row, columns.c4),
        put_gradient(i, k + 1u, scale, far_scores.y, row, columns.c5),
        put_gradient(i, k + 2u, scale, far_scores.z, row, columns.c6),
        put_gradient(i, k + 3u, scale, far_scores.w, row, columns.c7),
    );
    return vec2(scale_terms4(near_gradients, near_scores) + scale_terms4(far_gradients, far_scores), 0.0);
}

// One tile of g, and the sums over its rows that dlog_scale needs.
@compute @workgroup_size(TX, TY)
fn backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row0 = group.y * 8u * TY;
    let col0 = group.x * 8u * TX;
    let t = product(row0, col0, lane);
    let j = col0 + tile_col(lane, 0u);
    let k = col0 + tile_col(lane, 4u);
    let columns = Columns(
        column_line(j), column_line(j + 1u), column_line(j + 2u), column_line(j + 3u),
        column_line(k), column_line(k + 1u), column_line(k + 2u), column_line(k + 3u),
    );
    let scale = score_scale();
    let lines = Lines(
        put_gradients(row0 + tile_row(lane, 0u), j, k, scale, t.r0, t.s0, columns),
        put_gradients(row0 + tile_row(lane, 1u), j, k, scale, t.r1, t.s1, columns),
        put_gradients(row0 + tile_row(lane, 2u), j, k, scale, t.r2, t.s2, columns),
        put_gradients(row0 + tile_row(lane, 3u), j, k, scale, t.r3, t.s3, columns),
        put_gradients(row0 + tile_row(lane, 4u), j, k, scale, t.r4, t.s4, columns),
        put_gradients(row0 + tile_row(lane, 5u), j, k, scale, t.r5, t.s5, columns),
        put_gradients(row0 + tile_row(lane, 6u), j, k, scale, t.r6, t.s6, columns),
        put_gradients(row0 + tile_row(lane, 7u), j, k, scale, t.r7, t.s7, columns),
    );
    if params.has_sums == 1u {
        store_row_sums(group, lane, lines, 0u, clamped());
    }
}

// s_ii of the rows in a tile's height, and rank 0: the tiles that the diagonal crosses.
@compute @workgroup_size(TX, TY)
fn positives(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row0 = group.y * 8u * TY;
    let first = params.first_row + row0; // of k, since pair i is column i
    for (var col = first - first % (8u * TX); col < first + 8u * TY; col += 8u * TX) {
        if col >= params.first_col && col < params.first_col + params.cols {
            keep_positives(product(row0, col - params.first_col, lane), row0, col - params.first_col, lane);
        }
    }
    for (var line = lane; line < 8u * TY; line += TX * TY) {
        if row0 + line < params.rows {
            store_rank(first + line, 0u, 0u);
        }
    }
}

// Whether a key scores above the row's own, or as high and comes first; a row without a valid score is above nothing.
fn above(row: u32, j: u32, score: f32, own: f32) -> u32 {
    let col = params.first_col + j;
    let ahead = is_nan(own) || is_nan(score) || score > own || (score == own && col < row);
    return u32(j < params.cols && col != row && ahead);
}

fn count_above(row0: u32, col0: u32, lane: u32, r: u32, near_scores: vec4<f32>, far_scores: vec4<f32>) {
    let i = row0 + tile_row(lane, r);
    if i >= params.rows {
        return;
    }
    let row = params.first_row + i;
    let own = load_positive_in(row, 0u);
    let j = col0 + tile_col(lane, 0u);
    let k = col0 + tile_col(lane, 4u);
    let count = above(row, j, near_scores.x, own) + above(row, j + 1u, near_scores.y, own)
        + above(row, j + 2u, near_scores.z, own) + above(row, j + 3u, near_scores.w, own)
        + above(row, k, far_scores.x, own) + above(row, k + 1u, far_scores.y, own)
        + above(row, k + 2u, far_scores.z, own) + above(row, k + 3u, far_scores.w, own);
    add_rank(row, 0u, count); // whole numbers: the order does not matter
}

// rank[i] = how many keys come before the row's own.
@compute @workgroup_size(TX, TY)
fn count_ranks(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row0 = group.y * 8u * TY;
    let col0 = group.x * 8u * TX;
    let t = product(row0, col0, lane);
    count_above(row0, col0, lane, 0u, t.r0, t.s0);
    count_above(row0, col0, lane, 1u, t.r1, t.s1);
    count_above(row0, col0, lane, 2u, t.r2, t.s2);
    count_above(row0, col0, lane, 3u, t.r3, t.s3);
    count_above(row0, col0, lane, 4u, t.r4, t.s4);
    count_above(row0, col0, lane, 5u, t.r5, t.s5);
    count_above(row0, col0, lane, 6u, t.r6, t.s6);
    count_above(row0, col0, lane, 7u, t.r7, t.s7);
}
