use super::{Check, Fill, cast, rounded};
use crate::{Random, Result, Storage, reference, wals};

/// What observations have of their own.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Own {
    Nothing,
    Weights,
    Both,
}

pub(super) fn cases(check: &mut Check) -> Result<()> {
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
        case(check, shapes[2], Own::Weights, 1.0, Storage::F32)?;
        return case(check, shapes[3], Own::Both, 0.5, Storage::F32);
    }
    for [rows, items, dim, most] in shapes {
        for (own, unobserved) in [(Own::Nothing, 1.0), (Own::Weights, 0.1), (Own::Both, 0.0)] {
            case(check, [rows, items, dim, most], own, unobserved, Storage::F32)?;
        }
    }
    for &storage in check.storages() {
        case(check, [23, 70, 33, 40], Own::Both, 0.5, storage)?;
    }
    Ok(())
}

fn case(
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
    // The second row has none, the last the most.
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
    let of_rows = wals::Rows::new(check.gpu, &starts, dim)?;
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
    let want = reference::wals::solve::<f64>(&cast(&y), dim, &wide, unobserved.into(), &cast(&ridge));
    let yardstick = reference::wals::solve(&y, dim, &entries, unobserved, &ridge);
    check.compare("x", &x, &want, &yardstick)?;
    let solved = check.gpu.read(x.view()?)?;
    let loss = check.output(of_rows.pieces(), 1)?;
    check.run(|recorder| {
        let (x, y) = (x.view()?, held_y.view()?);
        wals::objective(recorder, x, y, observed(held_ids.view()?)?, held_ridge.view()?, loss.view()?, options)
    })?;
    let want =
        reference::wals::objective::<f64>(&cast(&solved), &cast(&y), dim, &wide, unobserved.into(), &cast(&ridge));
    let naive = reference::wals::objective(&solved, &y, dim, &entries, unobserved, &ridge);
    // Rows of several pieces: tests/wals.rs.
    if of_rows.pieces() == rows {
        let by_piece =
            |values: Vec<f64>| -> Vec<f64> { (0..rows).map(|piece| values[of_rows.row_of(piece)]).collect() };
        let terms = by_piece(want.iter().map(|of| of.1).collect());
        let naive: Vec<f32> = (0..rows).map(|piece| naive[of_rows.row_of(piece)].0).collect();
        check.compare_sum("loss", &loss, &by_piece(want.iter().map(|of| of.0).collect()), &naive, &terms)?;
    }
    Ok(())
}
