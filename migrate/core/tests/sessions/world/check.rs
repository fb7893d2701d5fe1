//! What must hold in every world, whatever goes wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use xfer_migrate_core::seal::{Leaf, root};
use xfer_migrate_core::session::{Event, Output, SourceState, TargetState};
use xfer_migrate_core::{Body, GenerationKind, GenerationRecord, ItemId, RecomputeCost, limits};
use xfer_transport_core::{Deadline, Time};

use super::network::content_of;
use super::{BASE, LEFT, RIGHT, SOURCE, Session, World, base};

const TARGETS: [u32; 2] = [LEFT.rank, RIGHT.rank];

impl World {
    pub(super) fn check_output(&self, rank: u32, output: &Output) {
        match output {
            Output::Send { message, .. } if matches!(message.body, Body::Landed { .. }) => {
                let Body::Landed { item, .. } = message.body else { return };
                assert!(self.store.seal(rank).is_none(), "item {item} landed at rank {rank} after its seal");
                let content = self.content_at(rank, item);
                assert_eq!(content, Some(content_of(item)), "item {item} landed at rank {rank} with other bytes");
            }
            Output::Write { .. } => {
                let deadline = self.source().deadline();
                assert!(!deadline.has_passed(self.now), "a write begins after the deadline");
            }
            Output::PublishSeal { seal, .. } => {
                assert!(self.is_fenced(rank), "rank {rank} seals memory that can still be written");
                let known = self.target(rank).map(|session| session.manifest()).expect("it seals");
                let leaf = |id: &ItemId| {
                    let item = known.get(*id).expect("it was offered");
                    let crc32c = self.content_at(rank, *id).expect("it has memory");
                    Leaf { id: *id, version: item.version, bytes: item.bytes, crc32c }
                };
                assert_eq!(seal.root, root(&seal.landed.iter().map(leaf).collect::<Vec<_>>()), "rank {rank}");
            }
            Output::Propose { record } if rank != SOURCE.rank => self.check_proposal(rank, record),
            _ => {}
        }
    }

    /// A target decides once all have sealed, or once there is nothing to wait for.
    fn check_proposal(&self, rank: u32, record: &GenerationRecord) {
        let all_sealed = TARGETS.iter().all(|target| self.store.seal(*target).is_some());
        let deadline = self.target(rank).expect("it proposes").deadline().0;
        let waited = self.now >= deadline.after(limits::SEAL_GRACE);
        let source_gone = self.deaths.get(&SOURCE.rank).into_iter().chain(self.believed.get(&rank)).min();
        let alone = source_gone.is_some_and(|at| self.now >= at.after(limits::SOURCE_GONE_GRACE));
        let target_died = TARGETS.iter().any(|target| self.deaths.contains_key(target));
        let lost = target_died && (source_gone.is_some() || Deadline(deadline).has_passed(self.now));
        assert!(all_sealed || waited || alone || lost, "rank {rank} proposes {} too early", record.kind);
    }

    pub(super) fn check_event(&self, rank: u32, event: &Event) {
        if let Event::Committed { record } | Event::Restored { record } | Event::Withdrawn { record } = event {
            assert_eq!(record, &self.store.generation, "rank {rank} obeys another record than the store's");
        }
        if let Event::Committed { record } = event {
            assert_eq!(record.kind, GenerationKind::Handoff);
        }
    }

    /// A hand-off counts only on bytes that are there, and on what follows from them.
    pub(super) fn check_decision(&self, record: &GenerationRecord) {
        assert_eq!((record.base, record.generation), (BASE, BASE + 1));
        assert_eq!((record.source, record.attempt), (Some(SOURCE), 0));
        if record.kind == GenerationKind::Withdrawn {
            assert_eq!(record.owners, base().owners);
        } else {
            let owners = record.owners.iter().map(|(_, rank)| *rank);
            assert!(owners.into_iter().all(|rank| TARGETS.contains(&rank)), "the source owns what it left");
        }
        if record.kind != GenerationKind::Handoff {
            return;
        }
        assert_eq!(record.missing, Vec::<String>::new());
        let manifest = self.source().manifest();
        let mut there: BTreeSet<ItemId> = BTreeSet::new();
        for id in &record.landed {
            let target = manifest.get(*id).expect("it was offered").target;
            assert_eq!(self.content_at(target, *id), Some(content_of(*id)), "item {id} is counted on and is not there");
            there.insert(*id);
        }
        for id in &record.recompute {
            let item = manifest.get(*id).expect("it was offered");
            let RecomputeCost::Compute { from, .. } = &item.cost else { panic!("`{}` can't be computed", item.name) };
            assert!(from.iter().all(|input| there.contains(input)), "`{}` comes before its inputs", item.name);
            there.insert(*id);
        }
        let all: BTreeSet<ItemId> = manifest.items().iter().map(|item| item.id).collect();
        assert_eq!(there, all, "a hand-off covers everything");
        let roots: BTreeMap<u32, _> = record.roots.iter().copied().collect();
        for rank in TARGETS {
            assert_eq!(roots.get(&rank), self.store.seal(rank).map(|seal| &seal.root), "the root of rank {rank}");
        }
    }

    /// Whoever lives has ended, in time, and nothing is left that a peer could write to.
    pub(super) fn check_end(&self) {
        for rank in self.alive() {
            match self.session(rank) {
                Some(Session::Source(session)) => {
                    let state = session.state();
                    assert!(state.is_over() || state == SourceState::Failed, "the source rests in {}", state.name());
                }
                Some(Session::Target(session)) => {
                    let state = session.state();
                    assert!(state.is_over() || state == TargetState::Failed, "rank {rank} rests in {}", state.name());
                    assert!(self.is_fenced(rank), "rank {rank} ended with memory that can be written");
                }
                None => {}
            }
        }
        assert!(self.writes.is_empty(), "writes are under way at the end");
        let bound = limits::GENERATION_GRACE + limits::PROPOSAL_TIMEOUT + Duration::from_secs(1);
        let last: Time = self.deadline.after(bound);
        assert!(self.now <= last, "it took until {} with a deadline at {}", self.now, self.deadline);
    }
}
