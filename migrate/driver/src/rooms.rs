//! How much others may hand over to a process, as it says in the store.

use bytes::Bytes;
use xfer_migrate_core::store::records::room_key;

use crate::store::{Store, StoreError, Swap, Version};

/// Says how much others may hand over to this process, in place of what an earlier life of it has said.
pub(crate) fn publish(store: &dyn Store, rank: u32, bytes: u64) -> Result<(), StoreError> {
    let (key, value) = (room_key(rank), Bytes::from(bytes.to_string()));
    let mut version = Version::ABSENT;
    while let Swap::Lost(found) = store.compare_and_swap(&key, version, value.clone())? {
        if found.value == value {
            break;
        }
        version = found.version;
    }
    Ok(())
}

/// What ranks have room for, as far as they have said so.
pub(crate) fn of(store: &dyn Store, ranks: &[u32]) -> Vec<(u32, u64)> {
    let room = |rank: &u32| {
        let found = store.get(&room_key(*rank)).ok()??;
        let bytes = std::str::from_utf8(&found.value).ok()?.parse().ok()?;
        Some((*rank, bytes))
    };
    ranks.iter().filter_map(room).collect()
}
