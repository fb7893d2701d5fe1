//! A plan for people.

use std::collections::BTreeMap;

use xfer_plan::{Departure, Fate, Mode, Planned, Remedies};

use crate::output::table;

/// How many of the first items are named.
const NAMED_MAX: usize = 10;

/// All that a terminal has room for.
pub(crate) fn about(title: &str, departure: &Departure, planned: &Planned, plan_ms: f64) -> String {
    let expected = planned.expected();
    let window = &departure.window;
    let mut text = format!(
        "{title}: {} notice, {} of payload (a tenth of the time below {})\n\n",
        seconds(window.notice_s),
        gbps(window.link.bytes_per_s),
        gbps(window.link.low()),
    );
    text.push_str(&match planned.is_hopeless() {
        true => "nothing can be saved: the job is best taken back to its checkpoint at once\n".to_owned(),
        false => format!("{}: {}\n", expected.mode, meaning(expected.mode)),
    });
    text.push_str(&format!(
        "expected loss {}: so much later the open step ends than it would have, on the average over rates and deaths\n\
         likely resumed {} after the notice; back to a checkpoint in {} of cases, the open step done again in {}\n",
        seconds(expected.loss_s),
        seconds(expected.typical.resumed_s),
        percent(expected.p_rollback),
        percent(expected.p_step_lost),
    ));
    text.push_str(&parts(planned));
    text.push_str(&format!(
        "no plan loses less than {}: gap {} (planned in {plan_ms:.1} ms)\n\n",
        seconds(planned.bound_s),
        percent(planned.gap())
    ));
    text.push_str(&classes(departure, planned));
    text.push('\n');
    text.push_str(&first_items(departure, planned));
    text.push_str(&modes(planned));
    text.push_str(&shortages(planned));
    text.push_str(&remedies(&planned.remedies(departure)));
    text
}

/// What there is between the notice and going on: what takes no time isn't said.
fn parts(planned: &Planned) -> String {
    let parts = planned.expected().typical.parts.named().into_iter().filter(|(_, part_s)| *part_s > 0.0);
    let parts: Vec<String> = parts.map(|(part, part_s)| format!("{part} {}", seconds(part_s))).collect();
    if parts.is_empty() { String::new() } else { format!("  of that {}\n", parts.join(", ")) }
}

/// Which modes are refused because a new owner has too little room.
fn shortages(planned: &Planned) -> String {
    let mut text = String::new();
    for (mode, short) in &planned.short {
        text.push_str(&format!(
            "{mode} is refused: rank {} would get {} at least, and has room for {}\n",
            short.rank,
            bytes(short.needed_bytes),
            bytes(short.room_bytes)
        ));
    }
    text
}

fn meaning(mode: Mode) -> &'static str {
    match mode {
        Mode::Drain => "the node finishes the step, then its state leaves",
        Mode::Overlap => "state leaves while the node finishes the step; its gradients leave last, the new owners step",
        Mode::Stop => "the node stops; its state, its gradients and what is in flight leave or are computed again",
        Mode::DropStep => "the node stops; its state leaves, and the open step is done again",
        Mode::Rollback => "the job goes back to its checkpoint",
    }
}

/// What becomes of each class of items.
fn classes(departure: &Departure, planned: &Planned) -> String {
    let mut sums: BTreeMap<(&str, &str), (u64, u64, f64)> = BTreeMap::new();
    for row in &planned.rows {
        let asset = &departure.assets[row.place];
        let (fate, arrives_s) = fate(row.fate);
        let sum = sums.entry((asset.class.name(), fate)).or_default();
        *sum = (sum.0 + 1, sum.1 + asset.bytes, sum.2.max(arrives_s));
    }
    let rows: Vec<[String; 5]> = sums
        .into_iter()
        .map(|((class, fate), (items, total, arrives_s))| {
            let there = if fate == "sent" { seconds(arrives_s) } else { "-".to_owned() };
            [class.to_owned(), items.to_string(), bytes(total), fate.to_owned(), there]
        })
        .collect();
    table(["class", "items", "bytes", "what becomes of it", "there after"], &rows)
}

/// The word for what becomes of an item, and when it is there.
fn fate(fate: Fate) -> (&'static str, f64) {
    match fate {
        Fate::Sent { arrives_s } => ("sent", arrives_s),
        other => (other.name(), 0.0),
    }
}

fn first_items(departure: &Departure, planned: &Planned) -> String {
    let sent = planned.rows.iter().take(planned.order.len());
    let rows: Vec<[String; 4]> = sent
        .take(NAMED_MAX)
        .enumerate()
        .map(|(at, row)| {
            let asset = &departure.assets[row.place];
            let there = match row.fate {
                Fate::Sent { arrives_s } => seconds(arrives_s),
                _ => "late".to_owned(),
            };
            [(at + 1).to_string(), asset.name.clone(), bytes(asset.bytes), there]
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    let mut text = table(["order", "item", "bytes", "there after"], &rows);
    if planned.order.len() > NAMED_MAX {
        text.push_str(&format!("       and {} more\n", planned.order.len() - NAMED_MAX));
    }
    text.push('\n');
    text
}

fn modes(planned: &Planned) -> String {
    let rows: Vec<[String; 5]> = planned
        .modes
        .iter()
        .map(|expected| {
            [
                expected.mode.name().to_owned(),
                seconds(expected.loss_s),
                percent(expected.p_rollback),
                percent(expected.p_step_lost),
                seconds(expected.typical.resumed_s),
            ]
        })
        .collect();
    table(["mode", "expected loss", "rollback", "step lost", "resumed after"], &rows)
}

fn remedies(remedies: &Remedies) -> String {
    if remedies.fits {
        return String::new();
    }
    let mut text = "\nnine times in ten all of it would make it with\n".to_owned();
    if let Some(rate) = remedies.link_bytes_per_s {
        text.push_str(&format!("  a link that carries {}\n", gbps(rate)));
    }
    if let Some(notice_s) = remedies.notice_s {
        text.push_str(&format!("  or a notice of {}\n", seconds(notice_s)));
    }
    text.push_str(&format!("  or at most {} on each node that leaves\n", bytes(remedies.room_bytes)));
    text
}

/// A time with three digits that mean something.
fn seconds(seconds: f64) -> String {
    match seconds {
        s if !s.is_finite() => "never".to_owned(),
        s if s >= 100.0 => format!("{s:.0} s"),
        s if s >= 10.0 => format!("{s:.1} s"),
        s if s >= 1.0 => format!("{s:.2} s"),
        s if s >= 0.001 => format!("{:.3} s", s),
        s if s > 0.0 => format!("{:.0} us", s * 1e6),
        _ => "0 s".to_owned(),
    }
}

fn percent(part: f64) -> String {
    match part {
        p if p <= 0.0 => "0 %".to_owned(),
        p if p < 0.001 => "under 0.1 %".to_owned(),
        p => format!("{:.1} %", p * 100.0),
    }
}

fn gbps(bytes_per_s: f64) -> String {
    match bytes_per_s * 8.0 / 1e9 {
        rate if rate >= 1.0 => format!("{rate:.1} Gb/s"),
        rate => format!("{:.1} Mb/s", rate * 1e3),
    }
}

fn bytes(bytes: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(1_000_000_000_000, "TB"), (1_000_000_000, "GB"), (1_000_000, "MB"), (1000, "kB")];
    let unit = UNITS.into_iter().find(|(unit, _)| bytes >= *unit);
    unit.map_or_else(|| format!("{bytes} B"), |(unit, name)| format!("{:.1} {name}", bytes as f64 / unit as f64))
}
