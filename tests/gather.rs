use wgloss::{Accum, Gpu, Storage, Tensor, Tuning, gather, reference, wgpu};

use crate::harness::*;

#[test]
fn verified() {
    verifies("gather");
}

/// Whole numbers, whose sums are exact in any order.
fn whole(count: usize) -> Vec<f32> {
    (0..count).map(|at| ((at * 37 + at / 7) % 19) as f32 - 9.0).collect()
}

fn dense(gpu: &Gpu, dy: &[f32], ids: &[u32], rows: usize, cols: usize) -> Vec<f64> {
    let (held_dy, held_ids) = (input(gpu, ids.len(), cols, dy), input(gpu, ids.len(), 1, ids));
    let table = output(gpu, rows, cols);
    gpu.run(|recorder| gather::backward(recorder, held_dy.view()?, held_ids.view()?, table.view()?, Accum::Write))
        .unwrap();
    read(gpu, &table)
}

/// Runs of one id that pass many blocks, of many ids that share one, and ids that are no rows.
#[test]
fn runs() {
    let Some(gpu) = gpu() else { return };
    for n in [63, 64, 65, 128, 129, 20_000, 100_000] {
        for (what, id) in [
            ("one", (|_| 3) as fn(usize) -> u32),
            ("two halves", |at| (at % 2) as u32),
            ("runs of 100", |at| (at / 100 % 7) as u32),
            ("none", |_| 7),
            ("some none", |at| if at % 3 == 0 { u32::MAX } else { (at % 5) as u32 }),
        ] {
            let ids: Vec<u32> = (0..n).map(id).collect();
            let dy = whole(n * 5);
            let want: Vec<f64> = reference::gather::backward(&wide(&dy), 5, &ids, 7);
            assert_eq!(dense(gpu, &dy, &ids, 7, 5), want, "{what} of {n}");
        }
    }
}

#[test]
fn same_bits_at_every_workgroup_size() {
    let Some(gpu) = gpu() else { return };
    let n = 5000;
    let ids: Vec<u32> = (0..n).map(|at| (at * at % 101) as u32).collect();
    let dy: Vec<f32> = (0..n * 6).map(|at| (at as f32 * 0.7).sin()).collect();
    let first = dense(gpu, &dy, &ids, 101, 6);
    for workgroup in [8, 64] {
        let other = gpu.with_tuning(Tuning { workgroup, ..*gpu.tuning() });
        assert_eq!(dense(&other, &dy, &ids, 101, 6), first);
    }
}

/// Rows that are taken out, changed and put back, in storages whose rows share words too.
#[test]
fn scatter_puts_rows_back() {
    let Some(gpu) = gpu() else { return };
    for (storage, cols) in [(Storage::F32, 3), (Storage::F16, 3), (Storage::Bf16, 8), (Storage::F16, 1)] {
        let table = whole(50 * cols);
        let buffer = gpu.upload_as(storage, &table).unwrap();
        let view = Tensor::stored(storage, &buffer, 50, cols, 0, cols).unwrap();
        let ids: Vec<u32> = (0..40).map(|at| if at % 4 == 1 { u32::MAX } else { at * 7 % 50 }).collect();
        let rows: Vec<f32> = (0..40 * cols).map(|at| (at % 200) as f32).collect();
        let (held_ids, y) = (input(gpu, 40, 1, &ids), input(gpu, 40, cols, &rows));
        gpu.run(|recorder| gather::scatter(recorder, y.view()?, held_ids.view()?, view)).unwrap();
        let mut want = table;
        for (row, &id) in rows.chunks(cols).zip(&ids).filter(|(_, id)| **id < 50) {
            want[id as usize * cols..][..cols].copy_from_slice(row);
        }
        assert_eq!(gpu.read(view).unwrap(), want, "{storage:?} {cols}");
    }
}

/// A table of many bindings.
#[test]
fn parts_of_a_table() {
    let limits = wgpu::Limits { max_storage_buffer_binding_size: 1 << 14, ..Default::default() };
    let Some(gpu) = open(Some(limits)) else { return };
    let (rows, cols, n) = (3000, 8, 400);
    let ids: Vec<u32> = (0..n).map(|at| if at % 50 == 49 { 5000 } else { (at * at * 13 % 3000) as u32 }).collect();
    let table = whole(rows * cols);
    assert_eq!(gather::compute(&gpu, &table, cols, &ids).unwrap(), reference::gather::forward(&table, cols, &ids));
    let dy = whole(n * cols);
    let want: Vec<f64> = reference::gather::backward(&wide(&dy), cols, &ids, rows);
    assert_eq!(dense(&gpu, &dy, &ids, rows, cols), want);
    // More rows of gradients than a binding holds, too.
    let n = 3000;
    let ids: Vec<u32> = (0..n).map(|at| (at % 1700) as u32).collect();
    let dy = whole(n * cols);
    let want: Vec<f64> = reference::gather::backward(&wide(&dy), cols, &ids, rows);
    assert_eq!(dense(&gpu, &dy, &ids, rows, cols), want);
    let (held_dy, held_ids) = (input(&gpu, n, cols, &dy), input(&gpu, n, 1, &ids));
    let (d_rows, which) = (output(&gpu, n, cols), input(&gpu, n, 1, &vec![7u32; n]));
    gpu.run(|r| gather::backward_rows(r, held_dy.view()?, held_ids.view()?, 1600, which.view()?, d_rows.view()?))
        .unwrap();
    // Of equal ids, which stand together, the first has the sum.
    let mut sorted = ids.clone();
    sorted.sort_unstable();
    let begins = |at: usize| sorted[at] < 1600 && (at == 0 || sorted[at - 1] != sorted[at]);
    let heads: Vec<u32> = (0..n).map(|at| if begins(at) { sorted[at] } else { u32::MAX }).collect();
    assert_eq!(gpu.read(which.view().unwrap()).unwrap(), heads);
    assert_eq!(read(&gpu, &d_rows), reference::gather::forward(&want, cols, &heads));
    let (held, buffer) = (gpu.upload(&table).unwrap(), gpu.upload(&[2999u32, 0]).unwrap());
    let (held, row) = (Tensor::matrix(&held, rows, cols).unwrap(), gpu.upload(&whole(2 * cols)).unwrap());
    gpu.run(|recorder| gather::scatter(recorder, Tensor::matrix(&row, 2, cols)?, Tensor::vector(&buffer, 2)?, held))
        .unwrap();
    let got = gpu.read(held).unwrap();
    assert_eq!(got[2999 * cols..], whole(2 * cols)[..cols]);
    assert_eq!(got[..cols], whole(2 * cols)[cols..]);
    assert_eq!(got[cols..2999 * cols], table[cols..2999 * cols]);
}

/// What is not a number stays with its own row.
#[test]
fn special_values() {
    let Some(gpu) = gpu() else { return };
    let dy = [1.0, f32::NAN, f32::INFINITY, 2.0, -0.0, f32::NEG_INFINITY, 3.0, 4.0];
    let sums = dense(gpu, &dy, &[0, 1, 1, 9], 3, 2);
    assert_eq!([sums[0], sums[2], sums[4], sums[5]], [1.0, f64::INFINITY, 0.0, 0.0]);
    assert!(sums[1].is_nan() && sums[3] == f64::NEG_INFINITY);
}

#[test]
fn nothing() {
    let Some(gpu) = gpu() else { return };
    assert_eq!(gather::compute(gpu, &[], 3, &[0, 1]).unwrap(), [0.0; 6]);
    assert_eq!(gather::compute(gpu, &[1.0, 2.0], 2, &[]).unwrap(), [0.0; 0]);
    assert_eq!(dense(gpu, &[], &[], 2, 3), [0.0; 6]);
}

#[test]
fn refusals() {
    let Some(gpu) = gpu() else { return };
    let (table, y) = (output(gpu, 5, 3), output(gpu, 4, 3));
    let ids = input(gpu, 4, 1, &[0u32; 4]);
    let (table_view, y_view, ids) = (view(&table), view(&y), view(&ids));
    let outputs = [&table, &y];
    let refuse = |record: &dyn Fn(&mut wgloss::Recorder) -> wgloss::Result<()>| refused(gpu, &outputs, record);
    assert_eq!(
        refuse(&|r| gather::forward(r, table_view, ids.row_range(0..3), y_view)),
        shape("gather", "ids", "4 x 1", "3 x 1")
    );
    assert_eq!(
        refuse(&|r| gather::forward(r, table_view, ids, y_view.col_range(0..2))),
        shape("gather", "y", "4 x 3", "4 x 2")
    );
    assert_eq!(
        refuse(&|r| gather::scatter(r, y_view.col_range(0..2), ids, table_view)),
        shape("gather", "y", "4 x 3", "4 x 2")
    );
    assert_eq!(
        refuse(&|r| gather::backward(r, y_view.col_range(0..2), ids, table_view, Accum::Add)),
        shape("gather", "dy", "4 x 3", "4 x 2")
    );
    assert_eq!(
        refuse(&|r| gather::backward_rows(r, y_view, ids, 5, ids, table_view)),
        shape("gather", "d_rows", "4 x 3", "5 x 3")
    );
    assert_eq!(
        refuse(&|r| gather::forward(r, table_view, ids, table_view.row_range(1..5))),
        overlap("gather", "y", "table")
    );
    assert_eq!(
        refuse(&|r| gather::backward_rows(r, y_view, ids, 5, ids, table_view.row_range(0..4))),
        overlap("gather", "rows", "ids")
    );
    assert_eq!(
        gather::compute(gpu, &[1.0; 5], 2, &[0]).unwrap_err(),
        shape("gather", "table", "whole rows of 2", "5 elements")
    );
}
