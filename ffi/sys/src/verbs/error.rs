//! What is missing, or went wrong, and what would help.

use std::io;

/// Why verbs can't be used, or a call of theirs failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerbsError {
    /// The library is not on this machine.
    #[error("libibverbs is not on this machine (tried {tried}: {reason}): install libibverbs1 and ibverbs-providers")]
    NoLibrary {
        /// The name under which it was looked for.
        tried: &'static str,
        /// What the loader says.
        reason: String,
    },
    /// The library is there, and lacks what is needed.
    #[error("libibverbs of this machine has no {0}: install one of rdma-core")]
    NoSymbol(&'static str),
    /// There is no device, or the kernel doesn't know of any.
    #[error("no RDMA device on this machine ({0})")]
    NoDevice(String),
    /// No device has that name.
    #[error("no RDMA device is called {wanted}: {there}")]
    NotFound {
        /// The name.
        wanted: String,
        /// Those that are there, in words.
        there: String,
    },
    /// The device may not be opened.
    #[error(
        "{device} can't be opened ({error}): give this process /dev/infiniband, in a container with --device=/dev/infiniband"
    )]
    NotOpened {
        /// Its name.
        device: String,
        /// What the system says.
        error: io::Error,
    },
    /// More memory would have to stay in place than this process may keep there.
    #[error(
        "{len_bytes} bytes can't be registered, since {limit_bytes} may be locked: raise it with `ulimit -l` or LimitMEMLOCK="
    )]
    Memlock {
        /// How much was to be registered, in bytes.
        len_bytes: u64,
        /// RLIMIT_MEMLOCK, in bytes.
        limit_bytes: u64,
    },
    /// Memory of a device, which this one reaches in no way.
    #[error(
        "memory of a device can be registered neither by its descriptor ({by_descriptor}) nor where it is mapped ({where_mapped})"
    )]
    NotReached {
        /// Why not by its descriptor, in words.
        by_descriptor: String,
        /// Why not where it is mapped.
        where_mapped: Box<Self>,
    },
    /// A call failed.
    #[error("{what}: {error}")]
    Failed {
        /// What was tried.
        what: &'static str,
        /// What the system says.
        error: io::Error,
    },
}

impl VerbsError {
    pub(super) fn last(what: &'static str) -> Self {
        Self::Failed { what, error: io::Error::last_os_error() }
    }

    /// Calls of verbs give the system's number, and some its negative.
    pub(super) fn check(what: &'static str, result: i32) -> Result<(), Self> {
        match result {
            0 => Ok(()),
            number => Err(Self::Failed { what, error: io::Error::from_raw_os_error(number.abs()) }),
        }
    }

    /// The system's number of the error, if it is one of the system.
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            Self::NotOpened { error, .. } | Self::Failed { error, .. } => error.raw_os_error(),
            Self::Memlock { .. } => Some(libc::ENOMEM),
            Self::NotReached { where_mapped, .. } => where_mapped.raw_os_error(),
            _ => None,
        }
    }
}

impl From<VerbsError> for io::Error {
    fn from(error: VerbsError) -> Self {
        Self::other(error)
    }
}
