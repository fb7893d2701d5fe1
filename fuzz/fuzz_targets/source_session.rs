//! Fuzzes one side of a migration, the source, with a peer and a store that say whatever they like.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    xfer_fuzz::sessions::source(bytes);
});
