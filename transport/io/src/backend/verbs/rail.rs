//! Which device, which of its ports and which of the port's addresses: found by an address of this machine, or named.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use xfer_sys::verbs::{
    Completion, Context, Gid, GidKind, LinkLayer, Port, ProtectionDomain, Status, VerbsError, device_names,
};

use super::dmabufs::{self, Dmabufs};
use super::watch::Watch;
use crate::limits::RAILS_MAX;

/// One way out of this machine.
#[derive(Debug, Clone)]
pub(super) struct Rail {
    pub(super) context: Arc<Context>,
    pub(super) port: Port,
    pub(super) gid: Gid,
    /// Whether sources are exposed through windows; no more once one could not be opened.
    pub(super) has_windows: Arc<AtomicBool>,
    /// Which way it reaches memory of other devices.
    pub(super) dmabufs: Arc<Dmabufs>,
    /// Who hears of what happens to the device: one for all its ports.
    pub(super) watch: Arc<Watch>,
    pub(super) mishaps: Mishaps,
}

/// What goes wrong with each link on purpose, for tests.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Mishaps {
    /// Work after which its queue pair fails.
    pub(super) fails_after: Option<u64>,
    /// Completions that are taken before one is lost.
    pub(super) loses_after: Option<u64>,
    /// Completions that are taken before one says that its work has failed.
    pub(super) spoils_after: Option<u64>,
    /// Room for so many completions, whatever is needed.
    pub(super) completions: Option<u32>,
}

impl Mishaps {
    /// Whether the queue pair has to fail before so much more work.
    pub(super) fn is_to_fail(&mut self, work: usize) -> bool {
        let Some(left) = &mut self.fails_after else { return false };
        let less = left.checked_sub(work as u64);
        *left = less.unwrap_or(*left);
        less.is_none()
    }

    /// Loses and spoils what is to be lost and spoilt of what was found.
    pub(super) fn befall(&mut self, found: &mut Vec<Completion>) {
        let is_now = |at: &mut Option<u64>| {
            let now = *at == Some(0);
            *at = at.and_then(|left| left.checked_sub(1));
            now
        };
        found.retain_mut(|completion| {
            if is_now(&mut self.spoils_after) {
                completion.status = Status::FATAL;
            }
            !is_now(&mut self.loses_after)
        });
    }
}

impl fmt::Display for Rail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, port, index) = (self.context.name(), self.port.number, self.gid.index);
        write!(f, "{name} port {port} ({}, gid {index})", self.gid.address())
    }
}

/// What all ports of a device have in common.
struct Device {
    context: Arc<Context>,
    watch: Arc<Watch>,
    dmabufs: Arc<Dmabufs>,
}

impl Device {
    fn open(name: &str) -> Result<Self, VerbsError> {
        Ok(Self { context: Context::open(name)?, watch: Arc::default(), dmabufs: Arc::default() })
    }
}

/// The one whose port has this address, as the system's table of addresses says: RDMA goes where the connection goes.
pub(super) fn at(address: IpAddr) -> io::Result<Rail> {
    let mut found: Vec<Rail> = Vec::new();
    let mut others = Vec::new();
    for rail in all()? {
        match rail {
            Ok(rail) if rail.gid.address() == address => found.push(rail),
            Ok(rail) => others.push(rail.to_string()),
            Err(why) => others.push(why),
        }
    }
    // What crosses routers first.
    found.sort_by_key(|rail| rail.gid.kind);
    found.into_iter().next().ok_or_else(|| {
        let there = others.join("; ");
        io::Error::other(format!(
            "no RDMA device has the address {address} ({there}): bind an address of one, or name one with XFER_VERBS_DEVICE"
        ))
    })
}

/// Those that a setting names: `device[:port[/gid]]`, with commas between several.
pub(super) fn named(setting: &str) -> io::Result<Vec<Rail>> {
    let rails: Vec<Rail> = setting.split(',').map(|spec| one(spec.trim())).collect::<Result<_, _>>()?;
    if rails.len() > RAILS_MAX {
        return Err(io::Error::other(format!(
            "{} RDMA devices are named, at most {RAILS_MAX} can be used",
            rails.len()
        )));
    }
    Ok(rails)
}

fn one(spec: &str) -> io::Result<Rail> {
    let wrong = || {
        io::Error::other(format!("`{spec}` names no RDMA device: write `device`, `device:port` or `device:port/gid`"))
    };
    let (name, place) = spec.split_once(':').map_or((spec, None), |(name, place)| (name, Some(place)));
    let (port, gid) = place.map_or((None, None), |place| match place.split_once('/') {
        Some((port, gid)) => (Some(port), Some(gid)),
        None => (Some(place), None),
    });
    let number = |text: Option<&str>| text.map(str::parse::<u8>).transpose().map_err(|_| wrong());
    let (port, gid) = (number(port)?, number(gid)?);
    let device = Device::open(name)?;
    let ports = port.map_or(device.context.port_numbers(), |port| port..=port);
    let mut why = format!("{name} has no such port");
    for number in ports {
        match of_port(&device, number, gid) {
            Ok(mut rails) if !rails.is_empty() => {
                rails.sort_by_key(|rail| (rail.gid.kind, rail.gid.address().is_ipv6(), rail.gid.index));
                return Ok(rails.swap_remove(0));
            }
            Ok(_) => why = format!("{name} port {number} has no address that RDMA can use"),
            Err(reason) => why = reason,
        }
    }
    Err(io::Error::other(why))
}

/// What there is, in a sentence; or why nothing can be used.
pub(super) fn probe() -> Result<String, String> {
    let rails = usable()?;
    let names: Vec<String> = rails.iter().map(ToString::to_string).collect();
    // Asked of the first: cards of one machine are of one kind.
    let dmabufs = rails.first().map(|rail| ProtectionDomain::new(&rail.context).map(|domain| dmabufs::probe(&domain)));
    let dmabufs = match dmabufs {
        Some(Ok(sentence)) => format!("; {sentence}"),
        Some(Err(error)) => format!("; {error}"),
        None => String::new(),
    };
    Ok(names.join(", ") + &dmabufs)
}

/// The addresses of what there is.
pub(super) fn addresses() -> Result<Vec<IpAddr>, String> {
    Ok(usable()?.iter().map(|rail| rail.gid.address()).collect())
}

/// What can be used by its address; or why there is none.
fn usable() -> Result<Vec<Rail>, String> {
    let (rails, why): (Vec<_>, Vec<_>) = all().map_err(|error| error.to_string())?.into_iter().partition(Result::is_ok);
    let mut rails: Vec<Rail> = rails.into_iter().flatten().collect();
    // An address that is good on one cable only says nothing to others.
    rails.retain(|rail| !matches!(rail.gid.address(), IpAddr::V6(address) if address.is_unicast_link_local()));
    if rails.is_empty() {
        let why: Vec<String> = why.into_iter().filter_map(Result::err).collect();
        return Err(format!("a device is there but not usable: {}", why.join("; ")));
    }
    Ok(rails)
}

/// All ways out of this machine, and why others are none.
fn all() -> Result<Vec<Result<Rail, String>>, VerbsError> {
    let mut all = Vec::new();
    for name in device_names()? {
        let device = match Device::open(&name) {
            Ok(device) => device,
            Err(error) => {
                all.push(Err(error.to_string()));
                continue;
            }
        };
        for number in device.context.port_numbers() {
            match of_port(&device, number, None) {
                Ok(rails) if rails.is_empty() => all.push(Err(format!("{name} port {number} has no address of IP"))),
                Ok(rails) => all.extend(rails.into_iter().map(Ok)),
                Err(why) => all.push(Err(why)),
            }
        }
    }
    Ok(all)
}

/// The addresses of one port that can be used; with `index` the one that is there, of whatever kind.
fn of_port(device: &Device, number: u8, index: Option<u8>) -> Result<Vec<Rail>, String> {
    let Device { context, watch, dmabufs } = device;
    let name = context.name();
    let port = context.port(number).map_err(|error| format!("{name} port {number}: {error}"))?;
    if !port.is_active {
        return Err(format!("{name} port {number} is down"));
    }
    if port.layer == LinkLayer::InfiniBand {
        return Err(format!("{name} port {number} is InfiniBand, of which this version knows no addresses"));
    }
    if context.reads_max() == 0 {
        return Err(format!("{name} can't read remote memory"));
    }
    let gids = match index {
        Some(index) => context.gid(number, index).into_iter().collect(),
        None => context.gids(&port).into_iter().filter(|gid| gid.kind == GidKind::RoceV2).collect::<Vec<_>>(),
    };
    let rail = |gid| Rail {
        context: Arc::clone(context),
        port,
        gid,
        has_windows: Arc::new(AtomicBool::new(context.has_windows())),
        dmabufs: Arc::clone(dmabufs),
        watch: Arc::clone(watch),
        mishaps: Mishaps::default(),
    };
    Ok(gids.into_iter().map(rail).collect())
}
