//! A plan as JSON, for programs. Times in seconds, sizes in bytes.

use serde_json::{Value, json};

use crate::departure::Departure;
use crate::evaluate::OutcomeKind;
use crate::report::{Expected, Fate, Planned};

/// All that is known of a plan that took `plan_ms` to make.
pub fn document(departure: &Departure, planned: &Planned, plan_ms: f64) -> Value {
    let expected = planned.expected();
    let remedies = planned.remedies(departure);
    let name = |place: &usize| departure.assets[*place].name.clone();
    let rows: Vec<Value> = planned.rows.iter().map(|row| row_document(departure, row.place, row.fate)).collect();
    json!({
        "mode": expected.mode.name(),
        "hopeless": planned.is_hopeless(),
        "loss_s": expected.loss_s,
        "bound_s": planned.bound_s,
        "gap": planned.gap(),
        "plan_ms": plan_ms,
        "p_rollback": expected.p_rollback,
        "p_step_lost": expected.p_step_lost,
        "resume_s": expected.typical.resumed_s,
        "resume_parts_s": parts(expected),
        "order": planned.order.iter().map(name).collect::<Vec<_>>(),
        "recompute": of_fate(departure, planned, Fate::Recomputed),
        "modes": planned.modes.iter().map(mode_document).collect::<Vec<_>>(),
        "items": rows,
        "bytes": {
            "sent": planned.sent_bytes,
            "needed": planned.needed_bytes,
            "state": planned.state_bytes,
        },
        "would_fit": {
            "fits": remedies.fits,
            "link_bytes_per_s": remedies.link_bytes_per_s,
            "notice_s": remedies.notice_s,
            "room_bytes": remedies.room_bytes,
        },
        "window": {
            "notice_s": departure.window.notice_s,
            "detect_s": departure.window.detect_s,
            "reserve_s": departure.window.reserve_s,
            "link_bytes_per_s": departure.window.link.bytes_per_s,
            "link_low_bytes_per_s": departure.window.link.low(),
            "spread": departure.window.link.spread,
        },
        "step": {
            "done_s": departure.progress.step_done_s,
            "left_s": departure.progress.step_left_s,
            "rollback_s": departure.progress.rollback_s,
            "reload_s": departure.progress.reload_s,
        },
        "short_of_memory": planned.short.iter().map(|(mode, short)| json!({
            "mode": mode.name(),
            "rank": short.rank,
            "room_bytes": short.room_bytes,
            "needed_bytes": short.needed_bytes,
        })).collect::<Vec<_>>(),
        "leaving": departure.leaving,
    })
}

/// What there is between the notice and going on.
fn parts(expected: &Expected) -> Value {
    expected.typical.parts.named().into_iter().map(|(part, seconds)| (part.to_owned(), json!(seconds))).collect()
}

fn of_fate(departure: &Departure, planned: &Planned, fate: Fate) -> Vec<String> {
    let rows = planned.rows.iter().filter(|row| row.fate == fate);
    rows.map(|row| departure.assets[row.place].name.clone()).collect()
}

fn row_document(departure: &Departure, place: usize, fate: Fate) -> Value {
    let asset = &departure.assets[place];
    let arrives_s = match fate {
        Fate::Sent { arrives_s } => Some(arrives_s),
        _ => None,
    };
    json!({
        "name": asset.name,
        "kind": asset.class.name(),
        "bytes": asset.bytes,
        "target": asset.target,
        "fate": fate.name(),
        "arrives_s": arrives_s,
    })
}

fn mode_document(expected: &Expected) -> Value {
    let kind = match expected.typical.kind {
        OutcomeKind::HandOff => "handoff",
        OutcomeKind::StepLost => "step lost",
        OutcomeKind::RolledBack => "rolled back",
    };
    json!({
        "mode": expected.mode.name(),
        "loss_s": expected.loss_s,
        "bound_s": expected.bound_s,
        "p_rollback": expected.p_rollback,
        "p_step_lost": expected.p_step_lost,
        "resume_s": expected.typical.resumed_s,
        "typical": kind,
    })
}
