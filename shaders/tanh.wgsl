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
    for (var j = span.first; j < span.end; j += step_size()) {
        let x = load_x16(span.i, j, span.end, 0.0);
        let y = mat4x4(precise_tanh4(x[0]), precise_tanh4(x[1]), precise_tanh4(x[2]), precise_tanh4(x[3]));
        store_y16(span.i, j, span.end, y);
    }
}

fn gradient4(y: vec4<f32>, dy: vec4<f32>) -> vec4<f32> {
    return dy * ((1.0 - y) * (1.0 + y));
}

@compute @workgroup_size(WG)
fn backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let span = span_of(group, groups, lane);
    for (var j = span.first; j < span.end; j += step_size()) {
        let y = load_y_in16(span.i, j, span.end, 0.0);
        let dy = load_dy16(span.i, j, span.end, 0.0);
        let dx = mat4x4(gradient4(y[0], dy[0]), gradient4(y[1], dy[1]), gradient4(y[2], dy[2]), gradient4(y[3], dy[3]));
        store_dx16(span.i, j, span.end, dx);
    }
}
