//! Times the cases of `cases.rs` on one adapter: `cargo bench --bench losses -- --help`, and see benches/README.md.
//! Under `cargo test` every case runs once, tiny, and is compared with the reference.

mod cases;

use std::fs::File;
use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use cpu_time::ProcessTime;
use serde_json::{Value, json};
use wgloss::{Gpu, Options, Tensor};

use cases::{CASES, Case, Job};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// Times submits with the device's work: a line of JSON with the provenance, then one a case.
#[derive(Parser)]
struct Arguments {
    /// Only this case: an op (softmax) or an op and its shape (softmax_4096x4096).
    #[arg(long, value_name = "NAME")]
    case: Option<String>,
    /// Write the lines here instead of printing them.
    #[arg(long, value_name = "FILE")]
    out: Option<std::path::PathBuf>,
    /// Calls recorded into each submit; times are divided by it.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    calls: u32,
    /// Print the names of the cases and leave.
    #[arg(long)]
    list: bool,
    /// Cargo says with it that this is `cargo bench`, not `cargo test`.
    #[arg(long, hide = true)]
    bench: bool,
}

const WARM_UPS: usize = 2; // the first compiles the pipelines
const SAMPLES: usize = 5;
/// Of a test: the columns no multiple of a workgroup, the elements a multiple of copy's four.
const TINY: [usize; 2] = [12, 37];

fn main() -> ExitCode {
    // Without --bench this is `cargo test`, whose arguments are those of other tests.
    let timed = std::env::args().any(|argument| argument == "--bench");
    let outcome = if timed { time(&Arguments::parse()) } else { test() };
    outcome.map_or_else(
        |error| {
            eprintln!("losses: {error}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}

fn open() -> wgloss::Result<Gpu> {
    Gpu::open(&Options { adapter: std::env::var("WGLOSS_ADAPTER").ok(), ..Default::default() })
}

fn test() -> Outcome {
    if std::env::var("WGLOSS_NO_GPU").is_ok_and(|value| value == "1") {
        eprintln!("SKIPPED losses: WGLOSS_NO_GPU=1");
        return Ok(());
    }
    let gpu = open()?;
    for case in CASES {
        let job = (case.build)(&gpu, TINY)?;
        (job.submit)(2)?;
        for ((what, buffer), truth) in job.outputs.iter().zip((job.truth)()) {
            let got = gpu.read(Tensor::<f32>::vector(buffer, truth.len())?)?;
            // `wgloss verify` judges the accuracy; this tells right from wrong.
            let largest = truth.iter().fold(0.0, |largest: f64, v| largest.max(v.abs()));
            let close = |got: f32, truth: f64| (f64::from(got) - truth).abs() <= 1e-5 * largest;
            for (index, (got, truth)) in got.into_iter().zip(truth).enumerate() {
                assert!(close(got, truth), "{}: {what}[{index}] is {got}, not {truth}", case.name());
            }
        }
    }
    eprintln!("losses: {} cases are right at {TINY:?}", CASES.len());
    Ok(())
}

fn time(arguments: &Arguments) -> Outcome {
    let chosen: Vec<&Case> = CASES.iter().filter(|case| case.is(arguments.case.as_deref())).collect();
    if chosen.is_empty() {
        return Err(
            format!("no such case; there are {}", CASES.iter().map(Case::name).collect::<Vec<_>>().join(", ")).into()
        );
    }
    if arguments.list {
        chosen.iter().for_each(|case| println!("{}", case.name()));
        return Ok(());
    }
    let mut out: Box<dyn Write> = match &arguments.out {
        Some(path) => Box::new(File::create(path)?),
        None => Box::new(std::io::stdout()),
    };
    writeln!(out, "{}", json!({ "provenance": provenance(&open()?, arguments.calls) }))?;
    for case in chosen {
        let gpu = open()?; // with no scratch of other cases
        let before = allocated(&gpu);
        let job = (case.build)(&gpu, case.shape)?;
        let mut line = measure(&gpu, case, &job, arguments.calls)?;
        line["memory_bytes"] = json!(allocated(&gpu).zip(before).map(|(after, before)| after - before));
        writeln!(out, "{line}")?;
        out.flush()?;
    }
    Ok(())
}

/// Bytes of all buffers, where the backend's allocator counts them.
fn allocated(gpu: &Gpu) -> Option<u64> {
    gpu.device().generate_allocator_report().map(|report| report.total_allocated_bytes)
}

fn measure(gpu: &Gpu, case: &Case, job: &Job, calls: u32) -> Outcome<Value> {
    gpu.wait()?; // for the upload
    let (mut first, mut wall, mut cpu) = (None, Vec::new(), Vec::new());
    for sample in 0..WARM_UPS + SAMPLES {
        let (wall_start, cpu_start) = (Instant::now(), ProcessTime::now());
        (job.submit)(calls)?;
        gpu.wait()?;
        let times = (wall_start.elapsed(), cpu_start.elapsed());
        first.get_or_insert(times.0.as_secs_f64());
        if sample >= WARM_UPS {
            wall.push(times.0.as_secs_f64() / f64::from(calls));
            cpu.push(times.1.as_secs_f64() / f64::from(calls));
        }
    }
    ran(gpu, case, job)?;
    let [rows, cols] = case.shape;
    let (wall_s, cpu_s) = (median(&wall), median(&cpu));
    Ok(json!({
        "case": case.op, "rows": rows, "cols": cols, "wall_s": wall_s, "cpu_s": cpu_s,
        "bytes": job.bytes, "gb_per_s": job.bytes as f64 / wall_s / 1e9, "first_wall_s": first,
        "wall_samples_s": wall, "cpu_samples_s": cpu,
    }))
}

/// Refuses times of a device that did nothing: every output has a finite first element, and one that is not zero.
fn ran(gpu: &Gpu, case: &Case, job: &Job) -> Outcome {
    for (what, buffer) in &job.outputs {
        let some = gpu.read(Tensor::<f32>::vector(buffer, 4)?)?; // no buffer is smaller
        if !some[0].is_finite() || some.iter().all(|&v| v == 0.0) {
            return Err(format!("{}: {what} begins with {some:?}, so there is nothing to time", case.name()).into());
        }
    }
    Ok(())
}

fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn provenance(gpu: &Gpu, calls: u32) -> Value {
    let info = gpu.info();
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default(); // Linux only
    let cpu = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name));
    json!({
        "wgloss": env!("CARGO_PKG_VERSION"),
        "adapter": info.name,
        "driver": format!("{} {}", info.driver, info.driver_info).trim(),
        "backend": info.backend.to_str(),
        "tuning": format!("{:?}", gpu.tuning()),
        "os": format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        "cpu": cpu,
        "threads": std::thread::available_parallelism().map_or(0, usize::from),
        "llvmpipe_threads": std::env::var("LP_NUM_THREADS").ok(),
        "calls": calls,
    })
}
