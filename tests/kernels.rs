//! What the host says about each shader against what naga reads from its source.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;

use naga::back::pipeline_constants::process_overrides;
use naga::valid::{Capabilities, GlobalUse, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, Module, ScalarKind, ShaderStage, StorageAccess, TypeInner};
use wgloss::internals::{
    Access, Build, Content, Family, Format, Kernel, SHAPE, ScalarType, Shader, ZERO, kernels, source, takes_quads,
    takes_wide,
};
use wgloss::{Storage, Tuning, verify, wgpu};

/// None: f32 and u32 only. Subgroup operations where lanes share with them, u64 where memory is read in numbers of that size.
fn capabilities(source: &str) -> Capabilities {
    let of = |word: &str, capability| if source.contains(word) { capability } else { Capabilities::empty() };
    of("subgroup", Capabilities::SUBGROUP) | of("u64", Capabilities::SHADER_INT64)
}

/// Valid without any other feature.
fn parse(op: &str, source: &str) -> (Module, ModuleInfo) {
    let module =
        naga::front::wgsl::parse_str(source).unwrap_or_else(|error| panic!("{op}: {}", error.emit_to_string(source)));
    let mut validator = Validator::new(ValidationFlags::all(), capabilities(source));
    validator.subgroup_stages(naga::valid::ShaderStages::COMPUTE);
    validator.subgroup_operations(naga::valid::SubgroupOperationSet::all());
    let info = validator.validate(&module);
    let info = info.unwrap_or_else(|error| panic!("{op}: {}", error.emit_to_string(source)));
    (module, info)
}

fn entry(kernel: &Kernel, module: &Module) -> usize {
    let found = module.entry_points.iter().position(|entry| entry.name == kernel.entry);
    let index = found.unwrap_or_else(|| panic!("{}: no entry point {}", kernel.shader.op, kernel.entry));
    assert_eq!(module.entry_points[index].stage, ShaderStage::Compute);
    index
}

/// The source as it is built where no tensor allows more than f32 one at a time.
fn plain(shader: &Shader) -> String {
    source(shader, &Build { formats: vec![Format::default(); shader.bindings.len()], ..Build::default() })
}

/// Every way in which all tensors may be stored and aligned, every output in place of its input, and both ways in which lanes may share what they
/// have.
fn builds(kernel: &Kernel) -> Vec<String> {
    let shader = kernel.shader;
    let mut formats = Vec::new();
    for storage in [Storage::F32, Storage::F16, Storage::Bf16] {
        for [quads, wide] in [[false, false], [true, false], [true, true]] {
            let format = |(index, binding): (usize, &(_, _, Content))| match binding.2 {
                Content::Numbers => Format {
                    storage,
                    quads: quads && takes_quads(shader, index),
                    wide: wide && takes_wide(shader, index),
                    in_place: None,
                },
                Content::Words | Content::Counters => Format::default(),
            };
            let all: Vec<Format> = shader.bindings.iter().enumerate().map(format).collect();
            if let Some((input, output)) = kernel.in_place {
                let mut in_place = all.clone();
                in_place[shader.binding(input)].in_place = Some(shader.binding(output));
                formats.push(in_place);
            }
            formats.push(all);
        }
    }
    let build = |formats: &Vec<Format>, all_write, way| {
        source(shader, &Build { formats: formats.clone(), all_write, subgroups: way, by_subgroup: way })
    };
    let builds = formats.iter().flat_map(|formats| {
        [false, true].into_iter().flat_map(move |way| [false, true].map(|all_write| build(formats, all_write, way)))
    });
    builds.collect()
}

#[test]
fn bindings_are_what_the_host_binds() {
    for kernel in kernels() {
        let shader = kernel.shader;
        let name = format!("{}.{}", shader.op, kernel.entry);
        let (module, info) = parse(shader.op, &plain(shader));
        let info = info.get_entry_point(entry(kernel, &module));
        let mut used = BTreeSet::new();
        for (handle, global) in module.global_variables.iter() {
            let AddressSpace::Storage { access } = global.space else { continue };
            let binding = global.name.as_deref().unwrap().strip_suffix("_array").unwrap();
            let usage = info[handle];
            if usage.is_empty() {
                continue;
            }
            used.insert(binding);
            assert!(kernel.uses.contains(&binding), "{name} uses {binding}, unknown to the host");
            let writes = usage.intersects(GlobalUse::WRITE | GlobalUse::ATOMIC);
            assert_eq!(writes, kernel.access(binding) == Access::Write, "{name}: {binding} is {usage:?}");
            assert_eq!(access.contains(StorageAccess::STORE), writes, "{name}: {binding} is declared {access:?}");
        }
        assert_eq!(used, kernel.uses.iter().copied().collect(), "{name}: bindings in use");
        assert_eq!(used.len(), kernel.uses.len(), "{name}: a binding is listed twice");
        let most = wgpu::Limits::default().max_storage_buffers_per_shader_stage as usize;
        assert!(used.len() <= most, "{name}: {} bindings, WebGPU promises {most}", used.len());
    }
}

#[test]
fn params_are_what_the_host_writes() {
    for kernel in kernels() {
        let shader = kernel.shader;
        let (module, _) = parse(shader.op, &plain(shader));
        let (_, params) = module.global_variables.iter().find(|(_, v)| v.space == AddressSpace::Uniform).unwrap();
        assert_eq!(params.binding.map(|at| (at.group, at.binding)), Some((0, 0)), "{}", shader.op);
        let TypeInner::Struct { members, span } = &module.types[params.ty].inner else { panic!("{}", shader.op) };
        let places = shader.bindings.iter().flat_map(|(name, ..)| [format!("{name}_offset"), format!("{name}_stride")]);
        let places = places.chain(SHAPE.map(str::to_owned)).map(|name| (name, ScalarType::U32));
        let scalars = shader.scalars.iter().map(|(name, ty)| ((*name).to_owned(), *ty));
        let want: Vec<_> = places.chain(scalars).chain([(ZERO.to_owned(), ScalarType::U32)]).collect();
        let found = members.iter().enumerate().map(|(index, member)| {
            assert_eq!(member.offset as usize, 4 * index, "{}: {:?}", shader.op, member.name);
            let ty = match module.types[member.ty].inner {
                TypeInner::Scalar(naga::Scalar { kind: ScalarKind::Uint, width: 4 }) => ScalarType::U32,
                TypeInner::Scalar(naga::Scalar { kind: ScalarKind::Float, width: 4 }) => ScalarType::F32,
                ref other => panic!("{}: {:?} is {other:?}", shader.op, member.name),
            };
            (member.name.clone().unwrap(), ty)
        });
        assert_eq!(found.collect::<Vec<_>>(), want, "{}: Params", shader.op);
        assert_eq!(u64::from(*span).next_multiple_of(16), shader.params_size(), "{}", shader.op);
    }
}

/// A scalar that no function reads would be filled for nothing.
#[test]
fn every_scalar_is_read() {
    for shader in kernels().into_iter().map(|kernel| kernel.shader) {
        for (name, _) in shader.scalars {
            assert!(shader.source.contains(&format!("params.{name}")), "{}: {name}", shader.op);
        }
    }
}

#[test]
fn every_entry_point_has_a_kernel() {
    for op in kernels().into_iter().map(|kernel| kernel.shader.op).collect::<BTreeSet<_>>() {
        let of_op = || kernels().into_iter().filter(|kernel| kernel.shader.op == op);
        let (module, _) = parse(op, &plain(of_op().next().unwrap().shader));
        let entries: BTreeSet<_> = module.entry_points.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(entries, of_op().map(|kernel| kernel.entry).collect(), "{op}");
        assert_eq!(entries.len(), of_op().count(), "{op}");
    }
}

/// The bytes that a device's limit is compared with are those that the shader takes.
#[test]
fn workgroup_memory_is_what_the_tuning_says() {
    let tunings = [
        Tuning::GPU,
        Tuning { workgroup: 16, widest: 16, subgroup: 1, by_subgroup: false, ..Tuning::SOFTWARE }, // other lanes than a tile's
        Tuning { subgroup: 1, ..Tuning::GPU },
        Tuning { workgroup: 32, tile_x: 4, ..Tuning::GPU },
        Tuning { workgroup: 64, tile_x: 16, tile_y: 16, tile_depth: 8, ..Tuning::GPU },
        Tuning { workgroup: 1, tile_x: 1, tile_y: 2, tile_depth: 8, ..Tuning::GPU },
    ];
    for tuning in tunings {
        let (mut rows, mut tiles) = (0, 0);
        for kernel in kernels() {
            let formats = vec![Format::default(); kernel.shader.bindings.len()];
            let Tuning { subgroup, by_subgroup, .. } = tuning;
            let build = Build { formats, all_write: false, subgroups: subgroup > 1, by_subgroup };
            let (module, info) = parse(kernel.shader.op, &source(kernel.shader, &build));
            for lanes in [1, tuning.widest] {
                let mut constants = vec![("WG", tuning.widest), ("LANES", lanes)];
                if build.subgroups {
                    constants.push(("SUBGROUP", subgroup));
                }
                if kernel.shader.family == Family::Tile {
                    constants.extend([("TX", tuning.tile_x), ("TY", tuning.tile_y), ("BK", tuning.tile_depth)]);
                }
                let constants = constants.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
                let stage = Some((ShaderStage::Compute, kernel.entry));
                let (module, _) = process_overrides(&module, &info, stage, &constants).unwrap();
                let shared = module.global_variables.iter().filter(|(_, v)| v.space == AddressSpace::WorkGroup);
                let bytes: u32 = shared.map(|(_, v)| module.types[v.ty].inner.size(module.to_ctx())).sum();
                let most = match module.entry_points[0].workgroup_size {
                    [x, 1, 1] if x == tuning.widest => &mut rows,
                    [x, y, 1] if [x, y] == [tuning.tile_x, tuning.tile_y] => &mut tiles,
                    other => panic!("{}.{}: workgroup of {other:?}", kernel.shader.op, kernel.entry),
                };
                *most = bytes.max(*most);
            }
        }
        assert_eq!((rows, tiles), (tuning.row_bytes(), tuning.tile_bytes()), "{tuning:?}");
    }
    for tuning in [Tuning::GPU, Tuning::SOFTWARE] {
        let most = wgpu::Limits::default().max_compute_workgroup_storage_size;
        assert!(tuning.row_bytes().max(tuning.tile_bytes()) <= most, "{tuning:?} exceeds WebGPU's {most} bytes");
    }
}

/// No constant that is infinite or NaN, which a compiler may assume away; no atomics on floats, whose order varies.
/// Every kind of adapter has its row of the table.
#[test]
fn adapters_have_their_tuning() {
    use wgpu::DeviceType::{Cpu, DiscreteGpu, IntegratedGpu, Other};
    let of = |device_type, vendor, name: &str| {
        let info = wgpu::AdapterInfo {
            vendor,
            name: name.into(),
            ..wgpu::AdapterInfo::new(device_type, wgpu::Backend::Vulkan)
        };
        Tuning::of(&info)
    };
    assert_eq!(of(Cpu, 0x10005, "llvmpipe"), Tuning::SOFTWARE);
    assert_eq!(of(DiscreteGpu, 0x10de, "NVIDIA H200"), Tuning::NVIDIA);
    assert_eq!(of(DiscreteGpu, 0x1002, "AMD Radeon RX 7900 XTX"), Tuning::GPU);
    assert_eq!(of(DiscreteGpu, 0x8086, "Intel(R) Arc(tm) A770 Graphics"), Tuning::INTEL);
    assert_eq!(of(IntegratedGpu, 0, "Apple M3"), Tuning::APPLE);
    assert_eq!(of(Other, 0, "?"), Tuning::GPU);
    let small = of(IntegratedGpu, 0x8086, "Intel(R) UHD Graphics 620");
    assert_eq!(small, Tuning { work: 1 << 34, groups: 128, ..Tuning::INTEL });
}

#[test]
fn no_special_constants_and_no_float_atomics() {
    for shader in kernels().into_iter().map(|kernel| kernel.shader) {
        let (module, _) = parse(shader.op, &plain(shader));
        for (_, ty) in module.types.iter() {
            if let TypeInner::Atomic(scalar) = ty.inner {
                assert_ne!(scalar.kind, ScalarKind::Float, "{}", shader.op);
            }
        }
        let functions = module.functions.iter().map(|(_, function)| function);
        let expressions = functions
            .chain(module.entry_points.iter().map(|entry| &entry.function))
            .flat_map(|function| function.expressions.iter())
            .chain(module.global_expressions.iter());
        for (_, expression) in expressions {
            if let naga::Expression::Literal(naga::Literal::F32(value)) = expression {
                assert!(value.is_finite(), "{}: {value}", shader.op);
            }
        }
        // What stays an operation on constants until a driver folds it.
        assert!(!shader.source.contains("/ 0.0"), "{}", shader.op);
    }
}

fn stems(folder: &str, extension: &str) -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let files = std::fs::read_dir(path).unwrap().map(|file| file.unwrap().path());
    let is_module = |path: &Path| extension == "rs" && path.join("mod.rs").is_file();
    let files = files.filter(|path| path.extension().is_some_and(|found| found == extension) || is_module(path));
    files.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
}

#[test]
fn barriers_stay_in_the_library_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
    let parts =
        |op: &'static str| stems(&format!("shaders/{op}"), "wgsl").into_iter().map(move |part| format!("{op}/{part}"));
    for op in stems("shaders", "wgsl").into_iter().chain(parts("info_nce")).chain(parts("wals")) {
        let source = std::fs::read_to_string(root.join(&op).with_extension("wgsl")).unwrap();
        for barrier in ["workgroupBarrier", "storageBarrier", "workgroupUniformLoad"] {
            assert!(!source.contains(barrier), "{op} has a {barrier} of its own");
        }
    }
}

/// Some of these guard races that a software adapter, which runs subgroups one after the other, never shows: a barrier goes or
/// comes only with this count.
#[test]
fn no_barrier_is_lost() {
    for (file, count) in [
        ("row", 0),
        ("row_workgroup", 3),
        ("row_subgroup", 2),
        ("tile", 1),
        ("tile_workgroup", 4),
        ("tile_subgroup", 0),
        ("lse", 0),
        ("math", 0),
        ("f16", 0),
        ("bf16", 0),
        ("wide", 0),
        ("total", 0),
        ("loss", 0),
        ("pairs", 0),
        ("scale", 0),
        ("activation", 0),
        ("lists", 0),
        ("random", 0),
        ("length", 0),
        ("cholesky", 1),
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders/lib").join(file).with_extension("wgsl");
        let found = std::fs::read_to_string(path).unwrap().matches("Barrier();").count();
        assert_eq!(found, count, "{file}");
    }
    assert_eq!(stems("shaders/lib", "wgsl").len(), 20);
    // Sixteen columns of L; what of x is left above four.
    let wals = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders/wals/factor.wgsl")).unwrap();
    assert_eq!(wals.matches("cholesky_barrier();").count(), 2);
    // Before the lanes of a tile put what they share, of each half of their rows where these stand one after the other; and before each round of joining it.
    for (file, count) in [("info_nce", 7), ("siglip", 6), ("folding", 3), ("lib/pairs", 3), ("linear", 0)] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders").join(file).with_extension("wgsl");
        assert_eq!(std::fs::read_to_string(path).unwrap().matches("tile_barrier();").count(), count, "{file}");
    }
}

/// Every build is valid. Vulkan runs here; Metal and Direct3D 12 get the same shaders by naga's translation, which refuses what their languages lack.
#[test]
fn shaders_translate_for_every_backend() {
    // Kernels of one shader have most of their builds in common.
    let mut parsed: HashMap<String, (Module, ModuleInfo)> = HashMap::new();
    let mut op = "";
    for kernel in kernels() {
        let name = format!("{}.{}", kernel.shader.op, kernel.entry);
        if op != kernel.shader.op {
            op = kernel.shader.op;
            parsed.clear();
        }
        for source in builds(kernel) {
            let (module, info) = parsed.entry(source).or_insert_with_key(|source| parse(op, source));
            entry(kernel, module);
            let stage = Some((ShaderStage::Compute, kernel.entry));
            let (module, info) = process_overrides(module, info, stage, &Default::default()).unwrap();
            naga::back::spv::write_vec(&module, &info, &Default::default(), None)
                .unwrap_or_else(|e| panic!("{name}: {e}"));
            let options = naga::back::msl::Options { fake_missing_bindings: true, ..Default::default() };
            naga::back::msl::write_string(&module, &info, &options, &Default::default())
                .unwrap_or_else(|e| panic!("{name}: {e}"));
            let options = naga::back::hlsl::Options { fake_missing_bindings: true, ..Default::default() };
            let mut hlsl = String::new();
            naga::back::hlsl::Writer::new(&mut hlsl, &options, &Default::default())
                .write(&module, &info, None)
                .unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }
}

/// An op exists in every place or in none.
#[test]
fn every_place_has_the_same_ops() {
    let shaders = stems("shaders", "wgsl");
    let mut want = shaders.clone();
    want.extend(["linear_cross_entropy", "linear_kl"].map(str::to_owned)); // made of others' kernels
    let without = |folder: &str, others: &str| {
        let others: HashSet<_> = others.split(' ').collect();
        stems(folder, "rs").into_iter().filter(|stem| !others.contains(stem.as_str())).collect::<BTreeSet<_>>()
    };
    assert_eq!(without("src/ops", "elementwise layer lists mod pairs total"), want);
    assert_eq!(without("src/reference", "mod"), want);
    assert_eq!(without("src/verify", "draw fill layer mod"), want);
    let of_no_op = "main harness golden examples faults info_nce_reference kernels scale tables tensors traffic train";
    assert_eq!(without("tests", of_no_op), want);
    assert_eq!(verify::SUITES.iter().map(|suite| suite.op.to_owned()).collect::<BTreeSet<_>>(), want);
    let built = kernels().into_iter().map(|kernel| kernel.shader.op.to_owned()).filter(|op| op != "total");
    assert_eq!(built.collect::<BTreeSet<_>>(), shaders);
}
