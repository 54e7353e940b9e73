//! The cases that are timed. A function per op makes the inputs on the device and returns what to record and what the
//! outputs must be. benches/peers/losses.py has the same ops, except `wals`, which is in peers/wals.py.
//!
//! Rows repeat after a [`numbers::period`] of them, so the expected outputs are known at any size without computing
//! them at that size. The period is a prime, so that neither a tile nor a workgroup starts where a period does.

mod job;
mod layers;
mod numbers;
mod pairs;
mod rows;
mod steps;

use wgloss::{Gpu, Result, Storage};

pub use job::{Accuracy, Job};

pub struct Case {
    pub op: &'static str,
    /// Sizes as rows and columns, from small to large.
    pub sizes: &'static [[usize; 2]],
    pub build: fn(&Gpu, [usize; 2], Storage) -> Result<Job>,
    /// The least number of elements that must move, in units of rows · columns: every input read once, or as often as
    /// it is looked up; every output written once; no intermediate results.
    matrices: f64,
    /// The least number of matrix products that must be formed, each of 2 · rows · rows · columns FLOP; 0 where only
    /// memory counts.
    products: f64,
    /// Whether its inputs may be stored in 16 bits.
    pub has_storages: bool,
}

impl Case {
    pub fn bytes(&self, [rows, cols]: [usize; 2], storage: Storage) -> f64 {
        let of_scores = if self.op == "linear" { (rows * rows) as f64 } else { 0.0 };
        storage.bytes() as f64 * (self.matrices * rows as f64 * cols as f64 + of_scores)
    }

    pub fn flop(&self, [rows, cols]: [usize; 2]) -> f64 {
        2.0 * self.products * (rows * rows) as f64 * cols as f64
    }
}

const MATRICES: &[[usize; 2]] =
    &[[1024, 1024], [32, 131_072], [4096, 4096], [16_384, 4096], [1024, 131_072], [4096, 131_072]];
const BATCHES: &[[usize; 2]] = &[[1024, 128], [4096, 128], [8192, 256], [16_384, 512], [65_536, 512]];

const LAYERS: &[[usize; 2]] = &[[512, 256], [1024, 1024], [4096, 1024], [16_384, 4096]];

const fn memory(op: &'static str, build: fn(&Gpu, [usize; 2], Storage) -> Result<Job>, matrices: f64) -> Case {
    Case { op, sizes: MATRICES, build, matrices, products: 0.0, has_storages: true }
}

/// Every op, except those that are a few lines on top of others.
pub const CASES: &[Case] = &[
    Case { sizes: &[[512, 512], [2048, 512], [8192, 1024]], products: 1.0, ..memory("linear", pairs::linear, 2.0) },
    memory("sigmoid", rows::sigmoid, 2.0),
    memory("tanh", rows::tanh, 2.0),
    memory("normalize", rows::normalize, 2.0),
    memory("softmax", rows::softmax, 2.0),
    memory("cross_entropy", rows::cross_entropy, 2.0),
    Case {
        sizes: LAYERS,
        products: (3 * layers::CLASSES) as f64,
        ..memory("linear_cross_entropy", layers::linear_cross_entropy, (2 + 2 * layers::CLASSES) as f64)
    },
    memory("bce", rows::bce, 3.0),
    memory("l2", rows::l2, 3.0),
    memory("gaussian_kl", rows::gaussian_kl, 4.0),
    Case { sizes: BATCHES, products: 3.0, ..memory("info_nce", pairs::info_nce, 4.0) },
    memory("kl", rows::kl, 4.0),
    Case {
        sizes: LAYERS,
        products: (4 * layers::CLASSES) as f64,
        ..memory("linear_kl", layers::linear_kl, (3 + 3 * layers::CLASSES) as f64)
    },
    Case { sizes: BATCHES, products: 3.0, ..memory("siglip", pairs::siglip, 4.0) },
    Case {
        sizes: &[[1024, 64], [4096, 128], [16_384, 128], [65_536, 128]],
        products: 1.0,
        ..memory("top_k", pairs::top_k, 2.0)
    },
    Case { has_storages: false, ..memory("cast", rows::cast, 1.5) },
    Case { sizes: &[[1024, 128], [16_384, 128], [65_536, 128]], ..memory("dot", pairs::dot, (pairs::KEYS + 1) as f64) },
    Case { sizes: BATCHES, products: 1.0, ..memory("folding", pairs::folding, 2.0) },
    Case { sizes: &[[1024, 128], [65_536, 128], [1 << 20, 128]], ..memory("gather", steps::gather, 2.0) },
    // For each draw: two words of the distribution's table, one word of the drawn id's row, an id and its log q.
    Case {
        sizes: &[[1024, 16], [16_384, 16], [65_536, 64]],
        has_storages: false,
        ..memory("sample", steps::sample, 5.0)
    },
    memory("sgd", steps::sgd, 3.0),
    Case { has_storages: false, ..memory("adam", steps::adam, 7.0) },
    memory("clip", steps::clip, 2.0),
    // Each observation's row of y once a pass, whatever a cache saves; x in and out.
    Case {
        sizes: &[[1024, 64], [16_384, 128], [1 << 18, 128]],
        ..memory("wals", steps::wals, (steps::NEAR * (steps::STEPS + 1) + 2) as f64)
    },
];
