//! Embedding tables: one step against the reference's ops, what training finds, and how it is refused.

use std::ops::ControlFlow;

use wgloss::planted::{Blocks, Planted};
use wgloss::train::tables::{Config, Event, Interactions, Loss, Model, Negatives, Outcome, fit, recommend};
use wgloss::train::{Batches, Decay, Optimizer, Schedule};
use wgloss::{Error, Gpu, adam, metrics, reference, sample, sgd};

use crate::harness::*;

fn trained(gpu: &Gpu, data: &Interactions, held_out: Option<&Interactions>, config: &Config) -> Outcome {
    fit(gpu, data, held_out, config, &mut |_| ControlFlow::Continue(())).unwrap()
}

fn plain(rate: f64) -> Config {
    Config {
        dim: 3,
        batch: 6,
        epochs: 1,
        optimizer: Optimizer::Sgd(sgd::Options::default()),
        rate,
        ..Config::default()
    }
}

/// Nine interactions of four users and five items; some users take an item twice.
fn few() -> (Vec<u32>, Vec<u32>) {
    (vec![0, 0, 1, 1, 2, 2, 3, 3, 3], vec![0, 1, 1, 2, 2, 2, 3, 4, 0])
}

fn data() -> Interactions {
    let (users, items) = few();
    Interactions::new(users, items, 4, 5).unwrap()
}

fn rows(table: &[f32], ids: &[u32], dim: usize) -> Vec<f64> {
    wide(&reference::gather::forward(table, dim, ids))
}

/// Users and items of the only step, and the tables before.
fn first_step(gpu: &Gpu, config: &Config) -> (Vec<u32>, Vec<u32>, Model) {
    let (users, items) = few();
    let order = Batches::shuffled(9, config.batch, config.seed).epoch(1);
    let of = |ids: &[u32]| order[..config.batch].iter().map(|&pair| ids[pair as usize]).collect();
    let before = trained(gpu, &data(), None, &Config { epochs: 0, ..config.clone() }).model;
    (of(&users), of(&items), before)
}

#[track_caller]
fn assert_stepped(model: &Model, before: &Model, ids: [&[u32]; 2], gradients: [&[f64]; 2], rate: f64) {
    for ((now, before), (ids, gradient)) in
        [(&model.users, &before.users), (&model.items, &before.items)].into_iter().zip(ids.into_iter().zip(gradients))
    {
        let sums = reference::gather::backward(gradient, 3, ids, before.len() / 3);
        let want: Vec<f64> = before.iter().zip(&sums).map(|(&p, g)| f64::from(p) - rate * g).collect();
        for (now, want) in now.iter().zip(&want) {
            assert!((f64::from(*now) - want).abs() < 1e-6, "{now}, want {want}");
        }
        assert!(sums.iter().any(|g| g.abs() > 1e-3));
    }
}

#[test]
fn a_logistic_step_is_that_of_the_reference() {
    let Some(gpu) = gpu() else { return };
    for (negatives, count) in [
        (Negatives::None, 0),
        (Negatives::Drawn { count: 2, power: 0.0, uniform: 0.0 }, 2),
        (Negatives::Hard { count: 1 }, 1),
    ] {
        let config = Config { loss: Loss::Logistic, negatives, ..plain(0.5) };
        let (users, items, before) = first_step(gpu, &config);
        let lists = data().lists();
        let own: Vec<&[u32]> = users.iter().map(|&user| lists[user as usize].as_slice()).collect();
        let q = rows(&before.users, &users, 3);
        let drawn = match negatives {
            Negatives::Hard { count } => reference::top_k::forward(&q, &wide(&before.items), 3, &own, count).0,
            _ => {
                let options = sample::Options { seed: config.seed, ..Default::default() };
                reference::sample::draw::<f64>(sample::Proposal::Uniform { n: 5 }, &own, count, options).0
            }
        };
        let all: Vec<u32> =
            (0..6).flat_map(|at| [&items[at..=at], &drawn[at * count..(at + 1) * count]].concat()).collect();
        let k = rows(&before.items, &all, 3);
        let s = reference::dot::forward(&q, &k, 3);
        let ds: Vec<f64> = s
            .iter()
            .enumerate()
            .map(|(at, s)| 1.0 / (1.0 + (-s).exp()) - f64::from(u8::from(at % (1 + count) == 0)))
            .collect();
        let [dq, dk] = reference::dot::backward(&q, &k, &ds, 3);
        let model = trained(gpu, &data(), None, &config).model;
        assert_stepped(&model, &before, [&users, &all], [&dq, &dk], 0.5);
    }
}

#[test]
fn an_in_batch_step_is_that_of_the_reference() {
    let Some(gpu) = gpu() else { return };
    for (negatives, count) in [(Negatives::InBatch, 0), (Negatives::Mixed { count: 4 }, 4)] {
        let config = Config { negatives, temperature: 0.5, ..plain(2.0) };
        let (users, items, before) = first_step(gpu, &config);
        let options = sample::Options { seed: config.seed, expected: true, ..Default::default() };
        let even = sample::Proposal::Uniform { n: 5 };
        let drawn = if count > 0 { reference::sample::draw::<f64>(even, &[&[]], count, options).0 } else { Vec::new() };
        let all = [&items[..], &drawn].concat();
        // Popularity in the data, and the share of the batch's own among all that a user is compared with.
        let (_, taken) = few();
        let uniform = count as f64 / (count + 6) as f64;
        let log_q: Vec<f64> = all
            .iter()
            .map(|item| {
                let popularity = taken.iter().filter(|other| *other == item).count() as f64 / 9.0;
                (uniform / 5.0 + (1.0 - uniform) * popularity).ln()
            })
            .collect();
        let (q, k) = (rows(&before.users, &users, 3), rows(&before.items, &all, 3));
        let (own, further) = k.split_at(18);
        let batch = reference::info_nce::Batch {
            log_q: &log_q[..6],
            ids: Some((&items, &items)),
            shared: reference::info_nce::Negatives { k: further, ids: &drawn, log_q: &log_q[6..] },
            ..reference::info_nce::Batch::new(&q, own, 3)
        };
        let options = wgloss::info_nce::Options { temperature: 0.5, ..Default::default() };
        let gradients = reference::info_nce::backward(batch, &[], options);
        let dk = [gradients.dk, gradients.d_shared].concat();
        let model = trained(gpu, &data(), None, &config).model;
        assert_stepped(&model, &before, [&users, &all], [&gradients.dq, &dk], 2.0);
    }
}

/// With towers on the tables: what they make of the rows before and after a step of gradient descent, by differences of the loss.
#[test]
fn a_step_of_towers_is_that_of_the_reference() {
    let Some(gpu) = gpu() else { return };
    for negatives in [Negatives::None, Negatives::Hard { count: 1 }] {
        step_of_towers(gpu, negatives);
    }
}

fn step_of_towers(gpu: &Gpu, negatives: Negatives) {
    let (dim, hidden, rate) = (3, 2, 0.5);
    let config = Config { hidden, loss: Loss::Logistic, negatives, ..plain(rate) };
    let (users, items, before) = first_step(gpu, &config);
    // Tables of users and of items, then each side's maps: weight and bias, in and out.
    let mut random = wgloss::Random::new(config.seed, 1);
    let mut draw = |count: usize, inputs: usize| -> Vec<f64> {
        let bound = 1.0 / (inputs as f64).sqrt();
        (0..count).map(|_| (2.0 * f64::from(random.uniform()) - 1.0) * bound).collect()
    };
    let tables = draw(4 * dim + 5 * dim, dim);
    let tower: Vec<f64> = (0..2)
        .flat_map(|_| [draw(hidden * dim, dim), draw(hidden, dim), draw(dim * hidden, hidden), draw(dim, hidden)])
        .flatten()
        .collect();
    let mut all = [tables, tower].concat();
    let of_side = |all: &[f64], side: usize| -> Vec<f64> {
        let (table, rows) = if side == 0 { (&all[..4 * dim], 4) } else { (&all[4 * dim..9 * dim], 5) };
        let tower = &all[9 * dim..][side * (2 * hidden * dim + hidden + dim)..];
        let (w, rest) = tower.split_at(hidden * dim);
        let (b, rest) = rest.split_at(hidden);
        let (v, rest) = rest.split_at(dim * hidden);
        let within = reference::linear::forward(table, w, Some(b), dim, hidden, rows);
        reference::linear::forward(&reference::tanh::forward(&within), v, Some(&rest[..dim]), hidden, dim, rows)
    };
    let row = |of: &[f64], id: u32| of[id as usize * dim..][..dim].to_vec();
    // The items that score best of those that users have not taken, sought among what the tower makes of all.
    let lists = data().lists();
    let own: Vec<&[u32]> = users.iter().map(|&user| lists[user as usize].as_slice()).collect();
    let q: Vec<f64> = users.iter().flat_map(|&user| row(&of_side(&all, 0), user)).collect();
    let hard = match negatives {
        Negatives::Hard { count } => reference::top_k::forward(&q, &of_side(&all, 1), dim, &own, count).0,
        _ => Vec::new(),
    };
    let loss = |all: &[f64]| -> f64 {
        let [q, k] = [of_side(all, 0), of_side(all, 1)];
        let of = |sign: f64, items: &[u32]| -> f64 {
            let score = |(&user, &item): (&u32, &u32)| dot(&row(&q, user), &row(&k, item));
            users.iter().zip(items).map(|pair| (-sign * score(pair)).exp().ln_1p()).sum()
        };
        of(1.0, &items) + of(-1.0, &hard)
    };
    assert_close_by(&before, [&of_side(&all, 0), &of_side(&all, 1)]);
    let slopes: Vec<f64> = (0..all.len())
        .map(|at| {
            let moved = |change: f64| {
                let mut all = all.clone();
                all[at] += change;
                loss(&all)
            };
            (moved(1e-5) - moved(-1e-5)) / 2e-5
        })
        .collect();
    assert!(slopes[9 * dim..].iter().filter(|slope| slope.abs() > 1e-3).count() > 20);
    all.iter_mut().zip(slopes).for_each(|(value, slope)| *value -= rate * slope);
    let after = trained(gpu, &data(), None, &config).model;
    assert_close_by(&after, [&of_side(&all, 0), &of_side(&all, 1)]);
}

#[track_caller]
fn assert_close_by(model: &Model, want: [&[f64]; 2]) {
    for (found, want) in [&model.users, &model.items].into_iter().zip(want) {
        assert_eq!(found.len(), want.len());
        let near = |(found, want): (&f32, &f64)| (f64::from(*found) - want).abs() < 1e-6;
        assert!(found.iter().zip(want).all(near), "{found:?}, want {want:?}");
    }
}

fn planted() -> Planted {
    Blocks { blocks: 12, users: 20, items: 12, seed: 3, ..Default::default() }.generate().unwrap()
}

fn study(negatives: Negatives, loss: Loss) -> Config {
    let rate = if loss == Loss::Logistic { 0.1 } else { 0.1 * 64.0 };
    Config { dim: 6, batch: 64, epochs: 40, loss, negatives, start: 1.7, ..plain(rate) }
}

fn spurious(gpu: &Gpu, planted: &Planted, model: &Model) -> f64 {
    let users: Vec<u32> = (0..planted.user_blocks.len() as u32).collect();
    let ids = recommend(gpu, model, &planted.train, &users, 5).unwrap();
    metrics::spurious(&ids, 5, &planted.user_blocks, &planted.item_blocks)[0]
}

/// Trained on positives alone, blocks that were never together fold onto each other; with negatives they do not.
#[test]
fn negatives_keep_blocks_apart() {
    let Some(gpu) = gpu() else { return };
    let planted = planted();
    let of = |negatives, loss| {
        let outcome = trained(gpu, &planted.train, Some(&planted.held_out), &study(negatives, loss));
        assert!(outcome.best.users == 240 && outcome.best.ndcg > outcome.before.ndcg);
        (spurious(gpu, &planted, &outcome.model), outcome.best.recall)
    };
    let (folded, recall) = of(Negatives::None, Loss::Logistic);
    assert!(folded > 0.3, "{folded} without negatives");
    for (negatives, loss) in [
        (Negatives::Drawn { count: 5, power: 0.0, uniform: 0.0 }, Loss::Logistic),
        (Negatives::Drawn { count: 5, power: 0.75, uniform: 0.5 }, Loss::Softmax),
        (Negatives::InBatch, Loss::Softmax),
        (Negatives::Mixed { count: 32 }, Loss::Softmax),
    ] {
        let (apart, with) = of(negatives, loss);
        assert!(apart < 0.1, "{negatives:?}: {apart}");
        assert!(with > recall + 0.1, "{negatives:?}: recall {with}, {recall} without negatives");
    }
}

/// The embeddings of towers do what those of tables do.
#[test]
fn towers_learn() {
    let Some(gpu) = gpu() else { return };
    let planted = planted();
    let config = Config {
        hidden: 16,
        epochs: 25,
        optimizer: Optimizer::Adam(adam::Options::default()),
        rate: 0.01,
        ..study(Negatives::Mixed { count: 32 }, Loss::Softmax)
    };
    let outcome = trained(gpu, &planted.train, Some(&planted.held_out), &config);
    let apart = spurious(gpu, &planted, &outcome.model);
    assert!(apart < 0.1 && outcome.best.recall > 0.6, "{apart} {:?}", outcome.best);
}

/// What is compared by cosine is measured and recommended by cosine: embeddings are of unit length, with towers too.
#[test]
fn cosines_are_of_unit_length() {
    let Some(gpu) = gpu() else { return };
    let planted = planted();
    for (hidden, negatives) in
        [(0, Negatives::InBatch), (8, Negatives::Mixed { count: 32 }), (0, Negatives::Hard { count: 4 })]
    {
        let config = Config { hidden, normalize: true, temperature: 0.1, epochs: 3, ..study(negatives, Loss::Softmax) };
        let mut told = 0;
        let outcome = fit(gpu, &planted.train, Some(&planted.held_out), &config, &mut |event| {
            if let Event::Epoch { best: Some(model), .. } = event {
                told += model.users.len();
            }
            ControlFlow::Continue(())
        });
        let model = outcome.unwrap().model;
        let length = |row: &[f32]| row.iter().map(|value| value * value).sum::<f32>();
        assert!(model.users.chunks(6).chain(model.items.chunks(6)).all(|row| (length(row) - 1.0).abs() < 1e-5));
        assert!(told > 0);
    }
}

#[test]
fn the_same_seed_gives_the_same_bits() {
    let Some(gpu) = gpu() else { return };
    let config = Config {
        epochs: 3,
        optimizer: Optimizer::Adam(adam::Options::default()),
        rate: 0.01,
        schedule: Schedule { warm_up: 5, decay: Decay::Cosine, least: 0.0 },
        ..study(Negatives::Mixed { count: 16 }, Loss::Softmax)
    };
    let planted = planted();
    let first = trained(gpu, &planted.train, None, &config).model;
    assert!(first == trained(gpu, &planted.train, None, &config).model);
    assert!(first != trained(gpu, &planted.train, None, &Config { seed: 2, ..config }).model);
}

#[test]
fn what_cannot_train_is_refused() {
    let Some(gpu) = gpu() else { return };
    let refuse = |config: Config| match fit(gpu, &data(), None, &config, &mut |_| ControlFlow::Continue(())) {
        Err(Error::Option { op: "train", option, .. }) => option,
        other => panic!("{other:?}"),
    };
    assert_eq!(refuse(Config { dim: 0, ..plain(0.1) }), "dim");
    assert_eq!(refuse(Config { batch: 10, ..plain(0.1) }), "batch");
    assert_eq!(refuse(Config { negatives: Negatives::None, ..plain(0.1) }), "negatives");
    assert_eq!(refuse(Config { negatives: Negatives::InBatch, loss: Loss::Logistic, ..plain(0.1) }), "negatives");
    assert_eq!(refuse(Config { negatives: Negatives::Hard { count: 4 }, ..plain(0.1) }), "negatives");
    assert_eq!(refuse(Config { start: f32::NAN, ..plain(0.1) }), "start");
    let drawn = |count, power, uniform| Config { negatives: Negatives::Drawn { count, power, uniform }, ..plain(0.1) };
    assert_eq!(refuse(drawn(0, 0.0, 0.0)), "negatives");
    assert_eq!(refuse(drawn(1, f64::NAN, 0.0)), "power");
    assert_eq!(refuse(drawn(1, 1.0, 1.5)), "uniform");
    for (users, items, what) in
        [(vec![0, 4], vec![0, 0], "users"), (vec![0, 0], vec![0, 5], "items"), (vec![0], vec![0, 1], "items")]
    {
        let refused = Interactions::new(users, items, 4, 5).unwrap_err();
        assert!(matches!(refused, Error::Data { what: found, .. } if found == what));
    }
}

#[test]
fn it_ends_where_it_is_told_to_and_where_numbers_do() {
    let Some(gpu) = gpu() else { return };
    let planted = planted();
    let config = study(Negatives::InBatch, Loss::Softmax);
    let outcome = fit(gpu, &planted.train, None, &config, &mut |event| match event {
        Event::Epoch { epoch: 2, .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    let outcome = outcome.unwrap();
    assert_eq!((outcome.end, outcome.best_epoch), (wgloss::train::End::Stopped, 2));
    let outcome = trained(gpu, &planted.train, None, &Config { rate: 1e30, ..config });
    assert!(matches!(outcome.end, wgloss::train::End::Diverged(_)) && outcome.best_epoch == 0);
    assert!(outcome.model.users.iter().all(|value| value.is_finite()));
}
