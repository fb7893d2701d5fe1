//! CRC-32C of chunks, combined to the transfer's.

use crc_fast::CrcAlgorithm::Crc32Iscsi;
use crc_fast::{Digest, checksum};

use crate::planted::{self, Bug};

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

/// The checksum of a whole from the checksums and lengths of its parts, in the order in which they lie.
///
/// The parts may have been computed in any order, and the bytes are not needed again.
pub fn combine(parts: impl IntoIterator<Item = (u32, u64)>) -> u32 {
    // All chunks of a transfer but the last are of one length, so its shift is worth keeping.
    let (mut shift_len_bytes, mut shift) = (0, ONE);
    let join = |whole, (part, len_bytes)| {
        if len_bytes != shift_len_bytes {
            (shift_len_bytes, shift) = (len_bytes, shift_by(len_bytes));
        }
        if planted::is(Bug::CombineBackwards) {
            return multiply(shift, part) ^ whole;
        }
        multiply(shift, whole) ^ part
    };
    parts.into_iter().fold(0, join)
}

/// The polynomial of CRC-32C, its lowest power in the highest bit, as all polynomials here.
const POLYNOMIAL: u32 = 0x82f6_3b78;

const ONE: u32 = 1 << 31;

/// What moves a checksum past `len_bytes` bytes that follow: x to the power of their bits, modulo the polynomial.
fn shift_by(len_bytes: u64) -> u32 {
    let (mut shift, mut power, mut left) = (ONE, ONE >> 8, len_bytes);
    while left > 0 {
        if left & 1 == 1 {
            shift = multiply(shift, power);
        }
        power = multiply(power, power);
        left >>= 1;
    }
    shift
}

/// The product of two polynomials over the bits, modulo CRC-32C's.
fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    for power in (0..32).rev() {
        product ^= b & ((a >> power) & 1).wrapping_neg();
        b = (b >> 1) ^ (POLYNOMIAL & (b & 1).wrapping_neg());
    }
    product
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
    fn lengths_that_differ_and_parts_that_are_empty_combine_too() {
        let bytes: Vec<u8> = (0..100_000_u32).map(|byte| (byte * 31 / 7) as u8).collect();
        let ends = [0, 0, 1, 4096, 8192, 8192, 70_000, 100_000];
        let parts = ends.windows(2).map(|ends| &bytes[ends[0]..ends[1]]);
        assert_eq!(combine(parts.map(|part| (crc32c(part), part.len() as u64))), crc32c(&bytes));
        assert_eq!(combine([]), crc32c(b""));
    }

    #[test]
    fn the_check_value_of_the_catalogue() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }
}
