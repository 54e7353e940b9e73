// Steps of preconditioned conjugate gradients toward A x = b. A is never formed:
//     A p = w0 Y^T Y p + lambda_u p + sum (w - w0) <y, p> y,  preconditioned by the diagonal of A.
// In a basis where Y^T Y is diagonal, `base` is its diagonal, one row. Otherwise (DENSE) `base` is all of Y^T Y, and
// `shared_part` holds Y^T Y p of each row.
// Source: Hestenes and Stiefel 1952; for this A: Takacs, Pilaszy and Tikk 2011, doi:10.1145/2043932.2043987.
// Cost of each pass over a row's n observations: reads n D numbers once where lanes hold a row, else twice; 2 n D
// multiply-adds.

override START: u32 = 0u; // the pass starts from x, instead of following a direction
override DENSE: u32 = 0u;

// The four rows of `state` of each row of x.
const SOLUTION: u32 = 0u;
const RESIDUAL: u32 = 1u;
const DIRECTION: u32 = 2u;
const INVERSE: u32 = 3u; // 1 / the diagonal of A

// Observation k of a piece: its row of y, w - w0 (`excess`), w r (`right`) and r (`goal`). All three numbers are 0 past
// the last observation and for a row of y outside the bound part; `right` and `goal` are 0 without START.
struct Seen {
    r: u32,
    excess: f32,
    right: f32,
    goal: f32,
}

fn seen_of(first: u32, k: u32, count: u32) -> Seen {
    let e = first + min(k, max(count, 1u) - 1u);
    let r = row_of(e);
    let is_here = k < count && r < params.part_rows;
    let weight = weight_of(e);
    var goal = 0.0;
    if START == 1u {
        goal = select(0.0, goal_of(e), is_here);
    }
    let excess = select(0.0, weight - params.unobserved, is_here);
    return Seen(min(r, params.part_rows - 1u), excess, select(0.0, weight * goal, is_here), goal);
}

// w (r - s)^2 - w0 s^2
fn loss_of(seen: Seen, s: f32) -> f32 {
    return seen.right * (seen.goal - 2.0 * s) + seen.excess * s * s;
}

fn factor_of(seen: Seen, s: f32) -> f32 {
    if START == 1u {
        return seen.right - seen.excess * s;
    }
    return seen.excess * s;
}

fn row16(r: u32, j: u32, end: u32) -> mat4x4<f32> {
    if HOLDS == 1u && NO_REST == 1u {
        return load_y16_whole(r, j);
    }
    return load_y16(r, j, end, 0.0);
}

// A lane's part of <x, y> for row i of `solved` and row r of y.
fn share_of(span: Span, i: u32, r: u32) -> f32 {
    var s = 0.0;
    for (var j = span.first; j < span.end; j += step_size()) {
        s += product16(load_solved16(i, j, span.end, 0.0), row16(r, j, span.end));
    }
    return s;
}

fn times16(a: mat4x4<f32>, b: mat4x4<f32>) -> mat4x4<f32> {
    return mat4x4(a[0] * b[0], a[1] * b[1], a[2] * b[2], a[3] * b[3]);
}

// For each piece. START: sum (w r - (w - w0) <x, y>) y, sum (w - w0) y^2, and the loss of its observations. Otherwise,
// along a direction p: sum (w - w0) <p, y> y.
@compute @workgroup_size(WG)
fn apply(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let span = span_of(group, groups, lane);
    let p = min(span.i, params.rows - 1u);
    let first = observations_of(p).x;
    let count = observations_of(p).y;
    let i = load_pieces(p, 4u) - params.first_place;
    let x = load_solved16(i, span.first, span.end, 0.0);
    var sum = mat4x4<f32>();
    var squares = mat4x4<f32>();
    var loss = 0.0;
    if holds() {
        for (var k = 0u; k < params.depth; k += 2u) {
            let a = seen_of(first, k, count);
            let b = seen_of(first, k + 1u, count);
            let u = row16(a.r, span.first, span.end);
            let v = row16(b.r, span.first, span.end);
            let s = reduce_sum2(lane, vec2(product16(x, u), product16(x, v)));
            let f = factor_of(a, s.x);
            let g = factor_of(b, s.y);
            sum += u * f + v * g;
            if START == 1u {
                loss += loss_of(a, s.x) + loss_of(b, s.y);
                squares += times16(u, u) * a.excess + times16(v, v) * b.excess;
            }
        }
        if ADD == 1u {
            sum += load_along16(2u * p, span.first, span.end, 0.0);
            if START == 1u {
                squares += load_along16(2u * p + 1u, span.first, span.end, 0.0);
            }
        }
        keep(span, p, span.first, sum, squares);
        keep_loss(span, loss);
        return;
    }
    for (var k = 0u; k < params.depth; k++) {
        let a = seen_of(first, k, count);
        let s = reduce_sum(lane, share_of(span, i, a.r));
        let f = factor_of(a, s);
        loss += loss_of(a, s);
        // The same number of rounds for all lanes: otherwise Direct3D's older compiler (FXC) assumes that not all lanes
        // reach the barrier above.
        for (var done = 0u; done < params.cols; done += step_size()) {
            let j = span.first + done;
            let y = row16(a.r, j, span.end);
            let end = select(0u, span.end, k > 0u || ADD == 1u);
            sum = load_along16(2u * p, j, end, 0.0) + y * f;
            if START == 1u {
                squares = load_along16(2u * p + 1u, j, end, 0.0) + times16(y, y) * a.excess;
            }
            keep(span, p, j, sum, squares);
        }
    }
    keep_loss(span, loss);
}

fn keep_loss(span: Span, loss: f32) {
    if START == 1u && span.lead {
        store_loss(span.i, 0u, loss + select(0.0, load_loss(span.i, 0u), ADD == 1u));
    }
}

fn keep(span: Span, p: u32, j: u32, sum: mat4x4<f32>, squares: mat4x4<f32>) {
    store_along16(2u * p, j, span.end, sum);
    if START == 1u {
        store_along16(2u * p + 1u, j, span.end, squares);
    }
}

// Sums over the pieces of a row. `pair`: 0 for the sum of vectors, 1 for the sum of squares.
fn merged4(pieces: vec2<u32>, pair: u32, j: u32, end: u32) -> vec4<f32> {
    var sum = vec4(0.0);
    for (var p = pieces.x; p < pieces.y; p++) {
        sum += load_products4(2u * p + pair, j, end, 0.0);
    }
    return sum;
}

fn on_diagonal(j: u32) -> f32 {
    let inside = min(j, params.width - 1u);
    return load_base(select(0u, inside, DENSE == 1u), inside);
}

// The diagonal of Y^T Y.
fn diagonal4(j: u32) -> vec4<f32> {
    return vec4(on_diagonal(j), on_diagonal(j + 1u), on_diagonal(j + 2u), on_diagonal(j + 3u));
}

// w0 Y^T Y p + lambda p of row i.
fn shared4(i: u32, ridge: f32, p: vec4<f32>, j: u32, end: u32) -> vec4<f32> {
    if DENSE == 1u {
        return params.unobserved * load_shared_part4(i, j, end, 0.0) + ridge * p;
    }
    return (params.unobserved * diagonal4(j) + ridge) * p;
}

// A p.
fn completed4(i: u32, pieces: vec2<u32>, ridge: f32, p: vec4<f32>, j: u32, end: u32) -> vec4<f32> {
    return merged4(pieces, 0u, j, end) + shared4(i, ridge, p, j, end);
}

// numerator / denominator; 0 where the denominator is not positive: nothing is left to do.
fn step_of(numerator: f32, denominator: f32) -> f32 {
    return select(numerator / denominator, 0.0, denominator <= 0.0 && !is_nan(denominator));
}

// From the sums of the pieces: the first residual r = b - A x and the first direction p = z = r / diagonal of A, 0
// where the diagonal is not positive. The loss of a row's first piece, so far that of the piece's observations,
// receives in addition w0 sum <y, x>^2 over all pairs + lambda |x|^2.
@compute @workgroup_size(WG)
fn begin(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let span = span_of(group, groups, lane);
    let i = min(span.i, params.rows - 1u);
    let pieces = vec2(load_own(i, 0u), load_own(i + 1u, 0u)) - params.first_piece;
    let is_empty = load_pieces(pieces.x, 1u) == 0u;
    let ridge = load_ridge(load_pieces(pieces.x, 3u), 0u);
    var loss = 0.0;
    for (var j = span.first; j < span.end; j += 4u * LANES) {
        let x = load_state4(4u * i + SOLUTION, j, select(span.end, 0u, is_empty), 0.0);
        let product = select(shared4(i, ridge, x, j, span.end), vec4(0.0), is_empty);
        let r = merged4(pieces, 0u, j, span.end) - product;
        let diagonal = params.unobserved * diagonal4(j) + ridge + merged4(pieces, 1u, j, span.end);
        let inverse = select(1.0 / diagonal, vec4(0.0), diagonal <= vec4(0.0));
        loss += dot(product, x);
        store_state4(4u * i + SOLUTION, j, span.end, x);
        store_state4(4u * i + RESIDUAL, j, span.end, r);
        store_state4(4u * i + DIRECTION, j, span.end, inverse * r);
        store_state4(4u * i + INVERSE, j, span.end, inverse);
    }
    loss = reduce_sum(lane, loss);
    if span.lead {
        store_loss(pieces.x, 0u, load_loss(pieces.x, 0u) + loss);
    }
}

// A step: a = <r, z> / <p, A p>, x += a p, r -= a A p, z = r / diagonal, p = z + (<r, z> after / before) p. It lowers L
// by a <r, z>.
@compute @workgroup_size(WG)
fn advance(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let span = span_of(group, groups, lane);
    let i = min(span.i, params.rows - 1u);
    let pieces = vec2(load_own(i, 0u), load_own(i + 1u, 0u)) - params.first_piece;
    let ridge = load_ridge(load_pieces(pieces.x, 3u), 0u);
    var dots = vec2(0.0);
    for (var j = span.first; j < span.end; j += 4u * LANES) {
        let p = load_state4(4u * i + DIRECTION, j, span.end, 0.0);
        let r = load_state4(4u * i + RESIDUAL, j, span.end, 0.0);
        let z = load_state4(4u * i + INVERSE, j, span.end, 0.0) * r;
        dots += vec2(dot(r, z), dot(p, completed4(i, pieces, ridge, p, j, span.end)));
    }
    dots = reduce_sum2(lane, dots);
    let a = step_of(dots.x, dots.y);
    var after = 0.0;
    for (var j = span.first; j < span.end; j += 4u * LANES) {
        let p = load_state4(4u * i + DIRECTION, j, span.end, 0.0);
        let r = load_state4(4u * i + RESIDUAL, j, span.end, 0.0) - a * completed4(i, pieces, ridge, p, j, span.end);
        store_state4(4u * i + SOLUTION, j, span.end, load_state4(4u * i + SOLUTION, j, span.end, 0.0) + a * p);
        store_state4(4u * i + RESIDUAL, j, span.end, r);
        after += dot(r, load_state4(4u * i + INVERSE, j, span.end, 0.0) * r);
    }
    let b = step_of(reduce_sum(lane, after), dots.x);
    for (var j = span.first; j < span.end; j += 4u * LANES) {
        let r = load_state4(4u * i + RESIDUAL, j, span.end, 0.0);
        let p = load_state4(4u * i + INVERSE, j, span.end, 0.0) * r + b * load_state4(4u * i + DIRECTION, j, span.end, 0.0);
        store_state4(4u * i + DIRECTION, j, span.end, p);
    }
    if span.lead {
        store_loss(pieces.x, 0u, load_loss(pieces.x, 0u) - a * dots.x);
    }
}

// A piece's part of L: its observations and, in the first piece of a row, lambda |x|^2.
// The term of an observation is w (r - s)^2 - w0 s^2, because w0 <X^T X, Y^T Y> covers all pairs.
@compute @workgroup_size(WG)
fn objective(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let span = span_of(group, groups, lane);
    let p = min(span.i, params.rows - 1u);
    let first = observations_of(p).x;
    let count = observations_of(p).y;
    let i = load_pieces(p, 4u) - params.first_place;
    let x = load_solved16(i, span.first, span.end, 0.0);
    var sum = 0.0;
    for (var k = 0u; k < params.depth; k++) {
        let e = first + min(k, max(count, 1u) - 1u);
        let r = row_of(e);
        let here = min(r, params.part_rows - 1u);
        var share = 0.0;
        if holds() {
            share = product16(x, row16(here, span.first, span.end));
        } else {
            share = share_of(span, i, here);
        }
        let s = reduce_sum(lane, share);
        let miss = goal_of(e) - s;
        let term = weight_of(e) * miss * miss - params.unobserved * s * s;
        sum += select(0.0, term, k < count && r < params.part_rows);
    }
    let is_first = load_pieces(p, 2u) == 1u && ADD == 0u;
    var square = 0.0;
    for (var j = span.first; j < select(0u, span.end, is_first); j += step_size()) {
        let x = load_solved16(i, j, span.end, 0.0);
        square += product16(x, x);
    }
    square = reduce_sum(lane, square);
    if span.lead {
        let before = select(0.0, load_loss(span.i, 0u), ADD == 1u);
        store_loss(span.i, 0u, before + sum + select(0.0, load_ridge(load_pieces(p, 3u), 0u) * square, is_first));
    }
}
