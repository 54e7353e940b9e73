//! The reference of info_nce: its values against the sums of the papers as they are printed, its gradients against differences.

use wgloss::info_nce::Options;
use wgloss::reference::cross_entropy::{self, Target, Weights};
use wgloss::reference::info_nce::{Batch, Gradients, Negatives, Positive, backward, forward, values};
use wgloss::verify::Fill;
use wgloss::{Reduction, cross_entropy as ce};

use crate::harness::*;

const DIM: usize = 4;
const N: usize = 6;
const M: usize = 9;
const NONE: u32 = u32::MAX;

const GROUPS: Positive = Positive::Groups(&[0, 1, 2, 0, 1, 5], &[0, 1, 2, 0, 0, 7, 1, 3, 2]); // query 5: none; query 0: three
const SQUARE_GROUPS: Positive = Positive::Groups(&[0, 1, 2, 0, 1, 5], &[0, 1, 2, 0, 0, 7]); // row 5 and column 5: none
const INDEX: Positive = Positive::Index(&[3, NONE, 0, 8, 5, 2]);
const IDS: Option<(&[u32], &[u32])> = Some((&[0, 1, 2, 0, 1, 5], &[0, 1, 2, 0, 1, 4, 1, 5, 2]));
const SQUARE_IDS: Option<(&[u32], &[u32])> = Some((&[0, 1, 2, 0, 1, 5], &[0, 1, 2, 0, 1, 4]));
const WEIGHT: &[f64] = &[0.5, 2.0, 0.0, 1.25, 0.75, 3.0];
const LOG_Q: &[f64] = &[-1.0, -0.5, -2.0, 0.25, -1.5, -0.25, -3.0, -0.75, -1.25];

const REDUCTIONS: [Reduction; 5] =
    [Reduction::None, Reduction::Rows, Reduction::Sum, Reduction::Mean, Reduction::BatchMean];

fn options() -> Options {
    Options { temperature: 0.5, reduction: Reduction::None, ..Default::default() }
}

fn rows(rows: usize, seed: u64) -> Vec<f64> {
    wide(&Fill::Small.matrix(rows, DIM, seed))
}

/// q kᵀ.
fn products(q: &[f64], k: &[f64], dim: usize) -> Vec<f64> {
    q.chunks(dim).flat_map(|q| k.chunks(dim).map(move |k| dot(q, k))).collect()
}

fn scale(log_scale: Option<f64>, options: Options) -> f64 {
    log_scale.map_or(1.0 / f64::from(options.temperature), |log| log.exp().min(options.max_scale.into()))
}

/// What gradients take for constant: the products behind the hardness, the scale in the floor.
struct Constants {
    c: Vec<f64>,
    scale: f64,
}

impl Constants {
    fn of(batch: Batch<f64>, options: Options) -> Self {
        Constants { c: products(batch.q, batch.k, batch.dim), scale: scale(batch.log_scale, options) }
    }
}

/// The loss with no sum shifted, split or rearranged.
fn textbook(batch: Batch<f64>, options: Options, constants: &Constants) -> Vec<f64> {
    let (n, m) = (batch.q.len() / batch.dim, batch.k.len() / batch.dim);
    let [margin, near_margin, tau, hardness, smoothing] =
        [options.margin, options.near_margin, options.tau_plus, options.hardness, options.label_smoothing]
            .map(f64::from);
    let (scale, c) = (scale(batch.log_scale, options), products(batch.q, batch.k, batch.dim));
    let own = |at: usize| options.exclude_self && at / m == at % m;
    let positive = |at: usize| {
        let (i, j) = (at / m, at % m);
        let belong = match batch.positive {
            Positive::Own => i == j,
            Positive::Index(index) => index[i] == j as u32,
            Positive::Groups(queries, keys) => queries[i] == keys[j],
        };
        belong && !own(at)
    };
    let s = |at: usize| {
        let margin = if positive(at) { margin } else { 0.0 };
        scale * (c[at] - margin) - batch.log_q.get(at % m).unwrap_or(&0.0)
    };
    let line = |pairs: Vec<usize>| {
        let (p, others): (Vec<_>, Vec<_>) = pairs.into_iter().partition(|&at| positive(at));
        if p.is_empty() {
            return 0.0;
        }
        let left_out = |at: usize| {
            let same = batch.ids.is_some_and(|(queries, keys)| queries[at / m] == keys[at % m]);
            own(at) || same || c[at] > c[p[0]] + near_margin
        };
        let negatives: Vec<_> = others.into_iter().filter(|&at| !left_out(at)).collect();
        let exp = |at: &[usize]| at.iter().map(|&at| s(at).exp()).sum::<f64>();
        let mean = |at: &[usize]| at.iter().map(|&at| s(at)).sum::<f64>() / at.len() as f64;
        let hard = negatives.iter().map(|&at| (s(at) + hardness * constants.c[at]).exp()).sum::<f64>();
        let number = negatives.len() as f64;
        let ng = match tau {
            0.0 => hard,
            tau => ((hard - number * tau * s(p[0]).exp()) / (1.0 - tau)).max(number * (-constants.scale).exp()),
        };
        let all = if options.decoupled { ng } else { exp(&p) + ng };
        if all == 0.0 {
            return 0.0;
        }
        let loss = match options.inside_log {
            true => -(exp(&p) / p.len() as f64 / all).ln(),
            false => all.ln() - mean(&p),
        };
        let even = (exp(&p) + hard).ln() - mean(&[p, negatives].concat());
        (1.0 - smoothing) * loss + smoothing * even
    };
    let row = |i: usize| (i * m..(i + 1) * m).collect::<Vec<_>>();
    let losses: Vec<f64> = (0..n)
        .map(|i| match options.symmetric {
            false => line(row(i)),
            true => (line(row(i)) + line((0..n).map(|other| other * m + i).collect())) / 2.0,
        })
        .enumerate()
        .map(|(i, loss)| loss * batch.weight.get(i).unwrap_or(&1.0))
        .collect();
    let counts = |&i: &usize| row(i).into_iter().any(positive);
    let counted = (0..n).filter(counts).map(|i| batch.weight.get(i).unwrap_or(&1.0)).sum::<f64>();
    let sum = losses.iter().sum::<f64>();
    match options.reduction {
        Reduction::None | Reduction::Rows => losses,
        Reduction::Sum => vec![sum],
        Reduction::Mean => vec![sum / counted],
        Reduction::BatchMean => vec![sum / n as f64],
    }
}

/// The value is the textbook's, and the gradients are what differences of it give, of `forward` itself where nothing is constant.
#[track_caller]
fn check(batch: Batch<f64>, options: Options) {
    for log_scale in [None, Some(0.6)] {
        for reduction in REDUCTIONS {
            let (batch, options) = (Batch { log_scale, ..batch }, Options { reduction, ..options });
            let constants = Constants::of(batch, options);
            let loss = forward(batch, options);
            let close = |(a, b): (&f64, f64)| (a - b).abs() <= 1e-13; // of numbers around 1, some 0
            let want = textbook(batch, options, &constants);
            assert!(loss.iter().zip(want.clone()).all(close), "{loss:?} for {want:?} of {options:?}");
            let dy = wide(&Fill::Small.matrix(loss.len(), 1, 3));
            let Gradients { dq, dk, d_log_scale, .. } = backward(batch, &dy, options);
            let differences = |loss: &dyn Fn(Batch<f64>) -> Vec<f64>| {
                assert_gradient(batch.q, &dq, |q| dot(&loss(Batch { q, ..batch }), &dy));
                assert_gradient(batch.k, &dk, |k| dot(&loss(Batch { k, ..batch }), &dy));
                let log = scale(log_scale, options).ln();
                let of = |log: &[f64]| dot(&loss(Batch { log_scale: Some(log[0]), ..batch }), &dy);
                assert_gradient(&[log], &[d_log_scale], of);
            };
            differences(&|batch| textbook(batch, options, &constants));
            if options.hardness == 0.0 && options.tau_plus == 0.0 {
                differences(&|batch| forward(batch, options));
            }
        }
    }
}

/// Options that go with any choice of positives.
fn kinds() -> Vec<Options> {
    let plain = options();
    vec![
        plain,
        Options { inside_log: true, ..plain },
        Options { decoupled: true, ..plain },
        Options { decoupled: true, inside_log: true, ..plain },
        Options { label_smoothing: 0.2, ..plain },
        Options { margin: 0.3, ..plain },
        Options { hardness: 0.8, ..plain },
        Options { hardness: 0.8, margin: 0.3, decoupled: true, inside_log: true, ..plain },
        Options { hardness: 0.8, margin: 0.3, label_smoothing: 0.2, ..plain },
        Options { exclude_self: true, ..plain },
    ]
}

/// Options for queries of one positive.
fn single_kinds() -> Vec<Options> {
    let plain = options();
    vec![
        Options { near_margin: 0.1, ..plain },
        Options { near_margin: -0.2, margin: 0.3, label_smoothing: 0.2, ..plain },
        Options { tau_plus: 0.1, ..plain },
        Options { tau_plus: 0.6, ..plain },
        Options { tau_plus: 0.6, margin: -0.5, hardness: 0.8, near_margin: 0.1, ..plain },
    ]
}

#[test]
fn own() {
    let (q, k) = (rows(N, 1), rows(M, 2));
    let batch = Batch::new(&q, &k, DIM);
    for options in [kinds(), single_kinds()].concat().into_iter().filter(|options| !options.exclude_self) {
        check(batch, options);
        check(Batch { weight: WEIGHT, log_q: LOG_Q, ids: IDS, ..batch }, options);
    }
}

#[test]
fn index() {
    let (q, k) = (rows(N, 1), rows(M, 2));
    let batch = Batch { positive: INDEX, ..Batch::new(&q, &k, DIM) };
    for options in [kinds(), single_kinds()].concat() {
        check(batch, options);
        check(Batch { weight: WEIGHT, log_q: LOG_Q, ids: IDS, ..batch }, options);
    }
}

#[test]
fn groups() {
    let (q, k) = (rows(N, 1), rows(M, 2));
    let batch = Batch { positive: GROUPS, ..Batch::new(&q, &k, DIM) };
    for options in kinds() {
        check(batch, options);
        check(Batch { weight: WEIGHT, log_q: LOG_Q, ids: IDS, ..batch }, options);
    }
}

#[test]
fn symmetric() {
    let (q, k) = (rows(N, 1), rows(N, 2));
    let batch = Batch::new(&q, &k, DIM);
    let full = Batch { weight: WEIGHT, log_q: &LOG_Q[..N], ids: SQUARE_IDS, ..batch };
    let both = |options| Options { symmetric: true, ..options };
    for options in [kinds(), single_kinds()].concat().into_iter().map(both).filter(|options| !options.exclude_self) {
        check(batch, options);
        check(full, options);
    }
    for options in kinds().into_iter().map(both) {
        check(Batch { positive: SQUARE_GROUPS, ..batch }, options);
        check(Batch { positive: SQUARE_GROUPS, ..full }, options);
    }
}

#[test]
fn each_input_has_an_effect() {
    let (q, k) = (rows(N, 1), rows(M, 2));
    let batch = Batch::new(&q, &k, DIM);
    let plain = forward(batch, options());
    for other in [
        Batch { weight: WEIGHT, ..batch },
        Batch { log_q: LOG_Q, ..batch },
        Batch { ids: IDS, ..batch },
        Batch { positive: INDEX, ..batch },
        Batch { positive: GROUPS, ..batch },
        Batch { log_scale: Some(0.6), ..batch },
    ] {
        assert_ne!(forward(other, options()), plain);
    }
    for other in [kinds(), single_kinds()].concat().into_iter().skip(1).filter(|other| !other.exclude_self) {
        // With one positive there is no inside or outside.
        assert_eq!(forward(batch, other) != plain, other != Options { inside_log: true, ..options() });
        let groups = Batch { positive: GROUPS, ..batch };
        assert_ne!(forward(groups, other), forward(groups, options()));
    }
}

#[test]
fn clamped_scale() {
    let (q, k) = (rows(N, 1), rows(M, 2));
    let batch = Batch { log_scale: Some(0.7), ..Batch::new(&q, &k, DIM) };
    let clamped = Options { max_scale: 2.0, margin: 0.3, ..options() };
    let Gradients { dq, dk, d_log_scale, .. } = backward(batch, &[], clamped);
    assert_eq!(d_log_scale, 0.0);
    // Temperature 1/2 is scale 2.
    let fixed = backward(Batch { log_scale: None, ..batch }, &[], clamped);
    assert_eq!((dq, dk), (fixed.dq, fixed.dk));
    assert!(fixed.d_log_scale != 0.0);
}

/// c = (1, 1/4; 1/2, 2).
const TWO: [&[f64]; 2] = [&[1.0, 0.0, 0.0, 1.0], &[1.0, 0.5, 0.25, 2.0]];

fn of_two(change: impl Fn(&mut Options)) -> Vec<f64> {
    let mut options = Options { temperature: 1.0, ..options() };
    change(&mut options);
    forward(Batch::new(TWO[0], TWO[1], 2), options)
}

#[test]
fn by_hand() {
    assert_close(&of_two(|_| ()), &[(-0.75f64).exp().ln_1p(), (-1.5f64).exp().ln_1p()], 1e-15);
    assert_close(&of_two(|options| options.decoupled = true), &[-0.75, -1.5], 1e-15);
    // Columns: 1/2 − 1 and 1/4 − 2.
    let both = |options: &mut Options| (options.decoupled, options.symmetric) = (true, true);
    assert_close(&of_two(both), &[-0.625, -1.625], 1e-15);
    let near = |options: &mut Options| (options.decoupled, options.near_margin) = (true, -0.75);
    assert_close(&of_two(near), &[-0.75, -1.5], 1e-15);
    let near = |options: &mut Options| (options.decoupled, options.near_margin) = (true, -1.0);
    assert_close(&of_two(near), &[0.0, -1.5], 1e-15);
    // Ng = (e^0.25 − e/8) / (7/8) = 1.0791 and (e^0.5 − e²/8) / (7/8) = 0.8287; the floor is e^−1 = 0.3679.
    let tau = |tau| of_two(|options| options.tau_plus = tau);
    assert_close(&tau(0.125), &[0.334320169721048, 0.10629395887393531], 1e-14);
    // With 1/4, (e^0.25 − e/4) / (3/4) = 0.8059; the second is below 0, so the floor: ln(1 + e^−1 e^−2).
    assert_close(&tau(0.25), &[0.259659638714744, (-3f64).exp().ln_1p()], 1e-14);
}

/// On the floor neither the negatives nor the floor have a gradient.
#[test]
fn floor() {
    let options = Options { temperature: 1.0, tau_plus: 0.25, ..options() };
    let batch = Batch { log_scale: Some(0.0), ..Batch::new(TWO[0], TWO[1], 2) };
    let g = -(-3f64).exp() / (1.0 + (-3f64).exp()); // of s_11 = 2
    let Gradients { dk, d_log_scale, .. } = backward(batch, &[0.0, 1.0], options);
    assert_close(&dk, &[0.0, 0.0, 0.0, g], 1e-14);
    assert_close(&[d_log_scale], &[2.0 * g], 1e-14);
}

/// reference::cross_entropy of the rows `x`, and q's gradient from its own.
fn by_cross_entropy(x: &[f64], k: &[f64], targets: &[u32], label_smoothing: f32) -> [Vec<f64>; 2] {
    let (m, scale) = (k.len() / DIM, scale(None, options()));
    let options = ce::Options { label_smoothing, reduction: Reduction::Mean, ..Default::default() };
    let (target, weights) = (Target::Ids(targets), Weights::default());
    let dx = cross_entropy::backward(x, m, target, weights, &[], options);
    let turned: Vec<f64> = (0..k.len()).map(|at| scale * k[at % m * DIM + at / m]).collect();
    [cross_entropy::forward(x, m, target, weights, options), products(&dx, &turned, m)]
}

#[track_caller]
fn assert_cross_entropy(batch: Batch<f64>, options: Options, x: &[f64], targets: &[u32]) {
    let options = Options { reduction: Reduction::Mean, ..options };
    let [loss, dq] = by_cross_entropy(x, batch.k, targets, options.label_smoothing);
    assert_close(&forward(batch, options), &loss, 1e-13);
    assert_close(&backward(batch, &[], options).dq, &dq, 1e-10);
}

#[test]
fn nt_xent_is_cross_entropy_without_the_diagonal() {
    let x = rows(2 * N, 4);
    let partner: Vec<u32> = (0..2 * N).map(|i| ((i + N) % (2 * N)) as u32).collect();
    let mut scores: Vec<f64> = products(&x, &x, DIM).iter().map(|c| 2.0 * c).collect();
    (0..2 * N).for_each(|i| scores[i * (2 * N + 1)] = f64::NEG_INFINITY);
    let batch = Batch { positive: Positive::Index(&partner), ..Batch::new(&x, &x, DIM) };
    let options = Options { exclude_self: true, ..options() };
    assert_cross_entropy(batch, options, &scores, &partner);
    check(batch, options);
    // One tensor on both sides: the gradients add up.
    let Gradients { dq, dk, .. } = backward(batch, &[], options);
    let sum: Vec<f64> = dq.iter().zip(&dk).map(|(q, k)| q + k).collect();
    assert_gradient(&x, &sum, |x| forward(Batch { q: x, k: x, ..batch }, options).iter().sum());
}

#[test]
fn special_cases_of_cross_entropy() {
    let (q, k) = (rows(N, 1), rows(M, 2));
    let own: Vec<u32> = (0..N as u32).collect();
    let scores = |margin: f64, log_q: &[f64]| -> Vec<f64> {
        let c = products(&q, &k, DIM);
        let of = |at: usize| 2.0 * (c[at] - if at / M == at % M { margin } else { 0.0 }) - log_q[at % M];
        (0..N * M).map(of).collect()
    };
    let (batch, none) = (Batch::new(&q, &k, DIM), [0.0; M]);
    assert_cross_entropy(batch, options(), &scores(0.0, &none), &own);
    assert_cross_entropy(batch, Options { margin: 0.25, ..options() }, &scores(0.25, &none), &own);
    assert_cross_entropy(batch, Options { label_smoothing: 0.125, ..options() }, &scores(0.0, &none), &own);
    assert_cross_entropy(Batch { log_q: LOG_Q, ..batch }, options(), &scores(0.0, LOG_Q), &own);
    let all = Options { margin: 0.25, label_smoothing: 0.125, ..options() };
    assert_cross_entropy(Batch { log_q: LOG_Q, ..batch }, all, &scores(0.25, LOG_Q), &own);
}

#[test]
fn groups_of_one_are_plain() {
    let (q, k) = (rows(N, 1), rows(N, 2));
    let (batch, ids) = (Batch::new(&q, &k, DIM), [5, 4, 3, 2, 1, 0]);
    for options in kinds() {
        for options in [options, Options { symmetric: true, ..options }] {
            let groups = Batch { positive: Positive::Groups(&ids, &ids), ..batch };
            assert_eq!(forward(groups, options), forward(batch, options));
            assert_eq!(backward(groups, &[], options), backward(batch, &[], options));
        }
    }
}

/// Rows without positives do not count, rows without negatives do.
#[test]
fn void_rows() {
    let (q, k) = (rows(3, 1), rows(3, 2));
    let mean = Options { reduction: Reduction::Mean, ..options() };
    let of = |positive, options| forward(Batch { positive, ..Batch::new(&q, &k, DIM) }, options)[0];
    let zeros = |positive, options| {
        let found = backward(Batch { positive, log_scale: Some(0.5), ..Batch::new(&q, &k, DIM) }, &[], options);
        found.dq.iter().chain(&found.dk).chain([&found.d_log_scale]).all(|&gradient| gradient == 0.0)
    };
    let nothing = Positive::Index(&[NONE; 3]);
    for options in [kinds(), single_kinds()].concat() {
        let options = Options { reduction: Reduction::Mean, ..options };
        assert_eq!(of(nothing, options), 0.0);
        assert!(zeros(nothing, options));
    }
    // All keys are positives of all queries.
    let everything = Positive::Groups(&[1; 3], &[1; 3]);
    for inside_log in [false, true] {
        let options = Options { decoupled: true, inside_log, ..mean };
        assert_eq!(of(everything, options), 0.0);
        assert!(zeros(everything, options));
    }
    assert!(of(everything, mean) > 0.0);
    assert_eq!(
        of(Positive::Groups(&[1, 2, 3], &[1; 3]), mean),
        forward(Batch { positive: Positive::Groups(&[1], &[1; 3]), ..Batch::new(&q[..DIM], &k, DIM) }, mean)[0]
    );
    // Query 0 has no negatives.
    let positive = Positive::Groups(&[1, 2], &[1, 1]);
    let decoupled = Options { decoupled: true, ..mean };
    assert_eq!(forward(Batch { positive, ..Batch::new(&q[..2 * DIM], &k[..2 * DIM], DIM) }, decoupled), [0.0]);
    let (own, index) = (Batch::new(&q, &k, DIM), Positive::Index(&[0, 1, NONE]));
    let [first, second] = [0, 1].map(|i| forward(own, options())[i]);
    assert_eq!(of(index, mean), (first + second) / 2.0);
    assert_eq!(of(index, Options { reduction: Reduction::BatchMean, ..mean }), (first + second) / 3.0);
    let weighted = Batch { positive: index, weight: &[0.0, 0.0, 1.0], ..own };
    assert_eq!(forward(weighted, mean), [0.0]);
}

/// 1 − p = 2 e^−40: lost by any form that rounds p, or a log-sum-exp beside a score of 10¹².
#[test]
fn nearly_certain() {
    let rest = 2.0 * (-40f64).exp();
    let g = 0.5 * rest / (1.0 + rest);
    for offset in [0.0, 1e12, -1e12] {
        let (q, k) = ([1.0, 1.0], [40.0, offset, 0.0, offset, 0.0, offset]);
        let plain = Options { temperature: 1.0, ..options() };
        for options in [plain, Options { inside_log: true, ..plain }] {
            assert_close(&forward(Batch::new(&q, &k, 2), options), &[rest], 1e-12);
            assert_close(&backward(Batch::new(&q, &k, 2), &[], options).dk, &[-2.0 * g, -2.0 * g, g, g, g, g], 1e-12);
        }
        // Ng e^−s_p = 2 (e^−40 − τ) / (1 − τ).
        if offset < 0.0 {
            continue; // the floor, e^−1, is far above
        }
        let tau = 2f64.powi(-70);
        let debiased = Options { tau_plus: tau as f32, ..plain };
        let share = tau * 40f64.exp();
        assert_close(&forward(Batch::new(&q, &k, 2), debiased), &[rest * (1.0 - share)], 1e-12);
    }
}

#[test]
fn special_values() {
    let plain = Options { temperature: 1.0, ..options() };
    let of = |q: &[f64], k: &[f64]| (forward(Batch::new(q, k, 1), plain), backward(Batch::new(q, k, 1), &[], plain));
    // −∞ masks a negative: as if it were not there.
    let (loss, Gradients { dk, d_log_scale, .. }) = of(&[1.0], &[0.5, 0.25, f64::NEG_INFINITY]);
    let (want, without) = of(&[1.0], &[0.5, 0.25]);
    assert_eq!((loss, &dk[..2], dk[2], d_log_scale), (want.clone(), &without.dk[..], 0.0, without.d_log_scale));
    // A masked positive costs infinitely much.
    let (loss, Gradients { dk, .. }) = of(&[1.0], &[f64::NEG_INFINITY, 0.25]);
    assert_eq!((loss, dk), (vec![f64::INFINITY], vec![0.0, 1.0]));
    let (loss, Gradients { dk, .. }) = of(&[1.0], &[f64::NEG_INFINITY]);
    assert_eq!((loss, dk), (vec![f64::INFINITY], vec![0.0]));
    for bad in [f64::NAN, f64::INFINITY] {
        for k in [[bad, 0.5], [0.5, bad]] {
            let (loss, Gradients { dq, dk, d_log_scale, .. }) = of(&[1.0], &k);
            assert_nan(&[loss, dq, dk, vec![d_log_scale]].concat());
        }
    }
    // Left out, +∞ does not show in the loss.
    let ids: (&[u32], &[u32]) = (&[7], &[7, 7, 1]);
    let batch = Batch { ids: Some(ids), ..Batch::new(&[1.0], &[0.5, f64::INFINITY, 0.25], 1) };
    assert_eq!(forward(batch, plain), want);
}

/// Further negatives of all queries are keys that are nobody's.
#[test]
fn shared_negatives_are_more_keys() {
    let (q, all) = (rows(N, 1), rows(M, 2));
    let (k, more) = all.split_at(N * DIM);
    let (_, k_ids) = IDS.unwrap();
    for options in [kinds(), single_kinds()].concat().into_iter().filter(|options| !options.exclude_self) {
        let one = Batch { log_q: LOG_Q, ids: IDS, weight: WEIGHT, ..Batch::new(&q, &all, DIM) };
        let shared = Negatives { k: more, log_q: &LOG_Q[N..], ids: &k_ids[N..] };
        let ids = IDS.map(|(q_ids, k_ids)| (q_ids, &k_ids[..N]));
        let two = Batch { k, log_q: &LOG_Q[..N], ids, shared, ..one };
        assert_close(&forward(two, options), &forward(one, options), 1e-14);
        let (want, found) = (backward(one, &[], options), backward(two, &[], options));
        assert_close(&found.dq, &want.dq, 1e-14);
        assert_close(&[found.dk, found.d_shared].concat(), &want.dk, 1e-14);
        assert_close(&[found.d_log_scale], &[want.d_log_scale], 1e-13);
    }
}

/// What is said of queries with negatives of their own is what is said of each query alone.
#[test]
fn own_negatives_are_those_of_a_query_alone() {
    let (q, k, own) = (rows(N, 1), rows(M, 2), rows(3 * N, 4));
    let log_q = wide(&Fill::Small.matrix(3 * N, 1, 5));
    let ids: Vec<u32> = (0..3 * N as u32).map(|at| at % 4).collect();
    let (q_ids, _) = IDS.unwrap();
    for in_batch in [true, false] {
        for options in [kinds(), single_kinds()].concat().into_iter().filter(|options| !options.exclude_self) {
            let options = Options { in_batch, query_negatives: true, ..options };
            let each = Negatives { k: &own, log_q: &log_q, ids: &ids };
            let batch = Batch { ids: IDS, each, ..Batch::new(&q, &k, DIM) };
            let (losses, found) = (forward(batch, options), backward(batch, &[], options));
            let mut d_each = Vec::new();
            let (mut dq, mut dk) = (vec![0.0; q.len()], vec![0.0; k.len()]);
            for i in 0..N {
                // All others as further negatives of the one, but for those that are left out.
                let (_, k_ids) = IDS.unwrap();
                let others: Vec<usize> = (0..N).filter(|&other| other != i && q_ids[other] != q_ids[i]).collect();
                let keys: Vec<usize> =
                    (0..M).filter(|&j| j != i && (in_batch || j >= N) && k_ids[j] != q_ids[i]).collect();
                let mine: Vec<usize> = (3 * i..3 * i + 3).filter(|&at| ids[at] != q_ids[i]).collect();
                let take = |x: &[f64], at: &[usize]| at.iter().flat_map(|&at| row(x, at).to_vec()).collect::<Vec<_>>();
                let more = [take(&k, &keys), take(&q, &others), take(&own, &mine)].concat();
                let more_log_q =
                    [vec![0.0; keys.len() + others.len()], mine.iter().map(|&at| log_q[at]).collect()].concat();
                let shared = Negatives { k: &more, log_q: &more_log_q, ids: &[] };
                let single = Options { in_batch: true, query_negatives: false, ..options };
                let alone = Batch { shared, ..Batch::new(row(&q, i), row(&k, i), DIM) };
                assert_close(&losses[i..=i], &forward(alone, single), 1e-13);
                let want = backward(alone, &[], single);
                let at_row = |into: &mut [f64], at: usize, from: &[f64]| {
                    into[at * DIM..][..DIM].iter_mut().zip(from).for_each(|(sum, from)| *sum += from);
                };
                at_row(&mut dq, i, &want.dq);
                at_row(&mut dk, i, &want.dk);
                let mut own_gradient = vec![0.0; 3 * DIM];
                for (from, place) in want.d_shared.chunks(DIM).zip(
                    keys.iter()
                        .map(|&j| (0, j))
                        .chain(others.iter().map(|&other| (1, other)).chain(mine.iter().map(|&at| (2, at - 3 * i)))),
                ) {
                    match place {
                        (0, j) => at_row(&mut dk, j, from),
                        (1, other) => at_row(&mut dq, other, from),
                        (_, at) => at_row(&mut own_gradient, at, from),
                    }
                }
                d_each.extend(own_gradient);
            }
            assert_close(&found.d_each, &d_each, 1e-13);
            assert_close(&found.dq, &dq, 1e-13);
            assert_close(&found.dk, &dk, 1e-13);
        }
    }
}

fn row(x: &[f64], at: usize) -> &[f64] {
    &x[at * DIM..][..DIM]
}

/// Queries and keys among themselves are NT-Xent of both in one.
#[test]
fn negatives_on_both_sides_are_nt_xent() {
    let (q, k) = (rows(N, 1), rows(N, 2));
    let both = [&q[..], &k].concat();
    let index: Vec<u32> = (0..2 * N as u32).map(|i| (i + N as u32) % (2 * N as u32)).collect();
    let one = Batch { positive: Positive::Index(&index), ..Batch::new(&both, &both, DIM) };
    let two = Batch::new(&q, &k, DIM);
    for kind in [kinds(), single_kinds()].concat().into_iter().filter(|options| !options.exclude_self) {
        let nt_xent = Options { exclude_self: true, reduction: Reduction::Mean, ..kind };
        let ours =
            Options { symmetric: true, query_negatives: true, key_negatives: true, reduction: Reduction::Mean, ..kind };
        assert_close(&forward(two, ours), &forward(one, nt_xent), 1e-14);
        let (found, want) = (backward(two, &[], ours), backward(one, &[], nt_xent));
        let sum: Vec<f64> = want.dq.iter().zip(&want.dk).map(|(a, b)| a + b).collect();
        assert_close(&[found.dq, found.dk].concat(), &sum, 1e-12);
        assert_close(&[found.d_log_scale], &[want.d_log_scale], 1e-13);
    }
}

/// Queries of one group are no negatives of each other, and neither are keys.
#[test]
fn groups_among_themselves() {
    let (q, k) = (rows(N, 1), rows(N, 2));
    let batch = Batch { positive: SQUARE_GROUPS, ..Batch::new(&q, &k, DIM) };
    let options = Options { symmetric: true, query_negatives: true, key_negatives: true, ..options() };
    let Positive::Groups(of_q, of_k) = SQUARE_GROUPS else { unreachable!() };
    let exp = |a: &[f64], b: &[f64]| (dot(a, b) * 2.0).exp();
    let line = |own: usize, mine: &[f64], groups: &[u32], others: &[f64], other_groups: &[u32]| {
        let positives: Vec<usize> = (0..N).filter(|&j| other_groups[j] == groups[own]).collect();
        let across: f64 = (0..N).map(|j| exp(row(mine, own), row(others, j))).sum();
        let along: f64 = (0..N).filter(|&j| groups[j] != groups[own]).map(|j| exp(row(mine, own), row(mine, j))).sum();
        let mean = |s: &dyn Fn(usize) -> f64| positives.iter().map(|&j| s(j)).sum::<f64>() / positives.len() as f64;
        if positives.is_empty() {
            0.0
        } else {
            (across + along).ln() - mean(&|j| 2.0 * dot(row(mine, own), row(others, j)))
        }
    };
    let want: Vec<f64> = (0..N).map(|i| (line(i, &q, of_q, &k, of_k) + line(i, &k, of_k, &q, of_q)) / 2.0).collect();
    assert_close(&forward(batch, options), &want, 1e-13);
}

#[test]
fn rows_of_any_length() {
    let (q, k, more, own) = (rows(N, 1), rows(N, 2), rows(3, 4), rows(2 * N, 5));
    let batch = Batch {
        log_scale: Some(0.7),
        shared: Negatives { k: &more, ..Default::default() },
        each: Negatives { k: &own, ..Default::default() },
        ..Batch::new(&q, &k, DIM)
    };
    let options = Options {
        normalize: true,
        symmetric: true,
        query_negatives: true,
        key_negatives: true,
        margin: 0.1,
        ..options()
    };
    let dy = wide(&Fill::Small.matrix(N, 1, 3));
    let found = backward(batch, &dy, options);
    let loss = |batch: Batch<f64>| dot(&forward(batch, options), &dy);
    assert_gradient(&q, &found.dq, |q| loss(Batch { q, ..batch }));
    assert_gradient(&k, &found.dk, |k| loss(Batch { k, ..batch }));
    assert_gradient(&more, &found.d_shared, |k| loss(Batch { shared: Negatives { k, ..batch.shared }, ..batch }));
    assert_gradient(&own, &found.d_each, |k| loss(Batch { each: Negatives { k, ..batch.each }, ..batch }));
    assert_gradient(&[0.7], &[found.d_log_scale], |scale| loss(Batch { log_scale: Some(scale[0]), ..batch }));
    // The lengths do not matter, but for those of the gradients.
    let longer: Vec<f64> = q.iter().map(|x| 3.0 * x).collect();
    assert_close(&forward(Batch { q: &longer, ..batch }, options), &forward(batch, options), 1e-14);
}

#[test]
fn values_of_lines() {
    let (q, k) = (rows(N, 1), rows(N, 2));
    for options in [options(), Options { symmetric: true, ..options() }] {
        let found = values(Batch::new(&q, &k, DIM), options);
        assert_eq!(found.len(), if options.symmetric { 2 * N } else { N });
        for (at, value) in found.into_iter().enumerate() {
            let (mine, others, own) = if at < N { (row(&q, at), &k, at) } else { (row(&k, at - N), &q, at - N) };
            let s: Vec<f64> = others.chunks(DIM).map(|other| 2.0 * dot(mine, other)).collect();
            let z: f64 = s.iter().map(|s| s.exp()).sum();
            let entropy: f64 = s.iter().map(|s| -(s.exp() / z) * (s.exp() / z).ln()).sum();
            assert_close(&[value.loss, value.lse, value.entropy], &[z.ln() - s[own], z.ln(), entropy], 1e-13);
            assert_eq!(value.correct, s.iter().all(|&other| other <= s[own]));
        }
    }
}
