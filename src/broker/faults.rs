//! Faults a broker can be told to have.

use std::time::Duration;

use crate::Fault;
use crate::protocol::fetch::PartitionAnswer;
use crate::protocol::kind::Kind;
use crate::protocol::produce::ProduceCode;

/// Something that goes wrong, armed by [`Broker::inject`](super::Broker::inject).
///
/// A fault belongs to a node and waits there for its trigger, on any connection. It fires once, or as often as
/// [`Broker::inject_times`](super::Broker::inject_times) said. If several wait for the same trigger, the one injected first
/// fires, and the others keep waiting.
///
/// A client overcomes these by itself:
///
/// ```
/// use std::time::Duration;
/// use tank_client::Client;
/// use tank_client::broker::{Broker, BrokerFault, RequestKind};
///
/// let broker = Broker::start()?;
/// broker.create_topic("orders", 1);
/// let (pause, piece) = (Duration::from_millis(10), 7);
/// for fault in [
///     BrokerFault::CloseOnAccept,
///     BrokerFault::LatePing(pause),
///     BrokerFault::PingBeforeAnswer,
///     BrokerFault::Delay(pause),
///     BrokerFault::Trickle { bytes: piece, pause },
///     BrokerFault::CloseOnRequest(RequestKind::DiscoverTopics),
///     BrokerFault::LoseAnswer(RequestKind::DiscoverTopics),
///     BrokerFault::CutAfter(10),
///     BrokerFault::ResetAfter(10),
/// ] {
///     broker.inject(fault);
///     let client = Client::builder().wait_for_brokers(Duration::from_secs(60));
///     assert_eq!(client.connect(broker.addr())?.topics()?.len(), 1);
///     assert_eq!(broker.pending_faults(), 0);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A client can only report these:
///
/// ```
/// use std::time::Duration;
/// use tank_client::broker::{Broker, BrokerFault};
/// use tank_client::{Client, Error, ErrorKind, Fault, Record};
///
/// let broker = Broker::start()?;
/// broker.create_topic("orders", 1);
/// let impatient = || Client::builder().retry_timeout(Duration::ZERO);
///
/// broker.inject(BrokerFault::Greeting(b"SSH-2.0".to_vec()));
/// assert!(impatient().connect(broker.addr()).is_err());
/// broker.inject(BrokerFault::NoPing);
/// let short = impatient().connect_timeout(Duration::from_millis(100));
/// assert!(short.connect(broker.addr()).unwrap_err().is_timeout());
///
/// for nonsense in [
///     BrokerFault::WrongRequestId,
///     BrokerFault::FlipAfter(0),
///     BrokerFault::GarbageAfter(0, vec![0xff; 100]),
/// ] {
///     let client = impatient().connect(broker.addr())?;
///     broker.inject(nonsense);
///     assert!(matches!(client.topics(), Err(Error { kind: ErrorKind::Decode, .. })));
/// }
///
/// let client = impatient().connect(broker.addr())?;
/// broker.inject(BrokerFault::RefuseProduce(Fault::System));
/// assert!(client.publish("orders", 0, &[Record::new("tea")]).is_err());
///
/// // It stays silent until it is released, or for longer than the client waits.
/// broker.inject(BrokerFault::StallAfter(5));
/// let waiting = std::thread::spawn(move || client.topics());
/// assert!(broker.wait_until(Duration::from_secs(60), |stats| stats.stalled == 1));
/// broker.release();
/// assert_eq!(waiting.join().unwrap()?.len(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Answers to a consumer can be wrong, too:
///
/// ```
/// use std::time::Duration;
/// use tank_client::broker::{Broker, BrokerFault};
/// use tank_client::{Client, ErrorKind, Fault, Start, Subscription};
///
/// let broker = Broker::start()?;
/// broker.create_topic("orders", 1);
/// broker.append_payloads("orders", 0, &["tea", "milk"]);
/// let orders = Subscription::topic("orders").start(Start::Earliest).limit(2);
/// let client = Client::connect(broker.addr())?;
///
/// // Replicas have confirmed the first message only: the second one comes a little later.
/// broker.inject(BrokerFault::LowMark(1));
/// assert_eq!(client.subscribe(&orders)?.count(), 2);
///
/// // For a moment nobody leads the partition; then an answer comes too soon.
/// broker.inject(BrokerFault::RefuseConsume(Fault::NoLeader));
/// broker.inject(BrokerFault::NoData);
/// assert_eq!(client.subscribe(&orders)?.count(), 2);
///
/// broker.inject(BrokerFault::CorruptBundle);
/// let e = client.subscribe(&orders)?.next().unwrap().unwrap_err();
/// assert!(e.kind == ErrorKind::Decode, "{e}");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum BrokerFault {
    /// Closes the next connection as soon as it is accepted.
    CloseOnAccept,
    /// Sends no ping on the next connection, but serves it otherwise.
    NoPing,
    /// Sends the next connection's ping only after this time, and nothing before it.
    LatePing(Duration),
    /// Sends these bytes to the next connection instead of the ping.
    Greeting(Vec<u8>),
    /// Closes the connection on which the next request of this kind arrives, without executing it.
    CloseOnRequest(Kind),
    /// Answers the next Produce request with this fault for every partition, and stores nothing. It may be any
    /// [`Fault`](crate::Fault) that is a code in a broker's answer, or [`Fault::Redirects`](crate::Fault::Redirects), which
    /// redirects to the node that is its `last`.
    RefuseProduce(Fault),
    /// Does the same as [`RefuseProduce`](BrokerFault::RefuseProduce) for the next fetch (Consume request). The fault may only
    /// say that there is no such topic or partition, no leader or another one, or trouble with files.
    RefuseConsume(Fault),
    /// Answers the next fetch at once, without data.
    NoData,
    /// Answers the next fetch that brings data with this high-water mark, as if what lies above it were not confirmed.
    LowMark(u64),
    /// Executes the next request of this kind, then closes the connection without answering.
    LoseAnswer(Kind),
    /// Delays the next answer, and all later ones on its connection, by this time.
    Delay(Duration),
    /// Gives the next answer a request id that is off by one.
    WrongRequestId,
    /// Sends another ping in front of the next answer.
    PingBeforeAnswer,
    /// Makes the first bundle of the next answer with data announce a wrong number of messages. Only that answer is affected,
    /// not the log.
    CorruptBundle,
    /// Sends the next answer in pieces of this many bytes with a pause after each.
    Trickle {
        /// Bytes of a piece, at least 1.
        bytes: usize,
        /// Time between two of them.
        pause: Duration,
    },
    /// Closes the connection (FIN) after this many bytes of answers; with 0, before the first. All byte counts begin with the
    /// injection, run over all connections of the node, and leave out pings.
    CutAfter(u64),
    /// Does the same as [`CutAfter`](BrokerFault::CutAfter) with a reset (RST). Bytes that the client has not read yet may be
    /// lost.
    ResetAfter(u64),
    /// Falls silent after this many bytes of answers, on the connection that would send the next byte, until
    /// [`Broker::release`](super::Broker::release).
    StallAfter(u64),
    /// Inserts these bytes into the stream after this many bytes of answers.
    GarbageAfter(u64, Vec<u8>),
    /// Inverts the byte after this many bytes of answers.
    FlipAfter(u64),
}

impl BrokerFault {
    /// What it answers a produce request.
    pub(super) fn produce_code(&self) -> Option<ProduceCode> {
        let BrokerFault::RefuseProduce(fault) = self else { return None };
        Some(match *fault {
            Fault::UnknownTopic => ProduceCode::UnknownTopic,
            Fault::UnknownPartition => ProduceCode::UnknownPartition,
            Fault::System => ProduceCode::SystemError,
            Fault::NoLeader => ProduceCode::NoLeader,
            Fault::Redirects { last, .. } => ProduceCode::Redirect(last),
            Fault::ReadOnly => ProduceCode::ReadOnly,
            Fault::InsufficientReplicas => ProduceCode::InsufficientReplicas,
            Fault::NotConfirmed => ProduceCode::NotConfirmed,
            Fault::SeqNotAbove { .. } => ProduceCode::InvalidSeq,
            _ => return None,
        })
    }

    /// What it answers a consume request.
    pub(super) fn consume_answer(&self) -> Option<PartitionAnswer> {
        Some(match *self {
            BrokerFault::NoData => PartitionAnswer::Data { base: Some(0), high_water_mark: 0, len: 0 },
            BrokerFault::RefuseConsume(Fault::UnknownTopic) => PartitionAnswer::UnknownTopic,
            BrokerFault::RefuseConsume(Fault::UnknownPartition) => PartitionAnswer::UnknownPartition,
            BrokerFault::RefuseConsume(Fault::System) => PartitionAnswer::SystemError,
            BrokerFault::RefuseConsume(Fault::NoLeader) => PartitionAnswer::NoLeader,
            BrokerFault::RefuseConsume(Fault::Redirects { last, .. }) => PartitionAnswer::Redirect(last),
            _ => return None,
        })
    }

    /// Returns whether a broker can have it at all.
    pub(super) fn is_possible(&self) -> bool {
        match self {
            BrokerFault::RefuseProduce(_) => self.produce_code().is_some(),
            BrokerFault::RefuseConsume(_) => self.consume_answer().is_some(),
            _ => true,
        }
    }

    /// After how many bytes of answers it fires, for those that count bytes.
    fn bytes(&self) -> Option<u64> {
        match self {
            BrokerFault::CutAfter(n)
            | BrokerFault::ResetAfter(n)
            | BrokerFault::StallAfter(n)
            | BrokerFault::GarbageAfter(n, _)
            | BrokerFault::FlipAfter(n) => Some(*n),
            _ => None,
        }
    }
}

#[derive(Debug)]
struct Armed {
    fault: BrokerFault,
    /// Bytes of answers still to pass, for those that count bytes.
    left: u64,
    times: u64,
}

/// What a connection is greeted with.
#[derive(Debug)]
pub(super) enum Greeting {
    Ping,
    Late(Duration),
    Nothing,
    Bytes(Vec<u8>),
    Close,
}

/// How a fault ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    Fin,
    Reset,
}

/// What becomes of the bytes a connection is about to send.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Gate {
    /// This many of them may be sent, and then perhaps no more.
    Pass(usize, Option<Cut>),
    /// Send the first of them inverted, and then perhaps no more.
    Flip(Option<Cut>),
    /// Send these first.
    Garbage(Vec<u8>),
    Stall,
    Cut(Cut),
}

/// The faults a node has armed.
#[derive(Debug, Default)]
pub(super) struct Faults {
    armed: Vec<Armed>,
    pub(super) fired: u64,
}

impl Faults {
    pub(super) fn arm(&mut self, fault: BrokerFault, times: u64) {
        if times > 0 {
            self.armed.push(Armed { left: fault.bytes().unwrap_or(0), fault, times });
        }
    }

    pub(super) fn clear(&mut self) {
        self.armed.clear();
    }

    pub(super) fn pending(&self) -> usize {
        self.armed.len()
    }

    fn fire(&mut self, index: usize) -> BrokerFault {
        self.fired += 1;
        let armed = &mut self.armed[index];
        if armed.times == 1 {
            return self.armed.remove(index).fault;
        }
        armed.times -= 1;
        // One byte must pass in between, or nothing ever would.
        armed.left = armed.fault.bytes().unwrap_or(0).max(1);
        armed.fault.clone()
    }

    /// Fires the first fault that `wanted` turns into something.
    pub(super) fn take<T>(&mut self, wanted: impl Fn(&BrokerFault) -> Option<T>) -> Option<T> {
        let found = self.armed.iter().enumerate().find_map(|(index, armed)| Some((index, wanted(&armed.fault)?)));
        let (index, value) = found?;
        self.fire(index);
        Some(value)
    }

    /// Fires the first fault that is equal to `fault`.
    pub(super) fn take_equal(&mut self, fault: &BrokerFault) -> bool {
        self.take(|armed| (armed == fault).then_some(())).is_some()
    }

    pub(super) fn greeting(&mut self) -> Greeting {
        let greeting = self.take(|fault| match fault {
            BrokerFault::CloseOnAccept => Some(Greeting::Close),
            BrokerFault::NoPing => Some(Greeting::Nothing),
            BrokerFault::LatePing(after) => Some(Greeting::Late(*after)),
            BrokerFault::Greeting(bytes) => Some(Greeting::Bytes(bytes.clone())),
            _ => None,
        });
        greeting.unwrap_or(Greeting::Ping)
    }

    /// Decides on `len` bytes of an answer, at least 1.
    pub(super) fn gate(&mut self, len: usize) -> Gate {
        let due = self.armed.iter().position(|armed| armed.fault.bytes().is_some() && armed.left == 0);
        if let Some(index) = due {
            return match self.fire(index) {
                BrokerFault::CutAfter(_) => Gate::Cut(Cut::Fin),
                BrokerFault::ResetAfter(_) => Gate::Cut(Cut::Reset),
                BrokerFault::StallAfter(_) => Gate::Stall,
                BrokerFault::GarbageAfter(_, bytes) => Gate::Garbage(bytes),
                _ => Gate::Flip(self.pass(1)),
            };
        }
        let nearest = self.armed.iter().filter(|armed| armed.fault.bytes().is_some()).map(|armed| armed.left).min();
        let len = nearest.map_or(len, |left| usize::try_from(left).map_or(len, |left| left.min(len)));
        Gate::Pass(len, self.pass(len))
    }

    /// Counts bytes, and fires what is to end the connection with the last of them.
    fn pass(&mut self, bytes: usize) -> Option<Cut> {
        for armed in &mut self.armed {
            armed.left = armed.left.saturating_sub(bytes as u64);
        }
        let cuts = |armed: &Armed| matches!(armed.fault, BrokerFault::CutAfter(_) | BrokerFault::ResetAfter(_));
        let index = self.armed.iter().position(|armed| cuts(armed) && armed.left == 0)?;
        Some(if matches!(self.fire(index), BrokerFault::CutAfter(_)) { Cut::Fin } else { Cut::Reset })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_counts_run_side_by_side() {
        let mut faults = Faults::default();
        faults.arm(BrokerFault::CutAfter(10), 1);
        faults.arm(BrokerFault::FlipAfter(4), 2);
        faults.arm(BrokerFault::GarbageAfter(0, vec![7]), 1);
        let mut seen = Vec::new();
        for _ in 0..8 {
            seen.push(faults.gate(100));
        }
        let (garbage, pass) = (Gate::Garbage(vec![7]), |len| Gate::Pass(len, None));
        let last = Gate::Pass(1, Some(Cut::Fin));
        assert_eq!(seen, [garbage, pass(4), Gate::Flip(None), pass(3), Gate::Flip(None), last, pass(100), pass(100)]);
        assert_eq!((faults.pending(), faults.fired), (0, 4));
    }

    #[test]
    fn the_first_that_fits_fires_and_the_others_wait() {
        let mut faults = Faults::default();
        faults.arm(BrokerFault::LatePing(Duration::from_secs(1)), 1);
        faults.arm(BrokerFault::NoPing, 1);
        assert!(!faults.take_equal(&BrokerFault::WrongRequestId));
        assert!(matches!(faults.greeting(), Greeting::Late(_)));
        assert!(matches!(faults.greeting(), Greeting::Nothing));
        assert!(matches!(faults.greeting(), Greeting::Ping));
    }
}
