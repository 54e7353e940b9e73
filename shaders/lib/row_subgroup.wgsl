// A row's lanes, which are the whole workgroup and one subgroup (WG = 8), combine their values by exchanging them, for lib/row.wgsl: a software
// adapter runs a kernel with barriers as a coroutine, whose lanes keep nothing in registers.

// Every lane of the row gets the combined value; the order is that of lib/row_workgroup.wgsl.
fn reduce(lane: u32, value: vec2<f32>, how: u32, scale: Scale) -> vec2<f32> {
    if LANES == 1u {
        return value;
    }
    var combined = value;
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        combined = combine(how, combined, subgroupShuffleXor(combined, half), scale);
    }
    return subgroupShuffle(combined, lane - lane % LANES);
}
