//! What client and server say to each other beside the bytes that are measured: one line of JSON each way.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::failure::{Failure, Outcome};

/// The longest line: a ticket and the description of a machine fit many times.
const LINE_BYTES_MAX: u64 = 64 << 10;

/// Changes whenever an older end would not understand a newer one.
pub(crate) const PROTOCOL: u64 = 2;

/// One end of the conversation.
pub(crate) struct Talk {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Talk {
    pub(crate) fn new(stream: TcpStream) -> Outcome<Self> {
        let _ = stream.set_nodelay(true);
        let reader = BufReader::new(stream.try_clone().map_err(Failure::connection)?);
        Ok(Self { stream, reader })
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub(crate) fn say(&mut self, what: &Value) -> Outcome<()> {
        let line = format!("{what}\n");
        self.stream.write_all(line.as_bytes()).map_err(|error| Failure::connection(format!("the other end: {error}")))
    }

    /// The next line; nothing at the end.
    pub(crate) fn hear(&mut self) -> Outcome<Option<Value>> {
        let mut line = String::new();
        let read = (&mut self.reader).take(LINE_BYTES_MAX).read_line(&mut line);
        match read {
            Ok(0) => Ok(None),
            Ok(_) => serde_json::from_str(&line)
                .map(Some)
                .map_err(|_| Failure::connection("the other end doesn't speak xfer-bench's language")),
            Err(error) => Err(Failure::connection(format!("the other end: {error}"))),
        }
    }

    /// Asks for something; an answer with `error` is a failure.
    pub(crate) fn ask(&mut self, what: &Value) -> Outcome<Value> {
        self.say(what)?;
        let answer = self.hear()?.ok_or_else(|| Failure::connection("the server went away"))?;
        match answer["error"].as_str() {
            Some(error) => Err(Failure::connection(format!("the server: {error}"))),
            None => Ok(answer),
        }
    }

    pub(crate) fn ask_number(&mut self, what: &Value, field: &str) -> Outcome<u64> {
        let answer = self.ask(what)?;
        answer[field].as_u64().ok_or_else(|| Failure::connection(format!("the server's answer has no {field}")))
    }
}

/// The first words of a client.
pub(crate) fn hello() -> Value {
    json!({ "ask": "hello", "protocol": PROTOCOL, "version": env!("CARGO_PKG_VERSION") })
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok().filter(|p| p.len() == 2)?, 16).ok()).collect()
}
