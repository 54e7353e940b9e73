use super::{Check, FILLS, Fill, REDUCTIONS, before, cast, rounded};
use crate::bce::{self, Options};
use crate::reference::bce::{self as textbook, Inputs};
use crate::{Accum, Reduction, Result, Storage};

pub(super) async fn cases(check: &mut Check) -> Result<()> {
    for (index, shape) in [[1, 1], [1, 7], [3, 257], [5, 1000]].into_iter().enumerate() {
        for fill in FILLS.into_iter().filter(|fill| *fill != Fill::Masked) {
            let options = Options { reduction: REDUCTIONS[index], ..Default::default() };
            case(check, shape, fill, Storage::F32, [false, false], options).await?;
        }
    }
    for reduction in REDUCTIONS {
        case(check, [3, 257], Fill::Small, Storage::F32, [true, true], Options { reduction, ..Default::default() })
            .await?;
    }
    for weights in [[false, false], [true, false], [false, true]] {
        let options = Options { reduction: Reduction::BatchMean, accum: Accum::Add };
        case(check, [3, 20_000], Fill::Small, Storage::F32, weights, options).await?;
        case(check, [7_000, 3], Fill::Small, Storage::F32, weights, options).await?;
    }
    for &storage in check.storages() {
        case(check, [3, 257], Fill::Small, storage, [true, true], Options::default()).await?;
        case(check, [3, 64], Fill::Small, storage, [true, false], Options::default()).await?;
    }
    Ok(())
}

pub(super) async fn drawn(check: &mut Check) -> Result<()> {
    let draw = &mut check.draw;
    let (shape, fill, storage) = (draw.shape(50_000), draw.fill(&[Fill::Masked]), draw.storage());
    let (weights, options) = ([draw.yes(), draw.yes()], Options { reduction: draw.reduction(), accum: draw.accum() });
    case(check, shape, fill, storage, weights, options).await
}

async fn case(
    check: &mut Check,
    shape: [usize; 2],
    fill: Fill,
    storage: Storage,
    [weighted, positive]: [bool; 2],
    options: Options,
) -> Result<()> {
    let [rows, cols] = shape;
    check.case(format_args!("{rows} x {cols} {fill:?} {storage:?} {weighted} {positive} {options:?}"));
    let shares = |seed| -> Vec<f32> { Fill::Small.matrix(rows, cols, seed).iter().map(|v| v.abs()).collect() };
    let x = rounded(storage, &fill.matrix(rows, cols, 3));
    let t = rounded(storage, &shares(4));
    let weight = rounded(storage, &if weighted { shares(5) } else { Vec::new() });
    let pos_weight: Vec<f32> = if positive { (0..cols).map(|j| (j % 5) as f32).collect() } else { Vec::new() };
    let [loss_rows, loss_cols] = options.reduction.of_elements(shape);
    let dy = Fill::Small.matrix(loss_rows, loss_cols, 5);
    let old = before(options.accum, storage, rows * cols, 6);

    let [x_held, t_held] = [check.input_as(storage, rows, cols, &x)?, check.input_as(storage, rows, cols, &t)?];
    let weight_held = check.input_as(storage, if weighted { rows } else { 0 }, cols, &weight)?;
    let pos_held = check.input_as(storage, if positive { 1 } else { 0 }, cols, &pos_weight)?;
    let dy_held = check.input(loss_rows, loss_cols, &dy)?;
    let loss = check.output(loss_rows, loss_cols)?;
    let dx = check.holding(storage, rows, cols, &old)?;
    check.run(|recorder| {
        let inputs = bce::Inputs {
            x: x_held.view()?,
            t: t_held.view()?,
            weight: if weighted { Some(weight_held.view()?) } else { None },
            pos_weight: if positive { Some(pos_held.view()?) } else { None },
        };
        bce::forward(recorder, inputs, loss.view()?, None, options)?;
        bce::backward(recorder, inputs, Some(dy_held.view()?), dx.view()?, options)
    })?;
    let inputs = Inputs { x: &x, t: &t, weight: &weight, pos_weight: &pos_weight };
    let (x64, t64, weight64, pos64) = (cast(&x), cast(&t), cast(&weight), cast(&pos_weight));
    let wide = Inputs::<f64> { x: &x64, t: &t64, weight: &weight64, pos_weight: &pos64 };
    check
        .compare("loss", &loss, &textbook::forward(wide, cols, options), &textbook::forward(inputs, cols, options))
        .await?;
    let want = textbook::backward(wide, cols, &cast(&dy), options);
    check.compare_gradient("dx", &dx, &old, &want, &textbook::backward(inputs, cols, &dy, options)).await
}
