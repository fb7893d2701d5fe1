//! A file as a notice: there it stands, removed it is withdrawn.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::{Notice, Origin, Shared, limits};
use crate::config::parse;

/// Looks at the file until the watcher stops.
pub(super) fn watch(shared: &Shared, path: &Path, grace: Duration) {
    let mut look = Look::default();
    let mut complained = false;
    loop {
        match read(path) {
            Ok(content) => {
                complained = false;
                match look.at(content) {
                    None => {}
                    Some(Seen::Gone) => shared.board().clear(Origin::File),
                    Some(Seen::Says(content)) => shared.board().replace(notice(path, &content, grace)),
                }
            }
            Err(error) if !complained => {
                complained = true;
                tracing::warn!(path = %path.display(), %error, "the notice file can't be read");
            }
            Err(_) => {}
        }
        if shared.sleep(limits::FILE_POLL) {
            return;
        }
    }
}

/// What is in the file; none if there is no file.
fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match std::fs::metadata(path) {
        // To open a pipe waits for its other end, and this thread has to end when it is told to.
        Ok(found) if !found.is_file() => {
            let words = "it is a pipe, a folder or a device: name an ordinary file";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, words));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    }
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut content = Vec::new();
    file.take(limits::FILE_BYTES_MAX).read_to_end(&mut content)?;
    Ok(Some(content))
}

/// What was seen at the last look.
#[derive(Default)]
struct Look {
    acted_on: Option<Vec<u8>>,
    /// Not understood at the last look: whoever writes the file may not be done.
    unfinished: Option<Vec<u8>>,
}

#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Gone,
    Says(Vec<u8>),
}

impl Look {
    /// What has changed, given what is in the file now.
    fn at(&mut self, content: Option<Vec<u8>>) -> Option<Seen> {
        if content == self.acted_on {
            self.unfinished = None;
            return None;
        }
        if let Some(content) = &content
            && said(content).is_none()
            && self.unfinished.as_ref() != Some(content)
        {
            self.unfinished = Some(content.clone());
            return None;
        }
        self.unfinished = None;
        self.acted_on.clone_from(&content);
        Some(content.map_or(Seen::Gone, Seen::Says))
    }
}

pub(super) struct Said {
    left: Duration,
    reason: String,
}

/// What a file says, if that can be understood.
pub(super) fn said(content: &[u8]) -> Option<Said> {
    let text = std::str::from_utf8(content).ok()?.trim();
    if let Ok(left) = parse::duration(text) {
        return Some(Said { left, reason: String::new() });
    }
    let Ok(Value::Object(fields)) = serde_json::from_str(text) else { return None };
    let left = Duration::try_from_secs_f64(fields.get("seconds")?.as_f64()?).ok()?;
    let reason = fields.get("reason").and_then(Value::as_str).unwrap_or_default().to_owned();
    Some(Said { left, reason })
}

/// A file that is there means that somebody announces the end, whatever it says.
pub(super) fn notice(path: &Path, content: &[u8], grace: Duration) -> Notice {
    let said = said(content).unwrap_or_else(|| {
        if !content.trim_ascii().is_empty() {
            tracing::warn!(
                path = %path.display(),
                "the notice file says neither a duration (30s) nor {{\"seconds\": 30}}; {} s are assumed",
                grace.as_secs_f64()
            );
        }
        Said { left: grace, reason: String::new() }
    });
    Notice::new(Origin::File, "file", said.left).because(said.reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(text: &str) -> Option<Seen> {
        Some(Seen::Says(text.as_bytes().to_vec()))
    }

    fn content(text: &str) -> Option<Vec<u8>> {
        Some(text.as_bytes().to_vec())
    }

    #[test]
    fn a_file_is_acted_on_once_until_it_changes_or_goes() {
        let mut look = Look::default();
        assert_eq!(look.at(None), None);
        assert_eq!(look.at(content("30s")), says("30s"));
        assert_eq!(look.at(content("30s")), None);
        assert_eq!(look.at(content("10s")), says("10s"));
        assert_eq!(look.at(None), Some(Seen::Gone));
        assert_eq!(look.at(None), None);
    }

    #[test]
    fn what_is_not_understood_gets_a_second_look() {
        let mut look = Look::default();
        assert_eq!(look.at(content("")), None);
        assert_eq!(look.at(content("{\"sec")), None);
        assert_eq!(look.at(content("{\"seconds\": 5}")), says("{\"seconds\": 5}"));
        assert_eq!(look.at(content("soon")), None);
        assert_eq!(look.at(content("soon")), says("soon"));
        assert_eq!(look.at(content("soon")), None);
    }

    #[test]
    fn durations_and_json_are_understood() {
        let left = |text: &str| said(text.as_bytes()).map(|said| said.left);
        assert_eq!(left("30s\n"), Some(Duration::from_secs(30)));
        assert_eq!(left("2m"), Some(Duration::from_secs(120)));
        assert_eq!(left("45"), Some(Duration::from_secs(45)));
        assert_eq!(left("{\"seconds\": 1.5}"), Some(Duration::from_millis(1500)));
        assert_eq!(said(b"{\"seconds\": 1, \"reason\": \"repair\"}").unwrap().reason, "repair");
        for text in ["", "soon", "-5s", "{}", "{\"seconds\": -1}", "{\"seconds\": 1e300}", "[30]", "\u{0}"] {
            assert_eq!(left(text), None, "{text:?}");
        }
        assert!(said(b"\xff").is_none());
    }

    #[test]
    fn what_could_keep_its_reader_waiting_is_not_opened() {
        let folder = std::env::temp_dir().join(format!("xfer-notice-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let (pipe, file) = (folder.join("pipe"), folder.join("file"));
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo is everywhere");
        assert!(made.success());
        std::fs::write(&file, "30s").expect("a file");
        let found = [&pipe, &folder].map(|path| read(path).expect_err("no ordinary file").kind());
        let said = (read(&file).expect("a file"), read(&folder.join("none")).expect("none is no error"));
        std::fs::remove_dir_all(&folder).expect("it is ours");
        assert_eq!(found, [io::ErrorKind::InvalidInput; 2]);
        assert_eq!(said, (content("30s"), None));
    }

    #[test]
    fn a_file_that_says_nothing_leaves_the_grace() {
        let left = notice(Path::new("notice"), b"soon", Duration::from_secs(600)).left();
        assert!(left > Duration::from_secs(500), "{left:?}");
    }
}
