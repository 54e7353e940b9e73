use std::ops::Range;

use wgloss::adam::{self, Options, State};
use wgloss::verify::Fill;
use wgloss::{Gpu, reference};

use crate::golden::{self, Case, Found, Kind};
use crate::harness::*;

const BASE: Options =
    Options { rate: 0.1, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, decoupled: false, step: 3 };

/// New p, m, v and the largest v.
fn on_device(gpu: &Gpu, g: &[f32], state: [&[f32]; 4], cols: usize, options: Options) -> [Vec<f64>; 4] {
    let g = input(gpu, rows_in(g, cols), cols, g);
    let [p, m, v, most] = state.map(|data| input(gpu, rows_in(data, cols), cols, data));
    gpu.run(|recorder| {
        let state = State { m: m.view()?, v: v.view()?, most: Some(most.view()?) };
        adam::step(recorder, g.view()?, p.view()?, state, options)
    })
    .unwrap();
    [&p, &m, &v, &most].map(|held| read(gpu, held))
}

/// Means that forget what was: nothing large may cancel.
#[test]
fn means_of_the_last_gradient() {
    let Some(gpu) = gpu() else { return };
    for (beta1, beta2) in [(0.0, 0.0), (0.0, 0.3), (0.4, 0.01)] {
        let options = Options { beta1, beta2, step: 2, ..BASE };
        let g = [1e-3f32, 1e-4, -3e-5, 1e20];
        let (mut p, mut m, mut v) = ([0.0f32; 4], [0.5f32; 4], [1.0f32; 4]);
        let wide = |x: &[f32]| -> Vec<f64> { x.iter().map(|&x| x.into()).collect() };
        let (mut want_p, mut want_m, mut want_v) = (wide(&p), wide(&m), wide(&v));
        reference::adam::step(&wide(&g), &mut want_p, [&mut want_m, &mut want_v, &mut []], options);
        adam::compute(gpu, &g, &mut p, [&mut m, &mut v], options).unwrap();
        for (found, want) in [(&p, &want_p), (&m, &want_m), (&v, &want_v)] {
            for (&found, &want) in found.iter().zip(want).take(3) {
                assert!((f64::from(found) - want).abs() <= 1e-6 * want.abs(), "{beta1} {beta2}: {found}, {want}");
            }
        }
        assert_eq!(v[3], f32::INFINITY);
    }
}

#[test]
fn verified() {
    verifies("adam");
}

/// Steps as the case lists them; `advance` takes some of them and gives p, m and v after the last.
fn outputs(case: &Case, mut advance: impl FnMut(Range<usize>) -> [Vec<f64>; 3]) -> Found {
    if case.flag("maximize") {
        return Err("maximize is no option: negate the gradient");
    }
    let (mut done, mut after, mut kept) = (0, Vec::new(), [Vec::new(), Vec::new()]);
    for report in case.option("report_steps").as_array().unwrap() {
        let next = report.as_u64().unwrap() as usize;
        let [p, m, v] = advance(done..next);
        after.extend(p);
        (done, kept) = (next, [m, v]);
    }
    let [m, v] = kept;
    Ok(vec![("p_after", Kind::Value, after), ("m", Kind::Value, m), ("v", Kind::Value, v)])
}

fn options(case: &Case, decoupled: bool, step: usize) -> Options {
    let hyper = case.option("hyper");
    let value = |name: &str| hyper[name].as_f64().unwrap();
    let [beta1, beta2] = [0, 1].map(|at| hyper["betas"][at].as_f64().unwrap());
    let (rate, eps, weight_decay) = (value("lr"), value("eps"), value("weight_decay"));
    Options { rate, beta1, beta2, eps, weight_decay, decoupled, step: step as u32 + 1 }
}

fn grade(gpu: &Gpu, op: &str, decoupled: bool) {
    golden::grade(op, |case| {
        if case.id.ends_with("denormal") && flushes_subnormals(gpu) {
            return Err("v is below the smallest normal number, which this device flushes to 0");
        }
        let (p, g) = (case.input("p").data, case.input("g").data);
        let size = p.len();
        let gradients = input(gpu, g.len() / size, size, &g);
        let (p, zeros) = (input(gpu, 1, size, &p), vec![0.0f32; size]);
        let (m, v) = (input(gpu, 1, size, &zeros), input(gpu, 1, size, &zeros));
        outputs(case, |steps| {
            let record = gpu.run(|recorder| {
                steps.clone().try_for_each(|step| {
                    let row = step % (g.len() / size);
                    let g = gradients.view()?.row_range(row..row + 1);
                    let state = State { m: m.view()?, v: v.view()?, most: None };
                    adam::step(recorder, g, p.view()?, state, options(case, decoupled, step))
                })
            });
            record.unwrap();
            [&p, &m, &v].map(|held| read(gpu, held))
        })
    });
}

#[test]
fn golden() {
    let Some(gpu) = gpu() else { return };
    grade(gpu, "adam", false);
}

#[test]
fn golden_adamw() {
    let Some(gpu) = gpu() else { return };
    grade(gpu, "adamw", true);
}

#[test]
fn golden_reference() {
    for (op, decoupled) in [("adam", false), ("adamw", true)] {
        golden::grade_reference(op, 1e-3, |case| {
            let (mut p, g) = (wide(&case.input("p").data), wide(&case.input("g").data));
            let (mut m, mut v) = (vec![0.0; p.len()], vec![0.0; p.len()]);
            outputs(case, |steps| {
                for step in steps {
                    let row = step % (g.len() / p.len());
                    let g = &g[row * p.len()..][..p.len()];
                    reference::adam::step(g, &mut p, [&mut m, &mut v, &mut []], options(case, decoupled, step));
                }
                [p.clone(), m.clone(), v.clone()]
            })
        });
    }
}

/// Two steps written out by hand.
#[test]
fn reference_by_hand() {
    let options =
        Options { rate: 0.5, beta1: 0.5, beta2: 0.75, eps: 1.0, weight_decay: 0.0, decoupled: false, step: 1 };
    let [mut p, mut m, mut v, mut most] = [[1.0f64], [0.0], [0.0], [0.0]];
    let mut step = |g, options| {
        reference::adam::step(&[g], &mut p, [&mut m, &mut v, &mut most], options);
        [p[0], m[0], v[0], most[0]]
    };
    // m = 2, v = 4; m/(1 − ½) = 4, v/(1 − ¾) = 16
    assert_eq!(step(4.0, options), [1.0 - 0.5 * 4.0 / 5.0, 2.0, 4.0, 4.0]);
    // m = 1, v = 3 below the largest, 4; m/(1 − ¼) = 4/3, 4/(1 − 9/16) = 64/7
    let [p, m, v, most] = step(0.0, Options { step: 2, ..options });
    assert_eq!([m, v, most], [1.0, 3.0, 4.0]);
    assert!((p - (0.6 - 0.5 * (4.0 / 3.0) / ((64.0f64 / 7.0).sqrt() + 1.0))).abs() < 1e-15);
    // Decay through the gradient, g' = 0 + 2 · 1, and of the parameter, p = 1 − ½ · 2 · 1.
    let decayed = |decoupled| {
        let [mut p, mut m, mut v] = [[1.0f64], [0.0], [0.0]];
        reference::adam::step(
            &[0.0],
            &mut p,
            [&mut m, &mut v, &mut []],
            Options { weight_decay: 2.0, decoupled, ..options },
        );
        [p[0], m[0]]
    };
    assert_eq!(decayed(false), [1.0 - 0.5 * 2.0 / 3.0, 1.0]);
    assert_eq!(decayed(true), [0.0, 0.0]);
}

#[test]
fn special_values() {
    let Some(gpu) = gpu() else { return };
    let [p, m] = [1, 2].map(|seed| Fill::Small.matrix(4, 9, seed));
    let v: Vec<f32> = Fill::Small.matrix(4, 9, 3).iter().map(|x| x * x).collect();
    let mut g = Fill::Small.matrix(4, 9, 4);
    let harmless = on_device(gpu, &g, [&p, &m, &v, &v], 9, BASE);
    (g[4], g[20], g[35]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY);
    let found = on_device(gpu, &g, [&p, &m, &v, &v], 9, BASE);
    for index in 0..36 {
        let at = |all: &[Vec<f64>; 4]| [0, 1, 2, 3].map(|of| all[of][index]);
        match index {
            4 => assert!(at(&found).iter().all(|value| value.is_nan())),
            20 | 35 => {
                let [p, m, v, most] = at(&found);
                assert!(p.is_nan() && m.is_infinite() && v == f64::INFINITY && most == f64::INFINITY);
            }
            _ => assert_eq!(at(&found), at(&harmless)),
        }
    }
}

/// A mean of squares that is infinite stays so, and its parameter where it is.
#[test]
fn infinite_squares() {
    let Some(gpu) = gpu() else { return };
    let [p, m, v, most] = on_device(gpu, &[1.0], [&[2.0], &[0.5], &[f32::INFINITY], &[0.0]], 1, BASE);
    assert_eq!((p[0], v[0], most[0]), (2.0, f64::INFINITY, f64::INFINITY));
    assert!((m[0] - 0.55).abs() < 1e-7);
}

#[test]
fn empty() {
    let Some(gpu) = gpu() else { return };
    for cols in [0, 3] {
        assert_eq!(on_device(gpu, &[], [&[]; 4], cols, BASE), [const { Vec::<f64>::new() }; 4]);
    }
}

#[test]
fn refusals() {
    let Some(gpu) = gpu() else { return };
    let (g, turned) = (input(gpu, 2, 3, &[0.0; 6]), input(gpu, 3, 2, &[0.0; 6]));
    let [p, m, v] = [const { (2, 3) }; 3].map(|(rows, cols)| output(gpu, rows, cols));
    let step = |options| {
        let state = || Ok::<_, wgloss::Error>(State { m: m.view()?, v: v.view()?, most: None });
        refused(gpu, &[&p, &m, &v], |r| adam::step(r, g.view()?, p.view()?, state()?, options))
    };
    for (value, found) in [(-0.5, "-0.5"), (f64::NAN, "NaN"), (1e300, &format!("{}", 1e300))] {
        let least = "from 0 to the largest f32";
        assert_eq!(step(Options { rate: value, ..BASE }), option("adam", "rate", least, found));
        assert_eq!(step(Options { eps: value, ..BASE }), option("adam", "eps", least, found));
        assert_eq!(step(Options { weight_decay: value, ..BASE }), option("adam", "weight_decay", least, found));
        assert_eq!(step(Options { beta1: value, ..BASE }), option("adam", "beta1", "from 0 to below 1", found));
    }
    assert_eq!(step(Options { beta2: 1.0, ..BASE }), option("adam", "beta2", "from 0 to below 1", "1"));
    assert_eq!(step(Options { step: 0, ..BASE }), option("adam", "step", "1 or more", "0"));
    let shaped = |g: &wgloss::verify::Held, m: &wgloss::verify::Held, most: Option<&wgloss::verify::Held>| {
        refused(gpu, &[&p, &v], |r| {
            let most = most.map(|held| held.view()).transpose()?;
            adam::step(r, g.view()?, p.view()?, State { m: m.view()?, v: v.view()?, most }, BASE)
        })
    };
    assert_eq!(shaped(&turned, &m, None), shape("adam", "g", "2 x 3", "3 x 2"));
    assert_eq!(shaped(&g, &turned, None), shape("adam", "m", "2 x 3", "3 x 2"));
    assert_eq!(shaped(&g, &m, Some(&turned)), shape("adam", "most", "2 x 3", "3 x 2"));
    assert_eq!(shaped(&p, &m, None), overlap("adam", "p", "g"));
    assert_eq!(shaped(&g, &p, None), overlap("adam", "p", "m"));
}

#[test]
fn same_bits() {
    let Some(gpu) = gpu() else { return };
    let [g, p, m, v] = [6, 7, 8, 9].map(|seed| Fill::Small.matrix(7, 333, seed));
    let v: Vec<f32> = v.iter().map(|x| x * x).collect();
    assert_repeats(|| on_device(gpu, &g, [&p, &m, &v, &v], 333, BASE).into());
}
