//! What the fuzz targets do with bytes; `tests/fuzz_corpus.rs` does the same with the bytes that were interesting.
#![forbid(unsafe_code)]

pub mod decoders;
pub mod links;
pub mod sessions;
pub mod values;

/// What a fuzz target does with one input. It says whether the bytes were any good: a corpus of which none are has
/// outlived the format it was made for.
pub type Run = fn(&[u8]) -> bool;

/// All of them, by the name of the target and of its corpus folder.
pub const ALL: [(&str, Run); 21] = [
    ("frame", decoders::frame),
    ("packet", decoders::packet),
    ("rdma", decoders::rdma),
    ("link_message", decoders::link_message),
    ("ticket", decoders::ticket),
    ("message", decoders::message),
    ("generation", decoders::generation),
    ("seal", decoders::seal),
    ("store", decoders::store),
    ("journal", decoders::journal),
    ("manifest", decoders::manifest),
    ("tagged", decoders::tagged),
    ("notice", decoders::notice),
    ("settings", values::settings),
    ("value", values::value),
    ("trace", values::preemptions),
    ("job", values::job),
    ("proxied", decoders::proxied),
    ("link", links::link),
    ("source_session", sessions::source),
    ("target_session", sessions::target),
];
