//! Peers that lie: whatever comes, the end is an event or an error that names the field, and neither memory nor work
//! goes beyond what the bytes that really came are worth.

mod others;
mod table;

use std::time::{Duration, Instant};

use common::alloc::peak_of;
use common::captures::{self, Capture};
use common::feed::{Feeder, Found, Unpacker};
use common::generate::{self, Shape, one_chunk, put_varint};
use common::mutate;
use common::rng::{Rng, seeded};
use tank_client::Limits;
use tank_client::protocol::fetch::FetchRequest;
use tank_client::protocol::stream::Event;
use tank_client::protocol::{DecodeError, DecodeFault, varint};

/// Decodes everything as a consumer does, with one buffer for message sets; the number of messages, or the error.
fn consume(requests: &[FetchRequest], bytes: &[u8], limits: &Limits) -> (usize, usize, Option<DecodeError>) {
    let mut feeder = Feeder::new(requests, bytes, limits);
    let mut unpacker = Unpacker::default();
    let mut messages = 0;
    feeder.arrive(usize::MAX);
    loop {
        let found = feeder.step().and_then(|step| {
            if let Found::Bundle(bundle) = &step {
                let set = &bytes[bundle.set.clone()];
                let unpacked = unpacker.entries(bundle, set, limits).map(<[_]>::len);
                // Of a bad one none is left; it may have begun with as many as its bytes can hold.
                messages += unpacked.as_ref().map_or((bundle.count as usize).min(set.len() / 2), |&count| count);
                unpacked?;
            }
            Ok(step)
        });
        match found {
            Ok(Found::Event(_) | Found::Bundle(_)) => {}
            Ok(Found::Need(_)) => return (messages, feeder.steps, None),
            Err(e) => return (messages, feeder.steps, Some(e)),
        }
    }
}

/// As [`consume`], held to what memory and work may cost.
fn check(requests: &[FetchRequest], bytes: &[u8], what: &dyn Fn() -> String) -> Option<DecodeError> {
    let before = Instant::now();
    let ((messages, steps, error), peak) = peak_of(|| consume(requests, bytes, &Limits::default()));
    let slots: usize = requests.iter().map(|request| request.slots().count()).sum();
    // A message that really came has an entry of 32 bytes, of which a growing vector holds up to three times as many.
    let most = (64 << 10) + 32 * bytes.len() + 96 * messages;
    assert!(peak <= most, "{}: {peak} bytes held, {most} allowed", what());
    assert!(steps <= bytes.len() + 2 * slots + 8, "{}: {steps} steps for {} bytes", what(), bytes.len());
    assert!(before.elapsed() < Duration::from_secs(10), "{}", what());
    error
}

fn good() -> impl Iterator<Item = (&'static Capture, Vec<u8>)> {
    let good = captures::consuming().filter(|capture| !capture.hostile());
    good.map(|capture| (capture, capture.stream()))
}

#[test]
fn recorded_lies_are_refused() {
    let mut refused = 0;
    for capture in captures::consuming().filter(|capture| capture.hostile()) {
        refused += usize::from(check(&capture.fetches(), &capture.stream(), &|| capture.name.clone()).is_some());
    }
    assert_eq!(refused, 38);
}

/// Every length and every count is among the bytes that are replaced here, whichever they are.
#[test]
fn a_lie_in_every_place_costs_no_more_than_its_bytes() {
    let mut lies = 0;
    // The longest ones only have more of the same, and so does what lies further on.
    for (capture, stream) in good().filter(|(_, stream)| stream.len() < 600) {
        let requests = capture.answered_fetches();
        let mut bytes = stream.clone();
        for at in 0..stream.len().min(160) {
            for width in [1, 2, 4].into_iter().filter(|width| at + width <= stream.len()) {
                let mut field = [0; 8];
                field[..width].copy_from_slice(&stream[at..at + width]);
                let (value, max) = (u64::from_le_bytes(field), u64::MAX >> (64 - 8 * width));
                for lie in [0, 1, max, max - 1, value.wrapping_add(1) & max, value.wrapping_sub(1) & max] {
                    bytes[at..at + width].copy_from_slice(&lie.to_le_bytes()[..width]);
                    check(&requests, &bytes, &|| format!("{}: {lie} in {width} bytes at {at}", capture.name));
                    lies += 1;
                }
            }
            bytes[at..(at + 4).min(stream.len())].copy_from_slice(&stream[at..(at + 4).min(stream.len())]);
        }
    }
    assert!(lies > 150_000, "{lies}");
}

#[test]
fn a_long_varint_in_every_place_is_refused_or_bounded() {
    for (capture, stream) in good().filter(|(_, stream)| (1..200).contains(&stream.len())) {
        let requests = capture.answered_fetches();
        for at in 0..stream.len() {
            for varint in [&[0x80; 6][..], &[0xff; 5], &[0xff, 0xff, 0xff, 0xff, 0x0f], &[0x80, 0x80, 0x80, 0x80, 0]] {
                for over in [0, 1] {
                    let mut bytes = stream.clone();
                    bytes.splice(at..at + over, varint.iter().copied());
                    mutate::mend_lengths(&mut bytes);
                    check(&requests, &bytes, &|| format!("{}: {varint:02x?} at {at}", capture.name));
                }
            }
        }
    }
}

#[test]
fn chance_damage_costs_no_more_than_its_bytes() {
    let recorded: Vec<_> = good().filter(|(_, stream)| !stream.is_empty()).collect();
    seeded(5000, |rng| {
        let (requests, mut bytes) = if rng.one_in(2) {
            let (capture, stream) = &recorded[rng.below(recorded.len())];
            (capture.answered_fetches(), stream.clone())
        } else {
            let exchange = generate::exchange(rng, Shape { messages: 40, ..Shape::SMALL });
            (vec![exchange.request], exchange.frame)
        };
        for _ in 0..rng.between(1, 4) {
            mutate::damage(rng, &mut bytes, &recorded[0].1);
        }
        mutate::mend_lengths(&mut bytes);
        check(&requests, &bytes, &|| "damage".into());
    });
}

/// A chunk of one compressed bundle with this many messages in its header.
fn packed_chunk(count: u32, packed: &[u8]) -> Vec<u8> {
    let mut bundle = vec![1];
    varint::encode(count, &mut bundle);
    bundle.extend_from_slice(packed);
    let mut chunk = Vec::new();
    put_varint(bundle.len() as u64, &mut chunk);
    chunk.extend_from_slice(&bundle);
    chunk
}

#[test]
fn snappy_bombs_do_not_go_off() {
    let announced = |len: u32, rest: &[u8]| {
        let mut packed = Vec::new();
        varint::encode(len, &mut packed);
        packed.extend_from_slice(rest);
        packed
    };
    // Tags that copy 64 bytes from one byte before: as much as Snappy can make of its input.
    let copies = |n: usize| [&[0, b'x'][..], &[0xfe, 1, 0].repeat(n)].concat();
    for (packed, field) in [
        (announced(u32::MAX, &[]), "decompressed length"),
        (announced(u32::MAX, &copies(1000)), "decompressed length"),
        (announced(256 << 20, &copies(1000)), "decompressed length"),
        (announced(22 * 3010, &copies(1000)), "decompressed length"),
        (announced(64_000, &copies(1000)), "message set"),
        (announced(64_001, &copies(999)), "message set"),
        (announced(0, &copies(1)), "message set"),
        (announced(1, &[]), "message set"),
        (vec![0xff; 10], "message set"),
        (vec![], "message set"),
    ] {
        let (request, bytes) = one_chunk(1, Some(1), 100, &packed_chunk(16, &packed));
        let e = check(&[request], &bytes, &|| format!("{packed:02x?}")).unwrap();
        assert_eq!(e.field(), field, "{e}: {:02x?}", &packed[..packed.len().min(10)]);
    }
    // As much as Snappy can, and true.
    let mut set = vec![0; 9];
    put_varint(100_000, &mut set);
    set.resize(set.len() + 100_000, b'x');
    let packed = snap::raw::Encoder::new().compress_vec(&set).unwrap();
    assert!(set.len() > 21 * packed.len());
    let (request, bytes) = one_chunk(1, Some(1), 100, &packed_chunk(1, &packed));
    assert_eq!(check(&[request], &bytes, &|| "true".into()), None);
}

/// What goes beyond a limit is refused on the announcement, before the rest is waited for or room is made for it.
#[test]
fn each_limit_is_held_to_the_unit() {
    let bundle = [&[4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 89][..], &[b'x'; 89]].concat();
    let (request, plain) = one_chunk(1, Some(1), 100, &[&[100][..], &bundle].concat());
    let (_, many) = one_chunk(1, Some(1), 100, &packed_chunk(1000, &[0; 30]));
    let header = u32::from_le_bytes(plain[5..9].try_into().unwrap());
    let frame = u32::from_le_bytes(plain[1..5].try_into().unwrap());
    let set = snap::raw::Encoder::new().compress_vec(&[0; 1000]).unwrap();
    let (_, packed) = one_chunk(1, Some(1), 100, &packed_chunk(16, &set));
    let (requests, all) = (std::slice::from_ref(&request), Limits::default());
    let table = [
        (
            plain.as_slice(),
            5,
            all.clone().fetch_frame(frame - 1),
            "frame length",
            u64::from(frame),
            u64::from(frame - 1),
        ),
        (&plain, 13, all.clone().fetch_header(header - 1), "header length", header.into(), (header - 1).into()),
        (&plain, plain.len() - 81, all.clone().bundle(99), "bundle length", 100, 99),
        (&many, many.len() - 14, all.clone().messages(999), "message count", 1000, 999),
        (&packed, packed.len(), all.clone().message_set(999), "decompressed length", 1000, 999),
    ];
    for (bytes, from, limits, field, claimed, limit) in table {
        let (_, _, error) = consume(requests, bytes, &limits);
        let e = error.unwrap_or_else(|| panic!("{field} is accepted"));
        assert_eq!((e.field(), e.fault()), (field, DecodeFault::OverLimit { claimed, limit }));
        assert!(e.is_over_limit());
        let (_, _, error) = consume(requests, &bytes[..from], &limits);
        assert_eq!(error, Some(e), "seen on the first {from} bytes");
    }
    assert_eq!(consume(requests, &plain, &all.bundle(100).fetch_header(header).fetch_frame(frame)).2, None);
}

/// How long this thread computes, whatever else the machine does meanwhile.
#[cfg(unix)]
fn time(run: &dyn Fn()) -> Duration {
    use rustix::time::{ClockId, clock_gettime};
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    };
    let start = now();
    run();
    now() - start
}

#[cfg(not(unix))]
fn time(run: &dyn Fn()) -> Duration {
    let start = Instant::now();
    run();
    start.elapsed()
}

fn in_pieces(request: FetchRequest, bytes: Vec<u8>, piece: usize) -> Box<dyn Fn()> {
    Box::new(move || {
        let limits = Limits::default();
        let mut feeder = Feeder::new(std::slice::from_ref(&request), &bytes, &limits);
        let (mut events, start) = (0, Instant::now());
        loop {
            assert!(feeder.steps % 256 > 0 || start.elapsed() < Duration::from_secs(20));
            match feeder.step().unwrap() {
                Found::Event(Event::End { .. }) => break,
                Found::Event(_) | Found::Bundle(_) => events += 1,
                Found::Need(_) => feeder.arrive(feeder.arrived() + piece),
            }
        }
        assert!(events > 0);
    })
}

/// Sixteen times the bytes take some sixteen times the work; were anything looked at again for each new byte, it would be
/// over two hundred times. How often bytes are offered is counted in `mutation`; what is done with them only time tells.
#[test]
fn work_grows_with_the_bytes_alone() {
    let bundles = |n: usize, len: usize| {
        let mut bundle = vec![4, 2];
        put_varint(len as u64, &mut bundle);
        bundle.resize(bundle.len() + len, b'x');
        let mut chunk = Vec::new();
        for _ in 0..n {
            put_varint(bundle.len() as u64, &mut chunk);
            chunk.extend_from_slice(&bundle);
        }
        chunk
    };
    let large_bundle = |n: usize| {
        let (request, bytes) = one_chunk(1, Some(1), u64::MAX, &bundles(1, 2000 * n));
        in_pieces(request, bytes, 1)
    };
    let many_bundles = |n: usize| {
        let (request, bytes) = one_chunk(1, Some(1), u64::MAX, &bundles(30 * n, 3));
        in_pieces(request, bytes, 1)
    };
    let skipped = |n: usize| {
        let (request, bytes) = one_chunk(1 << 40, Some(1), u64::MAX, &bundles(30 * n, 3));
        in_pieces(request, bytes, 7)
    };
    let pings = |n: usize| {
        let (request, bytes) = one_chunk(1, Some(1), u64::MAX, &bundles(1, 1));
        in_pieces(request, [[3, 0, 0, 0, 0].repeat(300 * n), bytes].concat(), 3)
    };
    let long_ping = |n: usize| {
        let (request, bytes) = one_chunk(1, Some(1), u64::MAX, &bundles(1, 1));
        let len = 250 * n as u32;
        in_pieces(request, [&[3][..], &len.to_le_bytes(), &vec![0; 250 * n], &bytes].concat(), 1)
    };
    let header = |n: usize| {
        let mut rng = Rng::new(1);
        let shape = Shape { topics: 1, partitions: 1, bundles: 0, ..Shape::SMALL };
        let mut exchange = generate::exchange(&mut rng, shape);
        // With a name of this length the header takes several bytes for each of its partitions.
        exchange.request = generate::request(&mut rng, n, 1);
        let bytes = generate::unknown_topics(&exchange.request);
        in_pieces(exchange.request, bytes, 1)
    };
    type Case<'a> = (&'a str, &'a dyn Fn(usize) -> Box<dyn Fn()>);
    let cases: [Case<'_>; 6] = [
        ("a large bundle, byte by byte", &large_bundle),
        ("many bundles, byte by byte", &many_bundles),
        ("bundles to skip", &skipped),
        ("pings", &pings),
        ("a long ping", &long_ping),
        ("a header of many topics, byte by byte", &header),
    ];
    for (name, case) in cases {
        let (short, long) = (case(8), case(128));
        // Other threads may take the cache away; what is looked at again spoils every attempt.
        assert!((0..5).any(|_| time(&*long) < time(&*short) * 80), "{name}");
    }
}
