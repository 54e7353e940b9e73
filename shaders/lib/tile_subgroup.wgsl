// `tile_product` for lib/tile.wgsl, with the rows of a shared by the eight lanes of a subgroup. The subgroup is the
// whole workgroup (TX = 8, TY = 1). A software adapter loads vectors lane by lane, even from workgroup memory, whereas
// a broadcast of one lane's value costs nothing.

// Adds eight k to four columns of one row: the row's elements `a` (first four k) and `c` (next four), the columns'
// elements `b` and `d`. Row by row, because a CPU has registers for the sums of one row but not of sixteen.
fn tile_along(sum: vec4<f32>, a: vec4<f32>, b: mat4x4<f32>, c: vec4<f32>, d: mat4x4<f32>) -> vec4<f32> {
    let half = fma(vec4(a.w), b[3], fma(vec4(a.z), b[2], fma(vec4(a.y), b[1], fma(vec4(a.x), b[0], sum))));
    return fma(vec4(c.w), d[3], fma(vec4(c.z), d[2], fma(vec4(c.y), d[1], fma(vec4(c.x), d[0], half))));
}

// The product over k in first..end. Lane n holds the four rows from 4 (n mod 4) on, at four k: from k0 on for n < 4,
// from k0 + 4 on otherwise.
fn tile_product(row0: u32, col0: u32, first: u32, end: u32, lane: u32) -> Tile {
    var t = Tile();
    let i = row0 + 4u * (lane % 4u);
    let j = col0 + tile_col(lane);
    for (var k0 = first; k0 < end; k0 += 8u) {
        let a = transpose(tile_a(i, k0 + 4u * (lane / 4u)));
        let b = tile_b(j, k0);
        let d = tile_b(j, k0 + 4u);
        t.r0 = tile_along(t.r0, subgroupBroadcast(a[0], 0u), b, subgroupBroadcast(a[0], 4u), d);
        t.r1 = tile_along(t.r1, subgroupBroadcast(a[1], 0u), b, subgroupBroadcast(a[1], 4u), d);
        t.r2 = tile_along(t.r2, subgroupBroadcast(a[2], 0u), b, subgroupBroadcast(a[2], 4u), d);
        t.r3 = tile_along(t.r3, subgroupBroadcast(a[3], 0u), b, subgroupBroadcast(a[3], 4u), d);
        t.r4 = tile_along(t.r4, subgroupBroadcast(a[0], 1u), b, subgroupBroadcast(a[0], 5u), d);
        t.r5 = tile_along(t.r5, subgroupBroadcast(a[1], 1u), b, subgroupBroadcast(a[1], 5u), d);
        t.r6 = tile_along(t.r6, subgroupBroadcast(a[2], 1u), b, subgroupBroadcast(a[2], 5u), d);
        t.r7 = tile_along(t.r7, subgroupBroadcast(a[3], 1u), b, subgroupBroadcast(a[3], 5u), d);
        t.r8 = tile_along(t.r8, subgroupBroadcast(a[0], 2u), b, subgroupBroadcast(a[0], 6u), d);
        t.r9 = tile_along(t.r9, subgroupBroadcast(a[1], 2u), b, subgroupBroadcast(a[1], 6u), d);
        t.r10 = tile_along(t.r10, subgroupBroadcast(a[2], 2u), b, subgroupBroadcast(a[2], 6u), d);
        t.r11 = tile_along(t.r11, subgroupBroadcast(a[3], 2u), b, subgroupBroadcast(a[3], 6u), d);
        t.r12 = tile_along(t.r12, subgroupBroadcast(a[0], 3u), b, subgroupBroadcast(a[0], 7u), d);
        t.r13 = tile_along(t.r13, subgroupBroadcast(a[1], 3u), b, subgroupBroadcast(a[1], 7u), d);
        t.r14 = tile_along(t.r14, subgroupBroadcast(a[2], 3u), b, subgroupBroadcast(a[2], 7u), d);
        t.r15 = tile_along(t.r15, subgroupBroadcast(a[3], 3u), b, subgroupBroadcast(a[3], 7u), d);
    }
    return t;
}

// The block of lane `other`.
fn tile_of_lane(lane: u32, other: u32, block: mat4x4<f32>) -> mat4x4<f32> {
    return mat4x4(
        subgroupShuffle(block[0], other), subgroupShuffle(block[1], other), subgroupShuffle(block[2], other), subgroupShuffle(block[3], other),
    );
}
