//! The tables of both machines, whole: a change of behaviour is a change of these lines.

use xfer_migrate_core::session::{SourceState, TargetState, Transition};

/// Rows of one event and one target state as one line.
fn table(transitions: &[Transition]) -> String {
    let mut lines: Vec<(&str, Vec<&str>, &str)> = Vec::new();
    for (event, from, to) in transitions {
        match lines.last_mut() {
            Some((last, states, end)) if last == event && end == to => states.push(from),
            _ => lines.push((event, vec![from], to)),
        }
    }
    lines.iter().map(|(event, from, to)| format!("{event}: {} => {to}\n", from.join(" | "))).collect()
}

#[test]
fn of_a_source() {
    let expected = "\
on_granted: Offered => Streaming
on_cut: Offered | Streaming => Cut
on_finished: Cut => Finished
on_expired: Offered | Streaming | Cut | Finished => Expired
on_withdraw: Offered | Streaming | Cut | Finished | Expired => Withdrawing
on_committed: Offered | Streaming | Cut | Finished | Expired | Withdrawing | Failed => Committed
on_restored: Offered | Streaming | Cut | Finished | Expired | Withdrawing | Failed => Restored
on_withdrawn: Offered | Streaming | Cut | Finished | Expired | Withdrawing | Failed => Withdrawn
on_superseded: Offered | Streaming | Cut | Finished | Expired | Withdrawing | Failed => Superseded
on_failed: Expired | Withdrawing => Failed
";
    assert_eq!(table(SourceState::transitions()), expected);
}

#[test]
fn of_a_target() {
    let expected = "\
on_offer: Idle | Receiving => Receiving
on_offer: Cut => Cut
on_cut: Receiving => Cut
on_refuse: Idle | Receiving | Cut => Refused
on_fence: Receiving | Cut => Fencing
on_seal: Fencing => Sealed
on_propose: Fencing | Sealed => Proposing
on_committed: Sealed | Proposing | Failed => Committed
on_restored: Idle | Receiving | Cut | Fencing | Sealed | Proposing | Failed => Restored
on_withdrawn: Idle | Receiving | Cut | Fencing | Sealed | Proposing | Failed => Withdrawn
on_superseded: Idle | Receiving | Cut | Fencing | Sealed | Proposing | Failed => Superseded
on_failed: Idle | Receiving | Cut | Fencing | Sealed | Proposing => Failed
";
    assert_eq!(table(TargetState::transitions()), expected);
}

#[test]
fn what_is_over_stays_over() {
    for (_, from, _) in SourceState::transitions() {
        let over = SourceState::ALL.iter().any(|state| state.name() == *from && state.is_over());
        assert!(!over, "something leads out of {from}");
    }
    for (_, from, _) in TargetState::transitions() {
        let over = TargetState::ALL.iter().any(|state| state.name() == *from && state.is_over());
        assert!(!over, "something leads out of {from}");
    }
}

#[test]
fn everything_that_is_not_over_can_end() {
    let ends = |name: &str, table: &[Transition]| {
        table.iter().any(|(event, from, _)| *event == "on_superseded" && *from == name)
    };
    for state in SourceState::ALL.iter().filter(|state| !state.is_over()) {
        assert!(ends(state.name(), SourceState::transitions()), "nothing ends {}", state.name());
    }
    for state in TargetState::ALL.iter().filter(|state| !state.is_over()) {
        assert!(ends(state.name(), TargetState::transitions()), "nothing ends {}", state.name());
    }
}
