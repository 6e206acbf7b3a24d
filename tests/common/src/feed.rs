//! Drives a [`FetchDecoder`] as a connection does: it sees what has arrived and was not consumed, and nothing else.

use std::collections::{HashMap, VecDeque};

use tank_client::Limits;
use tank_client::protocol::DecodeError;
use tank_client::protocol::bundle::{Codec, Entry};
use tank_client::protocol::compress;
use tank_client::protocol::fetch::{FetchRequest, PartitionAnswer};
use tank_client::protocol::stream::{Bundle, ChunkEnd, Event, FetchDecoder, Good, Step};

/// What a step came to, with bundles one at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    Need(usize),
    Bundle(Bundle),
    Event(Event),
}

/// The bytes of a connection, some of which have arrived.
pub struct Feeder<'a> {
    decoder: FetchDecoder,
    /// Those that are not answered.
    requests: HashMap<u32, FetchRequest>,
    bytes: &'a [u8],
    consumed: usize,
    arrived: usize,
    /// What the last `Need` asked for: so much must have arrived before anything can happen.
    promised: usize,
    bundles: VecDeque<Bundle>,
    pub steps: usize,
}

impl<'a> Feeder<'a> {
    pub fn new(requests: &[FetchRequest], bytes: &'a [u8], limits: &Limits) -> Feeder<'a> {
        let decoder = FetchDecoder::new(limits.clone());
        let requests = requests.iter().map(|request| (request.request_id, request.clone())).collect();
        Feeder { decoder, requests, bytes, consumed: 0, arrived: 0, promised: 0, bundles: VecDeque::new(), steps: 0 }
    }

    /// With small bundles put together, up to this many messages.
    pub fn joining(requests: &[FetchRequest], bytes: &'a [u8], limits: &Limits, messages: u32) -> Feeder<'a> {
        let mut feeder = Feeder::new(requests, bytes, limits);
        feeder.decoder.join_up_to(messages);
        feeder
    }

    pub fn arrived(&self) -> usize {
        self.arrived
    }

    /// Lets bytes arrive until `until` are there, or all.
    pub fn arrive(&mut self, until: usize) {
        self.arrived = until.clamp(self.arrived, self.bytes.len());
    }

    /// One step, unless bundles are left of the last. A bundle's range is counted from the first byte of the connection.
    pub fn step(&mut self) -> Result<Found, DecodeError> {
        if let Some(bundle) = self.bundles.pop_front() {
            return Ok(Found::Bundle(bundle));
        }
        self.steps += 1;
        // Beginning here means that no byte is offered again once it was consumed.
        let window = &self.bytes[self.consumed..self.arrived];
        let mut bundles = Vec::new();
        let stepped = self.decoder.step(window, &|id| self.requests.get(&id), &mut bundles);
        if !matches!(stepped, Ok((_, Step::Need(_)))) {
            assert!(self.arrived >= self.promised, "something was found before the last Need was met");
        }
        assert_eq!(matches!(stepped, Ok((_, Step::Bundles))), !bundles.is_empty());
        let (used, step) = stepped?;
        assert!(used <= window.len(), "{used} of {} bytes consumed", window.len());
        for mut bundle in bundles {
            assert!(bundle.set.start <= bundle.set.end && bundle.set.end <= used);
            bundle.set.start += self.consumed;
            bundle.set.end += self.consumed;
            self.bundles.push_back(bundle);
        }
        self.consumed += used;
        match step {
            Step::Need(n) => {
                assert!(n > 0);
                assert!(self.arrived + n >= self.promised, "less than the last Need would have done");
                self.promised = self.arrived + n;
                Ok(Found::Need(n))
            }
            Step::Bundles => self.step(),
            Step::Event(event) => {
                if let Event::End { request_id } = event {
                    self.requests.remove(&request_id).expect("a request that was not answered");
                }
                Ok(Found::Event(event))
            }
        }
    }

    pub fn consumed(&self) -> usize {
        self.consumed
    }

    /// How many requests' answers are not complete.
    pub fn outstanding(&self) -> usize {
        self.requests.len()
    }
}

/// A message as a caller would see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub seq: u64,
    pub timestamp_ms: u64,
    pub key: Option<Vec<u8>>,
    pub payload: Vec<u8>,
}

/// What came of one partition of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    pub answer: PartitionAnswer,
    pub bundles: Vec<Bundle>,
    /// How many messages each of the bundles delivered.
    pub delivered: Vec<usize>,
    pub messages: Vec<Message>,
    pub end: Option<ChunkEnd>,
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub request_id: u32,
    pub parts: Vec<Part>,
}

/// What a connection came to, once all of its bytes had arrived.
#[derive(Debug, Default)]
pub struct Outcome {
    pub answers: Vec<Answer>,
    /// Where each answer ended.
    pub ends: Vec<usize>,
    /// The messages of an answer that did not come to its end.
    pub loose: usize,
    pub error: Option<DecodeError>,
    pub unanswered: usize,
    pub steps: usize,
}

impl Outcome {
    /// The answers, all of which must have come whole.
    pub fn complete(self) -> Vec<Answer> {
        assert_eq!((self.error, self.unanswered), (None, 0));
        self.answers
    }

    pub fn messages(&self) -> usize {
        self.loose + self.answers.iter().flat_map(|answer| &answer.parts).map(|part| part.messages.len()).sum::<usize>()
    }
}

/// Unpacks bundles, with its memory kept.
#[derive(Default)]
pub struct Unpacker {
    snappy: snap::raw::Decoder,
    plain: Vec<u8>,
    entries: Vec<Entry>,
}

impl Unpacker {
    /// Where the messages of `bundle` are that may be delivered.
    pub fn entries(&mut self, bundle: &Bundle, set: &[u8], limits: &Limits) -> Result<&[Entry], DecodeError> {
        self.entries.clear();
        let bytes = match bundle.codec {
            Codec::None => set,
            Codec::Snappy => {
                let len = compress::decompress(&mut self.snappy, set, limits, bundle.at, &mut self.plain)?;
                &self.plain[..len]
            }
        };
        bundle.decode(bytes, 0, &mut self.entries, &mut Good::default())?;
        Ok(&self.entries)
    }

    /// The messages of plain or compressed bundles that may be delivered, up to one that is bad, and what is wrong with it.
    pub fn unpack_good(&mut self, bundle: &Bundle, set: &[u8], limits: &Limits) -> (Vec<Message>, Option<DecodeError>) {
        let error = self.entries(bundle, set, limits).err();
        (self.messages(bundle, set), error)
    }

    /// The messages of `bundle` that may be delivered.
    pub fn unpack(&mut self, bundle: &Bundle, set: &[u8], limits: &Limits) -> Result<Vec<Message>, DecodeError> {
        self.entries(bundle, set, limits)?;
        Ok(self.messages(bundle, set))
    }

    fn messages(&self, bundle: &Bundle, set: &[u8]) -> Vec<Message> {
        let bytes = if bundle.codec == Codec::None { set } else { &self.plain };
        let message = |entry: &Entry| Message {
            seq: entry.seq,
            timestamp_ms: entry.timestamp_ms,
            key: entry.key().map(|range| bytes[range].to_vec()),
            payload: bytes[entry.payload()].to_vec(),
        };
        self.entries.iter().map(message).collect()
    }
}

/// Decodes all of `bytes`, which arrive at once.
pub fn decode(requests: &[FetchRequest], bytes: &[u8], limits: &Limits) -> Outcome {
    let mut feeder = Feeder::new(requests, bytes, limits);
    let mut outcome = Outcome::default();
    feeder.arrive(usize::MAX);
    outcome.error = run(&mut feeder, bytes, limits, &mut outcome).err();
    outcome.unanswered = feeder.outstanding();
    outcome.steps = feeder.steps;
    outcome
}

fn run(feeder: &mut Feeder<'_>, bytes: &[u8], limits: &Limits, outcome: &mut Outcome) -> Result<(), DecodeError> {
    let mut unpacker = Unpacker::default();
    let mut parts: HashMap<usize, Part> = HashMap::new();
    loop {
        match feeder.step()? {
            Found::Need(_) => return Ok(()),
            Found::Event(Event::Response { .. }) => assert!(parts.is_empty()),
            Found::Event(Event::Partition { slot, answer }) => {
                assert_eq!(slot, parts.len());
                let part = Part { answer, bundles: vec![], delivered: vec![], messages: vec![], end: None };
                parts.insert(slot, part);
            }
            Found::Bundle(bundle) => {
                let part = parts.get_mut(&(bundle.owner as usize)).unwrap();
                assert_eq!(part.end, None, "a bundle after the end of its chunk");
                let messages = unpacker.unpack(&bundle, &bytes[bundle.set.clone()], limits)?;
                outcome.loose += messages.len();
                part.delivered.push(messages.len());
                part.messages.extend(messages);
                part.bundles.push(bundle);
            }
            Found::Event(Event::ChunkEnd { slot, end }) => {
                assert_eq!(parts.get_mut(&slot).unwrap().end.replace(end), None);
            }
            Found::Event(Event::End { request_id }) => {
                let mut slots: Vec<_> = parts.drain().collect();
                slots.sort_by_key(|(slot, _)| *slot);
                outcome.loose = 0;
                outcome.answers.push(Answer { request_id, parts: slots.into_iter().map(|(_, part)| part).collect() });
                outcome.ends.push(feeder.consumed());
            }
        }
    }
}
