//! Ops of a training step: random draws, tables, parameters.

use std::rc::Rc;

use wgloss::reference::{self, Real};
use wgloss::{Gpu, Random, Recorder, Result, Storage, Tensor};

use super::job::{Found, Input, Job, Output, work};
use super::numbers::{mean, number, period, take, uniform};

/// One step without momentum: read two, write one.
pub(super) fn sgd(gpu: &Gpu, [rows, cols]: [usize; 2], storage: Storage) -> Result<Job> {
    use wgloss::sgd::{Options, step};
    let both = [0, 1].map(|stream| Input::normal(gpu, [rows, cols], storage, stream));
    let both = Rc::new(take(both)?);
    let p = Output { buffer: both[1].buffer.clone(), rows, cols, storage };
    let options = Options { rate: 0.01, ..Options::default() };
    fn truth<F: Real>(g: &Input, p: &Input, options: Options) -> Found<F> {
        let mut p = p.of::<F>();
        reference::sgd::step(&g.of(), &mut p, &mut [], options);
        vec![p]
    }
    let inputs = both.clone();
    Ok(Job::new(
        vec![p],
        move || (truth(&both[0], &both[1], options), truth(&both[0], &both[1], options)),
        work(gpu, move |recorder| step(recorder, inputs[0].view()?, inputs[1].view()?, None, options)),
    ))
}

/// One step on parameters, gradient and two moments: read four, write three.
pub(super) fn adam(gpu: &Gpu, [rows, cols]: [usize; 2], storage: Storage) -> Result<Job> {
    use wgloss::adam::{Options, State, step};
    let [g, p, m] = [0, 1, 2].map(|stream| Input::normal(gpu, [rows, cols], storage, stream));
    let v = Input::new(gpu, [rows, cols], storage, uniform(period([rows, cols]) * cols, 3))?;
    let all = Rc::new([g?, p?, m?, v]);
    let p = Output { buffer: all[1].buffer.clone(), rows, cols, storage };
    fn truth<F: Real>(all: &[Input; 4]) -> Found<F> {
        let [g, mut p, mut m, mut v] = [0, 1, 2, 3].map(|at| all[at].of::<F>());
        reference::adam::step(&g, &mut p, [&mut m, &mut v, &mut []], Options::default());
        vec![p]
    }
    let inputs = all.clone();
    Ok(Job::new(
        vec![p],
        move || (truth(&all), truth(&all)),
        work(gpu, move |recorder| {
            let state = State { m: inputs[2].view()?, v: inputs[3].view()?, most: None };
            step(recorder, inputs[0].view()?, inputs[1].view()?, state, Options::default())
        }),
    ))
}

/// Gradients clipped in place. Their norm exceeds the bound at the first call.
pub(super) fn clip(gpu: &Gpu, [rows, cols]: [usize; 2], storage: Storage) -> Result<Job> {
    use wgloss::clip::{Options, forward};
    let g = Rc::new(Input::normal(gpu, [rows, cols], storage, 0)?);
    let cut = Output { buffer: g.buffer.clone(), rows, cols, storage };
    let norm = gpu.zeros::<f32>(1)?;
    let options = Options { max_norm: 1.0 };
    fn truth<F: Real>(g: &Input) -> Found<F> {
        let values = g.of::<F>();
        let squares: Vec<F> = values.iter().map(|&g| g * g).collect();
        let norm = (mean(&squares, g.rows, g.cols) * number(g.rows * g.cols)).sqrt();
        vec![values.into_iter().map(|g| g / (norm + <F as From<f32>>::from(1e-6))).collect()]
    }
    let inputs = g.clone();
    Ok(Job::new(
        vec![cut],
        move || (truth(&g), truth(&g)),
        work(gpu, move |recorder| forward(recorder, &[inputs.view()?], Tensor::scalar(&norm, 0)?, options)),
    ))
}

/// `rows` rows of a table of as many rows, in random order.
pub(super) fn gather(gpu: &Gpu, [rows, cols]: [usize; 2], storage: Storage) -> Result<Job> {
    use wgloss::gather::forward;
    let table = Rc::new(Input::normal(gpu, [rows, cols], storage, 0)?);
    let mut ids = Random::new(1, 4).permutation(rows as u32);
    // Row i of the result has the values of row i mod period of the input, so the result repeats like an input.
    let period = period([rows, cols]);
    for (row, id) in ids.iter_mut().enumerate() {
        *id = *id / period as u32 * period as u32 + (row % period) as u32;
        *id = if *id as usize >= rows { (row % period) as u32 } else { *id };
    }
    let ids = gpu.upload(&ids)?;
    let y = Output::new(gpu, [rows, cols], storage)?;
    let (inputs, output) = (table.clone(), y.again());
    Ok(Job::new(
        vec![y],
        move || (vec![table.of()], vec![table.of()]),
        work(gpu, move |recorder| forward(recorder, inputs.view()?, Tensor::vector(&ids, rows)?, output.view()?)),
    ))
}

/// The number of ids to draw from, and the share of draws that are uniform over all of them.
const IDS: usize = 1 << 20;
const UNIFORM: f32 = 0.25;

/// Draws by popularity, a quarter of them uniform, with their log q. No two ids have the same log q, so it shows which
/// id was drawn.
pub(super) fn sample(gpu: &Gpu, [rows, cols]: [usize; 2], _: Storage) -> Result<Job> {
    use wgloss::sample::{Options, Popularity, Proposal, draw};
    let seen: Vec<f32> = (1..=IDS).map(|id| 1e6 / id as f32).collect();
    let words = Popularity::new(&seen, 0.75)?.words().to_vec();
    let table = gpu.upload(&words)?;
    let ids = gpu.zeros::<u32>(rows * cols)?;
    let log_q = Output::new(gpu, [rows, cols], Storage::F32)?;
    let buffer = log_q.buffer.clone();
    let options = Options { seed: 1, ..Options::default() };
    // Rows do not repeat here. Only the first ones are checked.
    let first = Output { rows: period([rows, cols]), ..log_q };
    let lists = vec![&[][..]; first.rows];
    let truth = move || {
        let mixed = Proposal::Table { table: &words[..], uniform: UNIFORM };
        let exact = reference::sample::draw::<f64>(mixed, &lists, cols, options).1;
        (vec![exact], vec![reference::sample::draw::<f32>(mixed, &lists, cols, options).1])
    };
    let record = move |recorder: &mut Recorder| {
        let table = Tensor::matrix(&table, IDS, 3)?;
        let proposal = Proposal::Table { table, uniform: UNIFORM };
        let (ids, log_q) = (Tensor::matrix(&ids, rows, cols)?, Tensor::matrix(&buffer, rows, cols)?);
        draw(recorder, proposal, None, ids, log_q, options)
    };
    Ok(Job::new(vec![first], truth, work(gpu, record)))
}

/// Observations per row of `wals`, and its number of steps.
pub(super) const NEAR: usize = 32;
pub(super) const STEPS: usize = 2;

/// Every eigenvalue of the matrix that stands for the Gramian.
const EIGENVALUE: f32 = 100.0;

/// Steps of conjugate gradients from x = 0 for `rows` rows, with a factor y of as many rows. The eigenbasis is that of
/// the unit vectors.
pub(super) fn wals(gpu: &Gpu, [rows, cols]: [usize; 2], storage: Storage) -> Result<Job> {
    use wgloss::wals::{Base, Observed, Options, Rows, refine};
    let options = Options { weight: 2.0, ..Options::default() };
    let y = Rc::new(Input::normal(gpu, [rows, cols], storage, 0)?);
    let period = period([rows, cols]);
    // Neighbouring rows of a period have observations of different classes; each observation is a row of any period.
    let class = move |row: usize, k: usize| (7 * row + 3 * k) % period;
    let mut random = Random::new(1, 5);
    let mut of_class =
        |class: usize| (class + period * random.below((rows - class).div_ceil(period) as u32) as usize) as u32;
    let ids: Vec<u32> =
        (0..rows).flat_map(|row| (0..NEAR).map(move |k| class(row % period, k))).map(&mut of_class).collect();
    let starts: Vec<u32> = (0..=rows).map(|row| (row * NEAR) as u32).collect();
    let of_rows = Rows::new(gpu, &starts, cols)?;
    let unit: Vec<f32> = (0..cols * cols).map(|at| f32::from(u8::from(at / cols == at % cols))).collect();
    let (values, ridge) = (vec![EIGENVALUE; cols], 10.0f32);
    let [ids, vectors] = [gpu.upload(&ids)?, gpu.upload(&unit)?];
    let [held_values, ridges] = [gpu.upload(&values)?, gpu.upload(&vec![ridge; rows])?];
    let loss = gpu.zeros::<f32>(of_rows.pieces())?;
    let x = Output::new(gpu, [rows, cols], storage)?;
    let truth = move |y: &Input| {
        fn found<F: Real>(y: &Input, rows: &[Vec<(usize, F, F)>], unit: &[f32], ridge: f32) -> Found<F> {
            let cast =
                |values: &[f32]| -> Vec<F> { values.iter().map(|&value| <F as From<f32>>::from(value)).collect() };
            let gramian: Vec<f32> = unit.iter().map(|one| one * EIGENVALUE).collect();
            let (vectors, gramian, ridges) = (cast(unit), cast(&gramian), cast(&vec![ridge; rows.len()]));
            let (start, base) = (vec![F::zero(); rows.len() * y.cols], [&vectors[..], &gramian]);
            let x = reference::wals::refine(&y.of(), y.cols, rows, F::one(), &ridges, base, &start, STEPS).0;
            vec![x]
        }
        fn entries<F: Real>(
            period: usize,
            class: impl Fn(usize, usize) -> usize,
            weight: f32,
        ) -> Vec<Vec<(usize, F, F)>> {
            let entry = |row, k| (class(row, k), <F as From<f32>>::from(weight), F::one());
            (0..period).map(|row| (0..NEAR).map(|k| entry(row, k)).collect()).collect()
        }
        (
            found::<f64>(y, &entries(period, class, options.weight), &unit, ridge),
            found::<f32>(y, &entries(period, class, options.weight), &unit, ridge),
        )
    };
    let (inputs, output) = (y.clone(), x.again());
    Ok(Job::new(
        vec![x],
        move || truth(&y),
        work(gpu, move |recorder| {
            let items = Tensor::vector(&ids, rows * NEAR)?;
            let observed = Observed { rows: &of_rows, items, weights: None, goals: None };
            let vectors = Tensor::matrix(&vectors, cols, cols)?;
            let base = Base::Eigen { vectors, values: Tensor::matrix(&held_values, 1, cols)? };
            let (ridge, loss) = (Tensor::vector(&ridges, rows)?, Tensor::vector(&loss, of_rows.pieces())?);
            refine(recorder, inputs.view()?, observed, base, ridge, output.view()?, loss, STEPS, options)
        }),
    ))
}
