//! How long plans take: for people, as the best of several rounds, in time that this thread was given by its core. On a
//! machine that does other work too, time by the clock would be about that.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use xfer_migrate_core::plan::{Parcel, Planner, Standing, blocks};
use xfer_migrate_core::session::{Input, SourceConfig, SourceSession};
use xfer_migrate_core::{
    Budget, GenerationRecord, GroupId, Item, ItemClass, ItemId, Manifest, PlanPolicy, RecomputeCost,
};
use xfer_plan::{Asset, Computing, Departure, Handling, KillLaw, LinkEstimate, Operation, Progress, Window, plan};
use xfer_transport_core::{Deadline, PeerId, RateInterval, Time};

const ROUNDS: usize = 15;

fn main() {
    println!("{:<58} {:>10} {:>10}", "best of 15 rounds", "10,000", "100,000");
    row("order of parcels, each alone", |count| best(|| drop(blocks(&parcels(count, false)))));
    row("order of parcels, ten to a shared need", |count| best(|| drop(blocks(&parcels(count, true)))));
    row("`xfer plan`: all modes, rates and bounds, one rate known", |count| whole_plan(count, 0.0));
    row("`xfer plan`: all modes, rates and bounds, 21 rates", |count| whole_plan(count, 0.3));
    // A session takes no more than 65,536 items.
    let manifest = Manifest::new(items(10_000)).expect("the items make a manifest");
    let planner = Planner::new(&manifest);
    let once = |policy, standing: Standing| {
        best(|| drop(planner.plan(&manifest, &budget(1_000_000_000), policy, 0, |_| standing)))
    };
    one(
        "a session's first plan",
        best(|| {
            drop(Planner::new(&manifest).plan(
                &manifest,
                &budget(1_000_000_000),
                PlanPolicy::SendThenCompute,
                0,
                |_| Standing::Open,
            ))
        }),
    );
    one("a new plan, the targets compute beside the link", once(PlanPolicy::Threshold, Standing::Open));
    one("a new plan, the targets compute afterwards", once(PlanPolicy::SendThenCompute, Standing::Open));
    one("a new plan, after one that sends what is disputed", once(PlanPolicy::SendThenCompute, Standing::Planned));
    one("a session hears of another rate, plans and orders anew", session_hears_of_a_rate());
}

fn row(what: &str, of: impl Fn(usize) -> Duration) {
    println!("{what:<58} {:>7.2} ms {:>7.2} ms", ms(of(10_000)), ms(of(100_000)));
}

fn one(what: &str, took: Duration) {
    println!("{what:<58} {:>7.2} ms", ms(took));
}

fn ms(took: Duration) -> f64 {
    took.as_secs_f64() * 1e3
}

fn best(mut work: impl FnMut()) -> Duration {
    let spent = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    };
    let round = |_| {
        let began = spent();
        work();
        spent() - began
    };
    (0..ROUNDS).map(round).min().unwrap_or_default()
}

/// Sizes and savings that look arbitrary and are always the same.
fn varied(at: usize) -> (u64, u64) {
    let at = at as u64;
    (1 + at * 104_729 % 4_000_037, 1000 + at * 7907 % 5_000_011)
}

fn parcels(count: usize, shared: bool) -> Vec<Parcel> {
    let parcel = |at: usize| {
        let (bytes, saves_ns) = varied(at);
        let first = at - at % 10;
        let needs = if shared && at != first { vec![first] } else { Vec::new() };
        Parcel { bytes, saves_ns: if needs.is_empty() && shared { 0 } else { saves_ns }, needs }
    };
    (0..count).map(parcel).collect()
}

/// A departure of so many assets: a fifth is state, the rest saved tensors that share a description by tens.
fn departure(count: usize, spread: f64) -> Departure {
    let mut operations = Vec::new();
    let asset = |at: usize| {
        let (bytes, saves_ns) = varied(at);
        let is_state = at.is_multiple_of(5);
        let description = at - at % 10 + 1;
        if !is_state {
            operations.push(Operation {
                name: format!("operation {at}"),
                time_s: saves_ns as f64 / 1e9,
                outputs: vec![at],
                inputs: vec![],
            });
        }
        Asset {
            name: format!("layers.{}.tensor.{at}", at / 100),
            class: if is_state { ItemClass::OptimizerState } else { ItemClass::Saved },
            bytes,
            version: 1,
            holders: vec![1],
            target: 2 * ((at / 100) % 2) as u32,
            needs: if is_state || at == description { vec![] } else { vec![description] },
        }
    };
    let assets = (0..count).map(asset).collect();
    let link = LinkEstimate { bytes_per_s: 5e9, spread };
    let (notice_s, detect_s, reserve_s) = (300.0, 0.5, 0.25);
    let (law, computing) = (KillLaw::AtDeadline, Computing::After);
    let window = Window { notice_s, detect_s, reserve_s, link, law, computing };
    let (step_done_s, step_left_s, slowdown, rollback_s, reload_s) = (500.0, 500.0, 1.5, 900.0, 60.0);
    let progress = Progress { step_done_s, step_left_s, slowdown, rollback_s, reload_s, redo: true };
    let (leaving, handling, memory_bytes) = (vec![1], Handling::default(), Vec::new());
    Departure { assets, operations, leaving, progress, window, handling, memory_bytes }
        .check()
        .expect("the parts hold together")
}

fn whole_plan(count: usize, spread: f64) -> Duration {
    let departure = departure(count, spread);
    best(|| drop(plan(&departure)))
}

fn items(count: usize) -> Vec<Item> {
    let item = |at: usize| {
        let (bytes, saves_ns) = varied(at);
        let is_state = at.is_multiple_of(5);
        let group = if is_state || at % 10 < 5 { GroupId::ALONE } else { GroupId((at / 10) as u32 + 1) };
        let cost = match is_state {
            true => RecomputeCost::Irreplaceable,
            false => RecomputeCost::Compute { time: Duration::from_nanos(saves_ns), from: vec![] },
        };
        Item {
            id: ItemId(at as u64),
            name: format!("layers.{}.tensor.{at}", at / 100).into(),
            class: if is_state { ItemClass::OptimizerState } else { ItemClass::Saved },
            bytes,
            version: 1,
            target: 2 * ((at / 100) % 2) as u32,
            group,
            cost,
        }
    };
    (0..count).map(item).collect()
}

fn budget(bytes_per_s: u64) -> Budget {
    Budget {
        now: Time::ZERO,
        deadline: Deadline::after(Time::ZERO, Duration::from_secs(30)),
        rate: RateInterval { low: bytes_per_s, high: bytes_per_s * 2 },
        reserve: Duration::from_millis(250),
    }
}

fn session_hears_of_a_rate() -> Duration {
    let config = SourceConfig {
        source: PeerId { rank: 1, incarnation: 1 },
        attempt: 0,
        base: GenerationRecord::initial(vec![]),
        targets: vec![0, 2],
        owners_after: vec![],
        deadline: budget(1).deadline,
        rate: budget(1_000_000_000).rate,
        reserve: budget(1).reserve,
        policy: PlanPolicy::SendThenCompute,
    };
    let mut session = SourceSession::new(Time::ZERO, config).expect("the configuration is sound");
    session.handle(Time::ZERO, Input::Items(items(10_000))).expect("the items are sound");
    let mut rate = 1_000_000_000;
    best(|| {
        rate = if rate > 1_500_000_000 { 1_000_000_000 } else { 2_000_000_000 };
        session.handle(Time::ZERO, Input::Rate(budget(rate).rate)).expect("a rate is always taken");
        while session.poll_event().is_some() {}
    })
}
