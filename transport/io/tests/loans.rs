//! Memory that a peer reads where it lies: it stays as it is until it is given back, or nobody can read it any more.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use xfer_transport::backend::Backend;
use xfer_transport::backend::shm::ShmBackend;
use xfer_transport::backend::tcp::TcpBackend;
use xfer_transport::conformance::{JOB, PATIENCE, Pair, eventually, pattern};
use xfer_transport::limits::{LOANS_MAX, SUBSCRIBER_MESSAGES_MAX};
use xfer_transport::{Channel, Endpoint, EndpointConfig, LendError, Loan, LoanError, LoanRefusal, PeerId, Region};

const CHANNEL: Channel = Channel(3);
const LEN_BYTES: u64 = 3 << 20;

fn make() -> Arc<dyn Backend> {
    Arc::new(ShmBackend::bind().expect("shared memory"))
}

fn shared(salt: u64) -> Region {
    let region = Region::shared(LEN_BYTES).expect("shared memory");
    region.write_at(0, &pattern(LEN_BYTES, salt)).expect("inside");
    region
}

fn lend(pair: &Pair, region: &Region) -> Result<Loan, LendError> {
    pair.sender.lend(pair.receiver.id(), CHANNEL, region.all(), Some(region.crc32c()))
}

#[test]
fn what_is_lent_is_read_where_it_lies() {
    let pair = Pair::new(&make);
    let loans = pair.receiver.borrow(CHANNEL);
    let region = shared(1);
    let slice = region.slice(4097..LEN_BYTES).expect("inside");
    let loan = pair.sender.lend(pair.receiver.id(), CHANNEL, slice.clone(), Some(slice.crc32c())).expect("lent");
    let borrowed = loans.recv_timeout(PATIENCE).expect("a loan");
    assert_eq!((borrowed.from(), borrowed.len_bytes()), (pair.sender.id(), LEN_BYTES - 4097));
    assert!(borrowed.copy_to_vec() == slice.copy_to_vec());
    assert_eq!((borrowed.is_intact(), loan.try_result()), (Some(true), None));
    // There is one memory only, so a lender that doesn't keep its word is seen.
    region.write_at(5000, b"changed").expect("inside");
    assert_eq!((borrowed.is_intact(), borrowed.crc32c()), (Some(false), slice.crc32c()));
    let stats = pair.sender.stats();
    assert_eq!((stats.lent_bytes, stats.lanes.iter().map(|lane| lane.sent_bytes).sum()), (LEN_BYTES - 4097, 0));
    drop(borrowed);
    assert_eq!(loan.wait(PATIENCE), Ok(()));
    assert_eq!(pair.sender.stats().lent_bytes, 0);
}

#[test]
fn memory_on_loan_is_not_handed_out_again() {
    let pair = Pair::new(&make);
    let loans = pair.receiver.borrow(CHANNEL);
    let region = shared(2);
    let (crc32c, place) = (region.crc32c(), region.as_ptr());
    let loan = lend(&pair, &region).expect("lent");
    let borrowed = loans.recv_timeout(PATIENCE).expect("a loan");
    drop(region);
    // As many as would fill several segments of the arena.
    let others: Vec<Region> = (0..64).map(shared).collect();
    assert!(others.iter().all(|other| other.as_ptr() != place));
    assert_eq!(borrowed.crc32c(), crc32c);
    drop(others);
    drop(borrowed);
    loan.wait(PATIENCE).expect("given back");
    let again: Vec<Region> = (0..64).map(shared).collect();
    assert!(again.iter().any(|again| again.as_ptr() == place), "it is free again");
}

#[test]
fn a_lost_link_loses_no_loan() {
    let pair = Pair::new(&make);
    let loans = pair.receiver.borrow(CHANNEL);
    let region = shared(3);
    for round in 0..6 {
        eventually("all links are there", || pair.receiver_links.open_links() == 4);
        let loan = lend(&pair, &region).expect("lent");
        if round % 2 == 0 {
            pair.receiver_links.cut(0);
        }
        let borrowed = loans.recv_timeout(PATIENCE).expect("a loan");
        assert_eq!(borrowed.is_intact(), Some(true));
        // One in each round: of its links one may still be greeting, and without any the peer would be gone.
        if round % 2 == 1 {
            pair.receiver_links.cut(0);
        }
        drop(borrowed);
        assert_eq!(loan.wait(PATIENCE), Ok(()));
    }
}

#[test]
fn what_can_not_be_lent_is_refused_by_name() {
    let pair = Pair::new(&make);
    let ordinary = Region::from_vec(pattern(100, 1));
    assert_eq!(lend(&pair, &ordinary).unwrap_err(), LendError::NotShared);
    let region = shared(4);
    let refused = |loan: Loan| match loan.wait(PATIENCE) {
        Err(LoanError::Refused { by, refusal }) if by == pair.receiver.id() => refusal,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(lend(&pair, &region).expect("lent")), LoanRefusal::Nobody);
    let loans = pair.receiver.borrow(CHANNEL);
    let kept: Vec<Loan> = (0..SUBSCRIBER_MESSAGES_MAX).map(|_| lend(&pair, &region).expect("lent")).collect();
    assert_eq!(refused(lend(&pair, &region).expect("lent")), LoanRefusal::Behind);
    assert!(kept.iter().all(|loan| loan.try_result().is_none()));
    drop(loans);
    kept.iter().for_each(|loan| loan.wait(PATIENCE).expect("nobody reads them any more"));
    let stranger = PeerId { rank: 9, incarnation: 1 };
    let unknown = pair.sender.lend(stranger, CHANNEL, region.all(), None).unwrap_err();
    assert_eq!(unknown, LendError::NotConnected(stranger));
    let far = Pair::new(&|| Arc::new(TcpBackend::bind(([127, 0, 0, 1], 0).into()).expect("a port")));
    assert_eq!(lend(&far, &region).unwrap_err(), LendError::OtherMachine(far.receiver.id()));
}

#[test]
fn loans_are_limited_from_both_sides() {
    let pair = Pair::new(&make);
    let loans = pair.receiver.borrow(CHANNEL);
    let region = shared(5);
    let mut borrowed = Vec::new();
    for _ in 0..LOANS_MAX {
        let _loan = lend(&pair, &region).expect("below the limit");
        borrowed.push(loans.recv_timeout(PATIENCE).expect("a loan"));
    }
    assert_eq!(lend(&pair, &region).unwrap_err(), LendError::TooMany(pair.receiver.id()));
    borrowed.pop();
    eventually("there is room again", || lend(&pair, &region).is_ok());
}

/// Says what it has borrowed, leaves the job, and goes on reading until it is ended.
#[test]
fn borrower_process() {
    let Ok(ticket) = std::env::var("XFER_TEST_LENDER") else { return };
    let ticket: Vec<u8> = ticket.split(',').map(|byte| byte.parse().expect("a byte")).collect();
    let endpoint = endpoint(1);
    let loans = endpoint.borrow(CHANNEL);
    endpoint.connect(&ticket, PATIENCE).expect("connected");
    let borrowed = loans.recv_timeout(PATIENCE).expect("a loan");
    endpoint.shutdown();
    println!("\nborrowed {}", borrowed.crc32c());
    let _ = std::io::stdin().read(&mut [0]);
    println!("\nstill {}", borrowed.crc32c());
}

fn endpoint(rank: u32) -> Endpoint {
    let mut config = EndpointConfig::new(PeerId { rank, incarnation: 1 }, JOB);
    config.backends = vec![make()];
    Endpoint::start(config).expect("an endpoint")
}

/// Whatever happens, the process is ended.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = (self.0.kill(), self.0.wait());
    }
}

#[test]
fn what_a_peer_that_left_may_still_read_is_held_until_its_process_is_over() {
    let lender = endpoint(0);
    let ticket: Vec<String> = lender.ticket().iter().map(u8::to_string).collect();
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", "borrower_process", "--nocapture"]).env("XFER_TEST_LENDER", ticket.join(","));
    let mut borrower = Ended(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts"));
    let mut said = BufReader::new(borrower.0.stdout.take().expect("its output")).lines().map_while(Result::ok);
    let mut hear = |what: &str| said.find_map(|line| line.strip_prefix(what).map(str::to_owned));
    eventually("it is connected", || lender.peer(1).is_some());
    let region = shared(6);
    let crc32c = region.crc32c().to_string();
    let loan = lender.lend(lender.peer(1).expect("it is there"), CHANNEL, region.all(), None).expect("lent");
    assert_eq!(hear("borrowed "), Some(crc32c.clone()));
    assert!(matches!(loan.wait(PATIENCE), Err(LoanError::PeerGone { .. })), "{loan:?}");
    drop((loan, region));
    let others: Vec<Region> = (0..64).map(shared).collect();
    assert_eq!(lender.stats().lent_bytes, LEN_BYTES, "it left, and its process is there");
    drop(borrower.0.stdin.take());
    assert_eq!(hear("still "), Some(crc32c), "what it reads is what it was lent");
    drop((others, borrower));
    eventually("its end is noticed", || lender.stats().lent_bytes == 0);
}
