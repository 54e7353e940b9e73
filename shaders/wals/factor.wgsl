// A = L L^T and A x = b for the matrices in `sums`: one workgroup of TX lanes (TY = 1) per row of x. A lane has four
// rows of L, and sixteen columns are computed at a time. The part of A that earlier columns subtract is a product of
// matrices; the rest stays in registers. Columns past the last one may hold NaN, which nothing reads.
// Source: Golub and Van Loan, Matrix Computations, 4.2.
// Cost: D^3 / 6 multiply-adds per row; reads and writes 2 D^2 numbers, and reads D^3 / 64 numbers for the products.

override SINGLE: u32 = 0u; // the lanes have all rows of L at once

// The lines of `sums` that are the tile's operands, columns of L: the first, and the end.
var<private> columns: vec2<u32>;

// Four rows of L from i on, at four columns from the k-th on.
fn factored(i: u32, k: u32) -> mat4x4<f32> {
    return load_sums4x4(columns.x + k, i, columns.y, params.cols);
}

// The sum of the pieces plus the terms that all rows share: rows j to j + 3 of A at columns i to i + 3.
fn completed(pieces: vec2<u32>, j: u32, i: u32, ridge: f32) -> mat4x4<f32> {
    var sum = params.unobserved * load_gramian4x4(j, i, params.width, params.width);
    for (var p = pieces.x; p < pieces.y; p++) {
        sum += load_sums4x4(first_line(p) + j, i, 0xffffffffu, params.cols);
    }
    if i == j {
        let on = select(vec4(1.0), vec4(ridge), vec4(j) + vec4(0u, 1u, 2u, 3u) < vec4(params.width));
        sum += mat4x4(vec4(on.x, 0.0, 0.0, 0.0), vec4(0.0, on.y, 0.0, 0.0), vec4(0.0, 0.0, on.z, 0.0), vec4(0.0, 0.0, 0.0, on.w));
    }
    return sum;
}

fn either(a: mat4x4<f32>, b: mat4x4<f32>, is_b: bool) -> mat4x4<f32> {
    return mat4x4(select(a[0], b[0], is_b), select(a[1], b[1], is_b), select(a[2], b[2], is_b), select(a[3], b[3], is_b));
}

// b at i to i + 3, summed over the pieces.
fn right_of(pieces: vec2<u32>, i: u32) -> vec4<f32> {
    var sum = vec4(0.0);
    for (var p = pieces.x; p < pieces.y; p++) {
        sum += load_sums4(first_line(p) + params.cols, i, params.cols, 0.0);
    }
    return sum;
}

// A factored 4 x 4 block on the diagonal of L, and the elements of z, L z = b, of its rows. All rows below need both.
struct Corner {
    l: mat4x4<f32>,
    z: vec4<f32>,
}

// The corner of lane `other`, from that lane's `block`, what is left of A; `size`, the diagonal of A before anything
// was subtracted; and `rest`, what is left of b.
fn corner_of_lane(lane: u32, other: u32, block: mat4x4<f32>, size: vec4<f32>, rest: vec4<f32>) -> Corner {
    let beside = tile_of_lane(lane, other, mat4x4(size, rest, vec4(0.0), vec4(0.0)));
    let l = cholesky4(tile_of_lane(lane, other, block), beside[0]);
    return Corner(l, solve_lower(l, beside[1]));
}

// Computes four columns of L in a lane's rows (`block`), and subtracts their terms from the lane's rows of b (`rest`).
// In the first tile of rows (`is_top`), lane m holds their block on the diagonal; its `block` and `rest` become the
// corner's L and z.
fn solve_columns(
    lane: u32,
    m: u32,
    is_top: bool,
    size: vec4<f32>,
    corner: ptr<function, Corner>,
    block: ptr<function, mat4x4<f32>>,
    rest: ptr<function, vec4<f32>>,
) {
    if is_top {
        *corner = corner_of_lane(lane, m, *block, size, *rest);
    }
    if is_top && lane == m {
        *block = (*corner).l;
        *rest = (*corner).z;
        return;
    }
    *block = solve_rows((*corner).l, *block);
    *rest = select(*rest - *block * (*corner).z, *rest, is_top && lane < m);
}

// What four columns of L subtract from four later columns, in a lane's rows. `block`: the four columns in the lane's
// rows. Lane `other` has in `top` the rows whose numbers are those of the later columns.
fn subtracted(block: mat4x4<f32>, lane: u32, other: u32, top: mat4x4<f32>) -> mat4x4<f32> {
    return block * transpose(tile_of_lane(lane, other, top));
}

@compute @workgroup_size(TX, TY)
fn factor(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = group.y * groups.x + group.x;
    if row >= params.rows {
        return;
    }
    let n = params.cols;
    let pieces = vec2(load_own(row, 0u), load_own(row + 1u, 0u)) - params.first_piece;
    let line = first_line(pieces.x);
    let ridge = load_sums4(line + n + 1u, 0u, n, 0.0).x;
    for (var j = 0u; j < n; j += 16u) {
        columns = vec2(line, line + j);
        let blocks = min(4u, (n - j) / 4u);
        // Lanes 0 to 3 of the first tile hold the sixteen rows with the numbers of these columns. `corner0` to
        // `corner3`: their blocks on the diagonal. `top0` to `top2`: each lane's blocks in that tile.
        var corner0 = Corner();
        var corner1 = Corner();
        var corner2 = Corner();
        var corner3 = Corner();
        var top0 = mat4x4<f32>();
        var top1 = mat4x4<f32>();
        var top2 = mat4x4<f32>();
        for (var first = j; first < n; first += 4u * TX) {
            let is_top = first == j;
            let i = first + tile_col(lane);
            let t = tile_product(j, first, 0u, j, lane);
            // Block m of a lane: its four rows at columns j + 4 m to j + 4 m + 3.
            var c0 = tile_rows4(t, 0u);
            var c1 = tile_rows4(t, 1u);
            var c2 = tile_rows4(t, 2u);
            var c3 = tile_rows4(t, 3u);
            var rest = vec4(0.0);
            if j == 0u {
                rest = right_of(pieces, i);
            } else {
                rest = load_x4(row, i, params.width, 0.0);
            }
            var size = vec4(0.0);
            // Loops, because each copy of a block's loads and stores takes drivers long to compile.
            for (var m = 0u; m < blocks; m++) {
                let whole = completed(pieces, j + 4u * m, i, ridge);
                size = select(size, vec4(whole[0].x, whole[1].y, whole[2].z, whole[3].w), m == lane);
                c0 = either(c0, whole - c0, m == 0u);
                c1 = either(c1, whole - c1, m == 1u);
                c2 = either(c2, whole - c2, m == 2u);
                c3 = either(c3, whole - c3, m == 3u);
            }
            solve_columns(lane, 0u, is_top, size, &corner0, &c0, &rest);
            if is_top {
                top0 = c0;
            }
            c1 -= subtracted(c0, lane, 1u, top0);
            c2 -= subtracted(c0, lane, 2u, top0);
            c3 -= subtracted(c0, lane, 3u, top0);
            solve_columns(lane, 1u, is_top, size, &corner1, &c1, &rest);
            if is_top {
                top1 = c1;
            }
            c2 -= subtracted(c1, lane, 2u, top1);
            c3 -= subtracted(c1, lane, 3u, top1);
            solve_columns(lane, 2u, is_top, size, &corner2, &c2, &rest);
            if is_top {
                top2 = c2;
            }
            c3 -= subtracted(c2, lane, 3u, top2);
            solve_columns(lane, 3u, is_top, size, &corner3, &c3, &rest);
            store_x4(row, i, params.width, rest);
            for (var m = 0u; m < blocks; m++) {
                let block = either(either(c0, c1, m == 1u), either(c2, c3, m == 3u), m > 1u);
                for (var r = 0u; r < select(0u, 4u, i < n); r++) {
                    store_sums4(line + j + 4u * m + r, i, n, quad_of(block, r));
                }
            }
            if SINGLE == 1u {
                break;
            }
        }
        cholesky_barrier();
    }
    // x from its end: L^T x = z, four numbers at a time.
    for (var end = n; end > 0u; end -= 4u) {
        let j = end - 4u;
        let l = load_sums4x4(line + j, j, 0xffffffffu, n);
        let x = solve_upper(l, load_x4(row, j, params.width, 0.0));
        for (var i = 4u * lane; i < j; i += 4u * TX) {
            let rest = load_x4(row, i, params.width, 0.0);
            store_x4(row, i, params.width, rest - x * load_sums4x4(line + i, j, 0xffffffffu, n));
        }
        cholesky_barrier();
        if lane == 0u {
            store_x4(row, j, params.width, x);
        }
    }
}
