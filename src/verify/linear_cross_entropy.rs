use super::cross_entropy::{compare_lse, sizes, slope_terms};
use super::layer::{OfLayer, eighths, in_parts, stored};
use super::{Check, Fill, cast, rounded};
use crate::linear_cross_entropy::{self, Options};
use crate::reference::cross_entropy::{Target, Weights};
use crate::reference::linear_cross_entropy::{self as textbook, Layer};
use crate::{Accum, Random, Reduction, Result, Storage, reference};

pub(super) async fn cases(check: &mut Check) -> Result<()> {
    let (storage, options) = (Storage::F32, Options::default());
    let accum_dx = Accum::Write;
    let plain = Case { accum_dx, transposed: false, soft: false, weighted: false, bias: false, storage, options };
    let all = Options {
        label_smoothing: 0.3,
        z_loss: 0.2,
        softcap: 3.0,
        reduction: Reduction::BatchMean,
        accum: Accum::Add,
        ..Default::default()
    };
    let own = check.gpu.clone();
    // All rows at once, a tile of rows at a time, and one row at a time.
    let [tile_rows, _] = own.tuning().tile();
    let in_parts = |rows: usize, classes: usize| in_parts(&own, rows, classes, 1);
    for shape in [[1, 1, 1], [3, 7, 5], [65, 33, 130], [70, 16, 1000], [2, 5, 40_000]] {
        for rows in [usize::MAX, tile_rows, 1] {
            check.gpu = if rows < shape[0] { in_parts(rows, shape[2]) } else { own.clone() };
            for bias in [false, true] {
                case(check, shape, Fill::Small, Case { bias, transposed: bias, ..plain }).await?;
            }
            if rows < shape[0] || check.is_brief {
                continue;
            }
            let none = Options { reduction: Reduction::None, ..plain.options };
            case(check, shape, Fill::Outlier, Case { options: none, ..plain }).await?;
        }
    }
    check.gpu = in_parts(tile_rows, 100);
    let shape = [2 * tile_rows + 3, 12, 99];
    let soft = Case { soft: true, weighted: true, bias: true, ..plain };
    let added = Case { bias: true, weighted: true, options: all, ..plain };
    for form in [soft, added, Case { soft: true, ..added }].into_iter().take(if check.is_brief { 2 } else { 3 }) {
        case(check, shape, Fill::Small, form).await?;
    }
    for &storage in check.storages() {
        case(check, shape, Fill::Small, Case { storage, bias: true, ..plain }).await?;
        case(check, shape, Fill::Small, Case { accum_dx: Accum::Add, storage, transposed: true, ..added }).await?;
    }
    check.gpu = own;
    Ok(())
}

pub(super) async fn drawn(check: &mut Check) -> Result<()> {
    let draw = &mut check.draw;
    let [rows, classes, inputs] = draw.pairs(300_000);
    check.gpu = draw.in_chunks(&check.gpu, rows * classes);
    let fill = draw.fill_of_pairs(inputs, rows * classes, &[Fill::Equal, Fill::Small, Fill::Outlier]);
    let options = Options {
        label_smoothing: draw.one_of(&[0.0, 0.0, 0.1, 0.9]),
        z_loss: draw.one_of(&[0.0, 0.0, 1e-4, 0.5]),
        softcap: draw.one_of(&[0.0, 0.0, 3.0, 30.0]),
        reduction: draw.reduction(),
        accum: draw.accum(),
        ..Default::default()
    };
    let [transposed, soft, weighted, bias] = [(); 4].map(|()| draw.yes());
    let (accum_dx, storage) = (draw.accum(), draw.storage());
    let form = Case { accum_dx, transposed, soft, weighted, bias, storage, options };
    case(check, [rows, inputs, classes], fill, form).await
}

#[derive(Debug, Clone, Copy)]
struct Case {
    accum_dx: Accum,
    transposed: bool,
    soft: bool,
    weighted: bool,
    bias: bool,
    storage: Storage,
    options: Options,
}

/// Checks the loss, the log-sum-exps, the predictions, and the gradients from `forward` and from `backward`.
async fn case(check: &mut Check, [rows, inputs, classes]: [usize; 3], fill: Fill, case: Case) -> Result<()> {
    let Case { accum_dx, transposed, soft, weighted, bias, storage, options } = case;
    let workspace = check.gpu.tuning().workspace;
    check.case(format_args!("{rows} x {inputs} -> {classes} {fill:?} {case:?}, workspace of {workspace}"));
    let matrix = |fill: Fill, rows, cols, seed| rounded(storage, &fill.matrix(rows, cols, seed));
    let sizes = |rows, cols, seed| sizes(storage, rows, cols, seed);
    let (x, w) = (eighths(fill, rows, inputs, 1), eighths(Fill::Small, classes, inputs, 2));
    let b = eighths(Fill::Small, classes, 1, 3);
    let mut random = Random::new(4, 0);
    let mut ids: Vec<u32> = (0..rows).map(|_| random.below(classes as u32)).collect();
    ids.iter_mut().skip(1).step_by(4).for_each(|id| *id = options.ignore);
    let shares = if soft { sizes(rows, classes, 5) } else { Vec::new() };
    let (class, row) = (sizes(1, classes, 6), sizes(rows, 1, 7));
    let [loss_rows, _] = options.reduction.of_rows(rows);
    let dy = matrix(Fill::Small, loss_rows, 1, 8);
    let (stored_w, shape_of_w) = stored(transposed, &w, [classes, inputs]);
    let accums = [accum_dx, options.accum];
    let of_layer = || OfLayer::new(check, storage, [rows, inputs, classes], transposed, accums, 9);
    let (fused, back) = (of_layer()?, of_layer()?);

    let input = |rows, cols, data: &[f32]| check.input_as(storage, rows, cols, data);
    let [w_rows, w_cols] = shape_of_w;
    let (held_x, held_w) = (input(rows, inputs, &x)?, input(w_rows, w_cols, &stored_w)?);
    let held_b = input(classes, 1, &b)?;
    let (held_class, held_row, held_dy) =
        (input(1, classes, &class)?, input(rows, 1, &row)?, input(loss_rows, 1, &dy)?);
    let held_soft = soft.then(|| input(rows, classes, &shares)).transpose()?;
    let held_ids = check.input(rows, 1, &ids)?;
    let (loss, lse) = (check.output_as(storage, loss_rows, 1)?, check.output(rows, 2)?);
    let [predicted, alone] = [check.output::<u32>(rows, 1)?, check.output::<u32>(rows, 1)?];
    check.run(|recorder| {
        use linear_cross_entropy::{Batch, Layer, Target, Weights};
        let b = bias.then(|| held_b.view()).transpose()?;
        let layer = Layer { b, transposed, ..Layer::new(held_x.view()?, held_w.view()?) };
        let target = match &held_soft {
            Some(soft) => Target::Soft(soft.view()?),
            None => Target::Ids(held_ids.view()?),
        };
        let weights = match weighted {
            true => Weights { class: Some(held_class.view()?), row: Some(held_row.view()?) },
            false => Weights::default(),
        };
        let (loss, lse, dy) = (loss.view()?, lse.view()?, Some(held_dy.view()?));
        let (fused, back) = (fused.views()?, back.views()?);
        let predicted = Some(predicted.view()?);
        let batch = Batch { layer, target, weights };
        linear_cross_entropy::forward(recorder, batch, loss, Some(lse), predicted, fused, options)?;
        linear_cross_entropy::predict(recorder, layer, alone.view()?)?;
        linear_cross_entropy::backward(recorder, batch, lse, dy, back, options)
    })?;

    let shape = [rows, inputs, classes];
    let numbers = [&x, &w, &b, &shares, &class, &row].map(|data| cast::<f64>(data));
    let [wide_x, wide_w, wide_b, wide_shares, wide_class, wide_row] = &numbers;
    let layer = Layer { x: &x[..], w: &w[..], b: bias.then_some(&b[..]), shape };
    let wide = Layer { x: &wide_x[..], w: &wide_w[..], b: bias.then_some(&wide_b[..]), shape };
    let target = if soft { Target::Soft(&shares[..]) } else { Target::Ids(&ids) };
    let wide_target = if soft { Target::Soft(&wide_shares[..]) } else { Target::Ids(&ids) };
    let (mut weights, mut wide_weights) = (Weights::default(), Weights::default());
    if weighted {
        weights = Weights { class: &class, row: &row };
        wide_weights = Weights { class: wide_class, row: wide_row };
    }
    let want = textbook::forward(wide, wide_target, wide_weights, options);
    check.compare("loss", &loss, &want, &textbook::forward(layer, target, weights, options)).await?;
    let logits = layer.logits();
    compare_lse(check, &lse, &logits, classes, options).await?;
    for (what, found) in [("predicted", &predicted), ("predicted alone", &alone)] {
        check.compare_ids(what, found, &reference::cross_entropy::predict(&logits, classes)).await?;
    }
    let magnitudes = [wide_x, wide_w].map(|data| data.iter().map(|v| v.abs()).collect::<Vec<_>>());
    for (what, dy, found) in [("fused", &[][..], &fused), ("from dy", &dy, &back)] {
        let want = textbook::backward(wide, wide_target, wide_weights, &cast(dy), options);
        let naive = textbook::backward(layer, target, weights, dy, options);
        let g = slope_terms(&cast(&logits), classes, wide_target, wide_weights, &cast(dy), options);
        let terms = reference::linear::backward(&magnitudes[0], &magnitudes[1], &g, inputs, classes, rows);
        found.compare(check, what, [&want, &terms], &naive).await?;
    }
    Ok(())
}
