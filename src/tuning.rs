/// Sizes that depend on the adapter. [`Gpu`](crate::Gpu) picks a row of this table; [`Gpu::with_tuning`](crate::Gpu::with_tuning) sets another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tuning {
    /// Lanes of a workgroup in kernels that work row by row or element by element; a power of two.
    pub workgroup: u32,
    /// The same in kernels that work row by row, where a subgroup has all lanes of a row and there is work for many such workgroups; a power of two.
    pub packed: u32,
    /// Lanes that may share one row, where there are rows enough; a power of two. The lanes hold the row between two passes over it if
    /// each has at most 16 of its elements.
    pub widest: u32,
    /// Lanes across a tile of a matrix product; each computes 4 columns.
    pub tile_x: u32,
    /// Lanes down a tile of a matrix product; each computes 16 rows.
    pub tile_y: u32,
    /// How many of the summed dimension a tile stages at once, a multiple of 8.
    pub tile_depth: u32,
    /// Whether what a lane does several times stands one after the other instead of in a loop, and cases have kernels of their own: fewer
    /// instructions where it runs, more to compile, which a software adapter takes long for.
    pub unrolled: bool,
    /// How many lanes of a row exchange values without workgroup memory, a power of two: at most what the device's subgroups hold at least; 1
    /// on devices without [`wgpu::Features::SUBGROUP`].
    pub subgroup: u32,
    /// Whether the lanes of a tile share its operands by subgroup operations instead of workgroup memory: for workgroups of 8 lanes, tiles of
    /// 8 × 1, where `subgroup` is 8.
    pub by_subgroup: bool,
    /// Workgroups that fill the device: a product with fewer tiles is split along the summed dimension.
    pub groups: u32,
    /// Whether aligned rows are read and written in numbers of eight bytes, on devices with `SHADER_INT64`.
    pub wide: bool,
    /// Largest workspace, in bytes, of an op that works in chunks.
    pub workspace: u64,
    /// Multiply-adds of one dispatch, and of one submit where long work is split, at most: a second's for the slowest such device.
    pub work: u64,
}

/// Vendors' numbers in PCI.
const NVIDIA: u32 = 0x10de;
const INTEL: u32 = 0x8086;
/// How the names of Apple's adapters begin, to which Metal gives no number.
const APPLE: &str = "Apple";

impl Tuning {
    /// A real GPU: wide workgroups, many of them.
    pub const GPU: Tuning = Tuning {
        workgroup: 256,
        packed: 256,
        widest: 1024,
        tile_x: 16,
        tile_y: 4,
        tile_depth: 16,
        unrolled: true,
        subgroup: 128,
        by_subgroup: false,
        wide: false,
        groups: 512,
        workspace: 64 << 20,
        work: 1 << 36,
    };

    /// NVIDIA: a tile of 128 × 128 reads half as much of its operands from memory as four of 64 × 64. On an H200 a product of 8,192 × 8,192 × 1,024
    /// took 4.1 ms; 4.6 with 64 × 64, 4.4 with 64 × 128, 4.5 with 128 × 64, 4.9 staged 8 deep. Of 1,024 lanes none has more than 64 registers: kl
    /// of 4,096 × 131,072 took 5.2 ms with these, 4.3 with 512.
    pub const NVIDIA: Tuning = Tuning { tile_x: 32, tile_y: 8, widest: 512, ..Tuning::GPU };

    /// Apple: a core has 208 KiB of registers at least (<https://rosenzweig.io/blog/asahi-gpu-part-3.html>), so that of 1,024 lanes each has 52, too few to hold
    /// its part of two rows, and of 512 each 104. Reasoned, not measured.
    pub const APPLE: Tuning = Tuning { widest: 512, ..Tuning::GPU };

    /// Intel: a thread has 128 registers of 32 bytes, for each of 16 lanes 64, for each of 8 all. A lane of a tile or of a held row needs about 100, so
    /// threads of 8 lanes, of which a subslice runs 64 to 128 (<https://oneapi-src.github.io/oneAPI-samples/Tools/GPU-Occupancy-Calculator>): 512 lanes
    /// run on all. Reasoned, not measured.
    pub const INTEL: Tuning = Tuning { widest: 512, ..Tuning::GPU };

    /// A software adapter: a workgroup of one subgroup needs no barrier between subgroups, which cost most there
    /// (llvmpipe runs them as coroutines: softmax 4096 x 4096 took 48 ms with 8 lanes, 122 ms with 256). Where a subgroup has
    /// a row, several rows pay once for a workgroup, half a microsecond: softmax 65,536 x 128 took 36 ms with workgroups of 8, 15 with 64, 18 with 128, normalize
    /// 35, 15 and 14. `sample`, whose lanes share nothing, took 290 ms with 8 and 420 with 64.
    pub const SOFTWARE: Tuning = Tuning {
        workgroup: 8,
        packed: 64,
        widest: 8,
        tile_x: 8,
        tile_y: 1,
        unrolled: false,
        subgroup: 8,
        by_subgroup: true,
        wide: true, // llvmpipe makes every load and store lane by lane, of four bytes or eight
        groups: 8,
        workspace: 32 << 20,
        work: 1 << 32, // llvmpipe with one core: 5 to 8 G a second
        ..Tuning::GPU
    };

    /// The row of the table for an adapter, before it is cut to what a device of it allows.
    ///
    /// An integrated GPU, but for Apple's, has few units, which fewer workgroups fill, and may multiply and add no more than 50 G times a second where
    /// an op uses a quarter of its peak (24 units of 8 lanes at 1 GHz): a third of a second is 2³⁴ of that.
    pub fn of(adapter: &wgpu::AdapterInfo) -> Tuning {
        let class = match (adapter.device_type, adapter.vendor) {
            (wgpu::DeviceType::Cpu, _) => return Tuning::SOFTWARE,
            _ if adapter.name.starts_with(APPLE) => return Tuning::APPLE,
            (_, NVIDIA) => Tuning::NVIDIA,
            (_, INTEL) => Tuning::INTEL,
            _ => Tuning::GPU,
        };
        match adapter.device_type {
            wgpu::DeviceType::IntegratedGpu => Tuning { groups: 128, work: 1 << 34, ..class },
            _ => class,
        }
    }

    pub(crate) fn for_device(device: &wgpu::Device) -> Tuning {
        Tuning::of(&device.adapter_info()).on(device)
    }

    /// The same sizes, cut to what a device allows.
    pub(crate) fn on(self, device: &wgpu::Device) -> Tuning {
        let has_subgroups = device.features().contains(wgpu::Features::SUBGROUP);
        let subgroup = if has_subgroups { self.subgroup.min(device.adapter_info().subgroup_min_size) } else { 1 };
        let wide = self.wide && device.features().contains(wgpu::Features::SHADER_INT64);
        Tuning { subgroup, wide, ..self }.within(&device.limits())
    }

    /// The same sizes, cut to what `limits` allow.
    pub fn within(mut self, limits: &wgpu::Limits) -> Tuning {
        let lanes = limits.max_compute_invocations_per_workgroup.min(limits.max_compute_workgroup_size_x).max(1);
        self.workgroup = 1 << self.workgroup.clamp(1, lanes).ilog2();
        self.packed = (1 << self.packed.clamp(1, lanes).ilog2()).max(self.workgroup);
        self.widest = (1 << self.widest.clamp(1, lanes).ilog2()).max(self.workgroup);
        // What lanes share of a line is joined in three rounds of eight at most.
        self.tile_x = self.tile_x.clamp(1, limits.max_compute_workgroup_size_x.clamp(1, 512));
        self.tile_y = self.tile_y.clamp(1, limits.max_compute_workgroup_size_y.clamp(1, 512));
        self.tile_depth = self.tile_depth.clamp(1, 1024).next_multiple_of(8);
        self.subgroup = 1 << self.subgroup.clamp(1, self.workgroup).ilog2();
        self.by_subgroup &= [self.workgroup, self.widest, self.tile_x, self.tile_y, self.subgroup] == [8, 8, 8, 1, 8];
        while self.tile_x * self.tile_y > lanes || self.tile_bytes() > limits.max_compute_workgroup_storage_size {
            match (self.tile_depth > 8, self.tile_x >= self.tile_y, self.tile_x.max(self.tile_y) > 1) {
                (true, ..) if self.tile_x * self.tile_y <= lanes => {
                    self.tile_depth = (self.tile_depth / 2).next_multiple_of(8)
                }
                (_, true, true) => self.tile_x /= 2,
                (_, false, true) => self.tile_y /= 2,
                _ => break,
            }
        }
        while self.row_bytes() > limits.max_compute_workgroup_storage_size && self.widest > 1 {
            self.widest /= 2;
            self.workgroup = self.workgroup.min(self.widest);
        }
        self.workspace = self.workspace.min(limits.max_storage_buffer_binding_size).min(limits.max_buffer_size);
        self
    }

    /// Workgroup memory of the widest row kernel: one pair of f32 for each group of lanes that exchange theirs otherwise.
    pub fn row_bytes(&self) -> u32 {
        (self.widest / self.subgroup.max(1)).saturating_mul(8)
    }

    /// Workgroup memory of a tile kernel: both staged operands, of eight k 32 vec4 for each lane down the tile and 9 for each across, and a pair of
    /// f32 for each lane and each of eight of its rows.
    pub fn tile_bytes(&self) -> u32 {
        let [x, y] = [self.tile_x, self.tile_y].map(u64::from);
        let staged = u64::from(self.tile_depth / 8) * (32 * y + 9 * x) * 16;
        let bytes = (64 * x * y).saturating_add(if self.by_subgroup { 0 } else { staged });
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }

    /// Rows and columns of a tile.
    pub fn tile(&self) -> [usize; 2] {
        [16 * self.tile_y as usize, 4 * self.tile_x as usize]
    }
}
