//! Files of interactions: MovieLens' u.data, ratings.csv and ratings.dat, plain `user,item[,weight[,timestamp]]`, and sparse matrices.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use indicatif::ProgressBar;
use wgloss::Random;
use wgloss::train::tables::Interactions;

use crate::failure::Failure;
use crate::progress;
use crate::sparse::{self, Matrix};

/// Which lines count, and how.
#[derive(Clone, Copy, clap::Args)]
pub struct Rules {
    /// Leave out lines of less weight.
    #[arg(long, value_name = "WEIGHT", requires = "interactions")]
    pub min_rating: Option<f32>,
    /// Leave out users and items with fewer interactions, until all have as many.
    #[arg(long, value_name = "COUNT", requires = "interactions", default_value_t = 1)]
    pub min_interactions: usize,
    /// What the weight of a pair is that stands in several lines; its time is that of the last.
    #[arg(long, value_enum, requires = "interactions", default_value_t = Duplicates::Last)]
    pub duplicates: Duplicates,
    /// Users whose last interaction is held out to measure with, of those that have three, evenly spread; all of the others are trained on.
    #[arg(long, value_name = "COUNT", requires = "interactions", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub held_out_users: u32,
}

/// What several weights become.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Duplicates {
    Last,
    Sum,
    Max,
}

impl Rules {
    /// All lines count.
    pub const ALL: Rules =
        Rules { min_rating: None, min_interactions: 1, duplicates: Duplicates::Last, held_out_users: u32::MAX };
}

/// An interaction of numbered users and items.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Entry {
    pub user: u32,
    pub item: u32,
    pub time: i64,
    /// The weight, 1 without.
    pub value: f32,
}

/// What a file holds: ids in the order of their first appearance; entries by user, then by time, a pair once, at its last time, with the weight that [`Duplicates`] gives it.
#[derive(Debug)]
pub struct Loaded {
    pub users: Vec<String>,
    pub items: Vec<String>,
    pub entries: Vec<Entry>,
    /// Lines that were read and kept, duplicates among them.
    pub lines: usize,
}

/// Where a line has what.
#[derive(Debug, Clone, Copy)]
struct Columns {
    user: usize,
    item: usize,
    weight: Option<usize>,
    time: Option<usize>,
    /// How many a line has; without a header from two to four.
    count: Option<usize>,
}

#[derive(Clone, Copy, PartialEq)]
enum Separator {
    Byte(u8),
    Colons,
    Spaces,
}

/// How a .npz file begins.
const ZIP: &[u8] = b"PK\x03\x04";
/// A file is shown to be read from this size on.
const SHOWN: u64 = 8 << 20;

const USERS: [&str; 5] = ["user", "userid", "user_id", "uid", "visitorid"];
const ITEMS: [&str; 8] = ["item", "itemid", "item_id", "movieid", "movie_id", "sid", "mid", "product_id"];
const WEIGHTS: [&str; 6] = ["rating", "weight", "count", "plays", "value", "score"];
const TIMES: [&str; 4] = ["timestamp", "time", "ts", "date"];

impl Columns {
    /// Of a header; none if the line is data.
    fn named(fields: &[&str]) -> Option<Columns> {
        let lower: Vec<String> = fields.iter().map(|field| field.trim().to_lowercase()).collect();
        let find = |names: &[&str]| lower.iter().position(|field| names.contains(&field.as_str()));
        let (user, item) = find(&USERS).zip(find(&ITEMS))?;
        Some(Columns { user, item, weight: find(&WEIGHTS), time: find(&TIMES), count: Some(fields.len()) })
    }

    fn positional(fields: usize) -> Columns {
        Columns { user: 0, item: 1, weight: (fields > 2).then_some(2), time: (fields > 3).then_some(3), count: None }
    }
}

/// Reads lines into numbered entries.
#[derive(Default)]
struct Reader {
    ids: [HashMap<String, u32>; 2],
    names: [Vec<String>; 2],
    entries: Vec<Entry>,
    columns: Option<Columns>,
    lines: usize,
}

impl Reader {
    /// Takes a line's fields; what is wrong with them, else.
    fn take(&mut self, fields: &[&str], rules: Rules) -> Result<(), String> {
        let columns = match self.columns {
            Some(columns) => columns,
            None => {
                if let Some(columns) = Columns::named(fields) {
                    self.columns = Some(columns);
                    return Ok(());
                }
                *self.columns.insert(Columns::positional(fields.len()))
            }
        };
        let fits = columns.count.map_or((2..=4).contains(&fields.len()), |count| fields.len() == count);
        if !fits {
            let expected = columns.count.map_or("user, item[, weight[, timestamp]]".to_owned(), |count| {
                format!("{count} fields as in the header")
            });
            return Err(format!("expected {expected}, found {} fields", fields.len()));
        }
        let number = |what: &str, at: Option<usize>| -> Result<Option<f64>, String> {
            let Some(text) = at.and_then(|at| fields.get(at)).map(|text| text.trim()) else { return Ok(None) };
            match text.parse::<f64>() {
                Ok(value) if (value as f32).is_finite() => Ok(Some(value)),
                _ => Err(format!("expected a number as {what}, found {text:?}")),
            }
        };
        let weight = number("weight", columns.weight)?;
        let time = number("timestamp", columns.time)?.unwrap_or(0.0) as i64;
        if let Some(weight) = weight.filter(|weight| *weight < 0.0) {
            return Err(format!("expected a weight of at least 0, found {weight}"));
        }
        let names = [fields[columns.user].trim(), fields[columns.item].trim()];
        for (what, name) in ["user", "item"].into_iter().zip(names) {
            if name.is_empty() {
                return Err(format!("expected an id of the {what}, found nothing"));
            }
        }
        if rules.min_rating.zip(weight).is_some_and(|(least, weight)| weight < f64::from(least)) {
            return Ok(());
        }
        let [user, item] = [0, 1].map(|side| {
            if let Some(&known) = self.ids[side].get(names[side]) {
                return known;
            }
            let next = self.names[side].len() as u32;
            self.names[side].push(names[side].to_owned());
            self.ids[side].insert(names[side].to_owned(), next);
            next
        });
        let value = weight.unwrap_or(1.0) as f32;
        self.entries.push(Entry { user, item, time, value });
        self.lines += 1;
        Ok(())
    }

    /// The entries of a matrix, whose rows and columns are known by their numbers. It tells no times: the order of a user's is drawn, so that what is held
    /// out is any of them and not the one with the largest number.
    fn of(matrix: Matrix, rules: Rules) -> Loaded {
        let names = matrix.shape.map(|count| (0..count).map(|at| (at + matrix.first).to_string()).collect());
        let mut random = Random::new(1, 0);
        let least = rules.min_rating.unwrap_or(0.0);
        let kept = matrix.entries.into_iter().filter(|(.., value)| *value >= least);
        let entries: Vec<Entry> =
            kept.map(|(user, item, value)| Entry { user, item, time: random.word().into(), value }).collect();
        Reader { lines: entries.len(), names, entries, ..Reader::default() }.loaded(rules)
    }

    fn loaded(mut self, rules: Rules) -> Loaded {
        // A stable sort: equal times stay in the order of the file. Of a pair the last stays, with what the weights up to it make.
        self.entries.sort_by_key(|entry| (entry.user, entry.time));
        let mut is_last = Vec::with_capacity(self.entries.len());
        for of_user in self.entries.chunk_by_mut(|a, b| a.user == b.user) {
            let mut weights = HashMap::new();
            for entry in &mut *of_user {
                let value = entry.value;
                let before = weights.get(&entry.item).map(|&before: &f32| match rules.duplicates {
                    Duplicates::Last => value,
                    Duplicates::Sum => before + value,
                    Duplicates::Max => before.max(value),
                });
                entry.value = before.unwrap_or(value);
                weights.insert(entry.item, entry.value);
            }
            let first = is_last.len();
            let mut later = HashSet::new();
            is_last.extend(of_user.iter().rev().map(|entry| later.insert(entry.item)));
            is_last[first..].reverse();
        }
        let mut stays = is_last.into_iter();
        self.entries.retain(|_| stays.next().unwrap_or(true));
        loop {
            let [mut of_users, mut of_items] = [0, 1].map(|side| vec![0usize; self.names[side].len()]);
            for entry in &self.entries {
                of_users[entry.user as usize] += 1;
                of_items[entry.item as usize] += 1;
            }
            let before = self.entries.len();
            let least = rules.min_interactions;
            self.entries.retain(|e| of_users[e.user as usize] >= least && of_items[e.item as usize] >= least);
            if self.entries.len() == before {
                break;
            }
        }
        // Ids that have lost all their interactions are no more.
        let kept = |side: usize, id: fn(&mut Entry) -> &mut u32, entries: &mut [Entry]| -> Vec<String> {
            let mut new = vec![None; self.names[side].len()];
            let mut present: Vec<u32> = entries.iter_mut().map(|entry| *id(entry)).collect();
            present.sort_unstable();
            present.dedup();
            present.iter().enumerate().for_each(|(at, &old)| new[old as usize] = Some(at as u32));
            entries.iter_mut().for_each(|entry| *id(entry) = new[*id(entry) as usize].unwrap_or(0));
            present.iter().map(|&old| self.names[side][old as usize].clone()).collect()
        };
        let mut entries = std::mem::take(&mut self.entries);
        let users = kept(0, |entry| &mut entry.user, &mut entries);
        let items = kept(1, |entry| &mut entry.item, &mut entries);
        Loaded { users, items, entries, lines: self.lines }
    }
}

/// Reads a file.
pub fn load(path: &Path, rules: Rules) -> Result<Loaded, Failure> {
    let refuse = |what: String| Failure::input(format!("--interactions {}: {what}", path.display()));
    let unreadable = |error: std::io::Error| refuse(format!("expected a file of interactions, found: {error}"));
    let file = File::open(path).map_err(unreadable)?;
    let about = file.metadata().map_err(unreadable)?;
    if about.is_dir() {
        return Err(refuse("expected a file of interactions, found a folder".into()));
    }
    let bar = match about.len() {
        len if len > SHOWN => progress::bar(len, "{bytes}/{total_bytes}, {eta} left"),
        _ => ProgressBar::hidden(),
    };
    let mut input = BufReader::with_capacity(1 << 20, bar.wrap_read(file));
    let start = input.fill_buf().map_err(unreadable)?;
    let loaded = if start.starts_with(ZIP) {
        File::open(path).map_err(|error| error.to_string()).and_then(sparse::csr).map(|m| Reader::of(m, rules))
    } else if start.starts_with(sparse::BANNER) {
        sparse::matrix_market(input).map(|matrix| Reader::of(matrix, rules))
    } else {
        read(input, rules)
    };
    bar.finish_and_clear();
    let loaded = loaded.map_err(refuse)?;
    if loaded.entries.is_empty() {
        let found = format!("none among the {} that the file has", loaded.lines);
        return Err(refuse(format!("expected interactions that the options leave, found {found}")));
    }
    Ok(loaded)
}

fn text(bytes: &[u8]) -> Result<&str, String> {
    core::str::from_utf8(bytes).map_err(|_| "expected text in UTF-8, found other bytes".to_owned())
}

/// What is wrong is said with its line.
fn read(mut input: impl BufRead, rules: Rules) -> Result<Loaded, String> {
    let start = input.fill_buf().map_err(|error| error.to_string())?;
    let first: Vec<u8> = start.iter().copied().take_while(|&byte| byte != b'\n').collect();
    let has = |part: &[u8]| first.windows(part.len()).any(|window| window == part);
    let separator = match [&b"::"[..], b"\t", b",", b";"].into_iter().find(|part| has(part)) {
        Some(b"::") => Separator::Colons,
        Some(&[byte]) => Separator::Byte(byte),
        _ => Separator::Spaces,
    };
    let mut reader = Reader::default();
    let at = |line: u64, what: String| format!("line {line}: {what}");
    if let Separator::Byte(byte) = separator {
        let mut records =
            csv::ReaderBuilder::new().delimiter(byte).has_headers(false).flexible(true).from_reader(input);
        let mut record = csv::ByteRecord::new();
        loop {
            let more = records.read_byte_record(&mut record).map_err(|error| error.to_string())?;
            if !more {
                break;
            }
            let line = record.position().map_or(0, csv::Position::line);
            let fields = record.iter().map(text).collect::<Result<Vec<&str>, _>>();
            fields.and_then(|fields| reader.take(&fields, rules)).map_err(|what| at(line, what))?;
        }
    } else {
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            // A line that never ends is no line.
            let length = (&mut input).take(1 << 20).read_until(b'\n', &mut line).map_err(|error| error.to_string())?;
            if length == 0 {
                break;
            }
            let line = text(&line).map_err(|what| at(number, what))?.trim();
            if line.is_empty() {
                continue;
            }
            let fields: Vec<&str> = match separator {
                Separator::Colons => line.split("::").collect(),
                _ => line.split_whitespace().collect(),
            };
            reader.take(&fields, rules).map_err(|what| at(number, what))?;
        }
    }
    Ok(reader.loaded(rules))
}

/// To train on and to measure with.
pub struct Split {
    pub train: Interactions,
    /// The weights of `train`.
    pub values: Vec<f32>,
    pub held_out: Interactions,
    /// Users that `train` knows nothing of.
    pub new: Option<New>,
}

/// Users that were left out.
pub struct New {
    /// Of each user, whether it is one.
    pub users: Vec<bool>,
    /// What is told of them, and its weights.
    pub known: Interactions,
    pub values: Vec<f32>,
}

impl Split {
    /// Which items of a user are held out.
    pub fn asked(&self) -> &'static str {
        if self.new.is_some() { "later" } else { "last" }
    }
}

/// Of what a new user took, this share is held out: the last, at least one.
const LATER: f64 = 0.2;
/// The stream of random numbers that choose new users.
const CHOICE: u32 = 0x6e65_7775;

/// Users with fewer interactions keep them all to be trained on.
const ENOUGH: usize = 3;

impl Loaded {
    /// One line about what was read and held out.
    pub fn describe(&self, path: &Path, split: &Split) {
        let held_out = match &split.new {
            Some(new) => format!("{} users left out", new.users.iter().filter(|&&is_new| is_new).count()),
            None => format!("the last of {} users held out", split.held_out.len()),
        };
        let [users, items] = [&self.users, &self.items].map(Vec::len);
        println!(
            "{}: {} interactions of {users} users and {items} items; {held_out}",
            path.display(),
            self.entries.len()
        );
    }

    /// A share of the users that have two interactions, chosen by `seed`, is new: nothing of them is trained on.
    pub fn leave_users_out(&self, share: f64, seed: u64) -> Result<Split, Failure> {
        if !(share > 0.0 && share < 1.0) {
            return Err(Failure::input(format!("--new-users: expected a share between 0 and 1, found {share}")));
        }
        let mut random = Random::new(seed, CHOICE);
        let [mut train, mut known, mut held_out] = [const { Vec::new() }; 3];
        let mut users = vec![false; self.users.len()];
        for of_user in self.entries.chunk_by(|a, b| a.user == b.user) {
            let is_new = of_user.len() > 1 && f64::from(random.uniform()) < share;
            users[of_user[0].user as usize] = is_new;
            let later = ((LATER * of_user.len() as f64) as usize).max(1);
            let (first, last) = of_user.split_at(if is_new { of_user.len() - later } else { 0 });
            known.extend(first);
            if is_new { &mut held_out } else { &mut train }.extend(last);
        }
        let refuse = |what: &str| {
            let expected =
                format!("--new-users {share}: expected users of two interactions to leave out, and others to train on");
            Err(Failure::input(format!("{expected}, found no {what}")))
        };
        if held_out.is_empty() || train.is_empty() {
            return refuse(if train.is_empty() { "others" } else { "such users" });
        }
        let new = New { users, known: self.interactions(&known)?, values: values(&known) };
        Ok(Split { new: Some(new), ..self.split(&train, &held_out)? })
    }

    /// The last interaction of each user that has three is held out, or of `most` of them.
    pub fn leave_last_out(&self, most: u32) -> Result<Split, Failure> {
        let [mut train, mut held_out] = [const { Vec::new() }; 2];
        let users = || self.entries.chunk_by(|a, b| a.user == b.user);
        let all = users().filter(|of_user| of_user.len() >= ENOUGH).count();
        let mut next = 0;
        for of_user in users() {
            let mut last = 0;
            if of_user.len() >= ENOUGH {
                // One whenever the share that is due passes a whole number.
                let due = |users: usize| users * all.min(most as usize) / all;
                last = due(next + 1) - due(next);
                next += 1;
            }
            let (first, last) = of_user.split_at(of_user.len() - last);
            train.extend(first);
            held_out.extend(last);
        }
        self.split(&train, &held_out)
    }

    fn split(&self, train: &[&Entry], held_out: &[&Entry]) -> Result<Split, Failure> {
        let [of_train, held_out] = [train, held_out].map(|entries| self.interactions(entries));
        Ok(Split { train: of_train?, values: values(train), held_out: held_out?, new: None })
    }

    fn interactions(&self, entries: &[&Entry]) -> Result<Interactions, Failure> {
        let (users, items) = entries.iter().map(|entry| (entry.user, entry.item)).unzip();
        Ok(Interactions::new(users, items, self.users.len(), self.items.len())?)
    }
}

fn values(entries: &[&Entry]) -> Vec<f32> {
    entries.iter().map(|entry| entry.value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use wgloss::planted::Blocks;

    fn parsed(text: &str) -> Result<Loaded, String> {
        read(text.as_bytes(), Rules::ALL)
    }

    /// Ids of users and items and time of each entry.
    fn told(loaded: &Loaded) -> Vec<(&str, &str, i64)> {
        let of = |entry: &Entry| (&*loaded.users[entry.user as usize], &*loaded.items[entry.item as usize], entry.time);
        loaded.entries.iter().map(of).collect()
    }

    /// What the generator plants, written in each format and read back.
    #[test]
    fn every_format_is_read_back() {
        let planted = Blocks { blocks: 3, users: 7, items: 9, ..Default::default() }.generate().unwrap();
        let lists = planted.train.lists();
        let entries: Vec<(usize, u32)> =
            lists.iter().enumerate().flat_map(|(user, list)| list.iter().map(move |&item| (user, item))).collect();
        let want: Vec<(String, String, i64)> = entries
            .iter()
            .enumerate()
            .map(|(at, (user, item))| (format!("u {user}"), format!("i{item}"), 1000 + at as i64))
            .collect();
        type Line = fn(&(String, String, i64)) -> String;
        let formats: [(&str, Line); 6] = [
            ("", |(u, i, t)| format!("{u}\t{i}\t4\t{t}\n")),
            ("userId,movieId,rating,timestamp\r\n", |(u, i, t)| format!("{u},{i},3.5,{t}\r\n")),
            ("", |(u, i, t)| format!("{u}::{i}::5::{t}\n")),
            ("timestamp;count;item_id;user_id\n", |(u, i, t)| format!("{t};2;{i};{u}\n")),
            ("", |(u, i, t)| format!("\"{u}\",\"{i}\",1,{t}\n")),
            ("", |(u, i, t)| format!("{}  {i} 1 {t}\n", u.replace(' ', "_"))),
        ];
        for (header, line) in formats {
            let text: String = [header.to_owned()].into_iter().chain(want.iter().map(line)).collect();
            let loaded = parsed(&text).unwrap();
            let got: Vec<(String, String, i64)> =
                told(&loaded).into_iter().map(|(u, i, t)| (u.replace('_', " "), i.to_owned(), t)).collect();
            assert_eq!(got, want, "{header}");
        }
    }

    #[test]
    fn a_pair_counts_once_at_its_last_time() {
        let loaded = parsed("a,x,1,5\nb,x,1,1\na,y,1,7\na,x,1,9\n").unwrap();
        assert_eq!(told(&loaded), [("a", "y", 7), ("a", "x", 9), ("b", "x", 1)]);
        assert_eq!(loaded.lines, 4);
        let untimed = parsed("a,x\na,y\na,x\n").unwrap();
        assert_eq!(told(&untimed), [("a", "y", 0), ("a", "x", 0)]);
    }

    #[test]
    fn weights_of_duplicates() {
        let of = |duplicates| {
            let rules = Rules { duplicates, ..Rules::ALL };
            let loaded = read("a,x,4,3\na,x,1,9\na,x,2,5\na,y,7,1\nb,x,1,2\n".as_bytes(), rules).unwrap();
            loaded.entries.iter().map(|entry| entry.value).collect::<Vec<_>>()
        };
        assert_eq!(of(Duplicates::Last), [7.0, 1.0, 1.0]);
        assert_eq!(of(Duplicates::Sum), [7.0, 7.0, 1.0]);
        assert_eq!(of(Duplicates::Max), [7.0, 4.0, 1.0]);
    }

    /// Of ten users who have three, four, none twice; nothing is lost.
    #[test]
    fn some_users_are_measured() {
        let text: String =
            (0..12).flat_map(|user| (0..3 - user / 10).map(move |item| format!("{user},{item}\n"))).collect();
        let loaded = parsed(&text).unwrap();
        let Split { train, held_out, .. } = loaded.leave_last_out(4).unwrap();
        let users: Vec<usize> =
            held_out.lists().iter().enumerate().filter(|(_, of)| of.len() == 1).map(|(user, _)| user).collect();
        assert_eq!(users, [2, 4, 7, 9]);
        assert_eq!(train.len() + held_out.len(), 34);
    }

    #[test]
    fn rules() {
        let rated = Rules { min_rating: Some(4.0), ..Rules::ALL };
        let loaded = read("u,i,3.9\nu,j,4\nv,i,5\n".as_bytes(), rated).unwrap();
        assert_eq!(told(&loaded), [("u", "j", 0), ("v", "i", 0)]);
        // Without z its user has one left, without which x has one.
        let core = Rules { min_interactions: 2, ..Rules::ALL };
        let loaded = read("a x\na y\nb x\nb y\nc x\nc z\n".as_bytes(), core).unwrap();
        assert_eq!(told(&loaded), [("a", "x", 0), ("a", "y", 0), ("b", "x", 0), ("b", "y", 0)]);
        assert_eq!((loaded.users.len(), loaded.items.len()), (2, 2));
    }

    #[test]
    fn the_last_is_held_out_of_three() {
        let loaded = parsed("a,x,1,3\na,y,2,2\na,z,3,1\nb,x,4,1\nb,y,5,2\n").unwrap();
        let Split { train, values, held_out, .. } = loaded.leave_last_out(u32::MAX).unwrap();
        assert_eq!((train.len(), held_out.len()), (4, 1));
        assert_eq!(values, [3.0, 2.0, 4.0, 5.0]);
        assert_eq!(held_out.lists()[0], [loaded.items.iter().position(|item| item == "x").unwrap() as u32]);
    }

    #[test]
    fn users_are_left_out() {
        let text: String =
            (0..40).flat_map(|user| (0..=user % 12).map(move |item| format!("{user},{item},2\n"))).collect();
        let loaded = parsed(&text).unwrap();
        let Split { train, values, held_out, new } = loaded.leave_users_out(0.4, 1).unwrap();
        let New { users, known, values: known_values } = new.unwrap();
        assert_eq!([values.len(), known_values.len()], [train.len(), known.len()]);
        assert_eq!(train.len() + known.len() + held_out.len(), loaded.entries.len());
        assert!((8..24).contains(&users.iter().filter(|&&is_new| is_new).count()), "{users:?}");
        let lists = [&train, &known, &held_out].map(Interactions::lists);
        for (user, &is_new) in users.iter().enumerate() {
            let all: u32 = (user % 12 + 1) as u32;
            let [trained, told, later] = lists.each_ref().map(|lists| lists[user].len() as u32);
            let last = if is_new { (all / 5).max(1) } else { 0 };
            assert_eq!([trained, told, later], if is_new { [0, all - last, last] } else { [all, 0, 0] }, "user {user}");
        }
        for share in [0.0, 1.0, f64::NAN] {
            assert!(loaded.leave_users_out(share, 1).is_err());
        }
    }

    #[test]
    fn a_bad_line_is_named() {
        for (text, want) in [
            ("a,x,1\nb,y,much\n", "line 2: expected a number as weight, found \"much\""),
            ("a,x,1\nb,y,nan\n", "line 2: expected a number as weight, found \"nan\""),
            ("a,x,-1\n", "line 1: expected a weight of at least 0, found -1"),
            ("a,x,1,noon\n", "line 1: expected a number as timestamp, found \"noon\""),
            ("a,x\n,y\n", "line 2: expected an id of the user, found nothing"),
            ("a\tx\na\t \n", "line 2: expected an id of the item, found nothing"),
            ("a,x\nb\n", "line 2: expected user, item[, weight[, timestamp]], found 1 fields"),
            ("user,item,rating\na,x\n", "line 2: expected 3 fields as in the header, found 2 fields"),
            ("a x 1 2 3\n", "line 1: expected user, item[, weight[, timestamp]], found 5 fields"),
        ] {
            assert_eq!(parsed(text).unwrap_err(), want, "{text:?}");
        }
        let latin = read(&b"a,x\nb,caf\xe9\n"[..], Rules::ALL).unwrap_err();
        assert_eq!(latin, "line 2: expected text in UTF-8, found other bytes");
        assert!(parsed("").unwrap().entries.is_empty());
        let binary: Vec<u8> = (0..1 << 21).map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        assert!(read(binary.as_slice(), Rules::ALL).is_err());
    }

    #[test]
    fn a_matrix_market_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plays.mtx");
        let load_text = |text: &str| {
            std::fs::write(&path, text).unwrap();
            load(&path, Rules::ALL)
        };
        let text = "%%MatrixMarket matrix coordinate integer general\n% plays\n3 4 3\n1 4 5\n3 1 2\n1 2 7\n";
        let loaded = load_text(text).unwrap();
        let mut entries: Vec<_> = told(&loaded).into_iter().map(|(user, item, _)| (user, item)).collect();
        entries.sort_unstable();
        assert_eq!(entries, [("1", "2"), ("1", "4"), ("3", "1")]);
        assert_eq!(loaded.entries.iter().map(|entry| entry.value).sum::<f32>(), 14.0);
        let pattern = "%%MatrixMarket matrix coordinate pattern general\n2 2 1\n2 2\n";
        assert_eq!(load_text(pattern).unwrap().entries[0].value, 1.0);
        for (text, want) in [
            ("%%MatrixMarket matrix array real general\n", "line 1: expected matrix coordinate"),
            ("%%MatrixMarket matrix coordinate real symmetric\n", "found matrix coordinate real symmetric"),
            (
                "%%MatrixMarket matrix coordinate real general\n2 2 1\n3 1 1\n",
                "line 3: expected a row from 1 to 2, found 3",
            ),
            (
                "%%MatrixMarket matrix coordinate real general\n2 2 1\n1 1 x\n",
                "line 3: expected a number as value, found \"x\"",
            ),
            (
                "%%MatrixMarket matrix coordinate real general\n2 2 1\n1 1 -2\n",
                "line 3: expected a weight of at least 0",
            ),
            (
                "%%MatrixMarket matrix coordinate real general\n2 2 2\n1 1 1\n",
                "expected the 2 entries that the file announces, found 1",
            ),
            ("%%MatrixMarket matrix coordinate real general\n", "expected a line with rows, columns and entries"),
        ] {
            let told = load_text(text).unwrap_err().message;
            assert!(told.contains(want), "{text:?}: {told}");
        }
    }

    /// Written as SciPy's save_npz writes them.
    #[test]
    fn a_csr_matrix_is_read() {
        use npyz::WriterBuilder;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plays.npz");
        let write = |format: &[u8], indices: [i32; 3]| {
            let mut archive = zip::ZipWriter::new(File::create(&path).unwrap());
            let mut put = |name: &str, bytes: Vec<u8>| {
                archive.start_file(format!("{name}.npy"), zip::write::SimpleFileOptions::default()).unwrap();
                std::io::Write::write_all(&mut archive, &bytes).unwrap();
            };
            fn npy<T: npyz::AutoSerialize + Copy>(data: &[T]) -> Vec<u8> {
                let mut bytes = Vec::new();
                let options = npyz::WriteOptions::new().default_dtype().shape(&[data.len() as u64]);
                let mut writer = options.writer(&mut bytes).begin_nd().unwrap();
                writer.extend(data.iter().copied()).unwrap();
                writer.finish().unwrap();
                bytes
            }
            put("indices", npy(&indices));
            put("indptr", npy(&[0i32, 2, 2, 3]));
            put("shape", npy(&[3i64, 4]));
            put("data", npy(&[5.0f64, 7.0, 2.0]));
            let mut word = Vec::new();
            let dtype = npyz::DType::Plain(format!("|S{}", format.len()).parse().unwrap());
            let mut writer =
                npyz::WriteOptions::<[u8]>::new().dtype(dtype).shape(&[]).writer(&mut word).begin_nd().unwrap();
            writer.push(format).unwrap();
            writer.finish().unwrap();
            put("format", word);
            archive.finish().unwrap();
        };
        write(b"csr", [3, 1, 0]);
        let loaded = load(&path, Rules::ALL).unwrap();
        let mut entries: Vec<_> = told(&loaded).into_iter().map(|(user, item, _)| (user, item)).collect();
        entries.sort_unstable();
        assert_eq!(entries, [("0", "1"), ("0", "3"), ("2", "0")]);
        assert_eq!(loaded.entries.iter().map(|entry| entry.value).sum::<f32>(), 14.0);
        write(b"csr", [3, 4, 0]);
        assert!(
            load(&path, Rules::ALL).unwrap_err().message.ends_with("row 0: expected a column from 0 to 3, found 4")
        );
        write(b"csc", [3, 1, 0]);
        assert!(
            load(&path, Rules::ALL).unwrap_err().message.contains("expected a matrix in the format csr, found \"csc\"")
        );
        std::fs::write(&path, b"PK\x03\x04 and nothing else").unwrap();
        assert!(load(&path, Rules::ALL).unwrap_err().message.contains("expected an .npz file"));
    }

    #[test]
    fn a_file_that_is_none_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let told = |path: &Path| load(path, Rules::ALL).unwrap_err().message;
        assert!(told(&folder.path().join("missing.csv")).contains("expected a file of interactions"));
        assert!(told(folder.path()).contains("folder"));
        let empty = folder.path().join("empty.csv");
        std::fs::write(&empty, "user,item\n").unwrap();
        assert!(told(&empty).ends_with("found none among the 0 that the file has"));
    }
}
