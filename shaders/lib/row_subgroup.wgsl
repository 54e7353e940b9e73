// A row's lanes exchange their values in groups of SUBGROUP lanes, which lie in one subgroup; what groups there are combine theirs in workgroup
// memory, for lib/row.wgsl. A software adapter, whose rows are one such group, needs no barrier: it runs a kernel with barriers as a coroutine,
// whose lanes keep nothing in registers.

override SUBGROUP: u32 = 8u; // no more than a subgroup of the device holds; a power of two
override REDUCED: u32 = max(WG / SUBGROUP, 1u);

var<workgroup> reduce_scratch: array<vec2<f32>, REDUCED>;

// Every lane of the row gets the combined value, all of them the same bits: a + b and b + a are.
fn reduce(lane: u32, value: vec2<f32>, how: u32) -> vec2<f32> {
    var combined = value;
    for (var half = min(LANES, SUBGROUP) / 2u; half > 0u; half /= 2u) {
        combined = combine(how, combined, subgroupShuffleXor(combined, half));
    }
    if LANES <= SUBGROUP {
        return combined;
    }
    workgroupBarrier(); // the call before this one may still be reading
    if lane % SUBGROUP == 0u {
        reduce_scratch[lane / SUBGROUP] = combined;
    }
    workgroupBarrier();
    let first = (lane - lane % LANES) / SUBGROUP;
    combined = reduce_scratch[first];
    for (var at = 1u; at < LANES / SUBGROUP; at++) {
        combined = combine(how, combined, reduce_scratch[first + at]);
    }
    return combined;
}
