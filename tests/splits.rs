//! However an answer is cut into packets, the same events come of it, and each as soon as its bytes are there.

mod common;

use std::ops::ControlFlow;

use common::captures::{self, Capture};
use common::feed::Feeder;
use common::rng::seeded;
use tank_client::protocol::stream::{Event, Step};
use tank_client::protocol::{DecodeError, Limits};

/// What came, with the number of bytes that had arrived then. The range of a bundle says which bytes it has.
type Seen = Vec<(usize, Result<Event, DecodeError>)>;

/// Runs to the end of the bytes, or to an error; `more` is told how many bytes are there and how many are needed, and
/// says how many there shall be.
fn run(capture: &Capture, stream: &[u8], mut more: impl FnMut(usize, usize) -> usize) -> Seen {
    let mut feeder = Feeder::new(&capture.answered_requests(), stream, &Limits::default());
    let mut seen = Seen::new();
    let _ = std::iter::repeat(()).try_for_each(|()| {
        let step = feeder.step();
        match step {
            Ok(Step::Event(event)) => seen.push((feeder.arrived(), Ok(event))),
            Ok(Step::Need(_)) if feeder.arrived() == stream.len() => return ControlFlow::Break(()),
            Ok(Step::Need(n)) => {
                let until = more(feeder.arrived(), n);
                assert!(until > feeder.arrived());
                feeder.arrive(until);
            }
            Err(e) => {
                seen.push((feeder.arrived(), Err(e.clone())));
                assert_eq!(feeder.step(), Err(e), "an error is not got over");
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    });
    seen
}

fn events(seen: Seen) -> Vec<Result<Event, DecodeError>> {
    seen.into_iter().map(|(_, event)| event).collect()
}

fn all() -> Vec<(Capture, Vec<u8>)> {
    let captures = captures::standalone().into_iter().chain(captures::cluster());
    let all: Vec<_> = captures.map(|capture| (captures::Capture::stream(&capture), capture)).collect();
    all.into_iter().filter(|(stream, _)| !stream.is_empty()).map(|(stream, capture)| (capture, stream)).collect()
}

#[test]
fn in_two_pieces() {
    for (capture, stream) in all() {
        let whole = events(run(&capture, &stream, |_, _| usize::MAX));
        assert!(!whole.is_empty(), "{}", capture.name);
        for cut in 1..stream.len() {
            let halves = events(run(&capture, &stream, |arrived, _| if arrived < cut { cut } else { usize::MAX }));
            assert!(halves == whole, "{} cut at {cut}", capture.name);
        }
    }
}

#[test]
fn byte_by_byte_and_just_as_much_as_is_needed() {
    for (capture, stream) in all() {
        let whole = events(run(&capture, &stream, |_, _| usize::MAX));
        let bytes = run(&capture, &stream, |arrived, _| arrived + 1);
        let needed = run(&capture, &stream, |arrived, n| {
            // What is not refused has its end within the stream, so nobody may ask for more.
            assert!(capture.hostile() || arrived + n <= stream.len(), "{}: {n} after {arrived}", capture.name);
            arrived + n
        });
        for ((early, event), (late, again)) in bytes.iter().zip(&needed) {
            assert_eq!(event, again, "{}", capture.name);
            assert_eq!(early, late, "{}: {event:?} waited for bytes it did not need", capture.name);
        }
        assert_eq!(bytes.len(), needed.len(), "{}", capture.name);
        assert_eq!(events(bytes), whole, "{}", capture.name);
    }
}

#[test]
fn at_random_places() {
    let all = all();
    let whole: Vec<_> = all.iter().map(|(capture, stream)| events(run(capture, stream, |_, _| usize::MAX))).collect();
    seeded(40, |rng| {
        for ((capture, stream), whole) in all.iter().zip(&whole) {
            let most = rng.pick(&[2, 10, 100, 1500, 65_536]);
            let pieces = events(run(capture, stream, |arrived, _| arrived + rng.between(1, most)));
            assert!(pieces == *whole, "{}", capture.name);
        }
    });
}
