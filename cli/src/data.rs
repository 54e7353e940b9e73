//! Pairs to train on: the bundled digits, or two .npy files.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Seek};
use std::path::Path;

use npyz::{NpyFile, NpyHeader, Order, TypeChar};
use wgloss::train::Pairs;

use crate::failure::Failure;
use crate::npy;

const DIGITS: &str = include_str!("../../data/digits.csv");
/// Pixels of an image (8 × 8), and the largest value of a pixel.
const PIXELS: usize = 64;
const BRIGHTEST: f32 = 16.0;
/// Rows with a mean length below this train badly. The gradient of the bias, which a map adds to all rows, grows as the
/// rows get shorter, and soon the bias outweighs the rows.
const SHORT: f64 = 0.3;

/// The bundled digits. The upper halves of the images are the queries, the lower halves of the same images the keys.
/// Pixels are scaled to the range from 0 to 1.
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

/// Pairs from two files. Row i of one file belongs to row i of the other.
pub fn files(queries: &Path, keys: &Path) -> Result<Pairs, Failure> {
    let ((query_data, query_cols), (key_data, key_cols)) = (matrix(queries)?, matrix(keys)?);
    let (query_rows, key_rows) = (query_data.len() / query_cols, key_data.len() / key_cols);
    if query_rows != key_rows {
        let expected = format!("expected as many rows as {} has, {query_rows}", queries.display());
        return Err(Failure::input(format!("{}: {expected}, found {key_rows}", keys.display())));
    }
    let short = [(queries, &query_data, query_cols), (keys, &key_data, key_cols)].map(|(path, data, cols)| {
        let length = |row: &[f32]| row.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt();
        (path, data.chunks(cols).map(length).sum::<f64>() / query_rows as f64)
    });
    let pairs = Pairs::new(query_data, query_cols, key_data, key_cols).map_err(|error| {
        let is_of_queries = matches!(&error, wgloss::Error::Data { what, .. } if what == "queries");
        of_file(if is_of_queries { queries } else { keys }, error)
    })?;
    for (path, mean) in short.into_iter().filter(|(_, mean)| *mean < SHORT) {
        say!(
            "note:    rows of {} are {mean:.1e} long on average: the maps' biases outweigh them; divide them by that",
            path.display()
        );
    }
    Ok(pairs)
}

/// The failure for a file whose data the library refuses.
pub fn of_file(path: &Path, error: wgloss::Error) -> Failure {
    match error {
        wgloss::Error::Data { expected, found, .. } => refused(path, format!("expected {expected}, found {found}")),
        error => error.into(),
    }
}

/// The integers of an [n] array, renumbered in the order of their first appearance.
pub fn ids(path: &Path) -> Result<Vec<u32>, Failure> {
    let (npy, [_]) = open(path, "[n]")?;
    let mut numbers = HashMap::new();
    let ids = npy::integers(npy).map_err(|what| refused(path, what))?.into_iter().map(|id| {
        let next = numbers.len() as u32;
        *numbers.entry(id).or_insert(next)
    });
    Ok(ids.collect())
}

/// The numbers of an [n] array.
pub fn weights(path: &Path) -> Result<Vec<f32>, Failure> {
    let (npy, [_]) = open(path, "[n]")?;
    Ok(npy::numbers(npy).map_err(|what| refused(path, what))?.into_iter().map(|weight| weight as f32).collect())
}

/// The numbers of an [n, d] array of float16, float32 or float64, row by row, as f32, and d.
pub fn matrix(path: &Path) -> Result<(Vec<f32>, usize), Failure> {
    let (npy, [rows, cols]) = open(path, "[n, d]")?;
    if rows == 0 || cols == 0 {
        return Err(refused(path, format!("expected at least one row and one column, found {rows} x {cols}")));
    }
    let (kind, width, descr) = npy::kind(&npy);
    let order = npy.order();
    let data = match (kind, width) {
        (Some(TypeChar::Float), 4) => npy::all::<f32, _>(npy, |value| value),
        (Some(TypeChar::Float), 2) => npy::all::<half::f16, _>(npy, f32::from),
        (Some(TypeChar::Float), 8) => npy::all::<f64, _>(npy, |value| value as f32),
        (Some(TypeChar::Int | TypeChar::Uint | TypeChar::Bool), _) => {
            Err(format!("expected float16, float32 or float64, found {descr}; numpy's .astype(\"float32\") converts"))
        }
        _ => Err(format!("expected float16, float32 or float64, found {descr}")),
    };
    let data = data.map_err(|what| refused(path, what))?;
    match order {
        Order::C => Ok((data, cols)),
        Order::Fortran => {
            let by_row = (0..rows).flat_map(|row| data[row..].iter().step_by(rows)).copied().collect();
            Ok((by_row, cols))
        }
    }
}

/// Opens a .npy file of N dimensions, after a check that it has all numbers that its header announces.
fn open<const N: usize>(path: &Path, shape: &str) -> Result<(npy::Entry<'static>, [usize; N]), Failure> {
    let broken = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => refused(path, "expected a .npy file, found none of that name".into()),
        _ => refused(path, format!("expected a readable .npy file, found: {error}")),
    };
    let file = File::open(path).map_err(broken)?;
    let size = file.metadata().map_err(broken)?.len();
    let mut file = BufReader::new(file);
    let header = NpyHeader::from_reader(&mut file).map_err(broken)?;
    let start = file.stream_position().map_err(broken)?;
    let data: Box<dyn Read> = Box::new(file);
    let npy = NpyFile::with_header(header, data);
    let found = npy.shape().to_vec();
    let Ok(announced) = <[u64; N]>::try_from(&found[..]) else {
        return Err(refused(path, format!("expected an array of shape {shape}, found {found:?}")));
    };
    // Checked before the numbers are read, because a header may announce more than memory holds.
    let (_, width, _) = npy::kind(&npy);
    let bytes = announced.iter().try_fold(width.max(1), |bytes, &count| bytes.checked_mul(count));
    if bytes.is_none_or(|bytes| bytes > size - start) {
        let numbers = announced.map(|count| count.to_string()).join(" x ");
        return Err(refused(
            path,
            format!("expected the {numbers} numbers that its header announces, found a file of {size} bytes"),
        ));
    }
    Ok((npy, announced.map(|count| count as usize)))
}

fn refused(path: &Path, what: String) -> Failure {
    Failure::input(format!("{}: {what}", path.display()))
}
