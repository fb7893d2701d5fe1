//! Lanes: who is served first on a link.

use std::fmt;

/// What a transfer is for, and so who is served first.
///
/// A lower lane yields between chunks, never inside one: the wait of a `Step` message behind gigabytes of `Rescue`
/// is one chunk, not the queue; and nothing at all if it is small, since then it goes beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Lane {
    /// Messages of the protocol itself.
    Control = 0,
    /// The running training step: activations and gradients that a peer waits for.
    Step = 1,
    /// A migration: bytes that must leave before a deadline.
    Rescue = 2,
    /// Everything that nobody waits for.
    Bulk = 3,
}

impl Lane {
    /// All lanes, first served first.
    pub const ALL: [Self; 4] = [Self::Control, Self::Step, Self::Rescue, Self::Bulk];

    /// The lanes that somebody waits for. Their small chunks travel where no bulk is before them.
    pub const URGENT: [Self; 2] = [Self::Control, Self::Step];

    /// The lane of a wire number, if there is one.
    pub fn from_wire(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Control => "control",
            Self::Step => "step",
            Self::Rescue => "rescue",
            Self::Bulk => "bulk",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_lane_has_its_number_and_its_name() {
        let named: Vec<String> = (0..4).filter_map(Lane::from_wire).map(|lane| lane.to_string()).collect();
        assert_eq!(named, ["control", "step", "rescue", "bulk"]);
        assert_eq!(Lane::from_wire(4), None);
    }
}
