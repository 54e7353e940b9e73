//! What the host knows about a shader, as plain data.

/// The type of a scalar in a shader's `params`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScalarType {
    /// `u32`
    U32,
    /// `f32`
    F32,
}

/// Whether kernels write a binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// `var<storage, read>`
    Read,
    /// `var<storage, read_write>`
    Write,
}

/// What a binding holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Numbers. Their storage is the tensor's; the shader sees f32.
    Numbers,
    /// u32.
    Words,
    /// u32 counts that several threads (lanes) add to.
    Counters,
}

/// A storage binding of a shader: name, access and content.
pub type Binding = (&'static str, Access, Content);

/// Numbers that are read.
pub const fn input(name: &'static str) -> Binding {
    (name, Access::Read, Content::Numbers)
}

/// Numbers that are written, and may be read.
pub const fn output(name: &'static str) -> Binding {
    (name, Access::Write, Content::Numbers)
}

/// Ids that are read.
pub const fn ids(name: &'static str) -> Binding {
    (name, Access::Read, Content::Words)
}

/// Ids that are written.
pub const fn new_ids(name: &'static str) -> Binding {
    (name, Access::Write, Content::Words)
}

/// Counts that several lanes add to.
pub const fn counters(name: &'static str) -> Binding {
    (name, Access::Write, Content::Counters)
}

/// One shader file joined with the library files that it uses. `src/accessors.rs` declares what the file reads and
/// writes: `params`, the bindings (`bindings[i]` has number `i + 1`) and the functions that load and store their
/// elements.
#[derive(Debug)]
pub struct Shader {
    /// The op's name, which is the file's name too.
    pub op: &'static str,
    /// The file, then the library files.
    pub source: &'static str,
    /// Every storage binding of the file.
    pub bindings: &'static [Binding],
    /// The scalars that follow the shape in `params`.
    pub scalars: &'static [(&'static str, ScalarType)],
    /// The kind of workgroup that the file declares.
    pub family: Family,
}

/// How a shader's workgroups are shaped. This decides the shader's `override` constants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `WG` lanes, `LANES` of them for each row.
    Rows,
    /// `TX` × `TY` lanes for one tile of a matrix product, staged `BK` deep.
    Tile,
}

/// One entry point of a shader.
#[derive(Debug)]
pub struct Kernel {
    /// The file.
    pub shader: &'static Shader,
    /// The function's name.
    pub entry: &'static str,
    /// The bindings that it uses, in the order of the arguments.
    pub uses: &'static [&'static str],
    /// An input and an output that may be the same tensor. That is safe because each lane reads an element before it
    /// overwrites it.
    pub in_place: Option<(&'static str, &'static str)>,
}

/// What every shader's `params` hold after the bindings' offsets and strides.
pub const SHAPE: [&str; 4] = ["rows", "cols", "segments", "per_segment"];

/// The last number of `params`. It is 0, but no compiler knows that: see `opaque4` in lib/math.wgsl.
pub const ZERO: &str = "zero";

impl Shader {
    /// Bytes of `params`, rounded up to a multiple of 16, as uniform buffers need.
    pub fn params_size(&self) -> u64 {
        (4 * (2 * self.bindings.len() + SHAPE.len() + self.scalars.len() + 1) as u64).next_multiple_of(16)
    }

    /// The index of a binding in `bindings`; kernels name only bindings of their shader (a test checks it).
    pub fn binding(&self, name: &str) -> usize {
        self.bindings.iter().position(|binding| binding.0 == name).unwrap_or(0)
    }
}

impl Kernel {
    /// How the kernel accesses the binding.
    pub fn access(&self, name: &str) -> Access {
        self.shader.bindings[self.shader.binding(name)].1
    }
}

/// Joins an op's shader file with library files; the op file comes first, so that line numbers in errors are its own.
macro_rules! wgsl {
    ($op:literal $(, $lib:literal)*) => {
        concat!(
            include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/", $op, ".wgsl"))
            $(, "\n", include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/lib/", $lib, ".wgsl")))*
        )
    };
}
pub(crate) use wgsl;
