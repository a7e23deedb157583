//! Work on many namespaces, shared among a few threads: each thread enters and leaves them by itself, and most of a look is
//! waiting for the kernel.

use std::sync::Mutex;
use std::thread;

/// Below this a thread costs more than it saves.
const FEW: usize = 16;
/// More threads only wait for each other: much of what they ask is behind one lock (RTNL).
const THREADS: usize = 4;

/// Does the same with each item, in any order, and gives back what came of it. `tools` makes what each thread needs of its own.
pub fn share<T: Send, S, R: Send>(
    items: Vec<T>,
    tools: impl Fn() -> S + Sync,
    each: impl Fn(&mut S, T) -> R + Sync,
) -> Vec<R> {
    let threads =
        if items.len() < FEW { 1 } else { thread::available_parallelism().map_or(1, usize::from).min(THREADS) };
    let queue = Mutex::new(items.into_iter());
    // A lock is poisoned by a panic alone, and then the scope below ends in one too.
    let next = || queue.lock().ok().and_then(|mut items| items.next());
    let work = || {
        let mut own = tools();
        std::iter::from_fn(&next).map(|item| each(&mut own, item)).collect::<Vec<R>>()
    };
    if threads == 1 {
        return work();
    }
    thread::scope(|scope| {
        let started: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut done = work();
        for thread in started {
            match thread.join() {
                Ok(more) => done.extend(more),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        done
    })
}
