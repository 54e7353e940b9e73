// Philox4x32-10: 128 random bits of a counter and a key.
// Source: Salmon, Moraes, Dror and Shaw, SC 2011, doi:10.1145/2063384.2063405.

// The upper 32 bits of a * b, computed from halves of 16 bits, so that no intermediate sum exceeds 32 bits.
fn upper_product(a: u32, b: u32) -> u32 {
    let low = (a & 0xffffu) * (b & 0xffffu);
    let middle = (a >> 16u) * (b & 0xffffu) + (low >> 16u);
    let other = (a & 0xffffu) * (b >> 16u) + (middle & 0xffffu);
    return (a >> 16u) * (b >> 16u) + (middle >> 16u) + (other >> 16u);
}

fn philox(start: vec4<u32>, seed: vec2<u32>) -> vec4<u32> {
    var counter = start;
    var key = seed;
    for (var round = 0u; round < 10u; round++) {
        let a = vec2(upper_product(counter.x, 0xD2511F53u), counter.x * 0xD2511F53u);
        let b = vec2(upper_product(counter.z, 0xCD9E8D57u), counter.z * 0xCD9E8D57u);
        counter = vec4(b.x ^ counter.y ^ key.x, b.y, a.x ^ counter.w ^ key.y, a.y);
        key += vec2(0x9E3779B9u, 0xBB67AE85u);
    }
    return counter;
}
