use super::{Check, Fill, Held, before, cast, rounded};
use crate::info_nce::{self, Options};
use crate::reference::info_nce::{Batch, Negatives, Positive};
use crate::{Accum, Reduction, Result, Storage, reference, softmax};

pub(super) async fn cases(check: &mut Check) -> Result<()> {
    let shapes = [
        // queries, keys, dim
        (1, 1, 1),
        (2, 2, 3),
        (7, 7, 1),
        (64, 64, 16),
        (65, 65, 33),
        (130, 130, 100),
        (3, 257, 7),
        (257, 257, 5),
    ];
    let (shapes, fills) = match check.is_brief {
        false => (&shapes[..], &[Fill::Equal, Fill::Small, Fill::Outlier, Fill::Wide][..]),
        true => (&shapes[3..7], &[Fill::Small, Fill::Wide][..]),
    };
    for &(queries, keys, dim) in shapes {
        for &fill in fills {
            for symmetric in [false, true] {
                for reduction in [Reduction::Mean, Reduction::Sum, Reduction::None] {
                    if queries == keys || !symmetric {
                        let options = Options { symmetric, reduction, ..Default::default() };
                        case(check, [queries, keys, dim], fill, None, Storage::F32, options).await?;
                    }
                }
            }
        }
        let learnable = Options { symmetric: queries == keys, ..Default::default() };
        for storage in [Storage::F32].into_iter().chain(check.storages().iter().copied()) {
            for (log_scale, accum) in [(2.0, Accum::Write), (2.0, Accum::Add), (5.0, Accum::Write), (5.0, Accum::Add)] {
                let options = Options { accum, ..learnable };
                case(check, [queries, keys, dim], Fill::Small, Some(log_scale), storage, options).await?;
            }
        }
    }
    if check.is_brief { Ok(()) } else { option_cases(check).await }
}

pub(super) async fn drawn(check: &mut Check) -> Result<()> {
    let draw = &mut check.draw;
    let [a, b, dim] = draw.pairs(200_000);
    let [n, m] = [a.min(b), a.max(b)];
    check.gpu = draw.in_chunks(&check.gpu, n * m);
    let storage = draw.storage();
    if draw.rarely(3) {
        let fills = [Fill::Equal, Fill::Small, Fill::Outlier, Fill::Wide];
        let fill = draw.fill_of_pairs(dim, n * m, &fills);
        let symmetric = n == m && draw.yes();
        let options = Options { symmetric, reduction: draw.one_of(&PLAIN), accum: draw.accum(), ..Default::default() };
        let log_scale = draw.one_of(&[None, Some(2.0), Some(5.0)]);
        return case(check, [n, m, dim], fill, log_scale, storage, options).await;
    }
    let positive = draw.one_of(&[Kind::Own, Kind::Own, Kind::Index, Kind::Groups]);
    let symmetric = !matches!(positive, Kind::Index) && draw.yes();
    let (n, m) = (n.min(300), if symmetric { n } else { m }.min(300));
    let extras = Extras {
        positive,
        weight: draw.yes(),
        log_q: draw.rarely(3),
        ids: draw.rarely(3),
        log_scale: draw.rarely(3),
        shared: if draw.rarely(3) { draw.size(100) } else { 0 },
        each: if draw.rarely(3) { draw.size(9) } else { 0 },
        fused: draw.yes(),
        values: draw.yes(),
        storage,
    };
    let given = info_nce::Given {
        index: matches!(extras.positive, Kind::Index),
        groups: matches!(extras.positive, Kind::Groups),
        log_q: extras.log_q,
    };
    // Draws until the options go together.
    loop {
        let options = Options {
            temperature: draw.one_of(&[0.5, 0.2, 1.0]),
            normalize: draw.rarely(3),
            symmetric,
            in_batch: !draw.rarely(4),
            query_negatives: draw.rarely(4),
            key_negatives: draw.rarely(4),
            reduction: draw.reduction(),
            accum: draw.accum(),
            exclude_self: draw.rarely(4),
            inside_log: draw.rarely(4),
            decoupled: draw.rarely(4),
            tau_plus: draw.one_of(&[0.0, 0.0, 0.0, 0.01, 0.3]),
            hardness: draw.one_of(&[0.0, 0.0, 0.0, 0.5, -0.5]),
            label_smoothing: draw.one_of(&[0.0, 0.0, 0.0, 0.1, 1.0]),
            margin: draw.one_of(&[0.0, 0.0, 0.2, -0.1]),
            near_margin: draw.one_of(&[f32::INFINITY, f32::INFINITY, f32::INFINITY, 0.3, 0.0, -0.1]),
            ..Default::default()
        };
        if options.check(given).is_ok() {
            return option_case(check, [n, m, dim], extras, options).await;
        }
    }
}

/// The reductions for which `case` knows the terms.
const PLAIN: [Reduction; 3] = [Reduction::None, Reduction::Mean, Reduction::Sum];

/// Every option, alone and with others. Each set of flags is a pipeline, so cases that share one stand next to each
/// other.
async fn option_cases(check: &mut Check) -> Result<()> {
    let plain = Options { temperature: 0.5, ..Default::default() };
    let full = Extras { positive: Kind::Groups, ..Extras::default() };
    let one = Extras { positive: Kind::Index, ..Extras::default() };
    let (rows, wide) = ([37, 37, 9], [37, 53, 9]);
    let mut each = async |sizes, extras, options| option_case(check, sizes, extras, options).await;
    let corrected = Extras { weight: true, log_q: true, ids: true, ..Extras::default() };
    for reduction in [Reduction::Mean, Reduction::Sum, Reduction::BatchMean, Reduction::None] {
        each(wide, corrected, Options { margin: 0.2, reduction, ..plain }).await?;
    }
    each(
        rows,
        Extras { weight: true, ..Extras::default() },
        Options { hardness: 0.7, near_margin: 0.1, symmetric: true, ..plain },
    )
    .await?;
    each(
        rows,
        Extras { values: true, ..Extras::default() },
        Options { near_margin: 0.0, symmetric: true, reduction: Reduction::None, ..plain },
    )
    .await?;
    each(rows, Extras::default(), Options { decoupled: true, symmetric: true, ..plain }).await?;
    each([1, 1, 9], Extras::default(), Options { decoupled: true, symmetric: true, ..plain }).await?;
    for tau_plus in [0.01, 0.3] {
        each(rows, Extras::default(), Options { tau_plus, symmetric: true, ..plain }).await?;
    }
    each(rows, Extras::default(), Options { label_smoothing: 0.1, symmetric: true, margin: 0.1, ..plain }).await?;
    each(rows, one, Options { exclude_self: true, ..plain }).await?; // NT-Xent
    each(
        wide,
        Extras { values: true, ..one },
        Options { near_margin: 0.3, label_smoothing: 0.2, hardness: 0.5, ..plain },
    )
    .await?;
    each(rows, Extras { weight: true, ..full }, Options { exclude_self: true, symmetric: true, ..plain }).await?; // SupCon, "out"
    each(rows, full, Options { exclude_self: true, symmetric: true, reduction: Reduction::None, ..plain }).await?;
    each(wide, Extras { log_q: true, ids: true, ..full }, Options { inside_log: true, ..plain }).await?;
    each(wide, full, Options { inside_log: true, decoupled: true, margin: 0.2, ..plain }).await?;
    each(wide, full, Options { decoupled: true, ..plain }).await?;
    // With one positive, the sums inside and outside the logarithm are the same.
    each(rows, Extras::default(), Options { inside_log: true, symmetric: true, ..plain }).await?;
    each(rows, Extras::default(), Options { inside_log: true, decoupled: true, symmetric: true, ..plain }).await?;
    each(wide, Extras { values: true, ..full }, Options { label_smoothing: 0.3, ..plain }).await?;
    more_negatives(check).await
}

/// Negatives beside the keys of the batch, rows of any length, and gradients computed in the forward's pass.
async fn more_negatives(check: &mut Check) -> Result<()> {
    let plain = Options { temperature: 0.5, ..Default::default() };
    let (rows, wide) = ([37, 37, 9], [37, 53, 9]);
    let mut each = async |sizes, extras, options| option_case(check, sizes, extras, options).await;
    let shared = Extras { shared: 45, log_q: true, ids: true, ..Extras::default() };
    let own = Extras { each: 6, log_q: true, ids: true, weight: true, ..Extras::default() };
    let fused = Extras { fused: true, ..Extras::default() };
    each(wide, shared, plain).await?;
    each(rows, Extras { positive: Kind::Groups, ..shared }, Options { near_margin: f32::INFINITY, ..plain }).await?;
    each(wide, Extras { values: true, ..own }, plain).await?;
    for per in [1, 3, 4] {
        each(rows, Extras { each: per, ..Extras::default() }, Options { symmetric: true, hardness: 0.4, ..plain })
            .await?;
    }
    each(
        rows,
        Extras { each: 5, shared: 7, ..Extras::default() },
        Options { tau_plus: 0.1, near_margin: 0.4, ..plain },
    )
    .await?;
    let explicit = Options { in_batch: false, ..plain };
    each(wide, Extras { each: 5, ..Extras::default() }, explicit).await?;
    each([700, 701, 3], Extras::default(), explicit).await?;
    each(rows, Extras { each: 4, ..Extras::default() }, Options { label_smoothing: 0.2, ..explicit }).await?;
    let around = Options { query_negatives: true, key_negatives: true, symmetric: true, ..plain };
    each(rows, Extras::default(), around).await?; // NT-Xent again
    each(rows, Extras { ids: true, ..Extras::default() }, Options { query_negatives: true, near_margin: 0.2, ..plain })
        .await?;
    each(rows, Extras { positive: Kind::Groups, ..Extras::default() }, around).await?;
    let unit = Options { normalize: true, ..plain };
    each(wide, Extras { log_scale: true, ..Extras::default() }, unit).await?;
    each(rows, Extras { log_scale: true, ..fused }, Options { symmetric: true, margin: 0.1, ..unit }).await?;
    each(
        rows,
        Extras { shared: 5, each: 3, ..Extras::default() },
        Options { normalize: true, near_margin: 0.1, ..around },
    )
    .await?;
    each(wide, Extras { positive: Kind::Index, ..Extras::default() }, unit).await?;
    each(wide, Extras { each: 3, ..fused }, Options { accum: Accum::Add, ..explicit }).await?;
    each(rows, Extras { shared: 3, each: 3, ..fused }, Options { accum: Accum::Add, ..unit }).await?;
    for reduction in [Reduction::Mean, Reduction::Sum] {
        each(wide, fused, Options { reduction, ..plain }).await?;
        each(rows, Extras { shared: 9, each: 3, ..fused }, Options { reduction, ..around }).await?;
    }
    each(wide, Extras { positive: Kind::Groups, ..fused }, Options { reduction: Reduction::None, ..plain }).await?;
    each(wide, Extras { positive: Kind::Groups, ..fused }, plain).await?;
    let rounded = Extras { shared: 5, each: 3, storage: Storage::Bf16, ..Extras::default() };
    each(rows, rounded, Options { normalize: true, accum: Accum::Add, ..plain }).await
}

/// Which keys are positives, without the data.
#[derive(Debug, Clone, Copy, Default)]
enum Kind {
    #[default]
    Own,
    Index,
    Groups,
}

/// What a batch has beside queries and keys.
#[derive(Debug, Clone, Copy, Default)]
struct Extras {
    positive: Kind,
    weight: bool,
    log_q: bool,
    ids: bool,
    log_scale: bool,
    /// The number of further negatives of all queries (`shared`) and of each query (`each`).
    shared: usize,
    each: usize,
    /// Gradients are computed with the loss.
    fused: bool,
    /// The values of each line (a query or a key) are checked too.
    values: bool,
    /// The storage of vectors and their gradients.
    storage: Storage,
}

async fn option_case(check: &mut Check, [n, m, dim]: [usize; 3], extras: Extras, options: Options) -> Result<()> {
    check.case(format_args!("{n} x {m} x {dim} {extras:?} {options:?}"));
    let storage = extras.storage;
    let matrix = |rows, cols, seed| Fill::Small.matrix(rows, cols, seed);
    let vectors = |rows, seed| rounded(storage, &matrix(rows, dim, seed));
    let words = |len: usize, from: &dyn Fn(usize) -> usize| -> Vec<u32> { (0..len).map(|i| from(i) as u32).collect() };
    let (q, mut k) = (vectors(n, 30), vectors(m, 31));
    if m > 2 {
        k.copy_within(..dim, 2 * dim); // key 2 is key 0 again
    }
    let (l, e) = (extras.shared, extras.each * n);
    let (shared, each) = (vectors(l, 35), vectors(e, 36));
    let loss_rows = options.reduction.of_rows(n)[0];
    let dy = if extras.fused { vec![1.0; loss_rows] } else { matrix(loss_rows, 1, 32) };
    let weight: Vec<f32> = matrix(if extras.weight { n } else { 0 }, 1, 33).iter().map(|w| w.abs()).collect();
    let log_q = |len, seed| matrix(if extras.log_q { len } else { 0 }, 1, seed);
    let (log_q, shared_log_q, each_log_q) = (log_q(m, 34), log_q(l, 37), log_q(e, 38));
    // The last query has no positive: no key has its index, and no key is of its group.
    let index = words(n, &|i| if i + 1 == n { u32::MAX as usize } else { (i + n / 2) % n });
    let (q_groups, k_groups) = (words(n, &|i| if i + 1 == n { 99 } else { i % 11 }), words(m, &|j| (j * 5) % 11));
    let ids =
        [words(n, &|i| i % 7), words(m, &|j| (j * 3) % 7), words(l, &|j| (j * 2) % 7), words(e, &|j| (j * 4) % 7)];
    let log_scale = extras.log_scale.then_some(1.5f32);

    let column = |data: &[f32]| check.input(data.len(), 1, data);
    let column_of_words = |data: &[u32]| check.input(data.len(), 1, data);
    let held = |rows, vectors: &[f32]| check.input_as(storage, rows, dim, vectors);
    let (held_q, held_k, held_shared, held_each) = (held(n, &q)?, held(m, &k)?, held(l, &shared)?, held(e, &each)?);
    let (held_weight, held_log_q, held_dy) = (column(&weight)?, column(&log_q)?, column(&dy)?);
    let (held_shared_log_q, held_each_log_q) = (column(&shared_log_q)?, column(&each_log_q)?);
    let (held_index, held_scale) = (column_of_words(&index)?, column(&[log_scale.unwrap_or(0.0)])?);
    let (held_q_groups, held_k_groups) = (column_of_words(&q_groups)?, column_of_words(&k_groups)?);
    let [q_ids, k_ids, shared_ids, each_ids] = [0, 1, 2, 3].map(|at| column_of_words(&ids[at]));
    let (q_ids, k_ids, shared_ids, each_ids) = (q_ids?, k_ids?, shared_ids?, each_ids?);
    let batch = info_nce::Batch {
        log_scale: extras.log_scale.then(|| held_scale.view()).transpose()?,
        weight: extras.weight.then(|| held_weight.view()).transpose()?,
        log_q: extras.log_q.then(|| held_log_q.view()).transpose()?,
        ids: if extras.ids { Some((q_ids.view()?, k_ids.view()?)) } else { None },
        positive: match extras.positive {
            Kind::Own => info_nce::Positive::Own,
            Kind::Index => info_nce::Positive::Index(held_index.view()?),
            Kind::Groups => info_nce::Positive::Groups(held_q_groups.view()?, held_k_groups.view()?),
        },
        shared: if l > 0 { Some(negatives(extras, [&held_shared, &held_shared_log_q], &shared_ids)?) } else { None },
        each: if e > 0 { Some(negatives(extras, [&held_each, &held_each_log_q], &each_ids)?) } else { None },
        ..info_nce::Batch::new(held_q.view()?, held_k.view()?)
    };
    let [state_rows, state_cols] = batch.state_shape(options);
    let lines = if options.symmetric { n + m } else { n };
    let (loss, state) = (check.output(loss_rows, 1)?, check.output(state_rows, state_cols)?);
    let old = |rows, seed| before(options.accum, storage, rows * dim, seed);
    let olds = [old(n, 40), old(m, 41), old(l, 42), old(e, 43), before(options.accum, Storage::F32, 1, 44)];
    let holding = |rows, at: usize| check.holding(storage, rows, dim, &olds[at]);
    let (dq, dk, d_shared, d_each) = (holding(n, 0)?, holding(m, 1)?, holding(l, 2)?, holding(e, 3)?);
    let d_scale = check.holding(Storage::F32, 1, 1, &olds[4])?;
    let of_lines = [0; 4].map(|_| check.output(lines, 1));
    let [by_line, lse, correct, entropy] = of_lines;
    let (by_line, lse, correct, entropy) = (by_line?, lse?, correct?, entropy?);
    check.run(|recorder| {
        let (loss, state) = (loss.view()?, state.view()?);
        let gradients = info_nce::Gradients {
            dq: Some(dq.view()?),
            dk: Some(dk.view()?),
            d_shared: if l > 0 { Some(d_shared.view()?) } else { None },
            d_each: if e > 0 { Some(d_each.view()?) } else { None },
            d_log_scale: Some(d_scale.view()?),
        };
        if extras.fused {
            info_nce::forward(recorder, batch, loss, state, gradients, options)?;
        } else {
            info_nce::forward(recorder, batch, loss, state, Default::default(), options)?;
            info_nce::backward(recorder, batch, state, Some(held_dy.view()?), gradients, options)?;
        }
        if !extras.values {
            return Ok(());
        }
        let [loss, lse, correct, entropy] = [&by_line, &lse, &correct, &entropy].map(|held| held.view());
        let values =
            info_nce::Values { loss: Some(loss?), lse: Some(lse?), correct: Some(correct?), entropy: Some(entropy?) };
        info_nce::values(recorder, batch, state, values, options)
    })?;

    let texts = Texts {
        q: &q,
        k: &k,
        shared: &shared,
        each: &each,
        weight: &weight,
        log_q: [&log_q, &shared_log_q, &each_log_q],
    };
    let wide = texts.map(|x| cast(x));
    let positive = match extras.positive {
        Kind::Own => Positive::Own,
        Kind::Index => Positive::Index(&index),
        Kind::Groups => Positive::Groups(&q_groups, &k_groups),
    };
    let ids = extras.ids.then_some(&ids);
    let truth = wide.batch(dim, log_scale.map(f64::from), positive, ids);
    let narrow = texts.map(|x| x.to_vec());
    let plain = narrow.batch(dim, log_scale, positive, ids);
    let (want, yardstick) =
        (reference::info_nce::forward(truth, options), reference::info_nce::forward(plain, options));
    // The losses are differences of scores and log-sum-exps of at most this size. Each has a weight of at most 1,
    // including the mean's divisor.
    let scale = reference::info_nce::scale(log_scale.map(f64::from), options);
    let length = if options.normalize { 1.0 } else { dim as f64 };
    let size = (length + 1.0) * scale + ((m + l + e + n) as f64).ln();
    let whole = if options.reduction == Reduction::Sum { size * n as f64 } else { size };
    check.compare_sum("loss", &loss, &want, &yardstick, &vec![whole; loss_rows]).await?;
    if extras.values {
        let (want, yardstick) =
            (reference::info_nce::values(truth, options), reference::info_nce::values(plain, options));
        type Part<F> = fn(reference::info_nce::Value<F>) -> F;
        let outputs: [(_, _, Part<f64>, Part<f32>); 4] = [
            ("loss of a line", &by_line, |value| value.loss, |value| value.loss),
            ("lse", &lse, |value| value.lse, |value| value.lse),
            ("correct", &correct, |value| value.correct.into(), |value| value.correct.into()),
            // An error of the scores changes p ln p by (1 + |ln p|) times as much.
            ("entropy", &entropy, |value| value.entropy, |value| value.entropy),
        ];
        for (what, held, of, near) in outputs {
            let want: Vec<f64> = want.iter().map(|&value| of(value)).collect();
            let yardstick: Vec<f32> = yardstick.iter().map(|&value| near(value)).collect();
            check.compare_sum(what, held, &want, &yardstick, &vec![size; lines]).await?;
        }
    }
    let (want, yardstick) = (
        reference::info_nce::backward(truth, &cast::<f64>(&dy), options),
        reference::info_nce::backward(plain, &dy, options),
    );
    // The terms of a gradient are probabilities and shares times elements of at most 1. Their relative errors are the
    // errors of the scores. Rows of unit length come from rows that may be shorter.
    let by_row = if matches!(options.reduction, Reduction::None | Reduction::Sum) { 1.0 } else { 1.0 / n as f64 };
    let shortest = [&q, &k, &shared, &each]
        .into_iter()
        .flat_map(|x| x.chunks(dim))
        .map(|x| x.iter().map(|x| x * x).sum::<f32>().sqrt());
    let shortest = if options.normalize { f64::from(shortest.fold(1.0, f32::min)) } else { 1.0 };
    let slope = 4.0 * by_row * size * scale / shortest;
    let of_keys = slope * n as f64 / 4.0;
    check.compare_added("dq", &dq, &olds[0], &want.dq, &yardstick.dq, &vec![slope; n * dim]).await?;
    check.compare_added("dk", &dk, &olds[1], &want.dk, &yardstick.dk, &vec![of_keys; m * dim]).await?;
    check
        .compare_added("d_shared", &d_shared, &olds[2], &want.d_shared, &yardstick.d_shared, &vec![of_keys; l * dim])
        .await?;
    check.compare_added("d_each", &d_each, &olds[3], &want.d_each, &yardstick.d_each, &vec![slope; e * dim]).await?;
    let (want, yardstick) = ([want.d_log_scale], [yardstick.d_log_scale]);
    check.compare_added("d_log_scale", &d_scale, &olds[4], &want, &yardstick, &[slope * n as f64]).await
}

fn negatives<'a>(extras: Extras, [k, log_q]: [&'a Held; 2], ids: &'a Held<u32>) -> Result<info_nce::Negatives<'a>> {
    Ok(info_nce::Negatives {
        k: k.view()?,
        log_q: extras.log_q.then(|| log_q.view()).transpose()?,
        ids: extras.ids.then(|| ids.view()).transpose()?,
    })
}

/// The numbers of a batch.
struct Texts<T> {
    q: T,
    k: T,
    shared: T,
    each: T,
    weight: T,
    /// Those of the keys, of the further negatives of all queries, and of the further negatives of each query.
    log_q: [T; 3],
}

impl<T> Texts<T> {
    fn map<U>(&self, of: impl Fn(&T) -> U) -> Texts<U> {
        let Texts { q, k, shared, each, weight, log_q } = self;
        let [a, b, c] = log_q;
        Texts {
            q: of(q),
            k: of(k),
            shared: of(shared),
            each: of(each),
            weight: of(weight),
            log_q: [of(a), of(b), of(c)],
        }
    }
}

impl<F: reference::Real> Texts<Vec<F>> {
    fn batch<'a>(
        &'a self,
        dim: usize,
        log_scale: Option<F>,
        positive: Positive<'a>,
        ids: Option<&'a [Vec<u32>; 4]>,
    ) -> Batch<'a, F> {
        let of = |at: usize| ids.map_or(&[][..], |ids| &ids[at]);
        Batch {
            log_scale,
            weight: &self.weight,
            log_q: &self.log_q[0],
            positive,
            ids: ids.map(|ids| (&ids[0][..], &ids[1][..])),
            shared: Negatives { k: &self.shared, log_q: &self.log_q[1], ids: of(2) },
            each: Negatives { k: &self.each, log_q: &self.log_q[2], ids: of(3) },
            ..Batch::new(&self.q, &self.k, dim)
        }
    }
}

/// `storage` is that of the matrices; the scale, its gradient and the log-sum-exps are f32.
async fn case(
    check: &mut Check,
    [queries, keys, dim]: [usize; 3],
    fill: Fill,
    log_scale: Option<f32>,
    storage: Storage,
    options: Options,
) -> Result<()> {
    check.case(format_args!("{queries} x {keys} x {dim} {fill:?} {storage:?} log_scale {log_scale:?} {options:?}"));
    // Wide scores without overflow: each one is the product of two wide rows.
    let shrink = if fill == Fill::Wide { 1.0 / 80f32.sqrt() } else { 1.0 };
    let matrix = |rows, seed| -> Vec<f32> {
        rounded(storage, &fill.matrix(rows, dim, seed).iter().map(|v| v * shrink).collect::<Vec<_>>())
    };
    let (q, k) = (matrix(queries, 17), matrix(keys, 18));
    let scale = reference::info_nce::scale(log_scale.map(f64::from), options);
    let largest = q.iter().chain(&k).fold(0.0f32, |largest, value| largest.max(value.abs()));
    check.magnifies_flushed(scale * f64::from(largest) * keys as f64);
    let loss_rows = if options.reduction == Reduction::None { queries } else { 1 };
    let dy = rounded(storage, &Fill::Small.matrix(loss_rows, 1, 19));

    let held_q = check.input_as(storage, queries, dim, &q)?;
    let held_k = check.input_as(storage, keys, dim, &k)?;
    let held_dy = check.input_as(storage, loss_rows, 1, &dy)?;
    let held_scale = check.input(1, 1, &[log_scale.unwrap_or(0.0)])?;
    let batch = info_nce::Batch::new(held_q.view()?, held_k.view()?);
    let batch = if log_scale.is_some() { batch.scaled(held_scale.view()?) } else { batch };
    let [state_rows, state_cols] = batch.state_shape(options);
    let (loss, state) = (check.output_as(storage, loss_rows, 1)?, check.output(state_rows, state_cols)?);
    let accum = options.accum;
    let (old_q, old_k) = (before(accum, storage, queries * dim, 20), before(accum, storage, keys * dim, 21));
    let old_scale = before(accum, Storage::F32, 1, 22);
    let dq = check.holding(storage, queries, dim, &old_q)?;
    let dk = check.holding(storage, keys, dim, &old_k)?;
    let d_scale = check.holding(Storage::F32, 1, 1, &old_scale)?;
    check.run(|recorder| {
        info_nce::forward(recorder, batch, loss.view()?, state.view()?, Default::default(), options)?;
        let (dq, dk, d_log_scale) = (Some(dq.view()?), Some(dk.view()?), Some(d_scale.view()?));
        let gradients = info_nce::Gradients { dq, dk, d_log_scale, ..Default::default() };
        info_nce::backward(recorder, batch, state.view()?, Some(held_dy.view()?), gradients, options)
    })?;
    let (wide_q, wide_k, wide_dy): (Vec<f64>, Vec<f64>, Vec<f64>) = (cast(&q), cast(&k), cast(&dy));
    let truth = Batch { log_scale: log_scale.map(f64::from), ..Batch::new(&wide_q, &wide_k, dim) };
    let plain = Batch { log_scale, ..Batch::new(&q, &k, dim) };
    let want = reference::info_nce::forward(truth, options);
    let yardstick = reference::info_nce::forward(plain, options);
    let terms = loss_terms(truth, options);
    check.compare_sum("loss", &loss, &want, &yardstick, &terms).await?;
    let want = reference::info_nce::backward(truth, &wide_dy, options);
    let yardstick = reference::info_nce::backward(plain, &dy, options);
    let terms = backward_terms(&wide_q, &wide_k, dim, scale, &wide_dy, options);
    check.compare_added("dq", &dq, &old_q, &want.dq, &yardstick.dq, &terms.0).await?;
    check.compare_added("dk", &dk, &old_k, &want.dk, &yardstick.dk, &terms.1).await?;
    let (want, yardstick) = ([want.d_log_scale], [yardstick.d_log_scale]);
    check.compare_added("d_log_scale", &d_scale, &old_scale, &want, &yardstick, &[terms.2]).await
}

/// A row's loss carries the absolute error of the scores, as far as the loss depends on them: −ln p changes by 1 − p <=
/// min(1, loss) times that error.
fn loss_terms(batch: Batch<f64>, options: Options) -> Vec<f64> {
    let by_row = Options { reduction: Reduction::None, ..options };
    let losses = reference::info_nce::forward(batch, by_row);
    let largest =
        |x: &[f64]| x.chunks(batch.dim).map(|x| x.iter().map(|x| x * x).sum::<f64>().sqrt()).fold(0.0, f64::max);
    let score = reference::info_nce::scale(batch.log_scale, options) * largest(batch.q) * largest(batch.k);
    let terms: Vec<f64> = losses.iter().map(|loss| loss + score * loss.min(1.0)).collect();
    match options.reduction {
        Reduction::None | Reduction::Rows => terms,
        Reduction::Sum => vec![terms.iter().sum()],
        Reduction::Mean | Reduction::BatchMean => vec![terms.iter().sum::<f64>() / terms.len() as f64],
    }
}

/// The sums of the magnitudes of the terms of dq, dk and d_log_scale. A term is g_ij times an element, where g_ij = w
/// (p − [i = j]). g_ij carries the relative error of p = e^(s − lse), which is the absolute error of s. s is itself a
/// sum of magnitude scale Σ |q_id k_jd|.
fn backward_terms(
    q: &[f64],
    k: &[f64],
    dim: usize,
    scale: f64,
    dy: &[f64],
    options: Options,
) -> (Vec<f64>, Vec<f64>, f64) {
    let (n, m) = (q.len() / dim, k.len() / dim);
    let (mut dq, mut dk, mut d_log_scale) = (vec![0.0; q.len()], vec![0.0; k.len()], 0.0);
    let one = softmax::Options::default();
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let size = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a * b).abs()).sum::<f64>();
    let row = |x: &[f64], i: usize| x[i * dim..][..dim].to_vec();
    let scores: Vec<f64> = (0..n * m).map(|at| scale * product(&row(q, at / m), &row(k, at % m))).collect();
    let by_row = reference::softmax::forward(&scores, m, one);
    let turned: Vec<f64> = (0..n * m).map(|at| scores[at % n * m + at / n]).collect();
    let by_column = reference::softmax::forward(&turned, n, one);
    let mean = if options.reduction == Reduction::Mean { n as f64 } else { 1.0 };
    let weight = |i: usize| dy[if options.reduction == Reduction::None { i } else { 0 }].abs() / mean;
    for i in 0..n {
        for j in 0..m {
            let own = f64::from(u8::from(i == j));
            let mut g = weight(i) * (by_row[i * m + j] + own);
            if options.symmetric {
                g = 0.5 * (g + weight(j) * (by_column[j * n + i] + own));
            }
            let pair = scale * size(&row(q, i), &row(k, j));
            let g = g * (1.0 + pair);
            d_log_scale += g * pair;
            for d in 0..dim {
                dq[i * dim + d] += scale * g * k[j * dim + d].abs();
                dk[j * dim + d] += scale * g * q[i * dim + d].abs();
            }
        }
    }
    (dq, dk, d_log_scale)
}
