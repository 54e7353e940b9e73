use super::{Check, FILLS, Fill, REDUCTIONS, before, cast, rounded};
use crate::l2::{self, Gradients, Options};
use crate::{Accum, Reduction, Result, Storage, reference};

pub(super) async fn cases(check: &mut Check) -> Result<()> {
    for (index, shape) in [[1, 1], [1, 7], [3, 257], [5, 1000]].into_iter().enumerate() {
        for fill in FILLS.into_iter().filter(|fill| *fill != Fill::Masked) {
            let options = Options { reduction: REDUCTIONS[index], ..Default::default() };
            case(check, shape, fill, [Storage::F32; 2], options).await?;
        }
    }
    for reduction in REDUCTIONS {
        case(check, [3, 257], Fill::Small, [Storage::F32; 2], Options { reduction, ..Default::default() }).await?;
        let options = Options { reduction, factor: 0.5, accum: Accum::Add };
        case(check, [70_000, 3], Fill::Small, [Storage::F32; 2], options).await?;
        case(check, [3, 20_000], Fill::Small, [Storage::F32; 2], options).await?;
        for &storage in check.storages() {
            // One of the reductions adds to gradients of 16 bits; another one has gradients of 32 bits.
            let accum = if reduction == Reduction::BatchMean { Accum::Add } else { Accum::Write };
            let gradients = if reduction == Reduction::Rows { Storage::F32 } else { storage };
            let options = Options { reduction, accum, ..Default::default() };
            case(check, [3, 257], Fill::Small, [storage, gradients], options).await?;
        }
    }
    Ok(())
}

pub(super) async fn drawn(check: &mut Check) -> Result<()> {
    let draw = &mut check.draw;
    let (shape, fill, storage) = (draw.shape(50_000), draw.fill(&[Fill::Masked]), draw.storage());
    let of_gradients = draw.one_of(&[storage, Storage::F32]);
    let factor = draw.one_of(&[1.0, 0.5, 3.0]);
    let options = Options { reduction: draw.reduction(), factor, accum: draw.accum() };
    case(check, shape, fill, [storage, of_gradients], options).await
}

async fn case(
    check: &mut Check,
    shape: [usize; 2],
    fill: Fill,
    [storage, of_gradients]: [Storage; 2],
    options: Options,
) -> Result<()> {
    let [rows, cols] = shape;
    check.case(format_args!("{rows} x {cols} {fill:?} {storage:?} {of_gradients:?} {options:?}"));
    let [x, t] = [3, 4].map(|seed| rounded(storage, &fill.matrix(rows, cols, seed)));
    let [loss_rows, loss_cols] = options.reduction.of_elements(shape);
    let dy = Fill::Small.matrix(loss_rows, loss_cols, 5);
    let old = before(options.accum, of_gradients, x.len(), 6);

    let [x_held, t_held] = [check.input_as(storage, rows, cols, &x)?, check.input_as(storage, rows, cols, &t)?];
    let dy_held = check.input(loss_rows, loss_cols, &dy)?;
    let loss = check.output(loss_rows, loss_cols)?;
    let [dx, dt] = [check.holding(of_gradients, rows, cols, &old)?, check.holding(of_gradients, rows, cols, &old)?];
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
