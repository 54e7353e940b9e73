//! `metal FILE.wgsl ENTRY [NAME=VALUE,..]`: one entry point as Metal code, with the bounds checks that wgpu asks of Vulkan.

use naga::back::msl::{BindTarget, EntryPointResources, Options, PipelineOptions, write_string};
use naga::back::pipeline_constants::process_overrides;
use naga::compact::{KeepUnused, compact};
use naga::front::wgsl;
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ModuleInfo, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};
use naga::{Module, ShaderStage};

fn validated(module: &Module) -> Result<ModuleInfo, String> {
    Validator::new(ValidationFlags::all(), Capabilities::all())
        .subgroup_stages(ShaderStages::all())
        .subgroup_operations(SubgroupOperationSet::all())
        .validate(module)
        .map_err(|error| format!("{error:?}"))
}

fn metal(source: &str, entry: &str, overrides: &str) -> Result<String, String> {
    let options = wgsl::Options { parse_doc_comments: false, capabilities: Capabilities::all() };
    let parsed = wgsl::Frontend::new_with_options(options).parse(source).map_err(|e| e.emit_to_string(source))?;
    let mut constants = naga::back::PipelineConstants::default();
    for pair in overrides.split(',').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').ok_or(format!("{pair}: no NAME=VALUE"))?;
        constants.insert(name.into(), value.parse().map_err(|error| format!("{pair}: {error}"))?);
    }
    let point = (ShaderStage::Compute, entry);
    let info = validated(&parsed)?;
    let (module, _) = process_overrides(&parsed, &info, Some(point), &constants)
        .map_err(|error| format!("overrides: {error}"))?;
    let mut module = module.into_owned();
    compact(&mut module, KeepUnused::No);
    let info = validated(&module)?;
    let mut resources = EntryPointResources { sizes_buffer: Some(30), ..Default::default() };
    for (slot, binding) in module.global_variables.iter().filter_map(|(_, variable)| variable.binding).enumerate() {
        resources.resources.insert(binding, BindTarget { buffer: Some(slot as u8), mutable: true, ..Default::default() });
    }
    let checks = BoundsCheckPolicies {
        index: BoundsCheckPolicy::Restrict,
        buffer: BoundsCheckPolicy::Unchecked,
        image_load: BoundsCheckPolicy::Unchecked,
        binding_array: BoundsCheckPolicy::Unchecked,
    };
    let options = Options {
        lang_version: (3, 0),
        zero_initialize_workgroup_memory: false,
        force_loop_bounding: true,
        bounds_check_policies: checks,
        per_entry_point_map: [(entry.to_string(), resources)].into_iter().collect(),
        ..Options::default()
    };
    let pipeline = PipelineOptions { entry_point: Some((ShaderStage::Compute, entry.into())), ..Default::default() };
    write_string(&module, &info, &options, &pipeline).map(|(text, _)| text).map_err(|error| format!("{error:?}"))
}

fn main() -> Result<(), String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, entry, overrides @ ..] = &arguments[..] else { return Err("metal FILE.wgsl ENTRY [NAME=VALUE,..]".into()) };
    let source = std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
    println!("{}", metal(&source, entry, overrides.first().map_or("", String::as_str))?);
    Ok(())
}
