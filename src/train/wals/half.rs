use super::config::WIDEST_TURNED;
use super::{Config, Side, Solver, Values};
use crate::train::matrix::{Ids, Matrix};
use crate::train::tables::Interactions;
use crate::{Error, Gpu, Result, Watch, dot, linear, wals};

/// One side of the matrix on the device: users or items.
pub(super) struct Half {
    side: Side,
    rows: wals::Rows,
    items: Ids,
    weights: Option<Matrix>,
    goals: Option<Matrix>,
    ridge: Matrix,
    ridge_host: Vec<f32>,
    factor: Matrix,
    /// The factor in the eigenbasis of its Gramian, for [`Solver::Conjugate`].
    turned: Option<Turned>,
    gramian: Matrix,
    gramian_host: Vec<f32>,
    squares: Matrix,
    loss: Matrix,
}

impl Half {
    /// One side of `data`, with zero factors.
    pub(super) fn new(gpu: &Gpu, side: Side, data: &Interactions, values: Values, config: &Config) -> Result<Half> {
        let users = (&data.users, data.user_count, values.users);
        let items = (&data.items, data.item_count, values.items);
        let ((own, count, own_weights), (other, other_count, other_weights)) = match side {
            Side::Users => (users, items),
            Side::Items => (items, users),
        };
        let mut starts = vec![0u32; count + 1];
        own.iter().for_each(|&row| starts[row as usize + 1] += 1);
        (0..count).for_each(|row| starts[row + 1] += starts[row]);
        let options = config.preset.options();
        if config.regularization == 0.0 && options.unobserved == 0.0 {
            let has_few = |pair: &[u32]| pair[1] > pair[0] && ((pair[1] - pair[0]) as usize) < config.dim;
            if let Some(row) = starts.windows(2).position(has_few) {
                return Err(undetermined(side, row, format!("{} of them", starts[row + 1] - starts[row])));
            }
        }
        let rows = wals::Rows::by_length(gpu, &starts, config.dim)?;
        let mut next = vec![0usize; count];
        rows.order().fold(0, |before, row| {
            next[row] = before;
            before + (starts[row + 1] - starts[row]) as usize
        });
        let mut order = vec![0usize; own.len()];
        for (e, &row) in own.iter().enumerate() {
            order[next[row as usize]] = e;
            next[row as usize] += 1;
        }
        let ids: Vec<u32> = order.iter().map(|&e| other[e]).collect();
        let of_both = |e: usize| {
            let of = |weights: Option<&[f32]>, ids: &[u32]| weights.map_or(1.0, |weights| weights[ids[e] as usize]);
            let has_any = own_weights.or(other_weights).is_some();
            has_any.then(|| of(own_weights, own) * of(other_weights, other))
        };
        let value = |e: usize| values.pairs.map_or(1.0, |values| values[e]);
        // `None` if all observations have the value from the options.
        let numbers = |of: &dyn Fn(usize) -> Option<f32>, all: f32| -> Result<Option<Matrix>> {
            let numbers: Option<Vec<f32>> = order.iter().map(|&e| of(e)).collect();
            let Some(numbers) = numbers.filter(|numbers| numbers.iter().any(|&number| number != all)) else {
                return Ok(None);
            };
            if let Some(at) = numbers.iter().position(|number| !number.is_finite()) {
                let (what, expected) =
                    (format!("the weight of interaction {}", order[at]), "a number that f32 holds".into());
                return Err(Error::Data { what, expected, found: numbers[at].to_string() });
            }
            Matrix::of(gpu, &numbers, 1).map(Some)
        };
        let all = options.unobserved * other_count as f32;
        let ridge = |pair: &[u32]| config.regularization * ((pair[1] - pair[0]) as f32 + all).powf(config.exponent);
        let ridge_host: Vec<f32> = starts.windows(2).map(ridge).collect();
        if let Some(row) = ridge_host.iter().position(|ridge| !ridge.is_finite()) {
            let expected = "a number that f32 holds; a smaller regularization or exponent helps".into();
            return Err(Error::Data {
                what: format!("λ of {} {row}", side.one()),
                expected,
                found: ridge_host[row].to_string(),
            });
        }
        // A row without observations becomes 0 for any λ above 0. With λ = 0 its system would be singular, so it gets λ
        // = 1.
        let of_row = |(pair, &ridge): (&[u32], &f32)| if pair[0] == pair[1] && ridge == 0.0 { 1.0 } else { ridge };
        let held_ridge: Vec<f32> = starts.windows(2).zip(&ridge_host).map(of_row).collect();
        Ok(Half {
            side,
            loss: Matrix::new(gpu, rows.pieces(), 1)?,
            rows,
            items: Ids::of(gpu, &ids)?,
            weights: numbers(&|e| config.preset.weight(value(e), of_both(e)), options.weight)?,
            goals: numbers(&|e| config.preset.goal(value(e)), options.goal)?,
            ridge: Matrix::of(gpu, &held_ridge, 1)?,
            ridge_host,
            factor: Matrix::stored(gpu, config.storage, count, config.dim)?,
            turned: None,
            gramian_host: Vec::new(),
            gramian: Matrix::new(gpu, config.dim, config.dim)?,
            squares: Matrix::new(gpu, count, 1)?,
        })
    }

    /// Sets the factors and computes their Gramian.
    pub(super) fn begin(&mut self, gpu: &Gpu, factors: &[f32]) -> Result<()> {
        gpu.write(self.factor.view()?, factors)?;
        gpu.run(|recorder| wals::gramian(recorder, self.factor.view()?, self.gramian.view()?))?;
        self.gramian_host = gpu.read(self.gramian.view()?)?;
        Ok(())
    }

    /// The factors.
    pub(super) fn read(&self, gpu: &Gpu) -> Result<Vec<f32>> {
        gpu.read(self.factor.view()?)
    }

    /// Computes the eigenbasis of the Gramian on the host.
    fn turn(&mut self, gpu: &Gpu, config: &Config) -> Result<()> {
        let dim = config.dim;
        let [vectors, values] = wals::eigen(&self.gramian_host, dim);
        let turned = match self.turned.take() {
            Some(turned) => turned,
            None => Turned {
                factor: Matrix::stored(gpu, config.storage, self.factor.rows, dim)?,
                vectors: Matrix::new(gpu, dim, dim)?,
                values: Matrix::new(gpu, 1, dim)?,
            },
        };
        gpu.write(turned.vectors.view()?, &vectors)?;
        gpu.write(turned.values.view()?, &values)?;
        self.turned = Some(turned);
        Ok(())
    }

    fn observed(&self) -> Result<wals::Observed<'_>> {
        Ok(wals::Observed {
            rows: &self.rows,
            items: self.items.view()?,
            weights: self.weights.as_ref().map(Matrix::view).transpose()?,
            goals: self.goals.as_ref().map(Matrix::view).transpose()?,
        })
    }
}

/// Factors in an eigenbasis, and the basis.
struct Turned {
    factor: Matrix,
    vectors: Matrix,
    values: Matrix,
}

fn undetermined(side: Side, row: usize, found: String) -> Error {
    Error::Undetermined { side: side.one(), row, found }
}

/// Solves `own` with `held` held fixed, by `solver`. Returns the objective afterwards.
pub(super) fn solve(
    gpu: &Gpu,
    own: &mut Half,
    held: &mut Half,
    config: &Config,
    solver: Solver,
    watch: Watch,
) -> Result<f64> {
    let options = config.preset.options();
    if matches!(solver, Solver::Conjugate { .. }) && config.dim <= WIDEST_TURNED {
        held.turn(gpu, config)?;
    }
    gpu.run_watched(
        |recorder| {
            let (x, y, ridge, observed) = (own.factor.view()?, held.factor.view()?, own.ridge.view()?, own.observed()?);
            let loss = own.loss.view()?;
            match (solver, &held.turned) {
                (Solver::Conjugate { steps }, Some(turned)) => {
                    let [y_turned, vectors, values] =
                        [&turned.factor, &turned.vectors, &turned.values].map(Matrix::view);
                    let (y_turned, vectors, values) = (y_turned?, vectors?, values?);
                    linear::forward(recorder, y, vectors, None, y_turned)?;
                    let base = wals::Base::Eigen { vectors, values };
                    wals::refine(recorder, y_turned, observed, base, ridge, x, loss, steps, options)?;
                }
                (Solver::Conjugate { steps }, None) => {
                    let base = wals::Base::Gramian(held.gramian.view()?);
                    wals::refine(recorder, y, observed, base, ridge, x, loss, steps, options)?;
                }
                (Solver::Direct, _) => {
                    wals::solve(recorder, y, observed, held.gramian.view()?, ridge, x, options)?;
                    wals::objective(recorder, x, y, observed, ridge, loss, options)?;
                }
            }
            wals::gramian(recorder, x, own.gramian.view()?)?;
            dot::forward(recorder, y, y, held.squares.view()?)
        },
        watch,
    )?;
    let parts = gpu.read(own.loss.view()?)?;
    if let Some(piece) = parts.iter().position(|part| !part.is_finite()) {
        let found = "a system that is singular or not finite".into();
        return Err(undetermined(own.side, own.rows.row_of(piece), found));
    }
    own.gramian_host = gpu.read(own.gramian.view()?)?;
    let wide = |values: &[f32]| values.iter().map(|&value| f64::from(value)).collect::<Vec<_>>();
    let [x, y] = [&own.gramian_host, &held.gramian_host].map(|numbers| wide(numbers));
    // The parts from `refine` already contain the term over all pairs, w₀ ⟨XᵀX, YᵀY⟩.
    let pairs: f64 = match solver {
        Solver::Direct => x.iter().zip(&y).map(|(x, y)| x * y).sum(),
        Solver::Conjugate { .. } => 0.0,
    };
    let squares = wide(&gpu.read(held.squares.view()?)?);
    let of_held: f64 = squares.iter().zip(&held.ridge_host).map(|(square, &ridge)| square * f64::from(ridge)).sum();
    Ok(wide(&parts).iter().sum::<f64>() + f64::from(options.unobserved) * pairs + of_held)
}
