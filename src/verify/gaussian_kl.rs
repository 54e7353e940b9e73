use super::{Check, FILLS, Fill, REDUCTIONS, before, cast, rounded};
use crate::gaussian_kl::{self, Gradients, Options};
use crate::reference::gaussian_kl::{self as textbook, Inputs};
use crate::{Accum, Reduction, Result, Storage};

pub(super) async fn cases(check: &mut Check) -> Result<()> {
    for prior in [false, true] {
        for (index, shape) in [[1, 1], [1, 7], [3, 257]].into_iter().enumerate() {
            for fill in FILLS.into_iter().filter(|fill| *fill != Fill::Masked) {
                let options = Options { reduction: REDUCTIONS[index], ..Default::default() };
                case(check, shape, fill, Storage::F32, prior, options).await?;
            }
        }
        case(check, [3, 257], Fill::Small, Storage::F32, prior, Options::default()).await?;
        let options = Options { reduction: Reduction::Mean, accum: Accum::Add };
        case(check, [7_000, 3], Fill::Small, Storage::F32, prior, options).await?;
        for &storage in check.storages() {
            case(check, [3, 257], Fill::Small, storage, prior, Options::default()).await?;
        }
    }
    Ok(())
}

pub(super) async fn drawn(check: &mut Check) -> Result<()> {
    let draw = &mut check.draw;
    let (shape, fill, storage) = (draw.shape(30_000), draw.fill(&[Fill::Masked]), draw.storage());
    let (prior, options) = (draw.yes(), Options { reduction: draw.reduction(), accum: draw.accum() });
    case(check, shape, fill, storage, prior, options).await
}

async fn case(
    check: &mut Check,
    shape: [usize; 2],
    fill: Fill,
    storage: Storage,
    prior: bool,
    options: Options,
) -> Result<()> {
    let [rows, cols] = shape;
    check.case(format_args!("{rows} x {cols} {fill:?} {storage:?} {prior} {options:?}"));
    // Log-variances of ±10⁴ exceed every range, so they are replaced by smaller ones; their means stay as they are.
    let variances = if fill == Fill::Huge { Fill::Wide } else { fill };
    let matrix = |fill: Fill, seed| rounded(storage, &fill.matrix(rows, cols, seed));
    let [m, v, pm, pv] = [matrix(fill, 3), matrix(variances, 4), matrix(fill, 5), matrix(Fill::Small, 6)];
    let [loss_rows, loss_cols] = options.reduction.of_elements(shape);
    let dy = Fill::Small.matrix(loss_rows, loss_cols, 5);
    let old = before(options.accum, storage, rows * cols, 6);

    let hold = |data: &[f32]| check.input_as(storage, rows, cols, data);
    let held = [hold(&m)?, hold(&v)?, hold(&pm)?, hold(&pv)?];
    let dy_held = check.input(loss_rows, loss_cols, &dy)?;
    let loss = check.output(loss_rows, loss_cols)?;
    let out = || check.holding(storage, rows, cols, &old);
    let gradients = [out()?, out()?, out()?, out()?];
    check.run(|recorder| {
        let [mean, log_variance, pm, pv] = [held[0].view()?, held[1].view()?, held[2].view()?, held[3].view()?];
        let inputs = gaussian_kl::Inputs { mean, log_variance, prior: prior.then_some((pm, pv)) };
        let some = |index: usize| gradients[index].view().map(Some);
        let mut wanted = Gradients { mean: some(0)?, log_variance: some(1)?, ..Default::default() };
        if prior {
            wanted = Gradients { prior_mean: some(2)?, prior_log_variance: some(3)?, ..wanted };
        }
        gaussian_kl::forward(recorder, inputs, loss.view()?, Gradients::default(), options)?;
        gaussian_kl::backward(recorder, inputs, Some(dy_held.view()?), wanted, options)
    })?;
    let inputs = Inputs { mean: &m, log_variance: &v, prior: prior.then_some((&pm[..], &pv[..])) };
    let [m, v, pm, pv] = [cast::<f64>(&m), cast(&v), cast(&pm), cast(&pv)];
    let wide = Inputs { mean: &m, log_variance: &v, prior: prior.then_some((&pm[..], &pv[..])) };
    check
        .compare("loss", &loss, &textbook::forward(wide, cols, options), &textbook::forward(inputs, cols, options))
        .await?;
    let want = textbook::backward(wide, cols, &cast(&dy), options);
    let naive = textbook::backward(inputs, cols, &dy, options);
    for (index, what) in ["d_mean", "d_log_variance", "d_prior_mean", "d_prior_log_variance"].into_iter().enumerate() {
        if prior || index < 2 {
            check.compare_gradient(what, &gradients[index], &old, &want[index], &naive[index]).await?;
        }
    }
    Ok(())
}
