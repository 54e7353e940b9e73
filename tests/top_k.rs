use wgloss::{Gpu, Lists, Tensor, Tuning, top_k, verify::Fill, wgpu};

use crate::harness::*;

#[test]
fn verified() {
    verifies("top_k");
}

fn whole(rows: usize, cols: usize, seed: u64) -> Vec<f32> {
    Fill::Small.matrix(rows, cols, seed).iter().map(|v| (3.0 * v).round()).collect()
}

#[test]
fn same_at_every_size_of_workgroup_workspace_and_binding() {
    let Some(gpu) = gpu() else { return };
    let (q, k) = (whole(33, 6, 1), whole(5000, 6, 2));
    let want = top_k::compute(gpu, &q, &k, 6, 20).unwrap();
    for tuning in [
        Tuning { workgroup: 64, by_subgroup: false, ..*gpu.tuning() },
        Tuning { workspace: 1 << 14, ..*gpu.tuning() },
        Tuning { groups: 1000, ..*gpu.tuning() },
    ] {
        assert_eq!(top_k::compute(&gpu.with_tuning(tuning), &q, &k, 6, 20).unwrap(), want, "{tuning:?}");
    }
    let limits = wgpu::Limits { max_storage_buffer_binding_size: 1 << 14, ..Default::default() };
    let small = open(Some(limits)).unwrap();
    assert_eq!(top_k::compute(&small, &q, &k, 6, 20).unwrap(), want);
}

#[test]
fn special_values() {
    let Some(gpu) = gpu() else { return };
    let keys = [1.0, f32::NAN, f32::INFINITY, -1.0, f32::NEG_INFINITY, 0.0];
    let (ids, scores) = top_k::compute(gpu, &[1.0], &keys, 1, 7).unwrap();
    assert_eq!(ids, [2, 0, 5, 3, 4, u32::MAX, u32::MAX]);
    let infinity = f32::INFINITY;
    assert_eq!(scores, [infinity, 1.0, 0.0, -1.0, -infinity, -infinity, -infinity]);
    assert_eq!(top_k::compute(gpu, &[1.0], &[], 1, 2).unwrap(), (vec![u32::MAX; 2], vec![-infinity; 2]));
    assert_eq!(top_k::compute(gpu, &[], &[1.0], 1, 2).unwrap(), (vec![], vec![]));
}

/// Each key better than all before it: every one is inserted, at the front.
#[test]
fn ascending_scores() {
    let Some(gpu) = gpu() else { return };
    let keys: Vec<f32> = (0..100_000).map(|at| at as f32).collect();
    let (ids, _) = top_k::compute(gpu, &[1.0, -1.0], &keys, 1, 1000).unwrap();
    assert!(ids[..1000].iter().copied().eq((99_000..100_000).rev()));
    assert!(ids[1000..].iter().copied().eq(0..1000));
}

/// One list for all rows.
#[test]
fn a_shared_list() {
    let Some(gpu) = gpu() else { return };
    let (q, k) = (input(gpu, 2, 1, &[1.0f32, -1.0]), input(gpu, 4, 1, &[0.0f32, 1.0, 2.0, 3.0]));
    let (starts, items) = (input(gpu, 2, 1, &[0u32, 2]), input(gpu, 2, 1, &[0u32, 3]));
    let ids = gpu.zeros::<u32>(6).unwrap();
    let scores = output(gpu, 2, 3);
    let ids = Tensor::<u32>::matrix(&ids, 2, 3).unwrap();
    gpu.run(|recorder| {
        let exclude = Lists { starts: starts.view()?, items: items.view()?, list: None };
        top_k::forward(recorder, q.view()?, k.view()?, Some(exclude), ids, scores.view()?)
    })
    .unwrap();
    assert_eq!(gpu.read(ids).unwrap(), [2, 1, u32::MAX, 1, 2, u32::MAX]);
}

fn ids_of(gpu: &Gpu, n: usize) -> wgpu::Buffer {
    gpu.zeros::<u32>(n).unwrap()
}

#[test]
fn refusals() {
    let Some(gpu) = gpu() else { return };
    let (q, k, scores) = (output(gpu, 2, 3), output(gpu, 4, 3), output(gpu, 2, 5));
    let buffer = ids_of(gpu, 10);
    let ids = Tensor::<u32>::matrix(&buffer, 2, 5).unwrap();
    let refuse = |q: Tensor, k: Tensor, lists, ids, s: Tensor| {
        refused(gpu, &[&scores], |recorder| top_k::forward(recorder, q, k, lists, ids, s))
    };
    let (q, k, s) = (view(&q), view(&k), view(&scores));
    assert_eq!(refuse(q, k.col_range(0..2), None, ids, s), shape("top_k", "k", "4 x 3", "4 x 2"));
    assert_eq!(refuse(q.row_range(0..1), k, None, ids, s), shape("top_k", "ids", "1 x 5", "2 x 5"));
    assert_eq!(refuse(q, k, None, ids.col_range(0..4), s), shape("top_k", "scores", "2 x 4", "2 x 5"));
    assert_eq!(refuse(q, k, None, ids.col_range(0..0), s.col_range(0..0)), option("top_k", "K", "at least 1", "0"));
    let lists = Lists { starts: ids.col_range(0..1), items: ids.col_range(0..1), list: Some(ids) };
    assert_eq!(refuse(q, k, Some(lists), ids, s), shape("top_k", "list", "2 x 1", "2 x 5"));
    let lists = Lists { list: None, ..lists };
    assert_eq!(refuse(q, k, Some(lists), ids, s), overlap("top_k", "ids", "starts"));
}
