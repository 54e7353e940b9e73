// Each query i has K = `per` keys of its own: s_ij = <q_i, k_(iK + j)>;   dq_i = sum_j ds_ij k_(iK + j);
// dk_(iK + j) = ds_ij q_i.
// Source: the scores of skip-gram with negative sampling, Mikolov et al. 2013, arXiv:1310.4546, eq. 4.
// Cost: reads k once, and each row of q once from memory, then from a cache; backward reads k and writes dk once.

@compute @workgroup_size(WG)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let span = span_of(group, groups, lane);
    let i = span.i / params.per;
    var sum = 0.0;
    for (var j = span.first; j < span.end; j += step_size()) {
        sum += product16(load_q16(i, j, span.end, 0.0), load_k16(span.i, j, span.end, 0.0));
    }
    sum = reduce_sum(lane, sum);
    if span.lead {
        store_s(i, span.i - i * params.per, sum);
    }
}

// gradient_r = sum_t ds[r / per, r % per + t] v_(r / per * terms + t), t < terms; added to the old gradient unless
// `fresh`.
@compute @workgroup_size(WG)
fn weigh(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let span = span_of(group, groups, lane);
    let i = span.i / params.per;
    for (var j = span.first; j < span.end; j += step_size()) {
        var sum = mat4x4<f32>();
        if params.fresh == 0u {
            sum = load_gradient16(span.i, j, span.end, 0.0);
        }
        for (var t = 0u; t < params.terms; t++) {
            sum += load_ds(i, span.i - i * params.per + t) * load_v16(i * params.terms + t, j, span.end, 0.0);
        }
        store_gradient16(span.i, j, span.end, sum);
    }
}
