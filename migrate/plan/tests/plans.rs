//! Plans of whole departures: known numbers, promises over arbitrary ones, and what is refused.

use std::time::Duration;

use proptest::prelude::*;
use xfer_migrate_core::{GroupId, Item, ItemClass, ItemId, Manifest, RecomputeCost};
use xfer_plan::{
    Asset, Computing, Departure, DepartureError, Fate, Handling, Job, JobError, KillLaw, LinkEstimate, Mode, Operation,
    OutcomeKind, Planned, Progress, Shape, Sweep, Window, compare, manifest, page, plan,
};

fn job(name: &str) -> Job {
    Job::new(Shape::named(name).expect("it is known"))
}

fn planned(job: &Job) -> Planned {
    plan(&job.departure().expect("there is such a job")).expect("it can be ordered")
}

/// The forum's case: a third of 6.7 billion parameters, 10 Gb/s, 30 seconds.
fn forum() -> Job {
    job("gpt3-6.7b")
}

#[test]
fn a_quarter_of_the_time_a_third_of_6_7_billion_parameters_does_not_fit_through_10_gbps_in_30_s() {
    let planned = planned(&forum());
    let expected = planned.expected();
    assert_eq!(expected.mode, Mode::Overlap);
    assert!((0.2..0.27).contains(&expected.p_rollback), "{}", expected.p_rollback);
    // 12 bytes for each of 201 million parameters of 11 layers.
    assert!((26.5e9..26.8e9).contains(&(planned.state_bytes as f64)), "{}", planned.state_bytes);
    assert!(planned.gap() < 0.01);
}

#[test]
fn every_known_shape_is_planned_within_a_percent_of_the_bound() {
    for shape in Shape::known() {
        for computing in [Computing::After, Computing::Beside] {
            for (bits_per_s, replicas, zero) in [(10e9, 1, 0), (100e9, 2, 0), (400e9, 8, 1)] {
                let mut job = Job { replicas, zero, ..Job::new(shape.clone()) };
                job.window.link.bytes_per_s = bits_per_s / 8.0;
                job.window.computing = computing;
                let gap = planned(&job).gap();
                assert!(gap <= 0.01, "{} at {bits_per_s} b/s, {replicas} replicas: {gap}", shape.name);
            }
        }
    }
}

#[test]
fn no_baseline_does_better_in_any_cell_of_a_small_sweep() {
    let cells = Sweep::reduced().run().expect("the jobs are sound");
    assert_eq!(cells.len(), 72);
    for cell in &cells {
        let (plan, best) = (&cell.comparison.plan, cell.comparison.best_baseline_s());
        assert!(!cell.comparison.is_beaten(), "{cell:?}: {} against {best}", plan.loss_s);
        assert!(cell.comparison.clairvoyant_s <= plan.loss_s + 1e-6, "{cell:?}");
        assert!(cell.gap <= 0.01, "{cell:?}");
    }
}

/// What of a block the tokens make each for itself, beside what attention needs.
const OF_TOKENS: [&str; 8] = ["norm_2", "dropout_1", "up", "activation", "gate", "product", "down", "dropout_2"];

/// The same with each of these cut into slices of the sequence, which are sent or made again one by one.
fn sliced(mut departure: Departure, slices: u64) -> Departure {
    let of_tokens =
        |name: &str| OF_TOKENS.iter().any(|part| name.ends_with(&format!(".{part}")) && name.contains(".forward."));
    for number in 0..departure.operations.len() {
        let operation = departure.operations[number].clone();
        let [place] = operation.outputs[..] else { continue };
        let whole = departure.assets[place].clone();
        if !of_tokens(&whole.name) {
            continue;
        }
        let part = whole.bytes / slices;
        departure.assets[place].bytes -= part * (slices - 1);
        departure.operations[number].time_s /= slices as f64;
        for slice in 1..slices {
            departure.assets.push(Asset { name: format!("{}#{slice}", whole.name), bytes: part, ..whole.clone() });
            departure.operations.push(Operation {
                name: format!("{}#{slice}", operation.name),
                time_s: operation.time_s / slices as f64,
                outputs: vec![departure.assets.len() - 1],
                inputs: operation.inputs.clone(),
            });
        }
    }
    departure.check().expect("slices hang together as the whole did")
}

#[test]
fn slices_gain_no_more_than_the_gap() {
    let stop = |departure: &Departure| {
        let planned = plan(departure).expect("it can be ordered");
        *planned.modes.iter().find(|way| way.mode == Mode::Stop).expect("it is weighed")
    };
    for (name, sequence) in [("gpt3-1.3b", 2048), ("gpt3-6.7b", 2048), ("llama3-8b", 131_072)] {
        for computing in [Computing::After, Computing::Beside] {
            for bits_per_s in [25e9, 100e9, 400e9] {
                let mut job = job(name);
                job.shape.sequence = sequence;
                job.window.computing = computing;
                job.window.link.bytes_per_s = bits_per_s / 8.0;
                let departure = job.departure().expect("there is such a job");
                let (whole, cut) = (stop(&departure), stop(&sliced(departure, 8)));
                assert!(cut.loss_s >= whole.bound_s * (1.0 - 1e-6), "{name}: {cut:?} below the bound of {whole:?}");
                assert!(cut.loss_s <= whole.loss_s * (1.0 + 1e-3), "{name}: {cut:?} against {whole:?}");
            }
        }
    }
}

#[test]
fn what_a_replica_has_does_not_burden_the_link_that_dies() {
    let alone = planned(&forum());
    let with_replica = planned(&Job { replicas: 2, ..forum() });
    assert!(with_replica.state_bytes < 1_000_000, "{}", with_replica.state_bytes);
    assert_eq!(with_replica.expected().p_rollback, 0.0);
    let divided = planned(&Job { replicas: 2, zero: 1, ..forum() });
    let half = alone.state_bytes / 2;
    assert!(divided.state_bytes.abs_diff(half) < half / 100, "{} of {}", divided.state_bytes, alone.state_bytes);
}

#[test]
fn what_follows_from_something_else_is_not_sent() {
    let departure = forum().departure().unwrap();
    let planned = plan(&departure).unwrap();
    let derived = planned.rows.iter().filter(|row| row.fate == Fate::Derived).count();
    // The bf16 weights of eleven layers, twelve tensors each.
    assert_eq!(derived, 11 * 12);
}

#[test]
fn with_a_long_context_attention_is_sent_before_everything_else_that_was_saved() {
    let mut shape = Shape::named("llama3-8b").unwrap();
    shape.sequence = 131_072;
    let mut job = Job { replicas: 2, microbatches: 8, ..Job::new(shape) };
    job.window.link.bytes_per_s = 25e9;
    job.window.computing = Computing::Beside;
    let departure = job.departure().unwrap();
    let stop = plan(&departure).unwrap();
    let first_saved = stop.order.iter().find(|place| departure.assets[**place].class == ItemClass::Saved);
    assert!(departure.assets[*first_saved.expect("some are sent")].name.ends_with(".attention"));
}

#[test]
fn several_that_leave_must_all_make_it() {
    let one = planned(&Job { nodes: 4, ..forum() });
    let two = planned(&Job { nodes: 4, leaves: 2, ..forum() });
    assert!(two.expected().p_rollback >= one.expected().p_rollback);
    assert!(two.expected().loss_s > one.expected().loss_s);
    let nobody = |nodes, leaves| Job { nodes, leaves, ..forum() }.departure().unwrap_err();
    assert_eq!(nobody(3, 3), JobError::NobodyStays { nodes: 3 });
    assert!(nobody(3, 3).to_string().starts_with("all 3 nodes leave and nobody takes over: name a place"));
    assert!(nobody(1, 1).to_string().starts_with("the only node leaves and nobody takes over: name a place"));
    assert!(Job { leaves: 3, spill: true, ..forum() }.departure().is_ok());
}

#[test]
fn what_no_survivor_has_room_for_is_spilled() {
    let job = Job { memory_bytes: Some(8_000_000_000), spill: true, ..forum() };
    let departure = job.departure().unwrap();
    let spilled = departure.assets.iter().filter(|asset| asset.target == xfer_plan::SPILL_RANK).count();
    // A layer takes 3.6 GB: two fit on each side, seven of eleven don't.
    assert!(spilled > departure.assets.len() / 2 && spilled < departure.assets.len(), "{spilled}");
}

#[test]
fn a_deadline_in_the_past_and_a_link_that_carries_nothing_save_nothing() {
    for spoil in [|window: &mut Window| window.notice_s = 0.0, |window: &mut Window| window.link.bytes_per_s = 0.0] {
        for replicas in [1, 2] {
            let mut job = Job { replicas, zero: 1, ..forum() };
            spoil(&mut job.window);
            let planned = planned(&job);
            assert!(planned.is_hopeless());
            assert_eq!((planned.expected().p_rollback, planned.order.len()), (1.0, 0));
            assert!(planned.expected().loss_s.is_finite());
        }
    }
}

#[test]
fn absurd_jobs_are_refused_by_name() {
    let says = |job: Job| job.departure().unwrap_err().to_string();
    assert!(says(Job { nodes: 0, ..forum() }).contains("the number of nodes is 0; it must be from 1 to 32"));
    assert!(says(Job { nodes: 33, ..forum() }).contains("the number of nodes"));
    assert!(says(Job { leaves: 4, ..forum() }).contains("the number of leaving nodes"));
    assert!(says(Job { done: 1.5, ..forum() }).contains("the part of the step that is done"));
    assert!(says(Job { done: f64::NAN, ..forum() }).contains("NaN"));
    assert!(says(Job { rollback_s: -1.0, ..forum() }).contains("the rollback is -1"));
    let mut endless = forum();
    endless.shape.hidden = u64::MAX;
    assert!(says(endless).contains("the width"));
}

#[test]
fn a_page_stands_alone_and_means_what_names_say() {
    let departure = forum().departure().unwrap();
    let page = page("<a & b>", &departure, &plan(&departure).unwrap());
    assert!(page.contains("&lt;a &amp; b&gt;") && !page.contains("<a &"));
    assert!(page.contains("<polyline") && page.contains("<rect"));
    assert!(!page.contains("http") && !page.contains("<script"), "it asks for nothing");
}

const FILE: &str = r#"{
    "xfer_manifest": 1, "leaving": [1], "notice_s": 5, "link_bytes_per_s": {"low": 1000, "high": 1000},
    "step": {"done_s": 1, "left_s": 1},
    "items": [
        {"name": "w", "kind": "parameter", "bytes": 1000, "target": 0},
        {"name": "cast", "kind": "parameter", "bytes": 500, "target": 0, "recompute_s": 0, "recompute_from": ["w"]},
        {"name": "a", "kind": "saved", "bytes": 100, "target": 0, "group": "f", "recompute_s": 1, "recompute_from": ["w"]},
        {"name": "b", "kind": "saved", "bytes": 100, "target": 0, "group": "f", "recompute_s": 1, "recompute_from": ["a"]},
        {"name": "c", "kind": "saved", "bytes": 900, "target": 2, "recompute_s": 0.5, "needs": ["cast"]}
    ]
}"#;

#[test]
fn a_manifest_file_is_a_departure() {
    let departure = manifest::read(FILE.as_bytes()).unwrap();
    assert_eq!(manifest::read(FILE.replace("1000,", "1e3,").as_bytes()).unwrap(), departure, "whole is whole");
    assert_eq!((departure.assets.len(), departure.operations.len(), departure.window.link.spread), (5, 3, 0.0));
    let (planned, _) = compare(&departure).unwrap();
    let stop = planned.modes.iter().find(|expected| expected.mode == Mode::Stop).unwrap();
    // A second for `w`, a fifth for `a` and `b`, which would take two to compute; half a second to compute `c`.
    assert_eq!(stop.typical.kind, OutcomeKind::HandOff);
    assert!((stop.typical.resumed_s - 1.7).abs() < 1e-6, "{}", stop.typical.resumed_s);
}

#[test]
fn going_on_again_has_parts_and_what_a_job_has_measured_is_among_them() {
    let handling = r#""handling": {"digest_bytes_per_s": 500, "commit_s": 0.25, "meanwhile_s": 9, "after_s": 0.5},"#;
    let departure = manifest::read(FILE.replace(r#""items""#, &format!("{handling} \"items\"")).as_bytes()).unwrap();
    let planned = plan(&departure).unwrap();
    let stop = planned.modes.iter().find(|expected| expected.mode == Mode::Stop).unwrap();
    // 1200 bytes take 1.2 s on the link and twice that to digest; of 9 s of preparing, 6.35 s are left after the commit.
    for (part, expected) in
        [("stream", 1.2), ("verify", 1.2), ("commit", 0.25), ("take over", 6.85), ("compute again", 0.5)]
    {
        let found = stop.typical.parts.named().into_iter().find(|(name, _)| *name == part).unwrap().1;
        assert!((found - expected).abs() < 1e-6, "{part}: {found}");
    }
    for expected in &planned.modes {
        assert!((expected.typical.parts.sum_s() - expected.typical.resumed_s).abs() < 1e-9, "{expected:?}");
    }
}

#[test]
fn who_has_too_little_room_refuses_and_what_needs_no_room_is_still_possible() {
    let with_room = |bytes: &str| {
        let memory = format!(r#""memory_bytes": {{"0": {bytes}}}, "items""#);
        plan(&manifest::read(FILE.replace(r#""items""#, &memory).as_bytes()).unwrap()).unwrap()
    };
    let enough = with_room("1000");
    assert!(enough.short.is_empty() && !enough.is_hopeless());
    let too_little = with_room("999");
    assert!(too_little.is_hopeless());
    let (mode, short) = too_little.short[0];
    assert_eq!((mode, short.rank, short.room_bytes, short.needed_bytes), (Mode::Drain, 0, 999, 1000));
    // The forum's case has 14.5 GB of state for the left neighbour, and 19 with gradients.
    let planned = planned(&Job { memory_bytes: Some(16_000_000_000), ..forum() });
    assert!(planned.short.iter().all(|(mode, _)| matches!(mode, Mode::Overlap | Mode::Stop)));
    assert!(matches!(planned.expected().mode, Mode::Drain | Mode::DropStep), "{}", planned.expected().mode);
}

#[test]
fn what_a_running_job_writes_is_what_a_plan_reads() {
    let item = |id, name: &str, group, cost| Item {
        id: ItemId(id),
        name: name.into(),
        class: if id == 0 { ItemClass::Parameter } else { ItemClass::Saved },
        bytes: 1000 + id,
        version: 7,
        target: 2,
        group: GroupId(group),
        cost,
    };
    let computed = |from| RecomputeCost::Compute { time: Duration::from_millis(250), from };
    let items = vec![
        item(0, "w", 0, RecomputeCost::Irreplaceable),
        item(1, "a", 5, computed(vec![ItemId(0)])),
        item(2, "b", 5, computed(vec![ItemId(1)])),
    ];
    let progress =
        Progress { step_done_s: 1.0, step_left_s: 2.0, slowdown: 1.5, rollback_s: 30.0, reload_s: 4.0, redo: true };
    let handling = Handling {
        digest_bytes_per_s: Some(4e9),
        commit_s: 0.002,
        meanwhile_s: 0.25,
        after_s: 0.5,
        ..Handling::default()
    };
    let live = manifest::Live {
        leaving: 1,
        notice_s: 12.0,
        rate: (1e9, 2e9),
        progress,
        handling,
        memory_bytes: vec![(0, 5), (2, 1 << 40)],
    };
    let text = manifest::write(&Manifest::new(items).unwrap(), &live, |group| format!("forward {}", group.0));
    let departure = manifest::read(text.as_bytes()).unwrap();
    assert_eq!(
        (departure.progress, departure.handling, departure.memory_bytes),
        (progress, handling, live.memory_bytes)
    );
    assert_eq!((departure.window.notice_s, departure.leaving), (12.0, vec![1]));
    assert!((departure.window.link.low() / 1e9 - 1.0).abs() < 1e-3, "{}", departure.window.link.low());
    let [operation] = &departure.operations[..] else { panic!("{:?}", departure.operations) };
    assert_eq!((operation.time_s, &operation.outputs[..], &operation.inputs[..]), (0.5, &[1, 2][..], &[0][..]));
}

#[test]
fn what_is_no_manifest_is_refused_by_name() {
    for (from, to, says) in [
        ("\"xfer_manifest\": 1", "\"xfer_manifest\": 2", "version 2"),
        (
            "\"kind\": \"saved\", \"bytes\": 900",
            "\"kind\": \"shoe\", \"bytes\": 900",
            "`c` is of kind `shoe`; there are parameter",
        ),
        ("\"bytes\": 1000", "\"bytes\": 0", "asset `w` has 0 bytes"),
        ("\"bytes\": 1000", "\"bytes\": -5", "-5 is no whole number from 0 to"),
        ("\"bytes\": 1000", "\"bytes\": 1e30", "1e+30 is no whole number from 0 to"),
        ("\"bytes\": 1000", "\"bytes\": 0.5", "0.5 is no whole number from 0 to"),
        ("\"bytes\": 1000", "\"bytes\": \"1000\"", "invalid type: string \"1000\", expected a JSON number"),
        ("\"bytes\": 1000", "\"bytes\": 99999999999999999", "asset `w` has 99999999999999999 bytes"),
        ("\"recompute_from\": [\"w\"]", "\"recompute_from\": [\"nobody\"]", "`cast` refers to `nobody`"),
        ("\"name\": \"c\"", "\"name\": \"a\"", "`a` of an asset is there twice"),
        ("\"recompute_s\": 0.5", "\"recompute_s\": -1", "recompute_s of `c` is -1"),
        ("\"recompute_s\": 0.5, ", "\"recompute_from\": [\"w\"], ", "without recompute_s"),
        ("\"needs\": [\"cast\"]", "\"needs\": [\"c\"]", "asset `c` is made from itself"),
        ("\"low\": 1000", "\"low\": -1", "the low end of the link's rate is -1"),
        (
            "\"high\": 1000",
            "\"high\": 1",
            "the high end of the link's rate is 1; it must be a number of bytes a second from 1000 to 1e18",
        ),
        ("\"high\": 1000", "\"high\": 1e300", "the high end of the link's rate is 1e300; it must be"),
        ("\"recompute_s\": 0.5", "\"recompute_s\": 1e300", "is 1e300; it must be a number from 0 to 100000000"),
        ("\"recompute_from\": [\"a\"]", "\"recompute_from\": [\"b\"]", "asset `b` is made from itself"),
        ("\"leaving\": [1]", "\"leaving\": []", "nobody leaves"),
        ("\"leaving\": [1]", "\"leaving\": [1, 2]", "goes to rank 2, which leaves too"),
        ("\"notice_s\": 5", "\"notice_s\": -5", "the notice is -5"),
        ("\"notice_s\": 5", "\"notise_s\": 5", "unknown field `notise_s`"),
        (
            "\"items\"",
            "\"memory_bytes\": {\"0\": -1}, \"items\"",
            "the memory of rank 0 is -1; it must be a number of bytes",
        ),
        ("\"items\"", "\"handling\": {\"commit_s\": -1}, \"items\"", "the time of the commit is -1"),
        ("\"items\"", "\"handling\": {\"digest_bytes_per_s\": 0}, \"items\"", "the rate of digests is 0"),
    ] {
        assert!(FILE.contains(from), "{from}");
        let error = manifest::read(FILE.replacen(from, to, 1).as_bytes()).unwrap_err().to_string();
        assert!(error.contains(says), "{to}: {error}");
    }
    assert!(manifest::read(b"[").is_err());
    let circle = FILE.replace("\"needs\": [\"cast\"]", "\"recompute_from\": [\"b\"]");
    let circle = circle.replacen("\"recompute_from\": [\"w\"]", "\"recompute_from\": [\"c\"]", 1);
    let circle = circle.replacen(
        "\"group\": \"f\", \"recompute_s\": 1, \"recompute_from\": [\"w\"]",
        "\"group\": \"f\", \"recompute_s\": 1, \"recompute_from\": [\"cast\"]",
        1,
    );
    let error = manifest::read(circle.as_bytes()).unwrap_err();
    assert!(matches!(error, manifest::ManifestError::Departure(DepartureError::Cycle { .. })), "{error}");
}

/// An asset as it is drawn: class, bytes, leaving rank, target, seconds to compute it, whether another rank has it.
type Drawn = (usize, u64, u32, u32, Option<f64>, bool);

/// Up to eight assets of all kinds on up to two leaving ranks, for up to two targets.
fn departures() -> impl Strategy<Value = Departure> {
    let asset = (1_usize..8, 1_u64..3000, 0_u32..2, 0_u32..2, prop::option::of(0.0_f64..3.0), any::<bool>());
    let assets = prop::collection::vec(asset, 1..9);
    let window = (0.0_f64..8.0, 1.0_f64..5000.0, prop_oneof![Just(0.0_f64), 0.0..0.8], 0_usize..3, any::<bool>());
    let handling = (prop::option::of(500.0_f64..5000.0), 0.0_f64..2.0, prop::option::of(0_u64..9000));
    (assets, window, 0.0_f64..4.0, 0.0_f64..4.0, handling).prop_map(
        |(assets, window, step_done_s, step_left_s, more)| {
            let (digests, meanwhile_s, room_bytes) = more;
            let (notice_s, bytes_per_s, spread, law, beside) = window;
            let mut operations = Vec::new();
            let asset = |(place, (class, bytes, from, target, time_s, copied)): (usize, Drawn)| {
                if let Some(time_s) = time_s {
                    let inputs = if place > 0 { vec![place - 1] } else { vec![] };
                    operations.push(Operation { name: format!("op {place}"), time_s, outputs: vec![place], inputs });
                }
                Asset {
                    name: format!("asset {place}"),
                    class: ItemClass::ALL[class - 1],
                    bytes,
                    version: 1,
                    holders: if copied && place % 3 == 0 { vec![10 + from, 2] } else { vec![10 + from] },
                    target,
                    needs: if place > 1 && copied { vec![place - 2] } else { vec![] },
                }
            };
            let assets = assets.into_iter().enumerate().map(asset).collect();
            let computing = if beside { Computing::Beside } else { Computing::After };
            let link = LinkEstimate { bytes_per_s, spread };
            let window = Window { notice_s, detect_s: 0.1, reserve_s: 0.1, link, law: KillLaw::ALL[law].1, computing };
            let redo = meanwhile_s < 0.5 || !beside;
            let progress = Progress { step_done_s, step_left_s, slowdown: 1.5, rollback_s: 50.0, reload_s: 5.0, redo };
            let handling = Handling {
                digest_bytes_per_s: digests,
                commit_s: 0.01,
                meanwhile_s,
                after_s: 0.02,
                stop_meanwhile_s: meanwhile_s / 2.0,
                stop_after_s: 0.01,
                describe_s: meanwhile_s / 3.0,
            };
            let (leaving, memory_bytes) = (vec![10, 11], room_bytes.into_iter().map(|bytes| (0, bytes)).collect());
            Departure { assets, operations, leaving, progress, window, handling, memory_bytes }
                .check()
                .expect("it holds together")
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn the_plan_lies_between_the_bound_and_all_modes(departure in departures()) {
        let (planned, comparison) = compare(&departure).unwrap();
        prop_assert!(planned.bound_s <= planned.expected().loss_s + 1e-9);
        prop_assert!(comparison.clairvoyant_s <= planned.bound_s + 1e-6, "{} {}", comparison.clairvoyant_s, planned.bound_s);
        for expected in &planned.modes {
            prop_assert!(expected.bound_s <= expected.loss_s + 1e-9, "{expected:?}");
            // Modes are compared by whole nanoseconds, so that sums of the same parts in another order are equal.
            prop_assert!(planned.expected().loss_s <= expected.loss_s + 1e-9);
            prop_assert!((-1e-9..=1.0 + 1e-9).contains(&(expected.p_rollback + expected.p_step_lost)));
        }
    }

    #[test]
    fn every_asset_has_one_fate_and_what_is_sent_is_worth_it(departure in departures()) {
        let planned = plan(&departure).unwrap();
        let mut places: Vec<usize> = planned.rows.iter().map(|row| row.place).collect();
        places.sort_unstable();
        prop_assert_eq!(places, (0..departure.assets.len()).collect::<Vec<_>>());
        for row in &planned.rows {
            let asset = &departure.assets[row.place];
            let elsewhere = asset.holders.contains(&2);
            prop_assert_eq!(elsewhere, row.fate == Fate::Fetched);
        }
    }
}

#[test]
fn a_job_of_too_many_parts_is_refused_before_they_are_made() {
    let shape = Shape { layers: 4096, hidden: 128, heads: 1, kv_heads: 1, ..Shape::named("gpt3-1.3b").unwrap() };
    let deep = Job { nodes: 1024, leaves: 1024, replicas: 2, microbatches: 1024, ..Job::new(shape) };
    // 4096 layers with some of 525,312 forwards each: gigabytes, if they were made.
    let refused = deep.departure().unwrap_err().to_string();
    assert!(refused.contains("assets are too many"), "{refused}");
    let shallow = Job { nodes: 1024, leaves: 1, ..deep };
    assert!(shallow.departure().is_ok());
}
