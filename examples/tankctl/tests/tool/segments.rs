//! Files without a broker.

use common::watch::within;

use crate::support::run;

#[test]
fn the_messages_in_files_are_printed() {
    within(300, || {
        let folder = |name: &str| common::root().join("tests").join(name).to_str().unwrap().to_owned();
        let plain = folder("segment/files/plain/0");
        let (code, out, err) = run(&["segments", &plain]);
        assert_eq!(code, 0, "{err}");
        let count = out.lines().count();
        assert!(count > 100 && err.contains(&format!("{count} messages")), "{err}");
        assert!(out.starts_with("1\t"), "{out}");
        let (_, out, _) = run(&["segments", "-o", "120", "-n2", "-Fseqnum", &plain]);
        assert_eq!(out, "120\n121\n");
        let (code, out, _) = run(&["segments", "--files", &plain]);
        assert!(code == 0 && out.starts_with("FIRST") && out.contains(".ilog"), "{out}");

        // The folder of a topic, one without files, and none.
        let (code, _, err) = run(&["segments", plain.strip_suffix("/0").unwrap()]);
        assert!(code == 1 && err.contains("is the folder of a topic: name one of its partitions"), "{err}");
        let empty = tempfile::tempdir().unwrap();
        let (code, out, err) = run(&["segments", empty.path().to_str().unwrap()]);
        assert!(code == 0 && out.is_empty() && err.contains("has no segment files\n0 messages"), "{err}");
        let (code, _, err) = run(&["segments", "/nowhere"]);
        assert!(code == 1 && err.starts_with("tankctl: cannot read or write /nowhere: No such file"), "{err}");
    });
}
