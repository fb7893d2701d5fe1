//! The public API as its users see it: engines in one process, over real sockets and a real store.

mod again;
mod engine;
mod migration;
mod observe;
mod support;
