use super::{Check, Fill, before, cast, rounded};
use crate::{Accum, Result, Storage, linear, reference};

pub(super) async fn cases(check: &mut Check) -> Result<()> {
    let shapes = [
        // rows, inputs, outputs
        (1, 1, 1),
        (1, 7, 5),
        (3, 255, 2),
        (63, 64, 65),
        (130, 17, 67),
        (5, 1000, 3),
        (2100, 31, 9),
        (65_537, 3, 2),
    ];
    // dx of a W that no cache of a CPU holds, computed in slices.
    case(check, [17, 500, 4500], Fill::Small, true, Storage::F32, Accum::Write).await?;
    for (rows, inputs, outputs) in shapes {
        for fill in [Fill::Equal, Fill::Small, Fill::Huge, Fill::Outlier] {
            for bias in [true, false] {
                if rows < 10_000 || (fill == Fill::Small && bias) {
                    case(check, [rows, inputs, outputs], fill, bias, Storage::F32, Accum::Write).await?;
                }
            }
        }
        for &storage in [Storage::F32].iter().chain(check.storages()) {
            for accum in [Accum::Write, Accum::Add] {
                let some = storage != Storage::F32 && [17, 1000].contains(&inputs); // each storage is a kernel of its own
                if rows < 10_000 && (some || (storage == Storage::F32 && accum == Accum::Add)) {
                    case(check, [rows, inputs, outputs], Fill::Small, true, storage, accum).await?;
                }
            }
        }
    }
    Ok(())
}

pub(super) async fn drawn(check: &mut Check) -> Result<()> {
    let draw = &mut check.draw;
    let (shape, fill) = (draw.pairs(1_000_000), draw.one_of(&[Fill::Equal, Fill::Small, Fill::Huge, Fill::Outlier]));
    check.gpu = draw.in_chunks(&check.gpu, shape[0] * shape[2]);
    let (bias, storage, accum) = (draw.yes(), draw.storage(), draw.accum());
    // Products of huge numbers exceed f16.
    let fill = if storage == Storage::F16 && fill == Fill::Huge { Fill::Small } else { fill };
    case(check, shape, fill, bias, storage, accum).await
}

async fn case(
    check: &mut Check,
    [rows, inputs, outputs]: [usize; 3],
    fill: Fill,
    bias: bool,
    storage: Storage,
    accum: Accum,
) -> Result<()> {
    let with_bias = if bias { " bias" } else { "" };
    check.case(format_args!("{rows} x {inputs} -> {outputs} {fill:?}{with_bias} {storage:?} {accum:?}"));
    let matrix = |fill: Fill, rows, cols, seed| rounded(storage, &fill.matrix(rows, cols, seed));
    let (x, w) = (matrix(fill, rows, inputs, 10), matrix(Fill::Small, outputs, inputs, 11));
    let (b, dy) = (matrix(Fill::Small, outputs, 1, 12), matrix(fill, rows, outputs, 13));
    let (held_x, held_w) = (check.input_as(storage, rows, inputs, &x)?, check.input_as(storage, outputs, inputs, &w)?);
    let (held_b, held_dy) = (check.input_as(storage, outputs, 1, &b)?, check.input_as(storage, rows, outputs, &dy)?);
    let old = [(rows * inputs, 14), (outputs * inputs, 15), (outputs, 16)];
    let old = old.map(|(len, seed)| before(accum, storage, len, seed));
    let (y, dx) = (check.output_as(storage, rows, outputs)?, check.holding(storage, rows, inputs, &old[0])?);
    let dw = check.holding(storage, outputs, inputs, &old[1])?;
    let db = check.holding(storage, outputs, 1, &old[2])?;
    check.run(|recorder| {
        let (x, w, dy) = (held_x.view()?, held_w.view()?, held_dy.view()?);
        let b = bias.then(|| held_b.view()).transpose()?;
        linear::forward(recorder, x, w, b, y.view()?)?;
        linear::backward(recorder, x, w, dy, Some(dx.view()?), Some(dw.view()?), Some(db.view()?), accum)
    })?;
    let b = bias.then_some(b.as_slice());
    let wide: [Vec<f64>; 3] = [cast(&x), cast(&w), cast(&dy)];
    let wide_b: Option<Vec<f64>> = b.map(cast);
    let magnitude = wide.each_ref().map(|data| data.iter().map(|v| v.abs()).collect::<Vec<_>>());
    let size = [inputs, outputs, rows];
    let forward =
        |[x, w, _]: &[Vec<f64>; 3], b: Option<&[f64]>| reference::linear::forward(x, w, b, size[0], size[1], size[2]);
    let want = forward(&wide, wide_b.as_deref());
    let terms = forward(&magnitude, None);
    let yardstick = reference::linear::forward(&x, &w, b, inputs, outputs, rows);
    check.compare_sum("y", &y, &want, &yardstick, &terms).await?;
    let backward = |[x, w, dy]: &[Vec<f64>; 3]| reference::linear::backward(x, w, dy, size[0], size[1], size[2]);
    let (want, terms) = (backward(&wide), backward(&magnitude));
    let yardstick = reference::linear::backward(&x, &w, &dy, inputs, outputs, rows);
    check.compare_added("dx", &dx, &old[0], &want.0, &yardstick.0, &terms.0).await?;
    check.compare_added("dw", &dw, &old[1], &want.1, &yardstick.1, &terms.1).await?;
    check.compare_added("db", &db, &old[2], &want.2, &yardstick.2, &terms.2).await
}
