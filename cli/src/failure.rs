//! How a command fails: what it says, and with which exit code.

use std::process::ExitCode;

use xfer::config::ConfigError;
use xfer::log::LogError;
use xfer::notice::DrainError;
use xfer::store::{BindError, StoreError};

use crate::output::{self, printable};

/// Shown under the help of the program.
pub(crate) const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the surroundings don't allow it \
                                     (no store, a bad setting), 4 done in part.";

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    /// What failed, in one line.
    what: String,
    /// What the system says of it.
    cause: Option<String>,
    /// What to try, most likely first.
    remedies: Vec<String>,
}

impl Failure {
    /// The command was understood, and could not be carried out.
    pub(crate) fn failed(what: impl ToString) -> Self {
        Self { code: 1, what: what.to_string(), cause: None, remedies: Vec::new() }
    }

    /// The command makes no sense as it was written.
    pub(crate) fn usage(what: impl ToString) -> Self {
        Self { code: 2, ..Self::failed(what) }
    }

    /// The machine, the network or the configuration doesn't allow it.
    pub(crate) fn environment(what: impl ToString) -> Self {
        Self { code: 3, ..Self::failed(what) }
    }

    /// What could be done was done, and something was left out.
    pub(crate) fn partial(what: impl ToString) -> Self {
        Self { code: 4, ..Self::failed(what) }
    }

    /// Says on standard error what is wrong.
    pub(crate) fn report(self, command: &str) -> ExitCode {
        let mut lines = format!("xfer {command}: {}\n", printable(&self.what));
        if let Some(cause) = self.cause {
            lines.push_str(&format!("  cause  {}\n", printable(&cause)));
        }
        for (index, remedy) in self.remedies.iter().enumerate() {
            let label = if index == 0 { "try" } else { "" };
            lines.push_str(&format!("  {label:5}  {}\n", printable(remedy)));
        }
        output::complain(&lines);
        ExitCode::from(self.code)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unreachable { address, cause, tried } => Self {
                cause: Some(format!("{cause}, tried for {tried:.1?}")),
                remedies: vec![format!("xfer store --bind {address}"), "set XFER_STORE=HOST:PORT".to_owned()],
                ..Self::environment(format!("no store at {address}"))
            },
            error if error.is_environment() => Self::environment(error),
            error => Self::failed(error),
        }
    }
}

impl From<DrainError> for Failure {
    fn from(error: DrainError) -> Self {
        match error {
            DrainError::Store(error) => error.into(),
            error => Self::failed(error),
        }
    }
}

impl From<BindError> for Failure {
    fn from(error: BindError) -> Self {
        Self::environment(error)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::environment(error)
    }
}

impl From<LogError> for Failure {
    fn from(error: LogError) -> Self {
        Self::environment(error)
    }
}
