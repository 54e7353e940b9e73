// p and q are the probabilities in a row of `t` and of `x`: softmax(t/T) and softmax(x/T) where these are logits.
// With r = ln p - ln q:
//     Kl:              loss = sum_k p r,             g_x = -p,                 g_t = p r
//     JensenShannon:   loss = sum_k (g_x + g_t),     g_x = (1 - b) q ln(q/m),  g_t = b p ln(p/m),   m = b p + (1 - b) q
//     TotalVariation:  loss = sum_k |p - q|/2,       g_x = -s q/2,             g_t = s p/2,         s = sign(p - q)
// g_x = dloss/d ln q and g_t = dloss/d ln p, up to multiples of q and of p, which cancel in the gradients of logits:
//     logits:          dx = (g_x - q sum_k g_x)/T,   dt = (g_t - p sum_k g_t)/T
//     logarithms:      dx = g_x,   dt = p r + p
//     probabilities:   dt = r + 1
// An elementwise loss is p r, where each element has its own upstream gradient; its g_t is p r + p.
// Source: Kullback and Leibler 1951, doi:10.1214/aoms/1177729694; Lin 1991, doi:10.1109/18.61115; temperature: Hinton,
// Vinyals and Dean 2015, arXiv:1503.02531.
// Cost per element: logits are read once where a row fits the lanes that process it, else once per pass. The passes:
// one for the log-sum-exps, which also finds the sum of Kl; one for the sums that gradients of other divergences need;
// one for the gradients. Logarithms take one pass in all. Each gradient is written once. So f32 logits whose row fits
// take 8 bytes, 12 with one gradient, 16 with both.

const LOGITS: u32 = 0u;
const PROBABILITIES: u32 = 1u; // t; x are logits
const LOG_Q: u32 = 2u; // x; t are probabilities
const LOG_Q_LOG_P: u32 = 3u;

const KL: u32 = 0u;
const JENSEN_SHANNON: u32 = 1u;

// Properties of the call, so that a pipeline contains only what the call needs.
override FORM: u32 = 0u;
override DIVERGENCE: u32 = 0u;
override ROW_LOSS: u32 = 1u; // one loss per row, or per segment of a row
override EACH_LOSS: u32 = 0u; // one loss per element
override EACH_DY: u32 = 0u;
override HAS_DX: u32 = 1u;
override HAS_DT: u32 = 1u;
override HAS_SUMS: u32 = 1u; // a pass over the row for the sums alone precedes the last pass
override ADD: u32 = 0u;
override UNROLLED: u32 = 1u; // whether the four quads of sixteen elements are written out instead of looped over

// Below the largest f32, so that sums of such numbers weighted by probabilities stay finite.
const MOST: f32 = 3.4e38;

fn scale() -> Scale {
    return Scale(params.scale_high, params.scale_low, params.scale_least);
}

// The maxima of a row, and the numbers that complete p, q and r of the elements in `Pairs`.
struct Row {
    tops: vec2<f32>, // the largest of x and of t
    inverse_x: f32,  // 1/(1 + rest) of x, 0 where x are not logits
    inverse_t: f32,  // 1/(1 + rest) of t, 1 where t are not logits
    rest: f32,       // ln(1 + rest) of x minus that of t
    left: f32,       // Kl's mean of r minus the rounded mean in Sums.g_t
}

// Whether dt is formed from the differences between r and its mean.
fn by_mean() -> bool {
    return FORM == LOGITS && DIVERGENCE == KL && EACH_DY == 0u;
}

// Whether the sum of Kl is computed together with the log-sum-exps.
fn folds() -> bool {
    return by_mean() && (ROW_LOSS == 1u || HAS_DT == 1u);
}

fn rest_of(acc: vec2<f32>) -> f32 {
    return select(precise_log1p(acc.y), 0.0, acc.y < 0.0);
}

// (max - x)/T of four logits, at most MOST; +inf for masked logits.
fn finite_gap4(top: f32, x: vec4<f32>) -> vec4<f32> {
    var gap = min(top - x, vec4(MOST));
    if TEMPERED == 1u {
        let half_gap = min(half_gap4(top, x), vec4(params.most_half_gap));
        gap = fma(half_gap, vec4(params.scale_high), half_gap * params.scale_low);
    }
    return select(gap, vec4(infinity()), bitcast<vec4<u32>>(x) == vec4(0xff800000u));
}

// Four elements: q (`e_x`), p (`e_t`) and r = ln p - ln q, each without the part that `Row` holds. r is finite where p
// = 0, and infinite where q = 0 < p.
struct Pairs {
    e_x: vec4<f32>,
    e_t: vec4<f32>,
    r: vec4<f32>,
}

// r of an element with p = 0: r - mean does not overflow, and e^r is 0.
const NO_P: f32 = -1e30;

// r of logits: the difference of their gaps to the maxima of x and t.
fn gaps4(tops: vec2<f32>, x: vec4<f32>, t: vec4<f32>, e_t: vec4<f32>) -> vec4<f32> {
    return select(finite_gap4(tops.x, x) - lse_gap4(vec2(tops.y, 0.0), t, scale()), vec4(NO_P), e_t == vec4(0.0));
}

fn gaps16(tops: vec2<f32>, x: mat4x4<f32>, t: mat4x4<f32>, e_t: mat4x4<f32>) -> mat4x4<f32> {
    return mat4x4(gaps4(tops, x[0], t[0], e_t[0]), gaps4(tops, x[1], t[1], e_t[1]), gaps4(tops, x[2], t[2], e_t[2]), gaps4(tops, x[3], t[3], e_t[3]));
}

// How the pass that finds the log-sum-exps also finds sum_k p r of Kl. With the pairs (max, rest) of both sides of a
// set,
//     d = sum_k e^((t - max_t)/T) ((max_x - x)/T - (max_t - t)/T),
//     sum_k p r = d/(1 + rest_t) + ln(1 + rest_x) - ln(1 + rest_t).
// The weights in d may sum to the number of elements, so d is kept in units of UNIT_OF_D, in which it cannot overflow.
const UNIT_OF_D: f32 = 4294967296.0;

struct Both {
    x: vec2<f32>,
    t: vec2<f32>,
    d: f32,
}

// d of sixteen elements, with `mean` subtracted from each r.
fn distance16(e_t: mat4x4<f32>, r: mat4x4<f32>, mean: f32) -> f32 {
    let unit = 1.0 / UNIT_OF_D;
    return product16(e_t, mat4x4((r[0] - mean) * unit, (r[1] - mean) * unit, (r[2] - mean) * unit, (r[3] - mean) * unit));
}

// The maxima of sixteen elements of x and of t.
fn tops16(x: mat4x4<f32>, t: mat4x4<f32>) -> vec2<f32> {
    return vec2(top_of16(x), top_of16(t));
}

// Sixteen elements of both sides, and their terms of the log-sum-exps of a set with the maxima `tops`.
struct Sixteen {
    elements: Elements,
    sums_x: vec2<f32>,
    sums_t: vec2<f32>,
    d: f32,
}

fn sixteen_of(x: mat4x4<f32>, t: mat4x4<f32>, tops: vec2<f32>, has_top: vec2<bool>) -> Sixteen {
    let of_x = exps16(x, tops.x, has_top.x, scale());
    let of_t = exps16(t, tops.y, has_top.y, scale());
    let r = gaps16(tops, x, t, of_t.e);
    var d = 0.0;
    if folds() {
        d = distance16(of_t.e, r, 0.0);
    }
    return Sixteen(Elements(of_x.e, of_t.e, r), of_x.sums, of_t.sums, d);
}

fn both_of16(x: mat4x4<f32>, t: mat4x4<f32>) -> Both {
    let tops = tops16(x, t);
    let all = sixteen_of(x, t, tops, vec2(true));
    return Both(lse_of_sums(tops.x, all.sums_x), lse_of_sums(tops.y, all.sums_t), all.d);
}

// The d of `part`, relative to the maxima of the larger set (x, t).
fn shifted(part: Both, x: vec2<f32>, t: vec2<f32>) -> f32 {
    let e = exp_gap(part.t.x, t.x, scale());
    let gaps = finite_gap4(x.x, vec4(part.x.x)).x - finite_gap4(t.x, vec4(part.t.x)).x;
    return select(e * (part.d + (1.0 + part.t.y) * (gaps * (1.0 / UNIT_OF_D))), 0.0, e == 0.0 || part.t.y < 0.0);
}

fn merged(a: Both, b: Both) -> Both {
    let x = lse_merge(a.x, b.x, scale());
    let t = lse_merge(a.t, b.t, scale());
    if !folds() {
        return Both(x, t, 0.0);
    }
    return Both(x, t, shifted(a, x, t) + shifted(b, x, t));
}

fn reduce_both(lane: u32, both: Both) -> Both {
    let x = reduce_lse(lane, both.x, scale());
    if FORM != LOGITS {
        return Both(x, both.t, 0.0);
    }
    let t = reduce_lse(lane, both.t, scale());
    if !folds() {
        return Both(x, t, 0.0);
    }
    return Both(x, t, reduce_sum(lane, shifted(both, x, t)));
}

// A row that its lanes hold: the row's sets, and a lane's elements.
struct HeldBoth {
    both: Both,
    elements: Elements,
}

fn reduce_held_both(lane: u32, x: mat4x4<f32>, t: mat4x4<f32>) -> HeldBoth {
    if FORM != LOGITS {
        let of_x = reduce_held(lane, x, scale());
        return HeldBoth(Both(of_x.acc, LSE_EMPTY, 0.0), elements_of(vec2(of_x.acc.x, 0.0), x, t, of_x.e));
    }
    let own = tops16(x, t);
    let tops = reduce(lane, own, MAX);
    let all = sixteen_of(x, t, tops, own == tops);
    var both = Both(lse_of_sums(tops.x, reduce_sum2(lane, all.sums_x)), lse_of_sums(tops.y, reduce_sum2(lane, all.sums_t)), 0.0);
    if folds() {
        both.d = reduce_sum(lane, all.d);
    }
    return HeldBoth(both, all.elements);
}

// Terms of the loss and the gradients of four elements.
struct Four {
    p: vec4<f32>,
    q: vec4<f32>,
    value: vec4<f32>,
    g_x: vec4<f32>,
    g_t: vec4<f32>,
    d_t: vec4<f32>, // dloss/dt where t are not logits
}

fn r_of(row: Row, pairs: Pairs) -> vec4<f32> {
    if folds() && EACH_LOSS == 0u {
        return pairs.r; // only the difference to the mean is needed
    }
    return pairs.r + row.rest;
}

// u: the weights of the elements.
fn four_of(row: Row, pairs: Pairs, u: vec4<f32>) -> Four {
    var four: Four;
    four.p = pairs.e_t * row.inverse_t;
    four.q = pairs.e_x * row.inverse_x;
    let zero = vec4(0.0);
    let none_p = four.p == zero;
    let r = r_of(row, pairs);
    if DIVERGENCE == KL {
        let own = f32(EACH_DY == 1u);
        four.value = select(four.p * r, zero, none_p);
        four.g_x = -u * four.p;
        four.g_t = u * select(four.p * (r + own), zero, none_p);
        if FORM == LOG_Q_LOG_P {
            four.d_t = u * select(four.p * (r + 1.0), zero, none_p);
        } else {
            four.d_t = u * select(r + 1.0, zero, none_p);
        }
    } else if DIVERGENCE == JENSEN_SHANNON {
        let above = r >= zero;
        // ln of the larger of p and q over m is -ln(large + small e^-|r|), where e^-|r| is the smaller over the larger;
        // `large` and `small` are the weights of the two in m.
        let large = select(vec4(params.rest_beta), vec4(params.beta), above);
        let small = select(vec4(params.beta), vec4(params.rest_beta), above);
        let log_large = -log_of_normal4(large + small * precise_exp4(-abs(r)));
        four.g_t = select(params.beta * four.p * select(log_large + r, log_large, above), zero, none_p);
        four.g_x = select(params.rest_beta * four.q * select(log_large, log_large - r, above), zero, four.q == zero);
        four.value = four.g_x + four.g_t;
    } else {
        let gap = four.p - four.q;
        let half = 0.5 * sign(gap);
        four.value = 0.5 * abs(gap);
        four.g_x = -half * four.q;
        four.g_t = half * four.p;
    }
    return four;
}

fn sum_of(v: vec4<f32>) -> f32 {
    return (v.x + v.y) + (v.z + v.w);
}

// Sums over a row's elements.
struct Sums {
    value: f32,
    g_x: f32,
    g_t: f32,
}

// The sums that the gradients need. sum_k g_x is clamped to finite numbers, so that no infinity is multiplied by q = 0.
// For Kl of logits it is -1, because p sums to 1, or 0 in an empty row.
fn totals(lane: u32, sums: Sums, of_t: vec2<f32>) -> Sums {
    var total = sums;
    if HAS_SUMS == 1u {
        let pair = reduce_sum2(lane, vec2(sums.g_x, sums.g_t));
        total.g_x = select(clamp(pair.x, LOWEST, -LOWEST), pair.x, is_nan(pair.x));
        total.g_t = pair.y;
    }
    if by_mean() {
        total.g_x = select(-1.0, 0.0, of_t.y < 0.0);
    }
    return total;
}

// What a lane knows of its row besides the elements.
struct Place {
    i: u32,
    end: u32,
    row: Row,
    whole: f32, // 1; NaN in a row that holds NaN or +inf
    dy: f32,    // whole times the gradient of the row's loss; whole if EACH_DY
}

// Sixteen of a lane's elements, as Pairs.
struct Elements {
    e_x: mat4x4<f32>,
    e_t: mat4x4<f32>,
    r: mat4x4<f32>,
}

// The results of sixteen elements.
struct Outputs {
    sums: Sums,
    loss: mat4x4<f32>,
    dx: mat4x4<f32>,
    dt: mat4x4<f32>,
}

// dx and dt of four elements.
struct Slopes {
    x: vec4<f32>,
    t: vec4<f32>,
}

fn slopes_of(place: Place, sums: Sums, pairs: Pairs, four: Four) -> Slopes {
    let factor_x = params.factor_x * place.dy;
    let factor_t = params.factor_t * place.dy;
    if by_mean() {
        // q and p times the common factors. The mean is subtracted from r first: where p is nearly 1, r is close to the
        // mean.
        let q = pairs.e_x * (-sums.g_x * place.row.inverse_x * factor_x);
        let p = pairs.e_t * place.row.inverse_t;
        let above = (r_of(place.row, pairs) - sums.g_t) - place.row.left;
        return Slopes(q - p * factor_x, (p * factor_t) * min(above, vec4(MOST)));
    }
    if FORM == LOGITS {
        return Slopes(factor_x * (four.g_x - four.q * sums.g_x), factor_t * (four.g_t - four.p * sums.g_t));
    }
    return Slopes(factor_x * (four.g_x - four.q * sums.g_x), factor_t * four.d_t);
}

// Adds the results of elements 4 quad to 4 quad + 3 of sixteen. Gradients and losses only in the last pass, for which
// `sums` are complete.
fn see4(place: Place, quad: u32, all: Elements, dy: mat4x4<f32>, sums: Sums, is_last: bool, so_far: Outputs) -> Outputs {
    var u = vec4(1.0);
    if EACH_DY == 1u {
        u = quad_of(dy, quad);
    }
    let pairs = Pairs(quad_of(all.e_x, quad), quad_of(all.e_t, quad), quad_of(all.r, quad));
    let four = four_of(place.row, pairs, u);
    var out = so_far;
    out.sums.value += select(sum_of(four.value), 0.0, folds());
    out.sums.g_x += sum_of(four.g_x);
    out.sums.g_t += sum_of(four.g_t);
    if is_last {
        let slopes = slopes_of(place, sums, pairs, four);
        out.dx = with_quad(so_far.dx, quad, slopes.x);
        out.dt = with_quad(so_far.dt, quad, slopes.t);
        out.loss = with_quad(so_far.loss, quad, (place.whole * params.scale) * four.value);
    }
    return out;
}

// The results of sixteen elements: terms of the sums and, in the last pass, gradients and losses.
fn see16(place: Place, j: u32, all: Elements, sums: Sums, is_last: bool) -> Outputs {
    var dy = mat4x4<f32>();
    if EACH_DY == 1u {
        dy = load_dy16(place.i, j, place.end, 0.0);
    }
    var out = Outputs();
    if UNROLLED == 0u {
        for (var quad = 0u; quad < 4u; quad++) {
            out = see4(place, quad, all, dy, sums, is_last, out);
        }
        return out;
    }
    out = see4(place, 0u, all, dy, sums, is_last, out);
    out = see4(place, 1u, all, dy, sums, is_last, out);
    out = see4(place, 2u, all, dy, sums, is_last, out);
    return see4(place, 3u, all, dy, sums, is_last, out);
}

fn put_outputs(place: Place, j: u32, out: Outputs) {
    if HAS_DX == 1u {
        var dx = out.dx;
        if ADD == 1u {
            dx += load_dx16(place.i, j, place.end, 0.0);
        }
        store_dx16(place.i, j, place.end, dx);
    }
    if HAS_DT == 1u {
        var dt = out.dt;
        if ADD == 1u {
            dt += load_dt16(place.i, j, place.end, 0.0);
        }
        store_dt16(place.i, j, place.end, dt);
    }
    if EACH_LOSS == 1u {
        store_loss16(place.i, j, place.end, out.loss);
    }
}

// What t loads as past the end of the row: p = 0 and q = 0 there, which adds nothing.
fn no_t() -> f32 {
    return select(masked(), 0.0, FORM == PROBABILITIES || FORM == LOG_Q);
}

fn elements_at(place: Place, j: u32) -> Elements {
    let tops = place.row.tops;
    let x = load_x16(place.i, j, place.end, masked());
    let t = load_t16(place.i, j, place.end, no_t());
    var e_x = mat4x4<f32>(); // no gradient needs q where x are ln q
    if FORM <= PROBABILITIES {
        e_x = exp_gap16(x, tops.x, scale());
    }
    return elements_of(tops, x, t, e_x);
}

fn elements_of(tops: vec2<f32>, x: mat4x4<f32>, t: mat4x4<f32>, e_x: mat4x4<f32>) -> Elements {
    if FORM == LOGITS {
        let e_t = exp_gap16(t, tops.y, scale());
        return Elements(e_x, e_t, gaps16(tops, x, t, e_t));
    }
    let p = mat4x4(p_of4(t[0]), p_of4(t[1]), p_of4(t[2]), p_of4(t[3]));
    return Elements(e_x, p, mat4x4(r_of4(tops.x, x[0], t[0]), r_of4(tops.x, x[1], t[1]), r_of4(tops.x, x[2], t[2]), r_of4(tops.x, x[3], t[3])));
}

// p of four targets that are not logits.
fn p_of4(t: vec4<f32>) -> vec4<f32> {
    if FORM == LOG_Q_LOG_P {
        return exp_of_any4(t);
    }
    return t;
}

fn r_of4(top_x: f32, x: vec4<f32>, t: vec4<f32>) -> vec4<f32> {
    var minus_log_q = -x;
    if FORM == PROBABILITIES {
        minus_log_q = finite_gap4(top_x, x);
    }
    var log_p = t;
    if FORM != LOG_Q_LOG_P {
        log_p = precise_log4(t);
    }
    return minus_log_q + select(log_p, vec4(-MOST), log_p < vec4(-MOST));
}

// A pass over a lane's elements. If the lane holds them, the loop runs once and compilers remove it.
fn pass_over(place: Place, first: u32, held: Elements, sums: Sums, is_last: bool) -> Sums {
    var found = Sums(0.0, 0.0, 0.0);
    var all = held;
    for (var j = first; j < place.end; j += step_size()) {
        if !holds_row() {
            all = elements_at(place, j);
        }
        let out = see16(place, j, all, sums, is_last);
        if is_last {
            put_outputs(place, j, out);
        }
        found = Sums(found.value + out.sums.value, found.g_x + out.sums.g_x, found.g_t + out.sums.g_t);
        if holds_row() {
            break;
        }
    }
    return found;
}

// The passes for the sums and the gradients in one, for a row that its lanes hold. Gradients are linear in the sums, so
// the term with the sums is subtracted once these are complete.
fn look_once(lane: u32, place: Place, j: u32, held: Elements, of_t: vec2<f32>) -> f32 {
    var out = see16(place, j, held, Sums(0.0, 0.0, 0.0), true);
    let sums = totals(lane, out.sums, of_t);
    out.dx = out.dx - held.e_x * (params.factor_x * place.dy * sums.g_x * place.row.inverse_x);
    if FORM == LOGITS {
        out.dt = out.dt - held.e_t * (params.factor_t * place.dy * sums.g_t * place.row.inverse_t);
    }
    put_outputs(place, j, out);
    return out.sums.value;
}

// Whether the lanes hold the elements that the pass for the log-sum-exps read.
fn holds_row() -> bool {
    return FORM <= PROBABILITIES && holds();
}

// Whether work remains once the sums are known: gradients or losses to write, or a loss that no earlier pass found.
fn has_last_pass() -> bool {
    return HAS_DX == 1u || HAS_DT == 1u || EACH_LOSS == 1u || !folds();
}

// Loss and gradients, each if asked for.
@compute @workgroup_size(WG)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let span = span_of(group, groups, lane);
    let logits = FORM <= PROBABILITIES;
    var both = Both(LSE_EMPTY, LSE_EMPTY, 0.0);
    var sums = Sums(0.0, 0.0, 0.0);
    var held = Elements();
    var held_x = mat4x4<f32>();
    var held_t = mat4x4<f32>();
    if STAGE >= FROM_PARTS {
        for (var s = lane % LANES; s < params.segments; s += LANES) {
            let pair_x = vec2(load_part(span.i, 6u * s), load_part(span.i, 6u * s + 1u));
            let pair_t = vec2(load_part(span.i, 6u * s + 2u), load_part(span.i, 6u * s + 3u));
            let fourth = load_part(span.i, 6u * s + 4u);
            both = merged(both, Both(pair_x, pair_t, fourth));
            if STAGE == FROM_SUMS {
                sums.g_x += fourth;
                sums.g_t += load_part(span.i, 6u * s + 5u);
            }
        }
    } else if holds_row() {
        held_x = load_x16(span.i, span.first, span.end, masked());
        held_t = load_t16(span.i, span.first, span.end, no_t());
    } else if logits {
        for (var j = span.first; j < span.end; j += step_size()) {
            let x = load_x16(span.i, j, span.end, masked());
            if FORM == LOGITS {
                both = merged(both, both_of16(x, load_t16(span.i, j, span.end, masked())));
            } else {
                both.x = lse_merge(both.x, lse_of16(x, scale()), scale());
            }
        }
    }
    if holds_row() {
        let row = reduce_held_both(lane, held_x, held_t);
        both = row.both;
        held = row.elements;
    } else if logits {
        both = reduce_both(lane, both);
    }
    if STAGE == ONLY_PART {
        if span.lead {
            store_part(span.i, 6u * span.segment, both.x.x);
            store_part(span.i, 6u * span.segment + 1u, both.x.y);
            store_part(span.i, 6u * span.segment + 2u, both.t.x);
            store_part(span.i, 6u * span.segment + 3u, both.t.y);
            store_part(span.i, 6u * span.segment + 4u, both.d);
        }
        return;
    }
    let whole = select(1.0, not_a_number(), is_nan(both.x.y) || is_nan(both.t.y));
    let log_rests = rest_of(both.x) - rest_of(both.t);
    var row = Row(vec2(both.x.x, both.t.x), lse_inverse(both.x), lse_inverse(both.t), log_rests, 0.0);
    if FORM != LOGITS {
        row.inverse_t = 1.0;
    }
    if folds() {
        // d over its weights is a mean of gaps. None of the gaps exceeds MOST, except that of a mask. Without the clamp
        // Mesa's compiler would multiply d by UNIT_OF_D first.
        let bounded = clamp(both.d * row.inverse_t, -MOST / UNIT_OF_D, MOST / UNIT_OF_D) * UNIT_OF_D;
        let mean = select(bounded, infinity(), is_infinite(both.d));
        if holds_row() {
            // A mean far from 0 has lost digits that the gradients near it need. A second sum recovers them.
            let d = reduce_sum(lane, distance16(held.e_t, held.r, mean));
            let left = d * row.inverse_t * UNIT_OF_D;
            row.left = select(0.0, left, max(abs(mean), abs(left)) < 1e30);
        }
        let all = select((mean + row.left) + log_rests, 0.0, both.t.y < 0.0);
        sums.value = select(0.0, all, span.lead && span.segment == 0u);
        if EACH_LOSS == 1u {
            sums.g_t = all;
            row.left = 0.0;
        } else {
            sums.g_t = mean;
        }
    }
    var dy = whole;
    if EACH_DY == 0u {
        dy *= load_dy(select(0u, min(span.i, params.rows - 1u), params.dy_by_row == 1u), 0u);
    }
    let place = Place(span.i, span.end, row, whole, dy);
    if holds_row() && HAS_SUMS == 1u {
        sums.value += look_once(lane, place, span.first, held, both.t);
    } else {
        // The pass for the sums, if any, then the last one. If the last pass is the only one, `round` is always 1 and
        // compilers remove the loop.
        var round = select(1u, 0u, HAS_SUMS == 1u && STAGE != FROM_SUMS);
        let first_round = round;
        loop {
            if round == 1u {
                if STAGE == ONLY_SUMS || !has_last_pass() {
                    break;
                }
                sums = totals(lane, sums, both.t);
            }
            let found = pass_over(place, span.first, held, sums, round == 1u);
            if round == first_round {
                sums.value += found.value;
            }
            if round == 1u {
                break;
            }
            sums.g_x += found.g_x;
            sums.g_t += found.g_t;
            round = 1u;
        }
    }
    if ROW_LOSS == 1u && STAGE != FROM_SUMS {
        var loss = sums.value;
        if !folds() {
            loss = reduce_sum(lane, loss); // otherwise the leading lane has the whole sum
        }
        if span.lead {
            store_loss(span.i, span.segment, (whole * params.scale) * loss);
        }
    }
    if STAGE == ONLY_SUMS {
        let pair = reduce_sum2(lane, vec2(sums.g_x, sums.g_t));
        if span.lead {
            store_part(span.i, 6u * span.segment + 4u, pair.x);
            store_part(span.i, 6u * span.segment + 5u, pair.y);
        }
    }
}
