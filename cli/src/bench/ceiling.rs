//! What the machine does without xfer, in the same run: the line that figures are held against.

use std::time::{Duration, Instant};

use xfer_transport::BackendId;

use crate::client::Client;
use crate::failure::Outcome;
use crate::processor;
use crate::samples::Samples;

/// Plain copies that a ceiling is the median of.
const ROUNDS: usize = 5;

/// Plain copies of one size.
#[derive(Debug, Clone)]
pub(crate) struct Ceiling {
    /// Through a blocking socket, into the final buffer.
    pub(crate) raw_tcp: Line,
    /// In memory, by one thread.
    pub(crate) memcpy: Line,
}

/// One plain way to copy.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) gb_per_s: f64,
    /// Of the processors, for a GB, all processes together.
    pub(crate) processor_s_per_gb: f64,
}

impl Ceiling {
    /// Measures both with these bytes.
    pub(crate) fn measure(client: &mut Client, bytes: &[u8]) -> Outcome<Self> {
        let mut into = vec![1; bytes.len()];
        let (mut raw, mut copied) = (Vec::new(), Vec::new());
        let [mut raw_processor, mut copy_processor] = [Duration::ZERO; 2];
        client.raw_copy(bytes)?;
        // In turn, so that whatever else the machine does hits both.
        for _ in 0..ROUNDS {
            let before = client.processor_time()?;
            raw.push(client.raw_copy(bytes)?);
            raw_processor += client.processor_time()?.saturating_sub(before);
            let before = processor::time();
            let (took, repeats) = copy(bytes, &mut into);
            copy_processor += processor::time().saturating_sub(before) / repeats;
            copied.push(took);
        }
        let line = |times: Vec<Duration>, processor: Duration| {
            let (len, rounds) = (bytes.len() as f64, times.len() as f64);
            Line {
                gb_per_s: len / (Samples::from(times).quantile_us(0.5) * 1e3).max(1.0),
                processor_s_per_gb: processor.as_secs_f64() / (len * rounds / 1e9).max(f64::MIN_POSITIVE),
            }
        };
        Ok(Self { raw_tcp: line(raw, raw_processor), memcpy: line(copied, copy_processor) })
    }

    /// The one that bounds a backend.
    pub(crate) fn of(&self, backend: BackendId) -> &Line {
        if backend == BackendId::Shm { &self.memcpy } else { &self.raw_tcp }
    }
}

/// One copy, repeated where it would be too short to be timed: its time, and how often.
fn copy(bytes: &[u8], into: &mut [u8]) -> (Duration, u32) {
    let repeats = ((1 << 20) / bytes.len().max(1)).clamp(1, 1 << 14) as u32;
    let started = Instant::now();
    for _ in 0..repeats {
        into.copy_from_slice(std::hint::black_box(bytes));
        std::hint::black_box(&into[..]);
    }
    (started.elapsed() / repeats, repeats)
}
