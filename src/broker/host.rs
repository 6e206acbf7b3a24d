//! What carries a machine: the server over real sockets, or a simulated network.

use std::fmt::Debug;
use std::io;
use std::time::Duration;

use super::machine::Machine;
use crate::net::Time;

/// Holds a [`Machine`] and passes bytes between it and its clients.
pub(crate) trait Host: Debug + Send + Sync {
    /// Calls `act` with the machine and the present moment, then carries out what follows.
    fn act(&self, act: &mut dyn FnMut(&mut Machine, Time));

    /// Calls `look` with the machine as it is.
    fn look(&self, look: &mut dyn FnMut(&Machine));

    /// Starts a node where it was before, or for the first time.
    ///
    /// # Errors
    /// The port is taken.
    fn listen(&self, node: usize) -> io::Result<()>;

    /// Returns whether nodes keep running when what controls them is dropped.
    fn outlives_its_handles(&self) -> bool {
        false
    }

    /// Blocks until all that the machine has closed is closed.
    fn wait_closed(&self);

    /// Blocks until `condition` holds, looked at after every change; whether it did before the time was over.
    fn wait_until(&self, timeout: Duration, condition: &mut dyn FnMut(&Machine) -> bool) -> bool;
}

/// What `act` returned.
pub(super) fn act<T>(host: &dyn Host, act: impl FnOnce(&mut Machine, Time) -> T) -> T {
    let (mut act, mut value) = (Some(act), None);
    host.act(&mut |machine, now| value = act.take().map(|act| act(machine, now)));
    value.unwrap_or_else(|| unreachable!("a host calls what it is given"))
}

/// What `look` returned.
pub(super) fn look<T>(host: &dyn Host, look: impl FnOnce(&Machine) -> T) -> T {
    let (mut look, mut value) = (Some(look), None);
    host.look(&mut |machine| value = look.take().map(|look| look(machine)));
    value.unwrap_or_else(|| unreachable!("a host calls what it is given"))
}
