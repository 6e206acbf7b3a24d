//! How nodes behave: what a builder chooses, and the switches for nodes at their worst.

use std::time::Duration;

/// How the partitions' logs are laid out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) segment_bytes: u64,
    pub(crate) index_interval: u64,
}

/// Fixed when a machine is made.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) layout: Layout,
    pub(crate) exact_waits: bool,
    pub(crate) cut_chunks: bool,
    pub(crate) read_only: bool,
    pub(crate) silent_timeout: Option<Duration>,
    pub(crate) idle_timeout: Option<Duration>,
    /// How many requests each node remembers.
    pub(crate) kept_requests: usize,
    /// Whether every bundle that is stored is noted for [`Machine::appended`](super::Machine::appended).
    pub(crate) journal: bool,
    pub(crate) behaviour: Behaviour,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            layout: Layout { segment_bytes: 1 << 30, index_interval: 4096 },
            exact_waits: false,
            cut_chunks: false,
            read_only: false,
            silent_timeout: Some(Duration::from_secs(16)),
            idle_timeout: None,
            kept_requests: 1024,
            journal: false,
            behaviour: Behaviour::at_once(),
        }
    }
}

/// What the nodes of a cluster have in common.
#[derive(Debug, Clone)]
pub(crate) struct ClusterOptions {
    pub(crate) name: String,
    /// Replication factor of new topics.
    pub(crate) factor: usize,
    /// How long a topic created over the network has no leaders.
    pub(crate) election: Duration,
}

/// Least and most of something that varies.
pub(crate) type Span = (Duration, Duration);

/// What real nodes were seen to do, switch by switch.
#[derive(Debug, Clone)]
pub(crate) struct Behaviour {
    /// From which everything random follows.
    pub(crate) seed: u64,
    /// How replicas follow their leader; `None`: every copy is complete at any time, that of a node that is down too.
    pub(crate) replication: Option<Replication>,
    /// Numbered bundles are checked against the committed mark, not against the log's end, and so are stored twice or
    /// with numbers that run backwards (reference, 6.5; seen with replication 2).
    pub(crate) checks_mark_only: bool,
    /// When a cluster notices by itself that a node is gone (table in cluster.md); `None`: never.
    pub(crate) fail_over: Option<FailOver>,
    /// For how long nodes do not know a topic after its creation was answered (cluster.md, "Who answers what"; then it has
    /// no leaders for [`election`](ClusterOptions::election)); `None`: not at all.
    pub(crate) unknown_at_first: Option<Span>,
    /// For how long a leader that hung and lost its partitions keeps acting as their leader once it resumes: it takes
    /// messages (0x03) and gives them to those who wait at it (cluster.md, "Fail-over").
    pub(crate) deposed_leads_on: Option<Span>,
    /// How many of a thousand waits that data ends in a cluster are numbered wrongly (reference, section 19, as 15, 15, 17
    /// for 15, 16, 17).
    pub(crate) wrong_wait_numbers: u32,
    /// How many of a thousand waits end early and empty although nothing happened (reference, 5.6: whenever a leader
    /// changes, also back to the same node).
    pub(crate) early_waits: u32,
    /// How many of a thousand waits are never answered, while the connection lives on (cluster.md, "Fail-over": nothing wakes a
    /// consumer that waits at a leader that lost its partition).
    pub(crate) forgotten_waits: u32,
    /// After how long a node comes back that a request has killed (reference, section 19); `None`: the request is only
    /// noted and its connection closed.
    pub(crate) deadly: Option<Duration>,
}

/// How replicas follow their leader.
#[derive(Debug, Clone)]
pub(crate) struct Replication {
    /// From one fetch of a replica to the next, if there is something for it.
    pub(crate) delay: Span,
    /// Messages are put into sparse bundles of at most this many at a replica (128: reference, 6.5; captures
    /// `captures-cluster`, where a bundle of several messages becomes a sparse one); 0: bundles stay as they are.
    pub(crate) rebundle: usize,
    /// How many of a thousand fetches take only a part, which may end inside a bundle (reference, 6.5).
    pub(crate) partial: u32,
    /// After how long a replica that does not keep up is out of sync.
    pub(crate) out_of_sync_after: Duration,
}

/// When a cluster notices that a node is gone.
#[derive(Debug, Clone)]
pub(crate) struct FailOver {
    /// Killed or hung: 16 to 20 s.
    pub(crate) silent: Span,
    /// Stopped in order: 0.7 to 2.3 s.
    pub(crate) in_order: Span,
}

impl Behaviour {
    /// Nothing happens by itself, and what is stored is at once at every replica.
    pub(crate) fn at_once() -> Behaviour {
        Behaviour {
            seed: 0,
            replication: None,
            checks_mark_only: false,
            fail_over: None,
            unknown_at_first: None,
            deposed_leads_on: None,
            wrong_wait_numbers: 0,
            early_waits: 0,
            forgotten_waits: 0,
            deadly: None,
        }
    }

    /// Everything that real nodes were seen to do, but for [`deposed_leads_on`](Behaviour::deposed_leads_on): no client
    /// can make up for two logs that differ.
    pub(crate) fn worst(seed: u64) -> Behaviour {
        let ms = Duration::from_millis;
        Behaviour {
            seed,
            replication: Some(Replication {
                delay: (ms(1), ms(40)),
                rebundle: 128,
                partial: 50,
                out_of_sync_after: ms(10_000),
            }),
            checks_mark_only: true,
            fail_over: Some(FailOver { silent: (ms(16_000), ms(20_000)), in_order: (ms(700), ms(2_300)) }),
            unknown_at_first: Some((ms(1), ms(20))),
            deposed_leads_on: None,
            wrong_wait_numbers: 30,
            early_waits: 10,
            forgotten_waits: 0,
            deadly: Some(ms(3_000)),
        }
    }
}

/// Returns the next random number of the generator SplitMix64, and moves its state on: the same on every machine.
pub(crate) fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Random numbers that follow from a seed.
#[derive(Debug)]
pub(super) struct Chance(u64);

impl Chance {
    pub(super) fn new(seed: u64) -> Chance {
        Chance(seed)
    }

    /// A number below `end`; 0 if that is 0.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        split_mix(&mut self.0).checked_rem(end).unwrap_or(0)
    }

    /// Returns whether something happens that does so this many times in a thousand.
    pub(super) fn happens(&mut self, per_mille: u32) -> bool {
        per_mille > 0 && self.below(1000) < per_mille.into()
    }

    pub(super) fn within(&mut self, (least, most): Span) -> Duration {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(nanos(least).saturating_add(self.below(nanos(most).saturating_sub(nanos(least)) + 1)))
    }
}
