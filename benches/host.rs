//! What it costs the host to record an op: `cargo bench --bench host`, see benches/README.md. Nothing is submitted while the clock runs.

use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use wgloss::{Gpu, Options, Recorder, Result, Tensor, cross_entropy, info_nce, sgd, softmax, wgpu};

const ROWS: usize = 64;
const COLS: usize = 64;
/// Recorded into one encoder.
const AT_ONCE: u64 = 50;

fn host(criterion: &mut Criterion) {
    let skip = std::env::var("WGLOSS_NO_GPU").is_ok_and(|value| value == "1");
    if skip {
        return;
    }
    let adapter = std::env::var("WGLOSS_ADAPTER").ok();
    let gpu = Gpu::open(&Options { adapter, ..Default::default() }).expect("an adapter");
    let buffers = Buffers::new(&gpu).expect("little memory");
    let mut group = criterion.benchmark_group("record");
    for (name, record) in OPS {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|times| record_many(&gpu, &buffers, record, times).expect("a valid op"));
        });
    }
    group.finish();
}

type Record = fn(&mut Recorder, &Buffers) -> Result<()>;

const OPS: [(&str, Record); 4] = [
    ("softmax, one dispatch", |recorder, buffers| {
        softmax::forward(recorder, buffers.matrix(0)?, buffers.matrix(1)?, Default::default())
    }),
    ("sgd, one dispatch", |recorder, buffers| {
        sgd::step(recorder, buffers.matrix(0)?, buffers.matrix(1)?, None, Default::default())
    }),
    ("cross_entropy with gradient", |recorder, buffers| {
        let target = cross_entropy::Target::Ids(Tensor::vector(&buffers.ids, ROWS)?);
        let (loss, lse) = (Tensor::scalar(&buffers.small, 0)?, Tensor::strided(&buffers.small, ROWS, 2, 4, 2)?);
        let (x, dx) = (buffers.matrix(0)?, Some(buffers.matrix(1)?));
        cross_entropy::forward(recorder, x, target, Default::default(), loss, lse, dx, Default::default())
    }),
    ("info_nce with gradients", |recorder, buffers| {
        let batch = info_nce::Batch::new(buffers.matrix(0)?, buffers.matrix(1)?);
        let (dq, dk) = (Some(buffers.matrix(2)?), Some(buffers.matrix(3)?));
        let (loss, state) = (Tensor::scalar(&buffers.small, 0)?, Tensor::strided(&buffers.small, ROWS, 4, 4, 4)?);
        let gradients = info_nce::Gradients { dq, dk, ..Default::default() };
        info_nce::forward(recorder, batch, loss, state, gradients, Default::default())
    }),
];

struct Buffers {
    matrices: [wgpu::Buffer; 4],
    ids: wgpu::Buffer,
    small: wgpu::Buffer,
}

impl Buffers {
    fn new(gpu: &Gpu) -> Result<Self> {
        let x: Vec<f32> = (0..ROWS * COLS).map(|at| (at % 101) as f32 / 101.0).collect();
        let matrix = || gpu.upload(&x);
        let ids: Vec<u32> = (0..ROWS as u32).collect();
        Ok(Buffers {
            matrices: [matrix()?, matrix()?, matrix()?, matrix()?],
            ids: gpu.upload(&ids)?,
            small: gpu.zeros::<f32>(4 + 4 * ROWS)?,
        })
    }

    fn matrix(&self, index: usize) -> Result<Tensor<'_>> {
        Tensor::matrix(&self.matrices[index], ROWS, COLS)
    }
}

/// How long it takes to record an op so many times; submits and waits are not counted.
fn record_many(gpu: &Gpu, buffers: &Buffers, record: Record, times: u64) -> Result<Duration> {
    let mut whole = Duration::ZERO;
    for first in (0..times).step_by(AT_ONCE as usize) {
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        let start = Instant::now();
        let mut recorder = gpu.record(&mut encoder);
        for _ in first..times.min(first + AT_ONCE) {
            record(&mut recorder, buffers)?;
        }
        whole += start.elapsed();
        drop(recorder);
        gpu.queue().submit([encoder.finish()]);
        gpu.wait()?;
    }
    Ok(whole)
}

criterion_group!(benches, host);
criterion_main!(benches);
