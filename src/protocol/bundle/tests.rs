use super::*;
use DecodeFault as F;

fn cat(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

fn n64(value: u64) -> [u8; 8] {
    value.to_le_bytes()
}

fn limits() -> Limits {
    Limits::default().messages(1 << 20)
}

/// Codec, count, range and length.
type Head = (Codec, u32, Option<(u64, u64)>, usize);

fn header(bytes: &[u8]) -> Result<Head, (&'static str, F)> {
    BundleHeader::decode(&mut Cursor::new(bytes, 0), &limits())
        .map(|h| (h.codec, h.count, h.sparse, h.len))
        .map_err(|e| (e.field(), e.fault()))
}

const TOP: u64 = u64::MAX;

#[test]
fn headers_are_read_as_they_were_written() {
    let sparse = |flags, first, rest: &[u8]| cat(&[&[flags], &n64(first), rest]);
    let counted = |flags, count: &[u8], first, rest: &[u8]| cat(&[&[flags], count, &n64(first), rest]);
    let (none, snappy) = (Codec::None, Codec::Snappy);
    let table = [
        // Where the count stands.
        (vec![1 << 2], (none, 1, None, 1)),
        (vec![15 << 2 | 1], (snappy, 15, None, 1)),
        (vec![0, 16], (none, 16, None, 2)),
        (vec![0, 0x7f], (none, 127, None, 2)),
        (vec![0, 0x80, 1], (none, 128, None, 3)),
        (vec![1, 0xff, 0xff, 3], (snappy, 65_535, None, 4)),
        (vec![0, 0x80, 0x80, 0x40], (none, 1 << 20, None, 4)),
        // A small number in the varint, and more bytes than it needs, are unusual but legal.
        (vec![0, 1], (none, 1, None, 2)),
        (vec![0, 0x82, 0x80, 0], (none, 2, None, 4)),
        // Sparse: one message has no delta, two or more have.
        (sparse(1 << 6 | 1 << 2, 7, &[]), (none, 1, Some((7, 7)), 9)),
        (sparse(1 << 6 | 1 << 2, TOP - 1, &[]), (none, 1, Some((TOP - 1, TOP - 1)), 9)),
        (sparse(1 << 6 | 2 << 2, 7, &[0]), (none, 2, Some((7, 8)), 10)),
        (sparse(1 << 6 | 3 << 2, 7, &[1]), (none, 3, Some((7, 9)), 10)),
        (sparse(1 << 6 | 2 << 2, 1, &[0xff, 0xff, 0xff, 0xff, 0x0f]), (none, 2, Some((1, 1 << 32 | 1)), 14)),
        (counted(1 << 6 | 1, &[16], 1, &[14]), (snappy, 16, Some((1, 16)), 11)),
        (sparse(1 << 6 | 2 << 2, TOP - 2, &[0]), (none, 2, Some((TOP - 2, TOP - 1)), 10)),
    ];
    for (bytes, expected) in table {
        assert_eq!(header(&bytes), Ok(expected), "{bytes:02x?}");
        // What follows is not looked at; what is missing is missed, as the last field that is not whole.
        assert_eq!(header(&cat(&[&bytes, &[0xff; 20]])), Ok(expected), "{bytes:02x?}");
        for cut in 0..bytes.len() {
            let e = header(&bytes[..cut]);
            assert!(matches!(e, Err((_, F::Short { .. }))), "{bytes:02x?} cut at {cut}: {e:?}");
        }
    }
}

#[test]
fn headers_that_cannot_be_are_refused() {
    let sparse = |count: u8, first, delta: &[u8]| cat(&[&[1 << 6 | count << 2], &n64(first), delta]);
    let range = |seq, low, high| ("sequence number", F::SeqRange { seq, low, high });
    let count = |fault| ("message count", fault);
    let table = [
        (vec![1 << 7 | 1 << 2], ("bundle flags", F::Unsupported { value: 0x84 })),
        (vec![2 | 1 << 2], ("bundle codec", F::Unsupported { value: 2 })),
        (vec![3 | 1 << 2], ("bundle codec", F::Unsupported { value: 3 })),
        (vec![0, 0], count(F::Undefined { value: 0 })),
        (vec![0, 0x80, 0], count(F::Undefined { value: 0 })),
        (vec![0, 0x81, 0x80, 0x40], count(F::OverLimit { claimed: (1 << 20) + 1, limit: 1 << 20 })),
        (vec![0, 0xff, 0xff, 0xff, 0xff, 0x0f], count(F::OverLimit { claimed: 0xffff_ffff, limit: 1 << 20 })),
        (vec![0, 0xff, 0xff, 0xff, 0xff, 0x10], count(F::Varint)),
        (vec![0, 0x80, 0x80, 0x80, 0x80, 0x80], count(F::Varint)),
        (sparse(1, 0, &[]), range(0, 1, TOP - 1)),
        (sparse(2, 0, &[5]), range(0, 1, TOP - 1)),
        (sparse(1, TOP, &[]), range(TOP, TOP, TOP - 1)),
        (sparse(2, TOP - 1, &[0]), range(TOP, TOP, TOP - 1)),
        (sparse(2, TOP, &[0]), range(TOP, 1, TOP - 1)),
        (sparse(2, TOP - 1, &[1]), range(TOP - 1, 1, TOP - 1)),
        (sparse(3, 10, &[0]), range(11, 12, TOP - 1)),
        (sparse(15, 10, &[12]), range(23, 24, TOP - 1)),
        (sparse(2, 10, &[0xff, 0xff, 0xff, 0xff, 0x1f]), ("last delta", F::Varint)),
    ];
    for (bytes, expected) in table {
        assert_eq!(header(&bytes), Err(expected), "{bytes:02x?}");
    }
}

#[test]
fn ranges_of_dense_bundles() {
    let dense = |count| BundleHeader { codec: Codec::None, count, sparse: None, len: 1 };
    let range = |count, next| dense(count).range(next, 0).map_err(|e| e.fault());
    assert_eq!(range(1, Some(1)), Ok((1, 1)));
    assert_eq!(range(3, Some(5)), Ok((5, 7)));
    assert_eq!(range(1, Some(TOP - 1)), Ok((TOP - 1, TOP - 1)));
    assert_eq!(range(2, Some(TOP - 2)), Ok((TOP - 2, TOP - 1)));
    // All ones is never assigned.
    assert_eq!(range(1, Some(TOP)), Err(F::SeqRange { seq: TOP, low: 1, high: TOP - 1 }));
    assert_eq!(range(2, Some(TOP - 1)), Err(F::SeqRange { seq: TOP - 1, low: 1, high: TOP - 2 }));
    assert_eq!(range(9, Some(TOP - 3)), Err(F::SeqRange { seq: TOP - 3, low: 1, high: TOP - 9 }));
    // Nothing to count from: after 0xfe, and a base of 0 as in front of empty chunks.
    let nothing = Err(F::Unexpected { found: 0, expected: 64 });
    assert_eq!((range(1, None), range(1, Some(0))), (nothing, nothing));
    let sparse = BundleHeader { sparse: Some((4, 9)), ..dense(2) };
    assert_eq!((sparse.range(None, 0), sparse.range(Some(77), 0)), (Ok((4, 9)), Ok((4, 9))), "its own numbers count");
}

/// Number, time stamp, key and payload.
type Seen = (u64, u64, Option<Vec<u8>>, Vec<u8>);

fn set(bytes: &[u8], count: u32, first: u64, last: u64) -> MessageSet<'_> {
    MessageSet { bytes, at: 0, count, first, last, sparse: false, cut: false }
}

fn decode(set: MessageSet<'_>, from: u64, to: u64) -> (Vec<Seen>, Option<(&'static str, F)>) {
    let mut entries = Vec::new();
    let result = set.decode(from, to, &mut entries);
    let seen = |e: &Entry| {
        (e.seq, e.timestamp_ms, e.key().map(|key| set.bytes[key].to_vec()), set.bytes[e.payload()].to_vec())
    };
    (entries.iter().map(seen).collect(), result.err().map(|e| (e.field(), e.fault())))
}

/// A message without key, by its flags, what stands before the payload, and the payload.
fn message(flags: u8, before: &[u8], payload: &[u8]) -> Vec<u8> {
    cat(&[&[flags], before, &[payload.len() as u8], payload])
}

#[test]
fn every_combination_of_dense_message_flags() {
    // Bit 2 means nothing in a dense bundle, nor do the upper ones anywhere.
    for flags in 0..=255u8 {
        let time: &[u8] = if flags & 2 == 0 { &n64(77) } else { &[] };
        let key: &[u8] = if flags & 1 == 1 { &[2, b'k', b'y'] } else { &[] };
        let bytes = cat(&[&message(0, &n64(5), b"a"), &message(flags, &cat(&[time, key]), b"b")]);
        let (seen, error) = decode(set(&bytes, 2, 1, 2), 0, TOP);
        let second = (2, if flags & 2 == 0 { 77 } else { 5 }, (flags & 1 == 1).then(|| b"ky".to_vec()), b"b".to_vec());
        assert_eq!((seen, error), (vec![(1, 5, None, b"a".to_vec()), second], None), "{flags:#x}");
    }
}

#[test]
fn a_shared_time_stamp_is_that_of_the_message_before() {
    let times = |bytes: &[u8], count: u32, from| {
        let (seen, error) = decode(set(bytes, count, 1, count.into()), from, TOP);
        assert_eq!(error, None);
        seen.iter().map(|message| message.1).collect::<Vec<_>>()
    };
    // On the first message there is none to share.
    assert_eq!(times(&cat(&[&message(2, &[], b""), &message(2, &[], b"")]), 2, 0), [0, 0]);
    assert_eq!(
        times(&cat(&[&message(2, &[], b""), &message(0, &n64(9), b""), &message(2, &[], b"")]), 3, 0),
        [0, 9, 9]
    );
    // The last one encoded counts, also where its message is not delivered.
    let bytes =
        cat(&[&message(0, &n64(9), b""), &message(2, &[], b""), &message(0, &n64(3), b""), &message(2, &[], b"")]);
    assert_eq!(times(&bytes, 4, 0), [9, 9, 3, 3]);
    assert_eq!((times(&bytes, 4, 2), times(&bytes, 4, 4)), (vec![9, 3, 3], vec![3]));
    assert_eq!(times(&message(0, &n64(TOP), b""), 1, 0), [TOP]);
}

#[test]
fn only_numbers_asked_for_are_delivered() {
    let bytes = message(2, &[], b"x").repeat(5);
    let seqs = |from, to| {
        let (seen, error) = decode(set(&bytes, 5, 10, 14), from, to);
        assert_eq!(error, None);
        seen.iter().map(|message| message.0).collect::<Vec<_>>()
    };
    assert_eq!(seqs(0, TOP), [10, 11, 12, 13, 14]);
    assert_eq!((seqs(10, 14), seqs(12, 12)), (vec![10, 11, 12, 13, 14], vec![12]));
    assert_eq!((seqs(14, TOP), seqs(0, 10)), (vec![14], vec![10]));
    assert_eq!((seqs(15, TOP), seqs(0, 9), seqs(13, 11)), (vec![], vec![], vec![]));
}

#[test]
fn messages_fill_their_set_exactly() {
    let one = message(2, &[], b"xyz");
    let short = |field, needed, left| Some((field, F::Short { needed, left }));
    let spare = |extra| Some(("message set", F::Spare { extra }));
    let table: [(&[u8], u32, usize, _); 12] = [
        (&one, 1, 1, None),
        (&one.repeat(2), 2, 2, None),
        (&one.repeat(2), 1, 1, spare(5)),
        (&one.repeat(2), 3, 2, short("message flags", 1, 0)),
        (&cat(&[&one, &[0]]), 1, 1, spare(1)),
        (&[], 1, 0, short("message flags", 1, 0)),
        (&[0, 1, 2, 3], 1, 0, short("time stamp", 8, 3)),
        (&[3], 1, 0, short("key", 1, 0)),
        (&[3, 4, b'k'], 1, 0, short("key", 4, 1)),
        (&[2, 0x80], 1, 0, short("payload length", 2, 1)),
        (&[2, 4, 1, 2, 3], 1, 0, short("payload", 4, 3)),
        (&[2, 0xff, 0xff, 0xff, 0xff, 0x1f], 1, 0, Some(("payload length", F::Varint))),
    ];
    for (bytes, count, found, error) in table {
        let (seen, e) = decode(set(bytes, count, 1, count.into()), 0, TOP);
        assert_eq!((seen.len(), e), (found, error), "{count} in {bytes:02x?}");
        // In a cut bundle, an incomplete message is no error; one that no further bytes could make valid still is.
        let (seen, e) = decode(MessageSet { cut: true, ..set(bytes, count, 1, count.into()) }, 0, TOP);
        let certain = match error {
            Some((_, F::Short { .. })) => None,
            None => spare(1),
            Some((field, F::Spare { extra })) => Some((field, F::Spare { extra: extra + 1 })),
            other => other,
        };
        assert_eq!((seen.len(), e), (found, certain), "{count} in {bytes:02x?}, cut");
    }
}

#[test]
fn numbers_of_sparse_bundles() {
    // Flags and, where bit 2 does not stand for it, the delta of each message; first and last number; the numbers or the error.
    type Row<'a> = (&'a [(u8, &'a [u8])], u64, u64, Result<&'a [u64], (u64, u64, u64)>);
    let table: [Row<'_>; 17] = [
        (&[(2, &[])], 7, 7, Ok(&[7])),
        (&[(6, &[])], 7, 7, Ok(&[7])),
        (&[(2, &[]), (2, &[])], 7, 9, Ok(&[7, 9])),
        (&[(2, &[]), (6, &[])], 7, 8, Ok(&[7, 8])),
        (&[(2, &[]), (2, &[0]), (2, &[])], 7, 9, Ok(&[7, 8, 9])),
        (&[(2, &[]), (2, &[4]), (2, &[])], 7, 50, Ok(&[7, 12, 50])),
        (&[(6, &[]), (6, &[]), (6, &[])], 7, 9, Ok(&[7, 8, 9])),
        (&[(2, &[]), (6, &[]), (2, &[]), (2, &[])], 7, 50, Err((0, 0, 0))),
        (&[(2, &[]), (6, &[]), (2, &[0x80, 1]), (2, &[])], 7, 1000, Ok(&[7, 8, 137, 1000])),
        // As far as the numbers after it leave room, and one beyond.
        (&[(2, &[]), (2, &[2]), (2, &[])], 7, 11, Ok(&[7, 10, 11])),
        (&[(2, &[]), (2, &[3]), (2, &[])], 7, 11, Err((11, 8, 10))),
        (&[(2, &[]), (2, &[1]), (2, &[0]), (2, &[])], 7, 10, Err((9, 8, 8))),
        // Bit 2 on the last one must agree with the header.
        (&[(2, &[]), (6, &[])], 7, 9, Err((8, 9, 9))),
        (&[(2, &[]), (2, &[5]), (6, &[])], 7, 14, Ok(&[7, 13, 14])),
        (&[(2, &[]), (2, &[5]), (6, &[])], 7, 15, Err((14, 15, 15))),
        // The top of the range.
        (&[(2, &[]), (2, &[0xff, 0xff, 0xff, 0xff, 0x0f]), (2, &[])], TOP - 3, TOP - 1, Err((TOP, TOP - 2, TOP - 2))),
        (&[(2, &[]), (6, &[]), (2, &[])], TOP - 3, TOP - 1, Ok(&[TOP - 3, TOP - 2, TOP - 1])),
    ];
    for (messages, first, last, expected) in table {
        let bytes: Vec<u8> = messages.iter().flat_map(|(flags, delta)| message(*flags, delta, b"")).collect();
        let sparse = MessageSet { sparse: true, ..set(&bytes, messages.len() as u32, first, last) };
        let (seen, error) = decode(sparse, 0, TOP);
        let seqs: Vec<u64> = seen.iter().map(|message| message.0).collect();
        match expected {
            Ok(expected) => assert_eq!((seqs.as_slice(), error), (expected, None), "{messages:?}"),
            // A delta that is missing lets the set end elsewhere.
            Err((0, 0, 0)) => assert!(matches!(error, Some((_, F::Short { .. }))), "{messages:?}: {error:?}"),
            Err((seq, low, high)) => {
                assert_eq!(error, Some(("sequence number", F::SeqRange { seq, low, high })), "{messages:?}");
            }
        }
    }
}

/// What the builder makes of messages with these payloads: all of the bundle.
fn build(payloads: &[&[u8]], compression: Compression) -> Vec<u8> {
    let mut builder = BundleBuilder::default();
    for payload in payloads {
        builder.push(&RawMessage { timestamp_ms: 1, key: None, payload }).unwrap();
    }
    let mut out = Vec::new();
    builder.finish(compression, &mut out).unwrap();
    out
}

#[test]
fn the_builder_counts_in_the_flags_up_to_15() {
    for (count, header) in [
        (1, &[1 << 2][..]),
        (15, &[15 << 2]),
        (16, &[0, 16]),
        (127, &[0, 127]),
        (128, &[0, 0x80, 1]),
        (16_383, &[0, 0xff, 0x7f]),
        (16_384, &[0, 0x80, 0x80, 1]),
        (65_535, &[0, 0xff, 0xff, 3]),
    ] {
        let bundle = build(&vec![&b""[..]; count], Compression::None);
        assert_eq!(&bundle[..header.len()], header);
        assert_eq!(bundle.len(), header.len() + 8 + 2 * count, "one time stamp, shared by all");
    }
}

#[test]
fn the_builder_packs_what_is_worth_it() {
    let packed = |payloads: &[&[u8]], compression| build(payloads, compression)[0] & 3 == 1;
    let text = vec![b'x'; 1025];
    assert!(!packed(&[&text[..1024]], Compression::Auto) && packed(&[&text], Compression::Auto));
    assert!(!packed(&[&b""[..]; 512], Compression::Auto) && packed(&[&b""[..]; 513], Compression::Auto));
    assert!(packed(&[b"x"], Compression::Snappy) && !packed(&[&text], Compression::None));
    let mut state = 1u32;
    let random = [(); 1025].map(|()| {
        state = state.wrapping_mul(1_103_515_245).wrapping_add(12_345);
        (state >> 16) as u8
    });
    assert!(!packed(&[&random], Compression::Auto), "it would have become longer");
    assert!(packed(&[&random], Compression::Snappy));
}

#[test]
fn a_bundle_is_the_same_in_memory_of_its_own_and_in_that_of_the_builder() {
    let mut taken = BundleBuilder::default();
    for (numbered, payload) in [(false, 10), (true, 10), (false, LARGE - 100), (false, LARGE), (true, LARGE)] {
        for count in [1, 2, 200] {
            for compression in [Compression::None, Compression::Snappy, Compression::None] {
                let (mut finished, payload) = (BundleBuilder::default(), vec![b'x'; payload]);
                for n in 0..count {
                    let raw =
                        RawMessage { timestamp_ms: n, payload: &payload[..payload.len() / count as usize], key: None };
                    for builder in [&mut finished, &mut taken] {
                        if numbered { builder.push_at(n + 5, &raw) } else { builder.push(&raw) }.unwrap();
                    }
                }
                let mut whole = Vec::new();
                let spare = Vec::with_capacity(7);
                let is_kept = compression == Compression::None && taken.set.len() >= LARGE;
                let kept = is_kept.then_some(taken.set.as_ptr());
                finished.finish(compression, &mut whole).unwrap();
                let (memory, at) = taken.take(compression, spare).unwrap();
                assert!(memory[at..] == whole && taken.count() == 0 && taken.set_len() == 0);
                assert!(kept.is_none_or(|kept| kept == memory.as_ptr()), "not copied");
            }
        }
    }
}

#[test]
fn the_builder_refuses_what_has_no_place() {
    let mut builder = BundleBuilder::default();
    let plain = RawMessage::default();
    let mut out = vec![9];
    let e = builder.finish(Compression::Auto, &mut out).unwrap_err();
    assert_eq!((e.field, e.given, e.min), ("messages in a bundle", 0, 1));
    let e = builder.push(&RawMessage { key: Some(&[0; 256]), ..plain }).unwrap_err();
    assert_eq!((e.field, e.given, e.max), ("key, bytes", 256, 255));
    builder.push(&RawMessage { key: Some(&[0; 255]), ..plain }).unwrap();
    assert_eq!((out.as_slice(), builder.count()), (&[9][..], 1));
    builder.clear();
    assert_eq!(builder.count(), 0);

    for seq in [0, TOP] {
        let e = builder.push_at(seq, &plain).unwrap_err();
        assert_eq!((e.field, e.given, e.min, e.max), ("sequence number", seq, 1, TOP - 1));
    }
    builder.push_at(10, &plain).unwrap();
    for seq in [0, 9, 10, 11 + (1 << 32)] {
        let e = builder.push_at(seq, &plain).unwrap_err();
        assert_eq!((e.given, e.min, e.max), (seq, 11, 10 + (1 << 32)));
    }
    builder.push_at(10 + (1 << 32), &plain).unwrap();
    assert_eq!((builder.count(), builder.sparse_range()), (2, Some((10, 10 + (1 << 32)))));
    builder.finish(Compression::None, &mut out).unwrap();
    assert_eq!(header(&out[1..]), Ok((Codec::None, 2, Some((10, 10 + (1 << 32))), 14)));
    builder.push_at(TOP - 1, &plain).unwrap();
    assert!(builder.push_at(TOP, &plain).is_err());
}
