//! Charts of a sweep, as SVG.

use std::fmt::Write as _;

use crate::baseline::Baseline;
use crate::law::KillLaw;
use crate::sweep::Cell;

/// What is drawn of each policy: lines that can be told apart in black and white too.
const STROKES: [(&str, &str); 6] = [
    ("#1f4e9c", ""),
    ("#d1793b", "6 3"),
    ("#4f9d69", "2 3"),
    ("#9a6fb0", "8 2 2 2"),
    ("#888888", "4 4"),
    ("#b33", "1 4"),
];

const WIDTH: f64 = 300.0;
const HEIGHT: f64 = 200.0;

/// Expected loss against the link's rate, a panel for each model, at one notice, without replicas and with machines that
/// die at the deadline. Both axes are logarithmic.
pub fn loss_against_link(cells: &[Cell], notice_s: f64) -> String {
    let drawn: Vec<&Cell> = cells
        .iter()
        .filter(|cell| cell.notice_s == notice_s && cell.law == KillLaw::AtDeadline && cell.replicas == (1, 0))
        .collect();
    let mut shapes: Vec<&str> = Vec::new();
    for cell in &drawn {
        if !shapes.contains(&cell.shape.as_str()) {
            shapes.push(&cell.shape);
        }
    }
    let rows = shapes.len().div_ceil(3).max(1) as f64;
    let (width, height) = (3.0 * (WIDTH + 50.0), rows * (HEIGHT + 50.0) + 40.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"11\"><rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (at, shape) in shapes.iter().enumerate() {
        let (x, y) = (45.0 + (at % 3) as f64 * (WIDTH + 45.0), 25.0 + (at / 3) as f64 * (HEIGHT + 50.0));
        let cells: Vec<&Cell> = drawn.iter().copied().filter(|cell| cell.shape == *shape).collect();
        panel(&mut svg, x, y, shape, &cells);
    }
    for (at, (name, _)) in policies().into_iter().enumerate() {
        let x = 45.0 + at as f64 * 165.0;
        let (colour, dashes) = STROKES[at];
        let y = height - 14.0;
        let _ = writeln!(
            svg,
            "<line x1=\"{x}\" y1=\"{y}\" x2=\"{:.0}\" y2=\"{y}\" stroke=\"{colour}\" stroke-width=\"2\" \
             stroke-dasharray=\"{dashes}\"/><text x=\"{:.0}\" y=\"{:.0}\">{name}</text>",
            x + 30.0,
            x + 36.0,
            y + 4.0
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// What is drawn: the plan, and those baselines that anybody would consider.
fn policies() -> Vec<(&'static str, Option<Baseline>)> {
    let chosen =
        [Baseline::LayerOrder, Baseline::DrainOnly, Baseline::StateDict, Baseline::RecomputeAll, Baseline::Fifo];
    let name = |wanted| Baseline::ALL.iter().find(|(_, known)| *known == wanted).map_or("", |(name, _)| *name);
    std::iter::once(("xfer plan", None)).chain(chosen.map(|baseline| (name(baseline), Some(baseline)))).collect()
}

fn panel(svg: &mut String, x: f64, y: f64, title: &str, cells: &[&Cell]) {
    let (least_s, most_s) = (0.01_f64, 2000.0_f64);
    let across = |bits: f64| x + (bits / 5e9).ln() / 80.0_f64.ln() * WIDTH;
    let up = |loss: f64| y + HEIGHT - (loss.clamp(least_s, most_s) / least_s).ln() / (most_s / least_s).ln() * HEIGHT;
    let _ = writeln!(
        svg,
        "<text x=\"{x}\" y=\"{:.0}\" font-weight=\"bold\">{title}</text><rect x=\"{x}\" y=\"{y}\" width=\"{WIDTH}\" \
         height=\"{HEIGHT}\" fill=\"none\" stroke=\"#999\"/>",
        y - 6.0
    );
    for loss in [0.01, 0.1, 1.0, 10.0, 100.0, 1000.0] {
        let at = up(loss);
        let _ = writeln!(
            svg,
            "<line x1=\"{x}\" y1=\"{at:.1}\" x2=\"{}\" y2=\"{at:.1}\" stroke=\"#eee\"/><text x=\"{:.0}\" y=\"{:.1}\" \
             text-anchor=\"end\">{loss} s</text>",
            x + WIDTH,
            x - 4.0,
            at + 4.0
        );
    }
    for cell in cells {
        let bits = cell.link_bits_per_s;
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{:.0}G</text>",
            across(bits),
            y + HEIGHT + 14.0,
            bits / 1e9
        );
    }
    for (at, (_, baseline)) in policies().into_iter().enumerate().rev() {
        let loss_s = |cell: &Cell| match baseline {
            None => cell.comparison.plan.loss_s,
            Some(wanted) => {
                let found = cell.comparison.baselines.iter().find(|(known, _)| *known == wanted);
                found.map_or(0.0, |(_, expected)| expected.loss_s)
            }
        };
        let points: Vec<String> =
            cells.iter().map(|cell| format!("{:.1},{:.1}", across(cell.link_bits_per_s), up(loss_s(cell)))).collect();
        let (colour, dashes) = STROKES[at];
        let _ = writeln!(
            svg,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"{}\" stroke-dasharray=\"{dashes}\" points=\"{}\"/>",
            if baseline.is_none() { 2.5 } else { 1.5 },
            points.join(" ")
        );
    }
}
