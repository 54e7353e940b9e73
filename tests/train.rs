//! The training loop: against PyTorch, against itself, and how it ends.

use std::ops::ControlFlow;

use wgloss::train::{Config, Decay, End, Event, Model, Optimizer, Outcome, Pairs, Schedule, fit};
use wgloss::{Gpu, Random, Result, adam, info_nce, sgd};

use crate::harness::gpu;

/// The bundled digits: upper halves and lower halves, pixels from 0 to 1.
fn digits() -> Pairs {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/data/digits.csv")).unwrap();
    let pixels = |half: usize| {
        let line = move |line: &str| -> Vec<f32> {
            line.split(',').skip(32 * half).take(32).map(|pixel| pixel.parse::<f32>().unwrap() / 16.0).collect()
        };
        text.lines().flat_map(line).collect()
    };
    Pairs::new(pixels(0), 32, pixels(1), 32).unwrap()
}

/// 64 pairs of 4 numbers; the keys are a fixed map of the queries with noise, which the identity does not undo.
fn mapped() -> Pairs {
    let mut random = Random::new(5, 0);
    let mut draw = |count: usize| -> Vec<f32> { (0..count).map(|_| 2.0 * random.uniform() - 1.0).collect() };
    let (queries, map, noise) = (draw(64 * 4), draw(4 * 4), draw(64 * 4));
    let key = |at: usize| {
        let dot: f32 = (0..4).map(|d| queries[at / 4 * 4 + d] * map[at % 4 * 4 + d]).sum();
        dot + 0.1 * noise[at]
    };
    let keys = (0..64 * 4).map(key).collect();
    Pairs::new(queries, 4, keys, 4).unwrap()
}

fn small(pairs: &Pairs) -> Config {
    Config { batch: 16, epochs: 3, ..Config::for_embeddings(pairs) }
}

/// Trains for at most `steps` steps; returns their losses too.
fn losses(gpu: Option<&Gpu>, pairs: &Pairs, config: &Config, steps: usize) -> Result<(Vec<f32>, Outcome)> {
    let mut all = Vec::new();
    let outcome = fit(gpu, pairs, config, &mut |event| {
        if let Event::Steps { losses, .. } = event {
            all.extend_from_slice(losses);
        }
        if all.len() < steps { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    Ok((all, outcome))
}

/// Panics unless both have so many losses, close to each other.
#[track_caller]
fn agree(device: &[f32], reference: &[f32], steps: usize, tolerance: f32) {
    assert_eq!([device.len(), reference.len()], [steps; 2]);
    for (step, (device, reference)) in device.iter().zip(reference).enumerate() {
        let close = (device - reference).abs() <= tolerance * reference;
        assert!(close, "step {step}: loss {device}, reference {reference}");
    }
}

/// The first steps on the digits lose what PyTorch's lose: tests/peers/train_digits.py drew the same split, weights and batches.
fn agrees_with_pytorch(gpu: Option<&Gpu>, tolerance: f64) {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/train_digits.json");
    let golden: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let number = |key: &str| golden[key].as_f64().unwrap();
    let (pairs, steps) = (digits(), number("steps") as usize);
    let config = Config {
        hidden: number("hidden") as usize,
        dim: number("dim") as usize,
        batch: number("batch") as usize,
        epochs: 100,
        rate: number("lr"),
        seed: number("seed") as u64,
        ..Config::for_embeddings(&pairs)
    };
    let (losses, outcome) = losses(gpu, &pairs, &config, steps).unwrap();
    let want = golden["loss"].as_array().unwrap();
    assert_eq!((want.len(), losses.len()), (steps, steps));
    for (step, (loss, want)) in losses.iter().zip(want).enumerate() {
        let want = want.as_f64().unwrap();
        let close = (f64::from(*loss) - want).abs() <= tolerance * want;
        assert!(close, "step {step}: loss {loss}, PyTorch {want}");
    }
    assert_eq!(outcome.before.recall_at_1, number("recall_at_1_before"));
    assert!((outcome.before.mean_reciprocal_rank - number("mrr_before")).abs() < 1e-6);
}

#[test]
fn a_device_agrees_with_pytorch() {
    let Some(gpu) = gpu() else { return };
    agrees_with_pytorch(Some(gpu), 1e-4);
}

#[test]
fn the_reference_agrees_with_pytorch() {
    agrees_with_pytorch(None, 1e-6); // both in f64; the loss is handed out as f32
}

#[test]
fn a_queue_of_past_keys_agrees_with_the_reference() {
    let Some(gpu) = gpu() else { return };
    let pairs = mapped();
    // Three steps an epoch of 16 of 51 pairs; 40 rows, so that the ring wraps and meets pairs again.
    let config = Config { queue: 40, epochs: 4, ..small(&pairs) };
    let run = |gpu, config: &Config| losses(gpu, &pairs, config, usize::MAX).unwrap().0;
    let (device, reference) = (run(Some(gpu), &config), run(None, &config));
    agree(&device, &reference, 12, 1e-5);
    let without = run(None, &small(&pairs));
    assert_eq!(reference[0], without[0]);
    assert!(reference[1] > without[1], "the first step's keys are negatives of the second's queries");
}

/// Pairs of one number are no negatives of each other, in the batch nor in the queue.
#[test]
fn pairs_of_one_id_agree_with_the_reference() {
    let Some(gpu) = gpu() else { return };
    let plain = mapped();
    let pairs = plain.clone().with_ids((0..plain.len() as u32).map(|pair| pair / 3).collect()).unwrap();
    for queue in [0, 40] {
        let config = Config { queue, epochs: 2, ..small(&pairs) };
        let run = |gpu, pairs: &Pairs| losses(gpu, pairs, &config, usize::MAX).unwrap().0;
        let (device, reference, without) = (run(Some(gpu), &pairs), run(None, &pairs), run(None, &plain));
        agree(&device, &reference, 6, 1e-5);
        assert!(reference[0] < without[0], "fewer negatives");
    }
    let few = plain.with_ids(vec![0; 3]).unwrap_err().to_string();
    assert!(few.starts_with("ids should be one for each pair") && few.ends_with("found 3"), "{few}");
}

/// Pairs of one label are positives of each other; those of weight 0 count for nothing.
#[test]
fn labels_and_weights_agree_with_the_reference() {
    let Some(gpu) = gpu() else { return };
    let plain = mapped();
    let labels = plain.clone().with_labels((0..plain.len() as u32).map(|pair| pair % 5).collect()).unwrap();
    let weights: Vec<f32> = (0..plain.len()).map(|pair| (pair % 4) as f32).collect();
    let weighted = plain.clone().with_weights(weights.clone()).unwrap();
    let both = labels.clone().with_weights(weights).unwrap();
    let config = Config { epochs: 2, ..small(&plain) };
    let inside = Config { loss: info_nce::Options { inside_log: true, ..config.loss }, ..config.clone() };
    let queue = Config { queue: 40, ..config.clone() };
    let without = losses(None, &plain, &config, usize::MAX).unwrap().0;
    for (pairs, config) in
        [(&labels, &config), (&labels, &inside), (&labels, &queue), (&weighted, &queue), (&both, &config)]
    {
        let run = |gpu| losses(gpu, pairs, config, usize::MAX).unwrap().0;
        let (device, reference) = (run(Some(gpu)), run(None));
        agree(&device, &reference, 6, 1e-5);
        assert_ne!(reference[0], without[0]);
    }
    // A query whose negatives are all of its label ranks first.
    let of_one = plain.clone().with_labels(vec![7; plain.len()]).unwrap();
    for gpu in [Some(gpu), None] {
        let outcome =
            fit(gpu, &of_one, &Config { epochs: 0, ..small(&of_one) }, &mut |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(outcome.before.recall_at_1, 1.0);
    }
    assert_eq!(small(&of_one).by_chance(&of_one).recall_at_1, 1.0);
    let chance = small(&labels).by_chance(&labels);
    let plain_chance = small(&plain).by_chance(&plain);
    assert!((plain_chance.recall_at_10 - 10.0 / plain_chance.pairs as f64).abs() < 1e-15);
    assert!(chance.recall_at_1 > plain_chance.recall_at_1 && chance.pairs == plain_chance.pairs);

    let few = plain.clone().with_labels(vec![0; 3]).unwrap_err().to_string();
    assert!(few.starts_with("labels should be one for each pair"), "{few}");
    for bad in [-1.0, f32::NAN, f32::INFINITY] {
        let mut weights = vec![1.0; plain.len()];
        weights[9] = bad;
        let error = plain.clone().with_weights(weights).unwrap_err().to_string();
        assert!(error.starts_with("weights should be finite numbers from 0") && error.ends_with("in row 9"), "{error}");
    }
    let debiased = Config { loss: info_nce::Options { tau_plus: 0.1, ..config.loss }, ..config };
    assert!(debiased.check(&plain).is_ok());
    assert!(debiased.check(&labels).unwrap_err().to_string().contains("tau_plus"));
}

/// Embeddings that may be cut: the loss is the sum over all lengths, and each is measured.
#[test]
fn cut_embeddings_agree_with_the_reference() {
    let Some(gpu) = gpu() else { return };
    let pairs = mapped();
    let config = Config { matryoshka: vec![2, 3], epochs: 4, ..small(&pairs) };
    let queue = Config { queue: 40, hidden: 5, ..config.clone() };
    for config in [&config, &queue] {
        // The losses; what the whole and each length are worth before training and after each epoch; what came of it.
        let run = |gpu| {
            let (mut all, mut worth) = (Vec::new(), Vec::new());
            let outcome = fit(gpu, &pairs, config, &mut |event| {
                match event {
                    Event::Start { before, matryoshka, .. } => worth.push([&[before], matryoshka].concat()),
                    Event::Epoch { held_out, matryoshka, .. } => worth.push([&[held_out], matryoshka].concat()),
                    Event::Steps { losses, .. } => all.extend_from_slice(losses),
                    Event::Within { .. } => {}
                }
                ControlFlow::Continue(())
            });
            (all, worth, outcome.unwrap())
        };
        let ((device, on_device, outcome), (reference, by_reference, _)) = (run(Some(gpu)), run(None));
        agree(&device, &reference, 12, 1e-5);
        assert_eq!((on_device.len(), &on_device[0]), (5, &by_reference[0]));
        assert!(on_device[0][0] != on_device[0][1] && on_device[0][1] != on_device[0][2], "{on_device:?}");
        let best = [&[outcome.best], &outcome.matryoshka[..]].concat();
        assert_eq!(best, on_device[outcome.best_epoch]);
        let whole = Config { matryoshka: vec![], ..config.clone() };
        assert!(device[0] > 2.0 * losses(None, &pairs, &whole, 1).unwrap().0[0]);
    }

    for bad in [vec![0], vec![4], vec![2, 2]] {
        let error = Config { matryoshka: bad, ..small(&pairs) }.check(&pairs).unwrap_err().to_string();
        assert!(error.contains("matryoshka should be lengths from 1 to below dim, each once"), "{error}");
    }
    // Cut to a row's zeros it has no direction, where the map starts at the identity.
    let mut rows = vec![0.5; 40];
    rows[8..10].fill(0.0);
    let zeros = Pairs::new(rows, 4, vec![0.5; 40], 4).unwrap();
    let config = Config { matryoshka: vec![3, 2], ..Config::for_embeddings(&zeros) };
    let error = config.check(&zeros).unwrap_err().to_string();
    assert!(error.contains("within which no row is zero") && error.contains("2, of which"), "{error}");
    for fine in [Config { matryoshka: vec![3], ..config.clone() }, Config { hidden: 4, ..config }] {
        fine.check(&zeros).unwrap();
    }
}

/// A queue that fills, or a first batch of few pairs that is easy, raises the loss: nothing has run away then.
#[test]
fn what_raises_the_loss_is_not_taken_for_divergence() {
    let Some(gpu) = gpu() else { return };
    let mut random = Random::new(9, 0);
    let mut draw = |count: usize| -> Vec<f32> { (0..count).map(|_| 2.0 * random.uniform() - 1.0).collect() };
    let (queries, noise) = (draw(640 * 8), draw(640 * 8));
    let keys = queries.iter().zip(noise).map(|(query, noise)| query + noise).collect();
    let pairs = Pairs::new(queries, 8, keys, 8).unwrap();
    for (batch, queue) in [(64, 512), (16, 256), (2, 0), (4, 0)] {
        let config = Config { batch, queue, epochs: 2, ..Config::for_embeddings(&pairs) };
        let outcome = fit(Some(gpu), &pairs, &config, &mut |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(outcome.end, End::Finished, "batch {batch}, queue {queue}");
    }
}

/// What has been trained embeds other rows, on a device as on the CPU, and can be put together again from its tensors.
#[test]
fn a_model_embeds_rows() {
    let Some(gpu) = gpu() else { return };
    let pairs = mapped();
    let mut random = Random::new(11, 0);
    let rows: Vec<f32> = (0..9 * 4).map(|_| 2.0 * random.uniform() - 1.0).collect();
    for hidden in [0, 5] {
        let config = Config { hidden, dim: 3, ..small(&pairs) };
        let model = losses(Some(gpu), &pairs, &config, usize::MAX).unwrap().1.model;
        let tensors = model.tensors();
        let find = |wanted: &str| {
            let tensor = tensors.iter().find(|(name, ..)| name == wanted)?;
            Some((tensor.1.clone(), tensor.2.to_vec()))
        };
        assert_eq!(Model::from_tensors(find).unwrap(), model);
        let without = |wanted: &'static str| {
            let found = Model::from_tensors(|name: &str| if name == wanted { None } else { find(name) });
            found.unwrap_err().to_string()
        };
        assert!(without("key.output.bias").contains("key.output should be weight [outputs, inputs] and bias"));
        assert!(without("log_scale").contains("log_scale should be one number"));
        for tower in [&model.query, &model.key] {
            let (device, reference) = (tower.embed(Some(gpu), &rows).unwrap(), tower.embed(None, &rows).unwrap());
            assert_eq!(device.len(), 9 * 3);
            for (device, reference) in device.iter().zip(&reference) {
                assert!((device - reference).abs() < 1e-6, "{device}, reference {reference}");
            }
            assert!(tower.embed(Some(gpu), &[]).unwrap().is_empty());
            for (bad, words) in
                [(&rows[..7], "whole rows of 4"), (&[0.0, f32::NAN, 0.0, 0.0], "NaN in row 0, column 1")]
            {
                for gpu in [Some(gpu), None] {
                    let error = tower.embed(gpu, bad).unwrap_err().to_string();
                    assert!(error.contains(words), "{error}");
                }
            }
            let mut broken = tower.clone();
            if hidden == 0 {
                broken.output.weight.fill(2.0);
                let error = broken.embed(Some(gpu), &[&rows[..4], &[f32::MAX; 4]].concat()).unwrap_err().to_string();
                assert!(error.contains("f32 holds") && error.contains("row 1,"), "{error}");
            }
            broken.output.weight.pop();
            assert!(broken.embed(None, &rows).unwrap_err().to_string().contains("layers, each as wide"));
            broken = tower.clone();
            broken.output.inputs = 0;
            assert!(broken.embed(Some(gpu), &rows).is_err());
        }
    }
}

/// A temperature that would fall below its bound stays there, in what is told and in the weights.
#[test]
fn the_temperature_stays_within_its_bound() {
    let Some(gpu) = gpu() else { return };
    // Of equal queries and keys the loss falls as the scale grows.
    let mut random = Random::new(7, 0);
    let rows: Vec<f32> = (0..64 * 4).map(|_| 2.0 * random.uniform() - 1.0).collect();
    let pairs = Pairs::new(rows.clone(), 4, rows, 4).unwrap();
    let loss = info_nce::Options { max_scale: 15.0, ..small(&pairs).loss };
    let config =
        Config { loss, epochs: 8, rate: 0.1, optimizer: Optimizer::Adam(adam::Options::default()), ..small(&pairs) };
    for gpu in [Some(gpu), None] {
        let mut told = Vec::new();
        let outcome = fit(gpu, &pairs, &config, &mut |event| {
            if let Event::Epoch { temperature, model, .. } = event {
                told.push((temperature, model.log_scale));
            }
            ControlFlow::Continue(())
        });
        outcome.unwrap();
        assert!(told.iter().all(|&(temperature, log)| temperature >= 1.0 / 15.0 && log <= 15f32.ln()), "{told:?}");
        assert!(told.iter().any(|&(temperature, _)| temperature < 1.0001 / 15.0), "the bound is not met: {told:?}");
    }
}

/// A row of zeros has no direction, and its gradient would have no bound.
#[test]
fn rows_of_zeros_and_absurd_sizes_are_refused() {
    let error = Pairs::new(vec![1.0; 8], 2, vec![1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0], 2).unwrap_err().to_string();
    assert!(error.contains("keys") && error.contains("zeros in row 1"), "{error}");
    let pairs = mapped();
    for config in [
        Config { dim: 1_000_000_000, ..small(&pairs) },
        Config { hidden: usize::MAX, ..small(&pairs) },
        Config { queue: 1 << 40, ..small(&pairs) },
    ] {
        let error = config.check(&pairs).unwrap_err().to_string();
        assert!(["dim", "hidden", "queue"].iter().any(|name| error.contains(name)), "{error}");
    }
}

#[test]
fn an_optimizer_with_schedule_and_clipping_agrees_with_the_reference() {
    let Some(gpu) = gpu() else { return };
    let pairs = mapped();
    let sgd = sgd::Options { momentum: 0.9, nesterov: true, weight_decay: 0.01, ..Default::default() };
    let adam = adam::Options { decoupled: true, weight_decay: 0.1, ..Default::default() };
    for (optimizer, rate) in [(Optimizer::Sgd(sgd), 0.1), (Optimizer::Adam(adam), 0.01)] {
        let plain = Config { optimizer, rate, epochs: 6, hidden: 5, ..small(&pairs) };
        let schedule = Schedule { warm_up: 3, decay: Decay::Cosine, least: 0.1 };
        let config = Config { schedule, clip: Some(0.2), ..plain.clone() };
        let run = |gpu, config: &Config| losses(gpu, &pairs, config, usize::MAX).unwrap().0;
        let (device, reference) = (run(Some(gpu), &config), run(None, &config));
        agree(&device, &reference, 18, 1e-4);
        assert_ne!(reference, run(None, &Config { schedule, ..plain.clone() }), "clipping changes nothing");
        assert_ne!(reference, run(None, &Config { clip: Some(0.2), ..plain }), "the schedule changes nothing");
    }
}

/// A decay that takes all of a weight in each step takes nothing of biases and the temperature.
#[test]
fn biases_and_the_temperature_do_not_decay() {
    let pairs = mapped();
    let rate = 1e-3;
    let adam = adam::Options { decoupled: true, weight_decay: 1e3, ..Default::default() };
    let sgd = sgd::Options { weight_decay: 1e3, ..Default::default() };
    for (optimizer, gpu) in
        [Optimizer::Adam(adam), Optimizer::Sgd(sgd)].into_iter().flat_map(|of| [(of, None), (of, gpu())])
    {
        let config = Config { optimizer, rate, temperature: 0.5, hidden: 5, ..small(&pairs) };
        let mut last = None;
        let mut watch = |event: Event| {
            if let Event::Epoch { model, .. } = event {
                last = Some(model.clone());
            }
            ControlFlow::Continue(())
        };
        fit(gpu, &pairs, &config, &mut watch).unwrap();
        let model = last.unwrap();
        let hidden = model.query.hidden.unwrap();
        let largest = |values: &[f32]| values.iter().fold(0.0f32, |most, value| most.max(value.abs()));
        let (weight, bias) = (largest(&hidden.weight), largest(&hidden.bias));
        // Steps of Adam are as long as the rate at most, so that twelve of them add up to more.
        assert!(
            weight < 2e-3 && (bias > 2e-3 || matches!(optimizer, Optimizer::Sgd(_))),
            "{optimizer:?}: {weight}, {bias}"
        );
        assert!((model.log_scale - 2f32.ln()).abs() < 0.02, "{optimizer:?}: {}", model.log_scale);
    }
}

/// torch.optim.lr_scheduler of PyTorch 2.15: CosineAnnealingLR(T_max=10, eta_min=0.1), and LinearLR from 1 to 0.2 in 8 steps, at a rate of 1.
#[test]
fn schedules_are_those_of_pytorch() {
    let cosine = [
        1.0,
        0.977_975_432_332_819_1,
        0.914_057_647_468_726_3,
        0.814_503_363_531_612_9,
        0.689_057_647_468_726_3,
        0.55,
        0.410_942_352_531_273_74,
        0.285_496_636_468_387_2,
        0.185_942_352_531_273_72,
        0.122_024_567_667_180_92,
        0.1,
    ];
    let linear = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.2];
    for (decay, least, steps, want) in [(Decay::Cosine, 0.1, 10, &cosine[..]), (Decay::Linear, 0.2, 8, &linear)] {
        for (step, want) in want.iter().enumerate() {
            for warm_up in [0, 5] {
                let factor = Schedule { warm_up, decay, least }.factor(step + warm_up, steps + warm_up);
                assert!((factor - want).abs() < 1e-15, "{decay:?} {step}: {factor}, want {want}");
            }
        }
    }
    let warm = Schedule { warm_up: 4, ..Default::default() };
    assert_eq!([0, 1, 2, 3, 4, 90].map(|step| warm.factor(step, 8)), [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]);
}

#[test]
fn the_same_seed_gives_the_same_bits() {
    let Some(gpu) = gpu() else { return };
    let pairs = mapped();
    let run = |seed| losses(Some(gpu), &pairs, &Config { seed, hidden: 8, ..small(&pairs) }, usize::MAX).unwrap();
    let (first, second, other) = (run(1), run(1), run(2));
    assert_eq!(first, second);
    assert_ne!(first.0, other.0);
}

#[test]
fn training_from_the_identity_helps() {
    let Some(gpu) = gpu() else { return };
    let pairs = mapped();
    let config = Config { epochs: 30, ..small(&pairs) };
    let start = fit(Some(gpu), &pairs, &config, &mut |_| ControlFlow::Break(())).unwrap();
    let identity: Vec<f32> = (0..16).map(|at| if at % 5 == 0 { 1.0 } else { 0.0 }).collect();
    assert_eq!(start.model.query.output.weight, identity);
    assert_eq!(start.model.key.output.weight, identity);
    let (losses, outcome) = losses(Some(gpu), &pairs, &config, usize::MAX).unwrap();
    assert_eq!((outcome.end, outcome.before), (End::Finished, start.before));
    assert!(outcome.best.mean_reciprocal_rank > outcome.before.mean_reciprocal_rank);
    assert!(losses[losses.len() - 1] < 0.8 * losses[0]);
}

#[test]
fn a_rate_that_is_too_high_ends_the_training() {
    let Some(gpu) = gpu() else { return };
    let pairs = mapped();
    let config = Config { rate: f64::from(f32::MAX), ..small(&pairs) };
    let outcome = fit(Some(gpu), &pairs, &config, &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(matches!(outcome.end, End::Diverged(_)), "{:?}", outcome.end);
    assert!(outcome.model.tensors().iter().all(|(.., data)| data.iter().all(|value| value.is_finite())));
}

#[test]
fn the_callback_can_stop_it() {
    let Some(gpu) = gpu() else { return };
    let pairs = mapped();
    let outcome = fit(Some(gpu), &pairs, &small(&pairs), &mut |_| ControlFlow::Break(())).unwrap();
    assert_eq!((outcome.end, outcome.best_epoch), (End::Stopped, 0));
}

#[test]
fn bad_pairs_and_options_are_refused() {
    let said = |error: wgloss::Error| error.to_string();
    assert!(said(Pairs::new(vec![0.0; 7], 2, vec![0.0; 8], 2).unwrap_err()).contains("whole rows of 2"));
    assert!(said(Pairs::new(vec![1.0; 6], 2, vec![1.0; 8], 2).unwrap_err()).contains("as many rows"));
    let bad = vec![0.0, 1.0, 2.0, f32::INFINITY];
    assert!(said(Pairs::new(vec![1.0; 4], 2, bad, 2).unwrap_err()).contains("inf in row 1, column 1"));
    let pairs = mapped();
    let refused = |config: Config| said(config.check(&pairs).unwrap_err());
    assert!(refused(Config { batch: 52, ..small(&pairs) }).contains("52 with 51 pairs"));
    assert!(refused(Config { batch: 0, ..small(&pairs) }).contains("batch"));
    assert!(refused(Config { held_out: 1.0, ..small(&pairs) }).contains("held_out"));
    assert!(refused(Config { dim: 0, ..small(&pairs) }).contains("dim"));
    assert!(refused(Config { temperature: f32::NAN, ..small(&pairs) }).contains("temperature"));
    assert!(refused(Config { rate: -1.0, ..small(&pairs) }).contains("rate"));
}
