//! `wgloss report`: results side by side, as one self-contained page or as Markdown.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use plotters::coord::Shift;
use plotters::prelude::*;

use super::compare::{Comparison, Verdict};
use super::record::{Case, Ceilings, Clock, Record};
use super::{duration, rate};
use crate::failure::Failure;
use crate::run;

#[derive(clap::Args)]
pub struct Arguments {
    /// Results of `wgloss bench` or of the scripts in benches/peers.
    #[arg(required = true)]
    results: Vec<PathBuf>,
    /// Where to write the page [default: report.html], or the Markdown, which is printed otherwise.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Markdown for an issue instead of a page.
    #[arg(long)]
    markdown: bool,
    /// Replace the file that is written.
    #[arg(long)]
    overwrite: bool,
}

pub fn report(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let records = arguments.results.iter().map(|path| Record::read(path)).collect::<Result<Vec<_>, _>>()?;
    let out = match (&arguments.out, arguments.markdown) {
        (None, true) => {
            print!("{}", markdown(&records));
            return Ok(ExitCode::SUCCESS);
        }
        (None, false) => Path::new("report.html"),
        (Some(out), _) => out,
    };
    run::keeps(out, &arguments.results)?;
    run::check_output(out, arguments.overwrite)?;
    let text = if arguments.markdown { Ok(markdown(&records)) } else { page(&records) };
    let text = text.map_err(|error| Failure { message: format!("the page cannot be drawn: {error}"), code: 1 })?;
    run::write_file(out, text.as_bytes())?;
    println!("written: {}", out.display());
    Ok(ExitCode::SUCCESS)
}

/// Every case, in the order in which it first occurs.
fn names(records: &[Record]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let all = records.iter().flat_map(|record| &record.cases).map(Case::name);
    all.filter(|name| seen.insert(name.clone())).collect()
}

/// The ceilings that a result is compared with: its own, or those of another result on the same adapter, even if
/// another program measured it.
fn limits<'a>(record: &'a Record, records: &'a [Record]) -> Option<&'a Ceilings> {
    let same = |other: &&Record| other.ceilings.is_some() && other.provenance.adapter == record.provenance.adapter;
    record.ceilings.as_ref().or_else(|| records.iter().find(same)?.ceilings.as_ref())
}

fn markdown(records: &[Record]) -> String {
    let mut text = String::new();
    for (index, record) in records.iter().enumerate() {
        let told = format!("{}; {}", record.provenance.title(), circumstances(record).join("; "));
        let _ = writeln!(text, "{}. {}{}", index + 1, of_markdown(&told), limits_text(record));
    }
    let heads: String = (1..=records.len()).map(|index| format!(" {index} |")).collect();
    let _ = writeln!(text, "\n| case |{heads}\n|---|{}", "---:|".repeat(records.len()));
    for name in names(records) {
        let cell = |record: &Record| match record.find(&name) {
            None => " |".to_owned(),
            Some(case) if !case.is_right() => " WRONG |".to_owned(),
            Some(case) => {
                let share = limits(record, records).and_then(|limits| case.share(limits));
                let share = share.map_or(String::new(), |share| format!(" ({:.0} %)", 100.0 * share));
                format!(" {}{share}{} |", duration(case.seconds()), marks(record, case))
            }
        };
        let _ = writeln!(text, "| {} |{}", of_markdown(&name), records.iter().map(cell).collect::<String>());
    }
    text += "\nMedians; in brackets the share of what the adapter can do at most. noisy: the samples or the adapter itself varied by more than 5 %. host: by the host's clock.\n";
    text
}

fn limits_text(record: &Record) -> String {
    record.ceilings.as_ref().map_or(String::new(), |limits| {
        format!(": copy {} GB/s, f32 {} TFLOP/s", rate(limits.copy_gb_s), rate(limits.fma_tflop_s))
    })
}

/// On what and when it was measured, beside the adapter and its driver.
fn circumstances(record: &Record) -> Vec<String> {
    let provenance = &record.provenance;
    let date = jiff::Timestamp::from_second(record.unix_time as i64).map(|time| time.strftime("%Y-%m-%d").to_string());
    let cpu = provenance.cpu.as_ref().map_or(String::new(), |cpu| format!("{cpu}, "));
    let mut told =
        vec![provenance.backend.clone(), format!("{}, {cpu}{} threads", provenance.os, provenance.cpu_threads)];
    told.extend(date);
    told.extend(provenance.load.map(|load| format!("load {load}")));
    told
}

/// What to know before a time is trusted.
fn marks(record: &Record, case: &Case) -> String {
    let noisy = if record.is_noisy(case) { " noisy" } else { "" };
    let host = if case.clock == Clock::Host { " host" } else { "" };
    format!("{noisy}{host}")
}

/// Text inside a table or a list of Markdown.
fn of_markdown(text: &str) -> String {
    let one_line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    one_line.replace('\\', "\\\\").replace('|', "\\|").replace('<', "&lt;")
}

/// Text inside HTML.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const STYLE: &str = "
:root { color-scheme: light dark; --line: #8884; --bar: #1f77b4; --arith: #d9822b; --muted: #777; --bad: #c22; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 1180px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem } h2 { font-size: 1.15rem; margin: 2rem 0 .4rem }
.muted { color: var(--muted) } .bad { color: var(--bad); font-weight: 600 }
.cards { display: flex; flex-wrap: wrap; gap: .8rem } .card { border: 1px solid var(--line); border-radius: 8px; padding: .6rem .9rem; flex: 1 1 300px }
.card b { font-size: 1.05rem } .card dl { display: grid; grid-template-columns: auto 1fr; gap: 0 .8rem; margin: .4rem 0 0 } .card dt { color: var(--muted) } .card dd { margin: 0; text-align: right; font-variant-numeric: tabular-nums }
table { border-collapse: collapse; width: 100% } th, td { padding: .25rem .5rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: middle }
td { font-variant-numeric: tabular-nums } th { font-weight: 600; font-size: .9rem } td:first-child { white-space: nowrap }
.cell { display: grid; grid-template-columns: 5.2rem 1fr 3.2rem; gap: .4rem; align-items: center; min-width: 13rem }
.track { background: #8882; border-radius: 3px; height: .7rem; overflow: hidden } .fill { background: var(--bar); height: 100% } .arith { background: var(--arith) }
.pct { text-align: right } .plots { display: flex; flex-wrap: wrap; gap: 1rem } .plots figure { margin: 0; flex: 1 1 520px } .plots svg { max-width: 100%; height: auto; background: #fff; border-radius: 8px }
.key { display: inline-block; width: .8rem; height: .8rem; border-radius: 2px; vertical-align: -1px; margin: 0 .2rem 0 .8rem }
";

fn page(records: &[Record]) -> Result<String, Box<dyn std::error::Error>> {
    let mut html = String::from(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>wgloss bench</title>\n",
    );
    write!(
        html,
        "<style>{STYLE}</style></head><body>\n<h1>wgloss bench</h1>\n<p class=\"muted\">How near each op comes to what its adapter can do at most.</p>\n<div class=\"cards\">"
    )?;
    for (index, record) in records.iter().enumerate() {
        html += &card(index + 1, record);
    }
    html += "</div>\n<h2>Share of the nearest limit</h2>\n<p class=\"muted\">Time of one call, median. The bar: the least that must move over the adapter's own copy bandwidth <span class=\"key\" style=\"background:var(--bar)\"></span>memory, or the least that must be computed over its own multiply-add rate <span class=\"key\" style=\"background:var(--arith)\"></span>arithmetic, whichever takes longer, as a share of that time. Above 100 % a cache helped, or PyTorch used other units. A wrong answer has no share.</p>\n<table><tr><th>case</th>";
    for (index, record) in records.iter().enumerate() {
        write!(
            html,
            "<th>{}. {}<br><span class=\"muted\">{}<br>{}</span></th>",
            index + 1,
            escaped(&record.provenance.by),
            escaped(&record.provenance.adapter),
            escaped(&record.provenance.driver)
        )?;
    }
    html += "</tr>\n";
    for name in names(records) {
        write!(html, "<tr><td>{}</td>", escaped(&name))?;
        for record in records {
            html += &record
                .find(&name)
                .map_or("<td></td>".to_owned(), |case| cell(case, &marks(record, case), limits(record, records)));
        }
        html += "</tr>\n";
    }
    html += "</table>\n<h2>Roofline</h2>\n<p class=\"muted\">The lines are an adapter's own limits. An op that no product of matrices dominates counts as one operation for each number that moves.</p>\n<div class=\"plots\">";
    for record in records {
        if let Some(ceilings) = &record.ceilings {
            write!(html, "<figure>{}</figure>", roofline(record, ceilings)?)?;
        }
    }
    html += "</div>\n";
    html += &verdicts(records);
    html += "</body></html>\n";
    Ok(html)
}

fn card(number: usize, record: &Record) -> String {
    let provenance = &record.provenance;
    let mut rows = vec![("by", provenance.by.clone()), ("driver", provenance.driver.clone())];
    if let Some(limits) = &record.ceilings {
        rows.push(("copy", format!("{} GB/s", rate(limits.copy_gb_s))));
        rows.push(("triad", format!("{} GB/s", rate(limits.triad_gb_s))));
        rows.push(("multiply-add, f32", format!("{} TFLOP/s", rate(limits.fma_tflop_s))));
        rows.extend(limits.fma_f16_tflop_s.map(|of_f16| ("multiply-add, f16", format!("{} TFLOP/s", rate(of_f16)))));
        rows.push(("a dispatch", format!("{:.1} µs", limits.dispatch_us)));
        rows.push(("a submit", format!("{:.0} µs", limits.submit_us)));
    }
    let tuning = provenance.details.get("tuning").and_then(serde_json::Value::as_str);
    rows.extend(tuning.map(|tuning| ("sizes", sizes(tuning))));
    rows.push(("measured", circumstances(record)[1..].join("; ")));
    let shaders = provenance.details.get("shaders").and_then(serde_json::Value::as_str);
    rows.extend(shaders.map(|hash| ("shaders", hash.to_owned())));
    let rows: String = rows.iter().map(|(key, value)| format!("<dt>{key}</dt><dd>{}</dd>", escaped(value))).collect();
    format!(
        "<div class=\"card\"><b>{number}. {}</b> <span class=\"muted\">{}, {}</span><dl>{rows}</dl></div>",
        escaped(&provenance.adapter),
        escaped(&provenance.kind),
        escaped(&provenance.backend)
    )
}

/// The sizes of workgroups and tiles, which are the first fields of a printed `Tuning`: "workgroup 256, packed 256, …".
fn sizes(tuning: &str) -> String {
    let fields = tuning.trim_start_matches("Tuning { ").split(", ").take_while(|field| !field.starts_with("unrolled"));
    fields.map(|field| field.replace(':', "")).collect::<Vec<_>>().join(", ")
}

fn cell(case: &Case, marks: &str, limits: Option<&Ceilings>) -> String {
    let time = duration(case.seconds());
    if !case.is_right() {
        return format!("<td>{time} <span class=\"bad\">WRONG</span></td>");
    }
    let noisy = if marks.is_empty() { String::new() } else { format!("<span class=\"muted\">{marks}</span>") };
    let Some((limits, share)) = limits.and_then(|limits| Some((limits, case.share(limits)?))) else {
        return format!("<td>{time}{noisy}</td>");
    };
    let rate = if case.is_arithmetic(limits) {
        format!("{} TFLOP/s", rate(case.tflop_s()))
    } else {
        format!("{} GB/s", rate(case.gb_s()))
    };
    let error = case.error.map_or(String::new(), |error| format!(", error {error:.1e}"));
    let cpu = case.cpu_s.map_or(String::new(), |seconds| format!(", CPU {}", duration(seconds)));
    let memory = case.memory_bytes.map_or(String::new(), |bytes| format!(", {} MiB", bytes >> 20));
    format!(
        "<td title=\"{rate}, ± {:.1} %{error}{cpu}{memory}\"><div class=\"cell\"><span>{time}{noisy}</span><div class=\"track\"><div class=\"fill{}\" style=\"width:{:.1}%\"></div></div><span class=\"pct\">{:.0} %</span></div></td>",
        100.0 * case.spread(),
        if case.is_arithmetic(limits) { " arith" } else { "" },
        (100.0 * share).min(100.0),
        100.0 * share
    )
}

/// Verdicts between results of one program on one adapter. Each result is compared with the one before it.
fn verdicts(records: &[Record]) -> String {
    let key = |record: &Record| {
        (record.provenance.adapter.clone(), record.provenance.by.split(' ').next().map(str::to_owned))
    };
    let mut html = String::new();
    for (index, after) in records.iter().enumerate() {
        let Some(at) = records[..index].iter().rposition(|before| key(before) == key(after)) else { continue };
        let comparison = Comparison::of(&records[at], after);
        if comparison.pairs.is_empty() {
            continue;
        }
        let notes: Vec<String> = comparison.notes.iter().map(|note| escaped(note)).collect();
        let _ = write!(
            html,
            "<h2>{} against {}</h2>\n<p class=\"muted\">{}</p>\n<table><tr><th>case</th><th>before</th><th>after</th><th>after / before</th><th></th></tr>",
            index + 1,
            at + 1,
            notes.join("<br>")
        );
        for pair in &comparison.pairs {
            let class = if matches!(pair.verdict, Verdict::Slower | Verdict::Wrong) { "bad" } else { "muted" };
            let _ = writeln!(
                html,
                "<tr><td>{}</td><td>{}</td><td>{}</td><td>{:.2}</td><td class=\"{class}\">{}</td></tr>",
                escaped(&pair.after.name()),
                duration(pair.before.seconds()),
                duration(pair.after.seconds()),
                pair.ratio(),
                pair.verdict.name()
            );
        }
        let mean = comparison.mean().map_or("—".to_owned(), |mean| format!("{mean:.2}"));
        let _ = writeln!(html, "<tr><td>geometric mean</td><td></td><td></td><td>{mean}</td><td></td></tr></table>");
        for (number, names) in [at + 1, index + 1].into_iter().zip(&comparison.only) {
            if !names.is_empty() {
                let _ = writeln!(html, "<p class=\"muted\">Only in {number}: {}</p>", escaped(&names.join(", ")));
            }
        }
    }
    html
}

const SIZE: (u32, u32) = (660, 380);
const MEMORY: RGBColor = RGBColor(0x1f, 0x77, 0xb4);
const ARITHMETIC: RGBColor = RGBColor(0xd9, 0x82, 0x2b);

/// The place of a case in the roofline plot: operations per byte, and 10¹² operations per second.
fn place(case: &Case) -> (f64, f64) {
    let number = if case.storage == "f32" { 4.0 } else { 2.0 };
    let operations = if case.flop > 0.0 { case.flop } else { case.bytes / number };
    (operations / case.bytes, operations / case.seconds() / 1e12)
}

fn roofline(record: &Record, ceilings: &Ceilings) -> Result<String, Box<dyn std::error::Error>> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        draw(&area, record, ceilings)?;
        area.present()?;
    }
    Ok(svg)
}

fn draw(
    area: &DrawingArea<SVGBackend, Shift>,
    record: &Record,
    ceilings: &Ceilings,
) -> Result<(), Box<dyn std::error::Error>> {
    let cases = || record.cases.iter().filter(|case| case.is_right());
    let most_x = cases().map(|case| place(case).0).fold(64.0, f64::max) * 5.0;
    let least_y = cases().map(|case| place(case).1).fold(ceilings.fma_tflop_s, f64::min) / 3.0;
    let (x, y) = (0.1..most_x, least_y..ceilings.fma_tflop_s * 3.0);
    let mut chart = ChartBuilder::on(area)
        .caption(format!("{}, {}", record.provenance.adapter, record.provenance.driver), ("sans-serif", 14))
        .margin(10)
        .margin_right(NAMES)
        .x_label_area_size(36)
        .y_label_area_size(60)
        .build_cartesian_2d(x.clone().log_scale(), y.log_scale())?;
    let number = |value: &f64| if *value >= 0.01 { format!("{value}") } else { format!("{value:.0e}") };
    chart
        .configure_mesh()
        .x_desc("operations a byte")
        .y_desc("10¹² operations a second")
        .x_label_formatter(&number)
        .y_label_formatter(&number)
        .light_line_style(WHITE)
        .draw()?;
    let roof = |at: f64| (at * ceilings.copy_gb_s / 1e3).min(ceilings.fma_tflop_s);
    let steps = 200;
    let points = (0..=steps).map(|step| {
        let at = x.start * (x.end / x.start).powf(f64::from(step) / f64::from(steps));
        (at, roof(at).max(least_y))
    });
    chart.draw_series(LineSeries::new(points, BLACK.stroke_width(2)))?;
    // One name per op, at its fastest case.
    let mut sorted: Vec<&Case> = cases().collect();
    sorted.sort_by(|a, b| place(b).1.total_cmp(&place(a).1));
    let mut named = BTreeSet::new();
    let mut labels = Vec::new();
    for case in sorted {
        let colour = if case.is_arithmetic(ceilings) { ARITHMETIC } else { MEMORY };
        chart.draw_series([Circle::new(place(case), 4, colour.mix(0.7).filled())])?;
        if named.insert(&case.op) {
            labels.push((chart.backend_coord(&place(case)), &case.op, colour));
        }
    }
    let (_, bottom) = chart.backend_coord(&(x.start, least_y));
    labels.sort_by_key(|((left, _), ..)| *left);
    for column in labels.chunk_by(|((left, _), ..), ((next, _), ..)| next - left < NEAR) {
        let mut column = column.to_vec();
        column.sort_by_key(|((_, top), ..)| *top);
        // Names stand to the right of their points, or as far to the left as the longest needs.
        let widest = column.iter().map(|(_, op, _)| LETTER * op.len() as i32).max().unwrap_or_default();
        let left = column.iter().map(|((left, _), ..)| left + 18).max().unwrap_or_default();
        let left = left.min(SIZE.0 as i32 - 4 - widest);
        let points: Vec<i32> = column.iter().map(|((_, top), ..)| *top).collect();
        for (((point_left, point_top), op, colour), top) in column.iter().zip(spread(&points, bottom)) {
            let line = vec![(point_left + 5, *point_top), (left - 3, top)];
            area.draw(&PathElement::new(line, colour.mix(0.35)))?;
            let style = ("sans-serif", 11).into_font().color(colour);
            area.draw(&Text::new(op.as_str(), (left, top - 6), style))?;
        }
    }
    Ok(())
}

/// Names go into separate columns if their points are at least this many pixels apart.
const NEAR: i32 = 90;
/// Pixels to the right of the plot, for the names of points near its edge.
const NAMES: u32 = 110;
/// Pixels of a letter, about.
const LETTER: i32 = 6;
/// Pixels between names.
const LINE: i32 = 12;

/// Heights for the names of points of the given heights, from top to bottom: as near to the points as the names fit
/// below each other and above `bottom`.
fn spread(points: &[i32], bottom: i32) -> Vec<i32> {
    let mut heights: Vec<i32> = Vec::new();
    for &point in points {
        heights.push(heights.last().map_or(point, |above| point.max(above + LINE)));
    }
    let mut below = bottom;
    for height in heights.iter_mut().rev() {
        *height = (*height).min(below - LINE);
        below = *height;
    }
    heights
}
