//! Tasks as programs have them: a thread each, which runs when the world gives it the turn.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::task::Ended;
use super::world::World;

/// A task of a simulation, from [`Simulation::spawn`](super::Simulation::spawn).
///
/// ```
/// use std::time::Duration;
/// use tank_client::simulation::{Simulation, Task};
///
/// let sim = Simulation::new(1);
/// let world = sim.clone();
/// let task: Task<u32> = sim.spawn("counts", move || {
///     world.sleep(Duration::from_secs(5));
///     5
/// });
/// assert!(!task.is_finished());
/// assert_eq!(task.join(), 5);
/// assert_eq!(sim.now().as_secs(), 5);
/// ```
#[derive(Debug)]
pub struct Task<T> {
    world: Arc<World>,
    id: u16,
    result: Arc<Mutex<Option<T>>>,
}

impl<T> Task<T> {
    /// Blocks, in virtual time, until the task has returned. Returns what it returned.
    ///
    /// # Panics
    /// If the task panicked. That ends the whole simulation, joined or not.
    pub fn join(self) -> T {
        self.world.join(self.id);
        let result = self.result.lock().unwrap_or_else(PoisonError::into_inner).take();
        result.expect("a task that is done has a result")
    }

    /// Returns whether the task has returned.
    pub fn is_finished(&self) -> bool {
        self.world.lock().tasks.is_done(self.id)
    }
}

pub(super) fn spawn<T: Send + 'static>(
    world: &Arc<World>,
    name: &str,
    f: impl FnOnce() -> T + Send + 'static,
) -> Task<T> {
    let id = world.lock().tasks.add(name, None);
    let result = Arc::new(Mutex::new(None));
    let run = {
        let (world, result) = (world.clone(), result.clone());
        move || {
            let done = catch_unwind(AssertUnwindSafe(|| {
                world.first_turn(id);
                let value = f();
                *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
                world.finish(id);
            }));
            if let Err(panic) = done {
                if !panic.is::<Ended>() {
                    world.panicked(id, &text_of(&*panic));
                }
            }
        }
    };
    let thread = thread::Builder::new().name(name.to_owned()).spawn(run).expect("a thread for a task");
    world.keep(thread);
    Task { world: world.clone(), id, result }
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("panicked").to_owned()
}
