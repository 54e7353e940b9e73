//! `wgloss recommend RUN`: items for users, and items similar to items, from a run of `train --interactions` or `wals`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use wgloss::train::tables::{self, Interactions, Model};
use wgloss::train::wals::{Values, fold_in};
use wgloss::{Gpu, normalize};

use crate::failure::Failure;
use crate::interactions::{self, Loaded, MARK, Named, Rules};
use crate::run::IDS;
use crate::tables::{Ids, Tables};
use crate::wals::fitted::{self, Fitted};
use crate::{progress, run, table};

#[derive(clap::Args)]
pub struct Arguments {
    /// The folder of a run of `train --interactions` or `wals`.
    #[arg(value_name = "RUN")]
    folder: PathBuf,
    /// Recommend for this user; may be repeated. Without --user and --item: for all users, into --out.
    #[arg(long, value_name = "ID")]
    user: Vec<String>,
    /// Items similar to this one by cosine; may be repeated.
    #[arg(long, value_name = "ID", conflicts_with = "user")]
    item: Vec<String>,
    /// How many for each.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    top: u32,
    /// A file of interactions, the one that the run learned from or a later one: its items are not recommended to the same users again. Users that a run of
    /// `wals` does not know are solved from it.
    #[arg(long, value_name = "FILE", conflicts_with = "item")]
    seen: Option<PathBuf>,
    /// Which columns of --seen have what, by names or numbers, as for `train` and `wals`.
    #[arg(long, value_name = "user=…,item=…[,weight=…][,time=…]", requires = "seen")]
    columns: Option<Named>,
    /// A file of items that are never recommended, an id a line.
    #[arg(long, value_name = "FILE")]
    without: Option<PathBuf>,
    /// The adapter, by its number in `wgloss adapters` or a part of its name.
    #[arg(long)]
    adapter: Option<String>,
    /// Write lines of user,item,rank,score (with --item: item,like it,rank,score) to this file instead of printing a table. Scores have all their digits.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Replace the file that --out names.
    #[arg(long, requires = "out")]
    overwrite: bool,
}

/// The number of users or items answered at a time. Progress is shown in between, and the tables are uploaded each
/// time.
const AT_ONCE: usize = 1 << 16;

pub fn recommend(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let Tables { mut model, mut ids, fitted } = Tables::load(&arguments.folder)?;
    let seen = match &arguments.seen {
        Some(path) => Some(Seen::load(path, arguments.columns.as_ref(), fitted.as_ref())?),
        None => None,
    };
    let known = ids.users.len();
    if let Some(seen) = &seen {
        println!("{}", seen.known(&ids)?);
    }
    if let (Some(seen), Some(_)) = (&seen, &fitted) {
        ids.users.extend(newcomers(seen.told(), &ids));
    }
    let by_item = !arguments.item.is_empty();
    let missing = |id: &str| seen.as_ref().and_then(|seen| seen.unsolved(id, fitted.is_some()));
    let asked = asked(arguments, if by_item { &ids.items } else { &ids.users }, missing)?;
    if let Some(out) = &arguments.out {
        run::check_output(out, arguments.overwrite)?;
    }
    let candidates = candidates(arguments, &ids.items)?;
    let top = (arguments.top as usize).min(candidates.len()).max(1);
    if !by_item && asked.iter().all(|&user| (user as usize) < known) {
        ids.users.truncate(known); // nobody asked about new users, so they need not be solved
    }
    let hidden = hidden(by_item, &candidates, &ids, seen.as_ref())?;
    if let (Some(seen), Some(fitted), true) = (&seen, &fitted, ids.users.len() > known) {
        fitted::check_weights(fitted.config.preset, seen.told(), SEEN, seen.path)?;
    }
    let gpu = crate::open(arguments.adapter.as_deref()).map_err(crate::no_adapter)?;
    if let (Some(seen), Some(fitted), true) = (&seen, &fitted, ids.users.len() > known) {
        model.users.extend(solved(&gpu, &model, seen.told(), &ids, known, fitted)?);
    }
    let mut model = if by_item { among_items(&gpu, model)? } else { model };
    if candidates.len() < ids.items.len() {
        let row = |&item: &u32| &model.items[item as usize * model.dim..][..model.dim];
        model.items = candidates.iter().flat_map(row).copied().collect();
    }
    let mut found = Vec::new();
    let bar = progress::bar(asked.len() as u64, "{pos}/{len}, {eta} left");
    for part in asked.chunks(AT_ONCE) {
        found.extend(tables::recommend(&gpu, &model, &hidden, part, top)?);
        bar.inc(part.len() as u64);
    }
    bar.finish_and_clear();
    let rows = asked.iter().zip(found.chunks(top)).flat_map(|(&of, best)| {
        let known = best.iter().copied().filter(|&place| place != u32::MAX).enumerate();
        known.map(move |(rank, place)| (of, rank + 1, place))
    });
    let names = if by_item { &ids.items } else { &ids.users };
    let told = |score: f32| match arguments.out {
        Some(_) => format!("{score:?}"), // the shortest text that parses to the same number
        None => format!("{score:.4}"),
    };
    let rows = rows.map(|(of, rank, place)| {
        let (score, item) = (score(&model, of, place) as f32, candidates[place as usize]);
        [names[of as usize].clone(), ids.items[item as usize].clone(), rank.to_string(), told(score)]
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
    run::write_file(out, &run::csv(&out.display().to_string(), heads, rows)?)?;
    println!("wrote {}", out.display());
    Ok(ExitCode::SUCCESS)
}

const SEEN: &str = "--seen";

/// The file of `--seen`.
struct Seen<'a> {
    path: &'a Path,
    all: Loaded,
    /// The file read by the rules of the run, if these differ from the rules of `all`.
    by_rules: Option<Loaded>,
}

impl Seen<'_> {
    fn load<'a>(path: &'a Path, columns: Option<&Named>, fitted: Option<&Fitted>) -> Result<Seen<'a>, Failure> {
        let columns = columns.cloned();
        let negative = fitted.is_none_or(|fitted| fitted.rules.negative);
        let rules = Rules { columns: columns.clone(), negative, ..Rules::ALL };
        let all = interactions::load(SEEN, path, &rules)?;
        let of_run = fitted.map(|fitted| Rules { columns, ..fitted.rules.clone() }).filter(|of_run| *of_run != rules);
        let by_rules = of_run.map(|of_run| interactions::load_any(SEEN, path, &of_run)).transpose()?;
        Ok(Seen { path, all, by_rules })
    }

    /// The interactions that new users are solved from.
    fn told(&self) -> &Loaded {
        self.by_rules.as_ref().unwrap_or(&self.all)
    }

    /// A line about how much of the file the run knows. Fails if the run knows none of its items.
    fn known(&self, ids: &Ids) -> Result<String, Failure> {
        let path = self.path.display();
        let known = |told: &[String], ids: &[String]| {
            let places = places(ids);
            told.iter().filter(|id| places.contains_key(id.as_str())).count()
        };
        let (users, items) = (&self.all.users, &self.all.items);
        match known(items, &ids.items) {
            0 => Err(Failure::input(format!(
                "{SEEN} {path}: expected items that the run knows, found none among its {}, such as {:?}, where the run has {:?}",
                items.len(),
                items[0],
                ids.items.first().map(String::as_str).unwrap_or_default()
            ))),
            of_items => Ok(format!(
                "seen: {} of {} users and {of_items} of {} items of {path} are known to the run",
                known(users, &ids.users),
                users.len(),
                items.len()
            )),
        }
    }

    /// Why the run neither knows nor solves a user of the file. None if the file does not have the user.
    fn unsolved(&self, id: &str, solves: bool) -> Option<String> {
        let has = |loaded: &Loaded| loaded.users.iter().any(|user| user == id);
        let path = self.path.display();
        Some(match () {
            () if !has(&self.all) => return None,
            () if !solves => {
                format!(
                    "expected a user of the run, since only runs of `wgloss wals` solve new ones, found one of {path} alone"
                )
            }
            () if !has(self.told()) => {
                format!(
                    "expected a user with lines in {path} that the run's rules leave, such as --min-rating, found none of them"
                )
            }
            () => format!(
                "expected a user who took some item that the run knows, found none of its items among those in {path}"
            ),
        })
    }
}

/// The users that the run does not know and that took at least one item that it knows.
fn newcomers(told: &Loaded, ids: &Ids) -> Vec<String> {
    let (users, items) = (places(&ids.users), places(&ids.items));
    let mut took = vec![false; told.users.len()];
    for entry in &told.entries {
        took[entry.user as usize] |= items.contains_key(told.items[entry.item as usize].as_str());
    }
    let is_new = |(name, took): &(&String, bool)| *took && !users.contains_key(name.as_str());
    told.users.iter().zip(took).filter(is_new).map(|(name, _)| name.clone()).collect()
}

/// The interactions of `seen` between the given users and items: indices into `users` and `items`, and the weight.
fn taken<'a>(seen: &'a Loaded, users: &'a [String], items: &'a [String]) -> impl Iterator<Item = (u32, u32, f32)> + 'a {
    let (users, items) = (places(users), places(items));
    seen.entries.iter().filter_map(move |entry| {
        let user = *users.get(seen.users[entry.user as usize].as_str())?;
        let item = *items.get(seen.items[entry.item as usize].as_str())?;
        Some((user, item, entry.value))
    })
}

/// The factors of the users from index `known` on, solved from their interactions in `told`.
fn solved(
    gpu: &Gpu,
    model: &Model,
    told: &Loaded,
    ids: &Ids,
    known: usize,
    fitted: &Fitted,
) -> Result<Vec<f32>, Failure> {
    let new = &ids.users[known..];
    let found: Vec<(u32, u32, f32)> = taken(told, new, &ids.items).collect();
    let values: Vec<f32> = found.iter().map(|&(.., value)| value).collect();
    let (users, items) = found.into_iter().map(|(user, item, _)| (user, item)).unzip();
    let data = Interactions::new(users, items, new.len(), ids.items.len())?;
    println!("users that the run does not know, solved from what they have seen: {}", new.len());
    let solved = fold_in(gpu, &model.items, &data, Values::of(&values), &fitted.config);
    solved.map_err(|error| Failure::of_rows(error, new, &ids.items))
}

/// The indices of the ids that were asked for. `why` may explain why an id is missing.
fn asked(arguments: &Arguments, names: &[String], why: impl Fn(&str) -> Option<String>) -> Result<Vec<u32>, Failure> {
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
        let missing = || {
            let none = || format!("expected an id of {IDS}, found none such");
            Failure::input(format!("{option} {wish}: {}", why(wish).unwrap_or_else(none)))
        };
        places.get(wish.as_str()).copied().ok_or_else(missing)
    };
    wishes.iter().map(place).collect()
}

fn places(names: &[String]) -> HashMap<&str, u32> {
    names.iter().enumerate().map(|(at, name)| (name.as_str(), at as u32)).collect()
}

/// A model with the items in place of the users, all of unit length, so that the largest product is the largest cosine.
fn among_items(gpu: &Gpu, model: Model) -> wgloss::Result<Model> {
    let items = normalize::compute(gpu, &model.items, model.dim, Default::default())?;
    Ok(Model { users: items.clone(), items, dim: model.dim })
}

/// The items that may be recommended, in ascending order.
fn candidates(arguments: &Arguments, items: &[String]) -> Result<Vec<u32>, Failure> {
    let mut is_hidden = vec![false; items.len()];
    let Some(path) = &arguments.without else { return Ok((0..items.len() as u32).collect()) };
    let refuse =
        |expected: &str, found: String| Failure::input(format!("--without {}: {expected}, {found}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| refuse("expected ids", format!("found: {error}")))?;
    let places = places(items);
    let text = text.strip_prefix(MARK).unwrap_or(&text);
    let (mut known, mut unknown) = (0, Vec::new());
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        // An id, or one as lines of CSV quote it.
        let quoted = line.strip_prefix('"').and_then(|line| line.strip_suffix('"')).map(|id| id.replace("\"\"", "\""));
        let place = places.get(line).or_else(|| places.get(quoted.as_ref()?.as_str()));
        match place {
            Some(&item) => (known, is_hidden[item as usize]) = (known + 1, true),
            None => unknown.push(line),
        }
    }
    match unknown.first() {
        Some(first) if known == 0 => return Err(refuse("expected ids of items", format!("found none, but {first:?}"))),
        Some(first) => println!("without: {} ids are none of the run's items, such as {first:?}", unknown.len()),
        None => {}
    }
    let candidates: Vec<u32> = (0..items.len() as u32).filter(|&item| !is_hidden[item as usize]).collect();
    if candidates.is_empty() {
        return Err(refuse("expected some of the items to be left", "found all of them".into()));
    }
    Ok(candidates)
}

/// The items that must not be recommended to whom, by their index among the candidates: what users have seen, or an
/// item to itself.
fn hidden(by_item: bool, candidates: &[u32], ids: &Ids, seen: Option<&Seen>) -> Result<Interactions, Failure> {
    let asked_of = if by_item { ids.items.len() } else { ids.users.len() };
    let place = |item: u32| candidates.binary_search(&item).ok().map(|place| place as u32);
    let pairs: Vec<(u32, u32)> = match seen {
        _ if by_item => candidates.iter().zip(0..).map(|(&item, place)| (item, place)).collect(),
        // Users of --seen that are not in `ids`, because the run does not solve new users, are skipped.
        Some(seen) => {
            taken(&seen.all, &ids.users, &ids.items).filter_map(|(user, item, _)| Some((user, place(item)?))).collect()
        }
        None => Vec::new(),
    };
    let (users, items) = pairs.into_iter().unzip();
    Ok(Interactions::new(users, items, asked_of, candidates.len())?)
}

fn score(model: &Model, of: u32, item: u32) -> f64 {
    let (a, b) = (&model.users[of as usize * model.dim..], &model.items[item as usize * model.dim..]);
    a.iter().zip(b).take(model.dim).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}
