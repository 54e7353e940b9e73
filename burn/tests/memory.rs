//! Alone in its process, since it counts all of the device's memory.

use burn::tensor::{Distribution, Tensor};
use wgloss_burn::{Batch, info_nce, wgloss};

/// 16,384 pairs: their scores would take 1 GiB, and burn's own composition several times that.
#[test]
fn scores_are_never_stored() {
    let device = wgloss_burn::device().expect("the default adapter opens").autodiff();
    let gpu = wgloss_burn::gpu(&device).unwrap();
    let random = || Tensor::<2>::random([16_384, 64], Distribution::Normal(0.0, 0.2), &device).require_grad();
    let (q, k) = (random(), random());
    let used = || gpu.device().generate_allocator_report().map(|report| report.total_allocated_bytes);
    let before = used();
    let options = wgloss::info_nce::Options { temperature: 1.0, symmetric: true, ..Default::default() };
    let loss = info_nce(Batch::new(q.clone(), k.clone()), options).unwrap();
    let gradients = loss.clone().backward();
    let sum: f32 = (q.grad(&gradients).unwrap() + k.grad(&gradients).unwrap()).abs().sum().into_scalar();
    let loss: f32 = loss.into_scalar();
    // ln N and a bit: scores of random rows are nearly alike
    assert!((loss - 16_384f32.ln()).abs() < 2.0 && sum > 0.0, "{loss}, {sum}");
    let Some((before, after)) = before.zip(used()) else { return }; // this backend does not count
    assert!(after > before, "nothing was measured");
    let mib = (after - before) >> 20;
    assert!(mib < 256, "{mib} MiB");
}
