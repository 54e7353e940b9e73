// Sums of the values that a loss left: `total`, of all rows and columns of `value`, times `factor`, added to what `loss` holds unless
// `fresh`, by one workgroup; `row_totals`, of the columns of each row. In a fixed order.

@compute @workgroup_size(WG)
fn total(@builtin(local_invocation_index) lane: u32) {
    var sum = 0.0;
    let count = params.rows * params.cols;
    // Sums of sums: rounding errors of a long sum grow with its length.
    for (var first = lane; first < count; first += 64u * WG) {
        var part = 0.0;
        for (var at = first; at < min(count, first + 64u * WG); at += WG) {
            part += load_value(at / params.cols, at % params.cols);
        }
        sum += part;
    }
    sum = params.factor * reduce_sum(lane, sum);
    if lane == 0u {
        if params.fresh == 0u {
            sum += load_loss(0u, 0u);
        }
        store_loss(0u, 0u, sum);
    }
}

@compute @workgroup_size(WG)
fn row_totals(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = item_of(group, groups, lane);
    if i >= params.rows {
        return;
    }
    var sum = 0.0;
    for (var j = 0u; j < params.cols; j++) {
        sum += load_value(i, j);
    }
    store_loss(i, 0u, params.factor * sum);
}
