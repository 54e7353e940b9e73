// bf16 is the upper half of an f32. It is stored in the lower half of a word.

fn from_bf16(word: u32) -> f32 {
    return bitcast<f32>(word << 16u);
}

// Rounds to nearest, ties to even. The result is in the upper half of the word; a NaN stays a NaN.
fn rounded_to_bf16(value: f32) -> u32 {
    let bits = bitcast<u32>(value);
    return select(bits + 0x7fffu + ((bits >> 16u) & 1u), bits | 0x400000u, (bits & 0x7fffffffu) > 0x7f800000u);
}

fn to_bf16(value: f32) -> u32 {
    return rounded_to_bf16(value) >> 16u;
}

// Two neighbours in one word, the first in the lower half.
fn pair_of_bf16(first: f32, second: f32) -> u32 {
    return to_bf16(first) | (rounded_to_bf16(second) & 0xffff0000u);
}
