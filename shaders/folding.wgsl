// s_ij = <q_i, k_j>;  r_ij = 1 where row i and column j belong to the same block, else 0;
//     sums = (sum_ij max(0, s_ij - r_ij), sum_ij r_ij s_ij).
// Source: Xin, Mayoraz, Pham, Lakshmanan and Anderson, Folding: why good models sometimes make spurious
// recommendations, RecSys 2017.
// row_part holds the sums of each row over the columns of a tile. They are added up over the column tiles.
// Cost: 2NMD FLOP. s is formed tile by tile in registers and never stored.

fn block_of(j: u32) -> u32 {
    return load_k_block(select(0u, j, j < params.cols), 0u);
}

// The terms of four scores of row i in the two sums. A NaN stays a NaN, which WGSL's max may drop.
fn folded4(i: u32, j: u32, blocks: vec4<u32>, s: vec4<f32>) -> vec2<f32> {
    let related = vec4(load_q_block(min(i, max(params.rows, 1u) - 1u), 0u)) == blocks;
    let above = s - select(vec4(0.0), vec4(1.0), related);
    let inside = inside4(j);
    return vec2(
        sum4(select(vec4(0.0), select(max(above, vec4(0.0)), above, nans(above)), inside)),
        sum4(select(vec4(0.0), s, inside & related)),
    );
}

fn put_folded(t: Tile, group: vec3<u32>, lane: u32, h: u32, blocks: vec4<u32>) {
    let i = group.y * 16u * TY + tile_row(lane, 4u * h);
    let j = group.x * 4u * TX + tile_col(lane);
    let s = tile_rows4(t, h);
    tile_put_rows4(lane, h, mat4x2(
        folded4(i, j, blocks, s[0]), folded4(i + 1u, j, blocks, s[1]), folded4(i + 2u, j, blocks, s[2]), folded4(i + 3u, j, blocks, s[3]),
    ));
}

@compute @workgroup_size(TX, TY)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let t = product(group, lane);
    let j = group.x * 4u * TX + tile_col(lane);
    let blocks = vec4(block_of(j), block_of(j + 1u), block_of(j + 2u), block_of(j + 3u));
    if UNROLLED == 1u {
        tile_barrier();
        put_folded(t, group, lane, 0u, blocks);
        put_folded(t, group, lane, 1u, blocks);
        store_rows(group, lane, 0u, 0u, true);
        tile_barrier();
        put_folded(t, group, lane, 2u, blocks);
        put_folded(t, group, lane, 3u, blocks);
        store_rows(group, lane, 1u, 0u, true);
        return;
    }
    for (var half = 0u; half < 2u; half++) {
        tile_barrier();
        for (var h = 2u * half; h < 2u * half + 2u; h++) {
            put_folded(t, group, lane, h, blocks);
        }
        store_rows(group, lane, half, 0u, true);
    }
}
