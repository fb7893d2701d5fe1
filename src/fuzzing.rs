//! Parsers of outside bytes that are nobody's business but ours, for fuzz targets; no interface for programs.

use std::io;

use crate::config::Config;
use crate::{log, tagged};

pub use crate::notice::fuzzing::{drain_order, metadata_answer, metadata_body, metadata_url, notice_file};

/// A message of tagged sends and receives. What is accepted means the same when it was written and read again.
pub fn tagged_message(bytes: &[u8]) -> bool {
    tagged::wire::comes_back(bytes)
}

/// What a configuration says of logging: whether a subscriber can be made of it.
pub fn log_filter(config: &Config) -> bool {
    log::subscriber(config, io::sink).is_ok()
}
