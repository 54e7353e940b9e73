//! `wgloss tune`: tries sizes of workgroups and tiles on an adapter, checks each, and keeps the fastest where every
//! command finds them.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use wgloss::{Gpu, Storage, Tuning, wgpu};

use super::cases::{CASES, Case};
use super::{duration, measured, open};
use crate::failure::Failure;
use crate::stop::{self, Stop};
use crate::{describe, progress, run, table};

#[derive(clap::Args)]
pub struct Arguments {
    /// The adapter, by its number in `wgloss adapters` or a part of its name.
    #[arg(long)]
    adapter: Option<String>,
    /// Seconds for each op and size.
    #[arg(long, default_value_t = 0.2, value_parser = super::seconds)]
    seconds: f64,
    /// Write the sizes here instead of where the other commands look for them.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Replace the file that --out names.
    #[arg(long, requires = "out")]
    overwrite: bool,
}

/// The sizes that were found for an adapter and its driver.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Found {
    adapter: String,
    driver: String,
    workgroup: u32,
    packed: u32,
    widest: u32,
    tile_x: u32,
    tile_y: u32,
    tile_depth: u32,
    by_subgroup: bool,
    wide_reads: Option<bool>,
}

impl Found {
    fn new(info: &wgpu::AdapterInfo, tuning: &Tuning) -> Found {
        let Tuning { workgroup, packed, widest, tile_x, tile_y, tile_depth, by_subgroup, wide_reads, .. } = *tuning;
        let (adapter, driver) = (info.name.clone(), info.driver_info.clone());
        let wide_reads = Some(wide_reads);
        Found { adapter, driver, workgroup, packed, widest, tile_x, tile_y, tile_depth, by_subgroup, wide_reads }
    }

    fn on(&self, tuning: Tuning) -> Tuning {
        let Found { workgroup, packed, widest, tile_x, tile_y, tile_depth, by_subgroup, .. } = *self;
        let wide_reads = self.wide_reads.unwrap_or(tuning.wide_reads);
        Tuning { workgroup, packed, widest, tile_x, tile_y, tile_depth, by_subgroup, wide_reads, ..tuning }
    }
}

/// The file that keeps an adapter's sizes, in the user's cache folder.
fn kept(info: &wgpu::AdapterInfo) -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = variable("XDG_CACHE_HOME").or_else(|| match std::env::consts::OS {
        "windows" => variable("LOCALAPPDATA"),
        "macos" => Some(variable("HOME")?.join("Library/Caches")),
        _ => Some(variable("HOME")?.join(".cache")),
    })?;
    Some(folder.join("wgloss").join(format!("{}-tuning.json", super::record::slug(&info.name))))
}

/// The device with the sizes that were found for its adapter and driver, if any.
pub fn tuned(gpu: Gpu) -> Gpu {
    let info = gpu.info();
    let read = || -> Option<Found> { serde_json::from_str(&std::fs::read_to_string(kept(info)?).ok()?).ok() };
    match read().filter(|found| found.adapter == info.name && found.driver == info.driver_info) {
        Some(found) => gpu.with_tuning(found.on(*gpu.tuning())),
        None => gpu,
    }
}

/// A family of kernels, and the ops and sizes that its candidates are timed on.
struct Family {
    name: &'static str,
    on: &'static [(&'static str, [usize; 2])],
    on_software: &'static [(&'static str, [usize; 2])],
}

const ROWS: Family = Family {
    name: "rows",
    on: &[("softmax", [16_384, 4096]), ("cross_entropy", [4096, 4096]), ("kl", [1024, 32_768])],
    on_software: &[("softmax", [1024, 4096]), ("cross_entropy", [1024, 1024])],
};
const SHORT_ROWS: Family = Family {
    name: "short rows",
    on: &[("softmax", [262_144, 128]), ("normalize", [262_144, 128])],
    on_software: &[("softmax", [16_384, 64]), ("normalize", [16_384, 64])],
};
const TILES: Family = Family {
    name: "tiles",
    on: &[("linear", [4096, 1024]), ("info_nce", [8192, 256])],
    on_software: &[("linear", [512, 256]), ("info_nce", [512, 128])],
};

/// The least gain for which sizes are changed.
const WORTH: f64 = 0.03;

pub fn tune(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let gpu = open(arguments.adapter.as_deref()).map_err(crate::no_adapter)?;
    eprintln!("adapter: {}", describe(gpu.info()));
    let Some(path) = arguments.out.clone().or_else(|| kept(gpu.info())) else {
        return Err(Failure::input("--out: expected a file, since this system names no folder for caches"));
    };
    match &arguments.out {
        Some(out) => run::check_output(out, arguments.overwrite)?,
        None => run::check_writable(&path)?,
    }
    Stop::on_ctrl_c()?;
    let software = gpu.info().device_type == wgpu::DeviceType::Cpu;
    let budget = Duration::from_secs_f64(arguments.seconds);
    let mut best = *gpu.tuning();
    let families = [(ROWS, rows as fn(&Tuning) -> Vec<Tuning>), (SHORT_ROWS, short_rows), (TILES, tiles)];
    for (family, candidates) in families {
        let sizes = distinct(&gpu, candidates(&best));
        let jobs = if software { family.on_software } else { family.on };
        let bar = progress::bar((sizes.len() * jobs.len()) as u64, "{pos}/{len} {msg}");
        let mut table = table::with_header(["", "of the time of the first", "", ""], 1..3);
        // Seconds of each op, infinite if its answer is wrong.
        let timed = |tuning: &Tuning| -> Result<Vec<f64>, Failure> {
            let gpu = gpu.with_tuning(*tuning);
            let of_job = |(op, shape): &(&str, [usize; 2])| {
                bar.set_message(format!("{}: {op}", name_of(family.name, tuning)));
                let case = measured(&gpu, case(op), *shape, Storage::F32, budget)?;
                Ok(if case.is_right() { case.seconds() } else { f64::INFINITY })
            };
            jobs.iter().map(of_job).collect()
        };
        // The geometric mean over the ops; infinite if one is wrong.
        let ratio_of = |times: &[f64], before: &[f64]| {
            let ratios: Vec<f64> = times.iter().zip(before).map(|(time, before)| time / before).collect();
            super::record::mean(&ratios)
        };
        timed(&sizes[0])?; // a cold device would favour whatever comes later
        let (mut least, mut winner, mut before) = (1.0 - WORTH, None, Vec::new());
        for (index, tuning) in sizes.iter().enumerate() {
            let name = name_of(family.name, tuning);
            if stop::asked() {
                bar.finish_and_clear();
                println!("Stopped: nothing is kept.");
                return Ok(stop::code());
            }
            let times = timed(tuning)?;
            bar.inc(jobs.len() as u64);
            if index == 0 {
                before.clone_from(&times);
            }
            let ratio = ratio_of(&times, &before);
            let shown: Vec<String> = times.iter().map(|time| duration(*time)).collect();
            let verdict = if ratio.is_finite() { String::new() } else { "WRONG".to_owned() };
            table.add_row([name, format!("{ratio:.2}"), shown.join(", "), verdict]);
            if ratio < least {
                (least, winner) = (ratio, Some(*tuning));
            }
        }
        // The best of many is the luckiest too: it has to win again, in turns with the first.
        let mut confirmed = None;
        if let Some(winner) = winner {
            let turns = [timed(&winner)?, timed(&sizes[0])?, timed(&sizes[0])?, timed(&winner)?];
            let ratio = (ratio_of(&turns[0], &turns[1]) * ratio_of(&turns[3], &turns[2])).sqrt();
            confirmed = Some((winner, ratio));
        }
        bar.finish_and_clear();
        let ops: Vec<String> = jobs.iter().map(|(op, [rows, cols])| format!("{op} {rows} × {cols}")).collect();
        println!("{}: {}\n{table}", family.name, ops.join(", "));
        match confirmed {
            None => println!("They stay as they are: nothing gains {:.0} %.\n", 100.0 * WORTH),
            Some((tuning, ratio)) if ratio <= 1.0 - WORTH => {
                println!("Taken: {}, {ratio:.2} of the time in turns with the first.\n", name_of(family.name, &tuning));
                best = tuning;
            }
            Some((tuning, ratio)) => {
                let name = name_of(family.name, &tuning);
                println!("They stay as they are: {name} took {ratio:.2} of the time when tried again, in turns.\n");
            }
        }
    }
    let text = serde_json::to_string_pretty(&Found::new(gpu.info(), &best)).unwrap_or_default() + "\n";
    run::write_file(&path, text.as_bytes())?;
    println!("written: {}", path.display());
    Ok(ExitCode::SUCCESS)
}

fn case(op: &str) -> &'static Case {
    CASES.iter().find(|case| case.op == op).unwrap_or(&CASES[0])
}

/// The present sizes, then others.
fn rows(now: &Tuning) -> Vec<Tuning> {
    let sizes =
        [(64, 256), (64, 1024), (128, 512), (128, 1024), (256, 256), (256, 512), (256, 1024), (512, 1024), (8, 8)];
    let of = |(workgroup, widest)| Tuning { workgroup, widest, by_subgroup: widest == 8, ..*now };
    let read_otherwise = now.wide.then_some(Tuning { wide_reads: !now.wide_reads, ..*now });
    [*now].into_iter().chain(read_otherwise).chain(sizes.map(of)).collect()
}

fn short_rows(now: &Tuning) -> Vec<Tuning> {
    let of = |times| Tuning { packed: times * now.workgroup, ..*now };
    [*now].into_iter().chain([1, 2, 4, 8, 16].map(of)).collect()
}

fn tiles(now: &Tuning) -> Vec<Tuning> {
    let shapes = [(8, 8), (16, 4), (16, 8), (32, 4), (32, 8), (16, 16)];
    let of = |(tile_x, tile_y)| {
        [8, 16, 32].map(|tile_depth| Tuning { tile_x, tile_y, tile_depth, by_subgroup: false, ..*now })
    };
    [*now].into_iter().chain(shapes.into_iter().flat_map(of)).collect()
}

/// The candidates as the device allows them, each once, in their order.
fn distinct(gpu: &Gpu, candidates: Vec<Tuning>) -> Vec<Tuning> {
    let mut found: Vec<Tuning> = Vec::new();
    for tuning in candidates.into_iter().map(|tuning| *gpu.with_tuning(tuning).tuning()) {
        if !found.contains(&tuning) {
            found.push(tuning);
        }
    }
    found
}

fn name_of(family: &str, tuning: &Tuning) -> String {
    let Tuning { workgroup, packed, widest, tile_x, tile_y, tile_depth, .. } = tuning;
    match family {
        "rows" => {
            let read = if tuning.wide && !tuning.wide_reads { ", read four bytes at a time" } else { "" };
            format!("{workgroup} lanes, {widest} at most{read}")
        }
        "short rows" => format!("{packed} lanes"),
        _ => {
            let [rows, cols] = tuning.tile();
            let how = if tuning.by_subgroup { ", by subgroup" } else { "" };
            format!("{rows} × {cols} by {tile_x} × {tile_y} lanes, {tile_depth} deep{how}")
        }
    }
}
