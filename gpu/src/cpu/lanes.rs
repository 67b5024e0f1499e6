//! Lanes: a fixed set of named threads, the calling one among them, that share out the tasks of a frame.
//!
//! Each lane owns its own worker (networks and buffers), so nothing is shared while a task runs. Which
//! lane takes which task is left to chance; workers must not let that show in their results.
//! Nothing is allocated per task, and a worker's panic becomes an error of the run.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

/// What went wrong in a lane.
#[derive(Debug, thiserror::Error)]
pub enum LaneError<E: std::error::Error + 'static> {
    /// The worker returned an error.
    #[error(transparent)]
    Worker(E),
    /// The worker panicked; its networks may be in any state.
    #[error("lane {lane} panicked: {message}")]
    Panic {
        /// 0 is the calling thread.
        lane: usize,
        /// The panic's own text.
        message: String,
    },
    /// Every helping thread is gone.
    #[error("lanes have ended")]
    Ended,
}

/// Does the tasks that a lane takes. A task goes in and comes out, so that its buffers are used again.
pub trait Worker: Send + 'static {
    /// What is done, with the buffers for its result.
    type Task: Send + 'static;
    /// Why it could not be done.
    type Error: std::error::Error + Send + 'static;

    /// Does one task and leaves the result in it.
    fn work(&mut self, task: &mut Self::Task) -> Result<(), Self::Error>;
}

type Done<W> = Result<<W as Worker>::Task, LaneError<<W as Worker>::Error>>;

/// The lanes. Dropping them ends the helping threads.
pub struct Lanes<W: Worker> {
    own: W,
    desk: Arc<Desk<W>>,
    helpers: Vec<JoinHandle<()>>,
    /// Handed over and not yet given back by [`Self::finish_one`].
    running: usize,
    most_tasks: usize,
}

/// Where tasks change hands. A mutex and not a channel: channels allocate when a thread first waits on them,
/// and when that happens is chance. Held only to move a task in or out.
struct Desk<W: Worker> {
    trays: Mutex<Trays<W>>,
    is_pending: Condvar,
    is_done: Condvar,
}

struct Trays<W: Worker> {
    pending: VecDeque<W::Task>,
    done: VecDeque<Done<W>>,
    /// Helping threads that have not ended.
    alive: usize,
    closed: bool,
}

impl<W: Worker> Desk<W> {
    fn lock(&self) -> MutexGuard<'_, Trays<W>> {
        // No panic can happen while it is held.
        self.trays.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next task, waited for; `None` when the lanes are being dropped.
    fn take_pending(&self) -> Option<W::Task> {
        let mut trays = self.lock();
        loop {
            if trays.closed {
                return None;
            }
            if let Some(task) = trays.pending.pop_front() {
                return Some(task);
            }
            trays = self.is_pending.wait(trays).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn help(&self, worker: &mut W, lane: usize) {
        while let Some(task) = self.take_pending() {
            let done = guarded(worker, task, lane);
            self.lock().done.push_back(done);
            self.is_done.notify_one();
        }
    }
}

/// Counts a helping thread, however it ends.
struct Alive<W: Worker>(Arc<Desk<W>>);

impl<W: Worker> Drop for Alive<W> {
    fn drop(&mut self) {
        self.0.lock().alive -= 1;
        self.0.is_done.notify_one();
    }
}

impl<W: Worker> Lanes<W> {
    /// Starts a thread for every worker but the first, which works on the calling thread.
    /// No more than `most_tasks` tasks can be under way at once.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn start(own: W, helpers: impl IntoIterator<Item = W>, most_tasks: usize) -> std::io::Result<Self> {
        let trays = Trays {
            pending: VecDeque::with_capacity(most_tasks),
            done: VecDeque::with_capacity(most_tasks),
            alive: 0,
            closed: false,
        };
        let desk =
            Arc::new(Desk { trays: Mutex::new(trays), is_pending: Condvar::new(), is_done: Condvar::new() });
        let mut lanes = Self { own, desk, helpers: Vec::new(), running: 0, most_tasks };
        for (lane, mut worker) in (1..).zip(helpers) {
            lanes.desk.lock().alive += 1;
            let alive = Alive(Arc::clone(&lanes.desk));
            let thread = Builder::new().name(format!("lane-{lane}"));
            lanes.helpers.push(thread.spawn(move || alive.0.help(&mut worker, lane))?);
        }
        Ok(lanes)
    }

    /// How many lanes there are, the calling thread's included.
    pub fn count(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Hands over a task; a helping lane begins with it at once.
    ///
    /// # Errors
    /// As many tasks as may be are under way: the task comes back.
    pub fn submit(&mut self, task: W::Task) -> Result<(), W::Task> {
        if self.running == self.most_tasks {
            return Err(task);
        }
        self.desk.lock().pending.push_back(task);
        self.desk.is_pending.notify_one();
        self.running += 1;
        Ok(())
    }

    /// The next finished task, in no particular order; works itself while tasks are left that no
    /// lane has begun. `None` when none is under way.
    pub fn finish_one(&mut self) -> Option<Done<W>> {
        if self.running == 0 {
            return None;
        }
        self.running -= 1;
        let mut trays = self.desk.lock();
        loop {
            if let Some(done) = trays.done.pop_front() {
                return Some(done);
            }
            if let Some(task) = trays.pending.pop_front() {
                drop(trays);
                return Some(guarded(&mut self.own, task, 0));
            }
            if trays.alive == 0 {
                return Some(Err(LaneError::Ended));
            }
            trays = self.desk.is_done.wait(trays).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<W: Worker> Drop for Lanes<W> {
    fn drop(&mut self) {
        self.desk.lock().closed = true;
        self.desk.is_pending.notify_all();
        for helper in self.helpers.drain(..) {
            if helper.join().is_err() {
                tracing::error!("a lane ended with a panic outside its worker");
            }
        }
    }
}

fn guarded<W: Worker>(worker: &mut W, mut task: W::Task, lane: usize) -> Done<W> {
    // A worker that panicked is used again only if the owner ignores the error it is told of.
    match catch_unwind(AssertUnwindSafe(|| worker.work(&mut task))) {
        Ok(Ok(())) => Ok(task),
        Ok(Err(error)) => Err(LaneError::Worker(error)),
        Err(panic) => Err(LaneError::Panic { lane, message: panic_text(panic.as_ref()) }),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("odd")]
    struct Odd;

    struct Halver;

    impl Worker for Halver {
        type Task = u32;
        type Error = Odd;

        fn work(&mut self, task: &mut u32) -> Result<(), Odd> {
            assert_ne!(*task, 13, "thirteen");
            if *task % 2 == 1 {
                return Err(Odd);
            }
            *task /= 2;
            Ok(())
        }
    }

    fn run(threads: usize, tasks: &[u32]) -> (Vec<u32>, Vec<String>) {
        let mut lanes = Lanes::start(Halver, (1..threads).map(|_| Halver), tasks.len()).unwrap();
        for &task in tasks {
            lanes.submit(task).unwrap();
        }
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        while let Some(done) = lanes.finish_one() {
            match done {
                Ok(task) => good.push(task),
                Err(error) => bad.push(error.to_string()),
            }
        }
        good.sort_unstable();
        (good, bad)
    }

    #[test]
    fn every_task_is_done_once_by_any_number_of_lanes() {
        let tasks: Vec<u32> = (0..100).map(|n| n * 2).collect();
        for threads in [1, 2, 5] {
            assert_eq!(run(threads, &tasks), ((0..100).collect(), Vec::new()));
        }
    }

    #[test]
    fn errors_and_panics_come_out_and_the_rest_is_done() {
        for threads in [1, 3] {
            let (good, mut bad) = run(threads, &[2, 13, 4, 7, 6]);
            bad.sort();
            assert_eq!(good, [1, 2, 3]);
            assert!(bad[0].starts_with("lane ") && bad[0].contains("thirteen"), "{bad:?}");
            assert_eq!(bad[1], "odd");
        }
    }

    #[test]
    fn more_tasks_than_fit_are_given_back() {
        let mut lanes = Lanes::start(Halver, [], 1).unwrap();
        assert_eq!(lanes.submit(2), Ok(()));
        assert_eq!(lanes.submit(4), Err(4));
        assert!(matches!(lanes.finish_one(), Some(Ok(1))));
        assert!(lanes.finish_one().is_none());
    }
}
