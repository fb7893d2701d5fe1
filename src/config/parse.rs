//! Text to values. What is refused says what would be understood.

use std::fmt::Display;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use xfer_transport::backend::tcp::ZeroCopy;
use xfer_transport_core::BackendId;

use super::LogFormat;

/// Smallest and largest chunk: below, headers and acknowledgements cost more than they protect; above, a lane waits
/// too long behind one.
const CHUNK_BYTES: (u64, u64) = (64 << 10, 16 << 20);

/// Longest duration: beyond every job, and far from where a clock would overflow.
pub const DURATION_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// A duration with a unit, as `30s`, `2m` or `1500ms`; a plain number is seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let found = seconds.or_else(|| humantime::parse_duration(text).ok()).filter(|found| *found <= DURATION_MAX);
    found.ok_or_else(|| {
        "a duration is written with its unit, as in 30s, 2m or 1500ms, and is 100 years at most".to_owned()
    })
}

/// A number of bytes, as `1MiB` (2^20), `4MB` (10^6) or a plain number.
pub fn size(text: &str) -> Result<u64, String> {
    let expected = || "a size is a number of bytes with or without a unit, as in 1MiB, 4MB or 1048576".to_owned();
    scaled(text, &[("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)])
        .or_else(|| scaled(text, &[("kB", 1e3 as u64), ("KB", 1e3 as u64), ("MB", 1e6 as u64), ("GB", 1e9 as u64)]))
        .or_else(|| scaled(text, &[("B", 1), ("", 1)]))
        .ok_or_else(expected)
}

/// Bytes a second, as `1.2GB/s`, `10Gbit/s` or a plain number; none for `off`.
pub(super) fn rate(text: &str) -> Result<Option<u64>, String> {
    if text == "off" {
        return Ok(None);
    }
    let expected = || "a rate is written as 1.2GB/s, 500MiB/s or 10Gbit/s; off means no limit".to_owned();
    let amount = text.strip_suffix("/s").unwrap_or(text);
    let bits = scaled(amount, &[("kbit", 125), ("Mbit", 125_000), ("Gbit", 125_000_000)]);
    match bits.map_or_else(|| size(amount), Ok) {
        Ok(1..) if text.starts_with('-') => Err(expected()),
        Ok(rate @ 1..) => Ok(Some(rate)),
        _ => Err(expected()),
    }
}

/// Bytes a second of a link, as networks write it: `10Gbps`, `200Mbps`, `10Gbit/s` or `1.2GB/s`; zero is a link that
/// carries nothing.
pub fn link_rate(text: &str) -> Result<f64, String> {
    const UNITS: [(&str, f64); 9] = [
        ("Gbps", 125e6),
        ("Mbps", 125e3),
        ("kbps", 125.0),
        ("Gbit/s", 125e6),
        ("Mbit/s", 125e3),
        ("GB/s", 1e9),
        ("MB/s", 1e6),
        ("kB/s", 1e3),
        ("B/s", 1.0),
    ];
    let expected = || "a rate is written with its unit, as in 10Gbps, 200Mbps or 1.2GB/s".to_owned();
    let unit = UNITS.into_iter().find(|(unit, _)| text.ends_with(unit));
    let (unit, scale) = unit.or((text == "0").then_some(("", 0.0))).ok_or_else(expected)?;
    let amount: f64 = text.strip_suffix(unit).unwrap_or(text).trim().parse().map_err(|_| expected())?;
    let rate = amount * scale;
    // A petabyte a second is a slip of the pen.
    if rate.is_finite() && (0.0..=1e15).contains(&rate) { Ok(rate) } else { Err(expected()) }
}

/// Names of transports, the preferred one first; none for `auto`.
pub fn transports(text: &str) -> Result<Option<Vec<BackendId>>, String> {
    if text == "auto" {
        return Ok(None);
    }
    let usable = [BackendId::Shm, BackendId::Verbs, BackendId::Tcp];
    let mut found = Vec::new();
    for name in text.split(',').map(str::trim) {
        let backend = usable.into_iter().find(|backend| backend.to_string() == name);
        match backend.filter(|backend| !found.contains(backend)) {
            Some(backend) => found.push(backend),
            None => {
                return Err("transports are written as shm,verbs,tcp or as some of them; auto means all that are here"
                    .to_owned());
            }
        }
    }
    Ok(Some(found))
}

/// From which size on chunks are sent without the kernel's copy: `auto`, a size, or `0` for never.
pub fn zerocopy(text: &str) -> Result<ZeroCopy, String> {
    let least = match text {
        "auto" => return Ok(ZeroCopy::AUTO),
        "off" => 0,
        text => size(text).map_err(|_| expected_zerocopy())?,
    };
    match u32::try_from(least) {
        Ok(0) => Ok(ZeroCopy::Off),
        Ok(least) => Ok(ZeroCopy::From(least)),
        Err(_) => Err(expected_zerocopy()),
    }
}

fn expected_zerocopy() -> String {
    "chunks are sent without a copy from auto or a size as 256KiB on, or never, which is 0".to_owned()
}

pub(super) fn chunk(text: &str) -> Result<u32, String> {
    let (min, max) = CHUNK_BYTES;
    let chunk = size(text)?;
    let fits = (min..=max).contains(&chunk);
    fits.then_some(chunk as u32).ok_or_else(|| "a chunk is 64KiB to 16MiB".to_owned())
}

/// Devices by name; none for nothing. What they are called is looked up where they are used.
pub(super) fn verbs_device(text: &str) -> Result<Option<String>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let fits = |name: &str| {
        let (name, place) =
            name.trim().split_once(':').map_or((name.trim(), None), |(name, place)| (name, Some(place)));
        let numbers = place
            .is_none_or(|place| place.split('/').count() <= 2 && place.split('/').all(|n| n.parse::<u8>().is_ok()));
        !name.is_empty() && numbers
    };
    if text.split(',').all(fits) {
        return Ok(Some(text.to_owned()));
    }
    Err("RDMA devices are written as mlx5_0, mlx5_0:1 or mlx5_0:1/3, several with commas".to_owned())
}

/// A switch: `1`, `true`, `yes`, `on` and their opposites.
pub(super) fn switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err("a switch is 1 or 0".to_owned()),
    }
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("a log line is written as text or json".to_owned()),
    }
}

pub(super) fn number<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "a whole number is expected, not negative and not too large".to_owned())
}

pub(super) fn within<T: FromStr + PartialOrd + Display + Copy>(min: T, max: T) -> impl Fn(&str) -> Result<T, String> {
    move |text| {
        let found = text.parse().ok().filter(|found| (min..=max).contains(found));
        found.ok_or_else(|| format!("a number from {min} to {max} is expected"))
    }
}

pub(super) fn text(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

/// `HOST:PORT`; whether the host exists is found out when it is needed.
pub(super) fn address(text: &str) -> Result<String, String> {
    let parts = text.rsplit_once(':').filter(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    parts.map(|_| text.to_owned()).ok_or_else(|| "an address is written HOST:PORT, as in 127.0.0.1:29501".to_owned())
}

pub(super) fn socket_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "an address of this machine is written IP:PORT, as in 127.0.0.1:0".to_owned())
}

/// `HOST:PORT`, with the brackets that an IPv6 address needs.
pub(super) fn join_host_port(host: &str, port: u16) -> String {
    match host.contains(':') && !host.starts_with('[') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

/// A number with one of these units after it, times the unit.
fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (number, unit) = units.iter().find_map(|&(name, unit)| Some((text.strip_suffix(name)?.trim_end(), unit)))?;
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(unit);
    }
    let plain = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let bytes = number.parse::<f64>().ok().filter(|_| plain)? * unit as f64;
    // Beyond 2^53 a fraction has no meaning left.
    (bytes < (1_u64 << 53) as f64).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, milliseconds) in [("30s", 30_000), ("2m", 120_000), ("1500ms", 1500), ("45", 45_000), ("0.5", 500)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        assert_eq!(duration("3153600000"), Ok(DURATION_MAX));
        for text in ["", "soon", "-1", "-1s", "inf", "NaN", "30 parsecs", "3153600001", "1e19", "584542046090years"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("1048576", 1 << 20),
            ("1MiB", 1 << 20),
            ("64 KiB", 64 << 10),
            ("4MB", 4_000_000),
            ("1.5GB", 1_500_000_000),
            ("7B", 7),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "-1", "1e3", "1 mile", "99999999999999999999", "99999999999GiB", "1.5.5MB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates() {
        for (text, bytes_per_s) in [("10Gbit/s", 1_250_000_000), ("500MiB/s", 500 << 20), ("1.2GB", 1_200_000_000)] {
            assert_eq!(rate(text), Ok(Some(bytes_per_s)), "{text}");
        }
        assert_eq!(rate("off"), Ok(None));
        for text in ["", "0", "fast", "-1GB/s", "1GB/h"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates_of_links_are_read_with_their_units() {
        for (text, expected) in [("10Gbps", 1.25e9), ("200Mbps", 25e6), ("1.2GB/s", 1.2e9), ("0", 0.0), ("0Gbps", 0.0)]
        {
            assert_eq!(link_rate(text), Ok(expected), "{text}");
        }
        for text in ["", "10", "-1Gbps", "fastGbps", "1e30Gbps", "NaNGbps", "Gbps"] {
            assert!(link_rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn chunks_are_within_their_limits() {
        assert_eq!(chunk("64KiB"), Ok(64 << 10));
        assert_eq!(chunk("16MiB"), Ok(16 << 20));
        assert!(chunk("65535").is_err() && chunk("16777217").is_err());
    }

    #[test]
    fn addresses() {
        assert_eq!(address("node-0:29501").as_deref(), Ok("node-0:29501"));
        assert!(address("node-0").is_err() && address(":1").is_err() && address("node:port").is_err());
        assert_eq!(join_host_port("::1", 5), "[::1]:5");
        assert_eq!(join_host_port("[::1]", 5), "[::1]:5");
        assert_eq!(join_host_port("node", 5), "node:5");
    }
}
