// Tiles of <q_i, k_j> in registers, and sums over the rows of a tile. A dispatch covers a chunk of the batch: `rows`
// rows of q and `cols` rows of k. The op's file has bindings q, k and row_part [column tiles * rows, ..].

fn tile_a(i: u32, d: u32) -> mat4x4<f32> {
    return transpose(load_q4x4(i, d, params.rows, params.dim));
}

fn tile_b(j: u32, d: u32) -> mat4x4<f32> {
    return transpose(load_k4x4(j, d, params.cols, params.dim));
}

// A tile of <q_i, k_j>.
fn product(group: vec3<u32>, lane: u32) -> Tile {
    return tile_product(group.y * 16u * TY, group.x * 4u * TX, 0u, params.dim, lane);
}

fn columns4(j: u32) -> vec4<u32> {
    return vec4(j) + vec4(0u, 1u, 2u, 3u);
}

fn inside4(j: u32) -> vec4<bool> {
    return columns4(j) < vec4(params.cols);
}

fn sum4(v: vec4<f32>) -> f32 {
    return (v.x + v.y) + (v.z + v.w);
}

// gradient * score, but 0 where the gradient is 0, even if the score is infinite.
fn products4(gradient: vec4<f32>, scores: vec4<f32>) -> vec4<f32> {
    return select(gradient * scores, vec4(0.0), gradient == vec4(0.0));
}

// A line (a row or a column of the scores) has a log-sum-exp, as in lib/lse.wgsl, or two sums (`sums`).
fn nothing(sums: bool) -> vec2<f32> {
    return select(LSE_EMPTY, vec2(0.0), sums);
}

fn joined(a: vec2<f32>, b: vec2<f32>, sums: bool) -> vec2<f32> {
    if sums {
        return a + b;
    }
    return lse_merge(a, b, UNIT);
}

fn joined8(a: mat4x2<f32>, b: mat4x2<f32>, sums: bool) -> vec2<f32> {
    if sums {
        return ((a[0] + a[1]) + (a[2] + a[3])) + ((b[0] + b[1]) + (b[2] + b[3]));
    }
    return lse_of_pairs(a, b);
}

fn line_or_nothing(line: u32, at: u32, across: u32, sums: bool) -> vec2<f32> {
    return select(nothing(sums), tile_line(line, min(at, across - 1u), across), at < across);
}

fn four_of_line(line: u32, at: u32, step: u32, across: u32, sums: bool) -> mat4x2<f32> {
    return mat4x2(
        line_or_nothing(line, at, across, sums),
        line_or_nothing(line, at + step, across, sums),
        line_or_nothing(line, at + 2u * step, across, sums),
        line_or_nothing(line, at + 3u * step, across, sums),
    );
}

// Joins eight pairs of each line, `step` apart, into the first of them. All lanes take part; the eight pairs that a
// lane joins do not depend on each other.
fn join_eights(lane: u32, lines: u32, across: u32, step: u32, sums: bool) {
    let eights = select(0u, (across + 8u * step - 1u) / (8u * step), step < across);
    for (var item = lane; item < lines * eights; item += TX * TY) {
        let line = item % lines;
        let first = item / lines * 8u * step;
        let a = four_of_line(line, first, step, across, sums);
        let b = four_of_line(line, first + 4u * step, step, across, sums);
        tile_put_line(line, first, across, joined8(a, b, sums));
    }
}

// Joins, in rounds, the pairs that the lanes have put, into the first pair of each line. The lane that does a line's
// last join also continues with the line.
fn join_lines(lane: u32, lines: u32, across: u32, sums: bool) {
    tile_barrier();
    join_eights(lane, lines, across, 1u, sums);
    if max(TX, TY) > 8u {
        tile_barrier();
        join_eights(lane, lines, across, 8u, sums);
    }
    if max(TX, TY) > 64u {
        tile_barrier();
        join_eights(lane, lines, across, 64u, sums);
    }
}

// row_part's columns `column` and `column` + 1 = the joined pairs of the lines of half of a tile's rows, in a fixed
// order.
fn store_rows(group: vec3<u32>, lane: u32, half: u32, column: u32, sums: bool) {
    join_lines(lane, 8u * TY, TX, sums);
    for (var line = lane; line < 8u * TY; line += TX * TY) {
        let i = group.y * 16u * TY + tile_line_row(line, half);
        if i < params.rows {
            let pair = tile_line(line, 0u, TX);
            store_row_part(group.x * params.rows + i, column, pair.x);
            store_row_part(group.x * params.rows + i, column + 1u, pair.y);
        }
    }
}
