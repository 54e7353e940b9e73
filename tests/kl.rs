use wgloss::kl::{Divergence, Form, Options};
use wgloss::verify::Fill;
use wgloss::{Reduction, reference};

use crate::golden::{self, Case, Found, Kind, rows_of};
use crate::harness::*;

/// The loss, dx and dt; `dy` is empty for ones.
pub fn by_reference(x: &[f32], t: &[f32], cols: usize, dy: &[f32], options: Options) -> [Vec<f64>; 3] {
    let (x, t) = (wide(x), wide(t));
    let loss = reference::kl::forward(&x, &t, cols, options);
    let [dx, dt] = reference::kl::backward(&x, &t, cols, &wide(dy), options);
    [loss, dx, dt]
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
