use core::cell::RefCell;
use core::ops::ControlFlow;

use crate::gpu::Scratch;
use crate::params::Params;
use crate::plan::{Plan, Step};
use crate::{Error, Gpu, Result};

/// Records ops into a command encoder.
///
/// In the caller's encoder ([`Gpu::record`]) it neither submits nor waits. In [`Gpu::run`], where the encoder is its
/// own, it submits long work in parts.
///
/// An op that returns an error has recorded nothing. In [`Gpu::run`], earlier parts of long work may already be
/// submitted.
#[derive(Debug)]
pub struct Recorder<'e> {
    gpu: &'e Gpu,
    encoder: &'e mut wgpu::CommandEncoder,
    params: Params,
    split: Option<Split<'e>>,
    /// Scratch of work that is split. It belongs to this recorder alone, since a submit of another thread may come in
    /// between and must not write it.
    pub(crate) scratch: Scratch,
}

/// How far long work has come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// The op that is being computed.
    pub op: &'static str,
    /// The share of the op's work that has been submitted, below 1.
    pub share: f64,
}

/// A callback that sees the progress of long work and can end it.
pub type Watch<'w> = &'w mut dyn FnMut(Progress) -> ControlFlow<()>;

/// The state for submits between dispatches, in encoders that belong to [`Gpu::run_watched`].
struct Split<'e> {
    watch: Watch<'e>,
    /// Multiply-adds that are recorded but not submitted.
    recorded: u64,
    /// Dispatches that are recorded but not submitted.
    dispatches: usize,
    /// The latest submit.
    before: Option<wgpu::SubmissionIndex>,
}

impl core::fmt::Debug for Split<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter) -> core::fmt::Result {
        f.debug_struct("Split").field("recorded", &self.recorded).finish_non_exhaustive()
    }
}

/// The most dispatches in a submit where work is submitted in parts; two submits are in flight at most. The reason:
/// Mesa's llvmpipe maps memory for the bindings of each dispatch and crashes beyond some 65,000 mappings.
const MOST_DISPATCHES: usize = 8192;
/// The most dispatches whose bind groups are made at a time where work is submitted in parts. An op of a million
/// dispatches then takes no more memory than an op of this many.
const READY: usize = 4096;

impl<'e> Recorder<'e> {
    pub(crate) fn new(gpu: &'e Gpu, encoder: &'e mut wgpu::CommandEncoder) -> Self {
        Recorder { gpu, encoder, params: Params::default(), split: None, scratch: Scratch::default() }
    }

    pub(crate) fn watched(
        gpu: &'e Gpu,
        encoder: &'e mut wgpu::CommandEncoder,
        watch: Watch<'e>,
        scratch: Scratch,
    ) -> Self {
        let split = Some(Split { watch, recorded: 0, dispatches: 0, before: None });
        Recorder { split, scratch, ..Recorder::new(gpu, encoder) }
    }

    /// Runs `op` and records what it planned, unless `op` returns an error.
    pub(crate) fn plan<'a>(&mut self, op: impl FnOnce(&mut Plan<'a>) -> Result<()>) -> Result<()>
    where
        'e: 'a,
    {
        let gpu = self.gpu;
        let has_own_scratch = self.split.is_some();
        let scratch = RefCell::new(core::mem::take(&mut self.scratch));
        let mut plan = Plan { gpu, op: None, steps: Vec::new(), scratch, has_own_scratch };
        let planned = op(&mut plan);
        if has_own_scratch {
            self.scratch = plan.scratch.into_inner();
        }
        planned?;
        self.dispatch(plan.op, &plan.steps)
    }

    /// Records `steps`. Submits in between where there is more work than one submit holds.
    fn dispatch(&mut self, op: Option<&'static str>, steps: &[Step]) -> Result<()> {
        let Some(op) = op.or(steps.first().map(|step| step.kernel.shader.op)) else { return Ok(()) };
        let whole: u64 = steps.iter().map(|step| step.work).sum();
        let mut done = 0;
        let at_once = if self.split.is_some() { READY } else { steps.len() };
        for part in steps.chunks(at_once.max(1)) {
            self.dispatch_part(op, part, &mut done, whole)?;
        }
        Ok(())
    }

    /// [`Recorder::dispatch`] for some of the steps. `done` counts the work recorded so far, out of `whole`.
    fn dispatch_part(&mut self, op: &'static str, steps: &[Step], done: &mut u64, whole: u64) -> Result<()> {
        let gpu = self.gpu;
        let params = &mut self.params;
        let groups = gpu.guard(|| {
            let groups: Vec<_> = steps.iter().map(|step| step.bind_group(gpu, params)).collect();
            params.write(gpu);
            groups
        })?;
        let mut first = 0;
        while first < steps.len() {
            if self.is_crowded() || (*done > 0 && (first > 0 || self.is_full(&steps[0]))) {
                self.submit(Progress { op, share: *done as f64 / whole.max(1) as f64 })?;
            }
            let end = first + self.at_once(&steps[first..]);
            gpu.guard(|| {
                let descriptor = wgpu::ComputePassDescriptor { label: Some(op), timestamp_writes: None };
                let mut pass = self.encoder.begin_compute_pass(&descriptor);
                for (step, group) in steps[first..end].iter().zip(&groups[first..end]) {
                    pass.push_debug_group(step.kernel.entry);
                    pass.set_pipeline(&step.pipeline);
                    pass.set_bind_group(0, group, &[]);
                    pass.dispatch_workgroups(step.groups[0], step.groups[1], step.groups[2]);
                    pass.pop_debug_group();
                }
            })?;
            let work: u64 = steps[first..end].iter().map(|step| step.work).sum();
            if let Some(split) = &mut self.split {
                split.recorded += work;
                split.dispatches += end - first;
            }
            (first, *done) = (end, *done + work);
        }
        Ok(())
    }

    /// Whether a step does not fit into the current submit beside what is recorded.
    fn is_full(&self, step: &Step) -> bool {
        let most = self.gpu.tuning().work;
        self.split.as_ref().is_some_and(|split| split.recorded.saturating_add(step.work) > most)
    }

    /// Whether the current submit has no place for a further dispatch. The recorded dispatches may be of several ops.
    fn is_crowded(&self) -> bool {
        self.split.as_ref().is_some_and(|split| split.dispatches >= MOST_DISPATCHES)
    }

    /// How many dispatches to record before the next submit: all of them if the encoder belongs to the caller.
    fn at_once(&self, steps: &[Step]) -> usize {
        let Some(split) = &self.split else { return steps.len() };
        let most = self.gpu.tuning().work;
        let mut sum = split.recorded;
        let fits = |step: &&Step| {
            sum = sum.saturating_add(step.work);
            sum <= most
        };
        let place = MOST_DISPATCHES.saturating_sub(split.dispatches);
        steps.iter().take(place).take_while(fits).count().max(1)
    }

    /// Submits what is recorded, waits until the submit before it is done, and goes on in a new encoder. One submit is
    /// then in flight while the next is recorded: enough that the device does not wait for the host, and no more.
    fn submit(&mut self, progress: Progress) -> Result<()> {
        let Some(split) = &mut self.split else { return Ok(()) };
        let full = core::mem::replace(self.encoder, self.gpu.encoder());
        let index = self.gpu.submit(full)?;
        if let Some(before) = split.before.replace(index) {
            self.gpu.wait_for(before)?;
        }
        (split.recorded, split.dispatches) = (0, 0);
        match (split.watch)(progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Cancelled { op: progress.op }),
        }
    }
}
