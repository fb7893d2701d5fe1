//! Stages one fault at one step of a hand-over that would commit otherwise.

use std::time::Duration;

use crate::happening::{Happening, When};
use crate::network::Mistreatment;
use crate::scenario::{CHUNK_BYTES, Scenario};
use crate::shard::parts_of_lengths;
use crate::step::Step;

/// The rank that leaves, and one of those that take over.
const SOURCE: u32 = 0;
const TARGET: u32 = 1;

/// A rank that has no part in the hand-over.
const BYSTANDER: u32 = 3;

/// The deadline of a hand-over in which a fault is staged.
const LEFT: Duration = Duration::from_millis(7000);

/// Bytes of a chunk.
const CHUNK: u64 = CHUNK_BYTES as u64;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A hand-over in which nothing goes wrong yet, slow enough that every step takes a while.
pub(super) fn base(step: Step, seed: u64) -> Scenario {
    let mut scenario = Scenario::quiet(seed);
    scenario.usual.bytes_per_s = 400_000;
    scenario.usual.delay = ms(2);
    scenario.work_delay = ms(1);
    scenario.pace = [ms(40), ms(10)];
    scenario.heal_at = ms(if step == Step::Handshake { 16_000 } else { 12_000 });
    // The bystander is there in every run, so that a fault can never be its doing.
    scenario.ranks = 4;
    scenario.owners.push(("s3".to_owned(), BYSTANDER));
    // The same tensors in every run: what is on its way at a step must not be chance.
    let parts = parts_of_lengths([3 * CHUNK, 5 * CHUNK, 16, CHUNK + 9, 2 * CHUNK, 7000]);
    for (name, _) in &scenario.owners {
        scenario.habits.parts.insert(name.clone(), parts.clone());
    }
    scenario.targets.insert(SOURCE, vec![1, 2]);
    scenario.targets.insert(TARGET, vec![2]);
    let notice = |at: u64| (When::At(ms(at)), Happening::Notice { rank: SOURCE, left: LEFT });
    scenario.timeline = match step {
        // A first attempt was taken back; the second one goes on from there.
        Step::Resume => {
            vec![notice(600), (When::On(Step::Register, None, ms(1)), Happening::Withdraw(SOURCE)), notice(900)]
        }
        // By then a fault among strangers is over.
        Step::Handshake => vec![notice(6500)],
        _ => vec![notice(600)],
    };
    scenario
}

/// How long after a step is reached the fault comes: when what the step is about is on its way.
fn after(step: Step) -> Duration {
    match step {
        Step::Handshake | Step::Register | Step::Verify => Duration::ZERO,
        Step::Bulk => Duration::from_micros(100),
        Step::Notice => ms(3),
        Step::Delta => ms(5),
        Step::Commit | Step::Release => Duration::from_micros(200),
        Step::Resume => ms(12),
    }
}

/// The scenario of a cell.
pub(super) fn scenario(fault: &str, step: Step, variant: u64) -> Scenario {
    let number: u64 = fault[1..].parse().unwrap_or_default();
    let mut scenario = base(step, number * 10_000 + step as u64 * 100 + variant);
    let at = |more: Duration| When::On(step, None, after(step) + more);
    add(&mut scenario, fault, step, variant, &at);
    scenario
}

/// Adds what a fault is to a scenario; `at` says when.
pub(super) fn add(scenario: &mut Scenario, fault: &str, step: Step, variant: u64, at: &dyn Fn(Duration) -> When) {
    let now = at(Duration::ZERO);
    let either = if variant.is_multiple_of(2) { SOURCE } else { TARGET };
    let timeline = &mut scenario.timeline;
    let both_ways = |timeline: &mut Vec<(When, Happening)>, a, b, time| {
        for (from, to) in [(a, b), (b, a)] {
            timeline.push((now, Happening::CutLine { from, to }));
            timeline.push((at(time), Happening::MendLine { from, to }));
        }
    };
    match fault {
        "F01" | "F02" => {
            let rank = if fault == "F01" { SOURCE } else { TARGET };
            // What was sent before the machine went is still on its way.
            timeline.push((now, Happening::Kill { rank, silently: true }));
            if step == Step::Handshake {
                timeline.push((at(ms(50)), Happening::Restart(rank)));
            }
        }
        "F03" => timeline.push((now, Happening::KillStore)),
        "F04" => {
            timeline.push((now, Happening::Pause(SOURCE)));
            timeline.push((at(ms(1500)), Happening::Resume(SOURCE)));
        }
        "F05" => {
            timeline.push((now, Happening::Busy(SOURCE, ms(400))));
            timeline.push((now, Happening::Busy(TARGET, ms(400))));
        }
        "F06" => {
            timeline.push((now, Happening::Notice { rank: SOURCE, left: ms(900) }));
            timeline.push((at(ms(900)), Happening::Kill { rank: SOURCE, silently: false }));
        }
        "F07" => timeline.push((now, Happening::Notice { rank: TARGET, left: ms(5000) })),
        "F08" if step == Step::Notice => scenario.habits.memory_bytes = [(1, 0), (2, 0)].into(),
        "F08" => {
            for rank in [1, 2] {
                timeline.push((now, Happening::Kill { rank, silently: false }));
            }
        }
        "F09" => timeline.push((now, Happening::Withdraw(SOURCE))),
        "F10" => timeline.push((now, Happening::Notice { rank: SOURCE, left: ms(4) })),
        "F11" => both_ways(timeline, Some(SOURCE), Some(TARGET), ms(1500)),
        "F12" => {
            let (from, to) = (Some(TARGET), Some(SOURCE));
            timeline.push((now, Happening::CutLine { from, to }));
            timeline.push((at(ms(1500)), Happening::MendLine { from, to }));
        }
        "F13" => both_ways(timeline, Some(SOURCE), None, ms(3000)),
        "F14" => {
            for round in 0..3 {
                for (from, to) in [(Some(SOURCE), Some(TARGET)), (Some(TARGET), Some(SOURCE))] {
                    timeline.push((at(ms(200 * round)), Happening::CutLine { from, to }));
                    timeline.push((at(ms(200 * round + 100)), Happening::MendLine { from, to }));
                }
            }
        }
        "F15" => {
            let slow = scenario.usual.bytes_per_s / 100;
            timeline.push((now, Happening::Slow { bytes_per_s: slow, jitter: Duration::ZERO }));
        }
        "F16" => {
            let bytes_per_s = scenario.usual.bytes_per_s;
            timeline.push((now, Happening::Slow { bytes_per_s, jitter: ms(30) }));
        }
        "F17" => {
            timeline.push((now, Happening::Mistreat(Mistreatment { doubled: 30_000, ..Default::default() })));
            for rank in [SOURCE, TARGET] {
                timeline.push((now, Happening::Replay(rank)));
                timeline.push((at(ms(20)), Happening::Replay(rank)));
            }
        }
        "F18" => {
            timeline.push((now, Happening::Mistreat(Mistreatment { spoiled: 30_000, ..Default::default() })));
            if step == Step::Verify {
                timeline.push((now, Happening::Decay(TARGET)));
            }
        }
        "F19" => timeline.push((now, Happening::Garbage(either))),
        "F20" => {
            timeline.push((now, Happening::BreakOneWire(SOURCE)));
            timeline.push((at(ms(30)), Happening::BreakOneWire(SOURCE)));
        }
        "F21" => {
            timeline.push((now, Happening::Pause(TARGET)));
            timeline.push((at(ms(600)), Happening::Resume(TARGET)));
        }
        "F22" => {
            timeline.push((now, Happening::Descriptors(TARGET, false)));
            timeline.push((now, Happening::BreakOneWire(TARGET)));
            timeline.push((at(ms(400)), Happening::Descriptors(TARGET, true)));
        }
        "F23" => timeline.push((now, Happening::FailAllocations(TARGET, 1))),
        "F26" => timeline.push((now, Happening::ChangeSource(SOURCE))),
        "F24" => {
            scenario.keeps_journal = true;
            timeline.push((now, Happening::TearJournal));
            // It ends when it writes next, whenever that is.
            timeline.extend((1..12).map(|round| (at(ms(250 * round)), Happening::RestartStore)));
        }
        "F29" => {
            timeline.push((now, Happening::Pause(TARGET)));
            timeline.push((at(ms(1)), Happening::Withdraw(SOURCE)));
            timeline.push((at(ms(2500)), Happening::Resume(TARGET)));
        }
        "F32" => {
            timeline.push((now, Happening::WallJump(SOURCE, 3600)));
            timeline.push((now, Happening::WallJump(TARGET, -3600)));
        }
        "F33" => {
            timeline.push((now, Happening::Pause(TARGET)));
            timeline.push((at(ms(5000)), Happening::Resume(TARGET)));
        }
        "F34" | "F35" => {
            let other = if fault == "F34" { Happening::OtherVersion(TARGET) } else { Happening::OtherJob(TARGET) };
            timeline.push((now, other));
            timeline.push((at(Duration::from_micros(1)), Happening::BreakWires(SOURCE, TARGET)));
        }
        "F36" if step == Step::Handshake => timeline.push((now, Happening::OtherJob(BYSTANDER))),
        "F36" => {
            timeline.push((now, Happening::Intrude(BYSTANDER)));
            timeline.push((at(ms(10)), Happening::Intrude(BYSTANDER)));
        }
        _ => {}
    }
}
