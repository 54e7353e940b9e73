use super::{named, shaped};
use crate::kernel::{Binding, ScalarType, ids};
use crate::plan::{Arg, Scalar};
use crate::{Error, Result, Tensor};

/// Sorted lists of ids, one after the other, like the rows of a CSR matrix.
///
/// List l is `items[starts[l]..starts[l + 1]]`, ascending, with each id once. A row whose list number does not exist
/// has an empty list.
#[derive(Debug, Clone, Copy)]
pub struct Lists<'a> {
    /// Where each list starts in `items`, and the end of the last list: `[L + 1, 1]`, ascending.
    pub starts: Tensor<'a, u32>,
    /// The ids of all lists, `[number of ids, 1]`.
    pub items: Tensor<'a, u32>,
    /// The list number of each row, `[rows, 1]`. Absent: all rows have list 0.
    pub list: Option<Tensor<'a, u32>>,
}

/// The bindings and scalars of shaders that use lib/lists.wgsl.
pub(super) const BINDINGS: [Binding; 3] = [ids("starts"), ids("items"), ids("list")];
pub(super) const SCALARS: [(&str, ScalarType); 3] =
    [("lists", ScalarType::U32), ("items_count", ScalarType::U32), ("by_row", ScalarType::U32)];

/// The arguments for [`BINDINGS`] and [`SCALARS`]. Without `lists`, every list is empty.
pub(super) fn arguments<'a>(lists: Option<Lists<'a>>) -> ([Arg<'a>; 3], [Scalar; 3]) {
    let Some(Lists { starts, items, list }) = lists else { return ([Arg::NONE; 3], [0u32.into(); 3]) };
    let args = [Arg::whole(starts), Arg::whole(items), list.map_or(Arg::NONE, Arg::by_row)];
    (args, [starts.rows.saturating_sub(1).into(), items.rows.into(), list.is_some().into()])
}

impl<'a> Lists<'a> {
    pub(super) fn named(&self) -> [(&'static str, Option<Tensor<'a, u32>>); 3] {
        [named("starts", self.starts), named("items", self.items), named("list", self.list)]
    }

    /// Refuses lists that do not fit `rows` rows.
    pub(super) fn check(&self, op: &'static str, rows: usize) -> Result<()> {
        if self.starts.rows == 0 {
            let (expected, found) = ("1 row and one more for each list".into(), "none".into());
            return Err(Error::Shape { op, what: "starts", expected, found });
        }
        shaped(op, "starts", self.starts, [self.starts.rows, 1])?;
        shaped(op, "items", self.items, [self.items.rows, 1])?;
        self.list.map_or(Ok(()), |list| shaped(op, "list", list, [rows, 1]))
    }
}
