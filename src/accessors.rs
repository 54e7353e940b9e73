//! The WGSL that declares a shader's parameters and bindings, and that loads and stores elements in the storage of
//! their tensors.
//!
//! For a binding `x` of numbers, a shader gets those of these functions that it calls:
//! - `load_x(i, j) -> f32`, `store_x(i, j, value)`: one element;
//! - `load_x4(i, j, end, none) -> vec4<f32>`, `store_x4(i, j, end, values)`: four neighbours from column j on. Columns
//!   from `end` on load as `none` and are not stored;
//! - `load_x16(i, j, end, none) -> mat4x4<f32>`, `store_x16(i, j, end, values)`: four times four neighbours, from
//!   columns j, j + HOP, j + 2 HOP and j + 3 HOP. HOP is 4 LANES, so that the threads (lanes) of a row access
//!   neighbouring addresses. Where rows have NO_REST (lib/row.wgsl), one comparison of the first column with `end`
//!   tells whether all 16 are there;
//! - `load_x16_whole(i, j) -> mat4x4<f32>`: the same without a comparison, for a row that exists and whose lanes take
//!   16 columns each;
//! - `load_x4x4(i, j, rows, end) -> mat4x4<f32>`: four neighbours of each of the rows i to i + 3; 0 from row `rows` and
//!   from column `end` on.
//!
//! A binding of ids or counts has `load_x`, `store_x` and `add_x` with u32. WGSL has neither generics nor pointers to
//! storage as arguments, so every binding needs functions of its own. Written by hand they would be the larger part of
//! each file.

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::kernel::{Access, Binding, Content, Family, SHAPE, ScalarType, Shader, ZERO};
use crate::ops::kernels;
use crate::tensor::Storage;

/// How the elements of one binding lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Format {
    /// The storage, for a binding of numbers.
    pub storage: Storage,
    /// Rows start at multiples of four elements and the binding ends at one: four elements (a quad) are read and
    /// written at once.
    pub quads: bool,
    /// Quads are read and written as integers of eight bytes.
    pub wide: bool,
    /// The index of the output that is the same tensor. This binding is then not declared.
    pub in_place: Option<usize>,
}

impl Format {
    fn half(self) -> bool {
        self.storage != Storage::F32
    }

    fn element(self) -> &'static str {
        match (self.half(), self.quads, self.wide) {
            (false, false, _) => "f32",
            (false, true, false) => "vec4<f32>",
            (false, true, true) => "vec2<u64>",
            (true, false, _) => "u32",
            (true, true, false) => "vec2<u32>",
            (true, true, true) => "u64",
        }
    }
}

/// How each shader (by its op) accesses each of its bindings. The sources are searched only once, because every
/// dispatch asks.
static TAKES: LazyLock<HashMap<&'static str, Vec<Takes>>> = LazyLock::new(|| {
    let shaders = kernels().into_iter().map(|kernel| kernel.shader);
    shaders
        .map(|shader| (shader.op, shader.bindings.iter().map(|&binding| Takes::of(shader, binding)).collect()))
        .collect()
});

#[derive(Debug, Clone, Copy)]
struct Takes {
    quads: bool,
    wide: bool,
}

impl Takes {
    fn of(shader: &Shader, (name, access, _): Binding) -> Self {
        let either = |width: &&str| calls(shader, "load", name, width) || calls(shader, "store", name, width);
        let quads = ["4", "16", "16_whole", "4x4"].iter().any(either);
        Takes { quads, wide: quads && !(access == Access::Write && stores_single(shader, name)) }
    }
}

/// Whether the shader accesses four elements of the binding at a time.
pub fn takes_quads(shader: &Shader, index: usize) -> bool {
    TAKES.get(shader.op).is_some_and(|takes| takes[index].quads)
}

/// Whether it may access them as integers of eight bytes. Not where lanes store single elements, because one such
/// integer holds two of them.
pub fn takes_wide(shader: &Shader, index: usize) -> bool {
    TAKES.get(shader.op).is_some_and(|takes| takes[index].wide)
}

/// Whether lanes store single elements, so that two of them may share a word.
fn stores_single(shader: &Shader, name: &str) -> bool {
    calls(shader, "store", name, "")
}

fn calls(shader: &Shader, verb: &str, name: &str, suffix: &str) -> bool {
    shader.source.contains(&format!("{verb}_{name}{suffix}("))
}

/// What a shader is built for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Build {
    /// The formats of all bindings.
    pub formats: Vec<Format>,
    /// Every binding is declared `read_write`, which wgpu requires when an input and an output lie in one buffer.
    pub all_write: bool,
    /// Whether the lanes of a row exchange values by subgroup operations; see [`Tuning`](crate::Tuning).
    pub subgroups: bool,
    /// Whether the lanes of a tile do.
    pub by_subgroup: bool,
}

/// The whole source of a shader.
pub fn source(shader: &Shader, build: &Build) -> String {
    let Build { formats, all_write, subgroups, by_subgroup } = build;
    let mut source = shader.source.to_owned();
    source += if *subgroups { ROW_SUBGROUP } else { ROW_WORKGROUP };
    source += match (shader.family, *by_subgroup) {
        (Family::Rows, _) => "",
        (Family::Tile, true) => TILE_SUBGROUP,
        (Family::Tile, false) => TILE_WORKGROUP,
    };
    source += "\n// src/accessors.rs\n\n";
    source += &params(shader);
    for (index, &(name, access, content)) in shader.bindings.iter().enumerate() {
        let format = formats[index];
        if format.in_place.is_none() {
            let mode = if access == Access::Read && !*all_write { "read" } else { "read_write" };
            let element = match content {
                Content::Numbers if shares_words(shader, index, format) => "atomic<u32>",
                Content::Numbers => format.element(),
                Content::Words => "u32",
                Content::Counters => "atomic<u32>",
            };
            let number = index + 1;
            source +=
                &format!("@group(0) @binding({number}) var<storage, {mode}> {}: array<{element}>;\n\n", array(name));
        }
        let partner = format.in_place.unwrap_or(index);
        let text = match content {
            Content::Numbers => numbers(shader, index, partner, formats[partner]),
            Content::Words | Content::Counters => words(shader, name, content),
        };
        source += &text.replace("HOP", "(4u * LANES)");
    }
    if formats.iter().any(|format| format.wide) {
        source += WIDE;
    }
    for (storage, library) in [(Storage::F16, F16), (Storage::Bf16, BF16)] {
        if formats.iter().any(|format| format.storage == storage) {
            source += library;
        }
    }
    source
}

/// Whether lanes store elements of 16 bits one by one. Each lane then changes its half of the word by atomic and, or.
fn shares_words(shader: &Shader, index: usize, format: Format) -> bool {
    let (name, access, _) = shader.bindings[index];
    format.half() && access == Access::Write && (stores_single(shader, name) || !format.quads)
}

/// The name of a binding in WGSL. It is not the name of the tensor, because `dx` is a namespace to DXC, Direct3D's
/// compiler, which has the ray tracing functions in it.
fn array(name: &str) -> String {
    format!("{name}_array")
}

fn params(shader: &Shader) -> String {
    let mut members: Vec<(String, &str)> = Vec::new();
    for (name, ..) in shader.bindings {
        members.extend([(format!("{name}_offset"), "u32"), (format!("{name}_stride"), "u32")]);
    }
    members.extend(SHAPE.map(|name| (name.to_owned(), "u32")));
    for &(name, ty) in shader.scalars {
        members.push((name.to_owned(), if ty == ScalarType::U32 { "u32" } else { "f32" }));
    }
    members.push((ZERO.to_owned(), "u32"));
    let lines: String = members.iter().map(|(name, ty)| format!("    {name}: {ty},\n")).collect();
    format!("struct Params {{\n{lines}}}\n@group(0) @binding(0) var<uniform> params: Params;\n\n")
}

fn words(shader: &Shader, name: &str, content: Content) -> String {
    let counts = content == Content::Counters;
    let mut text = AT.to_owned();
    let mut function = |verb: &str, plain: &str, atomic: &str| {
        if calls(shader, verb, name, "") {
            text += if counts { atomic } else { plain };
        }
    };
    function(
        "load",
        "fn load_NAME(i: u32, j: u32) -> u32 {\n    return ARRAY[at_NAME(i, j)];\n}\n\n",
        "fn load_NAME(i: u32, j: u32) -> u32 {\n    return atomicLoad(&ARRAY[at_NAME(i, j)]);\n}\n\n",
    );
    function(
        "store",
        "fn store_NAME(i: u32, j: u32, value: u32) {\n    ARRAY[at_NAME(i, j)] = value;\n}\n\n",
        "fn store_NAME(i: u32, j: u32, value: u32) {\n    atomicStore(&ARRAY[at_NAME(i, j)], value);\n}\n\n",
    );
    function(
        "add",
        "",
        "fn add_NAME(i: u32, j: u32, value: u32) {\n    atomicAdd(&ARRAY[at_NAME(i, j)], value);\n}\n\n",
    );
    text.replace("ARRAY", &array(name)).replace("NAME", name)
}

/// The functions of one binding. They access `partner` in that binding's format; `partner` is the binding itself unless
/// it is in place.
fn numbers(shader: &Shader, index: usize, partner: usize, format: Format) -> String {
    let name = shader.bindings[index].0;
    let shared = shares_words(shader, partner, format);
    let quads = format.quads && !shared;
    let [load16, store16] = ["load", "store"].map(|verb| calls(shader, verb, name, "16"));
    let whole = calls(shader, "load", name, "16_whole");
    let block = calls(shader, "load", name, "4x4");
    let [wide_load, wide_store] =
        [load16 || block || calls(shader, "load", name, "4"), store16 || calls(shader, "store", name, "4")];
    let mut text = AT.to_owned();
    if calls(shader, "load", name, "") || (wide_load && !quads) {
        text += match (format.half(), quads, format.wide) {
            (false, false, _) => LOAD,
            (false, true, false) => LOAD_OF_QUAD,
            (false, true, true) => LOAD_OF_WIDE,
            (true, false, _) => LOAD_HALF,
            (true, true, false) => LOAD_HALF_OF_QUAD,
            (true, true, true) => LOAD_HALF_OF_WIDE,
        };
    }
    if wide_load {
        text += match (format.half(), quads) {
            (false, true) => FOUR_AT,
            (true, true) => HALF_FOUR_AT,
            (_, false) => FOUR,
        };
        text += if quads { QUAD } else { "" };
        text += if load16 { LOAD16 } else { "" };
        text += match (load16 || whole, quads) {
            (true, true) => WHOLE,
            (true, false) => WHOLE_BY_FOURS,
            (false, _) => "",
        };
        text += match (block, quads) {
            (true, true) => BLOCK,
            (true, false) => BLOCK_OF_SINGLES,
            (false, _) => "",
        };
    }
    if wide_store || calls(shader, "store", name, "") {
        text += match (format.half(), format.quads, shared, format.wide) {
            (false, false, ..) => STORE,
            (false, true, _, false) => STORE_OF_QUAD,
            (false, true, _, true) => STORE_OF_WIDE,
            (true, _, true, _) => STORE_SHARED,
            (true, _, false, false) => STORE_HALF,
            (true, _, false, true) => STORE_HALF_OF_WIDE,
        };
    }
    if wide_store {
        text += match (format.half(), quads) {
            (false, true) => SET_FOUR,
            (true, true) => SET_HALF_FOUR,
            (_, false) => PUT_FOUR,
        };
        text += if quads { PUT_QUAD } else { "" };
        text += if quads { REST } else { "" };
        text += match (store16, quads) {
            (true, true) => STORE16,
            (true, false) => STORE16_SINGLE,
            (false, true) => STORE4,
            (false, false) => STORE4_SINGLE,
        };
    }
    let storage = if format.storage == Storage::F16 { "f16" } else { "bf16" };
    let word = if shared { "atomicLoad(&ARRAY[at / 2u])" } else { "ARRAY[at / 2u]" };
    let [from, into] = match (format.wide, format.half()) {
        (false, _) => ["(", "("],
        (true, false) => ["from_wide(", "into_wide("],
        (true, true) => ["words_from_wide(", "words_into_wide("],
    };
    let text = text
        .replace("FROM(", from)
        .replace("INTO(", into)
        .replace("WORD", word)
        .replace("STORAGE", storage)
        .replace("ARRAY", &array(shader.bindings[partner].0));
    text.replace("params.NAME", &format!("params.{}", shader.bindings[partner].0)).replace("NAME", name)
}

const AT: &str = "\
fn at_NAME(i: u32, j: u32) -> u32 {
    return params.NAME_offset + i * params.NAME_stride + j;
}

";

const LOAD: &str = "\
fn load_NAME(i: u32, j: u32) -> f32 {
    return ARRAY[at_NAME(i, j)];
}

";

const LOAD_OF_QUAD: &str = "\
fn load_NAME(i: u32, j: u32) -> f32 {
    let at = at_NAME(i, j);
    return ARRAY[at / 4u][at % 4u];
}

";

const LOAD_HALF: &str = "\
fn load_NAME(i: u32, j: u32) -> f32 {
    let at = at_NAME(i, j);
    return from_STORAGE(WORD >> (16u * (at % 2u)));
}

";

const LOAD_HALF_OF_QUAD: &str = "\
fn load_NAME(i: u32, j: u32) -> f32 {
    let at = at_NAME(i, j);
    return from_STORAGE(ARRAY[at / 4u][at / 2u % 2u] >> (16u * (at % 2u)));
}

";

const LOAD_OF_WIDE: &str = "\
fn load_NAME(i: u32, j: u32) -> f32 {
    let at = at_NAME(i, j);
    return bitcast<f32>(u32(ARRAY[at / 4u][at / 2u % 2u] >> (32u * (at % 2u))));
}

";

const LOAD_HALF_OF_WIDE: &str = "\
fn load_NAME(i: u32, j: u32) -> f32 {
    let at = at_NAME(i, j);
    return from_STORAGE(u32(ARRAY[at / 4u] >> (16u * (at % 4u))));
}

";

/// Quad number `at` of a binding that is an array of quads.
const FOUR_AT: &str = "\
fn four_NAME(at: u32) -> vec4<f32> {
    return FROM(ARRAY[at]);
}

";

const HALF_FOUR_AT: &str = "\
fn four_NAME(at: u32) -> vec4<f32> {
    let words = FROM(ARRAY[at]);
    return vec4(
        from_STORAGE(words.x & 0xffffu), from_STORAGE(words.x >> 16u), from_STORAGE(words.y & 0xffffu), from_STORAGE(words.y >> 16u),
    );
}

";

/// Loads four neighbours, all of which lie in the binding even where the row ends between them.
const QUAD: &str = "\
fn load_NAME4(i: u32, j: u32, end: u32, none: f32) -> vec4<f32> {
    if j >= end {
        return vec4(none);
    }
    let four = four_NAME(at_NAME(i, j) / 4u);
    if NO_REST == 1u {
        return four;
    }
    return select(vec4(none), four, vec4(j) + vec4(0u, 1u, 2u, 3u) < vec4(end));
}

";

/// Without branches: SwiftShader 5 took half a minute and more than a gigabyte to compile a kernel with sixteen loads
/// that each had a branch. Where the row has ended, and past the last row, the tensor's first element is read and
/// dropped.
const FOUR: &str = "\
fn single_NAME(i: u32, j: u32, end: u32, none: f32) -> f32 {
    let inside = j < end;
    return select(none, load_NAME(select(0u, i, inside), select(0u, j, inside)), inside);
}

fn load_NAME4(i: u32, j: u32, end: u32, none: f32) -> vec4<f32> {
    return vec4(
        single_NAME(i, j, end, none), single_NAME(i, j + 1u, end, none), single_NAME(i, j + 2u, end, none), single_NAME(i, j + 3u, end, none),
    );
}

";

/// Where all lanes have all columns, one comparison is enough.
const LOAD16: &str = "\
fn load_NAME16(i: u32, j: u32, end: u32, none: f32) -> mat4x4<f32> {
    if NO_REST == 1u {
        if j >= end {
            return mat4x4(vec4(none), vec4(none), vec4(none), vec4(none));
        }
        return load_NAME16_whole(i, j);
    }
    return mat4x4(
        load_NAME4(i, j, end, none),
        load_NAME4(i, j + HOP, end, none),
        load_NAME4(i, j + 2u * HOP, end, none),
        load_NAME4(i, j + 3u * HOP, end, none),
    );
}

";

/// Without comparisons: a software adapter branches lane by lane, and products of rows take three quarters of the time
/// without branches.
const WHOLE: &str = "\
fn load_NAME16_whole(i: u32, j: u32) -> mat4x4<f32> {
    let at = at_NAME(i, j) / 4u;
    return mat4x4(four_NAME(at), four_NAME(at + LANES), four_NAME(at + 2u * LANES), four_NAME(at + 3u * LANES));
}

";

const WHOLE_BY_FOURS: &str = "\
fn load_NAME16_whole(i: u32, j: u32) -> mat4x4<f32> {
    let end = 0xffffffffu;
    return mat4x4(
        load_NAME4(i, j, end, 0.0), load_NAME4(i, j + HOP, end, 0.0), load_NAME4(i, j + 2u * HOP, end, 0.0), load_NAME4(i, j + 3u * HOP, end, 0.0),
    );
}

";

const BLOCK: &str = "\
fn load_NAME4x4(i: u32, j: u32, rows: u32, end: u32) -> mat4x4<f32> {
    return mat4x4(
        load_NAME4(i, j, select(0u, end, i < rows), 0.0),
        load_NAME4(i + 1u, j, select(0u, end, i + 1u < rows), 0.0),
        load_NAME4(i + 2u, j, select(0u, end, i + 2u < rows), 0.0),
        load_NAME4(i + 3u, j, select(0u, end, i + 3u < rows), 0.0),
    );
}

";

/// A loop whose number of rounds the compiler does not know, so that it is not unrolled: llvmpipe takes seconds to
/// compile sixteen loads in a row.
const BLOCK_OF_SINGLES: &str = "\
fn load_NAME4x4(i: u32, j: u32, rows: u32, end: u32) -> mat4x4<f32> {
    var block = mat4x4<f32>();
    for (var r = 0u; r < min(4u, max(rows, i) - i); r++) {
        let four = load_NAME4(i + r, j, end, 0.0);
        block[0] = select(block[0], four, r == 0u);
        block[1] = select(block[1], four, r == 1u);
        block[2] = select(block[2], four, r == 2u);
        block[3] = select(block[3], four, r == 3u);
    }
    return block;
}

";

const STORE: &str = "\
fn store_NAME(i: u32, j: u32, value: f32) {
    ARRAY[at_NAME(i, j)] = value;
}

";

const STORE_OF_QUAD: &str = "\
fn store_NAME(i: u32, j: u32, value: f32) {
    let at = at_NAME(i, j);
    ARRAY[at / 4u][at % 4u] = value;
}

";

const SET_FOUR: &str = "\
fn set_NAME(at: u32, values: vec4<f32>) {
    ARRAY[at] = INTO(values);
}

";

const SET_HALF_FOUR: &str = "\
fn set_NAME(at: u32, values: vec4<f32>) {
    let words = vec2(pair_of_STORAGE(values.x, values.y), pair_of_STORAGE(values.z, values.w));
    ARRAY[at] = INTO(words);
}

";

const PUT_QUAD: &str = "\
fn put_NAME(i: u32, j: u32, end: u32, values: vec4<f32>) {
    if j + 4u <= end {
        set_NAME(at_NAME(i, j) / 4u, values);
    }
}

";

const PUT_FOUR: &str = "\
fn put_NAME(i: u32, j: u32, end: u32, values: vec4<f32>) {
    if j < end {
        store_NAME(i, j, values.x);
    }
    if j + 1u < end {
        store_NAME(i, j + 1u, values.y);
    }
    if j + 2u < end {
        store_NAME(i, j + 2u, values.z);
    }
    if j + 3u < end {
        store_NAME(i, j + 3u, values.w);
    }
}

";

/// Stores the first one to three of four neighbours where the row ends between them.
const REST: &str = "\
fn rest_NAME(i: u32, j: u32, end: u32, values: vec4<f32>) {
    store_NAME(i, j, values.x);
    if j + 1u < end {
        store_NAME(i, j + 1u, values.y);
    }
    if j + 2u < end {
        store_NAME(i, j + 2u, values.z);
    }
}

";

const STORE4: &str = "\
fn store_NAME4(i: u32, j: u32, end: u32, values: vec4<f32>) {
    put_NAME(i, j, end, values);
    if NO_REST == 0u && j < end && j + 4u > end {
        rest_NAME(i, j, end, values);
    }
}

";

const STORE4_SINGLE: &str = "\
fn store_NAME4(i: u32, j: u32, end: u32, values: vec4<f32>) {
    put_NAME(i, j, end, values);
}

";

/// A row may end between four neighbours. Only one of a lane's four quads can be the row's last.
const STORE16: &str = "\
fn store_NAME16(i: u32, j: u32, end: u32, values: mat4x4<f32>) {
    if NO_REST == 1u {
        if j < end {
            let at = at_NAME(i, j) / 4u;
            set_NAME(at, values[0]);
            set_NAME(at + LANES, values[1]);
            set_NAME(at + 2u * LANES, values[2]);
            set_NAME(at + 3u * LANES, values[3]);
        }
        return;
    }
    put_NAME(i, j, end, values[0]);
    put_NAME(i, j + HOP, end, values[1]);
    put_NAME(i, j + 2u * HOP, end, values[2]);
    put_NAME(i, j + 3u * HOP, end, values[3]);
    let last = end - end % 4u;
    let quad = (last - j) / HOP;
    if j <= last && last < end && quad * HOP == last - j && quad < 4u {
        let rest = select(select(values[0], values[1], quad == 1u), select(values[2], values[3], quad == 3u), quad > 1u);
        rest_NAME(i, last, end, rest);
    }
}

";

const STORE16_SINGLE: &str = "\
fn store_NAME16(i: u32, j: u32, end: u32, values: mat4x4<f32>) {
    put_NAME(i, j, end, values[0]);
    put_NAME(i, j + HOP, end, values[1]);
    put_NAME(i, j + 2u * HOP, end, values[2]);
    put_NAME(i, j + 3u * HOP, end, values[3]);
}

";

/// Two lanes that share a word may store in either order, because each changes its own half only.
const STORE_SHARED: &str = "\
fn store_NAME(i: u32, j: u32, value: f32) {
    let at = at_NAME(i, j);
    let shift = 16u * (at % 2u);
    atomicAnd(&ARRAY[at / 2u], 0xffff0000u >> shift);
    atomicOr(&ARRAY[at / 2u], to_STORAGE(value) << shift);
}

";

/// Only for what is left of a row after its last whole quad: one lane stores these elements, one after the other.
const STORE_HALF: &str = "\
fn store_NAME(i: u32, j: u32, value: f32) {
    let at = at_NAME(i, j);
    let shift = 16u * (at % 2u);
    let other = ARRAY[at / 4u][at / 2u % 2u] & (0xffff0000u >> shift);
    ARRAY[at / 4u][at / 2u % 2u] = other | (to_STORAGE(value) << shift);
}

";

/// As [`STORE_HALF`], only for what is left of a row after its last whole quad.
const STORE_OF_WIDE: &str = "\
fn store_NAME(i: u32, j: u32, value: f32) {
    let at = at_NAME(i, j);
    let shift = 32u * (at % 2u);
    let other = ARRAY[at / 4u][at / 2u % 2u] & (0xffffffff00000000lu >> shift);
    ARRAY[at / 4u][at / 2u % 2u] = other | (u64(bitcast<u32>(value)) << shift);
}

";

const STORE_HALF_OF_WIDE: &str = "\
fn store_NAME(i: u32, j: u32, value: f32) {
    let at = at_NAME(i, j);
    let shift = 16u * (at % 4u);
    let other = ARRAY[at / 4u] & ~(0xfffflu << shift);
    ARRAY[at / 4u] = other | (u64(to_STORAGE(value)) << shift);
}

";

const WIDE: &str = include_str!("../shaders/lib/wide.wgsl");
const F16: &str = include_str!("../shaders/lib/f16.wgsl");
const BF16: &str = include_str!("../shaders/lib/bf16.wgsl");
const ROW_WORKGROUP: &str = include_str!("../shaders/lib/row_workgroup.wgsl");
const ROW_SUBGROUP: &str = include_str!("../shaders/lib/row_subgroup.wgsl");
const TILE_WORKGROUP: &str = include_str!("../shaders/lib/tile_workgroup.wgsl");
const TILE_SUBGROUP: &str = include_str!("../shaders/lib/tile_subgroup.wgsl");
