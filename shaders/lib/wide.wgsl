// Memory accessed as integers of eight bytes, for devices on which a load or store costs the same whatever its size.

fn from_wide(numbers: vec2<u64>) -> vec4<f32> {
    let low = vec2<u32>(numbers);
    let high = vec2<u32>(numbers >> vec2(32u));
    return bitcast<vec4<f32>>(vec4(low.x, high.x, low.y, high.y));
}

fn into_wide(values: vec4<f32>) -> vec2<u64> {
    let words = bitcast<vec4<u32>>(values);
    return vec2<u64>(words.xz) | (vec2<u64>(words.yw) << vec2(32u));
}

fn words_from_wide(number: u64) -> vec2<u32> {
    return vec2(u32(number), u32(number >> 32u));
}

fn words_into_wide(words: vec2<u32>) -> u64 {
    return u64(words.x) | (u64(words.y) << 32u);
}
