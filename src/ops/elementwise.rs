//! The host side of the element-wise losses. The device side is shaders/lib/loss.wgsl.

use super::{Accum, Reduction, shaped, total};
use crate::kernel::Kernel;
use crate::plan::{Arg, Plan, Scalar};
use crate::{Result, Tensor};

/// One pass over `N` input tensors of one shape.
///
/// The kernel binds the inputs, `column`, `dy`, `loss` and `M` gradients, in this order. Its first scalar is `factor`.
#[derive(Clone, Copy)]
pub(super) struct Pass<'a, const N: usize, const M: usize> {
    pub(super) op: &'static str,
    pub(super) kernel: &'static Kernel,
    pub(super) inputs: [Option<Tensor<'a>>; N],
    /// For kernels that bind one: a tensor of one row, with a number for each column.
    pub(super) column: Option<Option<Tensor<'a>>>,
    pub(super) dy: Option<Tensor<'a>>,
    pub(super) loss: Option<Tensor<'a>>,
    pub(super) gradients: [(&'static str, Option<Tensor<'a>>); M],
    pub(super) reduction: Reduction,
    pub(super) accum: Accum,
}

impl<'a, const N: usize, const M: usize> Pass<'a, N, M> {
    fn shape(&self) -> [usize; 2] {
        self.inputs.iter().flatten().next().map_or([0, 0], Tensor::shape)
    }

    /// Refuses a `loss`, `dy` or gradients of the wrong shape.
    pub(super) fn check(&self) -> Result<()> {
        let wanted = self.reduction.of_elements(self.shape());
        for (what, tensor) in [("loss", self.loss), ("dy", self.dy)] {
            tensor.map_or(Ok(()), |tensor| shaped(self.op, what, tensor, wanted))?;
        }
        for (what, gradient) in self.gradients {
            gradient.map_or(Ok(()), |gradient| shaped(self.op, what, gradient, self.shape()))?;
        }
        Ok(())
    }

    /// Plans the pass and the reduction of the loss.
    pub(super) fn plan(&self, plan: &mut Plan, scalars: &[Scalar], flags: &[(&'static str, u32)]) -> Result<()> {
        let (shape, by_element) = (self.shape(), self.reduction == Reduction::None);
        let factor = self.reduction.factor(shape) as f32;
        let blocks = self.blocks();
        let values = |plan: &Plan, block: &Block| {
            let [rows, cols] = block.shape;
            rows * plan.cut(rows, cols).segments
        };
        let sums = self.loss.is_some() && !by_element;
        let count = blocks.iter().map(|block| values(plan, block)).sum();
        let scratch = total::values(plan, if sums { count } else { 0 }, 1)?;
        let scalars = [&[Scalar::from(factor)], scalars].concat();
        let mut done = 0;
        for block in &blocks {
            let [rows, cols] = block.shape;
            let segments = plan.cut(rows, cols).segments;
            let value: Tensor = Tensor::strided(&scratch, rows, if sums { segments } else { 0 }, done, segments)?;
            done += if sums { values(plan, block) } else { 0 };
            let mut args = block.inputs.clone();
            args.extend(self.column.map(|column| column.map_or(Arg::NONE, Arg::whole)));
            args.push(block.dy);
            if self.kernel.uses.contains(&"loss") {
                args.push(if sums { Arg::by_row(value) } else { block.loss });
            }
            args.extend(&block.gradients);
            plan.elements(self.kernel, block.shape, &args, &scalars, &[&self.flags(), flags].concat())?;
        }
        match (self.loss, self.reduction) {
            (None, _) | (_, Reduction::None) => Ok(()),
            (Some(loss), Reduction::Rows) => {
                let segments = count.checked_div(shape[0]).unwrap_or(0);
                total::row_totals(plan, Tensor::matrix(&scratch, shape[0], segments)?, loss, 1.0)
            }
            (Some(loss), _) => total::total(plan, Tensor::vector(&scratch, count)?, loss, factor),
        }
    }

    fn flags(&self) -> [(&'static str, u32); 4] {
        let loss = match (self.loss, self.reduction) {
            (None, _) => 0,
            (_, Reduction::None) => 1,
            _ => 2,
        };
        let dy = match (self.dy, self.reduction) {
            (Some(_), Reduction::Rows) => 1,
            (Some(_), Reduction::None) => 2,
            _ => 0,
        };
        let wanted = self.gradients.iter().enumerate().map(|(bit, (_, tensor))| u32::from(tensor.is_some()) << bit);
        let add = self.accum == Accum::Add;
        [("LOSS", loss), ("DY", dy), ("GRADIENTS", wanted.sum()), ("ADD", add.into())]
    }

    /// Blocks of long rows, if the tensors are gapless and rows and columns do not matter; else one block.
    fn blocks(&self) -> Vec<Block<'a>> {
        let by_element = self.reduction == Reduction::None;
        let mut all: Vec<Option<Tensor>> = self.inputs.to_vec();
        all.extend([self.dy, self.loss].map(|tensor| tensor.filter(|_| by_element)));
        all.extend(self.gradients.map(|(_, gradient)| gradient));
        let rows_matter = self.column.flatten().is_some() || self.reduction == Reduction::Rows;
        let blocks = if rows_matter { vec![all] } else { Plan::blocks(&all) };
        let whole_dy = self.dy.filter(|_| self.reduction != Reduction::None);
        let dy = match self.reduction {
            Reduction::Rows => whole_dy.map(Arg::by_row),
            _ => whole_dy.map(Arg::whole),
        };
        blocks
            .iter()
            .map(|block| Block {
                shape: block.iter().flatten().next().map_or([0, 0], Tensor::shape),
                inputs: args(&block[..N]),
                dy: dy.unwrap_or(args(&block[N..=N])[0]),
                loss: args(&block[N + 1..N + 2])[0],
                gradients: args(&block[N + 2..]),
            })
            .collect()
    }
}

fn args<'a>(tensors: &[Option<Tensor<'a>>]) -> Vec<Arg<'a>> {
    tensors.iter().map(|tensor| tensor.map_or(Arg::NONE, Arg::by_row)).collect()
}

/// The arguments of one dispatch.
struct Block<'a> {
    shape: [usize; 2],
    inputs: Vec<Arg<'a>>,
    dy: Arg<'a>,
    loss: Arg<'a>,
    gradients: Vec<Arg<'a>>,
}
