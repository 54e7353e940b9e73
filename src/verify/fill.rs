use crate::Random;

/// A way to fill a matrix. Each one has broken some kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// All 0.7: a race in a reduction shows at once.
    Equal,
    /// Between −1 and 1.
    Small,
    /// Between −80 and 80: e^x overflows unless the row's largest element is subtracted first.
    Wide,
    /// Between −10⁴ and 10⁴.
    Huge,
    /// As `Small`, but one element of each row is 20 times larger: a softmax that is not flat.
    Outlier,
    /// Rising along each row: the running maximum changes at every step.
    Sorted,
    /// As `Small`, but about half the elements are −∞, and all elements of the first row.
    Masked,
    /// Around 10⁻⁴⁰: subnormal.
    Subnormal,
}

/// Every fill.
pub const FILLS: [Fill; 8] =
    [Fill::Equal, Fill::Small, Fill::Wide, Fill::Huge, Fill::Outlier, Fill::Sorted, Fill::Masked, Fill::Subnormal];

impl Fill {
    /// rows × cols numbers. The same arguments give the same numbers.
    pub fn matrix(self, rows: usize, cols: usize, seed: u64) -> Vec<f32> {
        let mut random = Random::new(seed, self as u32);
        let mut signed = || 2.0 * random.uniform() - 1.0;
        let value = |index: usize| {
            let (row, col) = (index / cols, index % cols);
            let noise = signed();
            match self {
                Fill::Equal => 0.7,
                Fill::Small => noise,
                Fill::Wide => 80.0 * noise,
                Fill::Huge => 1e4 * noise,
                Fill::Outlier => noise * if col == (row * 7 + 3) % cols { 20.0 } else { 1.0 },
                Fill::Sorted => (col as f32 + 0.5 * noise) * 10.0 / cols as f32,
                Fill::Masked if row == 0 || noise.to_bits() & 256 == 0 => f32::NEG_INFINITY,
                Fill::Masked => noise,
                Fill::Subnormal => noise * 1e-40,
            }
        };
        (0..rows * cols).map(value).collect()
    }
}
