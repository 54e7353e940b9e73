//! Eigendecomposition on the host in f64. nalgebra's would be as good, but nalgebra and its dependencies take a fifth
//! of wgpu's build time.

/// Most sweeps per eigenvalue; two or three are the rule.
const MOST: usize = 64;

/// The eigenvectors [D, D] of a symmetric matrix [D, D], one per row, and its D eigenvalues.
///
/// Computed in f64 by Householder reflections to a tridiagonal matrix and implicit QL steps (Bowdler, Martin, Reinsch
/// and Wilkinson 1968, doi:10.1007/BF02165404; Golub and Van Loan, Matrix Computations, 8.3). Takes 1 ms for D = 64, a
/// third of a second for 512, 2.4 s for 1,024. Returns NaN for a matrix with a number that is not finite, and empty
/// vectors if the matrix does not have `dim`² numbers.
///
/// ```
/// let [vectors, values] = wgloss::wals::eigen(&[2.0, 1.0, 1.0, 2.0], 2);
/// let of_three = if values[0] > 2.0 { 0 } else { 1 };
/// assert!((values[of_three] - 3.0).abs() < 1e-6 && (vectors[2 * of_three] - vectors[2 * of_three + 1]).abs() < 1e-6);
/// ```
pub fn eigen(matrix: &[f32], dim: usize) -> [Vec<f32>; 2] {
    if Some(matrix.len()) != dim.checked_mul(dim) {
        return [Vec::new(), Vec::new()];
    }
    if matrix.iter().any(|value| !value.is_finite()) {
        return [vec![f32::NAN; dim * dim], vec![f32::NAN; dim]];
    }
    let (mut diagonal, mut beside, mut rows) = tridiagonal(matrix.iter().copied().map(f64::from).collect(), dim);
    let size = diagonal.iter().chain(&beside).fold(0.0f64, |size, value| size.max(value.abs()));
    for first in 0..dim {
        for _ in 0..MOST {
            let ends = |at: &usize| beside[*at].abs() <= f64::EPSILON * size;
            let last = (first..dim - 1).find(ends).unwrap_or(dim - 1);
            if last == first {
                break;
            }
            step(&mut diagonal, &mut beside, &mut rows, first..last);
        }
    }
    [rows, diagonal].map(|numbers| numbers.into_iter().map(|number| number as f32).collect())
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The diagonal and the off-diagonal of T, and Qᵀ, where a = Q T Qᵀ.
fn tridiagonal(mut a: Vec<f64>, n: usize) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let mut beside = vec![0.0; n];
    let mut reflections = Vec::new();
    for k in 0..n.saturating_sub(1) {
        let mut v: Vec<f64> = (k + 1..n).map(|i| a[i * n + k]).collect();
        let length = dot(&v, &v).sqrt();
        beside[k] = if v[0] > 0.0 { -length } else { length };
        v[0] -= beside[k];
        let squares = dot(&v, &v);
        if squares == 0.0 {
            continue;
        }
        // H = 1 - v vᵀ · 2 / |v|²; H a H = a - v wᵀ - w vᵀ.
        let factor = 2.0 / squares;
        let mut w: Vec<f64> = (k + 1..n).map(|i| factor * dot(&a[i * n + k + 1..(i + 1) * n], &v)).collect();
        let along = 0.5 * factor * dot(&v, &w);
        w.iter_mut().zip(&v).for_each(|(w, v)| *w -= along * v);
        for (i, (vi, wi)) in v.iter().zip(&w).enumerate() {
            let row = &mut a[(k + 1 + i) * n + k + 1..(k + 2 + i) * n];
            row.iter_mut().zip(v.iter().zip(&w)).for_each(|(a, (v, w))| *a -= vi * w + wi * v);
        }
        reflections.push((k, factor, v));
    }
    // Qᵀ from the last reflection to the first. Reflection k changes rows and columns from k + 1 on.
    let mut rows = vec![0.0; n * n];
    (0..n).for_each(|i| rows[i * n + i] = 1.0);
    for (k, factor, v) in reflections.iter().rev() {
        for row in rows.chunks_mut(n).skip(k + 1) {
            let row = &mut row[k + 1..];
            let along = factor * dot(row, v);
            row.iter_mut().zip(v).for_each(|(a, v)| *a -= along * v);
        }
    }
    ((0..n).map(|i| a[i * n + i]).collect(), beside, rows)
}

/// An implicit QL step on the unreduced part from `part.start` to `part.end`. Its rotations are applied to `rows`.
fn step(d: &mut [f64], e: &mut [f64], rows: &mut [f64], part: core::ops::Range<usize>) {
    let (n, first, last) = (d.len(), part.start, part.end);
    let length = |a: f64, b: f64| (a * a + b * b).sqrt();
    let half = (d[first + 1] - d[first]) / (2.0 * e[first]);
    let mut g = d[last] - d[first] + e[first] / (half + length(half, 1.0).copysign(half));
    let (mut sine, mut cosine, mut shift) = (1.0, 1.0, 0.0);
    for i in part.rev() {
        let (f, b) = (sine * e[i], cosine * e[i]);
        let r = length(f, g);
        e[i + 1] = r;
        if r == 0.0 {
            d[i + 1] -= shift;
            e[last] = 0.0;
            return;
        }
        (sine, cosine) = (f / r, g / r);
        g = d[i + 1] - shift;
        let r = (d[i] - g) * sine + 2.0 * cosine * b;
        shift = sine * r;
        d[i + 1] = g + shift;
        g = cosine * r - b;
        let (upper, lower) = rows.split_at_mut((i + 1) * n);
        for (a, b) in upper[i * n..].iter_mut().zip(&mut lower[..n]) {
            (*a, *b) = (cosine * *a - sine * *b, sine * *a + cosine * *b);
        }
    }
    d[first] -= shift;
    e[first] = g;
    e[last] = 0.0;
}
