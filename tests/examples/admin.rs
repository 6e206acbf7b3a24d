//! Administration.

use tank_client::Record;
use tank_client::broker::Broker;

use common::example::run;
use common::server::{Server, unique_name};
use common::watch::within;

#[test]
fn administration() {
    within(300, || {
        let server = Server::start();
        let topic = unique_name();
        let admin = |args: &[&str]| run("admin", &[&[server.addr()], args].concat());
        let (code, _, err) = admin(&["create", &topic, "2", "log.segment.bytes=1mb", "log.retention.secs=1week"]);
        assert_eq!((code, err), (0, format!("{topic}: created with 2 partitions\n")));
        assert_eq!(admin(&["create", &topic, "2"]).0, 1);
        assert_eq!(admin(&["create", &topic, "2", "log.segment.bytes=1"]).0, 2);
        assert_eq!(admin(&["create", &topic, "many"]).0, 2);
        server.client().publish(&topic, 1, &[Record::new(b"x"); 12]).unwrap();
        let (_, out, _) = admin(&["list"]);
        let line = out.lines().find(|line| line.starts_with(&topic)).unwrap();
        assert_eq!(line.split_whitespace().collect::<Vec<_>>(), [&topic, "2", "1", "yes"]);
        let (code, out, err) = admin(&["watermarks", &topic]);
        assert_eq!((code, err.as_str()), (0, ""));
        let expected = "\
PARTITION  FIRST  LAST
        0      0     0
        1      1    12
";
        assert_eq!(out, expected);
        let (code, out, err) = admin(&["topology"]);
        assert_eq!((code, out.as_str(), err.as_str()), (0, "", "the broker stands alone\n"));
        let (code, out, _) = admin(&["status"]);
        assert!(code == 0 && out.contains("version") && out.contains("4.0"), "{out}");
        let (code, _, err) = admin(&["reload", &format!("{topic}/7")]);
        assert_eq!((code, err), (1, format!("admin: {topic}/7: no such partition\n")));

        let cluster = Broker::cluster(2).unwrap();
        let (code, out, _) = run("admin", &[&cluster.node(0).addr().to_string(), "topology"]);
        assert!(code == 0 && out.lines().count() == 3 && out.contains(&cluster.node(1).addr().to_string()), "{out}");
    });
}
