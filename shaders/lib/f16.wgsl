// IEEE 754 binary16 in the lower half of a word. WGSL's pack2x16float may round either way and need not know infinities.

fn from_f16(word: u32) -> f32 {
    let magnitude = (word & 0x7fffu) << 13u;
    // Moves the exponent's bias from 15 to 127; a subnormal, exponent 0, is a sum with 2^-14 that is taken away again.
    let normal = magnitude + (112u << 23u);
    let special = magnitude + (224u << 23u);
    let small = bitcast<u32>(bitcast<f32>(magnitude + (113u << 23u)) - 0x1p-14f);
    let bits = select(select(normal, small, magnitude < (1u << 23u)), special, magnitude >= (31u << 23u));
    return bitcast<f32>(bits | ((word & 0x8000u) << 16u));
}

// To nearest, ties to even; from 65,520 on infinite; a NaN stays one.
fn to_f16(value: f32) -> u32 {
    let bits = bitcast<u32>(value);
    let magnitude = bits & 0x7fffffffu;
    let normal = (magnitude - (112u << 23u) + 0xfffu + ((magnitude >> 13u) & 1u)) >> 13u;
    // Below 2^-14 the unit is 2^-24: the addition of 1/2 rounds to it.
    let small = bitcast<u32>(bitcast<f32>(magnitude) + 0.5) - 0x3f000000u;
    let finite = select(normal, small, magnitude < (113u << 23u));
    let large = select(0x7c00u, 0x7e00u, magnitude > 0x7f800000u);
    return select(finite, large, magnitude >= 0x477ff000u) | ((bits >> 16u) & 0x8000u);
}

// Two neighbours, the first in the lower half.
fn pair_of_f16(first: f32, second: f32) -> u32 {
    return to_f16(first) | (to_f16(second) << 16u);
}
