//! Ops on the rows of two sides, each row with every other or with some.

use std::rc::Rc;

use wgloss::reference::{self, Real};
use wgloss::{Gpu, Recorder, Result, Storage, Tensor};

use super::job::{Found, Input, Job, Output, work};
use super::numbers::{counts, normal, number, period, take, unit};
use crate::bench::clock::Work;

/// y [rows, rows] = x wᵀ, with rows of `cols` elements.
pub(super) fn linear(gpu: &Gpu, [rows, cols]: [usize; 2], storage: Storage) -> Result<Job> {
    use wgloss::linear::forward;
    let both = [0, 1].map(|stream| Input::normal(gpu, [rows, cols], storage, stream));
    let both = Rc::new(take(both)?);
    let y = Output::new(gpu, [rows, rows], storage)?;
    fn truth<F: Real>([x, w]: &[Input; 2]) -> Found<F> {
        let period = x.data.len() / x.cols;
        let small = reference::linear::forward::<F>(&x.of(), &w.of(), None, x.cols, period, period);
        let row = |at: usize| (0..x.rows).map(move |col| (at, col % period));
        vec![(0..period).flat_map(row).map(|(at, col)| small[at * period + col]).collect()]
    }
    let (inputs, output) = (both.clone(), y.again());
    let record =
        move |recorder: &mut Recorder| forward(recorder, inputs[0].view()?, inputs[1].view()?, None, output.view()?);
    Ok(of_sums(both, vec![y], work(gpu, record), truth, truth))
}

/// Keys to find for each query, if there are that many.
const BEST: usize = 10;

/// The best keys of each query, with as many keys as queries.
pub(super) fn top_k(gpu: &Gpu, [rows, cols]: [usize; 2], storage: Storage) -> Result<Job> {
    use wgloss::top_k::forward;
    let both = [0, 1].map(|stream| Input::normal(gpu, [rows, cols], storage, stream));
    let both = Rc::new(take(both)?);
    let best = BEST.min(rows);
    let found = Output::new(gpu, [rows, best], Storage::F32)?;
    let ids = gpu.zeros::<u32>(rows * best)?;
    // Each key of a period is present as often as it occurs.
    fn truth<F: Real>([q, k]: &[Input; 2]) -> Found<F> {
        let of_rows = scores::<F>([q, k], F::one(), F::zero());
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
    let record = move |recorder: &mut Recorder| {
        let ids = Tensor::matrix(&ids, rows, best)?;
        forward(recorder, inputs[0].view()?, inputs[1].view()?, None, ids, output.view()?)
    };
    Ok(of_sums(both, vec![found], work(gpu, record), truth, truth))
}

/// Keys per query in `dot`; each query has keys of its own.
pub(super) const KEYS: usize = 16;

/// The scores of each query with its own keys.
pub(super) fn dot(gpu: &Gpu, [rows, cols]: [usize; 2], storage: Storage) -> Result<Job> {
    let q = Input::normal(gpu, [rows, cols], storage, 0)?;
    let both = Rc::new([q, Input::normal(gpu, [rows * KEYS, cols], storage, 1)?]);
    let s = Output::new(gpu, [rows, KEYS], Storage::F32)?;
    fn truth<F: Real>([q, k]: &[Input; 2]) -> Found<F> {
        let of_rows = scores::<F>([q, k], F::one(), F::zero());
        let own = |(row, of_row): (usize, &Vec<F>)| -> Vec<F> {
            (0..KEYS).map(|key| of_row[(KEYS * row + key) % of_row.len()]).collect()
        };
        vec![of_rows.iter().enumerate().flat_map(own).collect()]
    }
    let (inputs, output) = (both.clone(), s.again());
    let record = move |recorder: &mut Recorder| {
        wgloss::dot::forward(recorder, inputs[0].view()?, inputs[1].view()?, output.view()?)
    };
    Ok(of_sums(both, vec![s], work(gpu, record), truth, truth))
}

/// Blocks that the rows belong to.
const BLOCKS: u32 = 3;

/// How high the rows of one side score with rows of the other side that are not of their block.
pub(super) fn folding(gpu: &Gpu, [rows, cols]: [usize; 2], storage: Storage) -> Result<Job> {
    let both = [0, 1].map(|stream| Input::normal(gpu, [rows, cols], storage, stream));
    let both = Rc::new(take(both)?);
    let sums = Output::new(gpu, [2, 1], Storage::F32)?;
    let block = |row: usize| (row % period([rows, cols])) as u32 % BLOCKS;
    let blocks = gpu.upload(&(0..rows).map(block).collect::<Vec<_>>())?;
    fn truth<F: Real>(both: [&Input; 2], terms: &Terms<F>) -> Found<F> {
        let s = scores(both, F::one(), F::zero());
        let is_own = |i: usize, j: usize| i as u32 % BLOCKS == j as u32 % BLOCKS;
        let own = |i: usize, j: usize| if is_own(i, j) { F::one() } else { F::zero() };
        let above = terms.sum(|i| terms.sum(|j| (s[i][j] - own(i, j)).max(F::zero())));
        vec![vec![above, terms.sum(|i| terms.sum(|j| own(i, j) * s[i][j]))]]
    }
    let (inputs, output, sizes) = (both.clone(), sums.again(), both.each_ref().map(Input::sizes));
    let truth_of_all =
        move || (truth(both.each_ref(), &Terms::counted(rows)), truth(both.each_ref(), &Terms::each(rows)));
    let record = move |recorder: &mut Recorder| {
        let blocks = Tensor::vector(&blocks, rows)?;
        wgloss::folding::forward(recorder, inputs[0].view()?, inputs[1].view()?, blocks, blocks, output.view()?)
    };
    let job = Job::new(vec![sums], truth_of_all, work(gpu, record));
    Ok(job.of_sums(move || truth(sizes.each_ref(), &Terms::counted(rows))))
}

/// A job whose outputs are sums of products of both inputs. Applied to the inputs' magnitudes, `exact` gives the sums
/// of the terms' magnitudes.
fn of_sums(
    both: Rc<[Input; 2]>,
    outputs: Vec<Output>,
    work: Box<dyn Work>,
    exact: fn(&[Input; 2]) -> Found<f64>,
    naive: fn(&[Input; 2]) -> Found<f32>,
) -> Job {
    let sizes = both.each_ref().map(Input::sizes);
    Job::new(outputs, move || (exact(&both), naive(&both)), work).of_sums(move || exact(&sizes))
}

/// s_ij = scale ⟨a_i, b_j⟩ + bias for the rows of a period.
pub(super) fn scores<F: Real>([a, b]: [&Input; 2], scale: F, bias: F) -> Vec<Vec<F>> {
    let (left, right) = (a.of::<F>(), b.of::<F>());
    let dot = |x: &[F], y: &[F]| x.iter().zip(y).map(|(&x, &y)| x * y).sum::<F>();
    left.chunks(a.cols).map(|x| right.chunks(b.cols).map(|y| scale * dot(x, y) + bias).collect()).collect()
}

/// The terms of a sum over all rows: the rows of a period, each counted as often as it occurs, or all rows one by one,
/// as a plain sum in f32 would add them.
pub(super) struct Terms<F> {
    of: Vec<(usize, F)>,
    /// Rows for which gradients are computed. For each, the sum over all terms is formed.
    rows: usize,
}

impl<F: Real> Terms<F> {
    pub(super) fn counted(rows: usize) -> Self {
        let of: Vec<(usize, F)> = counts(rows, period([rows, 1])).into_iter().enumerate().collect();
        Terms { rows: of.len(), of }
    }

    pub(super) fn each(rows: usize) -> Self {
        let period = period([rows, 1]);
        Terms { of: (0..rows).map(|row| (row % period, F::one())).collect(), rows: period.min(4) }
    }

    /// With as many gradients as another sum.
    pub(super) fn with_gradients_of(self, other: &Self) -> Self {
        Terms { rows: other.rows, ..self }
    }

    pub(super) fn sum(&self, of: impl Fn(usize) -> F) -> F {
        let period = self.of.iter().map(|(row, _)| row + 1).max().unwrap_or(0);
        let values: Vec<F> = (0..period).map(of).collect();
        self.of.iter().map(|&(row, count)| count * values[row]).sum()
    }

    /// Σ_j slope_ij v_j − own_i v_i for the first rows i.
    ///
    /// The own pair is subtracted at its place in the sum. It is a large term, so everything added after it is rounded
    /// to that term's last digits.
    pub(super) fn gradient(&self, v: &Input, slope: impl Fn(usize, usize) -> F, own: impl Fn(usize) -> F) -> Vec<F> {
        let (v, dim) = (v.of::<F>(), v.cols);
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

    /// The gradients of both sides. With `sizes`, the sums of the magnitudes of the terms of the scores s, instead the
    /// sums of the magnitudes of the gradients' terms.
    ///
    /// A slope, and what is subtracted from it, has the relative error of e^s, which is the absolute error of s.
    fn gradients(
        &self,
        [q, k]: [&Input; 2],
        slope: impl Fn(usize, usize) -> F,
        own: F,
        sizes: Option<&[Vec<F>]>,
    ) -> [Vec<F>; 2] {
        let Some(sizes) = sizes else {
            return [self.gradient(k, &slope, |_| own), self.gradient(q, |j, i| slope(i, j), |_| own)];
        };
        let grown = |i: usize, j: usize| slope(i, j) * (F::one() + sizes[i][j]);
        let added = |i: usize| -own * (F::one() + sizes[i][i]);
        [self.gradient(&k.sizes(), grown, added), self.gradient(&q.sizes(), |j, i| grown(i, j), added)]
    }
}

/// Pairs of unit vectors, and outputs for their gradients.
fn unit_pairs(gpu: &Gpu, [rows, cols]: [usize; 2], storage: Storage) -> Result<(Rc<[Input; 2]>, [Output; 2])> {
    let data = |stream| unit(normal(period([rows, cols]) * cols, stream), cols);
    let both = [0, 1].map(|stream| Input::new(gpu, [rows, cols], storage, data(stream)));
    let gradients = [(); 2].map(|()| Output::new(gpu, [rows, cols], storage));
    Ok((Rc::new(take(both)?), take(gradients)?))
}

/// CLIP's symmetric loss of `rows` pairs of unit vectors of `cols` elements, with the gradients of both sides and of
/// the scale.
pub(super) fn info_nce(gpu: &Gpu, [rows, cols]: [usize; 2], storage: Storage) -> Result<Job> {
    use wgloss::info_nce::{Batch, Gradients, Options, forward};
    let options = Options { symmetric: true, ..Options::default() };
    let (both, [dq, dk]) = unit_pairs(gpu, [rows, cols], storage)?;
    let loss = Output::new(gpu, [1, 1], Storage::F32)?;
    let [d_scale, state] = [gpu.zeros::<f32>(1)?, gpu.zeros::<f32>(8 * rows)?];
    let (inputs, outputs) = (both.clone(), [loss.again(), dq.again(), dk.again()]);
    let record = move |recorder: &mut Recorder| {
        let [loss, dq, dk] = [0, 1, 2].map(|at| outputs[at].view());
        let batch = Batch::new(inputs[0].view()?, inputs[1].view()?);
        let (state, d_log_scale) = (Tensor::matrix(&state, 2 * rows, 4)?, Some(Tensor::scalar(&d_scale, 0)?));
        let gradients = Gradients { dq: Some(dq?), dk: Some(dk?), d_log_scale, ..Default::default() };
        forward(recorder, batch, loss?, state, gradients, options)
    };
    // With r_i = ln sum_j e^s_ij and k_j that of column j, loss = sum_i (r_i + k_i - 2 s_ii)/2N.
    fn truth<F: Real>(both: [&Input; 2], temperature: f32, terms: &Terms<F>, of: Of) -> Found<F> {
        let (total, two) = (number::<F>(both[0].rows), number::<F>(2));
        let scale = F::one() / <F as From<f32>>::from(temperature);
        let s = scores(both, scale, F::zero());
        let lse = |of: &dyn Fn(usize) -> F| terms.sum(|at| of(at).exp()).ln();
        let rows: Vec<F> = (0..s.len()).map(|i| lse(&|j| s[i][j])).collect();
        let cols: Vec<F> = (0..s.len()).map(|j| lse(&|i| s[i][j])).collect();
        let loss = terms.sum(|i| rows[i] + cols[i] - two * s[i][i]) / (two * total);
        let factor = scale / (two * total);
        let slope = |i: usize, j: usize| factor * ((s[i][j] - rows[i]).exp() + (s[i][j] - cols[j]).exp());
        let sizes = of.sizes(both, scale, F::zero());
        let [dq, dk] = terms.gradients(both, slope, factor * two, sizes.as_deref());
        // The derivative of -ln p by s is 1 - p in magnitude, which is at most 1 and at most -ln p. A score of unit
        // vectors is at most the scale.
        let size = if of == Of::Sizes { scale * loss.min(F::one()) } else { F::zero() };
        vec![vec![loss + size], dq, dk]
    }
    Ok(of_pairs(both, vec![loss, dq, dk], work(gpu, record), options.temperature, truth, truth))
}

/// The sigmoid loss of pairs of unit vectors, with the gradients of both sides.
pub(super) fn siglip(gpu: &Gpu, [rows, cols]: [usize; 2], storage: Storage) -> Result<Job> {
    use wgloss::siglip::{Gradients, Learned, Options, forward};
    let options = Options::default();
    let (both, [dq, dk]) = unit_pairs(gpu, [rows, cols], storage)?;
    let loss = Output::new(gpu, [1, 1], Storage::F32)?;
    let (inputs, outputs) = (both.clone(), [loss.again(), dq.again(), dk.again()]);
    let record = move |recorder: &mut Recorder| {
        let [loss, dq, dk] = [0, 1, 2].map(|at| outputs[at].view());
        let gradients = Gradients { dq: Some(dq?), dk: Some(dk?), ..Default::default() };
        let (q, k) = (inputs[0].view()?, inputs[1].view()?);
        forward(recorder, q, k, Learned::default(), loss?, gradients, options)
    };
    fn truth<F: Real>(both: [&Input; 2], options: Options, terms: &Terms<F>, of: Of) -> Found<F> {
        let total = number::<F>(both[0].rows);
        let (scale, bias) =
            (F::one() / <F as From<f32>>::from(options.temperature), <F as From<f32>>::from(options.bias));
        let s = scores(both, scale, bias);
        let softplus = |x: F| x.max(F::zero()) + (-x.abs()).exp().ln_1p();
        let probability = |i: usize, j: usize| F::one() / (F::one() + (-s[i][j]).exp());
        // A query has one partner, even where its rows have copies: softplus(-s) = softplus(s) - s.
        let loss = terms.sum(|i| terms.sum(|j| softplus(s[i][j])) - s[i][i]) / total;
        let sizes = of.sizes(both, scale, bias.abs());
        let slope = |i: usize, j: usize| scale / total * probability(i, j);
        let [dq, dk] = terms.gradients(both, slope, scale / total, sizes.as_deref());
        let size = sizes.map_or(F::zero(), |sizes| {
            terms.sum(|i| terms.sum(|j| probability(i, j) * sizes[i][j]) + sizes[i][i] + s[i][i].abs()) / total
        });
        vec![vec![loss + size], dq, dk]
    }
    Ok(of_pairs(both, vec![loss, dq, dk], work(gpu, record), options, truth, truth))
}

/// What a truth function returns: the outputs, or, for outputs that are sums, the sums of their terms' magnitudes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Of {
    Numbers,
    Sizes,
}

impl Of {
    /// The sums of magnitudes of the scores' terms, if asked for.
    pub(super) fn sizes<F: Real>(self, [q, k]: [&Input; 2], scale: F, bias: F) -> Option<Vec<Vec<F>>> {
        (self == Of::Sizes).then(|| scores([&q.sizes(), &k.sizes()], scale, bias))
    }
}

/// A job that sums over all pairs, with the op's `options`.
fn of_pairs<O: Copy + 'static>(
    both: Rc<[Input; 2]>,
    outputs: Vec<Output>,
    work: Box<dyn Work>,
    options: O,
    exact: fn([&Input; 2], O, &Terms<f64>, Of) -> Found<f64>,
    naive: fn([&Input; 2], O, &Terms<f32>, Of) -> Found<f32>,
) -> Job {
    let (rows, sides) = (both[0].rows, both.clone());
    let truth = move || {
        let both = both.each_ref();
        (
            exact(both, options, &Terms::counted(rows), Of::Numbers),
            naive(both, options, &Terms::each(rows), Of::Numbers),
        )
    };
    Job::new(outputs, truth, work).of_sums(move || exact(sides.each_ref(), options, &Terms::counted(rows), Of::Sizes))
}
