use wgloss::verify::Check;
use wgloss::{Storage, Tensor, cast};

use crate::harness::*;

#[test]
fn verified() {
    verifies("cast");
}

/// Every bit pattern of 16 bits becomes the number that it stands for, and that number the pattern.
#[test]
fn every_half() {
    let Some(gpu) = gpu() else { return };
    for storage in [Storage::F16, Storage::Bf16] {
        let patterns: Vec<u16> = (0..=u16::MAX).collect();
        let bytes: Vec<u8> = patterns.iter().flat_map(|bits| bits.to_ne_bytes()).collect();
        let values = storage.decode(&bytes);
        let words: Vec<u32> = bytes.chunks(4).map(|word| u32::from_ne_bytes(word.try_into().unwrap())).collect();
        let (narrow, wide, back) =
            (gpu.upload(&words).unwrap(), gpu.zeros::<f32>(1 << 16).unwrap(), gpu.zeros_as(storage, 1 << 16).unwrap());
        let x = Tensor::stored(storage, &narrow, 1, 1 << 16, 0, 1 << 16).unwrap();
        let (y, z) = (
            Tensor::matrix(&wide, 1, 1 << 16).unwrap(),
            Tensor::stored(storage, &back, 1, 1 << 16, 0, 1 << 16).unwrap(),
        );
        gpu.run(|r| cast::forward(r, x, y).and_then(|()| cast::forward(r, y, z))).unwrap();
        let (got, again) = (gpu.read(y).unwrap(), gpu.read(z).unwrap());
        for (index, want) in values.into_iter().enumerate() {
            for got in [got[index], again[index]] {
                let same = got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan());
                assert!(same, "{storage:?} {index:#06x}: got {got:e}, want {want:e}");
            }
        }
    }
}

/// To nearest, ties to even, as on the host; around every boundary between two numbers.
#[test]
fn rounds_as_the_host() {
    let Some(gpu) = gpu() else { return };
    let mut x: Vec<f32> = Vec::new();
    for storage in [Storage::F16, Storage::Bf16] {
        let bytes: Vec<u8> = (0..0x7fffu16).flat_map(|bits| bits.to_ne_bytes()).collect();
        let values = storage.decode(&bytes);
        for pair in values.windows(2).filter(|pair| pair[1].is_finite()).step_by(7) {
            let middle = (0.5 * (f64::from(pair[0]) + f64::from(pair[1]))) as f32;
            x.extend([
                f32::from_bits(middle.to_bits().saturating_sub(1)),
                middle,
                f32::from_bits(middle.to_bits() + 1),
            ]);
        }
    }
    x.extend([65519.0, 65520.0, 65536.0, 1e10, f32::MAX, f32::INFINITY, -f32::INFINITY, -65520.0]);
    x.retain(|value| !value.is_subnormal()); // a device may read 0
    for storage in [Storage::F16, Storage::Bf16] {
        let held = input(gpu, 1, x.len(), &x);
        let y = Check::new(gpu).output_as(storage, 1, x.len()).unwrap();
        gpu.run(|r| cast::forward(r, held.view()?, y.view()?)).unwrap();
        let (got, want) = (gpu.read(y.view().unwrap()).unwrap(), storage.decode(&storage.encode(&x)));
        for (index, (got, want)) in got.into_iter().zip(want).enumerate() {
            assert_eq!(got.to_bits(), want.to_bits(), "{storage:?} of {:e}: got {got:e}, want {want:e}", x[index]);
        }
    }
}

/// Writing and reading from the host, at every alignment.
#[test]
fn host_copies() {
    let Some(gpu) = gpu() else { return };
    for storage in [Storage::F16, Storage::Bf16] {
        for (rows, cols, offset, stride) in [(1, 1, 0, 1), (3, 5, 1, 5), (3, 4, 2, 6), (2, 7, 3, 9), (5, 2, 0, 2)] {
            let all: Vec<f32> = (0..80).map(|i| i as f32).collect();
            let buffer = gpu.upload_as(storage, &all).unwrap();
            let view = Tensor::stored(storage, &buffer, rows, cols, offset, stride).unwrap();
            let place = |i: usize| offset + i / cols * stride + i % cols;
            let want: Vec<f32> = (0..rows * cols).map(|i| all[place(i)]).collect();
            assert_eq!(gpu.read(view).unwrap(), want);
            let new: Vec<f32> = want.iter().map(|value| -value - 1.0).collect();
            gpu.write(view, &new).unwrap();
            let mut after = all.clone();
            (0..rows * cols).for_each(|i| after[place(i)] = new[i]);
            let whole = Tensor::stored(storage, &buffer, 1, 80, 0, 80).unwrap();
            assert_eq!(gpu.read(whole).unwrap(), after, "{storage:?} {rows} x {cols} at {offset}, stride {stride}");
        }
    }
}

/// Two outputs side by side in one buffer, the end of one row and the start of another in one word.
#[test]
fn outputs_that_share_words() {
    let Some(gpu) = gpu() else { return };
    let (x, t) = (input(gpu, 9, 3, &[2.0; 27]), input(gpu, 9, 3, &[1.0; 27]));
    let buffer = gpu.zeros_as(Storage::F16, 9 * 6).unwrap();
    let half = |first| Tensor::stored(Storage::F16, &buffer, 9, 3, first, 6).unwrap();
    let gradients = wgloss::l2::Gradients { dx: Some(half(0)), dt: Some(half(3)) };
    let options = wgloss::l2::Options { reduction: wgloss::Reduction::Sum, ..Default::default() };
    gpu.run(|r| wgloss::l2::backward(r, x.view()?, t.view()?, None, gradients, options)).unwrap();
    let got = gpu.read(Tensor::stored(Storage::F16, &buffer, 9, 6, 0, 6).unwrap()).unwrap();
    assert_eq!(got, [2.0, 2.0, 2.0, -2.0, -2.0, -2.0].repeat(9));
}

#[test]
fn refusals() {
    let Some(gpu) = gpu() else { return };
    let (x, y) = (input(gpu, 2, 3, &[0.0; 6]), output(gpu, 3, 2));
    let error = refused(gpu, &[&y], |r| cast::forward(r, x.view()?, y.view()?));
    assert_eq!(error, shape("cast", "y", "2 x 3", "3 x 2"));
    let error = refused(gpu, &[], |r| cast::forward(r, x.view()?, x.view()?));
    assert_eq!(error, overlap("cast", "y", "x"));
}
