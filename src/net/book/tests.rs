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
    book.demote_failed(&brokers[1], now);
    assert_eq!(order(), "acdb");
    for expected in ["cdab", "dacb", "acdb"] {
        let first = book.brokers().remove(0);
        book.demote(&first, now);
        assert_eq!(order(), expected);
    }
    // A broker that failed comes after all but those that failed later.
    book.demote_failed(&brokers[0], now);
    assert_eq!(order(), "cdba");
    book.demote(&brokers[1], now);
    assert_eq!(order(), "cdba");
    // That broker has answered meanwhile. New leaders come before those that have not; an unknown one changes nothing.
    let new = parse_brokers("e:5").unwrap().remove(0);
    book.demote(&new, now);
    assert_eq!(order(), "cdba");
    book.set_leader(&"orders".into(), 0, new.clone(), now);
    assert_eq!((order().as_str(), book.leader_or_any("orders", 0)), ("cdbea", new));
    // After a while a failure no longer counts.
    book.demote(&brokers[2], now.after(DEMOTED_FOR));
    assert_eq!(order(), "dbeac");
}

#[test]
fn leaders_are_remembered_until_they_fail_or_know_nothing_and_so_many_brokers_at_most() {
    let given = parse_brokers("a:1,b:2").unwrap();
    let book = book(given.clone(), Config::default());
    let (now, topic) = (Time::from_nanos(1), Arc::from("orders"));
    let other = |n: u16| BrokerAddr::from(SocketAddr::from(([10, 0, 0, 1], n)));
    assert!(book.is_configured(&given[1]) && !book.is_configured(&other(1)));
    for partition in 0..300 {
        book.set_leader(&topic, partition, other(partition), now);
        book.set_leader(&topic, partition, other(partition), now);
    }
    assert_eq!(book.brokers().len(), MAX_BROKERS, "each once");
    assert_eq!(book.leader_or_any("orders", 299), other(299), "known as a leader all the same");
    book.set_leader(&topic, 7, given[1].clone(), now);
    book.clear_leader("orders", 8);
    book.demote_failed(&other(9), now);
    let leaders = [6, 7, 8, 9].map(|partition| book.leader_or_any("orders", partition));
    assert_eq!(leaders, [other(6), given[1].clone(), given[0].clone(), given[0].clone()]);
    assert_eq!(book.leader_or_any("other", 6), given[0]);
    for n in 0..=MAX_TOPICS {
        book.set_leader(&format!("{n:06}").into(), 0, given[1].clone(), now);
    }
    assert_eq!(locked(&book.book).leaders.len(), MAX_TOPICS);
    assert_eq!(book.leader_or_any(&format!("{MAX_TOPICS:06}"), 0), given[1], "known all the same");
}

#[test]
fn a_redirect_leads_to_somebody_the_settings_allow_or_nowhere() {
    let given = parse_brokers("10.0.0.1:5").unwrap();
    let [open, strict] =
        [false, true].map(|known_brokers_only| book(given.clone(), Config { known_brokers_only, ..Config::default() }));
    let at = |ip: [u8; 4], port| SocketAddrV4::new(ip.into(), port);
    let other = at([10, 0, 0, 2], 5);
    for nobody in [at([0; 4], 5), at([255; 4], 5), at([10, 0, 0, 2], 0)] {
        assert_eq!((open.resolve_redirect(nobody), strict.resolve_redirect(nobody)), (Ok(None), Ok(None)));
    }
    assert_eq!(open.resolve_redirect(other), Ok(Some(SocketAddr::V4(other).into())));
    assert_eq!(strict.resolve_redirect(other), Err(Fault::RedirectRefused(other)));
    assert_eq!(strict.resolve_redirect(at([10, 0, 0, 1], 5)), Ok(Some(SocketAddr::V4(at([10, 0, 0, 1], 5)).into())));
}
