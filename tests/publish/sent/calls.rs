//! The calls that send, each many times with what chance gives it.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tank_client::{
    Acks, Checkpoint, Client, Compression, Error, ErrorKind, Fault, OutOfRange, PartitionRecords, Positions, Producer,
    Record, Start, Subscription, TopicConfig,
};

use super::plain::{Asked, Slot};
use super::{Broker, FIRST, MARK, is_name, length, partition, partitions_of, seq, text, topic};
use common::example::scratch;
use common::plain::Message;
use common::rng::{Rng, seeded};
use common::watch::within;

/// Runs this many cases, each with a client of its own, which is told apart by its name, and which tells whether what it was
/// about was sent.
fn cases(count: u64, case: impl Fn(&mut Rng, &Broker, &str) -> bool + Send + 'static) {
    within(600, move || {
        let broker = Broker::start();
        let (mut number, mut sent) = (0, 0);
        seeded(count, |rng| {
            number += 1;
            let more = length(rng, 245);
            let name = format!("{number:09}-{}", text(rng, more));
            sent += u64::from(case(rng, &broker, &name));
            // What is answered is known to be asked. Only fetches may come later, which say whose they are.
            broker.asked.try_iter().for_each(drop);
        });
        broker.peer.end();
        let few = count / 10;
        assert!(number < count || (few..number - few).contains(&sent), "{sent} of {number} sent shows little");
    });
}

fn refused(e: &Error) -> bool {
    matches!(e.kind, ErrorKind::Config { .. } | ErrorKind::BundleTooLarge { .. })
}

/// A record's parts.
#[derive(Debug, Clone)]
struct Given {
    seq: u64,
    time: Option<u64>,
    key: Option<Vec<u8>>,
    payload: Vec<u8>,
}

impl Given {
    fn record(&self) -> Record<'_> {
        let record = Record::new(&self.payload);
        let record = self.key.as_ref().map_or(record, |key| record.key(key));
        self.time.map_or(record, |time| record.timestamp_ms(time))
    }

    fn is_legal(&self) -> bool {
        self.key.as_ref().is_none_or(|key| key.len() <= 255)
    }

    /// Whether it arrived as this.
    fn is(&self, found: &Message) -> bool {
        // An empty key is none.
        let key = self.key.as_ref().filter(|key| !key.is_empty());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        let in_time = match self.time {
            Some(time) => found.time == time,
            None => found.time <= now && found.time > now - 600_000,
        };
        found.key.as_ref() == key && found.payload == self.payload && in_time
    }
}

fn records(rng: &mut Rng) -> Vec<Given> {
    let count = match rng.below(60) {
        0 => length(rng, 65_536),
        1..=5 => length(rng, 300),
        _ => rng.between(0, 5),
    };
    let small = count > 1000;
    let mut given: Vec<Given> = Vec::with_capacity(count);
    let mut next = MARK + 1;
    let numbers = rng.below(3);
    for _ in 0..count {
        let number = match numbers {
            0 => next,
            1 if rng.one_in(20) => seq(rng),
            _ => next.saturating_add(rng.pick(&[0, 0, 1, 100, 70_000])),
        };
        next = number.saturating_add(1);
        let key = rng.one_in(3).then(|| {
            let len = if rng.one_in(10) && !small { length(rng, 1000) } else { rng.between(0, 20) };
            rng.bytes(len)
        });
        let len = if small { rng.between(0, 3) } else { length(rng, 1000) };
        let time = match rng.below(4) {
            0 => None,
            1 => Some(rng.pick(&[0, 1, u64::MAX])),
            2 => Some(rng.next_u64()),
            _ => given.last().and_then(|before| before.time),
        };
        given.push(Given { seq: number, time, key, payload: rng.bytes(len) });
    }
    given
}

type Stored = BTreeMap<(String, u16), Vec<Message>>;

/// All that was sent to be stored, by partition, in order.
fn stored(asked: Vec<Asked>) -> Stored {
    let mut stored = Stored::new();
    for asked in asked {
        let Asked::Produce { parts, .. } = asked else { continue };
        for part in parts {
            stored.entry((part.topic, part.partition)).or_default().extend(part.messages);
        }
    }
    stored
}

fn is_all(found: Option<&Vec<Message>>, given: &[Given]) {
    let found = found.map_or(&[][..], Vec::as_slice);
    assert_eq!(found.len(), given.len());
    assert!(found.iter().zip(given).all(|(found, given)| given.is(found)));
}

/// Either all of this was meant and was sent, or it was refused and nothing was sent.
fn is_sent_or_refused<T>(
    published: tank_client::Result<T>,
    legal: bool,
    asked: Vec<Asked>,
    all: Vec<(String, u16, Vec<Given>)>,
) {
    match published {
        Ok(_) => {
            assert!(legal);
            let mut stored = stored(asked);
            for (topic, id, given) in all {
                is_all(stored.remove(&(topic, id)).as_ref(), &given);
            }
            assert!(stored.is_empty());
        }
        Err(e) => {
            assert!(!legal && refused(&e), "{e}");
            assert_eq!(asked, []);
        }
    }
}

#[test]
fn publish_sends_what_was_meant_or_nothing() {
    cases(700, |rng, broker, name| {
        let (topic, partition, given) = (topic(rng), partition(rng), records(rng));
        let compression = rng.pick(&[Compression::Auto, Compression::None, Compression::Snappy]);
        let client = broker.client(name, |builder| builder.compression(compression));
        let records: Vec<Record<'_>> = given.iter().map(Given::record).collect();
        let legal = is_name(&topic) && partition < u16::MAX && !given.is_empty() && given.iter().all(Given::is_legal);
        let published = client.publish(&topic, partition, &records);
        is_sent_or_refused(published, legal, broker.asked(name), vec![(topic, partition, given)]);
        legal
    });
}

#[test]
fn publish_at_sends_what_was_meant_or_nothing() {
    cases(700, |rng, broker, name| {
        let (topic, partition, given) = (topic(rng), partition(rng), records(rng));
        let client = broker.client(name, |builder| builder);
        let records: Vec<(u64, Record<'_>)> = given.iter().map(|given| (given.seq, given.record())).collect();
        let rising = given.iter().is_sorted_by(|a, b| a.seq < b.seq);
        let numbers = rising && given.iter().all(|given| given.seq > 0 && given.seq < u64::MAX);
        let legal = is_name(&topic) && partition < u16::MAX && !given.is_empty() && given.iter().all(Given::is_legal);
        let published = client.publish_at(&topic, partition, &records);
        let asked = broker.asked(name);
        if !legal || !numbers {
            assert!(refused(&published.unwrap_err()));
            assert_eq!(asked, []);
            return false;
        }
        let (first, last) = (given[0].seq, given[given.len() - 1].seq);
        let expected = match partitions_of(&topic) {
            0 => Some(Fault::UnknownTopic),
            count if partition >= count => Some(Fault::UnknownPartition),
            _ if first <= MARK => Some(Fault::SeqNotAbove { seq: first }),
            _ if last - MARK >= 1 << 31 => Some(Fault::SeqTooFar { seq: last }),
            _ => None,
        };
        let mut stored = stored(asked);
        let sent = expected.is_none();
        match (published, expected) {
            (Ok(()), None) => {
                let found = stored.remove(&(topic, partition));
                is_all(found.as_ref(), &given);
                assert!(found.unwrap().iter().zip(&given).all(|(found, given)| found.seq == given.seq));
            }
            (Err(Error { kind: ErrorKind::Broker { fault, .. }, .. }), Some(expected)) => assert_eq!(fault, expected),
            (published, expected) => panic!("{published:?} instead of {expected:?}"),
        }
        assert!(stored.is_empty());
        sent
    });
}

#[test]
fn publish_all_sends_what_was_meant_or_nothing() {
    cases(300, |rng, broker, name| {
        let topics: Vec<String> = (0..rng.pick(&[1, 3, 254, 255, 256])).map(|n| format!("t{n}")).collect();
        let count = rng.pick(&[0, 1, 2, 5, 250, 255, 256, 300, 600]);
        let in_turn = rng.one_in(2);
        let mut all: Vec<(String, u16, Vec<Given>)> = (0..count)
            .map(|n| {
                let topic = &topics[if in_turn { n % topics.len() } else { rng.below(topics.len()) }];
                let id = if in_turn { (n / topics.len()) as u16 } else { rng.below(2000) as u16 };
                let payload = rng.bytes(3);
                (topic.clone(), id, vec![Given { seq: 0, time: Some(n as u64), key: None, payload }])
            })
            .collect();
        if rng.one_in(4) {
            all.push((topic(rng), partition(rng), records(rng)));
        }
        let records: Vec<Vec<Record<'_>>> =
            all.iter().map(|(.., given)| given.iter().map(Given::record).collect()).collect();
        let by_partition: Vec<PartitionRecords<'_>> = all
            .iter()
            .zip(&records)
            .map(|((topic, id, _), records)| PartitionRecords::new(topic, *id, records))
            .collect();
        let places: HashSet<(&String, u16)> = all.iter().map(|(topic, id, _)| (topic, *id)).collect();
        let legal = places.len() == all.len()
            && all.iter().all(|(topic, id, given)| {
                is_name(topic) && *id < u16::MAX && !given.is_empty() && given.iter().all(Given::is_legal)
            });
        let client = broker.client(name, |builder| builder);
        let published = client.publish_all(&by_partition);
        if let Ok(results) = &published {
            assert!(results.len() == all.len() && results.iter().all(Result::is_ok));
        }
        is_sent_or_refused(published, legal, broker.asked(name), all);
        legal
    });
}

#[test]
fn producers_send_what_was_meant_or_nothing() {
    cases(700, |rng, broker, name| {
        let client = broker.client(name, |builder| builder);
        let (records_of, bytes) = (rng.pick(&[0, 1, 2, 10_000, 65_535, 65_536]), rng.pick(&[0, 1, 1000, 32 << 20]));
        let bytes = if rng.one_in(20) { (32 << 20) + 1 } else { bytes };
        let window = rng.pick(&[0, 1, 5, usize::MAX]);
        let acks = rng.pick(&[Acks::All, Acks::Quorum, Acks::Peers(0), Acks::Peers(200), Acks::Peers(201)]);
        let timeout = rng.pick(&[
            Duration::ZERO,
            Duration::from_nanos(1),
            Duration::from_secs(8),
            Duration::from_millis(u32::MAX.into()),
            Duration::from_millis(1 << 32),
            Duration::MAX,
        ]);
        // What fits, most of the time, so that something is sent.
        let easy = !rng.one_in(3);
        let (records_of, bytes, window, acks, timeout) = match easy {
            true => (
                records_of.clamp(1, 65_535),
                bytes.clamp(1, 32 << 20),
                window.max(1),
                Acks::All,
                timeout.min(Duration::from_secs(8)).max(Duration::from_nanos(1)),
            ),
            false => (records_of, bytes, window, acks, timeout),
        };
        let idempotent = rng.one_in(3);
        let chosen = rng.pick(&[None, Some(0), Some(2), Some(3), Some(u16::MAX)]);
        let builder = client.producer().max_records(records_of).max_bytes(bytes).window(window).acks(acks);
        let builder = builder.ack_timeout(timeout).partitioner(move |_: &str, _: Option<&[u8]>, _: u16| chosen);
        let built = if idempotent { builder.idempotent() } else { builder }.build();
        let settings = (1..=65_535).contains(&records_of)
            && (1..=32 << 20).contains(&bytes)
            && window > 0
            && !matches!(acks, Acks::Peers(0 | 201..))
            && !timeout.is_zero()
            && timeout.as_millis() <= u32::MAX.into();
        let mut producer = match built {
            Ok(producer) => producer,
            Err(e) => {
                assert!(!settings && refused(&e), "{e}");
                assert_eq!(broker.asked(name), []);
                return false;
            }
        };
        assert!(settings);
        let mut taken: BTreeMap<(String, u16), Vec<Given>> = BTreeMap::new();
        let mut turns: BTreeMap<String, u16> = BTreeMap::new();
        for _ in 0..rng.between(1, 4) {
            let (topic, id, given) = (topic(rng), partition(rng), records(rng));
            let choose = rng.one_in(2);
            for given in given {
                let (count, legal) = (partitions_of(&topic), is_name(&topic) && given.is_legal());
                let id = match chosen {
                    _ if !choose => id,
                    Some(id) => id,
                    None => turns.get(&topic).copied().unwrap_or(0),
                };
                let sent = match choose {
                    true => producer.send(&topic, given.record()),
                    false => producer.send_to(&topic, id, given.record()),
                };
                match sent {
                    Ok(()) => {
                        assert!(legal && id < u16::MAX && (!choose || id < count && count > 0));
                        taken.entry((topic.clone(), id)).or_default().push(given);
                    }
                    Err(Error { kind: ErrorKind::Broker { fault: Fault::UnknownTopic, .. }, .. }) => {
                        assert!(choose && count == 0)
                    }
                    Err(Error { kind: ErrorKind::Undelivered { .. }, .. }) => {
                        take_back(&mut producer, &mut taken, idempotent)
                    }
                    Err(e) => {
                        let in_range = id < u16::MAX && (!choose || id < count);
                        assert!(refused(&e) && !(legal && in_range), "{e}");
                    }
                }
                // It was somebody's turn, whatever came of it.
                if choose && chosen.is_none() && is_name(&topic) && count > 0 {
                    turns.insert(topic.clone(), (id + 1) % count);
                }
            }
        }
        if producer.flush().is_err() {
            take_back(&mut producer, &mut taken, idempotent);
        }
        let asked = broker.asked(name);
        for asked in &asked {
            let Asked::Produce { numbered, acks: sent, timeout: ms, parts, .. } = asked else { continue };
            assert_eq!(*numbered, idempotent);
            let acks = match acks {
                Acks::All => 0,
                Acks::Quorum => 255,
                Acks::Peers(count) => count,
            };
            assert_eq!((*sent, u128::from(*ms)), (acks, timeout.as_millis().max(1)));
            assert!(parts.iter().all(|part| part.messages.len() <= records_of as usize));
        }
        let mut stored = stored(asked);
        let sent = !stored.is_empty();
        for (place, given) in taken {
            let found = stored.remove(&place).unwrap();
            is_all(Some(&found), &given);
            assert!(!idempotent || found.iter().zip(MARK + 1..).all(|(found, seq)| found.seq == seq));
        }
        assert!(stored.is_empty());
        sent
    });
}

/// Takes out what failed: only a numbering producer learns that a partition is unknown before it sends.
fn take_back(producer: &mut Producer, taken: &mut BTreeMap<(String, u16), Vec<Given>>, idempotent: bool) {
    for failure in producer.take_failures() {
        let (topic, id) = (failure.topic().to_owned(), failure.partition());
        assert!(idempotent && !failure.is_unknown() && id >= partitions_of(&topic), "{failure:?}");
        taken.remove(&(topic, id));
    }
}

/// Where a subscription begins.
fn start(rng: &mut Rng) -> Start {
    match rng.below(6) {
        0 => Start::Earliest,
        1 => Start::Time(time(rng)),
        2 => Start::Latest,
        _ => Start::At(seq(rng)),
    }
}

fn time(rng: &mut Rng) -> SystemTime {
    let far = Duration::from_secs(rng.next_u64() >> 30);
    match rng.below(3) {
        0 => UNIX_EPOCH.checked_sub(far).unwrap_or(UNIX_EPOCH),
        1 => UNIX_EPOCH.checked_add(far).unwrap_or(UNIX_EPOCH),
        _ => SystemTime::now(),
    }
}

/// The number that must be asked for first. There is no message, so no time is found.
fn first_asked(start: Start) -> u64 {
    match start {
        Start::Earliest => 0,
        Start::At(seq) => seq,
        _ => MARK + 1,
    }
}

#[test]
fn subscriptions_ask_for_what_was_meant_or_nothing() {
    let path = scratch("sent");
    cases(500, move |rng, broker, name| {
        let client = broker.client(name, |builder| builder);
        let mut wanted: Vec<(String, Option<u16>, Start)> = Vec::new();
        for _ in 0..rng.pick(&[1, 1, 2, 3]) {
            let id = rng.one_in(2).then(|| partition(rng));
            wanted.push((topic(rng), id, start(rng)));
        }
        let (first, id, begin) = wanted[0].clone();
        let mut subscription = match id {
            Some(id) => Subscription::partition(first, id),
            None => Subscription::topic(first),
        };
        subscription = subscription.start(begin);
        for (topic, id, start) in &wanted[1..] {
            subscription = match id {
                Some(id) => subscription.and_partition(topic, *id, *start),
                None => subscription.and_topic(topic, *start),
            };
        }
        let (mut wait, mut size) = (5000, 1 << 20);
        let (mut min_bytes, mut local, mut at_once) = (0, false, false);
        if rng.one_in(2) {
            let given =
                rng.pick(&[Duration::ZERO, Duration::from_micros(1500), Duration::from_secs(4000), Duration::MAX]);
            subscription = subscription.max_wait(given);
            wait = given.as_nanos().div_ceil(1_000_000).clamp(1, 3_600_000) as u64;
        }
        if rng.one_in(2) {
            min_bytes = rng.pick(&[0, 1, u32::MAX]);
            subscription = subscription.min_bytes(min_bytes);
        }
        if rng.one_in(2) {
            size = rng.pick(&[0, 1, 4096, 64 << 20, (64 << 20) + 1, u32::MAX]);
            subscription = subscription.fetch_size(size);
        }
        if rng.one_in(4) {
            local = true;
            subscription = subscription.prefer_local();
        }
        if rng.one_in(4) {
            at_once = true;
            subscription = subscription.stop_at_end();
        }
        let mut end = u64::MAX;
        if rng.one_in(8) {
            end = seq(rng);
            subscription = subscription.stop_at_seq(end);
        }
        if rng.one_in(8) {
            subscription = subscription.stop_at_time(time(rng));
        }
        if rng.one_in(8) {
            subscription = subscription.limit(rng.pick(&[0, 1, u64::MAX]));
        }
        if rng.one_in(4) {
            let policy = rng.pick(&[OutOfRange::Earliest, OutOfRange::Latest, OutOfRange::Fail]);
            subscription = subscription.out_of_range(policy).beyond_end(policy);
        }
        let mut kept = Positions::default();
        if rng.one_in(4) {
            let mut checkpoint = Checkpoint::open(&path).unwrap();
            for _ in 0..rng.between(1, 3) {
                kept.set(rng.pick(&["orders", "t", "w"]), rng.below(4) as u16, seq(rng));
            }
            checkpoint.save(&kept).unwrap();
            subscription = subscription.resume(checkpoint.positions());
            std::fs::remove_file(&path).unwrap();
        }

        let twice = wanted.iter().enumerate().any(|(index, (topic, id, _))| {
            wanted[..index].iter().any(|(other, of, _)| topic == other && (id.is_none() || of.is_none() || id == of))
        });
        let legal = !twice
            && (1..=64 << 20).contains(&size)
            && kept.iter().all(|position| position.seq < u64::MAX)
            && wanted
                .iter()
                .all(|(topic, id, start)| is_name(topic) && *id != Some(u16::MAX) && *start != Start::At(u64::MAX));
        let missing = wanted.iter().find_map(|(topic, id, _)| match (partitions_of(topic), id) {
            (0, _) => Some(Fault::UnknownTopic),
            (count, Some(id)) if *id >= count => Some(Fault::UnknownPartition),
            _ => None,
        });
        let iter = match client.subscribe(&subscription) {
            Ok(iter) => iter,
            Err(Error { kind: ErrorKind::Broker { fault, .. }, .. }) => {
                assert!(legal && missing == Some(fault), "{fault} instead of {missing:?}");
                return false;
            }
            Err(e) => {
                assert!(!legal && refused(&e), "{e}");
                assert_eq!(broker.asked(name), []);
                return false;
            }
        };
        assert!(legal && missing.is_none());
        let mut expected = HashSet::new();
        let mut by_time = HashSet::new();
        for (topic, id, start) in &wanted {
            let ids = id.map_or(0..partitions_of(topic), |id| id..id + 1);
            for partition in ids {
                let resumed = kept.get(topic, partition);
                let seq = resumed.unwrap_or_else(|| first_asked(*start));
                if resumed.is_none() && matches!(start, Start::Time(_)) {
                    by_time.insert((topic.clone(), partition));
                }
                // What has ended when it begins takes no request.
                if seq.max(1) <= end {
                    expected.insert(Slot { topic: topic.clone(), partition, seq, size });
                }
            }
        }
        let is_probe = |slot: &Slot| {
            !expected.contains(slot)
                && by_time.contains(&(slot.topic.clone(), slot.partition))
                && (FIRST..=MARK).contains(&slot.seq)
                && slot.size == 4096
        };
        let fetches = broker.fetches(name, expected.len(), is_probe);
        for fetch in fetches {
            let Asked::Consume { wait: found, min_bytes: bytes, local: from, slots, .. } = fetch else { panic!() };
            if slots.iter().any(is_probe) {
                assert_eq!((found, slots.len()), (0, 1));
                continue;
            }
            // Which is no message's number, but the question for the end, which only a leader knows.
            let is_end = |slot: &Slot| slot.seq == u64::MAX - 1;
            assert_eq!((bytes, from), (min_bytes, local && !slots.iter().any(is_end)));
            assert!(found == wait || at_once && found == 0);
            assert!(slots.iter().all(|slot| expected.contains(slot)), "{slots:?}");
        }
        drop(iter);
        true
    });
}

/// What a server takes for the name of a new topic.
fn is_new_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    (1..=64).contains(&bytes.len())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte))
        && bytes[0].is_ascii_alphanumeric()
        && bytes[bytes.len() - 1].is_ascii_alphanumeric()
}

/// A configuration, as far as it lets itself be made.
fn config(rng: &mut Rng) -> TopicConfig {
    let keys = ["log.retention.secs", "log.segment.bytes", "log.cleanup.policy", "log.cleaner.min.cleanable.ratio"];
    let values =
        ["0", "1week+2days", "64mb", "cleanup", "delete", "0.25", "4294967295", "99999999999999999999", "1mon"];
    let mut config = TopicConfig::new();
    for _ in 0..rng.below(6) {
        let (key_len, value_len) = (length(rng, 20), length(rng, 200));
        let key = if rng.one_in(2) { rng.pick(&keys).into() } else { text(rng, key_len) };
        let value = if rng.one_in(2) { rng.pick(&values).into() } else { text(rng, value_len) };
        config = config.clone().set(&key, &value).unwrap_or(config);
    }
    config
}

#[test]
fn administration_asks_for_what_was_meant_or_nothing() {
    cases(1500, |rng, broker, name| {
        let client = broker.client(name, |builder| builder);
        let (topic, id) = (topic(rng), partition(rng));
        let what = rng.below(8);
        let (done, expected) = call(rng, &client, what, &topic, id);
        let asked = broker.asked(name);
        let sent = done.is_ok();
        match done {
            Ok(()) => {
                assert!(is_name(&topic) || matches!(what, 4..=7));
                assert!(what == 3 || asked.contains(&expected), "{asked:?} without {expected:?}");
                let probes = asked.iter().filter(|asked| matches!(asked, Asked::Consume { .. })).count();
                assert!(probes <= 64 && (what == 3 || probes == 0));
            }
            Err(Error { kind: ErrorKind::Broker { fault, .. }, .. }) => {
                let count = partitions_of(&topic);
                assert!(
                    fault == Fault::UnknownTopic && count == 0 || fault == Fault::UnknownPartition && id >= count,
                    "{fault}"
                );
            }
            Err(e) => {
                let legal = match expected {
                    Asked::Create { partitions, .. } => partitions > 0 && is_new_name(&topic),
                    // A search asks for numbers of the partition, and no such request can name the last one.
                    _ => is_name(&topic) && !(what == 3 && id == u16::MAX),
                };
                assert!(!legal && refused(&e), "{e}");
                assert_eq!(asked, [], "{e}");
            }
        }
        sent
    });
}

/// Makes a call; its outcome, and the request that it must end with.
fn call(rng: &mut Rng, client: &Client, what: usize, topic: &str, id: u16) -> (tank_client::Result<()>, Asked) {
    match what {
        0 => {
            let (partitions, config) = (rng.pick(&[0, 1, 64, 65, 256, 65_535]), config(rng));
            let done = client.create_topic(topic, partitions, &config);
            let config = config.to_string();
            // As a server reads it.
            assert_eq!(config.parse::<TopicConfig>().unwrap().to_string(), config);
            assert!(config.is_empty() || config.ends_with('\n'));
            let lines = config.split_terminator('\n');
            assert!(lines.into_iter().all(|line| line.split_once('=').is_some_and(|(key, value)| {
                !key.is_empty() && (1..=127).contains(&value.len()) && !line.contains('#')
            })));
            (done, Asked::Create { topic: topic.into(), partitions, config })
        }
        1 => (client.partitions(topic).map(drop), Asked::Partitions { topic: topic.into() }),
        2 => (client.reload_config(topic, id), Asked::Reload { topic: topic.into(), partition: id }),
        3 => {
            let found = client.seq_at(topic, id, time(rng));
            let found = found.inspect(|seq| assert_eq!(*seq, MARK + 1));
            (found.map(drop), Asked::Partitions { topic: topic.into() })
        }
        4 => (client.topics().map(drop), Asked::Topics),
        5 => (client.topology().map(drop), Asked::Topology),
        6 => (client.status().map(drop), Asked::Status),
        _ => (client.ping().map(drop), Asked::Status),
    }
}

/// A client that cannot say who it is, or how it wants things stored, never connects.
#[test]
fn settings_are_sent_as_meant_or_refused() {
    within(60, || {
        let broker = Broker::start();
        let addr = broker.peer.addr().to_string();
        let refused_by = |client: tank_client::ClientBuilder, wanted: &str| {
            let e = client.connect(&addr).unwrap_err();
            assert!(refused(&e) && e.to_string().contains(wanted), "{e}");
        };
        refused_by(Client::builder().client_id("ä".repeat(128)), "client id: 256 bytes, at most 255 allowed");
        refused_by(Client::builder().acks(Acks::Peers(0)), "acks: 0 peers given, 1 to 200 allowed");
        refused_by(Client::builder().acks(Acks::Peers(201)), "acks: 201 peers given, 1 to 200 allowed");
        refused_by(Client::builder().ack_timeout(Duration::ZERO), "ack time-out: 0ns given");
        refused_by(Client::builder().ack_timeout(Duration::MAX), "2^32-1 ms allowed");
        refused_by(Client::builder().connect_timeout(Duration::ZERO), "above zero");
        refused_by(Client::builder().io_timeout(Duration::ZERO), "above zero");
        let id = "ä".repeat(127) + "x";
        let client = broker.client(&id, |builder| builder.acks(Acks::Quorum).ack_timeout(Duration::from_nanos(1)));
        client.publish("t", 0, &[Record::new(b"")]).unwrap();
        let asked = broker.asked(&id);
        assert!(matches!(&asked[..], [Asked::Produce { acks: 255, timeout: 1, .. }]), "{asked:?}");
        broker.peer.end();
    });
}
