//! The library's tests, in one binary: a module per op, named as the op, and what concerns all of them.

mod golden;
mod harness;

mod examples;
mod faults;
mod kernels;
mod scale;
mod tables;
mod tensors;

mod adam;
mod bce;
mod cast;
mod clip;
mod cross_entropy;
mod dot;
mod folding;
mod gather;
mod gaussian_kl;
mod info_nce;
mod info_nce_reference;
mod kl;
mod l2;
mod linear;
mod linear_cross_entropy;
mod linear_kl;
mod normalize;
mod sample;
mod sgd;
mod siglip;
mod sigmoid;
mod softmax;
mod tanh;
mod top_k;
mod traffic;
mod train;
mod wals;
