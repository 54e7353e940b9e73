// One tile of a matrix product, sum_k a(i, k) b(j, k): 16*TY rows by 4*TX columns, computed by TX*TY threads (lanes).
// Each lane has 16 x 4 results in registers.
// The op's file provides the operands in blocks. Column c of a block holds four rows at k + c, 0 outside the matrix:
//     fn tile_a(i: u32, k: u32) -> mat4x4<f32>      fn tile_b(j: u32, k: u32) -> mat4x4<f32>
// lib/tile_workgroup.wgsl or lib/tile_subgroup.wgsl has `tile_product`, which shares the blocks among lanes. All other
// barriers of the tile kernels are here; call them in uniform control flow. Accumulators are named variables, because
// dynamically indexed arrays of registers cost a factor of ten on some drivers.

override TX: u32 = 16u;
override TY: u32 = 4u;
override BK: u32 = 16u; // a multiple of 8
override UNROLLED: u32 = 1u; // whether loops with a fixed number of rounds are written out

// Array sizes have names: naga 30 panics where an unnamed size precedes an override, in the order of use.
override LINES: u32 = 8u * TX * TY;

// A line is a row or a column of the tile. [line][lane across the line]: a pair for each of eight of a lane's rows, or
// for each of its four columns.
var<workgroup> tile_scratch: array<vec2<f32>, LINES>;

// A lane's sixteen rows, four columns each.
struct Tile {
    r0: vec4<f32>, r1: vec4<f32>, r2: vec4<f32>, r3: vec4<f32>,
    r4: vec4<f32>, r5: vec4<f32>, r6: vec4<f32>, r7: vec4<f32>,
    r8: vec4<f32>, r9: vec4<f32>, r10: vec4<f32>, r11: vec4<f32>,
    r12: vec4<f32>, r13: vec4<f32>, r14: vec4<f32>, r15: vec4<f32>,
}

// The tile's row that is a lane's row r (0 to 15). A lane's groups of four rows lie 4*TY apart, so that neighbouring
// lanes read neighbouring vec4s.
fn tile_row(lane: u32, r: u32) -> u32 {
    return (r / 4u) * 4u * TY + (lane / TX) * 4u + r % 4u;
}

// The first of a lane's four columns.
fn tile_col(lane: u32) -> u32 {
    return (lane % TX) * 4u;
}

// A lane's results, times a factor for each of its sixteen rows (a0 to a3) and for each of its four columns (b).
fn tile_scaled(t: Tile, a0: vec4<f32>, a1: vec4<f32>, a2: vec4<f32>, a3: vec4<f32>, b: vec4<f32>) -> Tile {
    return Tile(
        t.r0 * (a0.x * b), t.r1 * (a0.y * b), t.r2 * (a0.z * b), t.r3 * (a0.w * b),
        t.r4 * (a1.x * b), t.r5 * (a1.y * b), t.r6 * (a1.z * b), t.r7 * (a1.w * b),
        t.r8 * (a2.x * b), t.r9 * (a2.y * b), t.r10 * (a2.z * b), t.r11 * (a2.w * b),
        t.r12 * (a3.x * b), t.r13 * (a3.y * b), t.r14 * (a3.z * b), t.r15 * (a3.w * b),
    );
}

// A lane's rows 4 h to 4 h + 3, for loops over a tile. Sixteen copies of an epilogue take llvmpipe twice as long to
// compile.
fn tile_rows4(t: Tile, h: u32) -> mat4x4<f32> {
    let low = h == 0u || h == 2u;
    let high = h > 1u;
    return mat4x4(
        select(select(t.r4, t.r0, low), select(t.r12, t.r8, low), high),
        select(select(t.r5, t.r1, low), select(t.r13, t.r9, low), high),
        select(select(t.r6, t.r2, low), select(t.r14, t.r10, low), high),
        select(select(t.r7, t.r3, low), select(t.r15, t.r11, low), high),
    );
}

// How many of the four rows from i on are rows of the result.
fn tile_rows_inside(i: u32) -> u32 {
    return min(4u, max(params.rows, i) - i);
}

// Shares one pair for each of eight rows of every lane; `half` (0 or 1) selects eight of the sixteen. Order: a barrier,
// `tile_put_rows4` for both h of the half, a barrier. Line n, of row `tile_line_row(n, half)`, then holds the pair of
// the lane at x as `tile_line(n, x, TX)`.
fn tile_put_rows4(lane: u32, h: u32, pairs: mat4x2<f32>) {
    let first = h % 2u * 4u * TY + lane / TX;
    tile_put_line(first, lane % TX, TX, pairs[0]);
    tile_put_line(first + TY, lane % TX, TX, pairs[1]);
    tile_put_line(first + 2u * TY, lane % TX, TX, pairs[2]);
    tile_put_line(first + 3u * TY, lane % TX, TX, pairs[3]);
}

fn tile_barrier() {
    workgroupBarrier();
}

fn tile_line_row(line: u32, half: u32) -> u32 {
    return tile_row((line % TY) * TX, 8u * half + line / TY);
}

// Shares one pair for each of a lane's four columns. Order: a barrier, `tile_put_cols`, a barrier. Line n, of column n,
// then holds the pair of the lane at y as `tile_line(n, y, TY)`.
fn tile_put_cols(lane: u32, pairs: mat4x2<f32>) {
    let first = tile_col(lane);
    tile_put_line(first, lane / TX, TY, pairs[0]);
    tile_put_line(first + 1u, lane / TX, TY, pairs[1]);
    tile_put_line(first + 2u, lane / TX, TY, pairs[2]);
    tile_put_line(first + 3u, lane / TX, TY, pairs[3]);
}

fn tile_line(line: u32, at: u32, across: u32) -> vec2<f32> {
    return tile_scratch[line * across + (at + line) % across];
}

// Each line is rotated by its number, so that neighbouring lines do not share banks.
fn tile_put_line(line: u32, at: u32, across: u32, pair: vec2<f32>) {
    tile_scratch[line * across + (at + line) % across] = pair;
}
