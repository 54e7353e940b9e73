use super::{Check, FILLS, Fill, STORAGES, cast as to_f64, rounded};
use crate::cast;
use crate::{Result, Storage};

pub(super) async fn cases(check: &mut Check) -> Result<()> {
    for from in STORAGES.into_iter().chain([Storage::F32]) {
        for to in STORAGES.into_iter().chain([Storage::F32]) {
            for fill in FILLS {
                for (rows, cols) in [(1, 1), (3, 257), (70, 64)] {
                    case(check, [rows, cols], fill, [from, to]).await?;
                }
            }
        }
    }
    Ok(())
}

pub(super) async fn drawn(check: &mut Check) -> Result<()> {
    let draw = &mut check.draw;
    let (shape, fill, storages) = (draw.shape(50_000), draw.fill(&[]), [draw.storage(), draw.storage()]);
    case(check, shape, fill, storages).await
}

async fn case(check: &mut Check, [rows, cols]: [usize; 2], fill: Fill, [from, to]: [Storage; 2]) -> Result<()> {
    check.case(format_args!("{rows} x {cols} {fill:?} {from:?} to {to:?}"));
    let x = rounded(from, &fill.matrix(rows, cols, 1));
    let (x_held, y) = (check.input_as(from, rows, cols, &x)?, check.output_as(to, rows, cols)?);
    check.run(|recorder| cast::forward(recorder, x_held.view()?, y.view()?))?;
    let want = rounded(to, &x);
    check.compare("y", &y, &to_f64(&want), &want).await
}
