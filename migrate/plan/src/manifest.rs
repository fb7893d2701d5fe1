//! The manifest file: a departure as JSON, written by a running job or by hand.
//!
//! ```json
//! {
//!   "xfer_manifest": 1,
//!   "leaving": [1],
//!   "notice_s": 30, "link_bytes_per_s": {"low": 800e6, "high": 1200e6},
//!   "step": {"done_s": 6.5, "left_s": 6.5, "slowdown": 1.5, "rollback_s": 900, "reload_s": 60, "redo": true},
//!   "handling": {"digest_bytes_per_s": 4e9, "commit_s": 0.002, "meanwhile_s": 0.2, "after_s": 0.05, "describe_s": 0.04,
//!     "stop_meanwhile_s": 0.1, "stop_after_s": 0.02},
//!   "memory_bytes": {"0": 40e9},
//!   "items": [
//!     {"name": "layers.4.weight", "kind": "parameter", "bytes": 4096, "version": 7, "target": 0, "holders": [1]},
//!     {"name": "layers.4.saved", "kind": "saved", "bytes": 512, "version": 7, "target": 0, "holders": [1],
//!      "group": "layers.4.forward.0", "recompute_s": 0.003, "recompute_from": ["layers.4.weight"], "needs": []}
//!   ]
//! }
//! ```
//!
//! An item without `recompute_s` is irreplaceable. Items of one `group` are made by one operation, which takes the sum of
//! their `recompute_s`. What may be left out: `notice_s` (30), `link_bytes_per_s` (10 Gb/s), `step` (between steps),
//! `handling` (nothing beside the link and computing), `memory_bytes` (enough, for ranks that aren't in it), `version`,
//! `holders` (the first leaving rank), `group`, `recompute_from`, `needs`. Unknown fields are refused.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use xfer_migrate_core::plan::Computing;
use xfer_migrate_core::{GroupId, Item, ItemClass, ItemId, Manifest, RecomputeCost};

use crate::departure::{Asset, Departure, DepartureError, Handling, Operation, Progress, Window, figure};
use crate::law::{KillLaw, LinkEstimate};
use crate::limits;

/// The version of the format.
const VERSION: u32 = 1;

/// Up to here every whole number has a float of its own.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;

/// Why a file is no manifest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// It is too long.
    #[error("{len_bytes} bytes are too many; a manifest has at most {}", limits::MANIFEST_LEN_BYTES_MAX)]
    TooLong {
        /// Its length.
        len_bytes: usize,
    },
    /// It isn't JSON of this form.
    #[error("not a manifest: {0}")]
    Form(#[from] serde_json::Error),
    /// It is of another version.
    #[error("a manifest of version {found}; this program reads version {VERSION}")]
    Version {
        /// Which.
        found: u32,
    },
    /// An item is of no known kind.
    #[error("item `{item}` is of kind `{kind}`; there are {known}")]
    Kind {
        /// The item.
        item: String,
        /// What it says.
        kind: String,
        /// What there is.
        known: String,
    },
    /// An item says what it is computed from, and not how long that takes.
    #[error("item `{item}` has recompute_from without recompute_s; say how many seconds it takes to compute it again")]
    NoTime {
        /// The item.
        item: String,
    },
    /// The parts don't hold together.
    #[error(transparent)]
    Departure(#[from] DepartureError),
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct File {
    xfer_manifest: u32,
    leaving: Vec<u32>,
    #[serde(default = "notice")]
    notice_s: f64,
    #[serde(default)]
    link_bytes_per_s: Rate,
    #[serde(default)]
    step: Step,
    #[serde(default)]
    handling: Costs,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    memory_bytes: BTreeMap<u32, f64>,
    items: Vec<Entry>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Rate {
    low: f64,
    high: f64,
}

#[derive(Deserialize, Serialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Step {
    done_s: f64,
    left_s: f64,
    slowdown: Option<f64>,
    rollback_s: Option<f64>,
    reload_s: Option<f64>,
    redo: Option<bool>,
}

#[derive(Deserialize, Serialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Costs {
    digest_bytes_per_s: Option<f64>,
    commit_s: f64,
    meanwhile_s: f64,
    after_s: f64,
    stop_meanwhile_s: f64,
    stop_after_s: f64,
    describe_s: f64,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    kind: String,
    #[serde(deserialize_with = "whole")]
    bytes: u64,
    #[serde(default, deserialize_with = "whole")]
    version: u64,
    target: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    holders: Vec<u32>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    group: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    recompute_s: Option<f64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    recompute_from: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    needs: Vec<String>,
}

impl Default for Rate {
    /// Ten gigabits, as far as it isn't known.
    fn default() -> Self {
        Self { low: 0.9e9, high: 1.25e9 }
    }
}

/// A number that people would call whole, however it is written; where there is none, its name for a type of this program says nothing.
fn whole<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let number = serde_json::Number::deserialize(from)?;
    let as_float = || number.as_f64().filter(|number| number.fract() == 0.0 && (0.0..=WHOLE_MAX).contains(number));
    let whole = number.as_u64().or_else(|| as_float().map(|number| number as u64));
    whole.ok_or_else(|| D::Error::custom(format!("{number} is no whole number from 0 to {}", u64::MAX)))
}

fn notice() -> f64 {
    30.0
}

/// Reads a manifest file's bytes.
pub fn read(bytes: &[u8]) -> Result<Departure, ManifestError> {
    if bytes.len() > limits::MANIFEST_LEN_BYTES_MAX {
        return Err(ManifestError::TooLong { len_bytes: bytes.len() });
    }
    let file: File = serde_json::from_slice(bytes)?;
    if file.xfer_manifest != VERSION {
        return Err(ManifestError::Version { found: file.xfer_manifest });
    }
    departure_of(file)
}

fn departure_of(file: File) -> Result<Departure, ManifestError> {
    let places: BTreeMap<&str, usize> =
        file.items.iter().enumerate().map(|(place, entry)| (entry.name.as_str(), place)).collect();
    let mut assets = Vec::with_capacity(file.items.len());
    for entry in &file.items {
        let class = ItemClass::ALL.into_iter().find(|class| class.name() == entry.kind);
        let class = class.ok_or_else(|| ManifestError::Kind {
            item: entry.name.clone(),
            kind: entry.kind.clone(),
            known: ItemClass::ALL.map(ItemClass::name).join(", "),
        })?;
        assets.push(Asset {
            name: entry.name.clone(),
            class,
            bytes: entry.bytes,
            version: entry.version,
            holders: if entry.holders.is_empty() {
                file.leaving.iter().take(1).copied().collect()
            } else {
                entry.holders.clone()
            },
            target: entry.target,
            needs: named(entry, &entry.needs, &places)?,
        });
    }
    let departure = Departure {
        assets,
        handling: file.handling.handling(),
        memory_bytes: memory(&file.memory_bytes)?,
        operations: operations(&file, &places)?,
        leaving: file.leaving,
        progress: progress(&file.step),
        window: window(file.notice_s, &file.link_bytes_per_s)?,
    };
    Ok(departure.check()?)
}

/// A running hand-over, as far as its items don't say it.
#[derive(Debug, Clone, PartialEq)]
pub struct Live {
    /// The rank that leaves.
    pub leaving: u32,
    /// How long it has, in seconds.
    pub notice_s: f64,
    /// What its links carry, from the low to the high end, in bytes per second.
    pub rate: (f64, f64),
    /// The training around it.
    pub progress: Progress,
    /// What was measured of handing over.
    pub handling: Handling,
    /// What ranks have room for, in bytes, where that is known.
    pub memory_bytes: Vec<(u32, u64)>,
}

/// Something that a running hand-over doesn't offer yet, and may.
#[derive(Debug, Clone, PartialEq)]
pub struct Prospect {
    /// What it will be called.
    pub name: String,
    /// What kind of thing it is.
    pub class: ItemClass,
    /// Its length in bytes.
    pub bytes: u64,
    /// The rank that takes it over.
    pub target: u32,
    /// What makes it again makes all of its group; empty for it alone.
    pub group: String,
    /// How long that takes, in seconds; none if nothing does.
    pub recompute_s: Option<f64>,
    /// The items that it is made from, by name.
    pub recompute_from: Vec<String>,
}

/// What a running hand-over would be with `prospects` offered, too.
pub fn departure(
    manifest: &Manifest,
    live: &Live,
    group: impl Fn(GroupId) -> String,
    prospects: Vec<Prospect>,
) -> Result<Departure, ManifestError> {
    let mut file = file(manifest, live, group);
    file.items.extend(prospects.into_iter().map(|prospect| Entry {
        name: prospect.name,
        kind: prospect.class.name().to_owned(),
        bytes: prospect.bytes,
        version: 0,
        target: prospect.target,
        holders: vec![live.leaving],
        group: prospect.group,
        recompute_s: prospect.recompute_s,
        recompute_from: prospect.recompute_from,
        needs: Vec::new(),
    }));
    departure_of(file)
}

/// The file for what a running hand-over offers. Groups are called as `group` says.
pub fn write(manifest: &Manifest, live: &Live, group: impl Fn(GroupId) -> String) -> String {
    // Strings and finite numbers only: there is nothing in it that could not be written.
    serde_json::to_string_pretty(&file(manifest, live, group)).unwrap_or_default()
}

fn file(manifest: &Manifest, live: &Live, group: impl Fn(GroupId) -> String) -> File {
    let leaving = live.leaving;
    let name = |id: &ItemId| manifest.get(*id).map_or_else(|| id.to_string(), |item| item.name.to_string());
    let entry = |item: &Item| Entry {
        name: item.name.to_string(),
        kind: item.class.name().to_owned(),
        bytes: item.bytes,
        version: item.version,
        target: item.target,
        holders: match item.cost {
            RecomputeCost::Fetch { from } => vec![leaving, from],
            _ => vec![leaving],
        },
        group: if item.group == GroupId::ALONE { String::new() } else { group(item.group) },
        recompute_s: match &item.cost {
            RecomputeCost::Compute { time, .. } => Some(time.as_secs_f64()),
            _ => None,
        },
        recompute_from: item.cost.inputs().iter().map(name).collect(),
        needs: Vec::new(),
    };
    File {
        xfer_manifest: VERSION,
        leaving: vec![leaving],
        notice_s: live.notice_s.min(limits::TIME_S_MAX),
        link_bytes_per_s: Rate { low: live.rate.0, high: live.rate.1 },
        step: Step {
            done_s: live.progress.step_done_s,
            left_s: live.progress.step_left_s,
            slowdown: Some(live.progress.slowdown),
            rollback_s: Some(live.progress.rollback_s),
            reload_s: Some(live.progress.reload_s),
            redo: Some(live.progress.redo),
        },
        handling: Costs::of(live.handling),
        memory_bytes: live.memory_bytes.iter().map(|(rank, bytes)| (*rank, *bytes as f64)).collect(),
        items: manifest.items().iter().map(entry).collect(),
    }
}

impl Costs {
    fn of(handling: Handling) -> Self {
        let Handling { digest_bytes_per_s, commit_s, meanwhile_s, after_s, stop_meanwhile_s, stop_after_s, describe_s } =
            handling;
        Self { digest_bytes_per_s, commit_s, meanwhile_s, after_s, stop_meanwhile_s, stop_after_s, describe_s }
    }

    fn handling(&self) -> Handling {
        let Self { digest_bytes_per_s, commit_s, meanwhile_s, after_s, stop_meanwhile_s, stop_after_s, describe_s } =
            *self;
        Handling { digest_bytes_per_s, commit_s, meanwhile_s, after_s, stop_meanwhile_s, stop_after_s, describe_s }
    }
}

fn progress(step: &Step) -> Progress {
    Progress {
        step_done_s: step.done_s,
        step_left_s: step.left_s,
        slowdown: step.slowdown.unwrap_or(1.0),
        rollback_s: step.rollback_s.unwrap_or(900.0),
        reload_s: step.reload_s.unwrap_or(60.0),
        redo: step.redo.unwrap_or(true),
    }
}

/// Bytes may be written as 40e9.
fn memory(memory_bytes: &BTreeMap<u32, f64>) -> Result<Vec<(u32, u64)>, DepartureError> {
    let room = |(rank, bytes): (&u32, &f64)| match *bytes {
        bytes if bytes.is_finite() && bytes >= 0.0 => Ok((*rank, bytes as u64)),
        value => {
            let (what, range) = (format!("the memory of rank {rank}"), "a number of bytes, 0 or more".to_owned());
            Err(DepartureError::Outside { what, value, range })
        }
    };
    memory_bytes.iter().map(room).collect()
}

/// The interval's ends are taken as the lowest and the highest tenth of what may be.
fn window(notice_s: f64, rate: &Rate) -> Result<Window, DepartureError> {
    for (end, value, least) in [("low", rate.low, 0.0), ("high", rate.high, rate.low)] {
        if !(least..=limits::RATE_MAX).contains(&value) {
            let range = format!("a number of bytes a second from {least} to {}", figure(limits::RATE_MAX));
            return Err(DepartureError::Outside { what: format!("the {end} end of the link's rate"), value, range });
        }
    }
    let known = rate.low > 0.0;
    let spread = if known { (rate.high / rate.low).ln() / (2.0 * 1.2816) } else { 0.0 };
    let bytes_per_s = if known { (rate.low * rate.high).sqrt() } else { 0.0 };
    Ok(Window {
        notice_s,
        detect_s: 0.0,
        reserve_s: 0.25,
        link: LinkEstimate { bytes_per_s, spread },
        law: KillLaw::AtDeadline,
        computing: Computing::After,
    })
}

/// One operation for each group, and one for each item that stands alone.
fn operations(file: &File, places: &BTreeMap<&str, usize>) -> Result<Vec<Operation>, ManifestError> {
    let mut operations: Vec<Operation> = Vec::new();
    let mut of_group: BTreeMap<&str, usize> = BTreeMap::new();
    for (place, entry) in file.items.iter().enumerate() {
        let Some(time_s) = entry.recompute_s else {
            if entry.recompute_from.is_empty() {
                continue;
            }
            return Err(ManifestError::NoTime { item: entry.name.clone() });
        };
        let new = operations.len();
        let at = if entry.group.is_empty() { new } else { *of_group.entry(&entry.group).or_insert(new) };
        if at == new {
            let name = if entry.group.is_empty() { &entry.name } else { &entry.group };
            operations.push(Operation { name: name.clone(), time_s: 0.0, outputs: Vec::new(), inputs: Vec::new() });
        }
        if !(time_s.is_finite() && time_s >= 0.0) {
            return Err(
                DepartureError::Number { what: format!("recompute_s of `{}`", entry.name), value: time_s }.into()
            );
        }
        let inputs = named(entry, &entry.recompute_from, places)?;
        if inputs.contains(&place) {
            return Err(DepartureError::Cycle { name: entry.name.clone() }.into());
        }
        let operation = &mut operations[at];
        operation.time_s += time_s;
        operation.outputs.push(place);
        operation.inputs.extend(inputs);
    }
    for operation in &mut operations {
        let unique: BTreeSet<usize> = operation.inputs.drain(..).collect();
        // What one forward makes along the way isn't what it starts from.
        operation.inputs = unique.into_iter().filter(|input| !operation.outputs.contains(input)).collect();
    }
    Ok(operations)
}

fn named(entry: &Entry, names: &[String], places: &BTreeMap<&str, usize>) -> Result<Vec<usize>, DepartureError> {
    let place = |name: &String| {
        let what = || format!("item `{}`", entry.name);
        let unknown = || DepartureError::Unknown { what: what(), input: format!("`{name}`") };
        places.get(name.as_str()).copied().ok_or_else(unknown)
    };
    names.iter().map(place).collect()
}
