//! `xfer-bench` as people run it: two real processes, what it prints and writes, exit codes. No figure is judged.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn bench(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xfer-bench"));
    command.args(arguments);
    command
}

fn run(arguments: &[&str]) -> Output {
    bench(arguments).output().expect("it starts")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("output is text")
}

/// The JSON document of a run that went well.
fn measured(arguments: &[&str]) -> Value {
    let output = run(&[&["--loopback", "--json", "-"], arguments].concat());
    assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one JSON document and nothing else")
}

#[test]
fn bandwidth_is_reported_with_path_ceiling_and_verified_bytes() {
    // Of ordinary memory one, where a process may read another's, else two.
    for (transport, mem, copies) in [("tcp", "host", 0..=0), ("shm", "host", 1..=2), ("shm", "shared", 1..=1)] {
        let arguments = ["--transport", transport, "--mem", mem, "--size", "1,100000,3M", "--iters", "3"];
        let document = measured(&[&["--test", "bw", "--streams", "2"], &arguments[..]].concat());
        assert_eq!(document["tool"], "xfer-bench");
        assert_eq!(document["hosts"].as_array().map(Vec::len), Some(2));
        let results = document["results"].as_array().expect("results");
        assert_eq!(results.iter().map(|r| r["size"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 100_000, 3 << 20]);
        for result in results {
            assert_eq!(result["path"]["transport"], transport);
            assert!(result["path"]["copies"].as_u64().is_some_and(|found| copies.contains(&found)), "{result}");
            assert_eq!((&result["verify"]["wrong"], &result["verify"]["checked"]), (&0.into(), &result["size"]));
            assert_eq!((result["iters"].as_u64(), result["streams"].as_u64()), (Some(3), Some(2)));
            assert!(result["bw_gbps"].as_f64() > Some(0.0) && result["line_pct"].as_f64() > Some(0.0), "{result}");
            assert!(result["ceiling_gbps"]["raw_tcp"].as_f64() > Some(0.0), "{result}");
        }
    }
}

#[test]
fn what_is_lent_is_read_where_it_lies_and_checked() {
    let document = measured(&["--op", "lend", "--mem", "shared", "--size", "1,3M", "--iters", "4", "--streams", "2"]);
    for result in document["results"].as_array().expect("results") {
        assert_eq!(
            (&result["op"], &result["path"]["copies"], &result["iters"]),
            (&"lend".into(), &0.into(), &4.into())
        );
        assert_eq!((&result["verify"]["wrong"], &result["verify"]["checked"]), (&0.into(), &result["size"]));
    }
    for (arguments, code, says) in [
        (&["--op", "lend"][..], 1, "needs it"),
        (&["--op", "lend", "--mem", "shared", "--transport", "tcp"], 1, "isn't reached over shared memory"),
        (&["--op", "lend", "--test", "lat"], 1, "for bw and rate"),
    ] {
        let output = run(&[&["-l", "-n", "2", "-s", "64"], arguments].concat());
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(says), "{arguments:?}: {said}");
    }
}

#[test]
fn every_test_runs_over_both_transports() {
    for transport in ["tcp", "shm"] {
        for (test, fields) in [
            ("lat", &["one_way"][..]),
            ("rate", &[]),
            ("mixed", &["idle_p50_us", "ratio_p99", "rescue_gbps"]),
            ("reg", &["grant_us", "revoke_us"]),
            ("connect", &[]),
        ] {
            let options = ["--transport", transport, "--iters", "4", "--warmup", "1", "--busy-poll", "20"];
            let document = measured(&[&["--test", test], &options[..]].concat());
            for result in document["results"].as_array().expect("results") {
                assert_eq!((&result["test"], result["iters"].as_u64()), (&test.into(), Some(4)), "{result}");
                assert!(fields.iter().all(|field| !result[*field].is_null()), "{result}");
                assert_eq!(result["verify"]["wrong"], 0);
            }
        }
    }
}

#[test]
fn what_comes_of_sending_without_a_copy_is_said() {
    let options = ["--transport", "tcp", "--size", "1M", "--iters", "4", "--lane", "bulk"];
    for (zerocopy, said) in [("auto", true), ("64K", true), ("0", false)] {
        let document = measured(&[&["--zerocopy", zerocopy], &options[..]].concat());
        let result = &document["results"][0];
        let sentence = result["path"]["ordinary"].as_str();
        assert_eq!(sentence.is_some_and(|sentence| sentence.contains("by the kernel")), said, "{zerocopy}: {result}");
        assert_eq!(result["verify"]["wrong"], 0);
    }
    assert_eq!(run(&["-l", "--zerocopy", "some"]).status.code(), Some(1));
}

#[test]
fn a_hand_over_is_measured_against_its_notice_and_checked() {
    for transport in ["tcp", "shm"] {
        let document = measured(&["--test", "migrate", "--transport", transport, "--size", "5M", "--iters", "2"]);
        let result = &document["results"][0];
        assert_eq!((&result["met"], &result["admitted"], &result["iters"]), (&2.into(), &2.into(), &2.into()));
        assert_eq!(
            (&result["verify"]["wrong"], &result["committed_bytes"]),
            (&0.into(), &(10 << 20).into()),
            "{result}"
        );
        assert_eq!(result["over"], serde_json::json!([transport, transport]));
    }
    // Nothing that is asked for can be there within a millisecond, not even the first grant.
    let output = run(&["-l", "-t", "migrate", "-s", "64M", "-n", "1", "--notice-ms", "1"]);
    assert_eq!(output.status.code(), Some(4), "{}{}", text(&output.stdout), text(&output.stderr));
}

#[test]
fn a_cancelled_write_leaves_no_byte_behind() {
    for transport in ["tcp", "shm"] {
        let document = measured(&["--test", "cancel", "--transport", transport, "--iters", "20"]);
        let result = &document["results"][0];
        let [fenced, completed, quarantined] =
            ["fenced", "completed", "quarantined"].map(|n| result[n].as_u64().unwrap());
        assert_eq!((result["late_bytes"].as_u64(), fenced + completed + quarantined), (Some(0), 20), "{result}");
    }
}

#[test]
fn results_are_written_where_they_are_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (json, jsonl, csv) = (path("a.json"), path("b.jsonl"), path("c.csv"));
    for _ in 0..2 {
        let files = ["--json", &json, "--jsonl", &jsonl, "--csv", &csv];
        let output = run(&[&["-l", "-t", "lat", "-s", "8,64", "-n", "2"], &files[..]].concat());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let table = text(&output.stdout);
        assert!(table.contains("# path: shm by 2 links; standing by: tcp"), "{table}");
        assert!(
            table.lines().any(|line| line.trim_start().starts_with("size(B)") && line.ends_with("#wrong")),
            "{table}"
        );
    }
    let document: Value = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
    assert_eq!(document["verdicts"]["code"], 0);
    let lines = fs::read_to_string(&jsonl).unwrap();
    let sizes: Vec<u64> =
        lines.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["size"].as_u64().unwrap()).collect();
    assert_eq!(sizes, [8, 64, 8, 64], "lines are appended");
    assert_eq!(fs::read_to_string(&csv).unwrap().lines().count(), 3, "a header and two results of the last run");
}

#[test]
fn server_and_client_find_each_other_and_two_clients_come_one_after_the_other() {
    let mut server = bench(&["--bind", "127.0.0.1:0"]).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let client = line.trim_end().split("xfer-bench ").nth(1).expect("it says how to measure").to_owned();
    for transport in ["auto", "tcp"] {
        let output = run(&[&client, "-t", "lat", "-s", "8", "-n", "2", "--transport", transport]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    }
    server.kill().unwrap();
    server.wait().unwrap();
}

#[test]
fn what_is_wrong_has_its_exit_code_and_a_sentence() {
    let small = ["-l", "-n", "2", "-s", "64K"];
    for (arguments, code, says) in [
        (&["--test", "warp"][..], 1, "invalid value 'warp'"),
        (&["-l", "-s", "0"], 1, "a size of 0 bytes"),
        (&["-l", "-s", "99999999999999999999"], 1, "a size is a number of bytes"),
        (&["-l", "-t", "lat", "-s", "2M"], 1, "this test takes 1 to 1048576"),
        (&["-l", "-b", "2M", "-e", "1M"], 1, "is more than"),
        (&["-l", "somewhere"], 1, "leave the host out"),
        (&["-l", "-f", "1"], 1, "invalid value"),
        (&["-l", "--chunk", "1", "-s", "64"], 1, "a chunk has 4096 to"),
        (&["-l", "--transport", "rdma"], 1, "transports are written as"),
        (&["-l", "--json", "/nowhere/at/all"], 1, "can't write /nowhere/at/all"),
        (&["127.0.0.1:1"], 2, "no server at 127.0.0.1:1"),
        (&["no host\u{1b}[2J"], 2, "no host is called"),
    ] {
        let output = run(arguments);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(says) && !said.contains('\u{1b}'), "{arguments:?}: {said}");
    }
    for (arguments, code, says) in [
        (&["--transport", "tcp", "--require-path", "shm"][..], 5, "shm is required, the bytes go over tcp"),
        (&["--min-bw", "1e9"], 6, "is below 1000000000"),
    ] {
        let output = run(&[&small[..], arguments].concat());
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(says), "{arguments:?}: {said}");
    }
}

#[test]
fn a_server_that_speaks_something_else_is_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let stranger = std::thread::spawn(move || {
        use std::io::Write;
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
    });
    let output = run(&[&address, "-n", "2"]);
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    assert!(said.contains("doesn't speak xfer-bench's language") || said.contains("the other end"), "{said}");
    stranger.join().unwrap();
}

#[test]
fn a_client_that_asks_for_nonsense_gets_an_answer_and_the_server_lives() {
    use std::io::Write;
    let mut server = bench(&["--bind", "127.0.0.1:0"]).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.strip_prefix("server listens at ").and_then(|rest| rest.split(';').next()).unwrap().to_owned();
    for nonsense in ["{}", "[]", "{\"ask\":\"grant\",\"slot\":0}", "{\"ask\":\"hello\",\"protocol\":99}"] {
        let mut stream = std::net::TcpStream::connect(&address).unwrap();
        writeln!(stream, "{nonsense}").unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        assert!(answer.contains("error"), "{nonsense}: {answer}");
    }
    let output = run(&[&address, "-t", "lat", "-s", "8", "-n", "2"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    server.kill().unwrap();
    server.wait().unwrap();
}

#[test]
fn probe_says_of_each_backend_whether_it_is_there() {
    let output = run(&["probe"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).contains("ordinary memory "), "{}", text(&output.stdout));
    let names: Vec<&str> = text(&output.stdout).lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(names, ["shm", "verbs", "tcp", "cuda_ipc", "nccl"]);
}
