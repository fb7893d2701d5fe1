//! `xfer status`: who owns what, who takes part, and who is told to leave.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use xfer::store::records::{DrainOrder, GENERATION_KEY, NOTICE_PREFIX, PEER_PREFIX, PeerClaim};
use xfer::store::{Store, Versioned};
use xfer_migrate_core::{DecodeError, GenerationRecord};

use crate::StoreOption;
use crate::failure::Failure;
use crate::output::{print, print_json, span, table};

/// Options of `xfer status`.
#[derive(Args)]
pub(crate) struct Options {
    /// Writes JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    store: StoreOption,
}

pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let store = crate::connect(&options.store.config()?)?;
    let status = Status::read(&store)?;
    match options.json {
        true => print_json(&status.document(store.address())),
        false => print(&status.text(store.address())),
    }
    match status.unreadable.first() {
        None => Ok(()),
        Some(unreadable) => Err(Failure::partial(format!("{unreadable}; another version of xfer wrote it"))),
    }
}

/// What the store says of the job.
struct Status {
    generation: Option<(GenerationRecord, Duration)>,
    peers: BTreeMap<u32, (PeerClaim, Duration)>,
    orders: BTreeMap<u32, (DrainOrder, Duration)>,
    /// What is there and can't be read.
    unreadable: Vec<String>,
}

impl Status {
    fn read(store: &dyn Store) -> Result<Self, Failure> {
        let mut unreadable = Vec::new();
        let found = store.get(GENERATION_KEY)?;
        let generation =
            found.and_then(|found| understood(GENERATION_KEY, &found, GenerationRecord::decode, &mut unreadable));
        let peers = of_ranks(store.list(PEER_PREFIX)?, PEER_PREFIX, PeerClaim::decode, &mut unreadable);
        let mut orders = of_ranks(store.list(NOTICE_PREFIX)?, NOTICE_PREFIX, DrainOrder::decode, &mut unreadable);
        // An order that was taken back, or was for an earlier life, concerns nobody any more.
        orders.retain(|rank, (order, _)| {
            let incarnation = peers.get(rank).map(|(claim, _)| claim.incarnation);
            order.left.is_some() && incarnation == Some(order.incarnation)
        });
        Ok(Self { generation, peers, orders, unreadable })
    }

    fn text(&self, address: &str) -> String {
        let mut text = format!("store {address}\n");
        match &self.generation {
            Some((record, age)) => {
                text.push_str(&format!("generation {}: {}\n", record.generation, what_happened(record, *age)));
                let owners: Vec<[String; 2]> =
                    by_rank(record).into_iter().map(|(rank, shards)| [rank.to_string(), shards.join(" ")]).collect();
                text.push_str(&format!("\n{}", table(["rank", "owns"], &owners)));
            }
            None => text.push_str("no generation yet\n"),
        }
        let peers: Vec<[String; 5]> = self
            .peers
            .iter()
            .map(|(rank, (claim, age))| {
                let life = claim.incarnation.to_string();
                [rank.to_string(), life, claim.host.clone(), claim.pid.to_string(), format!("{} ago", span(*age))]
            })
            .collect();
        if !peers.is_empty() {
            text.push_str(&format!("\n{}", table(["rank", "life", "host", "pid", "claimed"], &peers)));
        }
        let orders: Vec<[String; 3]> = self
            .orders
            .iter()
            .map(|(rank, (order, age))| [rank.to_string(), span(left(order, *age)), order.reason.clone()])
            .collect();
        if !orders.is_empty() {
            text.push_str(&format!("\n{}", table(["rank", "told to leave within", "reason"], &orders)));
        }
        text
    }

    fn document(&self, address: &str) -> Value {
        let peers: Vec<Value> = self
            .peers
            .iter()
            .map(|(rank, (claim, age))| {
                json!({
                    "rank": rank,
                    "incarnation": claim.incarnation,
                    "host": claim.host,
                    "pid": claim.pid,
                    "reachable": !claim.ticket.is_empty(),
                    "age_s": age.as_secs_f64(),
                })
            })
            .collect();
        let orders: Vec<Value> = self
            .orders
            .iter()
            .map(|(rank, (order, age))| {
                json!({ "rank": rank, "left_s": left(order, *age).as_secs_f64(), "reason": order.reason })
            })
            .collect();
        json!({
            "store": address,
            "generation": self.generation.as_ref().map(|(record, age)| generation_document(record, *age)),
            "peers": peers,
            "notices": orders,
            "unreadable": self.unreadable,
        })
    }
}

fn generation_document(record: &GenerationRecord, age: Duration) -> Value {
    let owners: BTreeMap<&str, u32> = record.owners.iter().map(|(shard, rank)| (shard.as_str(), *rank)).collect();
    json!({
        "generation": record.generation,
        "base": record.base,
        "kind": record.kind.name(),
        "source": record.source.map(|source| json!({ "rank": source.rank, "incarnation": source.incarnation })),
        "owners": owners,
        "landed": record.landed.len(),
        "recompute": record.recompute.len(),
        "missing": record.missing,
        "reason": record.reason,
        "age_s": age.as_secs_f64(),
    })
}

/// `handoff of rank 1 (life 1), 12 landed, 3 to be computed again, 4.2 s ago`
fn what_happened(record: &GenerationRecord, age: Duration) -> String {
    let mut parts = vec![match record.source {
        Some(source) => format!("{} of {source}", record.kind),
        None => record.kind.to_string(),
    }];
    for (count, of_them) in [
        (record.landed.len(), "landed"),
        (record.recompute.len(), "to be computed again"),
        (record.missing.len(), "lost"),
    ] {
        if count > 0 {
            parts.push(format!("{count} {of_them}"));
        }
    }
    if !record.reason.is_empty() {
        parts.push(record.reason.clone());
    }
    parts.push(format!("{} ago", span(age)));
    crate::output::printable(&parts.join(", "))
}

fn by_rank(record: &GenerationRecord) -> BTreeMap<u32, Vec<&str>> {
    let mut shards: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
    for (shard, rank) in &record.owners {
        shards.entry(*rank).or_default().push(shard);
    }
    shards
}

fn left(order: &DrainOrder, age: Duration) -> Duration {
    order.left.unwrap_or_default().saturating_sub(age)
}

/// The records under a prefix, by the rank that ends their keys.
fn of_ranks<T>(
    listed: Vec<(String, Versioned)>,
    prefix: &str,
    decode: impl Fn(&[u8]) -> Result<T, DecodeError>,
    unreadable: &mut Vec<String>,
) -> BTreeMap<u32, (T, Duration)> {
    let records = listed.into_iter().filter_map(|(key, found)| {
        let rank = key.strip_prefix(prefix)?.parse().ok()?;
        Some((rank, understood(&key, &found, &decode, unreadable)?))
    });
    records.collect()
}

fn understood<T>(
    key: &str,
    found: &Versioned,
    decode: impl Fn(&[u8]) -> Result<T, DecodeError>,
    unreadable: &mut Vec<String>,
) -> Option<(T, Duration)> {
    match decode(&found.value) {
        Ok(record) => Some((record, found.age)),
        Err(error) => {
            unreadable.push(format!("`{key}` can't be read: {error}"));
            None
        }
    }
}
