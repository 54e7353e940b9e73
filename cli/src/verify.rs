use std::process::ExitCode;
use std::time::Instant;

use indicatif::ProgressBar;
use wgloss::verify::{self, Report, SUITES, Suite};

use crate::failure::Failure;
use crate::stop::{self, Stop};
use crate::{progress, table};

#[derive(clap::Args)]
pub struct Arguments {
    /// The adapter, by its number in `wgloss adapters` or a part of its name.
    #[arg(long)]
    adapter: Option<String>,
    /// Only these ops, separated by commas.
    #[arg(long, value_delimiter = ',')]
    op: Vec<String>,
    /// Run so many random cases of each op instead of the fixed ones: shapes, layouts, kinds of numbers, storages, options and workspaces. Ctrl-C stops after
    /// the current case.
    #[arg(long, value_name = "CASES", value_parser = clap::value_parser!(u64).range(1..))]
    random: Option<u64>,
    /// Seed of the first random case; each further case has the next one. All machines draw the same cases. A failure names its seed.
    #[arg(long, default_value_t = 1, requires = "random")]
    seed: u64,
}

pub fn verify(arguments: &Arguments) -> Result<ExitCode, Failure> {
    crate::check_ops(&arguments.op, &SUITES.iter().map(|suite| suite.op).collect::<Vec<_>>())?;
    let asked = |op: &str| arguments.op.is_empty() || arguments.op.iter().any(|wish| wish == op);
    let gpu = crate::open(arguments.adapter.as_deref()).map_err(crate::no_adapter)?;
    println!("adapter: {}", crate::describe(gpu.info()));
    println!("wgloss {}, each output compared with the f64 reference\n", env!("CARGO_PKG_VERSION"));
    let suites: Vec<_> = SUITES.iter().copied().filter(|suite| asked(suite.op)).collect();
    Stop::on_ctrl_c()?;
    let bar = progress::bar((suites.len() as u64).saturating_mul(arguments.random.unwrap_or(1)), "{pos}/{len} {msg}");
    let mut table = table::with_header(["op", "outputs", "worst error, ulp", "relative", "seconds", ""], 1..5);
    let mut failures = Vec::new();
    for suite in suites {
        let op = suite.op;
        bar.set_message(op);
        let start = Instant::now();
        let report = match arguments.random {
            Some(cases) => Ok(random(arguments, suite, cases, &bar)),
            None => verify::run(&gpu, suite),
        };
        bar.inc(u64::from(arguments.random.is_none()));
        let seconds = format!("{:.1}", start.elapsed().as_secs_f64());
        match report {
            Ok(report) => {
                let verdict = match report.failures.len() {
                    0 => "pass".to_owned(),
                    count => format!("FAIL, {count} of {}", report.compared),
                };
                let (ulp, relative) = (format!("{:.1}", report.worst_ulp), format!("{:.1e}", report.worst_relative));
                table.add_row([op.to_owned(), report.compared.to_string(), ulp, relative, seconds, verdict]);
                failures.extend(report.failures.into_iter().map(|failure| format!("{op}: {failure}")));
            }
            Err(error) => {
                table.add_row([op, "", "", "", &seconds, "FAIL, error"]);
                failures.push(format!("{op}: {error}"));
            }
        }
        if stop::asked() {
            break;
        }
    }
    bar.finish_and_clear();
    println!("{table}");
    if stop::asked() {
        println!("stopped: not all ops, or not all of their cases, have run");
    }
    println!("ulp: units in the last place of a row's largest element or, for sums, of their terms' magnitudes");
    // Failures of random cases were printed at once.
    for failure in failures.iter().filter(|_| arguments.random.is_none()) {
        println!("{failure}");
    }
    Ok(if failures.is_empty() { stop::code() } else { ExitCode::from(1) })
}

/// The number of random cases after which another device is opened. Most random cases have kernels of their own, which
/// a device keeps.
const CASES_OF_A_DEVICE: u64 = 32;

/// Runs random cases of an op until the user asks for an end. An error of a case counts as a failure of that case.
fn random(arguments: &Arguments, suite: Suite, cases: u64, bar: &ProgressBar) -> Report {
    let open = || crate::open(arguments.adapter.as_deref());
    let (mut all, mut gpu) = (Report::default(), open());
    for case in 0..cases {
        if case > 0 && case.is_multiple_of(CASES_OF_A_DEVICE) {
            gpu = open();
        }
        let seed = arguments.seed.wrapping_add(case);
        let report = gpu.as_ref().map_err(Clone::clone).and_then(|gpu| verify::run_drawn(gpu, suite, seed));
        let report = report.unwrap_or_else(|error| Report { failures: vec![error.to_string()], ..Report::default() });
        all.compared += report.compared;
        all.worst_ulp = all.worst_ulp.max(report.worst_ulp);
        all.worst_relative = all.worst_relative.max(report.worst_relative);
        for failure in report.failures {
            let failure = format!("seed {seed}: {failure}");
            bar.suspend(|| println!("{}: {failure}", suite.op));
            all.failures.push(failure);
        }
        bar.inc(1);
        if stop::asked() {
            break;
        }
    }
    all
}
