//! The library's tests, in one binary: a module per op, named as the op, and what concerns all of them.

mod golden;
mod harness;

mod faults;
mod kernels;
mod scale;
mod tensors;

mod cross_entropy;
mod info_nce;
mod linear;
mod normalize;
mod sgd;
mod softmax;
mod tanh;
mod train;
