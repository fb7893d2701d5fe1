//! Wall clocks that can be moved, one for each process, where libfaketime is installed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::Outcome;
use crate::job::Job;

/// Where distributions install it.
const LIBRARIES: [&str; 4] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib64/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
];

/// By how much a clock jumps.
const JUMP_S: i64 = 3600;

/// Why no clock can be moved here, if so.
pub fn missing() -> Option<String> {
    let none = library().is_none();
    none.then(|| "libfaketime is not installed, which moves a process's wall clock (Debian: libfaketime)".to_owned())
}

/// Gives a process a clock that a file moves. The monotonic clock is left alone, as a jump of the wall clock leaves it.
pub fn give(command: &mut Command, folder: &Path, rank: u32) -> Outcome<()> {
    std::fs::write(file(folder, rank), "+0")?;
    command.env("LD_PRELOAD", library().ok_or("no libfaketime")?);
    command.env("FAKETIME_TIMESTAMP_FILE", file(folder, rank)).env("FAKETIME_NO_CACHE", "1");
    command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1");
    Ok(())
}

/// Moves the clock of each rank, one forward and the next one back, and sees that they have moved.
pub fn jump(job: &mut Job) -> Outcome<()> {
    for rank in 0..3 {
        let jump = if rank % 2 == 0 { JUMP_S } else { -JUMP_S };
        // By a rename: a process must never read half of it.
        let next = job.folder.path().join("next");
        std::fs::write(&next, format!("{jump:+}"))?;
        std::fs::rename(&next, file(job.folder.path(), rank))?;
        let says = job.rank(rank).ask("clock")?["seconds"].as_i64().ok_or("a clock without a time")?;
        let here = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() as i64;
        if (says - here - jump).abs() > JUMP_S / 2 {
            return Err(format!("rank {rank} was to be {jump} s off, and is {} s", says - here).into());
        }
    }
    Ok(())
}

fn library() -> Option<&'static str> {
    LIBRARIES.into_iter().find(|library| Path::new(library).exists())
}

fn file(folder: &Path, rank: u32) -> PathBuf {
    folder.join(format!("clock-{rank}"))
}
