use super::pairs::WEIGHTS;
use super::{Config, Pairs};
use crate::Random;

/// A linear map, y = x · weightᵀ + bias.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// `[outputs, inputs]`, row-major.
    pub weight: Vec<f32>,
    /// `[outputs]`.
    pub bias: Vec<f32>,
    /// Width of x.
    pub inputs: usize,
    /// Width of y.
    pub outputs: usize,
}

/// One side's encoder: `hidden` then tanh, if there is one, then `output`, then unit length.
#[derive(Debug, Clone, PartialEq)]
pub struct Tower {
    /// The first of two maps.
    pub hidden: Option<Layer>,
    /// The last map.
    pub output: Layer,
}

/// Both towers and the scale.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// The queries' encoder.
    pub query: Tower,
    /// The keys' encoder.
    pub key: Tower,
    /// ln(1/temperature).
    pub log_scale: f32,
}

impl Layer {
    /// Uniform in ±1/√inputs, weights row by row, then biases (torch.nn.Linear's distribution).
    pub(super) fn random(inputs: usize, outputs: usize, random: &mut Random) -> Layer {
        let bound = (1.0 / (inputs as f64).sqrt()) as f32;
        let mut draw = |count: usize| (0..count).map(|_| (2.0 * random.uniform() - 1.0) * bound).collect();
        Layer { weight: draw(outputs * inputs), bias: draw(outputs), inputs, outputs }
    }

    fn identity(width: usize) -> Layer {
        let weight = (0..width * width).map(|at| f32::from(u8::from(at / width == at % width))).collect();
        Layer { weight, bias: vec![0.0; width], inputs: width, outputs: width }
    }
}

impl Tower {
    fn new(inputs: usize, config: &Config, random: &mut Random) -> Tower {
        match config.hidden {
            0 if inputs == config.dim => Tower { hidden: None, output: Layer::identity(inputs) },
            0 => Tower { hidden: None, output: Layer::random(inputs, config.dim, random) },
            hidden => Tower {
                hidden: Some(Layer::random(inputs, hidden, random)),
                output: Layer::random(hidden, config.dim, random),
            },
        }
    }

    /// The maps in the order of use.
    pub fn layers(&self) -> impl Iterator<Item = &Layer> {
        self.hidden.iter().chain([&self.output])
    }

    pub(super) fn layers_mut(&mut self) -> impl Iterator<Item = &mut Layer> {
        self.hidden.iter_mut().chain([&mut self.output])
    }
}

impl Model {
    /// The weights that training starts with.
    pub(super) fn new(pairs: &Pairs, config: &Config) -> Model {
        let mut random = Random::new(config.seed, WEIGHTS);
        let query = Tower::new(pairs.query_cols(), config, &mut random);
        let key = Tower::new(pairs.key_cols(), config, &mut random);
        let log_scale = (1.0 / f64::from(config.temperature)).ln() as f32;
        Model { query, key, log_scale }
    }

    /// Every tensor with its name and shape: `query.hidden.weight` `[hidden, inputs]`, `query.hidden.bias` `[hidden]`,
    /// `query.output.weight` `[dim, hidden]`, `query.output.bias` `[dim]`, the same for `key`, and `log_scale` `[1]`.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>, &[f32])> {
        let mut tensors = Vec::new();
        for (side, tower) in [("query", &self.query), ("key", &self.key)] {
            let named = tower.hidden.iter().map(|layer| ("hidden", layer)).chain([("output", &tower.output)]);
            for (name, layer) in named {
                let shape = vec![layer.outputs, layer.inputs];
                tensors.push((format!("{side}.{name}.weight"), shape, layer.weight.as_slice()));
                tensors.push((format!("{side}.{name}.bias"), vec![layer.outputs], layer.bias.as_slice()));
            }
        }
        tensors.push(("log_scale".to_owned(), vec![1], core::slice::from_ref(&self.log_scale)));
        tensors
    }

    pub(super) fn is_finite(&self) -> bool {
        self.tensors().iter().all(|(.., data)| data.iter().all(|value| value.is_finite()))
    }
}
