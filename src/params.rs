use crate::Gpu;

/// Bytes of a page.
const PAGE: u64 = 16 << 10;

/// The parameters of the dispatches that a recorder records, in uniform buffers (pages). Each dispatch has a slot of
/// its own: if a slot were written twice before one submit, both dispatches would see the last value.
#[derive(Debug, Default)]
pub(crate) struct Params {
    page: Option<Page>,
}

#[derive(Debug)]
struct Page {
    buffer: wgpu::Buffer,
    used: u64,
    /// Bytes of the slots from byte `written` on that are not yet handed to the queue. Those of one op are written in
    /// one call, since each write has a cost.
    pending: Vec<u8>,
    written: u64,
}

impl Params {
    /// A slot of `size` bytes for `params`: its page, and its offset in the page.
    pub(crate) fn slot(&mut self, gpu: &Gpu, params: &[u32], size: u64) -> (&wgpu::Buffer, u64) {
        if let Some(mut full) = self.page.take_if(|page| page.used + size > PAGE) {
            full.write(gpu);
        }
        let page = self.page.get_or_insert_with(|| Page::new(gpu));
        let offset = page.used;
        page.pending.resize((offset - page.written) as usize, 0);
        page.pending.extend_from_slice(bytemuck::cast_slice(params));
        let alignment = gpu.limits().min_uniform_buffer_offset_alignment.into();
        page.used = (offset + 4 * params.len() as u64).next_multiple_of(alignment);
        (&page.buffer, offset)
    }

    /// Hands the pending bytes to the queue, before the dispatches that read them are submitted.
    pub(crate) fn write(&mut self, gpu: &Gpu) {
        self.page.iter_mut().for_each(|page| page.write(gpu));
    }
}

impl Page {
    fn new(gpu: &Gpu) -> Page {
        let buffer = gpu.device().create_buffer(&wgpu::BufferDescriptor {
            label: Some("wgloss.params"),
            size: PAGE,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        Page { buffer, used: 0, pending: Vec::new(), written: 0 }
    }

    fn write(&mut self, gpu: &Gpu) {
        if self.pending.is_empty() {
            return;
        }
        gpu.queue().write_buffer(&self.buffer, self.written, &self.pending);
        self.pending.clear();
        self.written = self.used;
    }
}
