//! A short book on `tank-client`: how to use it, and what to expect.
//!
//! 1. [First steps](first_steps): a broker, a topic, a message to it and back; the terms.
//! 2. [Errors](errors): what each one means, and what to do about it.
//! 3. [Positions and delivery guarantees](positions): how far a subscription has read, and how no message is lost.
//! 4. [Exactly once into a database](databases): positions and results in one transaction.
//! 5. [Back-pressure](back_pressure): what happens if you are slower than the broker.
//! 6. [Time-outs and closing](time_outs): how long each call may block, and how to stop it.
//! 7. [Clusters](clusters): leaders, fail-overs, and what the client does about them.
//! 8. [Publishing and its outcomes](publishing): stored, not stored, unknown; producers.
//! 9. [Testing your program](testing): a simulated world in virtual time, and the embedded broker; faults included.
//! 10. [Performance](performance): what costs time, and what to do about it.
//! 11. [Metrics](metrics): lag, age and silence, to Prometheus and to `tracing`.
//! 12. [Security](security): what a broker can and cannot do to your program.
//! 13. [Coming from tankgo](from_tankgo).
//! 14. [Coming from Kafka clients](from_kafka).
//! 15. [What TANK does not have](not_in_tank).
//!
//! All of its code runs, most of it against the [embedded broker](testing), so you can try it without setting anything up. After
//! the first, each chapter can be read by itself. Defaults, ranges and errors are documented with the items it links to.

// The chapters name the crate's items as a program does that imports them.
#[allow(unused_imports)]
use crate::*;

macro_rules! chapters {
    ($($(#[$more:meta])* $name:ident)*) => {$(
        #[doc = include_str!(concat!(stringify!($name), ".md"))]
        $(#[$more])*
        pub mod $name {}
    )*};
}

chapters! {
    back_pressure clusters databases errors first_steps from_kafka from_tankgo metrics not_in_tank
    #[doc = include_str!("growth.svg")]
    #[doc = "\nNext: [metrics](crate::guide::metrics)."]
    performance
    positions publishing security
    // Without the feature there is nothing here to link to.
    #[cfg_attr(not(feature = "broker"), doc = "

[`broker::BrokerFault`]: https://docs.rs/tank-client/latest/tank_client/broker/enum.BrokerFault.html
[`broker`]: https://docs.rs/tank-client/latest/tank_client/broker/index.html
[`simulation`]: https://docs.rs/tank-client/latest/tank_client/simulation/index.html
[simulation::Simulation]: https://docs.rs/tank-client/latest/tank_client/simulation/struct.Simulation.html")]
    testing
    time_outs
}
