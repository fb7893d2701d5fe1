//! Tests of the path: two ends over links that lose, damage and delay.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::inbound::{Begin, Claim, Inbound};
use crate::integrity::crc32c;
use crate::limits::{CHUNK_ATTEMPTS_MAX, FENCE_TIMEOUT, lane_window_bytes};
use crate::outbound::TRANSITIONS;
use crate::schedule::Windows;
use crate::{Deadline, RegionId};

const CHUNK_BYTES: u32 = CHUNK_BYTES_MIN;
const REGION: RegionId = RegionId(1);
const BASE: u64 = 12_345;

/// A window of three chunks and a bit, so that it is reached all the time.
const WINDOW_BYTES: u64 = 3 * CHUNK_BYTES as u64 + 100;

fn path() -> Path {
    Path::new(PathConfig { chunk_bytes: CHUNK_BYTES, windows: Windows { bytes: [WINDOW_BYTES; 4] } })
}

fn request(lane: Lane, len_bytes: u64) -> Request {
    Request { lane, region: REGION, offset: BASE, len_bytes, deadline: None, order: 0 }
}

fn ms(ms: u64) -> Time {
    Time::from_nanos(ms * 1_000_000)
}

fn claim_of(chunk: &Chunk) -> Claim {
    let Chunk { transfer, offset, len_bytes, attempt, .. } = *chunk;
    Claim { transfer, offset, len_bytes, attempt }
}

/// The bytes of a chunk; another transfer's are others.
fn bytes_of(chunk: &Chunk) -> Vec<u8> {
    let place = |at: u64| (chunk.transfer.0 * 131 + (chunk.source_offset + at) / 7) as u8;
    (0..u64::from(chunk.len_bytes)).map(place).collect()
}

#[derive(Debug, Clone)]
enum Wire {
    Data { chunk: Chunk, damaged: bool },
    Message(Numbered),
    Report(Received),
}

/// What lies at the destination of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Somebody is writing it, or was.
    Torn,
    Whole,
}

/// A sender, a receiver, and the links between them.
struct World {
    now: Time,
    egress: Egress,
    sender: Path,
    receiver: Path,
    inbound: Inbound,
    next_link: u32,
    /// Links by who still believes in them, and what is on them, there and back.
    at_sender: BTreeMap<LinkId, VecDeque<Wire>>,
    at_receiver: BTreeMap<LinkId, VecDeque<Wire>>,
    /// What each link is writing.
    landing: BTreeMap<LinkId, (Chunk, bool)>,
    places: HashMap<(TransferId, u64), Place>,
    written: BTreeMap<TransferId, Request>,
    ended: BTreeMap<TransferId, End>,
    /// Transfers of which nothing may be written any more.
    fenced: BTreeSet<TransferId>,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            now: Time::ZERO,
            egress: Egress::default(),
            sender: path(),
            receiver: path(),
            inbound: Inbound::default(),
            next_link: 0,
            at_sender: BTreeMap::new(),
            at_receiver: BTreeMap::new(),
            landing: BTreeMap::new(),
            places: HashMap::new(),
            written: BTreeMap::new(),
            ended: BTreeMap::new(),
            fenced: BTreeSet::new(),
        };
        for role in [LinkRole::Control, LinkRole::Data, LinkRole::Data] {
            world.add_link(role);
        }
        world
    }

    fn add_link(&mut self, role: LinkRole) {
        let link = LinkId(self.next_link);
        self.next_link += 1;
        self.sender.add_link(link, BackendId::Sim, role);
        self.receiver.add_link(link, BackendId::Sim, role);
        self.at_sender.insert(link, VecDeque::new());
        self.at_receiver.insert(link, VecDeque::new());
    }

    fn write(&mut self, request: Request) -> TransferId {
        let id = self.sender.write(request, self.now).expect("below the limit");
        self.written.insert(id, request);
        id
    }

    /// The sender puts its next frame on `link`.
    fn post(&mut self, link: LinkId) -> bool {
        if !self.at_sender.contains_key(&link) {
            return false;
        }
        let frame = match self.sender.next(link, self.now, &mut self.egress) {
            Next::Message(message) => Wire::Message(message),
            Next::Chunk(chunk) => Wire::Data { chunk, damaged: false },
            Next::Wait(_) | Next::Idle => return false,
        };
        for lane in Lane::ALL {
            assert!(self.sender.posted_bytes(lane) <= WINDOW_BYTES, "{lane} is over its window");
        }
        self.at_receiver.get_mut(&link).into_iter().for_each(|wire| wire.push_back(frame.clone()));
        true
    }

    /// The receiver puts its next frame on `link`.
    fn answer(&mut self, link: LinkId) -> bool {
        if !self.at_receiver.contains_key(&link) {
            return false;
        }
        let frame = match self.receiver.next(link, self.now, &mut self.egress) {
            Next::Message(message) => Wire::Message(message),
            Next::Chunk(_) => panic!("the receiver writes nothing"),
            Next::Wait(_) | Next::Idle => return false,
        };
        self.at_sender.get_mut(&link).into_iter().for_each(|wire| wire.push_back(frame.clone()));
        true
    }

    /// One step of the receiver's reader of `link`: a chunk begins in one and lands in the next.
    fn receive(&mut self, link: LinkId) -> bool {
        if let Some((chunk, damaged)) = self.landing.remove(&link) {
            self.land(link, &chunk, damaged);
            return true;
        }
        let Some(frame) = self.at_receiver.get_mut(&link).and_then(VecDeque::pop_front) else { return false };
        match frame {
            Wire::Report(report) => self.receiver.received(&report),
            Wire::Data { chunk, damaged } => self.begin(link, chunk, damaged),
            Wire::Message(message) => {
                if take(&mut self.receiver, &message) {
                    match LinkMessage::decode(&message.payload).expect("what was encoded") {
                        LinkMessage::Fence(id) => {
                            let stop = self.inbound.fence(id);
                            self.landing.retain(|link, _| !stop.contains(link));
                            self.receiver.reply(&LinkMessage::Fenced(id));
                        }
                        LinkMessage::Ended(ids) => {
                            for id in ids {
                                assert!(self.inbound.ended(id).is_empty(), "a complete transfer is still written");
                            }
                        }
                        other => panic!("the sender says {other:?}"),
                    }
                }
            }
        }
        true
    }

    fn begin(&mut self, link: LinkId, chunk: Chunk, damaged: bool) {
        match self.inbound.begin(link, claim_of(&chunk)) {
            Begin::Place { displaced } => {
                assert!(!self.fenced.contains(&chunk.transfer), "written after its end: {chunk:?}");
                displaced.map(|other| self.landing.remove(&other));
                self.places.insert((chunk.transfer, chunk.offset), Place::Torn);
                self.landing.insert(link, (chunk, damaged));
            }
            Begin::Applied { crc32c } => {
                self.receiver.acknowledge(Ack { transfer: chunk.transfer, offset: chunk.offset, crc32c });
            }
            Begin::Over => {}
            Begin::TooMany => panic!("within the limit"),
            Begin::Twice => panic!("a link brings one chunk after the other here"),
        }
    }

    fn land(&mut self, link: LinkId, chunk: &Chunk, damaged: bool) {
        let (transfer, offset) = (chunk.transfer, chunk.offset);
        let crc32c = crc32c(&bytes_of(chunk));
        if damaged {
            assert!(self.inbound.abandoned(link, &claim_of(chunk)));
            self.receiver.reply(&LinkMessage::Damaged { transfer, offset });
        } else {
            assert!(self.inbound.applied(link, &claim_of(chunk), crc32c));
            self.places.insert((transfer, offset), Place::Whole);
            self.receiver.acknowledge(Ack { transfer, offset, crc32c });
        }
    }

    /// The sender reads the next frame of `link`.
    fn hear(&mut self, link: LinkId) -> bool {
        let Some(frame) = self.at_sender.get_mut(&link).and_then(VecDeque::pop_front) else { return false };
        match frame {
            Wire::Report(report) => self.sender.received(&report),
            Wire::Message(message) => {
                if take(&mut self.sender, &message) {
                    let message = LinkMessage::decode(&message.payload).expect("what was encoded");
                    self.sender.handle(&message, self.now);
                }
            }
            Wire::Data { .. } => panic!("the receiver writes nothing"),
        }
        self.settle();
        true
    }

    /// Each end tells the other what it has received.
    fn report(&mut self) {
        let link = self.at_sender.keys().find(|link| self.at_receiver.contains_key(link)).copied();
        let Some(link) = link else { return };
        let (from_sender, from_receiver) = (self.sender.report(), self.receiver.report());
        self.at_receiver.get_mut(&link).into_iter().for_each(|wire| wire.push_back(Wire::Report(from_sender.clone())));
        self.at_sender.get_mut(&link).into_iter().for_each(|wire| wire.push_back(Wire::Report(from_receiver.clone())));
    }

    fn lose_at_sender(&mut self, link: LinkId) {
        if self.at_sender.remove(&link).is_some() {
            self.sender.link_lost(link, self.now);
            self.settle();
        }
    }

    fn lose_at_receiver(&mut self, link: LinkId) {
        if self.at_receiver.remove(&link).is_some() {
            self.receiver.link_lost(link, self.now);
            self.landing.remove(&link);
            self.inbound.link_lost(link);
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now.after(time);
        for path in [&mut self.sender, &mut self.receiver] {
            path.handle_timeout(self.now);
            path.tick();
        }
        self.settle();
    }

    /// Checks what the sender reports, and what it takes to be left.
    fn settle(&mut self) {
        let active = self.sender.transfers.values().filter(|transfer| transfer.phase == Phase::Active);
        let left_bytes: u64 = active.map(Outbound::left_bytes).sum();
        assert_eq!(self.sender.schedule.ahead_bytes(Lane::Bulk), left_bytes);
        while let Some(event) = self.sender.poll_event() {
            let PathEvent::Ended(id, end) = event else { continue };
            let proven = !matches!(end, End::Failed { fenced: false, .. });
            if proven {
                self.fenced.insert(id);
                let writing: Vec<_> = self.landing.values().filter(|(chunk, _)| chunk.transfer == id).collect();
                assert!(writing.is_empty(), "still written after its end: {writing:?}");
            }
            if let End::Done { crc32c: whole, len_bytes, .. } = &end {
                let request = self.written[&id];
                assert_eq!(*len_bytes, request.len_bytes);
                assert_eq!(*whole, self.checksum(id, &request));
                let torn = self.places.iter().filter(|((of, _), place)| *of == id && **place == Place::Torn);
                assert_eq!(torn.count(), 0, "done, and not all of it is there");
            }
            assert!(self.ended.insert(id, end).is_none(), "ended twice");
        }
    }

    fn checksum(&self, transfer: TransferId, request: &Request) -> u32 {
        let whole = Chunk {
            transfer,
            lane: request.lane,
            attempt: 0,
            source_offset: 0,
            region: REGION,
            offset: BASE,
            len_bytes: request.len_bytes as u32,
        };
        crc32c(&bytes_of(&whole))
    }

    /// Lets everything that is under way arrive.
    fn drain(&mut self) {
        for _ in 0..10_000 {
            let links: Vec<LinkId> = (0..self.next_link).map(LinkId).collect();
            let mut busy = false;
            for link in links {
                while self.post(link) || self.receive(link) || self.answer(link) || self.hear(link) {
                    busy = true;
                }
            }
            if !busy {
                return;
            }
        }
        panic!("it never comes to rest");
    }
}

/// Whether a numbered message is new; all link messages are taken at once.
fn take(path: &mut Path, message: &Numbered) -> bool {
    match path.arrived(message.stream, message.number) {
        Arrival::New => path.taken(message.stream, message.payload.len()),
        Arrival::Duplicate => return false,
        Arrival::Violation => panic!("out of order: {message:?}"),
    }
    true
}

#[test]
fn a_forecast_counts_what_is_before_it_and_nothing_that_it_overtakes() {
    let mut world = World::new();
    let s = |seconds: f64| Some(Time::ZERO.after(Duration::from_secs_f64(seconds)));
    let latest = |world: &World, lane, len_bytes| {
        world.sender.forecast(lane, len_bytes, Time::ZERO, &world.egress).map(|forecast| forecast.latest)
    };
    assert_eq!(latest(&world, Lane::Step, 1), None, "nothing is measured");
    world.sender.rate.busy(Time::ZERO);
    world.sender.rate.acknowledged(50_000, ms(50));
    world.sender.rate.idle(ms(50));
    assert_eq!(latest(&world, Lane::Step, 250_000), s(0.25));
    let rescue = world.write(request(Lane::Rescue, 1_000_000));
    assert_eq!(latest(&world, Lane::Rescue, 500_000), s(1.5));
    assert_eq!(latest(&world, Lane::Bulk, 0), s(1.0));
    assert_eq!(latest(&world, Lane::Step, 0), s(0.0), "it goes before all that has not left");
    assert!(world.post(LinkId(1)));
    assert_eq!(latest(&world, Lane::Step, 0), s(f64::from(CHUNK_BYTES) / 1e6), "what has left is not overtaken");
    world.egress.set_lane(Lane::Bulk, Some(100_000), Time::ZERO);
    world.egress.set(Some(500_000), Time::ZERO);
    assert_eq!((latest(&world, Lane::Rescue, 0), latest(&world, Lane::Bulk, 0)), (s(2.0), s(10.0)));
    world.sender.cancel(rescue, Time::ZERO);
    assert_eq!(latest(&world, Lane::Bulk, 0), s(0.0), "it ends without its bytes");
}

#[derive(Debug, Clone)]
enum Step {
    Write { lane: usize, len_bytes: u64, deadline_ms: Option<u64> },
    Cancel(usize),
    Post(usize),
    Receive(usize),
    Answer(usize),
    Hear(usize),
    Damage(usize),
    LoseAtSender(usize),
    LoseAtReceiver(usize),
    AddLink(bool),
    Report,
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![Just(0), 0..20_000_u64, Just(u64::from(CHUNK_BYTES)), Just(2 * u64::from(CHUNK_BYTES))];
    prop_oneof![
        3 => (0_usize..4, len, proptest::option::weighted(0.3, 0..400_u64))
            .prop_map(|(lane, len_bytes, deadline_ms)| Step::Write { lane, len_bytes, deadline_ms }),
        1 => any::<usize>().prop_map(Step::Cancel),
        8 => any::<usize>().prop_map(Step::Post),
        8 => any::<usize>().prop_map(Step::Receive),
        6 => any::<usize>().prop_map(Step::Answer),
        6 => any::<usize>().prop_map(Step::Hear),
        2 => any::<usize>().prop_map(Step::Damage),
        1 => any::<usize>().prop_map(Step::LoseAtSender),
        1 => any::<usize>().prop_map(Step::LoseAtReceiver),
        2 => any::<bool>().prop_map(Step::AddLink),
        2 => Just(Step::Report),
        2 => (0..300_u64).prop_map(Step::Pass),
    ]
}

fn pick<T>(from: &BTreeMap<LinkId, T>, which: usize) -> LinkId {
    let link = which.checked_rem(from.len()).and_then(|index| from.keys().nth(index));
    link.copied().unwrap_or(LinkId(u32::MAX))
}

fn apply(world: &mut World, step: &Step) {
    match *step {
        Step::Write { lane, len_bytes, deadline_ms } => {
            let deadline = deadline_ms.map(|ms| Deadline::after(world.now, Duration::from_millis(ms)));
            world.write(Request { deadline, ..request(Lane::ALL[lane], len_bytes) });
        }
        Step::Cancel(which) => {
            if let Some(index) = which.checked_rem(world.written.len()) {
                let id = *world.written.keys().nth(index).expect("counted");
                world.sender.cancel(id, world.now);
                world.settle();
            }
        }
        Step::Post(which) => _ = world.post(pick(&world.at_sender, which)),
        Step::Receive(which) => _ = world.receive(pick(&world.at_receiver, which)),
        Step::Answer(which) => _ = world.answer(pick(&world.at_receiver, which)),
        Step::Hear(which) => _ = world.hear(pick(&world.at_sender, which)),
        Step::Damage(which) => {
            let link = pick(&world.at_receiver, which);
            for frame in world.at_receiver.get_mut(&link).into_iter().flatten() {
                if let Wire::Data { damaged, .. } = frame {
                    *damaged = true;
                    break;
                }
            }
        }
        Step::LoseAtSender(which) => world.lose_at_sender(pick(&world.at_sender, which)),
        Step::LoseAtReceiver(which) => world.lose_at_receiver(pick(&world.at_receiver, which)),
        Step::AddLink(control) => {
            if world.at_sender.len() < 4 {
                world.add_link(if control { LinkRole::Control } else { LinkRole::Data });
            }
        }
        Step::Report => world.report(),
        Step::Pass(ms) => world.pass(Duration::from_millis(ms)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(1_000), ..ProptestConfig::default() })]

    /// Whatever happens to links and chunks: one end per transfer, nothing written after it, windows kept; and once
    /// links work again everything ends, nothing is left over, and nothing is under way.
    #[test]
    fn whatever_happens_each_transfer_ends_once(steps in proptest::collection::vec(step(), 1..250)) {
        let mut world = World::new();
        for step in &steps {
            apply(&mut world, step);
        }
        // What only one end has lost, the other loses now; then there are fresh links and time.
        for link in (0..world.next_link).map(LinkId) {
            if world.at_sender.contains_key(&link) != world.at_receiver.contains_key(&link) {
                world.lose_at_sender(link);
                world.lose_at_receiver(link);
            }
        }
        for role in [LinkRole::Control, LinkRole::Data] {
            world.add_link(role);
        }
        for _ in 0..4 {
            world.drain();
            world.report();
            world.drain();
            world.pass(FENCE_TIMEOUT);
        }
        world.drain();
        let (written, ended) = (world.written.keys().collect::<Vec<_>>(), world.ended.keys().collect::<Vec<_>>());
        prop_assert_eq!(written, ended);
        prop_assert_eq!(world.sender.transfers(), 0);
        prop_assert_eq!(world.inbound.live(), 0, "the receiver remembers what is over");
        prop_assert_eq!(world.sender.poll_timeout(), None);
        for lane in Lane::ALL {
            prop_assert_eq!(world.sender.posted_bytes(lane), 0);
        }
        prop_assert!(!world.sender.is_overrun() && !world.receiver.is_overrun());
    }

    /// A peer that goes takes every transfer along, once.
    #[test]
    fn a_peer_that_goes_ends_everything_once(
        steps in proptest::collection::vec(step(), 1..100),
        proven in any::<bool>(),
    ) {
        let mut world = World::new();
        for step in &steps {
            apply(&mut world, step);
        }
        // Its end of all links is closed.
        world.landing.clear();
        world.inbound = Inbound::default();
        world.sender.close(proven, world.now);
        world.settle();
        prop_assert_eq!(world.sender.transfers(), 0);
        prop_assert_eq!(world.written.len(), world.ended.len());
        prop_assert_eq!(world.sender.write(request(Lane::Step, 1), world.now), Err(WriteError::Gone));
    }
}

#[test]
fn a_step_waits_for_what_is_posted_and_not_for_what_is_queued() {
    let mut world = World::new();
    let (data, other) = (LinkId(1), LinkId(2));
    let rescue = world.write(request(Lane::Rescue, 1 << 30));
    while world.post(data) || world.post(other) {}
    assert_eq!(world.sender.posted_bytes(Lane::Rescue), 3 * u64::from(CHUNK_BYTES), "the window is full");
    let step = world.write(request(Lane::Step, 8));
    assert!(world.post(data), "a step isn't held up by another lane's window");
    let last = world.at_receiver[&data].back();
    assert!(matches!(last, Some(Wire::Data { chunk, .. }) if chunk.transfer == step));
    let before = world.at_receiver[&data]
        .iter()
        .filter(|frame| matches!(frame, Wire::Data { chunk, .. } if chunk.transfer == rescue));
    assert!(before.count() <= 3);
}

#[test]
fn lanes_go_in_order_and_transfers_of_a_lane_too() {
    let mut world = World::new();
    let late_bulk = world.write(request(Lane::Bulk, 2));
    let late_rescue = [world.write(request(Lane::Rescue, 2)), world.write(request(Lane::Rescue, 2))];
    let step = world.write(request(Lane::Step, 2));
    let control = world.write(request(Lane::Control, 2));
    while world.post(LinkId(1)) {}
    let order: Vec<TransferId> = world.at_receiver[&LinkId(1)]
        .iter()
        .filter_map(|frame| match frame {
            Wire::Data { chunk, .. } => Some(chunk.transfer),
            Wire::Message(_) | Wire::Report(_) => None,
        })
        .collect();
    assert_eq!(order, [control, step, late_rescue[0], late_rescue[1], late_bulk]);
}

#[test]
fn the_link_for_control_carries_bulk_only_when_it_is_the_last() {
    let mut world = World::new();
    world.write(request(Lane::Rescue, 8));
    assert!(!world.post(LinkId(0)));
    world.lose_at_sender(LinkId(1));
    assert!(!world.post(LinkId(0)));
    world.lose_at_sender(LinkId(2));
    assert!(world.post(LinkId(0)));
}

#[test]
fn links_over_a_worse_backend_stand_by_until_the_better_ones_are_lost() {
    let mut path = path();
    let [standby, control, data] = [0, 1, 2].map(LinkId);
    path.add_link(standby, BackendId::Tcp, LinkRole::Data);
    assert_eq!((path.message_link(), path.data_links().collect()), (Some(standby), vec![standby]));
    path.add_link(control, BackendId::Shm, LinkRole::Control);
    path.add_link(data, BackendId::Shm, LinkRole::Data);
    assert_eq!(path.data_links().collect::<Vec<_>>(), [data]);
    let id = path.write(request(Lane::Rescue, u64::from(2 * CHUNK_BYTES)), Time::ZERO).expect("below the limit");
    let mut egress = Egress::default();
    let first = path.next(data, Time::ZERO, &mut egress);
    assert!(matches!(first, Next::Chunk(chunk) if chunk.transfer == id && chunk.attempt == 0), "{first:?}");
    assert_eq!(path.next(standby, Time::ZERO, &mut egress), Next::Idle, "it is not needed");
    path.link_lost(data, Time::ZERO);
    assert_eq!(path.data_links().collect::<Vec<_>>(), [standby]);
    let again = path.next(standby, Time::ZERO, &mut egress);
    assert!(matches!(again, Next::Chunk(chunk) if chunk.source_offset == 0 && chunk.attempt == 1), "{again:?}");
    path.add_link(LinkId(3), BackendId::Shm, LinkRole::Data);
    assert_eq!(path.data_links().collect::<Vec<_>>(), [LinkId(3)], "what comes back is used again");
}

#[test]
fn small_chunks_of_urgent_lanes_also_go_beside_the_messages_and_nothing_else_does() {
    let windows = Windows::default();
    let mut path = Path::new(PathConfig { chunk_bytes: 1 << 20, windows });
    let [control, data] = [0, 1].map(LinkId);
    path.add_link(control, BackendId::Tcp, LinkRole::Control);
    path.add_link(data, BackendId::Tcp, LinkRole::Data);
    let mut egress = Egress::default();
    let mut next = |path: &mut Path| path.next(control, Time::ZERO, &mut egress);
    let sends = |next: Next, id| matches!(next, Next::Chunk(chunk) if chunk.transfer == id);
    let write = |path: &mut Path, lane, len| path.write(request(lane, len), Time::ZERO).expect("below the limit");
    write(&mut path, Lane::Rescue, 1);
    assert!(!path.has_express());
    assert_eq!(next(&mut path), Next::Idle, "bulk never goes there");
    let most = u64::from(EXPRESS_BYTES_MAX);
    let small = write(&mut path, Lane::Step, most);
    assert!(path.has_express() && path.has_next(control) && path.has_next(data));
    assert!(sends(next(&mut path), small));
    assert!(!path.has_next(control) && path.has_next(data), "the rescue is left");
    let large = write(&mut path, Lane::Step, most + 1);
    assert_eq!(next(&mut path), Next::Idle, "what is longer has its own link");
    path.cancel(large, Time::ZERO);
    path.send(1, Bytes::from_static(b"a message")).expect("there is room");
    assert!(path.has_next(control));
    let first = write(&mut path, Lane::Step, 1);
    assert!(matches!(next(&mut path), Next::Message(_)), "messages are first");
    assert!(sends(next(&mut path), first));
    while path.posted_bytes(Lane::Step) < EXPRESS_WINDOW_BYTES {
        let filling = write(&mut path, Lane::Step, most);
        assert!(sends(next(&mut path), filling));
    }
    write(&mut path, Lane::Step, 1);
    assert_eq!(next(&mut path), Next::Idle, "no queue forms in front of the messages");
    // The messages' link is of a worse backend than the chunks'.
    path.add_link(LinkId(2), BackendId::Shm, LinkRole::Data);
    assert_eq!((path.message_link(), path.express_link()), (Some(control), None));
}

#[test]
fn a_lost_link_takes_only_what_was_not_acknowledged() {
    let mut world = World::new();
    let id = world.write(request(Lane::Step, 3 * u64::from(CHUNK_BYTES)));
    while world.post(LinkId(1)) {}
    // The first chunk arrives and is acknowledged; the others are on their way when the link is lost.
    world.receive(LinkId(1));
    world.receive(LinkId(1));
    while world.answer(LinkId(0)) {}
    while world.hear(LinkId(0)) {}
    world.lose_at_sender(LinkId(1));
    world.lose_at_receiver(LinkId(1));
    world.drain();
    match &world.ended[&id] {
        End::Done { retried_chunks, over, .. } => {
            assert_eq!(*retried_chunks, 2);
            assert_eq!(over, &[(BackendId::Sim, 3 * u64::from(CHUNK_BYTES))]);
        }
        failed => panic!("{failed:?}"),
    }
}

#[test]
fn damage_is_repaired_so_often_and_no_more() {
    for (damages, repaired) in [(CHUNK_ATTEMPTS_MAX - 1, true), (CHUNK_ATTEMPTS_MAX, false)] {
        let mut world = World::new();
        let id = world.write(request(Lane::Step, 10));
        for _ in 0..damages {
            while world.post(LinkId(1)) {}
            apply(&mut world, &Step::Damage(1));
            while world.receive(LinkId(1)) {}
            while world.answer(LinkId(0)) {}
            while world.hear(LinkId(0)) {}
        }
        world.drain();
        match &world.ended[&id] {
            End::Done { retried_chunks, .. } => assert!(repaired && *retried_chunks == damages),
            End::Failed { cause, fenced } => {
                assert!(!repaired && *fenced);
                assert_eq!(*cause, Cause::Damaged { offset: BASE });
            }
        }
    }
}

#[test]
fn a_deadline_ends_what_has_not_begun_at_once_and_fences_what_has() {
    let mut world = World::new();
    let deadline = Some(Deadline(ms(10)));
    let begun = world.write(Request { deadline, ..request(Lane::Step, 10) });
    assert!(world.post(LinkId(1)));
    let waiting = world.write(Request { deadline, ..request(Lane::Step, 10) });
    assert_eq!(world.sender.poll_timeout(), Some(ms(10)));
    world.pass(Duration::from_millis(10));
    let expired = End::Failed { cause: Cause::Expired, fenced: true };
    assert_eq!(world.ended.get(&waiting), Some(&expired));
    assert_eq!(world.ended.get(&begun), None);
    // Its chunk arrives meanwhile, and is worth nothing.
    world.drain();
    assert_eq!(world.ended.get(&begun), Some(&expired));
}

#[test]
fn a_fence_without_an_answer_becomes_quarantine_and_then_is_released() {
    let mut path = path();
    path.add_link(LinkId(0), BackendId::Sim, LinkRole::Control);
    let id = path.write(request(Lane::Step, 10), Time::ZERO).expect("below the limit");
    assert!(matches!(path.next(LinkId(0), Time::ZERO, &mut Egress::default()), Next::Chunk(_)));
    path.cancel(id, Time::ZERO);
    assert_eq!(path.poll_event(), Some(PathEvent::Stop(id)));
    path.handle_timeout(Time::ZERO.after(FENCE_TIMEOUT - Duration::from_nanos(1)));
    assert_eq!(path.poll_event(), None);
    path.handle_timeout(Time::ZERO.after(FENCE_TIMEOUT));
    let unproven = End::Failed { cause: Cause::Cancelled, fenced: false };
    assert_eq!(path.poll_event(), Some(PathEvent::Ended(id, unproven)));
    path.handle(&LinkMessage::Fenced(id), ms(5_000));
    assert_eq!(path.poll_event(), Some(PathEvent::Released(id)));
    assert_eq!(path.poll_event(), None);
}

#[test]
fn a_peer_that_goes_proves_no_fence_that_it_had_not_answered() {
    let mut path = path();
    path.add_link(LinkId(0), BackendId::Sim, LinkRole::Control);
    let id = path.write(request(Lane::Step, 10), Time::ZERO).expect("below the limit");
    assert!(matches!(path.next(LinkId(0), Time::ZERO, &mut Egress::default()), Next::Chunk(_)));
    path.cancel(id, Time::ZERO);
    path.handle_timeout(Time::ZERO.after(FENCE_TIMEOUT));
    let unproven = End::Failed { cause: Cause::Cancelled, fenced: false };
    assert_eq!(path.poll_event(), Some(PathEvent::Stop(id)));
    assert_eq!(path.poll_event(), Some(PathEvent::Ended(id, unproven)));
    path.close(false, ms(1_001));
    assert_eq!(path.poll_event(), None, "silence is no answer");
}

#[test]
fn transfers_are_limited_from_both_sides() {
    let mut path = path();
    for _ in 0..TRANSFERS_PER_PEER_MAX {
        path.write(request(Lane::Bulk, 1), Time::ZERO).expect("below the limit");
    }
    assert_eq!(path.write(request(Lane::Bulk, 1), Time::ZERO), Err(WriteError::TooMany));
    path.cancel(TransferId(1), Time::ZERO);
    path.write(request(Lane::Bulk, 1), Time::ZERO).expect("there is room again");
    let long = TRANSFER_BYTES_MAX + 1;
    assert_eq!(path.write(request(Lane::Bulk, long), Time::ZERO), Err(WriteError::TooLong));
    path.cancel(TransferId(2), Time::ZERO);
    path.write(request(Lane::Bulk, TRANSFER_BYTES_MAX), Time::ZERO).expect("the longest there is");
}

#[test]
fn a_lane_at_its_limit_lets_lower_lanes_pass() {
    let mut path = path();
    let link = LinkId(0);
    path.add_link(link, BackendId::Sim, LinkRole::Control);
    let mut egress = Egress::default();
    egress.set_lane(Lane::Rescue, Some(1_000), Time::ZERO);
    let len_bytes = 2 * u64::from(CHUNK_BYTES);
    let [rescue, bulk] =
        [Lane::Rescue, Lane::Bulk].map(|lane| path.write(request(lane, len_bytes), Time::ZERO).unwrap());
    let mut next = |now| match path.next(link, now, &mut egress) {
        Next::Chunk(chunk) => Ok(chunk.transfer),
        other => Err(other),
    };
    assert_eq!([next(Time::ZERO), next(Time::ZERO), next(Time::ZERO)], [Ok(rescue), Ok(bulk), Ok(bulk)]);
    let Err(Next::Wait(again)) = next(Time::ZERO) else { panic!("the rescue's second chunk has to wait") };
    assert_eq!(next(again), Ok(rescue));
}

#[test]
fn the_rate_limit_holds_chunks_back_and_messages_not() {
    let mut path = path();
    path.add_link(LinkId(0), BackendId::Sim, LinkRole::Control);
    let mut egress = Egress::default();
    egress.set(Some(u64::from(CHUNK_BYTES)), Time::ZERO);
    path.write(request(Lane::Step, 2 * u64::from(CHUNK_BYTES)), Time::ZERO).expect("below the limit");
    assert!(matches!(path.next(LinkId(0), Time::ZERO, &mut egress), Next::Chunk(_)));
    let Next::Wait(until) = path.next(LinkId(0), Time::ZERO, &mut egress) else { panic!("nothing holds it back") };
    path.send(1, Bytes::from_static(b"at once")).expect("there is room");
    assert!(matches!(path.next(LinkId(0), Time::ZERO, &mut egress), Next::Message(_)));
    assert!(matches!(path.next(LinkId(0), until, &mut egress), Next::Chunk(_)));
}

/// Every event in every phase, as a picture.
#[test]
fn the_table_of_phases() {
    let phases = [Phase::Active, Phase::Fencing, Phase::Quarantined, Phase::Over];
    let events = [Event::Complete, Event::Stop, Event::Drop, Event::Fenced, Event::Timeout, Event::Gone];
    let mut table = String::new();
    for phase in phases {
        for event in events {
            let next = phase.after(event).map_or("-".into(), |next| format!("{next:?}"));
            table += &format!("{:<11} {:<8} {next}\n", format!("{phase:?}"), format!("{event:?}"));
        }
    }
    let expected = "\
Active      Complete Over
Active      Stop     Fencing
Active      Drop     Over
Active      Fenced   -
Active      Timeout  -
Active      Gone     Over
Fencing     Complete Over
Fencing     Stop     -
Fencing     Drop     -
Fencing     Fenced   Over
Fencing     Timeout  Quarantined
Fencing     Gone     Over
Quarantined Complete Over
Quarantined Stop     -
Quarantined Drop     -
Quarantined Fenced   Over
Quarantined Timeout  -
Quarantined Gone     Over
Over        Complete -
Over        Stop     -
Over        Drop     -
Over        Fenced   -
Over        Timeout  -
Over        Gone     -
";
    assert_eq!(table, expected);
    assert_eq!(crate::outbound::dot().matches(" -> ").count(), TRANSITIONS.len());
}

#[test]
fn higher_lanes_may_have_more_posted_than_lower_ones() {
    let windows = Lane::ALL.map(lane_window_bytes);
    assert!(windows[1] >= windows[2] && windows[2] >= windows[3]);
    assert_eq!(Windows::default().bytes, windows);
}

#[test]
fn a_peer_without_links_is_given_up_after_three_seconds_and_one_that_gets_them_back_is_not() {
    let mut path = Path::new(PathConfig { chunk_bytes: 4096, windows: Windows::default() });
    let at = |ms: u64| Time::from_nanos(ms * 1_000_000);
    path.add_link(LinkId(0), BackendId::Sim, LinkRole::Control);
    assert!(!path.is_stranded(at(60_000)), "a link is there");
    path.link_lost(LinkId(0), at(60_000));
    assert!(!path.is_stranded(at(60_050)), "seen for the first time");
    assert!(!path.is_stranded(at(63_049)));
    path.add_link(LinkId(1), BackendId::Sim, LinkRole::Data);
    assert!(!path.is_stranded(at(63_060)));
    path.link_lost(LinkId(1), at(63_100));
    assert!(!path.is_stranded(at(63_100)));
    assert!(!path.is_stranded(at(66_099)));
    assert!(path.is_stranded(at(66_100)));
}

#[test]
fn as_many_answers_wait_as_transfers_may_be_under_way() {
    let mut path = Path::new(PathConfig { chunk_bytes: 4096, windows: Windows::default() });
    let ack = |offset| Ack { transfer: TransferId(1), offset, crc32c: 0 };
    for offset in 0..TRANSFERS_PER_PEER_MAX as u64 {
        path.acknowledge(ack(offset));
    }
    assert!(!path.is_overrun());
    path.acknowledge(ack(0));
    assert!(path.is_overrun(), "a peer that takes no answers");
}

#[test]
fn of_a_peer_that_goes_without_proof_only_what_never_left_is_fenced() {
    let mut path = path();
    let link = LinkId(1);
    path.add_link(link, BackendId::Sim, LinkRole::Data);
    let posted = path.write(request(Lane::Bulk, 8), ms(0)).expect("there is room");
    assert!(matches!(path.next(link, ms(0), &mut Egress::default()), Next::Chunk(chunk) if chunk.transfer == posted));
    let queued = path.write(request(Lane::Bulk, 8), ms(0)).expect("there is room");
    path.close(false, ms(1));
    let ends: Vec<(TransferId, bool)> = std::iter::from_fn(|| path.poll_event())
        .filter_map(|event| match event {
            PathEvent::Ended(id, End::Failed { fenced, .. }) => Some((id, fenced)),
            _ => None,
        })
        .collect();
    assert_eq!(ends, [(posted, false), (queued, true)]);
}

#[test]
fn what_is_no_longer_than_64_kib_goes_before_longer_ones_of_its_lane() {
    let link = LinkId(1);
    // Another peer's transfer waits for the limit, and has a claim of its own.
    let first_of_two = |len_bytes| {
        let mut egress = Egress::default();
        egress.set(Some(1_000), ms(0));
        let (mut long, mut other) = (path(), path());
        for path in [&mut long, &mut other] {
            path.add_link(link, BackendId::Sim, LinkRole::Data);
        }
        long.write(request(Lane::Bulk, 1 << 20), ms(0)).expect("there is room");
        assert!(matches!(long.next(link, ms(0), &mut egress), Next::Chunk(_)), "it may overdraw");
        assert!(matches!(long.next(link, ms(0), &mut egress), Next::Wait(_)));
        other.write(Request { order: 1, ..request(Lane::Bulk, len_bytes) }, ms(0)).expect("there is room");
        let Next::Wait(again) = other.next(link, ms(0), &mut egress) else { panic!("the limit binds") };
        matches!(other.next(link, again, &mut egress), Next::Chunk(_))
    };
    assert!(first_of_two(SHORT_BYTES_MAX));
    assert!(!first_of_two(SHORT_BYTES_MAX + 1), "what was asked for earlier goes first");
}
