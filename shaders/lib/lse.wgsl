// The log-sum-exp of a set is kept as the pair (max, rest): ln sum e^(x/T) = max/T + ln(1 + rest), where rest sums
// e^((x - max)/T) over all elements but one largest. The empty set is (LOWEST, -1); a poisoned one has rest = NaN.
// The pair keeps what a single number loses: for the largest element 1 - p = rest/(1 + rest) and
// -ln p = ln(1 + rest) hold to full relative precision as p -> 1, and p = e^((x - max)/T)/(1 + rest) at any magnitude.
// Merging: Milakov and Gimelshein 2018, arXiv:1805.02867, section 3.1, with l = 1 + rest.

const LSE_EMPTY = vec2<f32>(LOWEST, -1.0);

// e^((low - high)/T) for low <= high. Halves first: the difference of two finite numbers may overflow, theirs cannot.
fn exp_gap(low: f32, high: f32, temperature: f32) -> f32 {
    let half_gap = max(0.5 * low - 0.5 * high, -52.0 * temperature);
    return precise_exp(2.0 * half_gap / temperature);
}

fn lse_merge(a: vec2<f32>, b: vec2<f32>, temperature: f32) -> vec2<f32> {
    let b_above = b.x > a.x;
    let e = exp_gap(min(a.x, b.x), max(a.x, b.x), temperature);
    return vec2(max(a.x, b.x), select(a.y + (b.y + 1.0) * e, b.y + (a.y + 1.0) * e, b_above));
}

// Adds one element. -inf is a mask and adds nothing; +inf and NaN poison the set.
fn lse_push(acc: vec2<f32>, x: f32, temperature: f32) -> vec2<f32> {
    if is_masked(x) {
        return acc;
    }
    if is_nan(x) || is_infinite(x) {
        return vec2(acc.x, not_a_number());
    }
    return lse_merge(acc, vec2(x, 0.0), temperature);
}

// The set of eight elements (T = 1), of which those outside `keep` are none; as eight calls of lse_push, without their branches.
fn lse_of8(x: vec4<f32>, y: vec4<f32>, keep_x: vec4<bool>, keep_y: vec4<bool>) -> vec2<f32> {
    let in_x = keep_x & (bitcast<vec4<u32>>(x) != vec4(0xff800000u));
    let in_y = keep_y & (bitcast<vec4<u32>>(y) != vec4(0xff800000u));
    let a = select(vec4(LOWEST), x, in_x);
    let b = select(vec4(LOWEST), y, in_y);
    let most = max(max(max(a.x, a.y), max(a.z, a.w)), max(max(b.x, b.y), max(b.z, b.w)));
    let e = precise_exp4(2.0 * max(0.5 * a - 0.5 * most, vec4(-52.0)));
    let f = precise_exp4(2.0 * max(0.5 * b - 0.5 * most, vec4(-52.0)));
    // Each of the largest counts 1, one of them in `max`, the others in `rest`; an empty set has none.
    let top_x = in_x & (a == vec4(most));
    let top_y = in_y & (b == vec4(most));
    let tops = select(vec4(0.0), vec4(1.0), top_x) + select(vec4(0.0), vec4(1.0), top_y);
    let others = select(vec4(0.0), e, in_x & !top_x) + select(vec4(0.0), f, in_y & !top_y);
    let rest = dot(others, vec4(1.0)) + (dot(tops, vec4(1.0)) - 1.0);
    let poisoned = any(in_x & not_finite(x)) || any(in_y & not_finite(y));
    return vec2(most, select(rest, not_a_number(), poisoned));
}

fn not_finite(x: vec4<f32>) -> vec4<bool> {
    return (bitcast<vec4<u32>>(x) & vec4(0x7fffffffu)) >= vec4(0x7f800000u);
}

fn is_masked(x: f32) -> bool {
    return bitcast<u32>(x) == 0xff800000u;
}

// p of one element of the set.
fn lse_p(acc: vec2<f32>, x: f32, temperature: f32) -> f32 {
    let p = exp_gap(min(x, acc.x), acc.x, temperature) / (1.0 + acc.y);
    return select(p, 0.0, is_masked(x) && !is_nan(acc.y));
}

// p - 1 of one element of the set, formed without cancellation where p -> 1.
fn lse_p_minus_1(acc: vec2<f32>, x: f32, temperature: f32) -> f32 {
    let e = exp_gap(min(x, acc.x), acc.x, temperature);
    return select(e - (1.0 + acc.y), -acc.y, x >= acc.x) / (1.0 + acc.y);
}

// -ln p of one element of the set; +inf for a masked one. Halves as in exp_gap.
fn lse_minus_log_p(acc: vec2<f32>, x: f32, temperature: f32) -> f32 {
    let loss = 2.0 * ((0.5 * acc.x - 0.5 * x) / temperature) + precise_log1p(acc.y);
    return select(loss, infinity(), is_masked(x) && !is_nan(acc.y));
}
