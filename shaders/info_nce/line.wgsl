// Kernels in which each lane processes one line: a row or a column of the scores.

fn part_or_nothing(i: u32, p: u32, part: u32) -> vec2<f32> {
    if p >= params.parts {
        return nothing(is_sum(part));
    }
    return vec2(load_part(p * params.rows + i, 2u * part), load_part(p * params.rows + i, 2u * part + 1u));
}

fn four_parts(i: u32, p: u32, part: u32) -> mat4x2<f32> {
    return mat4x2(
        part_or_nothing(i, p, part), part_or_nothing(i, p + 1u, part), part_or_nothing(i, p + 2u, part), part_or_nothing(i, p + 3u, part),
    );
}

// state[i] = the parts of a line, merged over the tiles in order. Unless `fresh`, the merge starts from the old state.
@compute @workgroup_size(WG)
fn merge(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = item_of(group, groups, lane);
    if i >= params.rows {
        return;
    }
    for (var part = 0u; part < parts(); part++) {
        var acc = select(LSE_EMPTY, vec2(0.0), is_sum(part));
        if params.fresh == 0u {
            acc = vec2(load_state(i, 2u * part), load_state(i, 2u * part + 1u));
        }
        for (var p = 0u; p < params.parts; p += 8u) {
            acc = joined(acc, joined8(four_parts(i, p, part), four_parts(i, p + 4u, part), is_sum(part)), is_sum(part));
        }
        store_state(i, 2u * part, acc.x);
        store_state(i, 2u * part + 1u, acc.y);
    }
}

// Stores the words that identify the lines of a part of the batch (AT_OWN to AT_NEAREST), and the inverse of their
// length.
@compute @workgroup_size(WG)
fn tag(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = item_of(group, groups, lane);
    if i >= params.rows {
        return;
    }
    if POSITIVE == INDEX {
        store_line(i, AT_OWN, load_index(i, 0u));
    }
    if HAS_GROUP == 1u {
        store_line(i, AT_GROUP, load_group(i, 0u));
    }
    if HAS_ID == 1u {
        store_line(i, AT_ID, load_id(i, 0u));
    }
    if HAS_LOG_Q == 1u {
        store_line(i, AT_LOG_Q, bitcast<u32>(load_log_q(i, 0u)));
    }
    if NEAR == 1u {
        store_line(i, AT_NEAREST, bitcast<u32>(load_positive_in(i, 0u) + params.near_margin));
    }
    if NORMALIZE == 1u {
        store_line(i, AT_INVERSE, bitcast<u32>(inverse_of(load_squares(i, 0u))));
    }
}

// s of the row's own pair.
fn own_score(i: u32, c: f32) -> f32 {
    var s = score_scale() * (c - params.margin);
    if HAS_LOG_Q == 1u {
        s -= load_log_q(i, 0u);
    }
    return s;
}

// The log-sum-exps of a line's negatives and positives, and the sums: sum_P s, |P|, sum_N s, |N|.
struct Line {
    n: vec2<f32>,
    p: vec2<f32>,
    sums: vec4<f32>,
}

fn line_at(i: u32) -> Line {
    let n = vec2(load_state_in(i, 0u), load_state_in(i, 1u));
    let third = load_state_in(i, 2u);
    if FULL == 0u {
        let s = own_score(i, third);
        return Line(n, vec2(s, 0.0), vec4(s, 1.0, 0.0, 0.0));
    }
    let sums = vec4(load_state_in(i, 4u), load_state_in(i, 5u), load_state_in(i, 6u), load_state_in(i, 7u));
    var p = vec2(third, load_state_in(i, 3u));
    if sums.y > 0.0 && p.y < 0.0 { // all positives have s = -inf
        p = vec2(masked(), 0.0);
    }
    return Line(n, p, sums);
}

fn head_at(i: u32) -> Head {
    let line = line_at(i);
    return head_of(line.n, line.p, line.sums);
}

// The log-sum-exp of everything that a line is compared with; NaN if an element poisons it.
fn all_of(line: Line) -> vec2<f32> {
    let all = lse_merge(line.n, line.p, UNIT);
    let poisoned = is_nan(line.n.y) || (not_finite(vec4(line.p, line.p)).x && !is_masked(line.p.x));
    return select(select(all, line.n, is_masked(line.p.x)), vec2(not_a_number()), poisoned);
}

fn weight_of(i: u32) -> f32 {
    if params.has_weight == 0u {
        return 1.0;
    }
    return load_weight(i, 0u);
}

// The terms of each line in the loss: its loss or, if SYMMETRIC, half of the loss as a row and then, added to it, half
// of the loss as a column. If `counts`, also the line's weight; the mean divides by the sum of these.
@compute @workgroup_size(WG)
fn line_loss(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = item_of(group, groups, lane);
    if i >= params.rows {
        return;
    }
    let w = weight_of(i);
    var loss = select(w * head_at(i).loss, 0.0, w == 0.0);
    if SYMMETRIC == 1u {
        loss *= 0.5;
    }
    if params.fresh == 0u {
        loss += load_loss(i, 0u);
    }
    store_loss(i, 0u, loss);
    if params.counts == 1u && params.fresh == 1u {
        let has = FULL == 0u || load_state_in(i, 5u) != 0.0;
        store_loss(i, 1u, select(0.0, w, has));
    }
}

// loss = sums[0]/sums[1], the mean over the lines that count; state = 1/sums[1]. Both are 0 if no line counts.
@compute @workgroup_size(WG)
fn finish(@builtin(local_invocation_index) lane: u32) {
    if lane != 0u {
        return;
    }
    let sum = load_sums(0u, 0u);
    let count = load_sums(1u, 0u);
    store_loss(0u, 0u, select(sum / count, 0.0, count == 0.0));
    store_state(0u, 0u, select(1.0 / count, 0.0, count == 0.0));
}

// Stores the words that the gradients of each line need (AT_TOP to AT_OF_ALL).
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
    let head = head_at(i);
    let mean = select(params.factor, load_inverse(0u, 0u), params.counts == 1u);
    var w = mean * load_dy(select(0u, i, params.dy_by_row == 1u), 0u) * weight_of(i);
    if SYMMETRIC == 1u {
        w *= 0.5;
    }
    store_line(i, AT_TOP, bitcast<u32>(head.top));
    store_line(i, AT_FACTOR, bitcast<u32>(times(w, head.factor)));
    store_line(i, AT_OF_POSITIVES, bitcast<u32>(times(w, head.of_positives)));
    if FULL == 1u {
        store_line(i, AT_POSITIVE_TOP, bitcast<u32>(head.positive_top));
        store_line(i, AT_POSITIVE_FACTOR, bitcast<u32>(times(w, head.positive_factor)));
        store_line(i, AT_OF_ALL, bitcast<u32>(times(w, head.of_all)));
    }
}

// w x, but 0 for w = 0, even if x is NaN.
fn times(w: f32, x: f32) -> f32 {
    return select(w * x, 0.0, w == 0.0);
}


// 1/max(length, 1e-12), from the square of the length; NaN where the square is not finite.
fn inverse_of(squares: f32) -> f32 {
    if is_nan(squares) || is_infinite(squares) {
        return not_a_number();
    }
    return 1.0 / max(sqrt(squares), 1e-12);
}

// The factor of the line itself in its gradient, which removes the component along the line. 0 where the length is
// replaced by its lower bound.
fn along_of(along: f32, squares: f32) -> f32 {
    let inverse = inverse_of(squares);
    return select(-along * inverse * inverse, 0.0, inverse > 0.999e12);
}

// coef[i] = `along_of` of <u_i, gradient of u_i>, where u_i is line i scaled to unit length.
@compute @workgroup_size(WG)
fn project(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = item_of(group, groups, lane);
    if i < params.rows {
        store_coef(i, 0u, along_of(load_sums(i, 0u), load_squares(i, 0u)));
    }
}

// Stores the log-sum-exp that the entropy of a line needs.
@compute @workgroup_size(WG)
fn level(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = item_of(group, groups, lane);
    if i < params.rows {
        let all = all_of(line_at(i));
        store_line(i, AT_TOP, bitcast<u32>(all.x));
        store_line(i, AT_FACTOR, bitcast<u32>(ln_rest(all)));
    }
}

// row_part[i] = a line's loss; its log-sum-exp; 1 if no negative scores above the positive, else 0.
@compute @workgroup_size(WG)
fn line_values(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = item_of(group, groups, lane);
    if i < params.rows {
        let line = line_at(i);
        let all = all_of(line);
        store_row_part(i, 0u, head_at(i).loss);
        store_row_part(i, 1u, select(all.x + ln_rest(all), masked(), all.y < 0.0));
        store_row_part(i, 2u, select(0.0, 1.0, line.sums.y > 0.0 && !is_nan(all.y) && line.p.x >= line.n.x));
    }
}
