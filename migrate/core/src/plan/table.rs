//! A plan as a table for people.

use std::fmt;
use std::time::Duration;

use super::{Plan, PlanRow};

/// Longest name in the table; longer ones keep their end, which tells tensors of one module apart.
const NAME_CHARS_MAX: usize = 40;

impl fmt::Display for Plan {
    /// What is sent in its order, what isn't, and the verdict. Times count from the moment of planning.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rows.iter().map(|row| name(row).chars().count()).max().unwrap_or(0).max("item".len());
        writeln!(f, "{:>5}  {:width$}  {:9}  {:>9}  {:>9}  there after", "order", "item", "class", "bytes", "saves")?;
        for (at, row) in self.rows.iter().enumerate() {
            let order = match row.arrives {
                Some(_) => (at + 1).to_string(),
                None => "-".to_owned(),
            };
            let saves = row.saves.map_or_else(|| "all".to_owned(), seconds);
            let arrives = match row.arrives {
                Some(arrival) => format!("{} to {}", seconds(arrival.soonest), seconds(arrival.latest)),
                None => "not sent".to_owned(),
            };
            let (name, bytes) = (name(row), bytes(row.bytes));
            writeln!(f, "{order:>5}  {name:width$}  {:9}  {bytes:>9}  {saves:>9}  {arrives}", row.class)?;
        }
        write!(f, "{}", self.verdict)
    }
}

fn name(row: &PlanRow) -> String {
    let chars = row.name.chars().count();
    if chars <= NAME_CHARS_MAX {
        return row.name.to_string();
    }
    let end: String = row.name.chars().skip(chars - (NAME_CHARS_MAX - 2)).collect();
    format!("..{end}")
}

/// So many items.
pub(super) fn items(count: usize) -> String {
    if count == 1 { "1 item".to_owned() } else { format!("{count} items") }
}

/// A duration with three digits that mean something.
pub(super) fn seconds(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match seconds {
        _ if duration == Duration::MAX => "never".to_owned(),
        s if s >= 100.0 => format!("{s:.0} s"),
        s if s >= 10.0 => format!("{s:.1} s"),
        s if s >= 1.0 => format!("{s:.2} s"),
        s if s >= 0.1 => format!("{:.0} ms", s * 1e3),
        s if s >= 0.001 => format!("{:.1} ms", s * 1e3),
        s => format!("{:.0} us", s * 1e6),
    }
}

/// A length in the largest decimal unit that leaves a digit before the point.
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(1_000_000_000_000, "TB"), (1_000_000_000, "GB"), (1_000_000, "MB"), (1000, "kB")];
    UNITS
        .iter()
        .find(|(unit, _)| bytes >= *unit)
        .map_or_else(|| format!("{bytes} B"), |(unit, name)| format!("{:.1} {name}", bytes as f64 / *unit as f64))
}
