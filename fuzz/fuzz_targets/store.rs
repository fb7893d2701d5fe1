//! Fuzzes what the store and its clients say to each other.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    xfer_fuzz::decoders::store(bytes);
});
