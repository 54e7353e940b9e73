// s_ij = scale <q_i, k_j>, scale = min(e^log_scale, max_scale) or 1/temperature;  loss_i = ln sum_j e^s_ij - s_ii;
// symmetric: loss_i = (ln sum_j e^s_ij - s_ii + ln sum_j e^s_ji - s_ii) / 2.
// g_ij = dloss/ds_ij * scale = scale (w_i (p_ij - [i = j]) + w_j (c_ij - [i = j])), p over rows, c over columns (symmetric only);
// dq = g k;  dk = g^T q;  dlog_scale = sum_i <q_i, dq_i>, 0 where the scale is clamped.
// Source: van den Oord, Li and Vinyals 2018, arXiv:1807.03748, eq. 4; symmetric, learnable scale: Radford et al. 2021, arXiv:2103.00020.
// Cost, U = 2NMD FLOP: forward U, backward 3U. s is formed tile by tile in registers and never stored; g in chunks of bounded size.

struct Params {
    q_offset: u32, q_stride: u32,
    k_offset: u32, k_stride: u32,
    log_scale_offset: u32, log_scale_stride: u32,
    row_part_offset: u32, row_part_stride: u32,
    col_part_offset: u32, col_part_stride: u32,
    positive_offset: u32, positive_stride: u32,
    part_offset: u32, part_stride: u32,
    lse_offset: u32, lse_stride: u32,
    row_lse_offset: u32, row_lse_stride: u32,
    col_lse_offset: u32, col_lse_stride: u32,
    positive_in_offset: u32, positive_in_stride: u32,
    loss_offset: u32, loss_stride: u32,
    loss_in_offset: u32, loss_in_stride: u32,
    dy_offset: u32, dy_stride: u32,
    g_offset: u32, g_stride: u32,
    dq_in_offset: u32, dq_in_stride: u32,
    rank_offset: u32, rank_stride: u32,
    rows: u32,        // of q in this chunk
    cols: u32,        // rows of k in this chunk
    dim: u32,
    first_row: u32,   // of the chunk in the batch
    first_col: u32,
    parts: u32,       // that `merge` merges
    fresh: u32,       // `merge`, `reduce`: overwrite, else add to what is there
    learnable: u32,   // the scale is e^log_scale, else `scale`
    scale: f32,
    max_scale: f32,
    symmetric: u32,
    dy_by_row: u32,   // dy holds one factor per row, else one for all
    factor: f32,      // of the reduction: 1/N or 1
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<f32>;                  // [N, D]
@group(0) @binding(2) var<storage, read> k: array<f32>;                  // [M, D], M >= N
@group(0) @binding(3) var<storage, read> log_scale: array<f32>;
@group(0) @binding(4) var<storage, read_write> row_part: array<f32>;     // [column tiles * rows, 2]: (max, rest), see lib/lse.wgsl
@group(0) @binding(5) var<storage, read_write> col_part: array<f32>;     // [row tiles * cols, 2]
@group(0) @binding(6) var<storage, read_write> positive: array<f32>;     // [N]: s_ii
@group(0) @binding(7) var<storage, read> part: array<f32>;
@group(0) @binding(8) var<storage, read_write> lse: array<f32>;          // [rows or cols, 2]
@group(0) @binding(9) var<storage, read> row_lse: array<f32>;            // [rows, 2]
@group(0) @binding(10) var<storage, read> col_lse: array<f32>;           // [cols, 2]
@group(0) @binding(11) var<storage, read> positive_in: array<f32>;
@group(0) @binding(12) var<storage, read_write> loss: array<f32>;
@group(0) @binding(13) var<storage, read> loss_in: array<f32>;           // per row
@group(0) @binding(14) var<storage, read> dy: array<f32>;
@group(0) @binding(15) var<storage, read_write> g: array<f32>;           // [rows, cols]
@group(0) @binding(16) var<storage, read> dq_in: array<f32>;
@group(0) @binding(17) var<storage, read_write> rank: array<atomic<u32>>; // [N]

// NaN for NaN, as the bounded scale is: a min may lose it.
fn learned_scale() -> f32 {
    let exponent = log_scale[params.log_scale_offset];
    return select(precise_exp(min(exponent, 88.0)), exponent, is_nan(exponent));
}

fn score_scale() -> f32 {
    let learned = learned_scale();
    let bounded = select(min(learned, params.max_scale), learned, is_nan(learned));
    return select(params.scale, bounded, params.learnable == 1u);
}

fn tile_a(i: u32, d: u32) -> f32 {
    if i >= params.rows || d >= params.dim {
        return 0.0;
    }
    return q[params.q_offset + i * params.q_stride + d];
}

fn tile_b(j: u32, d: u32) -> f32 {
    if j >= params.cols || d >= params.dim {
        return 0.0;
    }
    return k[params.k_offset + j * params.k_stride + d];
}

fn product(row0: u32, col0: u32, lane: u32) -> Tile {
    return tile_scale(tile_product(row0, col0, 0u, params.dim, lane, true, true), score_scale());
}

// The log-sum-exp of a lane's eight scores in one row (or column); those at `end` and past it are outside the matrix.
fn lse8(at: u32, far: u32, end: u32, near_scores: vec4<f32>, far_scores: vec4<f32>) -> vec2<f32> {
    let four = vec4(0u, 1u, 2u, 3u);
    return lse_of8(near_scores, far_scores, at + four < vec4(end), far + four < vec4(end));
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
        acc = lse_merge(acc, tile_line(line, x, across), 1.0);
    }
    return acc;
}

fn keep4(i: u32, j: u32, scores: vec4<f32>) {
    let row = params.first_row + i;
    let col = params.first_col + j;
    if i < params.rows && row >= col && row < col + 4u && row < params.first_col + params.cols {
        positive[params.positive_offset + row * params.positive_stride] = scores[row - col];
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
            let at = params.row_part_offset + (group.x * params.rows + row0 + line) * params.row_part_stride;
            row_part[at] = acc.x;
            row_part[at + 1u] = acc.y;
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
            let at = params.col_part_offset + (group.y * params.cols + col0 + line) * params.col_part_stride;
            col_part[at] = acc.x;
            col_part[at + 1u] = acc.y;
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
    let lse_at = params.lse_offset + i * params.lse_stride;
    var acc = LSE_EMPTY;
    if params.fresh == 0u {
        acc = vec2(lse[lse_at], lse[lse_at + 1u]);
    }
    for (var p = 0u; p < params.parts; p++) {
        let at = params.part_offset + (p * params.rows + i) * params.part_stride;
        acc = lse_merge(acc, vec2(part[at], part[at + 1u]), 1.0);
    }
    lse[lse_at] = acc.x;
    lse[lse_at + 1u] = acc.y;
}

fn row_lse_of(i: u32) -> vec2<f32> {
    let at = params.row_lse_offset + i * params.row_lse_stride;
    return vec2(row_lse[at], row_lse[at + 1u]);
}

fn col_lse_of(j: u32) -> vec2<f32> {
    let at = params.col_lse_offset + j * params.col_lse_stride;
    return vec2(col_lse[at], col_lse[at + 1u]);
}

// The loss of each row.
@compute @workgroup_size(WG)
fn row_loss(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = row_of(group, groups, lane);
    if i >= params.rows {
        return;
    }
    let own = positive_in[params.positive_in_offset + i * params.positive_in_stride];
    var value = lse_minus_log_p(row_lse_of(i), own, 1.0);
    if params.symmetric == 1u {
        value = 0.5 * (value + lse_minus_log_p(col_lse_of(i), own, 1.0));
    }
    loss[params.loss_offset + i * params.loss_stride] = value;
}

// loss[0] = factor * the sum of loss_in; one workgroup.
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
        loss[params.loss_offset] = params.factor * sum;
    }
}

fn weight(row: u32) -> f32 {
    return params.factor * dy[params.dy_offset + select(0u, row * params.dy_stride, params.dy_by_row == 1u)];
}

// What the gradients of one row (or column) of s have in common.
struct Line {
    lse: vec2<f32>,
    weight: f32,
}

// dloss/ds of one pair as far as it comes from one direction.
fn pair_gradient(line: Line, score: f32, own: bool) -> f32 {
    return line.weight * select(lse_p(line.lse, score, 1.0), lse_p_minus_1(line.lse, score, 1.0), own);
}

fn put_gradient(i: u32, j: u32, score: f32, row: Line, column: Line) {
    if j >= params.cols {
        return;
    }
    let own = params.first_row + i == params.first_col + j;
    var value = pair_gradient(row, score, own);
    if params.symmetric == 1u {
        value = 0.5 * (value + pair_gradient(column, score, own));
    }
    g[params.g_offset + i * params.g_stride + j] = score_scale() * value;
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

fn put_gradients(i: u32, j: u32, k: u32, near_scores: vec4<f32>, far_scores: vec4<f32>, columns: Columns) {
    if i >= params.rows {
        return;
    }
    let row = Line(row_lse_of(i), weight(params.first_row + i));
    put_gradient(i, j, near_scores.x, row, columns.c0);
    put_gradient(i, j + 1u, near_scores.y, row, columns.c1);
    put_gradient(i, j + 2u, near_scores.z, row, columns.c2);
    put_gradient(i, j + 3u, near_scores.w, row, columns.c3);
    put_gradient(i, k, far_scores.x, row, columns.c4);
    put_gradient(i, k + 1u, far_scores.y, row, columns.c5);
    put_gradient(i, k + 2u, far_scores.z, row, columns.c6);
    put_gradient(i, k + 3u, far_scores.w, row, columns.c7);
}

// One tile of g.
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
    put_gradients(row0 + tile_row(lane, 0u), j, k, t.r0, t.s0, columns);
    put_gradients(row0 + tile_row(lane, 1u), j, k, t.r1, t.s1, columns);
    put_gradients(row0 + tile_row(lane, 2u), j, k, t.r2, t.s2, columns);
    put_gradients(row0 + tile_row(lane, 3u), j, k, t.r3, t.s3, columns);
    put_gradients(row0 + tile_row(lane, 4u), j, k, t.r4, t.s4, columns);
    put_gradients(row0 + tile_row(lane, 5u), j, k, t.r5, t.s5, columns);
    put_gradients(row0 + tile_row(lane, 6u), j, k, t.r6, t.s6, columns);
    put_gradients(row0 + tile_row(lane, 7u), j, k, t.r7, t.s7, columns);
}

// loss[i] = <q_i, dq_i>, whose sum is dlog_scale; 0 where the scale is clamped.
@compute @workgroup_size(WG)
fn scale_gradient(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = row_of(group, groups, lane);
    let dim = select(0u, params.dim, i < params.rows);
    var sum = 0.0;
    for (var d = lane % LANES; d < dim; d += LANES) {
        sum += q[params.q_offset + i * params.q_stride + d] * dq_in[params.dq_in_offset + i * params.dq_in_stride + d];
    }
    sum = row_sum(lane, sum);
    if i < params.rows && lane % LANES == 0u {
        let clamped = params.learnable == 1u && learned_scale() > params.max_scale;
        loss[params.loss_offset + i * params.loss_stride] = select(sum, 0.0, clamped);
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
            atomicStore(&rank[params.rank_offset + (first + line) * params.rank_stride], 0u);
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
    let own = positive_in[params.positive_in_offset + row * params.positive_in_stride];
    let j = col0 + tile_col(lane, 0u);
    let k = col0 + tile_col(lane, 4u);
    let count = above(row, j, near_scores.x, own) + above(row, j + 1u, near_scores.y, own)
        + above(row, j + 2u, near_scores.z, own) + above(row, j + 3u, near_scores.w, own)
        + above(row, k, far_scores.x, own) + above(row, k + 1u, far_scores.y, own)
        + above(row, k + 2u, far_scores.z, own) + above(row, k + 3u, far_scores.w, own);
    atomicAdd(&rank[params.rank_offset + row * params.rank_stride], count); // whole numbers: the order does not matter
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
