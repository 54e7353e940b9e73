//! `wgloss compare`: compares two results of the same cases, and says which case is faster by more than noise.

use std::path::PathBuf;
use std::process::ExitCode;

use super::record::{self, Case, Ceilings, Provenance, Record, quantile};
use super::{duration, rate};
use crate::failure::Failure;
use crate::table;

#[derive(clap::Args)]
pub struct Arguments {
    /// The result to compare with.
    before: PathBuf,
    /// The result that is compared.
    after: PathBuf,
    /// Exit with code 1 if a case is slower by more than this and by more than noise, or wrong, or missing. Otherwise exit with code 3 if a case took longer by
    /// more than this, but noise, a slower adapter or another clock may explain it.
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    fail_on_regress: Option<f64>,
}

/// The exit code if no case failed, but some case took longer by more than the limit and this may be noise, a slower adapter or another clock.
const CANNOT_TELL: u8 = 3;

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
    /// The quartiles overlap, or the medians or the fastest samples are within 2 %.
    Same,
    /// The times differ, but one is noisy, or so did the adapter itself meanwhile, or the clock.
    Unclear,
    Wrong,
    /// It was wrong before, and is right.
    Righted,
}

/// Times whose ratio is at most this count as the same.
const LEAST: f64 = 1.02;

impl Verdict {
    /// `drift`: see [`drift`]. `is_noisy`: whether one of them is.
    fn of(before: &Case, after: &Case, drift: f64, is_noisy: bool) -> Verdict {
        // Whether `one` takes longer than `scale` times `other`: by the median, by the fastest sample, and with quartiles that do not overlap.
        let is_longer = |one: &Case, other: &Case, scale: f64| {
            let quartile = |case: &Case, share| quantile(&case.samples_s, share);
            one.seconds() > LEAST * scale * other.seconds()
                && one.fastest() > LEAST * scale * other.fastest()
                && quartile(one, 0.25) > scale * quartile(other, 0.75)
        };
        match () {
            () if !after.is_right() => Verdict::Wrong,
            () if !before.is_right() => Verdict::Righted,
            () if !is_longer(after, before, 1.0) && !is_longer(before, after, 1.0) => Verdict::Same,
            () if is_noisy || before.clock != after.clock => Verdict::Unclear,
            () if is_longer(after, before, drift.max(1.0)) => Verdict::Slower,
            () if is_longer(before, after, drift.recip().max(1.0)) => Verdict::Faster,
            () => Verdict::Unclear,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Verdict::Faster => "faster",
            Verdict::Slower => "SLOWER",
            Verdict::Same => "same",
            Verdict::Unclear => "cannot tell",
            Verdict::Wrong => "WRONG",
            Verdict::Righted => "was WRONG",
        }
    }

    /// Whether both results are right. Only then does the ratio of the times enter the mean.
    fn has_times(self) -> bool {
        !matches!(self, Verdict::Wrong | Verdict::Righted)
    }
}

/// Two times of one case.
pub struct Pair<'a> {
    pub before: &'a Case,
    pub after: &'a Case,
    pub verdict: Verdict,
}

impl Pair<'_> {
    pub fn ratio(&self) -> f64 {
        self.after.seconds() / self.before.seconds()
    }
}

/// Two results, case by case.
pub struct Comparison<'a> {
    pub pairs: Vec<Pair<'a>>,
    /// What else differs, a sentence each.
    pub notes: Vec<String>,
    /// Cases that only the first result has, and cases that only the second has. Cases that the other result left out are not listed.
    pub only: [Vec<String>; 2],
}

impl Comparison<'_> {
    pub fn of<'a>(before: &'a Record, after: &'a Record) -> Comparison<'a> {
        let pairs = after.cases.iter().filter_map(|new| {
            let old = before.find(&new.name())?;
            let is_noisy = before.is_noisy(old) || after.is_noisy(new);
            let drift = if is_one_machine(before, after) { drift(old, new) } else { 1.0 };
            let verdict = Verdict::of(old, new, drift, is_noisy);
            Some(Pair { before: old, after: new, verdict })
        });
        let only = |one: &'a Record, other: &'a Record| -> Vec<String> {
            let left_out = other.left_out();
            let names = one.cases.iter().map(Case::name);
            names.filter(|name| other.find(name).is_none() && !left_out.contains(&&**name)).collect()
        };
        Comparison {
            pairs: pairs.collect(),
            notes: notes(before, after),
            only: [only(before, after), only(after, before)],
        }
    }

    /// The geometric mean of after / before; none without a case that both have right.
    pub fn mean(&self) -> Option<f64> {
        let right = self.pairs.iter().filter(|pair| pair.verdict.has_times());
        let ratios: Vec<f64> = right.map(Pair::ratio).collect();
        (!ratios.is_empty()).then(|| record::mean(&ratios))
    }
}

/// The probe's time beside the second case divided by that beside the first: how much slower the adapter itself was, whatever the kernels. 1 if a probe is
/// missing.
fn drift(before: &Case, after: &Case) -> f64 {
    before.probe_s.zip(after.probe_s).map_or(1.0, |(before, after)| after / before)
}

fn is_one_machine(before: &Record, after: &Record) -> bool {
    let place = |record: &Record| {
        let provenance = &record.provenance;
        (provenance.adapter.clone(), provenance.cpu.clone(), provenance.cpu_threads)
    };
    place(before) == place(after)
}

/// What makes the times of two results differ besides the kernels.
fn notes(before: &Record, after: &Record) -> Vec<String> {
    let (old, new) = (&before.provenance, &after.provenance);
    let detail = |record: &Record, name: &str| match record.provenance.details.get(name) {
        Some(value) => value.as_str().map_or_else(|| value.to_string(), str::to_owned),
        None => "not told".to_owned(),
    };
    let processor = |of: &Provenance| {
        let cpu = of.cpu.as_deref().unwrap_or("?");
        format!("{cpu}, {} threads", of.cpu_threads)
    };
    let both = [
        ("adapter", [old.adapter.clone(), new.adapter.clone()]),
        ("driver", [old.driver.clone(), new.driver.clone()]),
        ("backend", [old.backend.clone(), new.backend.clone()]),
        ("system", [old.os.clone(), new.os.clone()]),
        ("processor", [old, new].map(processor)),
        ("program", [old.by.clone(), new.by.clone()]),
        ("text of the shaders", [before, after].map(|record| detail(record, "shaders"))),
        ("tuning", [before, after].map(|record| detail(record, "tuning"))),
    ];
    let differing = both.into_iter().filter(|(_, [old, new])| old != new);
    let mut notes: Vec<String> =
        differing.map(|(what, [old, new])| format!("The {what} differs: {old}; {new}.")).collect();
    if let (true, Some(old), Some(new)) = (is_one_machine(before, after), before.ceilings, after.ceilings) {
        let rates = |of: fn(&Ceilings) -> f64| [of(&old), of(&new)];
        for (what, unit, [old, new]) in [
            ("Copy", "GB/s", rates(|ceilings| ceilings.copy_gb_s)),
            ("Multiply-add", "TFLOP/s", rates(|ceilings| ceilings.fma_tflop_s)),
        ] {
            if !(1.0 / (1.0 + record::NOISE)..=1.0 + record::NOISE).contains(&(new / old)) {
                notes.push(format!("{what} itself went from {} to {} {unit}.", rate(old), rate(new)));
            }
        }
    }
    notes
}

pub fn compare(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let (before, after) = (Record::read(&arguments.before)?, Record::read(&arguments.after)?);
    let comparison = Comparison::of(&before, &after);
    if comparison.pairs.is_empty() {
        return Err(Failure::input(format!(
            "{} and {}: expected results with some cases in common, found none",
            arguments.before.display(),
            arguments.after.display()
        )));
    }
    println!("before: {}\nafter:  {}\n", before.provenance.title(), after.provenance.title());
    comparison.notes.iter().for_each(|note| println!("{note}"));
    let mut table = table::with_header(["", "before", "after", "after / before", ""], 1..4);
    let (mut failed, mut unclear) = (Vec::new(), Vec::new());
    for pair in &comparison.pairs {
        let exceeds = arguments.fail_on_regress.is_some_and(|most| pair.ratio() > 1.0 + most);
        match pair.verdict {
            Verdict::Wrong => failed.push(pair.after.name()),
            Verdict::Slower if exceeds => failed.push(pair.after.name()),
            Verdict::Unclear if exceeds => unclear.push(pair.after.name()),
            _ => {}
        }
        table.add_row([
            pair.after.name(),
            duration(pair.before.seconds()),
            duration(pair.after.seconds()),
            format!("{:.2}", pair.ratio()),
            pair.verdict.name().to_owned(),
        ]);
    }
    let mean = comparison.mean().map_or("—".to_owned(), |mean| format!("{mean:.2}"));
    table.add_row(["geometric mean", "", "", &mean, ""]);
    println!("{table}");
    println!(
        "faster, slower: the medians and the fastest samples differ by more than 2 %, and the quartiles do not overlap"
    );
    if comparison.pairs.iter().any(|pair| pair.verdict == Verdict::Unclear) {
        println!(
            "cannot tell: a time is noisy, or was taken by another clock, or differs by no more than the probe (a copy and multiply-adds of fixed sizes, timed before and after each case); measure again on an idle machine"
        );
    }
    for (path, names) in [&arguments.before, &arguments.after].into_iter().zip(&comparison.only) {
        if !names.is_empty() {
            println!("only in {}: {}", path.display(), names.join(", "));
        }
    }
    let [gone, _] = comparison.only;
    failed.extend(gone);
    if arguments.fail_on_regress.is_none() {
        return Ok(ExitCode::SUCCESS);
    }
    if !failed.is_empty() {
        println!("failed: {}", failed.join(", "));
        return Ok(ExitCode::from(1));
    }
    if !unclear.is_empty() {
        println!("cannot tell of: {}", unclear.join(", "));
        return Ok(ExitCode::from(CANNOT_TELL));
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A result of cases of one op each: its samples, its probe.
    fn result(cases: &[(&str, &[f64], f64)]) -> Record {
        let case = |(op, samples, probe): &(&str, &[f64], f64)| {
            json!({"op": op, "shape": [7, 3], "storage": "f32", "bytes": 168.0, "flop": 0.0, "clock": "device", "samples_s": samples, "probe_s": probe,
                "error": 1e-8, "tolerance": 1e-7})
        };
        let record = json!({
            "schema": record::SCHEMA, "unix_time": 0,
            "provenance": {"by": "wgloss", "adapter": "card", "kind": "other", "driver": "1.0", "backend": "vulkan", "os": "linux", "cpu_threads": 2,
                "details": {"shaders": "a"}},
            "ceilings": {"copy_gb_s": 100.0, "triad_gb_s": 100.0, "fma_tflop_s": 1.0, "dispatch_us": 1.0, "submit_us": 1.0},
            "cases": cases.iter().map(case).collect::<Vec<_>>(),
        });
        serde_json::from_value(record).unwrap()
    }

    fn verdicts(before: &Record, after: &Record) -> Vec<Verdict> {
        Comparison::of(before, after).pairs.iter().map(|pair| pair.verdict).collect()
    }

    #[test]
    fn what_samples_and_probes_say() {
        use Verdict::{Faster, Same, Slower, Unclear};
        let steady = [0.99, 1.0, 1.0, 1.0, 1.01];
        let of = |times: f64| steady.map(|one| one * times);
        // l2: its time and its probe in the second result; they are 2 and 1 in the first. The time of bce does not change.
        for (times, probe, want) in [
            (4.0, 1.0, Slower),
            (1.0, 1.0, Faster),
            (2.02, 1.0, Same),
            (2.6, 1.3, Unclear),
            (4.0, 1.3, Slower),
            (1.5, 0.7, Unclear),
            (4.0, 0.7, Slower),
            (1.0, 1.3, Faster),
        ] {
            let before = result(&[("l2", &of(2.0), 1.0), ("bce", &of(1.0), 1.0)]);
            let after = result(&[("l2", &of(times), probe), ("bce", &of(1.0), 5.0)]);
            assert_eq!(verdicts(&before, &after), [want, Same], "{times} {probe}");
        }
        // Other programs disturb only some samples, so the fastest sample is compared, too.
        let (quiet, disturbed) = ([1.0; 8], [1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]);
        let (quiet, disturbed) = (result(&[("l2", &quiet, 1.0)]), result(&[("l2", &disturbed, 1.0)]));
        assert_eq!(verdicts(&quiet, &disturbed), [Same]);
    }

    #[test]
    fn wrong_answers_have_no_times() {
        let before = result(&[("l2", &[1.0], 1.0), ("bce", &[1.0], 1.0), ("kl", &[1.0], 1.0)]);
        let mut after = result(&[("l2", &[1e-3], 1.0), ("bce", &[1e3], 1.0), ("kl", &[2.0], 1.0)]);
        after.cases[0].error = Some(1.0);
        let mut before_wrong = before.clone();
        before_wrong.cases[1].error = Some(1.0);
        let comparison = Comparison::of(&before_wrong, &after);
        assert_eq!(verdicts(&before_wrong, &after), [Verdict::Wrong, Verdict::Righted, Verdict::Slower]);
        assert_eq!(comparison.mean(), Some(2.0));
    }

    #[test]
    fn what_else_differs_is_told() {
        let before = result(&[("l2", &[1.0], 1.0), ("bce", &[1.0], 1.0)]);
        assert!(Comparison::of(&before, &before).notes.is_empty());
        let mut after = result(&[("l2", &[2.0], 1.0)]);
        after.provenance.driver = "2.0".into();
        after.provenance.details.insert("shaders".into(), "b".into());
        after.ceilings.as_mut().unwrap().copy_gb_s = 50.0;
        let notes = Comparison::of(&before, &after).notes;
        let want = [
            "The driver differs: 1.0; 2.0.",
            "The text of the shaders differs: a; b.",
            "Copy itself went from 100 to 50.0 GB/s.",
        ];
        assert_eq!(notes, want);
        assert_eq!(Comparison::of(&before, &after).only[0], ["bce 7 × 3"]);
        after.provenance.details.insert("left_out".into(), json!(["bce 7 × 3"]));
        assert!(Comparison::of(&before, &after).only[0].is_empty());
        after.cases[0].clock = record::Clock::Host;
        assert_eq!(verdicts(&before, &after), [Verdict::Unclear]);
    }
}
