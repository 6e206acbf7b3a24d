//! The examples as users run them.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;

use common::example::{example, run, run_with, scratch};
use common::watch::within;
use tank_client::broker::Broker;
use tank_client::{Client, Record};

#[cfg(unix)]
mod worker;

/// A broker with `orders`, of two partitions, and keys and payloads in them.
fn broker() -> (Broker, String) {
    let broker = Broker::start().unwrap();
    broker.create_topic("orders", 2);
    let addr = broker.addr().to_string();
    let client = Client::connect(&addr).unwrap();
    let record = |key, payload| Record::new(payload).key(key);
    client.publish("orders", 0, &[record("ada", "tea"), record("ben", "milk"), record("ada", "bread")]).unwrap();
    client.publish("orders", 1, &[record("cleo", "salt"), record("cleo", ""), Record::new("nobody's")]).unwrap();
    (broker, addr)
}

/// Sends the signal, and returns the program's exit code.
fn stop(mut program: Child, signal: &str) -> Option<i32> {
    assert!(Command::new("kill").args([signal, &program.id().to_string()]).status().unwrap().success());
    program.wait().unwrap().code()
}

#[test]
fn quickstart_publishes_and_reads_back() {
    let (code, stdout, stderr) = run("quickstart", &[]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.contains("\nnext positions: orders/0=101 orders/1=101 orders/2=101\n"), "{stdout}");
}

#[test]
fn latest_per_key_makes_a_table() {
    let (_broker, addr) = broker();
    let (code, stdout, stderr) = run("latest_per_key", &[&addr, "orders"]);
    assert_eq!((code, stdout.as_str()), (0, "ada\tbread\nben\tmilk\n"));
    assert_eq!(stderr, "6 messages: 2 keys, 1 without a key\n");
}

#[test]
fn ingest_stores_each_line() {
    let (broker, addr) = broker();
    let lines: String = (0..1000).map(|n| format!("{n}\n")).collect();
    let (code, _, stderr) = run_with("ingest_with_outcomes", &[&addr, "orders"], lines.as_bytes());
    assert_eq!((code, stderr.as_str()), (0, "1000 records stored\n"));
    assert_eq!(broker.high_water_mark("orders", 0) + broker.high_water_mark("orders", 1), 1006);
    let (code, _, stderr) = run_with("ingest_with_outcomes", &[&addr, "nowhere"], b"tea\n");
    assert_eq!((code, stderr), (1, format!("ingest_with_outcomes: {addr}: nowhere: no such topic\n")));
    // What came before a line that cannot be read is stored.
    let (code, ..) = run_with("ingest_with_outcomes", &[&addr, "orders"], b"tea\n\xff\n");
    assert_eq!(code, 1);
    assert_eq!(broker.high_water_mark("orders", 0) + broker.high_water_mark("orders", 1), 1007);
}

#[test]
fn ingest_reports_what_is_not_stored() {
    let broker = Broker::builder().read_only().start().unwrap();
    broker.create_topic("orders", 1);
    let addr = broker.addr().to_string();
    let (code, _, stderr) = run_with("ingest_with_outcomes", &[&addr, "orders"], b"tea\nmilk\n");
    let refused = format!("orders/0: 2 not stored: {addr}: orders/0: the broker is read-only\n");
    assert_eq!(
        stderr,
        refused + "0 records stored\ningest_with_outcomes: 2 records were not stored, or may not have been\n"
    );
    assert_eq!(code, 1);
}

#[test]
fn all_threads_end_when_one_panics() {
    within(60, || {
        let (broker, addr) = broker();
        let mut program = example("threads_with_shutdown");
        let mut program = program.args([&addr, "orders"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        // Nobody reads what it prints, and only one of its threads has something to print.
        drop(program.stdout.take());
        assert!(broker.wait_until(common::watch::SOON, |stats| stats.waiting == 2));
        broker.append_payloads("orders", 0, &["tea"]);
        assert!(!program.wait().unwrap().success());
    });
}

#[cfg(unix)]
#[test]
fn a_signal_ends_all_threads() {
    within(60, || {
        let (broker, addr) = broker();
        for signal in ["-INT", "-TERM"] {
            let asked = broker.stats().requests(tank_client::broker::RequestKind::Consume);
            let program =
                example("threads_with_shutdown").args([&addr, "orders"]).stdout(Stdio::piped()).spawn().unwrap();
            assert!(broker.wait_until(common::watch::SOON, |stats| {
                stats.requests(tank_client::broker::RequestKind::Consume) >= asked + 2
            }));
            assert_eq!(stop(program, signal), Some(0));
        }
    });
}

/// One connection is passed on to the broker, the next one stays silent.
#[cfg(unix)]
#[test]
fn a_signal_also_ends_threads_that_still_connect() {
    within(60, || {
        let (_broker, addr) = broker();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = listener.local_addr().unwrap().to_string();
        let program = example("threads_with_shutdown").args([&relay, "orders"]).stdout(Stdio::piped()).spawn().unwrap();
        let ours = [listener.accept().unwrap().0, TcpStream::connect(addr).unwrap()];
        for (from, to) in [(0, 1), (1, 0)] {
            let (mut from, mut to) = (ours[from].try_clone().unwrap(), ours[to].try_clone().unwrap());
            thread::spawn(move || std::io::copy(&mut from, &mut to));
        }
        let silent = listener.accept().unwrap();
        assert_eq!(stop(program, "-INT"), Some(0));
        drop(silent);
    });
}

#[cfg(unix)]
#[test]
fn metrics_are_kept_in_a_file() {
    within(60, || {
        let (broker, addr) = broker();
        let file = scratch("metrics");
        let program = example("metrics").args([&addr, "orders"]).arg(&file).spawn().unwrap();
        let has = |text: &str| fs::read_to_string(&file).is_ok_and(|found| found.contains(text));
        assert!(broker.wait_until(common::watch::SOON, |_| has("tank_lag{topic=\"orders\",partition=\"1\"} 0\n")));
        // No message has come, so no age is known.
        assert!(has("# TYPE tank_age_seconds gauge\n") && !has("\ntank_age_seconds{"));
        assert_eq!(stop(program, "-TERM"), Some(0));
    });
}

#[test]
fn wrong_arguments_and_unreachable_brokers_are_said() {
    for name in ["two_topics", "checkpointed_worker", "latest_per_key", "threads_with_shutdown", "metrics"] {
        let (code, stdout, stderr) = run(name, &[]);
        assert!(code == 1 && stdout.is_empty() && stderr.starts_with(&format!("{name}: usage: BROKERS TOPIC")));
    }
    let (code, _, stderr) = run("latest_per_key", &["127.0.0.1:1", "orders"]);
    assert!(code == 1 && stderr.starts_with("latest_per_key: cannot connect to 127.0.0.1:1: "), "{stderr}");
}
