//! The address book: which brokers there are, which of them failed when, and who leads what.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use log::debug;

use super::addr::BrokerAddr;
use super::network::Time;
use super::settings::ChannelSettings;
use crate::error::Fault;

/// The most nodes to remember.
const MAX_BROKERS: usize = 256;

/// How long a broker that failed comes after all others.
const DISTRUST: Duration = Duration::from_secs(15);

/// The address book that a client and its subscriptions share.
pub(crate) struct AddressBook {
    /// Those the user named.
    given: Vec<BrokerAddr>,
    settings: Arc<ChannelSettings>,
    book: Mutex<Book>,
}

struct Book {
    /// The brokers that the user named and the leaders that were heard of, at least one: the most promising first, and those that
    /// failed last. Each has the moment until which it comes after all others, if it has failed.
    brokers: Vec<(BrokerAddr, Time)>,
    /// The leaders of each topic's partitions, as far as they are known. To compare a few names costs less than to hash one.
    leaders: BTreeMap<Arc<str>, Vec<Option<BrokerAddr>>>,
}

impl Book {
    /// Puts a broker after all others, but before those that are distrusted for longer.
    fn put(&mut self, broker: &BrokerAddr, until: Time) {
        let longer = self.brokers.iter().position(|&(_, distrusted_until)| until < distrusted_until);
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
            for broker in brokers.iter().filter(|broker| broker.literal().is_none()) {
                if let Err(e) = settings.look_up(broker) {
                    debug!("{broker}: {e}: not known as the target of a redirect until it is dialed");
                }
            }
        }
        let known = brokers.iter().map(|broker| (broker.clone(), Time::ZERO)).collect();
        let book = Book { brokers: known, leaders: BTreeMap::new() };
        AddressBook { given: brokers, settings, book: Mutex::new(book) }
    }

    /// Returns where to reach the node that a broker names as a leader; `None` if it names nobody.
    ///
    /// # Errors
    /// The settings do not allow following the redirect.
    pub(crate) fn named(&self, endpoint: SocketAddrV4) -> Result<Option<BrokerAddr>, Fault> {
        if endpoint.port() == 0 || endpoint.ip().is_unspecified() || endpoint.ip().is_broadcast() {
            return Ok(None);
        }
        let address = self.settings.config.endpoints.as_ref().map_or(endpoint.into(), |map| map.0(endpoint));
        let is_known = || self.is_given(&BrokerAddr::from(address)) || self.settings.has_name(address);
        match self.settings.config.known_brokers_only && !is_known() {
            true => Err(Fault::RedirectRefused(endpoint)),
            false => Ok(Some(BrokerAddr::from(address))),
        }
    }

    /// Returns whether the user named this broker.
    pub(crate) fn is_given(&self, addr: &BrokerAddr) -> bool {
        self.given.contains(addr)
    }

    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the known brokers, the most promising first.
    pub(crate) fn brokers(&self) -> Vec<BrokerAddr> {
        self.book().brokers.iter().map(|(addr, _)| addr.clone()).collect()
    }

    /// Returns the broker to ask for a partition: its leader if that is known, else the most promising one.
    pub(crate) fn broker_for(&self, topic: &str, partition: u16) -> BrokerAddr {
        let book = self.book();
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
        reply: Result<T, Fault>,
    ) -> Result<T, Fault> {
        let leader = match &reply {
            Ok(_) | Err(Fault::NotConfirmed) => Some(from.clone()),
            Err(Fault::Redirects { last, .. }) => self.named(*last)?,
            Err(Fault::NoLeader) => None,
            Err(_) => return reply,
        };
        let Some(leader) = leader else {
            self.forget(topic, partition);
            self.knew_no_leader(from, now);
            return Err(Fault::NoLeader);
        };
        self.learn(topic, partition, leader, now);
        reply
    }

    /// Remembers who leads a partition.
    pub(crate) fn learn(&self, topic: &Arc<str>, partition: u16, leader: BrokerAddr, now: Time) {
        let mut book = self.book();
        let (leaders, place) = (book.leaders.entry(topic.clone()).or_default(), usize::from(partition));
        leaders.resize(leaders.len().max(place + 1), None);
        if leaders[place].as_ref() == Some(&leader) {
            return;
        }
        debug!("{topic}/{partition} is led by {leader}");
        leaders[place] = Some(leader.clone());
        let is_known = book.brokers.iter().any(|(known, _)| *known == leader);
        if !is_known && book.brokers.len() < MAX_BROKERS {
            book.put(&leader, now);
        }
    }

    /// Forgets who leads a partition.
    pub(crate) fn forget(&self, topic: &str, partition: u16) {
        let mut book = self.book();
        let known = book.leaders.get_mut(topic).and_then(|leaders| leaders.get_mut(usize::from(partition)));
        known.into_iter().for_each(|leader| *leader = None);
    }

    /// Puts a broker that knows no leader, or none that can be reached, after the others: they may know better.
    pub(crate) fn knew_no_leader(&self, addr: &BrokerAddr, now: Time) {
        self.book().move_back(addr, now);
    }

    /// Moves a broker that failed after the others for a while, and forgets all that it leads.
    pub(crate) fn failed(&self, addr: &BrokerAddr, now: Time) {
        let mut book = self.book();
        book.move_back(addr, now.after(DISTRUST));
        for leaders in book.leaders.values_mut() {
            leaders.iter_mut().for_each(|leader| _ = leader.take_if(|leader| leader == addr));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::super::addr::parse_brokers;
    use super::super::system::System;
    use super::*;
    use crate::config::Config;

    fn book(brokers: Vec<BrokerAddr>, config: Config) -> AddressBook {
        let settings = ChannelSettings::new(Arc::new(System::new()), Arc::new(config));
        AddressBook::new(brokers, Arc::new(settings))
    }

    #[test]
    fn brokers_take_turns_and_those_that_failed_come_last() {
        let brokers = parse_brokers("a:1,b:2,c:3,d:4").unwrap();
        let book = book(brokers.clone(), Config::default());
        let order = || book.brokers().iter().map(|addr| addr.to_string()[..1].to_owned()).collect::<String>();
        let now = Time::from_nanos(1);
        book.failed(&brokers[1], now);
        assert_eq!(order(), "acdb");
        for expected in ["cdab", "dacb", "acdb"] {
            let first = book.brokers().remove(0);
            book.knew_no_leader(&first, now);
            assert_eq!(order(), expected);
        }
        // A broker that failed comes after all but those that failed later.
        book.failed(&brokers[0], now);
        assert_eq!(order(), "cdba");
        book.knew_no_leader(&brokers[1], now);
        assert_eq!(order(), "cdba");
        // That broker has answered meanwhile. New leaders come before those that have not; an unknown one changes nothing.
        let new = parse_brokers("e:5").unwrap().remove(0);
        book.knew_no_leader(&new, now);
        assert_eq!(order(), "cdba");
        book.learn(&"orders".into(), 0, new.clone(), now);
        assert_eq!((order().as_str(), book.broker_for("orders", 0)), ("cdbea", new));
        // After a while a failure no longer counts.
        book.knew_no_leader(&brokers[2], now.after(DISTRUST));
        assert_eq!(order(), "dbeac");
    }

    #[test]
    fn leaders_are_remembered_until_they_fail_or_know_nothing_and_so_many_brokers_at_most() {
        let given = parse_brokers("a:1,b:2").unwrap();
        let book = book(given.clone(), Config::default());
        let (now, topic) = (Time::from_nanos(1), Arc::from("orders"));
        let other = |n: u16| BrokerAddr::from(SocketAddr::from(([10, 0, 0, 1], n)));
        assert!(book.is_given(&given[1]) && !book.is_given(&other(1)));
        for partition in 0..300 {
            book.learn(&topic, partition, other(partition), now);
            book.learn(&topic, partition, other(partition), now);
        }
        assert_eq!(book.brokers().len(), MAX_BROKERS, "each once");
        assert_eq!(book.broker_for("orders", 299), other(299), "known as a leader all the same");
        book.learn(&topic, 7, given[1].clone(), now);
        book.forget("orders", 8);
        book.failed(&other(9), now);
        let leaders = [6, 7, 8, 9].map(|partition| book.broker_for("orders", partition));
        assert_eq!(leaders, [other(6), given[1].clone(), given[0].clone(), given[0].clone()]);
        assert_eq!(book.broker_for("other", 6), given[0]);
    }

    #[test]
    fn a_redirect_leads_to_somebody_the_settings_allow_or_nowhere() {
        let given = parse_brokers("10.0.0.1:5").unwrap();
        let [open, strict] = [false, true]
            .map(|known_brokers_only| book(given.clone(), Config { known_brokers_only, ..Config::default() }));
        let at = |ip: [u8; 4], port| SocketAddrV4::new(ip.into(), port);
        let other = at([10, 0, 0, 2], 5);
        for nobody in [at([0; 4], 5), at([255; 4], 5), at([10, 0, 0, 2], 0)] {
            assert_eq!((open.named(nobody), strict.named(nobody)), (Ok(None), Ok(None)));
        }
        assert_eq!(open.named(other), Ok(Some(SocketAddr::V4(other).into())));
        assert_eq!(strict.named(other), Err(Fault::RedirectRefused(other)));
        assert_eq!(strict.named(at([10, 0, 0, 1], 5)), Ok(Some(SocketAddr::V4(at([10, 0, 0, 1], 5)).into())));
    }
}
