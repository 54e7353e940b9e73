// rank = 0; with `fresh` the bits of +inf, which stand for c of a positive that does not exist: no c exceeds it.
@compute @workgroup_size(WG)
fn clear(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = item_of(group, groups, lane);
    if i < params.rows {
        store_rank(i, 0u, select(0u, 0x7f800000u, params.fresh == 1u));
    }
}

// Adds how many of four keys score above the row's own key, or equal with a smaller number. A key whose score is NaN
// counts as above. If the score of the own key is NaN, every key counts as above. The own key does not count, nor do other keys with the row's id.
fn count_above(i: u32, j: u32, c: vec4<f32>, ids: vec4<u32>) {
    let row = params.first_row + i;
    let own = load_positive_in(row, 0u);
    let column = columns4(params.first_col + j);
    var counts = inside4(j) & (column != vec4(row));
    if HAS_ID == 1u {
        counts &= ids != vec4(load_row_line(i, AT_ID));
    }
    let ahead = vec4(is_nan(own)) | nans(c) | (c > vec4(own)) | ((c == vec4(own)) & (column < vec4(row)));
    let four = vec4<u32>(counts & ahead);
    // The counts are integers, so the order of the additions does not matter.
    add_rank(row, 0u, (four.x + four.y) + (four.z + four.w));
}

// rank[i] = the number of keys that come before the row's own key.
@compute @workgroup_size(TX, TY)
fn count_ranks(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group.y * 16u * TY;
    let j = group.x * 4u * TX + tile_col(lane);
    let t = product(group, lane);
    let ids = col_tags(0u, j).id;
    for (var h = 0u; h < 4u; h++) {
        let row = i + tile_row(lane, 4u * h);
        let four = tile_rows4(t, h);
        for (var r = 0u; r < tile_rows_inside(row); r++) {
            count_above(row + r, j, quad_of(four, r), ids);
        }
    }
}
