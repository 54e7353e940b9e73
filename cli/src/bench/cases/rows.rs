//! Ops that process each row (or element) on its own.

use std::rc::Rc;

use wgloss::reference::{self, Real};
use wgloss::{Gpu, Recorder, Reduction, Result, Storage, Tensor};

use super::job::{Found, Input, Job, Output, work};
use super::numbers::{classes, mean, over, period, take, uniform};

/// A job that computes y, of the same shape as x.
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
    Ok(Job::new(
        vec![y],
        move || truth(&x),
        work(gpu, move |recorder| forward(recorder, inputs.view()?, output.view()?)),
    ))
}

pub(super) fn sigmoid(gpu: &Gpu, shape: [usize; 2], storage: Storage) -> Result<Job> {
    use wgloss::sigmoid::{Options, forward};
    fn truth<F: Real>(x: &Input) -> Found<F> {
        vec![reference::sigmoid::forward(&x.of(), Options::default())]
    }
    let record = |recorder: &mut Recorder, x: Tensor, y: Tensor| forward(recorder, x, y, Options::default());
    of_rows(gpu, shape, storage, |x| (truth(x), truth(x)), record)
}

pub(super) fn tanh(gpu: &Gpu, shape: [usize; 2], storage: Storage) -> Result<Job> {
    fn truth<F: Real>(x: &Input) -> Found<F> {
        vec![reference::tanh::forward(&x.of())]
    }
    of_rows(gpu, shape, storage, |x| (truth(x), truth(x)), wgloss::tanh::forward)
}

pub(super) fn softmax(gpu: &Gpu, shape: [usize; 2], storage: Storage) -> Result<Job> {
    use wgloss::softmax::{Options, forward};
    fn truth<F: Real>(x: &Input) -> Found<F> {
        vec![reference::softmax::forward(&x.of(), x.cols, Options::default())]
    }
    let record = |recorder: &mut Recorder, x: Tensor, y: Tensor| forward(recorder, x, y, Options::default());
    of_rows(gpu, shape, storage, |x| (truth(x), truth(x)), record)
}

pub(super) fn normalize(gpu: &Gpu, shape: [usize; 2], storage: Storage) -> Result<Job> {
    use wgloss::normalize::{Options, forward};
    fn truth<F: Real>(x: &Input) -> Found<F> {
        vec![reference::normalize::forward(&x.of(), x.cols, Options::default())]
    }
    let record = |recorder: &mut Recorder, x: Tensor, y: Tensor| forward(recorder, x, y, Options::default());
    of_rows(gpu, shape, storage, |x| (truth(x), truth(x)), record)
}

/// The mean loss and its gradient dx.
pub(super) fn cross_entropy(gpu: &Gpu, [rows, cols]: [usize; 2], storage: Storage) -> Result<Job> {
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
    Ok(Job::new(
        vec![loss, dx],
        move || (truth(&x, &ids), truth(&x, &ids)),
        work(gpu, move |recorder| {
            let (target, weights) = (Target::Ids(Tensor::vector(&id_buffer, rows)?), Weights::default());
            let (loss, lse) = (outputs[0].view()?, Tensor::matrix(&lse, rows, 2)?);
            forward(recorder, inputs.view()?, target, weights, loss, lse, Some(outputs[1].view()?), Options::default())
        }),
    ))
}

/// From two sets of logits, the mean loss over the rows and the gradients of both.
pub(super) fn kl(gpu: &Gpu, [rows, cols]: [usize; 2], storage: Storage) -> Result<Job> {
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
    // With l = |ln p| + |ln q|, the terms of the loss have magnitude (p + q) l. The gradients are differences of terms
    // of magnitude (p + q) (1 + l + the sum of (p + q) l over the row).
    fn sizes(x: &Input, t: &Input) -> Found<f64> {
        let log = wgloss::softmax::Options { log: true, ..Default::default() };
        let logs = |x: &Input| reference::softmax::forward::<f64>(&x.of(), x.cols, log);
        let both: Vec<[f64; 2]> =
            logs(x).iter().zip(logs(t)).map(|(q, p)| [q.exp() + p.exp(), q.abs() + p.abs()]).collect();
        let rows = || both.chunks(x.cols);
        let sums: Vec<f64> = rows().map(|row| row.iter().map(|[weight, l]| weight * l).sum()).collect();
        let slopes =
            rows().zip(&sums).flat_map(|(row, sum)| row.iter().map(move |[weight, l]| weight * (1.0 + l + sum)));
        let slopes = over(slopes.collect(), x.rows);
        vec![vec![mean(&sums, x.rows, 1)], slopes.clone(), slopes]
    }
    let both = Rc::new(take(both)?);
    let (inputs, sized, outputs) = (both.clone(), both.clone(), [loss.again(), dx.again(), dt.again()]);
    let record = move |recorder: &mut Recorder| {
        let [loss, dx, dt] = [0, 1, 2].map(|at| outputs[at].view());
        let options = Options { reduction: Reduction::BatchMean, ..Options::default() };
        let gradients = Gradients { dx: Some(dx?), dt: Some(dt?) };
        forward(recorder, inputs[0].view()?, inputs[1].view()?, loss?, gradients, options)
    };
    let truth_of_both = move || (truth(&both[0], &both[1]), truth(&both[0], &both[1]));
    let job = Job::new(vec![loss, dx, dt], truth_of_both, work(gpu, record));
    Ok(job.of_sums(move || sizes(&sized[0], &sized[1])))
}

/// The mean loss and dx.
pub(super) fn bce(gpu: &Gpu, [rows, cols]: [usize; 2], storage: Storage) -> Result<Job> {
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
    Ok(Job::new(
        vec![loss, dx],
        move || (truth(&both[0], &both[1]), truth(&both[0], &both[1])),
        work(gpu, move |recorder| {
            let inputs = Inputs { x: inputs[0].view()?, t: inputs[1].view()?, weight: None, pos_weight: None };
            forward(recorder, inputs, outputs[0].view()?, Some(outputs[1].view()?), Options::default())
        }),
    ))
}

/// The mean loss and dx.
pub(super) fn l2(gpu: &Gpu, [rows, cols]: [usize; 2], storage: Storage) -> Result<Job> {
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
    Ok(Job::new(
        vec![loss, dx],
        move || (truth(&both[0], &both[1]), truth(&both[0], &both[1])),
        work(gpu, move |recorder| {
            let gradients = Gradients { dx: Some(outputs[1].view()?), dt: None };
            let (x, t) = (inputs[0].view()?, inputs[1].view()?);
            forward(recorder, x, t, outputs[0].view()?, gradients, Options::default())
        }),
    ))
}

/// Against the standard normal distribution: the loss, summed over each row and averaged over the rows, and both
/// gradients.
pub(super) fn gaussian_kl(gpu: &Gpu, [rows, cols]: [usize; 2], storage: Storage) -> Result<Job> {
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
    Ok(Job::new(
        vec![loss, dm, dv],
        move || (truth(&both[0], &both[1]), truth(&both[0], &both[1])),
        work(gpu, move |recorder| {
            let inputs = Inputs { mean: inputs[0].view()?, log_variance: inputs[1].view()?, prior: None };
            let (mean, log_variance) = (Some(outputs[1].view()?), Some(outputs[2].view()?));
            let gradients = Gradients { mean, log_variance, ..Default::default() };
            forward(recorder, inputs, outputs[0].view()?, gradients, Options::default())
        }),
    ))
}

/// From f16 to f32. This is exact.
pub(super) fn cast(gpu: &Gpu, shape: [usize; 2], storage: Storage) -> Result<Job> {
    let x = Rc::new(Input::normal(gpu, shape, Storage::F16, 0)?);
    let y = Output::new(gpu, shape, storage)?;
    let (inputs, output) = (x.clone(), y.again());
    Ok(Job::new(
        vec![y],
        move || (vec![x.of()], vec![x.of()]),
        work(gpu, move |recorder| wgloss::cast::forward(recorder, inputs.view()?, output.view()?)),
    ))
}
