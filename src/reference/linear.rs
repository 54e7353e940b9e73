//! y = x Wᵀ + b.
use super::{Real, dot};

/// y [rows, out] from x [rows, inputs], w [out, inputs] and b of `out` elements.
pub fn forward<F: Real>(x: &[F], w: &[F], b: Option<&[F]>, inputs: usize, outputs: usize, rows: usize) -> Vec<F> {
    let of = |row: usize, out: usize| {
        let y = dot(&x[row * inputs..][..inputs], &w[out * inputs..][..inputs]);
        b.map_or(y, |b| y + b[out])
    };
    (0..rows).flat_map(|row| (0..outputs).map(move |out| (row, out))).map(|(row, out)| of(row, out)).collect()
}

/// dx [rows, inputs], dw [out, inputs], db of `out` elements.
pub fn backward<F: Real>(
    x: &[F],
    w: &[F],
    dy: &[F],
    inputs: usize,
    outputs: usize,
    rows: usize,
) -> (Vec<F>, Vec<F>, Vec<F>) {
    let mut dx = vec![F::zero(); rows * inputs];
    let mut dw = vec![F::zero(); outputs * inputs];
    let mut db = vec![F::zero(); outputs];
    for row in 0..rows {
        for out in 0..outputs {
            let dy = dy[row * outputs + out];
            for input in 0..inputs {
                dx[row * inputs + input] = dx[row * inputs + input] + dy * w[out * inputs + input];
                dw[out * inputs + input] = dw[out * inputs + input] + dy * x[row * inputs + input];
            }
            db[out] = db[out] + dy;
        }
    }
    (dx, dw, db)
}
