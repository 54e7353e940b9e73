//! Times work by the device's clock if it has one, otherwise by the host's, and says which.

use std::time::{Duration, Instant};

use cpu_time::ProcessTime;
use wgloss::{Gpu, Result, wgpu};

use super::record::{Clock, quantile};

/// The least duration of a sample, made of several calls if need be: a submit and the wait for it cost a few 10⁻⁵ s.
const SAMPLE: f64 = 0.02;
/// The most calls in a sample.
const MOST_CALLS: u32 = 256;
/// If a sample has at least this many calls, they are recorded together: each is then short compared with the time to
/// record it, and needs no protection from a watchdog.
const RECORDED: u32 = 8;
const FEWEST_SAMPLES: usize = 5;
const MOST_SAMPLES: usize = 60;
/// No more samples are taken once the distance of their quartiles is below this share of the median.
const STEADY: f64 = 0.005;

/// The result of a measurement.
pub struct Timed {
    pub clock: Clock,
    /// Seconds per call.
    pub samples_s: Vec<f64>,
    /// CPU seconds of the process per call.
    pub cpu_s: f64,
}

/// Work to be timed.
pub trait Work {
    /// Makes one call. Long work is split into several submits.
    fn submit(&self) -> Result<()>;
    /// Records `calls` calls, one after the other.
    fn record(&self, encoder: &mut wgpu::CommandEncoder, calls: u32) -> Result<()>;
}

/// Times work between two timestamps.
pub struct Timer<'g> {
    gpu: &'g Gpu,
    stamps: Option<Stamps>,
}

struct Stamps {
    set: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    /// Seconds per tick.
    period: f64,
}

impl<'g> Timer<'g> {
    pub fn new(gpu: &'g Gpu) -> Self {
        let device = gpu.device();
        let stamps = device.features().contains(wgpu::Features::TIMESTAMP_QUERY).then(|| Stamps {
            set: device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("bench"),
                ty: wgpu::QueryType::Timestamp,
                count: 2,
            }),
            resolved: device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("bench.timestamps"),
                size: 16,
                usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::STORAGE,
                mapped_at_creation: false,
            }),
            period: f64::from(gpu.queue().get_timestamp_period()) * 1e-9,
        });
        Timer { gpu, stamps }
    }

    /// Seconds for `calls` calls, by the device's clock and by the host's.
    ///
    /// Short calls are recorded before the clock starts, because on a fast device recording takes longer than they do.
    /// A device whose timestamps are nonsense (all zeros, or more time than the host saw pass) counts as a device
    /// without a clock.
    fn sample(&self, work: &dyn Work, calls: u32) -> Result<(Option<f64>, f64)> {
        let encoder = || self.gpu.device().create_command_encoder(&Default::default());
        let submit = |encoder: wgpu::CommandEncoder| self.gpu.queue().submit([encoder.finish()]);
        let mut first = encoder();
        self.stamp(&mut first, true);
        let start = if calls >= RECORDED {
            work.record(&mut first, calls)?;
            self.stamp(&mut first, false);
            let start = Instant::now();
            submit(first);
            start
        } else {
            let mut last = encoder();
            self.stamp(&mut last, false);
            let start = Instant::now();
            submit(first);
            (0..calls).try_for_each(|_| work.submit())?;
            submit(last);
            start
        };
        self.gpu.wait()?;
        let host = start.elapsed().as_secs_f64();
        let Some(stamps) = &self.stamps else { return Ok((None, host)) };
        let words = self.gpu.read(wgloss::Tensor::<u32>::vector(&stamps.resolved, 4)?)?;
        let [start, end] = [0, 2].map(|at| u64::from(words[at]) | u64::from(words[at + 1]) << 32);
        let device = end.saturating_sub(start) as f64 * stamps.period;
        Ok(((device > 0.0 && device <= 1.02 * host).then_some(device), host))
    }

    /// Writes the timestamp before the work that follows, or the one after all earlier work.
    fn stamp(&self, encoder: &mut wgpu::CommandEncoder, before: bool) {
        let Some(stamps) = &self.stamps else { return };
        encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: Some("bench.timestamp"),
            timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                query_set: &stamps.set,
                beginning_of_pass_write_index: before.then_some(0),
                end_of_pass_write_index: (!before).then_some(1),
            }),
        });
        if !before {
            encoder.resolve_query_set(&stamps.set, 0..2, &stamps.resolved, 0);
        }
    }

    /// Host seconds of one call, including the device's part, after all earlier work is done.
    pub fn once(&self, work: &dyn Work) -> Result<f64> {
        self.gpu.wait()?;
        Ok(self.sample(work, 1)?.1)
    }

    /// Times `work` for about as long as `budget`: it first runs until it is steady, then sample by sample.
    pub fn measure(&self, budget: Duration, work: &dyn Work) -> Result<Timed> {
        self.once(work)?;
        let (device, host) = self.sample(work, 1)?;
        let calls = (SAMPLE / device.unwrap_or(host)).ceil().clamp(1.0, f64::from(MOST_CALLS)) as u32;
        let start = Instant::now();
        // Until boost clocks have settled and memory pages are mapped.
        let mut before = f64::INFINITY;
        while start.elapsed() < budget / 3 {
            let (device, host) = self.sample(work, calls)?;
            let seconds = device.unwrap_or(host);
            let is_steady = (seconds / before - 1.0).abs() < 0.02;
            before = seconds;
            if is_steady {
                break;
            }
        }
        let cpu = ProcessTime::now();
        let (mut device, mut host) = (Vec::new(), Vec::new());
        while host.len() < FEWEST_SAMPLES || (host.len() < MOST_SAMPLES && start.elapsed() < budget) {
            let sample = self.sample(work, calls)?;
            device.extend(sample.0);
            host.push(sample.1);
            let samples = if device.len() == host.len() { &device } else { &host };
            let width = quantile(samples, 0.75) - quantile(samples, 0.25);
            if host.len() >= 2 * FEWEST_SAMPLES && width < STEADY * quantile(samples, 0.5) {
                break;
            }
        }
        let cpu_s = cpu.elapsed().as_secs_f64() / host.len() as f64 / f64::from(calls);
        let (clock, samples) = if device.len() == host.len() { (Clock::Device, device) } else { (Clock::Host, host) };
        let samples_s = samples.into_iter().map(|seconds| seconds / f64::from(calls)).collect();
        Ok(Timed { clock, samples_s, cpu_s })
    }
}
