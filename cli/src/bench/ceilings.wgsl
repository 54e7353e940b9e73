// What an adapter can do at most: numbers that are only moved, and multiply-adds of numbers that stay in registers. QUAD, FLOAT and the constants
// are put in by ceilings.rs.

@group(0) @binding(0) var<storage, read> x: array<QUAD>;
@group(0) @binding(1) var<storage, read> z: array<QUAD>;
@group(0) @binding(2) var<storage, read_write> y: array<QUAD>;
override WG: u32;
override STEPS: u32;

// A workgroup takes STEPS times WG neighbours.
@compute @workgroup_size(WG)
fn copy(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let first = group.x * STEPS * WG + lane;
    for (var i = first; i < min(first + STEPS * WG, arrayLength(&x)); i += WG) {
        y[i] = x[i];
    }
}

@compute @workgroup_size(WG)
fn triad(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let first = group.x * STEPS * WG + lane;
    for (var i = first; i < min(first + STEPS * WG, arrayLength(&x)); i += WG) {
        y[i] = triad_of(x[i], z[i]);
    }
}

// Eight sums a lane, so that one multiply-add need not wait for the one before; 32 numbers times ROUNDS times 8. No two components are alike, or a
// compiler computes one of them for all.
@compute @workgroup_size(WG)
fn multiply_add(@builtin(global_invocation_id) id: vec3<u32>) {
    let f = vec4<FLOAT>(vec4(0.999, 0.998, 0.997, 0.996));
    let g = vec4<FLOAT>(vec4(f32(id.x % 7u)) + vec4(0.0, 1.0, 2.0, 3.0));
    var a = g;
    var b = g + f;
    var c = b + f;
    var d = c + f;
    var e = d + f;
    var p = e + f;
    var q = p + f;
    var r = q + f;
    for (var round = 0u; round < ROUNDSu; round++) {
        EIGHT_TIMES
    }
    let sum = ((a + b) + (c + d)) + ((e + p) + (q + r));
    // Never, but the compiler does not know.
    if f32((sum.x + sum.y) + (sum.z + sum.w)) == 1234.5 {
        y[id.x % arrayLength(&y)] = QUAD();
    }
}

@compute @workgroup_size(WG)
fn nothing(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x == 0u {
        y[0] = x[0];
    }
}
