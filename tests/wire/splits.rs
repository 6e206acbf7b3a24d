//! However an answer is cut into packets, the same events come of it, and each as soon as its bytes are there.

use common::captures::{self, Capture};
use common::feed::{Feeder, Found};
use common::rng::seeded;
use tank_client::Limits;
use tank_client::protocol::DecodeError;
use tank_client::protocol::fetch::FetchRequest;

/// What came, with the number of bytes that had arrived then. The range of a bundle says which bytes it has.
type Seen = Vec<(usize, Result<Found, DecodeError>)>;

struct Case {
    name: String,
    hostile: bool,
    requests: Vec<FetchRequest>,
    stream: Vec<u8>,
}

impl Case {
    /// Runs to the end of the bytes, or to an error; `more` is told how many bytes are there and how many are needed,
    /// and says how many there shall be.
    fn run(&self, mut more: impl FnMut(usize, usize) -> usize) -> Seen {
        let mut feeder = Feeder::new(&self.requests, &self.stream, &Limits::default());
        let mut seen = Seen::new();
        loop {
            match feeder.step() {
                Ok(Found::Need(_)) if feeder.arrived() == self.stream.len() => return seen,
                Ok(Found::Need(n)) => {
                    let until = more(feeder.arrived(), n);
                    assert!(until > feeder.arrived());
                    feeder.arrive(until);
                }
                Ok(found) => seen.push((feeder.arrived(), Ok(found))),
                Err(e) => {
                    seen.push((feeder.arrived(), Err(e.clone())));
                    assert_eq!(feeder.step(), Err(e), "an error is not got over");
                    return seen;
                }
            }
        }
    }

    fn whole(&self) -> Vec<Result<Found, DecodeError>> {
        events(self.run(|_, _| usize::MAX))
    }
}

fn events(seen: Seen) -> Vec<Result<Found, DecodeError>> {
    seen.into_iter().map(|(_, event)| event).collect()
}

fn all() -> Vec<Case> {
    let case = |capture: &Capture| Case {
        name: capture.name.clone(),
        hostile: capture.hostile(),
        requests: capture.answered_fetches(),
        stream: capture.stream(),
    };
    captures::consuming().map(case).filter(|case| !case.stream.is_empty()).collect()
}

#[test]
fn answers_in_two_pieces_say_the_same() {
    for case in all() {
        let whole = case.whole();
        assert!(!whole.is_empty(), "{}", case.name);
        // Inside the payloads of the two recordings above 100,000 bytes one place is like the next.
        let step = |at| if case.stream.len() > 100_000 && at > 5000 { 13 } else { 1 };
        for cut in std::iter::successors(Some(1), |at| Some(at + step(*at))).take_while(|at| *at < case.stream.len()) {
            let halves = events(case.run(|arrived, _| if arrived < cut { cut } else { usize::MAX }));
            assert!(halves == whole, "{} cut at {cut}", case.name);
        }
    }
}

#[test]
fn answers_byte_by_byte_or_just_as_much_as_is_needed_say_the_same() {
    for case in all() {
        let bytes = case.run(|arrived, _| arrived + 1);
        let needed = case.run(|arrived, n| {
            // What is not refused has its end within the stream, so nobody may ask for more.
            assert!(case.hostile || arrived + n <= case.stream.len(), "{}: {n} after {arrived}", case.name);
            arrived + n
        });
        for ((early, event), (late, again)) in bytes.iter().zip(&needed) {
            assert_eq!(event, again, "{}", case.name);
            assert_eq!(early, late, "{}: {event:?} waited for bytes it did not need", case.name);
        }
        assert_eq!(bytes.len(), needed.len(), "{}", case.name);
        assert_eq!(events(bytes), case.whole(), "{}", case.name);
    }
}

#[test]
fn answers_cut_at_random_places_say_the_same() {
    let all: Vec<_> = all().into_iter().map(|case| (case.whole(), case)).collect();
    seeded(40, |rng| {
        for (whole, case) in &all {
            let most = rng.pick(&[2, 10, 100, 1500, 65_536]);
            let pieces = events(case.run(|arrived, _| arrived + rng.between(1, most)));
            assert!(pieces == *whole, "{}", case.name);
        }
    });
}
