//! Training by the f64 reference, for machines without an adapter.

use super::{Config, Engine, Model, Optimizer, Pairs, Tower};
use crate::reference::info_nce::{Batch, Gradients, Negatives, Positive};
use crate::reference::{adam, clip, info_nce, linear, normalize, sgd, tanh};
use crate::{Result, Watch, normalize::Options as Unit};

pub(super) struct Host<'a> {
    pairs: &'a Pairs,
    config: &'a Config,
    template: Model,
    sides: [Side; 2],
    log_scale: Parameter,
    /// Past keys, and the ids, labels or indices of their pairs.
    memory: (Vec<f64>, Vec<u32>),
    losses: Vec<f32>,
}

/// One tower's maps.
struct Side {
    layers: Vec<Map>,
}

struct Map {
    inputs: usize,
    outputs: usize,
    weight: Parameter,
    bias: Parameter,
}

struct Parameter {
    /// Whether weight decay applies: not to biases and the learned temperature.
    decays: bool,
    value: Vec<f64>,
    gradient: Vec<f64>,
    states: [Vec<f64>; 2],
}

impl Parameter {
    fn new(value: &[f32]) -> Self {
        let states = [vec![0.0; value.len()], vec![0.0; value.len()]];
        Parameter { decays: true, value: wide(value), gradient: Vec::new(), states }
    }

    fn undecayed(value: &[f32]) -> Self {
        Parameter { decays: false, ..Parameter::new(value) }
    }

    fn step(&mut self, optimizer: Optimizer) {
        let [m, v] = &mut self.states;
        match if self.decays { optimizer } else { optimizer.without_decay() } {
            Optimizer::Sgd(options) => sgd::step(&self.gradient, &mut self.value, m, options),
            Optimizer::Adam(options) => adam::step(&self.gradient, &mut self.value, [m, v, &mut []], options),
        }
    }
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| value.into()).collect()
}

fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&value| value as f32).collect()
}

/// Embeddings of rows by a tower.
pub(super) fn embed(tower: &Tower, rows: &[f32]) -> Vec<f32> {
    narrow(&Side::new(tower).forward(wide(rows)).unit)
}

/// The first `length` of the `dim` numbers of each row.
fn prefix(rows: &[f64], dim: usize, length: usize) -> Vec<f64> {
    rows.chunks(dim).flat_map(|row| &row[..length]).copied().collect()
}

/// Results of the forward pass that the backward pass needs.
struct Trace {
    /// Each map's input.
    inputs: Vec<Vec<f64>>,
    /// The last map's output.
    raw: Vec<f64>,
    unit: Vec<f64>,
}

impl Side {
    fn new(tower: &Tower) -> Side {
        let map = |layer: &super::Layer| Map {
            inputs: layer.inputs,
            outputs: layer.outputs,
            weight: Parameter::new(&layer.weight),
            bias: Parameter::undecayed(&layer.bias),
        };
        Side { layers: tower.layers().map(map).collect() }
    }

    fn forward(&self, x: Vec<f64>) -> Trace {
        let rows = x.len() / self.layers[0].inputs;
        let mut trace = Trace { inputs: vec![x], raw: Vec::new(), unit: Vec::new() };
        let mut dim = 0;
        for (index, map) in self.layers.iter().enumerate() {
            let (weight, bias) = (&map.weight.value, Some(map.bias.value.as_slice()));
            let y = linear::forward(&trace.inputs[index], weight, bias, map.inputs, map.outputs, rows);
            if index + 1 < self.layers.len() {
                trace.inputs.push(tanh::forward(&y));
            } else {
                (trace.raw, dim) = (y, map.outputs);
            }
        }
        trace.unit = normalize::forward(&trace.raw, dim, Unit::default());
        trace
    }

    fn backward(&mut self, trace: &Trace, d_unit: &[f64], config: &Config) {
        let mut dy = normalize::backward(&trace.raw, d_unit, config.dim, Unit::default());
        for (index, map) in self.layers.iter_mut().enumerate().rev() {
            let x = &trace.inputs[index];
            let rows = x.len() / map.inputs;
            let (dx, dw, db) = linear::backward(x, &map.weight.value, &dy, map.inputs, map.outputs, rows);
            (map.weight.gradient, map.bias.gradient) = (dw, db);
            dy = if index > 0 { tanh::backward(x, &dx) } else { dx };
        }
    }
}

impl<'a> Host<'a> {
    pub(super) fn new(pairs: &'a Pairs, config: &'a Config, start: &Model) -> Self {
        Host {
            pairs,
            config,
            template: start.clone(),
            sides: [Side::new(&start.query), Side::new(&start.key)],
            log_scale: Parameter::undecayed(&[start.log_scale]),
            memory: Default::default(),
            losses: Vec::new(),
        }
    }

    fn embed(&self, ids: &[u32]) -> [Trace; 2] {
        [0, 1].map(|side| self.sides[side].forward(wide(&self.pairs.gather(side, ids))))
    }
}

impl Engine for Host<'_> {
    fn step(&mut self, ids: &[u32], [optimizer, of_scale]: [Optimizer; 2], _: Watch) -> Result<()> {
        let traces = self.embed(ids);
        let [q, k] = [&traces[0].unit, &traces[1].unit];
        let options = self.config.loss();
        let known_by = &self.pairs.ids_of(ids)[..];
        let shared = Negatives { k: &self.memory.0, ids: &self.memory.1, ..Default::default() };
        let log_scale = Some(self.log_scale.value[0]);
        let weight: Vec<f64> = self.pairs.weights_of(ids).map_or_else(Vec::new, |weights| wide(&weights));
        let labels = self.pairs.has_labels();
        let positive = if labels { Positive::Groups(known_by, known_by) } else { Positive::Own };
        let ids = Some((known_by, known_by));
        let batch = Batch { log_scale, shared, ids, positive, weight: &weight, ..Batch::new(q, k, self.config.dim) };
        let mut loss = info_nce::forward(batch, options)[0];
        let Gradients { mut dq, mut dk, mut d_log_scale, .. } = info_nce::backward(batch, &[], options);
        let dim = self.config.dim;
        for &length in &self.config.matryoshka {
            let (q, k, memory) = (prefix(q, dim, length), prefix(k, dim, length), prefix(&self.memory.0, dim, length));
            let shared = Negatives { k: &memory, ..shared };
            let (batch, options) = (Batch { q: &q, k: &k, shared, dim: length, ..batch }, self.config.loss_of_prefix());
            loss += info_nce::forward(batch, options)[0];
            let of_prefix = info_nce::backward(batch, &[], options);
            for (sum, part) in [(&mut dq, of_prefix.dq), (&mut dk, of_prefix.dk)] {
                for (sum, part) in sum.chunks_mut(dim).zip(part.chunks(length)) {
                    sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
                }
            }
            d_log_scale += of_prefix.d_log_scale;
        }
        self.losses.push(loss as f32);
        let (keys, pairs) = &mut self.memory;
        keys.extend_from_slice(k);
        pairs.extend_from_slice(known_by);
        let past = pairs.len().saturating_sub(self.config.queue);
        keys.drain(..past * self.config.dim);
        pairs.drain(..past);
        for ((side, trace), gradient) in self.sides.iter_mut().zip(&traces).zip([dq, dk]) {
            side.backward(trace, &gradient, self.config);
        }
        self.log_scale.gradient = vec![d_log_scale];
        let maps = self.sides.iter_mut().flat_map(|side| &mut side.layers);
        let mut parameters: Vec<&mut Parameter> = maps.flat_map(|map| [&mut map.weight, &mut map.bias]).collect();
        if let Some(max_norm) = self.config.clip {
            let all = parameters.iter_mut().map(|parameter| &mut **parameter).chain([&mut self.log_scale]);
            let mut gradients: Vec<&mut [f64]> = all.map(|parameter| parameter.gradient.as_mut_slice()).collect();
            clip::forward(&mut gradients, crate::clip::Options { max_norm });
        }
        parameters.into_iter().for_each(|parameter| parameter.step(optimizer));
        self.log_scale.step(of_scale);
        let most = crate::ops::info_nce::most_log_scale(self.config.loss.max_scale).into();
        self.log_scale.value.iter_mut().for_each(|log_scale| *log_scale = log_scale.min(most));
        Ok(())
    }

    fn losses(&mut self) -> Result<(Vec<f32>, f32)> {
        Ok((core::mem::take(&mut self.losses), self.log_scale.value[0] as f32))
    }

    fn ranks(&mut self, ids: &[u32], _: Watch) -> Result<Vec<Vec<u32>>> {
        let [q, k] = self.embed(ids);
        let (same, dim) = (self.pairs.ids_of(ids), self.config.dim);
        let rank = |q: &[f64], k: &[f64], dim| info_nce::rank(q, k, dim, Some((&same, &same)));
        let cut = |rows: &[f64], length| normalize::forward(&prefix(rows, dim, length), length, Unit::default());
        let of_prefix = |&length| rank(&cut(&q.unit, length), &cut(&k.unit, length), length);
        let whole = rank(&q.unit, &k.unit, dim);
        Ok([whole].into_iter().chain(self.config.matryoshka.iter().map(of_prefix)).collect())
    }

    fn model(&self) -> Result<Model> {
        let mut model = self.template.clone();
        for (tower, side) in [&mut model.query, &mut model.key].into_iter().zip(&self.sides) {
            for (layer, map) in tower.layers_mut().zip(&side.layers) {
                (layer.weight, layer.bias) = (narrow(&map.weight.value), narrow(&map.bias.value));
            }
        }
        model.log_scale = self.log_scale.value[0] as f32;
        Ok(model)
    }
}
