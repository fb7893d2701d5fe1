//! A thread for work that may block: memory, digests, fences, the store.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, Sender};
use std::thread;

use crate::driver::Job;

/// Does work in order, beside the driver, whose loop must never wait, and tells the driver what came of it.
pub(crate) struct Worker {
    queue: Sender<Box<dyn FnOnce() -> Option<Job> + Send>>,
}

impl Worker {
    pub(crate) fn start(name: &str, jobs: Sender<Job>) -> io::Result<Self> {
        let (queue, waiting) = mpsc::channel::<Box<dyn FnOnce() -> Option<Job> + Send>>();
        // Ends when its `Worker` is dropped, after the work it is in, all of which is bounded; a driver that has ended hears nothing.
        let work = move || waiting.into_iter().filter_map(|work| work()).for_each(|job| _ = jobs.send(job));
        thread::Builder::new().name(name.to_owned()).spawn(work)?;
        Ok(Self { queue })
    }

    /// Does `work`. If it panics, the driver is told what `broken` makes of the panic's words, and the next work is done all the same:
    /// one that ended its thread would leave the driver, and with it every later migration, waiting for an answer.
    pub(crate) fn run(
        &self,
        work: impl FnOnce() -> Option<Job> + Send + 'static,
        broken: impl FnOnce(String) -> Option<Job> + Send + 'static,
    ) {
        // Nothing of what a broken work has touched is used again: it has only what was given to it, and the driver is told that it failed.
        let work = move || catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| broken(words(&*panic)));
        // The thread outlives every sender.
        let _ = self.queue.send(Box::new(work));
    }
}

/// What a panic said.
fn words(panic: &(dyn Any + Send)) -> String {
    let said = panic.downcast_ref::<&str>().copied();
    let said = said.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let said = format!("a worker panicked: {}; this is a bug of xfer", said.unwrap_or("without words"));
    tracing::error!("{said}");
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_panics_is_answered_and_does_not_end_the_worker() {
        let (jobs, told) = mpsc::channel();
        let worker = Worker::start("worker", jobs).expect("a thread");
        worker.run(|| panic!("no {}", 7), |reason| Some(Job::StoreLost { reason }));
        worker.run(|| Some(Job::Stay), |_| None);
        drop(worker);
        let told: Vec<Job> = told.into_iter().collect();
        let [Job::StoreLost { reason }, Job::Stay] = &told[..] else { panic!("{} answers", told.len()) };
        assert!(reason.contains("no 7"), "{reason}");
    }
}
