//! What fuzzing found interesting is refused, or comes back byte by byte: there is one way to write each value.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use xfer_migrate_core::{DecodeError, GenerationRecord, Message, Seal};

fn replay<T>(corpus: &str, decode: impl Fn(&[u8]) -> Result<T, DecodeError>, encode: impl Fn(&T) -> Bytes) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(corpus);
    let mut accepted = 0;
    let mut refused = 0;
    for entry in fs::read_dir(&folder).expect("the corpus is in the tree") {
        let path = entry.expect("the corpus can be listed").path();
        let bytes = fs::read(&path).expect("the corpus can be read");
        match decode(&bytes) {
            Ok(value) => {
                assert_eq!(encode(&value)[..], bytes[..], "{}", path.display());
                accepted += 1;
            }
            Err(_) => refused += 1,
        }
    }
    assert!(accepted > 0 && refused > 0, "{corpus}: {accepted} accepted, {refused} refused");
}

#[test]
fn messages() {
    replay("message", Message::decode, Message::encode);
}

#[test]
fn generations() {
    replay("generation", GenerationRecord::decode, GenerationRecord::encode);
}

#[test]
fn seals() {
    replay("seal", Seal::decode, Seal::encode);
}
