//! The address book: which brokers there are, which of them failed when, and who leads what.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use log::debug;

use super::addr::BrokerAddr;
use super::network::{Time, locked};
use super::settings::ChannelSettings;
use crate::error::Fault;

/// The most nodes to remember.
const MAX_BROKERS: usize = 256;

/// The most topics to remember the leaders of: a long-lived client may read ever new ones.
const MAX_TOPICS: usize = 1 << 16;

/// For how long a broker that failed comes after all others.
const DEMOTED_FOR: Duration = Duration::from_secs(15);

/// Why a broker did not do what it was asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It says that this node leads the partition. Only several of these in a row are a fault.
    Redirect(SocketAddrV4),
    Fault(Fault),
}

impl Refusal {
    /// Returns the fault. For a redirect, `redirects` is how many there were in a row.
    pub(crate) fn fault(self, redirects: u32) -> Fault {
        match self {
            Refusal::Redirect(last) => Fault::Redirects { hops: redirects, last },
            Refusal::Fault(fault) => fault,
        }
    }
}

/// The address book that a client and its subscriptions share.
pub(crate) struct AddressBook {
    /// Those the user named.
    configured: Vec<BrokerAddr>,
    settings: Arc<ChannelSettings>,
    book: Mutex<Book>,
}

struct Book {
    /// The brokers that the user named and the leaders that were heard of, at least one: the most promising first, and those that
    /// failed last. Each has the moment until which it comes after all others, if it has failed.
    brokers: Vec<(BrokerAddr, Time)>,
    /// The leaders of each topic's partitions, as far as they are known. Comparing a few names costs less than hashing one.
    leaders: BTreeMap<Arc<str>, Vec<Option<BrokerAddr>>>,
}

impl Book {
    /// Puts a broker after all others, but before those that are demoted for longer.
    fn put(&mut self, broker: &BrokerAddr, until: Time) {
        let longer = self.brokers.iter().position(|&(_, demoted_until)| until < demoted_until);
        self.brokers.insert(longer.unwrap_or(self.brokers.len()), (broker.clone(), until));
    }

    /// Moves a broker, if it is known, to where [`put`](Book::put) puts it.
    fn move_back(&mut self, broker: &BrokerAddr, until: Time) {
        if let Some(index) = self.brokers.iter().position(|(known, _)| known == broker) {
            self.brokers.remove(index);
            self.put(broker, until);
        }
    }
}

impl AddressBook {
    /// Creates a book of these brokers. If only redirects to them are followed, their names are looked up now. If a name is looked
    /// up again later, to dial it, the addresses found then count.
    pub(crate) fn new(brokers: Vec<BrokerAddr>, settings: Arc<ChannelSettings>) -> AddressBook {
        if settings.config.known_brokers_only {
            for broker in brokers.iter().filter(|broker| broker.socket_addr().is_none()) {
                if let Err(e) = settings.look_up(broker) {
                    debug!("{broker}: {e}: not known as the target of a redirect until it is dialed");
                }
            }
        }
        let known = brokers.iter().map(|broker| (broker.clone(), Time::ZERO)).collect();
        let book = Book { brokers: known, leaders: BTreeMap::new() };
        AddressBook { configured: brokers, settings, book: Mutex::new(book) }
    }

    /// Returns where to reach the node that a broker names as a leader; `None` if it names nobody.
    ///
    /// # Errors
    /// The settings do not allow following the redirect.
    pub(crate) fn resolve_redirect(&self, endpoint: SocketAddrV4) -> Result<Option<BrokerAddr>, Fault> {
        if endpoint.port() == 0 || endpoint.ip().is_unspecified() || endpoint.ip().is_broadcast() {
            return Ok(None);
        }
        let address = self.settings.config.endpoints.as_ref().map_or(endpoint.into(), |map| map.0(endpoint));
        let is_known = || self.is_configured(&BrokerAddr::from(address)) || self.settings.has_name(address);
        if self.settings.config.known_brokers_only && !is_known() {
            return Err(Fault::RedirectRefused(endpoint));
        }
        Ok(Some(BrokerAddr::from(address)))
    }

    /// Returns whether the user named this broker.
    pub(crate) fn is_configured(&self, addr: &BrokerAddr) -> bool {
        self.configured.contains(addr)
    }

    /// Returns the known brokers, the most promising first.
    pub(crate) fn brokers(&self) -> Vec<BrokerAddr> {
        locked(&self.book).brokers.iter().map(|(addr, _)| addr.clone()).collect()
    }

    /// Returns the broker to ask for a partition: its leader if that is known, else the most promising one.
    pub(crate) fn leader_or_any(&self, topic: &str, partition: u16) -> BrokerAddr {
        let book = locked(&self.book);
        let leader = book.leaders.get(topic).and_then(|leaders| leaders.get(usize::from(partition))?.as_ref());
        leader.unwrap_or(&book.brokers[0].0).clone()
    }

    /// Notes what a broker's answer about a partition says of its leader. Returns what the answer means: a redirect to nobody
    /// means that there is no leader, and one that may not be followed is a fault of its own.
    pub(crate) fn note_reply<T>(
        &self,
        from: &BrokerAddr,
        topic: &Arc<str>,
        partition: u16,
        now: Time,
        reply: Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let leader = match &reply {
            Ok(_) | Err(Refusal::Fault(Fault::NotConfirmed)) => Some(from.clone()),
            Err(Refusal::Redirect(endpoint)) => self.resolve_redirect(*endpoint).map_err(Refusal::Fault)?,
            Err(Refusal::Fault(Fault::NoLeader)) => None,
            Err(_) => return reply,
        };
        let Some(leader) = leader else {
            self.clear_leader(topic, partition);
            self.demote(from, now);
            return Err(Refusal::Fault(Fault::NoLeader));
        };
        self.set_leader(topic, partition, leader, now);
        reply
    }

    /// Remembers who leads a partition.
    pub(crate) fn set_leader(&self, topic: &Arc<str>, partition: u16, leader: BrokerAddr, now: Time) {
        let mut book = locked(&self.book);
        if book.leaders.len() >= MAX_TOPICS && !book.leaders.contains_key(topic) {
            // Whoever asks for it again is redirected.
            book.leaders.pop_first();
        }
        let leaders = book.leaders.entry(topic.clone()).or_default();
        let index = usize::from(partition);
        leaders.resize(leaders.len().max(index + 1), None);
        if leaders[index].as_ref() == Some(&leader) {
            return;
        }
        debug!("{topic}/{partition} is led by {leader}");
        leaders[index] = Some(leader.clone());
        let is_known = book.brokers.iter().any(|(known, _)| *known == leader);
        if !is_known && book.brokers.len() < MAX_BROKERS {
            book.put(&leader, now);
        }
    }

    /// Forgets who leads a partition.
    pub(crate) fn clear_leader(&self, topic: &str, partition: u16) {
        let mut book = locked(&self.book);
        let known = book.leaders.get_mut(topic).and_then(|leaders| leaders.get_mut(usize::from(partition)));
        if let Some(leader) = known {
            *leader = None;
        }
    }

    /// Puts a broker that knows no leader, or none that can be reached, after the others: they may know better.
    pub(crate) fn demote(&self, addr: &BrokerAddr, now: Time) {
        locked(&self.book).move_back(addr, now);
    }

    /// Moves a broker that failed after the others for a while, and forgets all that it leads.
    pub(crate) fn demote_failed(&self, addr: &BrokerAddr, now: Time) {
        let mut book = locked(&self.book);
        book.move_back(addr, now.after(DEMOTED_FOR));
        for leader in book.leaders.values_mut().flatten() {
            leader.take_if(|leader| leader == addr);
        }
    }
}

#[cfg(test)]
mod tests;
