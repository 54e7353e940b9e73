/// Reproducible random numbers by Philox4x32-10.
///
/// The seed is the key and (block, 0, stream) is the counter. Streams of one seed are independent, and every machine
/// draws the same numbers.
///
/// Source: Salmon, Moraes, Dror and Shaw, SC 2011, doi:10.1145/2063384.2063405.
///
/// ```
/// let mut random = wgloss::Random::new(7, 0);
/// assert!(random.below(10) < 10);
/// assert_eq!(wgloss::Random::new(7, 0).permutation(5), wgloss::Random::new(7, 0).permutation(5));
/// ```
#[derive(Debug, Clone)]
pub struct Random {
    key: [u32; 2],
    stream: u32,
    block: u64,
    words: [u32; 4],
    used: usize,
}

impl Random {
    /// The numbers of `seed` and `stream`, from the start.
    pub fn new(seed: u64, stream: u32) -> Self {
        Random { key: [seed as u32, (seed >> 32) as u32], stream, block: 0, words: [0; 4], used: 4 }
    }

    /// 32 random bits.
    pub fn word(&mut self) -> u32 {
        if self.used == 4 {
            self.words = philox([self.block as u32, (self.block >> 32) as u32, 0, self.stream], self.key);
            self.block += 1;
            self.used = 0;
        }
        self.used += 1;
        self.words[self.used - 1]
    }

    /// A number in [0, 1), a multiple of 2⁻²⁴.
    pub fn uniform(&mut self) -> f32 {
        (self.word() >> 8) as f32 / (1 << 24) as f32
    }

    /// A number in 0..n. Each has a probability within 2⁻³² of 1/n.
    pub fn below(&mut self, n: u32) -> u32 {
        ((u64::from(self.word()) * u64::from(n)) >> 32) as u32
    }

    /// The numbers 0..n in random order (Fisher and Yates).
    pub fn permutation(&mut self, n: u32) -> Vec<u32> {
        let mut order: Vec<u32> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i as usize, self.below(i + 1) as usize);
        }
        order
    }
}

pub(crate) fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let a = u64::from(counter[0]) * 0xD251_1F53;
        let b = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [(b >> 32) as u32 ^ counter[1] ^ key[0], b as u32, (a >> 32) as u32 ^ counter[3] ^ key[1], a as u32];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::philox;

    /// Random123's known answers, tests/kat_vectors of its distribution.
    #[test]
    fn known_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
        assert_eq!(
            philox([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]),
            [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]
        );
    }
}
