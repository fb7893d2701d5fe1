//! What is done to what passes one way, as values.

use std::time::Duration;

use xfer_transport_core::frame::FrameKind;

use crate::chance::Chance;
use crate::limits::{DELAY_MAX, RULES_MAX};

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

    /// Faults as people write them, separated by commas: `delay=20ms,flip=0.001,stall`. What durations and sizes look like
    /// is up to the program.
    pub fn read(
        text: &str,
        duration: impl Fn(&str) -> Result<Duration, String>,
        size: impl Fn(&str) -> Result<u64, String>,
    ) -> Result<Self, String> {
        let mut faults = Self::default();
        for word in text.split(',').filter(|word| !word.is_empty()) {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            match name {
                "stall" => faults.stalled = true,
                "delay" => faults.delay = bounded(name, duration(value)?)?,
                "jitter" => faults.jitter = bounded(name, duration(value)?)?,
                "rate" => faults.bytes_per_s = Some(size(value.strip_suffix("/s").unwrap_or(value))?),
                _ => faults.rules.push(rule(name, value)?),
            }
            if faults.rules.len() > RULES_MAX {
                return Err(format!("more than {RULES_MAX} faults of single frames"));
            }
        }
        Ok(faults)
    }

    /// One rule and nothing else.
    pub fn rule(rule: Rule) -> Self {
        Self { rules: vec![rule], ..Self::default() }
    }
}

/// What is done to single frames, with its chance.
fn rule(name: &str, value: &str) -> Result<Rule, String> {
    let action = match name {
        "drop" => Action::Drop,
        "duplicate" => Action::Duplicate,
        "swap" => Action::Swap,
        "flip" => Action::FlipPayload,
        "garble" => Action::FlipHeader,
        "oversize" => Action::Oversize,
        "next-version" => Action::NextVersion,
        "truncate" => Action::Truncate,
        "reset" => Action::Reset,
        _ => {
            return Err(format!(
                "`{name}` is no fault; there are delay, jitter, rate, stall, drop, duplicate, swap, flip, garble, oversize, \
                 next-version, truncate, reset"
            ));
        }
    };
    let chance = value.parse().ok().filter(|chance| (0.0..=1.0).contains(chance));
    let chance = chance.ok_or_else(|| format!("{name} takes a chance from 0 to 1, as in {name}=0.01"))?;
    Ok(Rule { chance, ..Rule::always(action, None) })
}

fn bounded(name: &str, time: Duration) -> Result<Duration, String> {
    if time > DELAY_MAX { Err(format!("{name} is at most {} s", DELAY_MAX.as_secs())) } else { Ok(time) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Durations in seconds, sizes in bytes.
    fn read(text: &str) -> Result<Faults, String> {
        let duration = |text: &str| text.parse().map(Duration::from_secs).map_err(|_| "30s".to_owned());
        Faults::read(text, duration, |text| text.parse().map_err(|_| "1MB".to_owned()))
    }

    #[test]
    fn faults_are_read_as_they_are_written() {
        let found = read("delay=2,jitter=1,rate=1000/s,flip=0.001,reset=1").expect("sound");
        assert_eq!((found.delay, found.jitter), (Duration::from_secs(2), Duration::from_secs(1)));
        assert_eq!((found.bytes_per_s, found.stalled), (Some(1000), false));
        let rules: Vec<_> = found.rules.iter().map(|rule| (rule.action, rule.chance)).collect();
        assert_eq!(rules, [(Action::FlipPayload, 0.001), (Action::Reset, 1.0)]);
        assert!(read("stall").expect("sound").stalled);
        let found = read("oversize=1,next-version=0.5").expect("sound");
        let rules: Vec<_> = found.rules.iter().map(|rule| (rule.action, rule.chance)).collect();
        assert_eq!(rules, [(Action::Oversize, 1.0), (Action::NextVersion, 0.5)]);
        for (wrong, says) in [
            ("fire", "no fault"),
            ("flip=2", "from 0 to 1"),
            ("flip=NaN", "from 0 to 1"),
            ("drop", "from 0 to 1"),
            ("delay=x", "30s"),
            ("delay=3601", "at most 3600 s"),
        ] {
            let refused = read(wrong).expect_err(wrong);
            assert!(refused.contains(says), "{refused}");
        }
    }

    #[test]
    fn rules_are_counted() {
        assert!(read(&"drop=1,".repeat(RULES_MAX)).is_ok());
        assert!(read(&"drop=1,".repeat(RULES_MAX + 1)).expect_err("one too many").contains("more than"));
    }

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
