// IEEE 754 binary16 in the lower half of a word. WGSL's pack2x16float may round in either direction and need not
// support infinities.

fn from_f16(word: u32) -> f32 {
    let magnitude = (word & 0x7fffu) << 13u;
    // `normal` moves the exponent's bias from 15 to 127. A subnormal (exponent 0) becomes a sum with 2^-14, from which
    // 2^-14 is subtracted again.
    let normal = magnitude + (112u << 23u);
    let special = magnitude + (224u << 23u);
    let small = bitcast<u32>(bitcast<f32>(magnitude + (113u << 23u)) - 0x1p-14f);
    let bits = select(select(normal, small, magnitude < (1u << 23u)), special, magnitude >= (31u << 23u));
    return bitcast<f32>(bits | ((word & 0x8000u) << 16u));
}

// Rounds to nearest, ties to even. Magnitudes of 65,520 and above become infinite; a NaN stays a NaN.
fn to_f16(value: f32) -> u32 {
    let bits = bitcast<u32>(value);
    let magnitude = bits & 0x7fffffffu;
    let normal = (magnitude - (112u << 23u) + 0xfffu + ((magnitude >> 13u) & 1u)) >> 13u;
    // Below 2^-14 the unit in the last place is 2^-24: adding 1/2 rounds to it.
    let small = bitcast<u32>(bitcast<f32>(magnitude) + 0.5) - 0x3f000000u;
    let finite = select(normal, small, magnitude < (113u << 23u));
    let large = select(0x7c00u, 0x7e00u, magnitude > 0x7f800000u);
    return select(finite, large, magnitude >= 0x477ff000u) | ((bits >> 16u) & 0x8000u);
}

// Two neighbours in one word, the first in the lower half.
fn pair_of_f16(first: f32, second: f32) -> u32 {
    return to_f16(first) | (to_f16(second) << 16u);
}
