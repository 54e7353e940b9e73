use super::{Check, FILLS, Fill, REDUCTIONS, before, cast, largest, rounded};
use crate::kl::{self, Divergence, Form, Gradients, Options};
use crate::{Accum, Reduction, Result, Storage, reference, softmax};

pub(super) const DIVERGENCES: [Divergence; 4] =
    [Divergence::Kl, Divergence::ReverseKl, Divergence::JensenShannon { beta: 0.3 }, Divergence::TotalVariation];
const FORMS: [Form; 4] = [Form::Logits, Form::Probabilities, Form::LogQ, Form::LogQLogP];

pub(super) async fn cases(check: &mut Check) -> Result<()> {
    for (rows, cols) in [(1, 1), (1, 7), (3, 256), (3, 257), (5, 1000)] {
        for fill in FILLS {
            case(check, rows, cols, fill, Options::default(), Storage::F32).await?;
        }
    }
    for divergence in DIVERGENCES {
        let options = Options { divergence, temperature: 5.0, scale_t2: true, ..Default::default() };
        for fill in [Fill::Small, Fill::Wide, Fill::Masked] {
            case(check, 3, 257, fill, Options { reduction: Reduction::Rows, ..options }, Storage::F32).await?;
        }
    }
    // The effect of forms and reductions does not depend on where rows are cut.
    let (forms, reductions) =
        if check.is_brief { (&FORMS[..0], &REDUCTIONS[..0]) } else { (&FORMS[..], &REDUCTIONS[..]) };
    for &form in forms {
        case(check, 3, 257, Fill::Small, Options { form, ..Default::default() }, Storage::F32).await?;
    }
    for &reduction in reductions {
        case(check, 3, 257, Fill::Small, Options { reduction, ..Default::default() }, Storage::F32).await?;
    }
    for &storage in check.storages() {
        for form in [Form::Logits, Form::LogQ] {
            case(check, 3, 257, Fill::Small, Options { form, ..Default::default() }, storage).await?;
        }
        let options = match storage {
            Storage::F16 => Options { form: Form::Probabilities, ..Default::default() },
            _ => Options { divergence: DIVERGENCES[2], accum: Accum::Add, ..Default::default() },
        };
        case(check, 3, 257, Fill::Small, options, storage).await?;
    }
    if !check.is_brief {
        let options = Options { accum: Accum::Add, ..Default::default() };
        case(check, 3, 257, Fill::Small, options, Storage::F32).await?;
    }
    case(check, 70_000, 3, Fill::Small, Options::default(), Storage::F32).await?;
    let of_long_rows = if check.is_brief { &DIVERGENCES[1..3] } else { &DIVERGENCES[..] };
    for &divergence in of_long_rows {
        case(check, 3, 40_000, Fill::Outlier, Options { divergence, ..Default::default() }, Storage::F32).await?;
    }
    let none = Options { reduction: Reduction::None, ..Default::default() };
    case(check, 3, 40_000, Fill::Outlier, none, Storage::F32).await
}

pub(super) async fn drawn(check: &mut Check) -> Result<()> {
    let draw = &mut check.draw;
    let ([rows, cols], fill, storage) = (draw.shape(30_000), draw.fill(&[]), draw.storage());
    let form = draw.one_of(&[Form::Logits, Form::Logits, FORMS[1], FORMS[2], FORMS[3]]);
    let plain = Options { form, reduction: draw.reduction(), accum: draw.accum(), ..Default::default() };
    let by_row = form == Form::Logits && plain.reduction != Reduction::None;
    let options = Options {
        divergence: if by_row { draw.one_of(&DIVERGENCES) } else { Divergence::Kl },
        temperature: draw.one_of(&[1.0, 0.5, 5.0]),
        scale_t2: draw.yes(),
        ..plain
    };
    // Where both sides are nearly 1, f32 does not tell which one is larger.
    let fill = if options.divergence == Divergence::TotalVariation { Fill::Small } else { fill };
    case(check, rows, cols, fill, options, storage).await
}

/// The two sides, of the same fill. An element that is masked on one side is masked on both, since the loss is infinite
/// where only the model is masked.
fn sides(fill: Fill, form: Form, rows: usize, cols: usize) -> [Vec<f32>; 2] {
    let (mut x, mut t) = (fill.matrix(rows, cols, 31), fill.matrix(rows, cols, 32));
    for (x, t) in x.iter_mut().zip(&mut t) {
        if !x.is_finite() || !t.is_finite() {
            (*x, *t) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
        }
        match form {
            Form::Logits => {}
            Form::Probabilities | Form::LogQ => *t = (-t.abs()).exp(),
            Form::LogQLogP => *t = -t.abs(),
        }
    }
    [x, t]
}

async fn case(
    check: &mut Check,
    rows: usize,
    cols: usize,
    fill: Fill,
    options: Options,
    storage: Storage,
) -> Result<()> {
    check.case(format_args!("{rows} x {cols} {fill:?} {options:?} {storage:?}"));
    let [x, t] = sides(fill, options.form, rows, cols).map(|side| rounded(storage, &side));
    // For p (ln p − ln q) with a p that is flushed to 0.
    let size = largest(x.iter().chain(&t).map(|&logit| f64::from(logit)));
    check.magnifies_flushed(4.0 * size / f64::from(options.temperature).powi(2).min(1.0));
    let [loss_rows, loss_cols] = options.reduction.of_elements([rows, cols]);
    let dy = rounded(storage, &Fill::Small.matrix(loss_rows, loss_cols, 33));
    let input = |rows, cols, data: &[f32]| check.input_as(storage, rows, cols, data);
    let (held_x, held_t, held_dy) = (input(rows, cols, &x)?, input(rows, cols, &t)?, input(loss_rows, loss_cols, &dy)?);
    let loss = check.output_as(storage, loss_rows, loss_cols)?;
    let old = before(options.accum, storage, x.len(), 34);
    let output = || check.holding(storage, rows, cols, &old);
    let (fused, back) = ([output()?, output()?], [output()?, output()?]);
    check.run(|recorder| {
        let (x, t) = (held_x.view()?, held_t.view()?);
        let ([dx, dt], [bx, bt]) = ([fused[0].view()?, fused[1].view()?], [back[0].view()?, back[1].view()?]);
        kl::forward(recorder, x, t, loss.view()?, Gradients { dx: Some(dx), dt: Some(dt) }, options)?;
        let gradients = Gradients { dx: Some(bx), dt: Some(bt) };
        kl::backward(recorder, x, t, Some(held_dy.view()?), gradients, options)
    })?;
    let want = reference::kl::forward::<f64>(&cast(&x), &cast(&t), cols, options);
    let sums = loss_terms(&x, &t, cols, options);
    check.compare_sum("loss", &loss, &want, &reference::kl::forward(&x, &t, cols, options), &sums).await?;
    for (dy, held) in [(&[][..], &fused), (&dy, &back)] {
        let want = reference::kl::backward::<f64>(&cast(&x), &cast(&t), cols, &cast(dy), options);
        let yardstick = reference::kl::backward(&x, &t, cols, dy, options);
        let terms = gradient_terms([&x, &t], cols, dy, options);
        for (index, what) in ["dx", "dt"].into_iter().enumerate() {
            check.compare_added(what, &held[index], &old, &want[index], &yardstick[index], &terms[index]).await?;
        }
    }
    Ok(())
}

/// The magnitudes of the terms that dx and dt subtract from each other, times the factors of `dy` and of the reduction.
/// With l as [`log_size`] gives it: for logits (p + q) (1 + l + the row's sum of (p + q) l); for dx beside
/// probabilities p + q Σ p; for dt of probabilities |ln p| + |ln q| + 1.
pub(super) fn gradient_terms([x, t]: [&[f32]; 2], cols: usize, dy: &[f32], options: Options) -> [Vec<f64>; 2] {
    let [log_q, log_p] = logarithms(&cast(x), &cast(t), cols, options);
    let temperature = f64::from(options.temperature);
    let scale =
        options.reduction.factor([x.len() / cols, cols]) * if options.scale_t2 { temperature.powi(2) } else { 1.0 };
    let dy = |at: usize| match (dy.len(), options.reduction) {
        (0, _) => 1.0,
        (_, Reduction::None) => f64::from(dy[at]).abs(),
        (_, Reduction::Rows) => f64::from(dy[at / cols]).abs(),
        _ => f64::from(dy[0]).abs(),
    };
    let all = |of: &dyn Fn(usize) -> f64| (0..x.len()).map(|at| scale * dy(at) * of(at)).collect::<Vec<_>>();
    let by_row = |of: &dyn Fn(usize) -> f64| -> Vec<f64> {
        (0..x.len() / cols).map(|row| (row * cols..(row + 1) * cols).map(of).sum()).collect()
    };
    let (p, q) = (|at: usize| log_p[at].exp(), |at: usize| log_q[at].exp());
    let size = |at: usize| log_size(log_p[at], log_q[at], options);
    let of_logarithm = |at: usize| 1.0 + size(at);
    match options.form {
        Form::Logits => {
            let sums = by_row(&|at| (p(at) + q(at)) * size(at));
            let terms = all(&|at| (p(at) + q(at)) * (1.0 + size(at) + sums[at / cols]) / temperature);
            [terms.clone(), terms]
        }
        Form::Probabilities => {
            let sums = by_row(&p);
            [all(&|at| (p(at) + q(at) * sums[at / cols]) / temperature), all(&of_logarithm)]
        }
        Form::LogQ => [all(&p), all(&of_logarithm)],
        Form::LogQLogP => [all(&p), all(&|at| p(at) * of_logarithm(at))],
    }
}

/// ln q and ln p.
fn logarithms(x: &[f64], t: &[f64], cols: usize, options: Options) -> [Vec<f64>; 2] {
    let temperature = options.temperature;
    let of_logits = |x: &[f64]| reference::softmax::forward(x, cols, softmax::Options { temperature, log: true });
    let log_q = if options.by_element() { x.to_vec() } else { of_logits(x) };
    let log_p = match options.form {
        Form::Logits => of_logits(t),
        Form::Probabilities | Form::LogQ => t.iter().map(|p| p.ln()).collect(),
        Form::LogQLogP => t.to_vec(),
    };
    [log_q, log_p]
}

/// l = |ln p| + |ln q|, which the terms of Kullback and Leibler's divergences are made of. The other divergences have
/// ln(q/m), ln(p/m) or no logarithm, whose products with q and p are at most about p + q: l is 1.
fn log_size(log_p: f64, log_q: f64, options: Options) -> f64 {
    match options.divergence {
        Divergence::Kl | Divergence::ReverseKl => {
            [log_p, log_q].map(|log| if log.is_finite() { log.abs() } else { 0.0 }).iter().sum()
        }
        Divergence::JensenShannon { .. } | Divergence::TotalVariation => 1.0,
    }
}

/// (p + q) l of each element, or p l where the loss is one of elements, reduced as the loss is; l as [`log_size`] gives
/// it.
pub(super) fn loss_terms(x: &[f32], t: &[f32], cols: usize, options: Options) -> Vec<f64> {
    let [log_q, log_p] = logarithms(&cast(x), &cast(t), cols, options);
    let scale = if options.scale_t2 { f64::from(options.temperature).powi(2) } else { 1.0 };
    let weight = |p: f64, q: f64| if options.by_element() { p.exp() } else { p.exp() + q.exp() };
    let sides = log_p.iter().zip(&log_q);
    let terms: Vec<f64> = sides.map(|(&p, &q)| scale * weight(p, q) * log_size(p, q, options)).collect();
    let rows: Vec<f64> = terms.chunks(cols).map(|row| row.iter().sum()).collect();
    let all: f64 = rows.iter().sum();
    match options.reduction {
        Reduction::None => terms,
        Reduction::Rows => rows,
        Reduction::Sum => vec![all],
        Reduction::Mean => vec![all / terms.len() as f64],
        Reduction::BatchMean => vec![all / rows.len() as f64],
    }
}
