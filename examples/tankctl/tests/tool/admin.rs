//! Administration, the embedded broker, checkpoint files.

use common::server::{Server, unique_name};
use common::watch::within;
use rustix::process::Signal;
use tank_client::Record;
use tank_client::broker::Broker;

use crate::support::{Running, run, run_at};

#[test]
fn topics_are_created_and_listed() {
    within(300, || {
        let server = Server::start();
        let topic = unique_name();
        let tool = |args: &[&str]| run_at(server.addr(), args);
        let (code, out, err) = tool(&["create", &topic, "2", "log.segment.bytes=1mb", "log.retention.secs=1week"]);
        assert_eq!((code, out.as_str(), err), (0, "", format!("{topic}: created with 2 partitions\n")));
        assert_eq!(tool(&["create", &topic, "2"]).0, 1);
        for wrong in
            [&["create", &topic, "2", "log.segment.bytes=1"][..], &["create", &topic, "many"], &["create", "-", "1"]]
        {
            let (code, out, err) = tool(wrong);
            assert!(code == 2 && out.is_empty() && err.contains("Usage: tankctl create"), "{wrong:?}: {code} {err}");
        }

        server.client().publish(&topic, 1, &[Record::new(b"x"); 12]).unwrap();
        let (_, out, _) = tool(&["topics"]);
        let line = out.lines().find(|line| line.starts_with(&topic)).unwrap();
        assert_eq!(line.split_whitespace().collect::<Vec<_>>(), [&topic, "2", "1", "yes"]);
        let (_, out, _) = tool(&["topics", "--json"]);
        assert!(out.contains(&format!(r#"{{"topic":"{topic}","partitions":2,"copies":1,"enabled":true}}"#)), "{out}");
        let (code, out, err) = tool(&["watermarks", &topic]);
        let table = "\
PARTITION  FIRST  LAST
        0      0     0
        1      1    12
";
        assert_eq!((code, out.as_str(), err.as_str()), (0, table, ""));
        let (_, out, _) = tool(&["watermarks", "--json", &topic, &topic]);
        assert_eq!(out.lines().nth(3), Some(&*format!(r#"{{"topic":"{topic}","partition":1,"first":1,"last":12}}"#)));
        let (code, out, err) = tool(&["topology"]);
        assert_eq!((code, out.as_str(), err.as_str()), (0, "", "the broker stands alone\n"));
        let (code, out, _) = tool(&["status"]);
        assert!(code == 0 && out.contains("version") && out.contains("4.0"), "{out}");
        let (code, out, _) = tool(&["status", "--json"]);
        assert!(code == 0 && out.starts_with(r#"{"topics":"#) && out.contains(r#""version":"4.0""#), "{out}");
        let (code, _, err) = tool(&["reload", &format!("{topic}/7")]);
        assert_eq!((code, err), (1, format!("tankctl: {}: {topic}/7: no such partition\n", server.addr())));
        assert_eq!(tool(&["reload", &topic]).0, 2);

        let cluster = Broker::cluster(2).unwrap();
        let (code, out, _) = run_at(&cluster.node(0).addr().to_string(), &["topology"]);
        assert!(code == 0 && out.lines().count() == 3 && out.contains(&cluster.node(1).addr().to_string()), "{out}");
    });
}

#[test]
fn a_broker_is_served_until_it_is_ended() {
    within(300, || {
        for nodes in [&[][..], &["--nodes", "3"]] {
            let args = [&["serve", "--port", "0", "--topic", "orders/2", "--topic", "clicks"], nodes].concat();
            let mut broker = Running::at("nowhere", &args);
            let brokers = broker.line().unwrap();
            assert_eq!(brokers.split(',').count(), if nodes.is_empty() { 1 } else { 3 });
            let (code, out, err) = run_at(&brokers, &["topics", "--json"]);
            assert_eq!((code, out.lines().count()), (0, 2), "{out}{err}");
            broker.signal(Signal::TERM);
            assert_eq!(broker.end().0, 143);
        }
        let mut broker = Running::at("nowhere", &["serve", "-p0", "--attached"]);
        // What it was given for a standard input has ended.
        assert_eq!((broker.line().is_some(), broker.end().0), (true, 0));

        let taken = Broker::start().unwrap();
        let port = taken.addr().port().to_string();
        let (code, out, err) = run(&["serve", "--port", &port]);
        assert!(code == 1 && out.is_empty(), "{code} {err}");
        assert!(err.starts_with(&format!("tankctl: cannot listen on port {port}: ")), "{err}");
        assert_eq!(run(&["serve", "-p0", "-t", "x/1", "-t", "x/1"]).0, 1);
    });
}

#[test]
fn checkpoint_files_are_shown_and_set() {
    within(300, || {
        let (server, dir) = (Server::start(), tempfile::tempdir().unwrap());
        let topic = server.topic(1).name;
        server.client().publish(&topic, 0, &[Record::new(b"x"); 5]).unwrap();
        let file = dir.path().join("position").to_str().unwrap().to_owned();
        let (code, _, err) = run(&["checkpoint", "show", &file]);
        assert_eq!((code, err), (1, format!("tankctl: {file}: no such file\n")));

        let place = format!("{topic}/0");
        let (code, out, err) = run(&["checkpoint", "set", &file, &format!("{place}=3"), "a/7=9"]);
        assert_eq!((code, out.as_str(), err), (0, "", format!("{file}: 2 positions set\n")));
        let (code, out, _) = run_at(server.addr(), &["consume", "-c", &file, "-e", "-f", "%o ", &topic]);
        assert_eq!((code, out.as_str()), (0, "3 4 5 "), "it goes on where the file says");
        let (_, out, _) = run(&["checkpoint", "show", "--json", &file]);
        let shown = |seq: u64| {
            let (first, second) = (r#"{"topic":"a","partition":7,"next":9}"#, r#","partition":0,"next":"#);
            format!("{first}\n{{\"topic\":\"{topic}\"{second}{seq}}}\n")
        };
        assert_eq!(out, shown(6), "and says then where it ended");
        assert_eq!(run(&["checkpoint", "show", "--json", "--previous", &file]).1, shown(3));
        for wrong in ["orders=3", "orders/0", "orders/x=3", "orders/0=x"] {
            assert_eq!(run(&["checkpoint", "set", &file, wrong]).0, 2, "{wrong}");
        }
    });
}

#[test]
fn completions_are_those_of_the_shells() {
    for (shell, part) in [("bash", "complete -F"), ("zsh", "#compdef tankctl"), ("fish", "complete -c tankctl")] {
        let (code, out, err) = run(&["completions", shell]);
        assert!(code == 0 && out.contains(part) && out.contains("watermarks"), "{shell}: {err}");
    }
}
