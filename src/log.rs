//! Log lines: one format for people and one for programs, each line saying which process of which job speaks.
//!
//! ```text
//! 2026-01-02T03:04:05.678Z WARN xfer::notice job=7f3a rank=3 host=n3 id=signal notice: SIGTERM: 30.0 s left
//! ```
//!
//! By default, warnings are logged, and one line a migration (target `xfer::summary`). Nothing is coloured.

use std::fmt::{self, Write as _};
use std::io;
use std::time::SystemTime;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::{LevelFilter, ParseError, Targets};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{Config, LogFormat};

/// Why nothing is logged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The filter can't be understood.
    #[error(
        "XFER_LOG={filter} is not understood ({cause}); write a level, or targets with levels: warn,xfer_migrate=debug"
    )]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        cause: String,
    },
}

/// Starts to log to standard error as the configuration says. Returns false, and changes nothing, when this process
/// logs already: the program that uses us may have its own way, and it has the last word.
pub fn init(config: &Config) -> Result<bool, LogError> {
    Ok(subscriber(config, io::stderr)?.try_init().is_ok())
}

pub(crate) fn subscriber<W>(config: &Config, writer: W) -> Result<impl Subscriber + Send + Sync + 'static, LogError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    // By target and level only. Filters by spans and their values can be patterns, and one of a hundred characters may take minutes
    // and gigabytes to be compiled.
    let filter: Targets = config
        .log
        .parse()
        .map_err(|error: ParseError| LogError::Filter { filter: config.log.clone(), cause: error.to_string() })?;
    let line = Line {
        job: config.job.clone(),
        rank: config.rank,
        host: xfer_migrate::store::host_name(),
        format: config.log_format,
    };
    let all =
        tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE).with_writer(writer).event_format(line).finish();
    Ok(all.with(filter))
}

/// How an event becomes a line.
struct Line {
    job: String,
    rank: Option<u32>,
    host: String,
    format: LogFormat,
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'s> LookupSpan<'s>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let time = humantime::format_rfc3339_millis(SystemTime::now());
        let (level, target) = (event.metadata().level().as_str(), event.metadata().target());
        match self.format {
            LogFormat::Text => {
                write!(writer, "{time} {level} {target} job={}", plain(&self.job))?;
                if let Some(rank) = self.rank {
                    write!(writer, " rank={rank}")?;
                }
                write!(writer, " host={}", plain(&self.host))?;
                for (name, value) in &fields.named {
                    match value {
                        Value::String(text) => write!(writer, " {name}={}", plain(text))?,
                        value => write!(writer, " {name}={value}")?,
                    }
                }
                writeln!(writer, " {}", Printable(&fields.message))
            }
            LogFormat::Json => {
                let mut line = Map::new();
                line.insert("time".to_owned(), time.to_string().into());
                line.insert("level".to_owned(), level.into());
                line.insert("target".to_owned(), target.into());
                line.insert("job".to_owned(), self.job.as_str().into());
                line.insert("rank".to_owned(), self.rank.into());
                line.insert("host".to_owned(), self.host.as_str().into());
                line.insert("message".to_owned(), fields.message.into());
                line.insert("fields".to_owned(), fields.named.into_iter().collect::<Map<_, _>>().into());
                writeln!(writer, "{}", Value::Object(line))
            }
        }
    }
}

/// What an event carries.
#[derive(Default)]
struct Fields {
    message: String,
    named: Vec<(String, Value)>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.named.push((field.name().to_owned(), value.into()));
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            // Writing to a string can't fail.
            "message" => drop(write!(self.message, "{value:?}")),
            _ => self.put(field, format!("{value:?}")),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message.push_str(value),
            _ => self.put(field, value),
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }
}

/// A value as it stands in a line of text: in quotes where it could be mistaken for several.
fn plain(text: &str) -> String {
    match text.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '"' || c == '=') {
        true => format!("{text:?}"),
        false => text.to_owned(),
    }
}

/// Text without control characters. Some of it comes from peers, and must not forge lines or move a terminal's cursor.
struct Printable<'a>(&'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c.is_control() {
                true => write!(f, "{}", c.escape_default())?,
                false => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex, PoisonError};

    use super::*;
    use crate::config::Inputs;

    /// Collects what is written.
    #[derive(Clone, Default)]
    struct Collected(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Collected {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn config(environment: &[(&str, &str)]) -> Config {
        let environment: BTreeMap<String, String> =
            environment.iter().map(|&(name, text)| (name.to_owned(), text.to_owned())).collect();
        Config::resolve(Inputs { environment, ..Inputs::default() }).unwrap()
    }

    fn logged(config: &Config, log: impl FnOnce()) -> String {
        let collected = Collected::default();
        let writer = collected.clone();
        let subscriber = subscriber(config, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, log);
        String::from_utf8(collected.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_line_says_when_who_and_what() {
        let config = config(&[("RANK", "3"), ("XFER_JOB", "night run")]);
        let text =
            logged(&config, || tracing::warn!(peer = 5, step = "bulk", path = "a b", "a peer is {}", "gone\n\u{1b}"));
        let (time, rest) = text.split_once(' ').unwrap();
        assert!(humantime::parse_rfc3339(time).is_ok(), "{time}");
        let host = plain(&xfer_migrate::store::host_name());
        let target = module_path!();
        assert_eq!(
            rest,
            format!(
                "WARN {target} job=\"night run\" rank=3 host={host} peer=5 step=bulk path=\"a b\" \
                 a peer is gone\\n\\u{{1b}}\n"
            )
        );
    }

    #[test]
    fn by_default_warnings_and_summaries_are_logged() {
        let text = logged(&config(&[]), || {
            tracing::info!("not this");
            tracing::warn!("one");
            tracing::info!(target: "xfer::summary", "two");
            tracing::debug!(target: "xfer::summary", "nor this");
        });
        assert_eq!(text.lines().map(|line| line.rsplit(' ').next().unwrap()).collect::<Vec<_>>(), ["one", "two"]);
        assert!(!text.contains("rank="));
    }

    #[test]
    fn a_line_of_json_can_be_read_back() {
        let config = config(&[("RANK", "3"), ("XFER_LOG", "debug"), ("XFER_LOG_FORMAT", "json")]);
        let text = logged(&config, || tracing::debug!(bytes = 7_u64, share = 0.5, done = true, "quoted \"text\""));
        let line: Value = serde_json::from_str(text.trim_end()).unwrap();
        assert_eq!((&line["rank"], &line["level"]), (&3.into(), &"DEBUG".into()));
        assert_eq!(line["message"], "quoted \"text\"");
        assert_eq!(line["fields"], serde_json::json!({"bytes": 7, "share": 0.5, "done": true}));
    }

    #[test]
    fn a_filter_that_is_none_is_refused_by_name() {
        let error = init(&config(&[("XFER_LOG", "warn,xfer=loud")])).unwrap_err().to_string();
        assert!(error.starts_with("XFER_LOG=warn,xfer=loud is not understood ("), "{error}");
    }
}
