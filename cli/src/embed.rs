//! `wgloss embed RUN`: embeds rows with the towers of a `train` run on pairs.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use npyz::WriterBuilder;
use safetensors::SafeTensors;
use wgloss::train::Model;
use wgloss::{normalize, reference};

use crate::data;
use crate::failure::Failure;
use crate::run::{self, WEIGHTS};
use crate::{progress, train};

#[derive(clap::Args)]
pub struct Arguments {
    /// The folder of a run of `train` on pairs.
    #[arg(value_name = "RUN")]
    folder: PathBuf,
    /// Rows as the run's queries: a .npy file of float16, float32 or float64, shape [n, d]. Either --queries or --keys is required.
    #[arg(long, value_name = "FILE", required_unless_present = "keys", conflicts_with = "keys")]
    queries: Option<PathBuf>,
    /// Rows as the run's keys.
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,
    /// Cut embeddings to this length and scale them to unit length again; for runs with --matryoshka [default: whole].
    #[arg(long)]
    length: Option<usize>,
    /// The adapter, by its number in `wgloss adapters` or a part of its name.
    #[arg(long)]
    adapter: Option<String>,
    /// Where the embeddings go: a .npy file, float32, shape [n, dim].
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Replace the file that --out names.
    #[arg(long)]
    overwrite: bool,
}

/// The number of rows embedded at a time. Progress is shown in between.
const AT_ONCE: usize = 1 << 16;

pub fn embed(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let (model, about) = load(&arguments.folder)?;
    let (tower, path, side) = match (&arguments.queries, &arguments.keys) {
        (Some(path), _) => (&model.query, path, "queries"),
        (_, Some(path)) => (&model.key, path, "keys"),
        _ => return Err(Failure::input("embed: expected --queries or --keys, found neither")),
    };
    let (inputs, dim) = (tower.layers().next().map_or(0, |layer| layer.inputs), tower.output.outputs);
    let length = arguments.length.unwrap_or(dim);
    if !(1..=dim).contains(&length) {
        return Err(Failure::input(format!("--length: expected from 1 to the run's width, {dim}, found {length}")));
    }
    let trained = about["matryoshka"].as_array().is_some_and(|all| all.contains(&length.into()));
    if length < dim && !trained {
        println!("note: the run was not trained for embeddings cut to {length}, as with --matryoshka {length}");
    }
    let (rows, cols) = data::matrix(path)?;
    if cols != inputs {
        let expected = format!("expected rows of {inputs} numbers, as the run's {side}");
        return Err(Failure::input(format!("{}: {expected}, found {cols}", path.display())));
    }
    run::keeps(&arguments.out, &[path.clone(), arguments.folder.join(WEIGHTS)])?;
    run::check_output(&arguments.out, arguments.overwrite)?;
    let gpu = train::open(arguments.adapter.as_deref())?;
    let count = rows.len() / cols;
    let bar = progress::bar(count as u64, "{pos}/{len}, {eta} left");
    let mut embedded = Vec::with_capacity(count * length);
    for part in rows.chunks(AT_ONCE * cols) {
        let whole = tower.embed(gpu.as_ref(), part).map_err(|error| data::of_file(path, error))?;
        embedded.extend(cut(whole, dim, length));
        bar.inc((part.len() / cols) as u64);
    }
    bar.finish_and_clear();
    run::write_file(&arguments.out, &npy(&embedded, [count, length])?)?;
    println!("wrote {}: {count} x {length}", arguments.out.display());
    Ok(ExitCode::SUCCESS)
}

/// The model, and what its record says of the run.
fn load(folder: &Path) -> Result<(Model, serde_json::Value), Failure> {
    let refuse = |found: String| {
        let expected = "expected what `wgloss train` leaves of pairs";
        Failure::input(format!("{}: {expected}, found {found}", folder.join(WEIGHTS).display()))
    };
    let bytes = std::fs::read(folder.join(WEIGHTS)).map_err(|error| refuse(error.to_string()))?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(|error| refuse(error.to_string()))?;
    let mut unfit = None;
    let find = |name: &str| match run::tensor(&tensors, name) {
        Ok(tensor) => Some(tensor),
        Err(found) => {
            unfit = unfit.take().or(tensors.tensor(name).is_ok().then_some(found));
            None
        }
    };
    let model = Model::from_tensors(find);
    if let Some(found) = unfit {
        return Err(refuse(format!("{found}, not F32")));
    }
    let model = model.map_err(|error| refuse(error.to_string()))?;
    if let Some((name, ..)) =
        model.tensors().iter().find(|(.., numbers)| !numbers.iter().all(|number| number.is_finite()))
    {
        return Err(refuse(format!("{name} with numbers that are not finite")));
    }
    for (side, tower) in [("query", &model.query), ("key", &model.key)] {
        if let Some(hidden) = tower.hidden.as_ref().filter(|hidden| hidden.outputs != tower.output.inputs) {
            let found = format!(
                "{side}.hidden of {} outputs before {side}.output of {} inputs",
                hidden.outputs, tower.output.inputs
            );
            return Err(refuse(found));
        }
    }
    let about = SafeTensors::read_metadata(&bytes)
        .ok()
        .and_then(|(_, header)| serde_json::from_str(header.metadata().as_ref()?.get("wgloss")?).ok());
    Ok((model, about.unwrap_or_default()))
}

/// The first `length` numbers of each row of `dim`, scaled to unit length.
fn cut(rows: Vec<f32>, dim: usize, length: usize) -> Vec<f32> {
    if length == dim {
        return rows;
    }
    let first: Vec<f64> = rows.chunks(dim).flat_map(|row| &row[..length]).map(|&value| value.into()).collect();
    let unit = reference::normalize::forward(&first, length, normalize::Options::default());
    unit.into_iter().map(|value| value as f32).collect()
}

fn npy(data: &[f32], shape: [usize; 2]) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let options = npyz::WriteOptions::new().default_dtype().shape(&shape.map(|size| size as u64)).writer(&mut bytes);
    let written = options.begin_nd().and_then(|mut writer| {
        writer.extend(data.iter().copied())?;
        writer.finish()
    });
    written.map_err(|error| Failure { message: format!("the embeddings cannot be written: {error}"), code: 1 })?;
    Ok(bytes)
}
