//! A transfer in its user's hands: awaited, waited for, called back.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use xfer_transport::conformance::{PATIENCE, eventually, pattern};
use xfer_transport::{
    BackendId, Endpoint, EndpointConfig, Grant, Lane, PeerId, Region, TransferError, TransferHandle, Transferred,
};

struct Pair {
    sender: Endpoint,
    receiver: Endpoint,
    source: Region,
    grant: Grant,
}

impl Pair {
    fn new(len_bytes: u64) -> Self {
        Self::set_up(len_bytes, &EndpointConfig::new(PeerId { rank: 0, incarnation: 1 }, "job"))
    }

    fn set_up(len_bytes: u64, config: &EndpointConfig) -> Self {
        let id = |rank| PeerId { rank, incarnation: 1 };
        let start = |rank| Endpoint::start(EndpointConfig { id: id(rank), ..config.clone() });
        let (sender, receiver) = (start(0).expect("an endpoint"), start(1).expect("an endpoint"));
        sender.connect(&receiver.ticket(), PATIENCE).expect("connected");
        let destination = Region::allocate(len_bytes).expect("memory");
        let grant = receiver.grant(&destination, sender.id()).expect("a grant");
        Self { sender, receiver, source: Region::from_vec(pattern(len_bytes, 1)), grant }
    }

    fn write(&self) -> TransferHandle {
        let remote = self.grant.remote().all();
        self.sender.write(self.receiver.id(), self.source.all(), remote, Lane::Step, None)
    }
}

/// The least that runs a future: whoever has a runtime uses that.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        thread::park_timeout(PATIENCE);
    }
}

#[test]
fn it_can_be_awaited() {
    let pair = Pair::new(3 << 20);
    let done = block_on(async {
        let (first, second) = (pair.write(), pair.write());
        let first = first.await?;
        Ok::<_, TransferError>((first, second.await?))
    });
    let (first, second) = done.expect("applied and verified");
    assert_eq!((first.crc32c, second.crc32c), (pair.source.crc32c(), pair.source.crc32c()));
}

#[test]
fn a_wait_that_times_out_ends_nothing() {
    let pair = Pair::new(1 << 20);
    pair.sender.set_egress_limit(Some(1));
    let first = pair.write();
    let write = pair.write();
    let briefly = Duration::from_millis(5);
    assert_eq!(write.wait(Some(briefly)), Err(TransferError::StillRunning(briefly)));
    assert_eq!(write.try_result(), None);
    pair.sender.set_egress_limit(None);
    first.wait(Some(PATIENCE)).expect("it went on");
    write.wait(Some(PATIENCE)).expect("it went on");
    assert!(matches!(write.try_result(), Some(Ok(Transferred { bytes: 1_048_576, .. }))));
}

#[test]
fn callbacks_run_once_whenever_they_are_asked_for() {
    let pair = Pair::new(1 << 20);
    let calls = Arc::new(AtomicU32::new(0));
    let call = || {
        let calls = Arc::clone(&calls);
        Box::new(move |result: &Result<Transferred, TransferError>| {
            assert!(result.is_ok());
            calls.fetch_add(1, Ordering::SeqCst);
        })
    };
    let write = pair.write();
    write.on_done(call());
    write.wait(Some(PATIENCE)).expect("applied and verified");
    eventually("the early one ran", || calls.load(Ordering::SeqCst) == 1);
    write.on_done(call());
    assert_eq!(calls.load(Ordering::SeqCst), 2, "a late one runs at once");
}

#[test]
fn a_callback_that_panics_harms_nobody() {
    let pair = Pair::new(1 << 20);
    let write = pair.write();
    write.on_done(Box::new(|_| panic!("a stranger's mistake")));
    write.wait(Some(PATIENCE)).expect("applied and verified");
    write.on_done(Box::new(|_| panic!("the same mistake, too late")));
    pair.write().wait(Some(PATIENCE)).expect("the link is served on");
}

/// Callbacks take locks that callers of the endpoint hold: they must not run inside its calls.
#[test]
fn callbacks_do_not_run_inside_other_calls() {
    let pair = Pair::new(64 << 10);
    let me = thread::current().id();
    let inside = Arc::new(AtomicBool::new(false));
    let (ended, ends) = channel();
    for _ in 0..200 {
        let write = pair.write();
        let (inside_then, ended) = (Arc::clone(&inside), ended.clone());
        write.on_done(Box::new(move |_| {
            let borrowed = thread::current().id() == me && inside_then.load(Ordering::SeqCst);
            ended.send(borrowed).expect("the test waits");
        }));
        // Ends at once, while the other one ends too.
        let expired = pair.sender.deadline_in(Duration::ZERO);
        let (to, remote) = (pair.receiver.id(), pair.grant.remote().all());
        inside.store(true, Ordering::SeqCst);
        let late = pair.sender.write(to, pair.source.all(), remote, Lane::Step, Some(expired));
        late.cancel();
        inside.store(false, Ordering::SeqCst);
        assert_eq!(late.wait(Some(PATIENCE)), Err(TransferError::Expired));
        assert!(!ends.recv_timeout(PATIENCE).expect("a call"), "inside a call of its user");
    }
}

/// Who waits takes in by itself what arrives meanwhile, but calls nobody back: whoever asked for that may need locks that it holds.
#[test]
fn callbacks_do_not_run_on_a_thread_that_waits_for_another_transfer() {
    let mut over_tcp = EndpointConfig::new(PeerId { rank: 0, incarnation: 1 }, "job");
    over_tcp.transports = Some(vec![BackendId::Tcp]);
    for pair in [Pair::new(64 << 10), Pair::set_up(64 << 10, &over_tcp)] {
        let me = thread::current().id();
        let (ended, ends) = channel();
        for round in 0..500 {
            let (watched, waited_for) = (pair.write(), pair.write());
            let ended = ended.clone();
            // Registered while it is under way, or about to end, or over: only then it is called right here.
            if round % 2 == 0 {
                waited_for.wait(Some(PATIENCE)).expect("applied and verified");
            }
            let registering = Arc::new(AtomicBool::new(true));
            let registering_then = Arc::clone(&registering);
            watched.on_done(Box::new(move |_| {
                let waits = thread::current().id() == me && !registering_then.load(Ordering::SeqCst);
                ended.send(waits).expect("the test waits");
            }));
            registering.store(false, Ordering::SeqCst);
            waited_for.wait(Some(PATIENCE)).expect("applied and verified");
            pair.write().wait(Some(PATIENCE)).expect("applied and verified");
            assert!(!ends.recv_timeout(PATIENCE).expect("a call"), "on the thread that waited");
        }
    }
}

/// The memory of a transfer is free when the transfer is over, even while its handle is kept.
#[test]
fn a_handle_keeps_no_memory() {
    let pair = Pair::new(1 << 20);
    let witness = Arc::new(());
    let source = Region::from_owner(Lent { bytes: pattern(1 << 20, 2), _witness: Arc::clone(&witness) });
    let write = pair.sender.write(pair.receiver.id(), source.all(), pair.grant.remote().all(), Lane::Step, None);
    drop(source);
    write.wait(Some(PATIENCE)).expect("applied and verified");
    eventually("the source is let go of", || Arc::strong_count(&witness) == 1);
}

/// Memory of somebody who notices when it is given back.
struct Lent {
    bytes: Vec<u8>,
    _witness: Arc<()>,
}

impl AsMut<[u8]> for Lent {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}
