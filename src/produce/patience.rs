//! When to try again what was certainly not stored, and what an answer's code means for that.

use std::net::SocketAddrV4;
use std::sync::Arc;

use log::{debug, warn};

use crate::error::{Error, Fault};
use crate::net::BrokerAddr;
use crate::net::old::{Backoff, Deadline};
use crate::protocol::produce::ProduceCode;
use crate::session::Session as Shared;

/// How many redirects in a row to follow.
const MAX_HOPS: u32 = 32;

/// What an answer says about a bundle.
#[derive(Debug)]
pub(super) enum Verdict {
    Stored,
    /// Not stored, and waiting or asking another broker may help.
    NotYet(Error),
    /// Not stored.
    Refused(Error),
    /// Perhaps stored.
    Unknown(Error),
}

/// How long trouble with a partition has lasted, and when to try again.
#[derive(Debug, Default)]
pub(super) struct Patience(Option<Trouble>);

#[derive(Debug)]
struct Trouble {
    give_up: Deadline,
    backoff: Backoff,
    /// When to try again; at once if there is none.
    pause: Option<Deadline>,
    /// Tries that came to no broker.
    unsent: usize,
    /// Redirects in a row.
    hops: u32,
}

impl Patience {
    /// Notes that all is well.
    pub(super) fn reset(&mut self) {
        self.0 = None;
    }

    /// Until when to wait with the next try, if at all.
    pub(super) fn pause(&self) -> Option<Deadline> {
        self.0.as_ref().and_then(|trouble| trouble.pause).filter(|pause| !pause.has_passed())
    }

    fn trouble(&mut self, shared: &Shared) -> &mut Trouble {
        self.0.get_or_insert_with(|| Trouble {
            give_up: Deadline::after(shared.config.retry_timeout),
            backoff: shared.config.leader_backoff(),
            pause: None,
            unsent: 0,
            hops: 0,
        })
    }

    /// Whether to try again after a pause.
    pub(super) fn wait(&mut self, shared: &Shared) -> bool {
        let trouble = self.trouble(shared);
        if trouble.give_up.has_passed() {
            return false;
        }
        trouble.pause = Some(Deadline::after(trouble.backoff.next_pause()));
        true
    }

    /// Whether to try again after a request that this broker was not sent whole.
    pub(super) fn after_unsent(&mut self, shared: &Shared, addr: &BrokerAddr, e: &Error, reused: bool) -> bool {
        debug!("{addr}: not sent: {e}");
        // It had ended while idle, only just unnoticed: that says nothing about the broker.
        if reused && e.is_retryable() && !e.is_timeout() {
            return true;
        }
        shared.book.failed(addr, shared.now());
        let brokers = shared.book.brokers().len();
        let trouble = self.trouble(shared);
        trouble.unsent += 1;
        trouble.hops = 0;
        trouble.pause = None;
        trouble.unsent % brokers != 0 || (e.is_retryable() && self.wait(shared))
    }

    /// Works out what a code in this broker's answer means, and when to try again.
    pub(super) fn judge(
        &mut self,
        shared: &Shared,
        from: &BrokerAddr,
        topic: &str,
        partition: u16,
        first_seq: u64,
        code: ProduceCode,
    ) -> Verdict {
        let error = |fault| Error::broker(topic, partition, fault);
        match code {
            ProduceCode::Stored => {
                self.reset();
                Verdict::Stored
            }
            ProduceCode::UnknownTopic => Verdict::Refused(Error::broker(topic, None, Fault::UnknownTopic)),
            ProduceCode::UnknownPartition => Verdict::Refused(error(Fault::UnknownPartition)),
            ProduceCode::ReadOnly => Verdict::Refused(error(Fault::ReadOnly)),
            ProduceCode::InvalidSeq => Verdict::Refused(error(Fault::SeqNotAbove { seq: first_seq })),
            ProduceCode::SystemError => Verdict::Unknown(error(Fault::System)),
            ProduceCode::NotConfirmed => Verdict::Unknown(error(Fault::NotConfirmed)),
            ProduceCode::InsufficientReplicas => self.not_yet(shared, error(Fault::InsufficientReplicas)),
            ProduceCode::NoLeader => self.leaderless(shared, from, topic, partition),
            ProduceCode::Redirect(to) => self.redirected(shared, from, topic, partition, to),
        }
    }

    fn leaderless(&mut self, shared: &Shared, from: &BrokerAddr, topic: &str, partition: u16) -> Verdict {
        shared.book.forget(topic, partition);
        shared.book.knew_no_leader(from, shared.now());
        self.not_yet(shared, Error::broker(topic, partition, Fault::NoLeader))
    }

    fn not_yet(&mut self, shared: &Shared, e: Error) -> Verdict {
        if !self.wait(shared) {
            return Verdict::Refused(e);
        }
        warn!("{e}, trying again");
        Verdict::NotYet(e)
    }

    fn redirected(
        &mut self,
        shared: &Shared,
        from: &BrokerAddr,
        topic: &str,
        partition: u16,
        to: SocketAddrV4,
    ) -> Verdict {
        let leader = match shared.book.named(to) {
            Err(fault) => return Verdict::Refused(Error::broker(topic, partition, fault)),
            Ok(None) => return self.leaderless(shared, from, topic, partition),
            Ok(Some(leader)) => leader,
        };
        debug!("{topic}/{partition}: redirected to {leader}");
        shared.book.learn(&Arc::from(topic), partition, leader, shared.now());
        let trouble = self.trouble(shared);
        trouble.hops += 1;
        trouble.pause = None;
        let hops = trouble.hops;
        // It may be the only one to think so, and whom it named before could not be reached.
        if hops > 1 || trouble.unsent > 0 {
            shared.book.knew_no_leader(from, shared.now());
        }
        let e = Error::broker(topic, partition, Fault::Redirects { hops, last: to });
        // The first redirect is how leaders are found; a second one in a row wants time to settle.
        if hops == 1 || (hops < MAX_HOPS && self.wait(shared)) { Verdict::NotYet(e) } else { Verdict::Refused(e) }
    }
}
