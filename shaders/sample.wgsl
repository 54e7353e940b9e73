// ids_ij: draw j of row i, from q among the ids that are not in row i's list.
// log_q_ij = ln q(ids_ij) - ln(1 - sum_l q(l)), summed over the ids l of the list; plus `log_count`.
// UNIFORM: q(k) = 1/n.  LOG_UNIFORM: q(k) = ln(1 + 1/(k + 1))/ln(n + 1).  TABLE: q(k) = u/n + (1 - u) p(k), where p is
// given by an alias table and u is `uniform`. Row k of the table: the word (u32) below which k stays k; the id that k
// becomes otherwise; the bits of ln p(k).
// Random bits: philox(row, number of the draw, step, stream + 2^16 attempt; seed). All draws use integer arithmetic, so
// that every device draws the same ids.
// Source: Walker 1977, doi:10.1145/355744.355749, and Vose 1991, doi:10.1109/32.92917 (alias method); log-uniform: Jean
// et al. 2015, arXiv:1412.2007, as TensorFlow's sampler; u: Yang et al. 2020, doi:10.1145/3366424.3386195.
// Cost per draw: writes 8 bytes; reads 12 bytes of a table at random, and 4 log2 L bytes of a list of L ids; about 300
// integer operations per attempt.

const UNIFORM: u32 = 0u;
const LOG_UNIFORM: u32 = 1u;
const TABLE: u32 = 2u;
override PROPOSAL: u32 = 0u;
override REJECTS: u32 = 0u;

// The id where a list excludes all ids, or after ATTEMPTS rejected attempts.
const NONE: u32 = 0xffffffffu;
const ATTEMPTS: u32 = 256u;

fn log_of(x: f32) -> f32 {
    return precise_log4(vec4(x)).x;
}

// 2^f - 1, f and the result in units of 2^-32: e^y - 1 = y (1 + y/2 (1 + y/3 (1 + ..))) with y = f ln 2.
fn growth(f: u32) -> u32 {
    let y = upper_product(f, 0xb17217f7u);
    var p = 0u;
    for (var n = 13u; n > 1u; n--) {
        let share = 0xffffffffu / n;
        p = upper_product(y, share + upper_product(share, p));
    }
    return y + upper_product(y, p);
}

// floor(2^(t log2(n + 1))) - 1, with t = word 2^-32 and log2(n + 1) = log_whole + log_part 2^-32.
fn log_uniform(word: u32) -> u32 {
    let low = word * params.log_whole;
    let f = low + upper_product(word, params.log_part);
    let e = upper_product(word, params.log_whole) + select(0u, 1u, f < low);
    let above = select(0u, growth(f) >> (32u - max(e, 1u)), e > 0u);
    return min((1u << e) + above - 1u, params.n - 1u);
}

fn drawn(bits: vec4<u32>) -> u32 {
    if PROPOSAL == LOG_UNIFORM {
        return log_uniform(bits.x);
    }
    let k = upper_product(bits.x, params.n);
    if bits.z < params.uniform_words || bits.y < load_table(k, 0u) {
        return k;
    }
    return load_table(k, 1u);
}

fn log_of_proposal(k: u32) -> f32 {
    if PROPOSAL == UNIFORM {
        return -log_of(f32(params.n));
    }
    if PROPOSAL == LOG_UNIFORM {
        return log_of(precise_log1p(1.0 / (f32(k) + 1.0)) * params.per_log);
    }
    let log_p = bitcast<f32>(load_table(k, 2u));
    if params.uniform == 0.0 {
        return log_p;
    }
    return log_of(params.uniform / f32(params.n) + (1.0 - params.uniform) * precise_exp(log_p));
}

// Returns (id, room). room: the number of ids below n that are not listed. id: number u of these, for u drawn from 0 to
// room - 1; it is u plus the number of listed ids that are not above it. NONE if room is 0.
fn unlisted(list: vec2<u32>, word: u32) -> vec2<u32> {
    let listed = min(place_in(list, params.n) - list.x, params.n);
    let room = params.n - listed;
    let u = upper_product(word, room);
    var low = 0u;
    var high = listed;
    while low < high {
        let middle = low + (high - low) / 2u;
        if load_items(list.x + middle, 0u) - middle <= u {
            low = middle + 1u;
        } else {
            high = middle;
        }
    }
    return vec2(select(u + low, NONE, room == 0u), room);
}

// left_i = ln(1 - sum_l q(l)), summed over the ids l of row i's list.
@compute @workgroup_size(WG)
fn leave(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = item_of(group, groups, lane);
    if i >= params.rows {
        return;
    }
    let list = list_of(i);
    let end = place_in(list, params.n);
    var sum = 0.0;
    for (var at = list.x; at < end; at++) {
        sum += precise_exp(log_of_proposal(min(load_items(at, 0u), params.n - 1u)));
    }
    store_left(i, 0u, log_of(max(1.0 - sum, 0.0)));
}

@compute @workgroup_size(WG)
fn draw(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let item = item_of(group, groups, lane);
    let i = item / params.cols;
    let j = item - i * params.cols;
    if i >= params.rows {
        return;
    }
    let list = list_of(i);
    var id = NONE;
    var value = 0.0;
    if PROPOSAL == UNIFORM {
        let bits = philox(vec4(params.first + i, j, params.step, params.stream), vec2(params.seed_low, params.seed_high));
        let found = unlisted(list, bits.x);
        id = found.x;
        value = -log_of(f32(found.y));
    } else {
        for (var attempt = 0u; attempt < ATTEMPTS; attempt++) {
            let counter = vec4(params.first + i, j, params.step, params.stream | (attempt << 16u));
            let candidate = drawn(philox(counter, vec2(params.seed_low, params.seed_high)));
            if REJECTS == 0u || !is_listed(list, candidate) {
                id = candidate;
                break;
            }
        }
        if id != NONE {
            value = log_of_proposal(id);
            if REJECTS == 1u {
                value -= load_left_in(i, 0u);
            }
        }
    }
    store_ids(i, j, id);
    store_log_q(i, j, select(value + params.log_count, infinity(), id == NONE));
}

// log_q_ij = ln q(given_ij) + `log_count`; +inf for ids from n on.
@compute @workgroup_size(WG)
fn log_probability(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let item = item_of(group, groups, lane);
    let i = item / params.cols;
    let j = item - i * params.cols;
    if i >= params.rows {
        return;
    }
    let id = load_given(i, j);
    var value = infinity();
    if id < params.n {
        value = log_of_proposal(id) + params.log_count;
    }
    store_log_q(i, j, value);
}
