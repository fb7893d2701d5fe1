//! Fuzzes a target's word on what landed, as a store hands it on.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    xfer_fuzz::decoders::seal(bytes);
});
