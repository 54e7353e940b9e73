use super::{Check, FILLS, Fill, cast, rounded};
use crate::sigmoid::{self, Options};
use crate::{Result, Storage, reference};

pub(super) async fn cases(check: &mut Check) -> Result<()> {
    for log in [false, true] {
        for (rows, cols) in [(1, 1), (1, 7), (3, 257), (70_000, 3)] {
            for fill in FILLS.into_iter().filter(|fill| *fill != Fill::Masked) {
                if rows * cols < 100_000 || fill == Fill::Small {
                    case(check, rows, cols, fill, Storage::F32, Options { log }).await?;
                }
            }
        }
        for &storage in check.storages() {
            case(check, 3, 257, Fill::Small, storage, Options { log }).await?;
            case(check, 5, 64, Fill::Wide, storage, Options { log }).await?;
        }
    }
    Ok(())
}

pub(super) async fn drawn(check: &mut Check) -> Result<()> {
    let draw = &mut check.draw;
    let ([rows, cols], fill, storage) = (draw.shape(50_000), draw.fill(&[Fill::Masked]), draw.storage());
    let options = Options { log: draw.yes() };
    case(check, rows, cols, fill, storage, options).await
}

async fn case(
    check: &mut Check,
    rows: usize,
    cols: usize,
    fill: Fill,
    storage: Storage,
    options: Options,
) -> Result<()> {
    check.case(format_args!("{rows} x {cols} {fill:?} {storage:?} {options:?}"));
    let (x, dy) = (rounded(storage, &fill.matrix(rows, cols, 1)), rounded(storage, &Fill::Small.matrix(rows, cols, 2)));
    let held = [check.input_as(storage, rows, cols, &x)?, check.input_as(storage, rows, cols, &dy)?];
    let (y, dx) = (check.output_as(storage, rows, cols)?, check.output_as(storage, rows, cols)?);
    check.run(|recorder| {
        sigmoid::forward(recorder, held[0].view()?, y.view()?, options)?;
        sigmoid::backward(recorder, y.view()?, held[1].view()?, dx.view()?, options)
    })?;
    let want = reference::sigmoid::forward::<f64>(&cast(&x), options);
    check.compare("y", &y, &want, &reference::sigmoid::forward(&x, options)).await?;
    // The backward's input is what the forward stored: rounding that to 16 bits is not the backward's error.
    let Some(stored) = check.body("y", &y).await? else { return Ok(()) };
    let want = reference::sigmoid::backward::<f64>(&cast(&stored), &cast(&dy), options);
    let terms: Vec<f64> = dy.iter().map(|dy| f64::from(dy.abs())).collect();
    check.compare_sum("dx", &dx, &want, &reference::sigmoid::backward(&stored, &dy, options), &terms).await
}
