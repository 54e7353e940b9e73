// Queries with vectors of their own, `per` each: rows i * per to (i + 1) * per - 1 of `own` belong to row i of `q`.

fn product16(a: mat4x4<f32>, b: mat4x4<f32>) -> f32 {
    return sum16(mat4x4(a[0] * b[0], a[1] * b[1], a[2] * b[2], a[3] * b[3]));
}

// score[r] = <q_(r / per), own_r>
@compute @workgroup_size(WG)
fn dots(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let span = span_of(group, groups, lane);
    var sum = 0.0;
    for (var j = span.first; j < span.end; j += step_size()) {
        sum += product16(load_q16(span.i / params.per, j, span.end, 0.0), load_own16(span.i, j, span.end, 0.0));
    }
    sum = reduce_sum(lane, sum);
    if span.lead {
        store_score(span.i, 0u, sum);
    }
}

// gradient[r] += sum_t coef[r, t] own_(r / per * terms + t)
@compute @workgroup_size(WG)
fn weighted_sums(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let span = span_of(group, groups, lane);
    for (var j = span.first; j < span.end; j += step_size()) {
        var sum = mat4x4<f32>();
        if params.fresh == 0u {
            sum = load_gradient16(span.i, j, span.end, 0.0);
        }
        for (var t = 0u; t < params.terms; t++) {
            sum += load_coef_in(span.i, t) * load_own16(span.i / params.per * params.terms + t, j, span.end, 0.0);
        }
        store_gradient16(span.i, j, span.end, sum);
    }
}

fn each_cosines4(i: u32, t: u32) -> vec4<f32> {
    let products = load_score_in4(i, t, params.cols, 0.0);
    if NORMALIZE == 0u {
        return products;
    }
    return products * row_word(i, AT_INVERSE) * each_inverses4(i, t);
}

fn each_inverses4(i: u32, t: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(col_words4(i * params.cols, t, AT_INVERSE));
}

// A query's line begins with its own negatives.
@compute @workgroup_size(WG)
fn each_forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = item_of(group, groups, lane);
    if i >= params.rows {
        return;
    }
    let scale = score_scale();
    for (var part = 0u; part < parts(); part++) {
        var acc = select(LSE_EMPTY, vec2(0.0), is_sum(part));
        for (var t = 0u; t < params.cols; t += 4u) {
            let cols = col_tags(i * params.cols, t);
            let masked = masked4(i, t, part, scale, cols, Slopes(), each_cosines4(i, t));
            acc = joined(acc, pair_of4(masked.row, part), is_sum(part));
        }
        store_state(i, 2u * part, acc.x);
        store_state(i, 2u * part + 1u, acc.y);
    }
}

// g of a query's own negatives; what they add to dlog_scale and, NORMALIZE, to <q_i, dq_i> of q_i, and `along_of` of each of them.
@compute @workgroup_size(WG)
fn each_backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = item_of(group, groups, lane);
    if i >= params.rows {
        return;
    }
    let scale = score_scale();
    var sums = vec2(0.0);
    for (var t = 0u; t < params.cols; t += 4u) {
        let c = each_cosines4(i, t);
        let four = four_of(i, t, scale, row_tag(i), col_tags(i * params.cols, t), c);
        let slope = slope4(row_slopes(i), four, four.negative);
        sums.x += sum4(products4(slope, four.scaled));
        if NORMALIZE == 0u {
            store_g4(i, t, params.cols, scale * slope);
            continue;
        }
        let inverses = each_inverses4(i, t);
        let along = products4(scale * slope, c);
        store_g4(i, t, params.cols, products4(scale * slope, row_word(i, AT_INVERSE) * inverses));
        store_coef4(i, t, params.cols, select(-along * inverses * inverses, vec4(0.0), inverses > vec4(0.999e12)));
        sums.y += sum4(along);
    }
    store_row_part(i, 0u, select(sums.x, 0.0, clamped()));
    store_row_part(i, 1u, sums.y);
}
