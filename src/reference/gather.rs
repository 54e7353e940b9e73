//! Rows of a table by their numbers, and gradients of rows summed for each row.
use super::Real;

/// The rows `ids` of `table`, of `cols` numbers each; zeros where there is none.
pub fn forward<F: Real>(table: &[F], cols: usize, ids: &[u32]) -> Vec<F> {
    let row = |&id: &u32| table.chunks(cols).nth(id as usize).map_or(vec![F::zero(); cols], <[F]>::to_vec);
    ids.iter().flat_map(row).collect()
}

/// What `dy`, of `cols` numbers a row, adds up to for each of `rows` rows.
pub fn backward<F: Real>(dy: &[F], cols: usize, ids: &[u32], rows: usize) -> Vec<F> {
    let mut table = vec![F::zero(); rows * cols];
    for (dy, &id) in dy.chunks(cols).zip(ids).filter(|(_, id)| (**id as usize) < rows) {
        table[id as usize * cols..][..cols].iter_mut().zip(dy).for_each(|(sum, &dy)| *sum = *sum + dy);
    }
    table
}
