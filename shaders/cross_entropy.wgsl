// x' = cap tanh(x/cap), or x;   p = softmax of the rows of x';   q = (1 - smoothing) target + smoothing/classes;
// loss_i = a_i sum_c w_c q[i, c] (-ln p[i, c]) + z_i lse_i^2;
// dx[i, j] = (a_i (p[i, j] sum_c w_c q[i, c] - w_j q[i, j]) + 2 z_i lse_i p[i, j]) (1 - (x'/cap)^2).
// The target is a class id or a row of `soft`. a_i and z_i contain the row's weight, the divisor of the mean and the
// gradient of the loss. Where both are 0, as in ignored rows, loss and gradient are 0 whatever the row holds.
// Source: Bridle 1990, doi:10.1007/978-3-642-76153-9_28; smoothing: Szegedy et al. 2016, arXiv:1512.00567, section 7;
// lse^2 ("z-loss"): Chowdhery et al. 2022, arXiv:2204.02311, section 5; cap: Gemma Team 2024, arXiv:2408.00118, section
// 2.
// Cost per element: reads x once where a row fits the lanes that process it, else twice; writes dx once, if asked for
// (it may replace x). With dx in f32: 8 bytes, or 12 where x is read twice. Soft targets add as many reads of `soft`. `backward` reads x once
// and writes dx.

// The kind of target, and which options apply.
override SOFT_TARGET: u32 = 0u;
override SMOOTHS: u32 = 0u;
override CAPS: u32 = 0u;
override HAS_CLASS_WEIGHT: u32 = 0u;
override HAS_DX: u32 = 0u;
override ADD: u32 = 0u;

fn capped4(x: vec4<f32>) -> vec4<f32> {
    if CAPS == 0u {
        return x;
    }
    // A mask (-inf) stays a mask.
    return select(params.softcap * precise_tanh4(x / params.softcap), x, bitcast<vec4<u32>>(x) == vec4(0xff800000u));
}

fn capped16(x: mat4x4<f32>) -> mat4x4<f32> {
    return mat4x4(capped4(x[0]), capped4(x[1]), capped4(x[2]), capped4(x[3]));
}

// The words of a row that `weigh` writes.
struct Row {
    a: f32,
    z: f32,
    id: u32,
    wanted: f32, // sum_c w_c q[i, c] for class ids, the smoothing term of it for soft targets
}

fn counts_nothing(row: Row) -> bool {
    return row.a == 0.0 && row.z == 0.0;
}

fn row_at(i: u32) -> Row {
    let at = min(i, params.rows - 1u);
    return Row(
        bitcast<f32>(load_row(at, 0u)), bitcast<f32>(load_row(at, 1u)), load_row(at, 2u), bitcast<f32>(load_row(at, 3u)),
    );
}

// w_c q_c of four classes; 0 past the last class.
fn wanted4(row: Row, j: u32, end: u32, soft: vec4<f32>, weight: vec4<f32>) -> vec4<f32> {
    let column = vec4(j) + vec4(0u, 1u, 2u, 3u);
    var q = soft;
    if SOFT_TARGET == 0u {
        q = select(vec4(0.0), vec4(1.0), column == vec4(row.id));
    }
    q = (1.0 - params.smoothing) * q + params.smoothing / f32(params.cols);
    return select(vec4(0.0), weight * q, column < vec4(end));
}

// Sixteen soft targets of a row; 0 for class ids.
fn soft16(i: u32, j: u32, end: u32) -> mat4x4<f32> {
    if SOFT_TARGET == 0u {
        return mat4x4<f32>();
    }
    return load_soft16(i, j, end, 0.0);
}

fn wanted16(row: Row, j: u32, end: u32, soft: mat4x4<f32>) -> mat4x4<f32> {
    var weight = mat4x4(vec4(1.0), vec4(1.0), vec4(1.0), vec4(1.0));
    if HAS_CLASS_WEIGHT == 1u {
        weight = load_class_weight16(0u, j, end, 0.0);
    }
    let hop = 4u * LANES;
    return mat4x4(
        wanted4(row, j, end, soft[0], weight[0]),
        wanted4(row, j + hop, end, soft[1], weight[1]),
        wanted4(row, j + 2u * hop, end, soft[2], weight[2]),
        wanted4(row, j + 3u * hop, end, soft[3], weight[3]),
    );
}

// sum_c w_c q_c over a lane's columns of a row of soft targets, without the smoothing term.
fn soft_sum(j: u32, end: u32, soft: mat4x4<f32>) -> f32 {
    if HAS_CLASS_WEIGHT == 0u {
        return (1.0 - params.smoothing) * sum16(soft);
    }
    let weight = load_class_weight16(0u, j, end, 0.0);
    let product = mat4x4(soft[0] * weight[0], soft[1] * weight[1], soft[2] * weight[2], soft[3] * weight[3]);
    return (1.0 - params.smoothing) * sum16(product);
}

// The sum of w_c q_c (-ln p_c) over four classes. A term is 0 where w_c q_c is 0, even for a masked class.
fn loss4(acc: vec2<f32>, rest: f32, x: vec4<f32>, wanted: vec4<f32>) -> f32 {
    let terms = select(wanted * (lse_gap4(acc, x, UNIT) + rest), vec4(0.0), wanted == vec4(0.0));
    return (terms.x + terms.y) + (terms.z + terms.w);
}

// What the gradients of a row's elements have in common.
struct Slope {
    acc: vec2<f32>,
    a: f32,
    total: f32,  // sum_c w_c q_c
    z: f32,      // 2 z lse
    none: bool,  // a = z = 0: the row's gradient is 0
}

fn slope_of(row: Row, acc: vec2<f32>, total: f32, lse: f32) -> Slope {
    return Slope(acc, row.a, row.wanted + total, bounded(2.0 * row.z * lse), counts_nothing(row));
}

// Clamps an overflow to a finite number, so that its product with a p of 0 is 0.
fn bounded(factor: f32) -> f32 {
    return select(clamp(factor, LOWEST, -LOWEST), factor, is_nan(factor));
}

// dx of four elements, from their p. For the maximum of the row with more than half of the target's weight, p - 1 =
// -rest/(1 + rest) avoids cancellation.
fn gradient4(slope: Slope, x: vec4<f32>, p: vec4<f32>, wanted: vec4<f32>) -> vec4<f32> {
    let inverse = lse_inverse(slope.acc);
    let below = slope.total * p - wanted;
    let top = slope.total * (-slope.acc.y * inverse) + (slope.total - wanted);
    let masks = bitcast<vec4<u32>>(x) == vec4(0xff800000u);
    let poisoned = is_nan(slope.acc.y) || is_nan(slope.a);
    let near = (x == vec4(slope.acc.x)) & (2.0 * wanted > vec4(slope.total));
    var g = slope.a * select(below, top, near) + slope.z * p;
    // The gradient of a mask is 0.
    g = select(g, vec4(select(0.0, not_a_number(), poisoned)), masks);
    if CAPS == 1u {
        let share = x / params.softcap;
        g = select(g * ((1.0 - share) * (1.0 + share)), g, masks);
    }
    return g;
}

// Whether the target is a class id without smoothing or softcap. The gradient of every other class is then p times one
// common factor.
fn has_one_class() -> bool {
    return SOFT_TARGET == 0u && SMOOTHS == 0u && CAPS == 0u;
}

// Where the row's class lies among the sixteen columns of a lane. `four`: which group of four, 4 or more for none;
// `at`: the position within the group. `logit`: the logit of the class, if `known`; a row that its lanes hold then
// needs x no more.
struct Own {
    four: u32,
    at: u32,
    logit: f32,
    known: bool,
}

fn own_of(row: Row, j: u32) -> Own {
    let hop = 4u * LANES;
    let ahead = row.id - j; // wraps around, to 2^31 or more, where the id lies before j
    return Own(select(4u, ahead / hop, ahead % hop < 4u), ahead % hop, 0.0, false);
}

fn logit_of(own: Own, x: mat4x4<f32>) -> f32 {
    let four = quad_of(x, own.four);
    return select(select(four.x, four.y, own.at == 1u), select(four.z, four.w, own.at == 3u), own.at > 1u);
}

fn is_own4(own: Own) -> vec4<bool> {
    return vec4(own.at) == vec4(0u, 1u, 2u, 3u);
}

// dx of sixteen elements from their e = e^(x - max), where `has_one_class`. e is 1 for the largest logit. It may round
// to 1 for logits next to it too, but then rest is at least 1. So p - 1 = -rest/(1 + rest) holds wherever e is 1.
fn gradient16(slope: Slope, own: Own, x: mat4x4<f32>, e: mat4x4<f32>) -> mat4x4<f32> {
    let inverse = lse_inverse(slope.acc);
    var dx = e * bounded((slope.a * slope.total + slope.z) * inverse);
    if own.four < 4u {
        let share = dot(select(vec4(0.0), quad_of(e, own.four), is_own4(own)), vec4(1.0));
        let below = slope.total * (share * inverse) - slope.total;
        let top = slope.total * (-slope.acc.y * inverse);
        let g = slope.a * select(below, top, share == 1.0) + slope.z * (share * inverse);
        // The gradient of a mask is 0.
        let still = is_masked(select(logit_of(own, x), own.logit, own.known)) && !is_nan(slope.acc.y) && !is_nan(slope.a);
        let four = select(quad_of(dx, own.four), vec4(select(g, 0.0, still)), is_own4(own));
        dx = with_quad(dx, own.four, four);
    }
    return dx;
}

fn put_gradient(slope: Slope, own: Own, i: u32, j: u32, end: u32, x: mat4x4<f32>, e: mat4x4<f32>, wanted: mat4x4<f32>) {
    if has_one_class() {
        put(slope, i, j, end, gradient16(slope, own, x, e));
        return;
    }
    let p = e * lse_inverse(slope.acc);
    let dx = mat4x4(
        gradient4(slope, x[0], p[0], wanted[0]),
        gradient4(slope, x[1], p[1], wanted[1]),
        gradient4(slope, x[2], p[2], wanted[2]),
        gradient4(slope, x[3], p[3], wanted[3]),
    );
    put(slope, i, j, end, dx);
}

fn put(slope: Slope, i: u32, j: u32, end: u32, gradient: mat4x4<f32>) {
    var dx = gradient;
    if slope.none {
        dx = mat4x4<f32>();
    }
    if ADD == 1u {
        dx += load_dx16(i, j, end, 0.0);
    }
    store_dx16(i, j, end, dx);
}

fn in_segment(span: Span, row: Row) -> bool {
    return row.id >= span.segment * params.per_segment && row.id < span.end;
}

fn own_logit(span: Span, row: Row) -> f32 {
    if !span.lead || !in_segment(span, row) {
        return 0.0;
    }
    return capped4(vec4(load_x(span.i, row.id))).x;
}

// Whether more than one class contributes to the loss.
fn is_elementwise() -> bool {
    return SOFT_TARGET == 1u || SMOOTHS == 1u;
}

// Writes the gradients of a lane's columns, if asked for. Returns their terms of the loss. `rest` is ln(1 + rest) of
// the row.
fn visit(slope: Slope, row: Row, own: Own, i: u32, j: u32, end: u32, rest: f32, x: mat4x4<f32>, e: mat4x4<f32>, soft: mat4x4<f32>) -> f32 {
    let wanted = wanted16(row, j, end, soft);
    if HAS_DX == 1u {
        put_gradient(slope, own, i, j, end, x, e, wanted);
    }
    if !is_elementwise() {
        return 0.0;
    }
    return (loss4(slope.acc, rest, x[0], wanted[0]) + loss4(slope.acc, rest, x[1], wanted[1]))
        + (loss4(slope.acc, rest, x[2], wanted[2]) + loss4(slope.acc, rest, x[3], wanted[3]));
}

@compute @workgroup_size(WG)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let span = span_of(group, groups, lane);
    var acc = LSE_EMPTY;
    var total = 0.0;
    var x = mat4x4<f32>();
    var e = mat4x4<f32>();
    var soft = mat4x4<f32>();
    if holds() {
        x = capped16(load_x16(span.i, span.first, span.end, masked()));
        if SOFT_TARGET == 1u {
            soft = soft16(span.i, span.first, span.end);
            total = soft_sum(span.first, span.end, soft);
        }
    } else if STAGE == FROM_PARTS {
        for (var s = lane % LANES; s < params.segments; s += LANES) {
            acc = lse_merge(acc, vec2(load_part(span.i, 3u * s), load_part(span.i, 3u * s + 1u)), UNIT);
            total += load_part(span.i, 3u * s + 2u);
        }
    } else {
        for (var j = span.first; j < span.end; j += step_size()) {
            acc = lse_merge(acc, lse_of16(capped16(load_x16(span.i, j, span.end, masked())), UNIT), UNIT);
            if SOFT_TARGET == 1u {
                total += soft_sum(j, span.end, soft16(span.i, j, span.end));
            }
        }
    }
    let row = row_at(span.i);
    var own = Own();
    var speaks = span.lead; // whether this lane stores the row's loss
    if holds() {
        own = own_of(row, span.first);
        own.known = true;
        if own.four < 4u {
            own.logit = logit_of(own, x);
        }
        speaks = select(span.lead, own.four < 4u, !is_elementwise() && in_segment(span, row));
        let held = reduce_held(lane, x, UNIT);
        acc = held.acc;
        e = held.e;
    } else {
        own.logit = own_logit(span, row); // before the reduction's barriers, as `dx` may overwrite `x`
        acc = reduce_lse(lane, acc, UNIT);
    }
    if SOFT_TARGET == 1u {
        total = reduce_sum(lane, total);
    }
    if STAGE == ONLY_PART {
        if span.lead {
            store_part(span.i, 3u * span.segment, acc.x);
            store_part(span.i, 3u * span.segment + 1u, acc.y);
            store_part(span.i, 3u * span.segment + 2u, total);
        }
        return;
    }
    let rest = precise_log1p(select(acc.y, 0.0, acc.y < 0.0));
    let lse = acc.x + rest;
    let slope = slope_of(row, acc, total, lse);
    let elementwise = is_elementwise();
    var loss = 0.0;
    if elementwise || HAS_DX == 1u {
        if holds() {
            loss = visit(slope, row, own, span.i, span.first, span.end, rest, x, e, soft);
        } else {
            for (var j = span.first; j < span.end; j += step_size()) {
                x = capped16(load_x16(span.i, j, span.end, masked()));
                if SOFT_TARGET == 1u {
                    soft = soft16(span.i, j, span.end);
                }
                loss += visit(slope, row, own_of(row, j), span.i, j, span.end, rest, x, exp_gap16(x, acc.x, UNIT), soft);
            }
        }
    }
    if elementwise {
        loss = reduce_sum(lane, loss);
    }
    if !speaks {
        return;
    }
    if !elementwise && in_segment(span, row) {
        loss = select(row.wanted * lse_minus_log_p(acc, own.logit, UNIT), 0.0, row.wanted == 0.0);
    }
    loss = select(loss * row.a, 0.0, row.a == 0.0); // 0 where nothing is averaged, even if the sum is infinite
    if is_nan(acc.y) || is_nan(row.a) {
        loss = not_a_number();
    }
    if span.segment == 0u {
        if row.z != 0.0 {
            loss += row.z * lse * lse; // skipped for z = 0: 0 times an overflow is NaN
        }
        store_lse(span.i, 0u, acc.x);
        store_lse(span.i, 1u, acc.y);
    }
    if counts_nothing(row) {
        loss = 0.0;
    }
    store_loss(span.i, span.segment, loss);
}

@compute @workgroup_size(WG)
fn backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let span = span_of(group, groups, lane);
    var total = 0.0;
    if SOFT_TARGET == 1u {
        if STAGE == FROM_PARTS {
            for (var s = lane % LANES; s < params.segments; s += LANES) {
                total += load_part(span.i, 3u * s);
            }
        } else {
            for (var j = span.first; j < span.end; j += step_size()) {
                total += soft_sum(j, span.end, soft16(span.i, j, span.end));
            }
        }
        total = reduce_sum(lane, total);
    }
    if STAGE == ONLY_PART {
        if span.lead {
            store_part(span.i, 3u * span.segment, total);
        }
        return;
    }
    let row = row_at(span.i);
    let at = min(span.i, params.rows - 1u);
    let acc = vec2(load_lse_in(at, 0u), load_lse_in(at, 1u));
    let slope = slope_of(row, acc, total, acc.x + precise_log1p(select(acc.y, 0.0, acc.y < 0.0)));
    for (var j = span.first; j < span.end; j += step_size()) {
        let x = capped16(load_x16(span.i, j, span.end, masked()));
        let wanted = wanted16(row, j, span.end, soft16(span.i, j, span.end));
        put_gradient(slope, own_of(row, j), span.i, j, span.end, x, exp_gap16(x, acc.x, UNIT), wanted);
    }
}

override WEIGHS: u32 = 0u; // `divisors` has all rows and also does the work of `weigh`
override HAS_SUMS: u32 = 1u; // if 0, nothing is divided by the sums

// sums = (sum_i r_i w[t_i], sum_i r_i, sum_c w_c), i over the rows that are not ignored. One workgroup. With soft
// targets w[t_i] = 1.
@compute @workgroup_size(WG)
fn divisors(@builtin(local_invocation_index) lane: u32) {
    var sum = vec2(0.0);
    for (var first = lane; first < params.rows; first += 64u * WG) {
        var part = vec2(0.0);
        for (var i = first; i < min(params.rows, first + 64u * WG); i += 8u * WG) {
            part += ((counted(i) + counted(i + WG)) + (counted(i + 2u * WG) + counted(i + 3u * WG)))
                + ((counted(i + 4u * WG) + counted(i + 5u * WG)) + (counted(i + 6u * WG) + counted(i + 7u * WG)));
        }
        sum += part;
    }
    sum = reduce_sum2(lane, sum);
    var classes = 0.0;
    if HAS_CLASS_WEIGHT == 1u {
        for (var c = lane; c < params.cols; c += WG) {
            classes += load_class_weight(0u, c);
        }
    }
    classes = select(f32(params.cols), reduce_sum(lane, classes), HAS_CLASS_WEIGHT == 1u);
    if WEIGHS == 1u {
        for (var i = lane; i < params.rows; i += WG) {
            weigh_row(i, vec3(sum, classes));
        }
        return;
    }
    if lane == 0u {
        var total = vec3(sum, classes);
        if params.fresh == 0u {
            total += vec3(load_sums(0u, 0u), load_sums(1u, 0u), 0.0);
        }
        store_sums(0u, 0u, total.x);
        store_sums(1u, 0u, total.y);
        store_sums(2u, 0u, total.z);
    }
}

// (r_i w[t_i], r_i), 0 past the last row. No branch, so that several loads are in flight at once.
fn counted(i: u32) -> vec2<f32> {
    let inside = i < params.rows;
    let at = select(0u, i, inside);
    let r = row_weight_of(at);
    if SOFT_TARGET == 1u {
        return select(vec2(0.0), vec2(r), inside);
    }
    let id = load_id(at, 0u);
    return select(vec2(0.0), vec2(r * class_weight_of(id), r), inside && id != params.ignore);
}

fn row_weight_of(i: u32) -> f32 {
    if params.has_row_weight == 0u {
        return 1.0;
    }
    return load_row_weight(i, 0u);
}

fn class_weight_of(id: u32) -> f32 {
    if HAS_CLASS_WEIGHT == 0u || id >= params.cols {
        return 1.0;
    }
    return load_class_weight(0u, id);
}

// row = (a, z, id, wanted) of each row, see `Row`.
@compute @workgroup_size(WG)
fn weigh(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = item_of(group, groups, lane);
    if i >= params.rows {
        return;
    }
    var sums = vec3(1.0, 1.0, f32(params.cols));
    if HAS_SUMS == 1u {
        sums = vec3(load_sums_in(0u, 0u), load_sums_in(1u, 0u), load_sums_in(2u, 0u));
    }
    weigh_row(i, sums);
}

fn weigh_row(i: u32, sums: vec3<f32>) {
    var factor = row_weight_of(i);
    factor *= load_dy(select(0u, i, params.dy_by_row == 1u), 0u);
    var a = params.factor * factor;
    var z = params.z_loss * params.factor * factor;
    if params.mean == 1u {
        a = over(a, sums.x);
        z = over(z, sums.y);
    }
    var wanted = params.smoothing / f32(params.cols) * sums.z;
    var id = 0xffffffffu;
    if SOFT_TARGET == 0u {
        id = load_id(i, 0u);
        wanted += (1.0 - params.smoothing) * class_weight_of(id);
        if id == params.ignore {
            a = 0.0;
            z = 0.0;
        } else if id >= params.cols {
            a = not_a_number();
        }
    }
    store_row_out(i, 0u, bitcast<u32>(a));
    store_row_out(i, 1u, bitcast<u32>(z));
    store_row_out(i, 2u, id);
    store_row_out(i, 3u, bitcast<u32>(wanted));
}

// a / divisor; 0 where the divisor is 0, as nothing is averaged.
fn over(a: f32, divisor: f32) -> f32 {
    return select(a / divisor, 0.0, divisor == 0.0);
}

// z_i lse_i^2 of each row.
@compute @workgroup_size(WG)
fn z_part(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = item_of(group, groups, lane);
    if i >= params.rows {
        return;
    }
    let row = row_at(i);
    let lse = load_lse_in(i, 0u) + precise_log1p(load_lse_in(i, 1u));
    store_loss(i, 0u, select(row.z * lse * lse, 0.0, row.z == 0.0));
}

// The first class with the largest logit; 2^32 - 1 in a row that holds NaN or only masks. A segment of a row leaves the
// logit, NaN if poisoned, and the complement of the class as `halves_of`, which f32 holds exactly. The first class has
// the largest complement.
@compute @workgroup_size(WG)
fn predict(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let span = span_of(group, groups, lane);
    var best = masked();
    var at = 0xffffffffu;
    var poisoned = 0.0;
    if STAGE == FROM_PARTS {
        for (var s = lane % LANES; s < params.segments; s += LANES) {
            let value = load_part(span.i, 3u * s);
            if value > best || at == 0xffffffffu {
                best = value;
                at = ~whole_of(vec2(load_part(span.i, 3u * s + 1u), load_part(span.i, 3u * s + 2u)));
            }
            poisoned = max(poisoned, f32(is_nan(value)));
        }
    }
    let first = select(span.first, span.end, STAGE == FROM_PARTS);
    for (var j = first; j < span.end; j += step_size()) {
        var x = load_x16(span.i, j, span.end, masked());
        for (var quad = 0u; quad < 4u; quad++) {
            for (var k = 0u; k < 4u; k++) {
                let col = j + quad * 4u * LANES + k;
                let value = x[quad][k];
                if col < span.end && (value > best || at == 0xffffffffu) {
                    best = value;
                    at = col;
                }
                poisoned = max(poisoned, f32(is_nan(value)));
            }
        }
    }
    let most = reduce_max(lane, best);
    let own = halves_of(select(0u, ~at, best == most));
    let high = reduce_max(lane, own.x);
    let found = vec2(high, reduce_max(lane, select(-1.0, own.y, own.x == high)));
    let is_poisoned = reduce_max(lane, poisoned) > 0.0;
    if !span.lead {
        return;
    }
    if STAGE == ONLY_PART {
        store_part(span.i, 3u * span.segment, select(most, not_a_number(), is_poisoned));
        store_part(span.i, 3u * span.segment + 1u, found.x);
        store_part(span.i, 3u * span.segment + 2u, found.y);
    } else if span.segment == 0u {
        store_predicted(span.i, 0u, select(~whole_of(found), 0xffffffffu, is_poisoned || is_masked(most)));
    }
}

fn halves_of(number: u32) -> vec2<f32> {
    return vec2(f32(number >> 16u), f32(number & 0xffffu));
}

fn whole_of(halves: vec2<f32>) -> u32 {
    return (u32(halves.x) << 16u) | u32(halves.y);
}
