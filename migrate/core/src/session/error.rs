//! What must not happen to a session.

use xfer_transport_core::PeerId;

use crate::item::ItemId;
use crate::manifest::ManifestError;
use crate::message::MigrationId;

/// Something happened that must not happen. It changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// It comes at the wrong time.
    #[error("{what} is impossible in state {state}")]
    NotNow {
        /// What happened.
        what: &'static str,
        /// The state.
        state: &'static str,
    },
    /// It is for the other side of a migration.
    #[error("{what} is not for a {side}")]
    WrongSide {
        /// What happened.
        what: &'static str,
        /// Which side this is.
        side: &'static str,
    },
    /// A message is about another migration.
    #[error("the message is about the migration of {theirs}, and this is the migration of {ours}")]
    OtherMigration {
        /// What the message is about.
        theirs: MigrationId,
        /// What this session is about.
        ours: MigrationId,
    },
    /// A message is from a process that has no part in the migration.
    #[error("{from} has no part in this migration")]
    Stranger {
        /// Who sent it.
        from: PeerId,
    },
    /// An item isn't in the manifest, or isn't this target's.
    #[error("item {item} is not offered to rank {rank}")]
    UnknownItem {
        /// The item.
        item: ItemId,
        /// The rank that it would have to go to.
        rank: u32,
    },
    /// It is said of an item of which it can't be true.
    #[error("{what} can't be said of item {item} now")]
    Item {
        /// What was said.
        what: &'static str,
        /// The item.
        item: ItemId,
    },
    /// An item was announced with another version or digest than before.
    #[error("item {item} is there already with other content")]
    OtherContent {
        /// The item.
        item: ItemId,
    },
    /// Offers or grants are not the next ones.
    #[error("{what} has sequence {found}, and {expected} is expected")]
    Sequence {
        /// What came.
        what: &'static str,
        /// Its number.
        found: u32,
        /// The number it should have.
        expected: u32,
    },
    /// Grants don't fit the items they are for.
    #[error("the grants don't fit the items that were offered: {reason}")]
    Grants {
        /// How.
        reason: &'static str,
    },
    /// Items don't make a manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// An item goes to a rank that doesn't take part.
    #[error("item `{name}` goes to rank {target}, which is not a target of this migration")]
    NotATarget {
        /// The item's name.
        name: String,
        /// Its target.
        target: u32,
    },
    /// An item is to be fetched from the rank that leaves.
    #[error("item `{name}` is to be fetched from rank {rank}, which leaves; say what it costs to do without it")]
    FetchFromSource {
        /// The item's name.
        name: String,
        /// The source's rank.
        rank: u32,
    },
    /// The cut's record is too long.
    #[error("a record of {len_bytes} bytes is too long; at most {max_bytes} travel with a commit")]
    RecordTooLong {
        /// Its length.
        len_bytes: usize,
        /// What would have been taken.
        max_bytes: usize,
    },
    /// A seal contradicts the manifest or the migration.
    #[error("the seal of rank {rank} is not for this migration, or names items that are not that rank's")]
    Seal {
        /// Who sealed.
        rank: u32,
    },
}
