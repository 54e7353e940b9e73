//! The device under test, and helpers that more than one module needs.

use std::io::Write;
use std::sync::OnceLock;

use wgloss::verify::{self, Check, Held};
use wgloss::{Error, Gpu, Options, Recorder, Reduction, Result, Tensor, Tuning, tanh, wgpu};

#[allow(
    clippy::explicit_write,
    reason = "what print macros write is hidden where a test passes, as a skipped one does"
)]
fn say(text: &str) {
    writeln!(std::io::stderr(), "{text}").unwrap();
}

/// Opens the adapter that `WGLOSS_ADAPTER` names, or the best one. `None` only if `WGLOSS_NO_GPU` is 1; a message then
/// says so.
pub fn open(limits: Option<wgpu::Limits>) -> Option<Gpu> {
    if std::env::var("WGLOSS_NO_GPU").is_ok_and(|value| value == "1") {
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        say(&format!("SKIPPED {test}: WGLOSS_NO_GPU=1"));
        return None;
    }
    let options = Options { adapter: std::env::var("WGLOSS_ADAPTER").ok(), limits, ..Default::default() };
    let refuse =
        |error| panic!("{error}. These tests need a GPU or a software Vulkan driver; WGLOSS_NO_GPU=1 skips them.");
    Some(Gpu::open(&options).unwrap_or_else(refuse))
}

/// The device that tests share, with everything that its adapter allows.
pub fn gpu() -> Option<&'static Gpu> {
    static GPU: OnceLock<Option<Gpu>> = OnceLock::new();
    let shared = GPU.get_or_init(|| open(None)).as_ref();
    if shared.is_none() {
        open(None); // prints which test is skipped
    }
    shared
}

/// Between them: one subgroup in a workgroup and many; rows of one lane and of 128, whole and cut into segments; square
/// and other tiles. Without subgroups, `scale::default_limits_of_webgpu` runs.
const TUNINGS: [Tuning; 2] =
    [Tuning::SOFTWARE, Tuning { workgroup: 32, widest: 128, tile_x: 4, tile_y: 8, unrolled: false, ..Tuning::GPU }];

/// Runs an op's own cases under every tuning.
pub fn verifies(op: &str) {
    let Some(gpu) = gpu() else { return };
    verifies_on(&gpu.with_tuning(TUNINGS[0]), op, verify::run);
    verifies_on(&gpu.with_tuning(TUNINGS[1]), op, verify::run_briefly);
    for (seed, wide_reads) in [(1, true), (2, false)] {
        let gpu = gpu.with_tuning(Tuning { wide_reads, ..TUNINGS[0] });
        verifies_on(&gpu, op, |gpu, suite| verify::run_drawn(gpu, suite, seed));
    }
}

/// Runs an op's own cases on one device.
pub fn verifies_on(gpu: &Gpu, op: &str, run: impl Fn(&Gpu, verify::Suite) -> Result<verify::Report>) {
    let suite = verify::SUITES.iter().copied().find(|suite| suite.op == op).unwrap();
    let report = run(gpu, suite).unwrap();
    let list = report.failures.join("\n  ");
    assert!(report.failures.is_empty(), "{op} under {:?}:\n  {list}", gpu.tuning());
    assert!(report.compared > 0);
}

/// A matrix on the device with the contents `data`.
pub fn input<T: wgloss::Element>(gpu: &Gpu, rows: usize, cols: usize, data: &[T]) -> Held<T> {
    assert_eq!(data.len(), rows * cols);
    Check::new(gpu).input(rows, cols, data).unwrap()
}

/// A matrix on the device, filled with poison values.
pub fn output(gpu: &Gpu, rows: usize, cols: usize) -> Held {
    Check::new(gpu).output(rows, cols).unwrap()
}

/// The contents of a matrix on the device, in f64 like everything that it is compared with.
pub fn read(gpu: &Gpu, held: &Held) -> Vec<f64> {
    wide(&gpu.read(held.view().unwrap()).unwrap())
}

/// Whether a matrix is still as [`output`] made it.
pub fn untouched(gpu: &Gpu, held: &Held) -> bool {
    let values = gpu.read(held.view().unwrap()).unwrap();
    values.iter().all(|value| value.to_bits() == u32::MAX)
}

/// Whether the device flushes subnormal numbers to 0, as WGSL allows.
pub fn flushes_subnormals(gpu: &Gpu) -> bool {
    wgloss::linear::compute(gpu, &[1e-39], &[0.5], None, 1).unwrap() == [0.0]
}

/// Records a valid op and then `record`, which must be refused. Returns its error.
///
/// The valid op runs; `outputs` keep their contents.
pub fn refused(gpu: &Gpu, outputs: &[&Held], record: impl FnOnce(&mut Recorder) -> Result<()>) -> Error {
    let (x, y) = (input(gpu, 1, 2, &[0.0f32, f32::INFINITY]), output(gpu, 1, 2));
    let answer = gpu.run(|recorder| {
        tanh::forward(recorder, x.view()?, y.view()?)?;
        Ok(record(recorder))
    });
    assert_eq!(read(gpu, &y), [0.0, 1.0], "the op recorded before the refused one");
    for (index, output) in outputs.iter().enumerate() {
        assert!(untouched(gpu, output), "output {index} of a refused op was written");
    }
    answer.unwrap().expect_err("accepted")
}

/// The error for an argument of the wrong shape.
pub fn shape(op: &'static str, what: &'static str, expected: &str, found: &str) -> Error {
    Error::Shape { op, what, expected: expected.to_owned(), found: found.to_owned() }
}

/// The error for an option outside its range.
pub fn option(op: &'static str, option: &'static str, expected: &'static str, found: &str) -> Error {
    Error::Option { op, option, expected, found: found.to_owned() }
}

/// The error for an output that overlaps another argument.
pub fn overlap(op: &'static str, output: &'static str, other: &'static str) -> Error {
    Error::SameBuffer { op, output, other }
}

/// The largest magnitude.
pub fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |largest, value| largest.max(value.abs()))
}

/// Panics unless `got` has as many elements as `want`, each within `bound` of the element wanted.
#[track_caller]
pub fn assert_within(what: &str, got: &[f64], want: &[f64], bound: f64) {
    for (index, (got, want)) in got.iter().zip(want).enumerate() {
        let near = (got - want).abs() <= bound; // false for NaN
        assert!(near, "{what}[{index}]: got {got:e}, want {want:e} within {bound:e}");
    }
    assert_eq!(got.len(), want.len(), "{what}");
}

/// Panics unless each element is within `relative` of the element wanted, or is the same infinity, or is NaN where NaN
/// is wanted.
#[track_caller]
pub fn assert_close(got: &[f64], want: &[f64], relative: f64) {
    assert_eq!(got.len(), want.len(), "number of elements");
    for (index, (&got, &want)) in got.iter().zip(want).enumerate() {
        let same = got == want || (got.is_nan() && want.is_nan());
        let close = (got - want).abs() <= relative * want.abs(); // false for NaN
        assert!(same || close, "[{index}]: got {got:e}, want {want:e} within {relative:e} of it");
    }
}

/// Panics unless every element is NaN.
#[track_caller]
pub fn assert_nan(values: &[f64]) {
    assert!(values.iter().all(|value| value.is_nan()), "all NaN wanted: {values:?}");
}

/// Panics unless row `bad` of each of two outputs is NaN and all other rows are as wanted, bit for bit except for the
/// sign of zeros. Each output comes with its number of columns.
#[track_caller]
pub fn assert_nan_row(bad: usize, found: [(&[f64], usize); 2], want: [&[f64]; 2]) {
    for ((found, cols), want) in found.into_iter().zip(want) {
        assert_eq!(found.len(), want.len());
        for (row, (found, want)) in found.chunks(cols).zip(want.chunks(cols)).enumerate() {
            if row == bad { assert_nan(found) } else { assert_eq!(found, want, "row {row}") }
        }
    }
}

/// Panics unless two runs of the same computation give the same bits.
#[track_caller]
pub fn assert_repeats(compute: impl Fn() -> Vec<Vec<f64>>) {
    let bits = || compute().concat().into_iter().map(f64::to_bits).collect::<Vec<_>>();
    assert!(bits() == bits(), "two runs differ");
}

/// Panics unless `gradient` agrees with differences of `f` around `x`.
#[track_caller]
pub fn assert_gradient(x: &[f64], gradient: &[f64], f: impl Fn(&[f64]) -> f64) {
    let differences = (0..x.len()).map(|index| {
        let step = 1e-6 * x[index].abs().max(1.0);
        let at = |change: f64| {
            let mut moved = x.to_vec();
            moved[index] += change;
            f(&moved)
        };
        (at(step) - at(-step)) / (2.0 * step)
    });
    let scale = gradient.iter().fold(0.0f64, |largest, g| largest.max(g.abs()));
    assert!(scale > 0.0, "a gradient of zeros shows nothing");
    for (index, (difference, &gradient)) in differences.zip(gradient).enumerate() {
        let close = (difference - gradient).abs() <= 1e-6 * scale; // false for NaN
        assert!(close, "[{index}]: gradient {gradient:e}, differences give {difference:e}");
    }
}

/// Every reduction, with the number of losses that it gives for rows x cols elements.
pub fn losses_of(rows: usize, cols: usize) -> [(Reduction, usize); 5] {
    [
        (Reduction::None, rows * cols),
        (Reduction::Rows, rows),
        (Reduction::Sum, 1),
        (Reduction::Mean, 1),
        (Reduction::BatchMean, 1),
    ]
}

/// The number of rows of `cols` elements in `data`; two if `cols` is 0.
pub fn rows_in<T>(data: &[T], cols: usize) -> usize {
    data.len().checked_div(cols).unwrap_or(2)
}

/// The numbers in f64.
pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| value.into()).collect()
}

/// The shape of an element-wise loss.
pub fn element_losses(reduction: Reduction, [rows, cols]: [usize; 2]) -> [usize; 2] {
    match reduction {
        Reduction::None => [rows, cols],
        Reduction::Rows => [rows, 1],
        _ => [1, 1],
    }
}

/// The view of a matrix.
pub fn view<T: wgloss::Element>(held: &Held<T>) -> Tensor<'_, T> {
    held.view().unwrap()
}

/// Σ a b.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
