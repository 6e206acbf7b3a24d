//! Reading logs of all kinds in all ways, against the plainest model: a list.

use std::time::{Duration, UNIX_EPOCH};

use common::rng::{Rng, seeded};
use common::watch::SOON;
use tank_client::Compression;
use tank_client::broker::{Broker, BrokerFault, dense_bundle, sparse_bundle};
use tank_client::simulation::Simulation;
use tank_client::{ConsumeIter, OutOfRange, Record, Start, Subscription};

/// Number and time stamp of each message; its payload is the number, in some length.
type Log = Vec<(u64, u64)>;

const PARTITIONS: usize = 3;

fn payload(seq: u64) -> Vec<u8> {
    let len = [8, 8, 8, 30, 100, 3000][seq as usize % 6];
    let mut bytes = seq.to_le_bytes().repeat(len / 8 + 1);
    bytes.truncate(len);
    bytes
}

/// A partition with bundles small and large, dense and sparse, packed and not.
fn fill(broker: &Broker, partition: u16, rng: &mut Rng) -> Log {
    let mut log = Log::new();
    let mut next = 1;
    for _ in 0..rng.between(1, 40) {
        let compression = rng.pick(&[Compression::None, Compression::None, Compression::Snappy]);
        let (count, is_sparse) = (rng.pick(&[1, 1, 1, 2, 20, 60]), rng.one_in(4));
        let mut seqs: Vec<u64> = Vec::new();
        for _ in 0..count {
            next += if is_sparse { rng.below(5) as u64 } else { 0 };
            seqs.push(next);
            next += 1;
        }
        let payloads: Vec<_> = seqs.iter().map(|&seq| payload(seq)).collect();
        let stamps: Vec<u64> = seqs.iter().map(|_| rng.below(50) as u64 + 10 * log.len() as u64).collect();
        let messages = payloads.iter().zip(&stamps);
        let messages: Vec<_> =
            messages.map(|(payload, &timestamp_ms)| Record::new(payload).timestamp_ms(timestamp_ms)).collect();
        if is_sparse {
            let numbered: Vec<_> = seqs.iter().copied().zip(messages).collect();
            broker.append("t", partition, &sparse_bundle(&numbered, compression));
        } else {
            broker.append("t", partition, &dense_bundle(&messages, compression));
        }
        log.extend(seqs.into_iter().zip(stamps));
    }
    log
}

/// What a reader must get of a partition.
struct Wanted {
    from: u64,
    to: u64,
    before_time: u64,
}

impl Wanted {
    fn of(&self, log: &Log) -> Vec<u64> {
        let log = log.iter().skip_while(|(seq, _)| *seq < self.from);
        let log = log.take_while(|(seq, time)| *seq <= self.to && *time < self.before_time);
        log.map(|(seq, _)| *seq).collect()
    }
}

/// Checks that every position lies after what was delivered, and not beyond what is next.
fn check_positions(iter: &ConsumeIter, got: &[Vec<u64>], want: &[Vec<u64>]) {
    for partition in 0..PARTITIONS {
        let Some(position) = iter.position_of("t", partition as u16) else { continue };
        let (got, want) = (&got[partition], &want[partition]);
        assert!(got.last().is_none_or(|last| position > *last), "{position} after {got:?}");
        assert!(want.get(got.len()).is_none_or(|next| position <= *next), "{position} after {got:?} of {want:?}");
    }
}

/// Takes messages in all ways, at least `most` if there are that many.
fn read(iter: &mut ConsumeIter, rng: &mut Rng, most: usize, got: &mut [Vec<u64>], want: &[Vec<u64>]) {
    let mut taken = 0;
    while taken < most && !iter.is_finished() {
        let mut take = |partition: u16, seq: u64, bytes: &[u8]| {
            assert_eq!(bytes, payload(seq));
            got[usize::from(partition)].push(seq);
            taken += 1;
        };
        match rng.below(4) {
            0 => {
                if let Some(batch) = iter.next_batch().unwrap() {
                    batch.iter().for_each(|m| take(m.partition(), m.seq(), m.payload()));
                }
            }
            1 => {
                if let Some(m) = iter.next_timeout(SOON).unwrap() {
                    take(m.partition(), m.seq(), m.payload());
                }
            }
            _ => {
                if let Some(m) = iter.next() {
                    let m = m.unwrap();
                    take(m.partition(), m.seq(), m.payload());
                }
            }
        }
        check_positions(iter, got, want);
    }
}

#[test]
fn what_is_read_is_what_is_there() {
    seeded(150, |rng| {
        let sim = Simulation::new(rng.next_u64());
        let broker = sim.broker();
        broker.create_topic("t", PARTITIONS as u16);
        let logs: Vec<Log> = (0..PARTITIONS).map(|partition| fill(&broker, partition as u16, rng)).collect();
        let client = sim.client().backoff(Duration::from_millis(1), Duration::from_millis(2));
        let client = client.connect(broker.brokers()).unwrap();
        let last = logs.iter().filter_map(|log| log.last()).map(|(seq, _)| *seq).min().unwrap_or(0) as usize;
        let wanted = Wanted {
            from: if rng.one_in(2) { 0 } else { rng.between(1, last.max(1)) as u64 },
            to: if rng.one_in(3) { rng.between(1, last.max(1) + 20) as u64 } else { u64::MAX },
            before_time: if rng.one_in(3) { rng.below(500) as u64 } else { u64::MAX },
        };
        let want: Vec<_> = logs.iter().map(|log| wanted.of(log)).collect();
        let mut got = vec![Vec::new(); PARTITIONS];
        // Begun again and again from where the last one stood.
        let mut positions = [wanted.from; PARTITIONS];
        loop {
            let start = |partition: usize| Start::At(positions[partition]);
            let mut all = Subscription::partition("t", 0).start(start(0)).stop_at_end();
            for partition in 1..PARTITIONS {
                all = all.and_partition("t", partition as u16, start(partition));
            }
            if wanted.to < u64::MAX {
                all = all.stop_at_seq(wanted.to);
            }
            if wanted.before_time < u64::MAX {
                all = all.stop_at_time(UNIX_EPOCH + Duration::from_millis(wanted.before_time));
            }
            let all = all.out_of_range(OutOfRange::Earliest).fetch_size(rng.pick(&[1, 100, 2000, 20_000, 1 << 20]));
            let limit = if rng.one_in(4) { rng.between(1, 100) } else { usize::MAX };
            let mut iter = client.subscribe(all.limit(limit as u64)).unwrap();
            if rng.one_in(3) {
                broker.inject(BrokerFault::CutAfter(rng.below(5000) as u64));
            }
            let before = got.iter().map(Vec::len).sum::<usize>();
            let most = rng.pick(&[1, 10, 100, usize::MAX]);
            read(&mut iter, rng, most, &mut got, &want);
            let count = got.iter().map(Vec::len).sum::<usize>() - before;
            assert!(count <= limit);
            assert_eq!(iter.stats().messages, count as u64);
            (0..PARTITIONS).for_each(|p| positions[p] = iter.position_of("t", p as u16).unwrap());
            if most == usize::MAX && count < limit {
                break;
            }
        }
        assert_eq!(got, want, "from {} to {} before {}", wanted.from, wanted.to, wanted.before_time);
    });
}
