//! Segment files: those a server wrote, cut and damaged ones, and ones that are being written.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use common::malformed;
use tank_client::Compression;
use tank_client::broker::{dense_bundle, sparse_bundle};
use tank_client::protocol::varint;
use tank_client::segment::Segments;
use tank_client::{Error, ErrorKind, Limits, Message, Record};

use common::example::scratch;
use common::rng::{Rng, seeded};
use common::segments::{folder, unpack};
use common::watch::within;

const TOPICS: [&str; 3] = ["plain", "sparse", "snappy"];

/// A message as `tank-cli get -F seqnum,key,content,ts_ms` prints it.
fn line(message: &Message) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let (key, payload) = (text(message.key().unwrap_or_default()), text(message.payload()));
    format!("{}:seq={}:[{key}]:{payload}", message.timestamp_ms(), message.seq())
}

/// What tank-cli printed, with the numbers.
fn expected(topic: &str) -> Vec<(u64, String)> {
    let text = fs::read_to_string(common::root().join(format!("tests/segment/files/{topic}.messages"))).unwrap();
    let seq = |line: &str| line.split(":seq=").nth(1).and_then(|rest| rest.split(':').next()?.parse().ok()).unwrap();
    text.lines().map(|line| (seq(line), line.to_owned())).collect()
}

fn lines(segments: Segments) -> Vec<(u64, String)> {
    segments.map(|message| message.unwrap()).map(|message| (message.seq(), line(&message))).collect()
}

/// A copy of a partition's files, to be spoilt.
fn copy(test: &str, topic: &str) -> PathBuf {
    let dir = scratch(test).with_file_name(topic).join("0");
    unpack(topic, &dir);
    dir
}

#[test]
fn a_servers_files_read_back_as_its_own_tool_prints_them() {
    for topic in TOPICS {
        let dir = folder(topic);
        let all = expected(topic);
        let mut segments = Segments::open(&dir).unwrap();
        assert_eq!(segments.position(), 0);
        let first = segments.next().unwrap().unwrap();
        assert_eq!((first.topic(), first.partition(), line(&first)), (topic, 0, all[0].1.clone()));
        assert_eq!(segments.position(), all[0].0 + 1.max(all[1].0 - all[0].0));
        assert_eq!(segments.by_ref().count() + 1, all.len());
        assert_eq!((segments.cut_tail(), segments.position()), (None, all.last().unwrap().0 + 1));
        for from in 0..all.last().unwrap().0 + 3 {
            let rest: Vec<_> = all.iter().filter(|(seq, _)| *seq >= from).cloned().collect();
            assert_eq!(lines(Segments::open(&dir).unwrap().start_at(from)), rest, "{topic} from {from}");
        }
        let mut batched = Vec::new();
        let mut segments = Segments::open(&dir).unwrap().named("other", 7);
        segments.next().unwrap().unwrap();
        while let Some(batch) = segments.next_batch().unwrap() {
            assert_eq!((batch.topic(), batch.partition()), ("other", 7));
            batched.extend(batch.iter().map(|message| (message.seq(), line(&message.to_message()))));
        }
        assert_eq!(batched, all[1..]);
        let files = Segments::open(&dir).unwrap().files().unwrap();
        assert!(files.len() >= 3 && files.iter().rev().skip(1).all(|file| file.last.is_some()));
        assert_eq!(files.last().unwrap().last, None);
    }
    assert!(matches!(Segments::open("no such folder"), Err(Error { kind: ErrorKind::File, .. })));
}

#[test]
fn a_tail_cut_anywhere_ends_quietly() {
    for topic in TOPICS {
        let all = expected(topic);
        let dir = copy("cut", topic);
        let last = Segments::open(&dir).unwrap().files().unwrap().pop().unwrap();
        let whole = fs::read(&last.path).unwrap();
        let mut counts = Vec::new();
        for cut in (0..=whole.len()).rev() {
            fs::write(&last.path, &whole[..cut]).unwrap();
            let mut segments = Segments::open(&dir).unwrap();
            let found: Vec<_> = segments.by_ref().map(|m| m.unwrap()).map(|m| (m.seq(), line(&m))).collect();
            assert_eq!(found, all[..found.len()], "{topic} cut at {cut}");
            match segments.cut_tail() {
                Some((path, at)) => assert!(path.ends_with(last.path.file_name().unwrap()) && at < cut as u64),
                None => counts.push(found.len()),
            }
        }
        counts.dedup();
        assert!(counts.len() >= 2, "some of the cuts lie between two bundles");
        // Closed segments end quietly too, if they are the last ones: a back-up that was not finished.
        fs::remove_file(&last.path).unwrap();
        let closed = Segments::open(&dir).unwrap().files().unwrap().pop().unwrap();
        let whole = fs::read(&closed.path).unwrap();
        fs::write(&closed.path, &whole[..whole.len() - 1]).unwrap();
        let found = lines(Segments::open(&dir).unwrap());
        assert!(found.len() < counts[counts.len() - 1] && found == all[..found.len()]);
        // Also between two bundles, where only the file's name says that there were more.
        for cut in 0..whole.len() {
            fs::write(&closed.path, &whole[..cut]).unwrap();
            let mut segments = Segments::open(&dir).unwrap();
            assert!(segments.by_ref().all(|message| message.is_ok()));
            let (path, at) = segments.cut_tail().expect("the end is missing");
            assert!(path.ends_with(closed.path.file_name().unwrap()) && at <= cut as u64, "{topic} cut at {cut}");
        }
    }
}

#[test]
fn a_closed_file_with_something_missing_is_corrupt() {
    for topic in TOPICS {
        let dir = copy("missing", topic);
        let files = Segments::open(&dir).unwrap().files().unwrap();
        let whole = fs::read(&files[0].path).unwrap();
        for cut in 0..whole.len() {
            fs::write(&files[0].path, &whole[..cut]).unwrap();
            let mut segments = Segments::open(&dir).unwrap();
            let e = segments.by_ref().find_map(Result::err).unwrap();
            let ErrorKind::Corrupt { at, .. } = e.kind else { panic!("{e}") };
            assert!(e.path().unwrap().ends_with(files[0].path.file_name().unwrap()) && at <= cut as u64);
            assert!(e.to_string().ends_with(&format!("malformed data in the bundle at byte {at}")), "{e}");
            assert!(segments.next().is_none(), "finished");
            // What comes after it can still be read.
            let from = files[1].first;
            let rest = expected(topic).into_iter().filter(|(seq, _)| *seq >= from).collect::<Vec<_>>();
            assert_eq!(lines(Segments::open(&dir).unwrap().start_at(from)), rest);
        }
    }
}

#[test]
fn damage_is_named_with_file_and_place_or_leaves_other_messages_alone() {
    let mut errors = 0;
    for topic in TOPICS {
        let dir = copy("damaged", topic);
        let files = Segments::open(&dir).unwrap().files().unwrap();
        let whole = fs::read(&files[1].path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x44;
            fs::write(&files[1].path, &bytes).unwrap();
            let results: Vec<_> = Segments::open(&dir).unwrap().collect();
            match results.last().unwrap() {
                // A wrong number shows where it disagrees with the next one, in this file or after it.
                Err(e @ Error { kind: ErrorKind::Corrupt { .. }, .. }) => {
                    let path = e.path().unwrap();
                    assert!(files[1..].iter().any(|file| path.ends_with(file.path.file_name().unwrap())));
                    errors += 1;
                }
                Err(e) => panic!("{e}"),
                // There are no checksums.
                Ok(_) => assert!(results.len() >= expected(topic).len() / 2),
            }
        }
        // Zeros, as a crash of the machine may leave them.
        fs::write(&files[1].path, [&whole[..], &[0; 100]].concat()).unwrap();
        let e = Segments::open(&dir).unwrap().find_map(Result::err).unwrap();
        assert!(matches!(e.kind, ErrorKind::Corrupt { at, .. } if at == whole.len() as u64), "{e}");
    }
    assert!(errors > 100, "{errors}");
}

#[test]
fn a_directory_without_segments_is_empty() {
    let dir = scratch("nothing").with_file_name("orders");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("config"), "log.segment.bytes=1").unwrap();
    assert!(Segments::open(&dir).unwrap().next().is_none());
    fs::write(dir.join("17_1.log"), "").unwrap();
    assert!(Segments::open(&dir).unwrap().next().is_none());
}

/// Appends a log's bundles piece by piece, and closes files, as a server does.
fn write_log(dir: &Path, rng: &mut Rng, last: u64) {
    let mut next = 1;
    while next < last {
        let first = next;
        let path = dir.join(format!("{first}_1.log"));
        let mut file = OpenOptions::new().create(true).append(true).open(&path).unwrap();
        for _ in 0..rng.between(1, 5) {
            let payload = next.to_le_bytes();
            let messages: Vec<_> = (0..rng.between(1, 60) as u64)
                .map(|n| (next + n, Record::new(&payload).timestamp_ms(next + n)))
                .collect();
            let codec = rng.pick(&[Compression::None, Compression::Snappy]);
            let bundle = if rng.one_in(2) {
                sparse_bundle(&messages, codec)
            } else {
                dense_bundle(&messages.iter().map(|(_, message)| *message).collect::<Vec<_>>(), codec)
            };
            next += messages.len() as u64;
            let mut bytes = Vec::new();
            varint::encode(bundle.len() as u32, &mut bytes);
            bytes.extend_from_slice(&bundle);
            while !bytes.is_empty() {
                let piece = rng.between(1, bytes.len());
                file.write_all(&bytes[..piece]).unwrap();
                bytes.drain(..piece);
            }
        }
        fs::rename(&path, dir.join(format!("{first}-{}_2.ilog", next - 1))).unwrap();
    }
}

#[test]
fn a_live_directory_is_read_without_holes() {
    seeded(20, |rng| {
        let dir = scratch("live").with_file_name("0");
        fs::create_dir_all(&dir).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                write_log(&dir, rng, 3000);
                done.store(true, Ordering::SeqCst);
            });
            let (mut next, mut passes) = (1, 0);
            loop {
                let last_pass = done.load(Ordering::SeqCst);
                let mut segments = Segments::open(&dir).unwrap().start_at(next);
                for message in segments.by_ref() {
                    let message = message.unwrap();
                    assert_eq!((message.seq(), message.timestamp_ms()), (next, next));
                    next += 1;
                }
                assert_eq!(segments.position(), next);
                passes += 1;
                if last_pass {
                    break;
                }
            }
            assert!(next >= 3000, "{next} after {passes} passes");
        });
    });
}

/// A partition's directory with these files.
fn directory(test: &str, files: &[(&str, &[u8])]) -> PathBuf {
    let dir = scratch(test).with_file_name("t").join("0");
    fs::create_dir_all(&dir).unwrap();
    for (name, bytes) in files {
        fs::write(dir.join(name), bytes).unwrap();
    }
    dir
}

/// A bundle of one message with its length in front.
fn stored(seq: Option<u64>) -> Vec<u8> {
    let message = Record::new(b"x").timestamp_ms(1);
    let bundle = match seq {
        Some(seq) => sparse_bundle(&[(seq, message)], Compression::None),
        None => dense_bundle(&[message], Compression::None),
    };
    let mut bytes = Vec::new();
    varint::encode(bundle.len() as u32, &mut bytes);
    [bytes, bundle].concat()
}

#[test]
fn of_many_small_bundles_those_before_a_bad_one_are_handed_out() {
    let one = stored(None);
    // The shorter ones are not worth sharing a read buffer for.
    for (count, bad) in
        [(700, 1), (700, 2), (700, 255), (700, 256), (700, 257), (700, 400), (700, 700), (100, 1), (100, 60)]
    {
        let whole = one.repeat(count);
        let at = (bad - 1) * one.len();
        let mut bytes = whole.clone();
        // Claims a longer payload than there is.
        bytes[at + one.len() - 2] += 1;
        let dir = directory(&format!("small{bad}of{count}"), &[("1.log", &bytes)]);
        let mut segments = Segments::open(&dir).unwrap();
        for seq in 1..bad {
            assert_eq!(segments.position(), if seq == 1 { 0 } else { seq as u64 });
            assert_eq!(segments.next().unwrap().unwrap().seq(), seq as u64);
        }
        assert_eq!(segments.position(), if bad == 1 { 0 } else { bad as u64 });
        match segments.next() {
            Some(Err(Error { kind: ErrorKind::Corrupt { at: found, .. }, .. })) => {
                assert_eq!(found, at as u64, "{bad}")
            }
            other => panic!("{bad}: {other:?}"),
        }
        assert!(segments.next().is_none() && segments.next_batch().unwrap().is_none());
        // Below the position nothing is looked at.
        let rest = Segments::open(&dir).unwrap().start_at(bad as u64 + 1);
        assert_eq!(
            rest.map(|message| message.unwrap().seq()).collect::<Vec<_>>(),
            ((bad as u64 + 1)..=count as u64).collect::<Vec<_>>()
        );
    }
}

#[test]
fn a_reader_that_has_begun_can_be_given_another_name_or_place() {
    let small = directory("begun", &[("1.log", &stored(None).repeat(700))]);
    for dir in [small, folder("snappy")] {
        let all: Vec<u64> = Segments::open(&dir).unwrap().map(|message| message.unwrap().seq()).collect();
        for taken in [0, 1, all.len() / 2, all.len()] {
            let begun = || {
                let mut segments = Segments::open(&dir).unwrap();
                assert_eq!(segments.by_ref().take(taken).count(), taken);
                segments
            };
            let named = begun().named("other", 7);
            assert_eq!(named.position(), if taken == 0 { 0 } else { begun().position() });
            let rest: Vec<_> = named.map(|message| message.unwrap()).collect();
            assert_eq!(rest.iter().map(Message::seq).collect::<Vec<_>>(), all[taken..]);
            assert!(rest.iter().all(|message| (message.topic(), message.partition()) == ("other", 7)));
            for from in [1, 50, 300] {
                let mut segments = begun();
                if taken == all.len() {
                    assert!(segments.next().is_none(), "finished");
                }
                let seqs: Vec<_> = segments.start_at(from).map(|message| message.unwrap().seq()).collect();
                assert_eq!(seqs, all.iter().copied().filter(|seq| *seq >= from).collect::<Vec<_>>());
            }
        }
    }
}

#[test]
fn files_larger_than_what_is_read_at_once() {
    seeded(5, |rng| {
        // Number of the first message, and where the bundle begins and ends.
        let (mut bundles, mut bytes, mut next) = (Vec::new(), Vec::new(), 1);
        let payload: Vec<u8> = (0..1000).map(|n| n as u8).collect();
        while bytes.len() < 3 << 20 {
            let count = if rng.one_in(3) { rng.between(50, 900) } else { rng.between(1, 20) };
            let message = |n| Record::new(&payload[..(n * 37 % 1000) as usize]).timestamp_ms(n);
            let messages: Vec<_> = (next..next + count as u64).map(message).collect();
            let codec = if rng.one_in(4) { Compression::Snappy } else { Compression::None };
            let bundle = dense_bundle(&messages, codec);
            let begin = bytes.len();
            varint::encode(bundle.len() as u32, &mut bytes);
            bytes.extend_from_slice(&bundle);
            bundles.push((next, begin, bytes.len()));
            next += count as u64;
        }
        let dir = directory("large", &[("1.log", &bytes)]);
        let is_it = |message: &Message, seq: u64| {
            (message.seq(), message.timestamp_ms()) == (seq, seq)
                && message.payload() == &payload[..(seq * 37 % 1000) as usize]
        };
        // All of them are kept, so what is read later must not reach their memory.
        let all: Vec<_> = Segments::open(&dir).unwrap().map(|message| message.unwrap()).collect();
        assert!(all.len() as u64 == next - 1 && all.iter().zip(1..).all(|(message, seq)| is_it(message, seq)));
        for _ in 0..20 {
            let from = rng.between(1, next as usize - 1) as u64;
            let mut segments = Segments::open(&dir).unwrap().start_at(from);
            let mut seq = from;
            while let Some(batch) = segments.next_batch().unwrap() {
                for message in batch {
                    assert!(is_it(&message.to_message(), seq), "{seq} from {from}");
                    seq += 1;
                }
                assert_eq!(segments.position(), seq);
            }
            assert_eq!(seq, next);
        }
        // Cut inside a bundle, whether that is wanted or below the position.
        for _ in 0..20 {
            let (first, begin, end) = rng.pick(&bundles);
            let cut = rng.between(begin + 1, end - 1);
            fs::write(dir.join("1.log"), &bytes[..cut]).unwrap();
            for from in [1, first, first + 10_000] {
                let mut segments = Segments::open(&dir).unwrap().start_at(from);
                let count = segments.by_ref().inspect(|message| assert!(message.is_ok())).count() as u64;
                assert_eq!(count, first.saturating_sub(from), "from {from}");
                assert_eq!(
                    segments.cut_tail(),
                    Some((dir.join("1.log").canonicalize().unwrap().as_path(), begin as u64))
                );
            }
        }
    });
}

#[test]
fn numbers_that_no_file_has_are_left_out_and_listed() {
    let (one, two) = (stored(None), stored(None).repeat(2));
    let files: [(&str, &[u8]); 4] =
        [("3-4_1.ilog", &two), ("5-5_1.ilog", &one), ("9-10_1.ilog", &two), ("12_1.log", &one)];
    let dir = directory("gaps", &files);
    let read = |from| {
        let mut segments = Segments::open(&dir).unwrap().start_at(from);
        let seqs: Vec<u64> = segments.by_ref().map(|message| message.unwrap().seq()).collect();
        let gaps: Vec<_> =
            segments.gaps().iter().map(|gap| (&*gap.topic, gap.partition, gap.first, gap.last)).collect();
        assert!(gaps.iter().all(|gap| (gap.0, gap.1) == ("t", 0)));
        (seqs, gaps.iter().map(|gap| (gap.2, gap.3)).collect::<Vec<_>>())
    };
    // What retention took from the beginning is no gap.
    assert_eq!(read(0), (vec![3, 4, 5, 9, 10, 12], vec![(6, 8), (11, 11)]));
    // What a position names is missed if it is gone, also by whoever stopped before it and continues now.
    assert_eq!(read(1), (vec![3, 4, 5, 9, 10, 12], vec![(1, 2), (6, 8), (11, 11)]));
    assert_eq!(read(7), (vec![9, 10, 12], vec![(7, 8), (11, 11)]));
    let mut segments = Segments::open(&dir).unwrap();
    assert_eq!(segments.by_ref().take(3).last().unwrap().unwrap().seq(), 5);
    let mut segments = segments.named("u", 1);
    assert_eq!((segments.by_ref().count(), segments.gaps().len()), (3, 2));
}

/// Listed again for each file, they would take minutes.
#[test]
fn thousands_of_files_are_listed_a_few_times_in_all() {
    within(60, || {
        // With every other number missing each file comes after a gap.
        for step in [1, 2] {
            let dir = directory(&format!("thousands{step}"), &[]);
            for n in 0..10_000 {
                let n = 1 + n * step;
                fs::write(dir.join(format!("{n}-{n}_1.ilog")), stored(None)).unwrap();
            }
            let mut segments = Segments::open(&dir).unwrap();
            assert_eq!(segments.by_ref().inspect(|message| assert!(message.is_ok())).count(), 10_000);
            assert_eq!(segments.gaps().len(), if step == 1 { 0 } else { 9_999 });
            fs::remove_dir_all(&dir).unwrap();
        }
    });
}

/// Names that no server gives: it ends with messages or an error all the same.
#[test]
fn files_of_absurd_names_are_left_alone() {
    within(30, || {
        let (dense, last) = (stored(None), stored(Some(u64::MAX - 1)));
        let two = [dense.clone(), dense.clone()].concat();
        let files: [(&[(&str, &[u8])], &[u64]); 7] = [
            (&[("5_1.log", b""), ("5_2.log", b"")], &[]),
            (&[("1_1.log", &dense), ("1_2.log", &dense)], &[1]),
            (&[("1_1.log", &dense), ("1_2.log", &two)], &[1, 2]),
            (&[("1-1_1.ilog", &dense), ("1-1_2.ilog", &dense), ("1-9.ilog.old", b"")], &[1]),
            (&[("18446744073709551614.log", &last)], &[u64::MAX - 1]),
            (&[("7.log", &last)], &[u64::MAX - 1]),
            (&[("1-18446744073709551615.ilog", &dense)], &[1]),
        ];
        for (index, (files, expected)) in files.into_iter().enumerate() {
            let segments = Segments::open(directory(&format!("absurd{index}"), files)).unwrap();
            let seqs: Vec<u64> = segments.map(|message| message.unwrap().seq()).collect();
            assert_eq!(seqs, expected, "{index}");
        }
        let refused: [&[(&str, &[u8])]; 4] = [
            // One message of those that the name promises is there, or none.
            &[("1-5.ilog", &dense), ("6.log", &dense)],
            &[("0-5.ilog", b""), ("6.log", &dense)],
            &[("0.log", &dense)],
            &[("18446744073709551615.log", &dense)],
        ];
        for (index, files) in refused.into_iter().enumerate() {
            let mut segments = Segments::open(directory(&format!("refused{index}"), files)).unwrap();
            let error = segments.find_map(Result::err);
            assert!(matches!(error, Some(Error { kind: ErrorKind::Corrupt { .. }, .. })), "{index}: {error:?}");
            assert!(segments.next().is_none());
        }
    });
}

#[test]
fn only_files_are_read() {
    within(30, || {
        let dir = directory("only", &[("1.log", &stored(None))]);
        fs::create_dir(dir.join("2.log")).unwrap();
        if cfg!(unix) {
            assert!(Command::new("mkfifo").arg(dir.join("3.log")).status().unwrap().success());
            for (from, to) in [("1_4.log", "1.log"), ("5.log", "2.log"), ("6.log", "3.log")] {
                let links = Command::new("ln").arg("-s").args([dir.join(to), dir.join(from)]).status();
                assert!(links.unwrap().success());
            }
        }
        let segments = Segments::open(&dir).unwrap();
        assert_eq!(segments.files().unwrap().len(), if cfg!(unix) { 2 } else { 1 });
        assert_eq!(segments.map(|message| message.unwrap().seq()).collect::<Vec<_>>(), [1]);
    });
}

#[test]
fn what_a_bundle_may_claim() {
    let message = Record::new(&[b'x'; 200]).timestamp_ms(1);
    let mut packed = dense_bundle(&[message, message], Compression::Snappy);
    packed.splice(..0, [packed.len() as u8]);
    for (index, (bytes, limits, expected)) in [
        (stored(None), Limits::default().bundle(11), Some(("bundle length", true))),
        (stored(None), Limits::default().bundle(12), None),
        (packed.clone(), Limits::default().message_set(300), Some(("decompressed length", true))),
        (packed.clone(), Limits::default().messages(1), Some(("message count", true))),
        (packed, Limits::default(), None),
        (vec![0; 20], Limits::default(), Some(("bundle length", false))),
        (vec![0x80; 20], Limits::default(), Some(("bundle length", false))),
        (vec![5, 0x80, 1, 2, 3, 4], Limits::default(), Some(("bundle flags", false))),
        // As good as the file's end: it may be that the rest is still to be written.
        (vec![0xff, 0xff, 0xff, 0xff, 0x0f, 4, 5, 6], Limits::default().bundle(u32::MAX), None),
    ]
    .into_iter()
    .enumerate()
    {
        let dir = directory(&format!("claims{index}"), &[("1.log", &bytes)]);
        let error = Segments::open(dir).unwrap().limits(limits).find_map(Result::err);
        let found = error.as_ref().map(|e| (malformed(e).field(), malformed(e).is_over_limit()));
        assert_eq!(found, expected, "{index}");
    }
}
