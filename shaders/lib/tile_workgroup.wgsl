// The product with operands staged in workgroup memory, for lib/tile.wgsl.

override STAGED_A: u32 = BK * (4u * TY + 1u);
override STAGED_B: u32 = BK * (TX + 1u);

// [BK][rows / 4], one vec4 of padding a row against bank conflicts.
var<workgroup> staged_a: array<vec4<f32>, STAGED_A>;
var<workgroup> staged_b: array<vec4<f32>, STAGED_B>;

fn tile_stage(row0: u32, col0: u32, k0: u32, lane: u32) {
    for (var at = lane; at < BK * TY; at += TX * TY) {
        let four = at / (BK / 4u);
        let k = 4u * (at % (BK / 4u));
        let block = tile_a(row0 + 4u * four, k0 + k);
        staged_a[k * (4u * TY + 1u) + four] = block[0];
        staged_a[(k + 1u) * (4u * TY + 1u) + four] = block[1];
        staged_a[(k + 2u) * (4u * TY + 1u) + four] = block[2];
        staged_a[(k + 3u) * (4u * TY + 1u) + four] = block[3];
    }
    for (var at = lane; at < BK / 4u * TX; at += TX * TY) {
        let four = at / (BK / 4u);
        let k = 4u * (at % (BK / 4u));
        let block = tile_b(col0 + 4u * four, k0 + k);
        staged_b[k * (TX + 1u) + four] = block[0];
        staged_b[(k + 1u) * (TX + 1u) + four] = block[1];
        staged_b[(k + 2u) * (TX + 1u) + four] = block[2];
        staged_b[(k + 3u) * (TX + 1u) + four] = block[3];
    }
}

// Adds what one k gives: a lane's sixteen rows of a, four columns of b.
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

// The product over k in first..end.
fn tile_product(row0: u32, col0: u32, first: u32, end: u32, lane: u32) -> Tile {
    var t = Tile();
    let y = lane / TX;
    let x = lane % TX;
    for (var k0 = first; k0 < end; k0 += BK) {
        workgroupBarrier(); // all lanes are done with the slice before
        tile_stage(row0, col0, k0, lane);
        workgroupBarrier();
        let depth = min(BK, end - k0);
        for (var k = 0u; k < depth; k++) {
            let a = k * (4u * TY + 1u) + y;
            tile_step(&t, staged_a[a], staged_a[a + TY], staged_a[a + 2u * TY], staged_a[a + 3u * TY], staged_b[k * (TX + 1u) + x]);
        }
    }
    return t;
}
