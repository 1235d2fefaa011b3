//! Lookups of names at which a file system is mounted that may not answer.
//!
//! While the guest's kernel looks a name up, it has the directory locked, and no other program can
//! create or remove a file in it. So such a lookup fails with `ETIMEDOUT` after a while.

use std::{
    collections::HashSet,
    ffi::CStr,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use virtiofsd::filesystem::{Context, Entry};

use crate::{
    bounded::{BoundedFileSystem, InnerFileSystem, PinnedFile, entry_location},
    listing::mount_id,
    pool,
    table::Location,
};

/// Timeout for a lookup of a mounted file system's root.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(3);

/// A lookup on a thread of its own.
#[derive(Default)]
struct Lookup {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Default)]
enum State {
    #[default]
    Running,
    Ended(io::Result<Entry>),
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
        if self.unanswered().contains(&key) {
            return Err(timed_out());
        }
        let lookup = Arc::new(Lookup::default());
        pool::spawn("file-share-mount", {
            let (file_system, lookup) = (self.clone(), Arc::clone(&lookup));
            let (directory, key) = (directory.inner_inode, key.clone());
            move || {
                let result = file_system.inner.lookup(context, directory, &key.name);
                lookup.end(&file_system, context, &key, result);
            }
        })?;
        lookup.wait(|| {
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

impl Lookup {
    /// Waits for the end. Calls `abandon` if it does not come in time.
    fn wait(&self, abandon: impl FnOnce()) -> io::Result<Entry> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let is_running = |state: &mut State| matches!(state, State::Running);
        let (mut state, _) = self
            .ended
            .wait_timeout_while(state, LOOKUP_TIMEOUT, is_running)
            .unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *state, State::Abandoned) {
            State::Ended(result) => result,
            State::Running | State::Abandoned => {
                abandon();
                Err(timed_out())
            }
        }
    }

    fn end<F: InnerFileSystem>(
        &self,
        file_system: &BoundedFileSystem<F>,
        context: Context,
        key: &Location,
        result: io::Result<Entry>,
    ) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Running = &*state {
            *state = State::Ended(result);
            self.ended.notify_one();
            return;
        }
        file_system.unanswered().remove(key);
        if let Ok(entry) = result {
            file_system.inner.forget(context, entry.inode, 1);
        }
    }
}

fn timed_out() -> io::Error {
    io::Error::from_raw_os_error(libc::ETIMEDOUT)
}
