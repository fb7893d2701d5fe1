//! Just enough HTTP for a metadata service: one request, one answer, everything bounded.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use super::limits;

/// A server, parsed from `http://HOST` or `http://HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Server {
    /// As it is given to the system's resolver.
    address: String,
    /// As it is named in a request.
    host: String,
}

/// An answer: its status, and its body if that is text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) body: String,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it answered what isn't HTTP")]
    NotHttp,
    #[error("its answer is longer than {0} bytes")]
    TooLong(usize),
}

impl Server {
    pub(super) fn parse(url: &str) -> Option<Self> {
        let host = url.strip_prefix("http://")?;
        let host = host.strip_suffix('/').unwrap_or(host);
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
        if host.is_empty() || !host.chars().all(plain) {
            return None;
        }
        let after_name = host.rfind(']').map_or(host, |end| &host[end..]);
        let address = match after_name.rsplit_once(':') {
            Some((_, port)) => {
                port.parse::<u16>().ok().filter(|&port| port > 0)?;
                host.to_owned()
            }
            None => format!("{host}:80"),
        };
        Some(Self { address, host: host.to_owned() })
    }

    /// Its address, and how it is named in a request.
    pub(super) fn parts(&self) -> (&str, &str) {
        (&self.address, &self.host)
    }

    /// Sends a request without a body and reads the answer.
    pub(super) fn request(&self, method: &str, path: &str, header: (&str, &str)) -> Result<Response, HttpError> {
        let end = Instant::now() + limits::HTTP_TIMEOUT;
        let mut stream = self.connect(end)?;
        stream.set_write_timeout(Some(left(end)?))?;
        let (name, value) = header;
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n{name}: {value}\r\nConnection: close\r\n", self.host);
        stream.write_all(format!("{request}Content-Length: 0\r\n\r\n").as_bytes())?;
        read_response(|chunk| {
            stream.set_read_timeout(Some(left(end)?))?;
            stream.read(chunk)
        })
    }

    fn connect(&self, end: Instant) -> io::Result<TcpStream> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in self.address.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, left(end)?) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

fn left(end: Instant) -> io::Result<Duration> {
    match end.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
        left => Ok(left),
    }
}

/// Reads head and body. A body has the length that the head says, or goes on to the end of the connection.
pub(super) fn read_response(mut read: impl FnMut(&mut [u8]) -> io::Result<usize>) -> Result<Response, HttpError> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 2048];
    let mut head: Option<Head> = None;
    loop {
        if head.is_none()
            && let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n")
        {
            head = Some(parse_head(&bytes[..end])?);
            bytes.drain(..end + 4);
        }
        let max = head.as_ref().map_or(limits::HTTP_HEAD_BYTES_MAX, |_| limits::HTTP_BODY_BYTES_MAX);
        let wanted = head.as_ref().and_then(|head| head.body_bytes);
        if bytes.len() > max || wanted.is_some_and(|wanted| wanted > max) {
            return Err(HttpError::TooLong(max));
        }
        if let (Some(head), Some(wanted)) = (&head, wanted)
            && bytes.len() >= wanted
        {
            bytes.truncate(wanted);
            return head.with_body(bytes);
        }
        match read(&mut chunk)? {
            0 => {
                return match head {
                    Some(head) if wanted.is_none() => head.with_body(bytes),
                    Some(_) => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                    None => Err(HttpError::NotHttp),
                };
            }
            read => bytes.extend_from_slice(&chunk[..read]),
        }
    }
}

struct Head {
    status: u16,
    body_bytes: Option<usize>,
}

impl Head {
    fn with_body(&self, body: Vec<u8>) -> Result<Response, HttpError> {
        let body = String::from_utf8(body).map_err(|_| HttpError::NotHttp)?;
        Ok(Response { status: self.status, body })
    }
}

fn parse_head(head: &[u8]) -> Result<Head, HttpError> {
    let mut lines = std::str::from_utf8(head).map_err(|_| HttpError::NotHttp)?.split("\r\n");
    let status = lines.next().and_then(|line| {
        let status = line.strip_prefix("HTTP/1.0 ").or_else(|| line.strip_prefix("HTTP/1.1 "))?;
        status.get(..3)?.parse().ok()
    });
    let mut found = Head { status: status.ok_or(HttpError::NotHttp)?, body_bytes: None };
    for line in lines {
        let (name, value) = line.split_once(':').ok_or(HttpError::NotHttp)?;
        if name.eq_ignore_ascii_case("content-length") {
            found.body_bytes = Some(value.trim().parse().map_err(|_| HttpError::NotHttp)?);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            // Metadata services don't, and half a notice would be worse than none.
            return Err(HttpError::NotHttp);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `text` as it would come in parts of `part` bytes.
    fn read(text: &str, part: usize) -> Result<Response, HttpError> {
        let mut parts = text.as_bytes().chunks(part);
        read_response(|chunk| {
            let part = parts.next().unwrap_or_default();
            chunk[..part.len()].copy_from_slice(part);
            Ok(part.len())
        })
    }

    #[test]
    fn answers_are_read_in_any_parts() {
        for part in [1, 2, 7, 2048] {
            let found = read("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello, and more", part).unwrap();
            assert_eq!(found, Response { status: 200, body: "hello".to_owned() });
            let found = read("HTTP/1.0 404 Not Found\r\nX: y\r\n\r\nto the end", part).unwrap();
            assert_eq!(found, Response { status: 404, body: "to the end".to_owned() });
        }
    }

    #[test]
    fn what_is_wrong_or_endless_is_refused() {
        for text in [
            "",
            "SSH-2.0-OpenSSH\r\n\r\n",
            "HTTP/1.1 2",
            "HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfour",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 é00 OK\r\n\r\n",
        ] {
            assert!(read(text, 2048).is_err(), "{text:?}");
        }
        let length_lies = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", limits::HTTP_BODY_BYTES_MAX + 1);
        assert!(matches!(read(&length_lies, 2048), Err(HttpError::TooLong(_))));
        let endless = || Ok(2048);
        assert!(matches!(read_response(|_| endless()), Err(HttpError::TooLong(_))));
    }

    #[test]
    fn servers_are_hosts_with_or_without_a_port() {
        let address = |url: &str| Server::parse(url).map(|server| server.address);
        assert_eq!(address(limits::EC2_METADATA_URL).as_deref(), Some("169.254.169.254:80"));
        assert_eq!(address("http://127.0.0.1:1338/").as_deref(), Some("127.0.0.1:1338"));
        assert_eq!(address("http://[fd00:ec2::254]").as_deref(), Some("[fd00:ec2::254]:80"));
        assert_eq!(address("http://[fd00:ec2::254]:81").as_deref(), Some("[fd00:ec2::254]:81"));
        for url in
            ["", "https://host", "http://", "host:80", "http://a b", "http://host/path", "http://host:0", "http://h:x"]
        {
            assert_eq!(address(url), None, "{url:?}");
        }
    }
}
