//! What EC2's instance metadata says of the end: interruption notices, and hints that one may come.

use std::fs;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::http::{HttpError, Server};
use super::{Notice, Origin, Shared, limits};

const TOKEN_PATH: &str = "/latest/api/token";
const INTERRUPTION_PATH: &str = "/latest/meta-data/spot/instance-action";
const REBALANCE_PATH: &str = "/latest/meta-data/events/recommendations/rebalance";

/// A client of the metadata service, version 2: every question carries a token.
#[derive(Debug)]
pub(super) struct Metadata {
    server: Server,
    token: Option<String>,
}

/// Why the service gave no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum MetadataError {
    #[error("{0}")]
    Http(#[from] HttpError),
    #[error("it answered {status} to {path}")]
    Status { path: &'static str, status: u16 },
    #[error("it gave a token that can't be one")]
    Token,
    #[error("it answered to {path} what can't be understood: {body:?}")]
    Malformed { path: &'static str, body: String },
}

/// Whether this machine says of itself that it is an EC2 instance. Asks no network.
pub fn is_ec2() -> bool {
    let says = |path: &str| fs::read_to_string(path).unwrap_or_default();
    says("/sys/class/dmi/id/sys_vendor").trim() == "Amazon EC2"
        || says("/sys/hypervisor/uuid").to_ascii_lowercase().starts_with("ec2")
}

/// Asks once a second until the watcher stops.
pub(super) fn watch(shared: &Shared, mut metadata: Metadata) {
    let mut heard = Heard::default();
    let mut complained = false;
    loop {
        match heard.ask(shared, &mut metadata) {
            Ok(()) => complained = false,
            Err(error) if !complained => {
                complained = true;
                tracing::warn!(
                    %error,
                    "the EC2 metadata service can't be asked for notices; in a container it needs \
                     `--http-put-response-hop-limit 2`; XFER_IMDS_URL=off stops asking"
                );
            }
            Err(_) => {}
        }
        if shared.sleep(limits::EC2_POLL) {
            return;
        }
    }
}

/// What the service said last, so that each thing is acted on once.
#[derive(Default)]
struct Heard {
    interruption: Option<String>,
    rebalance: Option<String>,
}

impl Heard {
    fn ask(&mut self, shared: &Shared, metadata: &mut Metadata) -> Result<(), MetadataError> {
        let interruption = metadata.get(INTERRUPTION_PATH)?;
        if interruption != self.interruption {
            match &interruption {
                Some(body) => shared.board().replace(interruption_notice(body)?),
                None => shared.board().clear(Origin::Ec2Interruption),
            }
            self.interruption = interruption;
        }
        let rebalance = metadata.get(REBALANCE_PATH)?;
        if rebalance != self.rebalance {
            match &rebalance {
                Some(body) => shared.board().replace(rebalance_notice(body)?),
                None => shared.board().clear(Origin::Ec2Rebalance),
            }
            self.rebalance = rebalance;
        }
        Ok(())
    }
}

impl Metadata {
    /// A client of the service at `url`; none if that isn't an address.
    pub(super) fn new(url: &str) -> Option<Self> {
        Some(Self { server: Server::parse(url)?, token: None })
    }

    /// What is at `path`; none if there is nothing.
    fn get(&mut self, path: &'static str) -> Result<Option<String>, MetadataError> {
        // A token that expired is answered by 401; one that is refused when new won't get better.
        for is_last in [self.token.is_none(), true] {
            let token = match self.token.take() {
                Some(token) => token,
                None => self.new_token()?,
            };
            let response = self.server.request("GET", path, ("X-aws-ec2-metadata-token", &token))?;
            if response.status == 401 && !is_last {
                continue;
            }
            self.token = (response.status != 401).then_some(token);
            return match response.status {
                200 => Ok(Some(response.body)),
                404 => Ok(None),
                status => Err(MetadataError::Status { path, status }),
            };
        }
        Err(MetadataError::Status { path, status: 401 })
    }

    fn new_token(&self) -> Result<String, MetadataError> {
        let seconds = limits::EC2_TOKEN_SECONDS.to_string();
        let response = self.server.request("PUT", TOKEN_PATH, ("X-aws-ec2-metadata-token-ttl-seconds", &seconds))?;
        if response.status != 200 {
            return Err(MetadataError::Status { path: TOKEN_PATH, status: response.status });
        }
        // It goes into a header as it is.
        let token = response.body;
        let fits = !token.is_empty() && token.len() <= limits::EC2_TOKEN_BYTES_MAX;
        match fits && token.bytes().all(|byte| byte.is_ascii_graphic()) {
            true => Ok(token),
            false => Err(MetadataError::Token),
        }
    }
}

/// `{"action": "terminate", "time": "2026-01-02T03:04:05Z"}`: the instance ends then.
pub(super) fn interruption_notice(body: &str) -> Result<Notice, MetadataError> {
    let malformed = || MetadataError::Malformed { path: INTERRUPTION_PATH, body: body.to_owned() };
    let fields: Value = serde_json::from_str(body).map_err(|_| malformed())?;
    let action = fields["action"].as_str().ok_or_else(malformed)?;
    let time = fields["time"].as_str().ok_or_else(malformed)?;
    let end = humantime::parse_rfc3339(time).map_err(|_| malformed())?;
    let id = format!("ec2-{action}-{time}");
    Ok(Notice::new(Origin::Ec2Interruption, id, until(end)).because(format!("{action} at {time}")))
}

/// `{"noticeTime": "2026-01-02T03:04:05Z"}`: an interruption is likelier from then on, and gives its two minutes.
pub(super) fn rebalance_notice(body: &str) -> Result<Notice, MetadataError> {
    let malformed = || MetadataError::Malformed { path: REBALANCE_PATH, body: body.to_owned() };
    let fields: Value = serde_json::from_str(body).map_err(|_| malformed())?;
    let time = fields["noticeTime"].as_str().ok_or_else(malformed)?;
    let given = humantime::parse_rfc3339(time).map_err(|_| malformed())?;
    let id = format!("ec2-rebalance-{time}");
    let notice = Notice::new(Origin::Ec2Rebalance, id, until(given + limits::EC2_LEFT_MAX));
    Ok(notice.uncertain().because(format!("recommended at {time}")))
}

/// What is left until a moment of the wall clock.
fn until(moment: SystemTime) -> Duration {
    moment.duration_since(SystemTime::now()).unwrap_or_default().min(limits::EC2_LEFT_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(left: Duration) -> String {
        humantime::format_rfc3339_millis(SystemTime::now() + left).to_string()
    }

    #[test]
    fn an_interruption_leaves_the_time_until_it() {
        let time = at(Duration::from_secs(100));
        let notice = interruption_notice(&format!("{{\"action\": \"terminate\", \"time\": \"{time}\"}}")).unwrap();
        assert!(notice.certain);
        assert_eq!(notice.id, format!("ec2-terminate-{time}"));
        // The wall clock may be moved while this runs; by minutes, it hardly is.
        assert!(notice.left() > Duration::from_secs(40) && notice.left() <= Duration::from_secs(100));
    }

    #[test]
    fn a_wall_clock_that_is_wrong_gives_no_more_than_two_minutes() {
        let left = |time: &str| {
            let body = format!("{{\"action\": \"stop\", \"time\": \"{time}\"}}");
            interruption_notice(&body).unwrap().left()
        };
        assert!(left("2500-01-01T00:00:00Z") <= limits::EC2_LEFT_MAX);
        assert_eq!(left("2001-01-01T00:00:00Z"), Duration::ZERO);
    }

    #[test]
    fn a_rebalance_recommendation_is_a_hint_that_leaves_two_minutes_at_least() {
        let notice = rebalance_notice(&format!("{{\"noticeTime\": \"{}\"}}", at(Duration::ZERO))).unwrap();
        assert!(!notice.certain);
        assert!(notice.left() > Duration::from_secs(60));
    }

    #[test]
    fn what_is_not_understood_is_no_notice() {
        for body in ["", "{}", "[]", "{\"action\": 1, \"time\": 2}", "{\"action\": \"stop\", \"time\": \"tomorrow\"}"] {
            assert!(interruption_notice(body).is_err(), "{body}");
            assert!(rebalance_notice(body).is_err(), "{body}");
        }
    }
}
