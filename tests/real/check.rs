//! The promises that hold after every fault, and the one outcome that a cell requires.

use serde_json::Value;
use xfer::migrate::{GenerationKind, GenerationRecord};
use xfer_faults::Required;

use crate::job::{Job, OTHER, SOURCE};
use crate::{Outcome, ledger};

/// Holds `reports` of all processes that are left, and the store's record, against the promises and what is required.
pub fn check(job: &mut Job, reports: &[Value], required: Required) -> Outcome<()> {
    let record = job.generation()?;
    let job = &*job;
    ledger::agree(job, record.as_ref(), reports)?;
    no_byte_is_wrong(reports)?;
    one_owner(record.as_ref(), reports)?;
    one_end(reports)?;
    match required {
        Required::Commits => decided(job, record.as_ref(), reports, GenerationKind::Handoff),
        Required::Restores => decided(job, record.as_ref(), reports, GenerationKind::Restore),
        Required::RollsBack => decided(job, record.as_ref(), reports, GenerationKind::Withdrawn),
        Required::Refuses(words) => refused(job, record.as_ref(), reports, words),
        Required::Undecided(words) => undecided(reports, words),
        Required::Quarantines => {
            decided(job, record.as_ref(), reports, GenerationKind::Withdrawn)?;
            quarantined(reports)
        }
    }
}

/// P3: what is reported as landed is, byte for byte, what was at the source.
fn no_byte_is_wrong(reports: &[Value]) -> Outcome<()> {
    match reports.iter().find(|report| report["damaged"] != serde_json::json!([])) {
        Some(report) => Err(format!("torn items: {report}").into()),
        None => Ok(()),
    }
}

/// P4: no two processes own one shard, and what they believe is what the store says; nobody is ahead of it.
fn one_owner(record: Option<&GenerationRecord>, reports: &[Value]) -> Outcome<()> {
    let mut owned: Vec<&str> = reports
        .iter()
        .flat_map(|report| report["owns"].as_array().into_iter().flatten())
        .filter_map(Value::as_str)
        .collect();
    let count = owned.len();
    owned.sort_unstable();
    owned.dedup();
    if owned.len() != count {
        return Err(format!("a shard has two owners: {reports:?}").into());
    }
    let Some(record) = record else { return Ok(()) };
    let ahead = reports.iter().find(|report| report["generation"].as_u64() > Some(record.generation));
    if let Some(ahead) = ahead {
        return Err(format!("generation {} is true, and a process says: {ahead}", record.generation).into());
    }
    let mut shards: Vec<&str> = record.owners.iter().map(|(shard, _)| shard.as_str()).collect();
    shards.sort_unstable();
    if shards.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(format!("a shard twice in {record:?}").into());
    }
    Ok(())
}

/// P2: who knows an end knows the same as everybody else.
fn one_end(reports: &[Value]) -> Outcome<()> {
    let ends: Vec<&Value> =
        reports.iter().map(|report| &report["outcome"]).filter(|outcome| outcome["generation"].is_u64()).collect();
    if ends.windows(2).any(|pair| pair[0] != pair[1]) {
        return Err(format!("different ends: {ends:?}").into());
    }
    Ok(())
}

fn decided(job: &Job, record: Option<&GenerationRecord>, reports: &[Value], kind: GenerationKind) -> Outcome<()> {
    let record = record.ok_or("the store holds no generation")?;
    if record.kind != kind || record.generation != job.attempts + 1 {
        return Err(format!(
            "generation {} is a {} ({}), and generation {} had to be a {kind}: {reports:?}",
            record.generation,
            record.kind,
            record.reason,
            job.attempts + 1
        )
        .into());
    }
    for report in reports {
        let outcome = &report["outcome"];
        // One that never heard of it has nothing to say of its end, but of what is true.
        // And whoever refused it has its own end.
        let refused = kind == GenerationKind::Withdrawn
            && outcome["reason"].as_str().is_some_and(|reason| reason.contains("refused the migration"));
        if !outcome.is_null() && !refused && outcome["kind"] != kind.name() {
            return Err(format!("the end is a {kind}, and a process says: {report}").into());
        }
        // P5: a source that has handed over acts no more, and one that stays is unharmed.
        if report["rank"] == SOURCE && report["may_update"] != (kind == GenerationKind::Withdrawn) {
            return Err(format!("after a {kind} the source may update: {report}").into());
        }
    }
    if kind == GenerationKind::Handoff && record.owners.len() != 2 {
        return Err(format!("not every shard has an owner: {record:?}").into());
    }
    if !reports.iter().any(|report| report["rank"] == OTHER && report["outcome"]["generation"] == record.generation) {
        return Err(format!("the rank that nothing was done to does not know the end: {reports:?}").into());
    }
    Ok(())
}

/// Somebody has said no by name, and nothing has changed hands.
fn refused(job: &Job, record: Option<&GenerationRecord>, reports: &[Value], words: &str) -> Outcome<()> {
    if record.is_some_and(|record| matches!(record.kind, GenerationKind::Handoff | GenerationKind::Restore)) {
        return Err(format!("refused, and yet: {record:?}").into());
    }
    let reasons = reports.iter().filter_map(|report| report["outcome"]["reason"].as_str());
    let said: Vec<&str> = job.refusals.iter().map(String::as_str).chain(reasons).collect();
    match said.iter().any(|said| said.contains(words)) {
        true => Ok(()),
        false => Err(format!("nobody says `{words}`: {said:?}, {reports:?}").into()),
    }
}

/// What could not be proven to be over was held back, and was given back once it was.
fn quarantined(reports: &[Value]) -> Outcome<()> {
    let held = |report: &Value| report["quarantined_transfers"].as_u64() > Some(0);
    let still = |report: &Value| report["quarantined_bytes"].as_u64() != Some(0);
    match reports.iter().any(held) && !reports.iter().any(still) {
        true => Ok(()),
        false => Err(format!("nothing was held back, or still is: {reports:?}").into()),
    }
}

/// Nobody knows and everybody says so; the source has not lost its place, and nobody has taken it.
fn undecided(reports: &[Value], words: &str) -> Outcome<()> {
    for report in reports {
        let outcome = &report["outcome"];
        let says = outcome["reason"].as_str().is_some_and(|reason| reason.contains(words));
        if outcome["kind"] != "none" || !says {
            return Err(format!("nothing can be known, and a process says: {report}").into());
        }
        if report["owns"] != serde_json::json!([]) {
            return Err(format!("a process owns what nobody gave it: {report}").into());
        }
    }
    Ok(())
}
