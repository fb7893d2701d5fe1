//! Why a call to a store has no outcome, in sentences.

use std::io;
use std::time::Duration;

use xfer_migrate_core::store::wire::{FrameError, GreetingError};
use xfer_migrate_core::store::{Refusal, Version};

/// Why a call to a store has no outcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The address isn't one, or its name has no address.
    #[error("`{address}` is not the address of a store: {cause}; it is written HOST:PORT, as in 127.0.0.1:29501")]
    BadAddress {
        /// What was given.
        address: String,
        /// What is wrong with it.
        cause: String,
    },
    /// Nobody could be reached there in time.
    #[error(
        "no store at {address} ({cause}), tried for {tried:.1?}; \
         start one with `xfer store --bind {address}` or set XFER_STORE=HOST:PORT"
    )]
    Unreachable {
        /// Where.
        address: String,
        /// What the system said last.
        cause: String,
        /// For how long it was tried.
        tried: Duration,
    },
    /// The connection stands, but no answer came in time.
    #[error(
        "the store at {address} did not answer within {tried:.1?} ({cause}); \
         its process may be stopped or its host overloaded"
    )]
    Silent {
        /// Where.
        address: String,
        /// What the last try ended with.
        cause: String,
        /// For how long it was tried.
        tried: Duration,
    },
    /// Something listens there that is no store, or another version of one, or one without room.
    #[error("what listens at {address} can't be used as a store: {reason}; check XFER_STORE")]
    Greeting {
        /// Where.
        address: String,
        /// What it answered.
        reason: GreetingError,
    },
    /// Something accepts connections there and closes them without a word.
    #[error(
        "what listens at {address} closes the connection without a greeting, so it is no store; check XFER_STORE \
         (torch's own store listens at MASTER_PORT, xfer's one port above)"
    )]
    NoGreeting {
        /// Where.
        address: String,
    },
    /// The store answers what can't be understood.
    #[error("the store at {address} sent an answer that can't be understood: {reason}")]
    Malformed {
        /// Where.
        address: String,
        /// What is wrong with it.
        reason: FrameError,
    },
    /// The store answers another question than the one it was asked.
    #[error("the store at {address} answered another question than `{asked}`")]
    Mismatched {
        /// Where.
        address: String,
        /// What it was asked.
        asked: &'static str,
    },
    /// The store was restarted and is empty: what it said before is no longer agreed.
    #[error(
        "the store at {address} was restarted and has lost what it held; \
         restart the processes of this job so that they agree anew"
    )]
    Restarted {
        /// Where.
        address: String,
    },
    /// A swap was asked for, and it can't be known whether it was done.
    #[error("it is not known whether `{key}` was written ({cause}); read it before you write it again")]
    Unresolved {
        /// Which key.
        key: String,
        /// Why not.
        cause: String,
    },
    /// The key can't be a key.
    #[error("`{}` can't be a key of the store: {refusal}", key.escape_debug())]
    InvalidKey {
        /// Which key.
        key: String,
        /// What keys are.
        refusal: Refusal,
    },
    /// The value is too long, or the store is full.
    #[error("`{key}` was not written: {refusal}")]
    NoRoom {
        /// Which key.
        key: String,
        /// What is too long or full.
        refusal: Refusal,
    },
    /// A swap expects a version of a key that was never written.
    #[error("`{key}` was expected at {expected}, but it was never written; the version is another key's")]
    NeverWritten {
        /// Which key.
        key: String,
        /// What was expected.
        expected: Version,
    },
    /// The store refuses the request as such.
    #[error("the store refuses the request for `{key}`: {refusal}")]
    Refused {
        /// Which key.
        key: String,
        /// Why.
        refusal: Refusal,
    },
}

impl StoreError {
    /// The refusal of a request for `key`.
    pub(super) fn refused(key: &str, refusal: Refusal) -> Self {
        let key = key.to_owned();
        match refusal {
            Refusal::InvalidKey => Self::InvalidKey { key, refusal },
            Refusal::ValueTooLong { .. } | Refusal::TooManyKeys { .. } | Refusal::OutOfBytes { .. } => {
                Self::NoRoom { key, refusal }
            }
            Refusal::NeverWritten { expected } => Self::NeverWritten { key, expected },
            Refusal::Forgotten => Self::Unresolved { key, cause: refusal.to_string() },
            _ => Self::Refused { key, refusal },
        }
    }

    /// Whether the store could not be reached, or what was reached is no store: a matter of the surroundings.
    pub fn is_environment(&self) -> bool {
        matches!(
            self,
            Self::BadAddress { .. }
                | Self::Unreachable { .. }
                | Self::Silent { .. }
                | Self::Greeting { .. }
                | Self::NoGreeting { .. }
        )
    }
}

/// What the system says of an error, as a few lower-case words.
pub(super) fn cause(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "the connection was reset".to_owned(),
        io::ErrorKind::UnexpectedEof => "the connection was closed".to_owned(),
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "timed out".to_owned(),
        _ => error.to_string(),
    }
}
