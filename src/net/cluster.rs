//! Which brokers there are, and which of them leads what.

use std::collections::HashMap;
use std::net::SocketAddrV4;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use log::debug;

use super::addr::BrokerAddr;
use super::clock::Deadline;
use crate::config::{Config, Redirects};
use crate::error::Fault;

/// The most nodes to remember.
const MAX_BROKERS: usize = 256;

/// For how long a broker that failed is asked after all others only.
const DISTRUST: Duration = Duration::from_secs(15);

/// The address book that a client and its subscriptions share.
#[derive(Debug)]
pub(crate) struct Cluster {
    config: Arc<Config>,
    /// Those the user named.
    given: Vec<BrokerAddr>,
    book: Mutex<Book>,
}

#[derive(Debug)]
struct Book {
    /// Those the user named and leaders that were heard of, the most promising first, those that failed last; at least one.
    brokers: Vec<Known>,
    leaders: HashMap<Arc<str>, HashMap<u16, BrokerAddr>>,
}

/// A broker that is known.
#[derive(Debug)]
struct Known {
    addr: BrokerAddr,
    /// Until when it comes behind all others, if it has failed.
    distrusted: Option<Deadline>,
}

impl Known {
    fn new(addr: BrokerAddr) -> Known {
        Known { addr, distrusted: None }
    }

    fn is_distrusted(&self) -> bool {
        self.distrusted.is_some_and(|until| !until.has_passed())
    }
}

impl Book {
    fn take(&mut self, addr: &BrokerAddr) -> Option<Known> {
        let index = self.brokers.iter().position(|known| known.addr == *addr)?;
        Some(self.brokers.remove(index))
    }

    /// Puts a broker behind all others, but before those that failed just now.
    fn put(&mut self, broker: Known) {
        let at = self.brokers.iter().position(Known::is_distrusted).unwrap_or(self.brokers.len());
        self.brokers.insert(at, broker);
    }
}

impl Cluster {
    pub(crate) fn new(brokers: Vec<BrokerAddr>, config: Arc<Config>) -> Cluster {
        let book = Book { brokers: brokers.iter().cloned().map(Known::new).collect(), leaders: HashMap::new() };
        Cluster { config, given: brokers, book: Mutex::new(book) }
    }

    /// Where to reach the node that a broker names as a leader; `None` if it names nobody.
    ///
    /// # Errors
    /// The settings do not allow to follow it there.
    pub(crate) fn named(&self, endpoint: SocketAddrV4) -> Result<Option<BrokerAddr>, Fault> {
        if endpoint.port() == 0 || endpoint.ip().is_unspecified() || endpoint.ip().is_broadcast() {
            return Ok(None);
        }
        let addr = match &self.config.endpoints {
            Some(map) => BrokerAddr::from(map.reachable(endpoint)),
            None => BrokerAddr::from(endpoint),
        };
        let is_known = || self.given.iter().any(|broker| broker.is_same_host(&addr));
        match self.config.redirects {
            Redirects::Follow => Ok(Some(addr)),
            Redirects::KnownBrokers if is_known() => Ok(Some(addr)),
            Redirects::KnownBrokers => Err(Fault::RedirectRefused(endpoint)),
        }
    }

    /// Whether the user named this broker.
    pub(crate) fn is_given(&self, addr: &BrokerAddr) -> bool {
        self.given.contains(addr)
    }

    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The brokers that are known, the most promising first.
    pub(crate) fn brokers(&self) -> Vec<BrokerAddr> {
        self.book().brokers.iter().map(|known| known.addr.clone()).collect()
    }

    /// The broker to ask for a partition: its leader if that is known, else the most promising one.
    pub(crate) fn broker_for(&self, topic: &str, partition: u16) -> BrokerAddr {
        let book = self.book();
        book.leaders.get(topic).and_then(|leaders| leaders.get(&partition)).unwrap_or(&book.brokers[0].addr).clone()
    }

    /// Remembers who leads a partition.
    pub(crate) fn learn(&self, topic: &Arc<str>, partition: u16, leader: BrokerAddr) {
        let mut book = self.book();
        let is_known = book.brokers.iter().any(|known| known.addr == leader);
        if !is_known && book.brokers.len() < MAX_BROKERS {
            book.put(Known::new(leader.clone()));
        }
        let leaders = match book.leaders.get_mut(topic) {
            Some(leaders) => leaders,
            None => book.leaders.entry(topic.clone()).or_default(),
        };
        if leaders.get(&partition) != Some(&leader) {
            debug!("{topic}/{partition} is led by {leader}");
            leaders.insert(partition, leader);
        }
    }

    /// Forgets who leads a partition.
    pub(crate) fn forget(&self, topic: &str, partition: u16) {
        if let Some(leaders) = self.book().leaders.get_mut(topic) {
            leaders.remove(&partition);
        }
    }

    /// Lets others be asked before a broker that knows no leader, or none that can be reached: they may know better.
    pub(crate) fn knew_no_leader(&self, addr: &BrokerAddr) {
        let mut book = self.book();
        if let Some(broker) = book.take(addr) {
            book.put(broker);
        }
    }

    /// Moves a broker that failed behind the others for a while, and forgets all that it leads.
    pub(crate) fn failed(&self, addr: &BrokerAddr) {
        let mut book = self.book();
        if let Some(broker) = book.take(addr) {
            book.brokers.push(Known { distrusted: Some(Deadline::after(DISTRUST)), ..broker });
        }
        for leaders in book.leaders.values_mut() {
            leaders.retain(|_, leader| leader != addr);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::addr::parse_brokers;
    use super::*;

    #[test]
    fn brokers_take_turns_and_those_that_failed_come_last() {
        let brokers = parse_brokers("a:1,b:2,c:3,d:4").unwrap();
        let cluster = Cluster::new(brokers.clone(), Arc::new(Config::default()));
        let order = || cluster.brokers().iter().map(|addr| addr.to_string()[..1].to_owned()).collect::<String>();
        cluster.failed(&brokers[1]);
        assert_eq!(order(), "acdb");
        for expected in ["cdab", "dacb", "acdb"] {
            let first = cluster.brokers().remove(0);
            cluster.knew_no_leader(&first);
            assert_eq!(order(), expected);
        }
        // Even one that failed is behind none but those that failed after it.
        cluster.failed(&brokers[0]);
        assert_eq!(order(), "cdba");
        cluster.knew_no_leader(&brokers[1]);
        assert_eq!(order(), "cdba");
        // Leaders that are new come before them; those that are unknown change nothing.
        let new = parse_brokers("e:5").unwrap().remove(0);
        cluster.knew_no_leader(&new);
        assert_eq!(order(), "cdba");
        cluster.learn(&"orders".into(), 0, new.clone());
        assert_eq!((order().as_str(), cluster.broker_for("orders", 0)), ("cdeba", new));
    }
}
