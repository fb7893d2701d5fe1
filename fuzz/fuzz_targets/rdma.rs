//! Fuzzes what two ends say to each other that are connected by queue pairs.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    xfer_fuzz::decoders::rdma(bytes);
});
