//! Reads interactions from a sparse matrix, users by items: MatrixMarket's coordinate format and SciPy's `save_npz`.

use std::fs::File;
use std::io::{BufRead, Read};

use npyz::{DType, NpyFile, TypeChar};
use zip::ZipArchive;

use super::Rules;
use crate::npy::{Entry, integers, numbers};

/// A sparse matrix: its shape, and row, column and value of each entry.
#[derive(Debug, Default, PartialEq)]
pub struct Matrix {
    pub shape: [usize; 2],
    pub entries: Vec<(u32, u32, f32)>,
    /// The number of the first row and column in the file.
    pub first: usize,
    /// Whether the file has values for the entries.
    pub has_values: bool,
}

/// The first bytes of a MatrixMarket file.
pub const BANNER: &[u8] = b"%%MatrixMarket";

/// Checks that row and column numbers fit in 32 bits.
fn checked([rows, cols]: [usize; 2]) -> Result<[usize; 2], String> {
    let most = u32::MAX as usize;
    match rows.max(cols) <= most {
        true => Ok([rows, cols]),
        false => Err(format!("expected at most {most} rows and columns, found {rows} x {cols}")),
    }
}

/// Reads a MatrixMarket file: `%%MatrixMarket matrix coordinate real|integer|pattern general`, comments,
/// `rows columns entries`, then `row column [value]`, counted from 1.
///
/// Format: Boisvert, Pozo and Remington 1996, NISTIR 5935.
pub fn matrix_market(input: impl BufRead, rules: &Rules) -> Result<Matrix, String> {
    let mut lines = input.lines().enumerate();
    let mut next = || -> Result<Option<(usize, String)>, String> {
        match lines.next() {
            None => Ok(None),
            Some((at, line)) => Ok(Some((at + 1, line.map_err(|error| format!("line {}: {error}", at + 1))?))),
        }
    };
    let (_, banner) = next()?.unwrap_or_default();
    let words: Vec<String> = banner.split_whitespace().skip(1).map(str::to_lowercase).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let has_value = match words[..] {
        ["matrix", "coordinate", "real" | "integer", "general"] => true,
        ["matrix", "coordinate", "pattern", "general"] => false,
        _ => {
            let expected = "expected matrix coordinate, real, integer or pattern, general";
            return Err(format!("line 1: {expected}, found {}", words.join(" ")));
        }
    };
    let mut matrix = Matrix { first: 1, has_values: has_value, ..Matrix::default() };
    let mut announced = None;
    while let Some((number, line)) = next()? {
        if line.starts_with('%') || line.trim().is_empty() {
            continue;
        }
        let at = |what: String| format!("line {number}: {what}");
        let fields: Vec<&str> = line.split_whitespace().collect();
        let whole = |field: usize, what: &str| {
            let text = fields.get(field).copied().unwrap_or_default();
            text.parse::<usize>().map_err(|_| at(format!("expected a whole number as {what}, found {text:?}")))
        };
        let Some(count) = announced else {
            matrix.shape = checked([whole(0, "rows")?, whole(1, "columns")?]).map_err(at)?;
            let count = whole(2, "entries")?;
            matrix.entries.reserve(count.min(1 << 24));
            announced = Some(count);
            continue;
        };
        let place = [whole(0, "row")?, whole(1, "column")?];
        for (what, place, size) in [("row", place[0], matrix.shape[0]), ("column", place[1], matrix.shape[1])] {
            if place == 0 || place > size {
                return Err(at(format!("expected a {what} from 1 to {size}, found {place}")));
            }
        }
        let value = match has_value {
            false if fields.len() > 2 => {
                let found = format!("{} fields", fields.len());
                return Err(at(format!("expected row and column, since the first line says pattern, found {found}")));
            }
            false => 1.0,
            true => {
                let text = fields.get(2).copied().unwrap_or_default();
                text.parse().map_err(|_| at(format!("expected a number as value, found {text:?}")))?
            }
        };
        matrix.entries.push((place[0] as u32 - 1, place[1] as u32 - 1, rules.weight(value).map_err(at)?));
        if matrix.entries.len() > count {
            return Err(at(format!("expected the {count} entries that the file announces, found more")));
        }
    }
    let count = announced.ok_or("expected a line with rows, columns and entries, found none")?;
    match matrix.entries.len() {
        found if found == count => Ok(matrix),
        found => Err(format!("expected the {count} entries that the file announces, found {found}")),
    }
}

/// Reads what `scipy.sparse.save_npz` writes for a matrix or array in the formats csr, csc and coo.
pub fn npz(file: File, rules: &Rules) -> Result<Matrix, String> {
    let mut archive = ZipArchive::new(file).map_err(|error| format!("expected an .npz file, found: {error}"))?;
    let format = array(&mut archive, "format", |npy| {
        let DType::Plain(ty) = npy.dtype() else { return Err("expected a word".into()) };
        let is_bytes = matches!(ty.type_char(), TypeChar::ByteStr);
        let words: Vec<Vec<u8>> =
            if is_bytes { npy.into_vec().map_err(|error| error.to_string())? } else { Vec::new() };
        Ok(words.first().map(|word| String::from_utf8_lossy(word).into_owned()).unwrap_or_default())
    })?;
    if !["csr", "csc", "coo"].contains(&&*format) {
        let expected = "expected a matrix in the format csr, csc or coo";
        return Err(format!("{expected}, found {format:?}; SciPy's .tocsr() converts"));
    }
    let shape = array(&mut archive, "shape", integers)?;
    let [rows, cols] = shape[..] else { return Err(format!("expected two numbers as shape, found {shape:?}")) };
    if rows < 0 || cols < 0 {
        return Err(format!("expected a shape of numbers of at least 0, found {rows} x {cols}"));
    }
    let shape = checked([rows, cols].map(|size| size as usize))?;
    let values = array(&mut archive, "data", numbers)?;
    let mut read = |name| array(&mut archive, name, integers).and_then(|all| expect_as_many(name, all, values.len()));
    let [rows, columns] = match &*format {
        "csr" => {
            let columns = read("indices")?;
            [lines("row", array(&mut archive, "indptr", integers)?, shape[0], values.len())?, columns]
        }
        "csc" => {
            let rows = read("indices")?;
            [rows, lines("column", array(&mut archive, "indptr", integers)?, shape[1], values.len())?]
        }
        _ => [read("row")?, read("col")?],
    };
    let mut matrix = Matrix { shape, entries: Vec::with_capacity(values.len()), first: 0, has_values: true };
    for (at, value) in values.into_iter().enumerate() {
        let (row, column) = (rows[at], columns[at]);
        let of = |index: i64, size: usize| u32::try_from(index).ok().filter(|&index| (index as usize) < size);
        let refuse = |what: &str, size: usize, found: i64| match size {
            0 => format!("expected no {what}, found {found}"),
            _ => format!("expected a {what} from 0 to {}, found {found}", size - 1),
        };
        let row = of(row, shape[0]).ok_or_else(|| format!("entry {at}: {}", refuse("row", shape[0], row)))?;
        let column =
            of(column, shape[1]).ok_or_else(|| format!("row {row}: {}", refuse("column", shape[1], column)))?;
        let value = rules.weight(value).map_err(|what| format!("row {row}: {what}"))?;
        matrix.entries.push((row, column, value));
    }
    Ok(matrix)
}

fn expect_as_many(name: &str, all: Vec<i64>, values: usize) -> Result<Vec<i64>, String> {
    match all.len() == values {
        true => Ok(all),
        false => Err(format!("expected as many numbers in {name} as in data, {values}, found {}", all.len())),
    }
}

/// The row of each entry, from the positions (indptr) at which `rows` rows begin. Likewise for columns.
fn lines(what: &str, starts: Vec<i64>, rows: usize, values: usize) -> Result<Vec<i64>, String> {
    if starts.len() != rows + 1 {
        return Err(format!("expected {} numbers in indptr, found {}", rows + 1, starts.len()));
    }
    let [first, last] = [starts[0], starts[rows]];
    if first != 0 || last != values as i64 {
        return Err(format!("expected indptr from 0 to {values}, found {first} to {last}"));
    }
    let mut of_entries = Vec::with_capacity(values);
    for (row, ends) in starts.windows(2).enumerate() {
        let (first, end) = (ends[0], ends[1]);
        if first > end || end > last {
            return Err(format!("{what} {row}: expected indptr to rise from 0 to {values}, found {first} to {end}"));
        }
        of_entries.resize(end as usize, row as i64);
    }
    Ok(of_entries)
}

fn array<T>(
    archive: &mut ZipArchive<File>,
    name: &str,
    read: impl FnOnce(Entry) -> Result<T, String>,
) -> Result<T, String> {
    let file = archive.by_name(&npyz::npz::file_name_from_array_name(name));
    let file = file.map_err(|error| format!("expected an array {name}, as SciPy's save_npz writes, found: {error}"))?;
    let reader: Box<dyn Read> = Box::new(std::io::BufReader::new(file));
    let npy = NpyFile::new(reader).map_err(|error| format!("{name}: {error}"))?;
    read(npy).map_err(|error| format!("{name}: {error}"))
}
