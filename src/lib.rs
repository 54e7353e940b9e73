//! WGSL compute kernels for output layers, losses and their gradients. They run through wgpu on any GPU. Every kernel
//! is verified against an f64 reference on the CPU.
//!
//! Every op is a module of free functions. They take inputs, outputs and options and record into a [`Recorder`], on the
//! caller's device, buffers and encoder. They copy nothing, submit nothing and wait for nothing.
//!
//! ```
//! use wgloss::{Gpu, Tensor, info_nce};
//!
//! # fn main() -> wgloss::Result<()> {
//! # let Ok(opened) = Gpu::new() else { return Ok(()) };
//! # let (device, queue) = (opened.device().clone(), opened.queue().clone());
//! # let (n, dim) = (512, 64);
//! # let rows: Vec<f32> = (0..n * dim).map(|i| ((i * 37 % 101) as f32 - 50.0) / 400.0).collect();
//! # let (queries, keys) = (opened.upload(&rows)?, opened.upload(&rows)?);
//! # let (d_queries, d_keys) = (opened.zeros::<f32>(n * dim)?, opened.zeros::<f32>(n * dim)?);
//! # let (loss, state) = (opened.zeros::<f32>(1)?, opened.zeros::<f32>(8 * n)?);
//! let gpu = Gpu::from_wgpu(device.clone(), queue.clone())?; // your device, your queue
//! let batch = info_nce::Batch::new(Tensor::matrix(&queries, n, dim)?, Tensor::matrix(&keys, n, dim)?); // views of your buffers
//! let (dq, dk) = (Some(Tensor::matrix(&d_queries, n, dim)?), Some(Tensor::matrix(&d_keys, n, dim)?));
//! let (loss, state) = (Tensor::scalar(&loss, 0)?, Tensor::matrix(&state, 2 * n, 4)?);
//! let options = info_nce::Options { temperature: 0.07, symmetric: true, ..Default::default() };
//!
//! let mut encoder = device.create_command_encoder(&Default::default());
//! let mut recorder = gpu.record(&mut encoder);
//! info_nce::forward(&mut recorder, batch, loss, state, info_nce::Gradients { dq, dk, ..Default::default() }, options)?;
//! queue.submit([encoder.finish()]);
//! println!("loss {}", gpu.read(loss)?[0]);
//! # assert!((gpu.read(loss)?[0] - 3.674).abs() < 1e-3);
//! # Ok(()) }
//! ```
//!
//! With slices only: every op except `cast` and `wals` has a function `compute` that uploads, runs and reads back. With
//! the feature `ndarray`, the module `arrays` does the same on ndarray's views, for output layers, losses and `top_k`.
//! For burn's tensors there is the crate `wgloss-burn`.
//!
//! [`guide`] tells which output layer and which loss to use for what, [`embedding`] how to use a device, encoder and
//! buffers of your own, [`costs`] what each op costs and how exact it is, [`faults`] what can go wrong.
//!
//! # Conventions
//! `x` is an input, `y` an output, `dx` the gradient of the loss with respect to `x`. Matrices are row-major
//! `[rows, cols]` and every op works on rows.
//!
//! An op that returns an error has recorded nothing. The exception is [`Gpu::run`]: when it returns an error, earlier
//! parts of long work may already be submitted.
//!
//! Values in the data never cause an error: each op documents its results for an out-of-range id, an infinity or a NaN.
//! Nothing is ever read out of bounds.
//!
//! Same input, shapes, tuning and device give the same bits. A row in a batch of another size may differ in the last
//! bits, because long rows of a small batch are cut into segments whose results are merged.
//!
//! [`Gpu`] is `Send` and `Sync`, except on wasm32, where wgpu's handles belong to one thread.

#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(
    target_arch = "wasm32",
    allow(unused_imports, dead_code, reason = "what waits for results is left out there"),
    allow(clippy::arc_with_non_send_sync, reason = "wgpu's handles belong to one thread there")
)]

mod accessors;
#[cfg(all(feature = "ndarray", not(target_arch = "wasm32")))] // as for `train`
#[cfg_attr(docsrs, doc(cfg(feature = "ndarray")))]
pub mod arrays;
mod error;
mod fault;
mod gpu;
mod kernel;
pub mod metrics;
mod ops;
mod params;
mod plan;
#[cfg(not(target_arch = "wasm32"))] // as for `train`
pub mod planted;
mod random;
mod recorder;
pub mod reference;
mod tensor;
#[cfg(not(target_arch = "wasm32"))] // waits for results; a web page must not block
pub mod train;
mod transfer;
mod tuning;
pub mod verify;

#[doc = include_str!("../docs/choosing.md")]
pub mod guide {}

#[doc = include_str!("../docs/embedding.md")]
pub mod embedding {}

#[doc = include_str!("../docs/ops.md")]
pub mod costs {}

#[doc = include_str!("../docs/faults.md")]
pub mod faults {}

pub use error::{Error, Result};
pub use gpu::{Gpu, Options, adapters};
pub use ops::{
    Accum, Lists, Reduction, adam, bce, cast, clip, cross_entropy, dot, folding, gather, gaussian_kl, info_nce, kl, l2,
    linear, linear_cross_entropy, linear_kl, normalize, sample, sgd, siglip, sigmoid, softmax, tanh, top_k, wals,
};
pub use random::Random;
pub use recorder::{Progress, Recorder, Watch};
pub use tensor::{Element, Storage, Tensor};
pub use tuning::Tuning;
pub use wgpu;

/// What the tests compare with the shaders.
#[doc(hidden)]
pub mod internals {
    pub use crate::accessors::{Build, Format, source, takes_quads, takes_wide};
    pub use crate::kernel::{Access, Content, Family, Kernel, SHAPE, ScalarType, Shader, ZERO};
    pub use crate::ops::kernels;
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
