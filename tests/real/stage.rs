//! Brings a job to a step of its migration and no further, and later to its end.

use serde_json::Value;
use xfer_faults::Step;

use crate::job::{Job, OTHER, SOURCE, TARGET};
use crate::{Outcome, WAIT};

/// Time for everything, at the slowest rate too: else the plan would leave out the last items, and the migration end before its fault.
const DEADLINE_MS: u64 = 600_000;

/// So slow that the small items land, and of the large ones hardly anything.
const SLOW: &str = "limit 40000";

/// Brings `job` to where `step` is about to be taken.
pub fn reach(job: &mut Job, step: Step) -> Outcome<()> {
    if step == Step::Handshake {
        return Ok(());
    }
    job.together(&format!("connect {}", WAIT.as_millis()))?;
    if !job.refusals.is_empty() {
        return Err(format!("the job did not start: {:?}", job.refusals).into());
    }
    if step == Step::Resume {
        advance(job, Step::Bulk)?;
        job.rank(SOURCE).ask("withdraw")?;
        for rank in [SOURCE, OTHER, TARGET] {
            job.rank(rank).ask(&format!("await outcome 0 {}", WAIT.as_millis()))?;
        }
        job.fill()?;
        for rank in [OTHER, TARGET] {
            job.rank(rank).ask("dismiss")?;
        }
        job.attempts += 1;
        job.rank(SOURCE).ask("limit off")?;
        return advance(job, Step::Bulk);
    }
    advance(job, step)
}

/// From connected processes to `step`.
fn advance(job: &mut Job, step: Step) -> Outcome<()> {
    let wait = WAIT.as_millis();
    if step == Step::Register {
        job.pauses.hold(TARGET, "register");
    }
    job.rank(SOURCE).ask(&format!("hand_over {DEADLINE_MS}"))?;
    for rank in [OTHER, TARGET] {
        job.rank(rank).ask(&format!("await incoming 0 {wait}"))?;
    }
    if step == Step::Notice {
        return Ok(());
    }
    job.rank(SOURCE).ask(SLOW)?;
    job.rank(SOURCE).ask("offer state")?;
    if step == Step::Register {
        return job.pauses.reached(TARGET, "register");
    }
    for rank in [OTHER, TARGET] {
        job.rank(rank).ask(&format!("await landed 1 {wait}"))?;
    }
    if step == Step::Bulk {
        return Ok(());
    }
    job.rank(SOURCE).ask("limit off")?;
    for rank in [OTHER, TARGET] {
        job.rank(rank).ask(&format!("await landed 2 {wait}"))?;
    }
    job.rank(SOURCE).ask(SLOW)?;
    job.rank(SOURCE).ask("offer delta")?;
    job.rank(SOURCE).ask("cut")?;
    for rank in [OTHER, TARGET] {
        job.rank(rank).ask(&format!("await cut 0 {wait}"))?;
    }
    let held: &[(u32, &str)] = match step {
        Step::Verify => &[(TARGET, "verify")],
        Step::Commit => &[(OTHER, "propose"), (TARGET, "propose")],
        _ => &[],
    };
    held.iter().for_each(|(rank, moment)| job.pauses.hold(*rank, moment));
    if step != Step::Delta {
        job.rank(SOURCE).ask("limit off")?;
    }
    for (rank, moment) in held {
        job.pauses.reached(*rank, moment)?;
    }
    if step == Step::Release {
        job.rank(OTHER).ask(&format!("await generation 1 {wait}"))?;
    }
    Ok(())
}

/// Lets nobody propose but the source, until it has: where both sides take each other for dead, either may come first, and one of
/// two ends is right. The source is the one that has everything.
fn source_first(job: &mut Job) -> Outcome<()> {
    job.rank(SOURCE).ask(&format!("await outcome 0 {}", WAIT.as_millis()))?;
    job.pauses.release();
    Ok(())
}

/// Takes the steps that are left, as far as there is somebody to take them, until every process that is there knows the end.
pub fn finish(job: &mut Job, step: Step, parted: bool) -> Outcome<()> {
    job.pauses.release();
    if parted {
        [OTHER, TARGET].iter().for_each(|rank| job.pauses.hold(*rank, "propose"));
    }
    if step == Step::Handshake {
        job.together(&format!("connect {}", 3_000))?;
    }
    let complete = job.ranks.iter().all(|rank| rank.is_there());
    if job.rank(SOURCE).is_there() && (step != Step::Handshake || (complete && job.refusals.is_empty())) {
        let left: &[&str] = match step {
            Step::Handshake => &["hand_over 60000", "offer state", "offer delta", "cut"],
            Step::Notice => &["offer state", "offer delta", "cut"],
            Step::Register | Step::Bulk | Step::Resume => &["limit off", "offer delta", "cut"],
            _ => &["limit off"],
        };
        for command in left {
            // The migration may be over by now, and says so.
            job.rank(SOURCE).try_ask(command)?;
        }
    } else if step == Step::Handshake {
        return Ok(());
    }
    if parted {
        source_first(job)?;
    }
    reports(job, &format!("await outcome 0 {}", WAIT.as_millis())).map(drop)
}

/// Once a fault is lifted, everybody comes to know what is true.
pub fn settle(job: &mut Job) -> Outcome<()> {
    job.unknowing = None;
    if job.generation()?.is_none_or(|record| record.generation <= job.attempts) {
        return Ok(());
    }
    let command = format!("await settled {} {}", job.attempts + 1, WAIT.as_millis());
    reports(job, &command).map(drop)
}

/// Waits until nothing is on its way any more, and returns what every process that is there says.
pub fn quiet(job: &mut Job) -> Outcome<Vec<Value>> {
    reports(job, &format!("await quiet 0 {}", WAIT.as_millis()))
}

fn reports(job: &mut Job, command: &str) -> Outcome<Vec<Value>> {
    let unknowing = job.unknowing;
    let there: Vec<u32> =
        (0..3).filter(|rank| job.ranks[*rank as usize].is_there() && unknowing != Some(*rank)).collect();
    there.into_iter().map(|rank| job.rank(rank).ask(command)).collect()
}
