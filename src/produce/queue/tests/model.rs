//! Random trouble against brokers in memory: what is reported stored is in the log exactly once, in order, and what is reported not
//! stored is not.

use super::*;

/// Runs of each kind; a thousand found nothing more.
const SEEDS: u64 = 60;

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

type Log = Vec<(u64, u64)>;

/// Two nodes that lead in turn, each with a log of its own, and the connection to one of them.
struct World {
    rng: Rng,
    numbering: bool,
    logs: [Log; 2],
    leader: usize,
    /// The committed mark at the leader: 0 after a fail-over, whatever the log holds.
    mark: u64,
    /// Where the requests went, those not executed, and the answers under way.
    connected: usize,
    requests: VecDeque<(u32, Request)>,
    answers: VecDeque<(u32, Answer)>,
    trouble: bool,
}

enum Request {
    Bundle(Vec<(u64, u64)>),
    End,
    Mark,
}

impl World {
    fn end(&self, node: usize) -> u64 {
        self.logs[node].last().map_or(0, |&(seq, _)| seq)
    }

    /// The replica copies the leader's log, or a part of it.
    fn replicate(&mut self, whole: bool) {
        let (leader, replica) = (self.leader, 1 - self.leader);
        let common = self.logs[leader].iter().zip(&self.logs[replica]).take_while(|(a, b)| a == b).count();
        let missing = self.logs[leader].len() - common;
        let more = if whole { missing } else { self.rng.below(missing as u64 + 1) as usize };
        let copy = self.logs[leader][..common + more].to_vec();
        self.logs[replica] = copy;
    }

    fn execute(&mut self) {
        let Some((id, request)) = self.requests.pop_front() else { return };
        let (node, passing) = (self.connected, self.trouble && self.rng.one_in(12));
        let leads = node == self.leader;
        let answer = match request {
            Request::Bundle(_) if passing => match self.rng.below(3) {
                0 => refused(Fault::NoLeader),
                1 => refused(Fault::InsufficientReplicas),
                _ => redirect(),
            },
            Request::End | Request::Mark if passing => refused(Fault::NoLeader),
            _ if !leads => redirect(),
            Request::End => log_end(self.end(node).max(self.mark)),
            Request::Mark => {
                // Somebody else's writes move it.
                if !self.trouble || self.rng.one_in(3) {
                    self.replicate(true);
                    self.mark = self.end(node);
                }
                mark(self.mark)
            }
            Request::Bundle(records) => self.store(node, records),
        };
        self.answers.push_back((id, answer));
    }

    /// As a real node does: numbers are compared with the committed mark only.
    fn store(&mut self, node: usize, records: Vec<(u64, u64)>) -> Answer {
        if self.trouble && self.rng.one_in(60) {
            if self.rng.one_in(2) {
                self.append(node, records);
            }
            return refused(Fault::System);
        }
        if self.numbering && records[0].0 <= self.mark {
            return refused(Fault::SeqNotAbove { seq: records[0].0 });
        }
        self.append(node, records);
        if self.trouble && self.rng.one_in(4) {
            self.replicate(false);
            return refused(Fault::NotConfirmed);
        }
        self.replicate(true);
        self.mark = self.end(node);
        STORED
    }

    fn append(&mut self, node: usize, records: Vec<(u64, u64)>) {
        for (seq, payload) in records {
            let seq = if self.numbering { seq } else { self.end(node) + 1 };
            self.logs[node].push((seq, payload));
        }
    }

    fn fail_over(&mut self) {
        self.leader = 1 - self.leader;
        self.mark = 0;
    }
}

/// What the caller knows of its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Pending,
    Stored,
    NotStored,
    Unknown,
}

struct Run {
    world: World,
    queue: PartitionQueue,
    now: Time,
    id: u32,
    known: Vec<Known>,
    failed: Vec<Bundle>,
    /// Whether an answer was lost, or said 2 or 3, or time was up.
    may_be_unknown: bool,
}

impl Run {
    fn collect(&mut self) {
        for (bundle, outcome) in self.queue.take_deliveries() {
            match outcome {
                Ok(()) => self.note(&bundle, Known::Stored),
                Err(e) => {
                    let unknown = e.kind == ErrorKind::OutcomeUnknown;
                    assert!(!unknown || self.may_be_unknown, "{e:?}");
                    self.note(&bundle, if unknown { Known::Unknown } else { Known::NotStored });
                    self.failed.push(bundle);
                }
            }
        }
    }

    fn note(&mut self, bundle: &Bundle, known: Known) {
        for (_, text) in contents(bundle) {
            let payload: usize = text.parse().unwrap();
            self.known[payload] = known;
            let copies = |log: &Log| log.iter().filter(|&&(_, found)| found == payload as u64).count();
            let leader = copies(&self.world.logs[self.world.leader]);
            match known {
                Known::Stored => assert_eq!(leader, 1, "{payload} is stored: {:?}", self.world.logs),
                Known::NotStored => assert_eq!(leader, 0, "{payload} is not stored"),
                _ => {}
            }
        }
    }

    fn send(&mut self) {
        let leader = self.queue.leader.unwrap_or(self.world.leader);
        // The connection is to one node at a time.
        if leader != self.world.connected && !(self.world.requests.is_empty() && self.world.answers.is_empty()) {
            return;
        }
        let Some(what) = self.queue.prepare_next(self.now, leader) else { return };
        self.world.connected = leader;
        self.id += 1;
        let request = match what {
            ToSend::End => Request::End,
            ToSend::Mark => Request::Mark,
            ToSend::Bundle => {
                let records = contents(self.queue.first_waiting().unwrap());
                Request::Bundle(records.into_iter().map(|(seq, text)| (seq, text.parse().unwrap())).collect())
            }
        };
        self.queue.sent(self.id, leader, what);
        self.world.requests.push_back((self.id, request));
    }

    fn answer(&mut self) {
        let Some((id, answer)) = self.world.answers.pop_front() else { return };
        self.may_be_unknown |= matches!(answer, Err(Refusal::Fault(Fault::System | Fault::NotConfirmed)));
        self.queue.on_answer(self.now, self.world.connected, id, answer);
    }

    /// Requests that were executed lose their answers; of the others those that were handed over are dropped with the reset.
    fn lose(&mut self) {
        let unexecuted = self.world.requests.len() as u64;
        let handed_over = self.world.rng.below(unexecuted + 1) as usize;
        let answers: Vec<u32> = self.world.answers.drain(..).map(|(id, _)| id).collect();
        let requests: Vec<u32> = self.world.requests.drain(..).map(|(id, _)| id).collect();
        self.may_be_unknown |= !answers.is_empty() || handed_over > 0;
        let error = Error::disconnected(&"a:1", Phase::Wait);
        for (index, id) in answers.iter().map(|id| (0, *id)).chain(requests.into_iter().enumerate()) {
            let handed_over = answers.contains(&id) || index < handed_over;
            self.queue.on_lost(self.now, id, &error, Duration::ZERO, handed_over);
        }
        self.queue.numbering.leader = None; // the next connection is a new one
    }

    fn give(&mut self) {
        let count = 1 + self.world.rng.below(4);
        let texts: Vec<String> = (0..count).map(|n| (self.known.len() as u64 + n).to_string()).collect();
        self.known.extend((0..count).map(|_| Known::Pending));
        give(&mut self.queue, &texts.iter().map(String::as_str).collect::<Vec<_>>());
    }

    fn step(&mut self) {
        match self.world.rng.below(16) {
            0 if self.failed.is_empty() => self.give(),
            1..=4 => self.send(),
            5..=8 => self.world.execute(),
            9..=12 => self.answer(),
            13 => self.now = self.now.after(Duration::from_millis(self.world.rng.below(200))),
            14 if self.world.trouble && self.world.rng.one_in(6) => self.lose(),
            // A leader that goes loses its connections.
            15 if self.world.trouble && self.world.rng.one_in(20) => {
                self.lose();
                self.world.fail_over();
            }
            14 if self.world.trouble && self.world.rng.one_in(200) => {
                self.now = self.now.after(Duration::from_secs(100));
                self.may_be_unknown = true;
            }
            _ => {}
        }
        self.collect();
    }

    /// Sends failures again, but for some that are dropped; a plain queue must not send again what may be stored.
    fn take_back(&mut self) {
        let (mut dropped, drops) = (Vec::new(), self.world.rng.one_in(3));
        for bundle in std::mem::take(&mut self.failed) {
            let payloads: Vec<usize> = contents(&bundle).iter().map(|(_, text)| text.parse().unwrap()).collect();
            let allowed = self.world.numbering || self.known[payloads[0]] == Known::NotStored;
            if !allowed || (drops && self.world.rng.one_in(2)) {
                dropped.push(bundle);
            } else {
                payloads.into_iter().for_each(|payload| self.known[payload] = Known::Pending);
                self.queue.take_back(bundle);
            }
        }
        self.queue.dropped(dropped.iter());
    }
}

fn run(seed: u64, numbering: bool) -> [usize; 3] {
    let world = World {
        rng: Rng(seed),
        numbering,
        logs: [vec![], vec![]],
        leader: 0,
        mark: 0,
        connected: 0,
        requests: VecDeque::new(),
        answers: VecDeque::new(),
        trouble: true,
    };
    let (known, failed) = (Vec::new(), Vec::new());
    let mut run = Run { world, queue: queue(numbering), now: at(0), id: 0, known, failed, may_be_unknown: false };
    let mut failures = 0;
    for _ in 0..3_000 {
        run.step();
        if !run.failed.is_empty() && run.queue.is_idle() {
            failures += 1;
            run.take_back();
        }
    }
    run.world.trouble = false;
    let mut steps = 0;
    while !run.queue.is_idle() || !run.failed.is_empty() {
        run.take_back();
        (0..10).for_each(|_| run.step());
        steps += 1;
        assert!(steps < 100_000, "it never ends: {:?}", run.queue);
    }
    let log = &run.world.logs[run.world.leader];
    assert!(log.windows(2).all(|pair| pair[0].0 < pair[1].0), "numbers run backwards: {log:?}");
    // Of a plain queue what is unknown may have been stored, and its place is that of its first try.
    assert!(log.windows(2).all(|pair| pair[0].1 < pair[1].1) || !numbering, "out of order: {log:?}");
    let mut counts = [0, 0, failures];
    for (payload, &known) in run.known.iter().enumerate() {
        let copies = log.iter().filter(|&&(_, found)| found == payload as u64).count();
        match known {
            Known::Stored => assert_eq!(copies, 1, "{payload}"),
            Known::NotStored => assert_eq!(copies, 0, "{payload}"),
            Known::Unknown => assert!(copies <= 1, "{payload}"),
            Known::Pending => panic!("{payload} was forgotten"),
        }
        counts[usize::from(known != Known::Stored)] += 1;
    }
    counts
}

#[test]
fn numbered_records_are_stored_exactly_once_and_in_order_whatever_happens() {
    let mut total = [0; 3];
    for seed in 0..SEEDS {
        let counts = std::panic::catch_unwind(|| run(seed, true)).unwrap_or_else(|_| panic!("seed {seed}"));
        (0..3).for_each(|n| total[n] += counts[n]);
    }
    assert!(total[0] > 6_000 && total[2] > 6, "{total:?}");
}

#[test]
fn plain_records_are_stored_at_most_once_and_in_order_whatever_happens() {
    let mut total = [0; 3];
    for seed in 0..SEEDS {
        let counts = std::panic::catch_unwind(|| run(seed, false)).unwrap_or_else(|_| panic!("seed {seed}"));
        (0..3).for_each(|n| total[n] += counts[n]);
    }
    assert!(total[0] > 3_000 && total[1] > 60, "{total:?}");
}
