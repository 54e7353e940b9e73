use super::host;
use super::matrix::Matrix;
use super::optimizer::Optimizer;
use super::pairs::{WEIGHTS, check_rows};
use super::tower::Maps;
use super::{Config, Pairs};
use crate::{Error, Gpu, Random, Result, sgd};

/// Rows are embedded in parts, such that the widest layer has at most this many numbers per part.
const AT_ONCE: usize = 1 << 22;

/// Shape and numbers of a tensor.
type Named = (Vec<usize>, Vec<f32>);

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

/// One side's encoder: `hidden` and tanh, if there is a hidden map, then `output`, then normalization to unit length.
#[derive(Debug, Clone, PartialEq)]
pub struct Tower {
    /// The first of two linear maps.
    pub hidden: Option<Layer>,
    /// The last linear map.
    pub output: Layer,
}

/// Both towers and the scale of the scores.
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
    /// Weights row by row, then biases, all uniform in ±1/√inputs (torch.nn.Linear's distribution).
    pub(super) fn random(inputs: usize, outputs: usize, random: &mut Random) -> Layer {
        let bound = (1.0 / (inputs as f64).sqrt()) as f32;
        let mut draw = |count: usize| (0..count).map(|_| (2.0 * random.uniform() - 1.0) * bound).collect();
        Layer { weight: draw(outputs * inputs), bias: draw(outputs), inputs, outputs }
    }

    /// A map from a weight tensor `[outputs, inputs]` and a bias tensor `[outputs]`.
    fn of(name: &str, weight: Option<Named>, bias: Option<Named>) -> Result<Layer> {
        let shapes = [&weight, &bias].map(|tensor| tensor.as_ref().map(|(shape, data)| (shape.clone(), data.len())));
        if let (Some((shape, weight)), Some((of_bias, bias))) = (weight, bias) {
            if let ([outputs, inputs], [count]) = (&shape[..], &of_bias[..]) {
                let layer = Layer { weight, bias, inputs: *inputs, outputs: *outputs };
                if count == outputs && layer.is_whole() {
                    return Ok(layer);
                }
            }
        }
        let expected = "weight [outputs, inputs] and bias [outputs]".into();
        let found =
            shapes.map(|shape| shape.map_or("none".into(), |(shape, len)| format!("{len} numbers of {shape:?}")));
        Err(Error::Data { what: name.into(), expected, found: found.join(" and ") })
    }

    fn is_whole(&self) -> bool {
        let numbers = self.outputs.saturating_mul(self.inputs);
        numbers > 0 && self.weight.len() == numbers && self.bias.len() == self.outputs
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

    /// Embeddings `[n, outputs]` of rows `[n, inputs]`, of unit length as in training. Computed on `gpu`, or by the f64
    /// reference on the CPU if `gpu` is `None`.
    ///
    /// ```
    /// # fn main() -> wgloss::Result<()> {
    /// use wgloss::train::{Config, Pairs, fit};
    /// let rows: Vec<f32> = (0..64 * 4).map(|i| (i * 37 % 97) as f32 / 97.0 - 0.5).collect();
    /// let pairs = Pairs::new(rows.clone(), 4, rows.clone(), 4)?;
    /// let outcome = fit(None, &pairs, &Config::for_embeddings(&pairs), &mut |_| std::ops::ControlFlow::Continue(()))?;
    /// let embedded = outcome.model.query.embed(None, &rows)?;
    /// let length = embedded[..4].iter().map(|value| value * value).sum::<f32>().sqrt();
    /// assert!((length - 1.0).abs() < 1e-6);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Data`] for rows that are not whole or not finite, for rows whose layers overflow f32, and for layers
    /// that do not fit each other; any error of the device.
    pub fn embed(&self, gpu: Option<&Gpu>, rows: &[f32]) -> Result<Vec<f32>> {
        let inputs = self.layers().next().map_or(0, |layer| layer.inputs);
        let fits = self.hidden.as_ref().is_none_or(|hidden| hidden.outputs == self.output.inputs);
        if let Some(layer) = self.layers().find(|layer| !(fits && layer.is_whole())) {
            let Layer { weight, bias, inputs, outputs } = layer;
            return Err(Error::Data {
                what: "a tower".into(),
                expected:
                    "weights [outputs, inputs] and biases [outputs] of layers, each as wide as the one before gives"
                        .into(),
                found: format!("{} and {} numbers of a layer from {inputs} to {outputs}", weight.len(), bias.len()),
            });
        }
        check_rows("rows", rows, inputs)?;
        let widest = self.layers().map(|layer| layer.inputs.max(layer.outputs)).max().unwrap_or(1);
        let at_once = (AT_ONCE / widest).clamp(1, (rows.len() / inputs).max(1));
        let parts = rows.chunks(at_once * inputs);
        let dim = self.output.outputs;
        let Some(gpu) = gpu else { return finite(parts.flat_map(|rows| host::embed(self, rows)).collect(), dim) };
        let maps = Maps::new(gpu, dim, self.layers(), at_once, Optimizer::Sgd(sgd::Options::default()))?;
        let unit = Matrix::new(gpu, at_once, dim)?;
        let mut embedded = Vec::with_capacity(rows.len() / inputs * dim);
        for part in parts {
            let count = part.len() / inputs;
            gpu.write(maps.x().first(count)?, part)?;
            gpu.run(|recorder| maps.embed(recorder, unit.first(count)?))?;
            embedded.extend(gpu.read(unit.first(count)?)?);
        }
        finite(embedded, dim)
    }

    /// The linear maps in the order of use.
    pub fn layers(&self) -> impl Iterator<Item = &Layer> {
        self.hidden.iter().chain([&self.output])
    }

    pub(super) fn layers_mut(&mut self) -> impl Iterator<Item = &mut Layer> {
        self.hidden.iter_mut().chain([&mut self.output])
    }
}

/// Refuses embeddings that are not finite because a layer overflowed f32.
fn finite(embedded: Vec<f32>, dim: usize) -> Result<Vec<f32>> {
    match embedded.iter().position(|value| !value.is_finite()) {
        Some(at) => Err(Error::Data {
            what: "rows".into(),
            expected: "numbers whose layers f32 holds".into(),
            found: format!("row {}, which gives {}", at / dim, embedded[at]),
        }),
        None => Ok(embedded),
    }
}

impl Model {
    /// The initial weights.
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

    /// The model with these [`Model::tensors`]. `find` returns the shape and the numbers of the tensor with a given
    /// name.
    ///
    /// # Errors
    /// [`Error::Data`] names the layer that is missing or whose numbers do not match its shape.
    pub fn from_tensors(mut find: impl FnMut(&str) -> Option<(Vec<usize>, Vec<f32>)>) -> Result<Model> {
        let mut tower = |side: &str| -> Result<Tower> {
            let mut layer = |name: &str| {
                let name = format!("{side}.{name}");
                let [weight, bias] = ["weight", "bias"].map(|part| find(&format!("{name}.{part}")));
                let is_there = weight.is_some() || bias.is_some();
                (is_there, Layer::of(&name, weight, bias))
            };
            let hidden = match layer("hidden") {
                (false, _) => None,
                (true, hidden) => Some(hidden?),
            };
            Ok(Tower { hidden, output: layer("output").1? })
        };
        let (query, key) = (tower("query")?, tower("key")?);
        match find("log_scale") {
            Some((_, log_scale)) if log_scale.len() == 1 => Ok(Model { query, key, log_scale: log_scale[0] }),
            found => {
                let found = found.map_or("none".into(), |(shape, _)| format!("{shape:?}"));
                Err(Error::Data { what: "log_scale".into(), expected: "one number".into(), found })
            }
        }
    }

    pub(super) fn is_finite(&self) -> bool {
        self.tensors().iter().all(|(.., data)| data.iter().all(|value| value.is_finite()))
    }
}
