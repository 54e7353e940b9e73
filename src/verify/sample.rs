use super::Check;
use crate::sample::{self, Options, Popularity, Proposal};
use crate::{Lists, Random, Result, reference};

pub(super) async fn cases(check: &mut Check) -> Result<()> {
    for (rows, cols) in [(1, 1), (7, 5), (300, 64), (70_000, 1)] {
        for n in [1, 7, 257] {
            let popularity = Popularity::new(&zipf(n), 0.75)?;
            let table = popularity.words();
            let proposals = [
                Proposal::Uniform { n },
                Proposal::LogUniform { n },
                Proposal::Table { table, uniform: 0.0 },
                Proposal::Table { table, uniform: 0.25 },
            ];
            for proposal in proposals {
                for has_lists in [false, true] {
                    case(check, rows, cols, proposal, has_lists).await?;
                }
            }
        }
    }
    for proposal in [Proposal::LogUniform { n: 1 << 31 }, Proposal::Uniform { n: u32::MAX }] {
        case(check, 50, 200, proposal, false).await?;
    }
    Ok(())
}

pub(super) async fn drawn(check: &mut Check) -> Result<()> {
    let draw = &mut check.draw;
    let (n, [rows, cols], has_lists) = (draw.size(3_000) as u32, draw.shape(3_000), draw.yes());
    let popularity = Popularity::new(&zipf(n), draw.one_of(&[1.0, 0.75, 0.0]))?;
    let uniform = draw.one_of(&[0.0, 0.25, 1.0]);
    let proposals =
        [Proposal::Uniform { n }, Proposal::LogUniform { n }, Proposal::Table { table: popularity.words(), uniform }];
    let proposal = draw.one_of(&proposals);
    case(check, rows, cols, proposal, has_lists).await
}

/// Popularities, one in five of which is 0.
fn zipf(n: u32) -> Vec<f32> {
    (0..n).map(|k| if k % 5 == 3 { 0.0 } else { 1e4 / (k + 1) as f32 }).collect()
}

/// Lists of up to a dozen ids, some of which are not below n. One list has all of the first seven ids. The last row
/// asks for a list that does not exist.
fn lists(n: u32, rows: usize) -> (Vec<Vec<u32>>, Vec<u32>) {
    let mut random = Random::new(5, rows as u32);
    let mut lists = vec![(0..7).collect(), Vec::new()];
    for _ in 0..9 {
        let mut list: Vec<u32> = (0..random.below(13)).map(|_| random.below(n + 3)).collect();
        list.sort_unstable();
        list.dedup();
        lists.push(list);
    }
    let of =
        (0..rows as u32).map(|row| if row + 1 == rows as u32 { u32::MAX } else { row % lists.len() as u32 }).collect();
    (lists, of)
}

async fn case(check: &mut Check, rows: usize, cols: usize, proposal: Proposal<&[u32]>, has_lists: bool) -> Result<()> {
    let n = proposal.map(|table| table.len() / 3).ids();
    let options = Options { seed: 0x1234_5678_9abc, step: 3, stream: 2, expected: rows == 7 };
    let kind = proposal.map(|table| table.len() / 3);
    check.case(format_args!("{rows} x {cols} {kind:?} lists {has_lists}"));
    let words = match proposal {
        Proposal::Table { table, .. } => table,
        _ => &[],
    };
    let (all, of) = if has_lists { lists(n, rows) } else { (Vec::new(), Vec::new()) };
    let own = |row: usize| all.get(of[row] as usize).map_or(&[][..], Vec::as_slice);
    let own_lists: Vec<&[u32]> = (0..rows).map(|row| if has_lists { own(row) } else { &[] }).collect();
    let mut starts = vec![0u32];
    all.iter().for_each(|list| starts.push(starts[starts.len() - 1] + list.len() as u32));
    let items = all.concat();
    let table = check.input(words.len() / 3, 3, words)?;
    let (starts, items) = (check.input(starts.len(), 1, &starts)?, check.input(items.len(), 1, &items)?);
    let of = check.input(of.len(), 1, &of)?;
    let (ids, log_q) = (check.output::<u32>(rows, cols)?, check.output(rows, cols)?);
    let given = check.output(rows, cols)?;
    check.run(|recorder| {
        let table = table.view()?;
        let proposal = proposal.map(|_| table);
        let lists = Lists { starts: starts.view()?, items: items.view()?, list: Some(of.view()?) };
        sample::draw(recorder, proposal, has_lists.then_some(lists), ids.view()?, log_q.view()?, options)?;
        sample::log_q(recorder, proposal, ids.view()?, given.view()?)
    })?;
    let (want_ids, want) = reference::sample::draw::<f64>(proposal, &own_lists, cols, options);
    let (_, yardstick) = reference::sample::draw::<f32>(proposal, &own_lists, cols, options);
    check.compare_ids("ids", &ids, &want_ids).await?;
    // A sum over the list, which may be nearly 1, is subtracted from 1.
    let terms: Vec<f64> = want.iter().map(|value| 1.0 + value.abs()).collect();
    check.compare_sum("log_q", &log_q, &want, &yardstick, &terms).await?;
    let alone =
        |id: &u32| if *id == u32::MAX { f64::INFINITY } else { reference::sample::log_probability(proposal, *id) };
    let want: Vec<f64> = want_ids.iter().map(alone).collect();
    let yardstick: Vec<f32> = want_ids
        .iter()
        .map(|id| if *id == u32::MAX { f32::INFINITY } else { reference::sample::log_probability(proposal, *id) })
        .collect();
    check.compare("log_q of given", &given, &want, &yardstick).await
}
