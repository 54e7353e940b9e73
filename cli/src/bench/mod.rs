//! `wgloss bench`: what the adapter can do at most, how near each op comes to it, and whether the results are right.

mod cases;
mod ceilings;
mod clock;
pub mod compare;
mod record;
pub mod report;
pub mod tune;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use wgloss::{Error, Gpu, Storage, wgpu};

use crate::failure::Failure;
use crate::stop::{self, Stop};
use crate::{describe, kind, progress, run, table};
use cases::{Accuracy, CASES};
use clock::Timer;
use record::{Case, Ceilings, Clock, NOISE, Provenance, Record, SCHEMA};

#[derive(clap::Args)]
pub struct Arguments {
    /// The adapter, by its number in `wgloss adapters` or a part of its name, or `all`.
    #[arg(long)]
    adapter: Option<String>,
    /// One size of each op: a minute or so.
    #[arg(long)]
    quick: bool,
    /// Only these ops, separated by commas.
    #[arg(long, value_delimiter = ',')]
    op: Vec<String>,
    /// Only this size, as ROWSxCOLS.
    #[arg(long, value_parser = size)]
    size: Option<[usize; 2]>,
    /// How inputs are stored: f32, f16 or bf16; several separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "f32", value_parser = storage)]
    storage: Vec<Storage>,
    /// Seconds for each case [default: 1, with --quick 0.3].
    #[arg(long, value_parser = seconds)]
    seconds: Option<f64>,
    /// Write the result to this file, or into this folder if it is one or if there are several results.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Replace the file that --out names.
    #[arg(long, requires = "out")]
    overwrite: bool,
}

fn size(text: &str) -> Result<[usize; 2], String> {
    let sizes = text.split_once(['x', '×']).and_then(|(rows, cols)| Some([rows.parse().ok()?, cols.parse().ok()?]));
    let sizes = sizes.ok_or_else(|| "expected ROWSxCOLS, like 4096x4096".to_owned())?;
    match sizes.iter().try_fold(1u32, |numbers, &size: &usize| numbers.checked_mul(u32::try_from(size).ok()?)) {
        Some(1..) => Ok(sizes),
        _ => Err("expected from 1 to 2^32 - 1 numbers".to_owned()),
    }
}

fn storage(text: &str) -> Result<Storage, String> {
    match text {
        "f32" => Ok(Storage::F32),
        "f16" => Ok(Storage::F16),
        "bf16" => Ok(Storage::Bf16),
        _ => Err("expected f32, f16 or bf16".to_owned()),
    }
}

fn name_of(storage: Storage) -> &'static str {
    match storage {
        Storage::F32 => "f32",
        Storage::F16 => "f16",
        Storage::Bf16 => "bf16",
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.001..=3600.0).contains(seconds));
    seconds.ok_or_else(|| "expected a number from 0.001 to 3600".to_owned())
}

/// Bytes of each buffer for the ceilings: several times what a cache holds.
const SWEEP: u64 = 256 << 20;
const SWEEP_OF_SOFTWARE: u64 = 64 << 20;
/// A case is left out if its inputs and outputs are larger than this.
const MOST_BYTES: f64 = 17e9;
const MOST_BYTES_OF_SOFTWARE: f64 = 1e9;
/// A case is also left out if one call would take longer than this many seconds: the time by the ceilings, times
/// [`SHORTFALL`].
const MOST_SECONDS: f64 = 3.0;
const QUICK_SECONDS: f64 = 0.1;
const SHORTFALL: f64 = 5.0;
/// About what a software adapter on two cores moves and computes, in 10⁹ B/s and 10¹² FLOP/s.
const OF_SOFTWARE: [f64; 2] = [6.0, 0.05];
/// What a modest GPU does.
const OF_A_GPU: [f64; 2] = [200.0, 10.0];

pub fn bench(arguments: &Arguments) -> Result<ExitCode, Failure> {
    crate::check_ops(&arguments.op, &CASES.iter().map(|case| case.op).collect::<Vec<_>>())?;
    let wishes: Vec<Option<String>> = match arguments.adapter.as_deref() {
        Some("all") => {
            let count = pollster::block_on(wgloss::adapters(wgpu::Backends::all())).len();
            (0..count.max(1)).map(|index| Some(index.to_string())).collect()
        }
        wish => vec![wish.map(str::to_owned)],
    };
    let place = |out: &Path, name: &str| {
        if wishes.len() > 1 || out.is_dir() { out.join(name) } else { out.to_owned() }
    };
    // The files' names are known once adapters are open; whether there is a place for them is told before.
    if let Some(out) = &arguments.out {
        run::check_writable(&place(out, "result.json"))?;
    }
    Stop::on_ctrl_c()?;
    let (mut all_right, mut names) = (true, HashMap::new());
    for wish in &wishes {
        let built_in = open(wish.as_deref()).map_err(crate::no_adapter)?;
        let gpu = tune::tuned(built_in.clone());
        eprintln!("adapter: {}", describe(gpu.info()));
        let provenance = provenance(&gpu);
        let out = arguments.out.as_ref().map(|out| {
            let name = provenance.file_name();
            let same = names.entry(name.clone()).and_modify(|count| *count += 1).or_insert(1);
            place(out, &if *same == 1 { name } else { name.replace(".json", &format!("-{same}.json")) })
        });
        if let Some(out) = &out {
            run::check_output(out, arguments.overwrite)?;
        }
        let record = of_adapter(&built_in, &gpu, provenance, arguments)?;
        all_right &= record.cases.iter().all(Case::is_right);
        if let Some(out) = out.filter(|_| !record.cases.is_empty()) {
            run::write_file(&out, record.text().as_bytes())?;
            eprintln!("written: {}", out.display());
        }
        print(&record);
        if stop::asked() {
            println!("Stopped: {} cases were measured.", record.cases.len());
            return Ok(stop::code());
        }
        if record.cases.is_empty() {
            let expected = "expected cases that fit this adapter's memory and bindings";
            return Err(Failure::input(format!("{expected}, found none: {}", record.left_out().join(", "))));
        }
    }
    Ok(if all_right { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Opens an adapter with the built-in sizes.
fn open(wish: Option<&str>) -> wgloss::Result<Gpu> {
    Gpu::open(&wgloss::Options {
        adapter: wish.map(str::to_owned),
        features: wgpu::Features::TIMESTAMP_QUERY | wgpu::Features::SHADER_F16,
        ..Default::default()
    })
}

/// Measures all cases on `gpu`. The probe beside each case runs with the `built_in` sizes, so that no tuning changes it.
fn of_adapter(built_in: &Gpu, gpu: &Gpu, mut provenance: Provenance, arguments: &Arguments) -> Result<Record, Failure> {
    let software = gpu.info().device_type == wgpu::DeviceType::Cpu;
    let seconds = arguments.seconds.unwrap_or(if arguments.quick { 0.3 } else { 1.0 });
    let budget = Duration::from_secs_f64(seconds);
    let unix_time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let bar = progress::bar(1, "{pos}/{len} {msg}");
    bar.set_message("what the adapter can do at most");
    let ceilings = ceilings::measure(gpu, if software { SWEEP_OF_SOFTWARE } else { SWEEP }, budget / 6)?;
    let Chosen { cases: chosen, mut left_out } = chosen(arguments, &ceilings, software);
    bar.set_length(chosen.len() as u64 + 1);
    bar.inc(1);
    let mut cases = Vec::new();
    let probe = ceilings::Probe::new(built_in, software)?;
    let mut before = probe.seconds()?;
    for (case, shape, storage) in chosen {
        if stop::asked() {
            break;
        }
        let name = record::name(case.op, &shape, name_of(storage));
        bar.set_message(name.clone());
        match measured(gpu, case, shape, storage, budget) {
            Ok(case) => {
                let after = probe.seconds()?;
                cases.push(Case { probe_s: Some((before + after) / 2.0), ..case });
                before = after;
            }
            Err(Error::OutOfMemory { .. } | Error::Limit { .. }) => {
                bar.suspend(|| eprintln!("left out, as this adapter's memory or bindings are too small: {name}"));
                left_out.push(name);
            }
            Err(error) => return Err(error.into()),
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    provenance.details.insert("left_out".to_owned(), left_out.into());
    if stop::asked() {
        provenance.details.insert("stopped".to_owned(), true.into());
    }
    Ok(Record { schema: SCHEMA.to_owned(), unix_time, provenance, ceilings: Some(ceilings), cases })
}

/// What is measured, and the names of cases that would take too long or too much memory.
struct Chosen {
    cases: Vec<(&'static cases::Case, [usize; 2], Storage)>,
    left_out: Vec<String>,
}

/// The cases that were asked for and fit the time and the memory. With --quick one size of each op: the largest that a nominal GPU (or a nominal software
/// adapter) finishes in time, so that quick results of all GPUs have the same sizes, whatever the storage.
fn chosen(arguments: &Arguments, ceilings: &Ceilings, software: bool) -> Chosen {
    let most_seconds = if arguments.quick { QUICK_SECONDS } else { MOST_SECONDS };
    let most_bytes = if software { MOST_BYTES_OF_SOFTWARE } else { MOST_BYTES };
    let [copy, fma] = match (software, arguments.quick) {
        // What a software adapter measures differs from hour to hour; results of one machine shall have the same cases.
        (true, _) => OF_SOFTWARE,
        (false, true) => OF_A_GPU,
        (false, false) => [ceilings.copy_gb_s, ceilings.fma_tflop_s],
    };
    let asked = |case: &&cases::Case| arguments.op.is_empty() || arguments.op.iter().any(|op| op == case.op);
    let mut storages: Vec<Storage> = Vec::new();
    for &storage in &arguments.storage {
        if !storages.contains(&storage) {
            storages.push(storage);
        }
    }
    let mut chosen = Chosen { cases: Vec::new(), left_out: Vec::new() };
    for case in CASES.iter().filter(asked) {
        for &storage in storages.iter().filter(|storage| case.has_storages || **storage == Storage::F32) {
            let fits = |shape: &[usize; 2]| {
                let (bytes, flop) = (case.bytes(*shape, Storage::F32), case.flop(*shape));
                let seconds = (bytes / copy / 1e9).max(flop / fma / 1e12);
                bytes <= most_bytes && SHORTFALL * seconds <= most_seconds
            };
            let (mut sizes, too_large): (Vec<[usize; 2]>, Vec<[usize; 2]>) = match &arguments.size {
                Some(size) => (vec![*size], Vec::new()),
                None => case.sizes.iter().copied().partition(fits),
            };
            if sizes.is_empty() {
                sizes.extend(case.sizes.first());
            }
            if arguments.quick {
                sizes.drain(..sizes.len() - 1);
            } else {
                let names = too_large.iter().map(|shape| record::name(case.op, shape, name_of(storage)));
                chosen.left_out.extend(names);
            }
            chosen.cases.extend(sizes.into_iter().map(|shape| (case, shape, storage)));
        }
    }
    chosen
}

/// Measures a case, after the scratch of earlier cases is released.
///
/// A device for each case would do as well, but NVIDIA's driver opens no more after some twenty.
fn measured(
    gpu: &Gpu,
    case: &cases::Case,
    shape: [usize; 2],
    storage: Storage,
    budget: Duration,
) -> wgloss::Result<Case> {
    gpu.release_scratch();
    gpu.wait()?;
    let allocated = || gpu.device().generate_allocator_report().map(|report| report.total_allocated_bytes);
    let before = allocated();
    let job = (case.build)(gpu, shape, storage)?;
    let timer = Timer::new(gpu);
    let first_s = timer.once(&*job.work)?;
    let memory_bytes = allocated().zip(before).map(|(after, before)| after.saturating_sub(before));
    let Accuracy { error, tolerance } = job.accuracy(gpu)?;
    let timed = timer.measure(budget, &*job.work)?;
    Ok(Case {
        op: case.op.to_owned(),
        shape: shape.to_vec(),
        storage: name_of(storage).to_owned(),
        bytes: case.bytes(shape, storage),
        flop: case.flop(shape),
        clock: timed.clock,
        samples_s: timed.samples_s,
        probe_s: None,
        cpu_s: Some(timed.cpu_s),
        first_s: Some(first_s),
        memory_bytes,
        error: Some(error),
        tolerance: Some(tolerance),
    })
}

fn provenance(gpu: &Gpu) -> Provenance {
    let (info, limits) = (gpu.info(), gpu.limits());
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default(); // Linux only
    let cpu = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name));
    let load = std::fs::read_to_string("/proc/loadavg").ok(); // Linux only
    let details = serde_json::json!({
        "wgpu": "30",
        "features": gpu.device().features().iter_names().map(|(name, _)| name).collect::<Vec<_>>(),
        "subgroups": [info.subgroup_min_size, info.subgroup_max_size],
        "max_buffer_size": limits.max_buffer_size,
        "max_storage_buffer_binding_size": limits.max_storage_buffer_binding_size,
        "max_compute_invocations_per_workgroup": limits.max_compute_invocations_per_workgroup,
        "max_compute_workgroup_storage_size": limits.max_compute_workgroup_storage_size,
        "tuning": format!("{:?}", gpu.tuning()),
        "shaders": shaders(),
        "llvmpipe_threads": std::env::var("LP_NUM_THREADS").ok(),
        "is_software": info.device_type == wgpu::DeviceType::Cpu,
    });
    Provenance {
        by: format!("wgloss {}", env!("CARGO_PKG_VERSION")),
        adapter: info.name.clone(),
        kind: kind(info).to_owned(),
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
        backend: info.backend.to_str().to_owned(),
        os: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        cpu: cpu.map(str::to_owned),
        cpu_threads: std::thread::available_parallelism().map_or(0, usize::from),
        load: load.and_then(|load| load.split(' ').next()?.parse().ok()),
        details: details.as_object().cloned().unwrap_or_default(),
    }
}

/// FNV-1a (Fowler, Noll and Vo, RFC 9923) of the text of every shader. Results with the same hash are of the same
/// kernels.
fn shaders() -> String {
    let mut ops: Vec<_> = wgloss::internals::kernels().into_iter().map(|kernel| kernel.shader).collect();
    ops.dedup_by_key(|shader| shader.op);
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = ops.iter().flat_map(|shader| shader.source.bytes()).fold(0xcbf2_9ce4_8422_2325, step);
    format!("{hash:016x}")
}

/// A duration as text: "12.3 ms".
pub fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 1e-3 => format!("{:.1} µs", s * 1e6),
        s if s < 1.0 => format!("{:.2} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}

/// A rate as text, with at least three significant digits.
pub fn rate(value: f64) -> String {
    let digits = (2.0 - value.log10().floor()).clamp(0.0, 9.0) as usize;
    format!("{value:.digits$}")
}

fn print(record: &Record) {
    let Some(ceilings) = &record.ceilings else { return };
    println!("{}, {}", record.provenance.title(), record.provenance.kind);
    let f16 = ceilings.fma_f16_tflop_s.map_or(String::new(), |of_f16| format!(", {} of f16", rate(of_f16)));
    println!(
        "At most: copy {} GB/s, triad {} GB/s, multiply-add {} TFLOP/s of f32{f16}; a dispatch {:.1} µs, a submit {:.0} µs.\n",
        rate(ceilings.copy_gb_s),
        rate(ceilings.triad_gb_s),
        rate(ceilings.fma_tflop_s),
        ceilings.dispatch_us,
        ceilings.submit_us
    );
    let header = ["", "time", "±", "GB/s", "TFLOP/s", "of the most", "nearest limit", "error", ""];
    let mut table = table::with_header(header, 1..6);
    for case in &record.cases {
        let share = case.share(ceilings).map_or("—".to_owned(), |share| format!("{:.0} %", 100.0 * share));
        let flop = if case.flop > 0.0 { format!("{:.3}", case.tflop_s()) } else { String::new() };
        let verdict = match (case.is_right(), record.is_noisy(case)) {
            (false, _) => "WRONG",
            (true, true) => "noisy",
            (true, false) => "",
        };
        table.add_row([
            case.name(),
            format!("{}{}", duration(case.seconds()), if case.clock == Clock::Host { " host" } else { "" }),
            format!("{:.1} %", 100.0 * case.spread()),
            format!("{:.1}", case.gb_s()),
            flop,
            share,
            if case.is_arithmetic(ceilings) { "arithmetic" } else { "memory" }.to_owned(),
            case.error.map_or(String::new(), |error| format!("{error:.1e}")),
            verdict.to_owned(),
        ]);
    }
    println!("{table}");
    println!(
        "Time: the median of one call by the device's clock, or by the host's where it says so. GB/s: the least that must move, over the time.\n±: half the distance of the quartiles; noisy: above {0:.0} %, or the adapter itself was slower by more than {0:.0} % than at its best.",
        100.0 * NOISE
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every case is right, at sizes that are no multiple of anything, both smaller and larger than the period of its
    /// inputs.
    #[test]
    fn cases_are_right() {
        if std::env::var("WGLOSS_NO_GPU").is_ok_and(|value| value == "1") {
            eprintln!("SKIPPED cases_are_right: WGLOSS_NO_GPU=1");
            return;
        }
        let gpu = open(std::env::var("WGLOSS_ADAPTER").ok().as_deref()).unwrap();
        for case in CASES {
            for shape in [[7, 3], [12, 37], [130, 20]] {
                let job = (case.build)(&gpu, shape, Storage::F32).unwrap();
                job.work.submit().unwrap();
                let Accuracy { error, tolerance } = job.accuracy(&gpu).unwrap();
                assert!(error <= tolerance && tolerance < 1e-4, "{} {shape:?}: {error:e} of {tolerance:e}", case.op);
            }
        }
    }
}
