//! Fuzzes how a process can be reached, as a store hands it on.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    xfer_fuzz::decoders::ticket(bytes);
});
