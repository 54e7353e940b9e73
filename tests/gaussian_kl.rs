use wgloss::gaussian_kl::{self, Gradients, Options};
use wgloss::reference::gaussian_kl::Inputs;
use wgloss::verify::{Fill, Held};
use wgloss::{Accum, Gpu, Reduction, Tensor, reference};

use crate::golden::{self, Case, Found, Kind, rows_of};
use crate::harness::*;

/// The loss and the gradients of mean, log-variance, prior mean and prior log-variance; `dy` is empty for ones.
pub fn by_reference(inputs: Inputs<f32>, cols: usize, dy: &[f32], options: Options) -> [Vec<f64>; 5] {
    let (mean, log_variance) = (wide(inputs.mean), wide(inputs.log_variance));
    let prior = inputs.prior.map(|(mean, log_variance)| (wide(mean), wide(log_variance)));
    let prior = prior.as_ref().map(|(mean, log_variance)| (&mean[..], &log_variance[..]));
    let inputs = Inputs { mean: &mean, log_variance: &log_variance, prior };
    let loss = reference::gaussian_kl::forward(inputs, cols, options);
    let [m, v, prior_m, prior_v] = reference::gaussian_kl::backward(inputs, cols, &wide(dy), options);
    [loss, m, v, prior_m, prior_v]
}

fn outputs(case: &Case, compute: impl Fn(Inputs<f32>, usize, &[f32], Options) -> [Vec<f64>; 5]) -> Found {
    let (mean, log_variance) = (case.input("mu"), case.input("logvar"));
    let (_, cols, _) = rows_of(&mean.shape, -1, &mean.data);
    let prior = case.has("mu_p").then(|| (case.input("mu_p").data, case.input("logvar_p").data));
    let prior = prior.as_ref().map(|(mean, log_variance)| (&mean[..], &log_variance[..]));
    let inputs = Inputs { mean: &mean.data, log_variance: &log_variance.data, prior };
    let options = Options { reduction: case.reduction(), ..Default::default() };
    let [loss, m, v, prior_m, prior_v] = compute(inputs, cols, &case.gy(), options);
    Ok(vec![
        ("loss", Kind::Value, loss),
        ("mu", Kind::Grad, m),
        ("logvar", Kind::Grad, v),
        ("mu_p", Kind::Grad, prior_m),
        ("logvar_p", Kind::Grad, prior_v),
    ])
}

#[test]
fn golden_reference() {
    // Where a is nearly 0 the bank is the worse one: it forms e^a − 1 − a as expm1(a) − a, off by 6e-11 at 10⁻⁶, and e^a − 1 as 0.
    let rough = |id: &str| ["near_zero_1e-6", "denormal"].iter().any(|name| id.ends_with(name));
    golden::grade_reference("gaussian_kl", 1e-4, |case| outputs(case, by_reference));
    golden::grade_reference("gaussian_kl", 1e-6, |case| match rough(&case.id) {
        true => Err("less accurate than f64"),
        false => outputs(case, by_reference),
    });
}

#[test]
fn reference_gradient() {
    // Differences of log-variances on both sides of where the series ends.
    let [m, v, prior_m, prior_v] = [1, 2, 3, 4].map(|seed| wide(&Fill::Small.matrix(3, 4, seed)));
    for (reduction, count) in losses_of(3, 4) {
        let options = Options { reduction, ..Default::default() };
        let dy = wide(&Fill::Small.matrix(count, 1, 5));
        let forward = |inputs: Inputs<f64>| dot(&reference::gaussian_kl::forward(inputs, 4, options), &dy);
        for prior in [None, Some((&prior_m[..], &prior_v[..]))] {
            let inputs = Inputs { mean: &m, log_variance: &v, prior };
            let [dm, dv, d_prior_m, d_prior_v] = reference::gaussian_kl::backward(inputs, 4, &dy, options);
            assert_gradient(&m, &dm, |mean| forward(Inputs { mean, ..inputs }));
            assert_gradient(&v, &dv, |log_variance| forward(Inputs { log_variance, ..inputs }));
            let Some((of_m, of_v)) = prior else { continue };
            assert_gradient(of_m, &d_prior_m, |of_m| forward(Inputs { prior: Some((of_m, of_v)), ..inputs }));
            assert_gradient(of_v, &d_prior_v, |of_v| forward(Inputs { prior: Some((of_m, of_v)), ..inputs }));
        }
    }
}

#[test]
fn reference_of_finite_inputs_is_no_nan() {
    let values = [0.0, 1e-40, -1e-30, 1.0, -90.0, 90.0, 300.0, -1e30, f32::MAX, -f32::MAX];
    for [m, v] in values.map(|m| values.map(|v| [m, v])).concat() {
        for [prior_m, prior_v] in values.map(|m| values.map(|v| [m, v])).concat() {
            let inputs = Inputs { mean: &[m], log_variance: &[v], prior: Some((&[prior_m], &[prior_v])) };
            let loss = reference::gaussian_kl::forward(inputs, 1, Options::default());
            let gradients =
                [[0.0], [1.0]].map(|dy| reference::gaussian_kl::backward(inputs, 1, &dy, Options::default()));
            let found = [loss, gradients.concat().concat()].concat();
            assert!(found.iter().all(|value| !value.is_nan()), "{m} {v} {prior_m} {prior_v}: {found:?}");
        }
    }
}

/// The loss and all gradients; without dy in as few passes as there are kernels.
pub fn on_device(gpu: &Gpu, inputs: Inputs<f32>, cols: usize, dy: &[f32], options: Options) -> [Vec<f64>; 5] {
    let rows = rows_in(inputs.mean, cols);
    let [loss_rows, loss_cols] = element_losses(options.reduction, [rows, cols]);
    let hold = |data: &[f32]| input(gpu, rows, cols, data);
    let (mean, log_variance) = (hold(inputs.mean), hold(inputs.log_variance));
    let prior = inputs.prior.map(|(mean, log_variance)| (hold(mean), hold(log_variance)));
    let dy = (!dy.is_empty()).then(|| input(gpu, loss_rows, loss_cols, dy));
    let (loss, out) = (output(gpu, loss_rows, loss_cols), [(); 4].map(|()| output(gpu, rows, cols)));
    let record = gpu.run(|recorder| {
        let inputs = gaussian_kl::Inputs {
            mean: view(&mean),
            log_variance: view(&log_variance),
            prior: prior.as_ref().map(|(mean, log_variance)| (view(mean), view(log_variance))),
        };
        let of_prior = |index: usize| prior.is_some().then(|| view(&out[index]));
        let all = Gradients {
            mean: Some(view(&out[0])),
            log_variance: Some(view(&out[1])),
            prior_mean: of_prior(2),
            prior_log_variance: of_prior(3),
        };
        let dy = dy.as_ref().map(view);
        let now = if dy.is_none() { all } else { Gradients::default() };
        gaussian_kl::forward(recorder, inputs, view(&loss), now, options)?;
        if dy.is_some() { gaussian_kl::backward(recorder, inputs, dy, all, options) } else { Ok(()) }
    });
    record.unwrap();
    let [m, v, prior_m, prior_v] = out.each_ref().map(|held| read(gpu, held));
    [read(gpu, &loss), m, v, prior_m, prior_v]
}

#[test]
fn verified() {
    verifies("gaussian_kl");
}

#[test]
fn golden() {
    let Some(gpu) = gpu() else { return };
    golden::grade("gaussian_kl", |case| {
        outputs(case, |inputs, cols, dy, options| on_device(gpu, inputs, cols, dy, options))
    });
}

const ROWS: Options = Options { reduction: Reduction::Rows, accum: Accum::Write };

/// Rows of one element, by kernels that the grid of finite numbers compiles too.
#[test]
fn special_values() {
    let Some(gpu) = gpu() else { return };
    let (nan, inf, ones) = (f32::NAN, f32::INFINITY, [1.0; 6]);
    let [mean, log_variance] = [[nan, 0.0, inf, 0.0, 0.0, 2.0], [0.0, nan, 0.0, inf, -inf, 100.0]];
    let inputs = Inputs { mean: &mean, log_variance: &log_variance, prior: None };
    let [loss, d_mean, d_log_variance, ..] = on_device(gpu, inputs, 1, &ones, ROWS);
    let (wide_nan, wide_inf) = (f64::NAN, f64::INFINITY);
    assert_close(&loss, &[wide_nan, wide_nan, wide_inf, wide_inf, wide_inf, wide_inf], 0.0);
    assert_close(&d_mean, &[wide_nan, 0.0, wide_inf, 0.0, 0.0, 2.0], 0.0);
    assert_close(&d_log_variance, &[0.0, wide_nan, 0.0, wide_inf, -0.5, wide_inf], 0.0);
    // A NaN in each of four numbers, and in what depends on it.
    let of = |at: usize| std::array::from_fn::<f32, 6, _>(|row| if row == at { nan } else { 0.5 });
    let [mean, log_variance, prior_mean, prior_log_variance] = [0, 1, 2, 3].map(of);
    let prior = Some((&prior_mean[..], &prior_log_variance[..]));
    let inputs = Inputs { mean: &mean, log_variance: &log_variance, prior };
    let of_nan =
        on_device(gpu, inputs, 1, &ones, ROWS).map(|found| found.iter().map(|v| v.is_nan()).collect::<Vec<_>>());
    let [all, means, log_variances] = [[0, 1, 2, 3].as_slice(), &[0, 2, 3], &[1, 3]]
        .map(|rows| (0..6).map(|row| rows.contains(&row)).collect::<Vec<_>>());
    assert_eq!(of_nan, [all.clone(), means.clone(), log_variances, means, all]);
}

/// In f32, where the means' difference, e^−v' and their product leave the range.
#[test]
fn finite_inputs_give_no_nan() {
    let Some(gpu) = gpu() else { return };
    let (means, variances) = ([3.4e38, -3.4e38, 0.0, 1.0], [-200.0, 0.0, 177.0, 300.0, 3.4e38]);
    let sides = means.map(|mean| variances.map(|variance| [mean, variance])).concat();
    let grid: Vec<[[f32; 2]; 2]> = sides.iter().flat_map(|&own| sides.iter().map(move |&prior| [own, prior])).collect();
    let [mean, log_variance, prior_mean, prior_log_variance] =
        [[0, 0], [0, 1], [1, 0], [1, 1]].map(|[side, of]| grid.iter().map(|all| all[side][of]).collect::<Vec<f32>>());
    let prior = Some((&prior_mean[..], &prior_log_variance[..]));
    let inputs = Inputs { mean: &mean, log_variance: &log_variance, prior };
    for dy in [0.0, 1.0] {
        let found = on_device(gpu, inputs, 1, &vec![dy; grid.len()], ROWS);
        let nan = found.iter().flat_map(|found| found.iter().zip(&grid)).find(|(found, _)| found.is_nan());
        assert_eq!(nan, None, "with dy {dy}");
    }
}

#[test]
fn empty() {
    let Some(gpu) = gpu() else { return };
    let inputs = Inputs { mean: &[], log_variance: &[], prior: Some((&[], &[])) };
    for cols in [0, 3] {
        let want = [vec![0.0], vec![], vec![], vec![], vec![]];
        assert_eq!(on_device(gpu, inputs, cols, &[], Options::default()), want);
    }
}

#[test]
fn overlaps() {
    let Some(gpu) = gpu() else { return };
    let (all, other, loss) = (output(gpu, 3, 3), input(gpu, 2, 3, &[0.0; 6]), output(gpu, 1, 1));
    let (first, last, free) = (view(&all).row_range(0..2), view(&all).row_range(1..3), view(&other));
    let refuse = |[mean, log_variance, m, v]: [Tensor; 4], gradients| {
        let inputs = gaussian_kl::Inputs { mean, log_variance, prior: Some((m, v)) };
        refused(gpu, &[&all, &loss], |r| gaussian_kl::forward(r, inputs, view(&loss), gradients, Options::default()))
    };
    let d_mean = Gradients { mean: Some(last), ..Default::default() };
    for (index, name) in ["mean", "log_variance", "prior mean", "prior log_variance"].into_iter().enumerate() {
        let mut inputs = [free; 4];
        inputs[index] = first;
        assert_eq!(refuse(inputs, d_mean), overlap("gaussian_kl", "d_mean", name));
    }
    // Not even in place: the prior's gradients, which another dispatch computes, need the mean.
    assert_eq!(refuse([last, free, free, free], d_mean), overlap("gaussian_kl", "d_mean", "mean"));
    let error = refuse([free; 4], Gradients { prior_log_variance: Some(first), ..d_mean });
    assert_eq!(error, overlap("gaussian_kl", "d_mean", "d_prior_log_variance"));
}

#[test]
fn refusals() {
    let Some(gpu) = gpu() else { return };
    let (m, turned, loss) = (input(gpu, 2, 3, &[0.0; 6]), output(gpu, 3, 2), output(gpu, 1, 1));
    let forward = |v: &Held, prior: Option<(&Held, &Held)>, gradients: Gradients| {
        refused(gpu, &[&turned], |r| {
            let prior = prior.map(|(m, v)| (view(m), view(v)));
            let inputs = gaussian_kl::Inputs { mean: view(&m), log_variance: view(v), prior };
            gaussian_kl::forward(r, inputs, view(&loss), gradients, Options::default())
        })
    };
    let none = Gradients::default();
    assert_eq!(forward(&turned, None, none), shape("gaussian_kl", "log_variance", "2 x 3", "3 x 2"));
    assert_eq!(forward(&m, Some((&turned, &m)), none), shape("gaussian_kl", "prior mean", "2 x 3", "3 x 2"));
    let turned_view = turned.view().unwrap();
    let error = forward(&m, None, Gradients { mean: Some(turned_view), ..none });
    assert_eq!(error, shape("gaussian_kl", "d_mean", "2 x 3", "3 x 2"));
    let error = forward(&m, None, Gradients { prior_mean: Some(turned_view), ..none });
    assert_eq!(error, shape("gaussian_kl", "d_prior_mean", "none without a prior", "one"));
}

#[cfg(feature = "ndarray")]
#[test]
fn arrays() {
    let Some(gpu) = gpu() else { return };
    let (mean, log_variance) = (Fill::Small.matrix(2, 3, 1), Fill::Small.matrix(2, 3, 2));
    let [loss, dm, dv] = gaussian_kl::compute(gpu, &mean, &log_variance, 3, Options::default()).unwrap();
    // The means in column-major order, which are copied.
    let columns: Vec<f32> = (0..6).map(|at| mean[at % 2 * 3 + at / 2]).collect();
    let columns = ndarray::ArrayView2::from_shape((3, 2), &columns).unwrap();
    let rows = ndarray::ArrayView2::from_shape((2, 3), &log_variance).unwrap();
    let found = wgloss::arrays::gaussian_kl(gpu, columns.t(), rows, Options::default()).unwrap();
    let shaped = |data| ndarray::Array2::from_shape_vec((2, 3), data).unwrap();
    assert_eq!(found, (loss.into(), [shaped(dm), shaped(dv)]));
    let error = wgloss::arrays::gaussian_kl(gpu, columns, rows, Options::default()).unwrap_err();
    assert_eq!(error, shape("gaussian_kl", "log_variance", "3 x 2", "2 x 3"));
}

#[test]
fn same_bits() {
    let Some(gpu) = gpu() else { return };
    let (mean, log_variance) = (Fill::Small.matrix(70, 300, 1), Fill::Small.matrix(70, 300, 2));
    let inputs = Inputs { mean: &mean, log_variance: &log_variance, prior: None };
    assert_repeats(|| on_device(gpu, inputs, 300, &[], Options::default()).into());
}
