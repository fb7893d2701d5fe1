//! A page about one seed: what happened when, and who owned what. It needs nothing but a browser.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use xfer_sim::scenario::Scenario;
use xfer_sim::trace::Line;
use xfer_sim::world::{self, Outcome};

use crate::seeds::say;

/// Pixels between two processes.
const ROW: usize = 44;

/// Pixels that all the time takes.
const WIDTH: f64 = 1100.0;

/// What each kind of event looks like.
const COLOURS: [(&str, &str); 9] = [
    ("fault", "#d62728"),
    ("user", "#1f77b4"),
    ("say", "#c7c7c7"),
    ("hear", "#dddddd"),
    ("xfer", "#9467bd"),
    ("event", "#2ca02c"),
    ("link", "#8c564b"),
    ("store", "#ff7f0e"),
    ("end", "#000000"),
];

/// Which seed, and where to.
#[derive(Args)]
pub struct Options {
    /// The seed.
    seed: u64,
    /// Where to write the page.
    #[arg(long, value_name = "FILE")]
    html: PathBuf,
}

/// The command `report`.
pub fn run(options: &Options) -> ExitCode {
    let outcome = world::run(Scenario::of_seed(options.seed), true);
    if let Err(error) = std::fs::write(&options.html, page(options.seed, &outcome)) {
        eprintln!("xfer-sim report: can't write {}: {error}", options.html.display());
        return ExitCode::FAILURE;
    }
    say(&format!("{} lines of seed {} in {}\n", outcome.trace.lines().len(), options.seed, options.html.display()));
    if outcome.broken.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn page(seed: u64, outcome: &Outcome) -> String {
    let verdict =
        outcome.broken.as_ref().map_or("all promises were kept".to_owned(), |broken| format!("BROKEN {broken}"));
    let mut page = format!(
        "<!doctype html><meta charset=utf-8><title>seed {seed}</title>\
         <style>body{{font:14px sans-serif;margin:2em}}table{{border-collapse:collapse}}td,th{{border:1px solid #ccc;padding:3px 8px}}\
         pre{{font-size:12px}}circle:hover{{stroke:#000}}</style>\
         <h1>seed {seed}</h1><p>commit {}, {} events in {:.3} virtual seconds: <b>{}</b></p>",
        xfer_sim::COMMIT,
        outcome.events,
        outcome.took.as_secs_f64(),
        escaped(&verdict),
    );
    timeline(&mut page, outcome.trace.lines());
    owners(&mut page, outcome);
    page.push_str("<h2>What happened</h2><pre>");
    page.push_str(&escaped(xfer_sim::trace::LEGEND));
    for line in outcome.trace.lines() {
        let _ = writeln!(page, "{}", escaped(&line.to_string()));
    }
    page.push_str("</pre>");
    page
}

/// A row for each process, a dot for each event; pointing at one shows its line.
fn timeline(page: &mut String, lines: &[Line]) {
    let mut rows = BTreeMap::new();
    for line in lines {
        rows.entry(line.who).or_insert(0);
    }
    for (at, row) in rows.values_mut().enumerate() {
        *row = at;
    }
    let last = lines.last().map_or(1, |line| line.at.as_nanos()).max(1) as f64;
    let height = (rows.len() + 1) * ROW;
    let _ = write!(page, "<h2>When</h2><p>");
    for (what, colour) in COLOURS {
        let _ = write!(page, "<span style='color:{colour}'>&#9679;</span> {what} ");
    }
    let _ = write!(page, "</p><svg width={} height={height}>", WIDTH + 120.0);
    for (who, row) in &rows {
        let y = (row + 1) * ROW;
        let _ = write!(
            page,
            "<text x=0 y={}>{who}</text><line x1=60 x2={} y1={y} y2={y} stroke='#eee'/>",
            y + 4,
            WIDTH + 60.0
        );
    }
    for line in lines {
        let x = 60.0 + line.at.as_nanos() as f64 / last * WIDTH;
        let y = (rows[&line.who] + 1) * ROW;
        let colour = COLOURS.iter().find(|(what, _)| *what == line.what).map_or("#999", |(_, colour)| colour);
        let _ = write!(
            page,
            "<circle cx={x:.1} cy={y} r=4 fill='{colour}'><title>{}</title></circle>",
            escaped(&line.to_string())
        );
    }
    page.push_str("</svg>");
}

fn owners(page: &mut String, outcome: &Outcome) {
    page.push_str("<h2>Who owned what</h2><table><tr><th>generation<th>kind<th>owners<th>why</tr>");
    for record in &outcome.history {
        let owners: Vec<String> = record.owners.iter().map(|(shard, rank)| format!("{shard}: rank {rank}")).collect();
        let _ = write!(
            page,
            "<tr><td>{}<td>{}<td>{}<td>{}</tr>",
            record.generation,
            record.kind,
            escaped(&owners.join(", ")),
            escaped(&record.reason)
        );
    }
    page.push_str("</table>");
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
