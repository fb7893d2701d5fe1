//! A relay between client and store that cuts connections between a request and its answer.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use xfer_migrate_core::store::wire;

/// Relays connections; answers are numbered over all of them, and the ones chosen are swallowed with their
/// connection. Its threads end with the test's process.
pub(super) struct Cutter {
    address: SocketAddr,
    cuts: Arc<AtomicU64>,
}

impl Cutter {
    /// Relays to `upstream`; `cut` says of each answer, once the store has given it, whether it is lost.
    pub(super) fn start(upstream: SocketAddr, cut: impl Fn(u64) -> bool + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(super::LOOPBACK).unwrap();
        let address = listener.local_addr().unwrap();
        let cuts = Arc::new(AtomicU64::new(0));
        let relay = Arc::new(Relay { cut, answers: AtomicU64::new(0), cuts: Arc::clone(&cuts) });
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let store = TcpStream::connect(upstream).unwrap();
                let (mut requests, mut to_store) = (client.try_clone().unwrap(), store.try_clone().unwrap());
                thread::spawn(move || {
                    let _ = std::io::copy(&mut requests, &mut to_store);
                    let _ = to_store.shutdown(Shutdown::Both);
                });
                let relay = Arc::clone(&relay);
                thread::spawn(move || relay.answers(store, client));
            }
        });
        Self { address, cuts }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::SeqCst)
    }
}

struct Relay<F> {
    cut: F,
    answers: AtomicU64,
    cuts: Arc<AtomicU64>,
}

impl<F: Fn(u64) -> bool> Relay<F> {
    fn answers(&self, mut store: TcpStream, mut client: TcpStream) {
        let _ = self.relay(&mut store, &mut client);
        let _ = client.shutdown(Shutdown::Both);
        let _ = store.shutdown(Shutdown::Both);
    }

    fn relay(&self, store: &mut TcpStream, client: &mut TcpStream) -> std::io::Result<()> {
        client.set_nodelay(true)?;
        store.set_nodelay(true)?;
        let mut welcome = [0; wire::WELCOME_BYTES];
        store.read_exact(&mut welcome)?;
        client.write_all(&welcome)?;
        loop {
            let mut head = [0; wire::FRAME_HEAD_BYTES];
            store.read_exact(&mut head)?;
            let mut body = vec![0; wire::body_len_bytes(head).expect("the store sends frames")];
            store.read_exact(&mut body)?;
            if (self.cut)(self.answers.fetch_add(1, Ordering::SeqCst)) {
                self.cuts.fetch_add(1, Ordering::SeqCst);
                return Ok(());
            }
            client.write_all(&[&head[..], &body].concat())?;
        }
    }
}
