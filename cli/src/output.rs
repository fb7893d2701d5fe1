//! Lines, tables and JSON on the standard streams. A reader that goes away early is no failure.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::Duration;

use serde_json::Value;

/// Writes to standard output, at once.
pub(crate) fn print(text: &str) {
    let mut stdout = io::stdout().lock();
    // Nobody reads any more, as in `xfer info | head -1`.
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// Writes one JSON document, for programs.
pub(crate) fn print_json(document: &Value) {
    print(&format!("{document:#}\n"));
}

/// Writes to standard error.
pub(crate) fn complain(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Says what has no effect.
pub(crate) fn warn(warning: &str) {
    complain(&format!("warning: {}\n", printable(warning)));
}

/// Rows under a header, in columns as wide as their widest cell.
pub(crate) fn table<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    let header = header.map(str::to_owned);
    let lines: Vec<[String; N]> =
        std::iter::once(&header).chain(rows).map(|row| row.each_ref().map(|cell| printable(cell))).collect();
    let widths: [usize; N] =
        std::array::from_fn(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0));
    let mut text = String::new();
    for line in &lines {
        let mut row = String::new();
        for (cell, width) in line.iter().zip(widths) {
            // Writing to a string can't fail.
            let _ = write!(row, "{cell:width$}  ");
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

/// Text without control characters: some of it was written by other machines.
pub(crate) fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for c in text.chars() {
        match c.is_control() {
            true => printable.extend(c.escape_default()),
            false => printable.push(c),
        }
    }
    printable
}

/// A duration for people, in the unit that suits it.
pub(crate) fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", duration.as_secs_f64()),
        10..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["1".to_owned(), "größer".to_owned()], ["12".to_owned(), String::new()]];
        assert_eq!(table(["rank", "host"], &rows), "rank  host\n1     größer\n12\n");
    }

    #[test]
    fn nothing_printed_moves_the_cursor() {
        assert_eq!(printable("a\u{1b}[2Jb\n"), "a\\u{1b}[2Jb\\n");
    }

    #[test]
    fn spans_have_the_unit_that_suits_them() {
        let text = |seconds| span(Duration::from_secs_f64(seconds));
        assert_eq!([text(0.25), text(10.0), text(119.9)], ["0.2 s", "10 s", "119 s"]);
        assert_eq!([text(120.0), text(7200.0), text(172_800.0)], ["2 min", "2 h", "2 d"]);
    }
}
