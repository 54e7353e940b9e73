use wgloss::l2::Options;
use wgloss::verify::Fill;
use wgloss::{Reduction, reference};

use crate::golden::{self, Case, Found, Kind, rows_of};
use crate::harness::*;

/// The loss, dx and dt; `dy` is empty for ones.
pub fn by_reference(x: &[f32], t: &[f32], cols: usize, dy: &[f32], options: Options) -> [Vec<f64>; 3] {
    let (x, t) = (wide(x), wide(t));
    let loss = reference::l2::forward(&x, &t, cols, options);
    let [dx, dt] = reference::l2::backward(&x, &t, cols, &wide(dy), options);
    [loss, dx, dt]
}

fn outputs(case: &Case, compute: impl Fn(&[f32], &[f32], usize, &[f32], Options) -> [Vec<f64>; 3]) -> Found {
    let (x, t) = (case.input("x"), case.input("t"));
    let (_, cols, _) = rows_of(&x.shape, -1, &x.data);
    let options = Options { reduction: case.reduction(), ..Default::default() };
    let [loss, dx, dt] = compute(&x.data, &t.data, cols, &case.gy(), options);
    Ok(vec![("loss", Kind::Value, loss), ("x", Kind::Grad, dx), ("t", Kind::Grad, dt)])
}

#[test]
fn golden_reference() {
    golden::grade_reference("mse", 1e-6, |case| outputs(case, by_reference));
}

#[test]
fn reference_gradient() {
    let [x, t] = [1, 2].map(|seed| wide(&Fill::Small.matrix(3, 4, seed)));
    for (reduction, count) in losses_of(3, 4) {
        for factor in [1.0, 0.5] {
            let options = Options { reduction, factor, ..Default::default() };
            let dy = wide(&Fill::Small.matrix(count, 1, 3));
            let [dx, dt] = reference::l2::backward(&x, &t, 4, &dy, options);
            assert_gradient(&x, &dx, |x| dot(&reference::l2::forward(x, &t, 4, options), &dy));
            assert_gradient(&t, &dt, |t| dot(&reference::l2::forward(&x, t, 4, options), &dy));
        }
    }
}

/// How the one number comes from the elements.
#[test]
fn reference_reductions() {
    let (x, t) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [0.0; 6]);
    let of = |reduction| by_reference(&x, &t, 3, &[], Options { reduction, factor: 0.5, ..Default::default() });
    let [loss, dx, _] = of(Reduction::None);
    assert_eq!((loss, dx), (vec![0.5, 2.0, 4.5, 8.0, 12.5, 18.0], wide(&x)));
    for (reduction, loss, divisor) in [
        (Reduction::Rows, vec![7.0, 38.5], 1.0),
        (Reduction::Sum, vec![45.5], 1.0),
        (Reduction::Mean, vec![45.5 / 6.0], 6.0),
        (Reduction::BatchMean, vec![45.5 / 2.0], 2.0),
    ] {
        let [found, dx, _] = of(reduction);
        assert_eq!(found, loss);
        assert_close(&dx, &x.map(|x| f64::from(x) / divisor), 1e-15);
        let empty = by_reference(&[], &[], 3, &[], Options { reduction, ..Default::default() });
        assert_eq!(empty, [if reduction == Reduction::Rows { vec![] } else { vec![0.0] }, vec![], vec![]]);
    }
}
