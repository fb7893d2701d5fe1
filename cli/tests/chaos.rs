//! `xfer chaos` as a user runs it: on processes of its own, and between two that talk.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use xfer::store::records::{PeerClaim, peer_key};
use xfer::store::{Exposure, Store, StoreServer, TcpStore, Version, host_name};
use xfer_transport_core::frame::{FrameHeader, FrameKind};
use xfer_transport_core::limits::FRAME_HEADER_BYTES;

/// Long enough for a busy machine; no test that passes waits for it.
const AMPLE: Duration = Duration::from_secs(30);

/// A store in which rank 3 is a process that does nothing.
struct Rehearsal {
    server: StoreServer,
    rank: Child,
}

impl Rehearsal {
    fn new(host: &str) -> Self {
        let server = StoreServer::bind(([127, 0, 0, 1], 0).into(), Exposure::LoopbackOnly).unwrap();
        let rank = Command::new("sleep").arg("600").spawn().unwrap();
        let claim = PeerClaim { incarnation: 1, pid: rank.id(), host: host.to_owned(), ticket: "ticket".into() };
        let store = TcpStore::connect(&server.local_addr().to_string(), AMPLE).unwrap();
        store.compare_and_swap(&peer_key(3), Version::ABSENT, claim.encode()).unwrap();
        Self { server, rank }
    }

    fn xfer(&self, arguments: &[&str]) -> Output {
        let store = self.server.local_addr().to_string();
        Command::new(env!("CARGO_BIN_EXE_xfer")).args(arguments).args(["--store", &store]).output().unwrap()
    }
}

impl Drop for Rehearsal {
    fn drop(&mut self) {
        let _ = self.rank.kill();
        let _ = self.rank.wait();
    }
}

#[test]
fn a_rank_is_killed_by_the_process_that_it_has_claimed() {
    let mut rehearsal = Rehearsal::new(&host_name());
    let said = rehearsal.xfer(&["chaos", "kill", "3"]);
    assert!(said.status.success(), "{said:?}");
    assert!(String::from_utf8_lossy(&said.stdout).contains("rank 3"), "{said:?}");
    assert_eq!(rehearsal.rank.wait().unwrap().signal(), Some(9));
}

#[test]
fn a_rank_is_stopped_and_goes_on() {
    let mut rehearsal = Rehearsal::new(&host_name());
    let said = rehearsal.xfer(&["chaos", "stop", "3", "--for", "10ms"]);
    assert!(said.status.success(), "{said:?}");
    assert!(String::from_utf8_lossy(&said.stdout).contains("goes on"), "{said:?}");
    assert!(rehearsal.rank.try_wait().unwrap().is_none(), "it is alive");
}

#[test]
fn what_is_not_here_is_left_alone() {
    let mut rehearsal = Rehearsal::new("another host");
    let elsewhere = rehearsal.xfer(&["chaos", "kill", "3"]);
    assert_eq!(elsewhere.status.code(), Some(3), "{elsewhere:?}");
    assert!(String::from_utf8_lossy(&elsewhere.stderr).contains("another host"), "{elsewhere:?}");
    assert!(rehearsal.rank.try_wait().unwrap().is_none(), "it is alive");
    let nobody = rehearsal.xfer(&["chaos", "stop", "4", "--for", "1s"]);
    assert_eq!(nobody.status.code(), Some(1), "{nobody:?}");
}

/// `xfer chaos proxy` before `behind`, with what it says, and where it listens.
fn proxy(behind: &TcpListener, fault: &str) -> (Child, impl BufRead + use<>, String) {
    let to = behind.local_addr().unwrap().to_string();
    let arguments = ["chaos", "proxy", "--listen", "127.0.0.1:0", "--to", &to, "--fault", fault, "--seed", "4"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_xfer"));
    let mut proxy = command.args(arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(proxy.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    let address = line.split_whitespace().nth(3).unwrap().trim_end_matches(',').to_owned();
    (proxy, out, address)
}

#[test]
fn a_proxy_leads_on_until_it_is_told_to_stop() {
    let behind = TcpListener::bind("127.0.0.1:0").unwrap();
    let (mut proxy, mut out, address) = proxy(&behind, "delay=5ms");

    let mut caller = TcpStream::connect(address).unwrap();
    caller.write_all(b"something").unwrap();
    let mut heard = [0; 9];
    let (mut called, _) = behind.accept().unwrap();
    called.set_read_timeout(Some(AMPLE)).unwrap();
    called.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"something");
    // The end comes behind the bytes, so they are counted by then.
    caller.shutdown(Shutdown::Write).unwrap();
    assert_eq!(called.read(&mut heard).unwrap(), 0);

    kill_process(Pid::from_child(&proxy), Signal::TERM).unwrap();
    assert!(proxy.wait().unwrap().success());
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("9 bytes passed, 0 frames spoiled"), "{rest}");
}

#[test]
fn a_proxy_spoils_headers_that_stay_sound() {
    for (fault, refused) in [("next-version=1", "version"), ("oversize=1", "over its limit")] {
        let behind = TcpListener::bind("127.0.0.1:0").unwrap();
        let (mut proxy, _out, address) = proxy(&behind, fault);
        let mut caller = TcpStream::connect(address).unwrap();
        let payload = b"something";
        let header = FrameHeader::for_payload(FrameKind::Message, payload).encode();
        caller.write_all(&[&header[..], payload].concat()).unwrap();
        let (mut called, _) = behind.accept().unwrap();
        called.set_read_timeout(Some(AMPLE)).unwrap();
        let mut heard = [0; FRAME_HEADER_BYTES];
        called.read_exact(&mut heard).unwrap();
        let error = FrameHeader::decode(&heard).expect_err(fault).to_string();
        assert!(error.contains(refused), "{fault}: {error}");
        kill_process(Pid::from_child(&proxy), Signal::TERM).unwrap();
        assert!(proxy.wait().unwrap().success());
    }
}
