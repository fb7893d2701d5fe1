//! One way of one connection: a thread that reads and spoils, and one that writes when it is time.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use xfer_transport_core::frame::{FrameHeader, FrameKind, VERSION};
use xfer_transport_core::integrity::crc32c;
use xfer_transport_core::limits::FRAME_HEADER_BYTES;
use xfer_transport_core::message::Greeting;

use crate::faults::{Action, Way};
use crate::frames::{Cutter, Piece};
use crate::limits::{LOOK, PACED_BYTES, READ_BYTES, WAITING_FRAMES_MAX};
use crate::proxy::Connection;

/// Where a header keeps its version, its length and its checksum.
const VERSION_AT: usize = 4;
const LENGTH_AT: usize = 32;
const CHECKSUM_AT: usize = 40;

/// Something to write, and when.
enum Parcel {
    Bytes(Instant, Vec<u8>),
    /// The end of this way.
    End(Instant),
}

/// Serves a connection until both its ways have ended.
pub(crate) fn start(connection: Arc<Connection>) {
    for stream in [&connection.caller, &connection.behind] {
        // Without these a proxy is slower to end, and slower at small frames; it works all the same.
        let _ = stream.set_read_timeout(Some(LOOK));
        let _ = stream.set_write_timeout(Some(LOOK));
        let _ = stream.set_nodelay(true);
    }
    for way in [Way::In, Way::Out] {
        let (parcels, queue) = sync_channel(WAITING_FRAMES_MAX);
        let (reading, writing) = (Arc::clone(&connection), Arc::clone(&connection));
        let reader = thread::Builder::new().name("chaos-read".into());
        let writer = thread::Builder::new().name("chaos-write".into());
        let started = reader
            .spawn(move || read(&reading, way, &parcels))
            .and_then(|_| writer.spawn(move || write(&writing, way, &queue)));
        if started.is_err() {
            connection.reset();
        }
    }
}

fn ends(connection: &Connection, way: Way) -> (&TcpStream, &TcpStream) {
    match way {
        Way::In => (&connection.caller, &connection.behind),
        Way::Out => (&connection.behind, &connection.caller),
    }
}

fn read(connection: &Connection, way: Way, parcels: &SyncSender<Parcel>) {
    let (mut from, _) = ends(connection, way);
    let mut bytes = vec![0; READ_BYTES];
    let mut cutter = Cutter::default();
    let mut held_back: Option<Vec<u8>> = None;
    let mut last_chunk: Option<Vec<u8>> = None;
    while !connection.is_over() {
        if let Some(chunk) = last_chunk.as_ref().filter(|_| connection.is_again(way))
            && !send(connection, parcels, Parcel::Bytes(Instant::now(), chunk.clone()))
        {
            return;
        }
        let len = match from.read(&mut bytes) {
            Ok(0) => break,
            Ok(len) => len,
            Err(error) if is_wait(error.kind()) => continue,
            Err(_) => {
                connection.reset();
                return;
            }
        };
        cutter.push(&bytes[..len]);
        while let Some(piece) = cutter.next() {
            introduce(connection, way, &piece);
            if piece.header.is_some_and(|header| header.kind == FrameKind::Data) {
                last_chunk = Some(piece.bytes.clone());
            }
            if !pass(connection, way, parcels, piece, &mut held_back) {
                return;
            }
        }
    }
    let due = Instant::now() + connection.delay(way);
    let rest: Vec<u8> = held_back.into_iter().flatten().chain(cutter.rest()).collect();
    let _ = send(connection, parcels, Parcel::Bytes(due, rest)) && send(connection, parcels, Parcel::End(due));
}

/// Learns who called from its first words.
fn introduce(connection: &Connection, way: Way, piece: &Piece) {
    if let (Way::In, Some(FrameHeader { kind: FrameKind::Greeting, .. })) = (way, piece.header)
        && let Ok(Greeting::Hello(hello)) = Greeting::decode(&piece.bytes[FRAME_HEADER_BYTES..])
    {
        // A second introduction is a violation that the process behind will judge.
        let _ = connection.rank.set(hello.from.rank);
    }
}

/// Hands a piece to the writer as the rules want it. `false` once nothing more is to be read.
fn pass(
    connection: &Connection,
    way: Way,
    parcels: &SyncSender<Parcel>,
    piece: Piece,
    held_back: &mut Option<Vec<u8>>,
) -> bool {
    let due = Instant::now() + connection.delay(way);
    let judged = piece.header.and_then(|header| connection.judge(way, header.kind));
    let mut bytes = piece.bytes;
    let mut again = None;
    match judged {
        None => {}
        Some((Action::Drop, _)) => return true,
        Some((Action::Duplicate, _)) => again = Some(bytes.clone()),
        Some((Action::Swap, _)) if held_back.is_none() => {
            *held_back = Some(bytes);
            return true;
        }
        Some((Action::Swap, _)) => {}
        Some((Action::FlipPayload, drawn)) => flip(&mut bytes, FRAME_HEADER_BYTES, drawn),
        Some((Action::FlipHeader, drawn)) => flip(&mut bytes[..FRAME_HEADER_BYTES], 0, drawn),
        Some((Action::Oversize, _)) => {
            bytes[LENGTH_AT..LENGTH_AT + 4].fill(0xff);
            seal(&mut bytes);
        }
        Some((Action::NextVersion, _)) => {
            bytes[VERSION_AT] = VERSION + 1;
            seal(&mut bytes);
        }
        Some((Action::Truncate, _)) => {
            bytes.truncate(bytes.len() / 2);
            let _ = send(connection, parcels, Parcel::Bytes(due, bytes)) && send(connection, parcels, Parcel::End(due));
            return false;
        }
        Some((Action::Reset, _)) => {
            connection.reset();
            return false;
        }
    }
    let behind = [Some(bytes), again, held_back.take()];
    behind.into_iter().flatten().all(|bytes| send(connection, parcels, Parcel::Bytes(due, bytes)))
}

/// Turns one bit around, from `first` on.
fn flip(bytes: &mut [u8], first: usize, drawn: u64) {
    let len = bytes.len().saturating_sub(first) as u64;
    if len > 0 {
        bytes[first + (drawn % len) as usize] ^= 1 << ((drawn >> 32) % 8);
    }
}

/// Makes a header sound again that was changed on purpose.
fn seal(bytes: &mut [u8]) {
    let checksum = crc32c(&bytes[..CHECKSUM_AT]);
    bytes[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&checksum.to_le_bytes());
}

fn send(connection: &Connection, parcels: &SyncSender<Parcel>, parcel: Parcel) -> bool {
    let mut parcel = parcel;
    loop {
        match parcels.try_send(parcel) {
            Ok(()) => return true,
            Err(TrySendError::Disconnected(_)) => return false,
            Err(TrySendError::Full(back)) if !connection.is_over() => {
                parcel = back;
                thread::sleep(Duration::from_millis(1));
            }
            Err(TrySendError::Full(_)) => return false,
        }
    }
}

fn write(connection: &Connection, way: Way, queue: &Receiver<Parcel>) {
    let (_, to) = ends(connection, way);
    while !connection.is_over() {
        let parcel = match queue.recv_timeout(LOOK) {
            Ok(parcel) => parcel,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let (Parcel::Bytes(due, _) | Parcel::End(due)) = &parcel;
        while let Some(left) = due.checked_duration_since(Instant::now()).filter(|_| !connection.is_over()) {
            thread::sleep(left.min(LOOK));
        }
        match parcel {
            Parcel::Bytes(_, bytes) => {
                if !write_all(connection, way, to, &bytes) {
                    connection.reset();
                    return;
                }
            }
            Parcel::End(_) => {
                connection.may_pass(way);
                // Whoever is gone already needs no end.
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
        }
    }
}

fn write_all(connection: &Connection, way: Way, mut to: &TcpStream, bytes: &[u8]) -> bool {
    let mut left = bytes;
    while !left.is_empty() {
        let bytes_per_s = connection.may_pass(way);
        if connection.is_over() {
            return false;
        }
        let part = &left[..left.len().min(if bytes_per_s.is_some() { PACED_BYTES } else { usize::MAX })];
        match to.write(part) {
            Ok(len) => {
                connection.shared.passed(len);
                left = &left[len..];
                if let Some(bytes_per_s) = bytes_per_s {
                    thread::sleep(Duration::from_secs_f64(len as f64 / bytes_per_s.max(1) as f64));
                }
            }
            Err(error) if is_wait(error.kind()) => {}
            Err(_) => return false,
        }
    }
    true
}

fn is_wait(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}
