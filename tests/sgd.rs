use std::ops::Range;

use wgloss::sgd::{self, Options};
use wgloss::verify::Fill;
use wgloss::{Gpu, reference};

use crate::golden::{self, Case, Found, Kind};
use crate::harness::*;

const FORMS: [Options; 5] = {
    let base = Options { rate: 0.1, momentum: 0.0, dampening: 0.0, weight_decay: 0.0, nesterov: false, first: false };
    [
        base,
        Options { weight_decay: 0.5, ..base },
        Options { momentum: 0.9, dampening: 0.25, ..base },
        Options { momentum: 0.9, nesterov: true, ..base },
        Options { momentum: 0.9, dampening: 0.25, first: true, ..base },
    ]
};

/// New p and v.
pub fn on_device(gpu: &Gpu, g: &[f32], p: &[f32], v: &[f32], cols: usize, options: Options) -> [Vec<f64>; 2] {
    let [g, p, v] = [g, p, v].map(|data| input(gpu, rows_in(data, cols), cols, data));
    gpu.run(|recorder| sgd::step(recorder, g.view()?, p.view()?, Some(v.view()?), options)).unwrap();
    [read(gpu, &p), read(gpu, &v)]
}

#[test]
fn verified() {
    verifies("sgd");
}

/// Steps as the case lists them; `advance` takes some of them and gives p and v after the last.
fn outputs(case: &Case, mut advance: impl FnMut(Range<usize>) -> [Vec<f64>; 2]) -> Found {
    let (mut done, mut after, mut velocity) = (0, Vec::new(), Vec::new());
    for report in case.option("report_steps").as_array().unwrap() {
        let next = report.as_u64().unwrap() as usize;
        let [p, v] = advance(done..next);
        after.extend(p);
        (done, velocity) = (next, v);
    }
    let mut found = vec![("p_after", Kind::Value, after)];
    if case.wants("momentum_buffer", Kind::Value) {
        found.push(("momentum_buffer", Kind::Value, velocity));
    }
    Ok(found)
}

fn options(case: &Case) -> Options {
    let value = |name: &str| case.f64(name).unwrap_or(0.0) as f32;
    let (rate, momentum, dampening) = (value("lr"), value("momentum"), value("dampening"));
    Options {
        rate,
        momentum,
        dampening,
        weight_decay: value("weight_decay"),
        nesterov: case.flag("nesterov"),
        first: false,
    }
}

#[test]
fn golden() {
    let Some(gpu) = gpu() else { return };
    golden::grade("sgd", |case| {
        let (p, g) = (case.input("p").data, case.input("g").data);
        let (size, options) = (p.len(), options(case));
        let gradients = input(gpu, g.len() / size, size, &g);
        let (p, v) = (input(gpu, 1, size, &p), output(gpu, 1, size));
        outputs(case, |steps| {
            let record = gpu.run(|recorder| {
                steps.clone().try_for_each(|step| {
                    let row = step % (g.len() / size);
                    let g = gradients.view()?.row_range(row..row + 1);
                    let options = Options { first: step == 0, ..options };
                    sgd::step(recorder, g, p.view()?, Some(v.view()?), options)
                })
            });
            record.unwrap();
            [read(gpu, &p), read(gpu, &v)]
        })
    });
}

/// The options are f32, the bank's steps were taken with f64 rates: up to 2⁻²⁵ of them apart.
#[test]
fn golden_reference() {
    golden::grade_reference("sgd", 0.1, |case| {
        let (mut p, g) = (wide(&case.input("p").data), wide(&case.input("g").data));
        let mut v = vec![0.0; p.len()];
        outputs(case, |steps| {
            for step in steps {
                let row = step % (g.len() / p.len());
                let options = Options { first: step == 0, ..options(case) };
                reference::sgd::step(&g[row * p.len()..][..p.len()], &mut p, &mut v, options);
            }
            [p.clone(), v.clone()]
        })
    });
}

/// Two steps written out by hand, p = 1, g = 2 then 3.
#[test]
fn reference_by_hand() {
    let options =
        Options { rate: 0.5, momentum: 0.5, dampening: 0.25, weight_decay: 2.0, nesterov: false, first: true };
    let (mut p, mut v) = ([1.0f64], [f64::NAN]);
    reference::sgd::step(&[2.0], &mut p, &mut v, options);
    assert_eq!((p, v), ([-1.0], [4.0])); // g' = 2 + 2 · 1; v = g'
    reference::sgd::step(&[3.0], &mut p, &mut v, Options { first: false, ..options });
    assert_eq!((p, v), ([-2.375], [2.75])); // g' = 3 + 2 · (−1); v = ½ · 4 + ¾ g'
    let nesterov = Options { dampening: 0.0, weight_decay: 0.0, nesterov: true, first: false, ..options };
    reference::sgd::step(&[1.0], &mut p, &mut v, nesterov);
    assert_eq!((p, v), ([-2.375 - 0.5 * (1.0 + 0.5 * 2.375)], [2.375])); // v = ½ · 2.75 + 1
}

#[test]
fn special_values() {
    let Some(gpu) = gpu() else { return };
    let (p, v) = (Fill::Small.matrix(4, 9, 1), Fill::Small.matrix(4, 9, 2));
    for options in FORMS {
        let mut g = Fill::Small.matrix(4, 9, 3);
        let harmless = on_device(gpu, &g, &p, &v, 9, options);
        (g[4], g[20], g[35]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY);
        let [new_p, new_v] = on_device(gpu, &g, &p, &v, 9, options);
        for index in 0..36 {
            match index {
                4 => assert!(new_p[4].is_nan()),
                20 => assert_eq!(new_p[20], f64::NEG_INFINITY),
                35 => assert_eq!(new_p[35], f64::INFINITY),
                _ => assert_eq!([new_p[index], new_v[index]], [harmless[0][index], harmless[1][index]]),
            }
        }
    }
}

#[test]
fn velocity_is_read_and_written_as_options_say() {
    let Some(gpu) = gpu() else { return };
    let (g, p) = (Fill::Small.matrix(2, 5, 4), Fill::Small.matrix(2, 5, 5));
    let bad = [f32::NAN; 10];
    let first = Options { momentum: 0.9, first: true, ..FORMS[0] };
    let [_, v] = on_device(gpu, &g, &p, &bad, 5, first);
    assert_eq!(v, wide(&g), "the first step overwrites v");
    let [new_p, v] = on_device(gpu, &g, &p, &bad, 5, FORMS[0]);
    assert_nan(&v); // without momentum v is left alone
    let (mut alone, mut velocity) = (p.clone(), [0.0; 10]);
    sgd::compute(gpu, &g, &mut alone, None, FORMS[0]).unwrap();
    assert_eq!(new_p, wide(&alone));
    sgd::compute(gpu, &g, &mut alone, Some(&mut velocity), Options { momentum: 0.5, ..FORMS[0] }).unwrap();
    assert_eq!(wide(&velocity), wide(&g), "v = 0.5 · 0 + g");
}

#[test]
fn empty() {
    let Some(gpu) = gpu() else { return };
    for cols in [0, 3] {
        assert_eq!(on_device(gpu, &[], &[], &[], cols, FORMS[2]), [const { Vec::<f64>::new() }; 2]);
    }
}

#[test]
fn refusals() {
    let Some(gpu) = gpu() else { return };
    let (g, turned) = (input(gpu, 2, 3, &[0.0; 6]), input(gpu, 3, 2, &[0.0; 6]));
    let (p, v) = (output(gpu, 2, 3), output(gpu, 2, 3));
    let step = |options| refused(gpu, &[&p, &v], |r| sgd::step(r, g.view()?, p.view()?, Some(v.view()?), options));
    let size = "from 0 to the largest f32";
    for (value, found) in [(-0.5, "-0.5"), (f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        let base = FORMS[0];
        assert_eq!(step(Options { rate: value, ..base }), option("sgd", "rate", size, found));
        assert_eq!(step(Options { momentum: value, ..base }), option("sgd", "momentum", size, found));
        assert_eq!(step(Options { weight_decay: value, ..base }), option("sgd", "weight_decay", size, found));
        if !value.is_finite() {
            assert_eq!(step(Options { dampening: value, ..base }), option("sgd", "dampening", "a number", found));
        }
    }
    for (momentum, dampening, found) in
        [(0.0, 0.0, "momentum 0, dampening 0"), (0.5, 0.1, "momentum 0.5, dampening 0.1")]
    {
        let want = option("sgd", "nesterov", "with momentum and no dampening", found);
        assert_eq!(step(Options { momentum, dampening, nesterov: true, ..FORMS[0] }), want);
    }
    let momentum = Options { momentum: 0.5, ..FORMS[0] };
    let error = refused(gpu, &[&p], |r| sgd::step(r, turned.view()?, p.view()?, None, FORMS[0]));
    assert_eq!(error, shape("sgd", "g", "2 x 3", "3 x 2"));
    let error = refused(gpu, &[&p], |r| sgd::step(r, g.view()?, p.view()?, Some(turned.view()?), momentum));
    assert_eq!(error, shape("sgd", "v", "2 x 3", "3 x 2"));
    let error = refused(gpu, &[&p], |r| sgd::step(r, g.view()?, p.view()?, None, momentum));
    assert_eq!(error, shape("sgd", "v", "2 x 3 with momentum 0.5", "none"));
    let error = refused(gpu, &[&p], |r| sgd::step(r, p.view()?, p.view()?, None, FORMS[0]));
    assert_eq!(error, overlap("sgd", "p", "g"));
    let error = refused(gpu, &[&p], |r| sgd::step(r, g.view()?, p.view()?, Some(p.view()?), momentum));
    assert_eq!(error, overlap("sgd", "p", "v"));
}

#[test]
fn same_bits() {
    let Some(gpu) = gpu() else { return };
    let [g, p, v] = [6, 7, 8].map(|seed| Fill::Small.matrix(7, 333, seed));
    assert_repeats(|| on_device(gpu, &g, &p, &v, 333, FORMS[3]).into());
}
