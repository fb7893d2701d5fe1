//! A hand-over that begins again, because a target died in the middle of it or its source was started anew: what has landed at the one
//! that is left is not sent again, to the byte, unless it has changed.

use libtest_mimic::{Failed, Trial};
use rustix::process::Signal;
use serde_json::Value;
use xfer_faults::{Over, Required, Step};

use crate::check::check;
use crate::faults::{Fault, Part};
use crate::items::{LARGE_BYTES, SMALL_BYTES};
use crate::job::{Job, OTHER, SOURCE, TARGET};
use crate::stage;
use crate::{Outcome, WAIT};

/// So slow that the large items are on their way for seconds.
const SLOW: &str = "limit 2000000";

/// When the target dies: of the large item for the other one, a part has landed.
const LANDED_BYTES: u64 = 1_000_000;

/// All that is handed over in the end: state of two lengths and an activation, of two targets.
const ALL_BYTES: u64 = 2 * (SMALL_BYTES + 2 * LARGE_BYTES) as u64;

/// What happens between the two attempts, besides the death of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Between {
    Nothing,
    /// The bytes of every item change, and nobody says so.
    Change,
    /// The source is killed and started again, with the same state.
    NewLife,
}

pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for over in [Over::Tcp, Over::Shm] {
        for (name, between) in [
            ("target_killed", Between::Nothing),
            ("target_killed_and_items_changed", Between::Change),
            ("target_killed_and_source_started_again", Between::NewLife),
        ] {
            trials.push(Trial::test(format!("{}::again::{name}", over.name()), move || {
                run(over, between).map_err(|error| Failed::from(error.to_string()))
            }));
        }
    }
    trials
}

fn run(over: Over, between: Between) -> Outcome<()> {
    let wait = WAIT.as_millis();
    let mut job = Job::start(Fault::Kill(Part::Target), over)?;
    stage::reach(&mut job, Step::Bulk)?;
    job.rank(SOURCE).ask(SLOW)?;
    job.rank(OTHER).ask(&format!("await received {LANDED_BYTES} {wait}"))?;
    job.rank(TARGET).signal(Signal::KILL)?;
    for rank in [SOURCE, OTHER] {
        let report = job.rank(rank).ask(&format!("await outcome 0 {wait}"))?;
        if report["outcome"]["kind"] != "withdrawn" {
            return Err(format!("without one of its targets it is withdrawn: {report}").into());
        }
    }
    job.attempts += 1;
    let mut before = stage::quiet(&mut job)?;
    if between == Between::NewLife {
        job.rank(SOURCE).signal(Signal::KILL)?;
        job.rank(OTHER).ask(&format!("await down {SOURCE} {wait}"))?;
        job.ranks[SOURCE as usize] = job.launch(SOURCE)?;
        job.welcome(SOURCE)?;
        job.rank(SOURCE).ask(&format!("connect_to {OTHER} {wait}"))?;
        before = vec![job.rank(OTHER).ask("report")?];
    }
    job.rank(OTHER).ask("dismiss")?;
    job.rank(SOURCE).ask("limit off")?;
    job.rank(SOURCE).ask("hand_over_alone 600000")?;
    job.rank(SOURCE).ask(if between == Between::Change { "offer changed" } else { "offer again" })?;
    job.rank(SOURCE).ask("cut")?;
    for rank in [SOURCE, OTHER] {
        job.rank(rank).ask(&format!("await outcome 0 {wait}"))?;
    }
    let after = stage::quiet(&mut job)?;
    check(&mut job, &after, Required::Commits)?;
    count(&before, &after, between)?;
    job.end()
}

/// What was there and what came are all of it, and nothing that was there came again.
fn count(before: &[Value], after: &[Value], between: Between) -> Outcome<()> {
    let of = |reports: &[Value], rank: u32, name: &str| {
        let report = reports.iter().find(|report| report["rank"] == rank);
        report.and_then(|report| report[name].as_u64()).unwrap_or_default()
    };
    let there = of(before, OTHER, "received_bytes");
    let came = of(after, OTHER, "received_bytes") - there;
    let sent = of(after, SOURCE, "sent_bytes") - of(before, SOURCE, "sent_bytes");
    let kept = of(after, SOURCE, "kept_bytes");
    let moved = of(after, SOURCE, "moved_bytes");
    let all_right = match between {
        Between::Change => kept == 0,
        // Chunks that arrived while the fence was reached were not acknowledged, and may be there all the same.
        Between::Nothing | Between::NewLife => kept >= LANDED_BYTES && kept <= there,
    };
    let told = moved == ALL_BYTES && of(after, OTHER, "moved_bytes") == ALL_BYTES;
    let agree = of(after, OTHER, "kept_bytes") == kept && came == ALL_BYTES - kept && sent == came;
    if all_right && told && agree {
        return Ok(());
    }
    Err(format!("{there} bytes were there, {kept} of {moved} count as that, {sent} sent, {came} came: {after:?}")
        .into())
}
