//! Fuzzes what a proxy is given to pass on.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    xfer_fuzz::decoders::proxied(bytes);
});
