// Lengths of rows whose squares may overflow or underflow f32.

// Sums over a row of x times a power of two (`scale`) that is near 1 / its largest element, so that squares neither
// overflow nor vanish.
struct Sums {
    scale: f32,
    squares: f32,
    along: f32, // <scale x, dy>
}

fn peak16(x: mat4x4<f32>) -> f32 {
    return max4(max(max(abs(x[0]), abs(x[1])), max(abs(x[2]), abs(x[3]))));
}

fn scale_of(peak: f32) -> f32 {
    return bitcast<f32>((254u - clamp(bitcast<u32>(peak) >> 23u, 1u, 253u)) << 23u);
}

fn rescaled(sums: Sums, scale: f32) -> Sums {
    let change = scale / sums.scale;
    return Sums(scale, sums.squares * change * change, sums.along * change);
}

fn with16(sums: Sums, x: mat4x4<f32>, dy: mat4x4<f32>) -> Sums {
    let next = rescaled(sums, min(sums.scale, scale_of(peak16(x))));
    let v = x * next.scale;
    return Sums(next.scale, next.squares + product16(v, v), next.along + product16(v, dy));
}

const NOTHING = Sums(0x1p+126f, 0.0, 0.0);

// The sums over all lanes of the row.
fn merged(lane: u32, sums: Sums) -> Sums {
    let scale = -reduce_max(lane, -sums.scale);
    let mine = rescaled(sums, scale);
    let all = reduce_sum2(lane, vec2(mine.squares, mine.along));
    return Sums(scale, all.x, all.y);
}

// |x_i| as (length, unit): |x_i| = length / unit. A scale below 1 stays in the length, because |x_i| itself may exceed
// f32.
fn norm_of(sums: Sums) -> vec2<f32> {
    return vec2(sqrt(sums.squares) / max(sums.scale, 1.0), min(sums.scale, 1.0));
}
