//! Gradients of two encoders on one large batch, with the memory of a small one. The contrastive loss sees all pairs at
//! once; the encoders see one micro-batch at a time, twice. The gradients are those of the whole batch.
//!
//! Source: Gao et al. 2021, arXiv:2101.06983.
//!
//! ```sh
//! cargo run --release --example gradcache -- --micro 128
//! ```

use std::ops::Range;

use clap::Parser;
use wgloss::{Accum, Gpu, Options, Random, Recorder, Result, Tensor, info_nce, linear, tanh, wgpu};

const PIXELS: usize = 32;
const DIM: usize = 32;
const TEMPERATURE: f32 = 0.07;

/// Gradients of two encoders on 1,797 pairs of image halves, from micro-batches and from the whole batch.
#[derive(Parser)]
struct Arguments {
    /// Pairs in a micro-batch.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    micro: u32,
    /// Width between the two maps of an encoder.
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..))]
    hidden: u32,
    /// The adapter, by its number or a part of its name.
    #[arg(long)]
    adapter: Option<String>,
}

#[cfg_attr(test, allow(dead_code, reason = "tests call what main calls"))]
fn main() -> Result<()> {
    let Arguments { micro, hidden, adapter } = Arguments::parse();
    let gpu = Gpu::open(&Options { adapter, ..Default::default() })?;
    let (pairs, hidden) = (pairs(), hidden as usize);
    let whole = gradients(&gpu, &pairs, hidden, pairs.rows)?;
    let parts = gradients(&gpu, &pairs, hidden, micro as usize)?;
    for (what, found) in [("the whole batch", &whole), ("micro-batches", &parts)] {
        println!("{what:15}: loss {:.6}, activations {:.1} MB", found.loss, found.activation_bytes as f64 / 1e6);
    }
    println!("largest difference of a gradient: {:.1e} of the largest gradient", parts.difference(&whole));
    Ok(())
}

/// Queries and keys, [rows, PIXELS] each.
pub struct Pairs {
    sides: [Vec<f32>; 2],
    pub rows: usize,
}

/// The upper and lower halves of the bundled digits.
pub fn pairs() -> Pairs {
    let mut sides = [Vec::new(), Vec::new()];
    let images = include_str!("../data/digits.csv").lines();
    for (at, pixel) in images.flat_map(|image| image.split(',').take(2 * PIXELS).enumerate()) {
        sides[at / PIXELS].push(pixel.parse::<f32>().expect("a number of data/digits.csv") / 16.0);
    }
    let rows = sides[0].len() / PIXELS;
    Pairs { sides, rows }
}

/// The loss and gradients of a batch.
pub struct Found {
    pub loss: f32,
    /// The gradients of all weights of both encoders, one after the other.
    pub gradients: Vec<f32>,
    pub activation_bytes: u64,
}

impl Found {
    /// The largest difference between gradients, as a share of the largest gradient.
    pub fn difference(&self, other: &Found) -> f32 {
        let largest = other.gradients.iter().fold(0.0f32, |most, value| most.max(value.abs()));
        let pairs = self.gradients.iter().zip(&other.gradients);
        pairs.fold(0.0f32, |most, (one, other)| most.max((one - other).abs())) / largest
    }
}

/// The gradients of the mean loss over all pairs. The encoders hold the activations of `micro` pairs at a time.
pub fn gradients(gpu: &Gpu, pairs: &Pairs, hidden: usize, micro: usize) -> Result<Found> {
    let rows = pairs.rows;
    let encoders =
        [Encoder::new(gpu, &pairs.sides[0], hidden, micro, 0)?, Encoder::new(gpu, &pairs.sides[1], hidden, micro, 1)?];
    let (loss, state) = (gpu.zeros::<f32>(1)?, gpu.zeros::<f32>(2 * rows * 4)?);
    let loss = Tensor::scalar(&loss, 0)?;
    let options =
        info_nce::Options { temperature: TEMPERATURE, normalize: true, symmetric: true, ..Default::default() };
    let parts: Vec<_> = (0..rows).step_by(micro).map(|first| first..rows.min(first + micro)).collect();
    gpu.run(|recorder| {
        for encoder in &encoders {
            for part in &parts {
                encoder.forward(recorder, part)?;
            }
        }
        let [(q, dq), (k, dk)] = [encoders[0].embeddings()?, encoders[1].embeddings()?];
        let gradients = info_nce::Gradients { dq: Some(dq), dk: Some(dk), ..Default::default() };
        let batch = info_nce::Batch::new(q, k);
        info_nce::forward(recorder, batch, loss, Tensor::matrix(&state, 2 * rows, 4)?, gradients, options)?;
        for encoder in &encoders {
            for part in &parts {
                encoder.forward(recorder, part)?; // activations again: the last micro-batch overwrote them
                encoder.backward(recorder, part)?;
            }
        }
        Ok(())
    })?;
    let mut found = Found { loss: gpu.read(loss)?[0], gradients: Vec::new(), activation_bytes: 0 };
    for encoder in &encoders {
        for map in &encoder.maps {
            found.gradients.extend(gpu.read(map.gradient()?)?);
        }
        found.activation_bytes += encoder.activation.size() + encoder.d_activation.size();
    }
    Ok(found)
}

/// An encoder, y = w2 tanh(w1 x).
struct Encoder {
    maps: [Map; 2],
    hidden: usize,
    rows: usize,
    x: wgpu::Buffer,
    /// [micro, hidden].
    activation: wgpu::Buffer,
    d_activation: wgpu::Buffer,
    /// [rows, DIM].
    y: wgpu::Buffer,
    dy: wgpu::Buffer,
}

/// The weights of a linear map, [outputs, inputs], and their gradient.
struct Map {
    buffers: [wgpu::Buffer; 2],
    shape: [usize; 2],
}

impl Map {
    fn new(gpu: &Gpu, shape: [usize; 2], random: &mut Random) -> Result<Map> {
        let [outputs, inputs] = shape;
        let bound = 1.0 / (inputs as f32).sqrt();
        let weight: Vec<f32> = (0..outputs * inputs).map(|_| (2.0 * random.uniform() - 1.0) * bound).collect();
        Ok(Map { buffers: [gpu.upload(&weight)?, gpu.zeros::<f32>(outputs * inputs)?], shape })
    }

    fn weight(&self) -> Result<Tensor<'_>> {
        Tensor::matrix(&self.buffers[0], self.shape[0], self.shape[1])
    }

    fn gradient(&self) -> Result<Tensor<'_>> {
        Tensor::matrix(&self.buffers[1], self.shape[0], self.shape[1])
    }
}

impl Encoder {
    fn new(gpu: &Gpu, x: &[f32], hidden: usize, micro: usize, stream: u32) -> Result<Encoder> {
        let (mut random, rows) = (Random::new(1, stream), x.len() / PIXELS);
        let held = rows.min(micro);
        Ok(Encoder {
            maps: [Map::new(gpu, [hidden, PIXELS], &mut random)?, Map::new(gpu, [DIM, hidden], &mut random)?],
            hidden,
            rows,
            x: gpu.upload(x)?,
            activation: gpu.zeros::<f32>(held * hidden)?,
            d_activation: gpu.zeros::<f32>(held * hidden)?,
            y: gpu.zeros::<f32>(rows * DIM)?,
            dy: gpu.zeros::<f32>(rows * DIM)?,
        })
    }

    /// All embeddings and their gradients.
    fn embeddings(&self) -> Result<(Tensor<'_>, Tensor<'_>)> {
        Ok((Tensor::matrix(&self.y, self.rows, DIM)?, Tensor::matrix(&self.dy, self.rows, DIM)?))
    }

    /// The inputs of a micro-batch, its activations and their gradient.
    fn part(&self, part: &Range<usize>) -> Result<[Tensor<'_>; 3]> {
        let x = Tensor::matrix(&self.x, self.rows, PIXELS)?.row_range(part.clone());
        let activation = Tensor::matrix(&self.activation, part.len(), self.hidden)?;
        Ok([x, activation, Tensor::matrix(&self.d_activation, part.len(), self.hidden)?])
    }

    fn forward(&self, recorder: &mut Recorder, part: &Range<usize>) -> Result<()> {
        let [x, activation, _] = self.part(part)?;
        let [first, last] = &self.maps;
        linear::forward(recorder, x, first.weight()?, None, activation)?;
        tanh::forward(recorder, activation, activation)?;
        linear::forward(recorder, activation, last.weight()?, None, self.embeddings()?.0.row_range(part.clone()))
    }

    /// Adds the weight gradients of a micro-batch, whose activations must be in place.
    fn backward(&self, recorder: &mut Recorder, part: &Range<usize>) -> Result<()> {
        let [x, activation, d_activation] = self.part(part)?;
        let dy = self.embeddings()?.1.row_range(part.clone());
        let [first, last] = &self.maps;
        let (w, dw) = (last.weight()?, Some(last.gradient()?));
        linear::backward(recorder, activation, w, dy, Some(d_activation), None, None, Accum::Write)?;
        linear::backward(recorder, activation, w, dy, None, dw, None, Accum::Add)?;
        tanh::backward(recorder, activation, d_activation, d_activation)?;
        let (w, dw) = (first.weight()?, Some(first.gradient()?));
        linear::backward(recorder, x, w, d_activation, None, dw, None, Accum::Add)
    }
}
