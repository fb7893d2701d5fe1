//! Fuzzes what tagged sends and receives say to each other.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    xfer_fuzz::decoders::tagged(bytes);
});
