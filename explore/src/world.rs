//! One moment of a job: processes, what is on its way between them, memory, and the store.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use xfer_migrate_core::session::{SourceConfig, SourceSession, SourceState, TargetSession, TargetState};
use xfer_migrate_core::store::Version;
use xfer_migrate_core::{
    GenerationKind, GenerationRecord, GroupId, Item, ItemClass, ItemId, Message, PlanPolicy, RecomputeCost, Seal,
};
use xfer_transport_core::landed::Landed;
use xfer_transport_core::{Deadline, PeerId, RateInterval, RegionId, Time};

use crate::fingerprint::Printed;
use crate::setting::{Budget, Setting, TIME_LEFT};
use crate::store::Store;

/// The generation that is true when a search begins.
pub const BASE: u64 = 7;

/// The ranks that may leave.
pub const SOURCES: [u32; 2] = [1, 2];

/// The ranks that take over.
pub const TARGETS: [u32; 2] = [0, 3];

/// What a source says at the cut.
pub const RECORD: &[u8] = b"step 41";

/// All of it. Parts are shared with the states that came before, until they change.
#[derive(Debug, Clone, Hash)]
pub struct World {
    /// The one clock that all processes read, each as late as it likes.
    pub now: Time,
    pub sources: Vec<Arc<Source>>,
    pub targets: [Target; 2],
    /// Source by target: first all of the first source.
    pub pairs: Vec<Arc<Pair>>,
    pub store: Printed<Store>,
    /// What may still go wrong.
    pub may: Budget,
}

/// A process that leaves.
#[derive(Debug, Clone, Hash)]
pub struct Source {
    pub alive: bool,
    pub session: Printed<SourceSession>,
    pub attempt: u32,
    /// Who takes over in this attempt.
    pub heirs: Vec<u32>,
    /// Its training has stopped for good in this attempt.
    pub has_cut: bool,
    /// Items whose write is under way, and whether it was cancelled.
    pub writes: BTreeMap<ItemId, bool>,
    pub jobs: VecDeque<Job>,
    /// The latest generation that it has heard of.
    pub known: u64,
    /// How its session ended.
    pub end: Option<Printed<GenerationRecord>>,
}

/// A process that takes over. What it does for each source is in its [`Pair`].
#[derive(Debug, Clone, Copy, Hash)]
pub struct Target {
    pub alive: bool,
    /// It was told to leave, too.
    pub leaving: bool,
    /// The latest generation that it has heard of.
    pub known: u64,
    /// Nothing from the other target arrives any more.
    pub apart: bool,
    /// It was told that the other target is gone.
    pub told: bool,
}

/// A source and a target: what is between them, and the target's side of the hand-over.
#[derive(Debug, Clone, Default, Hash)]
pub struct Pair {
    pub session: Option<Printed<TargetSession>>,
    pub to_target: Way,
    pub to_source: Way,
    /// Jobs of the target's memory worker, oldest first.
    pub work: VecDeque<Work>,
    pub jobs: VecDeque<Job>,
    /// It waits for the other target's seal.
    pub watching: bool,
    pub memory: BTreeMap<ItemId, Content>,
    /// What an earlier attempt has left at the target.
    pub kept: BTreeMap<ItemId, Content>,
    /// How many bytes of each item that is not written yet were there when its memory was granted.
    pub there: BTreeMap<ItemId, u64>,
    pub fenced: bool,
    /// What it has sealed.
    pub seal: Option<Printed<Seal>>,
    pub end: Option<Printed<GenerationRecord>>,
}

/// One direction between two processes. What is lost is lost with everything behind it.
#[derive(Debug, Clone, Default, Hash)]
pub struct Way {
    pub messages: VecDeque<Printed<Message>>,
    /// Nothing that is sent from now on arrives.
    pub lost: bool,
    /// The one who receives on it was told that the other is gone.
    pub told: bool,
}

/// What is in memory that was granted for one item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Content {
    /// Nothing was written yet.
    Empty,
    /// Some of the item's bytes.
    Torn,
    /// As many bytes as the item has, not all of them its own.
    Damaged,
    /// The item.
    Whole,
}

/// What a target's memory worker does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Work {
    Allocate(Vec<(ItemId, u64)>),
    Verify(ItemId, u32),
    Fence,
}

/// What a process asks of the store.
#[derive(Debug, Clone, Hash)]
pub struct Job {
    pub ask: Ask,
    /// Tells it from the other swaps of the process.
    pub sequence: u64,
    /// Whether it was asked before, and not answered.
    pub again: bool,
}

/// One request.
#[derive(Debug, Clone, Hash)]
pub enum Ask {
    Publish {
        key: String,
        seal: Printed<Seal>,
    },
    /// To propose, one reads first, and then swaps what was read.
    Propose {
        record: Printed<GenerationRecord>,
        read: Option<Version>,
    },
}

impl World {
    /// The moment in which all sources have been told to leave, and have offered what they have.
    pub fn new(setting: &Setting) -> Self {
        let base = base();
        let sources = SOURCES[..setting.sources].iter().map(|rank| {
            let session = begin(setting, *rank, Time::ZERO, 0, (base.clone(), &TARGETS));
            Arc::new(Source {
                alive: true,
                session: Printed::new(session),
                attempt: 0,
                heirs: TARGETS.to_vec(),
                has_cut: false,
                writes: BTreeMap::new(),
                jobs: VecDeque::new(),
                known: BASE,
                end: None,
            })
        });
        let target = Target { alive: true, leaving: false, known: BASE, apart: false, told: false };
        Self {
            now: Time::ZERO,
            sources: sources.collect(),
            targets: [target; 2],
            pairs: (0..setting.sources * 2).map(|_| Arc::default()).collect(),
            store: Printed::new(Store::new(base)),
            may: setting.may,
        }
    }

    /// What is between a source and a target, by their places.
    pub fn pair(&self, source: usize, target: usize) -> &Pair {
        &self.pairs[source * 2 + target]
    }

    pub(crate) fn pair_mut(&mut self, source: usize, target: usize) -> &mut Pair {
        Arc::make_mut(&mut self.pairs[source * 2 + target])
    }

    pub(crate) fn source_mut(&mut self, source: usize) -> &mut Source {
        Arc::make_mut(&mut self.sources[source])
    }

    /// The places of all pairs.
    pub fn places(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        (0..self.pairs.len()).map(|at| (at / 2, at % 2))
    }
}

impl Source {
    /// Whether it takes in what its targets say.
    pub fn is_listening(&self) -> bool {
        use SourceState::*;
        self.alive && matches!(self.session.state(), Offered | Streaming | Cut | Finished)
    }

    /// When its session wants to be woken.
    pub fn due(&self) -> Option<Time> {
        (self.alive && !self.session.state().is_over()).then(|| self.session.poll_timeout()).flatten()
    }
}

impl Pair {
    /// The target's state in this hand-over, if it has begun there.
    pub fn state(&self) -> Option<TargetState> {
        self.session.as_ref().map(|session| session.state())
    }

    /// Whether the target takes in what the source says.
    pub fn is_listening(&self) -> bool {
        use TargetState::*;
        matches!(self.state(), None | Some(Idle | Receiving | Cut))
    }

    /// When the target's session wants to be woken.
    pub fn due(&self) -> Option<Time> {
        self.session.as_ref().filter(|session| !session.state().is_over())?.poll_timeout()
    }
}

/// A session of the process of `rank`, which offers all that it has to `heirs`.
pub fn begin(
    setting: &Setting,
    rank: u32,
    now: Time,
    attempt: u32,
    (base, heirs): (GenerationRecord, &[u32]),
) -> SourceSession {
    use xfer_migrate_core::session::Input;

    let config = SourceConfig {
        source: peer(rank),
        attempt,
        targets: heirs.to_vec(),
        owners_after: owners_after(&base, rank, heirs),
        base,
        deadline: Deadline::after(now, TIME_LEFT),
        rate: RateInterval { low: 1 << 20, high: 1 << 20 },
        reserve: Duration::from_millis(500),
        policy: PlanPolicy::ShipAll,
    };
    let mut session = SourceSession::new(now, config).expect("the configuration is sound");
    session.handle(now, Input::Items(items(setting, rank, heirs))).expect("its items make a manifest");
    session
}

pub fn peer(rank: u32) -> PeerId {
    PeerId { rank, incarnation: 1 }
}

/// Every target owns a shard, and every source two: one for each target.
fn base() -> GenerationRecord {
    let mut owners: Vec<(String, u32)> = TARGETS.iter().map(|rank| (format!("{rank}"), *rank)).collect();
    for source in SOURCES {
        owners.extend(TARGETS.iter().map(|target| (format!("{source} for {target}"), source)));
    }
    GenerationRecord { generation: BASE, base: BASE, ..GenerationRecord::initial(owners) }
}

/// The one for whom something is, or who takes it over in his place.
fn heir(target: u32, heirs: &[u32]) -> u32 {
    heirs.iter().copied().find(|heir| *heir == target).unwrap_or(heirs[0])
}

fn owners_after(base: &GenerationRecord, leaves: u32, heirs: &[u32]) -> Vec<(String, u32)> {
    let meant = |shard: &str| TARGETS.into_iter().find(|target| shard == format!("{leaves} for {target}"));
    let heir = |shard: &str| meant(shard).map(|target| heir(target, heirs));
    base.owners.iter().map(|(shard, owner)| (shard.clone(), heir(shard).unwrap_or(*owner))).collect()
}

/// One item for each target that only the bytes can bring; and one that can be computed from the other target's.
fn items(setting: &Setting, source: u32, heirs: &[u32]) -> Vec<Item> {
    let id = |place: u64| ItemId(u64::from(source) * 10 + place);
    let item = |place: u64, target: u32, cost| Item {
        id: id(place),
        name: format!("{source}.{place}").into(),
        class: ItemClass::Parameter,
        bytes: 100 * place,
        version: 41,
        target: heir(target, heirs),
        group: GroupId::ALONE,
        cost,
    };
    let lost = RecomputeCost::Irreplaceable;
    let mut items = vec![item(1, TARGETS[0], lost.clone()), item(2, TARGETS[1], lost)];
    if setting.recomputable {
        let again = RecomputeCost::Compute { time: Duration::from_millis(5), from: vec![id(1)] };
        items.push(item(3, TARGETS[1], again));
    }
    items
}

/// What an item's bytes at its source have for a digest.
pub fn content_of(item: ItemId) -> u32 {
    (item.0 as u32).wrapping_mul(0x9e37_79b9)
}

/// The same of its first half.
fn half_of(item: ItemId) -> u32 {
    content_of(item).rotate_left(9)
}

/// What a target knows to have landed of an item of `bytes` bytes: of what was torn, the first half.
pub fn known(content: Content, item: ItemId, bytes: u64) -> Landed {
    let mut landed = Landed::default();
    match content {
        Content::Empty => {}
        Content::Torn => landed.insert(0..bytes / 2, half_of(item)),
        Content::Damaged => landed.insert(0..bytes, !content_of(item)),
        Content::Whole => landed.insert(0..bytes, content_of(item)),
    }
    landed
}

/// What of `kept` has the checksums that an item's own bytes have.
pub fn matching(item: ItemId, bytes: u64, kept: &Landed) -> Landed {
    let own = [(0..bytes, content_of(item)), (0..bytes / 2, half_of(item))];
    let mut there = Landed::default();
    let right = kept.ranges().filter(|range| own.contains(range));
    right.for_each(|(range, crc32c)| there.insert(range, crc32c));
    there
}

/// The grant of an item; each attempt gets memory of its own.
pub fn region_of(item: ItemId, attempt: u32) -> RegionId {
    RegionId(item.0 + 1000 * u64::from(attempt))
}

/// The rank of a source that is not looked at itself, and owns nothing here but what [`base`] gives the second source.
pub const STRANGER: u32 = SOURCES[1];

/// The generation by which another migration overtakes all others on `base`.
pub fn strangers(base: &GenerationRecord, kind: GenerationKind) -> GenerationRecord {
    let owners = match kind {
        GenerationKind::Withdrawn => base.owners.clone(),
        _ => owners_after(base, STRANGER, &TARGETS),
    };
    GenerationRecord {
        generation: base.generation + 1,
        base: base.generation,
        kind,
        source: Some(peer(STRANGER)),
        ..GenerationRecord::initial(owners)
    }
}
