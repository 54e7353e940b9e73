use super::{Check, Fill, before, cast, rounded};
use crate::{Accum, Random, Result, Storage, gather, reference};

/// Which ids are asked for.
#[derive(Debug, Clone, Copy)]
enum Ids {
    Distinct,
    Equal,
    /// As frequent as Zipf's law says. Some of them are no row of the table.
    Popular,
}

pub(super) async fn cases(check: &mut Check) -> Result<()> {
    for (count, rows, cols) in
        [(1, 1, 1), (7, 5, 3), (257, 4000, 64), (4097, 300, 9), (1, 3, 4100), (20_000, 70_000, 4)]
    {
        for which in [Ids::Distinct, Ids::Equal, Ids::Popular] {
            for accum in [Accum::Write, Accum::Add] {
                case(check, [count, rows, cols], which, accum, [Storage::F32; 2]).await?;
            }
        }
    }
    for &storage in check.storages() {
        for storages in [[storage, Storage::F32], [Storage::F32, storage], [storage, storage]] {
            for cols in [3, 64] {
                case(check, [300, 40, cols], Ids::Popular, Accum::Write, storages).await?;
            }
        }
    }
    Ok(())
}

pub(super) async fn drawn(check: &mut Check) -> Result<()> {
    let draw = &mut check.draw;
    let cols = draw.size(300);
    let (count, rows) = (draw.size(30_000 / cols), draw.size(30_000 / cols));
    let (which, accum) = (draw.one_of(&[Ids::Distinct, Ids::Equal, Ids::Popular]), draw.accum());
    let storages = [draw.storage(), draw.storage()];
    case(check, [count, rows, cols], which, accum, storages).await
}

fn ids(which: Ids, count: usize, rows: usize) -> Vec<u32> {
    let mut random = Random::new(9, count as u32);
    let mut order = random.permutation(rows as u32);
    match which {
        Ids::Distinct => {
            order.resize(count, u32::MAX);
            order
        }
        Ids::Equal => vec![rows as u32 / 2; count],
        Ids::Popular => (0..count).map(|_| ((rows as f32 + 2.0).powf(random.uniform()) - 1.0) as u32).collect(),
    }
}

async fn case(
    check: &mut Check,
    [count, rows, cols]: [usize; 3],
    which: Ids,
    accum: Accum,
    [of_table, of_rows]: [Storage; 2],
) -> Result<()> {
    check.case(format_args!("{count} of {rows} x {cols} {which:?} {accum:?} {of_table:?} {of_rows:?}"));
    let ids = ids(which, count, rows);
    let table = rounded(of_table, &Fill::Small.matrix(rows, cols, 31));
    let dy = rounded(of_rows, &Fill::Small.matrix(count, cols, 32));
    let old = before(accum, of_table, rows * cols, 33);
    let (held, held_ids) = (check.input_as(of_table, rows, cols, &table)?, check.input(count, 1, &ids)?);
    let held_dy = check.input_as(of_rows, count, cols, &dy)?;
    let y = check.output_as(of_rows, count, cols)?;
    let d_table = check.holding(of_table, rows, cols, &old)?;
    let (places, d_rows) = (check.output::<u32>(count, 1)?, check.output(count, cols)?);
    check.run(|recorder| {
        gather::forward(recorder, held.view()?, held_ids.view()?, y.view()?)?;
        gather::backward(recorder, held_dy.view()?, held_ids.view()?, d_table.view()?, accum)?;
        gather::backward_rows(recorder, held_dy.view()?, held_ids.view()?, rows, places.view()?, d_rows.view()?)
    })?;
    let want = reference::gather::forward(&table, cols, &ids);
    check.compare("y", &y, &cast(&want), &want).await?;
    let sums: Vec<f64> = reference::gather::backward(&cast(&dy), cols, &ids, rows);
    let yardstick: Vec<f32> = reference::gather::backward(&dy, cols, &ids, rows);
    let sizes: Vec<f64> = cast::<f64>(&dy).iter().map(|dy| dy.abs()).collect();
    let terms: Vec<f64> = reference::gather::backward(&sizes, cols, &ids, rows);
    check.compare_added("d_table", &d_table, &old, &sums, &yardstick, &terms).await?;
    // Equal ids stand together; the first of them has the sum.
    let mut sorted: Vec<u32> = ids.iter().map(|&id| id.min(rows as u32)).collect();
    sorted.sort_unstable();
    let begins = |place: usize| (sorted[place] as usize) < rows && (place == 0 || sorted[place - 1] != sorted[place]);
    let want: Vec<u32> = (0..count).map(|place| if begins(place) { sorted[place] } else { u32::MAX }).collect();
    check.compare_ids("rows", &places, &want).await?;
    let (sums, yardstick, terms) = (
        reference::gather::forward(&sums, cols, &want),
        reference::gather::forward(&yardstick, cols, &want),
        reference::gather::forward(&terms, cols, &want),
    );
    check.compare_sum("d_rows", &d_rows, &sums, &yardstick, &terms).await
}
