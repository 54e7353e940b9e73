//! Pairs to train on: the bundled digits, or two .npy files.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, ErrorKind};
use std::path::Path;

use npyz::{DType, NpyFile, Order, TypeChar};
use wgloss::train::Pairs;

use crate::failure::Failure;
use crate::sparse;

const DIGITS: &str = include_str!("../../data/digits.csv");
/// Pixels of an image, 8 × 8, and the largest value of one.
const PIXELS: usize = 64;
const BRIGHTEST: f32 = 16.0;

/// The upper halves of the images are the queries, the lower halves of the same images the keys; pixels from 0 to 1.
pub fn digits() -> Result<Pairs, Failure> {
    let mut halves = [Vec::new(), Vec::new()];
    let mut lines = csv::ReaderBuilder::new().has_headers(false).from_reader(DIGITS.as_bytes());
    for line in lines.deserialize::<Vec<u8>>() {
        let line = line.map_err(|error| Failure::input(format!("the bundled digits: {error}")))?;
        for (at, &value) in line[..PIXELS].iter().enumerate() {
            halves[at * 2 / PIXELS].push(f32::from(value) / BRIGHTEST);
        }
    }
    let [queries, keys] = halves;
    Ok(Pairs::new(queries, PIXELS / 2, keys, PIXELS / 2)?)
}

/// Row i of one file belongs to row i of the other.
pub fn files(queries: &Path, keys: &Path) -> Result<Pairs, Failure> {
    let ((query_data, query_cols), (key_data, key_cols)) = (matrix(queries)?, matrix(keys)?);
    let (query_rows, key_rows) = (query_data.len() / query_cols, key_data.len() / key_cols);
    if query_rows != key_rows {
        let expected = format!("expected as many rows as {} has, {query_rows}", queries.display());
        return Err(Failure::input(format!("{}: {expected}, found {key_rows}", keys.display())));
    }
    Pairs::new(query_data, query_cols, key_data, key_cols).map_err(|error| {
        let is_of_queries = matches!(&error, wgloss::Error::Data { what, .. } if what == "queries");
        of_file(if is_of_queries { queries } else { keys }, error)
    })
}

/// What is wrong with the numbers of a file.
pub fn of_file(path: &Path, error: wgloss::Error) -> Failure {
    match error {
        wgloss::Error::Data { expected, found, .. } => {
            Failure::input(format!("{}: expected {expected}, found {found}", path.display()))
        }
        error => error.into(),
    }
}

/// The whole numbers of an [n] array, numbered in the order of their first appearance.
pub fn ids(path: &Path) -> Result<Vec<u32>, Failure> {
    let refuse = |what: String| Failure::input(format!("--ids {}: {what}", path.display()));
    let unreadable = |error: std::io::Error| refuse(format!("expected a .npy file of whole numbers, found: {error}"));
    let file = File::open(path).map_err(unreadable)?;
    let size = file.metadata().map_err(unreadable)?.len();
    let reader: Box<dyn std::io::Read> = Box::new(BufReader::new(file));
    let npy = NpyFile::new(reader).map_err(unreadable)?;
    match npy.shape()[..] {
        [count] if count <= size => {}
        [count] => {
            return Err(refuse(format!(
                "expected the {count} numbers that its header announces, found a file of {size} bytes"
            )));
        }
        _ => return Err(refuse(format!("expected an array of shape [n], found {:?}", npy.shape()))),
    }
    let mut numbers = HashMap::new();
    let ids = sparse::integers(npy).map_err(refuse)?.into_iter().map(|id| {
        let next = numbers.len() as u32;
        *numbers.entry(id).or_insert(next)
    });
    Ok(ids.collect())
}

/// The numbers of an [n, d] array of float32 or float16, row by row, and d.
fn matrix(path: &Path) -> Result<(Vec<f32>, usize), Failure> {
    let name = path.display();
    let broken = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => Failure::input(format!("{name}: expected a .npy file, found none of that name")),
        _ => Failure::input(format!("{name}: expected a readable .npy file, found: {error}")),
    };
    let file = File::open(path).map_err(broken)?;
    let size = file.metadata().map_err(broken)?.len();
    let npy = NpyFile::new(BufReader::new(file)).map_err(broken)?;
    let (shape, order) = (npy.shape().to_vec(), npy.order());
    let [rows, cols] = shape[..] else {
        return Err(Failure::input(format!("{name}: expected an array of shape [n, d], found {shape:?}")));
    };
    if rows == 0 || cols == 0 {
        return Err(Failure::input(format!("{name}: expected at least one row and one column, found {rows} x {cols}")));
    }
    let width = match npy.dtype() {
        DType::Plain(ty) if ty.type_char() == TypeChar::Float => ty.size_field(),
        _ => 0,
    };
    let short = || {
        let expected = format!("expected the {rows} x {cols} numbers that its header announces");
        Failure::input(format!("{name}: {expected}, found a file of {size} bytes"))
    };
    // Asked before the numbers are read: a header may announce more than memory holds.
    if rows.checked_mul(cols).and_then(|count| count.checked_mul(width)).is_none_or(|bytes| bytes > size) {
        return Err(short());
    }
    let unread = |error: std::io::Error| if error.kind() == ErrorKind::UnexpectedEof { short() } else { broken(error) };
    let data = match width {
        4 => npy.into_vec::<f32>().map_err(unread)?,
        2 => npy.into_vec::<half::f16>().map_err(unread)?.into_iter().map(f32::from).collect(),
        _ => {
            let found = npy.dtype().descr();
            return Err(Failure::input(format!(
                "{name}: expected float32 or float16, found {found}; numpy's .astype(\"float32\") converts"
            )));
        }
    };
    let (rows, cols) = (rows as usize, cols as usize);
    match order {
        Order::C => Ok((data, cols)),
        Order::Fortran => {
            let by_row = (0..rows).flat_map(|row| data[row..].iter().step_by(rows)).copied().collect();
            Ok((by_row, cols))
        }
    }
}
