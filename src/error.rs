/// What can go wrong. Every message says where, what was expected and what was found.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Two arguments do not fit together.
    #[error("{op}: {what} should be {expected}, found {found}")]
    Shape {
        /// The op that refused.
        op: &'static str,
        /// The argument.
        what: &'static str,
        /// The shape that would fit.
        expected: String,
        /// The shape that was found.
        found: String,
    },
    /// An option lies outside its range.
    #[error("{op}: {option} should be {expected}, found {found}")]
    Option {
        /// The op that refused.
        op: &'static str,
        /// The option.
        option: &'static str,
        /// Its range.
        expected: &'static str,
        /// The value that was found.
        found: String,
    },
    /// The observations of a user or an item do not determine its factor, even with the regularization.
    #[error(
        "the observations of {side} {row} should be such that they and the regularization determine its factor, found {found}; a larger regularization \
         helps, or a smaller dim"
    )]
    Undetermined {
        /// `user` or `item`.
        side: &'static str,
        /// The number of the user or item.
        row: usize,
        /// What was found: the number of observations, or a system that is singular or not finite.
        found: String,
    },
    /// A view reaches past the end of its buffer.
    #[error(
        "a view of {rows} x {cols}, stride {stride}, offset {offset} (in elements) needs {needed} bytes, the buffer has {size}"
    )]
    OutOfBounds {
        /// Rows of the view.
        rows: usize,
        /// Columns of the view.
        cols: usize,
        /// Elements from one row to the next.
        stride: usize,
        /// Elements before the view's first element.
        offset: usize,
        /// Bytes from the buffer's start to the view's end.
        needed: u64,
        /// The size of the buffer in bytes.
        size: u64,
    },
    /// An output overlaps another argument, so that the result would depend on timing.
    ///
    /// wgpu does not report every such overlap: it accepts overlapping bindings where all of them are declared
    /// `read_write`.
    #[error("{op}: output {output} overlaps {other} in one buffer")]
    SameBuffer {
        /// The op that refused.
        op: &'static str,
        /// The output.
        output: &'static str,
        /// The argument that it overlaps.
        other: &'static str,
    },
    /// In a browser: two arguments of which at least one is written lie too close to each other in one buffer. Two
    /// arguments that are only read count too, if an output of the same call lies in one buffer with an input.
    ///
    /// In a browser two such bindings may not share bytes, and each begins at a multiple of the device's
    /// `min_storage_buffer_offset_alignment`, 256 bytes on most devices.
    #[error(
        "{op}: {one} and {other} lie in one buffer; in a browser they should begin at multiples of 256 bytes, or have a buffer each"
    )]
    TooClose {
        /// The op that refused.
        op: &'static str,
        /// One of the two arguments.
        one: &'static str,
        /// The other argument.
        other: &'static str,
    },
    /// The buffer lacks a usage that the call needs.
    #[error("the buffer lacks usage {usage}")]
    Usage {
        /// The missing `wgpu::BufferUsages`.
        usage: &'static str,
    },
    /// A size exceeds what this device allows, and splitting the work cannot help.
    #[error("{what} needs {needed} {unit}, this device allows {limit}")]
    Limit {
        /// The thing that is too large.
        what: String,
        /// How much it needs.
        needed: u64,
        /// The unit: bytes, workgroups and the like.
        unit: &'static str,
        /// How much the device allows.
        limit: u64,
    },
    /// The callback that watches long work ended it ([`Gpu::run_watched`](crate::Gpu::run_watched)).
    #[error("{op} was cancelled between two submits: its results are not complete")]
    Cancelled {
        /// The op that was being computed.
        op: &'static str,
    },
    /// The device has no memory left.
    #[error("the device is out of memory: {message}")]
    OutOfMemory {
        /// The message of the driver or of wgpu.
        message: String,
    },
    /// The device is gone: removed, reset by the system after a hang, or destroyed. A new [`Gpu`](crate::Gpu) can be
    /// opened.
    #[error("the device was lost: {message}")]
    DeviceLost {
        /// The message of the driver or of wgpu.
        message: String,
    },
    /// No adapter fits the request.
    #[error("no adapter: {message}")]
    NoAdapter {
        /// What was asked for and what there is.
        message: String,
    },
    /// wgpu or the driver refused a call. Results of earlier work on this device cannot be trusted.
    #[error("the device reported an error: {message}")]
    Device {
        /// The message of wgpu.
        message: String,
    },
    /// Data for training or evaluation cannot be used.
    #[error("{what} should be {expected}, found {found}")]
    Data {
        /// The data.
        what: String,
        /// What would be accepted.
        expected: String,
        /// What was found.
        found: String,
    },
}

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = core::result::Result<T, E>;

impl From<wgpu::Error> for Error {
    fn from(error: wgpu::Error) -> Self {
        match error {
            wgpu::Error::OutOfMemory { source } => Error::OutOfMemory { message: source.to_string() },
            other => Error::Device { message: other.to_string() },
        }
    }
}
