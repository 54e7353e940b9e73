// y = tanh x;   dx = dy (1 - y^2), formed as dy (1 - y)(1 + y).
// Source: LeCun, Bottou, Orr and Mueller, Efficient BackProp (1998), section 4.4, doi:10.1007/3-540-49430-8_2.
// Cost: forward reads MN, writes MN; backward reads 2MN, writes MN.

@compute @workgroup_size(WG)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let span = span_of(group, groups, lane);
    for (var j = span.first; j < span.end; j += 4u * LANES) {
        store_y4(span.i, j, span.end, precise_tanh4(load_x4(span.i, j, span.end, 0.0)));
    }
}

@compute @workgroup_size(WG)
fn backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let span = span_of(group, groups, lane);
    for (var j = span.first; j < span.end; j += 4u * LANES) {
        let y = load_y_in4(span.i, j, span.end, 0.0);
        let dy = load_dy4(span.i, j, span.end, 0.0);
        store_dx4(span.i, j, span.end, dy * ((1.0 - y) * (1.0 + y)));
    }
}
