//! Every kernel through Microsoft's two compilers, as wgpu asks them on Direct3D 12: FXC, which every Windows has and which knows no subgroups, and DXC, a DLL beside
//! the program; with an argument, as info_nce.positives, that one alone. Exit code 1 if one is refused or takes over a minute.

use std::collections::HashSet;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use naga::back::PipelineConstants;
use naga::back::hlsl::{Options, PipelineOptions, ShaderModel, Writer};
use naga::back::pipeline_constants::process_overrides;
use naga::compact::{KeepUnused, compact};
use naga::valid::{Capabilities, ModuleInfo, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};
use naga::{Expression, Literal, Module, ShaderStage};
use wgloss::internals::{Build, Content, Format, Kernel, kernels, source, takes_quads};
use wgloss::{Storage, Tuning};
use windows::Win32::Graphics::Direct3D::Dxc::{
    CLSID_DxcCompiler, DXC_CP_UTF8, DxcBuffer, DxcCreateInstance, IDxcBlobUtf8, IDxcCompiler3, IDxcResult,
};
use windows::Win32::Graphics::Direct3D::Fxc::{D3DCOMPILE_ENABLE_STRICTNESS, D3DCompile};
use windows::core::{PCSTR, w};

const LONGEST: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Compiler {
    Fxc,
    Dxc,
}

/// What else than the sizes a pipeline is made for.
const VARIANTS: [&[(&str, f64)]; 5] =
    [&[], &[("HOLDS", 1.0)], &[("STAGE", 1.0)], &[("STAGE", 2.0)], &[("LANES", 64.0)]];

fn main() -> ExitCode {
    let wish = std::env::args().nth(1);
    let (mut compiled, mut refused, mut slowest) = (0, 0, (Duration::ZERO, String::new()));
    for compiler in [Compiler::Fxc, Compiler::Dxc] {
        let mut seen = HashSet::new();
        for kernel in kernels() {
            let name = format!("{}.{}", kernel.shader.op, kernel.entry);
            if wish.as_ref().is_some_and(|wish| *wish != name) {
                continue;
            }
            println!("{compiler:?}: {}.{}", kernel.shader.op, kernel.entry);
            for storage in [Storage::F32, Storage::Bf16] {
                let module = parsed(kernel, storage, compiler);
                for constants in constants(kernel, &module) {
                    let (text, entry) = hlsl(kernel, &module, &constants, compiler);
                    if !seen.insert(text.clone()) {
                        continue;
                    }
                    let name = format!("{compiler:?}: {}.{} {storage:?}", kernel.shader.op, kernel.entry);
                    let start = Instant::now();
                    let result = match compiler {
                        Compiler::Fxc => fxc(&text, &entry),
                        Compiler::Dxc => dxc(&text, &entry),
                    };
                    let took = start.elapsed();
                    compiled += 1;
                    if took > slowest.0 {
                        slowest = (took, name.clone());
                    }
                    if result.is_err() || took > LONGEST {
                        refused += 1;
                        let why = result.err().unwrap_or_default();
                        println!("{name} {:.1} s, {constants:?}\n{why}", took.as_secs_f64());
                    }
                }
            }
        }
    }
    let (longest, name) = slowest;
    println!("{compiled} compiled, {refused} refused or slow; the slowest, {:.1} s: {name}", longest.as_secs_f64());
    if refused == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn validated(module: &Module) -> ModuleInfo {
    Validator::new(ValidationFlags::all(), Capabilities::all())
        .subgroup_stages(ShaderStages::COMPUTE)
        .subgroup_operations(SubgroupOperationSet::all())
        .validate(module)
        .expect("tests/kernels.rs validates every kernel")
}

/// Rows aligned to four elements.
fn parsed(kernel: &Kernel, storage: Storage, compiler: Compiler) -> Module {
    let shader = kernel.shader;
    let formats = shader.bindings.iter().enumerate().map(|(index, (.., content))| match content {
        Content::Numbers => Format { storage, quads: takes_quads(shader, index), ..Format::default() },
        Content::Words | Content::Counters => Format::default(),
    });
    let build = Build { formats: formats.collect(), subgroups: compiler == Compiler::Dxc, ..Build::default() };
    naga::front::wgsl::parse_str(&source(shader, &build)).expect("tests/kernels.rs parses every kernel")
}

/// The sizes of a real GPU with no flag, with all of them, and with each of [`VARIANTS`].
fn constants(kernel: &Kernel, module: &Module) -> Vec<PipelineConstants> {
    let sizes = [
        ("WG", Tuning::GPU.workgroup),
        ("LANES", Tuning::GPU.workgroup),
        ("SUBGROUP", 32),
        ("TX", Tuning::GPU.tile_x),
        ("TY", Tuning::GPU.tile_y),
        ("BK", Tuning::GPU.tile_depth),
        ("FACTORED", u32::from(kernel.entry == "factor")),
    ];
    let has = |name: &str| module.overrides.iter().any(|(_, found)| found.name.as_deref() == Some(name));
    let sizes: PipelineConstants =
        sizes.into_iter().filter(|(name, _)| has(name)).map(|(name, size)| (name.to_owned(), size.into())).collect();
    let is_flag = |init| match module.global_expressions[init] {
        Expression::Literal(Literal::U32(value)) => value <= 1,
        _ => false,
    };
    let flags = module.overrides.iter().filter(|(_, found)| found.init.is_some_and(is_flag));
    let flags = flags.filter_map(|(_, found)| found.name.clone()).map(|name| (name, 1.0));
    let mut all: PipelineConstants = flags.collect();
    all.remove("STAGE");
    all.extend(sizes.clone());
    let with = |variant: &[(&str, f64)]| {
        let own = variant.iter().filter(|(name, _)| has(name)).map(|&(name, value)| (name.to_owned(), value));
        sizes.clone().into_iter().chain(own).collect()
    };
    VARIANTS.into_iter().map(with).chain([all]).collect()
}

/// The text, and what naga calls the entry point there.
fn hlsl(kernel: &Kernel, module: &Module, constants: &PipelineConstants, compiler: Compiler) -> (String, String) {
    let point = (ShaderStage::Compute, kernel.entry);
    let info = validated(module);
    let (module, _) = process_overrides(module, &info, Some(point), constants).expect("constants of this module");
    let mut module = module.into_owned();
    compact(&mut module, KeepUnused::No);
    let info = validated(&module);
    let options = Options {
        shader_model: if compiler == Compiler::Fxc { ShaderModel::V5_1 } else { ShaderModel::V6_0 },
        fake_missing_bindings: true,
        zero_initialize_workgroup_memory: false,
        ..Options::default()
    };
    let mut text = String::new();
    let pipeline = PipelineOptions { entry_point: Some((ShaderStage::Compute, kernel.entry.into())) };
    let written = Writer::new(&mut text, &options, &pipeline)
        .write(&module, &info, None)
        .expect("tests/kernels.rs translates every kernel");
    let entry = written.entry_point_names.into_iter().next().expect("one entry point").expect("which is translated");
    (text, entry)
}

fn fxc(text: &str, entry: &str) -> Result<(), String> {
    let entry = format!("{entry}\0");
    let (mut code, mut told) = (None, None);
    // SAFETY: the text is as long as said, both names end with 0, and the results are written to the two options.
    let result = unsafe {
        D3DCompile(
            text.as_ptr().cast(),
            text.len(),
            None,
            None,
            None,
            PCSTR(entry.as_ptr()),
            windows::core::s!("cs_5_1"),
            D3DCOMPILE_ENABLE_STRICTNESS,
            0,
            &mut code,
            Some(&mut told),
        )
    };
    result.map_err(|error| {
        // SAFETY: a blob's bytes are its own until it goes.
        let told = told.map(|told| unsafe {
            String::from_utf8_lossy(core::slice::from_raw_parts(told.GetBufferPointer().cast(), told.GetBufferSize()))
                .into_owned()
        });
        told.unwrap_or_else(|| error.to_string())
    })
}

fn dxc(text: &str, entry: &str) -> Result<(), String> {
    let entry: Vec<u16> = entry.encode_utf16().chain([0]).collect();
    let arguments = [
        w!("-E"),
        windows::core::PCWSTR(entry.as_ptr()),
        w!("-T"),
        w!("cs_6_0"),
        w!("-HV"),
        w!("2018"),
        w!("-no-warnings"),
        w!("-Ges"),
    ];
    let buffer = DxcBuffer { Ptr: text.as_ptr().cast(), Size: text.len(), Encoding: DXC_CP_UTF8.0 };
    // SAFETY: the buffer and the arguments live until the call is over.
    let (status, told) = unsafe {
        let compiler: IDxcCompiler3 = DxcCreateInstance(&CLSID_DxcCompiler).map_err(|error| error.to_string())?;
        let result: IDxcResult =
            compiler.Compile(&buffer, Some(&arguments), None).map_err(|error| error.to_string())?;
        (result.GetStatus().map_err(|error| error.to_string())?, result.GetErrorBuffer())
    };
    if status.is_ok() {
        return Ok(());
    }
    let told = told.and_then(|told| windows::core::Interface::cast::<IDxcBlobUtf8>(&told));
    // SAFETY: the blob's text ends with 0 and is its own until it goes.
    Err(told.map_or_else(
        |error| error.to_string(),
        |told| unsafe { told.GetStringPointer().to_string() }.unwrap_or_default(),
    ))
}
