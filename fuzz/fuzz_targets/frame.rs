//! Fuzzes the header in front of everything that crosses a link.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    xfer_fuzz::decoders::frame(bytes);
});
