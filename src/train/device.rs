//! Training on a device: a step is one submit, its loss stays on the device until asked for.

use super::matrix::{Ids, Matrix};
use super::{Config, Engine, Layer, Model, Optimizer, Pairs, STEPS_PER_READ, Tower};
use crate::{Accum, Error, Gpu, Recorder, Result, Tensor, Watch, clip, gather, info_nce, linear, normalize, tanh};

pub(super) struct Device<'a> {
    gpu: &'a Gpu,
    pairs: &'a Pairs,
    config: &'a Config,
    template: Model,
    sides: [Side; 2],
    log_scale: Parameter,
    memory: Memory,
    /// Of the batch's pairs.
    ids: Ids,
    norm: Matrix,
    state: Matrix,
    losses: Matrix,
    /// Losses since the last read.
    steps: usize,
}

/// Past keys and the pairs that they are of.
struct Memory {
    queue: info_nce::Queue,
    ring: Matrix,
    ring_ids: Ids,
}

impl Memory {
    fn new(gpu: &Gpu, config: &Config) -> Result<Memory> {
        Ok(Memory {
            queue: info_nce::Queue::new(config.queue),
            ring: Matrix::new(gpu, config.queue, config.dim)?,
            ring_ids: Ids::new(gpu, config.queue)?,
        })
    }

    fn ring(&self) -> Result<info_nce::Negatives<'_>> {
        Ok(info_nce::Negatives { ids: Some(self.ring_ids.view()?), ..self.ring.view()?.into() })
    }
}

/// A parameter, its gradient and what its optimizer keeps.
struct Parameter {
    value: Matrix,
    gradient: Matrix,
    states: Vec<Matrix>,
}

impl Parameter {
    fn new(gpu: &Gpu, data: &[f32], cols: usize, optimizer: Optimizer) -> Result<Parameter> {
        let value = Matrix::of(gpu, data, cols)?;
        let like = || Matrix::new(gpu, value.rows, value.cols);
        let (gradient, states) = (like()?, (0..optimizer.states()).map(|_| like()).collect::<Result<_>>()?);
        Ok(Parameter { value, gradient, states })
    }

    fn step(&self, recorder: &mut Recorder, optimizer: Optimizer) -> Result<()> {
        let states = self.states.iter().map(Matrix::view).collect::<Result<Vec<_>>>()?;
        optimizer.step(recorder, self.gradient.view()?, self.value.view()?, &states)
    }
}

/// A linear map with its input and what it gives, for one batch.
struct Map {
    weight: Parameter,
    bias: Parameter,
    x: Matrix,
    dx: Matrix,
    y: Matrix,
    dy: Matrix,
}

impl Map {
    fn new(gpu: &Gpu, layer: &Layer, config: &Config) -> Result<Map> {
        let batch = config.batch;
        Ok(Map {
            weight: Parameter::new(gpu, &layer.weight, layer.inputs, config.optimizer)?,
            bias: Parameter::new(gpu, &layer.bias, 1, config.optimizer)?,
            x: Matrix::new(gpu, batch, layer.inputs)?,
            dx: Matrix::new(gpu, batch, layer.inputs)?,
            y: Matrix::new(gpu, batch, layer.outputs)?,
            dy: Matrix::new(gpu, batch, layer.outputs)?,
        })
    }
}

/// One tower.
struct Side {
    maps: Vec<Map>,
    /// All rows that batches are gathered from; none where the device has no room for them: then the host gathers.
    data: Option<Matrix>,
    unit: Matrix,
    d_unit: Matrix,
}

impl Side {
    fn new(gpu: &Gpu, tower: &Tower, data: &[f32], config: &Config) -> Result<Side> {
        let (batch, dim) = (config.batch, tower.output.outputs);
        let maps = tower.layers().map(|layer| Map::new(gpu, layer, config)).collect::<Result<Vec<_>>>()?;
        let data = match Matrix::of(gpu, data, maps[0].x.cols) {
            Err(Error::Limit { .. } | Error::OutOfMemory { .. }) => None,
            data => Some(data?),
        };
        Ok(Side { maps, data, unit: Matrix::new(gpu, batch, dim)?, d_unit: Matrix::new(gpu, batch, dim)? })
    }

    /// Embeds the first rows of the first map's input into `unit`.
    fn forward(&self, recorder: &mut Recorder, unit: Tensor) -> Result<()> {
        let rows = unit.rows();
        for (index, map) in self.maps.iter().enumerate() {
            let (weight, bias) = (map.weight.value.view()?, map.bias.value.view()?);
            linear::forward(recorder, map.x.first(rows)?, weight, Some(bias), map.y.first(rows)?)?;
            match self.maps.get(index + 1) {
                Some(next) => tanh::forward(recorder, map.y.first(rows)?, next.x.first(rows)?)?,
                None => normalize::forward(recorder, map.y.first(rows)?, unit, normalize::Options::default())?,
            }
        }
        Ok(())
    }

    fn backward(&self, recorder: &mut Recorder) -> Result<()> {
        for (index, map) in self.maps.iter().enumerate().rev() {
            match self.maps.get(index + 1) {
                Some(next) => tanh::backward(recorder, next.x.view()?, next.dx.view()?, map.dy.view()?)?,
                None => {
                    let (y, d_unit, dy) = (map.y.view()?, self.d_unit.view()?, map.dy.view()?);
                    normalize::backward(recorder, y, d_unit, dy, normalize::Options::default())?;
                }
            }
            let (x, weight, dy) = (map.x.view()?, map.weight.value.view()?, map.dy.view()?);
            let dx = if index > 0 { Some(map.dx.view()?) } else { None };
            let (dw, db) = (map.weight.gradient.view()?, map.bias.gradient.view()?);
            linear::backward(recorder, x, weight, dy, dx, Some(dw), Some(db), Accum::Write)?;
        }
        Ok(())
    }

    fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        self.maps.iter().flat_map(|map| [&map.weight, &map.bias])
    }
}

impl<'a> Device<'a> {
    pub(super) fn new(gpu: &'a Gpu, pairs: &'a Pairs, config: &'a Config, start: &Model) -> Result<Self> {
        let [queries, keys] = pairs.data();
        let sides = [Side::new(gpu, &start.query, queries, config)?, Side::new(gpu, &start.key, keys, config)?];
        let batch = info_nce::Batch::new(sides[0].unit.view()?, sides[1].unit.view()?);
        let [lines, columns] = batch.state_shape(config.loss());
        Ok(Device {
            gpu,
            pairs,
            config,
            template: start.clone(),
            sides,
            log_scale: Parameter::new(gpu, &[start.log_scale], 1, config.optimizer)?,
            memory: Memory::new(gpu, config)?,
            ids: Ids::new(gpu, config.batch)?,
            norm: Matrix::new(gpu, 1, 1)?,
            state: Matrix::new(gpu, lines, columns)?,
            losses: Matrix::new(gpu, STEPS_PER_READ, 1)?,
            steps: 0,
        })
    }

    /// Tells the device which pairs come next, and hands it the rows that it cannot gather itself.
    fn announce(&self, ids: &[u32]) -> Result<()> {
        self.gpu.write(self.ids.first(ids.len())?, ids)?;
        for (which, side) in self.sides.iter().enumerate().filter(|(_, side)| side.data.is_none()) {
            self.gpu.write(side.maps[0].x.first(ids.len())?, &self.pairs.gather(which, ids))?;
        }
        Ok(())
    }

    fn load(&self, recorder: &mut Recorder, ids: Tensor<u32>) -> Result<()> {
        for side in &self.sides {
            if let Some(data) = &side.data {
                gather::forward(recorder, data.view()?, ids, side.maps[0].x.first(ids.rows())?)?;
            }
        }
        Ok(())
    }
}

impl Engine for Device<'_> {
    fn step(&mut self, ids: &[u32], [optimizer, of_scale]: [Optimizer; 2], watch: Watch) -> Result<()> {
        self.announce(ids)?;
        let [query, key] = &self.sides;
        let (q, k, state) = (query.unit.view()?, key.unit.view()?, self.state.view()?);
        let (ids, ring) = (self.ids.view()?, self.memory.ring()?);
        let mut queue = self.memory.queue;
        let shared = queue.view(ring);
        let batch = info_nce::Batch {
            shared,
            ids: shared.map(|_| (ids, ids)),
            ..info_nce::Batch::new(q, k).scaled(self.log_scale.value.view()?)
        };
        let gradients = info_nce::Gradients {
            dq: Some(query.d_unit.view()?),
            dk: Some(key.d_unit.view()?),
            d_log_scale: Some(self.log_scale.gradient.view()?),
            ..Default::default()
        };
        let loss = self.losses.view()?.row_range(self.steps..self.steps + 1);
        let step = |recorder: &mut Recorder| {
            self.load(recorder, ids)?;
            query.forward(recorder, q)?;
            key.forward(recorder, k)?;
            info_nce::forward(recorder, batch, loss, state, gradients, self.config.loss())?;
            queue.push(recorder, info_nce::Negatives { ids: Some(ids), ..k.into() }, ring)?;
            query.backward(recorder)?;
            key.backward(recorder)?;
            let parameters: Vec<&Parameter> = query.parameters().chain(key.parameters()).collect();
            if let Some(max_norm) = self.config.clip {
                let all = parameters.iter().copied().chain([&self.log_scale]);
                let gradients = all.map(|parameter| parameter.gradient.view()).collect::<Result<Vec<_>>>()?;
                clip::forward(recorder, &gradients, self.norm.view()?, clip::Options { max_norm })?;
            }
            parameters.into_iter().try_for_each(|parameter| parameter.step(recorder, optimizer))?;
            self.log_scale.step(recorder, of_scale)
        };
        self.gpu.run_watched(step, watch)?;
        self.memory.queue = queue;
        self.steps += 1;
        Ok(())
    }

    fn losses(&mut self) -> Result<(Vec<f32>, f32)> {
        let losses = self.gpu.read(self.losses.first(self.steps)?)?;
        self.steps = 0;
        Ok((losses, self.gpu.read(self.log_scale.value.view()?)?[0]))
    }

    fn ranks(&mut self, ids: &[u32], watch: Watch) -> Result<Vec<u32>> {
        let [queries, keys] =
            [Matrix::new(self.gpu, ids.len(), self.config.dim)?, Matrix::new(self.gpu, ids.len(), self.config.dim)?];
        for (index, part) in ids.chunks(self.config.batch).enumerate() {
            self.announce(part)?;
            let rows = index * self.config.batch..index * self.config.batch + part.len();
            self.gpu.run(|recorder| {
                self.load(recorder, self.ids.first(part.len())?)?;
                self.sides[0].forward(recorder, queries.view()?.row_range(rows.clone()))?;
                self.sides[1].forward(recorder, keys.view()?.row_range(rows))
            })?;
        }
        let ranks = self.gpu.zeros::<u32>(ids.len())?;
        let ranks = Tensor::<u32>::vector(&ranks, ids.len())?;
        self.gpu.run_watched(|recorder| info_nce::rank(recorder, queries.view()?, keys.view()?, ranks), watch)?;
        self.gpu.read(ranks)
    }

    fn model(&self) -> Result<Model> {
        let mut model = self.template.clone();
        for (tower, side) in [&mut model.query, &mut model.key].into_iter().zip(&self.sides) {
            for (layer, map) in tower.layers_mut().zip(&side.maps) {
                layer.weight = self.gpu.read(map.weight.value.view()?)?;
                layer.bias = self.gpu.read(map.bias.value.view()?)?;
            }
        }
        model.log_scale = self.gpu.read(self.log_scale.value.view()?)?[0];
        Ok(model)
    }
}
