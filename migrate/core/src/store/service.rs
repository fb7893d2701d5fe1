//! A whole store server without its sockets: bytes of clients in, bytes for clients out.
//!
//! ```text
//!   open ─► Greeting ──hello──► Ready ──request──► (answer) ─► Ready
//!              │                  │ └──wait──► Waiting ──written, time up──► (answer) ─► Ready
//!              └──── refused, malformed, too slow, idle ────► Closing ─► closed
//! ```
//!
//! Clients are served one request at a time each. Nothing that a client sends, or fails to send, changes what the
//! others get, except that all share the room for large values.

use std::collections::BTreeMap;
use std::fmt;

use xfer_transport_core::Time;

use super::state::{Refusal, StateLimits, StoreState, Written};
use super::wire::{self, Answer, FrameError, GreetingError, Request};
use super::{Swap, Version, limits};
use crate::planted::{self, Bug};

/// The store and its clients.
///
/// The caller owns the sockets: it hands over what it read ([`Service::receive`]), writes what
/// [`Service::output`] holds, calls [`Service::handle_timeout`] when [`Service::poll_timeout`] says so, and closes the
/// clients that [`Service::poll_closed`] names.
#[derive(Debug)]
pub struct Service {
    state: StoreState,
    life: u64,
    clients: BTreeMap<ClientId, Client>,
    next_id: u64,
    /// Unfinished requests and unread answers of all clients.
    buffered_bytes: usize,
    limits: ServiceLimits,
    journal: Option<Unwritten>,
}

/// What a service with a journal has not heard to be on the disk.
#[derive(Debug, Default)]
struct Unwritten {
    writes: Vec<Written>,
    /// Writes were taken, and nobody has said yet that they are on the disk.
    on_their_way: bool,
}

impl Unwritten {
    fn is_empty(&self) -> bool {
        self.writes.is_empty() && !self.on_their_way
    }
}

/// One connection, as the service knows it. No number is used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(u64);

/// How much a [`Service`] takes; see [`limits`] for the reasons.
#[derive(Debug, Clone, Copy)]
pub struct ServiceLimits {
    /// What the store itself takes.
    pub state: StateLimits,
    /// Most clients at a time.
    pub clients_max: usize,
    /// Most bytes that all clients may have buffered.
    pub buffered_bytes_max: usize,
}

impl Default for ServiceLimits {
    fn default() -> Self {
        Self {
            state: StateLimits::default(),
            clients_max: limits::CLIENTS_MAX,
            buffered_bytes_max: limits::BUFFERED_BYTES_MAX,
        }
    }
}

/// Why the service ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// It did not greet as a client of this store does.
    Greeting(GreetingError),
    /// A frame can't be understood.
    Malformed,
    /// A greeting, a request or the reading of an answer took too long.
    TooSlow,
    /// There was no request for a long time.
    Idle,
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Greeting(error) => write!(f, "{error}"),
            Self::Malformed => f.write_str("a frame could not be understood"),
            Self::TooSlow => f.write_str("it took too long to send a request or to read an answer"),
            Self::Idle => f.write_str("it asked nothing for a long time"),
        }
    }
}

#[derive(Debug)]
struct Client {
    phase: Phase,
    /// When the phase ends by itself.
    until: Time,
    inbound: Vec<u8>,
    outbound: Vec<u8>,
    /// How much of `outbound` the caller has written.
    written: usize,
}

#[derive(Debug)]
enum Phase {
    Greeting,
    Ready,
    /// A frame has begun and isn't whole yet.
    Receiving,
    /// The answer isn't written yet.
    Answering,
    Waiting {
        key: String,
        newer_than: Version,
    },
    /// Closed as soon as what is in `outbound` has been written.
    Closing(CloseReason),
}

impl Client {
    fn buffered_bytes(&self) -> usize {
        self.inbound.len() + self.outbound.len() - self.written
    }

    fn close(&mut self, now: Time, reason: CloseReason) {
        self.inbound = Vec::new();
        self.phase = Phase::Closing(reason);
        self.until = now.after(limits::FRAME_TIMEOUT);
    }
}

impl Service {
    /// An empty store. `life` is drawn at random by the caller: it tells clients that they talk to another store than
    /// the one they wrote to, even if it listens at the same place.
    pub fn new(life: u64, limits: ServiceLimits) -> Self {
        Self::of(life, StoreState::new(limits.state), limits, None)
    }

    /// A store with a journal, which held `state` the last time. It is the same store to its clients, as `life` says. The
    /// caller writes down what [`Service::take_writes`] gives, and nobody hears of it before [`Service::writes_are_durable`].
    pub fn journaled(life: u64, state: StoreState, limits: ServiceLimits) -> Self {
        Self::of(life, state, limits, Some(Unwritten::default()))
    }

    fn of(life: u64, state: StoreState, limits: ServiceLimits, journal: Option<Unwritten>) -> Self {
        Self { state, life, clients: BTreeMap::new(), next_id: 0, buffered_bytes: 0, limits, journal }
    }

    /// What the store holds.
    pub fn state(&self) -> &StoreState {
        &self.state
    }

    /// What has to be written down next; empty if there is nothing, or no journal. Until that is done there is no output.
    #[must_use]
    pub fn take_writes(&mut self) -> Vec<Written> {
        let Some(journal) = &mut self.journal else { return Vec::new() };
        journal.on_their_way |= !journal.writes.is_empty();
        std::mem::take(&mut journal.writes)
    }

    /// All that was taken is on the disk.
    pub fn writes_are_durable(&mut self) {
        if let Some(journal) = &mut self.journal {
            journal.on_their_way = false;
        }
    }

    /// A new connection, or none when there are as many clients as there may be. The caller then writes
    /// [`wire::welcome`] with [`GreetingError::Full`] and closes it.
    pub fn open(&mut self, now: Time) -> Option<ClientId> {
        if self.clients.len() >= self.limits.clients_max {
            return None;
        }
        let id = ClientId(self.next_id);
        self.next_id += 1;
        let client = Client {
            phase: Phase::Greeting,
            until: now.after(limits::GREETING_TIMEOUT),
            inbound: Vec::new(),
            outbound: Vec::new(),
            written: 0,
        };
        self.clients.insert(id, client);
        Some(id)
    }

    /// The connection is gone, whoever ended it.
    pub fn closed(&mut self, id: ClientId) {
        if let Some(client) = self.clients.remove(&id) {
            self.buffered_bytes -= client.buffered_bytes();
        }
    }

    /// Whether the caller should read from this client. While it should not, the client's bytes stay in its socket.
    pub fn wants_input(&self, id: ClientId) -> bool {
        let Some(client) = self.clients.get(&id) else { return false };
        let room = match self.buffered_bytes < self.limits.buffered_bytes_max {
            true => wire::FRAME_HEAD_BYTES + limits::FRAME_BODY_BYTES_MAX,
            false => limits::BUFFERED_SMALL_BYTES,
        };
        !matches!(client.phase, Phase::Answering | Phase::Closing(_)) && client.inbound.len() < room
    }

    /// Bytes of a client. Afterwards there may be [`Service::output`] for any client, and [`Service::poll_closed`].
    pub fn receive(&mut self, now: Time, id: ClientId, bytes: &[u8]) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        if matches!(client.phase, Phase::Closing(_)) {
            return;
        }
        client.inbound.extend_from_slice(bytes);
        self.buffered_bytes += bytes.len();
        self.serve(now, id);
    }

    /// What the caller should write to this client now; empty when there is nothing.
    pub fn output(&self, id: ClientId) -> &[u8] {
        // An answer may tell of a write, its own or another's, and a crash must not take back what somebody knows.
        let waits = self.journal.as_ref().is_some_and(|journal| !journal.is_empty());
        if waits && !planted::is(Bug::AnswerBeforeDurable) {
            return &[];
        }
        self.clients.get(&id).map_or(&[], |client| &client.outbound[client.written..])
    }

    /// The first `len_bytes` of the output were written. Afterwards there may be more output.
    pub fn sent(&mut self, now: Time, id: ClientId, len_bytes: usize) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let sent = len_bytes.min(client.outbound.len() - client.written);
        client.written += sent;
        self.buffered_bytes -= sent;
        if client.written < client.outbound.len() {
            return;
        }
        client.outbound = Vec::new();
        client.written = 0;
        if matches!(client.phase, Phase::Answering) {
            client.phase = Phase::Ready;
            client.until = now.after(limits::IDLE_TIMEOUT);
            self.serve(now, id);
        }
    }

    /// Ends what is over at `now`: waits are answered, slow and idle clients are closed.
    pub fn handle_timeout(&mut self, now: Time) {
        let over: Vec<ClientId> =
            self.clients.iter().filter(|(_, client)| client.until <= now).map(|(&id, _)| id).collect();
        for id in over {
            let Some(client) = self.clients.get_mut(&id) else { continue };
            let reason = match client.phase {
                Phase::Waiting { .. } => {
                    self.answer(now, id, &Answer::Value(None));
                    continue;
                }
                Phase::Ready => CloseReason::Idle,
                Phase::Greeting | Phase::Receiving | Phase::Answering => CloseReason::TooSlow,
                Phase::Closing(reason) => reason,
            };
            // Nobody reads what is left to write, or there is nothing.
            self.buffered_bytes -= client.buffered_bytes();
            client.outbound = Vec::new();
            client.written = 0;
            client.close(now, reason);
        }
    }

    /// When to call [`Service::handle_timeout`] at the latest. Ask again after any other call.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        self.clients.values().map(|client| client.until).min()
    }

    /// A client whose connection the caller must close now, and why. Call until it returns none.
    #[must_use]
    pub fn poll_closed(&mut self) -> Option<(ClientId, CloseReason)> {
        let (id, reason) = self.clients.iter().find_map(|(&id, client)| match client.phase {
            Phase::Closing(reason) if client.outbound.is_empty() => Some((id, reason)),
            _ => None,
        })?;
        self.closed(id);
        Some((id, reason))
    }

    /// Handles what has come in whole, until an answer has to be written first.
    fn serve(&mut self, now: Time, id: ClientId) {
        while let Some(client) = self.clients.get_mut(&id) {
            match client.phase {
                Phase::Greeting => match wire::read_hello(&client.inbound) {
                    None => return,
                    Some(verdict) => self.greet(now, id, verdict),
                },
                Phase::Ready | Phase::Receiving => match take_frame(&mut client.inbound) {
                    Ok(None) => {
                        if matches!(client.phase, Phase::Ready) && !client.inbound.is_empty() {
                            client.phase = Phase::Receiving;
                            client.until = now.after(limits::FRAME_TIMEOUT);
                        }
                        return;
                    }
                    Ok(Some(taken)) => {
                        self.buffered_bytes -= taken.bytes;
                        self.handle(now, id, taken.request);
                    }
                    Err(error) => {
                        self.refuse(now, id, error.to_string());
                    }
                },
                Phase::Answering | Phase::Waiting { .. } | Phase::Closing(_) => return,
            }
        }
    }

    fn greet(&mut self, now: Time, id: ClientId, verdict: Result<(), GreetingError>) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let welcome = wire::welcome(verdict.map(|()| self.life));
        match verdict {
            Ok(()) => {
                client.inbound.drain(..wire::HELLO_BYTES);
                self.buffered_bytes -= wire::HELLO_BYTES;
                client.phase = Phase::Answering;
                client.until = now.after(limits::FRAME_TIMEOUT);
            }
            Err(error) => {
                self.buffered_bytes -= client.inbound.len();
                client.close(now, CloseReason::Greeting(error));
            }
        }
        client.outbound.extend_from_slice(&welcome);
        self.buffered_bytes += welcome.len();
    }

    fn handle(&mut self, now: Time, id: ClientId, request: Result<Request, FrameError>) {
        let answer = match request {
            Err(error) => return self.refuse(now, id, error.to_string()),
            Ok(Request::Get { key }) => self.state.get(now, &key).map(Answer::Value),
            Ok(Request::Swap(swap)) => {
                let (key, latest) = (swap.key.clone(), self.state.latest());
                let swapped = self.state.compare_and_swap(now, swap);
                if let Ok(Swap::Won(version)) = swapped {
                    if version > latest {
                        self.write_down(&key);
                    }
                    self.wake(now, &key);
                }
                swapped.map(Answer::Swapped)
            }
            Ok(Request::Wait { key, newer_than, timeout }) => match self.state.newer(now, &key, newer_than) {
                Ok(None) if !timeout.is_zero() => {
                    let Some(client) = self.clients.get_mut(&id) else { return };
                    client.until = now.after(timeout.min(limits::WAIT_MAX));
                    client.phase = Phase::Waiting { key, newer_than };
                    return;
                }
                found => found.map(Answer::Value),
            },
            Ok(Request::List { prefix, after }) => self.page(now, &prefix, &after),
        };
        self.answer(now, id, &answer.unwrap_or_else(Answer::Refused));
    }

    fn write_down(&mut self, key: &str) {
        if let Some(journal) = &mut self.journal {
            journal.writes.extend(self.state.written(key));
        }
    }

    /// Answers everybody who waits for `key` to become newer.
    fn wake(&mut self, now: Time, key: &str) {
        let Ok(Some(found)) = self.state.get(now, key) else { return };
        let waiting: Vec<ClientId> = self
            .clients
            .iter()
            .filter(|(_, client)| {
                matches!(&client.phase, Phase::Waiting { key: awaited, newer_than }
                    if awaited == key && found.version > *newer_than)
            })
            .map(|(&id, _)| id)
            .collect();
        for id in waiting {
            self.answer(now, id, &Answer::Value(Some(found.clone())));
        }
    }

    fn page(&self, now: Time, prefix: &str, after: &str) -> Result<Answer, Refusal> {
        let mut entries = Vec::new();
        let mut body_bytes = wire::PAGE_HEAD_BYTES;
        let mut more = false;
        for (key, found) in self.state.list(now, prefix, after, limits::LIST_PAGE_ENTRIES_MAX + 1)? {
            body_bytes += wire::entry_bytes(key, &found.value);
            more = body_bytes > limits::FRAME_BODY_BYTES_MAX || entries.len() == limits::LIST_PAGE_ENTRIES_MAX;
            if more {
                break;
            }
            entries.push((key.to_owned(), found));
        }
        Ok(Answer::Page { entries, more })
    }

    fn answer(&mut self, now: Time, id: ClientId, answer: &Answer) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let before = client.outbound.len();
        answer.encode(&mut client.outbound);
        let len_bytes = client.outbound.len() - before;
        if len_bytes > limits::BUFFERED_SMALL_BYTES && self.buffered_bytes + len_bytes > self.limits.buffered_bytes_max
        {
            client.outbound.truncate(before);
            Answer::Refused(Refusal::Busy).encode(&mut client.outbound);
        }
        self.buffered_bytes += client.outbound.len() - before;
        client.phase = Phase::Answering;
        client.until = now.after(limits::FRAME_TIMEOUT);
    }

    /// Says why a frame is malformed, and closes: where the next one begins is anybody's guess.
    fn refuse(&mut self, now: Time, id: ClientId, reason: String) {
        self.answer(now, id, &Answer::Refused(Refusal::Malformed(reason)));
        let Some(client) = self.clients.get_mut(&id) else { return };
        self.buffered_bytes -= client.inbound.len();
        client.close(now, CloseReason::Malformed);
    }
}

struct Taken {
    request: Result<Request, FrameError>,
    /// What the frame took of the buffer.
    bytes: usize,
}

/// Takes a whole frame off the front of `inbound`; none when more bytes are needed.
fn take_frame(inbound: &mut Vec<u8>) -> Result<Option<Taken>, FrameError> {
    let Some(&head) = inbound.first_chunk::<{ wire::FRAME_HEAD_BYTES }>() else { return Ok(None) };
    let end = wire::FRAME_HEAD_BYTES + wire::body_len_bytes(head)?;
    let Some(body) = inbound.get(wire::FRAME_HEAD_BYTES..end) else { return Ok(None) };
    let request = wire::check_body(head, body).and_then(|()| Ok(Request::decode(body)?));
    inbound.drain(..end);
    if inbound.is_empty() {
        // A large value's room isn't kept for the small requests that usually follow.
        inbound.shrink_to(limits::BUFFERED_SMALL_BYTES);
    }
    Ok(Some(Taken { request, bytes: end }))
}

#[cfg(test)]
mod tests;
