//! Broker addresses as users write them.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use crate::error::{Error, Result};

/// TANK's port.
const DEFAULT_PORT: u16 = 11011;

/// A broker: host name or address, and port, with one spelling for each address. As small as a pointer, since every partition
/// has one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct BrokerAddr(Arc<String>);

impl BrokerAddr {
    /// Returns the broker's address, if it is given as one: then it needs no look-up.
    pub(super) fn socket_addr(&self) -> Option<SocketAddr> {
        self.0.parse().ok()
    }

    /// Returns the name and the port of a broker that is not given by its address.
    pub(super) fn host_and_port(&self) -> Option<(&str, u16)> {
        let (host, port) = self.0.rsplit_once(':')?;
        Some((host, port.parse().ok()?))
    }
}

impl From<SocketAddr> for BrokerAddr {
    fn from(address: SocketAddr) -> BrokerAddr {
        BrokerAddr(Arc::new(address.to_string()))
    }
}

impl fmt::Display for BrokerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reads `host`, `host:port`, `[v6]:port`, or several of them separated by commas.
pub(crate) fn parse_brokers(list: &str) -> Result<Vec<BrokerAddr>> {
    let mut brokers = Vec::new();
    for text in list.split(',') {
        let broker = parse_broker(text.trim())
            .map_err(|reason| Error::config(format!("broker address {:?}: {reason}", text.trim())))?;
        if !brokers.contains(&broker) {
            brokers.push(broker);
        }
    }
    Ok(brokers)
}

fn parse_broker(text: &str) -> Result<BrokerAddr, String> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']').ok_or("no closing bracket")? {
            (host, "") => (host, None),
            (host, rest) => (host, Some(rest.strip_prefix(':').ok_or("only a port may follow the bracket")?)),
        },
        None => match text.split_once(':') {
            Some((host, port)) if !port.contains(':') => (host, Some(port)),
            // More than one colon without brackets: an IPv6 address without a port.
            _ => (text, None),
        },
    };
    let number = port.map_or(Ok(DEFAULT_PORT), |port| port.parse().map(NonZeroU16::get));
    let port = number.map_err(|_| format!("port {:?} is not a number from 1 to 65535", port.unwrap_or_default()))?;
    let is_v6 = host.contains(':');
    let broker = if is_v6 { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let reason = match (host, broker.parse::<SocketAddr>()) {
        ("", _) => "no host",
        (_, Ok(address)) => return Ok(address.into()),
        _ if is_v6 => "neither host:port nor an IPv6 address",
        _ if host.contains(char::is_whitespace) || host.contains('/') => "a host name has no blanks or slashes",
        _ => return Ok(BrokerAddr(Arc::new(broker))),
    };
    Err(reason.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn brokers_are_read_as_users_write_them() {
        let table = [
            ("localhost", "localhost:11011"),
            ("localhost:80", "localhost:80"),
            ("10.0.0.1:65535", "10.0.0.1:65535"),
            ("::1", "[::1]:11011"),
            ("[::1]", "[::1]:11011"),
            ("[::1]:9", "[::1]:9"),
            ("0:0::1", "[::1]:11011"),
            ("fe80::1%3", "[fe80::1%3]:11011"),
            ("[fe80::1%3]:9", "[fe80::1%3]:9"),
        ];
        for (text, want) in table {
            assert_eq!(parse_broker(text).unwrap().to_string(), want);
        }
        let list: Vec<_> = parse_brokers("a:1, b:2,c,a:1").unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(list, ["a:1", "b:2", "c:11011"]);
    }

    #[test]
    fn a_bad_port_is_an_error_and_no_default() {
        for text in [
            "", "a:", "a:0", "a:65536", "a:x", ":80", "a:-1", "a: 1", "[::1", "[::1]9", "a:1:2", "a,", "a b",
            "http://a",
        ] {
            let e = parse_brokers(text).unwrap_err();
            assert!(matches!(e.kind, ErrorKind::Config { .. }), "{text}: {e}");
        }
        assert_eq!(
            parse_brokers("a,b:99999").unwrap_err().to_string(),
            "broker address \"b:99999\": port \"99999\" is not a number from 1 to 65535"
        );
    }
}
