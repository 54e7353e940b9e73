//! Reads the numbers of NumPy arrays, whatever their type.

use std::io::Read;

use half::f16;
use npyz::{DType, Deserialize, NpyFile, TypeChar};

/// An array in a file, or in an archive.
pub type Entry<'a> = NpyFile<Box<dyn Read + 'a>>;

/// The type of an array's numbers, their size in bytes, and NumPy's name of the type.
pub fn kind(npy: &Entry) -> (Option<TypeChar>, u64, String) {
    let descr = npy.dtype().descr();
    match npy.dtype() {
        DType::Plain(ty) => (Some(ty.type_char()), ty.size_field(), descr),
        _ => (None, 0, descr),
    }
}

/// All numbers of an array, each converted by `of`.
pub fn all<T: Deserialize, U>(npy: Entry, of: impl Fn(T) -> U) -> Result<Vec<U>, String> {
    Ok(npy.into_vec::<T>().map_err(|error| error.to_string())?.into_iter().map(of).collect())
}

/// The numbers of an array of integers.
pub fn integers(npy: Entry) -> Result<Vec<i64>, String> {
    use TypeChar::{Int, Uint};
    let (kind, bytes, descr) = kind(&npy);
    match (kind, bytes) {
        (Some(Int), 1) => all::<i8, _>(npy, i64::from),
        (Some(Int), 2) => all::<i16, _>(npy, i64::from),
        (Some(Int), 4) => all::<i32, _>(npy, i64::from),
        (Some(Int), 8) => all::<i64, _>(npy, i64::from),
        (Some(Uint), 1) => all::<u8, _>(npy, i64::from),
        (Some(Uint), 2) => all::<u16, _>(npy, i64::from),
        (Some(Uint), 4) => all::<u32, _>(npy, i64::from),
        // Values from 2^63 on become negative. Ids that differ still differ, and no row or column of a matrix has such
        // a number.
        (Some(Uint), 8) => all::<u64, _>(npy, |one| one as i64),
        _ => Err(format!("expected int8 to int64 or uint8 to uint64, found {descr}")),
    }
}

/// The numbers of an array. Integers up to 2^53 are exact.
pub fn numbers(npy: Entry) -> Result<Vec<f64>, String> {
    use TypeChar::{Bool, Float, Int, Uint};
    let (kind, bytes, descr) = kind(&npy);
    match (kind, bytes) {
        (Some(Float), 2) => all::<f16, _>(npy, f64::from),
        (Some(Float), 4) => all::<f32, _>(npy, f64::from),
        (Some(Float), 8) => all::<f64, _>(npy, f64::from),
        (Some(Uint), 8) => all::<u64, _>(npy, |one| one as f64),
        (Some(Int | Uint), _) => Ok(integers(npy)?.into_iter().map(|one| one as f64).collect()),
        (Some(Bool), 1) => all::<bool, _>(npy, f64::from),
        _ => {
            let expected = "expected float16 to float64, int8 to int64, uint8 to uint64 or bool";
            Err(format!("{expected}, found {descr}"))
        }
    }
}
