//! Files without a broker.

use common::watch::within;

use crate::support::run;

#[test]
fn the_messages_in_files_are_printed() {
    within(300, || {
        let plain = common::segments::folder("plain").to_str().unwrap().to_owned();
        let (code, out, err) = run(&["segments", &plain]);
        assert_eq!(code, 0, "{err}");
        let count = out.lines().count();
        assert!(count > 100 && err.contains(&format!("{count} messages")), "{err}");
        assert!(out.starts_with("1\t"), "{out}");
        let (_, out, _) = run(&["segments", "-o", "120", "-n2", "-Fseqnum", &plain]);
        assert_eq!(out, "120\n121\n");
        let (_, out, err) = run(&["segments", "--from", "124", &plain]);
        assert_eq!(out, "124\t1795380799403\t-\tnokey\n125\t1795380799403\tk1\tone\n126\t1795380799403\tk2\t\n");
        assert_eq!(err, "3 messages\n");
        let (code, out, _) = run(&["segments", "--files", &plain]);
        assert!(code == 0 && out.starts_with("FIRST") && out.contains(".ilog"), "{out}");
        assert_eq!(run(&["segments", "--from", "x", &plain]).0, 2);

        // A file that is missing is told.
        let gap = tempfile::tempdir().unwrap();
        let mut files: Vec<_> = std::fs::read_dir(&plain).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "ilog" || extension == "log"));
        let first = |path: &std::path::PathBuf| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            name.split(['-', '_', '.']).next().unwrap().parse::<u64>().unwrap()
        };
        files.sort_by_key(first);
        let missing = (first(&files[1]), first(&files[2]) - 1);
        files.remove(1);
        files.iter().for_each(|path| _ = std::fs::copy(path, gap.path().join(path.file_name().unwrap())).unwrap());
        let (code, _, err) = run(&["segments", gap.path().to_str().unwrap()]);
        assert!(code == 0 && err.contains(&format!("no file has numbers {} to {}\n", missing.0, missing.1)), "{err}");

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
