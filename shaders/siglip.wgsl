// z_ij = s_ij + bias, s_ij = scale <q_i, k_j>, scale = min(e^log_scale, max_scale) or 1/temperature;
// loss_i = sum_j ln(1 + e^x_ij), x_ij = -z_ij for i = j, else z_ij;  slope_ij = dloss/dz_ij = w_i y_ij/(1 + e^-x_ij), y = -1 for i = j, else 1;
// g = scale slope;  dq = g k;  dk = g^T q;  dlog_scale = sum_ij slope_ij s_ij, 0 where the scale is clamped;  dbias = sum_ij slope_ij.
// Source: Zhai et al. 2023, arXiv:2303.15343, section 3.2.
// row_part holds sums of each row over the tile's columns, to be added up over the column tiles.
// Cost, U = 2NMD FLOP: forward U, backward 3U. s is formed tile by tile in registers and never stored; g in chunks of bounded size.

fn score_bias() -> f32 {
    return select(params.constant_bias, load_bias(0u, 0u), params.has_bias == 1u);
}

fn own4(i: u32, j: u32) -> vec4<bool> {
    return vec4(params.first_row + i) == vec4(params.first_col + j) + vec4(0u, 1u, 2u, 3u);
}

fn inside4(j: u32) -> vec4<bool> {
    return vec4(j) + vec4(0u, 1u, 2u, 3u) < vec4(params.cols);
}

// ln(1 + e) within 3 ulp for e in 0..=1: 2 artanh(e/(2 + e)), for large e as ln 2 + 2 artanh((e - 1)/(e + 3)), so that 1 + e is never formed.
fn log1p_unit4(e: vec4<f32>) -> vec4<f32> {
    let large = e > vec4(0.41421356);
    let s = select(e, e - 1.0, large) / (select(vec4(2.0), vec4(3.0), large) + e);
    let z = s * s;
    let tail = s * z * (0.6666666667 + z * (0.4 + z * (0.2857142857 + z * (0.2222222222 + z * 0.1818181818))));
    let n = select(vec4(0.0), vec4(1.0), large);
    return n * LN2_HIGH + (2.0 * s + (tail + n * LN2_LOW));
}

// ln(1 + e^x), from the exponential that cannot overflow.
fn pair_loss4(x: vec4<f32>) -> vec4<f32> {
    let loss = max(x, vec4(0.0)) + log1p_unit4(precise_exp4(-abs(x)));
    return select(loss, x, nans(x));
}

// 1/(1 + e^-x), to full relative precision also where it is small.
fn pair_slope4(x: vec4<f32>) -> vec4<f32> {
    let e = precise_exp4(-abs(x));
    return select(select(vec4(1.0), e, x < vec4(0.0)) / (1.0 + e), x, nans(x));
}

fn loss4(i: u32, j: u32, bias: f32, scores: vec4<f32>) -> f32 {
    let z = scores + bias;
    let loss = select(vec4(0.0), pair_loss4(select(z, -z, own4(i, j))), inside4(j));
    return (loss.x + loss.y) + (loss.z + loss.w);
}

fn loss8(i: u32, j: u32, k: u32, bias: f32, near_scores: vec4<f32>, far_scores: vec4<f32>) -> vec2<f32> {
    return vec2(loss4(i, j, bias, near_scores) + loss4(i, k, bias, far_scores), 0.0);
}

fn store_losses(t: Tile, group: vec3<u32>, lane: u32, column: u32) {
    let bias = score_bias();
    let i = group.y * 8u * TY;
    let j = group.x * 8u * TX + tile_col(lane, 0u);
    let k = group.x * 8u * TX + tile_col(lane, 4u);
    let lines = Lines(
        loss8(i + tile_row(lane, 0u), j, k, bias, t.r0, t.s0), loss8(i + tile_row(lane, 1u), j, k, bias, t.r1, t.s1),
        loss8(i + tile_row(lane, 2u), j, k, bias, t.r2, t.s2), loss8(i + tile_row(lane, 3u), j, k, bias, t.r3, t.s3),
        loss8(i + tile_row(lane, 4u), j, k, bias, t.r4, t.s4), loss8(i + tile_row(lane, 5u), j, k, bias, t.r5, t.s5),
        loss8(i + tile_row(lane, 6u), j, k, bias, t.r6, t.s6), loss8(i + tile_row(lane, 7u), j, k, bias, t.r7, t.s7),
    );
    store_row_sums(group, lane, lines, column, false);
}

// One tile of s: the loss of its rows.
@compute @workgroup_size(TX, TY)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    store_losses(product(group.y * 8u * TY, group.x * 8u * TX, lane), group, lane, 0u);
}

fn slope4(i: u32, j: u32, bias: f32, scores: vec4<f32>) -> vec4<f32> {
    let own = own4(i, j);
    let z = scores + bias;
    let slope = pair_slope4(select(z, -z, own));
    return select(vec4(0.0), weight(params.first_row + i) * select(slope, -slope, own), inside4(j));
}

fn put4(i: u32, j: u32, g: vec4<f32>) {
    if j < params.cols {
        store_g(i, j, g.x);
    }
    if j + 1u < params.cols {
        store_g(i, j + 1u, g.y);
    }
    if j + 2u < params.cols {
        store_g(i, j + 2u, g.z);
    }
    if j + 3u < params.cols {
        store_g(i, j + 3u, g.w);
    }
}

// What the lanes of a tile know of its scores.
struct Score {
    scale: f32,
    bias: f32,
}

// Writes g of a lane's eight pairs in one row; what they add to dlog_scale and dbias.
fn slopes8(i: u32, j: u32, k: u32, score: Score, near_scores: vec4<f32>, far_scores: vec4<f32>) -> vec2<f32> {
    if i >= params.rows {
        return vec2(0.0);
    }
    let near_slopes = slope4(i, j, score.bias, near_scores);
    let far_slopes = slope4(i, k, score.bias, far_scores);
    if params.has_g == 1u {
        put4(i, j, score.scale * near_slopes);
        put4(i, k, score.scale * far_slopes);
    }
    let four = near_slopes + far_slopes;
    return vec2(
        scale_terms4(near_slopes, near_scores) + scale_terms4(far_slopes, far_scores),
        (four.x + four.y) + (four.z + four.w),
    );
}

// One tile of g; the sums over its rows that dlog_scale and dbias need; the loss of its rows.
@compute @workgroup_size(TX, TY)
fn backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group.y * 8u * TY;
    let t = product(i, group.x * 8u * TX, lane);
    let j = group.x * 8u * TX + tile_col(lane, 0u);
    let k = group.x * 8u * TX + tile_col(lane, 4u);
    let score = Score(score_scale(), score_bias());
    let lines = Lines(
        slopes8(i + tile_row(lane, 0u), j, k, score, t.r0, t.s0), slopes8(i + tile_row(lane, 1u), j, k, score, t.r1, t.s1),
        slopes8(i + tile_row(lane, 2u), j, k, score, t.r2, t.s2), slopes8(i + tile_row(lane, 3u), j, k, score, t.r3, t.s3),
        slopes8(i + tile_row(lane, 4u), j, k, score, t.r4, t.s4), slopes8(i + tile_row(lane, 5u), j, k, score, t.r5, t.s5),
        slopes8(i + tile_row(lane, 6u), j, k, score, t.r6, t.s6), slopes8(i + tile_row(lane, 7u), j, k, score, t.r7, t.s7),
    );
    if params.has_sums == 1u {
        store_row_sums(group, lane, lines, 0u, clamped());
    }
    if params.has_loss == 1u {
        store_losses(t, group, lane, 2u);
    }
}
