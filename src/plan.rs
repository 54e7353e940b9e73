use core::cell::RefCell;

use crate::accessors::{self, Format};
use crate::gpu::{Scratch, alignment};
use crate::kernel::{Access, Content, Family, Kernel, SHAPE, ScalarType};
use crate::params::Params;
use crate::tensor::{Element, WORD};
use crate::{Error, Gpu, Result, Storage, Tensor, Tuning};

/// The dispatches of one op, checked and ready to be recorded together.
#[derive(Debug)]
pub(crate) struct Plan<'g> {
    pub(crate) gpu: &'g Gpu,
    /// The op's name, where it is not the name of its first kernel.
    pub(crate) op: Option<&'static str>,
    pub(crate) steps: Vec<Step>,
    /// The buffers that [`Plan::scratch`] returned.
    pub(crate) scratch: RefCell<Scratch>,
    /// Whether the scratch belongs to the recorder alone.
    pub(crate) has_own_scratch: bool,
}

#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) kernel: &'static Kernel,
    pub(crate) pipeline: wgpu::ComputePipeline,
    bindings: Vec<Binding>,
    params: Vec<u32>,
    pub(crate) groups: [u32; 3],
    /// The cost, in multiply-adds or their equivalent.
    pub(crate) work: u64,
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
    /// Whether [`Plan::rows`] gives each part of the rows its own rows of this tensor. If not, every part gets the
    /// whole tensor.
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

/// Elements that a thread (lane) takes at a time: `step_size` of lib/row.wgsl for one lane.
const AT_A_TIME: usize = 16;
/// Columns of the rows into which a gapless tensor is cut by ops to which rows mean nothing.
const BLOCK: usize = 4096;
/// The most numbers in the partial result of a segment.
const PART: usize = 6;
/// Multiply-adds that take as long as one element of a kernel that goes over rows.
const ELEMENT: u64 = 16;
/// Workgroups of several rows are used only where there are at least this many times as many as fill the device. With
/// fewer, the last ones run alone.
const FILLED: u64 = 8;
/// Scratch: the parts of long rows.
const PARTS: usize = 4;

/// How rows of some number of columns are divided among lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut {
    workgroup: u32,
    lanes: u32,
    /// The segments into which a row is cut. Each segment has `lanes` lanes of its own.
    pub(crate) segments: usize,
    per_segment: usize,
}

/// The numbers of `params` that [`SHAPE`] names.
type Shape = [usize; SHAPE.len()];

impl<'g> Plan<'g> {
    pub(crate) fn gpu(&self) -> &'g Gpu {
        self.gpu
    }

    /// Names an op that is made of other ops' kernels.
    pub(crate) fn name(&mut self, op: &'static str) {
        self.op = Some(op);
    }

    /// A buffer for intermediate results. Within a plan a slot keeps its buffer as long as no larger one is asked for,
    /// even if another thread meanwhile replaces the device's buffer by a larger one.
    pub(crate) fn scratch(&self, slot: usize, elements: usize) -> Result<wgpu::Buffer> {
        let held = &mut self.scratch.borrow_mut()[slot];
        if let Some(buffer) = held.as_ref().filter(|buffer| buffer.size() >= elements as u64 * WORD) {
            return Ok(buffer.clone());
        }
        let buffer =
            if self.has_own_scratch { self.gpu.new_scratch(elements)? } else { self.gpu.scratch(slot, elements)? };
        Ok(held.insert(buffer).clone())
    }

    /// Gives a row enough lanes to hold it. Where there are too few rows to fill the device, one row gets several
    /// groups of lanes (segments).
    pub(crate) fn cut(&self, rows: usize, cols: usize) -> Cut {
        let tuning = self.gpu.tuning();
        let enough = rows >= tuning.groups as usize;
        let most = if enough { tuning.widest.max(tuning.workgroup) } else { tuning.workgroup } as usize;
        // Few sizes, since each one needs a pipeline of its own.
        let workgroup = tuning.workgroup as usize;
        let sizes = [1, 8, 64, workgroup, 2 * workgroup, most];
        let lanes = sizes.into_iter().find(|&lanes| AT_A_TIME * lanes >= cols).unwrap_or(most).min(most);
        let step = AT_A_TIME * lanes;
        let wanted = (tuning.groups as usize).div_ceil(rows.max(1)).min(cols / step).max(1);
        let per_segment = cols.div_ceil(wanted).next_multiple_of(step).max(step);
        let segments = cols.div_ceil(per_segment).max(1);
        Cut { workgroup: tuning.workgroup.max(lanes as u32), lanes: lanes as u32, segments, per_segment }
    }

    /// A kernel that goes over rows once, or that reduces them and then goes over them again. If it has a binding
    /// `part`, which is not among `args`, long rows are cut: see lib/row.wgsl. `flags` are its `override` constants.
    /// Makes as many dispatches as the limits of bindings and grids require.
    pub(crate) fn rows(
        &mut self,
        kernel: &'static Kernel,
        [rows, cols]: [usize; 2],
        args: &[Arg],
        scalars: &[Scalar],
        flags: &[(&'static str, u32)],
    ) -> Result<()> {
        self.staged(kernel, [rows, cols], &[1, 2], args, scalars, flags)
    }

    /// As [`Plan::rows`], for a kernel that does `depth` times as much with each element. Rows are not cut.
    pub(crate) fn deep_rows(
        &mut self,
        kernel: &'static Kernel,
        [rows, cols, depth]: [usize; 3],
        args: &[Arg],
        scalars: &[Scalar],
        flags: &[(&'static str, u32)],
    ) -> Result<()> {
        let before = self.steps.len();
        let tuning = self.gpu.tuning();
        let lanes = cols.div_ceil(AT_A_TIME).next_power_of_two().min(tuning.workgroup as usize);
        let cut = Cut { workgroup: tuning.workgroup, lanes: lanes as u32, segments: 1, per_segment: cols.max(1) };
        let flags = [&[("HOLDS", (cols <= AT_A_TIME * lanes).into())], flags].concat();
        self.split(kernel, [rows, cols], cut, &flags, args, scalars)?;
        self.steps[before..].iter_mut().for_each(|step| step.work = step.work.saturating_mul(depth.max(1) as u64));
        Ok(())
    }

    /// As [`Plan::rows`], with other values of `STAGE` (lib/row.wgsl) for rows that are cut.
    pub(crate) fn staged(
        &mut self,
        kernel: &'static Kernel,
        [rows, cols]: [usize; 2],
        stages: &[u32],
        args: &[Arg],
        scalars: &[Scalar],
        flags: &[(&'static str, u32)],
    ) -> Result<()> {
        let cut = self.cut(rows, cols);
        let has_parts = kernel.uses.contains(&"part");
        let cut = if has_parts { cut } else { Cut { segments: 1, per_segment: cols.max(1), ..cut } };
        if cut.segments == 1 {
            let holds = cut.per_segment <= AT_A_TIME * cut.lanes as usize;
            let flags = [&[("HOLDS", holds.into())], flags].concat();
            let part: &[Arg] = if has_parts { &[Arg::NONE] } else { &[] };
            return self.split(kernel, [rows, cols], cut, &flags, &[args, part].concat(), scalars);
        }
        let scratch = self.scratch(PARTS, rows * cut.segments * PART)?;
        let part: Tensor = Tensor::matrix(&scratch, rows, cut.segments * PART)?;
        let args = [args, &[Arg::by_row(part)]].concat();
        for &stage in stages {
            self.split(kernel, [rows, cols], cut, &[&[("STAGE", stage)], flags].concat(), &args, scalars)?;
        }
        Ok(())
    }

    /// A kernel in which each lane takes one row.
    pub(crate) fn each_row(
        &mut self,
        kernel: &'static Kernel,
        [rows, cols]: [usize; 2],
        args: &[Arg],
        scalars: &[Scalar],
        flags: &[(&'static str, u32)],
    ) -> Result<()> {
        let cut = Cut { workgroup: self.gpu.tuning().workgroup, lanes: 1, segments: 1, per_segment: cols.max(1) };
        self.split(kernel, [rows, cols], cut, flags, args, scalars)
    }

    /// A kernel that treats each element by itself, or that reduces each segment of a row to one value: there are
    /// `cut.segments` columns of such values. `flags` are its `override` constants.
    pub(crate) fn elements(
        &mut self,
        kernel: &'static Kernel,
        [rows, cols]: [usize; 2],
        args: &[Arg],
        scalars: &[Scalar],
        flags: &[(&'static str, u32)],
    ) -> Result<()> {
        self.split(kernel, [rows, cols], self.cut(rows, cols), flags, args, scalars)
    }

    /// Tensors of one shape as blocks of long rows, if they have no gaps; for kernels to which rows mean nothing.
    pub(crate) fn blocks<'a>(tensors: &[Option<Tensor<'a>>]) -> Vec<Vec<Option<Tensor<'a>>>> {
        let gapless = tensors.iter().flatten().all(|tensor| tensor.is_gapless());
        let Some(len) = tensors.iter().flatten().next().map(|tensor| tensor.rows * tensor.cols).filter(|_| gapless)
        else {
            return vec![tensors.to_vec()];
        };
        let whole = len / BLOCK * BLOCK;
        let block = |rows: usize, cols: usize, first: usize| {
            tensors.iter().map(|tensor| tensor.map(|tensor| tensor.reshaped(rows, cols, first))).collect()
        };
        let blocks = [(len / BLOCK, BLOCK, 0), (1, len - whole, whole)];
        let blocks = blocks.into_iter().filter(|(rows, cols, _)| rows * cols > 0);
        blocks.map(|(rows, cols, first)| block(rows, cols, first)).collect()
    }

    fn split(
        &mut self,
        kernel: &'static Kernel,
        [rows, cols]: [usize; 2],
        cut: Cut,
        constants: &[(&'static str, u32)],
        args: &[Arg],
        scalars: &[Scalar],
    ) -> Result<()> {
        let limits = self.gpu.limits();
        let per_dimension = u64::from(limits.max_compute_workgroups_per_dimension);
        let most_groups = (per_dimension * per_dimension).min(1 << 31);
        if rows == 0 {
            return Ok(());
        }
        self.check_overlaps(kernel, args)?; // of the whole tensors: one part's output may lie in another part's input
        let workgroup = self.packed(cut, rows);
        let at_once = u64::from(workgroup / cut.lanes);
        let mut rows_at_once = (most_groups * at_once).min(u32::MAX.into()) / cut.segments as u64;
        for arg in args.iter().filter(|arg| arg.by_row) {
            rows_at_once = rows_at_once.min(arg.tensor.map_or(u64::MAX, |tensor| self.rows_per_binding(tensor)));
        }
        if rows_at_once == 0 {
            let sizes =
                args.iter().filter_map(|arg| arg.tensor).map(|tensor| tensor.cols as u64 * tensor.storage.bytes());
            return Err(Error::Limit {
                what: format!("{}: one row", kernel.shader.op),
                needed: sizes.max().unwrap_or(0),
                unit: "bytes",
                limit: self.binding_limit(),
            });
        }
        let at_a_time = AT_A_TIME * cut.lanes as usize;
        let no_rest = cols.is_multiple_of(at_a_time) && cut.per_segment.is_multiple_of(at_a_time);
        let constants = [&[("WG", workgroup), ("LANES", cut.lanes), ("NO_REST", no_rest.into())], constants].concat();
        for first in (0..rows).step_by(usize::try_from(rows_at_once).unwrap_or(usize::MAX)) {
            let range = first..rows.min(first.saturating_add(rows_at_once as usize));
            let part: Vec<Arg> = args.iter().map(|arg| arg.part(range.clone())).collect();
            let groups = (range.len() as u64 * cut.segments as u64).div_ceil(at_once);
            let across = groups.min(per_dimension);
            let grid = [across as u32, groups.div_ceil(across) as u32, 1];
            let shape = [range.len(), cols, cut.segments, cut.per_segment];
            self.dispatch(kernel, &constants, &part, shape, scalars, grid)?;
        }
        Ok(())
    }

    /// The workgroup size for this many rows. A workgroup takes several rows where a subgroup has all lanes of one row
    /// and there is work for many such workgroups.
    fn packed(&self, cut: Cut, rows: usize) -> u32 {
        let tuning = self.gpu.tuning();
        let lanes = (rows as u64).saturating_mul(cut.segments as u64).saturating_mul(cut.lanes.into());
        let fills = lanes >= FILLED * u64::from(tuning.groups) * u64::from(tuning.packed);
        if fills && cut.lanes <= tuning.subgroup { cut.workgroup.max(tuning.packed) } else { cut.workgroup }
    }

    /// Bytes that one binding can hold, whatever the alignment of its start.
    pub(crate) fn binding_limit(&self) -> u64 {
        let limits = self.gpu.limits();
        // Element numbers are u32 in the shaders. With at most 2^31 bytes, every sum of an offset and a row stays below
        // 2^32.
        limits.max_storage_buffer_binding_size.min(1 << 31).saturating_sub(alignment(limits))
    }

    /// How many rows of a tensor one binding can hold.
    pub(crate) fn rows_per_binding<T: Element>(&self, tensor: Tensor<T>) -> u64 {
        let elements = self.binding_limit() / tensor.storage.bytes();
        match elements.checked_sub(tensor.cols as u64) {
            None => 0,
            Some(_) if tensor.rows <= 1 => 1,
            Some(rest) => 1 + rest / (tensor.stride as u64).max(1),
        }
    }

    /// One dispatch of a tile kernel, for products that are sums of `depth` terms. `flags` are its `override`
    /// constants; `grid` is in tiles.
    pub(crate) fn tiles(
        &mut self,
        kernel: &'static Kernel,
        args: &[Arg],
        [rows, cols, depth]: [usize; 3],
        scalars: &[Scalar],
        flags: &[(&'static str, u32)],
        grid: [usize; 3],
    ) -> Result<()> {
        let tuning = self.gpu.tuning();
        let sizes = [("TX", tuning.tile_x), ("TY", tuning.tile_y), ("BK", tuning.tile_depth), unrolled(tuning)];
        let no_rest = tuning.unrolled && ends_with_quads(kernel, args);
        let constants = [&sizes[..], &[("NO_REST", no_rest.into())], flags].concat();
        if tuning.tile_bytes() > self.gpu.limits().max_compute_workgroup_storage_size {
            return Err(Error::Limit {
                what: format!("{}: workgroup memory", kernel.shader.op),
                needed: tuning.tile_bytes().into(),
                unit: "bytes",
                limit: self.gpu.limits().max_compute_workgroup_storage_size.into(),
            });
        }
        let before = self.steps.len(); // an empty grid adds no step
        self.dispatch(kernel, &constants, args, [rows, cols, 1, cols], scalars, grid.map(|count| count as u32))?;
        let work = (rows as u64).saturating_mul(cols as u64).saturating_mul(depth as u64);
        self.steps[before..].iter_mut().for_each(|step| step.work = work);
        Ok(())
    }

    /// One dispatch of a kernel with one lane for each of rows × cols items. The grid has `slices` such layers.
    pub(crate) fn lanes(
        &mut self,
        kernel: &'static Kernel,
        args: &[Arg],
        [rows, cols]: [usize; 2],
        scalars: &[Scalar],
        flags: &[(&'static str, u32)],
        slices: usize,
    ) -> Result<()> {
        let workgroup = self.gpu.tuning().workgroup;
        let most = u64::from(self.gpu.limits().max_compute_workgroups_per_dimension);
        let groups = (rows as u64 * cols as u64).div_ceil(workgroup.into());
        let across = groups.clamp(1, most);
        let grid = [across as u32, groups.div_ceil(across) as u32, slices as u32];
        let constants = [&[("WG", workgroup)], flags].concat();
        self.dispatch(kernel, &constants, args, [rows, cols, 1, cols], scalars, grid)
    }

    /// One workgroup for each of `rows` symmetric systems of `cols` unknowns. Its lanes are a tile kernel's lanes in
    /// one line, four unknowns each, at most 64 lanes. They then stage 10 KiB, of the 16 KiB of workgroup memory that
    /// WebGPU promises.
    pub(crate) fn systems(
        &mut self,
        kernel: &'static Kernel,
        args: &[Arg],
        [rows, cols]: [usize; 2],
        scalars: &[Scalar],
        flags: &[(&'static str, u32)],
    ) -> Result<()> {
        let tuning = self.gpu.tuning();
        let most = self.gpu.limits().max_compute_workgroups_per_dimension as usize;
        let across = rows.clamp(1, most);
        let lanes = (cols / 4).next_power_of_two() as u32;
        let lanes =
            if tuning.by_subgroup { tuning.tile_x } else { lanes.min((tuning.tile_x * tuning.tile_y).clamp(4, 64)) };
        let (depth, single) = (if lanes > 16 { 8 } else { 16 }, cols <= 4 * lanes as usize);
        let sizes = [("TX", lanes), ("TY", 1), ("BK", depth), ("SINGLE", single.into()), unrolled(tuning)];
        let constants = [&sizes, flags].concat();
        let grid = [across as u32, rows.div_ceil(across) as u32, 1];
        let before = self.steps.len();
        self.dispatch(kernel, &constants, args, [rows, cols, 1, cols], scalars, grid)?;
        let work = (rows as u64).saturating_mul((cols as u64).saturating_pow(3) / 6);
        self.steps[before..].iter_mut().for_each(|step| step.work = work);
        Ok(())
    }

    /// One workgroup for everything, with as many lanes as possible, since each lane has loads in flight.
    pub(crate) fn single(
        &mut self,
        kernel: &'static Kernel,
        args: &[Arg],
        [rows, cols]: [usize; 2],
        scalars: &[Scalar],
        flags: &[(&'static str, u32)],
    ) -> Result<()> {
        let lanes = self.gpu.tuning().widest;
        let constants = [&[("WG", lanes), ("LANES", lanes)], flags].concat();
        self.dispatch(kernel, &constants, args, [rows, cols, 1, cols], scalars, [1, 1, 1])
    }

    fn dispatch(
        &mut self,
        kernel: &'static Kernel,
        constants: &[(&'static str, u32)],
        args: &[Arg],
        shape: Shape,
        scalars: &[Scalar],
        groups: [u32; 3],
    ) -> Result<()> {
        let shader = kernel.shader;
        debug_assert_eq!(args.len(), kernel.uses.len(), "{}.{}: arguments", shader.op, kernel.entry);
        debug_assert_eq!(scalars.len(), shader.scalars.len(), "{}.{}: scalars", shader.op, kernel.entry);
        let is_empty = |arg: &Arg| arg.tensor.is_some_and(|tensor| tensor.rows == 0 || tensor.cols == 0);
        let writes =
            |(name, arg): (&&str, &Arg)| kernel.access(name) == Access::Write && arg.tensor.is_some() && !is_empty(arg);
        if groups.contains(&0) || (args.iter().any(is_empty) && !kernel.uses.iter().zip(args).any(writes)) {
            return Ok(());
        }
        let limit = self.gpu.limits().max_compute_workgroups_per_dimension;
        if let Some(&most) = groups.iter().find(|&&count| count > limit) {
            let (what, unit) = (format!("{}.{}", shader.op, kernel.entry), "workgroups in one dimension");
            return Err(Error::Limit { what, needed: most.into(), unit, limit: limit.into() });
        }
        let shares_buffer = self.check_overlaps(kernel, args)?;
        let mut params = vec![0u32; shader.params_size() as usize / 4];
        let mut formats = vec![Format::default(); shader.bindings.len()];
        let mut bindings = Vec::with_capacity(args.len());
        for (&name, arg) in kernel.uses.iter().zip(args) {
            let index = shader.binding(name);
            let number = index as u32 + 1;
            if let Some(output) = in_place(kernel, args).filter(|(input, _)| *input == name).map(|(_, output)| output) {
                formats[index].in_place = Some(shader.binding(output));
                continue;
            }
            let Some(tensor) = arg.tensor.filter(|tensor| tensor.rows * tensor.cols > 0) else {
                let (buffer, start, size) = self.gpu.absent(number, kernel.access(name));
                bindings.push(Binding { number, buffer: buffer.clone(), start, size });
                continue;
            };
            let (format, start, size) = self.placed(kernel, index, tensor, args);
            let most = self.gpu.limits().max_storage_buffer_binding_size;
            if size > most {
                let what = format!("{}.{}: {name}", shader.op, kernel.entry);
                return Err(Error::Limit { what, needed: size, unit: "bytes", limit: most });
            }
            formats[index] = format;
            params[2 * index] = ((tensor.start_bytes() - start) / tensor.storage.bytes()) as u32;
            params[2 * index + 1] = tensor.stride as u32;
            bindings.push(Binding { number, buffer: tensor.buffer.clone(), start, size });
        }
        let (needed, limit) = (bindings.len() as u64, self.gpu.limits().max_storage_buffers_per_shader_stage);
        if needed > limit.into() {
            let (what, unit) = (format!("{}.{}", shader.op, kernel.entry), "storage buffers");
            return Err(Error::Limit { what, needed, unit, limit: limit.into() });
        }
        if self.gpu.is_web() {
            apart(kernel, &bindings, shares_buffer)?;
        }
        let at = 2 * shader.bindings.len();
        for (index, size) in shape.into_iter().enumerate() {
            params[at + index] = size as u32;
        }
        for (index, (scalar, &(_name, ty))) in scalars.iter().zip(shader.scalars).enumerate() {
            debug_assert_eq!(matches!(scalar, Scalar::F32(_)), ty == ScalarType::F32, "{}: {_name}", shader.op);
            params[at + SHAPE.len() + index] = match *scalar {
                Scalar::U32(value) => value,
                Scalar::F32(value) => value.to_bits(),
            };
        }
        let pipeline = self.gpu.pipeline(kernel, constants, formats, shares_buffer)?;
        let work = ELEMENT.saturating_mul(shape[0] as u64).saturating_mul(shape[1] as u64);
        self.steps.push(Step { kernel, pipeline, bindings, params, groups, work });
        Ok(())
    }

    /// How a tensor's elements are accessed, and which part of its buffer is bound: start and size in bytes.
    fn placed(&self, kernel: &Kernel, index: usize, tensor: Tensor<u32>, args: &[Arg]) -> (Format, u64, u64) {
        let shader = kernel.shader;
        let (name, access, content) = shader.bindings[index];
        let first = tensor.start_bytes();
        let start = first - first % alignment(self.gpu.limits());
        let size = first + tensor.span_bytes() - start;
        let four = 4 * tensor.storage.bytes();
        let aligned = (first - start).is_multiple_of(four)
            && (tensor.rows == 1 || (tensor.stride as u64 * tensor.storage.bytes()).is_multiple_of(four))
            && start + size.next_multiple_of(four) <= tensor.buffer.size();
        // A word may hold the end of one output's row and the start of another's.
        let beside = |other: Tensor<u32>| other.buffer == tensor.buffer && !other.same(tensor);
        let outputs = kernel.uses.iter().zip(args).filter(|(name, _)| kernel.access(name) == Access::Write);
        let may_share = access == Access::Write && outputs.filter_map(|(_, arg)| arg.tensor).any(beside);
        let shares_words = tensor.storage != Storage::F32 && may_share;
        let quads = content == Content::Numbers && aligned && !shares_words && accessors::takes_quads(shader, index);
        let is_read = || access == Access::Read || in_place(kernel, args).is_some_and(|(_, output)| output == name);
        let reads_wide = |tuning: &Tuning| tuning.wide_reads || shader.family == Family::Tile || !is_read();
        let may_be_wide = quads && !may_share && accessors::takes_wide(shader, index);
        let wide = self.gpu.tuning().wide && may_be_wide && reads_wide(self.gpu.tuning());
        let unit = if quads { four } else { WORD };
        (Format { storage: tensor.storage, quads, wide, in_place: None }, start, size.next_multiple_of(unit))
    }

    /// Refuses an output that overlaps another argument. Returns whether some buffer is both read and written.
    pub(crate) fn check_overlaps(&self, kernel: &'static Kernel, args: &[Arg]) -> Result<bool> {
        let mut shares_buffer = false;
        let pair = in_place(kernel, args);
        let used: Vec<_> = kernel.uses.iter().zip(args).filter_map(|(&name, arg)| Some((name, arg.tensor?))).collect();
        for &(output, written) in used.iter().filter(|(name, _)| kernel.access(name) == Access::Write) {
            for &(other, tensor) in used.iter().filter(|(name, _)| *name != output && pair != Some((*name, output))) {
                if pair.is_some_and(|(input, _)| input == other) {
                    continue; // the same tensor as the output, which is compared itself
                }
                if written.overlaps(tensor) {
                    // What forward writes and backward reads is bound twice in a shader, the second time as
                    // `<name>_in`.
                    let other = other.trim_end_matches("_in");
                    return Err(Error::SameBuffer { op: kernel.shader.op, output, other });
                }
                shares_buffer |= kernel.access(other) == Access::Read && written.buffer == tensor.buffer;
            }
        }
        Ok(shares_buffer)
    }
}

/// Refuses what WebGPU refuses in a browser: bindings that share bytes, at least one of which is declared writable. With
/// `all_write` all of them are. Bindings begin at
/// multiples of the device's alignment, which may be before the tensors that they hold.
fn apart(kernel: &Kernel, bindings: &[Binding], all_write: bool) -> Result<()> {
    let name = |binding: &Binding| kernel.shader.bindings[binding.number as usize - 1].0;
    let written = |binding: &Binding| all_write || kernel.access(name(binding)) == Access::Write;
    for (index, a) in bindings.iter().enumerate().filter(|(_, binding)| written(binding)) {
        for b in bindings[..index].iter().filter(|b| written(b) && b.buffer == a.buffer) {
            if a.start < b.start + b.size && b.start < a.start + a.size {
                return Err(Error::TooClose { op: kernel.shader.op, one: name(b), other: name(a) });
            }
        }
    }
    Ok(())
}

/// `UNROLLED` of tile kernels.
fn unrolled(tuning: &Tuning) -> (&'static str, u32) {
    ("UNROLLED", tuning.unrolled.into())
}

/// Whether no row ends inside a group of four elements that a lane takes at a time: `NO_REST` of tile kernels.
fn ends_with_quads(kernel: &Kernel, args: &[Arg]) -> bool {
    let shader = kernel.shader;
    let by_four = |name| accessors::takes_quads(shader, shader.binding(name));
    kernel
        .uses
        .iter()
        .zip(args)
        .filter(|(name, _)| by_four(name))
        .all(|(_, arg)| arg.tensor.is_none_or(|tensor| tensor.cols.is_multiple_of(4)))
}

/// The input and the output that are one tensor, where the kernel allows it.
fn in_place(kernel: &Kernel, args: &[Arg]) -> Option<(&'static str, &'static str)> {
    let (input, output) = kernel.in_place?;
    let tensor = |name| kernel.uses.iter().zip(args).find(|(used, _)| **used == name).and_then(|(_, arg)| arg.tensor);
    tensor(input).zip(tensor(output)).is_some_and(|(input, output)| input.same(output)).then_some((input, output))
}

impl Step {
    pub(crate) fn bind_group(&self, gpu: &Gpu, params: &mut Params) -> wgpu::BindGroup {
        let device = gpu.device();
        let size = self.kernel.shader.params_size();
        let (page, offset) = params.slot(gpu, &self.params, size);
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
