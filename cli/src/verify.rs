use std::process::ExitCode;
use std::time::Instant;

use wgloss::verify::SUITES;

use crate::failure::Failure;
use crate::{progress, table};

#[derive(clap::Args)]
pub struct Arguments {
    /// The adapter, by its number in `wgloss adapters` or a part of its name.
    #[arg(long)]
    adapter: Option<String>,
    /// Only these ops, separated by commas.
    #[arg(long, value_delimiter = ',')]
    op: Vec<String>,
}

pub fn verify(arguments: &Arguments) -> Result<ExitCode, Failure> {
    crate::check_ops(&arguments.op, &SUITES.map(|(op, _)| op))?;
    let asked = |op: &str| arguments.op.is_empty() || arguments.op.iter().any(|wish| wish == op);
    let gpu = crate::open(arguments.adapter.as_deref()).map_err(crate::no_adapter)?;
    println!("adapter: {}", crate::describe(gpu.info()));
    println!("wgloss {}, each output compared with the f64 reference\n", env!("CARGO_PKG_VERSION"));
    let suites: Vec<_> = SUITES.into_iter().filter(|(op, _)| asked(op)).collect();
    let bar = progress::bar(suites.len() as u64, "{pos}/{len} {msg}");
    let mut table = table::with_header(["op", "outputs", "worst error, ulp", "relative", "seconds", ""], 1..5);
    let mut failures = Vec::new();
    for (op, suite) in suites {
        bar.set_message(op);
        let start = Instant::now();
        let report = wgloss::verify::run(&gpu, suite);
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
        bar.inc(1);
    }
    bar.finish_and_clear();
    println!("{table}");
    println!("ulp: units in the last place of a row's largest element or, for sums, of their terms' magnitudes");
    for failure in &failures {
        println!("{failure}");
    }
    Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}
