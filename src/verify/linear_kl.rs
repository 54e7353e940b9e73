use super::kl::{DIVERGENCES, gradient_terms, loss_terms};
use super::layer::{OfLayer, eighths, in_parts, stored};
use super::{Check, Fill, cast, rounded};
use crate::kl::Divergence;
use crate::linear_kl::{self, Options};
use crate::reference::linear_kl::{self as textbook, Layer};
use crate::{Accum, Reduction, Result, Storage, reference};

pub(super) async fn cases(check: &mut Check) -> Result<()> {
    let accum_dx = Accum::Write;
    let plain = Case { accum_dx, transposed: false, bias: false, storage: Storage::F32, options: Options::default() };
    let own = check.gpu.clone();
    let [tile_rows, _] = own.tuning().tile();
    // Rows, inputs of the student and of the teacher, classes.
    for shape in [[1, 1, 1, 1], [3, 7, 4, 5], [65, 33, 20, 130], [2, 5, 3, 20_000]] {
        for rows in [usize::MAX, tile_rows, 1] {
            check.gpu = if rows < shape[0] { in_parts(&own, rows, shape[3], 3) } else { own.clone() };
            case(check, shape, Fill::Small, Case { bias: rows == 1, transposed: rows == tile_rows, ..plain }).await?;
        }
    }
    check.gpu = in_parts(&own, tile_rows, 100, 3);
    let shape = [2 * tile_rows + 3, 12, 6, 99];
    for divergence in DIVERGENCES.into_iter().take(if check.is_brief { 1 } else { 4 }) {
        let options = Options { divergence, temperature: 2.0, scale_t2: true, ..plain.options };
        let (rows, added) = (Reduction::Rows, Accum::Add);
        case(check, shape, Fill::Small, Case { options: Options { reduction: rows, ..options }, ..plain }).await?;
        case(check, shape, Fill::Small, Case { bias: true, options: Options { accum: added, ..options }, ..plain })
            .await?;
    }
    for &storage in check.storages() {
        case(check, shape, Fill::Small, Case { accum_dx: Accum::Add, storage, bias: true, ..plain }).await?;
    }
    check.gpu = own;
    Ok(())
}

pub(super) async fn drawn(check: &mut Check) -> Result<()> {
    let draw = &mut check.draw;
    let [rows, classes, inputs] = draw.pairs(200_000);
    let of_teacher = draw.size(inputs);
    check.gpu = draw.in_chunks(&check.gpu, 3 * rows * classes);
    let divergence = draw.one_of(&DIVERGENCES);
    let fill = match divergence {
        Divergence::TotalVariation => Fill::Small, // as for `kl`
        _ => draw.fill_of_pairs(inputs, rows * classes, &[Fill::Equal, Fill::Small, Fill::Outlier]),
    };
    let reduction = draw.one_of(&[Reduction::Rows, Reduction::Sum, Reduction::Mean, Reduction::BatchMean]);
    let temperature = draw.one_of(&[1.0, 0.5, 5.0]);
    let options =
        Options { divergence, temperature, scale_t2: draw.yes(), reduction, accum: draw.accum(), ..Default::default() };
    let form =
        Case { accum_dx: draw.accum(), transposed: draw.yes(), bias: draw.yes(), storage: draw.storage(), options };
    case(check, [rows, inputs, of_teacher, classes], fill, form).await
}

#[derive(Debug, Clone, Copy)]
struct Case {
    accum_dx: Accum,
    transposed: bool,
    bias: bool,
    storage: Storage,
    options: Options,
}

/// Checks the loss, and the gradients from `forward` and from `backward`.
async fn case(
    check: &mut Check,
    [rows, inputs, of_teacher, classes]: [usize; 4],
    fill: Fill,
    case: Case,
) -> Result<()> {
    let Case { accum_dx, transposed, bias, storage, options } = case;
    let workspace = check.gpu.tuning().workspace;
    check
        .case(format_args!("{rows} x {inputs}, {of_teacher} -> {classes} {fill:?} {case:?}, workspace of {workspace}"));
    let (x, w, b) =
        (eighths(fill, rows, inputs, 1), eighths(Fill::Small, classes, inputs, 2), eighths(Fill::Small, classes, 1, 3));
    let (of_x, of_w) = (eighths(fill, rows, of_teacher, 4), eighths(Fill::Small, classes, of_teacher, 5));
    let [loss_rows, _] = options.reduction.of_rows(rows);
    let dy = rounded(storage, &Fill::Small.matrix(loss_rows, 1, 6));
    let (stored_w, shape_of_w) = stored(transposed, &w, [classes, inputs]);
    let (stored_of_w, [of_w_rows, of_w_cols]) = stored(transposed, &of_w, [classes, of_teacher]);
    let accums = [accum_dx, options.accum];
    let of_layer = || OfLayer::new(check, storage, [rows, inputs, classes], transposed, accums, 7);
    let (fused, back) = (of_layer()?, of_layer()?);

    let input = |rows, cols, data: &[f32]| check.input_as(storage, rows, cols, data);
    let [w_rows, w_cols] = shape_of_w;
    let (held_x, held_w) = (input(rows, inputs, &x)?, input(w_rows, w_cols, &stored_w)?);
    let held_b = input(classes, 1, &b)?;
    let (held_of_x, held_of_w) = (input(rows, of_teacher, &of_x)?, input(of_w_rows, of_w_cols, &stored_of_w)?);
    let held_dy = input(loss_rows, 1, &dy)?;
    let [loss, again] = [check.output_as(storage, loss_rows, 1)?, check.output_as(storage, loss_rows, 1)?];
    check.run(|recorder| {
        use linear_kl::Layer;
        let bias = bias.then(|| held_b.view()).transpose()?;
        let student = Layer { b: bias, transposed, ..Layer::new(held_x.view()?, held_w.view()?) };
        let teacher = Layer { b: bias, transposed, ..Layer::new(held_of_x.view()?, held_of_w.view()?) };
        let (fused, back) = (fused.views()?, back.views()?);
        let (loss, again, dy) = (loss.view()?, Some(again.view()?), Some(held_dy.view()?));
        linear_kl::forward(recorder, student, teacher, loss, fused, options)?;
        linear_kl::backward(recorder, student, teacher, dy, again, back, options)
    })?;

    let numbers = [&x, &w, &b, &of_x, &of_w].map(|data| cast::<f64>(data));
    let [wide_x, wide_w, wide_b, wide_of_x, wide_of_w] = &numbers;
    let (shape, shape_of_teacher) = ([rows, inputs, classes], [rows, of_teacher, classes]);
    let student = Layer { x: &x[..], w: &w[..], b: bias.then_some(&b[..]), shape };
    let teacher = Layer { x: &of_x[..], w: &of_w[..], b: bias.then_some(&b[..]), shape: shape_of_teacher };
    let wide = Layer { x: &wide_x[..], w: &wide_w[..], b: bias.then_some(&wide_b[..]), shape };
    let wide_teacher =
        Layer { x: &wide_of_x[..], w: &wide_of_w[..], b: bias.then_some(&wide_b[..]), shape: shape_of_teacher };
    let logits = [student.logits(), teacher.logits()];
    let want = textbook::forward(wide, wide_teacher, options);
    let naive = textbook::forward(student, teacher, options);
    let terms = loss_terms(&logits[0], &logits[1], classes, options);
    check.compare_sum("loss", &loss, &want, &naive, &terms).await?;
    check.compare_sum("loss beside a dy", &again, &want, &naive, &terms).await?;
    let magnitudes = [wide_x, wide_w].map(|data| data.iter().map(|v| v.abs()).collect::<Vec<_>>());
    for (what, dy, found) in [("fused", &[][..], &fused), ("from dy", &dy, &back)] {
        let want = textbook::backward(wide, wide_teacher, &cast(dy), options);
        let naive = textbook::backward(student, teacher, dy, options);
        let [g, _] = gradient_terms([&logits[0], &logits[1]], classes, dy, options);
        let terms = reference::linear::backward(&magnitudes[0], &magnitudes[1], &g, inputs, classes, rows);
        found.compare(check, what, [&want, &terms], &naive).await?;
    }
    Ok(())
}
