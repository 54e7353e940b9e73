use super::{Check, FILLS, Fill, REDUCTIONS, cast, rounded};
use crate::l2::{self, Gradients, Options};
use crate::{Accum, Result, Storage, reference};

pub(super) async fn cases(check: &mut Check) -> Result<()> {
    for (index, shape) in [[1, 1], [1, 7], [3, 257], [5, 1000]].into_iter().enumerate() {
        for fill in FILLS.into_iter().filter(|fill| *fill != Fill::Masked) {
            let options = Options { reduction: REDUCTIONS[index], ..Default::default() };
            case(check, shape, fill, Storage::F32, options).await?;
        }
    }
    for reduction in REDUCTIONS {
        case(check, [3, 257], Fill::Small, Storage::F32, Options { reduction, ..Default::default() }).await?;
        let options = Options { reduction, factor: 0.5, accum: Accum::Add };
        case(check, [70_000, 3], Fill::Small, Storage::F32, options).await?;
        case(check, [3, 20_000], Fill::Small, Storage::F32, options).await?;
        for &storage in check.storages() {
            case(check, [3, 257], Fill::Small, storage, Options { reduction, ..Default::default() }).await?;
        }
    }
    Ok(())
}

async fn case(check: &mut Check, shape: [usize; 2], fill: Fill, storage: Storage, options: Options) -> Result<()> {
    let [rows, cols] = shape;
    check.case(format_args!("{rows} x {cols} {fill:?} {storage:?} {options:?}"));
    let [x, t] = [3, 4].map(|seed| rounded(storage, &fill.matrix(rows, cols, seed)));
    let [loss_rows, loss_cols] = options.reduction.of_elements(shape);
    let dy = Fill::Small.matrix(loss_rows, loss_cols, 5);
    let old = if options.accum == Accum::Add { Fill::Small.matrix(rows, cols, 6) } else { Vec::new() };

    let [x_held, t_held] = [check.input_as(storage, rows, cols, &x)?, check.input_as(storage, rows, cols, &t)?];
    let dy_held = check.input(loss_rows, loss_cols, &dy)?;
    let loss = check.output(loss_rows, loss_cols)?;
    let [dx, dt] = [check.holding(storage, rows, cols, &old)?, check.holding(storage, rows, cols, &old)?];
    check.run(|recorder| {
        let (x, t) = (x_held.view()?, t_held.view()?);
        let gradients = Gradients { dx: Some(dx.view()?), dt: Some(dt.view()?) };
        l2::forward(recorder, x, t, loss.view()?, Gradients::default(), options)?;
        l2::backward(recorder, x, t, Some(dy_held.view()?), gradients, options)
    })?;
    let want = reference::l2::forward::<f64>(&cast(&x), &cast(&t), cols, options);
    check.compare("loss", &loss, &want, &reference::l2::forward(&x, &t, cols, options)).await?;
    let want = reference::l2::backward::<f64>(&cast(&x), &cast(&t), cols, &cast(&dy), options);
    let naive = reference::l2::backward(&x, &t, cols, &dy, options);
    for (index, (what, held)) in [("dx", &dx), ("dt", &dt)].into_iter().enumerate() {
        check.compare_gradient(what, held, &old, &want[index], &naive[index]).await?;
    }
    Ok(())
}
