//! `xfer info`: what this program is, what it finds on this machine, and how it is configured.

use clap::Args;
use serde_json::{Value, json};
use xfer::config::{Config, DefaultValue, SETTINGS};
use xfer::store::host_name;
use xfer_transport::backend::{Probe, probe};

use crate::failure::Failure;
use crate::output::{print, print_json, table};

/// Options of `xfer info`.
#[derive(Args)]
pub(crate) struct Options {
    /// Shows every setting, its value and where that comes from.
    #[arg(long)]
    config: bool,
    /// Writes JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let config = crate::configuration(Vec::new())?;
    let backends = backends();
    if options.json {
        print_json(&document(&config, &backends, options.config));
        return Ok(());
    }
    print(&format!("xfer {} on {}\n\n", env!("CARGO_PKG_VERSION"), host_name()));
    let rows: Vec<[String; 3]> = backends.iter().map(Backend::row).collect();
    print(&table(["backend", "usable", "why"], &rows));
    if options.config {
        let rows: Vec<[String; 3]> = config
            .values
            .iter()
            .map(|value| [value.name.to_owned(), shown(&value.text).to_owned(), value.source.to_string()])
            .collect();
        print(&format!("\n{}", table(["setting", "value", "source"], &rows)));
    }
    Ok(())
}

/// A way to move bytes, and whether it can be used here.
struct Backend {
    name: String,
    usable: bool,
    why: String,
}

impl Backend {
    fn row(&self) -> [String; 3] {
        let usable = if self.usable { "yes" } else { "no" };
        [self.name.clone(), usable.to_owned(), self.why.clone()]
    }
}

/// Tries what can be tried.
fn backends() -> Vec<Backend> {
    let tried = probe().into_iter().map(|Probe { backend, found }| {
        let usable = found.is_ok();
        (backend.to_string(), usable, found.unwrap_or_else(|why| why))
    });
    let absent = ["cuda_ipc", "nccl"].map(|name| (name.to_owned(), false, "not part of this version".to_owned()));
    tried.chain(absent).map(|(name, usable, why)| Backend { name, usable, why }).collect()
}

fn document(config: &Config, backends: &[Backend], with_config: bool) -> Value {
    let backends: Vec<Value> = backends
        .iter()
        .map(|backend| json!({ "name": backend.name, "usable": backend.usable, "why": backend.why }))
        .collect();
    let mut document = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "host": host_name(),
        "backends": backends,
        "warnings": config.warnings,
    });
    if with_config {
        document["config"] = config.values.iter().map(setting).collect();
    }
    document
}

fn setting(value: &xfer::config::Value) -> Value {
    let mut shown = json!({ "name": value.name, "value": value.text, "source": value.source.to_string() });
    // What torchrun sets is shown with the settings, and is none.
    if let Some(setting) = SETTINGS.iter().find(|setting| setting.name == value.name) {
        shown["meaning"] = setting.meaning.into();
        shown["default"] = match setting.default {
            DefaultValue::Is(text) | DefaultValue::Follows(text) => text.into(),
            DefaultValue::Nothing => Value::Null,
        };
    }
    shown
}

fn shown(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}
