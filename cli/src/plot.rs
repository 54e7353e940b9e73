//! Plots of training runs.

use plotters::coord::CoordTranslate;
use plotters::prelude::*;
use wgloss::train::Metrics;

/// The data of a plot.
#[derive(Default)]
pub struct Curves {
    /// The loss of each step.
    pub losses: Vec<f32>,
    /// The metrics before training, then after each epoch.
    pub metrics: Vec<Metrics>,
    /// The metrics of random embeddings.
    pub chance: Metrics,
    pub steps_per_epoch: usize,
    /// The epoch whose weights are kept.
    pub best_epoch: usize,
}

const SIZE: (u32, u32) = (1040, 420);
/// Width of the space for the curves' names.
const LABELS: u32 = 130;
const LOSS: RGBColor = RGBColor(0x1f, 0x77, 0xb4);
const RECALL_1: RGBColor = RGBColor(0xd6, 0x27, 0x28);
const RECALL_10: RGBColor = RGBColor(0xff, 0x7f, 0x0e);
const RECIPROCAL: RGBColor = RGBColor(0x2c, 0xa0, 0x2c);
const CHANCE: RGBColor = RGBColor(0x7f, 0x7f, 0x7f);

type Drawn = Result<(), Box<dyn std::error::Error>>;

impl Curves {
    /// An SVG with the loss on the left and the held-out metrics on the right.
    pub fn svg(&self, title: &str) -> Result<String, Box<dyn std::error::Error>> {
        let mut svg = String::new();
        {
            let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
            area.fill(&WHITE)?;
            let area = area.titled(&shortened(title, 90), ("sans-serif", 18))?;
            let (left, right) = area.split_horizontally((SIZE.0 - LABELS) / 2);
            self.loss(&left)?;
            self.retrieval(&right)?;
            area.present()?;
        }
        Ok(svg)
    }

    fn epochs(&self) -> f64 {
        (self.losses.len() as f64 / self.steps_per_epoch.max(1) as f64).max(1.0)
    }

    fn loss<'a>(&self, area: &DrawingArea<SVGBackend<'a>, plotters::coord::Shift>) -> Drawn {
        let finite = || self.losses.iter().copied().filter(|loss| loss.is_finite());
        let (low, high) = (finite().fold(0.0, f32::min), finite().fold(0.0, f32::max));
        let room = 0.05 * (high - low).max(0.1);
        let bottom = if low < 0.0 { low - room } else { 0.0 };
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(48)
            .build_cartesian_2d(0.0..self.epochs(), bottom..high + room)?;
        chart
            .configure_mesh()
            .x_desc("epoch")
            .x_label_formatter(&whole)
            .y_desc("loss")
            .light_line_style(BLACK.mix(0.06))
            .draw()?;
        let steps = self.steps_per_epoch.max(1);
        let by_step = self.losses.iter().enumerate().filter(|(_, loss)| loss.is_finite());
        let points = by_step.map(|(step, &loss)| ((step + 1) as f64 / steps as f64, loss));
        chart
            .draw_series(LineSeries::new(points, LOSS.mix(0.35)))?
            .label("each step")
            .legend(|at| key(at, LOSS.mix(0.35)));
        let means = self
            .losses
            .chunks_exact(steps)
            .enumerate()
            .map(|(epoch, losses)| (epoch as f64 + 0.5, losses.iter().sum::<f32>() / steps as f32));
        let means: Vec<_> = means.filter(|(_, loss)| loss.is_finite()).collect();
        if let [mean] = means[..] {
            chart.draw_series([Circle::new(mean, 3, LOSS.filled())])?; // a line needs two points
        }
        chart
            .draw_series(LineSeries::new(means, LOSS.stroke_width(2)))?
            .label("mean of an epoch")
            .legend(|at| key(at, LOSS.into()));
        // A loss that stays high leaves place below.
        let last = &self.losses[self.losses.len() - self.losses.len().div_ceil(3)..];
        let is_high = last.iter().filter(|&&loss| loss > (bottom + high) / 2.0).count() * 2 > last.len();
        legend(&mut chart, if is_high { SeriesLabelPosition::LowerRight } else { SeriesLabelPosition::UpperRight })
    }

    fn retrieval<'a>(&self, area: &DrawingArea<SVGBackend<'a>, plotters::coord::Shift>) -> Drawn {
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .margin_right(LABELS)
            .x_label_area_size(36)
            .y_label_area_size(48)
            .build_cartesian_2d(0.0..self.epochs(), 0.0..1.0)?;
        chart
            .configure_mesh()
            .x_desc("epoch")
            .x_label_formatter(&whole)
            .y_desc("held-out pairs")
            .light_line_style(BLACK.mix(0.06))
            .draw()?;
        type Of = fn(&Metrics) -> f64;
        let curves: [(&str, RGBColor, Of); 3] = [
            ("recall@10", RECALL_10, |metrics| metrics.recall_at_10),
            ("mean reciprocal rank", RECIPROCAL, |metrics| metrics.mean_reciprocal_rank),
            ("recall@1", RECALL_1, |metrics| metrics.recall_at_1),
        ];
        // Each curve's name is at its end, where no legend can cover a curve.
        let mut labels = Vec::new();
        for (name, colour, of) in curves {
            let points: Vec<_> =
                self.metrics.iter().enumerate().map(|(epoch, metrics)| (epoch as f64, of(metrics))).collect();
            labels.extend(points.last().map(|&(_, value)| (name, colour, value)));
            chart.draw_series(LineSeries::new(points, colour.stroke_width(2)))?;
        }
        let chance = self.chance.recall_at_10;
        let ends = [(0.0, chance), (self.epochs(), chance)];
        chart.draw_series(DashedLineSeries::new(ends, 4, 4, CHANCE.into()))?;
        labels.push(("recall@10 by chance", CHANCE, chance));
        if let Some(metrics) = self.metrics.get(self.best_epoch) {
            let at = (self.best_epoch as f64, metrics.mean_reciprocal_rank);
            chart.draw_series([Circle::new(at, 4, RECIPROCAL.filled())])?;
            let text = ("sans-serif", 12).into_font().color(&RECIPROCAL);
            // Above the curves, but inside the axes.
            let place = ((at.0 - 0.07 * self.epochs()).max(0.01 * self.epochs()), (at.1 + 0.07).min(0.98));
            chart.draw_series([Text::new("kept", place, text)])?;
        }
        labels.sort_by(|a, b| b.2.total_cmp(&a.2));
        let (left, top) = area.get_base_pixel();
        let mut lowest = i32::MIN;
        for (name, colour, value) in labels {
            let (x, y) = chart.backend_coord(&(self.epochs(), value));
            let y = (y - top - 6).max(lowest);
            lowest = y + 14;
            area.draw(&Text::new(name, (x - left + 6, y), ("sans-serif", 12).into_font().color(&colour)))?;
        }
        Ok(())
    }
}

/// The end of a title, as long as fits above a picture. The end says the most: a path's name, not its folders.
fn shortened(title: &str, most: usize) -> String {
    let count = title.chars().count();
    if count <= most {
        title.to_owned()
    } else {
        format!("…{}", title.chars().skip(count + 1 - most).collect::<String>())
    }
}

/// The label of a tick: empty between whole numbers of epochs or sweeps.
fn whole(at: &f64) -> String {
    if at.fract().abs() < 1e-9 { format!("{at:.0}") } else { String::new() }
}

/// The first half of the first sweep is left out of the plot if the objective after it exceeds the next value by more
/// than this many times the gain of all later halves.
const FAR: f64 = 4.0;

/// An SVG of the objective after each half of a sweep, with users and items solved in turn.
///
/// If something was measured after some sweeps, it is shown on the right under its name. `kept` is the sweep whose
/// factors were kept.
pub fn objective(
    title: &str,
    halves: &[f64],
    measured: (&str, &[(usize, f64)]),
    kept: usize,
) -> Result<String, Box<dyn std::error::Error>> {
    let mut svg = String::new();
    {
        let width = if measured.1.is_empty() { 640 } else { 1040 };
        let area = SVGBackend::with_string(&mut svg, (width, 400)).into_drawing_area();
        area.fill(&WHITE)?;
        let area = area.titled(&shortened(title, if measured.1.is_empty() { 70 } else { 90 }), ("sans-serif", 16))?;
        let sweeps = halves.len().div_ceil(2).max(1) as f64;
        if measured.1.is_empty() {
            of_halves(&area, halves, sweeps)?;
        } else {
            let (left, right) = area.split_horizontally(width / 2);
            of_halves(&left, halves, sweeps)?;
            of_sweeps(&right, measured, kept, sweeps)?;
        }
        area.present()?;
    }
    Ok(svg)
}

fn of_halves<'a>(area: &DrawingArea<SVGBackend<'a>, plotters::coord::Shift>, halves: &[f64], sweeps: f64) -> Drawn {
    let shown: Vec<(f64, f64)> = halves.iter().enumerate().map(|(at, &value)| ((at + 1) as f64 / 2.0, value)).collect();
    // After the first half only the users are solved; the items' factors are as they were drawn. If the objective is
    // then far above all that follows, the rest would look flat, so this value is left out.
    let is_far = halves.len() > 2 && halves[0] - halves[1] > FAR * (halves[1] - halves[halves.len() - 1]);
    let shown = &shown[usize::from(is_far)..];
    let values = || shown.iter().map(|&(_, value)| value).filter(|value| value.is_finite());
    let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
    let (low, high) = if low <= high { (low, high) } else { (0.0, 1.0) };
    let room = (0.06 * (high - low)).max(1e-6 * high.abs()).max(f64::MIN_POSITIVE);
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(70)
        .build_cartesian_2d(0.25..sweeps + 0.25, low - room..high + room)?;
    chart
        .configure_mesh()
        .x_desc("sweep")
        .x_label_formatter(&whole)
        .y_desc("objective")
        .y_label_formatter(&|value| format!("{value:.4e}"))
        .light_line_style(BLACK.mix(0.06))
        .draw()?;
    chart.draw_series(LineSeries::new(shown.iter().copied(), BLACK.mix(0.3)))?;
    for (name, colour, is_half) in [("users solved", LOSS, true), ("items solved", RECALL_1, false)] {
        let dots = shown.iter().filter(|(sweep, _)| (sweep.fract() != 0.0) == is_half);
        let dots = dots.map(|&at| Circle::new(at, 4, colour.filled()));
        chart.draw_series(dots)?.label(name).legend(move |(x, y)| Circle::new((x + 9, y), 4, colour.filled()));
    }
    legend(&mut chart, SeriesLabelPosition::UpperRight)
}

fn of_sweeps<'a>(
    area: &DrawingArea<SVGBackend<'a>, plotters::coord::Shift>,
    (name, measured): (&str, &[(usize, f64)]),
    kept: usize,
    sweeps: f64,
) -> Drawn {
    let values = || measured.iter().map(|&(_, value)| value);
    let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
    let room = (0.15 * (high - low)).max(0.01);
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(60)
        .build_cartesian_2d(0.25..sweeps + 0.25, (low - room).max(0.0)..high + room)?;
    chart
        .configure_mesh()
        .x_desc("sweep")
        .x_label_formatter(&whole)
        .y_desc(name)
        .light_line_style(BLACK.mix(0.06))
        .draw()?;
    let points = || measured.iter().map(|&(sweep, value)| (sweep as f64, value));
    chart.draw_series(LineSeries::new(points(), RECALL_10.stroke_width(2)))?;
    chart.draw_series(points().map(|at| Circle::new(at, 3, RECALL_10.filled())))?;
    if let Some(at) = points().find(|&(sweep, _)| sweep == kept as f64) {
        chart.draw_series([Circle::new(at, 6, RECALL_10.stroke_width(2))])?;
        let text = ("sans-serif", 12).into_font().color(&RECALL_10);
        chart.draw_series([EmptyElement::at(at) + Text::new("kept", (-12, -22), text)])?;
    }
    Ok(())
}

fn legend<'a, C: CoordTranslate>(
    chart: &mut ChartContext<'a, SVGBackend<'a>, C>,
    position: SeriesLabelPosition,
) -> Drawn {
    chart
        .configure_series_labels()
        .position(position)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.2))
        .draw()?;
    Ok(())
}

fn key((x, y): (i32, i32), colour: RGBAColor) -> PathElement<(i32, i32)> {
    PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2))
}
