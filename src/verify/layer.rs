//! What the cases of losses on a layer's logits share. Not an op.

use super::{Check, Fill, Held, before};
use crate::linear_cross_entropy::Gradients;
use crate::{Accum, Gpu, Result, Storage, Tuning};

/// Multiples of 1/8, with which logits are exact in every order of their terms. The comparison then shows only what is
/// computed from the logits.
pub(super) fn eighths(fill: Fill, rows: usize, cols: usize, seed: u64) -> Vec<f32> {
    fill.matrix(rows, cols, seed).into_iter().map(|v| (8.0 * v).round() / 8.0).collect()
}

/// A matrix as it is stored, and the shape in which it is stored.
pub(super) fn stored<T: Copy>(transposed: bool, data: &[T], [rows, cols]: [usize; 2]) -> (Vec<T>, [usize; 2]) {
    match transposed {
        false => (data.to_vec(), [rows, cols]),
        true => ((0..data.len()).map(|at| data[at % rows * cols + at / rows]).collect(), [cols, rows]),
    }
}

/// The device with a workspace for `rows` rows of `matrices` matrices.
pub(super) fn in_parts(gpu: &Gpu, rows: usize, classes: usize, matrices: usize) -> Gpu {
    let workspace = (4 * matrices * rows * classes.next_multiple_of(4)) as u64;
    gpu.with_tuning(Tuning { workspace, ..*gpu.tuning() })
}

/// dx, dW and db.
type Three<F> = (Vec<F>, Vec<F>, Vec<F>);

/// The outputs for the gradients of a layer, and what they are added to.
pub(super) struct OfLayer {
    held: [Held; 3],
    old: [Vec<f32>; 3],
    of_w: [usize; 2],
    transposed: bool,
    accum_dx: Accum,
}

impl OfLayer {
    /// `accums` are for dx, and for dW and db.
    pub(super) fn new(
        check: &Check,
        storage: Storage,
        [rows, inputs, classes]: [usize; 3],
        transposed: bool,
        [accum_dx, accum]: [Accum; 2],
        seed: u64,
    ) -> Result<Self> {
        let of_w = [classes, inputs];
        let stored_w = if transposed { [inputs, classes] } else { of_w };
        let one = |[rows, cols]: [usize; 2], accum, seed| {
            let old = before(accum, storage, rows * cols, seed);
            Ok::<_, crate::Error>((check.holding(storage, rows, cols, &old)?, old))
        };
        let [(dx, old_dx), (dw, old_dw), (db, old_db)] = [
            one([rows, inputs], accum_dx, seed)?,
            one(stored_w, accum, seed + 1)?,
            one([classes, 1], accum, seed + 2)?,
        ];
        Ok(OfLayer { held: [dx, dw, db], old: [old_dx, old_dw, old_db], of_w, transposed, accum_dx })
    }

    pub(super) fn views(&self) -> Result<Gradients<'_>> {
        let [dx, dw, db] = &self.held;
        Ok(Gradients { dx: Some(dx.view()?), dw: Some(dw.view()?), db: Some(db.view()?), accum_dx: self.accum_dx })
    }

    /// Compares the gradients with what they should be, given the sums of their terms' magnitudes and the same
    /// gradients in f32 (`naive`). dW is given as `[classes, inputs]`.
    pub(super) async fn compare(
        &self,
        check: &mut Check,
        what: &str,
        [want, terms]: [&Three<f64>; 2],
        naive: &Three<f32>,
    ) -> Result<()> {
        let [want_dw, terms_of_dw] = [&want.1, &terms.1].map(|dw| stored(self.transposed, dw, self.of_w).0);
        let naive_dw = stored(self.transposed, &naive.1, self.of_w).0;
        let ([dx, dw, db], [old_dx, old_dw, old_db]) = (&self.held, &self.old);
        let named = |name: &str| format!("{name} {what}");
        check.compare_added(&named("dx"), dx, old_dx, &want.0, &naive.0, &terms.0).await?;
        check.compare_added(&named("dw"), dw, old_dw, &want_dw, &naive_dw, &terms_of_dw).await?;
        check.compare_added(&named("db"), db, old_db, &want.2, &naive.2, &terms.2).await
    }
}
