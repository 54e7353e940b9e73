// `reduce` for lib/row.wgsl: a row's lanes combine their values in workgroup memory.

var<workgroup> reduce_scratch: array<vec2<f32>, WG>;

// One step of the reduction. The steps are written out without a loop, because naga adds a counter of
// rounds to each loop.
fn combine_across(half: u32, lane: u32, how: u32) {
    if half < LANES {
        workgroupBarrier();
        if lane % LANES < half {
            reduce_scratch[lane] = combine(how, reduce_scratch[lane], reduce_scratch[lane + half]);
        }
    }
}

// Every lane of the row gets the combined value.
fn reduce(lane: u32, value: vec2<f32>, how: u32) -> vec2<f32> {
    if LANES == 1u {
        return value;
    }
    workgroupBarrier(); // lanes may still be reading for the previous call
    reduce_scratch[lane] = value;
    combine_across(512u, lane, how);
    combine_across(256u, lane, how);
    combine_across(128u, lane, how);
    combine_across(64u, lane, how);
    combine_across(32u, lane, how);
    combine_across(16u, lane, how);
    combine_across(8u, lane, how);
    combine_across(4u, lane, how);
    combine_across(2u, lane, how);
    combine_across(1u, lane, how);
    workgroupBarrier();
    return reduce_scratch[lane - lane % LANES];
}
