//! A program that embeds wgloss, by its public API alone: a linear classifier that keeps everything on its own device, one encoder and one
//! submit a step. What it cannot do without a look into the crate is missing from the API.

use wgloss::{
    Accum, Gpu, Options, Random, Recorder, Reduction, Result, Storage, Tensor, cross_entropy, linear, sgd, wgpu,
};

/// Rows of one batch.
pub struct Data<'a> {
    pub x: &'a [f32],
    pub class: &'a [u32],
}

/// A classifier's parameters and all that a step needs, in one buffer of the program's own.
pub struct Classifier {
    gpu: Gpu,
    arena: wgpu::Buffer,
    ids: wgpu::Buffer,
    rows: usize,
    inputs: usize,
    classes: usize,
}

/// Where in the arena, in elements, each matrix begins.
struct Places {
    x: usize,
    w: usize,
    dw: usize,
    logits: usize,
    lse: usize,
    loss: usize,
    end: usize,
}

impl Classifier {
    pub fn new(gpu: Gpu, data: &Data, inputs: usize, classes: usize) -> Result<Self> {
        let rows = data.class.len();
        let ids = gpu.upload(data.class)?;
        let mut classifier = Classifier { arena: ids.clone(), gpu, ids, rows, inputs, classes };
        let places = classifier.places();
        classifier.arena = classifier.gpu.zeros::<f32>(places.end)?;
        classifier.gpu.write(classifier.part(places.x, [rows, inputs])?, data.x)?;
        let mut random = Random::new(7, 0);
        let start: Vec<f32> = (0..classes * inputs).map(|_| 0.1 * random.uniform()).collect();
        classifier.gpu.write(classifier.part(places.w, [classes, inputs])?, &start)?;
        Ok(classifier)
    }

    fn places(&self) -> Places {
        let x = 0;
        let w = x + self.rows * self.inputs;
        let dw = w + self.classes * self.inputs;
        let logits = dw + self.classes * self.inputs;
        let lse = logits + self.rows * self.classes;
        let loss = lse + 2 * self.rows;
        Places { x, w, dw, logits, lse, loss, end: loss + 1 }
    }

    fn part(&self, at: usize, [rows, cols]: [usize; 2]) -> Result<Tensor<'_>> {
        Tensor::strided(&self.arena, rows, cols, at, cols)
    }

    fn record(&self, recorder: &mut Recorder, rate: f32) -> Result<()> {
        let (places, weights) = (self.places(), [self.classes, self.inputs]);
        let x = self.part(places.x, [self.rows, self.inputs])?;
        let (w, dw) = (self.part(places.w, weights)?, self.part(places.dw, weights)?);
        let logits = self.part(places.logits, [self.rows, self.classes])?;
        let target = cross_entropy::Target::Ids(Tensor::vector(&self.ids, self.rows)?);
        let (loss, lse) = (self.part(places.loss, [1, 1])?, self.part(places.lse, [self.rows, 2])?);
        let options = cross_entropy::Options { reduction: Reduction::Mean, ..Default::default() };
        linear::forward(recorder, x, w, None, logits)?;
        // In place: the logits become their own gradient.
        cross_entropy::forward(recorder, logits, target, Default::default(), loss, lse, Some(logits), options)?;
        linear::backward(recorder, x, w, logits, None, Some(dw), None, Accum::Write)?;
        sgd::step(recorder, dw, w, None, sgd::Options { rate, ..Default::default() })
    }

    /// One step of gradient descent; submits once and waits for nothing.
    pub fn step(&self, rate: f32) -> Result<()> {
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        self.record(&mut self.gpu.record(&mut encoder), rate)?;
        self.gpu.queue().submit([encoder.finish()]);
        Ok(())
    }

    /// The loss of the last step.
    pub fn loss(&self) -> Result<f32> {
        Ok(self.gpu.read(self.part(self.places().loss, [1, 1])?)?[0])
    }

    /// The class of each row, from weights stored in 16 bits.
    pub fn classify(&self, x: &[f32]) -> Result<Vec<u32>> {
        let rows = x.len() / self.inputs;
        let weights = self.gpu.read(self.part(self.places().w, [self.classes, self.inputs])?)?;
        let (x, w) = (self.gpu.upload(x)?, self.gpu.upload_as(Storage::F16, &weights)?);
        let (logits, classes) = (self.gpu.zeros::<f32>(rows * self.classes)?, self.gpu.zeros::<u32>(rows)?);
        let classes = Tensor::vector(&classes, rows)?;
        self.gpu.run(|recorder| {
            let (x, logits) = (Tensor::matrix(&x, rows, self.inputs)?, Tensor::matrix(&logits, rows, self.classes)?);
            let w = Tensor::stored(Storage::F16, &w, self.classes, self.inputs, 0, self.inputs)?;
            linear::forward(recorder, x, w, None, logits)?;
            cross_entropy::predict(recorder, logits, classes)
        })?;
        self.gpu.read(classes)
    }
}

/// The program's own device; `None` where `WGLOSS_NO_GPU` is 1.
pub fn device() -> Option<Result<Gpu>> {
    let skip = std::env::var("WGLOSS_NO_GPU").is_ok_and(|value| value == "1");
    let options = Options { adapter: std::env::var("WGLOSS_ADAPTER").ok(), ..Default::default() };
    (!skip).then(|| Gpu::open(&options).and_then(|gpu| Gpu::from_wgpu(gpu.device().clone(), gpu.queue().clone())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use wgloss::Error;

    /// Three clouds of points in the plane, and a constant.
    fn clouds(rows: usize) -> (Vec<f32>, Vec<u32>) {
        let mut random = Random::new(3, rows as u32);
        let class: Vec<u32> = (0..rows as u32).map(|row| row % 3).collect();
        let at = [[2.0, 0.0], [-1.0, 1.7], [-1.0, -1.7]];
        let mut spread = |centre: f32| centre + 1.2 * (random.uniform() + random.uniform() - 1.0);
        let x = class.iter().flat_map(|&class| at[class as usize].map(&mut spread).into_iter().chain([1.0])).collect();
        (x, class)
    }

    #[test]
    fn a_classifier_learns() {
        let Some(gpu) = device() else { return };
        let (x, class) = clouds(600);
        let classifier = Classifier::new(gpu.unwrap(), &Data { x: &x, class: &class }, 3, 3).unwrap();
        classifier.step(1.0).unwrap();
        let before = classifier.loss().unwrap();
        (0..50).for_each(|_| classifier.step(1.0).unwrap());
        let after = classifier.loss().unwrap();
        assert!(before > 0.9 && after < 0.2 * before, "{before} to {after}");

        let (x, class) = clouds(90);
        let right = classifier.classify(&x).unwrap().iter().zip(&class).filter(|(a, b)| a == b).count();
        assert!(right > 85, "{right} of 90");
    }

    #[test]
    fn errors_can_be_told_apart() {
        let Some(gpu) = device() else { return };
        let gpu = gpu.unwrap();
        let buffer = gpu.zeros::<f32>(12).unwrap();
        let matrix = |rows, cols| Tensor::<f32>::matrix(&buffer, rows, cols);
        assert!(matches!(matrix(4, 4), Err(Error::OutOfBounds { needed: 64, size: 48, .. })));
        let (x, y) = (gpu.zeros::<f32>(4).unwrap(), matrix(1, 3).unwrap());
        let refused =
            gpu.run(|recorder| wgloss::softmax::forward(recorder, Tensor::matrix(&x, 2, 2)?, y, Default::default()));
        assert!(matches!(refused, Err(Error::Shape { op: "softmax", what: "y", .. })));
        gpu.check().unwrap();
    }
}
