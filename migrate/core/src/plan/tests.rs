//! Plans against exact answers, and against what they promise.

use std::collections::BTreeSet;

use proptest::prelude::*;
use xfer_transport_core::{Deadline, RateInterval, Time};

use super::oracle::{Piece, most_saved_ns, send_ns, soonest_end_ns};
use super::*;
use crate::cost::RecomputeCost;
use crate::item::GroupId;

const MS: u64 = 1_000_000;

fn item(id: u64, bytes: u64, group: GroupId, cost: RecomputeCost) -> Item {
    Item {
        id: ItemId(id),
        name: format!("item.{id}").into(),
        class: ItemClass::Saved,
        bytes,
        version: 1,
        target: 0,
        group,
        cost,
    }
}

fn lost(id: u64, bytes: u64) -> Item {
    Item { class: ItemClass::Parameter, ..item(id, bytes, GroupId::ALONE, RecomputeCost::Irreplaceable) }
}

fn computed(id: u64, bytes: u64, ns: u64) -> Item {
    in_group(id, bytes, ns, 0)
}

fn in_group(id: u64, bytes: u64, ns: u64, group: u32) -> Item {
    let cost = RecomputeCost::Compute { time: Duration::from_nanos(ns), from: vec![] };
    item(id, bytes, GroupId(group), cost)
}

/// A budget of `bytes` at the low rate, and a middle rate of one and a half times that.
fn budget(bytes: u64) -> Budget {
    let now = Time::from_nanos(5);
    Budget {
        now,
        deadline: Deadline::after(now, Duration::from_secs(3)),
        rate: RateInterval { low: bytes, high: 2 * bytes },
        reserve: Duration::from_secs(2),
    }
}

fn plan(items: Vec<Item>, budget: &Budget, policy: PlanPolicy) -> Plan {
    Plan::new(&Manifest::new(items).expect("the items make a manifest"), budget, policy)
}

fn ids(ids: &[ItemId]) -> Vec<u64> {
    ids.iter().map(|id| id.0).collect()
}

#[test]
fn the_irreplaceable_leads_smallest_first_and_density_orders_the_rest() {
    let items = vec![
        computed(1, 100, 10 * MS),
        lost(2, 500),
        computed(3, 100, 30 * MS),
        computed(4, 10, 2 * MS),
        lost(5, 1),
        computed(6, 50, 5 * MS),
        item(7, 10, GroupId::ALONE, RecomputeCost::Fetch { from: 3 }),
    ];
    let plan = plan(items, &budget(1_000_000), PlanPolicy::ShipAll);
    assert_eq!(ids(&plan.order), [5, 2, 3, 4, 6, 1], "6 and 1 are alike but for their length");
    assert_eq!(ids(&plan.recompute), [7], "what another rank has is fetched from there");
}

#[test]
fn a_group_travels_together_by_what_it_is_worth_together() {
    let items = vec![
        in_group(1, 100, MS, 8),
        computed(2, 100, 20 * MS),
        in_group(3, 100, 99 * MS, 8),
        in_group(4, 100, 30 * MS, 9),
        in_group(5, 100, 30 * MS, 9),
    ];
    let plan = plan(items, &budget(1_000_000), PlanPolicy::ShipAll);
    assert_eq!(ids(&plan.order), [1, 3, 4, 5, 2]);
}

#[test]
fn the_threshold_is_where_link_and_compute_end_together() {
    // Each takes 100 ms on the link at the middle rate. Computed, they take 300, 200, 100 and 50 ms.
    let items = || [(1, 300), (2, 200), (3, 100), (4, 50)].map(|(id, ms)| computed(id, 150_000, ms * MS)).to_vec();
    let wide = budget(1_000_000);
    let plan_of = |policy| plan(items(), &wide, policy);
    let threshold = plan_of(PlanPolicy::Threshold);
    assert_eq!((ids(&threshold.order), ids(&threshold.recompute)), (vec![1, 2], vec![3, 4]));
    assert_eq!(threshold.verdict, Verdict::Sheds { recompute: 2, time: Duration::from_millis(150) });
    assert_eq!(ids(&plan_of(PlanPolicy::ShipAll).order), [1, 2, 3, 4]);
}

#[test]
fn what_would_be_late_is_not_counted_on_and_shorter_ones_take_its_place() {
    let items = vec![lost(1, 400), computed(2, 500, 500 * MS), computed(3, 200, 100 * MS), computed(4, 90, 30 * MS)];
    let plan = plan(items, &budget(800), PlanPolicy::Threshold);
    assert_eq!((ids(&plan.order), ids(&plan.recompute)), (vec![1, 3, 4], vec![2]));
}

#[test]
fn the_verdict_turns_at_the_byte() {
    let state = || vec![lost(1, 600), lost(2, 400)];
    let verdict = |items, bytes| plan(items, &budget(bytes), PlanPolicy::ShipAll).verdict;
    assert_eq!(verdict(state(), 1000), Verdict::Fits { spare: Duration::ZERO });
    assert_eq!(verdict(state(), 2000), Verdict::Fits { spare: Duration::from_millis(500) });
    assert_eq!(verdict(state(), 999), Verdict::Loses { irreplaceable: 1, bytes_short: 1 });
    assert_eq!(verdict(state(), 399), Verdict::Loses { irreplaceable: 2, bytes_short: 601 });
    assert_eq!(verdict(state(), 0), Verdict::Loses { irreplaceable: 2, bytes_short: 1000 });

    let with_saved = || [state(), vec![computed(3, 10, 7 * MS)]].concat();
    assert_eq!(verdict(with_saved(), 1010), Verdict::Fits { spare: Duration::ZERO });
    assert_eq!(verdict(with_saved(), 1009), Verdict::Sheds { recompute: 1, time: Duration::from_millis(7) });
    assert_eq!(verdict(vec![], 0), Verdict::Fits { spare: Duration::from_secs(1) });
}

#[test]
fn what_is_late_is_sent_all_the_same() {
    let plan = plan(vec![lost(1, 600), lost(2, 400)], &budget(10), PlanPolicy::Threshold);
    assert_eq!(ids(&plan.order), [2, 1]);
}

#[test]
fn what_is_on_its_way_comes_first() {
    let manifest = Manifest::new(vec![lost(1, 600), lost(2, 400)]).unwrap();
    let standing = |item: &Item| if item.id == ItemId(2) { Standing::Open } else { Standing::Sent };
    let plan = Planner::new(&manifest).plan(&manifest, &budget(1000), PlanPolicy::Threshold, 601, standing);
    assert_eq!(ids(&plan.order), [2]);
    assert_eq!(plan.verdict, Verdict::Loses { irreplaceable: 1, bytes_short: 1 });
    assert_eq!(plan.rows[0].arrives.unwrap().soonest, Duration::from_micros(500_500));
}

#[test]
fn a_link_of_unknown_rate_carries_the_irreplaceable() {
    let unknown = Budget { rate: RateInterval { low: 0, high: 0 }, ..budget(1) };
    let plan = plan(vec![computed(1, 10, MS), lost(2, 10)], &unknown, PlanPolicy::Threshold);
    assert_eq!((ids(&plan.order), ids(&plan.recompute)), (vec![2], vec![1]));
    assert!(plan.to_string().contains("never"));
}

#[test]
fn people_can_read_it() {
    let items = vec![
        Item { name: "rng.cpu".into(), class: ItemClass::Rng, ..lost(1, 5056) },
        Item { name: "layers.4.mlp.weight".into(), ..lost(2, 67_108_864) },
        Item { name: "layers.4.mlp.saved.0".into(), ..computed(3, 8_388_608, 420 * MS) },
        Item {
            name: "pipeline.stage.1.module.layers.4.attention.softmax.saved".into(),
            ..computed(4, 33_554_432, 900_000)
        },
    ];
    let expected = "\
order  item                                      class          bytes      saves  there after
    1  rng.cpu                                   rng           5.1 kB        all  25 us to 51 us
    2  layers.4.mlp.weight                       parameter    67.1 MB        all  336 ms to 671 ms
    3  layers.4.mlp.saved.0                      saved         8.4 MB     420 ms  378 ms to 755 ms
    -  ..odule.layers.4.attention.softmax.saved  saved        33.6 MB     900 us  not sent
sheds: 1 item computed again, in 900 us";
    assert_eq!(plan(items, &budget(100_000_000), PlanPolicy::Threshold).to_string(), expected);
}

#[test]
fn verdicts_are_one_line() {
    let fits = Verdict::Fits { spare: Duration::from_secs(83) };
    assert_eq!(fits.to_string(), "fits: everything arrives, with 83.0 s to spare");
    let sheds = Verdict::Sheds { recompute: 12, time: Duration::from_millis(1500) };
    assert_eq!(sheds.to_string(), "sheds: 12 items computed again, in 1.50 s");
    let loses = Verdict::Loses { irreplaceable: 1, bytes_short: 12_500_000_000 };
    let expected = "loses: 1 item that only the bytes can bring late, 12.5 GB too many; sent all the same";
    assert_eq!(loses.to_string(), expected);
}

#[test]
fn ten_thousand_items_are_planned() {
    let item = |id: u64| match id % 3 {
        0 => lost(id, 1 + id * 7919 % 1_000_003),
        1 => computed(id, 1 + id * 104_729 % 1_000_003, id * 7907 % 50_000_000),
        _ => in_group(id, 1 + id * 31 % 4093, id * 7907 % 50_000_000, (id % 64) as u32 + 1),
    };
    let plan = plan((0..10_000).map(item).collect(), &budget(2_000_000_000), PlanPolicy::Threshold);
    assert_eq!(plan.order.len() + plan.recompute.len(), 10_000);
    assert_eq!(plan.rows.len(), 10_000);
}

/// Up to ten groups, some of them of several items, beside something irreplaceable.
fn pieces() -> impl Strategy<Value = Vec<Piece>> {
    prop::collection::vec((1_u64..2000, 0_u64..2000), 1..10)
}

/// The pieces as items with the ids 0, 1, ...: each alone.
fn items(pieces: &[Piece]) -> Vec<Item> {
    pieces.iter().enumerate().map(|(id, (bytes, us))| computed(id as u64, *bytes, us * 1000)).collect()
}

fn in_ns(pieces: &[Piece]) -> Vec<Piece> {
    pieces.iter().map(|(bytes, us)| (*bytes, us * 1000)).collect()
}

proptest! {
    #[test]
    fn the_threshold_is_within_one_group_of_the_best(
        pieces in pieces(),
        low in 1_u64..5_000_000,
        needed in 0_u64..3000,
    ) {
        let budget = budget(low);
        let mut all = items(&pieces);
        all.push(lost(99, needed + 1));
        let plan = plan(all, &budget, PlanPolicy::Threshold);
        let pieces = in_ns(&pieces);

        let room = budget.bytes_low().saturating_sub(needed + 1);
        // With nothing planned before, what doesn't pay at the low end stays.
        let rate = budget.rate.low;
        let sent: BTreeSet<u64> = plan.order.iter().map(|id| id.0).filter(|id| *id != 99).collect();
        let is_sent = |id: usize| sent.contains(&(id as u64));
        let ids = 0..pieces.len();
        let sent_bytes: u64 = ids.clone().filter(|id| is_sent(*id)).map(|id| pieces[id].0).sum();
        let compute_ns: u64 = ids.filter(|id| !is_sent(*id)).map(|id| pieces[id].1).sum();
        prop_assert!(sent_bytes <= room, "nothing is counted on that would be late");

        let end = send_ns(sent_bytes, rate).max(compute_ns);
        let best = soonest_end_ns(&pieces, rate, room);
        prop_assert!(best <= end);
        // Where the deadline doesn't bind, at most one group runs on the slower of its two machines.
        let all_bytes: u64 = pieces.iter().map(|piece| piece.0).sum();
        let slip = |piece: &Piece| match all_bytes <= room {
            true => piece.1.min(send_ns(piece.0, rate) + 1),
            false => piece.1,
        };
        let bound = pieces.iter().map(slip).max().unwrap_or(0);
        prop_assert!(end <= best + bound, "{end} ns against {best} ns and a bound of {bound} ns");
    }

    #[test]
    fn at_every_byte_the_order_has_saved_as_much_as_any_but_for_the_group_on_its_way(
        pieces in pieces(),
        died_at in 0_u64..10_000,
    ) {
        let plan = plan(items(&pieces), &budget(1), PlanPolicy::ShipAll);
        let pieces = in_ns(&pieces);
        let (mut bytes, mut saved) = (0, 0);
        for id in &plan.order {
            let piece = pieces[id.0 as usize];
            bytes += piece.0;
            saved += piece.1;
            // The group on its way counts as saved here: without it, this would be the exact optimum's lower bound.
            if bytes > died_at {
                break;
            }
        }
        prop_assert!(saved >= most_saved_ns(&pieces, died_at));
    }

    #[test]
    fn the_order_does_not_depend_on_the_rate_or_the_deadline(
        pieces in pieces(),
        one in 0_u64..u64::MAX / 2,
        other in 0_u64..1000,
    ) {
        let order = |bytes| plan(items(&pieces), &budget(bytes), PlanPolicy::ShipAll).order;
        prop_assert_eq!(order(one), order(other));
        // And what a threshold sends, it sends in that order.
        let all = order(0);
        let some = plan(items(&pieces), &budget(other), PlanPolicy::Threshold).order;
        let kept: Vec<ItemId> = all.into_iter().filter(|id| some.contains(id)).collect();
        prop_assert_eq!(kept, some);
    }

    #[test]
    fn every_item_is_sent_or_not_and_shown_once(
        costs in prop::collection::vec((0_u8..3, 1_u64..1 << 40, any::<u64>(), 0_u32..4), 0..40),
        rates in any::<[u64; 2]>(),
        left in any::<[u64; 2]>(),
        ship_all in any::<bool>(),
    ) {
        let item = |(id, (kind, bytes, ns, group)): (usize, (u8, u64, u64, u32))| match kind {
            0 => lost(id as u64, bytes),
            1 => item(id as u64, bytes, GroupId::ALONE, RecomputeCost::Fetch { from: 1 }),
            _ => in_group(id as u64, bytes, ns, group),
        };
        let items: Vec<Item> = costs.into_iter().enumerate().map(item).collect();
        let budget = Budget {
            now: Time::from_nanos(left[1]),
            deadline: Deadline(Time::from_nanos(left[0])),
            rate: RateInterval { low: rates[0].min(rates[1]), high: rates[0].max(rates[1]) },
            reserve: Duration::from_nanos(left[0] / 3),
        };
        let policy = if ship_all { PlanPolicy::ShipAll } else { PlanPolicy::Threshold };
        let plan = plan(items.clone(), &budget, policy);

        let shown: Vec<ItemId> = plan.rows.iter().map(|row| row.id).collect();
        prop_assert_eq!(&shown, &[plan.order.clone(), plan.recompute.clone()].concat());
        let once: BTreeSet<ItemId> = shown.iter().copied().collect();
        prop_assert_eq!(once.len(), items.len());
        let irreplaceable = items.iter().filter(|item| item.cost.is_irreplaceable()).count();
        for (at, id) in plan.order.iter().enumerate() {
            let item = &items[id.0 as usize];
            prop_assert_eq!(item.cost.is_irreplaceable(), at < irreplaceable);
            let fetched = matches!(item.cost, RecomputeCost::Fetch { .. });
            prop_assert!(!fetched);
        }
        for pair in plan.rows.windows(2) {
            if let (Some(before), Some(after)) = (pair[0].arrives, pair[1].arrives) {
                prop_assert!(before.soonest <= after.soonest && before.latest <= after.latest);
            }
        }
        prop_assert!(!plan.to_string().is_empty());
    }
}
