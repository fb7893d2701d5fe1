//! Fuzzes single values as people write them: durations, sizes, rates, transports, faults.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    xfer_fuzz::values::value(bytes);
});
