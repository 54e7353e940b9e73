@compute @workgroup_size(WG)
fn clear(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = item_of(group, groups, lane);
    if i < params.rows {
        store_rank(i, 0u, 0u);
    }
}

// Whether a key scores above the row's own, or as high and comes first; a row without a valid score is above nothing.
fn above(row: u32, j: u32, score: f32, own: f32) -> u32 {
    let col = params.first_col + j;
    let ahead = is_nan(own) || is_nan(score) || score > own || (score == own && col < row);
    return u32(j < params.cols && col != row && ahead);
}

fn count_above(i: u32, j: u32, c: vec4<f32>) {
    let row = params.first_row + i;
    let own = load_positive_in(row, 0u);
    // Whole numbers: the order does not matter.
    add_rank(row, 0u, (above(row, j, c.x, own) + above(row, j + 1u, c.y, own)) + (above(row, j + 2u, c.z, own) + above(row, j + 3u, c.w, own)));
}

// rank[i] = how many keys come before the row's own.
@compute @workgroup_size(TX, TY)
fn count_ranks(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group.y * 16u * TY;
    let j = group.x * 4u * TX + tile_col(lane);
    let t = product(group, lane);
    for (var h = 0u; h < 4u; h++) {
        let row = i + tile_row(lane, 4u * h);
        let four = tile_rows4(t, h);
        for (var r = 0u; r < tile_rows_inside(row); r++) {
            count_above(row + r, j, quad_of(four, r));
        }
    }
}
