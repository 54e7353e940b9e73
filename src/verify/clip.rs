use super::{Check, FILLS, Fill, Held, cast, rounded};
use crate::clip::{self, Options};
use crate::{Result, Storage, Tensor, reference};

pub(super) async fn cases(check: &mut Check) -> Result<()> {
    let shapes: [&[[usize; 2]]; 4] =
        [&[[1, 1]], &[[3, 257], [1, 7]], &[[64, 64], [1, 64], [70_000, 3]], &[[1, 131_072]]];
    for shapes in shapes {
        for fill in FILLS.into_iter().filter(|fill| *fill != Fill::Masked) {
            for max_norm in [0.0, 1.0, 1e30] {
                case(check, shapes, fill, max_norm, Storage::F32).await?;
            }
        }
    }
    for &storage in check.storages() {
        case(check, &[[3, 257], [8, 64]], Fill::Small, 1.0, storage).await?;
    }
    Ok(())
}

pub(super) async fn drawn(check: &mut Check) -> Result<()> {
    let draw = &mut check.draw;
    let shapes: Vec<[usize; 2]> = (0..draw.size(9)).map(|_| draw.shape(20_000)).collect();
    let (fill, max_norm, storage) = (draw.fill(&[Fill::Masked]), draw.one_of(&[0.0, 1.0, 100.0, 1e30]), draw.storage());
    case(check, &shapes, fill, max_norm, storage).await
}

async fn case(check: &mut Check, shapes: &[[usize; 2]], fill: Fill, max_norm: f32, storage: Storage) -> Result<()> {
    check.case(format_args!("{shapes:?} {fill:?} max_norm {max_norm} {storage:?}"));
    let options = Options { max_norm };
    let count: usize = shapes.iter().map(|[rows, cols]| rows * cols).sum();
    check.magnifies_flushed((count as f64).sqrt()); // a norm of this many numbers, which a device may flush to 0
    let data: Vec<Vec<f32>> = shapes
        .iter()
        .enumerate()
        .map(|(at, &[rows, cols])| rounded(storage, &fill.matrix(rows, cols, 51 + at as u64)))
        .collect();
    let held = shapes.iter().zip(&data).map(|(&[rows, cols], data)| check.input_as(storage, rows, cols, data));
    let held = held.collect::<Result<Vec<Held>>>()?;
    let norm = check.output(1, 1)?;
    check.run(|recorder| {
        let gradients = held.iter().map(Held::view).collect::<Result<Vec<Tensor>>>()?;
        clip::forward(recorder, &gradients, norm.view()?, options)
    })?;
    let mut want: Vec<Vec<f64>> = data.iter().map(|data| cast(data)).collect();
    let mut yardstick = data.clone();
    let want_norm = reference::clip::forward(&mut want.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>(), options);
    let yardstick_norm =
        reference::clip::forward(&mut yardstick.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>(), options);
    check.compare("norm", &norm, &[want_norm], &[yardstick_norm]).await?;
    for ((held, want), yardstick) in held.iter().zip(&want).zip(&yardstick) {
        check.compare("gradient", held, want, yardstick).await?;
    }
    Ok(())
}
