// A row's lanes combine their values in workgroup memory, for lib/row.wgsl.

var<workgroup> reduce_scratch: array<vec2<f32>, WG>;

// Every lane of the row gets the combined value.
fn reduce(lane: u32, value: vec2<f32>, how: u32) -> vec2<f32> {
    if LANES == 1u {
        return value;
    }
    workgroupBarrier(); // the call before this one may still be reading
    reduce_scratch[lane] = value;
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lane % LANES < half {
            reduce_scratch[lane] = combine(how, reduce_scratch[lane], reduce_scratch[lane + half]);
        }
    }
    workgroupBarrier();
    return reduce_scratch[lane - lane % LANES];
}
