//! What the examples say of themselves.

#[path = "../examples/gradcache.rs"]
mod gradcache;

use crate::harness::gpu;

#[test]
fn micro_batches_give_the_gradients_of_the_whole_batch() {
    let Some(gpu) = gpu() else { return };
    let pairs = gradcache::pairs();
    let whole = gradcache::gradients(gpu, &pairs, 16, pairs.rows).unwrap();
    let parts = gradcache::gradients(gpu, &pairs, 16, 500).unwrap(); // the last micro-batch is smaller
    assert_eq!(whole.loss, parts.loss);
    assert!(parts.difference(&whole) < 1e-6, "{:e}", parts.difference(&whole)); // sums in another order
    assert!(3 * parts.activation_bytes < whole.activation_bytes);
}
