use std::process::ExitCode;

use wgloss::wgpu;

use crate::failure::Failure;
use crate::{kind, table};

/// What a user can do if no adapter is found.
pub const HOW_TO_GET_ONE: &str = "a GPU driver with Vulkan, Metal or DirectX 12 gives one; on Debian and Ubuntu `apt-get install mesa-vulkan-drivers` (24.1 or newer; `scripts/driver.sh` finds it) installs a software one";

pub fn list() -> Result<ExitCode, Failure> {
    let adapters = pollster::block_on(wgloss::adapters(wgpu::Backends::all()));
    if adapters.is_empty() {
        println!("This machine has no adapter; {HOW_TO_GET_ONE}.");
        return Ok(ExitCode::SUCCESS);
    }
    let header = ["", "adapter", "type", "backend", "driver", "buffer", "binding", "workgroup", "features"];
    let mut table = table::with_header(header, 0..0);
    for (index, adapter) in adapters.iter().enumerate() {
        let (info, limits) = (adapter.get_info(), adapter.limits());
        let driver = format!("{} {}", info.driver, info.driver_info);
        table.add_row([
            index.to_string(),
            info.name.clone(),
            kind(&info).to_owned(),
            info.backend.to_str().to_owned(),
            driver.trim().to_owned(),
            size(limits.max_buffer_size),
            size(limits.max_storage_buffer_binding_size),
            format!(
                "{} lanes, {}",
                limits.max_compute_invocations_per_workgroup,
                size(limits.max_compute_workgroup_storage_size.into())
            ),
            features(&info, adapter.features()),
        ]);
    }
    println!("{table}");
    println!("--adapter takes a number of the first column or a part of a name.");
    Ok(ExitCode::SUCCESS)
}

/// The features that matter here.
fn features(info: &wgpu::AdapterInfo, features: wgpu::Features) -> String {
    let known = [
        (wgpu::Features::TIMESTAMP_QUERY, "timestamps"),
        (wgpu::Features::SHADER_F16, "f16"),
        (wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX, "cooperative matrices"),
    ];
    let mut names: Vec<String> =
        known.iter().filter(|(feature, _)| features.contains(*feature)).map(|(_, name)| (*name).to_owned()).collect();
    if features.contains(wgpu::Features::SUBGROUP) {
        let (least, most) = (info.subgroup_min_size, info.subgroup_max_size);
        let width = if least == most { most.to_string() } else { format!("{least} to {most}") };
        names.insert(0, format!("subgroups of {width}"));
    }
    names.join(", ")
}

/// A size as text: 1.5 GiB, 128 MiB, 32 KiB.
fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let power = (bytes.max(1).ilog2() / 10) as usize;
    let value = bytes as f64 / 1024f64.powi(power as i32);
    let digits = usize::from(value.fract() > 0.05 && value < 10.0);
    format!("{value:.digits$} {}", units[power])
}
