use super::*;
use crate::error::{ErrorKind, Fault};
use crate::net::parse_brokers;
use crate::net::scripted::Scripted;

fn session(brokers: &str, net: &Scripted) -> Session {
    let config =
        Config { connect_timeout: Duration::from_secs(8), io_timeout: Duration::from_secs(10), ..Config::default() };
    Session::new(config, parse_brokers(brokers).unwrap(), Arc::new(net.clone()))
}

/// What each attempt is told that it may take, in milliseconds, if each takes so long and fails.
fn shares(session: &Session, net: &Scripted, took: impl Fn(Duration) -> Duration) -> Vec<(String, u128)> {
    let mut shares = Vec::new();
    let failed: Result<()> = session.any_broker(|addr, patience| {
        shares.push((addr.to_string(), patience.as_millis()));
        net.pass(took(patience));
        Err(Error::disconnected(addr, crate::Phase::Wait))
    });
    assert!(failed.is_err_and(|e| e.is_transient()));
    shares
}

fn times(shares: &[(String, u128)]) -> Vec<u128> {
    shares.iter().map(|(_, patience)| *patience).collect()
}

#[test]
fn brokers_share_the_time_for_connecting_and_the_last_may_answer_late() {
    let net = Scripted::new();
    let some = || session("a:1,b:2,c:3,d:4", &net);
    // What one does not need is left to the others.
    assert_eq!(times(&shares(&some(), &net, |_| Duration::ZERO)), [2000, 2666, 4000, 10_000]);
    assert_eq!(times(&shares(&some(), &net, |patience| patience)), [2000, 2000, 2000, 10_000]);
    // One that takes all of it leaves a part of it to each.
    assert_eq!(times(&shares(&some(), &net, |_| Duration::from_secs(9))), [2000, 2000, 2000, 10_000]);
    assert_eq!(times(&shares(&session("a:1", &net), &net, |patience| patience)), [10_000]);
}

#[test]
fn brokers_that_others_have_named_are_passed_over_once_the_time_is_over() {
    for (each, tried) in [(8_999, 3), (9_000, 2)] {
        let net = Scripted::new();
        let session = session("a:1,b:2", &net);
        let named = parse_brokers("10.0.0.1:1,10.0.0.2:1").unwrap();
        for (addr, partition) in named.iter().zip(0..) {
            session.book.learn(&"orders".into(), partition, addr.clone(), session.now());
        }
        // Two that were given have taken 18 s, for connecting and for an answer.
        let shares = shares(&session, &net, |_| Duration::from_millis(each));
        assert_eq!(shares.len(), tried, "{shares:?}");
    }
}

#[test]
fn those_that_fail_are_asked_last_and_what_will_not_pass_ends_it() {
    let net = Scripted::new();
    let session = session("a:1,b:2,c:3", &net);
    let found = session.any_broker(|addr, _| match addr.to_string().as_str() {
        "a:1" => Err(Error::disconnected(addr, crate::Phase::Wait)),
        _ => Ok(addr.to_string()),
    });
    assert_eq!(found.unwrap(), "b:2");
    let order = || session.book.brokers().iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(order(), ["b:2", "c:3", "a:1"]);
    let mut tried = 0;
    let refused: Result<()> = session.any_broker(|addr, _| {
        tried += 1;
        Err(Error::refused("orders", 0, Fault::UnknownPartition).at(addr))
    });
    assert!(matches!(refused, Err(Error { kind: ErrorKind::Broker { .. }, .. })) && tried == 1);
    // Of several failures each is told, of one just that.
    let failed: Result<()> = session.any_broker(|addr, _| Err(Error::disconnected(addr, crate::Phase::Wait)));
    let text = format!("{:#}", failed.unwrap_err());
    assert!(["a:1", "b:2", "c:3"].iter().all(|addr| text.matches(addr).count() == 2), "{text}");
    let failed: Result<()> =
        self::session("a:1", &net).any_broker(|addr, _| Err(Error::disconnected(addr, crate::Phase::Wait)));
    assert!(matches!(failed, Err(Error { kind: ErrorKind::Disconnected { .. }, .. })));
}
