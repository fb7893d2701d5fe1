//! A real SIGTERM to a real process: this test starts itself as a child, which then plays the process.

use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::*;

/// Set for the child. It stands for nothing else.
const ROLE: &str = "NOTICE_TEST_IS_CHILD";

/// What the child's own lines begin with, among those of the test harness.
const MARK: &str = "child: ";

#[test]
fn sigterm_is_a_notice_and_a_second_one_brings_nothing_worse() {
    if env::var_os(ROLE).is_some() {
        return child();
    }
    let mut process = Process::start("sigterm_is_a_notice_and_a_second_one_brings_nothing_worse");
    process.expect("watching");

    process.terminate();
    process.expect("Raised signal, certain");

    process.terminate();
    process.expect("SIGTERM again");
    process.say("go on");
    process.expect("the deadline is the first one's");

    process.say("stop watching");
    process.expect("not watching");
    process.terminate();
    let status = process.child.wait().unwrap();
    assert_eq!(status.signal(), Some(Signal::TERM.as_raw()), "{status}");
}

struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Process {
    /// Starts this test binary again, for one test.
    fn start(test: &str) -> Self {
        let name = format!("{}::{test}", module_path!().split_once("::").unwrap().1);
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", &name, "--nocapture"]).env(ROLE, "1");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, input, output: BufReader::new(output) }
    }

    fn terminate(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
    }

    fn say(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    /// Reads the child's next line. That the child ends is found out here, too.
    fn expect(&mut self, expected: &str) {
        loop {
            let mut line = String::new();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "the child ended before it said `{expected}`");
            // The harness writes its own line's beginning before the child's first.
            if let Some((_, said)) = line.split_once(MARK) {
                return assert_eq!(said.trim_end(), expected);
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The process that is told to end.
fn child() {
    // Whatever goes wrong, the parent isn't left waiting.
    thread::spawn(|| {
        thread::sleep(2 * AMPLE);
        std::process::exit(1);
    });
    // "SIGTERM again" is a log line: the one sign that a signal leaves which changes nothing.
    let again = tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).with_writer(Again).finish();
    tracing::subscriber::set_global_default(again).unwrap();
    let (watcher, events) = watcher(vec![Source::Signal { grace: HOUR }]);
    say("watching");
    let notice = raised(&events);
    say(match notice.certain && notice.left() > HOUR / 2 {
        true => "Raised signal, certain",
        false => "Raised something else",
    });
    hear("go on");
    assert_eq!(events.try_recv().ok(), None);
    say(match watcher.current() == Some(notice) {
        true => "the deadline is the first one's",
        false => "the deadline has moved",
    });
    hear("stop watching");
    drop(watcher);
    say("not watching");
    hear("anything, but it never comes");
}

fn say(line: &str) {
    println!("{MARK}{line}");
}

fn hear(expected: &str) {
    let mut line = String::new();
    io::stdin().read_line(&mut line).unwrap();
    assert_eq!(line.trim_end(), expected);
}

/// Says that a log line speaks of a second signal.
#[derive(Clone, Copy)]
struct Again;

impl io::Write for Again {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if String::from_utf8_lossy(bytes).contains("SIGTERM again") {
            say("SIGTERM again");
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'w> tracing_subscriber::fmt::MakeWriter<'w> for Again {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        *self
    }
}
