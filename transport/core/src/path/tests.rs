//! Tests of the path.
