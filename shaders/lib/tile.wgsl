// One tile of a matrix product, sum_k a(i, k) b(j, k), 8*TY rows by 8*TX columns, 8 x 8 results in the registers of each
// of TX*TY lanes. The op's file gives the operands:
//     fn tile_a(i: u32, k: u32) -> f32      fn tile_b(j: u32, k: u32) -> f32      (0 outside the matrix)
// Every barrier of the tile kernels is here; call in uniform control flow. Accumulators are named: dynamically indexed
// arrays of registers cost a factor of ten on some drivers.

override TX: u32 = 8u;
override TY: u32 = 8u;
override BK: u32 = 16u;

// Sizes have names: naga 30 panics where a size without one comes before an override, in the order of use.
override STAGED_A: u32 = BK * (2u * TY + 1u);
override STAGED_B: u32 = BK * (2u * TX + 1u);
override LINES: u32 = 8u * TX * TY;

// Staged operands, [BK][rows / 4], one vec4 of padding a row against bank conflicts.
var<workgroup> staged_a: array<vec4<f32>, STAGED_A>;
var<workgroup> staged_b: array<vec4<f32>, STAGED_B>;
// [line][lane across it], a pair for each of the 8 rows or columns of a lane.
var<workgroup> tile_scratch: array<vec2<f32>, LINES>;

// Row r of a lane's 8 x 8 results: columns 0..3 in `rN`, 4..7 in `sN`.
struct Tile {
    r0: vec4<f32>, s0: vec4<f32>,
    r1: vec4<f32>, s1: vec4<f32>,
    r2: vec4<f32>, s2: vec4<f32>,
    r3: vec4<f32>, s3: vec4<f32>,
    r4: vec4<f32>, s4: vec4<f32>,
    r5: vec4<f32>, s5: vec4<f32>,
    r6: vec4<f32>, s6: vec4<f32>,
    r7: vec4<f32>, s7: vec4<f32>,
}

// The tile's row of a lane's row r in 0..8, and the tile's column of a lane's column c: halves of four lie 4*TY (4*TX) apart,
// so that neighbouring lanes read neighbouring vec4s.
fn tile_row(lane: u32, r: u32) -> u32 {
    return (r / 4u) * 4u * TY + (lane / TX) * 4u + r % 4u;
}

fn tile_col(lane: u32, c: u32) -> u32 {
    return (c / 4u) * 4u * TX + (lane % TX) * 4u + c % 4u;
}

// `a_by_k`, `b_by_k`: neighbouring k lie next to each other in memory, else neighbouring rows do; decides which lane loads what.
fn tile_stage(row0: u32, col0: u32, k0: u32, lane: u32, a_by_k: bool, b_by_k: bool) {
    for (var at = lane; at < BK * 2u * TY; at += TX * TY) {
        let k = select(at / (2u * TY), at % BK, a_by_k);
        let four = select(at % (2u * TY), at / BK, a_by_k);
        let i = row0 + 4u * four;
        staged_a[k * (2u * TY + 1u) + four] =
            vec4(tile_a(i, k0 + k), tile_a(i + 1u, k0 + k), tile_a(i + 2u, k0 + k), tile_a(i + 3u, k0 + k));
    }
    for (var at = lane; at < BK * 2u * TX; at += TX * TY) {
        let k = select(at / (2u * TX), at % BK, b_by_k);
        let four = select(at % (2u * TX), at / BK, b_by_k);
        let j = col0 + 4u * four;
        staged_b[k * (2u * TX + 1u) + four] =
            vec4(tile_b(j, k0 + k), tile_b(j + 1u, k0 + k), tile_b(j + 2u, k0 + k), tile_b(j + 3u, k0 + k));
    }
}

// The product over k in first..end.
fn tile_product(row0: u32, col0: u32, first: u32, end: u32, lane: u32, a_by_k: bool, b_by_k: bool) -> Tile {
    var t = Tile();
    let y = lane / TX;
    let x = lane % TX;
    for (var k0 = first; k0 < end; k0 += BK) {
        workgroupBarrier(); // all lanes are done with the slice before
        tile_stage(row0, col0, k0, lane, a_by_k, b_by_k);
        workgroupBarrier();
        let depth = min(BK, end - k0);
        for (var k = 0u; k < depth; k++) {
            let a = staged_a[k * (2u * TY + 1u) + y];
            let c = staged_a[k * (2u * TY + 1u) + TY + y];
            let b = staged_b[k * (2u * TX + 1u) + x];
            let d = staged_b[k * (2u * TX + 1u) + TX + x];
            t.r0 += a.x * b; t.s0 += a.x * d;
            t.r1 += a.y * b; t.s1 += a.y * d;
            t.r2 += a.z * b; t.s2 += a.z * d;
            t.r3 += a.w * b; t.s3 += a.w * d;
            t.r4 += c.x * b; t.s4 += c.x * d;
            t.r5 += c.y * b; t.s5 += c.y * d;
            t.r6 += c.z * b; t.s6 += c.z * d;
            t.r7 += c.w * b; t.s7 += c.w * d;
        }
    }
    return t;
}

fn tile_scale(t: Tile, by: f32) -> Tile {
    return Tile(
        t.r0 * by, t.s0 * by, t.r1 * by, t.s1 * by, t.r2 * by, t.s2 * by, t.r3 * by, t.s3 * by,
        t.r4 * by, t.s4 * by, t.r5 * by, t.s5 * by, t.r6 * by, t.s6 * by, t.r7 * by, t.s7 * by,
    );
}

// Rows become columns: `rN`, `sN` then hold rows 0..3 and 4..7 of column N.
fn tile_transpose(t: Tile) -> Tile {
    let a = transpose(mat4x4(t.r0, t.r1, t.r2, t.r3));
    let b = transpose(mat4x4(t.r4, t.r5, t.r6, t.r7));
    let c = transpose(mat4x4(t.s0, t.s1, t.s2, t.s3));
    let d = transpose(mat4x4(t.s4, t.s5, t.s6, t.s7));
    return Tile(a[0], b[0], a[1], b[1], a[2], b[2], a[3], b[3], c[0], d[0], c[1], d[1], c[2], d[2], c[3], d[3]);
}

// A pair for each of a lane's eight rows or columns.
struct Lines {
    l0: vec2<f32>, l1: vec2<f32>, l2: vec2<f32>, l3: vec2<f32>,
    l4: vec2<f32>, l5: vec2<f32>, l6: vec2<f32>, l7: vec2<f32>,
}

// Shares the pairs of the tile's rows; `tile_line(row, x, TX)` is then that of the lane at x.
fn tile_share_rows(lane: u32, lines: Lines) {
    workgroupBarrier();
    tile_scratch[tile_row(lane, 0u) * TX + lane % TX] = lines.l0;
    tile_scratch[tile_row(lane, 1u) * TX + lane % TX] = lines.l1;
    tile_scratch[tile_row(lane, 2u) * TX + lane % TX] = lines.l2;
    tile_scratch[tile_row(lane, 3u) * TX + lane % TX] = lines.l3;
    tile_scratch[tile_row(lane, 4u) * TX + lane % TX] = lines.l4;
    tile_scratch[tile_row(lane, 5u) * TX + lane % TX] = lines.l5;
    tile_scratch[tile_row(lane, 6u) * TX + lane % TX] = lines.l6;
    tile_scratch[tile_row(lane, 7u) * TX + lane % TX] = lines.l7;
    workgroupBarrier();
}

// Shares the pairs of the tile's columns; `tile_line(column, y, TY)` is then that of the lane at y.
fn tile_share_cols(lane: u32, lines: Lines) {
    workgroupBarrier();
    tile_scratch[tile_col(lane, 0u) * TY + lane / TX] = lines.l0;
    tile_scratch[tile_col(lane, 1u) * TY + lane / TX] = lines.l1;
    tile_scratch[tile_col(lane, 2u) * TY + lane / TX] = lines.l2;
    tile_scratch[tile_col(lane, 3u) * TY + lane / TX] = lines.l3;
    tile_scratch[tile_col(lane, 4u) * TY + lane / TX] = lines.l4;
    tile_scratch[tile_col(lane, 5u) * TY + lane / TX] = lines.l5;
    tile_scratch[tile_col(lane, 6u) * TY + lane / TX] = lines.l6;
    tile_scratch[tile_col(lane, 7u) * TY + lane / TX] = lines.l7;
    workgroupBarrier();
}

fn tile_line(line: u32, at: u32, across: u32) -> vec2<f32> {
    return tile_scratch[line * across + at];
}
