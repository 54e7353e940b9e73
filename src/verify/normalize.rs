use super::{Check, Fill, cast, rounded};
use crate::normalize::{self, Options};
use crate::{Result, Storage, reference};

pub(super) async fn cases(check: &mut Check) -> Result<()> {
    let fills = [Fill::Equal, Fill::Small, Fill::Huge, Fill::Outlier, Fill::Sorted];
    for (rows, cols) in [(1, 1), (1, 7), (3, 255), (3, 257), (5, 1000), (601, 50), (70_000, 3), (2, 131_072)] {
        for fill in fills {
            if rows * cols < 100_000 || fill == Fill::Small {
                case(check, rows, cols, fill, Storage::F32, Options::default()).await?;
            }
        }
    }
    for &storage in check.storages() {
        case(check, 3, 256, Fill::Small, storage, Options::default()).await?;
        case(check, 5, 257, Fill::Wide, storage, Options::default()).await?;
    }
    case(check, 5, 33, Fill::Subnormal, Storage::F32, Options::default()).await?;
    case(check, 5, 33, Fill::Small, Storage::F32, Options { eps: 100.0 }).await
}

pub(super) async fn drawn(check: &mut Check) -> Result<()> {
    let draw = &mut check.draw;
    let ([rows, cols], fill, storage) =
        (draw.shape(50_000), draw.fill(&[Fill::Masked, Fill::Subnormal]), draw.storage());
    let eps = if draw.rarely(4) { 100.0 } else { Options::default().eps };
    case(check, rows, cols, fill, storage, Options { eps }).await
}

async fn case(
    check: &mut Check,
    rows: usize,
    cols: usize,
    fill: Fill,
    storage: Storage,
    options: Options,
) -> Result<()> {
    check.case(format_args!("{rows} x {cols} {fill:?} {storage:?} eps {}", options.eps));
    check.magnifies_flushed(1.0 / f64::from(options.eps));
    let (x, dy) = (rounded(storage, &fill.matrix(rows, cols, 3)), rounded(storage, &Fill::Small.matrix(rows, cols, 4)));
    let held = [check.input_as(storage, rows, cols, &x)?, check.input_as(storage, rows, cols, &dy)?];
    let (y, dx) = (check.output_as(storage, rows, cols)?, check.output_as(storage, rows, cols)?);
    check.run(|recorder| {
        normalize::forward(recorder, held[0].view()?, y.view()?, options)?;
        normalize::backward(recorder, held[0].view()?, held[1].view()?, dx.view()?, options)
    })?;
    let want = reference::normalize::forward::<f64>(&cast(&x), cols, options);
    check.compare("y", &y, &want, &reference::normalize::forward(&x, cols, options)).await?;
    let (wide_x, wide_dy) = (cast::<f64>(&x), cast::<f64>(&dy));
    let want = reference::normalize::backward(&wide_x, &wide_dy, cols, options);
    let yardstick = reference::normalize::backward(&x, &dy, cols, options);
    // |dy| / n + |y| Σ |y dy| / n
    let rows = wide_x.chunks(cols).zip(wide_dy.chunks(cols));
    let terms = rows.flat_map(|(x, dy)| {
        let n = x.iter().map(|x| x * x).sum::<f64>().sqrt().max(options.eps.into());
        let along = x.iter().zip(dy).map(|(x, dy)| (x / n * dy).abs()).sum::<f64>();
        x.iter().zip(dy).map(move |(x, dy)| (dy.abs() + (x / n).abs() * along) / n)
    });
    check.compare_sum("dx", &dx, &want, &yardstick, &terms.collect::<Vec<_>>()).await
}
