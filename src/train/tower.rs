//! The maps of a tower and their parameters on a device.

use super::matrix::Matrix;
use super::{Layer, Optimizer};
use crate::{Accum, Gpu, Recorder, Result, Tensor, linear, normalize, tanh};

/// A parameter, its gradient, and the state of its optimizer.
pub(super) struct Parameter {
    /// Whether weight decay applies: not to biases and the learned temperature.
    decays: bool,
    pub(super) value: Matrix,
    pub(super) gradient: Matrix,
    states: Vec<Matrix>,
}

impl Parameter {
    pub(super) fn new(gpu: &Gpu, data: &[f32], cols: usize, optimizer: Optimizer) -> Result<Parameter> {
        let value = Matrix::of(gpu, data, cols)?;
        let like = || Matrix::new(gpu, value.rows, value.cols);
        let (gradient, states) = (like()?, (0..optimizer.states()).map(|_| like()).collect::<Result<_>>()?);
        Ok(Parameter { decays: true, value, gradient, states })
    }

    /// A parameter that does not decay.
    pub(super) fn undecayed(gpu: &Gpu, data: &[f32], optimizer: Optimizer) -> Result<Parameter> {
        Ok(Parameter { decays: false, ..Parameter::new(gpu, data, 1, optimizer)? })
    }

    pub(super) fn step(&self, recorder: &mut Recorder, optimizer: Optimizer) -> Result<()> {
        let states = self.states.iter().map(Matrix::view).collect::<Result<Vec<_>>>()?;
        let optimizer = if self.decays { optimizer } else { optimizer.without_decay() };
        optimizer.step(recorder, self.gradient.view()?, self.value.view()?, &states)
    }
}

/// A linear map.
pub(super) struct Map {
    pub(super) weight: Parameter,
    pub(super) bias: Parameter,
}

/// Linear maps with tanh between them. With no map the output is the input.
pub(super) struct Maps {
    pub(super) maps: Vec<Map>,
    /// The input; then alternately the output of a linear map and its tanh; last the output.
    values: Vec<Matrix>,
    gradients: Vec<Matrix>,
}

impl Maps {
    /// Maps for up to `rows` rows of `width` output numbers.
    pub(super) fn new<'l>(
        gpu: &Gpu,
        width: usize,
        layers: impl Iterator<Item = &'l Layer>,
        rows: usize,
        optimizer: Optimizer,
    ) -> Result<Maps> {
        let (mut maps, mut widths) = (Vec::new(), Vec::new());
        for layer in layers {
            maps.push(Map {
                weight: Parameter::new(gpu, &layer.weight, layer.inputs, optimizer)?,
                bias: Parameter::undecayed(gpu, &layer.bias, optimizer)?,
            });
            widths.extend([layer.inputs, layer.outputs]);
        }
        widths.resize(widths.len().max(1), width);
        let all = || widths.iter().map(|&width| Matrix::new(gpu, rows, width)).collect::<Result<_>>();
        Ok(Maps { maps, values: all()?, gradients: all()? })
    }

    pub(super) fn x(&self) -> &Matrix {
        &self.values[0]
    }

    pub(super) fn dx(&self) -> &Matrix {
        &self.gradients[0]
    }

    pub(super) fn y(&self) -> &Matrix {
        &self.values[self.values.len() - 1]
    }

    pub(super) fn dy(&self) -> &Matrix {
        &self.gradients[self.gradients.len() - 1]
    }

    /// Computes `y` from the rows `x`. They may be the buffers of [`Maps::x`] and [`Maps::y`].
    pub(super) fn forward(&self, recorder: &mut Recorder, x: Tensor, y: Tensor) -> Result<()> {
        let value = |at: usize| self.values[at].first(x.rows());
        for (index, map) in self.maps.iter().enumerate() {
            let at = 2 * index;
            if index > 0 {
                tanh::forward(recorder, value(at - 1)?, value(at)?)?;
            }
            let (x, y) =
                (if index > 0 { value(at)? } else { x }, if index + 1 < self.maps.len() { value(at + 1)? } else { y });
            linear::forward(recorder, x, map.weight.value.view()?, Some(map.bias.value.view()?), y)?;
        }
        Ok(())
    }

    /// Computes embeddings of unit length from the first rows of [`Maps::x`].
    pub(super) fn embed(&self, recorder: &mut Recorder, unit: Tensor) -> Result<()> {
        let [x, y] = [self.x(), self.y()].map(|rows| rows.first(unit.rows()));
        let y = y?;
        self.forward(recorder, x?, y)?;
        normalize::forward(recorder, y, unit, normalize::Options::default())
    }

    /// Computes the gradients of the maps, and that of x if `wants_dx`, from the gradient of y.
    pub(super) fn backward(&self, recorder: &mut Recorder, wants_dx: bool) -> Result<()> {
        for (index, map) in self.maps.iter().enumerate().rev() {
            let at = 2 * index;
            let (x, dy, dx) = (self.values[at].view()?, self.gradients[at + 1].view()?, self.gradients[at].view()?);
            let (dw, db) = (map.weight.gradient.view()?, map.bias.gradient.view()?);
            let wanted = (index > 0 || wants_dx).then_some(dx);
            linear::backward(recorder, x, map.weight.value.view()?, dy, wanted, Some(dw), Some(db), Accum::Write)?;
            if index > 0 {
                tanh::backward(recorder, x, dx, self.gradients[at - 1].view()?)?;
            }
        }
        Ok(())
    }

    pub(super) fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        self.maps.iter().flat_map(|map| [&map.weight, &map.bias])
    }
}
