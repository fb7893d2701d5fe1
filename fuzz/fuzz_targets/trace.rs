//! Fuzzes traces of preemptions.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    xfer_fuzz::values::preemptions(bytes);
});
