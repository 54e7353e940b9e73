use super::{Check, Fill, cast, rounded};
use crate::reference::folding as textbook;
use crate::{Random, Result, Storage, folding};

pub(super) async fn cases(check: &mut Check) -> Result<()> {
    // queries, keys, dim
    for size in [[1, 1, 1], [2, 3, 3], [65, 7, 33], [130, 131, 100], [3, 257, 7]] {
        for fill in [Fill::Equal, Fill::Small, Fill::Outlier] {
            case(check, size, fill, Storage::F32).await?;
        }
        for &storage in check.storages() {
            case(check, size, Fill::Small, storage).await?;
        }
    }
    Ok(())
}

pub(super) async fn drawn(check: &mut Check) -> Result<()> {
    let draw = &mut check.draw;
    let [n, m, dim] = draw.pairs(300_000);
    check.gpu = draw.in_chunks(&check.gpu, n * m);
    let fill = draw.fill_of_pairs(dim, n * m, &[Fill::Equal, Fill::Small, Fill::Outlier]);
    let storage = draw.storage();
    case(check, [n, m, dim], fill, storage).await
}

async fn case(check: &mut Check, [queries, keys, dim]: [usize; 3], fill: Fill, storage: Storage) -> Result<()> {
    check.case(format_args!("{queries} x {keys} x {dim} {fill:?} {storage:?}"));
    let matrix = |rows, seed| rounded(storage, &fill.matrix(rows, dim, seed));
    let (q, k) = (matrix(queries, 31), matrix(keys, 32));
    let mut random = Random::new(33, 0);
    let mut blocks = |rows| -> Vec<u32> { (0..rows).map(|_| random.below(3)).collect() };
    let (of_q, of_k) = (blocks(queries), blocks(keys));
    let (held_q, held_k) = (check.input_as(storage, queries, dim, &q)?, check.input_as(storage, keys, dim, &k)?);
    let (held_of_q, held_of_k) = (check.input(queries, 1, &of_q)?, check.input(keys, 1, &of_k)?);
    let sums = check.output(2, 1)?;
    check.run(|recorder| {
        let (q, k, sums) = (held_q.view()?, held_k.view()?, sums.view()?);
        folding::forward(recorder, q, k, held_of_q.view()?, held_of_k.view()?, sums)
    })?;
    let want = textbook::forward::<f64>(&cast(&q), &cast(&k), dim, &of_q, &of_k);
    // The f32 error of each score counts by its magnitude. In the sum, errors of rows that are all equal or all
    // different may cancel or not.
    let lost = |own: bool| -> f64 {
        let score = |q: &[f32], k: &[f32]| {
            let wide: f64 = q.iter().zip(k).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum();
            (wide - f64::from(q.iter().zip(k).map(|(q, k)| q * k).sum::<f32>())).abs()
        };
        let of_pair = |i: usize, j: usize| score(&q[i * dim..][..dim], &k[j * dim..][..dim]);
        let pairs = (0..queries).flat_map(|i| (0..keys).map(move |j| (i, j)));
        pairs.filter(|&(i, j)| !own || of_q[i] == of_k[j]).map(|(i, j)| of_pair(i, j)).sum()
    };
    let yardstick = [want[0] + lost(false), want[1] + lost(true)].map(|sum| sum as f32);
    // The terms of each score, and the 1 that may be subtracted from it.
    let sizes = |x: &[f32]| -> Vec<f64> { x.iter().map(|x| f64::from(x.abs())).collect() };
    let [all, within] = textbook::forward(&sizes(&q), &sizes(&k), dim, &of_q, &of_k);
    let terms = [all + (queries * keys) as f64, within];
    check.compare_sum("sums", &sums, &want, &yardstick, &terms).await
}
