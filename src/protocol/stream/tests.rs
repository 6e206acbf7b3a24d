use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::bundle::MessageSet;
use super::super::chunk::Good;
use super::super::fetch::{FetchHeader, FetchPartition, FetchTopic, TopicAnswer};
use super::super::frame::PING;
use super::*;
use DecodeFault as F;

const TOP: u64 = u64::MAX;

fn request(request_id: u32, topics: &[(&str, &[(u16, u64)])]) -> FetchRequest {
    let partition = |&(partition, seq): &(u16, u64)| FetchPartition { partition, seq, fetch_size: 1000 };
    let topic = |&(name, partitions): &(&str, &[(u16, u64)])| FetchTopic {
        name: name.into(),
        partitions: partitions.iter().map(partition).collect(),
    };
    FetchRequest {
        client_version: 2,
        request_id,
        client_id: Arc::from(""),
        max_wait_ms: 0,
        min_bytes: 0,
        flags: 0,
        topics: topics.iter().map(topic).collect(),
    }
}

fn answer(request_id: u32, topics: &[(&str, &[(u16, PartitionAnswer)])], chunks: &[u8]) -> Vec<u8> {
    let topic = |&(name, partitions): &(&str, &[(u16, PartitionAnswer)])| TopicAnswer {
        name: name.into(),
        partitions: partitions.to_vec(),
    };
    let mut out = Vec::new();
    FetchHeader { request_id, topics: topics.iter().map(topic).collect() }.encode(&mut out).unwrap();
    out.extend_from_slice(chunks);
    out
}

fn data(base: Option<u64>, high_water_mark: u64, len: usize) -> PartitionAnswer {
    PartitionAnswer::Data { base, high_water_mark, len: len as u32 }
}

/// A decoder, and the requests that are not answered.
struct Reader {
    decoder: FetchDecoder,
    requests: BTreeMap<u32, FetchRequest>,
}

impl Reader {
    fn new(limits: Limits) -> Reader {
        Reader { decoder: FetchDecoder::new(limits), requests: BTreeMap::new() }
    }

    fn expect(&mut self, request: FetchRequest) {
        self.requests.insert(request.request_id, request);
    }

    fn step(&mut self, input: &[u8], bundles: &mut Vec<Bundle>) -> Result<(usize, Step), DecodeError> {
        let step = self.decoder.step(input, &|id| self.requests.get(&id), bundles);
        if let Ok((_, Step::Event(Event::End { request_id }))) = step {
            self.requests.remove(&request_id).expect("a request that was not answered");
        }
        step
    }
}

/// What is found in an answer, in the order of its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Bundle(Bundle),
    Event(Event),
}

/// All that is found up to a need or an error, and how many bytes were needed at the end.
fn events(decoder: &mut Reader, mut bytes: &[u8]) -> (Vec<Seen>, Result<usize, DecodeError>) {
    let mut seen = Vec::new();
    loop {
        let mut bundles = Vec::new();
        let stepped = decoder.step(bytes, &mut bundles);
        assert_eq!(matches!(stepped, Ok((_, Step::Bundles))), !bundles.is_empty());
        seen.extend(bundles.into_iter().map(Seen::Bundle));
        let used = match stepped {
            Ok((used, Step::Event(event))) => {
                seen.push(Seen::Event(event));
                used
            }
            Ok((used, Step::Bundles)) => used,
            Ok((_, Step::Need(n))) => return (seen, Ok(n)),
            Err(e) => return (seen, Err(e)),
        };
        bytes = &bytes[used..];
    }
}

/// What a chunk comes to: first and last number of each bundle reported, and the end or the offending field.
type Outcome = (Vec<(u64, u64)>, Result<ChunkEnd, (&'static str, F)>);

fn chunk_with(limits: Limits, base: Option<u64>, from: u64, mark: u64, chunk: &[u8]) -> Outcome {
    let mut decoder = Reader::new(limits);
    decoder.expect(request(5, &[("t", &[(0, from)])]));
    let bytes = answer(5, &[("t", &[(0, data(base, mark, chunk.len()))])], chunk);
    let (events, result) = events(&mut decoder, &bytes);
    let bundles = events.iter().filter_map(|event| match event {
        Seen::Bundle(bundle) => Some((bundle.first, bundle.last)),
        _ => None,
    });
    let end = events.iter().find_map(|event| match event {
        Seen::Event(Event::ChunkEnd { end, .. }) => Some(*end),
        _ => None,
    });
    let end = match result {
        Ok(need) => {
            assert_eq!((need, decoder.requests.len()), (HEADER_LEN, 0));
            Ok(end.expect("a chunk ends"))
        }
        Err(e) => {
            assert_eq!((e.partition(), end), (Some(("t", 0)), None));
            Err((e.field(), e.fault()))
        }
    };
    (bundles.collect(), end)
}

fn chunk(base: u64, from: u64, mark: u64, chunk: &[u8]) -> Outcome {
    chunk_with(Limits::default(), Some(base), from, mark, chunk)
}

/// A bundle with this many empty messages, after its length.
fn dense(count: u8) -> Vec<u8> {
    [&[1 + 2 * count, count << 2][..], &[2, 0].repeat(count.into())].concat()
}

fn sparse(first: u64, last: u64) -> Vec<u8> {
    let count = if first == last { 1 } else { 2 };
    let delta = if first == last { vec![] } else { vec![(last - first - 1) as u8] };
    let set = [2, 0].repeat(count.into());
    let head = [&[1 << 6 | count << 2][..], &first.to_le_bytes(), &delta].concat();
    [&[(head.len() + set.len()) as u8][..], &head, &set].concat()
}

const WHOLE: Result<ChunkEnd, (&str, F)> = Ok(ChunkEnd::Whole);
const ABOVE: Result<ChunkEnd, (&str, F)> = Ok(ChunkEnd::AboveMark);
const CUT_LENGTH: Result<ChunkEnd, (&str, F)> = Ok(ChunkEnd::Cut { bundle_len: None });

fn cut(bundle_len: u64) -> Result<ChunkEnd, (&'static str, F)> {
    Ok(ChunkEnd::Cut { bundle_len: Some(bundle_len) })
}

#[test]
fn numbers_go_on_from_bundle_to_bundle() {
    let two = [dense(3), dense(2)].concat();
    assert_eq!(chunk(10, 0, 100, &two), (vec![(10, 12), (13, 14)], WHOLE));
    // After a sparse bundle they continue from its last number, regardless of its count.
    let mixed = [dense(1), sparse(20, 29), dense(2), sparse(32, 32), sparse(90, 91), dense(1)].concat();
    let all = vec![(10, 10), (20, 29), (30, 31), (32, 32), (90, 91), (92, 92)];
    assert_eq!(chunk(10, 0, 100, &mixed), (all, WHOLE));
    // A sparse first bundle overrides the base, in front of which it may stand or not.
    for base in [None, Some(0), Some(5), Some(TOP)] {
        let outcome = chunk_with(Limits::default(), base, 0, 100, &[sparse(7, 9), dense(1)].concat());
        assert_eq!(outcome, (vec![(7, 9), (10, 10)], WHOLE), "{base:?}");
    }
}

#[test]
fn numbers_never_run_backwards() {
    let backwards = |seq, low| Err(("first sequence number", F::SeqRange { seq, low, high: TOP - 1 }));
    assert_eq!(chunk(10, 0, 100, &[dense(3), sparse(13, 13)].concat()), (vec![(10, 12), (13, 13)], WHOLE));
    assert_eq!(chunk(10, 0, 100, &[dense(3), sparse(12, 13)].concat()), (vec![(10, 12)], backwards(12, 13)));
    assert_eq!(chunk(10, 0, 100, &[sparse(5, 9), sparse(9, 20)].concat()), (vec![(5, 9)], backwards(9, 10)));
    // Bundles that are skipped count as well.
    assert_eq!(chunk(10, 50, 100, &[dense(3), sparse(1, 60)].concat()), (vec![], backwards(1, 13)));
}

#[test]
fn a_dense_bundle_needs_a_number_to_count_from() {
    let nothing = Err(("bundle flags", F::Unexpected { found: 0, expected: 64 }));
    assert_eq!(chunk_with(Limits::default(), None, 0, 100, &dense(1)), (vec![], nothing));
    assert_eq!(chunk(0, 0, 100, &dense(1)), (vec![], nothing));
    let beyond = |seq, high| Err(("sequence number", F::SeqRange { seq, low: 1, high }));
    assert_eq!(chunk(TOP - 1, 0, TOP, &dense(1)), (vec![(TOP - 1, TOP - 1)], WHOLE));
    assert_eq!(chunk(TOP - 1, 0, TOP, &dense(2)), (vec![], beyond(TOP - 1, TOP - 2)));
    assert_eq!(chunk(TOP - 1, 0, TOP, &dense(1).repeat(2)), (vec![(TOP - 1, TOP - 1)], beyond(TOP, TOP - 1)));
}

#[test]
fn bundles_below_the_wanted_number_are_passed_over() {
    let three = dense(3).repeat(3);
    assert_eq!(chunk(1, 1, 100, &three), (vec![(1, 3), (4, 6), (7, 9)], WHOLE));
    assert_eq!(chunk(1, 3, 100, &three), (vec![(1, 3), (4, 6), (7, 9)], WHOLE));
    assert_eq!(chunk(1, 4, 100, &three), (vec![(4, 6), (7, 9)], WHOLE));
    assert_eq!(chunk(1, 9, 100, &three), (vec![(7, 9)], WHOLE));
    assert_eq!(chunk(1, 10, 100, &three), (vec![], WHOLE));
    assert_eq!(chunk(1, TOP - 1, 100, &three), (vec![], WHOLE));
    // A request for the tail wants everything that arrives.
    assert_eq!(chunk(1, TOP, 100, &three), (vec![(1, 3), (4, 6), (7, 9)], WHOLE));
    // A codec without meaning is one also where nothing is wanted; the contents are not looked at.
    let codec = Err(("bundle codec", F::Unsupported { value: 2 }));
    assert_eq!(chunk(1, 50, 100, &[3, 1 << 2 | 2, 0, 0]), (vec![], codec));
    assert_eq!(chunk(1, 50, 100, &[3, 1 << 2 | 1, 0xff, 0xff]), (vec![], WHOLE));
}

#[test]
fn nothing_above_the_mark_is_reported() {
    let three = dense(3).repeat(3);
    assert_eq!(chunk(1, 1, 9, &three), (vec![(1, 3), (4, 6), (7, 9)], WHOLE));
    assert_eq!(chunk(1, 1, 8, &three), (vec![(1, 3), (4, 6), (7, 9)], ABOVE));
    assert_eq!(chunk(1, 1, 7, &three), (vec![(1, 3), (4, 6), (7, 9)], ABOVE));
    assert_eq!(chunk(1, 1, 6, &three), (vec![(1, 3), (4, 6)], ABOVE));
    assert_eq!(chunk(1, 1, 1, &three), (vec![(1, 3)], ABOVE));
    assert_eq!(chunk(1, 1, 0, &three), (vec![], ABOVE));
    assert_eq!(chunk(1, 1, 14, &[sparse(5, 14), sparse(15, 15)].concat()), (vec![(5, 14)], ABOVE));
    // What follows is skipped, regardless of what it is.
    assert_eq!(chunk(1, 1, 3, &[dense(3), dense(1), vec![0; 9]].concat()), (vec![(1, 3)], ABOVE));
    assert_eq!(chunk(1, 1, 2, &[dense(3), vec![0; 9]].concat()), (vec![(1, 3)], ABOVE));
}

#[test]
fn a_chunk_may_end_inside_its_last_bundle() {
    let long = [&[0x83, 1, 0, 16][..], &[0; 128]].concat();
    let packed = [8, 1, 16, 0, 0, 0, 0, 0, 0];
    let after = |bytes: &[u8]| chunk(1, 1, 100, &[&dense(2), bytes].concat());
    // In its length: how long it is nobody knows.
    assert_eq!(after(&long[..1]), (vec![(1, 2)], CUT_LENGTH));
    assert_eq!(after(&[0xff, 0xff, 0xff, 0xff]), (vec![(1, 2)], CUT_LENGTH));
    // In its header, after it, and in its set.
    assert_eq!(after(&long[..2]), (vec![(1, 2)], cut(133)));
    assert_eq!(after(&long[..3]), (vec![(1, 2)], cut(133)));
    assert_eq!(after(&long[..4]), (vec![(1, 2), (3, 18)], cut(133)));
    assert_eq!(after(&long[..20]), (vec![(1, 2), (3, 18)], cut(133)));
    assert_eq!(after(&sparse(9, 11)[..10]), (vec![(1, 2)], cut(15)));
    assert_eq!(after(&sparse(9, 11)[..11]), (vec![(1, 2), (9, 11)], cut(15)));
    // Of what is compressed nothing can be had.
    assert_eq!(after(&packed[..8]), (vec![(1, 2)], cut(9)));
    // Below the wanted number it only tells its length.
    assert_eq!(chunk(1, 50, 100, &long[..20]), (vec![], cut(133)));
    // At the mark it is as good as whole, across it the cut comes first.
    assert_eq!(chunk(1, 1, 0, &long[..20]), (vec![], ABOVE));
    assert_eq!(chunk(1, 1, 5, &long[..20]), (vec![(1, 16)], cut(133)));
    // What no byte that is missing can mend is an error.
    assert_eq!(after(&[0]).1, Err(("bundle length", F::Undefined { value: 0 })));
    assert_eq!(after(&[9, 1 << 7]).1, Err(("bundle flags", F::Unsupported { value: 0x80 })));
    assert_eq!(after(&[9, 3]).1, Err(("bundle codec", F::Unsupported { value: 3 })));
    assert_eq!(after(&[9, 0, 0]).1, Err(("message count", F::Undefined { value: 0 })));
}

#[test]
fn the_last_byte_of_a_chunk_makes_the_difference() {
    let bundle = dense(3);
    for len in 1..bundle.len() {
        let (bundles, end) = chunk(1, 1, 100, &bundle[..len]);
        assert_eq!((bundles.len(), end), (usize::from(len > 1), cut(8)), "{len} of {}", bundle.len());
    }
    assert_eq!(chunk(1, 1, 100, &bundle), (vec![(1, 3)], WHOLE));
    // One byte more is the length of the next one.
    assert_eq!(chunk(1, 1, 100, &[&bundle[..], &[1]].concat()), (vec![(1, 3)], cut(2)));
}

#[test]
fn lengths_and_headers_stay_inside_their_containers() {
    let one = |bytes: &[u8]| chunk(1, 1, 100, bytes).1;
    assert_eq!(one(&[0]), Err(("bundle length", F::Undefined { value: 0 })));
    assert_eq!(one(&[0x80, 0]), Err(("bundle length", F::Undefined { value: 0 })));
    assert_eq!(one(&[0xff, 0xff, 0xff, 0xff, 0x10]), Err(("bundle length", F::Varint)));
    assert_eq!(one(&[0x80, 0x80, 0x80, 0x80, 0x80]), Err(("bundle length", F::Varint)));
    assert_eq!(one(&[0x83, 0x80, 0, 1 << 2, 2, 0]), WHOLE, "more bytes than it needs");
    let short = |field, needed, left| Err((field, F::Short { needed, left }));
    assert_eq!(one(&[1, 0, 16]), short("message count", 1, 0));
    assert_eq!(one(&[2, 0, 0x80, 1]), short("message count", 2, 1));
    assert_eq!(one(&[5, 1 << 6 | 1 << 2, 1, 0, 0, 0, 0, 0, 0, 0]), short("first sequence number", 8, 4));
    assert_eq!(one(&[9, 1 << 6 | 2 << 2, 1, 0, 0, 0, 0, 0, 0, 0, 5, 5]), short("last delta", 1, 0));
}

#[test]
fn limits_hold_for_bundles() {
    let with = |limits, chunk: &[u8]| chunk_with(limits, Some(1), 1, 100, chunk);
    let over = |field, claimed, limit| Err((field, F::OverLimit { claimed, limit }));
    let limits = || Limits::default().bundle(7).messages(3);
    assert_eq!(with(limits(), &dense(3)), (vec![(1, 3)], WHOLE));
    assert_eq!(with(limits().bundle(6), &dense(3)), (vec![], over("bundle length", 7, 6)));
    assert_eq!(with(limits().messages(2), &dense(3)), (vec![], over("message count", 3, 2)));
    // A bundle that is skipped may be long. One that is cut must be requested again, and is then refused.
    assert_eq!(chunk_with(limits().bundle(6), Some(1), 4, 100, &dense(3)), (vec![], WHOLE));
    assert_eq!(with(limits().bundle(6), &dense(3)[..6]), (vec![(1, 3)], cut(8)));
}

#[test]
fn answers_come_in_the_order_of_the_request() {
    let asked = request(5, &[("a", &[(3, 1), (1, 1)]), ("gone", &[(0, 1), (9, 1)]), ("b", &[(0, 1)])]);
    let one = dense(1);
    let unknown = PartitionAnswer::UnknownTopic;
    let bytes = answer(
        5,
        &[
            ("a", &[(3, data(Some(1), 9, one.len())), (1, PartitionAnswer::NoLeader)]),
            ("gone", &[(0, unknown), (9, unknown)]),
            ("b", &[(0, data(Some(7), 9, one.len()))]),
        ],
        &one.repeat(2),
    );
    let mut decoder = Reader::new(Limits::default());
    decoder.expect(asked.clone());
    let (seen, result) = events(&mut decoder, &bytes);
    assert_eq!(result, Ok(HEADER_LEN));
    let answers = seen.iter().filter_map(|event| match event {
        Seen::Event(Event::Partition { slot, answer }) => Some((*slot, *answer)),
        _ => None,
    });
    let all =
        [data(Some(1), 9, 4), PartitionAnswer::NoLeader, unknown, unknown, data(Some(7), 9, 4)].into_iter().enumerate();
    assert!(answers.eq(all));
    let chunks = seen.iter().filter_map(|event| match event {
        Seen::Bundle(bundle) => Some((bundle.owner as usize, bundle.first)),
        Seen::Event(Event::ChunkEnd { slot, end: ChunkEnd::Whole }) => Some((*slot, 0)),
        _ => None,
    });
    assert_eq!(chunks.collect::<Vec<_>>(), [(0, 1), (0, 0), (4, 7), (4, 0)]);
    assert_eq!(
        (&seen[0], &seen[10]),
        (&Seen::Event(Event::Response { request_id: 5 }), &Seen::Event(Event::End { request_id: 5 }))
    );

    // Anything else is refused, and said to be.
    let refused = |topics: &[(&str, &[(u16, PartitionAnswer)])]| {
        let mut decoder = Reader::new(Limits::default());
        decoder.expect(asked.clone());
        let e = events(&mut decoder, &answer(5, topics, &[])).1.unwrap_err();
        (e.field(), e.fault())
    };
    let none = PartitionAnswer::NoLeader;
    let (a, gone): (&[_], &[_]) = (&[(3, none), (1, none)], &[(0, none), (9, none)]);
    let unexpected = |found, expected| F::Unexpected { found, expected };
    assert_eq!(refused(&[("a", a), ("gone", gone)]), ("topic count", unexpected(2, 3)));
    assert_eq!(
        refused(&[("a", a), ("gone", gone), ("b", &[(0, none)]), ("c", &[])]),
        ("topic count", unexpected(4, 3))
    );
    assert_eq!(refused(&[("a", a), ("b", &[(0, none)]), ("gone", gone)]), ("topic name", F::Name));
    assert_eq!(refused(&[("a", a), ("a", a), ("b", &[(0, none)])]), ("topic name", F::Name));
    assert_eq!(refused(&[("a", &a[..1]), ("gone", gone), ("b", &[(0, none)])]), ("partition count", unexpected(1, 2)));
    let swapped = [(1, none), (3, none)];
    assert_eq!(refused(&[("a", &swapped), ("gone", gone), ("b", &[(0, none)])]), ("partition id", unexpected(1, 3)));
    let twice = [(3, none), (3, none)];
    assert_eq!(refused(&[("a", &twice), ("gone", gone), ("b", &[(0, none)])]), ("partition id", unexpected(3, 1)));
}

#[test]
fn frames_and_headers_are_measured() {
    let good = answer(5, &[("t", &[(0, PartitionAnswer::SystemError)])], &[]);
    let refused = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        let mut decoder = Reader::new(Limits::default().fetch_frame(1000).fetch_header(100));
        decoder.expect(request(4, &[("t", &[(0, 0)])]));
        decoder.expect(request(5, &[("t", &[(0, 0)])]));
        let e = events(&mut decoder, &bytes).1.unwrap_err();
        assert_eq!(decoder.requests.len(), 2);
        (e.field(), e.fault())
    };
    let put = |bytes: &mut Vec<u8>, at: usize, value: u32| bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    let (frame, header) = (good.len() as u64 - 5, good.len() as u64 - 9);
    let unexpected = |found, expected| F::Unexpected { found, expected };
    let over = |claimed, limit| F::OverLimit { claimed, limit };
    assert_eq!(refused(&|b| b[0] = 1), ("message id", unexpected(1, 2)));
    assert_eq!(refused(&|b| b[0] = 4), ("message id", F::Undefined { value: 4 }));
    assert_eq!(refused(&|b| put(b, 1, 1001)), ("frame length", over(1001, 1000)));
    assert_eq!(refused(&|b| put(b, 1, u32::MAX)), ("frame length", over(u32::MAX.into(), 1000)));
    assert_eq!(refused(&|b| put(b, 1, 7)), ("header length", F::Short { needed: 8, left: 7 }));
    assert_eq!(
        refused(&|b| put(b, 5, header as u32 + 1)),
        ("header length", F::Short { needed: frame + 1, left: frame })
    );
    let wraps = F::Short { needed: (1 << 32) + 3, left: frame };
    assert_eq!(refused(&|b| put(b, 5, u32::MAX)), ("header length", wraps));
    assert_eq!(refused(&|b| put(b, 5, 3)), ("header length", F::Short { needed: 4, left: 3 }));
    assert_eq!(refused(&|b| put(b, 5, 4)), ("topic count", F::Short { needed: 1, left: 0 }));
    assert_eq!(refused(&|b| put(b, 5, header as u32 - 1)), ("err_flags", F::Short { needed: 1, left: 0 }));
    let long = |b: &mut Vec<u8>| {
        put(b, 1, 200);
        put(b, 5, 101);
    };
    assert_eq!(refused(&long), ("header length", over(101, 100)));
    assert_eq!(refused(&|b| put(b, 9, 6)), ("request id", F::Undefined { value: 6 }));
    // A byte more in the payload, then in the header.
    let spare = |b: &mut Vec<u8>| {
        put(b, 1, frame as u32 + 1);
        b.push(0);
    };
    assert_eq!(refused(&spare), ("answer", F::Spare { extra: 1 }));
    assert_eq!(
        refused(&|b| {
            spare(b);
            put(b, 5, header as u32 + 1)
        }),
        ("answer header", F::Spare { extra: 1 })
    );
    assert_eq!(refused(&|b| *b = vec![3, 101, 0, 0, 0]), ("frame length", over(101, 100)));
}

#[test]
fn err_flags_that_nobody_sends() {
    let bytes = answer(5, &[("t", &[(7, PartitionAnswer::SystemError)])], &[]);
    let decode = |flags| {
        let mut decoder = Reader::new(Limits::default());
        decoder.expect(request(5, &[("t", &[(7, 0)])]));
        let mut bytes = bytes.clone();
        *bytes.last_mut().unwrap() = flags;
        events(&mut decoder, &bytes).1
    };
    for flags in 0..=0xffu8 {
        match flags {
            0xfb | 0xfd | 0xff => assert_eq!(decode(flags), Ok(HEADER_LEN)),
            0x00 | 0x01 | 0xfc | 0xfe => assert!(matches!(decode(flags).unwrap_err().fault(), F::Short { .. })),
            _ => {
                let e = decode(flags).unwrap_err();
                assert_eq!((e.field(), e.fault()), ("err_flags", F::Undefined { value: flags.into() }));
                assert_eq!(e.partition(), Some(("t", 7)));
            }
        }
    }
}

#[test]
fn a_boundary_fault_has_no_chunk() {
    let fault = PartitionAnswer::OutOfRange { high_water_mark: 9, first_available: 3 };
    let decode = |len: u32| {
        let mut decoder = Reader::new(Limits::default());
        decoder.expect(request(5, &[("t", &[(7, 50)])]));
        let mut bytes = answer(5, &[("t", &[(7, fault)])], &[]);
        let field = bytes.len() - 12;
        bytes[field..field + 4].copy_from_slice(&len.to_le_bytes());
        let (seen, result) = events(&mut decoder, &bytes);
        (seen.get(1).cloned(), result.map_err(|e| (e.field(), e.fault())))
    };
    assert_eq!(decode(0), (Some(Seen::Event(Event::Partition { slot: 0, answer: fault })), Ok(HEADER_LEN)));
    let unexpected = F::Unexpected { found: 1, expected: 0 };
    assert_eq!(decode(1), (None, Err(("chunk length of a boundary fault", unexpected))));
}

#[test]
fn the_chunks_use_the_payload_up() {
    let one = dense(1);
    let decode = |first: usize, second: u32, chunks: &[u8]| {
        let mut decoder = Reader::new(Limits::default());
        decoder.expect(request(5, &[("t", &[(0, 0), (1, 0)])]));
        let answers = [(0, data(Some(1), 9, first)), (1, data(Some(1), 9, 0))];
        let mut bytes = answer(5, &[("t", &answers)], chunks);
        // Lengths that an encoder refuses to lie about.
        let field = bytes.len() - chunks.len() - 4;
        bytes[field..field + 4].copy_from_slice(&second.to_le_bytes());
        let payload = bytes.len() as u32 - 5;
        bytes[1..5].copy_from_slice(&payload.to_le_bytes());
        events(&mut decoder, &bytes).1.map_err(|e| (e.field(), e.fault()))
    };
    let short = |needed, left| Err(("chunk length", F::Short { needed, left }));
    assert_eq!(decode(4, 4, &one.repeat(2)), Ok(HEADER_LEN));
    assert_eq!(decode(4, 5, &one.repeat(2)), short(9, 8));
    assert_eq!(decode(4, 3, &one.repeat(2)), Err(("answer", F::Spare { extra: 1 })));
    assert_eq!(decode(0, 0, &one), Err(("answer", F::Spare { extra: 4 })));
    // In 32 bits they would add up to what is there.
    assert_eq!(decode(8, u32::MAX - 3, &one), short((1 << 32) + 4, 4));
}

#[test]
fn pings_stand_between_frames_and_are_passed_over() {
    let bytes = answer(5, &[("t", &[(0, PartitionAnswer::NoLeader)])], &[]);
    let mut decoder = Reader::new(Limits::default());
    assert_eq!(decoder.step(&PING.repeat(3), &mut Vec::new()), Ok((15, Step::Need(HEADER_LEN))));
    assert_eq!(decoder.step(&[3, 2, 0, 0, 0, 9], &mut Vec::new()), Ok((6, Step::Need(1))));
    decoder.expect(request(5, &[("t", &[(0, 0)])]));
    let (seen, result) = events(&mut decoder, &[&[9][..], &PING, &bytes, &PING].concat());
    assert_eq!((seen.len(), result), (3, Ok(HEADER_LEN)));
}

#[test]
fn requests_are_answered_in_any_order_and_once() {
    let bytes = |id| answer(id, &[("t", &[(0, PartitionAnswer::NoLeader)])], &[]);
    let mut decoder = Reader::new(Limits::default());
    (1..=3).for_each(|id| decoder.expect(request(id, &[("t", &[(0, 0)])])));
    let (seen, result) = events(&mut decoder, &[bytes(3), bytes(1), bytes(3)].concat());
    let ends = seen.iter().filter(|event| matches!(event, Seen::Event(Event::End { .. })));
    assert_eq!(ends.cloned().collect::<Vec<_>>(), [3, 1].map(|request_id| Seen::Event(Event::End { request_id })));
    let e = result.unwrap_err();
    assert_eq!((e.field(), e.fault()), ("request id", F::Undefined { value: 3 }));
    assert_eq!(decoder.step(&bytes(2), &mut Vec::new()), Err(e), "an error is not got over");
    assert_eq!(decoder.requests.len(), 1);
}

/// The first number, last number and bundle count of each report, when up to this many messages are joined.
fn joined(most: u32, from: u64, mark: u64, chunk: &[u8]) -> Vec<(u64, u64, u32)> {
    joined_from(10, most, from, mark, chunk)
}

fn joined_from(base: u64, most: u32, from: u64, mark: u64, chunk: &[u8]) -> Vec<(u64, u64, u32)> {
    let bytes = answer(5, &[("t", &[(0, data(Some(base), mark, chunk.len()))])], chunk);
    let reported = |most| {
        let mut decoder = Reader::new(Limits::default());
        decoder.decoder.join_up_to(most);
        decoder.expect(request(5, &[("t", &[(0, from)])]));
        events(&mut decoder, &bytes)
    };
    let bundle = |seen: &Seen| match seen {
        Seen::Bundle(bundle) => Some((bundle.first, bundle.last, bundle.bundles, bundle.count)),
        Seen::Event(_) => None,
    };
    let ((seen, end), (alone, alone_end)) = (reported(most), reported(0));
    assert_eq!(end, alone_end);
    let bundles: Vec<_> = seen.iter().filter_map(bundle).collect();
    let alone: Vec<_> = alone.iter().filter_map(bundle).collect();
    assert_eq!(bundles.iter().map(|joined| joined.2 as usize).sum::<usize>(), alone.len());
    assert_eq!(bundles.iter().map(|joined| joined.3).sum::<u32>(), alone.iter().map(|alone| alone.3).sum::<u32>());
    bundles.into_iter().map(|(first, last, bundles, _)| (first, last, bundles)).collect()
}

#[test]
fn small_bundles_are_joined() {
    let ones = dense(1).repeat(7);
    // With its count written out after the flags, and compressed.
    let long = [4, 0, 1, 2, 0].to_vec();
    let packed = [5, 1 << 2 | 1, 2, 1 << 2, 2, 0].to_vec();
    let many = [&[34, 0, 16][..], &[2, 0].repeat(16)].concat();
    assert_eq!(joined(0, 0, 99, &ones).len(), 7);
    assert_eq!(joined(1, 0, 99, &ones).len(), 7);
    assert_eq!(joined(256, 0, 99, &ones), [(10, 16, 7)]);
    assert_eq!(joined(3, 0, 99, &ones), [(10, 12, 3), (13, 15, 3), (16, 16, 1)]);
    assert_eq!(joined(256, 0, 99, &[dense(15), dense(2)].concat()), [(10, 26, 2)]);
    assert_eq!(joined(16, 0, 99, &[dense(15), dense(2)].concat()), [(10, 24, 1), (25, 26, 1)]);
    // Those that are wanted in part, or not at all, stand alone.
    assert_eq!(joined(256, 13, 99, &ones), [(13, 16, 4)]);
    assert_eq!(joined(256, 11, 99, &[dense(3), dense(1), dense(1)].concat()), [(10, 12, 1), (13, 14, 2)]);
    assert_eq!(joined(256, 0, 12, &ones), [(10, 12, 3)]);
    assert_eq!(joined(256, 0, 12, &[dense(1), dense(1), dense(2)].concat()), [(10, 11, 2), (12, 13, 1)]);
    // So do others than small dense plain ones.
    for (other, next) in [(sparse(12, 12), 13), (sparse(20, 21), 22), (long, 13), (packed, 13), (many, 28)] {
        let chunk = [dense(1), dense(1), other, dense(1), dense(1)].concat();
        let reported = joined(256, 0, 99, &chunk);
        assert_eq!((reported.len(), reported[0], reported[2]), (3, (10, 11, 2), (next, next + 1, 2)));
    }
    // At the top of the range they end where others do.
    for mark in [TOP - 1, TOP] {
        let two = dense(2).repeat(3);
        assert_eq!(joined_from(TOP - 6, 256, 0, mark, &two), [(TOP - 6, TOP - 1, 3)]);
        assert_eq!(joined_from(TOP - 5, 256, 0, mark, &two), [(TOP - 5, TOP - 2, 2)]);
        assert_eq!(joined_from(TOP - 4, 256, 0, mark, &two), [(TOP - 4, TOP - 1, 2)]);
    }
    assert_eq!(joined_from(0, 256, 0, 99, &ones), []);
    // And the last one, if the chunk ends inside it.
    assert_eq!(joined(256, 0, 99, &ones[..ones.len() - 1]), [(10, 15, 6), (16, 16, 1)]);
}

#[test]
fn joined_bundles_stay_within_the_limits() {
    let two = dense(2).repeat(3);
    let len = (dense(2).len() - 1) as u32;
    let default = Limits::default;
    for (limits, field) in [
        (default().bundle(len), None),
        (default().bundle(len - 1), Some("bundle length")),
        (default().messages(2), None),
        (default().messages(1), Some("message count")),
    ] {
        let mut decoder = Reader::new(limits);
        decoder.decoder.join_up_to(u32::MAX);
        decoder.expect(request(5, &[("t", &[(0, 1)])]));
        let bytes = answer(5, &[("t", &[(0, data(Some(10), 99, two.len()))])], &two);
        let (seen, e) = events(&mut decoder, &bytes);
        assert_eq!(e.as_ref().err().map(|e| e.field()), field);
        assert_eq!(seen.iter().any(|seen| matches!(seen, Seen::Bundle(_))), field.is_none());
    }
}

#[test]
fn joined_bundles_beyond_the_last_wanted_number_are_not_looked_at() {
    let bad = [3, 2 << 2, 2, 0].to_vec();
    let chunk = [dense(2), dense(2), bad].concat();
    let mut decoder = Reader::new(Limits::default());
    decoder.decoder.join_up_to(256);
    decoder.expect(request(5, &[("t", &[(0, 1)])]));
    let (seen, _) = events(&mut decoder, &answer(5, &[("t", &[(0, data(Some(10), 99, chunk.len()))])], &chunk));
    let found = seen.into_iter().find_map(|seen| match seen {
        Seen::Bundle(bundle) => Some(bundle),
        Seen::Event(_) => None,
    });
    let joined = found.expect("a bundle");
    assert_eq!((joined.bundles, joined.last), (3, 15));
    for (to, expected, bundles, is_bad) in [(10, 1, 1, false), (12, 3, 2, false), (13, 4, 2, false), (14, 4, 2, true)] {
        let (mut entries, mut good) = (Vec::new(), Good::default());
        let decoded = Bundle { to, ..joined.clone() }.decode(&chunk, 0, &mut entries, &mut good);
        assert_eq!((entries.len(), good.bundles, decoded.is_err()), (expected, bundles, is_bad), "up to {to}");
    }
}

#[test]
fn of_joined_bundles_the_good_ones_count() {
    let good = dense(2);
    // Too short for its messages, too long for them, and with a payload that would reach into the next bundle.
    let bad = [[3, 2 << 2, 2, 0].to_vec(), [6, 2 << 2, 2, 0, 2, 0, 0].to_vec(), [5, 2 << 2, 2, 0, 2, 1].to_vec()];
    for bad in bad {
        for (place, expected) in [(0, 0), (1, 2), (3, 6)] {
            let mut bundles = vec![good.clone(); 4];
            bundles[place] = bad.clone();
            let chunk = bundles.concat();
            let mut decoder = Reader::new(Limits::default());
            decoder.decoder.join_up_to(256);
            decoder.expect(request(5, &[("t", &[(0, 1)])]));
            let bytes = answer(5, &[("t", &[(0, data(Some(10), 99, chunk.len()))])], &chunk);
            let (seen, _) = events(&mut decoder, &bytes);
            let found = seen.iter().find_map(|seen| match seen {
                Seen::Bundle(bundle) => Some(bundle),
                Seen::Event(_) => None,
            });
            let bundle = found.expect("a bundle");
            assert_eq!(bundle.bundles, 4);
            let (mut entries, mut is_good) = (Vec::new(), Good::default());
            let e = bundle.decode(&chunk, 0, &mut entries, &mut is_good).unwrap_err();
            let before = (expected, expected as u64 / 2, (place * good.len()) as u64);
            assert_eq!((entries.len(), is_good.bundles, is_good.bytes), before, "{bad:?} in place {place}");
            // The same as if it stood alone.
            let set = MessageSet { bytes: &bad[2..], at: 0, count: 2, first: 1, last: 2, sparse: false, cut: false };
            let alone = set.decode(1, 2, &mut Vec::new()).unwrap_err();
            assert_eq!((e.field(), e.fault(), e.at()), (alone.field(), alone.fault(), alone.at()));
        }
    }
}
