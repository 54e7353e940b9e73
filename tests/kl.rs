use wgloss::kl::{self, Divergence, Form, Gradients, Options};
use wgloss::verify::{Fill, Held};
use wgloss::{Accum, Gpu, Reduction, Tuning, reference};

use crate::golden::{self, Case, Found, Kind, rows_of};
use crate::harness::*;

/// The loss, dx and dt; `dy` is empty for ones.
pub fn by_reference(x: &[f32], t: &[f32], cols: usize, dy: &[f32], options: Options) -> [Vec<f64>; 3] {
    let (x, t) = (wide(x), wide(t));
    let loss = reference::kl::forward(&x, &t, cols, options);
    let [dx, dt] = reference::kl::backward(&x, &t, cols, &wide(dy), options);
    [loss, dx, dt]
}

fn loss_shape(rows: usize, cols: usize, reduction: Reduction) -> [usize; 2] {
    match reduction {
        Reduction::None => [rows, cols],
        Reduction::Rows => [rows, 1],
        _ => [1, 1],
    }
}

/// Panics unless two pipelines found the same, up to how each of them was compiled.
#[track_caller]
fn same(found: &[f64], others: &[f64]) {
    let most = found.iter().filter(|value| value.is_finite()).fold(0.0f64, |most, value| most.max(value.abs()));
    for (found, other) in found.iter().zip(others) {
        let near = (found - other).abs() <= 1e-6 * most;
        assert!(
            near || found == other || (found.is_nan() && other.is_nan()),
            "{found:e} and {other:e} beside {most:e}"
        );
    }
}

/// The loss, dx and dt; the forward must give the same with and without gradients, and the backward the same gradients.
pub fn on_device(gpu: &Gpu, x: &[f32], t: &[f32], cols: usize, dy: &[f32], options: Options) -> [Vec<f64>; 3] {
    let rows = rows_in(x, cols);
    let (x, t) = (input(gpu, rows, cols, x), input(gpu, rows, cols, t));
    let [loss_rows, loss_cols] = loss_shape(rows, cols, options.reduction);
    let dy = (!dy.is_empty()).then(|| input(gpu, loss_rows, loss_cols, dy));
    let (loss, alone) = (output(gpu, loss_rows, loss_cols), output(gpu, loss_rows, loss_cols));
    let [dx, dt, fused_dx, fused_dt] = [(); 4].map(|()| output(gpu, rows, cols));
    let record = gpu.run(|r| {
        let (x, t) = (x.view()?, t.view()?);
        kl::forward(r, x, t, alone.view()?, Gradients::default(), options)?;
        let gradients = Gradients { dx: Some(fused_dx.view()?), dt: Some(fused_dt.view()?) };
        kl::forward(r, x, t, loss.view()?, gradients, options)?;
        let gradients = Gradients { dx: Some(dx.view()?), dt: Some(dt.view()?) };
        kl::backward(r, x, t, dy.as_ref().map(Held::view).transpose()?, gradients, options)
    });
    record.unwrap();
    same(&read(gpu, &alone), &read(gpu, &loss));
    if dy.is_none() {
        same(&read(gpu, &dx), &read(gpu, &fused_dx));
        same(&read(gpu, &dt), &read(gpu, &fused_dt));
    }
    [read(gpu, &loss), read(gpu, &dx), read(gpu, &dt)]
}

#[test]
fn verified() {
    verifies("kl");
}

fn outputs(
    case: &Case,
    logits: bool,
    compute: impl Fn(&[f32], &[f32], usize, &[f32], Options) -> [Vec<f64>; 3],
) -> Found {
    let (x, t) = (case.input("x"), case.input("t"));
    let (_, cols, _) = rows_of(&x.shape, -1, &x.data);
    let form = match case.flag("log_target") {
        _ if logits => Form::Logits,
        true => Form::LogQLogP,
        false => Form::LogQ,
    };
    let options = Options {
        form,
        temperature: case.f64("temperature").unwrap_or(1.0) as f32,
        scale_t2: case.flag("scale_t2"),
        reduction: case.reduction(),
        ..Default::default()
    };
    let [loss, dx, dt] = compute(&x.data, &t.data, cols, &case.gy(), options);
    Ok(vec![("loss", Kind::Value, loss), ("x", Kind::Grad, dx), ("t", Kind::Grad, dt)])
}

#[test]
fn golden() {
    let Some(gpu) = gpu() else { return };
    for (op, logits) in [("kl_div", false), ("kl_logits", true)] {
        golden::grade(op, |case| {
            outputs(case, logits, |x, t, cols, dy, options| on_device(gpu, x, t, cols, dy, options))
        });
    }
}

#[test]
fn golden_reference() {
    for (op, logits) in [("kl_div", false), ("kl_logits", true)] {
        golden::grade_reference(op, 1e-6, |case| outputs(case, logits, by_reference));
    }
}

const DIVERGENCES: [Divergence; 5] = [
    Divergence::Kl,
    Divergence::ReverseKl,
    Divergence::JensenShannon { beta: 0.5 },
    Divergence::JensenShannon { beta: 0.1 },
    Divergence::TotalVariation,
];
const FORMS: [Form; 4] = [Form::Logits, Form::Probabilities, Form::LogQ, Form::LogQLogP];

/// Every form of the first divergence, every divergence of logits.
fn variants() -> impl Iterator<Item = Options> {
    let forms = FORMS.map(|form| Options { form, ..Default::default() });
    let divergences = DIVERGENCES.map(|divergence| Options { divergence, ..Default::default() });
    let kinds = forms.into_iter().chain(divergences);
    kinds.flat_map(|options| [options, Options { temperature: 0.4, scale_t2: true, ..options }])
}

/// One of each way to the gradients, for what each kernel does in the same lines: a software adapter takes seconds to compile one.
fn ways() -> impl Iterator<Item = Options> {
    let plain = Options::default();
    [plain, Options { divergence: DIVERGENCES[2], ..plain }, Options { form: Form::LogQ, ..plain }].into_iter()
}

#[test]
fn reference_gradient() {
    let (x, logits) = (wide(&Fill::Small.matrix(3, 5, 1)), wide(&Fill::Outlier.matrix(3, 5, 2)));
    let shares: Vec<f64> = wide(&Fill::Small.matrix(3, 5, 3)).iter().map(|t| t + 1.1).collect();
    for options in variants() {
        let t = if matches!(options.form, Form::Probabilities | Form::LogQ) { &shares } else { &logits };
        for (reduction, count) in losses_of(3, 5) {
            if reduction == Reduction::None && options.divergence != Divergence::Kl {
                continue;
            }
            let options = Options { reduction, ..options };
            let dy = wide(&Fill::Small.matrix(count, 1, 4));
            let [dx, dt] = reference::kl::backward(&x, t, 5, &dy, options);
            assert_gradient(&x, &dx, |x| dot(&reference::kl::forward(x, t, 5, options), &dy));
            assert_gradient(t, &dt, |t| dot(&reference::kl::forward(&x, t, 5, options), &dy));
        }
    }
}

/// The divergences of (½, ½) from (¼, ¾) by hand, and that each form says the same.
#[test]
fn reference_values() {
    let [p, q] = [[0.5f32, 0.5], [0.25, 0.75]];
    let logs = |side: [f32; 2]| side.map(|p| p.ln());
    let of = |x: &[f32], t: &[f32], options| by_reference(x, t, 2, &[], options)[0][0];
    let forth = 0.5 * 2f64.ln() + 0.5 * (2.0 / 3f64).ln();
    let back = 0.25 * 0.5f64.ln() + 0.75 * 1.5f64.ln();
    let mid = 0.5 * (0.5 * (4.0 / 3f64).ln() + 0.5 * 0.8f64.ln() + 0.25 * (2.0 / 3f64).ln() + 0.75 * 1.2f64.ln());
    let want = [forth, back, mid];
    for (divergence, want) in DIVERGENCES.into_iter().zip(want).chain([(Divergence::TotalVariation, 0.25)]) {
        let options = Options { divergence, ..Default::default() };
        assert_close(&[of(&logs(q), &logs(p), options)], &[want], 1e-6);
        let tempered = Options { temperature: 2.0, scale_t2: true, ..options };
        let doubled = |side: [f32; 2]| logs(side).map(|log| 2.0 * log);
        assert_close(&[of(&doubled(q), &doubled(p), tempered)], &[4.0 * want], 1e-6);
    }
    for form in FORMS {
        let t = if matches!(form, Form::Probabilities | Form::LogQ) { p } else { logs(p) };
        assert_close(&[of(&logs(q), &t, Options { form, ..Default::default() })], &[forth], 1e-6);
    }
}

#[test]
fn reference_masks() {
    let (masked, inf) = (f32::NEG_INFINITY, f64::INFINITY);
    for options in variants() {
        // Both sides masked; the model's alone; the target's alone; all of both.
        let probabilities = matches!(options.form, Form::Probabilities | Form::LogQ);
        let mask = if probabilities { 0.0 } else { masked };
        let of = |x: [f32; 3], t: [f32; 3]| by_reference(&x, &t, 3, &[], options);
        let [loss, dx, dt] = of([0.0, 0.3, masked], [0.1, 0.4, mask]);
        let finite = [&loss[..], &dx, &dt].concat().into_iter().all(f64::is_finite);
        assert!(finite && dx[2] == 0.0 && dt[2] == 0.0, "{options:?}: {loss:?} {dx:?} {dt:?}");
        let [model, _, _] = of([0.0, masked, 0.3], [0.1, 0.4, 0.2]);
        let [target, dx, _] = of([0.0, 0.2, 0.3], [0.1, mask, 0.2]);
        let (of_model, of_target) = match options.divergence {
            Divergence::Kl => (inf, 0.0),
            Divergence::ReverseKl => (0.0, inf),
            _ => (0.0, 0.0),
        };
        assert_eq!((model[0] == inf, target[0] == inf), (of_model == inf, of_target == inf), "{options:?}");
        assert!(of_target == inf || dx.iter().all(|dx| dx.is_finite()), "{options:?}: {dx:?}");
        assert_eq!(of([masked; 3], [mask; 3]), [vec![0.0], vec![0.0; 3], vec![0.0; 3]], "{options:?}");
    }
}

/// In f32, where e^x and differences of large numbers leave the range.
#[test]
fn reference_of_finite_inputs_is_no_nan() {
    let values = [0.0, 1e-40, 1.0, -90.0, 1e4, -1e30, f32::MAX, -f32::MAX];
    for options in variants() {
        for temperature in [1e-30, 1.0, 1e30] {
            for (index, t) in values.into_iter().enumerate() {
                let x: Vec<f32> = (0..3).map(|other| values[(index * other + other) % values.len()]).collect();
                let t = [t, 0.0, values[(index + 3) % values.len()]];
                let t = if options.form == Form::Logits { t } else { t.map(|t| -t.abs()) };
                let t = if matches!(options.form, Form::Probabilities | Form::LogQ) { t.map(f32::exp) } else { t };
                let options = Options { temperature, scale_t2: false, ..options };
                let loss = reference::kl::forward(&x, &t, 3, options);
                let gradients = reference::kl::backward(&x, &t, 3, &[], options);
                let found = [loss, gradients.concat()].concat();
                assert!(found.iter().all(|value| !value.is_nan()), "{options:?} {x:?} {t:?}: {found:?}");
            }
        }
    }
}

/// Rows of one lane, of some, of a whole workgroup, and cut into segments.
const WIDTHS: [usize; 4] = [4, 40, 700, 20_000];

/// What `Form::Probabilities` and `Form::LogQ` take for t.
fn target(form: Form, logs: Vec<f32>) -> Vec<f32> {
    match form {
        Form::Logits => logs,
        Form::Probabilities | Form::LogQ => logs.into_iter().map(|t| (-t.abs()).exp()).collect(),
        Form::LogQLogP => logs.into_iter().map(|t| -t.abs()).collect(),
    }
}

/// The masks of `reference_masks`, and a row of nothing but them.
#[test]
fn masks() {
    let Some(gpu) = gpu() else { return };
    let masked = f32::NEG_INFINITY;
    for options in variants() {
        let options = Options { reduction: Reduction::Rows, ..options };
        let mask = if matches!(options.form, Form::Probabilities | Form::LogQ) { 0.0 } else { masked };
        let rows = [
            ([-1.0, -0.7, masked], [0.1, 0.4, mask]),
            ([-1.0, -0.7, -0.2], [0.1, 0.4, mask]),
            ([-1.0, masked, -0.2], [0.1, 0.4, 0.2]),
            ([masked; 3], [mask; 3]),
            ([-1.0, -0.7, -0.2], [0.3, 0.4, 0.2]),
        ];
        let (x, t) = (rows.map(|row| row.0).concat(), rows.map(|row| row.1).concat());
        let [loss, dx, dt] = on_device(gpu, &x, &t, 3, &[], options);
        let [want, want_dx, want_dt] = by_reference(&x, &t, 3, &[], options);
        for row in 0..5 {
            let at = 3 * row..3 * row + 3;
            let (found, wanted) = (loss[row], want[row]);
            // Divergences of 0 are noise in f64 too.
            let near = wanted.is_finite() && (found - wanted).abs() <= 4e-6 * wanted.abs().max(1.0);
            assert!(near || found == wanted, "{options:?} {row}: {found} {wanted}");
            if row == 2 && options.divergence == Divergence::Kl {
                assert_close(&dx[at.clone()], &want_dx[at.clone()], 4e-6); // −p/T at the mask
            }
            // Where p = q but for rounding, the total variation's gradient has either sign.
            let tie = options.divergence == Divergence::TotalVariation && row == 0;
            if want[row].is_finite() && !tie {
                let found = [&dx[at.clone()], &dt[at.clone()]].concat();
                let wanted = [&want_dx[at.clone()], &want_dt[at]].concat();
                for (found, want) in found.iter().zip(&wanted) {
                    assert!((found - want).abs() <= 4e-6 * want.abs().max(1.0), "{options:?} {row}: {found} {want}");
                }
            }
        }
    }
}

#[test]
fn a_negative_probability() {
    let Some(gpu) = gpu() else { return };
    for form in [Form::Probabilities, Form::LogQ] {
        let options = Options { form, reduction: Reduction::Rows, ..Default::default() };
        let [loss, dx, dt] = on_device(gpu, &[-1.0, -0.7, -0.2], &[0.3, -0.1, 0.2], 3, &[], options);
        assert_nan(&[loss[0], dt[1]]);
        assert!(dx.iter().chain([&dt[0], &dt[2]]).all(|slope| slope.is_finite()), "{form:?}: {dx:?} {dt:?}");
    }
}

/// A row that holds NaN or +inf gives NaN; the rows beside it are what they are without it.
#[test]
fn poisoned_rows() {
    let Some(gpu) = gpu() else { return };
    for cols in WIDTHS {
        for divergence in DIVERGENCES {
            for bad in [f32::NAN, f32::INFINITY] {
                let options = Options { divergence, reduction: Reduction::Rows, ..Default::default() };
                let [clean_x, clean_t] = [3, 4].map(|seed| Fill::Small.matrix(4, cols, seed));
                let (mut x, mut t) = (clean_x.clone(), clean_t.clone());
                (x[cols + 1], t[3 * cols - 1]) = (bad, bad);
                let found = on_device(gpu, &x, &t, cols, &[], options);
                let clean = on_device(gpu, &clean_x, &clean_t, cols, &[], options);
                for (found, clean) in found.iter().zip(&clean) {
                    let width = found.len() / 4;
                    let row = |of: &[f64], row: usize| of[row * width..][..width].to_vec();
                    assert_nan(&row(found, 1));
                    assert_nan(&row(found, 2));
                    assert_eq!([row(found, 0), row(found, 3)], [row(clean, 0), row(clean, 3)]);
                }
            }
        }
    }
}

#[test]
fn finite_inputs_give_no_nan() {
    let Some(gpu) = gpu() else { return };
    let values = [0.0, 1e-40, 1.0, -90.0, 1e4, -1e30, f32::MAX, -f32::MAX];
    for options in variants() {
        let rows = values.len();
        let x: Vec<f32> = (0..3 * rows).map(|at| values[(at / 3 * (at % 3) + at % 3) % rows]).collect();
        let t = (0..3 * rows).map(|at| if at % 3 == 1 { 0.0 } else { values[(at / 3 + at % 3 * 3 / 2) % rows] });
        let t = target(options.form, t.collect());
        for temperature in [1e-30, 1.0, 1e30] {
            let options = Options { temperature, scale_t2: false, ..options };
            let found = on_device(gpu, &x, &t, 3, &[], options).concat();
            assert!(found.iter().all(|value| !value.is_nan()), "{options:?}: {found:?}");
        }
    }
}

/// In a row that its lanes hold, and at every width.
#[test]
fn gradients_are_added() {
    let Some(gpu) = gpu() else { return };
    let widths = WIDTHS.map(|cols| (cols, Options::default()));
    for (cols, options) in ways().map(|options| (700, options)).chain(widths) {
        let (x, logs) = (Fill::Small.matrix(3, cols, 5), Fill::Small.matrix(3, cols, 6));
        let t = target(options.form, logs.clone());
        let [_, dx, dt] = on_device(gpu, &x, &t, cols, &[], options);
        let held = [input(gpu, 3, cols, &x), input(gpu, 3, cols, &t)];
        let sums = [input(gpu, 3, cols, &logs), input(gpu, 3, cols, &x)];
        let record = gpu.run(|r| {
            let gradients = Gradients { dx: Some(sums[0].view()?), dt: Some(sums[1].view()?) };
            let options = Options { accum: Accum::Add, ..options };
            kl::backward(r, held[0].view()?, held[1].view()?, None, gradients, options)
        });
        record.unwrap();
        for (sum, (before, gradient)) in sums.iter().zip([(&logs, &dx), (&x, &dt)]) {
            let want: Vec<f64> = before.iter().zip(gradient).map(|(&before, dx)| f64::from(before) + dx).collect();
            same(&read(gpu, sum), &want);
        }
    }
}

/// Either gradient alone is the same as both together.
#[test]
fn single_gradients() {
    let Some(gpu) = gpu() else { return };
    for options in ways() {
        let (x, t) = (Fill::Small.matrix(3, 700, 5), target(options.form, Fill::Small.matrix(3, 700, 6)));
        let [_, want_dx, want_dt] = on_device(gpu, &x, &t, 700, &[], options);
        let held = [input(gpu, 3, 700, &x), input(gpu, 3, 700, &t)];
        let (dx, dt) = (output(gpu, 3, 700), output(gpu, 3, 700));
        let record = gpu.run(|r| {
            let (x, t) = (held[0].view()?, held[1].view()?);
            kl::backward(r, x, t, None, Gradients { dx: Some(dx.view()?), dt: None }, options)?;
            kl::backward(r, x, t, None, Gradients { dx: None, dt: Some(dt.view()?) }, options)
        });
        record.unwrap();
        same(&read(gpu, &dx), &want_dx);
        same(&read(gpu, &dt), &want_dt);
    }
}

#[test]
fn empty() {
    let Some(gpu) = gpu() else { return };
    for options in ways() {
        for (reduction, _) in losses_of(0, 0) {
            if reduction == Reduction::None && options.divergence != Divergence::Kl {
                continue;
            }
            for (cols, rows) in [(0, 2), (3, 0)] {
                let [loss_rows, loss_cols] = loss_shape(rows, cols, reduction);
                let [loss, dx, dt] = on_device(gpu, &[], &[], cols, &[], Options { reduction, ..options });
                assert_eq!((loss, dx, dt), (vec![0.0; loss_rows * loss_cols], vec![], vec![]), "{options:?}");
            }
        }
    }
}

/// As kernels are built for a GPU, with nothing of a temperature of 1: rows that the lanes hold, and cut ones.
#[test]
fn as_on_a_gpu() {
    let Some(gpu) = gpu() else { return };
    let gpu = gpu.with_tuning(Tuning { workgroup: 32, widest: 32, ..Tuning::GPU });
    for (cols, divergence) in [(100, Divergence::Kl), (1500, Divergence::Kl), (100, DIVERGENCES[2])] {
        let (x, t) = (Fill::Small.matrix(3, cols, 41), Fill::Wide.matrix(3, cols, 42));
        let options = Options { divergence, reduction: Reduction::Sum, ..Options::default() };
        let (loss, [dx, dt]) = kl::compute(&gpu, &x, &t, cols, options).unwrap();
        let (x, t) = (wide(&x), wide(&t));
        assert_close(&wide(&loss), &reference::kl::forward(&x, &t, cols, options), 1e-6);
        let want = reference::kl::backward(&x, &t, cols, &[1.0], options);
        for (got, want) in [dx, dt].iter().zip(&want) {
            let largest = want.iter().fold(0.0, |most: f64, value| most.max(value.abs()));
            assert!(
                got.iter().zip(want).all(|(&got, want)| (f64::from(got) - want).abs() < 2e-6 * largest),
                "{options:?}"
            );
        }
    }
}

#[test]
fn refusals() {
    let Some(gpu) = gpu() else { return };
    let (x, t, turned) = (input(gpu, 2, 3, &[0.0; 6]), input(gpu, 2, 3, &[0.0; 6]), input(gpu, 3, 2, &[0.0; 6]));
    let (loss, dx, wrong) = (output(gpu, 1, 1), output(gpu, 2, 3), output(gpu, 3, 2));
    let default = Options::default();
    let forward = |options| {
        refused(gpu, &[&loss], |r| kl::forward(r, x.view()?, t.view()?, loss.view()?, Gradients::default(), options))
    };
    for (temperature, found) in [(0.0, "0"), (-1.0, "-1"), (f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        let want = option("kl", "temperature", "between 1e-30 and 1e30", found);
        assert_eq!(forward(Options { temperature, ..default }), want);
    }
    let want = option("kl", "temperature", "between 1e-15 and 1e15 with scale_t2", "0.0000000000000000000001");
    assert_eq!(forward(Options { temperature: 1e-22, scale_t2: true, ..default }), want);
    for (beta, found) in [(0.0, "0"), (1.0, "1"), (f32::NAN, "NaN")] {
        let divergence = Divergence::JensenShannon { beta };
        assert_eq!(forward(Options { divergence, ..default }), option("kl", "beta", "above 0 and below 1", found));
    }
    let reverse = Options { divergence: Divergence::ReverseKl, ..default };
    let want = option("kl", "form", "Logits for this divergence", "LogQ");
    assert_eq!(forward(Options { form: Form::LogQ, ..reverse }), want);
    let want = option("kl", "reduction", "one of rows for this divergence", "None");
    assert_eq!(forward(Options { reduction: Reduction::None, ..reverse }), want);
    assert_eq!(forward(Options { reduction: Reduction::Rows, ..default }), shape("kl", "loss", "2 x 1", "1 x 1"));
    for options in [default, reverse] {
        let backward = |t: &Held, dy: Option<&Held>, dx: &Held| {
            refused(gpu, &[&wrong], |r| {
                let gradients = Gradients { dx: Some(dx.view()?), dt: None };
                kl::backward(r, x.view()?, t.view()?, dy.map(Held::view).transpose()?, gradients, options)
            })
        };
        assert_eq!(backward(&turned, None, &dx), shape("kl", "t", "2 x 3", "3 x 2"));
        assert_eq!(backward(&t, Some(&turned), &dx), shape("kl", "dy", "1 x 1", "3 x 2"));
        assert_eq!(backward(&t, None, &wrong), shape("kl", "dx", "2 x 3", "3 x 2"));
        assert_eq!(backward(&t, None, &x), overlap("kl", "dx", "x"));
    }
    let error = kl::compute(gpu, &[0.0; 6], &[0.0; 4], 2, default).unwrap_err();
    assert_eq!(error, shape("kl", "t", "3 x 2", "2 x 2"));
}

#[test]
fn same_bits() {
    let Some(gpu) = gpu() else { return };
    for cols in [700, 20_000] {
        for options in variants() {
            let (x, t) = (Fill::Wide.matrix(3, cols, 5), target(options.form, Fill::Small.matrix(3, cols, 6)));
            assert_repeats(|| on_device(gpu, &x, &t, cols, &[], options).into());
        }
    }
}
