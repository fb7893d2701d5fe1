//! Fuzzes jobs as the options of `xfer plan` describe them.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    xfer_fuzz::values::job(bytes);
});
