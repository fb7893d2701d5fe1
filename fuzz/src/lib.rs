//! What the fuzz targets do with bytes; `tests/fuzz_corpus.rs` does the same with the bytes that were interesting.
#![forbid(unsafe_code)]

pub mod decoders;
pub mod sessions;

/// What a fuzz target does with one input. It says whether the bytes were any good: a corpus of which none are has
/// outlived the format it was made for.
pub type Run = fn(&[u8]) -> bool;

/// All of them, by the name of the target and of its corpus folder.
pub const ALL: [(&str, Run); 11] = [
    ("frame", decoders::frame),
    ("packet", decoders::packet),
    ("link_message", decoders::link_message),
    ("ticket", decoders::ticket),
    ("message", decoders::message),
    ("generation", decoders::generation),
    ("seal", decoders::seal),
    ("store", decoders::store),
    ("manifest", decoders::manifest),
    ("source_session", sessions::source),
    ("target_session", sessions::target),
];
