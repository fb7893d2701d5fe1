//! Fuzzes what the two sides of a migration say to each other.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    xfer_fuzz::decoders::message(bytes);
});
