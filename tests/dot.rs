use wgloss::{Accum, Gpu, Tensor, dot, reference, verify::Fill, wgpu};

use crate::harness::*;

#[test]
fn verified() {
    verifies("dot");
}

#[test]
fn reference_gradient() {
    let (n, per, dim) = (2, 3, 4);
    let [q, k, ds] =
        [(n * dim, 1), (n * per * dim, 2), (n * per, 3)].map(|(len, seed)| wide(&Fill::Small.matrix(len, 1, seed)));
    let [dq, dk] = reference::dot::backward(&q, &k, &ds, dim);
    assert_gradient(&q, &dq, |q| dot(&reference::dot::forward(q, &k, dim), &ds));
    assert_gradient(&k, &dk, |k| dot(&reference::dot::forward(&q, k, dim), &ds));
}

/// All keys of a row in one matrix, its scores in columns of another.
#[test]
fn by_hand() {
    let Some(gpu) = gpu() else { return };
    let scores = dot::compute(gpu, &[1.0, 2.0, -1.0, 0.5], &[1.0, 1.0, 0.0, 3.0, 2.0, 2.0, 4.0, 0.0], 2).unwrap();
    assert_eq!(scores, [3.0, 6.0, -1.0, -4.0]);
}

/// Only one of the gradients; the other's place stays as it was.
#[test]
fn one_gradient() {
    let Some(gpu) = gpu() else { return };
    let (q, k) = (input(gpu, 1, 2, &[1.0f32, 2.0]), input(gpu, 2, 2, &[3.0f32, 4.0, 5.0, 6.0]));
    let ds = input(gpu, 1, 2, &[1.0f32, -1.0]);
    let (dq, dk) = (output(gpu, 1, 2), output(gpu, 2, 2));
    let backward = |dq: Option<Tensor>, dk: Option<Tensor>| {
        gpu.run(|recorder| dot::backward(recorder, view(&q), view(&k), view(&ds), dq, dk, Accum::Write)).unwrap();
    };
    backward(Some(view(&dq)), None);
    assert_eq!(read(gpu, &dq), [-2.0, -2.0]);
    assert!(untouched(gpu, &dk));
    backward(None, Some(view(&dk)));
    assert_eq!(read(gpu, &dk), [1.0, 2.0, -1.0, -2.0]);
}

/// Of no keys the gradient is 0, and what is added is nothing.
#[test]
fn no_keys() {
    let Some(gpu) = gpu() else { return };
    let (q, k, ds) = (input(gpu, 2, 3, &[1.0f32; 6]), input(gpu, 0, 3, &[]), input(gpu, 2, 0, &[]));
    let dq = input(gpu, 2, 3, &[5.0f32; 6]);
    for (accum, want) in [(Accum::Add, 5.0), (Accum::Write, 0.0)] {
        let dq = view(&dq);
        gpu.run(|recorder| dot::backward(recorder, view(&q), view(&k), view(&ds), Some(dq), None, accum)).unwrap();
        assert_eq!(gpu.read(dq).unwrap(), [want; 6]);
    }
}

/// Queries part by part where a binding does not hold all keys.
#[test]
fn parts() {
    let limits = wgpu::Limits { max_storage_buffer_binding_size: 1 << 14, ..Default::default() };
    let Some(small) = open(Some(limits)) else { return };
    let Some(gpu) = gpu() else { return };
    let (n, per, dim) = (200, 3, 16);
    let (q, k) = (Fill::Small.matrix(n, dim, 1), Fill::Small.matrix(n * per, dim, 2));
    let both = |gpu: &Gpu| {
        let (held_q, held_k) = (input(gpu, n, dim, &q), input(gpu, n * per, dim, &k));
        let (s, dq, dk) = (output(gpu, n, per), output(gpu, n, dim), output(gpu, n * per, dim));
        gpu.run(|recorder| {
            dot::forward(recorder, view(&held_q), view(&held_k), view(&s))?;
            let (dq, dk) = (Some(view(&dq)), Some(view(&dk)));
            dot::backward(recorder, view(&held_q), view(&held_k), view(&s), dq, dk, Accum::Write)
        })
        .unwrap();
        [read(gpu, &s), read(gpu, &dq), read(gpu, &dk)]
    };
    assert_eq!(both(&small), both(gpu));
    assert!(matches!(
        dot::compute(&small, &[1.0; 8], &[1.0; 8 * 600], 8).unwrap_err(),
        wgloss::Error::Limit { needed: 19_200, .. }
    ));
}

/// A NaN or an infinity spoils the scores and the gradients that it is part of.
#[test]
fn special_values() {
    let Some(gpu) = gpu() else { return };
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let keys = [1.0, nan, inf, 1.0, 2.0, 3.0, -inf, inf];
    let scores = wide(&dot::compute(gpu, &[1.0, 1.0, 0.5, 1.0], &keys, 2).unwrap());
    assert_close(&scores, &[f64::NAN, f64::INFINITY, 4.0, f64::NAN], 0.0);
}

#[test]
fn nothing() {
    let Some(gpu) = gpu() else { return };
    assert_eq!(dot::compute(gpu, &[], &[], 3).unwrap(), [0.0; 0]);
    assert_eq!(dot::compute(gpu, &[1.0, 2.0], &[], 2).unwrap(), [0.0; 0]);
}

#[test]
fn refusals() {
    let Some(gpu) = gpu() else { return };
    let (q, k, s) = (output(gpu, 2, 3), output(gpu, 4, 3), output(gpu, 2, 2));
    let (q_view, k_view, s_view) = (view(&q), view(&k), view(&s));
    let refuse = |record: &dyn Fn(&mut wgloss::Recorder) -> wgloss::Result<()>| refused(gpu, &[&q, &k, &s], record);
    let forward = |q, k, s| refuse(&|r| dot::forward(r, q, k, s));
    assert_eq!(forward(q_view, k_view.row_range(0..3), s_view), shape("dot", "k", "4 x 3", "3 x 3"));
    assert_eq!(forward(q_view.row_range(0..1), k_view, s_view), shape("dot", "q", "2 x 3", "1 x 3"));
    assert_eq!(forward(q_view.col_range(0..2), k_view, s_view), shape("dot", "k", "4 x 2", "4 x 3"));
    assert_eq!(forward(q_view, k_view, k_view.row_range(0..2).col_range(0..2)), overlap("dot", "s", "k"));
    let backward = |dq, dk| refuse(&|r| dot::backward(r, q_view, k_view, s_view, dq, dk, Accum::Add));
    assert_eq!(backward(Some(k_view), None), shape("dot", "dq", "2 x 3", "4 x 3"));
    assert_eq!(backward(None, Some(q_view)), shape("dot", "dk", "4 x 3", "2 x 3"));
    assert_eq!(backward(Some(q_view), None), overlap("dot", "dq", "q"));
    assert_eq!(
        dot::compute(gpu, &[1.0; 5], &[1.0; 4], 2).unwrap_err(),
        shape("dot", "queries", "whole rows of 2", "5 elements")
    );
}
