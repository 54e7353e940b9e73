// p and q are the probabilities of a row of `t` and of `x`: softmax(t/T) and softmax(x/T) where these are logits. With r = ln p - ln q:
//     Kl:              loss = sum_k p r,                 g_x = -p,                 g_t = p r
//     JensenShannon:   loss = sum_k (g_x + g_t),         g_x = (1 - b) q ln(q/m),  g_t = b p ln(p/m),   m = b p + (1 - b) q
//     TotalVariation:  loss = sum_k |p - q|/2,           g_x = -s q/2,             g_t = s p/2,         s = sign(p - q)
// g_x = dloss/d ln q and g_t = dloss/d ln p but for multiples of q and of p, which a softmax does not see, so that
//     dx = (g_x - q sum_k g_x)/T,   dt = (g_t - p sum_k g_t)/T   for logits,   dx = g_x,   dt = p r + p   for logarithms,
//     dt = r + 1   for probabilities. A loss of elements is p r, each with a gradient of its own, and has p r + p for g_t.
// Source: Kullback and Leibler 1951, doi:10.1214/aoms/1177729694; Lin 1991, doi:10.1109/18.61115; temperature: Hinton, Vinyals and
// Dean 2015, arXiv:1503.02531.
// Cost an element, in f32 and where a row fits the lanes that take it: 8 bytes read, and 4 written for each gradient. Where it does not
// fit, 8 bytes more are read for each further pass over the row: logits take one for the log-sum-exps, one for the sums that gradients
// need (Kl has none for dx alone), one for the rest; logarithms one in all.

const LOGITS: u32 = 0u;
const PROBABILITIES: u32 = 1u; // t; x are logits
const LOG_Q: u32 = 2u; // x; t are probabilities
const LOG_Q_LOG_P: u32 = 3u;

const KL: u32 = 0u;
const JENSEN_SHANNON: u32 = 1u;

// What `loss` and `dy` are, if there is a loss; BY_ROW: one number a row, or a segment of it.
const BY_ROW: u32 = 1u;
const BY_ELEMENT: u32 = 2u;

override FORM: u32 = 0u;
override DIVERGENCE: u32 = 0u;
override LOSS_KIND: u32 = 0u;
override DY_KIND: u32 = 0u;
override HAS_DX: u32 = 0u;
override HAS_DT: u32 = 0u;
override ADD: u32 = 0u;
override FIRST: u32 = 0u; // the round that it starts with: 1 where no sums are needed

// Below the largest f32, so that sums of such numbers weighted with probabilities stay finite.
const MOST: f32 = 3.4e38;

fn scale() -> Scale {
    return Scale(params.scale_high, params.scale_low, params.scale_least);
}

// The log-sum-exps of both sides of a row, and ln(1 + rest) of each.
struct Row {
    x: vec2<f32>,
    t: vec2<f32>,
    rest_x: f32,
    rest_t: f32,
}

fn rest_of(acc: vec2<f32>) -> f32 {
    return select(precise_log1p(acc.y), 0.0, acc.y < 0.0);
}

// -ln of the probabilities of four logits; +inf for masked ones, finite for others.
fn minus_log4(acc: vec2<f32>, rest: f32, x: vec4<f32>) -> vec4<f32> {
    let half_gap = min(0.5 * acc.x - 0.5 * x, vec4(params.most_half_gap));
    let gap = fma(half_gap, vec4(params.scale_high), half_gap * params.scale_low);
    return select(gap + rest, vec4(infinity()), bitcast<vec4<u32>>(x) == vec4(0xff800000u));
}

// e^x of any x.
fn any_exp4(x: vec4<f32>) -> vec4<f32> {
    let y = select(precise_exp4(min(x, vec4(88.72))), vec4(infinity()), x > vec4(88.7228));
    return select(y, x, nans(x));
}

struct Four {
    p: vec4<f32>,
    q: vec4<f32>,
    value: vec4<f32>,
    g_x: vec4<f32>,
    g_t: vec4<f32>,
    d_t: vec4<f32>, // dloss/dt where t are no logits
}

fn sides4(row: Row, x: vec4<f32>, t: vec4<f32>, with_q: bool) -> Four {
    var four: Four;
    if FORM == LOGITS {
        four.p = lse_p4(row.t, t, scale());
    } else if FORM == LOG_Q_LOG_P {
        four.p = any_exp4(t);
    } else {
        four.p = t;
    }
    if with_q && FORM <= PROBABILITIES {
        four.q = lse_p4(row.x, x, scale());
    }
    return four;
}

// r, finite where p = 0 and not where q = 0 < p.
fn log_ratio4(row: Row, x: vec4<f32>, t: vec4<f32>) -> vec4<f32> {
    var minus_log_p = -t;
    var minus_log_q = -x;
    if FORM == LOGITS {
        minus_log_p = minus_log4(row.t, row.rest_t, t);
    } else if FORM != LOG_Q_LOG_P {
        minus_log_p = -precise_log4(t);
    }
    if FORM <= PROBABILITIES {
        minus_log_q = minus_log4(row.x, row.rest_x, x);
    }
    return minus_log_q - select(minus_log_p, vec4(MOST), minus_log_p > vec4(MOST));
}

// What the elements add to loss and sums; u is how much each counts.
fn four_of(row: Row, x: vec4<f32>, t: vec4<f32>, u: vec4<f32>, with_q: bool) -> Four {
    var four = sides4(row, x, t, with_q);
    let zero = vec4(0.0);
    let none_p = four.p == zero;
    if DIVERGENCE == KL {
        let r = log_ratio4(row, x, t);
        let own = f32(DY_KIND == BY_ELEMENT);
        four.value = select(four.p * r, zero, none_p);
        four.g_x = -u * four.p;
        four.g_t = u * select(four.p * (r + own), zero, none_p);
        if FORM == LOG_Q_LOG_P {
            four.d_t = u * select(four.p * (r + 1.0), zero, none_p);
        } else {
            four.d_t = u * select(r + 1.0, zero, none_p);
        }
    } else if DIVERGENCE == JENSEN_SHANNON {
        let r = log_ratio4(row, x, t);
        let above = r >= zero;
        // The larger of p and q, weighted with `large`, over m, with the smaller over the larger = e^-|r|.
        let large = select(vec4(params.rest_beta), vec4(params.beta), above);
        let small = select(vec4(params.beta), vec4(params.rest_beta), above);
        let log_large = -precise_log4(large + small * precise_exp4(-abs(r)));
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

fn dx4(sums: Sums, factor: f32, four: Four) -> vec4<f32> {
    return factor * (four.g_x - four.q * sums.g_x);
}

fn dt4(sums: Sums, factor: f32, four: Four) -> vec4<f32> {
    if FORM == LOGITS {
        return factor * (four.g_t - four.p * sums.g_t);
    }
    return factor * four.d_t;
}

fn put_gradients(sums: Sums, dy: f32, i: u32, j: u32, end: u32, a: Four, b: Four, c: Four, d: Four) {
    if HAS_DX == 1u {
        let f = params.factor_x * dy;
        var dx = mat4x4(dx4(sums, f, a), dx4(sums, f, b), dx4(sums, f, c), dx4(sums, f, d));
        if ADD == 1u {
            dx += load_dx16(i, j, end, 0.0);
        }
        store_dx16(i, j, end, dx);
    }
    if HAS_DT == 1u {
        let f = params.factor_t * dy;
        var dt = mat4x4(dt4(sums, f, a), dt4(sums, f, b), dt4(sums, f, c), dt4(sums, f, d));
        if ADD == 1u {
            dt += load_dt16(i, j, end, 0.0);
        }
        store_dt16(i, j, end, dt);
    }
}

// What gradients need of the sums; those of logits are -1 where p sums to 1, and no infinity meets q = 0.
fn totals(lane: u32, sums: Sums, of_t: vec2<f32>) -> Sums {
    let pair = reduce_sum2(lane, vec2(sums.g_x, sums.g_t));
    var g_x = select(clamp(pair.x, LOWEST, -LOWEST), pair.x, is_nan(pair.x));
    if FORM == LOGITS && DIVERGENCE == KL && DY_KIND != BY_ELEMENT {
        g_x = select(-1.0, 0.0, of_t.y < 0.0);
    }
    return Sums(sums.value, g_x, pair.y);
}

// Loss and gradients, each if asked for. `first` is 0 if a pass over the row for the sums alone goes before the last one, else 1.
@compute @workgroup_size(WG)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let span = span_of(group, groups, lane);
    let logits = FORM <= PROBABILITIES;
    let no_t = select(masked(), 0.0, FORM == PROBABILITIES || FORM == LOG_Q);
    var of_x = LSE_EMPTY;
    var of_t = LSE_EMPTY;
    var sums = Sums(0.0, 0.0, 0.0);
    var x = mat4x4<f32>();
    var t = mat4x4<f32>();
    if STAGE >= FROM_PARTS {
        for (var s = lane % LANES; s < params.segments; s += LANES) {
            of_x = lse_merge(of_x, vec2(load_part(span.i, 6u * s), load_part(span.i, 6u * s + 1u)), scale());
            of_t = lse_merge(of_t, vec2(load_part(span.i, 6u * s + 2u), load_part(span.i, 6u * s + 3u)), scale());
            if STAGE == FROM_SUMS {
                sums.g_x += load_part(span.i, 6u * s + 4u);
                sums.g_t += load_part(span.i, 6u * s + 5u);
            }
        }
    } else if logits {
        for (var j = span.first; j < span.end; j += step_size()) {
            x = load_x16(span.i, j, span.end, masked());
            of_x = lse_merge(of_x, lse_of16(x, scale()), scale());
            if FORM == LOGITS || holds() {
                t = load_t16(span.i, j, span.end, no_t);
            }
            if FORM == LOGITS {
                of_t = lse_merge(of_t, lse_of16(t, scale()), scale());
            }
        }
    }
    if logits {
        of_x = reduce_lse(lane, of_x, scale());
        of_t = reduce_lse(lane, of_t, scale());
    }
    if STAGE == ONLY_PART {
        if span.lead {
            store_part(span.i, 6u * span.segment, of_x.x);
            store_part(span.i, 6u * span.segment + 1u, of_x.y);
            store_part(span.i, 6u * span.segment + 2u, of_t.x);
            store_part(span.i, 6u * span.segment + 3u, of_t.y);
        }
        return;
    }
    let row = Row(of_x, of_t, rest_of(of_x), rest_of(of_t));
    let whole = select(1.0, not_a_number(), is_nan(of_x.y) || is_nan(of_t.y));
    var dy = whole;
    if DY_KIND != BY_ELEMENT {
        dy *= load_dy(select(0u, min(span.i, params.rows - 1u), DY_KIND == BY_ROW), 0u);
    }
    let first = select(FIRST, 1u, STAGE == FROM_SUMS);
    let last = select(1u, 0u, STAGE == ONLY_SUMS);
    for (var round = first; round <= last; round++) {
        // The sums of Kl need no q.
        let with_q = DIVERGENCE != KL || (round == 1u && HAS_DX == 1u);
        if round == 1u {
            sums = totals(lane, sums, of_t);
        }
        for (var j = span.first; j < span.end; j += step_size()) {
            if !holds() || !logits {
                x = load_x16(span.i, j, span.end, masked());
                t = load_t16(span.i, j, span.end, no_t);
            }
            var u = mat4x4(vec4(1.0), vec4(1.0), vec4(1.0), vec4(1.0));
            if DY_KIND == BY_ELEMENT {
                u = load_dy16(span.i, j, span.end, 0.0);
            }
            let a = four_of(row, x[0], t[0], u[0], with_q);
            let b = four_of(row, x[1], t[1], u[1], with_q);
            let c = four_of(row, x[2], t[2], u[2], with_q);
            let d = four_of(row, x[3], t[3], u[3], with_q);
            if round == first {
                sums.value += sum_of((a.value + b.value) + (c.value + d.value));
            }
            if round == 0u {
                sums.g_x += sum_of((a.g_x + b.g_x) + (c.g_x + d.g_x));
                sums.g_t += sum_of((a.g_t + b.g_t) + (c.g_t + d.g_t));
            } else {
                put_gradients(sums, dy, span.i, j, span.end, a, b, c, d);
                if LOSS_KIND == BY_ELEMENT {
                    let loss = mat4x4(a.value, b.value, c.value, d.value);
                    store_loss16(span.i, j, span.end, (whole * params.scale) * loss);
                }
            }
        }
    }
    if LOSS_KIND == BY_ROW && STAGE != FROM_SUMS {
        let loss = reduce_sum(lane, sums.value);
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
