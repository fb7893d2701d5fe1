//! Fuzzes a link from its first byte to its end, with a process that says whatever it likes at the other.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    xfer_fuzz::links::link(bytes);
});
