// `reduce` for lib/row.wgsl: a row's lanes exchange values in groups of SUBGROUP lanes, each within one subgroup.
// Several groups combine their values in workgroup memory. A software adapter, where a row is one such group, needs no
// barrier: it runs a kernel with barriers as a coroutine, whose lanes keep nothing in registers.

override SUBGROUP: u32 = 8u; // a power of two, at most the smallest subgroup of the device
override REDUCED: u32 = max(WG / SUBGROUP, 1u);
override IN_A_ROW: u32 = max(LANES / SUBGROUP, 1u);

var<workgroup> reduce_scratch: array<vec2<f32>, REDUCED>;

// Combines the values of `lanes` lanes. Written out without a loop: naga adds a counter of rounds to each loop, which
// cost softmax a seventh of its time on an H200.
fn exchange(lanes: u32, value: vec2<f32>, how: u32) -> vec2<f32> {
    var combined = value;
    combined = exchange_across(64u, lanes, combined, how);
    combined = exchange_across(32u, lanes, combined, how);
    combined = exchange_across(16u, lanes, combined, how);
    combined = exchange_across(8u, lanes, combined, how);
    combined = exchange_across(4u, lanes, combined, how);
    combined = exchange_across(2u, lanes, combined, how);
    return exchange_across(1u, lanes, combined, how);
}

fn exchange_across(half: u32, lanes: u32, value: vec2<f32>, how: u32) -> vec2<f32> {
    if half < lanes {
        return combine(how, value, subgroupShuffleXor(value, half));
    }
    return value;
}

// Every lane of the row gets the combined value, and all get the same bits, because a + b and b + a have the same bits.
fn reduce(lane: u32, value: vec2<f32>, how: u32) -> vec2<f32> {
    var combined = exchange(min(LANES, SUBGROUP), value, how);
    if LANES <= SUBGROUP {
        return combined;
    }
    workgroupBarrier(); // lanes may still be reading for the previous call
    if lane % SUBGROUP == 0u {
        reduce_scratch[lane / SUBGROUP] = combined;
    }
    workgroupBarrier();
    let first = (lane - lane % LANES) / SUBGROUP;
    if IN_A_ROW <= SUBGROUP {
        return exchange(IN_A_ROW, reduce_scratch[first + lane % IN_A_ROW], how);
    }
    combined = reduce_scratch[first];
    for (var at = 1u; at < IN_A_ROW; at++) {
        combined = combine(how, combined, reduce_scratch[first + at]);
    }
    return combined;
}
