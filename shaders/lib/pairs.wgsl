// Tiles of <q_i, k_j> in registers, and sums over the rows of a tile. rows of q and cols rows of k are a chunk of the batch.
// The op's file has bindings q, k and row_part [column tiles * rows, ..].

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

// A pair without gradient adds nothing, be its score infinite.
fn products4(gradient: vec4<f32>, scores: vec4<f32>) -> vec4<f32> {
    return select(gradient * scores, vec4(0.0), gradient == vec4(0.0));
}

// row_part's columns `column` and `column` + 1 = the sums of the lines of half of a tile's rows, in order; 0 for the first where `drop`.
fn store_row_sums(group: vec3<u32>, lane: u32, half: u32, column: u32, drop: bool) {
    for (var line = lane; line < 8u * TY; line += TX * TY) {
        let i = group.y * 16u * TY + tile_line_row(line, half);
        if i < params.rows {
            var sum = tile_line(line, 0u, TX);
            for (var x = 1u; x < TX; x++) {
                sum += tile_line(line, x, TX);
            }
            let row = group.x * params.rows + i;
            store_row_part(row, column, select(sum.x, 0.0, drop));
            store_row_part(row, column + 1u, sum.y);
        }
    }
}
