//! Bugs that can be compiled in on purpose, to see whether the simulator finds them.
//!
//! Without the feature `planted`, which nothing that ships turns on, every question is answered with a constant "no".

/// Makes the bugs of a core: `Bug`, `is`, and with the feature `planted` of that core `Bug::ALL` and `plant`.
#[doc(hidden)]
#[macro_export]
macro_rules! bugs {
    ($(#[$of:meta])* enum Bug { $($(#[$what:meta])* $bug:ident,)* }) => {
        $(#[$of])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Bug {
            $($(#[$what])* $bug,)*
        }

        /// Whether this bug is planted here.
        #[cfg(not(feature = "planted"))]
        #[inline(always)]
        pub(crate) const fn is(_: Bug) -> bool {
            false
        }

        #[cfg(feature = "planted")]
        pub use planted::{is, plant};

        #[cfg(feature = "planted")]
        mod planted {
            use std::cell::Cell;

            use super::Bug;

            thread_local! {
                static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
            }

            impl Bug {
                /// All of them.
                pub const ALL: &[Self] = &[$(Self::$bug),*];
            }

            /// Plants a bug, or none, for everything that runs on this thread from now on.
            pub fn plant(bug: Option<Bug>) {
                PLANTED.set(bug);
            }

            /// Whether this bug is planted here.
            pub fn is(bug: Bug) -> bool {
                PLANTED.get() == Some(bug)
            }
        }
    };
}

bugs! {
    /// A bug of the transport.
    enum Bug {
        /// A transfer that is to end early is said to be fenced without asking the receiver.
        SkipFence,
        /// Chunks of a transfer that is being ended are still posted.
        PostAfterStop,
        /// A fence doesn't stop links that are writing just now.
        FenceLeavesLinks,
        /// Chunks of a transfer that is over are written.
        AcceptAfterEnd,
        /// A chunk that is there already is written again.
        AcceptDuplicate,
        /// The end of a transfer is told twice.
        EndTwice,
        /// A transfer is done with one chunk to go.
        DoneEarly,
        /// Checksums of chunks are combined in the wrong order.
        CombineBackwards,
        /// A lane's window is not looked at.
        IgnoreWindow,
        /// Messages that went with a lost link are not sent again.
        ForgetMessages,
        /// A deadline passes a millisecond late.
        DeadlineLate,
        /// What a lost link carried is not sent again.
        ForgetChunks,
        /// An acknowledgement's bytes are counted for each of its copies.
        CountTwice,
    }
}
