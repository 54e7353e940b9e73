// What the losses over all pairs of queries and keys share: scores s_ij = scale <q_i, k_j>, scale = min(e^log_scale, max_scale) or
// 1/temperature, tile by tile in registers, and sums over the rows of a tile. rows of q and cols rows of k are a chunk of the batch, from row
// first_row and column first_col on. The op's file has bindings q, k, log_scale, dy and row_part [column tiles * rows, ..].

// NaN for NaN, as the bounded scale is: a min may lose it.
fn learned_scale() -> f32 {
    let exponent = load_log_scale(0u, 0u);
    return select(precise_exp(min(exponent, 88.0)), exponent, is_nan(exponent));
}

fn score_scale() -> f32 {
    let learned = learned_scale();
    let bounded = select(min(learned, params.max_scale), learned, is_nan(learned));
    return select(params.scale, bounded, params.learnable == 1u);
}

// Whether the scale does not follow log_scale.
fn clamped() -> bool {
    return params.learnable == 1u && learned_scale() > params.max_scale;
}

fn tile_a(i: u32, d: u32) -> f32 {
    if i >= params.rows || d >= params.dim {
        return 0.0;
    }
    return load_q(i, d);
}

fn tile_b(j: u32, d: u32) -> f32 {
    if j >= params.cols || d >= params.dim {
        return 0.0;
    }
    return load_k(j, d);
}

fn product(row0: u32, col0: u32, lane: u32) -> Tile {
    return tile_scale(tile_product(row0, col0, 0u, params.dim, lane, true, true), score_scale());
}

// By which the gradient of a row's loss is multiplied.
fn weight(row: u32) -> f32 {
    return params.factor * load_dy(select(0u, row, params.dy_by_row == 1u), 0u);
}

// What four pairs add to dlog_scale. One without gradient adds nothing, be its score infinite.
fn scale_terms4(gradient: vec4<f32>, scores: vec4<f32>) -> f32 {
    let terms = select(gradient * scores, vec4(0.0), gradient == vec4(0.0));
    return (terms.x + terms.y) + (terms.z + terms.w);
}

// row_part's columns `column` and `column` + 1 = the sums of the tile's rows over its lanes, in order; 0 for the first where `drop`.
fn store_row_sums(group: vec3<u32>, lane: u32, lines: Lines, column: u32, drop: bool) {
    tile_share_rows(lane, lines);
    let row0 = group.y * 8u * TY;
    for (var line = lane; line < 8u * TY; line += TX * TY) {
        if row0 + line < params.rows {
            var sum = tile_line(line, 0u, TX);
            for (var x = 1u; x < TX; x++) {
                sum += tile_line(line, x, TX);
            }
            let row = group.x * params.rows + row0 + line;
            store_row_part(row, column, select(sum.x, 0.0, drop));
            store_row_part(row, column + 1u, sum.y);
        }
    }
}
