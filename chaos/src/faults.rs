//! What is done to what passes one way, as values.

use std::time::Duration;

use xfer_transport_core::frame::FrameKind;

use crate::chance::Chance;

/// Which way bytes go through a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Way {
    /// From whoever connected to the process behind the proxy.
    In,
    /// From the process behind the proxy to whoever connected.
    Out,
}

/// Whose connections are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Callers {
    /// Everybody's, as far as nothing else is said of their rank.
    All,
    /// Those of this rank, as it introduces itself.
    Rank(u32),
}

/// What is done to what passes one way. By default nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Faults {
    /// How much later everything arrives.
    pub delay: Duration,
    /// Up to how much later still, by chance; order is kept, as TCP does.
    pub jitter: Duration,
    /// The most that passes, in bytes per second.
    pub bytes_per_s: Option<u64>,
    /// Nothing passes, and nothing is lost, until this is taken back: what a cut cable looks like to TCP.
    pub stalled: bool,
    /// What is done to single frames; the first rule that applies counts.
    pub rules: Vec<Rule>,
}

/// Something that is done to some frames.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// What is done.
    pub action: Action,
    /// To which kind of frame; `None` for all.
    pub kind: Option<FrameKind>,
    /// How likely, from 0 to 1.
    pub chance: f64,
    /// How often at most; `None` for no limit.
    pub times: Option<u32>,
}

/// What can be done to a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// It is thrown away.
    Drop,
    /// It arrives twice.
    Duplicate,
    /// It arrives after the next one.
    Swap,
    /// One bit of its payload is turned around.
    FlipPayload,
    /// One bit of its header is turned around.
    FlipHeader,
    /// Its header claims the longest payload there is.
    Oversize,
    /// Its version is the next one, and its header is sound.
    NextVersion,
    /// Half of it arrives, and then the end of the connection.
    Truncate,
    /// The connection is reset instead.
    Reset,
}

impl Rule {
    /// `action` for the next frame of `kind`, once.
    pub fn once(action: Action, kind: Option<FrameKind>) -> Self {
        Self { action, kind, chance: 1.0, times: Some(1) }
    }

    /// `action` for every frame of `kind`.
    pub fn always(action: Action, kind: Option<FrameKind>) -> Self {
        Self { action, kind, chance: 1.0, times: None }
    }

    /// Whether it is used for a frame of `kind` now; counts.
    pub(crate) fn applies(&mut self, kind: FrameKind, chance: &mut Chance) -> bool {
        let meant = self.kind.is_none_or(|meant| meant == kind) && self.times != Some(0);
        let applies = meant && (self.chance >= 1.0 || chance.share() < self.chance);
        if let Some(times) = self.times.as_mut().filter(|_| applies) {
            *times -= 1;
        }
        applies
    }
}

impl Faults {
    /// Nothing passes.
    pub fn stalled() -> Self {
        Self { stalled: true, ..Self::default() }
    }

    /// One rule and nothing else.
    pub fn rule(rule: Rule) -> Self {
        Self { rules: vec![rule], ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_counts_what_it_was_used_for_and_nothing_else() {
        let mut chance = Chance::new(1);
        let mut rule = Rule::once(Action::Drop, Some(FrameKind::Data));
        assert!(!rule.applies(FrameKind::Beat, &mut chance));
        assert!(rule.applies(FrameKind::Data, &mut chance));
        assert!(!rule.applies(FrameKind::Data, &mut chance));
        let mut rare = Rule { chance: 0.1, ..Rule::always(Action::Reset, None) };
        let used = (0..10_000).filter(|_| rare.applies(FrameKind::Beat, &mut chance)).count();
        assert!((800..1200).contains(&used), "{used}");
    }
}
