//! Recording what a program and a broker say, and playing the broker from it.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use tank_client::broker::{Broker, BrokerFault, Recorder, Replay};
use tank_client::{Client, Start, Stats, Subscription};

use common::alloc::peak_of;
use common::example::scratch;
use common::mutate;
use common::rng::seeded;

type Found = (Vec<(u16, u64, Vec<u8>)>, Stats);

/// A program whose messages come in several answers over several connections.
fn program(addr: SocketAddr, start: Start) -> tank_client::Result<Found> {
    let client = Client::builder().backoff(Duration::ZERO, Duration::ZERO).retry_timeout(Duration::from_secs(2));
    // A replay that is asked for something else waits for the rest of what it knows.
    let client = client.io_timeout(Duration::from_secs(5)).connect(addr)?;
    let what = Subscription::topic("orders").start(start).fetch_size(1000).stop_at_end();
    let mut messages = client.subscribe(what)?;
    let mut found = Vec::new();
    for message in messages.by_ref() {
        let message = message?;
        found.push((message.partition(), message.seq(), message.payload().to_vec()));
    }
    let mut stats = messages.stats();
    // These tell the time.
    stats.partitions.clear();
    stats.leaders.clear();
    Ok((found, stats))
}

fn broker() -> Broker {
    let broker = Broker::start().unwrap();
    broker.create_topic("orders", 2);
    for bundle in 0..100 {
        for partition in 0..2 {
            let payloads: Vec<_> = (0..20).map(|n| format!("{partition}/{bundle}/{n}")).collect();
            broker.append_payloads("orders", partition, &payloads);
        }
    }
    broker
}

#[test]
fn a_recorded_session_plays_again_without_the_broker() {
    let broker = broker();
    let file = scratch("capture");
    let recorder = Recorder::start(broker.addr(), &file).unwrap();
    broker.inject(BrokerFault::CutAfter(10_000));
    let found = program(recorder.addr(), Start::Earliest).unwrap();
    assert_eq!((found.0.len(), found.1.reconnects), (4000, 1));
    recorder.finish().unwrap();
    drop(broker);

    for _ in 0..3 {
        let replay = Replay::start(&file).unwrap();
        assert_eq!(program(replay.addr(), Start::Earliest).unwrap(), found);
        assert_eq!(replay.difference(), None);
    }
    // A program that asks for something else is told apart.
    let replay = Replay::start(&file).unwrap();
    assert!(program(replay.addr(), Start::At(2)).is_err());
    let difference = replay.difference().unwrap();
    assert!(difference.starts_with("connection "), "{difference}");

    // What is there of an unfinished capture plays, and what is none is refused.
    let whole = fs::read(&file).unwrap();
    for cut in [8, 9, 30, whole.len() / 2, whole.len() - 1] {
        fs::write(&file, &whole[..cut]).unwrap();
        Replay::start(&file).unwrap();
    }
    fs::write(&file, "hello").unwrap();
    assert_eq!(Replay::start(&file).unwrap_err().to_string(), "not a capture");
}

/// Numbers and lengths in a file take no memory that the file does not pay for.
#[test]
fn a_hostile_capture_holds_no_more_than_itself() {
    let file = scratch("hostile");
    let piece = |connection: u32, len: u32| {
        let mut piece = connection.to_le_bytes().to_vec();
        piece.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0, 0]);
        piece.extend_from_slice(&len.to_le_bytes());
        piece
    };
    let far_apart = (0..3000).map(|n| piece(n * 4096, 0)).collect::<Vec<_>>().concat();
    for pieces in [far_apart, piece(u32::MAX, 0), piece(0, u32::MAX)] {
        let bytes = [b"TANKCAP1".as_slice(), &pieces].concat();
        fs::write(&file, &bytes).unwrap();
        let (replay, peak) = peak_of(|| Replay::start(&file).unwrap());
        let most = (64 << 10) + 128 * bytes.len();
        assert!(peak <= most, "{peak} bytes held, {most} allowed");
        drop(replay);
    }
    fs::write(&file, [b"TANKCAP1".as_slice(), &[0, 0, 0, 0, 9], &[0; 12]].concat()).unwrap();
    assert_eq!(Replay::start(&file).unwrap_err().to_string(), "a damaged capture");
}

#[test]
fn a_damaged_capture_plays_as_far_as_it_goes_or_is_refused() {
    let broker = broker();
    let file = scratch("damaged");
    let recorder = Recorder::start(broker.addr(), &file).unwrap();
    program(recorder.addr(), Start::At(1900)).unwrap();
    recorder.finish().unwrap();
    let whole = fs::read(&file).unwrap();
    seeded(300, |rng| {
        let mut bytes = whole.clone();
        for _ in 0..rng.pick(&[1, 1, 3]) {
            mutate::damage(rng, &mut bytes, &whole);
        }
        fs::write(&file, bytes).unwrap();
        if let Err(e) = Replay::start(&file) {
            assert!(matches!(&*e.to_string(), "not a capture" | "a damaged capture"), "{e}");
        }
    });
}

#[test]
fn dropping_a_recorder_ends_the_connections_through_it() {
    let broker = broker();
    let recorder = Recorder::start(broker.addr(), scratch("dropped")).unwrap();
    let client = Client::builder().retry_timeout(Duration::ZERO).connect(recorder.addr()).unwrap();
    let mut tail = client.subscribe(Subscription::topic("orders")).unwrap();
    drop(recorder);
    assert!(tail.next().unwrap().is_err());
}
