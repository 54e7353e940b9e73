/// Sizes that depend on the adapter.
///
/// [`Gpu`](crate::Gpu) picks one of the constants below ([`Tuning::of`]); [`Gpu::with_tuning`](crate::Gpu::with_tuning)
/// sets other sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tuning {
    /// Workgroup size, in threads (lanes), of kernels that work row by row or element by element; a power of two.
    pub workgroup: u32,
    /// Workgroup size for row kernels when one subgroup covers a row and there are many rows; a power of two.
    pub packed: u32,
    /// The most lanes that share one row, where there are many rows; a power of two. If each lane has at most 16 of the
    /// row's elements, the lanes hold the row between two passes over it.
    pub widest: u32,
    /// Lanes across a tile of a matrix product; each computes 4 columns.
    pub tile_x: u32,
    /// Lanes down a tile of a matrix product; each computes 16 rows.
    pub tile_y: u32,
    /// How many steps of the summed dimension a tile stages at once; a multiple of 8.
    pub tile_depth: u32,
    /// Unroll loops with a fixed number of rounds, and compile pipelines of their own for special cases. The kernels
    /// then execute fewer instructions but take longer to compile, very long on a software adapter.
    pub unrolled: bool,
    /// Lanes of a row that exchange values by subgroup operations, a power of two; at most the device's
    /// `subgroup_min_size`; 1 on devices without [`wgpu::Features::SUBGROUP`].
    pub subgroup: u32,
    /// Whether the lanes of a tile share its operands by subgroup operations instead of workgroup memory. Only for
    /// workgroups of 8 lanes and tiles of 8 × 1 lanes, where `subgroup` is 8.
    pub by_subgroup: bool,
    /// Number of workgroups that fill the device. A product with fewer tiles is split along the summed dimension.
    pub groups: u32,
    /// Whether aligned rows are read and written as integers of eight bytes. Only on devices with `SHADER_INT64`.
    pub wide: bool,
    /// Whether row kernels also read rows this way, not only write them.
    pub wide_reads: bool,
    /// The largest workspace, in bytes, of an op that works in chunks.
    pub workspace: u64,
    /// The most multiply-adds in one dispatch and, where long work is split, in one submit: at most about a second's
    /// work for the slowest device of its class.
    pub work: u64,
}

/// PCI vendor ids.
const NVIDIA: u32 = 0x10de;
const INTEL: u32 = 0x8086;
/// The beginning of the names of Apple's adapters. Metal reports no vendor id for them.
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
        wide_reads: false,
        groups: 512,
        workspace: 64 << 20,
        work: 1 << 36,
    };

    /// NVIDIA: tiles of 128 × 128, and at most 512 lanes for a row.
    ///
    /// A tile of 128 × 128 reads half as much of its operands from memory as four tiles of 64 × 64. On an H200 a
    /// product of 8,192 × 8,192 × 1,024 took 4.1 ms with these sizes, 4.6 ms with 64 × 64, 4.4 ms with 64 × 128, 4.5 ms
    /// with 128 × 64 and 4.9 ms staged 8 deep.
    ///
    /// In a workgroup of 1,024 lanes no lane has more than 64 registers: kl of 4,096 × 131,072 took 5.2 ms with 1,024
    /// lanes, 4.3 ms with 512.
    pub const NVIDIA: Tuning = Tuning { tile_x: 32, tile_y: 8, widest: 512, ..Tuning::GPU };

    /// Apple: at most 512 lanes for a row.
    ///
    /// A core has at least 208 KiB of registers (<https://rosenzweig.io/blog/asahi-gpu-part-3.html>). With 1,024 lanes
    /// each lane has 52 registers, too few to hold its part of two rows; with 512 lanes each has 104. Reasoned, not
    /// measured.
    pub const APPLE: Tuning = Tuning { widest: 512, ..Tuning::GPU };

    /// Intel: at most 512 lanes for a row.
    ///
    /// A thread has 128 registers of 32 bytes: 64 numbers for each of 16 lanes, or 128 for each of 8 lanes. A lane of a
    /// tile or of a held row needs about 100, so threads have 8 lanes. A subslice runs 64 to 128 threads
    /// (<https://oneapi-src.github.io/oneAPI-samples/Tools/GPU-Occupancy-Calculator>), so that 512 lanes run on every
    /// one. Reasoned, not measured.
    pub const INTEL: Tuning = Tuning { widest: 512, ..Tuning::GPU };

    /// A software adapter: workgroups of one subgroup.
    ///
    /// They need no barrier between subgroups, which costs most there: llvmpipe runs kernels with barriers as
    /// coroutines. Softmax of 4,096 x 4,096 took 48 ms with 8 lanes, 122 ms with 256.
    ///
    /// Where a subgroup covers a row, several rows share the cost of a workgroup, half a microsecond. Softmax of 65,536
    /// x 128 took 36 ms with workgroups of 8, 15 ms with 64 and 18 ms with 128; normalize took 35, 15 and 14 ms.
    /// `sample`, whose lanes share nothing, took 290 ms with 8 and 420 ms with 64.
    pub const SOFTWARE: Tuning = Tuning {
        workgroup: 8,
        packed: 64,
        widest: 8,
        tile_x: 8,
        tile_y: 1,
        unrolled: false,
        subgroup: 8,
        by_subgroup: true,
        wide: true, // llvmpipe loads and stores lane by lane, four bytes or eight at a time
        wide_reads: true,
        groups: 8,
        workspace: 32 << 20,
        work: 1 << 32, // llvmpipe on one core: 5 to 8 G multiply-adds a second
        ..Tuning::GPU
    };

    /// The constant for an adapter, before it is cut to what a device of that adapter allows.
    ///
    /// Integrated GPUs, except Apple's, have few units, so fewer workgroups fill them. They may do no more than 50 G
    /// multiply-adds a second in an op that reaches a quarter of their peak (24 units of 8 lanes at 1 GHz). 2³⁴
    /// multiply-adds are then a third of a second.
    pub fn of(adapter: &wgpu::AdapterInfo) -> Tuning {
        let class = match (adapter.device_type, adapter.vendor) {
            (wgpu::DeviceType::Cpu, _) => {
                return Tuning { wide_reads: !reads_are_gathered(&adapter.name), ..Tuning::SOFTWARE };
            }
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
        Tuning { subgroup, wide, wide_reads: wide && self.wide_reads, ..self }.within(&device.limits())
    }

    /// The same sizes, cut to what `limits` allow.
    pub fn within(mut self, limits: &wgpu::Limits) -> Tuning {
        let lanes = limits.max_compute_invocations_per_workgroup.min(limits.max_compute_workgroup_size_x).max(1);
        self.workgroup = 1 << self.workgroup.clamp(1, lanes).ilog2();
        self.packed = (1 << self.packed.clamp(1, lanes).ilog2()).max(self.workgroup);
        self.widest = (1 << self.widest.clamp(1, lanes).ilog2()).max(self.workgroup);
        // The lanes of a line (a row or a column of the tile) join their results in at most three rounds of eight.
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

    /// Workgroup memory of the widest row kernel, in bytes: a pair of f32 for each group of lanes that exchange their
    /// values by subgroup operations.
    pub fn row_bytes(&self) -> u32 {
        (self.widest / self.subgroup.max(1)).saturating_mul(8)
    }

    /// Workgroup memory of a tile kernel, in bytes: both staged operands, and a pair of f32 for each lane and each of
    /// eight of its rows. For every eight steps of the summed dimension, the operands take 32 vec4 for each lane down
    /// the tile and 9 for each lane across.
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

/// Whether llvmpipe, whose name tells the width of its vectors, compiles reads of eight bytes to slow code.
///
/// With vectors of 256 bits on a processor with AVX-512 (AMD Zen 5, Mesa 25.0.7, LLVM 15) sigmoid of 4,096 x 4,096 took
/// 54 ms of CPU time with wide reads and 19 ms without, softmax 50 and 32 ms, l2 57 and 25 ms. Products read their
/// operands faster with wide reads all the same. With AVX alone or vectors of 128 or 512 bits, wide reads took 0.8 to 1.0
/// of the time.
fn reads_are_gathered(name: &str) -> bool {
    #[cfg(target_arch = "x86_64")]
    let has_avx512 = std::is_x86_feature_detected!("avx512f");
    #[cfg(not(target_arch = "x86_64"))]
    let has_avx512 = false;
    has_avx512 && name.starts_with("llvmpipe") && name.contains("256 bits")
}
