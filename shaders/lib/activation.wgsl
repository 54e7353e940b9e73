// Kernels of elementwise functions. The op's file has `output4` (y from x) and `gradient4` (dx from the forward's y and
// dy).

@compute @workgroup_size(WG)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let span = span_of(group, groups, lane);
    for (var j = span.first; j < span.end; j += 4u * LANES) {
        store_y4(span.i, j, span.end, output4(load_x4(span.i, j, span.end, 0.0)));
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
        store_dx4(span.i, j, span.end, gradient4(y, dy));
    }
}
