// Sums of the numbers that a loss left in `value`, times `factor`, in a fixed order. `total`: over all rows and
// columns, by one workgroup, added to `loss` unless `fresh`. `row_totals`: over the columns of each row.

// Number `at` of `value`, 0 from number `count` on. No branch, so that several loads are in flight at once.
fn value_at(at: u32, count: u32) -> f32 {
    let inside = at < count;
    let place = select(0u, at, inside);
    return select(0.0, load_value(place / params.cols, place % params.cols), inside);
}

@compute @workgroup_size(WG)
fn total(@builtin(local_invocation_index) lane: u32) {
    var sum = 0.0;
    let count = params.rows * params.cols;
    // Sums of sums: the rounding error of a long sum grows with its length.
    for (var first = lane; first < count; first += 64u * WG) {
        var part = vec4(0.0);
        for (var at = first; at < min(count, first + 64u * WG); at += 8u * WG) {
            part += vec4(value_at(at, count), value_at(at + WG, count), value_at(at + 2u * WG, count), value_at(at + 3u * WG, count))
                + vec4(value_at(at + 4u * WG, count), value_at(at + 5u * WG, count), value_at(at + 6u * WG, count), value_at(at + 7u * WG, count));
        }
        sum += (part.x + part.y) + (part.z + part.w);
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
