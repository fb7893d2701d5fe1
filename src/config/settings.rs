//! The one table of all settings, from which they are read, shown and documented.

use std::fmt::Write;

/// What the names of our variables begin with.
pub(super) const PREFIX: &str = "XFER_";

/// One thing that can be set.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Its variable.
    pub name: &'static str,
    /// What it is when nobody sets it.
    pub default: DefaultValue,
    /// What it means.
    pub meaning: &'static str,
}

/// What a setting is when nobody sets it.
#[derive(Debug, Clone, Copy)]
pub enum DefaultValue {
    /// This value.
    Is(&'static str),
    /// What follows from something else, in words.
    Follows(&'static str),
    /// Nothing.
    Nothing,
}

impl DefaultValue {
    /// The default as a value; empty when it follows from something else.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Is(text) => text,
            Self::Follows(_) | Self::Nothing => "",
        }
    }
}

impl Setting {
    /// Its name in the configuration file.
    pub fn key(&self) -> String {
        self.name[PREFIX.len()..].to_lowercase()
    }
}

pub(super) const STORE: Setting = Setting {
    name: "XFER_STORE",
    default: DefaultValue::Follows("`MASTER_ADDR:(MASTER_PORT+1)`, else `127.0.0.1:29501`"),
    meaning: "Where the job's store is. Rank 0 hosts it if nobody does and the address is its own.",
};
pub(super) const STORE_TIMEOUT: Setting = Setting {
    name: "XFER_STORE_TIMEOUT",
    default: DefaultValue::Is("5s"),
    meaning: "How long a call to the store may take before it is an error.",
};
pub(super) const START_TIMEOUT: Setting = Setting {
    name: "XFER_START_TIMEOUT",
    default: DefaultValue::Is("60s"),
    meaning: "How long a process waits for the store, and for the others, when the job starts.",
};
pub(super) const JOB: Setting = Setting {
    name: "XFER_JOB",
    default: DefaultValue::Follows("`TORCHELASTIC_RUN_ID`, else `default`"),
    meaning: "The name of the job. Processes of different jobs refuse each other.",
};
pub(super) const BIND: Setting = Setting {
    name: "XFER_BIND",
    default: DefaultValue::Is("127.0.0.1:0"),
    meaning: "The address at which the other processes reach this one; port 0 takes a free one.",
};
pub(super) const ADVERTISE: Setting = Setting {
    name: "XFER_ADVERTISE",
    default: DefaultValue::Follows("`XFER_BIND`"),
    meaning: "The address that the other processes are told, where a port mapping or a proxy leads from there to `XFER_BIND`.",
};
pub(super) const TRANSPORTS: Setting = Setting {
    name: "XFER_TRANSPORTS",
    default: DefaultValue::Is("auto"),
    meaning: "What may move bytes, best first: `shm,verbs,tcp`, or some of them, which are then kept to. `auto` takes all that are here.",
};
pub(super) const LINKS: Setting = Setting {
    name: "XFER_LINKS",
    default: DefaultValue::Is("2"),
    meaning: "Connections that carry data to each peer, 1 to 16.",
};
pub(super) const CHUNK: Setting = Setting {
    name: "XFER_CHUNK",
    default: DefaultValue::Is("1MiB"),
    meaning: "The unit of sending, checking and sending again, 64KiB to 16MiB.",
};
pub(super) const EGRESS: Setting = Setting {
    name: "XFER_EGRESS",
    default: DefaultValue::Is("off"),
    meaning: "The most that this process sends, as `1.2GB/s` or `10Gbit/s`; `off` for no limit.",
};
pub(super) const BUSY_POLL: Setting = Setting {
    name: "XFER_BUSY_POLL",
    default: DefaultValue::Is("0s"),
    meaning: "How long links look for more without sleeping, up to `1ms`; for the lowest latency, where processors are free.",
};
pub(super) const SHM_FETCH: Setting = Setting {
    name: "XFER_SHM_FETCH",
    default: DefaultValue::Is("1"),
    meaning: "`0` keeps processes of one machine from reading each other's memory: what isn't shared goes through a ring.",
};
pub(super) const ZEROCOPY: Setting = Setting {
    name: "XFER_ZEROCOPY",
    default: DefaultValue::Is("0"),
    meaning: "`auto` has TCP send large chunks without the kernel's copy, where a link gains by it; `256KiB` from that size on; `0` never.",
};
pub(super) const VERBS_DEVICE: Setting = Setting {
    name: "XFER_VERBS_DEVICE",
    default: DefaultValue::Follows("the device whose port has the address of `XFER_BIND`"),
    meaning: "The RDMA devices to use, as `mlx5_0`, `mlx5_0:1` (port) or `mlx5_0:1/3` (port and GID), several with commas.",
};
pub(super) const INSECURE: Setting = Setting {
    name: "XFER_INSECURE",
    default: DefaultValue::Is("0"),
    meaning: "`1` allows addresses that other machines reach, although nobody is asked who he is.",
};
pub(super) const NOTICE_FILE: Setting = Setting {
    name: "XFER_NOTICE_FILE",
    default: DefaultValue::Nothing,
    meaning: "A file whose appearance is a notice: it holds `30s` or `{\"seconds\": 30}`. Removed, it is withdrawn.",
};
pub(super) const GRACE: Setting = Setting {
    name: "XFER_GRACE",
    default: DefaultValue::Is("30s"),
    meaning: "What is left after SIGTERM, and after a notice that doesn't say.",
};
pub(super) const IMDS_URL: Setting = Setting {
    name: "XFER_IMDS_URL",
    default: DefaultValue::Is("auto"),
    meaning: "Where EC2's notices are asked for: `auto` asks on EC2 only, `off` nowhere, else `http://HOST:PORT`.",
};
pub(super) const LOG: Setting = Setting {
    name: "XFER_LOG",
    default: DefaultValue::Is("warn,xfer::summary=info"),
    meaning: "What is logged, a level or targets with levels: `info`, `warn,xfer_migrate=debug`, `off`.",
};
pub(super) const LOG_FORMAT: Setting = Setting {
    name: "XFER_LOG_FORMAT",
    default: DefaultValue::Is("text"),
    meaning: "How a log line is written: `text` or `json`.",
};
pub(super) const TRACE_DIR: Setting = Setting {
    name: "XFER_TRACE_DIR",
    default: DefaultValue::Nothing,
    meaning: "A folder where each migration leaves a trace, and one that fails the latest transfers too; `xfer trace` puts them together.",
};
pub(super) const CONFIG: Setting = Setting {
    name: "XFER_CONFIG",
    default: DefaultValue::Follows("`xfer.toml`, if it is there"),
    meaning: "The configuration file.",
};

/// Everything that can be set. At most 25: what nobody needs to set isn't here.
pub const SETTINGS: [Setting; 22] = [
    STORE,
    STORE_TIMEOUT,
    START_TIMEOUT,
    JOB,
    BIND,
    ADVERTISE,
    TRANSPORTS,
    LINKS,
    CHUNK,
    EGRESS,
    BUSY_POLL,
    SHM_FETCH,
    ZEROCOPY,
    VERBS_DEVICE,
    INSECURE,
    NOTICE_FILE,
    GRACE,
    IMDS_URL,
    LOG,
    LOG_FORMAT,
    TRACE_DIR,
    CONFIG,
];

/// The table as a document, as it is in `settings.md`.
pub fn markdown() -> String {
    let mut document = String::from("# Settings\n\n| variable | default | meaning |\n| --- | --- | --- |\n");
    for Setting { name, default, meaning } in SETTINGS {
        let default = match default {
            DefaultValue::Is(text) => format!("`{text}`"),
            DefaultValue::Follows(rule) => rule.to_owned(),
            DefaultValue::Nothing => "none".to_owned(),
        };
        // Writing to a string can't fail.
        let _ = writeln!(document, "| `{name}` | {default} | {meaning} |");
    }
    document
}

/// The setting whose key is most like `key`, if any is like it at all.
pub(super) fn nearest(key: &str) -> Option<&'static Setting> {
    let distance = |setting: &Setting| strsim::osa_distance(&setting.key(), key);
    let nearest = SETTINGS.iter().min_by_key(|setting| distance(setting))?;
    if distance(nearest) * 3 <= key.len().max(3) {
        return Some(nearest);
    }
    // Half a name, or a name and more, is another usual mistake.
    let related = |setting: &&Setting| setting.key().starts_with(key) || key.starts_with(&setting.key());
    SETTINGS.iter().filter(related).min_by_key(|setting| distance(setting)).filter(|_| key.len() >= 3)
}
