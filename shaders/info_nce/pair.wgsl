// The pairs of two lines (a line is a row or a column of the scores): scores, sets and slopes. A block of pairs is the
// batch's queries with its keys, with further negatives or with themselves; the keys with themselves; or each query
// with negatives of its own.

override SYMMETRIC: u32 = 0u;
// A row's positives: the key with the row's own number (OWN), one key by index, or the keys of its group. The value is
// 3 in blocks without positives.
const OWN: u32 = 0u;
const INDEX: u32 = 1u;
const GROUPS: u32 = 2u;
override POSITIVE: u32 = 0u;
// What is left out: the key with the row's own number (EXCLUDE_SELF); keys of the row's group or with its id that are
// not positives; keys with c above `nearest` (NEAR); the other rows' positives (IN_BATCH 0).
override EXCLUDE_SELF: u32 = 0u;
override HAS_GROUP: u32 = 0u;
override HAS_ID: u32 = 0u;
override NEAR: u32 = 0u;
override IN_BATCH: u32 = 1u;
// Whether c is the cosine of the two rows, which may have any length.
override NORMALIZE: u32 = 0u;
override HAS_LOG_Q: u32 = 0u;
override HARD: u32 = 0u;
override FULL: u32 = 0u;
// Whether the entropy of a line is summed instead of what its loss needs.
override ENTROPY: u32 = 0u;

const INSIDE: u32 = 1u;
const DECOUPLED: u32 = 2u;
const DEBIASED: u32 = 4u;
const SMOOTHS: u32 = 8u;
override FORM: u32 = 0u;

// The words of a line in row_line and col_line: those that identify it, and those that its gradients need.
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
const AT_INVERSE: u32 = 11u; // 1 / the line's length

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
    if HAS_GROUP == 1u {
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

// A word of four columns. Column 0 is line `first` of col_line.
fn col_words4(first: u32, j: u32, at: u32) -> vec4<u32> {
    let column = vec4(first) + min(columns4(j), vec4(max(params.cols, 1u) - 1u));
    return vec4(
        load_col_line(column.x, at), load_col_line(column.y, at), load_col_line(column.z, at), load_col_line(column.w, at),
    );
}

// The words of a lane's four columns.
struct Tags {
    group: vec4<u32>,
    id: vec4<u32>,
    log_q: vec4<f32>,
    nearest: vec4<f32>,
}

fn col_tags(first: u32, j: u32) -> Tags {
    var tags = Tags();
    if HAS_GROUP == 1u {
        tags.group = col_words4(first, j, AT_GROUP);
    }
    if HAS_ID == 1u {
        tags.id = col_words4(first, j, AT_ID);
    }
    if HAS_LOG_Q == 1u {
        tags.log_q = bitcast<vec4<f32>>(col_words4(first, j, AT_LOG_Q));
    }
    if NEAR == 1u && SYMMETRIC == 1u {
        tags.nearest = bitcast<vec4<f32>>(col_words4(first, j, AT_NEAREST));
    }
    return tags;
}

// Four pairs of a row.
struct Four {
    scaled: vec4<f32>, // scale (c - margin [j in P])
    s: vec4<f32>,
    hard: vec4<f32>, // s + hardness c of negatives
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
    if POSITIVE == OWN || POSITIVE == INDEX {
        four.positive = inside & (column == vec4(row.own));
    }
    if POSITIVE == GROUPS {
        four.positive = inside & (cols.group == vec4(row.group));
    }
    four.negative = inside & !four.positive;
    if IN_BATCH == 0u {
        four.negative &= column >= vec4(params.queries);
    }
    if HAS_GROUP == 1u && POSITIVE != GROUPS {
        four.negative &= cols.group != vec4(row.group);
    }
    if HAS_ID == 1u {
        four.negative &= cols.id != vec4(row.id);
    }
    four.for_column = four.negative;
    if NEAR == 1u {
        four.negative &= !(c > vec4(row.nearest));
        four.for_column &= !(c > cols.nearest);
    }
    four.hard = scale * c;
    four.scaled = four.hard - select(vec4(0.0), vec4(scale * params.margin), four.positive);
    four.s = four.scaled;
    if HAS_LOG_Q == 1u {
        four.s -= cols.log_q;
        four.hard -= cols.log_q;
    }
    if HARD == 1u {
        four.hard += params.hardness * c;
    }
    return four;
}

// The contents of the parts of `state`.
const OF_NEGATIVES: u32 = 0u; // log-sum-exps
const OF_POSITIVES: u32 = 1u;
const SUM_OF_POSITIVES: u32 = 2u; // sums and counts
const SUM_OF_NEGATIVES: u32 = 3u;

fn parts() -> u32 {
    return select(1u, 4u, FULL == 1u && ENTROPY == 0u);
}

// What a line's entropy needs: AT_TOP and AT_FACTOR hold its log-sum-exp as max and ln(1 + rest).
fn row_levels(i: u32) -> Slopes {
    var levels = Slopes();
    levels.top = row_word(i, AT_TOP);
    levels.factor = row_word(i, AT_FACTOR);
    return levels;
}

fn col_levels(j: u32) -> Slopes {
    var levels = Slopes();
    if ENTROPY == 1u && SYMMETRIC == 1u {
        levels.top = bitcast<vec4<f32>>(col_words4(0u, j, AT_TOP));
        levels.factor = bitcast<vec4<f32>>(col_words4(0u, j, AT_FACTOR));
    }
    return levels;
}

fn log_p4(s: vec4<f32>, levels: Slopes) -> vec4<f32> {
    return (s - levels.top) - levels.factor;
}

// Four scores for their row and for their columns, replaced by `left_out` where they do not belong to the part.
struct Masked {
    row: vec4<f32>,
    column: vec4<f32>,
}

fn masked4(i: u32, j: u32, part: u32, scale: f32, cols: Tags, levels: Slopes, c: vec4<f32>) -> Masked {
    let four = four_of(i, j, scale, row_tag(i), cols, c);
    let none = vec4(left_out(part));
    if ENTROPY == 1u {
        let s = select(four.hard, four.s, four.positive);
        return Masked(
            select(none, log_p4(s, row_levels(i)), four.negative | four.positive),
            select(none, log_p4(s, levels), four.for_column | four.positive),
        );
    }
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
    return ENTROPY == 1u || (FULL == 1u && part >= SUM_OF_POSITIVES);
}

// -sum p ln p from four ln p, as (sum, 0).
fn entropy_of4(log_p: vec4<f32>) -> vec2<f32> {
    let terms = exp_in_range(max(log_p, vec4(EXP_LOWEST))) * log_p;
    return vec2(-sum4(select(select(terms, vec4(0.0), log_p < vec4(EXP_LOWEST)), log_p, nans(log_p))), 0.0);
}

// Replaces a score that does not belong to the part. In the sum over positives this is +inf, because a positive of -inf
// counts there while +inf poisons the line anyway. Elsewhere it is -inf, a mask.
fn left_out(part: u32) -> f32 {
    return select(masked(), infinity(), part == SUM_OF_POSITIVES);
}

// Sum and count of the scores that are not left out.
fn sum_of4(v: vec4<f32>, part: u32) -> vec2<f32> {
    let out = bitcast<vec4<u32>>(v) == vec4(bitcast<u32>(left_out(part)));
    return vec2(sum4(select(v, vec4(0.0), out)), sum4(select(vec4(1.0), vec4(0.0), out)));
}

fn pair_of4(v: vec4<f32>, part: u32) -> vec2<f32> {
    if ENTROPY == 1u {
        return entropy_of4(v);
    }
    if is_sum(part) {
        return sum_of4(v, part);
    }
    return lse_of4(v);
}

// The pair with a rest of NaN if one of the four scores poisons the line. Sums need no test.
fn poisoned4(pair: vec2<f32>, v: vec4<f32>, part: u32) -> vec2<f32> {
    return vec2(pair.x, select(pair.y, not_a_number(), !is_sum(part) && poisons(mat4x4(v, v, v, v))));
}

// What the gradients of four pairs need of the line of each.
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
    slopes.top = bitcast<vec4<f32>>(col_words4(0u, j, AT_TOP));
    slopes.factor = bitcast<vec4<f32>>(col_words4(0u, j, AT_FACTOR));
    slopes.of_positives = bitcast<vec4<f32>>(col_words4(0u, j, AT_OF_POSITIVES));
    if FULL == 1u {
        slopes.positive_top = bitcast<vec4<f32>>(col_words4(0u, j, AT_POSITIVE_TOP));
        slopes.positive_factor = bitcast<vec4<f32>>(col_words4(0u, j, AT_POSITIVE_FACTOR));
        slopes.of_all = bitcast<vec4<f32>>(col_words4(0u, j, AT_OF_ALL));
    }
    return slopes;
}

// e^(x - top) of elements of a set with maximum `top`. With NEAR, x is bounded by `top`: scores may round differently
// here than where `top` was found, and so may the selection by `nearest`. A set poisoned by NaN or +inf has NaN as its
// factor.
fn exp_below4(x: vec4<f32>, top: vec4<f32>) -> vec4<f32> {
    if NEAR == 1u {
        return exp_in_range(max(min(x, top) - top, vec4(EXP_LOWEST)));
    }
    return exp_in_range(max(x - top, vec4(EXP_LOWEST)));
}

// dloss/ds of four pairs, from one direction (rows or columns).
fn slope4(slopes: Slopes, four: Four, negative: vec4<bool>) -> vec4<f32> {
    let of_negatives = slopes.factor * exp_below4(four.hard, slopes.top);
    if FULL == 0u {
        return select(select(vec4(0.0), of_negatives, negative), slopes.of_positives, four.positive);
    }
    let of_positives = slopes.of_positives + slopes.positive_factor * exp_below4(four.s, slopes.positive_top);
    let taken = select(vec4(0.0), of_negatives + slopes.of_all, negative);
    return select(taken, of_positives + slopes.of_all, four.positive);
}

