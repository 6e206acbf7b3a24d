//! Lines become messages.

use std::env;

use crate::shared::messages;
use common::example::run_with as run;
use common::server::{Server, unique_name};
use common::watch::within;

#[test]
fn lines_are_published_without_loss() {
    within(300, || {
        let server = Server::start();
        let client = server.client();
        let topic = server.topic(3).name;
        let target = format!("{topic}/1");
        let lines: Vec<String> = (0..100_000).map(|n| format!("line {n}{}", "\r".repeat(n % 2))).collect();
        // An empty line is a message; a line end at the end is not one more.
        let input = format!("{}\n\nlast without a line end", lines.join("\n"));
        let (code, out, err) = run("publish", &[server.addr(), &target], input.as_bytes());
        assert_eq!((code, out.as_str(), err.as_str()), (0, "", "100002 messages stored\n"));
        let back = messages(&client, &topic);
        let mut expected: Vec<&str> = lines.iter().map(String::as_str).collect();
        expected.extend(["", "last without a line end"]);
        assert!(back[1].iter().map(|message| message.payload()).eq(expected.iter().map(|line| line.as_bytes())));
        assert!(back[0].is_empty() && back[2].is_empty());

        let path = env::temp_dir().join(unique_name());
        std::fs::write(&path, b"a=1\nb=x=2\nplain\n=3\n\xff").unwrap();
        let other = server.topic(1).name;
        for option in ["--keys", "--exactly-once"] {
            let args = ["--keys", option, server.addr(), &other, path.to_str().unwrap()];
            let (code, _, err) = run("publish", &args, b"");
            assert_eq!((code, err.as_str()), (0, "5 messages stored\n"));
        }
        std::fs::remove_file(path).unwrap();
        let back = messages(&client, &other).remove(0);
        let found: Vec<_> = back.iter().map(|message| (message.key(), message.payload())).collect();
        let once = [(Some(&b"a"[..]), &b"1"[..]), (Some(b"b"), b"x=2"), (None, b"plain"), (None, b"3")];
        assert_eq!(found[..4], once);
        assert_eq!((found.len(), found[5..9] == once), (10, true));

        let (code, _, err) = run("publish", &[server.addr(), "no-such-topic-at-all/0"], b"x\ny");
        assert!(code == 1 && err.contains("0 messages stored") && err.contains("no such topic"), "{err}");
    });
}
