//! The program as a user meets it: what it says, what it leaves behind, how it ends.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use npyz::WriterBuilder;
use safetensors::SafeTensors;
use tempfile::TempDir;
use wgloss::Random;

fn wgloss(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wgloss"));
    command.args(arguments);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn npy<T: npyz::AutoSerialize>(path: &Path, shape: &[u64], data: impl IntoIterator<Item = T>) {
    let options = npyz::WriteOptions::new().default_dtype().shape(shape).writer(File::create(path).unwrap());
    let mut writer = options.begin_nd().unwrap();
    writer.extend(data).unwrap();
    writer.finish().unwrap();
}

/// 80 pairs of 6 numbers in a folder: queries.npy as float32, keys.npy, a noisy copy, as float16.
fn pairs() -> (TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let (queries, keys) = (folder.path().join("queries.npy"), folder.path().join("keys.npy"));
    let mut random = Random::new(3, 0);
    let rows: Vec<f32> = (0..80 * 6).map(|_| 2.0 * random.uniform() - 1.0).collect();
    npy(&queries, &[80, 6], rows.iter().copied());
    npy(&keys, &[80, 6], rows.iter().map(|value| half::f16::from_f32(value + 0.3 * random.uniform())));
    (folder, queries, keys)
}

/// Runs `train` on two files with more arguments.
fn train(queries: &Path, keys: &Path, more: &[&str]) -> Output {
    train_for("3", "16", queries, keys, more)
}

fn train_for(epochs: &str, batch: &str, queries: &Path, keys: &Path, more: &[&str]) -> Output {
    let mut command = wgloss(&["train", "--epochs", epochs, "--batch", batch]);
    command.arg("--queries").arg(queries).arg("--keys").arg(keys).args(more).output().unwrap()
}

/// The program refuses with exit code 2 and one line that holds every one of `words`; `out` holds no run.
fn refused(output: &Output, words: &[&str], out: &Path) {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert_eq!(said.trim().lines().count(), 1, "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is missing in: {said}");
    }
    assert!(!out.join("adapter.safetensors").exists() && !out.join("metrics.jsonl").exists());
}

#[test]
fn what_is_known_of_pairs() {
    let (folder, queries, keys) = pairs();
    let file = |name: &str| folder.path().join(name);
    npy(&file("ids.npy"), &[80], (0..80).map(|pair| i64::from(pair / 2) - 1));
    npy(&file("few.npy"), &[79], 0..79);
    npy(&file("halves.npy"), &[80], (0..80).map(|pair| f64::from(pair) / 2.0));
    npy(&file("negative.npy"), &[80], (0..80).map(|pair| if pair == 3 { -0.5 } else { 1.0 }));
    npy(&file("square.npy"), &[80, 1], 0..80);
    let run = |option: &str, values: &str, more: &[&str], out: &str| {
        let (values, out) = (file(values), file(out));
        let all = [&[option, values.to_str().unwrap(), "--out", out.to_str().unwrap()], more].concat();
        train(&queries, &keys, &all)
    };
    for (option, values, words) in [
        ("--ids", "few.npy", &["few.npy", "one for each pair, 80", "found 79"][..]),
        ("--ids", "halves.npy", &["halves.npy", "expected int8 to int64", "<f8"]),
        ("--ids", "square.npy", &["square.npy", "expected an array of shape [n]", "[80, 1]"]),
        ("--ids", "none.npy", &["none.npy", "expected a .npy file", "found none"]),
        ("--labels", "few.npy", &["few.npy", "one for each pair, 80", "found 79"]),
        ("--weights", "few.npy", &["few.npy", "one for each pair, 80", "found 79"]),
        ("--weights", "negative.npy", &["negative.npy", "finite numbers from 0", "-0.5 in row 3"]),
    ] {
        refused(&run(option, values, &[], "refused"), words, &file("refused"));
    }
    npy(&file("large.npy"), &[80], (0..80u64).map(|pair| u64::MAX - pair));
    let epochs = |run: &Output, out: &str| -> Vec<serde_json::Value> {
        assert_eq!(run.status.code(), Some(0), "{}", text(&run.stderr));
        lines(&file(out))
            .into_iter()
            .filter(|line| line["event"] == "epoch")
            .map(|line| line["losses"].clone())
            .collect()
    };
    let losses = [
        epochs(&train(&queries, &keys, &["--out", file("plain").to_str().unwrap()]), "plain"),
        epochs(&run("--ids", "ids.npy", &[], "ids"), "ids"),
        epochs(&run("--labels", "ids.npy", &[], "labels"), "labels"),
        epochs(&run("--labels", "ids.npy", &["--inside-log"], "inside"), "inside"),
        epochs(&run("--weights", "halves.npy", &[], "weights"), "weights"),
    ];
    for (at, one) in losses.iter().enumerate() {
        assert!(one.len() == 3 && !losses[..at].contains(one), "{losses:?}");
    }
    assert_eq!(epochs(&run("--ids", "large.npy", &[], "large"), "large"), losses[0], "each has its own");
}

/// What embeddings are worth that are cut stands beside the whole.
#[test]
fn embeddings_that_may_be_cut_are_measured() {
    let (folder, queries, keys) = pairs();
    let out = folder.path().join("out");
    let output = train(&queries, &keys, &["--matryoshka", "3,2", "--lr", "0.01", "--out", out.to_str().unwrap()]);
    let said = all_said(&output);
    assert!(output.status.success() && said.matches("of the first 3 ").count() == 2, "{said}");
    let lines = lines(&out);
    assert_eq!(lines[0]["run"]["matryoshka"], serde_json::json!([3, 2]));
    assert!(
        lines.len() == 5 && lines.iter().all(|line| line["matryoshka"].as_object().unwrap().len() == 2),
        "{lines:?}"
    );
    let (kept, end) = (&lines[4]["epoch"], &lines[4]["matryoshka"]["2"]);
    assert_eq!(*end, lines[kept.as_u64().unwrap() as usize]["matryoshka"]["2"]);
    assert!(end["recall_at_10"].as_f64().unwrap() > 0.0 && *end != lines[4]["after"], "{end}");
}

/// The weights of a run embed other rows: with a hidden layer or without, whole or cut, as queries or as keys.
#[test]
fn a_run_embeds_rows() {
    let (folder, queries, keys) = pairs();
    let file = |name: &str| folder.path().join(name);
    let numbers = |path: &Path| -> (Vec<u64>, Vec<f32>) {
        let npy =
            npyz::NpyFile::new(fs::read(path).unwrap().as_slice()).map(|npy| (npy.shape().to_vec(), npy.into_vec()));
        let (shape, data) = npy.unwrap();
        (shape, data.unwrap())
    };
    let embed = |run: &str, more: &[&str]| {
        let mut command = wgloss(&["embed"]);
        command.arg(file(run)).args(more).output().unwrap()
    };
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let (rows, (whole, first)) = (path(&queries), (path(&file("whole.npy")), path(&file("first.npy"))));
    // Without a step the map is the identity: what comes out are the rows themselves, of unit length.
    let start = train(&queries, &keys, &["--lr", "0", "--out", file("start").to_str().unwrap()]);
    assert!(start.status.success(), "{}", all_said(&start));
    let output = embed("start", &["--queries", &rows, "--out", &whole]);
    assert!(output.status.success() && all_said(&output).contains("80 x 6"), "{}", all_said(&output));
    let output = embed("start", &["--queries", &rows, "--length", "2", "--out", &first]);
    assert!(output.status.success(), "{}", all_said(&output));
    let ((_, given), (shape, found), (shape_2, found_2)) =
        (numbers(&queries), numbers(Path::new(&whole)), numbers(Path::new(&first)));
    assert_eq!((shape, shape_2), (vec![80, 6], vec![80, 2]));
    for (row, given) in given.chunks(6).enumerate() {
        for (length, found) in [(6, &found), (2, &found_2)] {
            let norm = given[..length].iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
            for (given, found) in given.iter().zip(&found[row * length..][..length]) {
                assert!((f64::from(*given) / norm - f64::from(*found)).abs() < 1e-6, "row {row}");
            }
        }
    }
    let deep = train(&queries, &keys, &["--hidden", "5", "--dim", "4", "--out", file("deep").to_str().unwrap()]);
    assert!(deep.status.success(), "{}", all_said(&deep));
    let as_keys = embed("deep", &["--keys", &path(&keys), "--out", &whole, "--overwrite"]);
    assert!(as_keys.status.success(), "{}", all_said(&as_keys));
    let (shape, as_keys) = numbers(Path::new(&whole));
    assert!(embed("deep", &["--queries", &path(&keys), "--out", &whole, "--overwrite"]).status.success());
    assert!(shape == [80, 4] && as_keys != numbers(Path::new(&whole)).1);

    npy(&file("wide.npy"), &[2, 7], (0..14).map(|value| value as f32));
    npy(&file("nan.npy"), &[2, 6], (0..12).map(|at| if at == 8 { f32::NAN } else { 1.0 }));
    let (nowhere, new) = (file("nowhere"), path(&file("new.npy")));
    for (run, more, words) in [
        ("start", &["--queries", &rows, "--out", &whole][..], &["whole.npy", "--overwrite"][..]),
        ("start", &["--queries", &rows, "--length", "7", "--out", &new], &["--length", "width, 6, found 7"]),
        ("start", &["--queries", &path(&file("wide.npy")), "--out", &new], &["wide.npy", "rows of 6", "found 7"]),
        ("start", &["--keys", &path(&file("nan.npy")), "--out", &new], &["nan.npy", "NaN in row 1, column 2"]),
        ("none", &["--queries", &rows, "--out", &new], &["adapter.safetensors", "expected what `wgloss train`"]),
        ("start", &["--queries", &rows, "--out", &rows, "--overwrite"], &["--out", "another file than the inputs"]),
    ] {
        refused(&embed(run, more), words, &nowhere);
    }
    assert!(!Path::new(&new).exists());
}

/// What says nothing to a training, or contradicts it, is refused and not passed over.
#[test]
fn options_of_another_training_are_refused() {
    let (folder, queries, keys) = pairs();
    let (file, out) = (interactions(folder.path()), folder.path().join("out"));
    for (more, words) in [
        (&["--cosine"][..], "--cosine: expected with --interactions"),
        (&["--negatives", "hard"], "--negatives: expected with --interactions"),
        (&["--min-rating", "3"], "--min-rating: expected with --interactions"),
        (&["--optimizer", "adam", "--momentum", "0.5"], "--momentum: expected with --optimizer sgd"),
    ] {
        refused(&train(&queries, &keys, &[more, &["--out", out.to_str().unwrap()]].concat()), &[words], &out);
    }
    for (more, words) in [
        (&["--weights", "none.npy"][..], "--weights: expected with pairs only"),
        (&["--labels", "none.npy"], "--labels: expected with pairs only"),
        (&["--matryoshka", "2"], "--matryoshka: expected with pairs only"),
        (&["--momentum", "0.9"], "--momentum: expected with --optimizer sgd"),
        (&["--negatives", "in-batch", "--negative-count", "3"], "--negative-count: expected with negatives"),
        (&["--hidden", "1000000000"], "hidden"),
        (&["--negative-count", "18446744073709551615"], "negatives"),
    ] {
        refused(&recommend(&file, &[more, &["--out", out.to_str().unwrap()]].concat()), &[words], &out);
    }
    assert!(!out.exists());
}

#[test]
fn bad_files_are_refused_in_one_sentence() {
    let (folder, queries, keys) = pairs();
    let file = |name: &str| folder.path().join(name);
    let out = file("out");
    let refuse = |queries: &Path, keys: &Path, words: &[&str]| {
        refused(&train(queries, keys, &["--out", out.to_str().unwrap()]), words, &out);
    };
    refuse(&file("none.npy"), &keys, &["none.npy", "expected a .npy file", "found none"]);
    npy(&file("whole.npy"), &[80, 6], 0..480i64);
    refuse(&queries, &file("whole.npy"), &["whole.npy", "expected float16, float32 or float64, found '<i8'", "astype"]);
    npy(&file("huge.npy"), &[80, 6], (0..480).map(|at| 1e38 * f64::from(at)));
    refuse(&queries, &file("huge.npy"), &["huge.npy", "inf"]);
    npy(&file("flat.npy"), &[480], (0..480).map(|value| value as f32));
    refuse(&file("flat.npy"), &keys, &["flat.npy", "expected an array of shape [n, d]", "[480]"]);
    npy(&file("short.npy"), &[79, 6], (0..79 * 6).map(|value| value as f32));
    refuse(&queries, &file("short.npy"), &["short.npy", "80", "found 79"]);
    npy(&file("empty.npy"), &[0, 6], core::iter::empty::<f32>());
    refuse(&file("empty.npy"), &keys, &["empty.npy", "at least one row", "0 x 6"]);
    npy(&file("nan.npy"), &[80, 6], (0..480).map(|at| if at == 100 { f32::NAN } else { 1.0 }));
    refuse(&queries, &file("nan.npy"), &["nan.npy", "finite", "NaN in row 16, column 4"]);
    let whole = fs::read(&queries).unwrap();
    fs::write(file("cut.npy"), &whole[..whole.len() - 9]).unwrap();
    refuse(&file("cut.npy"), &keys, &["cut.npy", "80 x 6", "bytes"]);
    fs::write(file("text.npy"), "not an array, but long enough to look at").unwrap();
    refuse(&file("text.npy"), &keys, &["text.npy", "expected a readable .npy file"]);
    refuse(folder.path(), &keys, &["expected a readable .npy file"]);
}

#[test]
fn bad_options_are_refused_in_one_sentence() {
    let (folder, queries, keys) = pairs();
    let out = folder.path().join("out");
    for (option, words) in [
        ("--lr=-1", ["--lr: expected", "from 0 to"]),
        ("--momentum=NaN", ["--momentum", "NaN"]),
        ("--temperature=0", ["--temperature", "at least 1/max_scale, found 0 with max_scale 100"]),
        ("--held-out=0", ["--held-out", "above 0 and below 1"]),
        ("--dim=0", ["dim", "from 1 to 65536"]),
        ("--matryoshka=3,6", ["matryoshka", "[3, 6] of 6"]),
        ("--batch=65", ["batch", "65 with 64 pairs"]),
        ("--adapter=no such card", ["no such card", "found"]),
    ] {
        let mut command = wgloss(&["train", option, "--queries"]);
        let output = command.arg(&queries).arg("--keys").arg(&keys).arg("--out").arg(&out).output().unwrap();
        refused(&output, &words, &out);
    }
}

#[test]
fn a_folder_that_cannot_be_written_or_holds_a_run_is_refused() {
    let (folder, queries, keys) = pairs();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let below = file.join("out");
    refused(&train(&queries, &keys, &["--out", below.to_str().unwrap()]), &["--out", "expected a folder"], &below);

    let out = folder.path().join("run");
    let out = out.to_str().unwrap();
    assert!(train(&queries, &keys, &["--out", out]).status.success());
    let second = train(&queries, &keys, &["--out", out]);
    assert_eq!(second.status.code(), Some(2));
    assert!(text(&second.stderr).contains("--overwrite"));
    assert!(train(&queries, &keys, &["--out", out, "--overwrite"]).status.success());
}

#[test]
fn a_run_leaves_weights_metrics_and_a_picture() {
    let (folder, queries, keys) = pairs();
    let run = |name: &str, more: &[&str]| {
        let out = folder.path().join(name);
        let output = train(&queries, &keys, &[&["--out", out.to_str().unwrap()], more].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        (out, text(&output.stdout))
    };
    let (out, said) = run("first", &["--hidden", "5", "--dim", "4"]);
    for word in ["adapter:", "80 pairs, 16 held out", "recall@1", "by chance", "pairs/s"] {
        assert!(said.contains(word), "{word:?} is missing in: {said}");
    }
    let bytes = fs::read(out.join("adapter.safetensors")).unwrap();
    let weights = SafeTensors::deserialize(&bytes).unwrap();
    let shape = |name: &str| weights.tensor(name).unwrap().shape().to_vec();
    for side in ["query", "key"] {
        assert_eq!(shape(&format!("{side}.hidden.weight")), [5, 6]);
        assert_eq!(shape(&format!("{side}.hidden.bias")), [5]);
        assert_eq!(shape(&format!("{side}.output.weight")), [4, 5]);
        assert_eq!(shape(&format!("{side}.output.bias")), [4]);
    }
    assert_eq!(shape("log_scale"), [1]);
    let metrics = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let events: Vec<&str> = lines.iter().map(|line| line["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["start", "epoch", "epoch", "epoch", "end"]);
    assert!(lines[1]["loss"].as_f64().unwrap() > 0.0 && lines[1]["losses"].as_array().unwrap().len() == 4);
    assert!(fs::read_to_string(out.join("training.svg")).unwrap().starts_with("<svg"));

    let (again, _) = run("second", &["--hidden", "5", "--dim", "4"]);
    assert!(bytes == fs::read(again.join("adapter.safetensors")).unwrap(), "the same seed gave other bits");
    let (other, _) = run("third", &["--hidden", "5", "--dim", "4", "--seed", "2"]);
    run("fourth", &["--near-margin", "-0.1", "--margin", "-0.2", "--hardness", "-0.5"]);
    assert!(bytes != fs::read(other.join("adapter.safetensors")).unwrap(), "another seed gave the same bits");
}

#[test]
fn a_rate_that_is_too_high_is_noticed() {
    let (folder, queries, keys) = pairs();
    let out = folder.path().join("out");
    let output = train(&queries, &keys, &["--lr=1e30", "--out", out.to_str().unwrap()]);
    let said = text(&output.stdout);
    assert!(output.status.code() == Some(1) && said.contains("diverged") && said.contains("--lr"), "{said}");
    assert!(said.contains("nothing to keep") && !out.exists(), "{said}");
    // Steps that are short at first, and later throw weights beyond what decay can hold.
    let more = [
        "--hidden",
        "5",
        "--lr=3e3",
        "--warm-up",
        "100000",
        "--weight-decay",
        "1",
        "--optimizer",
        "sgd",
        "--out",
        out.to_str().unwrap(),
    ];
    let output = train_for("200", "16", &queries, &keys, &more);
    let said = text(&output.stdout);
    assert!(output.status.code() == Some(1) && said.contains("The weights are those of epoch"), "{said}");
    let bytes = fs::read(out.join("adapter.safetensors")).unwrap();
    let weights = SafeTensors::deserialize(&bytes).unwrap();
    let values = weights.tensor("query.output.weight").unwrap().data().to_vec();
    assert!(values.chunks(4).all(|value| f32::from_le_bytes(value.try_into().unwrap()).is_finite()));
}

/// What makes a result less than it seems, or nothing at all.
#[test]
fn notes_on_a_training() {
    let (folder, queries, keys) = pairs();
    let file = |name: &str| folder.path().join(name);
    npy(&file("twice.npy"), &[80, 6], (0..480).map(|at| f64::from(at % 240 * 37 % 97) / 97.0 - 0.5));
    for (keys, batch, more, want) in [
        (&file("twice.npy"), "16", &[][..], "held-out pairs have a key or an id that is trained on"),
        (&keys, "16", &["--warm-up", "100", "--lr", "1"], "--warm-up 100 is longer than the training, 8 steps"),
        (&keys, "1", &[], "the loss was 0 from the first step on"),
        (&keys, "16", &["--lr", "0"], "the loss has not fallen"),
    ] {
        let out = file("out");
        let more = [more, &["--out", out.to_str().unwrap(), "--overwrite"]].concat();
        let output = train_for("2", batch, &queries, keys, &more);
        let said = text(&output.stdout);
        assert!(output.status.success() && said.contains(want), "{want}: {said}{}", text(&output.stderr));
    }
}

#[test]
fn patience_ends_a_training_and_its_best_epoch_stays() {
    let (folder, queries, keys) = pairs();
    let out = folder.path().join("out");
    let more = ["--hidden", "5", "--patience", "4", "--out", out.to_str().unwrap()];
    let output = train_for("5000", "16", &queries, &keys, &more);
    let said = text(&output.stdout);
    assert!(output.status.success() && said.contains("ended by --patience after epoch"), "{said}");
    let lines = lines(&out);
    let end = lines.last().unwrap();
    let best = end["epoch"].as_u64().unwrap();
    let epochs: Vec<&serde_json::Value> = lines.iter().filter(|line| line["event"] == "epoch").collect();
    assert!(end["end"] == "patience" && epochs.len() as u64 == best + 4, "{end}");
    let rank = |epoch: u64| epochs[epoch as usize - 1]["held_out"]["mean_reciprocal_rank"].as_f64().unwrap();
    assert!((1..=best + 4).all(|epoch| rank(epoch) <= rank(best)) && (1..best).all(|epoch| rank(epoch) < rank(best)));
    // The first steps compile kernels and say nothing about speed.
    assert!(epochs[1]["pairs_per_second"].as_f64().unwrap() > 0.0, "{}", epochs[1]);
}

/// Tables that were never better than at random are no result: an earlier run stays where it is.
#[test]
fn tables_that_run_away_at_once_replace_nothing() {
    if !has_adapter() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (file, out) = (interactions(folder.path()), folder.path().join("out"));
    let run = |more: &[&str]| recommend(&file, &[more, &["--out", out.to_str().unwrap()]].concat());
    assert!(run(&["--epochs", "2"]).status.success());
    let files =
        || ["embeddings.safetensors", "ids.json", "metrics.jsonl"].map(|name| fs::read(out.join(name)).unwrap());
    let kept = files();
    let output = run(&["--epochs", "2", "--lr", "1e38", "--optimizer", "sgd", "--overwrite"]);
    let said = all_said(&output);
    assert!(output.status.code() == Some(1) && said.contains("diverged") && said.contains("nothing to keep"), "{said}");
    assert!(kept == files());
}

#[test]
fn without_an_adapter_the_reference_trains() {
    let (folder, queries, keys) = pairs();
    let out = folder.path().join("out");
    let mut command = wgloss(&["train", "--epochs", "2", "--batch", "16", "--queries"]);
    command.arg(&queries).arg("--keys").arg(&keys).arg("--out").arg(&out);
    let output =
        command.env("VK_DRIVER_FILES", "/nonexistent").env("VK_ICD_FILENAMES", "/nonexistent").output().unwrap();
    let said = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    if cfg!(target_os = "linux") {
        // Elsewhere other backends have adapters of their own.
        assert!(said.contains("adapter: none") && said.contains("mesa-vulkan-drivers"), "{said}");
        assert!(said.contains("CPU reference"), "{said}");
    }
    assert!(out.join("adapter.safetensors").exists());
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_the_best_epoch() {
    let (folder, queries, keys) = pairs();
    let out = folder.path().join("out");
    let mut command = wgloss(&["train", "--epochs", "100000", "--lr", "0.001", "--batch", "16", "--queries"]);
    command.arg(&queries).arg("--keys").arg(&keys).arg("--out").arg(&out);
    let child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let weights = out.join("adapter.safetensors");
    let start = std::time::Instant::now();
    while !fs::read_to_string(out.join("metrics.jsonl")).is_ok_and(|log| log.contains("\"epoch\":2,")) {
        assert!(start.elapsed().as_secs() < 120, "no second epoch in two minutes");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("stopped after epoch") && said.contains("the weights are those of"), "{said}");
    SafeTensors::deserialize(&fs::read(&weights).unwrap()).unwrap();
    assert!(out.join("training.svg").exists());
}

#[test]
fn verify_names_an_adapter_that_is_not_there() {
    let output = wgloss(&["verify", "--adapter", "no such card"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("no such card"));
}

/// Random cases are told by their seeds, from which the same come again.
#[test]
fn verify_draws_cases() {
    if !has_adapter() {
        return;
    }
    let told = |seed: &str| {
        let output = wgloss(&["verify", "--op", "tanh,adam", "--random", "3", "--seed", seed]).output().unwrap();
        assert!(output.status.success(), "{}", all_said(&output));
        let said = text(&output.stdout).to_owned();
        let errors = |line: &str| line.split('┆').take(4).collect::<Vec<_>>().join("┆");
        said.lines().filter(|line| line.contains("pass")).map(errors).collect::<Vec<_>>()
    };
    let first = told("1");
    assert!(first.len() == 2 && first == told("1") && first != told("5"), "{first:?}");
    let seed = wgloss(&["verify", "--seed", "3"]).output().unwrap();
    assert!(seed.status.code() == Some(2) && text(&seed.stderr).contains("--random"));
}

#[test]
fn adapters_lists_or_says_how_to_get_one() {
    let output = wgloss(&["adapters"]).output().unwrap();
    assert!(output.status.success());
    let none =
        wgloss(&["adapters"]).env("VK_DRIVER_FILES", "/nonexistent").env("VK_ICD_FILENAMES", "/nonexistent").output();
    let said = text(&none.unwrap().stdout);
    assert!(said.contains("no adapter") || !cfg!(target_os = "linux"), "{said}");
}

fn has_adapter() -> bool {
    let has = !std::env::var("WGLOSS_NO_GPU").is_ok_and(|value| value == "1");
    if !has {
        eprintln!("SKIPPED: WGLOSS_NO_GPU=1");
    }
    has
}

/// 40 users of two groups, who take items of their own group only, in the order of lines.
fn interactions(folder: &Path) -> PathBuf {
    let file = folder.join("ratings.csv");
    let mut random = Random::new(4, 0);
    let mut text = "userId,movieId,rating,timestamp\n".to_owned();
    for line in 0..600 {
        let user = random.below(40);
        let item = random.below(10) * 2 + user % 2;
        text += &format!("u{user},film {item},{},{line}\n", 1 + random.below(5));
    }
    fs::write(&file, text).unwrap();
    file
}

fn recommend(file: &Path, more: &[&str]) -> Output {
    let mut command = wgloss(&["train", "--batch", "32", "--dim", "8", "--interactions"]);
    command.arg(file).args(more).output().unwrap()
}

#[test]
fn interactions_leave_embeddings_and_their_ids() {
    if !has_adapter() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (file, out) = (interactions(folder.path()), folder.path().join("out"));
    let output = recommend(&file, &["--epochs", "8", "--min-rating", "2", "--out", out.to_str().unwrap()]);
    let said = text(&output.stdout);
    assert!(output.status.success(), "{said}{}", text(&output.stderr));
    assert!(said.contains("40 users and 20 items") && said.contains("the most popular"), "{said}");
    let fields = "of 600 lines: user from userId, item from movieId, weight from rating, time from timestamp; ";
    assert!(said.contains(fields) && said.contains(" below --min-rating; "), "{said}");
    let ids: serde_json::Value = serde_json::from_slice(&fs::read(out.join("ids.json")).unwrap()).unwrap();
    let names = |side: &str| -> Vec<String> {
        ids[side].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect()
    };
    let (users, items) = (names("users"), names("items"));
    let bytes = fs::read(out.join("embeddings.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let rows = |side: &str, count: usize| -> Vec<f32> {
        let tensor = tensors.tensor(side).unwrap();
        assert_eq!(tensor.shape(), [count, 8]);
        tensor.data().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
    };
    let (user_rows, item_rows) = (rows("users", users.len()), rows("items", items.len()));
    // A user's own group scores higher on average.
    let number = |name: &str| name.trim_start_matches(|c: char| !c.is_ascii_digit()).parse::<u32>().unwrap();
    let (mut own, mut other) = (0.0, 0.0);
    for (user, name) in user_rows.chunks(8).zip(&users) {
        for (item, film) in item_rows.chunks(8).zip(&items) {
            let score: f32 = user.iter().zip(item).map(|(a, b)| a * b).sum();
            *if number(name) % 2 == number(film) % 2 { &mut own } else { &mut other } += score;
        }
    }
    assert!(own > other + 100.0, "{own} {other}");
    let log = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    assert_eq!(log.lines().count(), 1 + 8 + 1);
}

#[test]
fn bad_interactions_are_refused_in_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let (file, out) = (interactions(folder.path()), folder.path().join("out"));
    let to = ["--out", out.to_str().unwrap()];
    let refuse =
        |file: &Path, more: &[&str], words: &[&str]| refused(&recommend(file, &[more, &to].concat()), words, &out);
    let broken = folder.path().join("broken.csv");
    fs::write(&broken, "a,x,1\nb,y,many\n").unwrap();
    refuse(&broken, &[], &["broken.csv", "line 2", "expected a number as weight", "many"]);
    refuse(&folder.path().join("none.csv"), &[], &["none.csv", "expected a file"]);
    refuse(folder.path(), &[], &["folder"]);
    let none = ["ratings.csv", "expected weights of at least 6", "found 5 at most among 600"];
    refuse(&file, &["--min-rating", "6"], &none);
    refuse(&file, &["--queue", "4"], &["--queue", "pairs only"]);
    refuse(&file, &["--margin", "0.1"], &["a form of the contrastive loss", "pairs only"]);
    refuse(&file, &["--loss", "logistic", "--negatives", "mixed"], &["negatives", "logistic"]);
    refuse(&file, &["--negatives", "none"], &["negatives", "softmax"]);
    refuse(&file, &["--lr", "-1"], &["--lr", "from 0 to"]);
    let disliked = folder.path().join("disliked.csv");
    fs::write(&disliked, "a,x,1\nb,y,-2\n").unwrap();
    refuse(&disliked, &[], &["disliked.csv", "line 2", "expected a weight of at least 0, found -2"]);
}

/// The lines of a run's metrics.
fn lines(run: &Path) -> Vec<serde_json::Value> {
    let log = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    log.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The objective after each half of a sweep.
fn objectives(run: &Path) -> Vec<f64> {
    lines(run).iter().filter_map(|line| line["objective"].as_f64()).collect()
}

/// All that a run says.
fn all_said(output: &Output) -> String {
    text(&output.stdout) + &text(&output.stderr)
}

/// Where no user has three interactions nothing is measured, and training keeps its last epoch.
#[test]
fn nothing_is_measured_where_nothing_is_held_out() {
    if !has_adapter() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (file, out) = (folder.path().join("few.csv"), folder.path().join("out"));
    let text: String = (0..40).map(|line| format!("u{},i{}\n", line / 2, line * 7 % 10)).collect();
    fs::write(&file, text).unwrap();
    let to = ["--out", out.to_str().unwrap(), "--overwrite"];
    let unmeasured = |output: &Output| {
        let (said, lines) = (all_said(output), lines(&out));
        assert!(output.status.success() && said.contains("nothing held out"), "{said}");
        assert!(!said.contains("recall") && !said.contains("popular") && !said.contains("epoch 0"), "{said}");
        assert!(lines.iter().all(|line| line["held_out"].is_null() && line["before"].is_null()), "{lines:?}");
    };
    let trained = ["3", "2"].map(|epochs| {
        unmeasured(&recommend(&file, &[&["--epochs", epochs], &to[..]].concat()));
        let end = lines(&out).pop().unwrap();
        assert!(
            end["event"] == "end" && end["end"] == "finished" && end["epoch"] == epochs.parse::<u64>().unwrap(),
            "{end}"
        );
        let bytes = fs::read(out.join("embeddings.safetensors")).unwrap();
        SafeTensors::deserialize(&bytes).unwrap().tensor("users").unwrap().data().to_vec()
    });
    assert!(trained[0] != trained[1], "the epochs were lost");
    // A fit that cannot be made leaves the earlier run as it was.
    let before = fs::read(out.join("embeddings.safetensors")).unwrap();
    let impossible = factors(&file, &[&["--preset", "explicit", "--regularization", "0"], &to[..]].concat());
    assert!(!impossible.status.success() && fs::read(out.join("embeddings.safetensors")).unwrap() == before);
    assert_eq!(lines(&out).pop().unwrap()["epoch"], 2);
    unmeasured(&factors(&file, &to));
    let (file, none) = (interactions(folder.path()), ["--held-out-users", "0"]);
    unmeasured(&recommend(&file, &[&["--epochs", "2"], &none[..], &to].concat()));
    let all = factors(&file, &[&none[..], &to].concat());
    unmeasured(&all);
    let (said, run) = (all_said(&all), &lines(&out)[0]["run"]);
    assert!(said.contains(&format!("{} interactions of 40 users", run["interactions"])), "{said} {run}");
    assert!(!said.contains("since no user"), "{said}");
}

fn factors(file: &Path, more: &[&str]) -> Output {
    wgloss(&["wals", "--dim", "4", "--sweeps", "5", "--interactions"]).arg(file).args(more).output().unwrap()
}

#[test]
fn wals_leaves_factors_and_an_objective_that_falls() {
    if !has_adapter() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = interactions(folder.path());
    for preset in ["ials", "hu", "implicit", "tf", "explicit"] {
        let out = folder.path().join(preset);
        let storage = if preset == "hu" { "f16" } else { "f32" };
        let output = factors(&file, &["--preset", preset, "--storage", storage, "--out", out.to_str().unwrap()]);
        let said = text(&output.stdout);
        assert!(output.status.success(), "{said}{}", text(&output.stderr));
        assert!(said.contains("40 users and 20 items") && said.contains("5 sweeps"), "{said}");
        let bytes = fs::read(out.join("embeddings.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(tensors.tensor("users").unwrap().shape(), [40, 4]);
        assert_eq!(tensors.tensor("items").unwrap().shape(), [20, 4]);
        let log = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
        let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let objectives: Vec<f64> = lines.iter().filter_map(|line| line["objective"].as_f64()).collect();
        assert_eq!(objectives.len(), 10);
        let rounding = if storage == "f16" { 1e-3 } else { 1e-6 };
        assert!(objectives.windows(2).all(|pair| pair[1] < pair[0] * (1.0 + rounding)), "{preset}: {objectives:?}");
        assert!(lines[11]["held_out"]["recall_at_10"].as_f64().unwrap() > 0.0, "{preset}");
        assert!(lines[11]["end"] == "finished" && lines[11]["sweeps"] == 5, "{}", lines[11]);
        let solver = if preset == "explicit" { "exactly" } else { "2 steps" };
        assert!(said.contains(solver), "{preset}: {said}");
        let predicts = preset == "explicit";
        assert!(
            said.contains("RMSE of the held-out weights") == predicts && lines[11]["rmse"].is_f64() == predicts,
            "{said}"
        );
    }
    if cfg!(target_os = "linux") {
        // A run is kept though nobody can be told.
        let out = folder.path().join("untold");
        let mut command = wgloss(&["wals", "--dim", "4", "--sweeps", "2", "--interactions"]);
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        assert!(command.arg(&file).arg("--out").arg(&out).stdout(full).status().unwrap().success());
        assert!(out.join("objective.svg").exists());
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = wgloss(&["recommend", "--item", "film 2"]).arg(&out).stdout(full).output().unwrap();
        let said = text(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains("standard output cannot be written"), "{said}");
    }
    let out = folder.path().join("new");
    let output =
        factors(&file, &["--new-users", "0.3", "--steps", "0", "--at", "10,1,30", "--out", out.to_str().unwrap()]);
    let said = text(&output.stdout);
    assert!(said.contains("recall@10 ┆ NDCG@10 ┆ recall@1 ┆ NDCG@1 ┆ recall@30 ┆ NDCG@30"), "{said}");
    assert!(output.status.success(), "{said}{}", text(&output.stderr));
    assert!(said.contains("users left out") && said.contains("users' later items"), "{said}");
    let log = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let last: serde_json::Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    let (users, recall) = (&last["held_out"]["users"], &last["held_out"]["recall_at_10"]);
    assert!((2..30).contains(&users.as_u64().unwrap()) && recall.as_f64().unwrap() > 0.4, "{last}");
    assert_eq!(last["held_out"]["recall_at_30"], 1.0, "all of 20 items: {last}");
    let first = &last["held_out"]["recall_at_1"];
    assert!(first == &last["held_out"]["ndcg_at_1"] && first.as_f64().unwrap() < 1.0, "{last}");
    recommends(&folder.path().join("ials"), &file);
    let picture = fs::read_to_string(folder.path().join("ials/objective.svg")).unwrap();
    assert_eq!(
        picture.matches("<circle").count(),
        9 + 2,
        "a dot for each half but the first, far above, and two in the legend"
    );
    let out = folder.path().join("none");
    let to = ["--out", out.to_str().unwrap()];
    let refuse = |more: &[&str], words: &[&str]| refused(&factors(&file, &[more, &to].concat()), words, &out);
    refuse(&["--alpha", "2"], &["--alpha", "--preset hu or implicit"]);
    refuse(&["--preset", "hu", "--unobserved", "2"], &["--unobserved", "--preset ials"]);
    refuse(&["--new-users", "2"], &["--new-users", "between 0 and 1"]);
    refuse(&["--new-users", "1e-9"], &["--new-users", "expected users", "found no such users"]);
    refuse(&["--regularization=-1"], &["regularization", "at least 0", "-1"]);
    refuse(&["--min-rating", "6"], &["ratings.csv", "expected weights of at least 6", "found 5 at most"]);
    refuse(&["--new-users", "-1"], &["--new-users", "between 0 and 1", "found -1"]);
    let mut no_sweeps = wgloss(&["wals", "--sweeps", "0", "--interactions", file.to_str().unwrap()]);
    refused(&no_sweeps.args(to).output().unwrap(), &["sweeps", "at least 1"], &out);
    let both = all_said(&factors(&file, &[&["--new-users", "0.3", "--held-out-users", "5"], &to[..]].concat()));
    assert!(both.contains("--new-users <SHARE>' cannot be used with '--held-out-users"), "{both}");
}

/// Measured after each sweep a fit is what it is without, and the best factors are kept.
#[test]
fn wals_is_measured_as_it_goes_on() {
    if !has_adapter() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = interactions(folder.path());
    let run_of = |name: &str, sweeps: &str, more: &[&str]| {
        let out = folder.path().join(name);
        let mut command = wgloss(&["wals", "--dim", "4", "--sweeps", sweeps, "--interactions", file.to_str().unwrap()]);
        let output = command.args(more).arg("--out").arg(&out).output().unwrap();
        assert!(output.status.success(), "{}", all_said(&output));
        (all_said(&output), lines(&out), fs::read(out.join("embeddings.safetensors")).unwrap(), out)
    };
    let run = |name: &str, more: &[&str]| run_of(name, "5", more);
    let of = |lines: &[serde_json::Value], event: &str, what: &str| -> Vec<f64> {
        let all = lines.iter().filter(|line| line["event"] == event);
        all.map(|line| line.pointer(what).unwrap().as_f64().unwrap()).collect()
    };
    let (_, plain, bytes, _) = run("plain", &[]);
    for (every, count) in [("1", 5), ("2", 3)] {
        let (said, lines, kept, out) = run(every, &["--measure-every", every]);
        assert_eq!(of(&lines, "solved", "/objective"), of(&plain, "solved", "/objective"));
        let recalls = of(&lines, "measured", "/held_out/recall_at_10");
        let (last, best) = (lines.last().unwrap(), recalls.iter().copied().fold(0.0, f64::max));
        assert_eq!((recalls.len(), last["held_out"]["recall_at_10"].as_f64()), (count, Some(best)), "{recalls:?}");
        assert!(last["sweeps"] == 5 && last["by"] == "--sweeps", "{last}");
        let held_out = fs::read_to_string(out.join("held_out.csv")).unwrap();
        assert_eq!(held_out.lines().next(), Some("user,item,weight"));
        assert_eq!(
            held_out.lines().count() as u64,
            1 + last["held_out"]["users"].as_u64().unwrap(),
            "one of each user"
        );
        assert!(last["kept"] != 5 || tensors(&kept) == tensors(&bytes), "{last}");
        assert!(
            said.contains(&format!("the factors after sweep {}, of the largest recall@10", last["kept"])),
            "{said}"
        );
        let picture = fs::read_to_string(out.join("objective.svg")).unwrap();
        assert!(picture.contains("recall@10") && picture.contains(">\nkept\n<"), "{picture}");
    }
    let (_, lines, ..) = run_of("patient", "40", &["--measure-every", "1", "--patience", "2"]);
    let (last, recalls) = (lines.last().unwrap(), of(&lines, "measured", "/held_out/recall_at_10"));
    let kept = last["kept"].as_u64().unwrap() as usize;
    assert!(recalls.len() < 40 && recalls.len() == kept + 2 && last["by"] == "--patience", "{last} {recalls:?}");
    let (said, lines, ..) = run("explicit", &["--preset", "explicit", "--measure-every", "1"]);
    let (last, errors) = (lines.last().unwrap(), of(&lines, "measured", "/rmse"));
    assert_eq!(last["rmse"].as_f64(), Some(errors.iter().copied().fold(f64::INFINITY, f64::min)), "{errors:?}");
    assert!(said.contains("of the smallest RMSE"), "{said}");
    let (_, lines, ..) = run("new", &["--new-users", "0.3", "--measure-every", "2"]);
    assert_eq!(of(&lines, "measured", "/sweep"), [2.0, 4.0, 5.0]);
    let out = folder.path().join("none");
    let to = ["--out", out.to_str().unwrap()];
    let refuse = |more: &[&str], words: &[&str]| refused(&factors(&file, &[more, &to].concat()), words, &out);
    refuse(&["--measure-every", "1", "--held-out-users", "0"], &["--measure-every", "held out", "found nothing"]);
    let alone = all_said(&factors(&file, &["--patience", "2"]));
    assert!(alone.contains("--measure-every"), "{alone}");
}

/// The tensors of a file, without what it says of its run.
fn tensors(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let tensors = SafeTensors::deserialize(bytes).unwrap();
    tensors.tensors().into_iter().map(|(name, view)| (name, view.data().to_vec())).collect()
}

#[test]
fn wals_takes_the_weights_that_its_preset_knows() {
    if !has_adapter() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (file, out) = (folder.path().join("weights"), folder.path().join("out"));
    let run = |text: &str, more: &[&str]| {
        fs::write(&file, text).unwrap();
        factors(&file, &[more, &["--out", out.to_str().unwrap()]].concat())
    };
    let pattern = "%%MatrixMarket matrix coordinate pattern general\n2 2 2\n1 1\n2 2\n";
    for (text, preset) in [("a,x\nb,y\n", "explicit"), ("user,item\na,x\n", "tf"), (pattern, "explicit")] {
        let words = ["weights: expected weights", preset, "found none"];
        refused(&run(text, &["--preset", preset]), &words, &out);
    }
    let disliked = "a,x,1\na,y,-2\nb,x,1\n";
    let matrix = "%%MatrixMarket matrix coordinate real general\n2 2 3\n1 1 1\n1 2 -2\n2 1 1\n";
    for (text, place) in [(disliked, "line 2"), (matrix, "line 4")] {
        for preset in ["ials", "hu"] {
            let words = [place, "expected a weight of at least 0, found -2"];
            refused(&run(text, &["--preset", preset]), &words, &out);
        }
        for preset in ["implicit", "tf", "explicit"] {
            let output = run(text, &["--preset", preset, "--overwrite"]);
            assert!(output.status.success(), "{}", all_said(&output));
            fs::remove_dir_all(&out).unwrap();
        }
    }
}

/// Rows that nothing determines are told by the file's ids, and what was fitted is kept where the new users cannot be solved.
#[test]
fn rows_that_are_not_determined_are_told_by_their_ids() {
    if !has_adapter() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = interactions(folder.path());
    let out = folder.path().join("out");
    let to = ["--preset", "explicit", "--regularization", "0", "--out", out.to_str().unwrap()];
    assert!(factors(&file, &to).status.success());
    let later = folder.path().join("later.csv");
    fs::write(&later, "user,item,rating\nknown,film 99,1\nlater,film 1,1\n").unwrap();
    let ask = ["recommend", out.to_str().unwrap(), "--user", "later", "--seen", later.to_str().unwrap()];
    let words = ["the observations of user later should be such", "found 1 of them", "larger regularization"];
    refused(&wgloss(&ask).output().unwrap(), &words, &folder.path().join("never"));

    let lonely = folder.path().join("lonely.csv");
    fs::write(&lonely, fs::read_to_string(&file).unwrap() + "lonely,film 1,3,700\n").unwrap();
    let output = factors(&lonely, &[&to[..], &["--overwrite"]].concat());
    assert!(
        output.status.code() == Some(2) && all_said(&output).contains("of user lonely should"),
        "{}",
        all_said(&output)
    );
    assert!(out.join("embeddings.safetensors").exists(), "the earlier run is lost");

    // Four of each user's determine four numbers, three of a new user's do not.
    let fours = folder.path().join("fours.csv");
    let mut random = Random::new(7, 0);
    let line = |at: u32| format!("u{},i{},{}\n", at / 4, (at / 4 + at % 4) % 8, 1 + random.below(5));
    fs::write(&fours, (0..160).map(line).collect::<String>()).unwrap();
    let output = factors(&fours, &[&to[..], &["--new-users", "0.2", "--overwrite"]].concat());
    assert!(output.status.code() == Some(2) && all_said(&output).contains("of user u"), "{}", all_said(&output));
    for name in ["embeddings.safetensors", "ids.json"] {
        assert!(out.join(name).exists(), "{name} is lost");
    }
}

#[cfg(unix)]
#[test]
fn a_stopped_fit_tells_its_whole_sweeps() {
    if !has_adapter() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (file, out) = (interactions(folder.path()), folder.path().join("out"));
    let mut command = wgloss(&["wals", "--dim", "4", "--sweeps", "18446744073709551615", "--interactions"]);
    let child = command.arg(&file).arg("--out").arg(&out).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let start = std::time::Instant::now();
    while !fs::read_to_string(out.join("metrics.jsonl")).is_ok_and(|log| log.contains("\"sweep\":3")) {
        assert!(start.elapsed().as_secs() < 120, "no third sweep in two minutes");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(143), "{}", all_said(&output));
    let end = lines(&out).pop().unwrap();
    let halves = objectives(&out).len() as u64;
    assert!(end["event"] == "end" && end["end"] == "stopped", "{end}");
    // Stopped after the items it has solved them, but the sweep does not count.
    assert!([halves, halves + 1, halves + 2].contains(&(2 * end["sweeps"].as_u64().unwrap() + 2)), "{halves}: {end}");
}

#[test]
fn a_fit_starts_where_another_has_ended() {
    if !has_adapter() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = interactions(folder.path());
    let path = |name: &str| folder.path().join(name);
    let run = |file: &Path, name: &str, more: &[&str]| {
        let output = factors(file, &[&["--out", path(name).to_str().unwrap()], more].concat());
        assert!(output.status.success(), "{}", all_said(&output));
        (objectives(&path(name)), all_said(&output))
    };
    let first = path("first");
    let from = ["--from", first.to_str().unwrap()];
    let (before, _) = run(&file, "first", &[]);
    let (same, told) = run(&file, "same", &from);
    assert!(told.contains("factors of 40 of the users and 20 of the items"), "{told}");
    assert!(same[0] < before[9] * 1.00001, "{} {}", same[0], before[9]);
    assert_eq!(lines(&path("same"))[0]["run"]["from"], *from[1]);

    let later = path("later.csv");
    let new = "new,film 1,3,700\nnew,film 99,3,701\nu1,film 99,3,702\nnew,film 3,4,703\n";
    fs::write(&later, fs::read_to_string(&file).unwrap() + new).unwrap();
    let ((fresh, _), (resumed, told)) = (run(&later, "fresh", &[]), run(&later, "resumed", &from));
    assert!(told.contains("factors of 40 of the users and 20 of the items"), "{told}");
    assert!(resumed[0] < fresh[0] && resumed[0] < 1.1 * fresh[9], "{resumed:?} {fresh:?}");

    let mut wider = wgloss(&["wals", "--dim", "6", "--interactions", file.to_str().unwrap()]);
    let never = path("never");
    let output = wider.args(from).arg("--out").arg(&never).output().unwrap();
    refused(&output, &["--from", "expected factors as wide as --dim says, 6, found 4"], &never);
    let output = factors(&file, &[&from[..], &["--out", from[1], "--overwrite"]].concat());
    assert!(output.status.code() == Some(2) && all_said(&output).contains("--from"), "{}", all_said(&output));
    assert!(first.join("metrics.jsonl").exists());
    let output = factors(&file, &[&["--from", never.to_str().unwrap(), "--out", never.to_str().unwrap()][..]].concat());
    refused(&output, &["ids.json", "expected what"], &never);
}

/// New users are solved by the rules and the solver that the run had; what they have seen is not recommended by any rule.
#[test]
fn new_users_are_solved_as_the_run_was() {
    if !has_adapter() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = interactions(folder.path());
    let out = folder.path().join("out");
    let rules = ["--preset", "explicit", "--min-rating", "2", "--duplicates", "sum", "--steps", "0"];
    let output = factors(&file, &[&rules[..], &["--out", out.to_str().unwrap()]].concat());
    assert!(output.status.success(), "{}", all_said(&output));
    let about = &lines(&out)[0]["run"];
    assert!(about["min_rating"] == 2.0 && about["duplicates"] == "sum" && about["steps"] == 0, "{about}");
    let ask = |text: &str| -> Vec<String> {
        let (seen, to) = (folder.path().join("seen.csv"), folder.path().join("found.csv"));
        fs::write(&seen, text).unwrap();
        let mut command = wgloss(&["recommend", out.to_str().unwrap(), "--user", "new", "--top", "4294967295"]);
        let output = command.arg("--seen").arg(&seen).arg("--overwrite").arg("--out").arg(&to).output().unwrap();
        assert!(output.status.success(), "{}", all_said(&output));
        let found = fs::read_to_string(&to).unwrap();
        let without_rank = |line: &str| {
            let fields: Vec<&str> = line.split(',').collect();
            [fields[1], fields[3]].join(" ")
        };
        found.lines().skip(1).map(without_rank).collect()
    };
    let plain = ask("user,item,rating\nnew,film 1,5\nnew,film 3,4\n");
    assert_eq!(plain.len(), 18);
    let low = ask("user,item,rating\nnew,film 1,2\nnew,film 3,4\nnew,film 5,1\nnew,film 1,3\n");
    let want: Vec<String> = plain.into_iter().filter(|line| !line.starts_with("film 5 ")).collect();
    assert_eq!(low, want);
}

/// What a run has left recommends: items of a user's own half, none that it has seen; items like an item, not itself.
fn recommends(run: &Path, file: &Path) {
    let ask = |more: &[&str]| wgloss(&["recommend", run.to_str().unwrap()]).args(more).output().unwrap();
    let all = run.join("all.csv");
    let output = ask(&["--seen", file.to_str().unwrap(), "--top", "3", "--out", all.to_str().unwrap()]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let ratings = fs::read_to_string(file).unwrap();
    let seen = |user: &str, item: &str| ratings.contains(&format!("\n{user},{item},"));
    let (lines, mut own) = (fs::read_to_string(&all).unwrap(), 0);
    let again = ask(&["--seen", file.to_str().unwrap(), "--out", all.to_str().unwrap()]);
    refused(&again, &["all.csv", "expected no such file", "--overwrite"], &run.join("never"));
    assert_eq!(fs::read_to_string(&all).unwrap(), lines);
    let rows: Vec<Vec<&str>> = lines.lines().skip(1).map(|line| line.split(',').collect()).collect();
    assert!(lines.starts_with("user,item,rank,score\n") && rows.len() == 40 * 3, "{lines}");
    for row in &rows {
        assert!(!seen(row[0], row[1]), "{row:?}");
        let number = |name: &str| name.trim_start_matches(|c: char| !c.is_ascii_digit()).parse::<u32>().unwrap();
        own += usize::from(number(row[0]) % 2 == number(row[1]) % 2 && row[2] == "1");
    }
    let scores: Vec<f32> = rows.iter().map(|row| row[3].parse().unwrap()).collect();
    assert!(rows.iter().zip(&scores).all(|(row, score)| row[3] == format!("{score:?}")), "{lines}");
    assert!(scores.iter().any(|score| (score * 1e4).fract() != 0.0), "{lines}");
    let bytes = fs::read(run.join("embeddings.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let ids: serde_json::Value = serde_json::from_slice(&fs::read(run.join("ids.json")).unwrap()).unwrap();
    let factor = |side: &str, id: &str| -> Vec<f32> {
        let at = ids[side].as_array().unwrap().iter().position(|known| known == id).unwrap();
        let row = tensors.tensor(side).unwrap().data().chunks_exact(16).nth(at).unwrap().to_vec();
        row.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
    };
    for (row, score) in rows.iter().zip(&scores) {
        let (user, item) = (factor("users", row[0]), factor("items", row[1]));
        let want: f64 = user.iter().zip(&item).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        assert_eq!(*score, want as f32, "{row:?}");
    }
    assert!(own > 20, "{own} of 40 best items are of the user's own half"); // few of a half's ten are left unseen

    let output = ask(&["--item", "film 4", "--top", "4"]);
    let said = text(&output.stdout);
    assert!(output.status.success() && said.contains("like it"), "{said}{}", text(&output.stderr));
    assert_eq!(said.matches("film 4 ").count(), 4, "{said}"); // in the first column only
    let hidden = run.join("hidden.txt");
    fs::write(&hidden, "\u{feff}film 0\nfilm 2\n").unwrap();
    let said = text(&ask(&["--user", "u2", "--top", "18", "--without", hidden.to_str().unwrap()]).stdout).to_owned();
    assert!(said.matches("u2").count() == 18 && !said.contains("film 0 ") && !said.contains("film 2 "), "{said}");

    let said_of = |more: &[&str]| {
        let output = ask(&[more, &["--top", "99", "--without", hidden.to_str().unwrap()]].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    // Hidden, but asked about: like it are all that are not hidden.
    let said = said_of(&["--item", "film 0"]);
    assert!(said.matches("film 0 ").count() == 18 && !said.contains("film 2 "), "{said}");
    let said = said_of(&["--item", "film 4"]);
    assert!(said.matches("film 4 ").count() == 17 && !said.contains("film 0 "), "{said}");
    let said = said_of(&["--user", "u2", "--seen", file.to_str().unwrap()]);
    assert!(said.contains("seen: 40 of 40 users and 20 of 20 items of "), "{said}");
    let rows = said.lines().filter(|line| line.contains("│ u2")).map(|line| line.split('┆').nth(1).unwrap().trim());
    let want = (0..20).map(|film| format!("film {film}")).filter(|film| !["film 0", "film 2"].contains(&&**film));
    let mut want: Vec<String> = want.filter(|film| !seen("u2", film)).collect();
    let mut rows: Vec<&str> = rows.collect();
    want.sort_unstable();
    rows.sort_unstable();
    assert_eq!(rows, want);

    // A user who came after the fit is solved from what it has seen, and is not recommended that; one who has seen nothing known is not there.
    let later = run.join("later.csv");
    let text_of_later = "user,item\nnew,film 1\nnew,film 3\nnew,film 5\nnew,film 7\nnew,film 9\nother,film 99\n";
    fs::write(&later, text_of_later).unwrap();
    let output = ask(&["--user", "new", "--top", "3", "--seen", later.to_str().unwrap()]);
    let said = text(&output.stdout);
    assert!(said.contains("seen: 0 of 2 users and 5 of 6 items of "), "{said}");
    assert!(said.contains("what they have seen: 1\n") && said.matches("│ new").count() == 3, "{said}");
    let odd = [11, 13, 15, 17, 19].map(|film| said.matches(&format!("film {film} ")).count());
    assert_eq!(odd.iter().sum::<usize>(), 3, "of its own half: {said}");

    let (never, every) = (run.join("never"), run.join("every.txt"));
    fs::write(&every, (0..20).map(|film| format!("film {film}\n")).collect::<String>()).unwrap();
    let unknown = run.join("unknown.csv");
    fs::write(&unknown, "u1,film 98\nu1,film 99\n").unwrap();
    let (later, unknown) = (later.to_str().unwrap(), unknown.to_str().unwrap());
    for (more, words) in [
        (&["--user", "u99"][..], &["--user u99", "ids.json"][..]),
        (&["--user", "u99", "--seen", later], &["--user u99", "ids.json"]),
        (&["--user", "other", "--seen", later], &["--user other", "took some item that the run knows", "later.csv"]),
        (
            &["--user", "u1", "--seen", unknown],
            &["unknown.csv", "items that the run knows", "its 2, such as \"film 98\""],
        ),
        (&[], &["expected --user, --item, or --out"]),
        (&["--user", "u1", "--without", "nowhere.txt"], &["--without nowhere.txt"]),
        (&["--user", "u1", "--without", every.to_str().unwrap()], &["--without", "found all of them"]),
        (&["--user", "u1", "--seen", "nowhere.csv"], &["--seen nowhere.csv", "expected a file"]),
    ] {
        refused(&ask(more), words, &never);
    }
    let elsewhere = wgloss(&["recommend", file.parent().unwrap().to_str().unwrap(), "--user", "u1"]).output().unwrap();
    refused(&elsewhere, &["ids.json", "wgloss train --interactions"], &never);
}

#[test]
fn folding_leaves_a_picture_and_its_numbers() {
    if !has_adapter() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let sizes = ["--blocks", "4", "--users", "8", "--items", "9", "--dim", "3", "--epochs", "3", "--batch", "16"];
    let mut command = wgloss(&[&["folding"], &sizes[..]].concat());
    let output = command.arg("--out").arg(&out).output().unwrap();
    let said = text(&output.stdout);
    assert!(output.status.success(), "{said}{}", text(&output.stderr));
    assert!(said.contains("positives only") && said.contains("spurious@10"), "{said}");
    let svg = fs::read_to_string(out.join("folding.svg")).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("5 uniform negatives, 3 wide"));
    assert_eq!(fs::read_to_string(out.join("metrics.jsonl")).unwrap().lines().count(), 7);
    let refuse = |option: &str, words: &[&str]| {
        let output = wgloss(&["folding", option, "--out", "never"]).output().unwrap();
        refused(&output, words, Path::new("never"));
    };
    refuse("--blocks=0", &["blocks", "at least 1"]);
    refuse("--items=2", &["items"]);
    refuse("--adapter=no such card", &["no such card"]);
}

/// What the keywords that benches/record.schema.json uses say of a value: every breach, with its place.
fn breaches(schema: &serde_json::Value, value: &serde_json::Value, place: &str) -> Vec<String> {
    let mut found = Vec::new();
    let is = |name: &str| match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        other => panic!("the schema's type {other}"),
    };
    let breaks = schema["type"].as_str().is_some_and(|name| !is(name))
        || schema.get("const").is_some_and(|only| only != value)
        || schema["enum"].as_array().is_some_and(|any| !any.contains(value));
    if breaks {
        found.push(format!("{place}: {value}"));
    }
    for key in schema["required"].as_array().into_iter().flatten().filter_map(|key| key.as_str()) {
        if value.get(key).is_none() {
            found.push(format!("{place}: no {key}"));
        }
    }
    for (key, value) in value.as_object().into_iter().flatten() {
        match schema["properties"].get(key) {
            Some(schema) => found.extend(breaches(schema, value, &format!("{place}.{key}"))),
            None if schema["additionalProperties"] == false => found.push(format!("{place}: {key} is unknown")),
            None => {}
        }
    }
    for (index, value) in value.as_array().into_iter().flatten().enumerate() {
        found.extend(breaches(&schema["items"], value, &format!("{place}[{index}]")));
    }
    found
}

#[test]
fn bench_leaves_a_result_that_report_and_compare_read() {
    if !has_adapter() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (before, after, page) = (path("before.json"), path("after.json"), path("report.html"));
    let run = |arguments: &[&str]| wgloss(arguments).output().unwrap();
    let output = run(&["bench", "--op", "l2,softmax", "--size", "70x64", "--seconds", "0.01", "--out", &before]);
    let said = text(&output.stdout);
    assert!(output.status.success() && said.contains("softmax 70 × 64"), "{said}{}", text(&output.stderr));

    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("../benches/record.schema.json");
    let parse = |file: &Path| serde_json::from_str::<serde_json::Value>(&fs::read_to_string(file).unwrap()).unwrap();
    let (schema, mut record) = (parse(&schema), parse(Path::new(&before)));
    assert_eq!(breaches(&schema, &record, ""), [""; 0]);
    for case in record["cases"].as_array().unwrap() {
        assert!(case["error"].as_f64().unwrap() <= case["tolerance"].as_f64().unwrap(), "{case}");
        assert!(case["samples_s"].as_array().unwrap().len() >= 5, "{case}");
        assert!(case["probe_s"].as_f64().unwrap() > 0.0, "{case}");
    }
    assert!(record["ceilings"]["copy_gb_s"].as_f64().unwrap() > 0.0);
    let again = run(&["bench", "--op", "l2", "--size", "70x64", "--seconds", "0.01", "--out", &before]);
    assert!(
        again.status.code() == Some(2) && all_said(&again).contains("--overwrite replaces it"),
        "{}",
        all_said(&again)
    );

    // Sizes that `tune` kept for this adapter and driver, and those for another driver.
    let (_, driver) = record["provenance"]["driver"].as_str().unwrap().split_once(' ').unwrap();
    for (driver, taken) in [(driver, true), ("another", false)] {
        let adapter = record["provenance"]["adapter"].as_str().unwrap();
        let sizes = serde_json::json!({"adapter": adapter, "driver": driver, "workgroup": 4, "packed": 8, "widest": 16,
            "tile_x": 8, "tile_y": 1, "tile_depth": 8, "by_subgroup": false});
        let words: Vec<_> =
            adapter.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
        let file = folder.path().join(format!("wgloss/{}-tuning.json", words.join("-").to_lowercase()));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, sizes.to_string()).unwrap();
        let mut command =
            wgloss(&["bench", "--op", "l2", "--size", "70x64", "--seconds", "0.01", "--overwrite", "--out", &after]);
        let output = command.env("XDG_CACHE_HOME", folder.path()).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        let sizes = parse(Path::new(&after))["provenance"]["details"]["tuning"].to_string();
        assert_eq!(sizes.contains("workgroup: 4, packed: 8, widest: 16"), taken, "{sizes}");
    }

    // The same, but one op twice as slow and one wrong; samples and probes are set, as a busy machine's may spread by more than that.
    record["cases"].as_array_mut().unwrap().iter_mut().for_each(|case| case["probe_s"] = 0.02.into());
    for (file, seconds) in [(&before, 1e-3), (&after, 2e-3)] {
        record["cases"][0]["samples_s"] = [0.99, 1.0, 1.0, 1.0, 1.01].map(|one| one * seconds).to_vec().into();
        fs::write(file, record.to_string()).unwrap();
    }
    let output = run(&["compare", &before, &after, "--fail-on-regress", "10%"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    assert!(text(&output.stdout).contains("SLOWER") && text(&output.stdout).contains("same"));
    assert!(run(&["compare", &before, &before, "--fail-on-regress", "10%"]).status.success());
    let (fewer, twice) = (path("fewer.json"), path("twice.json"));
    let mut other = record.clone();
    let cases = other["cases"].as_array_mut().unwrap();
    let gone = cases.pop().unwrap()["op"].as_str().unwrap().to_owned();
    fs::write(&fewer, other.to_string()).unwrap();
    let output = run(&["compare", &after, &fewer, "--fail-on-regress", "10%"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    assert!(text(&output.stdout).contains(&format!("only in {after}: {gone} 70 × 64")), "{}", text(&output.stdout));
    let cases = other["cases"].as_array_mut().unwrap();
    cases.extend(cases.clone());
    fs::write(&twice, other.to_string()).unwrap();
    let output = run(&["compare", &after, &twice]);
    assert!(
        output.status.code() == Some(2) && text(&output.stderr).contains("each case once"),
        "{}",
        all_said(&output)
    );
    let output = run(&["report", &after, "--out", &after]);
    assert!(
        output.status.code() == Some(2) && text(&output.stderr).contains("than the inputs"),
        "{}",
        all_said(&output)
    );
    record["cases"][0]["probe_s"] = 0.05.into(); // the adapter itself was slower by more
    fs::write(&after, record.to_string()).unwrap();
    let output = run(&["compare", &before, &after, "--fail-on-regress", "10%"]);
    assert!(
        output.status.code() == Some(3) && text(&output.stdout).contains("cannot tell of"),
        "{}",
        text(&output.stdout)
    );
    record["cases"][1]["error"] = 1.into();
    fs::write(&after, record.to_string()).unwrap();
    assert!(text(&run(&["compare", &before, &after]).stdout).contains("WRONG"));

    assert!(run(&["report", &before, &after, "--out", &page]).status.success());
    let html = fs::read_to_string(&page).unwrap();
    assert!(html.contains("softmax 70 × 64") && html.contains("WRONG") && html.contains("<svg"));
    assert!(!html.contains("http://") || html.matches("http").count() == html.matches("http://www.w3.org/").count());
    assert_eq!(run(&["report", &before, "--out", &page]).status.code(), Some(2), "a page was replaced");
    record["provenance"]["driver"] = "a | b\n<script>".into();
    fs::write(&after, record.to_string()).unwrap();
    let output = run(&["report", &before, &after, "--markdown"]);
    let markdown = text(&output.stdout);
    assert!(markdown.contains("| softmax 70 × 64 |") && markdown.contains(r"a \| b &lt;script>"), "{markdown}");

    // What the peers' scripts leave of a case that no result told them of.
    let mut peer = parse(Path::new(&before));
    peer.as_object_mut().unwrap().remove("ceilings");
    for case in peer["cases"].as_array_mut().unwrap() {
        (case["bytes"], case["flop"]) = (0.0.into(), 0.0.into());
    }
    let other = path("peer.json");
    fs::write(&other, peer.to_string()).unwrap();
    let output = run(&["report", &before, &other, "--markdown"]);
    assert!(output.status.success() && text(&output.stdout).contains("| softmax 70 × 64 |"), "{}", all_said(&output));
    assert!(run(&["report", &before, &other, "--out", &page, "--overwrite"]).status.success());

    record["surprise"] = true.into();
    fs::write(&after, record.to_string()).unwrap();
    let never = folder.path().join("never.html");
    let refuse = |arguments: &[&str], words: &[&str]| refused(&run(arguments), words, &never);
    let to = never.to_str().unwrap();
    refuse(&["report", &after, "--out", to], &["after.json", "surprise"]);
    refuse(&["report", &path("none.json"), "--out", to], &["none.json", "expected a result"]);
    let nowhere = format!("{before}/in-a-file.json");
    refuse(&["bench", "--out", &nowhere], &["in-a-file.json", "cannot be written"]);
    refuse(&["bench", "--op", "sofmax", "--out", to], &["--op sofmax", "softmax"]);
    refuse(&["verify", "--op", "sofmax"], &["--op sofmax", "softmax"]);
}

/// A run of `train --interactions` says that it solves no new users; one of `wals`, which of their lines count.
#[test]
fn new_users_that_are_not_solved_are_told_why() {
    if !has_adapter() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (file, later) = (interactions(folder.path()), folder.path().join("later.csv"));
    fs::write(&later, "user,item,rating\nlow,film 1,1\nu1,film 3,5\n").unwrap();
    let (trained, fitted) = (folder.path().join("trained"), folder.path().join("fitted"));
    assert!(recommend(&file, &["--epochs", "1", "--out", trained.to_str().unwrap()]).status.success());
    assert!(factors(&file, &["--min-rating", "2", "--out", fitted.to_str().unwrap()]).status.success());
    for (run, words) in [
        (&trained, &["--user low", "only runs of `wgloss wals` solve new ones", "later.csv alone"]),
        (&fitted, &["--user low", "that the run's rules leave", "later.csv"]),
    ] {
        let ask = ["recommend", run.to_str().unwrap(), "--user", "low", "--seen", later.to_str().unwrap()];
        refused(&wgloss(&ask).output().unwrap(), words, &folder.path().join("never"));
    }
}
