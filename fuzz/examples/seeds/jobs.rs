//! Jobs, as numbers that `fuzz/src/values.rs` reads, and messages of tagged sends and receives.

use super::Seeds;

/// What `fuzz/src/values.rs` takes, in its order.
#[derive(Clone, Copy)]
struct Numbers {
    whole: [u64; 18],
    times: [f64; 10],
}

/// Three small layers on three nodes.
const SMALL: Numbers = Numbers {
    whole: [0, 3, 64, 256, 2, 2, 100, 16, 1, 3, 1, 1, 0, 1, 4, 4, 0, 1],
    times: [0.5, 900.0, 60.0, 140e12, 1.5e12, 30.0, 0.5, 0.25, 1.15e9, 0.3],
};

pub(crate) fn jobs() -> Seeds {
    let with = |whole| Numbers { whole, ..SMALL };
    let million = 1 << 20;
    let largest =
        [0, 4096, million, 4 * million, million, million, 4 * million, 4 * million, 1, 4, 1, 1, 0, 4096, 1, 8, 0, 1];
    let mut slow = SMALL;
    (slow.times[3], slow.times[4]) = (1e-300, 1e-300);
    let all = vec![
        ("small", SMALL),
        ("llama-zero", with([1, 4, 64, 256, 4, 2, 100, 16, 1, 4, 2, 2, 1, 1, 2, 2, 0, 1])),
        ("spill", with([0, 4, 64, 256, 2, 2, 100, 16, 1, 2, 2, 1, 0, 1, 2, 4, million, 0])),
        ("known-size", with([0, 32, 4096, 16_384, 32, 32, 50_257, 2048, 8, 3, 1, 1, 0, 1, 64, 4, 0, 1])),
        ("largest", with(largest)),
        ("too-many", with([0, 4096, 128, 512, 1, 1, 100, 16, 1, 1024, 1024, 2, 0, 1, 1024, 4, 0, 1])),
        ("nobody-stays", with([0, 3, 64, 256, 2, 2, 100, 16, 1, 3, 3, 1, 0, 1, 4, 4, 0, 1])),
        ("heads-over-width", with([0, 3, 64, 256, 65, 2, 100, 16, 1, 3, 1, 1, 0, 1, 4, 4, 0, 1])),
        ("not-a-number", Numbers { times: [f64::NAN, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0], ..SMALL }),
        ("slow-device", slow),
    ];
    let bytes = |numbers: Numbers| -> Vec<u8> {
        let times = numbers.times.map(f64::to_bits);
        numbers.whole.into_iter().chain(times).flat_map(u64::to_le_bytes).collect()
    };
    ("job", super::named(all.into_iter().map(|(name, numbers)| (name, bytes(numbers)))))
}

pub(crate) fn tagged() -> Seeds {
    let message = |kind: u8, numbers: &[u64], rest: &[u8]| {
        let numbers: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        [&[kind], &numbers[..], rest].concat()
    };
    let gone = |reason: u8, number: u64| [message(4, &[3], &[reason]), number.to_le_bytes().to_vec()].concat();
    let all = vec![
        ("want", message(1, &[7, 9, 1 << 40], b"s1/m2/b4/fwd")),
        ("tag-not-text", message(1, &[7, 9, 1 << 40], b"\xff")),
        ("unwant", message(2, &[7], b"")),
        ("done", message(3, &[u64::MAX], b"")),
        ("gone-size", gone(1, 9)),
        ("gone-stopped", gone(2, 0)),
        ("kind-9", vec![9; 9]),
    ];
    ("tagged", super::named(all))
}
