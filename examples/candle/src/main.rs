//! A contrastive loss of wgloss as an op of candle, with its gradients: candle trains a table so that two noisy views of each row find each other.
//!
//! candle has no wgpu storage, so both matrices go through the host: N × D numbers each way, where the loss itself costs N² × D multiply-adds.
//! That is worth it for large batches. The scores are never stored on either side.
//!
//! ```sh
//! cargo run --release --manifest-path examples/candle/Cargo.toml
//! ```

use std::sync::Mutex;

use candle_core::{CpuStorage, CustomOp2, Device, Error, Layout, Result, Shape, Tensor, Var};
use wgloss::{Gpu, info_nce};

const ROWS: usize = 400;
const DIM: usize = 16;

/// The mean contrastive loss of queries and keys [N, D].
struct InfoNce {
    gpu: Gpu,
    options: info_nce::Options,
    /// The forward pass has them from the same products; the backward pass multiplies them by the gradient of the loss.
    gradients: Mutex<Option<info_nce::Output>>,
}

impl CustomOp2 for InfoNce {
    fn name(&self) -> &'static str {
        "wgloss-info-nce"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let dim = q_layout.shape().dims2()?.1;
        let (q, k) = (contiguous(q, q_layout)?, contiguous(k, k_layout)?);
        let found = info_nce::compute(&self.gpu, q, k, dim, self.options).map_err(Error::wrap)?;
        let loss = CpuStorage::F32(found.loss.clone());
        *self.gradients.lock().expect("no thread panicked") = Some(found);
        Ok((loss, Shape::from(())))
    }

    fn bwd(&self, q: &Tensor, k: &Tensor, _: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let found = self.gradients.lock().expect("no thread panicked").take();
        let found = found.ok_or_else(|| Error::Msg("the forward pass comes before the backward pass, once".into()))?;
        let times = |gradient, of: &Tensor| Tensor::from_vec(gradient, of.shape(), of.device())?.broadcast_mul(dy);
        Ok((Some(times(found.d_queries, q)?), Some(times(found.d_keys, k)?)))
    }
}

fn contiguous<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let CpuStorage::F32(all) = storage else { return Err(Error::Msg("f32 expected; call to_dtype before".into())) };
    let (first, end) = layout.contiguous_offsets().ok_or_else(|| Error::Msg("call contiguous before".into()))?;
    Ok(&all[first..end])
}

fn main() -> Result<()> {
    let gpu = Gpu::new().map_err(Error::wrap)?;
    let options = info_nce::Options { temperature: 0.2, normalize: true, symmetric: true, ..Default::default() };
    let table = Var::randn(0f32, 0.1, (ROWS, DIM), &Device::Cpu)?;
    for step in 0..=100 {
        let view = || -> Result<Tensor> { table.as_tensor() + Tensor::randn(0f32, 0.3, (ROWS, DIM), &Device::Cpu)? };
        let op = InfoNce { gpu: gpu.clone(), options, gradients: Mutex::default() };
        let loss = view()?.apply_op2(&view()?, op)?;
        let gradients = loss.backward()?;
        let gradient = gradients.get(&table).ok_or_else(|| Error::Msg("no gradient".into()))?;
        table.set(&(table.as_tensor() - (gradient * 20.0)?)?)?;
        if step % 20 == 0 {
            println!("step {step:3}: loss {:.4} of {:.4} by chance", loss.to_scalar::<f32>()?, (ROWS as f32).ln());
        }
    }
    Ok(())
}
