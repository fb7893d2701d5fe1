//! Fuzzes settings: an environment, a configuration file, the filter of the log.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    xfer_fuzz::values::settings(bytes);
});
