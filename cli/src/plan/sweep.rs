//! `xfer plan sweep`: plans against what others do, over many jobs and over traces of preemptions.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};
use xfer_plan::{Baseline, Cell, Copies, CopiesCell, Expected, KillLaw, Sweep, loss_against_link, trace};

use super::options::{JobOptions, WindowOptions, bounded};
use crate::failure::Failure;
use crate::output::{print, print_json, table};

/// Options of `xfer plan sweep`.
#[derive(Args)]
pub(crate) struct Options {
    /// A few cells of each kind instead of all of them.
    #[arg(long)]
    reduced: bool,
    /// Replays a trace of `milliseconds,add|remove,node` lines for one job, instead.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Likewise, a made-up trace of this seed: ten hours, 32 nodes.
    #[arg(long, value_name = "SEED", conflicts_with = "trace")]
    synthetic: Option<u64>,
    /// What standing copies of state at a neighbour cost in every step, and what they save when a node leaves, instead.
    #[arg(long, conflicts_with_all = ["trace", "synthetic", "svg"])]
    copies: bool,
    /// Writes each cell as JSON.
    #[arg(long)]
    json: bool,
    /// Draws expected loss against the link's rate.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    job: JobOptions,
    #[command(flatten)]
    window: WindowOptions,
}

/// Notice of the chart, in seconds.
const CHART_NOTICE_S: f64 = 30.0;

pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    if options.trace.is_some() || options.synthetic.is_some() {
        return replay(options);
    }
    let sweep = if options.reduced { Sweep::reduced() } else { Sweep::full() };
    if options.copies {
        let cells = sweep.copies().map_err(Failure::failed)?;
        match options.json {
            true => print_json(&Value::Array(cells.iter().map(copies_document).collect())),
            false => print(&copies_table(&cells)),
        }
        return Ok(());
    }
    let cells = sweep.run().map_err(Failure::failed)?;
    if let Some(file) = &options.svg {
        std::fs::write(file, loss_against_link(&cells, CHART_NOTICE_S))
            .map_err(|cause| Failure::failed(format!("can't write {}: {cause}", file.display())))?;
    }
    match options.json {
        true => print_json(&Value::Array(cells.iter().map(cell_document).collect())),
        false => print(&summary(&cells)),
    }
    match cells.iter().filter(|cell| cell.comparison.is_beaten()).count() {
        0 => Ok(()),
        beaten => Err(Failure::failed(format!("a baseline does better in {beaten} of {} cells", cells.len()))),
    }
}

fn summary(cells: &[Cell]) -> String {
    let count = cells.len() as f64;
    let mean = |of: &dyn Fn(&Cell) -> f64| cells.iter().map(of).sum::<f64>() / count;
    let mean_gap = mean(&|cell| cell.gap);
    let largest_gap = cells.iter().map(|cell| cell.gap).fold(0.0_f64, f64::max);
    let mut rows = vec![row("xfer plan", cells, &|cell| cell.comparison.plan)];
    for (name, baseline) in Baseline::ALL {
        rows.push(row(name, cells, &|cell| {
            let found = cell.comparison.baselines.iter().find(|(known, _)| *known == baseline);
            found.map_or(cell.comparison.plan, |(_, expected)| *expected)
        }));
    }
    let mut text =
        table(["policy", "mean loss", "rollback", "step lost", "resumed after", "cells as good as any"], &rows);
    text.push_str(&format!(
        "\n{} cells; who knows rate and death beforehand loses {:.1} s; gap to the bound {:.4} % on average, {:.4} % at most\n",
        cells.len(),
        mean(&|cell| cell.comparison.clairvoyant_s),
        mean_gap * 100.0,
        largest_gap * 100.0
    ));
    text
}

fn row(name: &str, cells: &[Cell], of: &dyn Fn(&Cell) -> Expected) -> [String; 6] {
    let count = cells.len() as f64;
    let mean = |part: &dyn Fn(&Expected) -> f64| cells.iter().map(|cell| part(&of(cell))).sum::<f64>() / count;
    let best = |cell: &&Cell| {
        let best = cell.comparison.best_baseline_s().min(cell.comparison.plan.loss_s);
        of(cell).loss_s <= best * (1.0 + 1e-9) + 1e-6
    };
    [
        name.to_owned(),
        format!("{:.1} s", mean(&|expected| expected.loss_s)),
        format!("{:.1} %", 100.0 * mean(&|expected| expected.p_rollback)),
        format!("{:.1} %", 100.0 * mean(&|expected| expected.p_step_lost)),
        format!("{:.1} s", mean(&|expected| expected.typical.resumed_s)),
        format!("{:.1} %", 100.0 * cells.iter().filter(best).count() as f64 / count),
    ]
}

fn copies_name(copies: Copies) -> &'static str {
    Copies::ALL.iter().find(|(_, known)| *known == copies).map_or("", |(name, _)| *name)
}

/// Of each model and link what a notice of half a minute comes to.
fn copies_table(cells: &[CopiesCell]) -> String {
    let rows: Vec<[String; 9]> = cells
        .iter()
        .filter(|cell| cell.notice_s == CHART_NOTICE_S)
        .map(|cell| {
            [
                format!("{} / {}", cell.shape, cell.nodes),
                format!("{:.0} Gb/s", cell.link_bits_per_s / 1e9),
                copies_name(cell.copies).to_owned(),
                format!("{:.1} GB", cell.standing.bytes as f64 / 1e9),
                format!("{:.1} %", 100.0 * cell.standing.link_busy),
                format!("{:.2} %", 100.0 * cell.standing.step_cost_s / cell.step_s),
                format!("{:.1} s", cell.without.loss_s),
                format!("{:.1} s", cell.with.loss_s),
                cell.pays_from_per_day().map_or_else(|| "never".to_owned(), |per_day| format!("{per_day:.1}")),
            ]
        })
        .collect();
    table(
        [
            "model / nodes",
            "link",
            "copied",
            "a step",
            "of the link",
            "steps longer by",
            "loss without",
            "loss with",
            "pays from, a day",
        ],
        &rows,
    )
}

fn copies_document(cell: &CopiesCell) -> Value {
    json!({
        "model": cell.shape,
        "nodes": cell.nodes,
        "link_gbps": cell.link_bits_per_s / 1e9,
        "notice_s": cell.notice_s,
        "copies": copies_name(cell.copies),
        "bytes_per_step": cell.standing.bytes,
        "link_busy": cell.standing.link_busy,
        "step_cost_s": cell.standing.step_cost_s,
        "step_s": cell.step_s,
        "memory_bytes": cell.standing.memory_bytes,
        "loss_s": cell.with.loss_s,
        "p_rollback": cell.with.p_rollback,
        "loss_without_s": cell.without.loss_s,
        "p_rollback_without": cell.without.p_rollback,
        "pays_from_per_day": cell.pays_from_per_day(),
    })
}

fn cell_document(cell: &Cell) -> Value {
    let law = KillLaw::ALL.iter().find(|(_, law)| *law == cell.law).map(|(name, _)| *name);
    let policy = |expected: &Expected| {
        json!({
            "loss_s": expected.loss_s,
            "p_rollback": expected.p_rollback,
            "p_step_lost": expected.p_step_lost,
            "resume_s": expected.typical.resumed_s,
        })
    };
    let name = |wanted| Baseline::ALL.iter().find(|(_, known)| *known == wanted).map_or("", |(name, _)| *name);
    let baselines: serde_json::Map<String, Value> =
        cell.comparison.baselines.iter().map(|(known, expected)| (name(*known).to_owned(), policy(expected))).collect();
    json!({
        "model": cell.shape,
        "nodes": cell.nodes,
        "link_gbps": cell.link_bits_per_s / 1e9,
        "notice_s": cell.notice_s,
        "law": law,
        "dp": cell.replicas.0,
        "zero": cell.replicas.1,
        "mode": cell.mode.name(),
        "gap": cell.gap,
        "bound_s": cell.comparison.plan.bound_s,
        "plan": policy(&cell.comparison.plan),
        "baselines": baselines,
        "clairvoyant_s": cell.comparison.clairvoyant_s,
    })
}

fn replay(options: &Options) -> Result<(), Failure> {
    let (name, events) = match (&options.trace, options.synthetic) {
        (Some(file), _) => {
            let text = String::from_utf8(bounded(file)?)
                .map_err(|_| Failure::failed(format!("{} is not text", file.display())))?;
            let events =
                trace::parse(&text).map_err(|error| Failure::failed(format!("{}: {error}", file.display())))?;
            (file.display().to_string(), events)
        }
        (None, seed) => {
            let seed = seed.unwrap_or_default();
            (format!("made-up trace {seed}"), trace::synthetic(seed, 10, 32))
        }
    };
    let job = options.job.job(&options.window)?;
    let replayed = trace::replay(&events, &job).map_err(Failure::failed)?;
    let policy = |label: &str, loss_s: f64, rollbacks: f64| {
        [label.to_owned(), format!("{:.1} min", loss_s / 60.0), format!("{rollbacks:.1}")]
    };
    let mut rows = vec![policy("xfer plan", replayed.plan_loss_s, replayed.plan_rollbacks)];
    for (label, baseline) in Baseline::ALL {
        let (loss_s, rollbacks) = replayed.baselines.get(&baseline).copied().unwrap_or_default();
        rows.push(policy(label, loss_s, rollbacks));
    }
    if options.json {
        let policies: serde_json::Map<String, Value> = Baseline::ALL
            .iter()
            .filter_map(|(label, baseline)| {
                let (loss_s, rollbacks) = replayed.baselines.get(baseline)?;
                Some(((*label).to_owned(), json!({ "loss_s": loss_s, "rollbacks": rollbacks })))
            })
            .collect();
        print_json(&json!({
            "departures": replayed.departures,
            "nodes_left": replayed.nodes_left,
            "all_left": replayed.all_left,
            "plan": { "loss_s": replayed.plan_loss_s, "rollbacks": replayed.plan_rollbacks },
            "baselines": policies,
        }));
        return Ok(());
    }
    print(&format!(
        "{name}: nodes of the job left {} times, {} nodes in all, {} times every one of them\n\n{}",
        replayed.departures,
        replayed.nodes_left,
        replayed.all_left,
        table(["policy", "lost in all", "rollbacks expected"], &rows)
    ));
    Ok(())
}
