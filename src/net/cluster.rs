//! Which brokers there are, and which of them leads what.

use std::collections::HashMap;
use std::net::SocketAddrV4;
use std::sync::{Arc, Mutex, PoisonError};

use log::debug;

use super::addr::BrokerAddr;
use crate::config::{Config, Redirects};
use crate::error::Fault;

/// The most nodes to remember.
const MAX_BROKERS: usize = 256;

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
    /// Those the user named and leaders that were heard of, the most promising first; at least one.
    brokers: Vec<BrokerAddr>,
    leaders: HashMap<Arc<str>, HashMap<u16, BrokerAddr>>,
}

impl Cluster {
    pub(crate) fn new(brokers: Vec<BrokerAddr>, config: Arc<Config>) -> Cluster {
        Cluster { config, given: brokers.clone(), book: Mutex::new(Book { brokers, leaders: HashMap::new() }) }
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
        self.book().brokers.clone()
    }

    /// The broker to ask for a partition: its leader if that is known, else the most promising one.
    pub(crate) fn broker_for(&self, topic: &str, partition: u16) -> BrokerAddr {
        let book = self.book();
        book.leaders.get(topic).and_then(|leaders| leaders.get(&partition)).unwrap_or(&book.brokers[0]).clone()
    }

    /// Remembers who leads a partition.
    pub(crate) fn learn(&self, topic: &Arc<str>, partition: u16, leader: BrokerAddr) {
        let mut book = self.book();
        if !book.brokers.contains(&leader) && book.brokers.len() < MAX_BROKERS {
            book.brokers.push(leader.clone());
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

    /// Moves a broker that failed behind the others, and forgets all that it leads.
    pub(crate) fn failed(&self, addr: &BrokerAddr) {
        let mut book = self.book();
        if let Some(index) = book.brokers.iter().position(|broker| broker == addr) {
            let broker = book.brokers.remove(index);
            book.brokers.push(broker);
        }
        for leaders in book.leaders.values_mut() {
            leaders.retain(|_, leader| leader != addr);
        }
    }
}
