//! A hostile source, hostile other targets and a hostile store, against a target.

use std::collections::VecDeque;
use std::time::Duration;

use xfer_migrate_core::session::{Event, Input, Output, TargetConfig, TargetSession, TargetState};
use xfer_migrate_core::{GenerationKind, GenerationRecord, ItemId, Message, Seal, store};
use xfer_transport_core::landed::Landed;
use xfer_transport_core::{Deadline, PeerId, Place, RegionId, RemoteRegion, Time};

use super::{MIGRATION, Records, SOURCE, STEPS_MAX, TIMEOUTS_MAX, first, first_generation, message, peer};

const ME: PeerId = PeerId { rank: 1, incarnation: 1 };
const MEMORY_BYTES: u64 = 1 << 20;

/// Runs one target through an input, and to its end; says whether that was a handoff.
pub fn target(bytes: &[u8]) -> bool {
    let config = TargetConfig { me: ME, migration: MIGRATION, base: first_generation(), memory_bytes: MEMORY_BYTES };
    let mut target = Target {
        session: TargetSession::new(config),
        now: Time::ZERO,
        allocates: true,
        verifies: true,
        keeps: false,
        granted_bytes: 0,
        fenced: false,
        sealed: None,
    };
    for (kind, payload) in Records(bytes) {
        match kind % 8 {
            0 => {
                if let Some(message) = message(payload) {
                    target.take(Input::Message { from: SOURCE, message });
                }
            }
            1 => target.take(Input::PeerGone { peer: peer(payload), reason: String::new() }),
            2 => target.now = target.now.after(Duration::from_millis(100 * u64::from(first(payload)))),
            3 => target.take(Input::Notice { deadline: Deadline(target.now) }),
            4 => {
                if let Ok(seal) = Seal::decode(payload) {
                    target.take(Input::SealSeen { seal: Seal { migration: MIGRATION, ..seal } });
                }
            }
            5 => {
                if let Ok(record) = GenerationRecord::decode(payload) {
                    target.take(Input::GenerationSeen { record });
                }
            }
            6 => target.take(Input::StoreLost { reason: String::new() }),
            _ => {
                let flags = first(payload);
                (target.allocates, target.verifies, target.keeps) = (flags & 1 == 0, flags & 2 == 0, flags & 4 != 0);
            }
        }
    }
    target.run_to_the_end();
    target.session.state() == TargetState::Committed
}

/// A target and its driver.
struct Target {
    session: TargetSession,
    now: Time,
    allocates: bool,
    verifies: bool,
    /// Whether it has a part of each item that it is offered.
    keeps: bool,
    granted_bytes: u64,
    fenced: bool,
    sealed: Option<Seal>,
}

impl Target {
    /// Hands `input` to the session, and does what it asks for until it asks for nothing more.
    fn take(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        for _ in 0..STEPS_MAX {
            if let Some(input) = inputs.pop_front() {
                // What a session refuses is a violation of the other side's, not of its own.
                let _ = self.session.handle(self.now, input);
            }
            while let Some(event) = self.session.poll_event() {
                self.check(&event);
            }
            match self.session.poll_output(self.now) {
                Some(output) => inputs.extend(self.act(output)),
                None if inputs.is_empty() => return,
                None => {}
            }
        }
        panic!("a target never stops asking: {:?}", self.session);
    }

    fn act(&mut self, output: Output) -> Vec<Input> {
        match output {
            Output::Send { to, message } => {
                assert_eq!(to, SOURCE.rank);
                assert_eq!(Message::decode(&message.encode()).as_ref(), Ok(&message));
                Vec::new()
            }
            Output::Allocate { items } => self.allocate(&items),
            Output::Verify { item, crc32c } => vec![Input::Verified { item, crc32c, ok: self.verifies }],
            Output::FenceAll => {
                self.fenced = true;
                vec![Input::Fenced]
            }
            Output::PublishSeal { key: _, seal } => {
                assert!(self.fenced, "a seal before the fence promises what may still change");
                assert_eq!(Seal::decode(&seal.encode()).as_ref(), Ok(&seal));
                self.sealed = Some(seal.clone());
                vec![Input::SealSeen { seal }]
            }
            Output::Propose { record } => {
                assert_eq!((record.base, record.generation), (0, 1));
                let encoded = record.encode();
                assert!(encoded.len() <= store::limits::VALUE_LEN_BYTES_MAX, "the store would refuse it");
                assert_eq!(GenerationRecord::decode(&encoded).as_ref(), Ok(&record));
                vec![Input::GenerationSeen { record }]
            }
            Output::WatchSeals { .. } => Vec::new(),
            Output::Compare { .. } | Output::Write { .. } | Output::Withdraw { .. } => {
                panic!("a target writes nothing: {output:?}")
            }
        }
    }

    fn allocate(&mut self, items: &[(ItemId, u64)]) -> Vec<Input> {
        assert!(!self.fenced, "no memory is granted behind the fence");
        if !self.allocates {
            return vec![Input::AllocationFailed { reason: String::new() }];
        }
        let grant = |&(id, len_bytes): &(ItemId, u64)| {
            self.granted_bytes += len_bytes;
            (id, RemoteRegion { id: RegionId(id.0), len_bytes, place: Place::Host })
        };
        let grants = items.iter().map(grant).collect();
        assert!(self.granted_bytes <= MEMORY_BYTES, "an offer got more memory than there is");
        let part = |&(id, len_bytes): &(ItemId, u64)| {
            let mut landed = Landed::default();
            landed.insert(0..len_bytes.div_ceil(2), 7);
            (id, landed)
        };
        let kept = self.keeps.then(|| Input::Kept { items: items.iter().map(part).collect() });
        kept.into_iter().chain([Input::Allocated { grants }]).collect()
    }

    fn check(&self, event: &Event) {
        if let Event::Committed { record } = event {
            assert_eq!(record.kind, GenerationKind::Handoff);
            let sealed = self.sealed.as_ref().expect("it has sealed what it owns");
            assert!(record.roots.contains(&(ME.rank, sealed.root)), "it owns what it has");
        }
    }

    /// Lets time pass from timer to timer. Who was offered something knows in the end what became of it.
    fn run_to_the_end(&mut self) {
        for _ in 0..TIMEOUTS_MAX {
            match self.session.poll_timeout() {
                Some(at) => self.now = self.now.max(at),
                None => break,
            }
            self.session.handle_timeout(self.now);
            self.take(Input::PeerGone { peer: ME, reason: String::new() });
        }
        let state = self.session.state();
        let settled = state.is_over() || matches!(state, TargetState::Idle | TargetState::Failed);
        assert!(settled, "undecided when all its time was over: {:?}", self.session);
    }
}
