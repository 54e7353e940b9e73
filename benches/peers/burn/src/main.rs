//! Cases of `wgloss bench` in burn, on its wgpu backend, timed the same way: f32, two warm-ups, the median of five.
//! What is counted is what a user runs: burn's own functions and, where there is a gradient, `backward()`. A sample ends when the device
//! is done. `first_wall_s` is the first call, with burn's tuning and the driver's compilation.

use std::fs::File;
use std::io::Write;
use std::time::Instant;

use burn::nn::loss::CrossEntropyLossConfig;
use burn::tensor::activation::{log_softmax, softmax};
use burn::tensor::{Device, DeviceKind, Distribution, Int, Tensor};
use clap::Parser;
use cpu_time::ProcessTime;
use serde_json::json;

/// Prints a line of JSON with the provenance, then one a case.
#[derive(Parser)]
struct Arguments {
    /// softmax, cross_entropy or info_nce with its shape, as benches/compare.py names it; may be repeated.
    #[arg(long, value_name = "OP_ROWSxCOLS", required = true)]
    case: Vec<String>,
    /// Calls a sample; times are divided by it.
    #[arg(long, default_value_t = 1)]
    calls: u32,
    /// Write the lines here instead of printing them.
    #[arg(long, value_name = "FILE")]
    out: Option<std::path::PathBuf>,
}

const WARM_UPS: usize = 2;
const SAMPLES: usize = 5;
const TEMPERATURE: f32 = 0.07;

type Call = Box<dyn FnMut()>;

fn normal(shape: [usize; 2], device: &Device) -> Tensor<2> {
    Tensor::random(shape, Distribution::Normal(0.0, 2.0), device)
}

/// What to call, and the bytes that must move at least: every input read once, every output written once.
fn build(op: &str, [rows, cols]: [usize; 2], device: &Device) -> Option<(Call, usize)> {
    let elements = rows * cols;
    let with_gradients = device.clone().autodiff();
    Some(match op {
        "softmax" => {
            let x = normal([rows, cols], device);
            (Box::new(move || drop(softmax(x.clone(), 1))), 4 * 2 * elements)
        }
        "cross_entropy" => {
            let x = normal([rows, cols], &with_gradients).require_grad();
            let ids: Tensor<1, Int> = Tensor::arange(0..rows as i64, &with_gradients).remainder_scalar(cols as i64);
            let loss = CrossEntropyLossConfig::new().init(&with_gradients);
            let call = move || {
                let gradients = loss.forward(x.clone(), ids.clone()).backward();
                drop(x.grad(&gradients));
            };
            (Box::new(call), 4 * (2 * elements + rows + 1))
        }
        "info_nce" => {
            let unit = |x: Tensor<2>| x.clone() / x.powi_scalar(2).sum_dim(1).sqrt();
            let q = unit(normal([rows, cols], &with_gradients)).detach().require_grad();
            let k = unit(normal([rows, cols], &with_gradients)).detach().require_grad();
            let own: Tensor<2, Int> = Tensor::<1, Int>::arange(0..rows as i64, &with_gradients).reshape([rows, 1]);
            let call = move || {
                let s = q.clone().matmul(k.clone().transpose()) / TEMPERATURE;
                let side = |s: Tensor<2>| log_softmax(s, 1).gather(1, own.clone()).mean().neg();
                let gradients = ((side(s.clone()) + side(s.transpose())) / 2.0).backward();
                drop((q.grad(&gradients), k.grad(&gradients)));
            };
            (Box::new(call), 4 * (4 * elements + 1))
        }
        _ => return None,
    })
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    let mut out: Box<dyn Write> = match &arguments.out {
        Some(path) => Box::new(File::create(path)?),
        None => Box::new(std::io::stdout()),
    };
    let device = Device::wgpu(DeviceKind::DefaultDevice);
    writeln!(out, "{}", json!({ "provenance": {
        "burn": "0.22.1",
        "device": format!("{device:?}"),
        "autotune": std::env::var("CUBECL_AUTOTUNE_LEVEL").ok(),
        "threads": std::thread::available_parallelism()?.get(),
        "calls": arguments.calls,
    } }))?;
    for case in &arguments.case {
        let (op, shape) = case.rsplit_once('_').ok_or_else(|| format!("{case} is not OP_ROWSxCOLS"))?;
        let (rows, cols) = shape.split_once('x').ok_or_else(|| format!("{case} is not OP_ROWSxCOLS"))?;
        let (rows, cols) = (rows.parse()?, cols.parse()?);
        let (mut call, bytes) = build(op, [rows, cols], &device)
            .ok_or_else(|| format!("{op} is not one of softmax, cross_entropy, info_nce"))?;
        device.sync()?;
        let (mut wall, mut cpu) = (Vec::new(), Vec::new());
        for _ in 0..WARM_UPS + SAMPLES {
            let (wall_start, cpu_start) = (Instant::now(), ProcessTime::now());
            for _ in 0..arguments.calls {
                call();
            }
            device.sync()?;
            wall.push(wall_start.elapsed().as_secs_f64() / f64::from(arguments.calls));
            cpu.push(cpu_start.elapsed().as_secs_f64() / f64::from(arguments.calls));
        }
        let line = json!({
            "case": op, "rows": rows, "cols": cols, "bytes": bytes, "first_wall_s": wall[0],
            "wall_samples_s": wall[WARM_UPS..], "cpu_samples_s": cpu[WARM_UPS..],
        });
        writeln!(out, "{line}")?;
        out.flush()?;
    }
    Ok(())
}
