//! `wgloss recommend RUN`: items for users, and items like items, from what `train --interactions` or `wals` has left.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use serde::Deserialize;
use wgloss::train::tables::{Interactions, Model, recommend};
use wgloss::train::wals::{Config, Values, fold_in};
use wgloss::{Gpu, normalize};

use crate::failure::Failure;
use crate::interactions::{self, Loaded, Rules};
use crate::recommend::{EMBEDDINGS, IDS};
use crate::{progress, run, table, wals};

#[derive(clap::Args)]
pub struct Arguments {
    /// The folder of a run of `train --interactions` or `wals`.
    #[arg(value_name = "RUN")]
    folder: PathBuf,
    /// Items for this user; may be repeated. Without any, and without --item, for all users, into --out.
    #[arg(long, value_name = "ID")]
    user: Vec<String>,
    /// Items whose embeddings point where this item's does; may be repeated.
    #[arg(long, value_name = "ID", conflicts_with = "user")]
    item: Vec<String>,
    /// How many for each.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    top: u32,
    /// Interactions whose items are not recommended to their users again: the file that the run learned from, or a later one. Users whom a run of `wals` does
    /// not know are solved from them.
    #[arg(long, value_name = "FILE", conflicts_with = "item")]
    seen: Option<PathBuf>,
    /// Items that are recommended to nobody, an id a line.
    #[arg(long, value_name = "FILE")]
    without: Option<PathBuf>,
    /// The adapter, by its number in `wgloss adapters` or a part of its name.
    #[arg(long)]
    adapter: Option<String>,
    /// Write lines of id,item,rank,score here instead of printing a table.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Ids {
    users: Vec<String>,
    items: Vec<String>,
}

/// Users or items that are asked about at a time: progress is shown between, and the tables go to the device each time.
const AT_ONCE: usize = 1 << 16;

pub fn lookup(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let (mut model, mut ids, config) = load(&arguments.folder)?;
    let seen = match &arguments.seen {
        Some(path) => Some(interactions::load(path, Rules::ALL)?),
        None => None,
    };
    let known = ids.users.len();
    let new = seen.as_ref().map(|seen| newcomers(seen, &ids, config.is_some())).unwrap_or_default();
    ids.users.extend(new);
    let by_item = !arguments.item.is_empty();
    let names = if by_item { &ids.items } else { &ids.users };
    let asked = asked(arguments, names)?;
    if let Some(out) = &arguments.out {
        run::check_writable(out)?;
    }
    let hidden = hidden(arguments, &ids, seen.as_ref())?;
    let gpu = crate::open(arguments.adapter.as_deref()).map_err(crate::no_adapter)?;
    if let (Some(seen), Some(config), true) = (&seen, config, ids.users.len() > known) {
        model.users.extend(solved(&gpu, &model, seen, &ids, known, &config)?);
    }
    let model = if by_item { among_items(&gpu, model)? } else { model };
    let mut found = Vec::with_capacity(asked.len() * arguments.top as usize);
    let bar = progress::bar(asked.len() as u64, "{pos}/{len}, {eta} left");
    for part in asked.chunks(AT_ONCE) {
        found.extend(recommend(&gpu, &model, &hidden, part, arguments.top as usize)?);
        bar.inc(part.len() as u64);
    }
    bar.finish_and_clear();
    let rows = asked.iter().zip(found.chunks(arguments.top as usize)).flat_map(|(&of, best)| {
        let known = best.iter().copied().filter(|&item| item != u32::MAX).enumerate();
        known.map(move |(rank, item)| (of, rank + 1, item))
    });
    let rows = rows.map(|(of, rank, item)| {
        let score = score(&model, of, item);
        [names[of as usize].clone(), ids.items[item as usize].clone(), rank.to_string(), format!("{score:.4}")]
    });
    let heads = [if by_item { "item" } else { "user" }, if by_item { "like it" } else { "item" }, "rank", "score"];
    let Some(out) = &arguments.out else {
        let mut table = table::with_header(heads, 2..4);
        rows.for_each(|row| {
            table.add_row(row);
        });
        println!("{table}");
        return Ok(ExitCode::SUCCESS);
    };
    let mut lines = csv::Writer::from_writer(Vec::new());
    let written = lines.write_record(heads).and_then(|()| rows.into_iter().try_for_each(|row| lines.write_record(row)));
    written.map_err(|error| Failure { message: format!("{}: {error}", out.display()), code: 1 })?;
    let bytes = lines.into_inner().map_err(|error| Failure { message: error.to_string(), code: 1 })?;
    run::write_file(out, &bytes)?;
    println!("wrote {}", out.display());
    Ok(ExitCode::SUCCESS)
}

/// Users that a run does not know and that took some item that it knows; none without an objective to solve them by.
fn newcomers(seen: &Loaded, ids: &Ids, has_objective: bool) -> Vec<String> {
    let (users, items) = (places(&ids.users), places(&ids.items));
    let mut took = vec![false; seen.users.len()];
    for entry in &seen.entries {
        took[entry.user as usize] |= items.contains_key(seen.items[entry.item as usize].as_str());
    }
    let is_new = |(name, took): &(&String, bool)| has_objective && *took && !users.contains_key(name.as_str());
    seen.users.iter().zip(took).filter(is_new).map(|(name, _)| name.clone()).collect()
}

/// What `seen` tells of these users and items, by their places among them: who took what, and its weight.
fn taken<'a>(seen: &'a Loaded, users: &'a [String], items: &'a [String]) -> impl Iterator<Item = (u32, u32, f32)> + 'a {
    let (users, items) = (places(users), places(items));
    seen.entries.iter().filter_map(move |entry| {
        let user = *users.get(seen.users[entry.user as usize].as_str())?;
        let item = *items.get(seen.items[entry.item as usize].as_str())?;
        Some((user, item, entry.value))
    })
}

/// The factors of the users from the one numbered `known` on, from what `seen` tells of them.
fn solved(
    gpu: &Gpu,
    model: &Model,
    seen: &Loaded,
    ids: &Ids,
    known: usize,
    config: &Config,
) -> Result<Vec<f32>, Failure> {
    let found: Vec<(u32, u32, f32)> = taken(seen, &ids.users[known..], &ids.items).collect();
    let values: Vec<f32> = found.iter().map(|&(.., value)| value).collect();
    let (users, items) = found.into_iter().map(|(user, item, _)| (user, item)).unzip();
    let data = Interactions::new(users, items, ids.users.len() - known, ids.items.len())?;
    println!("users that the run does not know, solved from what they have seen: {}", ids.users.len() - known);
    Ok(fold_in(gpu, &model.items, &data, Values::of(&values), config)?)
}

/// The tables of a run, whose rows they are, and the objective of a run of `wals`.
fn load(folder: &Path) -> Result<(Model, Ids, Option<Config>), Failure> {
    let refuse = |name: &str, found: String| {
        let expected = "expected what `wgloss train --interactions` or `wgloss wals` leaves";
        Failure::input(format!("{}: {expected}, found {found}", folder.join(name).display()))
    };
    let read = |name| std::fs::read(folder.join(name)).map_err(|error| refuse(name, error.to_string()));
    let ids: Ids = serde_json::from_slice(&read(IDS)?).map_err(|error| refuse(IDS, error.to_string()))?;
    let bytes = read(EMBEDDINGS)?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(|error| refuse(EMBEDDINGS, error.to_string()))?;
    let table = |name: &str, ids: &[String]| -> Result<(Vec<f32>, usize), Failure> {
        let tensor = tensors.tensor(name).map_err(|error| refuse(EMBEDDINGS, error.to_string()))?;
        let (shape, dtype) = (tensor.shape().to_vec(), tensor.dtype());
        let [rows, dim] = shape[..] else { return Err(refuse(EMBEDDINGS, format!("{name} of shape {shape:?}"))) };
        if rows != ids.len() || dim == 0 || dtype != Dtype::F32 {
            return Err(refuse(EMBEDDINGS, format!("{name} {shape:?} of {dtype:?} beside {} ids", ids.len())));
        }
        let numbers =
            tensor.data().chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]));
        Ok((numbers.collect(), dim))
    };
    let ((users, dim), (items, item_dim)) = (table("users", &ids.users)?, table("items", &ids.items)?);
    if dim != item_dim {
        return Err(refuse(EMBEDDINGS, format!("users {dim} wide and items {item_dim}")));
    }
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|error| refuse(EMBEDDINGS, error.to_string()))?;
    let about = header.metadata().as_ref().and_then(|about| serde_json::from_str(about.get("wgloss")?).ok());
    let config = about.and_then(|about| wals::restored(&about)).filter(|config| config.dim == dim);
    Ok((Model { users, items, dim }, ids, config))
}

/// The numbers of the ids that are asked about.
fn asked(arguments: &Arguments, names: &[String]) -> Result<Vec<u32>, Failure> {
    let (option, wishes) =
        if arguments.item.is_empty() { ("--user", &arguments.user) } else { ("--item", &arguments.item) };
    if wishes.is_empty() {
        return match arguments.out {
            Some(_) => Ok((0..names.len() as u32).collect()),
            None => Err(Failure::input("expected --user, --item, or --out for all users, found none of them")),
        };
    }
    let places = places(names);
    let place = |wish: &String| {
        let missing = || Failure::input(format!("{option} {wish}: expected an id of {IDS}, found none such"));
        places.get(wish.as_str()).copied().ok_or_else(missing)
    };
    wishes.iter().map(place).collect()
}

fn places(names: &[String]) -> HashMap<&str, u32> {
    names.iter().enumerate().map(|(at, name)| (name.as_str(), at as u32)).collect()
}

/// Items in the users' place, all of unit length: the largest product is the largest cosine.
fn among_items(gpu: &Gpu, model: Model) -> wgloss::Result<Model> {
    let items = normalize::compute(gpu, &model.items, model.dim, Default::default())?;
    Ok(Model { users: items.clone(), items, dim: model.dim })
}

/// What shall not be recommended to whom: what users have seen, an item to itself, some items to nobody.
fn hidden(arguments: &Arguments, ids: &Ids, seen: Option<&Loaded>) -> Result<Interactions, Failure> {
    let by_item = !arguments.item.is_empty();
    let item_count = ids.items.len();
    let user_count = if by_item { item_count } else { ids.users.len() };
    let items = places(&ids.items);
    let mut pairs: Vec<(u32, u32)> = Vec::new();
    if by_item {
        pairs.extend((0..item_count as u32).map(|item| (item, item)));
    }
    if let Some(seen) = seen {
        // Who came later than a run that solves no new users is not in it.
        pairs.extend(taken(seen, &ids.users, &ids.items).map(|(user, item, _)| (user, item)));
    }
    if let Some(path) = &arguments.without {
        let unread = |error| Failure::input(format!("--without {}: expected ids, found: {error}", path.display()));
        let text = std::fs::read_to_string(path).map_err(unread)?;
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let missing =
                || Failure::input(format!("--without {}: expected ids of items, found {line:?}", path.display()));
            let item = *items.get(line).ok_or_else(missing)?;
            pairs.extend((0..user_count as u32).map(|user| (user, item)));
        }
    }
    let (users, items) = pairs.into_iter().unzip();
    Ok(Interactions::new(users, items, user_count, item_count)?)
}

fn score(model: &Model, of: u32, item: u32) -> f64 {
    let (a, b) = (&model.users[of as usize * model.dim..], &model.items[item as usize * model.dim..]);
    a.iter().zip(b).take(model.dim).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}
