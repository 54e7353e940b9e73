//! One side of weighted alternating least squares: the normal equations of each row, formed and solved.
use super::{Real, dot};

/// An observation: the row of y, w, r.
pub type Entry<F> = (usize, F, F);

/// The rows' x [rows, `dim`] for y [M, `dim`], their observations, w₀ and their λ. NaN where a pivot is not positive.
pub fn solve<F: Real>(y: &[F], dim: usize, rows: &[Vec<Entry<F>>], unobserved: F, ridge: &[F]) -> Vec<F> {
    let mut gramian = vec![F::zero(); dim * dim];
    y.chunks(dim).for_each(|y| add(&mut gramian, y, unobserved));
    rows.iter().zip(ridge).flat_map(|(entries, &ridge)| solve_row(y, &gramian, entries, unobserved, ridge)).collect()
}

/// a += f y yᵀ
fn add<F: Real>(a: &mut [F], y: &[F], factor: F) {
    for (row, &left) in a.chunks_mut(y.len()).zip(y) {
        row.iter_mut().zip(y).for_each(|(sum, &right)| *sum = *sum + factor * left * right);
    }
}

fn solve_row<F: Real>(y: &[F], gramian: &[F], entries: &[Entry<F>], unobserved: F, ridge: F) -> Vec<F> {
    let dim = (gramian.len() as f64).sqrt().round() as usize;
    let (mut a, mut x) = (gramian.to_vec(), vec![F::zero(); dim]);
    for &(item, weight, goal) in entries {
        let y = &y[item * dim..][..dim];
        add(&mut a, y, weight - unobserved);
        x.iter_mut().zip(y).for_each(|(sum, &y)| *sum = *sum + weight * goal * y);
    }
    (0..dim).for_each(|i| a[i * dim + i] = a[i * dim + i] + ridge);
    // A = L Lᵀ, L in the lower half of a.
    for j in 0..dim {
        for i in j..dim {
            let left = a[i * dim + j] - dot(&a[i * dim..][..j], &a[j * dim..][..j]);
            a[i * dim + j] = if i == j { left.sqrt() } else { left / a[j * dim + j] };
        }
    }
    for i in 0..dim {
        x[i] = (x[i] - dot(&a[i * dim..][..i], &x[..i])) / a[i * dim + i];
    }
    for i in (0..dim).rev() {
        let later: F = (i + 1..dim).map(|k| a[k * dim + i] * x[k]).sum();
        x[i] = (x[i] - later) / a[i * dim + i];
    }
    x
}

/// The objective of each row without its share of w₀ ⟨XᵀX, YᵀY⟩: Σ w (r − s)² − w₀ s² + λ |x|². And the sum of its terms' magnitudes.
pub fn objective<F: Real>(
    x: &[F],
    y: &[F],
    dim: usize,
    rows: &[Vec<Entry<F>>],
    unobserved: F,
    ridge: &[F],
) -> Vec<(F, F)> {
    let of_row = |((x, entries), &ridge): ((&[F], &Vec<Entry<F>>), &F)| {
        let own = ridge * dot(x, x);
        entries.iter().fold((own, own), |(sum, terms), &(item, weight, goal)| {
            let s = dot(x, &y[item * dim..][..dim]);
            let (miss, all) = (weight * (goal - s).powi(2), unobserved * s * s);
            (sum + miss - all, terms + miss + all)
        })
    };
    x.chunks(dim).zip(rows).zip(ridge).map(of_row).collect()
}
