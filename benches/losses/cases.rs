//! What is timed. An op is a function that uploads its inputs and says what to record; a case is a line of [`CASES`].
//! `peers/losses.py` has the same ops.

use std::f32::consts::TAU;

use wgloss::{Gpu, Random, Recorder, Result, Tensor, reference, wgpu};

pub const CASES: &[Case] = &[
    Case { op: "copy", shape: [4096, 4096], build: copy },
    Case { op: "softmax", shape: [4096, 4096], build: softmax },
    Case { op: "softmax", shape: [32, 131072], build: softmax },
    Case { op: "cross_entropy", shape: [4096, 4096], build: cross_entropy },
    Case { op: "cross_entropy", shape: [32, 131072], build: cross_entropy },
    Case { op: "kl", shape: [4096, 4096], build: kl },
    Case { op: "kl", shape: [32, 131072], build: kl },
    Case { op: "bce", shape: [4096, 4096], build: bce },
    Case { op: "l2", shape: [4096, 4096], build: l2 },
    Case { op: "info_nce", shape: [1024, 128], build: info_nce },
    Case { op: "info_nce", shape: [4096, 128], build: info_nce },
    Case { op: "info_nce", shape: [8192, 256], build: info_nce },
];

pub struct Case {
    pub op: &'static str,
    /// Rows and columns.
    pub shape: [usize; 2],
    pub build: fn(&Gpu, [usize; 2]) -> Result<Job>,
}

impl Case {
    pub fn name(&self) -> String {
        format!("{}_{}x{}", self.op, self.shape[0], self.shape[1])
    }

    pub fn is(&self, wish: Option<&str>) -> bool {
        wish.is_none_or(|wish| wish == self.op || wish == self.name())
    }
}

/// Inputs on the device, and what to do with them.
pub struct Job {
    /// The least that must move: every input read once, every output written once, nothing in between.
    pub bytes: usize,
    /// Submits so many calls.
    pub submit: Box<dyn Fn(u32) -> Result<()>>,
    pub outputs: Vec<(&'static str, wgpu::Buffer)>,
    /// What the outputs must hold, in their order.
    pub truth: Box<dyn Fn() -> Vec<Vec<f64>>>,
}

/// Submits an op of the library.
fn submit(gpu: &Gpu, record: impl Fn(&mut Recorder) -> Result<()> + 'static) -> Box<dyn Fn(u32) -> Result<()>> {
    let gpu = gpu.clone();
    Box::new(move |calls| gpu.run(|recorder| (0..calls).try_for_each(|_| record(recorder))))
}

fn softmax(gpu: &Gpu, [rows, cols]: [usize; 2]) -> Result<Job> {
    use wgloss::softmax::{Options, forward};
    let x = normal(rows * cols, 0);
    let (x_buffer, y_buffer) = (gpu.upload(&x)?, gpu.zeros::<f32>(x.len())?);
    Ok(Job {
        bytes: 4 * 2 * rows * cols,
        outputs: vec![("y", y_buffer.clone())],
        truth: Box::new(move || vec![reference::softmax::forward(&wide(&x), cols, Options::default())]),
        submit: submit(gpu, move |recorder| {
            let (x, y) = (Tensor::matrix(&x_buffer, rows, cols)?, Tensor::matrix(&y_buffer, rows, cols)?);
            forward(recorder, x, y, Options::default())
        }),
    })
}

/// The mean loss and its gradient.
fn cross_entropy(gpu: &Gpu, [rows, cols]: [usize; 2]) -> Result<Job> {
    use reference::cross_entropy as textbook;
    use wgloss::cross_entropy::{Options, Target, Weights, forward};
    let (x, ids) = (normal(rows * cols, 0), ids(rows, cols));
    let (x_buffer, id_buffer) = (gpu.upload(&x)?, gpu.upload(&ids)?);
    let (loss_buffer, dx_buffer) = (gpu.zeros::<f32>(1)?, gpu.zeros::<f32>(x.len())?);
    let lse_buffer = gpu.zeros::<f32>(2 * rows)?;
    Ok(Job {
        bytes: 4 * (2 * rows * cols + rows + 1),
        outputs: vec![("loss", loss_buffer.clone()), ("dx", dx_buffer.clone())],
        truth: Box::new(move || {
            let (x, options) = (wide(&x), Options::default());
            let (target, weights) = (textbook::Target::Ids(&ids), textbook::Weights::default());
            let loss = textbook::forward(&x, cols, target, weights, options);
            vec![loss, textbook::backward(&x, cols, target, weights, &[], options)]
        }),
        submit: submit(gpu, move |recorder| {
            let (x, id) = (Tensor::matrix(&x_buffer, rows, cols)?, Tensor::vector(&id_buffer, rows)?);
            let (loss, dx) = (Tensor::scalar(&loss_buffer, 0)?, Tensor::matrix(&dx_buffer, rows, cols)?);
            let lse = Tensor::matrix(&lse_buffer, rows, 2)?;
            let (target, weights) = (Target::Ids(id), Weights::default());
            forward(recorder, x, target, weights, loss, lse, Some(dx), Options::default())
        }),
    })
}

/// From two sets of logits, with the gradients of both.
fn kl(gpu: &Gpu, [rows, cols]: [usize; 2]) -> Result<Job> {
    use wgloss::kl::{Gradients, Options, forward};
    let (x, t) = (normal(rows * cols, 0), normal(rows * cols, 1));
    let inputs = [gpu.upload(&x)?, gpu.upload(&t)?];
    let [loss, dx, dt] = [gpu.zeros::<f32>(1)?, gpu.zeros::<f32>(x.len())?, gpu.zeros::<f32>(x.len())?];
    Ok(Job {
        bytes: 4 * (4 * rows * cols + 1),
        outputs: vec![("loss", loss.clone()), ("dx", dx.clone()), ("dt", dt.clone())],
        truth: Box::new(move || {
            let (x, t, options) = (wide(&x), wide(&t), Options::default());
            let [dx, dt] = reference::kl::backward(&x, &t, cols, &[], options);
            vec![reference::kl::forward(&x, &t, cols, options), dx, dt]
        }),
        submit: submit(gpu, move |recorder| {
            let [x, t, dx, dt] = [&inputs[0], &inputs[1], &dx, &dt].map(|buffer| Tensor::matrix(buffer, rows, cols));
            let gradients = Gradients { dx: Some(dx?), dt: Some(dt?) };
            forward(recorder, x?, t?, Tensor::scalar(&loss, 0)?, gradients, Options::default())
        }),
    })
}

/// CLIP's symmetric loss of `rows` pairs of unit vectors of `cols` elements, with the gradients of both sides and of the scale.
fn info_nce(gpu: &Gpu, [rows, cols]: [usize; 2]) -> Result<Job> {
    use wgloss::info_nce::{Batch, Gradients, Options, forward};
    let options = Options { symmetric: true, ..Options::default() };
    let (q, k) = (unit(normal(rows * cols, 0), cols), unit(normal(rows * cols, 1), cols));
    let inputs = [gpu.upload(&q)?, gpu.upload(&k)?];
    let [loss, d_scale, state] = [gpu.zeros::<f32>(1)?, gpu.zeros::<f32>(1)?, gpu.zeros::<f32>(8 * rows)?];
    let [dq, dk] = [gpu.zeros::<f32>(q.len())?, gpu.zeros::<f32>(k.len())?];
    let outputs = [("loss", &loss), ("dq", &dq), ("dk", &dk)];
    Ok(Job {
        bytes: 4 * (4 * rows * cols + 1),
        outputs: outputs.map(|(what, buffer)| (what, buffer.clone())).to_vec(),
        truth: Box::new(move || {
            let (q, k) = (wide(&q), wide(&k));
            let batch = reference::info_nce::Batch::new(&q, &k, cols);
            let gradients = reference::info_nce::backward(batch, &[], options);
            vec![reference::info_nce::forward(batch, options), gradients.dq, gradients.dk]
        }),
        submit: submit(gpu, move |recorder| {
            let [q, k, dq, dk] = [&inputs[0], &inputs[1], &dq, &dk].map(|buffer| Tensor::matrix(buffer, rows, cols));
            let (batch, state) = (Batch::new(q?, k?), Tensor::matrix(&state, 2 * rows, 4)?);
            let d_log_scale = Some(Tensor::scalar(&d_scale, 0)?);
            let gradients = Gradients { dq: Some(dq?), dk: Some(dk?), d_log_scale, ..Default::default() };
            forward(recorder, batch, Tensor::scalar(&loss, 0)?, state, gradients, options)
        }),
    })
}

/// The mean loss and dx.
fn bce(gpu: &Gpu, [rows, cols]: [usize; 2]) -> Result<Job> {
    use reference::bce as textbook;
    use wgloss::bce::{Inputs, Options, forward};
    let (x, t) = (normal(rows * cols, 0), uniform(rows * cols, 1));
    let inputs = [gpu.upload(&x)?, gpu.upload(&t)?];
    let [loss, dx] = [gpu.zeros::<f32>(1)?, gpu.zeros::<f32>(x.len())?];
    Ok(Job {
        bytes: 4 * (3 * rows * cols + 1),
        outputs: vec![("loss", loss.clone()), ("dx", dx.clone())],
        truth: Box::new(move || {
            let (x, t, options) = (wide(&x), wide(&t), Options::default());
            let inputs = textbook::Inputs { x: &x, t: &t, weight: &[], pos_weight: &[] };
            vec![textbook::forward(inputs, cols, options), textbook::backward(inputs, cols, &[], options)]
        }),
        submit: submit(gpu, move |recorder| {
            let [x, t, dx] = [&inputs[0], &inputs[1], &dx].map(|buffer| Tensor::matrix(buffer, rows, cols));
            let inputs = Inputs { x: x?, t: t?, weight: None, pos_weight: None };
            forward(recorder, inputs, Tensor::scalar(&loss, 0)?, Some(dx?), Options::default())
        }),
    })
}

/// The mean loss and dx.
fn l2(gpu: &Gpu, [rows, cols]: [usize; 2]) -> Result<Job> {
    use wgloss::l2::{Gradients, Options, forward};
    let (x, t) = (normal(rows * cols, 0), normal(rows * cols, 1));
    let inputs = [gpu.upload(&x)?, gpu.upload(&t)?];
    let [loss, dx] = [gpu.zeros::<f32>(1)?, gpu.zeros::<f32>(x.len())?];
    Ok(Job {
        bytes: 4 * (3 * rows * cols + 1),
        outputs: vec![("loss", loss.clone()), ("dx", dx.clone())],
        truth: Box::new(move || {
            let (x, t, options) = (wide(&x), wide(&t), Options::default());
            let [dx, _] = reference::l2::backward(&x, &t, cols, &[], options);
            vec![reference::l2::forward(&x, &t, cols, options), dx]
        }),
        submit: submit(gpu, move |recorder| {
            let [x, t, dx] = [&inputs[0], &inputs[1], &dx].map(|buffer| Tensor::matrix(buffer, rows, cols));
            let gradients = Gradients { dx: Some(dx?), dt: None };
            forward(recorder, x?, t?, Tensor::scalar(&loss, 0)?, gradients, Options::default())
        }),
    })
}

/// The bandwidth that the others are compared with: four numbers a step of a lane, neighbours side by side, as the tuning reads and writes
/// them.
const COPY: &str = "
@group(0) @binding(0) var<storage, read> x: array<QUAD>;
@group(0) @binding(1) var<storage, read_write> y: array<QUAD>;
override WG: u32;
@compute @workgroup_size(WG)
fn copy(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    for (var i = id.x; i < arrayLength(&x); i += groups.x * WG) {
        y[i] = x[i];
    }
}";

/// Steps of a lane. On llvmpipe, with 8 lanes, 16 moved 9.7 GB/s, 4 moved 8.5 and 1 moved 8.2.
const COPY_STEPS: u32 = 16;

fn copy(gpu: &Gpu, [rows, cols]: [usize; 2]) -> Result<Job> {
    let x = normal(rows * cols, 0);
    let (x_buffer, y_buffer) = (gpu.upload(&x)?, gpu.zeros::<f32>(x.len())?);
    let device = gpu.device();
    let workgroup = gpu.tuning().workgroup;
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some("copy"),
        source: wgpu::ShaderSource::Wgsl(
            COPY.replace("QUAD", if gpu.tuning().wide { "vec2<u64>" } else { "vec4<f32>" }).into(),
        ),
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some("copy"),
        layout: None,
        module: &module,
        entry_point: Some("copy"),
        compilation_options: wgpu::PipelineCompilationOptions {
            constants: &[("WG", f64::from(workgroup))],
            ..Default::default()
        },
        cache: None,
    });
    let bindings = [&x_buffer, &y_buffer];
    let entry =
        |index: usize| wgpu::BindGroupEntry { binding: index as u32, resource: bindings[index].as_entire_binding() };
    let bind_group = device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: Some("copy"),
        layout: &pipeline.get_bind_group_layout(0),
        entries: &[entry(0), entry(1)],
    });
    let groups = (x.len() as u32 / 4).div_ceil(workgroup * COPY_STEPS);
    let gpu = gpu.clone();
    Ok(Job {
        bytes: 4 * 2 * rows * cols,
        outputs: vec![("y", y_buffer.clone())],
        truth: Box::new(move || vec![wide(&x)]),
        submit: Box::new(move |calls| {
            let mut encoder = gpu.device().create_command_encoder(&Default::default());
            for _ in 0..calls {
                let mut pass = encoder.begin_compute_pass(&Default::default());
                pass.set_pipeline(&pipeline);
                pass.set_bind_group(0, &bind_group, &[]);
                pass.dispatch_workgroups(groups, 1, 1);
            }
            gpu.queue().submit([encoder.finish()]);
            gpu.check()
        }),
    })
}

/// Logits: normal with deviation 2 (Box and Muller 1958).
fn normal(len: usize, stream: u32) -> Vec<f32> {
    let mut random = Random::new(1, stream);
    let mut pair = || {
        let radius = 2.0 * (-2.0 * (1.0 - random.uniform()).ln()).sqrt();
        let (sin, cos) = (TAU * random.uniform()).sin_cos();
        [radius * cos, radius * sin]
    };
    let mut numbers: Vec<f32> = (0..len.div_ceil(2)).flat_map(|_| pair()).collect();
    numbers.truncate(len);
    numbers
}

/// Rows of `cols` elements, each of unit length.
fn unit(mut x: Vec<f32>, cols: usize) -> Vec<f32> {
    for row in x.chunks_mut(cols) {
        let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt();
        row.iter_mut().for_each(|v| *v /= norm);
    }
    x
}

/// Targets, between 0 and 1.
fn uniform(len: usize, stream: u32) -> Vec<f32> {
    let mut random = Random::new(1, stream);
    (0..len).map(|_| random.uniform()).collect()
}

fn ids(rows: usize, classes: usize) -> Vec<u32> {
    let mut random = Random::new(1, u32::MAX);
    (0..rows).map(|_| random.below(classes as u32)).collect()
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&v| f64::from(v)).collect()
}
