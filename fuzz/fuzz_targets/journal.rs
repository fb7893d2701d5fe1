//! Fuzzes what a store has written down, as it is found when it is started again.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    xfer_fuzz::decoders::journal(bytes);
});
