use super::{Check, Fill, cast, rounded};
use crate::{Lists, Random, Result, Storage, reference, top_k};

pub(super) async fn cases(check: &mut Check) -> Result<()> {
    let shapes =
        [[1, 1, 1, 1], [3, 7, 5, 10], [70, 300, 16, 12], [5, 5000, 8, 100], [700, 40, 4, 1], [2, 3000, 3, 1000]];
    for [n, m, dim, count] in shapes {
        for has_lists in [false, true] {
            case(check, [n, m, dim, count], true, has_lists, Storage::F32).await?;
        }
        case(check, [n, m, dim, count], false, true, Storage::F32).await?;
    }
    for &storage in check.storages() {
        case(check, [20, 300, 16, 12], false, true, storage).await?;
    }
    Ok(())
}

pub(super) async fn drawn(check: &mut Check) -> Result<()> {
    let draw = &mut check.draw;
    let ([n, m, dim], has_lists, storage) = (draw.pairs(300_000), draw.yes(), draw.storage());
    check.gpu = draw.in_chunks(&check.gpu, n * m);
    let (count, ties) = (draw.size(300), n * m > 100 || draw.yes());
    case(check, [n, m, dim, count], ties, has_lists, storage).await
}

/// `ties`: vectors of small integers, whose scores are exact and often equal.
async fn case(
    check: &mut Check,
    [n, m, dim, count]: [usize; 4],
    ties: bool,
    has_lists: bool,
    storage: Storage,
) -> Result<()> {
    check.case(format_args!("{n} x {m} x {dim} K {count} ties {ties} lists {has_lists} {storage:?}"));
    let vectors = |rows: usize, seed: u64| -> Vec<f32> {
        let values = Fill::Small.matrix(rows, dim, seed);
        rounded(storage, &if ties { values.iter().map(|v| (2.0 * v).round()).collect() } else { values })
    };
    let (q, k) = (vectors(n, 61), vectors(m, 62));
    let mut random = Random::new(63, m as u32);
    let mut lists: Vec<Vec<u32>> = vec![Vec::new(), (0..m as u32 - 1).collect()];
    for _ in 0..5 {
        let mut list: Vec<u32> = (0..random.below(40)).map(|_| random.below(m as u32 + 2)).collect();
        list.sort_unstable();
        list.dedup();
        lists.push(list);
    }
    // One row asks for a list that does not exist.
    let of: Vec<u32> = (0..n as u32).map(|row| row % (lists.len() as u32 + 1)).collect();
    let own: Vec<&[u32]> =
        of.iter().map(|&l| lists.get(l as usize).filter(|_| has_lists).map_or(&[][..], Vec::as_slice)).collect();
    let mut starts = vec![0u32];
    lists.iter().for_each(|list| starts.push(starts[starts.len() - 1] + list.len() as u32));
    let items = lists.concat();
    let (held_q, held_k) = (check.input_as(storage, n, dim, &q)?, check.input_as(storage, m, dim, &k)?);
    let (starts, items) = (check.input(starts.len(), 1, &starts)?, check.input(items.len(), 1, &items)?);
    let of = check.input(n, 1, &of)?;
    let (ids, scores) = (check.output::<u32>(n, count)?, check.output(n, count)?);
    check.run(|recorder| {
        let lists = Lists { starts: starts.view()?, items: items.view()?, list: Some(of.view()?) };
        let exclude = has_lists.then_some(lists);
        top_k::forward(recorder, held_q.view()?, held_k.view()?, exclude, ids.view()?, scores.view()?)
    })?;
    let (want_ids, want) = reference::top_k::forward::<f64>(&cast(&q), &cast(&k), dim, &own, count);
    let (_, yardstick) = reference::top_k::forward::<f32>(&q, &k, dim, &own, count);
    // Scores of random vectors differ by more than their rounding, with few exceptions.
    if ties || storage != Storage::F32 || n * m < 25_000 {
        check.compare_ids("ids", &ids, &want_ids).await?;
    }
    let terms = vec![dim as f64; want.len()];
    check.compare_sum("scores", &scores, &want, &yardstick, &terms).await
}
