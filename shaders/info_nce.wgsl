// c_ij = <q_i, k_j>, or with NORMALIZE <q_i, k_j>/(|q_i| |k_j|).
// s_ij = scale (c_ij - margin [j in P_i]) - log_q_j, where scale = min(e^log_scale, max_scale) or 1/temperature.
// P_i are the positives of row i, N_i its negatives, among the keys and whatever else the row is compared with; A_i is
// the union of both.
// n = ln sum_N e^(s + hardness c), p = ln sum_P e^s, a = ln(e^n + e^p):
//     loss_i = a - mean_P s                      outside the logarithm; for one positive ln(1 + e^(n - p))
//     loss_i = a - p + ln |P|                    INSIDE the logarithm
//     loss_i = n - ..                            DECOUPLED: n instead of a
//     loss_i = ln(1 + e^(u - p))                 DEBIASED: e^u = max((e^n - |N| tau e^p)/(1 - tau), |N| e^-scale)
//     loss_i = a - (1 - e) mean_P s - e mean_A s SMOOTHS, by e
// SYMMETRIC: the mean of this loss over rows and the same loss over columns.
// g_ij = scale dloss/ds_ij;  dq = g k;  dk = g^T q.
// NORMALIZE: g_ij/(|q_i| |k_j|) replaces g_ij, and the component along the row itself is subtracted:
// dq_i -= q_i <q_i, dq_i>/|q_i|^2. The same for the keys.
// dlog_scale = sum_ij dloss/ds_ij (s_ij + log_q_j), 0 where the scale is clamped.
// Source: van den Oord, Li and Vinyals 2018, arXiv:1807.03748, eq. 4; symmetric, learnable scale: Radford et al. 2021,
// arXiv:2103.00020; several positives: Khosla et al. 2020, arXiv:2004.11362, eq. 2 and 3; decoupled: Yeh et al. 2021,
// arXiv:2110.06848; debiased: Chuang et al. 2020, arXiv:2007.00224, eq. 7 and 8; log_q: Bengio and Senecal 2008,
// doi:10.1109/TNN.2007.912312.
// Log-sum-exps are pairs (max, rest), see lib/lse.wgsl. A line is a row or a column of the scores. `state` holds for
// each line:
//     max, rest of n;  c of the positive, 0                      where each row has one positive and no more is needed
//     max, rest of n;  max, rest of p;  sum_P s, |P|;  sum_N s, |N|                                   otherwise (FULL)
// row_part [column tiles * rows, ..] and col_part [row tiles * cols, ..] hold these for the part of a line within one
// tile. In the backward they hold the sums of `Sums4`.
// Cost, U = 2NMD FLOP: forward U, backward 3U; 3U together if the forward KEEPs c in place of g. s is formed tile by
// tile in registers and never stored; g is stored in chunks of bounded size.

// Whether the forward stores c where g will be, and the backward reads it from there.
override KEEP: u32 = 0u;

// c of a tile from its products. i and j: the tile's first row and column.
fn cosines(t: Tile, i: u32, j: u32, lane: u32) -> Tile {
    if NORMALIZE == 0u {
        return t;
    }
    let first = i + tile_row(lane, 0u);
    return tile_scaled(
        t, row_inverses4(first), row_inverses4(first + 4u * TY), row_inverses4(first + 8u * TY), row_inverses4(first + 12u * TY),
        inverses4(j + tile_col(lane)),
    );
}

fn similarities(group: vec3<u32>, lane: u32) -> Tile {
    return cosines(product(group, lane), group.y * 16u * TY, group.x * 4u * TX, lane);
}

// Row i; the last row for rows past it.
fn line_of(i: u32) -> u32 {
    return min(i, max(params.rows, 1u) - 1u);
}

fn row_inverses4(i: u32) -> vec4<f32> {
    return vec4(
        row_word(line_of(i), AT_INVERSE).x,
        row_word(line_of(i + 1u), AT_INVERSE).x,
        row_word(line_of(i + 2u), AT_INVERSE).x,
        row_word(line_of(i + 3u), AT_INVERSE).x,
    );
}

fn inverses4(j: u32) -> vec4<f32> {
    if NORMALIZE == 0u {
        return vec4(1.0);
    }
    return bitcast<vec4<f32>>(col_words4(0u, j, AT_INVERSE));
}

fn store_g_row4(i: u32, j: u32, values: vec4<f32>) {
    if i < params.rows {
        store_g4(i, j, params.cols, values);
    }
}

fn keep_rows4(t: Tile, group: vec3<u32>, lane: u32, h: u32) {
    let i = group.y * 16u * TY + tile_row(lane, 4u * h);
    let j = group.x * 4u * TX + tile_col(lane);
    let c = tile_rows4(t, h);
    store_g_row4(i, j, c[0]);
    store_g_row4(i + 1u, j, c[1]);
    store_g_row4(i + 2u, j, c[2]);
    store_g_row4(i + 3u, j, c[3]);
}

fn keep_tile(t: Tile, group: vec3<u32>, lane: u32) {
    if UNROLLED == 1u {
        keep_rows4(t, group, lane, 0u);
        keep_rows4(t, group, lane, 1u);
        keep_rows4(t, group, lane, 2u);
        keep_rows4(t, group, lane, 3u);
        return;
    }
    for (var h = 0u; h < 4u; h++) {
        keep_rows4(t, group, lane, h);
    }
}

fn kept4(group: vec3<u32>, lane: u32, h: u32) -> mat4x4<f32> {
    return load_g4x4(group.y * 16u * TY + tile_row(lane, 4u * h), group.x * 4u * TX + tile_col(lane), params.rows, params.cols);
}

fn kept_or_new(group: vec3<u32>, lane: u32) -> Tile {
    if KEEP == 0u {
        return similarities(group, lane);
    }
    let a = kept4(group, lane, 0u);
    let b = kept4(group, lane, 1u);
    let c = kept4(group, lane, 2u);
    let d = kept4(group, lane, 3u);
    return Tile(a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3]);
}

// col_part's columns `column` and `column` + 1 = the joined pairs of a tile's columns. See `store_rows`.
fn store_cols(group: vec3<u32>, lane: u32, column: u32, pairs: mat4x2<f32>, sums: bool) {
    tile_barrier();
    tile_put_cols(lane, pairs);
    join_lines(lane, 4u * TX, TY, sums);
    for (var line = lane; line < 4u * TX; line += TX * TY) {
        let j = group.x * 4u * TX + line;
        if j < params.cols {
            let pair = tile_line(line, 0u, TY);
            store_col_part(group.y * params.cols + j, column, pair.x);
            store_col_part(group.y * params.cols + j, column + 1u, pair.y);
        }
    }
}

// What the lanes of a tile know of their four columns.
struct Columns {
    scale: f32,
    tags: Tags,
    levels: Slopes,
}

// Puts one part of four rows. Joins the same part of their four columns to `columns`, which has the rows above.
fn put_scores(t: Tile, group: vec3<u32>, lane: u32, h: u32, part: u32, known: Columns, columns: ptr<function, mat4x2<f32>>) {
    let i = group.y * 16u * TY + tile_row(lane, 4u * h);
    let j = group.x * 4u * TX + tile_col(lane);
    let c = tile_rows4(t, h);
    let s0 = masked4(i, j, part, known.scale, known.tags, known.levels, c[0]);
    let s1 = masked4(i + 1u, j, part, known.scale, known.tags, known.levels, c[1]);
    let s2 = masked4(i + 2u, j, part, known.scale, known.tags, known.levels, c[2]);
    let s3 = masked4(i + 3u, j, part, known.scale, known.tags, known.levels, c[3]);
    let rows = mat4x4(s0.row, s1.row, s2.row, s3.row);
    let four = transpose(mat4x4(s0.column, s1.column, s2.column, s3.column));
    // One test of all sixteen scores, which usually finds nothing that poisons a line. A software adapter executes both
    // branches anyway, so it skips the test and always takes the branch.
    let suspect = UNROLLED == 0u || poisons(rows) || (SYMMETRIC == 1u && NEAR == 1u && poisons(four));
    let of_rows = pairs_of8(rows[0], rows[1], part, suspect);
    let of_more = pairs_of8(rows[2], rows[3], part, suspect);
    tile_put_rows4(lane, h, mat4x2(of_rows[0], of_rows[1], of_more[0], of_more[1]));
    if SYMMETRIC == 1u {
        let sums = is_sum(part);
        let left = pairs_of8(four[0], four[1], part, suspect);
        (*columns)[0] = joined((*columns)[0], left[0], sums);
        (*columns)[1] = joined((*columns)[1], left[1], sums);
        let right = pairs_of8(four[2], four[3], part, suspect);
        (*columns)[2] = joined((*columns)[2], right[0], sums);
        (*columns)[3] = joined((*columns)[3], right[1], sums);
    }
}

// The pairs of two lines, from four scores each. The branch keeps compilers from processing more lines at once than
// registers hold.
fn pairs_of8(a: vec4<f32>, b: vec4<f32>, part: u32, suspect: bool) -> mat2x2<f32> {
    var pairs = mat2x2(pair_of4(a, part), pair_of4(b, part));
    if suspect {
        pairs = mat2x2(poisoned4(pairs[0], a, part), poisoned4(pairs[1], b, part));
    }
    return pairs;
}

fn store_tile(t: Tile, group: vec3<u32>, lane: u32, part: u32, known: Columns, columns: ptr<function, mat4x2<f32>>) {
    let sums = is_sum(part);
    if UNROLLED == 1u && parts() == 1u {
        tile_barrier();
        put_scores(t, group, lane, 0u, part, known, columns);
        put_scores(t, group, lane, 1u, part, known, columns);
        store_rows(group, lane, 0u, 2u * part, sums);
        tile_barrier();
        put_scores(t, group, lane, 2u, part, known, columns);
        put_scores(t, group, lane, 3u, part, known, columns);
        store_rows(group, lane, 1u, 2u * part, sums);
        return;
    }
    for (var half = 0u; half < 2u; half++) {
        tile_barrier();
        for (var h = 2u * half; h < 2u * half + 2u; h++) {
            put_scores(t, group, lane, h, part, known, columns);
        }
        store_rows(group, lane, half, 2u * part, sums);
    }
}

fn forward_part(t: Tile, group: vec3<u32>, lane: u32, part: u32, known: Columns) {
    let none = nothing(is_sum(part));
    var columns = mat4x2(none, none, none, none);
    store_tile(t, group, lane, part, known, &columns);
    if SYMMETRIC == 1u {
        store_cols(group, lane, 2u * part, columns, is_sum(part));
    }
}

// One tile of s: the parts of its rows and, if SYMMETRIC, of its columns.
@compute @workgroup_size(TX, TY)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let t = similarities(group, lane);
    let j = group.x * 4u * TX + tile_col(lane);
    let known = Columns(score_scale(), col_tags(0u, j), col_levels(j));
    if KEEP == 1u {
        keep_tile(t, group, lane);
    }
    if parts() == 1u {
        forward_part(t, group, lane, 0u, known);
        return;
    }
    for (var part = 0u; part < parts(); part++) {
        forward_part(t, group, lane, part, known);
    }
}

// What the lanes of a tile need for the gradients of their four columns. `drop`: the scale is clamped.
struct Gradients {
    known: Columns,
    inverses: vec4<f32>,
    drop: bool,
}

// Sums over four pairs of one row. of_row: the terms of dlog_scale and, NORMALIZE, of <q_i, dq_i> of q_i. `along`: the
// terms of the latter for each of the four columns.
struct Sums4 {
    of_row: vec2<f32>,
    along: vec4<f32>,
}

// Stores g of four pairs. The branch keeps compilers from processing more rows at once than registers hold.
fn put_gradients4(i: u32, j: u32, c: vec4<f32>, of_row: Slopes, to: Gradients) -> Sums4 {
    if i >= params.rows {
        return Sums4(vec2(0.0), vec4(0.0));
    }
    let scale = to.known.scale;
    let four = four_of(i, j, scale, row_tag(i), to.known.tags, c);
    var slope = slope4(of_row, four, four.negative);
    if SYMMETRIC == 1u {
        slope += slope4(to.known.levels, four, four.for_column);
    }
    let sum = select(sum4(products4(slope, four.scaled)), 0.0, to.drop);
    if NORMALIZE == 0u {
        store_g4(i, j, params.cols, scale * slope);
        return Sums4(vec2(sum, 0.0), vec4(0.0));
    }
    let along = products4(scale * slope, c);
    store_g4(i, j, params.cols, products4(scale * slope, row_word(i, AT_INVERSE) * to.inverses));
    return Sums4(vec2(sum, sum4(along)), along);
}

// Stores g of four rows, and puts their sums. The words of all four rows are loaded first, so that the loads are in
// flight at once.
fn put_gradients(t: Tile, group: vec3<u32>, lane: u32, h: u32, to: Gradients, along: ptr<function, vec4<f32>>) {
    let i = group.y * 16u * TY + tile_row(lane, 4u * h);
    let j = group.x * 4u * TX + tile_col(lane);
    let c = tile_rows4(t, h);
    let of0 = row_slopes(line_of(i));
    let of1 = row_slopes(line_of(i + 1u));
    let of2 = row_slopes(line_of(i + 2u));
    let of3 = row_slopes(line_of(i + 3u));
    let r0 = put_gradients4(i, j, c[0], of0, to);
    let r1 = put_gradients4(i + 1u, j, c[1], of1, to);
    let r2 = put_gradients4(i + 2u, j, c[2], of2, to);
    let r3 = put_gradients4(i + 3u, j, c[3], of3, to);
    tile_put_rows4(lane, h, mat4x2(r0.of_row, r1.of_row, r2.of_row, r3.of_row));
    *along += (r0.along + r1.along) + (r2.along + r3.along);
}

fn put_sums(half: u32, group: vec3<u32>, lane: u32) {
    if params.has_sums == 1u {
        store_rows(group, lane, half, 0u, true);
    }
}

fn store_gradients(t: Tile, group: vec3<u32>, lane: u32, to: Gradients, along: ptr<function, vec4<f32>>) {
    if UNROLLED == 1u {
        tile_barrier();
        put_gradients(t, group, lane, 0u, to, along);
        put_gradients(t, group, lane, 1u, to, along);
        put_sums(0u, group, lane);
        tile_barrier();
        put_gradients(t, group, lane, 2u, to, along);
        put_gradients(t, group, lane, 3u, to, along);
        put_sums(1u, group, lane);
        return;
    }
    for (var half = 0u; half < 2u; half++) {
        tile_barrier();
        for (var h = 2u * half; h < 2u * half + 2u; h++) {
            put_gradients(t, group, lane, h, to, along);
        }
        put_sums(half, group, lane);
    }
}

// One tile of g, the sums over its rows and, NORMALIZE, the sums over its columns.
@compute @workgroup_size(TX, TY)
fn backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let t = kept_or_new(group, lane);
    let j = group.x * 4u * TX + tile_col(lane);
    let to = Gradients(Columns(score_scale(), col_tags(0u, j), col_slopes(j)), inverses4(j), clamped());
    var along = vec4(0.0);
    store_gradients(t, group, lane, to, &along);
    if NORMALIZE == 1u {
        store_cols(group, lane, 0u, transpose(mat2x4(vec4(0.0), along)), true);
    }
}

fn keep4(i: u32, j: u32, c: vec4<f32>) {
    let row = params.first_row + i;
    var own = row;
    if POSITIVE == INDEX {
        own = row_tag(i).own;
    }
    let col = params.first_col + j;
    let excluded = EXCLUDE_SELF == 1u && own == row;
    if !excluded && own >= col && own < col + 4u && own < params.first_col + params.cols {
        store_positive(row, 0u, c[own - col]);
    }
}

fn keep_positives(t: Tile, i: u32, j: u32, lane: u32) {
    for (var h = 0u; h < 4u; h++) {
        let row = i + tile_row(lane, 4u * h);
        let four = tile_rows4(t, h);
        for (var r = 0u; r < tile_rows_inside(row); r++) {
            keep4(row + r, j, quad_of(four, r));
        }
    }
}

// Stores c of the positives in the rows of a tile. For positives with the row's own number these lie in the tiles that
// the diagonal crosses.
@compute @workgroup_size(TX, TY)
fn positives(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group.y * 16u * TY;
    if POSITIVE == INDEX {
        keep_positives(similarities(group, lane), i, group.x * 4u * TX + tile_col(lane), lane);
        return;
    }
    let first = max(params.first_row + i, params.first_col) - params.first_col;
    let end = max(params.first_row + i + 16u * TY, params.first_col) - params.first_col;
    for (var at = first - first % (4u * TX); at < min(end, params.cols); at += 4u * TX) {
        keep_positives(cosines(tile_product(i, at, 0u, params.dim, lane), i, at, lane), i, at + tile_col(lane), lane);
    }
}

