// bf16 in the lower half of a word: the upper half of an f32.

fn from_bf16(word: u32) -> f32 {
    return bitcast<f32>(word << 16u);
}

// To nearest, ties to even; a NaN stays one.
fn to_bf16(value: f32) -> u32 {
    let bits = bitcast<u32>(value);
    let rounded = (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
    return select(rounded, (bits >> 16u) | 0x40u, (bits & 0x7fffffffu) > 0x7f800000u);
}
