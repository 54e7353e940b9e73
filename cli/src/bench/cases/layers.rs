//! Losses of a layer's logits, without storing the logits.

use std::rc::Rc;

use wgloss::reference::Real;
use wgloss::{Gpu, Recorder, Result, Storage, Tensor};

use super::job::{Found, Input, Job, Output, work};
use super::numbers::{normal, number, period, take, unit};
use super::pairs::{Of, Terms, scores};

/// Classes per row: 4,096 rows (tokens) of 1,024 numbers have a vocabulary of 32,768; 16,384 of 4,096 have one of
/// 131,072.
pub(super) const CLASSES: usize = 8;

/// The last layer and its cross entropy, with the gradients of x and W: `rows` unit vectors of `cols` elements. Row i
/// has class i.
pub(super) fn linear_cross_entropy(gpu: &Gpu, [rows, cols]: [usize; 2], storage: Storage) -> Result<Job> {
    use wgloss::linear_cross_entropy::{Batch, Gradients, Layer, Options, Target, forward};
    let classes = CLASSES * rows;
    let x = Input::new(gpu, [rows, cols], storage, unit(normal(period([rows, cols]) * cols, 0), cols))?;
    let both = Rc::new([x, Input::normal(gpu, [classes, cols], storage, 1)?]);
    let (loss, dx) = (Output::new(gpu, [1, 1], Storage::F32)?, Output::new(gpu, [rows, cols], storage)?);
    let dw = Output::new(gpu, [classes, cols], storage)?;
    let ids = gpu.upload(&(0..rows as u32).collect::<Vec<_>>())?;
    let (inputs, outputs) = (both.clone(), [loss.again(), dx.again(), dw.again()]);
    let record = move |recorder: &mut Recorder| {
        let target = Target::Ids(Tensor::vector(&ids, rows)?);
        let [loss, dx, dw] = [0, 1, 2].map(|at| outputs[at].view());
        let gradients = Gradients { dx: Some(dx?), dw: Some(dw?), ..Default::default() };
        let batch = Batch::new(Layer::new(inputs[0].view()?, inputs[1].view()?), target);
        forward(recorder, batch, loss?, None, None, gradients, Options::default())
    };
    // With r_i = ln Σ_j e^s_ij, loss = Σ_i (r_i − s_ii)/N.
    fn truth<F: Real>(both: [&Input; 2], terms: fn(usize) -> Terms<F>, of: Of) -> Found<F> {
        let rows = terms(both[0].rows);
        let classes = terms(both[1].rows).with_gradients_of(&rows);
        let total = number::<F>(both[0].rows);
        let s = scores(both, F::one(), F::zero());
        let lse: Vec<F> = s.iter().map(|row| classes.sum(|j| row[j].exp()).ln()).collect();
        let slope = |i: usize, j: usize| (s[i][j] - lse[i]).exp() / total;
        let sizes = of.sizes(both, F::one(), F::zero());
        let size = |i: usize, j: usize| sizes.as_ref().map_or(F::zero(), |sizes| sizes[i][j]);
        // As `Terms::gradients`, with sums over rows and sums over classes of different lengths.
        let grown = |i: usize, j: usize| slope(i, j) * (F::one() + size(i, j));
        let sign = if of == Of::Sizes { -F::one() } else { F::one() };
        let own = |i: usize| sign * (F::one() + size(i, i)) / total;
        let [x, w] = both.map(|side| if of == Of::Sizes { side.sizes() } else { side.again() });
        let loss = rows.sum(|i| lse[i] - s[i][i] + size(i, i)) / total;
        vec![vec![loss], classes.gradient(&w, grown, own), rows.gradient(&x, |j, i| grown(i, j), own)]
    }
    // Of the classes, only those that are the class of some row.
    let of_rows = Output { rows, ..dw.again() };
    let sides = both.clone();
    let truth_of_both = move || {
        let both = both.each_ref();
        (truth(both, Terms::counted, Of::Numbers), truth(both, Terms::each, Of::Numbers))
    };
    let job = Job::new(vec![loss, dx, of_rows], truth_of_both, work(gpu, record));
    Ok(job.of_sums(move || truth(sides.each_ref(), Terms::counted, Of::Sizes)))
}

/// The divergence of a layer's logits from those of a teacher of the same size, with the gradients of the layer's x and
/// W. Rows and classes as in [`linear_cross_entropy`].
pub(super) fn linear_kl(gpu: &Gpu, [rows, cols]: [usize; 2], storage: Storage) -> Result<Job> {
    use wgloss::linear_kl::{Gradients, Layer, Options, forward};
    let classes = CLASSES * rows;
    let x = |stream| Input::new(gpu, [rows, cols], storage, unit(normal(period([rows, cols]) * cols, stream), cols));
    let w = |stream| Input::normal(gpu, [classes, cols], storage, stream);
    let both = Rc::new(take([x(0), w(1), x(2), w(3)])?);
    let (loss, dx) = (Output::new(gpu, [1, 1], Storage::F32)?, Output::new(gpu, [rows, cols], storage)?);
    let dw = Output::new(gpu, [classes, cols], storage)?;
    let (inputs, outputs) = (both.clone(), [loss.again(), dx.again(), dw.again()]);
    let record = move |recorder: &mut Recorder| {
        let [loss, dx, dw] = [0, 1, 2].map(|at| outputs[at].view());
        let gradients = Gradients { dx: Some(dx?), dw: Some(dw?), ..Default::default() };
        let layer = |at: usize| Ok::<_, wgloss::Error>(Layer::new(inputs[at].view()?, inputs[at + 1].view()?));
        forward(recorder, layer(0)?, layer(2)?, loss?, gradients, Options::default())
    };
    // With ln p of the teacher and ln q of the student, loss = Σ_i Σ_j p_ij (ln p_ij − ln q_ij)/N.
    fn truth<F: Real>([x, w, teacher_x, teacher_w]: [&Input; 4], terms: fn(usize) -> Terms<F>, of: Of) -> Found<F> {
        let classes = terms(w.rows).with_gradients_of(&terms(x.rows));
        let rows = terms(x.rows).with_gradients_of(&terms(w.rows));
        let total = number::<F>(x.rows);
        let logarithms = |both: [&Input; 2]| -> Vec<Vec<F>> {
            let of_row = |row: Vec<F>| {
                let lse = classes.sum(|j| row[j].exp()).ln();
                row.into_iter().map(|s| s - lse).collect()
            };
            scores(both, F::one(), F::zero()).into_iter().map(of_row).collect()
        };
        let (q, p) = (logarithms([x, w]), logarithms([teacher_x, teacher_w]));
        if of == Of::Numbers {
            let slope = |i: usize, j: usize| (q[i][j].exp() - p[i][j].exp()) / total;
            let loss = rows.sum(|i| classes.sum(|j| p[i][j].exp() * (p[i][j] - q[i][j]))) / total;
            let none = |_| F::zero();
            return vec![vec![loss], classes.gradient(w, slope, none), rows.gradient(x, |j, i| slope(i, j), none)];
        }
        // The relative error of a probability is that of e^s, which is the absolute error of s.
        let sizes =
            [[x, w], [teacher_x, teacher_w]].map(|both| of.sizes(both, F::one(), F::zero()).unwrap_or_default());
        let size = |i: usize, j: usize| F::one() + sizes[0][i][j] + sizes[1][i][j];
        let slope = |i: usize, j: usize| (q[i][j].exp() + p[i][j].exp()) * size(i, j) / total;
        let weighted = |i: usize, j: usize| p[i][j].exp() * (p[i][j].abs() + q[i][j].abs() + size(i, j));
        let loss = rows.sum(|i| classes.sum(|j| weighted(i, j))) / total;
        let none = |_| F::zero();
        let dx = classes.gradient(&w.sizes(), slope, none);
        vec![vec![loss], dx, rows.gradient(&x.sizes(), |j, i| slope(i, j), none)]
    }
    let sides = both.clone();
    let truth_of_both = move || {
        let both = both.each_ref();
        (truth(both, Terms::counted, Of::Numbers), truth(both, Terms::each, Of::Numbers))
    };
    let job = Job::new(vec![loss, dx, dw], truth_of_both, work(gpu, record));
    Ok(job.of_sums(move || truth(sides.each_ref(), Terms::counted, Of::Sizes)))
}
