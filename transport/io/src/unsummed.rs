//! Whether chunks are summed: they are, but in a build for the benchmark that measures what it costs.

#[cfg(feature = "unsummed")]
static SUMS: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(true);

/// From here on chunks are summed or not, in this process; what it was before.
#[cfg(feature = "unsummed")]
pub fn set_sums(wanted: bool) -> bool {
    SUMS.swap(wanted, std::sync::atomic::Ordering::SeqCst)
}

/// Whether they are.
pub(crate) fn sums() -> bool {
    #[cfg(feature = "unsummed")]
    return SUMS.load(std::sync::atomic::Ordering::SeqCst);
    #[cfg(not(feature = "unsummed"))]
    true
}
