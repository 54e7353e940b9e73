// c_ij = <q_i, k_j>;  s_ij = scale (c_ij - margin [j in P_i]) - log_q_j,  scale = min(e^log_scale, max_scale) or 1/temperature.
// P_i are the positives of row i, N_i its negatives, A_i both; n = ln sum_N e^(s + hardness c), p = ln sum_P e^s, a = ln(e^n + e^p):
//     loss_i = a - mean_P s                      outside the logarithm; for one positive ln(1 + e^(n - p))
//     loss_i = a - p + ln |P|                    INSIDE the logarithm
//     loss_i = n - ..                            DECOUPLED: n instead of a
//     loss_i = ln(1 + e^(u - p))                 DEBIASED: e^u = max((e^n - |N| tau e^p)/(1 - tau), |N| e^-scale)
//     loss_i = a - (1 - e) mean_P s - e mean_A s SMOOTHS, by e
// SYMMETRIC: the mean of that and of the same over columns. g_ij = scale dloss/ds_ij;  dq = g k;  dk = g^T q;
// dlog_scale = sum_ij dloss/ds_ij (s_ij + log_q_j), 0 where the scale is clamped.
// Source: van den Oord, Li and Vinyals 2018, arXiv:1807.03748, eq. 4; symmetric, learnable scale: Radford et al. 2021, arXiv:2103.00020;
// several positives: Khosla et al. 2020, arXiv:2004.11362, eq. 2 and 3; decoupled: Yeh et al. 2021, arXiv:2110.06848; debiased: Chuang
// et al. 2020, arXiv:2007.00224, eq. 7 and 8; log_q: Bengio and Senecal 2008, doi:10.1109/TNN.2007.912312.
// Log-sum-exps are pairs (max, rest), see lib/lse.wgsl. A line, a row or a column, has in `state`
//     max, rest of n;  c of the positive, 0                      where each row has one positive and no more is needed, else (FULL)
//     max, rest of n;  max, rest of p;  sum_P s, |P|;  sum_N s, |N|.
// row_part [column tiles * rows, ..] and col_part [row tiles * cols, ..] hold those of a tile; backward's row_part the sums for dlog_scale.
// Cost, U = 2NMD FLOP: forward U, backward 3U. s is formed tile by tile in registers and never stored; g in chunks of bounded size.

override SYMMETRIC: u32 = 0u;
// What a row's positives are: the key of its own number, one by index, or those of its group.
const INDEX: u32 = 1u;
const GROUPS: u32 = 2u;
override POSITIVE: u32 = 0u;
// What is left out: the key of the row's own number; keys of its id that are no positives; keys with c above `nearest`.
override EXCLUDE_SELF: u32 = 0u;
override HAS_ID: u32 = 0u;
override NEAR: u32 = 0u;
override HAS_LOG_Q: u32 = 0u;
override HARD: u32 = 0u;
override FULL: u32 = 0u;

const INSIDE: u32 = 1u;
const DECOUPLED: u32 = 2u;
const DEBIASED: u32 = 4u;
const SMOOTHS: u32 = 8u;
override FORM: u32 = 0u;

// What identifies a line, as words of row_line and col_line; and what its gradients have in common.
const AT_OWN: u32 = 0u;
const AT_GROUP: u32 = 1u;
const AT_ID: u32 = 2u;
const AT_LOG_Q: u32 = 3u;
const AT_NEAREST: u32 = 4u;
const AT_TOP: u32 = 5u;
const AT_FACTOR: u32 = 6u;
const AT_OF_POSITIVES: u32 = 7u;
const AT_POSITIVE_TOP: u32 = 8u;
const AT_POSITIVE_FACTOR: u32 = 9u;
const AT_OF_ALL: u32 = 10u;

struct Tag {
    own: u32, // column of the positive
    group: u32,
    id: u32,
    nearest: f32,
}

fn row_tag(i: u32) -> Tag {
    var tag = Tag(params.first_row + i, 0u, 0u, 0.0);
    if i >= params.rows {
        return tag;
    }
    if POSITIVE == INDEX {
        tag.own = load_row_line(i, AT_OWN);
    }
    if POSITIVE == GROUPS {
        tag.group = load_row_line(i, AT_GROUP);
    }
    if HAS_ID == 1u {
        tag.id = load_row_line(i, AT_ID);
    }
    if NEAR == 1u {
        tag.nearest = bitcast<f32>(load_row_line(i, AT_NEAREST));
    }
    return tag;
}

fn col_words4(j: u32, at: u32) -> vec4<u32> {
    let last = vec4(max(params.cols, 1u) - 1u);
    let column = min(columns4(j), last);
    return vec4(
        load_col_line(column.x, at), load_col_line(column.y, at), load_col_line(column.z, at), load_col_line(column.w, at),
    );
}

// Of a lane's four columns.
struct Tags {
    group: vec4<u32>,
    id: vec4<u32>,
    log_q: vec4<f32>,
    nearest: vec4<f32>,
}

fn col_tags(j: u32) -> Tags {
    var tags = Tags();
    if POSITIVE == GROUPS {
        tags.group = col_words4(j, AT_GROUP);
    }
    if HAS_ID == 1u {
        tags.id = col_words4(j, AT_ID);
    }
    if HAS_LOG_Q == 1u {
        tags.log_q = bitcast<vec4<f32>>(col_words4(j, AT_LOG_Q));
    }
    if NEAR == 1u && SYMMETRIC == 1u {
        tags.nearest = bitcast<vec4<f32>>(col_words4(j, AT_NEAREST));
    }
    return tags;
}

// Four pairs of a row.
struct Four {
    scaled: vec4<f32>, // scale (c - margin [j in P])
    s: vec4<f32>,
    hard: vec4<f32>, // s + hardness c
    positive: vec4<bool>,
    negative: vec4<bool>, // for the row
    for_column: vec4<bool>, // negative for the column
}

fn four_of(i: u32, j: u32, scale: f32, row: Tag, cols: Tags, c: vec4<f32>) -> Four {
    let column = columns4(params.first_col + j);
    var inside = inside4(j) & vec4(i < params.rows);
    if EXCLUDE_SELF == 1u {
        inside &= column != vec4(params.first_row + i);
    }
    var four = Four();
    four.positive = column == vec4(row.own);
    if POSITIVE == GROUPS {
        four.positive = cols.group == vec4(row.group);
    }
    four.positive &= inside;
    four.negative = inside & !four.positive;
    if HAS_ID == 1u {
        four.negative &= cols.id != vec4(row.id);
    }
    four.for_column = four.negative;
    if NEAR == 1u {
        four.negative &= !(c > vec4(row.nearest));
        four.for_column &= !(c > cols.nearest);
    }
    four.scaled = scale * (c - select(vec4(0.0), vec4(params.margin), four.positive));
    four.s = four.scaled;
    if HAS_LOG_Q == 1u {
        four.s -= cols.log_q;
    }
    four.hard = four.s;
    if HARD == 1u {
        four.hard += params.hardness * c;
    }
    return four;
}

// What a part of `state` is taken from.
const OF_NEGATIVES: u32 = 0u; // log-sum-exps
const OF_POSITIVES: u32 = 1u;
const SUM_OF_POSITIVES: u32 = 2u; // sums and counts
const SUM_OF_NEGATIVES: u32 = 3u;

fn parts() -> u32 {
    return select(1u, 4u, FULL == 1u);
}

// Four scores, masked where they are not of the part.
struct Masked {
    row: vec4<f32>,
    column: vec4<f32>,
}

fn masked4(i: u32, j: u32, part: u32, scale: f32, cols: Tags, c: vec4<f32>) -> Masked {
    let four = four_of(i, j, scale, row_tag(i), cols, c);
    let none = vec4(masked());
    if FULL == 0u || part == OF_NEGATIVES {
        return Masked(select(none, four.hard, four.negative), select(none, four.hard, four.for_column));
    }
    let positives = part != SUM_OF_NEGATIVES;
    return Masked(
        select(none, four.s, select(four.negative, four.positive, positives)),
        select(none, four.s, select(four.for_column, four.positive, positives)),
    );
}

fn is_sum(part: u32) -> bool {
    return FULL == 1u && part >= SUM_OF_POSITIVES;
}

// Sum and count of what is not masked.
fn sum_of4(v: vec4<f32>) -> vec2<f32> {
    let out = bitcast<vec4<u32>>(v) == vec4(0xff800000u);
    return vec2(sum4(select(v, vec4(0.0), out)), sum4(select(vec4(1.0), vec4(0.0), out)));
}

fn pair_of4(v: vec4<f32>, part: u32) -> vec2<f32> {
    if is_sum(part) {
        return sum_of4(v);
    }
    return lse_of4(v, UNIT);
}

fn joined(a: vec2<f32>, b: vec2<f32>, part: u32) -> vec2<f32> {
    if is_sum(part) {
        return a + b;
    }
    return lse_merge(a, b, UNIT);
}

fn joined_line(line: u32, across: u32, part: u32) -> vec2<f32> {
    var acc = tile_line(line, 0u, across);
    for (var x = 1u; x < across; x++) {
        acc = joined(acc, tile_line(line, x, across), part);
    }
    return acc;
}

fn put_row_parts(group: vec3<u32>, lane: u32, half: u32, part: u32) {
    for (var line = lane; line < 8u * TY; line += TX * TY) {
        let i = group.y * 16u * TY + tile_line_row(line, half);
        if i < params.rows {
            let pair = joined_line(line, TX, part);
            store_row_part(group.x * params.rows + i, 2u * part, pair.x);
            store_row_part(group.x * params.rows + i, 2u * part + 1u, pair.y);
        }
    }
}

fn put_col_parts(group: vec3<u32>, lane: u32, part: u32) {
    for (var line = lane; line < 4u * TX; line += TX * TY) {
        let j = group.x * 4u * TX + line;
        if j < params.cols {
            let pair = joined_line(line, TY, part);
            store_col_part(group.y * params.cols + j, 2u * part, pair.x);
            store_col_part(group.y * params.cols + j, 2u * part + 1u, pair.y);
        }
    }
}

// One tile of s: the parts of its rows and, if symmetric, of its columns.
@compute @workgroup_size(TX, TY)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let t = product(group, lane);
    let j = group.x * 4u * TX + tile_col(lane);
    let scale = score_scale();
    let cols = col_tags(j);
    for (var part = 0u; part < parts(); part++) {
        let none = select(LSE_EMPTY, vec2(0.0), is_sum(part));
        var c0 = none;
        var c1 = none;
        var c2 = none;
        var c3 = none;
        for (var half = 0u; half < 2u; half++) {
            tile_barrier();
            for (var h = 2u * half; h < 2u * half + 2u; h++) {
                let i = group.y * 16u * TY + tile_row(lane, 4u * h);
                let r = tile_rows4(t, h);
                let a = masked4(i, j, part, scale, cols, r[0]);
                let b = masked4(i + 1u, j, part, scale, cols, r[1]);
                let c = masked4(i + 2u, j, part, scale, cols, r[2]);
                let d = masked4(i + 3u, j, part, scale, cols, r[3]);
                tile_put_row(lane, 4u * h, pair_of4(a.row, part));
                tile_put_row(lane, 4u * h + 1u, pair_of4(b.row, part));
                tile_put_row(lane, 4u * h + 2u, pair_of4(c.row, part));
                tile_put_row(lane, 4u * h + 3u, pair_of4(d.row, part));
                if SYMMETRIC == 1u {
                    let columns = transpose(mat4x4(a.column, b.column, c.column, d.column));
                    c0 = joined(c0, pair_of4(columns[0], part), part);
                    c1 = joined(c1, pair_of4(columns[1], part), part);
                    c2 = joined(c2, pair_of4(columns[2], part), part);
                    c3 = joined(c3, pair_of4(columns[3], part), part);
                }
            }
            tile_barrier();
            put_row_parts(group, lane, half, part);
        }
        if SYMMETRIC == 1u {
            tile_share_cols(lane, c0, c1, c2, c3);
            put_col_parts(group, lane, part);
        }
    }
}

// state[i] = the parts of a line, merged over the tiles in order, after what is there unless `fresh`.
@compute @workgroup_size(WG)
fn merge(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = item_of(group, groups, lane);
    if i >= params.rows {
        return;
    }
    for (var part = 0u; part < parts(); part++) {
        var acc = select(LSE_EMPTY, vec2(0.0), is_sum(part));
        if params.fresh == 0u {
            acc = vec2(load_state(i, 2u * part), load_state(i, 2u * part + 1u));
        }
        for (var p = 0u; p < params.parts; p++) {
            let row = p * params.rows + i;
            acc = joined(acc, vec2(load_part(row, 2u * part), load_part(row, 2u * part + 1u)), part);
        }
        store_state(i, 2u * part, acc.x);
        store_state(i, 2u * part + 1u, acc.y);
    }
}

// The words that identify the lines of a part of the batch.
@compute @workgroup_size(WG)
fn tag(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = item_of(group, groups, lane);
    if i >= params.rows {
        return;
    }
    if POSITIVE == INDEX {
        store_line(i, AT_OWN, load_index(i, 0u));
    }
    if POSITIVE == GROUPS {
        store_line(i, AT_GROUP, load_group(i, 0u));
    }
    if HAS_ID == 1u {
        store_line(i, AT_ID, load_id(i, 0u));
    }
    if HAS_LOG_Q == 1u {
        store_line(i, AT_LOG_Q, bitcast<u32>(load_log_q(i, 0u)));
    }
    if NEAR == 1u {
        store_line(i, AT_NEAREST, bitcast<u32>(load_positive_in(i, 0u) + params.near_margin));
    }
}

// A line's loss, and its gradient: of negatives factor e^(s + hardness c - top), of positives of_positives + positive_factor e^(s - positive_top),
// of all of_all.
struct Head {
    loss: f32,
    top: f32,
    factor: f32,
    of_positives: f32,
    positive_top: f32,
    positive_factor: f32,
    of_all: f32,
}

// ln(1 + e^x) and 1/(1 + e^-x).
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

// n, p: log-sum-exps of negatives and positives; sums: sum_P s, |P|, sum_N s, |N|.
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
        // The mean of the positives counts from the maximum, so that nothing large cancels.
        let below = own_share * (sums.x - sums.y * all.x) + share * ((sums.x + sums.z) - (sums.y + sums.w) * all.x);
        head.loss = ln_rest(all) - below;
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

// s of the row's own pair.
fn own_score(i: u32, c: f32) -> f32 {
    var s = score_scale() * (c - params.margin);
    if HAS_LOG_Q == 1u {
        s -= load_log_q(i, 0u);
    }
    return s;
}

fn head_at(i: u32) -> Head {
    let n = vec2(load_state_in(i, 0u), load_state_in(i, 1u));
    let third = load_state_in(i, 2u);
    if FULL == 0u {
        let s = own_score(i, third);
        return head_of(n, vec2(s, 0.0), vec4(s, 1.0, 0.0, 0.0));
    }
    let sums = vec4(load_state_in(i, 4u), load_state_in(i, 5u), load_state_in(i, 6u), load_state_in(i, 7u));
    return head_of(n, vec2(third, load_state_in(i, 3u)), sums);
}

fn weight_of(i: u32) -> f32 {
    if params.has_weight == 0u {
        return 1.0;
    }
    return load_weight(i, 0u);
}

// What each row adds to the loss: directly, or half of it for rows and for columns, one after the other; and, where rows are counted, its weight.
@compute @workgroup_size(WG)
fn line_loss(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = item_of(group, groups, lane);
    if i >= params.rows {
        return;
    }
    let w = weight_of(i);
    var loss = select(w * head_at(i).loss, 0.0, w == 0.0);
    if SYMMETRIC == 1u {
        loss *= 0.5;
    }
    if params.fresh == 0u {
        loss += load_loss(i, 0u);
    }
    store_loss(i, 0u, loss);
    if params.counts == 1u && params.fresh == 1u {
        let has = FULL == 0u || load_state_in(i, 5u) != 0.0;
        store_loss(i, 1u, select(0.0, w, has));
    }
}

// loss = sums[0]/sums[1], the mean over what counts; state = 1/sums[1]; 0 where nothing does.
@compute @workgroup_size(WG)
fn finish(@builtin(local_invocation_index) lane: u32) {
    if lane != 0u {
        return;
    }
    let sum = load_sums(0u, 0u);
    let count = load_sums(1u, 0u);
    store_loss(0u, 0u, select(sum / count, 0.0, count == 0.0));
    store_state(0u, 0u, select(1.0 / count, 0.0, count == 0.0));
}

// What the gradients of the lines of a part of the batch have in common.
@compute @workgroup_size(WG)
fn weigh(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = item_of(group, groups, lane);
    if i >= params.rows {
        return;
    }
    let head = head_at(i);
    let mean = select(params.factor, load_inverse(0u, 0u), params.counts == 1u);
    var w = mean * load_dy(select(0u, i, params.dy_by_row == 1u), 0u) * weight_of(i);
    if SYMMETRIC == 1u {
        w *= 0.5;
    }
    store_line(i, AT_TOP, bitcast<u32>(head.top));
    store_line(i, AT_FACTOR, bitcast<u32>(times(w, head.factor)));
    store_line(i, AT_OF_POSITIVES, bitcast<u32>(times(w, head.of_positives)));
    if FULL == 1u {
        store_line(i, AT_POSITIVE_TOP, bitcast<u32>(head.positive_top));
        store_line(i, AT_POSITIVE_FACTOR, bitcast<u32>(times(w, head.positive_factor)));
        store_line(i, AT_OF_ALL, bitcast<u32>(times(w, head.of_all)));
    }
}

// w x, but 0 for w = 0, be x NaN.
fn times(w: f32, x: f32) -> f32 {
    return select(w * x, 0.0, w == 0.0);
}

// What gradients of four pairs need of a line each.
struct Slopes {
    top: vec4<f32>,
    factor: vec4<f32>,
    of_positives: vec4<f32>,
    positive_top: vec4<f32>,
    positive_factor: vec4<f32>,
    of_all: vec4<f32>,
}

fn row_word(i: u32, at: u32) -> vec4<f32> {
    return vec4(bitcast<f32>(load_row_line(i, at)));
}

fn row_slopes(i: u32) -> Slopes {
    var slopes = Slopes();
    slopes.top = row_word(i, AT_TOP);
    slopes.factor = row_word(i, AT_FACTOR);
    slopes.of_positives = row_word(i, AT_OF_POSITIVES);
    if FULL == 1u {
        slopes.positive_top = row_word(i, AT_POSITIVE_TOP);
        slopes.positive_factor = row_word(i, AT_POSITIVE_FACTOR);
        slopes.of_all = row_word(i, AT_OF_ALL);
    }
    return slopes;
}

fn col_slopes(j: u32) -> Slopes {
    var slopes = Slopes();
    if SYMMETRIC == 0u {
        return slopes;
    }
    slopes.top = bitcast<vec4<f32>>(col_words4(j, AT_TOP));
    slopes.factor = bitcast<vec4<f32>>(col_words4(j, AT_FACTOR));
    slopes.of_positives = bitcast<vec4<f32>>(col_words4(j, AT_OF_POSITIVES));
    if FULL == 1u {
        slopes.positive_top = bitcast<vec4<f32>>(col_words4(j, AT_POSITIVE_TOP));
        slopes.positive_factor = bitcast<vec4<f32>>(col_words4(j, AT_POSITIVE_FACTOR));
        slopes.of_all = bitcast<vec4<f32>>(col_words4(j, AT_OF_ALL));
    }
    return slopes;
}

// e^(x - top); the set's own maximum may round differently here than where it was found. NaN for NaN.
fn exp_below4(x: vec4<f32>, top: vec4<f32>) -> vec4<f32> {
    let gap = max(min(x, top) - top, vec4(EXP_LOWEST));
    return select(exp_in_range(gap), x, nans(x));
}

// dloss/ds of four pairs as far as it comes from one direction.
fn slope4(slopes: Slopes, four: Four, negative: vec4<bool>) -> vec4<f32> {
    let of_negatives = slopes.factor * exp_below4(four.hard, slopes.top);
    if FULL == 0u {
        return select(select(vec4(0.0), of_negatives, negative), slopes.of_positives, four.positive);
    }
    let of_positives = slopes.of_positives + slopes.positive_factor * exp_below4(four.s, slopes.positive_top);
    let taken = select(vec4(0.0), of_negatives + slopes.of_all, negative);
    return select(taken, of_positives + slopes.of_all, four.positive);
}

// Writes g of four pairs in one row; what they add to dlog_scale.
fn put_gradients(i: u32, j: u32, scale: f32, c: vec4<f32>, cols: Tags, by_column: Slopes) -> vec2<f32> {
    let four = four_of(i, j, scale, row_tag(i), cols, c);
    var slope = slope4(row_slopes(i), four, four.negative);
    if SYMMETRIC == 1u {
        slope += slope4(by_column, four, four.for_column);
    }
    store_g4(i, j, params.cols, scale * slope);
    return vec2(scale_terms4(slope, four.scaled), 0.0);
}

// One tile of g, and the sums over its rows that dlog_scale needs.
@compute @workgroup_size(TX, TY)
fn backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let t = product(group, lane);
    let j = group.x * 4u * TX + tile_col(lane);
    let scale = score_scale();
    let cols = col_tags(j);
    let by_column = col_slopes(j);
    let drop = clamped();
    for (var half = 0u; half < 2u; half++) {
        tile_barrier();
        for (var h = 2u * half; h < 2u * half + 2u; h++) {
            let i = group.y * 16u * TY + tile_row(lane, 4u * h);
            let four = tile_rows4(t, h);
            for (var r = 0u; r < tile_rows_inside(i); r++) {
                tile_put_row(lane, 4u * h + r, put_gradients(i + r, j, scale, quad_of(four, r), cols, by_column));
            }
        }
        tile_barrier();
        if params.has_sums == 1u {
            store_row_sums(group, lane, half, 0u, drop);
        }
    }
}

fn keep4(i: u32, j: u32, c: vec4<f32>) {
    let row = params.first_row + i;
    var own = row;
    if POSITIVE == INDEX {
        own = row_tag(i).own;
    }
    let col = params.first_col + j;
    if own >= col && own < col + 4u && own < params.first_col + params.cols {
        store_positive(row, 0u, c[own - col]);
    }
}

fn keep_positives(t: Tile, i: u32, j: u32, lane: u32) {
    for (var h = 0u; h < 4u; h++) {
        let row = i + tile_row(lane, 4u * h);
        let four = tile_rows4(t, h);
        for (var r = 0u; r < tile_rows_inside(row); r++) {
            keep4(row + r, j, quad_of(four, r));
        }
    }
}

// c of the positives in a tile's height: of rows with positives of their own number, the tiles that the diagonal crosses.
@compute @workgroup_size(TX, TY)
fn positives(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group.y * 16u * TY;
    if POSITIVE == INDEX {
        keep_positives(product(group, lane), i, group.x * 4u * TX + tile_col(lane), lane);
        return;
    }
    let first = params.first_row + i;
    for (var col = first - first % (4u * TX); col < first + 16u * TY; col += 4u * TX) {
        if col >= params.first_col && col < params.first_col + params.cols {
            let at = col - params.first_col;
            keep_positives(tile_product(i, at, 0u, params.dim, lane), i, at + tile_col(lane), lane);
        }
    }
}

@compute @workgroup_size(WG)
fn clear(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = item_of(group, groups, lane);
    if i < params.rows {
        store_rank(i, 0u, 0u);
    }
}

// Whether a key scores above the row's own, or as high and comes first; a row without a valid score is above nothing.
fn above(row: u32, j: u32, score: f32, own: f32) -> u32 {
    let col = params.first_col + j;
    let ahead = is_nan(own) || is_nan(score) || score > own || (score == own && col < row);
    return u32(j < params.cols && col != row && ahead);
}

fn count_above(i: u32, j: u32, c: vec4<f32>) {
    let row = params.first_row + i;
    let own = load_positive_in(row, 0u);
    // Whole numbers: the order does not matter.
    add_rank(row, 0u, (above(row, j, c.x, own) + above(row, j + 1u, c.y, own)) + (above(row, j + 2u, c.z, own) + above(row, j + 3u, c.w, own)));
}

// rank[i] = how many keys come before the row's own.
@compute @workgroup_size(TX, TY)
fn count_ranks(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group.y * 16u * TY;
    let j = group.x * 4u * TX + tile_col(lane);
    let t = product(group, lane);
    for (var h = 0u; h < 4u; h++) {
        let row = i + tile_row(lane, 4u * h);
        let four = tile_rows4(t, h);
        for (var r = 0u; r < tile_rows_inside(row); r++) {
            count_above(row + r, j, quad_of(four, r));
        }
    }
}
