// loss[i, j] = f (x[i, j] - t[i, j])^2;   dx = 2f (x - t) dy;   dt = -dx.
// Source: Legendre 1805, Nouvelles méthodes pour la détermination des orbites des comètes, appendix.
// Cost per element: reads x and t once; writes each gradient that is asked for and, without reduction, the loss.

@compute @workgroup_size(WG)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let span = span_of(group, groups, lane);
    var sum = 0.0;
    for (var j = span.first; j < span.end; j += 4u * LANES) {
        let gap = load_x4(span.i, j, span.end, 0.0) - load_t4(span.i, j, span.end, 0.0);
        sum += keep_loss(span.i, j, span.end, params.scale * gap * gap);
        if GRADIENTS != 0u {
            let slope = times4(weight4(span.i, j, span.end), 2.0 * opaque4(params.scale * gap));
            if (GRADIENTS & 1u) != 0u {
                var dx = slope;
                if ADD == 1u {
                    dx += load_dx4(span.i, j, span.end, 0.0);
                }
                store_dx4(span.i, j, span.end, dx);
            }
            if (GRADIENTS & 2u) != 0u {
                var dt = -slope;
                if ADD == 1u {
                    dt += load_dt4(span.i, j, span.end, 0.0);
                }
                store_dt4(span.i, j, span.end, dt);
            }
        }
    }
    keep_sum(span, lane, sum);
}
