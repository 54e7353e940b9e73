// Lengths of rows that squares would carry beyond f32 or below it.

// Sums over a row of x scaled by a power of two near its largest element, so that squares can neither overflow nor vanish.
struct Sums {
    scale: f32,
    squares: f32,
    along: f32, // <x, dy>
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

// Of all lanes of the row.
fn merged(lane: u32, sums: Sums) -> Sums {
    let scale = -reduce_max(lane, -sums.scale);
    let mine = rescaled(sums, scale);
    let all = reduce_sum2(lane, vec2(mine.squares, mine.along));
    return Sums(scale, all.x, all.y);
}

// |x_i| as (length, unit), |x_i| = length / unit: where the scale is below 1 it stays in the length, since |x_i| itself may exceed f32.
fn norm_of(sums: Sums) -> vec2<f32> {
    return vec2(sqrt(sums.squares) / max(sums.scale, 1.0), min(sums.scale, 1.0));
}
