//! A short book on `tank-client`: how to use it, and what to expect.
//!
//! 1. [First steps](first_steps): a broker, a topic, a message to it and back; the terms; errors.
//! 2. [Positions and delivery guarantees](positions): how far a subscription has read, and how no message is lost.
//! 3. [Exactly once into a database](databases): positions and results in one transaction.
//! 4. [Back-pressure](back_pressure): what happens if you are slower than the broker.
//! 5. [Time-outs and closing](time_outs): how long each call may block, and how to stop it.
//! 6. [Clusters](clusters): leaders, fail-overs, and what the client does about them.
//! 7. [Publishing and its outcomes](publishing): stored, not stored, unknown; producers.
//! 8. [Testing your program](testing): a simulated world in virtual time, and the embedded broker; faults included.
//! 9. [Performance](performance): what costs time, and what to do about it.
//! 10. [Security](security): what a broker can and cannot do to your program.
//! 11. [Coming from tankgo](from_tankgo).
//! 12. [Coming from Kafka clients](from_kafka).
//! 13. [What TANK does not have](not_in_tank).
//!
//! All of its code runs, most of it against the [embedded broker](testing), so you can try it without setting anything up. Each
//! chapter can be read by itself. Exact terms, defaults and errors are documented with the items it links to.

// The chapters name the crate's items as a program does that imports them.
#[allow(unused_imports)]
use crate::*;

#[doc = include_str!("back_pressure.md")]
pub mod back_pressure {}
#[doc = include_str!("clusters.md")]
pub mod clusters {}
#[doc = include_str!("databases.md")]
pub mod databases {}
#[doc = include_str!("first_steps.md")]
pub mod first_steps {}
#[doc = include_str!("from_kafka.md")]
pub mod from_kafka {}
#[doc = include_str!("from_tankgo.md")]
pub mod from_tankgo {}
#[doc = include_str!("not_in_tank.md")]
pub mod not_in_tank {}
#[doc = include_str!("performance.md")]
pub mod performance {}
#[doc = include_str!("positions.md")]
pub mod positions {}
#[doc = include_str!("publishing.md")]
pub mod publishing {}
#[doc = include_str!("security.md")]
pub mod security {}
#[doc = include_str!("testing.md")]
// Without the feature there is nothing here to link to.
#[cfg_attr(not(feature = "broker"), doc = include_str!("testing_links.md"))]
pub mod testing {}
#[doc = include_str!("time_outs.md")]
pub mod time_outs {}
