//! Work that exceeds a limit of the device: a grid, a binding, the workspace.

use std::ops::ControlFlow;

use wgloss::reference::siglip::Learned;
use wgloss::verify::{Fill, SUITES};
use wgloss::{
    Accum, Error, Gpu, Random, Reduction, Storage, Tensor, Tuning, adam, cast, cross_entropy, info_nce, l2, linear,
    linear_cross_entropy, normalize, reference, sgd, siglip, sigmoid, softmax, tanh, top_k, wgpu,
};

use crate::harness::*;
use crate::{info_nce as nce, linear as lin, linear_cross_entropy as lce, siglip as sig};

/// Limits so small that everything beyond a few thousand elements is split, and the same device without them.
fn small() -> Option<(Gpu, Gpu)> {
    let limits = wgpu::Limits {
        max_storage_buffer_binding_size: 64 << 10,
        max_compute_workgroups_per_dimension: 32,
        max_compute_invocations_per_workgroup: 64,
        max_compute_workgroup_size_x: 64,
        max_compute_workgroup_size_y: 64,
        ..Default::default()
    };
    let small = open(Some(limits))?;
    let large = gpu()?.with_tuning(*small.tuning());
    Some((small, large))
}

/// A row's result does not depend on the dispatch that computes it.
#[test]
fn rows_in_many_dispatches() {
    let Some((small, large)) = small() else { return };
    let mut random = Random::new(3, 0);
    for (rows, cols) in [(3000, 17), (40_000, 3), (9, 16_000)] {
        let (x, dy) = (Fill::Wide.matrix(rows, cols, 1), Fill::Small.matrix(rows, cols, 2));
        let options = softmax::Options { temperature: 0.7, log: true };
        let softmax = |gpu| crate::softmax::on_device(gpu, &x, &dy, cols, options);
        assert!(softmax(&small) == softmax(&large), "softmax {rows} x {cols}");
        let normalize = |gpu| crate::normalize::on_device(gpu, &x, &dy, cols, normalize::Options::default());
        assert!(normalize(&small) == normalize(&large), "normalize {rows} x {cols}");
        let ids: Vec<u32> = (0..rows).map(|_| random.below(cols as u32)).collect();
        for reduction in [Reduction::None, Reduction::Mean] {
            let options = cross_entropy::Options { reduction, ..Default::default() };
            let of = |gpu| crate::cross_entropy::on_device(gpu, &x[..rows * cols], cols, &ids, &[], options);
            let ([loss, dx], [whole_loss, whole_dx]) = (of(&small), of(&large));
            assert!(dx == whole_dx, "cross_entropy {rows} x {cols} {reduction:?}");
            // A mean is summed binding by binding.
            let last_digits = if reduction == Reduction::Mean { 1e-6 } else { 0.0 };
            assert_close(&loss, &whole_loss, last_digits);
        }
    }
}

#[test]
fn elements_in_many_dispatches() {
    let Some((small, large)) = small() else { return };
    for (rows, cols) in [(300, 301), (1, 50_000), (50_000, 1), (4, 10_000)] {
        let [x, dy, v] = [4, 5, 6].map(|seed| Fill::Small.matrix(rows, cols, seed));
        let tanh = |gpu| crate::tanh::on_device(gpu, &x, &dy, cols);
        assert!(tanh(&small) == tanh(&large), "tanh {rows} x {cols}");
        let options = sgd::Options { rate: 0.1, momentum: 0.9, ..Default::default() };
        let sgd = |gpu| crate::sgd::on_device(gpu, &x, &dy, &v, cols, options);
        assert!(sgd(&small) == sgd(&large), "sgd {rows} x {cols}");
    }
}

/// Small whole numbers: every order of summation gives the same.
#[test]
fn products_in_many_dispatches() {
    let Some((small, _)) = small() else { return };
    let whole = |rows, cols, seed| -> Vec<f32> {
        Fill::Small.matrix(rows, cols, seed).iter().map(|x| (x * 3.0).round()).collect()
    };
    // Rows, columns and sums that exceed a binding or a grid, in turn.
    for shape in [[700, 50, 600], [20, 30, 3000], [3000, 40, 20], [20, 3000, 30], [9000, 2, 3]] {
        let [rows, inputs, outputs] = shape;
        let (x, w) = (whole(rows, inputs, 1), whole(outputs, inputs, 2));
        let (b, dy) = (whole(outputs, 1, 3), whole(rows, outputs, 4));
        let data = lin::Data { x: &x, w: &w, b: Some(&b), dy: &dy, shape };
        let (found, want) = (lin::on_device(&small, &data), lin::by_reference(&data));
        for (index, what) in ["y", "dx", "dw", "db"].into_iter().enumerate() {
            assert!(found[index] == want[index], "{what} of {shape:?}");
        }
    }
}

/// A sum over more rows than a binding holds is as near to that of f32 as one rounding.
#[test]
fn sums_of_16_bits_are_rounded_once() {
    let Some((small, _)) = small() else { return };
    let (rows, inputs, outputs) = (3000, 40, 20);
    let (x, dy) = (Fill::Small.matrix(rows, inputs, 24), Fill::Small.matrix(rows, outputs, 25));
    let (x, dy, w) =
        (input(&small, rows, inputs, &x), input(&small, rows, outputs, &dy), output(&small, outputs, inputs));
    let of = |storage: Storage| {
        let check = wgloss::verify::Check::new(&small);
        let [dw, db] = [inputs, 1].map(|cols| check.output_as(storage, outputs, cols).unwrap());
        let record = small.run(|r| {
            let (dw, db) = (Some(dw.view()?), Some(db.view()?));
            linear::backward(r, x.view()?, w.view()?, dy.view()?, None, dw, db, Accum::Write)
        });
        record.unwrap();
        [read(&small, &dw), read(&small, &db)]
    };
    let [exact, rounded] = [of(Storage::F32), of(Storage::Bf16)];
    for (exact, rounded) in exact.iter().zip(&rounded) {
        assert_close(rounded, exact, 2f64.powi(-8));
    }
}

/// Elements within 3·10⁻⁶ of `size`, the magnitude of what they are sums of.
fn assert_near(what: &str, got: &[f64], want: &[f64], size: f64) {
    assert_within(what, got, want, 3e-6 * size);
}

#[test]
fn pairs_in_many_dispatches() {
    let Some((small, _)) = small() else { return };
    let dim = 20;
    for (queries, keys, symmetric, reduction) in
        [(700, 900, false, Reduction::Mean), (800, 800, true, Reduction::None), (3, 4000, false, Reduction::Sum)]
    {
        let options = info_nce::Options { temperature: 0.5, symmetric, reduction, ..Default::default() };
        let (q, k) = (Fill::Small.matrix(queries, dim, 7), Fill::Small.matrix(keys, dim, 8));
        let dy = Fill::Small.matrix(if reduction == Reduction::None { queries } else { 1 }, 1, 9);
        let batch = nce::Batch { q: &q, k: &k, dim, log_scale: Some(0.3), dy: &dy };
        let (found, want) = (nce::on_device(&small, &batch, options), nce::by_reference(&batch, options));
        for (index, what) in ["loss", "dq", "dk", "d_log_scale"].into_iter().enumerate() {
            let terms = wide(&q).iter().zip(&want[1]).map(|(q, dq)| (q * dq).abs()).sum(); // of Σ ⟨q, dq⟩
            let size = if what == "d_log_scale" { terms } else { largest(&want[index]) };
            assert_near(&format!("{what} of {queries} x {keys}"), &found[index], &want[index], size);
        }
        let whole = |x: &[f32]| x.iter().map(|x| (x * 2.0).round()).collect::<Vec<_>>(); // exact scores, many ties
        let (q, k) = (whole(&q), whole(&k));
        let ids: Vec<u32> = (0..keys as u32).map(|key| key % 7).collect();
        for ids in [None, Some((&ids[..queries], &ids[..]))] {
            let want = reference::info_nce::rank(&wide(&q), &wide(&k), dim, ids);
            assert!(nce::on_device_rank(&small, &q, &k, dim, ids) == want, "rank of {queries} x {keys}");
        }
    }
}

/// The largest buffer of llvmpipe is 2^31 - 1 bytes, no whole number of words; so it may be elsewhere, and a power of two exceed it by one.
#[test]
fn buffers_of_an_odd_limit() {
    let limits = wgpu::Limits {
        max_buffer_size: (1 << 17) - 1,
        max_storage_buffer_binding_size: (1 << 17) - 4,
        ..Default::default()
    };
    let Some(odd) = open(Some(limits)) else { return };
    let odd = odd.with_tuning(Tuning { workspace: 110_000, ..*odd.tuning() });
    let (q, k) = (Fill::Small.matrix(160, 4, 7), Fill::Small.matrix(160, 4, 8));
    let options = info_nce::Options { symmetric: true, reduction: Reduction::Mean, ..Default::default() };
    let batch = nce::Batch { q: &q, k: &k, dim: 4, log_scale: None, dy: &[1.0] };
    let (found, want) = (nce::on_device(&odd, &batch, options), nce::by_reference(&batch, options));
    assert_near("dq", &found[1], &want[1], largest(&want[1]));
}

#[test]
fn decisions_in_many_dispatches() {
    let Some((small, _)) = small() else { return };
    let small = small.with_tuning(Tuning { workspace: 64 << 10, ..*small.tuning() });
    let dim = 20;
    let learned = Learned { log_scale: Some(0.3), bias: Some(-1.5) };
    for (queries, keys, reduction) in
        [(700, 900, Reduction::Mean), (500, 500, Reduction::None), (3, 4000, Reduction::Sum)]
    {
        let options = siglip::Options { reduction, ..Default::default() };
        let (q, k) = (Fill::Small.matrix(queries, dim, 7), Fill::Small.matrix(keys, dim, 8));
        let dy = Fill::Small.matrix(if reduction == Reduction::None { queries } else { 1 }, 1, 9);
        for dy in [&dy[..], &[]] {
            let batch = sig::Batch { q: &q, k: &k, dim, learned, dy };
            let (found, want) = (sig::on_device(&small, &batch, options), sig::by_reference(&batch, options));
            for (index, what) in ["loss", "dq", "dk", "d_log_scale", "d_bias"].into_iter().enumerate() {
                // Sums over rows of both signs: the size is that of the rows.
                let size = match what {
                    "d_log_scale" => wide(&q).iter().zip(&want[1]).map(|(q, dq)| (q * dq).abs()).sum(),
                    "d_bias" => want[1].iter().map(|dq| dq.abs()).sum::<f64>().max(want[4][0].abs()),
                    _ => largest(&want[index]),
                };
                assert_near(&format!("{what} of {queries} x {keys}"), &found[index], &want[index], size);
            }
        }
    }
}

/// Each part of a gradient is added once, whatever the number of chunks.
#[test]
fn chunks_are_added_once() {
    let Some((small, large)) = small() else { return };
    let small = small.with_tuning(Tuning { workspace: 64 << 10, ..*small.tuning() });
    let (n, m, dim) = (300, 400, 3);
    let (q, k) = (Fill::Small.matrix(n, dim, 1), Fill::Small.matrix(m, dim, 2));
    let gradients = |gpu: &Gpu, accum: Accum| {
        let (held_q, held_k) = (input(gpu, n, dim, &q), input(gpu, m, dim, &k));
        let [dq, dk, d_scale, d_bias] =
            [[n, dim], [m, dim], [1, 1], [1, 1]].map(|[rows, cols]| input(gpu, rows, cols, &vec![0.5f32; rows * cols]));
        let record = gpu.run(|r| {
            let gradients = siglip::Gradients {
                dq: Some(dq.view()?),
                dk: Some(dk.view()?),
                d_log_scale: Some(d_scale.view()?),
                d_bias: Some(d_bias.view()?),
            };
            let options = siglip::Options { accum, bias: -1.0, reduction: Reduction::Sum, ..Default::default() };
            siglip::backward(r, held_q.view()?, held_k.view()?, Default::default(), None, gradients, options)
        });
        record.unwrap();
        [&dq, &dk, &d_scale, &d_bias].map(|held| read(gpu, held))
    };
    for gpu in [&small, &large] {
        let (written, added) = (gradients(gpu, Accum::Write), gradients(gpu, Accum::Add));
        for (written, added) in written.iter().zip(&added) {
            let want: Vec<f64> = written.iter().map(|written| written + 0.5).collect();
            assert_near("added", added, &want, largest(&want));
        }
    }
}

/// One row of 16 bits whose sum is of several parts, and columns whose gaps make them longer than a binding.
#[test]
fn columns_with_gaps_and_single_rows() {
    let Some((small, large)) = small() else { return };
    let run = |gpu: &Gpu| {
        let check = wgloss::verify::Check::new(gpu);
        let matrix = |rows, cols, seed| input(gpu, rows, cols, &Fill::Small.matrix(rows, cols, seed));
        let (x, w, g) = (matrix(1, 40, 1), matrix(800, 40, 2), matrix(1, 800, 3));
        let dx = check.output_as(Storage::Bf16, 1, 40).unwrap();
        let record = gpu.run(|r| {
            let dx = Some(dx.view()?);
            linear::backward(r, x.view()?, w.view()?, g.view()?, dx, None, None, Accum::Write)
        });
        record.unwrap();
        // Columns of matrices: each number lies 200 from the one before.
        let (rows, classes) = (300, 150);
        let (x, w) = (matrix(rows, 3, 4), matrix(classes, 3, 5));
        let [b, db, dy, loss] =
            [(classes, 6), (classes, 7), (rows, 8), (rows, 9)].map(|(len, seed)| matrix(len, 200, seed));
        let (class, ids) = (matrix(1, classes, 10), input(gpu, rows, 1, &vec![3u32; rows]));
        let (lse, dw) = (output(gpu, rows, 2), output(gpu, classes, 3));
        let record = gpu.run(|r| {
            let [b, db, dy, loss] = [b.view()?, db.view()?, dy.view()?, loss.view()?].map(|all| all.col_range(7..8));
            let layer =
                linear_cross_entropy::Layer { b: Some(b), ..linear_cross_entropy::Layer::new(x.view()?, w.view()?) };
            let batch = linear_cross_entropy::Batch::new(layer, linear_cross_entropy::Target::Ids(ids.view()?));
            let weights = linear_cross_entropy::Weights { class: Some(class.view()?), row: None };
            let batch = linear_cross_entropy::Batch { weights, ..batch };
            let options = linear_cross_entropy::Options {
                label_smoothing: 0.1,
                reduction: Reduction::None,
                ..Default::default()
            };
            let gradients =
                linear_cross_entropy::Gradients { dw: Some(dw.view()?), db: Some(db), ..Default::default() };
            let lse = lse.view()?;
            linear_cross_entropy::forward(r, batch, loss, Some(lse), None, Default::default(), options)?;
            linear_cross_entropy::backward(r, batch, lse, Some(dy), gradients, options)
        });
        record.unwrap();
        let column = |held: &wgloss::verify::Held| read(gpu, held).into_iter().skip(7).step_by(200).collect::<Vec<_>>();
        [read(gpu, &dx), column(&loss), read(gpu, &dw), column(&db)]
    };
    let (found, want) = (run(&small), run(&large));
    for (index, what) in ["dx", "loss", "dw", "db"].into_iter().enumerate() {
        // What is stored in bf16 is rounded once, from sums of another order.
        let size = largest(&want[index]) * if what == "dx" { 3e3 } else { 1.0 };
        assert_near(what, &found[index], &want[index], size);
    }
}

/// Logits of which a binding holds few rows, and parameters of which it holds some.
#[test]
fn layers_in_many_dispatches() {
    let Some((small, large)) = small() else { return };
    for shape in [[300, 20, 1000], [2000, 5, 40], [7, 12, 7000]] {
        let data = |gpu: &Gpu| lce::Data::new(gpu, shape).run(gpu, None, Default::default());
        let (found, want) = (data(&small), data(&large));
        for (index, what) in ["loss", "dx", "dw", "db"].into_iter().enumerate() {
            assert_near(&format!("{what} of {shape:?}"), &found[index], &want[index], largest(&want[index]));
        }
    }
    let row = refused(&small, &[], |r| {
        let (x, w, ids) = (output(&small, 2, 1), output(&small, 20_000, 1), input(&small, 2, 1, &[0u32; 2]));
        let loss = output(&small, 1, 1);
        let layer = linear_cross_entropy::Layer::new(x.view()?, w.view()?);
        let batch = linear_cross_entropy::Batch::new(layer, linear_cross_entropy::Target::Ids(ids.view()?));
        let (loss, none) = (loss.view()?, Default::default());
        linear_cross_entropy::forward(r, batch, loss, None, None, none, Default::default())
    });
    let Error::Limit { what, needed: 80_000, limit, .. } = row else { panic!("{row:?}") };
    assert!(what == "linear_cross_entropy: one row of logits" && limit <= 64 << 10, "{what}, {limit}");
}

/// More dispatches than a driver has place for at once, of an op and of many, are submitted in parts: Mesa's llvmpipe maps memory for the bindings of each, and crashes where no
/// mapping is left.
#[test]
fn dispatches_by_the_ten_thousand() {
    let Some(gpu) = gpu() else { return };
    let (x, y) = (input(gpu, 1, 4, &[0.5f32; 4]), output(gpu, 1, 4));
    gpu.run(|r| (0..70_000).try_for_each(|_| tanh::forward(r, x.view()?, y.view()?))).unwrap();
    assert_close(&read(gpu, &y), &[0.5f64.tanh(); 4], 1e-6);
    let one_row = gpu.with_tuning(Tuning { workspace: 0, ..*gpu.tuning() });
    let data = lce::Data::new(gpu, [20_000, 4, 3]);
    let (found, want) = (data.run(&one_row, None, Default::default()), data.run(gpu, None, Default::default()));
    for (found, want) in found.iter().zip(&want) {
        assert_near("in parts of one row", found, want, 30.0 * largest(want)); // dW and db are sums of 20,000 parts
    }
}

/// What cannot be split is refused before anything is recorded, and the message names what and which limit.
#[test]
fn what_cannot_be_split() {
    let Some((small, _)) = small() else { return };
    let gpu = &small;
    let wide = 20_000; // 80,000 bytes in one row
    let (x, y) = (input(gpu, 2, wide, &vec![0.5f32; 2 * wide]), output(gpu, 2, wide));
    let (ids, scalar, lse) = (input(gpu, 2, 1, &[0u32; 2]), output(gpu, 1, 1), output(gpu, 2, 2));
    let (few, narrow, state) = (output(gpu, 2, 2), output(gpu, 2, 3), output(gpu, 2, 4));
    let mean = info_nce::Options { reduction: Reduction::Mean, ..Default::default() };
    let errors = [
        refused(gpu, &[&y], |r| softmax::forward(r, x.view()?, y.view()?, Default::default())),
        refused(gpu, &[&y], |r| normalize::forward(r, x.view()?, y.view()?, Default::default())),
        refused(gpu, &[&scalar, &lse], |r| {
            let (target, lse) = (cross_entropy::Target::Ids(ids.view()?), lse.view()?);
            let weights = cross_entropy::Weights::default();
            cross_entropy::forward(r, x.view()?, target, weights, scalar.view()?, lse, None, Default::default())
        }),
        refused(gpu, &[&few], |r| linear::forward(r, x.view()?, x.view()?, None, few.view()?)),
        refused(gpu, &[&y], |r| {
            linear::forward(r, narrow.view()?, input(gpu, wide, 3, &vec![0.0; 3 * wide]).view()?, None, y.view()?)
        }),
        refused(gpu, &[&scalar, &state], |r| {
            info_nce::forward(
                r,
                info_nce::Batch::new(x.view()?, x.view()?),
                scalar.view()?,
                state.view()?,
                Default::default(),
                mean,
            )
        }),
    ];
    for (index, error) in errors.iter().enumerate() {
        let Error::Limit { what, needed, limit, .. } = error else { panic!("call {index}: {error:?}") };
        assert!(needed > limit, "call {index}: {error}");
        let op = ["softmax", "normalize", "cross_entropy", "linear", "linear", "info_nce"][index];
        assert!(what.starts_with(op), "call {index}: {error}");
    }
    // A workspace that does not hold one tile's part of the gradient, 4 bytes for each pair.
    let limit = 1024;
    let tight = gpu.with_tuning(Tuning { workspace: limit, ..*gpu.tuning() });
    let (q, dq, dk) = (input(gpu, 2, 3, &[0.5f32; 6]), output(gpu, 2, 3), output(gpu, 2, 3));
    let error = refused(&tight, &[&dq, &dk], |r| {
        let (q, dq, dk) = (q.view()?, Some(dq.view()?), Some(dk.view()?));
        let gradients = info_nce::Gradients { dq, dk, ..Default::default() };
        info_nce::backward(r, info_nce::Batch::new(q, q), state.view()?, None, gradients, mean)
    });
    let what = "info_nce: the workspace of one tile".to_owned();
    let [rows, cols] = tight.tuning().tile();
    assert_eq!(error, Error::Limit { what, needed: 4 * (rows * cols) as u64, unit: "bytes", limit });
}

/// Columns of ids, weights and losses that no binding holds.
#[test]
fn columns_in_many_dispatches() {
    let Some((gpu, _)) = small() else { return };
    let rows = 20_000;
    let x = Fill::Small.matrix(rows, 2, 1);
    let ids: Vec<u32> = (0..rows as u32).map(|row| row % 2).collect();
    for reduction in [Reduction::Sum, Reduction::Mean] {
        let options = cross_entropy::Options { reduction, ..Default::default() };
        let [loss, dx] = crate::cross_entropy::on_device(&gpu, &x, 2, &ids, &[], options);
        let [want, want_dx] = crate::cross_entropy::by_reference(&x, 2, &ids, &[], options);
        assert_close(&loss, &want, 1e-6);
        assert_near("dx", &dx, &want_dx, largest(&want_dx));
    }
}

/// Outputs that lie in the input's rows of a later dispatch.
#[test]
fn a_part_of_the_output_over_another_part_of_the_input() {
    let Some((small, _)) = small() else { return };
    let buffer = input(&small, 4000, 20, &vec![0.0f32; 80_000]);
    let (x, y) = (buffer.view().unwrap().row_range(0..3000), buffer.view().unwrap().row_range(1000..4000));
    let error = refused(&small, &[], |r| softmax::forward(r, x, y, Default::default()));
    assert_eq!(error, overlap("softmax", "y", "x"));
    let error = refused(&small, &[], |r| tanh::forward(r, x, y));
    assert_eq!(error, overlap("tanh", "y", "x"));
}

/// The same of elements, where the parts of the output overlap other parts of the input only: x in 4,096 elements and 904, y 4,500 behind.
#[test]
fn a_block_of_the_output_over_another_block_of_the_input() {
    let Some(gpu) = gpu() else { return };
    let buffer = gpu.zeros::<f32>(9500).unwrap();
    let [x, y]: [Tensor; 2] = [0, 4500].map(|offset| Tensor::strided(&buffer, 1, 5000, offset, 5000).unwrap());
    let other = input(gpu, 1, 5000, &[0.0f32; 5000]);
    let free = other.view().unwrap();
    let of_state = adam::State { m: free, v: x, most: None };
    let refuse = |record: &dyn Fn(&mut wgloss::Recorder) -> wgloss::Result<()>| refused(gpu, &[], record);
    assert_eq!(refuse(&|r| tanh::forward(r, x, y)), overlap("tanh", "y", "x"));
    assert_eq!(refuse(&|r| sigmoid::backward(r, x, free, y, Default::default())), overlap("sigmoid", "dx", "y"));
    assert_eq!(refuse(&|r| cast::forward(r, x, y)), overlap("cast", "y", "x"));
    assert_eq!(refuse(&|r| sgd::step(r, x, y, None, Default::default())), overlap("sgd", "p", "g"));
    assert_eq!(refuse(&|r| adam::step(r, free, y, of_state, Default::default())), overlap("adam", "p", "v"));
}

/// What a browser grants: the defaults of WebGPU.
#[test]
fn default_limits_of_webgpu() {
    let Some(gpu) = open(Some(wgpu::Limits::default())) else { return };
    for &suite in SUITES {
        verifies_on(&gpu, suite.op, wgloss::verify::run_briefly);
    }
}

/// More than 65,535 workgroups of elements.
#[test]
fn a_grid_of_elements_folds() {
    let Some(gpu) = gpu() else { return };
    let gpu = gpu.with_tuning(Tuning { workgroup: 8, ..*gpu.tuning() });
    let (rows, cols) = (70_000, 300);
    let x: Vec<f32> = (0..rows * cols).map(|at| (at % 1013) as f32 / 500.0 - 1.0).collect();
    let (held, y) = (input(&gpu, rows, cols, &x), output(&gpu, rows, cols));
    gpu.run(|recorder| tanh::forward(recorder, held.view()?, y.view()?)).unwrap();
    let found = gpu.read(y.view().unwrap()).unwrap();
    let table: Vec<f64> = (0..1013).map(|at| f64::from(at as f32 / 500.0 - 1.0).tanh()).collect();
    let wrong = found.iter().enumerate().find(|(at, y)| {
        let near = (f64::from(**y) - table[at % 1013]).abs() <= 2e-7;
        !near
    });
    assert_eq!(wrong, None);
}

/// More than 65,535 workgroups of rows, and more than WebGPU's 128 MiB in one tensor.
#[test]
fn a_grid_of_rows_folds_and_a_tensor_exceeds_a_binding() {
    let Some(gpu) = gpu() else { return };
    let (rows, cols) = (70_000, 600);
    let x: Vec<f32> = (0..rows * cols).map(|at| (at % 1013 + at / cols % 7 * 100) as f32 / 100.0).collect();
    let held = input(gpu, rows, cols, &x);
    let y = gpu.zeros::<f32>(rows * cols).unwrap();
    let y = Tensor::matrix(&y, rows, cols).unwrap();
    gpu.run(|recorder| softmax::forward(recorder, held.view()?, y, Default::default())).unwrap();
    for row in (0..rows).step_by(997).chain([65_535, 65_536, rows - 1]) {
        let want = reference::softmax::forward(&wide(&x[row * cols..][..cols]), cols, Default::default());
        let found = wide(&gpu.read(y.row_range(row..row + 1)).unwrap());
        assert_near(&format!("row {row}"), &found, &want, largest(&want));
    }
}

/// More keys than a grid has workgroups in one dimension, or a shader's 16 bits could count.
#[test]
fn more_than_65535_keys() {
    let Some(gpu) = gpu() else { return };
    let (q, k) = (Fill::Small.matrix(33, 4, 10), Fill::Small.matrix(70_001, 4, 11));
    let batch = nce::plain(&q, &k, 4);
    let options = info_nce::Options { temperature: 0.5, reduction: Reduction::Mean, ..Default::default() };
    let (found, want) = (nce::on_device(gpu, &batch, options), nce::by_reference(&batch, options));
    for (index, what) in ["loss", "dq", "dk"].into_iter().enumerate() {
        assert_near(what, &found[index], &want[index], largest(&want[index]));
    }
}

/// Loss and gradients of a batch whose pairs exceed the workspace, in memory that does not grow with them.
#[test]
fn decisions_that_are_never_stored() {
    let Some(gpu) = open(None) else { return };
    let (n, dim, workspace) = (2051, 4, 1 << 20);
    let gpu = gpu.with_tuning(Tuning { workspace, ..*gpu.tuning() });
    let (q, k) = (input(&gpu, n, dim, &vec![0.5f32; n * dim]), input(&gpu, n, dim, &vec![0.25f32; n * dim]));
    let (loss, dq, dk) = (output(&gpu, 1, 1), output(&gpu, n, dim), output(&gpu, n, dim));
    let (d_log_scale, d_bias) = (output(&gpu, 1, 1), output(&gpu, 1, 1));
    let options = siglip::Options { temperature: 1.0, bias: -0.5, ..Default::default() };
    let allocated = || gpu.device().generate_allocator_report().map_or(0, |report| report.total_allocated_bytes);
    let before = allocated();
    let record = gpu.run(|r| {
        let gradients = siglip::Gradients {
            dq: Some(dq.view()?),
            dk: Some(dk.view()?),
            d_log_scale: Some(d_log_scale.view()?),
            d_bias: Some(d_bias.view()?),
        };
        siglip::forward(r, q.view()?, k.view()?, Default::default(), loss.view()?, gradients, options)
    });
    record.unwrap();
    let grown = allocated() - before;
    assert!(grown > 0 || gpu.info().backend != wgpu::Backend::Vulkan, "nothing was measured");
    assert!(grown <= 2 * workspace + (4 << 20), "{grown} bytes beside inputs and outputs"); // one f32 a pair: 17 MB
    // Every z is 4 · 0.5 · 0.25 − 0.5 = 0: loss N ln 2, slopes 0.5 but −0.5 of the own pair.
    let [loss, d_bias] = [&loss, &d_bias].map(|held| read(&gpu, held)[0]);
    assert_near("loss", &[loss], &[n as f64 * 2f64.ln()], loss);
    assert_near("d_bias", &[d_bias], &[0.5 * (n as f64 - 2.0)], d_bias);
    assert_near("dq", &read(&gpu, &dq), &vec![0.125 * (n as f64 - 2.0) / n as f64; n * dim], 1.0);
}

/// Both directions of a batch whose pairs exceed the workspace, against a sample of rows, in memory that does not grow with them.
#[test]
fn pairs_that_are_never_stored() {
    let Some(gpu) = open(None) else { return };
    // A software adapter takes 27 million pairs a second.
    let software = gpu.info().device_type == wgpu::DeviceType::Cpu;
    let (n, dim, workspace) = if software { (4099, 4, 4 << 20) } else { (65_537, 4, 64 << 20) };
    let gpu = gpu.with_tuning(Tuning { workspace, ..*gpu.tuning() });
    let options =
        info_nce::Options { temperature: 0.5, symmetric: true, reduction: Reduction::None, ..Default::default() };
    let (q, k) = (Fill::Small.matrix(n, dim, 12), Fill::Small.matrix(n, dim, 13));
    let (held_q, held_k) = (input(&gpu, n, dim, &q), input(&gpu, n, dim, &k));
    let (loss, state) = (output(&gpu, n, 1), output(&gpu, 2 * n, 4));
    let (dq, dk) = (output(&gpu, n, dim), output(&gpu, n, dim));
    let allocated = || gpu.device().generate_allocator_report().map_or(0, |report| report.total_allocated_bytes);
    let before = allocated();
    let record = gpu.run(|r| {
        let batch = info_nce::Batch::new(held_q.view()?, held_k.view()?);
        info_nce::forward(r, batch, loss.view()?, state.view()?, Default::default(), options)?;
        let gradients = info_nce::Gradients { dq: Some(dq.view()?), dk: Some(dk.view()?), ..Default::default() };
        info_nce::backward(r, batch, state.view()?, None, gradients, options)
    });
    record.unwrap();
    // Two workspaces, eight numbers a query and a key, and the parameters of the dispatches. One f32 a pair would be 67 MB and more.
    let grown = allocated() - before;
    assert!(grown > 0 || gpu.info().backend != wgpu::Backend::Vulkan, "nothing was measured");
    assert!(grown <= 2 * workspace + (4 << 20) + 64 * n as u64, "{grown} bytes beside inputs and outputs");

    let (q, k) = (wide(&q), wide(&k));
    let [loss, state, dq, dk] = [&loss, &state, &dq, &dk].map(|held| read(&gpu, held));
    // The log-sum-exp of the negatives as (max, rest), and ⟨q, k⟩ of the positive.
    let lse: Vec<f64> =
        state.chunks(4).map(|line| ((line[0] + line[1].ln_1p()).exp() + (2.0 * line[2]).exp()).ln()).collect();
    let (of_rows, of_columns) = lse.split_at(n);
    let row = |x: &[f64], i: usize| x[i * dim..][..dim].to_vec();
    let scores = |x: &[f64], y: &[f64]| y.chunks(dim).map(|y| 2.0 * dot(x, y)).collect::<Vec<_>>();
    let log_sum = |scores: &[f64]| scores.iter().map(|s| s.exp()).sum::<f64>().ln();
    // dq_i, or by the other arguments dk_i: half of scale Σ_j (p_ij + c_ij - 2 [i = j]) y_j.
    let gradient = |i: usize, scores: &[f64], own: f64, others: &[f64], y: &[f64]| {
        let mut sum = row(y, i).iter().map(|y| -2.0 * y).collect::<Vec<_>>();
        for (j, s) in scores.iter().enumerate() {
            let g = (s - own).exp() + (s - others[j]).exp();
            sum.iter_mut().zip(&y[j * dim..]).for_each(|(sum, y)| *sum += g * y);
        }
        sum
    };
    for i in (0..n).step_by(509).chain([n - 1]) {
        let (x, y) = (row(&q, i), row(&k, i));
        let (of_row, of_column) = (scores(&x, &k), scores(&y, &q));
        let (r, c) = (log_sum(&of_row), log_sum(&of_column));
        assert_near(&format!("lse of {i}"), &[of_rows[i], of_columns[i]], &[r, c], 1.0);
        assert_near(&format!("loss of {i}"), &loss[i..][..1], &[0.5 * (r + c) - of_row[i]], 1.0);
        // The log-sum-exps of all others are the device's, of which the ones checked above are a sample.
        let found = [row(&dq, i), row(&dk, i)].concat();
        let want = [gradient(i, &of_row, r, of_columns, &k), gradient(i, &of_column, c, of_rows, &q)].concat();
        assert_near(&format!("dq, dk of {i}"), &found, &want, 1.0);
    }
}

/// Runs an op, which may take 160 MiB beside inputs and outputs.
fn takes_little(gpu: &Gpu, record: impl FnOnce(&mut wgloss::Recorder) -> wgloss::Result<()>) {
    takes_at_most(gpu, 160 << 20, record);
}

fn takes_at_most(gpu: &Gpu, bytes: u64, record: impl FnOnce(&mut wgloss::Recorder) -> wgloss::Result<()>) {
    let allocated = || gpu.device().generate_allocator_report().map_or(0, |report| report.total_allocated_bytes);
    let before = allocated();
    gpu.run(record).unwrap();
    let grown = allocated() - before;
    assert!(grown > 0 || gpu.info().backend != wgpu::Backend::Vulkan, "nothing was measured");
    assert!(grown <= bytes, "{grown} bytes beside inputs and outputs");
}

/// An op of thousands of dispatches, whose bindings are made some at a time, is told about as it goes on and finds what one of few finds.
#[test]
fn an_op_of_thousands_of_dispatches() {
    let Some(gpu) = gpu() else { return };
    let (n, dim) = (2000, 2);
    let (q, k) = (Fill::Small.matrix(n, dim, 18), Fill::Small.matrix(n, dim, 19));
    let (held_q, held_k) = (input(gpu, n, dim, &q), input(gpu, n, dim, &k));
    let options = info_nce::Options { temperature: 0.5, ..Default::default() };
    let run = |gpu: &Gpu| {
        let (loss, state, dq) = (output(gpu, 1, 1), output(gpu, n, 4), output(gpu, n, dim));
        let mut shares = Vec::new();
        let record = |r: &mut wgloss::Recorder| {
            let batch = info_nce::Batch::new(held_q.view()?, held_k.view()?);
            let gradients = info_nce::Gradients { dq: Some(dq.view()?), ..Default::default() };
            info_nce::forward(r, batch, loss.view()?, state.view()?, gradients, options)
        };
        let watch = &mut |progress: wgloss::Progress| {
            shares.push(progress.share);
            ControlFlow::Continue(())
        };
        gpu.run_watched(record, watch).unwrap();
        (read(gpu, &loss), read(gpu, &dq), shares)
    };
    let (loss, dq, _) = run(gpu);
    let (of_many, dq_of_many, shares) =
        run(&gpu.with_tuning(Tuning { workspace: 1 << 14, work: 1 << 18, ..*gpu.tuning() }));
    assert!(shares.len() > 20 && shares.windows(2).all(|pair| pair[0] < pair[1]) && shares[shares.len() - 1] < 1.0);
    assert_near("loss", &of_many, &loss, 1.0);
    assert_near("dq", &dq_of_many, &dq, 4.0 / n as f64); // 1/T · Σ_j |p_j - δ_j|, its most
}

/// 65,536 queries and as many keys: 4.3 G pairs, 17 GB if they were stored.
#[test]
fn a_batch_of_65536() {
    let Some(gpu) = open(None) else { return };
    let (n, dim) = (65_536, 2);
    let options = info_nce::Options { temperature: 0.5, ..Default::default() };
    let (q, k) = (Fill::Small.matrix(n, dim, 12), Fill::Small.matrix(n, dim, 13));
    let (held_q, held_k) = (input(&gpu, n, dim, &q), input(&gpu, n, dim, &k));
    let (loss, state) = (output(&gpu, 1, 1), output(&gpu, n, 4));
    let dq = output(&gpu, n, dim);
    takes_little(&gpu, |r| {
        let batch = info_nce::Batch::new(held_q.view()?, held_k.view()?);
        let gradients = info_nce::Gradients { dq: Some(dq.view()?), ..Default::default() };
        info_nce::forward(r, batch, loss.view()?, state.view()?, gradients, options)
    });

    let (q, k) = (wide(&q), wide(&k));
    let [loss, state, dq] = [&loss, &state, &dq].map(|held| read(&gpu, held));
    let lse: Vec<f64> =
        state.chunks(4).map(|line| ((line[0] + line[1].ln_1p()).exp() + (2.0 * line[2]).exp()).ln()).collect();
    let mean = lse.iter().zip(state.chunks(4)).map(|(lse, line)| lse - 2.0 * line[2]).sum::<f64>() / n as f64;
    assert_near("loss", &loss, &[mean], 1.0);
    for i in (0..n).step_by(8191) {
        let row = &q[i * dim..][..dim];
        let scores: Vec<f64> = k.chunks(dim).map(|k| 2.0 * dot(row, k)).collect();
        let want = scores.iter().map(|s| s.exp()).sum::<f64>().ln();
        assert_near(&format!("lse of {i}"), &[lse[i]], &[want], 1.0);
        let mut sum = vec![0.0; dim];
        for (j, s) in scores.iter().enumerate() {
            let g = 2.0 / n as f64 * ((s - want).exp() - f64::from(u8::from(i == j)));
            sum.iter_mut().zip(&k[j * dim..]).for_each(|(sum, k)| *sum += g * k);
        }
        assert_near(&format!("dq of {i}"), &dq[i * dim..][..dim], &sum, 2.0 / n as f64);
    }
}

/// 4,096 rows of 65,536 classes: 1 GiB of logits if they were stored, and as much of their gradient.
#[test]
fn logits_that_are_never_stored() {
    let Some(gpu) = open(None) else { return };
    let (rows, dim, classes) = (4096, 2, 65_536);
    let (x, w) = (Fill::Small.matrix(rows, dim, 14), Fill::Small.matrix(classes, dim, 15));
    let (held_x, held_w) = (input(&gpu, rows, dim, &x), input(&gpu, classes, dim, &w));
    let own = |row: usize| row * 7919 % classes;
    let ids = input(&gpu, rows, 1, &(0..rows).map(|row| own(row) as u32).collect::<Vec<_>>());
    let (loss, lse) = (output(&gpu, 1, 1), output(&gpu, rows, 2));
    let (dx, dw) = (output(&gpu, rows, dim), output(&gpu, classes, dim));
    takes_little(&gpu, |r| {
        let layer = linear_cross_entropy::Layer::new(held_x.view()?, held_w.view()?);
        let batch = linear_cross_entropy::Batch::new(layer, linear_cross_entropy::Target::Ids(ids.view()?));
        let (dx, dw) = (Some(dx.view()?), Some(dw.view()?));
        let gradients = linear_cross_entropy::Gradients { dx, dw, ..Default::default() };
        let (loss, lse) = (loss.view()?, Some(lse.view()?));
        linear_cross_entropy::forward(r, batch, loss, lse, None, gradients, Default::default())
    });

    let (x, w) = (wide(&x), wide(&w));
    let [loss, lse, dx, dw] = [&loss, &lse, &dx, &dw].map(|held| read(&gpu, held));
    let lse: Vec<f64> = lse.chunks(2).map(|lse| lse[0] + lse[1].ln_1p()).collect();
    let logit = |row: usize, class: usize| dot(&x[row * dim..][..dim], &w[class * dim..][..dim]);
    let mean = (0..rows).map(|row| lse[row] - logit(row, own(row))).sum::<f64>() / rows as f64;
    assert_near("loss", &loss, &[mean], mean);
    let g = |row: usize, class: usize| {
        ((logit(row, class) - lse[row]).exp() - f64::from(u8::from(class == own(row)))) / rows as f64
    };
    for row in (0..rows).step_by(997) {
        let want = (0..classes).map(|class| logit(row, class).exp()).sum::<f64>().ln();
        assert_near(&format!("lse of {row}"), &[lse[row]], &[want], want);
        let sum = |at: usize| (0..classes).map(|class| g(row, class) * w[class * dim + at]).sum::<f64>();
        assert_near(&format!("dx of {row}"), &dx[row * dim..][..dim], &[sum(0), sum(1)], 2.0 / rows as f64);
    }
    for class in (0..classes).step_by(7919) {
        let sum = |at: usize| (0..rows).map(|row| g(row, class) * x[row * dim + at]).sum::<f64>();
        assert_near(&format!("dw of {class}"), &dw[class * dim..][..dim], &[sum(0), sum(1)], 2.0 / rows as f64);
    }
}

/// The scores of more queries than a workspace holds chunks for.
#[test]
fn top_k_of_many_queries() {
    let Some(gpu) = open(None) else { return };
    let (queries, keys, count) = (60_000, 1100, 3);
    let (q, k) = (Fill::Small.matrix(queries, 4, 31), Fill::Small.matrix(keys, 4, 32));
    let (held_q, held_k) = (input(&gpu, queries, 4, &q), input(&gpu, keys, 4, &k));
    let (ids, scores) = (gpu.zeros::<u32>(queries * count).unwrap(), output(&gpu, queries, count));
    let ids = Tensor::<u32>::matrix(&ids, queries, count).unwrap();
    takes_at_most(&gpu, 2 * gpu.tuning().workspace, |r| {
        top_k::forward(r, held_q.view()?, held_k.view()?, None, ids, scores.view()?)
    });
    let (found, scores) = (gpu.read(ids).unwrap(), read(&gpu, &scores));
    let (q, k) = (wide(&q), wide(&k));
    for row in (0..queries).step_by(4999) {
        let mut all: Vec<f64> = (0..keys).map(|key| dot(&q[row * 4..][..4], &k[key * 4..][..4])).collect();
        for (at, &id) in found[row * count..][..count].iter().enumerate() {
            assert_near(&format!("score of {id}"), &[scores[row * count + at]], &[all[id as usize]], 1.0);
        }
        all.sort_by(|a, b| b.total_cmp(a));
        assert_near(&format!("best of {row}"), &scores[row * count..][..count], &all[..count], 1.0);
    }
}

/// A million columns, a million rows.
#[test]
fn a_million_either_way() {
    let Some(gpu) = gpu() else { return };
    for (rows, cols) in [(1, 1_000_000), (1_000_000, 2)] {
        let (x, t) = (Fill::Small.matrix(rows, cols, 26), Fill::Small.matrix(rows, cols, 27));
        let y = softmax::compute(gpu, &x, cols, Default::default()).unwrap();
        assert_close(&wide(&y), &reference::softmax::forward(&wide(&x), cols, Default::default()), 1e-5);
        let ids: Vec<u32> = (0..rows).map(|row| (row * 7 % cols) as u32).collect();
        let options = cross_entropy::Options { reduction: Reduction::None, ..Default::default() };
        let (loss, _) = cross_entropy::compute(gpu, &x, cols, &ids, options).unwrap();
        for row in (0..rows).step_by(99_991) {
            let row_of = wide(&x[row * cols..][..cols]);
            let sum: f64 = row_of.iter().map(|x| x.exp()).sum();
            assert_near(
                &format!("loss of {row}"),
                &[loss[row].into()],
                &[sum.ln() - row_of[ids[row] as usize]],
                sum.ln() + 1.0,
            );
        }
        let (loss, dx) = l2::compute(gpu, &x, &t, cols, Default::default()).unwrap();
        let mean = x.iter().zip(&t).map(|(x, t)| f64::from(x - t).powi(2)).sum::<f64>() / x.len() as f64;
        assert_near("l2", &wide(&loss), &[mean], 1.0);
        assert!(dx.iter().zip(x.iter().zip(&t)).all(|(dx, (x, t))| dx.signum() == (x - t).signum() || x == t));
    }
}

/// Some queries against 1,048,576 keys.
#[test]
fn a_million_keys() {
    let Some(gpu) = &open(None) else { return };
    let (n, m, dim) = (64, 1 << 20, 8);
    let (q, k) = (Fill::Small.matrix(n, dim, 14), Fill::Small.matrix(m, dim, 15));
    let (held_q, held_k) = (input(gpu, n, dim, &q), input(gpu, m, dim, &k));
    let index: Vec<u32> = (0..n as u32).map(|i| i * 16_381).collect();
    let held_index = input(gpu, n, 1, &index);
    let options = info_nce::Options { temperature: 0.1, reduction: Reduction::None, ..Default::default() };
    let (loss, state) = (output(gpu, n, 1), output(gpu, n, 8));
    takes_little(gpu, |r| {
        let positive = info_nce::Positive::Index(held_index.view()?);
        let batch = info_nce::Batch { positive, ..info_nce::Batch::new(held_q.view()?, held_k.view()?) };
        info_nce::forward(r, batch, loss.view()?, state.view()?, Default::default(), options)
    });
    let (q, k, loss) = (wide(&q), wide(&k), read(gpu, &loss));
    for i in [0, 17, n - 1] {
        let scores: Vec<f64> = k.chunks(dim).map(|k| 10.0 * dot(&q[i * dim..][..dim], k)).collect();
        let top = largest(&scores);
        let want = top + scores.iter().map(|s| (s - top).exp()).sum::<f64>().ln() - scores[index[i] as usize];
        assert_near(&format!("loss of {i}"), &[loss[i]], &[want], want + top);
    }
}

/// Long work is submitted in parts, in order, and ends where it is told to.
#[test]
fn long_work_is_watched_and_cancelled() {
    let Some(gpu) = open(None) else { return };
    let gpu = gpu.with_tuning(Tuning { work: 1 << 18, ..*gpu.tuning() });
    let (n, dim) = (700, 8);
    let (q, k) = (Fill::Small.matrix(n, dim, 16), Fill::Small.matrix(n, dim, 17));
    let (held_q, held_k) = (input(&gpu, n, dim, &q), input(&gpu, n, dim, &k));
    let options = info_nce::Options { temperature: 0.5, symmetric: true, ..Default::default() };
    let (loss, state, dq, dk) =
        (output(&gpu, 1, 1), output(&gpu, 2 * n, 4), output(&gpu, n, dim), output(&gpu, n, dim));
    let record = |r: &mut wgloss::Recorder| {
        let batch = info_nce::Batch::new(held_q.view()?, held_k.view()?);
        let gradients = info_nce::Gradients { dq: Some(dq.view()?), dk: Some(dk.view()?), ..Default::default() };
        info_nce::forward(r, batch, loss.view()?, state.view()?, gradients, options)
    };
    let mut seen = Vec::new();
    gpu.run_watched(record, &mut |progress| {
        assert_eq!(progress.op, "info_nce");
        seen.push(progress.share);
        ControlFlow::Continue(())
    })
    .unwrap();
    assert!(seen.len() >= 8 && seen.is_sorted() && seen[0] > 0.0 && seen[seen.len() - 1] < 1.0, "{seen:?}");
    let watched = [&loss, &dq, &dk].map(|held| read(&gpu, held));

    let mut calls = 0;
    let end = gpu.run_watched(record, &mut |_| {
        calls += 1;
        if calls == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!((end, calls), (Err(Error::Cancelled { op: "info_nce" }), 3));

    // One encoder and one submit of the caller's give the same bits.
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    record(&mut gpu.record(&mut encoder)).unwrap();
    gpu.queue().submit([encoder.finish()]);
    assert_eq!([&loss, &dq, &dk].map(|held| read(&gpu, held)), watched);
    let batch = nce::plain(&q, &k, dim);
    let want = nce::by_reference(&batch, options);
    for (found, (what, want)) in watched.iter().zip(["loss", "dq", "dk"].into_iter().zip(&want)) {
        assert_near(what, found, want, largest(want));
    }
}
