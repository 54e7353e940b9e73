use wgloss::cross_entropy::{self, Options};
use wgloss::reference::cross_entropy::{Target, Weights, predict};
use wgloss::verify::{Check, Fill, Held};
use wgloss::{Accum, Error, Gpu, Random, Recorder, Reduction, Storage, reference};

use crate::golden::{self, Case, Found, Kind, back, rows_of};
use crate::harness::*;

const NONE: Options = Options {
    reduction: Reduction::None,
    ignore: u32::MAX,
    label_smoothing: 0.0,
    z_loss: 0.0,
    softcap: 0.0,
    accum: Accum::Write,
};
const MEAN: Options = Options { reduction: Reduction::Mean, ..NONE };
const SUM: Options = Options { reduction: Reduction::Sum, ..NONE };

/// Rows of one lane, of some, of a whole workgroup.
const WIDTHS: [usize; 3] = [4, 40, 700];

/// The loss and dx.
pub fn on_device(gpu: &Gpu, x: &[f32], cols: usize, ids: &[u32], dy: &[f32], options: Options) -> [Vec<f64>; 2] {
    let [loss, _, dx] = batch_on_device(gpu, &Batch { dy, ..plain(x, cols, Target::Ids(ids)) }, options);
    [loss, dx]
}

/// The loss, its z part and dx; without a gradient of the loss, the forward's own dx and that in place of x are the same bits.
pub fn batch_on_device(gpu: &Gpu, batch: &Batch, options: Options) -> [Vec<f64>; 3] {
    let Batch { x, cols, target, weights, dy } = *batch;
    let rows = match target {
        Target::Ids(ids) => ids.len(),
        Target::Soft(shares) => shares.len() / cols,
    };
    let loss_rows = if matches!(options.reduction, Reduction::None | Reduction::Rows) { rows } else { 1 };
    let some = |data: &[f32], rows, cols| (!data.is_empty()).then(|| input(gpu, rows, cols, data));
    let (class, row, dy) = (some(weights.class, 1, cols), some(weights.row, rows, 1), some(dy, loss_rows, 1));
    let (mut ids, mut shares) = (None, None);
    match target {
        Target::Ids(data) => ids = Some(input(gpu, rows, 1, data)),
        Target::Soft(data) => shares = Some(input(gpu, rows, cols, data)),
    }
    let (x, same) = (input(gpu, rows, cols, x), input(gpu, rows, cols, x));
    let (loss, z, lse) = (output(gpu, loss_rows, 1), output(gpu, loss_rows, 1), output(gpu, rows, 2));
    let (dx, fused) = (output(gpu, rows, cols), output(gpu, rows, cols));
    let record = gpu.run(|recorder| {
        let target = match (&ids, &shares) {
            (Some(ids), _) => cross_entropy::Target::Ids(ids.view()?),
            (_, Some(shares)) => cross_entropy::Target::Soft(shares.view()?),
            _ => unreachable!(),
        };
        let weights = cross_entropy::Weights {
            class: class.as_ref().map(Held::view).transpose()?,
            row: row.as_ref().map(Held::view).transpose()?,
        };
        let (view, lse, dy) = (x.view()?, lse.view()?, dy.as_ref().map(Held::view).transpose()?);
        if dy.is_none() {
            let same = same.view()?;
            cross_entropy::forward(recorder, view, target, weights, loss.view()?, lse, Some(fused.view()?), options)?;
            cross_entropy::forward(recorder, same, target, weights, loss.view()?, lse, Some(same), options)?;
        }
        cross_entropy::forward(recorder, view, target, weights, loss.view()?, lse, None, options)?;
        cross_entropy::z_loss(recorder, lse, cols, target, weights, z.view()?, options)?;
        cross_entropy::backward(recorder, view, target, weights, lse, dy, dx.view()?, options)
    });
    record.unwrap();
    let dx = read(gpu, &dx);
    if dy.is_none() {
        let bits = |held: &Held| read(gpu, held).into_iter().map(f64::to_bits).collect::<Vec<_>>();
        assert!(bits(&fused) == bits(&same), "in place");
        assert_close(&read(gpu, &fused), &dx, 1e-6);
    }
    [read(gpu, &loss), read(gpu, &z), dx]
}

pub fn by_reference(x: &[f32], cols: usize, ids: &[u32], dy: &[f32], options: Options) -> [Vec<f64>; 2] {
    let [loss, _, dx] = batch_by_reference(&Batch { dy, ..plain(x, cols, Target::Ids(ids)) }, options);
    [loss, dx]
}

/// All that the loss can depend on; empty: absent.
#[derive(Clone, Copy)]
pub struct Batch<'a> {
    pub x: &'a [f32],
    pub cols: usize,
    pub target: Target<'a, f32>,
    pub weights: Weights<'a, f32>,
    pub dy: &'a [f32],
}

/// Without weights and without a gradient of the loss.
pub fn plain<'a>(x: &'a [f32], cols: usize, target: Target<'a, f32>) -> Batch<'a> {
    Batch { x, cols, target, weights: Weights::default(), dy: &[] }
}

/// The loss, its z part and dx.
pub fn batch_by_reference(batch: &Batch, options: Options) -> [Vec<f64>; 3] {
    let (x, dy, cols) = (wide(batch.x), wide(batch.dy), batch.cols);
    let soft = match batch.target {
        Target::Ids(_) => Vec::new(),
        Target::Soft(shares) => wide(shares),
    };
    let target = match batch.target {
        Target::Ids(ids) => Target::Ids(ids),
        Target::Soft(_) => Target::Soft(&soft),
    };
    let (class, row) = (wide(batch.weights.class), wide(batch.weights.row));
    let weights = Weights { class: &class, row: &row };
    [
        reference::cross_entropy::forward(&x, cols, target, weights, options),
        reference::cross_entropy::z_loss(&x, cols, target, weights, options),
        reference::cross_entropy::backward(&x, cols, target, weights, &dy, options),
    ]
}

#[test]
fn verified() {
    verifies("cross_entropy");
}

fn outputs(case: &Case, compute: impl Fn(&Batch, Options) -> Result<[Vec<f64>; 3], &'static str>) -> Found {
    let options = Options {
        reduction: case.reduction(),
        ignore: case.int("ignore_index").unwrap() as u32,
        label_smoothing: case.f64("label_smoothing").unwrap() as f32,
        z_loss: case.f64("z_loss").unwrap_or(0.0) as f32,
        ..NONE
    };
    let x = case.input("x");
    let dim = if x.shape.len() == 1 { 0 } else { 1 };
    let (_, cols, rows) = rows_of(&x.shape, dim, &x.data);
    let (mut ids, mut shares) = (Vec::new(), Vec::new());
    let target = if case.has_ids("target") {
        ids.extend(case.ids("target").1.into_iter().map(|id| id as u32));
        Target::Ids(&ids)
    } else {
        shares.extend(rows_of(&x.shape, dim, &case.input("target").data).2);
        Target::Soft(&shares)
    };
    let class = if case.has("weight") { case.input("weight").data } else { Vec::new() };
    let (weights, dy) = (Weights { class: &class, row: &[] }, case.gy());
    let [loss, z_loss, dx] = compute(&Batch { x: &rows, cols, target, weights, dy: &dy }, options)?;
    Ok(vec![("loss", Kind::Value, loss), ("z_loss", Kind::Value, z_loss), ("x", Kind::Grad, back(&x.shape, dim, &dx))])
}

#[test]
fn golden() {
    let Some(gpu) = gpu() else { return };
    golden::grade("cross_entropy", |case| outputs(case, |batch, options| Ok(batch_on_device(gpu, batch, options))));
}

#[test]
fn golden_reference() {
    golden::grade_reference("cross_entropy", 1e-6, |case| {
        outputs(case, |batch, options| Ok(batch_by_reference(batch, options)))
    });
}

const REDUCTIONS: [Reduction; 5] =
    [Reduction::None, Reduction::Rows, Reduction::Sum, Reduction::Mean, Reduction::BatchMean];

/// Every option that changes the formula, one at a time and all at once.
fn variants() -> impl Iterator<Item = Options> {
    let each = [
        NONE,
        Options { label_smoothing: 0.3, ..NONE },
        Options { label_smoothing: 1.0, ..NONE },
        Options { z_loss: 0.2, ..NONE },
        Options { softcap: 0.7, ..NONE },
        Options { label_smoothing: 0.3, z_loss: 0.2, softcap: 0.7, ..NONE },
    ];
    each.into_iter().flat_map(|options| REDUCTIONS.map(|reduction| Options { reduction, ..options }))
}

#[test]
fn reference_gradient() {
    let (x, shares) = (wide(&Fill::Small.matrix(4, 3, 1)), wide(&Fill::Sorted.matrix(4, 3, 3)));
    let (class, row) = ([0.5, 2.0, 1.5], [1.0, 0.25, 3.0, 2.0]);
    let ids = [2, 0, u32::MAX, 1];
    let weights = [(&class[..0], &row[..0]), (&class, &row[..0]), (&class[..0], &row), (&class, &row)];
    for options in variants() {
        for (class, row) in weights {
            for target in [Target::Ids(&ids), Target::Soft(&shares)] {
                let (weights, one) =
                    (Weights { class, row }, !matches!(options.reduction, Reduction::None | Reduction::Rows));
                let dy = wide(&Fill::Small.matrix(if one { 1 } else { 4 }, 1, 2));
                let dx = reference::cross_entropy::backward(&x, 3, target, weights, &dy, options);
                let loss = |x: &[f64]| reference::cross_entropy::forward(x, 3, target, weights, options);
                assert_gradient(&x, &dx, |x| dot(&loss(x), &dy));
            }
        }
    }
}

/// A soft target of one class is its id, but for the class weight in the mean's divisor; smoothed ids are soft targets.
#[test]
fn reference_targets_agree() {
    let (x, ids, class) = (Fill::Small.matrix(3, 4, 1), [2, 0, 3], [0.5, 2.0, 1.5, 1.0]);
    let mut shares = vec![0.0; 12];
    ids.iter().enumerate().for_each(|(row, &id)| shares[4 * row + id as usize] = 1.0);
    for options in variants().filter(|options| options.reduction != Reduction::Mean) {
        let weights = Weights { class: &class, row: &[0.5, 1.0, 2.0] };
        let of = |target| batch_by_reference(&Batch { weights, ..plain(&x, 4, target) }, options).concat();
        assert_close(&of(Target::Ids(&ids.map(|id| id as u32))), &of(Target::Soft(&shares)), 1e-12);
    }
}

#[test]
fn reference_special_values() {
    let (masked, inf) = (f32::NEG_INFINITY, f64::INFINITY);
    let of = |x: &[f32], target, options| batch_by_reference(&plain(x, 3, target), options);
    let half = Target::Soft(&[0.5f32, 0.5, 0.0]);
    for softcap in [0.0, 30.0] {
        let options = Options { softcap, ..NONE };
        // A mask that no target wants; one that a target wants; one that smoothing wants.
        let [loss, _, dx] = of(&[0.0, 0.0, masked], half, options);
        assert_close(&[loss, dx].concat(), &[2f64.ln(), 0.0, 0.0, 0.0], 1e-12);
        let [loss, _, dx] = of(&[0.0, masked, 0.0], half, options);
        assert_eq!((loss[0], dx[1]), (inf, 0.0));
        let [loss, _, dx] = of(&[0.0, masked, 0.0], Target::Ids(&[0]), Options { label_smoothing: 0.1, ..options });
        assert_eq!((loss[0], dx[1]), (inf, 0.0));
        let [_, z, dx] = of(&[masked; 3], half, Options { z_loss: 0.1, ..options });
        assert_eq!((z[0], dx), (inf, vec![0.0; 3]));
        // No weight at all.
        let weights = Weights { class: &[0.0f32; 3], row: &[] };
        let x = [0.0, 1.0, masked];
        let batch = Batch { weights, ..plain(&x, 3, Target::Ids(&[2])) };
        let [loss, _, dx] = batch_by_reference(&batch, Options { reduction: Reduction::Mean, ..options });
        assert_eq!((loss, dx), (vec![0.0], vec![0.0; 3]));
    }
    let x = [1.0, 3.0, 3.0, masked, masked, -5.0, masked, masked, masked, 0.0, f32::NAN, 1.0];
    assert_eq!(predict(&x, 3), [1, 2, u32::MAX, u32::MAX]);
}

/// In f32, where differences of large numbers leave the range.
#[test]
fn reference_of_finite_inputs_is_no_nan() {
    let values = [0.0, 1e-40, 1.0, -90.0, 1e4, -1e30, f32::MAX, -f32::MAX];
    for options in variants() {
        for (index, first) in values.into_iter().enumerate() {
            for second in values {
                let x = [first, second, values[(index + 3) % values.len()]];
                for target in [Target::Ids(&[1]), Target::Soft(&[0.0, 0.2, 0.8])] {
                    for class in [[1.0; 3], [0.0, 0.0, 2.0]] {
                        let weights = Weights { class: &class, row: &[] };
                        let loss = reference::cross_entropy::forward(&x, 3, target, weights, options);
                        let dx = reference::cross_entropy::backward(&x, 3, target, weights, &[], options);
                        assert!([loss, dx].concat().iter().all(|value| !value.is_nan()), "{options:?} {x:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn special_values() {
    let Some(gpu) = gpu() else { return };
    for cols in WIDTHS {
        let at = |row: usize| row * cols..(row + 1) * cols;
        // Rows: harmless, ignored and NaN, id too large, masked but not the target, target masked, all masked, NaN, +inf, harmless.
        let (mut x, dy) = (Fill::Small.matrix(9, cols, 3), Fill::Small.matrix(9, 1, 4));
        let ids = [1, u32::MAX, cols as u32, 1, 0, 2, 3, 0, 3];
        x[at(1)].fill(f32::NAN);
        for row in 3..6 {
            x[at(row)].fill(f32::NEG_INFINITY);
        }
        (x[3 * cols + 1], x[4 * cols + 1], x[3 * cols + 2]) = (2.0, 2.0, 2.0);
        x[6 * cols + 1] = f32::NAN;
        x[7 * cols + 1] = f32::INFINITY;
        let [loss, dx] = on_device(gpu, &x, cols, &ids, &dy, NONE);
        let (inf, nan) = (f64::INFINITY, f64::NAN);
        assert_eq!(loss[1], 0.0);
        assert!(dx[at(1)].iter().all(|&dx| dx == 0.0), "an ignored row");
        assert_close(&loss[2..8], &[nan, 2f64.ln(), inf, inf, nan, nan], 1e-6);
        assert_nan(&dx[at(2)]);
        let weight = f64::from(dy[3]);
        let want: Vec<f64> = (0..cols).map(|j| [0.0, -0.5, 0.5, 0.0][j.min(3)] * weight).collect();
        assert_close(&dx[at(3)], &want, 1e-6);
        for masked in [4, 5] {
            let gradients = dx[at(masked)].iter().zip(&x[at(masked)]);
            assert!(gradients.filter(|(_, x)| x.is_infinite()).all(|(&dx, _)| dx == 0.0), "masks of row {masked}");
        }
        for bad in [6, 7] {
            assert_nan(&dx[at(bad)]);
        }
        // The rows beside a bad one are, to the bit, what they are beside harmless ones. Nine again: fewer rows are cut elsewhere.
        let harmless = Fill::Small.matrix(9, cols, 3);
        let [clean_loss, clean_dx] = on_device(gpu, &harmless, cols, &[1, 0, 0, 0, 0, 0, 0, 0, 3], &dy, NONE);
        for good in [0, 8] {
            assert_eq!([&loss[good..][..1], &dx[at(good)]], [&clean_loss[good..][..1], &clean_dx[at(good)]]);
        }
    }
}

/// A class of weight 0 adds nothing, however far below the others its logit lies.
#[test]
fn classes_of_no_weight() {
    let Some(gpu) = gpu() else { return };
    let x = [0.0, f32::NEG_INFINITY, 3.4e38, -3.4e38, 0.0, 0.0];
    let batch = Batch { weights: Weights { class: &[1.0, 0.0], row: &[] }, ..plain(&x, 2, Target::Ids(&[1, 1, 0])) };
    for (options, loss) in [(NONE, vec![0.0, 0.0, 2f64.ln()]), (MEAN, vec![2f64.ln()])] {
        let [found, _, dx] = batch_on_device(gpu, &batch, options);
        assert_close(&found, &loss, 1e-6);
        assert_close(&dx, &[0.0, 0.0, 0.0, 0.0, -0.5, 0.5], 1e-6);
    }
    // Nor does an infinite loss of smoothing, where no row weighs anything.
    let (x, weights) = ([2.0, f32::NEG_INFINITY], Weights { class: &[0.0, 1.0], row: &[] });
    let batch = Batch { weights, ..plain(&x, 2, Target::Ids(&[0])) };
    let [loss, z, dx] = batch_on_device(gpu, &batch, Options { label_smoothing: 0.5, z_loss: 0.25, ..MEAN });
    assert_close(&[loss, z, dx].concat(), &[1.0, 1.0, 1.0, 0.0], 1e-6);
}

/// Where the gradient of the z-loss exceeds f32.
#[test]
fn masked_rows_with_z_loss() {
    let Some(gpu) = gpu() else { return };
    for target in [Target::Ids(&[1]), Target::Soft(&[0.2, 0.8])] {
        for (z_loss, dy) in [(1e-4, &[65_536.0f32][..]), (5.0, &[])] {
            let batch = Batch { dy, ..plain(&[f32::NEG_INFINITY; 2], 2, target) };
            let [loss, _, dx] = batch_on_device(gpu, &batch, Options { z_loss, ..NONE });
            assert_eq!((loss, dx), (vec![f64::INFINITY], vec![0.0; 2]));
        }
    }
}

/// Rows of one lane, of some, and longer than 16 bits count.
#[test]
fn predictions() {
    let Some(gpu) = gpu() else { return };
    for cols in [1, 4, 40, 200_000] {
        // Rows: small, two largest, all masked, NaN in the end and in front, masked but for the last, +inf.
        let (mut x, half, last) = (Fill::Small.matrix(7, cols, 10), cols / 2, cols - 1);
        let at = |row: usize, col: usize| row * cols + col;
        (x[at(1, half)], x[at(1, last)]) = (2.0, 2.0);
        x[at(2, 0)..at(3, 0)].fill(f32::NEG_INFINITY);
        (x[at(3, 0)], x[at(3, last)], x[at(4, last)], x[at(4, 0)]) = (2.0, f32::NAN, 2.0, f32::NAN);
        x[at(5, 0)..at(5, last)].fill(f32::NEG_INFINITY);
        x[at(6, half)] = f32::INFINITY;
        let (held, found) = (input(gpu, 7, cols, &x), Check::new(gpu).output(7, 1).unwrap());
        gpu.run(|recorder| cross_entropy::predict(recorder, held.view()?, found.view()?)).unwrap();
        let found = gpu.read(found.view().unwrap()).unwrap();
        let (half, last) = (half as u32, last as u32);
        assert_eq!(found[1..], [half, u32::MAX, u32::MAX, u32::MAX, last, half], "{cols}");
        assert_eq!(found, predict(&x, cols), "{cols}");
    }
}

#[test]
fn ignored_rows_do_not_count() {
    let Some(gpu) = gpu() else { return };
    let x = Fill::Small.matrix(5, 6, 5);
    let ids = [3, 7, 7, 0, 7];
    let kept: Vec<f32> = [&x[..6], &x[18..24]].concat();
    for reduction in [Reduction::Mean, Reduction::Sum] {
        let options = Options { reduction, ignore: 7, ..NONE };
        let [loss, dx] = on_device(gpu, &x, 6, &ids, &[], options);
        let [want, d_kept] = on_device(gpu, &kept, 6, &[3, 0], &[], options);
        assert_eq!(loss, want);
        assert_eq!([&dx[..6], &dx[18..24]].concat(), d_kept);
        let [loss, dx] = on_device(gpu, &x, 6, &[7; 5], &[], options);
        assert_eq!((loss, dx), (vec![0.0], vec![0.0; 30]), "every row ignored");
    }
    // An id among the classes can be the ignored one.
    let [loss, dx] = on_device(gpu, &x, 6, &[2, 1, 2, 1, 2], &[], Options { ignore: 2, ..NONE });
    assert!([0, 2, 4].into_iter().all(|row| loss[row] == 0.0 && dx[row * 6..][..6].iter().all(|&dx| dx == 0.0)));
    assert!([1, 3].into_iter().all(|row| loss[row] > 0.0));
    // The default ignores PyTorch's −100.
    assert_eq!(on_device(gpu, &x[..6], 6, &[-100i32 as u32], &[], Options::default())[0], [0.0]);
}

/// 1 − p = 10⁻¹²: neither the loss nor the gradient may be formed from a rounded p.
#[test]
fn nearly_certain() {
    let Some(gpu) = gpu() else { return };
    let gap = 27.625f32; // e^-gap = 1.006e-12; exact beside 10⁴ in f32
    for cols in WIDTHS {
        for offset in [0.0, 1e4, -1e4] {
            for own in [0, cols / 2, cols - 1] {
                let mut x = vec![f32::NEG_INFINITY; cols];
                x[own] = offset + gap;
                x[(own + 1) % cols] = offset;
                let [loss, dx] = on_device(gpu, &x, cols, &[own as u32], &[], SUM);
                let rest = (-f64::from(gap)).exp();
                assert_close(&loss, &[rest.ln_1p()], 1e-6);
                assert_close(&[dx[own], dx[(own + 1) % cols]], &[-rest / (1.0 + rest), rest / (1.0 + rest)], 1e-6);
            }
        }
    }
}

/// The loss of two logits `gap` apart, ln(1 + e^-gap), to a few units in the last place wherever it is a normal number.
#[test]
fn relative_accuracy_at_every_gap() {
    let Some(gpu) = gpu() else { return };
    let gaps: Vec<f32> = (0..2600).map(|at| at as f32 / 32.0).collect();
    let x: Vec<f32> = gaps.iter().flat_map(|&gap| [gap, 0.0]).collect();
    let [loss, _] = on_device(gpu, &x, 2, &vec![0; gaps.len()], &[], NONE);
    let want: Vec<f64> = gaps.iter().map(|&gap| (-f64::from(gap)).exp().ln_1p()).collect();
    assert_close(&loss, &want, 4e-7);
}

/// Shifts that f32 holds exactly leave the bits as they are.
#[test]
fn shifts_change_nothing() {
    let Some(gpu) = gpu() else { return };
    for cols in WIDTHS {
        // Multiples of 2⁻⁸ below 8: exact also beside 4096.
        let x: Vec<f32> = Fill::Small.matrix(3, cols, 6).iter().map(|x| (x * 2048.0).round() / 256.0).collect();
        let want = on_device(gpu, &x, cols, &[1, 3, 2], &[], MEAN);
        for shift in [64.0, -512.0, 4096.0] {
            let shifted: Vec<f32> = x.iter().map(|x| x + shift).collect();
            assert_eq!(on_device(gpu, &shifted, cols, &[1, 3, 2], &[], MEAN), want);
        }
    }
}

#[test]
fn finite_extremes() {
    let Some(gpu) = gpu() else { return };
    for equal in [1e30, f32::MAX, -f32::MAX] {
        let [loss, dx] = on_device(gpu, &[equal; 5], 5, &[2], &[], MEAN);
        assert_close(&loss, &[5f64.ln()], 1e-6);
        assert_close(&dx, &[0.2, 0.2, -0.8, 0.2, 0.2], 1e-6);
        assert_close(&by_reference(&[equal; 5], 5, &[2], &[], MEAN).concat(), &[loss, dx].concat(), 1e-6);
    }
    let [loss, dx] = on_device(gpu, &[2e38, 0.5e38], 2, &[1], &[], MEAN);
    assert_close(&[loss, dx].concat(), &[1.5e38, 1.0, -1.0], 1e-6);
}

#[test]
fn empty() {
    let Some(gpu) = gpu() else { return };
    assert_eq!(on_device(gpu, &[], 3, &[], &[], NONE), [const { Vec::<f64>::new() }; 2]);
    for options in [MEAN, SUM] {
        assert_eq!(on_device(gpu, &[], 3, &[], &[], options), [vec![0.0], vec![]]);
    }
}

#[test]
fn slices() {
    let Some(gpu) = gpu() else { return };
    let x = Fill::Small.matrix(3, 5, 7);
    let (loss, dx) = cross_entropy::compute(gpu, &x, 5, &[4, u32::MAX, 0], MEAN).unwrap();
    assert_eq!([wide(&loss), wide(&dx)], on_device(gpu, &x, 5, &[4, u32::MAX, 0], &[], MEAN));
    let add = Options { accum: Accum::Add, ..MEAN };
    assert_eq!(cross_entropy::compute(gpu, &x, 5, &[4, u32::MAX, 0], add).unwrap(), (loss, dx), "added to nothing");
    let error = cross_entropy::compute(gpu, &x, 5, &[4, 5, 0], MEAN).unwrap_err();
    assert_eq!(error, option("cross_entropy", "id", "below the number of classes", "5 with 5 classes"));
    let error = cross_entropy::compute(gpu, &x, 4, &[0; 3], MEAN).unwrap_err();
    assert_eq!(error, shape("cross_entropy", "x", "whole rows of 4", "15 elements"));
    let error = cross_entropy::compute(gpu, &x, 5, &[0; 2], MEAN).unwrap_err();
    assert_eq!(error, shape("cross_entropy", "id", "3 x 1", "2 x 1"));
    let error = cross_entropy::compute(gpu, &[], 0, &[], MEAN).unwrap_err();
    assert_eq!(error, shape("cross_entropy", "x", "of at least one column", "0 columns"));
}

#[test]
fn refusals() {
    let Some(gpu) = gpu() else { return };
    let (x, ids) = (input(gpu, 2, 3, &[0.0; 6]), input(gpu, 2, 1, &[0u32; 2]));
    let (narrow, other_ids) = (input::<f32>(gpu, 2, 0, &[]), input(gpu, 3, 1, &[0u32; 3]));
    let (loss, lse, dx) = (output(gpu, 1, 1), output(gpu, 2, 2), output(gpu, 2, 3));
    let outputs = [&loss, &lse, &dx];
    let forward = |x: &Held, ids: &Held<u32>, loss: &Held, lse: &Held, options| {
        refused(gpu, &outputs, |r| {
            let (target, lse) = (cross_entropy::Target::Ids(ids.view()?), lse.view()?);
            cross_entropy::forward(r, x.view()?, target, Default::default(), loss.view()?, lse, None, options)
        })
    };
    let no_class = shape("cross_entropy", "x", "of at least one class", "0 columns");
    assert_eq!(forward(&narrow, &ids, &loss, &lse, MEAN), no_class);
    assert_eq!(forward(&x, &other_ids, &loss, &lse, MEAN), shape("cross_entropy", "id", "2 x 1", "3 x 1"));
    assert_eq!(forward(&x, &ids, &loss, &dx, MEAN), shape("cross_entropy", "lse", "2 x 2", "2 x 3"));
    assert_eq!(forward(&x, &ids, &loss, &lse, NONE), shape("cross_entropy", "loss", "2 x 1", "1 x 1"));
    assert_eq!(forward(&x, &ids, &lse, &lse, SUM), shape("cross_entropy", "loss", "1 x 1", "2 x 2"));
    let backward = |x: &Held, ids: &Held<u32>, lse: &Held, dy: &Held, dx: &Held| {
        refused(gpu, &outputs, |r| {
            let (target, dy) = (cross_entropy::Target::Ids(ids.view()?), Some(dy.view()?));
            cross_entropy::backward(r, x.view()?, target, Default::default(), lse.view()?, dy, dx.view()?, MEAN)
        })
    };
    assert_eq!(backward(&narrow, &ids, &lse, &loss, &dx), no_class);
    assert_eq!(backward(&x, &other_ids, &lse, &loss, &dx), shape("cross_entropy", "id", "2 x 1", "3 x 1"));
    assert_eq!(backward(&x, &ids, &dx, &loss, &dx), shape("cross_entropy", "lse", "2 x 2", "2 x 3"));
    assert_eq!(backward(&x, &ids, &lse, &lse, &dx), shape("cross_entropy", "dy", "1 x 1", "2 x 2"));
    assert_eq!(backward(&x, &ids, &lse, &loss, &lse), shape("cross_entropy", "dx", "2 x 3", "2 x 2"));
    let predicted = Check::new(gpu).output(3, 1).unwrap();
    let error = refused(gpu, &[], |r| cross_entropy::predict(r, x.view()?, predicted.view()?));
    assert_eq!(error, shape("cross_entropy", "predicted", "2 x 1", "3 x 1"));
}

/// Options, targets, weights and log-sum-exps that each function refuses alike.
#[test]
fn refused_alike() {
    let Some(gpu) = gpu() else { return };
    let (x, turned, ids) = (input(gpu, 2, 3, &[0.0; 6]), input(gpu, 3, 2, &[0.0; 6]), input(gpu, 2, 1, &[0u32; 2]));
    let (loss, lse, dx) = (output(gpu, 1, 1), output(gpu, 2, 2), output(gpu, 2, 3));
    let half = Check::new(gpu).output_as(Storage::F16, 2, 2).unwrap();
    let refuse = |target, weights, lse: &Held, options, want: Error| {
        let (x, loss_view, lse, dx_view) = (view(&x), view(&loss), view(lse), view(&dx));
        let by = |record: &dyn Fn(&mut Recorder) -> Result<(), Error>| refused(gpu, &[&loss, &dx], record);
        let errors = [
            by(&|r| cross_entropy::forward(r, x, target, weights, loss_view, lse, Some(dx_view), options)),
            by(&|r| cross_entropy::backward(r, x, target, weights, lse, None, dx_view, options)),
            by(&|r| cross_entropy::z_loss(r, lse, 3, target, weights, loss_view, options)),
        ];
        assert_eq!(errors, [(); 3].map(|()| want.clone()));
    };
    use cross_entropy::{Target, Weights};
    let (of_ids, none) = (Target::Ids(view(&ids)), Weights::default());
    let range = |name, expected, values: [f32; 3], with: fn(f32) -> Options| {
        for value in values {
            let want = option("cross_entropy", name, expected, &value.to_string());
            refuse(of_ids, none, &lse, with(value), want);
        }
    };
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    range("label_smoothing", "between 0 and 1", [-0.5, 1.5, nan], |v| Options { label_smoothing: v, ..MEAN });
    range("z_loss", "a finite number, 0 or above", [-1.0, inf, nan], |v| Options { z_loss: v, ..MEAN });
    range("softcap", "0 or a normal number above 0", [-1.0, inf, 1e-40], |v| Options { softcap: v, ..MEAN });
    let turned = view(&turned);
    refuse(Target::Soft(turned), none, &lse, MEAN, shape("cross_entropy", "soft", "2 x 3", "3 x 2"));
    let class = Weights { class: Some(turned), row: None };
    refuse(of_ids, class, &lse, MEAN, shape("cross_entropy", "weights.class", "1 x 3", "3 x 2"));
    let row = Weights { class: None, row: Some(turned) };
    refuse(of_ids, row, &lse, MEAN, shape("cross_entropy", "weights.row", "2 x 1", "3 x 2"));
    refuse(of_ids, none, &half, MEAN, shape("cross_entropy", "lse", "stored as f32", "F16"));
}

/// A gradient in place of the logits has nothing that it could be added to.
#[test]
fn not_added_in_place() {
    let Some(gpu) = gpu() else { return };
    let (x, ids) = (output(gpu, 2, 3), input(gpu, 2, 1, &[0u32; 2]));
    let (loss, lse) = (output(gpu, 1, 1), output(gpu, 2, 2));
    let (target, weights) = (cross_entropy::Target::Ids(view(&ids)), cross_entropy::Weights::default());
    let (x_view, lse_view, options) = (view(&x), view(&lse), Options { accum: Accum::Add, ..MEAN });
    let expected = "Accum::Write where a gradient takes its input's place";
    let want = option("cross_entropy", "accum", expected, "Accum::Add");
    let error = refused(gpu, &[&x, &loss, &lse], |r| {
        cross_entropy::forward(r, x_view, target, weights, view(&loss), lse_view, Some(x_view), options)
    });
    assert_eq!(error, want);
    let error =
        refused(gpu, &[&x], |r| cross_entropy::backward(r, x_view, target, weights, lse_view, None, x_view, options));
    assert_eq!(error, want);
}

/// Also where no single dispatch has both: the mean is written after lse.
#[test]
fn overlaps() {
    let Some(gpu) = gpu() else { return };
    let (x, lse, ids) = (output(gpu, 2, 3), output(gpu, 2, 2), input(gpu, 2, 1, &[0u32; 2]));
    let (loss, dx) = (output(gpu, 1, 1), output(gpu, 2, 3));
    let (target, weights) = (cross_entropy::Target::Ids(ids.view().unwrap()), cross_entropy::Weights::default());
    for (other, held) in [("x", &x), ("lse", &lse)] {
        let error = refused(gpu, &[&x, &lse], |r| {
            let corner = held.view()?.row_range(0..1).col_range(0..1);
            cross_entropy::forward(r, x.view()?, target, weights, corner, lse.view()?, None, MEAN)
        });
        assert_eq!(error, overlap("cross_entropy", "loss", other));
    }
    let error = refused(gpu, &[&x, &loss], |r| {
        let lse = x.view()?.col_range(1..3);
        cross_entropy::forward(r, x.view()?, target, weights, loss.view()?, lse, None, MEAN)
    });
    assert_eq!(error, overlap("cross_entropy", "lse", "x"));
    // In place is allowed, a shift is not; nor may dx lie over the lse that it is computed from.
    let longer = output(gpu, 3, 3);
    let error = refused(gpu, &[&longer], |r| {
        let (x, dx) = (longer.view()?.row_range(0..2), longer.view()?.row_range(1..3));
        cross_entropy::backward(r, x, target, weights, lse.view()?, None, dx, MEAN)
    });
    assert_eq!(error, overlap("cross_entropy", "dx", "x"));
    let error = refused(gpu, &[&loss, &dx], |r| {
        let lse = dx.view()?.col_range(0..2);
        cross_entropy::forward(r, x.view()?, target, weights, loss.view()?, lse, Some(dx.view()?), MEAN)
    });
    assert_eq!(error, overlap("cross_entropy", "lse", "dx"));
    let wide = output(gpu, 2, 5);
    let error = refused(gpu, &[&wide], |r| {
        let (lse, dx) = (wide.view()?.col_range(0..2), wide.view()?.col_range(1..4));
        cross_entropy::backward(r, x.view()?, target, weights, lse, None, dx, MEAN)
    });
    assert_eq!(error, overlap("cross_entropy", "dx", "lse"));
}

#[test]
fn same_bits() {
    let Some(gpu) = gpu() else { return };
    let (x, mut random) = (Fill::Wide.matrix(3000, 40, 8), Random::new(9, 0));
    let ids: Vec<u32> = (0..3000).map(|_| random.below(40)).collect();
    assert_repeats(|| on_device(gpu, &x, 40, &ids, &[], MEAN).into());
}
