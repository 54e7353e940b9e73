use wgloss::reference::siglip::Learned;
use wgloss::siglip::Options;
use wgloss::verify::Fill;
use wgloss::{Reduction, normalize, reference};

use crate::golden::{self, Case, Found, Kind};
use crate::harness::*;

pub struct Batch<'a> {
    pub q: &'a [f32],
    pub k: &'a [f32],
    pub dim: usize,
    pub learned: Learned<f32>,
    /// Empty: absent.
    pub dy: &'a [f32],
}

/// The loss, dq, dk, d_log_scale and d_bias.
pub fn by_reference(batch: &Batch, options: Options) -> [Vec<f64>; 5] {
    of_rows(&wide(batch.q), &wide(batch.k), batch, options)
}

fn of_rows(q: &[f64], k: &[f64], batch: &Batch, options: Options) -> [Vec<f64>; 5] {
    let learned =
        Learned { log_scale: batch.learned.log_scale.map(f64::from), bias: batch.learned.bias.map(f64::from) };
    let loss = reference::siglip::forward(q, k, batch.dim, learned, options);
    let found = reference::siglip::backward(q, k, batch.dim, learned, &wide(batch.dy), options);
    [loss, found.dq, found.dk, vec![found.d_log_scale], vec![found.d_bias]]
}

/// The bank's loss of rows that may have to be normalised first; gradients are of the rows as given.
fn outputs(case: &Case, compute: impl Fn(&Batch, bool, Options) -> [Vec<f64>; 5]) -> Found {
    let (q, k) = (case.input("img"), case.input("txt"));
    let learned = Learned { log_scale: Some(case.input("t_prime").data[0]), bias: Some(case.input("bias").data[0]) };
    let batch = Batch { q: &q.data, k: &k.data, dim: q.shape[1], learned, dy: &[] };
    let options = Options { max_scale: f32::MAX, ..Default::default() };
    let [loss, dq, dk, d_log_scale, d_bias] = compute(&batch, case.flag("normalize"), options);
    Ok(vec![
        ("loss", Kind::Value, loss),
        ("img", Kind::Grad, dq),
        ("txt", Kind::Grad, dk),
        ("t_prime", Kind::Grad, d_log_scale),
        ("bias", Kind::Grad, d_bias),
    ])
}

#[test]
fn golden_reference() {
    golden::grade_reference("siglip", 1e-6, |case| {
        outputs(case, |batch, normalized, options| {
            if !normalized {
                return by_reference(batch, options);
            }
            let (q, k, dim, eps) = (wide(batch.q), wide(batch.k), batch.dim, normalize::Options::default());
            let unit = |x: &[f64]| reference::normalize::forward(x, dim, eps);
            let [loss, dq, dk, d_log_scale, d_bias] = of_rows(&unit(&q), &unit(&k), batch, options);
            let back = |x: &[f64], dy: &[f64]| reference::normalize::backward(x, dy, dim, eps);
            [loss, back(&q, &dq), back(&k, &dk), d_log_scale, d_bias]
        })
    });
}

#[test]
fn reference_gradient() {
    let [q, k] = [(4, 1), (6, 2)].map(|(rows, seed)| wide(&Fill::Small.matrix(rows, 3, seed)));
    let constant = Options { temperature: 0.5, bias: -0.7, ..Default::default() };
    for (reduction, count) in losses_of(4, 1) {
        let dy = wide(&Fill::Small.matrix(count, 1, 3));
        for learned in [Learned::default(), Learned { log_scale: Some(0.3), bias: Some(0.4) }] {
            let options = Options { reduction, ..constant };
            let loss = |q: &[f64], k: &[f64], learned| dot(&reference::siglip::forward(q, k, 3, learned, options), &dy);
            let found = reference::siglip::backward(&q, &k, 3, learned, &dy, options);
            assert_gradient(&q, &found.dq, |q| loss(q, &k, learned));
            assert_gradient(&k, &found.dk, |k| loss(&q, k, learned));
            let (log_scale, bias) = (learned.log_scale.unwrap_or(2f64.ln()), learned.bias.unwrap_or((-0.7f32).into()));
            assert_gradient(&[log_scale, bias], &[found.d_log_scale, found.d_bias], |at| {
                loss(&q, &k, Learned { log_scale: Some(at[0]), bias: Some(at[1]) })
            });
        }
    }
}

#[test]
fn reference_clamps_the_scale() {
    let [q, k] = [1, 2].map(|seed| Fill::Small.matrix(4, 3, seed));
    let options = Options { reduction: Reduction::Sum, max_scale: 10.0, ..Default::default() };
    let of = |log_scale| {
        let learned = Learned { log_scale, bias: None };
        by_reference(&Batch { q: &q, k: &k, dim: 3, learned, dy: &[] }, Options { temperature: 0.1, ..options })
    };
    let ([loss, dq, dk, d_log_scale, d_bias], want) = (of(Some(5.0)), of(None));
    for (found, want) in [loss, dq, dk].iter().zip(&want) {
        assert_close(found, want, 1e-6);
    }
    assert_close(&d_bias, &want[4], 1e-6);
    assert_eq!(d_log_scale, [0.0]);
}
