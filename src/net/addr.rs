//! Broker addresses as users write them.

use std::fmt;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::num::NonZeroU16;
use std::sync::Arc;

use crate::error::{Error, Result};

/// TANK's port.
const DEFAULT_PORT: u16 = 11011;

/// A broker: host name or address, and port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct BrokerAddr {
    /// The host name or address.
    pub(super) host: Arc<str>,
    pub(super) port: u16,
}

impl BrokerAddr {
    /// The broker's address, if it is given as one: then it needs no look-up.
    pub(crate) fn literal(&self) -> Option<SocketAddr> {
        // `SocketAddrV6` knows scopes, which `IpAddr` does not.
        let v6 = || format!("[{}]:{}", self.host, self.port).parse().ok().map(SocketAddr::V6);
        self.host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, self.port)).or_else(v6)
    }
}

impl From<SocketAddr> for BrokerAddr {
    fn from(address: SocketAddr) -> BrokerAddr {
        let host = match address {
            SocketAddr::V6(v6) if v6.scope_id() != 0 => format!("{}%{}", v6.ip(), v6.scope_id()),
            _ => address.ip().to_string(),
        };
        BrokerAddr { host: host.into(), port: address.port() }
    }
}

impl fmt::Display for BrokerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Reads `host`, `host:port`, `[v6]:port`, or several of them with commas between.
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
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or("no closing bracket")?;
        match rest.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if rest.is_empty() => (host, None),
            None => return Err("only a port may follow the bracket".into()),
        }
    } else {
        match text.split_once(':') {
            // More than one colon without brackets: an IPv6 address without a port.
            Some((_, port)) if port.contains(':') => (text, None),
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let port = match port {
        None => DEFAULT_PORT,
        Some(text) => {
            let port = text.parse::<NonZeroU16>();
            port.map_err(|_| format!("port {text:?} is not a number from 1 to 65535"))?.get()
        }
    };
    let reason = match host {
        "" => "no host",
        _ if host.contains(':') && format!("[{host}]:0").parse::<SocketAddrV6>().is_err() => {
            "neither host:port nor an IPv6 address"
        }
        _ if host.contains(char::is_whitespace) || host.contains('/') => "a host name has no blanks or slashes",
        _ => return Ok(BrokerAddr { host: host.into(), port }),
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
