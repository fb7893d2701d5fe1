//! One connection of a client to a store: greeting, then a request and its answer at a time, each within a bound.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use xfer_migrate_core::store::limits;
use xfer_migrate_core::store::wire::{self, Answer, FrameError, GreetingError, Request};

use super::Bound;
use super::limits::CONNECT_TRY;

/// A connection whose greeting was accepted.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    /// Which life of the store answers here.
    pub(super) life: u64,
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum OpenError {
    /// Nobody could be reached.
    Unreachable(io::Error),
    /// Somebody was reached, and then said nothing.
    Broken(io::Error),
    /// Somebody was reached, and closed without a word.
    NoGreeting,
    /// Somebody was reached and can't be used.
    Greeting(GreetingError),
}

/// Why there is no answer. The request may have been carried out all the same.
#[derive(Debug)]
pub(super) enum ExchangeError {
    Broken(io::Error),
    Malformed(FrameError),
}

impl From<io::Error> for ExchangeError {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

impl From<FrameError> for ExchangeError {
    fn from(error: FrameError) -> Self {
        Self::Malformed(error)
    }
}

impl Connection {
    /// Connects and greets.
    pub(super) fn open(address: &str, bound: Bound) -> Result<Self, OpenError> {
        let mut stream = connect(address, bound).map_err(OpenError::Unreachable)?;
        let greeting = Bound::new(bound.left().min(limits::GREETING_TIMEOUT));
        let mut welcome = [0; wire::WELCOME_BYTES];
        let exchanged = stream
            .set_nodelay(true)
            .and_then(|()| write_all(&mut stream, &wire::hello(), greeting))
            .and_then(|()| read_exact(&mut stream, &mut welcome, greeting));
        match exchanged {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(OpenError::NoGreeting),
            Err(error) => return Err(OpenError::Broken(error)),
        }
        let life = wire::read_welcome(&welcome).map_err(OpenError::Greeting)?;
        Ok(Self { stream, life })
    }

    /// Asks and waits for the answer. After an error the connection is of no more use.
    pub(super) fn exchange(&mut self, request: &Request, bound: Bound) -> Result<Answer, ExchangeError> {
        let mut frame = Vec::new();
        request.encode(&mut frame);
        write_all(&mut self.stream, &frame, bound)?;

        let mut head = [0; wire::FRAME_HEAD_BYTES];
        read_exact(&mut self.stream, &mut head, bound)?;
        let mut body = vec![0; wire::body_len_bytes(head)?];
        read_exact(&mut self.stream, &mut body, bound)?;
        wire::check_body(head, &body)?;
        Ok(Answer::decode(&body).map_err(FrameError::from)?)
    }
}

fn connect(address: &str, bound: Bound) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in resolve(address, bound)? {
        let limit = bound.left().min(CONNECT_TRY).max(Duration::from_millis(1));
        match TcpStream::connect_timeout(&address, limit) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The addresses of `HOST:PORT`. A name is looked up on a thread of its own, as the system's resolver knows no bound.
pub(super) fn resolve(address: &str, bound: Bound) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = address.parse() {
        return Ok(vec![address]);
    }
    let (found, resolved) = mpsc::channel();
    let name = address.to_owned();
    thread::Builder::new().name("xfer-resolve".to_owned()).spawn(move || {
        // Nobody listens any more when the bound has passed.
        let _ = found.send(name.to_socket_addrs().map(Vec::from_iter));
    })?;
    let timed_out = || io::Error::new(io::ErrorKind::TimedOut, "looking up the name timed out");
    resolved.recv_timeout(bound.left()).unwrap_or_else(|_| Err(timed_out()))
}

fn write_all(stream: &mut TcpStream, mut bytes: &[u8], bound: Bound) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.set_write_timeout(Some(left(bound)?))?;
        match stream.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn read_exact(stream: &mut TcpStream, mut bytes: &mut [u8], bound: Bound) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.set_read_timeout(Some(left(bound)?))?;
        match stream.read(bytes) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => bytes = &mut bytes[read..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What is left of a bound as a socket takes it: never zero, which would mean for ever.
fn left(bound: Bound) -> io::Result<Duration> {
    match bound.left() {
        Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
        left => Ok(left.max(Duration::from_millis(1))),
    }
}
