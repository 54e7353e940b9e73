// Reductions over the LANES lanes that share a row. Every barrier of the row kernels is here; call in uniform control flow.
// The order of the tree is fixed: the same input gives the same bits.

override WG: u32 = 256u;
override LANES: u32 = 256u; // a power of two that divides WG

const SUM: u32 = 0u;
const MAX: u32 = 1u;
const LSE: u32 = 2u;

var<workgroup> reduce_scratch: array<vec2<f32>, WG>;

// The row of a lane, for grids folded into two dimensions.
fn row_of(group: vec3<u32>, groups: vec3<u32>, lane: u32) -> u32 {
    return (group.y * groups.x + group.x) * (WG / LANES) + lane / LANES;
}

// The item of a lane, for kernels with one lane per item.
fn item_of(group: vec3<u32>, groups: vec3<u32>, lane: u32) -> u32 {
    return (group.y * groups.x + group.x) * WG + lane;
}

fn combine(how: u32, a: vec2<f32>, b: vec2<f32>, temperature: f32) -> vec2<f32> {
    if how == LSE {
        return lse_merge(a, b, temperature);
    }
    return select(a + b, max(a, b), how == MAX);
}

// Every lane of the row gets the combined value.
fn row_reduce(lane: u32, value: vec2<f32>, how: u32, temperature: f32) -> vec2<f32> {
    if LANES == 1u {
        return value;
    }
    workgroupBarrier(); // the call before this one may still be reading
    reduce_scratch[lane] = value;
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lane % LANES < half {
            reduce_scratch[lane] = combine(how, reduce_scratch[lane], reduce_scratch[lane + half], temperature);
        }
    }
    workgroupBarrier();
    return reduce_scratch[lane - lane % LANES];
}

fn row_sum(lane: u32, value: f32) -> f32 {
    return row_reduce(lane, vec2(value, 0.0), SUM, 1.0).x;
}

fn row_max(lane: u32, value: f32) -> f32 {
    return row_reduce(lane, vec2(value, 0.0), MAX, 1.0).x;
}
