//! The two directions of a simulated connection.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use xfer_transport_core::frame::FrameHeader;

use crate::wake::Wake;

/// Bytes that fit into one direction, as in the buffers of two sockets.
const PIPE_BYTES: usize = 4 << 20;

/// A simulated connection: two directions, and what wakes the end that each leads to.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) pipes: [Pipe; 2],
    cut: AtomicBool,
}

#[derive(Debug)]
pub(super) struct Pipe {
    state: Mutex<PipeState>,
    /// Wakes the end that reads.
    pub(super) reader: Arc<Wake>,
}

#[derive(Debug, Default)]
struct PipeState {
    frames: VecDeque<Frame>,
    bytes: usize,
    /// Nothing more is put in.
    finished: bool,
}

/// A frame on its way.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) due: Instant,
    pub(super) header: FrameHeader,
    pub(super) payload: Vec<u8>,
}

/// What a pipe has for its reader.
pub(super) enum Taken {
    Frame(Frame),
    /// The next frame is due then.
    NotBefore(Instant),
    Nothing,
    /// Everything was taken, and nothing follows.
    End,
}

impl Connection {
    pub(super) fn new() -> io::Result<Self> {
        let pipe = || Ok::<_, io::Error>(Pipe { state: Mutex::default(), reader: Arc::new(Wake::new()?) });
        Ok(Self { pipes: [pipe()?, pipe()?], cut: AtomicBool::new(false) })
    }

    /// Breaks it: both ends see a reset, and what was on its way is lost.
    pub(super) fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
        self.wake();
    }

    pub(super) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::SeqCst)
    }

    /// Whether it carries nothing any more.
    pub(super) fn is_over(&self) -> bool {
        self.is_cut() || self.pipes.iter().any(|pipe| pipe.lock().finished)
    }

    pub(super) fn wake(&self) {
        self.pipes.iter().for_each(|pipe| pipe.reader.wake());
    }
}

impl Pipe {
    pub(super) fn has_room(&self) -> bool {
        let state = self.lock();
        !state.finished && state.bytes < PIPE_BYTES
    }

    /// Puts a frame in, behind those that are in it.
    pub(super) fn put(&self, mut frame: Frame) {
        let mut state = self.lock();
        if let Some(last) = state.frames.back() {
            frame.due = frame.due.max(last.due);
        }
        state.bytes += frame.payload.len();
        state.frames.push_back(frame);
        drop(state);
        self.reader.wake();
    }

    pub(super) fn take(&self) -> Taken {
        let mut state = self.lock();
        match state.frames.front() {
            None if state.finished => Taken::End,
            None => Taken::Nothing,
            Some(frame) if frame.due > Instant::now() => Taken::NotBefore(frame.due),
            Some(_) => match state.frames.pop_front() {
                Some(frame) => {
                    state.bytes -= frame.payload.len();
                    Taken::Frame(frame)
                }
                None => Taken::Nothing,
            },
        }
    }

    /// Whether everything was taken by the other end.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().frames.is_empty()
    }

    pub(super) fn finish(&self) {
        self.lock().finished = true;
        self.reader.wake();
    }

    fn lock(&self) -> MutexGuard<'_, PipeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
