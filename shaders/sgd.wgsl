// g' = g + weight_decay p;   v = momentum v + (1 - dampening) g' (v = g' at the first step);
// p = p - rate (nesterov ? g' + momentum v : v).
// Source: Sutskever, Martens, Dahl and Hinton, ICML 2013, in the form of torch.optim.SGD.
// Cost: reads 3MN, writes 2MN; without momentum reads 2MN, writes MN.

fn gradient4(g: vec4<f32>, p: vec4<f32>) -> vec4<f32> {
    if params.weight_decay == 0.0 {
        return g; // not g + 0 p, which is NaN where p is infinite
    }
    return g + params.weight_decay * p;
}

fn velocity4(v: vec4<f32>, gradient: vec4<f32>) -> vec4<f32> {
    if params.first == 1u {
        return gradient;
    }
    return params.momentum * v + (1.0 - params.dampening) * gradient;
}

fn step4(p: vec4<f32>, gradient: vec4<f32>, velocity: vec4<f32>) -> vec4<f32> {
    if params.nesterov == 1u {
        return p - params.rate * (gradient + params.momentum * velocity);
    }
    return p - params.rate * velocity;
}

@compute @workgroup_size(WG)
fn step(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let span = span_of(group, groups, lane);
    for (var j = span.first; j < span.end; j += step_size()) {
        let p = load_p16(span.i, j, span.end, 0.0);
        let raw = load_g16(span.i, j, span.end, 0.0);
        let g = mat4x4(gradient4(raw[0], p[0]), gradient4(raw[1], p[1]), gradient4(raw[2], p[2]), gradient4(raw[3], p[3]));
        var v = g; // plain descent: the velocity is the gradient, momentum is 0
        if params.has_momentum == 1u {
            let old = load_v16(span.i, j, span.end, 0.0);
            v = mat4x4(velocity4(old[0], g[0]), velocity4(old[1], g[1]), velocity4(old[2], g[2]), velocity4(old[3], g[3]));
            store_v16(span.i, j, span.end, v);
        }
        let next = mat4x4(step4(p[0], g[0], v[0]), step4(p[1], g[1], v[1]), step4(p[2], g[2], v[2]), step4(p[3], g[3], v[3]));
        store_p16(span.i, j, span.end, next);
    }
}
