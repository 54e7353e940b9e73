// `tile_product` for lib/tile.wgsl, with operands staged in workgroup memory: in slabs of eight k for each lane's rows
// and for each lane's columns. Within a slab every index is a constant, so that naga's bounds checks and the addresses
// are computed once for eight k. On an H200 these took a fifth of the time.

override STAGED_A: u32 = BK / 8u * TY;
override STAGED_B: u32 = BK / 8u * TX;

// Slabs [BK / 8][TY]. A slab: [8 k][four vec4s, the lane's sixteen rows].
var<workgroup> staged_a: array<array<vec4<f32>, 32>, STAGED_A>;
// Slabs [BK / 8][TX]. A slab: [8 k], a vec4 of the lane's four columns each, and one vec4 of padding against bank
// conflicts.
var<workgroup> staged_b: array<array<vec4<f32>, 9>, STAGED_B>;

// The numbers of 4 x 4 blocks in a slice of BK k. Blocks are numbered [four rows of a][BK / 4], then the same for b.
override BLOCKS_A: u32 = BK * TY;
override BLOCKS: u32 = BLOCKS_A + BK / 4u * TX;
// Whether no lane has more than one block to stage.
override AT_ONCE: u32 = u32(BLOCKS <= TX * TY);

// The place of a block: its operand, its group of four rows, and its first k within the slice.
struct TilePlace {
    of_b: bool,
    four: u32,
    k: u32,
}

fn tile_place(at: u32) -> TilePlace {
    let of_b = at >= BLOCKS_A;
    let block = select(at, at - BLOCKS_A, of_b);
    return TilePlace(of_b, block / (BK / 4u), 4u * (block % (BK / 4u)));
}

fn tile_block(row0: u32, col0: u32, k0: u32, at: u32) -> mat4x4<f32> {
    let place = tile_place(at);
    if place.of_b {
        return tile_b(col0 + 4u * place.four, k0 + place.k);
    }
    return tile_a(row0 + 4u * place.four, k0 + place.k);
}

fn tile_put(at: u32, block: mat4x4<f32>) {
    let place = tile_place(at);
    let four = place.four;
    let k = place.k;
    if place.of_b {
        let slab = k / 8u * TX + four;
        staged_b[slab][k % 8u] = block[0];
        staged_b[slab][k % 8u + 1u] = block[1];
        staged_b[slab][k % 8u + 2u] = block[2];
        staged_b[slab][k % 8u + 3u] = block[3];
        return;
    }
    let slab = k / 8u * TY + four % TY;
    let first = k % 8u * 4u + four / TY;
    staged_a[slab][first] = block[0];
    staged_a[slab][first + 4u] = block[1];
    staged_a[slab][first + 8u] = block[2];
    staged_a[slab][first + 12u] = block[3];
}

// Adds the products at one k: the lane's sixteen rows of a, its four columns of b.
fn tile_step(t: ptr<function, Tile>, a0: vec4<f32>, a1: vec4<f32>, a2: vec4<f32>, a3: vec4<f32>, b: vec4<f32>) {
    (*t).r0 += a0.x * b;
    (*t).r1 += a0.y * b;
    (*t).r2 += a0.z * b;
    (*t).r3 += a0.w * b;
    (*t).r4 += a1.x * b;
    (*t).r5 += a1.y * b;
    (*t).r6 += a1.z * b;
    (*t).r7 += a1.w * b;
    (*t).r8 += a2.x * b;
    (*t).r9 += a2.y * b;
    (*t).r10 += a2.z * b;
    (*t).r11 += a2.w * b;
    (*t).r12 += a3.x * b;
    (*t).r13 += a3.y * b;
    (*t).r14 += a3.z * b;
    (*t).r15 += a3.w * b;
}

// Adds the products at the eight k of a slab.
fn tile_slab(t: ptr<function, Tile>, a: u32, b: u32) {
    tile_step(t, staged_a[a][0], staged_a[a][1], staged_a[a][2], staged_a[a][3], staged_b[b][0]);
    tile_step(t, staged_a[a][4], staged_a[a][5], staged_a[a][6], staged_a[a][7], staged_b[b][1]);
    tile_step(t, staged_a[a][8], staged_a[a][9], staged_a[a][10], staged_a[a][11], staged_b[b][2]);
    tile_step(t, staged_a[a][12], staged_a[a][13], staged_a[a][14], staged_a[a][15], staged_b[b][3]);
    tile_step(t, staged_a[a][16], staged_a[a][17], staged_a[a][18], staged_a[a][19], staged_b[b][4]);
    tile_step(t, staged_a[a][20], staged_a[a][21], staged_a[a][22], staged_a[a][23], staged_b[b][5]);
    tile_step(t, staged_a[a][24], staged_a[a][25], staged_a[a][26], staged_a[a][27], staged_b[b][6]);
    tile_step(t, staged_a[a][28], staged_a[a][29], staged_a[a][30], staged_a[a][31], staged_b[b][7]);
}

// The product over k in first..end. A last slice with fewer than BK k inside the matrix has zeros for the others; an
// `end` inside the matrix lies a multiple of BK after `first`. Where a slice has at most one block per lane, the next
// slice is loaded while the lanes compute with this one.
fn tile_product(row0: u32, col0: u32, first: u32, end: u32, lane: u32) -> Tile {
    var t = Tile();
    let y = lane / TX;
    let x = lane % TX;
    var next = mat4x4<f32>();
    if AT_ONCE == 1u && lane < BLOCKS {
        next = tile_block(row0, col0, first, lane);
    }
    for (var k0 = first; k0 < end; k0 += BK) {
        workgroupBarrier(); // all lanes are done with the previous slice
        if AT_ONCE == 1u {
            if lane < BLOCKS {
                tile_put(lane, next);
            }
        } else {
            for (var at = lane; at < BLOCKS; at += TX * TY) {
                tile_put(at, tile_block(row0, col0, k0, at));
            }
        }
        workgroupBarrier();
        if AT_ONCE == 1u && lane < BLOCKS && k0 + BK < end {
            next = tile_block(row0, col0, k0 + BK, lane);
        }
        if UNROLLED == 1u {
            tile_slab(&t, y, x);
            if BK > 8u {
                tile_slab(&t, TY + y, TX + x);
            }
        }
        for (var eight = select(0u, 2u, UNROLLED == 1u); eight < BK / 8u; eight++) {
            let a = eight * TY + y;
            let b = eight * TX + x;
            if UNROLLED == 1u {
                tile_slab(&t, a, b);
            } else {
                for (var k = 0u; k < 8u; k++) {
                    let four = 4u * k;
                    tile_step(&t, staged_a[a][four], staged_a[a][four + 1u], staged_a[a][four + 2u], staged_a[a][four + 3u], staged_b[b][k]);
                }
            }
        }
    }
    return t;
}

var<workgroup> tile_block_of_lane: mat4x4<f32>;

// The block of lane `other`.
fn tile_of_lane(lane: u32, other: u32, block: mat4x4<f32>) -> mat4x4<f32> {
    workgroupBarrier(); // lanes may still be reading for the previous call
    if lane == other {
        tile_block_of_lane = block;
    }
    workgroupBarrier();
    return tile_block_of_lane;
}
