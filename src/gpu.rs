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
    /// The adapter: its index in [`adapters`], or a part of its name in any case. A string of digits is always an
    /// index. Default: `None`, the best adapter.
    pub adapter: Option<String>,
    /// The backends to look at. Default: all.
    pub backends: wgpu::Backends,
    /// The limits to ask for. Default: `None`, all that the adapter has. (WebGPU's default limits are far below most
    /// cards.)
    pub limits: Option<wgpu::Limits>,
    /// Features to ask for beyond those that the kernels use. Features that the adapter lacks are left out. Default:
    /// none.
    pub features: wgpu::Features,
}

impl Default for Options {
    fn default() -> Self {
        Options { adapter: None, backends: wgpu::Backends::all(), limits: None, features: wgpu::Features::empty() }
    }
}

/// A device with its queue, its compiled pipelines and its scratch memory. Cloning is cheap; clones share all of these.
///
/// `Gpu` is `Send` and `Sync`, except on wasm32, where wgpu's handles belong to one thread.
///
/// A device that `Gpu` opened itself has `Gpu`'s error handler and device-lost callback. An error or a loss at any time
/// is returned by every later call that records, uploads, writes, reads or waits, until [`Gpu::clear_fault`]; a loss
/// stays.
///
/// On a device that the caller brought ([`Gpu::from_wgpu`]) the caller's handlers stay. Error scopes around this
/// crate's own calls catch the errors of those calls. Device loss goes to the caller's own callback. After a loss,
/// calls that record, upload or read return [`Error::Device`]; [`Gpu::zeros`], [`Gpu::write`] and calls that only wait
/// may return Ok.
#[derive(Debug, Clone)]
pub struct Gpu {
    shared: Arc<Shared>,
    tuning: Tuning,
}

#[derive(Debug)]
struct Shared {
    device: wgpu::Device,
    /// `Some` until the last `Gpu` goes.
    queue: Option<wgpu::Queue>,
    info: wgpu::AdapterInfo,
    limits: wgpu::Limits,
    fault: Fault,
    pipelines: Mutex<HashMap<PipelineKey, wgpu::ComputePipeline>>,
    modules: Mutex<HashMap<ModuleKey, wgpu::ShaderModule>>,
    scratch: Mutex<Scratch>,
    /// Scratch of [`Gpu::run_watched`]: as many sets as there were calls at one time.
    own_scratch: Mutex<Vec<Scratch>>,
    ones: wgpu::Buffer,
    sink: wgpu::Buffer,
}

impl Drop for Shared {
    /// After a command buffer could not be ended, wgpu panics when the last handle of the queue is dropped (wgpu-hal
    /// 30, discard_encoding).
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

/// Places for absent inputs and outputs, one for each binding number. More than any shader has bindings.
const PLACES: u64 = 32;

const BUFFER_USAGES: wgpu::BufferUsages =
    wgpu::BufferUsages::STORAGE.union(wgpu::BufferUsages::COPY_SRC).union(wgpu::BufferUsages::COPY_DST);

/// In bytes. Bindings begin at multiples of it.
pub(crate) fn alignment(limits: &wgpu::Limits) -> u64 {
    u64::from(limits.min_storage_buffer_offset_alignment).max(16)
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Every adapter of the machine, best first: discrete, integrated, virtual, other, software.
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

/// One instance for all devices of a process that use the same backends. wgpu identifies a buffer by its number within
/// an instance and would take a buffer of another instance for one of its own.
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

/// In a browser, the browser tells devices apart.
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
    /// Opens the best adapter, the first of [`adapters`].
    ///
    /// # Errors
    /// [`Error::NoAdapter`] if there is none; else as [`Gpu::open_async`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn new() -> Result<Gpu> {
        Gpu::open(&Options::default())
    }

    /// Opens an adapter as `options` say; blocks until it is open.
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
    /// [`Error::NoAdapter`] if no adapter fits, or if the driver of the chosen one is known to compute wrong numbers;
    /// [`Error::Device`] if the driver refuses; [`Error::Limit`] if the requested limits leave no compute shaders, or
    /// fewer than three storage buffers per shader stage.
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

    /// Uses a device and a queue that the caller made. See [`Gpu`] for who handles errors.
    ///
    /// Any features will do. `SUBGROUP` makes reductions faster on every adapter and is used where the device has it.
    /// `SHADER_INT64` helps software adapters.
    ///
    /// WebGPU's default limits suffice. At least 3 storage buffers per shader stage are required here, but ops bind up
    /// to 8, so ask for the default of 8.
    ///
    /// wgpu identifies a buffer by its number within its [`wgpu::Instance`]. A buffer of another instance, such as the
    /// one of [`Gpu::open`], cannot be detected and gives wrong results. [`adapters`] and [`Gpu::open`] use one
    /// instance for the same backends.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] if the driver is known to compute wrong numbers; [`Error::Limit`] for a device without
    /// compute shaders, or with fewer than three storage buffers per shader stage; [`Error::OutOfMemory`] or
    /// [`Error::Device`] if not even a small buffer can be made.
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

    /// The same device with another tuning, cut to what the device allows.
    pub fn with_tuning(&self, tuning: Tuning) -> Gpu {
        Gpu { shared: self.shared.clone(), tuning: tuning.on(&self.shared.device) }
    }

    /// The tuning in use.
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
    ///
    /// - Ops open and end compute passes of their own in the encoder, so no pass of the caller's may be open.
    /// - Parameters are written through the queue of this `Gpu` with `write_buffer`: submit the encoder to that queue.
    /// - The caller's encoder is never split, so long work can meet the operating system's watchdog. [`Gpu::run`]
    ///   avoids that.
    /// - Each [`Recorder`] allocates a uniform buffer of 16 KiB at its first op, and another one whenever that is full, so
    ///   one recorder per encoder is cheaper than one per op.
    /// - Pipelines are compiled at first use and kept.
    pub fn record<'e>(&'e self, encoder: &'e mut wgpu::CommandEncoder) -> Recorder<'e> {
        Recorder::new(self, encoder)
    }

    /// Records with `record` into an encoder of its own and submits it. Long work is submitted in parts, as in
    /// [`Gpu::run_watched`].
    ///
    /// # Errors
    /// Those of `record`: nothing that it recorded is submitted then, except parts of long work that were submitted
    /// before. [`Error::Device`], [`Error::DeviceLost`] or [`Error::OutOfMemory`] if the submit fails.
    pub fn run<R>(&self, record: impl FnOnce(&mut Recorder) -> Result<R>) -> Result<R> {
        self.run_watched(record, &mut |_| ControlFlow::Continue(()))
    }

    /// As [`Gpu::run`]; `watch` is called between the submits of long work and can end it.
    ///
    /// A submit holds about as much work as [`Tuning::work`] allows, so that it ends before the watchdog of an
    /// operating system would end it. At most two submits are in flight. In a browser, where nothing may wait, all of
    /// them may be in flight, and `watch` is told what is submitted, not what is done.
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
    /// Those of [`Gpu::run`]; [`Error::Cancelled`] if `watch` breaks. What was submitted until then still runs, so
    /// outputs hold part of their results.
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

    /// An encoder for work that `Gpu` submits itself.
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
    /// Any error so far, including the loss of a device that `Gpu` opened.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn wait(&self) -> Result<()> {
        self.wait_for_all()
    }

    /// Waits until all submitted work is done. Outside a browser the first poll of the future blocks, since wgpu has no
    /// event loop there.
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

    /// In a browser this does not wait.
    pub(crate) fn wait_for_all(&self) -> Result<()> {
        self.poll(wgpu::PollType::wait_indefinitely())
    }

    fn poll(&self, until: wgpu::PollType) -> Result<()> {
        // If the device is lost during the wait, poll panics instead of returning (wgpu 30, Device::poll).
        let polled = catch_unwind(AssertUnwindSafe(|| self.device().poll(until)));
        self.check()?;
        match polled {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(Error::Device { message: format!("waiting for the device failed: {error}") }),
            Err(_) => Err(Error::DeviceLost { message: "wgpu panicked while it waited for the device".into() }),
        }
    }

    /// The first error that the device reported outside the checks of this crate's calls, if any.
    ///
    /// On a device that `Gpu` opened, these are errors of the program's own wgpu calls and the device's loss; in a
    /// browser also errors of earlier calls that are only known later. The error stays until [`Gpu::clear_fault`]:
    /// results computed since then cannot be trusted.
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

    /// [`Gpu::check`] after everything that wgpu has to report on earlier calls is known.
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
            // wgpu treats the objects of a lost device as invalid. The loss itself is reported at the next poll.
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

    /// Frees the scratch buffers, which otherwise stay at the largest size used so far.
    ///
    /// Commands already recorded keep theirs until they have run; later ops allocate again.
    pub fn release_scratch(&self) {
        *lock(&self.shared.scratch) = Scratch::default();
        lock(&self.shared.own_scratch).clear();
    }

    /// A scratch buffer for an op's intermediate results, shared by all ops that callers record into their encoders.
    /// Sharing is sound because an op's dispatches lie next to each other in one encoder, and a queue runs encoders one
    /// after the other.
    pub(crate) fn scratch(&self, slot: usize, elements: usize) -> Result<wgpu::Buffer> {
        let mut slots = lock(&self.shared.scratch);
        match &slots[slot] {
            Some(buffer) if buffer.size() >= elements as u64 * WORD => Ok(buffer.clone()),
            _ => Ok(slots[slot].insert(self.new_scratch(elements)?).clone()),
        }
    }

    /// The size of the largest buffer of whole words. A limit need not be a multiple of four: llvmpipe's is 2^31 − 1.
    fn most_bytes(&self) -> u64 {
        self.limits().max_buffer_size / WORD * WORD
    }

    /// A buffer that is replaced lives on until the encoders that use it are done. Sizes are powers of two, so that
    /// buffers are replaced rarely.
    pub(crate) fn new_scratch(&self, elements: usize) -> Result<wgpu::Buffer> {
        let bytes = elements as u64 * WORD;
        let roomy = bytes.next_power_of_two().min(self.most_bytes());
        self.buffer("wgloss.scratch", bytes.max(roomy))
    }

    /// The place that stands for an absent input (filled with ones) or an absent output: buffer, start and size in
    /// bytes. Each binding number has a place of its own, since WebGPU does not let two written bindings share one.
    pub(crate) fn absent(&self, number: u32, access: Access) -> (&wgpu::Buffer, u64, u64) {
        let buffer = if access == Access::Read { &self.shared.ones } else { &self.shared.sink };
        (buffer, u64::from(number) * alignment(self.limits()), 16)
    }

    /// Whether the backend is a browser's WebGPU, which checks whether bindings share bytes.
    pub(crate) fn is_web(&self) -> bool {
        self.info().backend == wgpu::Backend::BrowserWebGpu
    }

    /// The pipeline of a kernel, built at the first call. `all_write` declares every binding `read_write`, which wgpu
    /// requires when an input and an output lie in one buffer.
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

/// Why a driver is known to compute wrong numbers; `None` for other drivers.
fn known_fault(info: &wgpu::AdapterInfo) -> Option<&'static str> {
    let mesa = info.driver_info.strip_prefix("Mesa ")?;
    let mut numbers = mesa.split(['.', ' ', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next()?, numbers.next()?);
    (info.driver == "llvmpipe" && version < (24, 1)).then_some(
        "Mesa 22.3.6 silently stops loops after 65,534 iterations per invocation and gives wrong results; install Mesa 24.1 or newer",
    )
}
