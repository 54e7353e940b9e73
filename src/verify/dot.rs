use super::{Check, Fill, before, cast, rounded};
use crate::{Accum, Result, Storage, dot, reference};

pub(super) async fn cases(check: &mut Check) -> Result<()> {
    for [n, per, dim] in [[1, 1, 1], [3, 5, 7], [40, 3, 257], [7, 64, 128], [2, 2, 20_000], [5000, 2, 3]] {
        for fill in [Fill::Small, Fill::Equal, Fill::Huge] {
            for accum in [Accum::Write, Accum::Add] {
                case(check, [n, per, dim], fill, accum, Storage::F32).await?;
            }
        }
    }
    for &storage in check.storages() {
        for dim in [3, 64] {
            for accum in [Accum::Write, Accum::Add] {
                case(check, [9, 4, dim], Fill::Small, accum, storage).await?;
            }
        }
    }
    Ok(())
}

pub(super) async fn drawn(check: &mut Check) -> Result<()> {
    let draw = &mut check.draw;
    let shape = draw.pairs(50_000);
    let (fill, accum, storage) = (draw.one_of(&[Fill::Small, Fill::Equal, Fill::Huge]), draw.accum(), draw.storage());
    let fill = if storage == Storage::F16 { Fill::Small } else { fill };
    case(check, shape, fill, accum, storage).await
}

async fn case(check: &mut Check, [n, per, dim]: [usize; 3], fill: Fill, accum: Accum, storage: Storage) -> Result<()> {
    check.case(format_args!("{n} x {per} x {dim} {fill:?} {accum:?} {storage:?}"));
    let q = rounded(storage, &fill.matrix(n, dim, 41));
    let k = rounded(storage, &Fill::Small.matrix(n * per, dim, 42));
    let ds = rounded(storage, &Fill::Small.matrix(n, per, 43));
    let (old_q, old_k) = (before(accum, storage, n * dim, 44), before(accum, storage, n * per * dim, 45));
    let (held_q, held_k) = (check.input_as(storage, n, dim, &q)?, check.input_as(storage, n * per, dim, &k)?);
    let (s, held_ds) = (check.output_as(storage, n, per)?, check.input_as(storage, n, per, &ds)?);
    let (dq, dk) = (check.holding(storage, n, dim, &old_q)?, check.holding(storage, n * per, dim, &old_k)?);
    check.run(|recorder| {
        let (q, k) = (held_q.view()?, held_k.view()?);
        dot::forward(recorder, q, k, s.view()?)?;
        dot::backward(recorder, q, k, held_ds.view()?, Some(dq.view()?), Some(dk.view()?), accum)
    })?;
    let sizes = |data: &[f32]| -> Vec<f64> { data.iter().map(|&value| f64::from(value).abs()).collect() };
    let (wide_q, wide_k, wide_ds) = (cast::<f64>(&q), cast::<f64>(&k), cast::<f64>(&ds));
    let terms = reference::dot::forward(&sizes(&q), &sizes(&k), dim);
    let want = reference::dot::forward(&wide_q, &wide_k, dim);
    check.compare_sum("s", &s, &want, &reference::dot::forward(&q, &k, dim), &terms).await?;
    let want = reference::dot::backward(&wide_q, &wide_k, &wide_ds, dim);
    let yardstick = reference::dot::backward(&q, &k, &ds, dim);
    let terms = reference::dot::backward(&sizes(&q), &sizes(&k), &sizes(&ds), dim);
    check.compare_added("dq", &dq, &old_q, &want[0], &yardstick[0], &terms[0]).await?;
    check.compare_added("dk", &dk, &old_k, &want[1], &yardstick[1], &terms[1]).await
}
