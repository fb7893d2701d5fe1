//! How a measurement fails, and with which exit code.

use std::process::ExitCode;

/// Shown under the help.
pub(crate) const EXIT_CODES: &str = "Exit codes: 0 done, 1 wrong usage, 2 no connection or too slow, 3 wrong data, \
                                     4 a deadline missed, 5 another path than the one required, 6 below --min-bw.";

/// Why a measurement failed.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    what: String,
}

pub(crate) type Outcome<T> = Result<T, Failure>;

impl Failure {
    pub(crate) fn usage(what: impl ToString) -> Self {
        Self { code: 1, what: what.to_string() }
    }

    /// The other end can't be reached, or doesn't do what it is asked in time.
    pub(crate) fn connection(what: impl ToString) -> Self {
        Self { code: 2, what: what.to_string() }
    }

    pub(crate) fn wrong_data(what: impl ToString) -> Self {
        Self { code: 3, what: what.to_string() }
    }

    pub(crate) fn too_late(what: impl ToString) -> Self {
        Self { code: 4, what: what.to_string() }
    }

    pub(crate) fn wrong_path(what: impl ToString) -> Self {
        Self { code: 5, what: what.to_string() }
    }

    pub(crate) fn too_slow(what: impl ToString) -> Self {
        Self { code: 6, what: what.to_string() }
    }

    pub(crate) fn report(&self) -> ExitCode {
        // What others wrote doesn't move the cursor.
        let what: String = self.what.chars().filter(|c| !c.is_control()).collect();
        eprintln!("xfer-bench: {what}");
        ExitCode::from(self.code)
    }

    pub(crate) fn code(&self) -> u8 {
        self.code
    }

    pub(crate) fn what(&self) -> &str {
        &self.what
    }
}
