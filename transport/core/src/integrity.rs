//! CRC-32C of chunks, combined to the transfer's.

use crc_fast::CrcAlgorithm::Crc32Iscsi;
use crc_fast::{Digest, checksum, checksum_combine};

/// CRC-32C (Castagnoli) of `bytes`.
pub fn crc32c(bytes: &[u8]) -> u32 {
    checksum(Crc32Iscsi, bytes) as u32
}

/// CRC-32C of what `crc32c` covers followed by `bytes`.
pub fn crc32c_append(crc32c: u32, bytes: &[u8]) -> u32 {
    // A finished checksum is the complement of the state it was finished from.
    let mut digest = Digest::new_with_init_state(Crc32Iscsi, u64::from(!crc32c));
    digest.update(bytes);
    digest.finalize() as u32
}

/// The checksum of a whole from the checksums of its parts, in the order in which they lie.
///
/// The parts may have been computed in any order, and the bytes are not needed again.
pub fn combine(parts: impl IntoIterator<Item = (u32, u64)>) -> u32 {
    let join = |whole, (part, len_bytes)| match len_bytes {
        0 => whole,
        len_bytes => checksum_combine(Crc32Iscsi, whole, u64::from(part), len_bytes),
    };
    parts.into_iter().fold(u64::from(crc32c(b"")), join) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn chunks_combine_to_the_whole(bytes in proptest::collection::vec(any::<u8>(), 0..4096), chunk in 1_usize..512) {
            // Summed from the back, as if they had arrived in that order.
            let mut parts: Vec<(u32, u64)> =
                bytes.chunks(chunk).rev().map(|part| (crc32c(part), part.len() as u64)).collect();
            parts.reverse();
            prop_assert_eq!(combine(parts), crc32c(&bytes));
        }

        #[test]
        fn parts_may_be_appended(bytes in proptest::collection::vec(any::<u8>(), 0..4096), at in 0_usize..4096) {
            let (head, tail) = bytes.split_at(at.min(bytes.len()));
            prop_assert_eq!(crc32c_append(crc32c(head), tail), crc32c(&bytes));
        }
    }

    #[test]
    fn the_check_value_of_the_catalogue() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }
}
