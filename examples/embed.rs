//! A program that owns its wgpu device and has compute passes of its own. A loss of this crate runs between two of
//! them. All three are in one encoder, with one submit per step, and nothing is read back before the end. The device
//! has WebGPU's default limits and no features.
//!
//! Each row of a table is seen twice, with two different noises added. Each view should find the other among all
//! others. The first pass makes the views, the loss gives their gradients, and the last pass moves the table.
//!
//! ```sh
//! cargo run --release --example embed
//! ```

use wgloss::{Gpu, Random, Result, Tensor, info_nce, wgpu};

const ROWS: usize = 500;
pub const DIM: usize = 24;

/// The program's own kernels: `views` writes table + noise twice, `descend` moves the table against both gradients.
const SHADER: &str = "
@group(0) @binding(0) var<storage, read_write> table: array<f32>;
@group(0) @binding(1) var<storage, read_write> left: array<f32>;
@group(0) @binding(2) var<storage, read_write> right: array<f32>;
@group(0) @binding(3) var<uniform> step: vec4u;

// Evenly spread in [-1/2, 1/2).
fn noise(at: u32, side: u32) -> f32 {
    var bits = at * 747796405u + step.x * 2891336453u + side * 277803737u;
    bits = (bits ^ (bits >> 16u)) * 2246822519u;
    bits = (bits ^ (bits >> 13u)) * 3266489917u;
    return f32(bits >> 8u) / 16777216.0 - 0.5;
}

@compute @workgroup_size(64)
fn views(@builtin(global_invocation_id) id: vec3u) {
    if id.x < arrayLength(&table) {
        left[id.x] = table[id.x] + noise(id.x, 1u);
        right[id.x] = table[id.x] + noise(id.x, 2u);
    }
}

@compute @workgroup_size(64)
fn descend(@builtin(global_invocation_id) id: vec3u) {
    if id.x < arrayLength(&table) {
        table[id.x] -= 20.0 * (left[id.x] + right[id.x]);
    }
}
";

#[cfg_attr(test, allow(dead_code, reason = "tests call what main calls"))]
fn main() -> Result<()> {
    let (device, queue) = device(None);
    let app = App::new(device, queue)?;
    for step in 0..=200 {
        app.step(step)?;
        if step % 40 == 0 {
            println!("step {step:3}: loss {:.4} of {:.4} by chance", app.loss()?, (ROWS as f32).ln());
        }
    }
    Ok(())
}

/// The program's device, with what WebGPU guarantees everywhere, on the first adapter whose name contains `wish`.
pub fn device(wish: Option<&str>) -> (wgpu::Device, wgpu::Queue) {
    let adapters = pollster::block_on(wgloss::adapters(wgpu::Backends::all()));
    let named = |adapter: &wgpu::Adapter| wish.is_none_or(|wish| adapter.get_info().name.contains(wish));
    let adapter = adapters.into_iter().find(named).expect("an adapter");
    let descriptor = wgpu::DeviceDescriptor { required_limits: wgpu::Limits::default(), ..Default::default() };
    pollster::block_on(adapter.request_device(&descriptor)).expect("a device with WebGPU's default limits")
}

/// The program: its device, its buffers and its pipelines.
pub struct App {
    gpu: Gpu,
    step: wgpu::Buffer,
    pub left: wgpu::Buffer,
    pub right: wgpu::Buffer,
    d_left: wgpu::Buffer,
    d_right: wgpu::Buffer,
    loss: wgpu::Buffer,
    state: wgpu::Buffer,
    views: (wgpu::ComputePipeline, wgpu::BindGroup),
    descend: (wgpu::ComputePipeline, wgpu::BindGroup),
}

/// Cosines divided by a temperature of 0.2, in both directions.
pub fn options() -> info_nce::Options {
    info_nce::Options { temperature: 0.2, normalize: true, symmetric: true, ..Default::default() }
}

impl App {
    pub fn new(device: wgpu::Device, queue: wgpu::Queue) -> Result<App> {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let buffer = |numbers: usize, usage| {
            let size = 4 * numbers as u64;
            device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
        };
        let matrix = || buffer(ROWS * DIM, usage);
        let (table, left, right, d_left, d_right) = (matrix(), matrix(), matrix(), matrix(), matrix());
        let step = buffer(4, wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST);
        let (loss, state) = (buffer(1, usage), buffer(2 * ROWS * 4, usage));
        let mut random = Random::new(1, 0);
        let start: Vec<u8> = (0..ROWS * DIM).flat_map(|_| (0.2 * random.uniform() - 0.1).to_ne_bytes()).collect();
        queue.write_buffer(&table, 0, &start);

        let source = wgpu::ShaderSource::Wgsl(SHADER.into());
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor { label: None, source });
        let pass = |entry, buffers: [&wgpu::Buffer; 4]| {
            let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(entry),
                layout: None,
                module: &module,
                entry_point: Some(entry),
                compilation_options: Default::default(),
                cache: None,
            });
            let all = buffers.iter().enumerate().map(|(at, buffer)| (at as u32, buffer.as_entire_binding()));
            let used = all.filter(|(at, _)| entry == "views" || *at < 3);
            let entries: Vec<_> = used.map(|(binding, resource)| wgpu::BindGroupEntry { binding, resource }).collect();
            let layout = &pipeline.get_bind_group_layout(0);
            let group = device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout, entries: &entries });
            (pipeline, group)
        };
        let views = pass("views", [&table, &left, &right, &step]);
        let descend = pass("descend", [&table, &d_left, &d_right, &step]);
        let gpu = Gpu::from_wgpu(device.clone(), queue)?;
        Ok(App { gpu, step, left, right, d_left, d_right, loss, state, views, descend })
    }

    /// Views, loss, gradients and update: one encoder, one submit.
    pub fn step(&self, step: u32) -> Result<()> {
        self.gpu.queue().write_buffer(&self.step, 0, &step.to_ne_bytes());
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        self.pass(&mut encoder, &self.views);

        let matrix = |buffer| Tensor::matrix(buffer, ROWS, DIM);
        let batch = info_nce::Batch::new(matrix(&self.left)?, matrix(&self.right)?);
        let gradients = info_nce::Gradients {
            dq: Some(matrix(&self.d_left)?),
            dk: Some(matrix(&self.d_right)?),
            ..Default::default()
        };
        let (loss, state) = (Tensor::scalar(&self.loss, 0)?, Tensor::matrix(&self.state, 2 * ROWS, 4)?);
        info_nce::forward(&mut self.gpu.record(&mut encoder), batch, loss, state, gradients, options())?;

        self.pass(&mut encoder, &self.descend);
        self.gpu.queue().submit([encoder.finish()]);
        Ok(())
    }

    fn pass(&self, encoder: &mut wgpu::CommandEncoder, (pipeline, group): &(wgpu::ComputePipeline, wgpu::BindGroup)) {
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(pipeline);
        pass.set_bind_group(0, group, &[]);
        pass.dispatch_workgroups((ROWS * DIM).div_ceil(64) as u32, 1, 1);
    }

    /// The loss of the last step. Waits for the device.
    pub fn loss(&self) -> Result<f32> {
        Ok(self.gpu.read::<f32>(Tensor::scalar(&self.loss, 0)?)?[0])
    }

    /// The contents of one of the program's matrices.
    #[cfg_attr(not(test), allow(dead_code, reason = "of the tests"))]
    pub fn read(&self, buffer: &wgpu::Buffer) -> Result<Vec<f32>> {
        self.gpu.read(Tensor::matrix(buffer, ROWS, DIM)?)
    }
}
