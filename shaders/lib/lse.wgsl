// The log-sum-exp of a set is kept as the pair (max, rest): ln sum e^(x/T) = max/T + ln(1 + rest). rest is the sum of
// e^((x - max)/T) over all elements except one of the largest. The empty set is (LOWEST, -1). A poisoned set (one with
// NaN or +inf) has rest = NaN.
// The pair keeps what a single number loses: for the largest element 1 - p = rest/(1 + rest) and -ln p = ln(1 + rest)
// hold to full relative precision as p -> 1, and p = e^((x - max)/T)/(1 + rest) holds at any magnitude.
// Merging: Milakov and Gimelshein 2018, arXiv:1805.02867, section 3.1, with l = 1 + rest.

const LSE_EMPTY = vec2<f32>(LOWEST, -1.0);

// 1/T, as factors of half differences: the difference of two finite numbers may overflow, the difference of their
// halves cannot. x/T = x/2 * high + x/2 * low, where high + low is 2/T to twice the precision of f32. `least`: half the
// difference at which e^(x/T) reaches 0.
struct Scale {
    high: f32,
    low: f32,
    least: f32,
}

// Whether T differs from 1. For T = 1 differences are formed whole: one that overflows is -inf, and its exponential is
// 0 as at EXP_LOWEST.
override TEMPERED: u32 = 0u;

const UNIT = Scale(2.0, 0.0, 0.5 * EXP_LOWEST);

// e^((x - top)/T) for x <= top.
fn exp_gap4(x: vec4<f32>, top: f32, scale: Scale) -> vec4<f32> {
    if TEMPERED == 0u {
        return exp_in_range(max(x - top, vec4(EXP_LOWEST)));
    }
    let gap = max(fma(x, vec4(0.5), vec4(-0.5 * top)), vec4(scale.least));
    return exp_in_range(fma(gap, vec4(scale.high), gap * scale.low));
}

fn exp_gap16(x: mat4x4<f32>, top: f32, scale: Scale) -> mat4x4<f32> {
    return mat4x4(exp_gap4(x[0], top, scale), exp_gap4(x[1], top, scale), exp_gap4(x[2], top, scale), exp_gap4(x[3], top, scale));
}

fn exp_gap(x: f32, top: f32, scale: Scale) -> f32 {
    return exp_gap4(vec4(x), top, scale).x;
}

fn lse_merge(a: vec2<f32>, b: vec2<f32>, scale: Scale) -> vec2<f32> {
    let b_above = b.x > a.x;
    let e = exp_gap(min(a.x, b.x), max(a.x, b.x), scale);
    return vec2(max(a.x, b.x), select(a.y + (b.y + 1.0) * e, b.y + (a.y + 1.0) * e, b_above));
}

// The union of eight sets, merged without a chain of dependent steps. The sum includes the maximum and 1 is subtracted,
// so digits of `rest` far below 1 are rounded off.
fn lse_of_pairs(first: mat4x2<f32>, second: mat4x2<f32>) -> vec2<f32> {
    let a = transpose(first);
    let b = transpose(second);
    let top = max(max4(a[0]), max4(b[0]));
    return vec2(top, dot(a[1] + 1.0, exp_gap4(a[0], top, UNIT)) + dot(b[1] + 1.0, exp_gap4(b[0], top, UNIT)) - 1.0);
}

// Whether an element poisons the set: +inf and NaN do. -inf is a mask and adds nothing to a set. Read as i32, +inf and
// positive NaNs are the largest numbers; read as u32, negative NaNs are the largest, above -inf.
fn poisons(v: mat4x4<f32>) -> bool {
    let a = max(max(bitcast<vec4<i32>>(v[0]), bitcast<vec4<i32>>(v[1])), max(bitcast<vec4<i32>>(v[2]), bitcast<vec4<i32>>(v[3])));
    let b = max(max(bitcast<vec4<u32>>(v[0]), bitcast<vec4<u32>>(v[1])), max(bitcast<vec4<u32>>(v[2]), bitcast<vec4<u32>>(v[3])));
    return max(max(a.x, a.y), max(a.z, a.w)) >= 0x7f800000 || max(max(b.x, b.y), max(b.z, b.w)) > 0xff800000u;
}

// Of sixteen elements, where -inf is no element. `e`: e^((x - top)/T). sums.x: the sum of `e` over the elements other
// than `top`, NaN if an element poisons the set. sums.y: how many elements equal `top`.
struct Exps {
    e: mat4x4<f32>,
    sums: vec2<f32>,
}

// `has_top`: whether an element may equal `top`. Usually only one or two of a row's lanes have such an element; the
// others skip the search.
fn exps16(v: mat4x4<f32>, top: f32, has_top: bool, scale: Scale) -> Exps {
    let e = exp_gap16(v, top, scale);
    var sums = vec2(0.0);
    if has_top {
        sums = sums_beside_tops(v, top, e);
    } else {
        sums.x = sum16(e);
    }
    return Exps(e, vec2(select(sums.x, not_a_number(), poisons(v)), sums.y));
}

// (sum of e over the elements other than `top`, number of elements equal to `top`).
fn sums_beside_tops(v: mat4x4<f32>, top: f32, e: mat4x4<f32>) -> vec2<f32> {
    let zero = vec4(0.0);
    let one = vec4(1.0);
    let is_top = vec4(top);
    let others = mat4x4(
        select(e[0], zero, v[0] == is_top), select(e[1], zero, v[1] == is_top), select(e[2], zero, v[2] == is_top), select(e[3], zero, v[3] == is_top),
    );
    let tops = mat4x4(
        select(zero, one, v[0] == is_top), select(zero, one, v[1] == is_top), select(zero, one, v[2] == is_top), select(zero, one, v[3] == is_top),
    );
    return vec2(sum16(others), sum16(tops));
}

// Each element equal to the maximum counts 1: one of them is represented by `max`, the others are in `rest`. An empty
// set has none, which makes `rest` -1.
fn lse_of_sums(top: f32, sums: vec2<f32>) -> vec2<f32> {
    return vec2(top, sums.x + (sums.y - 1.0));
}

fn top_of16(v: mat4x4<f32>) -> f32 {
    return max(LOWEST, max4(max(max(v[0], v[1]), max(v[2], v[3]))));
}

// The set of sixteen elements; -inf is no element.
fn lse_of16(v: mat4x4<f32>, scale: Scale) -> vec2<f32> {
    let top = top_of16(v);
    return lse_of_sums(top, exps16(v, top, true, scale).sums);
}

// The set of four elements, cheaper than `lse_of16`: the sum includes the maximum and 1 is subtracted, so digits of
// `rest` far below 1 are rounded off. Elements that poison the set are not detected.
fn lse_of4(v: vec4<f32>) -> vec2<f32> {
    let top = max(LOWEST, max4(v));
    return vec2(top, dot(exp_gap4(v, top, UNIT), vec4(1.0)) - 1.0);
}

// (top - x)/2, which is finite in f32 for any finite numbers; +inf for masked x. The minimum changes no finite value.
// Without it NVIDIA's compiler turns 0.5 top - 0.5 x into half of the difference, which may overflow; Mesa's does the
// same to the form with fma.
fn half_gap4(top: f32, x: vec4<f32>) -> vec4<f32> {
    return 0.5 * top - min(0.5 * x, vec4(0x1p+127f));
}

fn is_masked(x: f32) -> bool {
    return bitcast<u32>(x) == 0xff800000u;
}

// -ln p of one element of the set; +inf for a masked one.
fn lse_minus_log_p(acc: vec2<f32>, x: f32, scale: Scale) -> f32 {
    let loss = lse_gap4(acc, vec4(x), scale).x + precise_log1p(acc.y);
    return select(loss, infinity(), is_masked(x) && !is_nan(acc.y));
}

// 1/(1 + rest); 0 for the empty set, in which every p is 0.
fn lse_inverse(acc: vec2<f32>) -> f32 {
    return select(1.0 / (1.0 + acc.y), 0.0, acc.y < 0.0);
}

// p of four elements of the set.
fn lse_p4(acc: vec2<f32>, x: vec4<f32>, scale: Scale) -> vec4<f32> {
    return exp_gap4(x, acc.x, scale) * lse_inverse(acc);
}

// (max - x)/T of four elements of the set: -ln p without the term ln(1 + rest). +inf for masked elements and where
// half_gap * high exceeds f32; with a negative `low` the sum would be inf - inf there.
fn lse_gap4(acc: vec2<f32>, x: vec4<f32>, scale: Scale) -> vec4<f32> {
    if TEMPERED == 0u {
        return acc.x - x;
    }
    let half_gap = half_gap4(acc.x, x);
    let gap = fma(half_gap, vec4(scale.high), half_gap * scale.low);
    return select(gap, vec4(infinity()), bitcast<vec4<u32>>(half_gap * scale.high) == vec4(0x7f800000u));
}
