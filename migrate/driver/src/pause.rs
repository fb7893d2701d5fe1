//! Named moments of a migration at which a test can hold a process, in debug builds.
//!
//! A process whose environment names a Unix socket in `PAUSES_OF_XFER` says there which moment it has reached, and goes on when it is
//! answered; if the answer is `p`, the thread panics as a bug there would make it. So a fault can be staged at exactly this step,
//! without sleeping. In release builds there is nothing of this.

/// Holds this thread at `moment` for as long as whoever tests wants it to; bounded.
#[cfg(debug_assertions)]
pub(crate) fn at(moment: &str, rank: u32) {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    /// A test that forgets a process must not leave it behind for ever.
    const HELD_MAX: Duration = Duration::from_secs(60);

    let Some(path) = std::env::var_os("PAUSES_OF_XFER") else { return };
    let held = UnixStream::connect(path).and_then(|mut stream| {
        stream.set_read_timeout(Some(HELD_MAX))?;
        stream.write_all(format!("{rank} {moment}\n").as_bytes())?;
        let mut answer = [0; 1];
        stream.read(&mut answer).map(|_| answer)
    });
    match held {
        Ok([b'p']) => panic!("a test broke `{moment}`"),
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, moment, "nobody answers where this process was to be held"),
    }
}

/// Nothing: in release builds nobody can hold a process.
#[cfg(not(debug_assertions))]
pub(crate) fn at(_moment: &str, _rank: u32) {}
