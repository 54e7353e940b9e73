// g' = g + weight_decay p;   v = momentum v + (1 - dampening) g' (v = g' at the first step);
// p = p - rate (nesterov ? g' + momentum v : v).
// Source: Sutskever, Martens, Dahl and Hinton, ICML 2013, in the form of torch.optim.SGD.
// Cost: reads 3MN, writes 2MN; without momentum reads 2MN, writes MN.

struct Params {
    g_offset: u32, g_stride: u32,
    p_offset: u32, p_stride: u32,
    v_offset: u32, v_stride: u32,
    rows: u32,
    cols: u32,
    rate: f32,
    momentum: f32,
    dampening: f32,
    weight_decay: f32,
    has_momentum: u32,
    nesterov: u32,
    first: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> g: array<f32>;
@group(0) @binding(2) var<storage, read_write> p: array<f32>;
@group(0) @binding(3) var<storage, read_write> v: array<f32>;

@compute @workgroup_size(WG)
fn step(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let item = item_of(group, groups, lane);
    let i = item / params.cols;
    let j = item % params.cols;
    if i >= params.rows {
        return;
    }
    let p_at = params.p_offset + i * params.p_stride + j;
    let old = p[p_at];
    let gradient = g[params.g_offset + i * params.g_stride + j] + params.weight_decay * old;
    var direction = gradient;
    if params.has_momentum == 1u {
        let v_at = params.v_offset + i * params.v_stride + j;
        var velocity = gradient;
        if params.first == 0u {
            velocity = params.momentum * v[v_at] + (1.0 - params.dampening) * gradient;
        }
        v[v_at] = velocity;
        direction = select(velocity, gradient + params.momentum * velocity, params.nesterov == 1u);
    }
    p[p_at] = old - params.rate * direction;
}
