//! How much what does not belong together scores.

use wgloss::verify::Fill;
use wgloss::{Gpu, folding, metrics};

use crate::harness::*;

#[test]
fn verified() {
    verifies("folding");
}

/// Users and items of three blocks.
fn blocks(rows: usize) -> Vec<u32> {
    (0..rows as u32).map(|row| row * 7 % 3).collect()
}

fn on_device(gpu: &Gpu, q: &[f32], k: &[f32], dim: usize) -> [f64; 2] {
    let (of_q, of_k) = (blocks(q.len() / dim), blocks(k.len() / dim));
    let found = folding::compute(gpu, q, k, dim, &of_q, &of_k).unwrap();
    [found.score, found.within]
}

/// Several chunks of rows and of columns, of which each adds to both sums.
#[test]
fn chunks() {
    let Some(gpu) = gpu() else { return };
    let (q, k) = (Fill::Small.matrix(300, 5, 1), Fill::Small.matrix(701, 5, 2));
    let want = metrics::folding(&q, &k, 5, &blocks(300), &blocks(701));
    let small = gpu.tuning();
    for workspace in [small.workspace, 1 << 14] {
        let gpu = gpu.with_tuning(wgloss::Tuning { workspace, work: 1 << 16, ..*small });
        assert_close(&on_device(&gpu, &q, &k, 5), &[want.score, want.within], 1e-5);
    }
}

/// A sum of which a term is unknown is unknown; a score of -inf is far below, one of +inf far above.
#[test]
fn special_values() {
    let Some(gpu) = gpu() else { return };
    let inf = f32::INFINITY;
    // Rows 0 and 3 are of one block.
    assert_nan(&on_device(gpu, &[1.0], &[f32::NAN], 1));
    let [score, within] = on_device(gpu, &[1.0], &[2.0, f32::NAN], 1);
    assert!(score.is_nan() && within == 2.0);
    assert_eq!(on_device(gpu, &[1.0], &[3.0, -inf], 1), [1.0, 3.0]);
    assert_eq!(on_device(gpu, &[1.0], &[3.0, inf], 1), [f64::INFINITY, 3.0]);
}

#[test]
fn uniformity_on_a_device() {
    let Some(gpu) = gpu() else { return };
    for (rows, dim) in [(2, 3), (65, 7), (300, 16)] {
        let x = wgloss::normalize::compute(gpu, &Fill::Small.matrix(rows, dim, 5), dim, Default::default()).unwrap();
        let (found, want) = (metrics::uniformity_on(gpu, &x, dim).unwrap(), metrics::uniformity(&x, dim));
        assert!((found - want).abs() < 1e-6 * want.abs().max(1.0), "{rows} x {dim}: {found}, want {want}");
    }
    assert_eq!(metrics::uniformity_on(gpu, &[0.5, 0.5], 2).unwrap(), 0.0);
    assert_eq!(
        metrics::uniformity_on(gpu, &[0.5; 3], 2),
        Err(shape("uniformity", "x", "whole rows of 2", "3 elements"))
    );
}

#[test]
fn empty() {
    let Some(gpu) = gpu() else { return };
    assert_eq!(on_device(gpu, &[], &[1.0], 1), [0.0, 0.0]);
    assert_eq!(on_device(gpu, &[1.0], &[], 1), [0.0, 0.0]);
}

#[test]
fn same_bits() {
    let Some(gpu) = gpu() else { return };
    let (q, k) = (Fill::Wide.matrix(90, 17, 3), Fill::Wide.matrix(200, 17, 4));
    assert_repeats(|| vec![on_device(gpu, &q, &k, 17).to_vec()]);
}

#[test]
fn refusals() {
    let Some(gpu) = gpu() else { return };
    let (q, k, sums) = (input(gpu, 2, 3, &[0.5f32; 6]), input(gpu, 4, 3, &[0.5f32; 12]), output(gpu, 2, 1));
    let (of_q, of_k) = (input(gpu, 2, 1, &[0u32; 2]), input(gpu, 4, 1, &[0u32; 4]));
    let (narrow, one) = (input(gpu, 4, 2, &[0.5f32; 8]), output(gpu, 1, 2));
    let refuse = |k, of_k, sums, want| {
        let error = refused(gpu, &[&one], |r| folding::forward(r, q.view()?, k, of_q.view()?, of_k, sums));
        assert_eq!(error, want);
    };
    let (all, of_all, out) = (k.view().unwrap(), of_k.view().unwrap(), sums.view().unwrap());
    refuse(narrow.view().unwrap(), of_all, out, shape("folding", "k", "4 x 3", "4 x 2"));
    refuse(all, of_all.row_range(0..3), out, shape("folding", "k_block", "4 x 1", "3 x 1"));
    refuse(all, of_all, one.view().unwrap(), shape("folding", "sums", "2 x 1", "1 x 2"));
    refuse(all, of_all, all.row_range(0..2).col_range(0..1), overlap("folding", "sums", "k"));
}
