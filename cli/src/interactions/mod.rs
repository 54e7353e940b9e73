//! Reads files of interactions: MovieLens' u.data, ratings.csv and ratings.dat, plain `user,item[,weight[,timestamp]]`,
//! and sparse matrices.

mod layout;
mod sparse;
mod split;
mod time;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use clap::ValueEnum;
use flate2::bufread::MultiGzDecoder;
use indicatif::ProgressBar;
use serde_json::Value;
use wgloss::Random;

use self::layout::{Columns, Separator, WEIGHTS};
pub use self::layout::{Fields, Named};
use self::sparse::Matrix;
pub use self::split::{New, Split, is_any, is_liked};
use self::time::{Form, Time};
use crate::failure::Failure;
use crate::{progress, shortest};

/// Which lines count, and how.
#[derive(Debug, Clone, PartialEq, clap::Args)]
pub struct Rules {
    /// Which column has what, by its name in the first line or its number from 1, for files whose header is not recognised. Weights and times that are not
    /// named are not read.
    #[arg(long, value_name = "user=…,item=…[,weight=…][,time=…]", requires = "interactions")]
    pub columns: Option<Named>,
    /// Drop lines with a weight below this, before the lines of a pair are joined.
    #[arg(long, value_name = "WEIGHT", requires = "interactions", allow_negative_numbers = true)]
    pub min_rating: Option<f32>,
    /// Drop users and items with fewer interactions than this, repeatedly until none is left.
    #[arg(long, value_name = "COUNT", requires = "interactions", default_value_t = 1)]
    pub min_interactions: usize,
    /// The weight of a pair that stands in several lines; its time is that of the last [default: last, in a sparse matrix sum].
    #[arg(long, value_enum, requires = "interactions")]
    pub duplicates: Option<Duplicates>,
    /// At most so many users, evenly spread among those with at least three interactions, have their last one held out to measure with. Without times the last
    /// line counts as the last; in a sparse matrix one is drawn. 0 holds out nothing and measures nothing.
    #[arg(long, value_name = "COUNT", requires = "interactions", default_value_t = 10_000)]
    pub held_out_users: u32,
    /// Whether weights below 0 mean something.
    #[arg(skip)]
    pub negative: bool,
}

/// How the weights of a pair with several lines are combined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Duplicates {
    Last,
    Sum,
    Max,
}

impl Rules {
    /// The rules by which all lines count.
    pub const ALL: Rules = Rules {
        columns: None,
        min_rating: None,
        min_interactions: 1,
        duplicates: None,
        held_out_users: u32::MAX,
        negative: false,
    };

    /// Adds the rules to a run's record.
    pub fn tell(&self, about: &mut Value) {
        about["min_rating"] = self.min_rating.map(shortest).into();
        about["min_interactions"] = self.min_interactions.into();
        let name = |duplicates: Duplicates| Some(duplicates.to_possible_value()?.get_name().to_owned());
        about["duplicates"] = self.duplicates.and_then(name).into();
        about["held_out_users"] = self.held_out_users.into();
    }

    /// The weight as it is stored, or what is wrong with it.
    pub fn weight(&self, value: f64) -> Result<f32, String> {
        let kept = value as f32;
        if !kept.is_finite() {
            return Err(format!("expected a weight that f32 holds, found {value:e}"));
        }
        if value < 0.0 && !self.negative {
            return Err(format!("expected a weight of at least 0, found {value}"));
        }
        Ok(kept)
    }
}

/// An interaction, with numbers for user and item.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Entry {
    pub user: u32,
    pub item: u32,
    pub time: Time,
    /// The weight; 1 if the file has none.
    pub value: f32,
}

/// The contents of a file.
///
/// Ids are in the order of their first appearance. Entries are sorted by user, then by time. A pair occurs once, at its
/// last time, with the weight that [`Duplicates`] gives it.
#[derive(Debug)]
pub struct Loaded {
    pub users: Vec<String>,
    pub items: Vec<String>,
    pub entries: Vec<Entry>,
    /// Lines of the file without a header, or entries of a matrix that are not 0.
    pub all: usize,
    /// Lines that were kept, including duplicates.
    pub lines: usize,
    /// Of the kept lines, those that were merged into another line of their pair.
    pub joined: usize,
    /// The largest weight in the file.
    pub largest: Option<f32>,
    /// The fields that were read, for text.
    pub fields: Option<Fields>,
    /// Whether the file has weights.
    pub weighted: bool,
}

/// The first bytes of a .npz file.
const ZIP: &[u8] = b"PK\x03\x04";
/// The first bytes of a gzip file.
const GZIP: &[u8] = b"\x1f\x8b";
/// The byte order mark, with which some programs begin UTF-8 text.
pub const MARK: &str = "\u{feff}";
/// The number of lines from which the layout of a text is found.
const SHOWING: usize = 6;
/// The most bytes that are read of a line, in case the line never ends.
const LONGEST: u64 = 1 << 20;
/// Reading shows a progress bar for files larger than this.
const SHOWN: u64 = 8 << 20;

/// Reads lines into numbered entries.
#[derive(Default)]
struct Reader {
    ids: [HashMap<String, u32>; 2],
    names: [Vec<String>; 2],
    entries: Vec<Entry>,
    columns: Option<Columns>,
    header: Option<Vec<String>>,
    separator: Option<Separator>,
    /// Whether the first line names columns, known or unknown.
    is_headed: bool,
    /// The form of the timestamps read so far.
    form: Option<Form>,
    all: usize,
    lines: usize,
    joined: usize,
    largest: Option<f32>,
    weighted: bool,
}

impl Reader {
    /// Takes the fields of a line. The error says what is wrong with them.
    fn take(&mut self, fields: &[&str], rules: &Rules) -> Result<(), String> {
        let columns = match self.columns {
            Some(columns) => columns,
            None => {
                let named = Columns::named(fields);
                let is_headed = named.is_some() || self.is_headed;
                let (columns, is_headed) = match (&rules.columns, named) {
                    (Some(wish), _) => wish.among(fields, is_headed)?,
                    (None, Some(named)) => (named, true),
                    (None, None) if is_headed => {
                        (Columns { count: Some(fields.len()), ..Columns::positional(fields.len()) }, true)
                    }
                    (None, None) => (Columns::positional(fields.len()), false),
                };
                self.columns = Some(columns);
                if is_headed {
                    self.header = Some(fields.iter().map(|field| field.trim().to_owned()).collect());
                    return Ok(());
                }
                columns
            }
        };
        // The first line may be a header of unknown names.
        let is_first = self.all == 0 && self.header.is_none() && rules.columns.is_none();
        let hint = if is_first { "; --columns says which column has what" } else { "" };
        let fits = columns.count.map_or((2..=4).contains(&fields.len()), |count| fields.len() == count);
        if !fits {
            let expected = columns.count.map_or("user, item[, weight[, timestamp]]".to_owned(), |count| {
                format!("{count} fields as in the first line")
            });
            let plural = if fields.len() == 1 { "" } else { "s" };
            return Err(format!("expected {expected}, found {} field{plural}{}{hint}", fields.len(), self.separated()));
        }
        let field = |at: Option<usize>| at.and_then(|at| fields.get(at)).map(|text| text.trim());
        let weight = match field(columns.weight) {
            Some(text) => match text.parse::<f64>() {
                Ok(value) if (value as f32).is_finite() => Some(value),
                _ => return Err(format!("expected a number as weight, found {text:?}{}{hint}", self.separated())),
            },
            None => None,
        };
        let time = match columns.time {
            Some(_) => self.time(field(columns.time).unwrap_or_default()).map_err(|what| what + hint)?,
            None => Time::of(0),
        };
        let weight = weight.map(|weight| rules.weight(weight)).transpose()?;
        self.weighted |= weight.is_some();
        let names = [fields[columns.user].trim(), fields[columns.item].trim()];
        for (what, name) in ["user", "item"].into_iter().zip(names) {
            if name.is_empty() {
                return Err(format!("expected an id of the {what}, found nothing"));
            }
        }
        self.all += 1;
        self.largest = larger(self.largest, weight);
        if rules.min_rating.zip(weight).is_some_and(|(least, weight)| weight < least) {
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
        let value = weight.unwrap_or(1.0);
        self.entries.push(Entry { user, item, time, value });
        self.lines += 1;
        Ok(())
    }

    /// The assumed separator, to end a sentence with.
    fn separated(&self) -> String {
        self.separator.map(|separator| format!(" (fields separated by {})", separator.name())).unwrap_or_default()
    }

    /// The time of a line. A line without one comes before all others.
    fn time(&mut self, text: &str) -> Result<Time, String> {
        if text.is_empty() {
            return Ok(Time::EARLIEST);
        }
        let (found, time) = Time::parse(text).ok_or_else(|| {
            format!("expected a number or a date of ISO 8601 as timestamp, found {text:?}{}", self.separated())
        })?;
        let form = *self.form.get_or_insert(found);
        if found == form {
            return Ok(time);
        }
        let expected = match form {
            Form::Number => "a number",
            Form::Date => "a date of ISO 8601",
        };
        Err(format!("expected {expected} as timestamp, as in the lines before, found {text:?}"))
    }

    /// The entries of a matrix, whose rows and columns are known by their numbers. Zeros are not interactions.
    ///
    /// A matrix has no times, so the order of a user's entries is drawn at random. Otherwise the item with the largest
    /// number would always be held out.
    fn of(matrix: Matrix, rules: &Rules) -> Result<Loaded, String> {
        if rules.columns.is_some() {
            return Err("expected lines of text, since --columns is given, found a sparse matrix".into());
        }
        let least = rules.min_rating.unwrap_or(f32::NEG_INFINITY);
        let Matrix { entries, first, has_values, .. } = matrix;
        let (mut all, mut largest) = (0, None);
        let present = entries.into_iter().filter(|&(.., value)| value != 0.0).inspect(|&(.., value)| {
            all += 1;
            largest = larger(largest, has_values.then_some(value));
        });
        let kept = present.filter(|&(.., value)| value >= least);
        let mut entries: Vec<Entry> =
            kept.map(|(user, item, value)| Entry { user, item, time: Time::of(0), value }).collect();
        let sides: [fn(&mut Entry) -> &mut u32; 2] = [|entry| &mut entry.user, |entry| &mut entry.item];
        // Only ids that occur get a name, because a file of a few bytes can announce billions.
        let names = sides.map(|id| {
            let mut present: Vec<u32> = entries.iter_mut().map(|entry| *id(entry)).collect();
            present.sort_unstable();
            present.dedup();
            for entry in &mut entries {
                let id = id(entry);
                *id = present.partition_point(|other| *other < *id) as u32;
            }
            present.iter().map(|&at| (at as usize + first).to_string()).collect()
        });
        let mut reader =
            Reader { all, lines: entries.len(), largest, names, entries, weighted: has_values, ..Reader::default() };
        // Joined before times are drawn, while the order of the file is still known.
        reader.join(rules.duplicates.unwrap_or(Duplicates::Sum));
        // In an order that does not depend on how the matrix is stored.
        reader.entries.sort_by_key(|entry| (entry.user, entry.item));
        let mut random = Random::new(1, 0);
        reader.entries.iter_mut().for_each(|entry| entry.time = Time::of(random.word().into()));
        Ok(reader.loaded(rules))
    }

    /// Sorts entries by user, then by time; equal times stay in the order of the file. The last entry of each pair is
    /// kept, with the combined weight of the entries up to it.
    fn join(&mut self, duplicates: Duplicates) {
        self.entries.sort_by_key(|entry| (entry.user, entry.time));
        let mut is_last = Vec::with_capacity(self.entries.len());
        for of_user in self.entries.chunk_by_mut(|a, b| a.user == b.user) {
            let mut weights = HashMap::new();
            for entry in &mut *of_user {
                let value = entry.value;
                let before = weights.get(&entry.item).map(|&before: &f32| match duplicates {
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
        let before = self.entries.len();
        let mut stays = is_last.into_iter();
        self.entries.retain(|_| stays.next().unwrap_or(true));
        self.joined += before - self.entries.len();
    }

    fn loaded(mut self, rules: &Rules) -> Loaded {
        self.join(rules.duplicates.unwrap_or(Duplicates::Last));
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
        // Ids that have no interactions left are dropped.
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
        let Reader { all, lines, joined, largest, weighted, header, .. } = self;
        let fields = self.columns.map(|columns| Fields { columns, header });
        Loaded { users, items, entries, all, lines, joined, largest, fields, weighted }
    }
}

impl Loaded {
    /// The reason why there are no interactions. None if there are some.
    fn none_left(&self, rules: &Rules) -> Option<String> {
        if !self.entries.is_empty() {
            return None;
        }
        let Loaded { all, lines, largest, .. } = self;
        Some(match (rules.min_rating, largest) {
            _ if *all == 0 => "expected interactions, found none".to_owned(),
            (Some(least), Some(most)) if *lines == 0 => {
                format!(
                    "expected weights of at least {least}, since --min-rating is given, found {most} at most among {all}"
                )
            }
            _ => {
                let least = rules.min_interactions;
                let expected =
                    format!("expected users and items of {least} interactions, since --min-interactions is given");
                format!("{expected}, found none among {} interactions", lines - self.joined)
            }
        })
    }
}

/// The larger of two weights that may be missing.
fn larger(a: Option<f32>, b: Option<f32>) -> Option<f32> {
    a.into_iter().chain(b).reduce(f32::max)
}

/// Refuses --min-rating for a file without weights.
fn check_rating(loaded: &Loaded, rules: &Rules) -> Result<(), String> {
    let found = match &loaded.fields {
        _ if rules.min_rating.is_none() => return Ok(()),
        Some(Fields { columns: Columns { weight: None, .. }, header }) => match header {
            Some(names) => {
                let known = WEIGHTS.split_whitespace().collect::<Vec<_>>().join(", ");
                format!("the columns {}; weights are known by the names {known}", names.join(", "))
            }
            None => "lines of user and item alone".to_owned(),
        },
        None if !loaded.weighted && loaded.all > 0 => "a matrix without values".to_owned(),
        _ => return Ok(()),
    };
    Err(format!("expected weights, since --min-rating is given, found {found}"))
}

/// Reads the file that `option` names. Fails if no interaction is left.
pub fn load(option: &str, path: &Path, rules: &Rules) -> Result<Loaded, Failure> {
    if let Some(least) = rules.min_rating.filter(|least| !least.is_finite()) {
        return Err(Failure::input(format!("--min-rating: expected a finite number, found {least}")));
    }
    let loaded = load_any(option, path, rules)?;
    let refuse = |what: String| Failure::input(format!("{option} {}: {what}", path.display()));
    check_rating(&loaded, rules).map_err(refuse)?;
    match loaded.none_left(rules) {
        Some(what) => Err(refuse(what)),
        None => Ok(loaded),
    }
}

/// Reads the file that `option` names. No interaction need be left.
pub fn load_any(option: &str, path: &Path, rules: &Rules) -> Result<Loaded, Failure> {
    let refuse = |what: String| Failure::input(format!("{option} {}: {what}", path.display()));
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
        let file = File::open(path).map_err(unreadable)?;
        sparse::npz(file, rules).and_then(|matrix| Reader::of(matrix, rules))
    } else if start.starts_with(GZIP) {
        load_text(BufReader::with_capacity(1 << 20, MultiGzDecoder::new(input)), rules)
    } else {
        load_text(input, rules)
    };
    bar.finish_and_clear();
    loaded.map_err(refuse)
}

/// Reads uncompressed lines or a MatrixMarket file.
fn load_text(mut input: impl BufRead, rules: &Rules) -> Result<Loaded, String> {
    let mut start = input.fill_buf().map_err(unread)?;
    if start.starts_with(MARK.as_bytes()) {
        input.consume(MARK.len());
        start = input.fill_buf().map_err(unread)?;
    }
    if let Some(found) = no_text(start) {
        return Err(format!("expected text, a MatrixMarket file or an .npz file of interactions, found {found}"));
    }
    if start.get(..sparse::BANNER.len()).is_some_and(|start| start.eq_ignore_ascii_case(sparse::BANNER)) {
        return sparse::matrix_market(input, rules).and_then(|matrix| Reader::of(matrix, rules));
    }
    read(input, rules)
}

/// The kind of a file that is not readable as text.
fn no_text(start: &[u8]) -> Option<&'static str> {
    let kinds: [(&[u8], _); 3] =
        [(b"\x93NUMPY", "an .npy file"), (b"\xff\xfe", "text in UTF-16"), (b"\xfe\xff", "text in UTF-16")];
    kinds.into_iter().find_map(|(mark, kind)| start.starts_with(mark).then_some(kind))
}

fn text(bytes: &[u8]) -> Result<&str, String> {
    core::str::from_utf8(bytes).map_err(|_| "expected text in UTF-8, found other bytes".to_owned())
}

/// The error of a failing disk, or of gzip data that was cut off.
fn unread(error: impl core::fmt::Display) -> String {
    format!("expected a file of interactions that can be read to its end, found: {error}")
}

/// The first lines that are not blank, with all blank lines before them.
fn first_lines(input: &mut impl BufRead) -> std::io::Result<Vec<u8>> {
    let (mut lines, mut found) = (Vec::new(), 0);
    while found < SHOWING {
        let before = lines.len();
        if input.take(LONGEST).read_until(b'\n', &mut lines)? == 0 {
            break;
        }
        found += usize::from(!lines[before..].trim_ascii().is_empty());
    }
    Ok(lines)
}

/// Reads lines of text. Errors name the line.
pub fn read(mut input: impl BufRead, rules: &Rules) -> Result<Loaded, String> {
    let start = first_lines(&mut input).map_err(unread)?;
    let shown = String::from_utf8_lossy(&start);
    let shown: Vec<&str> = shown.lines().filter(|line| !line.trim().is_empty()).collect();
    let first = shown.first().copied().unwrap_or_default();
    if layout::is_json(first) {
        let first: String = first.chars().take(20).collect();
        return Err(format!("expected lines of user, item[, weight[, timestamp]], found JSON: {first}"));
    }
    let separator = Separator::of(first);
    let fields: Vec<Vec<String>> = shown.iter().map(|line| separator.split(line)).collect();
    let is_headed = layout::is_unknown_header(&fields);
    let mut reader = Reader { separator: Some(separator), is_headed, ..Reader::default() };
    let mut input = start.chain(input);
    let at = |line: u64, what: String| format!("line {line}: {what}");
    if let Separator::Byte(byte) = separator {
        let mut format = csv::ReaderBuilder::new();
        format.delimiter(byte).has_headers(false).flexible(true).terminator(csv::Terminator::Any(b'\n'));
        // Every record ends a line, so the number of a record's line follows from the position of its end, even after
        // blank lines.
        let mut records = format.from_reader(input.chain(&b"\n"[..]));
        let mut record = csv::ByteRecord::new();
        loop {
            let more = records.read_byte_record(&mut record).map_err(unread)?;
            if !more {
                break;
            }
            if record.len() == 1 && record[0].trim_ascii().is_empty() {
                continue;
            }
            let fields = record.iter().map(text).collect::<Result<Vec<&str>, _>>();
            fields.and_then(|fields| reader.take(&fields, rules)).map_err(|what| {
                let within = record.as_slice().iter().filter(|&&byte| byte == b'\n').count() as u64;
                // A quote that is not closed takes all that follows, and no line ends the record.
                let is_open = record.iter().next_back().is_some_and(|field| field.ends_with(b"\n"));
                let line = records.position().line().saturating_sub(within + u64::from(!is_open));
                let hint = if within > 0 { "; a quote that is not closed may have joined lines" } else { "" };
                at(line, what + hint)
            })?;
        }
    } else {
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            let length = input.by_ref().take(LONGEST).read_until(b'\n', &mut line);
            if length.map_err(unread)? == 0 {
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

#[cfg(test)]
mod tests {
    use super::*;
    use npyz::WriterBuilder;
    use wgloss::planted::Blocks;

    const OPTION: &str = "--interactions";

    fn parsed(text: &str) -> Result<Loaded, String> {
        read(text.as_bytes(), &Rules::ALL)
    }

    /// The user id, item id and time of each entry.
    fn told(loaded: &Loaded) -> Vec<(&str, &str, i64)> {
        let of = |entry: &Entry| {
            (&*loaded.users[entry.user as usize], &*loaded.items[entry.item as usize], entry.time.whole)
        };
        loaded.entries.iter().map(of).collect()
    }

    /// The planted interactions are the same after writing and reading in each format.
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
        assert_eq!((loaded.lines, loaded.joined), (4, 1));
        let untimed = parsed("a,x\na,y\na,x\n").unwrap();
        assert_eq!(told(&untimed), [("a", "y", 0), ("a", "x", 0)]);
    }

    /// Entries are in the order of time, whatever the form of the times. Entries without a time come first.
    #[test]
    fn times_only_order() {
        for times in [
            ["0.5", "0.25", "0.75", ""],
            ["1537438272123456788", "1537438272123456787", "1537438272123456789", ""],
            ["4503599627370496", "4503599627370495.5", "4503599627370497", ""],
            ["-1", "-1.5", "-0.5", ""],
            ["2018-09-20", "2018-09-19 23:59:59.5", "2018-09-20T10:11:12Z", ""],
        ] {
            let line = |(item, time): (char, &str)| format!("a::{item}::1::{time}\n");
            let text: String = ['x', 'w', 'y', 'v'].into_iter().zip(times).map(line).collect();
            let loaded = parsed(&text).unwrap();
            let items: Vec<&str> = told(&loaded).iter().map(|&(_, item, _)| item).collect();
            assert_eq!(items, ["v", "w", "x", "y"], "{times:?}");
        }
    }

    #[test]
    fn weights_of_duplicates() {
        let of = |duplicates| {
            let rules = Rules { duplicates: Some(duplicates), ..Rules::ALL };
            let loaded = read("a,x,4,3\na,x,1,9\na,x,2,5\na,y,7,1\nb,x,1,2\n".as_bytes(), &rules).unwrap();
            loaded.entries.iter().map(|entry| entry.value).collect::<Vec<_>>()
        };
        assert_eq!(of(Duplicates::Last), [7.0, 1.0, 1.0]);
        assert_eq!(of(Duplicates::Sum), [7.0, 7.0, 1.0]);
        assert_eq!(of(Duplicates::Max), [7.0, 4.0, 1.0]);
    }

    #[test]
    fn rules() {
        let rated = Rules { min_rating: Some(4.0), ..Rules::ALL };
        let loaded = read("u,i,3.9\nu,j,4\nv,i,5\n".as_bytes(), &rated).unwrap();
        assert_eq!(told(&loaded), [("u", "j", 0), ("v", "i", 0)]);
        let tenth = Rules { min_rating: Some(0.1), ..Rules::ALL };
        assert_eq!(read("u,i,0.1\n".as_bytes(), &tenth).unwrap().entries.len(), 1);
        // Dropping z leaves its user with one interaction, which is dropped too; x then has one.
        let core = Rules { min_interactions: 2, ..Rules::ALL };
        let loaded = read("a x\na y\nb x\nb y\nc x\nc z\n".as_bytes(), &core).unwrap();
        assert_eq!(told(&loaded), [("a", "x", 0), ("a", "y", 0), ("b", "x", 0), ("b", "y", 0)]);
        assert_eq!((loaded.users.len(), loaded.items.len()), (2, 2));
    }

    #[test]
    fn a_bad_line_is_named() {
        for (text, want) in [
            (
                "a,x,much\n",
                "line 1: expected a number as weight, found \"much\" (fields separated by commas); --columns says which column has what",
            ),
            ("a,x,1\nb,y,much\n", "line 2: expected a number as weight, found \"much\" (fields separated by commas)"),
            ("a,x,1\nb,y,nan\n", "line 2: expected a number as weight, found \"nan\" (fields separated by commas)"),
            ("a,x,-1\n", "line 1: expected a weight of at least 0, found -1"),
            (
                "a,x,1,noon\n",
                "line 1: expected a number or a date of ISO 8601 as timestamp, found \"noon\" (fields separated by commas); --columns says which column has what",
            ),
            (
                "a,x,1,5\na,y,1,2018-09-20\n",
                "line 2: expected a number as timestamp, as in the lines before, found \"2018-09-20\"",
            ),
            (
                "a,x,1,2018-09-20\na,y,1,5\n",
                "line 2: expected a date of ISO 8601 as timestamp, as in the lines before, found \"5\"",
            ),
            ("a,x\n,y\n", "line 2: expected an id of the user, found nothing"),
            ("a\tx\na\t \n", "line 2: expected an id of the item, found nothing"),
            (
                "a,x\nb\n",
                "line 2: expected user, item[, weight[, timestamp]], found 1 field (fields separated by commas)",
            ),
            (
                "user,item,rating\na,x\n",
                "line 2: expected 3 fields as in the first line, found 2 fields (fields separated by commas)",
            ),
            (
                "a x 1 2 3\n",
                "line 1: expected user, item[, weight[, timestamp]], found 5 fields (fields separated by spaces); --columns says which column has what",
            ),
        ] {
            assert_eq!(parsed(text).unwrap_err(), want, "{text:?}");
        }
        for (text, want) in [
            ("\n\r\n  \na,x,1\n\n \n\nb,y,much", "line 8: "),
            ("\nuser,item,rating\r\na,x,1\r\n\r\nb,y,much\r\n", "line 5: "),
            ("a,\"x\nx\",1\n\nb,\"y\n\ny\",much\n", "line 4: "),
            (
                "user,item\na,b\nc,d\n\"e,f\ng,h\n",
                "line 4: expected 2 fields as in the first line, found 1 field (fields separated by commas); a quote",
            ),
            ("\n\na::x::1\n\nb::y::much\n", "line 5: "),
            ("u1 i1 4,5 9\n", "line 1: expected a number as weight, found \"4,5\" (fields separated by spaces); "),
            ("u1;i1;4,5\n", "line 1: expected a number as weight, found \"4,5\" (fields separated by semicolons); "),
            (
                "\n{\"user\": 1, \"item\": 2}\n",
                "expected lines of user, item[, weight[, timestamp]], found JSON: {\"user",
            ),
            ("[\n  {\"user\": 1}\n]\n", "expected lines of user, item[, weight[, timestamp]], found JSON: ["),
        ] {
            let told = parsed(text).unwrap_err();
            assert!(told.starts_with(want), "{text:?}: {told}");
        }
        let latin = read(&b"a,x\nb,caf\xe9\n"[..], &Rules::ALL).unwrap_err();
        assert_eq!(latin, "line 2: expected text in UTF-8, found other bytes");
        assert!(parsed("").unwrap().entries.is_empty());
        let binary: Vec<u8> = (0..1 << 21).map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        assert!(read(binary.as_slice(), &Rules::ALL).is_err());
    }

    #[test]
    fn a_matrix_market_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plays.mtx");
        let load_text = |text: &str| {
            std::fs::write(&path, text).unwrap();
            load(OPTION, &path, &Rules::ALL)
        };
        let text = "%%MatrixMarket matrix coordinate integer general\n% plays\n3 4 3\n1 4 5\n3 1 2\n1 2 7\n";
        let loaded = load_text(text).unwrap();
        let mut entries: Vec<_> = told(&loaded).into_iter().map(|(user, item, _)| (user, item)).collect();
        entries.sort_unstable();
        assert_eq!(entries, [("1", "2"), ("1", "4"), ("3", "1")]);
        assert_eq!(loaded.entries.iter().map(|entry| entry.value).sum::<f32>(), 14.0);
        let pattern = "%%MatrixMarket matrix coordinate pattern general\n2 2 1\n2 2\n";
        let pattern = load_text(pattern).unwrap();
        assert!(pattern.entries[0].value == 1.0 && loaded.weighted && !pattern.weighted);
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

    fn npy<T: npyz::AutoSerialize + Copy>(data: &[T]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let options = npyz::WriteOptions::new().default_dtype().shape(&[data.len() as u64]);
        let mut writer = options.writer(&mut bytes).begin_nd().unwrap();
        writer.extend(data.iter().copied()).unwrap();
        writer.finish().unwrap();
        bytes
    }

    fn told_of(loaded: &Loaded) -> Vec<(&str, &str, f32)> {
        loaded.entries.iter().zip(told(loaded)).map(|(entry, (user, item, _))| (user, item, entry.value)).collect()
    }

    /// Writes a file as SciPy's save_npz does: 3 × 4 with 5 at (0, 3), 7 at (0, 1) and 2 at (2, 0), except for
    /// `others`.
    fn npz(path: &Path, format: &[u8], others: &[(&str, Vec<u8>)]) {
        let mut word = Vec::new();
        let dtype = npyz::DType::Plain(format!("|S{}", format.len()).parse().unwrap());
        let mut writer =
            npyz::WriteOptions::<[u8]>::new().dtype(dtype).shape(&[]).writer(&mut word).begin_nd().unwrap();
        writer.push(format).unwrap();
        writer.finish().unwrap();
        let mut archive = zip::ZipWriter::new(File::create(path).unwrap());
        for (name, bytes) in [
            ("indices", npy(&[3i32, 1, 0])),
            ("indptr", npy(&[0i32, 2, 2, 3])),
            ("shape", npy(&[3i64, 4])),
            ("data", npy(&[5.0f64, 7.0, 2.0])),
            ("format", word),
            ("row", Vec::new()),
            ("col", Vec::new()),
        ] {
            let bytes = others.iter().find_map(|(other, bytes)| (*other == name).then_some(bytes)).unwrap_or(&bytes);
            archive.start_file(format!("{name}.npy"), zip::write::SimpleFileOptions::default()).unwrap();
            std::io::Write::write_all(&mut archive, bytes).unwrap();
        }
        archive.finish().unwrap();
    }

    #[test]
    fn a_csr_matrix_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plays.npz");
        let of = |format: &[u8], others: &[(&str, Vec<u8>)]| {
            npz(&path, format, others);
            load(OPTION, &path, &Rules::ALL)
        };
        let half = |value: f32| half::f16::from_f32(value);
        for others in [
            vec![],
            vec![("indices", npy(&[3u8, 1, 0])), ("indptr", npy(&[0u64, 2, 2, 3])), ("shape", npy(&[3u16, 4]))],
            vec![("indices", npy(&[3i16, 1, 0])), ("data", npy(&[5i8, 7, 2]))],
            vec![("data", npy(&[half(5.0), half(7.0), half(2.0)]))],
            vec![("data", npy(&[5u64, 7, 2]))],
        ] {
            let loaded = of(b"csr", &others).unwrap();
            let mut entries: Vec<_> = told(&loaded).into_iter().map(|(user, item, _)| (user, item)).collect();
            entries.sort_unstable();
            assert_eq!(entries, [("0", "1"), ("0", "3"), ("2", "0")]);
            assert_eq!(loaded.entries.iter().map(|entry| entry.value).sum::<f32>(), 14.0);
        }
        for (name, bytes, want) in [
            ("indices", npy(&[3i32, 4, 0]), "row 0: expected a column from 0 to 3, found 4"),
            ("indices", npy(&[3.0f64, 1.0, 0.0]), "indices: expected int8 to int64 or uint8 to uint64, found '<f8'"),
            ("indptr", npy(&[0.0f32, 2.0, 2.0, 3.0]), "indptr: expected int8 to int64 or uint8 to uint64, found '<f4'"),
            ("indptr", npy(&[0i32, 2, 2, 2]), "expected indptr from 0 to 3, found 0 to 2"),
            ("indptr", npy(&[1i32, 2, 2, 3]), "expected indptr from 0 to 3, found 1 to 3"),
            ("indptr", npy(&[0i32, 2, 1, 3]), "row 1: expected indptr to rise from 0 to 3, found 2 to 1"),
            ("shape", npy(&[3i64, -4]), "expected a shape of numbers of at least 0, found 3 x -4"),
            ("data", npy(&[5.0f64, 7.0, 1e300]), "row 2: expected a weight that f32 holds, found 1e300"),
            ("data", npy(&[5.0f64, -7.0, 1.0]), "row 0: expected a weight of at least 0, found -7"),
        ] {
            let told = of(b"csr", &[(name, bytes)]).unwrap_err().message;
            assert!(told.ends_with(want) || told.contains(&format!(": {want}")), "{want}: {told}");
        }
        let told = of(b"bsr", &[]).unwrap_err().message;
        assert!(told.contains("expected a matrix in the format csr, csc or coo, found \"bsr\""), "{told}");
        // Read by columns, the same numbers are the transpose.
        let loaded = of(b"csc", &[("shape", npy(&[4i64, 3]))]).unwrap();
        let mut entries: Vec<_> = told_of(&loaded);
        entries.sort_by(|a, b| a.0.cmp(b.0));
        assert_eq!(entries, [("0", "2", 2.0), ("1", "0", 7.0), ("3", "0", 5.0)]);
        let told = of(b"csc", &[]).unwrap_err().message;
        assert!(told.ends_with("expected 5 numbers in indptr, found 4"), "{told}");
        let coo = |rows: &[i32]| of(b"coo", &[("row", npy(rows)), ("col", npy(&[3i64, 1, 0]))]);
        // What is held out does not depend on the format.
        let by_rows = of(b"csr", &[]).unwrap();
        assert_eq!(by_rows.entries, coo(&[0, 0, 2]).unwrap().entries);
        for (rows, want) in [
            (&[0, 3, 2][..], "entry 1: expected a row from 0 to 2, found 3"),
            (&[0, -1, 2], "entry 1: expected a row from 0 to 2, found -1"),
            (&[0, 0], "expected as many numbers in row as in data, 3, found 2"),
        ] {
            let told = coo(rows).unwrap_err().message;
            assert!(told.ends_with(want), "{told}");
        }
        std::fs::write(&path, b"PK\x03\x04 and nothing else").unwrap();
        assert!(load(OPTION, &path, &Rules::ALL).unwrap_err().message.contains("expected an .npz file"));
    }

    /// Several entries of a pair in a matrix are joined in the order of the file, before times are drawn. Zeros are not
    /// interactions. Ids that do not occur have no name.
    #[test]
    fn entries_of_a_matrix_are_joined() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plays.mtx");
        let head = "%%MatrixMarket matrix coordinate real general\n4294967295 4294967295";
        // 40 pairs, three times each with the largest weight in the middle, and 3 zeros.
        let lines = (0..120u32).map(|at| (at % 40, [1, 5, 2][at as usize / 40]));
        let text: String =
            lines.map(|(at, value)| format!("{} {} {value}\n", at / 8 + 1, 4_294_967_295 - at)).collect();
        std::fs::write(&path, format!("{head} 123\n{text}1 1 0\n9 9 0\n1 4294967295 0\n")).unwrap();
        for (duplicates, want) in
            [(Some(Duplicates::Last), 2.0), (Some(Duplicates::Max), 5.0), (Some(Duplicates::Sum), 8.0), (None, 8.0)]
        {
            let loaded = load(OPTION, &path, &Rules { duplicates, ..Rules::ALL }).unwrap();
            assert_eq!((loaded.entries.len(), loaded.users.len(), loaded.items.len()), (40, 5, 40));
            assert!(loaded.entries.iter().all(|entry| entry.value == want), "{:?}", loaded.entries);
            assert_eq!((&*loaded.users[4], &*loaded.items[39]), ("5", "4294967295"));
            assert_eq!((loaded.all, loaded.lines, loaded.joined), (120, 120, 80));
        }
    }

    #[test]
    fn weights_below_0_are_taken_where_they_mean_something() {
        let rules = Rules { negative: true, ..Rules::ALL };
        let loaded = read("a,x,-1.5\nb,x,2\n".as_bytes(), &rules).unwrap();
        assert_eq!(loaded.entries.iter().map(|entry| entry.value).collect::<Vec<_>>(), [-1.5, 2.0]);
        let least = Rules { min_rating: Some(-1.0), ..rules.clone() };
        assert_eq!(read("a,x,-1.5\nb,x,-1\n".as_bytes(), &least).unwrap().users, ["b"]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plays.npz");
        npz(&path, b"csr", &[("data", npy(&[5i8, -7, 2]))]);
        let loaded = load(OPTION, &path, &rules).unwrap();
        assert_eq!(loaded.entries.iter().map(|entry| entry.value).sum::<f32>(), 0.0);
    }

    /// Headers of public data sets with one line each: user, item, weight.
    #[test]
    fn headers_of_public_data_sets() {
        for text in [
            "customer,product\nu,i\n",
            "customer_id,article_id,t_dat\nu,i,2020-01-01\n",
            "User-ID;ISBN;Book-Rating\nu;i;7\n",
            "reviewerID,asin,overall,unixReviewTime\nu,i,7,1\n",
            "user_id,business_id,stars,review_id\nu,i,7,r\n",
            "userID\tartistID\tweight\nu\ti\t7\n",
            "user_id:token\titem_id:token\trating:float\ttimestamp:float\nu\ti\t7\t1\n",
            "user,song,play_count\nu,i,7\n",
            "user,artist,track,plays\nu,a,i,7\n",
            "user_id,book_id,rating\nu,i,7\n",
            "user_id,anime_id,rating\nu,i,7\n",
            "timestamp,visitorid,event,itemid,transactionid\n1,u,view,i,\n",
            "rating,user_id,parent_asin,timestamp\n7,u,i,1\n",
        ] {
            let loaded = parsed(text).unwrap();
            assert_eq!((&*loaded.users, &*loaded.items), (&["u".to_owned()][..], &["i".to_owned()][..]), "{text}");
            assert_eq!(loaded.weighted, text.contains('7'), "{text}");
            assert_eq!(loaded.entries[0].value, if loaded.weighted { 7.0 } else { 1.0 }, "{text}");
        }
        assert_eq!(parsed("user:1,item:1\nuser:2,item:2\n").unwrap().entries.len(), 2);
    }

    /// Reads columns that the user names and skips the others. Bad names give an error that says what is wrong.
    #[test]
    fn columns_are_named() {
        let of = |columns: &str, text: &str| {
            let columns = Some(columns.parse::<Named>().map_err(|error| error.to_string())?);
            read(text.as_bytes(), &Rules { columns, ..Rules::ALL })
        };
        let headed = "reader,clip,grade,at\nu,i,7,1\nu,j,2,0\n";
        for (columns, text) in [
            ("user=reader,item=clip,weight=grade,time=at", headed),
            ("time=AT,weight=grade,item=clip,user=Reader", headed),
            ("user=1,item=2,weight=3,time=4", headed),
            ("user=1,item=2,weight=3,time=4", "u,i,7,1\nu,j,2,0\n"),
            ("user=2,item=1,weight=4,time=3", "i::u::1::7::more\nj::u::0::2::more\n"),
            ("user=reader,\"item=clip, or film\",weight=3,time=4", "reader,\"clip, or film\",x,y\nu,i,7,1\nu,j,2,0\n"),
            ("user=user_id,item=product,weight=3,time=4", "user_id;product;x;y;rating\nu;i;7;1;9\nu;j;2;0;9\n"),
        ] {
            let loaded = of(columns, text).unwrap();
            assert_eq!(told_of(&loaded), [("u", "j", 2.0), ("u", "i", 7.0)], "{columns}: {text}");
        }
        let loaded = of("user=reader,item=clip", headed).unwrap();
        assert_eq!(told_of(&loaded), [("u", "i", 1.0), ("u", "j", 1.0)]);
        assert!(!loaded.weighted);
        for (columns, text, want) in [
            (
                "user=reader,item=film",
                headed,
                "line 1: --columns: expected columns of the first line, \"reader\", \"clip\", \"grade\", \"at\", found \"film\"",
            ),
            (
                "user=u,item=i",
                "u,i,i\n1,2,3\n",
                "line 1: --columns: expected one column named \"i\", found 2; a number tells which",
            ),
            ("user=1,item=5", headed, "line 1: --columns: expected numbers from 1 to 4, found 5"),
            ("user=0,item=2", headed, "line 1: --columns: expected numbers from 1 to 4, found 0"),
            (
                "user=1,item=reader",
                headed,
                "line 1: --columns: expected user and item in two columns, found both in column 1",
            ),
            (
                "user=1,item=2,weight=3",
                "u,i,7\nu,j\n",
                "line 2: expected 3 fields as in the first line, found 2 fields (fields separated by commas)",
            ),
            (
                "user=1,item=2,weight=2",
                "u,7\nu,j\n",
                "line 2: expected a number as weight, found \"j\" (fields separated by commas)",
            ),
            ("user=1,users=2", headed, "expected one of user, item, weight, time before =, found \"users\""),
            ("user=1", headed, "expected columns of user and item, found none of item"),
            ("user=1,user=2", headed, "expected user once, found it twice"),
            ("user=,item=2", headed, "expected a column's name or number, as in user=3, found \"user=\""),
        ] {
            assert_eq!(of(columns, text).unwrap_err(), want);
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plays.mtx");
        std::fs::write(&path, "%%MatrixMarket matrix coordinate pattern general\n2 2 1\n2 2\n").unwrap();
        let rules = Rules { columns: Some("user=1,item=2".parse().unwrap()), ..Rules::ALL };
        let told = load(OPTION, &path, &rules).unwrap_err().message;
        assert!(told.ends_with("expected lines of text, since --columns is given, found a sparse matrix"), "{told}");
    }

    #[test]
    fn what_gzip_has_packed_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ratings.csv.gz");
        let packed = |text: &str| {
            let mut packer = flate2::write::GzEncoder::new(Vec::new(), Default::default());
            std::io::Write::write_all(&mut packer, text.as_bytes()).unwrap();
            packer.finish().unwrap()
        };
        for parts in [
            &["user,item,rating\nu,i,7\n"][..],
            &["user,item,rating\n", "u,i,7\n"],
            &["\u{feff}u\ti\t7\t1\n"],
            &["%%MatrixMarket matrix coordinate real general\n2 2 1\n1 2 7\n"],
        ] {
            let packed: Vec<u8> = parts.iter().flat_map(|part| packed(part)).collect();
            std::fs::write(&path, &packed).unwrap();
            assert_eq!(load(OPTION, &path, &Rules::ALL).unwrap().entries[0].value, 7.0);
            std::fs::write(&path, &packed[..packed.len() - 9]).unwrap();
            let told = load(OPTION, &path, &Rules::ALL).unwrap_err().message;
            assert!(told.contains("ratings.csv.gz: "), "{told}");
        }
    }

    #[test]
    fn a_least_weight_needs_weights() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ratings");
        let refused = |text: &str, least: f32| {
            std::fs::write(&path, text).unwrap();
            load(OPTION, &path, &Rules { min_rating: Some(least), ..Rules::ALL }).unwrap_err().message
        };
        let pattern = "%%MatrixMarket matrix coordinate pattern general\n2 2 1\n2 2\n";
        let real = "%%MatrixMarket matrix coordinate real general\n2 2 3\n2 2 3.5\n1 1 0\n1 2 2\n";
        for (text, words) in [
            ("user_id,item_id,my_rating\na,x,5\n", &["columns user_id, item_id, my_rating;", "rating, weight"][..]),
            ("a,x\nb,y\n", &["lines of user and item alone"]),
            (pattern, &["a matrix without values"]),
        ] {
            let told = refused(text, 1.0);
            let expected = "expected weights, since --min-rating is given, found ";
            assert!(told.contains(expected) && words.iter().all(|word| told.contains(word)), "{told}");
        }
        for (text, found) in
            [("a,x,5\na,x,3\nb,y,4.5\n", "found 5 at most among 3"), (real, "found 3.5 at most among 2")]
        {
            let told = refused(text, 6.0);
            assert!(told.ends_with(found), "{told}");
        }
    }

    /// Two words before pairs of integers are a header. Two words before other words may be a pair.
    #[test]
    fn two_words_before_numbers_are_a_header() {
        for (text, users) in [
            ("viewer,clip\n1,2\n3,4\n", &["1", "3"][..]),
            ("\n\nviewer clip\n1 2\n3 4\n", &["1", "3"]),
            ("viewer,clip\n1,2\n3,b\n", &["viewer", "1", "3"]),
            ("person,thing\nu1,i1\nu2,i1\n", &["u1", "u2"]),
            ("thing,song\nu1,i1\nu2,i1\n", &["u1", "u2"]),
            ("person,thing\nu1,i1\nperson,i1\n", &["person", "u1"]),
            ("viewer,clip\n", &["viewer"]),
            ("9,clip\n1,2\n", &["9", "1"]),
            ("{viewer},clip\n", &["{viewer}"]),
        ] {
            assert_eq!(parsed(text).unwrap().users, users, "{text:?}");
        }
        assert!(parsed("viewer,clip,grade\n1,2,3\n").unwrap_err().contains("found \"grade\""));
    }

    #[test]
    fn a_mark_and_blank_lines_before_the_text_are_none_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("marked");
        let matrix = "%%MatrixMarket matrix coordinate pattern general\n2 2 1\n1 2\n";
        for text in ["1::2::3\n", "1 2\n", "1,2\n", "user,item\n1,2\n", "\n \n\r\n\"user\";\"item\"\n1;2\n", matrix] {
            std::fs::write(&path, format!("{MARK}{text}")).unwrap();
            let loaded = load(OPTION, &path, &Rules::ALL).unwrap();
            assert_eq!(told(&loaded).iter().map(|of| (of.0, of.1)).collect::<Vec<_>>(), [("1", "2")], "{text:?}");
        }
    }

    #[test]
    fn a_file_that_is_none_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let told = |path: &Path| load(OPTION, path, &Rules::ALL).unwrap_err().message;
        assert!(told(&folder.path().join("missing.csv")).contains("expected a file of interactions"));
        assert!(told(folder.path()).contains("folder"));
        let empty = folder.path().join("empty.csv");
        std::fs::write(&empty, "user,item\n").unwrap();
        assert!(told(&empty).ends_with("expected interactions, found none"));
        for (bytes, found) in
            [(&b"\x1f\x8b\x08"[..], "end of file"), (b"\x93NUMPY\x01", ".npy"), (b"\xff\xfeu\0", "UTF-16")]
        {
            std::fs::write(&empty, bytes).unwrap();
            assert!(told(&empty).contains(found));
        }
    }
}
