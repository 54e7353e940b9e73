use wgloss::kl::{Divergence, Form};
use wgloss::linear_kl::{self, Gradients, Layer, Options};
use wgloss::reference::linear_kl as textbook;
use wgloss::verify::{Fill, Held};
use wgloss::{Gpu, Reduction, Result, kl, linear};

use crate::harness::*;
use crate::linear_cross_entropy::{all, gradients};

/// A student's x and W and a teacher's on the device, and its bias for both.
struct Data {
    x: Held,
    w: Held,
    of_teacher: [Held; 2],
    b: Held,
    shape: [usize; 3],
}

impl Data {
    fn new(gpu: &Gpu, [rows, inputs, classes]: [usize; 3]) -> Data {
        let matrix = |rows, cols, seed| input(gpu, rows, cols, &Fill::Small.matrix(rows, cols, seed));
        Data {
            x: matrix(rows, inputs, 1),
            w: matrix(classes, inputs, 2),
            of_teacher: [matrix(rows, inputs + 3, 3), matrix(classes, inputs + 3, 4)],
            b: matrix(classes, 1, 5),
            shape: [rows, inputs, classes],
        }
    }

    fn layers(&self) -> Result<[Layer<'_>; 2]> {
        let b = Some(self.b.view()?);
        let [x, w] = &self.of_teacher;
        Ok([Layer { b, ..Layer::new(self.x.view()?, self.w.view()?) }, Layer { b, ..Layer::new(x.view()?, w.view()?) }])
    }

    /// Loss, dx, dW, db.
    fn run(&self, gpu: &Gpu, options: Options) -> [Vec<f64>; 4] {
        let loss = output(gpu, if options.reduction == Reduction::Rows { self.shape[0] } else { 1 }, 1);
        let found = gradients(gpu, self.shape);
        let record = gpu.run(|recorder| {
            let [student, teacher] = self.layers()?;
            linear_kl::forward(recorder, student, teacher, loss.view()?, all(&found)?, options)
        });
        record.unwrap();
        [&loss, &found[0], &found[1], &found[2]].map(|held| read(gpu, held))
    }
}

/// A device whose workspace holds three matrices of so many rows.
fn with_rows(gpu: &Gpu, rows: usize, classes: usize) -> Gpu {
    crate::linear_cross_entropy::with_rows(gpu, 3 * rows, classes)
}

#[test]
fn verified() {
    verifies("linear_kl");
}

/// It is what the two ops are, with all logits in memory; a divergence of each kind.
#[test]
fn two_ops_in_one() {
    let Some(gpu) = gpu() else { return };
    let shape = [70, 9, 130];
    let (data, [rows, inputs, classes]) = (Data::new(gpu, shape), shape);
    for divergence in [Divergence::Kl, Divergence::ReverseKl, Divergence::JensenShannon { beta: 0.3 }] {
        let options = Options { divergence, temperature: 2.0, scale_t2: true, ..Default::default() };
        let [logits, of_teacher, g] = [(); 3].map(|()| output(gpu, rows, classes));
        let (loss, dx, dw) = (output(gpu, 1, 1), output(gpu, rows, inputs), output(gpu, classes, inputs));
        let record = gpu.run(|r| {
            let [student, teacher] = data.layers()?;
            linear::forward(r, student.x, student.w, student.b, logits.view()?)?;
            linear::forward(r, teacher.x, teacher.w, teacher.b, of_teacher.view()?)?;
            let gradients = kl::Gradients { dx: Some(g.view()?), dt: None };
            kl::forward(r, logits.view()?, of_teacher.view()?, loss.view()?, gradients, options)?;
            let (dx, dw) = (Some(dx.view()?), Some(dw.view()?));
            linear::backward(r, student.x, student.w, g.view()?, dx, dw, None, Default::default())
        });
        record.unwrap();
        for small in [gpu.clone(), with_rows(gpu, 64, classes), with_rows(gpu, 1, classes)] {
            let found = data.run(&small, options);
            for (found, want) in found.iter().zip([&loss, &dx, &dw].map(|held| read(gpu, held))) {
                assert_within(&format!("{divergence:?}"), found, &want, 3e-6 * largest(&want));
            }
        }
    }
}

#[test]
fn same_bits() {
    let Some(gpu) = gpu() else { return };
    let data = Data::new(gpu, [300, 9, 33]);
    let gpu = with_rows(gpu, 64, 33);
    assert_repeats(|| data.run(&gpu, Options::default()).into());
}

#[test]
fn reference_gradient() {
    let matrix = |rows, cols, seed| wide(&Fill::Small.matrix(rows, cols, seed));
    let (x, w, b, of_x, of_w) = (matrix(3, 4, 1), matrix(5, 4, 2), matrix(5, 1, 3), matrix(3, 2, 4), matrix(5, 2, 5));
    let teacher = textbook::Layer { x: &of_x[..], w: &of_w[..], b: None, shape: [3, 2, 5] };
    let options = Options { temperature: 2.0, ..Default::default() };
    fn layer<'a>(x: &'a [f64], w: &'a [f64], b: &'a [f64]) -> textbook::Layer<'a, f64> {
        textbook::Layer { x, w, b: Some(b), shape: [3, 4, 5] }
    }
    let (dx, dw, db) = textbook::backward(layer(&x, &w, &b), teacher, &[], options);
    assert_gradient(&x, &dx, |x| textbook::forward(layer(x, &w, &b), teacher, options)[0]);
    assert_gradient(&w, &dw, |w| textbook::forward(layer(&x, w, &b), teacher, options)[0]);
    assert_gradient(&b, &db, |b| textbook::forward(layer(&x, &w, b), teacher, options)[0]);
}

/// A row of weight 0 is padding: as if it were not there.
#[test]
fn padding() {
    let Some(gpu) = gpu() else { return };
    let (data, options) = (Data::new(gpu, [5, 4, 7]), Options { reduction: Reduction::Rows, ..Default::default() });
    let dy = input(gpu, 5, 1, &[0.25f32, 0.25, 0.0, 0.25, 0.25]);
    let (loss, found) = (output(gpu, 5, 1), gradients(gpu, data.shape));
    let record = gpu.run(|r| {
        let [student, teacher] = data.layers()?;
        linear_kl::backward(r, student, teacher, Some(dy.view()?), Some(loss.view()?), all(&found)?, options)
    });
    record.unwrap();
    let of_rows = data.run(gpu, options);
    assert_eq!(read(gpu, &loss), of_rows[0]);
    let kept = |x: Vec<f32>, cols: usize| [&x[..2 * cols], &x[3 * cols..]].concat();
    let host = |held: &Held| gpu.read(held.view().unwrap()).unwrap();
    let [of_x, of_w] = &data.of_teacher;
    let kept = Data {
        x: input(gpu, 4, 4, &kept(host(&data.x), 4)),
        w: input(gpu, 7, 4, &host(&data.w)),
        of_teacher: [input(gpu, 4, 7, &kept(host(of_x), 7)), input(gpu, 7, 7, &host(of_w))],
        b: input(gpu, 7, 1, &host(&data.b)),
        shape: [4, 4, 7],
    };
    let want = kept.run(gpu, Options::default());
    for (found, want) in [(&found[1], &want[2]), (&found[2], &want[3])] {
        assert_within("gradient", &read(gpu, found), want, 1e-6 * largest(want));
    }
    assert_eq!(read(gpu, &found[0])[8..12], [0.0; 4]);
}

#[test]
fn empty() {
    let Some(gpu) = gpu() else { return };
    // No rows: the gradients of the parameters are sums over nothing.
    let found = linear_kl::compute(gpu, [&[], &[1.0; 6]], [&[], &[1.0; 4]], [3, 2], Options::default()).unwrap();
    assert_eq!((found.loss, found.dx, found.dw), (vec![0.0], vec![], vec![0.0; 6]));
}

#[test]
fn refusals() {
    const OP: &str = "linear_kl";
    let Some(gpu) = gpu() else { return };
    let data = Data::new(gpu, [2, 3, 4]);
    let (loss, [dx, dw, db]) = (output(gpu, 1, 1), gradients(gpu, data.shape));
    let [student, teacher] = data.layers().unwrap();
    let forward = |student: Layer, teacher: Layer, loss: &Held, [dx, dw, db]: [&Held; 3], options: Options| {
        refused(gpu, &[], |r| {
            let [dx, dw, db] = [dx, dw, db].map(|held| held.view().ok());
            linear_kl::forward(
                r,
                student,
                teacher,
                loss.view()?,
                Gradients { dx, dw, db, ..Default::default() },
                options,
            )
        })
    };
    let (right, plain) = ([&dx, &dw, &db], Options::default());
    let narrow = Layer { w: data.of_teacher[1].view().unwrap(), ..student };
    assert_eq!(
        forward(narrow, teacher, &loss, right, plain),
        shape(OP, "w", "classes x 3, with a class at least", "4 x 6")
    );
    let fewer = Layer { x: data.of_teacher[0].view().unwrap().row_range(0..1), ..teacher };
    assert_eq!(forward(student, fewer, &loss, right, plain), shape(OP, "teacher's x", "2 x 6", "1 x 6"));
    let fewer = Layer { w: data.of_teacher[1].view().unwrap().row_range(0..3), b: None, ..teacher };
    assert_eq!(
        forward(student, fewer, &loss, right, plain),
        shape(OP, "teacher's w", "of the student's 4 classes", "3")
    );
    let biased = Layer { b: Some(data.x.view().unwrap()), ..teacher };
    assert_eq!(forward(student, biased, &loss, right, plain), shape(OP, "teacher's b", "4 x 1", "2 x 3"));
    assert_eq!(forward(student, teacher, &dx, right, plain), shape(OP, "loss", "1 x 1", "2 x 3"));
    assert_eq!(forward(student, teacher, &loss, [&dw, &dw, &db], plain), shape(OP, "dx", "2 x 3", "4 x 3"));
    let form = Options { form: Form::LogQ, ..plain };
    assert_eq!(forward(student, teacher, &loss, right, form), option(OP, "form", "Logits", "LogQ"));
    let each = Options { reduction: Reduction::None, ..plain };
    assert_eq!(
        forward(student, teacher, &loss, right, each),
        option(OP, "reduction", "Rows, Sum, Mean or BatchMean", "None")
    );
    let frozen = Options { temperature: 0.0, ..plain };
    let error = forward(student, teacher, &loss, right, frozen);
    assert_eq!(error, option(OP, "temperature", "between 1e-30 and 1e30", "0"));
    assert_eq!(forward(student, teacher, &loss, [&dx, &data.w, &db], plain), overlap(OP, "dw", "w"));
    let of_teacher = data.of_teacher[1].view().unwrap().col_range(0..3);
    let error = refused(gpu, &[], |r| {
        let gradients = Gradients { dw: Some(of_teacher), ..Default::default() };
        linear_kl::forward(r, student, teacher, loss.view()?, gradients, plain)
    });
    assert_eq!(error, overlap(OP, "dw", "teacher's w"));
    assert!([&dx, &dw, &db, &loss].into_iter().all(|held| untouched(gpu, held)));
    let error = linear_kl::compute(gpu, [&[0.0; 5], &[0.0; 4]], [&[0.0; 2], &[0.0; 2]], [2, 1], plain).unwrap_err();
    assert_eq!(error, shape(OP, "x", "whole rows of 2", "5 elements"));
}

#[cfg(feature = "ndarray")]
#[test]
fn arrays() {
    let Some(gpu) = gpu() else { return };
    let (x, w) = (Fill::Small.matrix(3, 2, 1), Fill::Small.matrix(4, 2, 2));
    let (of_x, of_w) = (Fill::Small.matrix(3, 5, 3), Fill::Small.matrix(4, 5, 4));
    let want = linear_kl::compute(gpu, [&x, &w], [&of_x, &of_w], [2, 5], Options::default()).unwrap();
    let view = |data, shape| ndarray::ArrayView2::from_shape(shape, data).unwrap();
    let (student, teacher) = ([view(&x, (3, 2)), view(&w, (4, 2))], [view(&of_x, (3, 5)), view(&of_w, (4, 5))]);
    let (loss, [dx, dw]) = wgloss::arrays::linear_kl(gpu, student, teacher, Options::default()).unwrap();
    assert_eq!(
        (loss.to_vec(), dx.into_raw_vec_and_offset().0, dw.into_raw_vec_and_offset().0),
        (want.loss, want.dx, want.dw)
    );
    let turned = [student[0], student[1].t()];
    let error = wgloss::arrays::linear_kl(gpu, turned, teacher, Options::default()).unwrap_err();
    assert_eq!(error, shape("linear_kl", "columns of w", "2", "4"));
}
