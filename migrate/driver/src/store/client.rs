//! A client of a store over TCP: reconnects by itself, asks again what was not answered, and always returns.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use xfer_migrate_core::store::wire::{Answer, GreetingError, Request};
use xfer_migrate_core::store::{Refusal, Swap, SwapRequest, Token, Version, Versioned, check_key, limits};

use super::connection::{Connection, ExchangeError, OpenError};
use super::error::cause;
use super::limits::{IDLE_CONNECTIONS_MAX, PAUSE_MAX, PAUSE_MIN};
use super::{Bound, Store, StoreError, random_u64};

/// A client of a [`StoreServer`](super::StoreServer), usable from many threads.
///
/// Each call returns within the timeout given to [`TcpStore::connect`] ([`Store::wait`]: that much after its own).
/// Within it, a call survives the loss of its connection. It does not survive the loss of the store: one that was
/// restarted is empty, and is refused as [`StoreError::Restarted`] from then on.
#[derive(Debug)]
pub struct TcpStore {
    address: String,
    timeout: Duration,
    /// Which life of the store this client talks to.
    life: u64,
    client: u64,
    swaps: AtomicU64,
    idle: Mutex<Vec<Connection>>,
}

impl TcpStore {
    /// Connects to the store at `address`, written `HOST:PORT`, trying for `timeout` while nobody listens there.
    pub fn connect(address: &str, timeout: Duration) -> Result<Self, StoreError> {
        check_address(address)?;
        let mut tries = Tries::new(address, Bound::new(timeout));
        loop {
            match Connection::open(address, tries.bound) {
                Ok(connection) => {
                    return Ok(Self {
                        address: address.to_owned(),
                        timeout,
                        life: connection.life,
                        client: random_u64(),
                        swaps: AtomicU64::new(0),
                        idle: Mutex::new(vec![connection]),
                    });
                }
                Err(error) => tries.not_opened(error)?,
            }
            tries.pause()?;
        }
    }

    /// The same client with another timeout for its calls: a job's start is patient, its calls are not.
    #[must_use]
    pub fn with_call_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Where the store is, as it was given.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Asks until there is an answer or time is up: `answer_takes` for the store to answer, and our timeout besides.
    fn ask(&self, key: &str, answer_takes: Duration, request: impl Fn(bool) -> Request) -> Result<Answer, StoreError> {
        let bound = Bound::new(answer_takes.saturating_add(self.timeout));
        let mut tries = Tries::new(&self.address, bound);
        loop {
            match self.try_once(&mut tries, &request) {
                Ok(Some(Answer::Refused(Refusal::Busy))) => tries.refused_as_busy(),
                Ok(Some(Answer::Refused(refusal))) => return Err(StoreError::refused(key, refusal)),
                Ok(Some(answer)) => return Ok(answer),
                Ok(None) => tries.shorten(self.timeout),
                Err(error) => return Err(tries.concerning(key, error)),
            }
            tries.pause().map_err(|error| tries.concerning(key, error))?;
        }
    }

    /// One try; none when it failed in a way that another may not.
    fn try_once(
        &self,
        tries: &mut Tries<'_>,
        request: &impl Fn(bool) -> Request,
    ) -> Result<Option<Answer>, StoreError> {
        let kept = self.lock().pop();
        tries.kept_connection = kept.is_some();
        let mut connection = match kept.map_or_else(|| Connection::open(&self.address, tries.bound), Ok) {
            Ok(connection) => connection,
            Err(error) => return tries.not_opened(error).map(|()| None),
        };
        if connection.life != self.life {
            return Err(StoreError::Restarted { address: self.address.clone() });
        }
        let request = request(tries.asked);
        tries.asked = matches!(request, Request::Swap(_));
        match connection.exchange(&request, tries.bound) {
            Ok(answer) => {
                let mut idle = self.lock();
                if idle.len() < IDLE_CONNECTIONS_MAX {
                    idle.push(connection);
                }
                Ok(Some(answer))
            }
            Err(ExchangeError::Broken(error)) => {
                tries.failed_by(Failure::Silent, &error);
                Ok(None)
            }
            Err(ExchangeError::Malformed(reason)) => {
                Err(StoreError::Malformed { address: self.address.clone(), reason })
            }
        }
    }

    fn mismatched(&self, asked: &'static str) -> StoreError {
        StoreError::Mismatched { address: self.address.clone(), asked }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for TcpStore {
    fn get(&self, key: &str) -> Result<Option<Versioned>, StoreError> {
        check_key(key).map_err(|refusal| StoreError::refused(key, refusal))?;
        match self.ask(key, Duration::ZERO, |_| Request::Get { key: key.to_owned() })? {
            Answer::Value(found) => Ok(found),
            _ => Err(self.mismatched("get")),
        }
    }

    fn compare_and_swap(&self, key: &str, expected: Version, value: Bytes) -> Result<Swap, StoreError> {
        check_key(key).map_err(|refusal| StoreError::refused(key, refusal))?;
        if value.len() > limits::VALUE_LEN_BYTES_MAX {
            return Err(StoreError::refused(key, Refusal::ValueTooLong { len_bytes: value.len() as u64 }));
        }
        let token = Token { client: self.client, sequence: self.swaps.fetch_add(1, Ordering::Relaxed) };
        let request =
            |again| Request::Swap(SwapRequest { key: key.to_owned(), expected, value: value.clone(), token, again });
        match self.ask(key, Duration::ZERO, request)? {
            Answer::Swapped(swap) => Ok(swap),
            _ => Err(self.mismatched("swap")),
        }
    }

    fn wait(&self, key: &str, newer_than: Version, timeout: Duration) -> Result<Option<Versioned>, StoreError> {
        check_key(key).map_err(|refusal| StoreError::refused(key, refusal))?;
        let bound = Bound::new(timeout);
        loop {
            // In parts, so that the silent death of the store is noticed however long the wait is.
            let part = Bound::new(bound.left().min(limits::WAIT_MAX));
            let request = |_| Request::Wait { key: key.to_owned(), newer_than, timeout: part.left() };
            match self.ask(key, part.limit, request)? {
                Answer::Value(None) if !bound.is_over() => {}
                Answer::Value(found) => return Ok(found),
                _ => return Err(self.mismatched("wait")),
            }
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<(String, Versioned)>, StoreError> {
        let mut entries: Vec<(String, Versioned)> = Vec::new();
        loop {
            let after = entries.last().map(|(key, _)| key.clone()).unwrap_or_default();
            let request = |_| Request::List { prefix: prefix.to_owned(), after: after.clone() };
            let Answer::Page { entries: page, more } = self.ask(prefix, Duration::ZERO, request)? else {
                return Err(self.mismatched("list"));
            };
            // A store that repeats itself, or never ends, would be listed for ever.
            let goes_on = page.first().map_or(!more, |(key, _)| after.is_empty() || *key > after);
            entries.extend(page);
            if !goes_on || entries.len() > limits::KEYS_MAX {
                return Err(self.mismatched("list"));
            }
            if !more {
                return Ok(entries);
            }
        }
    }
}

/// The tries of one call: how they failed so far, and how long to go on.
struct Tries<'a> {
    address: &'a str,
    bound: Bound,
    started: Bound,
    pause: Duration,
    failure: Option<Failure>,
    /// Whether a swap was sent, so that it may have been done.
    asked: bool,
    /// Whether the last try used a connection of an earlier call, which the store may have closed since.
    kept_connection: bool,
    shortened: bool,
}

/// What the last try ended with.
enum Failure {
    Unreachable(String),
    Silent(String),
    NoGreeting,
    Full,
}

impl<'a> Tries<'a> {
    fn new(address: &'a str, bound: Bound) -> Self {
        Self {
            address,
            bound,
            started: bound,
            pause: PAUSE_MIN,
            failure: None,
            asked: false,
            kept_connection: false,
            shortened: false,
        }
    }

    /// Remembers why there is no connection; an error when another try would end alike.
    fn not_opened(&mut self, error: OpenError) -> Result<(), StoreError> {
        match error {
            OpenError::Unreachable(error) => self.failed_by(Failure::Unreachable, &error),
            OpenError::Broken(error) => self.failed_by(Failure::Silent, &error),
            OpenError::NoGreeting => self.failure = Some(Failure::NoGreeting),
            OpenError::Greeting(GreetingError::Full) => self.failure = Some(Failure::Full),
            OpenError::Greeting(reason) => {
                return Err(StoreError::Greeting { address: self.address.to_owned(), reason });
            }
        }
        Ok(())
    }

    /// Remembers what the system says, unless it only says that our own time is up: what was wrong before tells more.
    fn failed_by(&mut self, failure: fn(String) -> Failure, error: &io::Error) {
        let timed_out = matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock);
        if !(timed_out && self.bound.is_over() && self.failure.is_some()) {
            self.failure = Some(failure(cause(error)));
        }
    }

    fn refused_as_busy(&mut self) {
        self.failure = Some(Failure::Silent(Refusal::Busy.to_string()));
        // What is refused as busy was not done.
        self.asked = false;
    }

    /// After the first failure what counts is how long the store may be gone, not how long its answer may take.
    fn shorten(&mut self, timeout: Duration) {
        if !self.shortened {
            self.shortened = true;
            self.bound = Bound::new(self.bound.left().min(timeout));
        }
    }

    /// Waits before the next try, or says why there is none.
    fn pause(&mut self) -> Result<(), StoreError> {
        let left = self.bound.left();
        // A try of a few milliseconds would only end with "timed out" and hide what is really wrong.
        if left < 2 * PAUSE_MIN {
            return Err(self.failed());
        }
        if !self.kept_connection {
            thread::sleep(self.pause.min(left / 2));
            self.pause = (self.pause * 2).min(PAUSE_MAX);
        }
        Ok(())
    }

    fn failed(&self) -> StoreError {
        let address = self.address.to_owned();
        let tried = self.started.started.elapsed();
        match &self.failure {
            None => StoreError::Unreachable { address, cause: "there was no time to try".to_owned(), tried },
            Some(Failure::Unreachable(cause)) => StoreError::Unreachable { address, cause: cause.clone(), tried },
            Some(Failure::Silent(cause)) => StoreError::Silent { address, cause: cause.clone(), tried },
            Some(Failure::NoGreeting) => StoreError::NoGreeting { address },
            Some(Failure::Full) => StoreError::Greeting { address, reason: GreetingError::Full },
        }
    }

    /// The error of the call: if a swap may have been done, that comes first.
    fn concerning(&self, key: &str, error: StoreError) -> StoreError {
        match self.asked && !matches!(error, StoreError::Restarted { .. }) {
            true => StoreError::Unresolved { key: key.to_owned(), cause: error.to_string() },
            false => error,
        }
    }
}

/// Tells a mistyped address from a host that isn't up yet.
fn check_address(address: &str) -> Result<(), StoreError> {
    let bad = |cause: &str| StoreError::BadAddress { address: address.to_owned(), cause: cause.to_owned() };
    let (host, port) = address.rsplit_once(':').ok_or_else(|| bad("it has no port"))?;
    if host.is_empty() {
        return Err(bad("it has no host"));
    }
    match port.parse::<u16>() {
        Ok(1..) => Ok(()),
        _ => Err(bad("its port is not a number from 1 to 65535")),
    }
}
