// z_ij = s_ij + bias, s_ij = scale <q_i, k_j>, scale = min(e^log_scale, max_scale) or 1/temperature.
// loss_i = sum_j ln(1 + e^x_ij), where x_ij = -z_ij for i = j, else z_ij.
// slope_ij = dloss/dz_ij = w_i y_ij/(1 + e^-x_ij), where y_ij = -1 for i = j, else 1 (w_i: see `weight`).
// g = scale slope;  dq = g k;  dk = g^T q;
// dlog_scale = sum_ij slope_ij s_ij, 0 where the scale is clamped;  dbias = sum_ij slope_ij.
// Source: Zhai et al. 2023, arXiv:2303.15343, section 3.2.
// row_part holds the sums of each row over the columns of a tile. They are added up over the column tiles.
// Cost, U = 2NMD FLOP: forward U, backward 3U. s is formed tile by tile in registers and never stored; g is stored in
// chunks of bounded size.

fn score_bias() -> f32 {
    return select(params.constant_bias, load_bias(0u, 0u), params.has_bias == 1u);
}

fn own4(i: u32, j: u32) -> vec4<bool> {
    return vec4(params.first_row + i) == columns4(params.first_col + j);
}

// ln(1 + e) within 3 ulp for 0 <= e <= 1: 2 artanh(e/(2 + e)), or for large e ln 2 + 2 artanh((e - 1)/(e + 3)), so that
// 1 + e is never formed.
fn log1p_unit4(e: vec4<f32>) -> vec4<f32> {
    let large = e > vec4(0.41421356);
    let s = select(e, e - 1.0, large) / (select(vec4(2.0), vec4(3.0), large) + e);
    let z = s * s;
    let tail = s * z * (0.6666666667 + z * (0.4 + z * (0.2857142857 + z * (0.2222222222 + z * 0.1818181818))));
    let n = select(vec4(0.0), vec4(1.0), large);
    return n * LN2_HIGH + (2.0 * s + (tail + n * LN2_LOW));
}

// ln(1 + e^x), computed from e^-|x|, which cannot overflow.
fn pair_loss4(x: vec4<f32>) -> vec4<f32> {
    let loss = max(x, vec4(0.0)) + log1p_unit4(precise_exp4(-abs(x)));
    return select(loss, x, nans(x));
}

// 1/(1 + e^-x), to full relative precision even where it is small.
fn pair_slope4(x: vec4<f32>) -> vec4<f32> {
    let e = precise_exp4(-abs(x));
    return select(select(vec4(1.0), e, x < vec4(0.0)) / (1.0 + e), x, nans(x));
}

// The constants of the scores. `drop`: the scale is clamped, so that dlog_scale is 0.
struct Score {
    scale: f32,
    bias: f32,
    drop: bool,
}

fn score() -> Score {
    return Score(score_scale(), score_bias(), clamped());
}

fn loss4(i: u32, j: u32, score: Score, products: vec4<f32>) -> vec2<f32> {
    let z = score.scale * products + score.bias;
    return vec2(sum4(select(vec4(0.0), pair_loss4(select(z, -z, own4(i, j))), inside4(j))), 0.0);
}

fn put_losses(t: Tile, group: vec3<u32>, lane: u32, h: u32, score: Score) {
    let i = group.y * 16u * TY + tile_row(lane, 4u * h);
    let j = group.x * 4u * TX + tile_col(lane);
    let s = tile_rows4(t, h);
    tile_put_rows4(lane, h, mat4x2(
        loss4(i, j, score, s[0]), loss4(i + 1u, j, score, s[1]), loss4(i + 2u, j, score, s[2]), loss4(i + 3u, j, score, s[3]),
    ));
}

fn store_losses(t: Tile, group: vec3<u32>, lane: u32, score: Score, column: u32) {
    if UNROLLED == 1u {
        tile_barrier();
        put_losses(t, group, lane, 0u, score);
        put_losses(t, group, lane, 1u, score);
        store_rows(group, lane, 0u, column, true);
        tile_barrier();
        put_losses(t, group, lane, 2u, score);
        put_losses(t, group, lane, 3u, score);
        store_rows(group, lane, 1u, column, true);
        return;
    }
    for (var half = 0u; half < 2u; half++) {
        tile_barrier();
        for (var h = 2u * half; h < 2u * half + 2u; h++) {
            put_losses(t, group, lane, h, score);
        }
        store_rows(group, lane, half, column, true);
    }
}

// One tile of s: the loss of its rows.
@compute @workgroup_size(TX, TY)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    store_losses(product(group, lane), group, lane, score(), 0u);
}

// The factor of the gradients of a row: the gradient of its loss times the factor of the reduction.
fn weight(row: u32) -> f32 {
    return params.factor * load_dy(select(0u, row, params.dy_by_row == 1u), 0u);
}

// Stores g of four pairs of one row. Returns their terms of dlog_scale and dbias.
fn slopes4(i: u32, j: u32, score: Score, products: vec4<f32>) -> vec2<f32> {
    if i >= params.rows {
        return vec2(0.0);
    }
    let own = own4(i, j);
    let scores = score.scale * products;
    let z = scores + score.bias;
    let slope = pair_slope4(select(z, -z, own));
    let slopes = select(vec4(0.0), weight(params.first_row + i) * select(slope, -slope, own), inside4(j));
    if params.has_g == 1u {
        store_g4(i, j, params.cols, score.scale * slopes);
    }
    return vec2(select(sum4(products4(slopes, scores)), 0.0, score.drop), sum4(slopes));
}

fn put_slopes(t: Tile, group: vec3<u32>, lane: u32, h: u32, score: Score) {
    let i = group.y * 16u * TY + tile_row(lane, 4u * h);
    let j = group.x * 4u * TX + tile_col(lane);
    let s = tile_rows4(t, h);
    tile_put_rows4(lane, h, mat4x2(
        slopes4(i, j, score, s[0]), slopes4(i + 1u, j, score, s[1]), slopes4(i + 2u, j, score, s[2]), slopes4(i + 3u, j, score, s[3]),
    ));
}

fn put_sums(half: u32, group: vec3<u32>, lane: u32) {
    if params.has_sums == 1u {
        store_rows(group, lane, half, 0u, true);
    }
}

fn store_gradients(t: Tile, group: vec3<u32>, lane: u32, score: Score) {
    if UNROLLED == 1u {
        tile_barrier();
        put_slopes(t, group, lane, 0u, score);
        put_slopes(t, group, lane, 1u, score);
        put_sums(0u, group, lane);
        tile_barrier();
        put_slopes(t, group, lane, 2u, score);
        put_slopes(t, group, lane, 3u, score);
        put_sums(1u, group, lane);
        return;
    }
    for (var half = 0u; half < 2u; half++) {
        tile_barrier();
        for (var h = 2u * half; h < 2u * half + 2u; h++) {
            put_slopes(t, group, lane, h, score);
        }
        put_sums(half, group, lane);
    }
}

// One tile of g, the sums over its rows for dlog_scale and dbias, and the loss of its rows, if asked for.
@compute @workgroup_size(TX, TY)
fn backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let t = product(group, lane);
    let score = score();
    store_gradients(t, group, lane, score);
    if params.has_loss == 1u {
        store_losses(t, group, lane, score, 2u);
    }
}
