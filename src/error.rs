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
        /// The shape that came.
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
        /// The value that came.
        found: String,
    },
    /// A row of factors that its observations and the regularization do not determine.
    #[error(
        "the observations of {side} {row} should be such that they and the regularization determine its factor, found {found}; a larger regularization \
         helps, or a smaller dim"
    )]
    Undetermined {
        /// `user` or `item`.
        side: &'static str,
        /// Its number.
        row: usize,
        /// What says so.
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
        /// Elements before the first.
        offset: usize,
        /// Bytes that the view reaches to.
        needed: u64,
        /// Bytes that the buffer has.
        size: u64,
    },
    /// An output overlaps another argument; wgpu would accept it and the result would depend on timing.
    #[error("{op}: output {output} overlaps {other} in one buffer")]
    SameBuffer {
        /// The op that refused.
        op: &'static str,
        /// The output.
        output: &'static str,
        /// The argument that it overlaps.
        other: &'static str,
    },
    /// Two arguments, of which one is written, lie in one buffer and too near to each other for a browser, where no two such bindings may share bytes and
    /// each begins at a multiple of the device's `min_storage_buffer_offset_alignment`, 256 bytes in most.
    #[error(
        "{op}: {one} and {other} lie in one buffer; in a browser they should begin at multiples of 256 bytes, or have a buffer each"
    )]
    TooClose {
        /// The op that refused.
        op: &'static str,
        /// The one.
        one: &'static str,
        /// The other.
        other: &'static str,
    },
    /// A buffer was made without a usage that the call needs.
    #[error("the buffer lacks usage {usage}")]
    Usage {
        /// The missing `wgpu::BufferUsages`.
        usage: &'static str,
    },
    /// A size exceeds what this device allows, in a way that no splitting can help.
    #[error("{what} needs {needed} {unit}, this device allows {limit}")]
    Limit {
        /// The thing that is too large.
        what: String,
        /// What it needs.
        needed: u64,
        /// Bytes, workgroups and the like.
        unit: &'static str,
        /// What there is.
        limit: u64,
    },
    /// What watched long work ended it.
    #[error("{op} was cancelled between two submits: its results are not complete")]
    Cancelled {
        /// The op that was being computed.
        op: &'static str,
    },
    /// The device has no memory left.
    #[error("the device is out of memory: {message}")]
    OutOfMemory {
        /// The driver's words.
        message: String,
    },
    /// The device is gone (removed, reset by the system after a hang, or destroyed). A new [`Gpu`](crate::Gpu) can be opened.
    #[error("the device was lost: {message}")]
    DeviceLost {
        /// The driver's words.
        message: String,
    },
    /// No adapter fits the request.
    #[error("no adapter: {message}")]
    NoAdapter {
        /// What was asked for and what there is.
        message: String,
    },
    /// wgpu or the driver refused a call; results of earlier work on this device are not to be trusted.
    #[error("the device reported an error: {message}")]
    Device {
        /// wgpu's words.
        message: String,
    },
    /// Data for training or evaluation cannot be used.
    #[error("{what} should be {expected}, found {found}")]
    Data {
        /// The data.
        what: String,
        /// What would do.
        expected: String,
        /// What came.
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
