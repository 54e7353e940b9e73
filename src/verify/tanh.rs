use super::{Check, FILLS, Fill, cast, rounded};
use crate::{Result, Storage, reference, tanh};

pub(super) async fn cases(check: &mut Check) -> Result<()> {
    for (rows, cols) in [(1, 1), (1, 7), (3, 257), (70_000, 3)] {
        for fill in FILLS.into_iter().filter(|fill| *fill != Fill::Masked) {
            if rows * cols < 100_000 || fill == Fill::Small {
                case(check, rows, cols, fill, Storage::F32).await?;
            }
        }
    }
    for &storage in check.storages() {
        case(check, 3, 257, Fill::Small, storage).await?;
        case(check, 5, 64, Fill::Wide, storage).await?;
    }
    Ok(())
}

pub(super) async fn drawn(check: &mut Check) -> Result<()> {
    let draw = &mut check.draw;
    let ([rows, cols], fill, storage) = (draw.shape(50_000), draw.fill(&[Fill::Masked]), draw.storage());
    case(check, rows, cols, fill, storage).await
}

async fn case(check: &mut Check, rows: usize, cols: usize, fill: Fill, storage: Storage) -> Result<()> {
    check.case(format_args!("{rows} x {cols} {fill:?} {storage:?}"));
    let (x, dy) = (rounded(storage, &fill.matrix(rows, cols, 1)), rounded(storage, &Fill::Small.matrix(rows, cols, 2)));
    let held = [check.input_as(storage, rows, cols, &x)?, check.input_as(storage, rows, cols, &dy)?];
    let (y, dx) = (check.output_as(storage, rows, cols)?, check.output_as(storage, rows, cols)?);
    check.run(|recorder| {
        tanh::forward(recorder, held[0].view()?, y.view()?)?;
        tanh::backward(recorder, y.view()?, held[1].view()?, dx.view()?)
    })?;
    let (want, yardstick) = (reference::tanh::forward::<f64>(&cast(&x)), reference::tanh::forward(&x));
    check.compare("y", &y, &want, &yardstick).await?;
    let (mut wide_y, mut narrow_y) = (want, yardstick);
    if storage != Storage::F32 {
        // The backward's input is what the forward stored: rounding that to 16 bits is not the backward's error.
        let Some(stored) = check.body("y", &y).await? else { return Ok(()) };
        (wide_y, narrow_y) = (cast(&stored), stored);
    }
    let want_dx = reference::tanh::backward::<f64>(&wide_y, &cast(&dy));
    let terms: Vec<f64> = dy.iter().map(|dy| f64::from(dy.abs())).collect(); // dy - dy y^2
    check.compare_sum("dx", &dx, &want_dx, &reference::tanh::backward(&narrow_y, &dy), &terms).await
}
