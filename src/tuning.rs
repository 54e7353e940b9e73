/// Sizes that depend on the adapter. [`Gpu`](crate::Gpu) picks a row of this table; [`Gpu::with_tuning`](crate::Gpu::with_tuning) sets another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tuning {
    /// Lanes of a workgroup in kernels that work row by row or element by element; a power of two.
    pub workgroup: u32,
    /// Lanes that may share one row, where there are rows enough; a power of two. The lanes hold the row between two passes over it if
    /// each has at most 16 of its elements.
    pub widest: u32,
    /// Lanes across a tile of a matrix product; each computes 8 columns.
    pub tile_x: u32,
    /// Lanes down a tile of a matrix product; each computes 8 rows.
    pub tile_y: u32,
    /// How many of the summed dimension a tile stages at once.
    pub tile_depth: u32,
    /// Workgroups that fill the device: a product with fewer tiles is split along the summed dimension.
    pub groups: u32,
    /// Largest workspace, in bytes, of an op that works in chunks.
    pub workspace: u64,
}

impl Tuning {
    /// A real GPU: wide workgroups, many of them.
    pub const GPU: Tuning =
        Tuning { workgroup: 256, widest: 1024, tile_x: 8, tile_y: 8, tile_depth: 16, groups: 512, workspace: 64 << 20 };

    /// A software adapter: a workgroup of one subgroup needs no barrier between subgroups, which cost most there
    /// (llvmpipe runs them as coroutines: softmax 4096 x 4096 took 48 ms with 8 lanes, 122 ms with 256).
    pub const SOFTWARE: Tuning = Tuning { workgroup: 8, widest: 8, groups: 8, ..Tuning::GPU };

    /// The row of the table for an adapter, cut to what the device allows.
    pub fn for_adapter(info: &wgpu::AdapterInfo, limits: &wgpu::Limits) -> Tuning {
        let table = if info.device_type == wgpu::DeviceType::Cpu { Tuning::SOFTWARE } else { Tuning::GPU };
        table.within(limits)
    }

    /// The same sizes, cut to what `limits` allow.
    pub fn within(mut self, limits: &wgpu::Limits) -> Tuning {
        let lanes = limits.max_compute_invocations_per_workgroup.min(limits.max_compute_workgroup_size_x).max(1);
        self.workgroup = 1 << self.workgroup.clamp(1, lanes).ilog2();
        self.widest = (1 << self.widest.clamp(1, lanes).ilog2()).max(self.workgroup);
        self.tile_x = self.tile_x.clamp(1, limits.max_compute_workgroup_size_x.max(1));
        self.tile_y = self.tile_y.clamp(1, limits.max_compute_workgroup_size_y.max(1));
        while self.tile_x * self.tile_y > lanes || self.tile_bytes() > limits.max_compute_workgroup_storage_size {
            match (self.tile_depth > 4, self.tile_x >= self.tile_y, self.tile_x.max(self.tile_y) > 1) {
                (true, ..) if self.tile_x * self.tile_y <= lanes => self.tile_depth /= 2,
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

    /// Workgroup memory of the widest row kernel: one pair of f32 a lane.
    pub fn row_bytes(&self) -> u32 {
        self.widest * 8
    }

    /// Workgroup memory of a tile kernel: both staged operands (rows padded by one vec4), and a pair of f32 for each
    /// lane and each of its 8 rows or columns.
    pub fn tile_bytes(&self) -> u32 {
        self.tile_depth * (2 * self.tile_x + 1 + 2 * self.tile_y + 1) * 16 + 64 * self.tile_x * self.tile_y
    }
}
