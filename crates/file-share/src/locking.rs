//! Requests of the guest about locks.

use std::{ffi::CStr, fs::File, io, sync::Arc, time::Duration};

use virtiofsd::{filesystem::Context, fuse::FileLock};

use crate::{
    bounded::{BoundedFileSystem, InnerFileSystem},
    locks::{
        Description, Waiting,
        descriptor::{Patience, lock_bytes, lock_file, would_block},
        one_sided::{DATABASE, INDEX},
        request::{ByteRange, LockRequest, Scope, answer},
    },
    sqlite::is_one_sided,
    table::GuestInode,
};

/// Interval at which a lock is tried that cannot be waited for in the kernel.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

impl<F: InnerFileSystem> BoundedFileSystem<F> {
    /// Looks for a lock that prevents the requested one.
    pub(crate) fn test_lock(
        &self,
        context: Context,
        request: &LockRequest,
    ) -> io::Result<FileLock> {
        let (Some(access), Scope::Bytes(range)) = (request.access, request.scope) else {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        };
        // A test needs no access to the file.
        let any_access = LockRequest {
            access: None,
            ..*request
        };
        let conflict = if self.is_one_sided(context, request)? {
            self.with_file(context, request, |file| {
                self.locks
                    .find_one_sided_conflict(request, range, access, file)
            })
        } else if let Some(description) = self.locks.description(&any_access)? {
            let file = &description.file;
            self.locks.find_conflict(request, range, access, file)
        } else {
            self.with_file(context, request, |file| {
                self.locks.find_conflict(request, range, access, file)
            })
        };
        Ok(answer(conflict?))
    }

    /// Locks or unlocks. Fails with `EAGAIN` if another lock prevents it.
    pub(crate) fn set_lock(&self, context: Context, request: &LockRequest) -> io::Result<()> {
        match self.try_to_lock(context, request) {
            Err(error)
                if error.kind() == io::ErrorKind::WouldBlock
                    && self.locks.await_releases(request.inode) =>
            {
                self.try_to_lock(context, request)
            }
            other => other,
        }?;
        self.locked(context, request)
    }

    /// Locks when no other lock prevents it any more. Fails with `EINTR` if `waiting` is
    /// interrupted.
    pub(crate) fn wait_for_lock(
        &self,
        context: Context,
        request: &LockRequest,
        waiting: &Waiting<'_>,
    ) -> io::Result<()> {
        if self.is_one_sided(context, request)? {
            loop {
                match self.set_lock(context, request) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    other => return other,
                }
                waiting.sleep(RETRY_INTERVAL);
                waiting.wait(|| Ok(()))?;
            }
        }
        match request.scope {
            Scope::File => {
                let file = self.with_file(context, request, File::try_clone)?;
                waiting.wait(|| lock_file(&file, request.access, Patience::Wait))?;
            }
            Scope::Bytes(range) => {
                let description = self.description(context, request)?;
                self.locks.waiting_begins(request);
                let result = waiting
                    .wait(|| lock_bytes(&description.file, range, request.access, Patience::Wait));
                self.locks.waiting_ends(request);
                result?;
            }
        }
        self.locks.note(request);
        self.locked(context, request)
    }

    fn try_to_lock(&self, context: Context, request: &LockRequest) -> io::Result<()> {
        let Scope::Bytes(range) = request.scope else {
            self.with_file(context, request, |file| {
                lock_file(file, request.access, Patience::Fail)
            })?;
            self.locks.note(request);
            return Ok(());
        };
        let Some(access) = request.access else {
            self.unlock_bytes(request, range)?;
            self.locks.note(request);
            return Ok(());
        };
        if self.is_one_sided(context, request)? {
            // A connection that has set WAL mode has an exclusive lock, and keeps a shared one. No
            // other can lock the range meanwhile, because `PENDING_BYTE` is locked too.
            if self.locks.holds(request, range) {
                self.unlock_bytes(request, range)?;
                self.locks.note(&LockRequest {
                    access: None,
                    ..*request
                });
            }
            return self.with_file(context, request, |file| {
                self.locks.set_one_sided(request, range, access, file)
            });
        }
        let description = self.description(context, request)?;
        lock_bytes(&description.file, range, request.access, Patience::Fail)?;
        self.locks.note(request);
        if self.is_one_sided(context, request)? {
            // The database was set to WAL mode before the lock was granted.
            self.unlock_bytes(request, range)?;
            return Err(would_block());
        }
        Ok(())
    }

    fn unlock_bytes(&self, request: &LockRequest, range: ByteRange) -> io::Result<()> {
        self.locks
            .remove_one_sided(request.inode, request.owner, range);
        match self.locks.description(request)? {
            Some(description) => lock_bytes(&description.file, range, None, Patience::Fail),
            None => Ok(()),
        }
    }

    /// Returns the open file description for the locks of a request's owner.
    fn description(&self, context: Context, request: &LockRequest) -> io::Result<Arc<Description>> {
        match self.locks.description(request)? {
            Some(description) => Ok(description),
            None => self.with_file(context, request, |file| {
                self.locks.open_description(request, file)
            }),
        }
    }

    /// Notes that a request was granted. After that the guest must not read contents that it has
    /// cached before.
    fn locked(&self, context: Context, request: &LockRequest) -> io::Result<()> {
        if request.access.is_none() {
            return Ok(());
        }
        let guest_inode = GuestInode(request.inode);
        let Some(cached) = self.table().lock(guest_inode) else {
            return Ok(());
        };
        if cached.has_expired() {
            return Ok(());
        }
        let file = self.pin(context, request.inode)?;
        let (current, _) = self.inner.getattr(context, file.inner_inode, None)?;
        let is_outdated = cached.has_other_contents(&current);
        if is_outdated && !self.expiry.expire_now(guest_inode) {
            self.locks.pause_until(cached.expiry);
        }
        Ok(())
    }

    /// Returns whether a request is about a lock that host and guest do not share.
    fn is_one_sided(&self, context: Context, request: &LockRequest) -> io::Result<bool> {
        let Scope::Bytes(range @ (DATABASE | INDEX)) = request.scope else {
            return Ok(false);
        };
        if self.locks.has_one_sided(request) {
            return Ok(true);
        }
        let name = self.name(GuestInode(request.inode));
        self.with_file(context, request, |file| {
            Ok(is_one_sided(file, name.as_deref(), range))
        })
    }

    /// Returns the name by which a file is known.
    pub(crate) fn name(&self, guest_inode: GuestInode) -> Option<Box<CStr>> {
        let table = self.table();
        let location = table.get(guest_inode)?.location.as_ref()?;
        Some(location.name.clone())
    }

    /// Calls `act` with the file of a request's handle.
    fn with_file<T>(
        &self,
        context: Context,
        request: &LockRequest,
        act: impl FnOnce(&File) -> io::Result<T>,
    ) -> io::Result<T> {
        self.with_handle(context, request.inode, request.handle, act)
    }
}

#[cfg(test)]
mod tests;
