//! The bank and its rule judge themselves.

use super::*;

fn all_cases() -> impl Iterator<Item = Case> {
    bank().cases().iter().map(Case::new)
}

fn rounded(output: &Output) -> Vec<f32> {
    output.expected.iter().map(|&want| want as f32).collect()
}

#[test]
fn golden_inputs_match_their_checksums() {
    assert_eq!(bank().manifest["count"], all_cases().count());
    for case in all_cases() {
        for spec in case.inputs {
            let name = text(&spec["name"]);
            assert!(case.has(name));
            if case.has_ids(name) {
                case.ids(name);
            } else {
                let Input { shape, data } = case.input(name);
                assert_eq!(data.len(), shape.iter().product::<usize>());
            }
        }
    }
}

#[test]
fn golden_exact_results_pass_and_others_fail() {
    for output in all_cases().flat_map(|case| case.outputs).filter(|o| o.digest.is_none()) {
        let mut got = rounded(&output);
        let grade = output.judge(&got).unwrap();
        assert!(grade.in_tight && grade.worst_ulp <= 0.5 && grade.worst_abs.is_finite());
        assert!(output.judge(&[got.as_slice(), &[0.0]].concat()).is_err());
        for index in (0..got.len()).step_by(got.len() / 16 + 1) {
            let want = output.expected[index];
            let wrong = if want.is_nan() {
                [0.0, f32::INFINITY, f32::NEG_INFINITY]
            } else if want.abs() > f32::MAX.into() {
                [f32::MAX.copysign(want as f32), f32::INFINITY.copysign(-want as f32), f32::NAN]
            } else {
                [(want + 2.0 * output.tol.at(want)) as f32, f32::INFINITY, f32::NAN]
            };
            let right = got[index];
            for wrong in wrong {
                got[index] = wrong;
                let message = output.judge(&got).unwrap_err();
                assert!(message.contains(&format!("[{index}]: got {wrong:e}, want {want:e}")));
            }
            got[index] = right;
        }
    }
}

#[test]
fn golden_digest_judges_samples_and_sum() {
    let id = "kl_div/shape_257x1021_batchmean_log0";
    let case = cases("kl_div").into_iter().find(|case| case.id == id).unwrap();
    let output = case.outputs.iter().find(|output| output.kind == Kind::Grad).unwrap();
    let sampled = &output.digest.as_ref().unwrap().index;
    let exact: Vec<f32> = case.input("t").data.iter().map(|t| -t / 257.0).collect();
    assert!(output.judge(&exact).unwrap().in_tight);

    let mut one_off = exact.clone();
    one_off[sampled[7]] *= 1.001;
    assert!(output.judge(&one_off).unwrap_err().contains("(1 of 1025 off)"));
    let mut rest_off: Vec<f32> = exact.iter().map(|value| value * 1.001).collect();
    sampled.iter().for_each(|&at| rest_off[at] = exact[at]);
    assert!(output.judge(&rest_off).unwrap_err().contains("elements sum to"));
}

#[test]
fn golden_options_and_outputs_are_found() {
    let case = cases("sgd").into_iter().find(|case| case.id == "sgd/n3").unwrap();
    assert_eq!((case.int("steps"), case.f64("momentum")), (Some(5), Some(0.9)));
    assert!(case.flag("nesterov") && !case.flag("maximize") && case.f64("dampening").is_none());
    assert_eq!(case.text("grad_at_step"), case.options["grad_at_step"]);
    assert!(case.wants("momentum_buffer", Kind::Value) && !case.wants("p", Kind::Grad));
}

#[test]
fn golden_score_fails_what_is_required() {
    let names = [("y", Kind::Value), ("x", Kind::Grad)];
    let right = |case: &Case| -> Vec<Vec<f64>> { case.outputs.iter().map(|output| output.expected.clone()).collect() };
    let passes = |spoilt: Option<Class>| {
        std::panic::catch_unwind(|| {
            grade("log_softmax", |case| {
                let outputs = names.iter().zip(right(case));
                let spoil = |v: f64| if spoilt == Some(case.class) { v + 1e-3 * v.abs().max(1.0) } else { v };
                Ok(outputs.map(|(&(name, kind), v)| (name, kind, v.into_iter().map(spoil).collect())).collect())
            })
        })
        .is_ok()
    };
    assert!(passes(None) && passes(Some(Class::Edge)));
    assert!(!passes(Some(Class::Strict)) && !passes(Some(Class::Mask)) && !passes(Some(Class::Range)));
    let nothing = |found: fn() -> Found| std::panic::catch_unwind(|| grade("softmax", |_| found())).is_err();
    assert!(nothing(|| Err("skipped")) && nothing(|| Ok(Vec::new())));
}

#[test]
fn golden_reference_needs_more_than_f32() {
    let passes = |rounded: bool| {
        std::panic::catch_unwind(|| {
            grade_reference("tanh", 1e-6, |case| {
                let round = |v: &f64| if rounded { f64::from(*v as f32) } else { *v };
                let values = |output: &Output| output.expected.iter().map(round).collect();
                Ok(vec![("y", Kind::Value, values(&case.outputs[0])), ("x", Kind::Grad, values(&case.outputs[1]))])
            })
        })
        .is_ok()
    };
    assert!(passes(false) && !passes(true));
}

#[test]
fn golden_rows_and_back() {
    let shape = [2, 3, 4, 5];
    let data: Vec<f32> = (0..120u8).map(f32::from).collect();
    let (rows, cols, moved) = rows_of(&shape, 1, &data);
    assert_eq!((rows, cols, &moved[..4]), (40, 3, &[0.0, 20.0, 40.0, 1.0][..]));
    for dim in -4..4 {
        assert_eq!(back(&shape, dim, &rows_of(&shape, dim, &data).2), data);
    }
    assert_eq!(rows_of(&shape, -1, &data), (24, 5, data));
    assert_eq!(rows_of(&[], 0, &[7.0]), (1, 1, vec![7.0]));
    assert_eq!(rows_of::<f32>(&[5, 0, 2], 1, &[]), (10, 0, vec![]));
}
