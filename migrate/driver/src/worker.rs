//! A thread for work that may block: memory, digests, fences, the store.

use std::io;
use std::sync::mpsc;
use std::thread;

/// Runs jobs in order, beside the driver, whose loop must never wait.
pub(crate) struct Worker {
    jobs: mpsc::Sender<Box<dyn FnOnce() + Send>>,
}

impl Worker {
    pub(crate) fn start(name: &str) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        // Ends when its `Worker` is dropped, after the job it is in; every job is bounded.
        thread::Builder::new().name(name.to_owned()).spawn(move || queue.into_iter().for_each(|job| job()))?;
        Ok(Self { jobs })
    }

    pub(crate) fn run(&self, job: impl FnOnce() + Send + 'static) {
        // The thread outlives every sender but for a panic in a job, which the driver then meets as silence until a deadline.
        let _ = self.jobs.send(Box::new(job));
    }
}
