//! Engines for tests: several in one process, over real sockets and a real store.

use std::thread;
use std::time::Duration;

use xfer::migrate::{Cost, ItemClass, Rescue};
use xfer::{Engine, EngineBuilder, Region};

/// Longer than anything here takes, short enough for a test that hangs.
pub const WAIT: Duration = Duration::from_secs(20);

/// Connected engines of ranks 0 to `N - 1`; rank 0 hosts the store.
pub fn engines<const N: usize>() -> [Engine; N] {
    engines_with(|builder| builder)
}

/// The same, each with what `set` sets.
pub fn engines_with<const N: usize>(set: impl Fn(EngineBuilder) -> EngineBuilder) -> [Engine; N] {
    let world_size = N as u32;
    let builder = |rank| set(EngineBuilder::new(rank, world_size).unwrap());
    let first = builder(0).store("127.0.0.1:0").start().unwrap();
    let store = first.store_address().to_owned();
    let engines: [Engine; N] = std::array::from_fn(|rank| match rank {
        0 => first.clone(),
        _ => builder(rank as u32).store(&store).start().unwrap(),
    });
    thread::scope(|scope| {
        let calls: Vec<_> = engines.iter().map(|engine| scope.spawn(|| engine.connect(WAIT))).collect();
        calls.into_iter().for_each(|call| call.join().unwrap().unwrap());
    });
    engines
}

/// An irreplaceable item of `len_bytes` bytes that nothing else has.
pub fn state(name: &str, target: u32, len_bytes: usize) -> Rescue {
    Rescue {
        name: name.to_owned(),
        class: ItemClass::Parameter,
        region: Region::from_vec(pattern(name, len_bytes)),
        target,
        version: 1,
        group: String::new(),
        cost: Cost::Irreplaceable,
    }
}

/// An item that can be computed again in `time` from `from`.
pub fn activation(name: &str, target: u32, len_bytes: usize, time: Duration, from: &[&str]) -> Rescue {
    Rescue {
        class: ItemClass::Saved,
        cost: Cost::Compute { time, from: from.iter().map(|&input| input.to_owned()).collect() },
        ..state(name, target, len_bytes)
    }
}

/// Bytes that are different for each name and place.
pub fn pattern(name: &str, len_bytes: usize) -> Vec<u8> {
    let seed = name.bytes().fold(7_u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
    (0..len_bytes as u64).map(|at| (at.wrapping_mul(0x9E37_79B9).wrapping_add(seed) >> 7) as u8).collect()
}
