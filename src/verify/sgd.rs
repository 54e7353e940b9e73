use super::{Check, Fill, cast};
use crate::sgd::{self, Options};
use crate::{Result, reference};

pub(super) async fn cases(check: &mut Check) -> Result<()> {
    let base = Options { rate: 0.1, ..Default::default() };
    let forms = [
        base,
        Options { momentum: 0.9, ..base },
        Options { momentum: 0.9, weight_decay: 0.01, first: true, dampening: 0.3, ..base },
        Options { momentum: 0.9, weight_decay: 0.01, dampening: 0.3, ..base },
        Options { momentum: 0.9, nesterov: true, ..base },
    ];
    for (rows, cols) in [(1, 1), (1, 7), (3, 257), (70_000, 3)] {
        for fill in [Fill::Equal, Fill::Small, Fill::Huge] {
            for options in forms {
                if rows < 10_000 || fill == Fill::Small {
                    case(check, rows, cols, fill, options).await?;
                }
            }
        }
    }
    Ok(())
}

pub(super) async fn drawn(check: &mut Check) -> Result<()> {
    let draw = &mut check.draw;
    let ([rows, cols], fill) = (draw.shape(50_000), draw.one_of(&[Fill::Equal, Fill::Small, Fill::Huge]));
    let momentum = draw.one_of(&[0.0, 0.9]);
    let nesterov = momentum > 0.0 && draw.yes();
    let options = Options {
        rate: draw.one_of(&[1.0, 0.01]),
        momentum,
        weight_decay: draw.one_of(&[0.0, 0.01]),
        dampening: if nesterov { 0.0 } else { draw.one_of(&[0.0, 0.3]) },
        nesterov,
        first: draw.yes(),
    };
    case(check, rows, cols, fill, options).await
}

async fn case(check: &mut Check, rows: usize, cols: usize, fill: Fill, options: Options) -> Result<()> {
    check.case(format_args!("{rows} x {cols} {fill:?} {options:?}"));
    let (g, p) = (fill.matrix(rows, cols, 14), Fill::Small.matrix(rows, cols, 15));
    let v = Fill::Small.matrix(rows, cols, 16);
    let (held_g, held_p, held_v) =
        (check.input(rows, cols, &g)?, check.input(rows, cols, &p)?, check.input(rows, cols, &v)?);
    check.run(|recorder| sgd::step(recorder, held_g.view()?, held_p.view()?, Some(held_v.view()?), options))?;
    let (mut want_p, mut want_v) = (cast::<f64>(&p), cast::<f64>(&v));
    reference::sgd::step(&cast(&g), &mut want_p, &mut want_v, options);
    let (mut yardstick_p, mut yardstick_v) = (p.clone(), v.clone());
    reference::sgd::step(&g, &mut yardstick_p, &mut yardstick_v, options);
    // Both outputs are the old value plus a change.
    let terms = |old: &[f32], new: &[f64]| -> Vec<f64> {
        old.iter().zip(new).map(|(&old, new)| f64::from(old).abs() + (new - f64::from(old)).abs()).collect()
    };
    check.compare_sum("p", &held_p, &want_p, &yardstick_p, &terms(&p, &want_p)).await?;
    check.compare_sum("v", &held_v, &want_v, &yardstick_v, &terms(&v, &want_v)).await
}
