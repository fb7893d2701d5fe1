//! Stands in for EC2's metadata service: the same paths, and tokens that are really checked.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use super::AMPLE;

pub(super) struct StandIn {
    address: SocketAddr,
    service: Arc<Service>,
}

#[derive(Default)]
struct Service {
    state: Mutex<State>,
    asked: Condvar,
}

#[derive(Default)]
struct State {
    /// The token that is valid; the number says which it is.
    token: Option<u32>,
    tokens_given: u32,
    questions: u64,
    interruption: Option<String>,
    rebalance: Option<String>,
    fails: bool,
}

impl StandIn {
    /// Starts serving. Its thread ends with the test's process.
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let service = Arc::new(Service::default());
        let serving = Arc::clone(&service);
        thread::spawn(move || listener.incoming().flatten().for_each(|stream| serving.serve(stream)));
        Self { address, service }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn interruption(&self, action: Option<(&str, &str)>) {
        let body = action.map(|(action, time)| format!("{{\"action\": \"{action}\", \"time\": \"{time}\"}}"));
        self.service.state.lock().unwrap().interruption = body;
    }

    pub(super) fn rebalance(&self, time: Option<&str>) {
        let body = time.map(|time| format!("{{\"noticeTime\": \"{time}\"}}"));
        self.service.state.lock().unwrap().rebalance = body;
    }

    /// Answers everything with an error of its own, or no longer.
    pub(super) fn fail(&self, fails: bool) {
        self.service.state.lock().unwrap().fails = fails;
    }

    pub(super) fn expire_tokens(&self) {
        self.service.state.lock().unwrap().token = None;
    }

    pub(super) fn tokens_given(&self) -> u32 {
        self.service.state.lock().unwrap().tokens_given
    }

    /// Waits until something more has been asked.
    pub(super) fn await_question(&self) {
        let state = self.service.state.lock().unwrap();
        let before = state.questions;
        let waited = self.service.asked.wait_timeout_while(state, AMPLE, |state| state.questions == before).unwrap();
        assert!(!waited.1.timed_out(), "nothing was asked");
    }
}

impl Service {
    fn serve(&self, mut stream: TcpStream) {
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
        let request = lines.next().unwrap_or_default();
        let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
        let header = |name: &str| {
            headers
                .iter()
                .find_map(|line| line.split_once(": ").filter(|(found, _)| *found == name))
                .map(|found| found.1)
        };
        let (status, body) = self.answer(&request, header);
        let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        // The client may have given up.
        let _ = stream.write_all(answer.as_bytes());
    }

    fn answer<'a>(&self, request: &str, header: impl Fn(&str) -> Option<&'a str>) -> (u16, String) {
        let mut state = self.state.lock().unwrap();
        if state.fails {
            self.ask(&mut state);
            return (503, String::new());
        }
        if request == "PUT /latest/api/token HTTP/1.1" {
            let seconds =
                header("X-aws-ec2-metadata-token-ttl-seconds").and_then(|seconds| seconds.parse::<u32>().ok());
            if !seconds.is_some_and(|seconds| (1..=21_600).contains(&seconds)) {
                return (400, String::new());
            }
            state.tokens_given += 1;
            state.token = Some(state.tokens_given);
            return (200, format!("token-{}", state.tokens_given));
        }
        let token = state.token.map(|token| format!("token-{token}"));
        if token.is_none() || header("X-aws-ec2-metadata-token") != token.as_deref() {
            return (401, String::new());
        }
        self.ask(&mut state);
        let found = match request {
            "GET /latest/meta-data/spot/instance-action HTTP/1.1" => state.interruption.clone(),
            "GET /latest/meta-data/events/recommendations/rebalance HTTP/1.1" => state.rebalance.clone(),
            other => panic!("nobody asks {other:?}"),
        };
        found.map_or((404, String::new()), |body| (200, body))
    }

    fn ask(&self, state: &mut State) {
        state.questions += 1;
        self.asked.notify_all();
    }
}
