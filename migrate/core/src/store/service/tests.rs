//! Clients of a service without sockets: what each is answered, and that none disturbs another.

use std::time::Duration;

use bytes::Bytes;

use super::super::{SwapRequest, Token};
use super::*;

/// A service, the time, and what each client has been sent.
struct World {
    service: Service,
    now: Time,
    closed: Vec<(ClientId, CloseReason)>,
}

impl World {
    fn new(limits: ServiceLimits) -> Self {
        Self { service: Service::new(42, limits), now: Time::ZERO, closed: Vec::new() }
    }

    /// A client that has greeted.
    fn client(&mut self) -> ClientId {
        let id = self.service.open(self.now).expect("room for a client");
        self.service.receive(self.now, id, &wire::hello());
        assert_eq!(self.take(id), wire::welcome(Ok(42)));
        id
    }

    fn ask(&mut self, id: ClientId, request: &Request) -> Option<Answer> {
        self.service.receive(self.now, id, &encoded(request));
        self.answer(id)
    }

    /// The one answer that is there for a client.
    fn answer(&mut self, id: ClientId) -> Option<Answer> {
        let output = self.take(id);
        let body = output.get(wire::FRAME_HEAD_BYTES..)?;
        Some(Answer::decode(body).expect("a whole answer"))
    }

    /// Everything that there is for a client, written.
    fn take(&mut self, id: ClientId) -> Vec<u8> {
        let output = self.service.output(id).to_vec();
        self.service.sent(self.now, id, output.len());
        self.closed.extend(std::iter::from_fn(|| self.service.poll_closed()));
        output
    }

    fn pass(&mut self, duration: Duration) {
        self.now = self.now.after(duration);
        self.service.handle_timeout(self.now);
        self.closed.extend(std::iter::from_fn(|| self.service.poll_closed()));
    }

    fn set(&mut self, id: ClientId, key: &str, expected: Version, value: impl Into<Bytes>) -> Answer {
        self.ask(id, &swap(key, expected, value)).expect("a swap is answered at once")
    }
}

fn encoded(request: &Request) -> Vec<u8> {
    let mut bytes = Vec::new();
    request.encode(&mut bytes);
    bytes
}

fn swap(key: &str, expected: Version, value: impl Into<Bytes>) -> Request {
    let token = Token { client: 1, sequence: 1 };
    Request::Swap(SwapRequest { key: key.to_owned(), expected, value: value.into(), token, again: false })
}

fn get(key: &str) -> Request {
    Request::Get { key: key.to_owned() }
}

fn wait(key: &str, newer_than: Version, timeout: Duration) -> Request {
    Request::Wait { key: key.to_owned(), newer_than, timeout }
}

fn value_of(answer: Option<Answer>) -> Option<Bytes> {
    match answer {
        Some(Answer::Value(found)) => found.map(|found| found.value),
        other => panic!("expected a value, got {other:?}"),
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn one_client_writes_and_another_reads() {
    let mut world = World::new(ServiceLimits::default());
    let (writer, reader) = (world.client(), world.client());
    assert_eq!(world.set(writer, "key", Version::ABSENT, "one"), Answer::Swapped(Swap::Won(Version(1))));
    assert!(matches!(world.set(reader, "key", Version::ABSENT, "two"), Answer::Swapped(Swap::Lost(_))));
    assert_eq!(value_of(world.ask(reader, &get("key"))).unwrap(), "one");
    assert_eq!(value_of(world.ask(reader, &get("other"))), None);
}

#[test]
fn bytes_may_come_one_at_a_time_and_requests_all_at_once() {
    let mut world = World::new(ServiceLimits::default());
    let slow = world.client();
    let stream = encoded(&swap("key", Version::ABSENT, "value"));
    for byte in &stream[..stream.len() - 1] {
        world.service.receive(world.now, slow, &[*byte]);
        assert!(world.service.output(slow).is_empty());
    }
    world.service.receive(world.now, slow, &stream[stream.len() - 1..]);
    assert_eq!(world.answer(slow), Some(Answer::Swapped(Swap::Won(Version(1)))));

    let fast = world.client();
    let stream = [encoded(&get("key")), encoded(&get("other")), encoded(&get("key"))].concat();
    world.service.receive(world.now, fast, &stream);
    assert_eq!(value_of(world.answer(fast)).unwrap(), "value");
    assert_eq!(value_of(world.answer(fast)), None);
    assert_eq!(value_of(world.answer(fast)).unwrap(), "value");
    assert_eq!(world.answer(fast), None);
}

#[test]
fn a_wait_ends_with_the_first_newer_version() {
    let mut world = World::new(ServiceLimits::default());
    let (writer, first, second) = (world.client(), world.client(), world.client());
    assert_eq!(world.ask(first, &wait("key", Version::ABSENT, SECOND)), None);
    assert_eq!(world.ask(second, &wait("key", Version(1), SECOND)), None);
    world.set(writer, "other", Version::ABSENT, "x");
    assert_eq!(world.answer(first), None);
    world.set(writer, "key", Version::ABSENT, "y");
    assert_eq!(value_of(world.answer(first)).unwrap(), "y");
    assert_eq!(value_of(world.answer(second)).unwrap(), "y", "version 2 is newer than 1 for every key");
    assert_eq!(value_of(world.ask(first, &wait("key", Version(1), SECOND))).unwrap(), "y");
}

#[test]
fn a_wait_ends_when_its_time_is_up_and_not_before() {
    let mut world = World::new(ServiceLimits::default());
    let client = world.client();
    assert_eq!(world.ask(client, &wait("key", Version::ABSENT, SECOND)), None);
    assert_eq!(world.service.poll_timeout(), Some(world.now.after(SECOND)));
    world.pass(SECOND - Duration::from_nanos(1));
    assert_eq!(world.answer(client), None);
    world.pass(Duration::from_nanos(1));
    assert_eq!(value_of(world.answer(client)), None);
    assert_eq!(value_of(world.ask(client, &wait("key", Version::ABSENT, Duration::ZERO))), None);
}

#[test]
fn no_wait_is_longer_than_the_limit() {
    let mut world = World::new(ServiceLimits::default());
    let client = world.client();
    assert_eq!(world.ask(client, &wait("key", Version::ABSENT, Duration::from_secs(3600))), None);
    world.pass(limits::WAIT_MAX);
    assert_eq!(world.answer(client), Some(Answer::Value(None)));
}

#[test]
fn garbage_is_refused_by_name_and_disturbs_nobody() {
    let mut world = World::new(ServiceLimits::default());
    let (good, waiting) = (world.client(), world.client());
    assert_eq!(world.ask(waiting, &wait("key", Version::ABSENT, SECOND)), None);

    let http = world.service.open(world.now).unwrap();
    world.service.receive(world.now, http, b"GET / HTTP/1.1\r\n");
    assert_eq!(world.take(http), wire::welcome(Err(GreetingError::NotThisProtocol)));
    assert_eq!(world.closed, [(http, CloseReason::Greeting(GreetingError::NotThisProtocol))]);

    let newer = world.service.open(world.now).unwrap();
    let mut hello = wire::hello();
    hello[10] = 2;
    world.service.receive(world.now, newer, &hello);
    world.take(newer);
    assert_eq!(world.closed[1], (newer, CloseReason::Greeting(GreetingError::OtherVersion { theirs: 2 })));

    let long = world.client();
    world.service.receive(world.now, long, &[0xff; 64]);
    assert!(matches!(world.answer(long), Some(Answer::Refused(Refusal::Malformed(_)))));
    assert_eq!(world.closed[2], (long, CloseReason::Malformed));

    let damaged = world.client();
    let mut frame = encoded(&get("key"));
    frame[wire::FRAME_HEAD_BYTES + 2] ^= 1;
    world.service.receive(world.now, damaged, &frame);
    let Some(Answer::Refused(Refusal::Malformed(reason))) = world.answer(damaged) else { panic!("not refused") };
    assert!(reason.contains("checksum"), "{reason}");

    assert_eq!(world.set(good, "key", Version::ABSENT, "fine"), Answer::Swapped(Swap::Won(Version(1))));
    assert_eq!(value_of(world.answer(waiting)).unwrap(), "fine");
}

#[test]
fn who_is_too_slow_is_closed_at_the_limit_and_not_before() {
    let mut world = World::new(ServiceLimits::default());
    let just_before = |limit: Duration| limit - Duration::from_nanos(1);
    let cases = [
        (0, limits::GREETING_TIMEOUT, CloseReason::TooSlow),
        (1, limits::FRAME_TIMEOUT, CloseReason::TooSlow),
        (2, limits::FRAME_TIMEOUT, CloseReason::TooSlow),
        (3, limits::IDLE_TIMEOUT, CloseReason::Idle),
    ];
    for (case, limit, reason) in cases {
        let id = match case {
            0 => world.service.open(world.now).unwrap(),
            _ => world.client(),
        };
        match case {
            1 => world.service.receive(world.now, id, &encoded(&get("key"))[..9]),
            2 => world.service.receive(world.now, id, &encoded(&get("key"))),
            _ => {}
        }
        world.closed.clear();
        world.pass(just_before(limit));
        assert!(world.closed.is_empty(), "case {case}");
        world.pass(Duration::from_nanos(1));
        assert_eq!(world.closed, [(id, reason)], "case {case}");
    }
    assert_eq!(world.service.buffered_bytes, 0);
    assert_eq!(world.service.poll_timeout(), None);
}

#[test]
fn a_begun_request_is_not_kept_alive_by_trickling() {
    let mut world = World::new(ServiceLimits::default());
    let id = world.client();
    let frame = encoded(&get("a-key-of-some-length"));
    for byte in &frame[..10] {
        world.service.receive(world.now, id, &[*byte]);
        world.pass(SECOND);
    }
    assert_eq!(world.closed, [(id, CloseReason::TooSlow)]);
}

#[test]
fn clients_are_limited_and_a_place_comes_free() {
    let mut world = World::new(ServiceLimits { clients_max: 2, ..ServiceLimits::default() });
    let first = world.client();
    world.client();
    assert_eq!(world.service.open(world.now), None);
    world.service.closed(first);
    assert!(world.service.open(world.now).is_some());
}

#[test]
fn large_answers_wait_their_turn_when_the_room_is_used_up() {
    let value = vec![7; 100_000];
    let limits = ServiceLimits { buffered_bytes_max: 250_000, ..ServiceLimits::default() };
    let mut world = World::new(limits);
    let clients = [world.client(), world.client(), world.client()];
    world.set(clients[0], "key", Version::ABSENT, value.clone());
    for id in clients {
        world.service.receive(world.now, id, &encoded(&get("key")));
    }
    assert_eq!(world.answer(clients[2]), Some(Answer::Refused(Refusal::Busy)));
    assert_eq!(value_of(world.answer(clients[0])).unwrap(), value);
    assert_eq!(value_of(world.ask(clients[2], &get("key"))).unwrap(), value);
    assert_eq!(value_of(world.answer(clients[1])).unwrap(), value);
    assert_eq!(world.service.buffered_bytes, 0);
}

#[test]
fn input_is_not_wanted_beyond_one_frame_or_before_an_answer_is_read() {
    let mut world = World::new(ServiceLimits { buffered_bytes_max: 200_000, ..ServiceLimits::default() });
    let (hog, small) = (world.client(), world.client());
    world.service.receive(world.now, hog, &encoded(&swap("key", Version::ABSENT, vec![0; 300_000]))[..200_000]);
    assert!(!world.service.wants_input(hog), "the room is used up");
    assert!(world.service.wants_input(small), "small requests are still served");
    world.service.receive(world.now, small, &encoded(&get("key")));
    assert!(!world.service.wants_input(small), "its answer comes first");
    assert_eq!(world.answer(small), Some(Answer::Value(None)));
    assert!(world.service.wants_input(small));
    world.pass(limits::FRAME_TIMEOUT);
    assert_eq!(world.service.buffered_bytes, 0, "the hog's bytes are given back");
}

#[test]
fn a_long_listing_comes_in_pages_that_fit_a_frame() {
    let mut world = World::new(ServiceLimits::default());
    let id = world.client();
    let value = vec![1; 900_000];
    for number in 0..10 {
        world.set(id, &format!("big/{number}"), Version::ABSENT, value.clone());
    }
    let mut keys = Vec::new();
    let mut pages = 0;
    loop {
        let after = keys.last().cloned().unwrap_or_default();
        let Some(Answer::Page { entries, more }) = world.ask(id, &Request::List { prefix: "big/".into(), after })
        else {
            panic!("expected a page");
        };
        assert!(!entries.is_empty());
        keys.extend(entries.into_iter().map(|(key, _)| key));
        pages += 1;
        if !more {
            break;
        }
    }
    assert_eq!(keys, (0..10).map(|number| format!("big/{number}")).collect::<Vec<_>>());
    assert_eq!(pages, 3);
}

#[test]
fn with_a_journal_nobody_hears_of_a_write_before_it_is_durable() {
    let limits = ServiceLimits::default();
    let service = Service::journaled(42, StoreState::new(limits.state), limits);
    let mut world = World { service, now: Time::ZERO, closed: Vec::new() };
    let [writer, waiter, reader] = [(); 3].map(|()| world.client());
    assert_eq!(world.ask(waiter, &wait("key", Version::ABSENT, SECOND)), None);
    assert_eq!(world.ask(writer, &swap("key", Version::ABSENT, "value")), None);
    assert_eq!(world.ask(reader, &get("key")), None, "what it would be told may be lost yet");
    let writes = world.service.take_writes();
    assert_eq!(
        writes.iter().map(|write| (write.key.as_str(), write.version)).collect::<Vec<_>>(),
        [("key", Version(1))]
    );
    assert_eq!(world.service.take_writes(), []);
    assert_eq!([writer, waiter, reader].map(|id| world.answer(id)), [None, None, None], "it is still on its way");
    world.service.writes_are_durable();
    assert_eq!(world.answer(writer), Some(Answer::Swapped(Swap::Won(Version(1)))));
    assert_eq!(
        [waiter, reader].map(|id| value_of(world.answer(id))),
        [const { Some(Bytes::from_static(b"value")) }; 2]
    );
}

#[test]
fn a_swap_that_is_asked_for_again_or_lost_is_not_written_down() {
    let limits = ServiceLimits::default();
    let service = Service::journaled(42, StoreState::new(limits.state), limits);
    let mut world = World { service, now: Time::ZERO, closed: Vec::new() };
    let writer = world.client();
    let Request::Swap(first) = swap("key", Version::ABSENT, "value") else { unreachable!() };
    assert_eq!(world.ask(writer, &Request::Swap(first.clone())), None);
    assert_eq!(world.service.take_writes().len(), 1);
    world.service.writes_are_durable();
    assert!(world.answer(writer).is_some());
    let again = Request::Swap(SwapRequest { again: true, ..first });
    assert_eq!(world.ask(writer, &again), Some(Answer::Swapped(Swap::Won(Version(1)))));
    assert!(matches!(world.ask(writer, &swap("key", Version(9), "other")), Some(Answer::Swapped(Swap::Lost(_)))));
    assert_eq!(world.service.take_writes(), []);
}
