// Queries with negatives of their own, `cols` per query. dot.wgsl makes their products.

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

// The state of a query's line (row of scores) begins with its own negatives.
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
            acc = joined(acc, poisoned4(pair_of4(masked.row, part), masked.row, part), is_sum(part));
        }
        store_state(i, 2u * part, acc.x);
        store_state(i, 2u * part + 1u, acc.y);
    }
}

// g of a query's own negatives; their terms of dlog_scale and, NORMALIZE, of <q_i, dq_i> of q_i, and the coefficient of
// each negative, as `along_of`.
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
