//! Fuzzes the manifest file of `xfer plan`, which anybody may have written.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    xfer_fuzz::decoders::manifest(bytes);
});
