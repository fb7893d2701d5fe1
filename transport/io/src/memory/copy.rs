//! Copies bytes and sums them in one pass.
//!
//! A copy that is summed afterwards reads its bytes twice, and has to go through the caches for that. Done at once the
//! sum costs nothing that can be measured, it is of the very bytes that were stored, whoever changes the source
//! meanwhile, and a long copy may go past the caches: it then doesn't fetch what it overwrites, and leaves to others
//! what they keep there.

use xfer_transport_core::integrity;

/// Copies `len` bytes and returns CRC-32C of what `crc32c` covers followed by them. With `streams` they go past the
/// caches, where the processor has a way: right for more than fits there.
///
/// # Safety
///
/// `from` must be valid for reads and `to` for writes of `len` bytes; the two must not overlap. Others may change either
/// meanwhile: then the bytes are whatever was there, and the sum is of what was stored.
pub(super) unsafe fn copy_and_sum(from: *const u8, to: *mut u8, len: usize, crc32c: u32, streams: bool) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if len >= wide::LEN_MIN && wide::is_here() {
        // SAFETY: the processor has what the function needs, and the caller vouches for the rest.
        return unsafe { wide::copy_and_sum(from, to, len, crc32c, streams) };
    }
    let _ = streams;
    // SAFETY: as the caller says.
    unsafe { copy_then_sum(from, to, len, crc32c) }
}

/// On any processor. The caller takes so little at once that it is summed in the caches.
///
/// # Safety
///
/// As above.
unsafe fn copy_then_sum(from: *const u8, to: *mut u8, len: usize, crc32c: u32) -> u32 {
    // SAFETY: the caller vouches for both ranges. What is summed is what has landed, as far as nobody changes that.
    let landed = unsafe {
        to.copy_from_nonoverlapping(from, len);
        std::slice::from_raw_parts(to, len)
    };
    integrity::crc32c_append(crc32c, landed)
}

/// With registers of 64 bytes and the multiplication that a sum of many bytes at once is made of.
#[cfg(target_arch = "x86_64")]
mod wide {
    use std::arch::x86_64::*;

    use xfer_transport_core::integrity;

    /// Bytes of one register.
    const LANE_BYTES: usize = 64;

    /// Bytes of one turn: as many multiplications as overlap.
    const TURN_BYTES: usize = 4 * LANE_BYTES;

    /// Below this the ends cost more than the middle saves.
    pub(super) const LEN_MIN: usize = 4 * TURN_BYTES;

    pub(super) fn is_here() -> bool {
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("vpclmulqdq")
            && is_x86_feature_detected!("pclmulqdq")
            && is_x86_feature_detected!("sse4.2")
    }

    /// # Safety
    ///
    /// As for the function above, on a processor of this kind, with [`LEN_MIN`] bytes at least.
    #[target_feature(enable = "avx512f,avx512dq,vpclmulqdq,pclmulqdq,sse4.2")]
    pub(super) unsafe fn copy_and_sum(from: *const u8, to: *mut u8, len: usize, crc32c: u32, streams: bool) -> u32 {
        // Loads are aligned: each must be one load that nothing repeats, since another process may write there.
        let head = to_aligned(from);
        let middle = (len - head) / TURN_BYTES * TURN_BYTES;
        let streams = streams && to_aligned(to.wrapping_add(head)) == 0;
        // SAFETY: three ranges that lie one after the other within what the caller vouches for. The second is aligned for
        // loads, and for stores if they stream, and of whole turns, at least one: the head is shorter than a register.
        unsafe {
            let crc32c = short(from, to, head, crc32c);
            let (from, to) = (from.add(head), to.add(head));
            let crc32c = match streams {
                true => turns::<true>(from, to, middle, crc32c),
                false => turns::<false>(from, to, middle, crc32c),
            };
            short(from.add(middle), to.add(middle), len - head - middle, crc32c)
        }
    }

    fn to_aligned(start: *const u8) -> usize {
        start.addr().wrapping_neg() % LANE_BYTES
    }

    /// Less than a turn, by way of memory that is ours alone.
    ///
    /// # Safety
    ///
    /// As for the function above.
    unsafe fn short(from: *const u8, to: *mut u8, len: usize, crc32c: u32) -> u32 {
        let mut bytes = [0; TURN_BYTES];
        let bytes = &mut bytes[..len];
        // SAFETY: the caller vouches for both ranges, and nobody else knows the third.
        unsafe {
            bytes.as_mut_ptr().copy_from_nonoverlapping(from, len);
            to.copy_from_nonoverlapping(bytes.as_ptr(), len);
        }
        integrity::crc32c_append(crc32c, bytes)
    }

    /// Whole turns.
    ///
    /// # Safety
    ///
    /// As for the function above, with a source that is aligned to a register, a target too if it streams, and one turn at least.
    #[target_feature(enable = "avx512f,avx512dq,vpclmulqdq,pclmulqdq,sse4.2")]
    unsafe fn turns<const STREAMS: bool>(from: *const u8, to: *mut u8, len: usize, crc32c: u32) -> u32 {
        let turn = |at: usize| {
            [0, 1, 2, 3].map(|lane| {
                let at = at + lane * LANE_BYTES;
                // SAFETY: inside both ranges, and aligned as the instructions need it. Volatile, so that what is stored and
                // what is summed come from one and the same load.
                unsafe {
                    let bytes = from.add(at).cast::<__m512i>().read_volatile();
                    match STREAMS {
                        true => _mm512_stream_si512(to.add(at).cast(), bytes),
                        false => _mm512_storeu_si512(to.add(at).cast(), bytes),
                    }
                    bytes
                }
            })
        };
        let past_a_turn = wide_factors(TURN_BYTES);
        let [mut a, mut b, mut c, mut d] = turn(0);
        // What was summed before stands in front of the first bytes.
        a = _mm512_xor_si512(a, _mm512_zextsi128_si512(_mm_cvtsi32_si128(!crc32c as i32)));
        for at in (TURN_BYTES..len).step_by(TURN_BYTES) {
            let [next_a, next_b, next_c, next_d] = turn(at);
            a = fold(a, past_a_turn, next_a);
            b = fold(b, past_a_turn, next_b);
            c = fold(c, past_a_turn, next_c);
            d = fold(d, past_a_turn, next_d);
        }
        if STREAMS {
            // Such stores are seen in any order, and what tells others of them comes after this.
            _mm_sfence();
        }
        let past_a_lane = wide_factors(LANE_BYTES);
        let all = fold(fold(fold(a, past_a_lane, b), past_a_lane, c), past_a_lane, d);
        let quarters = [
            _mm512_extracti64x2_epi64::<0>(all),
            _mm512_extracti64x2_epi64::<1>(all),
            _mm512_extracti64x2_epi64::<2>(all),
            _mm512_extracti64x2_epi64::<3>(all),
        ];
        let mut last = quarters[3];
        for (quarter, behind_bytes) in quarters.into_iter().zip([48, 32, 16]) {
            let [low, high] = factors(behind_bytes);
            let factors = _mm_set_epi64x(high, low);
            last = _mm_xor_si128(last, _mm_clmulepi64_si128::<0x00>(quarter, factors));
            last = _mm_xor_si128(last, _mm_clmulepi64_si128::<0x11>(quarter, factors));
        }
        // What is left has the remainder of all of it.
        let [low, high] = [_mm_extract_epi64::<0>(last), _mm_extract_epi64::<1>(last)];
        !(_mm_crc32_u64(_mm_crc32_u64(0, low as u64), high as u64) as u32)
    }

    /// Moves the remainders in `summed` past the bytes that `factors` are for, and adds `next`.
    #[inline]
    #[target_feature(enable = "avx512f,vpclmulqdq")]
    fn fold(summed: __m512i, factors: __m512i, next: __m512i) -> __m512i {
        const XOR_OF_THREE: i32 = 0x96;
        let low = _mm512_clmulepi64_epi128::<0x00>(summed, factors);
        let high = _mm512_clmulepi64_epi128::<0x11>(summed, factors);
        _mm512_ternarylogic_epi64::<XOR_OF_THREE>(low, high, next)
    }

    #[target_feature(enable = "avx512f")]
    fn wide_factors(len_bytes: usize) -> __m512i {
        let [low, high] = factors(len_bytes);
        _mm512_set_epi64(high, low, high, low, high, low, high, low)
    }

    /// What moves the two halves of 16 bytes past `len_bytes` bytes: powers of x modulo the polynomial, in the order of bits
    /// that reflected sums have, one place up since a product of 64 and 64 bits has 127.
    fn factors(len_bytes: usize) -> [i64; 2] {
        let bits = 8 * len_bytes;
        [bits + 32, bits - 32].map(|power| i64::from(power_of_x(power)) << 1)
    }

    /// x to the power of `power` modulo CRC-32C's polynomial, the lowest power in the highest bit.
    const fn power_of_x(power: usize) -> u32 {
        let (mut product, mut left) = (1 << 31, power);
        while left > 0 {
            product = (product >> 1) ^ (0x82f6_3b78 & (product & 1_u32).wrapping_neg());
            left -= 1;
        }
        product
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Copies `len` bytes between places that are so far from aligned, into the middle of bytes that must stay.
    fn copied(len: usize, from_at: usize, to_at: usize, crc32c: u32, streams: bool) -> (Vec<u8>, u32, Vec<u8>) {
        let source: Vec<u8> = (0..from_at + len).map(|byte| (byte * 31 / 7) as u8).collect();
        let mut target = vec![0xc5; to_at + len + 64];
        // SAFETY: two vectors that are long enough.
        let sum =
            unsafe { copy_and_sum(source.as_ptr().add(from_at), target.as_mut_ptr().add(to_at), len, crc32c, streams) };
        let mut other = vec![0; len];
        // SAFETY: likewise.
        let elsewhere = unsafe { copy_then_sum(source.as_ptr().add(from_at), other.as_mut_ptr(), len, crc32c) };
        assert_eq!((elsewhere, &other[..]), (sum, &target[to_at..to_at + len]), "not the same on any processor");
        let beside = target.split_off(to_at + len);
        assert!(beside.iter().chain(&target[..to_at]).all(|byte| *byte == 0xc5), "beside what was to be written");
        (source[from_at..].to_vec(), sum, target[to_at..].to_vec())
    }

    proptest! {
        #[test]
        fn what_is_copied_is_what_was_there_and_so_is_its_sum(
            len in 0_usize..20_000, from_at in 0_usize..130, to_at in 0_usize..130, before: u32, streams: bool
        ) {
            let (source, sum, target) = copied(len, from_at, to_at, before, streams);
            prop_assert_eq!(sum, integrity::crc32c_append(before, &source));
            prop_assert!(source == target);
        }
    }

    #[test]
    fn every_length_around_a_turn_is_summed_right() {
        for len in (0..1_300).chain([128 << 10, (128 << 10) + 1]) {
            for streams in [false, true] {
                let (source, sum, target) = copied(len, 0, 0, 7, streams);
                assert_eq!(sum, integrity::crc32c_append(7, &source), "{len} bytes");
                assert!(source == target, "{len} bytes");
            }
        }
    }
}
