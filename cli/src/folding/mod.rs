//! `wgloss folding`: shows what a model does that was never told which things do not belong together.

mod picture;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;
use wgloss::planted::{Blocks, Planted};
use wgloss::train::Optimizer;
use wgloss::train::tables::{Config, End, Event, Loss, Model, Negatives, fit, recommend};
use wgloss::{Gpu, metrics, sgd};

use crate::failure::Failure;
use crate::progress;
use crate::run::{FOLDING, METRICS, Run};
use crate::table;

/// Recommendations per user that are checked for spurious ones, and recommendations among which the held-out item is
/// sought.
const TOP: usize = 10;
const RECALL: usize = 20;

#[derive(clap::Args)]
pub struct Arguments {
    /// Groups of users and items that do not belong together.
    #[arg(long, default_value_t = 40)]
    blocks: u32,
    /// Users of a block.
    #[arg(long, default_value_t = 50)]
    users: u32,
    /// Items of a block.
    #[arg(long, default_value_t = 30)]
    items: u32,
    /// Widths of the embeddings, one study each; the first is drawn.
    #[arg(long, value_delimiter = ',', default_value = "8,32")]
    dim: Vec<usize>,
    /// Passes over the interactions.
    #[arg(long, default_value_t = 20)]
    epochs: usize,
    /// Pairs in a step.
    #[arg(long, default_value_t = 256)]
    batch: usize,
    /// Learning rate of a pair (plain SGD).
    #[arg(long, default_value_t = 0.1, allow_negative_numbers = true)]
    lr: f64,
    /// Seed of the blocks, the initial embeddings and the batches.
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// The adapter, by its number in `wgloss adapters` or a part of its name.
    #[arg(long)]
    adapter: Option<String>,
    /// Folder for the picture and the numbers [default: runs/folding, numbered if taken].
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Replace what --out already holds.
    #[arg(long, requires = "out")]
    overwrite: bool,
}

/// The forms of training: name, loss and negatives.
const FORMS: [(&str, Loss, Negatives); 7] = [
    ("positives only", Loss::Logistic, Negatives::None),
    ("1 uniform negative", Loss::Logistic, Negatives::Drawn { count: 1, power: 0.0, uniform: 0.0 }),
    ("5 uniform negatives", Loss::Logistic, Negatives::Drawn { count: 5, power: 0.0, uniform: 0.0 }),
    ("5 by popularity^0.75", Loss::Logistic, Negatives::Drawn { count: 5, power: 0.75, uniform: 0.0 }),
    ("5, half of them uniform", Loss::Logistic, Negatives::Drawn { count: 5, power: 0.75, uniform: 0.5 }),
    ("in batch, softmax", Loss::Softmax, Negatives::InBatch),
    ("in batch and 64 uniform", Loss::Softmax, Negatives::Mixed { count: 64 }),
];
/// The forms that the picture shows, by index in [`FORMS`].
const DRAWN: [usize; 2] = [0, 2];

/// The results of one form.
struct Row {
    folding: metrics::Folding,
    spurious: f64,
    any: f64,
    recall: f64,
}

pub fn folding(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let Arguments { blocks, users, items, seed, .. } = *arguments;
    let planted = Blocks { blocks, users, items, seed, ..Default::default() }.generate()?;
    let gpu = crate::open(arguments.adapter.as_deref()).map_err(crate::no_adapter)?;
    say!("adapter: {}", crate::describe(gpu.info()));
    let count = planted.train.len();
    say!(
        "planted: {blocks} blocks of {users} users and {items} items, {count} interactions to train on, one of each user held out"
    );
    let mut run = Run::open(arguments.out.as_deref(), "runs/folding", arguments.overwrite)?;
    let epochs = (arguments.dim.len() as u64 * FORMS.len() as u64).saturating_mul(arguments.epochs as u64);
    let bar = progress::bar(epochs, "{pos}/{len} epochs, {eta} left, {msg}");
    let mut drawn = Vec::new();
    for (study, &dim) in arguments.dim.iter().enumerate() {
        let mut rows = Vec::new();
        for (index, (name, loss, negatives)) in FORMS.into_iter().enumerate() {
            bar.set_message(format!("{dim} wide, {name}"));
            let config = configure(arguments, dim, loss, negatives);
            let outcome = fit(&gpu, &planted.train, None, &config, &mut |event| {
                bar.inc(u64::from(matches!(event, Event::Epoch { .. })));
                ControlFlow::Continue(())
            })?;
            if let End::Diverged(how) = outcome.end {
                bar.finish_and_clear();
                return Err(Failure::input(format!("{name}, {dim} wide: diverged, {how}; a lower --lr helps")));
            }
            let row = measure(&gpu, &planted, &outcome.model)?;
            run.log(&json!({
                "dim": dim, "form": name, "folding": row.folding.score, "within": row.folding.within,
                "spurious_at_10": row.spurious, "any_spurious": row.any, "recall_at_20": row.recall,
                "seed": seed, "epochs": arguments.epochs, "batch": config.batch, "lr": arguments.lr,
            }))?;
            run.begin()?;
            rows.push(row);
            if study == 0 && DRAWN.contains(&index) {
                drawn.push((format!("{name}, {dim} wide"), outcome.model));
            }
        }
        bar.suspend(|| say!("\n{}", tabulated(dim, &rows)));
    }
    bar.finish_and_clear();
    let of = picture::Blocks { users: &planted.user_blocks, items: &planted.item_blocks, count: blocks as usize };
    let scores = picture::block_scores(&drawn[0].1, &of);
    let pair = picture::most_folded(&scores, of.count);
    let shown = [0, 1].map(|at| picture::Shown { title: drawn[at].0.clone(), model: &drawn[at].1 });
    run.picture(FOLDING, picture::svg(shown, &of, pair))?;
    say!(
        "folding: mean over all pairs of max(0, score - r), where r is 1 within a block and 0 otherwise; of the mean: folding as a share of the mean score within blocks"
    );
    say!("spurious: share of the first {TOP} recommendations that are of another block; any: users with at least one");
    for name in [METRICS, FOLDING] {
        say!("wrote {}", run.path(name).display());
    }
    Ok(ExitCode::SUCCESS)
}

/// The configuration of a form.
///
/// The rate is scaled so that a pair's step has the same size for both losses: the softmax loss is a mean over the
/// batch, the logistic loss a sum.
fn configure(arguments: &Arguments, dim: usize, loss: Loss, negatives: Negatives) -> Config {
    let pairs = if loss == Loss::Softmax { arguments.batch as f64 } else { 1.0 };
    Config {
        dim,
        batch: arguments.batch,
        epochs: arguments.epochs,
        loss,
        negatives,
        optimizer: Optimizer::Sgd(sgd::Options::default()),
        rate: arguments.lr * pairs,
        start: 3f32.sqrt(), // rows of mean length 1
        seed: arguments.seed,
        ..Default::default()
    }
}

fn measure(gpu: &Gpu, planted: &Planted, model: &Model) -> Result<Row, Failure> {
    let Planted { user_blocks, item_blocks, train, held_out } = planted;
    let users: Vec<u32> = (0..user_blocks.len() as u32).collect();
    let ids = recommend(gpu, model, train, &users, RECALL)?;
    let first: Vec<u32> = ids.chunks(RECALL).flat_map(|ids| &ids[..TOP]).copied().collect();
    let [spurious, any] = metrics::spurious(&first, TOP, user_blocks, item_blocks);
    let truth = held_out.lists();
    let truth: Vec<&[u32]> = truth.iter().map(Vec::as_slice).collect();
    Ok(Row {
        folding: wgloss::folding::compute(gpu, &model.users, &model.items, model.dim, user_blocks, item_blocks)?,
        spurious,
        any,
        recall: metrics::recall(&ids, RECALL, &truth),
    })
}

fn tabulated(dim: usize, rows: &[Row]) -> comfy_table::Table {
    let first = format!("{dim} wide, trained with");
    let header = [first.as_str(), "folding", "of the mean", "spurious@10", "any", "recall@20"];
    let mut table = table::with_header(header, 1..6);
    for ((name, ..), Row { folding, spurious, any, recall }) in FORMS.iter().zip(rows) {
        let share = folding.score / folding.within;
        let cells = [folding.score, share, *spurious, *any, *recall].map(|number| format!("{number:.3}"));
        table.add_row([(*name).to_owned()].into_iter().chain(cells));
    }
    table
}
