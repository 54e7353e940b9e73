//! The host's cost of recording an op: `cargo bench --bench host`, see benches/README.md. Nothing is submitted while
//! the clock runs.

use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use wgloss::{Gpu, Options, Recorder, Result, Tensor, cross_entropy, info_nce, sgd, softmax, wgpu};

const ROWS: usize = 64;
const COLS: usize = 64;
/// Ops that are recorded into one encoder.
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
    let wgpu_alone = Alone::new(&gpu, &buffers);
    group.bench_function("wgpu alone, one dispatch", |bencher| {
        bencher.iter_custom(|times| {
            record_many(&gpu, times, |encoder, calls| wgpu_alone.record(&gpu, encoder, calls)).expect("a device")
        });
    });
    for (name, record) in OPS {
        let record_op = |encoder: &mut wgpu::CommandEncoder, calls| {
            let mut recorder = gpu.record(encoder);
            (0..calls).try_for_each(|_| record(&mut recorder, &buffers))
        };
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|times| record_many(&gpu, times, record_op).expect("a valid op"));
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

/// The cost of a dispatch with three buffers without this library: the bind group, for buffers not seen before, and the
/// pass.
struct Alone {
    pipeline: wgpu::ComputePipeline,
    layout: wgpu::BindGroupLayout,
    buffers: [wgpu::Buffer; 3],
}

impl Alone {
    fn new(gpu: &Gpu, buffers: &Buffers) -> Self {
        let source = wgpu::ShaderSource::Wgsl(ALONE.into());
        let module = gpu.device().create_shader_module(wgpu::ShaderModuleDescriptor { label: None, source });
        let pipeline = gpu.device().create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: None,
            layout: None,
            module: &module,
            entry_point: None,
            compilation_options: Default::default(),
            cache: None,
        });
        let [x, y, ..] = &buffers.matrices;
        let buffers = [buffers.small.clone(), x.clone(), y.clone()];
        Alone { layout: pipeline.get_bind_group_layout(0), pipeline, buffers }
    }

    fn record(&self, gpu: &Gpu, encoder: &mut wgpu::CommandEncoder, calls: u64) -> Result<()> {
        for _ in 0..calls {
            let entries = [0, 1, 2]
                .map(|at| wgpu::BindGroupEntry { binding: at as u32, resource: self.buffers[at].as_entire_binding() });
            let descriptor = wgpu::BindGroupDescriptor { label: None, layout: &self.layout, entries: &entries };
            let group = gpu.device().create_bind_group(&descriptor);
            let mut pass = encoder.begin_compute_pass(&Default::default());
            pass.set_pipeline(&self.pipeline);
            pass.set_bind_group(0, &group, &[]);
            pass.dispatch_workgroups(1, 1, 1);
        }
        Ok(())
    }
}

const ALONE: &str = "
@group(0) @binding(0) var<storage, read_write> scale: array<f32>;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) at: vec3u) { y[at.x] = scale[0] * x[at.x]; }
";

/// The time it takes to record something many times. Submits and waits are not counted.
fn record_many(
    gpu: &Gpu,
    times: u64,
    record: impl Fn(&mut wgpu::CommandEncoder, u64) -> Result<()>,
) -> Result<Duration> {
    let mut whole = Duration::ZERO;
    for first in (0..times).step_by(AT_ONCE as usize) {
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        let start = Instant::now();
        record(&mut encoder, AT_ONCE.min(times - first))?;
        whole += start.elapsed();
        gpu.queue().submit([encoder.finish()]);
        gpu.wait()?;
    }
    Ok(whole)
}

criterion_group!(benches, host);
criterion_main!(benches);
