//! The fence around a transfer's source: once it is closed, no link reads the source any more.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Lets links read a source until it is closed.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
    left: Condvar,
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    /// Links that are reading just now.
    inside: usize,
}

/// A link is reading the source.
pub(crate) struct Inside<'a>(&'a Gate);

impl Gate {
    /// Begins to read, unless it is closed.
    pub(crate) fn enter(&self) -> Option<Inside<'_>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return None;
        }
        state.inside += 1;
        Some(Inside(self))
    }

    /// Closes it and waits until nobody is inside. `false` if somebody still is after `timeout`.
    pub(crate) fn close(&self, timeout: Duration) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.closed = true;
        let waited = self.left.wait_timeout_while(state, timeout, |state| state.inside > 0);
        waited.unwrap_or_else(PoisonError::into_inner).0.inside == 0
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.inside -= 1;
        if state.closed && state.inside == 0 {
            self.0.left.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_enters_a_closed_gate() {
        let gate = Gate::default();
        drop(gate.enter().expect("it is open"));
        assert!(gate.close(Duration::ZERO));
        assert!(gate.enter().is_none());
    }

    #[test]
    fn closing_waits_for_those_inside() {
        let gate = Gate::default();
        let first = gate.enter().expect("it is open");
        let second = gate.enter().expect("several may be inside");
        assert!(!gate.close(Duration::ZERO));
        std::thread::scope(|scope| {
            let closing = scope.spawn(|| gate.close(Duration::from_secs(60)));
            drop(first);
            drop(second);
            assert!(closing.join().expect("no panic"));
        });
    }
}
