// The product with a's rows shared by the eight lanes of a subgroup, which are the whole workgroup (TX = 8, TY = 1), for lib/tile.wgsl.
// A software adapter loads vectors lane by lane, from workgroup memory too, but spreads one lane's value for nothing.

// One k, of which the first or the second four lanes hold a's rows.
fn tile_share_step(t: ptr<function, Tile>, a: vec4<f32>, b: vec4<f32>, second: bool) {
    if second {
        tile_step(t, subgroupBroadcast(a, 4u), subgroupBroadcast(a, 5u), subgroupBroadcast(a, 6u), subgroupBroadcast(a, 7u), b);
    } else {
        tile_step(t, subgroupBroadcast(a, 0u), subgroupBroadcast(a, 1u), subgroupBroadcast(a, 2u), subgroupBroadcast(a, 3u), b);
    }
}

// The product over k in first..end. Lane n holds four rows from 4 (n mod 4) on at four k, those from k0 on or the four after.
fn tile_product(row0: u32, col0: u32, first: u32, end: u32, lane: u32) -> Tile {
    var t = Tile();
    let i = row0 + 4u * (lane % 4u);
    let j = col0 + tile_col(lane);
    for (var k0 = first; k0 < end; k0 += 8u) {
        let a = tile_a(i, k0 + 4u * (lane / 4u));
        let b = tile_b(j, k0);
        tile_share_step(&t, a[0], b[0], false);
        tile_share_step(&t, a[1], b[1], false);
        tile_share_step(&t, a[2], b[2], false);
        tile_share_step(&t, a[3], b[3], false);
        let c = tile_b(j, k0 + 4u);
        tile_share_step(&t, a[0], c[0], true);
        tile_share_step(&t, a[1], c[1], true);
        tile_share_step(&t, a[2], c[2], true);
        tile_share_step(&t, a[3], c[3], true);
    }
    return t;
}
