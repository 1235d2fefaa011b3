use std::{ffi::CStr, io, time::Duration};

use virtiofsd::{
    filesystem::{
        Context, Entry, Extensions, FileSystem, FsOptions, GetxattrReply, ListxattrReply,
        OpenOptions, SerializableFileSystem, SetattrValid, SetxattrFlags, ZeroCopyReader,
        ZeroCopyWriter,
    },
    fuse,
};

use crate::{
    bounded::{Bounded, Used, check_name, place, stale},
    table::Outer,
};

/// Requests about one file that only need its number translated.
macro_rules! about_a_file {
    ($(fn $request:ident($($argument:ident: $type:ty),*) -> $answer:ty;)*) => {
        $(
            fn $request(
                &self,
                context: Context,
                inode: u64,
                $($argument: $type),*
            ) -> io::Result<$answer> {
                let file = self.used(context, inode)?;
                self.below.$request(context, file.inner, $($argument),*)
            }
        )*
    };
}

impl<F: FileSystem<Inode = u64, Handle = u64>> Bounded<F> {
    /// Notes that the guest has the file open, if it has.
    fn opened(&self, outer: Outer, handle: Option<u64>) {
        if handle.is_some() {
            self.table().opened(outer);
        }
    }

    fn closed(&self, context: Context, outer: Outer) {
        let unknown = self.table().closed(outer);
        self.close(context, unknown);
    }

    /// The answer for a name that was just made.
    fn made(
        &self,
        context: Context,
        directory: &Used<'_, F>,
        name: &CStr,
        entry: Entry,
    ) -> io::Result<Entry> {
        match self.told(context, directory, name, entry)? {
            Some(entry) => Ok(entry),
            None => self.look_up(context, directory, name),
        }
    }

    /// Removes a name, with what is to be done below.
    fn remove(
        &self,
        context: Context,
        parent: u64,
        name: &CStr,
        below: impl FnOnce(u64) -> io::Result<()>,
    ) -> io::Result<()> {
        check_name(name)?;
        let directory = self.used(context, parent)?;
        let removed = self.named(context, &directory, name);
        below(directory.inner)?;
        if let Some(removed) = removed {
            let place = place(&directory, name);
            self.table().name_removed(removed.outer, &place);
        }
        Ok(())
    }
}

impl<F: FileSystem<Inode = u64, Handle = u64>> FileSystem for Bounded<F> {
    type Inode = u64;
    type Handle = u64;
    type DirIter = F::DirIter;

    fn init(&self, capable: FsOptions) -> io::Result<FsOptions> {
        self.clear();
        self.below.init(capable)
    }

    fn destroy(&self) {
        self.clear();
        self.below.destroy();
    }

    fn lookup(&self, context: Context, parent: u64, name: &CStr) -> io::Result<Entry> {
        check_name(name)?;
        let directory = self.used(context, parent)?;
        self.look_up(context, &directory, name)
    }

    fn forget(&self, context: Context, inode: u64, count: u64) {
        let closed = self.table().forgotten(Outer(inode), count);
        self.close(context, closed);
    }

    about_a_file! {
        fn getattr(handle: Option<u64>) -> (fuse::Attr, Duration);
        fn setattr(
            attributes: fuse::SetattrIn,
            handle: Option<u64>,
            valid: SetattrValid
        ) -> (fuse::Attr, Duration);
        fn readlink() -> Vec<u8>;
        fn flush(handle: u64, lock_owner: u64) -> ();
        fn fsync(data_only: bool, handle: u64) -> ();
        fn fallocate(handle: u64, mode: u32, offset: u64, length: u64) -> ();
        fn statfs() -> libc::statvfs64;
        fn setxattr(name: &CStr, value: &[u8], flags: u32, extra_flags: SetxattrFlags) -> ();
        fn getxattr(name: &CStr, size: u32) -> GetxattrReply;
        fn listxattr(size: u32) -> ListxattrReply;
        fn removexattr(name: &CStr) -> ();
        fn readdir(handle: u64, size: u32, offset: u64) -> Self::DirIter;
        fn fsyncdir(data_only: bool, handle: u64) -> ();
        fn access(mask: u32) -> ();
        fn lseek(handle: u64, offset: u64, whence: u32) -> u64;
        fn syncfs() -> ();
    }

    fn symlink(
        &self,
        context: Context,
        target: &CStr,
        parent: u64,
        name: &CStr,
        extensions: Extensions,
    ) -> io::Result<Entry> {
        check_name(name)?;
        let directory = self.used(context, parent)?;
        let entry = self
            .below
            .symlink(context, target, directory.inner, name, extensions)?;
        self.made(context, &directory, name, entry)
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
        check_name(name)?;
        let directory = self.used(context, parent)?;
        let entry = self.below.mknod(
            context,
            directory.inner,
            name,
            mode,
            device,
            umask,
            extensions,
        )?;
        self.made(context, &directory, name, entry)
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
        check_name(name)?;
        let directory = self.used(context, parent)?;
        let entry = self
            .below
            .mkdir(context, directory.inner, name, mode, umask, extensions)?;
        self.made(context, &directory, name, entry)
    }

    fn unlink(&self, context: Context, parent: u64, name: &CStr) -> io::Result<()> {
        self.remove(context, parent, name, |directory| {
            self.below.unlink(context, directory, name)
        })
    }

    fn rmdir(&self, context: Context, parent: u64, name: &CStr) -> io::Result<()> {
        self.remove(context, parent, name, |directory| {
            self.below.rmdir(context, directory, name)
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
        let old_directory = self.used(context, old_parent)?;
        let new_directory = self.used(context, new_parent)?;
        let moved = self.named(context, &old_directory, old_name);
        let replaced = self.named(context, &new_directory, new_name);
        self.below.rename(
            context,
            old_directory.inner,
            old_name,
            new_directory.inner,
            new_name,
            flags,
        )?;
        let moved = moved.as_ref().map(|file| file.outer);
        let replaced = replaced.as_ref().map(|file| file.outer);
        if moved == replaced {
            // Two names of one file: a rename leaves both.
            return Ok(());
        }
        let (old, new) = (
            place(&old_directory, old_name),
            place(&new_directory, new_name),
        );
        let mut table = self.table();
        if let Some(replaced) = replaced {
            if flags & libc::RENAME_EXCHANGE != 0 {
                table.moved(replaced, old);
            } else {
                table.name_removed(replaced, &new);
            }
        }
        if let Some(moved) = moved {
            table.moved(moved, new);
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
        check_name(new_name)?;
        let file = self.used(context, inode)?;
        let directory = self.used(context, new_parent)?;
        let entry = self
            .below
            .link(context, file.inner, directory.inner, new_name)?;
        self.made(context, &directory, new_name, entry)
    }

    fn open(
        &self,
        context: Context,
        inode: u64,
        kill_privileges: bool,
        flags: u32,
    ) -> io::Result<(Option<u64>, OpenOptions)> {
        let file = self.used(context, inode)?;
        let (handle, options) = self
            .below
            .open(context, file.inner, kill_privileges, flags)?;
        self.opened(file.outer, handle);
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
        check_name(name)?;
        let directory = self.used(context, parent)?;
        let (entry, handle, options) = self.below.create(
            context,
            directory.inner,
            name,
            mode,
            kill_privileges,
            flags,
            umask,
            extensions,
        )?;
        let inner = entry.inode;
        match self.told(context, &directory, name, entry) {
            Ok(Some(entry)) => {
                self.opened(Outer(entry.inode), handle);
                Ok((entry, handle, options))
            }
            other => {
                if let Some(handle) = handle {
                    self.below
                        .release(context, inner, flags, handle, false, false, None)?;
                }
                Err(other.err().unwrap_or_else(stale))
            }
        }
    }

    fn read<W: ZeroCopyWriter>(
        &self,
        context: Context,
        inode: u64,
        handle: u64,
        to: W,
        size: u32,
        offset: u64,
        lock_owner: Option<u64>,
        flags: u32,
    ) -> io::Result<usize> {
        let file = self.used(context, inode)?;
        self.below.read(
            context, file.inner, handle, to, size, offset, lock_owner, flags,
        )
    }

    fn write<R: ZeroCopyReader>(
        &self,
        context: Context,
        inode: u64,
        handle: u64,
        from: R,
        size: u32,
        offset: u64,
        lock_owner: Option<u64>,
        delayed: bool,
        kill_privileges: bool,
        flags: u32,
    ) -> io::Result<usize> {
        let file = self.used(context, inode)?;
        self.below.write(
            context,
            file.inner,
            handle,
            from,
            size,
            offset,
            lock_owner,
            delayed,
            kill_privileges,
            flags,
        )
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
        let file = self.used(context, inode)?;
        self.below.release(
            context, file.inner, flags, handle, flush, unlock, lock_owner,
        )?;
        self.closed(context, file.outer);
        Ok(())
    }

    fn opendir(
        &self,
        context: Context,
        inode: u64,
        flags: u32,
    ) -> io::Result<(Option<u64>, OpenOptions)> {
        let directory = self.used(context, inode)?;
        let (handle, options) = self.below.opendir(context, directory.inner, flags)?;
        self.opened(directory.outer, handle);
        Ok((handle, options))
    }

    fn releasedir(&self, context: Context, inode: u64, flags: u32, handle: u64) -> io::Result<()> {
        let directory = self.used(context, inode)?;
        self.below
            .releasedir(context, directory.inner, flags, handle)?;
        self.closed(context, directory.outer);
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
        let from = self.used(context, inode_in)?;
        let to = self.used(context, inode_out)?;
        self.below.copyfilerange(
            context, from.inner, handle_in, offset_in, to.inner, handle_out, offset_out, length,
            flags,
        )
    }

    fn getlk(&self) -> io::Result<()> {
        self.below.getlk()
    }

    fn setlk(&self) -> io::Result<()> {
        self.below.setlk()
    }

    fn setlkw(&self) -> io::Result<()> {
        self.below.setlkw()
    }

    fn ioctl(&self) -> io::Result<()> {
        self.below.ioctl()
    }

    fn bmap(&self) -> io::Result<()> {
        self.below.bmap()
    }

    fn poll(&self) -> io::Result<()> {
        self.below.poll()
    }

    fn notify_reply(&self) -> io::Result<()> {
        self.below.notify_reply()
    }

    fn tmpfile(&self) -> io::Result<(Entry, Option<u64>, OpenOptions)> {
        self.below.tmpfile()
    }
}

/// A running machine is not moved to another host: every attempt is refused.
impl<F> SerializableFileSystem for Bounded<F> {}
