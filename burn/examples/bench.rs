//! Ops of `wgloss bench` on burn's wgpu backend, as a result of the same format: put together from burn's own functions as its users do, or
//! with `--fused` by this crate. `wgloss report` shows them beside each other.
//!
//! ```sh
//! cargo run --release --features autotune --example bench -- --like mine.json --out burn.json
//! ```
//!
//! What is counted is a call and, where there is a gradient, `backward()`. A sample is the mean of as many calls as take a while, and ends when
//! the device is done. The first call has burn's tuning and the driver's compilation.

use std::path::PathBuf;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use burn::nn::loss::CrossEntropyLossConfig;
use burn::tensor::activation::{log_sigmoid, log_softmax, softmax};
use burn::tensor::{Device, Distribution, Int, Tensor};
use clap::Parser;
use cpu_time::ProcessTime;
use serde_json::{Value, json};
use wgloss_burn::{Batch, Weights, wgloss};

/// softmax, cross_entropy, kl, info_nce and siglip in burn.
#[derive(Parser)]
struct Arguments {
    /// A result of `wgloss bench`: the same cases.
    #[arg(long)]
    like: Option<PathBuf>,
    /// May be repeated.
    #[arg(long, value_name = "OP_ROWSxCOLS", value_parser = case)]
    case: Vec<Value>,
    /// The losses of wgloss-burn instead of burn's own operations.
    #[arg(long)]
    fused: bool,
    /// Write the result here instead of printing it.
    #[arg(long)]
    out: Option<PathBuf>,
}

const OPS: [&str; 5] = ["softmax", "cross_entropy", "kl", "info_nce", "siglip"];
const WARM_UPS: usize = 2;
const SAMPLES: usize = 7;
const SAMPLE_S: f64 = 0.02;
const MOST_CALLS: f64 = 256.0;

fn case(name: &str) -> Result<Value, String> {
    let wrong = || format!("expected OP_ROWSxCOLS, like softmax_4096x4096, with OP one of {}", OPS.join(", "));
    let (op, shape) = name.rsplit_once('_').ok_or_else(wrong)?;
    let sizes: Vec<usize> = shape.split('x').filter_map(|size| size.parse().ok()).collect();
    if !OPS.contains(&op) || sizes.len() != 2 || sizes.contains(&0) {
        return Err(wrong());
    }
    Ok(json!({ "op": op, "shape": sizes, "storage": "f32", "bytes": 0.0, "flop": 0.0 }))
}

fn normal(shape: [usize; 2], device: &Device) -> Tensor<2> {
    Tensor::random(shape, Distribution::Normal(0.0, 2.0), device)
}

type Call = Box<dyn FnMut() -> wgloss_burn::Result<()>>;

/// A call of a loss of two sides and its gradients.
fn with_gradients(
    inputs: [Tensor<2>; 2],
    loss: impl Fn(Tensor<2>, Tensor<2>) -> wgloss_burn::Result<Tensor<1>> + 'static,
) -> Call {
    let inputs = inputs.map(Tensor::require_grad);
    Box::new(move || {
        let gradients = loss(inputs[0].clone(), inputs[1].clone())?.backward();
        drop(inputs.each_ref().map(|input| input.grad(&gradients)));
        Ok(())
    })
}

fn build(op: &str, [rows, cols]: [usize; 2], fused: bool, device: &Device) -> Option<Call> {
    let device = &device.clone().autodiff();
    let unit = |x: Tensor<2>| x.clone() / x.powi_scalar(2).sum_dim(1).sqrt();
    let both = || [normal([rows, cols], device), normal([rows, cols], device)];
    let units = || both().map(|x| unit(x).detach());
    Some(match op {
        "softmax" if !fused => {
            let x = normal([rows, cols], device).inner();
            Box::new(move || {
                drop(softmax(x.clone(), 1));
                Ok(())
            })
        }
        "cross_entropy" => {
            let x = normal([rows, cols], device).require_grad();
            let ids: Tensor<1, Int> = Tensor::arange(0..rows as i64, device).remainder_scalar(cols as i64);
            let composed = CrossEntropyLossConfig::new().init(device);
            Box::new(move || {
                let (x, ids) = (x.clone(), ids.clone());
                let loss = match fused {
                    true => wgloss_burn::cross_entropy(x.clone(), ids, Weights::default(), Default::default())?,
                    false => composed.forward(x.clone(), ids),
                };
                drop(x.grad(&loss.backward()));
                Ok(())
            })
        }
        "kl" if fused => with_gradients(both(), |x, t| wgloss_burn::kl(x, t, Default::default())),
        "kl" => with_gradients(both(), move |x, t| {
            let (q, p) = (log_softmax(x, 1), log_softmax(t, 1));
            Ok((p.clone().exp() * (p - q)).sum() / rows as f32)
        }),
        "info_nce" if fused => with_gradients(units(), |q, k| {
            let options = wgloss::info_nce::Options { symmetric: true, ..Default::default() };
            wgloss_burn::info_nce(Batch::new(q, k), options)
        }),
        "info_nce" => {
            let own: Tensor<2, Int> = Tensor::<1, Int>::arange(0..rows as i64, device).reshape([rows, 1]);
            with_gradients(units(), move |q, k| {
                let s = q.matmul(k.transpose()) / 0.07;
                let side = |s: Tensor<2>| log_softmax(s, 1).gather(1, own.clone()).mean().neg();
                Ok((side(s.clone()) + side(s.transpose())) / 2.0)
            })
        }
        "siglip" if fused => {
            with_gradients(units(), |q, k| wgloss_burn::siglip(q, k, Default::default(), Default::default()))
        }
        "siglip" => {
            let sign = Tensor::<2>::eye(rows, device) * 2.0 - 1.0;
            with_gradients(units(), move |q, k| {
                let s = q.matmul(k.transpose()) * 10.0 - 10.0;
                Ok(log_sigmoid(s * sign.clone()).sum().neg() / rows as f32)
            })
        }
        _ => return None,
    })
}

/// Seconds of a call by the clock and of the processor.
fn sample(call: &mut Call, calls: u32, device: &Device) -> Result<[f64; 2], Box<dyn std::error::Error>> {
    let (wall, cpu) = (Instant::now(), ProcessTime::now());
    for _ in 0..calls {
        call()?;
    }
    device.sync()?;
    Ok([wall.elapsed(), cpu.elapsed()].map(|time| time.as_secs_f64() / f64::from(calls)))
}

fn measure(call: &mut Call, device: &Device) -> Result<Value, Box<dyn std::error::Error>> {
    device.sync()?;
    let [first, _] = sample(call, 1, device)?;
    let [one, _] = sample(call, 1, device)?;
    let calls = (SAMPLE_S / one).clamp(1.0, MOST_CALLS) as u32;
    let all = (0..WARM_UPS + SAMPLES).map(|_| sample(call, calls, device)).collect::<Result<Vec<_>, _>>()?;
    let kept = &all[WARM_UPS..];
    let cpu = kept.iter().map(|[_, cpu]| cpu).sum::<f64>() / SAMPLES as f64;
    let wall: Vec<f64> = kept.iter().map(|[wall, _]| *wall).collect();
    Ok(json!({ "clock": "host", "samples_s": wall, "cpu_s": cpu, "first_s": first }))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    let mut cases = arguments.case;
    if let Some(path) = &arguments.like {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let like: Value = serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        let f32s = like["cases"].as_array().into_iter().flatten().filter(|case| case["storage"] == "f32");
        cases.extend(f32s.filter(|case| OPS.iter().any(|op| case["op"] == *op)).cloned());
    }
    if cases.is_empty() {
        return Err("nothing to do: give --like or --case".into());
    }
    let device = wgloss_burn::device()?;
    let info = wgloss_burn::gpu(&device)?.info().clone();
    let mut results = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        eprintln!("{}/{} {} {}", number + 1, cases.len(), case["op"], case["shape"]);
        let op = case["op"].as_str().unwrap_or_default();
        let size = |at: usize| case["shape"][at].as_u64().unwrap_or(1) as usize;
        let Some(mut call) = build(op, [size(0), size(1)], arguments.fused, &device) else { continue };
        let mut result = measure(&mut call, &device)?;
        for key in ["op", "shape", "storage", "bytes", "flop"] {
            result[key] = case[key].clone();
        }
        results.push(result);
    }
    let by =
        if arguments.fused { concat!("wgloss-burn ", env!("CARGO_PKG_VERSION"), ", burn 0.22") } else { "burn 0.22" };
    let record = json!({
        "schema": "wgloss-bench/1",
        "unix_time": SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
        "provenance": {
            "by": by,
            "adapter": info.name,
            "kind": format!("{:?}", info.device_type),
            "driver": format!("{} {}", info.driver, info.driver_info).trim(),
            "backend": format!("{:?}", info.backend),
            "os": std::env::consts::OS,
            "cpu_threads": std::thread::available_parallelism()?.get(),
            "details": { "autotune": std::env::var("CUBECL_AUTOTUNE_LEVEL").ok() },
        },
        "cases": results,
    });
    let text = serde_json::to_string_pretty(&record)? + "\n";
    match arguments.out {
        Some(path) => std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?,
        None => print!("{text}"),
    }
    Ok(())
}
