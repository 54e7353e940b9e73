// L L^T = S for blocks of 4 x 4, and solutions with L and L^T. The result of `cholesky4` holds L below its diagonal and
// 1 / L_jj on it.
// Source: Cholesky 1910; Golub and Van Loan, Matrix Computations, 4.2.
// The barrier is for workgroups whose lanes share a matrix in storage memory.

fn cholesky_barrier() {
    storageBarrier();
}

// 1 / sqrt(square). NaN for a pivot that may be nothing but the rounding error of a number of this `size`.
fn pivot(square: f32, size: f32) -> f32 {
    return select(not_a_number(), 1.0 / sqrt(square), square > 0x1p-21f * size);
}

// `s` by rows; only its lower triangle counts. `diagonal`: the diagonal before anything was subtracted from it.
fn cholesky4(s: mat4x4<f32>, diagonal: vec4<f32>) -> mat4x4<f32> {
    let p0 = pivot(s[0].x, diagonal.x);
    let l10 = s[1].x * p0;
    let l20 = s[2].x * p0;
    let l30 = s[3].x * p0;
    let p1 = pivot(s[1].y - l10 * l10, diagonal.y);
    let l21 = (s[2].y - l20 * l10) * p1;
    let l31 = (s[3].y - l30 * l10) * p1;
    let p2 = pivot(s[2].z - (l20 * l20 + l21 * l21), diagonal.z);
    let l32 = (s[3].z - (l30 * l20 + l31 * l21)) * p2;
    let p3 = pivot(s[3].w - (l30 * l30 + l31 * l31 + l32 * l32), diagonal.w);
    return mat4x4(vec4(p0, 0.0, 0.0, 0.0), vec4(l10, p1, 0.0, 0.0), vec4(l20, l21, p2, 0.0), vec4(l30, l31, l32, p3));
}

// x with L x = a.
fn solve_lower(l: mat4x4<f32>, a: vec4<f32>) -> vec4<f32> {
    let x = a.x * l[0].x;
    let y = (a.y - l[1].x * x) * l[1].y;
    let z = (a.z - (l[2].x * x + l[2].y * y)) * l[2].z;
    return vec4(x, y, z, (a.w - (l[3].x * x + l[3].y * y + l[3].z * z)) * l[3].w);
}

// X with X L^T = A for four rows. a[c] and the result's [c] are column c of the four rows.
fn solve_rows(l: mat4x4<f32>, a: mat4x4<f32>) -> mat4x4<f32> {
    let x = a[0] * l[0].x;
    let y = (a[1] - l[1].x * x) * l[1].y;
    let z = (a[2] - (l[2].x * x + l[2].y * y)) * l[2].z;
    return mat4x4(x, y, z, (a[3] - (l[3].x * x + l[3].y * y + l[3].z * z)) * l[3].w);
}

// x with L^T x = a.
fn solve_upper(l: mat4x4<f32>, a: vec4<f32>) -> vec4<f32> {
    let w = a.w * l[3].w;
    let z = (a.z - l[3].z * w) * l[2].z;
    let y = (a.y - (l[2].y * z + l[3].y * w)) * l[1].y;
    return vec4((a.x - (l[1].x * y + l[2].x * z + l[3].x * w)) * l[0].x, y, z, w);
}
