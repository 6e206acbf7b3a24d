//! Recording what a program and a broker say, and playing the broker from it.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use tank_client::broker::{Broker, BrokerFault, Recorder, Replay};
use tank_client::protocol::frame::HEADER_LEN;
use tank_client::{Client, Start, Stats, Subscription};

use common::alloc::peak_of;
use common::captures;
use common::example::scratch;
use common::mutate;
use common::rng::seeded;

type Found = (Vec<(u16, u64, Vec<u8>)>, Stats);

/// A program whose messages come in several answers over several connections.
fn program(addr: SocketAddr, start: Start, fetch_size: u32) -> tank_client::Result<Found> {
    let client = Client::builder().backoff(Duration::ZERO, Duration::ZERO).retry_timeout(Duration::from_secs(2));
    // A replay that is asked for something else waits for the rest of what it knows.
    let client = client.io_timeout(Duration::from_secs(5)).connect(addr)?;
    let what = Subscription::topic("orders").start(start).fetch_size(fetch_size).stop_at_end();
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
    let found = program(recorder.addr(), Start::Earliest, 1000).unwrap();
    assert_eq!((found.0.len(), found.1.reconnects), (4000, 1));
    recorder.finish().unwrap();
    drop(broker);

    // How much is asked for at a time may differ: it follows how busy the machine and the line are.
    for fetch_size in [1000, 1000, 2000] {
        let replay = Replay::start(&file).unwrap();
        assert_eq!(program(replay.addr(), Start::Earliest, fetch_size).unwrap(), found);
        assert_eq!(replay.difference(), None);
    }
    // A program that asks for something else is told apart.
    let replay = Replay::start(&file).unwrap();
    assert!(program(replay.addr(), Start::At(2), 1000).is_err());
    let difference = replay.difference().unwrap();
    assert!(difference.starts_with("connection "), "{difference}");

    // What is there of an unfinished capture plays, and what is none is refused.
    let whole = fs::read(&file).unwrap();
    for cut in [1, 9, 300, whole.len() / 2, whole.len() - 1] {
        fs::write(&file, &whole[..cut]).unwrap();
        Replay::start(&file).unwrap();
    }
    fs::write(&file, "hello").unwrap();
    assert_eq!(Replay::start(&file).unwrap_err().to_string(), "not a capture");
}

/// The next frame that comes.
fn frame(stream: &mut TcpStream) -> Vec<u8> {
    let mut frame = vec![0; HEADER_LEN];
    stream.read_exact(&mut frame).unwrap();
    let len = u32::from_le_bytes(frame[1..].try_into().unwrap());
    stream.take(len.into()).read_to_end(&mut frame).unwrap();
    frame
}

#[test]
fn what_a_recorder_writes_is_read_as_the_golden_captures_are() {
    let broker = broker();
    let file = scratch("dialect");
    let recorder = Recorder::start(broker.addr(), &file).unwrap();
    let mut ask = [[0; 0]; 2].map(|_| TcpStream::connect(recorder.addr()).unwrap());
    let fetches = captures::capture("standalone/consume_single_message").request.repeat(2);
    // The first connection says half a frame, then the other says one and a half.
    for (stream, some) in [(0, 0..20), (1, 0..20), (0, 20..fetches.len()), (1, 20..fetches.len())] {
        ask[stream].write_all(&fetches[some]).unwrap();
    }
    // A ping and two answers.
    let heard = ask.map(|mut stream| [(); 3].map(|()| frame(&mut stream)).concat());
    recorder.finish().unwrap();

    let recorded = captures::recorded(&file);
    assert_eq!(recorded.len(), 2);
    for capture in recorded {
        let heard = &heard[usize::from(capture.name == "connection_1")];
        assert!(capture.request == fetches && capture.response == *heard, "{capture:?}");
        assert_eq!(capture.fetches().len(), 2);
        assert!(matches!(capture.fact("closed"), Some("by the client" | "by the broker")), "{capture:?}");
    }
}

/// Numbers and lengths in a file take no memory that the file does not pay for.
#[test]
fn a_hostile_capture_holds_no_more_than_itself() {
    let file = scratch("hostile");
    let connections = |numbers: &mut dyn Iterator<Item = u32>| -> String {
        numbers.map(|number| format!("capture connection_{number}\nrequest\n  00\n")).collect()
    };
    let far_apart = connections(&mut (0..3000).map(|number| number * 4096));
    let last = connections(&mut [u32::MAX].into_iter());
    let blocks = format!("capture connection_0\n{}", "request\nanswer\n".repeat(5000));
    for text in [far_apart, last, blocks] {
        let text = format!("#\n{text}");
        fs::write(&file, &text).unwrap();
        let (replay, peak) = peak_of(|| Replay::start(&file).unwrap());
        let most = (64 << 10) + 128 * text.len();
        assert!(peak <= most, "{peak} bytes held, {most} allowed");
        drop(replay);
    }
    for (wrong, line) in [
        ("capture connection_4294967296", 2),
        ("request", 3),
        ("capture connection_0\n  00", 3),
        ("capture connection_0\nanswer\n  0", 4),
        ("capture connection_0\nanswer\n  zz", 4),
        ("capture connection_0\nwhat?", 3),
        ("closed: by the broker", 2),
    ] {
        let after = if wrong == "request" { "\n  00" } else { "" };
        fs::write(&file, format!("#\n{wrong}{after}\n")).unwrap();
        let e = Replay::start(&file).unwrap_err().to_string();
        assert!(e.starts_with(&format!("line {line}: ")), "{wrong}: {e}");
    }
}

#[test]
fn a_damaged_capture_plays_as_far_as_it_goes_or_is_refused() {
    let broker = broker();
    let file = scratch("damaged");
    let recorder = Recorder::start(broker.addr(), &file).unwrap();
    program(recorder.addr(), Start::At(1900), 1000).unwrap();
    recorder.finish().unwrap();
    let whole = fs::read(&file).unwrap();
    seeded(300, |rng| {
        let mut bytes = whole.clone();
        for _ in 0..rng.pick(&[1, 1, 3]) {
            mutate::damage(rng, &mut bytes, &whole);
        }
        fs::write(&file, bytes).unwrap();
        if let Err(e) = Replay::start(&file) {
            let e = e.to_string();
            assert!(e.starts_with("not a capture") || e.starts_with("line "), "{e}");
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
