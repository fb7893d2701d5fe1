//! Journals of a store: whole, torn, and as records that the target counts by itself.

use bytes::Bytes;
use xfer_migrate_core::store::journal::{Head, Journal, Record};
use xfer_migrate_core::store::{StateLimits, StoreState, Token, Version, Written};
use xfer_transport_core::Time;

use super::Seeds;

pub(super) fn journals() -> Seeds {
    let head = Head { life: 7, clock: [1; 16], ahead_ns: 5 };
    let (mut journal, mut whole) = Journal::begin(&head, &StoreState::new(StateLimits::default()));
    let mut records = Vec::new();
    for record in records_of_a_store() {
        journal.synced();
        let start = whole.len();
        journal.append(&record, &mut whole);
        // Length, sum and what was durable stand before the body.
        let body = &whole[start + 16..];
        records.extend([body.len() as u8, 1]);
        records.extend_from_slice(body);
    }
    let torn = whole[..whole.len() - 3].to_vec();
    ("journal", vec![("whole".to_owned(), whole), ("torn".to_owned(), torn), ("records".to_owned(), records)])
}

fn records_of_a_store() -> Vec<Record> {
    let token = |sequence| Token { client: 3, sequence };
    let written = |key: &str, version, value: &'static [u8]| {
        let (key, value) = (key.to_owned(), Bytes::from_static(value));
        Record::Written(Written {
            key,
            value,
            version: Version(version),
            token: token(version),
            at: Time::from_nanos(version),
        })
    };
    vec![
        Record::Forgotten(Version(2)),
        Record::Remembered(token(3), Version(3)),
        written("generation", 4, b"one"),
        written("peer/1", 5, b""),
        written("generation", 6, b"two"),
    ]
}
