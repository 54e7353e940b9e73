use core::ops::ControlFlow;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::accessors::{self, Build, Format};
use crate::fault::Fault;
use crate::kernel::{Access, Kernel};
use crate::tensor::WORD;
use crate::{Error, Recorder, Result, Tuning, Watch};

/// How to open a device.
#[derive(Debug, Clone)]
pub struct Options {
    /// An adapter by its number in [`adapters`], as which digits alone are always taken, or by a part of its name, any case; `None` takes the best.
    pub adapter: Option<String>,
    /// Which backends to look at.
    pub backends: wgpu::Backends,
    /// Limits to ask for; `None` asks for all that the adapter has (WebGPU's defaults are far below most cards).
    pub limits: Option<wgpu::Limits>,
    /// Features to ask for beyond those that the kernels use, as far as the adapter has them.
    pub features: wgpu::Features,
}

impl Default for Options {
    fn default() -> Self {
        Options { adapter: None, backends: wgpu::Backends::all(), limits: None, features: wgpu::Features::empty() }
    }
}

/// A device with its queue, its compiled pipelines and its scratch memory. Cloning is cheap and shares them.
///
/// A device that `Gpu` opened itself has `Gpu`'s error handler and device-lost callback: an error or a loss at any time
/// reaches the next call that records or reads. On a device that the caller brought ([`Gpu::from_wgpu`]) the caller's
/// handlers stay; errors of this crate's own calls are caught by error scopes around them. Of a loss its own callback is told, not this crate: the next
/// call that makes, records or reads something gives [`Error::Device`], what only waits gives nothing.
#[derive(Debug, Clone)]
pub struct Gpu {
    shared: Arc<Shared>,
    tuning: Tuning,
}

#[derive(Debug)]
struct Shared {
    device: wgpu::Device,
    /// There until the last `Gpu` goes.
    queue: Option<wgpu::Queue>,
    info: wgpu::AdapterInfo,
    limits: wgpu::Limits,
    fault: Fault,
    pipelines: Mutex<HashMap<PipelineKey, wgpu::ComputePipeline>>,
    modules: Mutex<HashMap<ModuleKey, wgpu::ShaderModule>>,
    scratch: Mutex<Scratch>,
    /// Of [`Gpu::run_watched`], as many as there were at one time.
    own_scratch: Mutex<Vec<Scratch>>,
    ones: wgpu::Buffer,
    sink: wgpu::Buffer,
}

impl Drop for Shared {
    /// After a command buffer could not be ended wgpu panics when the last handle of the queue goes (wgpu-hal 30, discard_encoding).
    fn drop(&mut self) {
        let queue = self.queue.take();
        let _ = catch_unwind(AssertUnwindSafe(|| drop(queue)));
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct ModuleKey {
    op: &'static str,
    build: Build,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct PipelineKey {
    module: ModuleKey,
    entry: &'static str,
    constants: Vec<(&'static str, u32)>,
}

/// Buffers for intermediate results, by slot.
pub(crate) type Scratch = [Option<wgpu::Buffer>; 25];

/// Of absent inputs and outputs: more than the bindings of any shader.
const PLACES: u64 = 32;

const BUFFER_USAGES: wgpu::BufferUsages =
    wgpu::BufferUsages::STORAGE.union(wgpu::BufferUsages::COPY_SRC).union(wgpu::BufferUsages::COPY_DST);

/// Bytes: bindings begin at its multiples.
pub(crate) fn alignment(limits: &wgpu::Limits) -> u64 {
    u64::from(limits.min_storage_buffer_offset_alignment).max(16)
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Every adapter of the machine, best first: discrete, integrated, virtual, software.
pub async fn adapters(backends: wgpu::Backends) -> Vec<wgpu::Adapter> {
    let backends = backends & wgpu::Instance::enabled_backend_features();
    if backends.is_empty() {
        return Vec::new();
    }
    let mut found = instance(backends).enumerate_adapters(backends).await;
    found.sort_by_key(|adapter| match adapter.get_info().device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    });
    found
}

/// One instance for all devices of a process: wgpu knows a buffer by its number in its instance, and would take that of another instance for one of its own.
#[cfg(not(target_arch = "wasm32"))]
fn instance(backends: wgpu::Backends) -> wgpu::Instance {
    static ALL: Mutex<Vec<(wgpu::Backends, wgpu::Instance)>> = Mutex::new(Vec::new());
    let mut all = lock(&ALL);
    if let Some((_, found)) = all.iter().find(|(of, _)| *of == backends) {
        return found.clone();
    }
    let new = new_instance(backends);
    all.push((backends, new.clone()));
    new
}

/// A browser tells devices apart itself.
#[cfg(target_arch = "wasm32")]
fn instance(backends: wgpu::Backends) -> wgpu::Instance {
    new_instance(backends)
}

fn new_instance(backends: wgpu::Backends) -> wgpu::Instance {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = backends;
    wgpu::Instance::new(descriptor)
}

impl Gpu {
    /// Opens the best adapter: discrete, then integrated, then software.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] if there is none.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn new() -> Result<Gpu> {
        Gpu::open(&Options::default())
    }

    /// Opens an adapter as `options` say; blocks until it is there.
    ///
    /// # Errors
    /// As [`Gpu::open_async`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open(options: &Options) -> Result<Gpu> {
        pollster::block_on(Gpu::open_async(options))
    }

    /// Opens an adapter as `options` say.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] if none fits, or the one that is chosen has a driver that is known to compute wrong numbers;
    /// [`Error::Device`] if the driver refuses; [`Error::Limit`] if the wanted limits leave no compute shaders.
    pub async fn open_async(options: &Options) -> Result<Gpu> {
        let all = adapters(options.backends).await;
        let names: Vec<String> =
            all.iter().enumerate().map(|(index, adapter)| format!("{index}: {}", adapter.get_info().name)).collect();
        let found = match &options.adapter {
            None => all.first(),
            Some(wish) => match wish.parse::<usize>() {
                Ok(index) => all.get(index),
                Err(_) => {
                    let wish = wish.to_lowercase();
                    all.iter().find(|adapter| adapter.get_info().name.to_lowercase().contains(&wish))
                }
            },
        };
        let Some(adapter) = found else {
            let wish = options.adapter.as_deref().map_or("any".to_owned(), |wish| format!("{wish:?}"));
            let there = if names.is_empty() { "this machine has none".to_owned() } else { names.join(", ") };
            return Err(Error::NoAdapter { message: format!("asked for {wish}, found {there}") });
        };
        let software = adapter.get_info().device_type == wgpu::DeviceType::Cpu;
        let wanted =
            if software { wgpu::Features::SUBGROUP | wgpu::Features::SHADER_INT64 } else { wgpu::Features::SUBGROUP };
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("wgloss"),
            required_features: adapter.features() & (wanted | options.features),
            required_limits: options.limits.clone().unwrap_or_else(|| adapter.limits()),
            ..Default::default()
        };
        // Under memory pressure request_device panics instead of returning (gfx-rs/wgpu#9535).
        let request = catch_unwind(AssertUnwindSafe(|| adapter.request_device(&descriptor)));
        let (device, queue) = request
            .map_err(|_| Error::Device { message: "wgpu panicked while it opened the device".into() })?
            .await
            .map_err(|error| Error::Device { message: error.to_string() })?;
        let fault = Fault::default();
        let (on_error, on_loss) = (fault.first.clone(), fault.first.clone());
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            log::error!("wgpu: {error}");
            on_error.keep(error.into());
        }));
        device.set_device_lost_callback(move |reason, message| {
            log::error!("wgpu: device lost ({reason:?}): {message}");
            on_loss.lost(format!("{reason:?} {message}").trim().to_owned());
        });
        Gpu::build(device, queue, fault)
    }

    /// Uses a device and queue that the caller made. Any features will do, and limits that leave three storage buffers a stage; a software
    /// adapter is faster with `SUBGROUP` and `SHADER_INT64`, and ops with many tensors need eight storage buffers a stage. See [`Gpu`] for who
    /// handles errors.
    ///
    /// wgpu knows buffers by their number in a [`wgpu::Instance`]: one of another instance, such as that of [`Gpu::open`], is not told from one of
    /// this device's, and the numbers are wrong. [`adapters`] are of the instance that [`Gpu::open`] has for the same backends.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] or [`Error::Device`] if not even a small buffer can be made; [`Error::Limit`] for a device without compute shaders, or
    /// with fewer than three storage buffers a stage.
    pub fn from_wgpu(device: wgpu::Device, queue: wgpu::Queue) -> Result<Gpu> {
        Gpu::build(device, queue, Fault::default())
    }

    fn build(device: wgpu::Device, queue: wgpu::Queue, fault: Fault) -> Result<Gpu> {
        let (info, limits) = (device.adapter_info(), device.limits());
        if let Some(fault) = known_fault(&info) {
            return Err(Error::NoAdapter { message: format!("{} ({}): {fault}", info.name, info.driver_info) });
        }
        let needed = [
            ("a dispatch", limits.max_compute_workgroups_per_dimension, 1, "workgroups in one dimension"),
            ("a workgroup", limits.max_compute_invocations_per_workgroup, 1, "lanes"),
            ("a shader", limits.max_storage_buffers_per_shader_stage, 3, "storage buffers"),
        ];
        if let Some((what, limit, needed, unit)) = needed.into_iter().find(|(_, limit, needed, _)| limit < needed) {
            return Err(Error::Limit { what: what.into(), needed: needed.into(), unit, limit: limit.into() });
        }
        let tuning = Tuning::for_device(&device);
        let place = alignment(&limits);
        let places = |label| wgpu::BufferDescriptor {
            label: Some(label),
            size: PLACES * place,
            usage: BUFFER_USAGES,
            mapped_at_creation: false,
        };
        let (ones, sink) = fault.guard(&device, || {
            let ones = device.create_buffer(&places("wgloss.ones"));
            queue.write_buffer(&ones, 0, bytemuck::cast_slice(&vec![1.0f32; (PLACES * place) as usize / 4]));
            (ones, device.create_buffer(&places("wgloss.sink")))
        })?;
        let shared = Shared {
            device,
            queue: Some(queue),
            info,
            limits,
            fault,
            pipelines: Mutex::default(),
            modules: Mutex::default(),
            scratch: Mutex::default(),
            own_scratch: Mutex::default(),
            ones,
            sink,
        };
        Ok(Gpu { shared: Arc::new(shared), tuning })
    }

    /// The same device with other sizes, cut to what it allows.
    pub fn with_tuning(&self, tuning: Tuning) -> Gpu {
        Gpu { shared: self.shared.clone(), tuning: tuning.on(&self.shared.device) }
    }

    /// The sizes in use.
    pub fn tuning(&self) -> &Tuning {
        &self.tuning
    }

    /// The device.
    pub fn device(&self) -> &wgpu::Device {
        &self.shared.device
    }

    /// The queue.
    pub fn queue(&self) -> &wgpu::Queue {
        match &self.shared.queue {
            Some(queue) => queue,
            None => unreachable!("a queue goes with the last Gpu"),
        }
    }

    /// The adapter's name, type, driver and backend.
    pub fn info(&self) -> &wgpu::AdapterInfo {
        &self.shared.info
    }

    /// The device's limits.
    pub fn limits(&self) -> &wgpu::Limits {
        &self.shared.limits
    }

    /// Records ops into the caller's `encoder`.
    pub fn record<'e>(&'e self, encoder: &'e mut wgpu::CommandEncoder) -> Recorder<'e> {
        Recorder::new(self, encoder)
    }

    /// Records what `record` records into an encoder of its own and submits it; long work as [`Gpu::run_watched`] does.
    ///
    /// # Errors
    /// Those of `record`; what it recorded is not submitted then, but for what long work has already submitted in parts. [`Error::Device`],
    /// [`Error::DeviceLost`] or [`Error::OutOfMemory`] if the submit fails.
    pub fn run<R>(&self, record: impl FnOnce(&mut Recorder) -> Result<R>) -> Result<R> {
        self.run_watched(record, &mut |_| ControlFlow::Continue(()))
    }

    /// The same; `watch` is called between the submits of long work and can end it. A submit holds about as much as
    /// [`Tuning::work`] allows, so that it ends before the watchdog of an operating system ends it, and two are under way at most; in a browser, where nothing may
    /// wait, all are, and `watch` is told what is submitted.
    ///
    /// ```
    /// # let Ok(gpu) = wgloss::Gpu::new() else { return Ok(()) };
    /// # use std::ops::ControlFlow;
    /// use wgloss::{Tensor, linear};
    /// let (x, y) = (gpu.upload(&[1.0f32; 4]).unwrap(), gpu.zeros::<f32>(4).unwrap());
    /// let (x, y) = (Tensor::matrix(&x, 2, 2).unwrap(), Tensor::matrix(&y, 2, 2).unwrap());
    /// gpu.run_watched(|recorder| linear::forward(recorder, x, x, None, y), &mut |progress| {
    ///     println!("{} {:.0} %", progress.op, 100.0 * progress.share);
    ///     ControlFlow::Continue(())
    /// })?;
    /// # Ok::<(), wgloss::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`Gpu::run`]; [`Error::Cancelled`] if `watch` breaks: what was submitted until then is done, outputs hold part of their results.
    pub fn run_watched<R>(&self, record: impl FnOnce(&mut Recorder) -> Result<R>, watch: Watch) -> Result<R> {
        let mut encoder = self.encoder();
        let scratch = lock(&self.shared.own_scratch).pop().unwrap_or_default();
        let mut recorder = Recorder::watched(self, &mut encoder, watch, scratch);
        let result = record(&mut recorder);
        let scratch = core::mem::take(&mut recorder.scratch);
        let result = result.and_then(|result| self.submit(encoder).map(|_| result));
        lock(&self.shared.own_scratch).push(scratch);
        result
    }

    /// For work that is submitted here.
    pub(crate) fn encoder(&self) -> wgpu::CommandEncoder {
        self.device().create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("wgloss.run") })
    }

    pub(crate) fn submit(&self, encoder: wgpu::CommandEncoder) -> Result<wgpu::SubmissionIndex> {
        self.guard(|| self.queue().submit([encoder.finish()]))
    }

    /// Waits until a submit is done.
    pub(crate) fn wait_for(&self, submit: wgpu::SubmissionIndex) -> Result<()> {
        self.poll(wgpu::PollType::Wait { submission_index: Some(submit), timeout: None })
    }

    /// Waits until all submitted work is done; blocks.
    ///
    /// # Errors
    /// Any error so far; the loss of a device that `Gpu` opened.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn wait(&self) -> Result<()> {
        self.wait_for_all()
    }

    /// Waits until all submitted work is done. Outside a browser it waits inside the first poll, since wgpu has no event loop there.
    ///
    /// # Errors
    /// As [`Gpu::wait`].
    pub async fn wait_async(&self) -> Result<()> {
        self.wait_for_all()?;
        #[cfg(target_arch = "wasm32")]
        {
            let (done, outcome) = futures_channel::oneshot::channel();
            self.queue().on_submitted_work_done(move || {
                let _ = done.send(()); // the receiver is gone only if this future was dropped
            });
            let _ = outcome.await; // a lost device answers, too
        }
        self.settled().await
    }

    /// In a browser it does not wait.
    pub(crate) fn wait_for_all(&self) -> Result<()> {
        self.poll(wgpu::PollType::wait_indefinitely())
    }

    fn poll(&self, until: wgpu::PollType) -> Result<()> {
        // A loss that the wait itself meets makes poll panic instead of returning (wgpu 30, Device::poll).
        let polled = catch_unwind(AssertUnwindSafe(|| self.device().poll(until)));
        self.check()?;
        match polled {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(Error::Device { message: format!("waiting for the device failed: {error}") }),
            Err(_) => Err(Error::DeviceLost { message: "wgpu panicked while it waited for the device".into() }),
        }
    }

    /// The first error that reached this device outside a call's own check, if any. It stays until
    /// [`Gpu::clear_fault`]: whatever was computed since cannot be trusted.
    ///
    /// # Errors
    /// That error.
    pub fn check(&self) -> Result<()> {
        self.shared.fault.check()
    }

    /// Forgets an error that [`Gpu::check`] keeps reporting. A lost device stays lost.
    pub fn clear_fault(&self) {
        self.shared.fault.clear();
    }

    /// [`Gpu::check`] once all is known that wgpu has to say of earlier calls.
    pub(crate) async fn settled(&self) -> Result<()> {
        self.shared.fault.settled().await
    }

    /// Runs `calls` and returns the error, if any, that wgpu reports for them.
    pub(crate) fn guard<R>(&self, calls: impl FnOnce() -> R) -> Result<R> {
        self.check()?;
        let result = self.shared.fault.guard(self.device(), calls);
        self.check_after(result.is_err())?;
        result
    }

    fn check_after(&self, failed: bool) -> Result<()> {
        if failed {
            // To wgpu the objects of a lost device are merely invalid; that it was lost comes with the next poll.
            let _ = catch_unwind(AssertUnwindSafe(|| self.device().poll(wgpu::PollType::Poll)));
        }
        self.check()
    }

    pub(crate) fn buffer(&self, label: &'static str, bytes: u64) -> Result<wgpu::Buffer> {
        let limit = self.limits().max_buffer_size;
        if bytes > self.most_bytes() {
            return Err(Error::Limit { what: format!("{label}: a buffer"), needed: bytes, unit: "bytes", limit });
        }
        let descriptor = wgpu::BufferDescriptor {
            label: Some(label),
            size: bytes.max(16).next_multiple_of(4),
            usage: BUFFER_USAGES,
            mapped_at_creation: false,
        };
        self.guard(|| self.device().create_buffer(&descriptor))
    }

    /// Frees the memory of intermediate results, which otherwise stays as large as the largest op so far needed; what is recorded keeps its own
    /// until it is done, and the next op takes anew what it needs.
    pub fn release_scratch(&self) {
        *lock(&self.shared.scratch) = Scratch::default();
        lock(&self.shared.own_scratch).clear();
    }

    /// A buffer for an op's intermediate results, shared by all ops that callers record into their encoders. That is sound because an op's
    /// dispatches lie next to each other in one encoder and a queue runs encoders one after the other.
    pub(crate) fn scratch(&self, slot: usize, elements: usize) -> Result<wgpu::Buffer> {
        let mut slots = lock(&self.shared.scratch);
        match &slots[slot] {
            Some(buffer) if buffer.size() >= elements as u64 * WORD => Ok(buffer.clone()),
            _ => Ok(slots[slot].insert(self.new_scratch(elements)?).clone()),
        }
    }

    /// The largest buffer of whole words: a limit may be odd, such as llvmpipe's 2^31 − 1.
    fn most_bytes(&self) -> u64 {
        self.limits().max_buffer_size / WORD * WORD
    }

    /// A buffer that is replaced lives on until its encoder is done: powers of two are replaced rarely.
    pub(crate) fn new_scratch(&self, elements: usize) -> Result<wgpu::Buffer> {
        let bytes = elements as u64 * WORD;
        let roomy = bytes.next_power_of_two().min(self.most_bytes());
        self.buffer("wgloss.scratch", bytes.max(roomy))
    }

    /// What an absent input reads, ones, or where an absent output goes: of each binding a place of its own, start and size in bytes, since WebGPU lets no two
    /// that are written have one.
    pub(crate) fn absent(&self, number: u32, access: Access) -> (&wgpu::Buffer, u64, u64) {
        let buffer = if access == Access::Read { &self.shared.ones } else { &self.shared.sink };
        (buffer, u64::from(number) * alignment(self.limits()), 16)
    }

    /// Whether a browser's WebGPU is below, which compares what bindings share.
    pub(crate) fn is_web(&self) -> bool {
        self.info().backend == wgpu::Backend::BrowserWebGpu
    }

    /// The pipeline of a kernel, built at the first call. `all_write` declares every binding `read_write`, which wgpu
    /// asks for when an input and an output lie in one buffer.
    pub(crate) fn pipeline(
        &self,
        kernel: &'static Kernel,
        constants: &[(&'static str, u32)],
        formats: Vec<Format>,
        all_write: bool,
    ) -> Result<wgpu::ComputePipeline> {
        let shader = kernel.shader;
        let Tuning { subgroup, by_subgroup, .. } = self.tuning;
        let subgroups = subgroup > 1;
        let build = Build { formats, all_write, subgroups, by_subgroup };
        let of_subgroups = subgroups.then_some(("SUBGROUP", subgroup));
        let constants = constants.iter().copied().chain(of_subgroups).collect();
        let key = PipelineKey { module: ModuleKey { op: shader.op, build }, entry: kernel.entry, constants };
        if let Some(pipeline) = lock(&self.shared.pipelines).get(&key) {
            return Ok(pipeline.clone());
        }
        let build = &key.module.build;
        let label = format!("{}.{}", shader.op, kernel.entry);
        let device = self.device();
        let pipeline = self.guard(|| {
            let module = lock(&self.shared.modules)
                .entry(key.module.clone())
                .or_insert_with(|| {
                    device.create_shader_module(wgpu::ShaderModuleDescriptor {
                        label: Some(shader.op),
                        source: wgpu::ShaderSource::Wgsl(accessors::source(shader, build).into()),
                    })
                })
                .clone();
            let entry = |binding, ty| wgpu::BindGroupLayoutEntry {
                binding,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
                count: None,
            };
            let mut entries = vec![entry(0, wgpu::BufferBindingType::Uniform)];
            let bound = kernel.uses.iter().map(|name| (shader.binding(name), kernel.access(name)));
            entries.extend(bound.filter(|(index, _)| build.formats[*index].in_place.is_none()).map(
                |(index, access)| {
                    let read_only = access == Access::Read && !all_write;
                    entry(index as u32 + 1, wgpu::BufferBindingType::Storage { read_only })
                },
            ));
            let group = device
                .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(&label), entries: &entries });
            let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: Some(&label),
                bind_group_layouts: &[Some(&group)],
                immediate_size: 0,
            });
            let constants: Vec<(&str, f64)> = key.constants.iter().map(|&(name, value)| (name, value.into())).collect();
            device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(&label),
                layout: Some(&layout),
                module: &module,
                entry_point: Some(kernel.entry),
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants: &constants,
                    // Every helper writes its workgroup memory before it reads it.
                    zero_initialize_workgroup_memory: false,
                },
                cache: None,
            })
        })?;
        lock(&self.shared.pipelines).insert(key, pipeline.clone());
        Ok(pipeline)
    }
}

/// A driver that is known to compute wrong numbers, and why.
fn known_fault(info: &wgpu::AdapterInfo) -> Option<&'static str> {
    let mesa = info.driver_info.strip_prefix("Mesa ")?;
    let mut numbers = mesa.split(['.', ' ', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next()?, numbers.next()?);
    (info.driver == "llvmpipe" && version < (24, 1)).then_some(
        "Mesa 22.3.6 silently stops loops after 65,534 iterations per invocation and gives wrong results; install Mesa 24.1 or newer",
    )
}
