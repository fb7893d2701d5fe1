//! What is looked at after every fault, whatever its outcome: memory that was given back (P1), ends (P2), and counts (P17).

use std::collections::BTreeMap;

use serde_json::{Value, json};
use xfer::migrate::GenerationRecord;
use xfer_faults::Over;

use crate::Outcome;
use crate::job::{Job, OTHER, SOURCE, TARGET};

/// Holds what all processes that are there say of themselves against each other, and against the store.
pub fn agree(job: &Job, record: Option<&GenerationRecord>, reports: &[Value]) -> Outcome<()> {
    for report in reports {
        nothing_late(report)?;
        every_transfer_ended(report)?;
    }
    let of = |rank: u32| reports.iter().find(|report| report["rank"] == rank);
    let Some(record) = record else { return Ok(()) };
    let knows = |report: &&Value| report["outcome"]["generation"] == record.generation && changes_hands(record);
    for report in [of(OTHER), of(TARGET)].into_iter().flatten().filter(knows) {
        as_the_store_says(record, report, &items(report)?)?;
    }
    if let (Some(source), Some(other), Some(target)) = (of(SOURCE), of(OTHER), of(TARGET)) {
        let all = [items(other)?, items(target)?].into_iter().flatten().collect();
        if knows(&source) {
            as_the_store_says(record, source, &all)?;
        }
        transport(job, record, source, [other, target])?;
    }
    Ok(())
}

fn changes_hands(record: &GenerationRecord) -> bool {
    use xfer::migrate::GenerationKind::{Handoff, Restore};
    matches!(record.kind, Handoff | Restore)
}

/// P1: once a migration had ended, its memory was used for something else; nobody has written there since.
fn nothing_late(report: &Value) -> Outcome<()> {
    if report["late"] == json!([]) {
        return Ok(());
    }
    Err(format!("memory was written after its migration had ended: {report}").into())
}

/// P2 and P17: as many ends as transfers, and no event was lost on the way to whoever counts them.
fn every_transfer_ended(report: &Value) -> Outcome<()> {
    let count = |name: &str| report[name].as_u64().unwrap_or(u64::MAX);
    let ended = count("transfers_done") + count("transfers_unfinished");
    if count("transfers_started") != ended || count("events_dropped") != 0 {
        return Err(format!("{ended} ends, or events dropped: {report}").into());
    }
    Ok(())
}

/// The items that a process was offered: name and bytes by number.
fn items(report: &Value) -> Outcome<BTreeMap<u64, (String, u64)>> {
    let items = report["items"].as_array().ok_or("a report without items")?;
    let item = |item: &Value| Some((item[0].as_u64()?, (item[1].as_str()?.to_owned(), item[2].as_u64()?)));
    items.iter().map(|found| Ok(item(found).ok_or_else(|| format!("no item: {found}"))?)).collect()
}

/// P17: a process counts as moved what the store's record says has landed, to the byte.
fn as_the_store_says(record: &GenerationRecord, report: &Value, items: &BTreeMap<u64, (String, u64)>) -> Outcome<()> {
    let landed = record.landed.iter().filter_map(|id| items.get(&id.0));
    let bytes: u64 = landed.clone().map(|(_, bytes)| bytes).sum();
    let mut names: Vec<&str> = landed.map(|(name, _)| &**name).collect();
    let mut order: Vec<&str> = report["order"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    names.sort_unstable();
    order.sort_unstable();
    if names != order || report["moved_bytes"] != bytes {
        return Err(format!("the store says that {names:?} landed, {bytes} bytes, and a process: {report}").into());
    }
    Ok(())
}

/// P17: what the transport counts at both ends, and what the migration's report says of it.
fn transport(job: &Job, record: &GenerationRecord, source: &Value, targets: [&Value; 2]) -> Outcome<()> {
    let count = |report: &Value, name: &str| report[name].as_u64().unwrap_or_default();
    let sum = |name: &str| targets.iter().map(|report| count(report, name)).sum::<u64>();
    let (sent, done, received) = (count(source, "sent_bytes"), count(source, "done_bytes"), sum("received_bytes"));
    if done > received || done > sent {
        return Err(format!("{sent} bytes sent, {done} done, {received} received: {source}, {targets:?}").into());
    }
    // Where nothing was lost, repeated or taken back, all counts are one.
    let spoiled = ["chunks_damaged", "late_bytes", "links_lost"].map(sum).into_iter().sum::<u64>()
        + ["chunks_retried", "transfers_unfinished", "links_lost"]
            .map(|name| count(source, name))
            .into_iter()
            .sum::<u64>();
    let path: BTreeMap<&str, u64> = source["path"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(name, of)| Some((&**name, of.as_u64()?)))
        .collect();
    if spoiled == 0 && job.attempts == 0 && changes_hands(record) {
        let told: u64 = path.values().sum();
        if [sent, done, received].iter().any(|counted| *counted != told) {
            return Err(format!(
                "{told} bytes told, {sent} sent, {done} done, {received} received: {source}, {targets:?}"
            )
            .into());
        }
        let carrier = match job.over {
            Over::Shm => "shm",
            Over::Verbs => "verbs",
            Over::Tcp | Over::Namespaces => "tcp",
        };
        if path.keys().any(|name| *name != carrier) {
            return Err(format!("all was to go over {carrier}: {source}").into());
        }
    }
    Ok(())
}
