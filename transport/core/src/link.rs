//! The life of one link: greeting, open, draining, closed; and whether the other end is alive.
//!
//! ```text
//!              welcomed                leave                 drained
//!  Greeting ─────────────▶ Open ─────────────▶ Draining ─────────────▶ Closed
//!     │   refused, lost, timeout  │  bye, lost, silent  │  bye, lost, silent  ▲
//!     └───────────────────────────┴─────────────────────┴────────────────────┘
//! ```

use std::time::Duration;

use crate::Time;
use crate::limits::{DEAD_AFTER, HANDSHAKE_TIMEOUT, HEARTBEAT_EVERY, HELD_UP_MAX, OWN_PAUSE_MIN, SUSPECT_AFTER};

/// Where a link is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// The ends introduce themselves.
    Greeting,
    /// It carries frames.
    Open,
    /// What was posted leaves; nothing new is taken.
    Draining,
    /// It is over.
    Closed,
}

/// What can happen to a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// Both ends know each other.
    Welcomed,
    /// One end refuses the other.
    Refused,
    /// We leave.
    Leave,
    /// Everything that was posted has left.
    Drained,
    /// The peer has left.
    Bye,
    /// The connection broke.
    Lost,
    /// The peer said nothing for too long.
    Silent,
}

/// Every transition there is; all else is a violation.
pub const TRANSITIONS: &[(State, Event, State)] = &[
    (State::Greeting, Event::Welcomed, State::Open),
    (State::Greeting, Event::Refused, State::Closed),
    (State::Greeting, Event::Leave, State::Closed),
    (State::Greeting, Event::Lost, State::Closed),
    (State::Greeting, Event::Silent, State::Closed),
    (State::Open, Event::Leave, State::Draining),
    (State::Open, Event::Bye, State::Closed),
    (State::Open, Event::Lost, State::Closed),
    (State::Open, Event::Silent, State::Closed),
    (State::Draining, Event::Drained, State::Closed),
    (State::Draining, Event::Bye, State::Closed),
    (State::Draining, Event::Lost, State::Closed),
    (State::Draining, Event::Silent, State::Closed),
];

/// An event that the state doesn't know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a link that is {state:?} can't be {event:?}")]
pub struct Violation {
    /// Where the link was.
    pub state: State,
    /// What came.
    pub event: Event,
}

/// One link's machine. It owns no connection: whoever does asks it what time it is for.
#[derive(Debug)]
pub struct LinkMachine {
    state: State,
    /// When bytes last arrived, or their absence was last excused.
    heard: Time,
    /// When bytes last arrived.
    spoke: Time,
    said: Time,
    asked: Time,
    suspected: bool,
}

/// What a link's owner has to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Say that we are alive.
    Beat,
    /// The peer has been silent for a while: it is suspected, and nothing is done about it yet.
    Suspect,
    /// The peer has been silent for too long: the link is closed.
    Dead(Duration),
}

impl LinkMachine {
    /// A link whose greeting begins.
    pub fn new(now: Time) -> Self {
        Self { state: State::Greeting, heard: now, spoke: now, said: now, asked: now, suspected: false }
    }

    /// Where it is.
    pub fn state(&self) -> State {
        self.state
    }

    /// Something happened.
    pub fn handle(&mut self, event: Event, now: Time) -> Result<State, Violation> {
        let (_, _, next) = TRANSITIONS
            .iter()
            .find(|(state, on, _)| (*state, *on) == (self.state, event))
            .ok_or(Violation { state: self.state, event })?;
        if self.state == State::Greeting {
            (self.heard, self.spoke) = (now, now);
        }
        self.state = *next;
        Ok(self.state)
    }

    /// Bytes of the peer have arrived.
    pub fn heard(&mut self, now: Time) {
        self.heard = self.heard.max(now);
        self.spoke = self.spoke.max(now);
        self.suspected = false;
    }

    /// At `at`, the peer said elsewhere that it is alive and its threads are held up: until then its silence here is no sign
    /// of a broken link. This is believed for [`HELD_UP_MAX`].
    pub fn excused(&mut self, at: Time) {
        if at.since(self.spoke) < HELD_UP_MAX {
            self.heard = self.heard.max(at);
        }
    }

    /// Whether the peer is suspected.
    pub fn is_suspected(&self) -> bool {
        self.suspected
    }

    /// A frame of ours was posted.
    pub fn said(&mut self, now: Time) {
        self.said = now;
    }

    /// What is due at `now`. Ask after reading what has arrived, and again until there is nothing.
    pub fn handle_timeout(&mut self, now: Time) -> Option<Due> {
        // If we were stopped ourselves, the peer may have spoken all along: its silence is counted in our own
        // waking time.
        let pause = now.since(self.asked);
        self.asked = now;
        if pause > OWN_PAUSE_MIN {
            self.heard = now.min(self.heard.after(pause));
        }
        let silence = now.since(self.heard);
        match self.state {
            State::Greeting if silence >= HANDSHAKE_TIMEOUT => self.die(silence),
            State::Open | State::Draining if silence >= DEAD_AFTER => self.die(silence),
            State::Open if now.since(self.said) >= HEARTBEAT_EVERY => {
                self.said = now;
                Some(Due::Beat)
            }
            State::Open if silence >= SUSPECT_AFTER && !self.suspected => {
                self.suspected = true;
                Some(Due::Suspect)
            }
            _ => None,
        }
    }

    /// When to ask [`LinkMachine::handle_timeout`] again, at the latest: so often that being late is a pause.
    pub fn poll_timeout(&self) -> Option<Time> {
        let due = match self.state {
            State::Greeting => self.heard.after(HANDSHAKE_TIMEOUT),
            State::Open => self.said.after(HEARTBEAT_EVERY).min(self.heard.after(DEAD_AFTER)),
            State::Draining => self.heard.after(DEAD_AFTER),
            State::Closed => return None,
        };
        Some(due.min(self.asked.after(HEARTBEAT_EVERY)))
    }

    fn die(&mut self, silence: Duration) -> Option<Due> {
        self.state = State::Closed;
        Some(Due::Dead(silence))
    }
}

/// The states as a graph in the DOT language, for the documentation.
pub fn dot() -> String {
    let mut graph = String::from("digraph link {\n");
    for (from, event, to) in TRANSITIONS {
        graph += &format!("  {from:?} -> {to:?} [label=\"{event:?}\"];\n");
    }
    graph + "}\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [State; 4] = [State::Greeting, State::Open, State::Draining, State::Closed];
    const EVENTS: [Event; 7] =
        [Event::Welcomed, Event::Refused, Event::Leave, Event::Drained, Event::Bye, Event::Lost, Event::Silent];

    fn at(ms: u64) -> Time {
        Time::from_nanos(ms * 1_000_000)
    }

    fn machine(state: State, now: Time) -> LinkMachine {
        LinkMachine { state, ..LinkMachine::new(now) }
    }

    /// Every event in every state, as a picture.
    #[test]
    fn the_table_of_states() {
        let mut table = String::new();
        for state in STATES {
            for event in EVENTS {
                let next = machine(state, Time::ZERO).handle(event, Time::ZERO);
                let next = next.map_or("-".into(), |next| format!("{next:?}"));
                table += &format!("{:<9} {:<9} {next}\n", format!("{state:?}"), format!("{event:?}"));
            }
        }
        let expected = "\
Greeting  Welcomed  Open
Greeting  Refused   Closed
Greeting  Leave     Closed
Greeting  Drained   -
Greeting  Bye       -
Greeting  Lost      Closed
Greeting  Silent    Closed
Open      Welcomed  -
Open      Refused   -
Open      Leave     Draining
Open      Drained   -
Open      Bye       Closed
Open      Lost      Closed
Open      Silent    Closed
Draining  Welcomed  -
Draining  Refused   -
Draining  Leave     -
Draining  Drained   Closed
Draining  Bye       Closed
Draining  Lost      Closed
Draining  Silent    Closed
Closed    Welcomed  -
Closed    Refused   -
Closed    Leave     -
Closed    Drained   -
Closed    Bye       -
Closed    Lost      -
Closed    Silent    -
";
        assert_eq!(table, expected);
    }

    /// Asks as late as it may, from `from` to `to`, and returns when the link was found dead.
    fn found_dead(link: &mut LinkMachine, from: u64, to: u64) -> Option<u64> {
        let mut now = at(from);
        while now <= at(to) {
            if std::iter::from_fn(|| link.handle_timeout(now)).any(|due| matches!(due, Due::Dead(_))) {
                return Some(now.as_nanos() / 1_000_000);
            }
            now = link.poll_timeout().expect("it isn't closed");
        }
        None
    }

    #[test]
    fn silence_is_death_after_one_second_and_not_before() {
        assert_eq!(found_dead(&mut machine(State::Open, at(0)), 0, 999), None);
        assert_eq!(found_dead(&mut machine(State::Open, at(0)), 0, 5_000), Some(1_000));
    }

    #[test]
    fn a_sign_of_life_starts_the_silence_again() {
        let mut link = machine(State::Open, at(0));
        assert_eq!(found_dead(&mut link, 0, 900), None);
        assert!(link.is_suspected());
        link.heard(at(900));
        assert!(!link.is_suspected());
        assert_eq!(found_dead(&mut link, 900, 5_000), Some(1_900));
    }

    #[test]
    fn our_own_pause_is_not_the_peers_silence() {
        let mut link = machine(State::Open, at(0));
        assert_eq!(found_dead(&mut link, 0, 400), None);
        // Stopped for 30 s, then it listens again: the 400 ms of before count, the pause doesn't.
        assert_eq!(found_dead(&mut link, 30_400, 40_000), Some(31_000));
    }

    #[test]
    fn a_peer_that_is_held_up_is_waited_for_as_long_as_it_says_so_and_not_for_ever() {
        let mut link = machine(State::Open, at(0));
        for now in (100..=5_000).step_by(100) {
            link.excused(at(now));
            assert_eq!(found_dead(&mut link, now, now), None);
        }
        assert_eq!(found_dead(&mut link, 5_000, 9_000), Some(6_000), "it says so no more");
        let mut link = machine(State::Open, at(0));
        let dead = (100..).step_by(100).find(|now| {
            link.excused(at(*now));
            found_dead(&mut link, *now, *now).is_some()
        });
        assert_eq!(dead, Some(10_900), "the last excuse that counts is the one before ten seconds");
    }

    #[test]
    fn an_idle_link_beats_and_a_busy_one_needs_not() {
        let mut link = machine(State::Open, at(0));
        assert_eq!(link.handle_timeout(at(99)), None);
        assert_eq!(link.handle_timeout(at(100)), Some(Due::Beat));
        link.said(at(150));
        assert_eq!(link.handle_timeout(at(249)), None);
        assert_eq!(link.handle_timeout(at(250)), Some(Due::Beat));
    }

    #[test]
    fn a_greeting_has_three_seconds() {
        assert_eq!(found_dead(&mut machine(State::Greeting, at(0)), 0, 2_999), None);
        assert_eq!(found_dead(&mut machine(State::Greeting, at(0)), 0, 9_000), Some(3_000));
    }

    #[test]
    fn the_graph_has_every_transition() {
        assert_eq!(dot().matches(" -> ").count(), TRANSITIONS.len());
    }
}
