//! The `wgloss` program: trains, embeds, recommends, and shows what an adapter can do.

/// Prints a line about the progress of a run. The run goes on even if the line cannot be written, for example because
/// the disk behind standard output is full: the run's folder has what matters.
macro_rules! say {
    ($($text:tt)*) => { $crate::tell(format_args!($($text)*)) };
}

mod adapters;
mod bench;
mod data;
mod embed;
mod failure;
mod folding;
mod interactions;
mod npy;
mod plot;
mod progress;
mod quality;
mod recommend;
mod run;
mod stop;
mod table;
mod tables;
mod train;
mod verify;
mod wals;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use failure::Failure;

/// Contrastive training and its kernels, on any GPU.
#[derive(Parser)]
#[command(version, about, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train two towers on pairs, without arguments on the bundled digits, or embeddings on interactions.
    Train(Box<train::Arguments>),
    /// Embed rows with the towers of a run on pairs.
    Embed(embed::Arguments),
    /// Factors of interactions by weighted alternating least squares.
    Wals(wals::Arguments),
    /// Recommend items for users, or items similar to an item, from the embeddings or factors of a run.
    Recommend(recommend::Arguments),
    /// Train on planted groups with and without negatives, and see which fold onto each other.
    Folding(folding::Arguments),
    /// Time the kernels and compare them with the most that the adapter can do.
    Bench(bench::Arguments),
    /// Try which sizes of workgroups and tiles are fastest on an adapter, and keep them for the other commands.
    Tune(bench::tune::Arguments),
    /// Results of `bench` side by side, as a page or as Markdown.
    Report(bench::report::Arguments),
    /// Compare two results of `bench`: which cases are faster or slower by more than noise.
    Compare(bench::compare::Arguments),
    /// Compare every kernel with the f64 reference on an adapter.
    Verify(verify::Arguments),
    /// List the adapters of this machine.
    Adapters,
}

fn main() -> ExitCode {
    silence_caught_panics();
    env_logger::Builder::from_env(env_logger::Env::new().filter_or("WGLOSS_LOG", "off")).init();
    let outcome = match Arguments::parse().command {
        Command::Train(arguments) => train::train(&arguments),
        Command::Embed(arguments) => embed::embed(&arguments),
        Command::Wals(arguments) => wals::wals(&arguments),
        Command::Recommend(arguments) => recommend::recommend(&arguments),
        Command::Folding(arguments) => folding::folding(&arguments),
        Command::Bench(arguments) => bench::bench(&arguments),
        Command::Tune(arguments) => bench::tune::tune(&arguments),
        Command::Report(arguments) => bench::report::report(&arguments),
        Command::Compare(arguments) => bench::compare::compare(&arguments),
        Command::Verify(arguments) => verify::verify(&arguments),
        Command::Adapters => adapters::list(),
    };
    outcome.unwrap_or_else(|failure: Failure| {
        eprintln!("wgloss: {}", failure.message);
        ExitCode::from(failure.code)
    })
}

fn tell(line: core::fmt::Arguments) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Suppresses the messages of two kinds of panic.
///
/// - Panics inside wgpu: the library turns them into errors.
/// - Panics of printing: if the reader of a pipe has left, the program ends with exit code 141, as by SIGPIPE;
///   otherwise with a message and exit code 2.
fn silence_caught_panics() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let message = panic.payload().downcast_ref::<String>();
        if let Some(error) = message.and_then(|message| message.strip_prefix("failed printing to stdout: ")) {
            if error.starts_with("Broken pipe") {
                std::process::exit(141);
            }
            eprintln!("wgloss: standard output cannot be written: {error}");
            std::process::exit(2);
        }
        if !panic.location().is_some_and(|location| location.file().contains("wgpu")) {
            default(panic);
        }
    }));
}

/// Opens the adapter that `wish` names, or the best one, with the sizes that `tune` found for it.
fn open(wish: Option<&str>) -> wgloss::Result<wgloss::Gpu> {
    wgloss::Gpu::open(&wgloss::Options { adapter: wish.map(str::to_owned), ..Default::default() })
        .map(bench::tune::tuned)
}

/// Refuses ops that are not in `known`.
fn check_ops(asked: &[String], known: &[&str]) -> Result<(), Failure> {
    match asked.iter().find(|op| !known.contains(&op.as_str())) {
        Some(op) => Err(Failure::input(format!("--op {op}: expected one of {}", known.join(", ")))),
        None => Ok(()),
    }
}

/// The failure for an error of opening an adapter. If there is none, it says how to get one.
fn no_adapter(error: wgloss::Error) -> Failure {
    match error {
        wgloss::Error::NoAdapter { .. } => Failure::input(format!("{error}; {}", adapters::HOW_TO_GET_ONE)),
        error => error.into(),
    }
}

/// An adapter as text: "llvmpipe (LLVM 15.0.6, 256 bits), software, Vulkan, Mesa 25.0.7".
fn describe(info: &wgloss::wgpu::AdapterInfo) -> String {
    let driver = if info.driver_info.is_empty() { &info.driver } else { &info.driver_info };
    let parts = [info.name.as_str(), kind(info), info.backend.to_str(), driver];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ")
}

/// The kind of processor that an adapter is.
fn kind(info: &wgloss::wgpu::AdapterInfo) -> &'static str {
    match info.device_type {
        wgloss::wgpu::DeviceType::DiscreteGpu => "discrete GPU",
        wgloss::wgpu::DeviceType::IntegratedGpu => "integrated GPU",
        wgloss::wgpu::DeviceType::VirtualGpu => "virtual GPU",
        wgloss::wgpu::DeviceType::Cpu => "software",
        wgloss::wgpu::DeviceType::Other => "other",
    }
}

/// An f32 as the JSON number with the fewest digits: 0.1, not 0.10000000149011612.
pub fn shortest(value: f32) -> serde_json::Value {
    value.to_string().parse::<f64>().unwrap_or(f64::NAN).into()
}
