//! [`Brokers`]: what [`Client::connect`](crate::Client::connect) takes.

use std::fmt;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};

/// The brokers to connect to, made from anything that holds their addresses.
///
/// A string names a broker as `host` or `host:port`, or several separated by commas; the port defaults to 11011. A
/// [`SocketAddr`] is one broker. An array, slice or `Vec` of either names several, and an iterator of them can be
/// collected. `connect` reports a malformed address.
///
/// ```no_run
/// use std::net::SocketAddr;
/// use tank_client::{Brokers, Client};
///
/// Client::connect("tank-1,tank-2:11012")?;
/// Client::connect(["tank-1", "tank-2:11012"])?;
/// Client::connect(SocketAddr::from(([10, 0, 0, 1], 11011)))?;
/// Client::connect((1..4).map(|n| format!("tank-{n}")).collect::<Brokers>())?;
/// # Ok::<(), tank_client::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Brokers(pub(crate) String);

/// Writes the addresses as they were given, separated by commas.
impl fmt::Display for Brokers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! from_text {
    ($($given:ty)*) => {$(
        impl From<$given> for Brokers {
            fn from(given: $given) -> Brokers {
                Brokers(given.to_string())
            }
        }
    )*};
}

from_text!(&str &&str String &String SocketAddr &SocketAddr SocketAddrV4 SocketAddrV6 &Brokers);

// Of `Display`, not of `Into<Brokers>`: lists of lists without end would make `Brokers::from` ambiguous.
impl<T: fmt::Display> FromIterator<T> for Brokers {
    fn from_iter<I: IntoIterator<Item = T>>(brokers: I) -> Brokers {
        let texts: Vec<String> = brokers.into_iter().map(|broker| broker.to_string()).collect();
        Brokers(texts.join(","))
    }
}

macro_rules! from_list {
    ($($given:ty $(, $count:ident)?;)*) => {$(
        impl<T: fmt::Display $(, const $count: usize)?> From<$given> for Brokers {
            fn from(given: $given) -> Brokers {
                given.iter().collect()
            }
        }
    )*};
}

from_list!(&[T]; Vec<T>; &Vec<T>; [T; N], N; &[T; N], N;);
