//! Two processes on this machine: one grants memory, the other writes into it, by a deadline.
//!
//! Run it with `cargo run --release --example two_processes`. The program starts itself a second time as rank 1.

use std::env;
use std::error::Error;
use std::process::{Command, Stdio};
use std::time::Duration;

use xfer::{Engine, EngineBuilder, Lane, Region};

const BYTES: u64 = 64 << 20;
const STEP: Duration = Duration::from_secs(10);

fn main() -> Result<(), Box<dyn Error>> {
    match env::args().nth(1) {
        None => receiver(),
        Some(store) => sender(&store),
    }
}

/// Rank 0: hosts the store, grants memory to rank 1, and waits until it says that it is done.
fn receiver() -> Result<(), Box<dyn Error>> {
    let engine = EngineBuilder::new(0, 2)?.store("127.0.0.1:0").host_store(true).start()?;
    let mut child = Command::new(env::current_exe()?).arg(engine.store_address()).stdin(Stdio::null()).spawn()?;
    engine.connect(STEP)?;

    let memory = Region::allocate(BYTES)?;
    // Tagged sends and receives are the easy way: the grant, the match and the end are taken care of.
    let tensor = engine.recv(&memory, 1, "weights");
    let bytes = tensor.wait(Some(STEP)).ok_or("the tensor did not come")??;
    println!("rank 0: {bytes} bytes received by tag, crc32c {:08x}", memory.crc32c());

    // The same by hand: what a peer may write is granted, and what is granted can be taken back.
    let peer = engine.endpoint().peer(1).ok_or("rank 1 is not connected")?;
    let grant = engine.endpoint().grant(&memory, peer)?;
    engine.store_create("grant", grant.remote().id.0.to_le_bytes().to_vec().into())?;
    let done = engine.recv(&Region::allocate(1)?, 1, "done");
    done.wait(Some(STEP)).ok_or("rank 1 did not finish")??;
    grant.revoke();
    println!("rank 0: the same bytes granted by hand, crc32c {:08x}", memory.crc32c());

    let status = child.wait()?;
    engine.close();
    if status.success() { Ok(()) } else { Err("rank 1 failed".into()) }
}

/// Rank 1: writes.
fn sender(store: &str) -> Result<(), Box<dyn Error>> {
    let engine: Engine = EngineBuilder::new(1, 2)?.store(store).start()?;
    engine.connect(STEP)?;

    let memory = Region::from_vec((0..BYTES).map(|byte| byte as u8).collect());
    let tensor = engine.send(memory.clone(), 0, "weights", Lane::Step);
    tensor.wait(Some(STEP)).ok_or("the tensor did not leave")??;

    let granted = engine.store_wait("grant", STEP)?.ok_or("nothing was granted")?;
    let id = xfer::RegionId(u64::from_le_bytes(granted.as_ref().try_into()?));
    let remote = xfer::RemoteRegion { id, len_bytes: BYTES, place: xfer::Place::Host };
    let endpoint = engine.endpoint();
    let peer = endpoint.peer(0).ok_or("rank 0 is not connected")?;
    let transfer = endpoint.write(peer, memory.all(), remote.all(), Lane::Bulk, Some(endpoint.deadline_in(STEP)));
    let moved = transfer.wait(None)?;
    println!(
        "rank 1: {} bytes in {:.1} ms ({:.2} GB/s) over {:?}, crc32c {:08x}",
        moved.bytes,
        moved.took.as_secs_f64() * 1e3,
        moved.bytes as f64 / moved.took.as_secs_f64() / 1e9,
        moved.over.iter().map(|(backend, _)| backend.to_string()).collect::<Vec<_>>(),
        moved.crc32c
    );
    engine
        .send(Region::from_vec(vec![1]), 0, "done", Lane::Step)
        .wait(Some(STEP))
        .ok_or("rank 0 does not listen")??;
    engine.close();
    Ok(())
}
