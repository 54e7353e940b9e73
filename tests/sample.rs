use wgloss::sample::{self, Options, Popularity, Proposal};
use wgloss::{Gpu, Lists, Tensor, Tuning, info_nce, verify, wgpu};

use crate::harness::*;

#[test]
fn verified() {
    verifies("sample");
}

fn draws(gpu: &Gpu, proposal: Proposal<&[u32]>, rows: usize, cols: usize, seed: u64) -> (Vec<u32>, Vec<f32>) {
    sample::compute(gpu, proposal, rows, cols, Options { seed, ..Default::default() }).unwrap()
}

/// Panics if counts are further from what is expected than five standard deviations of χ².
#[track_caller]
fn assert_distributed(counts: &[usize], q: &[f64]) {
    let total: usize = counts.iter().sum();
    // Ids that are too rare to count by themselves are counted together.
    let (mut chi, mut cells, mut rest) = (0.0, 0, (0.0, 0.0));
    for (&count, &q) in counts.iter().zip(q) {
        let expected = q * total as f64;
        if expected == 0.0 {
            assert_eq!(count, 0, "an id of no probability was drawn");
        } else if expected < 10.0 {
            rest = (rest.0 + expected, rest.1 + count as f64);
        } else {
            chi += (count as f64 - expected).powi(2) / expected;
            cells += 1;
        }
    }
    if rest.0 > 0.0 {
        chi += (rest.1 - rest.0).powi(2) / rest.0;
        cells += 1;
    }
    let freedom = f64::from(cells - 1);
    assert!((chi - freedom).abs() < 5.0 * (2.0 * freedom).sqrt(), "chi-square {chi} with {freedom} degrees of freedom");
}

fn counts(ids: &[u32], n: usize) -> Vec<usize> {
    let mut counts = vec![0; n];
    ids.iter().for_each(|&id| counts[id as usize] += 1);
    counts
}

#[test]
fn draws_are_distributed_as_proposed() {
    let Some(gpu) = gpu() else { return };
    let n = 1000;
    let weights: Vec<f32> = (0..n).map(|k| if k % 7 == 2 { 0.0 } else { 1e6 / (k as f32 + 1.0) }).collect();
    let popularity = Popularity::new(&weights, 0.75).unwrap();
    let table = popularity.words();
    let raised: Vec<f64> = weights.iter().map(|&w| f64::from(w).powf(0.75)).collect();
    let sum: f64 = raised.iter().sum();
    let popular: Vec<f64> = raised.iter().map(|w| w / sum).collect();
    let even = vec![1.0 / n as f64; n];
    let mixed: Vec<f64> = popular.iter().map(|p| 0.3 / n as f64 + 0.7 * p).collect();
    let logs: Vec<f64> = (0..n).map(|k| (1.0 / (k as f64 + 1.0)).ln_1p() / (n as f64 + 1.0).ln()).collect();
    for (proposal, q) in [
        (Proposal::Uniform { n: n as u32 }, even),
        (Proposal::LogUniform { n: n as u32 }, logs),
        (Proposal::Table { table, uniform: 0.0 }, popular),
        (Proposal::Table { table, uniform: 0.3 }, mixed),
    ] {
        let (ids, log_q) = draws(gpu, proposal, 1000, 300, 11);
        assert_distributed(&counts(&ids, n), &q);
        for (&id, &log_q) in ids.iter().zip(&log_q) {
            assert!((f64::from(log_q) - q[id as usize].ln()).abs() < 2e-6, "log q of {id}: {log_q}");
        }
    }
}

/// What is left of a proposal after rejection is proportional to it, and `log_q` is its logarithm.
#[test]
fn rejection_leaves_the_rest_in_proportion() {
    let Some(gpu) = gpu() else { return };
    let weights: Vec<f32> = (0..50).map(|k| 1.0 + k as f32).collect();
    let popularity = Popularity::new(&weights, 1.0).unwrap();
    let list: Vec<u32> = (0..50).filter(|k| k % 3 == 0).collect();
    let (rows, cols) = (1000, 200);
    let table = popularity.words();
    let (starts, items) = (gpu.upload(&[0u32, list.len() as u32]).unwrap(), gpu.upload(&list).unwrap());
    for (proposal, weight) in [
        (Proposal::Uniform { n: 50 }, (|_| 1.0) as fn(u32) -> f64),
        (Proposal::LogUniform { n: 50 }, |k| (1.0 / (f64::from(k) + 1.0)).ln_1p()),
        (Proposal::Table { table, uniform: 0.0 }, |k| f64::from(k) + 1.0),
    ] {
        let words = gpu.upload(table).unwrap();
        let (ids, log_q) = (gpu.zeros::<u32>(rows * cols).unwrap(), gpu.zeros::<f32>(rows * cols).unwrap());
        let (ids, log_q) =
            (Tensor::<u32>::matrix(&ids, rows, cols).unwrap(), Tensor::<f32>::matrix(&log_q, rows, cols).unwrap());
        gpu.run(|recorder| {
            let reject =
                Lists { starts: Tensor::vector(&starts, 2)?, items: Tensor::vector(&items, list.len())?, list: None };
            let table = Tensor::matrix(&words, 50, 3)?;
            sample::draw(recorder, proposal.map(|_| table), Some(reject), ids, log_q, Options::default())
        })
        .unwrap();
        let left: Vec<f64> = (0..50).map(|k| if k % 3 == 0 { 0.0 } else { weight(k) }).collect();
        let sum: f64 = left.iter().sum();
        let q: Vec<f64> = left.iter().map(|w| w / sum).collect();
        let ids = gpu.read(ids).unwrap();
        assert_distributed(&counts(&ids, 50), &q);
        for (&id, log_q) in ids.iter().zip(gpu.read(log_q).unwrap()) {
            assert!((f64::from(log_q) - q[id as usize].ln()).abs() < 3e-6);
        }
    }
}

/// Ids of a large catalogue fall into ranges of growing width as often as the formula says.
#[test]
fn log_uniform_ranges() {
    let Some(gpu) = gpu() else { return };
    let n = 1_000_000_000u32;
    let (ids, _) = draws(gpu, Proposal::LogUniform { n }, 1, 100_000, 3);
    let log_n = (f64::from(n) + 1.0).ln();
    let bounds: Vec<f64> =
        (0..=90).map(|b| (log_n * f64::from(b) / 90.0).exp().ceil().min(f64::from(n) + 1.0)).collect();
    let within = |pair: &[f64]| ids.iter().filter(|&&id| (pair[0]..pair[1]).contains(&(f64::from(id) + 1.0))).count();
    let counts: Vec<usize> = bounds.windows(2).map(within).collect();
    assert_eq!(counts.iter().sum::<usize>(), ids.len());
    let q: Vec<f64> = bounds.windows(2).map(|pair| (pair[1] / pair[0]).ln() / log_n).collect();
    assert_distributed(&counts, &q);
}

#[test]
fn same_draws_at_every_workgroup_size_and_in_parts() {
    let Some(gpu) = gpu() else { return };
    let weights: Vec<f32> = (0..99).map(|k| 1.0 + k as f32).collect();
    let popularity = Popularity::new(&weights, 0.5).unwrap();
    let proposal = Proposal::Table { table: popularity.words(), uniform: 0.1 };
    let all = draws(gpu, proposal, 500, 9, 21);
    let wide = gpu.with_tuning(Tuning { workgroup: 64, ..*gpu.tuning() });
    assert_eq!(draws(&wide, proposal, 500, 9, 21), all);
    assert_ne!(draws(gpu, proposal, 500, 9, 22).0, all.0);
    // Fewer rows, and fewer numbers in a row: those that are left stay what they were.
    let (fewer, _) = draws(gpu, proposal, 100, 4, 21);
    let same = all.0.chunks(9).flat_map(|row| &row[..4]).take(400).copied();
    assert_eq!(fewer, same.collect::<Vec<_>>());
    for changed in
        [Options { step: 1, seed: 21, ..Default::default() }, Options { stream: 1, seed: 21, ..Default::default() }]
    {
        assert_ne!(sample::compute(gpu, proposal, 500, 9, changed).unwrap().0, all.0);
    }
}

/// Draws of many rows with bindings that hold few.
#[test]
fn parts() {
    let limits = wgpu::Limits { max_storage_buffer_binding_size: 1 << 16, ..Default::default() };
    let Some(small) = open(Some(limits)) else { return };
    let Some(gpu) = gpu() else { return };
    let proposal = Proposal::LogUniform { n: 1000 };
    assert_eq!(draws(&small, proposal, 50_000, 3, 5), draws(gpu, proposal, 50_000, 3, 5));
}

/// What a sampled softmax has in place of Σ e^s over all ids but the positive is that sum, on average.
#[test]
fn sampled_softmax_is_unbiased() {
    let Some(gpu) = gpu() else { return };
    let (rows, count, n, dim) = (20_000, 8, 40, 4);
    let table: Vec<f32> = verify::Fill::Small.matrix(n, dim, 3).iter().map(|x| 1.5 * x).collect();
    let query = verify::Fill::Small.matrix(1, dim, 4);
    let own = 17;
    let scores: Vec<f64> = table.chunks(dim).map(|k| dot(&wide(k), &wide(&query))).collect();
    let want: f64 = scores.iter().enumerate().filter(|(k, _)| *k != own).map(|(_, s)| s.exp()).sum();
    let weights: Vec<f32> = (0..n).map(|k| 1.0 + k as f32).collect();
    let popularity = Popularity::new(&weights, 0.75).unwrap();
    let words = gpu.upload(popularity.words()).unwrap();
    for proposal in [
        Proposal::Uniform { n: n as u32 },
        Proposal::LogUniform { n: n as u32 },
        Proposal::Table { table: Tensor::matrix(&words, n, 3).unwrap(), uniform: 0.2 },
    ] {
        let (starts, items) = (gpu.upload(&[0u32, 1]).unwrap(), gpu.upload(&[own as u32]).unwrap());
        let ids = gpu.zeros::<u32>(rows * count).unwrap();
        let log_q = gpu.zeros::<f32>(rows * count).unwrap();
        let ids = Tensor::<u32>::matrix(&ids, rows, count).unwrap();
        let log_q = Tensor::<f32>::matrix(&log_q, rows, count).unwrap();
        let options = Options { seed: 6, expected: true, ..Default::default() };
        gpu.run(|recorder| {
            let reject = Lists { starts: Tensor::vector(&starts, 2)?, items: Tensor::vector(&items, 1)?, list: None };
            sample::draw(recorder, proposal, Some(reject), ids, log_q, options)
        })
        .unwrap();
        let (drawn, log_q) = (gpu.read(ids).unwrap(), gpu.read(log_q).unwrap());
        let (keys, query_rows): (Vec<f32>, Vec<f32>) =
            (drawn.iter().flat_map(|&id| table[id as usize * dim..][..dim].to_vec()).collect(), query.repeat(rows));
        let positive = table[own * dim..][..dim].repeat(rows);
        let [q, k, each, log_q] = [&query_rows, &positive, &keys, &log_q].map(|data| gpu.upload(data).unwrap());
        let losses = gpu.zeros::<f32>(rows).unwrap();
        let state = gpu.zeros::<f32>(rows * 4).unwrap();
        let loss = Tensor::vector(&losses, rows).unwrap();
        let one = info_nce::Options {
            temperature: 1.0,
            in_batch: false,
            reduction: wgloss::Reduction::None,
            ..Default::default()
        };
        gpu.run(|recorder| {
            let each = info_nce::Negatives {
                log_q: Some(Tensor::vector(&log_q, rows * count)?),
                ..Tensor::matrix(&each, rows * count, dim)?.into()
            };
            let (q, k) = (Tensor::matrix(&q, rows, dim)?, Tensor::matrix(&k, rows, dim)?);
            let batch = info_nce::Batch { each: Some(each), ..info_nce::Batch::new(q, k) };
            info_nce::forward(recorder, batch, loss, Tensor::matrix(&state, rows, 4)?, Default::default(), one)
        })
        .unwrap();
        // loss = ln(1 + Σ/e^s), so that Σ = e^s (e^loss − 1).
        let sums: Vec<f64> =
            gpu.read(loss).unwrap().iter().map(|&loss| scores[own].exp() * f64::from(loss).exp_m1()).collect();
        let mean = sums.iter().sum::<f64>() / rows as f64;
        let variance = sums.iter().map(|sum| (sum - mean).powi(2)).sum::<f64>() / (rows as f64 - 1.0);
        let error = (variance / rows as f64).sqrt();
        assert!(error < 0.01 * want, "{error} of {want}");
        assert!((mean - want).abs() < 4.0 * error, "{mean} +- {error}, want {want}");
    }
}

/// What is drawn where nothing is left: no row of a table, and no negative.
#[test]
fn nothing_left() {
    let Some(gpu) = gpu() else { return };
    let (starts, items) = (gpu.upload(&[0u32, 3]).unwrap(), gpu.upload(&[0u32, 1, 2]).unwrap());
    let popularity = Popularity::new(&[1.0, 0.0, 2.0], 1.0).unwrap();
    let words = gpu.upload(popularity.words()).unwrap();
    let table = Tensor::matrix(&words, 3, 3).unwrap();
    for proposal in [Proposal::Uniform { n: 3 }, Proposal::LogUniform { n: 3 }, Proposal::Table { table, uniform: 0.0 }]
    {
        let (ids, log_q) = (gpu.zeros::<u32>(2).unwrap(), gpu.zeros::<f32>(2).unwrap());
        let (ids, log_q) = (Tensor::<u32>::matrix(&ids, 1, 2).unwrap(), Tensor::<f32>::matrix(&log_q, 1, 2).unwrap());
        let reject = Lists {
            starts: Tensor::vector(&starts, 2).unwrap(),
            items: Tensor::vector(&items, 3).unwrap(),
            list: None,
        };
        gpu.run(|recorder| sample::draw(recorder, proposal, Some(reject), ids, log_q, Options::default())).unwrap();
        assert_eq!(gpu.read(ids).unwrap(), [u32::MAX; 2]);
        assert_eq!(gpu.read(log_q).unwrap(), [f32::INFINITY; 2]);
    }
}

#[test]
fn refusals() {
    let Some(gpu) = gpu() else { return };
    let ids = gpu.zeros::<u32>(12).unwrap();
    let log_q = gpu.zeros::<f32>(12).unwrap();
    let (ids, log_q) = (Tensor::<u32>::matrix(&ids, 4, 3).unwrap(), Tensor::<f32>::matrix(&log_q, 4, 3).unwrap());
    let refuse = |proposal, lists, log_q| {
        refused(gpu, &[], |recorder| sample::draw(recorder, proposal, lists, ids, log_q, Options::default()))
    };
    let uniform = Proposal::Uniform { n: 5 };
    assert_eq!(refuse(uniform, None, log_q.col_range(0..2)), shape("sample", "log_q", "4 x 3", "4 x 2"));
    assert_eq!(refuse(Proposal::Uniform { n: 0 }, None, log_q), option("sample", "n", "at least 1", "0"));
    let most = Proposal::LogUniform { n: (1 << 31) + 1 };
    assert_eq!(refuse(most, None, log_q), option("sample", "n", "at most 2^31", "2147483649"));
    let words = gpu.zeros::<u32>(12).unwrap();
    let table = Tensor::<u32>::matrix(&words, 4, 3).unwrap();
    let share = Proposal::Table { table, uniform: 1.5 };
    assert_eq!(refuse(share, None, log_q), option("sample", "uniform", "from 0 to 1", "1.5"));
    let narrow = Proposal::Table { table: table.col_range(0..2), uniform: 0.0 };
    assert_eq!(refuse(narrow, None, log_q), shape("sample", "table", "4 x 3", "4 x 2"));
    let column = |rows| Tensor::<u32>::vector(&words, rows).unwrap();
    let none = Lists { starts: column(0), items: column(3), list: None };
    assert_eq!(
        refuse(uniform, Some(none), log_q),
        shape("sample", "starts", "1 row and one more for each list", "none")
    );
    let short = Lists { starts: column(2), items: column(3), list: Some(column(3)) };
    assert_eq!(refuse(uniform, Some(short), log_q), shape("sample", "list", "4 x 1", "3 x 1"));
    assert_eq!(refuse(Proposal::Table { table: ids, uniform: 0.0 }, None, log_q), overlap("sample", "ids", "table"));
    for (weights, power, want) in [
        (&[1.0, -1.0][..], 1.0, option("sample", "weights", "numbers of at least 0", "-1 for id 1")),
        (&[f32::NAN], 1.0, option("sample", "weights", "numbers of at least 0", "NaN for id 0")),
        (&[0.0, 0.0], 1.0, option("sample", "weights", "fewer than 2^32 with a sum above 0", "2 with the sum 0")),
        (&[], 1.0, option("sample", "weights", "fewer than 2^32 with a sum above 0", "0 with the sum 0")),
        (&[1.0], f64::NAN, option("sample", "power", "a number", "NaN")),
    ] {
        assert_eq!(Popularity::new(weights, power).unwrap_err(), want);
    }
}

/// A table's words say each probability within 2⁻³², and never draw what has no weight.
#[test]
fn popularity_is_what_its_words_draw() {
    let weights: Vec<f32> = (0..1001).map(|k| if k % 4 == 0 { 0.0 } else { ((k * 37 % 101) as f32).exp2() }).collect();
    for power in [1.0, 0.75, 0.0, -0.5] {
        let popularity = Popularity::new(&weights, power).unwrap();
        let n = weights.len();
        let mut q = vec![0.0; n];
        for (k, row) in popularity.words().chunks_exact(3).enumerate() {
            let stays = if row[0] == u32::MAX { 1.0 } else { f64::from(row[0]) / 2f64.powi(32) };
            q[k] += stays / n as f64;
            q[row[1] as usize] += (1.0 - stays) / n as f64;
        }
        let raised: Vec<f64> = weights.iter().map(|&w| if w > 0.0 { f64::from(w).powf(power) } else { 0.0 }).collect();
        let sum: f64 = raised.iter().sum();
        for (k, (q, raised)) in q.iter().zip(&raised).enumerate() {
            assert!((q - raised / sum).abs() < 1e-9, "id {k} at power {power}: {q}, want {}", raised / sum);
            assert!(*raised > 0.0 || *q == 0.0, "id {k} has no weight and probability {q}");
        }
    }
}
