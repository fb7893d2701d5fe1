//! Messages as bytes, and back.

use std::sync::Arc;

use bytes::Bytes;
use xfer_transport_core::landed::Landed;
use xfer_transport_core::limits::LANDED_RANGES_MAX;
use xfer_transport_core::{PeerId, Place, RegionId, RemoteRegion};

use super::{Body, Cut, Message, MigrationId, Offer, Refusal};
use crate::codec::{DecodeError, Reader, Writer};
use crate::cost::RecomputeCost;
use crate::generation::{read_ids, read_owners, write_owners};
use crate::item::{GroupId, Item, ItemClass, ItemId};
use crate::limits;

/// The first byte of an encoded message; raised when the layout changes.
const FORMAT: u8 = 1;

const OFFER: u8 = 1;
const GRANTS: u8 = 2;
const REFUSE: u8 = 3;
const SENT: u8 = 4;
const LANDED: u8 = 5;
const DAMAGED: u8 = 6;
const CUT: u8 = 7;
const FINISHED: u8 = 8;
const DEADLINE: u8 = 9;
const KEPT: u8 = 10;

const OTHER_GENERATION: u8 = 1;
const NOT_A_TARGET: u8 = 2;
const OUT_OF_MEMORY: u8 = 3;
const LEAVING: u8 = 4;
const INVALID: u8 = 5;
const ALLOCATION: u8 = 6;

const IRREPLACEABLE: u8 = 0;
const COMPUTE: u8 = 1;
const FETCH: u8 = 2;

const PLACE_HOST: u8 = 1;

/// An item without its name and its cost.
const ITEM_LEN_BYTES_MIN: usize = 8 + 4 + 1 + 8 + 8 + 4 + 4 + 1;

/// An item's id, its region's id and length, and the place.
const GRANT_LEN_BYTES: usize = 8 + 8 + 8 + 1;

/// An item's id, and the number of its ranges.
const KEPT_LEN_BYTES_MIN: usize = 8 + 4;

/// Where a range starts and ends, and its checksum.
const RANGE_LEN_BYTES: usize = 8 + 8 + 4;

impl Message {
    /// The message as bytes for a peer.
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::default();
        writer.u8(FORMAT);
        write_migration(&mut writer, self.migration);
        match &self.body {
            Body::Offer(offer) => {
                writer.u8(OFFER);
                write_offer(&mut writer, offer);
            }
            Body::Kept { items } => {
                writer.u8(KEPT);
                writer.list(items, write_kept);
            }
            Body::Grants { sequence, grants } => {
                writer.u8(GRANTS);
                writer.u32(*sequence);
                writer.list(grants, write_grant);
            }
            Body::Refuse { refusal } => {
                writer.u8(REFUSE);
                write_refusal(&mut writer, refusal);
            }
            Body::Sent { item, version, crc32c, send } => {
                writer.u8(SENT);
                writer.u64(item.0);
                writer.u64(*version);
                writer.u32(*crc32c);
                writer.u32(*send);
            }
            Body::Landed { item, send } => {
                writer.u8(LANDED);
                writer.u64(item.0);
                writer.u32(*send);
            }
            Body::Damaged { item, send } => {
                writer.u8(DAMAGED);
                writer.u64(item.0);
                writer.u32(*send);
            }
            Body::Cut(cut) => {
                writer.u8(CUT);
                write_cut(&mut writer, cut);
            }
            Body::Finished { skipped } => {
                writer.u8(FINISHED);
                writer.list(skipped, |writer, id| writer.u64(id.0));
            }
            Body::Deadline { time_left } => {
                writer.u8(DEADLINE);
                writer.duration(*time_left);
            }
        }
        writer.into_bytes()
    }

    /// The message of bytes from a peer. Never panics, and allocates no more than a few times their length.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > limits::MESSAGE_LEN_BYTES_MAX {
            let max = limits::MESSAGE_LEN_BYTES_MAX as u64;
            return Err(DecodeError::TooLong { field: "the message", len: bytes.len() as u64, max });
        }
        let mut reader = Reader::new(bytes);
        match reader.u8("the message's format")? {
            FORMAT => {}
            found => return Err(DecodeError::Unknown { field: "the message's format", number: found.into() }),
        }
        let migration = read_migration(&mut reader)?;
        let body = match reader.u8("the kind of message")? {
            OFFER => Body::Offer(read_offer(&mut reader)?),
            KEPT => {
                Body::Kept { items: reader.list("the kept items", limits::ITEMS_MAX, KEPT_LEN_BYTES_MIN, read_kept)? }
            }
            GRANTS => Body::Grants {
                sequence: reader.u32("the offer's sequence")?,
                grants: reader.list("the grants", limits::ITEMS_MAX, GRANT_LEN_BYTES, read_grant)?,
            },
            REFUSE => Body::Refuse { refusal: read_refusal(&mut reader)? },
            SENT => Body::Sent {
                item: read_id(&mut reader)?,
                version: reader.u64("the item's version")?,
                crc32c: reader.u32("the item's digest")?,
                send: reader.u32("which sending it was")?,
            },
            LANDED => Body::Landed { item: read_id(&mut reader)?, send: reader.u32("which sending it was")? },
            DAMAGED => Body::Damaged { item: read_id(&mut reader)?, send: reader.u32("which sending it was")? },
            CUT => Body::Cut(read_cut(&mut reader)?),
            FINISHED => Body::Finished { skipped: read_ids(&mut reader, "the skipped items")? },
            DEADLINE => Body::Deadline { time_left: reader.duration("the time left")? },
            number => return Err(DecodeError::Unknown { field: "the kind of message", number: number.into() }),
        };
        reader.end()?;
        Ok(Self { migration, body })
    }
}

pub(crate) fn write_migration(writer: &mut Writer, migration: MigrationId) {
    writer.u32(migration.source.rank);
    writer.u32(migration.source.incarnation);
    writer.u64(migration.generation);
    writer.u32(migration.attempt);
}

pub(crate) fn read_migration(reader: &mut Reader<'_>) -> Result<MigrationId, DecodeError> {
    Ok(MigrationId {
        source: PeerId { rank: reader.u32("the source")?, incarnation: reader.u32("the source's life")? },
        generation: reader.u64("the migration's generation")?,
        attempt: reader.u32("the migration's attempt")?,
    })
}

pub(crate) fn write_cut(writer: &mut Writer, cut: &Cut) {
    writer.u32(cut.total_items);
    writer.bytes(&cut.record);
}

pub(crate) fn read_cut(reader: &mut Reader<'_>) -> Result<Cut, DecodeError> {
    Ok(Cut {
        total_items: reader.u32("how many items there are")?,
        record: reader.bytes("the cut's record", limits::RECORD_LEN_BYTES_MAX)?,
    })
}

/// How many bytes `item` takes in an offer.
pub(crate) fn item_len_bytes(item: &Item) -> usize {
    let cost = match &item.cost {
        RecomputeCost::Irreplaceable => 0,
        RecomputeCost::Compute { from, .. } => 8 + 4 + 8 * from.len(),
        RecomputeCost::Fetch { .. } => 4,
    };
    ITEM_LEN_BYTES_MIN + item.name.len() + cost
}

fn write_offer(writer: &mut Writer, offer: &Offer) {
    writer.u32(offer.sequence);
    writer.duration(offer.time_left);
    writer.list(&offer.targets, |writer, rank| writer.u32(*rank));
    write_owners(writer, &offer.owners_after);
    writer.list(&offer.items, write_item);
}

fn read_offer(reader: &mut Reader<'_>) -> Result<Offer, DecodeError> {
    Ok(Offer {
        sequence: reader.u32("the offer's sequence")?,
        time_left: reader.duration("the time left")?,
        targets: reader.list("the targets", limits::TARGETS_MAX, 4, |reader| reader.u32("a target"))?,
        owners_after: read_owners(reader)?,
        items: reader.list("the items", limits::ITEMS_MAX, ITEM_LEN_BYTES_MIN, read_item)?,
    })
}

fn write_item(writer: &mut Writer, item: &Item) {
    writer.u64(item.id.0);
    writer.text(&item.name, limits::NAME_LEN_BYTES_MAX);
    writer.u8(item.class as u8);
    writer.u64(item.bytes);
    writer.u64(item.version);
    writer.u32(item.target);
    writer.u32(item.group.0);
    match &item.cost {
        RecomputeCost::Irreplaceable => writer.u8(IRREPLACEABLE),
        RecomputeCost::Compute { time, from } => {
            writer.u8(COMPUTE);
            writer.duration(*time);
            writer.list(from, |writer, id| writer.u64(id.0));
        }
        RecomputeCost::Fetch { from } => {
            writer.u8(FETCH);
            writer.u32(*from);
        }
    }
}

fn read_item(reader: &mut Reader<'_>) -> Result<Item, DecodeError> {
    let id = read_id(reader)?;
    let name: Arc<str> = reader.text("the item's name", limits::NAME_LEN_BYTES_MAX)?.into();
    let class = reader.u8("the item's class")?;
    Ok(Item {
        id,
        name,
        class: ItemClass::from_wire(class)
            .ok_or(DecodeError::Unknown { field: "the item's class", number: class.into() })?,
        bytes: reader.u64("the item's length")?,
        version: reader.u64("the item's version")?,
        target: reader.u32("the item's target")?,
        group: GroupId(reader.u32("the item's group")?),
        cost: match reader.u8("the item's cost")? {
            IRREPLACEABLE => RecomputeCost::Irreplaceable,
            COMPUTE => RecomputeCost::Compute {
                time: reader.duration("the time to compute the item")?,
                from: reader.list("the item's inputs", limits::INPUTS_PER_ITEM_MAX, 8, read_id)?,
            },
            FETCH => RecomputeCost::Fetch { from: reader.u32("the rank that holds the item")? },
            number => return Err(DecodeError::Unknown { field: "the item's cost", number: number.into() }),
        },
    })
}

fn read_id(reader: &mut Reader<'_>) -> Result<ItemId, DecodeError> {
    reader.u64("the item's id").map(ItemId)
}

fn write_kept(writer: &mut Writer, (item, landed): &(ItemId, Landed)) {
    writer.u64(item.0);
    let ranges: Vec<_> = landed.ranges().collect();
    writer.list(&ranges, |writer, (range, crc32c)| {
        writer.u64(range.start);
        writer.u64(range.end);
        writer.u32(*crc32c);
    });
}

fn read_kept(reader: &mut Reader<'_>) -> Result<(ItemId, Landed), DecodeError> {
    let item = read_id(reader)?;
    let (mut landed, mut least) = (Landed::default(), 0);
    let field = "a kept range";
    reader.list("the kept ranges", LANDED_RANGES_MAX, RANGE_LEN_BYTES, |reader| {
        let (start, end, crc32c) = (reader.u64(field)?, reader.u64(field)?, reader.u32(field)?);
        if start < least || end <= start {
            return Err(DecodeError::Inconsistent { field, reason: "it is empty, or not behind the one before it" });
        }
        least = end;
        landed.insert(start..end, crc32c);
        Ok(())
    })?;
    Ok((item, landed))
}

fn write_grant(writer: &mut Writer, (item, region): &(ItemId, RemoteRegion)) {
    writer.u64(item.0);
    writer.u64(region.id.0);
    writer.u64(region.len_bytes);
    writer.u8(PLACE_HOST);
}

fn read_grant(reader: &mut Reader<'_>) -> Result<(ItemId, RemoteRegion), DecodeError> {
    let item = read_id(reader)?;
    let id = RegionId(reader.u64("the granted region")?);
    let len_bytes = reader.u64("the granted length")?;
    match reader.u8("the granted place")? {
        PLACE_HOST => Ok((item, RemoteRegion { id, len_bytes, place: Place::Host })),
        number => Err(DecodeError::Unknown { field: "the granted place", number: number.into() }),
    }
}

fn write_refusal(writer: &mut Writer, refusal: &Refusal) {
    match refusal {
        Refusal::OtherGeneration { offered, known } => {
            writer.u8(OTHER_GENERATION);
            writer.u64(*offered);
            writer.u64(*known);
        }
        Refusal::NotATarget { rank } => {
            writer.u8(NOT_A_TARGET);
            writer.u32(*rank);
        }
        Refusal::OutOfMemory { rank, needed_bytes, available_bytes } => {
            writer.u8(OUT_OF_MEMORY);
            writer.u32(*rank);
            writer.u64(*needed_bytes);
            writer.u64(*available_bytes);
        }
        Refusal::Leaving { rank } => {
            writer.u8(LEAVING);
            writer.u32(*rank);
        }
        Refusal::Invalid { reason } => {
            writer.u8(INVALID);
            writer.text(reason, limits::REASON_LEN_BYTES_MAX);
        }
        Refusal::Allocation { reason } => {
            writer.u8(ALLOCATION);
            writer.text(reason, limits::REASON_LEN_BYTES_MAX);
        }
    }
}

fn read_refusal(reader: &mut Reader<'_>) -> Result<Refusal, DecodeError> {
    Ok(match reader.u8("the refusal")? {
        OTHER_GENERATION => Refusal::OtherGeneration {
            offered: reader.u64("the offered generation")?,
            known: reader.u64("the known generation")?,
        },
        NOT_A_TARGET => Refusal::NotATarget { rank: reader.u32("the refusing rank")? },
        OUT_OF_MEMORY => Refusal::OutOfMemory {
            rank: reader.u32("the refusing rank")?,
            needed_bytes: reader.u64("the needed bytes")?,
            available_bytes: reader.u64("the available bytes")?,
        },
        LEAVING => Refusal::Leaving { rank: reader.u32("the refusing rank")? },
        INVALID => Refusal::Invalid { reason: read_reason(reader)? },
        ALLOCATION => Refusal::Allocation { reason: read_reason(reader)? },
        number => return Err(DecodeError::Unknown { field: "the refusal", number: number.into() }),
    })
}

fn read_reason(reader: &mut Reader<'_>) -> Result<String, DecodeError> {
    reader.text("the reason", limits::REASON_LEN_BYTES_MAX).map(str::to_owned)
}

#[cfg(test)]
mod tests;
