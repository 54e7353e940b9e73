//! Training on a device. A step is one submit, and its loss stays on the device until it is read.

use super::matrix::{Ids, Matrix};
use super::tower::{Maps, Parameter};
use super::{Config, Engine, Model, Optimizer, Pairs, STEPS_PER_READ, Tower};
use crate::info_nce::Positive;
use crate::{Error, Gpu, Recorder, Result, Tensor, Watch, clip, gather, info_nce, normalize};

pub(super) struct Device<'a> {
    gpu: &'a Gpu,
    pairs: &'a Pairs,
    config: &'a Config,
    template: Model,
    sides: [Side; 2],
    log_scale: Parameter,
    memory: Memory,
    known: Known,
    norm: Matrix,
    state: Matrix,
    losses: Matrix,
    /// Steps since the losses were last read.
    steps: usize,
}

/// The ids, labels and weights of a batch's pairs.
struct Known {
    /// Indices of the pairs.
    ids: Ids,
    /// Ids or labels of the pairs, if they have any; and whether pairs with the same one are positives of each other.
    same: Option<Ids>,
    are_positives: bool,
    weights: Option<Matrix>,
}

impl Known {
    fn new(gpu: &Gpu, pairs: &Pairs, batch: usize) -> Result<Known> {
        Ok(Known {
            ids: Ids::new(gpu, batch)?,
            same: pairs.has_ids().then(|| Ids::new(gpu, batch)).transpose()?,
            are_positives: pairs.has_labels(),
            weights: pairs.has_weights().then(|| Matrix::new(gpu, batch, 1)).transpose()?,
        })
    }

    fn write(&self, gpu: &Gpu, pairs: &Pairs, ids: &[u32]) -> Result<()> {
        gpu.write(self.ids.first(ids.len())?, ids)?;
        if let Some(same) = &self.same {
            gpu.write(same.first(ids.len())?, &pairs.ids_of(ids))?;
        }
        if let Some((weights, of_pairs)) = self.weights.as_ref().zip(pairs.weights_of(ids)) {
            gpu.write(weights.first(ids.len())?, &of_pairs)?;
        }
        Ok(())
    }

    /// What identifies each pair: its id or label, or its index if it has none.
    fn by(&self) -> Result<Tensor<'_, u32>> {
        self.same.as_ref().unwrap_or(&self.ids).view()
    }

    /// A batch of queries and keys of these pairs.
    fn batch<'a>(&'a self, q: Tensor<'a>, k: Tensor<'a>) -> Result<info_nce::Batch<'a>> {
        let by = self.by()?;
        Ok(info_nce::Batch {
            weight: self.weights.as_ref().map(Matrix::view).transpose()?,
            positive: if self.are_positives { Positive::Groups(by, by) } else { Positive::Own },
            ids: self.same.is_some().then_some((by, by)),
            ..info_nce::Batch::new(q, k)
        })
    }
}

/// Past keys, and what identifies their pairs.
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

/// One tower.
struct Side {
    maps: Maps,
    /// All rows that batches are gathered from. `None` if the device has no room for them; the host gathers then.
    data: Option<Matrix>,
    unit: Matrix,
    d_unit: Matrix,
}

impl Side {
    fn new(gpu: &Gpu, tower: &Tower, data: &[f32], config: &Config) -> Result<Side> {
        let (batch, dim) = (config.batch, tower.output.outputs);
        let maps = Maps::new(gpu, dim, tower.layers(), batch, config.optimizer)?;
        let data = match Matrix::of(gpu, data, maps.x().cols) {
            Err(Error::Limit { .. } | Error::OutOfMemory { .. }) => None,
            data => Some(data?),
        };
        Ok(Side { maps, data, unit: Matrix::new(gpu, batch, dim)?, d_unit: Matrix::new(gpu, batch, dim)? })
    }

    fn backward(&self, recorder: &mut Recorder) -> Result<()> {
        let (y, d_unit, dy) = (self.maps.y().view()?, self.d_unit.view()?, self.maps.dy().view()?);
        normalize::backward(recorder, y, d_unit, dy, normalize::Options::default())?;
        self.maps.backward(recorder, false)
    }
}

impl<'a> Device<'a> {
    pub(super) fn new(gpu: &'a Gpu, pairs: &'a Pairs, config: &'a Config, start: &Model) -> Result<Self> {
        let [queries, keys] = pairs.data();
        let sides = [Side::new(gpu, &start.query, queries, config)?, Side::new(gpu, &start.key, keys, config)?];
        let known = Known::new(gpu, pairs, config.batch)?;
        let batch = known.batch(sides[0].unit.view()?, sides[1].unit.view()?)?;
        let [lines, columns] = batch.state_shape(config.loss());
        Ok(Device {
            gpu,
            pairs,
            config,
            template: start.clone(),
            sides,
            log_scale: Parameter::undecayed(gpu, &[start.log_scale], config.optimizer)?,
            memory: Memory::new(gpu, config)?,
            known,
            norm: Matrix::new(gpu, 1, 1)?,
            state: Matrix::new(gpu, lines, columns)?,
            losses: Matrix::new(gpu, STEPS_PER_READ, config.loss_count())?,
            steps: 0,
        })
    }

    /// Writes which pairs come next, and the rows that the device cannot gather itself.
    fn announce(&self, ids: &[u32]) -> Result<()> {
        self.known.write(self.gpu, self.pairs, ids)?;
        for (which, side) in self.sides.iter().enumerate().filter(|(_, side)| side.data.is_none()) {
            self.gpu.write(side.maps.x().first(ids.len())?, &self.pairs.gather(which, ids))?;
        }
        Ok(())
    }

    fn load(&self, recorder: &mut Recorder, ids: Tensor<u32>) -> Result<()> {
        for side in &self.sides {
            if let Some(data) = &side.data {
                gather::forward(recorder, data.view()?, ids, side.maps.x().first(ids.rows())?)?;
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
        let (ids, known_by, ring) = (self.known.ids.view()?, self.known.by()?, self.memory.ring()?);
        let mut queue = self.memory.queue;
        let shared = queue.view(ring)?;
        let batch = self.known.batch(q, k)?.scaled(self.log_scale.value.view()?);
        let ids_of_keys = shared.map(|_| (known_by, known_by)).or(batch.ids);
        let batch = info_nce::Batch { shared, ids: ids_of_keys, ..batch };
        let gradients = info_nce::Gradients {
            dq: Some(query.d_unit.view()?),
            dk: Some(key.d_unit.view()?),
            d_log_scale: Some(self.log_scale.gradient.view()?),
            ..Default::default()
        };
        let losses = self.losses.view()?.row_range(self.steps..self.steps + 1);
        let loss = |at: usize| losses.col_range(at..at + 1);
        let step = |recorder: &mut Recorder| {
            self.load(recorder, ids)?;
            query.maps.embed(recorder, q)?;
            key.maps.embed(recorder, k)?;
            info_nce::forward(recorder, batch, loss(0), state, gradients, self.config.loss())?;
            for (at, &length) in self.config.matryoshka.iter().enumerate() {
                let (batch, gradients, options) =
                    (batch.prefix(length), gradients.prefix(length), self.config.loss_of_prefix());
                info_nce::forward(recorder, batch, loss(1 + at), state, gradients, options)?;
            }
            queue.push(recorder, info_nce::Negatives { ids: Some(known_by), ..k.into() }, ring)?;
            query.backward(recorder)?;
            key.backward(recorder)?;
            let parameters: Vec<&Parameter> = query.maps.parameters().chain(key.maps.parameters()).collect();
            if let Some(max_norm) = self.config.clip {
                let all = parameters.iter().copied().chain([&self.log_scale]);
                let gradients = all.map(|parameter| parameter.gradient.view()).collect::<Result<Vec<_>>>()?;
                clip::forward(recorder, &gradients, self.norm.view()?, clip::Options { max_norm })?;
            }
            parameters.into_iter().try_for_each(|parameter| parameter.step(recorder, optimizer))?;
            self.log_scale.step(recorder, of_scale)?;
            info_nce::bound(recorder, self.log_scale.value.view()?, self.config.loss.max_scale)
        };
        self.gpu.run_watched(step, watch)?;
        self.memory.queue = queue;
        self.steps += 1;
        Ok(())
    }

    fn losses(&mut self) -> Result<(Vec<f32>, f32)> {
        let losses = self.gpu.read(self.losses.first(self.steps)?)?;
        self.steps = 0;
        let losses = losses.chunks(self.losses.cols).map(|losses| losses.iter().sum()).collect();
        Ok((losses, self.gpu.read(self.log_scale.value.view()?)?[0]))
    }

    fn ranks(&mut self, ids: &[u32], watch: Watch) -> Result<Vec<Vec<u32>>> {
        let [queries, keys] =
            [Matrix::new(self.gpu, ids.len(), self.config.dim)?, Matrix::new(self.gpu, ids.len(), self.config.dim)?];
        for (index, part) in ids.chunks(self.config.batch).enumerate() {
            self.announce(part)?;
            let rows = index * self.config.batch..index * self.config.batch + part.len();
            self.gpu.run(|recorder| {
                self.load(recorder, self.known.ids.first(part.len())?)?;
                self.sides[0].maps.embed(recorder, queries.view()?.row_range(rows.clone()))?;
                self.sides[1].maps.embed(recorder, keys.view()?.row_range(rows))
            })?;
        }
        let same = self.pairs.has_ids().then(|| Ids::of(self.gpu, &self.pairs.ids_of(ids))).transpose()?;
        let same = same.as_ref().map(Ids::view).transpose()?.map(|same| (same, same));
        let ranks = Ids::new(self.gpu, ids.len())?;
        let mut rank = |q: Tensor, k: Tensor| {
            let record = |recorder: &mut Recorder| info_nce::rank(recorder, q, k, same, ranks.view()?);
            self.gpu.run_watched(record, watch)?;
            self.gpu.read(ranks.view()?)
        };
        let mut all = vec![rank(queries.view()?, keys.view()?)?];
        for &length in &self.config.matryoshka {
            let cut = |whole: &Matrix| -> Result<Matrix> {
                let cut = Matrix::new(self.gpu, ids.len(), length)?;
                let prefix = whole.view()?.col_range(0..length);
                self.gpu
                    .run(|recorder| normalize::forward(recorder, prefix, cut.view()?, normalize::Options::default()))?;
                Ok(cut)
            };
            all.push(rank(cut(&queries)?.view()?, cut(&keys)?.view()?)?);
        }
        Ok(all)
    }

    fn model(&self) -> Result<Model> {
        let mut model = self.template.clone();
        for (tower, side) in [&mut model.query, &mut model.key].into_iter().zip(&self.sides) {
            for (layer, map) in tower.layers_mut().zip(&side.maps.maps) {
                layer.weight = self.gpu.read(map.weight.value.view()?)?;
                layer.bias = self.gpu.read(map.bias.value.view()?)?;
            }
        }
        model.log_scale = self.gpu.read(self.log_scale.value.view()?)?[0];
        Ok(model)
    }
}
