use core::ops::Range;

use super::batch::column;
use super::{Negatives, OP};
use crate::ops::{cast, disjoint, named, shaped};
use crate::{Error, Recorder, Result, Tensor};

/// A ring buffer of the most recent keys, used as further negatives without gradient: the queue of momentum contrast,
/// or a cross-batch memory.
///
/// The caller owns the tensors of the ring: the keys, in any storage, and the optional columns of [`Negatives`]. The
/// queue only keeps track of the positions and records copies on the device. Give pairs ids if a query may meet its own
/// key of an earlier step.
///
/// Source: He et al. 2020, arXiv:1911.05722, section 3.2; without a momentum encoder: Wang et al. 2020, arXiv:1912.06798.
///
/// ```
/// # fn main() -> wgloss::Result<()> {
/// # let Ok(gpu) = wgloss::Gpu::new() else { return Ok(()) };
/// use wgloss::{Tensor, info_nce};
/// let (n, dim, rows) = (2, 3, 5);
/// let (queries, keys) = (gpu.upload(&[0.1f32, 0.9, 0.3, 0.8, 0.2, 0.4])?, gpu.upload(&[0.2f32, 0.8, 0.1, 0.7, 0.1, 0.5])?);
/// let (ring, loss, state) = (gpu.zeros::<f32>(rows * dim)?, gpu.zeros::<f32>(3)?, gpu.zeros::<f32>(n * 4)?);
/// let (q, k) = (Tensor::matrix(&queries, n, dim)?, Tensor::matrix(&keys, n, dim)?);
/// let (ring, state) = (Tensor::matrix(&ring, rows, dim)?, Tensor::matrix(&state, n, 4)?);
/// let mut queue = info_nce::Queue::new(rows);
/// for step in 0..3 {
///     gpu.run(|recorder| {
///         let batch = info_nce::Batch { shared: queue.view(ring)?, ..info_nce::Batch::new(q, k) };
///         info_nce::forward(recorder, batch, Tensor::scalar(&loss, step)?, state, Default::default(), Default::default())?;
///         queue.push(recorder, k, ring) // after the loss: a key is no negative of its own query
///     })?;
/// }
/// assert_eq!(queue.len(), 5); // of six keys the last five
/// let loss: Vec<f32> = gpu.read(Tensor::vector(&loss, 3)?)?;
/// assert!(loss[0] < loss[1] && loss[1] < loss[2]); // two, four and six keys beside each query's own
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queue {
    rows: usize,
    next: usize,
    len: usize,
}

impl Queue {
    /// An empty queue of at most `rows` keys.
    pub fn new(rows: usize) -> Queue {
        Queue { rows, next: 0, len: 0 }
    }

    /// Number of keys in the queue.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the queue has no keys yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The keys in the queue, for [`Batch::shared`](super::Batch::shared), in unspecified order. `None` while the queue
    /// is empty.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) if `ring` does not have as many rows as the queue.
    pub fn view<'a>(&self, ring: impl Into<Negatives<'a>>) -> Result<Option<Negatives<'a>>> {
        let Negatives { k, log_q, ids } = ring.into();
        shaped(OP, "ring", k, [self.rows, k.cols])?;
        column("log_q of ring", log_q, self.rows)?;
        column("ids of ring", ids, self.rows)?;
        Ok((self.len > 0).then(|| Negatives {
            k: k.row_range(0..self.len),
            log_q: log_q.map(|log_q| log_q.row_range(0..self.len)),
            ids: ids.map(|ids| ids.row_range(0..self.len)),
        }))
    }

    /// Replaces the oldest keys with `keys`. If there are more `keys` than rows in the ring, only the last ones are
    /// kept.
    ///
    /// The queue counts the keys as present as soon as the copies are recorded. If the recorded commands are never
    /// submitted, the ring lags behind the queue.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) if `ring` does not have as many rows as the queue and as many columns as
    /// the keys, or if only one of `keys` and `ring` has `log_q` or `ids`;
    /// [`Error::SameBuffer`](crate::Error::SameBuffer). On an error nothing is recorded and the queue is unchanged.
    pub fn push<'a>(
        &mut self,
        recorder: &mut Recorder,
        keys: impl Into<Negatives<'a>>,
        ring: impl Into<Negatives<'a>>,
    ) -> Result<()> {
        let (keys, ring) = (keys.into(), ring.into());
        let rows = keys.k.rows;
        shaped(OP, "ring", ring.k, [self.rows, keys.k.cols])?;
        let log_q = both(["log_q of keys", "log_q of ring"], keys.log_q, ring.log_q, [rows, self.rows])?;
        let ids = both(["ids of keys", "ids of ring"], keys.ids, ring.ids, [rows, self.rows])?;
        disjoint(
            OP,
            &[named("ring", ring.k), named("log_q of ring", ring.log_q), named("ids of ring", ring.ids)],
            &[named("keys", keys.k), named("log_q of keys", keys.log_q), named("ids of keys", keys.ids)],
        )?;
        let places = self.places(rows);
        recorder.plan(|plan| {
            for (from, to) in places.clone() {
                for (new, old) in [Some((keys.k, ring.k)), log_q].into_iter().flatten() {
                    cast::copy(plan, new.row_range(from.clone()), old.row_range(to.clone()))?;
                }
                if let Some((new, old)) = ids {
                    cast::copy_ids(plan, new.row_range(from), old.row_range(to))?;
                }
            }
            Ok(())
        })?;
        self.next = places.last().map_or(self.next, |(_, to)| to.end);
        self.len = self.rows.min(self.len + rows);
        Ok(())
    }

    /// Maps ranges of `rows` new rows to ranges of rows of the ring: two ranges if they wrap around its end.
    fn places(&self, rows: usize) -> Vec<(Range<usize>, Range<usize>)> {
        let kept = rows.min(self.rows);
        let (first, until_end) = (rows - kept, kept.min(self.rows - self.next));
        let places = [
            (first..first + until_end, self.next..self.next + until_end),
            (first + until_end..rows, 0..kept - until_end),
        ];
        places.into_iter().filter(|(from, _)| !from.is_empty()).collect()
    }
}

/// A column that keys and ring must either both have or both lack.
fn both<'a, T: crate::Element>(
    names: [&'static str; 2],
    of_keys: Option<Tensor<'a, T>>,
    of_ring: Option<Tensor<'a, T>>,
    rows: [usize; 2],
) -> Result<Option<(Tensor<'a, T>, Tensor<'a, T>)>> {
    for ((name, tensor), rows) in names.into_iter().zip([of_keys, of_ring]).zip(rows) {
        tensor.map_or(Ok(()), |tensor| shaped(OP, name, tensor, [rows, 1]))?;
    }
    let given = |tensor: bool| if tensor { "given".into() } else { "none".into() };
    if of_keys.is_some() != of_ring.is_some() {
        let (expected, found) = (given(of_ring.is_some()), given(of_keys.is_some()));
        return Err(Error::Shape { op: OP, what: names[0], expected, found });
    }
    Ok(of_keys.zip(of_ring))
}
