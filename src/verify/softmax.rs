use super::{Check, FILLS, Fill, cast, rounded};
use crate::softmax::{self, Options};
use crate::{Result, Storage, reference};

pub(super) async fn cases(check: &mut Check) -> Result<()> {
    for (rows, cols) in [(1, 1), (1, 7), (3, 255), (3, 256), (3, 257), (5, 1000)] {
        for fill in FILLS {
            for (temperature, log) in [(1.0, false), (1.0, true), (0.07, false), (5.0, true)] {
                case(check, rows, cols, fill, Storage::F32, Options { temperature, log }).await?;
            }
        }
    }
    for &storage in check.storages() {
        for log in [false, true] {
            case(check, 3, 256, Fill::Small, storage, Options { log, ..Default::default() }).await?;
            case(check, 5, 257, Fill::Wide, storage, Options { log, ..Default::default() }).await?;
        }
    }
    case(check, 70_000, 3, Fill::Small, Storage::F32, Options::default()).await?;
    case(check, 32, 131_072, Fill::Outlier, Storage::F32, Options::default()).await
}

pub(super) async fn drawn(check: &mut Check) -> Result<()> {
    let draw = &mut check.draw;
    let ([rows, cols], fill, storage) = (draw.shape(50_000), draw.fill(&[]), draw.storage());
    let options = Options { temperature: draw.one_of(&[1.0, 0.07, 0.5, 5.0]), log: draw.yes() };
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
    check.magnifies_flushed(1.0 / f64::from(options.temperature));
    let (x, dy) = (rounded(storage, &fill.matrix(rows, cols, 5)), rounded(storage, &Fill::Small.matrix(rows, cols, 6)));
    let held = [check.input_as(storage, rows, cols, &x)?, check.input_as(storage, rows, cols, &dy)?];
    let (y, dx) = (check.output_as(storage, rows, cols)?, check.output_as(storage, rows, cols)?);
    check.run(|recorder| {
        softmax::forward(recorder, held[0].view()?, y.view()?, options)?;
        softmax::backward(recorder, y.view()?, held[1].view()?, dx.view()?, options)
    })?;
    let want = reference::softmax::forward::<f64>(&cast(&x), cols, options);
    let yardstick = reference::softmax::forward(&x, cols, options);
    check.compare("y", &y, &want, &yardstick).await?;
    let (mut wide_y, mut narrow_y) = (want, yardstick);
    if storage != Storage::F32 {
        // The backward's input is what the forward stored: rounding that to 16 bits is not the backward's error.
        let Some(stored) = check.body("y", &y).await? else { return Ok(()) };
        (wide_y, narrow_y) = (cast(&stored), stored);
    }
    let want_dx = reference::softmax::backward(&wide_y, &cast(&dy), cols, options);
    let terms = backward_terms(&wide_y, &dy, cols, options);
    check.compare_sum("dx", &dx, &want_dx, &reference::softmax::backward(&narrow_y, &dy, cols, options), &terms).await
}

/// p (|dy| + Σ p |dy|) / T, or (|dy| + p Σ |dy|) / T for the logarithm.
fn backward_terms(y: &[f64], dy: &[f32], cols: usize, options: Options) -> Vec<f64> {
    let temperature = f64::from(options.temperature);
    let rows = y.chunks(cols).zip(dy.chunks(cols));
    rows.flat_map(|(y, dy)| {
        let p = move |j: usize| if options.log { y[j].exp() } else { y[j] };
        let size = move |j: usize| f64::from(dy[j].abs());
        let sum: f64 = (0..cols).map(|j| size(j) * if options.log { 1.0 } else { p(j) }).sum();
        (0..cols).map(move |j| match options.log {
            true => (size(j) + p(j) * sum) / temperature,
            false => p(j) * (size(j) + sum) / temperature,
        })
    })
    .collect()
}
