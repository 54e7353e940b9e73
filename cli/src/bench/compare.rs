//! `wgloss compare`: compares two results of the same cases, and says which case is faster by more than noise.

use std::path::PathBuf;
use std::process::ExitCode;

use super::duration;
use super::record::{self, Case, Record, quantile};
use crate::failure::Failure;
use crate::table;

#[derive(clap::Args)]
pub struct Arguments {
    /// The result to compare with.
    before: PathBuf,
    /// The result that is compared.
    after: PathBuf,
    /// Exit with code 1 if a case is slower by more than this and by more than noise, or wrong, or missing.
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    fail_on_regress: Option<f64>,
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.trim().trim_end_matches('%').trim().parse::<f64>();
    let share = number.ok().filter(|percent| (0.0..=1000.0).contains(percent)).map(|percent| percent / 100.0);
    share.ok_or_else(|| "expected a percentage, like 10%".to_owned())
}

/// The outcome of comparing two sets of samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Faster,
    Slower,
    /// The quartiles overlap, or the medians differ by less than 2 %.
    Same,
    Wrong,
}

impl Verdict {
    /// The verdict on `after`. `drift`: see [`drift`].
    pub fn of(before: &Case, after: &Case, drift: f64) -> Verdict {
        let quartiles = |case: &Case| [0.25, 0.75].map(|share| quantile(&case.samples_s, share));
        let ([fast_before, slow_before], [fast_after, slow_after]) = (quartiles(before), quartiles(after));
        let ratio = after.seconds() / before.seconds();
        match () {
            () if !after.is_right() => Verdict::Wrong,
            () if ratio * drift < 1.0 / 1.02 && slow_after * drift < fast_before => Verdict::Faster,
            () if ratio / drift > 1.02 && fast_after / drift > slow_before => Verdict::Slower,
            () => Verdict::Same,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Verdict::Faster => "faster",
            Verdict::Slower => "SLOWER",
            Verdict::Same => "same",
            Verdict::Wrong => "WRONG",
        }
    }
}

/// The slowest probe of both results over the fastest: the factor by which the speed of the adapter itself varied,
/// whatever the kernels. 1 if the adapters or processors differ.
pub fn drift(before: &Record, after: &Record) -> f64 {
    let place = |record: &Record| (record.provenance.adapter.clone(), record.provenance.cpu.clone());
    if place(before) != place(after) {
        return 1.0;
    }
    let probes = || before.cases.iter().chain(&after.cases).filter_map(|case| case.probe_s);
    probes().reduce(f64::max).zip(probes().reduce(f64::min)).map_or(1.0, |(slowest, fastest)| slowest / fastest)
}

/// The cases that are in both results.
pub fn pairs<'a>(before: &'a Record, after: &'a Record) -> Vec<(&'a Case, &'a Case)> {
    let partner = |case: &&Case| before.cases.iter().find(|other| other.name() == case.name());
    after.cases.iter().filter_map(|case| Some((partner(&case)?, case))).collect()
}

/// The geometric mean of after / before.
pub fn mean(pairs: &[(&Case, &Case)]) -> f64 {
    record::mean(&pairs.iter().map(|(old, new)| new.seconds() / old.seconds()).collect::<Vec<_>>())
}

pub fn compare(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let (before, after) = (Record::read(&arguments.before)?, Record::read(&arguments.after)?);
    let pairs = pairs(&before, &after);
    if pairs.is_empty() {
        return Err(Failure::input(format!(
            "{} and {}: expected results with some cases in common, found none",
            arguments.before.display(),
            arguments.after.display()
        )));
    }
    println!("before: {}\nafter:  {}\n", before.provenance.title(), after.provenance.title());
    if before.provenance.adapter != after.provenance.adapter {
        println!("Two adapters: what differs is not the program's alone.\n");
    }
    let mut table = table::with_header(["", "before", "after", "after / before", ""], 1..4);
    let (drift, mut failed) = (drift(&before, &after), Vec::new());
    for &(old, new) in &pairs {
        let ratio = new.seconds() / old.seconds();
        let verdict = Verdict::of(old, new, drift);
        let regressed = arguments.fail_on_regress.is_some_and(|most| verdict == Verdict::Slower && ratio > 1.0 + most);
        if regressed || verdict == Verdict::Wrong {
            failed.push(new.name());
        }
        let times = [old, new].map(|case| duration(case.seconds()));
        let [old, after] = times;
        table.add_row([new.name(), old, after, format!("{ratio:.2}"), verdict.name().to_owned()]);
    }
    table.add_row([
        "geometric mean".to_owned(),
        String::new(),
        String::new(),
        format!("{:.2}", mean(&pairs)),
        String::new(),
    ]);
    println!("{table}");
    println!("faster, slower: the medians differ by more than 2 % and the quartiles do not overlap");
    if drift > 1.02 {
        println!(
            "The adapter itself was faster or slower at times, by a factor of {drift:.2} for a copy and multiply-adds of fixed sizes: what differs by less is called the same."
        );
    }
    let only = |one: &Record, other: &Record| -> Vec<String> {
        let is_there = |name: &String| other.cases.iter().any(|case| case.name() == *name);
        one.cases.iter().map(Case::name).filter(|name| !is_there(name)).collect()
    };
    let gone = only(&before, &after);
    for (path, names) in [(&arguments.before, &gone), (&arguments.after, &only(&after, &before))] {
        if !names.is_empty() {
            println!("only in {}: {}", path.display(), names.join(", "));
        }
    }
    failed.extend(gone);
    if arguments.fail_on_regress.is_some() && !failed.is_empty() {
        println!("failed: {}", failed.join(", "));
        return Ok(ExitCode::from(1));
    }
    Ok(ExitCode::SUCCESS)
}
