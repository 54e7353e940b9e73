//! What the host knows about a shader, as plain data. A test compares it with what naga reads from the source.

/// The type of a scalar in a shader's `Params`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScalarType {
    /// `u32`
    U32,
    /// `f32`
    F32,
}

/// Whether an entry point writes a binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// `var<storage, read>`
    Read,
    /// `var<storage, read_write>`
    Write,
}

/// One shader file joined with the library files that it uses.
///
/// `Params`, the uniform at binding 0, holds `<name>_offset` and `<name>_stride` for each of `bindings` and then `scalars`.
/// The storage binding `bindings[i]` has number `i + 1`.
#[derive(Debug)]
pub struct Shader {
    /// The op's name, which is the file's name too.
    pub op: &'static str,
    /// The file, then the library files.
    pub source: &'static str,
    /// Every storage binding of the file.
    pub bindings: &'static [&'static str],
    /// What follows the offsets and strides in `Params`.
    pub scalars: &'static [(&'static str, ScalarType)],
    /// The kind of workgroup that it declares.
    pub family: Family,
}

/// How a shader's workgroups are shaped, which decides its `override` constants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `WG` lanes, `LANES` of them to a row.
    Rows,
    /// `TX` × `TY` lanes on one tile of a matrix product, staged `BK` deep.
    Tile,
}

/// One entry point.
#[derive(Debug)]
pub struct Kernel {
    /// The file.
    pub shader: &'static Shader,
    /// The function's name.
    pub entry: &'static str,
    /// The bindings that it uses, in the order of the arguments.
    pub uses: &'static [(&'static str, Access)],
}

impl Shader {
    /// The source with every storage binding `read_write`, which wgpu asks for when an input and an output lie in one buffer.
    pub fn all_write(&self) -> String {
        self.source.replace("var<storage, read>", "var<storage, read_write>")
    }

    /// Bytes of `Params`, rounded up to the 16 that uniforms come in.
    pub fn params_size(&self) -> u64 {
        (4 * (2 * self.bindings.len() + self.scalars.len()) as u64).next_multiple_of(16)
    }
}

impl Kernel {
    /// The binding's number in the shader; `uses` names only bindings of its shader (a test checks it).
    pub fn binding(&self, name: &str) -> u32 {
        self.shader.bindings.iter().position(|binding| *binding == name).map_or(0, |index| index as u32 + 1)
    }
}

/// Joins an op's shader file with library files; the op file comes first, so that line numbers in errors are its own.
macro_rules! wgsl {
    ($op:literal $(, $lib:literal)*) => {
        concat!(
            include_str!(concat!("../../shaders/", $op, ".wgsl"))
            $(, "\n", include_str!(concat!("../../shaders/lib/", $lib, ".wgsl")))*
        )
    };
}
pub(crate) use wgsl;
