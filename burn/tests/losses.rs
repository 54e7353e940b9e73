//! Values and gradients beside the same losses put together from burn's own operations.

use std::sync::OnceLock;

use burn::module::{Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::activation::{log_sigmoid, log_softmax};
use burn::tensor::{DType, Device, DeviceKind, Distribution, Int, Tensor, TensorData};
use wgloss::Reduction;
use wgloss::reference::info_nce as reference;
use wgloss_burn::{
    Batch, Error, Layer, Learned, Target, Weights, cross_entropy, info_nce, kl, linear_cross_entropy, linear_kl,
    siglip, wgloss,
};

/// Opened once for all tests.
fn device() -> Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    DEVICE.get_or_init(|| wgloss_burn::device().expect("the default adapter opens")).clone().autodiff()
}

fn random(shape: [usize; 2]) -> Tensor<2> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &device()).require_grad()
}

/// The same without a gradient.
fn fixed(shape: [usize; 2]) -> Tensor<2> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &device())
}

fn number(value: f32) -> Tensor<1> {
    Tensor::from_floats([value], &device()).require_grad()
}

fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().try_to_vec().unwrap()
}

#[track_caller]
fn close<const D: usize>(what: &str, ours: Tensor<D>, theirs: Tensor<D>) {
    assert_eq!(ours.dims(), theirs.dims(), "{what}");
    let (ours, theirs) = (floats(ours), floats(theirs));
    let scale = theirs.iter().fold(0.0f32, |most, value| most.max(value.abs()));
    assert!(scale > 0.0, "{what}: nothing to compare with");
    for (index, (a, b)) in ours.iter().zip(&theirs).enumerate() {
        assert!((a - b).abs() <= 2e-5 * scale, "{what}[{index}]: {a}, composed {b}, largest {scale}");
    }
}

/// Compares a loss and its gradients with those of its composition, at an upstream gradient that is not one.
#[track_caller]
fn same(inputs: &[(&str, Tensor<2>)], numbers: &[(&str, Tensor<1>)], ours: Tensor<1>, theirs: Tensor<1>) {
    close("loss", ours.clone(), theirs.clone());
    let weight = Tensor::<1>::random(ours.dims(), Distribution::Uniform(0.5, 2.0), &device());
    let (ours, theirs) = ((ours * weight.clone()).sum().backward(), (theirs * weight).sum().backward());
    for (name, input) in inputs {
        close(name, input.grad(&ours).unwrap(), input.grad(&theirs).unwrap());
    }
    for (name, input) in numbers {
        close(name, input.grad(&ours).unwrap(), input.grad(&theirs).unwrap());
    }
}

/// −Σ w_ij log softmax(s)_ij over the diagonal, the mean of the rows.
fn diagonal(scores: Tensor<2>) -> Tensor<1> {
    let [n, _] = scores.dims();
    let own = Tensor::<2>::eye(n, &device());
    (log_softmax(scores, 1) * own).sum().neg() / n as f32
}

#[test]
fn contrastive() {
    let (q, k, log_scale) = (random([67, 33]), random([67, 33]), number(0.5));
    let options = wgloss::info_nce::Options { symmetric: true, ..Default::default() };
    let ours = info_nce(Batch::new(q.clone(), k.clone()).scaled(log_scale.clone()), options).unwrap();
    let scores = q.clone().matmul(k.clone().transpose()) * log_scale.clone().exp().reshape([1, 1]);
    let theirs = (diagonal(scores.clone()) + diagonal(scores.transpose())) / 2.0;
    same(&[("queries", q), ("keys", k)], &[("log_scale", log_scale)], ours, theirs);
}

/// Compares with the formula in f64: of those that vary what the loss is given, which burn's kernels would take long to compile. `given` is
/// all but queries, keys and shared negatives.
#[track_caller]
fn as_reference(batch: Batch, options: wgloss::info_nce::Options, given: reference::Batch<f64>) {
    let (q, k, shared) = (batch.queries.clone(), batch.keys.clone(), batch.shared.clone());
    let wide = |tensor: &Tensor<2>| floats(tensor.clone()).into_iter().map(f64::from).collect::<Vec<_>>();
    let (wide_q, wide_k, wide_shared) = (wide(&q), wide(&k), shared.as_ref().map(wide).unwrap_or_default());
    let negatives = reference::Negatives { k: &wide_shared, ..Default::default() };
    let truth = reference::Batch { q: &wide_q, k: &wide_k, dim: q.dims()[1], shared: negatives, ..given };
    let (loss, gradients) = (reference::forward(truth, options), reference::backward(truth, &[], options));

    let ours = info_nce(batch, options).unwrap();
    near("loss", ours.clone(), &loss);
    let found = ours.backward();
    let pairs =
        [("queries", Some(q), gradients.dq), ("keys", Some(k), gradients.dk), ("shared", shared, gradients.d_shared)];
    for (name, input, truth) in pairs {
        if let Some(gradient) = input.and_then(|input| input.grad(&found)) {
            near(name, gradient, &truth);
        }
    }
}

#[track_caller]
fn near<const D: usize>(what: &str, ours: Tensor<D>, truth: &[f64]) {
    let ours = floats(ours);
    let scale = truth.iter().fold(0.0f64, |most, value| most.max(value.abs()));
    assert!(scale > 0.0 && ours.len() == truth.len(), "{what}: nothing to compare with");
    for (index, (a, b)) in ours.iter().zip(truth).enumerate() {
        assert!((f64::from(*a) - b).abs() <= 5e-6 * scale, "{what}[{index}]: {a}, {b} in f64, largest {scale}");
    }
}

fn numbers(count: i32, of: fn(i32) -> i32) -> (Tensor<1, Int>, Vec<u32>) {
    let all: Vec<i32> = (0..count).map(of).collect();
    (Tensor::from_ints(all.as_slice(), &device()), all.iter().map(|&one| one as u32).collect())
}

#[test]
fn contrastive_with_further_negatives() {
    let batch = Batch { shared: Some(random([50, 24])), ..Batch::new(random([40, 24]), random([40, 24])) };
    let options = wgloss::info_nce::Options { temperature: 0.5, ..Default::default() };
    as_reference(batch, options, reference::Batch::new(&[], &[], 24));
}

/// All that is given as whole numbers: the keys of a query's group are its positives, those of its id are left out.
#[test]
fn contrastive_by_groups_and_ids() {
    let (groups, groups_wide) = numbers(30, |row| row % 7);
    let (ids, ids_wide) = numbers(30, |row| row % 5);
    let (of_groups, of_ids) = (Some((groups.clone(), groups)), Some((ids.clone(), ids)));
    let batch = Batch { groups: of_groups, ids: of_ids, ..Batch::new(random([30, 16]), random([30, 16])) };
    let options = wgloss::info_nce::Options { temperature: 1.0, ..Default::default() };
    let given = reference::Batch {
        positive: reference::Positive::Groups(&groups_wide, &groups_wide),
        ids: Some((&ids_wide, &ids_wide)),
        ..reference::Batch::new(&[], &[], 16)
    };
    as_reference(batch, options, given);
}

#[test]
fn contrastive_by_index_with_weights() {
    let (index, index_wide) = numbers(30, |row| (row * 7 + 3) % 44);
    let (weight, log_q) = (floats(fixed([30, 1]).abs()), floats(fixed([44, 1])));
    let column = |values: &[f32]| Some(Tensor::<1>::from_floats(values, &device()));
    let batch = Batch {
        index: Some(index),
        weight: column(&weight),
        log_q: column(&log_q),
        ..Batch::new(random([30, 16]), random([44, 16]))
    };
    let [weight, log_q] = [weight, log_q].map(|values| values.into_iter().map(f64::from).collect::<Vec<_>>());
    let given = reference::Batch {
        positive: reference::Positive::Index(&index_wide),
        weight: &weight,
        log_q: &log_q,
        ..reference::Batch::new(&[], &[], 16)
    };
    as_reference(batch, wgloss::info_nce::Options { temperature: 1.0, ..Default::default() }, given);
}

/// The keys are the queries: two gradients meet in one tensor.
#[test]
fn contrastive_with_itself() {
    let x = random([20, 8]);
    let options = wgloss::info_nce::Options { temperature: 2.0, ..Default::default() };
    let wide: Vec<f64> = floats(x.clone()).into_iter().map(f64::from).collect();
    let truth = reference::backward(reference::Batch::new(&wide, &wide, 8), &[], options);
    let loss = info_nce(Batch::new(x.clone(), x.clone()), options).unwrap();
    let sum: Vec<f64> = truth.dq.iter().zip(&truth.dk).map(|(a, b)| a + b).collect();
    near("rows", x.grad(&loss.backward()).unwrap(), &sum);
}

#[test]
fn sigmoid_of_pairs() {
    let (q, k, log_scale, bias) = (random([45, 20]), random([45, 20]), number(0.3), number(-2.0));
    let learned = Learned { log_scale: Some(log_scale.clone()), bias: Some(bias.clone()) };
    let ours = siglip(q.clone(), k.clone(), learned, Default::default()).unwrap();
    let scores = q.clone().matmul(k.clone().transpose()) * log_scale.clone().exp().reshape([1, 1]);
    let signs = Tensor::<2>::eye(45, &device()) * 2.0 - 1.0;
    let theirs = log_sigmoid((scores + bias.clone().reshape([1, 1])) * signs).sum().neg() / 45.0;
    same(&[("queries", q), ("keys", k)], &[("log_scale", log_scale), ("bias", bias)], ours, theirs);
}

#[test]
fn class_ids_and_shares() {
    let x = random([37, 50]);
    let ids: Vec<i32> = (0..37).map(|row| row * 7 % 50).collect();
    let ids = Tensor::<1, Int>::from_ints(ids.as_slice(), &device());
    let chosen = |x: Tensor<2>| log_softmax(x, 1).gather(1, ids.clone().reshape([37, 1])).neg().reshape([37]);
    let options = wgloss::cross_entropy::Options { reduction: Reduction::None, ..Default::default() };
    let ours = cross_entropy(x.clone(), ids.clone(), Weights::default(), options).unwrap();
    same(&[("logits", x.clone())], &[], ours, chosen(x.clone()));

    let class = Tensor::<1>::random([50], Distribution::Uniform(0.5, 2.0), &device());
    let weights = Weights { class: Some(class.clone()), row: None };
    let ours = cross_entropy(x.clone(), ids.clone(), weights, Default::default()).unwrap();
    let each = class.select(0, ids.clone());
    let theirs = (chosen(x.clone()) * each.clone()).sum() / each.sum();
    same(&[("logits", x.clone())], &[], ours, theirs);

    let shares = burn::tensor::activation::softmax(fixed([37, 50]), 1);
    let ours = cross_entropy(x.clone(), Target::from(shares.clone()), Weights::default(), Default::default()).unwrap();
    let theirs = (log_softmax(x.clone(), 1) * shares).sum().neg() / 37.0;
    same(&[("logits", x)], &[], ours, theirs);
}

#[test]
fn classes_of_a_layer() {
    let (x, w) = (random([37, 20]), random([50, 20]));
    let b = Tensor::<1>::random([50], Distribution::Normal(0.0, 1.0), &device()).require_grad();
    let ids: Vec<i32> = (0..37).map(|row| row * 7 % 50).collect();
    let ids = Tensor::<1, Int>::from_ints(ids.as_slice(), &device());
    let turned = random([20, 50]);
    let logits = |w: Tensor<2>| x.clone().matmul(w) + b.clone().unsqueeze_dim(0);
    let layer = [("x", x.clone()), ("w", w.clone())];

    let of = |logits| log_softmax(logits, 1).gather(1, ids.clone().reshape([37, 1])).mean().neg();
    let tied = Layer::tied(x.clone(), w.clone()).biased(b.clone());
    let ours = linear_cross_entropy(tied, ids.clone(), Weights::default(), Default::default()).unwrap();
    same(&layer, &[("b", b.clone())], ours, of(logits(w.clone().transpose())));
    let linear = Layer::new(x.clone(), turned.clone()).biased(b.clone());
    let ours = linear_cross_entropy(linear, ids.clone(), Weights::default(), Default::default()).unwrap();
    same(&[("x", x.clone()), ("w", turned.clone())], &[("b", b.clone())], ours, of(logits(turned)));

    let shares = burn::tensor::activation::softmax(fixed([37, 50]), 1);
    let row = Tensor::<1>::random([37], Distribution::Uniform(0.5, 2.0), &device());
    let (weights, target) = (Weights { class: None, row: Some(row.clone()) }, Target::from(shares.clone()));
    let plain = Layer::tied(x.clone(), w.clone());
    let ours = linear_cross_entropy(plain, target, weights, Default::default()).unwrap();
    let of_rows = (log_softmax(x.clone().matmul(w.clone().transpose()), 1) * shares).sum_dim(1).reshape([37]);
    same(&layer, &[], ours, (of_rows * row.clone()).sum().neg() / row.sum());

    let none = wgloss::linear_cross_entropy::Options { reduction: Reduction::None, ..Default::default() };
    let refused =
        linear_cross_entropy(Layer::tied(x.clone(), w.clone()), ids.clone(), Weights::default(), none).unwrap_err();
    assert!(refused.to_string().contains("Sum, Mean or BatchMean"), "{refused}");
    let turned = linear_cross_entropy(Layer::new(x, w), ids, Weights::default(), Default::default()).unwrap_err();
    let expected = "linear_cross_entropy: w should be 20 x classes, with a class at least, found 50 x 20";
    assert_eq!(turned.to_string(), expected);
}

#[test]
fn divergence_of_layers() {
    let (x, w, teacher_x, teacher_w) = (random([37, 20]), random([50, 20]), fixed([37, 30]), fixed([30, 50]));
    let b = Tensor::<1>::random([50], Distribution::Normal(0.0, 1.0), &device()).require_grad();
    let options = wgloss::linear_kl::Options { temperature: 2.0, scale_t2: true, ..Default::default() };
    let student = Layer::tied(x.clone(), w.clone()).biased(b.clone());
    let ours = linear_kl(student, Layer::new(teacher_x.clone(), teacher_w.clone()), options).unwrap();
    let q = log_softmax((x.clone().matmul(w.clone().transpose()) + b.clone().unsqueeze_dim(0)) / 2.0, 1);
    let p = log_softmax(teacher_x.matmul(teacher_w) / 2.0, 1);
    let theirs = (p.clone().exp() * (p - q)).sum() * 4.0 / 37.0;
    same(&[("x", x), ("w", w)], &[("b", b)], ours, theirs);
}

#[test]
fn divergence() {
    let (x, t) = (random([29, 70]), random([29, 70]));
    let options =
        wgloss::kl::Options { temperature: 2.0, scale_t2: true, reduction: Reduction::Rows, ..Default::default() };
    let ours = kl(x.clone(), t.clone(), options).unwrap();
    let (q, p) = (log_softmax(x.clone() / 2.0, 1), log_softmax(t.clone() / 2.0, 1));
    let theirs = (p.clone().exp() * (p - q)).sum_dim(1).reshape([29]) * 4.0;
    same(&[("x", x), ("t", t)], &[], ours, theirs);
}

/// Strides that are not those of a matrix, and a part of a tensor.
#[test]
fn transposed_and_cut() {
    let (q, k) = (random([24, 40]), random([60, 24]));
    let (a, b) = (q.clone().transpose(), k.clone().slice([10..50, 0..24]));
    let (a, b) = (floats(a), floats(b));
    let plain =
        |data: &[f32]| Tensor::<2>::from_data(TensorData::new(data.to_vec(), [40, 24]), &device()).require_grad();
    let (a, b) = (plain(&a), plain(&b));
    let expected = info_nce(Batch::new(a.clone(), b.clone()), Default::default()).unwrap();
    let ours =
        info_nce(Batch::new(q.clone().transpose(), k.clone().slice([10..50, 0..24])), Default::default()).unwrap();
    assert_eq!(floats(ours.clone()), floats(expected.clone()));
    let (ours, expected) = (ours.backward(), expected.backward());
    let (dq, dk) = (q.grad(&ours).unwrap().transpose(), k.grad(&ours).unwrap());
    assert_eq!(floats(dq), floats(a.grad(&expected).unwrap()));
    assert_eq!(floats(dk.clone().slice([10..50, 0..24])), floats(b.grad(&expected).unwrap()));
    assert!(floats(dk.slice([0..10, 0..24])).iter().all(|value| *value == 0.0));
}

/// A side that asks for no gradient gets none, and without autodiff there is only the value.
#[test]
fn frozen() {
    let (q, k) = (random([16, 8]), fixed([16, 8]));
    let loss = info_nce(Batch::new(q.clone(), k.clone()), Default::default()).unwrap();
    let gradients = loss.clone().backward();
    assert!(q.grad(&gradients).is_some() && k.grad(&gradients).is_none());
    let plain = info_nce(Batch::new(q.inner(), k.inner()), Default::default()).unwrap();
    assert!(!plain.device().is_autodiff());
    assert_eq!(floats(plain), floats(loss));
}

/// 16 bits: the gradient of the mean over many rows would vanish in f16 before it meets the upstream gradient that saves it.
#[test]
fn half_precision() {
    if !device().supports_dtype(DType::F16) {
        return;
    }
    let wide = fixed([512, 8]).cast(DType::F16).into_data();
    let load = || Tensor::<2>::from_data(wide.clone(), (&device(), DType::F16));
    let (q, k) = (load().require_grad(), load());
    let options = wgloss::info_nce::Options { temperature: 10.0, ..Default::default() };
    let loss = info_nce(Batch::new(q.clone(), k.clone()), options).unwrap();
    let gradient = q.grad(&(loss * 65536.0).backward()).unwrap();
    assert_eq!(gradient.dtype(), DType::F16);
    let wide: Vec<f64> = wide.convert::<f64>().try_to_vec().unwrap();
    let truth = reference::backward(reference::Batch::new(&wide, &wide, 8), &[65536.0], options).dq;
    let scale = truth.iter().fold(0.0f64, |most, value| most.max(value.abs()));
    let found = floats(gradient);
    assert!(found.iter().zip(&truth).all(|(a, b)| (f64::from(*a) - b).abs() <= 1e-3 * scale), "{found:?}, {truth:?}");
}

/// Memory that is given back at once is used again by what follows on the same queue, never by the loss that still reads it.
#[test]
fn tensors_dropped_early() {
    let data: Vec<TensorData> = (0..2).map(|_| fixed([200, 64]).into_data()).collect();
    let load = |index: usize| Tensor::<2>::from_data(data[index].clone(), &device()).require_grad();
    let expected = floats(info_nce(Batch::new(load(0), load(1)), Default::default()).unwrap());
    let losses: Vec<Tensor<1>> = (0..20)
        .map(|_| {
            let loss = info_nce(Batch::new(load(0), load(1)), Default::default()).unwrap();
            drop(Tensor::<2>::ones([200, 64], &device()) * 3.0);
            loss.detach()
        })
        .collect();
    for loss in losses {
        assert_eq!(floats(loss), expected);
    }
}

/// burn gives each thread a stream of commands of its own.
#[test]
fn tensors_of_other_threads() {
    let data: Vec<TensorData> = (0..2).map(|_| fixed([100, 32]).into_data()).collect();
    let load = |index: usize| Tensor::<2>::from_data(data[index].clone(), &device()) * 2.0;
    let expected = floats(info_nce(Batch::new(load(0), load(1)), Default::default()).unwrap());
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let (q, k) = (load(0), scope.spawn(|| load(1)).join().unwrap());
                    floats(info_nce(Batch::new(q, k), Default::default()).unwrap())
                })
            })
            .collect();
        for thread in threads {
            assert_eq!(thread.join().unwrap(), expected);
        }
    });
}

#[test]
fn refusals() {
    let said = |result: wgloss_burn::Result<Tensor<1>>| result.unwrap_err().to_string();
    let (q, k) = (random([4, 3]), random([4, 5]));
    let message = said(info_nce(Batch::new(q.clone(), k.clone()), Default::default()));
    assert_eq!(message, "info_nce: keys should be 4 x 3, found 4 x 5");
    let options = wgloss::info_nce::Options { reduction: Reduction::None, ..Default::default() };
    let message = said(info_nce(Batch::new(q.clone(), q.clone()), options));
    assert_eq!(message, "info_nce: reduction should be Sum, Mean or BatchMean, found None");
    let options = wgloss::info_nce::Options { temperature: 0.0, ..Default::default() };
    assert!(said(info_nce(Batch::new(q.clone(), q.clone()), options)).contains("temperature"));
    let few = Tensor::<1, Int>::from_ints([1, 2], &device());
    let message = said(cross_entropy(q.clone(), few.clone(), Weights::default(), Default::default()));
    assert_eq!(message, "cross_entropy: target should be 4 x 1, found 2 x 1");
    let wide = Weights { class: Some(Tensor::ones([7], &device())), row: None };
    let message = said(cross_entropy(q.clone(), Tensor::from_ints([1, 2, 0, 1], &device()), wide, Default::default()));
    assert_eq!(message, "cross_entropy: weights.class should be 1 x 3, found 1 x 7");
    if !device().supports_dtype(DType::BF16) {
        let narrow = Tensor::<2>::from_data(TensorData::from([[1f32; 3]; 4]), (&device(), DType::BF16));
        let message = said(cross_entropy(narrow, few, Weights::default(), Default::default()));
        assert!(message.contains("a type that burn has on this device"), "{message}");
    }

    let elsewhere = Tensor::<2>::ones([4, 3], &Device::wgpu(DeviceKind::Cpu));
    let unknown = info_nce(Batch::new(elsewhere.clone(), elsewhere.clone()), Default::default()).unwrap_err();
    assert!(matches!(unknown, Error::UnknownDevice { .. }) && unknown.to_string().contains("wgloss_burn::device()"));
    let mixed = info_nce(Batch::new(q.clone(), elsewhere), Default::default()).unwrap_err();
    assert!(matches!(mixed, Error::Devices { what: "keys", .. }), "{mixed}");
    let again = wgloss_burn::open(Device::wgpu_options()).unwrap_err();
    assert!(again.to_string().contains("before the first tensor"), "{again}");
    assert_eq!(wgloss_burn::device().unwrap().autodiff(), device());

    // and nothing of it stays
    assert!(info_nce(Batch::new(q.clone(), q), Default::default()).is_ok());
}

#[derive(Module, Debug)]
struct Towers {
    left: Linear,
    right: Linear,
    log_scale: Param<Tensor<1>>,
}

/// Two linear towers over noisy halves of the same rows, with a learned temperature.
#[test]
fn a_training_loop_learns() {
    let device = device();
    let rows = Tensor::<2>::random([256, 16], Distribution::Normal(0.0, 1.0), &device);
    let noise = || Tensor::<2>::random([256, 16], Distribution::Normal(0.0, 0.1), &device);
    let (a, b) = (rows.clone() + noise(), rows + noise());
    let tower = || LinearConfig::new(16, 8).init(&device);
    let log_scale = Param::from_tensor(Tensor::from_floats([0.0], &device));
    let mut towers = Towers { left: tower(), right: tower(), log_scale };
    let mut optimizer = AdamConfig::new().init();
    let mut losses = Vec::new();
    for _ in 0..60 {
        let (q, k) = (towers.left.forward(a.clone()), towers.right.forward(b.clone()));
        let options = wgloss::info_nce::Options { symmetric: true, normalize: true, ..Default::default() };
        let loss = info_nce(Batch::new(q, k).scaled(towers.log_scale.val()), options).unwrap();
        losses.push(floats(loss.clone())[0]);
        let gradients = GradientsParams::from_grads(loss.backward(), &towers);
        towers = optimizer.step(0.05, towers, gradients);
    }
    let (first, last) = (losses[0], losses[losses.len() - 1]);
    assert!(last < 0.2 * first, "{first} to {last}");
    assert!(floats(towers.log_scale.val())[0] > 0.5);
}
