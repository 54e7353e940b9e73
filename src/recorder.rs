use crate::kernel::{Access, Kernel, ScalarType};
use crate::tensor::{ELEMENT, Element};
use crate::{Error, Gpu, Result, Tensor};

/// Records ops into the caller's command encoder; never submits, never waits.
///
/// An op that returns an error has recorded nothing.
#[derive(Debug)]
pub struct Recorder<'e> {
    gpu: &'e Gpu,
    encoder: &'e mut wgpu::CommandEncoder,
    page: Option<Page>,
}

/// Each dispatch has a slot of its own for its parameters: a slot written twice before one submit would show both
/// dispatches the last value.
#[derive(Debug)]
struct Page {
    buffer: wgpu::Buffer,
    used: u64,
}

const PAGE: u64 = 16 << 10;

impl<'e> Recorder<'e> {
    pub(crate) fn new(gpu: &'e Gpu, encoder: &'e mut wgpu::CommandEncoder) -> Self {
        Recorder { gpu, encoder, page: None }
    }

    /// Runs `op`; what it planned is recorded only if all of it was accepted.
    pub(crate) fn plan<'a>(&mut self, op: impl FnOnce(&mut Plan<'a>) -> Result<()>) -> Result<()>
    where
        'e: 'a,
    {
        let mut plan = Plan { gpu: self.gpu, steps: Vec::new() };
        op(&mut plan)?;
        let steps = plan.steps;
        let gpu = self.gpu;
        let mut page = self.page.take();
        let ready = gpu.guard(|| steps.iter().map(|step| step.bind_group(gpu, &mut page)).collect::<Vec<_>>());
        self.page = page;
        let groups = ready?;
        if steps.is_empty() {
            return Ok(());
        }
        gpu.guard(|| {
            let label = steps[0].kernel.shader.op;
            let descriptor = wgpu::ComputePassDescriptor { label: Some(label), timestamp_writes: None };
            let mut pass = self.encoder.begin_compute_pass(&descriptor);
            for (step, group) in steps.iter().zip(&groups) {
                pass.push_debug_group(step.kernel.entry);
                pass.set_pipeline(&step.pipeline);
                pass.set_bind_group(0, group, &[]);
                pass.dispatch_workgroups(step.groups[0], step.groups[1], step.groups[2]);
                pass.pop_debug_group();
            }
        })
    }
}

/// The dispatches of one op, checked and ready to be recorded together.
#[derive(Debug)]
pub(crate) struct Plan<'g> {
    gpu: &'g Gpu,
    steps: Vec<Step>,
}

#[derive(Debug)]
struct Step {
    kernel: &'static Kernel,
    pipeline: wgpu::ComputePipeline,
    bindings: Vec<Binding>,
    params: Vec<u32>,
    groups: [u32; 3],
}

#[derive(Debug)]
struct Binding {
    number: u32,
    buffer: wgpu::Buffer,
    start: u64,
    size: u64,
}

/// A tensor as an argument of a dispatch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arg<'a> {
    tensor: Option<Tensor<'a, u32>>,
    /// Whether [`Plan::rows`] hands each part of the rows its own rows of this tensor, or the whole to all.
    by_row: bool,
}

impl<'a> Arg<'a> {
    pub(crate) const NONE: Arg<'static> = Arg { tensor: None, by_row: false };

    pub(crate) fn whole<T: Element>(tensor: Tensor<'a, T>) -> Self {
        Arg { tensor: Some(tensor.untyped()), by_row: false }
    }

    pub(crate) fn by_row<T: Element>(tensor: Tensor<'a, T>) -> Self {
        Arg { tensor: Some(tensor.untyped()), by_row: true }
    }

    fn part(self, range: core::ops::Range<usize>) -> Self {
        match self.tensor {
            Some(tensor) if self.by_row => Arg { tensor: Some(tensor.row_range(range)), ..self },
            _ => self,
        }
    }
}

/// A scalar parameter.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Scalar {
    U32(u32),
    F32(f32),
}

impl From<u32> for Scalar {
    fn from(value: u32) -> Self {
        Scalar::U32(value)
    }
}
impl From<usize> for Scalar {
    fn from(value: usize) -> Self {
        Scalar::U32(value as u32) // tensors and chunks keep sizes below 2^32
    }
}
impl From<bool> for Scalar {
    fn from(value: bool) -> Self {
        Scalar::U32(value.into())
    }
}
impl From<f32> for Scalar {
    fn from(value: f32) -> Self {
        Scalar::F32(value)
    }
}

/// Rows of fewer columns go to one lane each, of fewer than the second to `LANES_MIDDLE` lanes, others to a whole workgroup.
const NARROW: usize = 16;
const MIDDLE: usize = 512;
const LANES_MIDDLE: u32 = 32;

impl<'g> Plan<'g> {
    pub(crate) fn gpu(&self) -> &'g Gpu {
        self.gpu
    }

    /// A kernel whose workgroups take rows of `cols` columns, split over as many dispatches as bindings and grids need.
    /// The first scalar of the shader is `rows`, filled here.
    pub(crate) fn rows(
        &mut self,
        kernel: &'static Kernel,
        rows: usize,
        cols: usize,
        args: &[Arg],
        scalars: &[Scalar],
    ) -> Result<()> {
        let workgroup = self.gpu.tuning().workgroup;
        let lanes = match cols {
            0..NARROW => 1,
            NARROW..MIDDLE => LANES_MIDDLE.min(workgroup),
            _ => workgroup,
        };
        self.split(kernel, rows, lanes, args, scalars)
    }

    /// A kernel whose lanes each take one element of tensors that all have the shape of the first argument.
    /// The first scalar of the shader is `rows`, filled here, the second is `cols`, given in `scalars`.
    pub(crate) fn elements<'a, const N: usize>(
        &mut self,
        kernel: &'static Kernel,
        tensors: [Option<Tensor<'a>>; N],
        scalars: &[Scalar],
    ) -> Result<()> {
        let flat = tensors.map(|tensor| tensor.map(Tensor::flat));
        let gapless = flat.iter().flatten().all(Option::is_some);
        let tensors = if gapless { flat.map(Option::flatten) } else { tensors };
        let (rows, cols) = tensors.iter().flatten().next().map_or((0, 0), |tensor| (tensor.rows, tensor.cols));
        let args = tensors.map(|tensor| tensor.map_or(Arg::NONE, Arg::by_row));
        let mut all: Vec<Scalar> = vec![cols.into()];
        all.extend_from_slice(scalars);
        self.split(kernel, rows, 0, &args, &all)
    }

    /// `lanes` = 0 stands for one lane per element.
    fn split(
        &mut self,
        kernel: &'static Kernel,
        rows: usize,
        lanes: u32,
        args: &[Arg],
        scalars: &[Scalar],
    ) -> Result<()> {
        let workgroup = self.gpu.tuning().workgroup;
        let limits = self.gpu.limits();
        let per_dimension = u64::from(limits.max_compute_workgroups_per_dimension);
        let most_groups = (per_dimension * per_dimension).min(1 << 31);
        let cols = match scalars.first() {
            Some(Scalar::U32(cols)) if lanes == 0 => u64::from(*cols),
            _ => 1,
        };
        if rows == 0 || cols == 0 {
            return Ok(());
        }
        self.check_overlaps(kernel, args)?; // of the whole: one part's output may lie in another part's input
        let mut rows_at_once = match lanes {
            0 => most_groups * u64::from(workgroup) / cols,
            lanes => most_groups * u64::from(workgroup / lanes),
        };
        for arg in args.iter().filter(|arg| arg.by_row) {
            rows_at_once = rows_at_once.min(arg.tensor.map_or(u64::MAX, |tensor| self.rows_per_binding(tensor)));
        }
        if rows_at_once == 0 {
            let widest = args.iter().filter_map(|arg| arg.tensor).map(|tensor| tensor.cols as u64).max().unwrap_or(0);
            return Err(Error::Limit {
                what: format!("{}: one row", kernel.shader.op),
                needed: widest * ELEMENT,
                limit: self.binding_limit(),
            });
        }
        let mut constants = vec![("WG", workgroup)];
        if lanes > 0 {
            constants.push(("LANES", lanes));
        }
        for first in (0..rows).step_by(usize::try_from(rows_at_once).unwrap_or(usize::MAX)) {
            let range = first..rows.min(first.saturating_add(rows_at_once as usize));
            let part: Vec<Arg> = args.iter().map(|arg| arg.part(range.clone())).collect();
            let mut all: Vec<Scalar> = vec![range.len().into()];
            all.extend_from_slice(scalars);
            let groups = match lanes {
                0 => (range.len() as u64 * cols).div_ceil(workgroup.into()),
                lanes => (range.len() as u64).div_ceil((workgroup / lanes).into()),
            };
            let across = groups.min(per_dimension);
            let grid = [across as u32, groups.div_ceil(across) as u32, 1];
            self.dispatch(kernel, &constants, &part, &all, grid)?;
        }
        Ok(())
    }

    /// Bytes that one binding can hold, whatever its alignment.
    fn binding_limit(&self) -> u64 {
        let limits = self.gpu.limits();
        let alignment = u64::from(limits.min_storage_buffer_offset_alignment);
        // Element numbers are u32 in the shaders: 2^31 bytes keep every sum of an offset and a row below 2^32.
        limits.max_storage_buffer_binding_size.min(1 << 31).saturating_sub(alignment)
    }

    /// How many rows of a tensor one binding can hold.
    pub(crate) fn rows_per_binding<T: Element>(&self, tensor: Tensor<T>) -> u64 {
        let elements = self.binding_limit() / ELEMENT;
        match elements.checked_sub(tensor.cols as u64) {
            None => 0,
            Some(_) if tensor.rows <= 1 => 1,
            Some(rest) => 1 + rest / (tensor.stride as u64).max(1),
        }
    }

    /// One dispatch of a tile kernel; the grid is in tiles.
    pub(crate) fn tiles(
        &mut self,
        kernel: &'static Kernel,
        args: &[Arg],
        scalars: &[Scalar],
        grid: [usize; 3],
    ) -> Result<()> {
        let tuning = self.gpu.tuning();
        let constants = [("TX", tuning.tile_x), ("TY", tuning.tile_y), ("BK", tuning.tile_depth)];
        if tuning.tile_bytes() > self.gpu.limits().max_compute_workgroup_storage_size {
            return Err(Error::Limit {
                what: format!("{}: workgroup memory", kernel.shader.op),
                needed: tuning.tile_bytes().into(),
                limit: self.gpu.limits().max_compute_workgroup_storage_size.into(),
            });
        }
        self.dispatch(kernel, &constants, args, scalars, grid.map(|count| count as u32))
    }

    /// One dispatch of a kernel with one lane per item, `slices` times.
    pub(crate) fn lanes(
        &mut self,
        kernel: &'static Kernel,
        args: &[Arg],
        scalars: &[Scalar],
        items: usize,
        slices: usize,
    ) -> Result<()> {
        let workgroup = self.gpu.tuning().workgroup;
        let most = u64::from(self.gpu.limits().max_compute_workgroups_per_dimension);
        let groups = (items as u64).div_ceil(workgroup.into());
        let across = groups.clamp(1, most);
        let grid = [across as u32, groups.div_ceil(across) as u32, slices as u32];
        self.dispatch(kernel, &[("WG", workgroup)], args, scalars, grid)
    }

    /// One workgroup for everything.
    pub(crate) fn single(&mut self, kernel: &'static Kernel, args: &[Arg], scalars: &[Scalar]) -> Result<()> {
        let workgroup = self.gpu.tuning().workgroup;
        self.dispatch(kernel, &[("WG", workgroup), ("LANES", workgroup)], args, scalars, [1, 1, 1])
    }

    fn dispatch(
        &mut self,
        kernel: &'static Kernel,
        constants: &[(&'static str, u32)],
        args: &[Arg],
        scalars: &[Scalar],
        groups: [u32; 3],
    ) -> Result<()> {
        let shader = kernel.shader;
        debug_assert_eq!(args.len(), kernel.uses.len(), "{}.{}: arguments", shader.op, kernel.entry);
        debug_assert_eq!(scalars.len(), shader.scalars.len(), "{}.{}: scalars", shader.op, kernel.entry);
        if groups.contains(&0) {
            return Ok(());
        }
        let limit = self.gpu.limits().max_compute_workgroups_per_dimension;
        if let Some(&most) = groups.iter().find(|&&count| count > limit) {
            let what = format!("{}.{}: workgroups in one dimension", shader.op, kernel.entry);
            return Err(Error::Limit { what, needed: most.into(), limit: limit.into() });
        }
        let shares_buffer = self.check_overlaps(kernel, args)?;
        let alignment = u64::from(self.gpu.limits().min_storage_buffer_offset_alignment);
        let mut params = vec![0u32; shader.params_size() as usize / 4];
        let mut bindings = Vec::with_capacity(args.len());
        for (&(name, access), arg) in kernel.uses.iter().zip(args) {
            let number = kernel.binding(name);
            let Some(tensor) = arg.tensor.filter(|tensor| tensor.rows * tensor.cols > 0) else {
                let buffer = if access == Access::Read { self.gpu.one() } else { self.gpu.sink() };
                bindings.push(Binding { number, buffer: buffer.clone(), start: 0, size: buffer.size() });
                continue;
            };
            let first = tensor.offset as u64 * ELEMENT;
            let start = first - first % alignment;
            let end = first + ((tensor.rows as u64 - 1) * tensor.stride as u64 + tensor.cols as u64) * ELEMENT;
            let most = self.gpu.limits().max_storage_buffer_binding_size;
            if end - start > most {
                let what = format!("{}.{}: {name}", shader.op, kernel.entry);
                return Err(Error::Limit { what, needed: end - start, limit: most });
            }
            let slot = 2 * (number as usize - 1);
            params[slot] = ((first - start) / ELEMENT) as u32;
            params[slot + 1] = tensor.stride as u32;
            bindings.push(Binding { number, buffer: tensor.buffer.clone(), start, size: end - start });
        }
        let at = 2 * shader.bindings.len();
        for (index, (scalar, &(_name, ty))) in scalars.iter().zip(shader.scalars).enumerate() {
            debug_assert_eq!(matches!(scalar, Scalar::F32(_)), ty == ScalarType::F32, "{}: {_name}", shader.op);
            params[at + index] = match *scalar {
                Scalar::U32(value) => value,
                Scalar::F32(value) => value.to_bits(),
            };
        }
        let pipeline = self.gpu.pipeline(kernel, constants, shares_buffer)?;
        self.steps.push(Step { kernel, pipeline, bindings, params, groups });
        Ok(())
    }

    /// Refuses an output that overlaps another argument; tells whether some buffer is both read and written.
    fn check_overlaps(&self, kernel: &'static Kernel, args: &[Arg]) -> Result<bool> {
        let mut shares_buffer = false;
        let used: Vec<_> = kernel
            .uses
            .iter()
            .zip(args)
            .filter_map(|(&(name, access), arg)| Some((name, access, arg.tensor?)))
            .collect();
        for (index, (output, _, written)) in used.iter().enumerate().filter(|(_, used)| used.1 == Access::Write) {
            for (other, access, tensor) in used.iter().enumerate().filter(|(at, _)| *at != index).map(|(_, used)| used)
            {
                if written.overlaps(*tensor) {
                    // What forward writes and backward reads is bound twice, the second time as `<name>_in`.
                    let other = other.trim_end_matches("_in");
                    return Err(Error::SameBuffer { op: kernel.shader.op, output, other });
                }
                shares_buffer |= *access == Access::Read && written.buffer == tensor.buffer;
            }
        }
        Ok(shares_buffer)
    }
}

impl Step {
    fn bind_group(&self, gpu: &Gpu, page: &mut Option<Page>) -> wgpu::BindGroup {
        let device = gpu.device();
        let size = self.kernel.shader.params_size();
        let mut current = page.take().filter(|page| page.used + size <= PAGE).unwrap_or_else(|| Page {
            buffer: device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("wgloss.params"),
                size: PAGE,
                usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            }),
            used: 0,
        });
        let offset = current.used;
        gpu.queue().write_buffer(&current.buffer, offset, bytemuck::cast_slice(&self.params));
        current.used += size.next_multiple_of(gpu.limits().min_uniform_buffer_offset_alignment.into());
        let page = &page.insert(current).buffer;
        let slice = |buffer, offset, size| {
            wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size: wgpu::BufferSize::new(size) })
        };
        let mut entries = vec![wgpu::BindGroupEntry { binding: 0, resource: slice(page, offset, size) }];
        entries.extend(self.bindings.iter().map(|binding| wgpu::BindGroupEntry {
            binding: binding.number,
            resource: slice(&binding.buffer, binding.start, binding.size),
        }));
        device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(self.kernel.entry),
            layout: &self.pipeline.get_bind_group_layout(0),
            entries: &entries,
        })
    }
}
