// y = x, in the storage of y: f32, f16 or bf16. Rounds to nearest, ties to even.
// Cost per element: reads x once, writes y once.

@compute @workgroup_size(WG)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let span = span_of(group, groups, lane);
    for (var j = span.first; j < span.end; j += 4u * LANES) {
        store_y4(span.i, j, span.end, load_x4(span.i, j, span.end, 0.0));
    }
}

// new_ids = ids, for a column of ids.
@compute @workgroup_size(WG)
fn copy_ids(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = item_of(group, groups, lane);
    if i < params.rows {
        store_new_ids(i, 0u, load_ids(i, 0u));
    }
}
