//! y = x in another storage.
use crate::Storage;

/// The numbers that `storage` holds of these.
pub fn forward(x: &[f32], storage: Storage) -> Vec<f32> {
    storage.decode(&storage.encode(x))
}
