//! Fuzzes what says that this machine goes away: a file, a metadata service, an order in the store.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    xfer_fuzz::decoders::notice(bytes);
});
