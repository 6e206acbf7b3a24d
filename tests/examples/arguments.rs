//! Arguments, exit codes, and how times and progress read.

use common::example::{run, scratch};
use common::server::{Server, unique_name};
use common::watch::within;

const ALL: [&str; 4] = ["checkpointed_worker", "latest_per_key", "quickstart", "two_topics"];

#[test]
fn none_is_left_out_here() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let example = |name: String| match name.strip_suffix(".rs") {
        Some(name) => Some(name.to_owned()),
        None => std::path::Path::new(dir).join(&name).join("main.rs").exists().then_some(name),
    };
    let mut names: Vec<_> = names.filter_map(example).collect();
    names.sort();
    assert_eq!(names, ALL);
    let index = std::fs::read_to_string(format!("{dir}/README.md")).unwrap();
    for name in ALL {
        assert!(index.contains(&format!("## {name}\n")), "{name} is not in the index");
    }
}

#[test]
fn help_is_no_error_and_wrong_arguments_are_told() {
    within(300, || {
        for name in ALL {
            let (code, out, err) = run(name, &["--help"]);
            assert!(code == 0 && out.starts_with(&format!("usage: {name}")) && err.is_empty(), "{out}{err}");
            assert!(out.lines().all(|line| line.len() <= 120), "{name}: too wide for a terminal");
            let seven = ["127.0.0.1:1", "x/y", "z", "a", "b", "c", "d"];
            for args in [&["--nonsense"][..], &["-x"], &["--nonsense=1", "localhost", "x"], &seven] {
                let (code, out, err) = run(name, args);
                assert!(code == 2 && out.is_empty() && err.contains("usage: "), "{name} {args:?}: {code} {out} {err}");
            }
            if name != "quickstart" {
                let (code, out, err) = run(name, &[]);
                assert!(code == 2 && out.is_empty() && err.contains("usage: "), "{name}: {code} {out} {err}");
            }
        }
    });
}

#[test]
fn wrong_values_are_told_before_anybody_is_asked() {
    within(300, || {
        for (args, problem) in [
            (&["--from", "nowhere"][..], "latest_per_key: --from nowhere: no such place"),
            (&["--since=yesterday"], "latest_per_key: --since yesterday: no such time"),
            (&["--since", "1h", "--from", "3"], "latest_per_key: --from and --since: one place to begin is enough"),
            (&["--to-seq", "-1"], "latest_per_key: --to-seq -1: not a number that fits"),
            (&["--fields", "key,seq"], "latest_per_key: --fields: no field is called \"seq\""),
        ] {
            // Nobody is there; who asks fails with 1.
            let (code, out, err) = run("latest_per_key", &[args, &["127.0.0.1:1", "orders"]].concat());
            assert_eq!((code, out.as_str(), err.lines().next()), (2, "", Some(problem)));
        }
    });
}

#[test]
fn nobody_there_and_unknown_topics_are_failures_that_name_them() {
    within(300, || {
        let server = Server::start();
        let (addr, nobody) = (server.addr(), "127.0.0.1:1");
        let (path, there) = (scratch("checkpoint"), server.topic(1).name);
        let (path, unknown) = (path.to_str().unwrap(), unique_name());
        for (name, before, after) in [
            ("checkpointed_worker", &[][..], &[path][..]),
            ("latest_per_key", &[], &[]),
            ("two_topics", &[], &[&there, path]),
        ] {
            let (code, out, err) = run(name, &[before, &[nobody, &unknown], after].concat());
            let told = format!("{name}: cannot connect to {nobody}: Connection refused");
            assert!(code == 1 && out.is_empty() && err.starts_with(&told), "{name}: {code} {out} {err}");
            let (code, out, err) = run(name, &[before, &[addr, &unknown], after].concat());
            let told = format!("{name}: {addr}: {unknown}: no such topic\n");
            assert_eq!((code, out.as_str(), err), (1, "", told));
        }
    });
}
