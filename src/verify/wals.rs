use super::{Check, Fill, Held, cast, rounded};
use crate::{Random, Result, Storage, reference, wals};

/// What each observation has of its own, instead of one value for all.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Own {
    Nothing,
    Weights,
    Both,
}

pub(super) async fn cases(check: &mut Check) -> Result<()> {
    let shapes = [
        // rows, items, dim, most observations of a row
        [1, 1, 1, 1],
        [9, 7, 5, 6],
        [40, 90, 16, 60],
        [23, 70, 33, 40],
        [11, 300, 64, 150],
        [3, 200, 130, 190],
        [3, 40, 8, 5000],
    ];
    if check.is_brief {
        case(check, shapes[2], Own::Weights, 1.0, Storage::F32).await?;
        return case(check, shapes[3], Own::Both, 0.5, Storage::F32).await;
    }
    for [rows, items, dim, most] in shapes {
        for (own, unobserved) in [(Own::Nothing, 1.0), (Own::Weights, 0.1), (Own::Both, 0.0)] {
            case(check, [rows, items, dim, most], own, unobserved, Storage::F32).await?;
        }
    }
    for &storage in check.storages() {
        case(check, [23, 70, 33, 40], Own::Both, 0.5, storage).await?;
    }
    Ok(())
}

pub(super) async fn drawn(check: &mut Check) -> Result<()> {
    let draw = &mut check.draw;
    let (dim, rows) = (draw.size(140), draw.size(40));
    let items = dim + draw.size(300); // with fewer, a row is poorly determined
    let own = draw.one_of(&[Own::Nothing, Own::Weights, Own::Both]);
    let shape = [rows, items, dim, draw.size(400)];
    let (unobserved, storage) = (draw.one_of(&[0.0, 0.1, 1.0]), draw.storage());
    case(check, shape, own, unobserved, storage).await
}

/// Steps of conjugate gradients of `refine`.
const STEPS: usize = 3;

async fn case(
    check: &mut Check,
    [rows, items, dim, most]: [usize; 4],
    own: Own,
    unobserved: f32,
    storage: Storage,
) -> Result<()> {
    check.case(format_args!(
        "{rows} x {items} x {dim}, up to {most} observations with {own:?}, unobserved {unobserved}, {storage:?}"
    ));
    let y = rounded(storage, &Fill::Small.matrix(items, dim, 71));
    let mut random = Random::new(72, dim as u32);
    // The second row has no observations, the last row the most.
    let lengths: Vec<usize> = (0..rows)
        .map(|row| match row {
            _ if row + 1 == rows => most,
            1 => 0,
            _ => random.below(most as u32 + 1) as usize,
        })
        .collect();
    let mut starts = vec![0u32];
    lengths.iter().for_each(|&length| starts.push(starts[starts.len() - 1] + length as u32));
    let n = starts[rows] as usize;
    let options = wals::Options { unobserved, weight: 1.5, goal: 0.75 };
    let ids: Vec<u32> = (0..n).map(|_| random.below(items as u32)).collect();
    let mut numbers = |has: bool, all: f32, low: f32| -> Vec<f32> {
        rounded(storage, &(0..n).map(|_| if has { low + 2.0 * random.uniform() } else { all }).collect::<Vec<_>>())
    };
    let weights = numbers(own != Own::Nothing, options.weight, 0.0);
    let goals = numbers(own == Own::Both, options.goal, -1.0);
    let ridge: Vec<f32> = (0..rows).map(|row| 2.0 + 0.5 * (row % 3) as f32).collect();
    let held_y = check.input_as(storage, items, dim, &y)?;
    let (held_ids, held_ridge) = (check.input(n, 1, &ids)?, check.input(rows, 1, &ridge)?);
    let (held_weights, held_goals) = (check.input_as(storage, n, 1, &weights)?, check.input_as(storage, n, 1, &goals)?);
    let of_rows = wals::Rows::new(&check.gpu, &starts, dim)?;
    let x = check.output_as(storage, rows, dim)?;
    let gramian = check.gpu.zeros::<f32>(dim * dim)?;
    let gramian = crate::Tensor::matrix(&gramian, dim, dim)?;
    let observed = |items| -> Result<wals::Observed> {
        let weights = if own == Own::Nothing { None } else { Some(held_weights.view()?) };
        let goals = if own == Own::Both { Some(held_goals.view()?) } else { None };
        Ok(wals::Observed { rows: &of_rows, items, weights, goals })
    };
    check.run(|recorder| {
        let y = held_y.view()?;
        wals::gramian(recorder, y, gramian)?;
        wals::solve(recorder, y, observed(held_ids.view()?)?, gramian, held_ridge.view()?, x.view()?, options)
    })?;
    let of_row = |row: usize| starts[row] as usize..starts[row + 1] as usize;
    let entries: Vec<Vec<(usize, f32, f32)>> =
        (0..rows).map(|row| of_row(row).map(|e| (ids[e] as usize, weights[e], goals[e])).collect()).collect();
    let wide: Vec<Vec<(usize, f64, f64)>> =
        entries.iter().map(|row| row.iter().map(|&(id, w, r)| (id, w.into(), r.into())).collect()).collect();
    let wide_ridge = cast(&ridge);
    let want = reference::wals::solve::<f64>(&cast(&y), dim, &wide, unobserved.into(), &wide_ridge);
    let yardstick = reference::wals::solve(&y, dim, &entries, unobserved, &ridge);
    check.compare("x", &x, &want, &yardstick).await?;
    let solved = check.gpu.read_async(x.view()?).await?;
    let loss = check.output(of_rows.pieces(), 1)?;
    check.run(|recorder| {
        let (x, y) = (x.view()?, held_y.view()?);
        wals::objective(recorder, x, y, observed(held_ids.view()?)?, held_ridge.view()?, loss.view()?, options)
    })?;
    let want = reference::wals::objective::<f64>(&cast(&solved), &cast(&y), dim, &wide, unobserved.into(), &wide_ridge);
    let naive = reference::wals::objective(&solved, &y, dim, &entries, unobserved, &ridge);
    compare_losses(check, &loss, &of_rows, &want, &naive).await?;

    // Not for every case, since each needs kernels to be compiled.
    if own == Own::Weights || (own == Own::Nothing && dim != 16) {
        return Ok(());
    }
    // `refine` on the same systems, from a random x: in the basis where y's Gramian is diagonal, and in y's own basis.
    let held_gramian: Vec<f32> = check.gpu.read_async(gramian).await?;
    let [vectors, values] = wals::eigen(&held_gramian, dim);
    let turned = rounded(storage, &reference::linear::forward(&y, &vectors, None, dim, dim, items));
    let start = rounded(storage, &Fill::Small.matrix(rows, dim, 73));
    let held_turned = check.input_as(storage, items, dim, &turned)?;
    let (held_vectors, held_values) = (check.input(dim, dim, &vectors)?, check.input(1, dim, &values)?);
    let square = |of: &dyn Fn(usize) -> f32| -> Vec<f32> {
        (0..dim * dim).map(|at| if at / dim == at % dim { of(at % dim) } else { 0.0 }).collect()
    };
    let (diagonal, unit) = (square(&|i| values[i]), square(&|_| 1.0));
    for is_turned in [true, false] {
        let (held_y, y, [vectors, gramian]) = match is_turned {
            true => (&held_turned, &turned, [&vectors, &diagonal]),
            false => (&held_y, &y, [&unit, &held_gramian]),
        };
        let held_gramian = check.input(dim, dim, gramian)?;
        check.gpu.write(x.view()?, &start)?;
        check.run(|recorder| {
            let base = match is_turned {
                true => wals::Base::Eigen { vectors: held_vectors.view()?, values: held_values.view()? },
                false => wals::Base::Gramian(held_gramian.view()?),
            };
            let (ridge, observed) = (held_ridge.view()?, observed(held_ids.view()?)?);
            wals::refine(recorder, held_y.view()?, observed, base, ridge, x.view()?, loss.view()?, STEPS, options)
        })?;
        let (want, want_loss) = reference::wals::refine::<f64>(
            &cast(y),
            dim,
            &wide,
            unobserved.into(),
            &wide_ridge,
            [&cast(vectors), &cast(gramian)],
            &cast(&start),
            STEPS,
        );
        let (naive, naive_loss) =
            reference::wals::refine(y, dim, &entries, unobserved, &ridge, [vectors, gramian], &start, STEPS);
        check.compare("refined x", &x, &want, &naive).await?;
        compare_losses(check, &loss, &of_rows, &want_loss, &naive_loss).await?;
    }
    Ok(())
}

/// Only where each row is one piece; for others see tests/wals.rs.
async fn compare_losses(
    check: &mut Check,
    loss: &Held,
    rows: &wals::Rows,
    want: &[(f64, f64)],
    naive: &[(f32, f32)],
) -> Result<()> {
    if rows.pieces() > rows.len() {
        return Ok(());
    }
    let of = |piece: usize| rows.row_of(piece);
    let [sums, terms] = [0, 1].map(|at| -> Vec<f64> {
        (0..rows.len()).map(of).map(|row| if at == 0 { want[row].0 } else { want[row].1 }).collect()
    });
    let naive: Vec<f32> = (0..rows.len()).map(|piece| naive[of(piece)].0).collect();
    check.compare_sum("loss", loss, &sums, &naive, &terms).await
}
