//! What a target has kept of an earlier attempt is compared, planned with, and not sent again.

use std::ops::Range;
use std::time::Duration;

use proptest::prelude::*;
use xfer_migrate_core::session::{
    Event, Input, Output, SourceConfig, SourceSession, TargetConfig, TargetSession, Violation,
};
use xfer_migrate_core::{Body, Item, ItemId, Message, Offer, PlanPolicy, RecomputeCost, Verdict, limits};
use xfer_transport_core::integrity::crc32c;
use xfer_transport_core::landed::Landed;
use xfer_transport_core::{Deadline, PeerId, Place, RateInterval, RegionId, RemoteRegion, Time};

use crate::world::{LEFT, SOURCE, base, migration, standard_items};

const NOW: Time = Time::from_nanos(1_000_000_000);

/// Bytes of item `id` as they are at the source.
fn bytes_of(id: u64, len: u64) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + id) as u8).collect()
}

fn item(id: u64, bytes: u64, saves_ms: Option<u64>) -> Item {
    let cost = match saves_ms {
        Some(ms) => RecomputeCost::Compute { time: Duration::from_millis(ms), from: vec![] },
        None => RecomputeCost::Irreplaceable,
    };
    let name = format!("item.{id}").into();
    Item { id: ItemId(id), name, bytes, target: LEFT.rank, cost, ..standard_items()[0].clone() }
}

/// These ranges of `bytes`, with their checksums.
fn landed(bytes: &[u8], ranges: &[Range<u64>]) -> Landed {
    let mut landed = Landed::default();
    for range in ranges {
        landed.insert(range.clone(), crc32c(&bytes[range.start as usize..range.end as usize]));
    }
    landed
}

fn grants(items: &[Item]) -> Vec<(ItemId, RemoteRegion)> {
    let remote =
        |item: &Item| RemoteRegion { id: RegionId(item.id.0 + 100), len_bytes: item.bytes, place: Place::Host };
    items.iter().map(|item| (item.id, remote(item))).collect()
}

fn said(body: Body) -> Input {
    Input::Message { from: LEFT, message: Message { migration: migration(), body } }
}

/// A source that has offered `items` over a link that carries 1000 bytes in each of its 10 seconds.
fn source(items: &[Item]) -> SourceSession {
    let config = SourceConfig {
        source: SOURCE,
        attempt: 0,
        base: base(),
        targets: vec![LEFT.rank],
        owners_after: vec![("all".to_owned(), LEFT.rank)],
        deadline: Deadline::after(NOW, Duration::from_secs(10)),
        rate: RateInterval { low: 1000, high: 1000 },
        reserve: Duration::ZERO,
        policy: PlanPolicy::Threshold,
    };
    let mut session = SourceSession::new(NOW, config).expect("the configuration is sound");
    give(&mut session, Input::Items(items.to_vec()));
    give(&mut session, said(Body::Grants { sequence: 0, grants: vec![] }));
    session
}

fn give(session: &mut SourceSession, input: Input) {
    session.handle(NOW, input).expect("this is how it goes");
}

fn outputs(session: &mut SourceSession) -> Vec<Output> {
    std::iter::from_fn(|| session.poll_output(NOW)).filter(|output| !is_offer(output)).collect()
}

fn is_offer(output: &Output) -> bool {
    matches!(output, Output::Send { message: Message { body: Body::Offer(_), .. }, .. })
}

fn sent(item: u64, crc32c: u32, send: u32) -> Output {
    let body = Body::Sent { item: ItemId(item), version: 41, crc32c, send };
    Output::Send { to: LEFT.rank, message: Message { migration: migration(), body } }
}

fn write(item: &Item, there: Landed) -> Output {
    let (_, remote) = grants(std::slice::from_ref(item))[0];
    Output::Write { item: item.id, to: LEFT.rank, remote, there }
}

fn verdict(session: &mut SourceSession) -> Option<Verdict> {
    let events = std::iter::from_fn(|| session.poll_event());
    let verdict = |event| if let Event::Planned { verdict } = event { Some(verdict) } else { None };
    events.filter_map(verdict).last()
}

#[test]
fn what_is_there_as_a_whole_is_compared_and_announced_without_a_write() {
    let (small, large) = (item(1, 100, None), item(2, 5000, None));
    let mut session = source(&[small.clone(), large.clone()]);
    outputs(&mut session);
    let kept = landed(&bytes_of(2, 5000), std::slice::from_ref(&(0..5000)));
    give(&mut session, said(Body::Kept { items: vec![(large.id, kept.clone())] }));
    assert_eq!(session.plan().order, [small.id], "nothing of the other one is to be sent");
    give(&mut session, said(Body::Grants { sequence: 1, grants: grants(&[small.clone(), large.clone()]) }));
    let compare = Output::Compare { item: large.id, kept: kept.clone() };
    assert_eq!(outputs(&mut session), [compare, write(&small, Landed::default())]);

    give(&mut session, Input::Compared { item: large.id, there: kept });
    let crc = crc32c(&bytes_of(2, 5000));
    assert_eq!(outputs(&mut session), [sent(2, crc, 1)]);
    assert_eq!(session.missing_bytes(large.id), Some(0));
    give(&mut session, said(Body::Landed { item: large.id, send: 1 }));
    give(&mut session, Input::Cut { record: "cursor".into() });
    give(&mut session, Input::Written { item: small.id, crc32c: 7 });
    give(&mut session, said(Body::Landed { item: small.id, send: 1 }));
    let last = outputs(&mut session).pop();
    let finished = Body::Finished { skipped: vec![] };
    assert_eq!(last, Some(Output::Send { to: LEFT.rank, message: Message { migration: migration(), body: finished } }));
}

#[test]
fn a_plan_counts_what_is_missing() {
    let items = [item(1, 3000, None), item(2, 9000, None), item(3, 4000, Some(3000))];
    let mut session = source(&items);
    assert_eq!(verdict(&mut session), Some(Verdict::Loses { irreplaceable: 1, bytes_short: 2000 }));
    outputs(&mut session);
    let claimed =
        [landed(&bytes_of(2, 9000), &[0..4000, 5000..9000]), landed(&bytes_of(3, 4000), &[0..2000, 2000..3900])];
    let kept = [(ItemId(2), claimed[0].clone()), (ItemId(3), claimed[1].clone())];
    give(&mut session, said(Body::Kept { items: kept.to_vec() }));
    // The large one has less to send than the small one, and the last one costs less to send than to compute again.
    assert_eq!(verdict(&mut session), Some(Verdict::Fits { spare: Duration::from_millis(5900) }));
    assert_eq!(session.plan().order, [ItemId(2), ItemId(1), ItemId(3)]);
    assert_eq!(session.plan().rows.iter().map(|row| row.bytes).collect::<Vec<_>>(), [1000, 3000, 100]);

    give(&mut session, said(Body::Grants { sequence: 1, grants: grants(&items) }));
    let out = outputs(&mut session);
    assert_eq!(out[0], Output::Compare { item: ItemId(2), kept: claimed[0].clone() });
    // Only a part of it has the checksum that it was said to have.
    let there = landed(&bytes_of(2, 9000), std::slice::from_ref(&(0..4000)));
    give(&mut session, Input::Compared { item: ItemId(2), there: there.clone() });
    assert_eq!(session.missing_bytes(ItemId(2)), Some(5000));
    let out = outputs(&mut session);
    assert_eq!(out[0], Output::Compare { item: ItemId(3), kept: claimed[1].clone() }, "one at a time");
    assert_eq!(out[1], write(&items[1], there));
}

#[test]
fn what_arrived_damaged_or_failed_is_sent_again_as_a_whole() {
    let one = item(1, 1000, None);
    for is_damaged in [false, true] {
        let mut session = source(std::slice::from_ref(&one));
        let kept = landed(&bytes_of(1, 1000), std::slice::from_ref(&(0..600)));
        give(&mut session, said(Body::Kept { items: vec![(one.id, kept.clone())] }));
        give(&mut session, said(Body::Grants { sequence: 1, grants: grants(std::slice::from_ref(&one)) }));
        outputs(&mut session);
        give(&mut session, Input::Compared { item: one.id, there: kept.clone() });
        assert_eq!(outputs(&mut session), [write(&one, kept)]);
        if is_damaged {
            give(&mut session, Input::Written { item: one.id, crc32c: 5 });
            give(&mut session, said(Body::Damaged { item: one.id, send: 1 }));
        } else {
            give(&mut session, Input::WriteFailed { item: one.id, retry: true, reason: "it changed".to_owned() });
        }
        assert_eq!(session.missing_bytes(one.id), Some(1000));
        assert_eq!(outputs(&mut session).pop(), Some(write(&one, Landed::default())));
        assert_eq!(session.plan().rows.len(), 1);
    }
}

#[test]
fn what_is_there_and_damaged_is_sent_as_a_whole() {
    let one = item(1, 1000, None);
    let mut session = source(std::slice::from_ref(&one));
    let kept = landed(&bytes_of(1, 1000), std::slice::from_ref(&(0..1000)));
    give(&mut session, said(Body::Kept { items: vec![(one.id, kept.clone())] }));
    give(&mut session, said(Body::Grants { sequence: 1, grants: grants(std::slice::from_ref(&one)) }));
    outputs(&mut session);
    give(&mut session, Input::Compared { item: one.id, there: kept });
    outputs(&mut session);
    give(&mut session, said(Body::Damaged { item: one.id, send: 1 }));
    assert_eq!(outputs(&mut session), [write(&one, Landed::default())]);
    give(&mut session, Input::Written { item: one.id, crc32c: 5 });
    assert_eq!(outputs(&mut session), [sent(1, 5, 2)]);
}

#[test]
fn what_makes_no_sense_is_refused_and_what_comes_late_is_not_needed() {
    let one = item(1, 1000, None);
    let mut session = source(std::slice::from_ref(&one));
    let (bytes, all) = (bytes_of(1, 2000), grants(std::slice::from_ref(&one)));
    let kept = |end| landed(&bytes, std::slice::from_ref(&(0..end)));
    let mut refused = |input| session.handle(NOW, input).unwrap_err();
    let longer = said(Body::Kept { items: vec![(one.id, kept(1001))] });
    assert_eq!(refused(longer), Violation::Grants { reason: "what was kept of an item is longer than it is" });
    let unknown = said(Body::Kept { items: vec![(ItemId(9), kept(10))] });
    assert_eq!(refused(unknown), Violation::UnknownItem { item: ItemId(9), rank: LEFT.rank });
    let unasked = Violation::Item { what: "compared", item: one.id };
    assert_eq!(refused(Input::Compared { item: one.id, there: kept(10) }), unasked);

    give(&mut session, said(Body::Kept { items: vec![(one.id, kept(500))] }));
    give(&mut session, said(Body::Grants { sequence: 1, grants: all.clone() }));
    // The same once more, and something else.
    give(&mut session, said(Body::Grants { sequence: 1, grants: all }));
    give(&mut session, said(Body::Kept { items: vec![(one.id, kept(700))] }));
    assert_eq!(outputs(&mut session), [Output::Compare { item: one.id, kept: kept(500) }]);
    assert_eq!(session.handle(NOW, Input::Compared { item: one.id, there: kept(1001) }), Err(unasked));
    give(&mut session, Input::Compared { item: one.id, there: kept(500) });
    assert_eq!(outputs(&mut session), [write(&one, kept(500))]);
    give(&mut session, said(Body::Kept { items: vec![(one.id, kept(700))] }));
    assert_eq!(session.missing_bytes(one.id), Some(500));
}

#[test]
fn a_target_that_is_gone_gets_nothing_of_what_was_being_compared() {
    let one = item(1, 1000, None);
    let mut session = source(std::slice::from_ref(&one));
    let kept = landed(&bytes_of(1, 1000), std::slice::from_ref(&(0..1000)));
    give(&mut session, said(Body::Kept { items: vec![(one.id, kept.clone())] }));
    give(&mut session, said(Body::Grants { sequence: 1, grants: grants(std::slice::from_ref(&one)) }));
    outputs(&mut session);
    give(&mut session, Input::PeerGone { peer: LEFT, reason: "reset".to_owned() });
    outputs(&mut session);
    give(&mut session, Input::Compared { item: one.id, there: kept });
    assert_eq!(outputs(&mut session), []);
}

/// A target that was offered these items, and waits for memory.
fn target(items: &[Item]) -> TargetSession {
    let config = TargetConfig { me: LEFT, migration: migration(), base: base(), memory_bytes: 1 << 40 };
    let mut session = TargetSession::new(config);
    let offer = |sequence, targets, owners_after, items| {
        let offer = Offer { sequence, time_left: Duration::from_secs(10), targets, owners_after, items };
        let message = Message { migration: migration(), body: Body::Offer(offer) };
        Input::Message { from: SOURCE, message }
    };
    let owners = vec![("all".to_owned(), LEFT.rank)];
    session.handle(NOW, offer(0, vec![LEFT.rank], owners, vec![])).expect("it is asked");
    session.handle(NOW, offer(1, vec![], vec![], items.to_vec())).expect("it is offered");
    while session.poll_output(NOW).is_some() {}
    session
}

#[test]
fn a_target_says_what_it_has_before_it_grants() {
    let items = [item(1, 100, None), item(2, 100, None)];
    let mut session = target(&items);
    let kept = landed(&bytes_of(1, 100), &[0..10, 20..30]);
    let said = vec![(ItemId(1), kept.clone()), (ItemId(2), Landed::default())];
    session.handle(NOW, Input::Kept { items: said }).expect("it may have something");
    session.handle(NOW, Input::Allocated { grants: grants(&items) }).expect("it has memory");
    let bodies: Vec<Body> = std::iter::from_fn(|| session.poll_output(NOW)).filter_map(body).collect();
    let expected =
        [Body::Kept { items: vec![(ItemId(1), kept)] }, Body::Grants { sequence: 1, grants: grants(&items) }];
    assert_eq!(bodies, expected, "of what it has nothing of, it says nothing");
}

fn body(output: Output) -> Option<Body> {
    if let Output::Send { message, .. } = output { Some(message.body) } else { None }
}

#[test]
fn a_target_says_nothing_of_what_it_was_not_offered_or_what_is_longer() {
    let mut session = target(&[item(1, 100, None)]);
    let wrong = Violation::Grants { reason: "what was kept is of other items than the oldest offer's, or longer" };
    for (id, end) in [(2, 10), (1, 101)] {
        let items = vec![(ItemId(id), landed(&bytes_of(1, 200), std::slice::from_ref(&(0..end))))];
        assert_eq!(session.handle(NOW, Input::Kept { items }), Err(wrong.clone()));
    }
    session.handle(NOW, Input::Allocated { grants: grants(&[item(1, 100, None)]) }).expect("it has memory");
    let late = Input::Kept { items: vec![] };
    assert_eq!(session.handle(NOW, late), Err(Violation::Grants { reason: "nothing is being allocated" }));
}

#[test]
fn a_target_says_no_more_than_fits_a_message() {
    let items: Vec<Item> = (0..10).map(|id| item(id, 1 << 20, None)).collect();
    let mut session = target(&items);
    let ranges: Vec<Range<u64>> = (0..4000).map(|at| 2 * at..2 * at + 1).collect();
    let kept = landed(&bytes_of(0, 8000), &ranges);
    let said: Vec<(ItemId, Landed)> = items.iter().map(|item| (item.id, kept.clone())).collect();
    session.handle(NOW, Input::Kept { items: said }).expect("it has all of it in pieces");
    let Some(Output::Send { message, .. }) = session.poll_output(NOW) else { panic!("it says something") };
    assert!(message.encode().len() <= limits::MESSAGE_LEN_BYTES_MAX);
    let Body::Kept { items } = message.body else { panic!("it says what it has") };
    assert_eq!(items.len(), limits::KEPT_RANGES_MAX / 4000);
}

/// Both sides, with real bytes: whatever a target says that it has, true or not, every item lands with the source's bytes,
/// and what was true is not sent.
fn runs(len: u64, claims: &[(u64, u64)], wrong_at: Option<u64>, is_whole_wrong: bool) -> Result<u64, TestCaseError> {
    let one = item(1, len, None);
    let here = bytes_of(1, len);
    let mut there = vec![0; len as usize];
    let mut kept = Landed::default();
    for (start, count) in claims {
        let range = (start % len)..(start % len + count).min(len);
        let part = range.start as usize..range.end as usize;
        there[part.clone()].copy_from_slice(&here[part]);
    }
    if let Some(at) = wrong_at {
        there[(at % len) as usize] ^= 1;
    }
    for (start, count) in claims {
        let range = (start % len)..(start % len + count).min(len);
        let mut sum = crc32c(&there[range.start as usize..range.end as usize]);
        sum ^= u32::from(is_whole_wrong);
        kept.insert(range, sum);
    }
    let mut source = source(std::slice::from_ref(&one));
    let mut target = target(std::slice::from_ref(&one));
    if !kept.is_empty() {
        target.handle(NOW, Input::Kept { items: vec![(one.id, kept)] }).expect("it may have something");
    }
    target.handle(NOW, Input::Allocated { grants: grants(std::slice::from_ref(&one)) }).expect("it has memory");
    let (mut wrote, mut landed_at_source) = (0, false);
    for _ in 0..100 {
        while let Some(output) = target.poll_output(NOW) {
            match output {
                Output::Send { message, .. } => {
                    let decoded = Message::decode(&message.encode()).expect("it can be read");
                    give(&mut source, Input::Message { from: LEFT, message: decoded });
                }
                Output::Verify { item, crc32c: sum } => {
                    let ok = crc32c(&there) == sum;
                    target.handle(NOW, Input::Verified { item, crc32c: sum, ok }).expect("it asked");
                }
                other => panic!("{other:?}"),
            }
        }
        while let Some(output) = source.poll_output(NOW) {
            match output {
                Output::Send { message, .. } if matches!(message.body, Body::Offer(_)) => {}
                Output::Send { message, .. } => {
                    target.handle(NOW, Input::Message { from: SOURCE, message }).expect("it was offered");
                }
                Output::Compare { item, kept } => {
                    let sound = |(range, sum): &(Range<u64>, u32)| {
                        crc32c(&here[range.start as usize..range.end as usize]) == *sum
                    };
                    let mut right = Landed::default();
                    kept.ranges().filter(sound).for_each(|(range, sum)| right.insert(range, sum));
                    give(&mut source, Input::Compared { item, there: right });
                }
                Output::Write { item, there: has, .. } => {
                    for gap in has.missing(0..len) {
                        wrote += gap.end - gap.start;
                        let part = gap.start as usize..gap.end as usize;
                        there[part.clone()].copy_from_slice(&here[part]);
                    }
                    give(&mut source, Input::Written { item, crc32c: crc32c(&here) });
                }
                other => panic!("{other:?}"),
            }
        }
        while let Some(event) = source.poll_event() {
            landed_at_source |= event == Event::Landed { item: one.id };
        }
    }
    prop_assert!(landed_at_source && there == here, "it never lands");
    Ok(wrote)
}

proptest! {
    #[test]
    fn whatever_is_said_to_be_there_the_source_s_bytes_land(
        len in 1_u64..400,
        claims in prop::collection::vec((0_u64..400, 1_u64..80), 0..8),
        wrong_at in prop::option::of(0_u64..400),
        is_whole_wrong in any::<bool>(),
    ) {
        let mut is_there = vec![false; len as usize];
        // A range that is said later takes the place of those that it overlaps.
        let mut kept = Landed::default();
        claims.iter().for_each(|(start, count)| kept.insert((start % len)..(start % len + count).min(len), 0));
        for (range, _) in kept.ranges() {
            let holds = wrong_at.is_none_or(|at| !range.contains(&(at % len))) && !is_whole_wrong;
            is_there[range.start as usize..range.end as usize].fill(holds);
        }
        let missing = is_there.iter().filter(|there| !**there).count() as u64;
        prop_assert_eq!(runs(len, &claims, wrong_at, is_whole_wrong)?, missing);
    }
}

/// A peer of this life takes part, whoever it was before.
#[test]
fn another_life_of_a_target_has_kept_nothing_for_this_one() {
    let one = item(1, 1000, None);
    let mut session = source(std::slice::from_ref(&one));
    let kept = landed(&bytes_of(1, 1000), std::slice::from_ref(&(0..1000)));
    let from = PeerId { incarnation: LEFT.incarnation + 1, ..LEFT };
    let body = Body::Kept { items: vec![(one.id, kept)] };
    let stranger = Input::Message { from, message: Message { migration: migration(), body } };
    assert_eq!(session.handle(NOW, stranger), Err(Violation::Stranger { from }));
}
