//! A plan as a page that needs nothing beside it: value against time, the link's timeline, each class.

use std::fmt::Write as _;

use crate::departure::Departure;
use crate::report::Planned;

/// Width and height of a drawing.
const SIZE: (f64, f64) = (860.0, 220.0);

/// The room that labels take at its left and below it.
const MARGIN: (f64, f64) = (70.0, 24.0);

/// A colour for each class of items, in the order of `ItemClass::ALL`.
const COLOURS: [&str; 7] = ["#3b6fb6", "#6aa2d8", "#d1793b", "#4f9d69", "#9a6fb0", "#888888", "#bbbbbb"];

/// The page.
pub fn page(title: &str, departure: &Departure, planned: &Planned) -> String {
    let expected = planned.expected();
    let title = escaped(title);
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title>\
         <style>body{{font:15px sans-serif;max-width:900px;margin:2em auto;color:#222}}table{{border-collapse:collapse}}\
         td,th{{padding:.2em .8em;text-align:right;border-bottom:1px solid #ddd}}td:first-child,th:first-child\
         {{text-align:left}}text{{font:12px sans-serif}}</style><h1>{title}</h1>\n"
    );
    let _ = writeln!(
        page,
        "<p><b>{}</b>: expected loss {:.3} s, no plan loses less than {:.3} s (gap {:.2} %). Training goes on {:.2} s after \
         the notice; {:.1} % back to a checkpoint, {:.1} % the open step lost.</p>",
        expected.mode,
        expected.loss_s,
        planned.bound_s,
        planned.gap() * 100.0,
        expected.typical.resumed_s,
        expected.p_rollback * 100.0,
        expected.p_step_lost * 100.0
    );
    page.push_str("<h2>Loss avoided against time</h2>\n");
    page.push_str(&value_against_time(departure, planned));
    page.push_str("<h2>The link</h2>\n");
    page.push_str(&timeline(departure, planned));
    page.push_str("<h2>Classes</h2>\n");
    page.push_str(&classes(departure, planned));
    page.push_str("<h2>Modes</h2>\n<table><tr><th>mode<th>expected loss<th>bound<th>rollback<th>step lost<th>resumed after</tr>\n");
    for mode in &planned.modes {
        let _ = writeln!(
            page,
            "<tr><td>{}<td>{:.3} s<td>{:.3} s<td>{:.1} %<td>{:.1} %<td>{:.2} s</tr>",
            mode.mode,
            mode.loss_s,
            mode.bound_s,
            mode.p_rollback * 100.0,
            mode.p_step_lost * 100.0,
            mode.typical.resumed_s
        );
    }
    page.push_str("</table></html>\n");
    page
}

/// What each class is on the link, for one line of items after the other.
fn timeline(departure: &Departure, planned: &Planned) -> String {
    let window_s = departure.window.notice_s.max(1e-9);
    let height = 34.0 * planned.script.lines.len() as f64 + MARGIN.1 + 6.0;
    let mut svg = open(height);
    let x = |seconds: f64| MARGIN.0 + (seconds / window_s).clamp(0.0, 1.0) * (SIZE.0 - MARGIN.0 - 10.0);
    for (number, line) in planned.script.lines.iter().enumerate() {
        let y = 4.0 + 34.0 * number as f64;
        let _ = write!(svg, "<text x=\"0\" y=\"{:.0}\">rank {}</text>", y + 18.0, departure.leaving[number]);
        let (mut end, mut from_s) = (0, departure.window.detect_s);
        let mut run: Option<(usize, f64, f64)> = None;
        for place in &line.order {
            let asset = &departure.assets[*place];
            end += asset.bytes;
            let at_s = departure.window.detect_s + line.arrival_s(end, departure.window.link.bytes_per_s);
            let class = asset.class as usize - 1;
            match &mut run {
                Some((known, _, until_s)) if *known == class => *until_s = at_s,
                _ => {
                    run.iter().for_each(|run| bar(&mut svg, *run, y, &x));
                    run = Some((class, from_s, at_s));
                }
            }
            from_s = at_s;
        }
        run.iter().for_each(|run| bar(&mut svg, *run, y, &x));
    }
    axis(&mut svg, window_s, height);
    svg.push_str("</svg>\n");
    svg
}

fn bar(svg: &mut String, (class, from_s, until_s): (usize, f64, f64), y: f64, x: &dyn Fn(f64) -> f64) {
    let (left, right) = (x(from_s), x(until_s));
    let colour = COLOURS[class];
    let name = xfer_migrate_core::ItemClass::ALL[class].name();
    let _ = write!(
        svg,
        "<rect x=\"{left:.1}\" y=\"{y:.0}\" width=\"{:.1}\" height=\"26\" fill=\"{colour}\"><title>{name}: {from_s:.2} s to \
         {until_s:.2} s</title></rect>",
        (right - left).max(0.5)
    );
}

/// What would be lost if the machine died at each moment.
fn value_against_time(departure: &Departure, planned: &Planned) -> String {
    let window_s = departure.window.notice_s.max(1e-9);
    let losses = planned.losses_against_death(departure);
    let most = losses.iter().map(|(_, loss)| *loss).fold(0.0_f64, f64::max).max(1e-9);
    let mut svg = open(SIZE.1);
    let x = |seconds: f64| MARGIN.0 + seconds / window_s * (SIZE.0 - MARGIN.0 - 10.0);
    let y = |avoided: f64| 8.0 + (1.0 - avoided / most) * (SIZE.1 - MARGIN.1 - 16.0);
    let path: Vec<String> = losses.iter().map(|(at, loss)| format!("{:.1},{:.1}", x(*at), y(most - loss))).collect();
    let _ =
        write!(svg, "<polyline fill=\"none\" stroke=\"#3b6fb6\" stroke-width=\"2\" points=\"{}\"/>", path.join(" "));
    let _ = write!(svg, "<text x=\"0\" y=\"18\">{most:.0} s</text><text x=\"0\" y=\"{:.0}\">0 s</text>", y(0.0));
    axis(&mut svg, window_s, SIZE.1);
    svg.push_str("</svg>\n<p>If the machine dies at this moment, so much less is lost than without a notice.</p>\n");
    svg
}

fn classes(departure: &Departure, planned: &Planned) -> String {
    let mut sums: std::collections::BTreeMap<(u8, &str), (u64, u64)> = std::collections::BTreeMap::new();
    for row in &planned.rows {
        let asset = &departure.assets[row.place];
        let sum = sums.entry((asset.class as u8, row.fate.name())).or_default();
        *sum = (sum.0 + 1, sum.1 + asset.bytes);
    }
    let mut table = "<table><tr><th>class<th>items<th>bytes<th>what becomes of it</tr>\n".to_owned();
    for ((class, fate), (items, bytes)) in sums {
        let class = usize::from(class) - 1;
        let name = xfer_migrate_core::ItemClass::ALL[class].name();
        let _ = writeln!(
            table,
            "<tr><td><span style=\"color:{}\">&#9632;</span> {name}<td>{items}<td>{:.3} GB<td>{fate}</tr>",
            COLOURS[class],
            bytes as f64 / 1e9
        );
    }
    table.push_str("</table>\n");
    table
}

fn open(height: f64) -> String {
    format!("<svg viewBox=\"0 0 {:.0} {height:.0}\" width=\"{:.0}\" height=\"{height:.0}\">", SIZE.0, SIZE.0)
}

fn axis(svg: &mut String, window_s: f64, height: f64) {
    let y = height - MARGIN.1 + 4.0;
    let _ = write!(svg, "<line x1=\"{}\" y1=\"{y}\" x2=\"{}\" y2=\"{y}\" stroke=\"#888\"/>", MARGIN.0, SIZE.0 - 10.0);
    for part in 0..=4 {
        let seconds = window_s * f64::from(part) / 4.0;
        let x = MARGIN.0 + f64::from(part) / 4.0 * (SIZE.0 - MARGIN.0 - 10.0);
        let anchor = if part == 4 { "end" } else { "middle" };
        let _ = write!(svg, "<text x=\"{x:.0}\" y=\"{:.0}\" text-anchor=\"{anchor}\">{seconds:.1} s</text>", y + 16.0);
    }
}

/// Text that means itself in HTML: names come from files.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
