//! A target's last word on what landed: written once, after its memory was fenced.

use bytes::Bytes;
use sha2::{Digest, Sha256};
use xfer_transport_core::PeerId;

use crate::codec::{DecodeError, Reader, Writer};
use crate::generation::{Root, read_ids};
use crate::item::ItemId;
use crate::message::{self, Cut, MigrationId};

/// The first byte of an encoded seal; raised when the layout changes.
const FORMAT: u8 = 1;

/// Keeps our digests apart from those of the same bytes elsewhere.
const ROOT_DOMAIN: &[u8] = b"xfer seal root 1\0";

/// One target's seal: what landed there, verified, at a moment after which nothing more can land.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Seal {
    /// The migration it belongs to.
    pub migration: MigrationId,
    /// The target, and which life of it: what an earlier life had is gone.
    pub target: PeerId,
    /// The digest over what landed; see [`root`].
    pub root: Root,
    /// The target's items that landed, in the order of their ids.
    pub landed: Vec<ItemId>,
    /// The target's items that didn't, in the order of their ids.
    pub missing: Vec<ItemId>,
    /// What the source said at the cut, if that had reached this target.
    pub cut: Option<Cut>,
}

/// One landed item, as a root covers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaf {
    /// The item.
    pub id: ItemId,
    /// Which content it is.
    pub version: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its digest, as taken at the source and verified at the target.
    pub crc32c: u32,
}

/// The digest over everything that landed at a target, in whatever order it did: SHA-256 over a domain tag, the number
/// of leaves, and the leaves sorted by id.
pub fn root(leaves: &[Leaf]) -> Root {
    let mut sorted = leaves.to_vec();
    sorted.sort_unstable_by_key(|leaf| leaf.id);
    let mut hasher = Sha256::new();
    hasher.update(ROOT_DOMAIN);
    hasher.update((sorted.len() as u64).to_le_bytes());
    for leaf in sorted {
        hasher.update(leaf.id.0.to_le_bytes());
        hasher.update(leaf.version.to_le_bytes());
        hasher.update(leaf.bytes.to_le_bytes());
        hasher.update(leaf.crc32c.to_le_bytes());
    }
    hasher.finalize().into()
}

/// Where the seal of `target` is in the store. It is written there once, by creating the key.
pub fn seal_key(migration: MigrationId, target: u32) -> String {
    format!("{}{target}", seal_prefix(migration))
}

/// What the keys of all seals of `migration` begin with.
pub fn seal_prefix(migration: MigrationId) -> String {
    let MigrationId { source, generation, attempt } = migration;
    format!("migration/{generation}/{}.{}/{attempt}/seal/", source.rank, source.incarnation)
}

impl Seal {
    /// The seal as a value of the store.
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::default();
        writer.u8(FORMAT);
        message::write_migration(&mut writer, self.migration);
        writer.u32(self.target.rank);
        writer.u32(self.target.incarnation);
        writer.array(&self.root);
        writer.list(&self.landed, |writer, id| writer.u64(id.0));
        writer.list(&self.missing, |writer, id| writer.u64(id.0));
        writer.u8(self.cut.is_some().into());
        if let Some(cut) = &self.cut {
            message::write_cut(&mut writer, cut);
        }
        writer.into_bytes()
    }

    /// The seal of a value of the store.
    pub fn decode(value: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(value);
        match reader.u8("the seal's format")? {
            FORMAT => {}
            found => return Err(DecodeError::Unknown { field: "the seal's format", number: found.into() }),
        }
        let seal = Self {
            migration: message::read_migration(&mut reader)?,
            target: PeerId { rank: reader.u32("the target")?, incarnation: reader.u32("the target's life")? },
            root: reader.array("the root")?,
            landed: read_ids(&mut reader, "the landed items")?,
            missing: read_ids(&mut reader, "the missing items")?,
            cut: match reader.bool("whether there was a cut")? {
                true => Some(message::read_cut(&mut reader)?),
                false => None,
            },
        };
        reader.end()?;
        Ok(seal)
    }
}

#[cfg(test)]
mod tests;
