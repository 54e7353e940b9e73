// Rows, or segments of rows, each processed by LANES threads (lanes) of a workgroup; a lane takes sixteen elements at a
// time. lib/row_workgroup.wgsl or lib/row_subgroup.wgsl has `reduce`, which contains every barrier of the row kernels:
// call it in uniform control flow. The order of each reduction is fixed, so the same input gives the same bits.

override WG: u32 = 256u;
override LANES: u32 = 256u; // a power of two that divides WG

// A long row may be cut into segments, each processed by its own workgroup. A first dispatch writes the partial result
// of each segment (ONLY_PART). A second one merges the parts of a row, in order, and continues from there (FROM_PARTS).
const WHOLE: u32 = 0u;
const ONLY_PART: u32 = 1u;
const FROM_PARTS: u32 = 2u;
// If the rest of the work needs sums that themselves need the merged parts, a dispatch between the two adds these sums
// to the parts (ONLY_SUMS).
const ONLY_SUMS: u32 = 3u;
const FROM_SUMS: u32 = 4u;
override STAGE: u32 = 0u;

// Whether the columns of a row, and of a segment, are a multiple of `step_size()`. In tile kernels: whether they are a
// multiple of the four columns that one lane takes.
override NO_REST: u32 = 0u;

// How many columns the lanes of a row take at a time.
fn step_size() -> u32 {
    return 16u * LANES;
}

// The columns of a lane are those from first, first + step_size(), .. on, below `end`, of row i. `lead`: the lane is
// the first of its row.
struct Span {
    i: u32,
    segment: u32,
    first: u32,
    end: u32,
    lead: bool,
}

// A lane past the last row has no columns but still takes part in reductions.
fn span_of(group: vec3<u32>, groups: vec3<u32>, lane: u32) -> Span {
    let item = (group.y * groups.x + group.x) * (WG / LANES) + lane / LANES;
    let i = item / params.segments;
    let segment = item - i * params.segments;
    let start = segment * params.per_segment;
    let end = select(0u, min(params.cols, start + params.per_segment), i < params.rows);
    return Span(i, segment, start + 4u * (lane % LANES), end, i < params.rows && lane % LANES == 0u);
}

// Whether a lane still holds all its columns of the row after their reduction. A pipeline constant, so that the other
// case has no code.
override HOLDS: u32 = 0u;

fn holds() -> bool {
    return HOLDS == 1u;
}

// Four of the lane's sixteen elements: those from column `first` + 4 LANES `quad` on.
fn quad_of(v: mat4x4<f32>, quad: u32) -> vec4<f32> {
    return select(select(v[0], v[1], quad == 1u), select(v[2], v[3], quad == 3u), quad > 1u);
}

fn with_quad(v: mat4x4<f32>, quad: u32, four: vec4<f32>) -> mat4x4<f32> {
    return mat4x4(select(v[0], four, quad == 0u), select(v[1], four, quad == 1u), select(v[2], four, quad == 2u), select(v[3], four, quad == 3u));
}

// The global index of a lane, for kernels with one lane per item.
fn item_of(group: vec3<u32>, groups: vec3<u32>, lane: u32) -> u32 {
    return (group.y * groups.x + group.x) * WG + lane;
}

const SUM: u32 = 0u;
const MAX: u32 = 1u;

fn combine(how: u32, a: vec2<f32>, b: vec2<f32>) -> vec2<f32> {
    return select(a + b, max(a, b), how == MAX);
}

fn reduce_sum(lane: u32, value: f32) -> f32 {
    return reduce(lane, vec2(value, 0.0), SUM).x;
}

fn reduce_sum2(lane: u32, values: vec2<f32>) -> vec2<f32> {
    return reduce(lane, values, SUM);
}

fn reduce_max(lane: u32, value: f32) -> f32 {
    return reduce(lane, vec2(value, 0.0), MAX).x;
}

// Merges the sets of a row's lanes: first the maximum, then one exponential per lane. Lanes that have the maximum keep
// their rest; one of them is represented by `max`, the others add 1 each.
fn reduce_lse(lane: u32, value: vec2<f32>, scale: Scale) -> vec2<f32> {
    let top = reduce_max(lane, value.x);
    let is_top = value.x == top;
    let others = (value.y + 1.0) * exp_gap(value.x, top, scale);
    return lse_of_sums(top, reduce_sum2(lane, vec2(select(others, value.y, is_top), select(0.0, 1.0, is_top))));
}

// A row that its lanes hold: its set, and e^((x - max)/T) of a lane's elements. One exponential per element in all.
struct HeldRow {
    acc: vec2<f32>,
    e: mat4x4<f32>,
}

fn reduce_held(lane: u32, v: mat4x4<f32>, scale: Scale) -> HeldRow {
    let own = top_of16(v);
    let top = reduce_max(lane, own);
    let exps = exps16(v, top, own == top, scale);
    return HeldRow(lse_of_sums(top, reduce_sum2(lane, exps.sums)), exps.e);
}
