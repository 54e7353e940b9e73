// The loss of a line (a row or a column of the scores), and its gradient: factor e^(s + hardness c - top) for
// negatives, of_positives + positive_factor e^(s - positive_top) for positives, plus of_all for both.
struct Head {
    loss: f32,
    top: f32,
    factor: f32,
    of_positives: f32,
    positive_top: f32,
    positive_factor: f32,
    of_all: f32,
}

// (ln(1 + e^x), 1/(1 + e^-x)).
fn softplus(x: f32) -> vec2<f32> {
    if is_nan(x) {
        return vec2(x);
    }
    let e = precise_exp(-abs(x));
    return vec2(max(x, 0.0) + precise_log1p(e), select(1.0, e, x < 0.0) / (1.0 + e));
}

fn ln_rest(pair: vec2<f32>) -> f32 {
    return precise_log1p(pair.y);
}

// n, p: the log-sum-exps of the negatives and of the positives. sums: sum_P s, |P|, sum_N s, |N|.
fn head_of(n: vec2<f32>, p: vec2<f32>, sums: vec4<f32>) -> Head {
    var head = Head(0.0, n.x, 0.0, 0.0, p.x, 0.0, 0.0);
    if sums.y == 0.0 {
        return head;
    }
    let poisoned = is_nan(n.y) || is_nan(p.y) || is_nan(p.x) || (is_infinite(p.x) && p.x > 0.0);
    if poisoned {
        head.loss = not_a_number();
        head.factor = head.loss;
        head.of_positives = head.loss;
        return head;
    }
    let none = n.y < 0.0;
    let spread = lse_inverse(n);
    if (FORM & SMOOTHS) != 0u || (FORM == 0u && sums.y != 1.0) {
        let all = lse_merge(n, p, UNIT);
        let own_share = (1.0 - params.smoothing) / sums.y;
        let share = params.smoothing / (sums.y + sums.w);
        // The means are relative to the maximum, so that no large numbers cancel.
        let below = own_share * (sums.x - sums.y * all.x);
        let of_others = share * ((sums.x + sums.z) - (sums.y + sums.w) * all.x);
        head.loss = ln_rest(all) - (below + select(of_others, 0.0, share == 0.0)); // 0 times -inf would be NaN
        head.top = all.x;
        head.positive_top = all.x;
        head.factor = 1.0 / (1.0 + all.y);
        head.positive_factor = head.factor;
        head.of_positives = -own_share;
        head.of_all = -share;
        return head;
    }
    let mean = sums.x / sums.y;
    if (FORM & DECOUPLED) != 0u {
        if none {
            return head;
        }
        head.factor = spread;
        if (FORM & INSIDE) != 0u {
            head.loss = (n.x - p.x) + (ln_rest(n) - ln_rest(p)) + precise_log4(vec4(sums.y)).x;
            head.positive_factor = -1.0 / (1.0 + p.y);
        } else {
            head.loss = (n.x - mean) + ln_rest(n);
            head.of_positives = -1.0 / sums.y;
        }
        return head;
    }
    if none && (FORM & DEBIASED) == 0u {
        head.loss = select(0.0, precise_log4(vec4(sums.y)).x, (FORM & INSIDE) != 0u);
        if is_masked(p.x) {
            head.loss = infinity();
        }
        return head;
    }
    let x = (n.x - p.x) + (ln_rest(n) - ln_rest(p));
    if (FORM & DEBIASED) != 0u {
        let least = precise_log4(vec4(max(sums.w, 1.0))).x - score_scale() - p.x;
        let kept = 1.0 - sums.w * params.tau_plus * precise_exp(min(-x, 88.0));
        let above = x + precise_log4(vec4(max(kept, 0x1p-126f))).x - precise_log4(vec4(1.0 - params.tau_plus)).x;
        let taken = !none && kept > 0.0 && above > least;
        let both = softplus(select(least, above, taken));
        head.loss = select(both.x, 0.0, sums.w == 0.0);
        head.factor = select(0.0, both.y / kept * spread, taken);
        head.of_positives = select(select(-both.y, -both.y / kept, taken), 0.0, sums.w == 0.0);
        return head;
    }
    let both = softplus(x);
    head.loss = both.x;
    head.factor = both.y * spread;
    if (FORM & INSIDE) != 0u {
        head.loss += precise_log4(vec4(sums.y)).x;
        head.positive_factor = -both.y / (1.0 + p.y);
    } else {
        head.of_positives = -both.y;
    }
    return head;
}

