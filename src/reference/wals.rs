//! One side of weighted alternating least squares: the normal equations of each row, formed and solved.
use super::{Real, dot};

/// An observation: the row of y, the weight w and the goal r.
pub type Entry<F> = (usize, F, F);

/// The solutions x `[rows, dim]`, given y `[M, dim]`, the observations of each row, w₀ and each row's λ. NaN where a
/// pivot is not positive.
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

/// A basis `[dim, dim]`, one vector in each row, and YᵀY in that basis `[dim, dim]`.
pub type Base<'a, F> = [&'a [F]; 2];

/// `x` after `steps` of conjugate gradients on the system of [`solve`], preconditioned by the diagonal. `y` is given in
/// the basis; YᵀY is taken from the base.
///
/// Also returns for each row the objective with its share of w₀ ⟨XᵀX, YᵀY⟩, beside the sum of the magnitudes of its
/// terms.
#[allow(clippy::too_many_arguments, reason = "inputs, outputs, options: the order of every op")]
pub fn refine<F: Real>(
    y: &[F],
    dim: usize,
    rows: &[Vec<Entry<F>>],
    unobserved: F,
    ridge: &[F],
    [vectors, gramian]: Base<F>,
    x: &[F],
    steps: usize,
) -> (Vec<F>, Vec<(F, F)>) {
    let mut solutions = Vec::new();
    let mut losses = Vec::new();
    for ((x, entries), &ridge) in x.chunks(dim).zip(rows).zip(ridge) {
        let mut diagonal: Vec<F> = (0..dim).map(|i| unobserved * gramian[i * dim + i] + ridge).collect();
        let apply = |p: &[F]| -> Vec<F> {
            let common = |(row, &own): (&[F], &F)| unobserved * dot(row, p) + ridge * own;
            let mut product: Vec<F> = gramian.chunks(dim).zip(p).map(common).collect();
            for &(item, weight, _) in entries {
                let y = &y[item * dim..][..dim];
                let along = (weight - unobserved) * dot(p, y);
                product.iter_mut().zip(y).for_each(|(sum, &y)| *sum = *sum + along * y);
            }
            product
        };
        let mut right = vec![F::zero(); dim];
        let mut size = F::zero();
        for &(item, weight, goal) in entries {
            let y = &y[item * dim..][..dim];
            diagonal.iter_mut().zip(y).for_each(|(sum, &y)| *sum = *sum + (weight - unobserved) * y * y);
            right.iter_mut().zip(y).for_each(|(sum, &y)| *sum = *sum + weight * goal * y);
            size = size + weight * goal * goal;
        }
        let mut solution: Vec<F> = match entries.is_empty() {
            true => vec![F::zero(); dim],
            false => vectors.chunks(dim).map(|vector| dot(vector, x)).collect(),
        };
        let mut residual: Vec<F> =
            right.iter().zip(apply(&solution)).map(|(&right, product)| right - product).collect();
        // xᵀ A x - 2 xᵀ b + Σ w r²
        let begun = dot(&solution, &right) + dot(&solution, &residual);
        let mut loss = (size - begun, size + begun.abs());
        let turned = |residual: &[F]| -> Vec<F> {
            let inverse = |(&r, &d): (&F, &F)| if d > F::zero() { r / d } else { F::zero() };
            residual.iter().zip(&diagonal).map(inverse).collect()
        };
        let share = |above: F, below: F| if below > F::zero() { above / below } else { F::zero() };
        let mut direction = turned(&residual);
        for _ in 0..steps {
            let product = apply(&direction);
            let before = dot(&residual, &turned(&residual));
            let along = share(before, dot(&direction, &product));
            for d in 0..dim {
                solution[d] = solution[d] + along * direction[d];
                residual[d] = residual[d] - along * product[d];
            }
            loss = (loss.0 - along * before, loss.1 + along * before);
            let next = turned(&residual);
            let keep = share(dot(&residual, &next), before);
            direction.iter_mut().zip(&next).for_each(|(p, &z)| *p = z + keep * *p);
        }
        solutions.extend((0..dim).map(|j| (0..dim).map(|i| vectors[i * dim + j] * solution[i]).sum::<F>()));
        losses.push(loss);
    }
    (solutions, losses)
}

/// For each row the objective without its share of w₀ ⟨XᵀX, YᵀY⟩, Σ w (r − s)² − w₀ s² + λ |x|², beside the sum of the
/// magnitudes of its terms.
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
