//! A migration that knows nothing of PyTorch: rank 1 of three is told to leave and hands its bytes over before the deadline.
//!
//! Run it with `cargo run --release --example spot_notice [SECONDS]`. Three engines in one process stand for three machines.

use std::env;
use std::error::Error;
use std::thread;
use std::time::Duration;

use xfer::migrate::{Cost, ItemClass, OutcomeKind, Rescue};
use xfer::{Engine, EngineBuilder, Region};

const WAIT: Duration = Duration::from_secs(30);
const MIB: usize = 1 << 20;

fn main() -> Result<(), Box<dyn Error>> {
    let seconds: f64 = env::args().nth(1).map_or(Ok(10.0), |text| text.parse())?;
    let [first, leaving, last] = three_ranks()?;

    // What is constant until the optimizer steps is protected once: it leaves by itself when a notice comes.
    let owners_after = vec![("layers 4-5".to_owned(), 0), ("layers 6-7".to_owned(), 2)];
    let state = [(0, "layers 4-5"), (2, "layers 6-7")].map(|(target, name)| Rescue {
        name: format!("{name}/state"),
        class: ItemClass::Parameter,
        region: Region::from_vec(vec![target as u8 + 1; 32 * MIB]),
        target,
        version: 7,
        group: name.to_owned(),
        cost: Cost::Irreplaceable,
    });
    leaving.protect(vec![0, 2], owners_after, state.to_vec());

    leaving.raise_notice("example", Duration::from_secs_f64(seconds))?;
    let outgoing =
        leaving.bell().wait_for(Some(WAIT), || leaving.outgoing()).ok_or("the notice started no hand-over")?;

    // The training loop reaches a safe point and adds what was still changing.
    outgoing.offer(vec![Rescue {
        name: "layers 4-5/activations".into(),
        class: ItemClass::Saved,
        region: Region::from_vec(vec![9; 16 * MIB]),
        target: 0,
        version: 7,
        group: String::new(),
        cost: Cost::Compute { time: Duration::from_millis(400), from: Vec::new() },
    }])?;
    outgoing.cut("step 7".into())?;

    let outcome = outgoing.wait(Some(WAIT)).ok_or("nothing was decided")??;
    println!("{}\n", outgoing.report().plan);
    println!("{}", outgoing.report());
    for engine in [&first, &last] {
        let incoming = engine.incoming().ok_or("a target heard of no migration")?;
        let seen = incoming.wait(Some(WAIT)).ok_or("a target saw no decision")??;
        assert_eq!(seen, outcome, "every rank sees the same generation");
        println!("{}: {}", engine.id(), incoming.report());
    }
    println!(
        "generation {} is true: {} (to compute again: {:?}, lost: {:?})",
        outcome.generation,
        outcome.kind.as_str(),
        outcome.recompute,
        outcome.missing
    );
    for engine in [&first, &leaving, &last] {
        engine.close();
    }
    match outcome.kind {
        OutcomeKind::Handoff => Ok(()),
        _ => Err("the deadline was too short: the new owners restore from a checkpoint".into()),
    }
}

/// Three connected engines; the first hosts the store.
fn three_ranks() -> Result<[Engine; 3], Box<dyn Error>> {
    let first = EngineBuilder::new(0, 3)?.store("127.0.0.1:0").start()?;
    let store = first.store_address().to_owned();
    let middle = EngineBuilder::new(1, 3)?.store(&store).start()?;
    let last = EngineBuilder::new(2, 3)?.store(&store).start()?;
    thread::scope(|scope| {
        let calls = [&first, &middle, &last].map(|engine| scope.spawn(|| engine.connect(WAIT)));
        calls.into_iter().try_for_each(|call| call.join().expect("no panic while connecting"))
    })?;
    Ok([first, middle, last])
}
