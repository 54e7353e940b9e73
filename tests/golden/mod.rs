//! The golden case bank: inputs, f64 results and gradients from PyTorch, checked against JAX, and the rule by
//! which an f32 result passes. `FORMAT.md` beside this file defines all of it.
//!
//! A runner loops over [`cases`], computes each output, hands it to [`Score::check`], and ends with
//! [`Score::finish`].

use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::sync::OnceLock;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Must pass.
    Strict,
    /// -inf inputs with a defined result. Must pass.
    Mask,
    /// The exact result exceeds f32: an infinity is wanted. Must pass.
    Range,
    /// NaN or infinity in or out: PyTorch's policy, compared and reported only.
    Edge,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Value,
    /// With respect to the input of the same name, of L = sum(gy * main output).
    Grad,
}

pub struct Case {
    pub id: String,
    pub class: Class,
    pub options: Value,
    pub outputs: Vec<Output>,
    inputs: &'static [Value],
}

pub struct Input {
    pub name: String,
    pub shape: Vec<usize>,
    pub data: Vec<f32>,
}

#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    pub atol: f64,
    pub rtol: f64,
}

pub struct Output {
    pub name: String,
    pub kind: Kind,
    pub shape: Vec<usize>,
    pub tol: Tolerance,
    /// The grade to publish.
    pub tight: Tolerance,
    /// PyTorch's own f32 misses this by far: reported, never failed.
    pub stretch: bool,
    /// Whether PyTorch's own f32 is within `tight`: the figure to beat.
    pub torch_in_tight: bool,
    /// Every element, or the sampled ones where there is a digest.
    pub expected: Vec<f64>,
    pub digest: Option<Digest>,
    class: Class,
    label: String,
}

/// Stands in for the elements of a large output.
pub struct Digest {
    /// Flat index of each sample in `Output::expected`.
    pub index: Vec<usize>,
    pub sum: f64,
    pub sum_abs: f64,
}

/// How close a passing result is.
#[derive(Clone, Copy, Debug)]
pub struct Grade {
    pub in_tight: bool,
    pub worst_abs: f64,
    /// In units of the f32 spacing at the expected value, so large where that is nearly 0.
    pub worst_ulp: f64,
}

/// All cases of one op of the bank, by the bank's name for it ("l2_normalize", "infonce", ...).
pub fn cases(op: &str) -> Vec<Case> {
    let found: Vec<Case> = (bank().cases().iter().filter(|case| case["op"] == op)).map(Case::new).collect();
    assert!(!found.is_empty(), "the bank has no op {op}");
    found
}

impl Case {
    fn new(spec: &'static Value) -> Self {
        let id = text(&spec["id"]);
        let class = match text(&spec["class"]) {
            "strict" => Class::Strict,
            "mask" => Class::Mask,
            "range" => Class::Range,
            "edge" => Class::Edge,
            other => panic!("{id}: class {other}"),
        };
        Self {
            id: id.to_string(),
            class,
            options: spec["options"].clone(),
            outputs: list(&spec["outputs"]).iter().map(|output| Output::new(id, class, output)).collect(),
            inputs: list(&spec["inputs"]),
        }
    }

    pub fn has(&self, input: &str) -> bool {
        self.inputs.iter().any(|spec| spec["name"] == input)
    }

    /// Whether an input holds indices, to read with `ids`: a cross_entropy target may hold either.
    pub fn has_ids(&self, input: &str) -> bool {
        self.inputs.iter().any(|spec| spec["name"] == input && spec["dtype"] == "i32")
    }

    pub fn input(&self, name: &str) -> Input {
        let (shape, bits) = self.bits(name, "f32");
        Input { name: name.to_string(), shape, data: bits.into_iter().map(f32::from_bits).collect() }
    }

    pub fn ids(&self, name: &str) -> (Vec<usize>, Vec<i32>) {
        let (shape, bits) = self.bits(name, "i32");
        (shape, bits.into_iter().map(|bits| bits as i32).collect())
    }

    /// The 32-bit patterns of an input, checked against the bank's checksum.
    fn bits(&self, name: &str, dtype: &str) -> (Vec<usize>, Vec<u32>) {
        let spec = self.inputs.iter().find(|spec| spec["name"] == name);
        let spec = spec.unwrap_or_else(|| panic!("{}: no input {name}", self.id));
        assert_eq!(spec["dtype"], dtype, "{}: input {name}", self.id);
        let shape = shape(&spec["shape"]);
        let bits = decode(&spec["src"], shape.iter().product());
        let sum = (1u64..).step_by(2).zip(&bits);
        let sum = sum.fold(0u64, |sum, (weight, &bits)| sum.wrapping_add(weight.wrapping_mul(bits.into())));
        assert_eq!(sum, hex(&spec["wsum64"]), "{}: checksum of input {name}", self.id);
        (shape, bits)
    }

    /// An option of the case or, for optimisers, of its "hyper" table; null if absent.
    pub fn option(&self, name: &str) -> &Value {
        self.options.get(name).unwrap_or(&self.options["hyper"][name])
    }

    pub fn f64(&self, name: &str) -> Option<f64> {
        self.option(name).as_f64()
    }

    pub fn int(&self, name: &str) -> Option<i64> {
        self.option(name).as_i64()
    }

    pub fn text(&self, name: &str) -> &str {
        self.option(name).as_str().unwrap_or_else(|| panic!("{}: no text option {name}", self.id))
    }

    /// False if absent.
    pub fn flag(&self, name: &str) -> bool {
        self.option(name).as_bool().unwrap_or(false)
    }

    fn find(&self, name: &str, kind: Kind) -> Option<&Output> {
        self.outputs.iter().find(|output| output.name == name && output.kind == kind)
    }

    pub fn wants(&self, name: &str, kind: Kind) -> bool {
        self.find(name, kind).is_some()
    }

    pub fn output(&self, name: &str, kind: Kind) -> &Output {
        self.find(name, kind).unwrap_or_else(|| panic!("{}: no output {kind:?} {name}", self.id))
    }
}

impl Output {
    fn new(id: &str, class: Class, spec: &Value) -> Self {
        let name = text(&spec["name"]).to_string();
        let kind = if spec["kind"] == "grad" { Kind::Grad } else { Kind::Value };
        let tolerance = |spec: &Value| Tolerance { atol: float(&spec["atol"]), rtol: float(&spec["rtol"]) };
        let shape = shape(&spec["shape"]);
        let f64s = |spec: &Value, offset: &str, count: usize| -> Vec<f64> {
            let bytes = bank().bytes(&spec["file"], &spec[offset], count * 8);
            bytes.chunks_exact(8).map(|value| f64::from_le_bytes(value.try_into().unwrap())).collect()
        };
        let (expected, digest) = match spec.get("digest") {
            None => (f64s(&spec["src"], "offset", shape.iter().product()), None),
            Some(digest) => {
                let samples = &digest["samples"];
                let count = int(&samples["count"]);
                let index = words(bank().bytes(&samples["file"], &samples["idx_offset"], count * 4));
                let index = index.into_iter().map(|index| index as usize).collect();
                let digest = Digest { index, sum: float(&digest["sum"]), sum_abs: float(&digest["sum_abs"]) };
                (f64s(samples, "val_offset", count), Some(digest))
            }
        };
        Self {
            label: format!("{id} {kind:?} {name}"),
            name,
            kind,
            shape,
            tol: tolerance(&spec["tol"]),
            tight: tolerance(&spec["tight"]),
            stretch: spec["stretch"] == true,
            torch_in_tight: spec["torch_f32"]["in_tight"] == true,
            expected,
            digest,
            class,
        }
    }

    /// Passes or fails a result. A failure names the element furthest outside its tolerance.
    pub fn judge(&self, got: &[f32]) -> Result<Grade, String> {
        let label = &self.label;
        let len: usize = self.shape.iter().product();
        if got.len() != len {
            return Err(format!("{label}: {} values, want {len}", got.len()));
        }
        let mut grade = Grade { in_tight: true, worst_abs: 0.0, worst_ulp: 0.0 };
        let (mut outside, mut worst) = (0, (0.0, String::new()));
        for (sample, &want) in self.expected.iter().enumerate() {
            let index = self.digest.as_ref().map_or(sample, |digest| digest.index[sample]);
            let (got, tol) = (got[index], self.tol.at(want));
            let error = distance(got, want);
            // A device may flush denormals.
            let flushed = got == 0.0 && want.abs() < f32::MIN_POSITIVE.into();
            let passes = error <= tol || flushed; // false for NaN
            if !passes {
                outside += 1;
                let ratio = error / tol;
                if ratio > worst.0 {
                    worst = (ratio, format!("[{index}]: got {got:e}, want {want:e} +- {tol:.1e}"));
                }
            }
            grade.in_tight &= error <= self.tight.at(want) || flushed;
            grade.worst_abs = grade.worst_abs.max(error);
            grade.worst_ulp = grade.worst_ulp.max(error / ulp(want));
        }
        if outside > 0 {
            return Err(format!("{label}{} ({outside} of {} off)", worst.1, self.expected.len()));
        }
        if let Some(digest) = &self.digest {
            let sum: f64 = got.iter().copied().map(f64::from).sum();
            let tol = 1e-5 * digest.sum_abs + self.tol.atol * (len as f64).sqrt();
            let want = digest.sum;
            let passes = (sum - want).abs() <= tol; // false for NaN
            if !passes {
                return Err(format!("{label}: elements sum to {sum:e}, want {want:e} +- {tol:.1e}"));
            }
        }
        Ok(grade)
    }
}

impl Tolerance {
    /// 0 for NaN and infinities, which only match themselves.
    fn at(self, want: f64) -> f64 {
        if want.is_finite() { self.atol + self.rtol * want.abs() } else { 0.0 }
    }
}

/// |got - want|: 0 where NaN meets NaN or an infinity meets what f32 cannot hold, infinite where only one is such.
fn distance(got: f32, want: f64) -> f64 {
    let same = if want.is_nan() {
        got.is_nan()
    } else if want.abs() > f32::MAX.into() {
        got == f32::INFINITY.copysign(want as f32)
    } else if got.is_finite() {
        return (f64::from(got) - want).abs();
    } else {
        false
    };
    if same { 0.0 } else { f64::INFINITY }
}

/// The spacing of f32 numbers at a value.
fn ulp(value: f64) -> f64 {
    let exponent = (value.abs().to_bits() >> 52) as i32 - 1023;
    2f64.powi(exponent.max(-126) - 23)
}

/// The results of one op, case by case.
#[derive(Default)]
pub struct Score {
    entries: Vec<Entry>,
    skipped: Vec<String>,
}

struct Entry {
    label: String,
    standing: Standing,
    value: bool,
    torch_in_tight: bool,
    result: Result<Grade, String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Required,
    Stretch,
    Edge,
}

impl Score {
    pub fn check(&mut self, output: &Output, got: &[f32]) {
        self.add(output, output.judge(got));
    }

    /// For a call that returned an error: no output of the case passes.
    pub fn refused(&mut self, case: &Case, error: impl Display) {
        for output in &case.outputs {
            self.add(output, Err(format!("{}: refused: {error}", output.label)));
        }
    }

    /// For an output the library does not compute: reported, and not counted.
    pub fn skip(&mut self, output: &Output, reason: impl Display) {
        self.skipped.push(format!("{}: {reason}", output.label));
    }

    fn add(&mut self, output: &Output, result: Result<Grade, String>) {
        self.entries.push(Entry {
            label: output.label.clone(),
            standing: match output.class {
                Class::Edge => Standing::Edge,
                _ if output.stretch => Standing::Stretch,
                _ => Standing::Required,
            },
            value: output.kind == Kind::Value,
            torch_in_tight: output.torch_in_tight,
            result,
        });
    }

    /// Prints the summary, then panics if a required output failed or any was forgotten.
    pub fn finish(self, op: &str) {
        let of = |standing| self.entries.iter().filter(move |entry| entry.standing == standing);
        let passed = |standing| {
            let passed = of(standing).filter(|entry| entry.result.is_ok()).count();
            format!("{passed}/{}", of(standing).count())
        };
        let grades = || of(Standing::Required).filter_map(|e| Some((e, *e.result.as_ref().ok()?)));
        println!(
            "golden {op}: {} passed, {} tight (PyTorch f32: {}), worst value {:.2} ulp; \
             stretch {}, edges as PyTorch {}",
            passed(Standing::Required),
            grades().filter(|(_, grade)| grade.in_tight).count(),
            of(Standing::Required).filter(|entry| entry.torch_in_tight).count(),
            grades().filter(|(e, _)| e.value).fold(0.0, |worst, (_, g)| g.worst_ulp.max(worst)),
            passed(Standing::Stretch),
            passed(Standing::Edge),
        );
        let mut failures = Vec::new();
        for entry in &self.entries {
            match (&entry.result, entry.standing) {
                (Ok(_), _) => {}
                (Err(message), Standing::Required) => failures.push(message.clone()),
                (Err(message), standing) => println!("  {standing:?} {message}"),
            }
        }
        for line in &self.skipped {
            println!("  Skipped {line}");
        }
        let checked = self.entries.iter().map(|entry| entry.label.as_str());
        let skipped = self.skipped.iter().filter_map(|line| Some(line.split_once(": ")?.0));
        let seen: BTreeSet<&str> = checked.chain(skipped).collect();
        for output in cases(op).iter().flat_map(|case| &case.outputs) {
            if !seen.contains(output.label.as_str()) {
                failures.push(format!("{}: never checked", output.label));
            }
        }
        let list = failures.join("\n  ");
        assert!(failures.is_empty(), "golden {op}: {} failed\n  {list}", failures.len());
    }
}

/// The elements with dimension `dim` last and all others flattened: (rows, columns, data). A 0-d tensor is 1 x 1.
pub fn rows_of(shape: &[usize], dim: i64, data: &[f32]) -> (usize, usize, Vec<f32>) {
    let (rows, cols, order) = row_order(shape, dim);
    (rows, cols, order.into_iter().map(|at| data[at]).collect())
}

/// The inverse of `rows_of`: rows in the original layout.
pub fn back(shape: &[usize], dim: i64, rows: &[f32]) -> Vec<f32> {
    let (_, _, order) = row_order(shape, dim);
    assert_eq!(rows.len(), order.len());
    let mut data = vec![0.0; rows.len()];
    for (at, &value) in order.into_iter().zip(rows) {
        data[at] = value;
    }
    data
}

/// Rows, columns, and for each element in row order its flat index in the original layout.
fn row_order(shape: &[usize], dim: i64) -> (usize, usize, Vec<usize>) {
    if shape.is_empty() {
        return (1, 1, vec![0]);
    }
    let dim = usize::try_from(if dim < 0 { dim + shape.len() as i64 } else { dim }).unwrap();
    let (outer, cols, inner): (usize, _, usize) =
        (shape[..dim].iter().product(), shape[dim], shape[dim + 1..].iter().product());
    let rows = (0..outer).flat_map(|outer| (0..inner).map(move |inner| (outer, inner)));
    let order = rows.flat_map(|(o, i)| (0..cols).map(move |col| (o * cols + col) * inner + i)).collect();
    (outer * inner, cols, order)
}

struct Bank {
    manifest: Value,
    inputs: Vec<u8>,
    expected: Vec<u8>,
}

fn bank() -> &'static Bank {
    static BANK: OnceLock<Bank> = OnceLock::new();
    BANK.get_or_init(|| {
        let read = |file: &str| {
            let path = format!("{}/tests/golden/{file}", env!("CARGO_MANIFEST_DIR"));
            std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
        };
        let manifest = serde_json::from_slice(&read("manifest.json")).expect("manifest.json");
        Bank { manifest, inputs: read("inputs.bin"), expected: read("expected.bin") }
    })
}

impl Bank {
    fn cases(&self) -> &[Value] {
        list(&self.manifest["cases"])
    }

    fn bytes(&self, file: &Value, offset: &Value, len: usize) -> &[u8] {
        let file = if file == "inputs.bin" { &self.inputs } else { &self.expected };
        &file[int(offset)..][..len]
    }
}

/// The 32-bit patterns of a tensor that is stored or generated from a seed.
fn decode(src: &Value, len: usize) -> Vec<u32> {
    let Some(generator) = src["gen"].as_str() else {
        assert_eq!(int(&src["bytes"]), len * 4);
        return words(bank().bytes(&src["file"], &src["offset"], len * 4));
    };
    let seed = hex(&src["seed"]);
    let (scale, shift, modulus) = (src["scale"].as_f64(), src["shift"].as_f64(), src["mod"].as_u64());
    let symmetric = |z: u64| (z >> 40) as f64 / 8_388_608.0 - 1.0;
    let value = |unit: f64| ((unit * scale.unwrap() + shift.unwrap()) as f32).to_bits();
    let element = |z: u64| match generator {
        "u" => value(symmetric(z)),
        "u3" => value(symmetric(z) * symmetric(z) * symmetric(z)),
        "pos" => value((z >> 40) as f64 / 16_777_216.0),
        "idx" => ((z >> 33) % modulus.unwrap()) as u32,
        other => panic!("generator {other}"),
    };
    let mut bits: Vec<u32> = (0..len as u64).map(|i| element(splitmix64(seed, i))).collect();
    for patch in src["patch"].as_array().into_iter().flatten() {
        bits[int(&patch[0])] = patch[1].as_i64().unwrap() as u32;
    }
    bits
}

fn splitmix64(seed: u64, index: u64) -> u64 {
    let z = seed.wrapping_add((index + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn float(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

fn int(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

fn shape(value: &Value) -> Vec<usize> {
    list(value).iter().map(int).collect()
}

fn hex(value: &Value) -> u64 {
    u64::from_str_radix(text(value).trim_start_matches("0x"), 16).unwrap()
}

fn all_cases() -> impl Iterator<Item = Case> {
    bank().cases().iter().map(Case::new)
}

fn rounded(output: &Output) -> Vec<f32> {
    output.expected.iter().map(|&want| want as f32).collect()
}

#[test]
fn golden_inputs_match_their_checksums() {
    assert_eq!(bank().manifest["count"], all_cases().count());
    for case in all_cases() {
        for spec in case.inputs {
            let name = text(&spec["name"]);
            assert!(case.has(name));
            if case.has_ids(name) {
                case.ids(name);
            } else {
                let Input { name: same, shape, data } = case.input(name);
                assert_eq!((same.as_str(), data.len()), (name, shape.iter().product()));
            }
        }
    }
}

#[test]
fn golden_exact_results_pass_and_others_fail() {
    for output in all_cases().flat_map(|case| case.outputs).filter(|o| o.digest.is_none()) {
        let mut got = rounded(&output);
        let grade = output.judge(&got).unwrap();
        assert!(grade.in_tight && grade.worst_ulp <= 0.5 && grade.worst_abs.is_finite());
        assert!(output.judge(&[got.as_slice(), &[0.0]].concat()).is_err());
        for index in (0..got.len()).step_by(got.len() / 16 + 1) {
            let want = output.expected[index];
            let wrong = if want.is_nan() {
                [0.0, f32::INFINITY, f32::NEG_INFINITY]
            } else if want.abs() > f32::MAX.into() {
                [f32::MAX.copysign(want as f32), f32::INFINITY.copysign(-want as f32), f32::NAN]
            } else {
                [(want + 2.0 * output.tol.at(want)) as f32, f32::INFINITY, f32::NAN]
            };
            let right = got[index];
            for wrong in wrong {
                got[index] = wrong;
                let message = output.judge(&got).unwrap_err();
                assert!(message.contains(&format!("[{index}]: got {wrong:e}, want {want:e}")));
            }
            got[index] = right;
        }
    }
}

#[test]
fn golden_digest_judges_samples_and_sum() {
    let id = "kl_div/shape_257x1021_batchmean_log0";
    let case = cases("kl_div").into_iter().find(|case| case.id == id).unwrap();
    let output = case.output("x", Kind::Grad);
    let sampled = &output.digest.as_ref().unwrap().index;
    let exact: Vec<f32> = case.input("t").data.iter().map(|t| -t / 257.0).collect();
    assert!(output.judge(&exact).unwrap().in_tight);

    let mut one_off = exact.clone();
    one_off[sampled[7]] *= 1.001;
    assert!(output.judge(&one_off).unwrap_err().contains("(1 of 1025 off)"));
    let mut rest_off: Vec<f32> = exact.iter().map(|value| value * 1.001).collect();
    sampled.iter().for_each(|&at| rest_off[at] = exact[at]);
    assert!(output.judge(&rest_off).unwrap_err().contains("elements sum to"));
}

#[test]
fn golden_options_and_outputs_are_found() {
    let case = cases("sgd").into_iter().find(|case| case.id == "sgd/n3").unwrap();
    assert_eq!((case.int("steps"), case.f64("momentum")), (Some(5), Some(0.9)));
    assert!(case.flag("nesterov") && !case.flag("maximize") && case.f64("dampening").is_none());
    assert_eq!(case.text("grad_at_step"), case.options["grad_at_step"]);
    assert!(case.wants("momentum_buffer", Kind::Value) && !case.wants("p", Kind::Grad));
}

#[test]
fn golden_score_fails_what_is_required() {
    let passes = |spoilt: Option<Class>, forgotten: usize| {
        let mut score = Score::default();
        for case in cases("log_softmax").into_iter().chain(cases("softmax")).skip(forgotten) {
            if spoilt == Some(case.class) {
                score.refused(&case, "spoilt");
            } else if case.class == Class::Strict {
                case.outputs.iter().for_each(|output| score.check(output, &rounded(output)));
            } else {
                case.outputs.iter().for_each(|output| score.skip(output, "another test"));
            }
        }
        std::panic::catch_unwind(|| score.finish("log_softmax")).is_ok()
    };
    assert!(passes(None, 0) && passes(Some(Class::Edge), 0));
    assert!(!passes(None, 1) && !passes(Some(Class::Strict), 0));
    assert!(!passes(Some(Class::Mask), 0) && !passes(Some(Class::Range), 0));
}

#[test]
fn golden_rows_and_back() {
    let shape = [2, 3, 4, 5];
    let data: Vec<f32> = (0..120u8).map(f32::from).collect();
    let (rows, cols, moved) = rows_of(&shape, 1, &data);
    assert_eq!((rows, cols, &moved[..4]), (40, 3, &[0.0, 20.0, 40.0, 1.0][..]));
    for dim in -4..4 {
        assert_eq!(back(&shape, dim, &rows_of(&shape, dim, &data).2), data);
    }
    assert_eq!(rows_of(&shape, -1, &data), (24, 5, data));
    assert_eq!(rows_of(&[], 0, &[7.0]), (1, 1, vec![7.0]));
    assert_eq!(rows_of(&[5, 0, 2], 1, &[]), (10, 0, vec![]));
}
