//! The file that `wgloss bench` writes and `wgloss report` and `wgloss compare` read. It has the same format as
//! benches/record.schema.json.

use std::collections::HashSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// The version of the format. The number changes if an older reader would misread the file.
pub const SCHEMA: &str = "wgloss-bench/1";

/// How the inputs of a case may be stored.
const STORAGES: [&str; 3] = ["f32", "f16", "bf16"];

/// By how much two runs on an idle machine may differ.
pub const NOISE: f64 = 0.05;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    pub schema: String,
    /// When the run began: seconds since 1970, UTC.
    pub unix_time: u64,
    pub provenance: Provenance,
    /// None in the result of another library, which is measured on the same adapter as a result of wgloss.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ceilings: Option<Ceilings>,
    pub cases: Vec<Case>,
}

/// What was measured, and on what.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// "wgloss 0.1.0", "PyTorch 2.11.0 compiled".
    pub by: String,
    pub adapter: String,
    /// "discrete GPU", "software" and so on.
    pub kind: String,
    pub driver: String,
    pub backend: String,
    pub os: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    pub cpu_threads: usize,
    /// The one-minute load when the run began, on systems that report it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load: Option<f64>,
    /// What else a repetition needs: versions, limits, features, sizes, hashes. Also `left_out`, the names of cases that were not run, and `stopped`, true if
    /// the run was ended early.
    pub details: serde_json::Map<String, serde_json::Value>,
}

impl Provenance {
    /// "nvidia-h200-bench.json"
    pub fn file_name(&self) -> String {
        format!("{}-bench.json", slug(&self.adapter))
    }

    /// "wgloss 0.1.0, NVIDIA H200, NVIDIA 580.159.04"
    pub fn title(&self) -> String {
        [&self.by, &self.adapter, &self.driver].map(String::as_str).join(", ")
    }
}

/// The most that the adapter can do, measured by small kernels that do nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ceilings {
    /// y = x, bytes read plus bytes written, in 10⁹ bytes per second.
    pub copy_gb_s: f64,
    /// y = x + 3 z, counted likewise.
    pub triad_gb_s: f64,
    /// Multiply-adds of f32 in registers, each counted as two operations, in 10¹² per second.
    pub fma_tflop_s: f64,
    /// The same for f16, if the device has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fma_f16_tflop_s: Option<f64>,
    /// Time per dispatch of empty dispatches that wait for each other, in 10⁻⁶ s.
    pub dispatch_us: f64,
    /// Time for an empty submit and the wait for it, by the host's clock.
    pub submit_us: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Clock {
    /// Timestamps that the device writes before and after the work.
    Device,
    /// From the submit to the end of the wait for it.
    Host,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub op: String,
    /// The sizes, as the op's documentation names them.
    pub shape: Vec<usize>,
    /// "f32", "f16" or "bf16": how the inputs are stored.
    pub storage: String,
    /// The least bytes that must move: every input read once, every output written once.
    pub bytes: f64,
    /// The least FLOP that must be computed, a multiply-add counted as two; 0 where only memory counts.
    pub flop: f64,
    pub clock: Clock,
    /// Seconds per call. A sample may be the mean of several calls.
    pub samples_s: Vec<f64>,
    /// Seconds for a copy and multiply-adds of fixed sizes, the mean of before and after the case: how fast the adapter
    /// itself was at that time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe_s: Option<f64>,
    /// CPU seconds of the process per call, all threads together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_s: Option<f64>,
    /// Seconds for the first call, including the compilation of its kernels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_s: Option<f64>,
    /// Bytes that the case adds to the memory in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// The error against f64, relative to the largest number of the row, of the output that comes nearest to its
    /// tolerance. None if nothing was compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<f64>,
    /// The largest error that is allowed, from what the same formula loses in plain f32.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<f64>,
}

impl Case {
    pub fn name(&self) -> String {
        name(&self.op, &self.shape, &self.storage)
    }

    /// The median of the samples.
    pub fn seconds(&self) -> f64 {
        quantile(&self.samples_s, 0.5)
    }

    /// Half the distance between the quartiles, as a share of the median.
    pub fn spread(&self) -> f64 {
        (quantile(&self.samples_s, 0.75) - quantile(&self.samples_s, 0.25)) / 2.0 / self.seconds()
    }

    pub fn is_right(&self) -> bool {
        self.error.zip(self.tolerance).is_none_or(|(error, tolerance)| error <= tolerance)
    }

    pub fn gb_s(&self) -> f64 {
        self.bytes / self.seconds() / 1e9
    }

    pub fn tflop_s(&self) -> f64 {
        self.flop / self.seconds() / 1e12
    }

    /// The fastest sample, which other programs on the machine disturb least.
    pub fn fastest(&self) -> f64 {
        quantile(&self.samples_s, 0.0)
    }

    /// The time that the adapter's own ceilings allow, as a share of the measured time. None for a wrong result, or if it is not said what must move.
    pub fn share(&self, ceilings: &Ceilings) -> Option<f64> {
        let least = self.least(ceilings);
        (self.is_right() && least > 0.0).then(|| least / self.seconds())
    }

    /// Whether arithmetic limits the case, and not memory.
    pub fn is_arithmetic(&self, ceilings: &Ceilings) -> bool {
        self.flop / ceilings.fma_tflop_s / 1e12 > self.bytes / ceilings.copy_gb_s / 1e9
    }

    fn least(&self, ceilings: &Ceilings) -> f64 {
        (self.flop / ceilings.fma_tflop_s / 1e12).max(self.bytes / ceilings.copy_gb_s / 1e9)
    }
}

/// "softmax 4096 × 4096", "softmax 4096 × 4096 bf16".
pub fn name(op: &str, shape: &[usize], storage: &str) -> String {
    let shape: Vec<String> = shape.iter().map(usize::to_string).collect();
    let storage = if storage == "f32" { String::new() } else { format!(" {storage}") };
    format!("{op} {}{storage}", shape.join(" × "))
}

/// "nvidia-h200"
pub fn slug(name: &str) -> String {
    let letters = name.to_lowercase();
    let words = letters.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-")
}

/// The geometric mean.
pub fn mean(ratios: &[f64]) -> f64 {
    (ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / ratios.len() as f64).exp()
}

/// A quantile, interpolated linearly between the samples.
pub fn quantile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let at = share * last as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

impl Record {
    /// # Errors
    ///
    /// What in the file is wrong, and where.
    pub fn read(path: &Path) -> Result<Record, Failure> {
        let name = path.display();
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::input(format!("{name}: expected a result of `wgloss bench`, found: {error}")))?;
        let any: serde_json::Value = serde_json::from_str(&text)
            .map_err(|error| Failure::input(format!("{name}: expected JSON, found: {error}")))?;
        match any.get("schema").and_then(serde_json::Value::as_str) {
            Some(SCHEMA) => {}
            found => {
                let found = found.unwrap_or("none");
                return Err(Failure::input(format!("{name}: expected the schema {SCHEMA}, found {found}")));
            }
        }
        let record: Record = serde_json::from_str(&text).map_err(|error| Failure::input(format!("{name}: {error}")))?;
        let mut names = HashSet::new();
        if let Some(twice) = record.cases.iter().map(Case::name).find(|name| !names.insert(name.clone())) {
            return Err(Failure::input(format!("{name}: expected each case once, found {twice} twice")));
        }
        record.check().map_err(|what| Failure::input(format!("{name}: {what}")))?;
        Ok(record)
    }

    /// Refuses numbers that no measurement gives: what follows divides by them and draws them on logarithmic axes.
    fn check(&self) -> Result<(), String> {
        let refuse = |place: &str, what: &str, expected: &str, found: f64| {
            Err(format!("{place}: {what}: expected {expected}, found {found}"))
        };
        if let Some(Ceilings { copy_gb_s, triad_gb_s, fma_tflop_s, fma_f16_tflop_s, dispatch_us, submit_us }) =
            self.ceilings
        {
            let rates = [
                ("copy_gb_s", Some(copy_gb_s)),
                ("triad_gb_s", Some(triad_gb_s)),
                ("fma_tflop_s", Some(fma_tflop_s)),
                ("fma_f16_tflop_s", fma_f16_tflop_s),
                ("dispatch_us", Some(dispatch_us)),
                ("submit_us", Some(submit_us)),
            ];
            for (what, value) in rates.into_iter().filter_map(|(what, value)| Some((what, value?))) {
                if !(1e-6..=1e9).contains(&value) {
                    return refuse("ceilings", what, "from 1e-6 to 1e9", value);
                }
            }
        }
        for case in &self.cases {
            let name = case.name();
            if !STORAGES.contains(&&*case.storage) {
                return Err(format!("{name}: storage: expected one of {}", STORAGES.join(", ")));
            }
            if case.samples_s.is_empty() {
                return Err(format!("{name}: samples_s: expected samples, found none"));
            }
            let times = case.samples_s.iter().map(|&seconds| ("samples_s", seconds));
            let times = times.chain(case.probe_s.map(|seconds| ("probe_s", seconds)));
            for (what, seconds) in times {
                if !(1e-9..=1e9).contains(&seconds) {
                    return refuse(&name, what, "from 1e-9 to 1e9 s", seconds);
                }
            }
            // The peers' scripts do not say what must move, where they were not told by a result of `wgloss bench`.
            let is_unsaid = self.ceilings.is_none() && case.bytes == 0.0 && case.flop == 0.0;
            if !is_unsaid && !(1.0..=1e18).contains(&case.bytes) {
                return refuse(&name, "bytes", "from 1 to 1e18", case.bytes);
            }
            if !(case.flop == 0.0 || (1.0..=1e24).contains(&case.flop)) {
                return refuse(&name, "flop", "0, or from 1 to 1e24", case.flop);
            }
            if case.error.is_some() != case.tolerance.is_some() {
                return Err(format!("{name}: expected error and tolerance, or neither, found one of them"));
            }
        }
        Ok(())
    }

    /// The case of a name.
    pub fn find(&self, name: &str) -> Option<&Case> {
        self.cases.iter().find(|case| case.name() == name)
    }

    /// Cases that did not fit the adapter's memory or the time, by name.
    pub fn left_out(&self) -> Vec<&str> {
        let names = self.provenance.details.get("left_out").and_then(serde_json::Value::as_array);
        names.into_iter().flatten().filter_map(serde_json::Value::as_str).collect()
    }

    /// Whether the samples differ by more than those of two runs on an idle machine, or the adapter was slower than at
    /// its best by more than that.
    pub fn is_noisy(&self, case: &Case) -> bool {
        let best = self.cases.iter().filter_map(|case| case.probe_s).fold(f64::INFINITY, f64::min);
        case.spread() > NOISE || case.probe_s.is_some_and(|seconds| seconds > (1.0 + NOISE) * best)
    }

    /// JSON with one line per case. With one line per sample the file would be hard to read.
    pub fn text(&self) -> String {
        let head = Record { cases: Vec::new(), ..self.clone() };
        let head = serde_json::to_string_pretty(&head).unwrap_or_default();
        let cases: Vec<String> =
            self.cases.iter().map(|case| serde_json::to_string(case).unwrap_or_default()).collect();
        head.replace("\"cases\": []", &format!("\"cases\": [\n    {}\n  ]", cases.join(",\n    "))) + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Numbers that no measurement gives, of which some would make a plot of them endless.
    #[test]
    fn absurd_numbers_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("result.json");
        let told = |place: &str, value: serde_json::Value| {
            let mut record = json!({
                "schema": SCHEMA, "unix_time": 0,
                "provenance": {"by": "", "adapter": "", "kind": "", "driver": "", "backend": "", "os": "", "cpu_threads": 2, "details": {}},
                "ceilings": {"copy_gb_s": 100.0, "triad_gb_s": 100.0, "fma_tflop_s": 1.0, "dispatch_us": 1.0, "submit_us": 1.0},
                "cases": [{"op": "l2", "shape": [7], "storage": "f32", "bytes": 168.0, "flop": 2.0, "clock": "device", "samples_s": [1.0],
                    "probe_s": 1.0, "error": 0.0, "tolerance": 1e-7}],
            });
            *record.pointer_mut(place).unwrap() = value;
            std::fs::write(&path, record.to_string()).unwrap();
            Record::read(&path).map(drop).map_err(|failure| failure.message)
        };
        assert_eq!(told("/unix_time", json!(5)), Ok(()));
        for (place, value, want) in [
            ("/ceilings/copy_gb_s", json!(0.0), "ceilings: copy_gb_s: expected from 1e-6 to 1e9, found 0"),
            ("/ceilings/fma_tflop_s", json!(-1.0), "found -1"),
            ("/cases/0/bytes", json!(0.0), "l2 7: bytes: expected from 1 to 1e18, found 0"),
            ("/cases/0/bytes", json!(1e-300), "bytes"),
            ("/cases/0/flop", json!(-2.0), "flop"),
            ("/cases/0/samples_s", json!([]), "samples_s"),
            ("/cases/0/samples_s", json!([1.0, 1e300]), "samples_s: expected from 1e-9 to 1e9 s"),
            ("/cases/0/probe_s", json!(0.0), "probe_s"),
            ("/cases/0/storage", json!("f64"), "storage: expected one of f32, f16, bf16"),
            ("/cases/0/tolerance", json!(null), "expected error and tolerance"),
        ] {
            let told = told(place, value).unwrap_err();
            assert!(told.starts_with(&path.display().to_string()) && told.contains(want), "{place}: {told}");
        }
    }
}
