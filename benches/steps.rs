//! The host's part of a training step, and the cost of drawing negatives compared with the loss that uses them:
//! `cargo bench --bench steps`. Prints a line of JSON for each.
//!
//! With `-- --large` it times steps on a table of several bindings instead. See benches/README.md.

use std::ops::ControlFlow;
use std::time::Instant;

use cpu_time::ThreadTime;
use serde_json::json;
use wgloss::sample::{self, Popularity, Proposal};
use wgloss::train::tables::{self, Event, Interactions, Loss, Negatives};
use wgloss::train::{self, Pairs};
use wgloss::{Accum, Gpu, Lists, Options, Random, Recorder, Reduction, Result, Tensor, bce, dot, gather};

const BATCH: usize = 1024;
const DIM: usize = 128;
/// Steps of an epoch. The losses of 16 steps are read at a time.
const STEPS: usize = 64;

fn main() -> Result<()> {
    // With --bench, Cargo says that this is `cargo bench` and not `cargo test`.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let gpu = Gpu::open(&Options { adapter: std::env::var("WGLOSS_ADAPTER").ok(), ..Default::default() })?;
    let info = gpu.info();
    println!(
        "{}",
        json!({"adapter": info.name, "driver": info.driver_info, "batch": BATCH, "dim": DIM, "steps": STEPS})
    );
    let mut random = Random::new(1, 0);
    let mut normal = |len: usize| -> Vec<f32> { (0..len).map(|_| 2.0 * random.uniform() - 1.0).collect() };
    if std::env::args().any(|argument| argument == "--large") {
        return large(&gpu);
    }
    // One held-out pair, which costs little to rank.
    let rows = BATCH * STEPS + 1;
    let pairs = Pairs::new(normal(rows * DIM), DIM, normal(rows * DIM), DIM)?;
    share("towers, symmetric InfoNCE", |done| {
        let config = train::Config {
            batch: BATCH,
            epochs: 1,
            held_out: 0.9 / rows as f32,
            ..train::Config::for_embeddings(&pairs)
        };
        let watch = &mut |event: train::Event| {
            if let train::Event::Steps { losses, .. } = event {
                done(losses.len());
            }
            ControlFlow::Continue(())
        };
        train::fit(Some(&gpu), &pairs, &config, watch).map(drop)
    })?;
    let mut random = Random::new(2, 0);
    let mut ids = |count: u32| -> Vec<u32> { (0..BATCH * STEPS).map(|_| random.below(count)).collect() };
    let data = Interactions::new(ids(20_000), ids(20_000), 20_000, 20_000)?;
    for (name, loss, negatives) in [
        ("tables, in batch", Loss::Softmax, Negatives::InBatch),
        ("tables, in batch and 1024 uniform", Loss::Softmax, Negatives::Mixed { count: 1024 }),
        (
            "tables, 16 drawn for each, logistic",
            Loss::Logistic,
            Negatives::Drawn { count: 16, power: 0.75, uniform: 0.0 },
        ),
    ] {
        share(name, |done| {
            let config = tables::Config { batch: BATCH, dim: DIM, epochs: 1, loss, negatives, ..Default::default() };
            let watch = &mut |event: Event| {
                if let Event::Steps { losses, .. } = event {
                    done(losses.len());
                }
                ControlFlow::Continue(())
            };
            tables::fit(&gpu, &data, None, &config, watch).map(drop)
        })?;
    }
    draws(&gpu)
}

/// Steps on a table of items that is larger than a binding, with Adam's state for each row. It takes 8 GB.
fn large(gpu: &Gpu) -> Result<()> {
    let (users, items, dim) = (20_000, 10_000_000, 32);
    let mut random = Random::new(3, 0);
    let mut ids = |count: u32| -> Vec<u32> { (0..BATCH * 64).map(|_| random.below(count)).collect() };
    let data = Interactions::new(ids(users), ids(items), users as usize, items as usize)?;
    let negatives = Negatives::Drawn { count: 16, power: 0.0, uniform: 0.0 };
    let config = tables::Config { batch: BATCH, dim, epochs: 1, negatives, ..Default::default() };
    let (mut start, mut times, mut losses_of) = (Instant::now(), Vec::new(), Vec::new());
    let model = tables::fit(gpu, &data, None, &config, &mut |event| {
        if let Event::Steps { losses, .. } = event {
            times.push(start.elapsed().as_secs_f64() / losses.len() as f64);
            losses_of.extend(losses);
        }
        start = Instant::now();
        ControlFlow::Continue(())
    })?
    .model;
    let moved =
        model.items.chunks(dim).filter(|row| row.iter().any(|value| value.abs() > (dim as f32).powf(-0.5))).count();
    let bytes = 4 * u64::from(items) * dim as u64;
    let bindings = bytes.div_ceil(gpu.limits().max_storage_buffer_binding_size);
    let of_first = times.remove(0); // includes the creation of pipelines
    times.sort_by(f64::total_cmp);
    println!(
        "{}",
        json!({"table": [items, dim], "bindings": bindings, "batch": BATCH, "negatives": 16, "step_s": times[times.len() / 2],
            "first_16_steps_s": of_first, "first_loss": losses_of[0], "last_loss": losses_of[losses_of.len() - 1],
            "rows_past_their_start": moved})
    );
    Ok(())
}

/// The CPU time of the thread that records and submits, as a share of the time that the steps take.
///
/// `fit` reports when steps are done. The first of them, in which pipelines are made, are not counted, nor is the work
/// at the end of an epoch.
fn share(name: &str, fit: impl Fn(&mut dyn FnMut(usize)) -> Result<()>) -> Result<()> {
    let (mut wall, mut host) = (Instant::now(), ThreadTime::now());
    let mut times = Vec::new();
    fit(&mut |steps| {
        times.push([steps as f64, wall.elapsed().as_secs_f64(), host.elapsed().as_secs_f64()]);
        (wall, host) = (Instant::now(), ThreadTime::now());
    })?;
    let [steps, wall, host] = [0, 1, 2].map(|at| times[1..].iter().map(|time| time[at]).sum::<f64>());
    println!("{}", json!({"step": name, "wall_s": wall / steps, "host_s": host / steps, "host_share": host / wall}));
    Ok(())
}

/// Draws a thousand negatives for each row of the batch, by popularity, outside a hundred known items; then computes
/// the logistic loss with its gradients.
fn draws(gpu: &Gpu) -> Result<()> {
    let (count, items) = (1000, 100_000);
    let weights: Vec<f32> = (0..items).map(|k| 1e6 / (k as f32 + 1.0)).collect();
    let words = gpu.upload(Popularity::new(&weights, 0.75)?.words())?;
    let proposal = Proposal::Table { table: Tensor::matrix(&words, items, 3)?, uniform: 0.0 };
    let known: Vec<u32> = (0..BATCH as u32).flat_map(|row| (0..100).map(move |at| at * 37 + row % 37)).collect();
    let (starts, known) =
        (gpu.upload(&(0..=BATCH as u32).map(|row| row * 100).collect::<Vec<_>>())?, gpu.upload(&known)?);
    let own = gpu.upload(&(0..BATCH as u32).collect::<Vec<_>>())?;
    let n = BATCH * count;
    let (ids, log_q) = (gpu.zeros::<u32>(n)?, gpu.zeros::<f32>(n)?);
    let table = gpu.upload(&vec![0.01f32; items * DIM])?;
    let [keys, d_keys] = [gpu.zeros::<f32>(n * DIM)?, gpu.zeros::<f32>(n * DIM)?];
    let [queries, d_queries] = [gpu.upload(&vec![0.1f32; BATCH * DIM])?, gpu.zeros::<f32>(BATCH * DIM)?];
    let [scores, d_scores, targets] = [gpu.zeros::<f32>(n)?, gpu.zeros::<f32>(n)?, gpu.zeros::<f32>(n)?];
    let loss = gpu.zeros::<f32>(1)?;
    let draw = |recorder: &mut Recorder| {
        let lists = Lists {
            starts: Tensor::vector(&starts, BATCH + 1)?,
            items: Tensor::vector(&known, BATCH * 100)?,
            list: Some(Tensor::vector(&own, BATCH)?),
        };
        let (ids, log_q) = (Tensor::matrix(&ids, BATCH, count)?, Tensor::matrix(&log_q, BATCH, count)?);
        sample::draw(recorder, proposal, Some(lists), ids, log_q, sample::Options::default())
    };
    let compare = |recorder: &mut Recorder| {
        let (q, k) = (Tensor::matrix(&queries, BATCH, DIM)?, Tensor::matrix(&keys, n, DIM)?);
        let (dq, dk) = (Tensor::matrix(&d_queries, BATCH, DIM)?, Tensor::matrix(&d_keys, n, DIM)?);
        let [s, ds, t] = [&scores, &d_scores, &targets].map(|buffer| Tensor::matrix(buffer, BATCH, count));
        let (s, ds) = (s?, ds?);
        gather::forward(recorder, Tensor::matrix(&table, items, DIM)?, Tensor::vector(&ids, n)?, k)?;
        dot::forward(recorder, q, k, s)?;
        let inputs = bce::Inputs { x: s, t: t?, weight: None, pos_weight: None };
        let options = bce::Options { reduction: Reduction::Sum, ..Default::default() };
        bce::forward(recorder, inputs, Tensor::scalar(&loss, 0)?, Some(ds), options)?;
        dot::backward(recorder, q, k, ds, Some(dq), Some(dk), Accum::Write)
    };
    let time = |record: &dyn Fn(&mut Recorder) -> Result<()>| -> Result<f64> {
        let mut samples = Vec::new();
        for _ in 0..5 {
            let start = Instant::now();
            gpu.run(record)?;
            gpu.wait()?;
            samples.push(start.elapsed().as_secs_f64());
        }
        samples.sort_by(f64::total_cmp);
        Ok(samples[2])
    };
    let (drawing, comparing) = (time(&draw)?, time(&compare)?);
    let found = gpu.read(Tensor::<f32>::scalar(&loss, 0)?)?[0];
    assert!(found.is_finite() && found > 0.0, "a loss of {found}, so there is nothing to time");
    println!("{}", json!({"draws": n, "draw_s": drawing, "loss_s": comparing}));
    Ok(())
}
