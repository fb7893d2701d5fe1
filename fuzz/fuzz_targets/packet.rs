//! Fuzzes what two ends say to each other that share memory.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    xfer_fuzz::decoders::packet(bytes);
});
