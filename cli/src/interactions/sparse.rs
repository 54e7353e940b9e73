//! Interactions as a sparse matrix, users by items: MatrixMarket's coordinates and SciPy's `save_npz` of a `csr_matrix`.

use std::fs::File;
use std::io::{BufRead, Read};

use npyz::{DType, NpyFile, TypeChar};
use zip::ZipArchive;

use super::Rules;
use crate::npy::{Entry, integers, numbers};

/// Row, column and value of each entry, and how many rows and columns there are.
#[derive(Debug, Default, PartialEq)]
pub struct Matrix {
    pub shape: [usize; 2],
    pub entries: Vec<(u32, u32, f32)>,
    /// The number that the file gives the first row and the first column.
    pub first: usize,
    /// Whether it tells the entries' values.
    pub has_values: bool,
}

/// How a file of MatrixMarket begins.
pub const BANNER: &[u8] = b"%%MatrixMarket";

/// Ids are 32 bits.
fn checked([rows, cols]: [usize; 2]) -> Result<[usize; 2], String> {
    let most = u32::MAX as usize;
    match rows.max(cols) <= most {
        true => Ok([rows, cols]),
        false => Err(format!("expected at most {most} rows and columns, found {rows} x {cols}")),
    }
}

/// `%%MatrixMarket matrix coordinate real|integer|pattern general`, comments, `rows columns entries`, then `row column [value]`, counted from 1.
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

/// What `scipy.sparse.save_npz` writes of a `csr_matrix` or `csr_array`.
pub fn csr(file: File, rules: &Rules) -> Result<Matrix, String> {
    let mut archive = ZipArchive::new(file).map_err(|error| format!("expected an .npz file, found: {error}"))?;
    let format = array(&mut archive, "format", |npy| {
        let DType::Plain(ty) = npy.dtype() else { return Err("expected a word".into()) };
        let is_bytes = matches!(ty.type_char(), TypeChar::ByteStr);
        let words: Vec<Vec<u8>> =
            if is_bytes { npy.into_vec().map_err(|error| error.to_string())? } else { Vec::new() };
        Ok(words.first().map(|word| String::from_utf8_lossy(word).into_owned()).unwrap_or_default())
    })?;
    if format != "csr" {
        return Err(format!("expected a matrix in the format csr, found {format:?}; SciPy's .tocsr() converts"));
    }
    let shape = array(&mut archive, "shape", integers)?;
    let [rows, cols] = shape[..] else { return Err(format!("expected two numbers as shape, found {shape:?}")) };
    if rows < 0 || cols < 0 {
        return Err(format!("expected a shape of numbers of at least 0, found {rows} x {cols}"));
    }
    let shape = checked([rows, cols].map(|size| size as usize))?;
    let starts = array(&mut archive, "indptr", integers)?;
    let columns = array(&mut archive, "indices", integers)?;
    let values = array(&mut archive, "data", numbers)?;
    if starts.len() != shape[0] + 1 || columns.len() != values.len() {
        let expected = format!("expected {} numbers in indptr and as many in indices as in data", shape[0] + 1);
        return Err(format!("{expected}, found {}, {} and {}", starts.len(), columns.len(), values.len()));
    }
    let [first, last] = [starts[0], starts[shape[0]]];
    if first != 0 || last != values.len() as i64 {
        return Err(format!("expected indptr from 0 to {}, found {first} to {last}", values.len()));
    }
    let mut matrix = Matrix { shape, entries: Vec::with_capacity(values.len()), first: 0, has_values: true };
    for (row, ends) in starts.windows(2).enumerate() {
        let (first, end) = (ends[0], ends[1]);
        if first < 0 || first > end || end as usize > values.len() {
            let expected = format!("expected indptr to rise from 0 to {}", values.len());
            return Err(format!("row {row}: {expected}, found {first} to {end}"));
        }
        for at in first as usize..end as usize {
            let column = columns[at];
            if column < 0 || column as usize >= shape[1] {
                return Err(format!("row {row}: expected a column from 0 to {}, found {column}", shape[1].max(1) - 1));
            }
            let value = rules.weight(values[at]).map_err(|what| format!("row {row}: {what}"))?;
            matrix.entries.push((row as u32, column as u32, value));
        }
    }
    Ok(matrix)
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
