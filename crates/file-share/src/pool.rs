//! Threads that carry out the guest's requests.
//!
//! A request may block for as long as it likes, because a directory below the shared one can be on
//! a file system whose server does not answer. So the pool has no fixed size: a job gets a new
//! thread if no thread is idle, up to a limit. Idle threads are kept. Jobs of one group, which wait
//! for the same file system, get a part of the threads at most.

use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Size of the stack of a thread in bytes. Requests keep their data on the heap.
const STACK_SIZE: usize = 256 << 10;

/// Part of the threads that the jobs of one group may have, as a divisor.
const GROUP_PART: usize = 8;

type Job = Box<dyn FnOnce() + Send>;

/// What jobs of one group wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Group {
    /// Files on a mount.
    OnMount(u64),
    /// The root of a mount. These jobs have a timeout: when it has passed for the first ones, the
    /// others end at once.
    MountPoint(u64),
}

/// A pool of threads that grows up to a limit.
#[derive(Clone)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    limit: usize,
    state: Mutex<State>,
    job_added: Condvar,
}

#[derive(Default)]
struct State {
    /// Jobs for the next threads, with their groups.
    jobs: VecDeque<(Option<Group>, Job)>,
    groups: HashMap<Group, GroupJobs>,
    threads: usize,
    idle: usize,
}

/// Jobs of one group.
#[derive(Default)]
struct GroupJobs {
    /// Number of jobs that have a thread, or are in [`State::jobs`].
    started: usize,
    waiting: VecDeque<Job>,
}

impl State {
    /// Starts the next job of a group after one has ended.
    fn ended(&mut self, group: Option<Group>) {
        let Some((group, jobs)) =
            group.and_then(|group| Some((group, self.groups.get_mut(&group)?)))
        else {
            return;
        };
        if let Some(job) = jobs.waiting.pop_front() {
            self.jobs.push_back((Some(group), job));
            return;
        }
        jobs.started -= 1;
        if jobs.started == 0 {
            self.groups.remove(&group);
        }
    }
}

impl Pool {
    /// Creates a pool of up to `limit` threads.
    pub(crate) fn new(limit: usize) -> Pool {
        Pool {
            shared: Arc::new(Shared {
                limit,
                state: Mutex::default(),
                job_added: Condvar::new(),
            }),
        }
    }

    /// Runs a job on one of the threads. If all are busy and no more can be started, or if the
    /// job's group has its part of them, it waits for one; without any thread it runs here.
    pub(crate) fn run(&self, group: Option<Group>, job: impl FnOnce() + Send + 'static) {
        let mut state = self.shared.state();
        if let Some(group) = group {
            let group = state.groups.entry(group).or_default();
            if group.started >= (self.shared.limit / GROUP_PART).max(1) {
                group.waiting.push_back(Box::new(job));
                return;
            }
            group.started += 1;
        }
        state.jobs.push_back((group, Box::new(job)));
        if state.jobs.len() <= state.idle {
            drop(state);
            self.shared.job_added.notify_one();
            return;
        }
        if state.threads < self.shared.limit {
            state.threads += 1;
            drop(state);
            let shared = Arc::clone(&self.shared);
            let started = spawn("file-share", move || shared.serve());
            if started.is_ok() {
                return;
            }
            state = self.shared.state();
            state.threads -= 1;
        }
        if state.threads == 0 {
            let job = state.jobs.pop_back();
            drop(state);
            if let Some((group, job)) = job {
                job();
                self.shared.state().ended(group);
            }
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self) {
        let mut state = self.state();
        loop {
            let Some((group, job)) = state.jobs.pop_front() else {
                state.idle += 1;
                state = self
                    .job_added
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
                continue;
            };
            drop(state);
            job();
            state = self.state();
            state.ended(group);
        }
    }
}

/// Starts a thread that may serve requests.
pub(crate) fn spawn(name: &str, act: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let thread = thread::Builder::new()
        .name(name.to_owned())
        .stack_size(STACK_SIZE);
    thread.spawn(move || {
        if let Err(error) = own_directory_and_umask() {
            // The inner file system would change those of all threads.
            log::error!("cannot unshare the working directory: {error}");
            std::process::exit(1);
        }
        act();
    })?;
    Ok(())
}

/// Gives this thread a working directory and a umask of its own (`CLONE_FS`): the inner file system
/// changes them for the time of a request.
#[expect(
    unsafe_code,
    reason = "some flags of unshare are unsafe, this one is not"
)]
fn own_directory_and_umask() -> io::Result<()> {
    // SAFETY: Only CLONE_FILES is unsafe.
    Ok(unsafe { unshare_unsafe(UnshareFlags::FS) }?)
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Barrier, mpsc},
        time::Duration,
    };

    use super::*;

    #[test]
    fn blocked_jobs_do_not_delay_others() {
        let pool = Pool::new(8);
        let blocked = Arc::new(Barrier::new(8));
        for _ in 0..7 {
            let blocked = Arc::clone(&blocked);
            pool.run(None, move || {
                blocked.wait();
            });
        }
        let (done, is_done) = mpsc::channel();
        for number in 0..100 {
            let done = done.clone();
            pool.run(None, move || done.send(number).unwrap());
        }
        for _ in 0..100 {
            is_done.recv_timeout(Duration::from_secs(20)).unwrap();
        }
        blocked.wait();
    }

    #[test]
    fn blocked_groups_do_not_delay_others() {
        let pool = Pool::new(8 * GROUP_PART);
        let (done, is_done) = mpsc::channel();
        let (unblock, blocked) = mpsc::channel();
        let blocked = Arc::new(Mutex::new(blocked));
        for mount in 0..GROUP_PART as u64 - 1 {
            for _ in 0..100 {
                let (done, blocked) = (done.clone(), Arc::clone(&blocked));
                let group = if mount % 2 == 0 {
                    Group::OnMount(mount / 2)
                } else {
                    Group::MountPoint(mount / 2)
                };
                pool.run(Some(group), move || {
                    blocked.lock().unwrap().recv().unwrap();
                    done.send(mount).unwrap();
                });
            }
        }
        for other in [None, Some(Group::MountPoint(1000))] {
            let done = done.clone();
            pool.run(other, move || done.send(1000).unwrap());
            assert_eq!(is_done.recv_timeout(Duration::from_secs(20)), Ok(1000));
        }
        let count = 100 * (GROUP_PART - 1);
        (0..count).for_each(|_| unblock.send(()).unwrap());
        for _ in 0..count {
            is_done.recv_timeout(Duration::from_secs(20)).unwrap();
        }
        drop(done);
        // The last job may not be counted yet.
        while !pool.shared.state().groups.is_empty() {
            thread::yield_now();
        }
    }

    #[test]
    fn the_limit_is_kept() {
        let pool = Pool::new(2);
        let (done, is_done) = mpsc::channel();
        for _ in 0..50 {
            let done = done.clone();
            pool.run(None, move || done.send(thread::current().id()).unwrap());
        }
        let threads: std::collections::HashSet<_> = is_done.iter().take(50).collect();
        assert!(threads.len() <= 2);
    }
}
