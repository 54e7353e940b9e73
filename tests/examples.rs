//! What the examples say of themselves.

#[path = "../examples/embed.rs"]
mod embed;
#[path = "../examples/gradcache.rs"]
mod gradcache;

#[path = "../examples/next_token.rs"]
mod next_token;

use crate::harness::{gpu, wide};

#[test]
fn micro_batches_give_the_gradients_of_the_whole_batch() {
    let Some(gpu) = gpu() else { return };
    let pairs = gradcache::pairs();
    let whole = gradcache::gradients(gpu, &pairs, 16, pairs.rows).unwrap();
    let parts = gradcache::gradients(gpu, &pairs, 16, 500).unwrap(); // the last micro-batch is smaller
    assert_eq!(whole.loss, parts.loss);
    assert!(parts.difference(&whole) < 1e-6, "{:e}", parts.difference(&whole)); // sums in another order
    assert!(3 * parts.activation_bytes < whole.activation_bytes);
}

#[test]
fn a_loss_between_two_passes_of_a_program() {
    let Some(gpu) = gpu() else { return };
    let (device, queue) = embed::device(Some(&gpu.info().name));
    let app = embed::App::new(device, queue).unwrap();
    let losses: Vec<f32> = (0..60).map(|step| app.step(step).and_then(|()| app.loss()).unwrap()).collect();
    assert!(losses[59] < 0.7 * losses[0], "{losses:?}");
    let [left, right] = [&app.left, &app.right].map(|buffer| wide(&app.read(buffer).unwrap()));
    let batch = wgloss::reference::info_nce::Batch::new(&left, &right, embed::DIM);
    let want = wgloss::reference::info_nce::forward(batch, embed::options())[0];
    assert!((f64::from(losses[59]) - want).abs() < 1e-5 * want, "{losses:?}, {want}");
}

#[test]
fn a_language_model_learns() {
    let Some(gpu) = gpu() else { return };
    let text = next_token::Text::new(&next_token::documents());
    let (vocabulary, words) = (text.vocabulary.len(), &text.words);
    let (train, held_out) = words.split_at(words.len() / 10 * 9);
    let mut model = next_token::Model::new(gpu, vocabulary).unwrap();
    let [untrained, _] = model.measure(gpu, held_out).unwrap();
    assert!((untrained - vocabulary as f64).abs() < 0.1 * vocabulary as f64, "{untrained} of {vocabulary}");
    let mut random = wgloss::Random::new(1, 1);
    let losses: Vec<f64> = (0..3).map(|_| model.epoch(gpu, train, &mut random).unwrap()).collect();
    assert!(losses.windows(2).all(|pair| pair[1] < pair[0]), "{losses:?}");
    let ([perplexity, right], by_frequency) =
        (model.measure(gpu, held_out).unwrap(), next_token::unigram(train, held_out, vocabulary));
    assert!(perplexity < by_frequency && right > 0.05, "{perplexity} for {by_frequency}, {right}");
}
