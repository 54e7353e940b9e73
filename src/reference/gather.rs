//! Rows of a table by their ids, and gradients summed for each row of the table.
use super::Real;

/// The rows `ids` of `table`, which has `cols` columns. Zeros for an id that is no row.
pub fn forward<F: Real>(table: &[F], cols: usize, ids: &[u32]) -> Vec<F> {
    let row = |&id: &u32| table.chunks(cols).nth(id as usize).map_or(vec![F::zero(); cols], <[F]>::to_vec);
    ids.iter().flat_map(row).collect()
}

/// The sum of the rows of `dy` (`cols` columns) for each of the table's `rows` rows.
pub fn backward<F: Real>(dy: &[F], cols: usize, ids: &[u32], rows: usize) -> Vec<F> {
    let mut table = vec![F::zero(); rows * cols];
    for (dy, &id) in dy.chunks(cols).zip(ids).filter(|(_, id)| (**id as usize) < rows) {
        table[id as usize * cols..][..cols].iter_mut().zip(dy).for_each(|(sum, &dy)| *sum = *sum + dy);
    }
    table
}
