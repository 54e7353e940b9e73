//! Trains the classifier twice on devices of its own and says how it went; scripts/faults.sh runs it under failing Vulkan calls.
//!
//! Exits with 0 if all numbers were right, 3 if errors said that they were not to be had and a later device gave them, 1 for a wrong number or
//! if no later device works.

use std::process::ExitCode;

use outside::{Classifier, Data, device};
use wgloss::{Result, wgpu};

/// The loss after ten steps, which has the same bits on every device of an adapter.
fn train() -> Result<f32> {
    let (rows, inputs, classes) = (512, 48, 10);
    let x: Vec<f32> = (0..rows * inputs).map(|at| (at * 37 % 101) as f32 / 101.0 - 0.5).collect();
    let class: Vec<u32> = (0..rows).map(|row| (row * 7 % classes) as u32).collect();
    let gpu = device().ok_or(wgloss::Error::NoAdapter { message: "WGLOSS_NO_GPU is 1".into() })??;
    let classifier = Classifier::new(gpu, &Data { x: &x, class: &class }, inputs, classes)?;
    (0..10).try_for_each(|_| classifier.step(0.5))?;
    let right = classifier.classify(&x)?;
    assert_eq!(right.len(), rows);
    classifier.loss()
}

fn main() -> ExitCode {
    // Keeps the layer that lets calls fail from being loaded anew, and from counting anew, with each device.
    let _instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    // One call fails: one of these, at most.
    let mut results: Vec<Result<f32>> = (0..4).map(|_| train()).collect();
    if results[3].is_err() {
        results.push(train());
    }
    let Some(Ok(last)) = results.last() else {
        println!("no device works: {results:?}");
        return ExitCode::from(1);
    };
    let mut failed = false;
    for (index, result) in results.iter().enumerate() {
        match result {
            Ok(loss) if loss == last => println!("{index}: {loss}"),
            Ok(loss) => {
                println!("{index}: {loss} instead of {last}");
                return ExitCode::from(1);
            }
            Err(error) => {
                println!("{index}: {error}");
                failed = true;
            }
        }
    }
    if !(0.0..3.0).contains(last) {
        println!("{last} is no such loss");
        return ExitCode::from(1);
    }
    ExitCode::from(if failed { 3 } else { 0 })
}
