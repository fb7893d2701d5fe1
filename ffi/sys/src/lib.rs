//! What xfer calls that may not be there: libraries opened at run time, their tables of functions, and the structures they agree on;
//! and devices of the kernel.
//!
//! Nothing is linked. A machine without a library gets a sentence that says what was tried, and everything else goes on.

pub mod dmabuf;
pub mod verbs;
