// g' = g + weight_decay p;   v = momentum v + (1 - dampening) g' (v = g' at the first step);
// p = p - rate (nesterov ? g' + momentum v : v).
// Source: Sutskever, Martens, Dahl and Hinton, ICML 2013, in the form of torch.optim.SGD.
// Cost: reads 3MN, writes 2MN; without momentum reads 2MN, writes MN.

fn gradient4(g: vec4<f32>, p: vec4<f32>) -> vec4<f32> {
    if params.weight_decay == 0.0 {
        return g; // g + 0 p would be NaN where p is infinite
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
    for (var j = span.first; j < span.end; j += 4u * LANES) {
        let p = load_p4(span.i, j, span.end, 0.0);
        let g = gradient4(load_g4(span.i, j, span.end, 0.0), p);
        var v = g; // plain descent: the velocity is the gradient, momentum is 0
        if params.has_momentum == 1u {
            v = velocity4(load_v4(span.i, j, span.end, 0.0), g);
            store_v4(span.i, j, span.end, v);
        }
        store_p4(span.i, j, span.end, step4(p, g, v));
    }
}
