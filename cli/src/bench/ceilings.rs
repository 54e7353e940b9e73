//! The most that the adapter can do. The ops are compared with it.

use std::time::Duration;

use wgloss::{Gpu, Result, wgpu};

use super::clock::{Timed, Timer, Work};
use super::record::{Ceilings, quantile};

/// Sizes of workgroups, whatever the adapter is tuned to, and steps of a lane that copies: the best are taken.
const WORKGROUPS: [u32; 4] = [8, 64, 256, 1024];
const STEPS: [u32; 3] = [1, 4, 16];
const ROUNDS: u32 = 64;
/// Multiply-adds of a lane per round of `multiply_add` in ceilings.wgsl.
const IN_A_ROUND: u32 = 8 * 8 * 4;
const DISPATCHES: u32 = 256;

/// Measures the ceilings. `bytes` is the size of each of three buffers, several times what a cache holds.
pub fn measure(gpu: &Gpu, bytes: u64, budget: Duration) -> Result<Ceilings> {
    let timer = Timer::new(gpu);
    let elements = (bytes / 16 * 4) as usize;
    let numbers: Vec<f32> = (0..elements).map(|at| (at % 251) as f32).collect();
    let buffers = [gpu.upload(&numbers)?, gpu.upload(&numbers)?, gpu.zeros::<f32>(elements)?];
    let limits = gpu.limits();
    let lanes = limits.max_compute_invocations_per_workgroup.min(limits.max_compute_workgroup_size_x);
    let workgroups = || WORKGROUPS.into_iter().filter(move |&workgroup| workgroup <= lanes);
    let time = |kernel: &Kernel, groups: u32, dispatches: u32| -> Result<Timed> {
        timer.measure(budget, &kernel.bound(gpu, &buffers, groups, dispatches))
    };
    let moved = |entry, share: f64| -> Result<f64> {
        let (mut best, quads) = (0f64, elements as u32 / 4);
        for workgroup in workgroups() {
            // As few more steps as a grid of one dimension needs.
            let fewest = quads.div_ceil(workgroup * limits.max_compute_workgroups_per_dimension);
            let mut steps = STEPS.map(|steps| steps.max(fewest)).to_vec();
            steps.dedup();
            for steps in steps {
                let kernel = Kernel::new(gpu, entry, "f32", false, workgroup, steps);
                let timed = time(&kernel, quads.div_ceil(workgroup * steps), 1)?;
                best = best.max(share * elements as f64 * 4.0 / quantile(&timed.samples_s, 0.5) / 1e9);
            }
        }
        Ok(best)
    };
    let [copy_gb_s, triad_gb_s] = [moved("copy", 2.0)?, moved("triad", 3.0)?];
    // As many workgroups as take a while, whatever the device.
    let computed = |float, fused, workgroup: u32| -> Result<f64> {
        let kernel = Kernel::new(gpu, "multiply_add", float, fused, workgroup, 1);
        let flop = |groups: u32| f64::from(groups) * f64::from(workgroup) * f64::from(ROUNDS * IN_A_ROUND) * 2.0;
        let mut groups = gpu.tuning().groups;
        loop {
            let seconds = quantile(&time(&kernel, groups, 1)?.samples_s, 0.5);
            if seconds > 2e-3 || groups >= 32_768 {
                return Ok(flop(groups) / seconds / 1e12);
            }
            groups *= 4;
        }
    };
    // Some drivers have a fused multiply-add, some are faster with two steps.
    let best = |float| -> Result<f64> {
        workgroups().try_fold(0f64, |best, workgroup| {
            Ok(best.max(computed(float, true, workgroup)?).max(computed(float, false, workgroup)?))
        })
    };
    let has_f16 = gpu.device().features().contains(wgpu::Features::SHADER_F16);
    let dispatch = time(&Kernel::new(gpu, "nothing", "f32", false, 1, 1), 1, DISPATCHES)?;
    Ok(Ceilings {
        copy_gb_s,
        triad_gb_s,
        fma_tflop_s: best("f32")?,
        fma_f16_tflop_s: has_f16.then(|| best("f16")).transpose()?,
        dispatch_us: quantile(&dispatch.samples_s, 0.5) / f64::from(DISPATCHES) * 1e6,
        submit_us: submits(gpu)? * 1e6,
    })
}

/// A measure of how fast the adapter is at the moment: a copy and multiply-adds, of fixed sizes.
///
/// Clocks fall as a card warms up, and on a processor other programs take their share.
pub struct Probe<'g> {
    timer: Timer<'g>,
    parts: [Bound<'g>; 2],
}

impl<'g> Probe<'g> {
    const BYTES: u64 = 64 << 20;
    const GROUPS_OF_COPY: u32 = 16_384;
    /// Lanes that multiply and add: some 20 ms on two cores, 1 ms on a large card.
    const LANES: u32 = 1 << 20;
    const LANES_OF_SOFTWARE: u32 = 1 << 15;
    const BUDGET: Duration = Duration::from_millis(30);

    pub fn new(gpu: &'g Gpu, software: bool) -> Result<Self> {
        let elements = (Self::BYTES / 4) as usize;
        let x = gpu.upload(&vec![1.5f32; elements])?;
        let buffers = [x.clone(), x, gpu.zeros::<f32>(elements)?];
        let workgroup = gpu.tuning().workgroup;
        let steps = (elements as u32 / 4).div_ceil(Self::GROUPS_OF_COPY * workgroup);
        let copy =
            Kernel::new(gpu, "copy", "f32", false, workgroup, steps).bound(gpu, &buffers, Self::GROUPS_OF_COPY, 1);
        let fma = Kernel::new(gpu, "multiply_add", "f32", true, workgroup, 1);
        let lanes = if software { Self::LANES_OF_SOFTWARE } else { Self::LANES };
        let fma = fma.bound(gpu, &buffers, lanes / workgroup, 1);
        Ok(Probe { timer: Timer::new(gpu), parts: [copy, fma] })
    }

    /// Seconds for the copy and the multiply-adds together.
    pub fn seconds(&self) -> Result<f64> {
        let median = |part| -> Result<f64> { Ok(quantile(&self.timer.measure(Self::BUDGET, part)?.samples_s, 0.5)) };
        Ok(median(&self.parts[0])? + median(&self.parts[1])?)
    }
}

/// Seconds for an empty submit and the wait for it.
fn submits(gpu: &Gpu) -> Result<f64> {
    let mut samples = Vec::new();
    for _ in 0..50 {
        let start = std::time::Instant::now();
        gpu.queue().submit([gpu.device().create_command_encoder(&Default::default()).finish()]);
        gpu.wait()?;
        samples.push(start.elapsed().as_secs_f64());
    }
    Ok(quantile(&samples, 0.5))
}

struct Kernel(wgpu::ComputePipeline);

/// A call is `dispatches` dispatches of `groups` workgroups. They run one after the other, because each writes the
/// buffer that the next one writes.
struct Bound<'g> {
    gpu: &'g Gpu,
    pipeline: wgpu::ComputePipeline,
    group: wgpu::BindGroup,
    groups: u32,
    dispatches: u32,
}

impl Kernel {
    /// As the tuning reads and writes memory: numbers of eight bytes where they are faster.
    fn new(gpu: &Gpu, entry: &'static str, float: &str, fused: bool, workgroup: u32, steps: u32) -> Kernel {
        let device = gpu.device();
        let step =
            |name| if fused { format!("{name} = fma({name}, f, g);") } else { format!("{name} = {name} * f + g;") };
        let round: String = ["a", "b", "c", "d", "e", "p", "q", "r"].map(step).concat();
        let wide = gpu.tuning().wide && entry != "triad";
        let quad = if wide { "vec2<u64>" } else { "vec4<f32>" };
        let triad = if wide { "x" } else { "x + 3.0 * z" };
        let text = include_str!("ceilings.wgsl")
            .replace("EIGHT_TIMES", &vec![round; 8].join("\n        "))
            .replace("ROUNDS", &ROUNDS.to_string())
            .replace("FLOAT", float);
        let head = if float == "f16" { "enable f16;\n" } else { "" };
        let text = format!("{head}{text}\nfn triad_of(x: QUAD, z: QUAD) -> QUAD {{ return {triad}; }}\n");
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some("ceilings"),
            source: wgpu::ShaderSource::Wgsl(text.replace("QUAD", quad).into()),
        });
        let buffer = |binding: u32, read_only| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty: wgpu::BufferBindingType::Storage { read_only },
                has_dynamic_offset: false,
                min_binding_size: None,
            },
            count: None,
        };
        let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some("ceilings"),
            entries: &[buffer(0, true), buffer(1, true), buffer(2, false)],
        });
        let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some("ceilings"),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        Kernel(device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(entry),
            layout: Some(&layout),
            module: &module,
            entry_point: Some(entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &[("WG", f64::from(workgroup)), ("STEPS", f64::from(steps))],
                ..Default::default()
            },
            cache: None,
        }))
    }

    fn bound<'g>(&self, gpu: &'g Gpu, buffers: &[wgpu::Buffer; 3], groups: u32, dispatches: u32) -> Bound<'g> {
        let entries =
            [0, 1, 2].map(|at| wgpu::BindGroupEntry { binding: at as u32, resource: buffers[at].as_entire_binding() });
        let group = gpu.device().create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("ceilings"),
            layout: &self.0.get_bind_group_layout(0),
            entries: &entries,
        });
        Bound { gpu, pipeline: self.0.clone(), group, groups, dispatches }
    }
}

impl Work for Bound<'_> {
    fn submit(&self) -> Result<()> {
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        self.record(&mut encoder, 1)?;
        self.gpu.queue().submit([encoder.finish()]);
        self.gpu.check()
    }

    fn record(&self, encoder: &mut wgpu::CommandEncoder, calls: u32) -> Result<()> {
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.group, &[]);
        for _ in 0..calls * self.dispatches {
            pass.dispatch_workgroups(self.groups, 1, 1);
        }
        Ok(())
    }
}
