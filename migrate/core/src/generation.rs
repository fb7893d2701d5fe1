//! Who owns what: complete, numbered snapshots, of which the store holds the one that is true.

use std::fmt;

use bytes::Bytes;
use xfer_transport_core::PeerId;

use crate::codec::{DecodeError, Reader, Writer};
use crate::item::ItemId;
use crate::limits;
use crate::message::MigrationId;

/// The first byte of an encoded record; raised when the layout changes.
const FORMAT: u8 = 1;

/// What stands for the source of the first generation, which has none.
const NOBODY: PeerId = PeerId { rank: 0, incarnation: 0 };

/// A digest over what landed at one target; see [`crate::seal::root`].
pub type Root = [u8; 32];

/// What made a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum GenerationKind {
    /// The job began.
    Initial = 0,
    /// The targets own what the source owned: all of it landed, or can be computed again.
    Handoff = 1,
    /// Nothing changed hands: the source stays.
    Withdrawn = 2,
    /// The targets own what the source owned, and restore it from a checkpoint.
    Restore = 3,
}

impl GenerationKind {
    /// The word for it in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Initial => "initial",
            Self::Handoff => "handoff",
            Self::Withdrawn => "withdrawn",
            Self::Restore => "restore",
        }
    }

    fn from_wire(number: u8) -> Option<Self> {
        [Self::Initial, Self::Handoff, Self::Withdrawn, Self::Restore].into_iter().find(|kind| *kind as u8 == number)
    }
}

impl fmt::Display for GenerationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One generation: who owns what from now on, and how that came about.
///
/// Whoever proposes writes it over the generation it is based on by compare-and-swap, so exactly one record follows
/// each. Whatever a record says is so, also for those who proposed another one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GenerationRecord {
    /// Its number.
    pub generation: u64,
    /// The generation it replaced; its own number only for the first one.
    pub base: u64,
    /// What made it.
    pub kind: GenerationKind,
    /// The process whose leaving it is about; none for the first one.
    pub source: Option<PeerId>,
    /// Which of that process's attempts it ended.
    pub attempt: u32,
    /// Who owns what: all shards by name, and the rank of each.
    pub owners: Vec<(String, u32)>,
    /// What landed where: a digest for each rank that sealed.
    pub roots: Vec<(u32, Root)>,
    /// The items that landed, over all targets, in the order of their ids.
    pub landed: Vec<ItemId>,
    /// What must be had again, inputs first.
    pub recompute: Vec<ItemId>,
    /// The names of what is lost; when there are very many, the first of them.
    pub missing: Vec<String>,
    /// Why, in words.
    pub reason: String,
    /// What the source wrote at the cut: cursor, step, whatever the new owners must know. Opaque here.
    pub record: Bytes,
}

impl GenerationRecord {
    /// The generation of a job that begins.
    pub fn initial(owners: Vec<(String, u32)>) -> Self {
        Self {
            generation: 0,
            base: 0,
            kind: GenerationKind::Initial,
            source: None,
            attempt: 0,
            owners,
            roots: Vec::new(),
            landed: Vec::new(),
            recompute: Vec::new(),
            missing: Vec::new(),
            reason: String::new(),
            record: Bytes::new(),
        }
    }

    /// The record by which `migration` ends with everything where it was: this record's owners stay.
    pub(crate) fn withdrawn(&self, migration: MigrationId, reason: String) -> Self {
        Self {
            generation: migration.generation.saturating_add(1),
            base: migration.generation,
            kind: GenerationKind::Withdrawn,
            source: Some(migration.source),
            attempt: migration.attempt,
            reason,
            ..Self::initial(self.owners.clone())
        }
    }

    /// Whether this record is the end of `migration`.
    pub fn ends(&self, migration: MigrationId) -> bool {
        self.source == Some(migration.source)
            && self.attempt == migration.attempt
            && self.base == migration.generation
            && self.kind != GenerationKind::Initial
    }

    /// The record as a value of the store.
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::default();
        writer.u8(FORMAT);
        writer.u64(self.generation);
        writer.u64(self.base);
        writer.u8(self.kind as u8);
        writer.u8(self.source.is_some().into());
        let source = self.source.unwrap_or(NOBODY);
        writer.u32(source.rank);
        writer.u32(source.incarnation);
        writer.u32(self.attempt);
        write_owners(&mut writer, &self.owners);
        writer.list(&self.roots, |writer, (rank, root)| {
            writer.u32(*rank);
            writer.array(root);
        });
        writer.list(&self.landed, |writer, id| writer.u64(id.0));
        writer.list(&self.recompute, |writer, id| writer.u64(id.0));
        writer.list(&self.missing, |writer, name| writer.text(name, limits::NAME_LEN_BYTES_MAX));
        writer.text(&self.reason, limits::REASON_LEN_BYTES_MAX);
        writer.bytes(&self.record);
        writer.into_bytes()
    }

    /// The record of a value of the store.
    pub fn decode(value: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(value);
        match reader.u8("the generation's format")? {
            FORMAT => {}
            found => return Err(DecodeError::Unknown { field: "the generation's format", number: found.into() }),
        }
        let generation = reader.u64("the generation")?;
        let base = reader.u64("the base generation")?;
        let kind = reader.u8("the kind of generation")?;
        let kind = GenerationKind::from_wire(kind)
            .ok_or(DecodeError::Unknown { field: "the kind of generation", number: kind.into() })?;
        let has_source = reader.bool("whether there is a source")?;
        let source = PeerId { rank: reader.u32("the source")?, incarnation: reader.u32("the source's life")? };
        if !has_source && source != NOBODY {
            let reason = "there is none, and it has a rank or a life";
            return Err(DecodeError::Inconsistent { field: "the source", reason });
        }
        let record = Self {
            generation,
            base,
            kind,
            source: has_source.then_some(source),
            attempt: reader.u32("the attempt")?,
            owners: read_owners(&mut reader)?,
            roots: reader.list("the roots", limits::TARGETS_MAX, 36, |reader| {
                Ok((reader.u32("a root's rank")?, reader.array("a root")?))
            })?,
            landed: read_ids(&mut reader, "the landed items")?,
            recompute: read_ids(&mut reader, "the items to recompute")?,
            missing: reader.list("the missing items", limits::MISSING_NAMES_MAX, 4, |reader| {
                reader.text("a missing item", limits::NAME_LEN_BYTES_MAX).map(str::to_owned)
            })?,
            reason: reader.text("the reason", limits::REASON_LEN_BYTES_MAX)?.to_owned(),
            record: reader.bytes("the cut's record", limits::RECORD_LEN_BYTES_MAX)?,
        };
        reader.end()?;
        record.check()?;
        Ok(record)
    }

    /// A first generation replaces nothing; every other replaces the one before it and is about a source.
    fn check(&self) -> Result<(), DecodeError> {
        let consistent = match self.kind {
            GenerationKind::Initial => self.base == self.generation && self.source.is_none(),
            _ => self.base.checked_add(1) == Some(self.generation) && self.source.is_some(),
        };
        if !consistent {
            let reason = "its number, its base and its source don't belong together";
            return Err(DecodeError::Inconsistent { field: "the generation", reason });
        }
        Ok(())
    }
}

pub(crate) fn write_owners(writer: &mut Writer, owners: &[(String, u32)]) {
    writer.list(owners, |writer, (shard, rank)| {
        writer.text(shard, limits::SHARD_NAME_LEN_BYTES_MAX);
        writer.u32(*rank);
    });
}

pub(crate) fn read_owners(reader: &mut Reader<'_>) -> Result<Vec<(String, u32)>, DecodeError> {
    reader.list("the owners", limits::SHARDS_MAX, 8, |reader| {
        let shard = reader.text("a shard's name", limits::SHARD_NAME_LEN_BYTES_MAX)?;
        Ok((shard.to_owned(), reader.u32("a shard's owner")?))
    })
}

pub(crate) fn read_ids(reader: &mut Reader<'_>, field: &'static str) -> Result<Vec<ItemId>, DecodeError> {
    reader.list(field, limits::ITEMS_MAX, 8, |reader| reader.u64(field).map(ItemId))
}

#[cfg(test)]
mod tests;
