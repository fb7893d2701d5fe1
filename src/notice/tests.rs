//! Which notice counts, and that each source is heard, with the real thing at the other end.

mod signal;
mod stand_in;

use std::fs;
use std::sync::mpsc::RecvTimeoutError;

use xfer_migrate::store::records::notice_key;
use xfer_migrate::store::{Exposure, MemoryStore, StoreServer, Swap, TcpStore, Version, claim_identity};

use super::*;
use stand_in::StandIn;

/// Long enough for a busy machine; no test that passes waits for it.
const AMPLE: Duration = Duration::from_secs(30);

const HOUR: Duration = Duration::from_secs(3600);

fn watcher(sources: Vec<Source>) -> (NoticeWatcher, Receiver<NoticeEvent>) {
    let watcher = NoticeWatcher::start(sources).unwrap();
    let events = watcher.subscribe();
    (watcher, events)
}

fn raised(events: &Receiver<NoticeEvent>) -> Notice {
    match events.recv_timeout(AMPLE) {
        Ok(NoticeEvent::Raised(notice)) => notice,
        other => panic!("expected a notice, got {other:?}"),
    }
}

fn withdrawn(events: &Receiver<NoticeEvent>) -> Notice {
    match events.recv_timeout(AMPLE) {
        Ok(NoticeEvent::Withdrawn(notice)) => notice,
        other => panic!("expected a withdrawal, got {other:?}"),
    }
}

fn call(id: &str, left: Duration) -> Notice {
    Notice::new(Origin::Call, id, left)
}

#[test]
fn the_earliest_deadline_counts_and_the_next_when_it_is_withdrawn() {
    let (watcher, events) = watcher(Vec::new());
    assert_eq!(watcher.current(), None);
    watcher.raise(call("late", 2 * HOUR)).unwrap();
    assert_eq!(raised(&events).id, "late");
    watcher.raise(call("early", HOUR)).unwrap();
    assert_eq!(raised(&events).id, "early");
    watcher.raise(call("latest", 3 * HOUR)).unwrap();
    assert_eq!(watcher.current().unwrap().id, "early");
    assert!(watcher.withdraw("early"));
    assert_eq!(raised(&events).id, "late");
    assert!(watcher.withdraw("latest"));
    assert!(watcher.withdraw("late"));
    assert_eq!(withdrawn(&events).id, "late");
    assert_eq!(watcher.current(), None);
    assert!(!watcher.withdraw("late"));
    assert_eq!(events.try_recv().ok(), None);
}

#[test]
fn what_is_certain_counts_before_what_is_not() {
    let (watcher, events) = watcher(Vec::new());
    watcher.raise(call("hint", HOUR).uncertain()).unwrap();
    assert!(!raised(&events).certain);
    watcher.raise(call("sure", 2 * HOUR)).unwrap();
    assert_eq!(raised(&events).id, "sure");
    watcher.withdraw("sure");
    assert_eq!(raised(&events).id, "hint");
}

#[test]
fn a_deadline_can_be_moved_and_runs_down() {
    let (watcher, events) = watcher(Vec::new());
    watcher.raise(call("same", 2 * HOUR)).unwrap();
    let first = raised(&events);
    watcher.raise(call("same", HOUR).because("brought forward")).unwrap();
    let second = raised(&events);
    assert!(second.deadline() < first.deadline());
    assert!(second.left() <= HOUR && second.left() > HOUR - Duration::from_secs(60));
    assert!(second.to_string().ends_with(" s left (brought forward)"), "{second}");
    assert_eq!(call("past", Duration::ZERO).left(), Duration::ZERO);
    assert!(call("absurd", Duration::MAX).left() <= limits::LEFT_MAX);
}

#[test]
fn a_subscriber_that_comes_late_hears_what_counts_now() {
    let (watcher, _) = watcher(Vec::new());
    watcher.raise(call("id", HOUR)).unwrap();
    let events = watcher.subscribe();
    assert_eq!(Some(raised(&events)), watcher.current());
}

#[test]
fn a_subscriber_that_reads_nothing_is_left_behind_alone() {
    let (watcher, asleep) = watcher(Vec::new());
    let awake = watcher.subscribe();
    for left in 0..=limits::EVENTS_MAX as u32 {
        watcher.raise(call("id", HOUR + HOUR * left)).unwrap();
        raised(&awake);
    }
    assert_eq!(asleep.iter().count(), limits::EVENTS_MAX);
    watcher.withdraw("id");
    withdrawn(&awake);
}

#[test]
fn the_program_can_raise_only_so_many() {
    let (watcher, _) = watcher(Vec::new());
    for number in 0..limits::NOTICES_MAX {
        watcher.raise(call(&number.to_string(), HOUR)).unwrap();
    }
    assert!(matches!(watcher.raise(call("one more", HOUR)), Err(NoticeError::TooMany)));
    watcher.raise(call("0", HOUR)).unwrap();
    watcher.withdraw("0");
    watcher.raise(call("one more", HOUR)).unwrap();
}

#[test]
fn a_file_is_a_notice_from_its_creation_to_its_removal() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notice");
    let (_watcher, events) = watcher(vec![Source::File { path: path.clone(), grace: HOUR }]);
    fs::write(&path, "{\"seconds\": 1800, \"reason\": \"repair\"}").unwrap();
    let notice = raised(&events);
    assert_eq!((notice.source, notice.certain, notice.reason.as_str()), (Origin::File, true, "repair"));
    assert!(notice.left() <= HOUR / 2 && notice.left() > HOUR / 4);
    fs::remove_file(&path).unwrap();
    assert_eq!(withdrawn(&events).id, "file");

    fs::write(&path, "").unwrap();
    assert!(raised(&events).left() > HOUR / 2, "an empty file leaves the grace");
}

fn drained_by(store: Arc<dyn Store>, operator: &dyn Store) {
    let incarnation = claim_identity(&*store, 1, b"ticket", &|_| false).unwrap();
    let peer = PeerId { rank: 1, incarnation };
    let (_watcher, events) = watcher(vec![Source::Drain { store, peer }]);
    assert_eq!(order_drain(operator, 1, HOUR, "maintenance").unwrap(), peer);
    let first = raised(&events);
    assert_eq!((first.source, first.reason.as_str()), (Origin::Drain, "maintenance"));
    assert!(first.left() <= HOUR && first.left() > HOUR / 2);
    order_drain(operator, 1, HOUR / 2, "").unwrap();
    let second = raised(&events);
    assert!(second.id != first.id && second.deadline() < first.deadline());
    assert_eq!(withdraw_drain(operator, 1).unwrap(), peer);
    assert_eq!(withdrawn(&events).id, second.id);
    assert!(matches!(withdraw_drain(operator, 1), Err(DrainError::NotOrdered { rank: 1 })));
}

#[test]
fn an_operator_drains_through_a_store_in_memory() {
    let store = Arc::new(MemoryStore::new());
    drained_by(Arc::clone(&store) as Arc<dyn Store>, &*store);
}

#[test]
fn an_operator_drains_through_a_store_over_tcp() {
    let server = StoreServer::bind(([127, 0, 0, 1], 0).into(), Exposure::LoopbackOnly).unwrap();
    let address = server.local_addr().to_string();
    let store = TcpStore::connect(&address, AMPLE).unwrap();
    drained_by(Arc::new(store), &TcpStore::connect(&address, AMPLE).unwrap());
}

#[test]
fn an_order_concerns_one_life_of_a_rank() {
    let store = Arc::new(MemoryStore::new());
    claim_identity(&*store, 1, b"first", &|_| false).unwrap();
    order_drain(&*store, 1, HOUR, "for the first life").unwrap();
    let incarnation = claim_identity(&*store, 1, b"second", &|_| false).unwrap();
    let peer = PeerId { rank: 1, incarnation };
    let (_watcher, events) = watcher(vec![Source::Drain { store: Arc::clone(&store) as Arc<dyn Store>, peer }]);
    assert!(matches!(withdraw_drain(&*store, 1), Err(DrainError::NotOrdered { rank: 1 })));
    order_drain(&*store, 1, HOUR, "for the second").unwrap();
    // Had the order to the first life been followed, it would come first.
    assert_eq!(raised(&events).reason, "for the second");
}

#[test]
fn an_order_to_nobody_names_who_is_there() {
    let store = MemoryStore::new();
    let refused = |store: &dyn Store| order_drain(store, 7, HOUR, "").unwrap_err().to_string();
    assert_eq!(refused(&store), "no process of this job is rank 7; no rank is claimed in this store");
    for rank in [0, 1] {
        claim_identity(&store, rank, b"ticket", &|_| false).unwrap();
    }
    assert_eq!(refused(&store), "no process of this job is rank 7; claimed are 0, 1");
    assert_eq!(store.get(&notice_key(7)).unwrap(), None);
}

#[test]
fn an_order_that_can_not_be_read_is_not_followed_and_the_next_one_is() {
    let store = Arc::new(MemoryStore::new());
    let incarnation = claim_identity(&*store, 1, b"ticket", &|_| false).unwrap();
    let garbage = store.compare_and_swap(&notice_key(1), Version::ABSENT, "drain!".into()).unwrap();
    assert!(matches!(garbage, Swap::Won(_)));
    let peer = PeerId { rank: 1, incarnation };
    let (_watcher, events) = watcher(vec![Source::Drain { store: Arc::clone(&store) as Arc<dyn Store>, peer }]);
    order_drain(&*store, 1, HOUR, "readable").unwrap();
    assert_eq!(raised(&events).reason, "readable");
}

#[test]
fn ec2_gives_notices_and_takes_them_back() {
    let metadata = StandIn::start();
    let (_watcher, events) = watcher(vec![Source::Ec2 { url: metadata.url() }]);
    metadata.rebalance(Some("2030-01-01T00:00:00Z"));
    let hint = raised(&events);
    assert_eq!((hint.source, hint.certain), (Origin::Ec2Rebalance, false));
    metadata.interruption(Some(("terminate", "2030-01-01T00:02:00Z")));
    let notice = raised(&events);
    assert_eq!((notice.source, notice.certain), (Origin::Ec2Interruption, true));
    assert_eq!(notice.id, "ec2-terminate-2030-01-01T00:02:00Z");
    assert!(notice.left() <= limits::EC2_LEFT_MAX && notice.left() > limits::EC2_LEFT_MAX / 2);
    metadata.interruption(None);
    assert_eq!(raised(&events).source, Origin::Ec2Rebalance);
    metadata.rebalance(None);
    assert_eq!(withdrawn(&events).source, Origin::Ec2Rebalance);
    assert_eq!(metadata.tokens_given(), 1);
}

#[test]
fn an_ec2_token_that_expires_is_renewed() {
    let metadata = StandIn::start();
    let (_watcher, events) = watcher(vec![Source::Ec2 { url: metadata.url() }]);
    metadata.await_question();
    metadata.expire_tokens();
    metadata.interruption(Some(("stop", "2030-01-01T00:02:00Z")));
    assert_eq!(raised(&events).reason, "stop at 2030-01-01T00:02:00Z");
    assert_eq!(metadata.tokens_given(), 2);
}

#[test]
fn an_ec2_service_that_fails_changes_nothing_until_it_answers_again() {
    let metadata = StandIn::start();
    let (watcher, events) = watcher(vec![Source::Ec2 { url: metadata.url() }]);
    metadata.interruption(Some(("terminate", "2030-01-01T00:02:00Z")));
    let notice = raised(&events);
    metadata.fail(true);
    metadata.interruption(None);
    metadata.await_question();
    metadata.await_question();
    assert_eq!(watcher.current(), Some(notice));
    metadata.fail(false);
    withdrawn(&events);
}

#[test]
fn what_is_no_metadata_service_is_refused() {
    let refused = NoticeWatcher::start(vec![Source::Ec2 { url: "https://169.254.169.254".to_owned() }]).err().unwrap();
    assert_eq!(
        refused.to_string(),
        "`https://169.254.169.254` is not the address of a metadata service; \
         it is written http://HOST or http://HOST:PORT"
    );
}

#[test]
fn a_dropped_watcher_ends_its_subscribers() {
    let store = Arc::new(MemoryStore::new());
    let peer = PeerId { rank: 0, incarnation: 1 };
    let path = PathBuf::from("/nonexistent/notice");
    let (watcher, events) = watcher(vec![
        Source::File { path, grace: HOUR },
        Source::Drain { store, peer },
        Source::Signal { grace: HOUR },
    ]);
    drop(watcher);
    assert_eq!(events.recv_timeout(AMPLE), Err(RecvTimeoutError::Disconnected));
}
