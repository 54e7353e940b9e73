use super::{Check, Fill, cast};
use crate::adam::{self, Options, State};
use crate::{Result, reference};

pub(super) async fn cases(check: &mut Check) -> Result<()> {
    let base = Options { rate: 0.01, ..Default::default() };
    let forms = [
        base,
        Options { weight_decay: 0.1, step: 7, ..base },
        Options { weight_decay: 0.1, decoupled: true, step: 1000, ..base },
        Options { beta1: 0.0, beta2: 0.5, eps: 1e-3, step: 2, ..base },
    ];
    for (rows, cols) in [(1, 1), (1, 7), (3, 257), (70_000, 3)] {
        for fill in [Fill::Equal, Fill::Small, Fill::Huge] {
            for (form, options) in forms.into_iter().enumerate() {
                if rows < 10_000 || fill == Fill::Small {
                    case(check, rows, cols, fill, form % 2 == 1, options).await?;
                }
            }
        }
    }
    Ok(())
}

pub(super) async fn drawn(check: &mut Check) -> Result<()> {
    let draw = &mut check.draw;
    let ([rows, cols], fill) = (draw.shape(50_000), draw.one_of(&[Fill::Equal, Fill::Small, Fill::Huge]));
    let options = Options {
        rate: draw.one_of(&[0.1, 0.001]),
        beta1: draw.one_of(&[0.0, 0.9]),
        beta2: draw.one_of(&[0.5, 0.999]),
        weight_decay: draw.one_of(&[0.0, 0.1]),
        decoupled: draw.yes(),
        step: draw.size(100_000) as u32,
        ..Default::default()
    };
    let amsgrad = draw.yes();
    case(check, rows, cols, fill, amsgrad, options).await
}

async fn case(check: &mut Check, rows: usize, cols: usize, fill: Fill, amsgrad: bool, options: Options) -> Result<()> {
    check.case(format_args!("{rows} x {cols} {fill:?} amsgrad {amsgrad} {options:?}"));
    let squares = |seed| -> Vec<f32> { Fill::Small.matrix(rows, cols, seed).iter().map(|x| x * x).collect() };
    let (g, p, m) =
        (fill.matrix(rows, cols, 14), Fill::Small.matrix(rows, cols, 15), Fill::Small.matrix(rows, cols, 16));
    let (v, most) = (squares(17), if amsgrad { squares(18) } else { Vec::new() });
    let held_g = check.input(rows, cols, &g)?;
    let held_p = check.input(rows, cols, &p)?;
    let (held_m, held_v) = (check.input(rows, cols, &m)?, check.input(rows, cols, &v)?);
    let held_most = if amsgrad { Some(check.input(rows, cols, &most)?) } else { None };
    check.run(|recorder| {
        let most = held_most.as_ref().map(|held| held.view()).transpose()?;
        adam::step(
            recorder,
            held_g.view()?,
            held_p.view()?,
            State { m: held_m.view()?, v: held_v.view()?, most },
            options,
        )
    })?;
    let mut want = [&p, &m, &v, &most].map(|old| cast::<f64>(old));
    let [want_p, want_m, want_v, want_most] = &mut want;
    reference::adam::step(&cast(&g), want_p, [want_m, want_v, want_most], options);
    let mut yardstick = [p.clone(), m.clone(), v.clone(), most.clone()];
    let [yardstick_p, yardstick_m, yardstick_v, yardstick_most] = &mut yardstick;
    reference::adam::step(&g, yardstick_p, [yardstick_m, yardstick_v, yardstick_most], options);
    let held = [("p", Some(&held_p)), ("m", Some(&held_m)), ("v", Some(&held_v)), ("most", held_most.as_ref())];
    for (((what, held), old), (want, yardstick)) in
        held.into_iter().zip([&p, &m, &v, &most]).zip(want.iter().zip(&yardstick))
    {
        let Some(held) = held else { continue };
        // Each output is the old value plus a change.
        let terms: Vec<f64> =
            old.iter().zip(want).map(|(&old, new)| f64::from(old).abs() + (new - f64::from(old)).abs()).collect();
        check.compare_sum(what, held, want, yardstick, &terms).await?;
    }
    Ok(())
}
