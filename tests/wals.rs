use std::ops::ControlFlow;

use wgloss::reference::wals as reference;
use wgloss::train::tables::{End, Interactions, Model, recommend};
use wgloss::train::wals::{Config, Event, Preset, Solver, Values, fit, fit_from, fold_in};
use wgloss::verify::Fill;
use wgloss::{Error, Gpu, Random, Storage, Tensor, Tuning, linear, wals, wgpu};

use crate::harness::*;

#[test]
fn verified() {
    verifies("wals");
}

/// A matrix of observations with rows of any length.
struct Data {
    starts: Vec<u32>,
    ids: Vec<u32>,
    y: Vec<f32>,
    dim: usize,
    ridge: Vec<f32>,
}

/// How rows are solved: exactly, by steps in the Gramian's basis or with the Gramian as it is.
#[derive(Debug, Clone, Copy)]
enum By {
    Cholesky,
    Turned(usize),
    Plain(usize),
}

const OPTIONS: wals::Options = wals::Options { unobserved: 0.5, weight: 2.0, goal: 0.5 };

impl Data {
    fn new(lengths: &[u32], items: usize, dim: usize) -> Data {
        let mut starts = vec![0];
        lengths.iter().for_each(|length| starts.push(starts[starts.len() - 1] + length));
        let mut random = Random::new(5, 0);
        let ids = (0..starts[lengths.len()]).map(|_| random.below(items as u32)).collect();
        Data { starts, ids, y: Fill::Small.matrix(items, dim, 3), dim, ridge: vec![1.5; lengths.len()] }
    }

    fn entries(&self) -> Vec<Vec<(usize, f64, f64)>> {
        let of = |pair: &[u32]| self.ids[pair[0] as usize..pair[1] as usize].iter().map(|&id| (id as usize, 2.0, 0.5));
        self.starts.windows(2).map(|pair| of(pair).collect()).collect()
    }

    /// x, and the objective's parts of each row.
    fn solve(&self, gpu: &Gpu) -> Result<(Vec<f32>, Vec<f64>), Error> {
        self.solve_by(gpu, By::Cholesky)
    }

    /// From 0; after steps all pairs are in the objective's parts.
    fn solve_by(&self, gpu: &Gpu, by: By) -> Result<(Vec<f32>, Vec<f64>), Error> {
        let (rows, items) = (self.ridge.len(), self.y.len() / self.dim);
        let of_rows = wals::Rows::new(gpu, &self.starts, self.dim)?;
        let (y, ids, ridge) = (gpu.upload(&self.y)?, gpu.upload(&self.ids)?, gpu.upload(&self.ridge)?);
        let (gramian, x) = (gpu.zeros::<f32>(self.dim * self.dim)?, gpu.zeros::<f32>(rows * self.dim)?);
        let loss = gpu.zeros::<f32>(of_rows.pieces())?;
        let (y, gramian) = (Tensor::matrix(&y, items, self.dim)?, Tensor::matrix(&gramian, self.dim, self.dim)?);
        let (x, ridge) = (Tensor::matrix(&x, rows, self.dim)?, Tensor::vector(&ridge, rows)?);
        let loss = Tensor::vector(&loss, of_rows.pieces())?;
        let ids = Tensor::vector(&ids, self.ids.len())?;
        let observed = wals::Observed { rows: &of_rows, items: ids, weights: None, goals: None };
        gpu.run(|recorder| wals::gramian(recorder, y, gramian))?;
        let [vectors, values] = wals::eigen(&gpu.read(gramian)?, self.dim).map(|numbers| gpu.upload(&numbers));
        let (vectors, values, turned) = (vectors?, values?, gpu.zeros::<f32>(self.y.len())?);
        let vectors = Tensor::matrix(&vectors, self.dim, self.dim)?;
        let base = wals::Base::Eigen { vectors, values: Tensor::matrix(&values, 1, self.dim)? };
        let turned = Tensor::matrix(&turned, items, self.dim)?;
        gpu.run(|recorder| match by {
            By::Cholesky => {
                wals::solve(recorder, y, observed, gramian, ridge, x, OPTIONS)?;
                wals::objective(recorder, x, y, observed, ridge, loss, OPTIONS)
            }
            By::Turned(steps) => {
                linear::forward(recorder, y, vectors, None, turned)?;
                wals::refine(recorder, turned, observed, base, ridge, x, loss, steps, OPTIONS)
            }
            By::Plain(steps) => {
                let base = wals::Base::Gramian(gramian);
                wals::refine(recorder, y, observed, base, ridge, x, loss, steps, OPTIONS)
            }
        })?;
        let mut of_row = vec![0.0; rows];
        for (piece, part) in gpu.read(loss)?.into_iter().enumerate() {
            of_row[of_rows.row_of(piece)] += f64::from(part);
        }
        Ok((gpu.read(x)?, of_row))
    }
}

/// Two numbers by hand: w₀ 0.5, one user with one item y = 2, w = 2, r = 0.5, λ = 1.5: x = 2·0.5·2 / (0.5·4 + 1.5·4 + 1.5).
#[test]
fn by_hand() {
    let Some(gpu) = gpu() else { return };
    let data = Data { starts: vec![0, 1, 1], ids: vec![0], y: vec![2.0], dim: 1, ridge: vec![1.5; 2] };
    let (x, parts) = data.solve(gpu).unwrap();
    let want = 2.0 / 9.5;
    assert!((f64::from(x[0]) - want).abs() < 1e-7 && x[1] == 0.0, "{x:?}");
    let s = 2.0 * want;
    let part = 2.0 * (0.5 - s) * (0.5 - s) - 0.5 * s * s + 1.5 * want * want;
    assert!((parts[0] - part).abs() < 1e-7 && parts[1] == 0.0, "{parts:?}");
}

/// The gradient of the whole objective, every pair of it, is zero where the op says that the minimum is.
#[test]
fn at_the_minimum_the_gradient_is_zero() {
    let data = Data::new(&[5, 0, 17, 9], 12, 6);
    let (wide_y, rows) = (wide(&data.y), data.entries());
    let x = reference::solve(&wide_y, 6, &rows, 0.5, &[1.5; 4]);
    for (x, entries) in x.chunks(6).zip(&rows) {
        let score = |item: usize| -> f64 { x.iter().zip(&wide_y[6 * item..]).map(|(x, y)| x * y).sum() };
        for d in 0..6 {
            let all: f64 = (0..12).map(|item| score(item) * wide_y[6 * item + d]).sum();
            let seen: f64 = entries
                .iter()
                .map(|&(item, w, r)| (w * (score(item) - r) - 0.5 * score(item)) * wide_y[6 * item + d])
                .sum();
            let gradient = 0.5 * all + seen + 1.5 * x[d];
            assert!(gradient.abs() < 1e-12, "{gradient}");
        }
    }
}

/// Rows of several pieces, batches of few rows, and a y of several bindings.
#[test]
fn long_rows_small_workspaces_and_small_bindings() {
    let Some(gpu) = gpu() else { return };
    let data = Data::new(&[5000, 3, 0, 2049, 40, 41], 700, 20);
    let rows = data.entries();
    let want = reference::solve(&wide(&data.y), 20, &rows, 0.5, &wide(&data.ridge));
    let limits = wgpu::Limits { max_storage_buffer_binding_size: 1 << 15, ..Default::default() };
    let small = open(Some(limits)).unwrap();
    let tight = |gpu: &Gpu, workspace| gpu.with_tuning(Tuning { workspace, ..*gpu.tuning() });
    for gpu in [gpu.clone(), tight(gpu, 1 << 12), tight(gpu, 1), tight(&small, 1 << 14)] {
        let (x, parts) = data.solve(&gpu).unwrap();
        let largest = want.iter().fold(0.0, |most: f64, value| most.max(value.abs()));
        for (at, (got, want)) in x.iter().zip(&want).enumerate() {
            assert!((f64::from(*got) - want).abs() < 2e-5 * largest, "{at}: {got} {want} {:?}", gpu.tuning());
        }
        let of_rows = reference::objective(&wide(&x), &wide(&data.y), 20, &rows, 0.5, &wide(&data.ridge));
        for (got, (want, terms)) in parts.iter().zip(of_rows) {
            assert!((got - want).abs() <= 2e-6 * terms, "{got} {want}");
        }
        for by in [By::Turned(25), By::Plain(40)] {
            let (refined, with_all) = data.solve_by(&gpu, by).unwrap();
            for (got, want) in refined.iter().zip(&want) {
                assert!((f64::from(*got) - want).abs() < 2e-5 * largest, "{by:?}: {got} {want} {:?}", gpu.tuning());
            }
            for ((part, x), got) in parts.iter().zip(x.chunks(20)).zip(with_all) {
                let score = |y: &[f32]| y.iter().zip(x).map(|(y, x)| f64::from(y * x)).sum::<f64>();
                let want = part + 0.5 * data.y.chunks(20).map(|y| score(y).powi(2)).sum::<f64>();
                assert!((got - want).abs() <= 1e-5 * want.abs(), "{by:?}: {got} {want}");
            }
        }
    }
    // An x of several bindings.
    let data = Data::new(&[2; 500], 700, 20);
    let want = reference::solve(&wide(&data.y), 20, &data.entries(), 0.5, &wide(&data.ridge));
    for by in [By::Cholesky, By::Turned(25), By::Plain(40)] {
        let (x, parts) = data.solve_by(&small, by).unwrap();
        let largest = want.iter().fold(0.0, |most: f64, value| most.max(value.abs()));
        assert!(x.iter().zip(&want).all(|(got, want)| (f64::from(*got) - want).abs() < 2e-5 * largest));
        assert!(parts.len() == 500 && parts.iter().all(|part| part.is_finite()));
    }
}

/// Widths that end anywhere among sixteen columns of L.
const WIDTHS: [usize; 18] = [1, 2, 3, 4, 5, 8, 11, 12, 16, 17, 20, 32, 33, 47, 64, 68, 127, 132];

fn solves_widths(gpu: &Gpu) {
    for dim in WIDTHS {
        let data = Data::new(&[5, 0, 17, 90], 120, dim);
        let (x, _) = data.solve(gpu).unwrap();
        let want = reference::solve(&wide(&data.y), dim, &data.entries(), 0.5, &wide(&data.ridge));
        let largest = want.iter().fold(0.0, |most: f64, value| most.max(value.abs()));
        for (at, (got, want)) in x.iter().zip(&want).enumerate() {
            assert!((f64::from(*got) - want).abs() < 2e-5 * largest, "{dim}: {at}: {got} {want} {:?}", gpu.tuning());
        }
    }
}

#[test]
fn any_width() {
    let Some(gpu) = gpu() else { return };
    solves_widths(gpu);
}

/// Four lanes, which have up to sixteen rows of L at once and more in turns.
#[test]
fn widths_by_turns() {
    let Some(gpu) = gpu() else { return };
    let few = Tuning { workgroup: 32, widest: 32, tile_x: 4, tile_y: 1, unrolled: false, ..Tuning::GPU };
    solves_widths(&gpu.with_tuning(few));
}

/// The parts that `refine` tells are those of what it found, after any number of steps, and no step raises them.
#[test]
fn steps_lower_the_objective() {
    let Some(gpu) = gpu() else { return };
    let data = Data::new(&[60, 3, 0, 25], 90, 16);
    for by in [By::Turned, By::Plain] {
        let mut before = [f64::INFINITY; 4];
        for steps in 0..6 {
            let (x, parts) = data.solve_by(gpu, by(steps)).unwrap();
            let own = reference::objective(&wide(&x), &wide(&data.y), 16, &data.entries(), 0.5, &wide(&data.ridge));
            for (row, (own, x)) in own.iter().zip(x.chunks(16)).enumerate() {
                let score = |y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
                let want = own.0 + 0.5 * data.y.chunks(16).map(|y| score(y).powi(2)).sum::<f64>();
                let says = format!("{:?}, row {row}", by(steps));
                assert!((parts[row] - want).abs() <= 1e-5 * own.1, "{says}: {} {want}", parts[row]);
                assert!(parts[row] <= before[row], "{says}");
                before[row] = parts[row];
            }
        }
    }
}

/// A symmetric matrix of any rank is its eigenvectors and eigenvalues, of none, one, and some numbers.
#[test]
fn eigenvectors() {
    for (dim, rank) in [(0, 0), (1, 1), (2, 1), (7, 7), (40, 12), (65, 300)] {
        let data = wide(&Fill::Small.matrix(rank, dim, 5));
        let entry = |i: usize, j: usize| data.chunks(dim.max(1)).map(|row| row[i] * row[j]).sum::<f64>() as f32;
        let matrix: Vec<f32> = (0..dim * dim).map(|at| entry(at / dim, at % dim)).collect();
        let [vectors, values] = wals::eigen(&matrix, dim);
        let largest = values.iter().fold(0.0f32, |most, value| most.max(value.abs()));
        for (at, want) in matrix.iter().enumerate() {
            let (i, j) = (at / dim, at % dim);
            let column = |j: usize| vectors.iter().skip(j).step_by(dim.max(1));
            let back: f32 = column(i).zip(column(j)).zip(&values).map(|((a, b), value)| a * b * value).sum();
            assert!((back - want).abs() <= 2e-6 * largest, "{dim}, rank {rank}: {back} {want}");
            let along: f32 = vectors[i * dim..][..dim].iter().zip(&vectors[j * dim..]).map(|(a, b)| a * b).sum();
            assert!((along - f32::from(u8::from(i == j))).abs() < 1e-6, "{dim}, rank {rank}: {along}");
        }
        let zeros = values.iter().filter(|value| value.abs() <= 1e-6 * largest).count();
        assert_eq!(zeros, dim.saturating_sub(rank), "{values:?}");
    }
    assert!(wals::eigen(&[f32::NAN; 9], 3)[1].iter().any(|value| value.is_nan()));
}

#[test]
fn same_bits() {
    let Some(gpu) = gpu() else { return };
    let data = Data::new(&[5000, 3, 70, 41], 200, 64);
    assert_eq!(data.solve(gpu).unwrap(), data.solve(gpu).unwrap());
    for by in [By::Turned(3), By::Plain(3)] {
        assert_eq!(data.solve_by(gpu, by).unwrap(), data.solve_by(gpu, by).unwrap());
    }
}

/// A row that its data do not determine, a NaN, an id that is no row.
#[test]
fn special_values() {
    let Some(gpu) = gpu() else { return };
    let mut data = Data::new(&[2, 30, 2], 9, 4);
    data.y[4 * 8] = f32::NAN;
    data.ids.iter_mut().for_each(|id| *id %= 8);
    (data.ids[0], data.ids[32]) = (8, 9);
    let (x, _) = data.solve(gpu).unwrap();
    assert!(x.iter().all(|x| x.is_nan()), "the Gramian has a NaN: {x:?}");
    data.y[4 * 8] = 0.25;
    let (x, _) = data.solve(gpu).unwrap();
    assert!(x.iter().all(|x| x.is_finite()), "{x:?}");
    // Without λ and w₀ two observations do not determine four numbers.
    let (y, ids) = (input(gpu, 2, 4, &data.y[..8]), input(gpu, 2, 1, &[0u32, 1]));
    let (ridge, x, gramian) = (input(gpu, 1, 1, &[0.0f32]), output(gpu, 1, 4), input(gpu, 4, 4, &[0.0f32; 16]));
    let rows = wals::Rows::new(gpu, &[0, 2], 4).unwrap();
    let observed = wals::Observed { rows: &rows, items: ids.view().unwrap(), weights: None, goals: None };
    let options = wals::Options { unobserved: 0.0, ..OPTIONS };
    gpu.run(|recorder| wals::solve(recorder, view(&y), observed, view(&gramian), view(&ridge), view(&x), options))
        .unwrap();
    assert!(read(gpu, &x).iter().all(|x| x.is_nan()));
}

/// Pieces are padded to whole blocks; what they are padded with is nobody's observation.
#[test]
fn a_weight_that_is_no_number_spoils_its_own_row_only() {
    let Some(gpu) = gpu() else { return };
    let (y, ids) = (input(gpu, 3, 4, &Fill::Small.matrix(3, 4, 2)), input(gpu, 4, 1, &[0u32, 1, 2, 0]));
    let (ridge, gramian) = (input(gpu, 2, 1, &[1.0f32; 2]), input(gpu, 4, 4, &[0.0f32; 16]));
    let rows = wals::Rows::new(gpu, &[0, 1, 4], 4).unwrap();
    let solve = |first: f32| {
        let (weights, x) = (input(gpu, 4, 1, &[first, 1.0, 2.0, 3.0]), output(gpu, 2, 4));
        let weights = Some(view(&weights));
        let observed = wals::Observed { rows: &rows, items: ids.view().unwrap(), weights, goals: None };
        gpu.run(|recorder| wals::solve(recorder, view(&y), observed, view(&gramian), view(&ridge), view(&x), OPTIONS))
            .unwrap();
        read(gpu, &x)
    };
    let (found, want) = (solve(f32::NAN), solve(1.0));
    assert!(found[..4].iter().all(|x| x.is_nan()), "{found:?}");
    assert_eq!(found[4..], want[4..]);
}

#[test]
fn refusals() {
    let Some(gpu) = gpu() else { return };
    let data = |found: &str, expected: &str| Error::Data {
        what: "starts".into(),
        expected: expected.into(),
        found: found.into(),
    };
    assert_eq!(wals::Rows::new(gpu, &[], 4).unwrap_err(), data("none", "0 as the first"));
    assert_eq!(wals::Rows::new(gpu, &[0, 3, 2], 4).unwrap_err(), data("2 after 3, of row 1", "ascending"));
    let rows = wals::Rows::new(gpu, &[0, 2, 3], 4).unwrap();
    let (y, x, gramian, ridge) = (output(gpu, 5, 4), output(gpu, 2, 4), output(gpu, 4, 4), output(gpu, 2, 1));
    let (ids, loss) = (input(gpu, 3, 1, &[0u32; 3]), output(gpu, 2, 1));
    let (y, gramian, ridge, items) = (view(&y), view(&gramian), view(&ridge), ids.view().unwrap());
    let all = wals::Observed { rows: &rows, items, weights: None, goals: None };
    let solve = |y: Tensor, all: wals::Observed, g: Tensor, ridge: Tensor, options| {
        refused(gpu, &[&x], |recorder| wals::solve(recorder, y, all, g, ridge, view(&x), options))
    };
    assert_eq!(solve(y.col_range(0..3), all, gramian, ridge, OPTIONS), shape("wals", "x", "2 x 3", "2 x 4"));
    assert_eq!(solve(y, all, gramian.row_range(0..3), ridge, OPTIONS), shape("wals", "gramian", "4 x 4", "3 x 4"));
    assert_eq!(solve(y, all, gramian, ridge.row_range(0..1), OPTIONS), shape("wals", "ridge", "2 x 1", "1 x 1"));
    let few = wals::Observed { items: items.row_range(0..2), ..all };
    assert_eq!(solve(y, few, gramian, ridge, OPTIONS), shape("wals", "items", "3 x 1", "2 x 1"));
    let own = wals::Observed { weights: Some(ridge), ..all };
    assert_eq!(solve(y, own, gramian, ridge, OPTIONS), shape("wals", "weights", "3 x 1", "2 x 1"));
    let own = wals::Observed { goals: Some(ridge), ..all };
    assert_eq!(solve(y, own, gramian, ridge, OPTIONS), shape("wals", "goals", "3 x 1", "2 x 1"));
    let negative = wals::Options { unobserved: -1.0, ..OPTIONS };
    assert_eq!(solve(y, all, gramian, ridge, negative), option("wals", "unobserved", "a number of at least 0", "-1"));
    let none = wals::Options { goal: f32::NAN, ..OPTIONS };
    assert_eq!(solve(y, all, gramian, ridge, none), option("wals", "goal", "a number", "NaN"));
    assert_eq!(solve(view(&x).row_range(0..1), all, gramian, ridge, OPTIONS), overlap("wals", "x", "y"));
    let refine = |vectors: Tensor, values: Tensor, loss: Tensor| {
        refused(gpu, &[&x], |recorder| {
            wals::refine(recorder, y, all, wals::Base::Eigen { vectors, values }, ridge, view(&x), loss, 2, OPTIONS)
        })
    };
    let row = gramian.row_range(0..1);
    assert_eq!(refine(row, row, view(&loss)), shape("wals", "vectors", "4 x 4", "1 x 4"));
    assert_eq!(refine(gramian, gramian, view(&loss)), shape("wals", "values", "1 x 4", "4 x 4"));
    assert_eq!(refine(gramian, row, view(&loss).row_range(0..1)), shape("wals", "loss", "2 x 1", "1 x 1"));
    assert_eq!(refine(gramian, row, ridge), overlap("wals", "loss", "ridge"));
    let measure = |loss: Tensor| {
        refused(gpu, &[&x], |recorder| wals::objective(recorder, view(&x), y, all, ridge, loss, OPTIONS))
    };
    assert_eq!(measure(view(&loss).row_range(0..1)), shape("wals", "loss", "2 x 1", "1 x 1"));
    assert_eq!(measure(ridge), overlap("wals", "loss", "ridge"));
}

#[test]
fn nothing() {
    let Some(gpu) = gpu() else { return };
    // Scratch holds what the long rows left.
    Data::new(&[9; 40], 30, 132).solve_by(gpu, By::Turned(1)).unwrap();
    let (exactly, turned, plain) = (By::Cholesky, By::Turned(2), By::Plain(2));
    let few: &[_] = &[0, 0];
    let cases = [
        (&[][..], 4, exactly),
        (few, 4, exactly),
        (few, 4, turned),
        (few, 4, plain),
        (few, 132, turned),
        (few, 132, plain),
    ];
    for (lengths, dim, by) in cases {
        let (x, parts) = Data::new(lengths, 3, dim).solve_by(gpu, by).unwrap();
        assert!(x.iter().all(|&x| x == 0.0) && x.len() == lengths.len() * dim);
        assert!(parts.iter().all(|&part| part == 0.0));
    }
}

/// The weight and goal of a pair, as papers and the libraries have them.
fn of_pair(values: Values, config: &Config, (user, item): (u32, u32), value: f32) -> (f64, f64) {
    let of = |weights: Option<&[f32]>, id: u32| weights.map_or(1.0, |weights| f64::from(weights[id as usize]));
    let both = of(values.users, user) * of(values.items, item);
    let (value, liked) = (f64::from(value), if value > 0.0 { 1.0 } else { 0.0 });
    match config.preset {
        // (1 - s)² + w₀ s², but for a number without s
        Preset::Ials { unobserved } => (1.0 + f64::from(unobserved), 1.0 / (1.0 + f64::from(unobserved))),
        Preset::Hu { alpha } => (1.0 + f64::from(alpha) * value, liked),
        Preset::Implicit { alpha } => (f64::from(alpha) * value.abs(), liked),
        Preset::Tf { unobserved } => (f64::from(unobserved) + both, value),
        Preset::Explicit => (1.0, value),
    }
}

/// The weight of a pair that was not observed.
fn of_others(config: &Config) -> f64 {
    match config.preset {
        Preset::Ials { unobserved } | Preset::Tf { unobserved } => unobserved.into(),
        Preset::Hu { .. } | Preset::Implicit { .. } => 1.0,
        Preset::Explicit => 0.0,
    }
}

/// λ of the users or items, `side` 0 or 1, of which `count` others may be observed.
fn ridges(pairs: &[(u32, u32)], config: &Config, side: usize, [rows, count]: [usize; 2]) -> Vec<f64> {
    let all = of_others(config) * count as f64;
    let own = |row: usize| pairs.iter().filter(|pair| [pair.0, pair.1][side] as usize == row).count() as f64;
    let power = config.exponent.into();
    (0..rows).map(|row| f64::from(config.regularization) * (own(row) + all).powf(power)).collect()
}

/// The objective of factors of users and items, with the dense matrix.
fn objective(values: Values, pairs: &[(u32, u32)], config: &Config, factors: [&[f64]; 2]) -> f64 {
    let dim = config.dim;
    let unobserved = of_others(config);
    let counts = factors.map(|factor| factor.len() / dim);
    let score =
        |u: usize, i: usize| -> f64 { (0..dim).map(|d| factors[0][u * dim + d] * factors[1][i * dim + d]).sum() };
    let all = (0..counts[0]).flat_map(|u| (0..counts[1]).map(move |i| (u, i)));
    let mut sum: f64 = all.map(|(u, i)| unobserved * score(u, i).powi(2)).sum();
    for (&pair, &value) in pairs.iter().zip(values.pairs.unwrap()) {
        let (weight, goal) = of_pair(values, config, pair, value);
        let score = score(pair.0 as usize, pair.1 as usize);
        sum += weight * (goal - score).powi(2) - unobserved * score.powi(2);
    }
    for side in [0, 1] {
        let ridges = ridges(pairs, config, side, [counts[side], counts[1 - side]]);
        let squares = factors[side].chunks(dim).map(|row| row.iter().map(|v| v * v).sum::<f64>());
        sum += squares.zip(ridges).map(|(square, ridge)| square * ridge).sum::<f64>();
    }
    sum
}

/// What [`fit`] computes, in f64 and with the dense matrix: the objective after each half of a sweep.
fn dense(data: &Interactions, values: Values, pairs: &[(u32, u32)], config: &Config) -> Vec<f64> {
    let counts = [data.lists().len(), data.popularity().len()];
    let (dim, unobserved) = (config.dim, of_others(config));
    let mut random = Random::new(config.seed, 0);
    let scale = config.start / (dim as f32).sqrt();
    let is_positive = matches!(config.preset, Preset::Hu { .. } | Preset::Implicit { .. });
    let of = |share: f32| if is_positive { share } else { 2.0 * share - 1.0 };
    let start = (0..counts[1] * dim).map(|_| f64::from(scale * of(random.uniform()))).collect();
    let mut factors: [Vec<f64>; 2] = [Vec::new(), start];
    let mut rows: [Vec<Vec<(usize, f64, f64)>>; 2] = counts.map(|count| vec![Vec::new(); count]);
    for (&pair, &value) in pairs.iter().zip(values.pairs.unwrap()) {
        let (weight, goal) = of_pair(values, config, pair, value);
        rows[0][pair.0 as usize].push((pair.1 as usize, weight, goal));
        rows[1][pair.1 as usize].push((pair.0 as usize, weight, goal));
    }
    let half = |half: usize| {
        let side = half % 2;
        let ridges = ridges(pairs, config, side, [counts[side], counts[1 - side]]);
        factors[side] = reference::solve(&factors[1 - side], dim, &rows[side], unobserved, &ridges);
        objective(values, pairs, config, [&factors[0], &factors[1]])
    };
    (0..2 * config.sweeps).map(half).collect()
}

/// Every preset and solver, with each half of five sweeps: the objective is that of f64, and never rises.
#[test]
fn every_preset_agrees_with_the_dense_objective() {
    let Some(gpu) = gpu() else { return };
    let (users, items) = (60u32, 45u32);
    let mut random = Random::new(8, 0);
    let mut pairs: Vec<(u32, u32)> = (0..700).map(|_| (random.below(users), random.below(items))).collect();
    pairs.sort_unstable();
    pairs.dedup();
    let stars: Vec<f32> = pairs.iter().map(|_| 0.5 * (1 + random.below(10)) as f32).collect();
    let (of_users, of_items) = pairs.iter().copied().unzip();
    let data = Interactions::new(of_users, of_items, users as usize, items as usize).unwrap();
    let [user_weights, item_weights] =
        [users, items].map(|count| (0..count).map(|id| 0.5 + (id % 4) as f32).collect::<Vec<_>>());
    for (preset, regularization, exponent) in [
        (Preset::Ials { unobserved: 0.1 }, 0.05, 1.0),
        (Preset::Hu { alpha: 2.0 }, 1.0, 0.0),
        (Preset::Implicit { alpha: 3.0 }, 0.5, 0.0),
        (Preset::Tf { unobserved: 0.2 }, 0.5, 0.0),
        (Preset::Explicit, 0.1, 1.0),
    ] {
        let config = Config { dim: 12, sweeps: 5, preset, regularization, exponent, start: 1.0, ..Config::default() };
        // Some were not liked, as far as the preset knows how to say so.
        let factor = |e: usize| {
            if !e.is_multiple_of(7) {
                1.0
            } else if preset.takes_negative() {
                -1.0
            } else {
                0.0
            }
        };
        let stars: Vec<f32> = stars.iter().enumerate().map(|(e, stars)| factor(e) * stars).collect();
        let values = Values { users: Some(&user_weights), items: Some(&item_weights), ..Values::of(&stars) };
        let want = dense(&data, values, &pairs, &config);
        let fit = |solver: Solver| {
            let mut got = Vec::new();
            let outcome = fit(gpu, &data, values, &Config { solver: Some(solver), ..config }, &mut |event| {
                if let Event::Solved { objective, .. } = event {
                    got.push(objective);
                }
                ControlFlow::Continue(())
            });
            let outcome = outcome.unwrap();
            assert_eq!(outcome.objectives.len(), 5);
            let whole = objective(values, &pairs, &config, [&wide(&outcome.model.users), &wide(&outcome.model.items)]);
            assert!((got[9] - whole).abs() < 1e-5 * whole, "{preset:?}, {solver:?}: {} of {whole}", got[9]);
            assert!(got.windows(2).all(|pair| pair[1] <= pair[0] * (1.0 + 1e-6)), "{preset:?}: {got:?}");
            got
        };
        for (solver, off) in [(Solver::Direct, 1e-5), (Solver::Conjugate { steps: 12 }, 1e-4)] {
            let got = fit(solver);
            assert_eq!(got.len(), want.len());
            for (half, (got, want)) in got.iter().zip(&want).enumerate() {
                let says = format!("{preset:?}, {solver:?}, half {half}");
                assert!((got - want).abs() < off * want, "{says}: {got}, in f64 {want}");
            }
        }
        fit(Solver::Conjugate { steps: 2 });
    }
}

/// A fit goes on where another has stopped, and users whom it does not know get what it would give them.
#[test]
fn fits_go_on_and_users_are_folded_in() {
    let Some(gpu) = gpu() else { return };
    let mut random = Random::new(9, 0);
    let pairs: Vec<(u32, u32)> = (0..400).map(|_| (random.below(40), random.below(30))).collect();
    let values: Vec<f32> = pairs.iter().map(|_| (1 + random.below(5)) as f32).collect();
    let of = |pairs: &[(u32, u32)], users: usize| {
        let (of_users, of_items) = pairs.iter().copied().unzip();
        Interactions::new(of_users, of_items, users, 30).unwrap()
    };
    let data = of(&pairs, 40);
    let config = Config { dim: 8, sweeps: 5, preset: Preset::Hu { alpha: 2.0 }, start: 1.0, ..Config::default() };
    let go_on = |_: Event| ControlFlow::Continue(());
    let whole = fit(gpu, &data, Values::of(&values), &config, &mut { go_on }).unwrap();
    let first = fit(gpu, &data, Values::of(&values), &Config { sweeps: 3, ..config }, &mut { go_on }).unwrap();
    let rest = Config { sweeps: 2, ..config };
    let then = fit_from(gpu, &first.model, &data, Values::of(&values), &rest, &mut { go_on }).unwrap();
    assert_eq!(then.model, whole.model);

    let mut drawn = whole.model.clone();
    (drawn.users, drawn.items) = (Vec::new(), config.drawn(30));
    assert_eq!(fit_from(gpu, &drawn, &data, Values::of(&values), &config, &mut { go_on }).unwrap(), whole);

    let items = &whole.model.items;
    let exact = Config { solver: Some(Solver::Direct), ..config };
    let stop = &mut |_: Event| ControlFlow::Break(());
    let next = fit_from(gpu, &whole.model, &data, Values::of(&values), &exact, stop).unwrap();
    assert_eq!(fold_in(gpu, items, &data, Values::of(&values), &exact).unwrap(), next.model.users);
    let some: Vec<usize> = (0..pairs.len()).filter(|&e| pairs[e].0 < 5).collect();
    let (few, few_values): (Vec<_>, Vec<_>) = some.iter().map(|&e| (pairs[e], values[e])).unzip();
    let folded = fold_in(gpu, items, &of(&few, 5), Values::of(&few_values), &config).unwrap();
    let entries = |user: u32| {
        let own = few.iter().zip(&few_values).filter(move |((of, _), _)| *of == user);
        own.map(|(&(_, item), &value)| (item as usize, f64::from(1.0 + 2.0 * value), 1.0)).collect::<Vec<_>>()
    };
    let rows: Vec<_> = (0..5).map(entries).collect();
    // λ (n + w₀ · items)^ν, w₀ and ν being 1
    let ridges: Vec<f64> = rows.iter().map(|row| f64::from(config.regularization) * (row.len() + 30) as f64).collect();
    let want = reference::solve(&wide(items), 8, &rows, 1.0, &ridges);
    assert_close(&wide(&folded), &want, 1e-3);
    let folded = fold_in(gpu, items, &of(&few, 5), Values::of(&few_values), &exact).unwrap();
    assert_close(&wide(&folded), &want, 1e-3);

    let short = fold_in(gpu, &items[1..], &data, Values::default(), &config).unwrap_err().to_string();
    assert_eq!(short, "the factors of the items should be 240 numbers, 30 x 8, all finite, found 239 of them");
}

/// What rows are solved by where nothing is said, and that factors of 16 bits end where those of 32 do.
#[test]
fn defaults_and_storages() {
    let (steps, config) = (|steps| Solver::Conjugate { steps }, Config::default());
    let widths = [8, 64, 1024, 1025];
    let all_alike = Values::default();
    assert_eq!(widths.map(|dim| Config { dim, ..config }.chosen(all_alike)), [2, 2, 2, 8].map(steps));
    let explicit = Config { preset: Preset::Explicit, ..config };
    assert_eq!([64, 128].map(|dim| Config { dim, ..explicit }.chosen(all_alike)), [Solver::Direct, steps(8)]);
    assert_eq!(Config { solver: Some(steps(5)), ..explicit }.chosen(all_alike), steps(5));
    // By how heavy the heavy ones are: Σ w²/Σ w of 1, 1 and 500 is 498.
    let plays = Config { preset: Preset::Implicit { alpha: 1.0 }, ..config };
    let by_weight = |most: f32| plays.chosen(Values::of(&[1.0, 1.0, most]));
    assert_eq!([5.0, 500.0, 5e3].map(by_weight), [2, 4, 8].map(steps));
    assert_eq!(by_weight(5e5), Solver::Direct);
    assert_eq!(Config { dim: 256, ..plays }.chosen(Values::of(&[5e5])), steps(16));
    let of_both = [Values { users: Some(&[30.0]), items: Some(&[20.0]), ..all_alike }, all_alike];
    let tf = Config { preset: Preset::Tf { unobserved: 1.0 }, ..config };
    assert_eq!(of_both.map(|values| tf.chosen(values)), [4, 2].map(steps));

    let Some(gpu) = gpu() else { return };
    let mut random = Random::new(11, 0);
    let (of_users, of_items) = (0..500).map(|_| (random.below(50), random.below(40))).unzip();
    let data = Interactions::new(of_users, of_items, 50, 40).unwrap();
    let last = |storage, solver| {
        let config = Config { dim: 8, sweeps: 6, storage, solver, ..Config::default() };
        let outcome = fit(gpu, &data, Values::default(), &config, &mut |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(outcome.model.users.len(), 400);
        *outcome.objectives.last().unwrap()
    };
    // Rounding raises it now and then; only a tolerance ends a fit early.
    let rounded = Config { dim: 2, sweeps: 60, regularization: 0.03, storage: Storage::Bf16, ..Config::default() };
    let outcome = fit(gpu, &data, Values::default(), &rounded, &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(outcome.objectives.len() == 60 && outcome.objectives.windows(2).any(|pair| pair[1] > pair[0]));
    for solver in [None, Some(Solver::Direct)] {
        let want = last(Storage::F32, solver);
        for (storage, off) in [(Storage::F16, 1e-3), (Storage::Bf16, 1e-2)] {
            let got = last(storage, solver);
            assert!((got - want).abs() < off * want, "{storage:?}, {solver:?}: {got} {want}");
        }
    }
}

#[test]
fn a_fit_stops_and_refuses() {
    let Some(gpu) = gpu() else { return };
    let data = Interactions::new(vec![0, 1, 1, 2], vec![0, 0, 1, 2], 4, 3).unwrap();
    let config = Config { dim: 4, sweeps: 9, ..Config::default() };
    let go_on = &mut |_| ControlFlow::Continue(());
    let run = |config: &Config| fit(gpu, &data, Values::default(), config, &mut |_| ControlFlow::Continue(()));
    let stopped = fit(gpu, &data, Values::default(), &config, &mut |_| ControlFlow::Break(())).unwrap();
    assert_eq!((stopped.end, stopped.objectives.len()), (End::Stopped, 0));
    let early = run(&Config { tolerance: 0.5, ..config }).unwrap();
    assert!(early.objectives.len() < 9 && early.end == End::Finished);
    assert_eq!(run(&config).unwrap(), run(&config).unwrap());
    // User 3 took nothing.
    assert_eq!(run(&config).unwrap().model.users[12..], [0.0; 4]);
    for solver in [Solver::Direct, Solver::Conjugate { steps: 2 }] {
        let singular = Config { preset: Preset::Explicit, regularization: 0.0, solver: Some(solver), ..config };
        assert_eq!(
            run(&singular).unwrap_err().to_string(),
            "the observations of user 0 should be such that they and the regularization determine its factor, found 1 of them; a larger \
             regularization helps, or a smaller dim"
        );
    }
    // Enough observations, but of one item: only a pivot tells.
    let twice = Interactions::new(vec![0; 4], vec![0; 4], 1, 1).unwrap();
    let singular = Config { preset: Preset::Explicit, regularization: 0.0, solver: Some(Solver::Direct), ..config };
    let message = fit(gpu, &twice, Values::default(), &singular, go_on).unwrap_err().to_string();
    assert!(message.contains("of user 0") && message.contains("larger regularization"), "{message}");
    // User 3 took nothing, and nothing is known of what was not observed.
    let explicit = Config { preset: Preset::Explicit, ..config };
    for solver in [Solver::Direct, Solver::Conjugate { steps: 2 }] {
        assert_eq!(run(&Config { solver: Some(solver), ..explicit }).unwrap().model.users[12..], [0.0; 4]);
    }
    let refused = |config: Config| run(&config).unwrap_err();
    assert_eq!(refused(Config { dim: 0, ..config }), option("wals", "dim", "from 1 to 16384", "0"));
    assert_eq!(refused(Config { dim: 1 << 40, ..config }), option("wals", "dim", "from 1 to 16384", "1099511627776"));
    assert_eq!(refused(Config { sweeps: 0, ..config }), option("wals", "sweeps", "at least 1", "0"));
    let solver = Some(Solver::Conjugate { steps: 1001 });
    assert_eq!(refused(Config { solver, ..config }), option("wals", "steps", "from 1 to 1000", "1001"));
    let preset = Preset::Hu { alpha: 3e38 };
    let heavy = fit(gpu, &data, Values::of(&[9.0; 4]), &Config { preset, ..config }, go_on).unwrap_err().to_string();
    assert_eq!(heavy, "the weight of interaction 1 should be a number that f32 holds, found inf");
    let steep = refused(Config { exponent: 200.0, ..config }).to_string();
    assert!(
        steep.starts_with("λ of user 1 should be a number that f32 holds") && steep.ends_with("found inf"),
        "{steep}"
    );
    let preset = Preset::Ials { unobserved: 0.0 };
    assert_eq!(refused(Config { preset, ..config }), option("wals", "unobserved", "a number above 0", "0"));
    let preset = Preset::Hu { alpha: -1.0 };
    assert_eq!(refused(Config { preset, ..config }), option("wals", "alpha", "a number of at least 0", "-1"));
    let nan = Config { regularization: f32::NAN, ..config };
    assert_eq!(refused(nan), option("wals", "regularization", "a number of at least 0", "NaN"));
    let negative = Config { tolerance: -1.0, ..config };
    assert_eq!(refused(negative), option("wals", "tolerance", "a number of at least 0", "-1"));
    let values = fit(gpu, &data, Values::of(&[1.0, 2.0, -3.0, 4.0]), &config, go_on).unwrap_err().to_string();
    assert_eq!(values, "values should be numbers of at least 0, found -3 for interaction 2");
    let none = fit(gpu, &data, Values::of(&[]), &config, go_on).unwrap_err().to_string();
    assert_eq!(none, "values should be one for each interaction, 4, found 0");
    let weights = Values { items: Some(&[1.0, f32::NAN, 1.0]), ..Values::default() };
    let weights = fit(gpu, &data, weights, &config, go_on).unwrap_err().to_string();
    assert_eq!(weights, "the weights of items should be numbers of at least 0, found NaN for item 1");
    let values = fit(gpu, &data, Values::of(&[1.0]), &config, go_on).unwrap_err().to_string();
    assert_eq!(values, "values should be one for each interaction, 4, found 1");
}

/// More interactions than a binding holds, with weights and goals of their own.
#[test]
fn interactions_of_several_bindings() {
    let Some(gpu) = gpu() else { return };
    let limits = wgpu::Limits { max_storage_buffer_binding_size: 1 << 15, ..Default::default() };
    let small = open(Some(limits)).unwrap();
    let mut random = Random::new(12, 0);
    let (users, items) = (0..12_000u32).map(|e| (e % 300 / (1 + e % 2), random.below(200))).unzip();
    let data = Interactions::new(users, items, 300, 200).unwrap();
    let values: Vec<f32> = (0..12_000).map(|e| (e % 5) as f32 - 1.0).collect();
    for solver in [Solver::Direct, Solver::Conjugate { steps: 2 }] {
        let preset = Preset::Implicit { alpha: 2.0 };
        let config =
            Config { dim: 8, sweeps: 2, preset, solver: Some(solver), regularization: 1.0, ..Config::default() };
        let fit =
            |gpu: &Gpu| fit(gpu, &data, Values::of(&values), &config, &mut |_| ControlFlow::Continue(())).unwrap();
        let (whole, parts) = (fit(gpu), fit(&small));
        assert_close(&wide(&parts.model.items), &wide(&whole.model.items), 1e-4);
        assert!((parts.objectives[1] - whole.objectives[1]).abs() < 1e-6 * whole.objectives[1]);
    }
}

/// What a caller may get wrong about tables that it has from elsewhere.
#[test]
fn recommendations_are_of_rows_that_exist() {
    let Some(gpu) = gpu() else { return };
    let known = Interactions::new(vec![0, 1], vec![1, 0], 2, 3).unwrap();
    let model = Model { users: vec![1.0, 0.0, 0.0, 1.0], items: vec![0.0, 1.0, 1.0, 0.0, 0.5, 0.5], dim: 2 };
    assert_eq!(recommend(gpu, &model, &known, &[1, 0], 1).unwrap(), [2, 2]);
    let told = |model: &Model, users: &[u32]| recommend(gpu, model, &known, users, 1).unwrap_err().to_string();
    let nothing = Model { users: vec![], items: vec![], dim: 0 };
    assert_eq!(told(&nothing, &[0]), "the table of users should be 2 rows of 0 numbers, at least one, found 0 numbers");
    let short = Model { items: vec![0.0; 4], ..model.clone() };
    assert_eq!(told(&short, &[0]), "the table of items should be 3 rows of 2 numbers, at least one, found 4 numbers");
    assert_eq!(told(&model, &[0, 2]), "users should be numbers below 2, found 2");
}
