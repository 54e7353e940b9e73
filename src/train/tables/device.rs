//! A training step on the device: one submit, nothing read back.

use core::ops::ControlFlow;

use super::{Config, Interactions, Loss, Model, Negatives};
use crate::sample::{self, Popularity, Proposal};
use crate::train::matrix::{Ids, Matrix};
use crate::train::tower::Maps;
use crate::train::{Layer, Optimizer, STEPS_PER_READ};
use crate::{Accum, Error, Gpu, Lists, Progress, Random, Recorder, Reduction, Result, Tensor, Watch};
use crate::{bce, cast, dot, gather, info_nce, normalize, top_k};

/// Stream of the seed for the initial tables and towers. Epochs use streams from 2 on. Draws use their own counters.
const START: u32 = 1;
/// Users whose recommendations are computed at a time.
const USERS_AT_ONCE: usize = 1024;

/// The table of one side, users or items.
struct Table {
    value: Matrix,
    states: Vec<Matrix>,
    /// Copies of the rows that a step takes: their indices, gradients, values and optimizer states.
    rows: Ids,
    gradient: Matrix,
    local: Matrix,
    local_states: Vec<Matrix>,
}

impl Table {
    /// `taking`: number of rows that a step takes, with repetition.
    fn new(gpu: &Gpu, value: &[f32], taking: usize, config: &Config) -> Result<Table> {
        let (count, dim) = (value.len() / config.dim, config.dim);
        let states = |rows| (0..config.optimizer.states()).map(|_| Matrix::new(gpu, rows, dim)).collect::<Result<_>>();
        Ok(Table {
            value: Matrix::of(gpu, value, dim)?,
            states: states(count)?,
            rows: Ids::new(gpu, taking)?,
            gradient: Matrix::new(gpu, taking, dim)?,
            local: Matrix::new(gpu, taking, dim)?,
            local_states: states(taking)?,
        })
    }

    /// Updates the rows `ids`, where row i of `gradient` is the gradient of row `ids[i]`.
    fn step(&self, recorder: &mut Recorder, ids: Tensor<u32>, gradient: Tensor, optimizer: Optimizer) -> Result<()> {
        let (rows, sums, local) =
            (self.rows.first(ids.rows())?, self.gradient.first(ids.rows())?, self.local.first(ids.rows())?);
        gather::backward_rows(recorder, gradient, ids, self.value.rows, rows, sums)?;
        let all = || [(&self.value, &self.local)].into_iter().chain(self.states.iter().zip(&self.local_states));
        for (table, local) in all() {
            gather::forward(recorder, table.view()?, rows, local.first(ids.rows())?)?;
        }
        let states = self.local_states.iter().map(|state| state.first(ids.rows())).collect::<Result<Vec<_>>>()?;
        optimizer.step(recorder, sums, local, &states)?;
        for (table, local) in all() {
            gather::scatter(recorder, local.first(ids.rows())?, rows, table.view()?)?;
        }
        Ok(())
    }
}

/// The items that each user has taken, on the device.
struct Known {
    starts: Ids,
    items: Ids,
}

impl Known {
    fn new(gpu: &Gpu, data: &Interactions) -> Result<Known> {
        let lists = data.lists();
        let mut starts = vec![0u32];
        lists.iter().for_each(|list| starts.push(starts[starts.len() - 1] + list.len() as u32));
        Ok(Known { starts: Ids::of(gpu, &starts)?, items: Ids::of(gpu, &lists.concat())? })
    }

    /// The lists of the users of each row.
    fn of<'a>(&'a self, users: Tensor<'a, u32>) -> Result<Lists<'a>> {
        Ok(Lists { starts: self.starts.view()?, items: self.items.view()?, list: Some(users) })
    }
}

pub(super) struct Device<'a> {
    gpu: &'a Gpu,
    data: &'a Interactions,
    config: &'a Config,
    /// Tables of users and of items.
    tables: [Table; 2],
    /// Towers that compute the embeddings of the rows that a step takes.
    towers: [Maps; 2],
    known: Known,
    popularity: Ids,
    users: Ids,
    /// The positive items of the batch.
    own: Ids,
    /// Positive items and negatives, in the layout of [`Device::places`].
    items: Ids,
    log_q: Matrix,
    /// Logits, their gradients and their targets.
    logits: [Matrix; 3],
    state: Matrix,
    /// Embeddings of all items, if a step compares with all items and the table's rows are not the embeddings.
    catalogue: Option<Matrix>,
    losses: Matrix,
    /// Number of steps since the losses were last read.
    unread: usize,
    /// Number of steps done, and total number of steps.
    step: u32,
    steps: usize,
}

/// Views of a step's item ids: all, the positive items (one per user), and the negatives with their `log_q`.
struct Places<'a> {
    all: Tensor<'a, u32>,
    own: Tensor<'a, u32>,
    negatives: Tensor<'a, u32>,
    log_q: Tensor<'a>,
}

impl<'a> Device<'a> {
    pub(super) fn new(gpu: &'a Gpu, data: &'a Interactions, config: &'a Config, steps: usize) -> Result<Self> {
        let (batch, dim) = (config.batch, config.dim);
        let [each, all] = config.negatives.counts();
        let items = batch + batch * each + all;
        let most = data.lists().iter().map(Vec::len).max().unwrap_or(0);
        if matches!(config.negatives, Negatives::Hard { count } if count + most > data.item_count) {
            let expected = "at most as many as items that each user has not taken";
            return Err(Error::Option { op: "train", option: "negatives", expected, found: each.to_string() });
        }
        let mut random = Random::new(config.seed, START);
        let bound = f64::from(config.start) / (dim as f64).sqrt();
        let mut start = |count: usize| -> Vec<f32> {
            (0..count * dim).map(|_| ((2.0 * f64::from(random.uniform()) - 1.0) * bound) as f32).collect()
        };
        let (users, catalogue) = (start(data.user_count), start(data.item_count));
        let mut tower = |rows| {
            let mut layer = |inputs, outputs| Layer::random(inputs, outputs, &mut random);
            let layers = match config.hidden {
                0 => Vec::new(),
                hidden => vec![layer(dim, hidden), layer(hidden, dim)],
            };
            Maps::new(gpu, dim, layers.iter(), rows, config.optimizer)
        };
        let towers = [tower(batch)?, tower(items)?];
        let power = match config.negatives {
            Negatives::Drawn { power, .. } => power,
            _ => 1.0,
        };
        let logits = [1 + each, 1 + each, 1 + each].map(|cols| Matrix::new(gpu, batch, cols));
        let [scores, d_scores, targets] = logits;
        let targets_of: Vec<f32> =
            (0..batch * (1 + each)).map(|at| f32::from(u8::from(at % (1 + each) == 0))).collect();
        let targets = targets?;
        gpu.write(targets.view()?, &targets_of)?;
        let mut device = Device {
            gpu,
            data,
            config,
            tables: [Table::new(gpu, &users, batch, config)?, Table::new(gpu, &catalogue, items, config)?],
            towers,
            known: Known::new(gpu, data)?,
            popularity: Ids::of(gpu, Popularity::new(&data.popularity(), power)?.words())?,
            users: Ids::new(gpu, batch)?,
            own: Ids::new(gpu, batch)?,
            items: Ids::new(gpu, items)?,
            log_q: Matrix::new(gpu, items, 1)?,
            logits: [scores?, d_scores?, targets],
            state: Matrix::new(gpu, batch + 1, 8)?,
            catalogue: None,
            losses: Matrix::new(gpu, STEPS_PER_READ, 1)?,
            unread: 0,
            step: 0,
            steps,
        };
        if let Negatives::Hard { .. } = config.negatives {
            device.catalogue = device.room(1)?;
        }
        Ok(device)
    }

    /// For the logistic loss, a row holds a user's positive item and its negatives. For softmax, all positive items
    /// come first.
    fn places(&self) -> Result<Places<'_>> {
        let batch = self.config.batch;
        let [each, all] = self.config.negatives.counts();
        let log_q = |rows, cols, first, stride| Tensor::strided(&self.log_q.buffer, rows, cols, first, stride);
        let own = match self.config.loss {
            Loss::Logistic => self.items.matrix(batch, 1, 0, 1 + each)?,
            Loss::Softmax => self.items.matrix(batch, 1, 0, 1)?,
        };
        let (rows, cols, first, stride) = match self.config.loss {
            Loss::Logistic => (batch, each, 1, 1 + each),
            Loss::Softmax if all > 0 => (1, all, batch, all),
            Loss::Softmax => (batch, each, batch, each),
        };
        let negatives = self.items.matrix(rows, cols, first, stride)?;
        Ok(Places { all: self.items.view()?, own, negatives, log_q: log_q(rows, cols, first, stride)? })
    }

    /// Draws the negatives that do not depend on the users' rows, with their `log_q`. For in-batch negatives, also
    /// computes `log_q` of the positive items.
    fn draw(&self, recorder: &mut Recorder, places: &Places) -> Result<()> {
        let Config { loss, negatives, seed, batch, .. } = *self.config;
        let options = sample::Options { seed, step: self.step, stream: 0, expected: loss == Loss::Softmax };
        let even = Proposal::Uniform { n: self.data.item_count as u32 };
        let table = self.popularity.matrix(self.data.item_count, 3, 0, 3)?;
        match negatives {
            Negatives::Drawn { power, uniform, .. } => {
                let proposal = if power == 0.0 { even } else { Proposal::Table { table, uniform } };
                let known = self.known.of(self.users.view()?)?;
                sample::draw(recorder, proposal, Some(known), places.negatives, places.log_q, options)
            }
            Negatives::InBatch | Negatives::Mixed { .. } => {
                let [_, count] = negatives.counts();
                if count > 0 {
                    sample::draw(recorder, even, None, places.negatives, places.log_q, options)?;
                }
                let uniform = count as f32 / (count + batch) as f32;
                sample::log_q(recorder, Proposal::Table { table, uniform }, places.all, self.log_q.view()?)
            }
            Negatives::None | Negatives::Hard { .. } => Ok(()),
        }
    }

    /// Embeddings of a step's users and items, and their gradients.
    fn embeddings(&self) -> [[&Matrix; 2]; 2] {
        [self.towers.each_ref().map(Maps::y), self.towers.each_ref().map(Maps::dy)]
    }

    /// Gathers the rows `ids` of users or items and computes their embeddings.
    fn embed(&self, recorder: &mut Recorder, side: usize, ids: Tensor<u32>) -> Result<()> {
        let (table, tower) = (&self.tables[side].value, &self.towers[side]);
        gather::forward(recorder, table.view()?, ids, tower.x().view()?)?;
        tower.forward(recorder, tower.x().view()?, tower.y().view()?)
    }

    /// The embeddings of all users or items, computed into `all`. The table itself if its rows are the embeddings.
    fn embed_all<'t>(&'t self, recorder: &mut Recorder, side: usize, all: &'t Option<Matrix>) -> Result<Tensor<'t>> {
        let (table, tower) = (&self.tables[side].value, &self.towers[side]);
        let Some(all) = all else { return table.view() };
        for first in (0..table.rows).step_by(tower.x().rows) {
            let rows = first..table.rows.min(first + tower.x().rows);
            let (x, y) = (table.view()?.row_range(rows.clone()), all.view()?.row_range(rows));
            tower.forward(recorder, x, y)?;
            if self.config.normalize {
                normalize::forward(recorder, if self.config.hidden > 0 { y } else { x }, y, Default::default())?;
            }
        }
        all.view()
    }

    /// The buffer that [`Device::embed_all`] writes to; `None` if it is not needed.
    fn room(&self, side: usize) -> Result<Option<Matrix>> {
        let rows = self.tables[side].value.rows;
        (self.config.hidden > 0 || self.config.normalize)
            .then(|| Matrix::new(self.gpu, rows, self.config.dim))
            .transpose()
    }

    fn logistic(&self, recorder: &mut Recorder, loss: Tensor) -> Result<()> {
        let [[q, k], [dq, dk]] = self.embeddings();
        let [s, ds, t] = &self.logits;
        dot::forward(recorder, q.view()?, k.view()?, s.view()?)?;
        let inputs = bce::Inputs { x: s.view()?, t: t.view()?, weight: None, pos_weight: None };
        let options = bce::Options { reduction: Reduction::Sum, ..Default::default() };
        bce::forward(recorder, inputs, loss, Some(ds.view()?), options)?;
        let (dq, dk) = (Some(dq.view()?), Some(dk.view()?));
        dot::backward(recorder, q.view()?, k.view()?, ds.view()?, dq, dk, Accum::Write)
    }

    fn softmax(&self, recorder: &mut Recorder, places: &Places, loss: Tensor) -> Result<()> {
        let [[q, k], [dq, dk]] = self.embeddings();
        let Config { batch, negatives, .. } = *self.config;
        let (k_drawn, dk_drawn) = (k.view()?.row_range(batch..k.rows), dk.view()?.row_range(batch..k.rows));
        let in_batch = negatives.in_batch();
        let log_q = self.log_q.view()?;
        let has_log_q = !matches!(negatives, Negatives::Hard { .. });
        let drawn = (k_drawn.rows() > 0).then(|| info_nce::Negatives {
            k: k_drawn,
            log_q: has_log_q.then(|| log_q.row_range(batch..log_q.rows())),
            ids: in_batch.then(|| places.all.row_range(batch..places.all.rows())),
        });
        let [each, shared] = if in_batch { [None, drawn] } else { [drawn, None] };
        let pairs = info_nce::Batch {
            log_q: in_batch.then(|| log_q.row_range(0..batch)),
            ids: in_batch.then_some((places.own, places.own)),
            each,
            shared,
            ..info_nce::Batch::new(q.view()?, k.first(batch)?)
        };
        let gradients = info_nce::Gradients {
            dq: Some(dq.view()?),
            dk: Some(dk.first(batch)?),
            d_each: each.and(Some(dk_drawn)),
            d_shared: shared.and(Some(dk_drawn)),
            ..Default::default()
        };
        let options = self.config.softmax();
        let [lines, columns] = pairs.state_shape(options);
        let state = Tensor::matrix(&self.state.buffer, lines, columns)?;
        info_nce::forward(recorder, pairs, loss, state, gradients, options)
    }

    /// Updates on the interactions with the indices `pairs`. Returns before the update is done.
    pub(super) fn step(&mut self, pairs: &[u32], watch: Watch) -> Result<()> {
        let ids = |of: &[u32]| -> Vec<u32> { pairs.iter().map(|&pair| of[pair as usize]).collect() };
        self.gpu.write(self.users.view()?, &ids(&self.data.users))?;
        self.gpu.write(self.own.view()?, &ids(&self.data.items))?;
        let factor = self.config.schedule.factor(self.step as usize, self.steps);
        let optimizer = self.config.optimizer.at(self.config.rate * factor, self.step + 1);
        let loss = self.losses.view()?.row_range(self.unread..self.unread + 1);
        let places = self.places()?;
        let users = self.users.view()?;
        let step = |recorder: &mut Recorder| {
            cast::ids(recorder, self.own.view()?, places.own)?;
            self.draw(recorder, &places)?;
            self.embed(recorder, 0, users)?;
            if let Negatives::Hard { .. } = self.config.negatives {
                let (q, known) = (self.towers[0].y().view()?, self.known.of(users)?);
                let catalogue = self.embed_all(recorder, 1, &self.catalogue)?;
                top_k::forward(recorder, q, catalogue, Some(known), places.negatives, places.log_q)?;
            }
            self.embed(recorder, 1, places.all)?;
            match self.config.loss {
                Loss::Logistic => self.logistic(recorder, loss)?,
                Loss::Softmax => self.softmax(recorder, &places, loss)?,
            }
            for ((table, tower), ids) in self.tables.iter().zip(&self.towers).zip([users, places.all]) {
                tower.backward(recorder, true)?;
                tower.parameters().try_for_each(|parameter| parameter.step(recorder, optimizer))?;
                table.step(recorder, ids, tower.dx().view()?, optimizer)?;
            }
            Ok(())
        };
        self.gpu.run_watched(step, watch)?;
        self.step += 1;
        self.unread += 1;
        Ok(())
    }

    /// The losses of the steps since the last call, each per pair.
    pub(super) fn losses(&mut self) -> Result<Vec<f32>> {
        let mut losses = self.gpu.read(self.losses.first(self.unread)?)?;
        self.unread = 0;
        if self.config.loss == Loss::Logistic {
            losses.iter_mut().for_each(|loss| *loss /= self.config.batch as f32);
        }
        Ok(losses)
    }

    /// Embeddings of all users and items, in the buffers of [`Device::room`].
    fn all<'t>(&'t self, rooms: &'t [Option<Matrix>; 2]) -> Result<[Tensor<'t>; 2]> {
        self.gpu.run(|recorder| Ok([self.embed_all(recorder, 0, &rooms[0])?, self.embed_all(recorder, 1, &rooms[1])?]))
    }

    pub(super) fn model(&self) -> Result<Model> {
        let rooms = [self.room(0)?, self.room(1)?];
        let [users, items] = self.all(&rooms)?;
        Ok(Model { users: self.gpu.read(users)?, items: self.gpu.read(items)?, dim: self.config.dim })
    }

    pub(super) fn top(&self, users: &[u32], count: usize, watch: Watch) -> Result<Vec<u32>> {
        let rooms = [self.room(0)?, self.room(1)?];
        top(self.gpu, self.all(&rooms)?, &self.known, users, count, watch)
    }
}

/// For each of `users`, the ids of the `count` items with the largest scores, best first, except the items that the
/// user took in `known`. u32::MAX fills up if there are fewer items.
///
/// # Errors
/// [`Error::Option`] for a count of 0; [`Error::Data`] if the tables do not have as many rows as `known` has users and
/// items, or for a user out of range; any error of the device.
pub fn recommend(gpu: &Gpu, model: &Model, known: &Interactions, users: &[u32], count: usize) -> Result<Vec<u32>> {
    let refuse = |what: &str, expected, found| Err(Error::Data { what: what.into(), expected, found });
    for (what, table, rows) in [("users", &model.users, known.user_count), ("items", &model.items, known.item_count)] {
        if model.dim == 0 || table.len() != rows.saturating_mul(model.dim) {
            let expected = format!("{rows} rows of {} numbers, at least one", model.dim);
            return refuse(&format!("the table of {what}"), expected, format!("{} numbers", table.len()));
        }
    }
    if let Some(user) = users.iter().find(|&&user| user as usize >= known.user_count) {
        return refuse("users", format!("numbers below {}", known.user_count), user.to_string());
    }
    let tables = [Matrix::of(gpu, &model.users, model.dim)?, Matrix::of(gpu, &model.items, model.dim)?];
    let tables = [tables[0].view()?, tables[1].view()?];
    top(gpu, tables, &Known::new(gpu, known)?, users, count, &mut |_| ControlFlow::Continue(()))
}

fn top(
    gpu: &Gpu,
    [of_users, of_items]: [Tensor; 2],
    known: &Known,
    users: &[u32],
    count: usize,
    watch: Watch,
) -> Result<Vec<u32>> {
    let at_once = users.len().min(USERS_AT_ONCE);
    let (queries, ids) = (Matrix::new(gpu, at_once, of_users.cols())?, Ids::new(gpu, at_once)?);
    let (found, scores) = (Ids::new(gpu, at_once.saturating_mul(count))?, Matrix::new(gpu, at_once, count)?);
    let mut all = Vec::new();
    for part in users.chunks(USERS_AT_ONCE) {
        let progress = Progress { op: "top_k", share: all.len() as f64 / (users.len() as f64 * count as f64) };
        if watch(progress).is_break() {
            return Err(Error::Cancelled { op: progress.op });
        }
        let (ids, queries) = (ids.first(part.len())?, queries.first(part.len())?);
        let (found, scores) = (found.matrix(part.len(), count, 0, count)?, scores.first(part.len())?);
        gpu.write(ids, part)?;
        gpu.run(|recorder| {
            gather::forward(recorder, of_users, ids, queries)?;
            top_k::forward(recorder, queries, of_items, Some(known.of(ids)?), found, scores)
        })?;
        all.extend(gpu.read(found)?);
    }
    Ok(all)
}
