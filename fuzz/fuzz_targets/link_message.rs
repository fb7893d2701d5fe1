//! Fuzzes what links and paths say to each other.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    xfer_fuzz::decoders::link_message(bytes);
});
