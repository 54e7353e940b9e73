//! The picture of folding: two groups on top of each other, and apart.

use nalgebra::{DMatrix, SymmetricEigen};
use plotters::coord::Shift;
use plotters::prelude::*;
use wgloss::train::tables::Model;

/// A trained model, and the title above its part of the picture.
pub struct Shown<'a> {
    pub title: String,
    pub model: &'a Model,
}

/// Which block each user and each item belongs to.
pub struct Blocks<'a> {
    pub users: &'a [u32],
    pub items: &'a [u32],
    pub count: usize,
}

const SIZE: (u32, u32) = (1040, 1060);
const HEAD: u32 = 60;
/// One in this many rows of the other blocks is drawn.
const OTHERS: usize = 4;
const FIRST: RGBColor = RGBColor(0xd6, 0x27, 0x28);
const SECOND: RGBColor = RGBColor(0x1f, 0x77, 0xb4);
const OTHER: RGBColor = RGBColor(0xc8, 0xc8, 0xc8);

type Drawn = Result<(), Box<dyn std::error::Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// The mean score of each block's users with each block's items, `[count, count]`.
///
/// The mean of the inner products is the inner product of the means.
pub fn block_scores(model: &Model, blocks: &Blocks) -> Vec<f64> {
    let means = |rows: &[f32], of: &[u32]| {
        let (mut sums, mut sizes) = (vec![0.0; blocks.count * model.dim], vec![0.0; blocks.count]);
        for (row, &block) in rows.chunks(model.dim).zip(of) {
            let block = block as usize;
            sizes[block] += 1.0;
            sums[block * model.dim..][..model.dim].iter_mut().zip(row).for_each(|(sum, &v)| *sum += f64::from(v));
        }
        sums.chunks_mut(model.dim)
            .zip(&sizes)
            .for_each(|(sum, size)| sum.iter_mut().for_each(|v| *v /= f64::max(*size, 1.0)));
        sums
    };
    let (users, items) = (means(&model.users, blocks.users), means(&model.items, blocks.items));
    let row = |user: &[f64]| -> Vec<f64> {
        items.chunks(model.dim).map(|item| user.iter().zip(item).map(|(a, b)| a * b).sum()).collect()
    };
    users.chunks(model.dim).flat_map(row).collect()
}

/// The two different blocks with the highest scores between them: the mean score of one's users with the other's items,
/// summed over both directions.
pub fn most_folded(scores: &[f64], count: usize) -> [usize; 2] {
    let pairs = (0..count).flat_map(|a| (0..count).map(move |b| [a, b])).filter(|[a, b]| a != b);
    let both = |[a, b]: [usize; 2]| scores[a * count + b] + scores[b * count + a];
    pairs.max_by(|&a, &b| both(a).total_cmp(&both(b))).unwrap_or([0, 0])
}

/// An SVG. For each model it shows the plane in which the two blocks spread most and, below, the scores between all
/// blocks.
pub fn svg(shown: [Shown; 2], blocks: &Blocks, pair: [usize; 2]) -> Result<String, Box<dyn std::error::Error>> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let (head, body) = area.split_vertically(HEAD);
        let style = |size: u32| ("sans-serif", size).into_font();
        let [first, second] = pair.map(|block| block + 1);
        head.draw(&Text::new("Folding: what was never together ends up in one place", (20, 12), style(20)))?;
        let legend = [
            (format!("block {first}"), FIRST),
            (format!("block {second}"), SECOND),
            (
                format!("one in {OTHERS} of the other {} blocks", blocks.count.saturating_sub(2)),
                RGBColor(0x90, 0x90, 0x90),
            ),
            ("users are dots, items are squares".to_owned(), BLACK),
        ];
        let mut left = 20;
        for (text, colour) in legend {
            head.draw(&Text::new(text.clone(), (left, 40), style(13).color(&colour)))?;
            left += 8 * text.len() as i32 + 24;
        }
        let panels = body.split_evenly((2, 2));
        for (column, shown) in shown.iter().enumerate() {
            scatter(&panels[column], shown, blocks, pair)?;
            heat(&panels[2 + column], shown, blocks)?;
        }
        area.present()?;
    }
    Ok(svg)
}

/// The two directions in which rows spread most, seen from the origin.
fn plane<'a>(rows: impl Iterator<Item = &'a [f32]>, dim: usize) -> [Vec<f64>; 2] {
    let mut moments = DMatrix::<f64>::zeros(dim, dim);
    for row in rows {
        for (i, &a) in row.iter().enumerate() {
            for (j, &b) in row.iter().enumerate() {
                moments[(i, j)] += f64::from(a) * f64::from(b);
            }
        }
    }
    let eigen = SymmetricEigen::new(moments);
    let mut order: Vec<usize> = (0..dim).collect();
    order.sort_by(|&a, &b| eigen.eigenvalues[b].total_cmp(&eigen.eigenvalues[a]));
    [0, 1].map(|at| order.get(at).map_or(vec![0.0; dim], |&at| eigen.eigenvectors.column(at).iter().copied().collect()))
}

fn scatter(area: &Area, shown: &Shown, blocks: &Blocks, pair: [usize; 2]) -> Drawn {
    let dim = shown.model.dim;
    let sides = [(&shown.model.users, blocks.users), (&shown.model.items, blocks.items)];
    let rows = || {
        sides.into_iter().enumerate().flat_map(|(side, (data, of))| {
            data.chunks(dim).zip(of).map(move |(row, &block)| (side, row, block as usize))
        })
    };
    let axes = plane(rows().filter(|(_, _, block)| pair.contains(block)).map(|(_, row, _)| row), dim);
    let at = |row: &[f32]| {
        let along = |axis: &[f64]| row.iter().zip(axis).map(|(&v, axis)| f64::from(v) * axis).sum::<f64>();
        (along(&axes[0]), along(&axes[1]))
    };
    let reach =
        rows().map(|(_, row, _)| at(row)).fold(1e-9, |reach: f64, (x, y)| reach.max(x.abs()).max(y.abs())) * 1.05;
    let mut chart = ChartBuilder::on(area)
        .margin(16)
        .caption(&shown.title, ("sans-serif", 16))
        .x_label_area_size(24)
        .y_label_area_size(36)
        .build_cartesian_2d(-reach..reach, -reach..reach)?;
    chart.configure_mesh().light_line_style(BLACK.mix(0.0)).bold_line_style(BLACK.mix(0.08)).draw()?;
    // The two blocks come last, so that nothing covers them.
    for in_pair in [false, true] {
        let of_kind = rows().filter(|(_, _, block)| pair.contains(block) == in_pair);
        for (side, row, block) in of_kind.step_by(if in_pair { 1 } else { OTHERS }) {
            let colour = if block == pair[0] { FIRST } else { SECOND };
            let colour = if in_pair { colour.mix(0.65) } else { OTHER.mix(0.35) };
            let (x, y) = at(row);
            match side {
                0 => chart.draw_series([Circle::new((x, y), 2, colour.filled())])?,
                _ => {
                    let (x, y) = chart.backend_coord(&(x, y));
                    let (left, top) = area.get_base_pixel();
                    let square = [(x - left - 3, y - top - 3), (x - left + 3, y - top + 3)];
                    area.draw(&Rectangle::new(square, colour.stroke_width(1)))?;
                    continue;
                }
            };
        }
    }
    Ok(())
}

/// A heat map of the scores between blocks: white for 0 and below, dark for the mean within blocks.
fn heat(area: &Area, shown: &Shown, blocks: &Blocks) -> Drawn {
    let count = blocks.count;
    let scores = block_scores(shown.model, blocks);
    let within = (0..count).map(|block| scores[block * count + block]).sum::<f64>() / count.max(1) as f64;
    // Scores are in units of the mean within blocks, unless that is not above 0.
    let (unit, told) = match within > 0.0 {
        true => (within, ""),
        false => (scores.iter().copied().fold(0.0, f64::max), "; darkest: the largest"),
    };
    let caption = format!("mean score of a block's users (down) with a block's items (across){told}");
    let mut chart = ChartBuilder::on(area)
        .margin(16)
        .caption(caption, ("sans-serif", 13))
        .x_label_area_size(24)
        .y_label_area_size(36)
        .build_cartesian_2d(0.0..count as f64, count as f64..0.0)?;
    let number = |at: &f64| format!("{at:.0}");
    chart.configure_mesh().disable_mesh().x_label_formatter(&number).y_label_formatter(&number).draw()?;
    for (at, score) in scores.iter().enumerate() {
        let (row, column) = ((at / count) as f64, (at % count) as f64);
        let shade = if unit > 0.0 { (score / unit).clamp(0.0, 1.0) } else { 0.0 };
        if shade < 0.01 {
            continue;
        }
        let channel = |end: f64| (255.0 + shade * (end - 255.0)).round() as u8;
        let colour = RGBColor(channel(8.0), channel(48.0), channel(107.0));
        chart.draw_series([Rectangle::new([(column, row), (column + 1.0, row + 1.0)], colour.filled())])?;
    }
    Ok(())
}
