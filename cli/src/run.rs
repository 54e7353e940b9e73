//! The folder of a training run: weights, metrics and a plot.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView, serialize};
use wgloss::train::{End, Model};

use crate::failure::Failure;

pub const WEIGHTS: &str = "adapter.safetensors";
/// The embeddings of users and items, and the ids of their rows.
pub const EMBEDDINGS: &str = "embeddings.safetensors";
pub const IDS: &str = "ids.json";
pub const METRICS: &str = "metrics.jsonl";
pub const PLOT: &str = "training.svg";
/// The objective after each half of a sweep.
pub const OBJECTIVE: &str = "objective.svg";
pub const FOLDING: &str = "folding.svg";
/// The held-out interactions: who took what.
pub const HELD_OUT: &str = "held_out.csv";
/// All files that runs leave.
const FILES: [&str; 8] = [WEIGHTS, EMBEDDINGS, IDS, HELD_OUT, PLOT, OBJECTIVE, FOLDING, METRICS];

/// The folder of a run.
///
/// An earlier run that is to be replaced stays until the new one has a result. A run that ends without a result leaves
/// nothing behind.
pub struct Run {
    folder: PathBuf,
    /// Lines of metrics that are held back until the earlier run is removed.
    metrics: String,
    /// Whether this run created the folder.
    made: bool,
    /// Whether the files of an earlier run are still there.
    replaces: bool,
    has_result: bool,
}

impl Run {
    /// A folder that can be written to and holds no other run: `wish`, or the first of `default`, `default-2`, … that is not there. With `overwrite` the files of
    /// the run that `wish` holds are removed once there is a result, so that nothing of it stands beside what the new one leaves.
    pub fn open(wish: Option<&Path>, default: &str, overwrite: bool) -> Result<Run, Failure> {
        let folder = match wish {
            Some(folder) => folder.to_owned(),
            None => free(default)?,
        };
        let replaces = earlier(&folder);
        if let (Some(file), false) = (replaces, overwrite) {
            let found = format!("found {file} of an earlier run there; --overwrite replaces it");
            return Err(Failure::input(format!(
                "--out {}: expected a folder without a run, {found}",
                folder.display()
            )));
        }
        let made = !folder.exists() || wish.is_none();
        let writable = fs::create_dir_all(&folder).and_then(|()| tempfile::NamedTempFile::new_in(&folder).map(drop));
        writable.map_err(|error| not_a_folder(&folder, &error))?;
        if replaces.is_none() {
            // Another run that begins in the same folder finds this one.
            let claimed = fs::OpenOptions::new().write(true).create_new(true).open(folder.join(METRICS));
            claimed.map_err(|error| not_a_folder(&folder, &error))?;
        }
        Ok(Run { folder, metrics: String::new(), made, replaces: replaces.is_some(), has_result: false })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Writes files of the run that belong together and are results. All are on the disk before the first takes its
    /// place. The other files of an earlier run are removed afterwards.
    pub fn write(&mut self, files: &[(&str, &[u8])]) -> Result<(), Failure> {
        let metrics = self.replaces.then(|| (METRICS, self.metrics.clone().into_bytes()));
        let metrics = metrics.iter().map(|(name, bytes)| (*name, &bytes[..]));
        let files: Vec<(&str, &[u8])> = files.iter().copied().chain(metrics).collect();
        let staged: Vec<Staged> =
            files.iter().map(|(name, bytes)| Staged::new(&self.path(name), bytes)).collect::<Result<_, _>>()?;
        staged.into_iter().try_for_each(Staged::put)?;
        self.has_result = true;
        if core::mem::take(&mut self.replaces) {
            let is_old = |name: &&&str| !files.iter().any(|(new, _)| new == *name);
            FILES.iter().filter(is_old).try_for_each(|name| remove(&self.path(name)))?;
        }
        Ok(())
    }

    /// Declares that the logged metrics are a result.
    pub fn begin(&mut self) -> Result<(), Failure> {
        self.write(&[])
    }

    /// Writes a picture, if it could be drawn.
    pub fn picture(&mut self, name: &str, svg: Result<String, Box<dyn std::error::Error>>) -> Result<(), Failure> {
        let svg = svg.map_err(|error| Failure { message: format!("{name}: {error}"), code: 1 })?;
        self.write(&[(name, svg.as_bytes())])
    }

    /// Adds a line to the metrics.
    pub fn log(&mut self, line: &serde_json::Value) -> Result<(), Failure> {
        let line = format!("{line}\n");
        if self.replaces {
            self.metrics.push_str(&line);
            return Ok(());
        }
        self.append(&line)
    }

    fn append(&self, lines: &str) -> Result<(), Failure> {
        let path = self.path(METRICS);
        let written = fs::OpenOptions::new().create(true).append(true).open(&path);
        written.and_then(|mut file| file.write_all(lines.as_bytes())).map_err(|error| not_written(&path, &error))
    }

    /// Writes the weights of a model.
    pub fn weights(&mut self, model: &Model, about: &serde_json::Value) -> Result<(), Failure> {
        let bytes = safetensors(WEIGHTS, &model.tensors(), about)?;
        self.write(&[(WEIGHTS, &bytes)])
    }
}

/// The bytes of a safetensors file: names, shapes and float32 numbers of the tensors, with `about` as metadata under
/// the key `wgloss`.
pub fn safetensors(
    file: &str,
    tensors: &[(String, Vec<usize>, &[f32])],
    about: &serde_json::Value,
) -> Result<Vec<u8>, Failure> {
    let bytes: Vec<Vec<u8>> =
        tensors.iter().map(|(.., data)| data.iter().flat_map(|value| value.to_le_bytes()).collect()).collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        TensorView::new(Dtype::F32, shape.clone(), bytes).map(|view| (name.as_str(), view))
    });
    let broken = |error| Failure { message: format!("{file}: {error}"), code: 1 };
    let views = views.collect::<Result<Vec<_>, _>>().map_err(broken)?;
    // One entry only: the order of the map is random, and equal runs must give equal files.
    let metadata = HashMap::from([("wgloss".to_owned(), about.to_string())]);
    serialize(views, Some(metadata)).map_err(broken)
}

/// The shape and the numbers of a float32 tensor.
pub fn tensor(tensors: &SafeTensors, name: &str) -> Result<(Vec<usize>, Vec<f32>), String> {
    let tensor = tensors.tensor(name).map_err(|error| error.to_string())?;
    if tensor.dtype() != Dtype::F32 {
        return Err(format!("{name} of {:?}", tensor.dtype()));
    }
    let numbers = tensor.data().chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]));
    Ok((tensor.shape().to_vec(), numbers.collect()))
}

impl Drop for Run {
    fn drop(&mut self) {
        if self.has_result {
            return;
        }
        // A failure to remove something does no harm.
        if !self.replaces {
            let _ = fs::remove_file(self.path(METRICS));
        }
        if self.made {
            let _ = fs::remove_dir(&self.folder);
        }
    }
}

/// The reason why training ended, as a word for the log.
pub fn word(end: &End) -> &'static str {
    match end {
        End::Finished => "finished",
        End::Stopped => "stopped",
        End::Diverged(_) => "diverged",
    }
}

fn not_a_folder(folder: &Path, error: &io::Error) -> Failure {
    Failure::input(format!("--out {}: expected a folder to write to, found: {error}", folder.display()))
}

/// Creates the first of `default`, `default-2`, … that does not exist. Runs that begin at the same time get different folders.
fn free(default: &str) -> Result<PathBuf, Failure> {
    let of = |count: u32| if count == 1 { default.into() } else { PathBuf::from(format!("{default}-{count}")) };
    for folder in (1..).map(of) {
        let parent = folder.parent().unwrap_or(Path::new("."));
        match fs::create_dir_all(parent).and_then(|()| fs::create_dir(&folder)) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(not_a_folder(&folder, &error)),
        }
    }
    Err(Failure::input(format!("--out: expected a folder, since {default} and its successors are taken")))
}

/// A file of an earlier run.
fn earlier(folder: &Path) -> Option<&'static str> {
    FILES.into_iter().find(|name| folder.join(name).exists())
}

/// The bytes of a CSV file, with a header. `name` is the file's name for errors.
pub fn csv<const N: usize>(
    name: &str,
    heads: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> Result<Vec<u8>, Failure> {
    let mut lines = csv::Writer::from_writer(Vec::new());
    let written = lines.write_record(heads).and_then(|()| rows.into_iter().try_for_each(|row| lines.write_record(row)));
    written.map_err(|error| Failure { message: format!("{name}: {error}"), code: 1 })?;
    lines.into_inner().map_err(|error| Failure { message: error.to_string(), code: 1 })
}

/// Writes a file in the same folder first, then moves it into place, so that it is either complete or not there at all.
///
/// If `path` is a link, the file that it leads to is replaced. If it is not a regular file (a pipe, for example), the
/// bytes are written to it.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    if is_special(path) {
        let written = fs::OpenOptions::new().write(true).open(path).and_then(|mut file| file.write_all(bytes));
        return written.map_err(|error| not_written(path, &error));
    }
    Staged::new(path, bytes)?.put()
}

/// A file that is already on the disk, next to the place that it will take.
struct Staged {
    file: tempfile::NamedTempFile,
    place: PathBuf,
}

impl Staged {
    fn new(path: &Path, bytes: &[u8]) -> Result<Staged, Failure> {
        let place = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let written = || -> io::Result<tempfile::NamedTempFile> {
            let mut file = beside(&place)?;
            file.write_all(bytes)?;
            file.as_file().sync_all()?;
            Ok(file)
        };
        let file = written().map_err(|error| not_written(path, &error))?;
        Ok(Staged { file, place })
    }

    fn put(self) -> Result<(), Failure> {
        let Staged { file, place } = self;
        file.persist(&place).map(drop).map_err(|error| not_written(&place, &error.error))
    }
}

/// Removes a file if it exists.
fn remove(path: &Path) -> Result<(), Failure> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Failure { message: format!("{}: cannot be removed: {error}", path.display()), code: 2 })
        }
        _ => Ok(()),
    }
}

/// Checks that the file that `--out` names may be written. For use before long work.
pub fn check_output(path: &Path, overwrite: bool) -> Result<(), Failure> {
    if !overwrite && path.is_file() {
        let found = "found one there; --overwrite replaces it";
        return Err(Failure::input(format!("--out {}: expected no such file, {found}", path.display())));
    }
    check_writable(path)
}

/// Refuses to overwrite a file that the command reads.
pub fn keeps(out: &Path, inputs: &[PathBuf]) -> Result<(), Failure> {
    let place = fs::canonicalize(out);
    match inputs
        .iter()
        .find(|input| place.as_ref().is_ok_and(|out| fs::canonicalize(input).is_ok_and(|input| input == *out)))
    {
        Some(input) => {
            let found = format!("found {}, which is read", input.display());
            Err(Failure::input(format!("--out {}: expected another file than the inputs, {found}", out.display())))
        }
        None => Ok(()),
    }
}

/// Checks that [`write_file`] can write the file.
pub fn check_writable(path: &Path) -> Result<(), Failure> {
    if is_special(path) {
        return Ok(());
    }
    beside(path).map(drop).map_err(|error| not_written(path, &error))
}

fn is_special(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|about| !about.is_file() && !about.is_dir())
}

fn beside(path: &Path) -> io::Result<tempfile::NamedTempFile> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    tempfile::Builder::new().permissions(permissions()).tempfile_in(folder)
}

fn not_written(path: &Path, error: &io::Error) -> Failure {
    let why = error.to_string();
    // The rest of the message names the temporary file, which the user does not know.
    let why = why.split(" at path ").next().unwrap_or_default();
    Failure { message: format!("{}: cannot be written: {why}", path.display()), code: 2 }
}

/// Temporary files are private by default, but these files are to be shared.
#[cfg(unix)]
fn permissions() -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o644)
}

#[cfg(not(unix))]
fn permissions() -> fs::Permissions {
    // Outside Unix a new file takes the permissions of its folder, but the builder needs some value.
    fs::metadata(".").map(|folder| folder.permissions()).expect("the current folder can be looked at")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_earlier_run_is_removed_before_a_new_one_writes() {
        let folder = tempfile::tempdir().unwrap();
        let there = |name: &str| folder.path().join(name).exists();
        for name in FILES.iter().chain(&["notes.txt"]) {
            fs::write(folder.path().join(name), "").unwrap();
        }
        assert!(Run::open(Some(folder.path()), "", false).is_err() && FILES.iter().all(|name| there(name)));
        let mut run = Run::open(Some(folder.path()), "", true).unwrap();
        run.log(&serde_json::json!({})).unwrap();
        assert!(FILES.iter().all(|name| there(name)) && fs::read(folder.path().join(METRICS)).unwrap().is_empty());
        drop(run);
        assert!(FILES.iter().all(|name| there(name)), "a run without a result has removed another");
        let mut run = Run::open(Some(folder.path()), "", true).unwrap();
        run.log(&serde_json::json!({"line": 1})).unwrap();
        assert!(run.write(&[(PLOT, b"x"), ("notes.txt/no folder", b"")]).is_err());
        let whole = |name: &&str| fs::read(folder.path().join(name)).unwrap().is_empty();
        assert!(FILES.iter().all(whole), "a result that could not be written has removed another");
        run.write(&[(PLOT, b"x")]).unwrap();
        run.log(&serde_json::json!({"line": 2})).unwrap();
        drop(run);
        let left = [PLOT, METRICS, "notes.txt"];
        assert!(left.iter().all(|name| there(name)));
        assert!(!FILES.iter().any(|name| there(name) && !left.contains(name)));
        let metrics = fs::read_to_string(folder.path().join(METRICS)).unwrap();
        assert_eq!(metrics, "{\"line\":1}\n{\"line\":2}\n");
    }

    /// Runs that begin at the same time, before any has a result.
    #[test]
    fn runs_have_a_folder_each() {
        let folder = tempfile::tempdir().unwrap();
        let default = folder.path().join("runs/pairs").to_str().unwrap().to_owned();
        let (first, second) = (Run::open(None, &default, false).unwrap(), Run::open(None, &default, false).unwrap());
        assert_eq!([&first, &second].map(|run| run.folder.to_str().unwrap().replace(&default, "")), ["", "-2"]);
        let wish = folder.path().join("mine");
        let mine = Run::open(Some(&wish), "", false).unwrap();
        assert!(Run::open(Some(&wish), "", false).err().unwrap().message.contains("metrics.jsonl of an earlier run"));
        drop((first, second, mine));
        assert_eq!(fs::read_dir(folder.path().join("runs")).unwrap().count(), 0);
        assert!(!wish.exists());
    }

    #[test]
    fn a_run_without_a_result_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let new = folder.path().join("a/b");
        let mut run = Run::open(Some(&new), "", false).unwrap();
        run.log(&serde_json::json!({})).unwrap();
        assert!(new.join(METRICS).exists());
        drop(run);
        assert!(!new.exists() && folder.path().join("a").exists());
        for name in FILES {
            fs::create_dir_all(&new).unwrap();
            fs::write(new.join(name), "").unwrap();
            let refused = Run::open(Some(&new), "", false).err().unwrap().message;
            assert!(refused.contains(name), "{refused}");
            fs::remove_file(new.join(name)).unwrap();
        }
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_file_is_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        write_file(&link, b"new").unwrap();
        assert!(link.is_symlink() && fs::read(&file).unwrap() == b"new");
        let null = Path::new("/dev/null");
        check_writable(null).unwrap();
        write_file(null, b"nothing").unwrap();
        assert!(is_special(null));
    }
}
