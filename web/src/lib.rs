//! The functions that the page calls: open a device, and run each op's cases on it.

#![cfg(target_arch = "wasm32")]

use wasm_bindgen::JsError;
use wasm_bindgen::prelude::wasm_bindgen;
use wgloss::verify::{self, SUITES};
use wgloss::{Error, Gpu, Options, Tensor, softmax};

#[wasm_bindgen(start)]
fn start() {
    std::panic::set_hook(Box::new(|panic| web_sys::console::error_1(&panic.to_string().into())));
}

/// The browser's adapter, opened as a device.
#[wasm_bindgen]
pub struct Device(Gpu);

/// The outcome of an op's cases.
#[wasm_bindgen(getter_with_clone)]
pub struct Outcome {
    pub outputs: usize,
    pub ulp: f64,
    pub relative: f64,
    pub failures: Vec<String>,
}

#[wasm_bindgen]
impl Device {
    pub async fn open() -> Result<Device, JsError> {
        Ok(Device(Gpu::open_async(&Options::default()).await?))
    }

    /// Runs an op's cases. `brief` leaves out those that only vary options or storage.
    pub async fn verify(&self, op: &str, brief: bool) -> Result<Outcome, JsError> {
        let suite = SUITES.iter().copied().find(|suite| suite.op == op);
        let suite = suite.ok_or_else(|| JsError::new(&format!("{op} is no op")))?;
        let report = match brief {
            true => verify::run_briefly_async(&self.0, suite).await?,
            false => verify::run_async(&self.0, suite).await?,
        };
        let verify::Report { compared: outputs, worst_ulp: ulp, worst_relative: relative, failures } = report;
        Ok(Outcome { outputs, ulp, relative, failures })
    }

    /// Checks errors that only a browser has, and errors that a browser reports later than wgpu does elsewhere.
    pub async fn errors(&self) -> Result<Outcome, JsError> {
        let found = [("bindings that share bytes", near(&self.0).await?), ("told later", told_later(&self.0).await?)];
        let wrong = found.iter().filter(|(_, right)| !right).map(|(what, _)| format!("{what}: not as it should be"));
        Ok(Outcome { outputs: found.len(), ulp: 0.0, relative: 0.0, failures: wrong.collect() })
    }
}

/// Whether the halves of a buffer are accepted as input and output, while its quarters are refused.
async fn near(gpu: &Gpu) -> wgloss::Result<bool> {
    let place = gpu.limits().min_storage_buffer_offset_alignment as usize / 4;
    let buffer = gpu.zeros::<f32>(2 * place)?;
    let view = |offset| Tensor::strided(&buffer, 1, 4, offset, 4);
    let run =
        |offset| gpu.run(|recorder| softmax::forward(recorder, view(0)?, view(offset)?, softmax::Options::default()));
    let refused = matches!(run(place / 2), Err(Error::TooClose { .. }));
    run(place)?;
    Ok(refused && gpu.read_async(view(place)?).await? == [0.25; 4])
}

/// Whether the use of a destroyed buffer becomes an error once it is waited for. The submit itself reports nothing.
async fn told_later(gpu: &Gpu) -> wgloss::Result<bool> {
    let (destroyed, output) = (gpu.zeros::<f32>(4)?, gpu.zeros::<f32>(4)?);
    let (x, y) = (Tensor::matrix(&destroyed, 1, 4)?, Tensor::matrix(&output, 1, 4)?);
    destroyed.destroy();
    let ran = gpu.run(|recorder| softmax::forward(recorder, x, y, softmax::Options::default()));
    let told = [ran, gpu.wait_async().await].iter().any(|result| matches!(result, Err(Error::Device { .. })));
    gpu.clear_fault();
    Ok(told && gpu.read_async(y).await? == [0.0; 4])
}

/// The names of all ops.
#[wasm_bindgen]
pub fn ops() -> Vec<String> {
    SUITES.iter().map(|suite| suite.op.to_owned()).collect()
}

#[wasm_bindgen]
pub fn version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}
