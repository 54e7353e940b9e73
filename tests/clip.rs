use wgloss::clip::{self, Options};
use wgloss::{Gpu, Tensor, Tuning, verify::Fill, verify::Held};

use crate::harness::*;

#[test]
fn verified() {
    verifies("clip");
}

/// The norm, then the gradients.
fn clipped(gpu: &Gpu, gradients: &[&Held], max_norm: f32) -> Vec<Vec<f64>> {
    let norm = output(gpu, 1, 1);
    gpu.run(|recorder| {
        let views: Vec<Tensor> = gradients.iter().map(|held| view(held)).collect();
        clip::forward(recorder, &views, norm.view()?, Options { max_norm })
    })
    .unwrap();
    [&norm].into_iter().chain(gradients.iter().copied()).map(|held| read(gpu, held)).collect()
}

/// What torch.nn.utils.clip_grad_norm_ of PyTorch 2.15 gives for these two gradients.
#[test]
fn as_pytorch() {
    let Some(gpu) = gpu() else { return };
    for (max_norm, first, second) in [
        (
            1.0,
            [0.195_985_302_329_063_42, -0.261_313_736_438_751_2, 0.783_941_209_316_253_7],
            [0.032_664_217_054_843_9, -0.016_332_108_527_421_95, 0.522_627_472_877_502_4, 0.065_328_434_109_687_8],
        ),
        (20.0, [3.0, -4.0, 12.0], [0.5, -0.25, 8.0, 1.0]),
        (0.0, [0.0, -0.0, 0.0], [0.0, -0.0, 0.0, 0.0]),
    ] {
        let g = input(gpu, 1, 3, &[3.0f32, -4.0, 12.0]);
        let h = input(gpu, 2, 2, &[0.5f32, -0.25, 8.0, 1.0]);
        let found = clipped(gpu, &[&g, &h], max_norm);
        assert_close(&found[0], &[15.307_269_096_374_512], 2e-7);
        assert_close(&found[1], &first, 3e-7);
        assert_close(&found[2], &second, 3e-7);
    }
}

#[test]
fn special_values() {
    let Some(gpu) = gpu() else { return };
    let other = [0.5f32, -1.0];
    let by = |value: f32| {
        let (g, h) = (input(gpu, 1, 3, &[1.0, value, -2.0]), input(gpu, 1, 2, &other));
        clipped(gpu, &[&g, &h], 1.0)
    };
    let found = by(f32::NEG_INFINITY);
    assert_eq!((found[0][0], found[1][0], found[1][2], &found[2][..]), (f64::INFINITY, 0.0, 0.0, &[0.0, 0.0][..]));
    assert!(found[1][1].is_nan());
    by(f32::NAN).iter().for_each(|all| assert_nan(all));
}

/// Norms whose squares no f32 holds, and of gradients of which only one is that large.
#[test]
fn lengths_beyond_the_range() {
    let Some(gpu) = gpu() else { return };
    for size in [3e30f32, 1e-18, 2e38] {
        let (g, h) = (input(gpu, 1, 2, &[0.6 * size, 0.0]), input(gpu, 1, 1, &[-0.8 * size]));
        let found = clipped(gpu, &[&g, &h], 0.5 * size);
        assert_close(&found[0], &[f64::from(size)], 3e-7);
        let eps = 1.0 + 1e-6 / f64::from(size);
        assert_close(&found[1], &[0.3 * f64::from(size) / eps, 0.0], 3e-7);
        assert_close(&found[2], &[-0.4 * f64::from(size) / eps], 3e-7);
    }
}

#[test]
fn many() {
    let Some(gpu) = gpu() else { return };
    let all: Vec<Held> = (0..300).map(|_| input(gpu, 1, 3, &[2.0f32, 0.0, 0.0])).collect();
    let found = clipped(gpu, &all.iter().collect::<Vec<_>>(), 300f32.sqrt());
    assert_close(&found[0], &[2.0 * 300f64.sqrt()], 2e-7);
    found[1..].iter().for_each(|gradient| assert_close(gradient, &[1.0, 0.0, 0.0], 3e-7));
    assert_eq!(clipped(gpu, &[], 1.0), [[0.0]]);
}

#[test]
fn same_bits() {
    let Some(gpu) = gpu() else { return };
    for gpu in [gpu, &gpu.with_tuning(Tuning { workgroup: 64, ..*gpu.tuning() })] {
        let data = Fill::Small.matrix(700, 33, 3);
        assert_repeats(|| clipped(gpu, &[&input(gpu, 700, 33, &data)], 0.1));
    }
}

#[test]
fn refusals() {
    let Some(gpu) = gpu() else { return };
    let (g, norm) = (output(gpu, 2, 3), output(gpu, 1, 1));
    let refuse = |gradients: &[Tensor], norm: Tensor, max_norm| {
        refused(gpu, &[&g], |recorder| clip::forward(recorder, gradients, norm, Options { max_norm }))
    };
    for (max_norm, found) in [(-1.0, "-1"), (f32::INFINITY, "inf"), (f32::NAN, "NaN")] {
        assert_eq!(
            refuse(&[view(&g)], view(&norm), max_norm),
            option("clip", "max_norm", "from 0 to the largest f32", found)
        );
    }
    assert_eq!(refuse(&[view(&norm)], view(&g), 1.0), shape("clip", "norm", "1 x 1", "2 x 3"));
    assert_eq!(
        refuse(&[view(&g), view(&g).row_range(1..2)], view(&norm), 1.0),
        overlap("clip", "gradient", "gradient")
    );
    assert_eq!(refuse(&[view(&norm)], view(&norm), 1.0), overlap("clip", "norm", "gradient"));
}
