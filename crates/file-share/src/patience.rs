//! Requests about the root of a file system below the shared directory, which may not answer.
//!
//! While the guest's kernel looks a name up, it has the directory locked, and no other program can
//! create or remove a file in it. And programs that list the directory above, or walk through it,
//! ask for the root's attributes and open it; a program that waits for an answer cannot be killed.
//! So such requests fail with `ETIMEDOUT` after a while.

use std::{
    collections::HashSet,
    ffi::CStr,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use virtiofsd::{
    filesystem::{Context, Entry},
    fuse::Attr,
};

use crate::{
    bounded::{BoundedFileSystem, InnerFileSystem, PinnedFile, entry_location},
    listing::mount_id,
    pool,
    table::Location,
};

/// Timeout for a request.
const TIMEOUT: Duration = Duration::from_secs(3);

/// A request on a thread of its own.
struct Attempt<T> {
    state: Mutex<State<T>>,
    ended: Condvar,
}

enum State<T> {
    Running,
    Ended(io::Result<T>),
    /// The request has failed meanwhile.
    Abandoned,
}

impl<F: InnerFileSystem> BoundedFileSystem<F> {
    /// Looks a name up in the inner file system.
    pub(crate) fn inner_lookup(
        &self,
        context: Context,
        directory: &PinnedFile<'_, F>,
        name: &CStr,
    ) -> io::Result<Entry> {
        if !self.leads_to_mount(context, directory, name) {
            return self.inner.lookup(context, directory.inner_inode, name);
        }
        let key = entry_location(directory, name);
        let (directory, name) = (directory.inner_inode, key.name.clone());
        self.patiently(
            key,
            move |inner| inner.lookup(context, directory, &name),
            move |inner, entry| inner.forget(context, entry.inode, 1),
        )
    }

    /// Reads attributes from the inner file system.
    pub(crate) fn inner_attributes(
        &self,
        context: Context,
        file: &PinnedFile<'_, F>,
        handle: Option<u64>,
    ) -> io::Result<Attr> {
        let read = move |inner: &F, inode| inner.getattr(context, inode, handle);
        let (attributes, _) = self.at_mount(file, read, |_, _, _| {})?;
        Ok(attributes)
    }

    /// Does something with a file in the inner file system, which may not end if the file is the
    /// root of a mount. `act` gets the inner inode, and `discard` a result that comes too late.
    pub(crate) fn at_mount<T: Send + 'static>(
        &self,
        file: &PinnedFile<'_, F>,
        act: impl FnOnce(&F, u64) -> io::Result<T> + Send + 'static,
        discard: impl FnOnce(&F, u64, T) + Send + 'static,
    ) -> io::Result<T> {
        let inode = file.inner_inode;
        let mount_point = self.table().mount_point(file.guest_inode).cloned();
        match mount_point {
            None => act(&self.inner, inode),
            Some(key) => self.patiently(
                key,
                move |inner| act(inner, inode),
                move |inner, late| discard(inner, inode, late),
            ),
        }
    }

    /// Does what may not end, for the file system that is mounted at a name. `discard` gets a
    /// result that comes too late.
    fn patiently<T: Send + 'static>(
        &self,
        key: Location,
        act: impl FnOnce(&F) -> io::Result<T> + Send + 'static,
        discard: impl FnOnce(&F, T) + Send + 'static,
    ) -> io::Result<T> {
        if self.unanswered().contains(&key) {
            return Err(timed_out());
        }
        let attempt = Arc::new(Attempt {
            state: Mutex::new(State::Running),
            ended: Condvar::new(),
        });
        pool::spawn("file-share-mount", {
            let (file_system, attempt, key) = (self.clone(), Arc::clone(&attempt), key.clone());
            move || {
                let result = act(&file_system.inner);
                if let Some(late) = attempt.end(result, || {
                    file_system.unanswered().remove(&key);
                }) {
                    discard(&file_system.inner, late);
                }
            }
        })?;
        attempt.wait(|| {
            self.unanswered().insert(key);
        })
    }

    /// Returns whether another file system is mounted at a name. It does not ask that file system.
    pub(crate) fn leads_to_mount(
        &self,
        context: Context,
        directory: &PinnedFile<'_, F>,
        name: &CStr,
    ) -> bool {
        let here = self.mount(context, directory.guest_inode);
        let there = self.with_directory(context, directory.inner_inode, |directory| {
            Ok(mount_id(directory, name))
        });
        matches!((here, there), (Some(here), Ok(Some(there))) if here != there)
    }

    fn unanswered(&self) -> MutexGuard<'_, HashSet<Location>> {
        self.unanswered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Attempt<T> {
    /// Waits for the end. Calls `abandon` if it does not come in time.
    fn wait(&self, abandon: impl FnOnce()) -> io::Result<T> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let is_running = |state: &mut State<T>| matches!(state, State::Running);
        let (mut state, _) = self
            .ended
            .wait_timeout_while(state, TIMEOUT, is_running)
            .unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *state, State::Abandoned) {
            State::Ended(result) => result,
            State::Running | State::Abandoned => {
                abandon();
                Err(timed_out())
            }
        }
    }

    /// Passes the result on. If the request has failed meanwhile, calls `answered`, and returns
    /// what the result has.
    fn end(&self, result: io::Result<T>, answered: impl FnOnce()) -> Option<T> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Running = &*state {
            *state = State::Ended(result);
            self.ended.notify_one();
            return None;
        }
        answered();
        result.ok()
    }
}

fn timed_out() -> io::Error {
    io::Error::from_raw_os_error(libc::ETIMEDOUT)
}
