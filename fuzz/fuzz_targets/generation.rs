//! Fuzzes the record of who owns what, as a store hands it on.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    xfer_fuzz::decoders::generation(bytes);
});
