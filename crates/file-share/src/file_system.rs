//! Requests of the guest, with its inode numbers translated for the inner file system.

use std::{ffi::CStr, fs::File, io, time::Duration};

use virtiofsd::{
    filesystem::{
        Context, Entry, Extensions, FileSystem, FsOptions, GetxattrReply, ListxattrReply,
        OpenOptions, ROOT_ID, SetattrValid, SetxattrFlags, ZeroCopyReader, ZeroCopyWriter,
    },
    fuse,
    oslib::WritevFlags,
    soft_idmap::Id,
};

use crate::{
    anonymous::{self, Creation, HANDLE_BIT},
    bounded::{
        BoundedFileSystem, EXCLUDED_TIMEOUT, InnerFileSystem, PinnedFile, check_name,
        entry_location,
    },
    error::stale_handle,
    excluded::Located,
    listing::is_listing,
    local_answers::SHORT_VALIDITY,
    places::{Entries, HANDLE, PlaceKind},
    replay::{REPLAY_HANDLE, is_replay_directory},
    sqlite::is_database,
    table::{GuestInode, Knowledge},
};

/// Implements requests about one file that only need its inode number translated.
macro_rules! forward_with_inner_inode {
    ($pin:ident: $(fn $request:ident($($argument:ident: $type:ty),*) -> $answer:ty;)*) => {
        $(
            fn $request(
                &self,
                context: Context,
                inode: u64,
                $($argument: $type),*
            ) -> io::Result<$answer> {
                let file = self.$pin(context, inode)?;
                self.inner.$request(context, file.inner_inode, $($argument),*)
            }
        )*
    };
}

impl<F: InnerFileSystem> BoundedFileSystem<F> {
    /// Counts an open file of the guest. There is no handle if the file was not opened.
    fn opened(&self, guest_inode: GuestInode, handle: Option<u64>) {
        if let Some(handle) = handle {
            self.table().opened(guest_inode, handle);
        }
    }

    fn closed(&self, context: Context, guest_inode: GuestInode, handle: u64) {
        let unknown = self.table().closed(guest_inode, handle);
        self.close(context, unknown);
    }

    /// Returns the identity in whose name a file is created. An ordinary user cannot take on the
    /// guest's groups: the kernel refuses it.
    fn as_creator(&self, context: Context, extensions: Extensions) -> (Context, Extensions) {
        match self.restrictions().creating_group {
            None => (context, extensions),
            Some(gid) => (
                Context { gid, ..context },
                Extensions {
                    sup_gids: Vec::new(),
                    ..extensions
                },
            ),
        }
    }

    /// Closes an inner handle. Closing a file may wait for the host's file system; the inner file
    /// system would do it while it has its table of handles locked, unless another request uses the
    /// handle.
    fn close_handle(
        &self,
        context: Context,
        inner_inode: u64,
        handle: u64,
        close: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        self.probe(context, inner_inode, handle, |_| close())
    }

    /// Creates a file without a name. Returns its entry and the handle of the open file.
    pub(crate) fn create_anonymous(
        &self,
        context: Context,
        parent: u64,
        request: &fuse::CreateIn,
    ) -> io::Result<(Entry, u64)> {
        if self.restrictions().read_only {
            return Err(io::Error::from_raw_os_error(libc::EROFS));
        }
        let directory = self.pin_for_change(context, parent)?;
        if !self.has_descriptors_left() {
            return Err(io::Error::from_raw_os_error(libc::ENFILE));
        }
        let owner = match self.restrictions().creating_group {
            Some(_) => None,
            None => Some((context.uid.into_inner(), context.gid.into_inner())),
        };
        let creation = Creation {
            flags: request.flags,
            mode: request.mode,
            umask: request.umask,
            owner,
        };
        let file = self.with_directory(context, directory.inner_inode, |directory| {
            anonymous::create(directory, creation)
        })?;
        let attr = anonymous::attributes(&file)?;
        let inode = self.table().next_number().0;
        let handle = self.anonymous.add(inode, file);
        let entry = Entry {
            inode,
            attr,
            attr_timeout: SHORT_VALIDITY,
            ..name_only()
        };
        Ok((entry, handle))
    }

    /// Calls `act` with the file of a handle.
    pub(crate) fn with_handle<T>(
        &self,
        context: Context,
        inode: u64,
        handle: u64,
        act: impl FnOnce(&File) -> io::Result<T>,
    ) -> io::Result<T> {
        if handle & HANDLE_BIT != 0 {
            return act(&*self.anonymous.handle(handle)?);
        }
        let file = self.pin_on_host(context, inode)?;
        self.probe(context, file.inner_inode, handle, act)
    }

    /// Checks that the path by which the guest knows a file leads to it, before it is opened. Fails
    /// with `ESTALE` if the guest is to look the path up again.
    fn check_path(&self, context: Context, file: &PinnedFile<'_, F>) -> io::Result<()> {
        let known = self.table().get(file.guest_inode).and_then(|node| {
            let location = node.location.clone()?;
            Some((location, node.identity))
        });
        // The guest has removed the name, and has the file open.
        let Some((location, identity)) = known else {
            return Ok(());
        };
        let leads_there = self
            .pin_on_host(context, location.directory.0)
            .and_then(|directory| {
                self.with_directory(context, directory.inner_inode, |directory| {
                    identity.is_at(directory, &location.name)
                })
            });
        // Whatever the error is, the lookup of the path reports it.
        let leads_there = leads_there.unwrap_or(false);
        if !leads_there && self.table().refuse_once(file.guest_inode, context.pid) {
            return Err(stale_handle());
        }
        Ok(())
    }

    /// Checks a file that was just opened, and returns options for the guest. Fails with `ESTALE`
    /// if the guest is to look the path up again.
    fn check_opened(
        &self,
        context: Context,
        file: &PinnedFile<'_, F>,
        handle: u64,
        flags: u32,
    ) -> io::Result<OpenOptions> {
        let mut options = self.closing_options(context, file.guest_inode);
        let (current, _) = self.inner.getattr(context, file.inner_inode, None)?;
        let flags = i32::from_ne_bytes(flags.to_ne_bytes());
        if flags & libc::O_TRUNC == 0 {
            let mut table = self.table();
            match table.knowledge(file.guest_inode, context.pid, &current) {
                Knowledge::Current => {}
                Knowledge::Outdated => return Err(stale_handle()),
                // Reads must at least not end at the size that the guest knows.
                Knowledge::StillOutdated => options |= OpenOptions::DIRECT_IO,
            }
        }
        let name = self.name(file.guest_inode);
        let is_database = self.probe(context, file.inner_inode, handle, |file| {
            Ok(is_database(file, name.as_deref(), current.size))
        })?;
        if is_database {
            options |= OpenOptions::DIRECT_IO;
        }
        Ok(options)
    }

    /// Translates the entry of a file that was just created. `validity` is the directory's
    /// [validity](Self::validity) before.
    fn created_entry(
        &self,
        context: Context,
        directory: &PinnedFile<'_, F>,
        name: &CStr,
        entry: Entry,
        validity: Duration,
    ) -> io::Result<Entry> {
        match self.to_guest_entry(context, directory, name, entry, validity)? {
            Some(entry) => Ok(entry),
            None => self.look_up(context, directory, name),
        }
    }

    /// Checks that the guest may give this name to a new file that is no directory.
    fn check_new_name(&self, parent: u64, name: &CStr) -> io::Result<()> {
        check_name(name)?;
        self.check_no_place(parent, name, libc::EACCES)
    }

    /// Checks that the guest may give this name to a new directory. An ancestor that the guest does
    /// not see may be created, but only empty.
    fn check_new_directory(&self, parent: u64, name: &CStr) -> io::Result<()> {
        check_name(name)?;
        match self.places.child(GuestInode(parent), name) {
            Some(place)
                if self.places.kind(place) == (PlaceKind::Ancestor { is_required: false }) =>
            {
                Ok(())
            }
            _ => self.check_no_place(parent, name, libc::EEXIST),
        }
    }

    /// Checks that a name is no place. What is above an excluded directory cannot be moved either:
    /// the guest could put its own in its place.
    fn check_no_place(&self, parent: u64, name: &CStr, error: i32) -> io::Result<()> {
        match self.places.child(GuestInode(parent), name) {
            Some(_) => Err(io::Error::from_raw_os_error(error)),
            None => Ok(()),
        }
    }

    /// Removes a name. `act` removes it in the inner file system, given the directory's inner
    /// inode.
    fn remove(
        &self,
        context: Context,
        parent: u64,
        name: &CStr,
        act: impl FnOnce(u64) -> io::Result<()>,
    ) -> io::Result<()> {
        check_name(name)?;
        let directory = self.pin_on_host(context, parent)?;
        let removed = self.pin_by_name(context, &directory, name);
        act(directory.inner_inode)?;
        if let Some(removed) = removed {
            let location = entry_location(&directory, name);
            self.table().remove_name(removed.guest_inode, &location);
        }
        Ok(())
    }
}

impl<F: InnerFileSystem> FileSystem for BoundedFileSystem<F> {
    type Inode = u64;
    type Handle = u64;
    type DirIter = Entries<F::DirIter>;

    fn init(&self, capable: FsOptions) -> io::Result<FsOptions> {
        self.clear();
        let options = self.inner.init(capable)?;
        Ok(options | FsOptions::POSIX_LOCKS | FsOptions::FLOCK_LOCKS)
    }

    fn destroy(&self) {
        self.clear();
        self.inner.destroy();
    }

    fn lookup(&self, context: Context, parent: u64, name: &CStr) -> io::Result<Entry> {
        check_name(name)?;
        if let Some(place) = self.places.child(GuestInode(parent), name) {
            return self.look_up_place(context, parent, place);
        }
        let Located::Host(directory) = self.locate(context, parent)? else {
            return Err(io::Error::from_raw_os_error(libc::ENOENT));
        };
        if is_listing() {
            return if self.leads_to_mount(context, &directory, name) {
                Ok(name_only())
            } else {
                self.look_up(context, &directory, name)
            };
        }
        let validity = self.validity(context, &directory);
        match self.look_up(context, &directory, name) {
            Err(error)
                if error.raw_os_error() == Some(libc::ENOENT)
                    && validity > SHORT_VALIDITY
                    && !is_replay_directory(parent, name) =>
            {
                // The guest may remember that there is none.
                Ok(Entry {
                    entry_timeout: validity,
                    ..name_only()
                })
            }
            found => found,
        }
    }

    fn forget(&self, context: Context, inode: u64, count: u64) {
        let closed = self.table().forget_lookups(GuestInode(inode), count);
        self.close(context, closed);
        self.anonymous.forget(inode, count);
    }

    forward_with_inner_inode! { pin_on_host:
        fn readlink() -> Vec<u8>;
        fn syncfs() -> ();
    }

    fn setattr(
        &self,
        context: Context,
        inode: u64,
        attributes: fuse::SetattrIn,
        handle: Option<u64>,
        valid: SetattrValid,
    ) -> io::Result<(fuse::Attr, Duration)> {
        if let Some(file) = self.anonymous.file(inode) {
            let may_change_owner = self.restrictions().creating_group.is_none();
            anonymous::set_attributes(&file, &attributes, valid, may_change_owner)?;
            return Ok((anonymous::attributes(&file)?, SHORT_VALIDITY));
        }
        let file = self.pin_for_change(context, inode)?;
        let mut validity = self.attributes_validity(file.guest_inode);
        let (mut attributes, _) =
            self.inner
                .setattr(context, file.inner_inode, attributes, handle, valid)?;
        self.note_no_xattr(context, file.guest_inode, file.inner_inode, &mut attributes);
        self.table()
            .send_attributes(file.guest_inode, &mut attributes, &mut validity);
        Ok((attributes, validity))
    }

    fn flush(&self, context: Context, inode: u64, handle: u64, lock_owner: u64) -> io::Result<()> {
        if self.anonymous.file(inode).is_some() || handle == REPLAY_HANDLE {
            self.locks.flushed(inode, lock_owner);
            return Ok(());
        }
        let file = self.pin_on_host(context, inode)?;
        let result = self
            .inner
            .flush(context, file.inner_inode, handle, lock_owner);
        self.locks.flushed(inode, lock_owner);
        result
    }

    fn fsync(&self, context: Context, inode: u64, data_only: bool, handle: u64) -> io::Result<()> {
        if handle & HANDLE_BIT != 0 {
            return self.anonymous.handle(handle)?.sync_all();
        }
        let file = self.pin_on_host(context, inode)?;
        self.inner
            .fsync(context, file.inner_inode, data_only, handle)
    }

    fn fallocate(
        &self,
        context: Context,
        inode: u64,
        handle: u64,
        mode: u32,
        offset: u64,
        length: u64,
    ) -> io::Result<()> {
        if handle & HANDLE_BIT != 0 {
            return anonymous::allocate(&*self.anonymous.handle(handle)?, mode, offset, length);
        }
        let file = self.pin_on_host(context, inode)?;
        self.inner
            .fallocate(context, file.inner_inode, handle, mode, offset, length)?;
        self.table().forget_attributes(file.guest_inode);
        Ok(())
    }

    fn lseek(
        &self,
        context: Context,
        inode: u64,
        handle: u64,
        offset: u64,
        whence: u32,
    ) -> io::Result<u64> {
        if handle & HANDLE_BIT != 0 {
            return anonymous::find(&*self.anonymous.handle(handle)?, offset, whence);
        }
        let file = self.pin_on_host(context, inode)?;
        self.inner
            .lseek(context, file.inner_inode, handle, offset, whence)
    }

    fn setxattr(
        &self,
        context: Context,
        inode: u64,
        name: &CStr,
        value: &[u8],
        flags: u32,
        extra_flags: SetxattrFlags,
    ) -> io::Result<()> {
        if let Some(file) = self.anonymous.file(inode) {
            return anonymous::set_attribute(&file, name, value, flags);
        }
        let file = self.pin_for_change(context, inode)?;
        self.inner
            .setxattr(context, file.inner_inode, name, value, flags, extra_flags)
    }

    fn removexattr(&self, context: Context, inode: u64, name: &CStr) -> io::Result<()> {
        if let Some(file) = self.anonymous.file(inode) {
            return anonymous::remove_attribute(&file, name);
        }
        let file = self.pin_for_change(context, inode)?;
        self.inner.removexattr(context, file.inner_inode, name)
    }

    fn getattr(
        &self,
        context: Context,
        inode: u64,
        handle: Option<u64>,
    ) -> io::Result<(fuse::Attr, Duration)> {
        if let Some(file) = self.anonymous.file(inode) {
            return Ok((anonymous::attributes(&file)?, SHORT_VALIDITY));
        }
        match self.locate(context, inode)? {
            Located::Host(file) => {
                let handle = handle.filter(|handle| *handle != HANDLE);
                let mut validity = self.attributes_validity(file.guest_inode);
                let mut attributes = self.inner_attributes(context, &file, handle)?;
                self.note_no_xattr(context, file.guest_inode, file.inner_inode, &mut attributes);
                self.table()
                    .send_attributes(file.guest_inode, &mut attributes, &mut validity);
                Ok((attributes, validity))
            }
            Located::Empty(place) => Ok((self.places.attributes(place), EXCLUDED_TIMEOUT)),
        }
    }

    fn access(&self, context: Context, inode: u64, mask: u32) -> io::Result<()> {
        match self.locate(context, inode)? {
            Located::Host(file) => {
                let access = move |inner: &F, inode| inner.access(context, inode, mask);
                self.at_mount(&file, access, |_, _, ()| {})
            }
            Located::Empty(_) => Ok(()),
        }
    }

    fn statfs(&self, context: Context, inode: u64) -> io::Result<libc::statvfs64> {
        if self.anonymous.file(inode).is_some() {
            return self.inner.statfs(context, ROOT_ID);
        }
        match self.locate(context, inode)? {
            Located::Host(file) => {
                let read = move |inner: &F, inode| inner.statfs(context, inode);
                self.at_mount(&file, read, |_, _, _| {})
            }
            Located::Empty(_) => self.inner.statfs(context, ROOT_ID),
        }
    }

    fn getxattr(
        &self,
        context: Context,
        inode: u64,
        name: &CStr,
        size: u32,
    ) -> io::Result<GetxattrReply> {
        if let Some(file) = self.anonymous.file(inode) {
            return anonymous::attribute(&file, name, size);
        }
        match self.locate(context, inode)? {
            Located::Host(file) => {
                let name = name.to_owned();
                let read = move |inner: &F, inode| inner.getxattr(context, inode, &name, size);
                self.at_mount(&file, read, |_, _, _| {})
            }
            Located::Empty(_) => Err(io::Error::from_raw_os_error(libc::ENODATA)),
        }
    }

    fn listxattr(&self, context: Context, inode: u64, size: u32) -> io::Result<ListxattrReply> {
        if let Some(file) = self.anonymous.file(inode) {
            return anonymous::attribute_names(&file, size);
        }
        match self.locate(context, inode)? {
            Located::Host(file) => {
                let read = move |inner: &F, inode| inner.listxattr(context, inode, size);
                self.at_mount(&file, read, |_, _, _| {})
            }
            Located::Empty(_) if size == 0 => Ok(ListxattrReply::Count(0)),
            Located::Empty(_) => Ok(ListxattrReply::Names(Vec::new())),
        }
    }

    fn readdir(
        &self,
        context: Context,
        inode: u64,
        handle: u64,
        size: u32,
        offset: u64,
    ) -> io::Result<Self::DirIter> {
        if handle == HANDLE {
            return Ok(Entries::Empty(offset));
        }
        let directory = self.pin_on_host(context, inode)?;
        let entries = self
            .inner
            .readdir(context, directory.inner_inode, handle, size, offset)?;
        Ok(Entries::Inner(entries))
    }

    fn fsyncdir(
        &self,
        context: Context,
        inode: u64,
        data_only: bool,
        handle: u64,
    ) -> io::Result<()> {
        if handle == HANDLE {
            return Ok(());
        }
        let directory = self.pin_on_host(context, inode)?;
        self.inner
            .fsyncdir(context, directory.inner_inode, data_only, handle)
    }

    fn symlink(
        &self,
        context: Context,
        target: &CStr,
        parent: u64,
        name: &CStr,
        extensions: Extensions,
    ) -> io::Result<Entry> {
        self.check_new_name(parent, name)?;
        let (context, extensions) = self.as_creator(context, extensions);
        let directory = self.pin_for_change(context, parent)?;
        let validity = self.validity(context, &directory);
        let entry = self
            .inner
            .symlink(context, target, directory.inner_inode, name, extensions)?;
        self.created_entry(context, &directory, name, entry, validity)
    }

    fn mknod(
        &self,
        context: Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        device: u32,
        umask: u32,
        extensions: Extensions,
    ) -> io::Result<Entry> {
        self.check_new_name(parent, name)?;
        let (context, extensions) = self.as_creator(context, extensions);
        let directory = self.pin_for_change(context, parent)?;
        let validity = self.validity(context, &directory);
        let entry = self.inner.mknod(
            context,
            directory.inner_inode,
            name,
            mode,
            device,
            umask,
            extensions,
        )?;
        self.created_entry(context, &directory, name, entry, validity)
    }

    fn mkdir(
        &self,
        context: Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        umask: u32,
        extensions: Extensions,
    ) -> io::Result<Entry> {
        self.check_new_directory(parent, name)?;
        let (context, extensions) = self.as_creator(context, extensions);
        let directory = self.pin_for_change(context, parent)?;
        let validity = self.validity(context, &directory);
        let entry = self.inner.mkdir(
            context,
            directory.inner_inode,
            name,
            mode,
            umask,
            extensions,
        )?;
        self.created_entry(context, &directory, name, entry, validity)
    }

    fn unlink(&self, context: Context, parent: u64, name: &CStr) -> io::Result<()> {
        let place = self.places.child(GuestInode(parent), name);
        let kind = place.map(|place| self.places.kind(place));
        // An ancestor may be a symbolic link, which does not lead to a place.
        if !matches!(kind, None | Some(PlaceKind::Ancestor { .. })) {
            return Err(io::Error::from_raw_os_error(libc::EBUSY));
        }
        self.remove(context, parent, name, |directory| {
            self.inner.unlink(context, directory, name)
        })
    }

    fn rmdir(&self, context: Context, parent: u64, name: &CStr) -> io::Result<()> {
        self.check_no_place(parent, name, libc::EBUSY)?;
        self.remove(context, parent, name, |directory| {
            self.inner.rmdir(context, directory, name)
        })
    }

    fn rename(
        &self,
        context: Context,
        old_parent: u64,
        old_name: &CStr,
        new_parent: u64,
        new_name: &CStr,
        flags: u32,
    ) -> io::Result<()> {
        check_name(old_name)?;
        check_name(new_name)?;
        self.check_no_place(old_parent, old_name, libc::EBUSY)?;
        self.check_no_place(new_parent, new_name, libc::EBUSY)?;
        let old_directory = self.pin_on_host(context, old_parent)?;
        let new_directory = self.pin_for_change(context, new_parent)?;
        let moved = self.pin_by_name(context, &old_directory, old_name);
        let replaced = self.pin_by_name(context, &new_directory, new_name);
        self.inner.rename(
            context,
            old_directory.inner_inode,
            old_name,
            new_directory.inner_inode,
            new_name,
            flags,
        )?;
        let moved = moved.as_ref().map(|file| file.guest_inode);
        let replaced = replaced.as_ref().map(|file| file.guest_inode);
        if moved == replaced {
            // Two hard links to one file: rename(2) leaves both.
            return Ok(());
        }
        let (old, new) = (
            entry_location(&old_directory, old_name),
            entry_location(&new_directory, new_name),
        );
        let mut table = self.table();
        if let Some(replaced) = replaced {
            if flags & libc::RENAME_EXCHANGE != 0 {
                table.set_name(replaced, old);
            } else {
                table.remove_name(replaced, &new);
            }
        }
        if let Some(moved) = moved {
            table.set_name(moved, new);
        }
        Ok(())
    }

    fn link(
        &self,
        context: Context,
        inode: u64,
        new_parent: u64,
        new_name: &CStr,
    ) -> io::Result<Entry> {
        self.check_new_name(new_parent, new_name)?;
        let directory = self.pin_for_change(context, new_parent)?;
        if let Some(file) = self.anonymous.file(inode) {
            self.with_directory(context, directory.inner_inode, |directory| {
                anonymous::link(&file, directory, new_name)
            })?;
            return self.look_up(context, &directory, new_name);
        }
        let file = self.pin_on_host(context, inode)?;
        let validity = self.validity(context, &directory);
        let entry = self
            .inner
            .link(context, file.inner_inode, directory.inner_inode, new_name)?;
        self.created_entry(context, &directory, new_name, entry, validity)
    }

    fn open(
        &self,
        context: Context,
        inode: u64,
        kill_privileges: bool,
        flags: u32,
    ) -> io::Result<(Option<u64>, OpenOptions)> {
        if let Some(file) = self.anonymous.file(inode) {
            let handle = self.anonymous.open(&file, flags)?;
            return Ok((Some(handle), OpenOptions::empty()));
        }
        let file = self.pin_on_host(context, inode)?;
        self.check_path(context, &file)?;
        let (handle, mut options) =
            self.inner
                .open(context, file.inner_inode, kill_privileges, flags)?;
        if let Some(handle) = handle {
            match self.check_opened(context, &file, handle, flags) {
                Ok(further) => options |= further,
                Err(error) => {
                    let inner_inode = file.inner_inode;
                    self.close_handle(context, inner_inode, handle, || {
                        self.inner
                            .release(context, inner_inode, flags, handle, false, false, None)
                    })?;
                    return Err(error);
                }
            }
        }
        self.opened(file.guest_inode, handle);
        Ok((handle, options))
    }

    fn create(
        &self,
        context: Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        kill_privileges: bool,
        flags: u32,
        umask: u32,
        extensions: Extensions,
    ) -> io::Result<(Entry, Option<u64>, OpenOptions)> {
        self.check_new_name(parent, name)?;
        let (context, extensions) = self.as_creator(context, extensions);
        let directory = self.pin_for_change(context, parent)?;
        let validity = self.validity(context, &directory);
        let (entry, handle, options) = self.inner.create(
            context,
            directory.inner_inode,
            name,
            mode,
            kill_privileges,
            flags,
            umask,
            extensions,
        )?;
        let inner_inode = entry.inode;
        let mut options = options | self.closing_options(context, directory.guest_inode);
        if let Some(handle) = handle {
            let size = entry.attr.size;
            let is_database = self.probe(context, inner_inode, handle, |file| {
                Ok(is_database(file, Some(name), size))
            });
            if is_database? {
                options |= OpenOptions::DIRECT_IO;
            }
        }
        match self.to_guest_entry(context, &directory, name, entry, validity) {
            Ok(Some(entry)) => {
                self.opened(GuestInode(entry.inode), handle);
                Ok((entry, handle, options))
            }
            other => {
                if let Some(handle) = handle {
                    self.close_handle(context, inner_inode, handle, || {
                        self.inner
                            .release(context, inner_inode, flags, handle, false, false, None)
                    })?;
                }
                Err(other.err().unwrap_or_else(stale_handle))
            }
        }
    }

    fn read<W: ZeroCopyWriter>(
        &self,
        context: Context,
        inode: u64,
        handle: u64,
        mut to: W,
        size: u32,
        offset: u64,
        lock_owner: Option<u64>,
        flags: u32,
    ) -> io::Result<usize> {
        if handle & HANDLE_BIT != 0 {
            let file = self.anonymous.handle(handle)?;
            return to.read_from_file_at(&file, size as usize, offset, None);
        }
        let file = self.pin_on_host(context, inode)?;
        self.inner.read(
            context,
            file.inner_inode,
            handle,
            to,
            size,
            offset,
            lock_owner,
            flags,
        )
    }

    fn write<R: ZeroCopyReader>(
        &self,
        context: Context,
        inode: u64,
        handle: u64,
        mut from: R,
        size: u32,
        offset: u64,
        lock_owner: Option<u64>,
        delayed: bool,
        kill_privileges: bool,
        flags: u32,
    ) -> io::Result<usize> {
        if handle & HANDLE_BIT != 0 {
            let file = self.anonymous.handle(handle)?;
            let appends = !delayed && flags & libc::O_APPEND as u32 != 0;
            let flags = appends.then_some(WritevFlags::RWF_APPEND);
            return from.write_to_file_at(&file, size as usize, offset, flags);
        }
        let file = self.pin_on_host(context, inode)?;
        let written = self.inner.write(
            context,
            file.inner_inode,
            handle,
            from,
            size,
            offset,
            lock_owner,
            delayed,
            kill_privileges,
            flags,
        );
        self.table().forget_attributes(file.guest_inode);
        written
    }

    fn release(
        &self,
        context: Context,
        inode: u64,
        flags: u32,
        handle: u64,
        flush: bool,
        unlock: bool,
        lock_owner: Option<u64>,
    ) -> io::Result<()> {
        if handle & HANDLE_BIT != 0 {
            let result = self.anonymous.release(handle);
            self.locks.release_ends(inode, handle);
            return result;
        }
        if handle == REPLAY_HANDLE {
            self.locks.release_ends(inode, handle);
            return Ok(());
        }
        let file = self.pin_on_host(context, inode)?;
        let inner_inode = file.inner_inode;
        let result = self.close_handle(context, inner_inode, handle, || {
            self.inner.release(
                context,
                inner_inode,
                flags,
                handle,
                flush,
                unlock,
                lock_owner,
            )
        });
        self.locks.release_ends(inode, handle);
        result?;
        self.closed(context, file.guest_inode, handle);
        Ok(())
    }

    fn opendir(
        &self,
        context: Context,
        inode: u64,
        flags: u32,
    ) -> io::Result<(Option<u64>, OpenOptions)> {
        let directory = match self.locate(context, inode)? {
            Located::Host(directory) => directory,
            Located::Empty(_) => return Ok((Some(HANDLE), OpenOptions::empty())),
        };
        let validity = self.validity(context, &directory);
        let open = move |inner: &F, inode| inner.opendir(context, inode, flags);
        let close = move |inner: &F, inode, (handle, _): (Option<u64>, OpenOptions)| {
            if let Some(handle) = handle {
                let _ = inner.releasedir(context, inode, flags, handle);
            }
        };
        let (handle, mut options) = self.at_mount(&directory, open, close)?;
        self.opened(directory.guest_inode, handle);
        if validity > SHORT_VALIDITY {
            options |= OpenOptions::CACHE_DIR;
            if self.expiry.keeps_listing(directory.guest_inode) {
                options |= OpenOptions::KEEP_CACHE;
            }
        }
        Ok((handle, options))
    }

    fn releasedir(&self, context: Context, inode: u64, flags: u32, handle: u64) -> io::Result<()> {
        if handle == HANDLE {
            return Ok(());
        }
        let directory = self.pin_on_host(context, inode)?;
        let inner_inode = directory.inner_inode;
        self.close_handle(context, inner_inode, handle, || {
            self.inner.releasedir(context, inner_inode, flags, handle)
        })?;
        self.closed(context, directory.guest_inode, handle);
        Ok(())
    }

    fn copyfilerange(
        &self,
        context: Context,
        inode_in: u64,
        handle_in: u64,
        offset_in: u64,
        inode_out: u64,
        handle_out: u64,
        offset_out: u64,
        length: u64,
        flags: u64,
    ) -> io::Result<usize> {
        if (handle_in | handle_out) & HANDLE_BIT != 0 {
            return self.with_handle(context, inode_in, handle_in, |from| {
                self.with_handle(context, inode_out, handle_out, |to| {
                    anonymous::copy(from, offset_in, to, offset_out, length)
                })
            });
        }
        let from = self.pin_on_host(context, inode_in)?;
        let to = self.pin_on_host(context, inode_out)?;
        let copied = self.inner.copyfilerange(
            context,
            from.inner_inode,
            handle_in,
            offset_in,
            to.inner_inode,
            handle_out,
            offset_out,
            length,
            flags,
        );
        self.table().forget_attributes(to.guest_inode);
        copied
    }

    fn getlk(&self) -> io::Result<()> {
        self.inner.getlk()
    }

    fn setlk(&self) -> io::Result<()> {
        self.inner.setlk()
    }

    fn setlkw(&self) -> io::Result<()> {
        self.inner.setlkw()
    }

    fn ioctl(&self) -> io::Result<()> {
        self.inner.ioctl()
    }

    fn bmap(&self) -> io::Result<()> {
        self.inner.bmap()
    }

    fn poll(&self) -> io::Result<()> {
        self.inner.poll()
    }

    fn notify_reply(&self) -> io::Result<()> {
        self.inner.notify_reply()
    }

    fn tmpfile(&self) -> io::Result<(Entry, Option<u64>, OpenOptions)> {
        self.inner.tmpfile()
    }
}

/// Returns an entry without a file: in a listing, of a name that the guest is to look up when it
/// needs more; else of a name that does not exist.
fn name_only() -> Entry {
    Entry {
        inode: 0,
        generation: 0,
        attr: fuse::Attr::default(),
        attr_timeout: Duration::ZERO,
        entry_timeout: Duration::ZERO,
    }
}
