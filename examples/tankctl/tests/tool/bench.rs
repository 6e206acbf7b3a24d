//! Measuring.

use common::server::Server;
use common::watch::within;

use crate::support::{cells, run, run_at};

fn is_number(cell: &str) -> bool {
    cell.parse::<f64>().is_ok_and(|number| number >= 0.0)
}

#[test]
fn consuming_is_compared_with_bare_sockets() {
    within(300, || {
        let check = |out: &str, set: &str| {
            let rows: Vec<&str> = out.lines().collect();
            assert!(rows[0].starts_with("SET") && rows[0].ends_with("OF BARE  PROCESSOR OF BARE"), "{out}");
            for (row, way) in rows[1..].iter().zip(["for loop", "next_batch", "bare sockets"]) {
                let rest = row.strip_prefix(set).unwrap().trim_start().strip_prefix(way).unwrap();
                let numbers = rest.split_whitespace().filter(|cell| is_number(cell)).count();
                assert_eq!(numbers, if way == "bare sockets" { 5 } else { 6 }, "{row}");
            }
            assert_eq!(rows.len(), 4);
        };
        let (code, out, err) = run(&["bench", "--set", "snappy1k", "--megabytes", "1", "--runs", "1"]);
        assert_eq!((code, err.as_str()), (0, ""));
        check(&out, "snappy1k");
        let server = Server::start();
        let mut topic = server.topic(1);
        topic.publish_numbers(0, 1, 5000, 100);
        let (code, out, err) = run_at(server.addr(), &["bench", "consume", "--runs", "3", "--topic", &topic.name]);
        assert_eq!((code, err.as_str()), (0, ""));
        check(&out, &topic.name);
        let args = ["bench", "--runs", "1", "--only", "batch", "--topic", &topic.name];
        assert_eq!(run_at(server.addr(), &args).1.lines().count(), 2);
    });
}

#[test]
fn publishing_and_delivery_are_measured() {
    within(300, || {
        let (code, out, err) = run(&["bench", "publish", "--count", "2000", "--runs", "1"]);
        assert!(code == 0 && err.is_empty(), "{err}");
        let rows = cells(&out);
        assert!(
            rows.len() == 6 && rows[2][0] == "Producer" && rows[2][1..].iter().all(|cell| is_number(cell)),
            "{out}"
        );
        let server = Server::start();
        let topic = server.topic(1).name;
        let args = ["bench", "latency", "--count", "100", "--runs", "1", "--topic", &topic];
        let (code, out, err) = run_at(server.addr(), &args);
        assert!(code == 0 && err.is_empty(), "{err}");
        assert_eq!(cells(&out).iter().flatten().filter(|cell| is_number(cell)).count(), 15, "{out}");
        let args = ["bench", "latency", "--count", "100", "--runs", "1", "--leaders", "5"];
        let (code, out, err) = run(&args);
        assert!(code == 0 && err.is_empty(), "{err}");
        assert_eq!(cells(&out).iter().flatten().filter(|cell| is_number(cell)).count(), 15, "{out}");
        let args = ["bench", "fill", "--set", "plain1k", "--megabytes", "1", "--topic", &topic];
        let (code, _, err) = run_at(server.addr(), &args);
        assert!(code == 0 && err.is_empty(), "{err}");
        assert_eq!(run_at(server.addr(), &["bench", "fill"]).0, 2);
        for (place, problem) in [("no-such-topic".into(), "no such topic"), (format!("{topic}/7"), "no such partition")]
        {
            let (code, _, err) = run_at(server.addr(), &["bench", "--topic", &place]);
            assert_eq!((code, err), (1, format!("tankctl: {}: {place}: {problem}\n", server.addr())));
        }
    });
}
