//! What is timed. An op is a function that makes its inputs on the device and says what to record and what must come out;
//! benches/peers/losses.py has the same ops but for `wals`, which has peers/wals.py.
//!
//! Rows repeat after a [`period`] of them, so that what must come out is known at any size without computing it at that size; the period is a prime,
//! so that no tile and no workgroup begins where one period does.

use std::f32::consts::TAU;
use std::rc::Rc;

use wgloss::reference::{self, Real};
use wgloss::{Gpu, Random, Recorder, Reduction, Result, Storage, Tensor, wgpu};

use super::clock::Work;

/// Rows after which inputs repeat, and of more than [`WIDE`] columns.
const PERIOD: usize = 61;
const PERIOD_OF_WIDE: usize = 7;
const WIDE: usize = 1 << 14;

fn period([rows, cols]: [usize; 2]) -> usize {
    rows.min(if cols > WIDE { PERIOD_OF_WIDE } else { PERIOD })
}

pub struct Case {
    pub op: &'static str,
    /// Rows and columns, from small to large.
    pub sizes: &'static [[usize; 2]],
    pub build: fn(&Gpu, [usize; 2], Storage) -> Result<Job>,
    /// The least numbers that must move, in matrices of such a size: every input read once, or as often as it
    /// is looked up, every output written once, nothing in between.
    matrices: f64,
    /// The least products of matrices that must be formed, each of 2 rows · rows · columns FLOP; 0 where memory alone decides.
    products: f64,
    /// Whether its inputs may be of 16 bits.
    pub has_storages: bool,
}

impl Case {
    pub fn bytes(&self, [rows, cols]: [usize; 2], storage: Storage) -> f64 {
        let of_scores = if self.op == "linear" { (rows * rows) as f64 } else { 0.0 };
        storage.bytes() as f64 * (self.matrices * rows as f64 * cols as f64 + of_scores)
    }

    pub fn flop(&self, [rows, cols]: [usize; 2]) -> f64 {
        2.0 * self.products * (rows * rows) as f64 * cols as f64
    }
}

const MATRICES: &[[usize; 2]] =
    &[[1024, 1024], [32, 131_072], [4096, 4096], [16_384, 4096], [1024, 131_072], [4096, 131_072]];
const BATCHES: &[[usize; 2]] = &[[1024, 128], [4096, 128], [8192, 256], [16_384, 512], [65_536, 512]];

const fn memory(op: &'static str, build: fn(&Gpu, [usize; 2], Storage) -> Result<Job>, matrices: f64) -> Case {
    Case { op, sizes: MATRICES, build, matrices, products: 0.0, has_storages: true }
}

/// In the order of the README's table.
pub const CASES: &[Case] = &[
    Case { sizes: &[[512, 512], [2048, 512], [8192, 1024]], products: 1.0, ..memory("linear", linear, 2.0) },
    memory("sigmoid", sigmoid, 2.0),
    memory("tanh", tanh, 2.0),
    memory("normalize", normalize, 2.0),
    memory("softmax", softmax, 2.0),
    memory("cross_entropy", cross_entropy, 2.0),
    memory("bce", bce, 3.0),
    memory("l2", l2, 3.0),
    memory("gaussian_kl", gaussian_kl, 4.0),
    // The scores are formed for the loss and, as nothing stores them, again for the gradients: two products, and one for each gradient.
    Case { sizes: BATCHES, products: 4.0, ..memory("info_nce", info_nce, 4.0) },
    memory("kl", kl, 4.0),
    Case { sizes: BATCHES, products: 3.0, ..memory("siglip", siglip, 4.0) },
    Case {
        sizes: &[[1024, 64], [4096, 128], [16_384, 128], [65_536, 128]],
        products: 1.0,
        ..memory("top_k", top_k, 2.0)
    },
    Case { has_storages: false, ..memory("cast", cast, 1.5) },
    Case { sizes: &[[1024, 128], [16_384, 128], [65_536, 128]], ..memory("dot", dot, (KEYS + 1) as f64) },
    Case { sizes: BATCHES, products: 1.0, ..memory("folding", folding, 2.0) },
    Case { sizes: &[[1024, 128], [65_536, 128], [1 << 20, 128]], ..memory("gather", gather, 2.0) },
    memory("sgd", sgd, 3.0),
    Case { has_storages: false, ..memory("adam", adam, 7.0) },
    memory("clip", clip, 3.0),
    // Each observation's row of y once a pass, whatever a cache saves; x in and out.
    Case {
        sizes: &[[1024, 64], [16_384, 128], [1 << 18, 128]],
        ..memory("wals", wals, (NEAR * (STEPS + 1) + 2) as f64)
    },
];

/// Inputs on the device, and what to do with them.
pub struct Job {
    pub work: Box<dyn Work>,
    outputs: Vec<Output>,
    /// What the first call leaves in the outputs, a [`period`] of rows of each: in f64, and as the same formula gives it in f32.
    truth: Box<dyn Fn() -> (Found<f64>, Found<f32>)>,
}

type Found<F> = Vec<Vec<F>>;

struct Output {
    buffer: wgpu::Buffer,
    rows: usize,
    cols: usize,
    storage: Storage,
}

/// The largest error of what was found, relative to the largest number of its row, and more than which is wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Accuracy {
    pub error: f64,
    pub tolerance: f64,
}

impl Job {
    /// Compares the first rows and the last with what they must be, as `wgloss verify` does: the tolerance is twice what the formula loses in f32,
    /// and eight half units in the last place for another order of sums.
    pub fn accuracy(&self, gpu: &Gpu) -> Result<Accuracy> {
        let (truth, naive) = (self.truth)();
        let mut worst = Accuracy { error: 0.0, tolerance: f64::INFINITY };
        for ((output, truth), naive) in self.outputs.iter().zip(&truth).zip(&naive) {
            let Output { buffer, rows, cols, storage } = output;
            let scales: Vec<f64> = truth.chunks(*cols).map(|row| largest(row.iter().copied())).collect();
            let relative = |at: usize, got: f64| {
                let error = (got - truth[at]).abs() / scales[at / cols].max(f32::MIN_POSITIVE.into());
                if error.is_finite() { error } else { f64::MAX } // a NaN is as wrong as can be
            };
            let lost = largest(naive.iter().enumerate().map(|(at, &got)| relative(at, got.into())));
            let tolerance = 2.0 * lost + 4.0 * f64::from(f32::EPSILON) + storage.rounding();
            let whole: Tensor = Tensor::stored(*storage, buffer, *rows, *cols, 0, *cols)?;
            let kept = truth.len() / cols;
            let mut error = 0f64;
            for first in [0, rows.saturating_sub(kept)] {
                let found = gpu.read(whole.row_range(first..(first + kept).min(*rows)))?;
                let place = |at: usize| (first + at / cols) % kept * cols + at % cols;
                error = error.max(largest(found.iter().enumerate().map(|(at, &got)| relative(place(at), got.into()))));
            }
            if error / tolerance > worst.error / worst.tolerance || worst.tolerance.is_infinite() {
                worst = Accuracy { error, tolerance };
            }
        }
        Ok(worst)
    }
}

fn largest(values: impl Iterator<Item = f64>) -> f64 {
    values.map(f64::abs).fold(0.0, f64::max)
}

/// A matrix whose rows repeat.
struct Input {
    buffer: wgpu::Buffer,
    rows: usize,
    cols: usize,
    storage: Storage,
    /// Its first [`period`] of rows, as they are stored.
    data: Vec<f32>,
}

impl Input {
    fn new(gpu: &Gpu, [rows, cols]: [usize; 2], storage: Storage, data: Vec<f32>) -> Result<Input> {
        let buffer = gpu.zeros_as(storage, rows * cols)?;
        let period = data.len() / cols;
        let bytes = storage.bytes() * data.len() as u64;
        if bytes.is_multiple_of(4) {
            let seed = gpu.upload_as(storage, &data)?;
            let whole = storage.bytes() * (rows * cols) as u64;
            let mut encoder = gpu.device().create_command_encoder(&Default::default());
            for start in (0..whole).step_by(bytes as usize) {
                let end = (start + bytes).min(whole).next_multiple_of(4);
                encoder.copy_buffer_to_buffer(&seed, 0, &buffer, start, (end - start).min(bytes));
            }
            gpu.queue().submit([encoder.finish()]);
        } else {
            let whole: Tensor = Tensor::stored(storage, &buffer, rows, cols, 0, cols)?;
            for first in (0..rows).step_by(period) {
                let count = period.min(rows - first);
                gpu.write(whole.row_range(first..first + count), &data[..count * cols])?;
            }
        }
        Ok(Input { rows, cols, storage, data: reference::cast::forward(&data, storage), buffer })
    }

    fn normal(gpu: &Gpu, [rows, cols]: [usize; 2], storage: Storage, stream: u32) -> Result<Input> {
        Input::new(gpu, [rows, cols], storage, normal(period([rows, cols]) * cols, stream))
    }

    fn view(&self) -> Result<Tensor<'_>> {
        Tensor::stored(self.storage, &self.buffer, self.rows, self.cols, 0, self.cols)
    }

    fn of<F: Real>(&self) -> Vec<F> {
        self.data.iter().map(|&value| <F as From<f32>>::from(value)).collect()
    }
}

impl Output {
    fn new(gpu: &Gpu, [rows, cols]: [usize; 2], storage: Storage) -> Result<Output> {
        Ok(Output { buffer: gpu.zeros_as(storage, rows * cols)?, rows, cols, storage })
    }

    fn view(&self) -> Result<Tensor<'_>> {
        Tensor::stored(self.storage, &self.buffer, self.rows, self.cols, 0, self.cols)
    }

    fn again(&self) -> Output {
        Output { buffer: self.buffer.clone(), ..*self }
    }
}

/// An op of the library.
struct Op<R> {
    gpu: Gpu,
    record: R,
}

impl<R: Fn(&mut Recorder) -> Result<()>> Work for Op<R> {
    fn submit(&self) -> Result<()> {
        self.gpu.run(|recorder| (self.record)(recorder))
    }

    fn record(&self, encoder: &mut wgpu::CommandEncoder, calls: u32) -> Result<()> {
        let mut recorder = self.gpu.record(encoder);
        (0..calls).try_for_each(|_| (self.record)(&mut recorder))
    }
}

fn work(gpu: &Gpu, record: impl Fn(&mut Recorder) -> Result<()> + 'static) -> Box<dyn Work> {
    Box::new(Op { gpu: gpu.clone(), record })
}

/// How often each row of a period occurs among `rows`.
fn counts<F: Real>(rows: usize, period: usize) -> Vec<F> {
    (0..period).map(|at| <F as From<f32>>::from((rows / period + usize::from(at < rows % period)) as f32)).collect()
}

/// The mean over all rows of what there is of each row of a period, of `cols` numbers.
fn mean<F: Real>(values: &[F], rows: usize, cols: usize) -> F {
    let rows_of = values.chunks(cols).zip(counts::<F>(rows, values.len() / cols));
    let sum: F = rows_of.map(|(row, count)| row.iter().copied().sum::<F>() * count).sum();
    sum / number(rows * cols)
}

fn number<F: Real>(value: usize) -> F {
    num_traits::NumCast::from(value).unwrap_or_else(F::nan)
}

/// The gradient of a sum as that of a mean over `count`.
fn over<F: Real>(values: Vec<F>, count: usize) -> Vec<F> {
    values.into_iter().map(|value| value / number(count)).collect()
}

/// y of x's shape.
fn of_rows(
    gpu: &Gpu,
    shape: [usize; 2],
    storage: Storage,
    truth: fn(&Input) -> (Found<f64>, Found<f32>),
    forward: fn(&mut Recorder, Tensor, Tensor) -> Result<()>,
) -> Result<Job> {
    let x = Rc::new(Input::normal(gpu, shape, storage, 0)?);
    let y = Output::new(gpu, shape, storage)?;
    let (inputs, output) = (x.clone(), y.again());
    Ok(Job {
        outputs: vec![y],
        truth: Box::new(move || truth(&x)),
        work: work(gpu, move |recorder| forward(recorder, inputs.view()?, output.view()?)),
    })
}

fn sigmoid(gpu: &Gpu, shape: [usize; 2], storage: Storage) -> Result<Job> {
    use wgloss::sigmoid::{Options, forward};
    fn truth<F: Real>(x: &Input) -> Found<F> {
        vec![reference::sigmoid::forward(&x.of(), Options::default())]
    }
    let record = |recorder: &mut Recorder, x: Tensor, y: Tensor| forward(recorder, x, y, Options::default());
    of_rows(gpu, shape, storage, |x| (truth(x), truth(x)), record)
}

fn tanh(gpu: &Gpu, shape: [usize; 2], storage: Storage) -> Result<Job> {
    fn truth<F: Real>(x: &Input) -> Found<F> {
        vec![reference::tanh::forward(&x.of())]
    }
    of_rows(gpu, shape, storage, |x| (truth(x), truth(x)), wgloss::tanh::forward)
}

fn softmax(gpu: &Gpu, shape: [usize; 2], storage: Storage) -> Result<Job> {
    use wgloss::softmax::{Options, forward};
    fn truth<F: Real>(x: &Input) -> Found<F> {
        vec![reference::softmax::forward(&x.of(), x.cols, Options::default())]
    }
    let record = |recorder: &mut Recorder, x: Tensor, y: Tensor| forward(recorder, x, y, Options::default());
    of_rows(gpu, shape, storage, |x| (truth(x), truth(x)), record)
}

fn normalize(gpu: &Gpu, shape: [usize; 2], storage: Storage) -> Result<Job> {
    use wgloss::normalize::{Options, forward};
    fn truth<F: Real>(x: &Input) -> Found<F> {
        vec![reference::normalize::forward(&x.of(), x.cols, Options::default())]
    }
    let record = |recorder: &mut Recorder, x: Tensor, y: Tensor| forward(recorder, x, y, Options::default());
    of_rows(gpu, shape, storage, |x| (truth(x), truth(x)), record)
}

/// The mean loss and its gradient.
fn cross_entropy(gpu: &Gpu, [rows, cols]: [usize; 2], storage: Storage) -> Result<Job> {
    use reference::cross_entropy as textbook;
    use wgloss::cross_entropy::{Options, Target, Weights, forward};
    let x = Rc::new(Input::normal(gpu, [rows, cols], storage, 0)?);
    let ids = classes(period([rows, cols]), cols);
    let id_buffer = gpu.upload(&(0..rows).map(|row| ids[row % ids.len()]).collect::<Vec<_>>())?;
    let (loss, dx) = (Output::new(gpu, [1, 1], Storage::F32)?, Output::new(gpu, [rows, cols], storage)?);
    let lse = gpu.zeros::<f32>(2 * rows)?;
    fn truth<F: Real>(x: &Input, ids: &[u32]) -> Found<F> {
        let (target, weights) = (textbook::Target::Ids(ids), textbook::Weights::default());
        let each = Options { reduction: Reduction::None, ..Options::default() };
        let loss = textbook::forward::<F>(&x.of(), x.cols, target, weights, each);
        let dx = textbook::backward::<F>(&x.of(), x.cols, target, weights, &[], each);
        vec![vec![mean(&loss, x.rows, 1)], over(dx, x.rows)]
    }
    let (inputs, outputs) = (x.clone(), [loss.again(), dx.again()]);
    Ok(Job {
        outputs: vec![loss, dx],
        truth: Box::new(move || (truth(&x, &ids), truth(&x, &ids))),
        work: work(gpu, move |recorder| {
            let (target, weights) = (Target::Ids(Tensor::vector(&id_buffer, rows)?), Weights::default());
            let (loss, lse) = (outputs[0].view()?, Tensor::matrix(&lse, rows, 2)?);
            forward(recorder, inputs.view()?, target, weights, loss, lse, Some(outputs[1].view()?), Options::default())
        }),
    })
}

/// From two sets of logits, the mean over the rows, with the gradients of both.
fn kl(gpu: &Gpu, [rows, cols]: [usize; 2], storage: Storage) -> Result<Job> {
    use wgloss::kl::{Gradients, Options, forward};
    let both = [0, 1].map(|stream| Input::normal(gpu, [rows, cols], storage, stream));
    let loss = Output::new(gpu, [1, 1], Storage::F32)?;
    let [dx, dt] = [(); 2].map(|()| Output::new(gpu, [rows, cols], storage));
    let (dx, dt) = (dx?, dt?);
    fn truth<F: Real>(x: &Input, t: &Input) -> Found<F> {
        let each = Options { reduction: Reduction::Rows, ..Options::default() };
        let loss = reference::kl::forward::<F>(&x.of(), &t.of(), x.cols, each);
        let [dx, dt] = reference::kl::backward::<F>(&x.of(), &t.of(), x.cols, &[], each);
        vec![vec![mean(&loss, x.rows, 1)], over(dx, x.rows), over(dt, x.rows)]
    }
    let both = Rc::new(take(both)?);
    let (inputs, outputs) = (both.clone(), [loss.again(), dx.again(), dt.again()]);
    Ok(Job {
        outputs: vec![loss, dx, dt],
        truth: Box::new(move || (truth(&both[0], &both[1]), truth(&both[0], &both[1]))),
        work: work(gpu, move |recorder| {
            let [loss, dx, dt] = [0, 1, 2].map(|at| outputs[at].view());
            let options = Options { reduction: Reduction::BatchMean, ..Options::default() };
            let gradients = Gradients { dx: Some(dx?), dt: Some(dt?) };
            forward(recorder, inputs[0].view()?, inputs[1].view()?, loss?, gradients, options)
        }),
    })
}

/// The mean loss and dx.
fn bce(gpu: &Gpu, [rows, cols]: [usize; 2], storage: Storage) -> Result<Job> {
    use reference::bce as textbook;
    use wgloss::bce::{Inputs, Options, forward};
    let x = Input::normal(gpu, [rows, cols], storage, 0)?;
    let t = Input::new(gpu, [rows, cols], storage, uniform(period([rows, cols]) * cols, 1))?;
    let both = Rc::new([x, t]);
    let (loss, dx) = (Output::new(gpu, [1, 1], Storage::F32)?, Output::new(gpu, [rows, cols], storage)?);
    fn truth<F: Real>(x: &Input, t: &Input) -> Found<F> {
        let each = Options { reduction: Reduction::None, ..Options::default() };
        let (a, b) = (x.of::<F>(), t.of::<F>());
        let inputs = textbook::Inputs { x: &a, t: &b, weight: &[], pos_weight: &[] };
        let dx = textbook::backward(inputs, x.cols, &[], each);
        vec![vec![mean(&textbook::forward(inputs, x.cols, each), x.rows, x.cols)], over(dx, x.rows * x.cols)]
    }
    let (inputs, outputs) = (both.clone(), [loss.again(), dx.again()]);
    Ok(Job {
        outputs: vec![loss, dx],
        truth: Box::new(move || (truth(&both[0], &both[1]), truth(&both[0], &both[1]))),
        work: work(gpu, move |recorder| {
            let inputs = Inputs { x: inputs[0].view()?, t: inputs[1].view()?, weight: None, pos_weight: None };
            forward(recorder, inputs, outputs[0].view()?, Some(outputs[1].view()?), Options::default())
        }),
    })
}

/// The mean loss and dx.
fn l2(gpu: &Gpu, [rows, cols]: [usize; 2], storage: Storage) -> Result<Job> {
    use wgloss::l2::{Gradients, Options, forward};
    let both = [0, 1].map(|stream| Input::normal(gpu, [rows, cols], storage, stream));
    let both = Rc::new(take(both)?);
    let (loss, dx) = (Output::new(gpu, [1, 1], Storage::F32)?, Output::new(gpu, [rows, cols], storage)?);
    fn truth<F: Real>(x: &Input, t: &Input) -> Found<F> {
        let each = Options { reduction: Reduction::None, ..Options::default() };
        let loss = reference::l2::forward::<F>(&x.of(), &t.of(), x.cols, each);
        let [dx, _] = reference::l2::backward::<F>(&x.of(), &t.of(), x.cols, &[], each);
        vec![vec![mean(&loss, x.rows, x.cols)], over(dx, x.rows * x.cols)]
    }
    let (inputs, outputs) = (both.clone(), [loss.again(), dx.again()]);
    Ok(Job {
        outputs: vec![loss, dx],
        truth: Box::new(move || (truth(&both[0], &both[1]), truth(&both[0], &both[1]))),
        work: work(gpu, move |recorder| {
            let gradients = Gradients { dx: Some(outputs[1].view()?), dt: None };
            let (x, t) = (inputs[0].view()?, inputs[1].view()?);
            forward(recorder, x, t, outputs[0].view()?, gradients, Options::default())
        }),
    })
}

/// Against the standard normal distribution, the sum over a row, the mean of the rows, and both gradients.
fn gaussian_kl(gpu: &Gpu, [rows, cols]: [usize; 2], storage: Storage) -> Result<Job> {
    use reference::gaussian_kl as textbook;
    use wgloss::gaussian_kl::{Gradients, Inputs, Options, forward};
    let both = [0, 1].map(|stream| Input::normal(gpu, [rows, cols], storage, stream));
    let both = Rc::new(take(both)?);
    let loss = Output::new(gpu, [1, 1], Storage::F32)?;
    let [dm, dv] = take([(); 2].map(|()| Output::new(gpu, [rows, cols], storage)))?;
    fn truth<F: Real>(mean_of: &Input, log_variance: &Input) -> Found<F> {
        let each = Options { reduction: Reduction::Rows, ..Options::default() };
        let (m, v) = (mean_of.of::<F>(), log_variance.of::<F>());
        let inputs = textbook::Inputs { mean: &m, log_variance: &v, prior: None };
        let [dm, dv, ..] = textbook::backward(inputs, mean_of.cols, &[], each);
        let loss = mean(&textbook::forward(inputs, mean_of.cols, each), mean_of.rows, 1);
        vec![vec![loss], over(dm, mean_of.rows), over(dv, mean_of.rows)]
    }
    let (inputs, outputs) = (both.clone(), [loss.again(), dm.again(), dv.again()]);
    Ok(Job {
        outputs: vec![loss, dm, dv],
        truth: Box::new(move || (truth(&both[0], &both[1]), truth(&both[0], &both[1]))),
        work: work(gpu, move |recorder| {
            let inputs = Inputs { mean: inputs[0].view()?, log_variance: inputs[1].view()?, prior: None };
            let (mean, log_variance) = (Some(outputs[1].view()?), Some(outputs[2].view()?));
            let gradients = Gradients { mean, log_variance, ..Default::default() };
            forward(recorder, inputs, outputs[0].view()?, gradients, Options::default())
        }),
    })
}

/// One step without momentum: read two, write one.
fn sgd(gpu: &Gpu, [rows, cols]: [usize; 2], storage: Storage) -> Result<Job> {
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
    Ok(Job {
        outputs: vec![p],
        truth: Box::new(move || (truth(&both[0], &both[1], options), truth(&both[0], &both[1], options))),
        work: work(gpu, move |recorder| step(recorder, inputs[0].view()?, inputs[1].view()?, None, options)),
    })
}

/// One step on parameters, their gradient and two means: read four, write three.
fn adam(gpu: &Gpu, [rows, cols]: [usize; 2], storage: Storage) -> Result<Job> {
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
    Ok(Job {
        outputs: vec![p],
        truth: Box::new(move || (truth(&all), truth(&all))),
        work: work(gpu, move |recorder| {
            let state = State { m: inputs[2].view()?, v: inputs[3].view()?, most: None };
            step(recorder, inputs[0].view()?, inputs[1].view()?, state, Options::default())
        }),
    })
}

/// Keys that are found for each query.
const BEST: usize = 10;

/// The best of as many keys as queries.
fn top_k(gpu: &Gpu, [rows, cols]: [usize; 2], storage: Storage) -> Result<Job> {
    use wgloss::top_k::forward;
    let both = [0, 1].map(|stream| Input::normal(gpu, [rows, cols], storage, stream));
    let both = Rc::new(take(both)?);
    let found = Output::new(gpu, [rows, BEST], Storage::F32)?;
    let ids = gpu.zeros::<u32>(rows * BEST)?;
    // Of a period's keys each is there as often as it occurs.
    fn truth<F: Real>(q: &Input, k: &Input) -> Found<F> {
        let of_rows = scores::<F>(&q.of(), &k.of(), q.cols, F::one(), F::zero());
        let copies: Vec<usize> =
            counts::<f64>(k.rows, k.data.len() / k.cols).into_iter().map(|count| count as usize).collect();
        let best = of_rows.into_iter().flat_map(|row| {
            let mut row: Vec<(F, usize)> = row.into_iter().zip(copies.iter().copied()).collect();
            row.sort_by(|a, b| b.0.partial_cmp(&a.0).unwrap_or(std::cmp::Ordering::Equal));
            row.into_iter().flat_map(|(score, count)| std::iter::repeat_n(score, count)).take(BEST).collect::<Vec<F>>()
        });
        vec![best.collect()]
    }
    let (inputs, output) = (both.clone(), found.again());
    Ok(Job {
        outputs: vec![found],
        truth: Box::new(move || (truth(&both[0], &both[1]), truth(&both[0], &both[1]))),
        work: work(gpu, move |recorder| {
            let ids = Tensor::matrix(&ids, rows, BEST)?;
            forward(recorder, inputs[0].view()?, inputs[1].view()?, None, ids, output.view()?)
        }),
    })
}

/// From f16 to f32, which is exact.
fn cast(gpu: &Gpu, shape: [usize; 2], storage: Storage) -> Result<Job> {
    let x = Rc::new(Input::normal(gpu, shape, Storage::F16, 0)?);
    let y = Output::new(gpu, shape, storage)?;
    let (inputs, output) = (x.clone(), y.again());
    Ok(Job {
        outputs: vec![y],
        truth: Box::new(move || (vec![x.of()], vec![x.of()])),
        work: work(gpu, move |recorder| wgloss::cast::forward(recorder, inputs.view()?, output.view()?)),
    })
}

/// Keys of each query's own.
const KEYS: usize = 16;

/// The scores of each query with keys of its own.
fn dot(gpu: &Gpu, [rows, cols]: [usize; 2], storage: Storage) -> Result<Job> {
    let q = Input::normal(gpu, [rows, cols], storage, 0)?;
    let both = Rc::new([q, Input::normal(gpu, [rows * KEYS, cols], storage, 1)?]);
    let s = Output::new(gpu, [rows, KEYS], Storage::F32)?;
    fn truth<F: Real>(q: &Input, k: &Input) -> Found<F> {
        let of_rows = scores::<F>(&q.of(), &k.of(), q.cols, F::one(), F::zero());
        let own = |(row, of_row): (usize, &Vec<F>)| -> Vec<F> {
            (0..KEYS).map(|key| of_row[(KEYS * row + key) % of_row.len()]).collect()
        };
        vec![of_rows.iter().enumerate().flat_map(own).collect()]
    }
    let (inputs, output) = (both.clone(), s.again());
    Ok(Job {
        outputs: vec![s],
        truth: Box::new(move || (truth(&both[0], &both[1]), truth(&both[0], &both[1]))),
        work: work(gpu, move |recorder| {
            wgloss::dot::forward(recorder, inputs[0].view()?, inputs[1].view()?, output.view()?)
        }),
    })
}

/// Blocks of rows.
const BLOCKS: u32 = 3;

/// How much the rows of one side score with those of the other that are not of their block.
fn folding(gpu: &Gpu, [rows, cols]: [usize; 2], storage: Storage) -> Result<Job> {
    let both = [0, 1].map(|stream| Input::normal(gpu, [rows, cols], storage, stream));
    let both = Rc::new(take(both)?);
    let sums = Output::new(gpu, [2, 1], Storage::F32)?;
    let block = |row: usize| (row % period([rows, cols])) as u32 % BLOCKS;
    let blocks = gpu.upload(&(0..rows).map(block).collect::<Vec<_>>())?;
    fn truth<F: Real>(q: &Input, k: &Input, terms: &Terms<F>) -> Found<F> {
        let s = scores(&q.of(), &k.of(), q.cols, F::one(), F::zero());
        let is_own = |i: usize, j: usize| i as u32 % BLOCKS == j as u32 % BLOCKS;
        let own = |i: usize, j: usize| if is_own(i, j) { F::one() } else { F::zero() };
        let above = terms.sum(|i| terms.sum(|j| (s[i][j] - own(i, j)).max(F::zero())));
        vec![vec![above, terms.sum(|i| terms.sum(|j| own(i, j) * s[i][j]))]]
    }
    let (inputs, output) = (both.clone(), sums.again());
    Ok(Job {
        outputs: vec![sums],
        truth: Box::new(move || {
            let [q, k] = &*both;
            (truth(q, k, &Terms::counted(rows)), truth(q, k, &Terms::each(rows)))
        }),
        work: work(gpu, move |recorder| {
            let blocks = Tensor::vector(&blocks, rows)?;
            wgloss::folding::forward(recorder, inputs[0].view()?, inputs[1].view()?, blocks, blocks, output.view()?)
        }),
    })
}

/// Gradients cut to a norm that they exceed at the first call.
fn clip(gpu: &Gpu, [rows, cols]: [usize; 2], storage: Storage) -> Result<Job> {
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
    Ok(Job {
        outputs: vec![cut],
        truth: Box::new(move || (truth(&g), truth(&g))),
        work: work(gpu, move |recorder| forward(recorder, &[inputs.view()?], Tensor::scalar(&norm, 0)?, options)),
    })
}

/// So many rows of a table of as many, in no order.
fn gather(gpu: &Gpu, [rows, cols]: [usize; 2], storage: Storage) -> Result<Job> {
    use wgloss::gather::forward;
    let table = Rc::new(Input::normal(gpu, [rows, cols], storage, 0)?);
    let mut ids = Random::new(1, 4).permutation(rows as u32);
    // The first and the last rows of the result are those of one period.
    let period = period([rows, cols]);
    for (row, id) in ids.iter_mut().enumerate() {
        *id = *id / period as u32 * period as u32 + (row % period) as u32;
        *id = if *id as usize >= rows { (row % period) as u32 } else { *id };
    }
    let ids = gpu.upload(&ids)?;
    let y = Output::new(gpu, [rows, cols], storage)?;
    let (inputs, output) = (table.clone(), y.again());
    Ok(Job {
        outputs: vec![y],
        truth: Box::new(move || (vec![table.of()], vec![table.of()])),
        work: work(gpu, move |recorder| forward(recorder, inputs.view()?, Tensor::vector(&ids, rows)?, output.view()?)),
    })
}

/// Observations of each row of `wals`, and its steps.
const NEAR: usize = 32;
const STEPS: usize = 2;
/// All of what stands for the Gramian.
const EIGENVALUE: f32 = 100.0;

/// Steps of conjugate gradients from 0 for so many rows, with a factor of as many; in the basis of the unit vectors.
fn wals(gpu: &Gpu, [rows, cols]: [usize; 2], storage: Storage) -> Result<Job> {
    use wgloss::wals::{Base, Observed, Options, Rows, refine};
    let options = Options { weight: 2.0, ..Options::default() };
    let y = Rc::new(Input::normal(gpu, [rows, cols], storage, 0)?);
    let period = period([rows, cols]);
    // Rows beside each other in a period have other observations, of any periods.
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
    Ok(Job {
        outputs: vec![x],
        truth: Box::new(move || truth(&y)),
        work: work(gpu, move |recorder| {
            let items = Tensor::vector(&ids, rows * NEAR)?;
            let observed = Observed { rows: &of_rows, items, weights: None, goals: None };
            let vectors = Tensor::matrix(&vectors, cols, cols)?;
            let base = Base::Eigen { vectors, values: Tensor::matrix(&held_values, 1, cols)? };
            let (ridge, loss) = (Tensor::vector(&ridges, rows)?, Tensor::vector(&loss, of_rows.pieces())?);
            refine(recorder, inputs.view()?, observed, base, ridge, output.view()?, loss, STEPS, options)
        }),
    })
}

/// y [rows, rows] = x wᵀ, rows of `cols` elements.
fn linear(gpu: &Gpu, [rows, cols]: [usize; 2], storage: Storage) -> Result<Job> {
    use wgloss::linear::forward;
    let both = [0, 1].map(|stream| Input::normal(gpu, [rows, cols], storage, stream));
    let both = Rc::new(take(both)?);
    let y = Output::new(gpu, [rows, rows], storage)?;
    fn truth<F: Real>(x: &Input, w: &Input) -> Found<F> {
        let period = x.data.len() / x.cols;
        let small = reference::linear::forward::<F>(&x.of(), &w.of(), None, x.cols, period, period);
        let row = |at: usize| (0..x.rows).map(move |col| (at, col % period));
        vec![(0..period).flat_map(row).map(|(at, col)| small[at * period + col]).collect()]
    }
    let (inputs, output) = (both.clone(), y.again());
    Ok(Job {
        outputs: vec![y],
        truth: Box::new(move || (truth(&both[0], &both[1]), truth(&both[0], &both[1]))),
        work: work(gpu, move |recorder| forward(recorder, inputs[0].view()?, inputs[1].view()?, None, output.view()?)),
    })
}

/// s_ij = scale ⟨a_i, b_j⟩ + bias of the rows of a period.
fn scores<F: Real>(a: &[F], b: &[F], dim: usize, scale: F, bias: F) -> Vec<Vec<F>> {
    let dot = |x: &[F], y: &[F]| x.iter().zip(y).map(|(&x, &y)| x * y).sum::<F>();
    a.chunks(dim).map(|x| b.chunks(dim).map(|y| scale * dot(x, y) + bias).collect()).collect()
}

/// What a sum over all rows goes over: the rows of a period, each as often as it occurs, or one by one, as a plain sum in f32 would.
struct Terms<F> {
    of: Vec<(usize, F)>,
    /// Rows for which gradients are found: each costs the sum one by one.
    rows: usize,
}

impl<F: Real> Terms<F> {
    fn counted(rows: usize) -> Self {
        let of: Vec<(usize, F)> = counts(rows, period([rows, 1])).into_iter().enumerate().collect();
        Terms { rows: of.len(), of }
    }

    fn each(rows: usize) -> Self {
        let period = period([rows, 1]);
        Terms { of: (0..rows).map(|row| (row % period, F::one())).collect(), rows: period.min(4) }
    }

    fn sum(&self, of: impl Fn(usize) -> F) -> F {
        let period = self.of.iter().map(|(row, _)| row + 1).max().unwrap_or(0);
        let values: Vec<F> = (0..period).map(of).collect();
        self.of.iter().map(|&(row, count)| count * values[row]).sum()
    }

    /// Σ_j slope_ij v_j − own_i v_i of the first rows i, the own pair in its place: what comes after so large a term is rounded to its last digits.
    fn gradient(&self, v: &[F], dim: usize, slope: impl Fn(usize, usize) -> F, own: impl Fn(usize) -> F) -> Vec<F> {
        let mut gradient = vec![F::zero(); self.rows * dim];
        for (i, gradient) in gradient.chunks_mut(dim).enumerate() {
            for (at, &(j, count)) in self.of.iter().enumerate() {
                let own = if at == i { own(i) } else { F::zero() };
                let slope = count * slope(i, j) - own;
                gradient.iter_mut().zip(&v[j * dim..]).for_each(|(sum, &v)| *sum = *sum + slope * v);
            }
        }
        gradient
    }
}

/// Pairs of unit vectors, and where their gradients go.
fn unit_pairs(gpu: &Gpu, [rows, cols]: [usize; 2], storage: Storage) -> Result<(Rc<[Input; 2]>, [Output; 2])> {
    let data = |stream| unit(normal(period([rows, cols]) * cols, stream), cols);
    let both = [0, 1].map(|stream| Input::new(gpu, [rows, cols], storage, data(stream)));
    let gradients = [(); 2].map(|()| Output::new(gpu, [rows, cols], storage));
    Ok((Rc::new(take(both)?), take(gradients)?))
}

/// CLIP's symmetric loss of `rows` pairs of unit vectors of `cols` elements, with the gradients of both sides and of the scale.
fn info_nce(gpu: &Gpu, [rows, cols]: [usize; 2], storage: Storage) -> Result<Job> {
    use wgloss::info_nce::{Batch, Gradients, Options, forward};
    let options = Options { symmetric: true, ..Options::default() };
    let (both, [dq, dk]) = unit_pairs(gpu, [rows, cols], storage)?;
    let loss = Output::new(gpu, [1, 1], Storage::F32)?;
    let [d_scale, state] = [gpu.zeros::<f32>(1)?, gpu.zeros::<f32>(8 * rows)?];
    let temperature = options.temperature;
    // With r_i = ln sum_j e^s_ij and k_j that of column j, loss = sum_i (r_i + k_i - 2 s_ii)/2N.
    fn truth<F: Real>(q: &Input, k: &Input, temperature: f32, terms: &Terms<F>) -> Found<F> {
        let (a, b, dim) = (q.of::<F>(), k.of::<F>(), q.cols);
        let (n, total, two) = (a.len() / dim, number::<F>(q.rows), number::<F>(2));
        let s = scores(&a, &b, dim, F::one() / <F as From<f32>>::from(temperature), F::zero());
        let lse = |of: &dyn Fn(usize) -> F| terms.sum(|at| of(at).exp()).ln();
        let rows: Vec<F> = (0..n).map(|i| lse(&|j| s[i][j])).collect();
        let cols: Vec<F> = (0..n).map(|j| lse(&|i| s[i][j])).collect();
        let loss = terms.sum(|i| rows[i] + cols[i] - two * s[i][i]) / (two * total);
        let slope = |i: usize, j: usize| (s[i][j] - rows[i]).exp() + (s[i][j] - cols[j]).exp();
        let factor = F::one() / (<F as From<f32>>::from(temperature) * two * total);
        let dq = terms.gradient(&b, dim, |i, j| factor * slope(i, j), |_| factor * two);
        vec![vec![loss], dq, terms.gradient(&a, dim, |j, i| factor * slope(i, j), |_| factor * two)]
    }
    let (inputs, outputs) = (both.clone(), [loss.again(), dq.again(), dk.again()]);
    Ok(Job {
        outputs: vec![loss, dq, dk],
        truth: Box::new(move || {
            let [q, k] = &*both;
            (truth(q, k, temperature, &Terms::counted(rows)), truth(q, k, temperature, &Terms::each(rows)))
        }),
        work: work(gpu, move |recorder| {
            let [loss, dq, dk] = [0, 1, 2].map(|at| outputs[at].view());
            let batch = Batch::new(inputs[0].view()?, inputs[1].view()?);
            let (state, d_log_scale) = (Tensor::matrix(&state, 2 * rows, 4)?, Some(Tensor::scalar(&d_scale, 0)?));
            let gradients = Gradients { dq: Some(dq?), dk: Some(dk?), d_log_scale, ..Default::default() };
            forward(recorder, batch, loss?, state, gradients, options)
        }),
    })
}

/// The sigmoid loss of the same pairs, with the gradients of both sides.
fn siglip(gpu: &Gpu, [rows, cols]: [usize; 2], storage: Storage) -> Result<Job> {
    use wgloss::siglip::{Gradients, Learned, Options, forward};
    let options = Options::default();
    let (both, [dq, dk]) = unit_pairs(gpu, [rows, cols], storage)?;
    let loss = Output::new(gpu, [1, 1], Storage::F32)?;
    fn truth<F: Real>(q: &Input, k: &Input, options: Options, terms: &Terms<F>) -> Found<F> {
        let (a, b, dim, total) = (q.of::<F>(), k.of::<F>(), q.cols, number::<F>(q.rows));
        let scale = F::one() / <F as From<f32>>::from(options.temperature);
        let s = scores(&a, &b, dim, scale, <F as From<f32>>::from(options.bias));
        let softplus = |x: F| x.max(F::zero()) + (-x.abs()).exp().ln_1p();
        // A query has one partner, be there copies of it or not: softplus(-s) = softplus(s) - s.
        let loss = terms.sum(|i| terms.sum(|j| softplus(s[i][j])) - s[i][i]) / total;
        let slope = |s: F| scale / total / (F::one() + (-s).exp());
        let dq = terms.gradient(&b, dim, |i, j| slope(s[i][j]), |_| scale / total);
        vec![vec![loss], dq, terms.gradient(&a, dim, |j, i| slope(s[i][j]), |_| scale / total)]
    }
    let (inputs, outputs) = (both.clone(), [loss.again(), dq.again(), dk.again()]);
    Ok(Job {
        outputs: vec![loss, dq, dk],
        truth: Box::new(move || {
            let [q, k] = &*both;
            (truth(q, k, options, &Terms::counted(rows)), truth(q, k, options, &Terms::each(rows)))
        }),
        work: work(gpu, move |recorder| {
            let [loss, dq, dk] = [0, 1, 2].map(|at| outputs[at].view());
            let gradients = Gradients { dq: Some(dq?), dk: Some(dk?), ..Default::default() };
            let (q, k) = (inputs[0].view()?, inputs[1].view()?);
            forward(recorder, q, k, Learned::default(), loss?, gradients, options)
        }),
    })
}

fn take<T, const N: usize>(results: [Result<T>; N]) -> Result<[T; N]> {
    let all = results.into_iter().collect::<Result<Vec<T>>>()?;
    Ok(all.try_into().unwrap_or_else(|_| unreachable!("as many as there were")))
}

/// Logits: normal with deviation 2 (Box and Muller 1958).
fn normal(len: usize, stream: u32) -> Vec<f32> {
    let mut random = Random::new(1, stream);
    let mut pair = || {
        let radius = 2.0 * (-2.0 * (1.0 - random.uniform()).ln()).sqrt();
        let (sin, cos) = (TAU * random.uniform()).sin_cos();
        [radius * cos, radius * sin]
    };
    let mut numbers: Vec<f32> = (0..len.div_ceil(2)).flat_map(|_| pair()).collect();
    numbers.truncate(len);
    numbers
}

/// Rows of `cols` elements, each of unit length.
fn unit(mut x: Vec<f32>, cols: usize) -> Vec<f32> {
    for row in x.chunks_mut(cols) {
        let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt();
        row.iter_mut().for_each(|v| *v /= norm);
    }
    x
}

/// Targets, between 0 and 1.
fn uniform(len: usize, stream: u32) -> Vec<f32> {
    let mut random = Random::new(1, stream);
    (0..len).map(|_| random.uniform()).collect()
}

fn classes(rows: usize, count: usize) -> Vec<u32> {
    let mut random = Random::new(1, u32::MAX);
    (0..rows).map(|_| random.below(count as u32)).collect()
}
