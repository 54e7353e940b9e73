use super::{Check, FILLS, Fill, cast};
use crate::{Result, reference, tanh};

pub(super) fn cases(check: &mut Check) -> Result<()> {
    for (rows, cols) in [(1, 1), (1, 7), (3, 257), (70_000, 3)] {
        for fill in FILLS.into_iter().filter(|fill| *fill != Fill::Masked) {
            if rows * cols < 100_000 || fill == Fill::Small {
                case(check, rows, cols, fill)?;
            }
        }
    }
    Ok(())
}

fn case(check: &mut Check, rows: usize, cols: usize, fill: Fill) -> Result<()> {
    check.case(format_args!("{rows} x {cols} {fill:?}"));
    let (x, dy) = (fill.matrix(rows, cols, 1), Fill::Small.matrix(rows, cols, 2));
    let held = [check.input(rows, cols, &x)?, check.input(rows, cols, &dy)?];
    let (y, dx) = (check.output(rows, cols)?, check.output(rows, cols)?);
    check.run(|recorder| {
        tanh::forward(recorder, held[0].view()?, y.view()?)?;
        tanh::backward(recorder, y.view()?, held[1].view()?, dx.view()?)
    })?;
    let (want, yardstick) = (reference::tanh::forward::<f64>(&cast(&x)), reference::tanh::forward(&x));
    check.compare("y", &y, &want, &yardstick)?;
    let want_dx = reference::tanh::backward::<f64>(&want, &cast(&dy));
    let terms: Vec<f64> = dy.iter().map(|dy| f64::from(dy.abs())).collect(); // dy - dy y^2
    check.compare_sum("dx", &dx, &want_dx, &reference::tanh::backward(&yardstick, &dy), &terms)
}
