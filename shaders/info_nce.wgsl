// c_ij = <q_i, k_j>, NORMALIZE: <q_i, k_j>/(|q_i| |k_j|);  s_ij = scale (c_ij - margin [j in P_i]) - log_q_j,  scale = min(e^log_scale,
// max_scale) or 1/temperature. P_i are the positives of row i, N_i its negatives, among the keys and whatever else the row is compared with,
// A_i both; n = ln sum_N e^(s + hardness c), p = ln sum_P e^s, a = ln(e^n + e^p):
//     loss_i = a - mean_P s                      outside the logarithm; for one positive ln(1 + e^(n - p))
//     loss_i = a - p + ln |P|                    INSIDE the logarithm
//     loss_i = n - ..                            DECOUPLED: n instead of a
//     loss_i = ln(1 + e^(u - p))                 DEBIASED: e^u = max((e^n - |N| tau e^p)/(1 - tau), |N| e^-scale)
//     loss_i = a - (1 - e) mean_P s - e mean_A s SMOOTHS, by e
// SYMMETRIC: the mean of that and of the same over columns. g_ij = scale dloss/ds_ij;  dq = g k;  dk = g^T q;  NORMALIZE: with
// g_ij/(|q_i| |k_j|), less what is along the row itself, dq_i -= q_i <q_i, dq_i>/|q_i|^2 and so the keys.
// dlog_scale = sum_ij dloss/ds_ij (s_ij + log_q_j), 0 where the scale is clamped.
// Source: van den Oord, Li and Vinyals 2018, arXiv:1807.03748, eq. 4; symmetric, learnable scale: Radford et al. 2021, arXiv:2103.00020;
// several positives: Khosla et al. 2020, arXiv:2004.11362, eq. 2 and 3; decoupled: Yeh et al. 2021, arXiv:2110.06848; debiased: Chuang
// et al. 2020, arXiv:2007.00224, eq. 7 and 8; log_q: Bengio and Senecal 2008, doi:10.1109/TNN.2007.912312.
// Log-sum-exps are pairs (max, rest), see lib/lse.wgsl. A line, a row or a column, has in `state`
//     max, rest of n;  c of the positive, 0                      where each row has one positive and no more is needed, else (FULL)
//     max, rest of n;  max, rest of p;  sum_P s, |P|;  sum_N s, |N|.
// row_part [column tiles * rows, ..] and col_part [row tiles * cols, ..] hold those of a tile; backward's row_part the sums for dlog_scale.
// Cost, U = 2NMD FLOP: forward U, backward 3U; where the forward KEEPs c in place of g, 3U together. s is formed tile by tile in registers
// and never stored; g in chunks of bounded size.

// Whether the forward keeps c where g will be, and the backward finds it there.
override KEEP: u32 = 0u;

// c of a tile from its products; its first row i and column j.
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

fn row_inverses4(i: u32) -> vec4<f32> {
    let row = min(vec4(i) + vec4(0u, 1u, 2u, 3u), vec4(max(params.rows, 1u) - 1u));
    return vec4(
        row_word(row.x, AT_INVERSE).x, row_word(row.y, AT_INVERSE).x, row_word(row.z, AT_INVERSE).x, row_word(row.w, AT_INVERSE).x,
    );
}

fn inverses4(j: u32) -> vec4<f32> {
    if NORMALIZE == 0u {
        return vec4(1.0);
    }
    return bitcast<vec4<f32>>(col_words4(0u, j, AT_INVERSE));
}

fn keep_tile(t: Tile, group: vec3<u32>, lane: u32) {
    let j = group.x * 4u * TX + tile_col(lane);
    for (var h = 0u; h < 4u; h++) {
        let i = group.y * 16u * TY + tile_row(lane, 4u * h);
        let four = tile_rows4(t, h);
        for (var r = 0u; r < tile_rows_inside(i); r++) {
            store_g4(i + r, j, params.cols, quad_of(four, r));
        }
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

fn joined_line(line: u32, across: u32, sums: bool) -> vec2<f32> {
    var acc = tile_line(line, 0u, across);
    for (var x = 1u; x < across; x++) {
        acc = joined(acc, tile_line(line, x, across), sums);
    }
    return acc;
}

fn put_row_parts(group: vec3<u32>, lane: u32, half: u32, part: u32) {
    for (var line = lane; line < 8u * TY; line += TX * TY) {
        let i = group.y * 16u * TY + tile_line_row(line, half);
        if i < params.rows {
            let pair = joined_line(line, TX, is_sum(part));
            store_row_part(group.x * params.rows + i, 2u * part, pair.x);
            store_row_part(group.x * params.rows + i, 2u * part + 1u, pair.y);
        }
    }
}

fn put_col_parts(group: vec3<u32>, lane: u32, part: u32, sums: bool) {
    for (var line = lane; line < 4u * TX; line += TX * TY) {
        let j = group.x * 4u * TX + line;
        if j < params.cols {
            let pair = joined_line(line, TY, sums);
            store_col_part(group.y * params.cols + j, 2u * part, pair.x);
            store_col_part(group.y * params.cols + j, 2u * part + 1u, pair.y);
        }
    }
}

// One tile of s: the parts of its rows and, if symmetric, of its columns.
@compute @workgroup_size(TX, TY)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let t = similarities(group, lane);
    let j = group.x * 4u * TX + tile_col(lane);
    let scale = score_scale();
    let cols = col_tags(0u, j);
    let levels = col_levels(j);
    if KEEP == 1u {
        keep_tile(t, group, lane);
    }
    for (var part = 0u; part < parts(); part++) {
        let none = select(LSE_EMPTY, vec2(0.0), is_sum(part));
        var c0 = none;
        var c1 = none;
        var c2 = none;
        var c3 = none;
        for (var half = 0u; half < 2u; half++) {
            tile_barrier();
            for (var h = 2u * half; h < 2u * half + 2u; h++) {
                let i = group.y * 16u * TY + tile_row(lane, 4u * h);
                let r = tile_rows4(t, h);
                let a = masked4(i, j, part, scale, cols, levels, r[0]);
                let b = masked4(i + 1u, j, part, scale, cols, levels, r[1]);
                let c = masked4(i + 2u, j, part, scale, cols, levels, r[2]);
                let d = masked4(i + 3u, j, part, scale, cols, levels, r[3]);
                tile_put_row(lane, 4u * h, pair_of4(a.row, part));
                tile_put_row(lane, 4u * h + 1u, pair_of4(b.row, part));
                tile_put_row(lane, 4u * h + 2u, pair_of4(c.row, part));
                tile_put_row(lane, 4u * h + 3u, pair_of4(d.row, part));
                if SYMMETRIC == 1u {
                    let columns = transpose(mat4x4(a.column, b.column, c.column, d.column));
                    c0 = joined(c0, pair_of4(columns[0], part), is_sum(part));
                    c1 = joined(c1, pair_of4(columns[1], part), is_sum(part));
                    c2 = joined(c2, pair_of4(columns[2], part), is_sum(part));
                    c3 = joined(c3, pair_of4(columns[3], part), is_sum(part));
                }
            }
            tile_barrier();
            put_row_parts(group, lane, half, part);
        }
        if SYMMETRIC == 1u {
            tile_share_cols(lane, c0, c1, c2, c3);
            put_col_parts(group, lane, part, is_sum(part));
        }
    }
}

// What four pairs in one row add to dlog_scale and, NORMALIZE, to <q_i, dq_i> of q_i and to the same of the columns' lines.
struct Sums {
    row: vec2<f32>,
    along: vec4<f32>,
}

// Writes g of four pairs in one row.
fn put_gradients(i: u32, j: u32, scale: f32, c: vec4<f32>, cols: Tags, by_column: Slopes, col_inverses: vec4<f32>) -> Sums {
    let four = four_of(i, j, scale, row_tag(i), cols, c);
    var slope = slope4(row_slopes(i), four, four.negative);
    if SYMMETRIC == 1u {
        slope += slope4(by_column, four, four.for_column);
    }
    var sums = Sums(vec2(sum4(products4(slope, four.scaled)), 0.0), vec4(0.0));
    if NORMALIZE == 0u {
        store_g4(i, j, params.cols, scale * slope);
        return sums;
    }
    store_g4(i, j, params.cols, products4(scale * slope, row_word(i, AT_INVERSE) * col_inverses));
    sums.along = products4(scale * slope, c);
    sums.row.y = sum4(sums.along);
    return sums;
}

// One tile of g, and the sums over its rows, and NORMALIZE its columns, that go with it.
@compute @workgroup_size(TX, TY)
fn backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let t = kept_or_new(group, lane);
    let j = group.x * 4u * TX + tile_col(lane);
    let scale = score_scale();
    let cols = col_tags(0u, j);
    let by_column = col_slopes(j);
    let col_inverses = inverses4(j);
    let drop = clamped();
    var along = vec4(0.0);
    for (var half = 0u; half < 2u; half++) {
        tile_barrier();
        for (var h = 2u * half; h < 2u * half + 2u; h++) {
            let i = group.y * 16u * TY + tile_row(lane, 4u * h);
            let four = tile_rows4(t, h);
            for (var r = 0u; r < tile_rows_inside(i); r++) {
                let sums = put_gradients(i + r, j, scale, quad_of(four, r), cols, by_column, col_inverses);
                tile_put_row(lane, 4u * h + r, sums.row);
                along += sums.along;
            }
        }
        tile_barrier();
        if params.has_sums == 1u {
            store_row_sums(group, lane, half, 0u, drop);
        }
    }
    if NORMALIZE == 1u {
        tile_share_cols(lane, vec2(0.0, along.x), vec2(0.0, along.y), vec2(0.0, along.z), vec2(0.0, along.w));
        put_col_parts(group, lane, 0u, true);
    }
}

fn keep4(i: u32, j: u32, c: vec4<f32>) {
    let row = params.first_row + i;
    var own = row;
    if POSITIVE == INDEX {
        own = row_tag(i).own;
    }
    let col = params.first_col + j;
    if own >= params.keys && col == 0u {
        store_positive(row, 0u, infinity()); // none: nothing is too near
    }
    if own >= col && own < col + 4u && own < params.first_col + params.cols {
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

// c of the positives in a tile's height: of rows with positives of their own number, the tiles that the diagonal crosses.
@compute @workgroup_size(TX, TY)
fn positives(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group.y * 16u * TY;
    if POSITIVE == INDEX {
        keep_positives(similarities(group, lane), i, group.x * 4u * TX + tile_col(lane), lane);
        return;
    }
    let first = params.first_row + i;
    for (var col = first - first % (4u * TX); col < first + 16u * TY; col += 4u * TX) {
        if col >= params.first_col && col < params.first_col + params.cols {
            let at = col - params.first_col;
            keep_positives(cosines(tile_product(i, at, 0u, params.dim, lane), i, at, lane), i, at + tile_col(lane), lane);
        }
    }
}

