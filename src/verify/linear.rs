use super::{Check, Fill, cast};
use crate::{Result, linear, reference};

pub(super) fn cases(check: &mut Check) -> Result<()> {
    let shapes = [
        // rows, inputs, outputs
        (1, 1, 1),
        (1, 7, 5),
        (3, 255, 2),
        (63, 64, 65),
        (130, 17, 67),
        (5, 1000, 3),
        (2100, 31, 9),
        (65_537, 3, 2),
    ];
    for (rows, inputs, outputs) in shapes {
        for fill in [Fill::Equal, Fill::Small, Fill::Huge, Fill::Outlier] {
            for bias in [true, false] {
                if rows < 10_000 || (fill == Fill::Small && bias) {
                    case(check, rows, inputs, outputs, fill, bias)?;
                }
            }
        }
    }
    Ok(())
}

fn case(check: &mut Check, rows: usize, inputs: usize, outputs: usize, fill: Fill, bias: bool) -> Result<()> {
    check.case(format_args!("{rows} x {inputs} -> {outputs} {fill:?}{}", if bias { " bias" } else { "" }));
    let (x, w) = (fill.matrix(rows, inputs, 10), Fill::Small.matrix(outputs, inputs, 11));
    let (b, dy) = (Fill::Small.matrix(outputs, 1, 12), fill.matrix(rows, outputs, 13));
    let (held_x, held_w) = (check.input(rows, inputs, &x)?, check.input(outputs, inputs, &w)?);
    let (held_b, held_dy) = (check.input(outputs, 1, &b)?, check.input(rows, outputs, &dy)?);
    let (y, dx) = (check.output(rows, outputs)?, check.output(rows, inputs)?);
    let (dw, db) = (check.output(outputs, inputs)?, check.output(outputs, 1)?);
    check.run(|recorder| {
        let (x, w, dy) = (held_x.view()?, held_w.view()?, held_dy.view()?);
        let b = bias.then(|| held_b.view()).transpose()?;
        linear::forward(recorder, x, w, b, y.view()?)?;
        linear::backward(recorder, x, w, dy, Some(dx.view()?), Some(dw.view()?), Some(db.view()?))
    })?;
    let b = bias.then_some(b.as_slice());
    let wide: [Vec<f64>; 3] = [cast(&x), cast(&w), cast(&dy)];
    let wide_b: Option<Vec<f64>> = b.map(cast);
    let magnitude = wide.each_ref().map(|data| data.iter().map(|v| v.abs()).collect::<Vec<_>>());
    let size = [inputs, outputs, rows];
    let forward =
        |[x, w, _]: &[Vec<f64>; 3], b: Option<&[f64]>| reference::linear::forward(x, w, b, size[0], size[1], size[2]);
    let want = forward(&wide, wide_b.as_deref());
    let terms = forward(&magnitude, None);
    let yardstick = reference::linear::forward(&x, &w, b, inputs, outputs, rows);
    check.compare_sum("y", &y, &want, &yardstick, &terms)?;
    let backward = |[x, w, dy]: &[Vec<f64>; 3]| reference::linear::backward(x, w, dy, size[0], size[1], size[2]);
    let (want, terms) = (backward(&wide), backward(&magnitude));
    let yardstick = reference::linear::backward(&x, &w, &dy, inputs, outputs, rows);
    check.compare_sum("dx", &dx, &want.0, &yardstick.0, &terms.0)?;
    check.compare_sum("dw", &dw, &want.1, &yardstick.1, &terms.1)?;
    check.compare_sum("db", &db, &want.2, &yardstick.2, &terms.2)
}
