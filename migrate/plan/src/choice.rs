//! Which of the ways that are open loses least, counting on the low end of the rate; and why, in words.

use std::cmp::Reverse;

use xfer_migrate_core::plan::BlocksError;

use crate::departure::Departure;
use crate::evaluate::OutcomeKind;
use crate::law::LinkEstimate;
use crate::mode::Mode;
use crate::report::{Expected, plan};

/// A way to leave that was chosen among some.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// The way.
    pub mode: Mode,
    /// What each of those that were open comes to, the chosen one first.
    pub ways: Vec<Expected>,
    /// Why it was chosen, for people.
    pub why: String,
}

/// Chooses among `open`, of which there is at least one; `None` if there is none.
///
/// What is counted on is the low end of the link's rate: who is wrong about a quicker one loses seconds, who is wrong about a slower one
/// a checkpoint. Only where even the best way ends at a checkpoint then, the middle of the estimate decides; and where it does with that
/// too, the way that is through soonest, since estimates err.
///
/// # Errors
///
/// When more hangs together than can be put in order.
pub fn choose(departure: &Departure, open: &[Mode]) -> Result<Option<Choice>, BlocksError> {
    let link = departure.window.link;
    let mut rate = link.low();
    let mut ways = weigh(departure, open, rate)?;
    if ways.first().is_some_and(is_in_vain) && link.bytes_per_s > rate {
        rate = link.bytes_per_s;
        ways = weigh(departure, open, rate)?;
    }
    if ways.first().is_some_and(is_in_vain) {
        ways.sort_by_key(|way| Reverse(way.mode));
    }
    let Some(first) = ways.first() else { return Ok(None) };
    Ok(Some(Choice { mode: first.mode, why: why(departure, &ways, rate), ways }))
}

impl Choice {
    /// As a JSON object: `mode`, `why`, and of each way its `mode`, `loss_s`, `resumed_s` and `rolls_back`.
    pub fn to_json(&self) -> String {
        let way = |way: &Expected| {
            serde_json::json!({
                "mode": way.mode.name(),
                "loss_s": way.loss_s,
                "resumed_s": way.typical.resumed_s,
                "rolls_back": is_in_vain(way),
            })
        };
        let ways: Vec<serde_json::Value> = self.ways.iter().map(way).collect();
        serde_json::json!({ "mode": self.mode.name(), "why": self.why, "ways": ways }).to_string()
    }
}

fn weigh(departure: &Departure, open: &[Mode], bytes_per_s: f64) -> Result<Vec<Expected>, BlocksError> {
    let mut certain = departure.clone();
    certain.window.link = LinkEstimate { bytes_per_s, spread: 0.0 };
    let mut ways = plan(&certain)?.modes;
    ways.retain(|way| open.contains(&way.mode));
    Ok(ways)
}

fn is_in_vain(way: &Expected) -> bool {
    way.typical.kind == OutcomeKind::RolledBack
}

fn why(departure: &Departure, ways: &[Expected], bytes_per_s: f64) -> String {
    let loss = |way: &Expected| match way.typical.kind {
        OutcomeKind::HandOff => format!("{} loses {:.3} s", way.mode, way.loss_s),
        OutcomeKind::StepLost => format!("{} loses {:.3} s and the open step", way.mode, way.loss_s),
        OutcomeKind::RolledBack => format!("{} would not be through in time", way.mode),
    };
    let losses: Vec<String> = ways.iter().map(loss).collect();
    format!(
        "{}, at {:.1} MB/s with {:.3} s left and {:.3} s of the step to go",
        losses.join("; "),
        bytes_per_s / 1e6,
        departure.window.notice_s,
        departure.progress.step_left_s
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Job;
    use crate::shape::Shape;

    const OPEN: [Mode; 2] = [Mode::Overlap, Mode::Stop];

    /// A third of GPT-3 1.3B, 4.8 GB of it state, with 10 Gb/s give or take.
    fn departure(notice_s: f64, left_s: f64) -> Departure {
        let job = Job::new(Shape::named("gpt3-1.3b").expect("known"));
        let mut departure = job.departure().expect("a departure");
        departure.window.notice_s = notice_s;
        (departure.progress.step_done_s, departure.progress.step_left_s) = (left_s.max(1.0), left_s);
        departure.progress.redo = false;
        departure
    }

    fn chosen(departure: &Departure) -> Choice {
        choose(departure, &OPEN).expect("it can be ordered").expect("two are open")
    }

    #[test]
    fn a_long_notice_and_a_short_rest_of_the_step_finish_it_and_a_short_notice_stops() {
        let long = chosen(&departure(60.0, 5.0));
        assert_eq!(long.mode, Mode::Overlap, "{}", long.why);
        assert_eq!(long.ways.len(), 2);
        assert!(long.ways[0].loss_s <= long.ways[1].loss_s);
        let short = chosen(&departure(20.0, 19.0));
        assert_eq!(short.mode, Mode::Stop, "{}", short.why);
        assert!(short.why.contains("overlap would not be through in time"), "{}", short.why);
        assert!(short.why.ends_with("with 20.000 s left and 19.000 s of the step to go"), "{}", short.why);
    }

    #[test]
    fn the_low_end_of_the_rate_decides() {
        let mut wide = departure(13.0, 11.0);
        wide.window.link.spread = 0.0;
        assert_eq!(chosen(&wide).mode, Mode::Overlap, "at the middle rate there is time for it");
        wide.window.link.spread = 0.5;
        assert_eq!(chosen(&wide).mode, Mode::Stop, "at the low one there is not: {}", chosen(&wide).why);
    }

    #[test]
    fn where_no_way_is_through_in_time_the_soonest_is_tried() {
        let hopeless = chosen(&departure(2.0, 1.0));
        assert_eq!(hopeless.mode, Mode::Stop);
        assert!(hopeless.ways.iter().all(is_in_vain));
    }

    #[test]
    fn describing_what_is_in_flight_is_the_stop_s_alone() {
        let mut departure = departure(60.0, 0.5);
        let loss = |departure: &Departure, mode| {
            let chosen = chosen(departure);
            chosen.ways.into_iter().find(|way| way.mode == mode).expect("it was weighed").loss_s
        };
        let before = [loss(&departure, Mode::Overlap), loss(&departure, Mode::Stop)];
        departure.handling.describe_s = 20.0;
        departure.handling.stop_after_s = 1.0;
        assert_eq!(loss(&departure, Mode::Overlap), before[0]);
        assert!(loss(&departure, Mode::Stop) > before[1] + 10.0);
        assert_eq!(choose(&departure, &[]), Ok(None));
    }
}
