//! The unit of rescue: a tensor or a small record, what it is, and what it costs to do without it.

use std::fmt;
use std::sync::Arc;

use crate::cost::RecomputeCost;

/// Names an item of one migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ItemId(pub u64);

impl fmt::Display for ItemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// Items that are worth something only together, such as the gradients of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u32);

impl GroupId {
    /// No group: the item is worth something by itself.
    pub const ALONE: Self = Self(0);
}

/// What kind of thing an item is. For people and reports: what decides is the item's cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ItemClass {
    /// A parameter or a buffer of the model.
    Parameter = 1,
    /// What an optimizer keeps beside a parameter.
    OptimizerState = 2,
    /// A gradient, as far as it was accumulated.
    Gradient = 3,
    /// An input of a layer, or an output on its way to the next.
    Boundary = 4,
    /// A tensor that a forward saved for its backward.
    Saved = 5,
    /// The state of a random number generator.
    Rng = 6,
    /// A table, a cursor, or another small record of the framework.
    Meta = 7,
}

impl ItemClass {
    /// All classes, in the order of their numbers.
    pub const ALL: [Self; 7] =
        [Self::Parameter, Self::OptimizerState, Self::Gradient, Self::Boundary, Self::Saved, Self::Rng, Self::Meta];

    /// The word for it in tables and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Parameter => "parameter",
            Self::OptimizerState => "optimizer",
            Self::Gradient => "gradient",
            Self::Boundary => "boundary",
            Self::Saved => "saved",
            Self::Rng => "rng",
            Self::Meta => "meta",
        }
    }

    /// The class of a wire number, if this build knows it.
    pub(crate) fn from_wire(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|class| *class as u8 == number)
    }
}

impl fmt::Display for ItemClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The unit of rescue: it arrives whole and verified, or the job does without it as its cost says.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Item {
    /// Names it in this migration.
    pub id: ItemId,
    /// What the framework calls it; unique in a migration.
    pub name: Arc<str>,
    /// What kind of thing it is.
    pub class: ItemClass,
    /// Its length in bytes, at least 1.
    pub bytes: u64,
    /// Which content this is, usually the optimizer step: two versions are never mixed.
    pub version: u64,
    /// The rank that takes it over.
    pub target: u32,
    /// What it is worth something together with.
    pub group: GroupId,
    /// What it costs to do without it.
    pub cost: RecomputeCost,
}
