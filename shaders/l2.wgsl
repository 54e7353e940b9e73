// loss[i, j] = f (x[i, j] - t[i, j])^2;   dx = 2f (x - t) dy;   dt = -dx.
// Source: Legendre 1805, Nouvelles méthodes pour la détermination des orbites des comètes, appendix.
// Cost an element: reads x and t once, writes each gradient that is asked for and, without reduction, the loss.

@compute @workgroup_size(WG)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let span = span_of(group, groups, lane);
    var sum = 0.0;
    for (var j = span.first; j < span.end; j += step_size()) {
        let gap = load_x16(span.i, j, span.end, 0.0) - load_t16(span.i, j, span.end, 0.0);
        let scaled = params.scale * gap;
        if LOSS != 0u {
            let losses = mat4x4(scaled[0] * gap[0], scaled[1] * gap[1], scaled[2] * gap[2], scaled[3] * gap[3]);
            sum += keep_losses(span.i, j, span.end, losses);
        }
        if GRADIENTS != 0u {
            let weight = 2.0 * weight16(span.i, j, span.end);
            let slope = mat4x4(
                times4(weight[0], scaled[0]), times4(weight[1], scaled[1]), times4(weight[2], scaled[2]), times4(weight[3], scaled[3]),
            );
            if (GRADIENTS & 1u) != 0u {
                var dx = slope;
                if ADD == 1u {
                    dx += load_dx16(span.i, j, span.end, 0.0);
                }
                store_dx16(span.i, j, span.end, dx);
            }
            if (GRADIENTS & 2u) != 0u {
                var dt = -1.0 * slope;
                if ADD == 1u {
                    dt += load_dt16(span.i, j, span.end, 0.0);
                }
                store_dt16(span.i, j, span.end, dt);
            }
        }
    }
    keep_sum(span, lane, sum);
}
