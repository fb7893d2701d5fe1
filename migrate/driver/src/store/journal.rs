//! The file of a store's journal: one process has it, every write is on the disk before anybody hears of it, and it is
//! written anew when it has grown long.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::time::ClockId;
use xfer_migrate_core::store::journal::{self, Head, Journal, JournalError, Record, Recovered};
use xfer_migrate_core::store::limits::{JOURNAL_BYTES_MAX, JOURNAL_SLACK_BYTES};
use xfer_migrate_core::store::{StateLimits, StoreState, Written};
use xfer_transport_core::Time;

use super::limits::{ANOTHER_BOOT, JOURNAL_OPENS_MAX};
use super::random_u64;

/// Why a file can't be a store's journal.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error("another process has it open; two stores can't share a journal")]
    InUse,
    #[error("it is a pipe, a folder or a device; name an ordinary file")]
    NoFile,
    #[error("it has {len_bytes} bytes, a journal has at most {JOURNAL_BYTES_MAX}")]
    TooLong { len_bytes: u64 },
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A journal that this process has to itself.
#[derive(Debug)]
pub(super) struct JournalFile {
    path: PathBuf,
    file: File,
    journal: Journal,
    head: Head,
    /// It is written anew when it is longer than this.
    rewrite_bytes: u64,
}

/// What a journal tells of the store that it is of.
pub(super) struct Opened {
    pub(super) journal: JournalFile,
    pub(super) state: StoreState,
    /// Which store it is.
    pub(super) life: u64,
    /// What the store's clock says now.
    pub(super) now: Time,
}

impl JournalFile {
    /// Opens the journal at `path`, or begins one.
    pub(super) fn open(path: &Path) -> Result<Opened, OpenError> {
        let mut file = open_alone(path)?;
        let len_bytes = file.metadata()?.len();
        if len_bytes > JOURNAL_BYTES_MAX {
            return Err(OpenError::TooLong { len_bytes });
        }
        let (clock, reading) = machine_clock();
        if len_bytes == 0 {
            let head = Head { life: random_u64(), clock, ahead_ns: 0 };
            let state = StoreState::new(StateLimits::default());
            let journal = Self::begin(path, head, &state)?;
            return Ok(Opened { journal, state, life: head.life, now: reading });
        }
        let mut bytes = Vec::with_capacity(len_bytes as usize);
        file.read_to_end(&mut bytes)?;
        let Recovered { head, state, whole_bytes, latest } = journal::recover(&bytes, StateLimits::default())?;
        drop(bytes);
        if head.clock != clock {
            // How long ago the latest write was isn't known, so it is older than anything that ages are asked for.
            let now = latest.after(ANOTHER_BOOT).max(reading);
            let head = Head { clock, ahead_ns: now.since(reading).as_nanos() as u64, ..head };
            let journal = Self::begin(path, head, &state)?;
            return Ok(Opened { journal, state, life: head.life, now });
        }
        if whole_bytes < len_bytes {
            let torn_bytes = len_bytes - whole_bytes;
            tracing::warn!(path = %path.display(), torn_bytes, "cut what a crash has torn off the store's journal");
            file.set_len(whole_bytes)?;
            file.sync_all()?;
        }
        file.seek(SeekFrom::Start(whole_bytes))?;
        let journal = Journal::of(whole_bytes);
        let rewrite_bytes = rewrite_bytes(&state);
        let journal = Self { path: path.to_owned(), file, journal, head, rewrite_bytes };
        let now = reading.after(Duration::from_nanos(head.ahead_ns));
        Ok(Opened { journal, state, life: head.life, now })
    }

    /// Writes down what has just been written to `state`. When this returns, it is on the disk; after an error nobody
    /// knows what is, and nothing more may be written.
    pub(super) fn append(&mut self, writes: Vec<Written>, state: &StoreState) -> io::Result<()> {
        let mut bytes = Vec::new();
        for written in writes {
            self.journal.append(&Record::Written(written), &mut bytes);
        }
        self.file.write_all(&bytes)?;
        self.file.sync_data()?;
        self.journal.synced();
        if self.journal.len_bytes() > self.rewrite_bytes {
            self.rewrite(state);
        }
        Ok(())
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves out what was overwritten. If there is no room for that, the journal goes on as it is.
    fn rewrite(&mut self, state: &StoreState) {
        let long_bytes = self.journal.len_bytes();
        match Self::begin(&self.path, self.head, state) {
            Ok(journal) => *self = journal,
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "the store's journal can't be written anew yet");
                self.rewrite_bytes = long_bytes + JOURNAL_SLACK_BYTES;
            }
        }
    }

    /// Puts a new journal in the place of the one at `path`, which this process has: there is always one of the two.
    fn begin(path: &Path, head: Head, state: &StoreState) -> io::Result<Self> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        let (mut journal, bytes) = Journal::begin(&head, state);
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        let written = lock(&file).and_then(|()| file.write_all(&bytes)).and_then(|()| file.sync_all());
        if let Err(error) = written {
            let _ = std::fs::remove_file(&beside);
            return Err(error);
        }
        std::fs::rename(&beside, path)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()?;
        journal.synced();
        Ok(Self { path: path.to_owned(), file, journal, head, rewrite_bytes: rewrite_bytes(state) })
    }
}

/// Opens the file at `path` and locks it; if there is none, makes an empty one.
fn open_alone(path: &Path) -> Result<File, OpenError> {
    for _ in 0..JOURNAL_OPENS_MAX {
        // Opening a pipe would wait for its other end.
        if std::fs::metadata(path).is_ok_and(|found| !found.is_file()) {
            return Err(OpenError::NoFile);
        }
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        lock(&file).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => OpenError::InUse,
            _ => error.into(),
        })?;
        // Whoever had it may have put a new one in its place just before.
        let (ours, theirs) = (file.metadata()?, std::fs::metadata(path)?);
        if (ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino()) {
            return Ok(file);
        }
    }
    Err(OpenError::InUse)
}

fn lock(file: &File) -> io::Result<()> {
    Ok(rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive)?)
}

fn rewrite_bytes(state: &StoreState) -> u64 {
    2 * state.total_bytes() + JOURNAL_SLACK_BYTES
}

/// Which of the machine's clocks this is, and what it says. All processes since the machine was started share one.
fn machine_clock() -> ([u8; 16], Time) {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: Vec<u8> =
        boot.bytes().filter_map(|digit| char::from(digit).to_digit(16)).map(|digit| digit as u8).collect();
    let mut clock = [0; 16];
    if digits.len() == 32 {
        clock.iter_mut().zip(digits.chunks_exact(2)).for_each(|(byte, pair)| *byte = pair[0] << 4 | pair[1]);
    } else {
        // Unknown: never the same as before.
        clock[..8].copy_from_slice(&random_u64().to_ne_bytes());
    }
    let reading = rustix::time::clock_gettime(ClockId::Boottime);
    let reading = Duration::try_from(reading).unwrap_or_default();
    (clock, Time::ZERO.after(reading))
}
