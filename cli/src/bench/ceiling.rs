//! What the machine does without xfer, in the same run: the line that figures are held against.

use std::time::{Duration, Instant};

use xfer_transport::BackendId;

use crate::client::Client;
use crate::failure::Outcome;
use crate::samples::Samples;

/// Plain copies that a ceiling is the median of.
const ROUNDS: usize = 5;

/// Plain copies of one size, in GB/s.
#[derive(Debug, Clone)]
pub(crate) struct Ceiling {
    /// Through a blocking socket, into the final buffer.
    pub(crate) raw_tcp: f64,
    /// In memory, by one thread.
    pub(crate) memcpy: f64,
}

impl Ceiling {
    /// Measures both with these bytes.
    pub(crate) fn measure(client: &mut Client, bytes: &[u8]) -> Outcome<Self> {
        let mut into = vec![1; bytes.len()];
        let (mut raw, mut copied) = (Vec::new(), Vec::new());
        client.raw_copy(bytes)?;
        // In turn, so that whatever else the machine does hits both.
        for _ in 0..ROUNDS {
            raw.push(client.raw_copy(bytes)?);
            copied.push(copy(bytes, &mut into));
        }
        let gb_per_s =
            |times: Vec<Duration>| bytes.len() as f64 / (Samples::from(times).quantile_us(0.5) * 1e3).max(1.0);
        Ok(Self { raw_tcp: gb_per_s(raw), memcpy: gb_per_s(copied) })
    }

    /// The one that bounds a backend.
    pub(crate) fn of(&self, backend: BackendId) -> f64 {
        if backend == BackendId::Shm { self.memcpy } else { self.raw_tcp }
    }
}

/// One copy, repeated where it would be too short to be timed.
fn copy(bytes: &[u8], into: &mut [u8]) -> Duration {
    let repeats = ((1 << 20) / bytes.len().max(1)).clamp(1, 1 << 14) as u32;
    let started = Instant::now();
    for _ in 0..repeats {
        into.copy_from_slice(std::hint::black_box(bytes));
        std::hint::black_box(&into[..]);
    }
    started.elapsed() / repeats
}
