//! The quality of recommendations, printed and recorded.

use serde_json::json;
use wgloss::train::tables::{Interactions, Quality};

use crate::interactions::Split;
use crate::table;

/// Prints a table of the quality of recommendations, next to that of the most popular items. Prints nothing if nothing
/// was held out.
pub fn compare(found: &[(&str, &[Quality])], split: &Split, known: &Interactions) {
    let (Some(held_out), Some((_, first))) = (split.measured(), found.first()) else { return };
    let at: Vec<usize> = first.iter().map(|quality| quality.at).collect();
    let popular = popular(&split.train, known, held_out, &at);
    let Some(Quality { users, .. }) = popular.first() else { return };
    let mut header = vec![format!("{users} users' {} items", split.asked())];
    header.extend(at.iter().flat_map(|at| [format!("recall@{at}"), format!("NDCG@{at}")]));
    let mut table = table::with_header(&header, 1..header.len());
    for (name, qualities) in found.iter().chain(&[("the most popular", &popular[..])]) {
        let numbers = qualities.iter().flat_map(|quality| [quality.recall, quality.ndcg]);
        table.add_row([(*name).to_owned()].into_iter().chain(numbers.map(|number| format!("{number:.4}"))));
    }
    say!("{table}");
}

/// The quality of recommending the same items to everyone: the most popular ones, without those in `known` of a user.
fn popular(train: &Interactions, known: &Interactions, held_out: &Interactions, at: &[usize]) -> Vec<Quality> {
    let popularity = train.popularity();
    let mut order: Vec<u32> = (0..popularity.len() as u32).collect();
    order.sort_by(|&a, &b| popularity[b as usize].total_cmp(&popularity[a as usize]).then(a.cmp(&b)));
    let known = known.lists();
    let best_of = |user: u32, count: usize| -> Vec<u32> {
        let is_new = |item: &u32| known[user as usize].binary_search(item).is_err();
        let mut best: Vec<u32> = order.iter().copied().filter(is_new).take(count).collect();
        best.resize(count, u32::MAX);
        best
    };
    let best = |users: &[u32], count| Ok(users.iter().flat_map(|&user| best_of(user, count)).collect());
    Quality::measure(held_out, at, best).unwrap_or_else(|never: std::convert::Infallible| match never {})
}

/// The quality in words. None if nothing was measured.
pub fn sentence(quality: &Quality) -> Option<String> {
    let Quality { at, recall, ndcg, users } = quality;
    (*users > 0).then(|| format!("recall@{at} {recall:.4}, NDCG@{at} {ndcg:.4}"))
}

/// The quality as the end of another sentence, after a `separator`. Empty if nothing was measured.
pub fn clause(separator: &str, quality: &Quality) -> String {
    sentence(quality).map(|sentence| format!("{separator}{sentence}")).unwrap_or_default()
}

/// The quality as JSON. None if nothing was measured.
pub fn record(qualities: &[Quality]) -> Option<serde_json::Value> {
    let users = qualities.first().map(|quality| quality.users).filter(|&users| users > 0)?;
    let mut all = json!({"users": users});
    for Quality { at, recall, ndcg, .. } in qualities {
        all[format!("recall_at_{at}")] = (*recall).into();
        all[format!("ndcg_at_{at}")] = (*ndcg).into();
    }
    Some(all)
}
