//! Changes of the host that the agent repeats in the guest, so that the guest's kernel reports them
//! to watchers.
//!
//! A thread of the agent makes ordinary system calls in the shared home. Its requests are answered
//! here as if they succeeded, and change nothing on the host:
//!
//! - It announces each change by a lookup in the replay directory
//!   ([`REPLAY_DIRECTORY`](container_protocol::REPLAY_DIRECTORY)).
//! - A file that was created is missing until the thread creates it; then it is the host's. If it
//!   is gone already, it is made up.
//! - A file that was removed exists until the thread removes it: as the file that the guest knows
//!   by this name, or made up.
//! - A rename from or to an unwatched directory is one from or to the replay directory.
//! - What is made up is forgotten at once: the guest may not cache it.
//!
//! A guest that imitates the thread only confuses itself.

use std::{
    ffi::{CStr, CString},
    io,
    os::unix::ffi::OsStrExt,
    time::Duration,
};

use container_protocol::{HomeChange, HomeEntry, HomeFile, REPLAY_SOURCE, REPLAY_TARGET};
use virtiofsd::{
    filesystem::{Context, Entry, FileSystem, GetxattrReply},
    fuse::{Attr, AttrOut, EntryOut, GetxattrIn, GetxattrOut, InHeader, Opcode, OpenOut},
};
use vm_memory::ByteValued;

use crate::{
    bounded::{BoundedFileSystem, InnerFileSystem, PinnedFile},
    replay::{
        Current, DIRECTORY_NUMBER, REPLAY_HANDLE, is_replay_directory, made_up_attributes,
        own_context,
    },
    table::{GuestInode, Location},
};

/// Time for which the guest may cache the attributes of the replay directory, which never change.
const DIRECTORY_VALIDITY: Duration = Duration::from_secs(3600);

/// Limit of an extended attribute in bytes (`XATTR_SIZE_MAX` of Linux).
const MAX_ATTRIBUTE: u32 = 64 << 10;

/// Number that is added to the nanoseconds of a modification time, so that the guest takes the
/// contents that it has cached for outdated.
const OTHER_TIME: u32 = 1;

impl<F: InnerFileSystem> BoundedFileSystem<F> {
    /// Answers a request of the replaying thread. Returns `None` for one that changes nothing and
    /// is served as those of other threads.
    pub(crate) fn answer_replay(
        &self,
        opcode: Opcode,
        header: InHeader,
        body: &[u8],
    ) -> Option<io::Result<Vec<u8>>> {
        let context = Context::from(header);
        let inode = header.nodeid;
        let entry = |entry: Entry| EntryOut::from(entry).as_slice().to_vec();
        match opcode {
            Opcode::Lookup => {
                let found = self.look_up_replayed(context, inode, first_name(body)?)?;
                Some(found.map(entry))
            }
            Opcode::Getattr => Some(self.current_attributes(context, inode)),
            Opcode::Setattr => Some(self.replayed_attributes(context, inode)),
            Opcode::Getxattr => Some(self.extended_attribute(context, inode, body)),
            Opcode::Listxattr if is_made_up_number(inode) || self.is_made_up(inode) => {
                Some(Err(no_attribute()))
            }
            Opcode::Mknod | Opcode::Mkdir | Opcode::Symlink => {
                Some(self.create_replayed(context, inode).map(entry))
            }
            Opcode::Unlink | Opcode::Rmdir => Some(self.remove_replayed(inode)),
            Opcode::Rename | Opcode::Rename2 => Some(self.rename_replayed()),
            Opcode::Open => {
                let opened = OpenOut {
                    fh: REPLAY_HANDLE,
                    ..OpenOut::default()
                };
                Some(Ok(opened.as_slice().to_vec()))
            }
            Opcode::Forget
            | Opcode::BatchForget
            | Opcode::Readlink
            | Opcode::Statfs
            | Opcode::Release
            | Opcode::Listxattr
            | Opcode::Flush
            | Opcode::Opendir
            | Opcode::Readdir
            | Opcode::Readdirplus
            | Opcode::Releasedir
            | Opcode::Access
            | Opcode::Interrupt => None,
            _ => Some(Err(not_permitted())),
        }
    }

    fn is_made_up(&self, inode: u64) -> bool {
        self.replay.made_up_type(inode).is_some()
    }

    /// Looks up a name that is part of a change.
    fn look_up_replayed(
        &self,
        context: Context,
        parent: u64,
        name: &CStr,
    ) -> Option<io::Result<Entry>> {
        if parent == DIRECTORY_NUMBER {
            return Some(self.look_up_outside(context, name));
        }
        if is_replay_directory(parent, name) {
            return Some(Ok(Entry {
                inode: DIRECTORY_NUMBER,
                generation: 0,
                attr: made_up_attributes(DIRECTORY_NUMBER, libc::S_IFDIR),
                attr_timeout: DIRECTORY_VALIDITY,
                entry_timeout: Duration::ZERO,
            }));
        }
        let current = self.replay.state().current.clone()?;
        let is_here = |entry: &HomeEntry| is_entry(entry, parent, name);
        match &current.change {
            HomeChange::Created { at, .. } if is_here(at) && !current.is_prepared => {
                Some(Err(not_found()))
            }
            HomeChange::Removed { at, is_directory } if is_here(at) => {
                Some(if current.is_prepared {
                    Ok(self.removed_entry(context, at, *is_directory))
                } else {
                    Err(not_found())
                })
            }
            HomeChange::Renamed {
                from: Some(from),
                to,
                is_directory,
            } if is_here(from) => Some(Ok(self.moved_entry(
                context,
                Some(from),
                to.as_ref(),
                *is_directory,
            ))),
            HomeChange::Renamed { to: Some(to), .. } if is_here(to) => {
                let replaced = current.replaced;
                let entry = replaced.and_then(|it| self.gone_entry(context, it, to));
                Some(entry.ok_or_else(not_found))
            }
            HomeChange::Touched {
                file: HomeFile::Entry(at),
                is_directory,
                ..
            } if is_here(at) => match self.existing_entry(context, parent, name) {
                // It is gone again.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                    Some(Ok(self.made_up_entry(file_type(*is_directory))))
                }
                found => Some(found),
            },
            _ => None,
        }
    }

    /// Looks a name up in the replay directory.
    fn look_up_outside(&self, context: Context, name: &CStr) -> io::Result<Entry> {
        if name.to_bytes() == REPLAY_TARGET.as_bytes() {
            return Err(not_found());
        }
        if name.to_bytes() != REPLAY_SOURCE.as_bytes() {
            self.announce(name);
            return Err(not_found());
        }
        let current = self.replay.state().current.clone();
        match current.map(|current| current.change) {
            Some(HomeChange::Renamed {
                from: None,
                to: Some(to),
                is_directory,
            }) => Ok(Entry {
                // The next one is another file.
                entry_timeout: Duration::ZERO,
                ..self.moved_entry(context, None, Some(&to), is_directory)
            }),
            _ => Err(not_found()),
        }
    }

    fn announce(&self, number: &CStr) {
        let index = number.to_str().ok().and_then(|it| it.parse::<usize>().ok());
        let mut state = self.replay.state();
        let change = index.and_then(|index| state.changes.get(index)).cloned();
        state.current = change.map(|change| Current {
            replaced: match &change {
                HomeChange::Renamed { to: Some(to), .. } => self.table().by_location(&location(to)),
                _ => None,
            },
            change,
            is_prepared: false,
        });
    }

    fn made_up_entry(&self, file_type: u32) -> Entry {
        let inode = self.table().next_number();
        self.replay.make_up(inode.0, file_type)
    }

    /// Answers with the attributes of a file, which may have just been removed on the host.
    fn current_attributes(&self, context: Context, inode: u64) -> io::Result<Vec<u8>> {
        if is_made_up_number(inode) || self.is_made_up(inode) {
            return self.replayed_attributes(context, inode);
        }
        match self.getattr(context, inode, None) {
            Ok((attributes, validity)) => Ok(attributes_answer(attributes, validity)),
            Err(_) => self.replayed_attributes(context, inode),
        }
    }

    /// Answers with an extended attribute of a file, which may have just been removed on the host.
    /// The guest's kernel asks for access control lists when it opens a file.
    fn extended_attribute(&self, context: Context, inode: u64, body: &[u8]) -> io::Result<Vec<u8>> {
        if is_made_up_number(inode) || self.is_made_up(inode) {
            return Err(no_attribute());
        }
        let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
        let (request, name) = body
            .split_at_checked(size_of::<GetxattrIn>())
            .ok_or_else(invalid)?;
        let mut parsed = GetxattrIn::default();
        parsed.as_mut_slice().copy_from_slice(request);
        let name = first_name(name).ok_or_else(invalid)?;
        match self.getxattr(context, inode, name, parsed.size.min(MAX_ATTRIBUTE)) {
            Ok(GetxattrReply::Value(value)) => Ok(value),
            Ok(GetxattrReply::Count(size)) => {
                let answer = GetxattrOut { size, padding: 0 };
                Ok(answer.as_slice().to_vec())
            }
            Err(error) if self.getattr(context, inode, None).is_ok() => Err(error),
            Err(_) => Err(no_attribute()),
        }
    }

    /// Answers with the attributes of a file, of which the guest has "changed" some.
    fn replayed_attributes(&self, context: Context, inode: u64) -> io::Result<Vec<u8>> {
        let (attr, validity) = if inode == DIRECTORY_NUMBER {
            (made_up_attributes(inode, libc::S_IFDIR), DIRECTORY_VALIDITY)
        } else if let Some(file_type) = self.replay.made_up_type(inode) {
            (made_up_attributes(inode, file_type), Duration::ZERO)
        } else {
            let attributes = match self.getattr(context, inode, None) {
                // The guest's kernel takes these attributes for its own doing and keeps the
                // contents it has cached, but asks again soon, and drops them because of another
                // time.
                Ok((attributes, _)) => Attr {
                    mtimensec: (attributes.mtimensec + OTHER_TIME) % 1_000_000_000,
                    ..attributes
                },
                // It is gone since the thread has looked it up, and its events are still due.
                Err(error) => self.gone_attributes(inode).ok_or(error)?,
            };
            (attributes, Duration::ZERO)
        };
        Ok(attributes_answer(attr, validity))
    }

    /// Returns attributes for a file that the guest knows, and that is gone.
    fn gone_attributes(&self, inode: u64) -> Option<Attr> {
        let file_type = self.table().get(GuestInode(inode))?.file_type;
        Some(Attr {
            nlink: 0,
            ..made_up_attributes(inode, file_type)
        })
    }

    fn create_replayed(&self, context: Context, parent: u64) -> io::Result<Entry> {
        let current = self.prepare().ok_or_else(not_permitted)?;
        let HomeChange::Created { at, file_type } = current.change else {
            // The guest's kernel has just been made to forget the name.
            return Err(io::Error::from_raw_os_error(libc::EEXIST));
        };
        if at.directory != parent {
            return Err(not_permitted());
        }
        let found = self.current_entry(context, &at);
        let is_same_type = |entry: &Entry| entry.attr.mode & libc::S_IFMT == file_type;
        let found = found.filter(is_same_type);
        Ok(found.unwrap_or_else(|| self.made_up_entry(file_type)))
    }

    /// Marks the current change as prepared, and returns it.
    fn prepare(&self) -> Option<Current> {
        let mut state = self.replay.state();
        let current = state.current.as_mut()?;
        current.is_prepared = true;
        Some(current.clone())
    }

    fn remove_replayed(&self, parent: u64) -> io::Result<Vec<u8>> {
        let current = self.replay.state().current.clone();
        let Some(HomeChange::Removed { at, .. }) = current.map(|it| it.change) else {
            return Err(not_permitted());
        };
        if at.directory != parent {
            return Err(not_permitted());
        }
        let location = location(&at);
        let is_gone = self.current_entry_inode(own_context(), &at).is_none();
        let mut table = self.table();
        if is_gone && let Some(known) = table.by_location(&location) {
            table.remove_name(known, &location);
        }
        Ok(Vec::new())
    }

    fn rename_replayed(&self) -> io::Result<Vec<u8>> {
        let current = self.replay.state().current.clone();
        let Some(Current {
            change: HomeChange::Renamed { to, .. },
            replaced,
            ..
        }) = current
        else {
            return Err(not_permitted());
        };
        if let (Some(to), Some(replaced)) = (to, replaced) {
            let now = self.current_entry_inode(own_context(), &to);
            if now != Some(replaced) {
                self.table().remove_name(replaced, &location(&to));
            }
        }
        Ok(Vec::new())
    }

    /// Looks a name up. Fails with `ENOENT` also where the guest could cache that.
    fn existing_entry(&self, context: Context, parent: u64, name: &CStr) -> io::Result<Entry> {
        match self.lookup(context, parent, name)? {
            Entry { inode: 0, .. } => Err(not_found()),
            entry => Ok(entry),
        }
    }

    /// Returns the file that has a name on the host now, with a reference of the guest.
    fn current_entry(&self, context: Context, entry: &HomeEntry) -> Option<Entry> {
        self.existing_entry(context, entry.directory, &location(entry).name)
            .ok()
    }

    /// Returns the number of the file that has a name on the host now.
    fn current_entry_inode(&self, context: Context, entry: &HomeEntry) -> Option<GuestInode> {
        let directory = self.pin_on_host(context, entry.directory).ok()?;
        let file = self.pin_by_name(context, &directory, &location(entry).name)?;
        Some(file.guest_inode)
    }

    /// Returns the file that the guest is to remove from a name.
    fn removed_entry(&self, context: Context, at: &HomeEntry, is_directory: bool) -> Entry {
        let known = self.table().by_location(&location(at));
        let known = known.and_then(|known| self.gone_entry(context, known, at));
        let is_directory_too = |entry: &Entry| is_directory_mode(entry.attr.mode) == is_directory;
        known
            .filter(is_directory_too)
            .unwrap_or_else(|| self.made_up_entry(file_type(is_directory)))
    }

    /// Returns the file that the guest is to rename: the one that has the new name now, or the one
    /// that the guest knows by the old name.
    fn moved_entry(
        &self,
        context: Context,
        from: Option<&HomeEntry>,
        to: Option<&HomeEntry>,
        is_directory: bool,
    ) -> Entry {
        let fits = |entry: &Entry| is_directory_mode(entry.attr.mode) == is_directory;
        let now = to.and_then(|to| self.current_entry(context, to));
        if let Some(now) = now.filter(fits) {
            return now;
        }
        let known = from.and_then(|from| {
            let known = self.table().by_location(&location(from))?;
            let is_there = self.current_entry_inode(context, from) == Some(known);
            if is_there {
                return None;
            }
            self.known_entry(context, known, &location(from), 0)
        });
        known
            .filter(fits)
            .unwrap_or_else(|| self.made_up_entry(file_type(is_directory)))
    }

    /// Returns a file that the guest knows by a name, if another file or none has the name now. A
    /// directory must have been removed, because the guest can no longer use it afterwards.
    fn gone_entry(&self, context: Context, known: GuestInode, at: &HomeEntry) -> Option<Entry> {
        if self.current_entry_inode(context, at) == Some(known) {
            return None;
        }
        let entry = self.known_entry(context, known, &location(at), 1)?;
        let is_usable = is_directory_mode(entry.attr.mode) && entry.attr.nlink > 1;
        (!is_usable).then_some(entry)
    }

    /// Returns the entry of a file that the guest knows, with a reference of the guest, and with
    /// this many additional links.
    fn known_entry(
        &self,
        context: Context,
        known: GuestInode,
        location: &Location,
        additional_links: u32,
    ) -> Option<Entry> {
        let (file_type, pinned) = {
            let mut table = self.table();
            let node = table.get(known)?;
            let (file_type, inner_inode) = (node.file_type, node.inner_inode);
            let pinned = inner_inode.map(|inner_inode| {
                table.pin(known);
                PinnedFile {
                    file_system: self,
                    context,
                    guest_inode: known,
                    inner_inode: inner_inode.0,
                }
            });
            (file_type, pinned)
        };
        let attributes = pinned.map(|file| self.inner.getattr(context, file.inner_inode, None));
        let mut attr = match attributes {
            Some(Ok((attributes, _))) => attributes,
            // It is gone.
            Some(Err(_)) => self.gone_attributes(known.0)?,
            None => made_up_attributes(known.0, file_type),
        };
        attr.nlink += additional_links;
        self.table().add_lookup(known, location.clone());
        Some(Entry {
            inode: known.0,
            generation: 0,
            attr,
            attr_timeout: Duration::ZERO,
            entry_timeout: Duration::ZERO,
        })
    }
}

fn is_made_up_number(inode: u64) -> bool {
    inode == DIRECTORY_NUMBER
}

fn file_type(is_directory: bool) -> u32 {
    if is_directory {
        libc::S_IFDIR
    } else {
        libc::S_IFREG
    }
}

fn is_directory_mode(mode: u32) -> bool {
    mode & libc::S_IFMT == libc::S_IFDIR
}

fn is_entry(entry: &HomeEntry, directory: u64, name: &CStr) -> bool {
    entry.directory == directory && entry.name.as_os_str().as_bytes() == name.to_bytes()
}

fn location(entry: &HomeEntry) -> Location {
    let name = entry.name.as_os_str().as_bytes();
    let name = CString::new(name).unwrap_or_default();
    Location {
        directory: GuestInode(entry.directory),
        name: name.into(),
    }
}

fn attributes_answer(attr: Attr, validity: Duration) -> Vec<u8> {
    let answer = AttrOut {
        attr_valid: validity.as_secs(),
        attr_valid_nsec: validity.subsec_nanos(),
        dummy: 0,
        attr,
    };
    answer.as_slice().to_vec()
}

/// Returns the name that a request consists of.
fn first_name(body: &[u8]) -> Option<&CStr> {
    CStr::from_bytes_until_nul(body).ok()
}

fn not_found() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOENT)
}

fn no_attribute() -> io::Error {
    io::Error::from_raw_os_error(libc::ENODATA)
}

/// The error of a request that does not fit the change that was announced.
fn not_permitted() -> io::Error {
    io::Error::from_raw_os_error(libc::EPERM)
}
