//! A small language model, trained from its words to its last layer. It predicts the next word from the three words
//! before it. One table is both the embedding and the last layer (tied weights). The logits of a batch,
//! [rows, vocabulary], are never stored.
//!
//! Source: Bengio et al. 2003, section 2; tied weights: Press and Wolf 2017, arXiv:1608.05859.
//!
//! ```sh
//! cargo run --release --example next_token              # on this repository's own documents
//! cargo run --release --example next_token -- book.txt  # on a text of yours
//! ```

use std::collections::HashMap;
use std::path::PathBuf;

use clap::Parser;
use wgloss::linear_cross_entropy::{self, Batch, Gradients, Layer, Target};
use wgloss::{
    Accum, Gpu, Options, Random, Recorder, Reduction, Result, Tensor, adam, clip, gather, linear, tanh, wgpu,
};

/// The number of words before the predicted one, the numbers per word, and the rows of a batch.
const CONTEXT: usize = 3;
const DIM: usize = 64;
const BATCH: usize = 256;

/// Predicts the next word of a text.
#[derive(Parser)]
struct Arguments {
    /// Text to train on; the last tenth is held out.
    files: Vec<PathBuf>,
    /// Times that the text is gone through.
    #[arg(long, default_value_t = 8)]
    epochs: u32,
    /// The adapter, by its number or a part of its name.
    #[arg(long)]
    adapter: Option<String>,
}

#[cfg_attr(test, allow(dead_code, reason = "tests call what main calls"))]
fn main() -> core::result::Result<(), Box<dyn std::error::Error>> {
    let Arguments { files, epochs, adapter } = Arguments::parse();
    let gpu = Gpu::open(&Options { adapter, ..Default::default() })?;
    let mut text = if files.is_empty() { documents() } else { String::new() };
    for file in &files {
        text += &std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    let text = Text::new(&text);
    if text.words.len() < 100 * CONTEXT {
        return Err(format!("expected a text of {} words at least, found {}", 100 * CONTEXT, text.words.len()).into());
    }
    let (train, held_out) = text.words.split_at(text.words.len() / 10 * 9);
    println!(
        "{} words, {} of them different; perplexity of the held-out tenth:",
        text.words.len(),
        text.vocabulary.len()
    );
    println!("by how often each word occurs: {:.0}", unigram(train, held_out, text.vocabulary.len()));
    let mut model = Model::new(&gpu, text.vocabulary.len())?;
    let mut random = Random::new(1, 1);
    for epoch in 1..=epochs {
        let loss = model.epoch(&gpu, train, &mut random)?;
        let [perplexity, right] = model.measure(&gpu, held_out)?;
        println!(
            "epoch {epoch}: training loss {loss:.3}, perplexity {perplexity:.0}, {:.1} % predicted",
            100.0 * right
        );
    }
    Ok(())
}

/// The documents of this repository.
pub fn documents() -> String {
    [
        include_str!("../README.md"),
        include_str!("../benches/README.md"),
        include_str!("../docs/faults.md"),
        include_str!("../docs/choosing.md"),
        include_str!("../CONTRIBUTING.md"),
        include_str!("../DESIGN.md"),
    ]
    .concat()
}

/// A text as the ids of its words and punctuation marks, in the order of their first occurrence.
pub struct Text {
    pub words: Vec<u32>,
    pub vocabulary: Vec<String>,
}

impl Text {
    pub fn new(text: &str) -> Text {
        let mut ids = HashMap::new();
        let mut vocabulary = Vec::new();
        let mut words = Vec::new();
        for line in text.lines() {
            for word in line.split_inclusive(|c: char| !c.is_alphanumeric()) {
                let ends_in_letter = word.chars().next_back().is_some_and(char::is_alphanumeric);
                let cut = word.len() - word.chars().next_back().filter(|_| !ends_in_letter).map_or(0, char::len_utf8);
                for part in [&word[..cut], &word[cut..]].into_iter().filter(|part| !part.trim().is_empty()) {
                    let part = part.to_lowercase();
                    words.push(*ids.entry(part.clone()).or_insert_with(|| {
                        vocabulary.push(part);
                        vocabulary.len() as u32 - 1
                    }));
                }
            }
        }
        Text { words, vocabulary }
    }
}

/// The perplexity of a model that predicts words by their frequency in the training text, with every count raised by
/// one.
pub fn unigram(train: &[u32], held_out: &[u32], vocabulary: usize) -> f64 {
    let mut counts = vec![1.0; vocabulary];
    train.iter().for_each(|&word| counts[word as usize] += 1.0);
    let total: f64 = counts.iter().sum();
    let sum: f64 = held_out.iter().map(|&word| (total / counts[word as usize]).ln()).sum();
    (sum / held_out.len() as f64).exp()
}

/// A parameter, its gradient, and Adam's two moments.
struct Parameter {
    buffers: [wgpu::Buffer; 4],
    shape: [usize; 2],
}

impl Parameter {
    fn new(gpu: &Gpu, shape: [usize; 2], bound: f32, random: &mut Random) -> Result<Parameter> {
        let len = shape[0] * shape[1];
        let start: Vec<f32> = (0..len).map(|_| (2.0 * random.uniform() - 1.0) * bound).collect();
        let zeros = || gpu.zeros::<f32>(len);
        Ok(Parameter { buffers: [gpu.upload(&start)?, zeros()?, zeros()?, zeros()?], shape })
    }

    fn view(&self, which: usize) -> Result<Tensor<'_>> {
        Tensor::matrix(&self.buffers[which], self.shape[0], self.shape[1])
    }

    fn value(&self) -> Result<Tensor<'_>> {
        self.view(0)
    }

    fn gradient(&self) -> Result<Tensor<'_>> {
        self.view(1)
    }
}

/// The model. tanh(W e) of the embeddings e of the words before is compared with the embeddings of all words.
pub struct Model {
    /// The table [vocabulary, DIM], W [DIM, CONTEXT · DIM], the bias of each word.
    parameters: [Parameter; 3],
    /// e and its gradient; tanh(W e) and its gradient.
    activations: [wgpu::Buffer; 4],
    /// The words before, the next word, the predicted word, the loss of a batch, and the norm of all gradients.
    before: wgpu::Buffer,
    next: wgpu::Buffer,
    predicted: wgpu::Buffer,
    loss: wgpu::Buffer,
    norm: wgpu::Buffer,
    steps: u32,
}

impl Model {
    pub fn new(gpu: &Gpu, vocabulary: usize) -> Result<Model> {
        let mut random = Random::new(1, 0);
        let bound = |inputs: usize| (3.0 / inputs as f32).sqrt();
        let zeros = |cols: usize| gpu.zeros::<f32>(BATCH * cols);
        let [wide, narrow] = [CONTEXT * DIM, DIM];
        Ok(Model {
            parameters: [
                Parameter::new(gpu, [vocabulary, DIM], 0.1, &mut random)?,
                Parameter::new(gpu, [DIM, CONTEXT * DIM], bound(CONTEXT * DIM), &mut random)?,
                Parameter::new(gpu, [vocabulary, 1], 0.0, &mut random)?,
            ],
            activations: [zeros(wide)?, zeros(wide)?, zeros(narrow)?, zeros(narrow)?],
            before: gpu.zeros::<u32>(BATCH * CONTEXT)?,
            next: gpu.zeros::<u32>(BATCH)?,
            predicted: gpu.zeros::<u32>(BATCH)?,
            loss: gpu.zeros::<f32>(1)?,
            norm: gpu.zeros::<f32>(1)?,
            steps: 0,
        })
    }

    /// Uploads the words at `places` and the words before each of them.
    fn load(&self, gpu: &Gpu, text: &[u32], places: &[usize]) -> Result<()> {
        let before: Vec<u32> = places.iter().flat_map(|&at| text[at - CONTEXT..at].iter().copied()).collect();
        let next: Vec<u32> = places.iter().map(|&at| text[at]).collect();
        gpu.write(Tensor::vector(&self.before, before.len())?, &before)?;
        gpu.write(Tensor::vector(&self.next, next.len())?, &next)
    }

    /// Computes e and tanh(W e) for `rows` rows, and returns the input of the last layer with its targets.
    fn forward(&self, recorder: &mut Recorder, rows: usize) -> Result<Batch<'_>> {
        let [table, w, b] = &self.parameters;
        let ids = Tensor::vector(&self.before, rows * CONTEXT)?;
        gather::forward(recorder, table.value()?, ids, Tensor::matrix(&self.activations[0], rows * CONTEXT, DIM)?)?;
        // The embeddings of the words before lie next to each other and form one row.
        let (e, h) = (self.activation(0, rows)?, self.activation(2, rows)?);
        linear::forward(recorder, e, w.value()?, None, h)?;
        tanh::forward(recorder, h, h)?;
        let layer = Layer { b: Some(b.value()?), ..Layer::new(h, table.value()?) };
        Ok(Batch::new(layer, Target::Ids(Tensor::vector(&self.next, rows)?)))
    }

    fn loss(&self) -> Result<Tensor<'_>> {
        Tensor::scalar(&self.loss, 0)
    }

    fn activation(&self, which: usize, rows: usize) -> Result<Tensor<'_>> {
        Tensor::matrix(&self.activations[which], rows, if which < 2 { CONTEXT * DIM } else { DIM })
    }

    /// One step on the rows that are loaded.
    fn step(&mut self, gpu: &Gpu, rows: usize) -> Result<()> {
        self.steps += 1;
        let options = adam::Options { rate: 2e-3, step: self.steps, ..Default::default() };
        gpu.run(|recorder| {
            let [table, w, b] = &self.parameters;
            let batch = self.forward(recorder, rows)?;
            let (e, de) = (self.activation(0, rows)?, self.activation(1, rows)?);
            let (h, dh) = (self.activation(2, rows)?, self.activation(3, rows)?);
            let gradients =
                Gradients { dx: Some(dh), dw: Some(table.gradient()?), db: Some(b.gradient()?), ..Default::default() };
            linear_cross_entropy::forward(recorder, batch, self.loss()?, None, None, gradients, Default::default())?;
            tanh::backward(recorder, h, dh, dh)?;
            linear::backward(recorder, e, w.value()?, dh, Some(de), Some(w.gradient()?), None, Accum::Write)?;
            // The table is both embedding and last layer, so its gradient is the sum of both gradients.
            let (ids, de) = (
                Tensor::vector(&self.before, rows * CONTEXT)?,
                Tensor::matrix(&self.activations[1], rows * CONTEXT, DIM)?,
            );
            gather::backward(recorder, de, ids, table.gradient()?, Accum::Add)?;
            let all = [table.gradient()?, w.gradient()?, b.gradient()?];
            clip::forward(recorder, &all, Tensor::scalar(&self.norm, 0)?, clip::Options { max_norm: 1.0 })?;
            for parameter in &self.parameters {
                let state = adam::State { m: parameter.view(2)?, v: parameter.view(3)?, most: None };
                adam::step(recorder, parameter.gradient()?, parameter.value()?, state, options)?;
            }
            Ok(())
        })
    }

    /// One pass over the text in random order. Returns the mean loss of the batches.
    pub fn epoch(&mut self, gpu: &Gpu, text: &[u32], random: &mut Random) -> Result<f64> {
        let mut places: Vec<usize> = (CONTEXT..text.len()).collect();
        for last in (1..places.len()).rev() {
            places.swap(last, random.below(last as u32 + 1) as usize);
        }
        let mut sum = 0.0;
        for batch in places.chunks(BATCH) {
            self.load(gpu, text, batch)?;
            self.step(gpu, batch.len())?;
            sum += f64::from(gpu.read(self.loss()?)?[0]) * batch.len() as f64;
        }
        Ok(sum / places.len() as f64)
    }

    /// The perplexity, and the share of words predicted correctly.
    pub fn measure(&self, gpu: &Gpu, text: &[u32]) -> Result<[f64; 2]> {
        let places: Vec<usize> = (CONTEXT..text.len()).collect();
        let (mut sum, mut right) = (0.0, 0);
        let options = linear_cross_entropy::Options { reduction: Reduction::Sum, ..Default::default() };
        for batch in places.chunks(BATCH) {
            self.load(gpu, text, batch)?;
            let predicted = Tensor::vector(&self.predicted, batch.len())?;
            gpu.run(|recorder| {
                let (loss, of) = (self.loss()?, self.forward(recorder, batch.len())?);
                linear_cross_entropy::forward(recorder, of, loss, None, Some(predicted), Gradients::default(), options)
            })?;
            sum += f64::from(gpu.read(self.loss()?)?[0]);
            right += gpu.read(predicted)?.iter().zip(batch).filter(|&(&word, &at)| word == text[at]).count();
        }
        Ok([(sum / places.len() as f64).exp(), right as f64 / places.len() as f64])
    }
}
