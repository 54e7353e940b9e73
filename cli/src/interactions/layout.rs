//! The layout of lines of text: the separator of the fields, and which field has what.

use std::str::FromStr;

use super::time::Time;

/// The fields of a line that have user, item, weight and time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Columns {
    pub user: usize,
    pub item: usize,
    pub weight: Option<usize>,
    pub time: Option<usize>,
    /// The number of fields in every line. None without a header or --columns: from two to four.
    pub count: Option<usize>,
}

/// The names that public data sets give their columns, reduced by [`word`]. Names of id columns may end in "id". If a
/// header has several of them, the first in the list is used.
const USERS: &str = "user uid username visitor customer cust client reviewer reviewprofilename member buyer person account householdkey session";
const ITEMS: &str = "item iid movie film product parentasin asin isbn book track song album artist musicbrainzartist article news business venue place gmap poi \
                     restaurant hotel video show anime game app recipe beer beerbeer joke paper content stockcode sku mid sid";
pub const WEIGHTS: &str = "rating weight count plays value score stars overall bookrating reviewoverall reviewrating reviewscore playcount listencount listens \
                           watchratio quantity hours frequency clicks views strength";
const TIMES: &str = "timestamp time ts date datetime tdat unixreviewtime unixtime unixtimestamp";

/// A column's name in lower case, letters and digits only: User-ID and RecBole's user_id:token become userid.
fn word(field: &str) -> String {
    let field = field.trim();
    let name = [":token", ":float"].into_iter().find_map(|kind| field.strip_suffix(kind)).unwrap_or(field);
    name.chars().filter(|letter| letter.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// Whether `word` is `name`, or `name` followed by `end`.
fn is_named(word: &str, name: &str, end: &str) -> bool {
    word.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest == end)
}

impl Columns {
    /// The columns of a header. None if the line is data.
    pub fn named(fields: &[&str]) -> Option<Columns> {
        let words: Vec<String> = fields.iter().map(|field| word(field)).collect();
        let find = |names: &str, end: &str| {
            names.split_whitespace().find_map(|name| words.iter().position(|word| is_named(word, name, end)))
        };
        let (user, item) = find(USERS, "id").zip(find(ITEMS, "id"))?;
        let (weight, time) = (find(WEIGHTS, ""), find(TIMES, ""));
        Some(Columns { user, item, weight, time, count: Some(fields.len()) })
    }

    pub fn positional(fields: usize) -> Columns {
        Columns { user: 0, item: 1, weight: (fields > 2).then_some(2), time: (fields > 3).then_some(3), count: None }
    }
}

const WHATS: [&str; 4] = ["user", "item", "weight", "time"];

/// The columns that the user named: for each, a name or a number from 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Named {
    user: String,
    item: String,
    weight: Option<String>,
    time: Option<String>,
}

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Named, String> {
        let mut names = [const { None }; 4];
        for part in Separator::Byte(b',').split(text) {
            let (what, name) = part.split_once('=').unwrap_or((&part, ""));
            let Some(at) = WHATS.iter().position(|known| *known == what.trim()) else {
                return Err(format!("expected one of {} before =, found {what:?}", WHATS.join(", ")));
            };
            if name.trim().is_empty() {
                return Err(format!("expected a column's name or number, as in {what}=3, found {part:?}"));
            }
            if names[at].replace(name.trim().to_owned()).is_some() {
                return Err(format!("expected {what} once, found it twice"));
            }
        }
        let [user, item, weight, time] = names;
        let missing = |what: &str| format!("expected columns of user and item, found none of {what}");
        Ok(Named {
            user: user.ok_or_else(|| missing("user"))?,
            item: item.ok_or_else(|| missing("item"))?,
            weight,
            time,
        })
    }
}

impl Named {
    /// Finds the columns in the first line of a text, and whether that line is a header.
    ///
    /// It is a header if a column was named by its name, if `is_headed` is set, or if its weight or time is neither a
    /// number nor (for the time) a date.
    pub fn among(&self, first: &[&str], is_headed: bool) -> Result<(Columns, bool), String> {
        let mut by_name = false;
        let mut place = |name: &String| {
            if let Ok(number) = name.parse::<usize>() {
                let at = number.checked_sub(1).filter(|&at| at < first.len());
                return at
                    .ok_or_else(|| format!("--columns: expected numbers from 1 to {}, found {number}", first.len()));
            }
            by_name = true;
            let places =
                |is: &dyn Fn(&str) -> bool| -> Vec<usize> { (0..first.len()).filter(|&at| is(first[at])).collect() };
            let exact = places(&|field| field.trim() == name);
            let found = if exact.is_empty() { places(&|field| word(field) == word(name)) } else { exact };
            match found[..] {
                [at] => Ok(at),
                [] => {
                    let names: Vec<String> = first.iter().map(|field| format!("{:?}", field.trim())).collect();
                    Err(format!("--columns: expected columns of the first line, {}, found {name:?}", names.join(", ")))
                }
                _ => Err(format!(
                    "--columns: expected one column named {name:?}, found {}; a number tells which",
                    found.len()
                )),
            }
        };
        let (user, item) = (place(&self.user)?, place(&self.item)?);
        let [weight, time] = [&self.weight, &self.time].map(|name| name.as_ref().map(&mut place).transpose());
        let (weight, time) = (weight?, time?);
        if user == item {
            return Err(format!("--columns: expected user and item in two columns, found both in column {}", user + 1));
        }
        let text = |at: Option<usize>| at.map_or("", |at| first[at].trim());
        let is_word = |text: &str| !text.is_empty() && text.parse::<f64>().is_err();
        let is_headed =
            is_headed || by_name || is_word(text(weight)) || (is_word(text(time)) && Time::parse(text(time)).is_none());
        Ok((Columns { user, item, weight, time, count: Some(first.len()) }, is_headed))
    }
}

/// Which fields of a text's lines were used for what.
#[derive(Debug, Clone)]
pub struct Fields {
    pub columns: Columns,
    /// The columns' names, if the text has a header.
    pub header: Option<Vec<String>>,
}

impl Fields {
    /// Describes the columns in words. If weight or time is missing and the header has other columns, it also lists the
    /// columns that are not read.
    pub fn describe(&self) -> String {
        let Columns { user, item, weight, time, .. } = self.columns;
        let of = |(what, at): (&str, Option<usize>)| match (at, &self.header) {
            (None, _) => format!("no {what}"),
            (Some(at), None) => format!("{what} from field {}", at + 1),
            (Some(at), Some(names)) => format!("{what} from {}", names[at]),
        };
        let read = [Some(user), Some(item), weight, time];
        let mut told: Vec<String> = WHATS.into_iter().zip(read).map(of).collect();
        let names = self.header.iter().flatten().enumerate();
        let unread: Vec<&str> = names.filter(|(at, _)| !read.contains(&Some(*at))).map(|(_, name)| &**name).collect();
        if read.contains(&None) && !unread.is_empty() {
            told.push(format!("nothing from {} (--columns says which column has what)", unread.join(", ")));
        }
        told.join(", ")
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Separator {
    Byte(u8),
    Colons,
    Spaces,
}

impl Separator {
    /// The separator that splits the line into the most fields. Among equals commas win. Spaces come last, since names
    /// have spaces too.
    pub fn of(line: &str) -> Separator {
        let count = |separator: Separator| separator.split(line).len();
        let others = [Separator::Byte(b';'), Separator::Colons, Separator::Byte(b'\t'), Separator::Byte(b',')];
        let best = others.into_iter().max_by_key(|&other| count(other)).unwrap_or(Separator::Spaces);
        let most = count(best);
        if most == 1 || fields_by_spaces(line) > most { Separator::Spaces } else { best }
    }

    pub fn split(self, line: &str) -> Vec<String> {
        match self {
            Separator::Byte(byte) => {
                let mut lines = csv::ReaderBuilder::new();
                let mut lines = lines.delimiter(byte).has_headers(false).from_reader(line.as_bytes());
                let record = lines.byte_records().next().and_then(Result::ok).unwrap_or_default();
                record.iter().map(|field| String::from_utf8_lossy(field).into_owned()).collect()
            }
            Separator::Colons => line.split("::").map(str::to_owned).collect(),
            Separator::Spaces => line.split_whitespace().map(str::to_owned).collect(),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Separator::Byte(b'\t') => "tabs",
            Separator::Byte(b';') => "semicolons",
            Separator::Byte(_) => "commas",
            Separator::Colons => "::",
            Separator::Spaces => "spaces",
        }
    }
}

/// The number of fields between spaces if the line looks separated by spaces, otherwise 0: two ids without another
/// separator, then only numbers, with a decimal point or comma.
fn fields_by_spaces(line: &str) -> usize {
    let fields: Vec<&str> = line.split(' ').filter(|field| !field.is_empty()).collect();
    let (ids, numbers) = fields.split_at(fields.len().min(2));
    let has_other = |id: &&str| id.contains([',', ';', '\t']) || id.contains("::");
    let is_number = |text: &&str| text.trim().replace(',', ".").parse::<f64>().is_ok();
    if ids.iter().any(has_other) || !numbers.iter().all(is_number) { 0 } else { fields.len() }
}

/// Whether a line begins a JSON value. A brace alone is not enough, since an id may begin with one.
pub fn is_json(line: &str) -> bool {
    let rest = line.trim().strip_prefix(['{', '[']).map(str::trim_start);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['"', '\'', '{', '[']))
}

/// Whether the first of several lines of two fields is a header with unknown names.
///
/// It is if it has no integer and all other lines have only integers, or if one of its words is a known name that
/// occurs as no id in the other lines.
pub fn is_unknown_header(lines: &[Vec<String>]) -> bool {
    let is_whole = |field: &String| !field.trim().is_empty() && field.trim().bytes().all(|byte| byte.is_ascii_digit());
    let Some((first, others)) = lines.split_first() else { return false };
    let is_known = |at: usize, names: &str| {
        let word = word(&first[at]);
        names.split_whitespace().any(|name| is_named(&word, name, "id"))
            && !others.iter().any(|fields| fields.get(at) == Some(&first[at]))
    };
    first.len() == 2
        && !others.is_empty()
        && !first.iter().any(is_whole)
        && others.iter().all(|fields| fields.len() == 2)
        && (others.iter().flatten().all(is_whole) || is_known(0, USERS) || is_known(1, ITEMS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_parts_a_line_into_the_most_fields_separates() {
        for (line, want) in [
            ("u1;i1;4,5", "semicolons"),
            ("u1;i1;4,5;1000", "semicolons"),
            ("u1;i1,5", "commas"),
            ("u1,Star Wars", "commas"),
            ("u1,The Lord of the Rings,5", "commas"),
            ("Jean Luc Picard,Star Wars", "commas"),
            ("\"Smith; John; Jr.; M.D.\",\"a; b\",5", "commas"),
            ("u 1\ti1\t4\t1000", "tabs"),
            ("u 1\t17", "tabs"),
            ("u1\ti1\t4,5", "tabs"),
            ("u1::i1::4,5::1", "::"),
            ("1 2 3,5 100", "spaces"),
            ("1  2", "spaces"),
            ("user item rating", "spaces"),
            ("user:1,item:1", "commas"),
            ("alone", "spaces"),
        ] {
            assert_eq!(Separator::of(line).name(), want, "{line}");
        }
    }
}
