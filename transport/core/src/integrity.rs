//! CRC-32C of chunks, combined to the transfer's.

/// CRC-32C (Castagnoli) of `bytes`.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

/// CRC-32C of what `crc32c` covers followed by `bytes`.
pub fn crc32c_append(crc32c: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c, bytes)
}

/// The checksum of a whole from the checksums of its parts, in the order in which they lie.
///
/// The parts may have been computed in any order, and the bytes are not needed again.
pub fn combine(parts: impl IntoIterator<Item = (u32, u64)>) -> u32 {
    parts.into_iter().fold(0, |whole, (crc32c, len_bytes)| {
        crc32c::crc32c_combine(whole, crc32c, usize::try_from(len_bytes).unwrap_or(usize::MAX))
    })
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
    }

    #[test]
    fn the_check_value_of_the_catalogue() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }
}
