use super::{Check, FILLS, Fill, Held, before, cast, rounded};
use crate::cross_entropy::{self, Options};
use crate::reference::cross_entropy as textbook;
use crate::{Accum, Random, Reduction, Result, Storage, reference, softmax};

pub(super) async fn cases(check: &mut Check) -> Result<()> {
    for (rows, cols) in [(1, 1), (1, 7), (3, 255), (3, 256), (3, 257), (5, 1000)] {
        for fill in FILLS {
            for reduction in [Reduction::None, Reduction::Mean, Reduction::Sum] {
                case(check, rows, cols, fill, reduction).await?;
            }
        }
    }
    case(check, 70_000, 3, Fill::Small, Reduction::Mean).await?;
    case(check, 32, 131_072, Fill::Outlier, Reduction::Sum).await?;
    let plain = Options::default();
    let capped = Options { softcap: 3.0, ..plain };
    let all = Options { label_smoothing: 0.3, z_loss: 0.2, ..capped };
    let by_row = Options { z_loss: 0.5, reduction: Reduction::Rows, ..plain };
    let smoothed = Options { label_smoothing: 0.1, reduction: Reduction::Sum, ..plain };
    let added = Options { accum: Accum::Add, reduction: Reduction::BatchMean, ..all };
    let sum_added = Options { accum: Accum::Add, reduction: Reduction::Sum, ..plain };
    // Not every combination: each one needs pipelines of its own.
    let variants = [
        (false, false, Fill::Small, Storage::F32, capped),
        (false, true, Fill::Wide, Storage::F32, by_row),
        (false, true, Fill::Small, Storage::F16, added),
        (true, true, Fill::Small, Storage::F32, all),
        (true, false, Fill::Wide, Storage::Bf16, plain),
        (false, false, Fill::Small, Storage::F32, smoothed),
        (false, false, Fill::Small, Storage::F32, sum_added),
    ];
    let brief = check.is_brief;
    for (soft, weighted, fill, storage, options) in
        variants.into_iter().filter(|(.., options)| !brief || *options == all)
    {
        variant(check, 5, 257, fill, Variant { soft, weighted, storage, options }).await?;
    }
    for &storage in check.storages() {
        variant(check, 5, 256, Fill::Wide, Variant { soft: false, weighted: false, storage, options: plain }).await?;
    }
    let whole = |soft| Variant { soft, weighted: true, storage: Storage::F32, options: all };
    variant(check, 2, 40_000, Fill::Outlier, whole(true)).await?;
    variant(check, 5_000, 5, Fill::Small, whole(false)).await?; // too many rows for the summing workgroup to weigh
    for fill in FILLS.into_iter().filter(|fill| *fill != Fill::Subnormal) {
        predicted(check, [3, 257], fill, Storage::F32).await?; // a device may treat subnormal numbers as equal
    }
    for &storage in check.storages() {
        predicted(check, [3, 257], Fill::Small, storage).await?;
    }
    predicted(check, [2, 40_000], Fill::Small, Storage::F32).await?;
    Ok(())
}

pub(super) async fn drawn(check: &mut Check) -> Result<()> {
    let draw = &mut check.draw;
    let ([rows, cols], fill, storage) = (draw.shape(50_000), draw.fill(&[]), draw.storage());
    if draw.rarely(8) && fill != Fill::Subnormal {
        return predicted(check, [rows, cols], fill, storage).await;
    }
    let fill = if fill == Fill::Masked { Fill::Outlier } else { fill };
    let options = Options {
        label_smoothing: draw.one_of(&[0.0, 0.0, 0.1, 0.9]),
        z_loss: draw.one_of(&[0.0, 0.0, 1e-4, 0.5]),
        softcap: draw.one_of(&[0.0, 0.0, 3.0, 30.0]),
        reduction: draw.reduction(),
        accum: draw.accum(),
        ..Default::default()
    };
    let variant = Variant { soft: draw.yes(), weighted: draw.yes(), storage, options };
    self::variant(check, rows, cols, fill, variant).await
}

async fn predicted(check: &mut Check, [rows, cols]: [usize; 2], fill: Fill, storage: Storage) -> Result<()> {
    check.case(format_args!("predict {rows} x {cols} {fill:?} {storage:?}"));
    let x = rounded(storage, &fill.matrix(rows, cols, 28));
    let (held, found) = (check.input_as(storage, rows, cols, &x)?, check.output(rows, 1)?);
    check.run(|recorder| cross_entropy::predict(recorder, held.view()?, found.view()?))?;
    check.compare_ids("predicted", &found, &textbook::predict(&x, cols)).await
}

/// Compares the largest logits and the rests separately, because they differ in size.
pub(super) async fn compare_lse(check: &mut Check, lse: &Held, x: &[f32], cols: usize, options: Options) -> Result<()> {
    let Some(got) = check.body("lse", lse).await? else { return Ok(()) };
    let (want, yardstick) = (textbook::lse::<f64>(&cast(x), cols, options), textbook::lse(x, cols, options));
    for (at, what) in ["lse: max", "lse: rest"].into_iter().enumerate() {
        let of = |numbers: &[f32]| numbers.iter().skip(at).step_by(2).copied().collect::<Vec<_>>();
        let want: Vec<f64> = want.iter().skip(at).step_by(2).copied().collect();
        check.compare_numbers(what, (1, Storage::F32), &of(&got), &want, &of(&yardstick), &[]);
    }
    Ok(())
}

#[derive(Debug)]
struct Variant {
    soft: bool,
    weighted: bool,
    storage: Storage,
    options: Options,
}

/// Positive numbers as `storage` holds them, for weights and shares.
pub(super) fn sizes(storage: Storage, rows: usize, cols: usize, seed: u64) -> Vec<f32> {
    let sizes: Vec<f32> = Fill::Small.matrix(rows, cols, seed).into_iter().map(|v| 0.25 + v.abs()).collect();
    rounded(storage, &sizes)
}

/// Checks the loss, the gradient from `forward` and from `backward`, and the z part. The log-sum-exps are f32.
async fn variant(check: &mut Check, rows: usize, cols: usize, fill: Fill, variant: Variant) -> Result<()> {
    check.case(format_args!("{rows} x {cols} {fill:?} {variant:?}"));
    let Variant { soft, weighted, storage, options } = variant;
    let x = rounded(storage, &fill.matrix(rows, cols, 21));
    let mut random = Random::new(22, 0);
    let mut ids: Vec<u32> = (0..rows).map(|_| random.below(cols as u32)).collect();
    ids.iter_mut().skip(1).step_by(4).for_each(|id| *id = options.ignore);
    let sizes = |rows, cols, seed| sizes(storage, rows, cols, seed);
    let (shares, class, row) = (sizes(rows, cols, 23), sizes(1, cols, 24), sizes(rows, 1, 25));
    let [loss_rows, _] = options.reduction.of_rows(rows);
    let dy = rounded(storage, &Fill::Small.matrix(loss_rows, 1, 26));
    let old = before(options.accum, storage, x.len(), 27);

    let input = |rows, cols, data: &[f32]| check.input_as(storage, rows, cols, data);
    let (held_x, held_soft, held_dy) = (input(rows, cols, &x)?, input(rows, cols, &shares)?, input(loss_rows, 1, &dy)?);
    let (held_class, held_row, held_ids) =
        (input(1, cols, &class)?, input(rows, 1, &row)?, check.input(rows, 1, &ids)?);
    let (loss, z, lse) = (check.output_as(storage, loss_rows, 1)?, check.output(loss_rows, 1)?, check.output(rows, 2)?);
    let [fused, back] = [check.holding(storage, rows, cols, &old)?, check.holding(storage, rows, cols, &old)?];
    check.run(|recorder| {
        use cross_entropy::{Target, Weights};
        let target = if soft { Target::Soft(held_soft.view()?) } else { Target::Ids(held_ids.view()?) };
        let weights = match weighted {
            true => Weights { class: Some(held_class.view()?), row: Some(held_row.view()?) },
            false => Weights::default(),
        };
        let (x, lse) = (held_x.view()?, lse.view()?);
        cross_entropy::forward(recorder, x, target, weights, loss.view()?, lse, Some(fused.view()?), options)?;
        cross_entropy::backward(recorder, x, target, weights, lse, Some(held_dy.view()?), back.view()?, options)?;
        cross_entropy::z_loss(recorder, lse, cols, target, weights, z.view()?, options)
    })?;

    use textbook::{Target, Weights};
    let (wide_x, wide_shares, wide_class, wide_row) =
        (cast::<f64>(&x), cast::<f64>(&shares), cast::<f64>(&class), cast::<f64>(&row));
    let target = if soft { Target::Soft(&shares[..]) } else { Target::Ids(&ids) };
    let wide = if soft { Target::Soft(&wide_shares[..]) } else { Target::Ids(&ids) };
    let (mut weights, mut wide_weights) = (Weights::default(), Weights::default());
    if weighted {
        weights = Weights { class: &class, row: &row };
        wide_weights = Weights { class: &wide_class, row: &wide_row };
    }
    let want = textbook::forward(&wide_x, cols, wide, wide_weights, options);
    check.compare("loss", &loss, &want, &textbook::forward(&x, cols, target, weights, options)).await?;
    compare_lse(check, &lse, &x, cols, options).await?;
    let want = textbook::z_loss(&wide_x, cols, wide, wide_weights, options);
    check.compare("z", &z, &want, &textbook::z_loss(&x, cols, target, weights, options)).await?;
    for (what, dy, held) in [("fused dx", &[][..], &fused), ("dx", &dy, &back)] {
        let want = textbook::backward(&wide_x, cols, wide, wide_weights, &cast(dy), options);
        let yardstick = textbook::backward(&x, cols, target, weights, dy, options);
        let terms = slope_terms(&wide_x, cols, wide, wide_weights, &cast(dy), options);
        check.compare_added(what, held, &old, &want, &yardstick, &terms).await?;
    }
    Ok(())
}

/// The sum of the magnitudes of the terms of each logit's gradient, r ((1 − e) w_t (p − [c = t]) + p Σ w q − w q + 2 z
/// p ln Σ e^x). Here p − 1 is not a difference but the negative sum of the other probabilities. The softcap's slope is
/// 1 − y² with y = tanh(x/cap); both 1 and y² count as terms.
pub(super) fn slope_terms(
    x: &[f64],
    cols: usize,
    target: textbook::Target<f64>,
    weights: textbook::Weights<f64>,
    dy: &[f64],
    options: Options,
) -> Vec<f64> {
    use textbook::Target::{Ids, Soft};
    let [cap, e, z] = [options.softcap, options.label_smoothing, options.z_loss].map(f64::from);
    let rows = x.len() / cols;
    let class_weight = |class: usize| weights.class.get(class).copied().unwrap_or(1.0);
    let id = |row: usize| if let Ids(ids) = target { Some(ids[row]) } else { None };
    let row_weight = |row: usize| match id(row) {
        Some(id) if id == options.ignore => 0.0,
        _ => weights.row.get(row).copied().unwrap_or(1.0),
    };
    let counted = |row: usize| row_weight(row) * id(row).map_or(1.0, |id| class_weight(id as usize));
    let reduced = |sum: f64| match options.reduction {
        Reduction::Mean => 1.0 / sum,
        Reduction::BatchMean => 1.0 / rows as f64,
        Reduction::None | Reduction::Rows | Reduction::Sum => 1.0,
    };
    let (of_loss, of_z) = (reduced((0..rows).map(counted).sum()), reduced((0..rows).map(row_weight).sum()));
    let of_row = |row: usize| -> Vec<f64> {
        let x = &x[row * cols..][..cols];
        let capped: Vec<f64> = x.iter().map(|&x| if cap == 0.0 { x } else { cap * (x / cap).tanh() }).collect();
        let p = reference::softmax::forward(&capped, cols, softmax::Options::default());
        let lse = textbook::lse(x, cols, options);
        let lse = (lse[0] + lse[1].ln_1p()).abs();
        let soft = |class: usize| match target {
            Ids(_) => class_weight(class) * e / cols as f64,
            Soft(shares) => class_weight(class) * ((1.0 - e) * shares[row * cols + class] + e / cols as f64),
        };
        let whole: f64 = (0..cols).map(soft).sum();
        let own = id(row).map(|id| id as usize).filter(|&id| id < cols);
        let others: f64 = (0..cols).filter(|&class| Some(class) != own).map(|class| p[class]).sum();
        let hot = own.map_or(0.0, |own| (1.0 - e) * class_weight(own));
        let dy = dy.get(row).or(dy.first()).map_or(1.0, |dy| dy.abs()) * row_weight(row);
        let term = |class: usize| {
            let from_own = hot * if Some(class) == own { others } else { p[class] };
            let g = of_loss * (from_own + whole * p[class] + soft(class)) + of_z * 2.0 * z * lse * p[class];
            let capped = if cap == 0.0 { 0.0 } else { (capped[class] / cap).powi(2) };
            dy * g * (1.0 + capped)
        };
        (0..cols).map(term).collect()
    };
    (0..rows).flat_map(of_row).collect()
}

async fn case(check: &mut Check, rows: usize, cols: usize, fill: Fill, reduction: Reduction) -> Result<()> {
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
    check.compare("loss", &loss, &want, &reference::cross_entropy::forward(&x, cols, target, weights, options)).await?;
    compare_lse(check, &lse, &x, cols, options).await?;
    let want =
        reference::cross_entropy::backward::<f64>(&cast(&x), cols, wide, Weights::default(), &cast(&dy), options);
    check.compare("dx", &dx, &want, &reference::cross_entropy::backward(&x, cols, target, weights, &dy, options)).await
}
