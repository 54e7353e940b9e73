//! One burn operation for every loss: a value and, where asked for, its gradients in the same pass.
//!
//! The value and the gradients need the same products, so they are computed together. The backward pass is then one
//! multiplication by the gradient of the value. Between the two passes a gradient is kept instead of the inputs.

use std::sync::{Arc, OnceLock};

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::fusion::custom::TensorSpec;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Backend, ExtensionType, TensorMetadata, backend_extension};
use burn::tensor::{DType, Shape};
use burn_cubecl::CubeBackend;
use burn_cubecl::cubecl::wgpu::{AutoCompiler, WgpuResource, WgpuServer};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use wgloss::{Gpu, Recorder, Storage, Tensor};

/// The number of inputs that may have a gradient. They come first.
pub const LEARNED: usize = 4;
/// The number of further inputs.
pub const FIXED: usize = 2;

/// Records a loss, given the views of its inputs and outputs.
pub type Record = dyn Fn(&mut Recorder, &Views) -> wgloss::Result<()> + Send + Sync;

/// A loss to be computed.
#[derive(Clone)]
pub struct Call {
    pub gpu: Gpu,
    pub record: Arc<Record>,
    /// Which of the inputs are given; the others are placeholders.
    pub given: [bool; LEARNED + FIXED],
    /// Which gradients are asked for.
    pub wanted: [bool; LEARNED],
    /// The shape of the value.
    pub shape: Shape,
    /// The length of the working memory, in numbers.
    pub spare: usize,
    /// The outcome, once the loss is recorded.
    pub outcome: Arc<OnceLock<wgloss::Result<()>>>,
}

impl core::fmt::Debug for Call {
    fn fmt(&self, f: &mut core::fmt::Formatter) -> core::fmt::Result {
        f.debug_struct("Call").field("given", &self.given).field("wanted", &self.wanted).finish_non_exhaustive()
    }
}

impl Call {
    /// The shapes of the value and of the gradients. A gradient that is not asked for has one number.
    fn shapes(&self, learned: [&Shape; LEARNED]) -> [Shape; 1 + LEARNED] {
        let mut shapes = [self.shape.clone(), [1].into(), [1].into(), [1].into(), [1].into()];
        for (index, shape) in learned.into_iter().enumerate() {
            if self.wanted[index] {
                shapes[1 + index] = shape.clone();
            }
        }
        shapes
    }
}

/// Inputs of whole numbers: indices of rows, groups, ids of items.
#[derive(ExtensionType, Debug)]
#[extension_type(fusion)]
pub enum Ids<B: Backend> {
    None,
    Some { a: IntTensor<B>, b: IntTensor<B>, c: IntTensor<B>, d: IntTensor<B> },
}

/// The value, and the gradient of each input that can have one, in f32.
pub type Values<B> = (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>);

#[backend_extension(Cube, Fusion, Autodiff)]
pub trait Loss: Backend {
    /// The first four tensors may have gradients.
    #[fusion(meta = describe)]
    #[allow(clippy::too_many_arguments, reason = "the macro takes tensors one by one")]
    fn wgloss(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        d: FloatTensor<Self>,
        e: FloatTensor<Self>,
        f: FloatTensor<Self>,
        #[extension_type] ids: Ids<Self>,
        call: Call,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

#[allow(clippy::too_many_arguments, reason = "those of the method")]
fn describe(
    a: &TensorSpec,
    b: &TensorSpec,
    c: &TensorSpec,
    d: &TensorSpec,
    _: &TensorSpec,
    _: &TensorSpec,
    _: &IdsMetadata,
    call: &Call,
) -> (TensorSpec, TensorSpec, TensorSpec, TensorSpec, TensorSpec) {
    let shapes = call.shapes([&a.shape, &b.shape, &c.shape, &d.shape]);
    shapes.map(|shape| TensorSpec::new(shape, DType::F32)).into()
}

impl Loss for CubeBackend {
    fn wgloss(
        a: CubeTensor,
        b: CubeTensor,
        c: CubeTensor,
        d: CubeTensor,
        e: CubeTensor,
        f: CubeTensor,
        ids: Ids<Self>,
        call: Call,
    ) -> Values<Self> {
        let (client, device) = (a.client.clone(), a.device.clone());
        let shapes = call.shapes([&a.shape(), &b.shape(), &c.shape(), &d.shape()]);
        let empty = |shape| empty_device_contiguous_dtype(client.clone(), device.clone(), shape, DType::F32);
        let outputs = shapes.map(empty);
        let spare = empty([call.spare.max(1)].into());
        let floats = [a, b, c, d, e, f].map(into_contiguous);
        let ids = match ids {
            Ids::None => vec![],
            Ids::Some { a, b, c, d } => [a, b, c, d].map(into_contiguous).into(),
        };
        let _ = call.outcome.set(run(&call, &floats, &ids, &outputs, &spare));
        outputs.into()
    }
}

/// A part of one of burn's memory pages.
struct Place {
    resource: WgpuResource,
    shape: [usize; 2],
    dtype: DType,
}

/// The views that a loss records on. Input `i` is the i-th argument of [`Loss::wgloss`].
pub struct Views<'a> {
    floats: &'a [Option<Place>],
    ids: &'a [Place],
    outputs: &'a [Option<Place>],
}

impl Views<'_> {
    fn float(place: &Place) -> wgloss::Result<Tensor<'_>> {
        let [rows, cols] = place.shape;
        let (storage, bytes) = match place.dtype {
            DType::F16 => (Storage::F16, 2),
            DType::BF16 => (Storage::Bf16, 2),
            _ => (Storage::F32, 4),
        };
        Tensor::stored(storage, &place.resource.buffer, rows, cols, place.resource.offset as usize / bytes, cols)
    }

    /// Input `i`. A vector becomes a column.
    pub fn input(&self, i: usize) -> wgloss::Result<Option<Tensor<'_>>> {
        self.floats[i].as_ref().map(Self::float).transpose()
    }

    /// Input `i`, which must be given.
    pub fn given(&self, i: usize) -> wgloss::Result<Tensor<'_>> {
        self.input(i)?.ok_or(wgloss::Error::Device { message: format!("input {i} of a loss is missing") })
    }

    /// The `i`th tensor of whole numbers.
    pub fn ids(&self, i: usize) -> wgloss::Result<Tensor<'_, u32>> {
        let Place { resource, shape: [rows, cols], .. } = &self.ids[i];
        Tensor::strided(&resource.buffer, *rows, *cols, resource.offset as usize / 4, *cols)
    }

    /// The output for the value.
    pub fn value(&self) -> wgloss::Result<Tensor<'_>> {
        Self::float(self.output(0)?)
    }

    /// The output for the gradient of input `i`, if it is asked for.
    pub fn gradient(&self, i: usize) -> wgloss::Result<Option<Tensor<'_>>> {
        self.outputs[1 + i].as_ref().map(Self::float).transpose()
    }

    /// Working memory.
    pub fn spare(&self, [rows, cols]: [usize; 2]) -> wgloss::Result<Tensor<'_>> {
        let place = self.output(1 + LEARNED)?;
        Tensor::strided(&place.resource.buffer, rows, cols, place.resource.offset as usize / 4, cols)
    }

    fn output(&self, i: usize) -> wgloss::Result<&Place> {
        self.outputs[i]
            .as_ref()
            .ok_or_else(|| wgloss::Error::Device { message: format!("output {i} of a loss is missing") })
    }
}

/// Submits the loss to the queue, after what burn has recorded for its inputs so far.
fn run(
    call: &Call,
    floats: &[CubeTensor],
    ids: &[CubeTensor],
    outputs: &[CubeTensor],
    spare: &CubeTensor,
) -> wgloss::Result<()> {
    let burn_error = |error: &dyn core::fmt::Display| wgloss::Error::Device { message: format!("burn: {error}") };
    // A tensor may belong to another thread, which has its own stream of commands. burn asks for the flush before
    // others submit to its queue. In 0.22 `get_resource` flushes as well, but that is not promised.
    let mut streams = Vec::new();
    for tensor in floats.iter().chain(ids).chain(outputs) {
        if !streams.contains(&tensor.handle.stream) {
            streams.push(tensor.handle.stream);
            tensor.handle.stream.executes(|| tensor.client.flush()).map_err(|error| burn_error(&error))?;
        }
    }
    // Held until the submit, so that the memory of no input or output is given away before.
    let mut held = Vec::new();
    let mut place = |tensor: &CubeTensor| {
        let managed = tensor
            .client
            .get_resource::<WgpuServer<AutoCompiler>>(tensor.handle.clone())
            .map_err(|error| burn_error(&error))?;
        let shape = match *tensor.shape().as_slice() {
            [rows] => [rows, 1],
            [rows, cols] => [rows, cols],
            ref other => {
                let (expected, found) = ("a matrix or a vector".into(), format!("{other:?}"));
                return Err(wgloss::Error::Shape { op: "wgloss-burn", what: "a tensor", expected, found });
            }
        };
        let resource = managed.resource().clone();
        held.push(managed);
        Ok(Place { resource, shape, dtype: tensor.dtype })
    };
    let mut chosen = |tensors: &[CubeTensor], which: &[bool]| -> wgloss::Result<Vec<Option<Place>>> {
        tensors.iter().zip(which).map(|(tensor, which)| which.then(|| place(tensor)).transpose()).collect()
    };
    let floats = chosen(floats, &call.given)?;
    let mut outputs = chosen(outputs, &[&[true], &call.wanted[..]].concat())?;
    outputs.extend(chosen(std::slice::from_ref(spare), &[true])?);
    let ids: Vec<Place> = ids.iter().map(place).collect::<wgloss::Result<_>>()?;
    let views = Views { floats: &floats, ids: &ids, outputs: &outputs };
    call.gpu.run(|recorder| (call.record)(recorder, &views))
}

impl<B: Loss, C: CheckpointStrategy> Loss for Autodiff<B, C> {
    fn wgloss(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        d: FloatTensor<Self>,
        e: FloatTensor<Self>,
        f: FloatTensor<Self>,
        ids: Ids<Self>,
        mut call: Call,
    ) -> Values<Self> {
        let ids = match ids {
            Ids::None => Ids::None,
            Ids::Some { a, b, c, d } => Ids::Some { a, b, c, d },
        };
        for (index, input) in [&a, &b, &c, &d].into_iter().enumerate() {
            call.wanted[index] = call.given[index] && input.is_tracked();
        }
        let wanted = call.wanted;
        let dtypes = [&a, &b, &c, &d].map(|input| input.dtype());
        let nodes = [&a, &b, &c, &d].map(|input| input.node());
        let [a, b, c, d, e, f] = [a, b, c, d, e, f].map(|input| input.into_primitive());
        let (value, a, b, c, d) = B::wgloss(a, b, c, d, e, f, ids, call);
        let constant = Self::FloatTensorPrimitive::new;
        let value = match Times.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::UnTracked(step) => step.finish(value),
            OpsKind::Tracked(step) => {
                let mut state = [a.clone(), b.clone(), c.clone(), d.clone()].into_iter().zip(dtypes).zip(wanted);
                let state =
                    core::array::from_fn(|_| state.next().and_then(|(gradient, wanted)| wanted.then_some(gradient)));
                step.finish(state, value)
            }
        };
        (value, constant(a), constant(b), constant(c), constant(d))
    }
}

/// The backward pass: the gradient of an input is the computed gradient times the gradient of the value.
#[derive(Debug)]
struct Times;

impl<B: Backend> Backward<B, LEARNED> for Times {
    type State = [Option<(FloatTensor<B>, DType)>; LEARNED];

    fn backward(self, ops: Ops<Self::State, LEARNED>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        for (parent, state) in ops.parents.into_iter().zip(ops.state) {
            let (Some(parent), Some((gradient, dtype))) = (parent, state) else { continue };
            // dy is [1] or [rows], the gradient [rows, cols] or [1]
            let mut shape = vec![1; gradient.rank()];
            shape[0] = dy.shape()[0];
            let dy = B::float_cast(B::float_reshape(dy.clone(), shape.into()), DType::F32.into());
            let gradient = B::float_mul(gradient, dy);
            grads.register::<B>(parent.id, B::float_cast(gradient, dtype.into()));
        }
    }
}
