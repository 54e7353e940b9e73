use super::{Check, FILLS, Fill, cast};
use crate::cross_entropy::{self, Options};
use crate::reference::cross_entropy as textbook;
use crate::{Random, Reduction, Result, reference};

pub(super) fn cases(check: &mut Check) -> Result<()> {
    for (rows, cols) in [(1, 1), (1, 7), (3, 255), (3, 256), (3, 257), (5, 1000)] {
        for fill in FILLS {
            for reduction in [Reduction::None, Reduction::Mean, Reduction::Sum] {
                case(check, rows, cols, fill, reduction)?;
            }
        }
    }
    case(check, 70_000, 3, Fill::Small, Reduction::Mean)?;
    case(check, 32, 131_072, Fill::Outlier, Reduction::Sum)
}

fn case(check: &mut Check, rows: usize, cols: usize, fill: Fill, reduction: Reduction) -> Result<()> {
    check.case(format_args!("{rows} x {cols} {fill:?} {reduction:?}"));
    let x = fill.matrix(rows, cols, 7);
    let mut random = Random::new(8, 0);
    let mut ids: Vec<u32> = (0..rows).map(|_| random.below(cols as u32)).collect();
    let options = Options { reduction, ..Default::default() };
    ids.iter_mut().skip(1).step_by(4).for_each(|id| *id = options.ignore);
    let loss_rows = if reduction == Reduction::None { rows } else { 1 };
    let dy = Fill::Small.matrix(loss_rows, 1, 9);

    let (held_x, held_ids, held_dy) =
        (check.input(rows, cols, &x)?, check.input(rows, 1, &ids)?, check.input(loss_rows, 1, &dy)?);
    let (loss, lse, dx) = (check.output(loss_rows, 1)?, check.output(rows, 2)?, check.output(rows, cols)?);
    check.run(|recorder| {
        let (x, ids, lse) = (held_x.view()?, held_ids.view()?, lse.view()?);
        let (target, weights) = (cross_entropy::Target::Ids(ids), cross_entropy::Weights::default());
        cross_entropy::forward(recorder, x, target, weights, loss.view()?, lse, None, options)?;
        cross_entropy::backward(recorder, x, target, weights, lse, Some(held_dy.view()?), dx.view()?, options)
    })?;
    use textbook::{Target, Weights};
    let (target, wide, weights) = (Target::Ids(&ids), Target::Ids(&ids), Weights::default());
    let want = reference::cross_entropy::forward::<f64>(&cast(&x), cols, wide, Weights::default(), options);
    check.compare("loss", &loss, &want, &reference::cross_entropy::forward(&x, cols, target, weights, options))?;
    let want =
        reference::cross_entropy::backward::<f64>(&cast(&x), cols, wide, Weights::default(), &cast(&dy), options);
    check.compare("dx", &dx, &want, &reference::cross_entropy::backward(&x, cols, target, weights, &dy, options))
}
