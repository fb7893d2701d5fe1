//! What is at stake when ranks leave: assets, operations that make them again, the open step, the window.

use std::collections::{BTreeMap, BTreeSet};

use xfer_migrate_core::ItemClass;
use xfer_migrate_core::plan::Computing;

use crate::law::{KillLaw, LinkEstimate};
use crate::limits;

/// Something that new owners need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asset {
    /// What the framework calls it.
    pub name: String,
    /// What kind of thing it is. What is of the open step (gradients, boundaries) may be given up with that step.
    pub class: ItemClass,
    /// Its length in bytes, at least 1.
    pub bytes: u64,
    /// Which content this is, usually the optimizer step.
    pub version: u64,
    /// The ranks that hold it, those that leave among them.
    pub holders: Vec<u32>,
    /// The rank that takes it over.
    pub target: u32,
    /// The places of the assets without which it is worth nothing.
    pub needs: Vec<usize>,
}

/// Something that a target can do instead of receiving bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Operation {
    /// What it is.
    pub name: String,
    /// How long it takes its target, in seconds.
    pub time_s: f64,
    /// The places of the assets that it makes.
    pub outputs: Vec<usize>,
    /// The places of the assets that it is made from.
    pub inputs: Vec<usize>,
}

/// The training around the departure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// What the open step has taken so far, in seconds.
    pub step_done_s: f64,
    /// What is left of it on the nodes that there are now, in seconds.
    pub step_left_s: f64,
    /// How much longer a step takes on the nodes that stay, as a factor.
    pub slowdown: f64,
    /// The work since the last checkpoint, in seconds.
    pub rollback_s: f64,
    /// What reading a checkpoint takes, in seconds.
    pub reload_s: f64,
    /// Whether the job can do the open step again from its beginning. One that can't goes back to a checkpoint if it loses the step.
    pub redo: bool,
}

/// The time and the link that there are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Window {
    /// From the notice to the deadline, in seconds.
    pub notice_s: f64,
    /// Until the notice is heard and the first byte leaves, in seconds.
    pub detect_s: f64,
    /// Kept free before the deadline for seals and the commit, in seconds.
    pub reserve_s: f64,
    /// What each leaving rank's link carries.
    pub link: LinkEstimate,
    /// When machines really die.
    pub law: KillLaw,
    /// When targets compute what isn't sent.
    pub computing: Computing,
}

impl Window {
    /// For how long bytes may travel, in seconds.
    pub fn sending_s(&self) -> f64 {
        (self.notice_s - self.detect_s - self.reserve_s).max(0.0)
    }
}

/// What a hand-over takes beside bytes on a link and forwards that run again. A running job writes what it has measured; by
/// default nothing, for jobs that are only known by their shape.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Handling {
    /// How many bytes are digested in a second; none if that keeps up with every link.
    pub digest_bytes_per_s: Option<f64>,
    /// From the last digest to when everybody knows the new generation, in seconds.
    pub commit_s: f64,
    /// What the new owner that has most to do can do while bytes still come, in seconds: make layers, build graphs.
    pub meanwhile_s: f64,
    /// What it does once the layers are its own, in seconds.
    pub after_s: f64,
    /// Likewise what forwards in flight add to both, in seconds, if the node stops with them.
    pub stop_meanwhile_s: f64,
    /// See above.
    pub stop_after_s: f64,
    /// Until these forwards are described, in seconds: of the open step nothing leaves before that.
    pub describe_s: f64,
}

/// Everything about one departure, checked: names are unique, places are there, nothing is made from itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Departure {
    /// What is at stake.
    pub assets: Vec<Asset>,
    /// What can be made again, and how.
    pub operations: Vec<Operation>,
    /// The ranks that leave.
    pub leaving: Vec<u32>,
    /// The training around it.
    pub progress: Progress,
    /// The time and the link that there are.
    pub window: Window,
    /// What a hand-over takes beside.
    pub handling: Handling,
    /// What ranks have room for, in bytes, where that is known: (rank, bytes). Who is offered more refuses.
    pub memory_bytes: Vec<(u32, u64)>,
}

/// Why parts make no departure.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DepartureError {
    /// There is too much of something.
    #[error("{count} {what} are too many; at most {max} are planned")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        max: usize,
    },
    /// A name is empty, too long, or taken.
    #[error("the name `{name}` of an asset {problem}")]
    Name {
        /// The name, as far as it fits.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// An asset has no bytes, or absurdly many.
    #[error("asset `{name}` has {bytes} bytes; an asset has 1 to {}", limits::ASSET_BYTES_MAX)]
    Size {
        /// The asset.
        name: String,
        /// Its length.
        bytes: u64,
    },
    /// A number is no time.
    #[error("{what} is {}; it must be a number from 0 to {}", figure(*value), limits::TIME_S_MAX)]
    Number {
        /// Which number.
        what: String,
        /// What it is.
        value: f64,
    },
    /// A number is outside of what it may be.
    #[error("{what} is {}; it must be {range}", figure(*value))]
    Outside {
        /// Which number.
        what: String,
        /// What it is.
        value: f64,
        /// What it may be.
        range: String,
    },
    /// A number is no rate.
    #[error("{what} is {value}; it must be more than 0 bytes a second")]
    Rate {
        /// Which number.
        what: &'static str,
        /// What it is.
        value: f64,
    },
    /// Nobody leaves.
    #[error("nobody leaves: name at least one rank")]
    NobodyLeaves,
    /// A target leaves too.
    #[error("asset `{name}` goes to rank {rank}, which leaves too: name a rank that stays")]
    TargetLeaves {
        /// The asset.
        name: String,
        /// The rank.
        rank: u32,
    },
    /// Nobody has an asset.
    #[error("nobody holds asset `{name}`: name the ranks that have it")]
    NoHolder {
        /// The asset.
        name: String,
    },
    /// Something refers to an asset that isn't there.
    #[error("{what} refers to {input}, which is no asset")]
    Unknown {
        /// What refers to it.
        what: String,
        /// What it says.
        input: String,
    },
    /// Two operations make one asset, or one makes none, or makes assets of several targets.
    #[error("operation `{operation}` {problem}")]
    Operation {
        /// The operation.
        operation: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Something is made from itself or needs itself.
    #[error("asset `{name}` is made from itself or needs itself, directly or over others")]
    Cycle {
        /// An asset on the circle.
        name: String,
    },
}

impl Departure {
    /// Checks all parts against each other.
    pub fn check(self) -> Result<Self, DepartureError> {
        self.check_counts()?;
        self.check_assets()?;
        self.check_operations()?;
        self.check_numbers()?;
        self.check_circles()?;
        Ok(self)
    }

    /// Whether rank `rank` leaves.
    pub fn leaves(&self, rank: u32) -> bool {
        self.leaving.contains(&rank)
    }

    /// The leaving rank whose link carries an asset; none if a rank that stays has it, or its target itself.
    pub fn carrier(&self, asset: &Asset) -> Option<u32> {
        if asset.holders.iter().any(|holder| !self.leaves(*holder)) {
            return None;
        }
        asset.holders.iter().copied().min()
    }

    fn check_counts(&self) -> Result<(), DepartureError> {
        for (what, count, max) in [
            ("assets", self.assets.len(), limits::ASSETS_MAX),
            ("operations", self.operations.len(), limits::OPERATIONS_MAX),
            ("leaving ranks", self.leaving.len(), limits::RANKS_MAX),
            ("ranks with memory", self.memory_bytes.len(), limits::RANKS_MAX),
        ] {
            if count > max {
                return Err(DepartureError::TooMany { what, count, max });
            }
        }
        let targets: BTreeSet<u32> = self.assets.iter().map(|asset| asset.target).collect();
        if targets.len() > limits::RANKS_MAX {
            return Err(DepartureError::TooMany { what: "targets", count: targets.len(), max: limits::RANKS_MAX });
        }
        if self.leaving.is_empty() { Err(DepartureError::NobodyLeaves) } else { Ok(()) }
    }

    fn check_assets(&self) -> Result<(), DepartureError> {
        let mut names = BTreeSet::new();
        for asset in &self.assets {
            let name = || asset.name.chars().take(80).collect::<String>();
            if asset.name.is_empty() || asset.name.len() > limits::NAME_LEN_BYTES_MAX {
                return Err(DepartureError::Name { name: name(), problem: "is empty or too long" });
            }
            if !names.insert(&asset.name) {
                return Err(DepartureError::Name { name: name(), problem: "is there twice" });
            }
            if asset.bytes == 0 || asset.bytes > limits::ASSET_BYTES_MAX {
                return Err(DepartureError::Size { name: name(), bytes: asset.bytes });
            }
            if asset.holders.is_empty() {
                return Err(DepartureError::NoHolder { name: name() });
            }
            if asset.holders.len() > limits::RANKS_MAX {
                let (count, max) = (asset.holders.len(), limits::RANKS_MAX);
                return Err(DepartureError::TooMany { what: "holders of an asset", count, max });
            }
            if self.leaves(asset.target) {
                return Err(DepartureError::TargetLeaves { name: name(), rank: asset.target });
            }
            self.check_places(|| format!("asset `{}`", asset.name), &asset.needs)?;
        }
        Ok(())
    }

    fn check_operations(&self) -> Result<(), DepartureError> {
        let mut made = vec![false; self.assets.len()];
        for operation in &self.operations {
            let broken = |problem: String| DepartureError::Operation { operation: operation.name.clone(), problem };
            let what = || format!("operation `{}`", operation.name);
            self.check_places(what, &operation.outputs)?;
            self.check_places(what, &operation.inputs)?;
            let Some(first) = operation.outputs.first() else {
                return Err(broken("makes nothing".into()));
            };
            for output in &operation.outputs {
                let asset = &self.assets[*output];
                if asset.target != self.assets[*first].target {
                    return Err(broken("makes assets of two targets: divide it".into()));
                }
                if std::mem::replace(&mut made[*output], true) {
                    return Err(broken(format!("makes `{}`, which is made elsewhere too", asset.name)));
                }
            }
            number(what(), operation.time_s)?;
        }
        Ok(())
    }

    fn check_places(&self, what: impl Fn() -> String, places: &[usize]) -> Result<(), DepartureError> {
        match places.iter().find(|place| **place >= self.assets.len()) {
            Some(place) => Err(DepartureError::Unknown { what: what(), input: format!("asset number {place}") }),
            None => Ok(()),
        }
    }

    fn check_numbers(&self) -> Result<(), DepartureError> {
        let Progress { step_done_s, step_left_s, slowdown, rollback_s, reload_s, .. } = self.progress;
        let Window { notice_s, detect_s, reserve_s, link, .. } = self.window;
        let handling = self.handling;
        for (what, value) in [
            ("the time done of the step", step_done_s),
            ("the time left of the step", step_left_s),
            ("the slowdown", slowdown),
            ("the rollback", rollback_s),
            ("the reload", reload_s),
            ("the notice", notice_s),
            ("the detection", detect_s),
            ("the reserve", reserve_s),
            ("the spread of the link", link.spread),
            ("the time of the commit", handling.commit_s),
            ("the time of what is done meanwhile", handling.meanwhile_s),
            ("the time of what is done afterwards", handling.after_s),
            ("the time of what is done meanwhile for forwards", handling.stop_meanwhile_s),
            ("the time of what is done afterwards for forwards", handling.stop_after_s),
            ("the time of describing", handling.describe_s),
        ] {
            number(what.to_owned(), value)?;
        }
        if let Some(value) = handling.digest_bytes_per_s.filter(|rate| !(rate.is_finite() && *rate > 0.0)) {
            return Err(DepartureError::Rate { what: "the rate of digests", value });
        }
        if link.bytes_per_s.is_finite() && link.bytes_per_s >= 0.0 {
            return Ok(());
        }
        let range = "a number of bytes a second, 0 or more".into();
        Err(DepartureError::Outside { what: "the link's rate".into(), value: link.bytes_per_s, range })
    }

    /// Inputs of what an asset is made by, and its needs, must not lead back to it.
    fn check_circles(&self) -> Result<(), DepartureError> {
        let maker: BTreeMap<usize, &Operation> = self
            .operations
            .iter()
            .flat_map(|operation| operation.outputs.iter().map(move |output| (*output, operation)))
            .collect();
        let edges = |place: usize| {
            let inputs = maker.get(&place).map_or(&[][..], |operation| &operation.inputs);
            inputs.iter().chain(&self.assets[place].needs).copied()
        };
        let mut waits_for: Vec<usize> = (0..self.assets.len()).map(|place| edges(place).count()).collect();
        let mut leads_to: Vec<Vec<usize>> = vec![Vec::new(); self.assets.len()];
        for place in 0..self.assets.len() {
            edges(place).for_each(|from| leads_to[from].push(place));
        }
        let mut free: Vec<usize> = (0..self.assets.len()).filter(|place| waits_for[*place] == 0).collect();
        while let Some(place) = free.pop() {
            for next in &leads_to[place] {
                waits_for[*next] -= 1;
                if waits_for[*next] == 0 {
                    free.push(*next);
                }
            }
        }
        match waits_for.iter().position(|waits| *waits > 0) {
            Some(place) => Err(DepartureError::Cycle { name: self.assets[place].name.clone() }),
            None => Ok(()),
        }
    }
}

/// A number in a line for people: one of hundreds of digits by its power of ten.
pub(crate) fn figure(value: f64) -> String {
    if value.is_finite() && value.abs() >= 1e15 { format!("{value:e}") } else { value.to_string() }
}

fn number(what: String, value: f64) -> Result<(), DepartureError> {
    match value.is_finite() && (0.0..=limits::TIME_S_MAX).contains(&value) {
        true => Ok(()),
        false => Err(DepartureError::Number { what, value }),
    }
}
